"""Named locks: among the tasks of one event loop, and among processes.

local    `LocalLocks`: locks and semaphores of one event loop
table    the steps by which a lock among processes changes hands
lease    `LockLease`: such a lock while it is held, renewed and with a fencing token
"""
