"""`migration_history`: one that another program has made is adopted, and one of an earlier version
goes on to serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_migrations import SMALL, applied, ask, notes, step, table

from abt_db import Database
from abt_db.errors import MigrationFailedError, MigrationIrreversibleError, MigrationUnknownError
from abt_db.migrations import Migrator, Reversibility

pytestmark = pytest.mark.usefixtures("no_leaks")

SEVEN = "id, version, description, applied_at, execution_time_ms, success, error_message"

# As a program may write them that has the same seven columns: typed or not, with more or less said.
MADE_BY_OTHERS = {
    "with defaults": """CREATE TABLE migration_history (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        version INTEGER UNIQUE NOT NULL,
        description TEXT NOT NULL,
        applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        execution_time_ms INTEGER,
        success BOOLEAN DEFAULT TRUE,
        error_message TEXT
    )""",
    "without types": """CREATE TABLE migration_history (
        id INTEGER PRIMARY KEY, version UNIQUE, description,
        applied_at DEFAULT CURRENT_TIMESTAMP, execution_time_ms, success DEFAULT 1, error_message
    )""",
    "not null": """CREATE TABLE IF NOT EXISTS "migration_history" (
        id INTEGER PRIMARY KEY, version BIGINT NOT NULL, description VARCHAR(255) NOT NULL,
        applied_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP, execution_time_ms REAL,
        success INTEGER NOT NULL DEFAULT 1, error_message TEXT, UNIQUE (version)
    )""",
}
CHAIN = (table(1), table(2), table(3), table(4))


def rows(path: Path) -> list[Any]:
    return ask(path, f"SELECT {SEVEN} FROM migration_history ORDER BY id")


@pytest.fixture(params=MADE_BY_OTHERS.values(), ids=MADE_BY_OTHERS)
def others(path: Path, request: pytest.FixtureRequest) -> Path:
    """A database in which another program has applied the steps 1 and 2, and failed at 3."""
    ask(path, request.param)
    for number in (1, 2):
        ask(path, f"CREATE TABLE t{number} (x)")
        ask(path, f"INSERT INTO t{number} VALUES ('kept')")
    ask(
        path,
        "INSERT INTO migration_history (version, description, execution_time_ms)"
        " VALUES (1, 'initial schema', 12), (2, 'indexes', NULL)",
    )
    ask(
        path,
        "INSERT INTO migration_history (version, description, success, error_message)"
        " VALUES (3, 'view', 0, 'no such table: builds')",
    )
    return path


class TestAdopted:
    """A history with the seven columns of another program is read, extended, and loses nothing."""

    async def test_it_is_read_as_it_is_and_not_written(self, others: Path) -> None:
        """M6"""
        before = others.read_bytes()
        async with Database(others, read_only=True, config=SMALL) as db:
            migrator = Migrator(db, CHAIN)
            status = await migrator.status()
            assert [(r.version, r.description) for r in status.applied] == [
                (1, "initial schema"),
                (2, "indexes"),
            ]
            assert [r.execution_time_ms for r in status.applied] == [12, 0]
            assert [(r.version, r.error_message) for r in status.failed] == [
                (3, "no such table: builds")
            ]
            assert [m.version for m in status.pending] == [3, 4]
            for record in await migrator.history():
                assert record.applied_at.tzinfo is not None
                assert (record.checksum, record.down_sql, record.reversibility) == (None,) * 3
            assert await migrator.current_version() == 2
            assert (await migrator.validate()).valid
            assert [s.version for s in (await migrator.plan()).steps] == [3, 4]
        assert others.read_bytes() == before

    async def test_it_goes_on_from_there(self, others: Path) -> None:
        before = rows(others)
        async with Database(others, config=SMALL) as db:
            migrator = Migrator(db, CHAIN)
            assert (await migrator.rehearse()).passed
            done = await migrator.up(reversibility=await migrator.classify())
            assert [record.version for record in done] == [3, 4]
            assert done[0].reversibility is Reversibility.EXACT
            assert await migrator.up() == []
            assert [r.version for r in (await migrator.status()).applied] == [1, 2, 3, 4]
            drift = await migrator.drift()
            assert drift.after is None
        assert rows(others)[:2] == before[:2]  # the third is the failure, which success replaces
        assert (applied(others), notes(others)) == ([1, 2, 3, 4], {})
        for number in (1, 2):
            assert ask(others, f"SELECT x FROM t{number}") == [("kept",)]

    async def test_a_failure_is_noted_in_it(self, others: Path) -> None:
        async with Database(others, config=SMALL) as db:
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [*CHAIN[:2], step(3, "SELECT wrong;")]).up()
        assert applied(others) == [1, 2]
        assert "no such column: wrong" in notes(others)[3]

    async def test_its_steps_are_taken_back_by_the_files(self, others: Path) -> None:
        async with Database(others, config=SMALL) as db:
            migrator = Migrator(db, CHAIN)
            assert await migrator.down(1, allow_data_loss=True) == [2]
            assert [record.version for record in await migrator.up(2)] == [2]
            with pytest.raises(MigrationIrreversibleError, match="no down script"):
                await Migrator(db, []).down(0, use_history=True)
            with pytest.raises(MigrationUnknownError, match=r"migration 1 \(initial schema\)"):
                await Migrator(db, CHAIN[1:]).status()
        assert applied(others) == [1, 2]

    async def test_the_other_program_can_go_on_as_well(self, others: Path) -> None:
        async with Database(others, config=SMALL) as db:
            await Migrator(db, CHAIN[:3]).up()
            ask(others, "CREATE TABLE t4 (x)")
            ask(
                others,
                "INSERT INTO migration_history (version, description, execution_time_ms, success)"
                " VALUES (4, 'fourth', 3, 1)",
            )
            migrator = Migrator(db, CHAIN)
            assert await migrator.up() == []
            checksums = [record.checksum for record in await migrator.history()]
            assert checksums == [None, None, CHAIN[2].checksum, None]
            ask(others, "CREATE TABLE more (x)")
            drift = await migrator.drift()
            assert (drift.after, len(drift.differences)) == (3, 1)


class TestOldHistory:
    """A history that an earlier version made goes on to serve."""

    async def test_columns_are_added_when_something_is_written(self, path: Path) -> None:
        chain = [step(1, "CREATE TABLE t (x);", "DROP TABLE t;")]
        async with Database(path, config=SMALL) as db:
            await Migrator(db, chain).up()
        for column in ("guard_time_ms", "statements_done", "reversibility"):
            ask(path, f"ALTER TABLE migration_history DROP COLUMN {column}")
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [*chain, step(2, "")])
            [record] = (await migrator.status()).applied
            assert (record.statements_done, record.reversibility) == (0, None)
            assert record.checksum == chain[0].checksum
            assert len(await migrator.up()) == 1
            assert len(await migrator.history()) == 2
