"""Which tables a statement reads and writes, as SQLite's authorizer reports them.

When SQLite prepares a statement it calls the authorizer for each table, including tables behind
views and in triggers and cascades (https://www.sqlite.org/c3ref/set_authorizer.html). It does not
call the authorizer when the statement runs from the statement cache. So the calls are recorded for
each SQL text.

`abt_db.watch.dependencies` handles what SQLite never reports to the authorizer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from string import ascii_lowercase, ascii_uppercase

MAX_TEXTS = 1_000

ANYTHING = "\0"
"""Stands for a text, or a table, of which nothing is known. (No statement can have this text.)"""

_WRITES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_READS = frozenset(
    {
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_FUNCTION,
    }
)
_SCHEMA = frozenset({"sqlite_master", "sqlite_temp_master"})
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)


def folded(name: str) -> str:
    """Return `name` with its ASCII letters in lower case, so that names that SQLite treats as the
    same are equal. SQLite ignores the case of ASCII letters only."""
    return name.translate(_FOLD)


class TablesUsed:
    """What SQLite reported to the authorizer about one SQL text."""

    __slots__ = ("functions", "pragmas", "reads", "writes")

    def __init__(self) -> None:
        self.reads: set[str] = set()
        """Tables, views and common table expressions. The names are `folded`, because SQLite
        reports a table of which no column is read (``SELECT count(*) FROM Projects``) in the
        statement's spelling."""
        self.writes: set[str] = set()
        """Tables, spelled as in the schema; `ANYTHING` if the statement may change the schema."""
        self.functions: set[str] = set()
        self.pragmas: set[str] = set()

    def note(self, action: int, first: str | None, second: str | None) -> None:
        """Record one call of the authorizer."""
        if action == sqlite3.SQLITE_READ and first is not None:
            self.reads.add(folded(first))
        elif action in _WRITES and first is not None:
            # A change of the schema is reported with an action of its own. A write to the schema
            # table without that action is a virtual table that declares itself to the connection.
            if first not in _SCHEMA:
                self.writes.add(first)
        elif action == sqlite3.SQLITE_FUNCTION and second is not None:
            self.functions.add(folded(second))
        elif action == sqlite3.SQLITE_PRAGMA and first is not None:
            self.pragmas.add(folded(first))
        elif action not in _READS:
            self.writes.add(ANYTHING)


class Tables:
    """The tables used by the statements of one connection, by SQL text.

    At most `MAX_TEXTS` texts are kept. One text can't be dropped alone: its statement may still be
    prepared, and when a prepared statement runs, SQLite reports at most what a virtual table does
    by itself, which would be mistaken for everything that the statement does. So when the limit
    is reached no new text is recorded, and `make_room` then drops all texts and calls `expire`,
    which makes SQLite prepare every statement anew at its next run.
    """

    __slots__ = ("_expire", "_full", "_known")

    def __init__(self, expire: Callable[[], object]) -> None:
        self._known: dict[str, TablesUsed] = {}
        self._full = False
        self._expire = expire

    def note(self, text: str, action: int, first: str | None, second: str | None) -> None:
        """Record what SQLite reports to the authorizer while it prepares `text`."""
        used = self._known.get(text)
        if used is None:
            if len(self._known) >= MAX_TEXTS:
                self._full = True
                return
            used = self._known[text] = TablesUsed()
        used.note(action, first, second)

    def make_room(self) -> None:
        """Make sure that the statement run next is recorded. Called between two statements."""
        if self._full:
            self._known.clear()
            self._full = False
            self._expire()

    def used_by(self, text: str) -> TablesUsed | None:
        """Return what a statement uses, or None if that is not known."""
        return self._known.get(text)

    def written_by(self, texts: Iterable[str]) -> frozenset[str] | None:
        """Return the tables that the statements write, spelled as in the schema; None: any table
        may have been written."""
        written: set[str] = set()
        for text in texts:
            used = self._known.get(text)
            if used is None or ANYTHING in used.writes:
                return None
            written |= used.writes
        return frozenset(written)
