"""`execute_many` adds several rows by one statement, where that comes to the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abt_db import Database, IntegrityError, ParameterError, Query

CREATE = """
    CREATE TABLE things (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE CHECK (name <> 'bad'),
        size INTEGER NOT NULL,
        parent TEXT DEFAULT 'none'
    )
"""
SEEN = "CREATE TABLE seen (name TEXT, before INTEGER)"
TRIGGER = """
    CREATE TRIGGER looking AFTER INSERT ON things BEGIN
        INSERT INTO seen SELECT NEW.name, count(*) FROM things;
        SELECT RAISE(IGNORE) WHERE NEW.name = 'unseen';
    END
"""
ALL = Query("things.all", "SELECT *, typeof(size) FROM things ORDER BY id")
ALL_SEEN = Query("seen.all", "SELECT * FROM seen ORDER BY rowid")
CLEAR = [Query("t.clear", "DELETE FROM things")(), Query("s.clear", "DELETE FROM seen")()]
RESTART = Query("things.restart", "UPDATE sqlite_sequence SET seq = 0")

ADD = Query("things.add", "INSERT INTO things (name, size) VALUES (:name, :size)")
ADDS = [
    ADD,
    Query("i", "INSERT OR IGNORE INTO things (name, size, parent) VALUES (:name, :size, 'x')"),
    Query("f", "INSERT OR FAIL INTO things (name, size, parent) VALUES (:name, :size, NULL)"),
    Query(
        "u",
        "insert into things (name, size) values (:name, :size)"
        " on conflict (name) do update set size = size + excluded.size where size < 9",
    ),
    Query("n", "INSERT INTO things (name, size) VALUES (:name, :size) ON CONFLICT DO NOTHING"),
]
COUNTS = [0, 1, 7, 8, 9, 63, 64, 65, 80, 255, 256, 257, 600]


@dataclass(frozen=True, slots=True)
class Thing:
    size: int | str | bytes | float | None
    name: str


def row(kind: int, name: str, size: Any) -> object:
    """The same row in different forms."""
    if kind == 1:
        return {"size": size, "name": name}
    return Thing(size, name) if kind == 2 else {"name": name, "size": size}


names = st.one_of(st.integers(0, 400).map(str), st.sampled_from(["bad", "unseen", "é", "\0"]))
sizes = st.one_of(
    st.integers(0, 9),
    st.sampled_from(["7", "07.0", "x", b"7", 7.0, 7.5, -0.0, 2**62]),
    st.integers(0, 2000).map(lambda n: n or None),
)
rows = st.lists(st.builds(row, st.integers(0, 2), names, sizes), max_size=200, unique_by=str)

GOOD = [row(0, f"good {n}", n) for n in range(70)]


class TestTogether:
    """What comes of many rows is what comes of one statement for each of them."""

    @pytest.mark.parametrize("query", ADDS, ids=lambda query: query.name)
    async def test_adding_together_is_as_adding_one_by_one(self, path: Path, query: Any) -> None:
        loop = asyncio.get_running_loop()
        succeeded: set[bool] = set()
        async with Database(path) as db:
            for sql in (CREATE, SEEN, TRIGGER):
                await db.execute(Query("create", sql)())

            async def left(many: bool, chosen: list[object]) -> Any:
                await db.execute_batch([*CLEAR, RESTART()])
                try:
                    if many:
                        changed = await db.execute_many(query, chosen)
                    else:
                        batch = await db.execute_batch([query(each) for each in chosen])
                        changed = sum(result.rowcount for result in batch)
                except IntegrityError as error:
                    return str(error), await db.fetch_all(ALL()), await db.fetch_all(ALL_SEEN())
                return changed, await db.fetch_all(ALL()), await db.fetch_all(ALL_SEEN())

            @settings(max_examples=60, deadline=None, database=None)
            @given(rows)
            @example(GOOD)
            @example([*GOOD, row(0, "bad", 1), *GOOD])
            def alike(chosen: list[object]) -> None:
                one, two = (
                    asyncio.run_coroutine_threadsafe(left(many, chosen), loop).result()
                    for many in (False, True)
                )
                assert one == two
                succeeded.add(isinstance(one[0], int))

            assert query.table == "things"
            await asyncio.to_thread(alike)
        ignores_all = " OR IGNORE " in query.sql
        assert succeeded == ({True} if ignores_all else {True, False})

    @pytest.mark.parametrize("count", COUNTS)
    async def test_any_number_of_rows_is_added_in_order(self, path: Path, count: int) -> None:
        async with Database(path) as db:
            await db.execute(Query("create", CREATE)())
            given = [{"name": str(n), "size": n} for n in range(count)]
            assert await db.execute_many(ADD, iter(given)) == count
            expected = [(n + 1, str(n), n, "none", "integer") for n in range(count)]
            assert await db.fetch_all(ALL()) == expected

    @pytest.mark.parametrize("place", [0, 5, 63, 64, 99, 255, 256, 299])
    async def test_the_bad_row_is_told_wherever_it_is(self, path: Path, place: int) -> None:
        """faults.md 30."""
        async with Database(path) as db:
            await db.execute(Query("create", CREATE)())
            for bad in (2**63, "\ud800", {"a": 1}):
                given: list[Any] = [{"name": str(n), "size": n} for n in range(300)]
                given[place]["size"] = bad
                with pytest.raises(ParameterError, match=r"'size' of query 'things\.add'"):
                    await db.execute_many(ADD, given)
            assert await db.fetch_all(ALL()) == []

    @pytest.mark.parametrize("count", [10, 100, 300])
    async def test_a_row_may_not_refer_to_a_later_one(self, path: Path, count: int) -> None:
        """SQLite looks when a statement ends: in one with both rows it would find nothing."""
        tree = "CREATE TABLE t (id INTEGER PRIMARY KEY, above INTEGER REFERENCES T)"
        add = Query("t.add", "INSERT INTO t VALUES (:id, :above)")
        given = [{"id": n, "above": n - 1 if n else None} for n in range(count)]
        async with Database(path) as db:
            await db.execute(Query("create", tree)())
            with pytest.raises(IntegrityError, match="FOREIGN KEY"):
                await db.execute_many(add, [given[1], given[0], *given[2:]])
            assert await db.execute_many(add, given) == count

    async def test_who_watches_the_table_learns_of_it(self, path: Path) -> None:
        async with Database(path) as db:
            await db.execute(Query("create", CREATE)())
            async with asyncio.timeout(10):
                async for [count] in db.watch(Query("count", "SELECT count(*) FROM things", int)()):
                    if count == 64:
                        break
                    given = [{"name": str(n), "size": n} for n in range(64)]
                    await db.execute_many(ADD, given)


class TestWhichQueries:
    """Only what adds one row of given values, next to those that are there, is put together."""

    @pytest.mark.parametrize("width", [1, 15, 16, 124, 125, 998])
    def test_none_has_more_variables_than_any_sqlite_takes(self, width: int) -> None:
        columns = [f"c{n}" for n in range(width)]
        add = Query("wide.add", f"INSERT INTO wide VALUES ({', '.join(f':{c}' for c in columns)})")
        given = [dict.fromkeys(columns, n) for n in range(100)]
        runs = [(text, run) for text, runs in add.bind_many(given, together=True) for run in runs]
        assert all(text.count("?") == len(run) <= 999 for text, run in runs)
        assert [value for _, run in runs for value in run[::width]] == list(range(100))

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO t VALUES (:a, 1.5, NULL, 'x y', :b)",
            "insert into t(a,b) values(:a,:b)",
            "INSERT /* more */ INTO t (a, b)\n VALUES ( :a , :b ) ; -- end",
            "INSERT OR ABORT INTO t VALUES (:a)",
            "INSERT INTO t VALUES (:a) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
        ],
    )
    def test_it_is(self, sql: str) -> None:
        assert Query("q", sql).table == "t"

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO t VALUES (:a), (2)",
            "INSERT INTO t VALUES (:a, :a)",
            "INSERT INTO t VALUES (:a + 1)",
            "INSERT INTO t VALUES (max(:a, 1))",
            "INSERT INTO t VALUES (:a, last_insert_rowid())",
            "INSERT INTO t VALUES (:a, (SELECT count(*) FROM t))",
            "INSERT INTO t SELECT :a",
            "INSERT INTO t DEFAULT VALUES",
            "INSERT INTO main.t VALUES (:a)",
            'INSERT INTO "t" VALUES (:a)',
            "INSERT OR REPLACE INTO t VALUES (:a)",
            "REPLACE INTO t VALUES (:a)",
            "INSERT INTO t VALUES (:a) RETURNING a",
            "INSERT INTO t VALUES (:a) ON CONFLICT DO NOTHING RETURNING a",
            "INSERT INTO t VALUES (:a) ON CONFLICT (a) DO UPDATE SET b = :b",
            "WITH x AS (SELECT 1) INSERT INTO t VALUES (:a)",
            "UPDATE t SET a = :a",
            "DELETE FROM t WHERE a IN (VALUES (:a))",
        ],
    )
    def test_it_is_not(self, sql: str) -> None:
        assert Query("q", sql).table is None
