"""Which file it is that a database was opened as: its path may come to mean another one, or none.

SQLite goes on with the file that it has open. Where that was deleted, or another was put in its
place, it would go on acknowledging writes that nobody will ever read
(https://www.sqlite.org/howtocorrupt.html, 2.4), and a new connection would make an empty database,
or serve another one beside it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from .errors import CorruptError

__all__ = ["Identity"]


class Identity:
    """The file behind a path, as it was when the first connection had opened it."""

    __slots__ = ("_known", "_path")

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._known: os.stat_result | None = None

    def note(self) -> None:
        """Remember it, if this is the first time."""
        self._known = self._known or self._path.stat()

    def require(self) -> None:
        """Raise `CorruptError` if the path leads to another file by now, or to none."""
        if self._known is None:
            return
        try:
            if os.path.samestat(self._path.stat(), self._known):
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return  # the directory may not be looked into any more: it can't be told
        raise CorruptError(
            f"{self._path} was deleted or replaced while it was open here, so nothing more can be"
            " written; close the Database, and see to the file before it is opened again",
            code=sqlite3.SQLITE_READONLY_DBMOVED,
            name="SQLITE_READONLY_DBMOVED",
        )
