"""Who holds a connection, or the write lock of a file: for errors, warnings and statistics.

All of it is asked when somebody has waited too long, or wants to know; never while all goes well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .file_locks import WRITE_LOCK, locks_on


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


# https://www.sqlite.org/src/file/src/os.h: PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST.
_WITHOUT_LOG = range(0x40000000, 0x40000003)


def _lockers(path: str) -> set[int]:
    """The processes that hold the write lock of a file; empty where the system does not tell."""
    path = os.path.realpath(path)
    return {
        lock.pid
        for file, bytes in ((path, _WITHOUT_LOG), (f"{path}-shm", WRITE_LOCK))
        for lock in locks_on(file) or ()
        if lock.exclusive and lock.meets(bytes)
    }
