"""Work for a lane: a *call* is a function, a *loan* lends the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from abt_db.connection.deadline import COMMIT_GRACE, GRACE, Deadline
from abt_db.connection.driver import Connection
from abt_db.errors import (
    StatementTimeoutError,
    StoppedError,
)
from abt_db.sql.query import Query

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits, from `Config`, under which calls are performed. In seconds."""

    batch: float
    """A batch begins no further call after this time."""
    busy: float
    """How long a call waits for another process's lock."""
    statement: float | None
    """How long one call may run."""
    who: Callable[[], str]
    """Returns a description of the holder of that lock."""


class Call(Deadline, Generic[T]):
    """A call: a function to be run on a connection, alone in a hop or in a batch, and the caller's
    time limit for it."""

    __slots__ = (
        "arguments",
        "began",
        "ended",
        "error",
        "function",
        "future",
        "priority",
        "queued",
        "refused",
        "result",
        "savepoint",
        "shares",
        "since",
        "task",
        "what",
        "writes",
    )

    def __init__(
        self,
        what: Query[Any] | str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        timeout: float | None = None,
        priority: int = 0,
        writes: bool = False,
        shares: bool = False,
        savepoint: bool = False,
    ) -> None:
        self.what = what
        """The query that it runs, or a name for what it does."""
        self.function = function
        """Called as ``function(session, *arguments)``."""
        self.arguments = arguments
        self.since = since = monotonic()
        # What `Deadline.__init__` does, without the price of calling it.
        self.at = None if timeout is None else since + timeout
        self.cancelled = self.committing = False
        self.given_up = None
        self.priority = priority
        self.writes = writes
        """Whether it runs in a transaction, which is committed after it."""
        self.shares = shares
        """Whether it may share a hop with other calls. It may then be run twice: what the first run
        did is rolled back."""
        self.savepoint = savepoint
        """Whether the function undoes its own changes before it raises an error."""
        self.task: asyncio.Task[Any] | None = None
        self.future: asyncio.Future[None] | None = None
        """Done when the call is done. Only a call that waits in the queue has one."""
        self.queued: bool
        """Whether it is in a queue."""
        # Set on the connection's thread:
        self.began = 0.0
        self.ended = 0.0
        self.refused = False
        """Whether it gave up waiting for another process's lock; its caller has not gone on yet."""
        self.result: T
        self.error: BaseException | None = None

    @property
    def label(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.name

    @property
    def gone(self) -> bool:
        """Whether its caller does not wait for it any more."""
        return self.cancelled or (self.future is not None and self.future.done())

    def begins(self, limits: Limits) -> bool:
        """Start the clock of the call. Return False if it must not begin: it has an error then."""
        future = self.future
        if not self.began:
            self.began = monotonic()
            if limits.statement is not None:
                self.limited(limits.statement)
        if self.cancelled or (future is not None and future.done()):
            self.error = StoppedError(f"{self.label} was cancelled before it began")
        elif self.at is not None and self.began >= self.at:
            self.error = StatementTimeoutError(
                f"{self.label} was stopped at its time limit, before it began"
            )
        else:
            return True
        self.ended = self.began
        return False

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the caller, if it waits in the queue."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)

    def free_late(self, connection: Connection, now: float) -> float:
        """Raise the time limit's error in the caller if the limit has passed and the call still
        runs; otherwise return in how many seconds to ask again."""
        if self.at is None or self.gone or self.given_up:
            return inf
        late = self.at + (GRACE + COMMIT_GRACE if self.committing or self.refused else GRACE)
        if now < late:
            return late - now
        what = self.what if isinstance(self.what, str) else f"query {self.what.name!r}"
        if self.future is not None:
            self.future.set_exception(self.give_up(what))
        else:
            connection.free(self, what)
        return inf

    def told(self) -> BaseException:
        """Return the error of the call, for its caller to raise."""
        error, self.error = self.error, None  # its traceback will know this call
        assert error is not None
        if isinstance(error, StopIteration):
            # A coroutine can't raise it: that would be its result.
            told = RuntimeError(f"{self.label} raised StopIteration")
            told.__cause__ = error
            return told
        return error


def name_of(function: Callable[..., object]) -> str:
    """What a function is called in errors and statistics; `TypeError` for one that can't be run on
    a connection."""
    if isinstance(function, Query):
        _ = function.query  # raises: it could be called, but that binds it
    if iscoroutinefunction(function):
        raise TypeError(
            f"{function.__qualname__} is a coroutine function, and a connection's thread has no"
            " event loop: give a plain function, or use db.transaction()"
        )
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is a generator function, of which a call runs nothing yet:"
            " give a function that returns"
        )
    if not callable(function):
        raise TypeError(f"a {type(function).__name__} is no function that takes a connection")
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def take_priority(function: Callable[..., object], kwargs: dict[str, Any]) -> int:
    """Take the priority of a call out of the keyword arguments of its function, 0 if it has none.

    A parameter of the function's own that is called so keeps its argument.
    """
    if "priority" not in kwargs:
        return 0
    try:
        own = "priority" in signature(function).parameters
    except (TypeError, ValueError):  # of a function in C that does not tell its parameters
        own = False
    priority: int = 0 if own else kwargs.pop("priority")
    return priority
