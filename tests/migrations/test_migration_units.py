"""`-- no-transaction` steps are committed statement by statement, and go on where they stopped."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.clock import Clock
from support.engine import Driver
from test_migration_guard import free, migrate
from test_migrations import SMALL, applied, ask, foreign_keys, notes, step

from abt_db import Database
from abt_db.errors import MigrationChangedError, MigrationFailedError
from abt_db.migrations import MigrationOrderError, Migrator, Progress, history

THREE = "CREATE TABLE t (x);\nINSERT INTO t VALUES (1);\nINSERT INTO t VALUES ({});"


class TestResume:
    """The history keeps how many statements are done, and the next try goes on behind them."""

    async def test_behind_the_last_statement_that_was_done(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError, match="line 3"):
                await Migrator(db, [free(1, THREE.format("wrong"))]).up()
            [note] = (await Migrator(db, [free(1, THREE)]).status()).failed
            assert (note.statements_done, note.success) == (2, False)
            assert "no such column: wrong" in (note.error_message or "")
            assert ask(path, "SELECT * FROM t") == [(1,)]
            # Again: nothing is done twice. Then with the rest mended.
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [free(1, THREE.format("wrong"))]).up()
            mended = [free(1, THREE.format(2))]
            [record] = await Migrator(db, mended).up()
            assert ask(path, "SELECT * FROM t") == [(1,), (2,)]
            assert (record.statements_done, record.checksum) == (0, mended[0].checksum)
            assert await Migrator(db, mended).up() == []

    async def test_what_is_done_can_not_be_changed_any_more(self, path: Path) -> None:
        with pytest.raises(MigrationFailedError):
            await migrate(path, free(1, THREE.format("wrong")))
        changed = THREE.format(2).replace("(1)", "(9)")
        with pytest.raises(MigrationChangedError, match="its first 2 statements"):
            await migrate(path, free(1, changed))
        assert ask(path, "SELECT * FROM t") == [(1,)]

    async def test_a_transaction_of_its_own_is_done_whole_or_not_at_all(self, path: Path) -> None:
        script = "CREATE TABLE t (x); BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (y); "
        with pytest.raises(MigrationFailedError):
            await migrate(path, free(1, f"{script} COMMIT; CREATE TABLE u (x);"))
        assert ask(path, "SELECT * FROM t") == []
        await migrate(path, free(1, f"{script.replace('y', '2')} COMMIT; CREATE TABLE u (x);"))
        assert ask(path, "SELECT * FROM t") == [(1,), (2,)]

    async def test_half_way_down_only_down_goes_on(self, path: Path) -> None:
        def chain(down: str) -> list[object]:
            return [step(1, ""), free(2, "CREATE TABLE t (x); CREATE TABLE u (x);", down)]

        wrong, right = "DROP TABLE t; DROP TABLE nothing;", "DROP TABLE t; DROP TABLE u;"
        async with Database(path, config=SMALL) as db:
            await Migrator(db, chain(wrong)).up()
            with pytest.raises(MigrationFailedError, match="nothing"):
                await Migrator(db, chain(wrong)).down(0)
            assert applied(path) == [1, 2]
            mended = Migrator(db, chain(right))
            [_, record] = (await mended.status()).applied
            assert record.statements_done == 1
            with pytest.raises(MigrationOrderError, match="half taken back"):
                await mended.up()
            assert await mended.down(0) == [2, 1]
            assert len(await mended.up()) == 2


class TestOutside:
    """What SQLite does outside of transactions only is done there."""

    async def test_vacuum(self, path: Path) -> None:
        chain = [
            step(1, "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(1000000)); DELETE FROM t;"),
            free(2, "VACUUM; CREATE TABLE u (x);", "DROP TABLE u; VACUUM"),
        ]
        await migrate(path, *chain)
        assert ask(path, "PRAGMA freelist_count") == [(0,)]
        await migrate(path, *chain, down=1)
        assert applied(path) == [1]

    async def test_a_setting_that_vacuum_needs_is_made_again_by_the_next_try(
        self, path: Path
    ) -> None:
        script = "PRAGMA auto_vacuum = INCREMENTAL; {} VACUUM;"
        await migrate(path, step(1, "CREATE TABLE t (x);"))
        with pytest.raises(MigrationFailedError):
            await migrate(
                path, step(1, "CREATE TABLE t (x);"), free(2, script.format("SELECT nothing;"))
            )
        await migrate(path, step(1, "CREATE TABLE t (x);"), free(2, script.format("")))
        assert ask(path, "PRAGMA auto_vacuum") == [(2,)]

    async def test_vacuum_obeys_the_time_limit_and_foreign_keys_are_put_back(
        self, path: Path, clock: Clock
    ) -> None:
        driver = Driver()
        endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x)"
        chain = [free(1, f"PRAGMA foreign_keys = ON; VACUUM; {endless} FROM n;")]
        chain = [step(1, chain[0].up, transactional=False, timeout=1000)]
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = lambda step: clock.passes(1000) if "RECURSIVE" in step else None
            with pytest.raises(MigrationFailedError, match="time limit"):
                await Migrator(db, chain).up()
            [note] = await db.read(history.read)
            assert note.statements_done == 2
            assert await foreign_keys(db) == 1

    async def test_vacuum_waits_for_the_lock_of_another_process(self, path: Path) -> None:
        ask(path, "CREATE TABLE t (x)")
        told: list[str] = []
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

        def tell(progress: Progress) -> None:
            told.append(progress.doing)
            if progress.doing == "waiting":
                other.rollback()

        with closing(other):
            async with Database(path, config=SMALL) as db:
                other.execute("BEGIN IMMEDIATE")
                assert len(await Migrator(db, [free(1, "VACUUM;")], progress=tell).up()) == 1
        assert told == ["up", "waiting", "up"]

    @pytest.mark.parametrize(
        ("sql", "told"),
        [
            ("BEGIN; SELECT 1;", "has no COMMIT"),
            ("COMMIT;", "no BEGIN before it"),
            ("BEGIN; BEGIN; COMMIT;", "the COMMIT before it is missing"),
            ("BEGIN; VACUUM; COMMIT;", "can't run in a transaction"),
            ("SAVEPOINT s;", "rolled back by itself"),
            ("BEGIN; ROLLBACK;", "rolled back by itself"),
            ("VACUUM INTO 'other.db';", "one file"),
            ("ATTACH 'other.db' AS o;", "one file"),
            ("PRAGMA journal_mode = delete;", "belong in Config"),
            ("PRAGMA writable_schema = 1;", "belong in Config"),
        ],
    )
    async def test_what_a_step_may_not_do_is_refused_with_the_reason(
        self, path: Path, sql: str, told: str
    ) -> None:
        """fault 70"""
        with pytest.raises(MigrationFailedError, match=rf"line 2: .*{told}"):
            await migrate(path, free(1, f"CREATE TABLE t (x);\n{sql}"))
        assert list(notes(path)) == [1]
