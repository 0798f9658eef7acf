"""`migration_history`: which migrations a database has, as read and written in a transaction.

A table of this name that another program made, with the seven columns from `id` to `error_message`,
is adopted: it is read as it is, and gets the other columns when something is first written to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache

from abt_db.connection.session import Session
from abt_db.sql.query import Query


class Reversibility(Enum):
    """What `down` leads back to, as it was found by running the step both ways."""

    EXACT = "exact"
    """The same schema, word for word, and the same rows."""
    ORDER_ONLY = "order only"
    """The same but for the order of columns."""
    STRUCTURAL = "structural"
    """The same tables, written in another way."""
    LOSSY = "lossy"
    """The schema comes back, and some of the rows or values do not."""
    IRREVERSIBLE = "irreversible"
    """There is no down script, it fails, or it leads to another schema."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the history: a migration that was applied, or whose last try failed.

    `down_sql` is kept so that an older program can go down as well, and `schema_fingerprint`, the
    schema after the step, tells after which step a database drifted. `guard_time_ms` is the part of
    `execution_time_ms` that went into counting rows and foreign keys. `statements_done` is not 0
    for a `-- no-transaction` step that stopped half-way, on its way up or (`success`) down: the
    next try goes on behind those. On its way up `checksum` is that of these statements alone.

    In a history that was adopted, `checksum`, `down_sql` and `schema_fingerprint` are None for what
    the other program applied: its file can't be held against what was run.
    """

    version: int
    description: str
    applied_at: datetime
    execution_time_ms: float
    success: bool
    error_message: str | None
    checksum: str | None
    down_sql: str | None
    schema_fingerprint: str | None
    guard_time_ms: float = 0.0
    statements_done: int = 0
    reversibility: Reversibility | None = None


_EXISTS = Query(
    "migrations.exists",
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'migration_history'",
    int,
)
_CREATE = Query(
    "migrations.create",
    """
    CREATE TABLE IF NOT EXISTS migration_history (
        id INTEGER PRIMARY KEY,
        version INTEGER NOT NULL UNIQUE,
        description TEXT NOT NULL,
        applied_at TEXT NOT NULL,
        execution_time_ms REAL NOT NULL,
        success INTEGER NOT NULL CHECK (success IN (0, 1)),
        error_message TEXT,
        checksum TEXT,
        down_sql TEXT,
        schema_fingerprint TEXT,
        guard_time_ms REAL NOT NULL DEFAULT 0,
        statements_done INTEGER NOT NULL DEFAULT 0,
        reversibility TEXT
    )
    """,
)
# What an adopted table, or one of an earlier version, may lack, as ALTER TABLE adds it.
_LATER = {
    name: Query(f"migrations.add_{name}", f"ALTER TABLE migration_history ADD COLUMN {name} {kind}")
    for name, kind in (
        ("checksum", "TEXT"),
        ("down_sql", "TEXT"),
        ("schema_fingerprint", "TEXT"),
        ("guard_time_ms", "REAL NOT NULL DEFAULT 0"),
        ("statements_done", "INTEGER NOT NULL DEFAULT 0"),
        ("reversibility", "TEXT"),
    )
}
_COLUMNS = Query(
    "migrations.history_columns", "SELECT name FROM pragma_table_info('migration_history')", str
)


@cache
def _all(missing: tuple[str, ...]) -> Query[Record]:
    """Return the query for all rows of a table that lacks some of the `_LATER` columns; `Record`
    has the defaults of those that can't be NULL."""
    there = [
        # The other program need not have measured a try that failed.
        "coalesce(execution_time_ms, 0.0) AS execution_time_ms",
        *(name for name in _LATER if name not in missing),
        *(f"NULL AS {name}" for name in missing if name in _NULLABLE),
    ]
    return Query(
        "migrations.history",
        f"""
        SELECT version, description, applied_at, success, error_message, {", ".join(there)}
        FROM migration_history ORDER BY id
        """,
        Record,
    )


_NULLABLE = ("checksum", "down_sql", "schema_fingerprint")
_FORGET = Query("migrations.forget", "DELETE FROM migration_history WHERE version = :version")
_PUT = Query(
    "migrations.put",
    """
    INSERT INTO migration_history (version, description, applied_at, execution_time_ms, success,
                                   error_message, checksum, down_sql, schema_fingerprint,
                                   guard_time_ms, statements_done, reversibility)
    VALUES (:version, :description, :applied_at, :execution_time_ms, :success,
            :error_message, :checksum, :down_sql, :schema_fingerprint,
            :guard_time_ms, :statements_done, :reversibility)
    """,
)


def read(session: Session) -> list[Record]:
    """Return the history in the order of its making; [] where there is none yet."""
    if not session.fetch_one(_EXISTS()):
        return []
    return session.fetch_all(_all(tuple(_missing(session)))())


def put(session: Session, record: Record) -> Record:
    """Write a row, in place of an earlier one of the same version; return it."""
    session.execute(_CREATE())
    for name in _missing(session):
        session.execute(_LATER[name]())
    # Deleted and inserted, so that `id` tells the order in which they succeeded.
    forget(session, record.version)
    session.execute(_PUT(record))
    return record


def forget(session: Session, version: int) -> None:
    """Take a version out of the history."""
    session.execute(_FORGET(version=version))


def _missing(session: Session) -> list[str]:
    there = session.fetch_all(_COLUMNS())
    return [name for name in _LATER if name not in there]
