"""The errors of `abt_db`, and the only place where errors of `sqlite3` are translated.

Every error that the library raises on purpose derives from `AbtDbError`. An error that comes from
SQLite is a `QueryError`. Its subclasses also derive from the class that `sqlite3` would have
raised, so `except sqlite3.IntegrityError` goes on working. Errors carry the name and the SQL of a
query and never the value of a parameter (invariant 27).
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
    """The base of every error that `abt_db` raises on purpose."""


class ConfigError(AbtDbError, ValueError):
    """A setting of `Config` that can't work."""


# -- the pool ------------------------------------------------------------------------------------


class PoolClosedError(AbtDbError):
    """The database is not open: not yet, no longer, or not in this event loop or process."""


class PoolTimeoutError(AbtDbError, TimeoutError):
    """No connection came free in time. The message names the task that holds one, and for how
    long."""


class PoolSaturatedError(AbtDbError):
    """The queue is full (`Config.max_pending`), so the call was not queued."""


# -- statements ----------------------------------------------------------------------------------


class QueryDefinitionError(AbtDbError, ValueError):
    """SQL that can't be a `Query`: two statements, transaction control, positional `?` …"""


class ParameterError(AbtDbError, ValueError):
    """A parameter that is missing, unknown or not storable; raised when the query is bound."""


class MappingError(AbtDbError):
    """A row does not fit the row type that its query declares."""


class QueryError(AbtDbError, sqlite3.DatabaseError):
    """SQLite refused or failed a statement.

    `query` is the query's name and `sql` its text (both None if no query was involved).
    `sqlite_errorcode` and `sqlite_errorname` are SQLite's extended code and its name. Both are
    those of SQLITE_ERROR if the library refused the statement before it reached SQLite.
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
    """The statement itself is wrong: a misspelt table or column, a syntax error …"""


class IntegrityError(QueryError, sqlite3.IntegrityError):
    """A constraint of the schema refused the write."""


class BusyError(QueryError, sqlite3.OperationalError):
    """Another connection or process held the lock until the time limit passed."""


class ReadOnlyError(QueryError, sqlite3.OperationalError):
    """A write on a reader, or on a database that was opened read-only."""


class DeniedError(QueryError):
    """A query does what callers may not do: ATTACH, `writable_schema` …"""


class CantOpenError(QueryError, sqlite3.OperationalError):
    """The database file could not be opened."""


class CorruptError(QueryError):
    """The file is damaged, or is no database. The library never changes or deletes such a file."""


class FullError(QueryError, sqlite3.OperationalError):
    """The disk, or the database's own size limit, is full."""


class TooBigError(QueryError, sqlite3.DataError):
    """A text, blob or row is larger than SQLite, or `Config`, permits."""


class DiskIOError(QueryError, sqlite3.OperationalError):
    """The operating system reported an error of a read, write or sync."""


class StatementTimeoutError(AbtDbError, TimeoutError):
    """A statement reached its deadline and was stopped."""


# -- transactions --------------------------------------------------------------------------------


class TransactionTimeoutError(AbtDbError, TimeoutError):
    """A transaction was open longer than its limit and has been rolled back."""


class CommitUnknownError(StatementTimeoutError, TransactionTimeoutError):
    """The time limit passed while the COMMIT was under way: the write may be in the database.

    The COMMIT ends before the writer serves another call, so a read on the writer (`transaction`)
    shows whether the write is there. Never repeat the write without such a read, unless repeating
    it does no harm.
    """


class TransactionAbortedError(AbtDbError):
    """The transaction has already been ended: by SQLite, by `Database.end_transactions`, or because
    a part of it could not be undone alone. Nothing of it is in the database."""


class TransactionStateError(AbtDbError):
    """A handle or the database was used where it can't be: a handle after its block or in another
    event loop, a session outside its function, the database for a call that would wait for the
    task's own open transaction …"""


# -- locks, maintenance and migrations -------------------------------------------------------------


class LockTimeoutError(AbtDbError, TimeoutError):
    """A lock could not be acquired in time."""


class LockLostError(AbtDbError):
    """The lease on a lock expired, or was taken away, while its holder relied on it."""


class LockStateError(AbtDbError):
    """A lock was used where it can't be: twice by one task, outside its block, in another loop …"""


class MaintenanceError(AbtDbError):
    """A database could not be copied, restored or made smaller; it is unchanged."""


class MigrationError(AbtDbError):
    """A migration could not be read, planned or applied; the database is as it was before that
    migration."""


class MigrationChangedError(MigrationError):
    """A migration was edited after it had been applied."""


class MigrationUnknownError(MigrationError):
    """The database has a migration that this program does not have. Probably a newer version of the
    program has migrated it."""


class MigrationFailedError(MigrationError):
    """A step failed and was rolled back; the cause is attached."""


class MigrationIrreversibleError(MigrationError):
    """A step can't be reverted, because it has no down script."""


class MigrationFileError(MigrationError):
    """A migration can't be parsed; the message begins with its file, if it has one."""


class MigrationOrderError(MigrationError):
    """Migrations don't fit together: a version twice, an unknown dependency, a cycle."""


class ScriptError(MigrationError):
    """A script can't be split into statements: a part of it never ends, or SQLite can't read it.

    `line` is the line of the error, counted from 1. If a part never ends, it is the line where the
    statement starts.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)  # only the message, so that the error can be copied
        self.line = line


class MigrationLossError(MigrationFailedError):
    """The step would lose rows or values, so it was rolled back before its commit."""


class BuildEndedError(AbtDbError):
    """The status of a build that has ended was to be changed."""


class CommandError(AbtDbError):
    """A command can't be started, or its end can't be found out.

    `exit_code` is the one that a shell returns: 127 for a program that does not exist, otherwise
    126.
    """

    def __init__(self, message: str, exit_code: int = 126) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# -- inside the library: no caller sees these ----------------------------------------------------


class BeginBusyError(BusyError):
    """BEGIN met another process's lock: nothing has been done yet, so it can be tried again."""


class StoppedError(AbtDbError):
    """The call was cancelled. Its caller no longer waits, so no caller sees this error."""


class LostError(AbtDbError):
    """The connection's thread has died, so the call that it was running has no result."""


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

# Used if there is no class for the code: by the class of the original error.
_CLASSES: dict[type[sqlite3.Error], type[QueryError]] = {
    sqlite3.IntegrityError: IntegrityError,
    sqlite3.DataError: TooBigError,
    sqlite3.OperationalError: StatementError,
}

# In a message of one of SQLite's functions, a quoted argument begins at the first of these.
_QUOTING = re.compile(r"[:'\"\[]")

# sqlite3 puts the undecodable text itself after the column's name. Only the name is used.
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

    - `query` and `sql`: the name and the text of the statement.
    - `doing`: what was being done, if there is no query ("opening /srv/app.db").
    - `reason`: why the authorizer denied the statement, if it did.
    - `ran`: whether the statement failed while it ran. SQLite's message may then quote a value, so
      it is cut.
    - `path`: returns the path of the database. It is used to check whether the database's files
      have reached a limit of the process.
    """
    what = f"query {query!r}" if query is not None else (doing or "SQLite")
    if isinstance(error, UnicodeDecodeError):
        # sqlite3 raises this instead of SQLite's error, if the error's message or the name of a
        # column is not UTF-8.
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
        kind = DeniedError  # for a refused function SQLite's code is just SQLITE_ERROR
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
        # https://www.sqlite.org/pragma.html#pragma_trusted_schema; before 3.41 this also concerns
        # the JSON functions.
        reason += " in a view, trigger or constraint; Config(trusted_schema=True) permits it"
    message = f"{what}: {reason}" + (f" [{name}]" if name is not None else "")
    translated = kind(message, query=query, sql=sql, code=code, name=name)
    if sql is not None:
        translated.add_note(f"SQL: {sql}")
    return translated
