"""The queue of a lane. What is taken next depends on what waits and on the time, on nothing
else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from .call import Call
from .loan import Loan, Work

AGEING = 1.0
"""Seconds of waiting that are worth one step of priority."""

MOST = 2**31
"""Priorities lie between this and its negative: they are added to seconds of waiting, as floats."""


class Queue:
    """Calls and loans that wait: higher priority first, within one priority first come first
    served.

    A second of waiting counts as much as one step of priority, so that work of a low priority is
    served in the end (invariant 14).
    """

    __slots__ = ("_left", "_levels", "lendings", "live")

    def __init__(self) -> None:
        # A line for each priority and kind: calls pass the loans where no more may be lent.
        self._levels: dict[tuple[int, bool], deque[Work]] = {}
        self.live = 0
        """How many calls and loans wait."""
        self.lendings = 0
        """How many of these are loans."""
        # Work that is discarded stays in its line, marked, until its turn comes or there is too
        # much of it: to take it out of the middle of a deque would cost a walk through the line.
        self._left = 0

    def __iter__(self) -> Iterator[Work]:
        for level in self._levels.values():
            for work in level:
                if work.queued:
                    yield work

    def add(self, work: Work) -> None:
        """Add work, behind all other work of its priority."""
        lends = isinstance(work, Loan)
        level = self._levels.get((work.priority, lends))
        if level is None:
            level = self._levels[work.priority, lends] = deque()
        level.append(work)
        work.queued = True
        self.live += 1
        self.lendings += lends

    def put_back(self, call: Call[Any]) -> None:
        """Put a call back that was taken, before all others of its priority."""
        self._levels.setdefault((call.priority, False), deque()).appendleft(call)
        call.queued = True
        self.live += 1

    def discard(self, work: Work) -> bool:
        """Take `work` out; return whether it was waiting."""
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
        """Take what is served next: one, or up to `most` calls that follow each other and can
        share.

        Loans are passed over if not `lends`.

        A call that can share never overtakes one that can't. `may_share` is asked for a call that
        could not share when it came.
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
        """Return the work that has waited for `patience` seconds or until its own limit, and in how
        many seconds the next work will have."""
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
        """Return the line whose first work is the most urgent, after discarded work at its head has
        been removed."""
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
    """Raise `TypeError` or `ValueError` for a priority that can't be compared with others. In the
    queue it would fail the slot's task that takes from it, and not the caller."""
    if not isinstance(priority, int):
        raise TypeError(f"priority must be an int, not {type(priority).__name__}")
    if not -MOST < priority < MOST:
        raise ValueError("priority must be a small number: others wait as many seconds for it")
