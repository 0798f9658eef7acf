"""Live queries: the rows of a statement, and again after each commit that has changed them.

A statement is run once for all its watches. It is run again after

- a commit of this `Database` that has written to one of its tables, as the `Committed` event says;
- any commit of another process, because SQLite reports only that there was one: then all statements
  are run again.

Watches get the rows of a later run only if they differ from those of the run before. A new watch
gets its first rows in any case, from a run that begins after the watch did.

No change is missed between the first rows and the next ones (invariant 26). Each run notes, before
it begins, how many commits were known. If one of its tables has been written since, it is followed
by another run.

Many live queries must not starve ordinary calls (invariant 35). The first run of a statement is a
call like any other. Later runs wait behind every call and use half of the readers at most, and
several statements share a hop to a reader's thread (a *trip*). A statement is chosen for a trip
when its turn comes, so it runs once, however many commits there were meanwhile.
"""

from __future__ import annotations

import asyncio
import copy
import marshal
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from weakref import ref

from abt_db.connection.access import folded
from abt_db.connection.transaction import EngineSession
from abt_db.errors import BusyError, PoolClosedError, PoolSaturatedError, PoolTimeoutError
from abt_db.events import Committed
from abt_db.pool.pool import Pool
from abt_db.sql.query import Query, Statement

from .dependencies import Schema, depends_on, look_at_schema

T = TypeVar("T")

PAUSE = 0.02
"""Seconds between two trips of a runner, so that commits that follow each other closely cause one
run, and calls have their turn."""

LOWEST = -10
"""The priority of later runs: behind every call that comes within the next ten seconds."""

MAX_TABLES = 10_000
"""For so many tables, at most, `Watching` keeps the commit that wrote them last."""


class Watch(Generic[T]):
    """The states of a statement's rows, to be iterated over, best inside a block that ends it:
    ``async with db.watch(…) as states: async for rows in states: …``. See `Database.watch`."""

    def __init__(self, watching: Watching, place: _Place[T]) -> None:
        self._watching = watching
        self._place = place

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        """Wait for rows that this watch has not returned yet, and return the newest.

        Cancelling this loses nothing: the next call returns the rows.
        """
        try:
            place = self._place
            live = place.live
            while not self.ended:
                if place.has_news:
                    place.told = live.state
                    return live.rows.copy()
                if live.error is not None:
                    raise copy.copy(live.error)  # each watcher adds its own traceback
                place.news.clear()
                await place.news.wait()
            raise StopAsyncIteration
        except BaseException:
            # The traceback keeps this frame alive for as long as the error is kept, and frameworks
            # keep a cancellation. The frame must not keep the watch alive too.
            del self
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._leave()

    async def aclose(self) -> None:
        """End the watch at once: iterating over it ends, also in a task that waits for rows. Does
        nothing if the watch has ended."""
        self._leave()

    def _leave(self) -> None:
        self._place.left = True
        self._place.news.set()
        self._watching.left(self._place, ref(self))

    @property
    def ended(self) -> bool:
        """Whether the watch was ended by its consumer or by `Database.end_watches`."""
        return self._place.left or self._place.term != self._watching.term


class _Place(Generic[T]):
    """Which rows the consumer of a watch has got. It does not refer to the `Watch`, so that Python
    can collect a watch that has no other references."""

    def __init__(self, live: _Live[T], term: int) -> None:
        self.live = live
        self.term = term
        # Only runs that begin after this count: they see every write that was acknowledged before.
        self.since = live.begun
        self.told = 0
        """The number of the state (`_Live.state`) that was returned last."""
        self.left = False
        self.news = asyncio.Event()
        """Set when there may be something to return or to raise."""

    @property
    def waits_for_run(self) -> bool:
        """Whether no run that began after this watch has ended yet."""
        return self.live.done <= self.since

    @property
    def has_news(self) -> bool:
        return self.live.state != self.told and not self.waits_for_run


@dataclass(frozen=True, slots=True)
class _Ran(Generic[T]):
    """The outcome of one run of a statement."""

    number: int
    rows: list[T]
    mark: bytes
    """A hash of the rows as SQLite returned them."""
    tables: frozenset[str] | None
    """The tables whose commits may change the rows; None: every commit may."""


class _Live(Generic[T]):
    """A statement that is watched. It is run by one thread at a time."""

    def __init__(self, key: object, statement: Statement[T]) -> None:
        self.key = key
        self.marked = _Marked.of(statement.query)
        self.statement = Statement(self.marked, statement.values)
        self.places: dict[ref[Watch[T]], _Place[T]] = {}
        """The place of each watch. Changed in the event loop only, although Python may collect a
        watch in any thread."""
        self.task: asyncio.Task[None] | None = None
        """The task that runs the statement for new watches."""
        # Set before a run begins, in the event loop or on the thread that runs it:
        self.begun = 0
        """The number of the last run that has begun."""
        self.commits = 0
        """How many commits were known when that run began."""
        # Set in the event loop, when a run has ended:
        self.done = 0
        """The number of the last run that has ended."""
        self.tables: frozenset[str] | None = frozenset()
        self.rows: list[T] = []
        self.mark = b""
        self.state = 0
        """The number of the run that first found these rows."""
        self.error: BaseException | None = None

    def begin(self, commits: int) -> None:
        """Note that a run is about to begin, and that `commits` commits are known.

        The order matters, because the event loop may go on meanwhile. `commits` is read before the
        run begins, so the run sees all of them. `begun` grows before the run reads, so a watch that
        begins now does not take this run for one that began after it.
        """
        self.commits = commits
        self.begun += 1

    def tell(self) -> None:
        """Wake the watches that have new rows or an error to get."""
        for place in self.places.values():
            if place.has_news or self.error is not None:
                place.news.set()


class _Marked(Query[T]):
    """A query that hashes the rows as SQLite returns them, before it maps them.

    Mapped rows can't be compared to find a change: they may be equal though they differ, as 1 and
    1.0, or two dataclass instances with a field that is not compared.
    """

    __slots__ = ("_hash",)

    @classmethod
    def of(cls, query: Query[T]) -> _Marked[T]:
        marked = object.__new__(cls)
        for name in Query.__slots__:
            setattr(marked, name, getattr(query, name))
        marked.begin()
        return marked

    def begin(self) -> None:
        """Begin a new hash, for a new run."""
        self._hash = blake2b(digest_size=16)

    def mark(self) -> bytes:
        return self._hash.digest()

    def map_rows(self, description: Any, rows: list[tuple[Any, ...]], start: int = 1) -> list[T]:
        names = [column[0] for column in description or ()] if start == 1 else None
        # Version 2 of the format depends only on the values. Later versions also record which
        # objects are shared, so equal rows could have different bytes.
        self._hash.update(marshal.dumps((names, rows), 2))
        return super().map_rows(description, rows, start)


class Watching:
    """All live queries of an open database: their watches, and the tasks that run them."""

    def __init__(self, pool: Pool) -> None:
        self.config = pool.config
        self.term = 0
        """Grows when all watches are ended: a watch of an earlier term has ended."""
        self.commits = 0
        """How many commits are known."""
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._lives: dict[object, _Live[Any]] = {}
        # The statements that are not being run; first the one whose last run is the longest ago.
        # The event loop or a reader's thread takes a statement out to run it. Of several that try,
        # one gets it, because `dict.pop` is atomic.
        self._idle: dict[_Live[Any], _Live[Any]] = {}
        # How many statements depend on each table; None: on every commit.
        self._depending: Counter[str | None] = Counter()
        # The number of the last commit that wrote each table, and (`_anything`) of the last one
        # that may have written any table.
        self._written: dict[str, int] = {}
        self._anything = 0
        self._schema: Schema | None = None
        self._runners = 0
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, statement: Statement[T]) -> Watch[T]:
        """Begin to watch a statement."""
        key = _key(statement)
        live = self._lives.get(key)
        if live is None:
            if not self._lives:
                self._pool.listeners.add(self._committed, frozenset({Committed}))
            live = self._lives[key] = _Live(key, statement)
            self._idle[live] = live
            self._look_for_others()
        place = _Place(live, self.term)
        watch = Watch(self, place)
        live.places[ref(watch, partial(self._collected, place))] = place
        if self._idle.pop(live, None) is not None:
            self._run_first(live)
        return watch

    def _collected(self, place: _Place[Any], watch: ref[Watch[Any]]) -> None:
        # Called in any thread. In a closed event loop there is no watch left to end.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.left, place, watch)

    def left(self, place: _Place[Any], watch: ref[Watch[Any]]) -> None:
        """Remove a watch that has ended. A statement without any watch is not run again."""
        live = place.live
        live.places.pop(watch, None)
        if not live.places:
            if live.task is not None:
                live.task.cancel()
            self._drop(live)

    def end(self) -> None:
        """End all watches. May be called in a signal handler, wherever it interrupts the event
        loop."""
        self.term += 1
        self._loop.call_soon_threadsafe(self._sweep)

    async def close(self) -> None:
        """End all watches: their consumers get `PoolClosedError`."""
        lives = [*self._lives.values()]
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for live in lives:
            self._fail(live, PoolClosedError("the database was closed"))

    def abandon(self) -> None:
        """Forget all watches, whose event loop is closed, so that no consumer is left."""
        self._pool.listeners.remove(self._committed)

    def _sweep(self) -> None:
        for live in [*self._lives.values()]:
            for watch, place in [*live.places.items()]:
                if place.term != self.term:
                    place.news.set()
                    self.left(place, watch)

    def _drop(self, live: _Live[Any]) -> None:
        if self._lives.get(live.key) is live:
            del self._lives[live.key]
            self._idle.pop(live, None)
            self._depend(live.tables, -1)
            if not self._lives:
                self._pool.listeners.remove(self._committed)

    def _depend(self, tables: frozenset[str] | None, more: int) -> None:
        for table in _each(tables):
            self._depending[table] += more
            if not self._depending[table]:
                del self._depending[table]

    def _fail(self, live: _Live[Any], error: BaseException) -> None:
        self._drop(live)
        live.error = live.error or error
        live.tell()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"abt_db watch {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- commits ---------------------------------------------------------------------------------

    def _committed(self, event: Committed) -> None:
        if event.tables is None:
            self._note_commit(None)
        else:
            self._note_commit(frozenset(map(folded, event.tables)))

    def _note_commit(self, tables: frozenset[str] | None) -> None:
        self.commits += 1
        if tables is None or len(self._written) > MAX_TABLES:
            self._anything = self.commits
            self._written.clear()
        else:
            self._written.update(dict.fromkeys(tables, self.commits))
        if tables is None or any(self._depending[table] for table in (None, *tables)):
            self._run_stale()

    def _is_stale(self, live: _Live[Any]) -> bool:
        """Whether a commit that the last run may not have seen may have changed the rows."""
        known, written = live.commits, self._written
        if live.tables is None:
            return known < self.commits
        return known < self._anything or any(known < written.get(table, 0) for table in live.tables)

    def _stale(self) -> Iterator[_Live[Any]]:
        return filter(self._is_stale, [*self._idle])

    def _look_for_others(self) -> None:
        interval = self._pool.config.watch_interval
        if self._looking is None and interval is not None:
            self._looking = self._start(self._look(interval), "for commits of other processes")

    async def _look(self, interval: float) -> None:
        try:
            while self._lives:
                await asyncio.sleep(max(interval, PAUSE))
                try:
                    others = await self._pool.others_committed()
                except (BusyError, PoolTimeoutError):
                    # The writer is in use here, so other processes can't commit, or it waits for
                    # another process's lock. The next look finds what was committed.
                    continue
                if others:
                    self._note_commit(None)
        except Exception as error:
            for live in [*self._lives.values()]:
                self._fail(live, error)
        finally:
            self._looking = None

    # -- runs ------------------------------------------------------------------------------------

    def _run_first(self, live: _Live[Any]) -> None:
        """Run a statement, taken out of `_idle`, for new watches."""
        # Now and not in the hop: a shared hop opens its view of the database before this call's
        # turn, so commits that become known after that are not in the view.
        live.begin(self.commits)
        live.task = self._start(self._run(live), live.marked.name)

    async def _run(self, live: _Live[Any]) -> None:
        try:
            found = await self._pool.read(live.marked, self.find, (live,))
        except Exception as error:
            self._fail(live, error)
        else:
            self._deliver(live, found)

    def _run_stale(self) -> None:
        """Start a task that runs the stale statements, if none is running yet."""
        if not self._runners and any(True for _ in self._stale()):
            self._add_runner()

    def _add_runner(self) -> None:
        if self._runners < max(1, len(self._pool.readers.slots) // 2):
            self._runners += 1
            self._start(self._run_again(), "again")

    async def _run_again(self) -> None:
        try:
            while any(True for _ in self._stale()):
                trip = _Trip(self)
                overdue = self._loop.call_later(PAUSE, self._go_on_without, trip)
                try:
                    await self._pool.read("live queries", trip.run, (), priority=LOWEST)
                except (PoolTimeoutError, PoolSaturatedError):
                    pass  # ordinary calls need all readers: try again after the pause
                except Exception as error:
                    # An error of the pool, or another process's lock was in the way for too long.
                    for live in [trip.current] if trip.current else [*self._stale()]:
                        self._fail(live, error)
                finally:
                    overdue.cancel()
                self._deliver_all(trip)
                await asyncio.sleep(PAUSE)
        finally:
            self._runners -= 1

    def _go_on_without(self, trip: _Trip) -> None:
        """If a statement of the trip is slow, deliver the outcomes of those before it, and start
        another runner for those after it."""
        self._deliver_all(trip)
        self._add_runner()

    def _deliver_all(self, trip: _Trip) -> None:
        while trip.found:
            live, found = trip.found.popleft()
            if isinstance(found, _Ran):
                self._deliver(live, found)
            else:
                self._fail(live, found)

    def due(self) -> Iterator[_Live[Any]]:
        """Take the stale statements out of `_idle`, one after the other; on a reader's thread."""
        return (live for live in self._stale() if self._idle.pop(live, None))

    def find(self, session: EngineSession, live: _Live[T]) -> _Ran[T]:
        """Run a statement and find what it depends on; on a reader's thread."""
        number = live.begun
        live.marked.begin()
        rows, used = session.fetch_known(live.statement)
        self._schema = schema = look_at_schema(session, self._schema)
        return _Ran(number, rows, live.marked.mark(), depends_on(live.statement, used, schema))

    def _deliver(self, live: _Live[T], found: _Ran[T]) -> None:
        if self._lives.get(live.key) is not live:
            return  # it has no watch any more
        live.task = None
        live.done = found.number
        if live.tables != found.tables:
            self._depend(live.tables, -1)
            self._depend(found.tables, +1)
            live.tables = found.tables
        if not live.state or live.mark != found.mark:
            live.state, live.rows, live.mark = found.number, found.rows, found.mark
        live.tell()
        if any(place.waits_for_run for place in live.places.values()):
            self._run_first(live)  # a watch began during this run
            return
        self._idle[live] = live
        if self._is_stale(live):
            self._run_stale()


class _Trip:
    """Statements that are run one after the other in one hop to a reader's thread."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching
        self.found: deque[tuple[_Live[Any], _Ran[Any] | Exception]] = deque()
        """The outcomes. The thread fills this and the event loop empties it, even while the trip
        goes on."""
        self.current: _Live[Any] | None = None
        """The statement that is being run."""
        self._due: Iterator[_Live[Any]] | None = None

    def run(self, session: EngineSession) -> None:
        """Run stale statements until `Config.batch_time` has passed; the rest is for the next trip.

        The lane calls this again if another process's lock was in the way.
        """
        watching, deadline = self._watching, session.deadline
        end = monotonic() + watching.config.batch_time
        self._due = due = self._due or watching.due()
        while (live := self.current or next(due, None)) is not None:
            self.current = live
            deadline.at = None  # each statement has a call's time limit of its own
            deadline.limited(watching.config.statement_timeout)
            found: _Ran[Any] | Exception
            try:
                live.begin(watching.commits)
                found = watching.find(session, live)
            except BusyError:
                raise
            except Exception as error:
                found = error
            self.found.append((live, found))
            self.current = None
            if monotonic() >= end:
                return


def _each(tables: frozenset[str] | None) -> Iterable[str | None]:
    return (None,) if tables is None else tables


def _key(statement: Statement[Any]) -> object:
    """Return a key that is equal for statements that have the same rows."""
    values = statement.values
    named = values.items() if isinstance(values, dict) else enumerate(values)
    return statement.query, tuple((name, type(value), value) for name, value in named)
