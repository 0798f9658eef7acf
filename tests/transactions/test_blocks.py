"""What belongs to one transaction can never act in another (invariant 32, fault 81): blocks,
cursors, generators, sessions and handles that are kept beyond it, wherever Python collects them."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, NAMES, Driver, Witness, items, on_writer

from abt_db import (
    AbtDbError,
    Database,
    IntegrityError,
    Query,
    Session,
    TransactionAbortedError,
    TransactionStateError,
)
from abt_db.connection.session import Block
from abt_db.connection.transaction import EngineSession

DELETE = Query("items.delete_all", "DELETE FROM items")

Keeper = list[Any]
"""What keeps alive what a function should have let go of: a cycle, until it is collected."""


def in_block(cx: Session, name: str) -> Iterator[None]:
    """Holds a block open for as long as it is suspended."""
    with cx.atomic():
        cx.execute(ADD(name=name))
        yield


def at_its_end(cx: Session) -> Iterator[None]:
    """Writes when it is closed."""
    try:
        yield
    finally:
        cx.execute(DELETE())


def begun(generator: Iterator[None]) -> Iterator[None]:
    next(generator)
    return generator


def quietly(function: Callable[[], object]) -> Callable[[], BaseException | None]:
    """As `function`, but what it raises is returned: as the garbage collector ignores it."""

    def call() -> BaseException | None:
        try:
            function()
        except BaseException as error:
            return error
        return None

    return call


class TestOfAnotherTransaction:
    """A block, a generator, a session of a function that has returned touches nothing."""

    @pytest.mark.parametrize("after", ["close", "throw", "next"])
    async def test_a_forgotten_block_ends_in_the_middle_of_another(
        self, path: Path, after: str
    ) -> None:
        async with items(path) as db, Witness(db) as witness:
            kept = await db.write(lambda cx: begun(in_block(cx, "1")))
            end = {
                "close": kept.close,  # type: ignore[attr-defined]
                "throw": lambda: kept.throw(KeyError),  # type: ignore[attr-defined]
                "next": lambda: next(kept),
            }[after]

            def refused(cx: Session) -> None:
                cx.execute(ADD(name="100"))
                with suppress(KeyError), cx.atomic():
                    cx.execute(ADD(name="101"))
                    quietly(end)()
                    cx.execute(ADD(name="102"))
                cx.execute(ADD(name="103"))
                assert cx.fetch_all(NAMES()) == ["1", "100", "101", "102", "103"]
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await db.write(refused)
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["1"]

    async def test_the_collector_ends_it_there(self, path: Path) -> None:
        """As it happens: a cycle that is found by a collection on the writer's thread."""

        class Cycle:
            def __init__(self, generator: Iterator[None]) -> None:
                self.me = self
                self.generator = generator

        def forget(cx: Session) -> None:
            Cycle(begun(in_block(cx, "1")))

        def refused(cx: Session) -> None:
            cx.execute(ADD(name="101"))
            with cx.atomic():
                gc.collect()
                cx.execute(ADD(name="102"))
            raise ZeroDivisionError

        async with items(path) as db, Witness(db) as witness:
            gc.collect()
            gc.disable()
            try:
                await db.write(forget)
                with pytest.raises(ZeroDivisionError):
                    await db.write(refused)
            finally:
                gc.enable()
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["1"]

    async def test_a_block_that_ends_well_later_says_so(self, path: Path) -> None:
        async with items(path) as db:
            kept = await db.write(lambda cx: begun(in_block(cx, "1")))
            with pytest.raises(TransactionStateError, match="inside that function only"):
                await db.write(lambda cx: next(kept))

    @pytest.mark.parametrize(
        "use",
        [
            lambda cx: cx.execute(DELETE()),
            lambda cx: cx.execute_batch([DELETE()]),
            lambda cx: cx.execute_many(ADD, [{"name": "late"}]),
            lambda cx: cx.fetch_one(COUNT()),
            lambda cx: cx.fetch_all(NAMES()),
            lambda cx: list(cx.stream(NAMES())),
            lambda cx: cx.atomic().__enter__(),
        ],
        ids=["execute", "batch", "many", "one", "all", "stream", "atomic"],
    )
    async def test_a_kept_session_serves_no_other_function(
        self, path: Path, use: Callable[[Session], object]
    ) -> None:
        """Not even on its own connection, on the same thread."""
        async with items(path, "a", readers=1) as db:
            for run in db.write, db.read:
                kept = await run(lambda cx: cx)
                with pytest.raises(TransactionStateError, match="inside that function only"):
                    await run(lambda cx: use(kept))  # noqa: B023
            async with db.transaction() as tx:
                for run in tx.write, tx.read:
                    kept = await run(lambda cx: cx)
                    with pytest.raises(TransactionStateError, match="inside that function only"):
                        await run(lambda cx: use(kept))  # noqa: B023
            await db.run_batch([keep := Keep()])
            report = await db.run_batch([lambda cx: use(keep.session)], on_error="continue")
            assert [type(failure.error) for failure in report.failures] == [TransactionStateError]
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_a_generator_that_writes_when_it_is_closed(self, path: Path) -> None:
        async with items(path, "a") as db:
            kept = await db.write(lambda cx: begun(at_its_end(cx)))
            close = quietly(kept.close)  # type: ignore[attr-defined]
            assert isinstance(await db.write(lambda cx: close()), TransactionStateError)
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_rows_of_an_earlier_view_are_not_read_on_in_a_later_one(self, path: Path) -> None:
        async with items(path, *"abcdef", readers=1) as db:
            rows = await db.read(lambda cx: begun(cx.stream(NAMES(), size=2)))  # type: ignore[arg-type]

            def rest(_cx: Session) -> list[Any]:
                return list(rows)

            with pytest.raises(TransactionStateError):
                await db.read(rest)

    @pytest.mark.parametrize("end", [EngineSession.commit, EngineSession.rollback])
    @pytest.mark.parametrize("undo", [True, False])
    async def test_a_block_knows_when_its_transaction_is_over(
        self, path: Path, end: Callable[[EngineSession], None], undo: bool
    ) -> None:
        """Whoever kept it: another one of the same depth is open by then."""

        def function(session: EngineSession) -> int | None:
            kept = Block()
            session.begin("IMMEDIATE")
            session.open_block(kept)
            end(session)
            session.begin("IMMEDIATE")
            session.execute(ADD(name="1"))
            with session.atomic():
                session.execute(ADD(name="2"))
                with pytest.raises(TransactionStateError, match="has ended"):
                    session.close_block(kept, undo=undo)
                found = session.fetch_one(COUNT())
            session.commit()
            return found

        async with items(path) as db:
            assert await on_writer(db, function) == 2
            assert await db.fetch_one(COUNT()) == 2

    async def test_a_session_can_not_do_what_only_the_library_may(self, path: Path) -> None:
        async with items(path) as db:
            for name in "control", "commit", "rollback", "begin", "run_sql", "abort":
                assert not await db.write(lambda cx: hasattr(cx, name))  # noqa: B023


class Keep:
    """An operation of `run_batch` that keeps its session."""

    session: Session

    def __call__(self, cx: Session) -> None:
        self.session = cx


class TestInAnotherThread:
    """The collector runs in whatever thread needs memory, also while the function is at work."""

    async def test_it_touches_nothing_there(self, path: Path) -> None:
        """Neither the transaction that is open by then, nor the privilege of its statements."""
        async with items(path) as db:
            kept = await db.write(lambda cx: begun(in_block(cx, "1")))
            close = quietly(kept.close)  # type: ignore[attr-defined]
            async with db.transaction() as tx:
                await tx.execute(ADD(name="2"))
                close()
                await tx.execute(ADD(name="3"))
            assert await db.fetch_all(NAMES()) == ["1", "2", "3"]

    @pytest.mark.parametrize("around", [False, True])
    async def test_work_that_could_not_be_undone_is_not_committed(
        self, path: Path, around: bool
    ) -> None:
        """An error has left the block, so its work must not stay, and only the connection's own
        thread could have undone it."""

        def function(cx: Session) -> None:
            if around:
                with cx.atomic():
                    leave(cx)
            else:
                leave(cx)

        def leave(cx: Session) -> None:
            kept = begun(in_block(cx, "1"))
            elsewhere = threading.Thread(target=quietly(kept.close))  # type: ignore[attr-defined]
            elsewhere.start()
            elsewhere.join()
            cx.execute(ADD(name="2"))

        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(TransactionStateError, match="in another thread"):
                await db.write(function)
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    with pytest.raises(TransactionStateError):
                        await tx.write(function)
                    await tx.execute(ADD(name="3"))
            await witness.whole()
            assert witness.count() == 0


class TestOutOfOrder:
    """Blocks that are not left in the order of their nesting: what was to be undone is not
    committed, what was undone is not taken for done."""

    async def run(self, db: Database, function: Callable[[Session], object]) -> list[str]:
        await db.write(function)
        return await db.fetch_all(NAMES())

    async def test_a_block_left_open_belongs_to_the_one_around_it(self, path: Path) -> None:
        keeper: Keeper = []

        def kept(cx: Session) -> None:
            with cx.atomic():
                keeper.append(begun(in_block(cx, "1")))
            cx.execute(ADD(name="2"))

        def undone(cx: Session) -> None:
            with suppress(KeyError), cx.atomic():
                keeper.append(begun(in_block(cx, "3")))
                raise KeyError
            cx.execute(ADD(name="4"))

        async with items(path) as db:
            assert await self.run(db, kept) == ["1", "2"]
            assert await self.run(db, undone) == ["1", "2", "4"]

    async def test_one_that_fails_behind_the_one_around_it_spoils_the_transaction(
        self, path: Path
    ) -> None:
        """Its work is part of what has ended well, and can't be undone alone."""
        keeper: Keeper = []

        def function(cx: Session) -> None:
            with cx.atomic():
                keeper.append(begun(in_block(cx, "1")))
            with suppress(KeyError):
                keeper.pop().throw(KeyError)
            cx.execute(ADD(name="2"))

        def at_the_end(cx: Session) -> None:
            with cx.atomic():
                keeper.append(begun(in_block(cx, "1")))
            keeper.pop().close()

        async with items(path) as db, Witness(db) as witness:
            for spoilt in function, at_the_end:
                with pytest.raises(TransactionAbortedError, match="could not be undone alone"):
                    await db.write(spoilt)
            await witness.whole()
            assert witness.count() == 0

    async def test_one_whose_work_is_gone_with_the_one_around_it_does_not_end_well(
        self, path: Path
    ) -> None:
        keeper: Keeper = []

        def function(cx: Session) -> None:
            with suppress(KeyError), cx.atomic():
                keeper.append(begun(in_block(cx, "1")))
                raise KeyError
            next(keeper.pop())

        async with items(path) as db:
            with pytest.raises(TransactionStateError, match="was undone"):
                await db.write(function)
            assert await db.fetch_all(NAMES()) == []

    async def test_a_failed_undoing_is_followed_by_nothing(self, path: Path) -> None:
        """What ran behind it would be committed one by one, in no transaction at all."""

        driver = Driver()
        async with items(path, connect=driver.connect) as db:

            def refuse(step: str) -> None:
                if step.startswith("ROLLBACK TO"):
                    raise sqlite3.OperationalError("disk I/O error")

            def block(cx: Session) -> None:
                with suppress(KeyError), cx.atomic():
                    cx.execute(ADD(name="1"))
                    raise KeyError
                with suppress(AbtDbError):
                    cx.execute(ADD(name="2"))

            driver.hook = refuse
            with pytest.raises(TransactionAbortedError, match="could not be undone alone"):
                await db.write(block)
            driver.hook = lambda step: None
            assert await db.fetch_all(NAMES()) == []


class TestSavepoints:
    """The same of `tx.savepoint()`, whose steps are taken later."""

    async def entered(self, handle: Any) -> Any:
        savepoint = handle.savepoint()
        await savepoint.__aenter__()
        return savepoint

    async def test_left_in_a_later_transaction_it_touches_nothing(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                savepoint = await self.entered(tx)
                await savepoint.execute(ADD(name="1"))
            async with db.transaction() as later:
                async with later.savepoint() as inner:
                    await inner.execute(ADD(name="2"))
                    await savepoint.__aexit__(KeyError, KeyError(), None)
                    await inner.execute(ADD(name="3"))
                for dead in savepoint, tx:
                    with pytest.raises(TransactionStateError, match="has ended"):
                        await dead.execute(ADD(name="4"))
                    with pytest.raises(TransactionStateError):
                        await dead.savepoint().__aenter__()
            assert await db.fetch_all(NAMES()) == ["1", "2", "3"]

    async def test_an_inner_one_is_dead_when_the_one_around_it_has_ended(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                outer = await self.entered(tx)
                inner = await self.entered(outer)
                await inner.execute(ADD(name="1"))
                await outer.__aexit__(None, None, None)
                with pytest.raises(TransactionStateError, match="has ended"):
                    await inner.execute(ADD(name="2"))
                await inner.__aexit__(None, None, None)
                await tx.execute(ADD(name="3"))
            assert await db.fetch_all(NAMES()) == ["1", "3"]

    async def test_an_inner_one_that_fails_later_spoils_the_transaction(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(TransactionAbortedError, match=r"'deploy'.* undone alone"):
                async with db.transaction(label="deploy") as tx:
                    outer = await self.entered(tx)
                    inner = await self.entered(outer)
                    await inner.execute(ADD(name="1"))
                    await outer.__aexit__(None, None, None)
                    await inner.__aexit__(KeyError, KeyError(), None)
            await witness.whole()
            assert witness.count() == 0

    async def test_an_inner_one_that_is_gone_does_not_end_well(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                outer = await self.entered(tx)
                inner = await self.entered(outer)
                await inner.execute(ADD(name="1"))
                await outer.__aexit__(KeyError, KeyError(), None)
                await tx.execute(ADD(name="2"))
                with pytest.raises(TransactionStateError, match="was undone"):
                    await inner.__aexit__(None, None, None)
            assert await db.fetch_all(NAMES()) == ["2"]

    async def test_blocks_of_functions_and_savepoints_are_nested(self, path: Path) -> None:
        def function(cx: Session) -> None:
            cx.execute(ADD(name="function"))
            with suppress(IntegrityError), cx.atomic():
                cx.execute(ADD(name="undone"))
                cx.execute(ADD(name="function"))

        async with items(path) as db:
            async with db.transaction() as tx, tx.savepoint() as outer:
                with suppress(KeyError):
                    async with outer.savepoint() as inner:
                        await inner.execute(ADD(name="gone"))
                        raise KeyError
                async with outer.savepoint() as inner:
                    await inner.write(function)
            assert await db.fetch_all(NAMES()) == ["function"]

    async def test_a_stream_kept_beyond_its_transaction_reads_nothing(self, path: Path) -> None:
        async with items(path, *"abc", readers=1) as db:
            async with db.transaction() as tx:
                stream = tx.stream(NAMES(), size=1)
                await stream.__aenter__()
            async with db.snapshot() as view:
                snapped = view.stream(NAMES(), size=1)
                await snapped.__aenter__()
            async with db.transaction(), db.snapshot():
                for rows in stream, snapped:
                    iterator = aiter(rows)
                    with suppress(StopAsyncIteration):
                        await anext(iterator)  # what it had read by then
                    with pytest.raises(TransactionStateError, match="has ended"):
                        await anext(iterator)
                    await rows.__aexit__(None, None, None)

    async def test_a_job_of_a_transaction_that_has_ended_never_runs_in_the_next(
        self, path: Path
    ) -> None:
        """Handed to the thread and not begun when the block is left."""
        async with items(path) as db:
            hold, go_on = threading.Event(), threading.Event()

            def slow(cx: Session) -> None:
                hold.set()
                go_on.wait(5)

            with suppress(KeyError):
                async with db.transaction() as tx:
                    running = asyncio.create_task(tx.write(slow))
                    queued = asyncio.create_task(tx.execute(ADD(name="late")))
                    await asyncio.to_thread(hold.wait)
                    raise KeyError
            next_one = asyncio.create_task(db.execute(ADD(name="next")))
            go_on.set()
            await running  # it had begun, and asked for nothing any more
            with pytest.raises(TransactionStateError, match="has ended"):
                await queued
            await next_one
            assert await db.fetch_all(NAMES()) == ["next"]
