"""Opening, closing, and ending without it: of the database, of the loop, of the process."""

from __future__ import annotations

import asyncio
import gc
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from time import monotonic
from typing import Any

import pytest
from support.engine import (
    ADD,
    COUNT,
    COUNT_TABLES,
    ENDLESS,
    NAMES,
    SOON,
    Driver,
    Gate,
    Holder,
    busy,
    items,
    run_script,
    script,
    until,
)
from support.suite import descriptors, threads

from abt_db import Config, Database, PoolClosedError
from abt_db.locks.table import LOCKS_TABLE


class TestClose:
    """Newcomers are refused at once, waiters fail, what runs may end, and nothing is left behind
    (invariant 23; faults 56, 57)."""

    async def test_a_hundred_waiters_fail_and_running_work_ends(
        self, path: Path, no_leaks: None
    ) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            gate = Gate(driver)
            gate.stop_at("COMMIT")
            running = asyncio.create_task(db.execute(ADD(name="a")))
            await gate.reached.wait()
            waiting: list[asyncio.Task[Any]]
            waiting = [asyncio.create_task(db.execute(ADD(name=str(n)))) for n in range(50)]
            waiting += [asyncio.create_task(entered(db.transaction())) for n in range(50)]
            await until(lambda: db.stats()["writer"]["waiting"] == 100)
            closing = asyncio.create_task(db.close())
            await asyncio.wait(waiting, timeout=SOON)
            assert {type(task.exception()) for task in waiting} == {PoolClosedError}
            assert not closing.done()
            gate.open()
            await closing
            assert (await running).lastrowid == 1
            await db.open()
            assert await db.fetch_all(NAMES()) == ["a"]

    @pytest.mark.parametrize("at_work", ["reader", "writer"])
    async def test_newcomers_are_refused_at_once(
        self, path: Path, at_work: str, no_leaks: None
    ) -> None:
        """Whichever kind of connection is still at work."""
        async with items(path) as db:
            block: Any = db.snapshot() if at_work == "reader" else db.transaction()
            async with Holder(block) as holder:
                closing = asyncio.create_task(db.close())
                await asyncio.sleep(0)
                newcomers: list[Callable[[], Any]] = [
                    lambda: db.fetch_one(COUNT()),
                    lambda: db.execute(ADD(name="x")),
                    lambda: entered(db.snapshot()),
                    lambda: entered(db.transaction()),
                ]
                for call in newcomers:
                    with pytest.raises(PoolClosedError):
                        await asyncio.wait_for(call(), SOON)
                assert not closing.done()
                holder.let_go()
                await closing

    async def test_a_waiter_of_the_writer_fails_while_a_reader_is_at_work(self, path: Path) -> None:
        async with items(path) as db, Holder(db.snapshot()), Holder(db.transaction()) as writer:
            waiting = asyncio.create_task(db.execute(ADD(name="x")))
            await until(lambda: busy(db) == 3)
            closing = asyncio.create_task(db.close())
            done, _ = await asyncio.wait([waiting], timeout=SOON)
            assert done and isinstance(waiting.exception(), PoolClosedError)
            writer.let_go()
            with suppress(PoolClosedError):
                await asyncio.shield(writer.task or closing)
        await closing

    async def test_a_transaction_may_finish(self, path: Path, no_leaks: None) -> None:
        async with items(path) as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="a"))
                closing = asyncio.create_task(db.close())
                await asyncio.sleep(0)
                await tx.execute(ADD(name="b"))
            await closing
            await db.open()
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    async def test_what_runs_too_long_is_stopped(self, path: Path, no_leaks: None) -> None:
        async with items(path, close_timeout=0.1) as db:
            read = asyncio.create_task(db.fetch_one(ENDLESS()))
            sleeper = asyncio.create_task(held_transaction(db))
            await until(lambda: busy(db) == 2)
            began = monotonic()
            await db.close()
            assert 0.1 <= monotonic() - began < SOON
            await asyncio.wait([read, sleeper])
            assert isinstance(read.exception(), PoolClosedError)
            assert isinstance(sleeper.exception(), PoolClosedError)
            await db.open()
            assert await db.fetch_all(NAMES()) == []

    async def test_twice_at_once_and_before_open(self, path: Path, no_leaks: None) -> None:
        db = Database(path)
        await db.close()
        await db.open()
        await asyncio.gather(*(db.close() for _ in range(5)))
        await db.close()
        with pytest.raises(PoolClosedError, match="not open"):
            await db.fetch_one(COUNT())

    async def test_a_second_close_never_closes_what_was_opened_after_the_first(
        self, path: Path
    ) -> None:
        async def reopen() -> None:
            await db.close()
            await db.open()

        async with items(path) as db:
            reopening = asyncio.create_task(reopen())
            await asyncio.gather(reopening, db.close())
            if repr(db).endswith("closed>"):  # the second close may have been the last
                await db.open()
            assert await asyncio.wait_for(db.fetch_one(COUNT()), SOON) == 0

    async def test_readers_are_closed_before_the_writer(self, path: Path) -> None:
        """The last connection removes the log; only a writer can."""
        async with items(path, "a") as db:
            assert path.with_name("app.db-wal").exists()
            del db
        assert [file.name for file in path.parent.iterdir()] == ["app.db"]

    async def test_no_task_is_left(self, path: Path) -> None:
        before = asyncio.all_tasks()
        async with items(path, "a") as db:
            async with db.stream(NAMES()) as rows:
                async for _ in rows:
                    pass
        assert asyncio.all_tasks() == before


async def entered(block: Any) -> None:
    async with block:
        pass


async def held_transaction(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD(name="undone"))
        while True:
            await asyncio.sleep(0.01)
            await tx.fetch_one(COUNT())


class TestOpen:
    """Open once, by however many; a database that is opening is not yet open, and can be closed."""

    async def test_twice_and_again_after_close(self, path: Path, no_leaks: None) -> None:
        db = Database(path, config=Config(readers=2))
        for _ in range(3):
            assert await db.open() is db
            assert await db.open() is db
            assert db.stats()["readers"]["opened"] == 2
            assert await db.fetch_one(COUNT_TABLES()) == 0
            await db.close()

    async def test_by_two_tasks_at_once(self, path: Path, no_leaks: None) -> None:
        """Whoever returns from `open` can use the database."""

        async def use() -> int | None:
            await db.open()
            return await db.fetch_one(COUNT_TABLES())

        db = Database(path, config=Config(readers=2))
        try:
            assert list(await asyncio.gather(use(), use(), use())) == [0, 0, 0]
            assert db.stats()["readers"]["opened"] == 2
        finally:
            await db.close()

    def test_again_in_another_loop(self, path: Path, no_leaks: None) -> None:
        async def use() -> None:
            async with db:
                readers = [db.open() for _ in range(3)]
                await asyncio.gather(*readers)
                assert await db.fetch_one(COUNT_TABLES()) == 0

        db = Database(path, config=Config(readers=2))
        for _ in range(3):
            asyncio.run(use())

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before 3.12")
    def test_in_a_loop_of_eager_tasks(self, path: Path, no_leaks: None) -> None:
        async def use() -> None:
            factory = asyncio.eager_task_factory  # type: ignore[attr-defined]
            asyncio.get_running_loop().set_task_factory(factory)
            async with items(path) as db:
                await asyncio.gather(*(db.execute(ADD(name=name)) for name in "abc"))
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="d"))
                    others = [asyncio.create_task(tx.execute(ADD(name=name))) for name in "ef"]
                    await asyncio.gather(*others)
                assert await db.fetch_all(NAMES()) == list("abcdef")
                async with asyncio.timeout(SOON):
                    watch = db.watch(NAMES())
                    assert await anext(watch) == list("abcdef")
                    with closing(sqlite3.connect(path)) as other, other:
                        other.execute("DELETE FROM items")
                    assert await anext(watch) == []

        asyncio.run(use())

    async def test_opened_while_it_closes_it_is_open(self, path: Path, no_leaks: None) -> None:
        async with items(path) as db:
            async with Holder(db.snapshot()):
                closing = asyncio.create_task(db.close())
                await asyncio.sleep(0)
                opening = asyncio.create_task(db.open())
                await asyncio.sleep(0)
            await closing
            await opening
            assert await db.fetch_one(COUNT()) == 0

    async def test_what_was_asked_for_while_it_closed_is_not_in_the_way(
        self, path: Path, no_leaks: None
    ) -> None:
        async with items(path) as db:
            await db.execute(LOCKS_TABLE())
            async with Holder(db.snapshot()):
                closing = asyncio.create_task(db.close())
                await asyncio.sleep(0)
                assert db.stats()["locks"]["held"] == 0
                with pytest.raises(PoolClosedError):
                    await db.lock("a").__aenter__()
                with pytest.raises(PoolClosedError):
                    db.watch(NAMES())
            await closing
            await db.open()
            async with db.lock("a") as lease:
                assert lease.token == 1
            assert await anext(db.watch(NAMES())) == []

    @pytest.mark.parametrize("turns", range(8))
    async def test_closed_while_it_opens_leaves_nothing(
        self, path: Path, turns: int, no_leaks: None
    ) -> None:
        db = Database(path, config=Config(readers=2))
        opening = asyncio.create_task(db.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        await db.close()
        await asyncio.wait([opening])
        try:
            if opening.exception() is None and not repr(db).endswith("closed>"):
                assert await db.fetch_one(COUNT_TABLES()) == 0  # it opened after all
        finally:
            await db.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestElsewhere:
    """Another loop, another thread, another process: a clear error, and no harm (invariant 29)."""

    async def test_in_another_thread_with_a_loop_of_its_own(self, path: Path) -> None:
        def elsewhere() -> str:
            async def use() -> None:
                await db.fetch_one(COUNT())

            with pytest.raises(PoolClosedError) as caught:
                asyncio.run(use())
            return str(caught.value)

        async with items(path) as db:
            assert "another event loop" in await asyncio.to_thread(elsewhere)
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize(
        "block",
        [
            lambda db: db.transaction(),
            lambda db: db.snapshot(),
            lambda db: db.stream(NAMES()),
            lambda db: db.barrier(),
            lambda db: db.writer(label="mine"),
        ],
        ids=["transaction", "snapshot", "stream", "barrier", "writer"],
    )
    async def test_a_block_that_is_entered_there(
        self, path: Path, block: Callable[[Database], Any]
    ) -> None:
        async with items(path) as db:
            made = block(db)
            with pytest.raises(PoolClosedError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, entered(made))
            await entered(block(db))

    async def test_in_another_thread_without_a_loop(self, path: Path) -> None:
        def elsewhere() -> None:
            for use in db.transaction, db.snapshot, db.barrier, db.stats:
                with pytest.raises(PoolClosedError):
                    use()

        async with items(path) as db:
            await asyncio.to_thread(elsewhere)

    def test_in_the_loop_after_that_one(self, path: Path) -> None:
        """A call there is refused: only `open` begins anew."""
        db = Database(path)
        asyncio.run(opened(db))
        with pytest.raises(PoolClosedError, match="another event loop"):
            asyncio.run(db.fetch_one(COUNT_TABLES()))  # type: ignore[arg-type]
        asyncio.run(db.close())

    async def test_a_loop_that_runs_elsewhere_keeps_it(self, path: Path) -> None:
        async with items(path) as db:
            for use in db.open, db.close:
                with pytest.raises(PoolClosedError, match="another event loop"):
                    await asyncio.to_thread(asyncio.run, use())
            assert await db.fetch_one(COUNT()) == 0

    def test_in_a_forked_child(self, path: Path) -> None:
        """fault 60: the child is told, whatever it tries, and the parent works on."""
        done = run_script(
            """
            import gc, multiprocessing, warnings
            warnings.simplefilter("ignore")

            async def use(call):
                await call()

            def child():
                global db
                calls = [
                    lambda: db.fetch_one(COUNT()),
                    lambda: db.execute(ADD(name="child")),
                    lambda: db.open(),
                    lambda: db.close(),
                ]
                for call in calls:
                    try:
                        asyncio.run(use(call))
                    except PoolClosedError:
                        print("refused", flush=True)
                for call in db.transaction, db.snapshot, db.stats:
                    try:
                        call()
                    except PoolClosedError:
                        print("refused", flush=True)
                del db
                gc.collect()  # its copies of the connections

            async def main():
                global db
                db = Database(path, config=Config(readers=2))
                await db.open()
                await db.execute(CREATE())
                process = multiprocessing.get_context("fork").Process(target=child)
                process.start()
                await asyncio.to_thread(process.join)
                for number in range(20):
                    await db.execute(ADD(name=str(number)))
                    assert await db.fetch_one(COUNT()) == number + 1
                print(process.exitcode, await db.fetch_all(Query("ok", "PRAGMA quick_check")()))
                await db.close()

            asyncio.run(main())
            print([file.name for file in Path(path).parent.iterdir()])
            """,
            path,
        )
        assert done.stdout == "refused\n" * 7 + "0 [('ok',)]\n['app.db']\n", done.stderr


async def opened(db: Database) -> None:
    await db.open()
    await db.fetch_one(COUNT_TABLES())


class TestLeftOver:
    """A database that was left open when its loop was closed is opened anew, and of what was there
    nothing stays (fault 89)."""

    async def read(self, db: Database) -> None:
        await db.open()
        await db.fetch_one(COUNT())

    async def block(self, db: Database) -> None:
        """In the middle of a transaction, which has the write lock of the file."""
        await db.open()
        self.kept = db.transaction()
        await self.kept.__aenter__()
        await self.kept.execute(ADD(name="undone"))

    async def statement(self, db: Database) -> None:
        await db.open()
        self.kept = asyncio.create_task(db.fetch_one(ENDLESS()))
        await until(lambda: db.stats()["readers"]["busy"])

    async def watch(self, db: Database) -> None:
        await db.open()
        self.kept = db.watch(NAMES())
        await anext(self.kept)

    @pytest.mark.parametrize("cancelled", [False, True])
    @pytest.mark.parametrize("left", ["read", "block", "watch"])
    @pytest.mark.parametrize("again", ["open", "async with", "close"])
    def test_it_begins_anew(
        self, path: Path, left: str, again: str, cancelled: bool, no_leaks: None
    ) -> None:
        """Whether its tasks were cancelled, as `asyncio.run` does, or not, as pytest plugins do."""
        asyncio.run(entered(items(path, "a")))
        before = threads(), descriptors()
        db = Database(path, config=Config(readers=2))

        async def use() -> None:
            if again == "async with":
                async with db:
                    assert await db.fetch_all(NAMES()) == ["a"]
                return
            if again == "close":
                await db.close()
                await db.close()
                assert threads() == before[0]
            await db.open()
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]
            assert db.stats()["transactions"] == []
            assert await anext(db.watch(NAMES())) == ["a", "b"]
            await db.close()

        for _ in range(3 if again == "async with" else 1):
            if cancelled:
                asyncio.run(getattr(self, left)(db))
            else:
                with quiet_loop() as loop:
                    loop.run_until_complete(getattr(self, left)(db))
            asyncio.run(use())
            assert threads() == before[0]
            assert not db._listeners.wanted  # nor is anybody told what happens from now on
        self.kept = None
        gc.collect()
        assert (threads(), descriptors()) == before

    def test_with_a_statement_that_runs(self, path: Path) -> None:
        """The driver's thread dies of telling a closed loop of it; the file is closed before."""
        done = run_script(
            """
            import gc, threading
            from contextlib import suppress
            threading.excepthook = lambda args: print(args.exc_type.__name__)

            def files():
                return sum(os.path.realpath(f"/proc/self/fd/{fd}").startswith(path)
                           for fd in os.listdir("/proc/self/fd"))

            db = Database(path, config=Config(readers=2))

            async def left():
                await db.open()
                await db.execute(CREATE())
                global view, running
                view = db.snapshot()
                await view.__aenter__()
                running = [asyncio.create_task(db.fetch_one(ENDLESS())),
                           asyncio.create_task(view.fetch_one(ENDLESS())),
                           asyncio.create_task(db.execute(ADD_ENDLESSLY()))]
                await until(lambda: db.stats()["transactions"][0]["state"] == "running")
                await until(lambda: db.stats()["readers"]["busy"] == 2)
                await until(lambda: db.stats()["writer"]["busy"])

            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)
            loop.run_until_complete(left())
            loop.close()

            async def use():
                async with db:
                    print(files() <= 3 * 3, threading.active_count() <= 4)
                    await db.execute(ADD(name="a"))
                    print(await db.fetch_all(NAMES()))

            asyncio.run(use())
            print(threading.active_count(), files())
            """,
            path,
        )
        assert done.stdout.split("\n")[-4:] == ["True True", "['a']", "1 0", ""], done

    def test_it_opens_when_what_was_there_has_ended(self, path: Path) -> None:
        """Not beside it: it may hold locks still."""
        done = run_script(
            """
            import threading
            threading.excepthook = lambda args: None
            db = Database(path, config=Config(readers=1))
            begun, go_on = threading.Event(), threading.Event()

            def hold(cx):
                begun.set()
                go_on.wait(20)

            async def left():
                await db.open()
                global running
                running = asyncio.create_task(db.write(hold))
                await until(begun.is_set)

            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)
            loop.run_until_complete(left())
            loop.close()

            async def use():
                for call in db.open, db.close:
                    opening = asyncio.create_task(call())
                    await asyncio.wait([opening], timeout=0.3)
                    print(opening.done())
                    go_on.set()
                    await opening

            asyncio.run(use())
            """,
            path,
        )
        assert done.stdout.startswith("False\n"), done

    def test_a_loop_that_may_go_on_keeps_it(self, path: Path) -> None:
        """It stands still, and is not closed."""
        db = Database(path)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(db.open())
        for use in db.open, db.close:
            with pytest.raises(PoolClosedError, match="another event loop"):
                asyncio.run(use())  # type: ignore[arg-type]
        assert loop.run_until_complete(db.fetch_one(COUNT_TABLES())) == 0
        loop.run_until_complete(db.close())
        loop.close()

    def test_a_forked_child_is_refused(self, path: Path) -> None:
        """What the parent has left is not the child's to let go of (fault 60)."""
        done = run_script(
            """
            db = Database(path)
            asyncio.run(db.open())
            child = os.fork()
            for call in db.open, db.close:
                try:
                    asyncio.run(call())
                    print("done", flush=True)
                except PoolClosedError:
                    print("refused", flush=True)
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
            """,
            path,
        )
        assert sorted(done.stdout.split()) == ["done", "done", "refused", "refused"], done


@contextmanager
def quiet_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is closed with its tasks pending, and does not tell of each."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    try:
        yield loop
    finally:
        loop.close()


ENDS: dict[str, str] = {
    "asyncio.run": """
        async def main():
            db = await Database(path).open()
            await db.fetch_one(COUNT_TABLES())

        asyncio.run(main())
    """,
    "global": """
        db = Database(path)

        async def main():
            await db.open()
            await db.fetch_one(COUNT_TABLES())

        asyncio.run(main())
    """,
    "bare loop": """
        async def main():
            db = await Database(path).open()
            await db.fetch_one(COUNT_TABLES())

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """,
    "bare loop, global": """
        async def main():
            global db
            db = await Database(path).open()
            await db.fetch_one(COUNT_TABLES())

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """,
    "loop never closed": """
        async def main():
            global db
            db = await Database(path).open()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """,
    "open transaction": """
        async def main():
            global db, tx
            db = await Database(path).open()
            tx = db.transaction()
            await tx.__aenter__()
            await tx.execute(Query("t", "CREATE TABLE undone (x)")())

        asyncio.run(main())
    """,
    "open transaction, bare loop": """
        async def main():
            global db, tx
            db = await Database(path).open()
            tx = db.transaction()
            await tx.__aenter__()
            await tx.execute(Query("t", "CREATE TABLE undone (x)")())

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """,
    "long query": """
        async def main():
            global db, task
            db = await Database(path).open()
            task = asyncio.create_task(db.fetch_one(ENDLESS()))
            await until(lambda: db.stats()["readers"]["busy"])

        asyncio.run(main())
    """,
    "long query, bare loop": """
        async def main():
            global db, task
            db = await Database(path).open()
            task = asyncio.create_task(db.fetch_one(ENDLESS()))
            await until(lambda: db.stats()["readers"]["busy"])

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """,
    "sys.exit": """
        async def main():
            global db
            db = await Database(path).open()
            async with db.transaction() as tx:
                await tx.execute(Query("t", "CREATE TABLE undone (x)")())
                sys.exit(0)

        asyncio.run(main())
    """,
}


class TestTheEndOfTheProgram:
    """A program that ends without `close` ends nevertheless, and is told (fault 58)."""

    @pytest.mark.parametrize("how", ENDS, ids=[name.replace(" ", "-") for name in ENDS])
    def test_without_close_there_is_a_warning_and_the_process_ends(
        self, path: Path, how: str
    ) -> None:
        done = run_script(ENDS[how], path)
        assert done.returncode == 0, done.stderr
        assert "ResourceWarning: <Database app.db" in done.stderr
        assert "was never closed" in done.stderr
        # What asyncio says of tasks in a loop that was closed over them is asyncio's own.
        for words in "Traceback", "RuntimeError", "RuntimeWarning", "was never awaited":
            assert words not in done.stderr
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_loop_after_loop_without_close(self, path: Path) -> None:
        """The loop's end and the collector may both want to end the connections' threads."""
        done = run_script(
            """
            async def main():
                db = await Database(path).open()
                await db.fetch_one(COUNT_TABLES())

            for _ in range(50):
                asyncio.run(main())
            print("ended")
            """,
            path,
        )
        assert done.stdout == "ended\n"

    def test_a_closed_database_says_nothing(self, path: Path) -> None:
        done = run_script(
            """
            async def main():
                async with Database(path) as db:
                    await db.fetch_one(COUNT_TABLES())

            asyncio.run(main())
            """,
            path,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    async def test_a_database_that_is_dropped_warns_and_lets_go(self, path: Path) -> None:
        before = threads(), descriptors()
        db: Database | None = await Database(path, config=Config(readers=2)).open()
        with pytest.warns(ResourceWarning, match=r"app\.db.* was never closed"):
            del db
            gc.collect()
        await until(lambda: (threads(), descriptors()) == before)

    @pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)"])
    def test_raised_inside_a_transaction_it_is_undone(self, path: Path, error: str) -> None:
        """fault 13."""
        done = run_script(
            f"""
            async def main():
                async with items(Path(path), "a") as db:
                    async with db.transaction() as tx:
                        await tx.execute(ADD(name="undone"))
                        raise {error}

            asyncio.run(main())
            """,
            path,
        )
        assert done.returncode == (3 if "3" in error else -signal.SIGINT)
        assert "was never closed" not in done.stderr
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT name FROM items").fetchall() == [("a",)]
        assert not path.with_name("app.db-wal").exists()

    @pytest.mark.parametrize("doing", ["asyncio.sleep(60)", "tx.fetch_one(ENDLESS())"])
    def test_ctrl_c_in_a_transaction(self, path: Path, doing: str) -> None:
        command = script(
            f"""
            async def main():
                async with items(path, "a") as db:
                    async with db.transaction() as tx:
                        await tx.execute(ADD(name="undone"))
                        print("inside", flush=True)
                        await {doing}

            asyncio.run(main())
            """
        )
        with subprocess.Popen(
            [*command, str(path)], stdout=PIPE, stderr=PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "inside\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=SOON * 2)
        assert process.returncode == -signal.SIGINT
        assert "was never closed" not in said
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT name FROM items").fetchall() == [("a",)]

    def test_what_was_acknowledged_survives_kill_9(self, path: Path) -> None:
        """invariant 28: of each kind of write, and nothing of what was not committed."""
        command = script(
            """
            async def main():
                db = await Database(path).open()
                await db.execute(CREATE())
                async with db.transaction() as undone:
                    pass
                n = 0
                while True:
                    await db.execute(ADD(name=f"{n} execute"))
                    await db.execute_batch([ADD(name=f"{n} batch"), ADD(name=f"{n} batch 2")])
                    async with db.transaction() as tx:
                        await tx.execute(ADD(name=f"{n} transaction"))
                        await tx.execute(ADD(name=f"{n} transaction 2"))
                    n += 1
                    print(n, flush=True)

            asyncio.run(main())
            """
        )
        with subprocess.Popen([*command, str(path)], stdout=PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline() for _ in range(20)]
            process.kill()
            acknowledged += process.stdout.readlines()
        rounds = int([line for line in acknowledged if line.endswith("\n")][-1])
        with closing(sqlite3.connect(path)) as raw:
            names = {name for (name,) in raw.execute("SELECT name FROM items")}
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for n in range(rounds):
            for kind in "execute", "batch", "batch 2", "transaction", "transaction 2":
                assert f"{n} {kind}" in names
        for name in names:
            assert not name.endswith(" 2") or name.removesuffix(" 2") in names
            assert not name.endswith(("batch", "transaction")) or f"{name} 2" in names
