"""The doctor: looks at a database from all sides, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from abt_db.connection.session import Session
from abt_db.connection.settings import MEMORY, is_followed
from abt_db.database import Database
from abt_db.errors import BusyError, CorruptError, PoolTimeoutError, QueryError, StatementError
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted

from . import findings
from .damage import Damage, damaged_tables
from .file import DatabaseFile
from .findings import Finding, Severity
from .indexes import covered, indexes, plans, unindexed_keys, vague
from .metrics import Metrics, analysed, metrics
from .processes import Process, processes_of

LOOKS, PAUSE = 10, 0.05
"""How often to look who reads, and the seconds between two looks."""

AGE = 5.0
"""Seconds from which on a transaction of this process is worth a word."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor has found."""

    path: str
    sqlite_version: str
    check: str
    """``"quick"`` or ``"full"``: how the pages were checked."""
    settings: dict[str, dict[str, Any]]
    """The PRAGMAs of the ``"reader"`` and, unless it is read-only, of the ``"writer"``; of a file
    that was only looked at, those that are in the ``"file"``."""
    metrics: Metrics | None
    """None where the file is too damaged to be measured."""
    file: DatabaseFile | None
    """None for a database that this process has open."""
    processes: tuple[Process, ...] | None
    """The processes that have it open; None where nobody can tell."""
    findings: tuple[Finding, ...]
    """The worst first."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; there may be warnings."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    def with_more(self, more: Sequence[Finding]) -> Diagnosis:
        """Return it with further findings among its own."""
        return replace(self, findings=_in_order([*self.findings, *more]))


async def diagnose(
    db: Database,
    *,
    full: bool = False,
    queries: Sequence[Query[Any]] = (),
    file: DatabaseFile | None = None,
) -> Diagnosis:
    """Look at an open database; never writes.

    The whole file is read, on one of the readers (a second or so a gigabyte, several where `full`
    also holds every index against its table); the write-ahead log can't be emptied meanwhile.
    `queries` are those of the application: those that have run on `db` are looked at for tables
    that they read from end to end and for indexes that none of them uses. `file` is what `look_at`
    told before `db` was opened. CHECK constraints are left out: SQLite does not read those of a
    file that it opens read-only, as readers do.

    What is found is a `Finding`, damage as well. Raises `PoolTimeoutError`, `BusyError` and other
    errors that say nothing of the database. May be cancelled at any moment.
    """
    path = db.path
    found: list[Finding] = list(findings.of_the_file(file)) if file else []
    measured: Metrics | None = None
    messages = await _checked(db, full)
    if not messages:
        measured = await metrics(db, thorough=True)
        told = measured if file is None else measured.of_the_file(wal=file.wal)
        found += findings.of_the_version(told.sqlite_version, told.journal_mode)
        found += findings.of_sizes(measured)
        found += findings.of_replication(measured, db.config, writes=not db.read_only)
        if not is_followed(path):  # Litestream needs such a file as it is
            config = db.config if file is None else None
            found += findings.of_settings(told, config, writes=not db.read_only)
        found += await _of_keys(db)
        found += await db.read(_of_indexes, measured, queries)
        measured = told
    else:
        found += await _of_damage(db, messages)
    settings, problem = await _settings(db, file)
    found += [problem] if problem else []
    found += _of_transactions(db)
    found += await _of_readers(path, log_is_held=_is_held(file, measured))
    return Diagnosis(
        path=path,
        sqlite_version=sqlite3.sqlite_version,
        check="full" if full else "quick",
        settings=settings,
        metrics=measured,
        file=file,
        processes=processes_of(path),
        findings=_in_order(found),
    )


def _in_order(found: Sequence[Finding]) -> tuple[Finding, ...]:
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


# -- the parts -----------------------------------------------------------------------------------

_QUICK = Query("doctor.quick_check", "PRAGMA quick_check(20)", str)
_FULL = Query("doctor.integrity_check", "PRAGMA integrity_check(20)", str)
_VIOLATIONS = Query(
    "doctor.foreign_key_check",
    'SELECT "table", parent, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2',
)
# What a row must not have, and has: no damage, and no index is at fault.
_CONSTRAINT = re.compile(r"[A-Z-]+ value in |CHECK constraint failed")

_IN_THE_FILE = {"auto_vacuum", "page_size", "encoding", "application_id", "user_version"}
_SETTINGS = {
    name: Query(f"doctor.{name}", f"PRAGMA {name}", tuple)
    for name in (
        *("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "cache_size", "mmap_size"),
        *("temp_store", "wal_autocheckpoint", "journal_size_limit", "auto_vacuum", "page_size"),
        *("encoding", "trusted_schema", "cell_size_check", "query_only", "application_id"),
        "user_version",
    )
}


async def _checked(db: Database, full: bool) -> list[str]:
    """What SQLite's check says; nothing if all is well."""
    try:
        messages = await db.fetch_all((_FULL if full else _QUICK)())
    except CorruptError as error:
        return [str(error)]
    return [] if messages == ["ok"] else messages


async def _of_damage(db: Database, messages: list[str]) -> list[Finding]:
    damaged = [message for message in messages if not _CONSTRAINT.match(message)]
    found = [
        Finding(
            Severity.ERROR,
            "integrity",
            f"rows break a constraint of their table: {message}",
            "find them with a SELECT, and correct them",
        )
        for message in messages
        if message not in damaged
    ]
    if damaged:
        tables: list[Damage] = []
        try:
            tables = await db.read(damaged_tables)
        except QueryError as error:
            damaged.append(str(error))  # not even the schema can be read
        found += findings.of_damage(db.path, damaged, tables)
    return found


async def _of_keys(db: Database) -> list[Finding]:
    try:
        violations = await db.fetch_all(_VIOLATIONS())
    except StatementError as error:
        return [Finding(Severity.ERROR, "foreign keys", f"they can't be checked: {error}")]
    return [
        Finding(
            Severity.ERROR,
            "foreign keys",
            f"rows of {table} that refer to one of {parent} which is not there: {count:,}",
            f"PRAGMA foreign_key_check({quoted(table)}) lists them; delete them, or add what is"
            " missing",
        )
        for table, parent, count in violations
    ]


def _of_indexes(
    session: Session, measured: Metrics, queries: Sequence[Query[Any]]
) -> list[Finding]:
    found = indexes(session)
    told = findings.of_indexes(
        measured,
        list(covered(found)),
        list(vague(session, found, least=findings.MANY)),
        list(unindexed_keys(session, found)),
    )
    return [
        *told,
        *findings.of_statistics(measured, analysed(session), found),
        *findings.of_plans(measured, plans(session, queries), found),
    ]


async def _settings(
    db: Database, file: DatabaseFile | None
) -> tuple[dict[str, dict[str, Any]], Finding | None]:
    settings = {"reader": await db.read(_read_settings)}
    if file is not None:
        kept = {name: value for name, value in settings["reader"].items() if name in _IN_THE_FILE}
        return {"file": {"journal_mode": "wal", **kept} if file.wal else kept}, None
    if db.read_only or db.path == MEMORY:
        return settings, None
    try:
        # In a transaction that writes nothing: that is how to get at the writer's connection.
        settings["writer"] = await db.write(_read_settings)
    except (PoolTimeoutError, BusyError) as error:
        return settings, Finding(Severity.WARNING, "writer", f"it could not be asked: {error}")
    return settings, None


def _read_settings(session: Session) -> dict[str, Any]:
    # A setting that this SQLite does not know returns no row.
    rows = {name: session.fetch_one(query()) for name, query in _SETTINGS.items()}
    return {name: row[0] for name, row in rows.items() if row}


def _of_transactions(db: Database) -> Iterator[Finding]:
    for each in db.stats()["transactions"]:
        if each["age"] >= AGE:
            yield Finding(
                Severity.WARNING,
                "reader" if "snapshot" in each["label"] else "transaction",
                f"{each['label']} of task {each['task']!r} has been open for {each['age']:.1f} s",
                "end it: while it is open, the write-ahead log can't be emptied",
            )


async def _of_readers(path: str, *, log_is_held: bool) -> list[Finding]:
    """Look several times: many readers that come and go are not one that stays."""
    began = monotonic()
    looks = [_others(path)]
    while looks[-1] and len(looks) < LOOKS:
        await asyncio.sleep(PAUSE)
        looks.append(_others(path))
    return [*findings.of_processes(looks, monotonic() - began, log_is_held=log_is_held)]


def _others(path: str) -> list[Process]:
    """The other processes that read."""
    return [each for each in processes_of(path) or () if each.views and each.pid != os.getpid()]


def _is_held(file: DatabaseFile | None, measured: Metrics | None) -> bool:
    """Whether pages wait in the log for somebody to let go of them."""
    if file is not None and file.log is not None:
        return file.log.frames > file.log.moved
    return measured is not None and measured.log_size > findings.LOG_LIMIT
