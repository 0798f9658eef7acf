"""What of a damaged database can still be read, table by table."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from abt_db.connection.session import Session
from abt_db.errors import CorruptError, MappingError, QueryError
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted

_TABLES = Query(
    "doctor.tables",
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name",
    str,
)


@dataclass(frozen=True, slots=True)
class Damage:
    """A table that is damaged, or one of its indexes."""

    table: str
    rows: int
    """How many of its rows can be read, up to the first that can't."""
    only_indexes: bool
    """Whether all its rows can be read, so that the damage is in an index."""


def damaged_tables(session: Session) -> list[Damage]:
    """Return the tables that SQLite finds fault with; reads every row of those."""
    found = []
    for table in session.fetch_all(_TABLES()):
        check = f"PRAGMA integrity_check({quoted(table)})"
        with suppress(CorruptError):
            if session.fetch_all(Query(f"doctor.check of {table}", check, str)()) == ["ok"]:
                continue
        # Without an index, so that it is the rows themselves that are read.
        sql = f"SELECT * FROM {quoted(table)} NOT INDEXED"
        rows = 0
        try:
            for _ in session.stream(Query(f"doctor.rows of {table}", sql)()):
                rows += 1
            found.append(Damage(table, rows, True))
        except (QueryError, MappingError):
            found.append(Damage(table, rows, False))
    return found
