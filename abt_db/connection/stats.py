"""Counters of connections and lanes. Bounded: nothing here grows with the number of operations.

Each connection counts its own statements on its own thread, so no lock is needed. The counts of all
connections are added up when statistics are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import frexp, ldexp
from time import sleep
from typing import Any, Literal, get_args

from abt_db.events import Checkpointed, Committed, Listeners, Ran

MAX_NAMES = 1_000
OTHERS = "(others)"
MAX_EVENTS = 100_000

QUICK = 3
"""Thousands of steps of SQLite's virtual machine, some 100 µs, below which a read is quick. A
thread hop costs about as much, so quick reads share one."""


class Histogram:
    """Counts of durations in buckets, each at most an eighth wide."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        # seconds == mantissa * 2**exponent, with 0.5 <= mantissa < 1
        mantissa, exponent = frexp(seconds or 1e-9)
        bucket = 8 * exponent + int(16 * mantissa)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def include(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        for bucket, count in list(other.counts.items()):
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def quantile(self, share: float) -> float:
        """Return the seconds that `share` (0 to 1) of the durations did not exceed; 0 if there are
        no durations.

        The result is the upper end of a bucket: at most an eighth too high, never too low.
        """
        left = share * sum(self.counts.values())
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                exponent, eighth = divmod(bucket - 8, 8)
                return ldexp((eighth + 9) / 16, exponent)
        return 0.0


class Durations(Histogram):
    """Durations, with their exact sum and maximum beside the buckets."""

    __slots__ = ("count", "seconds", "slowest")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.seconds = self.slowest = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        if seconds > self.slowest:
            self.slowest = seconds
        super().add(seconds)

    @property
    def mean(self) -> float:
        """The mean in seconds; 0 if there are no durations."""
        return self.seconds / self.count if self.count else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return ``count``, and in seconds ``mean``, ``p50``, ``p99`` and ``slowest``."""
        return {
            "count": self.count,
            "mean": self.mean,
            "p50": self.quantile(0.50),
            "p99": self.quantile(0.99),
            "slowest": self.slowest,
        }


class _Counters(Durations):
    """The counters of one query."""

    __slots__ = ("errors", "rows")

    def __init__(self) -> None:
        super().__init__()
        self.errors = self.rows = 0


class QueryStats:
    """The counters of each query by name. After `MAX_NAMES` names, further queries are counted
    together under the name `OTHERS`."""

    __slots__ = ("_counters",)

    def __init__(self) -> None:
        self._counters: dict[str, _Counters] = {}

    def record(self, name: str, seconds: float, rows: int = 0, failed: bool = False) -> None:
        """Count one run of a query, which took `seconds` on its connection."""
        counters = self._counters.get(name) or self._new(name)
        counters.rows += rows
        if failed:
            counters.errors += 1
        counters.add(seconds)

    def _new(self, name: str) -> _Counters:
        if len(self._counters) >= MAX_NAMES:
            name = OTHERS
        return self._counters.setdefault(name, _Counters())

    def include(self, other: QueryStats) -> None:
        """Add the counts of another `QueryStats`, which may be in use in another thread."""
        for name, theirs in list(other._counters.items()):
            ours = self._counters.get(name) or self._new(name)
            ours.count += theirs.count
            ours.errors += theirs.errors
            ours.rows += theirs.rows
            ours.seconds += theirs.seconds
            ours.slowest = max(ours.slowest, theirs.slowest)
            ours.include(theirs)

    def runs(self) -> int:
        """Return the number of runs counted. May be called from any thread."""
        return sum(counters.count for counters in list(self._counters.values()))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return for each name its ``count``, ``errors``, ``rows``, and in seconds ``seconds`` (the
        sum), ``mean``, ``p50``, ``p99`` and ``slowest``."""
        return {
            name: {
                "errors": counters.errors,
                "rows": counters.rows,
                "seconds": counters.seconds,
                **counters.as_dict(),
            }
            for name, counters in self._counters.items()
        }


class Costs:
    """The mean cost of each query's runs, in thousands of steps of SQLite's virtual machine.

    It tells which queries are quick. Time is no measure of that: while a thread waits for Python's
    global lock or for a processor, a point read takes a millisecond, so its time would measure the
    load and not the query.
    """

    __slots__ = ("_means",)

    def __init__(self) -> None:
        # Changed by every reader's thread, without a lock. Of two changes at the same moment one
        # may be lost, which hardly changes a mean.
        self._means: dict[str, float] = {}

    def record(self, name: str, thousands: int) -> None:
        """Add one run to the mean."""
        means = self._means
        mean = means.get(name)
        if mean is not None:
            means[name] = mean + (thousands - mean) / 16
        elif len(means) < MAX_NAMES:
            means[name] = thousands

    def are_low(self, name: str) -> bool:
        """Whether runs of this query are known to be quick."""
        mean = self._means.get(name)
        return mean is not None and mean < QUICK


class ConnectionStats:
    """The counters of one connection: written on its thread, read by the event loop."""

    __slots__ = (
        "commits",
        "costs",
        "crowded",
        "events",
        "listeners",
        "name",
        "opened",
        "queries",
        "replaced",
    )

    def __init__(
        self,
        name: str,
        costs: Costs | None,
        listeners: Listeners,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.costs = costs
        """Where the costs of this connection's queries are recorded; None: nowhere."""
        self.listeners = listeners
        self.crowded = crowded
        """Returns whether other connections are at work too."""
        self.queries = QueryStats()
        self.commits = 0
        self.opened = self.replaced = 0
        """How often a connection was opened, and how often it replaced another one; counted by the
        event loop."""
        self.events: deque[Ran | Committed | Checkpointed] = deque(maxlen=MAX_EVENTS)
        """Events for the listeners, which `tell` passes on in the event loop after the hop."""

    def ran(
        self,
        query: str,
        seconds: float,
        rows: int,
        thousands: int = 0,
        error: BaseException | None = None,
    ) -> None:
        """Count one run of a query: its seconds, the rows that it read or changed, and the
        thousands of steps that it took."""
        self.queries.record(query, seconds, rows, error is not None)
        if self.costs is not None:
            self.costs.record(query, thousands)
        if Ran in self.listeners.wanted:
            kind = None if error is None else type(error).__name__
            self.events.append(Ran(query, self.name, seconds, rows, kind))

    def committed(self, tables: Callable[[], frozenset[str] | None]) -> None:
        """Count a COMMIT. `tables` returns the tables that it has written, and is called only if a
        listener wants that event."""
        self.commits += 1
        if Committed in self.listeners.wanted:
            self.events.append(Committed(tables()))

    def give_way(self) -> None:
        """Let other threads run Python, if other connections are at work. Called between the pieces
        of long work.

        A thread that takes the global lock again right after each statement in effect keeps it for
        five milliseconds, until the interpreter forces the thread to release it.
        """
        if self.crowded():
            sleep(0.0001)

    def tell(self) -> None:
        """Pass the events since the last call to the listeners."""
        while self.events:
            self.listeners.tell(self.events.popleft())


Outcome = Literal["committed", "rolled_back", "timed_out", "ended", "unknown"]
"""How a transaction ended. It was rolled back as well if it timed out, or was ended by other code
than its own. Unknown: its COMMIT was cancelled, or took longer than its caller could wait."""


class Transacting(Durations):
    """How long interactive transactions were open, and how they ended. Used in the event loop."""

    __slots__ = ("_outcomes", "begun")

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self._outcomes: dict[str, int] = dict.fromkeys(get_args(Outcome), 0)

    def ended(self, outcome: Outcome, seconds: float) -> None:
        """Count a transaction that has ended, and was open for `seconds`."""
        self.add(seconds)
        self._outcomes[outcome] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, and the durations in seconds."""
        outcomes, durations = self._outcomes, super().as_dict()
        ended = durations.pop("count")
        undone = sum(outcomes[each] for each in ("rolled_back", "timed_out", "ended"))
        return {
            "begun": self.begun,
            "open": self.begun - ended,
            **outcomes,
            "rolled_back": undone,
            **durations,
        }


class LaneStats:
    """The counters of a lane since it was opened. Written and read by the event loop."""

    __slots__ = (
        "_past",
        "batches",
        "hops",
        "loans",
        "longest_wait",
        "overflows",
        "queries",
        "response",
        "waits",
    )

    def __init__(self) -> None:
        self.hops = self.loans = self.waits = self.overflows = 0
        self.response = Durations()
        """The time of each call, from its beginning to its end, its wait for a connection
        included."""
        self.longest_wait = 0.0
        self.batches: dict[int, int] = {}
        """The number of hops by the number of calls that shared them, rounded up to a power of
        two."""
        # The counts of connections that the lane no longer has.
        self._past = dict.fromkeys(("opened", "replaced", "commits"), 0)
        self.queries = QueryStats()

    def shared(self, calls: int) -> None:
        """Count a hop that so many calls shared."""
        most = 1 << (calls - 1).bit_length()
        self.batches[most] = self.batches.get(most, 0) + 1

    def include(self, stats: ConnectionStats) -> None:
        """Keep the counts of a connection that the lane no longer uses."""
        for name in self._past:
            self._past[name] += getattr(stats, name)
        self.queries.include(stats.queries)

    def as_dict(self, connections: Iterable[ConnectionStats]) -> dict[str, Any]:
        """Return all counters; `connections` are those of the connections that are open."""
        figures: dict[str, Any] = {
            "calls": self.response.count,
            "hops": self.hops,
            "loans": self.loans,
            "waits": self.waits,
            "longest_wait": self.longest_wait,
            "overflows": self.overflows,
            "response": self.response.as_dict(),
            "batches": {size: self.batches[size] for size in sorted(self.batches)},
            **self._past,
        }
        for each in connections:
            for name in self._past:
                figures[name] += getattr(each, name)
        return figures
