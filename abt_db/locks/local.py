"""Named locks and semaphores for the tasks of one event loop.

First come, first served: a task that releases a permit hands it to the task that has waited
longest, so no other task can take it in between. The future of a waiting task is set once: either
the task has the permit, or its time is over, never both. A task that is cancelled in the instant of
the hand-over hands the permit on (fault 78).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from time import monotonic
from types import TracebackType
from typing import Any, Self

from abt_db.errors import LockStateError, LockTimeoutError


class LocalLocks:
    """Locks and semaphores by name; a name that is not in use takes no memory.

    They belong to the event loop that uses them first, until it is closed, and hold only among the
    tasks of that loop. For a lock among processes use `Database.lock`. Names appear in errors and
    statistics.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grants = self._waits = self._timeouts = 0
        self._longest_wait = 0.0

    def lock(self, name: str, *, timeout: float | None = None) -> Permit:
        """Return a block that one task at a time can be in: ``async with locks.lock("maps"): …``.

        Tasks enter it in the order in which they came. Entering waits at most `timeout` seconds, or
        without limit if None; then `LockTimeoutError` says which task holds the lock and for how
        long. Cancelling the wait leaves nothing behind. Entering raises `LockStateError` at once if
        only the current task itself could release the lock, and in another event loop.
        """
        return Permit(self, name, 1, timeout)

    def semaphore(self, name: str, limit: int, *, timeout: float | None = None) -> Permit:
        """Return a block that at most `limit` tasks at a time can be in; otherwise as `lock`.

        Raises `ValueError` for a limit below 1. Entering raises it if other tasks are using the
        name with a different limit.
        """
        if limit < 1:
            raise ValueError(f"the limit of a semaphore must be 1 or more, not {limit}")
        return Permit(self, name, limit, timeout)

    def stats(self) -> dict[str, Any]:
        """Return statistics as a plain dict.

        ``held`` and ``waiting`` are the numbers of permits that are held, and waited for, now;
        ``grants``, ``waits`` and ``timeouts`` are counts so far; ``longest_wait`` is in seconds.
        ``names`` has, for each name in use, its ``limit``, ``waiting``, and ``holders``: the
        ``task`` and ``age`` in seconds of each.
        """
        now = monotonic()
        names = {
            name: {
                "limit": line.limit,
                "waiting": len(line.waiting),
                "holders": [
                    {"task": permit.holder, "age": now - permit.since} for permit in line.holding
                ],
            }
            for name, line in self._lines.items()
        }
        return {
            "held": sum(len(line.holding) for line in self._lines.values()),
            "waiting": sum(len(line.waiting) for line in self._lines.values()),
            "grants": self._grants,
            "waits": self._waits,
            "timeouts": self._timeouts,
            "longest_wait": self._longest_wait,
            "names": names,
        }

    def _line(self, name: str, limit: int) -> _Line:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise LockStateError(
                    f"lock {name!r} is used in another event loop; have LocalLocks for each"
                )
            self._loop = loop
            self._lines.clear()  # the tasks that held permits ended with the closed loop
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(limit)
        elif line.limit != limit:
            raise ValueError(f"{name!r} is in use with a limit of {line.limit}, not {limit}")
        return line


class _Line:
    """The permits of one name that are held, and those that wait, in the order in which they came.

    While a task waits, all permits are held, because a released permit is handed on at once.
    """

    __slots__ = ("holding", "limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.holding: dict[Permit, None] = {}
        self.waiting: OrderedDict[Permit, None] = OrderedDict()


class Permit:
    """One task's part in a lock or semaphore: a block, entered once. See `LocalLocks`."""

    __slots__ = ("_future", "_line", "_locks", "limit", "name", "since", "task", "timeout")

    def __init__(self, locks: LocalLocks, name: str, limit: int, timeout: float | None) -> None:
        self._locks = locks
        self._line: _Line | None = None
        self._future: asyncio.Future[None]
        self.name = name
        self.limit = limit
        self.timeout = timeout
        self.task: asyncio.Task[Any] | None = None
        self.since = 0.0
        """When the task began to wait or, once it has the permit, when it got the permit."""

    async def __aenter__(self) -> Self:
        if self._line is not None:
            raise LockStateError(f"a permit of lock {self.name!r} can be entered only once")
        locks = self._locks
        self._line = line = locks._line(self.name, self.limit)
        self.task = asyncio.current_task()
        self.since = monotonic()
        if len(line.holding) < line.limit:
            line.holding[self] = None
        else:
            await self._wait(line)
        locks._grants += 1
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Release the permit before the end of the block; does nothing if it is not held."""
        line = self._line
        if line is None or self not in line.holding:
            return
        del line.holding[self]
        while line.waiting:
            permit, _ = line.waiting.popitem(last=False)
            if not permit._future.done():  # otherwise its task was cancelled or has timed out
                permit._have(line)
                return
        if not line.holding:
            del self._locks._lines[self.name]

    @property
    def holder(self) -> str:
        """The name of the permit's task."""
        return "?" if self.task is None else self.task.get_name()

    async def _wait(self, line: _Line) -> None:
        if all(permit.task is self.task for permit in line.holding):
            raise LockStateError(
                f"lock {self.name!r} is held by this very task, which would wait for ever"
            )
        locks, loop = self._locks, asyncio.get_running_loop()
        locks._waits += 1
        self._future = loop.create_future()
        line.waiting[self] = None
        timer = None if self.timeout is None else loop.call_later(self.timeout, self._expire)
        try:
            await self._future
        except BaseException:
            line.waiting.pop(self, None)
            self.release()  # the permit may have come in the instant of the cancellation
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _have(self, line: _Line) -> None:
        now = monotonic()
        self._locks._longest_wait = max(self._locks._longest_wait, now - self.since)
        self.since = now
        line.holding[self] = None
        self._future.set_result(None)

    def _expire(self) -> None:
        line = self._line
        if line is None or self._future.done():
            return
        now = monotonic()
        self._locks._timeouts += 1
        self._locks._longest_wait = max(self._locks._longest_wait, now - self.since)
        longest = next(iter(line.holding))
        self._future.set_exception(
            LockTimeoutError(
                f"lock {self.name!r} did not come free within {self.timeout:g} s; task"
                f" {longest.holder!r} has held it for {now - longest.since:.1f} s;"
                f" {len(line.waiting) - 1} more wait"
            )
        )
