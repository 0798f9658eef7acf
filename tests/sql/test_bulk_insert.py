"""`execute_many` adds several rows by one statement, where that comes to the same."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.suite import SOON

from abt_db import (
    Config,
    Database,
    IntegrityError,
    ParameterError,
    Query,
    Session,
    StatementTimeoutError,
    TransactionAbortedError,
)

CREATE = """
    CREATE TABLE things (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE CHECK (name <> 'bad'),
        size INTEGER NOT NULL,
        parent TEXT DEFAULT 'none'
    )
"""
ALL = Query("things.all", "SELECT *, typeof(size) FROM things ORDER BY id")
COUNT = Query("t.count", "SELECT count(*) FROM t", int)
CLEAR = Query("things.clear", "DELETE FROM things")
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


names = st.one_of(st.integers(0, 400).map(str), st.sampled_from(["bad", "é", "\0"]))
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
            await db.execute(Query("create", CREATE)())

            async def left(many: bool, chosen: list[object]) -> Any:
                await db.execute_batch([CLEAR(), RESTART()])
                try:
                    if many:
                        changed = await db.execute_many(query, chosen)
                    else:
                        batch = await db.execute_batch([query(each) for each in chosen])
                        changed = sum(result.rowcount for result in batch)
                except IntegrityError as error:
                    return str(error), await db.fetch_all(ALL())
                return changed, await db.fetch_all(ALL())

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
        """fault 30."""
        async with Database(path) as db:
            await db.execute(Query("create", CREATE)())
            for bad in (2**63, "\ud800", {"a": 1}):
                given: list[Any] = [{"name": str(n), "size": n} for n in range(300)]
                given[place]["size"] = bad
                with pytest.raises(ParameterError, match=r"'size' of query 'things\.add'"):
                    await db.execute_many(ADD, given)
            assert await db.fetch_all(ALL()) == []

    async def test_who_watches_the_table_learns_of_it(self, path: Path) -> None:
        async with Database(path) as db:
            await db.execute(Query("create", CREATE)())
            async with asyncio.timeout(SOON):
                async for [count] in db.watch(Query("count", "SELECT count(*) FROM things", int)()):
                    if count == 64:
                        break
                    given = [{"name": str(n), "size": n} for n in range(64)]
                    await db.execute_many(ADD, given)


# What is there, the query, and rows with which it would show that they share a statement.
ROWS = [(number, 1) for number in range(10, 30)]
UP = "INSERT INTO t VALUES (:a, :b) ON CONFLICT (a) DO UPDATE SET"
ADD_T = "INSERT INTO t VALUES (:a, :b)"
PARENT = "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1)"
PLAIN = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
CHILD = f"{PARENT}; CREATE TABLE t (a INTEGER PRIMARY KEY, b REFERENCES p)"
NAMED = "CREATE TABLE c (t REFERENCES t); INSERT INTO t VALUES (1, 2); INSERT INTO c VALUES (1)"
LOG = "CREATE TABLE log (a, b)"
APART = {
    "a row that refers to a later one": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b REFERENCES T)",
        ADD_T,
        [(2, 1), (1, None), *ROWS],
    ),
    "a bad row with a good one that an old reference waits for": (
        f"{CHILD}; CREATE TABLE c (t REFERENCES T); PRAGMA foreign_keys = 0;"
        "INSERT INTO c VALUES (5)",
        ADD_T,
        [(4, 99), (5, 1), *ROWS],
    ),
    "a bad row that is updated to a good one": (
        CHILD,
        f"{UP} b = excluded.b",
        [(1, 99), (1, 1), *ROWS],
    ),
    "a row that others need, away and back": (
        f"CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE); {NAMED}",
        "INSERT INTO t VALUES (:a, :b) ON CONFLICT (b) DO UPDATE SET a = excluded.a",
        [(3, 2), (1, 4), (10, 11)] + [(n, n) for n in range(20, 30)],
    ),
    "a bad row that is replaced": (
        f"{PARENT}; CREATE TABLE t (a INTEGER PRIMARY KEY ON CONFLICT REPLACE, b REFERENCES p)",
        ADD_T,
        [(1, 99), (1, 1), *ROWS],
    ),
    "a trigger that makes what an earlier row needs": (
        f"{CHILD}; CREATE TRIGGER x AFTER INSERT ON t BEGIN"
        " INSERT OR IGNORE INTO p VALUES (NEW.a); END",
        ADD_T,
        [(5, 10), *ROWS],
    ),
    "a view whose table has such rows": (
        "CREATE TABLE real (a INTEGER PRIMARY KEY, b REFERENCES real);"
        "CREATE VIEW t AS SELECT * FROM real; CREATE TRIGGER x INSTEAD OF INSERT ON t BEGIN"
        " INSERT INTO real VALUES (NEW.a, NEW.b); END",
        ADD_T,
        [(2, 1), (1, None), *ROWS],
    ),
    "a trigger that looks at the numbers": (
        "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b); CREATE TABLE log (a);"
        "CREATE TRIGGER x BEFORE INSERT ON t BEGIN"
        " INSERT INTO log SELECT seq FROM sqlite_sequence; END",
        ADD_T,
        ROWS,
    ),
    "an updated row that counts them all": (PLAIN, f"{UP} b = (SELECT sum(b) FROM t)", ROWS * 2),
    "a row that counts the changes": (PLAIN, f"{UP} b = b * 10 + changes()", [(1, 1)] * 20),
    "a default that counts the changes": (
        "CREATE TABLE t (a, b, c DEFAULT (changes()), d DEFAULT (total_changes()))",
        "INSERT INTO t (a, b) VALUES (:a, :b)",
        ROWS,
    ),
}


class TestApart:
    """Where several rows in one statement would show, each has its own."""

    @pytest.mark.parametrize("case", APART)
    async def test_it_is_as_in_sqlite3_one_by_one(self, path: Path, case: str) -> None:
        schema, sql, given = APART[case]
        rows = [{"a": a, "b": b} for a, b in given]
        look = "SELECT * FROM log" if "TABLE log" in schema else "SELECT * FROM t"
        expected: Any = 0
        with closing(sqlite3.connect(":memory:")) as raw, closing(sqlite3.connect(path)) as file:
            file.executescript(schema)
            raw.executescript(f"{schema}; PRAGMA foreign_keys = 1")
            try:
                with raw:
                    for row in rows:
                        expected += raw.execute(sql, row).rowcount
            except sqlite3.IntegrityError as error:
                expected = str(error)
            left = raw.execute(look).fetchall()

        async with Database(path) as db:
            if isinstance(expected, str):
                with pytest.raises(IntegrityError, match=expected):
                    await db.execute_many(Query("t.add", sql), rows)
            else:
                assert await db.execute_many(Query("t.add", sql), rows) == expected
            assert await db.fetch_all(Query("look", look)()) == left

    @pytest.mark.parametrize("schema", [CHILD, f"{PLAIN}; {NAMED}"])
    async def test_one_foreign_key_does_not_matter_to_what_is_only_added(
        self, path: Path, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor do triggers of other kinds."""
        other = "CREATE TRIGGER x AFTER DELETE ON t BEGIN INSERT INTO t VALUES (1, 1); END"
        with closing(sqlite3.connect(path)) as file:
            file.executescript(f"{schema}; {other}")
        texts: list[str] = []
        bind_many = Query.bind_many

        def seen(*args: Any, **kwargs: Any) -> Any:
            for text, values in bind_many(*args, **kwargs):
                texts.append(text)
                yield text, values

        monkeypatch.setattr(Query, "bind_many", seen)
        async with Database(path) as db:
            rows = [{"a": a, "b": 1} for a in range(10, 18)]
            assert await db.execute_many(Query("t.add", ADD_T), rows) == 8
        assert [text.count("(?, ?)") for text in texts] == [8]

    async def test_no_statement_is_longer_than_sqlite_may_take(self, path: Path) -> None:
        async with Database(path, config=Config(max_sql_size=1024)) as db:
            await db.execute(Query("create", PLAIN)())
            add = Query("t.add", f"INSERT INTO t VALUES (:a, '{'é' * 100}')")
            assert await db.execute_many(add, [{"a": a} for a in range(100)]) == 100


class TestSource:
    """Where rows come from may be slow, may be stopped for, and may use the connection itself."""

    async def test_slow_rows_are_stopped_at_the_time_limit(self, path: Path) -> None:
        taken = 0

        def slow() -> Iterator[dict[str, int]]:
            nonlocal taken
            for taken in range(250):
                sleep(0.004)
                yield {"a": taken, "b": 1}

        async with Database(path) as db:
            await db.execute(Query("create", PLAIN)())
            with pytest.raises(StatementTimeoutError):
                await db.execute_many(Query("t.add", ADD_T), slow(), timeout=0.1)
            assert await db.fetch_one(COUNT()) == 0
        assert taken < 100

    async def test_few_of_slow_rows_are_held_back(self, path: Path) -> None:
        """So are few of large ones, which are slow to write: not all are in memory."""
        held_back: set[int] = set()

        def add(cx: Session) -> int:
            def slow() -> Iterator[dict[str, int]]:
                for number in range(60):
                    held_back.add(number - (cx.fetch_one(COUNT()) or 0))
                    sleep(0.005)
                    yield {"a": number, "b": 1}

            return cx.execute_many(Query("t.add", ADD_T), slow())

        async with Database(path) as db:
            await db.execute(Query("create", PLAIN)())
            assert await db.write(add) == 60
        assert max(held_back) < 20

    async def test_cancelled_while_it_waits_for_rows_it_adds_none(self, path: Path) -> None:
        loop, asked, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def late() -> Iterator[dict[str, int]]:
            loop.call_soon_threadsafe(asked.set)
            assert cancelled.wait(SOON)
            yield from ({"a": number, "b": 1} for number in range(100))

        async with Database(path) as db:
            await db.execute(Query("create", PLAIN)())
            adding = asyncio.create_task(db.execute_many(Query("t.add", ADD_T), late()))
            await asked.wait()
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
            cancelled.set()
            assert (await db.execute(Query("t.add", ADD_T)(a=1, b=1))).rowcount == 1
            assert await db.fetch_one(COUNT()) == 1

    async def test_nothing_is_added_once_the_source_has_ended_the_transaction(
        self, path: Path
    ) -> None:
        """fault 21: each row would be committed on its own."""
        add_or_end = Query("t.add_or_end", "INSERT OR ROLLBACK INTO t VALUES (1, 1)")

        def add(cx: Session) -> None:
            def source() -> Iterator[dict[str, int]]:
                cx.execute(add_or_end())
                with pytest.raises(IntegrityError):
                    cx.execute(add_or_end())
                yield from ({"a": number, "b": 1} for number in range(2, 20))

            cx.execute_many(Query("t.add", ADD_T), source())

        async with Database(path) as db:
            await db.execute(Query("create", PLAIN)())
            with pytest.raises(TransactionAbortedError):
                await db.write(add)
            assert await db.fetch_one(COUNT()) == 0


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
            "INSERT INTO t VALUES (:a) ON CONFLICT DO UPDATE SET b = max(b, excluded.b)",
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
            "INSERT INTO t VALUES (:a) ON CONFLICT (a) DO UPDATE SET b = (SELECT max(b) FROM t)",
            "INSERT INTO t VALUES (:a) ON CONFLICT (a) DO UPDATE SET b = 1 WHERE a IN u",
            "INSERT INTO t VALUES (:a) ON CONFLICT (a) DO UPDATE SET b = total_changes()",
            "WITH x AS (SELECT 1) INSERT INTO t VALUES (:a)",
            "UPDATE t SET a = :a",
            "DELETE FROM t WHERE a IN (VALUES (:a))",
        ],
    )
    def test_it_is_not(self, sql: str) -> None:
        assert Query("q", sql).table is None
