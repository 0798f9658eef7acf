"""How a report looks, in light and dark, on a phone and on paper; and the script that sorts it."""

from __future__ import annotations

# Blue and vermilion can be told apart by everyone, in colour and in grey
# (https://jfly.uni-koeln.de/color/). A test holds the contrasts.
LIGHT = {
    "page": "#f6f5f1",
    "card": "#ffffff",
    "ink": "#1d2125",
    "soft": "#5a626b",
    "line": "#e2dfd8",
    "base": "#a9a69e",
    "ok": "#1f6fb2",
    "bad": "#c2410c",
    "off": "#868c94",
    "now": "#7a52b3",
}
DARK = {
    "page": "#15181b",
    "card": "#1d2125",
    "ink": "#e9e7e2",
    "soft": "#a3abb4",
    "line": "#30363d",
    "base": "#5c646d",
    "ok": "#5aa9e6",
    "bad": "#ff8a50",
    "off": "#7f8890",
    "now": "#b79bee",
}

_RULES = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
body>*{max-width:76rem;margin-inline:auto;padding-inline:clamp(1rem,3vw,2rem)}
h1,h2,h3,p,dl,dd,figure,ul{margin:0;padding:0}
h1{font-size:1.85rem;line-height:1.2;letter-spacing:-.02em;font-weight:650}
h2{font-size:1.2rem;letter-spacing:-.01em;font-weight:650}
h3{font-size:1rem;font-weight:600;overflow-wrap:anywhere}
a{color:inherit;text-decoration-color:var(--line);text-underline-offset:.2em}
a:hover{color:var(--ok);text-decoration-color:currentColor}
:focus-visible{scan:2px solid var(--ok);scan-offset:2px;border-radius:2px}
header{padding-block:2.5rem 1rem}
header p,.note{color:var(--soft)}
.note{max-width:85ch;margin-top:.25rem;font-size:.9rem}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;margin-top:1rem;
font-size:.9rem}
section{padding-block:1.75rem 0}
footer{padding-block:2.5rem;color:var(--soft);font-size:.85rem}
.totals{display:grid;grid-template-columns:repeat(4,1fr);gap:1px;background:var(--card);
border:1px solid var(--line);border-radius:10px;overflow:hidden}
.totals div{box-shadow:0 0 0 1px var(--line);padding:.9rem 1.1rem;
display:flex;flex-direction:column}
.totals dt{order:1;color:var(--soft);font-size:.85rem}
.totals dd{font-size:1.6rem;font-weight:600;letter-spacing:-.02em;line-height:1.25;
font-variant-numeric:tabular-nums;white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:1rem;
margin-top:1rem}
.close{grid-template-columns:repeat(auto-fill,minmax(min(100%,18.5rem),1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.1rem;
min-width:0}
.card>p{color:var(--soft);font-size:.82rem;margin-top:.35rem}
.head{display:flex;justify-content:space-between;align-items:baseline;gap:.75rem}
.state{white-space:nowrap;font-size:.85rem;font-weight:600}
.state.ok,.state.off{color:var(--soft);font-weight:400}.state.bad{color:var(--bad)}
.state.now{color:var(--now)}
.facts{display:flex;justify-content:space-between;gap:.2rem .8rem;flex-wrap:wrap;
margin:.6rem 0 .8rem}
.facts div{display:flex;flex-direction:column}
.facts dt{order:1;color:var(--soft);font-size:.78rem}
.facts dd{font-variant-numeric:tabular-nums;font-size:.95rem;font-weight:500}
.from{white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
svg{display:block}
.chart{width:100%;height:auto;margin-top:.5rem;overflow:visible}
text{fill:var(--soft);font-size:10.5px;font-variant-numeric:tabular-nums}
rect.ok,circle.ok{fill:var(--ok)}rect.bad,circle.bad{fill:var(--bad)}
rect.off,circle.off{fill:var(--off)}rect.now,circle.now{fill:var(--now)}
rect.rest{fill:var(--line)}
.grid{stroke:var(--line)}.median{stroke:var(--ok);stroke-opacity:.55;stroke-dasharray:4 3}
.base{stroke:var(--base)}
.curve{fill:none;stroke-width:1.6;stroke-linejoin:round}
.curve.ok{stroke:var(--ok)}.curve.off{stroke:var(--off);stroke-dasharray:3 2.5}
.cross{stroke:var(--bad);stroke-width:2;stroke-linecap:round;fill:none}
circle.ring{fill:var(--card);stroke-width:1.5}
circle.ring.off{stroke:var(--off)}circle.ring.now{stroke:var(--now)}
circle.ok:not(.ring){fill-opacity:.85}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin-top:.6rem;font-size:.85rem;
color:var(--soft);list-style:none}
.key li{display:flex;align-items:center;gap:.4rem}
.wide{background:var(--card);border:1px solid var(--line);border-radius:10px;margin-top:1rem;
overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{font-size:.8rem;font-weight:600;color:var(--soft);text-align:left;white-space:nowrap;
vertical-align:bottom}
th,td{padding:.45rem .7rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{padding-left:1.1rem}th:last-child,td:last-child{padding-right:1.1rem}
tbody tr:last-child>*{border-bottom:0}
tbody th{font-size:inherit;color:inherit;font-weight:500;white-space:normal}
tbody tr:hover{background:color-mix(in srgb,var(--line) 35%,transparent)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.t{white-space:nowrap;font-variant-numeric:tabular-nums}
.name{unicode-bidi:isolate;overflow-wrap:anywhere}
td .strip{margin-left:auto}
.share{width:7rem;max-width:18vw;height:6px;border-radius:3px}
.soft{color:var(--soft)}
code{font:.86em/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;
overflow-wrap:anywhere;unicode-bidi:isolate}
td>code{display:block}
[role=button]{cursor:pointer}
[role=button]::after{content:" ↕";opacity:.5}
[aria-sort=ascending]>::after{content:" ↑";opacity:1}
[aria-sort=descending]>::after{content:" ↓";opacity:1}
@media (min-width:40.01rem){tbody th{min-width:11rem}}
@media (max-width:40rem){
body{font-size:14px}
.wide:not(:has(.sorts)){padding-right:.4rem}
h1{font-size:1.5rem}
header{padding-block:1.5rem .75rem}
.less{display:none}
th,td{padding:.45rem .4rem}
th:first-child,td:first-child{padding-left:.8rem}th:last-child,td:last-child{padding-right:.8rem}
.totals{grid-template-columns:1fr 1fr}
.totals dd{font-size:1.3rem}
.totals div{padding:.7rem .8rem}
.card{padding:.8rem}
.sorts tr{display:grid;grid-template-columns:1fr 4.6rem 6.6rem;align-items:end;
border-bottom:1px solid var(--line)}
.sorts tbody tr:last-child{border-bottom:0}
.sorts th,.sorts td{border-bottom:0}
.sorts tr>:first-child{grid-column:1/-1;padding-bottom:0}
.sorts tr>:nth-child(2){padding-left:.8rem;text-align:left}
.sorts .strip{margin-left:0}
.sorts tr>:nth-child(5){padding-right:.8rem}
}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{
:root{--page:#fff}
@page{margin:14mm}
body{font-size:8.5pt}
body>*{max-width:none;padding-inline:0}
header{padding-block:0 .5rem}
nav,[role=button]::after{display:none}
h2,.note{break-after:avoid}
.card,tr,.totals{break-inside:avoid}
.totals dd{font-size:1.3rem}
.cards{grid-template-columns:repeat(3,1fr);gap:.5rem}
.card{padding:.6rem}
.facts{gap:.2rem .5rem}.facts dd,.facts dt{font-size:.72rem}
.from{white-space:normal}
th,td{padding:.25rem .45rem}
.wide{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""


def _colours(scheme: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{colour};" for name, colour in scheme.items()) + "}"


STYLE = (
    f"{_colours(LIGHT)}\n@media screen and (prefers-color-scheme:dark){{{_colours(DARK)}}}{_RULES}"
)

# Without it the table stands as it is. What sorts is a button to a keyboard and a screen reader,
# and no `button` element: those are left out where a printer repeats the head of a table.
SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    if (!head.dataset.sorts) continue;
    const value = row => {
      const cell = row.cells[column], told = cell.dataset.value;
      if (told) return Number(told);
      return cell.classList.contains("n") ? -1 : cell.textContent.toLowerCase();
    };
    const sort = () => {
      const before = head.ariaSort;
      const up = before ? before === "descending" : head.dataset.sorts === "up";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (one, two) => {
        const a = value(one), b = value(two);
        return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(order));
    };
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...head.childNodes);
    button.addEventListener("click", sort);
    button.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
    head.append(button);
  }
}
"""
