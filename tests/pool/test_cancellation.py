"""Cancellation at every point of every verb, once and again: nothing is lost, nothing half done.

Three sweeps drive each verb. Between two turns of the event loop: there every order of "the
connection was handed over", "the thread has answered", "the caller has not run yet" comes to pass.
At each step of the connection's thread, which is held there until the cancellation is through. And
both of these with the pool idle and with everyone having to wait for a connection first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    ADD_ENDLESSLY,
    COUNT,
    COUNT_TABLES,
    ENDLESS,
    NAMES,
    NUMBERS,
    SOON,
    Driver,
    Gate,
    Holder,
    Reading,
    Turns,
    Witness,
    items,
    run_in_turns,
    until,
    with_reserve,
)
from support.suite import descriptors, threads

from abt_db import (
    Config,
    Database,
    PoolClosedError,
    PoolTimeoutError,
    Session,
    StatementTimeoutError,
    TransactionAbortedError,
    TransactionTimeoutError,
)
from abt_db.connection.deadline import Deadline

Verb = Callable[[Database], Awaitable[object]]

serial = count()


def new() -> dict[str, str]:
    """A name that no item has yet."""
    return {"name": f"item {next(serial)}"}


def add_two(cx: Session) -> None:
    cx.execute(ADD(**new()))
    cx.execute(ADD(**new()))


async def transaction(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD(**new()))
        await tx.fetch_one(COUNT())
        await tx.execute(ADD(**new()))


async def rolled_back(db: Database) -> None:
    with suppress(KeyError):
        async with db.transaction() as tx:
            await tx.execute(ADD(**new()))
            raise KeyError


async def savepoints(db: Database) -> None:
    async with db.transaction() as tx:
        async with tx.savepoint() as inner:
            await inner.execute(ADD(**new()))
            with suppress(KeyError):
                async with inner.savepoint() as innermost:
                    await innermost.execute(ADD(**new()))
                    raise KeyError
        await tx.execute(ADD(**new()))


async def snapshot(db: Database) -> None:
    async with db.snapshot() as view:
        assert await view.fetch_one(COUNT()) == await view.fetch_one(COUNT())


async def stream(db: Database) -> None:
    async with db.stream(NAMES(), size=2) as rows:
        assert len([row async for row in rows]) >= 5


async def stream_left_early(db: Database) -> None:
    async with db.stream(NAMES(), size=2) as rows:
        async for _row in rows:
            break


async def stream_in_transaction(db: Database) -> None:
    async with db.transaction() as tx:
        async with tx.stream(NAMES(), size=2) as rows:
            async for _row in rows:
                await tx.execute(ADD(**new()))
                break
        await tx.execute(ADD(**new()))


async def barrier(db: Database) -> None:
    async with db.barrier() as loan:
        await loan.run(lambda cx: cx.fetch_one(COUNT()), Deadline())


VERBS: dict[str, tuple[Verb, int]] = {
    "fetch_one": (lambda db: db.fetch_one(COUNT()), 0),
    "fetch_all": (lambda db: db.fetch_all(NAMES()), 0),
    "execute": (lambda db: db.execute(ADD(**new())), 1),
    "execute_batch": (lambda db: db.execute_batch([ADD(**new()), ADD(**new())]), 2),
    "execute_many": (lambda db: db.execute_many(ADD, (new() for _ in range(3))), 3),
    "read": (lambda db: db.read(lambda cx: cx.fetch_all(NAMES())), 0),
    "write": (lambda db: db.write(add_two), 2),
    "transaction": (transaction, 2),
    "rolled back": (rolled_back, 0),
    "savepoints": (savepoints, 2),
    "snapshot": (snapshot, 0),
    "stream": (stream, 0),
    "stream left early": (stream_left_early, 0),
    "stream in a transaction": (stream_in_transaction, 2),
    "barrier": (barrier, 0),
}
"""Each verb, and how many items it adds when it is not cancelled."""

every_verb = pytest.mark.parametrize(
    ("verb", "adds"), VERBS.values(), ids=[name.replace(" ", "-") for name in VERBS]
)
once_and_again = pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
early_and_late = pytest.mark.parametrize("late", [False, True], ids=["early", "late"])


class Blow:
    """What befalls a task at one turn of the loop, and if `again` at every turn after it as well.

    An early one falls before the loop asks what is new, a late one when the thread has answered and
    nobody knows.
    """

    def __init__(
        self,
        turns: Turns,
        turn: int,
        task: asyncio.Task[Any],
        strike: Callable[[], object],
        *,
        again: bool = False,
        late: bool = False,
    ) -> None:
        self.fell = False
        self._turn = turn
        self._task = task
        self._strike = strike
        self._again = again
        turns.before, turns.after = (_nothing, self._look) if late else (self._look, _nothing)

    def _look(self) -> bool:
        self._turn -= 1
        if self._turn >= 0 or self._task.done() or (self.fell and not self._again):
            return False
        self.fell = True
        self._strike()
        return True


def _nothing() -> bool:
    return False


async def as_task(verb: Verb, db: Database) -> None:
    await verb(db)


async def hold_everyone(db: Database, work: AsyncExitStack) -> list[Holder | Reading]:
    """Have the writer and all readers at work for others, so that the next call must wait."""
    blocks = [
        Holder(db.transaction(timeout=1e9)),
        *(Reading(db) for _ in range(db.config.readers)),
    ]
    return [await work.enter_async_context(block) for block in blocks]


async def each_turn(
    turns: Turns,
    db: Database,
    verb: Verb,
    strike: Callable[[asyncio.Task[None]], object],
    *,
    contended: bool = False,
    again: bool = False,
    late: bool = False,
) -> AsyncIterator[tuple[asyncio.Task[None], bool]]:
    """Run `verb` and strike at its first turn, its second, … until it ends before; yield each run's
    task, which is done, and whether it was struck."""
    for turn in count():
        async with AsyncExitStack() as work:
            holders = await hold_everyone(db, work) if contended else []
            task = asyncio.create_task(as_task(verb, db))
            blow = Blow(turns, turn, task, lambda: strike(task), again=again, late=late)  # noqa: B023
            if holders:
                await asyncio.sleep(0)
            for holder in holders:
                holder.let_go()
            await asyncio.wait([task])
            turns.before = turns.after = _nothing
        yield task, blow.fell
        if not blow.fell:
            assert turn >= 2, "every blow came too late"
            return


def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def pass_time(_task: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    loop.ahead += 3000.0


LIMITS = (PoolTimeoutError, TransactionTimeoutError)


@every_verb
class TestEveryTurn:
    """Cancelled between any two turns of the loop, a verb is wholly done or not at all, the caller
    gets its CancelledError, and the pool is as before (faults 1, 2, 3, 4, 5, 7)."""

    @once_and_again
    @early_and_late
    @pytest.mark.parametrize("contended", [False, True], ids=["idle", "contended"])
    def test_of_the_loop(
        self, path: Path, verb: Verb, adds: int, again: bool, late: bool, contended: bool
    ) -> None:
        async def main(turns: Turns) -> None:
            async with items(path, *"abcde") as db, Witness(db) as witness:
                before = witness.count()
                async for task, struck in each_turn(
                    turns, db, verb, cancel, again=again, late=late, contended=contended
                ):
                    assert task.cancelled() == struck, "the cancellation was swallowed"
                    await witness.whole()
                    after = witness.count()
                    assert after - before in ((0, adds) if struck else (adds,))
                    before = after

        run_in_turns(main)

    @early_and_late
    @pytest.mark.parametrize("contended", [False, True], ids=["idle", "contended"])
    def test_at_which_time_runs_out(
        self, path: Path, verb: Verb, adds: int, late: bool, contended: bool
    ) -> None:
        """A limit, of waiting or of a transaction, that passes at any turn (faults 8, 9): the
        verb has its result, or an error and has done nothing."""

        async def main(turns: Turns) -> None:
            limits: dict[str, Any] = {"acquire_timeout": 1000.0, "transaction_timeout": 2000.0}
            async with items(path, *"abcde", **limits) as db, Witness(db) as witness:
                before = witness.count()
                async for task, _struck in each_turn(
                    turns, db, verb, pass_time, late=late, contended=contended
                ):
                    await witness.whole()
                    failed = task.exception()
                    assert failed is None or isinstance(failed, LIMITS), repr(failed)
                    after = witness.count()
                    assert after - before == (0 if failed else adds)
                    before = after

        run_in_turns(main)


@every_verb
class TestEveryStep:
    """The same at each step on the connection's thread: a call begins, a statement runs, the call
    has ended but its caller does not know (faults 3, 4, 5; invariant 12)."""

    @once_and_again
    async def test_of_the_thread(self, path: Path, verb: Verb, adds: int, again: bool) -> None:
        driver = Driver()
        async with items(path, *"abcde", connect=driver.connect) as db:
            gate = Gate(driver)
            async with Witness(db) as witness:
                await self.sweep(gate, witness, verb, adds, again=again)

    async def sweep(
        self, gate: Gate, witness: Witness, verb: Verb, adds: int, *, again: bool
    ) -> None:
        for step in count():
            before = witness.count()
            gate.stop_at_number(step)
            task = asyncio.create_task(as_task(verb, witness.db))
            reached = asyncio.create_task(gate.reached.wait())
            await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
            fell = not task.done()
            task.cancel()
            if again:
                await asyncio.sleep(0)
                task.cancel()
            if fell:
                # The caller is free at once, although the thread has not moved.
                await asyncio.wait([task], timeout=SOON)
                assert task.cancelled()
            gate.open()
            reached.cancel()
            await witness.whole()
            if not fell:
                assert witness.count() == before + adds
                break
            assert witness.count() in (before, before + adds), f"step {step}: half done"
        assert step >= 2, "the gate was never reached"


class TestOpenAndClose:
    """An open that is cancelled leaves nothing open, and can be done again; a close that is
    cancelled closes all the same (invariants 11, 22, 23)."""

    @once_and_again
    @early_and_late
    def test_open_at_every_turn(self, path: Path, again: bool, late: bool) -> None:
        async def main(turns: Turns) -> None:
            for turn in count():
                before = threads(), descriptors()
                db = Database(path, config=Config(readers=2))
                task = asyncio.create_task(db.open())
                blow = Blow(turns, turn, task, task.cancel, again=again, late=late)
                await asyncio.wait([task])
                turns.before = turns.after = _nothing
                assert task.cancelled() == blow.fell
                if blow.fell:
                    assert repr(db) == "<Database app.db: closed>"
                    assert (threads(), descriptors()) == before
                    await db.open()
                assert (await db.fetch_all(COUNT_TABLES()))[0] == 0
                await db.close()
                assert (threads(), descriptors()) == before
                if not blow.fell:
                    break
            assert turn >= 4

        run_in_turns(main)

    @once_and_again
    @early_and_late
    def test_close_at_every_turn(self, path: Path, again: bool, late: bool) -> None:
        async def main(turns: Turns) -> None:
            for turn in count():
                before = threads(), descriptors()
                db = Database(path, config=Config(readers=2))
                await db.open()
                task = asyncio.create_task(db.close())
                blow = Blow(turns, turn, task, task.cancel, again=again, late=late)
                await asyncio.wait([task])
                turns.before = turns.after = _nothing
                assert task.cancelled() == blow.fell
                if turn > 0:  # cancelled before its first step, a coroutine does nothing at all
                    assert repr(db) == "<Database app.db: closed>"
                    assert (threads(), descriptors()) == before
                await db.close()
                with pytest.raises(PoolClosedError):
                    await db.fetch_one(COUNT_TABLES())
                assert (threads(), descriptors()) == before
                if not blow.fell:
                    break
            assert turn >= 4

        run_in_turns(main)

    async def test_a_cancelled_close_has_closed_and_the_database_opens_again(
        self, path: Path, no_leaks: None
    ) -> None:
        async with items(path) as db:
            task = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert repr(db) == "<Database app.db: closed>"
            await db.open()
            assert await db.fetch_one(COUNT()) == 0


class TestWhatRuns:
    """What runs is stopped, what has not begun never runs, and nobody else notices."""

    @pytest.mark.parametrize("verb", ["read", "write"])
    async def test_an_endless_statement_is_stopped_when_its_caller_is_cancelled(
        self, path: Path, verb: str
    ) -> None:
        async with items(path, "a", readers=1) as db, Witness(db) as witness:
            call = db.fetch_one(ENDLESS()) if verb == "read" else db.execute(ADD_ENDLESSLY())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await call
            await witness.whole()
            assert witness.count() == 1

    @pytest.mark.parametrize("verb", ["read", "write", "function", "many"])
    async def test_a_runaway_is_stopped_at_its_deadline(
        self, path: Path, verb: str, clock: Clock
    ) -> None:
        """fault 10; the connection goes on working."""

        def spin(cx: Session) -> None:
            for number in count():
                cx.fetch_one(COUNT())
                if number == 1000:
                    clock.passes(1000)

        calls: dict[str, Verb] = {
            "read": lambda db: db.fetch_one(ENDLESS(), timeout=0.05),
            "write": lambda db: db.execute(ADD_ENDLESSLY(), timeout=0.05),
            "function": lambda db: db.read(spin),
            "many": lambda db: db.execute_many(ADD, (new() for _ in count()), timeout=0.05),
        }
        limit = 1000 if verb == "function" else None
        async with items(path, "a", statement_timeout=limit) as db, Witness(db) as witness:
            with pytest.raises(StatementTimeoutError):
                await calls[verb](db)
            await witness.whole()
            assert witness.count() == 1

    async def test_a_late_stop_never_hits_the_next_statement(self, path: Path) -> None:
        """fault 11, invariant 24: the next call on the connection is never the one stopped."""
        async with items(path, "a", readers=1) as db:
            for size in range(1, 2000, 20):
                task = asyncio.create_task(db.fetch_all(NUMBERS(count=size)))
                await asyncio.sleep(0)
                following = asyncio.create_task(db.fetch_all(NUMBERS(count=2000)))
                await asyncio.sleep(0)
                task.cancel()
                assert len(await following) == 2000

    async def test_a_call_that_waits_never_runs_once_it_is_cancelled(self, path: Path) -> None:
        """fault 1: neither in the queue nor when it is already with the thread."""
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            gate.stop_at("begin")
            ran: list[str] = []
            with_thread = asyncio.create_task(db.write(lambda cx: ran.append("with the thread")))
            await gate.reached.wait()
            in_queue = asyncio.create_task(db.write(lambda cx: ran.append("in the queue")))
            await until(lambda: db.stats()["writer"]["waiting"] == 1)
            for task in with_thread, in_queue:
                task.cancel()
            await asyncio.wait([with_thread, in_queue])
            assert db.stats()["writer"]["waiting"] == 0
            gate.open()
            await witness.whole()
            assert not ran

    async def test_a_write_cancelled_behind_its_commit_is_there(self, path: Path) -> None:
        """fault 5: "may have been committed" is the truth, and the writer waits for it."""
        driver = Driver()
        async with items(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            gate.stop_at("end")
            task = asyncio.create_task(db.execute(ADD(name="a")))
            await gate.reached.wait()
            task.cancel()
            await asyncio.wait([task])
            following = asyncio.create_task(db.execute(ADD(name="b")))
            await asyncio.sleep(0)
            assert "writer busy" in repr(db)
            gate.open()
            await following
            assert await db.fetch_all(NAMES()) == ["a", "b"]
            await witness.whole()


class TestInsideATransaction:
    """A cancellation or time limit that is caught inside the block: work goes on, or is refused
    when SQLite has ended the transaction; it never goes on as if nothing had been lost."""

    async def test_a_read_that_is_stopped_leaves_the_transaction_alive(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="a"))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await tx.fetch_one(ENDLESS())
                with pytest.raises(StatementTimeoutError):
                    await tx.fetch_one(ENDLESS(), timeout=0.02)
                await tx.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    @pytest.mark.parametrize("goes_on", [False, True])
    async def test_a_write_that_is_stopped_ends_it(self, path: Path, goes_on: bool) -> None:
        """invariant 8: INTERRUPT in a write makes SQLite undo everything (faults 21, 25)."""
        async with items(path) as db:
            with pytest.raises(TransactionAbortedError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))
                    with pytest.raises(StatementTimeoutError):
                        await tx.execute(ADD_ENDLESSLY(), timeout=0.02)
                    if goes_on:
                        await tx.execute(ADD(name="b"))
                        pytest.fail("it went on in a dead transaction")
            assert await db.fetch_all(NAMES()) == []

    async def test_a_savepoint_is_undone_and_the_rest_goes_on(self, path: Path) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="a"))
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02), tx.savepoint() as inner:
                        await inner.execute(ADD(name="undone"))
                        await inner.fetch_one(ENDLESS())
                await tx.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    @early_and_late
    def test_caught_at_any_turn(self, path: Path, late: bool) -> None:
        """Each statement before the catch is there wholly or not; those after it are."""

        async def verb(db: Database) -> None:
            async with db.transaction(timeout=1e9) as tx:
                with suppress(TimeoutError):
                    async with asyncio.timeout(1000), tx.savepoint() as inner:
                        await inner.execute_batch([ADD(**new()), ADD(**new())])
                        await inner.execute_batch([ADD(**new()), ADD(**new())])
                await tx.execute(ADD(**new()))

        async def main(turns: Turns) -> None:
            async with items(path, "a") as db, Witness(db) as witness:
                before = witness.count()
                async for task, _struck in each_turn(turns, db, verb, pass_time, late=late):
                    await witness.whole()
                    assert task.exception() is None
                    after = witness.count()
                    assert after - before in (1, 5)
                    before = after

        run_in_turns(main)


class TestUnderLoad:
    """Many callers at once, many of them cancelled, and the books balance."""

    def test_what_was_acknowledged_is_there_and_nobody_is_lost(self, path: Path) -> None:
        dice = random.Random(7)

        async def main(turns: Turns) -> None:
            async with (
                items(path, *"abcde", reader_idle_time=1e9) as db,
                Witness(await with_reserve(db)) as witness,
            ):
                for _round in range(10):
                    before = witness.count()
                    chosen = dice.choices(list(VERBS.values()), k=40)
                    tasks = [asyncio.create_task(as_task(verb, db)) for verb, _adds in chosen]

                    def strike(tasks: list[asyncio.Task[None]] = tasks) -> bool:
                        left = [task for task in tasks if not task.done()]
                        return dice.random() < 0.3 and bool(left) and dice.choice(left).cancel()

                    turns.before = strike
                    await asyncio.wait(tasks)
                    turns.before = _nothing
                    await witness.whole()
                    assert all(task.cancelled() or task.exception() is None for task in tasks)
                    sure = sum(
                        adds
                        for task, (_, adds) in zip(tasks, chosen, strict=True)
                        if not task.cancelled()
                    )
                    assert sure <= witness.count() - before <= sum(adds for _, adds in chosen)

        run_in_turns(main)
