"""Notice that a database's file, log or index was deleted or replaced while it is open.

SQLite goes on with the files that it has open. If the database was deleted, or another file was put
in its place, SQLite would go on acknowledging writes that no later process can read. The same holds
for the write-ahead log and its index. They are part of the database, and another process that does
not find them creates new ones (https://www.sqlite.org/howtocorrupt.html, 2.4 and 1.4).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress

from abt_db.errors import CorruptError


class FileIdentity:
    """The files behind a path, as they were when the connections of one pool opened them.

    Recorded in the event loop, checked on the writer's thread. A check is three system calls, some
    microseconds in all, and is made once for each COMMIT, which several writes may share.
    """

    __slots__ = ("_beside", "_connections", "_file", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: os.stat_result | None = None
        # The log and its index, by path. SQLite keeps both while any connection is open.
        self._beside: dict[str, os.stat_result] = {}
        self._connections: set[object] = set()

    def opened(self, connection: object) -> None:
        """Record the files that a connection has just opened, if they are not known yet."""
        self._connections.add(connection)
        self._file = self._file or _stat(self._path)
        file = os.path.realpath(self._path)  # the log is beside the file, not the link
        for path in (f"{file}-wal", f"{file}-shm"):
            if path not in self._beside:
                with suppress(OSError):  # other journal modes have no log
                    self._beside[path] = _stat(path)

    def closing(self, connection: object) -> None:
        """Note that a connection is about to be closed. Closing the last one deletes the log. May
        be called from any thread; does nothing for a connection that was not opened."""
        self._connections.discard(connection)
        if not self._connections:
            self._beside.clear()

    def require(self) -> None:
        """Raise `CorruptError` if one of the paths now leads to another file, or to none."""
        if self._file is None:
            return
        if not _leads_to(self._path, self._file):
            raise CorruptError(
                f"{self._path} was deleted or replaced while it was open here, so nothing more can"
                " be written; close the Database, and check the file before it is opened again",
                code=sqlite3.SQLITE_READONLY_DBMOVED,
                name="SQLITE_READONLY_DBMOVED",
            )
        for path, known in self._beside.items():
            if not _leads_to(path, known):
                raise CorruptError(
                    f"{path} was deleted or replaced while the database was open here: commits"
                    " since the last checkpoint are in no file that can be opened, and"
                    " nothing more can be written; close the Database, and check the file"
                    " (abt-db integrity) before it is opened again",
                    code=sqlite3.SQLITE_READONLY_DBMOVED,
                    name="SQLITE_READONLY_DBMOVED",
                )


_stat = os.stat  # a third of the time of `Path.stat`, and a commit needs three


def _leads_to(path: str, known: os.stat_result) -> bool:
    """Whether a path leads to the known file. If that can't be found out, assume that it does: a
    process that gave up its privileges may still write the files that it has open."""
    try:
        found = _stat(path)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return found.st_ino == known.st_ino and found.st_dev == known.st_dev
