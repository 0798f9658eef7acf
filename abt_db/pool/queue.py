"""The queue of a lane. The work that is next depends only on the waiting work and the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from .call import Call
from .loan import Loan, Work

AGEING = 1.0
"""Seconds of waiting that count as one step of priority."""

MOST = 2**31
"""Priorities must lie between `-MOST` and `MOST`, because they are added to seconds, as floats."""


class Queue:
    """Waiting work: higher priority first, and first come, first served within one priority.

    A second of waiting counts as one step of priority, so work of low priority gets its turn too
    (invariant 14).
    """

    __slots__ = ("_left", "_levels", "lendings", "live")

    def __init__(self) -> None:
        # Two lines for each priority, one with the calls and one with the loans: loans may have to
        # let calls pass.
        self._levels: dict[tuple[int, bool], deque[Work]] = {}
        self.live = 0
        """How many calls and loans wait."""
        self.lendings = 0
        """How many of them are loans."""
        # Discarded work that is still in its line. Removing from the middle of a deque is slow, so
        # discarded work is only marked, and removed at its turn or when there is too much of it.
        self._left = 0

    def __iter__(self) -> Iterator[Work]:
        for level in self._levels.values():
            for work in level:
                if work.queued:
                    yield work

    def add(self, work: Work) -> None:
        """Add new work, behind all other work of its priority."""
        lends = isinstance(work, Loan)
        level = self._levels.get((work.priority, lends))
        if level is None:
            level = self._levels[work.priority, lends] = deque()
        level.append(work)
        work.queued = True
        self.live += 1
        self.lendings += lends

    def put_back(self, call: Call[Any]) -> None:
        """Put back a call that was taken out, before all other calls of its priority."""
        self._levels.setdefault((call.priority, False), deque()).appendleft(call)
        call.queued = True
        self.live += 1

    def discard(self, work: Work) -> bool:
        """Remove `work`; return whether it was in the queue."""
        if not work.queued:
            return False
        work.queued = False
        self.live -= 1
        self.lendings -= isinstance(work, Loan)
        self._left += 1
        if self._left > self.live + 100:
            self._left = 0
            self._levels = {
                kind: level
                for kind, all_ in self._levels.items()
                if (level := deque(work for work in all_ if work.queued))
            }
        return True

    def take(
        self,
        now: float,
        most: int = 1,
        may_share: Callable[[Work], bool] = lambda work: False,
        *,
        lends: bool = True,
    ) -> list[Work]:
        """Remove and return the work that is next: one, or up to `most` calls that follow each
        other and can share a hop. Loans are passed over if `lends` is false.

        A call that can share never overtakes work that can't. For work that could not share when
        it came, ``may_share(work)`` decides again.
        """
        taken: list[Work] = []
        while len(taken) < most and (level := self._next_level(now, lends)) is not None:
            work = level[0]
            shares = work.shares or may_share(work)
            if taken and not (shares and _alike(work, taken[0])):
                break
            level.popleft()
            work.queued = False
            taken.append(work)
            if not shares:
                break
            work.shares = True
        self.live -= len(taken)
        self.lendings -= sum(isinstance(work, Loan) for work in taken)
        return taken

    def late(self, now: float, patience: float) -> tuple[list[Work], float]:
        """Return the work that has waited for `patience` seconds or until its own limit `at`, and
        the number of seconds until the next work will have."""
        late: list[Work] = []
        next_one = inf
        for work in self:
            end = work.since + patience
            if work.at is not None:
                end = min(end, work.at)
            if now < end:
                next_one = min(next_one, end - now)
            else:
                late.append(work)
        return late, next_one

    def _next_level(self, now: float, lends: bool) -> deque[Work] | None:
        """Return the line whose first work is the most urgent of all. Discarded work at the head of
        a line is removed before."""
        first = None
        for kind, level in [*self._levels.items()]:
            while level and not level[0].queued:
                level.popleft()
                self._left -= 1
            if not level:
                del self._levels[kind]
            elif kind[1] and not lends:
                continue
            elif first is None or _urgency(level[0], now) > _urgency(first[0], now):
                first = level
        return first


def _alike(work: Work, other: Work) -> bool:
    return isinstance(work, Call) and isinstance(other, Call) and work.writes == other.writes


def _urgency(work: Work, now: float) -> float:
    return work.priority + (now - work.since) / AGEING


def require_priority(priority: int) -> None:
    """Raise `TypeError` or `ValueError` for a priority that can't be compared with others. Without
    this check the error would hit the slot's task, which takes from the queue, and not the
    caller."""
    if not isinstance(priority, int):
        raise TypeError(f"priority must be an int, not {type(priority).__name__}")
    if not -MOST < priority < MOST:
        raise ValueError("priority must be a small number: other calls wait as many seconds for it")
