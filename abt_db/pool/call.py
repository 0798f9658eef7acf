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
    """What `Config` says of those who share. In seconds."""

    batch: float
    """When that has passed, no further call of a batch is begun."""
    busy: float
    """How long another process's lock is waited for."""
    statement: float | None
    """How long one call may run."""
    who: Callable[[], str]
    """Says who holds that lock."""


class Call(Deadline, Generic[T]):
    """A call: a function to be run on a connection, by itself in a hop or together with others;
    and the end of the time that it has for that."""

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
        """The query that it runs, or the name of what it does."""
        self.function = function
        """Called as ``function(session, *arguments)``."""
        self.arguments = arguments
        self.since = since = monotonic()
        # As a `Deadline`, which could do all this, if it cost nothing to call it.
        self.at = None if timeout is None else since + timeout
        self.cancelled = self.committing = False
        self.given_up = None
        self.priority = priority
        self.writes = writes
        """Whether it is run in a transaction that is committed."""
        self.shares = shares
        """Whether it may share a hop, and then it may be run twice: without effect the first
        time."""
        self.savepoint = savepoint
        """Whether the function undoes what it did before it raises an error."""
        self.task: asyncio.Task[Any] | None = None
        self.future: asyncio.Future[None] | None = None
        """Done when it is done; only those that wait have one."""
        self.queued: bool
        """Whether it is in a queue."""
        # Set on the connection's thread:
        self.began = 0.0
        self.ended = 0.0
        self.refused = False
        """Whether it has waited long enough for another process's lock, and is about to be told."""
        self.result: T
        self.error: BaseException | None = None

    @property
    def label(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.name

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or (self.future is not None and self.future.done())

    def begins(self, limits: Limits) -> bool:
        """Let its time count from now on; False if it must not begin: it has failed then."""
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
        """Let its caller, if it waits, go on with an error."""
        if self.future is not None and not self.future.done():
            self.error = error
            self.future.set_result(None)

    def free_late(self, connection: Connection, now: float) -> float:
        """Free its caller if the limit has passed and what runs did not end; otherwise return in
        how many seconds to ask again."""
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
        """Return its error, to be raised to its caller."""
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
