"""Named SQL: what a text is, whether it writes, which parameters it has, and how they are bound."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.engine import items

from abt_db import Database, Json, ParameterError, Query, QueryDefinitionError, Session, Statement

# A machine that is busy with other things is no reason to fail.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class TestDefinition:
    """What can't be a query is refused when it is made, at import, by an error that names it and
    says why."""

    @staticmethod
    def refused(sql: str, because: str | None = None) -> None:
        with pytest.raises(QueryDefinitionError, match=because) as caught:
            Query("the.culprit", sql)
        assert "the.culprit" in str(caught.value)

    @pytest.mark.parametrize("sql", ["", "  \n", "-- nothing", "/* nothing */", ";", ";;"])
    def test_nothing_is_no_statement(self, sql: str) -> None:
        self.refused(sql, "empty")

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1; SELECT 2",
            "SELECT 1;SELECT 2;",
            "SELECT 1; -- and\n DROP TABLE items",
            "INSERT INTO t VALUES (';'); DELETE FROM t",
            "SELECT 1; :x",
            "SELECT 1; 'x'",
        ],
    )
    def test_two_statements_are_two_queries(self, sql: str) -> None:
        """fault 36"""
        self.refused(sql, "more than one statement")

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1;",
            "SELECT 1 ; \n",
            "SELECT 1; -- done",
            "SELECT 1; /* done */",
            "; SELECT 1",
            "SELECT ';' AS [a;b], 1 AS \"c;d\", 2 AS `e;f` -- ; g\n /* ; */ WHERE 1 = 1",
        ],
    )
    async def test_a_semicolon_is_not_a_second_statement(self, path: Path, sql: str) -> None:
        async with Database(path) as db:
            assert await db.fetch_one(Query("q", sql)())

    @pytest.mark.parametrize("sql", ["SELECT 1;;", "SELECT 1; ;", "SELECT 1;\N{NO-BREAK SPACE}"])
    async def test_what_is_accepted_behind_it_can_be_run(self, path: Path, sql: str) -> None:
        async with Database(path) as db:
            try:
                query = Query("q", sql)
            except QueryDefinitionError:
                return
            assert await db.fetch_one(query()) == (1,)

    @pytest.mark.parametrize(
        "trigger",
        [
            "CREATE TRIGGER t AFTER INSERT ON items BEGIN UPDATE items SET name = 'x'; END",
            "create temp trigger t after insert on items begin select 1; select 2; end;",
        ],
    )
    async def test_a_trigger_is_one_statement(self, path: Path, trigger: str) -> None:
        async with items(path) as db:
            await db.execute(Query("trigger", trigger)())

    @pytest.mark.parametrize(
        "sql",
        [
            "BEGIN",
            "begin immediate",
            "COMMIT",
            "END TRANSACTION",
            "ROLLBACK",
            "/* x */ SAVEPOINT a",
            "-- x\nRELEASE a",
            ";ROLLBACK TO a",
        ],
    )
    def test_transactions_are_not_begun_or_ended_by_queries(self, sql: str) -> None:
        """fault 19"""
        self.refused(sql, "transaction")

    def test_a_database_is_one_file(self) -> None:
        """fault 41"""
        self.refused("ATTACH 'other.db' AS other", "one file")
        self.refused("DETACH other", "one file")

    def test_vacuum_is_refused(self) -> None:
        """fault 24"""
        self.refused("VACUUM", "VACUUM")
        self.refused("vacuum into 'copy.db'", "VACUUM")

    @pytest.mark.parametrize("sql", ["SELCT 1", "items", "1", ":x", "'SELECT 1'", "."])
    def test_what_is_no_sql_at_all(self, sql: str) -> None:
        self.refused(sql)

    @pytest.mark.parametrize(
        "parameter", ["?", "?1", "?007", "$x", "@x", "#x", ":1", ":1x", "$x::y", "$x(y)", ":a$b"]
    )
    def test_parameters_are_written_with_a_colon(self, parameter: str) -> None:
        self.refused(f"SELECT {parameter}", "write :name")

    @pytest.mark.parametrize(
        "parameter", [":a::b", ":😀", ":a😀", ":a\u2019s", ":a\N{NO-BREAK SPACE}", ":a\u2028b"]
    )
    def test_a_name_that_python_would_read_differently_is_refused(self, parameter: str) -> None:
        """To SQLite all of it is the name, to a reader and to `**keywords` it is not."""
        self.refused(f"SELECT {parameter} AS a", "write :name")

    def test_a_nul_character_is_refused(self) -> None:
        """fault 32"""
        self.refused("SELECT 1 \0 FROM items", "NUL")

    def test_what_is_no_unicode_is_refused(self) -> None:
        self.refused("SELECT '\ud800'")

    def test_a_query_has_a_name(self) -> None:
        with pytest.raises(QueryDefinitionError, match=r"projects\.by_name"):
            Query("", "SELECT 1")

    @pytest.mark.parametrize("row", [complex, set, 7, "int", Iterator])
    def test_a_row_type_that_no_row_can_become(self, row: Any) -> None:
        with pytest.raises(TypeError):
            Query("q", "SELECT 1", row)


class TestReadOrWrite:
    """Reads go to readers and writes to the writer; which it is, is seen in the text."""

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1",
            "select * from items",
            "SeLeCt 1",
            "VALUES (1), (2)",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "WITH RECURSIVE a(n) AS (SELECT 1 UNION SELECT min(n + 1, 9) FROM a) SELECT * FROM a",
            "WITH a AS (SELECT 1), b AS (VALUES (2)) SELECT * FROM a, b",
            "WITH a AS MATERIALIZED (SELECT 1) SELECT * FROM a",
            "with a as (select replace('a', 'b', 'c')) select * from a",
            "WITH replace AS (SELECT 1) SELECT * FROM replace",
            "WITH replace(x) AS (SELECT 1) SELECT * FROM replace",
            "-- INSERT\n/* DELETE */ SELECT 1",
            "/* a\n-- b */ select 1",
            "SELECT 'INSERT INTO items', \"a\" FROM (SELECT 1 AS a)",
            "EXPLAIN SELECT 1",
            "EXPLAIN QUERY PLAN DELETE FROM items",
            "explain insert into items (name) values ('a')",
            "PRAGMA user_version",
            "PRAGMA table_info(items)",
            "PRAGMA main.table_info('items')",
            "pragma foreign_key_list(items)",
            "PRAGMA integrity_check(3)",
            "\N{ZERO WIDTH NO-BREAK SPACE}SELECT 1",
        ],
    )
    async def test_reads(self, path: Path, sql: str) -> None:
        query = Query("q", sql)
        assert not query.writes
        async with items(path) as db:
            await db.read(lambda cx: cx.fetch_all(query()))

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO items (name) VALUES ('a')",
            "insert into items (name) values ('a') returning id",
            "INSERT INTO items (name) SELECT 'a' WHERE 1 = 1",
            "REPLACE INTO items (id, name) VALUES (1, 'a')",
            "UPDATE items SET name = name",
            "update or ignore items set name = 'a'",
            "DELETE FROM items",
            "WITH a AS (SELECT 1 AS id) UPDATE items SET name = 'b' FROM a WHERE items.id = a.id",
            "with a(n) as (select 1) insert into items (name) select n from a",
            "WITH a AS (SELECT 1), b AS (SELECT 2) DELETE FROM items WHERE id IN a",
            "WITH explain AS (SELECT 1) DELETE FROM items",
            "WITH pragma(x) AS (SELECT 1) DELETE FROM items",
            "-- SELECT\nDELETE FROM items",
            "/* SELECT */ DELETE FROM items",
            "CREATE TABLE more (id)",
            "CREATE TEMP TABLE more (id)",
            "create index by_name on items (name)",
            "CREATE TABLE copied AS SELECT * FROM items",
            "ALTER TABLE items ADD COLUMN more TEXT",
            "DROP TABLE items",
            "REINDEX",
            "ANALYZE",
            "PRAGMA user_version = 3",
            "PRAGMA main.user_version=3",
            "PRAGMA user_version(3)",
            "PRAGMA application_id (7)",
        ],
    )
    async def test_writes(self, path: Path, sql: str) -> None:
        query = Query("q", sql)
        assert query.writes
        async with items(path, "one") as db:
            await db.write(lambda cx: cx.fetch_all(query()))

    @pytest.mark.parametrize(
        "sql",
        [
            "WITH explain AS (SELECT 1) DELETE FROM items",
            "PRAGMA user_version(3)",
            "DELETE FROM items RETURNING id",
        ],
    )
    async def test_a_read_in_memory_writes_nothing(self, sql: str) -> None:
        """One connection is both reader and writer there: the text is all that tells them apart
        (invariant 3)."""

        def before_and_after(cx: Session) -> object:
            return (
                cx.fetch_one(Query("count", "SELECT count(*) FROM items", int)()),
                cx.fetch_one(Query("version", "PRAGMA user_version", int)()),
            )

        async with items(":memory:", "a") as db:
            before = await db.read(before_and_after)
            with pytest.raises(sqlite3.OperationalError):
                await db.read(lambda cx: cx.fetch_all(Query("sly", sql)()))
            assert await db.read(before_and_after) == before


# -- parameters as SQLite finds them ---------------------------------------------------------------


class Asked(dict[str, str]):
    """Parameters that note which are looked up, in their order, and are all there."""

    def __getitem__(self, name: str) -> str:
        self.setdefault(name, "1")
        return super().__getitem__(name)


def asked_by_sqlite(sql: str) -> list[str] | None:
    """The names that SQLite finds in a text; None when it does not accept the text."""
    asked = Asked()
    with closing(sqlite3.connect(":memory:")) as raw:
        try:
            raw.execute(sql, asked).fetchall()
        except sqlite3.Error:
            return None
    return list(asked)


INSIDE = st.text(":ab'\"`[];-/*?$@#\r\n xé", max_size=8)
NAMES = st.from_regex(r"[a-z_é][a-z0-9_ñ]{0,3}", fullmatch=True)

SPACES = st.one_of(
    st.sampled_from([" ", "\n", "\t", "\r\n", "\f", " -- :a\n", "/* :b ' */", "--'\n", "/***/"]),
    INSIDE.filter(lambda text: "*/" not in text and not text.endswith("*")).map("/* {}*/".format),
    INSIDE.filter(lambda text: "\n" not in text).map("--{}\n".format),
)
VALUES = st.one_of(
    NAMES.map(":{}".format),
    INSIDE.map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.binary(max_size=3).map(lambda data: f"x'{data.hex()}'"),
    st.sampled_from(["1", ".5", "1.", "1e5", "1.5E+3", "0x1F", "NULL", "- 1", "+:a", "-:b", "~:a"]),
    NAMES.map("(:{})".format),
    NAMES.map("abs(:{})".format),
    st.tuples(NAMES, NAMES).map(lambda names: ":{}||:{}".format(*names)),
    st.tuples(NAMES, NAMES).map(lambda names: ":{}=:{}".format(*names)),
    NAMES.map("CASE :{} WHEN 1 THEN 2 END".format),
)
ALIASES = st.one_of(
    INSIDE.map(lambda text: '"' + text.replace('"', '""') + '"'),
    INSIDE.map(lambda text: "`" + text.replace("`", "``") + "`"),
    INSIDE.filter(lambda text: "]" not in text).map("[{}]".format),
    st.just("a$b"),
    st.just("é"),
)


@st.composite
def selects(draw: st.DrawFn) -> str:
    """A SELECT that SQLite accepts, with whatever may confuse a reader of its text."""
    columns = [
        "".join([draw(SPACES), draw(VALUES), draw(SPACES), "AS", draw(SPACES), draw(ALIASES)])
        for _ in range(draw(st.integers(1, 4)))
    ]
    end = draw(st.sampled_from(["", ";", "; ", " -- :end", "/* :end"]))
    return draw(SPACES) + "SELECT" + ",".join(columns) + end


PIECES = [
    *(":a", ":b1", ":é", ":a::b", ":", "::", "$a", "@a", "#a", "?", "?1", "=", "AS a", "a", "1"),
    *("'", "''", '"', "`", "[", "]", "--", "/*", "*/", ";", ",", "(", ")", "||", "->>", "x'00'"),
    *("1e5", "NULL", " ", "\n", "\xa0", "\x0b", "\x1c", "\u2019", "\ufeff", "\u0663", "😀"),
]
SOUP = st.lists(
    st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"]).filter(str.strip)),
    max_size=8,
).map(lambda pieces: "SELECT " + "".join(pieces).replace("\0", ""))


Fetch = Callable[[Statement[Any]], Any]


class TestParameters:
    """The parameters of a query are those that SQLite finds in its text, no more and no fewer, and
    each value reaches its own."""

    @given(selects())
    @example("SELECT ':a', :b AS [:c], \":d\", x'00' -- :e\n FROM (SELECT 1 AS \":d\") /* :f")
    @example("SELECT :a->>'$.b', 1e5, :a_1")
    @STEADY
    def test_are_those_that_sqlite_finds(self, sql: str) -> None:
        assert list(Query("q", sql).parameters) == asked_by_sqlite(sql)

    @given(SOUP)
    @example("SELECT :a::b")
    @example("SELECT :a😀")
    @settings(STEADY, max_examples=300)
    def test_whatever_sqlite_accepts_is_read_as_it_does_or_refused(self, sql: str) -> None:
        try:
            query = Query("q", sql)
        except QueryDefinitionError:
            return
        assert asked_by_sqlite(sql) in (None, list(query.parameters))

    @given(SOUP)
    @example("SELECT 1;;")
    @example("SELECT 1;\x0b")
    @STEADY
    def test_nothing_is_accepted_that_the_driver_takes_for_two_statements(self, sql: str) -> None:
        try:
            query = Query("q", sql)
        except QueryDefinitionError:
            return
        # What is no SQL at all is found out when it runs.
        with closing(sqlite3.connect(":memory:")) as raw, suppress(sqlite3.OperationalError):
            raw.execute(query.sql, Asked()).fetchall()

    def test_only_what_is_space_to_sqlite_is_left_off_its_end(self) -> None:
        assert Query("q", "SELECT a FROM t\xa0 \n").text == "SELECT a FROM t\xa0"

    @given(selects())
    @example("SELECT :a, :a, '?'")
    @example("SELECT :b, :a, :b, '?'")
    @STEADY
    def test_values_reach_their_parameters(self, fetch: Fetch, sql: str) -> None:
        query = Query("q", sql)
        values = {name: f"<{name}>" for name in query.parameters}
        with closing(sqlite3.connect(":memory:")) as raw:
            assert fetch(query(**values)) == raw.execute(sql, values).fetchone()

    @pytest.fixture(scope="class")
    @staticmethod
    def fetch() -> Iterator[Fetch]:
        """`fetch_one` of a database, without `await`, as a property test must."""
        db = Database(":memory:")
        with asyncio.Runner() as runner:
            runner.run(db.open())
            yield lambda statement: runner.run(db.fetch_one(statement))
            runner.run(db.close())

    async def test_their_order_is_that_of_their_first_use(self) -> None:
        query = Query("q", "SELECT :b, :a, :b, :c, :a")
        assert query.parameters == ("b", "a", "c")
        async with Database(":memory:") as db:
            assert await db.fetch_one(query(a=1, c=3, b=2)) == (2, 1, 2, 3, 1)
            assert await db.fetch_one(query({"c": 3, "b": 2, "a": 1})) == (2, 1, 2, 3, 1)

    async def test_their_order_is_not_that_of_the_arguments(self) -> None:
        query = Query("q", "SELECT :b, :a, :c")
        async with Database(":memory:") as db:
            assert await db.fetch_one(query(a=1, c=3, b=2)) == (2, 1, 3)
            assert await db.fetch_one(query({"c": 3, "b": 2, "a": 1})) == (2, 1, 3)


# -- binding ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    id: int
    name: str
    tags: list[str] = field(default_factory=list)
    at: datetime = datetime(2025, 3, 1, tzinfo=UTC)


@dataclass
class Unfinished:
    name: str
    id: int = field(init=False)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


INSERT = Query("items.insert", "INSERT INTO items VALUES (:id, :name)")
ECHO = Query("echo", "SELECT :x AS x", object)


class TestBinding:
    """A parameter that is missing, unknown or can't be stored is an error when the query is bound,
    before anything runs; it names the query and the parameter."""

    @staticmethod
    def refused(*row: object, because: str, query: Query[Any] = INSERT, **values: object) -> None:
        with pytest.raises(ParameterError, match=because) as caught:
            query(*row, **values)
        assert repr(query.name) in str(caught.value)

    def test_a_missing_one(self) -> None:
        """fault 27"""
        self.refused(because="misses 'name'; it takes 'id', 'name'", id=1)
        self.refused(because="misses 'id', 'name'")
        self.refused({"id": 1}, because="misses 'name'")
        self.refused({}, because="misses 'id', 'name'")

    def test_an_unknown_one(self) -> None:
        """fault 28"""
        self.refused(because="does not know 'nam'", id=1, name="a", nam="b")
        self.refused({"id": 1, "name": "a", "x": 2}, because="does not know 'x'")
        self.refused(query=Query("q", "SELECT 1"), because="it takes no parameters", x=1)

    def test_a_misspelt_one_is_both(self) -> None:
        self.refused(because="misses 'name' and does not know 'nmae'", id=1, nmae="a")

    @pytest.mark.parametrize("row", [(1, "a"), [1, "a"], "ab", b"ab", {1, 2}, 7, object(), Item])
    def test_values_without_names(self, row: object) -> None:
        """fault 29"""
        self.refused(row, because="binds keywords, a mapping or a dataclass")

    def test_two_sources(self) -> None:
        self.refused({"id": 1}, because="not both", name="a")

    @pytest.mark.parametrize(
        ("value", "because"),
        [
            (2**63, "64 bits"),
            (-(2**63) - 1, "64 bits"),
            ("\ud800", "surrogate"),
            (["a"], "Json"),
            ({"a": 1}, "Json"),
            (("a",), "Json"),
            (Item(1, "a"), "Json"),
            ({1}, "set"),
            (object(), "object"),
            (1j, "complex"),
            (float("nan"), "NaN"),
            (datetime(2025, 3, 1), "timezone"),
            (Json({1: "a"}), "key"),
            (Json(b"a"), "bytes"),
            (Json(float("nan")), "finite"),
        ],
    )
    def test_what_sqlite_can_not_store_as_it_is(self, value: object, because: str) -> None:
        """faults 30, 31"""
        self.refused(
            because=f"parameter 'name' of query 'items.insert' .*{because}", id=1, name=value
        )
        self.refused({"id": 1, "name": value}, because=f"'name'.*{because}")
        self.refused(query=ECHO, because=f"'x'.*{because}", x=value)

    def test_the_first_of_several_is_named(self) -> None:
        self.refused(because="'id'", id=2**63, name="\ud800")

    @pytest.mark.parametrize(
        "mapping",
        [
            {"name": "a", "id": 1},
            MappingProxyType({"id": 1, "name": "a"}),
            UserDict({"id": 1, "name": "a"}),
        ],
    )
    async def test_any_mapping_will_do(self, path: Path, mapping: Mapping[str, object]) -> None:
        async with items(path) as db:
            await db.execute(INSERT(mapping))
            assert await db.fetch_one(Query("q", "SELECT * FROM items")()) == (1, "a")

    async def test_a_dataclass_gives_the_fields_that_are_used(self, path: Path) -> None:
        async with items(path) as db:
            await db.execute(INSERT(Item(1, "a")))
            query = Query("q", "SELECT :at AS at, :tags AS tags", dict)
            assert await db.fetch_one(query(Item(2, "b", ["c"]))) == {
                "at": "2025-03-01T00:00:00.000+00:00",
                "tags": '["c"]',
            }

    def test_a_dataclass_without_a_field_for_it(self) -> None:
        query = Query("q", "SELECT :id, :colour")
        self.refused(Item(1, "a"), query=query, because="misses 'colour'")

    @pytest.mark.parametrize(
        ("item", "because"),
        [
            (Item("2025", "a", at="today"), "'at'.*is not a datetime"),  # type: ignore[arg-type]
            (Item(1, "a", tags=[1]), "'tags'.*is not a str"),  # type: ignore[list-item]
            (Item(2**63, "a"), "'id'.*64 bits"),
        ],
    )
    def test_a_field_that_is_not_what_it_declares(self, item: Item, because: str) -> None:
        query = Query("q", "SELECT :id, :name, :tags, :at")
        self.refused(item, query=query, because=f"parameter {because}")

    def test_a_field_that_has_not_been_given_a_value(self) -> None:
        self.refused(Unfinished("a"), because="'id'")

    def test_names_that_python_uses_itself(self) -> None:
        query = Query("q", "SELECT :self, :row, :values, :name, :class, :None")
        names = dict.fromkeys(query.parameters, 1)
        assert query(**names).query is query(names).query is query

    @pytest.mark.parametrize(
        ("value", "stored"),
        [
            (None, None),
            (True, 1),
            (2**63 - 1, 2**63 - 1),
            (-(2**63), -(2**63)),
            (float("inf"), float("inf")),
            ("a\0b", "a\0b"),
            ("", ""),
            (b"", b""),
            (b"\0\xff", b"\0\xff"),
            (bytearray(b"a"), b"a"),
            (memoryview(b"a"), b"a"),
            (Colour.RED, "red"),
            (Level.HIGH, 3),
            (Json({"a": [1, None]}), '{"a":[1,null]}'),
        ],
    )
    async def test_what_is_stored_comes_back(self, value: object, stored: object) -> None:
        """NUL in text: fault 32"""
        async with Database(":memory:") as db:
            found = await db.fetch_one(ECHO(x=value))
            assert found == stored
            assert type(found) is type(stored)


class TestStatement:
    """A statement is a query with its values as they were when it was bound, to be run any number
    of times, and shows none of them."""

    async def test_runs_again_and_again(self, path: Path) -> None:
        add = Query("add", "INSERT INTO items (name) VALUES (:a || random())")(a="x")
        async with items(path) as db:
            for expected in (1, 2, 3):
                assert (await db.execute(add)).lastrowid == expected
            assert len(await db.execute_batch([add, add])) == 2

    async def test_does_not_follow_what_it_was_bound_to(self) -> None:
        text, tags, values = bytearray(b"a"), ["a"], {"x": 1}
        statements = [ECHO(x=text), ECHO(x=Json(tags)), ECHO(values)]
        text[0], tags[0], values["x"] = 98, "b", 2
        async with Database(":memory:") as db:
            assert [await db.fetch_one(statement) for statement in statements] == [b"a", '["a"]', 1]

    def test_a_query_can_be_bound_by_many_at_a_time(self) -> None:
        first, second = ECHO(x=1), ECHO(x=2)
        assert (list(first.values), list(second.values)) in (([1], [2]), (["x"], ["x"]))

    @given(st.text("abcdef", min_size=12))
    @STEADY
    def test_shows_no_value(self, secret: str) -> None:
        """invariant 27"""
        statement = INSERT(id=1, name=secret)
        for shown in (repr(statement), str(statement), f"{statement}", repr([statement])):
            assert secret not in shown
            assert "items.insert" in shown

    def test_shows_its_query_and_parameters(self) -> None:
        assert repr(INSERT(id=1, name="a")) == "<Statement items.insert(id, name)>"
        assert repr(INSERT) == "<Query items.insert>"

    def test_its_types_can_be_written_down(self) -> None:
        def count(query: Query[int]) -> Statement[int]:
            return query()

        assert Query[Item].__origin__ is Query  # type: ignore[attr-defined]
        assert count(Query("q", "SELECT 1", int)).query.row is int
