"""What a caller's SQL may not do: settings, transaction control, other files, extensions; and what
a read may not query.

SQLite calls the authorizer when it prepares a statement
(https://www.sqlite.org/c3ref/set_authorizer.html).
"""

from __future__ import annotations

import sqlite3

from abt_db.sql.scan import TELLING_PRAGMAS

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

# Even without an argument these act on the whole connection or file.
_ACTING_PRAGMAS = frozenset({"incremental_vacuum", "optimize", "shrink_memory", "wal_checkpoint"})

# `application_id` and `user_version` change the file's header in the transaction, like any other
# write. Every PRAGMA that is not in this list is a setting, which belongs in `Config`.
_PERMITTED_PRAGMAS = TELLING_PRAGMAS | {"application_id", "user_version"}


def denial(action: int, first: str | None, second: str | None) -> str | None:
    """Return why a caller's SQL may not do this, or None if it may."""
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


# -- what only the writing connection can answer --------------------------------------------------

_MAX_KEPT = 1_000

_IN_A_WRITE = "run it in db.transaction() or in a function of db.write()"
_FUNCTIONS = {
    "last_insert_rowid": f"use Result.lastrowid or RETURNING, or {_IN_A_WRITE}",
    "changes": f"use Result.rowcount, or {_IN_A_WRITE}",
    "total_changes": f"use Result.rowcount, or {_IN_A_WRITE}",
}
_PRAGMAS = {
    "data_version": "use db.watch(), which notices every commit",
    "defer_foreign_keys": _IN_A_WRITE,
}
_TABLES = {
    **dict.fromkeys(("sqlite_stmt", "sqlite_temp_master", "sqlite_temp_schema"), _IN_A_WRITE),
    **{f"pragma_{name}": instead for name, instead in _PRAGMAS.items()},
}
_MAKES_TEMPORARY = frozenset({sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_VIEW})
_DROPS_TEMPORARY = frozenset({sqlite3.SQLITE_DROP_TEMP_TABLE, sqlite3.SQLITE_DROP_TEMP_VIEW})


class WriterOnly:
    """What a read may not query, because the answer depends on the connection: its last write, its
    settings, its temporary tables.

    A reader has written nothing, so it would return a wrong answer and no error. A database in
    memory has one connection for reads and writes; there a read is refused the same things. SQLite
    does not call the authorizer for a statement from its cache, so the texts that a write has
    prepared are remembered.
    """

    __slots__ = ("_temporary", "reasons")

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """For each such text that a write has prepared: why a read may not run it."""
        self._temporary: set[str] = set()

    def why(
        self, text: str, action: int, first: str | None, second: str | None, database: str | None
    ) -> str | None:
        """Return why a read may not do what SQLite reports to the authorizer while it prepares or
        runs `text`, or None if it may."""
        name = (first or "").lower()
        if action == sqlite3.SQLITE_FUNCTION:
            if second in _FUNCTIONS:
                return f"{second}() depends on the connection that wrote; {_FUNCTIONS[second]}"
        elif action == sqlite3.SQLITE_PRAGMA:
            # FTS5 itself runs PRAGMA data_version during a search, which is not the caller's.
            if name in _PRAGMAS and text[:6].upper() == "PRAGMA":
                return f"PRAGMA {name} answers for one connection only; {_PRAGMAS[name]}"
        elif action == sqlite3.SQLITE_READ and name in _TABLES:
            return f"{name} differs between connections; {_TABLES[name]}"
        # If no column of a table is read, as in count(*), SQLite does not report its database.
        if database == "temp" or (
            database is None and action == sqlite3.SQLITE_READ and name in self._temporary
        ):
            return f"temporary tables and views exist only where they were made; {_IN_A_WRITE}"
        return None

    def note(self, text: str, reason: str) -> None:
        """Remember why a read may not run a text that a write has SQLite prepare."""
        if len(self.reasons) < _MAX_KEPT:
            self.reasons[text] = reason

    def note_temporary(self, action: int, name: str | None) -> None:
        """Keep track of the names of temporary tables and views, as a write creates and drops
        them."""
        if action in _MAKES_TEMPORARY and len(self._temporary) < _MAX_KEPT:
            self._temporary.add((name or "").lower())
        elif action in _DROPS_TEMPORARY:
            self._temporary.discard((name or "").lower())

    def forget_if_full(self) -> bool:
        """If no further text can be remembered, forget all texts and return True. The caller must
        then make SQLite prepare every statement anew."""
        full = len(self.reasons) >= _MAX_KEPT
        if full:
            self.reasons.clear()
        return full
