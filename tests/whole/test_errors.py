"""Errors: each of its kind, still what `sqlite3` would have raised, and silent about values."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sqlite3
import string
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine import COUNT, CREATE, ENDLESS, LockingProcess, items

from abt_db import (
    AbtDbError,
    BusyError,
    CantOpenError,
    Config,
    CorruptError,
    Database,
    DeniedError,
    DiskIOError,
    FullError,
    IntegrityError,
    Json,
    MappingError,
    ParameterError,
    Query,
    QueryError,
    ReadOnlyError,
    Session,
    Statement,
    StatementError,
    StatementTimeoutError,
    Transaction,
    errors,
)
from abt_db.errors import translate

CLASSES = [
    value for name in errors.__all__ if isinstance(value := getattr(errors, name), type)
]  # all but `translate`

SCHEMA = [
    CREATE(),
    Query("schema.parents", "CREATE TABLE parents (id INTEGER PRIMARY KEY)")(),
    Query(
        "schema.checked",
        "CREATE TABLE checked (id INTEGER PRIMARY KEY, name TEXT NOT NULL CHECK (length(name) < 3),"
        " parent INTEGER REFERENCES parents (id))",
    )(),
    Query(
        "schema.later", "CREATE TABLE later (p REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
    )(),
    Query("schema.strict", "CREATE TABLE strict_ones (number INTEGER, other INTEGER) STRICT")(),
    Query("schema.keyed", "CREATE TABLE keyed (k TEXT PRIMARY KEY, other) WITHOUT ROWID")(),
    Query("schema.words", "CREATE VIRTUAL TABLE words USING fts5(word)")(),
    Query("schema.view", "CREATE VIEW broken AS SELECT missing FROM nowhere")(),
    Query("schema.seed", "INSERT INTO keyed VALUES ('once', 1)")(),
]


async def with_schema(db: Database) -> None:
    await db.execute_batch(SCHEMA)


class TestTree:
    """One tree, every class of it documented; time limits are also the standard TimeoutError."""

    @pytest.mark.parametrize("kind", CLASSES)
    def test_every_error_is_ours_and_says_what_it_means(self, kind: type) -> None:
        assert issubclass(kind, AbtDbError)
        assert kind.__doc__

    @pytest.mark.parametrize("kind", [kind for kind in CLASSES if "Timeout" in kind.__name__])
    def test_a_time_limit_is_a_timeout_error(self, kind: type) -> None:
        assert issubclass(kind, TimeoutError)

    def test_bad_settings_and_parameters_are_value_errors(self) -> None:
        for kind in (errors.ConfigError, errors.QueryDefinitionError, ParameterError):
            assert issubclass(kind, ValueError)


@dataclass(frozen=True)
class Failure:
    """A statement that fails, what is raised then, and what `sqlite3` alone would raise."""

    sql: str
    kind: type[QueryError]
    instead_of: type[sqlite3.Error]
    name: str


FAILURES = [
    Failure("SELECT missing", StatementError, sqlite3.OperationalError, "SQLITE_ERROR"),
    Failure("SELECT FROM", StatementError, sqlite3.OperationalError, "SQLITE_ERROR"),
    Failure("SELECT * FROM broken", StatementError, sqlite3.OperationalError, "SQLITE_ERROR"),
    Failure(
        "INSERT INTO items VALUES (1, 'a'), (2, 'a')",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_UNIQUE",
    ),
    Failure(
        "INSERT INTO items VALUES (1, 'a'), (1, 'b')",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_PRIMARYKEY",
    ),
    Failure(
        "INSERT INTO keyed VALUES ('once', 2)",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_PRIMARYKEY",
    ),
    Failure(
        "INSERT INTO checked VALUES (1, NULL, NULL)",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_NOTNULL",
    ),
    Failure(
        "INSERT INTO checked VALUES (1, 'long', NULL)",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_CHECK",
    ),
    Failure(
        "INSERT INTO checked VALUES (1, 'a', 99)",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_FOREIGNKEY",
    ),
    Failure(
        "INSERT INTO later VALUES (99)",  # at COMMIT
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT_FOREIGNKEY",
    ),
    Failure(
        "INSERT INTO strict_ones VALUES ('a', 1)",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_CONSTRAINT",
    ),
    Failure(
        "INSERT INTO items VALUES ('no number', 'a')",
        IntegrityError,
        sqlite3.IntegrityError,
        "SQLITE_MISMATCH",
    ),
    Failure("SELECT zeroblob(1000000)", QueryError, sqlite3.DataError, "SQLITE_TOOBIG"),
    Failure("PRAGMA foreign_keys = 0", DeniedError, sqlite3.DatabaseError, "SQLITE_AUTH"),
]


class TestKinds:
    """What SQLite reports becomes one error of the right kind, with the query, its SQL and SQLite's
    own code; whoever catches the class of `sqlite3` still catches it."""

    @pytest.mark.parametrize("failure", FAILURES, ids=[failure.sql for failure in FAILURES])
    async def test_of_a_statement(self, path: Path, failure: Failure) -> None:
        query = Query("the.culprit", failure.sql)
        config = Config(readers=1, max_value_size=100_000, trusted_schema=True)
        async with Database(path, config=config) as db:
            await with_schema(db)
            await db.fetch_one(COUNT())  # now the reader knows the schema, too
            with pytest.raises(failure.kind) as caught:
                await db.fetch_all(query())
            assert await db.fetch_one(Query("one", "SELECT 1", int)()) == 1
        self.check(caught.value, failure.kind, failure.instead_of, failure.name)
        assert (caught.value.query, caught.value.sql) == ("the.culprit", failure.sql)
        assert "the.culprit" in str(caught.value)
        assert caught.value.__notes__ == [f"SQL: {failure.sql}"]

    async def test_of_a_mistake_on_a_reader_that_has_yet_to_learn_the_schema(
        self, path: Path
    ) -> None:
        """SQLite's code is then SQLITE_SCHEMA, whatever the mistake."""
        async with items(path, readers=1) as db:
            for change in ("CREATE TABLE more (id)", "ALTER TABLE more ADD COLUMN name"):
                await db.execute(Query("change", change)())
                with pytest.raises(StatementError, match="no such column: missing"):
                    await db.fetch_one(Query("q", "SELECT missing")())

    async def test_inside_a_function_or_a_transaction_the_statement_is_named(
        self, path: Path
    ) -> None:
        again = Query("again", "INSERT INTO items (name) VALUES ('a')")

        async def add(tx: Transaction) -> None:
            await tx.execute(again())

        async with items(path, "a") as db:
            for call in (
                lambda: db.write(lambda cx: cx.execute(again())),
                lambda: db.write(lambda cx: cx.execute_batch([again()])),
                lambda: db.write(lambda cx: cx.execute_many(again, [{}])),
                lambda: db.execute_batch([ADD(s="b"), again()]),
            ):
                with pytest.raises(IntegrityError, match="query 'again'") as caught:
                    await call()
                assert (caught.value.query, caught.value.sql) == ("again", again.sql)
            with pytest.raises(IntegrityError, match="query 'again'"):
                async with db.transaction() as tx:
                    await add(tx)

    @staticmethod
    def check(
        error: QueryError, kind: type[QueryError], instead_of: type[sqlite3.Error], name: str
    ) -> None:
        assert type(error) is kind or kind is QueryError
        assert isinstance(error.__cause__, instead_of)
        assert isinstance(error, instead_of)
        if name == "SQLITE_CONSTRAINT":
            # SQLITE_CONSTRAINT_DATATYPE is a code that Python's module has no name for yet.
            assert error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CONSTRAINT
        else:
            assert error.sqlite_errorname == name
            assert error.sqlite_errorcode == getattr(sqlite3, name)
            assert name in str(error)
        assert "\n" not in str(error)

    async def test_of_a_lock_that_another_process_holds(self, path: Path) -> None:
        async with items(path, busy_timeout=0.15) as db:
            with LockingProcess(path), pytest.raises(BusyError) as caught:
                await db.execute(Query("late", "DELETE FROM items")())
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert caught.value.sqlite_errorname == "SQLITE_BUSY"
        assert (caught.value.query, caught.value.sql) == ("late", "DELETE FROM items")

    async def test_of_a_table_that_is_being_read(self, path: Path) -> None:
        def drop(cx: Session) -> None:
            next(cx.stream(Query("names", "SELECT name FROM items", str)(), size=1))
            cx.execute(Query("drop", "DROP TABLE items")())

        async with items(path, "a", "b") as db:
            with pytest.raises(BusyError) as caught:
                await db.write(drop)
        self.check(caught.value, BusyError, sqlite3.OperationalError, "SQLITE_LOCKED")

    async def test_of_rows_whose_transaction_was_undone(self, path: Path) -> None:
        def undo(cx: Session) -> None:
            rows = cx.stream(Query("names", "SELECT name FROM items", str)(), size=1)
            next(rows)
            with pytest.raises(ZeroDivisionError), cx.atomic():
                cx.execute(Query("create", "CREATE TABLE more (id)")())
                raise ZeroDivisionError
            list(rows)

        async with items(path, "a", "b") as db:
            with pytest.raises(QueryError) as caught:
                await db.write(undo)
        self.check(caught.value, QueryError, sqlite3.OperationalError, "SQLITE_ABORT_ROLLBACK")

    async def test_of_a_database_that_may_not_grow(self, path: Path) -> None:
        def connect(*args: Any, factory: Any, **options: Any) -> aiosqlite.Connection:
            class Small(factory):  # type: ignore[misc]
                def __init__(self, *args: Any, **options: Any) -> None:
                    super().__init__(*args, **options)
                    super().execute("PRAGMA max_page_count = 10")

            return aiosqlite.connect(*args, factory=Small, **options)

        grow = Query("grow", "INSERT INTO items (name) VALUES (hex(zeroblob(50000)))")
        async with items(path, connect=connect) as db:
            with pytest.raises(FullError) as caught:
                await db.execute(grow())
            await db.execute(Query("small", "INSERT INTO items (name) VALUES ('a')")())
        self.check(caught.value, FullError, sqlite3.OperationalError, "SQLITE_FULL")

    async def test_of_a_write_on_a_reader(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(ReadOnlyError) as caught:
                await db.read(lambda cx: cx.execute(Query("sly", "DELETE FROM items")()))
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert (caught.value.query, caught.value.sql) == ("sly", "DELETE FROM items")
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_READONLY
        assert caught.value.sqlite_errorname == "SQLITE_READONLY"

    async def test_of_a_path_that_can_not_be_opened(self, path: Path) -> None:
        with pytest.raises(CantOpenError) as caught:
            await Database(path / "missing" / "app.db").open()
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert caught.value.sqlite_errorname == "SQLITE_CANTOPEN"
        assert caught.value.query is None

    async def test_of_a_file_that_is_no_database(self, path: Path) -> None:
        path.write_bytes(b"this is no database" * 100)
        with pytest.raises(CorruptError) as caught:
            await Database(path).open()
        assert isinstance(caught.value, sqlite3.DatabaseError)
        assert caught.value.sqlite_errorname == "SQLITE_NOTADB"

    async def test_of_a_page_that_is_damaged(self, path: Path) -> None:
        async with items(path, *(f"{number:01000}" for number in range(50))):
            pass
        damaged = bytearray(path.read_bytes())
        damaged[4096 * 4 :] = b"\xff" * (len(damaged) - 4096 * 4)
        path.write_bytes(damaged)
        everything = Query("everything", "SELECT sum(length(name)) FROM items NOT INDEXED", int)
        async with Database(path) as db:
            with pytest.raises(CorruptError) as caught:
                await db.fetch_one(everything())
        assert caught.value.query == "everything"
        assert caught.value.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT
        assert type(caught.value.__cause__) is sqlite3.DatabaseError

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (sqlite3.SQLITE_ERROR, StatementError),
            (sqlite3.SQLITE_BUSY_SNAPSHOT, BusyError),
            (sqlite3.SQLITE_LOCKED_SHAREDCACHE, BusyError),
            (sqlite3.SQLITE_READONLY_DBMOVED, ReadOnlyError),
            (sqlite3.SQLITE_IOERR_FSYNC, DiskIOError),
            (sqlite3.SQLITE_CORRUPT_INDEX, CorruptError),
            (sqlite3.SQLITE_NOTADB, CorruptError),
            (sqlite3.SQLITE_FULL, FullError),
            (sqlite3.SQLITE_CANTOPEN_ISDIR, CantOpenError),
            (sqlite3.SQLITE_CONSTRAINT_TRIGGER, IntegrityError),
            (sqlite3.SQLITE_AUTH, DeniedError),
            (sqlite3.SQLITE_PROTOCOL, QueryError),
        ],
    )
    def test_the_extended_codes_belong_to_their_primary_one(
        self, code: int, kind: type[QueryError]
    ) -> None:
        raised = sqlite3.DatabaseError("this happened")
        raised.sqlite_errorcode, raised.sqlite_errorname = code, "SQLITE_X"
        error = translate(raised, query="q", sql="SELECT 1")
        assert type(error) is kind
        assert str(error) == "query 'q': this happened [SQLITE_X]"

    @pytest.mark.parametrize(
        "kind",
        [
            sqlite3.DatabaseError,
            sqlite3.OperationalError,
            sqlite3.IntegrityError,
            sqlite3.DataError,
        ],
    )
    def test_the_class_of_sqlite3_is_still_caught(self, kind: type[sqlite3.Error]) -> None:
        """Also where there is no code, or one that nobody has thought of."""
        assert isinstance(translate(kind("this happened"), query="q"), kind)

    async def test_every_error_of_a_query_has_a_code(self, path: Path) -> None:
        """Also those that are raised before SQLite is asked: who logs the code must not fail."""
        raised: list[QueryError] = []

        async def collect(call: Any) -> None:
            with pytest.raises(QueryError) as caught:
                await call
            raised.append(caught.value)

        async with items(path) as db:
            await collect(db.execute(Query("reads", "SELECT 1")()))
            with pytest.raises(QueryError) as caught:
                db.stream(Query("writes", "DELETE FROM items")())
            raised.append(caught.value)
            await collect(db.fetch_one(Query("long", f"SELECT '{'x' * 2_000_000}'")()))
        async with Database(path, read_only=True) as db:
            await collect(db.execute(Query("writes", "DELETE FROM items")()))
        path.write_bytes(b"")
        await collect(Database(path, read_only=True).open())
        for error in raised:
            assert hasattr(error, "sqlite_errorcode"), repr(error)
            assert hasattr(error, "sqlite_errorname"), repr(error)


class TestMessages:
    """What SQLite says about the statement and the schema is told in full: it is what one needs to
    put it right."""

    @pytest.mark.parametrize(
        ("sql", "told"),
        [
            ("SELECT missing FROM items", "no such column: missing"),
            ("SELECT * FROM nowhere", "no such table: nowhere"),
            ("SELECT missing(1)", "no such function: missing"),
            ("SELECT name FRO items", 'near "items": syntax error'),
            ("SELECT 'a", 'unrecognized token: "\'a"'),
            ("SELECT max(id, :x), missing FROM items", "no such column: missing"),
            ("SELECT * FROM broken", "no such table: main.nowhere"),
            ("INSERT INTO items (name, nam) VALUES (:x, 1)", "no column named nam"),
            ("UPDATE items SET name = :x", "no such column: new.missing"),
            ("DELETE FROM items WHERE name = :x", "no such table: main.nowhere"),
        ],
    )
    async def test_of_a_mistake(self, path: Path, sql: str, told: str) -> None:
        query = Query("the.culprit", sql)
        async with items(path, "a") as db:
            with sqlite3.connect(path, isolation_level=None) as raw:
                raw.execute("CREATE VIEW broken AS SELECT 1 FROM nowhere")
                for verb, body in [
                    ("UPDATE", "SELECT new.missing"),
                    ("DELETE", "DELETE FROM nowhere"),
                ]:
                    raw.execute(f"CREATE TRIGGER on_{verb} AFTER {verb} ON items BEGIN {body}; END")
            raw.close()
            with pytest.raises(StatementError) as caught:
                await db.fetch_all(query(dict.fromkeys(query.parameters, "x")))
        assert told in str(caught.value)


class TestCopies:
    """An error crosses to another process, and back, as it is."""

    @pytest.mark.parametrize("kind", CLASSES)
    @pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
    def test_of_every_class(self, kind: type[AbtDbError], again: Callable[[Any], Any]) -> None:
        error = kind("this happened")
        if isinstance(error, QueryError):
            error = type(error)(
                "this happened", query="q", sql="SELECT 1", code=19, name="SQLITE_X"
            )
        error.add_note("SQL: SELECT 1")
        twin = again(error)
        assert type(twin) is kind
        assert twin.args == ("this happened",)
        assert str(twin) == "this happened"
        assert vars(twin) == vars(error)
        assert twin.__notes__ == ["SQL: SELECT 1"]

    async def test_of_a_real_one(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(StatementError) as caught:
                await db.fetch_all(Query("q", "SELECT FROM")())
        twin = pickle.loads(pickle.dumps(caught.value))
        assert (twin.query, twin.sql) == ("q", "SELECT FROM")
        assert twin.sqlite_errorname == "SQLITE_ERROR"
        assert str(twin) == str(caught.value)


# -- values stay out of errors ---------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Row:
    when: datetime
    tags: list[int]


def run(statement: Statement[Any]) -> Callable[[Session], object]:
    return lambda cx: cx.fetch_all(statement)


def twice(statement: Statement[Any]) -> Callable[[Session], object]:
    return lambda cx: cx.execute_batch([statement, statement])


ADD = Query("add", "INSERT INTO items (name) VALUES (:s)")
ADD_ROW = Query("add_row", "INSERT INTO keyed VALUES (:when, :tags)")


def reading(row: Any, stored: Callable[[str], object] = str) -> Callable[[str], Any]:
    """A failure to read a value as `row`."""
    return lambda secret: run(Query("read", "SELECT :s AS c", row)(s=stored(secret)))


def sql(text: str, value: Callable[[str], object] = str) -> Callable[[str], Any]:
    """A statement that fails with the value as its parameter `s`."""
    return lambda secret: run(Query("fail", text)(s=value(secret)))


LEAKS: dict[str, Callable[[str], Callable[[Session], object]]] = {
    "unique": lambda secret: twice(ADD(s=secret)),
    "check": sql("INSERT INTO checked VALUES (1, :s, NULL)"),
    "not null beside it": sql("INSERT INTO keyed VALUES (NULL, :s)"),
    "foreign key": sql("INSERT INTO checked VALUES (1, 'a', :s)"),
    "strict type": sql("INSERT INTO strict_ones (number) VALUES (:s)"),
    "no rowid": sql("INSERT INTO items (id) VALUES (:s)"),
    "too big": sql("SELECT length(:s)", lambda secret: secret * 10_000),
    "too big inside": sql("SELECT replace(hex(zeroblob(9000)), '0', :s)"),
    "misspelt column": sql("SELECT missing, :s"),
    "not json": sql("SELECT json(:s)"),
    "json path": sql("SELECT json_extract('{}', :s)"),
    "json path of an item": sql("SELECT json_set('[]', :s, 1)", "$[{}".format),
    "json path like a table": sql("SELECT json_extract('{}', :s)", "main.{}".format),
    "json path like a message": sql("SELECT json_extract('{}', :s)", "syntax error {}".format),
    "json table": sql("SELECT * FROM json_each('{}', :s)"),
    "escape": sql("SELECT 'a' LIKE 'b' ESCAPE :s"),
    "full text, a quote": sql("SELECT * FROM words WHERE words MATCH :s", '"{}'.format),
    "full text, a sign": sql("SELECT * FROM words WHERE words MATCH :s", "a ^ {} ^".format),
    "full text, a column": sql("SELECT * FROM words WHERE words MATCH :s", "{}: x".format),
    "full text, a function": sql("SELECT * FROM words WHERE words MATCH :s", "{}(a, b".format),
    "full text, an order": sql("INSERT INTO words (words) VALUES (:s)"),
    "full text, a rank": sql("INSERT INTO words (words, rank) VALUES ('rank', :s)"),
    "full text, a rank function": sql("SELECT * FROM words('a') WHERE rank MATCH :s"),
    "a refused function": sql("SELECT load_extension(:s)"),
    "a table of a pragma": sql("SELECT * FROM pragma_integrity_check(:s)"),
    "a database of a pragma": sql("SELECT * FROM pragma_table_info('items', :s)"),
    "a tokenizer": sql("SELECT fts3_tokenizer(:s)"),
    "a column of a table": sql("SELECT * FROM pragma_table_info(:s), missing"),
    "not UTF-8": sql("SELECT CAST(:s AS TEXT) AS c", lambda secret: secret.encode() + b"\xff"),
    "not UTF-8, returned": sql(
        "INSERT INTO items (name) VALUES (CAST(:s AS TEXT)) RETURNING name",
        lambda secret: secret.encode() + b"\xff",
    ),
    "bool": reading(bool),
    "datetime": reading(datetime),
    "date": reading(date),
    "uuid": reading(UUID),
    "decimal": reading(Decimal),
    "enum": reading(Colour),
    "json": reading(list[int]),
    "json item": reading(list[int], lambda secret: f'["{secret}"]'),
    "json key": reading(dict[str, int], lambda secret: f'{{"{secret}": []}}'),
    "single column": lambda secret: run(Query("read", "SELECT :s, 1 AS b", int)(s=secret)),
    "dataclass": lambda secret: run(Query("read", 'SELECT :s AS "when", 1 AS tags', Row)(s=secret)),
    "parameter list": sql("SELECT :s", lambda secret: [secret]),
    "parameter dict": sql("SELECT :s", lambda secret: {secret: secret}),
    "parameter set": sql("SELECT :s", lambda secret: {secret}),
    "parameter surrogate": sql("SELECT :s", "{}\ud800".format),
    "parameter json": sql("SELECT :s", lambda secret: Json({secret: b"bytes"})),
    "parameter number": sql("SELECT :s", lambda secret: int.from_bytes(secret.encode(), "big")),
    "parameter of a dataclass": lambda secret: run(ADD_ROW(Row(secret, [1]))),  # type: ignore[arg-type]
    "item of a dataclass": lambda secret: run(ADD_ROW(Row(date.today(), [secret]))),  # type: ignore[list-item,arg-type]
    "wrong name": lambda secret: run(ADD(t=secret)),
    "wrong kind": lambda secret: run(ADD(secret)),
    "row of many": lambda secret: lambda cx: cx.execute_many(ADD, [{"s": secret}, {"s": {secret}}]),
    "row of many, twice": lambda secret: lambda cx: cx.execute_many(ADD, [{"s": secret}] * 2),
    "row of many, of a wrong kind": lambda secret: lambda cx: cx.execute_many(ADD, [secret]),
    "time limit": lambda secret: (
        lambda cx: cx.fetch_all(
            Query("slow", ENDLESS.sql.replace("SELECT count", "SELECT :s, count"))(s=secret)
        )
    ),
}


class Running:
    """A database whose calls are made without `await`, as a property test must."""

    def __init__(self, path: Path) -> None:
        self.runner = asyncio.Runner()
        config = Config(readers=1, max_value_size=100_000, trusted_schema=True)
        self.db = Database(path, config=config)
        self.hasty = Database(path, config=replace(config, statement_timeout=0.02))

    def failure(self, leak: str, fail: Callable[[], Callable[[Session], object]]) -> AbtDbError:
        """What a call raises, be it in binding its statement or in running it."""

        async def call() -> None:
            with pytest.raises(AbtDbError) as caught:
                await (self.hasty if leak == "time limit" else self.db).write(fail())
            self.caught = caught.value

        self.runner.run(call())
        return self.caught


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("secrets") / "app.db")
    with running.runner as runner:
        runner.run(running.db.open())
        runner.run(with_schema(running.db))
        runner.run(running.hasty.open())
        yield running
        runner.run(running.hasty.close())
        runner.run(running.db.close())


def shown(error: BaseException) -> str:
    """All that a log could show of an error."""
    return "\n".join(
        [
            *traceback.format_exception(error),
            repr(error),
            repr(error.args),
            repr(getattr(error, "__notes__", None)),
            repr(vars(error)),
        ]
    )


class TestSecrets:
    """No error shows a value, be it a parameter or a row, anywhere a log would look: the message,
    the notes, the causes with their tracebacks (invariant 27)."""

    @pytest.mark.parametrize("leak", LEAKS)
    @given(secret=st.text(string.ascii_lowercase, min_size=16, max_size=24))
    @settings(max_examples=8, deadline=None)
    def test_stay_out_of_errors(self, running: Running, leak: str, secret: str) -> None:
        error = running.failure(leak, lambda: LEAKS[leak](secret))
        assert secret not in shown(error).lower()

    def test_the_failures_are_the_ones_that_are_meant(self, running: Running) -> None:
        """Otherwise the test above would prove nothing."""
        kinds = {
            leak: type(running.failure(leak, partial(fail, "secretsecret")))
            for leak, fail in LEAKS.items()
        }
        assert kinds["unique"] is kinds["check"] is kinds["foreign key"] is IntegrityError
        assert kinds["json path"] is kinds["full text, a column"] is StatementError
        assert kinds["not UTF-8"] is kinds["json key"] is kinds["dataclass"] is MappingError
        assert kinds["parameter set"] is kinds["row of many"] is ParameterError
        assert kinds["time limit"] is StatementTimeoutError
