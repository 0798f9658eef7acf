"""`Repository`: reads and writes the rows of one table as dataclass instances.

    NOTES = Table("notes", Note)  # a dataclass with the columns that are used, and `id`

    class Notes(Repository[Note]):
        def __init__(self, db: Readable) -> None:
            super().__init__(db, NOTES)

        async def pinned(self) -> list[Note]:
            return await self.db.fetch_all(PINNED())

A repository works with any handle: ``Notes(db)``, ``Notes(tx)`` inside a transaction, or
``notes.within(tx)``, which returns one of the same class. With a snapshot it can only read.
"""

from __future__ import annotations

from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any, Generic, Self, TypeVar

from .errors import ParameterError, ReadOnlyError
from .protocols import Readable, Writable
from .sql.query import Statement
from .sql.table import Table

T = TypeVar("T")


class Repository(Generic[T]):
    """The rows of one table, each a `T`, as the handle `db` sees them.

    Calls wait, end, and are cancelled as those of `db` are, and their writes are committed when
    those of `db` are. A column that the table does not have, and a value that does not fit its
    column, raise `ParameterError`; a row that the schema refuses raises `IntegrityError`. In both
    cases nothing has been written. With a `Snapshot` as `db`, a write raises `ReadOnlyError`.
    """

    def __init__(self, db: Readable, table: Table[T]) -> None:
        self.db = db
        """The handle, also for a subclass's own queries."""
        self.table = table
        self._writable = db if isinstance(db, Writable) else None

    def within(self, db: Readable) -> Self:
        """Return the same repository with another handle: ``store.projects.within(tx)``."""
        other = copy(self)
        Repository.__init__(other, db, self.table)
        return other

    @property
    def writable(self) -> Writable:
        """`db`, for writes. Raises `ReadOnlyError` if `db` is a snapshot, which only reads."""
        if self._writable is None:
            raise ReadOnlyError(
                f"the rows of {self.table.name} can't be changed through a"
                f" {type(self.db).__name__}, which only reads; use the database or a transaction"
            )
        return self._writable

    async def create(self, row: object = None, /, **values: object) -> T:
        """Add a row and return it, with the values that the schema filled in.

        The values of the columns come from keywords, or from the fields of a dataclass instance;
        if both name a column, the keyword counts.
        """
        return await self._insert(self.table.create(_values(row) | values))

    async def get_by_id(self, id: int) -> T | None:
        """Return the row with this id, or None if there is none."""
        return await self.db.fetch_one(self.table.by_id(id))

    async def get_all(
        self,
        limit: int | None = 100,
        offset: int = 0,
        order_by: str = "id",
        after: T | None = None,
        **filters: object,
    ) -> list[T]:
        """Return at most `limit` rows (all if None) whose columns have the values in `filters`
        (None is NULL).

        `order_by` is a column, or ``"-started_at"`` for descending order. NULL is less than every
        other value, and rows with equal values are in the order of their ids.

        For the next page, use `offset` or `after`. `offset` skips so many rows at the beginning,
        after reading them. `after` is the last row of the page before: the next rows are found
        without reading the earlier ones; no row is skipped or returned twice if rows are added or
        deleted between two pages; and that last row itself may have been deleted.
        """
        return await self.db.fetch_all(self.table.page(limit, offset, order_by, after, filters))

    async def update(self, id: int, **changes: object) -> T | None:
        """Change columns of a row (None sets NULL) and return it; None if there is no such row."""
        return await self.writable.fetch_one(self.table.update(id, changes))

    async def delete(self, id: int) -> bool:
        """Delete a row, and the rows that the schema deletes with it; return whether it existed."""
        return (await self.writable.execute(self.table.delete(id))).rowcount > 0

    async def count(self, **filters: object) -> int:
        """Return how many rows have these values (None is NULL)."""
        return await self.db.fetch_one(self.table.count(filters)) or 0

    async def _insert(self, statement: Statement[T]) -> T:
        row = await self.writable.fetch_one(statement)
        assert row is not None  # an INSERT that adds nothing raises
        return row


def _values(row: object) -> dict[str, Any]:
    """Return the fields of a dataclass instance by name; an empty dict for None."""
    if row is None:
        return {}
    if not is_dataclass(row) or isinstance(row, type):
        raise ParameterError(
            f"a row is made from keywords or a dataclass instance, not from a {type(row).__name__}"
        )
    return {field.name: getattr(row, field.name) for field in fields(row)}
