"""Indexes that cost more than they give, and those that are missing.

SQLite does not count how often an index is used. What can be known without that: which indexes
another one covers, how many rows the statistics of ANALYZE found for a value, which foreign keys
have none, and, given the queries, which of them read whole tables and which indexes none uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from abt_db.connection.session import Session
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted


@dataclass(frozen=True, slots=True)
class Index:
    """An index with its columns: name (None for an expression), descending, collation."""

    name: str
    table: str
    columns: tuple[tuple[str | None, bool, str], ...]
    unique: bool
    partial: bool
    created: bool
    """By CREATE INDEX, and not by PRIMARY KEY or UNIQUE."""

    @property
    def names(self) -> list[str | None]:
        """The names of its columns."""
        return [column[0] for column in self.columns]


@dataclass(slots=True)
class Plan:
    """What SQLite would do for a query."""

    query: str
    scans: list[str] = field(default_factory=list)
    """The tables, or what the query calls them, that it reads from end to end."""
    sought: list[str] = field(default_factory=list)
    """Those for which it builds an index each time."""
    uses: set[str] = field(default_factory=set)
    """The indexes that it uses."""


_INDEXES = Query(
    "doctor.indexes",
    "SELECT list.name, tables.name, list.\"unique\", list.partial, list.origin = 'c'"
    " FROM sqlite_schema AS tables, pragma_index_list(tables.name) AS list"
    " WHERE tables.type = 'table' ORDER BY list.name",
)
_COLUMNS = Query(
    "doctor.index_columns",
    'SELECT name, "desc", coll FROM pragma_index_xinfo(:index) WHERE key ORDER BY seqno',
)
_KEYS = Query(
    "doctor.foreign_keys",
    'SELECT tables.name, list.id, list."table", list."from"'
    " FROM sqlite_schema AS tables, pragma_foreign_key_list(tables.name) AS list"
    " WHERE tables.type = 'table' ORDER BY tables.name, list.id, list.seq",
)
# The column that is the rowid by another name needs no index. A virtual table, which has no root,
# is not to be asked: the module that serves it may not be there.
_ROWIDS = Query(
    "doctor.rowids",
    "SELECT tables.name, min(columns.name) FROM sqlite_schema AS tables,"
    " pragma_table_info(tables.name) AS columns"
    " WHERE tables.type = 'table' AND tables.rootpage > 0 AND columns.pk > 0"
    " GROUP BY tables.name HAVING count(*) = 1 AND upper(min(columns.type)) = 'INTEGER'",
)
_HAS_STATISTICS = Query(
    "doctor.has_statistics",
    "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'sqlite_stat1'",
    bool,
)
_STATISTICS = Query("doctor.statistics", "SELECT idx, stat FROM sqlite_stat1 WHERE idx NOT NULL")

# "SCAN t", before 3.36 "SCAN TABLE t AS u"; "SEARCH t USING COVERING INDEX i (a=?)".
_SCAN = re.compile(r"SCAN (?:TABLE )?(\S+)")
_SOUGHT = re.compile(r"SEARCH (?:TABLE )?(\S+).* USING AUTOMATIC ")
_USES = re.compile(r"USING (?:COVERING )?INDEX (\S+)")


def indexes(session: Session) -> list[Index]:
    """Return all indexes with their columns."""
    found = []
    for name, table, unique, partial, created in session.fetch_all(_INDEXES()):
        columns = tuple(
            (column, bool(down), collation)
            for column, down, collation in session.fetch_all(_COLUMNS(index=name))
        )
        found.append(Index(name, table, columns, bool(unique), bool(partial), bool(created)))
    return found


def covered(all_of_them: list[Index]) -> Iterator[tuple[Index, Index]]:
    """Yield each index that can go, with the one that does its work."""
    gone: set[str] = set()
    for index in all_of_them:
        if not index.created or index.partial or None in index.names:
            continue
        # One with the very same columns rather than a longer one.
        for other in sorted(all_of_them, key=lambda each: (each.created, len(each.columns))):
            if other is index or other.table != index.table or other.partial or other.name in gone:
                continue
            same = other.columns == index.columns
            if other.columns[: len(index.columns)] == index.columns and (
                not index.unique or (same and other.unique)
            ):
                gone.add(index.name)
                yield index, other
                break


def vague(
    session: Session, all_of_them: list[Index], *, least: int
) -> Iterator[tuple[Index, int, int]]:
    """Yield each index of `least` rows whose only column has two values at most, with the rows that
    a value has on average and all rows, as the last ANALYZE found them."""
    if not session.fetch_one(_HAS_STATISTICS()):
        return
    # What a foreign key needs, it needs for the rare DELETE of a parent.
    keys = {(table, column) for table, _, _, column in session.fetch_all(_KEYS())}
    by_name = {
        index.name: index
        for index in all_of_them
        if index.created
        and not index.partial
        and len(index.columns) == 1
        and index.names[0] is not None
        and (index.table, index.names[0]) not in keys
    }
    for name, stat in session.fetch_all(_STATISTICS()):
        numbers = [int(word) for word in str(stat).split() if word.isdecimal()]
        if name in by_name and len(numbers) > 1 and numbers[0] >= least:
            rows, each, *_ = numbers
            if each * 2 >= rows:
                yield by_name[name], each, rows


def unindexed_keys(
    session: Session, all_of_them: list[Index]
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield table, parent and columns of each foreign key for which every DELETE of a parent's row
    reads the whole table (https://www.sqlite.org/foreignkeys.html#fk_indexes)."""
    rowids = dict(session.fetch_all(_ROWIDS()))
    keys: dict[tuple[str, int, str], list[str]] = {}
    for table, number, parent, column in session.fetch_all(_KEYS()):
        keys.setdefault((table, number, parent), []).append(column)
    for (table, _, parent), columns in keys.items():
        wanted = {column.lower() for column in columns}
        served = any(
            {str(name).lower() for name in index.names[: len(columns)]} == wanted
            for index in all_of_them
            if index.table == table and not index.partial
        )
        if not served and wanted != {str(rowids.get(table, "")).lower()}:
            yield table, parent, columns


def plans(session: Session, queries: Iterable[Query[Any]]) -> list[Plan]:
    """Return what SQLite would do for each query, its parameters being NULL."""
    found = []
    for query in queries:
        plan = Plan(query.name)
        asked = Query(f"plan of {query.name}", f"EXPLAIN QUERY PLAN {query.sql}")
        for *_, detail in session.fetch_all(asked(dict.fromkeys(query.parameters))):
            plan.uses.update(_USES.findall(detail))
            plan.sought += _SOUGHT.findall(detail)
            if (scan := _SCAN.match(detail)) and not detail.startswith("SCAN CONSTANT"):
                plan.scans.append(scan[1])
        found.append(plan)
    return found


def create_index(table: str, columns: Iterable[str]) -> str:
    """Return the statement that makes an index."""
    names = list(columns)
    return (
        f"CREATE INDEX {quoted('_'.join([table, *names]))} ON {quoted(table)}"
        f" ({', '.join(map(quoted, names))})"
    )
