"""Which tables a statement reads and writes, as SQLite says.

Its authorizer is asked about each table when a statement is prepared, those behind views and in
triggers and cascades included (https://www.sqlite.org/c3ref/set_authorizer.html), and not when the
statement runs from the cache. So what it was asked is remembered for each SQL text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

__all__ = ["ANYTHING", "Tables"]

MAX_TEXTS = 1_000

ANYTHING = "\0"
"""In place of a text: one of which nothing is known. (No statement can have it.)"""

_WRITES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_SCHEMA = frozenset({"sqlite_master", "sqlite_temp_master"})


class Tables:
    """What is known of the statements of one connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, tuple[set[str], set[str]]] = {}

    def note(self, text: str, action: int, table: str | None) -> None:
        """Take into account what the authorizer is asked while `text` is prepared."""
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= MAX_TEXTS:
                del self._known[next(iter(self._known))]
            known = self._known[text] = set(), set()
        if table is not None and (action == sqlite3.SQLITE_READ or action in _WRITES):
            known[action in _WRITES].add(table)

    def read_by(self, text: str) -> frozenset[str] | None:
        """Return the tables that a statement reads; None: it is not known any more."""
        known = self._known.get(text)
        return None if known is None else frozenset(known[0])

    def written_by(self, texts: Iterable[str]) -> frozenset[str] | None:
        """Return the tables that statements write; None: it may be any."""
        written: set[str] = set()
        for text in texts:
            known = self._known.get(text)
            if known is None or known[1] & _SCHEMA:
                return None
            written |= known[1]
        return frozenset(written)
