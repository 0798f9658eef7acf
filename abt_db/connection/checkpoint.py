"""The write-ahead log of a file: when it is to be emptied, and who in other processes reads it.

SQLite moves pages from the log into the database when a commit finds `Config.wal_autocheckpoint` of
them in it, and starts the log anew once nobody reads what is in it. Where readers come and go
without a gap that moment never comes, and the log grows for as long as there are writes
(https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

from __future__ import annotations

import os
from math import log2
from pathlib import Path

from .file_locks import READ_MARKS, locks_on

LOOK = 0.002
"""Seconds between two looks at the size: in that time a disk takes a megabyte."""

SHORTEST, LONGEST = 0.1, 1.6
"""Seconds for which those who write wait for those who read, so that the log can be emptied."""

PAUSE, LONGEST_PAUSE = 8.0, 256.0
"""Seconds without another try when the longest wait was in vain: each time more."""


class Wal:
    """Says after a commit whether the log has to be emptied. Used by the writer's thread alone.

    From half of its limit on it should be. Each try that was in vain is followed, a tenth of the
    limit later, by one that waits twice as long for readers, so that there are five below the
    limit; then by a pause, for who reads on that long may do so for ever. The wait that was enough
    is kept: it ends as soon as the readers do. Fewer tries are left then, so the first comes later:
    all that writes stands still in it, for as long as readers read, however long the log is.
    """

    __slots__ = ("_again", "_enough", "_file", "_limit", "_next", "_pause", "patience")

    def __init__(self, path: str, limit: int) -> None:
        self._file = Path(f"{os.path.realpath(path)}-wal")  # beside a link there is none
        self._limit = limit
        self._next = self._again = 0.0
        self._pause = PAUSE
        self.patience = SHORTEST
        """Seconds to wait for readers."""
        self._enough = self._first()

    def is_long(self, now: float) -> bool:
        """Whether to empty the log, at the moment `now` of `time.monotonic()`."""
        if now < self._next:
            return False
        self._next = now + LOOK
        if now >= self._again:
            self._enough = self._first()
        return self._size() > self._enough

    def is_large(self) -> bool:
        """Whether it should be emptied when nobody is kept waiting by that."""
        return self._size() > self._limit // 2

    def _first(self) -> int:
        """The size from which on there is room for the tries that are left."""
        tries = 1 + round(log2(LONGEST / self.patience))
        return self._limit * (10 - tries) // 10

    def _size(self) -> int:
        try:
            return self._file.stat().st_size
        except OSError:
            # There is none, or this process may not look at it any more: it is asked for behind a
            # COMMIT, which that doesn't undo.
            return 0

    def emptied(self) -> None:
        """Note that it has been done."""
        self._again, self._pause = 0.0, PAUSE

    def in_use(self, now: float) -> None:
        """Note that readers were in the way for longer than was waited."""
        if self.patience >= LONGEST:
            self.patience, self._next = SHORTEST, now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        else:
            self.patience *= 2
            self._enough, self._again = self._size() + self._limit // 10, now + PAUSE


def processes_reading(path: str) -> list[int]:
    """The ids of other processes that are reading the database `path` at this moment.

    Empty where the system does not tell, as on anything but Linux.
    """
    locks = locks_on(f"{os.path.realpath(path)}-shm") or ()
    reading = {lock.pid for lock in locks if not lock.exclusive and lock.meets(READ_MARKS)}
    return sorted(reading - {os.getpid()})
