"""What the tests of the engine share: a small schema, a driver that can be stopped and broken at
every step, an event loop that can be looked at between two turns, and a pool held to its promises.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import aiosqlite
import pytest
from support.clock import Clock
from support.suite import ROOMS, SOON, descriptors, threads

from abt_db import Config, Database, Query, Session
from abt_db.connection.deadline import Deadline
from abt_db.connection.driver import Connect
from abt_db.connection.transaction import EngineSession

T = TypeVar("T")

CREATE = Query("items.create", "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
ADD = Query("items.add", "INSERT INTO items (name) VALUES (:name)")
ADD_MANY = Query(
    "items.add_many",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < :count)"
    " INSERT INTO items (name) SELECT :name || x FROM n",
)
COUNT = Query("items.count", "SELECT count(*) FROM items", int)
NAMES = Query("items.names", "SELECT name FROM items ORDER BY id", str)
COUNT_TABLES = Query("tables.count", "SELECT count(*) FROM sqlite_schema", int)
TOUCH = Query("items.touch", "UPDATE items SET name = name WHERE id = :id")
NUMBERS = Query(
    "numbers",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < :count)"
    " SELECT x FROM n",
    int,
)
ENDLESS = Query(
    "endless",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    int,
)
ADD_ENDLESSLY = Query(
    "items.add_endlessly",
    "INSERT INTO items (name) WITH RECURSIVE n(x) AS"
    " (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'endless' || count(*) FROM n",
)


@asynccontextmanager
async def items(
    path: Path | str, *names: str, connect: Connect | None = None, **config: Any
) -> AsyncIterator[Database]:
    """An open database with a table of items, two readers unless `config` says otherwise."""
    db = Database(path, config=Config(**{"readers": 2, **config}), connect=connect)
    async with db:
        await db.execute(CREATE())
        await db.execute_many(ADD, [{"name": name} for name in names])
        yield db


async def on_writer(db: Database, function: Callable[[EngineSession], T]) -> T:
    """Run a function on the writer that does what only the library may."""
    async with db.writer(label="a test") as loan:
        return await loan.run(function, Deadline())


async def until(condition: Callable[[], object]) -> None:
    """Wait for `condition`, which nothing announces; it fails the test after SOON."""
    limit = monotonic() + SOON
    while not condition():
        assert monotonic() < limit, "this has not come about"
        await asyncio.sleep(0.001)


async def held(block: Any, until_set: asyncio.Event, entered: asyncio.Event) -> None:
    """Stay in `block` until an event: to be run as a task, which then is the holder."""
    async with block:
        entered.set()
        await until_set.wait()


class Holder:
    """A task that is inside a block, `async with Holder(db.transaction()):`, until the end."""

    def __init__(self, block: Any, *, name: str = "holder") -> None:
        self._block = block
        self._name = name
        self._done = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Holder:
        entered = asyncio.Event()
        self.task = asyncio.create_task(held(self._block, self._done, entered), name=self._name)
        waiting = asyncio.ensure_future(entered.wait())
        await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.task.done():
            self.task.result()
        return self

    def let_go(self) -> None:
        self._done.set()

    async def __aexit__(self, *_error: object) -> None:
        assert self.task is not None
        self._done.set()
        await self.task


class Reading:
    """A call that keeps a reader at work until the end of the block. (A snapshot would have one
    more reader opened for the calls that come.)"""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._began, self._over = threading.Event(), threading.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reading:
        self._task = asyncio.create_task(self._db.read(self._read))
        await until(self._began.is_set)
        return self

    def _read(self, _cx: Session) -> None:
        self._began.set()
        self._over.wait(SOON)

    def let_go(self) -> None:
        self._over.set()

    async def __aexit__(self, *_error: object) -> None:
        assert self._task is not None
        self._over.set()
        await self._task


async def with_reserve(db: Database) -> Database:
    """Have the reader opened that is left to calls where all the others are lent, so that none is
    opened later; it stays where `reader_idle_time` says so."""
    async with AsyncExitStack() as stack:
        for _ in range(db.config.readers):
            await stack.enter_async_context(db.snapshot())
        await db.fetch_one(COUNT())
    return db


# -- a pool held to its promises -------------------------------------------------------------------


class Witness:
    """Looks at a database from outside, through a connection of its own, and at this process."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._raw = sqlite3.connect(db.path, isolation_level=None, timeout=0, cached_statements=0)
        self._raw.execute("PRAGMA synchronous = OFF")
        self._before = threads(), -1
        self._complaints: list[str] = []

    async def __aenter__(self) -> Witness:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: self._complaints.append(repr(context))
        )
        with suppress(AssertionError):
            await self.whole()  # SQLite opens some of its files when they are first needed
        self._before = threads(), descriptors()
        return self

    async def __aexit__(self, kind: object, *_error: object) -> None:
        self._raw.close()
        gc.collect(1)  # the young ones: a whole collection in each test would cost minutes
        asyncio.get_running_loop().set_exception_handler(None)
        # Such as "exception was never retrieved", or "task was destroyed but it is pending".
        assert kind or not self._complaints

    def count(self) -> int:
        """How many items are committed."""
        return int(self._raw.execute("SELECT count(*) FROM items").fetchone()[0])

    def require_free(self) -> None:
        """Have the file's write lock at this very moment, as another process would."""
        self._raw.execute("BEGIN IMMEDIATE")
        self._raw.execute("ROLLBACK")

    def pinned(self) -> bool:
        """Whether a reader keeps the write-ahead log from being reset."""
        limit = monotonic() + SOON
        while True:
            found = self._raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            # In a quiet moment the writer may be moving pages itself.
            if found != (1, -1, -1) or monotonic() > limit:
                return bool(found != (0, 0, 0))

    async def whole(self) -> None:
        """Everyone is idle, nothing is open or lost, and the next calls work (invariants 7, 13)."""
        await until(lambda: not busy(self.db))
        stats = self.db.stats()
        for lane in stats["writer"], stats["readers"]:
            assert (lane["opened"], lane["replaced"], lane["waiting"]) == (lane["size"], 0, 0), lane
        self.require_free()  # nobody has a write transaction open …
        assert not self.pinned()  # … and no reader one that keeps an old view
        await self.db.execute(TOUCH(id=1))
        size = stats["readers"]["size"]
        await asyncio.gather(*(self.db.fetch_one(COUNT()) for _ in range(size)))
        assert threads() == self._before[0], threads() ^ self._before[0]
        assert descriptors() == self._before[1]


def busy(db: Database) -> int:
    """How many connections work, are lent or are asked for."""
    stats = db.stats()
    return sum(
        lane["busy"] + lane["waiting"] for lane in (stats["writer"], stats["readers"]) if lane
    )


# -- a driver that can be stopped and broken -------------------------------------------------------


class Driver:
    """`connect` stands in for `aiosqlite.connect`; `hook` is called at every step on the thread.

    The steps: "begin" and "end" of a call, and the text of each statement before it runs. The hook
    may raise what SQLite would, or wait.
    """

    def __init__(self) -> None:
        self.hook: Callable[[str], None] = lambda step: None
        self.connections: list[aiosqlite.Connection] = []

    def connect(self, *args: Any, factory: Any, **kwargs: Any) -> aiosqlite.Connection:
        step = self._step

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, values: Any = (), /) -> Any:
                step(sql)
                return super().execute(sql, values)

        class Raw(factory):  # type: ignore[misc]
            def execute(self, sql: str, values: Any = (), /) -> Any:
                if type(sql) is str:
                    step(sql)
                    return super().execute(sql, values)
                step("begin")
                result = super().execute(sql, values)
                step("end")
                return result

            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

        self.connections.append(aiosqlite.connect(*args, factory=Raw, **kwargs))
        return self.connections[-1]

    def _step(self, step: str) -> None:
        self.hook(step.rstrip(" "))  # with which the library marks what is its own


async def lose_writer(db: Database, driver: Driver, *, refusing: str = "ROLLBACK") -> None:
    """Break the writer so that the lane has to replace it; its next connections are refused the
    statements that begin with `refusing`, if that is not "ROLLBACK", from now on."""

    def refuse(step: str) -> None:
        if step.startswith(("ROLLBACK", refusing)):
            raise sqlite3.OperationalError("disk I/O error")

    driver.hook = refuse
    with suppress(ZeroDivisionError):
        async with db.transaction():
            raise ZeroDivisionError
    await until(lambda: db.stats()["writer"]["replaced"])
    if refusing == "ROLLBACK":
        driver.hook = lambda step: None


def passing(clock: Clock, seconds: float, *queries: Query[Any]) -> Callable[[str], None]:
    """A hook that puts the clock forward whenever one of some statements begins: so those are over
    their time limits at once, and what comes before them never is."""
    texts = {query.text for query in queries}

    def hook(step: str) -> None:
        if step in texts:
            clock.passes(seconds)

    return hook


class Gate:
    """Stops the connection's thread at one step, where it waits until the gate is opened."""

    def __init__(self, driver: Driver) -> None:
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()
        self._stops: Callable[[str], bool] = lambda step: False
        self.reached = asyncio.Event()
        driver.hook = self._hook

    def stop_at(self, step: str) -> None:
        """Close the gate at the next step of this name: "begin", "end", or an SQL text."""
        self._close(lambda here: here.startswith(step))

    def stop_at_number(self, number: int) -> None:
        """Close the gate at the step of that number, counted from now and from 0."""
        steps = iter(range(number + 1))
        self._close(lambda _here: next(steps, None) == number)

    def _close(self, stops: Callable[[str], bool]) -> None:
        self._open.clear()
        self.reached.clear()
        self._stops = stops

    def open(self) -> None:
        self._stops = lambda step: False
        self._open.set()

    def _hook(self, step: str) -> None:
        if self._stops(step):
            self._stops = lambda step: False
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self._open.wait(SOON), "nobody opened the gate"


# -- an event loop between two turns ---------------------------------------------------------------


class Turns(selectors.DefaultSelector):
    """Calls `hook` at each turn of a loop, when all its tasks stand still.

    The loop asks its selector once a turn. Before that question everything that became ready in the
    last turn waits to run; after it there is also what the threads have answered meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], bool] = lambda: False
        self.after: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> Any:
        if self.before():
            timeout = 0.001  # something has become ready just now; threads have their turn, too
        events = super().select(timeout)
        self.after()
        return events


def run_in_turns(main: Callable[[Turns], Coroutine[Any, Any, T]]) -> T:
    """Run `main` in a loop whose turns can be looked at."""
    turns = Turns()
    loop = Clock(turns)
    with (
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        loop.lead(patch)
        return runner.run(main(turns))


# -- other processes -------------------------------------------------------------------------------

# Ctrl-C works as in a program that a person starts: what a shell starts in the background, as these
# tests may be, ignores it, and hands that on.
IMPORTS = """
import asyncio, os, signal, sqlite3, sys, threading
from pathlib import Path
from abt_db import *
signal.signal(signal.SIGINT, signal.default_int_handler)
path = sys.argv[1]
"""


def script(code: str, *, engine: bool = True) -> list[str]:
    """The command that runs `code` in another interpreter, behind IMPORTS and those of this file
    if `engine`."""
    paths = [str(Path(__file__).parents[1]), *ROOMS]
    also = f"sys.path[:0] = {paths!r}\nfrom support.engine import *\n" if engine else ""
    return [sys.executable, "-P", "-c", IMPORTS + also + textwrap.dedent(code)]


def run_script(code: str, path: Path, *, seconds: float = SOON) -> subprocess.CompletedProcess[str]:
    """Run `code` in another interpreter to its end; one that takes longer fails the test."""
    command = script(code)
    process = subprocess.Popen(
        [command[0], "-W", "default", "-X", "faulthandler", *command[1:], str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler tells where it stands
            said = process.communicate()
            raise AssertionError(f"the program did not end:\n{said[1]}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


LOCK = """
import sqlite3, sys
cx = sqlite3.connect(sys.argv[1], isolation_level=None)
for sql in sys.argv[2:]:
    cx.execute(sql).fetchall()
print("locked", flush=True)
sys.stdin.readline()
"""


class LockingProcess:
    """Another process that holds a lock on a database until it is released or killed."""

    def __init__(self, path: Path, *sql: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOCK, str(path), *(sql or ["BEGIN IMMEDIATE"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "locked\n"

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait(SOON)

    def __enter__(self) -> LockingProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
