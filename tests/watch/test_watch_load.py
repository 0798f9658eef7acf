"""Many live queries starve nobody: they yield to those who call, on a part of the readers."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from support.engine import ADD, COUNT, SOON, TOUCH, Driver, Reading, items, until

from abt_db import Database, PoolTimeoutError, Query, StatementTimeoutError

WATCHED = "SELECT count(*) + {} FROM items"
"""Texts of statements that are watched, each a statement of its own."""

LONG = 60.0
"""Seconds that a trip to a reader's thread may take here: all that is due is in one."""


@asynccontextmanager
async def watching(db: Database, count: int) -> AsyncIterator[dict[int, list[int]]]:
    """Watch so many statements; what each of them was told last."""
    told: dict[int, list[int]] = {}

    async def look(number: int) -> None:
        query = Query(f"watched {number % 10}", WATCHED.format(number), int)
        async with db.watch(query()) as states:
            async for rows in states:
                told[number] = rows

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(look(number))
        try:
            await until(lambda: len(told) == count)
            await until(lambda: not running(db))
            yield told
        finally:
            db.end_watches()


def running(db: Database) -> list[str]:
    """The tasks that run statements for those who watch."""
    return [
        task.get_name()
        for task in asyncio.all_tasks()
        if task.get_name().startswith(("abt_db watch again", "abt_db watch watched"))
    ]


def runs(db: Database) -> int:
    """How often watched statements have run."""
    queries = db.stats()["queries"]
    return sum(each["count"] for name, each in queries.items() if name.startswith("watched"))


class Stop:
    """Holds each thread that begins a watched statement, all or of one number, until `go`."""

    def __init__(self, driver: Driver, number: int | None = None) -> None:
        self._open = threading.Event()
        self.texts: list[str] = []
        """What was begun to run, in this order."""
        self.threads: set[int] = set()
        """Those that are or were held."""
        self._stops = "SELECT count(*) + " if number is None else WATCHED.format(number)
        driver.hook = self._step

    def go(self) -> None:
        self._open.set()

    def _step(self, text: str) -> None:
        self.texts.append(text)
        if text.startswith(self._stops) and not self._open.is_set():
            self.threads.add(threading.get_ident())
            assert self._open.wait(10 * SOON), "nobody let it go on"


class TestYielding:
    """What runs again comes after every call, and on half of the readers at most."""

    @pytest.mark.parametrize(("readers", "share"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4)])
    async def test_a_bounded_share_of_the_readers(
        self, path: Path, readers: int, share: int
    ) -> None:
        driver = Driver()
        async with (
            items(path, "a", readers=readers, connect=driver.connect, watch_interval=None) as db,
            watching(db, 50) as told,
        ):
            stop = Stop(driver)
            try:
                await db.execute(ADD(name="b"))
                await until(lambda: len(stop.threads) == share)
                for number in range(20):  # neither what is committed meanwhile …
                    await db.execute(ADD(name=str(number)))
                    await asyncio.sleep(0.005)
                assert len(stop.threads) == share
                if readers > 1:  # … nor those who read notice
                    assert await db.fetch_one(COUNT()) == 22
                    assert db.stats()["readers"]["waiting"] == 0
            finally:
                stop.go()
            await until(lambda: told == {number: [22 + number] for number in range(50)})

    async def test_behind_every_call_that_waits(self, path: Path) -> None:
        """Also behind those that came later, and who has just begun to watch is one of them."""
        driver = Driver()
        read = Query("read", "SELECT max(name) FROM items", str)
        async with (
            items(path, "a", readers=1, connect=driver.connect, watch_interval=None) as db,
            watching(db, 20) as told,
        ):
            stop = Stop(driver)
            stop.go()
            async with Reading(db):  # on the only reader
                await db.execute(ADD(name="b"))
                await until(lambda: db.stats()["readers"]["waiting"] == 1)
                reading = [asyncio.create_task(db.fetch_one(read())) for _ in range(5)]
                newcomer = db.watch(Query("new", "SELECT min(name) FROM items", str)())
                await until(lambda: db.stats()["readers"]["waiting"] == 7)
                assert runs(db) == 20
            await asyncio.gather(*reading)
            assert await asyncio.wait_for(anext(newcomer), SOON) == ["a"]
            await until(lambda: told == {number: [2 + number] for number in range(20)})
            order = [text for text in stop.texts if text.startswith("SELECT ") and "items" in text]
            assert order[:6] == [read.text] * 5 + ["SELECT min(name) FROM items"]
            assert sorted(order[6:]) == sorted(WATCHED.format(number) for number in range(20))

    async def test_commits_while_it_waits_are_one_run(self, path: Path) -> None:
        """What a newer commit has made stale before it began is not run."""
        async with (
            items(path, "a", readers=1, watch_interval=None, batch_time=LONG) as db,
            watching(db, 100) as told,
        ):
            before = runs(db)
            async with Reading(db):
                for number in range(50):
                    await db.execute(ADD(name=str(number)))
                assert runs(db) == before
            await until(lambda: told == {number: [51 + number] for number in range(100)})
            assert runs(db) == before + 100

    async def test_a_thousand_statements_in_one_trip(self, path: Path) -> None:
        async with (
            items(path, "a", readers=1, watch_interval=None, batch_time=LONG) as db,
            watching(db, 1000) as told,
        ):
            before, hops = runs(db), db.stats()["readers"]["hops"]
            await db.execute(ADD(name="b"))
            await until(lambda: told == {number: [2 + number] for number in range(1000)})
            assert runs(db) == before + 1000
            assert db.stats()["readers"]["hops"] == hops + 1

    async def test_a_trip_is_short_where_many_are_due(self, path: Path) -> None:
        """Others have their turn between two trips; each statement has its own."""
        driver = Driver()
        async with (
            items(
                *(path, "a"), readers=1, connect=driver.connect, watch_interval=None, batch_time=0.0
            ) as db,
            watching(db, 30) as told,
        ):
            hops = db.stats()["readers"]["hops"]
            await db.execute(ADD(name="b"))
            await until(lambda: told == {number: [2 + number] for number in range(30)})
            assert db.stats()["readers"]["hops"] == hops + 30

    async def test_a_slow_one_holds_up_no_other(self, path: Path) -> None:
        driver = Driver()
        async with (
            items(path, "a", readers=4, connect=driver.connect, watch_interval=None) as db,
            watching(db, 50) as told,
        ):
            stop = Stop(driver, number=0)
            try:
                await db.execute(ADD(name="b"))
                await until(lambda: told == {0: [1]} | {n: [2 + n] for n in range(1, 50)})
                await db.execute(ADD(name="c"))
                await until(lambda: told == {0: [1]} | {n: [3 + n] for n in range(1, 50)})
            finally:
                stop.go()
            await until(lambda: told[0] == [3])

    async def test_where_callers_need_every_reader_it_waits_and_is_no_error(
        self, path: Path
    ) -> None:
        async with (
            items(path, "a", readers=1, watch_interval=None, acquire_timeout=0.05) as db,
            watching(db, 5) as told,
        ):
            async with Reading(db):
                await db.execute(ADD(name="b"))
                late = db.watch(Query("late", "SELECT 1", int)())
                with pytest.raises(PoolTimeoutError):  # it is a call like any other
                    await anext(late)
            await until(lambda: told == {number: [2 + number] for number in range(5)})

    async def test_each_statement_of_a_trip_has_a_calls_time(self, path: Path) -> None:
        """And one that is stopped at its limit stops no other."""
        slow = Query(
            "slow",
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n"
            " WHERE x < (SELECT iif(count(*) = 1, 1, 1e12) FROM items)) SELECT count(*) FROM n",
        )
        async with (
            items(
                *(path, "a"), readers=1, watch_interval=None, batch_time=LONG, statement_timeout=0.3
            ) as db,
            db.watch(slow()) as states,
        ):
            await asyncio.wait_for(anext(states), SOON)
            async with watching(db, 20) as told:
                await db.execute(ADD(name="b"))
                with pytest.raises(StatementTimeoutError):
                    await asyncio.wait_for(anext(states), SOON)
                await until(lambda: told == {number: [2 + number] for number in range(20)})

    async def test_how_long_others_wait(self, path: Path) -> None:
        """Shown by `pytest -s`: writes and reads beside 1,000 live queries of the table, as
        multiples of what they take beside none."""
        async with items(path, "a", readers=4) as db:
            alone = [await _median(call) for call in _calls(db)]
            async with watching(db, 1000) as told:
                before = runs(db)
                beside = [await _median(call) for call in _calls(db)]
                await db.execute(ADD(name="last"))
                await until(lambda: told == {number: [2 + number] for number in range(1000)})
                count = runs(db) - before
        for name, one, other in zip(("a write", "a read"), alone, beside, strict=True):
            print(f"\n{name} beside 1,000 live queries: {other / one:.1f} times as long", end="")
        print(f"; {count} runs for {ROUNDS + 1} commits")
        assert count <= 1000 * (ROUNDS + 1)


ROUNDS = 200


def _calls(db: Database) -> list[Callable[[], Awaitable[Any]]]:
    return [lambda: db.execute(TOUCH(id=1)), lambda: db.fetch_one(COUNT())]


async def _median(call: Callable[[], Awaitable[Any]]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        await call()
        seconds.append(perf_counter() - began)
        await asyncio.sleep(0)
    return statistics.median(seconds)
