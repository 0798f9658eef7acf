"""Who holds a connection, or the write lock of a file: for errors, warnings and statistics.

All of it is asked when somebody has waited too long, or wants to know; never while all goes well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Holding", "Writing", "enlist", "strike_off", "who_holds"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What somebody is doing with a connection at this moment."""

    label: str
    task: str | None
    """The name of the task that it belongs to."""
    age: float
    """Since when, in seconds."""
    statements: int
    """How many have run in it."""
    state: Literal["idle", "running", "waiting"]
    """Waiting: for a lock on the file that another connection has."""
    query: str | None
    """The query, or the function, that is running."""

    def __str__(self) -> str:
        return f"{self.label} of task {self.task or '?'!r}"


Writing = Callable[[], Holding | None]
"""Who is in a write transaction, of the connections of one `Database`."""

# The writers of this process. A fork inherits them, and in the child they mean nothing.
_writers: dict[Writing, tuple[int, str]] = {}


def enlist(path: str, writing: Writing) -> None:
    """Have `writing` asked by those who meet a lock on the file `path`, until `strike_off`."""
    _writers[writing] = os.getpid(), path


def strike_off(writing: Writing) -> None:
    """Undo `enlist`; does nothing if that has been done."""
    _writers.pop(writing, None)


def who_holds(path: str) -> str:
    """Say who holds the write lock of a database file, as far as that can be told.

    Whoever it is in this process is named; of other processes the system tells the number, on Linux
    and where it shows them. Raises nothing. From any thread.
    """
    here = os.getpid()
    for writing, (process, other) in _writers.copy().items():
        if process == here and _is_same(path, other) and (holding := writing()) is not None:
            return f"{holding} in this process holds the lock, for {holding.age:.1f} s"
    processes = _lockers(path)
    if others := sorted(processes - {here}):
        return f"another process holds the lock (pid {', '.join(map(str, others))})"
    if processes:
        return "another connection of this process, of no open Database, holds the lock"
    return "another process holds the lock"


def _is_same(path: str, other: str) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


# -- the locks that SQLite takes, as Linux lists them ----------------------------------------------

# https://www.sqlite.org/walformat.html#wal_locks: WAL_WRITE_LOCK is the first of the locks, which
# lie behind the index's header.
_WRITE_IN_WAL = range(120, 121)
# https://www.sqlite.org/src/file/src/os.h: PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST.
_WRITE_WITHOUT = range(0x40000000, 0x40000003)


def _lockers(path: str) -> set[int]:
    """The processes that hold the write lock of a file; empty where the system does not tell."""
    try:
        places = dict(_places(path))
        with Path("/proc/locks").open() as lines:
            return set(_found(lines, places))
    except (OSError, ValueError):
        return set()


def _places(path: str) -> Iterator[tuple[str, range]]:
    """Where a write lock would be: the files as Linux writes them, and the bytes.

    Asked for by name: to open and close one of the files here would drop SQLite's own locks
    (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    for name, locks in (path, _WRITE_WITHOUT), (f"{path}-shm", _WRITE_IN_WAL):
        try:
            file = Path(name).stat()
        except OSError:
            continue
        device = file.st_dev
        yield f"{os.major(device):02x}:{os.minor(device):02x}:{file.st_ino}", locks


def _found(lines: Iterable[str], places: dict[str, range]) -> Iterator[int]:
    for line in lines:
        # "3: POSIX  ADVISORY  WRITE 13238 fe:00:2498684 120 120"; "EOF" may be the last byte. Who
        # waits for a lock has an arrow in front.
        match line.split():
            case [_, "POSIX", _, "WRITE", process, place, first, last] if place in places:
                locks = places[place]
                behind = locks.stop if last == "EOF" else int(last) + 1
                # Of a process in a container of its own the number is not to be seen.
                if int(first) < locks.stop and behind > locks.start and int(process) > 0:
                    yield int(process)
