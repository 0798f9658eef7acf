"""Leases: one holder at a time, tokens that grow, and no write by who has lost the lock.

Two `Database`s of one file stand for two processes: leases know no difference. What takes real ones
is in test_lease_processes.py. The clock is put forward by hand where it matters.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    CREATE,
    Driver,
    Gate,
    Holder,
    until,
)
from support.suite import SOON

import abt_db.locks.lease
import abt_db.locks.table
from abt_db import (
    BusyError,
    Config,
    Database,
    LockInfo,
    LockLease,
    LockLostError,
    LockStateError,
    LockTimeoutError,
    Query,
    ReadOnlyError,
    StatementError,
    TransactionStateError,
)
from abt_db.builds import BuildStore
from abt_db.locks.table import LOCKS_TABLE
from abt_db.maintenance import clear_locks, optimize

TABLE = Query(
    "table", "SELECT sql FROM sqlite_schema WHERE tbl_name = 'distributed_locks' AND sql <> ''", str
)
OLD_ROW = Query(
    "old_row",
    """
    UPDATE distributed_locks SET lock_holder = json_remove(lock_holder, '$.label')
    RETURNING json_type(lock_holder, '$.label') IS NULL
    """,
    bool,
)
ROWS = Query(
    "rows", "SELECT resource_id, lock_holder, token FROM distributed_locks WHERE resource_id <> x''"
)
PUT = Query(
    "put",
    "INSERT INTO distributed_locks (resource_id, lock_holder, token) VALUES (:name, :holder, 5)",
)
ROW = Query("row", "SELECT * FROM distributed_locks WHERE resource_id = 'a'")
FORGET = Query("forget", "DROP TABLE distributed_locks")


class Time:
    """The machine's clock, which only goes when it is told to, and the wall clock."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)

    def passes(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        self.wall += timedelta(seconds=seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in abt_db.locks.table, abt_db.locks.lease:
        monkeypatch.setattr(module, "milliseconds", lambda: time.now)
    monkeypatch.setattr(abt_db.locks.table, "wall", lambda: time.wall)
    return time


@asynccontextmanager
async def opened(path: Path, **arguments: Any) -> AsyncIterator[Database]:
    async with Database(path, **arguments) as db:
        with suppress(StatementError):  # the second to open it finds them there
            await db.execute_batch([LOCKS_TABLE(), CREATE()])
        yield db


@asynccontextmanager
async def two(path: Path) -> AsyncIterator[tuple[Database, Database]]:
    async with opened(path, config=Config(readers=1)) as one:
        async with opened(path, config=Config(readers=1)) as other:
            yield one, other


async def holder_of(db: Database, name: str = "a") -> LockInfo:
    info = await db.lock_info(name)
    assert info is not None
    return info


def commits(db: Database) -> int:
    return int(db.stats()["writer"]["commits"])


def task_names() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


async def renewing(clock: Clock, seconds: float) -> None:
    """Put the clock forward, when the tasks that renew leases have begun to wait."""
    await asyncio.sleep(0)
    clock.passes(seconds)


async def until_wanted(db: Database) -> None:
    """Wait until another `Database` asks for the lock."""
    while True:
        if (await holder_of(db)).wanted:
            return
        await asyncio.sleep(0.001)


class TestALease:
    """One holder at a time among all who have the file open, each with a larger token."""

    async def test_is_had_by_one_and_then_by_the_other(self, path: Path) -> None:
        async with two(path) as (one, other):
            async with one.lock("a") as first:
                with pytest.raises(LockTimeoutError):
                    await other.lock("a", timeout=0).__aenter__()
                waiting = asyncio.create_task(other.lock("a").__aenter__())
                await until(lambda: other.stats()["readers"]["calls"] > 2)
            second = await waiting
            assert (first.token, second.token) == (1, 2)

    async def test_costs_one_commit_to_have_and_one_to_release(self, path: Path) -> None:
        async with opened(path) as db:
            for _ in range(3):
                before = commits(db)
                async with db.lock("a"):
                    assert commits(db) == before + 1
                assert commits(db) == before + 2

    async def test_that_was_released_keeps_its_row_and_its_token(self, path: Path) -> None:
        async with opened(path) as db:
            for _ in range(3):
                async with db.lock("a"):
                    pass
            assert await db.fetch_one(ROW()) == ("a", None, None, None, 3)
            assert await db.lock_info("a") is None

    async def test_tells_who_holds_it(self, path: Path, time: Time) -> None:
        async with two(path) as (one, other), Holder(one.lock("a", ttl=5), name="deployer"):
            info = await holder_of(other)
            assert (info.name, info.token, info.task, info.ttl) == ("a", 1, "deployer", 5000)
            assert (info.acquired_at, info.expires_at) == (
                time.wall,
                time.wall + timedelta(seconds=5),
            )
            with pytest.raises(LockTimeoutError, match=r"'deployer' of process \d+ on .+ 2026"):
                await other.lock("a", timeout=0.01).__aenter__()

    async def test_serves_the_tasks_of_a_database_in_their_order(self, path: Path) -> None:
        log: list[tuple[int, int]] = []

        async def work(number: int) -> None:
            async with db.lock("a") as lease:
                log.append((number, lease.token))

        async with opened(path) as db:
            async with asyncio.TaskGroup() as group:
                for number in range(1, 6):
                    group.create_task(work(number))
        assert log == [(n, n) for n in range(1, 6)]

    async def test_a_task_that_waits_for_its_turn_is_told_of_the_true_holder(
        self, path: Path
    ) -> None:
        async with two(path) as (one, other), Holder(one.lock("a"), name="true holder"):
            first = asyncio.create_task(other.lock("a").__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(LockTimeoutError, match="true holder"):
                await other.lock("a", timeout=0.01).__aenter__()
            first.cancel()
            await asyncio.wait([first])

    async def test_is_counted(self, path: Path) -> None:
        async with opened(path) as db, Holder(db.lock("a"), name="holder"):
            waiting = asyncio.create_task(db.lock("a").__aenter__())
            await until(lambda: db.stats()["locks"]["waiting"])
            (held,) = db.stats()["locks"]["names"]["a"]["holders"]
            assert held["task"] == "holder"
            waiting.cancel()
            await asyncio.wait([waiting])

    async def test_goes_to_others_before_it_goes_back(
        self, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However soon who has released it asks for it again."""
        monkeypatch.setattr(abt_db.locks.lease, "COURTESY", 1000)
        log: list[str] = []

        async def again_and_again(db: Database, name: str) -> None:
            for number in range(3):
                async with db.lock("a", ttl=10**6):
                    log.append(name)
                    clock.passes(1000)
                    if len(log) < 6 and number < 2:
                        await until_wanted(db)

        async with two(path) as (one, other):
            await asyncio.gather(again_and_again(one, "1"), again_and_again(other, "2"))
        assert "".join(log) in ("121212", "212121")

    async def test_works_in_memory(self) -> None:
        async with Database(":memory:") as db:
            await db.execute(LOCKS_TABLE())
            async with db.lock("a") as lease, db.transaction(lease=lease):
                assert lease.token == 1


class TestMisuse:
    """What can't work is told at once."""

    async def test_without_the_table(self, path: Path) -> None:
        async with Database(path) as db:
            for use in db.lock("a").__aenter__(), db.lock_info("a"):
                with pytest.raises(StatementError, match="LOCKS_TABLE") as caught:
                    await use
                assert LOCKS_TABLE.sql in caught.value.__notes__

    async def test_the_table_of_the_build_database_is_the_same(self, tmp_path: Path) -> None:
        async with Database(tmp_path / "own.db") as db:
            for _ in range(2):  # where it is there already, it is left alone
                await db.execute(LOCKS_TABLE())
            own = await db.fetch_all(TABLE())
        async with await BuildStore.open(tmp_path / "builds.db") as store:
            built_in = await store.db.fetch_all(TABLE())
        assert [" ".join(sql.split()) for sql in own] == [" ".join(sql.split()) for sql in built_in]
        assert len(own) == 1

    @pytest.mark.parametrize("label", [7, b"a", ["a"]])
    async def test_of_the_label(self, path: Path, label: Any) -> None:
        async with opened(path) as db:
            with pytest.raises(TypeError, match="label"):
                db.lock("a", label=label)

    async def test_in_use(self, path: Path) -> None:
        async with two(path) as (one, other):
            lease = one.lock("a")
            for use in lease.check, lambda: lease.lost, lambda: one.transaction(lease=lease):
                with pytest.raises(LockStateError, match="not held yet"):
                    use()
            async with lease:
                with pytest.raises(LockStateError, match="this very task"):
                    await one.lock("a").__aenter__()
                with pytest.raises(LockStateError, match="another Database"):
                    other.transaction(lease=lease)
            with pytest.raises(LockStateError, match="once"):
                await lease.__aenter__()
            for use in lease.check, lambda: one.transaction(lease=lease):
                with pytest.raises(LockStateError, match="released"):
                    use()

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
    async def test_of_the_ttl(self, path: Path, ttl: float) -> None:
        async with opened(path) as db:
            with pytest.raises(ValueError, match="ttl"):
                db.lock("a", ttl=ttl)

    async def test_inside_a_transaction(self, path: Path) -> None:
        async with opened(path) as db:
            async with db.transaction():
                with pytest.raises(TransactionStateError):
                    await db.lock("a").__aenter__()
            async with db.lock("a", timeout=0):
                pass


class TestTheTable:
    """It is made with one line, or by the first who asks for a lock, if he says so."""

    async def test_is_made_by_the_first_lock_if_that_is_wanted(self, path: Path) -> None:
        async with Database(path) as db, Database(path) as other:
            async with db.lock("a", create=True) as lease:
                assert lease.token == 1
                with pytest.raises(LockTimeoutError):
                    await other.lock("a", create=True, timeout=0).__aenter__()
            before = commits(db)
            async with db.lock("a", create=True):  # from now on it costs nothing
                assert commits(db) == before + 1
            async with other.lock("a") as lease:
                assert lease.token == 3

    async def test_is_made_once_by_many_who_ask_at_the_same_time(self, path: Path) -> None:
        async with Database(path) as db, Database(path) as other:

            async def work(db: Database, name: str) -> int:
                async with db.lock(name, create=True) as lease:
                    return lease.token

            asked = [work(each, name) for each in (db, other) for name in "abab"]
            assert sorted(await asyncio.gather(*asked)) == [1, 1, 2, 2, 3, 3, 4, 4]

    async def test_is_not_made_where_nobody_may_write(self, path: Path) -> None:
        async with Database(path) as db, Database(path, read_only=True) as follower:
            with pytest.raises(ReadOnlyError):
                await follower.lock("a", create=True).__aenter__()
            assert await db.fetch_all(TABLE()) == []


class TestTheLabel:
    """What a lock is held for: those who wait are told, and those who ask."""

    async def test_is_shown_with_the_holder(self, path: Path) -> None:
        async with two(path) as (one, other), one.lock("a", label="nightly import") as lease:
            assert lease.label == "nightly import"
            assert (await holder_of(other)).label == "nightly import"
            with pytest.raises(LockTimeoutError, match=r"'nightly import', task .* has held it"):
                await other.lock("a", timeout=0).__aenter__()

    async def test_stays_when_the_lease_is_renewed_and_wanted(
        self, path: Path, clock: Clock
    ) -> None:
        async with two(path) as (one, other), one.lock("a", ttl=3000, label="x"):
            before = commits(one)
            await renewing(clock, 1001)
            await until(lambda: commits(one) > before)
            waiting = asyncio.create_task(other.lock("a").__aenter__())
            await until_wanted(one)
            assert (await holder_of(other)).label == "x"
            waiting.cancel()
            await asyncio.wait([waiting])

    async def test_of_a_row_that_has_none_is_none(self, path: Path) -> None:
        """As an earlier release writes it."""
        async with two(path) as (one, other), one.lock("a", label="x") as lease:
            assert await other.fetch_all(OLD_ROW()) == [True]
            info = await holder_of(other)
            assert (info.label, info.token) == (None, lease.token)
            assert str(info).startswith("task ")
            async with one.transaction(lease=lease):
                pass


class TestClearing:
    """Rows of locks that nobody holds go, those of holders stay, and tokens only ever grow."""

    async def test_removes_what_is_released_or_has_run_out(self, path: Path, time: Time) -> None:
        async with two(path) as (one, other):
            for name in "abc":
                async with one.lock(name):
                    pass
            gone = await one.lock("gone", ttl=5).__aenter__()
            async with other.lock("held", ttl=60, label="x") as held:
                time.passes(6)
                before = await other.fetch_all(ROWS())
                assert await clear_locks(one) == 4
                assert await clear_locks(one) == 0
                [row] = await other.fetch_all(ROWS())
                assert row in before and row[0] == "held"
                held.check()
                async with other.transaction(lease=held) as tx:
                    await tx.execute(ADD(name="a"))
            with pytest.raises(LockLostError):
                gone.check()
            with pytest.raises(LockLostError):
                await gone.__aexit__(None, None, None)

    async def test_lets_no_token_go_backwards(self, path: Path, time: Time) -> None:
        largest: dict[str, int] = {}
        async with two(path) as (one, other):
            for step in range(60):
                name = "abcd"[step * step % 7 % 4]
                lease = await (one, other)[step % 2].lock(name, ttl=10).__aenter__()
                assert lease.token > largest.get(name, 0)
                largest[name] = lease.token
                if step % 3:
                    await lease.__aexit__(None, None, None)
                else:
                    time.passes(11)
                    with suppress(LockLostError):
                        await lease.__aexit__(None, None, None)
                if step % 5 == 0:
                    assert await clear_locks(other) > 0
        assert len(largest) >= 3

    async def test_the_largest_token_of_all_is_kept(self, path: Path) -> None:
        async with opened(path) as db:
            async with db.lock("small"):
                for _ in range(5):
                    async with db.lock("large"):
                        pass
                assert await clear_locks(db) == 1
            assert await clear_locks(db) == 1
            async with db.lock("large") as lease:
                assert lease.token == 6

    async def test_a_row_that_an_earlier_release_has_begun_anew_is_taken_further(
        self, path: Path
    ) -> None:
        async with opened(path) as db:
            for _ in range(9):
                async with db.lock("a"):
                    pass
            await clear_locks(db)
            await db.execute(PUT(name="a", holder=None))
            async with db.lock("a") as lease:
                assert lease.token == 10

    async def test_a_lease_that_was_cleared_writes_nothing(self, path: Path, time: Time) -> None:
        async with two(path) as (one, other):
            with pytest.raises(LockLostError):
                async with one.lock("a", ttl=5) as lease:
                    transaction = one.transaction(lease=lease)
                    time.passes(6)
                    assert await clear_locks(other) == 1
                    async with other.lock("a") as heir:
                        assert heir.token > lease.token
                        with pytest.raises(LockLostError, match="nothing was written"):
                            async with transaction as tx:
                                await tx.execute(ADD(name="stale"))
            assert await other.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize("holder", ["some other program", "{}", '{"until": "x"}', "[1]"])
    async def test_leaves_rows_of_other_programs_alone(self, path: Path, holder: str) -> None:
        async with opened(path) as db:
            await db.execute(PUT(name="theirs", holder=holder))
            assert await clear_locks(db) == 0
            assert [row[0] for row in await db.fetch_all(ROWS())] == ["theirs"]

    async def test_is_a_part_of_optimize(self, path: Path) -> None:
        async with opened(path) as db:
            async with db.lock("a"):
                pass
            await optimize(db)
            assert await db.fetch_all(ROWS()) == []
            async with db.lock("a") as lease:
                assert lease.token == 2

    async def test_is_a_part_of_the_schedule(self, path: Path) -> None:
        async with opened(path, config=Config(optimize_interval=0.05)) as db:
            async with db.lock("a"):
                pass
            async with asyncio.timeout(SOON):
                while await db.fetch_all(ROWS()):  # noqa: ASYNC110 (the schedule tells nobody)
                    await asyncio.sleep(0.01)

    @pytest.mark.parametrize("sql", ["", "CREATE TABLE distributed_locks (resource_id, holder)"])
    async def test_finds_nothing_where_the_table_is_missing_or_anothers(
        self, path: Path, sql: str
    ) -> None:
        async with Database(path) as db:
            if sql:
                await db.execute(Query("theirs", sql)())
            assert await clear_locks(db) == 0
            await optimize(db)

    async def test_a_name_may_be_empty(self, path: Path) -> None:
        async with opened(path) as db:
            async with db.lock(""):
                assert await clear_locks(db) == 0
            assert await clear_locks(db) == 1
            async with db.lock("") as lease:
                assert lease.token == 2


class TestLoss:
    """Who has lost a lease is told so: by `lost`, by `check`, at the end of the block."""

    async def lost(self, lease: LockLease, why: str, losing: Callable[[], Any]) -> None:
        """Enter the lease, lose it, and see that it is told everywhere."""
        with pytest.raises(LockLostError, match=why):
            async with lease:
                lost = asyncio.ensure_future(lease.lost)
                await losing()
                with pytest.raises(LockLostError, match=why):
                    lease.check()
                assert isinstance(await lost, LockLostError)

    async def test_when_it_has_run_out(self, path: Path, time: Time) -> None:
        async def passes() -> None:
            time.passes(30)

        async with opened(path) as db:
            await self.lost(db.lock("a", ttl=30), "before it ran out", passes)
            async with db.lock("a", timeout=0) as lease:
                assert lease.token == 2

    async def test_when_the_database_is_closed(self, path: Path) -> None:
        async with opened(path) as db:
            await self.lost(db.lock("a"), "closed", db.close)
            assert len(asyncio.all_tasks()) == 1

    async def test_that_was_granted_while_the_database_closes(self, path: Path) -> None:
        driver = Driver()
        async with opened(path, connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at("COMMIT")
            lease = db.lock("a")
            entering = asyncio.create_task(lease.__aenter__())
            await gate.reached.wait()
            closing = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            gate.open()
            await closing
            assert await entering is lease
            assert len(asyncio.all_tasks()) == 1
            with pytest.raises(LockLostError, match="closed"):
                lease.check()

    async def test_when_it_was_released_by_force(self, path: Path, clock: Clock) -> None:
        async with two(path) as (one, other):

            async def breaks() -> None:
                info = await holder_of(other)
                assert await other.break_lock(info)
                assert not await other.break_lock(info)
                await renewing(clock, 1001)
                await asyncio.wait([asyncio.ensure_future(lease.lost)])

            lease = one.lock("a", ttl=3000)
            await self.lost(lease, "by another", breaks)

    async def test_is_told_at_the_end_if_not_before(self, path: Path) -> None:
        async with two(path) as (one, other):
            with pytest.raises(LockLostError, match="by another"):
                async with one.lock("a"):
                    await other.break_lock(await holder_of(other))

    async def test_hides_no_error_of_the_block(self, path: Path) -> None:
        async with two(path) as (one, other):
            with pytest.raises(ZeroDivisionError) as caught:
                async with one.lock("a"):
                    await other.break_lock(await holder_of(other))
                    raise ZeroDivisionError
            assert "lost" in caught.value.__notes__[0]

    async def test_is_no_loss_at_the_end_of_the_block(self, path: Path) -> None:
        async with opened(path) as db:
            async with db.lock("a") as lease:
                lost = asyncio.ensure_future(lease.lost)
            assert await lost is None

    async def test_lets_other_tasks_have_it_before_the_block_ends(
        self, path: Path, time: Time
    ) -> None:
        async with opened(path) as db:
            with pytest.raises(LockLostError):
                async with db.lock("a") as lease:
                    time.passes(30)
                    with suppress(LockLostError):
                        lease.check()
                    async with Holder(db.lock("a", timeout=0)):
                        pass

    async def test_frees_nobody_elses_lock(self, path: Path, time: Time) -> None:
        """fault 76: neither the end of the block, nor a release by force that comes late."""
        async with two(path) as (one, other):
            with pytest.raises(LockLostError):
                async with one.lock("a"):
                    old = await holder_of(one)
                    time.passes(30)
                    heir = await other.lock("a", timeout=0).__aenter__()
            assert not await one.break_lock(old)
            assert not await one.break_lock(replace(old, token=heir.token))
            assert (await holder_of(one)).token == heir.token == 2
            heir.check()


class TestRenewal:
    """A lease lasts as long as its block, if the database can be written to (fault 77)."""

    async def test_goes_on_as_long_as_the_block(self, path: Path, clock: Clock) -> None:
        async with two(path) as (one, other), one.lock("a", ttl=3000) as lease:
            for _ in range(4):
                before, end = commits(one), (await holder_of(other)).until
                await renewing(clock, 1001)
                await until(lambda before=before: commits(one) > before)
                assert (await holder_of(other)).until > end + 1_000_000
            assert lease.token == 1
            lease.check()

    async def test_that_meets_a_busy_database_is_tried_again(
        self, path: Path, clock: Clock
    ) -> None:
        async with opened(path, config=Config(busy_timeout=0.01)) as db:
            raw = sqlite3.connect(path, isolation_level=None)
            async with db.lock("a", ttl=3000) as lease:
                before = lease._until
                raw.execute("BEGIN IMMEDIATE")
                await renewing(clock, 1001)
                await until(lambda: lease._problem)
                assert isinstance(lease._problem, BusyError)
                raw.execute("ROLLBACK")
                await until(lambda: lease._until > before)
                assert lease._problem is None
            raw.close()

    async def test_that_fails_is_tried_again_soon_and_not_when_the_next_one_is_due(
        self, path: Path, clock: Clock
    ) -> None:
        """A third of what the lease lasts lies between two: after two failures it would be lost."""
        driver, failures = Driver(), list[str]()

        def fail(step: str) -> None:
            if step.startswith("UPDATE distributed_locks") and len(failures) < 5:
                failures.append(step)
                raise sqlite3.OperationalError("database or disk is full")

        async with opened(path, connect=driver.connect) as db, db.lock("a", ttl=3000) as lease:
            before = commits(db)
            driver.hook = fail
            await renewing(clock, 1001)
            await until(lambda: commits(db) > before)
            assert len(failures) == 5
            lease.check()

    async def test_that_waits_for_the_writer_gives_its_place_to_the_release(
        self, path: Path, clock: Clock
    ) -> None:
        """Where no more may wait, the release would be refused, and the lock stay held."""
        async with opened(path, config=Config(max_pending=1)) as db:
            async with Holder(db.lock("a", ttl=3000)) as holder:
                async with Holder(db.transaction(timeout=9000)):
                    await renewing(clock, 1001)
                    await until(lambda: db.stats()["writer"]["waiting"] == 1)
                    holder.let_go()
                    await until(lambda: "abt_db lock a" not in task_names())
                assert holder.task is not None
                await holder.task
                assert await db.lock_info("a") is None

    async def test_that_can_not_be_done_in_time_is_a_loss(self, path: Path, clock: Clock) -> None:
        async with opened(path, config=Config(busy_timeout=0.01)) as db:
            raw = sqlite3.connect(path, isolation_level=None)
            with pytest.raises(LockLostError, match="before it ran out") as caught:
                async with db.lock("a", ttl=3000) as lease:
                    raw.execute("BEGIN IMMEDIATE")
                    await renewing(clock, 1001)
                    await until(lambda: lease._problem)
                    clock.passes(2000)
                    raise (await lease.lost) or AssertionError
            assert isinstance(caught.value.__cause__, BusyError)
            raw.close()

    async def test_that_comes_too_late_is_none(self, path: Path, time: Time) -> None:
        async with opened(path) as db:
            with pytest.raises(LockLostError):
                async with db.lock("a", ttl=30) as lease:
                    time.passes(30)
                    await lease._renewed()
                    assert await db.lock_info("a") is None
                    assert isinstance(await lease.lost, LockLostError)


class TestFencing:
    """fault 74: with a lease that is over nothing is written, whatever its holder believes."""

    async def test_a_holder_writes(self, path: Path) -> None:
        async with opened(path) as db, db.lock("a") as lease:
            async with db.transaction(lease=lease) as tx:
                await tx.execute(ADD(name="x"))
            assert await db.fetch_one(COUNT()) == 1

    @pytest.mark.parametrize("how", ["released by force", "had by another", "run out"])
    async def test_a_lease_that_is_over_writes_nothing(
        self, path: Path, time: Time, how: str
    ) -> None:
        async with two(path) as (one, other):
            with pytest.raises(LockLostError):
                async with one.lock("a") as lease:
                    # Made while all was well: only the database can tell now.
                    transaction = one.transaction(lease=lease)
                    if how == "released by force":
                        await other.break_lock(await holder_of(other))
                    else:
                        time.passes(30)
                    if how == "had by another":
                        await other.lock("a", timeout=0).__aenter__()
                    with pytest.raises(LockLostError, match="nothing was written"):
                        async with transaction as tx:
                            await tx.execute(ADD(name="stale"))
            await one.execute(ADD(name="the writer works on"))
            assert await other.fetch_one(COUNT()) == 1

    async def test_takes_no_hop_of_its_own(self, path: Path) -> None:
        driver, steps = Driver(), list[str]()
        async with opened(path, connect=driver.connect) as db, db.lock("a") as lease:
            driver.hook = steps.append
            async with db.transaction(lease=lease):
                here = list(steps)
            driver.hook = lambda step: None
        assert [step.split()[0] for step in here] == ["begin", "BEGIN", "SELECT", "end"]

    async def test_nobody_has_the_lock_while_a_holder_writes(self, path: Path, time: Time) -> None:
        """Though the lease runs out meanwhile: what is written comes before what the next does."""
        async with two(path) as (one, other):
            with pytest.raises(LockLostError):
                async with one.lock("a") as lease:
                    async with one.transaction(lease=lease) as tx:
                        time.passes(30)
                        asking = asyncio.create_task(other.lock("a").__aenter__())
                        await until(lambda: other.stats()["writer"]["hops"] > 2)
                        await tx.execute(ADD(name="before"))
                        assert not asking.done()
                    assert (await asking).token == 2
                    assert await other.fetch_one(COUNT()) == 1


class TestCancelling:
    """At whatever step of asking or releasing: the lock is free afterwards, or was never had."""

    async def test_asking_at_every_step(self, path: Path) -> None:
        driver = Driver()
        async with opened(path, connect=driver.connect) as db:
            gate = Gate(driver)
            for number in count():
                gate.stop_at_number(number)
                asking = asyncio.create_task(db.lock("a").__aenter__())
                stopped = asyncio.ensure_future(gate.reached.wait())
                await asyncio.wait([asking, stopped], return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    stopped.cancel()
                    gate.open()
                    break
                asking.cancel()
                await asyncio.sleep(0)
                gate.open()
                await asyncio.wait([asking])
                assert asking.cancelled()
                assert await db.lock_info("a") is None
                assert db._locks().turns.stats()["held"] == 0
            assert number > 7  # one hop that reads, one that writes and commits
            await asking.result().__aexit__(None, None, None)

    @pytest.mark.parametrize("step", ["begin", "SELECT", "UPDATE distributed_locks", "COMMIT"])
    async def test_releasing(self, path: Path, step: str) -> None:
        driver = Driver()
        async with opened(path, connect=driver.connect) as db:
            entered, leave = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with db.lock("a"):
                    entered.set()
                    await leave.wait()

            holding = asyncio.create_task(hold())
            await entered.wait()
            gate = Gate(driver)
            gate.stop_at(step)
            leave.set()
            await gate.reached.wait()
            for _ in range(2):
                holding.cancel()
                await asyncio.sleep(0)
            gate.open()
            await asyncio.wait([holding])
            assert holding.cancelled()
            assert await db.lock_info("a") is None
            assert "abt_db lock a" not in task_names()

    async def test_inside_the_block(self, path: Path) -> None:
        async with opened(path) as db:
            async with Holder(db.lock("a")) as holder:
                assert holder.task is not None
                holder.task.cancel()
                await asyncio.wait([holder.task])
                assert await db.lock_info("a") is None
                holder.task = asyncio.ensure_future(asyncio.sleep(0))


class TestClocks:
    """fault 75: nobody goes by the wall clock; the machine's own begins with the machine."""

    @pytest.mark.parametrize("hours", [-1, 1, 24 * 365])
    async def test_the_wall_clock_may_jump(self, path: Path, time: Time, hours: int) -> None:
        async with two(path) as (one, other):
            async with one.lock("a") as lease:
                time.wall += timedelta(hours=hours)
                with pytest.raises(LockTimeoutError):
                    await other.lock("a", timeout=0).__aenter__()
                lease.check()
                async with one.transaction(lease=lease):
                    pass
            async with other.lock("a", timeout=0):
                pass

    async def test_a_holder_from_before_the_machines_start_is_dead(
        self, path: Path, time: Time
    ) -> None:
        async with two(path) as (one, other):
            with suppress(LockLostError):
                async with one.lock("a"):
                    time.now = 10
                    async with other.lock("a", timeout=0) as lease:
                        assert lease.token == 2

    async def test_it_is_dead_a_ttl_later_if_the_machine_had_just_started_then_as_well(
        self, path: Path, time: Time
    ) -> None:
        time.now = 5_000
        async with two(path) as (one, other):
            with suppress(LockLostError):
                async with one.lock("a", ttl=30):
                    time.now = 6_000  # anew; that one process outlives it is only in this test
                    with pytest.raises(LockTimeoutError):
                        await other.lock("a", timeout=0).__aenter__()
                    time.now = 35_000
                    async with other.lock("a", timeout=0):
                        pass
