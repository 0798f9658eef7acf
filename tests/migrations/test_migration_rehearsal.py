"""Rehearsing on a copy of the real database, and copying it while it is in use."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest
from support.suite import SOON
from test_migrations import FAMILY, SMALL, applied, ask, nothing_written, state, step

from abt_db import BusyError, CorruptError, Database, Query
from abt_db.errors import MaintenanceError, MigrationFailedError
from abt_db.files.copying import copy_database
from abt_db.migrations import Loss, Migrator, Progress, Reversibility

FILL = Query(
    "fill",
    "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000)"
    " INSERT INTO t SELECT x, hex(randomblob(100)) FROM n",
)
FIRST = step(1, "CREATE TABLE t (a INT, b);")


def quiet(done: int, total: int) -> None:
    """Tell nobody."""


class TestRehearse:
    """`rehearse` says what the steps would do to the real rows, and touches none of them."""

    async def test_it_tells_and_leaves_everything_as_it_is(
        self, path: Path, tmp_path: Path
    ) -> None:
        chain = [
            step(1, FAMILY),
            step(2, "CREATE INDEX i ON parents (name);", "DROP INDEX i;"),
            step(3, "DELETE FROM nephews WHERE name = 'y';", ""),
            step(4, "ALTER TABLE parents ADD COLUMN age INT DEFAULT 3 NOT NULL;", None),
        ]
        room = tmp_path / "room"
        room.mkdir()
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up(1)
            with nothing_written(path):
                report = await migrator.rehearse(directory=room)
            assert report.passed
            assert [trial.reversibility for trial in report.steps] == [
                Reversibility.EXACT,
                Reversibility.LOSSY,
                Reversibility.IRREVERSIBLE,
            ]
            assert report.steps[1].lost == (Loss("nephews", None, 1),)
            assert report.minimum_sqlite == "3.0"
            assert report.bytes_copied > 0
            assert all(trial.up_seconds > trial.guard_seconds >= 0 for trial in report.steps)
            assert list(room.iterdir()) == []
            assert applied(path) == [1]

    async def test_what_only_the_real_rows_show(self, path: Path) -> None:
        chain = [FIRST, step(2, "CREATE UNIQUE INDEX i ON t (a);", "DROP INDEX i;"), step(3, "")]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up(1)
            ask(path, "INSERT INTO t VALUES (1, 1), (1, 2)")
            assert (await migrator.plan()).errors == ()
            report = await migrator.rehearse(then_apply=True)
            assert not report.passed
            [trial] = report.steps  # and it ends there
            assert "UNIQUE constraint failed" in (trial.error or "")
            assert (report.applied, applied(path)) == ((), [1])

    async def test_then_apply_applies_and_keeps_the_classes(self, path: Path) -> None:
        chain = [FIRST, step(2, "CREATE INDEX i ON t (a);", "DROP INDEX i;")]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up(1)
            report = await migrator.rehearse(then_apply=True)
            assert [record.version for record in report.applied] == [2]
            assert (await migrator.history())[1].reversibility is Reversibility.EXACT
            assert (await migrator.rehearse(then_apply=True)).steps == ()

    async def test_a_step_that_can_not_be_applied_twice_is_not_applied(self, path: Path) -> None:
        chain = [FIRST, step(2, "CREATE TABLE u (x);", "")]
        async with Database(path, config=SMALL) as db:
            await Migrator(db, chain).up(1)
            report = await Migrator(db, chain).rehearse(then_apply=True)
        [trial] = report.steps
        assert trial.stuck and "u already exists" in (trial.reason or "")
        assert (report.passed, applied(path)) == (False, [1])

    async def test_seeded_it_finds_what_empty_tables_hide(self, path: Path) -> None:
        chain = [FIRST, step(2, "ALTER TABLE t ADD COLUMN c DEFAULT (random());",
                             "ALTER TABLE t DROP COLUMN c;")]  # fmt: skip
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up(1)
            assert (await migrator.rehearse()).passed
            report = await migrator.rehearse(seed=3)
        assert not report.passed
        assert [(seeded.table, seeded.rows) for seeded in report.seeded] == [("t", 3)]
        assert ask(path, "SELECT count(*) FROM t") == [(0,)]

    async def test_a_database_in_memory_is_refused(self) -> None:
        async with Database(":memory:") as db:
            with pytest.raises(MaintenanceError, match="in memory"):
                await Migrator(db, [FIRST]).rehearse()


class TestCopy:
    """A copy is the database at one moment, whole, or it is not there."""

    async def test_it_is_one_moment_though_others_write(self, path: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.db"
        told: list[tuple[int, int]] = []
        writers: list[sqlite3.Connection] = []

        def tell(done: int, total: int) -> None:
            if not told:  # a write in the middle of it
                with closing(sqlite3.connect(path, isolation_level=None)) as other:
                    other.execute("INSERT INTO t VALUES (0, 'late')")
                    writers.append(other)
            told.append((done, total))

        async with Database(path, config=SMALL) as db:
            await Migrator(db, [FIRST]).up()
            await db.execute(FILL())
            size = await copy_database(str(path), copy, tell)
        assert size == copy.stat().st_size
        assert len(told) > 1 and told == sorted(told) and told[-1][0] == told[-1][1]
        assert writers
        assert ask(path, "SELECT count(*) FROM t") == [(20_001,)]
        assert ask(copy, "SELECT count(*) FROM t") == [(20_000,)]
        assert ask(copy, "PRAGMA integrity_check") == [("ok",)]
        assert [file.name for file in tmp_path.glob("copy*")] == ["copy.db"]

    async def test_nothing_is_written_over(self, path: Path, tmp_path: Path) -> None:
        ask(path, "CREATE TABLE t (x)")
        other = tmp_path / "precious"
        other.write_text("precious")
        with pytest.raises(MaintenanceError, match="precious exists already"):
            await copy_database(str(path), other, quiet)
        assert other.read_text() == "precious"

    async def test_cancelled_it_leaves_nothing(
        self, path: Path, tmp_path: Path, no_leaks: None
    ) -> None:
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()

        def tell(done: int, total: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            deadline = monotonic() + SOON
            while not task.cancelling():
                assert monotonic() < deadline
                sleep(0.001)

        ask(path, "CREATE TABLE t AS SELECT zeroblob(9000000)")
        task = asyncio.create_task(copy_database(str(path), tmp_path / "copy.db", tell))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(tmp_path.glob("copy*")) == []

    async def test_a_source_that_is_no_database_is_an_error(self, tmp_path: Path) -> None:
        noise = tmp_path / "noise.db"
        noise.write_bytes(b"noise" * 2000)
        with pytest.raises(CorruptError, match="not a database"):
            await copy_database(str(noise), tmp_path / "copy.db", quiet)
        assert list(tmp_path.glob("copy*")) == []


class TestBackup:
    """`up(backup_to=…)` copies the database before the first step that drops a table."""

    @pytest.mark.parametrize(
        ("up", "wanted"),
        [("DROP TABLE t;", True), ("CREATE TABLE u (x);", False)],
        ids=["drops", "adds"],
    )
    async def test_before_what_drops(
        self, path: Path, tmp_path: Path, up: str, wanted: bool
    ) -> None:
        backup = tmp_path / "backup.db"
        chain = [FIRST, step(2, "CREATE TABLE v (x);"), step(3, up)]
        async with Database(path, config=SMALL) as db:
            await Migrator(db, chain).up(1)
            ask(path, "INSERT INTO t VALUES (1, 2)")
            await Migrator(db, chain).up(backup_to=backup)
        assert backup.exists() == wanted
        if wanted:
            assert applied(backup) == [1, 2]
            assert ask(backup, "SELECT * FROM t") == [(1, 2)]

    async def test_without_the_backup_the_step_is_not_done(
        self, path: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "there").touch()
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [FIRST]).up()
            before = state(path)
            with pytest.raises(MaintenanceError, match="exists already"):
                await Migrator(db, [FIRST, step(2, "DROP TABLE t;")]).up(
                    backup_to=tmp_path / "there"
                )
        assert (state(path), applied(path)) == (before, [1])


class TestProgress:
    """A migrator tells what it is doing, statement by statement."""

    async def test_of_each_statement(self, path: Path) -> None:
        told: list[Progress] = []
        chain = [step(1, "CREATE TABLE t (x);\nCREATE TABLE u (x);", "DROP TABLE u;")]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain, progress=told.append)
            await migrator.up()
            await migrator.down(0)
        assert told == [
            Progress(1, "up", 0, 2, 1),
            Progress(1, "up", 1, 2, 2),
            Progress(1, "down", 0, 1, 1),
        ]

    async def test_of_waiting_for_another_process(self, path: Path) -> None:
        told: list[Progress] = []
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [FIRST], progress=told.append, lock_timeout=0.3)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(BusyError, match="holds the lock; gave up after"):
                    await migrator.up()
            assert {each.doing for each in told} == {"waiting"}
            assert len(await migrator.up()) == 1


class TestTo:
    """`to` goes to a version from wherever the database is, and `redo` does the last step again."""

    async def test_up_and_down(self, path: Path) -> None:
        chain = [step(n, f"CREATE TABLE t{n} (x);", f"DROP TABLE t{n};") for n in (1, 2, 3)]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            assert await migrator.to(2) == [1, 2]
            assert await migrator.to(3) == [3]
            assert await migrator.to(1) == [3, 2]
            assert await migrator.to(1) == []
            assert await migrator.to(0) == [1]

    async def test_redo(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            assert await Migrator(db, [FIRST]).redo() == []
            second = step(2, "CREATE TABLE u (x);", "DROP TABLE u;")
            await Migrator(db, [FIRST, second]).up()
            assert [r.version for r in await Migrator(db, [FIRST, second]).redo()] == [2]
            wrong = step(2, "CREATE TABLE u (x);", "DROP TABLE nothing;")
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [FIRST, wrong]).redo()
            assert applied(path) == [1, 2]
