"""Find out which limit of the system was reached, if SQLite only says that a file can't be used.

SQLite has an error code of its own for a full disk, but none for a file that may not grow (EFBIG),
or for a process that may open no further file (EMFILE, ENFILE).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

REACH = 65_536 + 24
"""Bytes of the largest page with its frame header in the log. A file is taken to be at its limit if
it can't grow by as much."""

FEW = 64
"""Descriptors. If no more than these are free, the process is taken to be at its limit. Some may be
free again when they are counted: after it has failed to open a file, SQLite closes other files of
the connection, and other connections open and close files at the same time."""

_GROWING = frozenset(
    {
        "SQLITE_IOERR_WRITE",
        "SQLITE_IOERR_TRUNCATE",
        "SQLITE_IOERR_SHMSIZE",
        "SQLITE_IOERR_MMAP",
        "SQLITE_IOERR_SHMMAP",
    }
)
_OPENING = frozenset({"SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_IOERR_GETTEMPPATH"})


def largest_file() -> int | None:
    """Return the size in bytes to which this process may let a file grow (RLIMIT_FSIZE); None: any
    size."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def no_growth(name: str | None, path_of: Callable[[], str]) -> str | None:
    """Return why a database's files could not grow, if SQLite's error `name` may mean that and the
    process may write no larger files (RLIMIT_FSIZE); None otherwise. `path_of` returns the path of
    the database, an empty one if it is in memory."""
    if name not in _GROWING or (limit := largest_file()) is None:
        return None
    if not (path := path_of()):
        return None
    sizes = {}
    for kind in ("", "-wal", "-journal", "-shm"):
        with suppress(OSError):
            sizes[kind] = Path(os.path.realpath(path) + kind).stat().st_size
    if max(sizes.values(), default=0) + REACH < limit:
        return None
    return (
        f"no file may grow beyond {limit:,} bytes in this process (RLIMIT_FSIZE, `ulimit -f`);"
        " raise that limit, or make the database smaller"
    )


def no_descriptors(name: str | None) -> str | None:
    """Return a sentence saying that the process, or the system, has hardly a file descriptor left,
    if that is so and SQLite's error `name` may be due to it; None otherwise."""
    opening = name is not None and (name.startswith("SQLITE_CANTOPEN") or name in _OPENING)
    if resource is None or not opening:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = limit
    try:
        used = sum(1 for _ in Path("/dev/fd").iterdir()) - 1
    except OSError as refused:
        if refused.errno == errno.ENFILE:
            return "the system has no file descriptor left (fs.file-max); close files elsewhere"
        if refused.errno != errno.EMFILE:
            return None
    if limit == resource.RLIM_INFINITY or used < limit - FEW:
        return None
    return (
        f"{used} of the {limit} file descriptors that this process may have are open"
        " (RLIMIT_NOFILE); close some, have fewer readers, or raise the limit (`ulimit -n`)"
    )
