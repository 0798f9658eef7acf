"""Named SQL: a `Query` is a constant, a `Statement` is a query with its parameters bound.

What can be known from the text alone is checked when the query is made, at import: that it is one
statement, that its parameters are named, that it does not begin or end transactions (those are the
pool's). What can be known from the values is checked when it is bound. Nothing but the text of a
`Query` ever reaches SQLite as SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Generic, NamedTuple, TypeVar, overload

from .errors import ParameterError, QueryDefinitionError
from .rows import field_encoders, mapper
from .values import SQLiteValue, encode

__all__ = ["Query", "Statement"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Statement(Generic[T_co]):
    """A `Query` and the values of its parameters, ready to run, any number of times."""

    __slots__ = ("query", "values")

    def __init__(self, query: Query[T_co], values: Mapping[str, SQLiteValue]) -> None:
        self.query = query
        self.values = values

    def __repr__(self) -> str:
        # The values stay out of it: a repr ends in logs (invariant 27).
        return f"<Statement {self.query.name}({', '.join(self.values)})>"


class Query(Generic[T_co]):
    """One SQL statement with a name, named parameters and the type of its rows.

    `name` says what it is in errors, logs and statistics, for instance ``"projects.by_name"``.
    `sql` is one statement with parameters written ``:name``. `row` is what a row becomes: a
    dataclass (columns match fields by name), a scalar type such as `int` or `datetime` (the single
    column), `dict` or `tuple`.

    Calling the query binds it: ``PROJECT_BY_NAME(name="maps")``, or from one mapping or dataclass
    instance, ``INSERT_PROJECT(project)``. Fields of a dataclass that the SQL does not use are left
    out and the others stored as their annotations say; a key of a mapping too many is an error.
    Values are stored as `abt_db.values` says; lists and dicts need `Json` or a dataclass field.

    Raises `QueryDefinitionError` when made from SQL that can't be a query, `TypeError` for a row
    type that can't be mapped, and `ParameterError` when bound to a missing, unknown or unsuitable
    parameter.
    """

    __slots__ = ("_names", "inserts", "mapper", "name", "parameters", "row", "sql", "writes")

    @overload
    def __init__(self: Query[tuple[Any, ...]], name: str, sql: str) -> None: ...
    @overload
    def __init__(self: Query[T], name: str, sql: str, row: type[T]) -> None: ...
    @overload
    def __init__(self: Query[Any], name: str, sql: str, row: Any) -> None: ...
    def __init__(self, name: str, sql: str, row: Any = tuple) -> None:
        outline = _outline(name, sql)
        self.name = name
        self.sql = sql
        self.row = row
        self.parameters = outline.parameters
        """The names of the parameters, in the order of their first use."""
        self.writes = outline.writes
        """Whether it needs the writer."""
        self.inserts = outline.verb in ("INSERT", "REPLACE")
        self.mapper = mapper(row)
        self._names = frozenset(outline.parameters)

    def __call__(self, row: object = None, /, **values: object) -> Statement[T_co]:
        if row is not None:
            if values:
                raise ParameterError(
                    f"query {self.name!r} takes one mapping or dataclass, or keywords, not both"
                )
            return Statement(self, self.bind(row))
        if values.keys() != self._names:
            raise self._wrong_names(values)
        return Statement(self, self._encoded(values))

    def bind(self, row: object) -> Mapping[str, SQLiteValue]:
        """Return the values that `row`, a mapping or a dataclass instance, gives the parameters."""
        if isinstance(row, Mapping):
            if row.keys() != self._names:
                raise self._wrong_names(row)
            return self._encoded(row)
        if is_dataclass(row) and not isinstance(row, type):
            return self._encoded_fields(row)
        raise ParameterError(
            f"query {self.name!r} binds keywords, a mapping or a dataclass instance,"
            f" not a {type(row).__name__}"
        )

    def _encoded(self, values: Mapping[str, object]) -> Mapping[str, SQLiteValue]:
        encoded: dict[str, SQLiteValue] = {}
        for name, value in values.items():
            try:
                encoded[name] = encode(value)
            except ValueError as error:
                raise self._unsuitable(name, error) from None
        return encoded

    def _encoded_fields(self, row: Any) -> Mapping[str, SQLiteValue]:
        encoders = field_encoders(type(row))
        if not self._names <= encoders.keys():
            raise self._wrong_names(dict.fromkeys(self._names & encoders.keys()))
        encoded: dict[str, SQLiteValue] = {}
        for name in self.parameters:
            try:
                encoded[name] = encoders[name](getattr(row, name))
            except (ValueError, TypeError) as error:
                raise self._unsuitable(name, error) from None
        return encoded

    def _unsuitable(self, name: str, error: Exception) -> ParameterError:
        return ParameterError(f"parameter {name!r} of query {self.name!r}: {error}")

    def _wrong_names(self, given: Mapping[Any, object]) -> ParameterError:
        missing = [repr(name) for name in self.parameters if name not in given]
        unknown = [repr(name) for name in given if name not in self._names]
        problems = [
            f"{what} {', '.join(names)}"
            for what, names in (("misses", missing), ("does not know", unknown))
            if names
        ]
        takes = ", ".join(map(repr, self.parameters)) or "no parameters"
        return ParameterError(f"query {self.name!r} {' and '.join(problems)}; it takes {takes}")

    def __repr__(self) -> str:
        return f"<Query {self.name}>"


# -- reading the text ----------------------------------------------------------------------------

# SQLite's tokens (https://www.sqlite.org/src/file/src/tokenize.c), as far as they matter here.
_TOKEN = re.compile(
    r"""
      (?P<space>   \s+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>  '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<named>   :[^\W\d]\w* )
    | (?P<other_parameter> \?\d* | [@$#:][\w$]+ )
    | (?P<word>    [^\W\d][\w$]* )
    | (?P<number>  \d[\w.]* )
    | (?P<rest>    . )
    """,
    re.VERBOSE | re.DOTALL,
)

_READING = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})
_WRITING = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})
_SCHEMA = frozenset({"CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE"})
_REFUSED = {
    **dict.fromkeys(
        ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"),
        "transactions belong to db.transaction() and tx.savepoint()",
    ),
    "ATTACH": "a database is one file; open another Database",
    "DETACH": "a database is one file; open another Database",
    "VACUUM": "it can't run in a transaction, and every write of a query runs in one",
}


class _Outline(NamedTuple):
    """What the text of one statement tells."""

    verb: str
    writes: bool
    parameters: tuple[str, ...]


def _outline(name: str, sql: str) -> _Outline:
    """Read one statement, or raise QueryDefinitionError saying why it can't be a query."""

    def refuse(problem: str) -> QueryDefinitionError:
        return QueryDefinitionError(f"query {name!r}: {problem}")

    if not name:
        raise QueryDefinitionError("a query needs a name, such as 'projects.by_name'")
    if "\0" in sql:
        raise refuse("its SQL holds a NUL character, where SQLite would stop reading")

    verb: str | None = None
    parameters: dict[str, None] = {}
    depth = 0
    ended = assigns = False
    for kind, text in _tokens(sql):
        if ended and text != ";":
            raise refuse("it holds more than one statement; make a query of each")
        if kind == "named":
            parameters[text[1:]] = None
        elif kind == "other_parameter":
            raise refuse(f"its parameter {text} is positional or oddly named; write :name")
        elif kind == "word":
            word = text.upper()
            # `WITH x AS (…) UPDATE …` writes: the verb is the one behind the common tables.
            if verb is None or (
                verb == "WITH" and depth == 0 and (word in _WRITING or word in _READING)
            ):
                verb = word
        elif text == "(":
            depth += 1
        elif text == ")":
            depth -= 1
        elif text == "=":
            assigns = True
        elif text == ";":
            ended = verb is not None
    if verb is None:
        raise refuse("its SQL is empty")
    if verb in _REFUSED:
        raise refuse(f"{verb} is refused: {_REFUSED[verb]}")
    if verb not in _READING | _WRITING | _SCHEMA:
        raise refuse(f"SQL does not start with {verb}")
    # `PRAGMA user_version = 3` writes, `PRAGMA table_info(projects)` reads.
    writes = verb not in _READING or (verb == "PRAGMA" and assigns)
    return _Outline(verb, writes, tuple(parameters))


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each token, without white space and comments."""
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind is not None and kind != "space":
            yield kind, match[0]
