"""The verbs of `Database`: what they return, what they count, what they keep alive."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    TOUCH,
    Holder,
    Witness,
    busy,
    items,
    until,
)

from abt_db import (
    AbtDbError,
    Database,
    IntegrityError,
    MappingError,
    Query,
    Result,
    Session,
    StatementTimeoutError,
)


@dataclass
class Item:
    id: int
    name: str


ITEM = Query("items.item", "SELECT id, name FROM items WHERE id = :id", Item)
ITEMS = Query("items.items", "SELECT id, name FROM items ORDER BY id", Item)
RENAME = Query("items.rename", "UPDATE items SET name = :name WHERE id = :id")
REMOVE = Query("items.remove", "DELETE FROM items WHERE id = :id")
ADD_RETURNING = Query(
    "items.add_returning", "INSERT INTO items (name) VALUES (:name) RETURNING id, name", Item
)


class TestVerbs:
    """One statement in, rows or a result out; the same verbs on every handle."""

    async def test_rows(self, path: Path) -> None:
        async with items(path, *"ab") as db:
            assert await db.fetch_one(ITEM(id=2)) == Item(2, "b")
            assert await db.fetch_one(ITEM(id=3)) is None
            assert await db.fetch_all(ITEMS()) == [Item(1, "a"), Item(2, "b")]
            assert await db.fetch_all(NAMES()) == ["a", "b"]
            assert await db.fetch_one(COUNT()) == 2

    async def test_results(self, path: Path) -> None:
        async with items(path, *"ab") as db:
            assert await db.execute(ADD(name="c")) == Result(1, 3)
            assert await db.execute(RENAME(id=1, name="x")) == Result(1, None)
            assert await db.execute(REMOVE(id=9)) == Result(0, None)
            assert await db.execute(Query("t", "CREATE TABLE t (x)")()) == Result(-1, None)
            batch = [ADD(name="d"), REMOVE(id=1), RENAME(id=2, name="y")]
            assert await db.execute_batch(batch) == [Result(1, 4), Result(1, None), Result(1, None)]
            assert await db.execute_batch([]) == []
            assert await db.execute_many(ADD, [Item(0, "e"), {"name": "f"}]) == 2
            assert await db.execute_many(ADD, []) == 0

    async def test_a_write_that_returns_rows(self, path: Path) -> None:
        async with items(path) as db, Witness(db) as witness:
            assert await db.fetch_one(ADD_RETURNING(name="a")) == Item(1, "a")
            assert await db.fetch_all(ADD_RETURNING(name="b")) == [Item(2, "b")]
            assert await db.execute(ADD_RETURNING(name="c")) == Result(1, 3)
            with pytest.raises(IntegrityError):
                await db.fetch_one(ADD_RETURNING(name="c"))
            await witness.whole()
            assert witness.count() == 3

    async def test_rows_that_do_not_fit_undo_the_write_that_returned_them(self, path: Path) -> None:
        wrong = Query("wrong", "INSERT INTO items (name) VALUES ('x') RETURNING name", datetime)
        async with items(path) as db, Witness(db) as witness:
            for fetch in db.fetch_one, db.fetch_all:
                with pytest.raises(MappingError, match="'wrong'"):
                    await fetch(wrong())
            await witness.whole()
            assert witness.count() == 0

    async def test_functions(self, path: Path) -> None:
        def move(cx: Session, old: str, *, new: str) -> list[str]:
            for item in cx.stream(ITEMS(), size=1):
                if item.name == old:
                    cx.execute(RENAME(id=item.id, name=new))
            return cx.fetch_all(NAMES())

        async with items(path, *"ab") as db, Witness(db) as witness:
            assert await db.write(move, "a", new="c") == ["c", "b"]
            async with db.transaction() as tx:
                assert await tx.write(move, "b", new="d") == ["c", "d"]
            assert await db.read(lambda cx, n: cx.fetch_one(ITEM(id=n)), 1) == Item(1, "c")
            await witness.whole()

    async def test_an_error_names_the_query_and_no_value(self, path: Path) -> None:
        """invariant 27."""
        async with items(path, "secret") as db:
            with pytest.raises(IntegrityError) as caught:
                await db.execute(ADD(name="secret"))
            error = caught.value
            assert (error.query, error.sql) == ("items.add", ADD.sql)
            assert error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"
            chain = [error, error.__cause__, *error.__notes__]
            assert not any("secret" in repr(part) + str(part) for part in chain)

    async def test_a_cursor_that_a_function_leaves_open_is_closed(self, path: Path) -> None:
        async with items(path, *"abc") as db, Witness(db) as witness:
            await db.read(lambda cx: next(iter(cx.stream(NAMES(), size=1))))
            await db.write(lambda cx: next(iter(cx.stream(NAMES(), size=1))))
            await witness.whole()

    async def test_a_session_is_refused_outside_its_function(self, path: Path) -> None:
        """fault 59: another thread would meet the connection at work."""
        async with items(path, *"abc") as db, Witness(db) as witness:
            session = await db.read(lambda cx: cx)
            with pytest.raises(AbtDbError):
                session.fetch_one(COUNT())
            lazily = await db.read(lambda cx: cx.stream(NAMES()))
            with pytest.raises(AbtDbError):
                list(lazily)
            begun = await db.read(lambda cx: (rows := cx.stream(NAMES(), size=1), next(rows))[0])
            with pytest.raises(AbtDbError):
                list(begun)
            await witness.whole()

    @pytest.mark.parametrize("wrong", ["SELECT 1", COUNT, None, ("SELECT 1",)])
    async def test_what_is_no_statement_is_refused(self, path: Path, wrong: Any) -> None:
        """SQL in a string, as other libraries take it; a query that was not called."""
        said = "no statement yet: call it" if wrong is COUNT else "no statement: make a Query"
        async with items(path) as db, db.transaction() as tx, db.snapshot() as snapshot:
            verbs: list[Any] = [db.fetch_one, db.fetch_all, db.execute, db.stream, db.watch]
            verbs += [tx.fetch_one, tx.fetch_all, tx.execute, snapshot.fetch_one]
            verbs += [lambda wrong: db.execute_batch([wrong])]
            for verb in verbs:
                with pytest.raises(TypeError, match=said):
                    await verb(wrong)
            with pytest.raises(TypeError):
                await db.read(wrong)


class TestMemory:
    """What a call was given or has returned is the caller's alone: the connection's thread does not
    keep it until its next call."""

    @pytest.mark.parametrize("verb", ["read", "write", "transaction", "fetch_all"])
    async def test_a_result_is_let_go(self, path: Path, verb: str) -> None:
        async with items(path, *"ab", readers=1) as db:
            kept = []
            if verb == "fetch_all":
                rows: list[Any] = await db.fetch_all(ITEMS())
                kept = [Weak(row) for row in rows]
                del rows
            elif verb == "transaction":
                async with db.transaction() as tx:
                    kept = [Weak(await tx.read(lambda cx: Thing()))]
                    await asyncio.sleep(0)
                    assert not kept[0].alive()
            else:
                kept = [Weak(await getattr(db, verb)(lambda cx: Thing()))]
            await asyncio.sleep(0)  # the loop itself keeps it for the turn that brought it
            assert not any(weak.alive() for weak in kept)

    async def test_an_error_is_let_go(self, path: Path) -> None:
        class FailedError(Exception):
            pass

        def fail(cx: Session) -> None:
            raise FailedError

        async with items(path, readers=1) as db:
            try:
                await db.read(fail)
            except FailedError as error:
                weak = Weak(error)
            await asyncio.sleep(0)
            gc.collect()  # a traceback is a cycle now and then
            assert not weak.alive()

    async def test_the_rows_of_execute_many_are_let_go(self, path: Path) -> None:
        async with items(path) as db:
            rows = Rows({"name": str(number)} for number in range(3))
            weak = Weak(rows)
            await db.execute_many(ADD, rows)
            del rows
            await asyncio.sleep(0)
            assert not weak.alive()

    async def test_a_function_and_its_arguments_are_let_go(self, path: Path) -> None:
        async with items(path) as db:
            thing = Thing()
            weak = Weak(thing)
            await db.write(lambda cx, thing: None, thing)
            del thing
            await asyncio.sleep(0)
            assert not weak.alive()


class Thing:
    """What a weak reference can be made to."""


class Rows(list[Any]):
    """A list that a weak reference can be made to."""


class Weak:
    """Whether an object is still there, without keeping it."""

    def __init__(self, thing: object) -> None:
        self._reference = weakref.ref(thing)

    def alive(self) -> bool:
        return self._reference() is not None


class TestStatistics:
    """`stats()` and `repr` say what is going on, and cost no more the longer the program runs."""

    async def test_repr_is_the_state(self, path: Path) -> None:
        db = Database(path)
        assert repr(db) == "<Database app.db: closed>"
        async with items(path, readers=2) as db:
            assert repr(db) == "<Database app.db: writer idle, readers 0/2, 0 waiting>"
            async with Holder(db.transaction()), Holder(db.snapshot()):
                assert repr(db) == "<Database app.db: writer busy, readers 1/2, 0 waiting>"
                waiting = [asyncio.create_task(db.execute(ADD(name=name))) for name in "abc"]
                await until(lambda: busy(db) == 5)
                assert repr(db) == "<Database app.db: writer busy, readers 1/2, 3 waiting>"
            await asyncio.wait(waiting)
        assert repr(db) == "<Database app.db: closed>"

    async def test_calls_are_counted_by_query(self, path: Path) -> None:
        async with items(path, *"ab") as db:
            for _ in range(3):
                await db.fetch_one(COUNT())
            began = monotonic()
            with pytest.raises(StatementTimeoutError):
                await db.fetch_one(ENDLESS(), timeout=0.05)
            took = monotonic() - began
            with pytest.raises(IntegrityError):
                await db.execute(ADD(name="a"))
            queries = db.stats()["queries"]
            assert queries["items.count"]["count"] == 3
            assert queries["items.count"]["errors"] == 0
            assert queries["endless"]["errors"] == 1
            assert queries["items.add"]["errors"] == 1
            assert queries["endless"]["slowest"] <= took
            for figures in queries.values():
                assert 0 < figures["slowest"] <= figures["seconds"]

    async def test_connections_are_counted_by_lane(self, path: Path) -> None:
        async with items(path, readers=3) as db:
            before = db.stats()["writer"]
            async with db.transaction():
                waiting = asyncio.create_task(db.execute(ADD(name="a")))
                await until(lambda: db.stats()["writer"]["waiting"] == 1)
            await waiting
            after = db.stats()["writer"]
            assert sum(after.pop("batches").values()) == sum(before.pop("batches").values()) + 1
            response = after.pop("response")["count"] - before.pop("response")["count"]
            assert response == 1
            changes = {name: after[name] - before[name] for name in after}
            assert changes.pop("longest_wait") > 0
            assert changes == {
                "size": 0,
                "idle": 0,
                "busy": 0,
                "waiting": 0,
                "opened": 0,
                "replaced": 0,
                "overflow": 0,
                "overflows": 0,
                "calls": 1,
                "hops": 1,
                "commits": 2,
                "loans": 1,
                "waits": 1,
            }
            assert db.stats()["readers"]["size"] == db.stats()["readers"]["opened"] == 3

    async def test_they_begin_anew_with_each_opening(self, path: Path) -> None:
        async with items(path) as db:
            await db.fetch_one(COUNT())
            await db.close()
            await db.open()
            assert db.stats()["queries"] == {}
            assert db.stats()["readers"]["calls"] == 0

    async def test_they_are_bounded(self, path: Path) -> None:
        async with items(path) as db:
            for number in range(1100):
                await db.fetch_one(Query(f"query {number}", "SELECT 1", int)())
            queries = db.stats()["queries"]
            assert len(queries) <= 1001
            assert sum(figures["count"] for figures in queries.values()) >= 1100

    async def test_nothing_grows_with_the_number_of_calls(self, path: Path) -> None:
        async def some() -> int:
            for _ in range(200):
                await db.fetch_one(COUNT())
                await db.execute(TOUCH(id=1))
                async with db.snapshot() as view:
                    await view.fetch_one(COUNT())
            gc.collect()
            # Those of asyncio's WeakSet of tasks come and go in bunches.
            return sum(type(thing) is not weakref.ref for thing in gc.get_objects())

        async with items(path, "a") as db:
            await some()
            before = await some()
            assert await some() - before < 100
