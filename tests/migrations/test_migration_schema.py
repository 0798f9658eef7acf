"""Schemas as values: how alike two are, how one is written down, and whether a database drifts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from test_migrations import SMALL, applied, ask, chains, nothing_written, state, step

from abt_db import Database
from abt_db.errors import MigrationError
from abt_db.migrations import Likeness, Migration, MigrationOrderError, Migrator, load_migrations
from abt_db.migrations.schema import Schema, SchemaObject, compare, dump, snapshot
from abt_db.migrations.script import split


async def made(sql: str) -> Schema:
    """The schema that a script makes."""
    async with Database(":memory:") as db:
        await Migrator(db, [step(1, sql)]).up()
        return await db.read(snapshot)


PLAIN = "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (a INT REFERENCES p (id), b TEXT);"

ALIKE = {
    "itself": (PLAIN, Likeness.EXACT),
    "spaces, comments, quotes, upper case": (
        'CREATE TABLE "P" ("id" integer PRIMARY KEY);'
        " CREATE TABLE t (a INT REFERENCES [p] (ID), -- one\n b text /* two */);",
        Likeness.NORMALISED,
    ),
    "a key that stands elsewhere": (
        PLAIN.replace("a INT REFERENCES p (id), b TEXT", "a INT, b TEXT, FOREIGN KEY (a)"
                      " REFERENCES p (id)"),
        Likeness.STRUCTURAL,
    ),
    "another order of columns": (
        PLAIN.replace("a INT REFERENCES p (id), b TEXT", "b TEXT, a INT REFERENCES p (id)"),
        Likeness.UNORDERED,
    ),
    "another type": (PLAIN.replace("b TEXT", "b BLOB"), Likeness.DIFFERENT),
    "a default": (PLAIN.replace("b TEXT", "b TEXT DEFAULT ''"), Likeness.DIFFERENT),
    "a check": (PLAIN.replace("b TEXT", "b TEXT CHECK (b > '')"), Likeness.DIFFERENT),
    "a collation": (PLAIN.replace("b TEXT", "b TEXT COLLATE nocase"), Likeness.DIFFERENT),
    "a key that must be unique": (PLAIN.replace("b TEXT", "b TEXT UNIQUE"), Likeness.DIFFERENT),
    "an action of a key": (PLAIN.replace("(id),", "(id) ON DELETE CASCADE,"), Likeness.DIFFERENT),
    "a mark": (PLAIN.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT"), Likeness.DIFFERENT),
    "no rowid": (PLAIN.replace("KEY);", "KEY) WITHOUT ROWID;"), Likeness.DIFFERENT),
    "a column more": (PLAIN.replace("b TEXT", "b TEXT, c"), Likeness.DIFFERENT),
    "an index more": (f"{PLAIN} CREATE INDEX i ON t (a);", Likeness.DIFFERENT),
    "a number in the header": (f"{PLAIN} PRAGMA user_version = 3;", Likeness.DIFFERENT),
}  # fmt: skip


class TestLikeness:
    """Two schemas are compared exactly, normalised, by structure, and without order of columns."""

    @pytest.mark.parametrize(("sql", "likeness"), ALIKE.values(), ids=ALIKE)
    async def test_how_much_alike(self, sql: str, likeness: Likeness) -> None:
        one, other = await made(PLAIN), await made(sql)
        found, differences = compare(one, other)
        assert found is likeness
        assert compare(other, one)[0] is likeness
        assert bool(differences) == (likeness is not Likeness.EXACT)

    async def test_each_difference_names_its_object(self) -> None:
        one = await made(f"{PLAIN} CREATE VIEW v AS SELECT 1; CREATE INDEX i ON t (a);")
        other = await made(f"{PLAIN} CREATE VIEW v AS SELECT 2; CREATE INDEX j ON t (a);")
        _, differences = compare(one, other)
        assert [str(each) for each in differences] == [
            "index i is missing",
            "index j should not be there",
            "view v is another",
        ]


class TestDump:
    """A dump makes the same schema again, and says the same whatever way led to it."""

    @given(chains())
    @settings(max_examples=15, deadline=None)
    def test_makes_the_same_schema(self, chain: list[Migration]) -> None:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as plain:
            for migration in chain:
                plain.executescript(migration.up)
            objects = plain.execute(
                "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
            ).fetchall()
            version = plain.execute("PRAGMA user_version").fetchone()
        text = dump(Schema(tuple(SchemaObject(*each) for each in objects), version[0]))
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as again:
            for statement in split(text):
                again.execute(statement.text)
            assert sorted(objects) == sorted(
                again.execute(
                    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
                )
            )
            assert again.execute("PRAGMA user_version").fetchone() == version

    async def test_the_way_does_not_show(self, path: Path) -> None:
        chain = [step(1, "CREATE TABLE b (x); CREATE TABLE a (x);", "DROP TABLE b; DROP TABLE a;"),
                 step(2, "CREATE INDEX i ON b (x);", "DROP INDEX i;")]  # fmt: skip
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up()
            first = await migrator.dump()
            await migrator.down(0)
            await migrator.up()
            assert await migrator.dump() == first == await migrator.dump(expected=True)
            assert first.index("TABLE a") < first.index("TABLE b") < first.index("INDEX i")


OTHERS = """
CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
CREATE TABLE _litestream_lock (id INTEGER);
INSERT INTO t VALUES (1, 2); CREATE INDEX tmp ON t (a); ANALYZE; DROP INDEX tmp;
"""


class TestDrift:
    """`drift` holds the real schema against what the migrations make, and never writes (M6)."""

    CHAIN = (
        step(1, "CREATE TABLE t (a, b);"),
        step(2, "CREATE INDEX i ON t (a);"),
        step(3, "CREATE VIRTUAL TABLE f USING fts5 (x);"),
    )

    async def test_none_and_other_tools_are_none(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, self.CHAIN)
            await migrator.up()
            with closing(sqlite3.connect(path)) as plain:
                plain.executescript(OTHERS)
            with nothing_written(path):
                drift = await migrator.drift()
            assert (drift.likeness, drift.differences) == (Likeness.EXACT, ())

    async def test_half_way_up_is_none(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, self.CHAIN)
            await migrator.up(1)
            assert (await migrator.drift()).likeness is Likeness.EXACT

    @pytest.mark.parametrize("behind", [1, 2, 3])
    async def test_it_tells_behind_which_step_it_began(self, path: Path, behind: int) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, self.CHAIN)
            await migrator.up(behind)
            ask(path, "ALTER TABLE t ADD COLUMN stranger")
            await migrator.up()
            drift = await migrator.drift()
        assert (drift.likeness, drift.after) == (Likeness.DIFFERENT, behind)
        assert [str(each) for each in drift.differences] == ["table t is another"]


class TestBaseline:
    """`baseline` adopts a database that was made without migrations, if it is what they make."""

    CHAIN = (step(1, "CREATE TABLE t (a, b);", "DROP TABLE t;"), step(2, "CREATE TABLE u (x);"))

    async def test_what_is_alike_is_adopted_and_goes_on(self, path: Path) -> None:
        ask(path, "CREATE TABLE T (a, /* b */ b)")
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, self.CHAIN)
            assert [record.version for record in await migrator.baseline(1)] == [1]
            assert await migrator.current_version() == 1
            assert [record.version for record in await migrator.up()] == [2]
            assert (await migrator.drift()).likeness is Likeness.NORMALISED
            with pytest.raises(MigrationOrderError, match="already"):
                await migrator.baseline(2)

    async def test_what_is_not_is_refused_unless_forced(self, path: Path) -> None:
        ask(path, "CREATE TABLE t (a)")
        before = state(path)
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, self.CHAIN)
            with pytest.raises(MigrationError, match="table t is another; table u is missing"):
                await migrator.baseline(2)
            assert (state(path), applied(path)) == (before, [])
            await migrator.baseline(1, force=True)
            assert applied(path) == [1]


class TestOwnSchema:
    """The schema of the build database, as the engine makes it."""

    async def test_the_file_says_what_the_migrations_make(self) -> None:
        file = Path(__file__).parents[2] / "schema" / "schema.sql"
        async with Database(":memory:") as db:
            migrator = Migrator(db, load_migrations("abt_db.schema"))
            await migrator.up()
            assert file.read_text(encoding="utf-8") == await migrator.dump()

    async def test_each_step_is_exact_with_rows_inside(self) -> None:
        async with Database(":memory:") as db:
            validation = await Migrator(db, load_migrations("abt_db.schema")).validate()
        assert validation.findings == ()
        assert [trial.reversibility.value for trial in validation.trials] == ["exact"] * 6
