"""The schema of a database as a value: to be compared, told apart, written down.

What other tools keep in the same file (`_litestream_seq`, SQLite's own statistics, the tables
behind a full-text index) is no part of it, nor is the history of the migrations.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from abt_db.connection.session import Session
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted

from .script import brackets, folded, words


class Likeness(Enum):
    """How much alike two schemas are, the most alike first."""

    EXACT = "exact"
    """Each object has the same text."""
    NORMALISED = "normalised"
    """The same but for spaces, comments, quotes and upper case."""
    STRUCTURAL = "structural"
    """Tables have the same columns, keys and checks, written in another way."""
    UNORDERED = "unordered"
    """The same but for the order of columns."""
    DIFFERENT = "different"


_RANKS = {likeness: rank for rank, likeness in enumerate(Likeness)}


@dataclass(frozen=True, slots=True)
class SchemaObject:
    """A table, view, index or trigger. `shape` is what SQLite makes of a table's text."""

    kind: str
    name: str
    table: str
    sql: str
    shape: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """All objects, by kind and name, and the two numbers in the file's header."""

    objects: tuple[SchemaObject, ...]
    user_version: int = 0
    application_id: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that two schemas don't share. A text is None where the object is not there."""

    kind: str
    name: str
    likeness: Likeness
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.kind} {self.name} is missing"
        if self.expected is None:
            return f"{self.kind} {self.name} should not be there"
        return f"{self.kind} {self.name} is another" + (
            "" if self.likeness is Likeness.DIFFERENT else f" (but {self.likeness.value})"
        )


@dataclass(frozen=True, slots=True)
class Content:
    """The rows of a table: how many, and a sum over them that neither their order nor that of the
    columns changes."""

    rows: int
    digest: int


_OBJECTS = Query(
    "migrations.objects",
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name",
)
_COLUMNS = Query(
    "migrations.columns",
    'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(:name)',
)
_KEYS = Query(
    "migrations.foreign_keys",
    'SELECT id, seq, "table", "from", "to", on_update, on_delete, match'
    " FROM pragma_foreign_key_list(:name) ORDER BY id, seq",
)
_CONSTRAINTS = Query(
    "migrations.constraints",
    "SELECT list.name, list.origin, info.name, info.desc, info.coll"
    " FROM pragma_index_list(:name) AS list, pragma_index_xinfo(list.name) AS info"
    " WHERE list.origin <> 'c' AND info.key ORDER BY list.name, info.seqno",
)
_USER_VERSION = Query("migrations.user_version", "PRAGMA user_version", int)
_APPLICATION = Query("migrations.application_id", "PRAGMA application_id", int)
_SEQUENCES = Query(
    "migrations.has_sequences",
    "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'",
    int,
)

# https://www.sqlite.org/fts5.html#fts5_data_structures, fts3.html, rtree.html
_SHADOWS = (
    *("config", "content", "data", "docsize", "idx"),
    *("segdir", "segments", "stat", "node", "parent", "rowid"),
)
_FOREIGN = re.compile(r"(?:sqlite|_litestream)_.*", re.IGNORECASE | re.DOTALL)


def snapshot(session: Session) -> Schema:
    """Return the schema as it is."""
    objects = [
        SchemaObject(kind, name, table, sql, _shape(session, name, sql))
        if kind == "table"
        else SchemaObject(kind, name, table, sql)
        for kind, name, table, sql in _own_objects(session)
    ]
    return Schema(
        tuple(objects),
        session.fetch_one(_USER_VERSION()) or 0,
        session.fetch_one(_APPLICATION()) or 0,
    )


def tables(session: Session) -> list[str]:
    """Return the names of the tables that have rows of their own: no virtual ones."""
    return [
        name
        for kind, name, _, sql in _own_objects(session)
        if kind == "table" and not _is_virtual(sql)
    ]


def fingerprint(session: Session) -> str:
    """Return SHA-256 over the texts of the schema."""
    texts = "\0".join(sql for *_, sql in _own_objects(session))
    return hashlib.sha256(texts.encode()).hexdigest()


def contents(session: Session) -> dict[str, Content]:
    """Return what is in each table; reads every row, in constant memory.

    The AUTOINCREMENT mark of a table counts as one more row of it: a rebuild may lose it.
    """
    found = {}
    marks: dict[str, Any] = {}
    if session.fetch_one(_SEQUENCES()):
        query = Query("migrations.sequences", "SELECT name, seq FROM sqlite_sequence")
        marks = dict(session.fetch_all(query()))
    for name in tables(session):
        # Generated columns may follow a clock or a collation of the moment; the others make them.
        columns = sorted(row[0] for row in session.fetch_all(_COLUMNS(name=name)) if row[5] == 0)
        chosen = ", ".join(map(quoted, columns))
        query = Query(f"migrations.rows of {name}", f"SELECT {chosen} FROM {quoted(name)}")
        rows, total = 0, hash_of(("mark", marks[name])) if name in marks else 0
        for row in session.stream(query()):
            rows += 1
            total += hash_of(row)
        found[name] = Content(rows, total % 2**128)
    return found


def hash_of(row: tuple[Any, ...]) -> int:
    """Return a number for a row; unlike `hash` the same in each process."""
    return int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=16).digest(), "big")


# -- comparing -----------------------------------------------------------------------------------


def compare(expected: Schema, found: Schema) -> tuple[Likeness, tuple[Difference, ...]]:
    """Return how much alike two schemas are, and every object that is not exactly the same."""
    differences = list(_differences(expected, found))
    ranks = [_RANKS[difference.likeness] for difference in differences]
    return list(Likeness)[max(ranks, default=0)], tuple(differences)


def _differences(expected: Schema, found: Schema) -> Iterator[Difference]:
    for number in ("user_version", "application_id"):
        ours, theirs = getattr(expected, number), getattr(found, number)
        if ours != theirs:
            yield Difference("PRAGMA", number, Likeness.DIFFERENT, str(ours), str(theirs))
    ours, theirs = _by_name(expected.objects), _by_name(found.objects)
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key), theirs.get(key)
        likeness = _likeness(one, other) if one and other else Likeness.DIFFERENT
        if likeness is not Likeness.EXACT:
            texts = (one.sql if one else None, other.sql if other else None)
            yield Difference(*key, likeness, *texts)


def _by_name(objects: Iterable[SchemaObject]) -> dict[tuple[str, str], SchemaObject]:
    return {(each.kind, folded(each.name)): each for each in objects}


def _likeness(one: SchemaObject, other: SchemaObject) -> Likeness:
    if one.sql == other.sql:
        return Likeness.EXACT
    if words(one.sql) == words(other.sql):
        return Likeness.NORMALISED
    if not one.shape or not other.shape:
        return Likeness.DIFFERENT
    if one.shape == other.shape:
        return Likeness.STRUCTURAL
    columns, *rest = one.shape
    their_columns, *their_rest = other.shape
    same = sorted(columns, key=repr) == sorted(their_columns, key=repr) and rest == their_rest
    return Likeness.UNORDERED if same else Likeness.DIFFERENT


def _shape(session: Session, name: str, sql: str) -> tuple[Any, ...]:
    """Return the columns of a table in their order, then all the rest without any."""
    if _is_virtual(sql):
        return ()
    columns = tuple(
        (folded(column), kind.upper(), notnull, " ".join(words(default or "")), pk, hidden)
        for column, kind, notnull, default, pk, hidden in session.fetch_all(_COLUMNS(name=name))
    )
    keys: dict[int, list[Any]] = {}
    for number, _, parent, child, to, *actions in session.fetch_all(_KEYS(name=name)):
        keys.setdefault(number, []).append(
            (folded(parent), folded(child), to and folded(to), *actions)
        )
    unique: dict[str, list[Any]] = {}
    for index, origin, column, down, collation in session.fetch_all(_CONSTRAINTS(name=name)):
        unique.setdefault(index, []).append((origin, folded(column), down, folded(collation)))
    return (
        columns,
        sorted(map(repr, keys.values())),
        sorted(map(repr, unique.values())),
        _clauses(sql),
    )


@lru_cache(maxsize=256)
def _clauses(sql: str) -> tuple[str, ...]:
    """Return what a table's text says and no PRAGMA tells: checks, collations, generated columns,
    conflict clauses, and the options of the table."""
    found = []
    for word in ("check", "as"):
        found += [f"{word} {' '.join(words(bracket))}" for bracket in brackets(sql, word)]
    text = words(sql)
    for place, word in enumerate(text):
        if word in ("collate", "conflict", "initially"):
            found.append(" ".join(text[place - 1 : place + 2]))
        elif word in ("autoincrement", "stored", "strict", "rowid"):
            found.append(word)
    return tuple(sorted(found))


# -- writing down --------------------------------------------------------------------------------


def dump(schema: Schema) -> str:
    """Return a script that makes the schema in an empty database.

    Each table stands with its indexes and triggers, views at the end; all by name, so that the
    order in which they were made does not show.
    """
    parts = ["-- The schema that the migrations make, by `abt-db migrate dump`; not to be edited."]
    parts += [
        f"PRAGMA {name} = {number};"
        for name, number in (
            ("application_id", schema.application_id),
            ("user_version", schema.user_version),
        )
        if number
    ]
    views = {each.name for each in schema.objects if each.kind == "view"}

    def place(each: SchemaObject) -> tuple[Any, ...]:
        kinds = ("table", "view", "index", "trigger")
        return each.table in views, folded(each.table), kinds.index(each.kind), folded(each.name)

    parts += [f"{each.sql};" for each in sorted(schema.objects, key=place)]
    return "\n\n".join(parts) + "\n"


# -- inside --------------------------------------------------------------------------------------


def _own_objects(session: Session) -> list[tuple[str, str, str, str]]:
    rows = session.fetch_all(_OBJECTS())
    virtual = [folded(name) for kind, name, _, sql in rows if kind == "table" and _is_virtual(sql)]
    shadows = {f"{name}_{part}" for name in virtual for part in _SHADOWS}
    return [
        (kind, name, table, sql)
        for kind, name, table, sql in rows
        if not _FOREIGN.fullmatch(table)
        and not _FOREIGN.fullmatch(name)
        and folded(table) not in shadows
        and table != "migration_history"
    ]


def _is_virtual(sql: str) -> bool:
    return words(sql[:200])[1:2] == ["virtual"]
