"""Settings: one frozen, validated value for everything that can be chosen about a database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, TypeVar

from .errors import ConfigError

T = TypeVar("T")

MIB = 1024 * 1024
_INT = 2**31 - 1  # of C, in which SQLite keeps many of its settings
_LONGEST = 10**9  # seconds: some thirty years; for longer the event loop's timers can't be set


# -- what a setting may be: each field has its rule beside its default -----------------------------


def _setting(default: T, problem: Callable[[object], str | None]) -> T:
    """Return a field; ``problem(value)`` says what is wrong with a value, None if nothing is."""
    return field(default=default, metadata={"problem": problem})


def _flag(default: bool) -> bool:
    return _setting(
        default, lambda value: None if isinstance(value, bool) else "must be True or False"
    )


def _choice(default: T, *others: T) -> T:
    choices = (default, *others)
    problem = f"must be one of {', '.join(map(str, choices))}"
    return _setting(default, lambda value: None if value in choices else problem)


def _seconds(default: T, *, none: bool = False) -> T:
    def problem(value: object) -> str | None:
        if value is None and none:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            return "must be a number of seconds"
        return None if 0 <= value <= _LONGEST else f"must be from 0 to {_LONGEST} seconds"

    return _setting(default, problem)


def _whole(default: T, least: int, most: int = 2**63 - 1, *, none: bool = False) -> T:
    def problem(value: object) -> str | None:
        if value is None and none:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return None
        return f"must be a whole number from {least} to {most}"

    return _setting(default, problem)


def _page_size(default: T) -> T:
    sizes = [2**n for n in range(9, 17)]

    def problem(value: object) -> str | None:
        known = value is None or (type(value) is int and value in sizes)
        return None if known else f"must be a power of two from {sizes[0]} to {sizes[-1]}, or None"

    return _setting(default, problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a `Database` is opened and how it behaves. Durations are seconds, sizes bytes.

    `Config()` is right for most applications: write-ahead log, an fsync a checkpoint. A commit
    survives the crash of the process at any moment; after a power cut the last commits may be
    missing, never half of one. `Config.durable()` has an fsync a commit as well.

    Raises `ConfigError` for a value that can't work, naming the setting.
    """

    readers: int = _whole(4, 1, 256)
    """Connections that read at the same time."""
    max_readers: int | None = _whole(None, 1, 256, none=True)
    """Most connections that read at the same time: beyond `readers` one more is opened when a call
    would wait for one, and closed when it is idle for `reader_idle_time`. None: no more than
    `readers`. Where all are lent, to snapshots and streams that may stay for long, one more is
    opened all the same, for calls alone."""
    reader_idle_time: float = _seconds(30.0)
    """How long a connection beyond `readers` stays without work."""
    create: bool = _flag(True)
    """Make the file when it does not exist; otherwise a missing or empty file is an error."""

    immutable: bool = _flag(False)
    """Nobody writes the file while it is open here: you promise it. Only with `read_only`, for an
    archive in a directory where SQLite can't make the files by which readers and writers of a WAL
    database meet. If somebody writes it nevertheless, reads are wrong, or fail as of a damaged
    file. (On a file system that is read-only, and in a directory that nobody may write to, it is
    so without being asked for.)"""

    acquire_timeout: float | None = _seconds(30.0, none=True)
    """How long a call may wait for a connection before `PoolTimeoutError`; None: for ever."""
    statement_timeout: float | None = _seconds(None, none=True)
    """How long one call may run before it is stopped; `timeout=` of a call counts beside it."""
    transaction_timeout: float | None = _seconds(60.0, none=True)
    """How long a transaction may stay open; `transaction(timeout=…)` goes before."""
    busy_timeout: float = _seconds(5.0)
    """How long a write waits for another process's lock before `BusyError`."""
    close_timeout: float = _seconds(10.0)
    """How long `close()` lets running work finish before it is stopped."""
    max_pending: int = _whole(100_000, 1)
    """Calls that may wait for a connection of one kind before `PoolSaturatedError`."""

    batch_size: int = _whole(500, 1)
    """Most calls that share a trip to a connection's thread, and, those that write, a commit;
    1: none do."""
    batch_time: float = _seconds(0.005)
    """How long they may take together: what is not begun by then waits again, so that others, a
    transaction for one, get their turn."""
    max_lifetime: float | None = _seconds(None, none=True)
    """After how long a connection is replaced by a new one; None: never."""
    slow_query: float | None = _seconds(None, none=True)
    """A call that runs longer is logged as a warning, with its name, its time and its waiting
    time, never with values; None: none is."""

    slow_transaction: float | None = _seconds(10.0, none=True)
    """Who has a connection for longer, with a transaction, a snapshot or a stream, is logged as a
    warning, once, with label, task and age; None: nobody is."""

    watch_interval: float | None = _seconds(0.1, none=True)
    """How often live queries look for commits of other processes, every 20 ms at most; None:
    never."""

    journal_mode: Literal["wal", "delete", "truncate", "persist"] = _choice(
        "wal", "delete", "truncate", "persist"
    )
    """Only with a write-ahead log do reads and a write go on at the same time."""
    page_size: int | None = _page_size(None)
    """Of a file that is made, a power of two from 512 to 65,536; None: what SQLite takes, 4,096. A
    file that is there keeps its own, which `maintenance.change_page_size` changes."""
    synchronous: Literal["normal", "full", "extra"] = _choice("normal", "full", "extra")
    """An fsync a checkpoint, or one a commit; see https://www.sqlite.org/pragma.html."""
    cache_size: int = _whole(64 * MIB, 0, _INT * 1024)
    """Page cache of each connection."""
    mmap_size: int = _whole(256 * MIB, 0)
    """How much of the file is read through memory mapping; 0: none."""
    temp_store: Literal["default", "file", "memory"] = _choice("memory", "default", "file")
    """Where temporary tables are, and what SQLite sorts."""
    foreign_keys: bool = _flag(True)
    """Whether they are enforced."""
    wal_autocheckpoint: int = _whole(1000, 0, _INT)
    """Pages in the write-ahead log that start a checkpoint; 0: never on its own."""
    wal_limit: int = _whole(64 * MIB, 0)
    """How large the write-ahead log may grow where readers that come and go keep SQLite from
    starting it anew: from half of it on, now and then a write waits for them, 1.6 s at most,
    and the log is emptied. A larger limit makes that rarer, not longer. One transaction that is
    larger, and a reader that goes on for longer, which is logged, exceed it. 0: nothing is done, as
    a replicator needs it."""
    optimize_interval: float | None = _seconds(None, none=True)
    """How often the statistics by which SQLite plans queries are brought up to date, see
    `maintenance.optimize`; None: never."""
    check_interval: float | None = _seconds(None, none=True)
    """How often the file is checked for damage, see `maintenance.check`, which is logged as an
    error; None: never."""
    trusted_schema: bool = _flag(sqlite3.sqlite_version_info < (3, 41))
    """Whether the schema's views, triggers and constraints may call functions that SQLite does not
    know to be harmless. Before 3.41 the JSON functions are not: with False, a file that has
    `CHECK (json_valid(…))` can't even be read there."""
    cell_size_check: bool = _flag(True)
    """Whether pages are checked for damage as they are read."""

    statement_cache: int = _whole(256, 0, _INT)
    """Prepared statements that each connection keeps."""
    max_value_size: int = _whole(1_000_000_000, 1024, _INT)
    """The longest text or blob (SQLITE_LIMIT_LENGTH)."""
    max_sql_size: int = _whole(1_000_000, 1024, _INT)
    """The longest SQL text (SQLITE_LIMIT_SQL_LENGTH)."""

    @classmethod
    def durable(cls, **changes: Any) -> Self:
        """Each acknowledged commit survives a power cut: synchronous=FULL."""
        return replace(cls(synchronous="full"), **changes)

    @classmethod
    def hardened(cls, **changes: Any) -> Self:
        """For files that others may have made: FULL, no memory mapping, tighter limits."""
        return replace(
            cls(
                synchronous="full",
                mmap_size=0,
                trusted_schema=False,
                max_value_size=64 * MIB,
                max_sql_size=100_000,
                statement_timeout=60.0,
            ),
            **changes,
        )

    @classmethod
    def replicated(cls, **changes: Any) -> Self:
        """For a database that Litestream replicates: checkpoints are left to it.

        It reads the log, and keeps a reader there so that nobody else can start it anew; what was
        checkpointed without it would cost it a new copy of the whole database. Commits wait for its
        checkpoints as for any other process. (https://litestream.io/tips/)
        """
        return replace(cls(wal_autocheckpoint=0, wal_limit=0, busy_timeout=5.0), **changes)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if problem := setting.metadata["problem"](value):
                raise ConfigError(f"Config.{setting.name} {problem}, not {value!r}")
        if self.max_readers is not None and self.max_readers < self.readers:
            raise ConfigError(
                f"Config.max_readers must be {self.readers} (Config.readers) or more, not"
                f" {self.max_readers}"
            )
