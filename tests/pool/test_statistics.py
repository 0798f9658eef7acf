"""What can be known of a database at work: `stats()`, slow calls in the log, listeners."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    SOON,
    Driver,
    Holder,
    LockingProcess,
    Witness,
    busy,
    items,
    lose_writer,
    passing,
    until,
)

from abt_db import Database, IntegrityError, PoolTimeoutError, Query, Session, StatementTimeoutError
from abt_db.connection.stats import Histogram, QueryStats
from abt_db.events import Checkpointed, Closed, Committed, Event, Opened, Ran, Transacted, Waited

LONG = bool(os.environ.get("ABT_DB_LONG"))
"""ABT_DB_LONG=1 runs a million operations where there are some ten thousand otherwise."""

SECRET = Query("secret", "SELECT :value || count(*) FROM items", str)
durations = st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=200)


class TestHistogram:
    """Quantiles are at most an eighth too high, and never too low."""

    @given(durations, st.floats(0.01, 1.0))
    def test_quantiles_are_near_the_exact_ones(self, values: list[float], share: float) -> None:
        histogram = Histogram()
        for value in values:
            histogram.add(value)
        # The smallest of them that so many do not exceed.
        exact = sorted(values)[math.ceil(share * len(values)) - 1]
        assert exact <= histogram.quantile(share) <= exact * 9 / 8

    @given(durations, durations, st.floats(0.0, 1.0))
    def test_two_together_are_as_one(
        self, some: list[float], others: list[float], share: float
    ) -> None:
        one, two, both = Histogram(), Histogram(), Histogram()
        for histogram, values in (one, some), (two, others), (both, some + others):
            for value in values:
                histogram.add(value)
        one.include(two)
        assert one.counts == both.counts
        assert one.quantile(share) == both.quantile(share)

    @given(st.lists(st.floats(0.0, 1e9), max_size=1000))
    def test_it_is_bounded(self, values: list[float]) -> None:
        histogram = Histogram()
        for value in values:
            histogram.add(value)
        assert len(histogram.counts) <= 8 * 64
        assert sum(histogram.counts.values()) == len(values)

    def test_of_nothing_it_is_nothing(self) -> None:
        assert Histogram().quantile(0.5) == 0.0

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(1e-6, 10.0), st.booleans())))
    def test_counters_of_queries(self, runs: list[tuple[str, float, bool]]) -> None:
        stats = QueryStats()
        for name, seconds, failed in runs:
            stats.record(name, seconds, 2, failed)
        whole = QueryStats()
        whole.include(stats)
        for name, figures in whole.as_dict().items():
            mine = [(seconds, failed) for its, seconds, failed in runs if its == name]
            assert figures["count"] == len(mine)
            assert figures["errors"] == sum(failed for _, failed in mine)
            assert figures["rows"] == 2 * len(mine)
            assert figures["slowest"] == max(seconds for seconds, _ in mine)
            assert figures["seconds"] == pytest.approx(sum(seconds for seconds, _ in mine))
            assert figures["mean"] <= figures["slowest"] * (1 + 1e-9)


class TestStats:
    """`stats()` has what its documentation says, and it is true."""

    async def test_it_has_what_is_documented(self, path: Path) -> None:
        async with items(path, "a") as db:
            async with Holder(db.transaction(label="deploy")):
                stats = db.stats()
            documentation = Database.stats.__doc__ or ""
            for lane in "writer", "readers":
                assert set(stats[lane]) == {
                    *("size", "idle", "busy", "opened", "replaced", "overflow", "overflows"),
                    *("waiting", "waits", "longest_wait"),
                    *("calls", "hops", "loans", "commits", "batches", "response"),
                }
            for name in *stats, *stats["writer"], *stats["writer"]["response"]:
                assert f"``{name}``" in documentation
            for name in stats["transacted"]:
                assert f"``{name}``" in documentation
            for figures in stats["queries"].values():
                assert {f"``{name}``" in documentation for name in figures} == {True}
            [held] = stats["transactions"]
            assert held["label"] == "transaction 'deploy'"
            assert held["task"] == "holder"
            assert 0 <= held["age"] < SOON

    async def test_counts_are_exact_under_load(self, path: Path) -> None:
        """They are counted on several threads at the same time, without a lock."""
        async with items(path, "a", readers=4) as db, Witness(db):
            before = db.stats()["queries"]

            async def work(number: int) -> None:
                for n in range(50):
                    await db.execute(ADD(name=f"{number} {n}"))
                    await db.fetch_one(COUNT())
                    await db.read(lambda cx: cx.fetch_one(COUNT()))

            await asyncio.gather(*(work(number) for number in range(40)))
            stats = db.stats()
            for query, runs in ("items.count", 4000), ("items.add", 2000):
                for figure in "count", "rows":
                    assert stats["queries"][query][figure] - before[query][figure] == runs
            for lane in stats["writer"], stats["readers"]:
                assert sum(lane["batches"].values()) <= lane["hops"] <= lane["calls"]

    async def test_waits_are_measured(self, path: Path) -> None:
        async with items(path) as db:
            async with Holder(db.transaction()):
                with pytest.raises(PoolTimeoutError):
                    await db.execute(ADD(name="a"), timeout=0.1)
            writer = db.stats()["writer"]
            assert writer["waits"] == 1
            assert 0.1 <= writer["longest_wait"] < SOON

    async def test_errors_and_replaced_connections_are_counted(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            with pytest.raises(IntegrityError):
                await db.execute(ADD(name="a"))
            with pytest.raises(StatementTimeoutError):
                await db.fetch_one(ENDLESS(), timeout=0.05)
            assert db.stats()["queries"]["items.add"]["errors"] == 1
            assert db.stats()["queries"]["endless"]["errors"] == 1
            await lose_writer(db, driver)
            await db.execute(ADD(name="b"))
            assert db.stats()["writer"]["replaced"] == 1
            assert db.stats()["writer"]["opened"] == 2


class TestBounded:
    """Nothing grows with the number of operations."""

    @pytest.mark.large
    @pytest.mark.parametrize("listening", [False, True])
    async def test_many_operations_leave_no_memory_behind(
        self, path: Path, listening: bool
    ) -> None:
        async with items(path, "a", readers=2) as db:
            told = [0]
            if listening:
                db.add_listener(lambda event: told.__setitem__(0, told[0] + 1))

            async def some(operations: int) -> int:
                async def work(number: int) -> None:
                    for n in range(operations // 50):
                        if n % 10 == 0:
                            await db.execute(RENAME(name=f"{number}"))
                        else:
                            await db.fetch_one(COUNT())

                await asyncio.gather(*(work(number) for number in range(50)))
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                await some(5_000)
                before = await some(5_000)
                many = 1_000_000 if LONG else 20_000
                after = await some(many)
            finally:
                tracemalloc.stop()
            assert after - before < 50_000  # bytes; an operation that left one object: some MB
            assert bool(told[0] > many) == listening


RENAME = Query("items.rename", "UPDATE items SET name = :name")


class TestSlowCalls:
    """`slow_query`: a call that runs longer is logged, by name, without a value (invariant 27)."""

    async def test_the_log_has_name_and_times_and_no_value(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with items(path, slow_query=0.0) as db:
            caplog.set_level(logging.WARNING, "abt_db")
            caplog.clear()
            await db.fetch_one(SECRET(value="geheim"))
            await db.execute(ADD(name="geheim"))
            await db.execute_batch([ADD(name="geheim 2")])
            with pytest.raises(IntegrityError):
                await db.execute(ADD(name="geheim"))
            said = [record.getMessage() for record in caplog.records]
            assert "geheim" not in "".join(said) + caplog.text
            assert [message.split()[1] for message in said] == ["secret", *["items.add"] * 3]
            assert all(re.search(r"was slow: it ran \d+\.\d{3} s,", message) for message in said)

    async def test_only_what_is_slower(
        self, path: Path, caplog: pytest.LogCaptureFixture, clock: Clock
    ) -> None:
        driver = Driver()
        async with items(path, slow_query=1000, connect=driver.connect) as db:
            driver.hook = passing(clock, 2000, ENDLESS)
            caplog.set_level(logging.WARNING, "abt_db")
            await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(10)))
            with pytest.raises(StatementTimeoutError):
                await db.fetch_one(ENDLESS(), timeout=1500)
            assert [record.getMessage().split()[1] for record in caplog.records] == ["endless"]

    async def test_cancelled_calls_hurt_nobody(self, path: Path) -> None:
        """Found: with slow_query set, a cancelled call kept its connection for ever."""
        async with items(path, "a", readers=1, slow_query=0.1) as db, Witness(db) as witness:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await db.fetch_one(ENDLESS())
                assert await asyncio.wait_for(db.fetch_one(COUNT()), SOON) == 1
            await witness.whole()

    async def test_nor_those_that_are_cancelled_while_they_wait_for_a_lock(
        self, path: Path
    ) -> None:
        async with (
            items(path, "a", slow_query=0.1, busy_timeout=30.0) as db,
            Witness(db) as witness,
        ):
            with LockingProcess(path):
                for _ in range(2):
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await db.execute(ADD(name="b"))
            await witness.whole()


class TestListeners:
    """One event for each statement, transaction, wait and checkpoint, and no harm by whoever hears
    of it."""

    async def test_each_statement_is_told_once(self, path: Path) -> None:
        async with items(path, "a", readers=1) as db:
            events: list[Event] = []
            db.add_listener(events.append)
            await db.fetch_one(COUNT())
            await db.execute(ADD(name="b"))
            await db.execute_batch([ADD(name="c"), ADD(name="d")])
            with pytest.raises(IntegrityError):
                await db.execute(ADD(name="b"))
            await db.read(lambda cx: [cx.fetch_all(NAMES()) for _ in range(2)])
            assert await db.execute_many(ADD, [{"name": n} for n in "ef"]) == 2
            ran = [event for event in events if isinstance(event, Ran)]
            assert [(e.query, e.connection, e.rows, e.error) for e in ran] == [
                ("items.count", "reader 1", 1, None),
                ("items.add", "writer 1", 1, None),
                ("items.add", "writer 1", 1, None),
                ("items.add", "writer 1", 1, None),
                ("items.add", "writer 1", 0, "IntegrityError"),
                ("items.names", "reader 1", 4, None),
                ("items.names", "reader 1", 4, None),
                ("items.add", "writer 1", 2, None),
            ]
            commits = [event for event in events if isinstance(event, Committed)]
            assert [event.tables for event in commits] == [{"items"}] * 3
            assert len(events) == len(ran) + len(commits)
            assert all(0 <= event.seconds < SOON for event in ran)

    async def test_only_of_what_a_listener_wants(self, path: Path) -> None:
        async with items(path, "a") as db:
            commits: list[Event] = []
            others: list[Event] = []
            db.add_listener(commits.append, Committed)
            db.add_listener(others.append, Transacted, Checkpointed)
            await db.fetch_one(COUNT())
            await db.execute(ADD(name="b"))
            async with db.transaction() as tx:
                await tx.execute(ADD(name="c"))
            assert commits == [Committed(frozenset({"items"}))] * 2
            assert [type(event) for event in others] == [Transacted]
            db.remove_listener(commits.append)
            await db.execute(ADD(name="d"))
            assert len(commits) == 2

    async def test_in_shared_hops_as_well(self, path: Path) -> None:
        async with items(path, "a") as db:
            await db.fetch_one(COUNT())
            events: list[Event] = []
            db.add_listener(events.append)
            async with Holder(db.barrier()):
                tasks = [asyncio.create_task(db.fetch_one(COUNT())) for _ in range(10)]
                tasks += [asyncio.create_task(db.fetch_one(TOUCHED())) for _ in range(10)]
                await until(lambda: busy(db) >= 20)
            await asyncio.gather(*tasks)
            ran = [event.query for event in events if isinstance(event, Ran)]
            assert sorted(ran) == ["items.count"] * 10 + ["items.touched"] * 10
            waited = [event for event in events if isinstance(event, Waited)]
            assert sorted((e.label, e.lane) for e in waited) == [
                *[("items.count", "reader")] * 10,
                *[("items.touched", "writer")] * 10,
            ]
            assert all(event.served for event in waited)

    async def test_transactions_snapshots_and_checkpoints(self, path: Path) -> None:
        async with items(path, "a") as db:
            events: list[Any] = []
            db.add_listener(events.append)
            async with db.transaction(label="one"):
                pass
            with pytest.raises(ZeroDivisionError):
                async with db.transaction(label="two"):
                    raise ZeroDivisionError
            async with db.snapshot(label="three"):
                pass
            told = [(e.label, e.outcome) for e in events if isinstance(e, Transacted)]
            assert told == [
                ("transaction 'one'", "committed"),
                ("transaction 'two'", "rolled back"),
                ("snapshot 'three'", "rolled back"),
            ]
            if hasattr(db, "checkpoint"):
                await db.checkpoint()
                assert sum(isinstance(event, Checkpointed) for event in events) == 1

    async def test_who_gave_up_waiting_is_told(self, path: Path) -> None:
        async with items(path, "a") as db, Holder(db.transaction()):
            events: list[Event] = []
            db.add_listener(events.append)
            with pytest.raises(PoolTimeoutError):
                await db.execute(ADD(name="b"), timeout=0.05)
            [event] = events
            assert isinstance(event, Waited)
            assert (event.label, event.lane, event.served) == ("items.add", "writer", False)
            assert 0.05 <= event.seconds < SOON

    async def test_one_that_raises_hurts_nobody(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            events: list[Event] = []

            def broken(event: Event) -> None:
                raise ValueError("broken listener")

            db.add_listener(broken)
            db.add_listener(events.append)
            assert await db.fetch_one(COUNT()) == 1
            async with db.transaction() as tx:
                await tx.execute(ADD(name="geheim"))
            await asyncio.gather(*(db.execute(ADD(name=str(n))) for n in range(5)))
            assert len(events) >= 8
            assert "broken listener" in caplog.text
            assert "geheim" not in caplog.text
            db.remove_listener(broken)
            await witness.whole()

    async def test_one_that_is_removed_hears_no_more(self, path: Path) -> None:
        async with items(path, "a") as db:
            events: list[Event] = []
            others: list[Event] = []
            db.add_listener(events.append)
            db.add_listener(others.append)
            await db.fetch_one(COUNT())
            db.remove_listener(events.append)
            db.remove_listener(events.append)
            await db.fetch_one(COUNT())
            assert (len(events), len(others)) == (1, 2)

    async def test_one_may_remove_itself_and_call_the_database(self, path: Path) -> None:
        async with items(path, "a") as db:
            calls: list[asyncio.Task[Any]] = []

            def once(event: Event) -> None:
                db.remove_listener(once)
                calls.append(asyncio.get_running_loop().create_task(db.fetch_one(COUNT())))

            db.add_listener(once)
            await db.fetch_one(COUNT())
            assert [await call for call in calls] == [1]

    async def test_they_stay_over_a_new_opening(self, path: Path) -> None:
        async with items(path, "a") as db:
            events: list[Event] = []
            db.add_listener(events.append)
            await db.close()
            await db.open()
            await db.fetch_one(COUNT())
            assert [type(event) for event in events if isinstance(event, Ran)] == [Ran]
            assert {type(event) for event in events} == {Opened, Closed, Ran}

    async def test_a_cancelled_statement_is_told_in_the_end(self, path: Path) -> None:
        async with items(path, "a", readers=1) as db:
            events: list[Event] = []
            db.add_listener(events.append)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await db.fetch_one(ENDLESS())
            await until(lambda: events)
            [event] = events
            assert isinstance(event, Ran) and event.query == "endless"


TOUCHED = Query("items.touched", "UPDATE items SET name = name RETURNING id", int)


async def test_events_of_one_hop_are_bounded(path: Path) -> None:
    """What a function does in one go is told after it, so it is kept until then."""
    told: list[object] = []

    def many(cx: Session) -> None:
        for _ in range(100_500):
            cx.fetch_one(COUNT())

    async with items(path) as db:
        db.add_listener(told.append)
        await db.read(many)
        db.remove_listener(told.append)
    assert len(told) == 100_000
