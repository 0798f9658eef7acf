"""The library's own side of a connection: transactions, settings, care.

What is handed to a caller's function is a `Session`, which has no way to what only the library may
do: to begin and to commit, to run SQL that is refused to callers.
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
"""Seconds after which a lock that was in the way is forgotten."""


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
        self.wal = wal  # None: it is left alone
        self._identity = identity
        self._unfit = False  # a setting could not be put back
        self._schema = (-1, False)  # its version, and whether it has deferred keys
        self._version: int | None = None  # of the data, see `others_committed`
        # Where others write as well: when their lock was met, when ours was taken, and until when
        # it is left to them.
        self._met = self._since = self._free = 0.0

    # What a caller's function has no business with.
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

        Raises `BeginBusyError` when another process holds the lock.

        Others look for it every few milliseconds. Who is done with long work and begins again at
        once would hardly ever be met without it, so he waits a little if there are others; and that
        there are he knows by their lock, which he has met himself.
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
        """A block in a transaction: committed at its end, rolled back when it is left by an error.

        An error of the rollback itself is noted on the first one (invariant 10); the connection,
        which is still in the transaction, is replaced then.
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
        """A block in which all reads see the database as it is at the first of them."""
        self._command("BEGIN")
        yield
        self._command("COMMIT")

    def commit(self) -> None:
        """Commit what `begin` began.

        Raises `TransactionAbortedError` if SQLite has ended it before, `StatementTimeoutError` if
        the caller was freed at its limit, and `CorruptError` if what is written would be lost: the
        files are not those that their paths lead to. Behind the COMMIT itself nothing raises: what
        is committed is acknowledged (invariants 28, 30).
        """
        self.require_transaction()
        if not self.deadline.may_commit():
            raise self._stopped("COMMIT")
        self.require_files()
        self.close_cursors()  # of a write that returns rows, it would keep the COMMIT from working
        began = None
        while True:
            try:
                self._command("COMMIT")
                break
            except BusyError as error:
                # Without a write-ahead log a reader can be in the way of a COMMIT, which may then
                # be tried again.
                began = began or monotonic()
                seconds = monotonic() - began
                if seconds >= self._busy_timeout or self.deadline.passed():
                    who = "another connection reads the file and is in the way"
                    raise gave_up(error, seconds, who) from error.__cause__
        self._note_end()
        try:
            self._committed()
        except Exception:
            LOG.exception("abt_db: after a commit, which is done")

    def _committed(self) -> None:
        """Note a commit, and empty the log if that has become too long."""
        if self._met:
            now = monotonic()
            held = now - self._since
            self._free = now + min(held / 5, LONGEST_PAUSE) if held > 0.005 else 0.0
        self.stats.committed(self.tables_written)
        if self.wal is not None:
            self.wal.keep_short(self)

    def require_files(self) -> None:
        """Raise `CorruptError` if the database, or its log, was deleted or replaced meanwhile."""
        if self._identity is not None:
            self._identity.require()

    def spoil(self) -> None:
        """Undo the transaction for a caller that was freed from it, and may think it goes on: its
        next statement raises `TransactionAbortedError`."""
        if self._raw.in_transaction:
            self._command("ROLLBACK")

    def tables_written(self) -> frozenset[str] | None:
        """Return the tables that the transaction has written so far; None: it may be any. May be
        asked from any thread."""
        return self._tables.written_by(self._written.copy())

    def reset(self) -> None:
        """Close what a caller left open: cursors, then the transaction (invariant 7); after an
        error that may have been the connection's fault, see whether it still can read.

        Raises when the connection can't serve again; it has to be replaced then.
        """
        self.close_cursors()
        self.rollback()
        if self._unfit:
            raise TransactionStateError("a setting of the connection could not be put back")
        if self._suspect:
            self._examine()

    def examine(self) -> None:
        """Behind a call, and before its caller hears of it: if an error may have been the
        connection's fault, see whether it still can read.

        Without a write-ahead log that read undoes a COMMIT that failed half-way: readers can't, and
        would find the database locked up by its journal (https://www.sqlite.org/lockingv3.html,
        "hot journals"). What fails here as well is left to `reset`.
        """
        if self._suspect and not self._raw.in_transaction:
            with suppress(AbtDbError):
                self._examine()

    def _examine(self) -> None:
        self._suspect = False  # an error makes it so again
        self.control("SELECT count(*) FROM sqlite_schema")

    @property
    def settled(self) -> bool:
        """Whether nothing is open, neither a transaction nor a cursor, and nothing seems broken."""
        return not (self._cursors or self._raw.in_transaction or self._unfit or self._suspect)

    def end(self) -> None:
        """Let go of all statements: one that is left keeps a closed connection's file open."""
        self.close_cursors()
        self._cursor.close()
        self._commands.close()

    def has_deferred_keys(self) -> bool:
        """Whether the schema may have foreign keys that are checked at COMMIT only."""
        [(version,)] = self.control("PRAGMA schema_version")
        if version != self._schema[0]:
            found = self.control("SELECT 1 FROM sqlite_schema WHERE sql LIKE '%deferred%' LIMIT 1")
            self._schema = version, bool(found)
        return self._schema[1]

    @contextmanager
    def foreign_keys_off(self) -> Iterator[None]:
        """A block without foreign keys; outside a transaction, where alone the PRAGMA works.

        What the block has committed is done, also where the setting can't be put back: that is
        logged, and the connection serves no other such block, and is replaced by `reset`.
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
            LOG.exception("abt_db: the foreign keys could not be put back, behind what is done")

    def run_sql(self, sql: str, *, doing: str, privileged: bool = False) -> None:
        """Run one statement that is no `Query`: a step of a migration. `doing` names it in errors.

        It may do what a caller's query may (`privileged`: anything), and is stopped at the call's
        deadline.
        """
        if self.deadline.passed():
            raise self._stopped(doing)
        self._text = ""
        self._written.add(ANYTHING)
        self._privileged = privileged
        try:
            # The comment makes it a text that no caller's statement can have, see `_authorize`.
            for _ in self._raw.execute(f"/* privileged */ {sql}" if privileged else sql):
                pass  # what returns rows has done its work at the end of them
        except (sqlite3.Error, UnicodeDecodeError) as error:
            reason, self._denied = self._denied, None
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise self._stopped(doing) from None
            raise self._translated(error, sql=sql, doing=doing, reason=reason) from error
        finally:
            self._privileged = False

    def others_committed(self) -> bool:
        """Whether another connection has committed since this was last asked, or may have."""
        # https://www.sqlite.org/pragma.html#pragma_data_version
        [(version,)] = self.control("PRAGMA data_version")
        before, self._version = self._version, version
        return bool(version != before)

    def fetch_known(self, statement: Statement[T]) -> tuple[list[T], TablesUsed | None]:
        """Return all rows, and what the statement uses; None: it is not known."""
        self._tables.make_room()
        return self.fetch_all(statement), self._tables.used_by(statement.query.text)

    def give_way(self) -> None:
        """Between the pieces of long work: let others run Python, if there are any."""
        self.stats.give_way()

    @property
    def changes(self) -> int:
        """How many rows were changed since the connection was opened, also those undone since."""
        return self._raw.total_changes

    def limit_sizes(self, value: int, sql: int) -> None:
        """Take no longer value and no longer SQL text, in bytes."""
        self._raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, value)
        self._raw.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, sql)


_BEGIN = {
    "IMMEDIATE": "BEGIN IMMEDIATE",
    "EXCLUSIVE": "BEGIN EXCLUSIVE",
    "SNAPSHOT": "BEGIN DEFERRED",
}
