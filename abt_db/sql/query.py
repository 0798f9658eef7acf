"""Named SQL: a `Query` is a constant, a `Statement` is a query with its parameters bound.

The text is checked when the query is made, usually at import (`scan`), and the values when it is
bound. Of what a caller passes, only the text of a `Query` ever reaches SQLite as SQL.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import isawaitable
from operator import attrgetter, itemgetter
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, overload

from abt_db.errors import MappingError, ParameterError, QueryError

from .rows import MapRows, field_encoders, mapper
from .scan import scan
from .values import SQLiteValue, encode, encode_all

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Values: TypeAlias = list[SQLiteValue] | dict[str, SQLiteValue]
"""The values of a query's parameters, in the form that its `text` needs: by position or by name."""

_Encode: TypeAlias = Callable[[Any], SQLiteValue]
_Pick: TypeAlias = Callable[[Any], Iterable[Any]]


class Statement(Generic[T_co]):
    """A `Query` and the values of its parameters. It can be run any number of times."""

    __slots__ = ("query", "values")

    def __init__(self, query: Query[T_co], values: Values) -> None:
        self.query = query
        self.values = values

    def __repr__(self) -> str:
        # Without the values, because a repr ends up in logs (invariant 27).
        return f"<Statement {self.query.name}({', '.join(self.query.parameters)})>"


def query_of(statement: Statement[T]) -> Query[T]:
    """Return the query of a statement. Raises `TypeError` if it is none, but for instance a str."""
    try:
        return statement.query
    except AttributeError:
        raise TypeError(
            f"a {type(statement).__name__} is no statement: make a Query of the SQL, with a name"
            " and the type of its rows, and call it with the parameters"
        ) from None


def series(given: Iterable[T], verb: str, of: str) -> Iterable[T]:
    """Return `given`, the argument of `verb`, if it is an iterable of what `of` names (rows or
    statements).

    Raises `TypeError`, with what to pass instead, if it is not, or is one only by accident: a
    single row that is a mapping iterates over its columns, and an empty mapping would pass for no
    rows.
    """
    value: object = given
    kind = "None" if value is None else f"a {type(value).__name__}"
    if isinstance(value, AsyncIterable):
        told = "an async one: make a list, or pass statements to db.run_batch(), which takes it"
    elif isawaitable(value):
        told = f"{kind}: await it, and give what it returns"
    elif isinstance(value, Mapping | str | bytes | bytearray | memoryview):
        told = f"{kind}: put it into a list"
    elif isinstance(value, Iterable) or hasattr(value, "__getitem__"):
        return given
    elif callable(value) and not isinstance(value, Query):
        told = "a function: call it, and give what it returns"
    else:
        told = f"{kind}: put it into a list"
    raise TypeError(f"{verb} takes an iterable of {of}, not {told}")


def require_many(query: Query[Any], rows: Iterable[object]) -> None:
    """Check the arguments of `execute_many` before anything is begun. Raises `TypeError` for what
    is no query or no rows, and `QueryError` for a query that only reads or that returns rows."""
    if not isinstance(query, Query):
        given = "a statement" if isinstance(query, Statement) else f"a {type(query).__name__}"
        raise TypeError(f"execute_many takes a Query (not called) and rows, not {given}")
    problem = None
    if not query.writes:
        problem = "only reads: execute_many is for writes, use fetch_one or fetch_all"
    elif query.returns:
        problem = (
            "returns rows, which execute_many would drop: leave out RETURNING, or use fetch_one or"
            " fetch_all for each row, in db.transaction() or in a function of db.write()"
        )
    if problem is not None:
        raise QueryError(f"query {query.name!r} {problem}", query=query.name, sql=query.sql)
    series(rows, "execute_many", "rows")


class Query(Generic[T_co]):
    """One SQL statement with a name, named parameters and the type of its rows.

    `name` identifies the query in errors, logs and statistics, for instance
    ``"projects.by_name"``. `sql` is one statement whose parameters are written ``:name``. `row` is
    the type of a row: a dataclass (columns match fields by name), a scalar type such as `int` or
    `datetime` (the single column), `dict` or `tuple`.

    Call the query to bind it: ``PROJECT_BY_NAME(name="maps")``, or with one mapping or dataclass
    instance, ``INSERT_PROJECT(project)``. Fields of a dataclass that the SQL does not use are
    ignored; the others are stored as their annotations say. A key of a mapping that the SQL does
    not use is an error. Values are stored as `abt_db.sql.values` says; lists and dicts need `Json`
    or a dataclass field.

    Raises `QueryDefinitionError` when made from SQL that can't be a query, `TypeError` when made
    with a row type that can't be mapped, and `ParameterError` when called with a missing, unknown
    or unsuitable parameter.
    """

    __slots__ = (
        "_bound",
        "_fields",
        "_names",
        "_pick",
        "_positional",
        "alters",
        "counted",
        "inserts",
        "mapper",
        "name",
        "parameters",
        "returns",
        "row",
        "sql",
        "table",
        "text",
        "texts",
        "writes",
    )

    @overload
    def __init__(self: Query[tuple[Any, ...]], name: str, sql: str) -> None: ...
    @overload
    def __init__(self: Query[T], name: str, sql: str, row: type[T]) -> None: ...
    @overload
    def __init__(self: Query[Any], name: str, sql: str, row: Any) -> None: ...
    def __init__(self, name: str, sql: str, row: Any = tuple) -> None:
        found = scan(name, sql)
        self.name = name
        self.sql = sql
        self.row = row
        self.parameters = found.parameters
        """The names of the parameters, in the order of their first use."""
        self.writes = found.writes
        """Whether it needs the writer."""
        self.alters = found.alters
        """Whether it may change the schema or a setting of the file, not only rows."""
        self.inserts = found.verb in ("INSERT", "REPLACE")
        """Whether it may add a row."""
        self.returns = found.returns
        """Whether it writes and returns rows: it has RETURNING."""
        self.counted = found.text[:4].upper() != "WITH" and not found.returns
        """Whether sqlite3's `rowcount` has the number of rows that the statement changes."""
        self.text = found.text
        """The SQL that is passed to SQLite, with `?` in place of each named parameter, see
        `scan`."""
        self.table = found.table
        """The table to which one statement can add several rows, or None."""
        self.texts = found.texts
        """See `Scan.texts`."""
        self.mapper = mapper(row)
        self._bound: tuple[object, MapRows[Any] | None] = (None, None)  # replaced as a whole
        self._positional = found.positional
        self._names = frozenset(self.parameters)
        self._pick = _picker(itemgetter, self.parameters)
        # For each dataclass: how to read the parameters from an instance, and how to store them.
        self._fields: dict[type, tuple[_Pick, list[_Encode]]] = {}

    def __call__(self, row: object = None, /, **values: object) -> Statement[T_co]:
        if row is None:
            return Statement(self, self._bind_mapping(values))
        if values:
            raise ParameterError(
                f"query {self.name!r} takes one mapping or dataclass, or keywords, not both"
            )
        return Statement(self, self.bind(row))

    @property
    def query(self) -> NoReturn:
        """Raise `TypeError`: a query that was not called was passed in place of a statement, whose
        `query` is read."""
        raise TypeError(
            f"query {self.name!r} is no statement yet: call it, with its parameters if it has any"
        )

    def bind(self, row: object) -> Values:
        """Return the parameters' values from `row`, a mapping or a dataclass instance."""
        if isinstance(row, (dict, Mapping)):
            return self._bind_mapping(row)
        if is_dataclass(row) and not isinstance(row, type):
            return self._bind_fields(row)
        raise ParameterError(
            f"query {self.name!r} binds keywords, a mapping or a dataclass instance,"
            f" not a {type(row).__name__}"
        )

    def bind_many(
        self, rows: Sequence[object], *, together: bool
    ) -> Iterator[tuple[str, list[Values]]]:
        """Yield what to run for `rows`: SQL texts, each with the values for each of its runs.

        If `together`, use texts that add several rows at once; only a query with a `table` has
        them.
        """
        width = len(self.parameters)
        if not self._positional or not width:
            yield self.text, [self.bind(row) for row in rows]
            return
        values = self._bind_flat(rows)
        start = 0
        for count, text in self.texts if together else self.texts[-1:]:
            step = count * width
            end = len(values) - (len(values) - start) % step
            if start < end:
                yield text, [values[at : at + step] for at in range(start, end, step)]
            start = end

    def _bind_flat(self, rows: Sequence[object]) -> list[SQLiteValue]:
        """Return the values of all rows in one list, row after row."""
        names = self.parameters
        values: list[Any] = []
        for row in rows:
            # Fast path: mostly the keys of a row are in the order of the parameters.
            if type(row) is dict and (*row,) == names:
                values += row.values()
            else:
                values += self.bind(row)
        try:
            return encode_all(values)
        except ValueError:
            return [value for row in rows for value in self.bind(row)]  # names the bad one

    def _bind_mapping(self, values: Mapping[Any, object]) -> Values:
        if values.keys() != self._names:
            raise self._wrong_names(values)
        try:
            return self._arranged(encode_all(self._pick(values)))
        except ValueError:
            raise self._unsuitable({name: (encode, values[name]) for name in values}) from None

    def _bind_fields(self, row: Any) -> Values:
        kind = type(row)
        if (found := self._fields.get(kind)) is None:
            encoders = field_encoders(kind)
            if not self._names <= encoders.keys():
                raise self._wrong_names(dict.fromkeys(self._names & encoders.keys()))
            found = (
                _picker(attrgetter, self.parameters),
                [encoders[name] for name in self.parameters],
            )
            self._fields[kind] = found
        pick, encode_each = found
        try:
            values = pick(row)
        except AttributeError as error:
            raise ParameterError(
                f"query {self.name!r} misses {error.name!r}, which this {kind.__name__} has not set"
            ) from None
        try:
            return self._arranged([store(v) for store, v in zip(encode_each, values, strict=True)])
        except (ValueError, TypeError):
            names = zip(self.parameters, encode_each, values, strict=True)
            raise self._unsuitable({name: (store, v) for name, store, v in names}) from None

    def nulls(self) -> Values:
        """Return NULL for each parameter."""
        return self._arranged([None] * len(self.parameters))

    def map_rows(self, description: Any, rows: list[tuple[Any, ...]], start: int = 1) -> list[T_co]:
        """Return `rows` as the row type; `description` is that of the cursor that read them.

        Checks that the columns fit even if there are no rows. Raises `MappingError`, which counts
        rows from `start`.
        """
        known, mapped = self._bound
        try:
            if mapped is None or known != description:
                mapped = self.mapper.bind(tuple(column[0] for column in description or ()))
                self._bound = description, mapped
            return mapped(rows, start)
        except MappingError as error:
            raise MappingError(f"query {self.name!r}: {error}") from error.__cause__

    def _arranged(self, encoded: list[SQLiteValue]) -> Values:
        # sqlite3 binds by position several times as fast as by name.
        if self._positional:
            return encoded
        return dict(zip(self.parameters, encoded, strict=True))

    def _unsuitable(self, values: Mapping[str, tuple[_Encode, object]]) -> ParameterError:
        """Encode each value again to find the one that can't be stored, and return its error."""
        for name, (store, value) in values.items():
            try:
                store(value)
            except (ValueError, TypeError) as error:
                return ParameterError(f"parameter {name!r} of query {self.name!r} {error}")
        raise AssertionError(f"query {self.name!r} refused values that it takes one by one")

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


def _picker(getter: Callable[..., Any], names: tuple[str, ...]) -> _Pick:
    """Return a function that returns the values of all `names`, also for a single name, for which
    `getter` would return no tuple."""
    if len(names) == 1:
        get = getter(names[0])
        return lambda source: (get(source),)
    pick: _Pick = getter(*names) if names else lambda source: ()
    return pick
