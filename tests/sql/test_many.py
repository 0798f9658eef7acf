"""Ten thousand who wait at once, and a hundred thousand calls: all are served, in order, and the
memory is as it was.

``ABT_DB_LONG=1 pytest tests/sql/test_many.py`` makes a million calls.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, Holder, Reading, Witness, busy, items, until

from abt_db import Database, PoolClosedError, PoolSaturatedError, Query

WAITING = 10_000
CALLS = 1_000_000 if os.environ.get("ABT_DB_LONG") else 100_000
ONE = Query("one", "SELECT :n", int)
TOUCH = Query("items.touch", "UPDATE items SET name = 'a' WHERE id = 1")

Call = Callable[[Database, int], Coroutine[Any, Any, Any]]
EVERYONE: dict[str, tuple[str, Call]] = {
    "a query": ("readers", lambda db, n: db.fetch_one(ONE(n=n))),
    "a write": ("writer", lambda db, n: db.execute(ADD(name=str(n)))),
    "a transaction": ("writer", lambda db, n: entered(db.transaction())),
}
everyone = pytest.mark.parametrize(("lane", "call"), EVERYONE.values(), ids=list(EVERYONE))


async def entered(block: Any) -> None:
    async with block:
        pass


async def wait_behind(db: Database, lane: str, call: Call, ended: list[int]) -> asyncio.Future[Any]:
    """Have as many as may wait do so, behind one who holds the lane's connection."""
    tasks = [asyncio.create_task(call(db, n)) for n in range(WAITING)]
    for n, task in enumerate(tasks):
        task.add_done_callback(lambda _task, n=n: ended.append(n))  # type: ignore[misc]
    await until(lambda: db.stats()[lane]["waiting"] == WAITING)
    return asyncio.gather(*tasks, return_exceptions=True)


def holder(db: Database, lane: str) -> Holder | Reading:
    return Holder(db.transaction()) if lane == "writer" else Reading(db)


class TestTenThousandWait:
    """invariants 14, 16: for the one reader, or for the writer."""

    @everyone
    async def test_all_are_served_in_order(self, path: Path, lane: str, call: Call) -> None:
        async with (
            items(path, "first", readers=1, acquire_timeout=None) as db,
            Witness(db) as witness,
        ):
            await db.fetch_one(ONE(n=0))
            ended: list[int] = []
            async with holder(db, lane):
                waiting = await wait_behind(db, lane, call, ended)
            results = await waiting
            assert not [result for result in results if isinstance(result, BaseException)]
            assert ended == [*range(WAITING)]
            if lane == "readers":
                assert results == ended
            await witness.whole()

    @pytest.mark.parametrize("lane", ["readers", "writer"])
    async def test_all_can_be_cancelled(self, path: Path, lane: str) -> None:
        async with (
            items(path, "first", readers=1, acquire_timeout=None) as db,
            Witness(db) as witness,
        ):
            call = EVERYONE["a query" if lane == "readers" else "a write"][1]
            ended: list[int] = []
            async with holder(db, lane):
                waiting = await wait_behind(db, lane, call, ended)
                waiting.cancel()
                await until(lambda: db.stats()[lane]["waiting"] == 0)
            await asyncio.wait([waiting])
            assert await db.fetch_one(COUNT()) == 1
            await witness.whole()

    async def test_all_are_told_of_the_close(self, path: Path, no_leaks: None) -> None:
        async with items(path, readers=1) as db:
            ended: list[int] = []
            async with Reading(db):
                waiting = await wait_behind(db, "readers", EVERYONE["a query"][1], ended)
                closing = asyncio.create_task(db.close())
                results = await waiting
            await closing
            assert {type(result) for result in results} == {PoolClosedError}

    async def test_one_more_than_may_wait_is_refused(self, path: Path) -> None:
        async with items(path, readers=1, max_pending=WAITING) as db:
            async with Reading(db):
                waiting = await wait_behind(db, "readers", EVERYONE["a query"][1], [])
                with pytest.raises(PoolSaturatedError):
                    await db.fetch_one(ONE(n=0))
            assert await waiting == [*range(WAITING)]

    @pytest.mark.large
    @pytest.mark.parametrize("lane", ["readers", "writer"])
    async def test_they_leave_no_memory_behind(self, path: Path, lane: str) -> None:
        async with items(path, "first", readers=1) as db:
            call: Call = (
                EVERYONE["a query"][1] if lane == "readers" else lambda db, n: db.execute(TOUCH())
            )

            async def wait_once() -> int:
                async with holder(db, lane):
                    waiting = await wait_behind(db, lane, call, [])
                await waiting
                del waiting
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                before = await wait_once()
                assert await wait_once() - before < 100_000  # bytes: ten for each who has waited
            finally:
                tracemalloc.stop()


@pytest.mark.large
async def test_many_calls_leave_nothing_behind(path: Path) -> None:
    """By fifty tasks, of every kind: not one object for a thousand of them."""

    async def some(calls: int) -> int:
        async def work(number: int) -> None:
            for n in range(calls // 50):
                match n % 50:
                    case 0:
                        await entered(db.transaction())
                    case 10:
                        await entered(db.snapshot())
                    case 20 | 21 | 22 | 23:
                        await db.execute(TOUCH())
                    case 30:
                        await db.write(lambda cx: cx.execute(TOUCH()))
                    case _:
                        assert await db.fetch_one(ONE(n=number)) == number

        await asyncio.gather(*(work(number) for number in range(50)))
        await until(lambda: not busy(db))
        gc.collect()
        return sum(type(thing) is not weakref.ref for thing in gc.get_objects())

    async with items(path, "a") as db:
        await some(5_000)
        before = await some(5_000)
        for _ in range(3):  # what leaks does so each time; what is made once for all does not
            after = await some(CALLS)
            grown, before = after - before, after
            if grown < CALLS // 1000:
                break
        assert grown < CALLS // 1000
        queries = db.stats()["queries"]
        assert queries["one"]["count"] >= CALLS * 0.8
