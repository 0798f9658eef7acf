"""One connection: an aiosqlite connection, configured, that runs a whole call in one thread hop.

aiosqlite hands each call to the connection's own thread and back, which costs far more than most
statements. So a call here is a *function* that runs on that thread from start to end. Only public
API is needed for it: `connect(factory=…)` gives our own subclass of `sqlite3.Connection`, and
`execute_fetchall(call)` calls its `execute(call)` on the thread, where `call` is a `str` (so a
valid `sql`) that carries the function.

This is the only module that imports aiosqlite.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property, partial
from time import monotonic
from typing import Any, TypeVar

import aiosqlite

from abt_db.config import Config
from abt_db.errors import (
    BusyError,
    CantOpenError,
    LostError,
    QueryError,
    ReadOnlyError,
    StoppedError,
    translate,
)

from .busy import SQLITE_BUSY_TIMEOUT, while_busy
from .checkpoint import Wal
from .deadline import COMMIT_GRACE, GRACE, NEVER, Deadline
from .file_identity import FileIdentity
from .lock_owners import who_holds
from .settings import (
    MEMORY,
    Role,
    check_path,
    pragmas,
    require_let_go,
    set_journal,
    set_page_size,
    unreadable,
    uri,
)
from .stats import ConnectionStats
from .transaction import EngineSession

T = TypeVar("T")

LOOK = 0.05
"""Seconds between two looks whether a thread that is to answer is still there."""

Connect = Callable[..., aiosqlite.Connection]
"""What opens the driver's connection; `aiosqlite.connect`, or a test's in its place."""


class _Call(str):
    """A function in the clothes of an SQL text. Runs once."""

    __slots__ = ("function",)

    function: Callable[[EngineSession], None] | None


class _NoRows:
    @staticmethod
    def fetchall() -> tuple[()]:
        return ()


_NO_ROWS = _NoRows()


class _Driver(sqlite3.Connection):
    """`sqlite3.Connection`, where `execute(call)` runs the call's function.

    Each `Connection` has a subclass of its own, which knows it.
    """

    owner: Connection

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.owner.thread = threading.current_thread()
        super().__init__(*arguments, **settings)

    @cached_property
    def session(self) -> EngineSession:
        """Made on the connection's thread, when it is first needed there."""
        owner = self.owner
        return EngineSession(
            self,
            owner.stats,
            writable=owner.role == "writer",
            busy_timeout=owner.config.busy_timeout,
            wal=owner.wal,
            identity=owner.identity,
        )

    def close(self) -> None:
        if self.owner.identity is not None:
            self.owner.identity.closing(self.owner)
        # The driver ends its thread behind this, and only where it raises nothing.
        with suppress(sqlite3.Error):
            if "session" in vars(self):
                self.session.end()
        with suppress(sqlite3.Error):
            super().close()

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if type(sql) is not _Call:
            return super().execute(sql, parameters)
        # Taken out, so that the thread, which keeps its last call until the next one, does not
        # keep the function and all that it knows.
        function, sql.function = sql.function, None
        assert function is not None
        session = self.session
        try:
            function(session)
        finally:
            session.deadline = NEVER  # that of a call knows its result
            session.examine()
            self.owner.ended(session)
            if self.owner.orphaned:
                # The driver's thread dies, loudly, of telling a closed loop of the end; there would
                # be nobody left to close the file, and to let go of its locks.
                self.close()
        return _NO_ROWS


class RaisedError(Exception):
    """Carries what a function raised that is no `Exception`, a CancelledError for one: so that
    nobody takes it for one of the task that waits."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Connection:
    """A connection that is open and configured, for one call at a time."""

    __slots__ = (
        "_abandoned",
        "_aio",
        "_begun",
        "_ended",
        "_loop",
        "_settled",
        "_waiting",
        "config",
        "identity",
        "name",
        "role",
        "stats",
        "thread",
        "wal",
    )

    def __init__(
        self, aio: aiosqlite.Connection, config: Config, stats: ConnectionStats, role: Role
    ) -> None:
        self._aio = aio
        self.thread: threading.Thread | None = None
        """The driver's."""
        self._begun = 0  # calls handed to the thread: counted by the loop
        self._ended = 0  # calls that it is done with: counted by the thread, as is _settled
        self._settled = True
        self._abandoned = False
        # The tasks that wait for the thread. There may be two: one that is to be freed, and the
        # lane's, which cleans up behind it.
        self._waiting: dict[Deadline, asyncio.Task[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self.config = config
        self.stats = stats
        self.name = stats.name
        self.role = role
        self.wal: Wal | None = None
        self.identity: FileIdentity | None = None

    @classmethod
    async def open(
        cls,
        path: str,
        config: Config,
        *,
        stats: ConnectionStats,
        role: Role,
        connect: Connect | None,
        limit: Deadline,
        identity: FileIdentity | None = None,
    ) -> Connection:
        """Open the file `path` (or `MEMORY`) and set everything that `config` says.

        Must not be cancelled: the driver would leak the file descriptor. (Lanes open their
        connections in tasks of their own, which callers can't cancel; to cancel `limit` ends the
        waiting for another process's lock.) Raises `CantOpenError`,
        `CorruptError`, `BusyError` or another `QueryError`, having closed what it had opened
        (invariant 22).
        """
        if identity is not None:
            identity.require()
        check_path(path, config, role)

        class Driver(_Driver):
            pass

        aio = _daemonic(connect or aiosqlite.connect, path, config, role, Driver)
        Driver.owner = self = cls(aio, config, stats, role)
        self.identity = identity
        if role == "writer" and path != MEMORY and config.journal_mode == "wal":
            self.wal = Wal(path, config.wal_limit) if config.wal_limit else None
        try:
            await self._aio
        except sqlite3.Error as error:
            self._join()
            raise translate(error, doing=f"opening {path}", path=lambda: path) from error
        except RuntimeError as error:
            if self.thread is not None:
                raise
            raise _no_thread(path, error) from error
        try:
            await self._configure(path, limit)
            if identity is not None:
                identity.opened(self)
        except BaseException:
            await self.close()
            raise
        return self

    async def _configure(self, path: str, limit: Deadline) -> None:
        config = self.config

        def configure(session: EngineSession) -> None:
            session.limit_sizes(config.max_value_size, config.max_sql_size)
            for pragma in pragmas(path, config, self.role):
                session.control(pragma)
            if self.role == "writer":
                set_page_size(session, config)
            if self.role == "follower" and not config.immutable:
                require_let_go(session, path)

        # The first switch to WAL ignores the busy timeout when several processes start at once,
        # and a database in recovery is busy for everyone.
        limit.limited(config.busy_timeout)
        who = partial(who_holds, path)
        try:
            await while_busy(lambda: self.run(configure, Deadline()), limit, who=who)
            if self.role == "writer" and path != MEMORY:
                switch = partial(set_journal, config=config, path=path)
                await while_busy(lambda: self.run(switch, Deadline()), limit, who=who)
        except BusyError as error:
            error.args = (f"opening {path}: {error}",)
            raise
        except QueryError as error:
            # SQLite reads the file at the first statement, not when it opens it.
            if isinstance(error.__cause__, sqlite3.Error | UnicodeDecodeError):
                told = translate(error.__cause__, doing=f"opening {path}", path=lambda: path)
                if self.role == "follower" and isinstance(told, CantOpenError | ReadOnlyError):
                    told = unreadable(path, told)
                raise told from error.__cause__
            raise

    async def run(
        self, function: Callable[[EngineSession], T], deadline: Deadline, what: str = "the call"
    ) -> T:
        """Run `function` on the connection's thread, in one hop, and return what it returns.

        If the caller is cancelled, the function goes on until its statement sees that the
        deadline was cancelled; whatever is run next waits for that. Where the deadline passes and
        the function does not end, the caller is freed with an error of `what` was to be done, and
        a transaction that the function has written to is undone. What the function raises that is
        no `Exception` comes as a `RaisedError`.
        """
        if not self.alive:
            raise LostError(f"the thread of the {self.name} has died")
        result: list[T] = []
        failed: list[BaseException] = []

        def call(session: EngineSession) -> None:
            session.deadline = deadline
            # Everything is caught here and raised again in the loop: a StopIteration, for one,
            # can't be set on the driver's future and would leave the caller waiting for ever.
            try:
                # What was cancelled before it started never runs.
                if not deadline.cancelled:
                    before = session.changes
                    result.append(function(session))
                    if deadline.given_up and session.changes != before:
                        session.spoil()
            except BaseException as error:
                failed.append(error)

        timer = None
        if deadline.at is not None:
            late = max(0.0, deadline.at - monotonic()) + GRACE
            timer = self._loop.call_later(late, self.free_late, deadline, what)
        try:
            await self.hop(call, deadline)
        except asyncio.CancelledError:
            deadline.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if failed:
            error = failed.pop()
            raise error if isinstance(error, Exception) else RaisedError(error)
        if not result:
            raise StoppedError(f"the call was cancelled before the {self.name} began it")
        # Popped, so that the thread does not keep a large result alive until its next call.
        return result.pop()

    async def hop(self, function: Callable[[EngineSession], None], deadline: Deadline) -> None:
        """Run `function` on the connection's thread, if that is alive.

        It is run to its end, whatever becomes of the caller. It should raise nothing. A caller that
        is freed before that end (`free`, `look_after`) gets the error of its deadline.
        """
        call = _Call()
        call.function = function
        self._begun = number = self._begun + 1
        waiter = asyncio.current_task(self._loop)
        assert waiter is not None
        self._waiting[deadline] = waiter
        cancels = waiter.cancelling()
        try:
            await self._aio.execute_fetchall(call)
        except ValueError:
            # The driver's: what the function raises does not come this way.
            raise LostError(f"the {self.name} was closed by somebody else") from None
        except asyncio.CancelledError:
            # By us, by others, or by both: then it is passed on, as `asyncio.timeout` does.
            if deadline.given_up is None or waiter.uncancel() > cancels:
                raise
            # What has ended at that very moment counts.
            if self._ended < number:
                raise deadline.given_up from None
        finally:
            del self._waiting[deadline]
        if self.stats.events:
            self.stats.tell()

    def free_late(self, deadline: Deadline, what: str) -> None:
        """As `free`; a COMMIT that is under way has some time more."""
        if deadline.committing:
            self._loop.call_later(COMMIT_GRACE, self.free, deadline, what)
        else:
            self.free(deadline, what)

    def free(self, deadline: Deadline, what: str) -> None:
        """Free the task whose call goes on beyond its deadline; `what` it was to do. The thread
        goes on with it until it sees that nobody waits."""
        task = self._waiting.get(deadline)
        if task is not None and deadline.given_up is None:
            deadline.give_up(what)
            task.cancel()

    def ended(self, session: EngineSession) -> None:
        """Note, on the thread, that it has done what it was given."""
        self._settled = session.settled
        self._ended += 1

    @property
    def orphaned(self) -> bool:
        """Whether the event loop that it belongs to was closed. May be asked by any thread."""
        return self._loop.is_closed()

    @property
    def settled(self) -> bool:
        """Whether nothing runs and nothing was left open, so that it can serve again as it is."""
        return self._begun == self._ended and self._settled

    @property
    def in_transaction(self) -> bool:
        """Whether SQLite has a transaction open. May be asked by any thread."""
        try:
            return self._aio.in_transaction
        except (ValueError, sqlite3.Error):
            return False  # it is closed, or not open yet

    async def reset(self) -> None:
        """Make the connection fit for the next caller: no open cursor, no transaction."""
        await self.run(EngineSession.reset, Deadline())

    @property
    def alive(self) -> bool:
        """Whether there is still a thread to do the work."""
        return self.thread is None or self.thread.is_alive()

    def look_after(self) -> None:
        """Free the task that waits for a thread that has died: it would never answer."""
        if self._waiting and not self.alive:
            for deadline, task in self._waiting.items():
                if deadline.given_up is None:
                    deadline.given_up = LostError(
                        f"the thread of the {self.name} died while it was at work"
                    )
                    task.cancel()

    async def close(self) -> None:
        """Close the connection and end its thread; what is running there is waited for."""
        # Not the driver's `close`: it hands the thread a second call after the one that ends it,
        # and waits for both, for ever where somebody else has had the thread ended (fault 83).
        ended = self._aio.stop()
        alive = True
        while ended is not None and not ended.done() and alive:
            # Asked before the wait: the last answer of a thread comes before its end.
            alive = self.alive
            await asyncio.wait([ended], timeout=LOOK)
        self._join()

    def _join(self) -> None:
        """Wait for the thread, whose last word was that it ends: for microseconds."""
        if self.thread is not None:
            self.thread.join(timeout=1.0)

    def abandon(self) -> None:
        """Have the thread close the connection and end, without an event loop to wait in."""
        if self._abandoned:
            return  # also at the end of the interpreter, when little is left to work with
        self._abandoned = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            _forget_closed_loop()
            self._aio.stop()
        else:
            # The driver makes a future of the loop that runs, which may be closed by the time that
            # its thread tells it of the end. In another thread there is none.
            stopping = threading.Thread(target=self._aio.stop, daemon=True)
            try:
                stopping.start()
            except RuntimeError:  # there are no more threads
                self._aio.stop()
            else:
                stopping.join()


def _forget_closed_loop() -> None:
    """Let this thread have no event loop if the one that it had is closed.

    The driver would make a future of it, and its thread die, loudly, of telling it of the end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "there is no current event loop"
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            return
    if loop.is_closed():
        asyncio.set_event_loop(None)


def _no_thread(path: str, error: RuntimeError) -> CantOpenError:
    return CantOpenError(
        f"opening {path}: {error}, and each connection needs one; {threading.active_count()} run in"
        " this process: have fewer readers, or raise the limit (`ulimit -u`, that of the container,"
        " or memory)",
        code=sqlite3.SQLITE_CANTOPEN,
        name="SQLITE_CANTOPEN",
    )


def _daemonic(
    connect: Connect, path: str, config: Config, role: Role, driver: type[_Driver]
) -> aiosqlite.Connection:
    """Make the driver's connection with a daemon thread.

    The driver's thread is not a daemon, so a database that is never closed would keep the
    interpreter from exiting. A thread inherits the flag from the thread that makes it.
    """
    made: Future[aiosqlite.Connection] = Future()

    def make() -> None:
        try:
            made.set_result(
                connect(
                    path if path == MEMORY else uri(path, config, role),
                    uri=path != MEMORY,
                    factory=driver,
                    isolation_level=None,
                    timeout=SQLITE_BUSY_TIMEOUT,
                    cached_statements=config.statement_cache,
                )
            )
        except BaseException as error:
            made.set_exception(error)

    maker = threading.Thread(target=make, daemon=True)
    try:
        maker.start()
    except RuntimeError as error:
        raise _no_thread(path, error) from error
    maker.join()
    return made.result()
