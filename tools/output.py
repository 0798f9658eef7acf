"""What commands print: tables that fit the terminal, colours only on one, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import sys
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from itertools import accumulate
from typing import Any, TextIO

from abt_db.builds.classify import inert_json, without_escapes

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "dim": 2}
_SETS_COLOUR = re.compile(r"(\x1b\[[\d;:]*m)")


def print_json(value: object) -> None:
    """Print one value as a line of JSON, in which nothing steers a terminal."""
    print(inert_json(json.dumps(_plain(value), ensure_ascii=False)))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(map(_plain, value))
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value


def colour(text: str, name: str | None) -> str:
    """Colour a text, if standard output is a terminal and nobody minds (https://no-color.org)."""
    if name is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    colours: Sequence[str | None] = (),
    right: Sequence[str] = (),
) -> None:
    """Print rows under their titles. On a terminal, the widest column gives way until all fit.

    `colours` has one colour a row; columns whose titles are in `right` are set to the right.
    """
    cells = [[printable(cell) for cell in row] for row in [titles, *rows]]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > 4:
            widths[widths.index(max(widths))] -= 1
    for number, row in enumerate(cells):
        line = "  ".join(
            _padded(cell, width, right=title in right)
            for cell, width, title in zip(row, widths, titles, strict=True)
        ).rstrip()
        of_row = "dim" if number == 0 else colours[number - 1] if colours else None
        print(colour(line, of_row))


def printable(text: str) -> str:
    """The text without what would move the cursor or colour the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def for_terminal(text: str, stream: TextIO | None = None) -> str:
    """Lines of text as they are; for a terminal (standard output's, if none is named) without what
    would steer that."""
    if not (stream or sys.stdout).isatty():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def log_to_terminal() -> None:
    """Have the warnings of the library printed to standard error, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record), sys.stderr)


def logged(text: str) -> str:
    """A line of a log as it is; for a terminal without what would steer that, but for colours."""
    if not sys.stdout.isatty():
        return text
    if os.environ.get("NO_COLOR"):
        return _inert(text)
    pieces = _SETS_COLOUR.split(text)  # every second one sets a colour
    pieces[::2] = map(_inert, pieces[::2])
    return "".join(pieces) + ("\x1b[0m" if len(pieces) > 1 else "")


def _inert(text: str) -> str:
    return "\t".join(map(printable, without_escapes(text).split("\t")))


def _width(text: str) -> int:
    """How many places a text takes on a terminal: two for a wide character, as of Chinese."""
    return sum(
        0
        if unicodedata.combining(character)
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _padded(text: str, width: int, *, right: bool) -> str:
    if _width(text) > width:
        ends = [*accumulate(map(_width, text))]
        text = text[: bisect_left(ends, width)] + "…"
    space = " " * (width - _width(text))
    return space + text if right else text + space


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: 0.4 s, 12.3 s, 4:05, 1:02:03."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def age(moment: datetime | None) -> str:
    """A moment in local time, to the minute."""
    return "" if moment is None else f"{local(moment):%Y-%m-%d %H:%M}"


def local(moment: datetime) -> datetime:
    """A moment in local time; in UTC where that would be before the year 1 or after 9999."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError):
        return moment
