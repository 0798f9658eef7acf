"""What a live query depends on besides tables: seen, or refused (fault 85)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from support.engine import SOON, until

from abt_db import Config, Database, DeniedError, Query, QueryError
from abt_db.connection.deadline import Deadline
from abt_db.maintenance import analyze, optimize, reindex, vacuum, vacuum_step_by_step

SCHEMA = """
CREATE TABLE Things (id INTEGER PRIMARY KEY, name TEXT UNIQUE, twice AS (id * 2))
CREATE TABLE numbered (id INTEGER PRIMARY KEY AUTOINCREMENT, x)
CREATE TABLE unnumbered (x)
CREATE TABLE without_rowid (x PRIMARY KEY, y) WITHOUT ROWID
CREATE TABLE replacing (x UNIQUE ON CONFLICT REPLACE, y)
CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT UNIQUE)
CREATE TABLE cascading (parent REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE)
CREATE TABLE nulling (parent REFERENCES parents ON DELETE SET NULL ON UPDATE SET NULL)
CREATE TABLE defaulting (parent DEFAULT 0 REFERENCES parents ON DELETE SET DEFAULT)
CREATE TABLE journal (entry)
CREATE TRIGGER noted AFTER DELETE ON parents BEGIN INSERT INTO journal VALUES (old.name); END
CREATE VIEW door AS SELECT name FROM Things
CREATE TRIGGER entered INSTEAD OF INSERT ON door
BEGIN INSERT INTO Things (name) VALUES (new.name); END
CREATE VIRTUAL TABLE words USING fts5 (text)
CREATE VIRTUAL TABLE terms USING fts5vocab ('words', 'row')
CREATE TABLE content (id INTEGER PRIMARY KEY, text)
CREATE VIRTUAL TABLE outside USING fts5 (text, content = 'content', content_rowid = 'id')
CREATE VIRTUAL TABLE older USING fts4 (text)
CREATE VIRTUAL TABLE boxes USING rtree (id, low, high)
CREATE VIEW settings AS SELECT user_version FROM pragma_user_version
CREATE VIEW columns AS SELECT name FROM pragma_table_info('unnumbered')
INSERT INTO Things (id, name) VALUES (1, 'one'), (2, 'two')
INSERT INTO unnumbered VALUES (1), (2), (3)
INSERT INTO parents VALUES (0, 'none'), (1, 'first'), (2, 'second'), (3, 'third')
INSERT INTO cascading VALUES (2), (3)
INSERT INTO nulling VALUES (2), (3)
INSERT INTO defaulting VALUES (2), (3)
INSERT INTO words VALUES ('a word')
INSERT INTO content VALUES (1, 'an entry')
INSERT INTO outside (rowid, text) VALUES (1, 'an entry')
INSERT INTO boxes VALUES (1, 0, 1)
INSERT INTO replacing VALUES (1, 1)
INSERT INTO without_rowid VALUES (1, 1)
ANALYZE
""".strip().replace("\nBEGIN", " BEGIN")

ALSO_WATCHED = [
    "SELECT count(*) FROM THINGS",
    "SELECT count(*) FROM main.things",
    "SELECT EXISTS (SELECT 1 FROM tHiNgS WHERE 1)",
    "SELECT twice FROM things",
    "SELECT count(*) FROM DOOR",
    "WITH x AS (SELECT name FROM THINGS) SELECT count(*) FROM x",
    "SELECT (SELECT count(*) FROM Unnumbered) + (SELECT count(*) FROM parents)",
    "SELECT rowid, x FROM unnumbered ORDER BY rowid",
    "SELECT count(*) FROM WORDS",
    "SELECT text FROM words WHERE words MATCH 'word'",
    "SELECT bm25(words), highlight(words, 0, '<', '>') FROM words WHERE words MATCH 'word'",
    "SELECT text FROM outside WHERE outside MATCH 'entry'",
    "SELECT text || '!' FROM outside WHERE outside MATCH 'entry'",
    "SELECT text || '?' FROM outside WHERE outside MATCH 'entry'",
    "SELECT * FROM terms",
    "SELECT id FROM boxes WHERE low > 0",
    "SELECT user_version FROM pragma_user_version",
    "SELECT count(*) FROM things, pragma_table_info('unnumbered')",
    "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c",
    "PRAGMA user_version",
    "PRAGMA main.user_version",
    "PRAGMA application_id",
    "PRAGMA schema_version",
    "PRAGMA page_count",
    "PRAGMA freelist_count",
    "PRAGMA table_info(unnumbered)",
    "PRAGMA foreign_key_check",
    "PRAGMA index_list(unnumbered)",
    "SELECT count(*) FROM sqlite_schema",
    "SELECT name FROM sqlite_master ORDER BY name",
    "SELECT * FROM dbstat",
    "SELECT value, (SELECT count(*) FROM things) FROM json_each('[1, 2]')",
]

WRITES: list[str | Callable[[Database], Awaitable[object]]] = [
    "INSERT INTO things (name) VALUES ('three')",
    "INSERT INTO door VALUES ('four')",
    "INSERT INTO numbered (x) VALUES (1)",
    "INSERT INTO numbered (id, x) VALUES (100, 1)",
    "DELETE FROM numbered",
    "DELETE FROM sqlite_sequence",
    "UPDATE OR REPLACE parents SET name = 'third' WHERE id = 1",
    "UPDATE parents SET id = 20 WHERE id = 1",
    "REPLACE INTO parents VALUES (2, 'other')",
    "INSERT INTO parents VALUES (3, 'third') ON CONFLICT (name) DO UPDATE SET id = 3",
    "INSERT INTO cascading VALUES (3)",
    "UPDATE parents SET id = 30 WHERE id = 3",
    "DELETE FROM parents WHERE id > 1",
    "INSERT INTO replacing VALUES (1, 2)",
    "REPLACE INTO without_rowid VALUES (1, 2)",
    "INSERT INTO without_rowid VALUES (1, 3) ON CONFLICT DO UPDATE SET y = excluded.y",
    "DELETE FROM unnumbered WHERE x = 2",
    "INSERT INTO words VALUES ('another word')",
    "INSERT INTO words (text) SELECT 'a third word'",
    "INSERT INTO words (words) VALUES ('optimize')",
    "UPDATE words SET text = text || ' more'",
    "UPDATE content SET text = 'other entry'",
    "INSERT INTO outside (outside) VALUES ('rebuild')",
    "INSERT INTO older VALUES ('a word')",
    "INSERT INTO older VALUES ('more words')",
    "DELETE FROM older",
    "INSERT INTO boxes VALUES (2, 1, 2)",
    "UPDATE boxes SET low = 0.5 WHERE id = 2",
    "DELETE FROM words",
    "PRAGMA user_version = 7",
    "PRAGMA application_id = 7",
    "CREATE TABLE later (x)",
    "INSERT INTO later VALUES (1)",
    "ALTER TABLE unnumbered ADD COLUMN y",
    "ALTER TABLE unnumbered RENAME COLUMN y TO z",
    "CREATE INDEX index_later ON unnumbered (x)",
    "ANALYZE unnumbered",
    "DROP INDEX index_later",
    "DROP TABLE later",
    "DELETE FROM sqlite_stat1",
    "ANALYZE",
    "REINDEX",
    lambda db: db.execute_many(
        Query("many", "INSERT INTO things (name) VALUES (:name)"),
        [{"name": f"name {number}"} for number in range(100)],
    ),
    "DELETE FROM things WHERE id > 2",
    "DELETE FROM things",
    "DELETE FROM unnumbered WHERE rowid = 1",
    lambda db: vacuum(db, make_incremental=True),
    lambda db: _fill_and_empty(db),
    lambda db: vacuum_step_by_step(db),
    lambda db: analyze(db),
    lambda db: optimize(db),
    lambda db: reindex(db),
    lambda db: _in_barrier(db, "INSERT INTO journal VALUES ('of a migration')"),
    lambda db: db.write(lambda cx: cx.execute(Query("j", "INSERT INTO journal VALUES (1)")())),
]


async def _fill_and_empty(db: Database) -> None:
    blob = "INSERT INTO journal SELECT zeroblob(9000) FROM json_each('[1, 2, 3, 4]')"
    await db.execute(Query("fill", blob)())
    await db.execute(Query("empty", "DELETE FROM journal")())


async def _in_barrier(db: Database, sql: str) -> None:
    async with db.barrier() as loan:
        await loan.run(lambda session: session.run_sql(sql, doing="a test"), Deadline())


@asynccontextmanager
async def everything(path: Path | str, **config: Any) -> AsyncIterator[Database]:
    """A database with a table of each kind."""
    settings = {"readers": 3, "watch_interval": None, "wal_limit": 0, **config}
    async with Database(path, config=Config(**settings)) as db:
        for number, sql in enumerate(SCHEMA.splitlines()):
            await db.execute(Query(f"schema {number}", sql)())
        yield db


@asynccontextmanager
async def ending(db: Database) -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that watch, until the end of the block."""
    async with asyncio.TaskGroup() as group:
        try:
            yield group
        finally:
            db.end_watches()


class TestWhatIsSeen:
    """Whatever a commit changes, whoever watches it is told."""

    @pytest.mark.parametrize("memory", [False, True], ids=["file", "memory"])
    async def test_every_table_after_every_write(self, path: Path, memory: bool) -> None:
        """Each table, the hidden ones too, and each other thing that may change is watched; after
        each write all that has changed has been told, and nothing else."""
        told: dict[str, list[Any]] = {}
        news: list[str] = []

        async def look(db: Database, sql: str) -> None:
            async for rows in db.watch(Query(sql, sql)()):
                told[sql] = rows
                news.append(sql)

        # One reader, for what a virtual table has prepared there it prepares for no other text.
        async with (
            everything(":memory:" if memory else path, readers=1) as db,
            ending(db) as group,
        ):
            names = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
            tables = await db.fetch_all(Query("tables", names, str)())
            assert {"sqlite_sequence", "words_data", "boxes_node"} <= {*tables}
            watched = [*ALSO_WATCHED, *(f'SELECT * FROM "{table}"' for table in tables)]
            for sql in watched:
                group.create_task(look(db, sql))
            await until(lambda: len(told) == len(watched))

            async def rows_now() -> dict[str, list[Any]]:
                return {sql: await db.fetch_all(Query(sql, sql)()) for sql in watched}

            before = await rows_now()
            for write in WRITES:
                news.clear()
                if isinstance(write, str):
                    await db.execute(Query(write, write)())
                else:
                    await write(db)
                after = await rows_now()
                try:
                    await until(lambda after=after: repr(told) == repr({s: after[s] for s in told}))
                except AssertionError:
                    missed = [sql for sql in watched if repr(told[sql]) != repr(after[sql])]
                    raise AssertionError(f"{write}: {missed} not told") from None
                # (A column with another name is other rows, to some row types.)
                if isinstance(write, str) and not write.startswith("ALTER"):
                    changed = {sql for sql in watched if repr(before[sql]) != repr(after[sql])}
                    assert {*news} == changed, write
                before = after

    @pytest.mark.parametrize("watched", ["SELECT x FROM also", "SELECT count(*) FROM also"])
    async def test_a_table_of_a_statement_that_was_forgotten(
        self, path: Path, watched: str
    ) -> None:
        """What a virtual table asks for while a statement runs that is prepared already is not all
        that this statement does."""
        async with everything(path, statement_cache=5000) as db:
            await db.execute(Query("also", "CREATE TABLE also (x)")())
            await db.execute(
                Query(
                    "trigger",
                    "CREATE TRIGGER sometimes AFTER INSERT ON journal BEGIN"
                    " INSERT INTO also VALUES (new.entry);"
                    " INSERT INTO words SELECT new.entry WHERE new.entry <> 'not this'; END",
                )()
            )
            add = Query("journal.add", "INSERT INTO journal VALUES (:entry)")
            await db.execute(add(entry="not this"))

            def others(cx: Any) -> None:
                for number in range(1100):
                    cx.execute(Query("other", f"UPDATE unnumbered SET x = {number}")())

            async with db.watch(Query("also", watched)()) as states:
                await asyncio.wait_for(anext(states), SOON)
                await db.write(others)
                for entry in "abc":
                    await db.execute(add(entry=entry))
                    after = await db.fetch_all(Query("also", watched)())
                    async with asyncio.timeout(SOON):
                        async for rows in states:
                            if rows == after:
                                break

    async def test_a_table_that_a_forgotten_statement_reads(self, path: Path) -> None:
        """On the reader: an external content table is read when there is a match, and not before;
        by then the text was forgotten, and still was prepared."""
        async with everything(path, statement_cache=5000, readers=1) as db:
            sql = "SELECT text, (SELECT count(*) FROM journal) FROM outside WHERE outside MATCH :x"
            search = Query("search", sql)
            assert await db.fetch_all(search(x="none")) == []

            def others(cx: Any) -> None:
                for number in range(1100):
                    cx.fetch_all(Query("other", f"SELECT x + {number} FROM unnumbered")())

            await db.read(others)
            async with db.watch(search(x="entry")) as states:
                assert await asyncio.wait_for(anext(states), SOON) == [("an entry", 0)]
                await db.execute(Query("journal", "INSERT INTO journal VALUES (1)")())
                assert await asyncio.wait_for(anext(states), SOON) == [("an entry", 1)]

    async def test_what_is_written_elsewhere_is_not_run_again_for(self, path: Path) -> None:
        """Only where it can't be known what a statement depends on, any commit counts."""
        async with everything(path):
            pass
        # Anew, for a virtual table introduces itself when a connection first meets it.
        async with Database(path, config=Config(watch_interval=None)) as db:
            sqls = [
                "SELECT name FROM things",
                "WITH x AS (SELECT 1) SELECT count(*) FROM x",
                "SELECT count(*) FROM door",
                "SELECT value FROM json_each('[1]')",
                "SELECT date('2026-11-27', '+1 day')",
            ]
            watches = [db.watch(Query(sql, sql)()) for sql in sqls]
            for watch in watches:
                await asyncio.wait_for(anext(watch), SOON)
            last = db.watch(Query("last", "SELECT x FROM unnumbered")())
            await asyncio.wait_for(anext(last), SOON)
            for sql in "DELETE FROM unnumbered", "INSERT INTO words VALUES ('x')":
                await db.execute(Query(sql, sql)())
            await asyncio.wait_for(anext(last), SOON)
            assert [db.stats()["queries"][sql]["count"] for sql in sqls] == [1] * len(sqls)


class TestWhatIsRefused:
    """What changes without a commit to be seen can't be watched; the error says what to do."""

    @pytest.mark.parametrize(
        ("sql", "instead"),
        [
            ("SELECT random()", "parameter"),
            ("SELECT hex(RANDOMBLOB(4))", "parameter"),
            ("SELECT name FROM things ORDER BY random()", "parameter"),
            ("SELECT CURRENT_TIMESTAMP", "time"),
            ("SELECT name FROM things WHERE name < current_date", "time"),
            ("SELECT date('now')", "time"),
            ("SELECT date( /* here */ 'NOW' , '-1 day')", "time"),
            ('SELECT "date"("now")', "time"),
            ("SELECT datetime()", "time"),
            ("SELECT julianday ( )", "time"),
            ("SELECT strftime('%s')", "time"),
            ("SELECT strftime('%Y', 'now')", "time"),
            ("SELECT unixepoch('now')", "time"),
            ("SELECT time(coalesce(NULL, 'now'))", "time"),
            ("SELECT 1 FROM things WHERE name > datetime('now', '-1 day')", "time"),
            ("SELECT name FROM recent", "time"),
            ("SELECT 1 FROM recent", "time"),
            ("SELECT one FROM hidden", "time"),
            ("SELECT count(*) FROM behind", "time"),
            ("SELECT x FROM lots", "parameter"),
            ("PRAGMA cache_size", "fetch_one"),
            ("SELECT count(*) FROM pragma_foreign_keys", "fetch_one"),
            ("EXPLAIN SELECT name FROM things", "fetch_all"),
            ("EXPLAIN QUERY PLAN SELECT name FROM things", "fetch_all"),
        ],
    )
    async def test_when_the_watch_begins(self, path: Path, sql: str, instead: str) -> None:
        async with everything(path) as db:
            for view in (
                "recent AS SELECT name FROM things WHERE name < datetime('now')",
                "hidden AS WITH x AS (SELECT 1 AS one, date('now')) SELECT one FROM x",
                "behind AS SELECT 1 FROM hidden",
                "lots AS SELECT random() AS x",
            ):
                await db.execute(Query("view", f"CREATE VIEW {view}")())
            with pytest.raises(QueryError, match=instead) as raised:
                async with db.watch(Query("asked", sql)()) as states:
                    await asyncio.wait_for(anext(states), SOON)
            assert "query 'asked' can't be watched" in str(raised.value)
            assert not db._watching._lives

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT changes()",
            "SELECT total_changes() FROM things",
            "SELECT last_insert_rowid()",
            "PRAGMA data_version",
            "SELECT data_version FROM pragma_data_version",
            "SELECT count(*) FROM sqlite_stmt",
        ],
    )
    async def test_what_no_reader_may_ask(self, path: Path, sql: str) -> None:
        """As in every other read: it belongs to one connection."""
        async with everything(path) as db:
            with pytest.raises(DeniedError, match=r"; (use|run it) "):
                async with db.watch(Query("asked", sql)()) as states:
                    await asyncio.wait_for(anext(states), SOON)
            assert not db._watching._lives

    @pytest.mark.parametrize("memory", [False, True], ids=["file", "memory"])
    async def test_also_a_parameter_that_means_now(self, path: Path, memory: bool) -> None:
        async with everything(":memory:" if memory else path) as db:
            query = Query("since", "SELECT :name, date(:at)")
            with pytest.raises(QueryError, match="time"):
                await anext(db.watch(query(name="x", at="now")))
            assert await anext(db.watch(query(name="now", at="2026-01-01"))) == [
                ("now", "2026-01-01")
            ]

    async def test_a_view_that_is_made_to_depend_on_the_time(self, path: Path) -> None:
        async with everything(path) as db, db.watch(Query("d", "SELECT name FROM door")()) as door:
            await asyncio.wait_for(anext(door), SOON)
            async with db.transaction() as tx:
                await tx.execute(Query("drop", "DROP VIEW door")())
                await tx.execute(Query("c", "CREATE VIEW door AS SELECT date('now') AS name")())
            with pytest.raises(QueryError, match="time"):
                await asyncio.wait_for(anext(door), SOON)

    @pytest.mark.parametrize("sure", [False, True])
    async def test_a_function_of_the_application_that_may_change(
        self, path: Path, sure: bool
    ) -> None:
        def connect(*args: Any, factory: Any, **kwargs: Any) -> aiosqlite.Connection:
            class Own(factory):  # type: ignore[misc]
                def __init__(self, *args: Any, **kwargs: Any) -> None:
                    super().__init__(*args, **kwargs)
                    self.create_function("own", 0, lambda: 1, deterministic=sure)

            return aiosqlite.connect(*args, factory=Own, **kwargs)

        async with Database(path, connect=connect) as db:
            watch = db.watch(Query("own", "SELECT Own()", int)())
            if sure:
                assert await asyncio.wait_for(anext(watch), SOON) == [1]
            else:
                with pytest.raises(QueryError, match="deterministic"):
                    await asyncio.wait_for(anext(watch), SOON)

    async def test_whatever_else_looks_like_it(self, path: Path) -> None:
        """Names and texts that are no calls, and times that are given."""
        async with everything(path) as db:
            await db.execute(Query("t", "CREATE TABLE dbstat (date, random, now)")())
            await db.execute(Query("a", "INSERT INTO dbstat VALUES ('now', 1, 'now')")())
            for number, sql in enumerate(
                [
                    "SELECT date, random, now FROM dbstat",
                    "SELECT 'date(''now'')' FROM dbstat",
                    "SELECT date('2026-01-01') FROM dbstat -- date('now')",
                    "SELECT strftime('%s', '2026-01-01')",
                    "SELECT 'now', date('2026-01-01')",
                    "SELECT date(now, '+1 day') FROM (SELECT '2026-01-01' AS now)",
                ]
            ):
                watch = db.watch(Query(f"query {number}", sql)())
                assert len(await asyncio.wait_for(anext(watch), SOON)) == 1


def test_what_sqlite_calls_deterministic_is_told_by_its_flag() -> None:
    """`watchable` reads SQLITE_DETERMINISTIC from `pragma_function_list`."""
    connection = sqlite3.connect(":memory:")
    connection.create_function("sure", 0, lambda: 1, deterministic=True)
    connection.create_function("unsure", 0, lambda: 1)
    rows = connection.execute(
        "SELECT name, flags & 0x800 FROM pragma_function_list WHERE name LIKE '%sure'"
    )
    assert dict(rows) == {"sure": 0x800, "unsure": 0}
    connection.close()
