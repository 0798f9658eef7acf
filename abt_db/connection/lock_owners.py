"""Which task holds a connection, and which process a file's write lock: for errors, warnings and
statistics.

All of this is looked up only when a call has waited too long or statistics are read, and never
while calls are served in time.
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
    """What a task is doing with the connection that it holds."""

    label: str
    task: str | None
    """The name of the task that holds the connection."""
    age: float
    """How long the task has held it, in seconds."""
    statements: int
    """The number of statements that have run since."""
    state: Literal["idle", "running", "waiting"]
    """Waiting: for a lock on the file that another connection has."""
    query: str | None
    """The name of the query, or of the function, that is running."""

    def __str__(self) -> str:
        return f"{self.label} of task {self.task or '?'!r}"


Writing = Callable[[], Holding | None]
"""Returns which task of one `Database` is in a write transaction, or None if no task is."""

# The writers of this process, each with its pid: a forked child inherits them, but holds no lock.
_writers: dict[Writing, tuple[int, str]] = {}


def enlist(path: str, writing: Writing) -> None:
    """Register `writing` as a possible holder of the lock on the file `path`, until
    `strike_off`. `who_holds` calls it."""
    _writers[writing] = os.getpid(), path


def strike_off(writing: Writing) -> None:
    """Undo `enlist`; does nothing if that was undone before."""
    _writers.pop(writing, None)


def who_holds(path: str) -> str:
    """Return a sentence that says who holds the write lock of a database file, as far as is known.

    A transaction in this process is named by its label and task. Another process is named by its
    pid, on Linux and where the system shows it. Raises nothing. May be called from any thread.
    """
    here = os.getpid()
    for writing, (process, other) in _writers.copy().items():
        if process == here and _is_same(path, other) and (holding := writing()) is not None:
            return f"{holding} in this process holds the lock, for {holding.age:.1f} s"
    processes = _lockers(path)
    if others := sorted(processes - {here}):
        return f"another process holds the lock (pid {', '.join(map(str, others))})"
    if processes:
        return "another connection of this process, outside every open Database, holds the lock"
    return "another process holds the lock"


def _is_same(path: str, other: str) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


# https://www.sqlite.org/src/file/src/os.h: PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST.
_WITHOUT_LOG = range(0x40000000, 0x40000003)


def _lockers(path: str) -> set[int]:
    """Return the pids of the processes that hold the write lock of a file; empty where the system
    does not list them."""
    path = os.path.realpath(path)
    return {
        lock.pid
        for file, bytes in ((path, _WITHOUT_LOG), (f"{path}-shm", WRITE_LOCK))
        for lock in locks_on(file) or ()
        if lock.exclusive and lock.meets(bytes)
    }
