"""Handles: a transaction, its savepoints, a snapshot, a stream; and what ends them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    ADD_ENDLESSLY,
    COUNT,
    CREATE,
    ENDLESS,
    NAMES,
    NUMBERS,
    SOON,
    Driver,
    Gate,
    Holder,
    Witness,
    items,
    passing,
    until,
)

from abt_db import (
    Config,
    Database,
    IntegrityError,
    LockLostError,
    Query,
    QueryDefinitionError,
    QueryError,
    ReadOnlyError,
    StatementTimeoutError,
    Transaction,
    TransactionAbortedError,
    TransactionStateError,
    TransactionTimeoutError,
)
from abt_db.locks.table import LOCKS_TABLE

ROLL_BACK = Query("items.end", "INSERT OR ROLLBACK INTO items (name) VALUES ('a')")
CHILDREN = Query(
    "children.create",
    "CREATE TABLE children (parent REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED)",
)
ADD_CHILD = Query("children.add", "INSERT INTO children VALUES (7)")
FORGET_LOCKS = Query("locks.forget", "DELETE FROM distributed_locks")


class TestTransaction:
    """All of its work or none; BEGIN IMMEDIATE at the start, COMMIT at the end of a good block."""

    async def test_it_is_there_when_the_block_has_ended(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with db.transaction() as tx:
                result = await tx.execute(ADD(name="a"))
                assert (result.rowcount, result.lastrowid) == (1, 1)
                assert await tx.execute_many(ADD, [{"name": "b"}, {"name": "c"}]) == 2
                assert len(await tx.execute_batch([ADD(name="d"), ADD(name="e")])) == 2
                await tx.write(lambda cx: cx.execute(ADD(name="f")))
                assert await tx.read(lambda cx: cx.fetch_one(COUNT())) == 6
                assert witness.count() == 0
            assert witness.count() == 6
            await witness.whole()

    @pytest.mark.parametrize(
        "error", [ZeroDivisionError, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt]
    )
    async def test_an_error_undoes_it(self, path: Path, error: type[BaseException]) -> None:
        """fault 13: whatever the error is, it goes on to the caller as it was."""
        async with items(path) as db, Witness(db) as witness:
            raised = error()
            with pytest.raises(error) as caught:
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    raise raised
            assert caught.value is raised
            await witness.whole()
            assert witness.count() == 0

    async def test_it_has_the_write_lock_from_its_beginning(self, path: Path) -> None:
        """invariant 2: read first, write later is no upgrade that could fail."""
        async with items(path) as db:
            async with db.transaction() as tx:
                await tx.fetch_one(COUNT())
                async with Database(path) as rival:
                    with pytest.raises(
                        QueryError, match=r"a transaction of task .* in this process"
                    ):
                        await rival.execute(ADD(name="rival"), timeout=0.05)
                await tx.execute(ADD(name="a"))
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_exclusive_shuts_readers_out_without_a_wal(self, path: Path) -> None:
        async with items(path, journal_mode="delete", busy_timeout=0.1, readers=1) as db:
            assert await db.fetch_one(COUNT()) == 0
            async with db.transaction(mode="exclusive"):
                with pytest.raises(QueryError, match=r"a transaction of task .* in this process"):
                    await db.fetch_one(COUNT())
            assert await db.fetch_one(COUNT()) == 0
        with pytest.raises(ValueError, match="immediate"):
            async with items(path.with_name("b.db")) as db:
                db.transaction(mode="deferred")  # type: ignore[arg-type]

    async def test_a_statement_that_fails_leaves_the_rest(self, path: Path) -> None:
        async with items(path, "a") as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
                with pytest.raises(IntegrityError):
                    await tx.execute(ADD(name="a"))
                with pytest.raises(IntegrityError):
                    await tx.execute_batch([ADD(name="c"), ADD(name="a")])
                with pytest.raises(IntegrityError):
                    await tx.execute_many(ADD, [{"name": "c"}, {"name": "a"}])
                with pytest.raises(ZeroDivisionError):
                    await tx.write(lambda cx: (cx.execute(ADD(name="c")), 1 // 0))
                await tx.execute(ADD(name="d"))
            assert await db.fetch_all(NAMES()) == ["a", "b", "d"]

    @pytest.mark.parametrize(
        "sql", ["BEGIN", "commit", "END", "ROLLBACK", "SAVEPOINT x", "RELEASE x"]
    )
    def test_transaction_control_is_no_query(self, sql: str) -> None:
        """faults 19, 24."""
        with pytest.raises(QueryDefinitionError, match=r"tx\.savepoint"):
            Query("control", f"/* a comment */ {sql}")
        with pytest.raises(QueryDefinitionError):
            Query("vacuum", "VACUUM")


class TestTheEndBySQLite:
    """SQLite may end a transaction on its own; then nothing goes on and nothing is acknowledged
    (invariants 8, 9; faults 21, 25)."""

    async def test_going_on_is_refused(self, path: Path) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            with pytest.raises(TransactionAbortedError, match="deploy"):
                async with db.transaction(label="deploy") as tx:
                    await tx.execute(ADD(name="b"))
                    with pytest.raises(IntegrityError):
                        await tx.execute(ROLL_BACK())
                    await tx.execute(ADD(name="c"))
            await witness.whole()
            assert witness.count() == 1

    @pytest.mark.parametrize("inside", ["transaction", "savepoint", "write"])
    async def test_swallowing_it_is_no_success(self, path: Path, inside: str) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="b"))
                    with suppress(IntegrityError):
                        if inside == "savepoint":
                            async with tx.savepoint() as inner:
                                await inner.execute(ROLL_BACK())
                        elif inside == "write":
                            await tx.write(lambda cx: cx.execute(ROLL_BACK()))
                        else:
                            await tx.execute(ROLL_BACK())
            await witness.whole()
            assert witness.count() == 1

    async def test_a_function_that_goes_on_in_it_is_undone(self, path: Path) -> None:
        """What runs behind the end would be committed one by one, in no transaction at all."""

        def function(cx: Any) -> None:
            with suppress(IntegrityError):
                cx.execute(ROLL_BACK())
            cx.execute(ADD(name="behind the end"))

        async with items(path, "a") as db, Witness(db) as witness:
            with pytest.raises(TransactionAbortedError):
                await db.write(function)
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    await tx.write(function)
            await witness.whole()
            assert witness.count() == 1


class TestSavepoint:
    """A block inside a transaction whose failure undoes its own work only (fault 18)."""

    async def test_only_its_own_work_is_undone(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="a"))
                with suppress(KeyError):
                    async with tx.savepoint() as inner:
                        await inner.execute(ADD(name="undone"))
                        raise KeyError
                async with tx.savepoint() as inner:
                    await inner.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    @pytest.mark.parametrize("fails", ["none", "outer", "inner", "both"])
    async def test_nested_in_another(self, path: Path, fails: str) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                with suppress(KeyError):
                    async with tx.savepoint() as outer:
                        await outer.execute(ADD(name="outer"))
                        with suppress(IndexError):
                            async with outer.savepoint() as inner:
                                await inner.execute(ADD(name="inner"))
                                if fails in ("inner", "both"):
                                    raise IndexError
                        await outer.execute(ADD(name="after"))
                        if fails in ("outer", "both"):
                            raise KeyError
                await tx.execute(ADD(name="end"))
            expected = {
                "none": ["outer", "inner", "after", "end"],
                "inner": ["outer", "after", "end"],
                "outer": ["end"],
                "both": ["end"],
            }
            assert await db.fetch_all(NAMES()) == expected[fails]

    async def test_empty_ones_cost_nothing_and_do_no_harm(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                for _ in range(3):
                    async with tx.savepoint(), tx.savepoint():
                        pass
                    with suppress(KeyError):
                        async with tx.savepoint():
                            raise KeyError
                await tx.execute(ADD(name="a"))
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_an_error_that_leaves_the_transaction_undoes_all(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(KeyError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    async with tx.savepoint() as inner:
                        await inner.execute(ADD(name="b"))
                        raise KeyError
            await witness.whole()
            assert witness.count() == 0

    async def test_the_outer_handle_works_inside_as_well(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                with suppress(KeyError):
                    async with tx.savepoint():
                        await tx.execute(ADD(name="undone"))
                        raise KeyError
                await tx.execute(ADD(name="a"))
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_leaving_one_inside_an_open_stream(self, path: Path) -> None:
        async with items(path, *"abcd") as db, Witness(db) as witness:
            async with db.transaction() as tx, tx.stream(NAMES(), size=1) as rows:
                async for row in rows:
                    with suppress(KeyError):
                        async with tx.savepoint() as inner:
                            await inner.execute(ADD(name=row + row))
                            if row in "bd":
                                raise KeyError
                    if row == "d":
                        break
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a", "b", "c", "d", "aa", "cc"]


class TestTheHandle:
    """A handle lives as long as its block (invariant 18). `test_shared_handles.py` has its use by
    several tasks."""

    @pytest.mark.parametrize("kind", ["transaction", "snapshot", "savepoint"])
    @pytest.mark.parametrize("when", ["before", "after", "entered again"])
    async def test_it_is_refused(self, path: Path, kind: str, when: str) -> None:
        """fault 17."""
        async with items(path) as db, Witness(db) as witness:
            async with AsyncExitStack() as work:
                if kind == "savepoint":
                    tx = await work.enter_async_context(db.transaction())
                    handle: Any = tx.savepoint()
                else:
                    handle = getattr(db, kind)()
                problem = {
                    "before": "has not begun",
                    "after": "has ended",
                    "entered again": "only once|would wait for ever",
                }[when]
                with pytest.raises(TransactionStateError, match=problem):
                    if when == "before":
                        await handle.fetch_one(COUNT())
                    async with handle:
                        assert await handle.fetch_one(COUNT()) == 0
                        if when == "entered again":
                            async with handle:
                                pass
                    await handle.fetch_one(COUNT())
            await witness.whole()

    @pytest.mark.parametrize("kind", ["transaction", "snapshot"])
    async def test_a_second_block_of_one_handle_is_refused(self, path: Path, kind: str) -> None:
        async with items(path) as db, Witness(db) as witness:
            handle = getattr(db, kind)()
            async with handle:
                pass
            with pytest.raises(TransactionStateError, match="only once"):
                async with handle:
                    pass
            await witness.whole()

    async def test_a_savepoint_kept_beyond_its_transaction_is_dead(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                savepoint = tx.savepoint()
                await savepoint.__aenter__()
            with pytest.raises(TransactionStateError):
                await savepoint.execute(ADD(name="x"))
            await savepoint.__aexit__(None, None, None)

    async def test_a_generator_that_is_collected_gives_its_transaction_back(
        self, path: Path
    ) -> None:
        async def generate(db: Database) -> AsyncIterator[int]:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="undone"))
                yield 1

        async with items(path) as db, Witness(db) as witness:
            async for _ in generate(db):
                break
            gc.collect()
            await witness.whole()
            assert witness.count() == 0


class TestTimeLimit:
    """A transaction that is open too long is taken back, whatever it is doing (faults 8, 9)."""

    async def test_while_its_body_sleeps(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(TransactionTimeoutError, match=r"'deploy' .* 0\.05 s"):
                async with db.transaction(timeout=0.05, label="deploy") as tx:
                    await tx.execute(ADD(name="undone"))
                    await witness.whole()  # the writer is free although the block goes on
                    await tx.execute(ADD(name="refused"))
            assert witness.count() == 0

    async def test_while_its_body_sleeps_to_its_end(self, path: Path) -> None:
        async with items(path, transaction_timeout=0.05) as db, Witness(db) as witness:
            with pytest.raises(TransactionTimeoutError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="undone"))
                    await witness.whole()
            assert witness.count() == 0

    @pytest.mark.parametrize("statement", [ENDLESS, ADD_ENDLESSLY], ids=["read", "write"])
    async def test_while_a_statement_runs(self, path: Path, statement: Query[Any]) -> None:
        async with items(path) as db, Witness(db) as witness:
            began = monotonic()
            with pytest.raises(TransactionTimeoutError):
                async with db.transaction(timeout=0.05) as tx:
                    await tx.execute(ADD(name="undone"))
                    await tx.fetch_one(statement())
            assert monotonic() - began < SOON
            await witness.whole()
            assert witness.count() == 0

    @pytest.mark.parametrize("step", ["begin", "COMMIT", "end"])
    async def test_during_its_commit(self, path: Path, step: str, clock: Clock) -> None:
        """Either it is committed and nobody complains, or it is not and the caller is told."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)

            async def commit() -> None:
                async with db.transaction(timeout=10) as tx:
                    await tx.execute(ADD(name="a"))
                    gate.stop_at(step)

            task = asyncio.create_task(commit())
            await gate.reached.wait()
            clock.passes(10)
            await asyncio.sleep(0.01)  # in which the loop hears of it
            gate.open()
            await asyncio.wait([task])
            await witness.whole()
            if step == "begin":
                assert isinstance(task.exception(), TransactionTimeoutError)
            assert witness.count() == (0 if task.exception() else 1)

    async def test_an_error_of_the_body_goes_before(self, path: Path) -> None:
        """invariant 10."""
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(KeyError):
                async with db.transaction(timeout=0.02):
                    await witness.whole()
                    raise KeyError

    async def test_the_time_before_its_beginning_does_not_count(
        self, path: Path, clock: Clock
    ) -> None:
        async with items(path) as db:
            async with Holder(db.transaction()):
                waiting = Holder(db.transaction(timeout=10))
                task = asyncio.create_task(waiting.__aenter__())
                await until(lambda: db.stats()["writer"]["waiting"])
                clock.passes(20)
                await asyncio.sleep(0.01)  # in which it would give up
            await task
            await waiting.__aexit__()


class TestTheLockAtItsEnd:
    """Whoever is told that a transaction has ended finds the file's write lock free, whatever has
    ended it; and none of them waits for what can't be stopped."""

    async def test_left_by_an_error(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(KeyError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="undone"))
                    raise KeyError
            witness.require_free()

    async def test_that_run_transaction_raises(self, path: Path) -> None:
        async def operation(tx: Transaction) -> None:
            await tx.execute(ADD(name="a"))

        async with items(path, "a") as db, Witness(db) as witness:
            with pytest.raises(IntegrityError):
                await db.run_transaction(operation)
            witness.require_free()

    async def test_of_a_commit_that_fails(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            await db.execute(CHILDREN())
            with pytest.raises(IntegrityError):
                async with db.transaction() as tx:
                    await tx.execute(ADD_CHILD())
            witness.require_free()

    async def test_left_by_a_cancellation(self, path: Path) -> None:
        async def body(entered: asyncio.Event) -> None:
            with pytest.raises(asyncio.CancelledError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="undone"))
                    entered.set()
                    await asyncio.Event().wait()
            witness.require_free()

        async with items(path) as db, Witness(db) as witness:
            entered = asyncio.Event()
            task = asyncio.create_task(body(entered))
            await entered.wait()
            task.cancel()
            await task

    async def test_a_rollback_may_take_its_time(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect, transaction_timeout=None) as db:
            gate = Gate(driver)

            async def body() -> None:
                async with db.transaction() as tx:
                    gate.stop_at("ROLLBACK")
                    await tx.execute(ADD(name="a"))

            async with Witness(db) as witness:
                task = asyncio.create_task(body())
                await gate.reached.wait()
                clock.passes(100)
                await asyncio.sleep(0.01)  # in which the loop hears of it
                waiting = not task.done()
                gate.open()
                with pytest.raises(IntegrityError):
                    await task
                witness.require_free()
                assert waiting

    async def test_that_was_refused_at_its_beginning(self, path: Path) -> None:
        """A lease that is over is seen inside the transaction, which has the lock by then."""
        async with items(path) as db, Witness(db) as witness:
            await db.execute(LOCKS_TABLE())
            with pytest.raises(LockLostError, match="is lost"):  # at the end of the block
                async with db.lock("a") as lease:
                    await db.execute(FORGET_LOCKS())
                    with pytest.raises(LockLostError, match="nothing was written"):
                        await db.transaction(lease=lease).__aenter__()
                    witness.require_free()

    async def test_at_its_time_limit(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            driver.hook = passing(clock, 10, ADD_ENDLESSLY)
            with pytest.raises(TransactionTimeoutError):
                async with db.transaction(timeout=10) as tx:
                    await tx.execute(ADD_ENDLESSLY())
            await witness.whole()

    async def test_nobody_waits_for_a_call_that_goes_on(self, path: Path) -> None:
        """invariant 33: what was cancelled hangs in its thread, and its caller does not."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)

            async def body() -> None:
                async with db.transaction() as tx:
                    gate.stop_at("INSERT")
                    await tx.execute(ADD(name="undone"))

            task = asyncio.create_task(body())
            await gate.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert db.stats()["writer"]["busy"]
            gate.open()
            await witness.whole()

    async def test_a_second_cancel_ends_the_wait_and_not_the_rollback(self, path: Path) -> None:
        """fault 7, invariant 11."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)

            async def body() -> None:
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="undone"))
                    gate.stop_at("ROLLBACK")
                    raise KeyError

            task = asyncio.create_task(body())
            await gate.reached.wait()
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert isinstance(caught.value.__context__, KeyError)
            assert db.stats()["writer"]["busy"]
            gate.open()
            await witness.whole()
            assert witness.count() == 0

    async def test_a_rollback_that_hangs_is_left_at_the_time_limit(
        self, path: Path, clock: Clock
    ) -> None:
        """invariant 33"""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)

            async def body() -> None:
                async with db.transaction(timeout=1_000) as tx:
                    await tx.execute(ADD(name="undone"))
                    gate.stop_at("ROLLBACK")
                    raise KeyError

            task = asyncio.create_task(body())
            await gate.reached.wait()
            assert not task.done()
            clock.passes(1_000)
            with pytest.raises(KeyError):
                await task
            gate.open()
            await witness.whole()

    def test_a_loop_that_ends_in_the_midst_of_one_ends(self, path: Path) -> None:
        """Its end cancels every task, the one that would roll back among them."""

        async def body(db: Database, entered: asyncio.Event) -> None:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="undone"))
                entered.set()
                await asyncio.Event().wait()

        async def main() -> asyncio.Task[None]:
            db = await Database(path, config=Config(transaction_timeout=None)).open()
            await db.execute(CREATE())
            task = asyncio.create_task(body(db, entered := asyncio.Event()))
            await entered.wait()
            return task

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nobody closes it
            assert asyncio.run(main()).cancelled()
            gc.collect()


class TestSnapshot:
    """One view, from its beginning to its end, whatever is committed meanwhile (invariant 5)."""

    async def test_it_is_pinned_by_its_beginning_not_by_its_first_read(self, path: Path) -> None:
        async with items(path, "a") as db:
            async with db.snapshot() as view:
                await db.execute(ADD(name="b"))
                assert await view.fetch_all(NAMES()) == ["a"]
                await db.execute(ADD(name="c"))
                assert await view.read(lambda cx: cx.fetch_one(COUNT())) == 1
                async with view.stream(NAMES()) as rows:
                    assert [row async for row in rows] == ["a"]
            async with db.snapshot() as view:
                assert await view.fetch_one(COUNT()) == 3

    async def test_a_function_has_one_view(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at(NAMES.sql)
            task = asyncio.create_task(
                db.read(lambda cx: (cx.fetch_one(COUNT()), cx.fetch_all(NAMES())))
            )
            await gate.reached.wait()
            await db.execute(ADD(name="b"))
            gate.open()
            assert await task == (1, ["a"])

    async def test_the_log_can_be_reset_when_it_has_ended(self, path: Path) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            async with db.snapshot() as view:
                await db.execute(ADD(name="b"))
                assert witness.pinned()
                assert await view.fetch_one(COUNT()) == 1
            await witness.whole()
            assert not witness.pinned()


class TestStream:
    """Rows as they are asked for: all of them, in order, in bounded memory, and no connection kept
    by who stops early."""

    @pytest.mark.parametrize("size", [1, 3, 7, 500])
    @pytest.mark.parametrize("count", [0, 1, 6, 7, 8])
    async def test_all_rows_come_in_order(self, path: Path, size: int, count: int) -> None:
        async with items(path) as db, Witness(db) as witness:
            await db.execute_many(ADD, [{"name": str(n)} for n in range(count)])
            async with db.stream(NAMES(), size=size) as rows:
                assert [row async for row in rows] == [str(n) for n in range(count)]
            await witness.whole()

    async def test_a_hundred_thousand_rows_take_the_memory_of_a_few(self, path: Path) -> None:
        async with items(path) as db:
            tracemalloc.start()
            try:
                total = 0
                async with db.stream(NUMBERS(count=100_000)) as rows:
                    async for number in rows:
                        total += number
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert total == 100_000 * 100_001 // 2
            assert peak < 1_000_000

    async def test_who_breaks_off_can_go_on(self, path: Path) -> None:
        """A second `async for` goes on where the first one stopped; nothing is lost silently."""
        async with items(path, *"abcdef") as db, db.stream(NAMES(), size=4) as rows:
            seen = []
            async for row in rows:
                seen.append(row)
                break
            seen += [row async for row in rows]
            assert seen == list("abcdef")

    async def test_a_step_that_was_stopped_is_not_taken_for_the_end(self, path: Path) -> None:
        driver = Driver()
        async with items(path, *"abcdef", connect=driver.connect) as db:
            gate = Gate(driver)
            async with db.stream(NAMES(), size=2) as rows:
                seen = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(None) as limit:
                        stopping = asyncio.create_task(at_once(limit, gate.reached))
                        async for row in rows:
                            seen.append(row)
                            gate.stop_at("end")
                gate.open()
                await stopping
                assert seen == ["a", "b"]
                with pytest.raises(
                    TransactionStateError, match=r"^stream of items\.names was stopped"
                ):
                    [row async for row in rows]

    async def test_it_sees_the_database_of_its_beginning(self, path: Path) -> None:
        async with items(path, *"abc") as db, db.stream(NAMES(), size=1) as rows:
            seen = []
            async for row in rows:
                await db.execute(ADD(name=row + row))
                seen.append(row)
            assert seen == list("abc")

    async def test_left_early_it_gives_everything_back(self, path: Path) -> None:
        async with items(path, *"abcdef", readers=1) as db, Witness(db) as witness:
            async with db.stream(NAMES(), size=1) as rows:
                async for _row in rows:
                    break
            await witness.whole()
            with pytest.raises(KeyError):
                async with db.stream(NAMES(), size=1) as rows:
                    async for _row in rows:
                        raise KeyError
            await witness.whole()

    async def test_left_early_inside_a_transaction_it_is_closed_before_the_next_statement(
        self, path: Path
    ) -> None:
        drop = Query("items.drop", "DROP TABLE items")  # refused while anyone reads from it
        async with items(path, *"abcdef") as db:
            async with db.transaction() as tx:
                async with tx.stream(NAMES(), size=1) as rows:
                    async for _row in rows:
                        break
                await tx.execute(drop())

    async def test_cancelled_as_it_begins_inside_a_transaction_it_keeps_nothing_open(
        self, path: Path
    ) -> None:
        driver = Driver()
        drop = Query("items.drop", "DROP TABLE items")  # refused while anyone reads from it
        async with items(path, *"abc", connect=driver.connect) as db:
            gate = Gate(driver)
            async with db.transaction() as tx:
                gate.stop_at("end")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05), tx.stream(NAMES(), size=1):
                        pytest.fail("it has begun")
                gate.open()
                await tx.execute(drop())

    async def test_it_is_dead_outside_its_block(self, path: Path) -> None:
        async with items(path, *"ab") as db:
            stream = db.stream(NAMES(), size=1)
            with pytest.raises(TransactionStateError):
                [row async for row in stream]
            async with stream as rows:
                iterator = aiter(rows)
                assert await anext(iterator) == "a"
            with pytest.raises(TransactionStateError):
                await anext(iterator)

    @pytest.mark.parametrize("in_transaction", [False, True])
    async def test_a_slow_step_is_stopped(self, path: Path, in_transaction: bool) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            async with AsyncExitStack() as work:
                handle = await work.enter_async_context(db.transaction()) if in_transaction else db
                with pytest.raises(StatementTimeoutError):
                    async with handle.stream(ENDLESS(), timeout=0.05) as rows:
                        [row async for row in rows]
            await witness.whole()

    async def test_a_write_is_no_stream(self, path: Path) -> None:
        adding = Query("items.add_one", "INSERT INTO items (name) VALUES ('x') RETURNING id", int)
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(QueryError):
                async with db.stream(adding()):
                    pass
            with pytest.raises(ReadOnlyError):
                async with db.snapshot() as view, view.stream(adding()):
                    pass
            await witness.whole()
            assert witness.count() == 0


async def at_once(limit: asyncio.Timeout, when: asyncio.Event) -> None:
    """Have the time of a block be over as soon as something has happened."""
    await when.wait()
    limit.reschedule(asyncio.get_running_loop().time())
