"""`Repository`: what can be done with the rows of every table, dataclasses in and out.

    NOTES = Table("notes", Note)  # a dataclass with the columns that matter, `id` among them

    class Notes(Repository[Note]):
        def __init__(self, db: Readable) -> None:
            super().__init__(db, NOTES)

        async def pinned(self) -> list[Note]:
            return await self.db.fetch_all(PINNED())

It works through whatever handle it is given: ``Notes(db)``, ``Notes(tx)`` inside a transaction, or
``notes.within(tx)``, which is of the same class; over a snapshot it reads.
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
    """The rows of one table, each a `T`, as `db` has them.

    Calls wait, end and are cancelled as those of `db` are, and what they write is committed when
    that says. A column that the table does not have, and a value that does not fit its column,
    raise `ParameterError`; what the schema refuses raises `IntegrityError`. Nothing has been
    written then. Over a `Snapshot` what writes raises `ReadOnlyError`.
    """

    def __init__(self, db: Readable, table: Table[T]) -> None:
        self.db = db
        """What it works through, for queries of one's own."""
        self.table = table
        self._writable = db if isinstance(db, Writable) else None

    def within(self, db: Readable) -> Self:
        """Return the same repository over another handle: ``store.projects.within(tx)``."""
        other = copy(self)
        Repository.__init__(other, db, self.table)
        return other

    @property
    def writable(self) -> Writable:
        """`db`, for what writes. Raises `ReadOnlyError` if that is a snapshot, which only reads."""
        if self._writable is None:
            raise ReadOnlyError(
                f"the rows of {self.table.name} were to be changed through a"
                f" {type(self.db).__name__}, which only reads; use the database or a transaction"
            )
        return self._writable

    async def create(self, row: object = None, /, **values: object) -> T:
        """Add a row and return it, with what the schema filled in.

        The values of the columns are keywords, or the fields of one dataclass instance.
        """
        return await self._insert(self.table.create(_values(row) | values))

    async def get_by_id(self, id: int) -> T | None:
        """Return the row with this id, None if there is none."""
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

        `order_by` is a column, or ``"-started_at"`` for descending; NULL is less than everything,
        and rows that are alike are in the order of their ids. `offset` leaves out so many at the
        beginning, after having read them. `after` is the last row of the page before: what comes
        next is found at once, nothing is left out or told twice when rows are added or deleted in
        between, and that row itself may be gone.
        """
        return await self.db.fetch_all(self.table.page(limit, offset, order_by, after, filters))

    async def update(self, id: int, **changes: object) -> T | None:
        """Change columns of a row, to NULL by None, and return it; None if there is no such row."""
        return await self.writable.fetch_one(self.table.update(id, changes))

    async def delete(self, id: int) -> bool:
        """Delete a row, with all that belongs to it; return whether it was there."""
        return (await self.writable.execute(self.table.delete(id))).rowcount > 0

    async def count(self, **filters: object) -> int:
        """Return how many rows have these values (None is NULL)."""
        return await self.db.fetch_one(self.table.count(filters)) or 0

    async def _insert(self, statement: Statement[T]) -> T:
        row = await self.writable.fetch_one(statement)
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
