"""What listeners are told: an event for each statement, commit, transaction, wait and checkpoint.

For tracing and metrics: ``db.add_listener(print)``. Nothing is made or told while nobody listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .log import LOG

__all__ = [
    "Checkpointed",
    "Closed",
    "Committed",
    "Event",
    "KINDS",
    "Listener",
    "Listeners",
    "Opened",
    "Ran",
    "Reason",
    "Transacted",
    "Waited",
]


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
class Committed:
    """This `Database` has committed something: a write, several that shared it, or a transaction.

    Told before the callers are, except when one of them was cancelled in its COMMIT: then as soon
    as that has ended.
    """

    tables: frozenset[str] | None
    """What may have been written to, by triggers and cascades too; None: anything, the schema
    included."""


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
    """Pages were moved from the write-ahead log into the database: by `Database.checkpoint`, or
    because of `Config.wal_limit`."""

    mode: str
    seconds: float
    busy: bool
    """Whether somebody was in the way, so that pages are left to be moved."""
    pages: int
    """In the log; -1 without one, and where another connection makes a checkpoint just now."""
    moved: int
    readers: tuple[str, ...] = ()
    """If it was busy, who is in the way, as far as that can be told."""


Reason = Literal["open", "resize", "overflow", "calls", "stuck", "replace", "idle", "close"]
"""Why a connection is opened or closed.

- ``"open"``, ``"close"``: with the database; ``"resize"``: by `Database.resize`;
- ``"overflow"``: calls would have waited, see `Config.max_readers`; ``"calls"``: all the others are
  lent, and a call waits; ``"stuck"``: one of the others can't be stopped;
- ``"idle"``: it was opened for one of these three reasons, and has had nothing to do for
  `Config.reader_idle_time`;
- ``"replace"``: in place of one that is too old, or could not be reset.
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection was opened."""

    connection: str
    """Which one, such as ``"reader 2"``."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection was closed."""

    connection: str
    """Which one, such as ``"reader 2"``."""
    reason: Reason


Event = Ran | Committed | Transacted | Waited | Checkpointed | Opened | Closed
KINDS: frozenset[type] = frozenset(get_args(Event))
Listener = Callable[[Any], object]


class Listeners:
    """Those who want to know. They are called in the event loop, after the fact."""

    __slots__ = ("_listeners", "wanted")

    def __init__(self) -> None:
        self._listeners: tuple[tuple[Listener, frozenset[type]], ...] = ()
        self.wanted: frozenset[type] = frozenset()
        """The kinds of events that somebody wants: asked before one is made, by every connection's
        thread."""

    def add(self, listener: Listener, kinds: frozenset[type]) -> None:
        """Have a listener told of events of these kinds."""
        self._change(*self._listeners, (listener, kinds))

    def remove(self, listener: Listener) -> None:
        """Take out a listener that was added; does nothing if it was not."""
        self._change(*(known for known in self._listeners if known[0] != listener))

    def _change(self, *listeners: tuple[Listener, frozenset[type]]) -> None:
        self._listeners = listeners
        self.wanted = frozenset().union(*(kinds for _, kinds in listeners))

    def tell(self, event: Event) -> None:
        """Call each listener that wants it; what a listener raises is logged, no more.

        A `CancelledError` as well: a listener that asks a cancelled future for its result raises
        one, and the task that happens to be at work here was not cancelled (invariant 31).
        """
        for listener, kinds in self._listeners:
            if type(event) not in kinds:
                continue
            try:
                listener(event)
            except (Exception, asyncio.CancelledError):
                LOG.exception("abt_db: the listener %r failed on %r", listener, type(event))
