"""Who holds what: told to those who wait in vain or look, and logged if it is for long."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    NUMBERS,
    SOON,
    Driver,
    Holder,
    LockingProcess,
    Witness,
    items,
    run_script,
    until,
)

from abt_db import BusyError, Config, Database, PoolTimeoutError, TransactionTimeoutError
from abt_db.connection import file_locks as filelocks
from abt_db.connection import lock_owners as holders

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists who holds a lock")


async def enter(block: Any) -> None:
    async with block:
        pass


def held(db: Database) -> dict[str, Any]:
    [one] = db.stats()["transactions"]
    assert isinstance(one, dict)
    return one


class TestBusyError:
    """Who could not have the file's lock is told who has it (invariant 16, fault 51)."""

    @pytest.mark.parametrize(
        "write",
        [
            lambda db: db.execute(ADD(name="x")),
            lambda db: db.write(lambda cx: cx.execute(ADD(name="x"))),
            lambda db: enter(db.transaction()),
        ],
        ids=["execute", "write", "transaction"],
    )
    async def test_another_database_of_this_process_is_named(
        self, path: Path, write: Callable[[Database], Any]
    ) -> None:
        async with (
            items(path, "a") as db,
            Database(path, config=Config(busy_timeout=0.05)) as rival,
        ):
            async with Holder(db.transaction(label="deploy"), name="deployer"):
                with pytest.raises(
                    BusyError,
                    match=r"transaction 'deploy' of task 'deployer' in this process holds the lock,"
                    r" for \d+\.\d s; gave up after \d+\.\d s",
                ):
                    await write(rival)
            await write(rival)

    @pytest.mark.parametrize("journal_mode", ["wal", "delete"])
    @linux
    async def test_another_process_is_given_by_its_number(
        self, path: Path, journal_mode: str
    ) -> None:
        async with items(path, busy_timeout=0.05, journal_mode=journal_mode) as db:
            with LockingProcess(path) as process:
                number = process._process.pid
                with pytest.raises(BusyError, match=rf"another process .* \(pid {number}\); gave"):
                    await db.execute(ADD(name="x"))

    @linux
    async def test_in_an_opening_too(self, path: Path) -> None:
        async with items(path, journal_mode="delete"):
            pass
        with LockingProcess(path, "BEGIN EXCLUSIVE") as process:
            number = process._process.pid
            with pytest.raises(BusyError, match=rf"opening .*app\.db: .* \(pid {number}\); gave"):
                await Database(path, config=Config(busy_timeout=0.05)).open()

    async def test_a_commit_says_that_somebody_reads(self, path: Path) -> None:
        """Without a write-ahead log."""
        async with items(path, "a", journal_mode="delete", busy_timeout=0.05) as db:
            async with Holder(db.snapshot()):
                with pytest.raises(
                    BusyError, match="reads the file and blocks the COMMIT; gave up"
                ):
                    await db.execute(ADD(name="x"))
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_who_only_waits_in_this_process_is_not_taken_for_the_holder(
        self, path: Path
    ) -> None:
        async with (
            items(path, busy_timeout=SOON) as db,
            Database(path, config=Config(busy_timeout=0.05)) as rival,
        ):
            with LockingProcess(path):
                waiting = asyncio.create_task(enter(db.transaction(label="waiting")))
                await until(lambda: [t["state"] for t in db.stats()["transactions"]] == ["waiting"])
                with pytest.raises(BusyError, match="another process"):
                    await rival.execute(ADD(name="x"))
            await waiting

    @linux
    async def test_a_connection_of_this_process_that_is_not_ours(self, path: Path) -> None:
        async with items(path, busy_timeout=0.05) as db:
            with closing(sqlite3.connect(path, isolation_level=None)) as raw:
                raw.execute("BEGIN IMMEDIATE")
                with pytest.raises(BusyError, match="another connection of this process"):
                    await db.execute(ADD(name="x"))

    def test_a_writer_that_a_fork_has_copied_is_not_in_this_process(self, path: Path) -> None:
        """The child inherits the parent's list of writers, which are not its own."""
        done = run_script(
            """
            import warnings
            warnings.simplefilter("ignore")

            async def write():
                async with Database(path, config=Config(busy_timeout=0.05)) as db:
                    try:
                        await db.execute(ADD(name="child"))
                    except BusyError as error:
                        print(error, flush=True)

            async def main():
                async with items(path) as db, db.transaction(label="deploy") as tx:
                    await tx.execute(ADD(name="parent"))
                    if not (child := os.fork()):
                        try:
                            asyncio.run(write())
                        finally:
                            os._exit(0)
                    await asyncio.to_thread(os.waitpid, child, 0)
                    print(os.getpid())

            asyncio.run(main())
            """,
            path,
        )
        said, _, parent = done.stdout.strip().rpartition("\n")
        assert "another process holds the lock" in said and "deploy" not in said, done.stderr
        if sys.platform == "linux":
            assert f"(pid {parent})" in said

    async def test_where_the_system_tells_nothing_it_is_another_process(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(holders, "_lockers", lambda path: set())
        async with items(path, busy_timeout=0.05) as db:
            with LockingProcess(path), pytest.raises(BusyError, match="another process holds the"):
                await db.execute(ADD(name="x"))

    async def test_nobody_is_kept_in_the_list(self, path: Path) -> None:
        """Neither who closes nor who forgets to."""
        before = len(holders._writers)
        async with items(path):
            assert len(holders._writers) == before + 1
        assert len(holders._writers) == before
        with pytest.warns(ResourceWarning):
            await Database(path).open()
            gc.collect()
        assert len(holders._writers) == before


LOCKS = """\
1: POSIX  ADVISORY  WRITE 11 fe:00:7 120 120
1: -> POSIX  ADVISORY  WRITE 12 fe:00:7 120 120
2: POSIX  ADVISORY  READ 13 fe:00:7 120 120
3: POSIX  ADVISORY  WRITE 14 fe:00:7 121 124
4: POSIX  ADVISORY  WRITE 15 fe:00:8 120 120
5: FLOCK  ADVISORY  WRITE 16 fe:00:7 0 EOF
6: POSIX  ADVISORY  WRITE 17 fe:00:7 100 EOF
7: POSIX  ADVISORY  WRITE 0 fe:00:7 120 120
8: OFDLCK ADVISORY  WRITE -1 fe:00:7 120 120
nonsense
"""


def test_the_list_of_locks_is_read_as_linux_writes_it() -> None:
    found = list(filelocks._found(LOCKS.splitlines(), "fe:00:7"))
    writers = [lock.pid for lock in found if lock.exclusive and lock.meets(filelocks.WRITE_LOCK)]
    readers = [lock.pid for lock in found if lock.meets(filelocks.READ_MARKS)]
    assert (writers, readers) == ([11, 17], [14, 17])


class TestPoolTimeoutError:
    """Who could not have a connection is told who has it, and what he waits for."""

    async def test_a_holder_that_waits_for_another_process(self, path: Path) -> None:
        async with items(path, busy_timeout=SOON, acquire_timeout=0.1) as db:
            for write in enter(db.transaction(label="deploy")), db.execute(ADD(name="x")):
                with LockingProcess(path):
                    first = asyncio.create_task(write)
                    await until(lambda: db.stats()["writer"]["busy"])
                    with pytest.raises(
                        PoolTimeoutError, match="which waits itself: another process"
                    ):
                        await db.execute(ADD(name="y"))
                await first

    async def test_one_that_works_does_not_wait(self, path: Path) -> None:
        async with items(path, busy_timeout=SOON, acquire_timeout=0.1) as db:
            with LockingProcess(path):
                waited = asyncio.create_task(db.execute(ADD(name="x")))
                await until(lambda: db.stats()["writer"]["busy"])
                await asyncio.wait([waited], timeout=0.1)
            await waited
            async with Holder(db.transaction()):
                with pytest.raises(PoolTimeoutError) as caught:
                    await db.execute(ADD(name="y"))
            assert "waits itself" not in str(caught.value)


class TestActiveTransactions:
    """`stats()` has what is lent at this moment, as data."""

    async def test_what_it_is_doing(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        async with (
            items(path, "a", connect=driver.connect) as db,
            db.transaction(label="deploy", timeout=9000) as tx,
        ):
            assert held(db) | {"age": 0} == {
                "label": "transaction 'deploy'",
                "task": asyncio.current_task().get_name(),  # type: ignore[union-attr]
                "age": 0,
                "statements": 0,
                "state": "idle",
                "query": None,
            }
            await tx.fetch_one(COUNT())
            await tx.write(lambda cx: [cx.execute(ADD(name=name)) for name in "bc"])
            assert held(db)["statements"] == 3
            seen = []
            loop = asyncio.get_running_loop()

            def look() -> None:
                seen.append(held(db))
                clock.passes(1000)

            def begun(step: str) -> None:
                if step == ENDLESS.text:
                    loop.call_soon_threadsafe(look)

            driver.hook = begun
            with suppress(TimeoutError):
                await tx.fetch_one(ENDLESS(), timeout=1000)
            assert (seen[0]["state"], seen[0]["query"]) == ("running", "endless")
            assert (held(db)["state"], held(db)["query"]) == ("idle", None)

    async def test_snapshots_and_streams_too_the_oldest_first(self, path: Path) -> None:
        async with items(path, "a") as db:
            async with db.snapshot(label="report"), db.stream(NAMES()):
                labels = [one["label"] for one in db.stats()["transactions"]]
            assert labels == ["snapshot 'report'", "stream of items.names"]
            assert db.stats()["transactions"] == []


class TestLongHolders:
    """Who keeps a connection for long is logged, once, with no value of his (invariant 20)."""

    def said(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if "held" in record.getMessage()]

    @pytest.mark.parametrize("kind", ["transaction", "snapshot", "stream"])
    async def test_once_each(self, path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        def logged(number: int) -> bool:
            return len(self.said(caplog)) == number

        async with items(path, "secret", slow_transaction=0.03) as db:
            if kind == "stream":
                block: Any = db.stream(NUMBERS(count=10), size=1)
            else:
                block = getattr(db, kind)(label="slow one")
            with caplog.at_level(logging.WARNING, "abt_db"):
                for number in 1, 2:
                    async with Holder(block, name="sleeper"):
                        await until(partial(logged, number))
                        await asyncio.sleep(0.1)  # the time in which it could come again
                    assert logged(number)
                    block = db.transaction()
            first = self.said(caplog)[0]
            assert ("stream of numbers" if kind == "stream" else "slow one") in first
            assert "task 'sleeper'" in first and "secret" not in first
            assert ("log can't be reset" in first) == (kind != "transaction")

    @pytest.mark.parametrize("limit", [None, SOON])
    async def test_who_is_quick_is_not(
        self, path: Path, limit: float | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with items(path, slow_transaction=limit) as db:
            async with db.transaction(timeout=SOON) as tx:
                await tx.execute(ADD(name="a"))
        assert not self.said(caplog)


class TestOwnerWhoNeverComesBack:
    """Past its limit a transaction is rolled back by the library, whatever its owner does, and the
    owner hears of it at its next use (fault 9)."""

    async def test_it_sleeps_for_ever(self, path: Path, clock: Clock) -> None:
        async with items(path) as db, Witness(db) as witness:

            async def sleep() -> None:
                async with db.transaction(timeout=10) as tx, tx.savepoint() as inner:
                    await inner.execute(ADD(name="undone"))
                    asleep.set()
                    await asyncio.Event().wait()

            asleep = asyncio.Event()
            owner = asyncio.create_task(sleep())
            await asleep.wait()
            clock.passes(10)
            await db.execute(ADD(name="a"))  # waits for the writer, and has it then
            assert db.stats()["transactions"] == []
            await witness.whole()
            owner.cancel()
            await asyncio.wait([owner])
            assert witness.count() == 1

    @pytest.mark.parametrize("use", ["tx", "savepoint", "stream", "end", "savepoint's end"])
    async def test_its_next_use(self, path: Path, use: str, clock: Clock) -> None:
        async with items(path, *"abc") as db, Witness(db) as witness:
            with pytest.raises(TransactionTimeoutError, match="'deploy'"):
                async with db.transaction(timeout=10, label="deploy") as tx:
                    await tx.execute(ADD(name="undone"))
                    async with tx.savepoint() as inner, tx.stream(NAMES(), size=1) as rows:
                        clock.passes(10)
                        await witness.whole()
                        if use == "tx":
                            await tx.execute(ADD(name="refused"))
                        if use == "savepoint":
                            await inner.execute(ADD(name="refused"))
                        if use == "stream":
                            assert [row async for row in rows]
                    if use == "savepoint's end":
                        await tx.fetch_one(COUNT())
            assert witness.count() == 3
