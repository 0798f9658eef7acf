"""What belongs to the connection that wrote is not asked of one that reads (fault 86)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, CREATE, items

import abt_db.connection.authorizer
from abt_db import Config, Database, DeniedError, Query, Session

WRITER_ONLY = {
    "SELECT last_insert_rowid()": r"Result\.lastrowid or RETURNING",
    "SELECT Last_Insert_RowId() AS id": r"Result\.lastrowid or RETURNING",
    "SELECT changes()": r"Result\.rowcount",
    "SELECT name FROM items WHERE id > total_changes()": r"Result\.rowcount",
    "SELECT count(*) FROM items GROUP BY name HAVING changes()": r"Result\.rowcount",
    "WITH n AS (SELECT changes() AS x) SELECT x FROM n": r"Result\.rowcount",
    "VALUES (last_insert_rowid())": r"Result\.lastrowid",
    "SELECT last_id FROM last_item": r"Result\.lastrowid",
    "PRAGMA data_version": r"db\.watch\(\)",
    "PRAGMA main.Data_Version": r"db\.watch\(\)",
    "SELECT data_version FROM pragma_data_version": r"db\.watch\(\)",
    "SELECT count(*) FROM pragma_data_version": r"db\.watch\(\)",
    "SELECT * FROM Pragma_Defer_Foreign_Keys": r"db\.transaction\(\)",
    "pragma defer_foreign_keys": r"db\.transaction\(\)",
    "SELECT name FROM sqlite_temp_schema": r"db\.transaction\(\)",
    "SELECT count(*) FROM sqlite_temp_master": r"db\.transaction\(\)",
    "SELECT count(*) FROM temp.sqlite_schema": r"db\.transaction\(\)",
    "SELECT sql FROM SQLite_Stmt": r"db\.transaction\(\)",
    "PRAGMA temp.table_info(scratch)": r"db\.transaction\(\)",
}
TEMPORARY = [
    "SELECT a FROM scratch",
    "SELECT count(*) FROM scratch",
    "SELECT 1 FROM Scratch",
    "SELECT count(*) FROM temp.scratch",
    "SELECT a FROM scratch_view",
]
VIEW = Query("v", "CREATE VIEW last_item AS SELECT last_insert_rowid() AS last_id")


@pytest.fixture(params=["app.db", ":memory:"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = str(request.param)
    return name if name == ":memory:" else str(tmp_path / name)


@asynccontextmanager
async def opened(place: str) -> AsyncIterator[Database]:
    async with items(place, "a", "b", readers=1) as db:
        await db.execute(VIEW())
        yield db


async def ways_to_read(db: Database, query: Query[Any]) -> AsyncIterator[Any]:
    """Yield an awaitable for each way by which a statement comes to the reading side."""
    yield db.fetch_one(query())
    yield db.fetch_all(query())
    yield db.read(lambda cx: cx.fetch_all(query()))
    yield db.read(lambda cx: list(cx.stream(query())))
    async with db.snapshot() as view:
        yield view.fetch_one(query())
        yield view.read(lambda cx: cx.fetch_all(query()))
    yield first_of(db.stream(query()))
    yield anext(aiter(db.watch(query())))


async def first_of(stream: Any) -> object:
    async with stream as rows:
        return await anext(aiter(rows))


class TestReads:
    """They are refused, in a file and in memory alike, with what to use."""

    @pytest.mark.parametrize("sql", WRITER_ONLY)
    async def test_are_refused_with_what_to_use(self, place: str, sql: str) -> None:
        query = Query("of the writer", sql)
        async with opened(place) as db:
            async for reading in ways_to_read(db, query):
                with pytest.raises(DeniedError, match=WRITER_ONLY[sql]) as refused:
                    await reading
                assert "query 'of the writer'" in str(refused.value)
            assert await db.fetch_one(COUNT()) == 2

    @pytest.mark.parametrize("sql", WRITER_ONLY)
    async def test_are_refused_also_when_a_write_has_run_the_same_text_before(
        self, place: str, sql: str
    ) -> None:
        """In memory its statement is in the cache of the one connection, and SQLite does not ask
        again about what is there."""
        query = Query("of the writer", sql)
        async with opened(place) as db:
            await db.write(lambda cx: cx.execute(Query("t", "CREATE TEMP TABLE scratch (a)")()))
            for _ in range(2):
                await db.write(lambda cx: cx.fetch_all(query()))
                async for reading in ways_to_read(db, query):
                    with pytest.raises(DeniedError, match=WRITER_ONLY[sql]):
                        await reading

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize("sql", TEMPORARY)
    async def test_of_a_temporary_table_are_refused_in_memory_as_in_a_file(
        self, place: str, sql: str, before: bool
    ) -> None:
        query = Query("of the writer", sql)

        def make(cx: Session) -> None:
            cx.execute(Query("t", "CREATE TEMP TABLE scratch AS SELECT 7 AS a")())
            cx.execute(Query("v", "CREATE TEMP VIEW scratch_view AS SELECT a FROM scratch")())
            if before:
                assert len(cx.fetch_all(query())) == 1

        async with opened(place) as db:
            await db.write(make)
            async for reading in ways_to_read(db, query):
                # In a file it is no table that a reader knows.
                with pytest.raises(Exception, match=r"no such table|db\.transaction\(\)"):
                    await reading
            assert len(await db.write(lambda cx: cx.fetch_all(query()))) == 1

    async def test_of_a_table_named_like_a_temporary_one_that_was_dropped(self, place: str) -> None:
        count = Query("c", "SELECT count(*) FROM scratch", int)

        def make(cx: Session) -> None:
            cx.execute(Query("t", "CREATE TEMP TABLE Scratch (a)")())
            cx.execute(Query("d", "DROP TABLE temp.SCRATCH")())
            cx.execute(Query("t", "CREATE TABLE scratch (a)")())

        async with opened(place) as db:
            await db.write(make)
            assert await db.fetch_one(count()) == 0

    async def test_are_refused_however_many_texts_a_write_has_run(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is remembered of them is bounded, and nothing slips through for that."""
        monkeypatch.setattr(abt_db.connection.authorizer, "_MAX_KEPT", 5)
        queries = [Query(f"q{n}", f"SELECT changes() + {n}", int) for n in range(12)]
        async with opened(":memory:") as db:
            await db.write(lambda cx: [cx.fetch_one(query()) for query in queries])
            for query in reversed(queries):
                with pytest.raises(DeniedError, match="changes"):
                    await db.fetch_one(query())

    async def test_may_ask_what_is_the_same_on_every_connection(self, place: str) -> None:
        async with opened(place) as db:
            for pragma in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout"):
                query = Query(pragma, f"PRAGMA {pragma}")
                here = await db.fetch_one(query())
                async with db.transaction() as tx:
                    assert await tx.fetch_one(query()) == here

    async def test_may_search_texts_for_which_fts5_asks_for_the_data_version(
        self, place: str
    ) -> None:
        found = Query("f", "SELECT body FROM pages WHERE pages MATCH :word", str)
        async with opened(place) as db:
            await db.execute(Query("p", "CREATE VIRTUAL TABLE pages USING fts5(body)")())
            await db.execute(Query("a", "INSERT INTO pages VALUES ('one two')")())
            for _ in range(2):
                assert await db.fetch_all(found(word="two")) == ["one two"]


class TestTheLibrarysOwn:
    """What it runs with privilege has texts that no caller's statement can have."""

    @pytest.mark.parametrize(
        "sql", ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA busy_timeout = 20", "SELECT changes()"]
    )
    async def test_does_not_open_the_way_for_a_caller(self, place: str, sql: str) -> None:
        query = Query("a caller's", sql)
        with_clause = Query("w", "WITH n AS (SELECT 1) UPDATE items SET name = name")
        async with opened(place) as db:
            await db.checkpoint("truncate", wait=0.02)
            await db.execute(with_clause())
            with pytest.raises(DeniedError, match='query "a caller\'s"'):
                await (db.execute(query()) if query.writes else db.fetch_one(query()))

    async def test_does_not_on_a_follower_that_looks_for_commits(self, tmp_path: Path) -> None:
        async with items(tmp_path / "app.db", "a") as db:
            follower = Database(tmp_path / "app.db", config=Config(readers=1), read_only=True)
            async with follower:
                rows = aiter(follower.watch(COUNT()))
                assert await anext(rows) == [1]
                await db.execute(ADD(name="b"))
                assert await anext(rows) == [2]  # seen by PRAGMA data_version
                with pytest.raises(DeniedError, match="data_version"):
                    await follower.fetch_one(Query("v", "PRAGMA data_version", int)())


class TestWrites:
    """Where SQLite evaluates them on the connection that wrote they are right, and served."""

    async def test_a_transaction_asks_its_own_connection(self, place: str) -> None:
        last = Query("last", "SELECT last_insert_rowid()", int)
        changed = Query("changed", "SELECT changes()", int)
        async with opened(place) as db:
            async with db.transaction() as tx:
                done = await tx.execute(ADD(name="c"))
                assert await tx.fetch_one(last()) == done.lastrowid == 3
                assert await tx.read(lambda cx: cx.fetch_one(changed())) == 1

            def write(cx: Session) -> int | None:
                cx.execute(ADD(name="d"))
                return cx.fetch_one(last())

            assert await db.write(write) == 4

    async def test_returning_triggers_and_views_of_a_write(self, place: str) -> None:
        add = Query("a", f"{ADD.sql} RETURNING last_insert_rowid()", int)
        parents = Query("l", "SELECT parent FROM log ORDER BY parent", int)
        child = Query("c", "INSERT INTO log SELECT last_id FROM last_item")
        async with opened(place) as db:
            await db.execute(Query("l", "CREATE TABLE log (parent)")())
            await db.execute(
                Query(
                    "t",
                    "CREATE TRIGGER logs AFTER INSERT ON items"
                    " BEGIN INSERT INTO log VALUES (last_insert_rowid()); END",
                )()
            )
            assert await db.fetch_one(add(name="c")) == 3
            await db.execute(ADD(name="d"))
            await db.execute_batch([ADD(name="e"), child()])
            assert await db.fetch_all(parents()) == [3, 4, 5, 5]

    async def test_a_database_of_another_program_with_such_a_view_is_read(
        self, tmp_path: Path
    ) -> None:
        raw = sqlite3.connect(tmp_path / "app.db")
        raw.execute(CREATE.sql)
        raw.execute(VIEW.sql)
        raw.close()
        async with Database(tmp_path / "app.db", read_only=True) as db:
            assert await db.fetch_one(COUNT()) == 0
            with pytest.raises(DeniedError, match="Result"):
                await db.fetch_one(Query("v", "SELECT * FROM last_item")())
