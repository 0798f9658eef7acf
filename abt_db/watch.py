"""Live queries: the rows of a statement, and again after each commit that may have changed them.

A statement is run once for all who watch it, by a task of its own. What makes it run again is

- a commit of this `Database` that has written to one of its tables: `Committed` tells of each;
- a commit of another process, of which SQLite tells only that there was one: then all are run,
  and those whose rows are the same are not told of.

Nothing is missed between the first rows and the first news (invariant 26): a statement is on the
list before it runs for the first time, with all tables until its own are known.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from typing import Any, Generic, Self, TypeVar
from weakref import WeakSet

from .channel import Channel
from .errors import BusyError, PoolClosedError, PoolTimeoutError
from .events import Committed
from .pool import Pool
from .query import Statement

__all__ = ["Watch", "Watching"]

T = TypeVar("T")

PAUSE = 0.02
"""Seconds between two runs of a statement: commits that follow each other closely are one news."""


class Watch(Generic[T]):
    """The states of a statement's rows: ``async for rows in watch``. See `Database.watch`."""

    def __init__(self, live: _Live[T]) -> None:
        self._live = live
        # Only what is read from now on: a write that was acknowledged before this is in it.
        self._seen = live.runs
        live.watches.add(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        """Return the newest rows that this has not returned yet, waiting for them.

        Cancelled, it takes nothing away: the next call returns them.
        """
        live = self._live
        while self._seen >= live.number:
            if live.error is not None:
                raise copy.copy(live.error)  # each watcher adds its own traceback
            await live.news.wait()
        self._seen = live.number
        return live.rows.copy()


class _Live(Generic[T]):
    """A statement that is watched."""

    def __init__(self, statement: Statement[T]) -> None:
        self.statement = statement
        self.tables: frozenset[str] | None = None
        """What it reads; None: it may be anything."""
        self.watches: WeakSet[Watch[T]] = WeakSet()
        self.runs = 0
        """How often it was begun to run."""
        self.rows: list[T] = []
        self.number = 0
        """Of the run that `rows` came from, the last one that had news."""
        self.news = asyncio.Event()
        """Set when there is a new state, or an error; the next one has another."""
        self.error: BaseException | None = None
        self.stale = asyncio.Event()
        """Set when it has to run again, or has to end."""
        self.touched = True
        """Whether its rows are news whatever they are."""

    def touch(self) -> None:
        self.touched = True
        self.stale.set()

    def tell(self, rows: list[T], number: int) -> None:
        self.rows, self.number = rows, number
        news, self.news = self.news, asyncio.Event()
        news.set()

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.news.set()
        self.stale.set()


class Watching:
    """All live queries of an open database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lives: dict[object, _Live[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    def watch(self, statement: Statement[T]) -> Watch[T]:
        """Begin to watch a statement."""
        key = _key(statement)
        live = self._lives.get(key) or _Live(statement)
        watch = Watch(live)
        live.touch()
        if key not in self._lives:
            self._begin(key, live)  # now that it is watched: eager tasks look at once
        return watch

    async def close(self) -> None:
        """End all of them: who watches gets `PoolClosedError`."""
        lives = list(self._lives.values())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for live in lives:
            live.fail(PoolClosedError("the database was closed"))

    def abandon(self) -> None:
        """Let go of all of them when their event loop is closed: nobody is left to be told."""
        self._pool.listeners.remove(self._committed)

    def _begin(self, key: object, live: _Live[Any]) -> None:
        if not self._lives:
            self._pool.listeners.add(self._committed, frozenset({Committed}))
        self._lives[key] = live
        interval = self._pool.config.watch_interval
        if self._looking is None and interval is not None:
            self._looking = self._start(self._look(interval), "abt_db watch")
        self._start(self._keep(key, live), f"abt_db watch {live.statement.query.name}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, key: object, live: _Live[Any]) -> None:
        """Run a statement again and again, for as long as somebody watches."""
        query = live.statement.query
        try:
            while live.watches and live.error is None:
                live.stale.clear()
                touched, live.touched = live.touched, False
                live.runs = number = live.runs + 1
                rows, live.tables = await self._pool.read(query, _look, (live.statement,))
                if touched or rows != live.rows:
                    live.tell(rows, number)
                await asyncio.sleep(PAUSE)
                await live.stale.wait()
        except Exception as error:
            live.fail(error)
        finally:
            del self._lives[key]
            if not self._lives:
                self._pool.listeners.remove(self._committed)

    def _committed(self, event: Committed) -> None:
        for live in self._lives.values():
            tables = live.tables
            if event.tables is None or tables is None or not tables.isdisjoint(event.tables):
                live.touch()
            elif not live.watches:
                live.stale.set()  # so that it ends

    async def _look(self, interval: float) -> None:
        """Look for the commits of other processes, and for statements that nobody watches."""
        try:
            while self._lives:
                await asyncio.sleep(max(interval, PAUSE))
                try:
                    others = await self._pool.others_committed()
                except (BusyError, PoolTimeoutError):
                    continue  # the writer is held: by us, so that nobody else can commit
                for live in self._lives.values():
                    if others or not live.watches:
                        live.stale.set()
        except Exception as error:
            for live in self._lives.values():
                live.fail(error)
        finally:
            self._looking = None


def _look(channel: Channel, statement: Statement[T]) -> tuple[list[T], frozenset[str] | None]:
    return channel.fetch_all(statement), channel.tables_read_by(statement.query)


def _key(statement: Statement[Any]) -> object:
    """What statements have in common that have the same rows."""
    values = statement.values
    named = values.items() if isinstance(values, dict) else enumerate(values)
    return statement.query, tuple((name, type(value), value) for name, value in named)
