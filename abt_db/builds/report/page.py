"""The page of a report, from its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from abt_db.builds.models import BuildStatus

from . import plot, wording
from .figures import BuildMark, Figures, ProjectReport, Report, SlowBuild
from .markup import Html, document, joined, tag
from .plot import Span
from .style import SCRIPT, STYLE

__all__ = ["render"]

_STATES = {
    BuildStatus.SUCCESS: ("ok", "✓ success"),
    BuildStatus.FAILED: ("bad", "✕ failed"),
    BuildStatus.CANCELLED: ("off", "○ cancelled"),
    BuildStatus.RUNNING: ("now", "○ running"),
    BuildStatus.PENDING: ("now", "○ pending"),
}


def render(report: Report) -> str:
    """Return the page as one HTML document, the same for the same report.

    It loads nothing, links nowhere but to itself, and shows what a log contains as text.
    """
    totals = report.totals
    size = ("size", "Size of the tables", _tables(report))
    if totals is None:
        sections = [("", "", _nothing(report)), size]
    else:
        first = report.since or totals.first_at
        span = Span.of(report.unit, first, max(first, totals.last_at))
        sections = [
            ("time", "Over time", _over_time(report, span)),
            ("projects", "Projects", _projects(report)),
            ("slow", "Slowest builds", _slowest(report)),
            ("flaky", "Flaky commits", _flaky(report)),
            ("errors", "Most frequent errors", _problems(report)),
            size,
            ("each", "Project by project", _details(report, span)),
        ]
    return document(
        f"Build report: {report.database}",
        _header(report, [(id, title) for id, title, _ in sections if id]),
        tag(
            "main",
            None if totals is None else _totals(report, totals),
            *(_section(id, title, content) for id, title, content in sections),
        ),
        tag(
            "footer",
            tag("p", f"Made by abt-db from {report.database}. All times are in UTC."),
        ),
        style=STYLE,
        script=SCRIPT,
    )


def _section(id: str, title: str, content: Html) -> Html:
    heading = tag("h2", title) if title else None
    return tag("section", heading, content, id=id or None)


# -- at the top ----------------------------------------------------------------------------------


def _header(report: Report, sections: Iterable[tuple[str, str]]) -> Html:
    totals, since = report.totals, report.since
    about = "some projects" if report.named else "all projects"
    if totals is None:
        when = "" if since is None else f" since {wording.day(since)}"
    else:
        first, last = wording.day(since or totals.first_at), wording.day(totals.last_at)
        when = f", {first}" if first == last else f", {first} – {last}"
    return tag(
        "header",
        tag("h1", "Build report"),
        tag(
            "p",
            _name(report.database),
            f" ({wording.size(report.file_size)}): {about}{when}. Made ",
            _time(report.now, wording.minute(report.now)),
            " UTC.",
        ),
        tag(
            "nav",
            tag("ul", *(tag("li", _link(id, title)) for id, title in sections)),
            aria_label="On this page",
        ),
    )


def _totals(report: Report, totals: Figures) -> Html:
    failing = sum(project.failing for project in report.projects)
    facts = [
        (wording.count(report.project_count), _word(report.project_count, "project")),
        (wording.count(totals.builds), _word(totals.builds, "build")),
        (wording.percent(totals.success_rate), "succeeded"),
        (wording.count(failing), f"{_word(failing, 'project')} failing now"),
        (wording.duration(totals.median), "median duration"),
        (wording.duration(totals.p95), "95 % within"),
        (wording.count(report.log_lines), "log lines"),
        (wording.count(totals.running), "running now"),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", what), tag("dd", figure)) for figure, what in facts),
        class_="totals",
    )


def _nothing(report: Report) -> Html:
    if report.since is None and not report.named:
        return tag(
            "p",
            "There are no builds yet. Record one: ",
            tag("code", "abt-db record --project NAME -- COMMAND …"),
        )
    return tag("p", "There are no builds in this choice of projects and time.")


# -- over all ------------------------------------------------------------------------------------


def _over_time(report: Report, span: Span) -> Html:
    parts, unit = report.parts, span.unit
    judged = any(part.success_rate is not None for part in parts)
    timed = any(part.median is not None for part in parts)
    return tag(
        "div",
        _card(f"Builds per {unit}", plot.counts(span, parts), _key(parts)),
        _card(
            f"Success rate per {unit}",
            plot.rates(span, parts),
            _legend([("curve ok", "succeeded, of those that succeeded or failed")]),
        )
        if judged
        else None,
        _card(
            f"Duration per {unit}",
            plot.durations(span, parts),
            _legend([("curve ok", "median"), ("curve off", "95 % within")]),
        )
        if timed
        else None,
        class_="cards close",
    )


def _card(title: str, *content: Html) -> Html:
    return tag("figure", tag("h3", title), *content, class_="card")


def _key(parts: Iterable[Figures]) -> Html:
    kinds = {"ok": "succeeded", "bad": "failed"}
    for part in parts:
        kinds |= {"off": "cancelled"} if part.cancelled else {}
        kinds |= {"now": "not ended"} if part.running + part.pending else {}
    return _legend(kinds.items())


def _legend(kinds: Iterable[tuple[str, str]]) -> Html:
    return tag(
        "ul",
        *(tag("li", plot.swatch(kind), what) for kind, what in kinds),
        class_="key",
    )


def _projects(report: Report) -> Html:
    # Those that need somebody come first, then those that were built last.
    shown = sorted(report.projects, key=lambda project: not project.failing)
    rows = []
    for each in shown:
        figures, last = each.figures, each.last_builds[-1]
        rows.append(
            tag(
                "tr",
                tag("th", _link(_anchor(each), _name(each.project.name)), scope="row"),
                tag("td", plot.strip(each.last_builds)),
                _number(wording.count(figures.builds), rank=figures.builds, less=True),
                _number(wording.percent(figures.success_rate), rank=figures.success_rate),
                _number(wording.duration(figures.median), rank=figures.median),
                _number(wording.duration(figures.p95), rank=figures.p95, less=True),
                tag("td", _state(last), class_="t less"),
                tag(
                    "td",
                    _time(last.at, wording.day(last.at)),
                    class_="t less",
                    data_value=int(last.at.timestamp()),
                ),
            )
        )
    return joined(
        [
            tag(
                "p",
                "Those whose last build failed first, then those built last. A bar is a build, as"
                " high as it took long.",
                class_="note",
            ),
            _table(
                [
                    ("project", "up"),
                    ("last builds", "n"),
                    ("builds", "n less down"),
                    ("success", "n down"),
                    ("median", "n down"),
                    ("95 % within", "n less down"),
                    ("last build", "less up"),
                    ("on", "less down"),
                ],
                rows,
                sorts=True,
            ),
            _left_out(report),
        ]
    )


def _left_out(report: Report) -> Html | None:
    told = []
    if more := report.project_count - len(report.projects):
        told.append(
            f"{wording.plural(more, 'more project')} built earlier: to see one, name it behind"
            " `abt-db report`."
        )
    if report.idle_count:
        names = ", ".join(_shortened(name) for name in report.idle)
        dots = ", …" if report.idle_count > len(report.idle) else "."
        told.append(
            f"{wording.plural(report.idle_count, 'project')} without a build: {names}{dots}"
        )
    return tag("p", " ".join(told), class_="note") if told else None


def _slowest(report: Report) -> Html:
    if not report.slowest:
        return tag("p", "No build has ended yet.", class_="note")
    medians = {each.project.id: each.figures.median for each in report.projects}
    longest = report.slowest[0].seconds
    rows = []
    for build in report.slowest:
        median = medians.get(build.project_id)
        rows.append(
            tag(
                "tr",
                tag("th", _name(build.project_name), f" #{build.build_number}", scope="row"),
                tag("td", _state(build), class_="t less"),
                tag("td", _time(build.at, wording.day(build.at)), class_="t less"),
                tag(
                    "td",
                    plot.share(
                        (build.seconds / longest if longest else 0, _STATES[build.status][0])
                    ),
                ),
                _number(wording.duration(build.seconds)),
                _number(f"{build.seconds / median:.1f} ×" if median else "–", less=True),
            )
        )
    return _table(
        [
            ("build", ""),
            ("status", "less"),
            ("on", "less"),
            ("", ""),
            ("duration", "n"),
            ("of its project's median", "n less"),
        ],
        rows,
    )


def _flaky(report: Report) -> Html:
    note = tag(
        "p",
        "The same commit both failed and succeeded: what failed was not, or not only, the source.",
        class_="note",
    )
    if not report.flaky:
        return tag("p", "No commit has both failed and succeeded.", class_="note")
    rows = [
        tag(
            "tr",
            tag("th", _name(commit.project_name), scope="row"),
            tag("td", tag("code", commit.commit_hash[:12])),
            _number(wording.count(commit.failed)),
            _number(wording.count(commit.succeeded)),
            tag("td", _time(commit.last_at, wording.day(commit.last_at)), class_="t less"),
        )
        for commit in report.flaky
    ]
    titles = [("project", ""), ("commit", ""), ("failed", "n"), ("succeeded", "n"),
              ("last build", "less")]  # fmt: skip
    return joined([note, _table(titles, rows)])


def _problems(report: Report) -> Html:
    if not report.problems:
        return tag("p", "No build has printed an error.", class_="note")
    most = max(problem.builds for problem in report.problems)
    rows = []
    for problem in report.problems:
        failed = problem.failed / most
        rows.append(
            tag(
                "tr",
                tag(
                    "td",
                    tag("code", problem.pattern, title=f"{problem.build}: {problem.example}"),
                ),
                tag(
                    "td",
                    plot.share((failed, "bad"), (problem.builds / most - failed, "off")),
                    class_="less",
                ),
                _number(wording.count(problem.builds)),
                _number(wording.count(problem.failed)),
                _number(wording.count(problem.lines), less=True),
            )
        )
    inexact = (
        "" if report.problems_exact else " There were too many to count all: at least so often."
    )
    return joined(
        [
            tag(
                "p",
                "By the number of builds that printed one. Lines that differ only in numbers, paths"
                f" and addresses (…) count as one; Gradle's headings are left out.{inexact}",
                class_="note",
            ),
            _table(
                [
                    ("error", ""),
                    ("", "less"),
                    ("builds", "n"),
                    ("failed", "n"),
                    ("lines", "n less"),
                ],
                rows,
            ),
        ]
    )


def _tables(report: Report) -> Html:
    if not report.tables:
        return tag(
            "p",
            f"The file has {wording.size(report.file_size)}, of which"
            f" {wording.size(report.free_size)} are free. This SQLite was built without dbstat,"
            " which tells the sizes of single tables.",
            class_="note",
        )
    whole = max(report.file_size, 1)
    rows = [
        tag(
            "tr",
            tag("th", _name(table.name), scope="row"),
            _number(wording.count(table.rows)),
            _number(wording.size(table.data), less=True),
            _number(wording.size(table.indexes), less=True),
            _number(wording.size(table.data + table.indexes)),
            tag("td", plot.share((table.data / whole, "ok"), (table.indexes / whole, "off"))),
        )
        for table in report.tables
    ]
    free = wording.size(report.free_size)
    return joined(
        [
            tag(
                "p",
                f"{wording.size(report.file_size)} in all, {free} of it free.",
                class_="note",
            ),
            _table(
                [
                    ("table", ""),
                    ("rows", "n"),
                    ("data", "n less"),
                    ("indexes", "n less"),
                    ("size", "n"),
                    ("share of the file", ""),
                ],
                rows,
            ),
            _legend([("ok", "data"), ("off", "indexes")]),
        ]
    )


# -- project by project --------------------------------------------------------------------------


def _details(report: Report, span: Span) -> Html:
    return joined(
        [
            tag(
                "p",
                f"Above, the success rate per {span.unit}; below, each of the last builds by its"
                " duration.",
                class_="note",
            ),
            _legend([("dot", "succeeded"), ("cross", "failed"), ("median", "median")]),
            tag(
                "div",
                *(
                    _detail(each, span)
                    for each in sorted(report.projects, key=lambda each: each.project.name)
                ),
                class_="cards",
            ),
        ]
    )


def _detail(each: ProjectReport, span: Span) -> Html:
    project, figures = each.project, each.figures
    facts = [
        (_word(figures.builds, "build"), wording.count(figures.builds)),
        ("succeeded", wording.percent(figures.success_rate)),
        ("median", wording.duration(figures.median)),
        ("longest", wording.duration(figures.longest)),
    ]
    return tag(
        "article",
        tag(
            "div",
            tag("h3", _name(project.name)),
            _state(each.last_builds[-1], brief=True),
            class_="head",
        ),
        tag(
            "dl",
            *(tag("div", tag("dt", what), tag("dd", figure)) for what, figure in facts),
            class_="facts",
        ),
        plot.history(span, each),
        tag(
            "p",
            f"{project.project_type} · {_shortened(project.branch)} · ",
            tag("span", _shortened(project.repository_url.removeprefix("https://")), class_="name"),
            class_="from",
        ),
        class_="card",
        id=_anchor(each),
    )


# -- pieces --------------------------------------------------------------------------------------


def _table(titles: Sequence[tuple[str, str]], rows: Iterable[Html], *, sorts: bool = False) -> Html:
    """A table. Each title comes with words about its column: n (numbers, to the right), less (left
    out on a phone), and up or down where it can be sorted: the order at first."""
    heads = []
    for title, words in titles:
        known = words.split()
        order = next((word for word in known if word in ("up", "down")), None)
        looks = " ".join(word for word in known if word != order)
        element = "th" if title else "td"
        heads.append(
            tag(
                element,
                title,
                scope="col" if title else None,
                class_=looks or None,
                data_sorts=order,
            )
        )
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *heads)),
            tag("tbody", *rows),
            class_="sorts" if sorts else None,
        ),
        class_="wide",
    )


def _number(shown: str, *, less: bool = False, rank: float | None = None) -> Html:
    """A number; in a table that sorts, `rank` is what it is sorted by, and – has none."""
    return tag("td", shown, class_="n less" if less else "n", data_value=rank)


def _state(build: BuildMark | SlowBuild, *, brief: bool = False) -> Html:
    """How a build has ended; briefly, only what is unusual has a word."""
    kind, words = _STATES[build.status]
    if brief and build.status is BuildStatus.SUCCESS:
        return tag("span", words[0], class_=f"state {kind}", role="img", aria_label=words[2:])
    return tag("span", words, class_=f"state {kind}")


def _name(name: str) -> Html:
    """A name, which a narrow column may break behind its dots, slashes and underscores."""
    pieces = []
    for character in _shortened(name):
        pieces.append(character)
        if character in "./_":
            pieces.append(tag("wbr"))
    return tag("span", joined(pieces), class_="name")


def _shortened(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _time(moment: datetime, shown: str) -> Html:
    return tag("time", shown, datetime=moment.isoformat(timespec="seconds"))


def _link(id: str, content: str) -> Html:
    return tag("a", content, href=f"#{id}")


def _anchor(each: ProjectReport) -> str:
    return f"project-{each.project.id}"


def _word(number: int, one: str) -> str:
    return one if number == 1 else f"{one}s"
