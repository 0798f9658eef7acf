"""What a migrator tells of its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What a migrator is doing: a statement of a step, or copying a database."""

    version: int | None
    doing: str
    """"up", "down", "waiting" for another process, or "copying"."""
    done: int
    """Statements, or pages, that are finished."""
    total: int
    line: int | None = None
    """Of the statement that runs."""


Tell = Callable[[Progress], None]
