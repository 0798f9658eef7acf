"""Checkpoints of a file's write-ahead log: how one is made, when one is due, and which other
processes read the log.

SQLite moves pages from the log into the database when a commit finds `Config.wal_autocheckpoint` of
them in it, and starts the log anew once nobody reads what is in it. Where readers come and go
without a gap that moment never comes, and the log grows for as long as there are writes
(https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
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

    def keep_short(self, session: EngineSession) -> None:
        """Behind a COMMIT, empty the log if it has become long. Raises nothing: what was committed
        is so, whatever becomes of the log."""
        if self.is_long(monotonic()):
            self._shorten(session, "truncate")

    def move(self, session: EngineSession) -> None:
        """In a quiet moment, do the checkpoint that a commit would have to do otherwise. Raises
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


def checkpoint(
    session: EngineSession, mode: str, wait: float = SQLITE_BUSY_TIMEOUT
) -> Checkpointed:
    """Move pages of the write-ahead log into the database; `mode` is one of `CHECKPOINTS`.

    Waits `wait` seconds for connections that read or write, and not for another connection's
    checkpoint: it is `busy` then, with -1 pages. Only on the writer, and outside a transaction.
    """
    session.require_files()  # pages of a lost log could overwrite what came after them
    began = monotonic()
    # In one long wait SQLite looks at the readers' marks at its beginning and waits for their
    # locks, and readers that come meanwhile take the same locks for newer marks: it would wait
    # for ever. Many short ones look again each time.
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
    """The ids of other processes that are reading the database `path` at this moment.

    Empty where the system does not tell, as on anything but Linux.
    """
    locks = locks_on(f"{os.path.realpath(path)}-shm") or ()
    reading = {lock.pid for lock in locks if not lock.exclusive and lock.meets(READ_MARKS)}
    return sorted(reading - {os.getpid()})
