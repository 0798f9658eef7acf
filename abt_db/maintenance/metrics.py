"""Figures of a database: its pages, its log, its tables and indexes, and its pool."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from abt_db.connection.session import Session
from abt_db.connection.settings import MEMORY
from abt_db.database import Database
from abt_db.errors import StatementError
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted

SMALL = 64 * 1024 * 1024
"""Bytes up to which a database is measured page by page and row by row without being asked to."""


@dataclass(frozen=True, slots=True)
class TableFigures:
    """A table with rows of its own, and those that a virtual table keeps its data in."""

    name: str
    rows: int | None
    """None where it can't be told without counting."""
    counted: bool
    """Whether `rows` was counted. Otherwise it is what the last ANALYZE found, or the span of the
    rowids, which is too much after rows were deleted."""
    size: int | None
    """Bytes of its pages, without indexes; None where it was not measured."""
    unused: int | None
    """Bytes of these that hold nothing."""
    of: str | None = None
    """The virtual table that keeps its data here; None for any other table, and where SQLite is
    older than 3.37."""


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """An index, those behind PRIMARY KEY and UNIQUE as well."""

    name: str
    table: str
    size: int | None
    unused: int | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """A database at a moment. Sizes are bytes."""

    path: str
    at: datetime
    sqlite_version: str
    journal_mode: str
    page_size: int
    pages: int
    free_pages: int
    """Pages that are in the file and hold nothing."""
    log_size: int
    """Of the write-ahead log's file, 0 without one. It does not shrink when pages are moved."""
    disk_free: int | None
    """What this user may still write on the disk; None in memory."""
    connections: int
    """Those that this `Database` has open; 0 for a file that was only looked at."""
    cache_size: int
    """What the page caches of all of them may take. (How often they hit, Python can't be told.)"""
    mmap_size: int
    """How much of the file each of them reads through memory mapping; 0: nothing, or a file that
    was only looked at."""
    tables: tuple[TableFigures, ...]
    """The largest first, or by name where they were not measured."""
    indexes: tuple[IndexFigures, ...]
    pool: dict[str, Any] | None
    """`Database.stats()`; None for a file that was only looked at."""

    @property
    def size(self) -> int:
        """All pages of the database, those that are still in the log among them."""
        return self.pages * self.page_size

    @property
    def free_size(self) -> int:
        """The pages that hold nothing."""
        return self.free_pages * self.page_size

    def of_the_file(self, *, wal: bool) -> Metrics:
        """Return what is about the file, without those of the connections that looked at it.

        One that is read as immutable says that it has no log: its header knows better.
        """
        mode = "wal" if wal else self.journal_mode
        return replace(self, journal_mode=mode, connections=0, cache_size=0, mmap_size=0, pool=None)


async def metrics(db: Database, *, thorough: bool | None = None) -> Metrics:
    """Return figures of an open database, read in one snapshot on one of its readers.

    `thorough` measures each table and index (where this SQLite has `dbstat`) and counts rows, for
    which the whole file is read: seconds for a gigabyte. Otherwise sizes are left out and rows
    estimated, in a few steps a table. None: thorough up to 64 MiB. Raises as `Database.read` does,
    and may be cancelled at any moment.
    """
    stats = db.stats()

    def read(session: Session) -> tuple[_File, list[TableFigures], list[IndexFigures]]:
        [file] = session.fetch_all(_FILE())
        small = file.page_size * file.pages <= SMALL
        return file, *_figures(session, small if thorough is None else thorough)

    file, tables, indexes = await db.read(read)
    mode = await db.fetch_one(_JOURNAL_MODE()) or ""
    mapped = await db.fetch_one(_MMAP_SIZE()) or 0
    lanes = [lane for lane in (stats["writer"], stats["readers"]) if lane is not None]
    if db.path == MEMORY:
        lanes = lanes[:1]
    connections = sum(lane["size"] for lane in lanes)
    return Metrics(
        path=db.path,
        at=datetime.now(UTC),
        sqlite_version=sqlite3.sqlite_version,
        journal_mode=mode,
        page_size=file.page_size,
        pages=file.pages,
        free_pages=file.free_pages,
        log_size=_log_size(db.path),
        disk_free=_disk_free(db.path),
        connections=connections,
        cache_size=connections * db.config.cache_size,
        mmap_size=mapped,
        tables=tuple(tables),
        indexes=tuple(indexes),
        pool=stats,
    )


@dataclass(frozen=True, slots=True)
class _File:
    page_size: int
    pages: int
    free_pages: int


_FILE = Query(
    "metrics.file",
    "SELECT page_size, page_count AS pages, freelist_count AS free_pages"
    " FROM pragma_page_size, pragma_page_count, pragma_freelist_count",
    _File,
)
_JOURNAL_MODE = Query("metrics.journal_mode", "PRAGMA journal_mode", str)
_MMAP_SIZE = Query("metrics.mmap_size", "PRAGMA mmap_size", int)  # no row: it can't be had
# What has no pages of its own, a virtual table for one, has no root either.
_OBJECTS = Query(
    "metrics.objects",
    "SELECT type, name, tbl_name FROM sqlite_schema WHERE rootpage > 0 ORDER BY name",
)
_SHADOWS = Query("metrics.shadows", "SELECT name FROM pragma_table_list WHERE type = 'shadow'", str)
_CAN_MEASURE = Query(
    "metrics.can_measure",
    "SELECT count(*) > 0 FROM pragma_module_list WHERE name = 'dbstat'",
    bool,
)
_SIZES = Query("metrics.sizes", "SELECT name, pgsize, unused FROM dbstat WHERE aggregate = TRUE")
_HAS_STATISTICS = Query(
    "metrics.has_statistics",
    "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'sqlite_stat1'",
    bool,
)
_STATISTICS = Query("metrics.statistics", "SELECT tbl, stat FROM sqlite_stat1")


def _figures(session: Session, thorough: bool) -> tuple[list[TableFigures], list[IndexFigures]]:
    sizes: dict[str, tuple[int, int]] = {}
    if thorough and session.fetch_one(_CAN_MEASURE()):
        sizes = {name: (size, unused) for name, size, unused in session.fetch_all(_SIZES())}
    believed = {} if thorough else analysed(session)
    knows = sqlite3.sqlite_version_info >= (3, 37)
    shadows = set(session.fetch_all(_SHADOWS())) if knows else set()
    tables, indexes = [], []
    for kind, name, table in session.fetch_all(_OBJECTS()):
        size, unused = sizes.get(name, (None, None))
        if kind == "index":
            indexes.append(IndexFigures(name, table, size, unused))
            continue
        rows = _count(session, name) if thorough else believed.get(name)
        rows = _span(session, name) if rows is None else rows
        # Whose it is, its name tells (https://www.sqlite.org/vtab.html#xshadowname).
        of = name.rpartition("_")[0] if name in shadows else None
        tables.append(TableFigures(name, rows, thorough, size, unused, of))
    tables.sort(key=lambda each: -(each.size or 0))
    indexes.sort(key=lambda each: -(each.size or 0))
    return tables, indexes


def analysed(session: Session) -> dict[str, int]:
    """Return how many rows the last ANALYZE found in each table that it looked at."""
    found: dict[str, int] = {}
    if session.fetch_one(_HAS_STATISTICS()):
        for table, stat in session.fetch_all(_STATISTICS()):
            with suppress(AttributeError, ValueError, IndexError):  # anybody may write to it
                # An index may have fewer, of WHERE; there is always a row with all of them.
                found[table] = max(int(stat.split()[0]), found.get(table, 0))
    return found


def _count(session: Session, table: str) -> int | None:
    query = Query(f"metrics.rows of {table}", f"SELECT count(*) FROM {quoted(table)}", int)
    return session.fetch_one(query())


def _span(session: Session, table: str) -> int | None:
    # Two searches; both in one SELECT would read the whole table.
    name = quoted(table)
    sql = (
        f"SELECT coalesce((SELECT max(rowid) FROM {name}) - (SELECT min(rowid) FROM {name}) + 1, 0)"
    )
    try:
        return session.fetch_one(Query(f"metrics.span of {table}", sql, int)())
    except StatementError:
        return None  # a table WITHOUT ROWID


def readable(size: int) -> str:
    """Return a number of bytes as a person reads it: 4.1 MiB."""
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{size:,} bytes" if unit == "bytes" else f"{amount:,.1f} {unit}"


def _log_size(path: str) -> int:
    try:
        return Path(f"{os.path.realpath(path)}-wal").stat().st_size
    except OSError:
        return 0


def _disk_free(path: str) -> int | None:
    return None if path in ("", MEMORY) else shutil.disk_usage(Path(path).resolve().parent).free
