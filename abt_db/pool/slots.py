"""The slots of a lane: makes them, gives them up, and says what their connections are used for."""

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

RunSlot = Callable[[Slot, "asyncio.Future[None]"], Coroutine[Any, Any, None]]
"""The coroutine function of a slot's task. It first opens the connection and sets the future, to
None or to the error. When it ends it removes the slot from the list, unless the lane is closed."""


class Slots(list[Slot]):
    """All slots of one lane, including those that will be given up when they come free."""

    __slots__ = ("_made", "_make", "_name", "_run_slot", "idle")

    def __init__(self, name: str, make: Callable[[str, Reason], Slot], run_slot: RunSlot) -> None:
        self._name = name
        self._make = make
        self._run_slot = run_slot
        self._made = 0
        self.idle: list[Slot] = []
        """The idle slots. The slot used last is at the end and is taken first, because its cache is
        warm."""

    async def resize(self, size: int) -> None:
        """Change the number of slots to `size`.

        New slots have their connection when this returns. Slots beyond `size` are given up as they
        come free. A connection that can't be opened raises its error, and the new slots are given
        up.
        """
        staying = [slot for slot in self if not slot.leaving]
        self.dismiss(staying[size:], "resize")
        await self._add(size - len(staying), "resize" if self._made else "open")

    def dismiss(self, slots: list[Slot], reason: Reason) -> None:
        """Give up `slots`: the idle ones now, the others as they come free."""
        for slot in slots:
            slot.dismiss(reason)
            if slot in self.idle:
                self.idle.remove(slot)
                slot.rouse()

    async def _add(self, count: int, reason: Reason) -> None:
        added = [self._new(reason) for _ in range(count)]
        try:
            # Wait for every connection, even after one has failed: an open can't be abandoned.
            opened = [opening for _, opening in added]
            results = await asyncio.shield(asyncio.gather(*opened, return_exceptions=True))
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            self.dismiss([slot for slot, _ in added], reason)
            raise

    def add_one(self, reason: Reason, then: Callable[[bool], None]) -> None:
        """Add one slot, and call ``then(opened)`` when its connection is open, or can't be opened.
        A failure is logged."""
        _, opened = self._new(reason)

        def note(opened: asyncio.Future[None]) -> None:
            error = None if opened.cancelled() else opened.exception()
            if error is not None:
                LOG.warning("abt_db: no further %s could be opened: %s", self._name, error)
            then(error is None and not opened.cancelled())

        opened.add_done_callback(note)

    def let_idle_go(self, size: int, before: float) -> float | None:
        """Give up slots beyond `size` that have been idle since the moment `before` or longer, the
        longest idle first.

        Returns the moment since which the next slot beyond `size` has been idle; None if no such
        slot is idle.
        """
        extra = sum(not (slot.leaving or slot.is_deserted) for slot in self) - size
        for slot in self.idle[: max(extra, 0)]:
            if slot.idle_since > before:
                return slot.idle_since
            self.dismiss([slot], "idle")
        return None

    def _new(self, reason: Reason) -> tuple[Slot, asyncio.Future[None]]:
        """Make a slot. The future is done when its connection is open or could not be opened."""
        loop = asyncio.get_running_loop()
        self._made += 1
        name = f"{self._name} {self._made}"
        slot = self._make(name, reason)
        self.append(slot)
        opened = loop.create_future()
        slot.task = loop.create_task(self._run_slot(slot, opened), name=f"abt_db {name}")
        return slot, opened

    async def close(self, deadline: Deadline) -> None:
        """Give up all slots: let running work end until `deadline`, then stop it.

        Returns when their tasks and threads have ended and their files are closed. Must not be
        cancelled.
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
        """Have the threads close their connections and end, without waiting for that. May be called
        from any thread."""
        for slot in self:
            slot.abandon()

    def threads(self) -> list[threading.Thread]:
        """Return the connections' threads that have not ended."""
        connections = [slot.connection for slot in self if slot.connection is not None]
        threads = [connection.thread for connection in connections if connection.thread is not None]
        return [thread for thread in threads if thread.is_alive()]

    # -- what the connections are used for -------------------------------------------------------

    @property
    def busy(self) -> int:
        """How many slots are at work. May be asked from any thread."""
        return sum(slot.work is not None for slot in self)

    def holdings(self) -> list[Holding]:
        """Return what each slot at work is used for."""
        return [holding for slot in self if (holding := slot.holding()) is not None]

    def writing(self) -> Holding | None:
        """Return what the slot whose connection is in a transaction is used for; None if there is
        no such slot. May be called from any thread."""
        for slot in self:
            if slot.writing:
                return slot.holding()
        return None

    def loans(self) -> list[Loan]:
        """Return the loans that have not been given back."""
        works = [slot.work for slot in self]
        return [work for work in works if isinstance(work, Loan) and not work.returned]

    def say_who_holds(self, *, paused: bool, rival: Callable[[], str]) -> str:
        """Return a text that says what holds the connections; the longest holder by name. If that
        holder waits for the file's lock, `rival` says what holds the lock."""
        name, held = self._name, self.holdings()
        if not held:
            return f"{'a barrier' if paused else 'no task'} holds the {name}"
        longest = max(held, key=lambda holding: holding.age)
        which = f"the {name}" if len(self) == 1 else f"{len(held)} {name}s at work"
        waits = f", which waits itself: {rival()}" if longest.state == "waiting" else ""
        return f"{which}, longest with {longest}, for {longest.age:.1f} s{waits}"
