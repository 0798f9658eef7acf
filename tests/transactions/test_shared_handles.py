"""A handle is used by any task of its loop, one call after the other; its block is ended by the
task that has entered it (invariants 17, 18; faults 14, 16, 87)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    SOON,
    Driver,
    Gate,
    Witness,
    items,
    until,
)

from abt_db import (
    Database,
    IntegrityError,
    PoolTimeoutError,
    StatementTimeoutError,
    TransactionStateError,
)

KINDS = ["transaction", "savepoint", "snapshot"]


@asynccontextmanager
async def handle_of(db: Database, kind: str) -> AsyncIterator[Any]:
    """An open handle of a kind."""
    async with AsyncExitStack() as work:
        if kind == "savepoint":
            tx = await work.enter_async_context(db.transaction())
            yield await work.enter_async_context(tx.savepoint())
        else:
            yield await work.enter_async_context(getattr(db, kind)())


async def as_a_task(work: Awaitable[Any]) -> Any:
    """What `wait_for` does before Python 3.12."""
    return await asyncio.ensure_future(work)


async def limited(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, SOON)


async def shielded(work: Awaitable[Any]) -> Any:
    return await asyncio.shield(work)


async def in_a_group(work: Awaitable[Any]) -> Any:
    async def run() -> Any:
        return await work

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
    return task.result()


WAYS = [as_a_task, limited, shielded, in_a_group]


class TestAnyTask:
    """Whoever calls is served as the task that has entered the block."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("way", WAYS)
    async def test_every_read(
        self, path: Path, kind: str, way: Callable[[Awaitable[Any]], Awaitable[Any]]
    ) -> None:
        async with items(path, *"abc") as db, Witness(db) as witness:
            async with handle_of(db, kind) as handle:
                assert await way(handle.fetch_one(COUNT())) == 3
                assert await way(handle.fetch_all(NAMES())) == [*"abc"]
                assert await way(handle.read(lambda cx: cx.fetch_one(COUNT()))) == 3

                async def read_all(rows: Any) -> list[str]:
                    return [row async for row in rows]

                async with handle.stream(NAMES(), size=1) as rows:
                    assert await way(read_all(rows)) == [*"abc"]
            await witness.whole()

    @pytest.mark.parametrize("kind", ["transaction", "savepoint"])
    @pytest.mark.parametrize("way", WAYS)
    async def test_every_write(
        self, path: Path, kind: str, way: Callable[[Awaitable[Any]], Awaitable[Any]]
    ) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with handle_of(db, kind) as handle:
                await way(handle.execute(ADD(name="a")))
                await way(handle.execute_batch([ADD(name="b")]))
                await way(handle.execute_many(ADD, [{"name": "c"}]))
                await way(handle.write(lambda cx: cx.execute(ADD(name="d"))))

                async def nested() -> None:
                    async with handle.savepoint() as inner:
                        await inner.execute(ADD(name="e"))

                await way(nested())
            await witness.whole()
            assert await db.fetch_all(NAMES()) == [*"abcde"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_calls_that_come_at_once(self, path: Path, kind: str) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            async with handle_of(db, kind) as handle:
                reads = [handle.fetch_one(COUNT()) for _ in range(20)]
                assert await asyncio.gather(*reads) == [1] * 20
            await witness.whole()

    async def test_they_are_served_in_the_order_of_coming(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                await asyncio.gather(*(tx.execute(ADD(name=str(number))) for number in range(50)))
            assert await db.fetch_all(NAMES()) == [str(number) for number in range(50)]

    async def test_who_is_cancelled_while_it_waits_leaves_the_order_as_it_was(
        self, path: Path
    ) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            async with db.transaction() as tx:
                gate.stop_at("begin")
                calls = [asyncio.create_task(tx.execute(ADD(name=str(n)))) for n in range(6)]
                await gate.reached.wait()
                for gone in calls[1], calls[4]:
                    gone.cancel()
                await asyncio.wait([calls[1], calls[4]])
                late = asyncio.create_task(tx.execute(ADD(name="late")))
                await asyncio.sleep(0)
                gate.open()
                await asyncio.wait([*calls, late])
                assert [call.cancelled() for call in calls] == [n in (1, 4) for n in range(6)]
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["0", "2", "3", "5", "late"]

    async def test_a_running_call_that_is_cancelled_stops_and_the_next_one_runs(
        self, path: Path
    ) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            async with db.transaction() as tx:
                endless = asyncio.create_task(tx.fetch_one(ENDLESS()))
                waiting = asyncio.create_task(tx.execute(ADD(name="b")))
                await until(lambda: db.stats()["transactions"][0]["state"] == "running")
                endless.cancel()
                await waiting
                assert await tx.fetch_one(COUNT()) == 2
            assert endless.cancelled()
            await witness.whole()

    async def test_one_that_fails_hurts_no_other(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                names = ["a", "a", "b"]
                found = await asyncio.gather(
                    *(tx.execute(ADD(name=name)) for name in names), return_exceptions=True
                )
                assert [type(each).__name__ for each in found] == [
                    "Result",
                    "IntegrityError",
                    "Result",
                ]
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    async def test_a_time_limit_counts_while_it_waits(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with db.transaction() as tx:
                endless = asyncio.create_task(tx.fetch_one(ENDLESS()))
                await until(lambda: db.stats()["transactions"][0]["state"] == "running")
                with pytest.raises(StatementTimeoutError, match=r"items\.count.* behind endless"):
                    await tx.fetch_one(COUNT(), timeout=0.02)
                endless.cancel()
                assert await tx.fetch_one(COUNT(), timeout=SOON) == 0
            await witness.whole()

    async def test_a_stream_is_read_by_several_each_row_once(self, path: Path) -> None:
        async with items(path, *map(str, range(40))) as db, db.stream(NAMES(), size=3) as rows:

            async def some() -> list[str]:
                found = []
                async for row in rows:
                    found.append(row)
                    await asyncio.sleep(0)
                return found

            found = await asyncio.gather(*(some() for _ in range(4)))
            assert sorted(chain(*found)) == sorted(map(str, range(40)))
            assert all(found)

    @pytest.mark.parametrize("count", [1, 3, 40])
    async def test_several_that_break_off_leave_the_rest(self, path: Path, count: int) -> None:
        """What one has read and not handed out is there for the next."""
        async with (
            items(path, *map(str, range(count))) as db,
            db.stream(NAMES(), size=3) as rows,
        ):

            async def one() -> list[str]:
                async for row in rows:
                    return [row]
                return []

            found: list[str] = []
            while got := [*chain(*await asyncio.gather(*(one() for _ in range(4))))]:
                found += got
            assert found == [*map(str, range(count))]

    async def test_who_is_cancelled_as_it_waits_for_rows_loses_none(self, path: Path) -> None:
        driver = Driver()
        async with (
            items(path, *"abcdef", connect=driver.connect) as db,
            db.snapshot() as view,
            view.stream(NAMES(), size=2) as rows,
        ):
            gate = Gate(driver)
            iterator = aiter(rows)
            assert [await anext(iterator), await anext(iterator)] == ["a", "b"]
            gate.stop_at("begin")
            counting = asyncio.create_task(view.fetch_one(COUNT()))
            await gate.reached.wait()

            async def read() -> list[str]:
                return [row async for row in rows]

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            gate.open()
            assert await counting == 6
            assert await read() == ["c", "d", "e", "f"]

    async def test_two_tasks_that_enter_one_handle_have_one_connection(self, path: Path) -> None:
        async with items(path, readers=2) as db, Witness(db) as witness:
            view = db.snapshot()
            entering = [asyncio.create_task(view.__aenter__()) for _ in range(2)]
            await asyncio.wait(entering)
            assert [task.exception() is None for task in entering].count(True) == 1
            await until(lambda: db.stats()["readers"]["busy"] == 1)
            await view.__aexit__(None, None, None)
            await witness.whole()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_another_loop_is_refused(self, path: Path, kind: str) -> None:
        async with items(path, "a") as db, handle_of(db, kind) as handle:

            async def use() -> None:
                with pytest.raises(TransactionStateError, match="another event loop"):
                    await handle.fetch_one(COUNT())

            await asyncio.to_thread(asyncio.run, use())
            assert await handle.fetch_one(COUNT()) == 1


class TestTheEnd:
    """Who closes the block is who opened it; whoever else tries leaves no connection lent."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_no_call_comes_behind_it(self, path: Path, kind: str) -> None:
        """One that came behind the COMMIT would be a transaction of its own."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            tasks: list[asyncio.Task[Any]] = []

            async def use(handle: Any) -> None:
                verb = handle.execute(ADD(name="x")) if kind != "snapshot" else handle.read(len)
                with pytest.raises(TransactionStateError, match="has ended"):
                    await verb

            async def ended() -> None:
                async with db.transaction() as tx, AsyncExitStack() as inner:
                    handle: Any = tx
                    if kind == "savepoint":
                        handle = await inner.enter_async_context(tx.savepoint())
                    if kind == "snapshot":
                        handle = await inner.enter_async_context(db.snapshot())
                    await tx.execute(ADD(name="a"))
                    handles.append(handle)
                    gate.stop_at("begin")

            handles: list[Any] = []
            ending = asyncio.create_task(ended())
            await gate.reached.wait()
            tasks.append(asyncio.create_task(use(handles[0])))
            await asyncio.wait(tasks)
            gate.open()
            await ending
            for task in tasks:
                task.result()
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_calls_that_came_before_it_are_part_of_it(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                calls = [asyncio.create_task(tx.execute(ADD(name=str(n)))) for n in range(5)]
                await asyncio.sleep(0)
            await asyncio.gather(*calls)
            assert await db.fetch_all(NAMES()) == [str(n) for n in range(5)]

    @pytest.mark.parametrize("kind", [*KINDS, "stream"])
    async def test_elsewhere_it_is_refused_and_gives_the_connection_back(
        self, path: Path, kind: str
    ) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            async with AsyncExitStack() as work:
                if kind == "savepoint":
                    tx = await work.enter_async_context(db.transaction())
                    handle: Any = tx.savepoint()
                else:
                    handle = db.stream(NAMES()) if kind == "stream" else getattr(db, kind)()
                await handle.__aenter__()
                if kind in ("transaction", "savepoint"):
                    await handle.execute(ADD(name="undone"))
                with pytest.raises(TransactionStateError, match="alone can end it"):
                    await asyncio.create_task(handle.__aexit__(None, None, None))
                with pytest.raises(TransactionStateError):
                    await (anext(aiter(handle)) if kind == "stream" else handle.fetch_one(COUNT()))
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    @pytest.mark.parametrize("kind", [*KINDS, "stream"])
    async def test_a_fixture_is_finished_in_another_task_than_it_was_set_up_in(
        self, path: Path, kind: str
    ) -> None:
        """As pytest-asyncio and dependency injection do: each step of the generator in a task."""

        async def fixture(db: Database) -> AsyncIterator[Any]:
            if kind == "stream":
                async with db.stream(NAMES()) as rows:
                    yield rows
            else:
                async with handle_of(db, kind) as handle:
                    yield handle

        async with items(path, "a") as db, Witness(db) as witness:
            steps = fixture(db)
            handle = await asyncio.create_task(anext(steps))  # type: ignore[arg-type]
            if kind == "stream":
                assert [row async for row in handle] == ["a"]
            elif kind == "snapshot":
                assert await handle.fetch_one(COUNT()) == 1
            else:
                await handle.execute(ADD(name="b"))
            with pytest.raises(StopAsyncIteration):
                await asyncio.create_task(anext(steps))  # type: ignore[arg-type]
            await witness.whole()
            written = kind in ("transaction", "savepoint")
            assert await db.fetch_all(NAMES()) == (["a", "b"] if written else ["a"])

    @pytest.mark.parametrize("kind", [*KINDS, "stream"])
    async def test_an_error_elsewhere_gives_the_connection_back(
        self, path: Path, kind: str
    ) -> None:
        """A generator that is collected is closed in a task of the loop's."""

        async def generate(db: Database) -> AsyncIterator[Any]:
            if kind == "stream":
                async with db.stream(NAMES()) as rows:
                    yield rows
            else:
                async with handle_of(db, kind) as handle:
                    if kind != "snapshot":
                        await handle.execute(ADD(name="undone"))
                    yield handle

        async with items(path, "a") as db, Witness(db) as witness:
            async for _ in generate(db):
                break
            gc.collect()
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    @pytest.mark.parametrize("kind", ["transaction", "snapshot"])
    async def test_in_another_loop_it_gives_the_connection_back(
        self, path: Path, kind: str
    ) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            asyncio.get_running_loop().set_debug(True)  # who touches it from elsewhere is told
            handle = getattr(db, kind)()
            await asyncio.create_task(handle.__aenter__())
            raised: list[type[BaseException]] = []

            async def end() -> None:
                try:
                    await handle.__aexit__(None, None, None)
                except BaseException as error:
                    raised.append(type(error))

            elsewhere = threading.Thread(target=asyncio.run, args=(end(),))
            elsewhere.start()
            elsewhere.join()
            assert raised == ([TransactionStateError] if kind == "transaction" else [])
            await witness.whole()

    async def test_what_runs_elsewhere_when_it_fails_is_told(self, path: Path) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            for block in db.transaction, db.snapshot:
                with suppress(KeyError):
                    async with block() as handle:
                        endless = asyncio.create_task(handle.fetch_one(ENDLESS()))
                        waiting = asyncio.create_task(handle.fetch_one(COUNT()))
                        await until(lambda: db.stats()["transactions"][0]["state"] == "running")
                        raise KeyError
                for task in endless, waiting:
                    with pytest.raises(TransactionStateError, match="has ended"):
                        await task
            await witness.whole()


class TestWhoWaitsForWhom:
    """What can be proven to wait for ever is refused at once; the rest ends at its time limit,
    which names the holder (invariants 16, 17)."""

    async def test_a_write_beside_ones_own_transaction(self, path: Path) -> None:
        """fault 16: also while other tasks use the handle."""
        async with items(path) as db, db.transaction() as tx:
            others = [asyncio.create_task(tx.fetch_one(COUNT())) for _ in range(3)]
            with pytest.raises(TransactionStateError, match="would wait for ever"):
                await db.execute(ADD(name="a"))
            assert await asyncio.gather(*others) == [0] * 3

    async def test_a_task_that_the_holder_awaits_is_told_who_holds_the_writer(
        self, path: Path
    ) -> None:
        """Nobody can know what a task awaits."""
        async with items(path, acquire_timeout=0.05) as db:
            async with db.transaction(label="deploy") as tx:
                with pytest.raises(PoolTimeoutError, match="'deploy' of task"):
                    await asyncio.create_task(db.execute(ADD(name="a")))
                await tx.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["b"]

    async def test_a_holder_whose_task_is_done_can_still_let_go(self, path: Path) -> None:
        """A fixture's: it is no proof of anything that its task waits for nothing."""
        async with items(path, "a") as db:
            tx = db.transaction()
            await asyncio.create_task(tx.__aenter__())
            waiting = asyncio.create_task(db.execute(ADD(name="b")))
            await until(lambda: db.stats()["writer"]["waiting"])
            await tx.__aexit__(None, None, None)
            await waiting
            with pytest.raises(IntegrityError):
                await db.execute(ADD(name="b"))
