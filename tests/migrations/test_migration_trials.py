"""Steps tried with made-up rows inside: what is right passes, and each kind of fault is found."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_migrations import Author, Part, Table, step

from abt_db import Database
from abt_db.migrations import (
    Migration,
    MigrationLossError,
    Migrator,
    Reversibility,
    load_migrations,
)
from abt_db.migrations.schema import contents
from abt_db.migrations.seed import seed
from abt_db.migrations.trial import try_out
from abt_db.testing import assert_round_trips


class Careful(Author):
    """Writes migrations that are right also where all tables have rows already."""

    CHANGES = tuple(c for c in Author.CHANGES if c is not Author.drop_table)

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(draw)
        self.serial = count(1_000)  # keys that no made-up row has


def author_and_chain(draw: st.DrawFn) -> tuple[Careful, list[Migration]]:
    author = Careful(draw)
    return author, [author.migration(version, ()) for version in range(1, draw(st.integers(2, 5)))]


@st.composite
def careful_chains(draw: st.DrawFn) -> list[Migration]:
    return author_and_chain(draw)[1]


# -- faults ----------------------------------------------------------------------------------------


def rebuilt(table: Table, *parts: Part) -> str:
    """A rebuild that makes these parts again, and no others."""
    quoted = f'"{table.name}"'
    views = [part.drop() for part in table.parts if part.kind == "VIEW"]
    again = [part.sql() for part in table.parts if part.kind == "VIEW" or part in parts]
    copied = f'INSERT INTO "new" SELECT * FROM {quoted}; DROP TABLE {quoted}'
    made = f'ALTER TABLE "new" RENAME TO {quoted}'
    return "; ".join([table.sql("new"), *views, copied, made, *again, ""])


def with_part(author: Careful, kind: str) -> tuple[Table, Part, str]:
    """A new table with a part, and what makes both."""
    [make], _ = author.create_table()
    table = author.tables[-1]
    part = Part(kind, author.new("part"), table, table.columns[1])
    table.parts.append(part)
    return table, part, f"{make}; {part.sql()};"


def wrong_down(author: Careful) -> list[tuple[str, str | None]]:
    ups, downs = author.create_table()
    return [("; ".join([*ups, ""]), "SELECT 1;" if author.pick([0, 1]) else downs[0] + "x;")]


def lost(kind: str) -> Callable[[Careful], list[tuple[str, str | None]]]:
    def fault(author: Careful) -> list[tuple[str, str | None]]:
        table, part, make = with_part(author, kind)
        dropped = f'DROP TABLE "{table.name}";'
        # The way down may bring it back, which makes a perfect round trip, or not.
        down = rebuilt(table, part) if author.pick([0, 1]) else rebuilt(table)
        return [(make, dropped), (rebuilt(table), down)]

    return fault


def cascade(author: Careful) -> list[tuple[str, str | None]]:
    [make], _ = author.create_table()
    table = author.tables[-1]
    child = author.new("child")
    children = (
        f'CREATE TABLE "{child}" (p INTEGER REFERENCES "{table.name}" ("id") ON DELETE CASCADE);'
    )
    both = f"BEGIN; PRAGMA foreign_keys = OFF; {rebuilt(table)} COMMIT;"
    fault = f"PRAGMA foreign_keys = ON; {both}"
    return [(f"{make}; {children}", f'DROP TABLE "{child}"; DROP TABLE "{table.name}";'),
            (fault, both)]  # fmt: skip


def default(author: Careful) -> list[tuple[str, str | None]]:
    [make], _ = author.create_table()
    table = author.tables[-1].name
    add = f'ALTER TABLE "{table}" ADD COLUMN stamp DEFAULT (CURRENT_TIMESTAMP);'
    return [(f"{make};", f'DROP TABLE "{table}";'),
            (add, f'ALTER TABLE "{table}" DROP COLUMN stamp;')]  # fmt: skip


def lossy(author: Careful) -> list[tuple[str, str | None]]:
    [make], _ = author.create_table()
    table, column = author.tables[-1].name, author.tables[-1].columns[1].name
    # The column has no default, so it comes back without what was in it.
    alter = f'ALTER TABLE "{table}"'
    return [
        (f"{make};", f'DROP TABLE "{table}";'),
        (f'{alter} DROP COLUMN "{column}";', f'{alter} ADD COLUMN "{column}" INTEGER;'),
    ]


FAULTS: dict[str, tuple[Callable[[Careful], list[tuple[str, str | None]]], str]] = {
    "a wrong down": (wrong_down, "irreversible"),
    "a lost index": (lost("INDEX"), "index part"),
    "a lost trigger": (lost("TRIGGER"), "trigger part"),
    "a cascade": (cascade, "would lose"),
    "a default that needs an empty table": (default, "non-constant default"),
    "values that do not come back": (lossy, "lossy: rows of"),
}


@st.composite
def spoilt_chains(draw: st.DrawFn, kind: str) -> list[Migration]:
    """A chain that is right up to its end, where there is one fault."""
    author, chain = author_and_chain(draw)
    for up, down in FAULTS[kind][0](author):
        transactional = "BEGIN" not in up.partition(";")[2][:8]
        chain.append(step(len(chain) + 1, up, down, transactional=transactional))
    return chain


class TestPlantedFaults:
    """A few examples find each kind of fault, and none is found in what is right (M5, M7)."""

    @given(careful_chains())
    @settings(max_examples=30, deadline=None)
    def test_what_is_right_passes(self, chain: list[Migration]) -> None:
        assert_round_trips(chain, walks=2)

    @pytest.mark.parametrize("kind", FAULTS)
    def test_each_kind_is_found(self, kind: str) -> None:
        @given(spoilt_chains(kind))
        @settings(max_examples=8, deadline=None, database=None)
        def find(chain: list[Migration]) -> None:
            with pytest.raises(AssertionError, match=FAULTS[kind][1]):
                assert_round_trips(chain, walks=1)
            if kind in ("a cascade", "a default that needs an empty table"):
                # On empty tables nothing of it shows, which is why there are rows.
                assert_round_trips(chain, rows=0, walks=1)

        find()


class TestAssertRoundTrips:
    """For the tests of others: it says which migration is wrong, and how."""

    def test_it_passes_what_is_right_also_inside_an_event_loop(self) -> None:
        assert_round_trips(load_migrations("abt_db.schema"))

    async def test_from_a_coroutine(self) -> None:
        assert_round_trips(load_migrations("abt_db.schema"), walks=1)

    def test_the_message_names_the_step_and_the_table(self) -> None:
        chain = [step(1, "CREATE TABLE t (x);", "DROP TABLE t;"), step(2, "DELETE FROM t;", "")]
        with pytest.raises(
            AssertionError, match=r"migration 2 \(step 2\): lossy: rows of t do not"
        ):
            assert_round_trips(chain)
        assert_round_trips(chain, allow={2})

    def test_a_step_without_a_down_script_has_to_be_allowed(self) -> None:
        chain = [step(1, "CREATE TABLE t (x);", None), step(2, "CREATE TABLE u (x);",
                                                            "DROP TABLE u;")]  # fmt: skip
        with pytest.raises(AssertionError, match=r"migration 1 .*irreversible: it has no down"):
            assert_round_trips(chain)
        assert_round_trips(chain, allow=[1])


CLASSES = {
    Reversibility.EXACT: ("CREATE INDEX i ON t (a);", "DROP INDEX i;"),
    Reversibility.ORDER_ONLY: (
        "ALTER TABLE t ADD COLUMN d; UPDATE t SET d = a; ALTER TABLE t DROP COLUMN a;",
        "ALTER TABLE t ADD COLUMN a INT; UPDATE t SET a = d; ALTER TABLE t DROP COLUMN d;",
    ),
    Reversibility.STRUCTURAL: (
        "CREATE TABLE u (y);",
        "DROP TABLE u; CREATE TABLE n (a INT, b TEXT); INSERT INTO n SELECT a, b FROM t;"
        " DROP TABLE t; ALTER TABLE n RENAME TO t;",
    ),
    Reversibility.LOSSY: ("UPDATE t SET a = 0;", ""),
    Reversibility.IRREVERSIBLE: ("CREATE TABLE u (y);", "DROP TABLE t;"),
}


class TestReversibility:
    """The class of a step is found by running it, and can be kept in the history."""

    @pytest.mark.parametrize("wanted", Reversibility)
    async def test_it_is_found(self, wanted: Reversibility) -> None:
        up, down = CLASSES[wanted]
        [_, trial] = await try_out([step(1, "CREATE TABLE t (a INT,  b TEXT);"), step(2, up, down)])
        assert (trial.reversibility, trial.error) == (wanted, None)
        assert (trial.reason is None) == (wanted is Reversibility.EXACT)

    async def test_a_rebuild_that_loses_the_autoincrement_mark_is_lossy(self) -> None:
        make = "CREATE TABLE {} (id INTEGER PRIMARY KEY AUTOINCREMENT);"
        rebuild = (
            f"{make.format('n')} INSERT INTO n SELECT * FROM t; DROP TABLE t;"
            " ALTER TABLE n RENAME TO t;"
        )
        [_, trial] = await try_out([step(1, make.format("t")), step(2, rebuild, rebuild)])
        assert trial.reversibility is Reversibility.LOSSY

    async def test_it_is_kept_in_the_history_and_down_asks_for_it(self) -> None:
        chain = [step(1, "CREATE TABLE t (a);"), step(2, *CLASSES[Reversibility.LOSSY])]
        async with Database(":memory:") as db:
            migrator = Migrator(db, chain)
            await migrator.up(reversibility=await migrator.classify())
            assert [r.reversibility for r in await migrator.history()] == [
                Reversibility.IRREVERSIBLE,
                Reversibility.LOSSY,
            ]
            with pytest.raises(
                MigrationLossError, match=r"migration 2 is lossy: .*allow_data_loss"
            ):
                await migrator.down(1)
            assert await migrator.down(1, allow_data_loss=True) == [2]


TABLES = {
    "words of a check": "CREATE TABLE t (a TEXT NOT NULL CHECK (a IN ('x', 'y', 'z')));",
    "several checks at once": "CREATE TABLE t (a INT CHECK (a > 100), b TEXT CHECK (b = 'it''s')"
    " NOT NULL, c NOT NULL CHECK (json_valid(c)), CHECK (a < 200 OR b IS NULL));",
    "a strict table": "CREATE TABLE t (a INT, b REAL, c TEXT, d BLOB, e ANY) STRICT;",
    "a generated column": "CREATE TABLE t (a INT, b AS (a + 1) STORED, c AS (a));",
    "no rowid": "CREATE TABLE t (a TEXT PRIMARY KEY, b UNIQUE) WITHOUT ROWID;",
    "a parent that comes later": "CREATE TABLE t (a NOT NULL REFERENCES z); CREATE TABLE z"
    " (k TEXT PRIMARY KEY);",
    "itself as its parent": "CREATE TABLE t (id INTEGER PRIMARY KEY, p NOT NULL REFERENCES t);",
    "a circle of parents": "CREATE TABLE t (id INTEGER PRIMARY KEY, z REFERENCES z (id));"
    "CREATE TABLE z (id INTEGER PRIMARY KEY, t INT NOT NULL REFERENCES t (id));",
    "a key of two columns": "CREATE TABLE z (a, b, PRIMARY KEY (b, a)); CREATE TABLE t (x NOT NULL,"
    " y NOT NULL, FOREIGN KEY (y, x) REFERENCES z);",
    "odd names": 'CREATE TABLE "a ""b; c" ("select" INT CHECK ("select" <> 1), "ä Ö" TEXT);',
}


class TestSeed:
    """Made-up rows keep types, CHECKs and keys, in every table that can have any."""

    @pytest.mark.parametrize("number", [0, 1])
    @pytest.mark.parametrize("sql", TABLES.values(), ids=TABLES)
    async def test_every_table_gets_rows(self, sql: str, number: int) -> None:
        async with Database(":memory:") as db:
            await Migrator(db, [step(1, sql)]).up()
            found = await db.write(seed, number=number)
            assert [(each.rows, each.problem) for each in found] == [(3, None)] * len(found)
            # Those that have some are left as they are.
            assert [each.rows for each in await db.write(seed)] == [0] * len(found)

    async def test_what_can_not_be_filled_is_told(self) -> None:
        refusing = "CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no'); END;"
        sql = f"CREATE TABLE t (a); {refusing} CREATE TABLE u (a NOT NULL CHECK (a = 1 AND a = 2));"
        async with Database(":memory:") as db:
            await Migrator(db, [step(1, sql)]).up()
            [t, u] = await db.write(seed)
        assert (t.rows, u.rows) == (0, 0)
        assert "SQLITE_CONSTRAINT_TRIGGER" in (t.problem or "")
        assert "keeps CHECK (a = 1 AND a = 2)" in (u.problem or "")

    async def test_the_same_number_gives_the_same_rows(self) -> None:
        async def rows(number: int) -> Any:
            async with Database(":memory:") as db:
                await Migrator(db, load_migrations("abt_db.schema")).up()
                await db.write(seed, number=number)
                return {n: c for n, c in (await db.read(contents)).items() if n == "build_logs"}

        assert await rows(1) == await rows(1) != await rows(2)
