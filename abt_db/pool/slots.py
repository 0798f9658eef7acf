"""The slots of a lane: how they are made and given up, and what each of them is in use for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from abt_db.connection.deadline import Deadline
from abt_db.connection.lock_owners import Holding
from abt_db.events import Reason
from abt_db.log import LOG

from .loan import Loan
from .slot import Slot

Sit = Callable[[Slot, "asyncio.Future[None]"], Coroutine[Any, Any, None]]
"""The work of a slot's task. It opens the connection and sets the future, to None or to the error
of opening. At its end it takes the slot out of the list, unless the lane is closed."""


class Slots(list[Slot]):
    """All slots of one lane, those that are about to be given up among them."""

    __slots__ = ("_made", "_make", "_name", "_sit", "idle")

    def __init__(self, name: str, make: Callable[[str, Reason], Slot], sit: Sit) -> None:
        self._name = name
        self._make = make
        self._sit = sit
        self._made = 0
        self.idle: list[Slot] = []
        """The idle slots. The one used last is at the end and is taken first: its cache is warm."""

    async def resize(self, size: int) -> None:
        """Have `size` slots. New ones have their connection when this returns; slots that are too
        many are given up as they come free. If a connection can't be opened, nothing changes."""
        staying = [slot for slot in self if not slot.leaving]
        self.dismiss(staying[size:], "resize")
        await self._add(size - len(staying), "resize" if self._made else "open")

    def dismiss(self, slots: list[Slot], reason: Reason) -> None:
        """Give up `slots` as they come free."""
        for slot in slots:
            slot.dismiss(reason)
            if slot in self.idle:
                self.idle.remove(slot)
                slot.rouse()

    async def _add(self, count: int, reason: Reason) -> None:
        added = [self._new(reason) for _ in range(count)]
        try:
            # Every one is waited for, whatever happens to the first: an open can't be abandoned.
            opened = [opening for _, opening in added]
            results = await asyncio.shield(asyncio.gather(*opened, return_exceptions=True))
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            self.dismiss([slot for slot, _ in added], reason)
            raise

    def add_one(self, reason: Reason, then: Callable[[bool], None]) -> None:
        """Open one more slot and call ``then(opened)`` when that has succeeded or failed; a failure
        is logged."""
        _, opened = self._new(reason)

        def note(opened: asyncio.Future[None]) -> None:
            error = None if opened.cancelled() else opened.exception()
            if error is not None:
                LOG.warning("abt_db: no further %s could be opened: %s", self._name, error)
            then(error is None and not opened.cancelled())

        opened.add_done_callback(note)

    def let_idle_go(self, size: int, before: float) -> float | None:
        """Give up slots beyond `size` that have been idle since the moment `before`, the least
        recently used first. Return since when the next of them has been idle, None without one."""
        extra = sum(not (slot.leaving or slot.is_deserted) for slot in self) - size
        for slot in self.idle[: max(extra, 0)]:
            if slot.idle_since > before:
                return slot.idle_since
            self.dismiss([slot], "idle")
        return None

    def _new(self, reason: Reason) -> tuple[Slot, asyncio.Future[None]]:
        """Make a slot; the future is done when its connection is open, or can't be opened."""
        loop = asyncio.get_running_loop()
        self._made += 1
        name = f"{self._name} {self._made}"
        slot = self._make(name, reason)
        self.append(slot)
        opened = loop.create_future()
        slot.task = loop.create_task(self._sit(slot, opened), name=f"abt_db {name}")
        return slot, opened

    async def close(self, deadline: Deadline) -> None:
        """Give up all slots: let running work end until `deadline`, then stop it.

        Returns when their tasks, threads and files are gone. Must not be cancelled.
        """
        self.dismiss(self, "close")
        tasks = [slot.task for slot in self if slot.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=deadline.remaining())
            if late:
                for slot in self:
                    slot.stop()
                await asyncio.wait(late)

    def abandon(self) -> None:
        """Have the threads close their connections and end. From any thread; waits for nothing."""
        for slot in self:
            slot.abandon()

    def threads(self) -> list[threading.Thread]:
        """Return the connections' threads that have not ended."""
        connections = [slot.connection for slot in self if slot.connection is not None]
        threads = [connection.thread for connection in connections if connection.thread is not None]
        return [thread for thread in threads if thread.is_alive()]

    # -- what they are in use for ----------------------------------------------------------------

    @property
    def busy(self) -> int:
        """How many slots are at work; may be asked from any thread."""
        return sum(slot.work is not None for slot in self)

    def holdings(self) -> list[Holding]:
        """Return what each slot that is at work is in use for."""
        return [holding for slot in self if (holding := slot.holding()) is not None]

    def writing(self) -> Holding | None:
        """Return what is done in the open transaction, None without one; from any thread."""
        for slot in self:
            if slot.writing:
                return slot.holding()
        return None

    def loans(self) -> list[Loan]:
        """Return the loans that have not been given back."""
        works = [slot.work for slot in self]
        return [work for work in works if isinstance(work, Loan) and not work.returned]

    def say_who_holds(self, *, paused: bool, rival: Callable[[], str]) -> str:
        """Return a description of what holds the lane's connections, with the longest holder by
        name. `rival` describes the holder of the file's lock, for a holder that waits for that."""
        name, held = self._name, self.holdings()
        if not held:
            return f"{'a barrier' if paused else 'nobody'} holds the {name}"
        longest = max(held, key=lambda holding: holding.age)
        which = f"the {name}" if len(self) == 1 else f"{len(held)} {name}s at work"
        waits = f", which waits itself: {rival()}" if longest.state == "waiting" else ""
        return f"{which}, longest with {longest}, for {longest.age:.1f} s{waits}"
