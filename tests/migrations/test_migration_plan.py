"""Looking ahead: `plan`, `validate` and the lint say what would go wrong, and write nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_migration_guard import free
from test_migrations import FAMILY, REBUILD, SMALL, ask, nothing_written, step

from abt_db import Database
from abt_db.errors import MigrationFailedError, MigrationUnknownError
from abt_db.migrations import (
    Finding,
    Level,
    Migration,
    MigrationOrderError,
    Migrator,
    Reversibility,
)
from abt_db.migrations.lint import lint, minimum_sqlite


def rules(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.rule for finding in findings]


KIN = step(1, FAMILY, None)


class TestPlan:
    """`plan` tells the steps, their SQL, how they run and what speaks against them (M6)."""

    async def test_what_up_would_do(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            chain = [step(1, "CREATE TABLE t (x); CREATE TABLE u (x);", "DROP TABLE u;"
                          " DROP TABLE t;"),
                     step(2, "DROP TABLE t;", None, timeout=9), free(3, "VACUUM;", "")]  # fmt: skip
            migrator = Migrator(db, chain)
            await migrator.up(1)
            with nothing_written(path):
                plan = await migrator.plan()
            [two, three] = plan.steps
            assert (two.version, two.direction, two.transactional, two.timeout) == (
                2,
                "up",
                True,
                9,
            )
            assert (two.statements, two.drops) == (("DROP TABLE t;",), ("t",))
            assert two.reversibility is Reversibility.IRREVERSIBLE
            assert rules(two.findings) == ["irreversible"]
            assert (three.transactional, three.reversibility) == (False, Reversibility.EXACT)
            assert plan.errors == ()
            assert [each.version for each in (await migrator.plan(2)).steps] == [2]
            assert (await migrator.plan(1)).steps == ()

    async def test_what_down_would_do(self, path: Path) -> None:
        chain = [step(1, "CREATE TABLE t (x);", "DROP TABLE t;"), step(2, "", ""), step(3, "", "")]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain)
            await migrator.up(2)
            with nothing_written(path):
                plan = await migrator.plan(0)
            assert [(each.version, each.direction) for each in plan.steps] == [
                (2, "down"),
                (1, "down"),
            ]
            assert plan.steps[1].statements == ("DROP TABLE t;",)

    async def test_it_begins_with_the_schema_that_is_there(self, path: Path) -> None:
        first = step(1, "CREATE TABLE t (x);")
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [first]).up()
            ask(path, "ALTER TABLE t ADD COLUMN y")  # by hand, so the step will fail
            plan = await Migrator(db, [first, step(2, "ALTER TABLE t ADD COLUMN y;")]).plan()
        assert rules(plan.errors) == ["fails"]
        assert "duplicate column name: y" in plan.errors[0].message

    async def test_what_other_tools_would_lose_is_told(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [KIN]).up()
            back = REBUILD.replace(" NOT NULL DEFAULT ''", "")
            [planned] = (await Migrator(db, [KIN, step(2, REBUILD, back)]).plan()).steps
        [finding] = planned.findings
        assert (finding.level, finding.rule) == (Level.NOTE, "foreign-keys")
        assert "would delete 3 rows of children (of 3)" in finding.message
        # This engine loses nothing; the name of the table is in quotes afterwards.
        assert planned.reversibility is Reversibility.STRUCTURAL

    async def test_what_fails_on_rows_only_is_a_warning(self, path: Path) -> None:
        chain = [step(1, "CREATE TABLE t (a INT);"),
                 step(2, "ALTER TABLE t ADD COLUMN b DEFAULT (random());")]  # fmt: skip
        async with Database(path, config=SMALL) as db:
            plan = await Migrator(db, chain).plan()
        [warning] = plan.steps[1].findings
        assert (warning.level, warning.rule) == (Level.WARNING, "fails-with-rows")
        assert "non-constant default" in warning.message
        assert plan.errors == ()

    async def test_a_step_that_is_half_done_is_tried_from_there(self, path: Path) -> None:
        script = "CREATE TABLE t (x); CREATE TABLE u (y {});"
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [free(1, script.format("CHECK"))]).up()
            down = "DROP TABLE u; DROP TABLE t;"
            plan = await Migrator(db, [free(1, script.format("CHECK (y)"), down)]).plan()
        assert (plan.errors, plan.steps[0].findings) == ((), ())

    async def test_a_schema_that_can_not_be_made_in_memory_is_told(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as plain:
            plain.create_function("special", 1, lambda x: x, deterministic=True)
            plain.execute("CREATE TABLE t (x CHECK (special(x)))")
        async with Database(path, config=SMALL) as db:
            [planned] = (await Migrator(db, [step(1, "CREATE TABLE u (x);")]).plan()).steps
        assert rules(planned.findings) == ["not-tried"]
        assert "no such function: special" in planned.findings[0].message
        assert planned.reversibility is None

    async def test_a_history_that_does_not_fit_is_an_error_as_in_status(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [step(2, "")]).up()
            with pytest.raises(MigrationOrderError):
                await Migrator(db, [step(1, ""), step(2, "")]).plan()


SCRIPTS: dict[str, tuple[Migration, list[tuple[Level, str]]]] = {
    "nothing": (step(1, "CREATE TABLE t (x);"), []),
    "its own transaction": (step(1, "BEGIN; COMMIT;"), [(Level.ERROR, "refused")] * 2),
    "a pragma in the transaction": (step(1, "PRAGMA foreign_keys = OFF;"),
                                    [(Level.ERROR, "refused")]),
    "a pragma misplaced": (free(1, "BEGIN; PRAGMA foreign_keys = OFF; COMMIT;"),
                           [(Level.WARNING, "misplaced-pragma")]),
    "a pragma well placed": (free(1, "PRAGMA foreign_keys = OFF; BEGIN; SELECT 1; COMMIT;"), []),
    "page_size": (free(1, "PRAGMA page_size = 8192; VACUUM;"), [(Level.WARNING, "page-size")]),
    "VACUUM": (step(1, "VACUUM;"), [(Level.ERROR, "refused")]),
    "no down": (step(1, "SELECT 1;", None), [(Level.NOTE, "irreversible")]),
}  # fmt: skip

NEEDS = {
    "CREATE TABLE t (x INT) STRICT;": (3, 37),
    "CREATE TABLE t (x INT CHECK (x IN ('strict'))) WITHOUT ROWID, STRICT": (3, 37),
    "ALTER TABLE t DROP COLUMN x;": (3, 35),
    "ALTER TABLE t DROP x;": (3, 35),
    "ALTER TABLE t RENAME a TO b;": (3, 25),
    "INSERT INTO t VALUES (1) RETURNING x;": (3, 35),
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING;": (3, 24),
    "UPDATE t SET x = y FROM u WHERE u.id = t.id;": (3, 33),
    "SELECT x -> '$.a', sum(x) FILTER (WHERE x) FROM t;": (3, 38),
    "SELECT row_number() OVER (ORDER BY x) FROM t;": (3, 25),
    "SELECT iif(x, 1, 2) FROM t; SELECT unixepoch();": (3, 38),
    "CREATE TABLE t (a, b AS (a + 1) STORED);": (3, 31),
    "SELECT * FROM a FULL OUTER JOIN b;": (3, 39),
    "SELECT string_agg(x, ',') FROM t;": (3, 44),
    # None of these says it, though a word of it does.
    "CREATE TABLE strict (iif, pow TEXT DEFAULT 'RETURNING ->>'); -- jsonb(x)": (3, 0),
    "ALTER TABLE t RENAME TO u; UPDATE t SET x = (SELECT y FROM u);": (3, 0),
    "CREATE TABLE t (x CONSTRAINT c CHECK (x > 0) ON CONFLICT IGNORE);": (3, 0),
}


class TestLint:
    """What the text alone tells."""

    @pytest.mark.parametrize(("migration", "found"), SCRIPTS.values(), ids=SCRIPTS)
    async def test_it_finds(
        self, migration: Migration, found: list[tuple[Level, str]], path: Path
    ) -> None:
        findings = lint(migration)
        assert [(finding.level, finding.rule) for finding in findings] == found
        # It is right about it: what it calls an error fails, and only that.
        async with Database(path, config=SMALL) as db:
            if any(level is Level.ERROR for level, _ in found):
                with pytest.raises(MigrationFailedError):
                    await Migrator(db, [migration]).up()
            else:
                assert await Migrator(db, [migration]).up()

    def test_what_this_sqlite_is_too_old_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
        [finding] = lint(step(1, "SELECT 'STRICT';\nCREATE TABLE t (x INT) STRICT;"))
        assert (finding.level, finding.rule) == (Level.ERROR, "sqlite-version")
        assert "line 2" in finding.where and "STRICT tables need SQLite 3.37" in finding.message

    @pytest.mark.parametrize(("sql", "version"), NEEDS.items(), ids=list(NEEDS))
    def test_the_oldest_sqlite_that_understands_it(
        self, sql: str, version: tuple[int, int]
    ) -> None:
        assert minimum_sqlite(sql)[0] == version

    def test_a_finding_names_file_and_line_of_the_down_script_too(self) -> None:
        migration = step(1, "", "SELECT 1;\nVACUUM;", origin="1_x.up.sql")
        [finding] = lint(migration, down=True)
        assert str(finding).startswith("error: 1_x.down.sql, line 2: VACUUM is refused")


class TestValidate:
    """`validate` says all that is wrong at once, and writes nothing (M4, M6)."""

    async def test_nothing_is_wrong(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [step(1, "CREATE TABLE t (x);", "DROP TABLE t;")])
            with nothing_written(path):
                validation = await migrator.validate()
        assert (validation.valid, validation.findings) == (True, ())

    async def test_gaps_are_told_and_allowed_and_dates_have_none(self) -> None:
        async with Database(":memory:") as db:
            found = await Migrator(db, [step(n, "") for n in (1, 4)]).validate()
            assert (found.valid, rules(found.findings)) == (True, ["gap"])
            assert "no version 2, 3" in found.findings[0].message
            dates = [step(n, "") for n in (20240131120000, 20240131120001)]
            assert (await Migrator(db, dates).validate()).findings == ()

    async def test_everything_at_once(self, path: Path) -> None:
        async with Database(path, config=SMALL) as db:
            await Migrator(db, [step(1, "CREATE TABLE t (x);", "")]).up()
            with pytest.raises(MigrationFailedError):
                await Migrator(db, [step(1, "CREATE TABLE t (x);", ""), step(2, "COMMIT;")]).up()
            changed = [step(1, "CREATE TABLE t (y);", ""), step(2, "COMMIT;"), step(4, "")]
            with nothing_written(path):
                found = await Migrator(db, changed).validate()
            assert not found.valid
            # The step that fails ends the trials; the history is looked at all the same.
            assert rules(found.findings) == ["gap", "refused", "not-exact", "fails", "history"]
            later = [step(1, "CREATE TABLE t (x);", ""), step(2, "SELECT 1;")]
            found = await Migrator(db, later).validate()
            assert (found.valid, rules(found.findings)) == (True, ["not-exact", "failed"])


class TestOthers:
    """A database of another program is refused before anything is written."""

    async def test_by_its_application_id(self, path: Path) -> None:
        ask(path, "PRAGMA application_id = 7")
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, [step(1, "PRAGMA application_id = 9;")], application_id=9)
            with (
                nothing_written(path),
                pytest.raises(MigrationUnknownError, match="0x7 and not 0x9"),
            ):
                await migrator.up()

    async def test_one_that_has_none_yet_becomes_ours(self, path: Path) -> None:
        chain = [step(1, "CREATE TABLE t (x);"), step(2, "PRAGMA application_id = 9;")]
        async with Database(path, config=SMALL) as db:
            migrator = Migrator(db, chain, application_id=9)
            await migrator.up(1)
            assert len(await migrator.up()) == 1

    async def test_tables_without_a_history_are_another_programs(self, path: Path) -> None:
        ask(path, "CREATE TABLE t (x)")
        async with Database(path, config=SMALL) as db:
            with pytest.raises(MigrationUnknownError, match="belongs to another program"):
                await Migrator(db, [step(1, "")], application_id=9).up()
