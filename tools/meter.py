"""What long work says of itself on standard error."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from time import monotonic

from abt_db.migrations.progress import Progress

INTERVAL = 1.0
"""Seconds between two lines."""

_CLEAR = "\r\x1b[K"
"""Empties the line of a terminal."""


class Meter:
    """Tells on standard error what is being done, when it takes longer than a second."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None
        self._terminal = sys.stderr.isatty()

    def tell(self, progress: Progress) -> None:
        """Take note; called in the thread that is at work."""
        if self._latest is None or progress.version != self._latest.version:
            self._since = monotonic()
        self._latest = progress

    def telling(self, doing: str) -> Callable[[int, int], None]:
        """Return what takes note of how much is done, and of how much, of one piece of work."""
        self.tell(Progress(None, doing, 0, 0))
        return lambda done, total: self.tell(Progress(None, doing, done, total))

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._show())

    async def __aexit__(self, *_error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._terminal:
            print(end=_CLEAR, file=sys.stderr, flush=True)

    async def _show(self) -> None:
        shown: Progress | None = None
        while True:
            await asyncio.sleep(INTERVAL)
            latest = self._latest
            # On a terminal the line is written over each second, elsewhere once for each change.
            if latest is None or (latest == shown and not self._terminal):
                continue
            shown = latest
            text = f"{_doing(latest)}, {monotonic() - self._since:.0f} s"
            line = f"{_CLEAR}{text}" if self._terminal else f"{text}\n"
            print(end=line, file=sys.stderr, flush=True)


def _doing(progress: Progress) -> str:
    if progress.version is None:
        done = f": {100 * progress.done // progress.total} %" if progress.total else ""
        return f"{progress.doing}{done}"
    if progress.doing == "waiting":
        return f"{progress.version}: another process holds the lock"
    line = f", line {progress.line}" if progress.line else ""
    return (
        f"{progress.version} {progress.doing}: statement {progress.done + 1} of"
        f" {progress.total}{line}"
    )
