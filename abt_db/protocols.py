"""`Readable` and `Writable`: the verbs that a `Database` shares with its transactions, savepoints
and snapshots.

A function or a class that is written for one of these protocols works with each of those handles,
and a type checker can check it: ``async def names(db: Readable) -> list[str]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

from .connection.session import Result, Session
from .sql.query import Query, Statement
from .transactions.handles import Stream

T = TypeVar("T")
P = ParamSpec("P")


class Readable(Protocol):
    """A handle that reads: a `Database`, a `Transaction`, a `Savepoint` or a `Snapshot`.

    The methods of `Database` say what each verb promises. Which view of the database a verb has,
    and how long it waits, depends on the handle.
    """

    async def fetch_one(self, statement: Statement[T], *, timeout: float | None = None) -> T | None:
        """Return the first row as the query's row type, or None if there is none."""
        ...

    async def fetch_all(self, statement: Statement[T], *, timeout: float | None = None) -> list[T]:
        """Return all rows as the query's row type."""
        ...

    def stream(
        self, statement: Statement[T], *, size: int = 500, timeout: float | None = None
    ) -> Stream[T]:
        """Return the rows, to be read as they are needed, `size` at a time."""
        ...

    async def read(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``function(cx, …)``, a synchronous function that reads, on the connection's thread.
        It must not touch the event loop."""
        ...


@runtime_checkable
class Writable(Readable, Protocol):
    """A handle that also writes: a `Database`, a `Transaction` or a `Savepoint`.

    Each call writes all or nothing. Through a `Database` the write is committed when the call
    returns, through the other handles when their transaction is committed.
    """

    async def execute(self, statement: Statement[Any], *, timeout: float | None = None) -> Result:
        """Run a statement that writes."""
        ...

    async def execute_batch(
        self, statements: Iterable[Statement[Any]], *, timeout: float | None = None
    ) -> list[Result]:
        """Run several statements that write."""
        ...

    async def execute_many(
        self, query: Query[Any], rows: Iterable[object], *, timeout: float | None = None
    ) -> int:
        """Run one statement for each of `rows`; return how many rows changed."""
        ...

    async def write(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``function(cx, …)``, a synchronous function that writes."""
        ...
