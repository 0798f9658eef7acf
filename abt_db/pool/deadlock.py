"""Deadlock detection: whether a wait could end only if the waiting task itself went on.

A task that holds a connection and waits for another one may wait for a task that waits for it in
turn. Such a wait is refused before it begins (invariant 17).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol


class Held(Protocol):
    """What deadlock detection needs to know of a lane."""

    def holders(self, *, for_all: bool, lent: bool) -> list[asyncio.Task[Any] | None]:
        """Return the tasks that hold the connections which a wait is for.

        With `for_all`, all of them have to act before the wait can end; otherwise it is enough that
        one of them does. `lent` says that the wait is for a connection to be lent, not one to run a
        call on. None in the list stands for a connection that comes free without any task's doing.
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
    """Done when the wait has ended; the waiting task itself goes on a little later."""

    def holders(self) -> list[asyncio.Task[Any] | None]:
        return self.lane.holders(for_all=self.for_all, lent=self.lent)


class WaitGraph(dict["asyncio.Task[Any] | None", Wait]):
    """What each task waits for; shared by all lanes of a pool. Waits are noted only while there is
    a loan or a barrier."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0
        """How many loans and barriers there are. Without any, a deadlock is impossible."""

    def of(self, task: asyncio.Task[Any] | None) -> Wait | None:
        """Return what a task waits for at this moment; None if it does not wait."""
        wait = None if task is None else self.get(task)
        return wait if wait is None or wait.future is None or not wait.future.done() else None


def would_deadlock(task: asyncio.Task[Any] | None, wait: Wait, waits: WaitGraph) -> bool:
    """Whether `task`, if it began `wait`, would wait for ever: only for tasks that wait for each
    other, `task` among them."""
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

    # A task that can go on may free what others wait for, so remove such tasks until none is left
    # that can go on. The rest wait for each other.
    while free := [waiter for waiter, their in stuck.items() if gets_on(their)]:
        for waiter in free:
            del stuck[waiter]
    return task in stuck
