"""Events for listeners: one for each statement, commit, transaction, wait and checkpoint, and for
each connection that is opened or closed.

For tracing and metrics: ``db.add_listener(print)``. Without a listener, no events are made.
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
    """A statement has run on a connection, or has failed there."""

    query: str
    """The query's name."""
    connection: str
    """The connection's name, such as ``"reader 2"``."""
    seconds: float
    """Time on the connection, without the wait for it."""
    rows: int
    """Number of rows read or changed."""
    error: str | None
    """The name of the class of the error that it raised, or None."""


@dataclass(frozen=True, slots=True)
class Committed:
    """This `Database` has committed: a write, several writes in one COMMIT, or a transaction.

    Listeners get this event before the callers get their results. If a caller was cancelled during
    its COMMIT, listeners get it as soon as the COMMIT has ended.
    """

    tables: frozenset[str] | None
    """The tables that may have been written, by triggers and cascades too; None: any table may have
    been written, and the schema may have changed."""


@dataclass(frozen=True, slots=True)
class Transacted:
    """An interactive transaction or a snapshot has ended."""

    label: str
    seconds: float
    """Time since the connection was lent."""
    outcome: Literal["committed", "rolled back"]
    """A snapshot is always rolled back, because it has nothing to commit."""


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
    """Whether another connection blocked the checkpoint, so that pages are left to be moved."""
    pages: int
    """Number of pages in the log; -1 if there is no log, or if another connection is making a
    checkpoint."""
    moved: int
    readers: tuple[str, ...] = ()
    """If it was busy: the readers that blocked it, as far as they are known."""


Reason = Literal["open", "resize", "overflow", "calls", "stuck", "replace", "idle", "close"]
"""Why a connection is opened or closed.

- ``"open"``, ``"close"``: the database was opened or closed; ``"resize"``: by `Database.resize`;
- ``"overflow"``: calls would have waited, see `Config.max_readers`; ``"calls"``: all other readers
  are lent, and a call waits; ``"stuck"``: another reader runs a call that can't be stopped;
- ``"idle"``: closed because it had been opened for one of these three reasons, and was not used for
  `Config.reader_idle_time`;
- ``"replace"``: a connection that is too old, or could not be reset, is replaced.
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection was opened."""

    connection: str
    """The connection's name, such as ``"reader 2"``."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection was closed."""

    connection: str
    """The connection's name, such as ``"reader 2"``."""
    reason: Reason


Event = Ran | Committed | Transacted | Waited | Checkpointed | Opened | Closed
KINDS: frozenset[type] = frozenset(get_args(Event))
Listener = Callable[[Any], object]


class Listeners:
    """The listeners of a `Database`. They are called in the event loop, after the event."""

    __slots__ = ("_listeners", "wanted")

    def __init__(self) -> None:
        self._listeners: tuple[tuple[Listener, frozenset[type]], ...] = ()
        self.wanted: frozenset[type] = frozenset()
        """The kinds of events that any listener wants. Every connection's thread checks this before
        it makes an event."""

    def add(self, listener: Listener, kinds: frozenset[type]) -> None:
        """Add a listener, which is called for events of these kinds."""
        self._change(*self._listeners, (listener, kinds))

    def remove(self, listener: Listener) -> None:
        """Remove a listener; does nothing if it was not added."""
        self._change(*(known for known in self._listeners if known[0] != listener))

    def _change(self, *listeners: tuple[Listener, frozenset[type]]) -> None:
        self._listeners = listeners
        self.wanted = frozenset().union(*(kinds for _, kinds in listeners))

    def tell(self, event: Event) -> None:
        """Call each listener that wants the event. An error that a listener raises is logged and
        not passed on.

        That includes `CancelledError`: a listener that reads the result of a cancelled future
        raises it, although the task that calls the listener was not cancelled (invariant 31).
        """
        for listener, kinds in self._listeners:
            if type(event) not in kinds:
                continue
            try:
                listener(event)
            except (Exception, asyncio.CancelledError):
                LOG.exception("abt_db: the listener %r failed on %r", listener, type(event))
