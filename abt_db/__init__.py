"""Raw SQL for SQLite in asyncio programs: one writer and many readers, named queries, typed rows.

Where things are, each building on those above it:

    exhausted    what the system has no more of
    lazy         packages that import what they offer when it is asked for
    errors       what can be raised; the one place where sqlite3's errors are translated
    log          the logger, whose handlers can't stop the library
    config       the settings of a database
    values       Python values <-> SQLite values
    deadline     time limits, and stopping the statement that runs
    events       what listeners are told
    tables       which tables a statement reads and writes
    filelocks    the locks on a file, as Linux lists them
    identity     which file it is that a path leads to
    parts        files that are there whole or not at all, as private as their source
    stats        counters
    rows         a dataclass type -> a function from rows to objects
    outline      what can be known of a statement from its text alone
    query        `Query`, named SQL, and `Statement`, a query with its parameters
    table        the statements that every table has, made from the fields of a dataclass
    wal          when the write-ahead log is to be emptied
    busy         waiting for another process's lock
    holders      who holds a connection, or a file's lock
    waits        who would wait for ever
    permissions  what a caller's SQL may not do, and what only a write may ask
    session      the verbs, synchronous, on a connection's own thread
    channel      what only the library does there: transactions, settings, care
    opening      what a file is opened with: path, URI, settings
    connection   one aiosqlite connection that runs a whole job in one thread hop
    copying      copying a database that is in use, and checking the copy
    work         what a lane has to do: jobs and leases
    queue        who waits, and who goes first
    batch        what is done in one hop: reads that share it, writes that share a commit
    seat         a connection's place in a lane, and the care for it
    seats        all of them: made, given up, and what they are in use for
    lane         a fair queue of work and the connections that serve it
    pool         the writer's lane and the readers' lane of one file
    locks        named locks and semaphores among the tasks of one event loop
    grants       the steps by which a lock among processes changes hands
    leases       locks among the processes that share a database, with fencing tokens
    transaction  `Transaction`, `Savepoint`, `Snapshot`, `Stream`
    watchable    what a live query depends on, and what none can be made of
    watch        live queries
    upkeep       what a database does for itself now and then
    retry        a transaction that is tried again
    bulk         many operations, in transactions of some
    handles      the verbs that databases, transactions and snapshots have in common
    repository   `Repository`: the rows of a table, through any of these
    database     `Database`, which is what applications use
    maintenance  vacuum, backup, restore, statistics, checks; the doctor and its figures
    migrations   versioned SQL scripts, and the engine that applies them
    builds       the build database of an Android build tool, the library's first user
    schema       its migrations
    testing      for the tests of applications that bring migrations of their own
    tools        its command line, `abt-db`

To understand the engine, read `database`, then `pool`, then `lane`.
"""

import typing

from .lazy import lazily as _lazily

if typing.TYPE_CHECKING:
    from .bulk import BatchFailure, BatchReport
    from .config import Config
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
    from .grants import LOCKS_TABLE, LockInfo
    from .handles import Readable, Writable
    from .holders import Holding
    from .leases import LockLease
    from .locks import LocalLocks
    from .query import Query, Statement
    from .repository import Repository
    from .session import Result, Session
    from .table import Table
    from .transaction import Savepoint, Snapshot, Stream, Transaction
    from .values import Json
    from .watch import Watch
else:
    __getattr__, __dir__ = _lazily(
        __name__,
        "bulk",
        "config",
        "database",
        "errors",
        "grants",
        "handles",
        "holders",
        "leases",
        "locks",
        "query",
        "repository",
        "session",
        "table",
        "transaction",
        "values",
        "watch",
    )

__all__ = [
    "AbtDbError",
    "BatchFailure",
    "BatchReport",
    "BusyError",
    "CantOpenError",
    "CommitUnknownError",
    "Config",
    "ConfigError",
    "CorruptError",
    "Database",
    "DeniedError",
    "DiskIOError",
    "FullError",
    "Holding",
    "IntegrityError",
    "Json",
    "LOCKS_TABLE",
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
    "ParameterError",
    "PoolClosedError",
    "PoolSaturatedError",
    "PoolTimeoutError",
    "Query",
    "QueryDefinitionError",
    "QueryError",
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
    "Transaction",
    "TransactionAbortedError",
    "TransactionStateError",
    "TransactionTimeoutError",
    "Watch",
    "Writable",
]
