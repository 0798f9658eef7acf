"""What a caller's SQL may not do: settings, transaction control, other files, extensions.

SQLite asks about each statement when it prepares it
(https://www.sqlite.org/c3ref/set_authorizer.html).
"""

from __future__ import annotations

import sqlite3

from .outline import TELLING_PRAGMAS

__all__ = ["GUARDED", "denial"]

GUARDED = frozenset(
    {
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_PRAGMA,
        sqlite3.SQLITE_FUNCTION,
    }
)

# Even without an argument these do something, and to the connection or the file as a whole.
_ACTING_PRAGMAS = frozenset({"incremental_vacuum", "optimize", "shrink_memory", "wal_checkpoint"})

# The last two change the file's header inside the transaction, as any other write does. What is not
# in this list is a setting, and `Config` has those.
_PERMITTED_PRAGMAS = TELLING_PRAGMAS | {"application_id", "user_version"}


def denial(action: int, first: str | None, second: str | None) -> str | None:
    """Say why a caller's SQL may not do this, or None when it may."""
    if action == sqlite3.SQLITE_FUNCTION:
        return "load_extension() is refused" if second == "load_extension" else None
    if action == sqlite3.SQLITE_PRAGMA:
        pragma = (first or "").lower()
        if pragma in _ACTING_PRAGMAS:
            return f"PRAGMA {pragma} is refused here: it is not a query"
        if second is None or pragma in _PERMITTED_PRAGMAS:
            return None
        return f"PRAGMA {pragma} is refused here: settings of a connection belong in Config"
    if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
        return "ATTACH and DETACH are refused: a Database is one file"
    return "transaction control is refused: use db.transaction() and tx.savepoint()"
