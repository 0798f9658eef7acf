"""`priority=` of every verb that waits for a connection, and how long calls take altogether."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from support.clock import Clock
from support.engine import ADD, COUNT, NAMES, Holder, busy, items, until
from support.suite import SOON

from abt_db import Database, PoolTimeoutError, Session, Transaction
from abt_db.connection.stats import Durations

Call = Callable[..., Awaitable[object]]


async def block(handle: Any) -> None:
    async with handle:
        pass


async def nothing(_tx: Transaction) -> None:
    pass


def calls(db: Database) -> dict[str, tuple[str, Call]]:
    """Each verb that waits, with the lane in which it does."""
    return {
        "fetch_one": ("readers", partial(db.fetch_one, COUNT())),
        "fetch_all": ("readers", partial(db.fetch_all, NAMES())),
        "read": ("readers", partial(db.read, lambda cx: cx.fetch_one(COUNT()))),
        "snapshot": ("readers", lambda **how: block(db.snapshot(**how))),
        "stream": ("readers", lambda **how: block(db.stream(NAMES(), **how))),
        "execute": ("writer", partial(db.execute, ADD(name="a"))),
        "execute_batch": ("writer", partial(db.execute_batch, [ADD(name="b")])),
        "execute_many": ("writer", partial(db.execute_many, ADD, [{"name": "c"}])),
        "run_batch": ("writer", partial(db.run_batch, [ADD(name="d")])),
        "write": ("writer", partial(db.write, lambda cx: cx.execute(ADD(name="e")))),
        "transaction": ("writer", lambda **how: block(db.transaction(**how))),
        "run_transaction": ("writer", partial(db.run_transaction, nothing)),
    }


VERBS = [*calls(Database("none"))]


class TestPriority:
    """Each verb takes it, and it says who of those that wait is served first."""

    @pytest.mark.parametrize("verb", VERBS)
    async def test_the_higher_one_is_served_first(self, path: Path, verb: str) -> None:
        async with items(path, readers=1, batch_size=1) as db:
            lane, call = calls(db)[verb]
            other = db.execute if lane == "writer" else db.fetch_one
            statement = ADD if lane == "writer" else NAMES
            served: list[str] = []

            async def make(name: str, call: Awaitable[object]) -> None:
                await call
                served.append(name)

            async with asyncio.TaskGroup() as group:
                held = [db.barrier(label="all")] if lane == "readers" else [db.transaction()]
                async with Holder(held[0]):
                    for name in "1", "2":
                        values = {"name": name} if lane == "writer" else {}
                        group.create_task(make(name, other(statement(**values))))
                    await until(lambda: db.stats()[lane]["waiting"] == 2)
                    group.create_task(make("low", call(priority=-5)))
                    await until(lambda: db.stats()[lane]["waiting"] == 3)
                    if verb in ("execute", "execute_batch", "execute_many", "run_batch", "write"):
                        call = calls(db)["transaction"][1]  # the row is there only once
                    group.create_task(make("high", call(priority=7)))
                    await until(lambda: db.stats()[lane]["waiting"] == 4)
            assert served == ["high", "1", "2", "low"]

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("wrong", ["high", None, 0.5, 2**40])
    async def test_what_is_no_priority_is_refused_and_hurts_nobody(
        self, path: Path, verb: str, wrong: Any
    ) -> None:
        async with items(path) as db:
            _, call = calls(db)[verb]
            for busy_first in False, True:
                holder = Holder(db.transaction())
                if busy_first:
                    await holder.__aenter__()
                with pytest.raises((TypeError, ValueError), match="priority"):
                    await call(priority=wrong)
                if busy_first:
                    await holder.__aexit__()
            assert await db.fetch_one(COUNT()) == 0
            await db.execute(ADD(name="a"))

    async def test_a_function_that_has_such_a_parameter_gets_it_itself(self, path: Path) -> None:
        def own(cx: Session, number: int, priority: int = 0) -> tuple[int, int]:
            return number, priority

        def others(cx: Session, number: int, **more: object) -> tuple[int, dict[str, object]]:
            return number, more

        async with items(path) as db:
            for verb in db.read, db.write:
                assert await verb(own, 1, priority=5) == (1, 5)
                assert await verb(lambda cx: own(cx, 1, priority=5), priority=2) == (1, 5)
                assert await verb(others, 1, priority=5, more=2) == (1, {"more": 2})
                assert await verb(cast(Any, Session.fetch_one), COUNT(), priority=3) == 0

    async def test_each_try_of_a_transaction_waits_with_it(self, path: Path) -> None:
        async with items(path) as db:
            waiting: list[Any] = []
            async with Holder(db.transaction()):
                task = asyncio.create_task(db.run_transaction(nothing, priority=9))
                await until(lambda: db.stats()["writer"]["waiting"])
                assert db._pool is not None and db._pool.writer is not None
                waiting += [work.priority for work in db._pool.writer._queue]
            await task
            assert waiting == [9]


class TestResponse:
    """How long calls take from beginning to end, with the waiting, in bounded memory."""

    async def test_the_waiting_counts(self, path: Path, clock: Clock) -> None:
        async with items(path) as db:
            before = db.stats()["writer"]["response"]
            async with Holder(db.transaction()):
                waiting = asyncio.create_task(db.execute(ADD(name="a")))
                await until(lambda: db.stats()["writer"]["waiting"])
                clock.passes(12)
            await waiting
            response = db.stats()["writer"]["response"]
            assert response["count"] == before["count"] + 1
            assert 12 <= response["slowest"] < 12 + SOON
            assert 12 <= response["p99"] < (12 + SOON) * 9 / 8
            assert response["mean"] >= 12 / response["count"]
            assert db.stats()["queries"]["items.add"]["slowest"] < 12

    async def test_shared_calls_count_each(self, path: Path) -> None:
        async with items(path, "a") as db:
            for _ in range(5):
                await db.fetch_one(COUNT())
            before = db.stats()["readers"]
            await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(50)))
            await until(lambda: not busy(db))
            after = db.stats()["readers"]
            assert after["response"]["count"] - before["response"]["count"] == 50
            assert after["calls"] == after["response"]["count"]
            for name in "mean", "p50", "p99":
                assert 0 < after["response"][name] <= after["response"]["slowest"] * 9 / 8

    async def test_what_never_ran_is_no_response(self, path: Path) -> None:
        async with items(path, acquire_timeout=0.01) as db:
            before = db.stats()["writer"]["response"]["count"]
            async with Holder(db.transaction()):
                with pytest.raises(PoolTimeoutError):
                    await db.execute(ADD(name="a"))
            assert db.stats()["writer"]["response"]["count"] == before

    def test_of_nothing_all_figures_are_nothing(self) -> None:
        assert set(Durations().as_dict().values()) == {0}
