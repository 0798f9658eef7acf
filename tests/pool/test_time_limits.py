"""A time limit frees its caller at the limit, whatever SQLite is doing then (invariant 33, fault
82); what was refused so is not in the database (invariant 28), and the pool serves on.

SQLite looks at its deadline between two steps of its virtual machine. These statements are inside
one step for as long as a test wants: in a function of the connection's that waits for an event.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from support.engine import ADD, COUNT, NAMES, Driver, Gate, items, until
from support.suite import threads

from abt_db import (
    CommitUnknownError,
    PoolTimeoutError,
    Query,
    Session,
    StatementTimeoutError,
    TransactionAbortedError,
    TransactionTimeoutError,
)

STEP = Query("step.read", "SELECT long_step()", int)
STEP_WRITES = Query("step.write", "INSERT INTO items (name) VALUES ('step' || long_step())")

# What really happens: SQLite builds the text in one step, some tenths of a second of it.
LARGE = Query("large", "SELECT length(replace(hex(zeroblob(:size)), '00', '0101'))", int)


class Steps:
    """`connect` opens connections that have the function long_step(), which ends at `end`."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._running = 0
        self._lock = threading.Lock()

    def connect(self, *args: Any, factory: Any, **options: Any) -> aiosqlite.Connection:
        step = self._step

        class WithSteps(factory):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.create_function("long_step", 0, step)

        return aiosqlite.connect(*args, factory=WithSteps, **options)

    def _step(self) -> int:
        with self._lock:
            self._running += 1
        try:
            assert self._end.wait(60), "nobody has ended the step"
        finally:
            with self._lock:
                self._running -= 1
        return 1

    def end(self) -> None:
        self._end.set()

    @contextmanager
    def frees(self, error: type[Exception], match: str | None = None) -> Iterator[None]:
        """A block that is left by this error while the step is still running."""
        with pytest.raises(error, match=match):
            yield
        assert self._running, "the caller has waited for the end of the step"

    async def running(self, count: int = 1) -> None:
        """Wait until so many steps are running."""
        await until(lambda: self._running == count)


@pytest.fixture
def steps() -> Iterator[Steps]:
    steps = Steps()
    yield steps
    steps.end()


class TestCalls:
    """One statement, alone or in the company of others."""

    async def test_a_read_is_freed_and_its_connection_serves_on(
        self, path: Path, steps: Steps
    ) -> None:
        async with items(path, "a", readers=1, connect=steps.connect) as db:
            with steps.frees(StatementTimeoutError, r"query 'step\.read' was stopped"):
                await db.fetch_one(STEP(), timeout=0.05)
            steps.end()
            assert await db.fetch_one(COUNT()) == 1
            await until(lambda: db.stats()["readers"]["size"] == 1)

    async def test_a_statement_that_sqlite_itself_can_not_stop(self, path: Path) -> None:
        """Not a function of ours: what came back as a success after many times its limit."""
        async with items(path, "a", readers=1) as db:
            with pytest.raises(StatementTimeoutError):
                await db.fetch_one(LARGE(size=20_000_000), timeout=0.01)
            assert await db.fetch_one(COUNT()) == 1

    async def test_the_limit_of_the_settings_counts_as_well(self, path: Path, steps: Steps) -> None:
        async with items(path, connect=steps.connect, statement_timeout=0.05) as db:
            for call in (
                lambda: db.fetch_one(STEP()),
                lambda: db.fetch_one(STEP(), timeout=60),
                lambda: db.read(lambda cx: cx.fetch_one(STEP())),
                lambda: db.execute(STEP_WRITES()),
            ):
                with pytest.raises(StatementTimeoutError):
                    await call()
            steps.end()
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize("verb", ["execute", "execute_batch", "execute_many", "run_batch"])
    async def test_a_write_that_was_refused_is_not_there(
        self, path: Path, steps: Steps, verb: str
    ) -> None:
        async with items(path, connect=steps.connect) as db:
            calls = {
                "execute": lambda: db.execute(STEP_WRITES(), timeout=0.05),
                "execute_batch": lambda: db.execute_batch(
                    [ADD(name="a"), STEP_WRITES()], timeout=0.05
                ),
                "execute_many": lambda: db.execute_many(STEP_WRITES, [{}], timeout=0.05),
                "run_batch": lambda: db.run_batch([ADD(name="a"), STEP_WRITES()], timeout=0.05),
            }
            with steps.frees(StatementTimeoutError):
                await calls[verb]()
            steps.end()
            await db.execute(ADD(name="later"))
            assert await db.fetch_all(NAMES()) == ["later"]

    async def test_those_that_share_its_transaction_are_answered_with_what_is_there(
        self, path: Path, steps: Steps
    ) -> None:
        """A group commit in which one member's limit passes: the innocent are written, each once,
        and those behind it that have a limit as well are freed without having begun."""
        async with items(path, connect=steps.connect) as db:
            first = asyncio.create_task(db.execute(STEP_WRITES(), timeout=0.2))  # alone
            await steps.running()
            steps2 = [
                asyncio.create_task(db.execute(ADD(name="before"))),
                asyncio.create_task(db.execute(STEP_WRITES(), timeout=0.5)),
                asyncio.create_task(db.execute(ADD(name="impatient"), timeout=0.5)),
                asyncio.create_task(db.execute(ADD(name="behind"))),
            ]
            with pytest.raises(StatementTimeoutError):
                await first
            # The others stand in the queue until the writer's thread is free: there they wait for
            # a connection, and here for the end of a step.
            refused = await asyncio.gather(steps2[1], steps2[2], return_exceptions=True)
            assert all(isinstance(error, TimeoutError) for error in refused)
            steps.end()
            await asyncio.gather(steps2[0], steps2[3])
            assert await db.fetch_all(NAMES()) == ["before", "behind"]

    async def test_a_member_of_a_group_that_is_stuck_in_its_step(
        self, path: Path, steps: Steps
    ) -> None:
        """It is freed, and so is one behind it with a limit; what ran before it in the same
        transaction waits for its end, and is committed."""
        driver = Driver()

        def connect(*args: Any, factory: Any, **options: Any) -> aiosqlite.Connection:
            class WithSteps(factory):  # type: ignore[misc]
                def __init__(self, *args: Any, **options: Any) -> None:
                    super().__init__(*args, **options)
                    self.create_function("long_step", 0, steps._step)

            return driver.connect(*args, factory=WithSteps, **options)

        async with items(path, connect=connect) as db:
            gate = Gate(driver)
            gate.stop_at("begin")
            opener = asyncio.create_task(db.execute(ADD(name="opener")))
            await gate.reached.wait()
            group = [
                asyncio.create_task(db.execute(ADD(name="before"))),
                asyncio.create_task(db.execute(STEP_WRITES(), timeout=0.3)),
                asyncio.create_task(db.execute(ADD(name="impatient"), timeout=0.3)),
                asyncio.create_task(db.execute(ADD(name="behind"))),
            ]
            await asyncio.sleep(0)
            gate.open()
            await opener
            await steps.running()
            for late in group[1:3]:
                with pytest.raises(StatementTimeoutError):
                    await late
            assert not group[0].done() and not group[3].done()
            steps.end()
            await asyncio.gather(group[0], group[3])
            assert await db.fetch_all(NAMES()) == ["opener", "before", "behind"]

    async def test_a_function_that_asks_nothing_of_sqlite(self, path: Path, steps: Steps) -> None:
        def compute(cx: Session) -> int:
            cx.execute(ADD(name="computed"))
            return steps._step()

        async with items(path, statement_timeout=0.05) as db:
            with steps.frees(StatementTimeoutError, "compute was stopped"):
                await db.write(compute)
            steps.end()
            assert await db.fetch_one(COUNT()) == 0

    async def test_a_cancelled_caller_is_told_that_it_was_cancelled(
        self, path: Path, steps: Steps
    ) -> None:
        """Also where its limit passes in the same moment."""
        async with items(path, connect=steps.connect) as db:
            task = asyncio.create_task(db.fetch_one(STEP(), timeout=0.05))
            await steps.running()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

            async def within() -> None:
                async with asyncio.timeout(0.02):
                    await db.fetch_one(STEP(), timeout=0.02)

            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await within()
            steps.end()

    async def test_the_task_is_not_left_cancelled(self, path: Path, steps: Steps) -> None:
        async with items(path, connect=steps.connect) as db:
            with steps.frees(StatementTimeoutError):
                await db.fetch_one(STEP(), timeout=0.05)
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0
            await asyncio.sleep(0)
            steps.end()


class TestStuckReaders:
    """While every reader is inside a step for a caller that has gone, another one serves."""

    async def test_the_pool_opens_one_more_and_gives_it_up_again(
        self, path: Path, steps: Steps
    ) -> None:
        async with items(path, "a", readers=2, reader_idle_time=0.0, connect=steps.connect) as db:
            stuck = [db.fetch_one(STEP(), timeout=0.05) for _ in range(2)]
            assert all(
                isinstance(each, StatementTimeoutError)
                for each in await asyncio.gather(*stuck, return_exceptions=True)
            )
            await steps.running(2)
            assert await db.fetch_one(COUNT()) == 1
            assert db.stats()["readers"]["size"] == 3
            steps.end()
            await until(lambda: db.stats()["readers"]["size"] == 2)
            assert await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(9))) == [1] * 9

    async def test_for_callers_that_were_cancelled_as_well(self, path: Path, steps: Steps) -> None:
        async with items(path, "a", readers=1, connect=steps.connect) as db:
            task = asyncio.create_task(db.fetch_one(STEP()))
            await steps.running()
            task.cancel()
            assert await db.fetch_one(COUNT()) == 1
            steps.end()

    async def test_there_is_an_end_to_it(self, path: Path, steps: Steps) -> None:
        """Twice the readers at most: then calls wait, and are told what is in the way."""
        async with items(path, "a", readers=1, connect=steps.connect) as db:
            with steps.frees(StatementTimeoutError):
                await db.fetch_one(STEP(), timeout=0.05)
            assert await db.fetch_one(COUNT()) == 1  # by the second one
            with steps.frees(StatementTimeoutError):
                await db.fetch_one(STEP(), timeout=0.05)
            await steps.running(2)
            with pytest.raises(PoolTimeoutError, match=r"step\.read"):
                await db.fetch_one(COUNT(), timeout=1.0)
            assert db.stats()["readers"]["size"] == 2
            steps.end()

    async def test_closing_waits_for_the_steps_that_are_running(
        self, path: Path, steps: Steps
    ) -> None:
        async with items(path, "a", readers=1, connect=steps.connect) as db:
            with steps.frees(StatementTimeoutError):
                await db.fetch_one(STEP(), timeout=0.05)
            assert await db.fetch_one(COUNT()) == 1
            closing = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            steps.end()
            await closing

    async def test_a_number_that_is_changed_meanwhile_holds(self, path: Path, steps: Steps) -> None:
        async with items(path, "a", readers=1, connect=steps.connect) as db:
            with steps.frees(StatementTimeoutError):
                await db.fetch_one(STEP(), timeout=0.05)
            assert await db.fetch_one(COUNT()) == 1
            await db.resize(readers=3)
            steps.end()
            await until(lambda: db.stats()["readers"]["size"] == 3)
            await db.resize(readers=1)
            await until(lambda: db.stats()["readers"]["size"] == 1)
            assert await db.fetch_one(COUNT()) == 1


class TestTransactions:
    """A transaction's own limit, and that of a statement inside it."""

    async def test_its_limit_frees_a_caller_inside_a_step(self, path: Path, steps: Steps) -> None:
        async with items(path, connect=steps.connect) as db:
            with steps.frees(TransactionTimeoutError, "longer than its limit"):
                async with db.transaction(timeout=0.05) as tx:
                    await tx.execute(ADD(name="a"))
                    await tx.fetch_one(STEP())
            steps.end()
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["b"]

    async def test_a_read_that_was_given_up_leaves_the_transaction_as_it_is(
        self, path: Path, steps: Steps
    ) -> None:
        async with items(path, connect=steps.connect) as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="a"))
                with steps.frees(StatementTimeoutError):
                    await tx.fetch_one(STEP(), timeout=0.05)
                steps.end()
                assert await tx.fetch_one(COUNT()) == 1
            assert await db.fetch_one(COUNT()) == 1

    async def test_a_write_that_was_given_up_undoes_the_transaction(
        self, path: Path, steps: Steps
    ) -> None:
        """As SQLite does with a write that is interrupted."""
        async with items(path, connect=steps.connect) as db:
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    with steps.frees(StatementTimeoutError):
                        await tx.execute(STEP_WRITES(), timeout=0.05)
                    steps.end()
                    with pytest.raises(TransactionAbortedError):
                        await tx.execute(ADD(name="b"))
            assert await db.fetch_one(COUNT()) == 0

    async def test_a_snapshot_and_a_stream(self, path: Path, steps: Steps) -> None:
        async with items(path, "a", readers=2, connect=steps.connect) as db:
            async with db.snapshot() as snapshot:
                with steps.frees(StatementTimeoutError):
                    await snapshot.fetch_one(STEP(), timeout=0.05)
            with steps.frees(StatementTimeoutError):
                async with db.stream(STEP(), timeout=0.05) as rows:
                    async for _ in rows:
                        pass
            steps.end()
            assert await db.fetch_one(COUNT()) == 1


class TestCommit:
    """A COMMIT that is under way is not stopped, and its caller is told what is known of it."""

    @pytest.mark.parametrize("verb", ["execute", "transaction"])
    async def test_one_that_hangs_is_told_as_unknown(
        self, path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in "connection.driver", "pool.call", "connection.deadline":
            monkeypatch.setattr(f"abt_db.{module}.COMMIT_GRACE", 0.05, raising=False)
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at("COMMIT")

            async def write() -> None:
                if verb == "execute":
                    await db.execute(ADD(name="a"), timeout=0.05)
                else:
                    async with db.transaction(timeout=0.05) as tx:
                        await tx.execute(ADD(name="a"))

            with pytest.raises(CommitUnknownError, match="may be committed"):
                await write()
            gate.open()
            # It is settled before the writer serves again.
            async with db.transaction() as tx:
                assert await tx.fetch_one(COUNT()) == 1

    async def test_one_that_ends_is_told_as_it_is(self, path: Path) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at("COMMIT")
            write = asyncio.create_task(db.execute(ADD(name="a"), timeout=0.05))
            await gate.reached.wait()
            asyncio.get_running_loop().call_later(0.2, gate.open)
            await write
            assert await db.fetch_one(COUNT()) == 1

    async def test_none_begins_for_a_caller_that_has_gone(self, path: Path, steps: Steps) -> None:
        """The mark of the caller comes before that of the COMMIT."""

        def function(cx: Session) -> None:
            cx.execute(ADD(name="a"))
            steps._step()

        async with items(path, statement_timeout=0.05) as db:
            with steps.frees(StatementTimeoutError):
                await db.write(function)
            steps.end()
            await until(lambda: db.stats()["writer"]["idle"])
            assert await db.fetch_one(COUNT()) == 0


class TestMemory:
    async def test_the_one_connection_serves_on(self, steps: Steps) -> None:
        async with items(":memory:", "a", connect=steps.connect) as db:
            with steps.frees(StatementTimeoutError):
                await db.fetch_one(STEP(), timeout=0.05)
            steps.end()
            assert await db.fetch_one(COUNT()) == 1
            assert db.stats()["writer"]["size"] == 1


class TestTheDriver:
    """A driver's connection that somebody else has stopped is closed within bounds (fault 83)."""

    @pytest.mark.parametrize("how", ["stop", "close"])
    async def test_an_idle_one(self, path: Path, how: str, no_leaks: None) -> None:
        driver = Driver()
        before = threads()
        async with items(path, connect=driver.connect) as db:
            for connection in driver.connections:
                if how == "stop":
                    connection.stop()
                else:
                    await connection.close()
            await until(lambda: threads() == before)
            await db.execute(ADD(name="a"))
            assert await db.fetch_one(COUNT()) == 1

    async def test_one_that_is_at_work(self, path: Path, steps: Steps, no_leaks: None) -> None:
        """The thread has two ends in its queue then, and answers the first one only."""
        opened: list[aiosqlite.Connection] = []

        def connect(*args: Any, **options: Any) -> aiosqlite.Connection:
            opened.append(steps.connect(*args, **options))
            return opened[-1]

        async with items(path, connect=connect) as db:
            write = asyncio.create_task(db.execute(STEP_WRITES()))
            await steps.running()
            opened[0].stop()
            behind = asyncio.create_task(db.execute(ADD(name="behind")))
            await asyncio.sleep(0)
            closing = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            steps.end()
            told = await asyncio.gather(write, behind, closing, return_exceptions=True)
            assert told[2] is None
        with sqlite3.connect(path) as raw:
            raw.execute("BEGIN EXCLUSIVE")  # nobody has it open any more
        raw.close()
