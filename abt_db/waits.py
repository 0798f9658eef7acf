"""Who would wait for ever, because what he waits for is held by one who waits for him."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Held", "Wait", "Waits", "waits_for_ever"]


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


class Waits(dict["asyncio.Task[Any] | None", Wait]):
    """What the tasks wait for that hold something themselves; for all lanes of a pool."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0
        """How many leases and barriers there are. Without any, nobody can wait for ever."""


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
