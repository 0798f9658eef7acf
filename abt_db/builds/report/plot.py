"""The charts of a report, as SVG: they scale, print, and need no script.

Colours are classes that the page's style gives a meaning to; what they tell is told by shape or
place as well. Each chart has a title and a description for those who can't see it, each mark a
title that a browser shows under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from abt_db.builds.models import BuildStatus

from . import wording
from .figures import BuildMark, Figures, ProjectReport, Unit
from .markup import Html, joined, tag

__all__ = ["Span", "counts", "durations", "history", "rates", "share", "strip", "swatch"]

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 42, 6, 10, 24

_STATUS = {
    BuildStatus.SUCCESS: "ok",
    BuildStatus.FAILED: "bad",
    BuildStatus.CANCELLED: "off",
    BuildStatus.RUNNING: "now",
    BuildStatus.PENDING: "now",
}


# -- scales --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a report is about, divided into parts; it is the same in all its charts."""

    begin: datetime
    end: datetime
    unit: Unit

    @classmethod
    def of(cls, unit: Unit, first: datetime, last: datetime) -> Span:
        """The whole parts from that of `first` to that of `last`."""
        return cls(unit.begin(first), _next(unit.begin(last), unit), unit)

    def x(self, moment: datetime, left: float = LEFT, right: float = WIDTH - RIGHT) -> float:
        share = (moment - self.begin) / (self.end - self.begin)
        return left + (right - left) * min(max(share, 0), 1)

    def part(self, figures: Figures) -> tuple[datetime, datetime]:
        """When a part begins and ends."""
        text = figures.part or ""
        whole = text + "0001-01-01T00:00:00"[len(text) :] + "+00:00"
        begin = datetime.fromisoformat(whole)
        return begin, _next(begin, self.unit)

    def named(self, figures: Figures) -> str:
        """A part, as a person says it."""
        begin, _ = self.part(figures)
        match self.unit:
            case Unit.HOUR:
                return wording.minute(begin)
            case Unit.DAY:
                return wording.day(begin)
            case Unit.WEEK:
                return f"week of {wording.day(begin)}"
            case Unit.MONTH:
                return f"{wording.month(begin)} {begin.year}"
        return str(begin.year)

    def ticks(self, most: int = 4) -> list[tuple[datetime, str]]:
        """Beginnings of years, months, days or hours, and what stands below them."""
        for step in _STEPS:
            ticks: list[datetime] = []
            for moment in self._every(*step):
                ticks.append(moment)
                if len(ticks) > most:
                    break
            else:
                if len(ticks) > 1:
                    return [(at, _tick(at, step[0], first=at == ticks[0])) for at in ticks]
        return [(self.begin, wording.day(self.begin))]

    def _every(self, unit: Unit, step: int) -> Iterator[datetime]:
        moment = unit.begin(self.begin)
        while moment < self.end:
            number = {
                Unit.HOUR: moment.hour,
                Unit.DAY: moment.day - 1,
                Unit.MONTH: moment.month - 1,
                Unit.YEAR: moment.year,
            }[unit]
            # No 29th and 31st: they would stand beside the 1st.
            if number % step == 0 and moment >= self.begin and (step == 1 or number < 28):
                yield moment
            following = _next(moment, unit)
            if following <= moment:
                return
            moment = following


_STEPS = [
    *((Unit.HOUR, step) for step in (1, 2, 3, 6, 12)),
    *((Unit.DAY, step) for step in (1, 2, 7, 14)),
    *((Unit.MONTH, step) for step in (1, 2, 3, 4, 6)),
    *((Unit.YEAR, step) for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)),
]


def _next(begin: datetime, unit: Unit) -> datetime:
    """When the next part begins; the end of all time for the last one."""
    try:
        match unit:
            case Unit.HOUR:
                return begin + timedelta(hours=1)
            case Unit.DAY:
                return begin + timedelta(days=1)
            case Unit.WEEK:
                return begin + timedelta(days=7)
            case Unit.MONTH:
                return unit.begin(begin + timedelta(days=31))
        return begin.replace(year=begin.year + 1)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=begin.tzinfo)


def _tick(at: datetime, unit: Unit, *, first: bool) -> str:
    if unit is Unit.HOUR and at.hour:
        return f"{at:%H:%M}"
    if unit is Unit.YEAR:
        return str(at.year)
    if unit is Unit.MONTH:
        if at.month == 1:
            return str(at.year)
        return f"{wording.month(at)} {at.year}" if first else wording.month(at)
    return f"{at.day} {wording.month(at)}"


_DURATIONS = [
    *(number * second for second in (0.1, 1.0) for number in (1, 2, 5)),
    *(number * minute for minute in (1.0, 60.0) for number in (10, 15, 30)),
    *(number * minute for minute in (60.0, 3600.0) for number in (1, 2, 5, 10, 20)),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Height:
    """A vertical scale from `low` to `high`, and where it has lines."""

    low: float
    high: float
    lines: tuple[float, ...]
    top: float
    bottom: float

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)

    @classmethod
    def up_to(
        cls, most: float, steps: Iterable[float], top: float, bottom: float, lines: int = 4
    ) -> _Height:
        """From 0 to the first line that is not below `most`."""
        step = next((step for step in steps if step * lines >= most), most / lines)
        number = max(math.ceil(most / step), 1)
        return cls(0, step * number, tuple(step * i for i in range(number + 1)), top, bottom)


def _counts() -> Iterator[float]:
    power = 1.0
    while True:
        yield from (power, power * 2, power * 5)
        power *= 10


def _durations() -> Iterator[float]:
    yield from sorted(set(_DURATIONS))
    yield from (3600 * hours for hours in _counts() if hours > 20)


# -- the charts over all -------------------------------------------------------------------------


def counts(span: Span, parts: Sequence[Figures]) -> Html:
    """Builds by part of the time, stacked by how they ended."""
    most = max((part.builds for part in parts), default=1)
    height = _Height.up_to(most, _counts(), TOP, HEIGHT - BOTTOM)
    bars = []
    for part in parts:
        begin, end = span.part(part)
        left, width = _bar(span.x(begin), span.x(end))
        stacked, below = [], 0
        for number, kind in (
            (part.succeeded, "ok"),
            (part.failed, "bad"),
            (part.cancelled, "off"),
            (part.running + part.pending, "now"),
        ):
            if number:
                stacked.append(_rect(left, width, height.y(below + number), height.y(below), kind))
                below += number
        bars.append(tag("g", tag("title", f"{span.named(part)}: {_told(part)}"), *stacked))
    return _chart(
        f"Builds per {span.unit}",
        f"{wording.plural(len(parts), span.unit)} with builds, at most {most:,} in one.",
        _grid(height, lambda value: wording.count(round(value))),
        *bars,
        _times(span, HEIGHT),
    )


def rates(span: Span, parts: Sequence[Figures]) -> Html:
    """Success rate by part of the time; the scale begins where there is something to see."""
    found = [(part, rate) for part in parts if (rate := part.success_rate) is not None]
    lowest = min((rate for _, rate in found), default=0.0)
    low = math.floor(lowest * 4 - 1e-9) / 4 if lowest > 0 else 0.0
    step = 0.25 if low < 0.5 else 0.125 if low < 0.75 else 0.05
    lines = tuple(low + step * i for i in range(round((1 - low) / step) + 1))
    height = _Height(low, 1, lines, TOP, HEIGHT - BOTTOM)
    dots = [
        tag(
            "circle",
            tag("title", f"{span.named(part)}: {wording.percent(rate)} of {_told(part)}"),
            cx=_at(_middle(span, part)),
            cy=_at(height.y(rate)),
            r=3,
            class_="ok",
        )
        for part, rate in found
    ]
    return _chart(
        f"Success rate per {span.unit}",
        f"Between {wording.percent(lowest)} and"
        f" {wording.percent(max((rate for _, rate in found), default=0.0))}.",
        _grid(height, lambda value: f"{value * 100:g} %"),
        _line(span, found, height, "ok"),
        *dots,
        _times(span, HEIGHT),
    )


def durations(span: Span, parts: Sequence[Figures]) -> Html:
    """Median and 95th percentile of the durations, by part of the time."""
    middle = [(part, part.median) for part in parts if part.median is not None]
    slow = [(part, part.p95) for part in parts if part.p95 is not None]
    most = max((value for _, value in slow), default=1.0)
    height = _Height.up_to(most, _durations(), TOP, HEIGHT - BOTTOM)
    dots = [
        tag(
            "circle",
            tag("title", f"{span.named(part)}: {what} {wording.duration(value)}"),
            cx=_at(_middle(span, part)),
            cy=_at(height.y(value)),
            r=radius,
            class_=kind,
        )
        for what, points, radius, kind in (
            ("95 % within", slow, 2, "off"),
            ("median", middle, 3, "ok"),
        )
        for part, value in points
    ]
    return _chart(
        f"Duration per {span.unit}",
        f"The median is at most"
        f" {wording.duration(max((value for _, value in middle), default=None))},"
        f" the 95th percentile {wording.duration(most if slow else None)}.",
        _grid(height, _length(height)),
        _line(span, slow, height, "off"),
        _line(span, middle, height, "ok"),
        *dots,
        _times(span, HEIGHT),
    )


# -- of one project ------------------------------------------------------------------------------

RATES, GAP, DOTS = 26, 20, 104


def history(span: Span, each: ProjectReport) -> Html:
    """A project over time: above, how many succeeded; below, each build by its duration."""
    figures, builds = each.figures, each.last_builds
    bottom = TOP + RATES + GAP + DOTS
    most = max((build.seconds for build in builds if build.seconds), default=1.0)
    height = _Height.up_to(most, _durations(), TOP + RATES + GAP, bottom, lines=3)
    bars = []
    for part in each.parts:
        if (rate := part.success_rate) is None:
            continue
        begin, end = span.part(part)
        left, width = _bar(span.x(begin), span.x(end))
        border = TOP + RATES * (1 - rate)
        bars.append(
            tag(
                "g",
                tag("title", f"{span.named(part)}: {wording.percent(rate)} of {_told(part)}"),
                _rect(left, width, TOP, border, "bad") if rate < 1 else None,
                _rect(left, width, border, TOP + RATES, "ok") if rate > 0 else None,
            )
        )
    return _chart(
        f"{each.project.name}: success rate and durations",
        f"{wording.plural(len(builds), 'build')}, the longest took {wording.duration(most)}.",
        *(
            joined(
                [
                    _rule(y, "base" if label == "0 %" else "grid"),
                    _label(LEFT - 6, y + 3.5, label, "end"),
                ]
            )
            for y, label in ((TOP, "100 %"), (TOP + RATES, "0 %"))
        ),
        *bars,
        _grid(height, _length(height)),
        None if figures.median is None else _rule(height.y(figures.median), "median"),
        *(_mark(span, build, height) for build in builds),
        _times(span, bottom + BOTTOM),
        height=bottom + BOTTOM,
    )


def _mark(span: Span, build: BuildMark, height: _Height) -> Html:
    """A build: a dot if it went well, a cross if it failed, a ring if neither (yet)."""
    x, y = span.x(build.at), height.y(build.seconds or 0)
    title = tag("title", _one(build))
    kind = _STATUS[build.status]
    if build.status is BuildStatus.FAILED:
        return tag(
            "path",
            title,
            d=f"M{_at(x - 3)} {_at(y - 3)}l6 6m0-6l-6 6",
            class_="cross",
        )
    ring = "" if build.status is BuildStatus.SUCCESS else " ring"
    return tag("circle", title, cx=_at(x), cy=_at(y), r=3, class_=kind + ring)


def strip(builds: Sequence[BuildMark], most: int = 24) -> Html:
    """The last builds as bars side by side, as high as they took long; the newest on the right."""
    width, tall, step = most * 5 - 1, 22, 5
    shown = builds[-most:]
    longest = max((build.seconds for build in shown if build.seconds), default=1.0)
    bars = []
    for place, build in enumerate(shown, most - len(shown)):
        high = max((build.seconds or 0) / longest * tall, 3)
        bars.append(
            tag(
                "rect",
                tag("title", _one(build)),
                x=place * step,
                y=_at(tall - high),
                width=step - 1,
                height=_at(high),
                class_=_STATUS[build.status],
            )
        )
    failed = sum(build.status is BuildStatus.FAILED for build in shown)
    return tag(
        "svg",
        tag("title", f"The last {wording.plural(len(shown), 'build')}, {failed} failed"),
        *bars,
        viewBox=f"0 0 {width} {tall}",
        width=width,
        height=tall,
        role="img",
        class_="strip",
    )


def share(*parts: tuple[float, str]) -> Html:
    """Shares of a whole, each with its class, side by side in one bar."""
    width, tall, x = 100, 6, 0.0
    rects = [tag("rect", x=0, y=0, width=width, height=tall, rx=1, class_="rest")]
    for part, kind in parts:
        rects.append(tag("rect", x=_at(x), y=0, width=_at(part * width), height=tall, class_=kind))
        x += part * width
    return tag(
        "svg",
        *rects,
        viewBox=f"0 0 {width} {tall}",
        preserveAspectRatio="none",
        class_="share",
        aria_hidden="true",
    )


def swatch(kind: str) -> Html:
    """What a mark looks like, for the key of a chart."""
    match kind:
        case "cross":
            mark = tag("path", d="M2 2l6 6m0-6l-6 6", class_=kind)
        case "dot":
            mark = tag("circle", cx=5, cy=5, r=3.5, class_="ok")
        case "median" | "curve ok" | "curve off":
            mark = tag("path", d="M0 5h14", class_=kind)
        case _:
            mark = tag("rect", x=0, y=0, width=10, height=10, rx=2, class_=kind)
    width = 14 if "M0 5h14" in mark else 10
    return tag("svg", mark, viewBox=f"0 0 {width} 10", width=width, height=10, aria_hidden="true")


# -- pieces --------------------------------------------------------------------------------------


def _chart(title: str, description: str, *content: Html | None, height: float = HEIGHT) -> Html:
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *content,
        viewBox=f"0 0 {WIDTH} {_at(height)}",
        role="img",
        class_="chart",
    )


def _grid(height: _Height, label: Callable[[float], str]) -> Html:
    return joined(
        joined(
            [
                _rule(height.y(value), "base" if value == height.low else "grid"),
                _label(LEFT - 6, height.y(value) + 3.5, label(value), "end"),
            ]
        )
        for value in height.lines
    )


def _times(span: Span, bottom: float) -> Html:
    """What stands below a chart: labels that neither overlap nor stick out."""
    labels, free = [], 0.0
    for at, label in span.ticks():
        x, half = span.x(at), len(label) * 3.0
        anchor = "start" if x - half < LEFT else "end" if x + half > WIDTH else "middle"
        left = {"start": x, "middle": x - half, "end": x - 2 * half}[anchor]
        labels.append(
            tag("line", x1=_at(x), x2=_at(x), y1=_at(bottom - BOTTOM), y2=_at(bottom - BOTTOM + 4),
                class_="base")
        )  # fmt: skip
        if left >= free:
            labels.append(_label(x, bottom - 7, label, anchor))
            free = left + 2 * half + 6
    return joined(labels)


def _rule(y: float, kind: str) -> Html:
    return tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_at(y), y2=_at(y), class_=kind)


def _label(x: float, y: float, label: str, anchor: str) -> Html:
    return tag("text", label, x=_at(x), y=_at(y), text_anchor=anchor)


def _line(
    span: Span, points: Sequence[tuple[Figures, float]], height: _Height, kind: str
) -> Html | None:
    """A line through parts of the time that follow each other; where one is missing it breaks."""
    path, until = [], None
    for part, value in points:
        begin, end = span.part(part)
        verb = "L" if begin == until else "M"
        path.append(f"{verb}{_at(_middle(span, part))} {_at(height.y(value))}")
        until = end
    return tag("path", d="".join(path), class_=f"curve {kind}") if path else None


def _middle(span: Span, part: Figures) -> float:
    begin, end = span.part(part)
    return (span.x(begin) + span.x(end)) / 2


def _bar(left: float, right: float) -> tuple[float, float]:
    """Where a bar for a part begins, and how wide it is."""
    width = min(max((right - left) * 0.78, 1), 30)
    return (left + right - width) / 2, width


def _rect(left: float, width: float, top: float, bottom: float, kind: str) -> Html:
    return tag(
        "rect",
        x=_at(left),
        y=_at(top),
        width=_at(width),
        height=_at(bottom - top),
        class_=kind,
    )


def _at(number: float) -> str:
    """A coordinate, to a tenth."""
    return f"{number:.1f}".removesuffix(".0")


def _length(height: _Height) -> Callable[[float], str]:
    """How the durations of a scale are written: all in the largest unit that leaves them whole."""
    step = height.lines[1]
    unit, length = next(
        (unit for unit in (("h", 3600), ("min", 60)) if step % unit[1] == 0), ("s", 1)
    )
    return lambda seconds: f"{seconds / length:,g} {unit}" if seconds else "0"


def _told(figures: Figures) -> str:
    """10 builds, 8 succeeded, 2 failed"""
    return ", ".join(
        [
            wording.plural(figures.builds, "build"),
            *(
                f"{number:,} {what}"
                for number, what in (
                    (figures.succeeded, "succeeded"),
                    (figures.failed, "failed"),
                    (figures.cancelled, "cancelled"),
                    (figures.running, "running"),
                    (figures.pending, "pending"),
                )
                if number
            ),
        ]
    )


def _one(build: BuildMark) -> str:
    took = f", {wording.duration(build.seconds)}" if build.seconds is not None else ""
    return f"#{build.build_number} {build.status}, {wording.minute(build.at)}{took}"
