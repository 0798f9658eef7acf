"""Copying a database through SQLite's backup API, while it is in use.

This opens plain `sqlite3` connections in a thread of its own, and none of the pool's: the source is
opened read-only, and the copy is another database, which nobody else knows yet.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from abt_db.errors import MigrationError, translate
from abt_db.opening import MEMORY

__all__ = ["copy_database"]

PAGES = 1_000
"""Copied between two looks at whether to go on."""


class _StopError(Exception):
    """The caller has gone."""


async def copy_database(
    source: str, target: str | os.PathLike[str], tell: Callable[[int, int], None]
) -> int:
    """Copy the database at `source` to the new file `target`, as it is at one moment; return its
    size in bytes.

    `tell` gets the pages that are copied and their total, in the thread that copies. Others may
    read and write meanwhile. Raises `MigrationError` if `target` exists or the source is in memory,
    and a `QueryError` where SQLite fails. A copy that fails or is cancelled leaves no file behind.
    """
    file = Path(target)
    if source == MEMORY:
        raise MigrationError("a database in memory can't be copied to a file; give it one")
    if file.exists():
        raise MigrationError(f"{file} exists already; a copy is never written over anything")
    stop = threading.Event()
    # One thread, ended here: a cancelled caller waits for the pages that are being copied.
    with ThreadPoolExecutor(1, thread_name_prefix="abt_db copy") as thread:
        try:
            return await asyncio.get_running_loop().run_in_executor(
                thread, _copy, source, file, tell, stop
            )
        except asyncio.CancelledError:
            stop.set()
            thread.shutdown()
            file.unlink(missing_ok=True)  # it may have been finished at this very moment
            raise


def _copy(source: str, file: Path, tell: Callable[[int, int], None], stop: threading.Event) -> int:
    part = file.with_name(f"{file.name}.part")

    def progress(_status: int, remaining: int, total: int) -> None:
        tell(total - remaining, total)
        if stop.is_set():
            raise _StopError

    try:
        with (
            closing(
                sqlite3.connect(f"{Path(source).absolute().as_uri()}?mode=ro", uri=True)
            ) as old,
            closing(sqlite3.connect(part, isolation_level=None)) as new,
        ):
            # One view: otherwise each write of others makes the backup begin again.
            old.execute("BEGIN")
            old.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
            old.backup(new, pages=PAGES, progress=progress, sleep=0.01)
        size = part.stat().st_size
        part.rename(file)
        return size
    except sqlite3.Error as error:
        raise translate(error, doing=f"copying {source} to {file}") from error
    finally:
        part.unlink(missing_ok=True)
