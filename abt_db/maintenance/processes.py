"""Which processes read and write a database, as Linux tells it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from abt_db.connection.file_locks import READ_MARKS, WRITE_LOCK, locks_on


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has a WAL database open, with all its connections."""

    pid: int
    command: str
    """Empty where the process is another user's, or gone."""
    writes: bool
    """Whether it is in a write transaction."""
    views: frozenset[int]
    """Which of the log's five read marks it stands at: empty if it reads nothing just now."""


def processes_of(path: str | os.PathLike[str]) -> tuple[Process, ...] | None:
    """Return the processes that have a WAL database open, our own among them, by their ids.

    None where nobody can tell: on another system than Linux. Processes of another container are
    missing. A few file reads; nothing of the database is opened.
    """
    locks = locks_on(f"{os.path.realpath(path)}-shm")
    if locks is None:
        return None
    held = defaultdict(list)
    for lock in locks:
        held[lock.pid].append(lock)
    return tuple(
        Process(
            pid,
            _command(pid),
            any(lock.meets(WRITE_LOCK) for lock in mine),
            frozenset(
                mark
                for mark, byte in enumerate(READ_MARKS)
                if any(lock.meets(range(byte, byte + 1)) for lock in mine)
            ),
        )
        for pid, mine in sorted(held.items())
    )


def processes_with(*files: Path) -> set[int]:
    """The processes that have one of these files open; empty where the system does not tell."""
    wanted = []
    for file in files:
        with suppress(FileNotFoundError):
            wanted.append(file.stat())
    found = set()
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        with suppress(OSError):  # it has ended, or is not ours to look at
            for link in (process / "fd").iterdir():
                with suppress(OSError):  # it has been closed
                    status = link.stat()
                    if any(os.path.samestat(status, each) for each in wanted):
                        found.add(int(process.name))
    return found


def _command(pid: int) -> str:
    """The program, and what it was given first: a script. What comes later may be a secret."""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if words := [word for word in line.split("\0") if word]:
            given = [word for word in words[1:] if not re.search(r"^-|\s", word)]
            return " ".join([Path(words[0]).name, *given[:1]])[:80]
    return ""
