"""Copying a database while it is in use, and checking the copy.

What works on whole files opens plain connections, by `connected`, the one place outside
`connection.py` that asks `sqlite3` for any. The driver's would be in the way: SQLite's backup has
two connections at work in one call, on one thread, and a file is checked, put into place and locked
against everybody else in steps that must not wait for an event loop in between. Nor have a lane's
any use there: no caller's statement runs on such a connection, which lives as long as its block.
So all of it is one blocking function in a thread of its own, see `in_thread`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from abt_db.config import Config
from abt_db.connection.deadline import finish
from abt_db.connection.settings import MEMORY, check_path, require_path, unreadable, uri
from abt_db.errors import (
    CantOpenError,
    CorruptError,
    MaintenanceError,
    QueryError,
    ReadOnlyError,
    translate,
)
from abt_db.exhausted import largest_file

from .parts import BESIDE, part_of, put_in_place

T = TypeVar("T")

Tell = Callable[[int, int], None]
"""Told how much is done, and of how much, in the thread that does it."""

Look = Callable[[], None]
"""Called between two steps of what takes long: raises when the caller has gone."""

PAGES = 1_000
"""Copied between two looks at whether to go on."""

STEPS = 100_000
"""Of SQLite's virtual machine, between two such looks."""


async def copy_database(source: str, target: str | os.PathLike[str], tell: Tell) -> int:
    """Copy the database at `source` to the new file `target`, as it is at one moment; return its
    size in bytes.

    `tell` gets the pages that are copied and their total, in the thread that copies. Others may
    read and write meanwhile. Raises `MaintenanceError` if `target` exists, or a log or a journal of
    that name, or if the source is in memory, and a `QueryError` where SQLite fails. A copy that
    fails leaves no file behind, nor does one that is cancelled, but in its last moment. Those alone
    may read it who may read the source.
    """
    return await _copied(source, target, tell, copy_pages)


async def vacuum_into(source: str, target: str | os.PathLike[str], tell: Tell) -> int:
    """As `copy_database`, by VACUUM INTO: the copy has no free pages and its tables in order."""
    return await _copied(source, target, tell, _vacuum)


async def _copied(
    source: str,
    target: str | os.PathLike[str],
    tell: Tell,
    copy: Callable[[str, Path, Tell, Look], None],
) -> int:
    require_path(target)
    file = Path(target)
    doing = f"copying {source} to {file}"
    with explained(doing):
        if os.path.lexists(file):
            raise MaintenanceError(f"{file} exists already; a copy is never written over anything")
        for kind in BESIDE:
            if (beside := file.with_name(file.name + kind)).exists():
                raise MaintenanceError(
                    f"{beside} is there, of another database; SQLite would take it for the copy's"
                    " and damage that: move it away, or name another file"
                )

    def work(look: Look) -> int:
        with explained(doing), part_of(file, of=Path(source)) as part:
            check_room(file.parent, length_of(Path(source)), f"a copy of {source}")
            copy(source, part, tell, look)
            check_file(part, source, look)
            size = part.stat().st_size
            look()
            put_in_place(part, file, new=True)
            return size

    return await in_thread(work)


def copy_pages(source: str, part: Path, tell: Tell, look: Look) -> None:
    """Copy a database page by page, from one view of it; the copy has no write-ahead log."""

    def progress(_status: int, remaining: int, total: int) -> None:
        tell(total - remaining, total)
        look()

    target = uri(str(part), Config(), "writer")
    with closing(_opened(source)) as old, closing(connected(target)) as new:
        # One view: otherwise each write of others makes the backup begin again.
        old.execute("BEGIN")
        old.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        old.backup(new, pages=PAGES, progress=progress, sleep=0.01)
        # One file and no other: whoever reads a database with a log leaves some beside it.
        new.execute("PRAGMA journal_mode = delete")


def _vacuum(source: str, part: Path, tell: Tell, look: Look) -> None:
    with closing(_opened(source)) as old:
        [(pages, size)] = old.execute(
            "SELECT page_count - freelist_count, page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )

        def progress() -> int:
            look()
            done = part.stat().st_size // size if part.exists() else 0
            tell(min(done, pages), pages)
            return 0

        old.set_progress_handler(progress, STEPS)
        # As a URI: a path need not be text, and may begin with "file:".
        old.execute("VACUUM INTO ?", (uri(str(part), Config(), "writer"),))


def connected(name: str, *, timeout: float = 5.0) -> sqlite3.Connection:
    """Return a plain connection to the file of this `opening.uri`, for the thread that asks; it
    waits `timeout` seconds for the locks of others."""
    return sqlite3.connect(name, uri=True, timeout=timeout, isolation_level=None)


def _opened(source: str) -> sqlite3.Connection:
    if source == MEMORY:
        raise MaintenanceError("a database in memory can't be copied to a file; give it one")
    check_path(source, Config(create=False), "follower")
    db = connected(uri(source, Config(), "follower"))
    try:
        # Read, as it may turn out only then that SQLite would have to write to do so.
        db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except sqlite3.Error as error:
        db.close()
        told = translate(error, doing=f"opening {source}")
        if isinstance(told, CantOpenError | ReadOnlyError):
            raise unreadable(source, told) from error
        raise
    return db


def check_file(file: Path, source: str | Path, look: Look) -> None:
    """Raise `CorruptError` if a file that nobody has open, a copy of `source`, is not a whole
    database."""
    if file.stat().st_size == 0:
        raise CorruptError(f"{source} is empty, and no database", code=sqlite3.SQLITE_NOTADB)
    with closing(connected(uri(str(file), Config(immutable=True), "follower"))) as db:
        db.set_progress_handler(look, STEPS)
        problems = [problem for (problem,) in db.execute("PRAGMA quick_check(1)")]
    if problems != ["ok"]:
        first = problems[0].splitlines()[-1]  # the line before it names the database
        raise CorruptError(
            f"{source} is damaged: {first}", code=sqlite3.SQLITE_CORRUPT, name="SQLITE_CORRUPT"
        )


def check_room(directory: Path, needed: int, what: str) -> None:
    """Raise `MaintenanceError` if so many bytes do not fit on a directory's disk."""
    if (limit := largest_file()) is not None and limit < needed:
        raise MaintenanceError(
            f"{what} needs {needed / 1e6:,.1f} MB in one file, and none may grow beyond"
            f" {limit / 1e6:,.1f} MB in this process; raise that limit (`ulimit -f`)"
        )
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise MaintenanceError(
            f"{what} needs {needed / 1e6:,.1f} MB in {directory}, and only {free / 1e6:,.1f} MB"
            " are free there; make room or name another directory"
        )


def length_of(source: Path) -> int:
    """How large a copy of a database may become, in bytes."""
    file = source.resolve()
    files = file, file.with_name(f"{file.name}-wal")
    return sum(file.stat().st_size for file in files if file.exists())


def is_part_of(database: str | os.PathLike[str], file: Path) -> bool:
    """Whether a file is that of a database, or one of those beside it."""
    own = Path(database).resolve()
    return file.exists() and any(
        part.exists() and file.samefile(part)
        for part in [own, *(own.with_name(f"{own.name}{ending}") for ending in BESIDE)]
    )


# -- the thread ------------------------------------------------------------------------------------


class _StopError(Exception):
    """The caller has gone."""


async def in_thread(work: Callable[[Look], T]) -> T:
    """Run `work(look)` in a thread of its own, which ends before this returns.

    Cancelled, it waits until `work` has come to its next look, which raises there.
    """
    stop = threading.Event()

    def look() -> None:
        if stop.is_set():
            raise _StopError

    with ThreadPoolExecutor(1, thread_name_prefix="abt_db copy") as thread:
        try:
            future = asyncio.get_running_loop().run_in_executor(thread, work, look)
        except RuntimeError as error:
            raise MaintenanceError(f"{error}, which the work on a file needs") from error
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            await finish(_end_of(future))
            raise


async def _end_of(future: asyncio.Future[T]) -> None:
    await asyncio.wait([future])
    future.exception()  # looked at, so that asyncio does not report it as forgotten


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Have errors of SQLite and of the system say what was being done."""
    try:
        yield
    except QueryError:
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise translate(error, doing=doing) from error
    except OSError as error:
        raise MaintenanceError(f"{doing}: {error.strerror or error}") from error
