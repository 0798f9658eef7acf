"""The part of a connection that only the library uses: transactions, settings, cleaning up.

A caller's function gets a `Session`, which offers none of this: it can neither begin nor commit,
nor run SQL that callers are refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import TypeVar

from abt_db.errors import AbtDbError, BeginBusyError, BusyError, TransactionStateError
from abt_db.log import LOG
from abt_db.sql.query import Statement

from .access import ANYTHING, TablesUsed
from .busy import LONGEST_PAUSE, gave_up
from .checkpoint import Wal
from .file_identity import FileIdentity
from .session import Verbs
from .stats import ConnectionStats

T = TypeVar("T")

CONTENDED = 5.0
"""Seconds after which a connection forgets that it met another process's lock."""


class EngineSession(Verbs):
    """A connection, on its own thread. Lives as long as its connection."""

    __slots__ = (
        "_busy_timeout",
        "_free",
        "_identity",
        "_met",
        "_schema",
        "_since",
        "_unfit",
        "_version",
        "wal",
    )

    def __init__(
        self,
        raw: sqlite3.Connection,
        stats: ConnectionStats,
        *,
        writable: bool,
        busy_timeout: float,
        wal: Wal | None = None,
        identity: FileIdentity | None = None,
    ) -> None:
        super().__init__(raw, stats, writable=writable)
        self._busy_timeout = busy_timeout
        self.wal = wal  # None: this connection never shortens the log
        self._identity = identity
        self._unfit = False  # a setting could not be put back
        self._schema = (-1, False)  # its version, and whether it has deferred keys
        self._version: int | None = None  # the data's version, see `others_committed`
        # Used only while other processes write too, all on the clock of monotonic(): when BEGIN
        # last met their lock, when this connection took the lock, and until when it leaves the lock
        # free for them.
        self._met = self._since = self._free = 0.0

    # Methods of `Verbs` that a caller's function must not have.
    control = Verbs._control
    in_transaction = Verbs._in_transaction
    require_transaction = Verbs._require_transaction
    close_cursors = Verbs._close_cursors
    rollback = Verbs._roll_back
    reading = Verbs._reading
    open_block = Verbs._open_block
    close_block = Verbs._close_block
    abort = Verbs._abort
    hiding = Verbs._hiding

    def begin(self, mode: str) -> None:
        """Begin a transaction: IMMEDIATE or EXCLUSIVE to write, SNAPSHOT to read one view.

        Raises `BeginBusyError` if another process holds the lock.

        Other processes try to take the lock every few milliseconds. A connection that has held it
        for long and begins again at once would hardly ever leave it free when they try. So a
        connection that has itself met another process's lock lately waits a little before it
        begins.
        """
        if self._met:
            self._let_others_in()
        self._tables.make_room()
        try:
            self._command(_BEGIN[mode])
            if mode == "SNAPSHOT":
                # BEGIN alone takes no snapshot: the first SELECT does (invariant 5).
                self.control("SELECT 1 FROM sqlite_schema LIMIT 1")
        except BusyError as error:
            self.rollback()
            self._met = monotonic()
            raise BeginBusyError(
                str(error), code=error.sqlite_errorcode, name=error.sqlite_errorname
            ) from None
        self._note_begin()
        if self._met:
            self._since = monotonic()

    def _let_others_in(self) -> None:
        now = monotonic()
        if now > self._met + CONTENDED:
            self._met = 0.0
        elif now < self._free:
            sleep(self._free - now)

    @contextmanager
    def transaction(self, mode: str) -> Iterator[None]:
        """Run the block in a transaction: commit at its end, roll back if it is left by an error.

        If the rollback fails too, its error is added as a note to the first one (invariant 10). The
        connection, which is still in the transaction, is then replaced.
        """
        self.begin(mode)
        try:
            yield
            if mode == "SNAPSHOT":
                self.close_cursors()
                self.rollback()  # there is nothing to commit
            else:
                self.commit()
        except BaseException as error:
            try:
                self.close_cursors()
                self.rollback()
            except AbtDbError as second:
                error.add_note(f"The rollback failed as well: {second}")
            raise

    @contextmanager
    def view(self) -> Iterator[None]:
        """Run the block so that all its reads see the database as it is at the first of them."""
        self._command("BEGIN")
        yield
        self._command("COMMIT")

    def commit(self) -> None:
        """Commit the transaction that `begin` began.

        Raises `TransactionAbortedError` if SQLite has ended it before, `StatementTimeoutError` if
        the caller already got an error at its time limit, and `CorruptError` if the commit would be
        lost because the paths no longer lead to the files that are open. After the COMMIT itself
        nothing raises, so that every commit is acknowledged (invariants 28, 30).
        """
        self.require_transaction()
        if not self.deadline.may_commit():
            raise self._stopped("COMMIT")
        self.require_files()
        self.close_cursors()  # an open cursor of a write with RETURNING would make COMMIT fail
        began = None
        while True:
            try:
                self._command("COMMIT")
                break
            except BusyError as error:
                # Without a write-ahead log a reader can block a COMMIT, which may then be tried
                # again.
                began = began or monotonic()
                seconds = monotonic() - began
                if seconds >= self._busy_timeout or self.deadline.passed():
                    who = "another connection reads the file and blocks the COMMIT"
                    raise gave_up(error, seconds, who) from error.__cause__
        self._note_end()
        try:
            self._committed()
        except Exception:
            LOG.exception("abt_db: an error after a COMMIT; the transaction is committed")

    def _committed(self) -> None:
        """Count a commit, and empty the log if it has become too long."""
        if self._met:
            now = monotonic()
            held = now - self._since
            self._free = now + min(held / 5, LONGEST_PAUSE) if held > 0.005 else 0.0
        self.stats.committed(self.tables_written)
        if self.wal is not None:
            self.wal.keep_short(self)

    def require_files(self) -> None:
        """Raise `CorruptError` if the database, or its log, was deleted or replaced while open."""
        if self._identity is not None:
            self._identity.require()

    def spoil(self) -> None:
        """Roll the transaction back without noting its end. Its caller got an error at a time limit
        and may go on in the transaction; its next statement raises `TransactionAbortedError`."""
        if self._raw.in_transaction:
            self._command("ROLLBACK")

    def tables_written(self) -> frozenset[str] | None:
        """Return the tables that the transaction has written so far; None: any table may have been
        written. May be called from any thread."""
        return self._tables.written_by(self._written.copy())

    def reset(self) -> None:
        """Close what a caller left open: cursors, then the transaction (invariant 7). After an
        error that may mean that the connection is broken, check that it can still read.

        Raises an error if the connection can't serve again and has to be replaced.
        """
        self.close_cursors()
        self.rollback()
        if self._unfit:
            raise TransactionStateError("a setting of the connection could not be put back")
        if self._suspect:
            self._examine()

    def examine(self) -> None:
        """After a call, and before its caller gets the result: if an error may mean that the
        connection is broken, check that it can still read.

        Without a write-ahead log, that read rolls back a COMMIT that failed half-way. Readers can't
        do so, and would find the database locked by its journal
        (https://www.sqlite.org/lockingv3.html, "hot journals"). If the check fails, `reset` repeats
        it.
        """
        if self._suspect and not self._raw.in_transaction:
            with suppress(AbtDbError):
                self._examine()

    def _examine(self) -> None:
        self._suspect = False  # an error of this read sets it again
        self.control("SELECT count(*) FROM sqlite_schema")

    @property
    def settled(self) -> bool:
        """Whether no transaction and no cursor is open, and nothing may be broken."""
        return not (self._cursors or self._raw.in_transaction or self._unfit or self._suspect)

    def end(self) -> None:
        """Close all cursors: a statement that is left keeps a closed connection's file open."""
        self.close_cursors()
        self._cursor.close()
        self._commands.close()

    def has_deferred_keys(self) -> bool:
        """Whether the schema may have foreign keys that SQLite checks only at COMMIT."""
        [(version,)] = self.control("PRAGMA schema_version")
        if version != self._schema[0]:
            found = self.control("SELECT 1 FROM sqlite_schema WHERE sql LIKE '%deferred%' LIMIT 1")
            self._schema = version, bool(found)
        return self._schema[1]

    @contextmanager
    def foreign_keys_off(self) -> Iterator[None]:
        """Run the block without foreign keys. Must begin outside a transaction: SQLite ignores the
        PRAGMA inside one.

        What the block has committed stays committed, even if the setting can't be put back. That
        failure is logged; the connection then refuses further such blocks, and `reset` raises, so
        that it is replaced.
        """
        if self._unfit:
            raise TransactionStateError("the foreign keys could not be put back by the step before")
        [(before,)] = self.control("PRAGMA foreign_keys")
        self.control("PRAGMA foreign_keys = 0")

        def put_back() -> None:
            self._unfit = True
            self.rollback()
            self.control(f"PRAGMA foreign_keys = {int(before)}")
            self._unfit = False

        try:
            yield
        except BaseException as error:
            try:
                put_back()
            except AbtDbError as second:
                error.add_note(f"The foreign keys could not be put back either: {second}")
            raise
        try:
            put_back()
        except AbtDbError:
            LOG.exception("abt_db: the foreign keys could not be put back after the commits")

    def run_sql(self, sql: str, *, doing: str, privileged: bool = False) -> None:
        """Run one statement that is no `Query`: a step of a migration. `doing` names it in errors.

        The statement may do what a caller's query may, or anything if it is `privileged`. It is
        stopped at the call's deadline.
        """
        if self.deadline.passed():
            raise self._stopped(doing)
        self._text = ""
        self._written.add(ANYTHING)
        self._privileged = privileged
        try:
            # With the comment, the text differs from every caller's statement, see `_authorize`.
            for _ in self._raw.execute(f"/* privileged */ {sql}" if privileged else sql):
                pass  # a statement that returns rows is done when all rows are read
        except (sqlite3.Error, UnicodeDecodeError) as error:
            reason, self._denied = self._denied, None
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise self._stopped(doing) from None
            raise self._translated(error, sql=sql, doing=doing, reason=reason) from error
        finally:
            self._privileged = False

    def others_committed(self) -> bool:
        """Whether another connection has, or may have, committed since the last call of this."""
        # https://www.sqlite.org/pragma.html#pragma_data_version
        [(version,)] = self.control("PRAGMA data_version")
        before, self._version = self._version, version
        return bool(version != before)

    def fetch_known(self, statement: Statement[T]) -> tuple[list[T], TablesUsed | None]:
        """Return all rows, and what the statement uses, or None if that is not known."""
        self._tables.make_room()
        return self.fetch_all(statement), self._tables.used_by(statement.query.text)

    def give_way(self) -> None:
        """Let other threads run Python, if other connections are at work. Called between the pieces
        of long work."""
        self.stats.give_way()

    @property
    def changes(self) -> int:
        """The number of rows changed since the connection was opened, undone changes included."""
        return self._raw.total_changes

    def limit_sizes(self, value: int, sql: int) -> None:
        """Refuse values longer than `value` and SQL texts longer than `sql`, in bytes."""
        self._raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, value)
        self._raw.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, sql)


_BEGIN = {
    "IMMEDIATE": "BEGIN IMMEDIATE",
    "EXCLUSIVE": "BEGIN EXCLUSIVE",
    "SNAPSHOT": "BEGIN DEFERRED",
}
