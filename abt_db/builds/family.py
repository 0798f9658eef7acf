"""`Family`: a query with conditions that may be left out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Generic, TypeVar

from abt_db.sql.query import Query, Statement

T = TypeVar("T")


class Family(Generic[T]):
    """One query for each choice of `conditions`, which stand where `sql` says ``{conditions}``.

    Each condition is SQL with one parameter of its own name: ``since="started_at >= :since"``.
    Calling the family binds a statement; a condition whose value is None is not in its text. (One
    text with ``:since IS NULL OR …`` in it would keep SQLite from using an index.)

    Raises `ParameterError` as a `Query` does.
    """

    def __init__(self, name: str, sql: str, row: type[T], /, **conditions: str) -> None:
        self.name = name
        self._sql = sql
        self._row = row
        self._conditions = conditions
        self._queries: dict[tuple[str, ...], Query[T]] = {}

    def __call__(self, **values: object) -> Statement[T]:
        chosen = tuple(name for name in self._conditions if values.get(name) is not None)
        return self._query(chosen)(
            {n: value for n, value in values.items() if n not in self._conditions or n in chosen}
        )

    def __iter__(self) -> Iterator[Query[T]]:
        """Yield all the queries there can be."""
        for size in range(len(self._conditions) + 1):
            yield from map(self._query, combinations(self._conditions, size))

    def _query(self, chosen: tuple[str, ...]) -> Query[T]:
        if chosen not in self._queries:
            conditions = " AND ".join(self._conditions[name] for name in chosen) or "true"
            self._queries[chosen] = Query(
                f"{self.name}({', '.join(chosen)})" if chosen else self.name,
                self._sql.replace("{conditions}", conditions),
                self._row,
            )
        return self._queries[chosen]

    def __repr__(self) -> str:
        return f"<Family {self.name}({', '.join(self._conditions)})>"
