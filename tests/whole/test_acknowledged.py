"""Between a COMMIT and its caller's answer nothing can turn the write into a failure, and what the
application brings (listeners, logging handlers) can't keep the engine from its next step
(invariants 28, 30, 31; faults 79, 80)."""

from __future__ import annotations

import asyncio
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.engine import (
    ADD,
    COUNT,
    Driver,
    Holder,
    Witness,
    items,
    lose_writer,
    run_script,
    until,
)

from abt_db import PoolTimeoutError
from abt_db.connection.transaction import EngineSession
from abt_db.events import Committed, Ran, Transacted, Waited
from abt_db.log import LOG
from abt_db.migrations import Migration, Migrator, Progress
from abt_db.pool.lane import Lane
from abt_db.pool.queue import Queue

VERBS = """
    async def every_verb(db):
        '''Write one row with each verb, or take a lock; yield what each is called.'''
        add = lambda name: ADD(name=name)
        await db.execute(add("execute"))
        await db.execute_batch([add("execute_batch")])
        await db.execute_many(ADD, [{"name": "execute_many"}])
        await db.fetch_one(
            Query("add", "INSERT INTO items (name) VALUES ('returning') RETURNING id", int)()
        )
        await db.write(lambda cx: cx.execute(add("write")))
        async with db.transaction() as tx:
            await tx.execute(add("transaction"))
        async def operation(tx):
            await tx.execute(add("run_transaction"))
        await db.run_transaction(operation)
        report = await db.run_batch([add("run_batch")])
        assert report.done == 1, report
        await asyncio.gather(*(db.execute(add(f"together {number}")) for number in range(5)))
        async with db.lock("deploy") as lease:
            async with db.transaction(lease=lease) as tx:
                await tx.execute(add("lease"))
        assert await db.lock_info("deploy") is None
"""


class TestTheLogThatCantBeLookedAt:
    """The size of the log is looked at behind each COMMIT. That it can't be is no error."""

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its privileges")
    def test_a_service_that_gave_up_its_privileges_writes_by_every_verb(self, path: Path) -> None:
        path.parent.chmod(0o700)
        run = run_script(
            VERBS
            + """
    from abt_db.locks.table import LOCKS_TABLE

    async def main():
        async with Database(path) as db:
            await db.execute(CREATE())
            await db.execute(LOCKS_TABLE())
            os.seteuid(65534)
            try:
                os.stat(path)
                print("it may still look there")
            except PermissionError:
                pass
            await every_verb(db)
            assert await db.fetch_one(COUNT()) == 14
            os.seteuid(0)

    asyncio.run(main())
    print("all written")
    """,
            path,
        )
        assert run.stdout == "all written\n", run.stderr
        assert not run.stderr

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
    async def test_a_directory_that_was_closed(self, path: Path) -> None:
        async with items(path) as db:
            path.parent.chmod(0o000)
            try:
                await db.execute(ADD(name="a"))
                assert await db.fetch_one(COUNT()) == 1
            finally:
                path.parent.chmod(0o700)

    async def test_whatever_else_fails_behind_the_commit_is_logged(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A failure that nobody has thought of: the step behind the COMMIT itself raises."""

        def fail(_session: EngineSession) -> None:
            raise MemoryError("no room for a note")

        async with items(path) as db:
            monkeypatch.setattr(EngineSession, "_committed", fail)
            await db.execute(ADD(name="a"))
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
            assert await db.fetch_one(COUNT()) == 2
        assert "no room for a note" in caplog.text


class Refusing(logging.Handler):
    """A handler whose disk is full: it raises in place of writing, as often as it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())
        raise OSError("no space left on device")


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    handler = Refusing()
    logger = logging.getLogger("abt_db")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


class TestHandlers:
    """Of a logging handler that raises the engine takes no notice."""

    async def test_slow_calls_are_answered_and_give_their_connection_back(
        self, path: Path, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stderr", said := io.StringIO())
        async with items(path, slow_query=0.0) as db, Witness(db) as witness:
            await db.execute(ADD(name="a"))
            assert await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(50))) == [1] * 50
            await asyncio.gather(*(db.execute(ADD(name=str(n))) for n in range(50)))
            assert await db.fetch_one(COUNT()) == 51
            await witness.whole()
        assert any("items.add was slow" in record for record in refusing.records)
        assert "no space left on device" in said.getvalue()

    async def test_those_that_wait_too_long_are_still_freed(
        self, path: Path, refusing: Refusing
    ) -> None:
        """The look at what takes long and the one at those who wait are one: the first logs."""
        async with items(path, slow_transaction=0.0, acquire_timeout=0.05) as db:
            async with Holder(db.transaction(label="deploy")):
                await until(lambda: refusing.records)
                for _ in range(3):
                    with pytest.raises(PoolTimeoutError, match="deploy"):
                        await db.execute(ADD(name="a"))
            await db.execute(ADD(name="a"))

    async def test_a_connection_is_replaced_and_the_database_closed(
        self, path: Path, refusing: Refusing
    ) -> None:
        driver = Driver()
        async with items(path, connect=driver.connect) as db:
            await lose_writer(db, driver)
            await db.execute(ADD(name="a"))
            assert await db.fetch_one(COUNT()) == 1
        assert any("could not be reset" in record for record in refusing.records)

    def test_standard_error_that_was_closed_is_not_missed(
        self, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stderr", None)
        LOG.warning("nobody hears this")
        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr("sys.stderr", closed)
        LOG.warning("nor this")
        assert refusing.records == ["nobody hears this", "nor this"]

    def test_a_record_names_the_line_that_made_it(self, caplog: pytest.LogCaptureFixture) -> None:
        LOG.warning("here")
        assert (caplog.records[0].name, caplog.records[0].filename) == (
            "abt_db",
            Path(__file__).name,
        )


def fails(event: object) -> None:
    raise ZeroDivisionError("of a listener")


def asks_a_cancelled_future(event: object) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    future.result()


class Unspeakable:
    """A listener that can't even be named."""

    def __call__(self, event: object) -> None:
        raise ZeroDivisionError("of a listener")

    def __repr__(self) -> str:
        raise ZeroDivisionError("of its repr")


class TestTheEnginesOwn:
    """Also where a step of the engine itself fails, which nobody has thought of, what must follow
    it follows."""

    async def test_a_call_that_can_not_be_noted_gives_its_connection_back(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise MemoryError("no room for a note")

        async with items(path) as db:
            with monkeypatch.context() as patch:
                patch.setattr(Lane, "_note", fail)
                for _ in range(3):
                    with pytest.raises(MemoryError):
                        await db.fetch_one(COUNT())
            assert await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(9))) == [0] * 9

    async def test_a_look_that_fails_is_followed_by_the_next(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those that wait are freed by the one after it."""
        asyncio.get_running_loop().set_exception_handler(lambda *_: failed.set())
        failed = asyncio.Event()
        async with items(path, slow_transaction=0.01) as db:
            async with Holder(db.transaction()):
                with monkeypatch.context() as patch:
                    patch.setattr(Queue, "late", lambda *_: 1 / 0)
                    waiting = asyncio.create_task(db.execute(ADD(name="a"), timeout=0.01))
                    await failed.wait()
                with pytest.raises(PoolTimeoutError):
                    await waiting


class TestListeners:
    """What a listener raises reaches neither the caller nor the engine."""

    @pytest.mark.parametrize("listener", [fails, asks_a_cancelled_future, Unspeakable()])
    async def test_every_call_is_answered_with_what_has_become_of_it(
        self, path: Path, listener: Callable[[object], None]
    ) -> None:
        async with items(path) as db, Witness(db) as witness:
            told: list[type] = []
            db.add_listener(listener)
            db.add_listener(lambda event: told.append(type(event)))
            await db.execute(ADD(name="a"))
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
            async with db.snapshot() as snapshot:
                assert await snapshot.fetch_one(COUNT()) == 2
            await db.execute_many(ADD, [{"name": "c"}])
            await asyncio.gather(*(db.execute(ADD(name=str(n))) for n in range(10)))
            assert await db.fetch_one(COUNT()) == 13
            await db.checkpoint("truncate")
            await witness.whole()
            assert {Ran, Committed, Transacted, Waited} <= set(told)


class TestProgress:
    """What a progress callback raises ends the call that it was given to, and nothing else."""

    async def test_of_a_batch(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(ZeroDivisionError) as caught:
                await db.run_batch(
                    [ADD(name=name) for name in "abc"], batch_size=1, progress=lambda _: 1 / 0
                )
            assert "had committed 1 operations" in caught.value.__notes__[0]
            await witness.whole()
            assert await db.fetch_one(COUNT()) == 1

    async def test_of_a_migration(self, path: Path) -> None:
        chain = [
            Migration(1, "one", "CREATE TABLE one (x);", None),
            Migration(2, "two", "SELECT 1;", None),
        ]

        def fails_at_the_second(progress: Progress) -> None:
            if progress.version == 2:
                raise ZeroDivisionError("of a progress callback")

        async with items(path) as db, Witness(db) as witness:
            with pytest.raises(ZeroDivisionError):
                await Migrator(db, chain, progress=fails_at_the_second).up()
            await witness.whole()
            assert [record.version for record in await Migrator(db, chain).up()] == [2]


class TestAGoodbyeThatIsAnError:
    """A database that was never closed is warned of; with warnings as errors its threads end all
    the same."""

    def test_its_thread_is_gone(self, path: Path) -> None:
        run = run_script(
            """
            import gc, warnings

            async def main():
                db = await Database(path).open()
                await db.execute(CREATE())
                own = [thread for thread in threading.enumerate() if thread.daemon]
                warnings.simplefilter("error")
                del db
                gc.collect()
                for thread in own:
                    await asyncio.to_thread(thread.join, 20)
                print(sum(thread.is_alive() for thread in own), "of", len(own))

            asyncio.run(main())
            """,
            path,
        )
        assert run.stdout == "0 of 5\n", run.stderr
        assert "never closed" in run.stderr
