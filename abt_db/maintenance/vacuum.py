"""VACUUM: giving free pages back to the disk, all at once or step by step."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TypeVar

from abt_db.config import Config
from abt_db.connection.busy import while_busy
from abt_db.connection.deadline import Deadline, finish
from abt_db.connection.settings import MEMORY
from abt_db.connection.transaction import EngineSession
from abt_db.database import Database
from abt_db.errors import AbtDbError, BusyError, MaintenanceError
from abt_db.files.copying import Tell, check_room
from abt_db.pool.loan import Loan
from abt_db.sql.query import Query

from .processes import processes_with

T = TypeVar("T")

PAGES = 500
"""Given back in one step: some milliseconds."""

LOOK = 0.2
"""Seconds between two looks at how much VACUUM has written."""

PATIENT = 30.0
"""Seconds to wait for programs that go on using a database when they have been met."""

INCREMENTAL = 2
"""Of PRAGMA auto_vacuum: free pages can be given back without VACUUM."""


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a VACUUM has gained. Sizes in bytes."""

    before: int
    after: int
    seconds: float

    @property
    def gained(self) -> int:
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class _Pages:
    size: int
    count: int
    free: int
    auto_vacuum: int
    journal: str

    @classmethod
    def of(cls, session: EngineSession) -> _Pages:
        names = ("page_size", "page_count", "freelist_count", "auto_vacuum", "journal_mode")
        return cls(*(session.control(f"PRAGMA {name}")[0][0] for name in names))


async def vacuum(
    db: Database,
    *,
    make_incremental: bool = False,
    timeout: float | None = None,
    tell: Tell = lambda done, total: None,
) -> Vacuumed:
    """Write the database anew, without free pages and with its tables in order (VACUUM).

    Reads go on. Writes, of other processes too, wait until it is done, which may be longer than
    they have patience for (`Config.acquire_timeout`, for those of others `Config.busy_timeout`): a
    gigabyte takes some ten seconds. After `timeout` seconds, or cancelled, it is given up with a
    `StatementTimeoutError` and nothing has changed. It needs room for two copies of what is in the
    database: one where temporary files go, one in the write-ahead log; `MaintenanceError` says how
    much is missing. `make_incremental` is for `vacuum_step_by_step` from then on. On Linux `tell`
    gets bytes written and about how many there will be, a few times a second.
    """
    before = f"PRAGMA auto_vacuum = {INCREMENTAL}" if make_incremental else None
    done, _ = await _vacuum(db, before, timeout, tell)
    return done


async def change_page_size(
    path: str | os.PathLike[str],
    page_size: int,
    *,
    timeout: float | None = None,
    tell: Tell = lambda done, total: None,
) -> Vacuumed:
    """Write the database in the file `path` anew, with pages of `page_size` bytes (VACUUM).

    SQLite changes that only without a write-ahead log. A file in WAL mode is taken out of it and
    put back, which can be done only while no other connection has it open, of this process or of
    any other: `MaintenanceError` otherwise, with nothing changed. A program that opens the database
    meanwhile waits until it is done, or is refused by its own `busy_timeout`.

    `timeout`, `tell`, the room that is needed and the other errors are those of `vacuum`. When it
    fails or is given up, the pages are as they were; cancelled, that or all of them are new.
    Killed, it may leave the file whole, but without a write-ahead log until it is next opened with
    one, as `Config()` does. Raises `ConfigError` for what can't be the size of a page.
    """
    async with Database(path, config=_ALONE, read_only=True) as db:
        logged = await db.fetch_one(_JOURNAL_MODE()) == "wal"
    # In WAL mode those that have it open are not waited for: that may be for ever.
    config = replace(_ALONE, page_size=page_size, busy_timeout=1.0 if logged else PATIENT)
    try:
        async with Database(path, config=config) as db:
            done, pages = await _vacuum(db, f"PRAGMA page_size = {page_size}", timeout, tell)
    except BaseException as error:
        if logged:
            try:
                await finish(_into_wal(path))
            except AbtDbError as second:
                error.add_note(f"It could not be put back into WAL mode: {second}")
        if logged and isinstance(error, BusyError):
            found = processes_with(Path(os.path.realpath(path)))
            who = f" (process {', '.join(map(str, sorted(found)))})" if found else ""
            raise MaintenanceError(
                f"{path} is open elsewhere{who}; to change the size of its pages it has to leave"
                " WAL mode for a while, which it can when nobody else has it open"
            ) from error
        raise
    if logged:
        try:
            await finish(_into_wal(path))
        except AbtDbError as error:
            raise MaintenanceError(
                f"{path} has pages of {pages.size} bytes now, and could not be put back into WAL"
                f" mode, which the next program does that opens it with Config(): {error}"
            ) from error
    if pages.size != page_size:
        raise MaintenanceError(
            f"{path} still has pages of {pages.size} bytes, for another program has opened it"
            " in WAL mode meanwhile; try again when none does"
        )
    return done


async def vacuum_step_by_step(
    db: Database, *, pages: int | None = None, tell: Tell = lambda done, total: None
) -> Vacuumed:
    """Give free pages back to the disk, `pages` at most, in steps that take milliseconds and
    between which others write. The tables stay where they are.

    Only for databases with ``auto_vacuum = incremental``; `MaintenanceError` for others. `tell`
    gets the pages given back so far and how many there were. Cancelled, what is done is done.
    """
    began = monotonic()

    def step(session: EngineSession, most: int) -> tuple[_Pages, _Pages]:
        with session.transaction("IMMEDIATE"):
            before = _Pages.of(session)
            if most:
                session.control(f"PRAGMA incremental_vacuum({most})")
            return before, _Pages.of(session)

    async def run(most: int) -> tuple[_Pages, _Pages]:
        async with db.writer(label="vacuum, step by step") as loan:
            return await _when_free(db, loan, lambda session: step(session, most), None)

    first, last = await run(0)
    if not first.auto_vacuum:
        raise MaintenanceError(
            f"{db.path} can't be made smaller step by step: its auto_vacuum is off;"
            " vacuum(db, make_incremental=True) (abt-db vacuum --make-incremental) changes that"
        )
    wanted = first.free if pages is None else min(pages, first.free)
    while (left := last.free - (first.free - wanted)) > 0:
        before, last = await run(min(left, PAGES))
        tell(wanted - min(wanted, left - (before.free - last.free)), wanted)
        if last.free >= before.free:
            break
    return Vacuumed(first.count * first.size, last.count * last.size, monotonic() - began)


# -- inside ----------------------------------------------------------------------------------------

_ALONE = Config(readers=1, create=False, journal_mode="delete", slow_transaction=None, wal_limit=0)
_JOURNAL_MODE = Query("vacuum.journal_mode", "PRAGMA journal_mode", str)


async def _into_wal(path: str | os.PathLike[str]) -> None:
    config = replace(_ALONE, journal_mode="wal", busy_timeout=PATIENT)
    async with Database(path, config=config):
        pass


async def _vacuum(
    db: Database, first: str | None, timeout: float | None, tell: Tell
) -> tuple[Vacuumed, _Pages]:
    """VACUUM, behind the setting `first`, which it carries out; return the pages of now as well."""
    began = monotonic()
    async with _undisturbed(db) as loan:
        before = await loan.run(_Pages.of, Deadline())
        _check_room(db, before)

        def run(session: EngineSession) -> None:
            with _in_files(session, db.config.temp_store):
                if first is not None:
                    session.control(first)
                session.run_sql("VACUUM", doing="VACUUM", privileged=True)

        async with _told(db, tell, 2 * _needed(before)):
            await _when_free(db, loan, run, timeout)
        after = await loan.run(_Pages.of, Deadline())
    if before.journal == "wal":
        await db.checkpoint("truncate")  # what was gained is the disk's only now
    gain = Vacuumed(before.count * before.size, after.count * after.size, monotonic() - began)
    return gain, after


def _undisturbed(db: Database) -> AbstractAsyncContextManager[Loan]:
    # Without a write-ahead log our own readers would be in the way.
    lend = db.writer if db.config.journal_mode == "wal" else db.barrier
    return lend(label="VACUUM")


async def _when_free(
    db: Database, loan: Loan, function: Callable[[EngineSession], T], timeout: float | None
) -> T:
    """Run a function, again while another process's lock is in the way."""
    deadline = Deadline.after(timeout)
    limit = Deadline.after(db.config.busy_timeout)
    return await while_busy(lambda: loan.run(function, deadline), limit)


def _check_room(db: Database, pages: _Pages) -> None:
    if db.path == MEMORY:
        return
    needed = _needed(pages)
    log, temporary = Path(db.path).resolve().parent, _temporary()
    if log.stat().st_dev == temporary.stat().st_dev:
        check_room(log, 2 * needed, f"VACUUM of {db.path}")
    else:
        check_room(log, needed, f"VACUUM of {db.path}")
        check_room(temporary, needed, f"VACUUM of {db.path}")


def _needed(pages: _Pages) -> int:
    return (pages.count - pages.free) * (pages.size + 24)  # each page of the log has a header


@asynccontextmanager
async def _told(db: Database, tell: Tell, total: int) -> AsyncIterator[None]:
    """A block in which `tell` is told how much VACUUM has written. SQLite does not say; but first a
    temporary file grows, which has no name any more, and then the log, or the journal."""
    beside = [Path(f"{os.path.realpath(db.path)}-{kind}") for kind in ("wal", "journal")]

    def written() -> int:
        return max(map(_size_of, _temporary_files()), default=0) + sum(map(_size_of, beside))

    async def look(before: int) -> None:
        done = 0
        while True:
            await asyncio.sleep(LOOK)
            done = max(done, written() - before)
            tell(min(done, total), total)

    if not _OPEN_FILES.is_dir():
        yield
        return
    looking = asyncio.create_task(look(written()))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        if not looking.cancelled():
            looking.result()  # raises what `tell` has raised


_OPEN_FILES = Path("/proc/self/fd")


def _temporary_files() -> Iterator[Path]:
    """The temporary files that SQLite has open in this process."""
    for link in _OPEN_FILES.iterdir():
        with suppress(FileNotFoundError):  # it has been closed
            if "/etilqs_" in str(link.readlink()):
                yield link


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _temporary() -> Path:
    """Where SQLite makes its temporary files (https://www.sqlite.org/tempfiles.html)."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"))
    for place in (*named, "/var/tmp", "/usr/tmp", "/tmp"):
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    return Path()


@contextmanager
def _in_files(session: EngineSession, store: str) -> Iterator[None]:
    """A block in which what is temporary is on disk: a second database need not fit in memory."""
    [(tables,)] = session.control("SELECT count(*) FROM sqlite_temp_schema")
    if tables:
        yield  # to change it would drop them
        return
    session.control("PRAGMA temp_store = file")
    try:
        yield
    finally:
        session.control(f"PRAGMA temp_store = {store}")
