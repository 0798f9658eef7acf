"""`run_batch`: each operation is done or has failed by itself, and the report says which."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clock import Clock
from support.engine import (
    ADD,
    ADD_ENDLESSLY,
    COUNT,
    NAMES,
    SOON,
    TOUCH,
    Driver,
    Gate,
    LockingProcess,
    Witness,
    items,
    on_writer,
    passing,
    until,
)

import abt_db.transactions.bulk
from abt_db import (
    BatchReport,
    BusyError,
    Database,
    FullError,
    IntegrityError,
    PoolClosedError,
    PoolTimeoutError,
    Query,
    QueryError,
    ReadOnlyError,
    Result,
    Savepoint,
    Session,
    StatementTimeoutError,
    Transaction,
    TransactionAbortedError,
    TransactionStateError,
    TransactionTimeoutError,
)
from abt_db.transactions.bulk import Operation

ADD_OR_ROLLBACK = Query("items.rollback", "INSERT OR ROLLBACK INTO items (name) VALUES (:name)")
ADD_OR_FAIL = Query(
    "items.fail", "INSERT OR FAIL INTO items (name) VALUES (:name || ' half'), ('first')"
)
CHILDREN = Query(
    "children.create",
    "CREATE TABLE children (parent REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED)",
)
ADD_CHILD = Query("children.add", "INSERT INTO children VALUES (:parent)")


def add_twice(name: str) -> Operation:
    def add(cx: Session) -> None:
        cx.execute(ADD(name=name))
        cx.execute(ADD(name=f"{name} again"))

    return add


def half(name: str) -> Operation:
    def half_way(cx: Session) -> None:
        cx.execute(ADD(name=name))
        raise KeyError(name)

    return half_way


def swallows(name: str) -> Operation:
    def swallow(cx: Session) -> None:
        cx.execute(ADD(name=name))
        with suppress(IntegrityError):
            cx.execute(ADD_OR_ROLLBACK(name="first"))

    return swallow


def add_thrice(name: str) -> Operation:
    async def add(tx: Transaction) -> str:
        await tx.execute(ADD(name=name))
        async with tx.savepoint():
            await tx.execute(ADD(name=f"{name} again"))
        await asyncio.sleep(0)
        await tx.execute_many(ADD, [{"name": f"{name} once more"}])
        return name

    return add


def half_awaited(name: str) -> Operation:
    async def half_way(tx: Savepoint) -> None:
        await tx.execute(ADD(name=name))
        async with tx.savepoint():
            await tx.execute(ADD(name=f"{name} again"))
        raise KeyError(name)

    return half_way


def swallows_awaited(name: str) -> Operation:
    async def swallow(tx: Transaction) -> None:
        await tx.execute(ADD(name=name))
        with suppress(IntegrityError):
            await tx.execute(ADD_OR_ROLLBACK(name="first"))

    return swallow


def given_a_coroutine(make: Callable[[str], Any]) -> Callable[[str], Operation]:
    """Functions that are no coroutine functions, and return coroutines all the same."""
    return lambda name: lambda tx: make(name)(tx)


KINDS: dict[str, tuple[Any, list[str] | None]] = {
    "a statement": (lambda name: ADD(name=name), ["{}"]),
    "a function": (add_twice, ["{}", "{} again"]),
    "one that is there": (lambda name: ADD(name="first"), None),
    "half a function": (half, None),
    "OR FAIL": (lambda name: ADD_OR_FAIL(name=name), None),
    "OR ROLLBACK": (lambda name: ADD_OR_ROLLBACK(name="first"), None),
    "a swallowed OR ROLLBACK": (swallows, None),
    "a read": (lambda name: COUNT(), None),
    "a coroutine function": (add_thrice, ["{}", "{} again", "{} once more"]),
    "a lambda around one": (given_a_coroutine(add_thrice), ["{}", "{} again", "{} once more"]),
    "half a coroutine function": (half_awaited, None),
    "a lambda around half of one": (given_a_coroutine(half_awaited), None),
    "an awaited OR ROLLBACK that is swallowed": (swallows_awaited, None),
}
"""Operations, and which names they add; None: they fail."""


def good(count: int, first: int = 0) -> list[Operation]:
    return [ADD(name=f"good {n}") for n in range(first, first + count)]


class TestEveryOperation:
    """faults 18, 20, 25: whoever shares its transaction, an operation is done or undone alone,
    and the innocent are in the database."""

    @settings(
        max_examples=120,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        kinds=st.lists(st.sampled_from([*KINDS, *["a statement"] * 6]), max_size=12),
        size=st.integers(1, 7),
        stops=st.booleans(),
        mode=st.sampled_from(["immediate", "exclusive"]),
    )
    def test_is_done_or_undone_alone(
        self, path: Path, kinds: list[str], size: int, stops: bool, mode: Any
    ) -> None:
        async def run() -> tuple[BatchReport, list[str]]:
            path.unlink(missing_ok=True)
            async with items(path, "first", readers=1) as db:
                operations = [KINDS[kind][0](f"n{n}") for n, kind in enumerate(kinds)]
                report = await db.run_batch(
                    iter(operations),
                    batch_size=size,
                    on_error="stop" if stops else "continue",
                    mode=mode,
                )
                rest = operations[report.tried : report.tried + len(report.not_tried)]
                assert [*report.not_tried] == rest
                return report, await db.fetch_all(NAMES())

        added, failed, done = ["first"], [], 0
        for n, kind in enumerate(kinds):
            names = KINDS[kind][1]
            if names is None:
                failed.append(n)
                if stops:
                    break
            else:
                done += 1
                added += [name.format(f"n{n}") for name in names]
        report, there = asyncio.run(run())
        assert there == added
        assert [failure.index for failure in report.failures] == failed
        assert (report.done, report.failed) == (done, len(failed))
        assert len(report.results) == report.tried
        for n, (kind, result) in enumerate(zip(kinds, report.results, strict=False)):
            if n in failed:
                assert result is None
            elif kind == "a statement":
                assert result.rowcount == 1
            elif "function" in kind or "lambda" in kind:
                assert result == (None if kind == "a function" else f"n{n}")

    async def test_the_report_names_what_failed_and_why(self, path: Path) -> None:
        async with items(path, "first") as db:
            report = await db.run_batch(
                [*good(2), ADD(name="first"), half("x"), swallows("y"), COUNT()],
                on_error="continue",
            )
            assert (report.done, report.failed, report.transactions) == (2, 4, 2)
            assert [failure.name for failure in report.failures] == [
                "items.add",
                "half.<locals>.half_way",
                "swallows.<locals>.swallow",
                "items.count",
            ]
            kinds = [IntegrityError, KeyError, TransactionAbortedError, QueryError]
            assert [type(failure.error) for failure in report.failures] == kinds

    async def test_what_is_no_operation_fails_as_one(self, path: Path) -> None:
        async def generator(tx: Transaction) -> AsyncIterator[None]:
            yield

        wrong: Any = [7, generator]
        async with items(path) as db:
            report = await db.run_batch([*wrong, *good(1)], on_error="continue")
            assert (report.done, report.failed) == (1, 2)
            assert {type(failure.error) for failure in report.failures} == {TypeError}


def size_of(cx: Session) -> int:
    return cx.fetch_one(COUNT()) or 0


class TestResults:
    """What each operation gave, in the order of the operations."""

    async def test_are_those_of_statements_functions_and_coroutine_functions(
        self, path: Path
    ) -> None:
        async with items(path, "first") as db:
            operations = [ADD(name="a"), size_of, ADD(name="first"), add_thrice("b"), size_of]
            for size in 2, 500:
                await db.execute(Query("clear", "DELETE FROM items WHERE name <> 'first'")())
                report = await db.run_batch(operations, batch_size=size, on_error="continue")
                assert report.results == (Result(1, 2), 2, None, "b", 5)

    async def test_of_an_operation_that_was_run_again_are_those_of_the_last_time(
        self, path: Path
    ) -> None:
        runs = count(1)

        def number(cx: Session) -> int:
            return next(runs)

        async with items(path, "first") as db:
            operations: list[Operation] = [number, ADD_OR_ROLLBACK(name="first"), number]
            report = await db.run_batch(operations, on_error="continue")
            assert report.results == (2, None, 3)

    async def test_progress_is_given_those_of_its_transaction(self, path: Path) -> None:
        told: list[tuple[int, tuple[Any, ...]]] = []

        def progress(report: BatchReport) -> None:
            told.append((report.tried, report.results))

        async with items(path) as db:
            report = await db.run_batch([size_of] * 5, batch_size=2, progress=progress)
            assert told == [(2, (0, 0)), (4, (0, 0)), (5, (0,))]
            assert report.results == (0,) * 5

    async def test_are_all_kept_of_a_list_and_the_first_of_what_may_be_endless(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(abt_db.transactions.bulk, "MAX_RESULTS", 7)
        async with items(path) as db:
            report = await db.run_batch(good(20), batch_size=3)
            assert [result.lastrowid for result in report.results] == [*range(1, 21)]
            report = await db.run_batch(iter(good(20, 20)), batch_size=3)
            assert [result.lastrowid for result in report.results] == [*range(21, 28)]
            assert report.done == 20


class TestCoroutineFunctions:
    """``async function(tx)``: an operation like any other, and it ends when it has returned."""

    async def test_what_it_leaves_behind_can_do_nothing_to_those_that_follow(
        self, path: Path
    ) -> None:
        left: list[asyncio.Task[Result]] = []

        async def leave(tx: Savepoint) -> None:
            async def later() -> Result:
                await asyncio.sleep(0)
                return await tx.execute(ADD(name="stray"))

            left.append(asyncio.create_task(later()))

        async with items(path) as db:
            await db.run_batch([leave, add_thrice("a")])
            with pytest.raises(TransactionStateError, match="has ended"):
                await left[0]
            assert await db.fetch_all(NAMES()) == ["a", "a again", "a once more"]

    async def test_it_can_not_wait_for_the_transaction_that_it_is_in(self, path: Path) -> None:
        async with items(path) as db:

            async def outside(tx: Transaction) -> None:
                await db.execute(ADD(name="outside"))

            report = await db.run_batch([outside, *good(1)], on_error="continue")
            [failure] = report.failures
            assert isinstance(failure.error, TransactionStateError)
            assert await db.fetch_all(NAMES()) == ["good 0"]

    async def test_at_the_time_limit_it_is_cancelled_whatever_it_waits_for(
        self, path: Path, clock: Clock
    ) -> None:
        ended = []

        async def wait(tx: Transaction) -> None:
            await tx.execute(ADD(name="waits"))
            clock.passes(10)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        async with items(path) as db, Witness(db) as witness:
            report = await db.run_batch(
                [*good(2), wait, *good(2, 2)], on_error="continue", timeout=9
            )
            assert (report.done, report.failed, report.failures[0].index) == (4, 1, 2)
            assert isinstance(report.failures[0].error, TransactionTimeoutError)
            assert len(ended) == 2  # among the others, and alone
            assert witness.count() == 4
            await witness.whole()

    @pytest.mark.parametrize("mode", ["immediate", "exclusive"])
    async def test_a_statement_beside_it_that_runs_into_the_limit_fails_alone(
        self, path: Path, clock: Clock, mode: Any
    ) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            driver.hook = passing(clock, 10, ADD_ENDLESSLY)
            operations = [add_thrice("a"), *good(2), ADD_ENDLESSLY(), *good(2, 2), add_thrice("b")]
            report = await db.run_batch(operations, on_error="continue", timeout=10, mode=mode)
            assert (report.done, report.failed, report.failures[0].index) == (6, 1, 3)
            assert isinstance(report.failures[0].error, TimeoutError)
            driver.hook = lambda step: None
            assert witness.count() == 10
            await witness.whole()

    async def test_the_first_error_is_that_of_the_report(self, path: Path) -> None:
        async def ends_it(tx: Transaction) -> None:
            await tx.execute(ADD_OR_ROLLBACK(name="first"))

        async with items(path, "first") as db:
            operations = [ends_it, swallows_awaited("a"), half_awaited("b")]
            report = await db.run_batch(operations, on_error="continue")
            kinds = [IntegrityError, TransactionAbortedError, KeyError]
            assert [type(failure.error) for failure in report.failures] == kinds
            assert report.failures[2].name == "half_awaited.<locals>.half_way"

    async def test_a_failure_of_a_run_that_was_undone_does_not_count(self, path: Path) -> None:
        runs = count()

        def fails_once(cx: Session) -> int:
            if (run := next(runs)) == 0:
                raise KeyError
            return run

        async with items(path) as db:
            # That the second one has to be awaited is known when it has been called.
            operations = [fails_once, given_a_coroutine(add_thrice)("a")]
            report = await db.run_batch(operations, on_error="continue")
            assert (report.failed, report.results) == (0, (1, "a"))

    async def test_cancelled_inside_one(self, path: Path) -> None:
        inside = asyncio.Event()

        async def wait(tx: Transaction) -> None:
            await tx.execute(ADD(name="waits"))
            inside.set()
            await asyncio.Event().wait()

        async with items(path) as db, Witness(db) as witness:
            batch = db.run_batch([*good(3), wait], batch_size=2, on_error="continue")
            task = asyncio.create_task(batch)
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert "committed 2 operations" in caught.value.__notes__[0]
            assert witness.count() == 2
            await witness.whole()

    @pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR"])
    async def test_beside_a_disk_that_fails_at_the_commit(self, path: Path, name: str) -> None:
        driver = Driver()
        commits = iter([False, True])

        def hook(step: str) -> None:
            if step == "COMMIT" and next(commits, False):
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
                raise error

        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            driver.hook = hook
            operations = [add_thrice(str(n)) for n in range(6)]
            report = await db.run_batch(operations, batch_size=2, on_error="continue")
            assert (report.done, report.failed, report.transactions) == (4, 2, 2)
            assert {failure.index for failure in report.failures} == {2, 3}
            assert report.results == ("0", "1", None, None, "4", "5")
            assert witness.count() == 12
            await witness.whole()

    async def test_plain_operations_between_two_share_a_hop(self, path: Path) -> None:
        driver, steps = Driver(), list[str]()

        async def nothing(tx: Transaction) -> None: ...

        async with items(path, connect=driver.connect) as db:
            driver.hook = steps.append
            await db.run_batch([*good(20), nothing, *good(20, 20)])
            driver.hook = lambda step: None
        # BEGIN, twenty, twenty, COMMIT; what the lane does behind them, for itself, is one more.
        assert steps.count("begin") <= 5


class TestTheMode:
    """``"exclusive"``: nobody else reads while a transaction writes, where there is no log."""

    @pytest.mark.parametrize(
        ("mode", "begin"), [("immediate", "IMMEDIATE"), ("exclusive", "EXCLUSIVE")]
    )
    @pytest.mark.parametrize("awaited", [False, True])
    async def test_is_that_of_every_transaction(
        self, path: Path, mode: Any, begin: str, awaited: bool
    ) -> None:
        driver, steps = Driver(), list[str]()
        async with items(path, connect=driver.connect) as db:
            driver.hook = steps.append
            operations = [add_thrice("a"), add_thrice("b")] if awaited else good(2)
            report = await db.run_batch(operations, batch_size=1, mode=mode)
            driver.hook = lambda step: None
            assert report.done == 2
        begun = [step for step in steps if step.startswith("BEGIN") and step != "BEGIN DEFERRED"]
        assert begun == [f"BEGIN {begin}"] * 2

    async def test_another_process_can_not_read_meanwhile(self, path: Path) -> None:
        raw = sqlite3.connect(path, isolation_level=None, timeout=0)

        async def look(tx: Transaction) -> bool:
            await tx.execute(ADD(name="a"))
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                raw.execute("SELECT count(*) FROM items").fetchone()
            return True

        async with items(path, journal_mode="delete") as db:
            report = await db.run_batch([look], mode="exclusive")
            assert report.results == (True,)
        raw.close()


class TestTheLog:
    """A batch with failures is logged under its label: a caller may drop the report."""

    async def test_names_the_batch_and_its_first_failure(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with items(path, "first") as db:
            operations = [*good(2), ADD(name="first"), half("x")]
            await db.run_batch(operations, on_error="continue", label="nightly import")
            await db.run_batch(good(2, 2), label="one that goes well")
        [record] = caplog.records
        assert record.getMessage() == (
            "abt_db: batch 'nightly import': 2 of 4 operations failed, the first of them number 2,"
            " items.add: query 'items.add': UNIQUE constraint failed: items.name"
            " [SQLITE_CONSTRAINT_UNIQUE]"
        )
        assert record.levelname == "WARNING"

    async def test_has_no_value(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """invariant 27: what a caller's own error says may be one."""
        async with items(path) as db:
            await db.run_batch([half("secret")])
        assert "half.<locals>.half_way: KeyError" in caplog.text
        assert "secret" not in caplog.text

    async def test_has_the_failures_of_a_batch_that_raises_as_well(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def generate() -> Iterator[Operation]:
            yield half("x")
            raise KeyError

        async with items(path) as db:
            with pytest.raises(KeyError):
                await db.run_batch(generate(), batch_size=1, on_error="continue", label="b")
        assert "batch 'b': 1 of 1 operations failed" in caplog.text

    async def test_the_label_names_the_batch_to_those_who_wait(self, path: Path) -> None:
        async with items(path, acquire_timeout=0.05) as db:
            inside, leave = asyncio.Event(), asyncio.Event()

            async def wait(tx: Transaction) -> None:
                inside.set()
                await leave.wait()

            batch = asyncio.create_task(db.run_batch([wait], label="nightly import"))
            await inside.wait()
            with pytest.raises(PoolTimeoutError, match="batch 'nightly import'"):
                await db.execute(ADD(name="a"))
            leave.set()
            await batch


class TestStop:
    """ "stop": what was before the failing one is committed, what is behind it is not run."""

    async def test_it_keeps_what_was_before(self, path: Path) -> None:
        async with items(path, "first") as db, Witness(db) as witness:
            before, behind = good(7), good(8, 7)
            source = iter([*before, ADD(name="first"), *behind])
            report = await db.run_batch(source, batch_size=5)
            assert (report.done, report.failed, report.tried) == (7, 1, 8)
            assert report.failures[0].index == 7
            assert [*report.not_tried, *source] == behind
            assert witness.count() == 8
            await witness.whole()

    async def test_at_the_end_of_a_transaction(self, path: Path) -> None:
        async with items(path, "first") as db:
            behind = good(3, 2)
            source = iter([*good(2), ADD(name="first"), *behind])
            report = await db.run_batch(source, batch_size=3)
            assert (report.done, report.not_tried) == (2, ())
            assert [*source] == behind


class TestTheTransaction:
    """One that can't be begun, or not be committed, fails all its operations and no others."""

    @pytest.mark.parametrize("on_error", ["stop", "continue"])
    async def test_a_commit_that_fails(self, path: Path, on_error: Any) -> None:
        """faults 22, 26"""
        async with items(path) as db, Witness(db) as witness:
            await db.execute(CHILDREN())
            operations = [*good(3), *good(1, 3), ADD_CHILD(parent=99), *good(1, 4), *good(3, 5)]
            report = await db.run_batch(operations, batch_size=3, on_error=on_error)
            stopped = on_error == "stop"
            assert (report.done, report.failed) == (3 if stopped else 6, 3)
            assert [failure.index for failure in report.failures] == [3, 4, 5]
            assert {type(failure.error) for failure in report.failures} == {IntegrityError}
            assert witness.count() == report.done
            await witness.whole()

    async def test_a_full_database(self, path: Path) -> None:
        """faults 22, 49: an operation is too much for `max_page_count`."""
        async with items(path) as db, Witness(db) as witness:
            await on_writer(db, lambda session: session.control("PRAGMA max_page_count = 100"))
            report = await db.run_batch(
                [*good(3), ADD(name="x" * 1_000_000), *good(3, 3)], on_error="continue"
            )
            assert (report.done, report.failed) == (6, 1)
            assert report.failures[0].index == 3
            assert isinstance(report.failures[0].error, FullError)
            await witness.whole()
            assert witness.count() == 6

    @pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR"])
    async def test_a_disk_that_fails_at_the_commit(self, path: Path, name: str) -> None:
        """faults 22, 50"""
        driver = Driver()
        commits = iter([False, True])

        def hook(step: str) -> None:
            if step == "COMMIT" and next(commits, False):
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
                raise error

        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            driver.hook = hook
            report = await db.run_batch(good(12), batch_size=4, on_error="continue")
            assert (report.done, report.failed, report.transactions) == (8, 4, 2)
            assert {failure.index for failure in report.failures} == {4, 5, 6, 7}
            assert witness.count() == 8
            await witness.whole()

    async def test_one_that_can_not_begin(self, path: Path) -> None:
        async with items(path, busy_timeout=0.05) as db, Witness(db) as witness:
            with LockingProcess(path):
                report = await db.run_batch(good(4), batch_size=3)
            assert (report.done, report.failed, len(report.not_tried)) == (0, 3, 0)
            assert {type(failure.error) for failure in report.failures} == {BusyError}
            await witness.whole()

    async def test_a_time_limit_hits_who_needs_more(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            driver.hook = passing(clock, 10, ADD_ENDLESSLY)
            report = await db.run_batch(
                [*good(2), ADD_ENDLESSLY(), *good(2, 2)], on_error="continue", timeout=10
            )
            assert (report.done, report.failed) == (4, 1)
            assert isinstance(report.failures[0].error, StatementTimeoutError)
            await witness.whole()

    async def test_others_have_their_turn_between_two(self, path: Path) -> None:
        async with items(path, "first") as db:
            order: list[str] = []

            async def other() -> None:
                await db.execute(TOUCH(id=1))
                order.append("other")

            tasks = [asyncio.create_task(other())]
            await db.run_batch(
                good(40), batch_size=10, progress=lambda report: order.append(str(report.done))
            )
            await asyncio.gather(*tasks)
            assert order.index("other") <= 1
            assert [each for each in order if each != "other"] == ["10", "20", "30", "40"]


class TestTheSource:
    """Any iterable, or an asynchronous one: read as it is needed, in bounded memory."""

    async def test_an_asynchronous_one(self, path: Path) -> None:
        async def generate() -> AsyncIterator[Operation]:
            for operation in good(7):
                await asyncio.sleep(0)
                yield operation

        async with items(path) as db:
            report = await db.run_batch(generate(), batch_size=3)
            assert (report.done, report.transactions) == (7, 3)
            assert (await db.run_batch([])) == BatchReport()

    async def test_it_is_read_as_it_is_needed(self, path: Path) -> None:
        taken = 0

        def generate() -> Iterator[Operation]:
            nonlocal taken
            while True:
                taken += 1
                yield ADD(name="first" if taken == 12 else str(taken))

        async with items(path, "first") as db:
            report = await db.run_batch(generate(), batch_size=5)
            assert (report.done, taken) == (11, 15)

    async def test_its_error_is_raised_with_the_counts(self, path: Path) -> None:
        def generate() -> Iterator[Operation]:
            yield from good(7)
            raise KeyError

        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(KeyError) as caught:
                await db.run_batch(generate(), batch_size=5)
            [note] = caught.value.__notes__
            assert "committed 5 operations and 0 had failed" in note
            assert witness.count() == 5
            await witness.whole()

    async def test_twenty_thousand_failures_take_the_memory_of_a_few(self, path: Path) -> None:
        big = ["x" * 1_000]

        def fail(cx: Session) -> None:
            local = big * 1_000 + [str(cx)]  # what the traceback would keep alive
            raise KeyError(len(local))

        async with items(path) as db:
            await db.run_batch([fail] * 10, on_error="continue")
            tracemalloc.start()
            try:
                report = await db.run_batch((fail for _ in range(5_000)), on_error="continue")
                gc.collect()
                memory, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert (report.failed, len(report.failures)) == (5_000, 1_000)
            assert memory < 3_000_000  # bytes
            assert report.failures[999].index == 999


class TestItsEnd:
    """Cancelled or refused, it leaves what was committed, and its caller knows what that is."""

    async def test_cancelled(self, path: Path) -> None:
        driver = Driver()
        reports: list[BatchReport] = []
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)

            def progress(report: BatchReport) -> None:
                reports.append(report)
                if report.done == 10:
                    gate.stop_at("INSERT")

            task = asyncio.create_task(db.run_batch(good(50), batch_size=5, progress=progress))
            await gate.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            gate.open()
            await until(lambda: not db.stats()["writer"]["busy"])
            assert witness.count() == reports[-1].done == 10
            assert "committed 10 operations" in caught.value.__notes__[0]
            await witness.whole()

    async def test_closed(self, path: Path) -> None:
        db = Database(path)
        async with items(path):
            await db.open()
            closing: list[asyncio.Task[None]] = []

            def close(report: BatchReport) -> None:
                closing.append(asyncio.create_task(db.close()))

            with pytest.raises(PoolClosedError):
                async with asyncio.timeout(SOON):
                    await db.run_batch((ADD(name=str(n)) for n in range(10**9)), progress=close)
            await asyncio.gather(*closing)

    async def test_read_only(self, path: Path) -> None:
        async with items(path), Database(path, read_only=True) as follower:
            with pytest.raises(ReadOnlyError):
                await follower.run_batch(good(3), on_error="continue")

    async def test_the_arguments_are_checked(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(ValueError, match="batch_size"):
                await db.run_batch([], batch_size=0)
            wrong: Any = "ignore"
            with pytest.raises(ValueError, match="on_error"):
                await db.run_batch([], on_error=wrong)
            with pytest.raises(ValueError, match="mode"):
                await db.run_batch([], mode=wrong)
