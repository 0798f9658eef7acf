"""Connections come and go while the database is in use: `resize`, `max_lifetime`, and faults."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.engine import (
    ADD,
    COUNT,
    NAMES,
    SOON,
    Driver,
    Gate,
    Holder,
    Reading,
    busy,
    items,
    until,
)
from support.suite import descriptors, threads

from abt_db import ConfigError, Database, PoolClosedError, Query, QueryError

ONE = Query("one", "SELECT :n", int)


@asynccontextmanager
async def load(db: Database) -> AsyncIterator[list[int]]:
    """Tasks that read, write, and hold snapshots, and check what they see; an error of any of them
    is one of the block. Yields how many rounds they have made."""
    rounds = [0]
    over = asyncio.Event()
    serial = itertools.count()

    async def work(number: int) -> None:
        while not over.is_set():
            name = str(next(serial))
            match number % 4:
                case 0:
                    await db.execute(ADD(name=name))
                    assert name in await db.fetch_all(NAMES())
                case 1:
                    assert await db.fetch_one(ONE(n=number)) == number
                case 2:
                    async with db.snapshot() as view:
                        assert await view.fetch_one(COUNT()) == await view.fetch_one(COUNT())
                case 3:
                    async with db.stream(NAMES(), size=10) as rows:
                        names = [row async for row in rows]
                        assert len(names) == len({*names})
            rounds[0] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(work(number))
        try:
            yield rounds
        finally:
            over.set()


def size(db: Database) -> int:
    return int(db.stats()["readers"]["size"])


class TestResize:
    """As many readers as were asked for, and nobody who is at work notices."""

    async def test_up_and_down_under_load(self, path: Path, no_leaks: None) -> None:
        async with items(path, readers=2) as db, load(db) as rounds:
            for readers in (5, 1, 3, 1, 2, 8, 4):
                before = rounds[0]
                await db.resize(readers=readers)
                # One more where all are lent while a call comes.
                most = {readers, readers + 1}
                await until(lambda most=most: size(db) in most)  # type: ignore[misc]
                assert db.config.readers == readers
                running = [name for name in threads() if "MainThread" not in name]
                assert len(running) - 1 in most
                await until(lambda before=before: rounds[0] > before + 30)  # type: ignore[misc]

    async def test_new_ones_are_open_when_it_returns(self, path: Path) -> None:
        async with items(path, readers=1) as db:
            await db.resize(readers=3)
            assert (size(db), db.stats()["readers"]["idle"]) == (3, 3)
            async with Holder(db.snapshot()), Holder(db.snapshot()), Holder(db.snapshot()):
                assert db.stats()["readers"]["busy"] == 3

    async def test_those_that_are_held_are_closed_when_they_come_free(
        self, path: Path, no_leaks: None
    ) -> None:
        async with items(path, readers=3) as db:
            async with Holder(db.snapshot()), Holder(db.snapshot()), Holder(db.snapshot()):
                await db.resize(readers=1)
                assert size(db) == 3
            await until(lambda: size(db) == 1)
            assert await db.fetch_one(COUNT()) == 0
            assert db.stats()["readers"]["opened"] == 3

    async def test_who_waits_is_served_by_a_new_one(self, path: Path) -> None:
        async with items(path, readers=1) as db, Reading(db):
            waiting = asyncio.create_task(db.fetch_one(COUNT()))
            await until(lambda: db.stats()["readers"]["waiting"])
            await db.resize(readers=2)
            assert await asyncio.wait_for(waiting, SOON) == 0

    @pytest.mark.parametrize("other", [False, True])
    async def test_who_was_to_travel_with_one_that_leaves_takes_another(
        self, path: Path, other: bool
    ) -> None:
        driver = Driver()
        async with items(path, readers=2, batch_time=60.0, connect=driver.connect) as db:
            await asyncio.gather(*(db.fetch_one(ONE(n=n)) for n in range(2)))
            await until(lambda: not busy(db))
            if other:
                # The one that comes free last is the first to be used again: now the other of both.
                one, two = Holder(db.snapshot()), Holder(db.snapshot())
                for step in one.__aenter__, two.__aenter__, one.__aexit__, two.__aexit__:
                    await step()
                await until(lambda: not busy(db))
            gate = Gate(driver)
            gate.stop_at(ONE.text)
            first = asyncio.create_task(db.fetch_one(ONE(n=1)))
            await gate.reached.wait()
            second = asyncio.create_task(db.fetch_one(ONE(n=2)))
            await until(lambda: db.stats()["readers"]["waiting"])
            await db.resize(readers=1)
            gate.open()
            assert await asyncio.wait_for(asyncio.gather(first, second), SOON) == [1, 2]
            await until(lambda: size(db) == 1)

    @pytest.mark.parametrize("fails", [[0], [1], [2], [0, 2], [0, 1, 2]], ids=str)
    async def test_if_one_can_not_be_opened_nothing_changes(
        self, path: Path, fails: list[int], no_leaks: None
    ) -> None:
        """invariant 22."""
        driver = Driver()
        async with items(path, "a", readers=2, connect=driver.connect) as db:
            before = threads()
            refused = itertools.count()

            def refuse(step: str) -> None:
                if step.startswith("PRAGMA query_only") and next(refused) in fails:
                    raise sqlite3.OperationalError("unable to open database file")

            driver.hook = refuse
            with pytest.raises(QueryError, match="unable to open"):
                await db.resize(readers=5)
            driver.hook = lambda step: None
            await until(lambda: size(db) == 2)
            assert db.config.readers == 2
            assert threads() == before
            assert db.stats()["readers"]["idle"] == 2
            async with Holder(db.snapshot()), Holder(db.snapshot()):
                pass
            assert await asyncio.wait_for(db.fetch_one(COUNT()), SOON) == 1
            await db.resize(readers=3)
            await until(lambda: db.stats()["readers"]["idle"] == 3)  # also those given back above

    async def test_cancelled_it_leaves_nothing(self, path: Path, no_leaks: None) -> None:
        driver = Driver()
        async with items(path, "a", readers=1, connect=driver.connect) as db:
            before = threads()
            gate = Gate(driver)
            gate.stop_at("PRAGMA query_only")
            task = asyncio.create_task(db.resize(readers=4))
            await gate.reached.wait()
            task.cancel()
            await asyncio.wait([task])
            gate.open()
            assert task.cancelled()
            await until(lambda: size(db) == 1)
            await until(lambda: threads() == before)
            assert db.config.readers == 1
            assert await db.fetch_one(COUNT()) == 1

    async def test_an_impossible_number_is_refused(self, path: Path) -> None:
        async with items(path) as db:
            for readers in 0, -1:
                with pytest.raises(ConfigError):
                    await db.resize(readers=readers)
            assert (size(db), db.config.readers) == (2, 2)

    async def test_a_closed_database_is_refused(self, path: Path, no_leaks: None) -> None:
        async with items(path) as db:
            holder = Holder(db.snapshot())
            async with holder:
                closing = asyncio.create_task(db.close())
                await asyncio.sleep(0)
                with pytest.raises(PoolClosedError):
                    await db.resize(readers=4)
            await closing
            with pytest.raises(PoolClosedError):
                await db.resize(readers=4)
            assert db.config.readers == 2

    async def test_closed_while_it_opens_leaves_nothing(self, path: Path, no_leaks: None) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at("PRAGMA query_only")
            resizing = asyncio.create_task(db.resize(readers=6))
            await gate.reached.wait()
            closing = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            gate.open()
            await asyncio.wait([resizing, closing], timeout=SOON)
            assert closing.done() and closing.exception() is None
            assert resizing.done()

    async def test_what_was_counted_stays(self, path: Path) -> None:
        async with items(path, readers=4) as db:
            async with Holder(db.snapshot()), Holder(db.snapshot()), Holder(db.snapshot()):
                await asyncio.gather(*(db.fetch_one(ONE(n=n)) for n in range(20)))
            await db.resize(readers=1)
            await until(lambda: size(db) == 1)
            assert db.stats()["queries"]["one"]["count"] == 20
            assert db.stats()["readers"]["opened"] == 4

    async def test_in_memory_there_is_one(self) -> None:
        async with items(":memory:", "a") as db:
            await db.resize(readers=4)
            assert size(db) == 1
            assert await db.fetch_one(COUNT()) == 1

    async def test_it_lasts_until_the_next_opening(self, path: Path) -> None:
        async with items(path) as db:
            await db.resize(readers=3)
            await db.close()
            await db.open()
            assert size(db) == 3

    async def test_two_at_once(self, path: Path, no_leaks: None) -> None:
        async with items(path) as db:
            await asyncio.gather(db.resize(readers=5), db.resize(readers=1), db.resize(readers=3))
            await until(lambda: size(db) == 3)
            assert db.config.readers == 3

    async def test_in_a_barrier(self, path: Path) -> None:
        async with items(path, "a", readers=1) as db:
            async with Holder(db.barrier()):
                waiting = [asyncio.create_task(db.fetch_one(COUNT())) for _ in range(5)]
                await db.resize(readers=3)
                await until(lambda: db.stats()["readers"]["waiting"] == 5)
                await db.resize(readers=1)
            assert await asyncio.wait_for(asyncio.gather(*waiting), SOON) == [1] * 5


class TestLifetime:
    """`max_lifetime`: connections are replaced by new ones, and nobody notices."""

    async def test_under_load(self, path: Path, no_leaks: None) -> None:
        async with items(path, readers=2, max_lifetime=0.05) as db, load(db):
            await until(lambda: db.stats()["writer"]["replaced"] > 3)
            # SQLite keeps some for its next connection to the same file.
            before = descriptors()
            await until(lambda: db.stats()["writer"]["replaced"] > 10)
            await until(lambda: db.stats()["readers"]["replaced"] > 20)
            assert descriptors() < before + 10

    async def test_of_those_that_are_idle_at_their_next_use(self, path: Path) -> None:
        async with items(path, "a", readers=1, max_lifetime=0.05) as db:
            await asyncio.sleep(0.1)  # what is tested is the passing of time
            assert await db.fetch_one(COUNT()) == 1
            await db.execute(ADD(name="b"))
            stats = db.stats()
            for lane in stats["readers"], stats["writer"]:
                assert lane["opened"] == lane["replaced"] + 1 >= 2

    async def test_one_that_can_not_be_replaced_stays(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", readers=1, max_lifetime=0.05, connect=driver.connect) as db:

            def refuse(step: str) -> None:
                if step.startswith("PRAGMA foreign_keys ="):
                    raise sqlite3.OperationalError("unable to open database file")

            driver.hook = refuse
            await asyncio.sleep(0.1)  # what is tested is the passing of time
            for _ in range(3):
                assert await db.fetch_one(COUNT()) == 1
            await db.execute(ADD(name="b"))
            assert db.stats()["readers"]["opened"] == 1

    async def test_not_in_memory(self) -> None:
        async with items(":memory:", "a", max_lifetime=0.01) as db:
            await asyncio.sleep(0.05)  # what is tested is the passing of time
            assert await db.fetch_one(COUNT()) == 1
            assert db.stats()["writer"]["replaced"] == 0


async def from_snapshot(db: Database) -> int | None:
    async with db.snapshot() as view:
        return await view.fetch_one(COUNT())


async def from_stream(db: Database) -> int | None:
    async with db.stream(COUNT()) as rows:
        [count] = [row async for row in rows]
        return count


READS: dict[str, Callable[[Database], Awaitable[int | None]]] = {
    "fetch_one": lambda db: db.fetch_one(COUNT()),
    "a function": lambda db: db.read(lambda cx: cx.fetch_one(COUNT())),
    "snapshot": from_snapshot,
    "stream": from_stream,
}


class TestFaults:
    """A connection that raised an error of the disk once goes on, or is replaced."""

    @pytest.mark.parametrize("name", ["SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOMEM"])
    async def test_once(self, path: Path, name: str) -> None:
        driver = Driver()
        async with items(path, "a", readers=1, connect=driver.connect) as db:
            error = sqlite3.DatabaseError("injected")
            error.sqlite_errorcode = getattr(sqlite3, name)
            error.sqlite_errorname = name
            steps = itertools.count()

            def fail(step: str) -> None:
                if step == COUNT.text and next(steps) == 0:
                    raise error

            driver.hook = fail
            with pytest.raises(QueryError, match=name):
                await db.fetch_one(COUNT())
            for _ in range(3):
                assert await db.fetch_one(COUNT()) == 1
            await until(lambda: not busy(db))
            assert size(db) == 1

    @pytest.mark.parametrize("name", ["SQLITE_IOERR", "SQLITE_CORRUPT"])
    @pytest.mark.parametrize("how", READS)
    async def test_for_good(self, path: Path, name: str, how: str) -> None:
        """One that can't read any more is examined and replaced before the next caller has it."""
        driver = Driver()
        async with items(path, "a", readers=1, connect=driver.connect) as db:
            error = sqlite3.DatabaseError("injected")
            error.sqlite_errorcode = getattr(sqlite3, name)
            error.sqlite_errorname = name
            broken: list[threading.Thread] = []

            def fail(step: str) -> None:
                if step == COUNT.text and not broken:
                    broken.append(threading.current_thread())
                if threading.current_thread() in broken and step.startswith("SELECT"):
                    raise error

            driver.hook = fail
            with pytest.raises(QueryError, match=name):
                await READS[how](db)
            for _ in range(2):
                assert await READS[how](db) == 1
            stats = db.stats()["readers"]
            assert (stats["opened"], stats["replaced"], stats["size"]) == (2, 1, 1)
