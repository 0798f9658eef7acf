"""One writer, many readers, one file: what each may do, what it sees, and who else has the file."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE
from time import monotonic
from typing import Any

import aiosqlite
import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    COUNT_TABLES,
    NAMES,
    SOON,
    TOUCH,
    Driver,
    Holder,
    LockingProcess,
    Witness,
    busy,
    items,
    lose_writer,
    on_writer,
    script,
    until,
)
from support.suite import threads

from abt_db import (
    AbtDbError,
    BusyError,
    CantOpenError,
    Config,
    Database,
    DeniedError,
    IntegrityError,
    PoolTimeoutError,
    Query,
    QueryError,
    ReadOnlyError,
    TransactionAbortedError,
    TransactionStateError,
)
from abt_db.connection.deadline import Deadline

VERSION = Query("version.get", "PRAGMA user_version", int)


class TestOneWriter:
    """One connection writes, it has the file's write lock from the start of each transaction, and
    it comes before the readers (invariants 1, 2, 4)."""

    async def test_no_two_transactions_that_write_overlap(self, path: Path) -> None:
        driver = Driver()
        writing: set[int] = set()
        most: list[int] = []
        wrote: set[int] = set()

        def hook(step: str) -> None:
            thread = threading.get_ident()
            if step.startswith("BEGIN IMMEDIATE"):
                writing.add(thread)
                wrote.add(thread)
                most.append(len(writing))
            elif step in ("COMMIT", "ROLLBACK"):
                writing.discard(thread)

        async def transaction(name: str) -> None:
            async with db.transaction() as tx:
                await tx.execute(ADD(name=name))

        async with items(path, connect=driver.connect) as db:
            driver.hook = hook
            for number in range(5):
                await asyncio.gather(
                    *(db.execute(ADD(name=f"{number} {n}")) for n in range(5)),
                    *(transaction(f"{number} in a transaction {n}") for n in range(3)),
                    *(db.fetch_one(COUNT()) for _ in range(3)),
                    db.write(lambda cx, n=number: cx.execute(ADD(name=f"{n} by a function"))),
                    db.run_batch([ADD(name=f"{number} in a batch")]),
                    db.resize(readers=1 + number % 3),
                )
            assert await db.fetch_one(COUNT()) == 50
        assert set(most) == {1}
        assert len(wrote) == 1

    async def test_a_writer_that_is_stuck_is_waited_for(self, path: Path) -> None:
        """A reader that is stuck as long gets a stand-in meanwhile."""
        driver, free = Driver(), threading.Event()
        stuck: list[str] = []

        def hook(step: str) -> None:
            if step in (TOUCH.text, NAMES.text):
                stuck.append(step)
                assert free.wait(SOON)

        async with items(path, "a", readers=1, connect=driver.connect) as db:
            driver.hook = hook
            calls = [asyncio.create_task(db.execute(TOUCH(id=1)))]
            calls.append(asyncio.create_task(db.fetch_all(NAMES())))
            try:
                await until(lambda: len(stuck) == 2)
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                write = asyncio.create_task(db.execute(ADD(name="b")))
                assert await db.fetch_one(COUNT()) == 1  # on the stand-in
                assert (db.stats()["writer"]["opened"], db.stats()["writer"]["waiting"]) == (1, 1)
            finally:
                free.set()
            await write

    @pytest.mark.parametrize(
        "verb",
        [
            lambda db: db.execute(ADD(name="a")),
            lambda db: db.execute_many(ADD, [{"name": "a"}, {"name": "b"}]),
            lambda db: db.execute_batch([TOUCH(id=1), ADD(name="a")]),
            lambda db: db.run_batch([TOUCH(id=1), ADD(name="a")]),
            lambda db: db.write(lambda cx: (cx.fetch_one(COUNT()), cx.execute(ADD(name="a")))),
            lambda db: asyncio.gather(*(db.execute(ADD(name=name)) for name in "abc")),
        ],
        ids=["execute", "execute_many", "execute_batch", "run_batch", "write", "together"],
    )
    async def test_each_kind_of_write_takes_the_lock_before_all_else(
        self, path: Path, verb: Callable[[Database], Any]
    ) -> None:
        driver, steps = Driver(), list[str]()
        async with items(path, connect=driver.connect) as db:
            driver.hook = steps.append
            await verb(db)
        hops = " ".join(steps).split("begin ")[1:]
        writing = [hop for hop in hops if "INSERT" in hop or "COMMIT" in hop]
        assert writing and all(hop.startswith("BEGIN IMMEDIATE ") for hop in writing)

    @pytest.mark.parametrize("there", [False, True], ids=["a new file", "one that was closed"])
    async def test_it_opens_before_the_readers_and_leaves_them_a_log(
        self, path: Path, there: bool
    ) -> None:
        opened: list[tuple[bool, bool]] = []

        def connect(name: str, **kwargs: Any) -> aiosqlite.Connection:
            beside = [path.with_name(f"app.db{ending}") for ending in ("-wal", "-shm")]
            opened.append(("mode=ro" in name, all(file.exists() for file in beside)))
            return aiosqlite.connect(name, **kwargs)

        if there:
            async with items(path, "a"):
                pass
        async with Database(path, config=Config(readers=2), connect=connect) as db:
            assert (await db.fetch_one(COUNT_TABLES()) > 0) is there
        assert opened == [(False, False), (True, True), (True, True)]


class TestReadYourWrites:
    """A read that begins after a write has returned sees it, on whichever reader (invariant 6)."""

    async def test_on_every_reader(self, path: Path) -> None:
        async with items(path, readers=4) as db:
            for number in range(1, 50):
                await db.execute(ADD(name=str(number)))
                counts = await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(4)))
                assert counts == [number] * 4

    async def test_after_a_transaction(self, path: Path) -> None:
        async with items(path) as db:
            for number in range(1, 20):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name=str(number)))
                assert await db.fetch_one(COUNT()) == number

    async def test_what_is_not_committed_is_not_seen(self, path: Path) -> None:
        async with items(path) as db, db.transaction() as tx:
            await tx.execute(ADD(name="a"))
            assert await tx.fetch_one(COUNT()) == 1
            async with db.snapshot() as view:
                assert await view.fetch_one(COUNT()) == 0
            assert await asyncio.create_task(db.fetch_one(COUNT())) == 0


class TestReaders:
    """Readers can't write: not tables, not TEMP, not the header (invariant 3; fault 40)."""

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO items (name) VALUES ('x')",
            "UPDATE items SET name = 'x'",
            "DELETE FROM items",
            "CREATE TABLE x (y)",
            "CREATE TEMP TABLE x (y)",
            "DROP TABLE items",
            "PRAGMA user_version = 7",
            "PRAGMA user_version(7)",
            "WITH x AS (SELECT 1) DELETE FROM items",
            "INSERT INTO items (name) VALUES ('x') RETURNING id",
        ],
    )
    @pytest.mark.parametrize("file", ["app.db", ":memory:"])
    async def test_a_write_on_a_reader_is_refused(
        self, tmp_path: Path, sql: str, file: str
    ) -> None:
        query = Query("a write", sql)
        async with items(tmp_path / file if file == "app.db" else file, "a") as db:
            with pytest.raises(ReadOnlyError):
                await db.read(lambda cx: cx.fetch_all(query()))
            async with db.snapshot() as view:
                with pytest.raises(ReadOnlyError):
                    await view.fetch_all(query())
            assert await db.fetch_all(NAMES()) == ["a"]
            assert await db.fetch_one(VERSION()) == 0

    @pytest.mark.parametrize("pragma", ["query_only = 0", "query_only(0)"])
    async def test_a_reader_can_not_make_itself_a_writer(self, path: Path, pragma: str) -> None:
        async with items(path) as db:
            with pytest.raises(QueryError):
                await db.read(lambda cx: cx.fetch_all(Query("off", f"PRAGMA {pragma}")()))

    async def test_a_read_that_writes_is_no_execute(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(QueryError, match="only reads"):
                await db.execute(COUNT())
            with pytest.raises(QueryError, match="only reads"):
                await db.execute_many(COUNT, [{}])


class TestPermissions:
    """Settings, other files and transactions are the pool's; a caller's SQL is refused with a
    reason (faults 19, 23, 41)."""

    @pytest.mark.parametrize(
        "sql",
        [
            "PRAGMA foreign_keys = 0",
            "PRAGMA foreign_keys = 1",
            "PRAGMA foreign_keys(0)",
            "PRAGMA journal_mode = delete",
            "PRAGMA journal_mode = wal",
            "PRAGMA synchronous = full",
            "PRAGMA synchronous = normal",
            "PRAGMA busy_timeout = 100",
            "PRAGMA writable_schema = 1",
            "PRAGMA wal_checkpoint",
            "SELECT load_extension('x')",
        ],
    )
    async def test_what_is_not_a_query_is_refused(self, path: Path, sql: str) -> None:
        query = Query("setting", sql)
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(DeniedError, match="refused"):
                await db.write(lambda cx: cx.fetch_all(query()))
            async with db.transaction() as tx:
                with pytest.raises(DeniedError, match="refused"):
                    await tx.fetch_all(query())
                await tx.execute(ADD(name="a"))
            await witness.whole()
            assert witness.count() == 1


class TestWrites:
    """A write has a transaction of its own: all of it or nothing, and one answer."""

    async def test_a_batch_that_fails_half_way_leaves_nothing(self, path: Path) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            with pytest.raises(IntegrityError) as caught:
                await db.execute_batch([ADD(name="b"), ADD(name="a"), ADD(name="c")])
            assert caught.value.query == "items.add"
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_many_rows_of_which_one_fails_leave_nothing(self, path: Path) -> None:
        async with items(path, "a") as db:
            with pytest.raises(IntegrityError):
                await db.execute_many(ADD, [{"name": name} for name in "bcda"])
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_rows_that_raise_half_way_leave_nothing(self, path: Path) -> None:
        def rows() -> Any:
            yield {"name": "b"}
            raise ZeroDivisionError

        async with items(path, "a") as db, Witness(db) as witness:
            with pytest.raises(ZeroDivisionError):
                await db.execute_many(ADD, rows())
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    @pytest.mark.parametrize("how", ["INSERT OR ROLLBACK", "trigger"])
    async def test_a_function_that_swallows_the_end_of_its_transaction_is_told(
        self, path: Path, how: str
    ) -> None:
        """invariant 9, faults 21, 25."""
        sql = "INSERT OR ROLLBACK INTO items (name) VALUES ('a')"
        if how == "trigger":
            sql = "INSERT INTO items (name) VALUES ('rollback')"
        ending = Query("items.end", sql)

        def function(cx: Any) -> None:
            cx.execute(ADD(name="b"))
            with pytest.raises(QueryError):
                cx.execute(ending())

        async with items(path, "a") as db, Witness(db) as witness:
            await on_writer(db, lambda cx: cx.run_sql(ROLLBACK_TRIGGER, doing="the trigger"))
            with pytest.raises(TransactionAbortedError):
                await db.write(function)
            with pytest.raises(IntegrityError):
                await db.execute(ending())
            with pytest.raises(IntegrityError):
                await db.execute_batch([ADD(name="b"), ending(), ADD(name="c")])
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_a_commit_that_fails_leaves_nothing_and_the_writer_works_on(
        self, path: Path
    ) -> None:
        """fault 22."""
        driver = Driver()

        def full(step: str) -> None:
            if step == "COMMIT":
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                error.sqlite_errorname = "SQLITE_FULL"
                raise error

        async with items(path, "a", connect=driver.connect) as db, Witness(db) as witness:
            driver.hook = full
            with pytest.raises(QueryError, match="SQLITE_FULL"):
                await db.execute(ADD(name="b"))
            with pytest.raises(QueryError, match="SQLITE_FULL"):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="c"))
            driver.hook = lambda step: None
            await witness.whole()
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_a_failed_rollback_does_not_hide_the_first_error(self, path: Path) -> None:
        """invariants 10, 12."""
        driver = Driver()

        def refuse(step: str) -> None:
            if step == "ROLLBACK":
                raise sqlite3.OperationalError("disk I/O error")

        async with items(path, "a", connect=driver.connect) as db:
            driver.hook = refuse
            with pytest.raises(ZeroDivisionError) as caught:
                await db.write(lambda cx: 1 // 0)
            assert any("disk I/O error" in note for note in caught.value.__notes__)
            with pytest.raises(ZeroDivisionError):
                await db.read(lambda cx: 1 // 0)
            driver.hook = lambda step: None
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    async def test_a_deferred_foreign_key_is_told_by_the_commit(self, path: Path) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            await db.execute(CHILDREN())
            with pytest.raises(IntegrityError):
                await db.execute(ADD_CHILD(parent=99))
            with pytest.raises(IntegrityError):
                async with db.transaction() as tx:
                    await tx.execute(ADD_CHILD(parent=99))
            await witness.whole()
            await db.execute(ADD_CHILD(parent=1))


ROLLBACK_TRIGGER = (
    "CREATE TRIGGER ender BEFORE INSERT ON items WHEN new.name = 'rollback'"
    " BEGIN SELECT RAISE(ROLLBACK, 'the end'); END"
)
CHILDREN = Query(
    "children.create",
    "CREATE TABLE children (parent REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED)",
)
ADD_CHILD = Query("children.add", "INSERT INTO children VALUES (:parent)")


class TestOtherProcesses:
    """Another process's lock is waited for as long as was said, not longer and not shorter, and in
    the event loop (fault 51)."""

    async def test_busy_after_the_deadline_and_not_before(self, path: Path) -> None:
        async with items(path, busy_timeout=0.4) as db, Witness(db) as witness:
            with LockingProcess(path):
                for write in (
                    lambda: db.execute(ADD(name="a")),
                    lambda: db.write(lambda cx: cx.execute(ADD(name="a"))),
                    lambda: entered(db.transaction()),
                ):
                    began = monotonic()
                    with pytest.raises(BusyError, match="another process"):
                        await write()
                    assert 0.4 <= monotonic() - began < SOON
                assert await db.fetch_one(COUNT()) == 0
            await witness.whole()

    async def test_free_at_once_when_the_holder_is_killed(self, path: Path) -> None:
        async with items(path, busy_timeout=30.0) as db:
            with LockingProcess(path) as holder:
                writes = [
                    asyncio.create_task(db.execute(ADD(name="a"))),
                    asyncio.create_task(entered(db.transaction())),
                ]
                await until(lambda: db.stats()["writer"]["busy"])
                await db.fetch_one(COUNT())
                holder.kill()
                began = monotonic()
                await asyncio.gather(*writes)
                assert monotonic() - began < SOON
            assert await db.fetch_one(COUNT()) == 1

    async def test_who_waits_for_a_lock_can_stop_waiting(self, path: Path) -> None:
        async with items(path, busy_timeout=30.0) as db, Witness(db) as witness:
            with LockingProcess(path):
                for write in db.execute(ADD(name="a")), entered(db.transaction()):
                    began = monotonic()
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await write
                    assert monotonic() - began < SOON
                began = monotonic()
                with pytest.raises(BusyError):
                    await db.execute(ADD(name="a"), timeout=0.05)
                assert monotonic() - began < SOON
            await witness.whole()
            assert witness.count() == 0

    @pytest.mark.parametrize("verb", ["fetch_one", "read", "snapshot", "stream"])
    async def test_readers_wait_for_an_exclusive_lock_too(self, path: Path, verb: str) -> None:
        """invariant 19; without a write-ahead log a writer shuts readers out."""

        async def call(db: Database) -> Any:
            if verb == "fetch_one":
                return await db.fetch_one(COUNT())
            if verb == "read":
                return await db.read(lambda cx: cx.fetch_one(COUNT()))
            if verb == "snapshot":
                async with db.snapshot() as view:
                    return await view.fetch_one(COUNT())
            async with db.stream(COUNT()) as rows:
                return sum([row async for row in rows])

        async with items(path, journal_mode="delete", busy_timeout=SOON) as db:
            # A reader that has yet to hear of the table would be told by SQLite that there is none.
            await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(2)))
            with LockingProcess(path, "BEGIN EXCLUSIVE") as holder:
                task = asyncio.create_task(call(db))
                await until(lambda: db.stats()["readers"]["busy"])
                done, _ = await asyncio.wait([task], timeout=0.3)
                assert not done
                holder.kill()
                assert await task == 0

    @pytest.mark.parametrize("verb", ["execute", "transaction"])
    async def test_a_commit_waits_for_readers_of_another_process(
        self, path: Path, verb: str
    ) -> None:
        """Without a write-ahead log it is the COMMIT that meets the lock, and it can be tried
        again."""

        async def write(db: Database) -> None:
            if verb == "execute":
                await db.execute(ADD(name="a"))
            else:
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="a"))

        async with items(path, journal_mode="delete", busy_timeout=SOON) as db:
            with LockingProcess(path, "BEGIN", "SELECT * FROM sqlite_schema") as reader:
                task = asyncio.create_task(write(db))
                done, _ = await asyncio.wait([task], timeout=0.4)
                assert not done, task.exception()
                reader.kill()
                await task
            assert await db.fetch_all(NAMES()) == ["a"]

    def test_sixteen_processes_open_a_new_file_at_once(self, path: Path) -> None:
        """fault 55."""
        command = script(
            """
            async def main():
                print("ready", flush=True)
                sys.stdin.readline()
                async with Database(path, config=Config(readers=1, busy_timeout=300)) as db:
                    await db.execute(Query("t", "CREATE TABLE IF NOT EXISTS items (name TEXT)")())
                    await db.execute(Query("add", "INSERT INTO items VALUES (:name)")(name="x"))

            asyncio.run(main())
            """,
            engine=False,
        )
        with ExitStack() as work:
            started = [
                work.enter_context(
                    subprocess.Popen([*command, str(path)], stdin=PIPE, stdout=PIPE, text=True)
                )
                for _ in range(16)
            ]
            for process in started:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            for process in started:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            assert [process.wait(SOON * 5) for process in started] == [0] * 16
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT count(*) FROM items").fetchone() == (16,)


async def entered(block: Any) -> None:
    async with block:
        pass


class TestMemory:
    """`:memory:` is one database: one connection serves reads and writes (invariant 25)."""

    async def test_everyone_sees_the_same_database(self, no_leaks: None) -> None:
        async with items(":memory:", *"ab", readers=4) as db:
            counts = await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(8)))
            assert counts == [2] * 8
            async with db.snapshot() as view:
                assert await view.fetch_one(COUNT()) == 2
            async with db.stream(NAMES(), size=1) as rows:
                assert [row async for row in rows] == ["a", "b"]
            async with db.barrier() as loan:
                assert await loan.run(lambda cx: cx.fetch_one(COUNT()), Deadline()) == 2
            async with db.transaction() as tx:
                await tx.execute(ADD(name="c"))
            assert await db.read(lambda cx: cx.fetch_one(COUNT())) == 3
            assert not Path(":memory:").exists()
            assert repr(db).startswith("<Database :memory:: writer idle")

    async def test_a_read_inside_ones_own_transaction_is_refused_not_awaited(self) -> None:
        async with items(":memory:") as db, asyncio.timeout(SOON), db.transaction() as tx:
            with pytest.raises(TransactionStateError):
                await db.fetch_one(COUNT())
            assert await tx.fetch_one(COUNT()) == 0

    async def test_a_failed_read_leaves_the_writer_a_writer(self) -> None:
        async with items(":memory:") as db:
            with pytest.raises(ReadOnlyError):
                await db.read(lambda cx: cx.execute(ADD(name="x")))
            await db.execute(ADD(name="a"))
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_two_of_them_are_two(self) -> None:
        async with items(":memory:", "a") as one, items(":memory:") as other:
            assert (await one.fetch_one(COUNT()), await other.fetch_one(COUNT())) == (1, 0)

    def test_read_only_is_refused(self) -> None:
        async def open_it() -> None:
            await entered(Database(":memory:", read_only=True))

        with pytest.raises(AbtDbError, match="memory"):
            asyncio.run(open_it())


class TestReadOnly:
    """`read_only` opens what others write, or nobody any more: it reads, and leaves no trace."""

    async def test_it_follows_another_writer(self, path: Path, no_leaks: None) -> None:
        async with items(path, "a") as db, Database(path, read_only=True) as follower:
            assert await follower.fetch_all(NAMES()) == ["a"]
            async with follower.snapshot() as view:
                assert await view.fetch_one(COUNT()) == 1
                await db.execute(ADD(name="b"))
                assert await view.fetch_one(COUNT()) == 1
            assert await follower.fetch_one(COUNT()) == 2
            await until(lambda: not busy(follower))
            assert repr(follower) == "<Database app.db: read-only, readers 0/4, 0 waiting>"
            assert follower.stats()["writer"] is None

    @pytest.mark.parametrize(
        "call",
        [
            lambda db: db.execute(ADD(name="x")),
            lambda db: db.execute_many(ADD, []),
            lambda db: db.write(lambda cx: None),
            lambda db: db.read(lambda cx: cx.execute(ADD(name="x"))),
            lambda db: entered(db.transaction()),
            lambda db: entered(db.barrier()),
        ],
        ids=["execute", "execute_many", "write", "read", "transaction", "barrier"],
    )
    async def test_it_refuses_writes(self, path: Path, call: Callable[[Database], Any]) -> None:
        async with items(path, "a"):
            pass
        async with Database(path, read_only=True) as db:
            with pytest.raises(ReadOnlyError):
                await call(db)
            assert await db.fetch_all(NAMES()) == ["a"]

    @pytest.mark.parametrize("journal_mode", ["wal", "delete"])
    async def test_an_archive_is_left_as_it_was(
        self, path: Path, journal_mode: str, no_leaks: None
    ) -> None:
        async with items(path, "a", journal_mode=journal_mode):
            pass
        before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
        async with Database(path, read_only=True) as db:
            assert await db.fetch_all(NAMES()) == ["a"]
        after = {file.name: file.read_bytes() for file in path.parent.iterdir()}
        # SQLite makes an empty log for a reader of a WAL database, and a reader can't remove it.
        assert after.pop("app.db-wal", b"") == b""
        after.pop("app.db-shm", None)
        assert after == before

    async def test_a_file_that_is_not_there_is_not_made(self, path: Path) -> None:
        with pytest.raises(CantOpenError, match="does not exist"):
            await entered(Database(path, read_only=True))
        assert not path.exists()


class TestBarrier:
    """While a barrier stands nobody else reads or writes (invariant 21)."""

    async def test_it_waits_for_readers_and_new_ones_wait_for_it(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness, asyncio.TaskGroup() as group:
            reader = Holder(db.snapshot())
            async with reader:
                barrier = Holder(db.barrier())
                standing = asyncio.create_task(barrier.__aenter__())
                await until(lambda: db.stats()["writer"]["busy"])
                read = group.create_task(db.fetch_one(COUNT()))
                write = group.create_task(db.execute(ADD(name="a")))
                await until(lambda: busy(db) == 4)
                assert not standing.done()
            await standing
            assert busy(db) == 3  # the writer lent, a read and a write that wait
            assert not read.done() and not write.done()
            await barrier.__aexit__()
            await asyncio.wait([read, write])
            await witness.whole()

    async def test_a_reader_that_stays_too_long_fails_it(self, path: Path, clock: Clock) -> None:
        async with items(path) as db, Witness(db) as witness:
            async with Holder(db.snapshot(label="report")):
                task = asyncio.create_task(entered(db.barrier()))
                await until(lambda: clock.passes(1) or task.done())
                with pytest.raises(PoolTimeoutError, match="'report'"):
                    await task
                assert await db.fetch_one(COUNT()) == 0  # the other reader goes on
                await db.execute(ADD(name="a"))
            await witness.whole()

    async def test_an_error_in_it_ends_it(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(ZeroDivisionError):
                async with db.barrier() as loan:
                    await loan.run(lambda cx: cx.begin("IMMEDIATE"), Deadline())
                    await loan.run(lambda cx: cx.execute(ADD(name="undone")), Deadline())
                    raise ZeroDivisionError
            await witness.whole()
            assert witness.count() == 0
            with pytest.raises(TransactionStateError):
                await loan.run(lambda cx: None, Deadline())


class TestOpening:
    """A failed open frees what it had opened, and says what was wrong (invariants 4, 22)."""

    @pytest.mark.parametrize("broken", range(6))
    async def test_the_failure_of_any_connection_closes_all(
        self, path: Path, broken: int, no_leaks: None
    ) -> None:
        """fault 62: the writer is number 0, its five readers follow."""
        opened = iter(range(100))

        def connect(*args: Any, **kwargs: Any) -> aiosqlite.Connection:
            if next(opened) == broken:
                args = (f"file:{path.parent}/missing/app.db", *args[1:])
            return aiosqlite.connect(*args, **kwargs)

        db = Database(path, config=Config(readers=5), connect=connect)
        with pytest.raises(CantOpenError):
            await entered(db)
        assert repr(db) == "<Database app.db: closed>"
        # What failed to open was never configured, so its thread is not waited for.
        await until(lambda: len(threads()) == 1)
        async with db:  # by now nothing is broken
            assert await db.fetch_one(COUNT_TABLES()) == 0

    @pytest.mark.parametrize("step", ["PRAGMA cache_size", "PRAGMA query_only", "PRAGMA journal"])
    async def test_a_connection_that_can_not_be_configured_never_serves(
        self, path: Path, step: str, no_leaks: None
    ) -> None:
        driver = Driver()

        def refuse(here: str) -> None:
            if here.startswith(step):
                raise sqlite3.OperationalError("disk I/O error")

        driver.hook = refuse
        db = Database(path, connect=driver.connect)
        with pytest.raises(QueryError, match=r"opening .*app\.db: disk I/O error"):
            await entered(db)
        driver.hook = lambda step: None
        async with db:
            assert await db.fetch_one(COUNT_TABLES()) == 0

    @pytest.mark.parametrize(
        "name", ["a b.db", "50%.db", "what?.db", "a#b.db", "ä ü.db", "'q'.db", "a&mode=ro.db"]
    )
    async def test_any_file_name_is_a_file_name(self, tmp_path: Path, name: str) -> None:
        async with items(tmp_path / name, "a", readers=1) as db:
            assert await db.fetch_all(NAMES()) == ["a"]
            assert (tmp_path / name).exists()

    async def test_a_path_with_two_slashes_in_front(self, path: Path) -> None:
        async with items(f"/{path}", "a", readers=1) as db:
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_a_relative_path_stays_the_same_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also for a connection that is opened later, when the working directory is another."""
        driver = Driver()
        monkeypatch.chdir(path.parent)
        async with items("app.db", "a", connect=driver.connect) as db:
            elsewhere = path.parent / "elsewhere"
            elsewhere.mkdir()
            monkeypatch.chdir(elsewhere)
            await lose_writer(db, driver)
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]
        assert list(elsewhere.iterdir()) == []

    async def test_a_file_locked_by_another_process_is_waited_for(self, path: Path) -> None:
        with LockingProcess(path, "CREATE TABLE x (y)", "BEGIN EXCLUSIVE") as holder:
            db = Database(path, config=Config(busy_timeout=SOON))
            opening = asyncio.create_task(db.open())
            done, _ = await asyncio.wait([opening], timeout=0.3)
            assert not done
            holder.kill()
            await opening
            await db.close()

    async def test_who_waits_for_that_can_stop_waiting(self, path: Path, no_leaks: None) -> None:
        """fault 12"""
        with LockingProcess(path, "CREATE TABLE x (y)", "BEGIN EXCLUSIVE"):
            began = monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await Database(path, config=Config(busy_timeout=SOON)).open()
            assert monotonic() - began < SOON / 2

    async def test_a_file_locked_for_too_long_is_busy(self, path: Path, no_leaks: None) -> None:
        with LockingProcess(path, "CREATE TABLE x (y)", "BEGIN EXCLUSIVE"):
            began = monotonic()
            with pytest.raises(BusyError):
                await entered(Database(path, config=Config(busy_timeout=0.3)))
            assert 0.3 <= monotonic() - began < SOON
