"""The queue of a lane. What is taken next is a function of what waits and of the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import inf

from .work import Job, Work

__all__ = ["Queue"]

AGEING = 1.0
"""Seconds of waiting that are worth one step of priority."""


class Queue:
    """Work that waits: higher priority first, first come first served within one priority.

    A second of waiting counts as one step of priority, so a low one gets its turn (invariant 14).
    """

    __slots__ = ("_left", "_levels", "live")

    def __init__(self) -> None:
        self._levels: dict[int, deque[Work]] = {}
        self.live = 0
        """How many wait."""
        # Those who leave stay in the line, marked, until it is their turn or there are too many:
        # nobody can be taken out of the middle of a deque at once.
        self._left = 0

    def __iter__(self) -> Iterator[Work]:
        for level in self._levels.values():
            for work in level:
                if work.queued:
                    yield work

    def add(self, work: Work) -> None:
        """Add newcomers, behind all others of their priority."""
        level = self._levels.get(work.priority)
        if level is None:
            level = self._levels[work.priority] = deque()
        level.append(work)
        work.queued = True
        self.live += 1

    def put_back(self, work: Work) -> None:
        """Add what was taken out, before all others of its priority."""
        self._levels.setdefault(work.priority, deque()).appendleft(work)
        work.queued = True
        self.live += 1

    def discard(self, work: Work) -> bool:
        """Take `work` out; return whether it was in."""
        if not work.queued:
            return False
        work.queued = False
        self.live -= 1
        self._left += 1
        if self._left > self.live + 100:
            self._left = 0
            self._levels = {
                priority: level
                for priority, all_ in self._levels.items()
                if (level := deque(work for work in all_ if work.queued))
            }
        return True

    def take(
        self, now: float, most: int = 1, may_share: Callable[[Work], bool] = lambda work: False
    ) -> list[Work]:
        """Take out what is served next: one, or up to `most` that follow each other and can share.

        What does not share is never overtaken by what does. Of what did not when it came,
        `may_share` is asked once more.
        """
        taken: list[Work] = []
        while len(taken) < most and (level := self._next_level(now)) is not None:
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
        return taken

    def late(self, now: float, patience: float) -> tuple[list[Work], float]:
        """Return those who have waited for `patience` seconds, or until it is too late for them,
        and in how many seconds the next one will have."""
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

    def _next_level(self, now: float) -> deque[Work] | None:
        """The line whose first is the most urgent of all; none of those who left is first in it."""
        first = None
        for priority, level in [*self._levels.items()]:
            while level and not level[0].queued:
                level.popleft()
                self._left -= 1
            if not level:
                del self._levels[priority]
            elif first is None or _urgency(level[0], now) > _urgency(first[0], now):
                first = level
        return first


def _alike(work: Work, other: Work) -> bool:
    return isinstance(work, Job) and isinstance(other, Job) and work.writes == other.writes


def _urgency(work: Work, now: float) -> float:
    return work.priority + (now - work.since) / AGEING
