"""Migrations that are killed, cancelled or failed at any point, or that meet others: a step is
there whole or not at all, the history tells the truth, and the next try goes on from there."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.clock import Clock
from support.engine import Driver, Gate, Holder, Turns, busy, run_in_turns, script, until
from support.suite import SOON, descriptors, threads
from test_migrations import (
    ENDLESS,
    applied,
    ask,
    foreign_keys,
    notes,
    nothing_written,
    replayed,
    state,
    step,
    table,
)

from abt_db import AbtDbError, Config, Database, PoolClosedError, PoolTimeoutError, Query
from abt_db.connection.deadline import Deadline
from abt_db.errors import (
    MigrationChangedError,
    MigrationError,
    MigrationFailedError,
    MigrationUnknownError,
    TransactionStateError,
)
from abt_db.migrations import Migration, Migrator

SMALL = Config(readers=1)
TWO_READERS = Config(readers=2)
COUNT = Query("tables.count", "SELECT count(*) FROM sqlite_schema", int)
ORPHAN = Query("orphan", "INSERT INTO children VALUES (:id, -1)")

NUMBERS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {rows})"


def rebuild(column: str) -> str:
    return f"""
        CREATE TABLE new (id INTEGER PRIMARY KEY, {column});
        INSERT INTO new SELECT * FROM parents;
        DROP TABLE parents;
        ALTER TABLE new RENAME TO parents;
    """


def family(rows: int) -> list[Migration]:
    """Three steps: two tables, their rows, and a rebuild of the one that the other hangs on."""
    made = """
        CREATE TABLE parents (id INTEGER PRIMARY KEY, name);
        CREATE TABLE children (
            id INTEGER PRIMARY KEY, parent REFERENCES parents (id) ON DELETE CASCADE
        );
        PRAGMA user_version = 1;
    """
    filled = f"""
        INSERT INTO parents {NUMBERS.format(rows=rows)} SELECT x, 'name ' || x FROM n;
        INSERT INTO children SELECT id * 10, id FROM parents;
        CREATE INDEX by_parent ON children (parent);
    """
    return [
        step(1, made, "DROP TABLE children; DROP TABLE parents; PRAGMA user_version = 0;"),
        step(2, filled, "DROP INDEX by_parent; DELETE FROM children; DELETE FROM parents;"),
        step(
            3,
            rebuild("name TEXT NOT NULL DEFAULT ''") + "PRAGMA user_version = 3;",
            # The name of the table is quoted by ALTER TABLE, so made anew it has its first text.
            """
            CREATE TEMP TABLE kept AS SELECT * FROM parents;
            DROP TABLE parents;
            CREATE TABLE parents (id INTEGER PRIMARY KEY, name);
            INSERT INTO parents SELECT * FROM kept;
            DROP TABLE temp.kept;
            PRAGMA user_version = 1;
            """,
        ),
    ]


def free_family(rows: int) -> list[Migration]:
    """A step that is committed statement by statement, each of which leaves its mark just once."""
    filled = f"INSERT INTO parents {NUMBERS.format(rows=rows)} SELECT NULL, 'name ' || x FROM n;"
    up = f"""
        CREATE TABLE parents (id INTEGER PRIMARY KEY, name);
        {filled}
        {filled}
        VACUUM;
        BEGIN; {filled} {filled} COMMIT;
        CREATE INDEX parents_by_name ON parents (name);
        BEGIN; {rebuild("name TEXT NOT NULL DEFAULT ''")} COMMIT;
        {filled}
        VACUUM;
    """
    return [step(1, up, None, transactional=False)]


FREE_ROWS = (0, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5)
"""How often the rows of `free_family` are there behind each statement."""


FAMILY = family(rows=20)
STATES = replayed(FAMILY)


def boundary(path: Path, chain: Sequence[Migration] = FAMILY) -> int:
    """How many steps the history calls applied; the database must be just there, and sound."""
    done = applied(path)
    assert done == [migration.version for migration in chain[: len(done)]]
    assert state(path) == (STATES if chain is FAMILY else replayed(chain))[len(done)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "PRAGMA foreign_key_check") == []
    return len(done)


async def migrated(
    path: Path, chain: Sequence[Migration] = FAMILY, target: int | None = None
) -> list[Any]:
    """Migrate as another program would, to `target`."""
    async with Database(path, config=SMALL) as db:
        migrator = Migrator(db, chain)
        if target is not None and target < (await migrator.current_version() or 0):
            return await migrator.down(target)
        return await migrator.up(target)


# -- other processes -------------------------------------------------------------------------------

FAILED = 100


def serve() -> None:
    """What runs in a process of its own, with everything imported: it forks those to be killed."""
    for line in sys.stdin:
        began = time.monotonic()
        codes = forked(**json.loads(line))
        print(json.dumps([codes, time.monotonic() - began]), flush=True)


def forked(
    path: str,
    rows: int,
    target: int | None,
    processes: int,
    kill_at: int | None,
    kill_after: float | None,
    free: bool,
) -> list[int]:
    ready, go = os.pipe()
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            code = FAILED
            try:
                os.close(go)
                os.read(ready, 1)  # the end of it, when all of them are there
                code = asyncio.run(migrate(Path(path), rows, target, kill_at, free))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    os.close(ready)
    os.close(go)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(children[0], signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


async def migrate(
    path: Path, rows: int, target: int | None, kill_at: int | None, free: bool
) -> int:
    """Migrate and return how many steps that took; kill this process at moment `kill_at`.

    A moment is each statement before it runs, and each look at the deadline: SQLite asks for one
    in the middle of statements, too.
    """
    moments = count()

    def moment(_step: str = "") -> None:
        if next(moments) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def passed(deadline: Deadline, original: Any = Deadline.passed) -> Any:
        moment()
        return original(deadline)

    driver = Driver()
    async with Database(path, config=SMALL, connect=driver.connect) as db:
        driver.hook = moment
        migrator = Migrator(db, free_family(rows) if free else family(rows))
        with patch.object(Deadline, "passed", passed):
            return len(await (migrator.up() if target is None else migrator.down(target)))


class Processes:
    """Others that migrate a file, in processes of their own."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        with errors.open("w") as file:
            self._server = subprocess.Popen(
                [*script("from test_migration_crashes import serve\nserve()"), "no path"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def run(
        self,
        path: Path,
        *,
        rows: int = 20,
        target: int | None = None,
        processes: int = 1,
        kill_at: int | None = None,
        kill_after: float | None = None,
        free: bool = False,
    ) -> tuple[list[int], float]:
        """Let that many processes migrate at once; return how many steps each took, and the time.

        `target` None is all the way up. One that was killed took -9.
        """
        request = {
            "path": str(path),
            "rows": rows,
            "target": target,
            "processes": processes,
            "kill_at": kill_at,
            "kill_after": kill_after,
            "free": free,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, self._errors.read_text()
        codes, seconds = json.loads(answer)
        assert FAILED not in codes, self._errors.read_text()
        return codes, seconds

    def end(self) -> None:
        self._server.communicate(timeout=SOON)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    others = Processes(tmp_path_factory.mktemp("others") / "stderr")
    yield others
    others.end()


class TestKilled:
    """Killed at whatever moment, a process leaves all of a step or nothing of it; the history says
    which, and the next one goes on (M1; fault 63)."""

    async def test_at_any_moment_on_the_way_up(self, tmp_path: Path, processes: Processes) -> None:
        places = set()
        for moment in count(step=3):
            path = tmp_path / f"{moment}.db"
            codes, _ = processes.run(path, kill_at=moment)
            places.add(boundary(path))
            assert notes(path) == {}
            if codes == [3]:
                break
            assert codes == [-signal.SIGKILL]
            await migrated(path)
            assert boundary(path) == 3
        assert places == {0, 1, 2, 3}
        assert moment > 60

    async def test_at_any_moment_on_the_way_down(
        self, path: Path, tmp_path: Path, processes: Processes
    ) -> None:
        await migrated(path)
        places = set()
        for moment in count(step=5):
            copy = tmp_path / f"{moment}.db"
            shutil.copy(path, copy)
            codes, _ = processes.run(copy, target=0, kill_at=moment)
            places.add(boundary(copy))
            if codes == [3]:
                break
            assert codes == [-signal.SIGKILL]
            await migrated(copy, target=0)
            assert boundary(copy) == 0
        assert places == {0, 1, 2, 3}
        assert moment > 60

    async def test_at_any_time_by_another(self, tmp_path: Path, processes: Processes) -> None:
        # Enough rows that the kill meets long statements and a COMMIT of many pages.
        chain = family(rows=15_000)
        _, seconds = processes.run(tmp_path / "whole.db", rows=15_000)
        chance = random.Random(20261122)
        for number in range(12):
            path = tmp_path / f"{number}.db"
            processes.run(path, rows=15_000, kill_after=chance.uniform(0.0, seconds))
            done = applied(path)
            assert done == [1, 2, 3][: len(done)]
            assert notes(path) == {}
            assert ask(path, "PRAGMA integrity_check") == [("ok",)]
            assert len(await migrated(path, chain)) == 3 - len(done)
            assert ask(path, "SELECT count(*), sum(parent) FROM children") == [
                (15_000, 112_507_500)
            ]
            path.unlink()


class TestAtOnce:
    """Several processes may migrate the same file at once: each step is applied by one of them, and
    all of them succeed (M2; fault 64)."""

    @pytest.mark.parametrize("number", [2, 8])
    def test_processes_on_a_new_file(
        self, tmp_path: Path, processes: Processes, number: int
    ) -> None:
        for again in range(4):
            path = tmp_path / f"{again}.db"
            taken, _ = processes.run(path, processes=number)
            assert sum(taken) == 3
            assert boundary(path) == 3
            assert notes(path) == {}

    async def test_processes_on_the_way_down(self, path: Path, processes: Processes) -> None:
        await migrated(path)
        taken, _ = processes.run(path, target=0, processes=8)
        assert sum(taken) == 3
        assert boundary(path) == 0

    async def test_tasks_of_one_program(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            taken = await asyncio.gather(*(Migrator(db, FAMILY).up() for _ in range(8)))
            assert sorted(map(len, taken)) == [0] * 7 + [3]
            assert boundary(path) == 3
            downs = await asyncio.gather(*(Migrator(db, FAMILY).down(1) for _ in range(8)))
            assert sorted(map(len, downs)) == [0] * 7 + [2]
            assert boundary(path) == 1


# -- another program at the worst moment -----------------------------------------------------------


class Meddler:
    """Another program that migrates the file just before our transactions begin."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.begins = 0
        self.actions: dict[int, Callable[[], object]] = {}
        """What it does before the n-th BEGIN of ours, counted from 1."""
        self.driver.hook = self._hook

    def migrates(self, begin: int, path: Path, *args: Any) -> None:
        """Let it migrate before that BEGIN; `args` as for `migrated`."""
        self.actions[begin] = lambda: asyncio.run(migrated(path, *args))

    def _hook(self, sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            self.begins += 1
            if action := self.actions.pop(self.begins, None):
                action()


class TestMeddling:
    """What is to be done is decided inside the transaction, so what another program did since we
    looked is seen (M2), and never written over."""

    CHAIN = (table(1), table(2), table(3))

    async def test_the_same_steps_are_seen_as_done(self, path: Path) -> None:
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            meddler.migrates(1, path, self.CHAIN, 2)
            assert [r.version for r in await Migrator(db, self.CHAIN).up()] == [3]
        assert boundary(path, self.CHAIN) == 3

    async def test_steps_that_were_taken_back_meanwhile_are_seen_as_gone(self, path: Path) -> None:
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            await Migrator(db, self.CHAIN).up()
            meddler.migrates(4, path, self.CHAIN, 1)
            assert await Migrator(db, self.CHAIN).down(0) == [1]
        assert boundary(path, self.CHAIN) == 0

    async def test_a_newer_program_is_noticed_and_nothing_noted(self, path: Path) -> None:
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            meddler.migrates(1, path, self.CHAIN)
            with pytest.raises(MigrationUnknownError):
                await Migrator(db, self.CHAIN[:2]).up()
        assert (boundary(path, self.CHAIN), notes(path)) == (3, {})

    async def test_a_newer_program_is_noticed_on_the_way_down(self, path: Path) -> None:
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            await Migrator(db, self.CHAIN[:2]).up()
            meddler.migrates(3, path, self.CHAIN)
            with pytest.raises(MigrationUnknownError):
                await Migrator(db, self.CHAIN[:2]).down(0)
        assert (boundary(path, self.CHAIN), notes(path)) == (3, {})

    async def test_another_text_is_noticed_and_its_record_kept(self, path: Path) -> None:
        other = (step(1, "CREATE TABLE other (x);"), *self.CHAIN[1:])
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            meddler.migrates(1, path, other)
            with pytest.raises(MigrationChangedError):
                await Migrator(db, self.CHAIN).up()
        assert (boundary(path, other), notes(path)) == (3, {})

    async def test_our_failure_is_not_noted_over_the_success_of_another(self, path: Path) -> None:
        # Ours fails by chance, and while we have rolled back and not noted it the other succeeds.
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:

            def fail(sql: str, hook: Callable[[str], None] = meddler.driver.hook) -> None:
                hook(sql)
                if sql.startswith("CREATE TABLE t1"):
                    raise disk_error()

            meddler.driver.hook = fail
            meddler.migrates(2, path, self.CHAIN)
            with pytest.raises(MigrationFailedError):
                await Migrator(db, self.CHAIN).up()
            assert (boundary(path, self.CHAIN), notes(path)) == (3, {})
            assert await Migrator(db, self.CHAIN).up() == []

    async def test_going_down_leaves_no_gap_when_another_goes_up(self, path: Path) -> None:
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            await Migrator(db, self.CHAIN).up(2)
            meddler.migrates(3, path, self.CHAIN)
            with suppress(MigrationError):
                await Migrator(db, self.CHAIN).down(1)
            assert boundary(path, self.CHAIN) in (1, 3)
            assert notes(path) == {}
            await Migrator(db, self.CHAIN).status()

    async def test_going_up_leaves_no_gap_when_another_goes_down(self, path: Path) -> None:
        meddler = Meddler()
        async with Database(path, config=SMALL, connect=meddler.driver.connect) as db:
            await Migrator(db, self.CHAIN).up(1)
            meddler.migrates(2, path, self.CHAIN, 0)
            with suppress(MigrationError):
                await Migrator(db, self.CHAIN).up()
            assert boundary(path, self.CHAIN) in (0, 3)
            assert notes(path) == {}
            await Migrator(db, self.CHAIN).status()

    @pytest.mark.parametrize("lets_go", [True, False], ids=["for a while", "for good"])
    async def test_a_lock_in_the_way_of_the_note(self, path: Path, lets_go: bool) -> None:
        """The note waits for the lock; without it the step's own error still is what is raised
        (invariant 10)."""
        meddler = Meddler()
        config = Config(readers=1, busy_timeout=SOON if lets_go else 0.2)
        async with Database(path, config=config, connect=meddler.driver.connect) as db:
            with closing(sqlite3.connect(path, check_same_thread=False)) as other:
                meddler.actions[2] = lambda: other.execute("BEGIN IMMEDIATE")
                if lets_go:
                    meddler.actions[4] = other.rollback
                with pytest.raises(MigrationFailedError, match="nothing") as caught:
                    await Migrator(db, [step(1, "SELECT nothing;")]).up()
            assert notes(path) == ({1: str(caught.value)} if lets_go else {})


# -- faults at every statement ---------------------------------------------------------------------


def disk_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    error.sqlite_errorname = "SQLITE_IOERR"
    return error


class Faults:
    """Fails the n-th statement, or all from there on, until all is well again."""

    def __init__(self, driver: Driver, number: int, *, lasting: bool) -> None:
        self.failed: list[str] = []
        self._driver = driver
        self._number = number
        self._lasting = lasting
        self._statements = count()
        driver.hook = self._hook

    def _hook(self, sql: str) -> None:
        if sql in ("begin", "end"):
            return  # of a job: no statement
        here = next(self._statements)
        if here == self._number or (self._lasting and here > self._number):
            self.failed.append(sql)
            raise disk_error()

    def end(self) -> None:
        self._driver.hook = lambda sql: None


class TestEveryFault:
    """Whichever statement fails, of the step or of the engine, once or from then on: the database
    is between two steps, foreign keys are on, and when all is well again `up` goes on (M1, M3)."""

    @pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
    @pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
    async def test_fails_at_one_and_then_the_next(
        self, tmp_path: Path, lasting: bool, down: bool
    ) -> None:
        chain = FAMILY[:2]
        for number in count(step=2 if lasting else 1):
            path = tmp_path / f"{number}.db"
            driver = Driver()
            async with Database(path, config=SMALL, connect=driver.connect) as db:
                migrator = Migrator(db, chain)
                if down:
                    await migrator.up()
                faults = Faults(driver, number, lasting=lasting)
                try:
                    await (migrator.down(0) if down else migrator.up())
                except AbtDbError as error:
                    assert faults.failed, error
                faults.end()
                where = f"statement {number}: {faults.failed[:1]}"
                assert await foreign_keys(db) == 1, where
                assert boundary(path) <= 2, where
                await migrator.up()
                assert (boundary(path), notes(path)) == (2, {}), where
                assert len(await db.fetch_all(COUNT())) == 1
            if not faults.failed:
                break
        assert number > 30

    async def test_the_error_of_the_step_is_the_one_that_is_raised_and_noted(
        self, path: Path
    ) -> None:
        """invariant 10"""
        driver = Driver()

        def fail(sql: str) -> None:
            if sql == "PRAGMA foreign_keys = 1":
                raise disk_error()

        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = fail
            with pytest.raises(MigrationFailedError, match="nothing") as caught:
                await Migrator(db, [step(1, "SELECT nothing;")]).up()
            driver.hook = lambda sql: None
            assert await foreign_keys(db) == 1
        assert notes(path) == {1: str(caught.value)}

    async def test_a_setting_that_fails_behind_the_commit_does_not_undo_the_step(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is committed is acknowledged (invariant 30), and no further step is begun with the
        foreign keys off."""
        driver = Driver()

        def fail(sql: str) -> None:
            if sql == "PRAGMA foreign_keys = 1":
                raise disk_error()

        steps = [step(1, "CREATE TABLE t (x);"), step(2, "CREATE TABLE u (x);")]
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = fail
            [record] = await Migrator(db, steps[:1]).up()
            assert record.success and "could not be put back" in caplog.text
            driver.hook = lambda sql: None
            assert await foreign_keys(db) == 1
            driver.hook = fail
            with pytest.raises(MigrationFailedError, match="could not be put back"):
                await Migrator(db, [*steps, step(3, "CREATE TABLE v (x);")]).up()
            driver.hook = lambda sql: None
            assert await foreign_keys(db) == 1
            assert [record.version for record in (await Migrator(db, steps).status()).applied] == [
                1,
                2,
            ]


# -- cancellation ----------------------------------------------------------------------------------

once_and_again = pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
both_ways = pytest.mark.parametrize("down", [False, True], ids=["up", "down"])


def axe(task: asyncio.Task[Any], turn: int, *, again: bool) -> Callable[[], bool]:
    """Return what cancels `task` at that turn of the loop, and if `again` at every later one."""
    turns = count()

    def fall() -> bool:
        here = next(turns)
        falls = not task.done() and (here == turn or (again and here > turn))
        return falls and task.cancel()

    return fall


def nothing() -> bool:
    return False


async def go(db: Database, down: bool) -> None:
    migrator = Migrator(db, FAMILY)
    await (migrator.down(0) if down else migrator.up())


class Running:
    """Tells when a statement is about to run on a connection's thread."""

    def __init__(self, driver: Driver, sql: str) -> None:
        self.event = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell(step: str) -> None:
            if step == sql:
                loop.call_soon_threadsafe(self.event.set)

        driver.hook = tell


UNENDING = [table(1), step(2, f"CREATE TABLE t (x); {ENDLESS}")]


class TestCancelled:
    """Cancelled anywhere, once or again, `up` and `down` leave the database between two steps and
    the pool as it was, and go on from there (M1, M3; invariants 7, 11, 12)."""

    async def whole(self, db: Database) -> int:
        """The pool works, nothing is open; return how many steps are applied."""
        await until(lambda: not busy(db))
        stats = db.stats()
        for lane in stats["writer"], stats["readers"]:
            assert (lane["opened"], lane["replaced"], lane["waiting"]) == (lane["size"], 0, 0)
        assert await foreign_keys(db) == 1
        await asyncio.gather(*(db.fetch_one(COUNT()) for _ in range(stats["readers"]["size"])))
        path = Path(db.path)
        ask(path, "BEGIN IMMEDIATE")
        # In a quiet moment the writer may be moving pages itself.
        await until(lambda: ask(path, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)])
        assert notes(path) == {}
        return boundary(path)

    @both_ways
    @once_and_again
    @pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
    def test_at_every_turn_of_the_loop(
        self, path: Path, down: bool, again: bool, late: bool
    ) -> None:
        async def main(turns: Turns) -> None:
            before = threads(), descriptors()
            async with Database(path, config=SMALL) as db:
                await go(db, down=False)
                places = set()
                for turn in count():
                    await go(db, down=not down)
                    task = asyncio.create_task(go(db, down))
                    falling = axe(task, turn, again=again)
                    turns.before, turns.after = (nothing, falling) if late else (falling, nothing)
                    await asyncio.wait([task])
                    turns.before = turns.after = nothing
                    places.add(await self.whole(db))
                    if not task.cancelled():
                        task.result()
                        break
                    await go(db, down)
                    assert boundary(path) == (0 if down else 3)
                assert {0, 3} <= places
                assert turn >= 9
            assert (threads(), descriptors()) == before

        run_in_turns(main)

    @both_ways
    @once_and_again
    async def test_at_every_step_of_the_thread(self, path: Path, down: bool, again: bool) -> None:
        driver = Driver()
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            gate = Gate(driver)
            places = set()
            for number in count():
                await go(db, down=not down)
                gate.stop_at_number(number)
                task = asyncio.create_task(go(db, down))
                reached = asyncio.create_task(gate.reached.wait())
                await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
                fell = not task.done()
                task.cancel()
                if again:
                    await asyncio.sleep(0)
                    task.cancel()
                await asyncio.wait([task], timeout=SOON)
                assert task.cancelled() == fell
                gate.open()
                reached.cancel()
                places.add(await self.whole(db))
                if not fell:
                    break
                await go(db, down)
                assert boundary(path) == (0 if down else 3)
            assert places == {0, 1, 2, 3}
            assert number > 50

    async def test_a_statement_that_would_never_end_is_stopped(self, path: Path) -> None:
        driver = Driver()
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            running = Running(driver, ENDLESS)
            task = asyncio.create_task(Migrator(db, UNENDING).up())
            await running.event.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not busy(db))
            assert await foreign_keys(db) == 1
        assert (boundary(path, UNENDING[:1]), notes(path)) == (1, {})

    async def test_close_stops_it_between_two_steps(self, path: Path, no_leaks: None) -> None:
        driver = Driver()
        config = Config(readers=1, close_timeout=0)
        db = await Database(path, config=config, connect=driver.connect).open()
        running = Running(driver, ENDLESS)
        task = asyncio.create_task(Migrator(db, UNENDING).up())
        await running.event.wait()
        await db.close()
        with pytest.raises(PoolClosedError):
            await task
        assert (boundary(path, UNENDING[:1]), notes(path)) == (1, {})


# -- the barrier -----------------------------------------------------------------------------------


async def streamed(db: Database) -> int:
    async with db.stream(COUNT()) as rows:
        return len([row async for row in rows])


async def transacted(db: Database) -> int:
    async with db.transaction() as tx:
        return len(await tx.fetch_all(COUNT()))


async def snapshotted(db: Database) -> int:
    async with db.snapshot() as view:
        return len(await view.fetch_all(COUNT()))


TOUCH = Query("parents.touch", "UPDATE parents SET name = name WHERE id = 1")

OTHERS: list[Callable[[Database], Coroutine[Any, Any, Any]]] = [
    lambda db: db.fetch_one(COUNT()),
    lambda db: db.fetch_all(COUNT()),
    lambda db: db.read(lambda cx: cx.fetch_one(COUNT())),
    snapshotted,
    streamed,
    lambda db: Migrator(db, FAMILY).status(),
    lambda db: db.execute(TOUCH()),
    lambda db: db.write(lambda cx: cx.execute(TOUCH())),
    transacted,
]


def stop_in_step(gate: Gate, sql: str) -> None:
    """Close the gate at the next statement that begins so, but not before a step has begun."""
    begun = False

    def stops(here: str) -> bool:
        nonlocal begun
        begun = begun or here.startswith("PRAGMA foreign_keys")
        return begun and here.startswith(sql)

    gate._close(stops)


class TestBarrier:
    """No reader and no other writer works during a step; those that come meanwhile wait, and then
    succeed (invariant 21)."""

    @pytest.fixture
    def driver(self) -> Driver:
        return Driver()

    @pytest.mark.parametrize(
        "moment",
        ["PRAGMA foreign_keys = 0", "CREATE TABLE new", "COMMIT", "PRAGMA foreign_keys = 1"],
    )
    async def test_whoever_comes_meanwhile_waits_and_then_succeeds(
        self, path: Path, driver: Driver, moment: str
    ) -> None:
        async with Database(path, config=TWO_READERS, connect=driver.connect) as db:
            await Migrator(db, FAMILY).up(2)
            gate = Gate(driver)
            stop_in_step(gate, moment)
            task = asyncio.create_task(Migrator(db, FAMILY).up())
            await gate.reached.wait()
            others = [asyncio.create_task(other(db)) for other in OTHERS]
            stats = db.stats
            await until(lambda: stats()["writer"]["waiting"] + stats()["readers"]["waiting"] == 9)
            assert (stats()["readers"]["busy"], stats()["writer"]["busy"]) == (0, 1)
            gate.open()
            await asyncio.gather(task, *others)
        assert boundary(path) == 3

    async def test_readers_at_work_are_waited_for(self, path: Path) -> None:
        async with Database(path, config=TWO_READERS) as db:
            await migrated(path, target=1)
            async with Holder(db.snapshot()) as holder:
                task = asyncio.create_task(Migrator(db, FAMILY).up())
                await until(lambda: db.stats()["writer"]["busy"])
                reading = asyncio.create_task(db.fetch_one(COUNT()))
                await until(lambda: db.stats()["readers"]["waiting"] == 1)
                assert not task.done()
                with nothing_written(path):
                    await asyncio.sleep(0.05)  # it would have been done by then
                holder.let_go()
                await asyncio.gather(task, reading)
        assert boundary(path) == 3

    async def test_a_reader_that_does_not_end_is_named_and_nothing_written(
        self, path: Path, clock: Clock
    ) -> None:
        await migrated(path, target=1)
        async with Database(path, config=TWO_READERS) as db:
            async with Holder(db.snapshot(label="the long one")):
                with nothing_written(path):
                    task = asyncio.create_task(Migrator(db, FAMILY).up())
                    await until(lambda: clock.passes(1) or task.done())
                    with pytest.raises(PoolTimeoutError, match="the long one"):
                        await task
                # The other reader and the writer are free again.
                await db.fetch_one(COUNT())
                await db.execute(TOUCH())
            assert len(await Migrator(db, FAMILY).up()) == 2

    async def test_in_a_transaction_of_ones_own_it_is_refused_at_once(self, path: Path) -> None:
        """invariant 17"""
        async with Database(path, config=TWO_READERS) as db:
            async with db.transaction():
                with pytest.raises(TransactionStateError, match="would wait for ever"):
                    await Migrator(db, FAMILY).up()

    async def test_the_caller_itself_goes_on_at_once(self, path: Path) -> None:
        async with Database(path, config=TWO_READERS) as db:
            for target in 1, 2, 3:
                await Migrator(db, FAMILY).up(target)
                await db.fetch_one(COUNT())
                await Migrator(db, FAMILY).status()
                await db.execute(TOUCH())

    async def test_so_does_one_who_was_cancelled(self, path: Path, driver: Driver) -> None:
        async with Database(path, config=TWO_READERS, connect=driver.connect) as db:
            await Migrator(db, FAMILY).up(2)

            async def goes_on() -> None:
                with pytest.raises(asyncio.CancelledError):
                    await Migrator(db, FAMILY).up()
                await db.fetch_one(COUNT())
                await db.execute(TOUCH())

            gate = Gate(driver)
            stop_in_step(gate, "CREATE TABLE new")
            task = asyncio.create_task(goes_on())
            await gate.reached.wait()
            task.cancel()
            await until(lambda: db.stats()["readers"]["waiting"] or task.done())
            gate.open()
            await task
        assert boundary(path) == 2

    async def test_a_cancelled_step_is_still_one_until_its_thread_has_ended_it(
        self, path: Path, driver: Driver
    ) -> None:
        async with Database(path, config=TWO_READERS, connect=driver.connect) as db:
            await Migrator(db, FAMILY).up(2)
            gate = Gate(driver)
            stop_in_step(gate, "COMMIT")
            task = asyncio.create_task(Migrator(db, FAMILY).up())
            await gate.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            reading = asyncio.create_task(db.fetch_one(COUNT()))
            writing = asyncio.create_task(db.execute(TOUCH()))
            try:
                await asyncio.wait([reading, writing], timeout=0.1)
                assert not reading.done()
                assert not writing.done()
            finally:
                gate.open()
                await asyncio.wait([reading, writing])
        assert boundary(path) in (2, 3)
