"""Reads that wait together travel together, if they are known to be quick; nobody notices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    NUMBERS,
    SOON,
    Driver,
    Gate,
    Holder,
    Reading,
    Witness,
    items,
    passing,
    until,
)
from support.suite import HANG

from abt_db import Database, MappingError, PoolTimeoutError, Query, StatementTimeoutError
from abt_db.pool import lane

ONE = Query("one", "SELECT :n", int)
SLOW = NUMBERS(count=400_000)
"""Some tenths of a second: a hundred times a batch's time."""


async def learn(db: Database, *statements: Any) -> None:
    """Run statements until it is known how quick they are."""
    for statement in statements:
        await db.fetch_all(statement)


class Behind:
    """Calls that wait for all readers, which are held; they come free at the end of the block."""

    def __init__(self, db: Database, *calls: Coroutine[Any, Any, Any]) -> None:
        self.db = db
        self._calls = calls
        self._stack = AsyncExitStack()
        self.ended: list[int] = []
        """The numbers of the calls, in the order of their ends."""

    async def __aenter__(self) -> Behind:
        for _ in range(self.db.stats()["readers"]["size"]):
            await self._stack.enter_async_context(Reading(self.db))
        self.tasks = [asyncio.create_task(call) for call in self._calls]
        for number, task in enumerate(self.tasks):
            task.add_done_callback(lambda _task, number=number: self.ended.append(number))  # type: ignore[misc]
        await until(lambda: self.db.stats()["readers"]["waiting"] == len(self.tasks))
        self._hops = self.db.stats()["readers"]["hops"]
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()
        self.results = await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def hops(self) -> int:
        return int(self.db.stats()["readers"]["hops"] - self._hops)


class TestTogether:
    """Only what is known to be quick shares, in the order of the calls; each has its own."""

    async def test_a_query_that_has_run_shares_a_hop(self, path: Path) -> None:
        async with items(path, "a", "b", batch_time=60.0) as db, Witness(db) as witness:
            await learn(db, ONE(n=1), NAMES(), COUNT())
            async with Behind(
                db,
                *(db.fetch_one(ONE(n=n)) for n in range(20)),
                db.fetch_all(NAMES()),
                db.fetch_one(COUNT()),
            ) as behind:
                pass
            assert behind.results == [*range(20), ["a", "b"], 2]
            assert behind.hops == 1
            await witness.whole()

    async def test_of_one_that_has_not_the_first_goes_alone(self, path: Path) -> None:
        """The others share the next hop, for then it is known to be quick."""
        async with items(path, readers=1, batch_time=60.0) as db:
            async with Behind(db, *(db.fetch_one(ONE(n=n)) for n in range(20))) as behind:
                pass
            assert behind.results == [*range(20)]
            assert behind.hops == 2

    async def test_of_one_that_turns_out_to_be_slow_each_goes_alone(self, path: Path) -> None:
        async with items(path, readers=1) as db:
            async with Behind(db, *(db.fetch_all(SLOW) for _ in range(3))) as behind:
                pass
            assert behind.hops == 3

    async def test_nor_one_that_was_slow(self, path: Path) -> None:
        async with items(path) as db:
            await learn(db, SLOW)
            async with Behind(db, *(db.fetch_one(NUMBERS(count=1)) for _ in range(5))) as behind:
                pass
            assert behind.hops == 5

    async def test_nor_a_function(self, path: Path) -> None:
        async with items(path) as db:
            await learn(db, COUNT())
            async with Behind(
                db, *(db.read(lambda cx: cx.fetch_one(COUNT())) for _ in range(5))
            ) as behind:
                pass
            assert behind.hops == 5

    async def test_in_memory(self) -> None:
        """invariant 25: reads and writes wait in one line there, and share no hop."""
        async with items(":memory:", "a") as db:
            await learn(db, COUNT())
            async with Holder(db.transaction()) as holder:
                tasks: list[asyncio.Task[Any]] = []
                for n in range(9):
                    call: Any = db.fetch_one(COUNT()) if n % 3 else db.execute(ADD(name=str(n)))
                    tasks.append(asyncio.create_task(call))
                await until(lambda: db.stats()["writer"]["waiting"] == 9)
                holder.let_go()
                results = await asyncio.gather(*tasks)
            assert [r for n, r in enumerate(results) if n % 3] == [2, 2, 3, 3, 4, 4]

    async def test_each_has_its_own_error(self, path: Path, clock: Clock) -> None:
        value = Query("value", "SELECT :value", date)
        async with items(path, batch_time=60.0) as db, Witness(db) as witness:
            await learn(db, value(value="2020-01-01"))
            async with Behind(
                db,
                db.fetch_one(value(value="2020-01-01")),
                db.fetch_one(value(value="secret")),
                db.fetch_one(value(value="2020-01-03")),
                db.fetch_one(value(value="2020-01-04")),
                db.fetch_one(value(value="2020-01-05"), timeout=10),
            ) as behind:
                behind.tasks[3].cancel()
                clock.passes(10)
                await asyncio.wait([behind.tasks[4]])
            one, two, three, four, five = behind.results
            assert (one, three) == (date(2020, 1, 1), date(2020, 1, 3))
            assert isinstance(two, MappingError) and "secret" not in str(two)
            assert isinstance(four, asyncio.CancelledError)
            assert isinstance(five, PoolTimeoutError)
            assert behind.hops == 1
            await witness.whole()

    async def test_cancelled_in_the_hop_it_leaves_alone(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db, Witness(db) as witness:
            await learn(db, NUMBERS(count=1), COUNT())
            gate = Gate(driver)
            async with Behind(
                db,
                db.fetch_one(COUNT()),
                db.fetch_all(NUMBERS(count=10**9)),
                db.fetch_one(COUNT()),
            ) as behind:
                gate.stop_at(NUMBERS.text)
                await behind._stack.aclose()
                await gate.reached.wait()
                behind.tasks[1].cancel()
                gate.open()
            assert behind.results[::2] == [1, 1]
            assert isinstance(behind.results[1], asyncio.CancelledError)
            await witness.whole()


@contextmanager
def slow_reads(driver: Driver) -> Iterator[threading.Event]:
    """From now on NUMBERS is as slow as a test wants it to be: it goes on when the event is set."""
    go_on = threading.Event()

    def hook(step: str) -> None:
        if step == NUMBERS.text:
            go_on.wait(HANG)

    driver.hook = hook
    try:
        yield go_on
    finally:
        go_on.set()


class TestSlow:
    """A slow one delays nobody but those who need its own reader (invariant 14)."""

    async def test_one_among_a_thousand(self, path: Path) -> None:
        driver = Driver()
        async with items(path, readers=4, connect=driver.connect) as db:
            await learn(db, ONE(n=1), SLOW)
            ended: list[str] = []

            async def call(name: str, statement: Any) -> None:
                await db.fetch_all(statement)
                ended.append(name)

            calls = [call("quick", ONE(n=n)) for n in range(1000)]
            calls.insert(500, call("slow", NUMBERS(count=1)))
            with slow_reads(driver) as go_on:
                tasks = [asyncio.create_task(call) for call in calls]
                await until(lambda: len(ended) == 1000)
                go_on.set()
                await asyncio.gather(*tasks)
            assert ended[-1] == "slow"

    @pytest.mark.parametrize("at", [0, 10, 20])
    @pytest.mark.parametrize("more", [0, 5], ids=["nobody comes", "others come"])
    async def test_one_that_was_thought_to_be_quick(self, path: Path, at: int, more: int) -> None:
        """Those who share its hop go on on another reader."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            await learn(db, *[NUMBERS(count=1)] * 50, ONE(n=1))
            calls: list[Any] = [db.fetch_one(ONE(n=n)) for n in range(20)]
            calls.insert(at, db.fetch_all(NUMBERS(count=1)))
            async with Behind(db, *calls) as behind:
                with slow_reads(driver):
                    await behind._stack.aclose()
                    for n in range(more):
                        await asyncio.wait_for(db.fetch_one(ONE(n=n)), SOON)
                    await until(lambda: len(behind.ended) == 20)
            assert behind.ended[-1] == at
            assert [r for n, r in enumerate(behind.results) if n != at] == [*range(20)]
            await witness.whole()

    async def test_one_that_a_caller_runs_itself(self, path: Path) -> None:
        """Those who would have shared the next hop of its reader take another one."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            await learn(db, *[NUMBERS(count=1)] * 50, ONE(n=1))
            with slow_reads(driver):
                slow = asyncio.create_task(db.fetch_all(NUMBERS(count=1)))
                await until(lambda: db.stats()["readers"]["busy"])
                quick = asyncio.gather(*(db.fetch_one(ONE(n=n)) for n in range(20)))
                assert await asyncio.wait_for(quick, SOON) == [*range(20)]
                assert not slow.done()
            await slow

    async def test_two_of_them_do_not_hold_up_the_third(self, path: Path) -> None:
        driver = Driver()
        async with items(path, readers=3, connect=driver.connect) as db:
            await learn(db, *[NUMBERS(count=1)] * 80, ONE(n=1))
            calls: list[Any] = [db.fetch_one(ONE(n=n)) for n in range(20)]
            calls.insert(5, db.fetch_all(NUMBERS(count=1)))
            calls.insert(10, db.fetch_all(NUMBERS(count=1)))
            async with Behind(db, *calls) as behind:
                with slow_reads(driver):
                    await behind._stack.aclose()
                    await until(lambda: len(behind.ended) == 20)
            assert set(behind.ended[-2:]) == {5, 10}

    async def test_who_gathered_behind_one_that_is_cancelled_goes_on_elsewhere(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane, "WATCH", 60.0)  # not only because a timer looks
        driver = Driver()
        async with items(path, readers=2, batch_time=60.0, connect=driver.connect) as db:
            await learn(db, ONE(n=1), COUNT())
            gate = Gate(driver)
            gate.stop_at(ONE.text)
            first = asyncio.create_task(db.fetch_one(ONE(n=1)))
            await gate.reached.wait()
            behind = asyncio.create_task(db.fetch_one(COUNT()))
            await until(lambda: db.stats()["readers"]["waiting"])
            first.cancel()
            try:
                # While the first is still running: nobody can end it before it comes to SQLite.
                assert await asyncio.wait_for(behind, SOON / 2) == 0
            finally:
                gate.open()
            await asyncio.wait([first])

    @pytest.mark.parametrize("readers", [1, 2])
    async def test_writes_do_not_wait_for_it(self, path: Path, readers: int) -> None:
        """They let quick reads go first, and this one was taken for quick."""
        async with items(path, readers=readers) as db:
            await learn(db, *[NUMBERS(count=1)] * 20)
            endless = Query(NUMBERS.name, ENDLESS.sql, int)  # known by its name
            slow = asyncio.create_task(db.fetch_all(endless()))
            await until(lambda: db.stats()["readers"]["busy"] == 1)
            async with asyncio.timeout(SOON):
                for start in range(0, 50, 10):
                    names = [str(number) for number in range(start, start + 10)]
                    await asyncio.gather(*(db.execute(ADD(name=name)) for name in names))
            assert not slow.done()
            slow.cancel()
            await asyncio.wait([slow])
            assert len(await db.fetch_all(NAMES())) == 50

    async def test_its_time_limit_is_its_own(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        async with items(path, readers=1, connect=driver.connect) as db, Witness(db) as witness:
            await learn(db, ONE(n=1))
            never = Query(NUMBERS.name, ENDLESS.sql, int)  # known by its name
            await learn(db, *[NUMBERS(count=1)] * 50)
            driver.hook = passing(clock, 10, never)
            async with Behind(
                db,
                db.fetch_one(ONE(n=1)),
                db.fetch_one(never(), timeout=10),
                db.fetch_one(ONE(n=2)),
            ) as behind:
                pass
            assert behind.results[::2] == [1, 2]
            assert isinstance(behind.results[1], StatementTimeoutError)
            assert behind.ended[0] == 0
            await witness.whole()


class TestOrder:
    """invariant 14, also where hops are shared."""

    async def test_a_higher_priority_is_served_first(self, path: Path) -> None:
        async with items(path, readers=1, batch_time=60.0) as db:
            await learn(db, ONE(n=1))
            async with Behind(
                db, *(db.fetch_one(ONE(n=n), priority=n % 3) for n in range(12))
            ) as behind:
                pass
            assert behind.ended == [2, 5, 8, 11, 1, 4, 7, 10, 0, 3, 6, 9]
            assert behind.hops == 1

    async def test_a_low_priority_is_served_among_an_endless_stream_of_a_high_one(
        self, path: Path
    ) -> None:
        async with items(path, readers=1, batch_size=5) as db:
            await learn(db, ONE(n=1))
            over = asyncio.Event()

            async def urgent() -> None:
                while not over.is_set():
                    await db.fetch_one(ONE(n=1), priority=1)

            tasks = [asyncio.create_task(urgent()) for _ in range(50)]
            await until(lambda: db.stats()["readers"]["waiting"] > 20)
            assert await asyncio.wait_for(db.fetch_one(ONE(n=2)), SOON) == 2
            over.set()
            await asyncio.gather(*tasks)

    async def test_what_does_not_share_is_not_overtaken_by_what_does(self, path: Path) -> None:
        async with items(path, readers=1, batch_time=60.0) as db:
            await learn(db, ONE(n=1))
            async with Behind(
                db,
                db.fetch_one(ONE(n=0)),
                db.read(lambda cx: cx.fetch_one(ONE(n=1))),
                db.fetch_one(ONE(n=2)),
                db.fetch_one(ONE(n=3)),
                db.read(lambda cx: cx.fetch_one(ONE(n=4))),
                db.fetch_one(ONE(n=5)),
            ) as behind:
                pass
            assert behind.ended == [0, 1, 2, 3, 4, 5]
            assert behind.hops == 5

    async def test_a_snapshot_has_its_turn_in_an_endless_stream_of_reads(self, path: Path) -> None:
        async with items(path, readers=1, batch_time=60.0) as db:
            await learn(db, ONE(n=1))
            made = [0]
            over = asyncio.Event()

            async def read() -> None:
                while not over.is_set():
                    await db.fetch_one(ONE(n=1))
                    made[0] += 1

            tasks = [asyncio.create_task(read()) for _ in range(50)]
            await until(lambda: made[0] > 100)
            for _ in range(10):
                before = made[0]
                async with db.snapshot():
                    assert made[0] - before <= 150
            over.set()
            await asyncio.gather(*tasks)


class TestReadYourWrites:
    """invariant 6: a read that begins after a write has returned sees it, whoever else is at work,
    and whatever hop it shares."""

    async def test_everyone_at_once(self, path: Path) -> None:
        async with items(path, readers=3) as db, Witness(db) as witness:
            mine = Query("items.mine", "SELECT count(*) FROM items WHERE name = :name", int)
            await learn(db, mine(name=""), COUNT())
            serial = count()

            async def work() -> None:
                for _ in range(30):
                    name = str(next(serial))
                    await db.execute(ADD(name=name))
                    one, total = await asyncio.gather(
                        db.fetch_one(mine(name=name)), db.fetch_one(COUNT())
                    )
                    assert one == 1
                    assert total is not None and total >= int(witnessed[0])
                    witnessed[0] = max(witnessed[0], total)

            witnessed = [0]
            await asyncio.gather(*(work() for _ in range(40)))
            assert await db.fetch_one(COUNT()) == 1200
            batches = db.stats()["readers"]["batches"]
            assert sum(number for size, number in batches.items() if size > 1)
            await witness.whole()
