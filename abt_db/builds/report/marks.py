"""Small drawings in a text or a chart: builds, shares, and what a colour means."""

from __future__ import annotations

from collections.abc import Sequence

from abt_db.builds.models import BuildStatus

from . import wording
from .figures import BuildMark
from .markup import Html, tag

KINDS = {
    BuildStatus.SUCCESS: "ok",
    BuildStatus.FAILED: "bad",
    BuildStatus.CANCELLED: "off",
    BuildStatus.RUNNING: "now",
    BuildStatus.PENDING: "now",
}
"""The class that has the colour of a build."""


def at(number: float) -> str:
    """A coordinate, to a tenth."""
    return f"{number:.1f}".removesuffix(".0")


def mark(build: BuildMark, x: float, y: float) -> Html:
    """A build: a dot if it went well, a cross if it failed, a ring if neither (yet)."""
    title = tag("title", _told(build))
    if build.status is BuildStatus.FAILED:
        return tag("path", title, d=f"M{at(x - 3)} {at(y - 3)}l6 6m0-6l-6 6", class_="cross")
    kind = KINDS[build.status] + ("" if build.status is BuildStatus.SUCCESS else " ring")
    return tag("circle", title, cx=at(x), cy=at(y), r=3, class_=kind)


STEP, BUILDS, TALL = 5, 24, 22


def strip(builds: Sequence[BuildMark]) -> Html:
    """The last builds as bars side by side, as high as they took long; the newest on the right."""
    shown = builds[-BUILDS:]
    longest = max((build.seconds for build in shown if build.seconds), default=1.0)
    bars = []
    for place, build in enumerate(shown, BUILDS - len(shown)):
        high = max((build.seconds or 0) / longest * TALL, 3)
        bars.append(
            tag(
                "rect",
                tag("title", _told(build)),
                x=place * STEP,
                y=at(TALL - high),
                width=STEP - 1,
                height=at(high),
                class_=KINDS[build.status],
            )
        )
    failed = sum(build.status is BuildStatus.FAILED for build in shown)
    width = BUILDS * STEP - 1
    return tag(
        "svg",
        tag("title", f"The last {wording.plural(len(shown), 'build')}, {failed} failed"),
        *bars,
        viewBox=f"0 0 {width} {TALL}",
        width=width,
        height=TALL,
        role="img",
        class_="strip",
    )


def share(*parts: tuple[float, str]) -> Html:
    """Shares of a whole, from 0 to 1 and each with its class, side by side in one bar."""
    x, bars = 0.0, [tag("rect", width=100, height=6, class_="rest")]
    for part, kind in parts:
        bars.append(tag("rect", x=at(x), width=at(part * 100), height=6, class_=kind))
        x += part * 100
    return tag(
        "svg",
        *bars,
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        class_="share",
        aria_hidden="true",
    )


def swatch(kind: str) -> Html:
    """What stands for `kind` in a drawing, for its key."""
    width = 10
    match kind:
        case "cross":
            drawn = tag("path", d="M2 2l6 6m0-6l-6 6", class_=kind)
        case "dot":
            drawn = tag("circle", cx=5, cy=5, r=3.5, class_="ok")
        case "ring off" | "ring now":
            drawn = tag("circle", cx=5, cy=5, r=3.5, class_=kind)
        case "median" | "curve ok" | "curve off":
            width = 14
            drawn = tag("path", d="M0 5h14", class_=kind)
        case _:
            drawn = tag("rect", width=10, height=10, rx=2, class_=kind)
    return tag("svg", drawn, viewBox=f"0 0 {width} 10", width=width, height=10, aria_hidden="true")


def _told(build: BuildMark) -> str:
    took = f", {wording.duration(build.seconds)}" if build.seconds is not None else ""
    return f"#{build.build_number} {build.status}, {wording.minute(build.at)}{took}"
