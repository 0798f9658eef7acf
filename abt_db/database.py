"""`Database`: the class that applications use.

A call goes through the pool to one connection and back. Reads run on any idle reader, writes run
one after the other on the writer. `pool/lane.py` says how a call waits for its connection,
`connection/session.py` how it runs there.
"""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from .config import Config
from .connection.deadline import finish
from .connection.driver import Connect
from .connection.lock_owners import Holding
from .connection.session import Result, Session, Verbs
from .connection.settings import MEMORY, in_memory
from .connection.transaction import EngineSession
from .errors import ConfigError, PoolClosedError, QueryError
from .events import KINDS, Checkpointed, Committed, Event, Listener, Listeners
from .housekeeping import Housekeeping
from .locks.lease import Leases, LockLease
from .locks.table import LockInfo
from .pool.call import name_of, take_priority
from .pool.loan import Loan
from .pool.pool import Pool
from .sql.query import Query, Statement, query_of, require_many, series
from .transactions.bulk import Batching, BatchReport, Operation, run_operations
from .transactions.handles import Snapshot, Stream, Transaction
from .transactions.retry import run_with_retries
from .watch.live import Watch, Watching

T = TypeVar("T")
P = ParamSpec("P")


class Database:
    """One SQLite database: one writer and `Config.readers` readers.

    `path` is the file, or ``":memory:"``, or the URI of a private database in memory; in memory,
    one connection is both writer and reader. Other URIs are refused. `read_only` opens a database
    that other processes write, or an archive (see `Config.immutable`): no write, no PRAGMA that
    writes, and no new file but those that SQLite needs to read a WAL database. `connect` is called
    in place of `aiosqlite.connect`; it is for tests that inject faults.

    Use it as ``async with Database("app.db") as db:``, or with `open` and `close`. A `Database`
    belongs to the event loop that opened it. When that loop is closed, it may be opened again in
    another one. Every call

    - waits for a connection at most `Config.acquire_timeout` seconds (`PoolTimeoutError` names the
      call or loan that holds it) and takes at most `timeout` seconds in all. It runs at most
      `Config.statement_timeout` seconds, if that is less (`StatementTimeoutError`). The caller goes
      on at that limit even if SQLite can't be stopped, inside a sort or a function of a large
      value. Nothing of a write is committed then; or, if its COMMIT takes more than a second beyond
      the limit, the error is `CommitUnknownError`;
    - may be cancelled at any moment: a call that has not begun never runs, and a statement that
      runs is stopped and its transaction rolled back. A write that is cancelled in its COMMIT may
      have been committed;
    - raises `PoolClosedError` if the database is not open in this event loop;
    - raises `TransactionStateError`, in a task that has a transaction open, if the call would wait
      for that transaction, as a write does, or would read a table that the transaction has written,
      without its changes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        config: Config | None = None,
        read_only: bool = False,
        connect: Connect | None = None,
    ) -> None:
        path = os.fspath(path)
        self.path = MEMORY if in_memory(path) else path
        self.config = config or Config()
        if self.config.immutable and not read_only:
            raise ConfigError("Config.immutable is for databases that are opened with read_only")
        self.read_only = read_only
        self._connect = connect
        self._pool: Pool | None = None
        # Made with the pool, for that pool:
        self._watching: Watching
        self._housekeeping: Housekeeping
        self._leases: Leases
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._forks = 0
        self._turn = asyncio.Lock()  # held while opening, closing or resizing
        self._opening = self._closing = False
        self._finalizer: weakref.finalize[[str, Pool], Database] | None = None
        self._listeners = Listeners()

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open all connections; does nothing if they are open.

        If an event loop was closed without closing the database in it, the connections that were
        left open are closed first, and a transaction that was open on them is rolled back. That
        waits for their threads `Config.close_timeout` seconds at most.

        Raises `CantOpenError` for a path that can't be a database, `CorruptError` for a file that
        is not a database, and `BusyError` if another process keeps the file locked for
        `Config.busy_timeout` seconds. If opening fails or is cancelled, nothing stays open.
        """
        left = self._leave_behind()
        if self._pool is not None and not self._closing:
            self._opened()
            return self
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._turn = loop, asyncio.Lock()
            self._thread, self._forks = threading.get_ident(), _Forks.count
        async with self._turn:
            if left is not None:
                await left.abandoned()
            if self._pool is None:
                self._opening = True
                try:
                    await self._open()
                finally:
                    self._opening = False
        return self

    async def close(self) -> None:
        """Close all connections; does nothing if they are closed.

        New calls are refused at once, and waiting ones fail with `PoolClosedError`. Running calls
        have `Config.close_timeout` seconds to end, and are stopped then. No thread, file descriptor
        or task is left behind. Cancelling this does not stop the closing.
        """
        if (left := self._leave_behind()) is not None:
            await left.abandoned()
        pool = self._pool
        if pool is not None:
            self._opened()
            self._closing = True
            pool.refuse()
        elif self._loop is not asyncio.get_running_loop():
            return  # never opened in this event loop
        await finish(self._close(pool, opening=self._opening))

    async def _open(self) -> None:
        pool = Pool(
            self.path,
            self.config,
            read_only=self.read_only,
            connect=self._connect,
            listeners=self._listeners,
        )
        await pool.open()
        self._pool, self._housekeeping = pool, Housekeeping(pool)
        self._watching, self._leases = Watching(pool), Leases(pool)
        self._housekeeping.start()
        # Unlike __del__, a finalizer also runs for objects that still exist at the program's end.
        self._finalizer = weakref.finalize(self, _forgotten, self._name, pool)

    async def _close(self, pool: Pool | None, *, opening: bool) -> None:
        async with self._turn:
            # Close also a pool that was being opened when `close` was called, but not one that was
            # opened later.
            if opening:
                pool = self._pool
            if pool is not None and pool is self._pool:
                await self._watching.close()
                await self._housekeeping.close()
                await pool.close()
                await self._leases.close()  # last: a lease may have been granted until now
                self._pool, self._closing = None, False
                if self._finalizer is not None:
                    self._finalizer.detach()

    def _leave_behind(self) -> Pool | None:
        """Abandon the pool if its event loop is closed, and return it; otherwise return None."""
        pool, loop = self._pool, self._loop
        if pool is None or loop is None or not loop.is_closed() or self._forks != _Forks.count:
            return None
        self._pool, self._opening, self._closing = None, False, False
        self._watching.abandon()
        pool.abandon()
        if self._finalizer is not None:
            self._finalizer.detach()
        return pool

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    # -- one statement, one hop ------------------------------------------------------------------

    async def fetch_one(
        self, statement: Statement[T], *, timeout: float | None = None, priority: int = 0
    ) -> T | None:
        """Return the first row as the query's row type, or None if there is none.

        A statement that writes and returns rows (RETURNING) runs on the writer, in a transaction
        of its own. Raises a `QueryError` if SQLite fails, `MappingError` for a row that does not
        fit the row type. Calls of higher `priority` are served first.

        A read runs on a connection that has written nothing. So a read of what only the writer's
        connection knows (`last_insert_rowid()`, `changes()`, temporary tables) raises
        `DeniedError`; inside a transaction it is allowed.
        """
        return await self._run(Verbs.fetch_one, statement, timeout, priority)

    async def fetch_all(
        self, statement: Statement[T], *, timeout: float | None = None, priority: int = 0
    ) -> list[T]:
        """Return all rows as the query's row type; otherwise as `fetch_one`."""
        return await self._run(Verbs.fetch_all, statement, timeout, priority)

    async def execute(
        self, statement: Statement[Any], *, timeout: float | None = None, priority: int = 0
    ) -> Result:
        """Run a statement that writes, as if in a transaction of its own.

        Calls that wait at the same time may share a transaction; the caller does not notice that.
        When this returns, the write is committed: it survives ``kill -9``, and every read that
        begins from now on sees it. Raises `IntegrityError` and other `QueryError`s; then nothing of
        this statement is in the database, whatever the outcome of the other calls. The rows of
        RETURNING are dropped; `fetch_one` and `fetch_all` run such a statement and return them.
        """
        query = query_of(statement)
        return await self._opened().write(
            query, Verbs.execute, (statement,), timeout, priority, shares=not query.alters
        )

    async def execute_batch(
        self,
        statements: Iterable[Statement[Any]],
        *,
        timeout: float | None = None,
        priority: int = 0,
    ) -> list[Result]:
        """Run several statements that write, in one transaction: all of them or none."""
        listed = list(series(statements, "execute_batch", "statements"))
        return await self._opened().write(
            query_of(listed[0]).name if listed else "an empty batch",
            Verbs.execute_batch,
            (listed,),
            timeout,
            priority,
            shares=not any(query_of(statement).alters for statement in listed),
            savepoint=True,
        )

    async def execute_many(
        self,
        query: Query[Any],
        rows: Iterable[object],
        *,
        timeout: float | None = None,
        priority: int = 0,
    ) -> int:
        """Run one statement for each of `rows`, mappings or dataclass instances: all or none.

        Returns how many rows changed. `rows` may be a generator; it is read in the connection's
        thread, inside the transaction. If the result is the same, as for an
        ``INSERT INTO t (…) VALUES (:a, :b)``, up to 64 rows are given to SQLite at a time.

        Raises `TypeError` for rows that are not iterable, or an async iterable (`run_batch` takes
        those), and `QueryError` for a query with RETURNING, whose rows would be dropped.
        """
        require_many(query, rows)
        return await self._opened().write(
            query, Verbs.execute_many, (query, rows), timeout, priority
        )

    # -- functions -------------------------------------------------------------------------------

    @overload
    async def read(self, function: Callable[[Session], T], *, priority: int) -> T: ...

    @overload
    async def read(
        self,
        function: Callable[Concatenate[Session, ...], T],
        *args: Any,
        priority: int,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def read(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def read(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``function(cx, …)``, a synchronous function, on a reader and in one hop.

        `cx` has the verbs of this class without `await`, and one consistent view of the database.
        The function runs in the connection's thread: it must not touch the event loop. It is run
        again from its beginning if another process's lock was in the way.

        ``priority=`` is the priority of the call, as in `fetch_one`, unless the function has a
        parameter of that name: then the function gets it. To give both, put a lambda around such a
        function.
        """
        name, priority = name_of(function), take_priority(function, kwargs)
        return await self._read(name, _in_snapshot, (function, args, kwargs), priority=priority)

    @overload
    async def write(self, function: Callable[[Session], T], *, priority: int) -> T: ...

    @overload
    async def write(
        self,
        function: Callable[Concatenate[Session, ...], T],
        *args: Any,
        priority: int,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def write(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def write(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``function(cx, …)``, a synchronous function, in one transaction and one hop.

        The transaction is committed when the function returns and rolled back if it raises. The
        function is never run twice, and no other call shares its transaction. ``priority=`` is as
        in `read`.
        """
        name, priority = name_of(function), take_priority(function, kwargs)
        return await self._opened().write(name, _call, (function, args, kwargs), priority=priority)

    # -- handles ---------------------------------------------------------------------------------

    def transaction(
        self,
        *,
        timeout: float | None = None,
        priority: int = 0,
        label: str | None = None,
        mode: Literal["immediate", "exclusive"] = "immediate",
        lease: LockLease | None = None,
    ) -> Transaction:
        """Return a write transaction, to be used with ``async with``.

        The transaction has the writer for itself: other writes wait, reads go on. Any task of the
        event loop may use it; the task that has entered it must end it (see
        `abt_db.transactions.handles`). `timeout` seconds after its beginning
        (`Config.transaction_timeout` if None) the transaction is rolled back, whatever it is doing,
        and its next use raises `TransactionTimeoutError`. `label` names it in the errors of calls
        that wait for it.

        Entering it waits for the writer as every call does, in the order of `priority`, then for
        other processes' locks `Config.busy_timeout` seconds at most (`BusyError`).

        With a `lease` (see `lock`) the transaction begins only if the lease is held. Otherwise
        entering it raises `LockLostError`, and nothing is written. No other holder can be granted
        the lock before the transaction ends, even if the lease runs out meanwhile. Keep the
        transaction shorter than two thirds of the lease's ttl, because the lease can't be renewed
        while the transaction holds the writer.
        """
        pool = self._opened()
        return Transaction(
            pool,
            f"transaction {label!r}" if label else "a transaction",
            mode=mode,
            timeout=self.config.transaction_timeout if timeout is None else timeout,
            priority=priority,
            fence=None if lease is None else lease.fence(pool),
        )

    async def run_transaction(
        self,
        operation: Callable[[Transaction], Awaitable[T]],
        *,
        attempts: int = 4,
        backoff: float = 0.01,
        timeout: float | None = None,
        priority: int = 0,
        label: str | None = None,
        mode: Literal["immediate", "exclusive"] = "immediate",
        lease: LockLease | None = None,
    ) -> T:
        """Run ``await operation(tx)`` in a transaction, and again in a new one after a `BusyError`.

        Returns what `operation` returned in the try that was committed. `operation` must have no
        effects outside the database: a try that fails leaves nothing in the database, but its other
        effects are not undone.

        Only a `BusyError` is tried again, `attempts` times in all, after a pause of about `backoff`
        seconds that doubles each time. Every other error (a violated constraint, a time limit, an
        error of the operation itself, `CancelledError`) is raised at once. If the COMMIT may have
        succeeded, the transaction is never tried again. The last error has a note that says how
        often and for how long it was tried.

        `timeout` covers all tries together, with the waits for the writer and the pauses. If it is
        None, each try has `Config.transaction_timeout`. For the rest, see `transaction`.
        """
        return await run_with_retries(
            lambda: self.transaction(priority=priority, label=label, mode=mode, lease=lease),
            operation,
            attempts=attempts,
            backoff=backoff,
            until=None if timeout is None else monotonic() + timeout,
        )

    async def run_batch(
        self,
        operations: Iterable[Operation] | AsyncIterable[Operation],
        *,
        batch_size: int = 500,
        on_error: Literal["stop", "continue"] = "stop",
        mode: Literal["immediate", "exclusive"] = "immediate",
        timeout: float | None = None,
        priority: int = 0,
        label: str | None = None,
        progress: Callable[[BatchReport], object] | None = None,
    ) -> BatchReport:
        """Run many operations in transactions of `batch_size`, and report the outcome of each.

        An operation is a statement that writes, ``function(cx)``, or ``async function(tx)``, where
        `tx` has the verbs of a transaction and ends with the operation. A function should have no
        effects outside the database: it may be run again if another operation spoilt their common
        transaction. `operations` is read in the event loop as operations are needed, so it may be
        endless. `BatchReport.results` has their results, in order.

        Each transaction takes `timeout` seconds at most, and between two transactions other calls
        have their turn. A transaction takes one hop, unless an operation in it is asynchronous or
        `mode` is ``"exclusive"``. Then it is a `transaction`: `Config.transaction_timeout` applies
        if `timeout` is None, and it takes two more hops, and one more for each asynchronous
        operation besides that operation's own. An asynchronous operation is cancelled at the limit.

        An operation that fails is undone alone. With ``on_error="stop"`` the operations before it
        are committed, those in its transaction too, and no operation after it is run. With
        ``on_error="continue"`` the operations after it are run and committed as well. If a
        transaction can't begin or be committed (`BusyError`, `FullError`, a deferred foreign key),
        all its operations fail.

        If the caller is cancelled, the running transaction is rolled back (if it is in its COMMIT,
        it may be committed), and the transactions before it stay committed. ``progress(report)`` is
        called after each transaction, so the last report says how far the batch came. Errors that
        iterating over `operations` raises, and errors of the pool such as `PoolTimeoutError`, end
        the batch in the same way, with a note of the counts. If operations have failed, one warning
        in the log says so at the end, under the `label`. The `label` also names the batch in the
        errors of calls that wait for it.
        """
        how = Batching(
            batch_size=batch_size,
            on_error=on_error,
            mode=mode,
            timeout=timeout,
            priority=priority,
            label=label,
        )
        return await run_operations(self._opened(), operations, how, progress)

    def snapshot(self, *, priority: int = 0, label: str | None = None) -> Snapshot:
        """Return one consistent view, on one reader, to be used with ``async with``.

        Entering it waits for a reader as every call does, in the order of `priority`. A task that
        has a transaction open can use a snapshot to read the database without its own changes.
        """
        return Snapshot(self._opened(), f"snapshot {label!r}" if label else "a snapshot", priority)

    def stream(
        self,
        statement: Statement[T],
        *,
        size: int = 500,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Stream[T]:
        """Return the rows of a query, to be read as they are needed, in constant memory.

        ``async with db.stream(ALL_LOGS()) as rows: async for row in rows: …``. Each hop reads
        `size` rows, within `timeout` seconds. The stream has a reader for itself, for which it
        waits in the order of `priority`, and sees the database as it was at the stream's beginning.
        """
        query = query_of(statement)
        if query.writes:
            raise _writes(query, "a stream only reads")
        snapshot = Snapshot(self._opened(), f"stream of {query.name}", priority)
        return Stream(snapshot, statement, size, timeout, own=snapshot)

    def watch(self, statement: Statement[T]) -> Watch[T]:
        """Return the rows of a statement, and return them again whenever they have changed.

        ``async with db.watch(ALL_PROJECTS()) as states: async for rows in states: …`` gets the rows
        as `fetch_all` returns them: first the present ones, then the new ones after each commit
        that has changed them, through whatever view, trigger or cascade (invariant 26). Commits of
        this `Database` to a table that the statement reads are seen at once. Commits of other
        processes are looked for every `Config.watch_interval` seconds.

        Uncommitted changes are not seen, not even in the task that makes them: read those through
        the transaction. If the consumer is slow, or commits follow each other closely, states are
        skipped, but never the last one. Equal statements are run once for all their watches. The
        first run is a call like any other. Later runs wait behind every call, and use half of the
        readers at most.

        The watch ends at once when the block ends, and the statement is not run for it any more.
        Without a block, call `Watch.aclose`; or just iterate, ``async for rows in db.watch(…)``:
        then the watch ends when nothing refers to it any more. A framework that keeps the frames of
        a cancelled task can delay that until a garbage collection. `end_watches` ends all watches.

        Iterating raises the errors of running the statement, and `PoolClosedError` when the
        database is closed. It raises `QueryError` for a statement whose rows can change without a
        commit: one that uses the time (``date('now')``; bind it as a parameter), randomness
        (``random()``), or a property of the connection (``changes()``, ``PRAGMA data_version``,
        EXPLAIN). A statement that reads virtual tables (such as those of FTS5), SQLite's own tables
        or ``pragma_…`` is run again after every commit.
        """
        query = query_of(statement)
        if query.writes:
            raise _writes(query, "only what reads can be watched")
        self._opened()
        if self._closing:
            raise PoolClosedError(f"{self.path} is being closed")
        return self._watching.watch(statement)

    def end_watches(self) -> None:
        """End every `watch` that has begun, at once: each loop over one ends normally, even if
        there are rows that it has not returned yet. Watches that begin later are not affected.

        For servers that, when they stop, first wait for their open event streams to end and only
        then close the database: call this when the program is asked to stop. It may be called from
        a signal handler in the event loop's thread. Does nothing if the database is closed.
        """
        if self._pool is not None:
            self._opened()
            self._watching.end()

    # -- locks among processes -------------------------------------------------------------------

    def lock(
        self,
        name: str,
        *,
        ttl: float = 30.0,
        timeout: float | None = None,
        label: str | None = None,
        create: bool = False,
    ) -> LockLease:
        """Return a block that only one task at a time can be in, among all processes that have this
        file open: ``async with db.lock("deploy") as lease: …``. `abt_db.locks.lease` says what is
        promised and where.

        The lock is granted for `ttl` seconds, and a task renews it after each third of that time,
        for as long as the block lasts. If the process dies, the lock comes free when the ttl has
        passed.

        Entering waits at most `timeout` seconds, or without limit if None (0: tries once);
        `LockTimeoutError` says which task and process hold the lock. Tasks of one `Database` are
        served in the order in which they came; processes have equal chances. Entering is one
        commit, and so is leaving; both raise the errors of other calls. If the task is cancelled,
        at whatever moment, the lock is released or was never granted. A task that already has the
        lock gets `LockStateError`.

        Locks are rows of the table `abt_db.LOCKS_TABLE`, which should be part of the application's
        schema. If the table is missing, entering creates it if `create` is true, in one more
        commit, and raises `StatementError` otherwise. `label` says what the lock is held for; it is
        shown in `LockTimeoutError` and by `lock_info`.

        The lease is lost if it could not be renewed in time, because the program was stopped or the
        database was busy for too long, or if it was released by force. Then `lease.lost` is done,
        `lease.check()` and the end of the block raise `LockLostError`, and
        ``db.transaction(lease=lease)`` writes nothing.
        """
        return LockLease(self._locks(), name, ttl, timeout, label, create)

    async def lock_info(self, name: str) -> LockInfo | None:
        """Return the holder of a lock, in whatever process; None if the lock is free. Writes
        nothing."""
        return await self._locks().info(name)

    async def break_lock(self, info: LockInfo) -> bool:
        """Release a lock by force; return whether the lease that `info` shows was still held.

        This never ends the lease of a later holder. The holder whose lease is ended notices that at
        its next renewal, or when it writes with the lease.
        """
        return await self._locks().end(info)

    async def checkpoint(
        self,
        mode: Literal["passive", "full", "restart", "truncate"] = "passive",
        *,
        wait: float = 0.1,
    ) -> Checkpointed:
        """Move pages of the write-ahead log into the database file, on the writer's connection.

        SQLite makes a checkpoint by itself when a commit finds `Config.wal_autocheckpoint` pages in
        the log (https://www.sqlite.org/wal.html#ckpt), and `Config.wal_limit` keeps the log short.
        ``"passive"`` does not wait. The other modes wait `wait` seconds for readers, while no
        connection can write, and for another connection's checkpoint. ``"truncate"`` leaves the log
        empty. It is no error if a reader is in the way for longer: the result says that the
        checkpoint was `busy`, how much it has `moved`, and which `readers` were in the way.
        """
        return await self._opened().checkpoints.run(mode, wait)

    async def resize(self, *, readers: int) -> None:
        """Change the number of readers.

        New readers are open when this returns; readers beyond that number are closed as they come
        free. Raises the errors of `open`, and `ConfigError` for more than `Config.max_readers`;
        then nothing has changed.
        """
        config = replace(self.config, readers=readers)
        async with self._turn:
            pool = self._opened()
            if pool.readers is not pool.writer:
                await pool.readers.resize(readers)
            self.config = config

    def barrier(self, *, label: str | None = None) -> AbstractAsyncContextManager[Loan]:
        """Lend the writer's connection while no other call reads or writes: for schema changes.

        ``async with db.barrier() as loan: await loan.run(function, deadline)``. Entering waits for
        running calls, `Config.acquire_timeout` seconds at most. New calls wait until the block
        ends.
        """
        return self._opened().barrier(label or "a barrier")

    @asynccontextmanager
    async def writer(self, *, label: str) -> AsyncIterator[Loan]:
        """Lend the writer's connection, outside a transaction, while reads go on: for statements
        that can't run in a transaction. Used as `barrier` is."""
        pool = self._opened()
        loan = await pool.lend_writer(label)
        try:
            yield loan
        finally:
            loan.give_back()
            # A statement such as VACUUM commits by itself, and may change rowids.
            pool.listeners.tell(Committed(None))

    async def end_transactions(self, *, older_than: float) -> list[Holding]:
        """Roll back each interactive transaction that has been open for `older_than` seconds or
        longer, whatever it is doing, and return its label, task, age and statements.

        The next use of such a transaction, and the end of its block, raises
        `TransactionAbortedError`. A transaction that is committing is left to end. Returns when the
        writer is free, unless a statement can't be stopped at once; cancelling that wait does not
        stop the rollback. Snapshots and streams are not ended, because they block no writes.
        """
        if not older_than >= 0:
            raise ValueError(f"older_than must be 0 seconds or more, not {older_than!r}")
        return await self._opened().end_transactions(older_than)

    # -- statistics and events -------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return counters since `open`, as plain dicts; durations are in seconds.

        - ``writer`` (None if read-only) and ``readers``: connections (``size``, ``idle``, ``busy``,
          ``opened``, ``replaced``; how many are an ``overflow`` beyond `Config.readers`, and how
          many ``overflows`` there were), the queue (``waiting`` now; how many ``waits`` there were,
          ``longest_wait``), and the work: ``calls`` in ``hops``, ``loans``, ``commits``. The counts
          in ``batches`` say how many of the hops for waiting calls had up to 1, 2, 4, 8 … calls.
          ``response`` says how long calls took until their result, with the wait for a connection:
          ``count``, ``mean``, ``p50``, ``p99``, ``slowest``;
        - ``queries``: by name, the runs of each query on any connection, in a call of its own or in
          a function: ``count``, ``errors``, ``rows``, ``seconds`` (the sum), ``mean``, ``p50``,
          ``p99``, ``slowest``;
        - ``transactions``: the loans of this moment, the oldest first: ``label``, ``task``,
          ``age``, how many ``statements`` have run, the ``state`` (``"idle"``, ``"running"``, or
          ``"waiting"`` for another connection's lock on the file) and the ``query`` that is
          running;
        - ``transacted``: how many interactive transactions were ``begun``, are ``open``, were
          ``committed`` and ``rolled_back`` (with those that were ``timed_out``, or ``ended`` by
          `end_transactions`), and how many have an ``unknown`` outcome because their COMMIT was
          cancelled; and how long they were open: ``mean``, ``p50``, ``p99``, ``slowest``;
        - ``locks``: the figures of `LocalLocks.stats` for `lock`, for the tasks of this `Database`
          only. ``holders`` are the tasks that have a lock or are asking the database for it, and
          the other tasks wait behind them.

        Reading the counters does not slow down running calls, and their memory does not grow with
        the time that the program runs.
        """
        pool = self._opened()
        return {
            "writer": None if pool.writer is None else pool.writer.stats(),
            "readers": pool.readers.stats(),
            "queries": pool.queries(),
            "transactions": pool.transactions(),
            "transacted": pool.transacted.as_dict(),
            "locks": self._locks().turns.stats(),
        }

    def add_listener(self, listener: Listener, *kinds: type[Event]) -> None:
        """Have ``listener(event)`` called in the event loop after each statement, commit,
        transaction, wait and checkpoint, or only for the `kinds` given: ``add_listener(told,
        Committed)``. `abt_db.events` has the kinds.

        An error that the listener raises is logged and affects no call. The time that it takes
        delays every call, because it runs in the event loop. If a function runs more than 100,000
        statements in one hop, the listener gets only the last ones.
        """
        self._listeners.add(listener, frozenset(kinds) or KINDS)

    def remove_listener(self, listener: Listener) -> None:
        """Undo `add_listener`; does nothing if the listener is not registered."""
        self._listeners.remove(listener)

    def __repr__(self) -> str:
        name, pool = self._name, self._pool
        if pool is None:
            return f"<Database {name}: closed>"
        writer, readers = pool.writer, pool.readers.slots
        state = "read-only"
        if writer is not None:
            state = "writer busy" if writer.slots.busy else "writer idle"
        return (
            f"<Database {name}: {state}, readers {readers.busy}/{len(readers)},"
            f" {pool.waiting} waiting>"
        )

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self.path if self.path == MEMORY else Path(self.path).name

    def _locks(self) -> Leases:
        self._opened()
        return self._leases

    def _opened(self) -> Pool:
        """Return the pool. Raises `PoolClosedError` if it is closed, or belongs to another event
        loop, thread or process."""
        pool, loop = self._pool, self._loop
        if pool is None:
            raise PoolClosedError(f"{self.path} is not open")
        # Not `asyncio.get_running_loop()`, which makes a system call each time.
        if (
            loop is None
            or not loop.is_running()
            or threading.get_ident() != self._thread
            or self._forks != _Forks.count
        ):
            raise PoolClosedError(
                f"{self.path} was opened in another event loop or process; open a Database of its"
                " own in each, or open this one again when that loop is closed"
            )
        return pool

    def _run(
        self,
        verb: Callable[[Verbs, Statement[Any]], T],
        statement: Statement[Any],
        timeout: float | None,
        priority: int,
    ) -> Coroutine[Any, Any, T]:
        """Run one statement that returns rows, on the writer if it writes, else on a reader."""
        query = query_of(statement)
        if query.writes:
            return self._opened().write(query, verb, (statement,), timeout, priority, shares=True)
        return self._read(query, verb, (statement,), timeout, priority)

    def _read(
        self,
        what: Query[Any] | str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        timeout: float | None = None,
        priority: int = 0,
    ) -> Coroutine[Any, Any, T]:
        """Run a function that reads, and refuse it the tables that this task has written in its
        open transaction: a reader would show them without those changes."""
        pool = self._opened()
        tables = pool.uncommitted()
        if tables is None or tables:
            function, arguments = _without, (tables, function, arguments)
        return pool.read(what, function, arguments, timeout, priority)


class _Forks:
    """Counts the forks between this process and the one that imported this module."""

    count = 0

    @classmethod
    def more(cls) -> None:
        cls.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Forks.more)


def _forgotten(name: str, pool: Pool) -> None:
    try:
        warnings.warn(f"<Database {name}> was never closed", ResourceWarning, stacklevel=2)
    finally:
        pool.abandon()  # also if the warning is raised as an error


def _writes(query: Query[Any], problem: str) -> QueryError:
    return QueryError(f"query {query.name!r} writes; {problem}", query=query.name, sql=query.sql)


def _call(
    session: EngineSession,
    function: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> T:
    return session.call(function, *args, **kwargs)


def _in_snapshot(
    session: EngineSession,
    function: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> T:
    with session.transaction("SNAPSHOT"):
        return session.call(function, *args, **kwargs)


def _without(
    session: EngineSession,
    tables: frozenset[str] | None,
    function: Callable[..., T],
    arguments: tuple[Any, ...],
) -> T:
    """Run a function that reads; refuse it if it reads one of `tables` (None: any table)."""
    with session.hiding(tables):
        return function(session, *arguments)
