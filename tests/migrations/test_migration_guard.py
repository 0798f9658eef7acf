"""No step loses a row that it does not name, on the way up or down, in whatever form it comes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_migrations import FAMILY, OFF_SPRING, REBUILD, SMALL, applied, ask, notes, state, step

from abt_db import Database
from abt_db.errors import MigrationFailedError, MigrationUnknownError
from abt_db.migrations import Migration, MigrationLossError, Migrator

KIN = step(1, FAMILY, None)

# As https://www.sqlite.org/lang_altertable.html#otheralter has it, in the twelve steps' order.
TWELVE_STEPS = f"""-- no-transaction
PRAGMA foreign_keys = OFF;
BEGIN;
{REBUILD}
CREATE INDEX parents_by_name ON parents (name);
PRAGMA foreign_key_check;
COMMIT;
PRAGMA foreign_keys = ON;
"""
MISPLACED = f"""-- no-transaction
PRAGMA foreign_keys = ON;
BEGIN;
PRAGMA foreign_keys = OFF;
{REBUILD}
COMMIT;
"""


def free(version: int, up: str, down: str | None = "") -> Migration:
    """A step outside of transactions."""
    return step(version, up, down, transactional=False)


def rows_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {name: ask(path, f"SELECT * FROM {name} ORDER BY 1") for name in OFF_SPRING}


async def migrate(path: Path, *migrations: Migration, down: int | None = None) -> None:
    async with Database(path, config=SMALL) as db:
        migrator = Migrator(db, migrations)
        await (migrator.up() if down is None else migrator.down(down))


class TestRebuild:
    """A table that children refer to can be built again, and nothing of them is lost (M3, M7;
    fault 67)."""

    @pytest.mark.parametrize(
        "migration",
        [step(2, REBUILD), free(2, TWELVE_STEPS)],
        ids=["as it should be", "in twelve steps of its own"],
    )
    async def test_nothing_is_lost(self, path: Path, migration: Migration) -> None:
        await migrate(path, KIN)
        before = rows_of(path)
        await migrate(path, KIN, migration)
        assert rows_of(path) == before
        assert ask(path, "SELECT id, name FROM parents") == [(1, "a"), (2, "b")]
        assert applied(path) == [1, 2]

    async def test_statement_by_statement_it_is_stopped_where_the_children_lack_parents(
        self, path: Path
    ) -> None:
        await migrate(path, KIN)
        before = rows_of(path)
        with pytest.raises(MigrationFailedError, match="between BEGIN and COMMIT"):
            await migrate(path, KIN, free(2, REBUILD))
        assert rows_of(path) == before
        assert ask(path, "SELECT count(*) FROM parents") == [(2,)]

    async def test_a_misplaced_pragma_is_stopped_and_explained(self, path: Path) -> None:
        await migrate(path, KIN)
        before = state(path)
        with pytest.raises(MigrationLossError) as caught:
            await migrate(path, KIN, free(2, MISPLACED))
        said = str(caught.value)
        assert "3 rows of children and 2 rows of nephews" in said
        assert "PRAGMA foreign_keys = OFF does nothing between BEGIN and COMMIT" in said
        assert "take every PRAGMA foreign_keys out" in said
        assert (state(path), applied(path)) == (before, [1])
        # Written right, the same step goes through.
        right = MISPLACED.replace("PRAGMA foreign_keys = ON;\n", "").replace("= OFF", "")
        await migrate(path, KIN, free(2, right))
        assert applied(path) == [1, 2]

    async def test_plain_sqlite_loses_them_without_a_word(self, path: Path) -> None:
        """What the guard is for: no error, and `foreign_key_check` finds nothing."""
        await migrate(path, KIN)
        with closing(sqlite3.connect(path)) as plain:
            plain.executescript(MISPLACED)
            assert plain.execute("PRAGMA foreign_key_check").fetchall() == []
        assert rows_of(path)["children"] == []

    async def test_inside_a_transaction_the_pragma_is_refused(self, path: Path) -> None:
        with pytest.raises(MigrationFailedError, match="it does nothing in a transaction: leave"):
            await migrate(path, KIN, step(2, f"PRAGMA foreign_keys = OFF; {REBUILD}"))


TRIGGER = "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM u WHERE x > 1; END;"
TABLES = f"""
CREATE TABLE t (x UNIQUE, y UNIQUE); CREATE TABLE u (x); INSERT INTO t VALUES (1, 1), (2, 2);
INSERT INTO u VALUES (1), (2), (3); {TRIGGER}
"""

UNSEEN = {
    "a trigger": ("INSERT INTO t VALUES (3, 3);", "2 rows of u"),
    "a REPLACE of two": ("INSERT OR REPLACE INTO t VALUES (1, 2); INSERT INTO u VALUES (9), (9);",
                         "1 row of t"),
    "a trigger, and another name": (
        "ALTER TABLE u RENAME TO v; INSERT INTO t VALUES (3, 3);", "2 rows of u"),
    "a table dropped under its new name only": (
        "ALTER TABLE u RENAME TO v; CREATE TABLE u (x); DROP TABLE u;"
        " INSERT INTO t VALUES (3, 3);", "2 rows of u"),
}  # fmt: skip

NAMED = {
    "a delete": "DELETE FROM u;",
    "a delete behind a WITH": 'WITH n AS (SELECT 1) DELETE FROM main."U" WHERE x IN n;',
    "a drop": "DROP TABLE IF EXISTS u; DROP TRIGGER r;",
    "a delete under another name": "ALTER TABLE u RENAME TO v; DELETE FROM v WHERE x = 1;",
    "a rebuild that leaves some out": "CREATE TABLE v AS SELECT * FROM u WHERE x = 1;"
    " DROP TRIGGER r; DROP TABLE u; ALTER TABLE v RENAME TO u;",
    "a rebuild from the old one": "ALTER TABLE u RENAME TO old; CREATE TABLE u (x);"
    " INSERT INTO u SELECT x FROM old WHERE x = 1; DROP TABLE old;",
    "another name": "ALTER TABLE u RENAME TO v; ALTER TABLE v RENAME TO w;",
    "odd names": 'ALTER TABLE u ADD COLUMN rename; ALTER TABLE main.u ADD "to"; ALTER TABLE u ADD'
    ' "drop"; ALTER TABLE u RENAME COLUMN rename TO "column"; ALTER TABLE u RENAME "column" TO z;'
    " CREATE TABLE IF NOT EXISTS u (x); CREATE TEMP TABLE u (x); DROP TABLE temp.u;",
}


class TestLostRows:
    """A step that takes rows from a table without a DELETE or DROP of its own is stopped before its
    commit, and told which (M7)."""

    @pytest.mark.parametrize(("sql", "told"), UNSEEN.values(), ids=UNSEEN)
    async def test_unseen_is_stopped(self, path: Path, sql: str, told: str) -> None:
        await migrate(path, step(1, TABLES))
        before = state(path)
        for migration in (step(2, sql), free(2, f"BEGIN; {sql} COMMIT;")):
            with pytest.raises(MigrationLossError, match=f"would lose {told}"):
                await migrate(path, step(1, TABLES), migration)
            assert (state(path), applied(path), list(notes(path))) == (before, [1], [2])

    @pytest.mark.parametrize("sql", NAMED.values(), ids=NAMED)
    async def test_named_is_meant(self, path: Path, sql: str) -> None:
        await migrate(path, step(1, TABLES), step(2, sql))
        assert applied(path) == [1, 2]

    async def test_the_body_of_a_trigger_names_nothing(self, path: Path) -> None:
        sql = f"DROP TRIGGER r; {TRIGGER} INSERT INTO t VALUES (3, 3);"
        with pytest.raises(MigrationLossError, match="2 rows of u"):
            await migrate(path, step(1, TABLES), step(2, sql))

    async def test_what_other_tools_keep_is_nobodys_loss(self, path: Path) -> None:
        tools = "CREATE TABLE _litestream_seq (id); INSERT INTO _litestream_seq VALUES (1);"
        trigger = TRIGGER.replace(" u ", " _litestream_seq ").replace("x > 1", "id")
        await migrate(path, step(1, "CREATE TABLE t (x);"))
        with closing(sqlite3.connect(path)) as plain:
            plain.executescript(tools + trigger)
        await migrate(path, step(1, "CREATE TABLE t (x);"), step(2, "INSERT INTO t VALUES (1);"))
        assert applied(path) == [1, 2]

    async def test_full_text_tables_may_shrink(self, path: Path) -> None:
        index = "CREATE VIRTUAL TABLE f USING fts5 (x); INSERT INTO f VALUES ('a'), ('b');"
        await migrate(path, step(1, index), step(2, "INSERT INTO f (f) VALUES ('optimize');"))
        assert applied(path) == [1, 2]

    async def test_the_cost_of_looking_is_in_the_history(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            [first, second] = await Migrator(db, [KIN, step(2, "CREATE VIEW v AS SELECT 1;")]).up()
        assert 0 < first.guard_time_ms < first.execution_time_ms
        assert second.guard_time_ms == 0  # a view takes nothing away


LOSING = {
    "a table with rows": ("CREATE TABLE n (x);", "DROP TABLE n;", "INSERT INTO n VALUES (1)",
                          "1 row of n"),
    "a column with values": ("ALTER TABLE t ADD COLUMN n DEFAULT 7;",
                             "ALTER TABLE t DROP COLUMN n;", "UPDATE t SET n = 8 WHERE x = 2",
                             "1 values of t.n"),
    "a rebuild that leaves some out": (
        "CREATE TABLE IF NOT EXISTS n (x);", "CREATE TABLE m AS SELECT * FROM n LIMIT 1;"
        " DROP TABLE n; ALTER TABLE m RENAME TO n;", "INSERT INTO n VALUES (1), (2), (3)",
        "2 rows of n"),
}  # fmt: skip


class TestDown:
    """`down` says what would be lost, and does it only when it is told to."""

    @pytest.mark.parametrize("transactional", [True, False], ids=["whole", "by statements"])
    @pytest.mark.parametrize(("up", "down", "change", "told"), LOSING.values(), ids=LOSING)
    async def test_data_is_not_lost_by_mistake(
        self, path: Path, up: str, down: str, change: str, told: str, transactional: bool
    ) -> None:
        chain = [
            step(1, "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2);"),
            step(2, up, f"BEGIN; {down} COMMIT;" if not transactional else down,
                 transactional=transactional),
        ]  # fmt: skip
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up()
            # Nothing is in it yet, so nothing is lost.
            assert await migrator.down(1) == [2]
            await migrator.up()
            ask(path, change)
            before = state(path)
            with pytest.raises(MigrationLossError, match=f"would lose {told}; nothing was changed"):
                await migrator.down(1)
            assert (state(path), applied(path)) == (before, [1, 2])
            assert await migrator.down(1, allow_data_loss=True) == [2]
            assert applied(path) == [1]

    async def test_rows_that_it_deletes_by_name_were_meant(self, path: Path) -> None:
        fill = step(2, "INSERT INTO t VALUES (1), (2);", "DELETE FROM t;")
        await migrate(path, step(1, "CREATE TABLE t (x);"), fill)
        await migrate(path, step(1, "CREATE TABLE t (x);"), fill, down=1)
        assert applied(path) == [1]

    async def test_a_column_that_goes_before_its_table_is_built_again_is_looked_at_once(
        self, path: Path
    ) -> None:
        make = step(1, "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2);")
        again = "CREATE TABLE n (x); INSERT INTO n SELECT * FROM t; DROP TABLE t;"
        rebuild = f"{again} ALTER TABLE n RENAME TO t;"
        more = step(
            2,
            f"{rebuild} ALTER TABLE t ADD COLUMN y;",
            f"ALTER TABLE t DROP COLUMN y; {rebuild}",
        )
        await migrate(path, make, more)
        await migrate(path, make, more, down=1)
        assert ask(path, "SELECT * FROM t") == [(1,), (2,)]

    async def test_other_names_are_no_loss(self, path: Path) -> None:
        rename = step(
            2,
            "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME COLUMN x TO y;",
            "ALTER TABLE u RENAME y TO x; ALTER TABLE u RENAME TO t;",
        )
        make = step(1, "CREATE TABLE t (x); INSERT INTO t VALUES (1);")
        await migrate(path, make, rename)
        await migrate(path, make, rename, down=1)
        assert ask(path, "SELECT x FROM t") == [(1,)]

    async def test_an_older_program_goes_down_by_the_history(self, path: Path) -> None:
        old = step(1, "CREATE TABLE t (x);", "DROP TABLE t;")
        new = [step(3, "CREATE TABLE u (x);", "DROP TABLE u;"),
               step(2, "CREATE TABLE v (x);", "DROP TABLE v;", dependencies=(3,))]  # fmt: skip
        await migrate(path, old, *new)
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [old])
            with pytest.raises(MigrationUnknownError):
                await migrator.down(1)
            assert await migrator.down(1, use_history=True) == [2, 3]
            assert await migrator.current_version() == 1
            assert state(path)[0] == [("table", "t", "t", "CREATE TABLE t (x)")]
