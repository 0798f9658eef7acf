"""The verbs where they meet SQLite: results, all or nothing, refusals, rows, time limits."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    ADD_ENDLESSLY,
    COUNT,
    ENDLESS,
    NAMES,
    NUMBERS,
    SOON,
    Driver,
    items,
    passing,
)

from abt_db import (
    AbtDbError,
    Config,
    Database,
    DeniedError,
    IntegrityError,
    Json,
    MappingError,
    ParameterError,
    Query,
    QueryError,
    ReadOnlyError,
    Result,
    Session,
    StatementError,
    StatementTimeoutError,
    TransactionAbortedError,
)

ONE = Query("one", "SELECT 1", int)
NUMBERS_SUMMED = Query(
    "numbers.sum", NUMBERS.sql.replace("SELECT x FROM", "SELECT sum(x) FROM"), int
)
TWICE_A = [{"name": "x"}, {"name": "a"}, {"name": "y"}]


@dataclass(frozen=True, slots=True)
class Item:
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Log:
    at: datetime
    tags: list[str]
    note: str | None = None


ALL = Query("items.all", "SELECT * FROM items ORDER BY id", Item)
INSERT = Query("items.insert", "INSERT INTO items VALUES (:id, :name)")
UPSERT = Query(
    "items.upsert",
    "INSERT INTO items (id, name) VALUES (:id, :name)"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id, name",
    Item,
)


async def names(db: Database) -> list[str]:
    return await db.fetch_all(NAMES())


def elsewhere(path: Path, *statements: str) -> None:
    """Run statements through a connection of another program."""
    raw = sqlite3.connect(path, isolation_level=None)
    for sql in statements:
        raw.execute(sql)
    raw.close()


class TestRows:
    """A row becomes what its query declares, whichever verb reads it."""

    @pytest.mark.parametrize(
        ("sql", "row", "expected"),
        [
            ("SELECT 1, 'a'", tuple, (1, "a")),
            ("SELECT 1 AS id, 'a' AS name", dict, {"id": 1, "name": "a"}),
            ("SELECT 'a' AS name, 1 AS id", Item, Item(1, "a")),
            ("SELECT 7", int, 7),
            ("SELECT NULL", int, None),
            ("SELECT 1", bool, True),
            ("SELECT '[1, 2]'", list[int], [1, 2]),
            ("SELECT '2025-03-01 12:00:00'", datetime, datetime(2025, 3, 1, 12, tzinfo=UTC)),
            (
                """SELECT '["a"]' AS tags, '2025-03-01' AS at""",
                Log,
                Log(datetime(2025, 3, 1, tzinfo=UTC), ["a"]),
            ),
            ("SELECT x'00ff'", bytes, b"\0\xff"),
            ("SELECT 'a' || char(0) || 'b'", str, "a\0b"),  # fault 32
        ],
    )
    async def test_of_every_kind(self, path: Path, sql: str, row: Any, expected: object) -> None:
        query = Query("q", sql, row)
        async with Database(path) as db:
            assert await db.fetch_one(query()) == expected
            assert await db.fetch_all(query()) == [expected]
            assert await db.read(lambda cx: list(cx.stream(query()))) == [expected]
            async with db.stream(query()) as stream:
                assert [found async for found in stream] == [expected]

    async def test_the_first_of_many_and_none_of_none(self, path: Path) -> None:
        async with items(path, "a", "b", "c") as db:
            assert await db.fetch_one(ALL()) == Item(1, "a")
            assert (
                await db.fetch_one(Query("q", "SELECT * FROM items WHERE id > 9", Item)()) is None
            )
            assert await db.fetch_all(Query("q", "SELECT * FROM items WHERE id > 9", Item)()) == []

    async def test_the_first_of_many_leaves_nothing_open(self, path: Path) -> None:
        async with items(path, *"abc", readers=1) as db:
            await db.fetch_one(ALL())
            raw = sqlite3.connect(path)
            # A reader that is still reading would keep the log from being emptied.
            assert raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
            raw.close()

    async def test_fetch_one_of_a_write_that_returns_does_all_of_it(self, path: Path) -> None:
        rename = Query("q", "UPDATE items SET name = name || id RETURNING id, name", Item)
        async with items(path, *"abc") as db:
            assert await db.fetch_one(rename()) == Item(1, "a1")
            assert await names(db) == ["a1", "b2", "c3"]
            assert await db.fetch_one(UPSERT(id=2, name="new")) == Item(2, "new")
            assert await db.fetch_one(UPSERT(id=4, name="d")) == Item(4, "d")
            assert await names(db) == ["a1", "new", "c3", "d"]

    async def test_fetch_one_of_a_write_that_returns_checks_all_of_it(self, path: Path) -> None:
        children = Query("children", "CREATE TABLE children (item NOT NULL REFERENCES items)")
        orphans = Query("q", "INSERT INTO children VALUES (1), (98), (99) RETURNING item", int)
        async with items(path, "a") as db:
            await db.execute(children())
            with pytest.raises(IntegrityError):
                await db.fetch_one(orphans())
            assert await db.fetch_all(Query("q", "SELECT item FROM children")()) == []

    async def test_columns_are_checked_without_a_row(self, path: Path) -> None:
        """fault 35"""
        query = Query("q", "SELECT id FROM items", Item)
        async with items(path) as db:
            for read in (
                lambda cx: cx.fetch_one(query()),
                lambda cx: cx.fetch_all(query()),
                lambda cx: list(cx.stream(query())),
            ):
                with pytest.raises(MappingError, match=r"query 'q': Item: no column for.*'name'"):
                    await db.read(read)

    async def test_a_write_whose_rows_do_not_fit_is_undone(self, path: Path) -> None:
        query = Query("q", "INSERT INTO items (name) VALUES ('a') RETURNING id", Item)
        async with items(path) as db:
            for fetch in (db.fetch_one, db.fetch_all):
                with pytest.raises(MappingError):
                    await fetch(query())
            assert await db.fetch_one(COUNT()) == 0

    async def test_a_value_that_does_not_fit(self, path: Path) -> None:
        """fault 34"""
        query = Query("q", "SELECT '[' AS tags, '2025' AS at UNION SELECT '[]', '2025-03-01'", Log)
        async with Database(path, config=Config(readers=1)) as db:
            with pytest.raises(MappingError, match=r"query 'q': Log\.\w+ is not"):
                await db.fetch_all(query())
            assert await db.fetch_one(ONE()) == 1

    @pytest.mark.parametrize("size", [0, -1])
    async def test_a_stream_reads_at_least_one_row_at_a_time(self, path: Path, size: int) -> None:
        """`fetchmany(0)` would read all of them: memory would not stay bounded."""
        async with items(path, *"abc") as db:
            with pytest.raises(ValueError, match="size"):
                await db.read(lambda cx: list(cx.stream(ALL(), size=size)))
            with pytest.raises(ValueError, match="size"):
                async with db.stream(ALL(), size=size) as rows:
                    [row async for row in rows]


class TestHalfRead:
    """A list that could not be mapped is let go of: nothing later sees the database as it was
    then, and no checkpoint waits for it (invariant 20)."""

    @dataclass(frozen=True, slots=True)
    class Refusing:
        name: str

        def __post_init__(self) -> None:
            if self.name == "500":
                raise KeyboardInterrupt

    @pytest.mark.parametrize(
        ("row", "error"),
        [(datetime, MappingError), (Item, MappingError), (Refusing, KeyboardInterrupt)],
    )
    @pytest.mark.parametrize("look", ["read", "snapshot", "stream", "checkpoint"])
    async def test_what_comes_next_sees_what_is_there(
        self, path: Path, row: Any, error: type[BaseException], look: str
    ) -> None:
        many = Query("names.many", "SELECT name FROM items ORDER BY id", row)
        async with items(path, *map(str, range(1_000)), readers=1) as db:
            with pytest.raises(error):
                await db.fetch_all(many())
            await db.execute(ADD(name="new"))
            match look:
                case "read":
                    assert await db.read(lambda cx: cx.fetch_one(COUNT())) == 1_001
                case "snapshot":
                    async with db.snapshot() as snapshot:
                        assert await snapshot.fetch_one(COUNT()) == 1_001
                case "stream":
                    async with db.stream(NAMES()) as rows:
                        assert len([name async for name in rows]) == 1_001
                case "checkpoint":
                    assert not (await db.checkpoint("truncate")).busy


class TestUndecodable:
    """Text that is not UTF-8 is an error that names its column; the connection works on
    (fault 33)."""

    @staticmethod
    async def spoil(db: Database) -> None:
        await db.execute(
            Query("spoil", "UPDATE items SET name = CAST(x'61ff62' AS TEXT) WHERE name = 'b'")()
        )

    @pytest.mark.parametrize("row", [tuple, dict, Item])
    async def test_is_told_with_its_column(self, path: Path, row: Any) -> None:
        query = Query("q", "SELECT id, name FROM items ORDER BY id", row)
        async with items(path, *"abc", readers=1) as db:
            await self.spoil(db)
            for read in (
                lambda cx: cx.fetch_all(query()),
                lambda cx: cx.fetch_one(Query("q", "SELECT name FROM items WHERE id = 2")()),
                lambda cx: list(cx.stream(query(), size=1)),
                lambda cx: list(cx.stream(query())),
            ):
                with pytest.raises(MappingError, match=r"query 'q'.*'name'.*UTF-8"):
                    await db.read(read)
                assert await db.fetch_one(ONE()) == 1

    async def test_in_a_write_that_returns_it_undoes_the_write(self, path: Path) -> None:
        returning = Query("q", "UPDATE items SET id = id + 10 RETURNING name", str)
        async with items(path, *"abc") as db:
            await self.spoil(db)
            for run in (db.fetch_all, db.execute):
                with pytest.raises(MappingError, match="'name'"):
                    await run(returning())
            assert await db.fetch_one(Query("max", "SELECT max(id) FROM items", int)()) == 3

    async def test_can_be_read_as_bytes(self, path: Path) -> None:
        async with items(path, *"abc") as db:
            await self.spoil(db)
            query = Query("q", "SELECT CAST(name AS BLOB) FROM items WHERE id = 2", bytes)
            assert await db.fetch_one(query()) == b"a\xffb"


class TestChangedSchema:
    """Another process may change a table under a prepared statement: the next call sees the new
    columns, and says so if they no longer fit."""

    STAR = Query("star", "SELECT * FROM items ORDER BY id", Item)

    async def test_a_new_column_fits_no_field(self, path: Path) -> None:
        async with items(path, "a", readers=1) as db:
            assert await db.fetch_all(self.STAR()) == [Item(1, "a")]
            elsewhere(path, "ALTER TABLE items ADD COLUMN colour TEXT DEFAULT 'red'")
            for fetch in (db.fetch_one, db.fetch_all):
                with pytest.raises(MappingError, match=r"'star': Item: no field for.*'colour'"):
                    await fetch(self.STAR())
            assert await names(db) == ["a"]
            elsewhere(path, "ALTER TABLE items DROP COLUMN colour")
            assert await db.fetch_all(self.STAR()) == [Item(1, "a")]

    @pytest.mark.parametrize("row", [Item, dict, tuple])
    async def test_another_order_of_columns(self, path: Path, row: Any) -> None:
        star = Query("star", "SELECT * FROM items", row)
        expected = {Item: Item(1, "a"), dict: {"name": "a", "id": 1}, tuple: ("a", 1)}[row]
        async with items(path, "a", readers=1) as db:
            await db.fetch_all(star())
            elsewhere(
                path,
                "CREATE TABLE turned (name TEXT, id INTEGER PRIMARY KEY)",
                "INSERT INTO turned (id, name) SELECT id, name FROM items",
                "DROP TABLE items",
                "ALTER TABLE turned RENAME TO items",
            )
            assert await db.fetch_one(star()) == expected
            assert await db.fetch_all(star()) == [expected]
            assert await db.read(lambda cx: list(cx.stream(star(), size=1))) == [expected]

    async def test_a_table_that_has_gone(self, path: Path) -> None:
        async with items(path, "a", readers=1) as db:
            await names(db)
            elsewhere(path, "DROP TABLE items")
            with pytest.raises(StatementError, match="no such table: items"):
                await names(db)
            with pytest.raises(StatementError, match="no such table: items"):
                await db.execute(ADD(name="b"))
            assert await db.fetch_one(ONE()) == 1


class TestResult:
    """`rowcount` is the number of rows that a statement changed, `lastrowid` the row that an INSERT
    added."""

    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("INSERT INTO items (name) VALUES ('x')", Result(1, 4)),
            ("INSERT INTO items VALUES (77, 'x')", Result(1, 77)),
            ("INSERT INTO items (name) VALUES ('x'), ('y')", Result(2, 5)),
            ("INSERT INTO items (name) SELECT name || 'x' FROM items", Result(3, 6)),
            ("INSERT INTO items (name) SELECT name FROM items WHERE id > 99", Result(0, None)),
            ("INSERT OR IGNORE INTO items (name) VALUES ('a')", Result(0, None)),
            ("INSERT INTO items (name) VALUES ('a') ON CONFLICT DO NOTHING", Result(0, None)),
            ("INSERT INTO items (name) VALUES ('x') RETURNING id, name", Result(1, 4)),
            ("INSERT INTO items (name) VALUES ('x'), ('y') RETURNING id", Result(2, 5)),
            ("-- adds\ninsert into items (name) values ('x')", Result(1, 4)),
            ("; INSERT INTO items (name) VALUES ('x')", Result(1, 4)),
            ("WITH n(x) AS (SELECT 'x') INSERT INTO items (name) SELECT x FROM n", Result(1, 4)),
            ("REPLACE INTO items VALUES (2, 'x')", Result(1, 2)),
            ("REPLACE INTO items VALUES (9, 'a')", Result(1, 9)),
            ("INSERT OR REPLACE INTO items VALUES (9, 'a')", Result(1, 9)),
            ("UPDATE items SET name = name || 'x'", Result(3, None)),
            ("UPDATE items SET name = name || 'x' RETURNING name", Result(3, None)),
            ("UPDATE items SET name = 'x' WHERE id = 99", Result(0, None)),
            (
                "WITH n AS (SELECT 2 AS id) UPDATE items SET name = 'x' WHERE id IN n",
                Result(1, None),
            ),
            ("DELETE FROM items", Result(3, None)),
            ("DELETE FROM items WHERE id > 1 RETURNING id", Result(2, None)),
            ("WITH n AS (SELECT 2) DELETE FROM items WHERE id IN n", Result(1, None)),
            ("CREATE TABLE more (id)", Result(-1, None)),
            ("CREATE TABLE more AS SELECT * FROM items", Result(-1, None)),
            ("DROP TABLE items", Result(-1, None)),
            ("PRAGMA user_version = 3", Result(-1, None)),
        ],
    )
    async def test_of_every_kind(self, path: Path, sql: str, expected: Result) -> None:
        async with items(path, "a", "b", "c") as db:
            assert await db.execute(Query("q", sql)()) == expected

    async def test_an_upsert_counts_the_row_that_it_updates(self, path: Path) -> None:
        async with items(path, "a", "b") as db:
            assert (await db.execute(UPSERT(id=1, name="x"))).rowcount == 1
            assert await db.execute(UPSERT(id=9, name="y")) == Result(1, 9)

    async def test_rows_that_triggers_and_cascades_change_do_not_count(self, path: Path) -> None:
        children = "CREATE TABLE children (item REFERENCES items ON DELETE CASCADE)"
        trigger = (
            "CREATE TRIGGER bear AFTER INSERT ON items BEGIN"
            " INSERT INTO children (rowid, item) VALUES (51, new.id), (52, new.id); END"
        )
        async with items(path, "a") as db:
            elsewhere(path, children, trigger)
            assert await db.execute(ADD(name="b")) == Result(1, 2)
            assert await db.execute(Query("q", "DELETE FROM items")()) == Result(2, None)

    @pytest.mark.parametrize(
        "sql", ["SELECT 1", "VALUES (1)", "PRAGMA user_version", "EXPLAIN SELECT 1"]
    )
    async def test_a_read_is_not_executed(self, path: Path, sql: str) -> None:
        query = Query("reads", sql)
        async with items(path, "a") as db:
            for write in (
                lambda: db.execute(query()),
                lambda: db.execute_many(query, [{}]),
                lambda: db.execute_batch([ADD(name="x"), query()]),
            ):
                with pytest.raises(QueryError, match="'reads' only reads"):
                    await write()
            assert await names(db) == ["a"]


class TestMany:
    """`execute_many` writes all of its rows or none, whatever stops it."""

    @staticmethod
    def generated(rows: list[Any], error: BaseException | None = None) -> Iterator[Any]:
        yield from rows
        if error is not None:
            raise error

    @pytest.mark.parametrize(
        "rows",
        [
            [{"id": 5, "name": "x"}, {"id": 6, "name": "y"}],
            (Item(5, "x"), Item(6, "y")),
            [Item(5, "x"), {"name": "y", "id": 6}],
        ],
    )
    async def test_of_mappings_dataclasses_and_generators(self, path: Path, rows: Any) -> None:
        async with items(path) as db:
            assert await db.execute_many(INSERT, rows) == 2
            await db.execute(Query("clear", "DELETE FROM items")())
            assert await db.execute_many(INSERT, self.generated(list(rows))) == 2
            assert await db.fetch_all(ALL()) == [Item(5, "x"), Item(6, "y")]

    async def test_of_no_rows(self, path: Path) -> None:
        async with items(path, "a") as db:
            assert await db.execute_many(ADD, []) == 0
            assert await db.execute_many(ADD, iter(())) == 0
            assert await names(db) == ["a"]

    @pytest.mark.parametrize(
        ("sql", "changed"),
        [
            ("UPDATE items SET name = name || :name WHERE id < 3", 4),
            ("DELETE FROM items WHERE name = :name", 1),
            ("INSERT OR IGNORE INTO items (name) VALUES (:name)", 1),
            ("WITH n AS (SELECT 1) UPDATE items SET name = name || :name WHERE id < 3", 4),
            ("-- all\nUPDATE items SET name = name || :name WHERE id < 3", 4),
        ],
    )
    async def test_returns_how_many_rows_changed(self, path: Path, sql: str, changed: int) -> None:
        async with items(path, "a", "b", "c") as db:
            many = Query("q", sql)
            assert await db.execute_many(many, [{"name": "a"}, {"name": "z"}]) == changed

    @pytest.mark.parametrize("bad", [{}, {"nam": "b"}, {"name": object()}, ("b",), "b", None, 7])
    async def test_nothing_is_written_when_a_row_can_not_be_bound(
        self, path: Path, bad: object
    ) -> None:
        async with items(path, "a") as db:
            with pytest.raises(ParameterError, match=r"items\.add"):
                await db.execute_many(ADD, [{"name": "x"}, bad, {"name": "y"}])
            assert await names(db) == ["a"]

    async def test_nothing_is_written_when_a_row_is_refused(self, path: Path) -> None:
        async with items(path, "a") as db:
            with pytest.raises(IntegrityError) as caught:
                await db.execute_many(ADD, TWICE_A)
            assert caught.value.query == "items.add"
            assert await names(db) == ["a"]

    @pytest.mark.parametrize("error", [KeyError("k"), RuntimeError("r"), MemoryError()])
    async def test_nothing_is_written_when_the_rows_end_in_an_error(
        self, path: Path, error: Exception
    ) -> None:
        async with items(path, "a") as db:
            rows = self.generated([{"name": "x"}] * 1, error)
            with pytest.raises(type(error)) as caught:
                await db.execute_many(ADD, rows)
            assert caught.value is error
            assert await names(db) == ["a"]

    async def test_an_endless_source_is_stopped_at_the_time_limit(self, path: Path) -> None:
        def endless() -> Iterator[dict[str, str]]:
            number = 0
            while True:
                number += 1
                yield {"name": str(number)}

        async with items(path, "a") as db:
            with pytest.raises(StatementTimeoutError, match=r"items\.add"):
                await db.execute_many(ADD, endless(), timeout=0.05)
            assert await names(db) == ["a"]

    async def test_rows_may_come_from_the_same_transaction(self, path: Path) -> None:
        def copy(cx: Session) -> int:
            rows = ({"name": name * 2} for name in cx.stream(NAMES(), size=1))
            return cx.execute_many(ADD, iter(list(rows)))

        async with items(path, "a", "b") as db:
            assert await db.write(copy) == 2
            assert await names(db) == ["a", "b", "aa", "bb"]

    async def test_inside_a_function_only_the_rows_are_undone(self, path: Path) -> None:
        def work(cx: Session) -> None:
            cx.execute(ADD(name="before"))
            with pytest.raises(IntegrityError):
                cx.execute_many(ADD, TWICE_A)
            with pytest.raises(IntegrityError):
                cx.execute_batch([ADD(name="z"), ADD(name="a")])
            cx.execute(ADD(name="after"))

        async with items(path, "a") as db:
            await db.write(work)
            assert await names(db) == ["a", "before", "after"]


class TestBatch:
    """`execute_batch` does all of its statements or none."""

    async def test_of_several(self, path: Path) -> None:
        async with items(path, "a") as db:
            assert await db.execute_batch(
                [ADD(name="b"), Query("q", "UPDATE items SET name = name || 'x'")(), ADD(name="c")]
            ) == [Result(1, 2), Result(2, None), Result(1, 3)]
            assert await names(db) == ["ax", "bx", "c"]

    async def test_of_none(self, path: Path) -> None:
        async with items(path, "a") as db:
            assert await db.execute_batch([]) == []

    async def test_of_a_generator_of_statements(self, path: Path) -> None:
        async with items(path) as db:
            await db.execute_batch(ADD(name=name) for name in "ab")
            await db.write(lambda cx: cx.execute_batch(ADD(name=name) for name in "cd"))
            assert await names(db) == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        "culprit",
        [ADD(name="a"), Query("q", "SELECT missing")(), Query("q", "DELETE FROM missing")()],
    )
    async def test_nothing_is_written_when_one_fails(self, path: Path, culprit: Any) -> None:
        async with items(path, "a") as db:
            with pytest.raises(QueryError):
                await db.execute_batch([ADD(name="b"), culprit, ADD(name="c")])
            assert await names(db) == ["a"]


class TestAtomic:
    """A block inside a function's transaction: what it did is undone if it fails."""

    async def test_blocks_can_be_nested(self, path: Path) -> None:
        def work(cx: Session) -> None:
            with cx.atomic():
                cx.execute(ADD(name="outer"))
                with suppress(KeyError), cx.atomic():
                    cx.execute(ADD(name="lost"))
                    with cx.atomic():
                        cx.execute(ADD(name="lost too"))
                    raise KeyError
                with cx.atomic():
                    cx.execute(ADD(name="inner"))
            with suppress(KeyError), cx.atomic():
                with cx.atomic():
                    cx.execute(ADD(name="lost again"))
                raise KeyError
            cx.execute(ADD(name="last"))

        async with items(path) as db:
            await db.write(work)
            assert await names(db) == ["outer", "inner", "last"]

    async def test_it_is_not_a_transaction_of_its_own(self, path: Path) -> None:
        def work(cx: Session) -> None:
            with cx.atomic():
                cx.execute(ADD(name="lost"))
            raise KeyError

        async with items(path) as db:
            with pytest.raises(KeyError):
                await db.write(work)
            assert await names(db) == []

    @pytest.mark.parametrize(
        "go_on",
        [
            lambda cx: cx.execute(ADD(name="late")),
            lambda cx: cx.fetch_all(Query("q", ADD.sql + " RETURNING id")(name="late")),
            lambda cx: cx.execute_many(ADD, [{"name": "late"}]),
            lambda cx: cx.execute_batch([ADD(name="late")]),
        ],
        ids=["execute", "fetch_all", "execute_many", "execute_batch"],
    )
    async def test_nothing_is_written_after_sqlite_has_ended_the_transaction(
        self, path: Path, go_on: Callable[[Session], object]
    ) -> None:
        """Outside of it each statement would commit by itself, and the caller be told that nothing
        was written (faults 20, 21, 25)."""
        destroying = Query("q", "INSERT OR ROLLBACK INTO items (name) VALUES ('a')")

        def work(cx: Session) -> None:
            cx.execute(ADD(name="early"))
            with suppress(IntegrityError):
                cx.execute(destroying())
            go_on(cx)

        async with items(path, "a") as db:
            with pytest.raises(TransactionAbortedError):
                await db.write(work)
            assert await names(db) == ["a"]
            await db.execute(ADD(name="next"))

    async def test_a_write_that_returns_rows_may_be_left_half_read(self, path: Path) -> None:
        def first(cx: Session) -> int:
            three = "INSERT INTO items (name) VALUES ('x'), ('y'), ('z') RETURNING id"
            return next(cx.stream(Query("three", three, int)(), size=1))

        async with items(path) as db:
            assert await db.write(first) == 1
            assert await names(db) == ["x", "y", "z"]


class TestDenied:
    """What belongs to `Config`, to transactions or to nobody is refused with a reason, wherever it
    hides; what only looks is not."""

    @pytest.mark.parametrize(
        ("sql", "reason"),
        [
            ("PRAGMA journal_mode = delete", "journal_mode.*Config"),
            ("PRAGMA main.journal_mode(delete)", "journal_mode.*Config"),
            ("PRAGMA synchronous = off", "synchronous.*Config"),
            ("PRAGMA foreign_keys = 0", "foreign_keys.*Config"),
            ("PRAGMA foreign_keys(off)", "foreign_keys.*Config"),
            ("pragma Foreign_Keys=0", "foreign_keys.*Config"),
            ("PRAGMA query_only = 0", "query_only.*Config"),
            ("PRAGMA query_only(0)", "query_only.*Config"),
            ("PRAGMA writable_schema = 1", "writable_schema"),
            ("PRAGMA writable_schema(reset)", "writable_schema"),
            ("PRAGMA schema_version = 7", "schema_version"),
            ("PRAGMA trusted_schema = 1", "trusted_schema"),
            ("PRAGMA locking_mode = exclusive", "locking_mode"),
            ("PRAGMA wal_autocheckpoint(0)", "wal_autocheckpoint"),
            ("PRAGMA wal_checkpoint", "wal_checkpoint.*not a query"),
            ("PRAGMA wal_checkpoint(TRUNCATE)", "wal_checkpoint.*not a query"),
            ("PRAGMA optimize", "optimize.*not a query"),
            ("PRAGMA shrink_memory", "shrink_memory.*not a query"),
            ("PRAGMA incremental_vacuum(3)", "incremental_vacuum.*not a query"),
            ("SELECT * FROM pragma_optimize", "optimize.*not a query"),
            ("SELECT load_extension('x')", r"load_extension\(\)"),
            ("SELECT abs(1), load_extension('x', 'y'), abs(2)", r"load_extension\(\)"),
            ("INSERT INTO items (name) SELECT load_extension('x')", r"load_extension\(\)"),
            ("EXPLAIN COMMIT", "transaction control"),
            ("EXPLAIN ROLLBACK", "transaction control"),
            ("EXPLAIN SAVEPOINT a", "transaction control"),
            ("EXPLAIN ATTACH 'x' AS y", "ATTACH.*one file"),
            ("EXPLAIN DETACH y", "DETACH.*one file"),
        ],
    )
    async def test_with_its_reason(self, path: Path, sql: str, reason: str) -> None:
        """faults 19, 23, 41"""
        query = Query("sly", sql)
        async with items(path) as db:
            with pytest.raises(DeniedError, match=reason) as caught:
                await db.fetch_all(query())
            assert caught.value.query == "sly"
            with pytest.raises(DeniedError, match=reason):
                await db.write(lambda cx: cx.fetch_all(query()))

    @pytest.mark.parametrize(
        "setting", ["foreign_keys = 1", "synchronous = normal", "busy_timeout = 100"]
    )
    async def test_also_in_the_very_words_that_the_library_uses(
        self, path: Path, setting: str
    ) -> None:
        """A statement that was prepared with privilege must not be had from the cache."""
        async with Database(path) as db:
            with pytest.raises(DeniedError):
                await db.fetch_all(Query("q", f"PRAGMA {setting}")())

    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE sqlite_schema SET sql = 'x'",
            "DELETE FROM sqlite_master",
            "INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5)",
        ],
    )
    async def test_the_schema_is_not_written_by_hand(self, path: Path, sql: str) -> None:
        async with items(path) as db:
            with pytest.raises(StatementError, match="may not be modified"):
                await db.execute(Query("sly", sql)())

    @pytest.mark.parametrize(
        "sql",
        [
            "PRAGMA journal_mode",
            "PRAGMA foreign_keys",
            "PRAGMA table_info(items)",
            "PRAGMA index_list('items')",
            "PRAGMA foreign_key_check(items)",
            "PRAGMA integrity_check(5)",
            "PRAGMA quick_check",
            "PRAGMA compile_options",
            "SELECT name FROM pragma_table_info('items')",
            "SELECT * FROM pragma_table_list, pragma_user_version",
            "SELECT * FROM pragma_foreign_keys",
            "SELECT abs(1), json_array(1), 'load_extension(1)'",
            "SELECT * FROM sqlite_schema",
        ],
    )
    async def test_looking_is_free(self, path: Path, sql: str) -> None:
        async with items(path) as db:
            await db.fetch_all(Query("q", sql)())

    async def test_the_reason_is_not_told_of_the_next_error(self, path: Path) -> None:
        denied = ["PRAGMA foreign_keys = 0", "SELECT load_extension('x')"]
        later: list[tuple[str, type[QueryError], str]] = [
            ("SELECT missing", StatementError, "no such column: missing"),
            ("INSERT INTO items VALUES (1, 'a')", IntegrityError, "UNIQUE"),
        ]

        def work(cx: Session) -> None:
            for first in denied:
                for then, kind, message in later:
                    with pytest.raises(QueryError, match="refused"):
                        cx.fetch_all(Query("q", first)())
                    with pytest.raises(kind, match=message) as caught:
                        cx.fetch_all(Query("q", then)())
                    assert "refused" not in str(caught.value)

        async with items(path, "a") as db:
            await db.write(work)

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO items (name) VALUES ('a')",
            "CREATE TEMP TABLE t (a)",
            "PRAGMA user_version = 3",
        ],
    )
    async def test_a_reader_does_not_write(self, path: Path, sql: str) -> None:
        """fault 40, invariant 3"""
        query = Query("sly", sql)
        async with items(path) as db:
            for read in (
                lambda cx: cx.fetch_all(query()),
                lambda cx: cx.execute(query()),
                lambda cx: cx.execute_batch([query()]),
                lambda cx: cx.execute_many(query, [{}]),
                lambda cx: next(cx.stream(query())),
            ):
                with pytest.raises(ReadOnlyError, match="sly"):
                    await db.read(read)
            assert await db.fetch_one(COUNT()) == 0


class TestTimeLimits:
    """A statement ends at its limit, and no other does (faults 10, 11)."""

    async def test_a_runaway_is_stopped_on_a_reader(self, path: Path) -> None:
        async with items(path, readers=1) as db:
            began = monotonic()
            with pytest.raises(StatementTimeoutError, match="query 'endless'"):
                await db.fetch_one(ENDLESS(), timeout=0.05)
            assert 0.05 <= monotonic() - began < SOON
            assert await db.fetch_one(ONE()) == 1
            assert db.stats()["readers"]["replaced"] == 0

    async def test_a_runaway_is_stopped_in_a_write(self, path: Path) -> None:
        async with items(path, "a") as db:
            with pytest.raises(StatementTimeoutError, match=r"items\.add_endlessly"):
                await db.execute(ADD_ENDLESSLY(), timeout=0.05)
            with pytest.raises(StatementTimeoutError):
                await db.execute_batch([ADD(name="b"), ADD_ENDLESSLY()], timeout=0.05)
            assert await names(db) == ["a"]
            await db.execute(ADD(name="b"))

    async def test_rows_that_never_end_are_stopped(self, path: Path) -> None:
        rows = Query("rows", NUMBERS.sql.replace("x FROM", "x, :pad FROM"))
        async with Database(path, config=Config(readers=1)) as db:
            with pytest.raises(StatementTimeoutError):
                await db.fetch_all(rows(count=10**9, pad=""), timeout=0.05)
            assert await db.fetch_one(ONE()) == 1

    async def test_many_short_statements_are_stopped(self, path: Path, clock: Clock) -> None:
        """None of them runs long enough for SQLite to ask whether it should stop."""

        def spin(cx: Session) -> None:
            for number in itertools.count():
                cx.fetch_one(ONE())
                if number == 1000:
                    clock.passes(1000)

        async with items(path, readers=1, statement_timeout=1000) as db:
            for run in (db.read, db.write):
                # The statement tells, or the pool does, where the thread is slow to come to it.
                with pytest.raises(StatementTimeoutError, match=r"'one'|spin"):
                    await run(spin)
            assert await db.fetch_one(ONE()) == 1

    async def test_a_limit_that_was_swallowed_is_told_again(self, path: Path, clock: Clock) -> None:
        def stubborn(cx: Session) -> object:
            with suppress(StatementTimeoutError):
                cx.fetch_one(ENDLESS())
            return cx.execute(ADD(name="late"))

        driver = Driver()
        async with items(path, statement_timeout=1000, connect=driver.connect) as db:
            driver.hook = passing(clock, 1000, ENDLESS)
            with pytest.raises(AbtDbError):
                await db.write(stubborn)
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize("timeout", [0, 0.0, -1])
    async def test_no_time_at_all(self, path: Path, timeout: float) -> None:
        async with items(path, "a") as db:
            for call in (
                lambda: db.fetch_one(ONE(), timeout=timeout),
                lambda: db.fetch_all(ONE(), timeout=timeout),
                lambda: db.execute(ADD(name="x"), timeout=timeout),
                lambda: db.execute_many(ADD, [{"name": "x"}], timeout=timeout),
                lambda: db.execute_batch([ADD(name="x")], timeout=timeout),
            ):
                with pytest.raises(TimeoutError):
                    await call()
            assert await names(db) == ["a"]

    async def test_a_limit_that_is_not_reached_changes_nothing(self, path: Path) -> None:
        async with items(path, "a", statement_timeout=SOON) as db:
            assert await db.fetch_all(NUMBERS(count=20_000), timeout=SOON) == [*range(1, 20_001)]
            assert await db.fetch_one(ONE()) == 1

    async def test_a_stop_that_comes_late_hits_nobody(self, path: Path) -> None:
        """fault 11: limits from far too short to long enough, each followed by a statement that
        has no limit and must not fail."""
        async with items(path, "a", readers=1) as db:
            limit = 0.0001
            stopped = finished = 0
            while finished < 20:
                try:
                    await db.fetch_one(NUMBERS_SUMMED(count=20_000), timeout=limit)
                    finished += 1
                except StatementTimeoutError:
                    stopped += 1
                assert await db.fetch_one(NUMBERS_SUMMED(count=2_000)) == 2_001_000
                limit *= 1.05
            assert stopped

    async def test_a_stop_that_comes_late_hits_no_write(self, path: Path) -> None:
        slow = Query("slow", f"UPDATE items SET name = ({NUMBERS_SUMMED.sql}) WHERE id = 1")
        quick = Query("quick", f"UPDATE items SET name = ({NUMBERS_SUMMED.sql}) WHERE id = 2")
        async with items(path, "a", "b") as db:
            limit = 0.0001
            stopped = finished = 0
            while finished < 20:
                try:
                    await db.execute(slow(count=20_000), timeout=limit)
                    finished += 1
                except StatementTimeoutError:
                    stopped += 1
                assert await db.execute(quick(count=2_000)) == Result(1, None)
                limit *= 1.05
            assert stopped


class TestAfterwards:
    """A session is of use to the function that it was given to, as long as it runs, in its thread.
    Elsewhere it is a clear error, and harmless (invariants 18, 29)."""

    VERBS: Mapping[str, Callable[[Session], object]] = {
        "fetch_one": lambda cx: cx.fetch_one(ONE()),
        "fetch_all": lambda cx: cx.fetch_all(ONE()),
        "stream": lambda cx: list(cx.stream(ONE())),
        "execute": lambda cx: cx.execute(ADD(name="late")),
        "execute_many": lambda cx: cx.execute_many(ADD, [{"name": "late"}]),
        "execute_batch": lambda cx: cx.execute_batch([ADD(name="late")]),
    }

    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    async def test_when_the_function_has_returned(
        self, path: Path, verb: Callable[[Session], object]
    ) -> None:
        async with items(path) as db:
            for kept in [await db.read(lambda cx: cx), await db.write(lambda cx: cx)]:
                with pytest.raises(AbtDbError):
                    verb(kept)
            assert await names(db) == []

    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    async def test_in_another_thread(self, path: Path, verb: Callable[[Session], object]) -> None:
        def elsewhere(cx: Session) -> None:
            failed: list[BaseException] = []

            def use() -> None:
                try:
                    verb(cx)
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            assert [isinstance(error, AbtDbError) for error in failed] == [True]

        async with items(path) as db:
            await db.write(elsewhere)
            assert await names(db) == []

    async def test_when_the_database_is_closed(self, path: Path) -> None:
        async with items(path) as db:
            kept = await db.read(lambda cx: cx)
        with pytest.raises(AbtDbError):
            kept.fetch_one(ONE())

    async def test_rows_that_were_to_be_read_later(self, path: Path) -> None:
        async with items(path, "a", "b") as db:
            rows = await db.read(lambda cx: cx.stream(NAMES()))
            with pytest.raises(AbtDbError):
                list(rows)

    async def test_two_functions_at_a_time_have_sessions_of_their_own(self, path: Path) -> None:
        async with items(path, "a", readers=3) as db:
            together = threading.Barrier(3)

            def meet(cx: Session) -> Session:
                together.wait(SOON)
                return cx if cx.fetch_one(COUNT()) == 1 else None  # type: ignore[return-value]

            sessions = await asyncio.gather(*(db.read(meet) for _ in range(3)))
            assert len({id(session) for session in sessions if session is not None}) == 3


class TestJson:
    """JSON goes in as `Json` or by a dataclass, and comes out by its annotation."""

    async def test_there_and_back(self, path: Path) -> None:
        create = Query("create", "CREATE TABLE logs (at TEXT, tags TEXT CHECK (json_valid(tags)))")
        insert = Query("insert", "INSERT INTO logs VALUES (:at, :tags)")
        log = Log(datetime(2025, 3, 1, 12, 30, tzinfo=UTC), ["a", "é", '"'])
        async with Database(path) as db:
            await db.execute(create())
            await db.execute(insert(log))
            await db.execute(insert(at=log.at, tags=Json(log.tags)))
            found = await db.fetch_all(Query("q", "SELECT at, tags FROM logs", Log)())
            assert found == [log, log]
