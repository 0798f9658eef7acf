"""Which files a database was opened as: their paths may come to mean other files, or none.

SQLite goes on with the files that it has open. Where the database was deleted, or another file put
in its place, it would go on acknowledging writes that nobody will ever read. The same holds for the
write-ahead log and its index: they are part of the database, and another process that finds them
missing makes new ones (https://www.sqlite.org/howtocorrupt.html, 2.4 and 1.4).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress

from abt_db.errors import CorruptError


class FileIdentity:
    """The files behind a path, as they were when the connections of one pool opened them.

    Noted in the event loop, looked at on the writer's thread. A look is three system calls, some
    microseconds in all, and a group of commits needs one.
    """

    __slots__ = ("_beside", "_connections", "_file", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: os.stat_result | None = None
        # The log and its index, by path. SQLite keeps them for as long as one connection is open.
        self._beside: dict[str, os.stat_result] = {}
        self._connections: set[object] = set()

    def opened(self, connection: object) -> None:
        """Note the files that a connection has just opened, where they are not known yet."""
        self._connections.add(connection)
        self._file = self._file or _stat(self._path)
        file = os.path.realpath(self._path)  # beside a link there is no log
        for path in (f"{file}-wal", f"{file}-shm"):
            if path not in self._beside:
                with suppress(OSError):  # in another journal mode there is none
                    self._beside[path] = _stat(path)

    def closing(self, connection: object) -> None:
        """Note, before it is, that a connection is closed: with the last one SQLite deletes the
        log. From any thread; does nothing for a connection that was not opened."""
        self._connections.discard(connection)
        if not self._connections:
            self._beside.clear()

    def require(self) -> None:
        """Raise `CorruptError` if one of the paths leads to another file by now, or to none."""
        if self._file is None:
            return
        if not _leads_to(self._path, self._file):
            raise CorruptError(
                f"{self._path} was deleted or replaced while it was open here, so nothing more can"
                " be written; close the Database, and see to the file before it is opened again",
                code=sqlite3.SQLITE_READONLY_DBMOVED,
                name="SQLITE_READONLY_DBMOVED",
            )
        for path, known in self._beside.items():
            if not _leads_to(path, known):
                raise CorruptError(
                    f"{path} was deleted or replaced while the database was open here: what was"
                    " committed since the last checkpoint is in no file that can be opened, and"
                    " nothing more can be written; close the Database, and check the file"
                    " (abt-db integrity) before it is opened again",
                    code=sqlite3.SQLITE_READONLY_DBMOVED,
                    name="SQLITE_READONLY_DBMOVED",
                )


_stat = os.stat  # a third of the time of `Path.stat`, and a commit needs three


def _leads_to(path: str, known: os.stat_result) -> bool:
    """Whether a path leads to the known file. Where that can't be told it is taken to: a process
    that gave up its privileges may still write the files that it has open."""
    try:
        found = _stat(path)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return found.st_ino == known.st_ino and found.st_dev == known.st_dev
