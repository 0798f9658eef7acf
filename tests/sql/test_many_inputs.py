"""What the verbs take many things from: an iterable is served, anything else refused with a word.

Each is tried through the database, a transaction and the session of a function.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, CREATE, NAMES, Holder, items

from abt_db import Database, Query, QueryError, Result, Session

ADD_RETURNING = Query(
    "items.returning", "INSERT INTO items (name) VALUES (:name) RETURNING id", int
)


@dataclass
class Item:
    name: str


class Rows:
    """An iterable of the old kind."""

    def __getitem__(self, place: int) -> dict[str, str]:
        return [{"name": "a"}, {"name": "b"}][place]


def generated() -> Iterator[Any]:
    yield {"name": "a"}


async def generated_slowly() -> AsyncIterator[Any]:
    yield {"name": "a"}


async def awaited() -> list[Any]:
    return [{"name": "a"}]


class Cursor:
    """As of a driver: asynchronous, and no generator."""

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration


NO_SERIES: dict[str, tuple[Callable[[], Any], str]] = {
    "an async generator": (generated_slowly, "an async one: make a list"),
    "an async iterable": (Cursor, r"run_batch\(\)"),
    "a coroutine": (awaited, "await it"),
    "a generator function": (lambda: generated, "call it"),
    "an async generator function": (lambda: generated_slowly, "call it"),
    "a row": (lambda: {"name": "a"}, "a dict: put it into a list"),
    "an empty row": (dict, "a dict: put it into a list"),
    "a dataclass": (lambda: Item("a"), "an? Item: put it into a list"),
    "a statement": (lambda: ADD(name="a"), "a Statement: put it into a list"),
    "a query": (lambda: ADD, "a Query: put it into a list"),
    "a text": (lambda: "abc", "a str: put it into a list"),
    "an empty text": (str, "a str: put it into a list"),
    "bytes": (lambda: b"abc", "a bytes: put it into a list"),
    "None": (lambda: None, "not None"),
    "a number": (lambda: 7, "a int: put it into a list"),
}

WAYS = ["database", "transaction", "session"]


async def by(way: str, db: Database, verb: str, *arguments: Any) -> Any:
    """Call a verb of the database, or of what it hands out."""
    if way == "database":
        return await getattr(db, verb)(*arguments)
    if way == "session":
        return await db.write(lambda cx: getattr(cx, verb)(*arguments))
    async with db.transaction() as tx:
        return await getattr(tx, verb)(*arguments)


@pytest.mark.filterwarnings("ignore:coroutine 'awaited' was never awaited")
@pytest.mark.parametrize("way", WAYS)
class TestSeries:
    """Refused, and nothing is there."""

    @pytest.mark.parametrize("given", NO_SERIES)
    async def test_rows_that_are_no_iterable(self, path: Path, way: str, given: str) -> None:
        make, told = NO_SERIES[given]
        async with items(path) as db:
            with pytest.raises(TypeError, match=f"execute_many takes an iterable of rows.*{told}"):
                await by(way, db, "execute_many", ADD, make())
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize("given", NO_SERIES)
    async def test_statements_that_are_no_iterable(self, path: Path, way: str, given: str) -> None:
        make, told = NO_SERIES[given]
        async with items(path) as db:
            with pytest.raises(TypeError, match=f"execute_batch takes an iterable.*{told}"):
                await by(way, db, "execute_batch", make())
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize(
        "rows",
        [generated, Rows, tuple, set, lambda: iter([]), lambda: {1: {"name": "a"}}.values()],
    )
    async def test_every_iterable_is_served(
        self, path: Path, way: str, rows: Callable[[], Any]
    ) -> None:
        async with items(path) as db:
            made = rows()
            expected = len(list(rows()))
            assert await by(way, db, "execute_many", ADD, made) == expected

    @pytest.mark.parametrize(
        ("query", "told"),
        [
            (ADD(name="a"), "not a statement"),
            (ADD.sql, "not a str"),
            (None, "not a NoneType"),
        ],
        ids=["statement", "text", "None"],
    )
    async def test_what_is_no_query(self, path: Path, way: str, query: Any, told: str) -> None:
        async with items(path) as db:
            with pytest.raises(TypeError, match=f"execute_many takes a Query.*{told}"):
                await by(way, db, "execute_many", query, [{"name": "a"}])

    @pytest.mark.parametrize("verb", ["execute", "fetch_one", "fetch_all"])
    @pytest.mark.parametrize("given", ["SELECT 1", None, {"name": "a"}, ADD])
    async def test_what_is_no_statement(self, path: Path, way: str, verb: str, given: Any) -> None:
        async with items(path) as db:
            with pytest.raises(TypeError, match="is no statement"):
                await by(way, db, verb, given)
            for batch in ([given], [ADD(name="a"), given]):
                with pytest.raises(TypeError, match="is no statement"):
                    await by(way, db, "execute_batch", batch)
            assert await db.fetch_one(COUNT()) == 0


async def test_a_mistake_is_told_without_waiting_for_the_writer(path: Path) -> None:
    async with items(path, acquire_timeout=0.05) as db, Holder(db.transaction()):
        mistakes: list[tuple[str, tuple[Any, ...]]] = [
            ("execute_many", (ADD, None)),
            ("execute_many", (ADD_RETURNING, [])),
            ("execute_batch", (None,)),
            ("execute_batch", ([ADD],)),
            ("run_batch", (None,)),
        ]
        for verb, arguments in mistakes:
            with pytest.raises((TypeError, QueryError)):
                await by("database", db, verb, *arguments)


class TestRunBatch:
    """It takes async iterables; what is no iterable at all is refused with the same words."""

    @pytest.mark.parametrize("given", ["a row", "a text", "None", "a statement", "a coroutine"])
    @pytest.mark.filterwarnings("ignore:coroutine 'awaited' was never awaited")
    async def test_operations_that_are_no_iterable(self, path: Path, given: str) -> None:
        make, told = NO_SERIES[given]
        async with items(path) as db:
            with pytest.raises(TypeError, match=f"run_batch takes an iterable.*{told}"):
                await db.run_batch(make())

    @pytest.mark.parametrize(
        ("operation", "told"), [("ADD", "a str is no function"), (generated, "generator function")]
    )
    async def test_an_operation_that_is_none(self, path: Path, operation: Any, told: str) -> None:
        async with items(path) as db:
            report = await db.run_batch([operation])
            [failure] = report.failures
            assert isinstance(failure.error, TypeError) and told in str(failure.error)


class TestFunctions:
    """A function that could do nothing is refused: its call would seem to have gone well."""

    @pytest.mark.parametrize("verb", ["read", "write"])
    async def test_a_generator_function_is_refused(self, path: Path, verb: str) -> None:
        def add(cx: Session) -> Iterator[Any]:
            yield cx.execute(ADD(name="a"))

        async with items(path) as db:
            for way in ("database", "transaction"):
                with pytest.raises(TypeError, match="add is a generator function"):
                    await by(way, db, verb, add)
                with pytest.raises(TypeError, match="a Statement is no function"):
                    await by(way, db, verb, COUNT())

    @pytest.mark.parametrize("verb", ["read", "write"])
    async def test_a_function_that_returns_a_coroutine_is_refused(
        self, path: Path, verb: str
    ) -> None:
        """As a lambda can, of which nothing says so before it is called."""

        async def add(cx: Session) -> None:
            cx.execute(ADD(name="a"))

        async with items(path) as db:
            for way in ("database", "transaction"):
                with pytest.raises(TypeError, match="returned a coroutine"):
                    await by(way, db, verb, lambda cx: add(cx))
            assert await db.fetch_one(COUNT()) == 0


@pytest.mark.parametrize("way", WAYS)
class TestReturning:
    """Rows are returned, or it is said that they are not."""

    async def test_execute_many_refuses_it_and_says_what_to_use(self, path: Path, way: str) -> None:
        async with items(path) as db:
            with pytest.raises(QueryError, match="leave out RETURNING, or use fetch_one") as error:
                await by(way, db, "execute_many", ADD_RETURNING, [{"name": "a"}])
            assert error.value.query == "items.returning"
            assert await db.fetch_one(COUNT()) == 0

    @pytest.mark.parametrize(
        "sql",
        [
            "WITH n AS (SELECT :name AS x) INSERT INTO items (name) SELECT x FROM n returning id",
            "UPDATE items SET name = :name RETURNING *",
            "DELETE FROM items WHERE name = :name Returning rowid",
        ],
    )
    async def test_however_it_is_written(self, path: Path, way: str, sql: str) -> None:
        async with items(path) as db:
            with pytest.raises(QueryError, match="RETURNING"):
                await by(way, db, "execute_many", Query("q", sql), [{"name": "a"}])

    async def test_a_text_that_only_speaks_of_it_is_served(self, path: Path, way: str) -> None:
        sql = "INSERT INTO items (name) VALUES (:name || 'RETURNING') -- RETURNING"
        async with items(path) as db:
            assert await by(way, db, "execute_many", Query("q", sql), [{"name": "a"}]) == 1

    async def test_execute_tells_what_it_did_and_fetch_returns_the_rows(
        self, path: Path, way: str
    ) -> None:
        async with items(path) as db:
            assert await by(way, db, "execute", ADD_RETURNING(name="a")) == Result(1, 1)
            batch = [ADD_RETURNING(name="b"), ADD(name="c")]
            assert await by(way, db, "execute_batch", batch) == [Result(1, 2), Result(1, 3)]
            assert await by(way, db, "fetch_one", ADD_RETURNING(name="d")) == 4
            assert await by(way, db, "fetch_all", ADD_RETURNING(name="e")) == [5]
            assert await db.fetch_all(NAMES()) == [*"abcde"]
            assert CREATE.returns is ADD.returns is False
