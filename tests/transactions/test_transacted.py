"""Interactive transactions counted, and ended from outside: `stats()` and `end_transactions`."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    Driver,
    Holder,
    LockingProcess,
    busy,
    items,
    until,
)
from support.suite import HANG, SOON

from abt_db import BusyError, Database, TransactionAbortedError, TransactionTimeoutError


def transacted(db: Database, *names: str) -> list[int]:
    figures = db.stats()["transacted"]
    return [figures[name] for name in names]


OUTCOMES = ("begun", "open", "committed", "rolled_back", "timed_out", "ended", "unknown")


class TestCounts:
    """Each transaction is counted once, by how it has ended."""

    async def test_by_their_ends(self, path: Path) -> None:
        async with items(path) as db:
            assert transacted(db, *OUTCOMES) == [0] * 7
            async with db.transaction() as tx:
                await tx.execute(ADD(name="a"))
                assert transacted(db, *OUTCOMES) == [1, 1, 0, 0, 0, 0, 0]
            assert transacted(db, *OUTCOMES) == [1, 0, 1, 0, 0, 0, 0]
            with pytest.raises(KeyError):
                async with db.transaction():
                    raise KeyError
            assert transacted(db, *OUTCOMES) == [2, 0, 1, 1, 0, 0, 0]
            with pytest.raises(TransactionTimeoutError):
                async with db.transaction(timeout=0.01) as tx:
                    await tx.fetch_one(ENDLESS())
            assert transacted(db, *OUTCOMES) == [3, 0, 1, 2, 1, 0, 0]
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    await db.end_transactions(older_than=0)
            assert transacted(db, *OUTCOMES) == [4, 0, 1, 3, 1, 1, 0]
            async with db.snapshot():
                pass
            await db.execute(ADD(name="b"))
            assert transacted(db, *OUTCOMES) == [4, 0, 1, 3, 1, 1, 0]

    async def test_one_that_is_at_its_limit_is_not_open_whoever_still_has_it(
        self, path: Path
    ) -> None:
        async with items(path) as db:
            block = db.transaction(timeout=0.01)
            await block.__aenter__()
            await until(lambda: not db.stats()["transacted"]["open"])
            assert transacted(db, "begun", "rolled_back", "timed_out") == [1, 1, 1]
            with pytest.raises(TransactionTimeoutError):
                await block.__aexit__(None, None, None)
            assert transacted(db, "begun", "rolled_back", "timed_out") == [1, 1, 1]

    async def test_one_that_did_not_begin_is_none(self, path: Path) -> None:
        async with items(path, busy_timeout=0.01) as db:
            with LockingProcess(path):
                with pytest.raises(BusyError):
                    async with db.transaction():
                        pass
            assert transacted(db, "begun", "open") == [0, 0]

    async def test_one_that_was_cancelled_in_its_commit_is_unknown(self, path: Path) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            loop = asyncio.get_running_loop()
            committing, go_on = asyncio.Event(), threading.Event()

            def hook(step: str) -> None:
                if step == "COMMIT":
                    loop.call_soon_threadsafe(committing.set)
                    go_on.wait(HANG)

            async def work() -> None:
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))

            driver.hook = hook
            task = asyncio.create_task(work())
            await committing.wait()
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.wait([task])
            await until(lambda: not busy(db))
            assert transacted(db, *OUTCOMES) == [1, 0, 0, 0, 0, 0, 1]

    async def test_how_long_they_were_open(self, path: Path, clock: Clock) -> None:
        async with items(path, transaction_timeout=None) as db:
            for seconds in 10, 20:
                async with db.transaction():
                    clock.passes(seconds)
            figures = db.stats()["transacted"]
            assert 20 <= figures["slowest"] < 20 + SOON
            assert 15 <= figures["mean"] < 15 + SOON
            assert 10 <= figures["p50"] < 20 * 9 / 8 + SOON


class TestEnding:
    """`end_transactions` rolls back what has been open for too long, and nothing else."""

    async def test_the_old_one_is_rolled_back_and_told(self, path: Path, clock: Clock) -> None:
        async with items(path, transaction_timeout=None) as db:
            told: list[BaseException] = []
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def forgotten() -> None:
                try:
                    async with db.transaction(label="import") as tx:
                        await tx.execute(ADD(name="undone"))
                        begun.set()
                        await go_on.wait()
                        await tx.execute(ADD(name="too late"))
                except TransactionAbortedError as error:
                    told.append(error)

            task = asyncio.create_task(forgotten(), name="importer")
            await begun.wait()
            clock.passes(100)
            assert await db.end_transactions(older_than=100 + SOON) == []
            [ended] = await db.end_transactions(older_than=100)
            assert (ended.label, ended.task) == ("transaction 'import'", "importer")
            assert 100 <= ended.age < 100 + SOON
            assert ended.statements == 1
            with sqlite3.connect(path, timeout=0) as other:  # the lock is free when it returns
                other.execute("BEGIN IMMEDIATE").connection.rollback()
            other.close()
            await db.execute(ADD(name="next"))
            go_on.set()
            await task
            assert "import" in str(told[0]) and "end_transactions" in str(told[0])
            assert await db.fetch_all(NAMES()) == ["next"]
            assert await db.end_transactions(older_than=0) == []

    async def test_whatever_it_is_doing(self, path: Path) -> None:
        async with items(path) as db:

            async def work() -> None:
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    await tx.fetch_one(ENDLESS())

            task = asyncio.create_task(work())
            await until(lambda: [t["query"] for t in db.stats()["transactions"]] == ["endless"])
            [ended] = await db.end_transactions(older_than=0)
            assert (ended.state, ended.query) == ("running", "endless")
            with pytest.raises(TransactionAbortedError, match="end_transactions"):
                await task
            assert await db.fetch_one(COUNT()) == 0

    async def test_its_block_ends_with_the_error_if_nothing_else_does(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(TransactionAbortedError, match="end_transactions"):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    await db.end_transactions(older_than=0)
            assert await db.fetch_one(COUNT()) == 0

    async def test_one_that_is_committing_is_let_end(self, path: Path) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            loop = asyncio.get_running_loop()
            committing, go_on = asyncio.Event(), threading.Event()

            def hook(step: str) -> None:
                if step == "COMMIT":
                    loop.call_soon_threadsafe(committing.set)
                    go_on.wait(HANG)

            async def work() -> None:
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))

            driver.hook = hook
            task = asyncio.create_task(work())
            await committing.wait()
            ended = await db.end_transactions(older_than=0)
            go_on.set()
            await task
            assert ended == []
            assert await db.fetch_all(NAMES()) == ["a"]
            assert transacted(db, "committed", "ended") == [1, 0]

    async def test_snapshots_and_barriers_stay(self, path: Path) -> None:
        async with items(path, "a") as db, db.snapshot() as snapshot:
            assert await db.end_transactions(older_than=0) == []
            assert await snapshot.fetch_one(COUNT()) == 1
            async with Holder(db.writer(label="vacuum")):
                assert await db.end_transactions(older_than=0) == []
                assert len(db.stats()["transactions"]) == 2

    async def test_in_memory_as_well(self) -> None:
        async with items(":memory:") as db:
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    assert len(await db.end_transactions(older_than=0)) == 1
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize("wrong", [-1, float("nan")])
    async def test_an_age_that_is_none_is_refused(self, path: Path, wrong: Any) -> None:
        async with items(path) as db, db.transaction() as tx:
            with pytest.raises(ValueError, match="older_than"):
                await db.end_transactions(older_than=wrong)
            await tx.execute(ADD(name="a"))
