"""Whatever happens in whatever order, the database holds what its callers were told it holds.

Hypothesis makes up a programme: calls of every kind, which go on side by side, some of them with
too little time or cancelled at some turn of the loop, connections that come and go, closing and
opening, and a disk that fails at some statement. At the end everything is quiet again, nothing is
missing or left over, and every connection works.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.engine import ADD, COUNT, NAMES, SOON, Driver, Holder, busy, until
from support.suite import descriptors, threads

from abt_db import AbtDbError, Config, Database, Query, QueryError, Session

CREATE = Query("items.create", "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
ADD_OR_ROLLBACK = Query("items.rollback", "INSERT OR ROLLBACK INTO items (name) VALUES (:name)")
ADD_OR_FAIL = Query("items.fail", "INSERT OR FAIL INTO items (name) VALUES (:name), ('first')")
ADD_FOR_NO_INT = Query(
    "items.no_int", "INSERT INTO items (name) VALUES (:name) RETURNING id, name", int
)

Write = Callable[[Database, list[str], float | None], Awaitable[object]]


async def transaction(db: Database, names: list[str], timeout: float | None) -> None:
    async with db.transaction(timeout=timeout) as tx:
        for name in names:
            await tx.execute(ADD(name=name))


async def savepoint(db: Database, names: list[str], timeout: float | None) -> None:
    async with db.transaction(timeout=timeout) as tx:
        await tx.execute(ADD(name=names[0]))
        with suppress(ZeroDivisionError):
            async with tx.savepoint() as inner:
                await inner.execute(ADD(name="undone"))
                raise ZeroDivisionError
        async with tx.savepoint() as inner:
            await inner.execute(ADD(name=names[1]))


def add(cx: Session, names: list[str]) -> None:
    for name in names:
        cx.execute(ADD(name=name))


async def snapshot(db: Database, _names: list[str], _timeout: float | None) -> None:
    async with db.snapshot() as view:
        assert await view.fetch_one(COUNT()) == len(await view.fetch_all(NAMES()))


async def stream(db: Database, _names: list[str], timeout: float | None) -> None:
    async with db.stream(NAMES(), size=3, timeout=timeout) as rows:
        names = [name async for name in rows]
    assert len({*names}) == len(names)


CALLS: dict[str, tuple[int, Write]] = {
    "execute": (1, lambda db, names, t: db.execute(ADD(name=names[0]), timeout=t)),
    "batch": (2, lambda db, names, t: db.execute_batch([ADD(name=n) for n in names], timeout=t)),
    "many": (3, lambda db, names, t: db.execute_many(ADD, [{"name": n} for n in names], timeout=t)),
    "function": (2, lambda db, names, t: db.write(add, names)),
    "transaction": (2, transaction),
    "savepoint": (2, savepoint),
    "half a batch": (
        -1,
        lambda db, names, t: db.execute_batch([ADD(name=names[0]), ADD(name="first")], timeout=t),
    ),
    "OR ROLLBACK": (0, lambda db, names, t: db.execute(ADD_OR_ROLLBACK(name="first"), timeout=t)),
    "OR FAIL": (-1, lambda db, names, t: db.execute(ADD_OR_FAIL(name=names[0]), timeout=t)),
    "no row": (-1, lambda db, names, t: db.fetch_one(ADD_FOR_NO_INT(name=names[0]), timeout=t)),
    "read": (0, lambda db, names, t: db.fetch_all(NAMES(), timeout=t)),
    "count": (0, lambda db, names, t: db.fetch_one(COUNT(), timeout=t, priority=1)),
    "read function": (0, lambda db, names, t: db.read(lambda cx: cx.fetch_one(COUNT()))),
    "snapshot": (0, snapshot),
    "stream": (0, stream),
}
"""Each call, and how many items it adds; -1: it would add one, but must fail."""


@dataclass
class Engine:
    """The database, and what must be in it."""

    path: Path
    driver: Driver = field(default_factory=Driver)
    serial: Any = field(default_factory=itertools.count)
    calls: list[tuple[str, list[str], asyncio.Task[Any]]] = field(default_factory=list)

    async def run(self, programme: list[tuple[str, Any]], settings: dict[str, Any]) -> None:
        self.db = Database(
            self.path, config=Config(readers=2, **settings), connect=self.driver.connect
        )
        await self.db.open()
        await self.db.execute(CREATE())
        await self.db.execute(ADD(name="first"))
        try:
            for action, argument in programme:
                await getattr(self, action)(argument)
            self.driver.hook = lambda step: None
            await self.quiet()
        finally:
            self.driver.hook = lambda step: None
            await self.db.close()

    async def call(self, what: tuple[str, float | None]) -> None:
        """Start a call and do not wait for it."""
        kind, timeout = what
        adds, function = CALLS[kind]
        names = [f"{kind} {next(self.serial)}" for _ in range(abs(adds))]

        async def made() -> object:
            return await function(self.db, names, timeout)

        self.calls.append((kind, names, asyncio.create_task(made())))

    async def cancel(self, which: int) -> None:
        if self.calls:
            self.calls[which % len(self.calls)][2].cancel()

    async def turns(self, number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    async def wait(self, _none: None) -> None:
        tasks = [task for *_, task in self.calls]
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=SOON)
            assert not hanging

    async def resize(self, readers: int) -> None:
        with suppress(AbtDbError, MemoryError):
            await self.db.resize(readers=readers)

    async def reopen(self, _none: None) -> None:
        await self.db.close()
        for _ in range(2):  # the disk fails once
            with suppress(QueryError, MemoryError):
                await self.db.open()

    async def fault(self, at: tuple[int, bool] | None) -> None:
        """Have the disk fail once, so many statements from now."""
        number, memory = at or (-1, False)
        steps = itertools.count()

        def fail(step: str) -> None:
            if step not in ("begin", "end") and next(steps) == number:
                if memory:
                    raise MemoryError("injected")
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                error.sqlite_errorname = "SQLITE_IOERR"
                raise error

        self.driver.hook = fail

    async def broken(self, how: tuple[int, bool, list[str]]) -> None:
        """Make a few calls, alone, of which one meets that fault."""
        *at, kinds = how
        await self.wait(None)
        await self.fault((at[0], at[1]))
        for kind in kinds:
            await self.call((kind, None))
        await self.wait(None)

    async def quiet(self) -> None:
        """Wait until nothing goes on, and look at what is there."""
        await self.wait(None)
        await until(lambda: not busy(self.db))
        await until(lambda: self.db.stats()["readers"]["size"] == self.db.config.readers)
        stats = self.db.stats()
        assert stats["transactions"] == []

        with closing(sqlite3.connect(self.path, timeout=0)) as raw:
            raw.execute("BEGIN IMMEDIATE").connection.rollback()  # nobody has a transaction open
            there = {name for (name,) in raw.execute("SELECT name FROM items")}
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for kind, names, task in self.calls:
            found = [name in there for name in names]
            if task.cancelled():
                # Perhaps it was in its COMMIT; all of it then, or nothing.
                assert len({*found}) <= 1, kind
                assert not (any(found) and CALLS[kind][0] < 0), kind
            elif task.exception() is not None:
                assert isinstance(task.exception(), AbtDbError | MemoryError | TimeoutError)
                assert not any(found), (kind, task.exception())
            else:
                assert all(found) and CALLS[kind][0] >= 0, kind
            there.difference_update(names)
        assert there == {"first"}

        # Every connection can be had, and serves.
        holders = [Holder(self.db.snapshot()) for _ in range(stats["readers"]["size"])]
        for holder in holders:
            await asyncio.wait_for(holder.__aenter__(), SOON)
        for holder in holders:
            await holder.__aexit__()
        await asyncio.wait_for(self.db.execute(ADD(name="last")), SOON)
        assert "last" in await self.db.fetch_all(NAMES())


ACTIONS = st.one_of(
    *[
        st.tuples(
            st.just("call"),
            st.tuples(st.sampled_from(sorted(CALLS)), st.sampled_from([None] * 4 + [0.001, 0.0])),
        )
    ]
    * 4,
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("resize"), st.integers(1, 4)),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("fault"), st.tuples(st.integers(0, 12), st.booleans())),
    *[
        st.tuples(
            st.just("broken"),
            st.tuples(
                st.integers(0, 9),
                st.booleans(),
                st.lists(st.sampled_from(sorted(CALLS)), min_size=1, max_size=3),
            ),
        )
    ]
    * 2,
)
SETTINGS = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([500, 2, 1]),
        "batch_time": st.sampled_from([0.005, 0.0]),
        "max_lifetime": st.sampled_from([None, None, 0.01]),
        "slow_query": st.sampled_from([None, 10.0]),
        "journal_mode": st.sampled_from(["wal", "wal", "delete"]),
    }
)


@given(programme=st.lists(ACTIONS, max_size=40), settings_=SETTINGS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_database_holds_what_its_callers_were_told(
    programme: list[tuple[str, Any]], settings_: dict[str, Any]
) -> None:
    before = threads(), descriptors()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(Engine(Path(folder, "app.db")).run(programme, settings_))
        gc.collect(1)
        assert (threads(), descriptors()) == before
