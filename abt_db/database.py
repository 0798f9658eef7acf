"""`Database`: what applications use.

A call here goes through the pool to one connection and back: reads on any idle reader, writes one
after the other on the writer. How a call waits is in `lane.py`, how it runs in `session.py`.
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

    `path` is the file, or ``":memory:"`` (one connection then serves both), for which the URI of a
    private database in memory may stand; other URIs are refused. `read_only` opens a database that
    other processes write, or an archive (see `Config.immutable`): no write, no PRAGMA that writes,
    and no new file but those that SQLite needs to read a WAL database. `connect` is for tests that
    inject faults: what is called in place of `aiosqlite.connect`.

    Use it as ``async with Database("app.db") as db:``, or with `open` and `close`. It belongs to
    the event loop that opened it, until that is closed: it may be opened anew in another one then.
    Every call

    - waits for a connection at most `Config.acquire_timeout` seconds (`PoolTimeoutError` names who
      holds it) and runs at most `timeout` seconds in all, `Config.statement_timeout` where that is
      less (`StatementTimeoutError`). Its caller is free at that limit also where SQLite can't be
      stopped, inside a sort or a function of a large value; of a write nothing is committed then,
      or it is `CommitUnknownError`: the COMMIT itself took more than a second longer;
    - may be cancelled at any moment: what has not begun never runs, a statement that runs is
      stopped and its transaction rolled back. A write that is cancelled in its COMMIT may have
      been committed;
    - raises `PoolClosedError` when the database is not open in this event loop;
    - in the task that has a transaction open, raises `TransactionStateError` where it would wait
      for that, as a write does, or would read a table that it has written, as it was before.
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
        # Of the pool, and as old:
        self._watching: Watching
        self._housekeeping: Housekeeping
        self._leases: Leases
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._forks = 0
        self._turn = asyncio.Lock()  # opening and closing, one after the other
        self._opening = self._closing = False
        self._finalizer: weakref.finalize[[str, Pool], Database] | None = None
        self._listeners = Listeners()

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open all connections; does nothing when they are open.

        Those that a closed event loop has left are let go of first, with what was open on them: a
        transaction is rolled back. Their threads are waited for, `Config.close_timeout` at most.
        Raises `CantOpenError` for a path that can't be a database, `CorruptError` for a file that
        is none, `BusyError` when another process keeps it locked for `Config.busy_timeout`. If it
        fails or is cancelled, nothing stays open.
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
        """Close all connections; does nothing when they are closed.

        New calls are refused at once and waiting ones fail with `PoolClosedError`. Running ones
        have `Config.close_timeout` seconds to end and are stopped then. Nothing is left behind:
        no thread, no file descriptor, no task. Cancelling it does not stop it.
        """
        if (left := self._leave_behind()) is not None:
            await left.abandoned()
        pool = self._pool
        if pool is not None:
            self._opened()
            self._closing = True
            pool.refuse()
        elif self._loop is not asyncio.get_running_loop():
            return  # never opened here
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
        # Unlike __del__ it also runs for what is still there when the program ends.
        self._finalizer = weakref.finalize(self, _forgotten, self._name, pool)

    async def _close(self, pool: Pool | None, *, opening: bool) -> None:
        async with self._turn:
            # What was opening is to be closed as well; what was opened later is not.
            if opening:
                pool = self._pool
            if pool is not None and pool is self._pool:
                await self._watching.close()
                await self._housekeeping.close()
                await pool.close()
                await self._leases.close()  # also those that were granted meanwhile
                self._pool, self._closing = None, False
                if self._finalizer is not None:
                    self._finalizer.detach()

    def _leave_behind(self) -> Pool | None:
        """Let go of the pool of a loop that is closed, if there is one, and return it."""
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
        """Return the first row as the query's row type, or None when there is none.

        A statement that writes and returns rows (RETURNING) runs on the writer, in a transaction
        of its own. Raises a `QueryError` when SQLite fails, `MappingError` for a row that does not
        fit its type. Higher `priority` is served first.

        A read asks a connection that has written nothing, so what only the writer's connection
        knows raises `DeniedError`: `last_insert_rowid()`, `changes()`, temporary tables. A
        transaction may ask that.
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
        """Run a statement that writes, in a transaction of its own, or as if it were.

        Calls that wait at the same time share a transaction, unnoticed: when this returns, the
        write is committed; it is there after ``kill -9``, and every read that begins from now on
        sees it. Raises `IntegrityError` and other `QueryError`s, after which nothing of it is in
        the database, whatever has become of the other calls. The rows of RETURNING are dropped;
        `fetch_one` and `fetch_all` run the same statement and have them.
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
        """Run several statements that write in one transaction: all of them or none."""
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
        thread, inside the transaction. Where it comes to the same, as for an
        ``INSERT INTO t (…) VALUES (:a, :b)``, up to 64 rows are given to SQLite at a time.

        Raises `TypeError` for rows that are no iterable, an async one among them (`run_batch` takes
        that), and `QueryError` for a query with RETURNING, whose rows would be dropped.
        """
        require_many(query, rows)
        return await self._opened().write(
            query, Verbs.execute_many, (query, rows), timeout, priority
        )

    # -- functions -------------------------------------------------------------------------------

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
        again from its beginning when another process's lock was in the way.

        ``priority=`` is the call's, as in `fetch_one`, unless the function has a parameter of that
        name: then it gets it. A lambda around such a function gives both.
        """
        name, priority = name_of(function), take_priority(function, kwargs)
        return await self._read(name, _in_snapshot, (function, args, kwargs), priority=priority)

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

        Committed when it returns, rolled back when it raises. It is never run twice, and the
        transaction is its own. ``priority=`` is as in `read`.
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

        It has the writer for itself: other writes wait, reads go on. Any task of the event loop may
        use it; the one that has entered it ends it (see `abt_db.transactions.handles`). `timeout`
        seconds after its beginning (`Config.transaction_timeout` if None) it is rolled back,
        whatever it is doing, and its next use raises `TransactionTimeoutError`. `label` names it in
        errors of the calls that wait. Waits for the writer as every call does, in the order of
        `priority`, then for other processes' locks `Config.busy_timeout` seconds at most
        (`BusyError`).

        With a `lease` (see `lock`) it begins only if that is held: otherwise entering it raises
        `LockLostError`, and nothing is written. No other holder can be granted the lock before the
        end of the transaction, whatever its lease does meanwhile. Keep it shorter than two thirds
        of the lease's ttl: no renewal gets through while it holds the writer.
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
        """Run ``await operation(tx)`` in a transaction; again, in a new one, if it was busy.

        Returns what `operation` returned in the try that was committed. It must have no effects
        but in the database: a try that fails leaves nothing there, and nothing of it is undone
        elsewhere. Only a `BusyError` is tried again, `attempts` times in all, after a pause of
        `backoff` seconds, more or less, that doubles; a constraint that was violated, a time limit,
        whatever the operation raises itself, is raised at once, and so is CancelledError. An error
        whose COMMIT may have gone through is never tried again. The last error has a note how often
        and for how long it was tried.

        `timeout` is for all tries together, with the waiting for the writer and the pauses;
        otherwise each has `Config.transaction_timeout`. For the rest, as `transaction`.
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
        """Run many operations in transactions of `batch_size`, and report what became of each.

        An operation is a statement that writes, ``function(cx)``, or ``async function(tx)``, where
        `tx` has the verbs of a transaction and ends with the operation. A function should have no
        effects but in the database: it may be run again if another operation ended the transaction
        for all. `operations` is read in the event loop as they are needed, so it may be endless.
        `BatchReport.results` has what they returned, in order.

        Each transaction takes `timeout` seconds at most, and other calls have their turn between
        two. It is one hop, unless an operation in it is asynchronous or `mode` is ``"exclusive"``:
        then it is a `transaction`, to which `Config.transaction_timeout` applies where `timeout` is
        None, with two hops more, and one for each asynchronous operation beside its own. Such an
        operation is cancelled at the limit.

        An operation that fails is undone alone. ``"stop"``: what was before it is committed, in its
        transaction too, and nothing behind it is run. ``"continue"``: so are those behind it. A
        transaction that can't begin or be committed (`BusyError`, `FullError`, a deferred foreign
        key) fails all its operations.

        Cancelled, the transaction that is running is rolled back (in its COMMIT it may go through),
        and those before it stay. ``progress(report)`` is called after each one, and so tells how
        far it came. What `operations` raises, and errors of the pool such as `PoolTimeoutError`,
        are raised in the same way, with a note of the counts. If operations have failed, one
        warning in the log says so at the end, under the `label`, which names the batch in errors of
        calls that wait as well.
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

        It waits for a reader as every call does, in the order of `priority`. In the task that has a
        transaction open it is the way to read how things were before.
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

        ``async with db.stream(ALL_LOGS()) as rows: async for row in rows: …``. `size` rows are
        read in one hop, each within `timeout` seconds. It has a reader for itself, for which it
        waits in the order of `priority`, and sees the database as it was at its beginning.
        """
        query = query_of(statement)
        if query.writes:
            raise _writes(query, "a stream only reads")
        snapshot = Snapshot(self._opened(), f"stream of {query.name}", priority)
        return Stream(snapshot, statement, size, timeout, own=snapshot)

    def watch(self, statement: Statement[T]) -> Watch[T]:
        """Return the rows of a statement, and again whenever they have changed.

        ``async with db.watch(ALL_PROJECTS()) as states: async for rows in states: …`` gets what
        `fetch_all` returns: first the rows as they are, then anew after each commit that has
        changed them, through whatever view, trigger or cascade (invariant 26). Commits of this
        `Database` to a table that the statement reads are seen at once, those of other processes
        are looked for every `Config.watch_interval` seconds.

        What is not committed is not seen, not even by the task that writes it: read that by its
        transaction. A consumer that is slow, and commits that follow each other closely, skip
        states, never the last one. Equal statements are run once for all their watches. The first
        run is a call like any other; to run it again waits behind every call, and takes half of the
        readers at most.

        It ends, and the statement is not run for it any more, at the end of the block, at once. In
        place of a block one may call `Watch.aclose`, or just iterate, ``async for rows in
        db.watch(…)``: then it ends when nothing refers to it any more, which a framework that keeps
        the frames of a cancelled task can delay until a garbage collection. `end_watches` ends all.

        Iterating raises what running the statement raises, and `PoolClosedError` when the database
        is closed. It raises `QueryError` for a statement whose rows can change without a commit to
        be seen: what asks for the time (``date('now')``; bind it as a parameter), for chance
        (``random()``) or for something of the connection (``changes()``, ``PRAGMA data_version``,
        EXPLAIN). Where a statement reads virtual tables, such as those of FTS5, tables of SQLite's
        own or ``pragma_…``, it is run again after each commit of anything.
        """
        query = query_of(statement)
        if query.writes:
            raise _writes(query, "only what reads can be watched")
        self._opened()
        if self._closing:
            raise PoolClosedError(f"{self.path} is being closed")
        return self._watching.watch(statement)

    def end_watches(self) -> None:
        """End every `watch` that has begun, at once: each loop over one ends, as at the end of an
        iteration, whatever it has not returned yet. What is watched from now on is not concerned.

        For servers, which wait at their end for the event streams that they have open, and close
        the database only after that: call it at the signal that stops the program. It may be called
        from a signal handler in the event loop's thread. Does nothing when the database is closed.
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
        """Return a block that one holder at a time is in, among all processes that have this file
        open: ``async with db.lock("deploy") as lease: …``. `abt_db.locks.lease` says what that
        means.

        The lock is granted for `ttl` seconds and renewed by a task at a third of that, for as long
        as the block lasts. Of a process that died it comes free when its ttl has passed.

        Entering waits at most `timeout` seconds, or for ever (0: tries once); `LockTimeoutError`
        says who holds it. Tasks of one `Database` are served as they came, processes have equal
        chances. It is one commit, as is leaving, and raises what other calls do. Cancelled at any
        moment, the lock is released or was not had. A task that has it gets `LockStateError`.

        Locks are rows of the table `abt_db.LOCKS_TABLE`, which belongs into the schema of the
        application. Where it is missing, entering makes it if `create` is true, in one commit more,
        and raises `StatementError` otherwise. `label` says what the lock is held for, to those who
        wait (in `LockTimeoutError`) or ask (`lock_info`).

        If the lease is lost (the program was stopped, the database busy, for too long; or somebody
        released it) `lease.lost` is done, `lease.check()` raises `LockLostError`, as does the end
        of the block, and ``db.transaction(lease=lease)`` writes nothing.
        """
        return LockLease(self._locks(), name, ttl, timeout, label, create)

    async def lock_info(self, name: str) -> LockInfo | None:
        """Return the holder of a lock, in whatever process; None if it is free. Writes nothing."""
        return await self._locks().info(name)

    async def break_lock(self, info: LockInfo) -> bool:
        """Release a lock by force, as `lock_info` has shown it; return whether it was still so.

        A later holder's lease is never ended by this. The one whose lease is ended notices at the
        next renewal, or when it writes with it.
        """
        return await self._locks().end(info)

    async def checkpoint(
        self,
        mode: Literal["passive", "full", "restart", "truncate"] = "passive",
        *,
        wait: float = 0.1,
    ) -> Checkpointed:
        """Move pages of the write-ahead log into the database file, on the writer's connection.

        SQLite does so by itself when a commit finds `Config.wal_autocheckpoint` pages in the log
        (https://www.sqlite.org/wal.html#ckpt), and `Config.wal_limit` keeps the log short.
        ``"passive"`` waits for no connection; the other modes wait `wait` seconds, while no call
        can write, and for another connection's checkpoint; ``"truncate"`` leaves the log empty. A
        reader in the way for longer is no error: the result says that the checkpoint was `busy`,
        how much it has `moved`, and which `readers` there are.
        """
        return await self._opened().checkpoints.run(mode, wait)

    async def resize(self, *, readers: int) -> None:
        """Have that many connections that read, from now on.

        New ones are open when this returns; those that are too many are closed as they come free.
        Raises as `open` does, and `ConfigError` for more than `Config.max_readers`: nothing has
        changed then.
        """
        config = replace(self.config, readers=readers)
        async with self._turn:
            pool = self._opened()
            if pool.readers is not pool.writer:
                await pool.readers.resize(readers)
            self.config = config

    def barrier(self, *, label: str | None = None) -> AbstractAsyncContextManager[Loan]:
        """Return the writer's connection while no other call runs: for changes of the schema.

        ``async with db.barrier() as loan: await loan.run(function)``. New calls wait
        until the end; running ones are waited for `Config.acquire_timeout` seconds at most.
        """
        return self._opened().barrier(label or "a barrier")

    @asynccontextmanager
    async def writer(self, *, label: str) -> AsyncIterator[Loan]:
        """Lend the writer's connection, outside a transaction, while reads go on: for what can't
        run in one. Used as `barrier` is."""
        pool = self._opened()
        loan = await pool.lend_writer(label)
        try:
            yield loan
        finally:
            loan.give_back()
            # VACUUM, for one, commits by itself, and may give rows other numbers.
            pool.listeners.tell(Committed(None))

    async def end_transactions(self, *, older_than: float) -> list[Holding]:
        """Roll back each interactive transaction that has been open for `older_than` seconds or
        longer, whatever it is doing, and return what is known of it: label, task, age, statements.

        Its next use, and the end of its block, raises `TransactionAbortedError`. One that is
        committing is let end. Returns when the writer is free, unless a statement can't be stopped
        at once; cancelling that wait does not stop the rollback. Snapshots and streams, which keep
        no call from writing, stay.
        """
        if not older_than >= 0:
            raise ValueError(f"older_than must be 0 seconds or more, not {older_than!r}")
        return await self._opened().end_transactions(older_than)

    # -- looking ---------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return counters since `open`, as plain dicts; durations are in seconds.

        - ``writer`` (None if read-only) and ``readers``: connections (``size``, ``idle``, ``busy``,
          ``opened``, ``replaced``; how many are an ``overflow`` beyond `Config.readers`, and how
          many ``overflows`` there were), the queue (``waiting`` now; how many ``waits`` there were,
          ``longest_wait``), and what was done: ``calls`` in ``hops``, ``loans``, ``commits``, in
          ``batches`` how many hops from the queue had up to 1, 2, 4, 8 … calls, and as
          ``response`` how long the calls took from the call to its result, with the waiting for a
          connection: ``count``, ``mean``, ``p50``, ``p99``, ``slowest``;
        - ``queries``: by name, the runs on a connection, wherever they came from: ``count``,
          ``errors``, ``rows``, ``seconds`` (the sum), ``mean``, ``p50``, ``p99``, ``slowest``;
        - ``transactions``: what is lent now, the oldest first: ``label``, ``task``, ``age``, how
          many ``statements`` have run, its ``state`` (``"idle"``, ``"running"`` or, for another
          connection's lock on the file, ``"waiting"``) and the ``query`` that is running;
        - ``transacted``: of the interactive transactions, how many were ``begun``, are ``open``,
          were ``committed`` and ``rolled_back``, those that were ``timed_out`` or ``ended`` by
          `end_transactions` among them, and how many have an ``unknown`` outcome, for their COMMIT
          was cancelled; how long they were open: ``mean``, ``p50``, ``p99``, ``slowest``;
        - ``locks``: what `LocalLocks.stats` returns, of the tasks here that have a `lock` or are
          the ones to ask for it (``holders``), and of those that wait behind them.

        Reading them costs nothing to those at work, and they take no more memory the longer the
        program runs.
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

        What it raises is logged and fails no call; the time that it takes delays every call. Of a
        function that runs more than 100,000 statements in one go it gets the last ones.
        """
        self._listeners.add(listener, frozenset(kinds) or KINDS)

    def remove_listener(self, listener: Listener) -> None:
        """Undo `add_listener`; does nothing if it is not there."""
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
        """Return the pool, if it may be used here."""
        pool, loop = self._pool, self._loop
        if pool is None:
            raise PoolClosedError(f"{self.path} is not open")
        # To ask asyncio for the running loop would be a system call, each time.
        if (
            loop is None
            or not loop.is_running()
            or threading.get_ident() != self._thread
            or self._forks != _Forks.count
        ):
            raise PoolClosedError(
                f"{self.path} was opened in another event loop or process; open a Database of its"
                " own in each, or this one anew when that loop is closed"
            )
        return pool

    def _run(
        self,
        verb: Callable[[Verbs, Statement[Any]], T],
        statement: Statement[Any],
        timeout: float | None,
        priority: int,
    ) -> Coroutine[Any, Any, T]:
        """Have one statement that returns rows run where it belongs."""
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
        """Have something run that reads, but not what this task has written and not committed."""
        pool = self._opened()
        tables = pool.uncommitted()
        if tables is None or tables:
            function, arguments = _without, (tables, function, arguments)
        return pool.read(what, function, arguments, timeout, priority)


class _Forks:
    """How many forks lie between this process and the one that imported us."""

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
        pool.abandon()  # also where warnings are errors


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
    """Run what reads, refusing it where it reads one of `tables`."""
    with session.hiding(tables):
        return function(session, *arguments)
