"""Which tables a statement reads and writes, as SQLite says.

Its authorizer is asked about each table when a statement is prepared, those behind views and in
triggers and cascades included (https://www.sqlite.org/c3ref/set_authorizer.html), and not when the
statement runs from the cache. So what it was asked is remembered for each SQL text.

What it is never asked about, `watchable` knows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from string import ascii_lowercase, ascii_uppercase

MAX_TEXTS = 1_000

ANYTHING = "\0"
"""In place of a text: one of which nothing is known. (No statement can have it.)"""

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
    """Return a name so that those are equal which are the same to SQLite: it ignores the case of
    ASCII letters, and of no others."""
    return name.translate(_FOLD)


class TablesUsed:
    """What the authorizer was asked about one text."""

    __slots__ = ("functions", "pragmas", "reads", "writes")

    def __init__(self) -> None:
        self.reads: set[str] = set()
        """Tables, views and common table expressions, `folded`: where no column of a table is read,
        as in ``SELECT count(*) FROM Projects``, SQLite gives its name as the statement has it."""
        self.writes: set[str] = set()
        """Tables, as the schema has them; `ANYTHING` where the schema may change as well."""
        self.functions: set[str] = set()
        self.pragmas: set[str] = set()

    def note(self, action: int, first: str | None, second: str | None) -> None:
        """Take into stats one question."""
        if action == sqlite3.SQLITE_READ and first is not None:
            self.reads.add(folded(first))
        elif action in _WRITES and first is not None:
            # A change of the schema has a code of its own, and this one without it comes from a
            # virtual table that introduces itself to the connection.
            if first not in _SCHEMA:
                self.writes.add(first)
        elif action == sqlite3.SQLITE_FUNCTION and second is not None:
            self.functions.add(folded(second))
        elif action == sqlite3.SQLITE_PRAGMA and first is not None:
            self.pragmas.add(folded(first))
        elif action not in _READS:
            self.writes.add(ANYTHING)


class Tables:
    """What is known of the statements of one connection.

    `expire` has SQLite prepare each of them anew at its next run. The memory is bounded, and what
    was forgotten can't be learnt from a statement that is prepared: of that one, SQLite asks at
    most about what a virtual table does by itself, and this would pass for all that it does. So
    when the memory is full nothing more is noted, and all of it is forgotten at once, by both.
    """

    __slots__ = ("_expire", "_full", "_known")

    def __init__(self, expire: Callable[[], object]) -> None:
        self._known: dict[str, TablesUsed] = {}
        self._full = False
        self._expire = expire

    def note(self, text: str, action: int, first: str | None, second: str | None) -> None:
        """Take into stats what the authorizer is asked while `text` is prepared."""
        used = self._known.get(text)
        if used is None:
            if len(self._known) >= MAX_TEXTS:
                self._full = True
                return
            used = self._known[text] = TablesUsed()
        used.note(action, first, second)

    def make_room(self) -> None:
        """Between two statements: see to it that what is run next will be known."""
        if self._full:
            self._known.clear()
            self._full = False
            self._expire()

    def used_by(self, text: str) -> TablesUsed | None:
        """Return what a statement uses; None: it is not known."""
        return self._known.get(text)

    def written_by(self, texts: Iterable[str]) -> frozenset[str] | None:
        """Return the tables that statements write, as the schema has them; None: it may be any."""
        written: set[str] = set()
        for text in texts:
            used = self._known.get(text)
            if used is None or ANYTHING in used.writes:
                return None
            written |= used.writes
        return frozenset(written)
