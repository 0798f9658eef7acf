"""One connection, without a queue: what is done on its thread, and the way there.

deadline       time limits, and stopping the statement that runs
stats          what a connection and a lane have counted
access         which tables a statement reads and writes, as SQLite's authorizer says
file_identity  which file a path leads to
file_locks     the locks on a file, as Linux lists them
lock_owners    which task holds a connection, which process a file's lock
checkpoint     moving the write-ahead log into the database: how, and when it is due
busy           waiting for another process's lock
authorizer     what a caller's SQL may not do, and what only a write may ask
session        the verbs, synchronous, on a connection's own thread
transaction    what only the library does there: BEGIN, COMMIT, ROLLBACK, settings, checkpoints
settings       what a file is opened with: path, URI, pragmas
driver         `Connection`: an aiosqlite connection that runs a whole call in one thread hop
"""
