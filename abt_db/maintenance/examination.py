"""A file that this process does not have open, examined without a trace."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from abt_db.config import Config
from abt_db.database import Database
from abt_db.errors import CantOpenError, CorruptError, QueryError

from . import findings
from .diagnosis import Diagnosis, diagnose
from .file import DatabaseFile, look_at
from .findings import Finding, Severity
from .metrics import Metrics, metrics
from .processes import processes_of

T = TypeVar("T")

Also = Callable[[Database], Awaitable[Sequence[Finding]]]

# One caller. Not mapped into memory: a file that is cut off meanwhile would be the end of us.
_CONFIG = Config(readers=1, cache_size=16 * 1024 * 1024, mmap_size=0, create=False)


async def examine(
    path: str | os.PathLike[str], *, full: bool = False, also: Also | None = None
) -> Diagnosis:
    """Look at a database file, whole or damaged, in use or not; see `diagnose` for what is done.

    It must not be open in this process (see `look_at`); other processes may go on with it. Nothing
    is written: where nobody has it open, it is read without locks and without the files that SQLite
    makes beside a WAL database, and read again, with them, if somebody has written to it meanwhile.
    (Beside a log that a crash has left behind, SQLite makes the `-shm` file.) `also` is asked for
    more findings if the database is sound. Raises `OSError` for a file that can't be read.
    """

    async def once(file: DatabaseFile, config: Config) -> Diagnosis:
        return await _examine(file, config, full, also)

    return await _untouched(path, once)


async def measure(path: str | os.PathLike[str], *, thorough: bool | None = None) -> Metrics:
    """Return the `metrics` of a file that is not open in this process, as `examine` looks at it.

    Raises `CorruptError` for what is no database.
    """

    async def once(file: DatabaseFile, config: Config) -> Metrics:
        async with Database(file.path, config=config, read_only=True) as db:
            return (await metrics(db, thorough=thorough)).of_the_file(wal=file.wal)

    return await _untouched(path, once)


async def _untouched(
    path: str | os.PathLike[str], once: Callable[[DatabaseFile, Config], Awaitable[T]]
) -> T:
    """Look at a file that nobody has open as at one that nobody can write; look again, with locks,
    if that was not true to the end."""
    file = look_at(path)
    if file.nobody_writes:
        before = _stamp(file)
        found: T | QueryError
        try:
            found = await once(file, replace(_CONFIG, immutable=True))
        except QueryError as error:
            found = error  # which may be because it was written to
        file = look_at(path)
        if file.nobody_writes and _stamp(file) == before:
            if isinstance(found, QueryError):
                raise found
            return found
    return await once(file, _CONFIG)


async def _examine(file: DatabaseFile, config: Config, full: bool, also: Also | None) -> Diagnosis:
    found = [*findings.of_the_file(file)]
    if file.problem is None:
        db = Database(file.path, config=config, read_only=True)
        try:
            async with db:
                diagnosis = await diagnose(db, full=full, file=file)
                if also is None or diagnosis.metrics is None:
                    return diagnosis
                return diagnosis.with_more(await also(db))
        except CorruptError as error:
            if not found:  # or it is said already what is wrong
                found += findings.of_damage(file.path, [str(error)], [])
        except CantOpenError as error:
            found.append(Finding(Severity.ERROR, "file", str(error)))
    return Diagnosis(
        path=file.path,
        sqlite_version=sqlite3.sqlite_version,
        check="full" if full else "quick",
        settings={},
        metrics=None,
        file=file,
        processes=processes_of(file.path),
        findings=tuple(found),
    )


def _stamp(file: DatabaseFile) -> tuple[int, ...]:
    """What changes whenever somebody writes to the file."""
    stat = Path(file.path).stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
