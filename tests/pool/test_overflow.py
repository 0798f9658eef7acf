"""Readers beyond `Config.readers`: made when calls would wait, closed when they are idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.engine import ADD, COUNT, NAMES, TOUCH, Driver, Holder, busy, items, until
from support.suite import descriptors, threads

from abt_db import (
    ConfigError,
    Database,
    PoolClosedError,
    PoolTimeoutError,
    Query,
    TransactionStateError,
)
from abt_db.events import Closed, Opened

SLOW = Query("items.slow", "SELECT id FROM items ORDER BY id", int)


@asynccontextmanager
async def held(db: Database, count: int) -> AsyncIterator[list[Holder]]:
    """Snapshots that are open, each in a task of its own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Holder(db.snapshot())) for _ in range(count)]


def readers(db: Database, *names: str) -> tuple[int, ...]:
    stats = db.stats()["readers"]
    return tuple(stats[name] for name in names)


def told(db: Database) -> list[tuple[type, str, str]]:
    """What listeners are told of connections from now on."""
    events: list[tuple[type, str, str]] = []

    def listen(event: Any) -> None:
        events.append((type(event), event.connection, event.reason))

    db.add_listener(listen, Opened, Closed)
    return events


class TestAReaderForCalls:
    """However many streams and snapshots are open, a call does not wait for their end."""

    @pytest.mark.parametrize("size", [1, 2, 4])
    async def test_slow_downloads_stop_no_read(self, path: Path, size: int) -> None:
        async def download() -> None:
            async with db.stream(SLOW(), size=1) as rows:
                async for _ in rows:
                    await over.wait()

        async with items(path, "a", "b", readers=size) as db, asyncio.TaskGroup() as group:
            over = asyncio.Event()
            for _ in range(size + 3):
                group.create_task(download())
            await until(lambda: readers(db, "busy", "waiting") == (size, 3))
            for _ in range(3):
                assert await db.fetch_one(COUNT()) == 2
                assert await db.read(lambda cx: cx.fetch_all(NAMES())) == ["a", "b"]
            # The three downloads that wait are not let to it.
            assert readers(db, "busy", "waiting", "size", "overflow") == (size, 3, size + 1, 1)
            over.set()

    async def test_calls_pass_the_loans_that_wait_for_one(self, path: Path) -> None:
        async with items(path, "a") as db, held(db, 2) as holders:
            first = asyncio.create_task(db.fetch_one(COUNT()))  # opens the one for calls
            later = asyncio.create_task(entered(db.snapshot(priority=100)))
            await until(lambda: readers(db, "waiting")[0] == 1 and first.done())
            assert await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(20))) == [1] * 20
            assert not later.done()
            holders[0].let_go()
            await later

    async def test_it_is_no_deadlock(self, path: Path) -> None:
        async with items(path) as db, db.snapshot(), db.snapshot():
            assert await db.fetch_one(COUNT()) == 0
            with pytest.raises(TransactionStateError, match="for ever"):
                await entered(db.snapshot())

    async def test_the_writer_and_memory_stay_one(self, path: Path) -> None:
        async with items(path, acquire_timeout=0.05) as db, Holder(db.transaction()):
            with pytest.raises(PoolTimeoutError):
                await db.execute(ADD(name="a"))
            assert db.stats()["writer"]["size"] == 1
        async with items(":memory:", acquire_timeout=0.05, max_readers=9) as db:
            async with Holder(db.snapshot()):
                with pytest.raises(PoolTimeoutError):
                    await db.fetch_one(COUNT())
            assert db.stats()["readers"]["size"] == 1


class TestMaxReaders:
    """As many as that read at the same time, where there is so much to read."""

    async def test_more_are_opened_when_calls_would_wait(self, path: Path) -> None:
        async with items(path, readers=1, max_readers=6) as db:
            events = told(db)
            async with held(db, 6):
                assert readers(db, "size", "overflow", "overflows") == (6, 5, 5)
                seventh = asyncio.create_task(entered(db.snapshot()))
                await until(lambda: readers(db, "waiting") == (1,))
                assert await db.fetch_one(COUNT()) == 0
                assert readers(db, "size", "overflow", "overflows") == (7, 6, 6)
            await seventh
            reasons = [reason for kind, _, reason in events if kind is Opened]
            assert reasons == ["overflow"] * 5 + ["calls"]

    async def test_no_more_than_there_are_calls_that_wait(self, path: Path) -> None:
        async with items(path, readers=1, max_readers=9) as db, held(db, 1):
            await asyncio.gather(*(entered(db.snapshot()) for _ in range(2)))
            assert readers(db, "size") <= (3,)

    async def test_what_shares_a_hop_needs_none(self, path: Path) -> None:
        # However slow the machine is, no hop is parted.
        async with items(path, readers=1, max_readers=9, batch_time=60.0) as db:
            for _ in range(10):
                await db.fetch_one(COUNT())  # known to be quick by now
            await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(200)))
            assert readers(db, "size") == (1,)

    async def test_resizing_sets_how_many_always_stay(self, path: Path) -> None:
        async with items(path, readers=1, max_readers=3, reader_idle_time=0.0) as db:
            async with held(db, 3):
                assert readers(db, "size", "overflow") == (3, 2)
                await db.resize(readers=3)
                assert readers(db, "size", "overflow") == (3, 0)
            with pytest.raises(ConfigError, match="max_readers"):
                await db.resize(readers=4)
            assert readers(db, "size") == (3,)

    async def test_under_load_all_promises_hold(self, path: Path, no_leaks: None) -> None:
        async def work(number: int) -> None:
            for step in range(20):
                if step % 5 == 0:
                    await db.execute(TOUCH(id=1))
                elif step % 3 == number % 3:
                    async with db.stream(SLOW(), size=1) as rows:
                        assert [row async for row in rows] == [1, 2]
                else:
                    assert await db.fetch_one(COUNT()) == 2

        async with items(path, "a", "b", readers=1, max_readers=4, reader_idle_time=0.0) as db:
            await asyncio.gather(*map(work, range(12)))
            await until(lambda: readers(db, "overflow", "busy") == (0, 0))
            assert readers(db, "overflows")[0] >= 1


class TestIdle:
    """What was opened for a while is closed after a while."""

    async def test_those_that_have_nothing_to_do_are_closed(self, path: Path, clock: Clock) -> None:
        async with items(path, readers=2, max_readers=5, reader_idle_time=30.0) as db:
            before = len(threads())
            async with held(db, 5):
                pass
            await until(lambda: not busy(db))
            assert readers(db, "size") == (5,)
            events = told(db)
            clock.passes(29.0)
            assert await db.fetch_one(COUNT()) == 0
            assert readers(db, "size") == (5,)
            clock.passes(2.0)  # the one that has just run is the one that was used last
            await until(lambda: readers(db, "size", "overflow") == (2, 0))
            await until(lambda: len(events) == 3)
            assert {(kind, reason) for kind, _, reason in events} == {(Closed, "idle")}
            assert len(threads()) == before
            # SQLite keeps the descriptors of a closed connection for the next one, as long as
            # another one has the file locked (https://www.sqlite.org/src/file/src/os_unix.c).
            kept = descriptors()
            async with held(db, 3):
                assert readers(db, "overflow", "overflows") == (1, 4)
                assert descriptors() <= kept + 1

    async def test_closing_the_database_closes_them(self, path: Path, no_leaks: None) -> None:
        async with items(path, readers=1, max_readers=3) as db:
            events = told(db)
            async with held(db, 3):
                assert await db.fetch_one(COUNT()) == 0
        closed = [reason for kind, _, reason in events if kind is Closed]
        assert closed == ["close"] * 5  # four readers and the writer


class TestWithoutOneMore:
    """That no further connection can be had fails nobody."""

    async def test_a_call_waits_for_those_there_are(
        self, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("abt_db.pool.lane.PAUSE", 3600.0)
        driver, opened, over = Driver(), 0, False
        connect = driver.connect

        def limited(*args: Any, **settings: Any) -> Any:
            nonlocal opened
            opened += 1
            if opened > 3 and not over:
                raise RuntimeError("can't start new thread")
            return connect(*args, **settings)

        async with items(path, "a", max_readers=4, connect=limited) as db:
            async with held(db, 2) as holders:
                call = asyncio.create_task(db.fetch_one(COUNT()))
                await until(lambda: "no further reader" in caplog.text)
                calls = [call, *(asyncio.create_task(db.fetch_one(COUNT())) for _ in range(9))]
                await until(lambda: readers(db, "waiting") == (10,))
                assert opened == 4  # it is not tried again at once, for each of them
                holders[0].let_go()
                assert await asyncio.gather(*calls) == [1] * 10
                over = True
            assert readers(db, "size", "overflows", "waiting") == (2, 0, 0)

    async def test_a_call_that_is_cancelled_leaves_the_connection(self, path: Path) -> None:
        async with items(path, max_readers=3) as db, held(db, 2):
            call = asyncio.create_task(db.fetch_one(COUNT()))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            await until(lambda: readers(db, "idle") == (1,))
            assert await db.fetch_one(COUNT()) == 0

    async def test_closing_while_one_is_opened(self, path: Path, no_leaks: None) -> None:
        db = Database(path)  # four readers
        async with items(path, "a"):
            pass
        await db.open()
        async with held(db, 4):
            call = asyncio.create_task(db.fetch_one(COUNT()))
            await asyncio.sleep(0)
            closing = asyncio.create_task(db.close())
            with pytest.raises(PoolClosedError):
                await call
        await closing


async def entered(block: Any) -> None:
    async with block:
        pass
