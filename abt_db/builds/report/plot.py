"""The charts of a report, as SVG: they scale, print, and need no script.

Colours are classes that the page's style gives a meaning to; what they tell is told by shape or
place as well. Each chart has a title and a description for those who can't see it, each mark a
title that a browser shows under the pointer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import wording
from .figures import Figures, ProjectReport
from .marks import at, mark
from .markup import Html, joined, tag
from .scale import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, Height, Span

FOOT = HEIGHT - BOTTOM


def counts(span: Span, parts: Sequence[Figures]) -> Html:
    """Builds by part of the time, stacked by how they ended."""
    most = max(part.builds for part in parts)
    height = Height.of_counts(most)
    return _chart(
        f"Builds per {span.unit}",
        f"{wording.plural(len(parts), span.unit)} with builds, at most {most:,} in one.",
        _grid(height),
        *(
            _stack(
                span,
                part,
                f"{span.named(part)}: {_told(part)}",
                (part.succeeded, part.failed, part.cancelled, part.running + part.pending),
                height,
            )
            for part in parts
        ),
        _times(span, HEIGHT),
    )


def rates(span: Span, parts: Sequence[Figures]) -> Html:
    """Success rate by part of the time."""
    found = [(part, rate) for part in parts if (rate := part.success_rate) is not None]
    lowest = min(rate for _, rate in found)
    height = Height.of_rates(lowest)
    return _chart(
        f"Success rate per {span.unit}",
        f"Between {wording.percent(lowest)} and {wording.percent(max(rate for _, rate in found))}.",
        _grid(height),
        _curve(
            span,
            found,
            height,
            "ok",
            lambda part, rate: f"{wording.percent(rate)} of {_told(part)}",
        ),
        _times(span, HEIGHT),
    )


def durations(span: Span, parts: Sequence[Figures]) -> Html:
    """Median and 95th percentile of the durations, by part of the time."""
    middle = [(part, part.median) for part in parts if part.median is not None]
    slow = [(part, part.p95) for part in parts if part.p95 is not None]
    most = max(value for _, value in slow)
    height = Height.of_durations(most)
    return _chart(
        f"Duration per {span.unit}",
        f"The median is at most {wording.duration(max(value for _, value in middle))}, the 95th"
        f" percentile {wording.duration(most)}.",
        _grid(height),
        _curve(
            span, slow, height, "off", lambda _, value: f"95 % within {wording.duration(value)}"
        ),
        _curve(span, middle, height, "ok", lambda _, value: f"median {wording.duration(value)}"),
        _times(span, HEIGHT),
    )


RATES, DOTS, GAP = 26, 104, 20


def history(span: Span, each: ProjectReport) -> Html:
    """A project over time: above, how many succeeded; below, each build by its duration."""
    figures, builds = each.figures, each.last_builds
    top = TOP + RATES + GAP
    most = max((build.seconds for build in builds if build.seconds), default=1.0)
    shares = Height((0, 1), wording.percent, TOP, TOP + RATES)
    height = Height.of_durations(
        max(most, figures.median or 0), lines=3, top=top, bottom=top + DOTS
    )
    return _chart(
        "Success rate and durations",
        f"{wording.plural(len(builds), 'build')}, the longest took {wording.duration(most)}.",
        _grid(shares),
        *(
            _stack(
                span,
                part,
                f"{span.named(part)}: {wording.percent(part.success_rate)} of {_told(part)}",
                [number / part.ended for number in (part.succeeded, part.failed, part.cancelled)],
                shares,
            )
            for part in each.parts
            if part.ended
        ),
        _grid(height),
        None if figures.median is None else _rule(height.y(figures.median), "median"),
        *(mark(build, span.x(build.at), height.y(build.seconds or 0)) for build in builds),
        _times(span, top + DOTS + FOOT),
        height=top + DOTS + FOOT,
    )


# -- pieces --------------------------------------------------------------------------------------


def _chart(title: str, description: str, *content: Html | None, height: float = HEIGHT) -> Html:
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *content,
        viewBox=f"0 0 {RIGHT + 6} {at(height)}",
        role="img",
        class_="chart",
    )


def _grid(height: Height) -> Html:
    return joined(
        joined(
            [
                _rule(height.y(value), "base" if value == height.lines[0] else "grid"),
                _label(LEFT - 6, height.y(value) + 3.5, height.label(value), "end"),
            ]
        )
        for value in height.lines
    )


def _times(span: Span, bottom: float) -> Html:
    """What stands below a chart: labels that neither overlap nor stick out."""
    labels, free = [], 0.0
    for moment, label in span.ticks():
        x, half = span.x(moment), len(label) * 3.0
        anchor = "start" if x - half < LEFT else "end" if x + half > RIGHT + 6 else "middle"
        left = {"start": x, "middle": x - half, "end": x - 2 * half}[anchor]
        top = bottom - FOOT
        labels.append(tag("line", x1=at(x), x2=at(x), y1=at(top), y2=at(top + 4), class_="base"))
        if left >= free:
            labels.append(_label(x, bottom - 7, label, anchor))
            free = left + 2 * half + 6
    return joined(labels)


def _rule(y: float, kind: str) -> Html:
    return tag("line", x1=LEFT, x2=RIGHT, y1=at(y), y2=at(y), class_=kind)


def _label(x: float, y: float, label: str, anchor: str) -> Html:
    return tag("text", label, x=at(x), y=at(y), text_anchor=anchor)


def _stack(span: Span, part: Figures, title: str, amounts: Sequence[float], height: Height) -> Html:
    """A bar for a part of the time: what succeeded, failed, was cancelled, has not ended."""
    begin, end = (span.x(moment) for moment in span.part(part))
    width = min(max((end - begin) * 0.78, 1), 30)
    bars, below = [], 0.0
    for amount, kind in zip(amounts, ("ok", "bad", "off", "now"), strict=False):
        if amount:
            top, bottom = height.y(below + amount), height.y(below)
            bars.append(
                tag(
                    "rect",
                    x=at((begin + end - width) / 2),
                    y=at(top),
                    width=at(width),
                    height=at(bottom - top),
                    class_=kind,
                )
            )
            below += amount
    return tag("g", tag("title", title), *bars)


def _curve(
    span: Span,
    points: Sequence[tuple[Figures, float]],
    height: Height,
    kind: str,
    told: Callable[[Figures, float], str],
) -> Html:
    """A dot for each part of the time, and a line through those that follow each other."""
    line, dots, until = [], [], None
    for part, value in points:
        begin, end = span.part(part)
        x, y = at(span.middle(part)), at(height.y(value))
        line.append(f"{'L' if begin == until else 'M'}{x} {y}")
        title = tag("title", f"{span.named(part)}: {told(part, value)}")
        dots.append(tag("circle", title, cx=x, cy=y, r=3 if kind == "ok" else 2, class_=kind))
        until = end
    return joined([tag("path", d="".join(line), class_=f"curve {kind}"), *dots])


def _told(figures: Figures) -> str:
    """10 builds, 8 succeeded, 2 failed"""
    kinds = ("succeeded", "failed", "cancelled", "running", "pending")
    numbers = [(getattr(figures, kind), kind) for kind in kinds]
    return ", ".join(
        [
            wording.plural(figures.builds, "build"),
            *(f"{number:,} {kind}" for number, kind in numbers if number),
        ]
    )
