"""`Table`: the statements that every table needs, made from the names of its columns.

The caller chooses which columns to filter, sort or write, so these SQL texts can't all be
constants. They are put together only from names that the program itself declares, and `_kept`
caches the queries made from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar, get_args

from abt_db.errors import ParameterError, QueryDefinitionError

from .query import Query, Statement
from .rows import field_encoders
from .values import SQLiteValue, field_types

T = TypeVar("T")

_NOW = "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')"


class Table(Generic[T]):
    """The statements of a table whose rows are of the dataclass `row`: ``Table("notes", Note)``.

    The fields are columns of the table, all of them or only some. One of them is `id`, the INTEGER
    PRIMARY KEY. A field `updated_at` that is a `datetime` is set by every change. The names of the
    queries begin with `name`. `source` is where the rows come from, if that is not the table
    `name`; a subquery in brackets can be read and not written. Rows can't be filtered or sorted by
    the columns in `json`. `made` has, by column, the SQL of values for a new row that does not name
    the column. Names, `source` and `made` become part of the SQL, so they must come from the
    program itself.

    Raises `QueryDefinitionError` for a `row` that is no dataclass, or has no `id`. Every method
    returns a statement that is ready to run, and raises `ParameterError` for a column that is
    unknown, or a value that does not fit its column. Values are stored as the dataclass declares
    them.
    """

    def __init__(
        self,
        name: str,
        row: type[T],
        source: str | None = None,
        *,
        json: Iterable[str] = (),
        made: Mapping[str, str] | None = None,
    ) -> None:
        if not is_dataclass(row) or "id" not in field_encoders(row):
            raise QueryDefinitionError(
                f"the rows of table {name!r} must be of a dataclass with a field 'id'"
            )
        self.name = name
        self._row: Any = row
        self._source = source or _quoted(name)
        self._made = dict(made or {})
        self._encoders = field_encoders(row)
        self.columns = ", ".join(map(_quoted, self._encoders))
        """The names of the columns, quoted, for use in a SELECT."""
        self._comparable = [column for column in self._encoders if column not in json]
        updated = field_types(row).get("updated_at")
        self._updated = datetime in (updated, *get_args(updated))

    def by_id(self, id: int) -> Statement[T]:
        """Select the row with this id."""
        return self._query("by_id", f"{self._select} WHERE id = :id")(id=id)

    def page(
        self,
        limit: int | None,
        offset: int = 0,
        order_by: str = "id",
        after: object = None,
        filters: Mapping[str, object] | None = None,
    ) -> Statement[T]:
        """Select, in order, at most `limit` rows (None: all) that come after the row `after`,
        without the first `offset` of these.

        `order_by` is a column, or ``"-column"`` for descending order. Rows with equal values in it
        are sorted by id, in the same direction. NULL is less than every value. `filters` maps
        columns to the values that rows must have in them; None is NULL.
        """
        for name, number in (("limit", limit), ("offset", offset)):
            if number is not None and number < 0:
                raise ParameterError(f"the {name} of {self.name} must not be below 0")
        column, descending = self._order(order_by)
        filters = filters or {}
        values = self._encoded(filters, self._comparable)
        conditions = _equal(filters)
        parts = [conditions]
        if after is not None:
            key = self._encoded({name: getattr(after, name) for name in (column, "id")})
            values |= {f"after_{name}": value for name, value in key.items()}
            ranges = _ranges(column, descending=descending, null=key[column] is None)
            parts = [[*conditions, part] for part in ranges]
        direction = " DESC" if descending else ""
        names = dict.fromkeys((column, "id"))
        order = ", ".join(f"{_quoted(name)}{direction}" for name in names)
        by = ", ".join(f"{name}{direction}" for name in names)
        return self._query(
            f"page({', '.join(sorted(filters))}) by {by}{'' if after is None else ' after'}",
            " UNION ALL ".join(self._select + _where(part) for part in parts)
            + f" ORDER BY {order} LIMIT :limit OFFSET :offset",
        )(values | {"limit": _ALL if limit is None else limit, "offset": offset})

    def count(self, filters: Mapping[str, object]) -> Statement[int]:
        """Count the rows that have these values; None is NULL."""
        values = self._encoded(filters, self._comparable)
        sql = f"SELECT count(*) FROM {self._source}{_where(_equal(filters))}"
        return _kept(f"{self.name}.count({', '.join(sorted(filters))})", sql, int)(values)

    def create(self, values: Mapping[str, object], *, key: str | None = None) -> Statement[T]:
        """Add a row and return it. The schema, or `made`, fills in the columns that are not named.

        With `key`, a unique column: if a row has the same key, that row is changed instead.
        """
        stored = self._encoded(values)
        sources = {**self._made, **{column: f":{column}" for column in sorted(values)}}
        sql = (
            f"INSERT INTO {self._source} ({', '.join(map(_quoted, sources))})"
            f" VALUES ({', '.join(sources.values())})"
        )
        if not sources:
            sql = f"INSERT INTO {self._source} DEFAULT VALUES"
        if key is not None:
            self._encoded({key: values.get(key)})
            columns = map(_quoted, sorted(values))
            changes = [f"{column} = excluded.{column}" for column in columns]
            sql += f" ON CONFLICT ({_quoted(key)}) DO UPDATE SET {self._assigned(values, changes)}"
        verb = "create" if key is None else "upsert"
        return self._query(f"{verb}({', '.join(sources)})", f"{sql}{self._returning}")(stored)

    def update(self, id: int, changes: Mapping[str, object]) -> Statement[T]:
        """Change columns of the row with this id, and return the row."""
        stored = self._encoded(changes, [name for name in self._encoders if name != "id"])
        assignments = [f"{_quoted(name)} = :{name}" for name in sorted(changes)]
        assigned = self._assigned(changes, assignments)
        return self._query(
            f"update({', '.join(sorted(changes))})",
            f"UPDATE {self._source} SET {assigned} WHERE id = :id{self._returning}",
        )(stored | {"id": id})

    def delete(self, id: int) -> Statement[Any]:
        """Delete the row with this id, and the rows that the schema deletes with it."""
        sql = f"DELETE FROM {self._source} WHERE id = :id"
        return _kept(f"{self.name}.delete", sql, tuple)(id=id)

    # -- pieces of text --------------------------------------------------------------------------

    @property
    def _select(self) -> str:
        return f"SELECT {self.columns} FROM {self._source}"

    @property
    def _returning(self) -> str:
        return f" RETURNING {self.columns}"

    def _assigned(self, columns: Iterable[str], assignments: list[str]) -> str:
        if not assignments:
            raise ParameterError(f"{self.name}: no column was given; name at least one")
        # RETURNING returns what the statement sets, not what a trigger sets after it.
        if self._updated and "updated_at" not in columns:
            assignments = [*assignments, f"updated_at = {_NOW}"]
        return ", ".join(assignments)

    def _query(self, verb: str, sql: str) -> Query[T]:
        return _kept(f"{self.name}.{verb}", sql, self._row)

    def _order(self, order_by: str) -> tuple[str, bool]:
        descending = order_by.startswith("-")
        column = order_by[descending:]
        if column not in self._comparable:
            raise ParameterError(
                f"{self.name} can't be sorted like that; order_by is one of"
                f" {', '.join(self._comparable)}, with a - in front for descending order"
            )
        return column, descending

    def _encoded(
        self, values: Mapping[str, object], known: Iterable[str] | None = None
    ) -> dict[str, SQLiteValue]:
        """Return the values in stored form. Raises `ParameterError` for a name that is not in
        `known` (None: all columns)."""
        known = list(self._encoders) if known is None else known
        if unknown := [name for name in values if name not in known]:
            raise ParameterError(
                f"{self.name}: {', '.join(map(repr, unknown))} can't be used here; the columns are"
                f" {', '.join(known)}"
            )
        encoded = {}
        for name, value in values.items():
            try:
                encoded[name] = self._encoders[name](value)
            except (ValueError, TypeError) as error:
                # The cause may quote the value (invariant 27).
                raise ParameterError(f"{name!r} of {self.name} {error}") from None
        return encoded

    def __repr__(self) -> str:
        return f"<Table {self.name}>"


_ALL = -1  # in SQLite's LIMIT: no limit


def _quoted(name: str) -> str:
    """Return a name in square brackets, so that it may be a keyword, such as `order`. In double
    quotes SQLite would take a misspelt name for a text
    (https://www.sqlite.org/quirks.html#dblquote).
    """
    return f"[{name}]"


@lru_cache(maxsize=256)
def _kept(name: str, sql: str, row: Any) -> Query[Any]:
    """Return the query with this text. It is cached, so a text that is in use is scanned once."""
    return Query(name, sql, row)


def _equal(filters: Iterable[str]) -> list[str]:
    # Unlike `=`, IS finds NULL. An index serves both.
    return [f"{_quoted(column)} IS :{column}" for column in sorted(filters)]


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _ranges(column: str, *, descending: bool, null: bool) -> list[str]:
    """Return conditions such that every row after the row `after` fulfils exactly one of them.

    Each condition is one range of an index, and SQLite merges the ranges in order. With a single
    condition, in which the parts are joined by OR, SQLite would read the index from its beginning.
    """
    beyond, name = "<" if descending else ">", _quoted(column)
    if column == "id":
        return [f"id {beyond} :after_id"]
    alike = f"{name} IS :after_{column} AND id {beyond} :after_id"
    if null:
        return [alike] if descending else [alike, f"{name} IS NOT NULL"]
    others = f"{name} {beyond} :after_{column}"
    return [alike, others, f"{name} IS NULL"] if descending else [alike, others]
