"""Work for a lane: a *job* is a function, a *lease* lends the connection; and how it waits.

What is taken next, and who would wait for ever, are plain functions of the state, without I/O.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from .connection import Connection, RaisedError
from .deadline import Deadline
from .errors import AbtDbError, TransactionStateError
from .session import Session

__all__ = ["Job", "Lease", "Queue", "Wait", "Waits", "Work", "waits_for_ever"]

T = TypeVar("T")

AGEING = 1.0
"""Seconds of waiting that are worth one step of priority."""


class Job(Generic[T]):
    """A function to be run on a connection in one hop, and the future that its caller awaits."""

    __slots__ = ("begun", "deadline", "function", "future", "label", "priority", "since", "task")

    def __init__(
        self, label: str, function: Callable[[Session], T], deadline: Deadline, priority: int
    ) -> None:
        self.label = label
        self.function = function
        self.deadline = deadline
        self.priority = priority
        self.begun = False
        self.task = asyncio.current_task()
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.since = monotonic()


class Lease:
    """A connection that is lent to one task, until `give_back` or `revoke`."""

    __slots__ = (
        "_connection",
        "_deadline",
        "begun",
        "error",
        "future",
        "label",
        "priority",
        "returned",
        "settled",
        "since",
        "task",
    )

    def __init__(self, label: str, priority: int) -> None:
        loop = asyncio.get_running_loop()
        self.label = label
        self.priority = priority
        self.begun = False
        self.task = asyncio.current_task()
        self.future: asyncio.Future[None] = loop.create_future()
        """Done when the connection is lent."""
        self.returned: asyncio.Future[None] = loop.create_future()
        """Done when it was given back; the lane still has to clean up."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when the connection can serve again."""
        self.since = monotonic()
        self.error: AbtDbError | None = None
        """Why it was taken back before its time."""
        self._connection: Connection | None = None
        self._deadline = Deadline()

    def lend(self, connection: Connection) -> None:
        """Hand the connection over, unless the caller has gone in the meantime."""
        self._connection = connection
        self.since = monotonic()
        if self.future.done():
            self.give_back()
        else:
            self.future.set_result(None)

    async def run(self, function: Callable[[Session], T], deadline: Deadline) -> T:
        """Run `function` on the lent connection, in one hop.

        Cancelling stops its statement; the connection stays lent. Raises `TransactionStateError`
        after the lease was given back, and the reason given to `revoke` after that.
        """
        if self.error is not None:
            raise self.error
        if self._connection is None:
            raise TransactionStateError(f"{self.label} has ended; it can't be used any more")
        self._deadline = deadline
        try:
            return await self._connection.run(function, deadline)
        except RaisedError as raised:
            raise raised.error from None
        except AbtDbError as error:
            # Stopped by `revoke`: the caller is told why, not that a statement was stopped.
            if self.error is not None:
                raise self.error from error
            raise

    def give_back(self) -> None:
        """Return the connection to its lane. Synchronous, so that nothing can interrupt it."""
        self._connection = None
        self._deadline.cancel()
        if not self.returned.done():
            self.returned.set_result(None)

    def revoke(self, error: AbtDbError) -> None:
        """Take the connection back; what runs is stopped, what comes later raises `error`."""
        self.error = self.error or error
        self.give_back()


Work = Job[Any] | Lease


class Queue:
    """Work that waits: higher priority first, first come first served within one priority.

    A second of waiting counts as one step of priority, so a low one gets its turn (invariant 14).
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[int, Work]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def add(self, work: Work) -> None:
        self._levels.setdefault(work.priority, OrderedDict())[id(work)] = work

    def discard(self, work: Work) -> bool:
        """Take `work` out; return whether it was in."""
        level = self._levels.get(work.priority)
        if level is None or level.pop(id(work), None) is None:
            return False
        if not level:
            del self._levels[work.priority]
        return True

    def take(self, now: float) -> Work | None:
        """Take out what is served next."""
        first: Work | None = None
        for level in self._levels.values():
            oldest = next(iter(level.values()))
            if first is None or _urgency(oldest, now) > _urgency(first, now):
                first = oldest
        if first is not None:
            self.discard(first)
        return first


def _urgency(work: Work, now: float) -> float:
    return work.priority + (now - work.since) / AGEING


class Held(Protocol):
    """A lane, as far as it matters to those who wait."""

    def holders(self, *, for_all: bool) -> list[asyncio.Task[Any] | None]:
        """The tasks that have to do something before one connection, or all, come free.

        None stands for what comes free without anybody's doing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for: one connection of a lane, or (a barrier) all of them."""

    lane: Held
    for_all: bool = False


Waits = dict["asyncio.Task[Any] | None", Wait]


def waits_for_ever(
    task: asyncio.Task[Any] | None, wait: Wait, waits: Waits, seen: frozenset[object]
) -> bool:
    """Whether what `task` waits for comes free only by `task` itself, or by others in that fix."""

    def stuck(holder: asyncio.Task[Any] | None) -> bool:
        if holder is None or holder in seen:
            return False
        if holder is task:
            return True
        their = waits.get(holder)
        return their is not None and waits_for_ever(task, their, waits, seen | {holder})

    holders = wait.lane.holders(for_all=wait.for_all)
    return (any if wait.for_all else all)(map(stuck, holders))
