"""Who would wait for ever, because what he waits for is held by one who waits for him."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol


class Held(Protocol):
    """A lane, as far as it matters to those who wait."""

    def holders(self, *, for_all: bool, lent: bool) -> list[asyncio.Task[Any] | None]:
        """The tasks that have to do something before one connection, or all, come free; one to be
        `lent`, or to run a call on.

        None stands for what comes free without anybody's doing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for: one connection of a lane, or (a barrier) all of them."""

    lane: Held
    for_all: bool = False
    lent: bool = False
    """Whether the connection is to be lent, and not to run a call on."""
    future: asyncio.Future[None] | None = None
    """Done when the wait has ended, of which the task itself hears a little later."""

    def holders(self) -> list[asyncio.Task[Any] | None]:
        return self.lane.holders(for_all=self.for_all, lent=self.lent)


class WaitGraph(dict["asyncio.Task[Any] | None", Wait]):
    """What the tasks wait for that hold something themselves; for all lanes of a pool."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0
        """How many loans and barriers there are. Without any, nobody can wait for ever."""

    def of(self, task: asyncio.Task[Any] | None) -> Wait | None:
        """What a task waits for at this moment."""
        wait = None if task is None else self.get(task)
        return wait if wait is None or wait.future is None or not wait.future.done() else None


def would_deadlock(task: asyncio.Task[Any] | None, wait: Wait, waits: WaitGraph) -> bool:
    """Whether what `task` is to wait for comes free only by those who wait for each other then."""
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

    # Who gets on lets others get on.
    while free := [waiter for waiter, their in stuck.items() if gets_on(their)]:
        for waiter in free:
            del stuck[waiter]
    return task in stuck
