"""One connection, without a queue: its thread, the work done there, and how a call gets there.

deadline       time limits, and stopping the statement that runs
stats          counters of connections and lanes
access         the tables that a statement reads and writes, as SQLite's authorizer reports them
file_identity  which file a path leads to
file_locks     the locks on a file, as Linux lists them
lock_owners    which task holds a connection, and which process holds a file's write lock
checkpoint     moving the write-ahead log into the database: how, and when it is due
busy           waiting for another process's lock
authorizer     what a caller's SQL may not do, and what only a write may query
session        the verbs, synchronous, on a connection's own thread
transaction    what only the library does there: BEGIN, COMMIT, ROLLBACK, settings, checkpoints
settings       how a file is opened: path, URI, pragmas
driver         `Connection`: an aiosqlite connection that runs a whole call in one thread hop
"""
