"""What listeners are told: one event for each statement, transaction, wait and checkpoint.

For tracing and metrics: ``db.add_listener(print)``. Nothing is made or told while nobody listens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Checkpointed", "Event", "Listener", "Listeners", "Ran", "Transacted", "Waited"]

LOG = logging.getLogger("abt_db")


@dataclass(frozen=True, slots=True)
class Ran:
    """A statement has run on a connection."""

    query: str
    """The query's name."""
    connection: str
    """Which one, such as ``"reader 2"``."""
    seconds: float
    """On the connection, without the waiting for it."""
    rows: int
    """Read or changed."""
    error: str | None
    """The class of what it raised."""


@dataclass(frozen=True, slots=True)
class Transacted:
    """An interactive transaction or a snapshot has ended."""

    label: str
    seconds: float
    """Since the connection was lent."""
    outcome: Literal["committed", "rolled back"]
    """A snapshot is always rolled back: there is nothing to commit."""


@dataclass(frozen=True, slots=True)
class Waited:
    """A call had to wait for a connection, and got it or gave up."""

    label: str
    lane: str
    """``"writer"``, ``"reader"`` or ``"follower"``."""
    seconds: float
    served: bool


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """`Database.checkpoint` has moved pages from the write-ahead log into the database."""

    mode: str
    seconds: float
    busy: bool
    """Whether somebody was in the way, so that pages are left to be moved."""
    pages: int
    """In the log."""
    moved: int


Event = Ran | Transacted | Waited | Checkpointed
Listener = Callable[[Event], object]


class Listeners:
    """Those who want to know. They are called in the event loop, after the fact."""

    __slots__ = ("_listeners", "present")

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self.present = False
        """Whether there are any: asked before an event is made, by every connection's thread."""

    def add(self, listener: Listener) -> None:
        self._listeners += (listener,)
        self.present = True

    def remove(self, listener: Listener) -> None:
        """Take out a listener that was added; does nothing if it was not."""
        self._listeners = tuple(known for known in self._listeners if known != listener)
        self.present = bool(self._listeners)

    def tell(self, event: Event) -> None:
        """Call each of them; what one raises is logged, and hurts nobody else."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                LOG.exception("abt_db: the listener %r failed on %r", listener, type(event))
