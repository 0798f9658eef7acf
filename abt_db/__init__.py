"""Raw SQL for SQLite in asyncio programs: one writer and many readers, named queries, typed rows.

The rooms, each building on those above it:

    exhausted     what the system has no more of
    lazy          packages that import what they offer when it is asked for
    log           the logger, whose handlers can't stop the library
    errors        what can be raised; the one place where sqlite3's errors are translated
    events        what listeners are sent
    config        the settings of a database
    sql           named SQL: `Query`, `Statement`, values, row types
    connection    one connection: what is done on its thread, and the way there
    pool          who runs when: a lane with the writer, a lane with the readers
    files         files that appear whole or not at all, and copies of a database
    locks         named locks, among tasks and among processes
    transactions  `Transaction`, `Savepoint`, `Snapshot`, `Stream`; retries; bulk work
    watch         live queries
    housekeeping  what a database does for itself now and then
    protocols     the verbs that databases, transactions and snapshots have in common
    database      `Database`, which is what applications use
    repository    `Repository`: the rows of a table, through any of these
    maintenance   vacuum, backup, restore, statistics, checks; the doctor and its figures
    migrations    versioned SQL scripts, and the engine that applies them
    schema        those of the build database
    builds        the build database of an Android build tool, the library's first user
    testing       for the tests of applications that bring migrations of their own
    tools         its command line, `abt-db`

To understand the engine in half an hour, follow the tour in CONTRIBUTING.md.
"""

import typing

from .lazy import lazily as _lazily

if typing.TYPE_CHECKING:
    from .config import Config
    from .connection.lock_owners import Holding
    from .connection.session import Result, Session
    from .database import Database
    from .errors import (
        AbtDbError,
        BusyError,
        CantOpenError,
        CommitUnknownError,
        ConfigError,
        CorruptError,
        DeniedError,
        DiskIOError,
        FullError,
        IntegrityError,
        LockLostError,
        LockStateError,
        LockTimeoutError,
        MaintenanceError,
        MappingError,
        MigrationChangedError,
        MigrationError,
        MigrationFailedError,
        MigrationIrreversibleError,
        MigrationUnknownError,
        ParameterError,
        PoolClosedError,
        PoolSaturatedError,
        PoolTimeoutError,
        QueryDefinitionError,
        QueryError,
        ReadOnlyError,
        StatementError,
        StatementTimeoutError,
        TooBigError,
        TransactionAbortedError,
        TransactionStateError,
        TransactionTimeoutError,
    )
    from .events import (
        Checkpointed,
        Closed,
        Committed,
        Event,
        Opened,
        Ran,
        Transacted,
        Waited,
    )
    from .locks.lease import LockLease
    from .locks.local import LocalLocks
    from .locks.table import LOCKS_TABLE, LockInfo
    from .pool.loan import Loan
    from .protocols import Readable, Writable
    from .repository import Repository
    from .sql.query import Query, Statement
    from .sql.table import Table
    from .sql.values import Json
    from .transactions.bulk import BatchFailure, BatchReport
    from .transactions.handles import Savepoint, Snapshot, Stream, Transaction
    from .watch.live import Watch
else:
    __getattr__, __dir__ = _lazily(
        __name__,
        "config",
        "connection.lock_owners",
        "connection.session",
        "database",
        "errors",
        "events",
        "locks.lease",
        "locks.local",
        "locks.table",
        "pool.loan",
        "protocols",
        "repository",
        "sql.query",
        "sql.table",
        "sql.values",
        "transactions.bulk",
        "transactions.handles",
        "watch.live",
    )

__all__ = [
    "AbtDbError",
    "BatchFailure",
    "BatchReport",
    "BusyError",
    "CantOpenError",
    "Checkpointed",
    "Closed",
    "CommitUnknownError",
    "Committed",
    "Config",
    "ConfigError",
    "CorruptError",
    "Database",
    "DeniedError",
    "DiskIOError",
    "Event",
    "FullError",
    "Holding",
    "IntegrityError",
    "Json",
    "LOCKS_TABLE",
    "Loan",
    "LocalLocks",
    "LockInfo",
    "LockLease",
    "LockLostError",
    "LockStateError",
    "LockTimeoutError",
    "MaintenanceError",
    "MappingError",
    "MigrationChangedError",
    "MigrationError",
    "MigrationFailedError",
    "MigrationIrreversibleError",
    "MigrationUnknownError",
    "Opened",
    "ParameterError",
    "PoolClosedError",
    "PoolSaturatedError",
    "PoolTimeoutError",
    "Query",
    "QueryDefinitionError",
    "QueryError",
    "Ran",
    "ReadOnlyError",
    "Readable",
    "Repository",
    "Result",
    "Savepoint",
    "Session",
    "Snapshot",
    "Statement",
    "StatementError",
    "StatementTimeoutError",
    "Stream",
    "Table",
    "TooBigError",
    "Transacted",
    "Transaction",
    "TransactionAbortedError",
    "TransactionStateError",
    "TransactionTimeoutError",
    "Waited",
    "Watch",
    "Writable",
]
