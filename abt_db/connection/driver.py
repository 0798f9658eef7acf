"""One connection: an aiosqlite connection, configured, that runs a whole call in one thread hop.

aiosqlite passes each operation to the connection's own thread and its result back, which costs far
more than most statements. So a call here is a *function* that runs on that thread from start to
end. This needs only public API: `connect(factory=…)` makes aiosqlite use our own subclass of
`sqlite3.Connection`, and `execute_fetchall(call)` calls its `execute(call)` on the thread, where
`call` is a `str` (so a valid `sql`) that carries the function.

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
"""Seconds between two checks whether the thread that has to answer is still alive."""

Connect = Callable[..., aiosqlite.Connection]
"""The function that opens the driver's connection: `aiosqlite.connect`, or one of a test."""


class _Call(str):
    """A function that is passed to the driver as an SQL text. Runs once."""

    __slots__ = ("function",)

    function: Callable[[EngineSession], None] | None


class _NoRows:
    @staticmethod
    def fetchall() -> tuple[()]:
        return ()


_NO_ROWS = _NoRows()


class _Driver(sqlite3.Connection):
    """A `sqlite3.Connection` whose `execute(call)` runs the call's function.

    Each `Connection` makes a subclass of its own, whose `owner` is that `Connection`.
    """

    owner: Connection

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.owner.thread = threading.current_thread()
        super().__init__(*arguments, **settings)

    @cached_property
    def session(self) -> EngineSession:
        """The session, made on the connection's thread when it is first used."""
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
        # The driver ends its thread after this call, but only if it raises nothing.
        with suppress(sqlite3.Error):
            if "session" in vars(self):
                self.session.end()
        with suppress(sqlite3.Error):
            super().close()

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if type(sql) is not _Call:
            return super().execute(sql, parameters)
        # The thread keeps a reference to its last call until the next one. The function is taken
        # out of the call, so that the objects which the function refers to are not kept alive.
        function, sql.function = sql.function, None
        assert function is not None
        session = self.session
        try:
            function(session)
        finally:
            session.deadline = NEVER  # a call's deadline keeps the call's result alive
            session.examine()
            self.owner.ended(session)
            if self.owner.orphaned:
                # The driver's thread is about to report to a closed loop, which raises and ends
                # the thread. After that nothing could close the file and release its locks.
                self.close()
        return _NO_ROWS


class RaisedError(Exception):
    """Carries what a function raised that is no `Exception`, for instance a `CancelledError`, so
    that it is not mistaken for a cancellation of the waiting task."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Connection:
    """An open and configured connection, which runs one call at a time."""

    __slots__ = (
        "_abandoned",
        "_aio",
        "_finished",
        "_handed",
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
        """The driver's thread."""
        self._handed = 0  # calls passed to the thread; written by the event loop
        self._finished = 0  # calls that have ended; written by the thread, like _settled
        self._settled = True
        self._abandoned = False
        # The tasks that wait for the thread. There may be two: one whose call overruns its limit,
        # and the slot's task, which cleans up after that call.
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
        """Open the file `path` (or `MEMORY`) and configure the connection as `config` says.

        Must not be cancelled, or the driver would leak the file descriptor. (Lanes open their
        connections in tasks of their own, which callers can't cancel. Cancelling `limit` ends the
        wait for another process's lock.) Raises `CantOpenError`, `CorruptError`, `BusyError` or
        another `QueryError`, after closing what it had opened (invariant 22).
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

        # SQLite ignores its busy timeout in the first switch to WAL when several processes start at
        # once, and a database in recovery is busy for every connection.
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

        If the caller is cancelled, the function goes on until the progress handler sees that the
        deadline was cancelled; the next call on this connection waits for that. If the deadline
        has passed and the function still runs, the caller gets an error that names `what`, and a
        transaction in which the function has written is rolled back. If the function raises what is
        no `Exception`, it is raised as a `RaisedError`.
        """
        if not self.alive:
            raise LostError(f"the thread of the {self.name} has died")
        result: list[T] = []
        failed: list[BaseException] = []

        def call(session: EngineSession) -> None:
            session.deadline = deadline
            # Everything is caught here and raised again in the loop. A StopIteration, for
            # instance, can't be set on the driver's future: the caller would wait for ever.
            try:
                # A call that was cancelled before it started never runs.
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

        `function` runs to its end, whatever happens to the caller, and should raise nothing. If
        `free` or `look_after` ends the caller's wait before that, the caller gets the error that is
        in its deadline.
        """
        call = _Call()
        call.function = function
        self._handed = number = self._handed + 1
        waiter = asyncio.current_task(self._loop)
        assert waiter is not None
        self._waiting[deadline] = waiter
        cancels = waiter.cancelling()
        try:
            await self._aio.execute_fetchall(call)
        except ValueError:
            # Raised by the driver; an error of the function is not raised here, see `run`.
            raise LostError(f"the {self.name} was closed by other code") from None
        except asyncio.CancelledError:
            # The task was cancelled by `free`, by other code, or by both. If other code did so, the
            # cancellation is passed on, as `asyncio.timeout` does.
            if deadline.given_up is None or waiter.uncancel() > cancels:
                raise
            # A call that has ended at that very moment counts as ended.
            if self._finished < number:
                raise deadline.given_up from None
        finally:
            del self._waiting[deadline]
        if self.stats.events:
            self.stats.tell()

    def free_late(self, deadline: Deadline, what: str) -> None:
        """Do as `free` does, but if a COMMIT is under way, after `COMMIT_GRACE` more seconds."""
        if deadline.committing:
            self._loop.call_later(COMMIT_GRACE, self.free, deadline, what)
        else:
            self.free(deadline, what)

    def free(self, deadline: Deadline, what: str) -> None:
        """End the wait of a task whose call still runs after its deadline: the task gets an error
        that names `what`. The thread goes on with the call until its statement ends or is
        stopped."""
        task = self._waiting.get(deadline)
        if task is not None and deadline.given_up is None:
            deadline.give_up(what)
            task.cancel()

    def ended(self, session: EngineSession) -> None:
        """Note, on the thread, that a call has ended."""
        self._settled = session.settled
        self._finished += 1

    @property
    def orphaned(self) -> bool:
        """Whether the event loop of this connection was closed. May be read from any thread."""
        return self._loop.is_closed()

    @property
    def settled(self) -> bool:
        """Whether no call runs and nothing was left open, so that the connection can serve the next
        caller without `reset`."""
        return self._handed == self._finished and self._settled

    @property
    def in_transaction(self) -> bool:
        """Whether SQLite has a transaction open. May be read from any thread."""
        try:
            return self._aio.in_transaction
        except (ValueError, sqlite3.Error):
            return False  # the connection is closed, or not open yet

    async def reset(self) -> None:
        """Make the connection fit for the next caller: no open cursor, no transaction."""
        await self.run(EngineSession.reset, Deadline())

    @property
    def alive(self) -> bool:
        """Whether the connection's thread lives, or has not been started yet."""
        return self.thread is None or self.thread.is_alive()

    def look_after(self) -> None:
        """If the thread has died, raise `LostError` in the tasks that wait for it: it would never
        answer."""
        if self._waiting and not self.alive:
            for deadline, task in self._waiting.items():
                if deadline.given_up is None:
                    deadline.given_up = LostError(
                        f"the thread of the {self.name} died while it ran a call"
                    )
                    task.cancel()

    async def close(self) -> None:
        """Close the connection and end its thread, after the call that is running there."""
        # Not the driver's `close`: it passes the thread a second call after the one that ends it,
        # and waits for both. If other code has ended the thread before, it waits for ever (fault
        # 83).
        ended = self._aio.stop()
        alive = True
        while ended is not None and not ended.done() and alive:
            # Read before the wait, because a thread sends its last answer before it ends.
            alive = self.alive
            await asyncio.wait([ended], timeout=LOOK)
        self._join()

    def _join(self) -> None:
        """Wait until the thread has ended. It has announced its end, so this takes microseconds."""
        if self.thread is not None:
            self.thread.join(timeout=1.0)

    def abandon(self) -> None:
        """Make the thread close the connection and end, without waiting in an event loop."""
        if self._abandoned:
            return  # it may be called again while the interpreter shuts down
        self._abandoned = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            _forget_closed_loop()
            self._aio.stop()
        else:
            # The driver would make a future of the running loop, which may be closed before the
            # driver's thread reports its end. Another thread has no running loop.
            stopping = threading.Thread(target=self._aio.stop, daemon=True)
            try:
                stopping.start()
            except RuntimeError:  # no further thread can be started
                self._aio.stop()
            else:
                stopping.join()


def _forget_closed_loop() -> None:
    """Remove this thread's event loop if that is closed.

    The driver would otherwise make a future of the closed loop, and its thread would end with a
    traceback when it sets the future's result.
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
    """Make the driver's connection, with a daemon thread.

    By itself the driver makes a thread that is no daemon, so a database that is never closed would
    keep the interpreter from exiting. A thread inherits the flag from the thread that makes it, so
    the connection is made in a daemon thread.
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
