"""`migration_history`: which migrations a database has, as read and written in a transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from abt_db.query import Query
from abt_db.session import Session

from .model import Migration

__all__ = ["Record", "fingerprint", "forget", "read", "record"]


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the history: a migration that was applied, or whose last try failed."""

    version: int
    description: str
    applied_at: datetime
    execution_time_ms: float
    success: bool
    error_message: str | None
    checksum: str
    down_sql: str | None
    schema_fingerprint: str | None


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
        checksum TEXT NOT NULL,
        down_sql TEXT,
        schema_fingerprint TEXT
    )
    """,
)
_ALL = Query(
    "migrations.history",
    """
    SELECT version, description, applied_at, execution_time_ms, success, error_message,
           checksum, down_sql, schema_fingerprint
    FROM migration_history ORDER BY id
    """,
    Record,
)
_FORGET = Query("migrations.forget", "DELETE FROM migration_history WHERE version = :version")
_RECORD = Query(
    "migrations.record",
    """
    INSERT INTO migration_history (version, description, applied_at, execution_time_ms, success,
                                   error_message, checksum, down_sql, schema_fingerprint)
    VALUES (:version, :description, :applied_at, :execution_time_ms, :success,
            :error_message, :checksum, :down_sql, :schema_fingerprint)
    """,
)
_SCHEMA = Query(
    "migrations.schema",
    """
    SELECT sql FROM sqlite_schema
    WHERE sql IS NOT NULL AND name <> 'migration_history' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    ORDER BY type, name
    """,
    str,
)


def read(session: Session) -> list[Record]:
    """Return the history in the order of its making; [] where there is none yet."""
    return session.fetch_all(_ALL()) if session.fetch_one(_EXISTS()) else []


def record(
    session: Session, migration: Migration, seconds: float, *, error: str | None = None
) -> Record:
    """Note a try, in place of an earlier one of the same version."""
    session.execute(_CREATE())
    row = Record(
        version=migration.version,
        description=migration.description,
        applied_at=datetime.now(UTC),
        execution_time_ms=round(seconds * 1000, 3),
        success=error is None,
        error_message=error,
        checksum=migration.checksum,
        down_sql=migration.down,
        schema_fingerprint=fingerprint(session) if error is None else None,
    )
    # Deleted and inserted, so that `id` tells the order in which they succeeded.
    forget(session, migration.version)
    session.execute(_RECORD(row))
    return row


def forget(session: Session, version: int) -> None:
    """Take a version out of the history."""
    session.execute(_FORGET(version=version))


def fingerprint(session: Session) -> str:
    """Return SHA-256 over the schema, without the history itself."""
    return hashlib.sha256("\0".join(session.fetch_all(_SCHEMA())).encode()).hexdigest()
