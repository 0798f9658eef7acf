"""Checkpoints: how one is made, when one is due, and which other processes read the log.

A checkpoint moves pages from the write-ahead log into the database. SQLite makes one when a commit
finds `Config.wal_autocheckpoint` pages in the log, and starts the log anew once no connection reads
it. Where readers come and go without a gap, that moment never comes, and the log grows for as long
as the application writes (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

from __future__ import annotations

import os
from math import log2
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from abt_db.errors import AbtDbError
from abt_db.events import Checkpointed
from abt_db.log import LOG

from .busy import SQLITE_BUSY_TIMEOUT
from .file_locks import READ_MARKS, locks_on

if TYPE_CHECKING:
    from .transaction import EngineSession

CHECKPOINTS = {
    "passive": "PRAGMA wal_checkpoint(PASSIVE)",
    "full": "PRAGMA wal_checkpoint(FULL)",
    "restart": "PRAGMA wal_checkpoint(RESTART)",
    "truncate": "PRAGMA wal_checkpoint(TRUNCATE)",
}

SHORT_WAIT = 0.02
"""Seconds that SQLite waits in one try to move all pages of its log, see `checkpoint`."""

LOOK = 0.002
"""Seconds between two looks at the size: in that time a disk takes a megabyte."""

SHORTEST, LONGEST = 0.1, 1.6
"""Seconds for which a write waits for readers, so that the log can be emptied."""

PAUSE, LONGEST_PAUSE = 8.0, 256.0
"""Seconds without a try after the longest wait was in vain; doubled each time."""


class Wal:
    """Keeps the log below its limit. Used by the writer's thread alone.

    The writer tries to empty the log when it has grown to half of the limit, and waits for readers
    meanwhile. A try in vain is followed by the next one when the log has grown by another tenth of
    the limit, with twice the patience: that makes five tries below the limit. Then comes a pause,
    because a reader that has outlasted the longest wait may never end. A patience that was enough
    is kept for the next time. Fewer tries are left from there on, so the first one comes later:
    every write waits while it lasts.
    """

    __slots__ = ("_again", "_enough", "_file", "_limit", "_next", "_pause", "patience")

    def __init__(self, path: str, limit: int) -> None:
        self._file = Path(f"{os.path.realpath(path)}-wal")  # beside a link there is none
        self._limit = limit
        self._next = self._again = 0.0
        self._pause = PAUSE
        self.patience = SHORTEST
        """Seconds for which the next try waits for readers."""
        self._enough = self._first()

    def keep_short(self, session: EngineSession) -> None:
        """After a COMMIT, empty the log if a try is due. Raises nothing: the write is committed,
        whatever becomes of the log (invariant 30)."""
        if self.is_long(monotonic()):
            self._shorten(session, "truncate")

    def move(self, session: EngineSession) -> None:
        """In a quiet moment, make the checkpoint that would otherwise delay a commit. Raises
        nothing."""
        self._shorten(session, "truncate" if self.is_large() else "passive")

    def _shorten(self, session: EngineSession, mode: str) -> None:
        try:
            done = checkpoint(session, mode, self.patience)
        except AbtDbError as error:
            LOG.warning("abt_db: pages of the write-ahead log could not be moved: %s", error)
            self.in_use(monotonic())
            return
        if done.busy and done.pages < 0:
            return  # another connection does it just now
        if done.busy:
            self.in_use(monotonic())
        elif mode == "truncate":
            self.emptied()
        session.stats.events.append(done)

    def is_long(self, now: float) -> bool:
        """Return whether a try is due at the moment `now` of `time.monotonic()`."""
        if now < self._next:
            return False
        self._next = now + LOOK
        if now >= self._again:
            self._enough = self._first()
        return self._size() > self._enough

    def is_large(self) -> bool:
        """Return whether the log should be emptied in a moment in which no write waits for that."""
        return self._size() > self._limit // 2

    def _first(self) -> int:
        """Return the size of the log at which the first of the tries that are left is due."""
        tries = 1 + round(log2(LONGEST / self.patience))
        return self._limit * (10 - tries) // 10

    def _size(self) -> int:
        try:
            return self._file.stat().st_size
        except OSError:
            # There is no log, or this process has lost the right to look at it. The question comes
            # after a COMMIT, which no error may turn into a failure (invariant 30).
            return 0

    def emptied(self) -> None:
        """Note that a try has emptied the log."""
        self._again, self._pause = 0.0, PAUSE

    def in_use(self, now: float) -> None:
        """Note that a try ended before the readers did."""
        if self.patience >= LONGEST:
            self.patience, self._next = SHORTEST, now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        else:
            self.patience *= 2
            self._enough, self._again = self._size() + self._limit // 10, now + PAUSE


def checkpoint(
    session: EngineSession, mode: str, wait: float = SQLITE_BUSY_TIMEOUT
) -> Checkpointed:
    """Move pages of the write-ahead log into the database; `mode` is one of `CHECKPOINTS`.

    Waits `wait` seconds for connections that read or write, and not for another connection's
    checkpoint: it is `busy` then, with -1 pages. Only on the writer, and outside a transaction.
    """
    session.require_files()  # pages of a lost log could overwrite what came after them
    began = monotonic()
    # In one long wait SQLite reads the readers' marks once, at its beginning, and waits for the
    # locks of those; readers that come meanwhile take the same locks for newer marks, and the wait
    # never ends. Each of many short waits reads the marks again.
    session.control(f"PRAGMA busy_timeout = {int(min(wait, SHORT_WAIT) * 1000)}")
    try:
        while True:
            [(busy, pages, moved)] = session.control(CHECKPOINTS[mode])
            elsewhere = pages < 0
            if not busy or elsewhere or monotonic() - began >= wait or session.deadline.passed():
                break
    finally:
        session.control(f"PRAGMA busy_timeout = {int(SQLITE_BUSY_TIMEOUT * 1000)}")
    return Checkpointed(mode, monotonic() - began, bool(busy), pages, moved)


def move_log(session: EngineSession) -> None:
    """See `Wal.move`; does nothing where the log is left to another program."""
    if session.wal is not None:
        session.wal.move(session)


def processes_reading(path: str) -> list[int]:
    """Return the ids of the other processes that are reading the database `path` at this moment; []
    where the system does not list locks, which only Linux does."""
    locks = locks_on(f"{os.path.realpath(path)}-shm") or ()
    reading = {lock.pid for lock in locks if not lock.exclusive and lock.meets(READ_MARKS)}
    return sorted(reading - {os.getpid()})
