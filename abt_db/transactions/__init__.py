"""Work that takes more than one call: interactive transactions, retries and bulk operations.

handles   `Transaction`, `Savepoint`, `Snapshot`, `Stream`
retry     a transaction that is tried again after a `BusyError`
bulk      many operations, in transactions of a limited size
"""
