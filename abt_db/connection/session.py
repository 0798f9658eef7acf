"""The verbs of a connection, synchronous, on the connection's own thread.

Every call of `Database`, `Transaction` and `Snapshot` ends in a method of `Verbs`, which binds,
executes, fetches and maps in one call on the connection's thread. Callers' statements reach SQLite
only here. Errors leave this module translated and with the query's name.

`db.read(fn)` and `db.write(fn)` pass a `Session` to `fn`: the same verbs, usable only while `fn`
runs. An object that `fn` leaves behind, for instance a generator, may run again whenever Python
collects it. By then the connection may be in the transaction of another caller (invariant 32).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any, Concatenate, Generic, Literal, NoReturn, ParamSpec, TypeVar

from abt_db.errors import (
    AbtDbError,
    DeniedError,
    QueryError,
    ReadOnlyError,
    StatementTimeoutError,
    StoppedError,
    TransactionAbortedError,
    TransactionStateError,
    translate,
)
from abt_db.sql.query import Query, Statement, Values, query_of, require_many, series

from .access import ANYTHING, Tables, folded
from .authorizer import GUARDED, WriterOnly, denial
from .deadline import NEVER, Deadline
from .stats import ConnectionStats

T = TypeVar("T")
P = ParamSpec("P")

# sqlite3 raises UnicodeDecodeError if it can't decode a text of SQLite's, from a damaged schema.
_Failure = sqlite3.Error | UnicodeDecodeError

_AT_FAULT = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
    }
)

PROGRESS_STEPS = 10_000
"""Virtual machine steps between two checks of the deadline: some hundred microseconds. Each check
takes Python's global lock, so statements that run at the same time would wait for each other if
checks were more frequent."""

CHUNK = 200
"""Rows that are fetched and mapped at a time: so few that they are still in the processor's cache
when they are mapped."""

FEW, MANY, PIECE = 8, 256, 0.05
"""Rows that `execute_many` takes, binds and writes at a time: from `FEW` to `MANY`, as many as take
about `PIECE` seconds. It checks its deadline between pieces, and a large row, or a slow source of
rows, must not delay that check."""

# Whether adding several rows by one statement may differ from one statement for each row.
# - SQLite checks foreign keys at the end of a statement, so a later row can mend what an earlier
#   one violates. That is possible if the table both refers to tables and is referred to. If rows
#   are updated or replaced, either of the two is enough.
# - A trigger can do anything, and changes() returns the count of the statement before.
# If the words that are searched for stand in the schema for another reason, rows are added one by
# one, which only takes longer.
_TELLS_ROWS_APART = """
    SELECT EXISTS (SELECT 1 FROM sqlite_temp_schema)
        OR EXISTS (
            SELECT 1 FROM sqlite_schema
            WHERE tbl_name = $name COLLATE NOCASE AND (
                type = 'trigger' AND ($updates OR sql LIKE '%insert%begin%')
                OR sql LIKE '%replace%' OR sql LIKE '%changes%'
            )
        )
        OR EXISTS (SELECT 1 FROM pragma_foreign_key_list($name))
        + EXISTS (
            SELECT 1 FROM sqlite_schema AS child, pragma_foreign_key_list(child.name) AS key
            WHERE child.sql LIKE '%references%' || $name || '%' AND child.type = 'table'
                AND key."table" = $name COLLATE NOCASE
        ) > 1 - $updates
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a write did.

    `rowcount` is the number of rows changed (-1 where SQLite counts none, as for CREATE TABLE).
    `lastrowid` is the rowid of the row that an INSERT added, None for any other statement. (It is
    wrong for an upsert that updates, which adds no row, and for a table WITHOUT ROWID, whose rows
    have no rowid: SQLite does not report either case and gives the rowid of an earlier row. Use
    RETURNING there.)
    """

    rowcount: int
    lastrowid: int | None


class CoroutineError(TypeError):
    """A function returned a coroutine, which needs an event loop; nothing of it has run."""


class Block:
    """A part of a transaction that can be undone alone: one savepoint, from its begin to its end.

    Blocks that are open at the same time are nested. When a block ends, the blocks inside it end
    too.
    """

    __slots__ = ("fate", "stray")

    def __init__(self) -> None:
        self.fate: Literal["kept", "undone"] | None = None
        """What happened to its work when a block around it ended first; None: that has not
        happened."""
        self.stray = False
        """Whether it was left by an error in another thread, where its work could not be undone."""


class Session:
    """The verbs with which a caller's function reads and writes, usable in that function only.

    `fetch_one`, `fetch_all`, `execute`, `execute_many`, `execute_batch` and `stream` do the same as
    those of `Database`, inside the transaction in which the function runs. In another thread, or
    after the function has returned, they raise `TransactionStateError`.
    """

    __slots__ = ("_verbs", "writable")

    def __init__(self, verbs: Verbs) -> None:
        self._verbs: Verbs | None = verbs
        self.writable: bool = verbs.writable
        """Whether the function may write; false in a read."""

    def fetch_all(self, statement: Statement[T]) -> list[T]:
        """Return all rows."""
        return self._use().fetch_all(statement)

    def fetch_one(self, statement: Statement[T]) -> T | None:
        """Return the first row, or None when there is none."""
        return self._use().fetch_one(statement)

    def execute(self, statement: Statement[object]) -> Result:
        """Run a statement that writes."""
        return self._use().execute(statement)

    def execute_batch(self, statements: Iterable[Statement[object]]) -> list[Result]:
        """Run several statements that write, all or none of them."""
        return self._use().execute_batch(statements)

    def execute_many(self, query: Query[Any], rows: Iterable[object]) -> int:
        """Run one statement for each of `rows`, all or none; return how many rows changed."""
        return self._use().execute_many(query, rows)

    def stream(self, statement: Statement[T], *, size: int = 500) -> Iterator[T]:
        """Yield the rows one by one, read in lists of `size`; memory stays bounded."""
        reading = self._use()._reading(statement, size)
        while self._use() and (rows := reading.next()):
            yield from rows

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Open a block inside the transaction; if it is left by an error, its work is undone.

        A block that is never left ends with the block around it, at the latest with the function,
        and its work becomes part of that. If such a block is left by an error later, while the
        transaction goes on, its work can no longer be undone alone. The transaction is then given
        up, and every later statement in it raises `TransactionAbortedError`. After the function has
        returned, or in another thread, leaving a block changes nothing in the database.
        """
        block = Block()
        self._use()._open_block(block)
        try:
            yield
        except BaseException as error:
            try:
                self._use()._close_block(block, undo=True)
            except Exception as second:
                error.add_note(f"Its work could not be undone alone: {second}")
            raise
        self._use()._close_block(block, undo=False)

    def _use(self) -> Verbs:
        """Return the connection's verbs, or raise `TransactionStateError` if the function that this
        session was made for has returned."""
        if self._verbs is None:
            raise TransactionStateError(_OUTSIDE)
        return self._verbs


_OUTSIDE = "the session that a function was given can be used inside that function only"


class Verbs(Session):
    """The verbs of a connection, on its thread. Lives as long as its connection."""

    __slots__ = (
        "_aborted",
        "_blocks",
        "_commands",
        "_cursor",
        "_cursors",
        "_denied",
        "_expected",
        "_hidden",
        "_privileged",
        "_raw",
        "_suspect",
        "_tables",
        "_text",
        "_thousands",
        "_thread",
        "_writer_only",
        "_written",
        "deadline",
        "stats",
    )

    def __init__(
        self,
        raw: sqlite3.Connection,
        stats: ConnectionStats,
        *,
        writable: bool,
    ) -> None:
        self._raw = raw
        self.stats = stats
        self.writable = writable
        self.deadline: Deadline = NEVER
        """The deadline of the call that is running; the connection sets it for each call."""
        self._thread = threading.get_ident()
        self._suspect = False  # an error may mean that the connection is broken
        self._thousands = 0  # thousands of steps that the running statement has made
        self._expected = False  # the caller expects a transaction, even if SQLite has ended it
        self._aborted = False  # the transaction must not go on, and not be committed
        self._blocks: list[Block] = []  # the transaction's open blocks, the outermost first
        self._hidden: frozenset[str] = frozenset()  # tables that reads are refused
        self._tables = Tables(lambda: raw.set_authorizer(self._authorize))
        self._text = ""  # the text that SQLite is preparing when it calls the authorizer
        self._written: set[str] = set()  # the texts of the writes since BEGIN
        self._commands = raw.cursor()  # for BEGIN, COMMIT and ROLLBACK
        self._cursor = raw.cursor()  # for every statement that is read to its end at once
        self._cursors: set[sqlite3.Cursor] = set()  # cursors of open streams
        self._privileged = False
        self._denied: str | None = None
        self._writer_only = WriterOnly()
        # Set once, because setting it again expires every prepared statement, see `Tables`.
        raw.set_authorizer(self._authorize)
        raw.set_progress_handler(self._progress, PROGRESS_STEPS)

    # -- verbs -----------------------------------------------------------------------------------

    def fetch_all(self, statement: Statement[T]) -> list[T]:
        """Return all rows."""
        return self._fetch(statement)

    def fetch_one(self, statement: Statement[T]) -> T | None:
        """Return the first row, or None when there is none."""
        rows = self._fetch(statement, first=True)
        return rows[0] if rows else None

    def execute(self, statement: Statement[object]) -> Result:
        """Run a statement that writes. Rows that it returns are dropped; `fetch_all` keeps them."""
        query = query_of(statement)
        if not query.writes:
            raise _reads(query)
        return self._write(query, statement.values)

    def execute_batch(self, statements: Iterable[Statement[object]]) -> list[Result]:
        """Run several statements that write, all or none of them."""
        with self.atomic():
            batch = series(statements, "execute_batch", "statements")
            return [self.execute(statement) for statement in batch]

    def execute_many(self, query: Query[Any], rows: Iterable[object]) -> int:
        """Run one statement for each of `rows`, all or none; return how many rows changed."""
        require_many(query, rows)
        self._check(query)
        with self.atomic():
            if not query.counted:
                return sum(self._write(query, values).rowcount for values in map(query.bind, rows))
            together = self._adds_together(query)
            began = since = monotonic()
            count, size, rows = 0, FEW, iter(rows)
            cursor = self._raw.cursor()
            try:
                while chunk := list(islice(rows, size)):
                    self._check(query)  # the source of `rows` may have used the connection too
                    for text, values in query.bind_many(chunk, together=together):
                        cursor.executemany(text, values)
                        count += cursor.rowcount
                    self.stats.give_way()
                    before, since = since, monotonic()
                    size = max(FEW, min(MANY, int(size * PIECE / (since - before + 1e-9))))
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._fail(error, query, began)
            finally:
                cursor.close()  # unlike execute, executemany keeps its statement in use
            self.stats.ran(query.name, monotonic() - began, count)
            return count

    def _reading(self, statement: Statement[T], size: int) -> Reading[T]:
        """Begin to read rows in lists of `size`."""
        if size < 1:
            raise ValueError(f"the size of a stream's lists must be 1 or more, not {size}")
        query = query_of(statement)
        began = self._check(query)
        cursor = self._raw.cursor()
        try:
            cursor.execute(query.text, statement.values)
            if self._hidden:
                self._require_shown(query)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            cursor.close()
            self._fail(error, query, began)
        except BaseException:
            cursor.close()
            raise
        self._cursors.add(cursor)
        reading = Reading(self, query, cursor, size, monotonic() - began)
        query.map_rows(cursor.description, [])
        return reading

    def call(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a caller's function with a session of its own."""
        session = Session(self)
        outer = len(self._blocks)
        try:
            result = function(session, *args, **kwargs)
            if isinstance(result, Coroutine):
                result.close()
                raise CoroutineError(
                    "the function returned a coroutine, and a connection's thread has no event"
                    " loop: give a plain function, or use db.transaction()"
                )
            if len(self._blocks) > outer:
                self._close_block(self._blocks[outer], undo=False)
            return result
        finally:
            session._verbs = None

    def _use(self) -> Verbs:
        return self

    def _open_block(self, block: Block) -> None:
        self._require_thread()
        self._require_transaction()  # outside of one, SAVEPOINT would begin a transaction
        # Named by its depth. A name for each block would need a new statement for each.
        self._control(f"SAVEPOINT abt_db_{len(self._blocks) + 1}")
        self._blocks.append(block)

    def _close_block(self, block: Block, *, undo: bool) -> None:
        """End a block, and the blocks inside it that were not left; undo their work or keep it.

        Raises `TransactionStateError` if the work was to be kept but was undone, or if the block
        can't be ended: in another thread, or after its transaction has ended.
        """
        if threading.get_ident() != self._thread:
            block.stray |= undo
        self._require_thread()
        if block not in self._blocks:
            if block.fate is None:
                raise TransactionStateError("the transaction in which this block began has ended")
            if undo and block.fate == "kept":
                self._abort()
            if not undo and block.fate == "undone":
                raise TransactionStateError(
                    "the work of this block was undone with that of the block around it, which was"
                    " left first"
                )
            return
        place = self._blocks.index(block)
        ended = self._blocks[place:]
        if not undo:
            self._require_transaction()
            if any(each.stray for each in ended):
                self._abort()
                raise TransactionStateError(
                    "a block was left by an error in another thread, where its work could not be"
                    " undone"
                )
        del self._blocks[place:]
        for inner in ended[1:]:
            inner.fate = "undone" if undo else "kept"
        if not self._in_transaction:
            return  # SQLite has undone the whole transaction already (invariant 8)
        try:
            if undo:
                self._control(f"ROLLBACK TO abt_db_{place + 1}")
            self._control(f"RELEASE abt_db_{place + 1}")
        except BaseException:
            self._abort()
            raise

    # -- inside ----------------------------------------------------------------------------------

    def _fetch(self, statement: Statement[T], *, first: bool = False) -> list[T]:
        query = query_of(statement)
        began = self._check(query)
        cursor = self._cursor
        try:
            cursor.execute(query.text, statement.values)
            if self._hidden:
                self._require_shown(query)
            found = cursor.fetchmany(2 if first else CHUNK)
            if first and len(found) == 2:
                self._let_go()  # a half-read statement would pin its snapshot
                found.pop()
            rows = query.map_rows(cursor.description, found)
            while len(found) == CHUNK:
                found = cursor.fetchmany(CHUNK)
                rows += query.map_rows(cursor.description, found, len(rows) + 1)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._fail(error, query, began)
        except BaseException as error:
            self._let_go()  # half-read, as above
            self.stats.ran(query.name, monotonic() - began, 0, self._thousands, error)
            raise
        self.stats.ran(query.name, monotonic() - began, len(rows), self._thousands)
        return rows

    def _write(self, query: Query[Any], values: Values) -> Result:
        began = self._check(query)
        cursor = self._cursor
        try:
            cursor.execute(query.text, values)
            if cursor.description is not None:
                cursor.fetchall()  # RETURNING: rows are counted when all are read
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._fail(error, query, began)
        rowcount = cursor.rowcount
        if not query.counted:
            # sqlite3 decides by the first word, and counts no rows if that is WITH.
            [(rowcount,)] = self._control("SELECT changes()")
        self.stats.ran(query.name, monotonic() - began, max(rowcount, 0), self._thousands)
        return Result(rowcount, cursor.lastrowid if query.inserts and rowcount > 0 else None)

    def _adds_together(self, query: Query[Any]) -> bool:
        """Whether one statement may add several rows with the same outcome as one for each."""
        table, (_, longest) = query.table, query.texts[0]
        limit = self._raw.getlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH)
        if table is None or len(longest.encode()) > limit:
            return False
        updates = "UPDATE" in query.text.upper()
        [(apart,)] = self._control(_TELLS_ROWS_APART, {"name": table, "updates": updates})
        return not apart

    def _check(self, query: Query[Any]) -> float:
        """Raise an error if the query may not run now; return the time at which it begins."""
        if threading.get_ident() != self._thread:
            raise TransactionStateError(f"query {query.name!r}: {_OUTSIDE}")
        if self._expected:
            self._require_transaction()
        now, deadline = monotonic(), self.deadline
        # Checked here too, because the progress handler is never called in a function whose
        # statements are all short.
        if deadline.cancelled or (deadline.at is not None and now >= deadline.at):
            raise self._stopped(f"query {query.name!r}")
        if query.writes:
            if not self.writable:
                raise ReadOnlyError(
                    f"query {query.name!r} writes, and this is a read-only connection",
                    query=query.name,
                    sql=query.sql,
                    code=sqlite3.SQLITE_READONLY,
                    name="SQLITE_READONLY",
                )
            self._written.add(query.text)
        elif self._writer_only.reasons and not self.writable:
            self._require_readable(query)
        self._text = query.text
        self._thousands = 0
        return now

    def _require_readable(self, query: Query[Any]) -> None:
        """Raise `DeniedError` for a text that only a write may run, and that a write on this
        connection has prepared before."""
        reason = self._writer_only.reasons.get(query.text)
        if reason is not None:
            error = sqlite3.DatabaseError()
            raise translate(error, query=query.name, sql=query.sql, reason=reason)
        if self._writer_only.forget_if_full():
            # This expires all prepared statements, so that SQLite calls the authorizer again.
            self._raw.set_authorizer(self._authorize)

    def _fail(self, error: _Failure, query: Query[Any], began: float) -> NoReturn:
        """Raise the library's error for one of sqlite3's, and count a run that began at `began`."""
        self._let_go()
        told = self._told(error, query)
        self.stats.ran(query.name, monotonic() - began, 0, self._thousands, told)
        # If a part of SQLite's message was left out because it may be a value, the original error,
        # which holds that part, must not be the cause (invariant 27).
        cause = error if str(error) in str(told) or isinstance(told, DeniedError) else None
        raise told from cause

    @contextmanager
    def _hiding(self, tables: frozenset[str] | None) -> Iterator[None]:
        """Refuse, in the block, every statement that reads one of `tables` (None: any table)."""
        self._tables.make_room()  # the tables of statements in the block must be recorded
        self._hidden = frozenset((ANYTHING,)) if tables is None else frozenset(map(folded, tables))
        try:
            yield
        finally:
            self._hidden = frozenset()

    def _require_shown(self, query: Query[Any]) -> None:
        """Raise `TransactionStateError` for a statement that reads a table in which this task has
        written without having committed yet. SQLite has prepared the statement by now, so its
        tables are known."""
        used = self._tables.used_by(query.text)
        tables = None if used is None else used.reads
        if tables is None or (tables and (ANYTHING in self._hidden or tables & self._hidden)):
            found = ", ".join(sorted((tables or set()) & self._hidden)) or "a table"
            raise TransactionStateError(
                f"query {query.name!r} would read {found} as it was before the transaction that"
                " this task has open and has written in; read with the transaction's own handle"
                " (tx.fetch_one, tx.fetch_all, tx.read, tx.stream), or in a db.snapshot() if the"
                " old state is what is wanted"
            )

    def _let_go(self) -> None:
        """Reset the statement that was run last, even if it is half read."""
        self._cursor.close()
        self._cursor = self._raw.cursor()

    def _told(self, error: _Failure, query: Query[Any]) -> AbtDbError:
        reason, self._denied = self._denied, None
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return self._stopped(f"query {query.name!r}")
        ran = (
            reason is None
            and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
            and self._compiles(query)
        )
        return self._translated(error, query=query.name, sql=query.sql, reason=reason, ran=ran)

    def _translated(self, error: _Failure, **details: Any) -> AbtDbError:
        """Return the library's error for one of SQLite's. If the error may mean that the connection
        is broken, `reset` will check the connection, whichever method met the error."""
        code = getattr(error, "sqlite_errorcode", None)  # a UnicodeDecodeError has none
        if isinstance(error, UnicodeDecodeError) or (code or 0) & 0xFF in _AT_FAULT:
            self._suspect = True
        return translate(error, path=self._path, **details)

    def _path(self) -> str:
        """Return the database's path as SQLite knows it; empty if it is in memory, or if SQLite
        fails to return it."""
        try:
            [(_, _, path), *_] = self._raw.execute("PRAGMA database_list ").fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            return ""
        return str(path)

    def _compiles(self, query: Query[Any]) -> bool:
        """Whether SQLite can prepare a statement, so that its error came from running it."""
        try:
            self._control(f"EXPLAIN {query.text}", query.nulls())
        except AbtDbError:
            return False
        return True

    def _stopped(self, what: str) -> AbtDbError:
        if self.deadline.cancelled:
            return StoppedError(f"{what} was cancelled")
        return StatementTimeoutError(f"{what} was stopped at its time limit")

    def _progress(self) -> int:
        self._thousands += PROGRESS_STEPS // 1_000
        return self.deadline.passed()

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        database: str | None,
        _inside: str | None,
    ) -> int:
        # Not called for a statement from the cache, so a text that was prepared with privilege must
        # differ from the text of every caller's query.
        if self._privileged:
            return sqlite3.SQLITE_OK
        self._tables.note(self._text, action, first, second)
        reason = self._writer_only.why(self._text, action, first, second, database)
        if self.writable:
            self._writer_only.note_temporary(action, first)
            if reason is not None:
                self._writer_only.note(self._text, reason)
                reason = None
        if reason is None and action in GUARDED:
            reason = denial(action, first, second)
        if reason is None:
            return sqlite3.SQLITE_OK
        self._denied = reason
        return sqlite3.SQLITE_DENY

    # -- for the library ------------------------------------------------------------------------

    @property
    def _in_transaction(self) -> bool:
        """Whether a transaction is open and can go on. Read from SQLite, never assumed (invariant
        8)."""
        return self._raw.in_transaction and not self._aborted

    def _note_begin(self) -> None:
        """Note that a transaction has begun."""
        self._note_end()
        self._expected = True
        self._written.clear()

    def _note_end(self) -> None:
        """Note that no transaction is open any more, and forget the last one's state."""
        self._expected = self._aborted = False
        self._blocks.clear()

    def _abort(self) -> None:
        """Give the transaction up: no further statement runs in it, and it can't be committed."""
        self._aborted = True

    def _roll_back(self) -> None:
        """Roll the open transaction back, if SQLite has not done so already."""
        if self._raw.in_transaction:
            self._command("ROLLBACK")
        self._note_end()

    def _require_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise TransactionStateError(_OUTSIDE)

    def _require_transaction(self) -> None:
        """Raise `TransactionAbortedError` if the transaction that `begin` began has ended or was
        given up.

        Each statement that ran after that would be committed on its own.
        """
        if self._expected and not self._in_transaction:
            reason = (
                "the work of a block that failed could not be undone alone, so the transaction was"
                " given up"
                if self._aborted
                else "SQLite has ended the transaction after an earlier error"
            )
            raise TransactionAbortedError(f"{reason}; nothing of it was written, begin it again")

    def _close_cursors(self) -> None:
        """Close the cursors that streams have left half read."""
        if self._cursors:
            for cursor in self._cursors:
                cursor.close()
            self._cursors.clear()

    def _ran(self, query: Query[Any], seconds: float, rows: int) -> None:
        """Count the run of a `Reading`."""
        self.stats.ran(query.name, seconds, rows, self._thousands)

    def _forget(self, cursor: sqlite3.Cursor) -> None:
        """Close the cursor of a `Reading`."""
        self._cursors.discard(cursor)
        cursor.close()

    def _control(self, sql: str, values: Values | tuple[()] = ()) -> list[tuple[Any, ...]]:
        """Run the library's own SQL, which may do what callers may not, and return its rows."""
        # A deadline must not stop a COMMIT, whose outcome would be unknown, nor a ROLLBACK.
        deadline, self.deadline = self.deadline, NEVER
        self._privileged = True
        try:
            # With the space, the text differs from every caller's statement, see `_authorize`.
            return self._raw.execute(f"{sql} ", values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._translated(error, sql=sql, doing=sql) from error
        finally:
            self._privileged = False
            self.deadline = deadline

    def _command(self, sql: str) -> None:
        """Do the same as `_control`, faster, for SQL that returns no rows and has no values."""
        deadline, self.deadline = self.deadline, NEVER
        self._privileged = True
        try:
            self._commands.execute(sql)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._translated(error, sql=sql, doing=sql) from error
        finally:
            self._privileged = False
            self.deadline = deadline


class Reading(Generic[T]):
    """A statement whose rows are read list by list, on the connection's thread.

    It is not a generator: Python collects a generator that is dropped half-way in any thread, and
    the cursor would be closed in that thread. `EngineSession.reset` closes cursors that were left
    open.
    """

    __slots__ = ("_at_end", "_count", "_cursor", "_query", "_seconds", "_session", "_size")

    def __init__(
        self,
        session: Verbs,
        query: Query[T],
        cursor: sqlite3.Cursor,
        size: int,
        seconds: float,
    ) -> None:
        self._session = session
        self._query = query
        self._cursor = cursor
        self._size = size
        self._at_end = False
        self._count = 0
        self._seconds = seconds  # time spent on this statement so far

    def next(self) -> list[T]:
        """Return the next list of rows; an empty list at the end."""
        self._session._check(self._query)
        if self._at_end:
            return []
        began = monotonic()
        try:
            rows = self._cursor.fetchmany(self._size)
        except sqlite3.Error as error:
            self._at_end = True
            self._session._forget(self._cursor)
            self._session._fail(error, self._query, began - self._seconds)
        if not rows:
            self.close()
            return []
        mapped = self._query.map_rows(self._cursor.description, rows, self._count + 1)
        self._count += len(mapped)
        self._seconds += monotonic() - began
        return mapped

    def close(self) -> None:
        """Close the cursor and count the run; does nothing if that was done before."""
        if not self._at_end:
            self._at_end = True
            self._session._forget(self._cursor)
            self._session._ran(self._query, self._seconds, self._count)


def _reads(query: Query[Any]) -> QueryError:
    return QueryError(
        f"query {query.name!r} only reads: execute is for writes, use fetch_one or fetch_all",
        query=query.name,
        sql=query.sql,
    )
