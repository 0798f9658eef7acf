"""A call: a function to be run on a connection, with its caller's time limit."""

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
    """The limits of `Config` that all calls of a lane have in common, in seconds."""

    batch: float
    """When a hop has run for so long, no further call of its batch is begun."""
    busy: float
    """How long a call waits for another process's lock."""
    statement: float | None
    """How long one call may run; None: no limit."""
    who: Callable[[], str]
    """Returns a text that says what holds that lock."""


class Call(Deadline, Generic[T]):
    """A function to be run on a connection, alone in a hop or together with other calls.

    A call is its own `Deadline`: its time limit, and the flag that stops it.
    """

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
        """The query that the call runs, or a name for what the call does."""
        self.function = function
        """Called as ``function(session, *arguments)``."""
        self.arguments = arguments
        self.since = since = monotonic()
        # What `Deadline.__init__` would set; a call of it for every call would cost too much.
        self.at = None if timeout is None else since + timeout
        self.cancelled = self.committing = False
        self.given_up = None
        self.priority = priority
        self.writes = writes
        """Whether the function runs in a transaction that is committed after it."""
        self.shares = shares
        """Whether the call may share a hop with others. Its function may then be run twice, the
        first time without effect."""
        self.savepoint = savepoint
        """Whether the function undoes its own work before it raises an error."""
        self.task: asyncio.Task[Any] | None = None
        self.future: asyncio.Future[None] | None = None
        """Done when the call is done. None if the call started without waiting in the queue."""
        self.queued: bool
        """Whether the call is in a queue."""
        # Set on the connection's thread:
        self.began = 0.0
        self.ended = 0.0
        self.refused = False
        """Whether the call has waited as long as it may for another process's lock. It is about to
        get its `BusyError`."""
        self.result: T
        self.error: BaseException | None = None

    @property
    def label(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.name

    @property
    def gone(self) -> bool:
        """Whether the caller no longer waits for the call."""
        return self.cancelled or (self.future is not None and self.future.done())

    def begins(self, limits: Limits) -> bool:
        """Start the call's time; return whether it may run. If not, the call has failed."""
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
        """Fail the call with `error`, if its caller waits for a future."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)

    def free_late(self, connection: Connection, now: float) -> float:
        """Raise the time limit's error in the caller if the limit has passed and the call still
        runs.

        Returns in how many seconds to ask again; infinity if that is not necessary.
        """
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
        """Return the call's error, to be raised in the caller."""
        error, self.error = self.error, None  # the error's traceback will refer to this call
        assert error is not None
        if isinstance(error, StopIteration):
            # Python lets no coroutine raise StopIteration: it turns it into a RuntimeError.
            told = RuntimeError(f"{self.label} raised StopIteration")
            told.__cause__ = error
            return told
        return error


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function for errors and statistics; raise `TypeError` for a function
    that can't be run on a connection."""
    if isinstance(function, Query):
        _ = function.query  # raises: a query is callable, but calling it only binds its parameters
    if iscoroutinefunction(function):
        raise TypeError(
            f"{function.__qualname__} is a coroutine function, and a connection's thread has no"
            " event loop: give a plain function, or use db.transaction()"
        )
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is a generator function, and calling it runs nothing yet:"
            " give a plain function that returns"
        )
    if not callable(function):
        raise TypeError(f"a {type(function).__name__} is no function that takes a connection")
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def take_priority(function: Callable[..., object], kwargs: dict[str, Any]) -> int:
    """Remove a call's ``priority`` from the keyword arguments of its function and return it; 0 if
    there is none.

    If the function has a parameter ``priority`` of its own, the argument stays there.
    """
    if "priority" not in kwargs:
        return 0
    try:
        own = "priority" in signature(function).parameters
    except (TypeError, ValueError):  # a function in C whose parameters Python can't list
        own = False
    priority: int = 0 if own else kwargs.pop("priority")
    return priority
