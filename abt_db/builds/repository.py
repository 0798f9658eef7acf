"""`Repository`: what can be done with the rows of every table, dataclasses in and out."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

from abt_db.database import Database
from abt_db.errors import ParameterError
from abt_db.query import Statement

from .table import Table

__all__ = ["Repository"]

T = TypeVar("T")


class Repository(Generic[T]):
    """The rows of one table, each a `T`.

    Calls wait, end and are cancelled as those of `Database` are. A column that the table does not
    have, and a value that does not fit its column, raise `ParameterError`; what the schema refuses
    raises `IntegrityError`. Nothing has been written then.
    """

    def __init__(self, db: Database, table: Table[T]) -> None:
        self._db = db
        self._table = table

    async def create(self, row: object = None, /, **values: object) -> T:
        """Add a row and return it, with what the schema filled in.

        The values of the columns are keywords, or the fields of one dataclass instance.
        """
        return await self._insert(self._table.create(_values(row) | values))

    async def get_by_id(self, id: int) -> T | None:
        """Return the row with this id, None if there is none."""
        return await self._db.fetch_one(self._table.by_id(id))

    async def get_all(
        self,
        limit: int = 100,
        offset: int = 0,
        order_by: str = "id",
        after: T | None = None,
        **filters: object,
    ) -> list[T]:
        """Return at most `limit` rows whose columns have the values in `filters` (None is NULL).

        `order_by` is a column, or ``"-started_at"`` for descending; NULL is less than everything,
        and rows that are alike are in the order of their ids. `offset` leaves out so many at the
        beginning, after having read them. `after` is the last row of the page before: what comes
        next is found at once, nothing is left out or told twice when rows are added or deleted in
        between, and that row itself may be gone.
        """
        return await self._db.fetch_all(self._table.page(limit, offset, order_by, after, filters))

    async def update(self, id: int, **changes: object) -> T | None:
        """Change columns of a row, to NULL by None, and return it; None if there is no such row."""
        return await self._db.fetch_one(self._table.update(id, changes))

    async def delete(self, id: int) -> bool:
        """Delete a row, with all that belongs to it; return whether it was there."""
        return (await self._db.execute(self._table.delete(id))).rowcount > 0

    async def count(self, **filters: object) -> int:
        """Return how many rows have these values (None is NULL)."""
        return await self._db.fetch_one(self._table.count(filters)) or 0

    async def _insert(self, statement: Statement[T]) -> T:
        row = await self._db.fetch_one(statement)
        assert row is not None  # an INSERT that adds nothing raises
        return row


def _values(row: object) -> dict[str, Any]:
    """Return the fields of a dataclass instance by name; none of None."""
    if row is None:
        return {}
    if not is_dataclass(row) or isinstance(row, type):
        raise ParameterError(
            f"a row is made from keywords or a dataclass instance, not from a {type(row).__name__}"
        )
    return {field.name: getattr(row, field.name) for field in fields(row)}
