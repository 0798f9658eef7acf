"""`run_batch`: each operation is done or has failed by itself, and the report says which."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from engine import (
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abt_db import (
    BatchReport,
    BusyError,
    Database,
    FullError,
    IntegrityError,
    PoolClosedError,
    Query,
    QueryError,
    ReadOnlyError,
    Session,
    StatementTimeoutError,
    TransactionAbortedError,
)
from abt_db.bulk import Operation

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


KINDS: dict[str, tuple[Any, list[str] | None]] = {
    "a statement": (lambda name: ADD(name=name), ["{}"]),
    "a function": (add_twice, ["{}", "{} again"]),
    "one that is there": (lambda name: ADD(name="first"), None),
    "half a function": (half, None),
    "OR FAIL": (lambda name: ADD_OR_FAIL(name=name), None),
    "OR ROLLBACK": (lambda name: ADD_OR_ROLLBACK(name="first"), None),
    "a swallowed OR ROLLBACK": (swallows, None),
    "a read": (lambda name: COUNT(), None),
}
"""Operations, and which names they add; None: they fail."""


def good(count: int, first: int = 0) -> list[Operation]:
    return [ADD(name=f"good {n}") for n in range(first, first + count)]


class TestEveryOperation:
    """faults 18, 20, 25: whoever shares its transaction, an operation is done or undone alone,
    and the innocent are in the database."""

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        kinds=st.lists(st.sampled_from([*KINDS, *["a statement"] * 6]), max_size=12),
        size=st.integers(1, 7),
        stops=st.booleans(),
    )
    def test_is_done_or_undone_alone(
        self, path: Path, kinds: list[str], size: int, stops: bool
    ) -> None:
        async def run() -> tuple[BatchReport, list[str]]:
            path.unlink(missing_ok=True)
            async with items(path, "first", readers=1) as db:
                operations = [KINDS[kind][0](f"n{n}") for n, kind in enumerate(kinds)]
                report = await db.run_batch(
                    iter(operations), batch_size=size, on_error="stop" if stops else "continue"
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
        async def coroutine(cx: Session) -> None: ...

        wrong: Any = [7, coroutine]
        async with items(path) as db:
            report = await db.run_batch([*wrong, *good(1)], on_error="continue")
            assert (report.done, report.failed) == (1, 2)
            assert {type(failure.error) for failure in report.failures} == {TypeError}


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
            await on_writer(db, lambda channel: channel.control("PRAGMA max_page_count = 100"))
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
