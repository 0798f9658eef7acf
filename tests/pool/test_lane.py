"""The queue and those who wait in it: order, time limits, bounds, deadlocks, broken slots."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, cast

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
    Gate,
    Holder,
    Witness,
    busy,
    items,
    lose_writer,
    run_script,
    until,
)
from support.suite import HANG, threads

from abt_db import (
    AbtDbError,
    Database,
    PoolClosedError,
    PoolSaturatedError,
    PoolTimeoutError,
    TransactionStateError,
)
from abt_db.pool.loan import Work
from abt_db.pool.queue import AGEING, Queue


@dataclass(eq=False)
class Waiting:
    """As much of a call as a queue looks at."""

    priority: int
    since: float
    shares: bool = False
    queued: bool = False
    at: float | None = None

    def urgency(self, now: float) -> float:
        return self.priority + (now - self.since) / AGEING


@st.composite
def arrivals(draw: st.DrawFn) -> list[Waiting]:
    steps = draw(st.lists(st.tuples(st.integers(-5, 5), st.floats(0, 3)), max_size=30))
    now, waiting = 0.0, []
    for priority, step in steps:
        now += step
        waiting.append(Waiting(priority, now))
    return waiting


def queued(waiting: list[Waiting]) -> Queue:
    queue = Queue()
    for work in waiting:
        queue.add(cast(Work, work))
    return queue


class TestQueue:
    """The most urgent is served first, those of one priority in the order of their coming, and a
    low priority is only a longer wait, never an endless one (invariant 14)."""

    @given(arrivals(), st.floats(0, 10))
    def test_nobody_is_served_before_a_more_urgent_one(
        self, waiting: list[Waiting], later: float
    ) -> None:
        queue, left = queued(waiting), list(waiting)
        now = later + max((work.since for work in waiting), default=0.0)
        while found := cast(Any, queue.take(now)):
            [taken] = found
            assert taken.urgency(now) == max(work.urgency(now) for work in left)
            same = [work for work in left if work.priority == taken.priority]
            assert taken is same[0]
            left.remove(taken)
            assert queue.live == len(left)
        assert not left

    @given(arrivals(), st.randoms(use_true_random=False))
    def test_who_leaves_is_not_served_and_leaves_once(
        self, waiting: list[Waiting], random: Any
    ) -> None:
        queue = queued(waiting)
        left = [work for work in waiting if random.random() < 0.5]
        for work in waiting:
            if work not in left:
                assert queue.discard(cast(Work, work))
                assert not queue.discard(cast(Work, work))
        assert queue.live == len(left)
        taken = [work for _ in left for work in queue.take(0.0)]
        assert {id(work) for work in taken} == {id(work) for work in left}
        assert not queue.take(0.0)

    @given(arrivals(), st.floats(0, 10), st.floats(0.1, 10), st.randoms(use_true_random=False))
    def test_who_is_late_has_waited_long_enough_and_the_others_not_yet(
        self, waiting: list[Waiting], later: float, patience: float, random: Any
    ) -> None:
        for work in waiting:
            if random.random() < 0.5:
                work.at = work.since + random.uniform(0, 10)
        now = later + max((work.since for work in waiting), default=0.0)
        ends = {
            id(work): min(work.since + patience, inf if work.at is None else work.at)
            for work in waiting
        }
        late, next_one = queued(waiting).late(now, patience)
        assert {id(work) for work in late} == {of for of, end in ends.items() if end <= now}
        left = [end - now for end in ends.values() if end > now]
        assert next_one == min(left, default=inf)

    def test_a_low_priority_has_its_turn_among_newcomers_of_a_high_one(self) -> None:
        low = Waiting(-3, since=0.0)
        queue = queued([low])
        for second in range(10):
            now = float(second)
            queue.add(cast(Work, Waiting(2, since=now)))
            if queue.take(now) == [cast(Work, low)]:
                break
        assert now == 5 * AGEING


async def record(order: list[str], name: str, call: Any) -> None:
    await call
    order.append(name)


class TestOrder:
    """First come, first served; priority goes before, where it is asked for."""

    async def test_waiting_calls_are_served_in_the_order_of_their_coming(self, path: Path) -> None:
        async with items(path, readers=1) as db, asyncio.TaskGroup() as group:
            served: list[str] = []
            async with Holder(db.transaction()):
                for number in range(20):
                    add = db.execute(ADD(name=str(number)))
                    group.create_task(record(served, str(number), add))
                await until(lambda: db.stats()["writer"]["waiting"] == 20)
            await until(lambda: len(served) == 20)
            assert served == await db.fetch_all(NAMES()) == list(map(str, range(20)))

    async def test_leases_and_calls_wait_in_one_line(self, path: Path) -> None:
        async def add_in_transaction(name: str) -> None:
            async with db.transaction() as tx:
                await tx.execute(ADD(name=name))

        async with items(path) as db, asyncio.TaskGroup() as group:
            async with Holder(db.transaction()):
                for number in range(0, 10, 2):
                    group.create_task(db.execute(ADD(name=str(number))))
                    group.create_task(add_in_transaction(str(number + 1)))
                await until(lambda: db.stats()["writer"]["waiting"] == 10)
            await until(lambda: db.stats()["writer"]["busy"] == 0)
            assert await db.fetch_all(NAMES()) == list(map(str, range(10)))

    async def test_a_higher_priority_is_served_first(self, path: Path) -> None:
        async with items(path, readers=1) as db, asyncio.TaskGroup() as group:
            served: list[str] = []
            async with Holder(db.snapshot()):
                for name, priority in [("low", -5), ("1", 0), ("high", 7), ("2", 0), ("high 2", 7)]:
                    snapshot = entered(db.snapshot(priority=priority))
                    group.create_task(record(served, name, snapshot))
                await until(lambda: db.stats()["readers"]["waiting"] == 5)
            await until(lambda: len(served) == 5)
            assert served == ["high", "high 2", "1", "2", "low"]

    async def test_a_slow_read_holds_up_only_its_own_reader(self, path: Path) -> None:
        async with items(path, readers=2) as db:
            slow = asyncio.create_task(db.fetch_one(ENDLESS()))
            await until(lambda: db.stats()["readers"]["busy"] == 1)
            async with asyncio.timeout(SOON):
                for _ in range(20):
                    await db.fetch_one(COUNT())
            assert not slow.done()
            slow.cancel()
            await asyncio.wait([slow])


class TestLimits:
    """Waiting has an end and the queue a bound; the error says who holds what is waited for
    (invariant 16)."""

    async def test_the_error_names_label_task_and_age_of_the_holder(
        self, path: Path, clock: Clock
    ) -> None:
        async with items(path, acquire_timeout=15) as db, Witness(db) as witness:
            async with Holder(db.transaction(label="deploy"), name="deployer"):
                waiting = asyncio.create_task(db.execute(ADD(name="a")))
                await until(lambda: db.stats()["writer"]["waiting"])
                clock.passes(14)
                await asyncio.sleep(0.01)  # in which it would give up, were it time
                assert not waiting.done()
                clock.passes(1)
                with pytest.raises(PoolTimeoutError) as caught:
                    await waiting
            assert isinstance(caught.value, TimeoutError)
            message = str(caught.value)
            assert "items.add" in message and "'deploy'" in message and "'deployer'" in message
            ages = re.findall(r"(\d+\.\d) s", message)
            assert ages and all(15 <= float(age) < 15 + SOON for age in ages)
            await witness.whole()
            assert witness.count() == 0

    async def test_the_longest_holder_of_several_readers_is_named(self, path: Path) -> None:
        async with items(path, acquire_timeout=0.05) as db, AsyncExitStack() as work:
            for name in "first", "second":
                await work.enter_async_context(Holder(db.snapshot(label=name), name=name))
            with pytest.raises(PoolTimeoutError, match=r"snapshot 'first' of task 'first'"):
                await entered(db.snapshot())

    async def test_a_barrier_is_named(self, path: Path) -> None:
        async with items(path, acquire_timeout=0.05) as db:
            async with Holder(db.barrier(label="new schema")):
                with pytest.raises(PoolTimeoutError, match="barrier"):
                    await db.fetch_one(COUNT())
                with pytest.raises(PoolTimeoutError, match="new schema"):
                    await db.execute(ADD(name="a"))

    async def test_the_limit_of_a_call_counts_its_waiting(self, path: Path) -> None:
        async with items(path) as db, Holder(db.transaction()):
            began = monotonic()
            with pytest.raises(PoolTimeoutError):
                await db.execute(ADD(name="a"), timeout=0.05)
            assert 0.05 <= monotonic() - began < SOON

    async def test_nobody_waits_for_ever_while_a_lost_connection_is_opened_again(
        self, path: Path
    ) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect, acquire_timeout=0.05) as db:
            opening, go_on = asyncio.Event(), threading.Event()
            loop = asyncio.get_running_loop()

            def wait(step: str) -> None:
                if step == "ROLLBACK":
                    raise sqlite3.OperationalError("disk I/O error")
                if step.startswith("PRAGMA"):
                    loop.call_soon_threadsafe(opening.set)
                    go_on.wait(HANG)

            driver.hook = wait
            with suppress(ZeroDivisionError):
                async with db.transaction():
                    raise ZeroDivisionError
            waiting = asyncio.create_task(db.execute(ADD(name="a")))
            await opening.wait()
            done, _ = await asyncio.wait([waiting], timeout=SOON)
            go_on.set()
            await asyncio.wait([waiting])
            assert done, "the call waited beyond its limit"
            assert isinstance(waiting.exception(), PoolTimeoutError)

    async def test_a_full_queue_refuses_and_takes_nothing_in(self, path: Path) -> None:
        async with items(path, max_pending=3) as db, Witness(db) as witness:
            async with asyncio.TaskGroup() as group, Holder(db.transaction(label="deploy")):
                for number in range(3):
                    group.create_task(db.execute(ADD(name=str(number))))
                await until(lambda: db.stats()["writer"]["waiting"] == 3)
                with pytest.raises(PoolSaturatedError, match="deploy"):
                    await db.execute(ADD(name="one too many"))
                assert db.stats()["writer"]["waiting"] == 3
                async with asyncio.timeout(SOON):
                    await db.fetch_one(COUNT())  # the bound is of each kind of connection
            await witness.whole()
            assert witness.count() == 3


class TestDeadlocks:
    """What could only end at a time limit is refused at once (invariants 15, 17; fault 16)."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda db: db.execute(ADD(name="x")),
            lambda db: db.write(lambda cx: None),
            lambda db: entered(db.transaction()),
            lambda db: entered(db.barrier()),
        ],
        ids=["execute", "write", "transaction", "barrier"],
    )
    async def test_asking_for_the_writer_while_holding_it(
        self, path: Path, call: Callable[[Database], Any]
    ) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with asyncio.timeout(SOON), db.transaction(label="mine") as tx:
                with pytest.raises(TransactionStateError, match="'mine'"):
                    await call(db)
                await tx.execute(ADD(name="a"))
            await witness.whole()
            assert witness.count() == 1

    async def test_asking_for_one_reader_more_while_holding_all(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with asyncio.timeout(SOON), db.snapshot(), db.snapshot(label="mine"):
                with pytest.raises(TransactionStateError):
                    await entered(db.snapshot())
            await witness.whole()

    async def test_a_read_in_ones_own_barrier(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with asyncio.timeout(SOON), db.barrier():
                with pytest.raises(TransactionStateError):
                    await db.fetch_one(COUNT())
            await witness.whole()

    async def test_a_barrier_around_ones_own_snapshot(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with asyncio.timeout(SOON), db.snapshot():
                with pytest.raises(TransactionStateError):
                    await entered(db.barrier())
            await witness.whole()

    async def test_two_tasks_that_hold_what_the_other_waits_for(self, path: Path) -> None:
        """One holds the writer and reads, one holds the reader and writes."""

        async def writer() -> None:
            async with db.transaction():
                await both.wait()
                await entered(db.snapshot())

        async def reader() -> None:
            async with db.snapshot():
                await both.wait()
                await db.execute(ADD(name="a"))

        async with items(path, readers=1) as db, Witness(db) as witness:
            both = asyncio.Barrier(2)
            tasks = [asyncio.create_task(writer()), asyncio.create_task(reader())]
            done, late = await asyncio.wait(tasks, timeout=SOON)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
            assert not late, "they waited for each other"
            errors = [error for task in done if (error := task.exception())]
            assert [type(error) for error in errors] == [TransactionStateError]
            await witness.whole()

    @pytest.mark.parametrize("tasks", [2, 8])
    async def test_many_tasks_that_hold_all_and_ask_for_one_more(
        self, path: Path, tasks: int
    ) -> None:
        """The last to ask is refused, and by letting go lets all others get on."""

        async def reader() -> None:
            async with db.snapshot():
                await all_hold.wait()
                await entered(db.snapshot())

        async with items(path, readers=tasks) as db, Witness(db) as witness:
            all_hold = asyncio.Barrier(tasks)
            async with asyncio.timeout(SOON):
                ends = await asyncio.gather(
                    *(reader() for _ in range(tasks)), return_exceptions=True
                )
            assert [type(end) for end in ends if end] == [TransactionStateError]
            await witness.whole()

    async def test_who_has_just_been_served_does_not_wait(self, path: Path) -> None:
        """Who comes in the turn in which all connections are lent to others, who do not know yet,
        waits for them: they get on."""
        async with items(path, readers=2) as db:
            assert db._pool is not None
            leases = [await db._pool.lend_reader("first") for _ in range(2)]
            others = [asyncio.create_task(entered(db.snapshot())) for _ in range(2)]
            await until(lambda: db.stats()["readers"]["waiting"] == 2)
            for lease in leases:
                lease.give_back()
            await asyncio.sleep(0)
            assert db.stats()["readers"]["loans"] == 4
            assert await db.fetch_one(COUNT()) == 0
            await asyncio.gather(*others)

    async def test_around_three_tasks(self, path: Path) -> None:
        """The one that closes the circle is refused, and the others get on."""

        async def writer() -> None:
            async with db.transaction(label="the writer"):
                await all_hold.wait()
                await until(lambda: db.stats()["writer"]["waiting"] == 2)
                with pytest.raises(TransactionStateError, match="for ever"):
                    await entered(db.snapshot())

        async def reader(name: str) -> None:
            async with db.snapshot():
                await all_hold.wait()
                await db.execute(ADD(name=name))

        async with items(path, readers=2) as db, Witness(db) as witness:
            all_hold = asyncio.Barrier(3)
            async with asyncio.timeout(SOON):
                await asyncio.gather(writer(), reader("a"), reader("b"))
            await witness.whole()
            assert witness.count() == 2

    async def test_who_waits_for_somebody_who_gets_on_is_not_refused(self, path: Path) -> None:
        async def writer() -> None:
            async with db.transaction():
                await all_hold.wait()
                await entered(db.snapshot())  # when `idler` has let go of its reader

        async def reader() -> None:
            async with db.snapshot():
                await all_hold.wait()
                await db.execute(ADD(name="a"))

        async def idler() -> None:
            async with db.snapshot():
                await all_hold.wait()
                await until(lambda: busy(db) == 5)

        async with items(path, readers=2) as db, Witness(db) as witness:
            all_hold = asyncio.Barrier(3)
            async with asyncio.timeout(SOON):
                await asyncio.gather(writer(), reader(), idler())
            await witness.whole()

    async def test_a_wait_that_has_ended_is_forgotten(self, path: Path) -> None:
        """Who gave up waiting does not wait, so to wait for it is no deadlock."""

        async def writer() -> None:
            async with db.transaction():
                await both_hold.wait()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await entered(db.snapshot())
                gave_up.set()
                await until(lambda: db.stats()["writer"]["waiting"] == 1)

        async def reader() -> None:
            async with db.snapshot():
                await both_hold.wait()
                await gave_up.wait()
                await db.execute(ADD(name="a"))

        async with items(path, readers=1) as db, Witness(db) as witness:
            both_hold, gave_up = asyncio.Barrier(2), asyncio.Event()
            async with asyncio.timeout(SOON):
                await asyncio.gather(writer(), reader())
            await witness.whole()

    async def test_another_task_may_wait_for_the_writer(self, path: Path) -> None:
        """fault 15: and its write is no part of the transaction it waits for."""
        async with items(path) as db:
            with pytest.raises(KeyError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="undone"))
                    other = asyncio.create_task(db.execute(ADD(name="a")))
                    await until(lambda: db.stats()["writer"]["waiting"] == 1)
                    raise KeyError
            await other
            assert await db.fetch_all(NAMES()) == ["a"]


async def entered(block: Any) -> None:
    async with block:
        pass


RAISE = """
from asyncio import CancelledError

def function(cx):
    if cx.writable:
        cx.execute(ADD(name="undone"))
    raise {error}

async def through(verb, db):
    if hasattr(db, verb):
        return await getattr(db, verb)(function)
    async with getattr(db, verb.split()[0])() as handle:
        await getattr(handle, verb.split()[1])(function)

async def main():
    async with items(path) as db, Witness(db) as witness:
        for verb in "read", "write", "snapshot read", "transaction read", "transaction write":
            try:
                async with asyncio.timeout(SOON):
                    await through(verb, db)
            except BaseException as error:
                print(verb, type(error).__name__)
            await witness.whole()
            assert witness.count() == 0

asyncio.run(main())
"""


class TestWhateverAFunctionRaises:
    """A function of the caller's may raise anything at all on the connection's thread: its caller
    is told, the transaction is undone, and the lane goes on."""

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            ("ZeroDivisionError", "ZeroDivisionError"),
            ("KeyboardInterrupt", "KeyboardInterrupt"),
            ("SystemExit", "SystemExit"),
            ("GeneratorExit", "GeneratorExit"),
            ("CancelledError", "CancelledError"),
            ("StopIteration", "RuntimeError"),  # as a coroutine turns it
            ("StopAsyncIteration", "StopAsyncIteration"),
        ],
    )
    def test_it_reaches_the_caller_and_nobody_else(self, path: Path, error: str, told: str) -> None:
        done = run_script(RAISE.replace("{error}", error), path)
        assert done.stdout.splitlines() == [
            f"read {told}",
            f"write {told}",
            f"snapshot read {told}",
            f"transaction read {told}",
            f"transaction write {told}",
        ], done.stderr
        assert done.returncode == 0 and "Traceback" not in done.stderr


class TestBrokenSlots:
    """A connection that can't be made fit again is replaced, and its work fails with an error of
    the library (invariant 12; fault 61)."""

    async def test_a_failed_rollback_replaces_the_connection(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            await lose_writer(db, driver)
            await db.execute(ADD(name="b"))
            stats = db.stats()["writer"]
            assert (stats["opened"], stats["replaced"], stats["busy"]) == (2, 1, 0)
            assert "writer" in caplog.text and "replaced" in caplog.text
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    async def test_a_connection_is_busy_until_it_is_clean(self, path: Path) -> None:
        """Also when its caller has been answered before."""
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            gate = Gate(driver)
            pass_gate, failed = driver.hook, threading.Event()

            def fail_once(step: str) -> None:
                if step == "ROLLBACK" and not failed.is_set():
                    failed.set()
                    gate.stop_at("begin")  # of the call in which the lane tries it again
                    raise sqlite3.OperationalError("disk I/O error")
                pass_gate(step)

            driver.hook = fail_once
            with pytest.raises(ZeroDivisionError):
                await db.write(lambda cx: 1 // 0)
            await gate.reached.wait()
            assert "writer busy" in repr(db)
            gate.open()
            await db.execute(ADD(name="b"))
            assert db.stats()["writer"]["replaced"] == 0
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    async def test_a_replacement_that_can_not_be_opened_fails_the_call_and_is_tried_again(
        self, path: Path
    ) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            await lose_writer(db, driver, refusing="PRAGMA")
            for _ in range(2):
                with pytest.raises(AbtDbError, match="disk I/O error"):
                    await db.execute(ADD(name="b"))
            with pytest.raises(AbtDbError, match="disk I/O error"):
                await entered(db.transaction())
            driver.hook = lambda step: None
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    async def test_a_connection_whose_thread_has_ended_is_replaced(self, path: Path) -> None:
        """Before the next work begins, which is none the wiser."""
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            stopped = driver.connections[0].stop()
            assert stopped is not None
            await stopped
            await until(lambda: len(threads()) == 3)
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]
            assert db.stats()["writer"]["replaced"] == 1

    def test_a_thread_that_dies_fails_its_work(self, path: Path) -> None:
        done = run_script(
            """
            import ctypes, threading, warnings
            warnings.simplefilter("ignore")
            threading.excepthook = lambda _args: None

            async def main():
                driver = Driver()
                async with items(path, "a", connect=driver.connect) as db:
                    thread = ctypes.c_ulong(await db.write(lambda cx: threading.get_ident()))
                    # Raised when the thread has taken its next call and not yet begun it.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
                    lost = asyncio.create_task(db.execute(ADD(name="lost")))
                    await asyncio.wait([lost], timeout=SOON)
                    if not lost.done():
                        os._exit(1)
                    # Unless the thread died, or got over it, before it took the call.
                    assert lost.exception() is None or isinstance(lost.exception(), AbtDbError)
                    await db.execute(ADD(name="b"))
                    print((await db.fetch_all(NAMES()))[-1])

            asyncio.run(main())
            """,
            path,
        )
        assert done.stdout == "b\n", done.stderr

    @pytest.mark.parametrize("queued", [False, True])
    def test_who_lost_a_thread_has_not_been_cancelled(self, path: Path, queued: bool) -> None:
        """The lane wakes the task that waits for a dead thread by a cancellation. If that left its
        mark, a group of tasks would raise it later, in place of an error of one of them."""
        done = run_script(
            f"""
            {DYING}
            async def fail():
                1 / 0

            async def call(db):
                try:
                    await db.execute(ADD(name="lost"))
                except AbtDbError:
                    print("lost", asyncio.current_task().cancelling())
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fail())
                        await asyncio.Event().wait()
                except ExceptionGroup as error:
                    print(*error.exceptions)

            async def main():
                async with items(path, "a") as db:
                    if {queued}:
                        async with Holder(db.barrier()):
                            called = asyncio.create_task(call(db))
                            await until(lambda: db.stats()["writer"]["waiting"])
                            die_soon()
                        await called
                    else:
                        die_soon()
                        await call(db)
                    await db.execute(ADD(name="b"))
                    print(*await db.fetch_all(NAMES()))

            asyncio.run(main())
            """,
            path,
        )
        assert done.stdout == "lost 0\ndivision by zero\na b\n", done.stderr

    def test_a_caller_that_is_cancelled_when_its_thread_is_found_dead_is_cancelled(
        self, path: Path
    ) -> None:
        """invariant 11: in one and the same turn of the loop."""
        done = run_script(
            f"""
            {DYING}
            async def main():
                async with items(path, "a") as db:
                    die_soon()
                    lost = asyncio.create_task(db.execute(ADD(name="lost")))
                    while not lost.cancelling():
                        await asyncio.sleep(0)
                    lost.cancel()
                    await asyncio.wait([lost])
                    print(lost.cancelled())
                    await db.execute(ADD(name="b"))
                    print(*await db.fetch_all(NAMES()))

            asyncio.run(main())
            """,
            path,
        )
        assert done.stdout == "True\na b\n", done.stderr


DYING = """
            import logging, threading, warnings
            warnings.simplefilter("ignore")
            driver, doomed = logging.getLogger("aiosqlite"), []

            def die(record):
                # Raises when the thread says what it begins, and when it says what was raised.
                doomed.append(threading.current_thread())
                if doomed[0] is threading.current_thread():
                    raise SystemExit
                return False

            def die_soon():
                driver.addFilter(die)
                driver.setLevel(logging.DEBUG)
"""
"""`die_soon()`: the next thread of a connection that has something to do dies before it does it."""


class TestTheEndOfTheLoop:
    """A loop that ends cancels every task it has, the lanes' among them."""

    async def test_a_call_in_the_turn_in_which_all_tasks_are_cancelled(self, path: Path) -> None:
        async def last_words(db: Database) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                with pytest.raises(PoolClosedError):
                    await db.execute(ADD(name="too late"))
                said.append(True)

        said: list[bool] = []
        async with items(path) as db:
            speaker = asyncio.create_task(last_words(db))
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - {speaker, cast(Any, asyncio.current_task())}
            for task in [speaker, *others]:
                task.cancel()
            await asyncio.wait([speaker])
            assert speaker.cancelled() and said
