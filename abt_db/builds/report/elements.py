"""What the parts of the page are made of: tables, numbers, names, times and links."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from abt_db.builds.models import BuildStatus

from .figures import BuildMark, ProjectReport, SlowBuild
from .marks import KINDS, swatch
from .markup import Html, joined, tag

_SIGNS = {
    BuildStatus.SUCCESS: "✓",
    BuildStatus.FAILED: "✕",
    BuildStatus.CANCELLED: "○",
    BuildStatus.RUNNING: "○",
    BuildStatus.PENDING: "○",
}


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Html], *, sorts: bool = False) -> Html:
    """A table. Each column has a title and words about it: n (numbers, to the right), less (not on
    a phone), and in a table that sorts up or down, the order at first."""
    heads = []
    for title, words in columns:
        orders = [word for word in words.split() if word in ("up", "down")]
        looks = " ".join(word for word in words.split() if word not in orders)
        heads.append(
            tag(
                "th" if title else "td",
                title,
                scope="col" if title else None,
                class_=looks or None,
                data_sorts=orders[0] if orders else None,
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


def number(shown: str, *, less: bool = False, rank: float | None = None) -> Html:
    """A number; in a table that sorts, `rank` is what it is sorted by, and – has none."""
    return tag("td", shown, class_="n less" if less else "n", data_value=rank)


def state(build: BuildMark | SlowBuild, *, brief: bool = False) -> Html:
    """How a build has ended; briefly, only what is unusual has a word."""
    sign, word = _SIGNS[build.status], build.status.value
    looks = f"state {KINDS[build.status]}"
    if brief and build.status is BuildStatus.SUCCESS:
        return tag("span", sign, class_=looks, role="img", aria_label=word)
    return tag("span", f"{sign} {word}", class_=looks)


def name(name: str) -> Html:
    """A name, which a narrow column may break behind its dots, slashes and underscores."""
    pieces = []
    for character in shortened(name):
        pieces.append(character)
        if character in "./_":
            pieces.append(tag("wbr"))
    return tag("span", joined(pieces), class_="name")


def shortened(text: str, most: int = 120) -> str:
    """The beginning of a text that may be of any length."""
    return text if len(text) <= most else text[: most - 1] + "…"


def time(moment: datetime, shown: str) -> Html:
    """A time, for a reader and for a program."""
    return tag("time", shown, datetime=moment.isoformat(timespec="seconds"))


def link(id: str, content: str) -> Html:
    """A link to another place of the page; there are no others."""
    return tag("a", content, href=f"#{id}")


def anchor(each: ProjectReport) -> str:
    """Where a project stands in the page."""
    return f"project-{each.project.id}"


def legend(kinds: Iterable[tuple[str, str]]) -> Html:
    """What the marks of a chart mean: their kinds, each with its words."""
    return tag("ul", *(tag("li", swatch(kind), what) for kind, what in kinds), class_="key")
