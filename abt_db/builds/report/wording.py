"""Numbers, times and durations as a person reads them."""

from __future__ import annotations

from datetime import datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def count(number: int) -> str:
    """12345: 12,345"""
    return f"{number:,}"


def plural(number: int, one: str) -> str:
    """3, "build": 3 builds"""
    return f"{number:,} {noun(number, one)}"


def noun(number: int, one: str) -> str:
    """3, "build": builds"""
    return one if number == 1 else f"{one}s"


def percent(share: float | None) -> str:
    """0.9378: 94 %; only what is all is 100 %, and only what is nothing is 0 %."""
    if share is None:
        return "–"
    whole = round(share * 100)
    if share in (0, 1) or whole not in (0, 100):
        return f"{whole} %"
    return f"{min(max(share, 0.001), 0.999) * 100:.1f} %"


def duration(seconds: float | None) -> str:
    """3.25: 3.3 s; 291: 4 min 51 s; 3723: 1 h 02 min"""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min"


def size(bytes: int) -> str:
    """11022336: 11 MiB"""
    amount, unit = float(bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if amount < 9.95 and unit != "B" else f"{amount:,.0f} {unit}"


def day(moment: datetime) -> str:
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def month(moment: datetime) -> str:
    return _MONTHS[moment.month - 1]


def minute(moment: datetime) -> str:
    return f"{day(moment)}, {moment:%H:%M}"
