"""Deadlock detection: which wait could end only if the waiting task itself went on.

The lane refuses such a wait at once, instead of at a time limit (invariants 15, 17).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol


class Held(Protocol):
    """A lane, as far as deadlock detection needs to know it."""

    def holders(self, *, for_all: bool, lent: bool) -> list[asyncio.Task[Any] | None]:
        """Return the tasks that have to act before one connection comes free, to be `lent` or to
        run a call on; with `for_all`, before all of them are free.

        None stands for a connection that comes free without any task having to act.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for: one connection of a lane, or, for a barrier, all of them."""

    lane: Held
    for_all: bool = False
    lent: bool = False
    """Whether the connection is to be lent, and not to run a call on."""
    future: asyncio.Future[None] | None = None
    """Done when the wait has ended; the task goes on in a later turn of the loop."""

    def holders(self) -> list[asyncio.Task[Any] | None]:
        return self.lane.holders(for_all=self.for_all, lent=self.lent)


class WaitGraph(dict["asyncio.Task[Any] | None", Wait]):
    """The waits of tasks that may hold a loan or a barrier, over all lanes of a pool."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0
        """How many loans and barriers there are. Without any, there is no deadlock."""

    def of(self, task: asyncio.Task[Any] | None) -> Wait | None:
        """Return what a task waits for at this moment, None if it does not wait."""
        wait = None if task is None else self.get(task)
        return wait if wait is None or wait.future is None or not wait.future.done() else None


def would_deadlock(task: asyncio.Task[Any] | None, wait: Wait, waits: WaitGraph) -> bool:
    """Return whether `wait` would close a circle of tasks that can only wait for each other."""
    stuck = {task: wait}
    found = [wait]
    for each in found:
        for holder in each.holders():
            if holder not in stuck and (their := waits.of(holder)) is not None:
                stuck[holder] = their
                found.append(their)

    def gets_on(wait: Wait) -> bool:
        held = [holder is not None and holder in stuck for holder in wait.holders()]
        return not (any if wait.for_all else all)(held)

    # A task that gets on lets go of what it holds, and so others get on.
    while free := [waiter for waiter, their in stuck.items() if gets_on(their)]:
        for waiter in free:
            del stuck[waiter]
    return task in stuck
