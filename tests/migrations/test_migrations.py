"""Migrations are applied whole or not at all, in their order, once, and told of in the history."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock
from support.engine import SOON, Driver, Holder

from abt_db import Config, Database, IntegrityError, Query, ReadOnlyError
from abt_db.errors import (
    MigrationChangedError,
    MigrationError,
    MigrationFailedError,
    MigrationIrreversibleError,
    MigrationUnknownError,
)
from abt_db.migrations import (
    Migration,
    MigrationLossError,
    MigrationOrderError,
    Migrator,
    Record,
    load_migrations,
    schema,
)

SMALL = Config(readers=1)
FOREIGN_KEYS = Query("foreign_keys", "PRAGMA foreign_keys", int)


def step(version: int, up: str = "", down: str | None = "", **changes: Any) -> Migration:
    return Migration(version, f"step {version}", up, down, **changes)


def table(version: int, *dependencies: int) -> Migration:
    """A step that makes a table of its own: `t7` for version 7."""
    up, down = f"CREATE TABLE t{version} (x);", f"DROP TABLE t{version};"
    return step(version, up, down, dependencies=dependencies)


ONE_TWO_THREE = (table(1), table(2), table(3))


# -- looking from outside --------------------------------------------------------------------------


def ask(path: Path | str, sql: str, *values: Any) -> list[Any]:
    """Run one statement on a connection of its own, committed, and return its rows."""
    with closing(sqlite3.connect(path, isolation_level=None)) as outside:
        return outside.execute(sql, values).fetchall()


def applied(path: Path) -> list[int]:
    """The versions that the history calls applied, in its order."""
    if not ask(path, "SELECT 1 FROM sqlite_schema WHERE name = 'migration_history'"):
        return []
    rows = ask(path, "SELECT version FROM migration_history WHERE success = 1 ORDER BY id")
    return [version for (version,) in rows]


def notes(path: Path) -> dict[int, str]:
    """The failed tries that the history tells of."""
    if not ask(path, "SELECT 1 FROM sqlite_schema WHERE name = 'migration_history'"):
        return {}
    return dict(ask(path, "SELECT version, error_message FROM migration_history WHERE success = 0"))


State = tuple[list[Any], dict[str, list[str]], list[Any]]


def state(database: Path | sqlite3.Connection) -> State:
    """All that migrations have made: schema, rows, and the numbers in the header."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(database)) as outside:
            return state(outside)
    schema = database.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema"
        " WHERE tbl_name <> 'migration_history' ORDER BY type, name"
    ).fetchall()
    rows = {
        name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"')))
        for kind, name, *_ in schema
        if kind == "table"
    }
    pragmas = ("user_version", "application_id")
    return schema, rows, [database.execute(f"PRAGMA {name}").fetchone() for name in pragmas]


def replayed(migrations: Sequence[Migration]) -> list[State]:
    """The states before and after each step, as sqlite3 alone makes them from whole scripts."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as plain:
        states = [state(plain)]
        for migration in migrations:
            plain.executescript(migration.up)
            states.append(state(plain))
        return states


@contextmanager
def nothing_written(path: Path) -> Iterator[None]:
    """Fail if anything is committed to the database, or written to its files, in this block."""
    with closing(sqlite3.connect(path)) as outside:

        def look() -> tuple[Any, ...]:
            # The files are not opened: to close one would end SQLite's locks in this process.
            # https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled
            files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
            stats = [stat for stat in map(Path.stat, files) if stat.st_size]
            version = outside.execute("PRAGMA data_version").fetchone()
            return version, [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

        before = look()
        yield
        assert look() == before


async def foreign_keys(db: Database) -> int | None:
    """What the setting is on the writer."""
    return await db.write(lambda cx: cx.fetch_one(FOREIGN_KEYS()))


Verb = Callable[[Migrator], Coroutine[Any, Any, Any]]

LOOKING: dict[str, Verb] = {
    "status": lambda m: m.status(),
    "pending": lambda m: m.pending(),
    "current_version": lambda m: m.current_version(),
}
WRITING: dict[str, Verb] = {"up": lambda m: m.up(), "down": lambda m: m.down(0)}


def each(verbs: dict[str, Verb]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("verb", verbs.values(), ids=list(verbs))


# -- up --------------------------------------------------------------------------------------------


class TestUp:
    """`up` applies what is pending in its order, and the history tells of it."""

    async def test_steps_are_applied_in_order_and_returned_as_the_history_has_them(
        self, path: Path
    ) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, reversed(ONE_TWO_THREE))
            records = await migrator.up()
            assert [record.version for record in records] == applied(path) == [1, 2, 3]
            assert await migrator.history() == records
            assert await migrator.current_version() == 3
            assert await migrator.pending() == ()
            assert state(path) == replayed(ONE_TWO_THREE)[-1]

    async def test_a_record_tells_what_was_applied_when_and_how_to_take_it_back(
        self, path: Path
    ) -> None:
        [migration] = [step(4, "CREATE TABLE t (x);", "DROP TABLE t;")]
        async with Database(path, config=SMALL) as db:
            [record] = await Migrator(db, [migration]).up()
        told = (record.version, record.description, record.success, record.error_message)
        assert told == (4, "step 4", True, None)
        assert (record.checksum, record.down_sql) == (migration.checksum, "DROP TABLE t;")
        assert timedelta(0) <= datetime.now(UTC) - record.applied_at < timedelta(seconds=SOON)
        assert 0 <= record.execution_time_ms < SOON * 1000

    async def test_the_fingerprint_is_that_of_the_schema_alone(self, tmp_path: Path) -> None:
        async def fingerprints(name: str, *ups: str) -> list[str | None]:
            async with Database(tmp_path / name, config=SMALL) as db:
                records = await Migrator(db, [step(n, up) for n, up in enumerate(ups, 1)]).up()
                return [record.schema_fingerprint for record in records]

        make, fill = "CREATE TABLE t (x);", "INSERT INTO t VALUES (1);"
        [empty, made, filled] = await fingerprints("a", "", make, fill)
        assert empty != made == filled
        assert await fingerprints("b", make + fill) == [made]
        assert await fingerprints("c", "CREATE TABLE t (y);") != [made]
        # Nor does it matter whether there is a history: one that was made by hand can be compared.
        ask(tmp_path / "d", make)
        async with Database(tmp_path / "d", config=SMALL) as db:
            assert await db.read(schema.fingerprint) == made

    async def test_nothing_to_do_writes_nothing_and_waits_for_nobody(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            await migrator.up()
            with nothing_written(path):
                async with Holder(db.transaction()):
                    assert await asyncio.wait_for(migrator.up(), SOON) == []
                    assert await asyncio.wait_for(migrator.up(2), SOON) == []

    async def test_it_goes_up_to_a_target_and_no_further(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            assert [record.version for record in await migrator.up(2)] == [1, 2]
            assert await migrator.up(1) == await migrator.up(0) == await migrator.up(2) == []
            assert await migrator.pending() == ONE_TWO_THREE[2:]
            assert [record.version for record in await migrator.up(3)] == [3]

    @pytest.mark.parametrize("target", [4, -1])
    async def test_a_target_that_is_not_there_is_refused(self, path: Path, target: int) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            with nothing_written(path):
                for verb in (migrator.up, migrator.down):
                    with pytest.raises(MigrationUnknownError, match=str(target)):
                        await verb(target)

    async def test_dependencies_make_the_order_up_and_down(self, path: Path) -> None:
        # 5 needs 7, so the order is 1, 7, 5, 9.
        migrations = [table(1), table(7, 1), table(5, 7), table(9)]
        states = replayed(migrations)
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, migrations)
            assert [record.version for record in await migrator.up(7)] == [1, 7]
            assert (await migrator.current_version(), state(path)) == (7, states[2])
            assert [record.version for record in await migrator.up(5)] == [5]
            assert (await migrator.current_version(), state(path)) == (5, states[3])
            await migrator.up()
            assert await migrator.down(7) == [9, 5]
            assert (await migrator.current_version(), state(path)) == (7, states[2])
            assert [m.version for m in await migrator.pending()] == [5, 9]
            await migrator.up()
            assert await migrator.down(5) == [9]
            assert await migrator.down(5) == []
            assert await migrator.down(0) == [5, 7, 1]
            assert (await migrator.current_version(), state(path)) == (None, states[0])

    @pytest.mark.parametrize("script", ["", "-- nothing yet;\n/* nor here; */", ";;\n;"])
    async def test_a_script_without_a_statement_is_a_step(self, path: Path, script: str) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [step(1, script, script)])
            assert [record.version for record in await migrator.up()] == [1]
            assert await migrator.down(0) == [1]

    async def test_triggers_comments_and_strings_with_semicolons(self, path: Path) -> None:
        """fault 71"""
        up = """\ufeff-- one; two\r
            CREATE TABLE t (x DEFAULT 'a;b');\r
            /* three; */ CREATE TRIGGER r AFTER INSERT ON t BEGIN
                UPDATE t SET x = x || ';' WHERE x = 'a;b'; -- four;
                SELECT CASE WHEN 1 THEN 2 END;
            END;
            INSERT INTO t DEFAULT VALUES"""
        migration = step(1, up, "DROP TABLE t")
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [migration]).up()
        assert ask(path, "SELECT x FROM t") == [("a;b;",)]
        assert state(path) == replayed([migration])[-1]

    async def test_a_statement_that_returns_rows_is_run_to_its_end(self, path: Path) -> None:
        # abs() of the smallest integer is an error, but of the second row.
        checks = "SELECT abs(column1) FROM (VALUES (1), (-9223372036854775808));"
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError, match="integer overflow"):
                await Migrator(db, [step(1, checks)]).up()
            inserts = "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3) RETURNING x;"
            await Migrator(db, [step(1, inserts)]).up()
        assert ask(path, "SELECT count(*) FROM t") == [(3,)]

    async def test_a_database_in_memory_is_migrated_as_well(self) -> None:
        async with Database(":memory:") as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            assert len(await migrator.up()) == 3
            assert await migrator.down(1) == [3, 2]
            assert await migrator.current_version() == 1
            assert await foreign_keys(db) == 1


class TestDown:
    """`down` takes back what came after the target, the last step first (M5)."""

    async def test_it_takes_back_to_the_target_and_forgets(self, path: Path) -> None:
        states = replayed(ONE_TWO_THREE)
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            await migrator.up()
            assert await migrator.down(3) == []
            assert await migrator.down(1) == [3, 2]
            assert (applied(path), state(path)) == ([1], states[1])
            assert await migrator.down(2) == []
            await migrator.up()
            assert await migrator.down(0) == [3, 2, 1]
            assert (applied(path), state(path)) == ([], states[0])
            assert await migrator.history() == []

    async def test_the_script_is_that_of_the_file_as_it_was_mended(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [step(1, "CREATE TABLE t (x);", "DROP TABLE tt;")]).up()
            mended = Migrator(db, [step(1, "CREATE TABLE t (x);", "DROP TABLE t;")])
            assert await mended.down(0) == [1]
        assert state(path) == replayed([])[0]

    async def test_an_irreversible_step_is_refused_before_anything_is_written(
        self, path: Path
    ) -> None:
        migrations = [table(1), step(2, "CREATE TABLE t (x);", None, origin="2.sql"), table(3)]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, migrations)
            await migrator.up()
            with nothing_written(path), pytest.raises(MigrationIrreversibleError, match=r"^2\.sql"):
                await migrator.down(0)
            assert await migrator.down(2) == [3]

    async def test_a_step_that_fails_stays_applied_and_the_later_ones_are_taken_back(
        self, path: Path
    ) -> None:
        down = "DROP TABLE t2;\nDROP TABLE nowhere;"
        migrations = [table(1), step(2, "CREATE TABLE t2 (x);", down, origin="2.sql"), table(3)]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, migrations)
            await migrator.up()
            with pytest.raises(MigrationFailedError, match=r"2\.sql, line 2: .*nowhere"):
                await migrator.down(0)
            assert (applied(path), notes(path)) == ([1, 2], {})
            assert state(path) == replayed(migrations)[2]
            assert await foreign_keys(db) == 1
            await migrator.up()
            assert applied(path) == [1, 2, 3]


# -- looking ---------------------------------------------------------------------------------------


class TestStatus:
    """`status`, `pending`, `current_version` and `history` tell, and never write (M6)."""

    @each(LOOKING | {"history": lambda m: m.history()})
    @pytest.mark.parametrize("target", [0, 2, 3])
    async def test_looking_writes_nothing(self, path: Path, verb: Verb, target: int) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            await migrator.up(target)
            with nothing_written(path):
                await verb(migrator)
                # Nor does it wait for the writer.
                async with Holder(db.transaction()):
                    await asyncio.wait_for(verb(migrator), SOON)
        assert len(applied(path)) == target

    async def test_a_database_without_a_history(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            status = await migrator.status()
            assert (status.applied, status.failed, status.pending) == ((), (), ONE_TWO_THREE)
            assert await migrator.current_version() is None
            assert await migrator.history() == []
        assert ask(path, "SELECT count(*) FROM sqlite_schema") == [(0,)]

    async def test_a_read_only_database(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, ONE_TWO_THREE).up(2)
        async with Database(path, config=SMALL, read_only=True) as db:
            migrator = Migrator(db, ONE_TWO_THREE)
            with nothing_written(path):
                assert [r.version for r in (await migrator.status()).applied] == [1, 2]
                assert await migrator.pending() == ONE_TWO_THREE[2:]
                assert await migrator.up(2) == []
                for verb in WRITING.values():
                    with pytest.raises(ReadOnlyError, match="read-only"):
                        await verb(migrator)

    async def test_failed_tries_are_told_apart_and_stay_pending(self, path: Path) -> None:
        migrations = (table(1), step(2, "SELECT nothing;"), table(3))
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, migrations)
            with pytest.raises(MigrationFailedError):
                await migrator.up()
            status = await migrator.status()
            assert [record.version for record in status.applied] == [1]
            assert [record.version for record in status.failed] == [2]
            assert status.pending == migrations[1:]
            assert await migrator.current_version() == 1


class TestFilesAndHistory:
    """Migrations that don't fit the history have a typed error that names the file, and nothing is
    written (M4; faults 65, 66)."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "schema"
        directory.mkdir()
        for version in (1, 2, 3):
            (directory / f"000{version}_step.up.sql").write_text(f"CREATE TABLE t{version} (x);")
            (directory / f"000{version}_step.down.sql").write_text(f"DROP TABLE t{version};")
        return directory

    async def refused(
        self, path: Path, directory: Path, verb: Verb, kind: type[MigrationError], match: str
    ) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, load_migrations(directory))
            with nothing_written(path), pytest.raises(MigrationError, match=match) as caught:
                await verb(migrator)
        assert type(caught.value) is kind

    async def migrated(self, path: Path, directory: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, load_migrations(directory)).up()

    @each(LOOKING | WRITING)
    async def test_a_database_newer_than_the_program(
        self, path: Path, directory: Path, verb: Verb
    ) -> None:
        await self.migrated(path, directory)
        for file in directory.glob("0003*"):
            file.unlink()
        match = r"migration 3 \(step\).*newer"
        await self.refused(path, directory, verb, MigrationUnknownError, match)

    @each(LOOKING | WRITING)
    async def test_a_changed_file(self, path: Path, directory: Path, verb: Verb) -> None:
        await self.migrated(path, directory)
        changed = directory / "0002_step.up.sql"
        changed.write_text(changed.read_text() + " -- a comment")
        match = r"0002_step\.up\.sql was changed"
        await self.refused(path, directory, verb, MigrationChangedError, match)

    @each(LOOKING | WRITING)
    async def test_a_step_that_comes_before_an_applied_one(
        self, path: Path, directory: Path, verb: Verb
    ) -> None:
        held_back = {file: file.read_text() for file in directory.glob("0002*")}
        for file in held_back:
            file.unlink()
        await self.migrated(path, directory)
        for file, text in held_back.items():
            file.write_text(text)
        match = r"0002_step\.up\.sql is not applied, but version 3"
        await self.refused(path, directory, verb, MigrationOrderError, match)

    @each(LOOKING | WRITING)
    async def test_the_order_is_that_of_the_dependencies_and_not_of_the_numbers(
        self, path: Path, verb: Verb
    ) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [table(1), table(7)]).up()
            await verb(Migrator(db, [table(1), table(7), table(5, 7)]))
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [table(1), table(7), table(5, 7)]).up()
            with pytest.raises(MigrationOrderError, match="migration 3 is not applied"):
                await verb(Migrator(db, [table(1), table(3), table(7), table(5, 7)]))

    async def test_line_ends_and_a_mended_down_script_are_no_change(
        self, path: Path, directory: Path
    ) -> None:
        up, down = directory / "0002_step.up.sql", directory / "0002_step.down.sql"
        up.write_bytes(b"CREATE TABLE t2 (\n    x\n);\n")
        await self.migrated(path, directory)
        up.write_bytes(b"\xef\xbb\xbfCREATE TABLE t2 (\r\n    x\r\n);\r\n")
        down.write_text("DROP TABLE IF EXISTS t2;")
        async with Database(path, config=SMALL) as db:
            assert await Migrator(db, load_migrations(directory)).up() == []


# -- a step that fails -----------------------------------------------------------------------------

FAILURES = {
    "a misspelt table": ("INSERT INTO nowhere VALUES (1);", "nowhere"),
    "a syntax error": ("CREATE TABEL t (x);", "TABEL"),
    "a constraint": ("INSERT INTO t1 VALUES (1), (1);", "UNIQUE"),
    "a rollback of SQLite's own": ("INSERT OR ROLLBACK INTO t1 VALUES (1), (1);", "UNIQUE"),
    "a trigger that rolls back": (
        "CREATE TRIGGER r AFTER INSERT ON t1 BEGIN SELECT RAISE(ROLLBACK, 'never'); END;"
        " INSERT INTO t1 VALUES (1);",
        "never",
    ),
}


class TestFailure:
    """A step that fails is rolled back and noted, and the next try works (M1; fault 72)."""

    FIRST = step(1, "CREATE TABLE t1 (x UNIQUE);", "DROP TABLE t1;")

    @pytest.mark.parametrize(("wrong", "told"), FAILURES.values(), ids=FAILURES)
    async def test_half_way(self, path: Path, wrong: str, told: str) -> None:
        up = f"PRAGMA user_version = 7;\nCREATE TABLE t2 (x);\n{wrong}"
        later = table(3)
        async with Database(path, config=SMALL) as db:
            failing = Migrator(db, [self.FIRST, step(2, up, origin="0002.up.sql"), later])
            with pytest.raises(MigrationFailedError, match=rf"^0002\.up\.sql, line 3: .*{told}"):
                await failing.up()
            assert state(path) == replayed([self.FIRST])[-1]
            assert applied(path) == [1]
            assert await foreign_keys(db) == 1
            # Again, and once mended.
            with pytest.raises(MigrationFailedError) as caught:
                await failing.up()
            assert notes(path) == {2: str(caught.value)}
            mended = [self.FIRST, step(2, "CREATE TABLE t2 (x);"), later]
            assert [record.version for record in await Migrator(db, mended).up()] == [2, 3]
            assert (applied(path), notes(path)) == ([1, 2, 3], {})
            assert state(path) == replayed(mended)[-1]

    async def test_the_note_tells_of_the_try_and_holds_no_fingerprint(self, path: Path) -> None:
        migration = step(1, "CREATE TABLE t (x); SELECT nothing;", "DROP TABLE t;")
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [migration])
            with pytest.raises(MigrationFailedError) as caught:
                await migrator.up()
            [record] = (await migrator.status()).failed
        assert record == Record(
            version=1,
            description="step 1",
            applied_at=record.applied_at,
            execution_time_ms=record.execution_time_ms,
            success=False,
            error_message=str(caught.value),
            checksum=migration.checksum,
            down_sql="DROP TABLE t;",
            schema_fingerprint=None,
        )

    async def test_the_cause_is_attached(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError) as caught:
                await Migrator(db, [self.FIRST, step(2, FAILURES["a constraint"][0])]).up()
        assert isinstance(caught.value.__cause__, IntegrityError)

    async def test_the_numbers_in_the_header_go_back_with_their_step(self, path: Path) -> None:
        header = "PRAGMA user_version = 7; PRAGMA application_id = 9;"
        wrong = "PRAGMA user_version = 8; PRAGMA application_id = 10; SELECT nothing;"
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [step(1, header), step(2, wrong)]).up()
        assert state(path)[2] == [(7,), (9,)]

    async def test_a_failed_try_of_a_step_the_program_does_not_have_is_nothing_to_it(
        self, path: Path
    ) -> None:
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [table(1), step(2, "SELECT nothing;")]).up()
            assert await Migrator(db, [table(1), table(3)]).up()
            assert applied(path) == [1, 3]

    async def test_a_commit_that_fails_is_a_step_that_failed(self, path: Path) -> None:
        driver = Driver()
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            migrator = Migrator(db, [step(1, "CREATE TABLE t (x);", origin="0001.up.sql")])
            steps = ["COMMIT", "CREATE TABLE t (x);"]

            def fail_once(sql: str) -> None:
                if sql == steps[-1] and steps.pop() == "COMMIT":
                    driver.hook = lambda sql: None
                    raise sqlite3.OperationalError("disk I/O error")

            driver.hook = fail_once
            with pytest.raises(MigrationFailedError, match=r"^0001\.up\.sql.*disk I/O error"):
                await migrator.up()
            assert list(notes(path)) == [1]
            assert [record.version for record in await migrator.up()] == [1]


REFUSED = [
    "BEGIN;",
    "begin immediate;",
    "/* ; */ -- ;\n COMMIT;",
    "COMMIT",
    "END TRANSACTION;",
    "ROLLBACK;",
    "SAVEPOINT s;",
    "RELEASE s;",
    "ROLLBACK TO abt_db;",
    "ATTACH 'other.db' AS other;",
    "DETACH main;",
    "VACUUM;",
    "VACUUM INTO 'other.db';",
    "PRAGMA foreign_keys = OFF;",
    "PRAGMA foreign_keys = 0",
    "PRAGMA foreign_keys = 1",
    "pragma main . foreign_keys(on);",
    "PRAGMA journal_mode = delete;",
    "PRAGMA synchronous = off;",
    "PRAGMA writable_schema = ON;",
    "PRAGMA wal_checkpoint;",
    "SELECT load_extension('other');",
]


class TestRefused:
    """What would end the step's transaction, or reach beyond it, is refused with file and line
    (faults 23, 24, 41, 70)."""

    @pytest.mark.parametrize("sql", REFUSED)
    async def test_in_a_file(
        self, path: Path, tmp_path: Path, sql: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        directory = tmp_path / "schema"
        directory.mkdir()
        (directory / "0001_a.up.sql").write_text(f"CREATE TABLE t (x);\n\n{sql}")
        (directory / "0002_b.up.sql").write_text("CREATE TABLE t (x);")
        (directory / "0002_b.down.sql").write_text(f"DROP TABLE t;\n{sql}")
        first, second = load_migrations(directory)
        line = 3 + sql.count("\n")
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError, match=rf"0001_a\.up\.sql, line {line}: .*ref"):
                await Migrator(db, [first]).up()
            assert (applied(path), list(notes(path))) == ([], [1])
            migrator = Migrator(db, [second])
            await migrator.up()
            with pytest.raises(MigrationFailedError, match=rf"line {line - 1}: .*refused"):
                await migrator.down(0)
            assert applied(path) == [2]
            assert await foreign_keys(db) == 1
        assert not (tmp_path / "other.db").exists()
        assert state(path) == replayed([second])[-1]

    async def test_the_error_of_a_down_script_names_the_down_file(
        self, path: Path, tmp_path: Path
    ) -> None:
        directory = tmp_path / "schema"
        directory.mkdir()
        (directory / "0001_a.up.sql").write_text("CREATE TABLE t (x);")
        (directory / "0001_a.down.sql").write_text("DROP TABLE t;\nCOMMIT;")
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, load_migrations(directory))
            await migrator.up()
            with pytest.raises(MigrationFailedError, match=r"0001_a\.down\.sql, line 2: COMMIT"):
                await migrator.down(0)

    async def test_a_trigger_may_begin_and_end(self, path: Path) -> None:
        trigger = "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END;"
        async with Database(path, config=SMALL) as db:
            assert await Migrator(db, [step(1, f"CREATE TABLE t (x); {trigger}")]).up()


ENDLESS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n;"


class TestTimeLimit:
    """A step over its time limit is stopped, rolled back, and noted as failed (fault 69)."""

    async def stopped(self, db: Database, migration: Migration) -> str:
        """Let the step fail and return its message, which is noted word for word."""
        migrator = Migrator(db, [migration])
        with pytest.raises(MigrationFailedError, match="time limit") as caught:
            await migrator.up()
        [note] = (await migrator.status()).failed
        assert note.error_message == str(caught.value)
        assert applied(Path(db.path)) == []
        assert state(Path(db.path)) == replayed([])[0]
        assert await foreign_keys(db) == 1
        # The limit was the step's: the next call is not stopped, nor is the next try.
        assert await Migrator(db, [step(1, "CREATE TABLE t (x);")]).up()
        assert notes(Path(db.path)) == {}
        return str(caught.value)

    async def test_in_a_statement(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        up = f"CREATE TABLE t (x);\n{ENDLESS}"
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = lambda sql: clock.passes(1000) if "RECURSIVE" in sql else None
            message = await self.stopped(db, step(1, up, timeout=1000, origin="1.sql"))
        assert message.startswith("1.sql, line 2")

    # A statement may be too short for SQLite to ask about the time; so may be those around it.
    @pytest.mark.parametrize(
        "after",
        ["BEGIN IMMEDIATE", "CREATE TABLE t (x);", "INSERT INTO t VALUES (1);", "SELECT 1;"],
    )
    async def test_between_statements(self, path: Path, after: str, clock: Clock) -> None:
        driver = Driver()
        seen: list[str] = []

        def be_slow(sql: str) -> None:
            if seen[-1:] == [after] and seen.count(after) == 1:
                clock.passes(1000)
            seen.append(sql)

        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = be_slow
            up = "CREATE TABLE t (x); INSERT INTO t VALUES (1); SELECT 1;"
            message = await self.stopped(db, step(1, up, timeout=1000, origin="1.sql"))
        assert message.startswith("1.sql")

    async def test_each_step_has_its_own(self, path: Path, clock: Clock) -> None:
        driver = Driver()

        def be_slow(sql: str) -> None:
            if sql.startswith("CREATE TABLE t"):
                clock.passes(400)

        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = be_slow
            steps = [step(n, f"CREATE TABLE t{n} (x);", timeout=1000) for n in (1, 2, 3, 4)]
            assert len(await Migrator(db, steps).up()) == 4

    async def test_of_a_down_script(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        async with Database(path, config=SMALL, connect=driver.connect) as db:
            driver.hook = lambda sql: clock.passes(1000) if "RECURSIVE" in sql else None
            up = "CREATE TABLE t (x);"
            migrator = Migrator(db, [step(1, up, f"DROP TABLE t; {ENDLESS}", timeout=1000)])
            await migrator.up()
            with pytest.raises(MigrationFailedError, match="time limit"):
                await migrator.down(0)
            assert (applied(path), notes(path)) == ([1], {})
            assert await foreign_keys(db) == 1


# -- foreign keys ----------------------------------------------------------------------------------

FAMILY = """
CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE children (
    id INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL REFERENCES parents (id) ON DELETE CASCADE
);
CREATE TABLE nephews (name TEXT, parent INTEGER REFERENCES parents (id) ON DELETE CASCADE);
CREATE TABLE nieces (
    name TEXT PRIMARY KEY, parent INTEGER REFERENCES parents (id) ON DELETE SET NULL
) WITHOUT ROWID;
INSERT INTO parents VALUES (1, 'a'), (2, 'b');
INSERT INTO children VALUES (10, 1), (20, 2), (21, 2);
INSERT INTO nephews VALUES ('x', 1), ('y', 2);
INSERT INTO nieces VALUES ('z', 1), ('zz', 2);
"""
OFF_SPRING = "children", "nephews", "nieces"

REBUILD = """
CREATE TABLE parents_new (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT '');
INSERT INTO parents_new SELECT id, name FROM parents;
DROP TABLE parents;
ALTER TABLE parents_new RENAME TO parents;
"""

VIOLATIONS = {
    "an orphan": "INSERT INTO children VALUES (30, 9);",
    "an orphan beside another": "INSERT INTO nephews VALUES ('v', 9);",
    "an orphan without a rowid": "INSERT INTO nieces VALUES ('v', 9);",
    "a parent taken away": "DELETE FROM parents WHERE id = 2;",
    "a table taken away": "DROP TABLE parents;",
    "a rebuild that loses a row": REBUILD.replace("FROM parents;", "FROM parents WHERE id = 1;"),
    "one instead of another": "DELETE FROM nephews WHERE parent = 8;"
    "INSERT INTO children VALUES (30, 9);",
    "a child that moves away": "UPDATE nephews SET parent = 9 WHERE name = 'y';",
}

HARMLESS = {
    "nothing of theirs": "CREATE TABLE t (x);",
    "a rebuild of the parents": REBUILD,
    "more rows": "INSERT INTO nephews VALUES ('v', 2); INSERT INTO nieces VALUES ('v', 2);",
    "a repair": "DELETE FROM nephews WHERE parent = 8;",
    # The rowids of the rows are other ones afterwards, as they had a gap.
    "a rebuild of the children": """
        CREATE TABLE nephews_new (name TEXT NOT NULL, parent INTEGER REFERENCES parents (id));
        INSERT INTO nephews_new SELECT name, parent FROM nephews;
        DROP TABLE nephews;
        ALTER TABLE nephews_new RENAME TO nephews;
    """,
    "another name for the children": "ALTER TABLE nephews RENAME TO cousins;",
    "another name for the parents": "ALTER TABLE parents RENAME TO adults;",
}


class TestForeignKeys:
    """Foreign keys are off in a step and on again after it, and it makes no violation (M3)."""

    async def kin(self, db: Database, *, violated: bool = False) -> Migration:
        """Apply the first step; with some violations, if they are wanted."""
        first = step(1, FAMILY)
        await Migrator(db, [first]).up()
        if violated:
            for sql in (
                "INSERT INTO children VALUES (99, 8)",
                "INSERT INTO nephews VALUES ('gone', 1), ('u', 8)",
                "DELETE FROM nephews WHERE name = 'gone'",
                "INSERT INTO nieces VALUES ('u', 8)",
            ):
                ask(db.path, sql)  # sqlite3's connections don't look at foreign keys
        return first

    async def test_a_rebuild_keeps_the_children_under_on_delete_cascade(self, path: Path) -> None:
        """fault 67, as far as foreign keys go"""
        before = "SELECT * FROM {} ORDER BY 1"
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [await self.kin(db), step(2, REBUILD, REBUILD)])
            rows = [ask(path, before.format(name)) for name in OFF_SPRING]
            await migrator.up()
            assert [ask(path, before.format(name)) for name in OFF_SPRING] == rows
            await migrator.down(1)
            assert [ask(path, before.format(name)) for name in OFF_SPRING] == rows
            # And they still are children: the cascade works.
            await db.execute(Query("q", "DELETE FROM parents WHERE id = 2")())
        assert ask(path, "SELECT id FROM children") == [(10,)]

    @pytest.mark.parametrize("violated", [False, True], ids=["sound", "violated"])
    @pytest.mark.parametrize("sql", VIOLATIONS.values(), ids=VIOLATIONS)
    async def test_a_violation_that_a_step_makes_stops_it(
        self, path: Path, sql: str, violated: bool
    ) -> None:
        async with Database(path, config=SMALL) as db:
            first = await self.kin(db, violated=violated)
            before = state(path)
            migrator = Migrator(db, [first, step(2, sql, origin="0002.up.sql")])
            with pytest.raises(MigrationFailedError, match=r"^0002\.up\.sql: .*foreign key"):
                await migrator.up()
            assert state(path) == before
            assert list(notes(path)) == [2]
            # Down as well.
            migrator = Migrator(db, [first, step(2, "", sql, origin="0002.up.sql")])
            await migrator.up()
            with pytest.raises(MigrationFailedError, match=r"0002.*foreign key"):
                await migrator.down(1)
            assert (state(path), applied(path)) == (before, [1, 2])

    @pytest.mark.parametrize("violated", [False, True], ids=["sound", "violated"])
    @pytest.mark.parametrize("sql", HARMLESS.values(), ids=HARMLESS)
    async def test_those_that_were_there_before_are_tolerated(
        self, path: Path, sql: str, violated: bool
    ) -> None:
        async with Database(path, config=SMALL) as db:
            first = await self.kin(db, violated=violated)
            await Migrator(db, [first, step(2, sql)]).up()
        assert applied(path) == [1, 2]

    # The parent has no such key: `PRAGMA foreign_key_check` is an error then, not a row.
    MISMATCH = "CREATE TABLE p (a); CREATE TABLE c (b REFERENCES p (a)); INSERT INTO c VALUES (1);"

    async def test_a_foreign_key_that_fits_no_key_is_a_failure_of_its_step(
        self, path: Path
    ) -> None:
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError, match=r"^0001\.up\.sql.*\bc\b"):
                await Migrator(db, [step(1, self.MISMATCH, origin="0001.up.sql")]).up()
            assert list(notes(path)) == [1]

    async def test_one_that_was_there_before_can_be_mended_by_a_step(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [table(1)]).up()
            with closing(sqlite3.connect(path)) as outside:
                outside.executescript(self.MISMATCH)
            mend = "INSERT INTO p VALUES (1); CREATE UNIQUE INDEX p_a ON p (a);"
            await Migrator(db, [table(1), table(2), step(3, mend)]).up()
        assert applied(path) == [1, 2, 3]

    async def test_nor_does_it_hide_what_a_step_makes_elsewhere(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            first = await self.kin(db)
            with closing(sqlite3.connect(path)) as outside:
                outside.executescript(self.MISMATCH)
            with pytest.raises(MigrationFailedError, match="foreign key"):
                await Migrator(db, [first, step(2, VIOLATIONS["an orphan"])]).up()
        assert applied(path) == [1]

    @pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
    async def test_the_setting_is_put_back(self, path: Path, on: bool) -> None:
        orphan = Query("orphan", "INSERT INTO children VALUES (:id, 9)")
        async with Database(path, config=Config(readers=1, foreign_keys=on)) as db:
            migrations = [await self.kin(db)]
            assert await foreign_keys(db) == on
            for number, (up, down, kind) in enumerate(
                [
                    ("", "", None),
                    ("SELECT nothing;", "", MigrationFailedError),
                    ("COMMIT;", "", MigrationFailedError),
                    (ENDLESS, "", MigrationFailedError),
                    (VIOLATIONS["an orphan"], "", MigrationFailedError),
                    ("INSERT OR ROLLBACK INTO parents VALUES (1, 1);", "", MigrationFailedError),
                ],
                start=2,
            ):
                limit = 0.2 if up is ENDLESS else SOON
                migrator = Migrator(db, [*migrations, step(number, up, down, timeout=limit)])
                if kind is None:
                    await migrator.up()
                    await migrator.down(1)
                else:
                    with pytest.raises(kind):
                        await migrator.up()
                assert await foreign_keys(db) == on
                if on:
                    with pytest.raises(IntegrityError):
                        await db.execute(orphan(id=100 + number))


# -- round trips -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Column:
    name: str
    kind: str = ""
    parent: Table | None = None
    checked: bool = False

    def sql(self) -> str:
        check = f' CHECK ("{self.name}" IS NULL OR "{self.name}" > -1000)' if self.checked else ""
        parent = f' REFERENCES "{self.parent.name}" ("id")' if self.parent else ""
        return f'"{self.name}" INTEGER{self.kind}{check}{parent and parent + " ON DELETE CASCADE"}'


@dataclass(eq=False)
class Part:
    """An index, a view or a trigger."""

    kind: str
    name: str
    table: Table
    column: Column

    def sql(self) -> str:
        table, column = f'"{self.table.name}"', f'"{self.column.name}"'
        return f'CREATE {self.kind} "{self.name}" ' + {
            "INDEX": f"ON {table} ({column}) WHERE {column} > 0",
            "VIEW": f"AS SELECT {column}, 'a;b' AS \"s\" FROM {table}",
            "TRIGGER": f'AFTER INSERT ON {table} BEGIN SELECT 1; /* ; */ UPDATE {table}'
            f' SET {column} = {column} WHERE "id" = new."id"; END',
        }[self.kind]  # fmt: skip

    def drop(self) -> str:
        return f'DROP {self.kind} "{self.name}"'


@dataclass(eq=False)
class Table:
    """A table; its text is what SQLite keeps of it, also after an ALTER TABLE."""

    name: str
    columns: list[Column]
    tail: str
    rows: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def sql(self, name: str | None = None) -> str:
        columns = ", ".join(column.sql() for column in self.columns)
        return f'CREATE TABLE "{name or self.name}" ({columns}){self.tail}'

    def made(self) -> list[str]:
        return [self.sql(), *(part.sql() for part in self.parts)]

    def dropped(self) -> list[str]:
        # Its views, too: a view of nothing makes the next ALTER TABLE fail.
        views = [part.drop() for part in self.parts if part.kind == "VIEW"]
        return [*views, f'DROP TABLE "{self.name}"']


Change = tuple[list[str], list[str]]  # the statements up and down


class Author:
    """Writes migrations that are right both ways, each for the schema that the last one left."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.serial = count(1)
        self.tables: list[Table] = []
        self.version = 0

    def migration(self, version: int, dependencies: tuple[int, ...]) -> Migration:
        ups: list[str] = []
        downs: list[str] = []
        for _ in range(self.draw(st.integers(1, 4))):
            up, down = self.pick(self.CHANGES)(self) if self.tables else self.create_table()
            ups += up
            downs[:0] = down
        end = self.pick([";", ";\n", "; -- don't;\r\n", ";/* ; */\n\ufeff"])
        up, down = (end.join([*sql, ""]) for sql in (ups, downs))
        return step(version, up, down, dependencies=dependencies)

    def pick(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(items))

    def new(self, letter: str) -> str:
        return f"{letter}{next(self.serial)}"

    def create_table(self) -> Change:
        kind, tail = self.pick(
            [(" PRIMARY KEY", ""), (" NOT NULL UNIQUE", ""), (" PRIMARY KEY", " WITHOUT ROWID")]
        )
        table = Table(self.new("t"), [Column("id", kind), Column(self.new("c"))], tail)
        parent = self.pick([None, table, *self.tables])
        if parent is not None:
            table.columns.append(Column(self.new("p"), parent=parent))
        self.tables.append(table)
        return table.made(), table.dropped()

    def drop_table(self) -> Change:
        used = {column.parent for table in self.tables for column in table.columns}
        free = [table for table in self.tables if not table.rows and table not in used]
        if not free:
            return [], []
        table = self.pick(free)
        self.tables.remove(table)
        return table.dropped(), table.made()

    def rebuild(self) -> Change:
        table = self.pick(self.tables)
        before, dropped, new = table.sql("new"), table.dropped(), 'INSERT INTO "new" SELECT * FROM'
        column = table.columns[1]
        column.checked = not column.checked
        copied = [f'{new} "{table.name}"', *dropped, f'ALTER TABLE "new" RENAME TO "{table.name}"']
        parts = [part.sql() for part in table.parts]
        return [table.sql("new"), *copied, *parts], [before, *copied, *parts]

    def add_column(self) -> Change:
        table = self.pick(self.tables)
        column = Column(self.new("c"), self.pick(["", " DEFAULT 7", " NOT NULL DEFAULT 0"]))
        table.columns.append(column)
        alter = f'ALTER TABLE "{table.name}"'
        return [f"{alter} ADD COLUMN {column.sql()}"], [f'{alter} DROP COLUMN "{column.name}"']

    def rename_table(self) -> Change:
        table, name = self.pick(self.tables), self.new("t")
        old, table.name = table.name, name
        return [f'ALTER TABLE "{old}" RENAME TO "{name}"'], [
            f'ALTER TABLE "{name}" RENAME TO "{old}"'
        ]

    def rename_column(self) -> Change:
        table = self.pick(self.tables)
        column, name = self.pick(table.columns[1:]), self.new("c")
        old, column.name = column.name, name
        alter = f'ALTER TABLE "{table.name}" RENAME COLUMN'
        return [f'{alter} "{old}" TO "{name}"'], [f'{alter} "{name}" TO "{old}"']

    def create_part(self) -> Change:
        table = self.pick(self.tables)
        kind = self.pick(["INDEX", "VIEW", "TRIGGER"])
        part = Part(kind, self.new(kind[0].lower()), table, self.pick(table.columns[1:]))
        table.parts.append(part)
        return [part.sql()], [part.drop()]

    def drop_part(self) -> Change:
        parts = [part for table in self.tables for part in table.parts]
        if not parts:
            return [], []
        part = self.pick(parts)
        part.table.parts.remove(part)
        return [part.drop()], [part.sql()]

    def insert(self) -> Change:
        table = self.pick(self.tables)
        ids = [next(self.serial) for _ in range(self.draw(st.integers(1, 3)))]
        rows = ", ".join(f"({', '.join(map(str, self.row(table, key)))})" for key in ids)
        table.rows += ids
        keys = ", ".join(map(str, ids))
        return [f'INSERT INTO "{table.name}" VALUES {rows}'], [
            f'DELETE FROM "{table.name}" WHERE "id" IN ({keys})'
        ]

    def row(self, table: Table, key: int) -> Iterator[int | str]:
        yield key
        for column in table.columns[1:]:
            optional = "NULL" if "NOT NULL" not in column.kind else 0
            values = column.parent.rows if column.parent else [1, -2, 300]
            yield self.pick([optional, *values])

    def update(self) -> Change:
        table = self.pick(self.tables)
        name = self.pick([column.name for column in table.columns[1:] if not column.parent])
        update = f'UPDATE "{table.name}" SET "{name}" = "{name}"'
        return [f"{update} + 1"], [f"{update} - 1"]

    def number(self) -> Change:
        old, self.version = self.version, next(self.serial)
        pragma = "PRAGMA user_version ="
        return [f"{pragma} {self.version}"], [f"{pragma} {old}"]

    CHANGES = (
        create_part,
        insert,
        rebuild,
        create_part,
        rename_table,
        rename_column,
        add_column,
        drop_part,
        insert,
        create_part,
        create_table,
        drop_table,
        update,
        number,
    )


@st.composite
def chains(draw: st.DrawFn) -> list[Migration]:
    """A chain of migrations, in the order of application, with any numbers."""
    versions = draw(st.lists(st.integers(1, 2**63 - 1), min_size=4, max_size=8, unique=True))
    author = Author(draw)
    if draw(st.booleans()):  # the dependencies make the order
        return [
            author.migration(version, (versions[number - 1],) if number else ())
            for number, version in enumerate(versions)
        ]
    return [author.migration(version, ()) for version in sorted(versions)]


async def walk(path: Path, chain: Sequence[Migration], ways: Iterable[int]) -> None:
    """Go up and down to the places `ways`, and find at each what was there each time before."""
    states = replayed(chain)
    versions = [migration.version for migration in chain]
    prints: dict[int, str | None] = {}
    here = 0
    async with Database(path, config=SMALL) as db:
        migrator = Migrator(db, reversed(chain))
        for place in ways:
            target = [0, *versions][place]
            if place > here:
                records = await migrator.up(target)
                assert [record.version for record in records] == versions[here:place]
                for record in records:
                    fingerprint = record.schema_fingerprint
                    assert prints.setdefault(record.version, fingerprint) == fingerprint
            else:
                try:
                    await migrator.down(target)
                except MigrationLossError:
                    # It may say so too early: of a value in a table that the script builds again,
                    # and in a row that the script deletes only then. What is left is looked at.
                    await migrator.down(target, allow_data_loss=True)
            here = place
            assert state(path) == states[place]
            assert applied(path) == versions[:place]
            assert await migrator.current_version() == (target or None)
            assert list(await migrator.pending()) == list(chain[place:])


PLACES = st.lists(st.integers(0, 1000), max_size=6)


class TestRoundTrip:
    """After up, down, up there is what was there after the first up, and after up, down what was
    there before; to any target, in any order, schema and rows (M5)."""

    @given(chains(), PLACES)
    @settings(max_examples=40, deadline=None)
    def test_of_any_chain(self, chain: list[Migration], places: list[int]) -> None:
        last = len(chain)
        ways = [last, 0, last, *(place % (last + 1) for place in places), 0]
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(walk(Path(directory, "app.db"), chain, ways))

    @given(PLACES)
    @settings(max_examples=10, deadline=None)
    def test_of_the_build_database(self, places: list[int]) -> None:
        chain = load_migrations("abt_db.schema")
        last = len(chain)
        ways = [*range(last, 0, -1), last, *(place % (last + 1) for place in places), 0]
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(walk(Path(directory, "app.db"), chain, ways))
