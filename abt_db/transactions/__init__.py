"""What callers hold, or hand over, when one call is not enough.

handles   `Transaction`, `Savepoint`, `Snapshot`, `Stream`
retry     a transaction that is tried again
bulk      many operations, in transactions of some
"""
