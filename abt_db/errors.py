"""The errors of `abt_db`, and the one place where those of `sqlite3` are translated.

Everything the library raises on purpose derives from `AbtDbError`. An error that comes from SQLite
is a `QueryError`; its kinds derive from the class that `sqlite3` would have raised as well, so
`except sqlite3.IntegrityError` goes on working. Errors carry the name and the SQL of a query and
never the value of a parameter (invariant 27).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable

from .exhausted import no_descriptors, no_growth

__all__ = [
    "AbtDbError",
    "BuildEndedError",
    "BusyError",
    "CantOpenError",
    "CommandError",
    "CommitUnknownError",
    "ConfigError",
    "CorruptError",
    "DeniedError",
    "DiskIOError",
    "FullError",
    "IntegrityError",
    "LockLostError",
    "LockStateError",
    "LockTimeoutError",
    "MaintenanceError",
    "MappingError",
    "MigrationChangedError",
    "MigrationError",
    "MigrationFailedError",
    "MigrationFileError",
    "MigrationIrreversibleError",
    "MigrationLossError",
    "MigrationOrderError",
    "MigrationUnknownError",
    "ParameterError",
    "PoolClosedError",
    "PoolSaturatedError",
    "PoolTimeoutError",
    "QueryDefinitionError",
    "QueryError",
    "ReadOnlyError",
    "ScriptError",
    "StatementError",
    "StatementTimeoutError",
    "TooBigError",
    "TransactionAbortedError",
    "TransactionStateError",
    "TransactionTimeoutError",
    "translate",
]


class AbtDbError(Exception):
    """Whatever `abt_db` raises on purpose."""


class ConfigError(AbtDbError, ValueError):
    """A setting of `Config` that can't work."""


# -- the pool ------------------------------------------------------------------------------------


class PoolClosedError(AbtDbError):
    """The database is not open: not yet, no longer, or this is another event loop or process."""


class PoolTimeoutError(AbtDbError, TimeoutError):
    """No connection came free in time; the message names who holds it and for how long."""


class PoolSaturatedError(AbtDbError):
    """The queue is at its bound (`Config.max_pending`); nothing was queued."""


# -- statements ----------------------------------------------------------------------------------


class QueryDefinitionError(AbtDbError, ValueError):
    """A `Query` whose SQL can't be one: two statements, transaction control, positional `?` …"""


class ParameterError(AbtDbError, ValueError):
    """A parameter that is missing, unknown or not storable; raised when the query is bound."""


class MappingError(AbtDbError):
    """A row that does not fit the row type that its query declares."""


class QueryError(AbtDbError, sqlite3.DatabaseError):
    """SQLite refused or failed a statement.

    `query` is the query's name, `sql` its text (both None where no query was involved);
    `sqlite_errorcode` and `sqlite_errorname` are SQLite's extended code and its name, SQLITE_ERROR
    where the library refused it before SQLite was asked.
    """

    def __init__(
        self,
        message: str,
        *,
        query: str | None = None,
        sql: str | None = None,
        code: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(message)
        self.query = query
        self.sql = sql
        self.sqlite_errorcode = sqlite3.SQLITE_ERROR if code is None else code
        self.sqlite_errorname = "SQLITE_ERROR" if name is None else name


class StatementError(QueryError, sqlite3.OperationalError):
    """The statement itself is at fault: a misspelt table or column, a syntax error …"""


class IntegrityError(QueryError, sqlite3.IntegrityError):
    """A constraint of the schema refused the write."""


class BusyError(QueryError, sqlite3.OperationalError):
    """Another connection or process held the lock until the time limit passed."""


class ReadOnlyError(QueryError, sqlite3.OperationalError):
    """A write on a reader, or on a database that was opened read-only."""


class DeniedError(QueryError):
    """Something that callers may not do through a query: ATTACH, `writable_schema` …"""


class CantOpenError(QueryError, sqlite3.OperationalError):
    """The database file could not be opened."""


class CorruptError(QueryError):
    """The file is damaged, or no database at all. It is never changed or deleted because of it."""


class FullError(QueryError, sqlite3.OperationalError):
    """The disk, or the database's own size limit, is full."""


class TooBigError(QueryError, sqlite3.DataError):
    """A text, a blob or a row that is larger than SQLite, or `Config`, permits."""


class DiskIOError(QueryError, sqlite3.OperationalError):
    """The operating system failed a read, write or sync."""


class StatementTimeoutError(AbtDbError, TimeoutError):
    """A statement reached its deadline and was stopped."""


# -- transactions --------------------------------------------------------------------------------


class TransactionTimeoutError(AbtDbError, TimeoutError):
    """A transaction was open longer than its limit and has been rolled back."""


class CommitUnknownError(StatementTimeoutError, TransactionTimeoutError):
    """The time limit passed while the COMMIT was under way: the write may be in the database.

    It is settled before the writer serves another call, so a read on the writer (`transaction`)
    tells. Never repeat such a write without looking, unless it does no harm done twice.
    """


class TransactionAbortedError(AbtDbError):
    """This transaction was ended before: by SQLite, by `Database.end_transactions`, or because a
    part of it could not be undone alone. Nothing of it is in the database."""


class TransactionStateError(AbtDbError):
    """Something was used where it can't be: a handle after its block or in another event loop, a
    session outside its function, the database itself for what waits for one's own transaction …"""


# -- locks, maintenance and migrations -------------------------------------------------------------


class LockTimeoutError(AbtDbError, TimeoutError):
    """A lock could not be had in time."""


class LockLostError(AbtDbError):
    """The lease on a lock ran out, or was taken away, while it was thought to be held."""


class LockStateError(AbtDbError):
    """A lock was used where it can't be: twice by one task, outside its block, in another loop …"""


class MaintenanceError(AbtDbError):
    """A database could not be copied, restored or made smaller; it is as it was before."""


class MigrationError(AbtDbError):
    """A migration could not be read, planned or applied; the database is as it was before it."""


class MigrationChangedError(MigrationError):
    """A migration was edited after it had been applied."""


class MigrationUnknownError(MigrationError):
    """The database holds a migration that this program does not have: it is newer, probably."""


class MigrationFailedError(MigrationError):
    """A step failed and was rolled back; the cause is attached."""


class MigrationIrreversibleError(MigrationError):
    """A step that can't be taken back, for it has no down script."""


class MigrationFileError(MigrationError):
    """A migration that can't be understood; the message begins with its file, where it has one."""


class MigrationOrderError(MigrationError):
    """Migrations that don't fit together: a version twice, an unknown dependency, a cycle."""


class ScriptError(MigrationError):
    """A script that can't be split: something in it never ends, or SQLite could not read it.

    `line` is the line at fault, from 1; of something that never ends, where its statement starts.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)  # alone, so that a copy is made of it
        self.line = line


class MigrationLossError(MigrationFailedError):
    """Rows or values would be lost, so the step was stopped before its commit."""


class BuildEndedError(AbtDbError):
    """A build that has ended was given another status."""


class CommandError(AbtDbError):
    """A command that can't be started, or whose end can't be told.

    `exit_code` is what a shell makes of it: 127 for a program that is not there, 126 otherwise.
    """

    def __init__(self, message: str, exit_code: int = 126) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# -- inside the library: no caller sees these ----------------------------------------------------


class BeginBusyError(BusyError):
    """BEGIN met another process's lock: nothing has been done yet, so it can be tried again."""


class StoppedError(AbtDbError):
    """The call was cancelled. Its caller has gone, so nobody sees this."""


class LostError(AbtDbError):
    """The connection's thread has died, and whatever it was doing with it."""


# -- translation ---------------------------------------------------------------------------------

# By primary result code (https://www.sqlite.org/rescode.html): the low byte of the extended one.
_KINDS: dict[int, type[QueryError]] = {
    sqlite3.SQLITE_ERROR: StatementError,
    sqlite3.SQLITE_BUSY: BusyError,
    sqlite3.SQLITE_LOCKED: BusyError,
    sqlite3.SQLITE_READONLY: ReadOnlyError,
    sqlite3.SQLITE_IOERR: DiskIOError,
    sqlite3.SQLITE_CORRUPT: CorruptError,
    sqlite3.SQLITE_NOTADB: CorruptError,
    sqlite3.SQLITE_FULL: FullError,
    sqlite3.SQLITE_CANTOPEN: CantOpenError,
    sqlite3.SQLITE_CONSTRAINT: IntegrityError,
    sqlite3.SQLITE_MISMATCH: IntegrityError,
    sqlite3.SQLITE_TOOBIG: TooBigError,
    sqlite3.SQLITE_AUTH: DeniedError,
}

# Where the code tells no kind, the class of the original does.
_CLASSES: dict[type[sqlite3.Error], type[QueryError]] = {
    sqlite3.IntegrityError: IntegrityError,
    sqlite3.DataError: TooBigError,
    sqlite3.OperationalError: StatementError,
}

# Where SQLite's functions begin to quote what they were given.
_QUOTING = re.compile(r"[:'\"\[]")

# sqlite3 puts the undecodable text itself behind the column's name; only the name is passed on.
_UNDECODABLE = re.compile(r"Could not decode to UTF-8 column '(.*?)' with text")


def translate(
    error: sqlite3.Error | UnicodeDecodeError,
    *,
    query: str | None = None,
    sql: str | None = None,
    doing: str | None = None,
    reason: str | None = None,
    ran: bool = False,
    path: Callable[[], str] | None = None,
) -> AbtDbError:
    """Return the library's error for one of `sqlite3`'s.

    `query` and `sql` name the statement; `doing` says what was being done where there is no query
    ("opening /srv/app.db"); `reason` is why the authorizer denied it, if it did;
    `ran` says that it failed as it ran: SQLite's words may then hold a value, and are cut; `path`
    returns that of the database, whose files may be at a limit of the process.
    """
    what = f"query {query!r}" if query is not None else (doing or "SQLite")
    if isinstance(error, UnicodeDecodeError):
        # In place of SQLite's own error, when that quotes it, or of a column's name.
        return CorruptError(
            f"{what}: the schema of the database holds text that is not UTF-8",
            query=query,
            sql=sql,
            code=sqlite3.SQLITE_CORRUPT,
            name="SQLITE_CORRUPT",
        )
    if undecodable := _UNDECODABLE.match(str(error)):
        return MappingError(f"{what}: column {undecodable[1]!r} holds text that is not UTF-8")
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", None)
    by_class = _CLASSES.get(type(error), QueryError)
    kind = by_class if code is None else _KINDS.get(code & 0xFF, by_class)
    if reason is not None:
        kind = DeniedError  # a refused function has the code of any other mistake
    if reason is None:
        reason = str(error)
        if ran and (quoting := _QUOTING.search(reason)):
            reason = f"{reason[: quoting.start()].strip()} (the rest may be a value)"
    limit = no_growth(name, path) if kind is DiskIOError and path is not None else None
    if limit is not None:
        kind = FullError
    if (limit := limit or no_descriptors(name)) is not None:
        reason += f": {limit}"
    if "unsafe use of" in reason:
        # https://www.sqlite.org/pragma.html#pragma_trusted_schema; before 3.41 that holds for the
        # JSON functions as well.
        reason += " in a view, trigger or constraint; Config(trusted_schema=True) permits it"
    message = f"{what}: {reason}" + (f" [{name}]" if name is not None else "")
    translated = kind(message, query=query, sql=sql, code=code, name=name)
    if sql is not None:
        translated.add_note(f"SQL: {sql}")
    return translated
