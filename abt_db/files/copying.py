"""Copies a database while it is in use, and checks the copy.

Work on whole files uses plain connections of `sqlite3`, opened by `connected`, which is the only
place outside `abt_db.connection` that opens any. The driver's connections don't fit: SQLite's
backup uses two connections in one call, on one thread, and a file is checked, locked against all
other processes and put in place in steps that must not wait for an event loop in between. A lane's
connections don't fit either: no caller's statement runs here, and a connection lives only as long
as its block. So each such work is one blocking function in a thread of its own, see `in_thread`.
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
"""Called with the amount that is done and the total, in the thread that does the work."""

Look = Callable[[], None]
"""Called between two steps of long work; raises if the caller was cancelled."""

PAGES = 1_000
"""How many pages are copied between two calls of `Look`."""

STEPS = 100_000
"""How many steps SQLite's virtual machine takes between two calls of `Look`."""


async def copy_database(source: str, target: str | os.PathLike[str], tell: Tell) -> int:
    """Copy the database at `source` to the new file `target`, as it is at one moment; return the
    size of the copy in bytes.

    Other connections may read and write meanwhile. `tell` gets the number of copied pages and their
    total, in the thread that copies. Raises `MaintenanceError` if `target` exists, if a log or
    journal of that name exists, or if the source is in memory, and a `QueryError` if SQLite fails.
    A copy that fails leaves no file behind; a copy that is cancelled leaves none either, unless it
    was cancelled in its last moment, when it is complete. No user may read the copy who may not
    read the source.
    """
    return await _copied(source, target, tell, copy_pages)


async def vacuum_into(source: str, target: str | os.PathLike[str], tell: Tell) -> int:
    """Copy as `copy_database` does, but by VACUUM INTO: the copy has no free pages, and the pages
    of each table are in order."""
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
                    f"{beside} exists and belongs to another database; SQLite would use it with the"
                    " copy, and damage the copy: move it away, or name another file"
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
    """Copy a database page by page, from one consistent view; the copy has no write-ahead log."""

    def progress(_status: int, remaining: int, total: int) -> None:
        tell(total - remaining, total)
        look()

    target = uri(str(part), Config(), "writer")
    with closing(_opened(source)) as old, closing(connected(target)) as new:
        # One view: otherwise a write of another connection makes the backup begin again.
        old.execute("BEGIN")
        old.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        old.backup(new, pages=PAGES, progress=progress, sleep=0.01)
        # No WAL mode: otherwise reading the copy would create more files beside it.
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
        # As a URI, because a path may have bytes that are not text, or begin with "file:".
        old.execute("VACUUM INTO ?", (uri(str(part), Config(), "writer"),))


def connected(name: str, *, timeout: float = 5.0) -> sqlite3.Connection:
    """Return a plain connection to the file of the URI `name` (see `connection.settings.uri`), for
    use in the current thread. It waits `timeout` seconds for the locks of other connections."""
    return sqlite3.connect(name, uri=True, timeout=timeout, isolation_level=None)


def _opened(source: str) -> sqlite3.Connection:
    if source == MEMORY:
        raise MaintenanceError("a database in memory can't be copied to a file; give it one")
    check_path(source, Config(create=False), "follower")
    db = connected(uri(source, Config(), "follower"))
    try:
        # Read something: only then does SQLite find out whether it must write files to read.
        db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except sqlite3.Error as error:
        db.close()
        told = translate(error, doing=f"opening {source}")
        if isinstance(told, CantOpenError | ReadOnlyError):
            raise unreadable(source, told) from error
        raise
    return db


def check_file(file: Path, source: str | Path, look: Look) -> None:
    """Raise `CorruptError` if `file`, a copy of `source`, is not an undamaged database. No
    connection may have the file open."""
    if file.stat().st_size == 0:
        raise CorruptError(f"{source} is empty, and no database", code=sqlite3.SQLITE_NOTADB)
    with closing(connected(uri(str(file), Config(immutable=True), "follower"))) as db:
        db.set_progress_handler(look, STEPS)
        problems = [problem for (problem,) in db.execute("PRAGMA quick_check(1)")]
    if problems != ["ok"]:
        first = problems[0].splitlines()[-1]  # the line before that names the database
        raise CorruptError(
            f"{source} is damaged: {first}", code=sqlite3.SQLITE_CORRUPT, name="SQLITE_CORRUPT"
        )


def check_room(directory: Path, needed: int, what: str) -> None:
    """Raise `MaintenanceError` if a file of `needed` bytes can't be written to `directory`."""
    if (limit := largest_file()) is not None and limit < needed:
        raise MaintenanceError(
            f"{what} needs {needed / 1e6:,.1f} MB in one file, and no file may grow beyond"
            f" {limit / 1e6:,.1f} MB in this process; raise that limit (`ulimit -f`)"
        )
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise MaintenanceError(
            f"{what} needs {needed / 1e6:,.1f} MB in {directory}, and only {free / 1e6:,.1f} MB"
            " are free there; make room or name another directory"
        )


def length_of(source: Path) -> int:
    """Return how large a copy of a database may become, in bytes."""
    file = source.resolve()
    files = file, file.with_name(f"{file.name}-wal")
    return sum(file.stat().st_size for file in files if file.exists())


def is_part_of(database: str | os.PathLike[str], file: Path) -> bool:
    """Whether `file` is the file of a database, or a log or journal beside it."""
    own = Path(database).resolve()
    return file.exists() and any(
        part.exists() and file.samefile(part)
        for part in [own, *(own.with_name(f"{own.name}{ending}") for ending in BESIDE)]
    )


# -- the thread ------------------------------------------------------------------------------------


class _StopError(Exception):
    """Raised in the thread if the caller was cancelled."""


async def in_thread(work: Callable[[Look], T]) -> T:
    """Run `work(look)` in a thread of its own, which ends before this returns.

    If the caller is cancelled, the next call of ``look()`` in `work` raises, and this waits until
    `work` has ended.
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
    future.exception()  # retrieved, so that asyncio does not log that it never was


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Translate errors of SQLite and of the system into errors of the library that say what was
    being done."""
    try:
        yield
    except QueryError:
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise translate(error, doing=doing) from error
    except OSError as error:
        raise MaintenanceError(f"{doing}: {error.strerror or error}") from error
