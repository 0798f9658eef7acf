"""Live queries: rows that are sent again when what they depend on has changed.

dependencies   which tables a query depends on, and which queries can't be watched
live           `Watch`, and what runs them all
"""
