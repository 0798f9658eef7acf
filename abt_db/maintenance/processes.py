"""Which processes read and write a database, as Linux tells it.

SQLite's connections of a WAL database meet in locks on single bytes of the `-shm` file
(https://www.sqlite.org/walformat.html#wal_locks), and the kernel lists all locks with their
processes. Nothing is opened for it: to close a file would drop the locks that SQLite holds on it
in this process.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "processes_of"]

_LOCKS = Path("/proc/locks")
_LINE = re.compile(
    r"POSIX +\S+ +(?:READ|WRITE) +(?P<pid>\d+) (?P<place>\S+) (?P<first>\d+) (?P<last>\d+|EOF)"
)
_WRITE = 120
_READ = range(123, 128)


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
    try:
        file = Path(f"{os.path.realpath(path)}-shm").stat()
        lines = _LOCKS.read_text().splitlines()
    except FileNotFoundError:
        return () if _LOCKS.exists() else None
    except OSError:
        return None
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    found: dict[int, set[int]] = {}
    for line in lines:
        lock = _LINE.search(line)
        if lock and "->" not in line and lock["place"] == place:
            last = 1 << 31 if lock["last"] == "EOF" else int(lock["last"])
            # The kernel joins the locks of a process that lie side by side.
            bytes_held = range(int(lock["first"]), min(last, 200) + 1)
            found.setdefault(int(lock["pid"]), set()).update(bytes_held)
    return tuple(
        Process(
            pid,
            _command(pid),
            _WRITE in held,
            frozenset(byte - _READ.start for byte in held if byte in _READ),
        )
        for pid, held in sorted(found.items())
    )


def _command(pid: int) -> str:
    """The program, and what it was given first: a script. What comes later may be a secret."""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if words := [word for word in line.split("\0") if word]:
            given = [word for word in words[1:] if not re.search(r"^-|\s", word)]
            return " ".join([Path(words[0]).name, *given[:1]])[:80]
    return ""
