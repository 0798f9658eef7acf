"""What the figures of a database say: findings, each with a figure and what to do.

Plain functions from figures to findings; who asks for the figures is in `diagnosis.py`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from abt_db.config import Config
from abt_db.connection.settings import MEMORY
from abt_db.sql.scan import quoted

from .backup import PACKED
from .damage import Damage
from .faults import faults_of
from .file import DatabaseFile
from .indexes import Index, Plan, create_index
from .metrics import Metrics, readable
from .processes import Process

MIB = 1024 * 1024

LOG_LIMIT = Config().wal_limit
"""Bytes up to which a write-ahead log is left alone."""
MUCH = 10 * MIB
"""Bytes from which on it is worth while to give them back."""
MANY = 10_000
"""Rows from which on it matters how they are found."""
LARGE = 10**9
"""Bytes from which on it is worth while to ask what a database holds."""
LARGE_TABLE = 10**8
"""The same of a table."""
SMALL_CACHE = 8 * MIB
"""Bytes below which a page cache is small, unless the database is."""
SLOW = 0.010
"""Seconds from which on a query that reads a whole table is worth a word, whatever its size."""


_LACKS_ROWS = re.compile(r"missing from index |wrong # of entries in index ")


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"
    """Something is wrong: data is damaged or lost, or soon will be."""
    WARNING = "warning"
    """It works, and costs more than it has to, or is at risk."""
    NOTE = "note"
    """Worth knowing; nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, in a sentence with its figure."""

    severity: Severity
    subject: str
    """What it is about: "integrity", "log", "index", …"""
    message: str
    remedy: str | None = None
    """The command or the statement that puts it right, if there is one."""


def command(verb: str, path: str, *more: str) -> str:
    """Return a command about a database, to be copied into a shell."""
    return " ".join(["abt-db", verb, "--db", shlex.quote(path), *more])


def _restoring(path: str) -> str:
    return f"{command('restore', path, 'BACKUP')}; without a backup, {_recovering(path)}"


def _unpacking(path: str) -> str:
    if path.endswith(PACKED):
        return f"if it is a backup: abt-db restore --db NEW {shlex.quote(path)}"
    return "unpack it, and look at what comes out"


def _recovering(path: str) -> str:
    return (
        "save what can be read into a new file:"
        f" sqlite3 {shlex.quote(path)} .recover | sqlite3 saved.db"
    )


def of_the_version(version: str, journal_mode: str) -> Iterator[Finding]:
    """The faults of this SQLite that can damage a database, or give wrong results."""
    for fault in faults_of(version, wal=journal_mode == "wal"):
        fixed = ".".join(map(str, fault.fixed))
        yield Finding(
            Severity.WARNING,
            "sqlite",
            f"SQLite {version} {fault.text} (fixed in {fixed}){fault.more}",
            f"use a Python that is built with SQLite {fixed} or later",
        )


def of_the_file(file: DatabaseFile) -> Iterator[Finding]:
    """What the bytes of the file, and what lies beside it, say."""
    path = file.path
    if file.problem is not None:
        yield Finding(
            Severity.ERROR,
            "file",
            f"this is no SQLite database: {file.problem} ({readable(file.size)})",
            _unpacking(path) if "compressed" in file.problem else _restoring(path),
        )
        return
    if file.missing:
        yield Finding(
            Severity.ERROR,
            "file",
            f"it is cut off: {file.pages:,} pages of {file.page_size:,} bytes belong to it, and"
            f" {readable(file.missing)} of them are missing",
            _restoring(path),
        )
    if not file.log_is_one:
        yield Finding(
            Severity.ERROR,
            "log",
            f"{path}-wal ({readable(file.log_size or 0)}) is no write-ahead log: SQLite ignores it,"
            " and what was committed last is lost",
            f"go on without, or {command('restore', path, 'BACKUP')}",
        )
    if file.wal and file.has_index and file.log_size is None:
        yield Finding(
            Severity.ERROR,
            "log",
            f"{path}-wal is gone and {path}-shm is there: the log was deleted, and what was"
            " committed since the last checkpoint with it",
            f"close all programs that have it open, then {command('restore', path, 'BACKUP')}",
        )
    if file.followed and file.wal:
        yield Finding(
            Severity.ERROR,
            "replica",
            "Litestream follows here and can't go on while a WAL database is open, as this one is"
            " by its header",
            f'sqlite3 {shlex.quote(path)} "PRAGMA journal_mode = DELETE"',
        )
    log = file.log
    if log is not None and (log.frames - log.moved) * file.page_size > LOG_LIMIT:
        yield Finding(
            Severity.ERROR,
            "log",
            f"{log.frames - log.moved:,} pages of the write-ahead log"
            f" ({readable((log.frames - log.moved) * file.page_size)}) are not in the database yet;"
            f" {readable(LOG_LIMIT)} should be enough",
            f"end the readers named here, then {command('checkpoint', path)}",
        )


def of_sizes(metrics: Metrics) -> Iterator[Finding]:
    """The file, its log and the disk."""
    path, size, free = metrics.path, metrics.size, metrics.disk_free
    if free is not None and free < max(size // 20, 16 * MIB):
        yield Finding(
            Severity.ERROR,
            "disk",
            f"{readable(free)} are left on the disk, for a database of {readable(size)}: writes"
            " will fail soon",
            "make room: on another disk, or, for what the database does not need"
            f" ({readable(metrics.free_size)}), {command('vacuum', path)}",
        )
    elif free is not None and free < 2 * size:
        yield Finding(
            Severity.WARNING,
            "disk",
            f"{readable(free)} are left on the disk: a VACUUM, which may need twice the"
            f" {readable(size)} of the database, has no room",
            f"make room, or a copy elsewhere: {command('vacuum', path, '--into FILE')}",
        )
    if metrics.log_size > LOG_LIMIT:
        yield Finding(
            Severity.WARNING,
            "log",
            f"the write-ahead log's file has {readable(metrics.log_size)};"
            f" {readable(LOG_LIMIT)} should be enough",
            command("checkpoint", path, "--mode truncate"),
        )
    if metrics.free_size > MUCH and metrics.free_pages * 4 > metrics.pages:
        yield Finding(
            Severity.WARNING,
            "space",
            f"{readable(metrics.free_size)} of {readable(size)} hold nothing",
            command("vacuum", path),
        )
    for table in metrics.tables:
        if table.size and table.unused and table.unused > MUCH and 3 * table.unused > table.size:
            yield Finding(
                Severity.NOTE,
                "space",
                f"the pages of table {table.name} are half empty:"
                f" {readable(table.unused)} of {readable(table.size)} hold nothing",
                command("vacuum", path),
            )
    yield from _of_growth(metrics)


def _of_growth(metrics: Metrics) -> Iterator[Finding]:
    """A large database, and what is large in it."""
    path, size = metrics.path, metrics.size
    indexes: dict[str, list[int]] = {}
    for index in metrics.indexes:
        indexes.setdefault(index.table, []).append(index.size or 0)
    whole = {each: (each.size or 0) + sum(indexes.get(each.name, ())) for each in metrics.tables}
    if size > LARGE:
        largest = sorted(whole, key=whole.__getitem__, reverse=True)[:3]
        shares = {each.name: 100 * whole[each] // size for each in largest}
        told = ", ".join(f"{name} {share} %" for name, share in shares.items() if share)
        yield Finding(
            Severity.NOTE,
            "size",
            f"the database has {readable(size)}"
            + (f"; what tables and their indexes have of it: {told}" if told else ""),
            f"DELETE, in steps, what nobody needs any more, then {command('vacuum', path)}",
        )
    for table in whole:
        own, beside = table.size or 0, indexes.get(table.name, [])
        if own <= LARGE_TABLE:
            continue
        rows = f" in {table.rows:,} rows" if table.rows else ""
        if table.of is not None:
            yield Finding(
                Severity.NOTE,
                "size",
                f"table {table.name}, where the virtual table {table.of} keeps its data, has"
                f" {readable(own)}{rows}",
                f"DELETE, in steps, the rows of {table.of} that nobody needs any more",
            )
            continue
        message = f"table {table.name} has {readable(own)}{rows}"
        remedy = "DELETE, in steps, the rows that nobody needs any more"
        if beside:
            message += f", and {readable(sum(beside))} in its indexes"
        else:
            message += "; without an index, a query by anything but its key reads all of it"
            remedy += ", and CREATE INDEX on the columns by which queries look for rows"
        yield Finding(Severity.NOTE, "size", message, remedy)


def of_settings(metrics: Metrics, config: Config | None, *, writes: bool) -> Iterator[Finding]:
    """The journal mode of a database, and what its connections keep in memory. `config` is that of
    the connections that use it; None: it was only looked at, and nobody knows theirs."""
    path, size = metrics.path, metrics.size
    if path == MEMORY:
        return
    if metrics.journal_mode != "wal" and not (config and config.immutable):
        yield Finding(
            Severity.WARNING,
            "journal",
            f"journal_mode is {metrics.journal_mode}: who reads waits for who writes, and a commit"
            " waits for 2 fsyncs at least; with a write-ahead log nobody waits so, and a commit has"
            " none with synchronous=NORMAL, 1 with FULL",
            'open it with Config(journal_mode="wal")'
            if config and writes
            else f'sqlite3 {shlex.quote(path)} "PRAGMA journal_mode = WAL"',
        )
    if config is None:
        return
    if config.cache_size < min(size, SMALL_CACHE):
        yield Finding(
            Severity.WARNING,
            "cache",
            f"cache_size is {readable(config.cache_size)} for a database of {readable(size)}: a"
            " query that needs more pages than fit reads some of them again and again",
            f"open it with Config(cache_size={_enough(size, Config().cache_size)})",
        )
    if config.mmap_size == 0 and size > max(config.cache_size, SMALL_CACHE):
        yield Finding(
            Severity.NOTE,
            "mmap",
            f"mmap_size is 0 for a database of {readable(size)}: each page that is not in the cache"
            f" of {readable(config.cache_size)} is copied by a call of the system",
            f"open it with Config(mmap_size={_enough(size, Config().mmap_size)}), unless another"
            " program may cut the file off, which would end this one",
        )


def _enough(size: int, most: int) -> str:
    """Bytes for all of a database, as they are written in a program."""
    return f"{min(-(-size // MIB), most // MIB)} * 1024 * 1024"


def of_replication(metrics: Metrics, config: Config, *, writes: bool) -> Iterator[Finding]:
    """Litestream, which wants to be the only one who checkpoints."""
    replicated = any(table.name == "_litestream_seq" for table in metrics.tables)
    if replicated and writes and config.wal_autocheckpoint:
        yield Finding(
            Severity.WARNING,
            "replica",
            "Litestream replicates this database, and the Database makes checkpoints of its own"
            f" every {config.wal_autocheckpoint:,} pages, which can cost it a copy of"
            f" {readable(metrics.size)}",
            "open it with Config.replicated()",
        )


def of_processes(
    looks: Sequence[Collection[Process]], seconds: float, *, log_is_held: bool
) -> Iterator[Finding]:
    """Processes that stood at the same place of the log in all of several looks."""
    for process in looks[-1]:
        views = process.views
        for look in looks:
            views &= next((each.views for each in look if each.pid == process.pid), frozenset())
        if views:
            yield Finding(
                Severity.WARNING if log_is_held else Severity.NOTE,
                "reader",
                f"process {process.pid} ({process.command or 'of another user'}) was reading the"
                f" same state all the time, for {seconds:.1f} s at least: the write-ahead log can't"
                " be emptied meanwhile",
                "end its transaction, or the process" if log_is_held else None,
            )


def of_damage(path: str, messages: Sequence[str], damage: Sequence[Damage]) -> Iterator[Finding]:
    """What SQLite's check has said, and what of the tables can be read."""
    told = "; ".join(message.replace("\n", " ") for message in messages[:3])
    more = f"; and {len(messages) - 3} more" if len(messages) > 3 else ""
    # Of an index whose own pages are damaged REINDEX can't even give them back.
    sound = all(_LACKS_ROWS.search(message) for message in messages)
    yield Finding(
        Severity.ERROR,
        "integrity",
        f"the database is damaged: {told}{more}",
        None if damage else _restoring(path),
    )
    for each in damage:
        table = quoted(each.table)
        if each.only_indexes:
            message = f"an index of table {each.table} is damaged; its {each.rows:,} rows are whole"
            remedy = f"REINDEX {table}" if sound else _recovering(path)
        else:
            message = f"table {each.table} is damaged; {each.rows:,} rows can be read before that"
            remedy = _restoring(path)
        yield Finding(Severity.ERROR, "integrity", message, remedy)


def of_indexes(
    metrics: Metrics,
    covered: Sequence[tuple[Index, Index]],
    vague: Sequence[tuple[Index, int, int]],
    unindexed: Sequence[tuple[str, str, list[str]]],
) -> Iterator[Finding]:
    """Indexes that can go, and foreign keys without one."""
    sizes = {each.name: each.size for each in metrics.indexes}
    rows = {each.name: each.rows or 0 for each in metrics.tables}

    def weight(index: Index) -> str:
        size = sizes.get(index.name)
        return "" if size is None else f" ({readable(size)})"

    for index, other in covered:
        yield Finding(
            Severity.WARNING,
            "index",
            f"index {index.name}{weight(index)} is not needed: {other.name} begins with the same"
            f" columns ({', '.join(map(str, index.names))})",
            f"DROP INDEX {quoted(index.name)}",
        )
    for index, each, of_all in vague:
        yield Finding(
            Severity.NOTE,
            "index",
            f"index {index.name}{weight(index)} tells little: a value of {index.names[0]} stands in"
            f" {each:,} of {of_all:,} rows on average",
            f"DROP INDEX {quoted(index.name)}, if no query needs it for the rarer values",
        )
    for table, parent, columns in unindexed:
        found = rows.get(table, 0)
        yield Finding(
            Severity.WARNING if found >= MANY else Severity.NOTE,
            "index",
            f"the foreign key {table} ({', '.join(columns)}) has no index: each DELETE in {parent}"
            f" reads all {found:,} rows of {table}",
            create_index(table, columns),
        )


def of_statistics(
    metrics: Metrics, analysed: Mapping[str, int], all_of_them: Collection[Index]
) -> Iterator[Finding]:
    """What SQLite believes of the tables when it chooses between indexes."""
    tables = {index.table for index in all_of_them if index.created}
    for table in metrics.tables:
        rows, believed = table.rows or 0, analysed.get(table.name)
        if table.name not in tables or rows < MANY:
            continue
        if believed is None or not rows <= 10 * believed <= 100 * rows:
            thought = "nothing" if believed is None else f"that it has {believed:,}"
            yield Finding(
                Severity.NOTE,
                "statistics",
                f"table {table.name} has {rows:,} rows, and SQLite, which chooses between its"
                f" indexes, knows {thought}",
                command("optimize", metrics.path),
            )


def of_plans(
    metrics: Metrics, plans: Sequence[Plan], created: Sequence[Index]
) -> Iterator[Finding]:
    """Queries that read whole tables, and indexes that none of those queries uses which ran."""
    rows = {each.name: each.rows or 0 for each in metrics.tables}
    ran = {} if metrics.pool is None else metrics.pool["queries"]
    plans = [plan for plan in plans if plan.query in ran]
    for plan in plans:
        figures = ran[plan.query]
        cost = f"ran {figures['count']:,} times, {1000 * figures['mean']:,.1f} ms on average"
        for table in plan.sought:
            yield Finding(
                Severity.WARNING,
                "query",
                f"query {plan.query!r} builds an index of {table} each time ({cost})",
                f"CREATE INDEX on the columns of {table} that it joins by",
            )
        for table in plan.scans:
            if rows.get(table, 0) >= MANY or figures["mean"] >= SLOW:
                many = f"all {rows[table]:,} rows" if table in rows else "every row"
                yield Finding(
                    Severity.WARNING,
                    "query",
                    f"query {plan.query!r} reads {many} of {table} ({cost})",
                    f"CREATE INDEX on the columns of {table} in its WHERE or ORDER BY",
                )
    used = {name for plan in plans for name in plan.uses}
    for index in created if plans else ():
        if index.created and not index.unique and index.name not in used:
            yield Finding(
                Severity.NOTE,
                "index",
                f"index {index.name} is used by no query that ran, of {len(plans)} looked at",
                f"DROP INDEX {quoted(index.name)}, if no other program needs it",
            )
