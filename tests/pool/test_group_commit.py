"""Group commit: writes that wait together share one transaction, and nobody notices.

A group is made on purpose: a task holds the writer, the calls of the group queue up behind it, and
it lets go. The statistics tell whether they did share.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock
from support.engine import (
    ADD,
    ADD_ENDLESSLY,
    NAMES,
    SOON,
    TOUCH,
    Driver,
    Gate,
    Holder,
    LockingProcess,
    Witness,
    items,
    on_writer,
    passing,
    run_script,
    script,
    until,
)
from support.suite import HANG

from abt_db import (
    AbtDbError,
    BusyError,
    Database,
    FullError,
    IntegrityError,
    MappingError,
    PoolClosedError,
    PoolTimeoutError,
    Query,
    Session,
    StatementTimeoutError,
)
from abt_db.connection.session import Result

Call = Callable[[Database], Awaitable[Any]]

ADD_OR_ROLLBACK = Query("items.rollback", "INSERT OR ROLLBACK INTO items (name) VALUES (:name)")
ADD_OR_FAIL = Query("items.fail", "INSERT OR FAIL INTO items (name) VALUES (:other), (:name)")
ADD_OR_IGNORE = Query("items.ignore", "INSERT OR IGNORE INTO items (name) VALUES (:name)")
ADD_OR_REPLACE = Query("items.replace", "INSERT OR REPLACE INTO items (name) VALUES (:name)")
ADD_TWO = Query("items.add_two", "INSERT INTO items (name) VALUES (:other), (:name)")
RENAME = Query("items.rename", "UPDATE items SET name = :other WHERE name = :name")
REMOVE = Query("items.remove", "DELETE FROM items WHERE name = :name AND id > 1")
ADD_FOR_ID = Query("items.for_id", "INSERT INTO items (name) VALUES (:name) RETURNING id", int)
ADD_FOR_NO_INT = Query(
    "items.no_int", "INSERT INTO items (name) VALUES (:name) RETURNING id, name", int
)
ADD_CHILD = Query("children.add", "INSERT INTO children VALUES (:parent)")
FILL = Query("items.fill", "INSERT INTO items (name) VALUES (zeroblob(:size))")

SCHEMA = [
    "CREATE TABLE told (name)",
    *(
        f"CREATE TABLE on_{kind} (name UNIQUE ON CONFLICT {kind})"
        for kind in ("rollback", "fail", "abort", "ignore", "replace")
    ),
    *(
        f"CREATE TRIGGER raise_{kind} BEFORE INSERT ON items WHEN new.name = '{kind}' BEGIN"
        f" INSERT INTO told VALUES ('{kind}'); SELECT RAISE({kind}, 'the end'); END"
        for kind in ("rollback", "fail", "abort")
    ),
]
INTO = {
    kind: Query(f"on_{kind}.add", f"INSERT INTO on_{kind} VALUES (:other), (:name)")
    for kind in ("rollback", "fail", "abort", "ignore", "replace")
}


@asynccontextmanager
async def tables(
    path: Path | str, *, keys: str = "IMMEDIATE", connect: Any = None, **config: Any
) -> AsyncIterator[Database]:
    """A database with the tables of SCHEMA, children of items, and one item that stays."""
    children = f"CREATE TABLE children (parent REFERENCES items DEFERRABLE INITIALLY {keys})"
    async with items(path, "first", connect=connect, **config) as db:
        for number, sql in enumerate([children, *SCHEMA]):
            await db.execute(Query(f"schema.{number}", sql)())
        yield db


class Group:
    """Calls that wait for the writer together; at the end of the block it is let go, and when it
    has been left all have been answered."""

    def __init__(self, db: Database, *calls: Coroutine[Any, Any, Any]) -> None:
        self.db = db
        self._calls = calls
        self._holder = Holder(db.barrier())  # which begins no transaction

    async def __aenter__(self) -> Group:
        await self._holder.__aenter__()
        self.tasks = [asyncio.create_task(call) for call in self._calls]
        await until(lambda: self.db.stats()["writer"]["waiting"] == len(self.tasks))
        self._before = self.db.stats()["writer"]
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._holder.__aexit__()
        self.results = await asyncio.gather(*self.tasks, return_exceptions=True)

    def let_go(self) -> None:
        self._holder.let_go()

    @property
    def hops(self) -> int:
        """How many trips to the thread it took."""
        return int(self.db.stats()["writer"]["hops"] - self._before["hops"])

    @property
    def commits(self) -> int:
        """How many commits it took."""
        return int(self.db.stats()["writer"]["commits"] - self._before["commits"])


async def together(db: Database, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Make calls in one group; return the result or error of each."""
    async with Group(db, *calls) as group:
        pass
    return group.results


def kinds(results: Sequence[object]) -> list[object]:
    """Results that can be compared: of an error its type and its words."""
    return [(type(r), str(r)) if isinstance(r, BaseException) else r for r in results]


class TestTogether:
    """What waits together is one hop and one commit, and each has what is its own."""

    async def test_where_all_have_failed_there_is_nothing_to_commit(self, path: Path) -> None:
        async with tables(path) as db, Witness(db) as witness:
            async with Group(db, *(db.execute(ADD(name="first")) for _ in range(3))) as group:
                pass
            assert [type(result) for result in group.results] == [IntegrityError] * 3
            assert (group.hops, group.commits) == (1, 0)
            await witness.whole()

    async def test_each_has_its_own_result(self, path: Path) -> None:
        async with tables(path) as db, Witness(db) as witness:
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.execute(RENAME(name="a", other="b")),
                db.fetch_one(ADD_FOR_ID(name="c")),
                db.execute_batch([ADD(name="d"), REMOVE(name="b"), REMOVE(name="b")]),
                db.fetch_all(ADD_FOR_ID(name="e")),
                db.execute(ADD_OR_IGNORE(name="e")),
            ) as group:
                pass
            assert group.results == [
                Result(1, 2),
                Result(1, None),
                3,
                [Result(1, 4), Result(1, None), Result(0, None)],
                [5],
                Result(0, None),
            ]
            assert (group.hops, group.commits) == (1, 1)
            assert db.stats()["writer"]["batches"][8] == 1
            await witness.whole()

    async def test_the_order_of_effects_is_the_order_of_calls(self, path: Path) -> None:
        async with tables(path, batch_size=7) as db:
            names = [str(n) for n in range(100)]
            await together(db, *(db.execute(ADD(name=name)) for name in names))
            assert await db.fetch_all(NAMES()) == ["first", *names]

    async def test_no_more_than_batch_size_of_them(self, path: Path) -> None:
        async with tables(path, batch_size=10, batch_time=60.0) as db:
            async with Group(db, *(db.execute(ADD(name=str(n))) for n in range(95))) as group:
                pass
            assert (group.hops, group.commits) == (10, 10)

    async def test_a_size_of_one_turns_it_off(self, path: Path) -> None:
        async with tables(path, batch_size=1) as db:
            async with Group(db, *(db.execute(ADD(name=str(n))) for n in range(20))) as group:
                pass
            assert (group.hops, group.commits) == (20, 20)

    async def test_no_longer_than_batch_time(self, path: Path) -> None:
        """The rest waits again, each its turn, and is done in the order of the calls."""
        async with tables(path, batch_time=0.0) as db:
            async with Group(db, *(db.execute(ADD(name=str(n))) for n in range(20))) as group:
                pass
            assert group.commits == 20
            assert await db.fetch_all(NAMES()) == ["first", *map(str, range(20))]

    async def test_in_memory(self) -> None:
        async with tables(":memory:") as db:
            async with Group(
                db, db.execute(ADD(name="a")), db.execute(ADD(name="a")), db.execute(ADD(name="b"))
            ) as group:
                pass
            assert [type(result) for result in group.results] == [Result, IntegrityError, Result]
            assert (group.hops, group.commits) == (1, 1)

    async def test_a_function_is_alone_and_never_run_twice(self, path: Path) -> None:
        runs: list[str] = []

        def add(cx: Session, name: str) -> None:
            runs.append(name)
            cx.execute(ADD(name=name))

        async with tables(path) as db:
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.write(add, "b"),
                db.execute(ADD_OR_ROLLBACK(name="a")),
                db.write(add, "c"),
                db.execute(ADD(name="d")),
                db.execute_many(ADD, ({"name": name} for name in "ef")),
                db.write(add, "a"),
            ) as group:
                pass
            assert runs == ["b", "c", "a"]
            assert isinstance(group.results[-1], IntegrityError)
            assert await db.fetch_all(NAMES()) == ["first", *"abcdef"]
            assert group.commits == 5

    async def test_a_transaction_has_its_turn_in_an_endless_stream_of_writes(
        self, path: Path
    ) -> None:
        """invariant 14."""
        async with tables(path) as db:
            made = [0] * 50
            over = asyncio.Event()

            async def write(number: int) -> None:
                while not over.is_set():
                    await db.execute(ADD(name=f"{number} {made[number]}"))
                    made[number] += 1

            tasks = [asyncio.create_task(write(number)) for number in range(50)]
            await until(lambda: all(made))
            for _ in range(10):
                before = sum(made)
                async with db.transaction():
                    # Those that were waiting or under way, and perhaps the next group once.
                    assert sum(made) - before <= 150
            over.set()
            await asyncio.gather(*tasks)


SPOILERS: dict[str, Callable[[str], Call]] = {
    "OR ROLLBACK": lambda name: lambda db: db.execute(ADD_OR_ROLLBACK(name=name)),
    "OR FAIL": lambda name: lambda db: db.execute(ADD_OR_FAIL(other="half " + name, name=name)),
    "ON CONFLICT ROLLBACK": lambda name: (
        lambda db: db.execute(INTO["rollback"](other=name, name=name))
    ),
    "ON CONFLICT FAIL": lambda name: lambda db: db.execute(INTO["fail"](other=name, name=name)),
    "RAISE(ROLLBACK)": lambda name: lambda db: db.execute(ADD(name="rollback")),
    "RAISE(FAIL)": lambda name: lambda db: db.execute(ADD(name="fail")),
    "foreign key": lambda name: lambda db: db.execute(ADD_CHILD(parent=99)),
    "no row of its type": lambda name: lambda db: db.fetch_one(ADD_FOR_NO_INT(name="new " + name)),
    "UNIQUE": lambda name: lambda db: db.execute(ADD(name=name)),
    "half a batch": lambda name: (
        lambda db: db.execute_batch([ADD(name="half " + name), ADD(name=name)])
    ),
    "half a batch, OR ROLLBACK": lambda name: (
        lambda db: db.execute_batch([ADD(name="half " + name), ADD_OR_ROLLBACK(name=name)])
    ),
    "half a batch, OR FAIL": lambda name: (
        lambda db: db.execute_batch(
            [ADD(name="half " + name), ADD_OR_FAIL(other="more " + name, name=name)]
        )
    ),
}
"""Calls that fail, each in its own way, when there is an item of that name."""

every_spoiler = pytest.mark.parametrize("spoiler", SPOILERS.values(), ids=list(SPOILERS))


class TestWhoFails:
    """faults 20, 26; invariants 8, 9, 28: a member that fails fails alone, leaves nothing, and
    the others are in the database when they are answered."""

    @every_spoiler
    @pytest.mark.parametrize("at", [[0], [2], [4], [0, 4], [1, 2, 3], [0, 1, 2, 3, 4]], ids=str)
    async def test_fails_alone(
        self, path: Path, spoiler: Callable[[str], Call], at: list[int]
    ) -> None:
        async with tables(path) as db, Witness(db) as witness:
            calls: list[Call] = [
                spoiler("first") if n in at else (lambda db, n=n: db.execute(ADD(name=str(n))))  # type: ignore[misc]
                for n in range(5)
            ]
            results = await together(db, *(call(db) for call in calls))  # type: ignore[arg-type]
            for n, result in enumerate(results):
                if n in at:
                    assert isinstance(result, IntegrityError | MappingError), result
                else:
                    assert result.rowcount == 1
            names = [str(n) for n in range(5) if n not in at]
            assert await db.fetch_all(NAMES()) == ["first", *names]
            assert [r.lastrowid for n, r in enumerate(results) if n not in at] == [
                *range(2, 2 + len(names))
            ]
            for table in "children", "told", "on_fail", "on_rollback":
                assert await db.fetch_one(Query(table, f"SELECT count(*) FROM {table}", int)()) == 0
            await witness.whole()

    @every_spoiler
    async def test_of_what_another_has_just_written(
        self, path: Path, spoiler: Callable[[str], Call]
    ) -> None:
        async with tables(path) as db:
            results = await together(
                db,
                db.execute(ADD(name="a")),
                spoiler("a")(db),  # type: ignore[arg-type]
                db.execute(ADD(name="b")),
            )
            assert isinstance(results[1], IntegrityError | MappingError)
            assert await db.fetch_all(NAMES()) == ["first", "a", "b"]

    async def test_a_deferred_key_fails_alone(self, path: Path) -> None:
        """fault 26: nobody pays for it, and nobody makes up for it either."""
        async with tables(path, keys="DEFERRED") as db:
            results = await together(
                db,
                db.execute(ADD(name="a")),
                db.execute(ADD_CHILD(parent=3)),
                db.execute(ADD(name="b")),
                db.execute_batch([ADD_CHILD(parent=4), ADD(name="c")]),
            )
            assert [type(r) for r in results] == [Result, IntegrityError, Result, list]
            assert await db.fetch_all(NAMES()) == ["first", "a", "b", "c"]

    async def test_keys_that_become_deferred_while_others_wait(self, path: Path) -> None:
        async with tables(path) as db:
            deferred = "CREATE TABLE more (parent REFERENCES items DEFERRABLE INITIALLY DEFERRED)"
            add = Query("more.add", "INSERT INTO more VALUES (:parent)")
            results = await together(
                db,
                db.execute(ADD(name="a")),
                db.execute(Query("more.create", deferred)()),
                db.execute(add(parent=3)),
                db.execute(ADD(name="b")),
            )
            assert [type(r) for r in results] == [Result, Result, IntegrityError, Result]

    async def test_each_has_its_own_error(self, path: Path) -> None:
        """Own in its words, and own as an object: each caller adds a traceback (invariant 27)."""
        driver = Driver()
        async with tables(path, connect=driver.connect) as db:

            def full(step: str) -> None:
                if step == "COMMIT":
                    raise sqlite_error("SQLITE_FULL")

            async with Group(
                db,
                db.execute(ADD(name="secret")),
                db.execute(ADD_TWO(name="secret", other="x")),
                db.fetch_one(ADD_FOR_ID(name="b")),
            ) as group:
                driver.hook = full
            one, two, three = group.results
            assert isinstance(one, FullError) and isinstance(three, FullError)
            assert one is not three
            assert (one.query, three.query) == ("items.add", "items.for_id")
            assert (one.sql, three.sql) == (ADD.sql, ADD_FOR_ID.sql)
            assert one.__notes__ != three.__notes__
            assert "secret" not in str(one) + str(two) + "".join(one.__notes__)

    async def test_an_error_because_of_what_was_undone_is_none(self, path: Path) -> None:
        """The first member's COMMIT fails, so what the second ran into was never there."""
        async with tables(path) as db:
            results = await together(
                db,
                db.execute_batch([ADD(name="a"), ADD_CHILD(parent=99)]),
                db.execute(ADD(name="a")),
                db.execute(ADD_OR_ROLLBACK(name="a")),
            )
            assert [type(result) for result in results] == [IntegrityError, Result, IntegrityError]

    async def test_nor_is_one_that_spoils_the_group(self, path: Path) -> None:
        async with tables(path) as db:
            results = await together(
                db,
                db.execute_batch([ADD(name="a"), ADD_CHILD(parent=99)]),
                db.execute(ADD_OR_ROLLBACK(name="a")),
            )
            assert [type(result) for result in results] == [IntegrityError, Result]

    @pytest.mark.parametrize("how", ["OR ROLLBACK", "OR FAIL", "half a batch, OR ROLLBACK"])
    async def test_nor_is_one_because_of_a_member_that_was_cancelled_meanwhile(
        self, path: Path, how: str
    ) -> None:
        """The last member has everything undone, and when the others are done again the caller of
        the first has gone: the second one's row is the only one of its name (invariant 28)."""
        driver = Driver()
        async with tables(path, connect=driver.connect, batch_time=60.0) as db:
            gate = Gate(driver)
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.execute(ADD(name="a")),
                db.execute(TOUCH(id=1)),
                cast(Any, SPOILERS[how]("first")(db)),
            ) as group:
                gate.stop_at(TOUCH.text)
                group.let_go()
                await gate.reached.wait()
                group.tasks[0].cancel()
                await asyncio.sleep(0)
                gate.open()
            assert group.tasks[0].cancelled()
            assert [type(result) for result in group.results[1:]] == [
                Result,
                Result,
                IntegrityError,
            ]
            assert await db.fetch_all(NAMES()) == ["first", "a"]

    async def test_a_full_database(self, path: Path) -> None:
        """faults 22, 49: one member is too much for `max_page_count`."""
        async with tables(path) as db, Witness(db) as witness:
            await on_writer(db, lambda session: session.control("PRAGMA max_page_count = 100"))
            results = await together(
                db,
                db.execute(ADD(name="a")),
                db.execute(FILL(size=1_000_000)),
                db.execute(ADD(name="b")),
                db.execute_batch([ADD(name="c"), FILL(size=1_000_000)]),
                db.execute(ADD(name="d")),
            )
            assert [type(r) for r in results] == [Result, FullError, Result, FullError, Result]
            assert await db.fetch_all(NAMES()) == ["first", *"abd"]
            await witness.whole()


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


class TestFaults:
    """faults 22, 50; invariants 10, 12, 22: at whichever statement the disk fails, who was
    acknowledged is in the database, who was refused is not, and the writer works on."""

    @pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
    @pytest.mark.parametrize(
        "error",
        [sqlite_error("SQLITE_IOERR"), sqlite_error("SQLITE_FULL"), MemoryError()],
        ids=repr,
    )
    @pytest.mark.parametrize("spoilt", [False, True], ids=["well", "spoilt"])
    async def test_at_every_statement(
        self, path: Path, lasting: bool, error: BaseException, spoilt: bool
    ) -> None:
        driver = Driver()
        async with tables(path, connect=driver.connect) as db:
            expected = ["first"]
            for number in itertools.count():
                steps = itertools.count()

                def fail(
                    step: str, number: int = number, steps: itertools.count[int] = steps
                ) -> None:
                    if step in ("begin", "end"):
                        return
                    here = next(steps)
                    if here == number or (lasting and here > number):
                        raise error

                names = [f"{number} {n}" for n in range(3)]
                async with Group(
                    db,
                    db.execute(ADD(name=names[0])),
                    db.execute((ADD_OR_ROLLBACK if spoilt else ADD_OR_IGNORE)(name="first")),
                    db.execute_batch([ADD(name=names[1])]),
                    db.fetch_one(ADD_FOR_ID(name=names[2])),
                ) as group:
                    driver.hook = fail
                driver.hook = lambda step: None
                done = [group.results[n] for n in (0, 2, 3)]
                for result in group.results:
                    assert isinstance(result, AbtDbError | Result | MemoryError | list | int)
                expected += [
                    name
                    for name, result in zip(names, done, strict=True)
                    if not isinstance(result, BaseException)
                ]
                assert await db.fetch_all(NAMES()) == expected
                if next(steps) <= number:
                    break
            assert number > 5
            assert len(expected) > 3
            await db.execute(ADD(name="last"))

    async def test_at_the_commit_every_member_fails(self, path: Path) -> None:
        driver = Driver()
        async with tables(path, connect=driver.connect) as db, Witness(db) as witness:

            def full(step: str) -> None:
                if step == "COMMIT":
                    raise sqlite_error("SQLITE_FULL")

            async with Group(db, *(db.execute(ADD(name=name)) for name in "abc")) as group:
                driver.hook = full
            driver.hook = lambda step: None
            assert [type(result) for result in group.results] == [FullError] * 3
            assert await db.fetch_all(NAMES()) == ["first"]
            await witness.whole()

    def test_a_thread_that_dies_fails_one_at_most(self, path: Path) -> None:
        """fault 61: those who wait behind its work are served by the next connection."""
        done = run_script(
            """
            import ctypes, threading, warnings
            warnings.simplefilter("ignore")
            threading.excepthook = lambda _args: None

            async def main():
                async with items(path, "a") as db:
                    thread = ctypes.c_ulong(await db.write(lambda cx: threading.get_ident()))
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
                    writes = [asyncio.create_task(db.execute(ADD(name=str(n)))) for n in range(9)]
                    await asyncio.wait(writes, timeout=SOON)
                    if not all(write.done() for write in writes):
                        os._exit(1)
                    failed = [write for write in writes if write.exception()]
                    assert len(failed) <= 1, failed
                    assert await db.fetch_one(COUNT()) >= 10 - len(failed)
                    print("well")

            asyncio.run(main())
            """,
            path,
        )
        assert done.stdout == "well\n", done.stderr

    @pytest.mark.parametrize("synchronous", ["normal", "full"])
    def test_kill_9(self, path: Path, synchronous: str) -> None:
        """invariant 28: what one of fifty tasks was told is there."""
        command = script(
            f"""
            async def main():
                db = await Database(path, config=Config(synchronous={synchronous!r})).open()
                await db.execute(CREATE())

                async def write(task):
                    n = 0
                    while True:
                        await db.execute(ADD(name=f"{{task}} {{n}}"))
                        print(task, n)
                        n += 1

                await asyncio.gather(*(write(task) for task in range(50)))

            asyncio.run(main())
            """
        )
        with Popen([*command, str(path)], stdout=PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2000)]
            process.kill()
            lines += process.stdout.readlines()
        acknowledged = {line.rstrip("\n") for line in lines if line.endswith("\n")}
        with closing(sqlite3.connect(path)) as raw:
            names = {name for (name,) in raw.execute("SELECT name FROM items")}
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert len(acknowledged) >= 2000
        assert acknowledged <= names


class TestWhoLeaves:
    """fault 6; invariants 13, 24: a member that is cancelled, or out of time, leaves alone."""

    async def test_cancelled_before_it_starts_it_never_runs(self, path: Path) -> None:
        async with tables(path) as db, Witness(db) as witness:
            async with Group(db, *(db.execute(ADD(name=name)) for name in "abc")) as group:
                group.tasks[1].cancel()
            assert isinstance(group.results[1], asyncio.CancelledError)
            assert await db.fetch_all(NAMES()) == ["first", "a", "c"]
            assert group.commits == 1
            await witness.whole()

    async def test_cancelled_in_the_group_before_its_turn_it_never_runs(self, path: Path) -> None:
        driver = Driver()
        async with (
            tables(path, connect=driver.connect, batch_time=HANG) as db,
            Witness(db) as witness,
        ):
            gate = Gate(driver)
            async with Group(db, *(db.execute(ADD(name=name)) for name in "abc")) as group:
                gate.stop_at(ADD.text)
                group.let_go()
                await gate.reached.wait()
                group.tasks[1].cancel()
                await asyncio.wait([group.tasks[1]])
                gate.open()
            assert await db.fetch_all(NAMES()) == ["first", "a", "c"]
            assert group.commits == 1
            await witness.whole()

    @pytest.mark.parametrize("batch", [False, True])
    async def test_cancelled_while_it_runs(self, path: Path, batch: bool) -> None:
        driver = Driver()
        async with tables(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.execute_batch([ADD(name="half"), ADD_ENDLESSLY()])
                if batch
                else db.execute(ADD_ENDLESSLY()),
                db.execute(ADD(name="c")),
            ) as group:
                gate.stop_at(ADD_ENDLESSLY.text)
                group.let_go()
                await gate.reached.wait()
                gate.open()
                group.tasks[1].cancel()
            assert isinstance(group.results[1], asyncio.CancelledError)
            assert [group.results[0].rowcount, group.results[2].rowcount] == [1, 1]
            assert await db.fetch_all(NAMES()) == ["first", "a", "c"]
            await witness.whole()

    async def test_cancelled_when_it_has_run(self, path: Path) -> None:
        """It may have been committed; the others have."""
        driver = Driver()
        async with tables(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            async with Group(
                db, db.execute(ADD(name="a")), db.execute(ADD_TWO(name="b", other="c"))
            ) as group:
                gate.stop_at(ADD_TWO.text)
                group.let_go()
                await gate.reached.wait()
                group.tasks[0].cancel()
                await asyncio.wait([group.tasks[0]])
                gate.open()
            assert group.results[1].rowcount == 2
            assert set(await db.fetch_all(NAMES())) - {"a"} == {"first", "b", "c"}
            await witness.whole()

    async def test_cancelled_before_it_is_done_again_it_leaves_nothing(self, path: Path) -> None:
        driver = Driver()
        async with tables(path, connect=driver.connect) as db, Witness(db) as witness:
            gate = Gate(driver)
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.execute(ADD(name="b")),
                db.execute(ADD_OR_ROLLBACK(name="first")),
            ) as group:
                gate.stop_at(ADD_OR_ROLLBACK.text)
                group.let_go()
                await gate.reached.wait()
                group.tasks[0].cancel()
                await asyncio.wait([group.tasks[0]])
                gate.open()
            assert await db.fetch_all(NAMES()) == ["first", "b"]
            await witness.whole()

    async def test_out_of_time_while_it_waits(self, path: Path, clock: Clock) -> None:
        async with tables(path) as db, Witness(db) as witness:
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.execute(ADD(name="b"), timeout=10),
                db.execute(ADD(name="c")),
            ) as group:
                clock.passes(10)
                await asyncio.wait([group.tasks[1]])
            assert isinstance(group.results[1], PoolTimeoutError)
            assert await db.fetch_all(NAMES()) == ["first", "a", "c"]
            await witness.whole()

    async def test_out_of_time_while_it_runs(self, path: Path, clock: Clock) -> None:
        driver = Driver()
        config: dict[str, Any] = {"acquire_timeout": None, "connect": driver.connect}
        async with tables(path, **config) as db, Witness(db) as witness:
            driver.hook = passing(clock, 1000, ADD_ENDLESSLY)
            results = await together(
                db,
                db.execute(ADD(name="a")),
                db.execute(ADD_ENDLESSLY(), timeout=1000),
                db.execute(ADD(name="c")),
                db.execute_batch([ADD(name="d"), ADD_ENDLESSLY()], timeout=2000),
                db.execute(ADD(name="e")),
            )
            assert isinstance(results[1], StatementTimeoutError)
            assert isinstance(results[3], StatementTimeoutError)
            assert await db.fetch_all(NAMES()) == ["first", "a", "c", "e"]
            await witness.whole()


class TestClose:
    """invariants 23, 28: a group that is at work when the time of `close` is over is stopped, and
    each member is told the truth."""

    async def test_in_the_commit_of_a_group_all_are_told_that_it_was_done(
        self, path: Path, no_leaks: None
    ) -> None:
        """Found: they were refused, and committed."""
        driver = Driver()
        async with tables(path, connect=driver.connect, close_timeout=0.0) as db:
            gate = Gate(driver)
            async with Group(db, *(db.execute(ADD(name=name)) for name in "abc")) as group:
                gate.stop_at("COMMIT")
                group.let_go()
                await gate.reached.wait()
                ending = asyncio.create_task(db.close())
                await asyncio.wait([ending], timeout=0.1)  # it has nothing left to do but wait
                gate.open()
                await ending
            with closing(sqlite3.connect(path)) as raw:
                names = {name for (name,) in raw.execute("SELECT name FROM items")}
            for name, result in zip("abc", group.results, strict=True):
                assert (name in names) == isinstance(result, Result), result

    async def test_in_a_statement_of_a_group_all_are_refused(
        self, path: Path, no_leaks: None
    ) -> None:
        async with tables(path, close_timeout=0.0) as db:
            calls = [ADD(name="a"), ADD_ENDLESSLY(), ADD(name="b")]
            async with Group(db, *(db.execute(call) for call in calls)) as group:
                group.let_go()
                await until(lambda: db.stats()["writer"]["batches"].get(4))
                await db.close()
            assert {type(result) for result in group.results} == {PoolClosedError}
            with closing(sqlite3.connect(path)) as raw:
                assert raw.execute("SELECT name FROM items").fetchall() == [("first",)]


class TestOtherProcesses:
    """fault 51: a group waits for another process's lock as one call would."""

    async def test_all_wait_and_succeed_when_it_is_free(self, path: Path) -> None:
        async with tables(path, busy_timeout=SOON) as db, Witness(db) as witness:
            async with Group(db, *(db.execute(ADD(name=name)) for name in "abcde")) as group:
                with LockingProcess(path):
                    group.let_go()
                    tries = db.stats()["writer"]["hops"] + 3
                    await until(lambda: db.stats()["writer"]["hops"] >= tries)
                    assert not any(task.done() for task in group.tasks)
            assert [result.lastrowid for result in group.results] == [2, 3, 4, 5, 6]
            assert group.commits == 1
            await witness.whole()

    async def test_who_has_less_time_gives_up_alone(self, path: Path, clock: Clock) -> None:
        async with tables(path, busy_timeout=1000) as db, Witness(db) as witness:
            async with Group(
                db,
                db.execute(ADD(name="a")),
                db.execute(ADD(name="b"), timeout=10),
                db.execute(ADD(name="c")),
                db.execute(ADD(name="d")),
            ) as group:
                with LockingProcess(path):
                    group.let_go()
                    await until(lambda: db.stats()["writer"]["batches"].get(4))
                    group.tasks[3].cancel()
                    clock.passes(10)
                    await asyncio.wait([group.tasks[1]])
                    assert not group.tasks[0].done() and not group.tasks[2].done()
            assert isinstance(group.results[1], BusyError | StatementTimeoutError)
            assert await db.fetch_all(NAMES()) == ["first", "a", "c"]
            await witness.whole()

    async def test_all_give_up_when_it_takes_too_long(self, path: Path) -> None:
        async with tables(path, busy_timeout=0.3) as db, Witness(db) as witness:
            async with Group(
                db, db.execute(ADD(name="a")), db.execute_batch([ADD(name="b")])
            ) as group:
                with LockingProcess(path):
                    group.let_go()
                    await asyncio.wait(group.tasks, timeout=SOON)
            for result in group.results:
                assert isinstance(result, BusyError)
                assert "another process" in str(result)
            assert group.results[0].query == "items.add"
            assert await db.fetch_all(NAMES()) == ["first"]
            await witness.whole()


ITEM_NAMES = st.sampled_from(["first", "a", "b", "c", "fail", "rollback", "abort"])
PAIRS = st.fixed_dictionaries({"name": ITEM_NAMES, "other": ITEM_NAMES})
SINGLE = st.one_of(
    st.builds(ADD, name=ITEM_NAMES),
    *(
        st.builds(query, name=ITEM_NAMES)
        for query in (ADD_OR_ROLLBACK, ADD_OR_IGNORE, ADD_OR_REPLACE, REMOVE)
    ),
    *(
        PAIRS.map(lambda pair, query=query: query(**pair))  # type: ignore[misc]
        for query in (ADD_OR_FAIL, ADD_TWO, RENAME, *INTO.values())
    ),
    st.builds(ADD_CHILD, parent=st.integers(1, 5)),
)
MEMBERS: st.SearchStrategy[Call] = st.one_of(
    SINGLE.map(lambda statement: lambda db: db.execute(statement)),
    st.lists(SINGLE, max_size=3).map(lambda some: lambda db: db.execute_batch(some)),
    st.builds(ADD_FOR_ID, name=ITEM_NAMES).map(lambda added: lambda db: db.fetch_one(added)),
    st.builds(ADD_FOR_ID, name=ITEM_NAMES).map(lambda added: lambda db: db.fetch_all(added)),
    st.builds(ADD_FOR_NO_INT, name=ITEM_NAMES).map(lambda added: lambda db: db.fetch_one(added)),
    SINGLE.map(lambda statement: lambda db: db.write(lambda cx: cx.execute(statement).rowcount)),
)
EVERYTHING = [
    Query(f"{table}.all", f"SELECT rowid, * FROM {table} ORDER BY 1")
    for table in ("items", "children", "told", *(f"on_{kind}" for kind in INTO))
]


class TestUnnoticed:
    """Whatever comes together, each has the result and the database the contents that they would
    have had one by one."""

    @given(
        calls=st.lists(MEMBERS, min_size=2, max_size=8),
        size=st.sampled_from([500, 3]),
        keys=st.sampled_from(["IMMEDIATE", "DEFERRED"]),
    )
    @settings(max_examples=100, deadline=None)
    def test_a_group_is_as_one_by_one(self, calls: list[Call], size: int, keys: str) -> None:
        async def outcome(*, grouped: bool) -> tuple[object, ...]:
            async with tables(":memory:", keys=keys, batch_size=size, batch_time=60.0) as db:
                if grouped:
                    results = await together(db, *(call(db) for call in calls))  # type: ignore[arg-type]
                else:
                    results = []
                    for call in calls:
                        results += await asyncio.gather(call(db), return_exceptions=True)
                contents = [await db.fetch_all(query()) for query in EVERYTHING]
                return kinds(results), contents

        async def both() -> None:
            assert await outcome(grouped=True) == await outcome(grouped=False)

        asyncio.run(both())
