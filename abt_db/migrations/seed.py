"""Made-up rows for empty tables: what breaks a migration shows only where there are some.

A cascade that takes children along, a column whose default needs an empty table, an UNIQUE index
on what is not unique: on an empty database all of these pass. Values follow from the declared
types, the literals in CHECKs, and the keys of parents, and are the same in each run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abt_db.connection.session import Session
from abt_db.errors import QueryError
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted

from .schema import tables
from .script import brackets, folded, words

TRIES = 200
"""How often a row is changed until all CHECKs of its table hold."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What became of one table."""

    table: str
    rows: int
    """How many rows were added."""
    problem: str | None = None
    """Why it has fewer than were wanted."""


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    kind: str
    nullable: bool
    key: bool


@dataclass(frozen=True, slots=True)
class _ForeignKey:
    parent: str
    columns: tuple[str, ...]
    to: tuple[str, ...]


_TABLE = Query("migrations.seed_sql", "SELECT sql FROM sqlite_schema WHERE name = :name", str)
_COLUMNS = Query(
    "migrations.seed_columns",
    'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(:name) WHERE hidden = 0',
)
_KEYS = Query(
    "migrations.seed_keys",
    'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(:name) ORDER BY id, seq',
)
_MARK = Query(
    "migrations.seed_mark", "UPDATE sqlite_sequence SET seq = seq + 1000 WHERE name = :name"
)


def seed(session: Session, rows: int = 3, *, number: int = 0) -> list[Seeded]:
    """Put `rows` rows into each table that has none; `number` chooses other values.

    Runs in the caller's transaction. A table that can't be filled is told of, not an error.
    """
    chance = random.Random(number)
    filled: dict[str, Seeded] = {}
    waiting = {folded(name): _Table(session, name) for name in tables(session)}
    while waiting:
        # Parents first; in a circle of them someone has to begin, with NULL.
        ready = [
            name
            for name, table in waiting.items()
            if not {key.parent for key in table.keys} & waiting.keys() - {name}
        ] or [min(waiting)]
        for name in ready:
            filled[name] = waiting.pop(name).fill(session, rows, chance)
    return [filled[name] for name in sorted(filled)]


class _Table:
    """One table, and how rows for it are found."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        sql = session.fetch_one(_TABLE(name=name)) or ""
        self._columns = [
            _Column(folded(column), kind.upper(), not notnull and not key, bool(key))
            for column, kind, notnull, key in session.fetch_all(_COLUMNS(name=name))
        ]
        self._names = [column.name for column in self._columns]
        self.keys = _foreign_keys(session, name)
        self._checks = brackets(sql, "check")
        self._counts_up = "autoincrement" in words(sql)
        self._literals = [_value(w) for check in self._checks for w in words(check) if _literal(w)]
        slots = [f":v{n}" for n in range(len(self._names))]
        columns = ", ".join(map(quoted, self._names))
        self._insert = Query(
            f"seed.{name}", f"INSERT INTO {quoted(name)} ({columns}) VALUES ({', '.join(slots)})"
        )
        row = ", ".join(f"{s} AS {quoted(n)}" for s, n in zip(slots, self._names, strict=True))
        held = ", ".join(f"coalesce({check}, 1) <> 0" for check in self._checks)
        self._hold = (
            Query(f"seed.checks of {name}", f"SELECT {held} FROM (SELECT {row}) AS {quoted(name)}")
            if self._checks
            else None
        )

    def fill(self, session: Session, rows: int, chance: random.Random) -> Seeded:
        """Add rows until there are some."""
        count = Query(
            f"seed.count of {self.name}", f"SELECT count(*) FROM {quoted(self.name)}", int
        )
        if session.fetch_one(count()):
            return Seeded(self.name, 0)
        added, problem = 0, None
        for number in range(1, rows + 1):
            for attempt in range(10):
                values = self._row(session, number, chance, wild=attempt > 0)
                if isinstance(values, str):
                    problem = values
                    continue
                try:
                    session.execute(self._insert(_slots(values)))
                except QueryError as error:
                    problem = f"{error.sqlite_errorname}: a row that keeps its CHECKs is refused"
                    continue
                added, problem = added + 1, None
                break
        if self._counts_up and added:
            session.execute(_MARK(name=self.name))
        return Seeded(self.name, added, problem if added < rows else None)

    def _row(
        self, session: Session, number: int, chance: random.Random, *, wild: bool
    ) -> list[Any] | str:
        """Return a row that keeps the CHECKs, or why there is none."""
        values = {
            column.name: self._any(column, number, chance) if wild else _plain(column, number)
            for column in self._columns
        }
        held = set(self._refer(session, values, chance))
        for _ in range(TRIES):
            row = [values[name] for name in self._names]
            broken = self._broken(session, row)
            if not broken:
                return row
            to_change = {word for check in broken for word in words(check)} - held
            for column in self._columns:
                if column.name in to_change:
                    values[column.name] = self._any(column, number, chance)
        return f"no row was found that keeps CHECK {' '.join(broken[0].split())}"

    def _refer(self, session: Session, values: dict[str, Any], chance: random.Random) -> list[str]:
        """Let the foreign keys point to a row of their parents; return their columns."""
        columns: list[str] = []
        for key in self.keys:
            if not key.to or len(key.to) != len(key.columns):
                continue
            chosen = ", ".join(map(quoted, key.to))
            query = Query(
                f"seed.parents in {key.parent}",
                f"SELECT {chosen} FROM {quoted(key.parent)} LIMIT 20",
            )
            parents = session.fetch_all(query())
            if not parents and key.parent == folded(self.name):
                parents = [tuple(values[name] for name in key.to)]
            found: Sequence[Any] = chance.choice(parents) if parents else [None] * len(key.to)
            values.update(zip(key.columns, found, strict=True))
            columns += key.columns
        return columns

    def _broken(self, session: Session, row: list[Any]) -> list[str]:
        """Return the CHECKs that a row does not keep."""
        if self._hold is None:
            return []
        try:
            [kept] = session.fetch_all(self._hold(_slots(row)))
        except QueryError:
            return self._checks  # a function was given what it can't read
        return [check for check, holds in zip(self._checks, kept, strict=True) if not holds]

    def _any(self, column: _Column, number: int, chance: random.Random) -> Any:
        """Return any value that might do."""
        values = [*self._literals, _plain(column, number), *_USUAL]
        if column.nullable:
            values.append(None)
        return chance.choice(values)


_USUAL: tuple[Any, ...] = (0, 1, 7, -1, 0.5, "", "a", "{}", "[]", "2026-01-01", b"\0")
_NUMBER = re.compile(r"\d[\d.]*")


def _plain(column: _Column, number: int) -> Any:
    """Return the value of the `number`-th row, by the rules of affinity:
    https://www.sqlite.org/datatype3.html#determination_of_column_affinity"""
    kind = column.kind
    if "INT" in kind:
        return number
    if any(word in kind for word in ("CHAR", "CLOB", "TEXT")):
        return f"{column.name} {number}"
    if "BLOB" in kind:
        return bytes([number])
    if "DATE" in kind or "TIME" in kind:
        return f"2026-01-0{number % 9 + 1}T00:00:00.000+00:00"
    if any(word in kind for word in ("REAL", "FLOA", "DOUB")):
        return number + 0.5
    return number


def _literal(word: str) -> bool:
    return word.startswith("'") or _NUMBER.fullmatch(word) is not None


def _value(word: str) -> Any:
    if word.startswith("'"):
        return word[1:-1].replace("''", "'")
    return float(word) if "." in word else int(word)


def _slots(values: Sequence[Any]) -> dict[str, Any]:
    return {f"v{number}": value for number, value in enumerate(values)}


def _foreign_keys(session: Session, name: str) -> list[_ForeignKey]:
    found: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, parent, column, to in session.fetch_all(_KEYS(name=name)):
        found.setdefault(number, []).append((folded(parent), folded(column), to))
    keys = []
    for rows in found.values():
        parent = rows[0][0]
        to = tuple(folded(column) for *_, column in rows if column is not None)
        if not to:  # REFERENCES parent: its primary key
            columns = session.fetch_all(_COLUMNS(name=parent))
            keyed = sorted((pk, folded(column)) for column, _, _, pk in columns if pk)
            to = tuple(column for _, column in keyed)
        keys.append(_ForeignKey(parent, tuple(column for _, column, _ in rows), to))
    return keys
