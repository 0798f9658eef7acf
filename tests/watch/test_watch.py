"""Live queries: told after each commit that matters, missing nothing, at the cost of one."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    ENDLESS,
    NAMES,
    SOON,
    TOUCH,
    Driver,
    Gate,
    items,
    run_script,
    until,
)

from abt_db import (
    AbtDbError,
    Config,
    Database,
    PoolClosedError,
    Query,
    QueryError,
    StatementError,
    Watch,
)
from abt_db.connection.deadline import Deadline
from abt_db.events import Committed

QUIET = 0.2
"""Seconds in which what is told wrongly would have been told."""


async def nothing_more(watch: Watch[Any]) -> bool:
    """Whether a watch says no more. The only way to see that is to wait for it a while."""
    try:
        async with asyncio.timeout(QUIET):
            await anext(watch)
    except TimeoutError:
        return True
    return False


async def soon(watch: Watch[Any]) -> list[Any]:
    """The next state, which has to come."""
    return await asyncio.wait_for(anext(watch), SOON)


async def until_state(watch: Watch[Any], state: list[Any]) -> None:
    """Skip states until this one, which has to come."""
    async with asyncio.timeout(SOON):
        async for rows in watch:
            if rows == state:
                return


def watchers() -> list[str]:
    """The tasks that live queries have in this loop."""
    return [
        task.get_name()
        for task in asyncio.all_tasks()
        if task.get_name().startswith("abt_db watch") and not task.done()
    ]


def runs(db: Database, query: Query[Any]) -> int:
    return int(db.stats()["queries"][query.name]["count"])


def runs_of(db: Database) -> set[str]:
    """The names of the queries that have run and read."""
    return db.stats()["queries"].keys() & {NAMES.name, COUNT.name}


async def _all_of(watch: Watch[Any]) -> list[list[Any]]:
    return [rows async for rows in watch]


async def looked_for_others(db: Database) -> None:
    """Wait until the database has looked twice whether others have committed."""
    hops = db.stats()["writer"]["hops"]
    await until(lambda: db.stats()["writer"]["hops"] >= hops + 2)


@dataclass(frozen=True)
class Entity:
    """Equal if it is the same row, whatever is in it."""

    id: int
    note: str = field(compare=False)


SCHEMA = [
    Query(f"schema {number}", sql)
    for number, sql in enumerate(
        [
            "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
            "CREATE TABLE children (parent INTEGER REFERENCES parents ON DELETE CASCADE)",
            "CREATE TABLE journal (entry TEXT)",
            "CREATE TABLE apart (x INTEGER)",
            "CREATE VIEW families AS SELECT name, count(parent) AS size"
            " FROM parents LEFT JOIN children ON parent = id GROUP BY id",
            "CREATE TRIGGER noted AFTER INSERT ON parents"
            " BEGIN INSERT INTO journal VALUES (new.name); END",
            "CREATE VIEW door AS SELECT name FROM parents",
            "CREATE TRIGGER entered INSTEAD OF INSERT ON door"
            " BEGIN INSERT INTO parents (name) VALUES (new.name); END",
            "INSERT INTO parents VALUES (1, 'first')",
            "INSERT INTO children VALUES (1)",
        ]
    )
]
PARENTS = Query("parents", "SELECT name FROM parents ORDER BY id", str)
CHILDREN = Query("children", "SELECT count(*) FROM children", int)
JOURNAL = Query("journal", "SELECT entry FROM journal", str)
APART = Query("apart", "SELECT x FROM apart", int)
FAMILIES = Query("families", "SELECT name, size FROM families", tuple)
ADD_PARENT = Query("parents.add", "INSERT INTO parents (name) VALUES (:name)")
ADD_CHILD = Query("children.add", "INSERT INTO children VALUES (1)")


class TestWhatIsTold:
    """The rows as they are, and anew after each commit to a table that the statement reads."""

    async def test_first_the_rows_as_they_are_then_each_change(self, path: Path) -> None:
        async with items(path, "a") as db:
            watch = db.watch(NAMES())
            assert await soon(watch) == ["a"]
            await db.execute(ADD(name="b"))
            assert await soon(watch) == ["a", "b"]
            assert await nothing_more(watch)

    @pytest.mark.parametrize(
        "write",
        [
            lambda db: db.execute(ADD(name="b")),
            lambda db: db.execute_batch([TOUCH(id=1), ADD(name="b")]),
            lambda db: db.execute_many(ADD, [{"name": "b"}]),
            lambda db: db.fetch_one(
                Query("add", "INSERT INTO items (name) VALUES ('b') RETURNING id", int)()
            ),
            lambda db: db.write(lambda cx: cx.execute(ADD(name="b"))),
            lambda db: _in_transaction(db, lambda tx: tx.execute(ADD(name="b"))),
            lambda db: _in_transaction(db, lambda tx: tx.execute_many(ADD, [{"name": "b"}])),
            lambda db: asyncio.gather(db.execute(ADD(name="b")), db.execute(TOUCH(id=1))),
            lambda db: db.execute(Query("r", "REPLACE INTO items (id, name) VALUES (2, 'b')")()),
            lambda db: db.execute(
                Query("w", "WITH x AS (SELECT 'b' AS n) INSERT INTO items (name) SELECT n FROM x")()
            ),
        ],
        ids=[
            *("execute", "batch", "many", "returning", "write", "transaction", "many-in-one"),
            *("group", "replace", "with"),
        ],
    )
    async def test_every_way_to_write(
        self, path: Path, write: Callable[[Database], Awaitable[Any]]
    ) -> None:
        async with items(path, "a") as db:
            watch = db.watch(NAMES())
            assert await soon(watch) == ["a"]
            await write(db)
            await until_state(watch, ["a", "b"])

    @pytest.mark.parametrize(
        ("watched", "write"),
        [
            (FAMILIES, ADD_CHILD()),
            (FAMILIES, ADD_PARENT(name="second")),
            (JOURNAL, ADD_PARENT(name="second")),
            (PARENTS, Query("door", "INSERT INTO door VALUES ('second')")()),
            (CHILDREN, Query("delete", "DELETE FROM parents WHERE id = 1")()),
            (CHILDREN, Query("replace", "REPLACE INTO parents VALUES (1, 'other')")()),
            (CHILDREN, Query("truncate", "DELETE FROM children")()),
            (PARENTS, Query("all", "UPDATE parents SET name = name || '!'")()),
        ],
        ids=lambda value: value.name if isinstance(value, Query) else value.query.name,
    )
    async def test_views_triggers_and_cascades(
        self, path: Path, watched: Query[Any], write: Any
    ) -> None:
        async with Database(path, config=Config(watch_interval=None)) as db:
            for query in SCHEMA:
                await db.execute(query())
            watch = db.watch(watched())
            await soon(watch)
            await db.execute(write)
            assert await soon(watch) == await db.fetch_all(watched())

    async def test_not_what_is_written_elsewhere(self, path: Path) -> None:
        async with Database(path) as db:
            for query in SCHEMA:
                await db.execute(query())
            apart, families = db.watch(APART()), db.watch(FAMILIES())
            await soon(apart)
            await soon(families)
            await db.execute(ADD_PARENT(name="second"))
            assert await soon(families) == [("first", 1), ("second", 0)]
            assert await nothing_more(apart)

    async def test_ones_own_commits_are_not_those_of_others(self, path: Path) -> None:
        async with items(path, "a", watch_interval=0.01) as db:
            await db.execute(Query("create", "CREATE TABLE apart (x)")())
            watch = db.watch(APART())
            await soon(watch)
            await until(lambda: runs(db, APART) == 2)  # the first look has nothing to compare with
            await db.execute(ADD(name="b"))
            await looked_for_others(db)
            await looked_for_others(db)
            assert runs(db, APART) == 2

    async def test_not_what_is_rolled_back(self, path: Path) -> None:
        async with items(path, "a") as db:
            watch = db.watch(NAMES())
            await soon(watch)
            with pytest.raises(ZeroDivisionError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="b"))
                    raise ZeroDivisionError
            assert await nothing_more(watch)
            with pytest.raises(AbtDbError):
                await db.execute(ADD(name="a"))
            assert await nothing_more(watch)

    async def test_a_statement_after_a_change_of_the_schema_is_known_anew(self, path: Path) -> None:
        """SQLite prepares it again without being asked to, and then it reads another table."""
        async with Database(path, config=Config(readers=1, watch_interval=None)) as db:
            for query in SCHEMA:
                await db.execute(query())
            door = Query("through the door", "SELECT name FROM door", str)
            watch = db.watch(door())
            assert await soon(watch) == ["first"]
            for source, found in (
                ("x AS name FROM apart", []),
                ("entry AS name FROM journal", ["first"]),
            ):
                async with db.transaction() as tx:
                    await tx.execute(Query("drop", "DROP VIEW door")())
                    await tx.execute(Query("create", f"CREATE VIEW door AS SELECT {source}")())
                assert await soon(watch) == found
            await db.execute(Query("journal.add", "INSERT INTO journal VALUES ('x')")())
            assert await soon(watch) == ["first", "x"]

    async def test_after_a_barrier_everyone(self, path: Path) -> None:
        async with items(path, "a", watch_interval=None) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            async with db.barrier() as loan:
                sql = "INSERT INTO items (name) VALUES ('b')"
                await loan.run(lambda session: session.control(sql), Deadline())
            assert await soon(watch) == ["a", "b"]

    async def test_not_what_is_as_it_was(self, path: Path) -> None:
        """A commit to the table is no news if the rows are the same (invariant 35)."""
        async with items(path, "a", watch_interval=None) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            before = runs(db, NAMES)
            await db.execute(TOUCH(id=1))
            await until(lambda: runs(db, NAMES) == before + 1)
            assert await nothing_more(watch)

    async def test_what_only_python_calls_equal_is_another_state(self, path: Path) -> None:
        async with Database(path, config=Config(watch_interval=None)) as db:
            await db.execute(Query("create", "CREATE TABLE t (id, x, note)")())
            await db.execute(Query("add", "INSERT INTO t VALUES (1, 1, 'a')")())
            numbers = db.watch(Query("numbers", "SELECT x FROM t", tuple)())
            entities = db.watch(Query("entities", "SELECT id, note FROM t", Entity)())
            assert await soon(numbers) == [(1,)]
            await soon(entities)
            await db.execute(Query("set", "UPDATE t SET x = 1.0, note = 'b'")())
            assert type((await soon(numbers))[0][0]) is float
            assert (await soon(entities))[0].note == "b"

    async def test_in_memory(self) -> None:
        async with items(":memory:") as db:
            watch = db.watch(COUNT())
            assert await soon(watch) == [0]
            await db.execute(ADD(name="a"))
            assert await soon(watch) == [1]

    async def test_more_statements_than_are_remembered(self, path: Path) -> None:
        """What a statement writes is forgotten some time; then it may have written anything."""
        async with items(path, "a", watch_interval=None, statement_cache=2000) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            await db.execute(ADD(name="b"))
            assert await soon(watch) == ["a", "b"]

            def others(cx: Any) -> None:
                for number in range(1100):
                    cx.execute(Query("o", f"UPDATE items SET name = name WHERE id = -{number}")())

            before = runs(db, NAMES)
            await db.write(others)
            await until(lambda: runs(db, NAMES) > before)
            await db.execute(ADD(name="c"))  # prepared long ago, and forgotten
            await until_state(watch, ["a", "b", "c"])


async def _in_transaction(db: Database, work: Callable[[Any], Awaitable[Any]]) -> None:
    async with db.transaction() as tx, tx.savepoint():
        await work(tx)


class TestNothingIsMissed:
    """invariant 26, whenever the commit comes."""

    @pytest.mark.parametrize("step", ["begin", NAMES.text, "end"])
    async def test_a_commit_while_the_rows_are_read_for_the_first_time(
        self, path: Path, step: str
    ) -> None:
        driver = Driver()
        async with items(path, "a", readers=1, connect=driver.connect, watch_interval=None) as db:
            gate = Gate(driver)
            gate.stop_at(step)
            watch = db.watch(NAMES())
            await gate.reached.wait()
            writing = asyncio.create_task(db.execute(ADD(name="b")))
            await asyncio.wait([writing])
            gate.open()
            await until_state(watch, ["a", "b"])

    async def test_who_comes_later_sees_every_write_that_was_acknowledged(self, path: Path) -> None:
        """invariant 6: not the state that the others have been told of."""
        async with items(path, watch_interval=None) as db:
            first = db.watch(COUNT())
            await soon(first)
            for number in range(1, 30):
                await db.execute(ADD(name=str(number)))
                assert await soon(db.watch(COUNT())) == [number]

    async def test_a_commit_whose_caller_was_cancelled(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect, watch_interval=None) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            gate = Gate(driver)
            gate.stop_at("COMMIT")
            task = asyncio.create_task(db.execute(ADD(name="b")))
            await gate.reached.wait()
            task.cancel()
            await asyncio.wait([task])
            gate.open()
            assert await soon(watch) == ["a", "b"]

    async def test_a_commit_that_ends_as_its_caller_is_cancelled(self, path: Path) -> None:
        """Its thread is done with it, and nobody who waits is left to be told."""
        async with items(path, "a", watch_interval=None) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            assert db._pool is not None
            assert db._pool.writer is not None
            [slot] = db._pool.writer.slots
            task = asyncio.create_task(db.execute(ADD(name="b")))
            await asyncio.sleep(0)
            limit = monotonic() + SOON
            while slot.connection is None or not slot.connection.settled:
                assert monotonic() < limit
                time.sleep(0.001)  # the loop must not hear of it
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert await soon(watch) == ["a", "b"]

    async def test_cancelled_it_takes_nothing_away(self, path: Path) -> None:
        async with items(path, "a") as db:
            watch = db.watch(NAMES())
            await soon(watch)
            for number in range(20):
                waiting = asyncio.create_task(anext(watch))
                await db.execute(ADD(name=str(number)))
                for _ in range(number):
                    await asyncio.sleep(0)  # at another turn each time
                waiting.cancel()
                await asyncio.wait([waiting])
                rows = await soon(watch) if waiting.cancelled() else waiting.result()
                assert rows[-1] == str(number)

    async def test_the_last_state_comes_however_fast_they_follow_each_other(
        self, path: Path
    ) -> None:
        async with items(path) as db:
            watch = db.watch(COUNT())
            await soon(watch)
            before = runs(db, COUNT)
            for number in range(0, 1000, 50):
                await asyncio.gather(*(db.execute(ADD(name=str(number + n))) for n in range(50)))
            await until_state(watch, [1000])
            assert runs(db, COUNT) - before < 500  # how many it is, time decides

    async def test_every_state_that_is_told_is_one_that_was(self, path: Path) -> None:
        """Readers that see half a transaction would be wrong, and so would be going back."""
        async with items(path) as db:
            told: list[int] = []

            async def look() -> None:
                async for [count] in db.watch(COUNT()):
                    told.append(count)
                    if count == 120:
                        return

            looking = [asyncio.create_task(look()) for _ in range(3)]
            for number in range(40):
                async with db.transaction() as tx:
                    for part in range(3):
                        await tx.execute(ADD(name=f"{number}.{part}"))
            await asyncio.wait_for(asyncio.gather(*looking), SOON)
            assert all(count % 3 == 0 for count in told)


class TestOtherProcesses:
    """SQLite tells only that somebody has committed, so what is the same is not told again."""

    async def test_their_commits_are_seen(self, path: Path) -> None:
        async with items(path, "a") as db:
            watch = db.watch(NAMES())
            assert await soon(watch) == ["a"]
            run_script(
                "sqlite3.connect(path).execute(\"INSERT INTO items VALUES (2, 'b')\")"
                ".connection.commit()",
                path,
            )
            assert await soon(watch) == ["a", "b"]

    async def test_what_they_leave_as_it_was_is_not_told(self, path: Path) -> None:
        async with items(path, "a") as db:
            watch = db.watch(NAMES())
            await soon(watch)
            for _ in range(2):
                await looked_for_others(db)
            before = runs(db, NAMES)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("CREATE TABLE others (x)")
            await until(lambda: runs(db, NAMES) > before)
            assert await nothing_more(watch)

    async def test_without_an_interval_nobody_looks(self, path: Path) -> None:
        async with items(path, "a", watch_interval=None) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            hops = db.stats()["writer"]["hops"]
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("INSERT INTO items VALUES (2, 'b')")
            assert await nothing_more(watch)
            assert db.stats()["writer"]["hops"] == hops

    async def test_a_follower_sees_the_writer(self, path: Path) -> None:
        async with (
            items(path, "a") as db,
            Database(path, read_only=True, config=Config(readers=3)) as follower,
        ):
            watch = follower.watch(NAMES())
            assert await soon(watch) == ["a"]
            for number, name in enumerate("bcdef", 2):
                await db.execute(ADD(name=name))
                assert len(await soon(watch)) == number

    async def test_a_long_transaction_of_ones_own_is_no_error(
        self, path: Path, clock: Clock
    ) -> None:
        async with items(path, "a", watch_interval=0.01, acquire_timeout=10) as db:
            watch = db.watch(NAMES())
            await soon(watch)
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
                await until(lambda: db.stats()["writer"]["waiting"])  # a look for others, which …
                clock.passes(10)
                await until(lambda: db.stats()["writer"]["longest_wait"] >= 10)  # … is given up
                assert await nothing_more(watch)
            assert await soon(watch) == ["a", "b"]


class TestSharing:
    """Equal statements are run once for all who watch them."""

    async def test_many_watchers_are_one_query(self, path: Path) -> None:
        async with items(path, "a", watch_interval=None) as db:
            watches = [db.watch(NAMES()) for _ in range(50)]
            for watch in watches:
                assert await soon(watch) == ["a"]
            before = runs(db, NAMES)
            await db.execute(ADD(name="b"))
            results = await asyncio.gather(*(soon(watch) for watch in watches))
            assert results == [["a", "b"]] * 50
            assert runs(db, NAMES) == before + 1
            results[0].clear()  # each has a list of its own
            assert results[1] == ["a", "b"]

    async def test_who_joins_is_told_and_nobody_else(self, path: Path) -> None:
        async with items(path, "a", watch_interval=None) as db:
            told = [0] * 100

            async def look(number: int) -> None:
                async for _ in db.watch(NAMES()):
                    told[number] += 1

            looking = []
            for number in range(100):
                looking.append(asyncio.create_task(look(number)))
                await until(lambda number=number: told[number])
            assert told == [1] * 100
            await db.execute(ADD(name="b"))
            await until(lambda: told == [2] * 100)
            for task in looking:
                task.cancel()

    async def test_who_joins_while_it_runs_sees_what_was_committed_before(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect, watch_interval=None) as db:
            gate = Gate(driver)
            gate.stop_at("end")  # it has read its rows
            first = db.watch(NAMES())
            await gate.reached.wait()
            await db.execute(ADD(name="b"))
            second = db.watch(NAMES())
            gate.open()
            assert await soon(second) == ["a", "b"]
            await until_state(first, ["a", "b"])

    async def test_other_values_are_another_statement(self, path: Path) -> None:
        async with items(path, "a", "b") as db:
            name = Query("name", "SELECT name FROM items WHERE id = :id", str)
            kind = Query("kind", "SELECT typeof(:x)", str)
            assert await soon(db.watch(name(id=1))) == ["a"]
            assert await soon(db.watch(name(id=2))) == ["b"]
            one, other = db.watch(kind(x=1)), db.watch(kind(x=1.0))
            assert await soon(one) == ["integer"]
            assert await soon(other) == ["real"]

    async def test_who_is_slow_holds_nobody_up_and_gets_the_last_state(self, path: Path) -> None:
        async with items(path) as db:
            quick, slow = db.watch(COUNT()), db.watch(COUNT())
            await soon(quick)
            await soon(slow)
            for number in range(5):
                await db.execute(ADD(name=str(number)))
                await until_state(quick, [number + 1])
            assert await soon(slow) == [5]


class TestTheEnd:
    """Watching costs nothing any more when nobody watches, and ends with the database."""

    @pytest.mark.parametrize("interval", [0.05, None])
    async def test_leaving_the_loop_is_enough(self, path: Path, interval: float | None) -> None:
        async with items(path, "a", watch_interval=interval) as db:
            async for rows in db.watch(NAMES()):
                assert rows == ["a"]
                if interval is not None:
                    await looked_for_others(db)
                break
            if interval is None:
                # Nobody looks, but at the next commit of anything.
                await db.execute(Query("apart", "CREATE TABLE apart (x)")())
            await until(lambda: not watchers())
            assert Committed not in db._listeners.wanted
            assert await soon(db.watch(NAMES())) == ["a"]

    @pytest.mark.parametrize("how", ["block", "aclose", "forgotten"])
    async def test_at_once(self, path: Path, how: str) -> None:
        """Not at the next commit: a statement that nobody watches is not run for it."""
        async with items(path, "a", watch_interval=None) as db:
            watch = db.watch(NAMES())
            if how == "block":
                async with watch as states:
                    assert await soon(states) == ["a"]
            else:
                assert await soon(watch) == ["a"]
            if how == "aclose":
                await watch.aclose()
                await watch.aclose()
            if how == "forgotten":
                del watch
                await asyncio.sleep(0)
            assert not db._watching._lives
            before = runs(db, NAMES)
            await db.execute(ADD(name="b"))
            assert not watchers()
            assert runs(db, NAMES) == before
            if how != "forgotten":
                assert [rows async for rows in watch] == []

    async def test_of_the_statement_that_runs_for_nobody_else(self, path: Path) -> None:
        async with items(path, "a", readers=1) as db:
            async with db.watch(ENDLESS()) as states:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(states), 0.05)
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_of_one_while_another_goes_on(self, path: Path) -> None:
        async with items(path, "a") as db:
            other = db.watch(NAMES())
            async with db.watch(NAMES()) as states:
                waiting = asyncio.create_task(_all_of(states))
                await soon(other)
                await until(lambda: states._place.told)
            assert await asyncio.wait_for(waiting, SOON) == [["a"]]  # the loop has ended as well
            await db.execute(ADD(name="b"))
            assert await soon(other) == ["a", "b"]

    @pytest.mark.parametrize("within", ["a loop", "a block", "a generator"])
    async def test_for_a_consumer_whose_frames_are_kept(self, path: Path, within: str) -> None:
        """Fault 84: a framework keeps the cancellation, its traceback all frames."""
        kept: list[object] = []

        async def loop(db: Database) -> None:
            async for _ in db.watch(NAMES()):
                pass

        async def block(db: Database) -> None:
            async with db.watch(NAMES()) as states:
                async for _ in states:
                    pass

        async def generator(db: Database) -> None:
            async def events() -> AsyncIterator[list[str]]:
                async with db.watch(NAMES()) as states:
                    async for rows in states:
                        yield rows

            body = events()
            kept.append(body)
            async for _ in body:
                pass

        async def serve(db: Database) -> None:
            try:
                await {"a loop": loop, "a block": block, "a generator": generator}[within](db)
            except asyncio.CancelledError as error:
                kept.append(error)
                raise

        async with items(path, "a", watch_interval=None) as db:
            gc.disable()
            try:
                serving = [asyncio.create_task(serve(db)) for _ in range(20)]
                await until(lambda: NAMES.name in db.stats()["queries"])
                for task in serving:
                    task.cancel()
                await asyncio.wait(serving)
                await asyncio.sleep(0)
                assert len(kept) >= 20
                assert not db._watching._lives
            finally:
                gc.enable()

    async def test_of_all_at_once(self, path: Path) -> None:
        """What was not returned yet is not returned any more; who comes later is not concerned."""
        async with items(path, "a", watch_interval=None) as db:
            told: list[list[Any]] = [[] for _ in range(4)]

            async def collect(query: Query[Any], into: list[Any]) -> None:
                async for rows in db.watch(query()):
                    into.append(rows)  # noqa: PERF401 (looked at meanwhile)

            queries = [NAMES, NAMES, NAMES, COUNT]
            consumers = [
                asyncio.create_task(collect(*each)) for each in zip(queries, told, strict=True)
            ]
            unseen = db.watch(NAMES())
            await until(lambda: all(told))
            db.end_watches()
            assert [rows async for rows in unseen] == []
            await asyncio.wait_for(asyncio.gather(*consumers), SOON)
            assert told == [[["a"]], [["a"]], [["a"]], [[1]]]
            assert not db._watching._lives
            later = db.watch(NAMES())
            assert await soon(later) == ["a"]
            await db.execute(ADD(name="b"))
            assert await soon(later) == ["a", "b"]
        db.end_watches()
        with pytest.raises(PoolClosedError):
            await soon(later)

    @pytest.mark.parametrize(
        "install",
        [
            "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, db.end_watches)",
            "signal.signal(signal.SIGTERM, lambda *_: db.end_watches())",
        ],
        ids=["asyncio", "signal"],
    )
    async def test_of_a_server_that_waits_for_its_streams(self, path: Path, install: str) -> None:
        """It is told to stop, ends its streams and then closes the database."""
        done = run_script(
            f"""
            async def stream(db):
                async with db.watch(COUNT()) as states:
                    async for rows in states:
                        print(rows, flush=True)

            async def serve():
                async with items(path, watch_interval=None) as db:
                    {install}
                    streams = [asyncio.create_task(stream(db)) for _ in range(3)]
                    await until(lambda: all(place.told for live in db._watching._lives.values()
                                            for place in live.places.values()))
                    # Most likely when the event loop waits, for nothing that comes by itself: it
                    # has to be woken. (The lanes look around a second after their last work.)
                    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
                    await asyncio.gather(*streams)
                print("closed")

            asyncio.run(serve())
            """,
            path,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["[0]", "[0]", "[0]", "closed"]

    async def test_when_the_database_is_closed(self, path: Path) -> None:
        async with items(path, "a") as db:
            seen, unseen = db.watch(NAMES()), db.watch(COUNT())
            await soon(seen)
            waiting = asyncio.create_task(anext(seen))
            await asyncio.sleep(0)
            late = db.watch(Query("late", "SELECT 1", int)())
        with pytest.raises(PoolClosedError):
            await waiting
        for watch in seen, unseen, late:
            with pytest.raises(PoolClosedError):
                while True:
                    await soon(watch)
        assert not watchers()
        async with db:
            assert await soon(db.watch(NAMES())) == ["a"]

    async def test_an_error_is_raised_to_each_who_watches(self, path: Path) -> None:
        async with items(path, "a") as db:
            watches = [db.watch(NAMES()) for _ in range(3)]
            for watch in watches:
                await soon(watch)
            await db.execute(Query("drop", "DROP TABLE items")())
            errors = []
            for watch in watches:
                with pytest.raises(StatementError, match="no such table") as raised:
                    await soon(watch)
                errors.append(raised.value)
            assert len(set(map(id, errors))) == 3
            await until(lambda: not watchers())

    async def test_only_what_reads(self, path: Path) -> None:
        async with items(path) as db:
            with pytest.raises(QueryError, match="writes"):
                db.watch(ADD(name="a"))
        with pytest.raises(PoolClosedError):
            db.watch(NAMES())

    async def test_a_thousand_times_leave_nothing(self, path: Path) -> None:
        async with items(path, "a", watch_interval=None) as db:
            await db.execute(Query("create", "CREATE TABLE apart (x)")())
            for number in itertools.count():
                await soon(db.watch(Query(f"query {number}", "SELECT name FROM items", str)()))
                if number == 300:
                    break
            await db.execute(Query("apart", "UPDATE apart SET x = 1")())
            await until(lambda: not watchers())
            assert not db._watching._lives
