"""Named locks: among the tasks of one event loop, and among processes.

local    `LocalLocks`: locks and semaphores of one event loop
table    the table of locks among processes, and the steps that grant, renew and release a lock
lease    `LockLease`: a lock among processes while it is held, renewed and with a fencing token
"""
