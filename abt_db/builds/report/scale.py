"""Where in a chart a time or a number stands, and where there are lines and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from math import ceil

from . import wording
from .figures import Figures, Unit

HEIGHT = 190
LEFT, RIGHT = 42, 334
TOP, BOTTOM = 10, HEIGHT - 24

LABELS = 4


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a report is about, divided into parts; it is the same in all its charts."""

    begin: datetime
    end: datetime
    unit: Unit

    @classmethod
    def of(cls, unit: Unit, first: datetime, last: datetime) -> Span:
        """The whole parts from that of `first` to that of `last`."""
        return cls(unit.begin(first), unit.end(unit.begin(last)), unit)

    def x(self, moment: datetime) -> float:
        share = (moment - self.begin) / (self.end - self.begin)
        return LEFT + (RIGHT - LEFT) * min(max(share, 0), 1)

    def part(self, figures: Figures) -> tuple[datetime, datetime]:
        """When a part begins and ends."""
        text = figures.part or ""
        begin = datetime.fromisoformat(text + "0001-01-01T00:00:00+00:00"[len(text) :])
        return begin, self.unit.end(begin)

    def middle(self, figures: Figures) -> float:
        begin, end = self.part(figures)
        return (self.x(begin) + self.x(end)) / 2

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

    def ticks(self) -> list[tuple[datetime, str]]:
        """Beginnings of years, months, days or hours, and what stands below them."""
        for unit, step in _STEPS:
            ticks = list(islice(self._every(unit, step), LABELS + 1))
            if 1 < len(ticks) <= LABELS:
                return [(at, _label(at, unit, first=at == ticks[0])) for at in ticks]
        return [(self.begin, wording.day(self.begin))]

    def _every(self, unit: Unit, step: int) -> Iterator[datetime]:
        """The beginnings of every so-manieth unit, counted in the next larger one."""
        at = unit.begin(self.begin)
        while at < self.end:
            number = {
                Unit.HOUR: at.hour,
                Unit.DAY: at.day - 1,
                Unit.MONTH: at.month - 1,
                Unit.YEAR: at.year,
            }[unit]
            # The 29th of a month would stand beside the 1st of the next.
            beside = unit is Unit.DAY and step > 1 and at.day > 28
            if number % step == 0 and at >= self.begin and not beside:
                yield at
            at = unit.end(at)


_STEPS = [
    *((Unit.HOUR, step) for step in (1, 2, 3, 6, 12)),
    *((Unit.DAY, step) for step in (1, 2, 7, 14)),
    *((Unit.MONTH, step) for step in (1, 2, 3, 4, 6)),
    *((Unit.YEAR, step) for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)),
]


def _label(at: datetime, unit: Unit, *, first: bool) -> str:
    match unit:
        case Unit.HOUR if at.hour:
            return f"{at:%H:%M}"
        case Unit.MONTH if at.month > 1:
            return f"{wording.month(at)} {at.year}" if first else wording.month(at)
        case Unit.MONTH | Unit.YEAR:
            return str(at.year)
    return f"{at.day} {wording.month(at)}"


@dataclass(frozen=True, slots=True)
class Height:
    """A vertical scale from its lowest line to its highest, with a label for each."""

    lines: Sequence[float]
    label: Callable[[float], str]
    top: float = TOP
    bottom: float = BOTTOM

    def y(self, value: float) -> float:
        low, high = self.lines[0], self.lines[-1]
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    @classmethod
    def of_counts(cls, most: int) -> Height:
        """From 0 to a round number that is not below `most`."""
        lines = _lines(most, _round_numbers(1), 4)
        return cls(lines, lambda value: wording.count(round(value)))

    @classmethod
    def of_durations(
        cls, most: float, *, lines: int = 4, top: float = TOP, bottom: float = BOTTOM
    ) -> Height:
        """From 0 to a time that is not below `most`, with labels in one unit."""
        places = _lines(most, _round_times(), lines)
        unit, length = next(
            (unit for unit in (("h", 3600), ("min", 60)) if places[1] % unit[1] == 0), ("s", 1)
        )
        return cls(
            places, lambda value: f"{value / length:,g} {unit}" if value else "0", top, bottom
        )

    @classmethod
    def of_rates(cls, least: float) -> Height:
        """Up to 100 %, from where there is something to see."""
        low = ceil(least * 4 - 1) / 4 if least > 0 else 0.0
        step = 0.25 if low < 0.5 else 0.125 if low < 0.75 else 0.05
        lines = [low + step * number for number in range(round((1 - low) / step) + 1)]
        return cls(lines, lambda value: f"{value * 100:g} %")


def _lines(most: float, steps: Iterator[float], number: int) -> list[float]:
    step = next(step for step in steps if step * number >= most)
    return [step * i for i in range(max(ceil(most / step), 1) + 1)]


def _round_numbers(power: float) -> Iterator[float]:
    while True:
        yield from (power, power * 2, power * 5)
        power *= 10


def _round_times() -> Iterator[float]:
    yield from takewhile(lambda seconds: seconds <= 10, _round_numbers(0.1))
    yield from (15, 30)
    yield from (minutes * 60 for minutes in (1, 2, 5, 10, 15, 30))
    yield from (hours * 3600 for hours in _round_numbers(1))
