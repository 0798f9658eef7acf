"""Live queries: rows that are returned again when a commit has changed them.

dependencies   which tables a query depends on, and which queries can't be watched
live           `Watch`, and `Watching`, which runs the statements of all watches
"""
