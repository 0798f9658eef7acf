"""The locks on a file's byte ranges that SQLite's connections take, as Linux lists them.

The file is only looked up by name. To open and close it here would drop the locks that SQLite holds
on it in this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_LOCKS = Path("/proc/locks")

# Bytes of the -shm file: https://www.sqlite.org/walformat.html#wal_locks.
WRITE_LOCK = range(120, 121)
READ_MARKS = range(123, 128)


class FileLock(NamedTuple):
    """A lock that a process holds; the kernel merges adjacent locks of one process."""

    pid: int
    exclusive: bool
    first: int
    behind: float
    """The byte after its last one."""

    def meets(self, bytes: range) -> bool:
        """Whether the lock covers one of these bytes."""
        return self.first < bytes.stop and self.behind > bytes.start


def locks_on(file: str) -> list[FileLock] | None:
    """Return the locks that processes hold on a file at this moment.

    Locks held by processes in another container are missing. A file that does not exist has no
    locks. Returns None where the system has no list of locks that can be read, as on systems other
    than Linux. Raises nothing.
    """
    try:
        status = Path(file).stat()
    except OSError:
        return [] if _LOCKS.exists() else None
    try:
        with _LOCKS.open() as lines:
            place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            return list(_found(lines, place))
    except (OSError, ValueError):
        return None


def _found(lines: Iterable[str], place: str) -> Iterator[FileLock]:
    for line in lines:
        # "3: POSIX  ADVISORY  WRITE 13238 fe:00:2498684 120 120"; the last byte may be "EOF". The
        # line of a process that waits for a lock has an arrow in front, and does not match.
        match line.split():
            case [_, "POSIX", _, kind, pid, where, first, last] if where == place:
                # A process whose pid is not visible in this container is listed as 0.
                if int(pid) > 0:
                    behind = float("inf") if last == "EOF" else int(last) + 1
                    yield FileLock(int(pid), kind == "WRITE", int(first), behind)
