"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import os
import sys
from time import monotonic
from types import TracebackType
from typing import Self

INTERVAL = 0.1
WIDTH = 20


class Bar:
    """How far something is: a bar where the end is known, a text beside it, and the rate of what
    is counted. Nothing where standard error is no terminal."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._began = self._shown = monotonic()
        self._terminal = sys.stderr.isatty()

    def show(self, done: int, total: int | None, text: str, count: int) -> None:
        """Draw it, at most ten times a second."""
        now = monotonic()
        if not self._terminal or now - self._shown < INTERVAL:
            return
        self._shown = now
        rate = f"{count / (now - self._began):,.0f} {self._unit}/s"
        bar = ""
        if total:
            part = min(done / total, 1.0)
            bar = f"[{'#' * round(part * WIDTH):.<{WIDTH}}] {part:4.0%}  "
        room = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
        self._write(f"{bar}{text}, {rate}"[:room])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._write("")

    def _write(self, text: str) -> None:
        # "\x1b[K" clears what an earlier, longer text has left of the line.
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
