"""`run_transaction`: again when somebody was in the way, once only for everything else."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    NAMES,
    SOON,
    Driver,
    Gate,
    Holder,
    LockingProcess,
    Witness,
    items,
    until,
)

from abt_db import (
    BusyError,
    DiskIOError,
    IntegrityError,
    PoolTimeoutError,
    Query,
    StatementTimeoutError,
    Transaction,
    TransactionTimeoutError,
)
from abt_db.transactions.retry import is_transient

CHILDREN = Query(
    "children.create",
    "CREATE TABLE children (parent REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED)",
)
ADD_CHILD = Query("children.add", "INSERT INTO children VALUES (7)")


def failing(driver: Driver, sql: str, times: int, code: int = sqlite3.SQLITE_BUSY) -> list[str]:
    """Have the next statements that begin with `sql` fail so many times; the steps are noted."""
    steps: list[str] = []

    def hook(step: str) -> None:
        steps.append(step)
        if step.startswith(sql) and sum(step.startswith(sql) for step in steps) <= times:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = code
            error.sqlite_errorname = "SQLITE_TEST"
            raise error

    driver.hook = hook
    return steps


class Operation:
    """Adds an item, and counts how often it was called."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = [*errors]
        self.transactions: list[Transaction] = []

    async def __call__(self, tx: Transaction) -> int:
        self.transactions.append(tx)
        await tx.execute(ADD(name=f"item {len(self.transactions)}"))
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return len(self.transactions)


class TestTransient:
    """Busy, locked, a lost snapshot: tried again in a new transaction, and only that."""

    @pytest.mark.parametrize(
        "code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_BUSY_SNAPSHOT]
    )
    async def test_it_is_tried_again(self, path: Path, code: int) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            failing(driver, ADD.text, 2, code)
            operation = Operation()
            assert await db.run_transaction(operation) == 3
            assert len({*operation.transactions}) == 3
            assert await db.fetch_all(NAMES()) == ["item 3"]
            await witness.whole()

    async def test_a_commit_that_was_busy_is_not_in_the_database(self, path: Path) -> None:
        """invariant 12: the transaction is still open then, and is rolled back."""
        driver = Driver()
        async with items(path, connect=driver.connect, busy_timeout=0.0) as db:
            steps = failing(driver, "COMMIT", 2)
            assert await db.run_transaction(Operation()) == 3
            assert steps.count("ROLLBACK") == 2
            assert await db.fetch_all(NAMES()) == ["item 3"]

    async def test_another_process_that_has_the_lock_for_a_while(self, path: Path) -> None:
        async with items(path, busy_timeout=0.05) as db:
            with LockingProcess(path):
                before = db.stats()["writer"]["loans"]
                task = asyncio.create_task(db.run_transaction(Operation(), attempts=10_000))
                await until(lambda: db.stats()["writer"]["loans"] >= before + 2)
            assert await task == 1
            assert await db.fetch_all(NAMES()) == ["item 1"]

    async def test_the_last_error_says_how_often_and_how_long(self, path: Path) -> None:
        async with items(path, busy_timeout=0.02) as db, Witness(db) as witness:
            with LockingProcess(path), pytest.raises(BusyError, match="another process") as caught:
                await db.run_transaction(Operation(), attempts=3)
            assert caught.value.__notes__[-1].startswith("It was tried 3 times, for ")
            await witness.whole()

    @pytest.mark.parametrize(
        ("error", "transient"),
        [
            (BusyError(""), True),
            (IntegrityError(""), False),
            (DiskIOError(""), False),
            (StatementTimeoutError(), False),
            (PoolTimeoutError(), False),
            (OSError(), False),
        ],
    )
    def test_it_goes_by_the_class(self, error: Exception, transient: bool) -> None:
        assert is_transient(error) == transient


class TestNotTransient:
    """What would fail again, or may have gone through, is run once."""

    @pytest.mark.parametrize(
        "error", [IntegrityError("no"), KeyError("x"), TimeoutError(), asyncio.CancelledError()]
    )
    async def test_it_is_raised_at_once(self, path: Path, error: BaseException) -> None:
        async with items(path) as db, Witness(db) as witness:
            operation = Operation(error)
            with pytest.raises(type(error)) as caught:
                await db.run_transaction(operation)
            assert caught.value is error and len(operation.transactions) == 1
            assert not getattr(error, "__notes__", [])
            await witness.whole()
            assert witness.count() == 0

    @pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL])
    async def test_a_commit_that_failed_otherwise(self, path: Path, code: int) -> None:
        """fault 22: whether such a one went through is for its caller to find out."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            steps = failing(driver, "COMMIT", 1, code)
            with pytest.raises(sqlite3.OperationalError):
                await db.run_transaction(operation := Operation())
            assert len(operation.transactions) == steps.count("COMMIT") == 1
            await witness.whole()

    async def test_a_deferred_constraint(self, path: Path) -> None:
        """fault 26"""
        calls = []

        async def operation(tx: Transaction) -> None:
            calls.append(tx)
            await tx.execute(ADD_CHILD())

        async with items(path) as db:
            await db.execute(CHILDREN())
            with pytest.raises(IntegrityError):
                await db.run_transaction(operation)
        assert len(calls) == 1

    async def test_cancelled_in_its_commit_it_is_not_run_again(self, path: Path) -> None:
        """fault 5: it may have gone through, and here it has."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at("COMMIT")
            task = asyncio.create_task(db.run_transaction(operation := Operation()))
            await gate.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()
            await until(lambda: not db.stats()["writer"]["busy"])
            assert await db.fetch_all(NAMES()) == ["item 1"]
            assert len(operation.transactions) == 1

    async def test_cancelled_between_two_tries(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            operation = Operation(BusyError("x"))
            task = asyncio.create_task(db.run_transaction(operation, backoff=SOON))
            await until(lambda: not operation.errors and not db.stats()["writer"]["busy"])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await witness.whole()


class TestTimeLimit:
    """`timeout` is one limit over all tries, with all the waiting."""

    async def test_of_the_tries(self, path: Path, clock: Clock) -> None:
        async with items(path, busy_timeout=0.05) as db:
            with LockingProcess(path), pytest.raises(BusyError) as caught:
                before = db.stats()["writer"]["loans"]
                trying = db.run_transaction(Operation(), attempts=10**9, timeout=1000)
                task = asyncio.create_task(trying)
                await until(lambda: db.stats()["writer"]["loans"] >= before + 2)
                clock.passes(1000)
                await task
            assert "It was tried" in caught.value.__notes__[-1]

    async def test_of_the_wait_for_the_writer(self, path: Path) -> None:
        async with items(path) as db:
            async with Holder(db.transaction(label="deploy")):
                began = monotonic()
                with pytest.raises(PoolTimeoutError, match="deploy"):
                    await db.run_transaction(Operation(), timeout=0.1)
                assert 0.1 <= monotonic() - began < SOON

    async def test_of_the_operation(self, path: Path) -> None:
        async def sleep(tx: Transaction) -> None:
            await tx.execute(ADD(name="undone"))
            await until(lambda: not db.stats()["writer"]["busy"])

        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(TransactionTimeoutError, match="'deploy'"):
                await db.run_transaction(sleep, timeout=0.05, label="deploy")
            await witness.whole()
            assert witness.count() == 0

    async def test_without_one_each_has_that_of_the_config(self, path: Path) -> None:
        async def sleep(tx: Transaction) -> None:
            await until(lambda: not db.stats()["writer"]["busy"])

        async with items(path, transaction_timeout=0.05) as db:
            with pytest.raises(TransactionTimeoutError):
                await db.run_transaction(sleep)


class TestArguments:
    async def test_they_are_checked(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(ValueError, match="attempts"):
                await db.run_transaction(Operation(), attempts=0)
            wrong: Any = "deferred"
            with pytest.raises(ValueError, match="immediate"):
                await db.run_transaction(Operation(), mode=wrong)
            assert await db.run_transaction(Operation(), mode="exclusive") == 1
            assert await db.fetch_one(COUNT()) == 1
