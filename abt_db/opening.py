"""What a database file is opened with: the checks of its path, its URI, its settings.

Everything here is about one file and one `Config`; who opens it is in `connection.py`.
"""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from pathlib import Path
from typing import Final, Literal

from .busy import SQLITE_BUSY_TIMEOUT
from .channel import Channel
from .config import Config
from .errors import CantOpenError, CorruptError

__all__ = ["MEMORY", "Role", "check_path", "pragmas", "set_journal", "uri"]

MEMORY: Final = ":memory:"

Role = Literal["writer", "reader", "follower"]
"""A *reader* stands beside a writer of this process; a *follower* opens a database read-only that
others write, or nobody does."""

SMALLEST_PAGE = 512  # bytes


def uri(path: str, config: Config, role: Role) -> str:
    """Return the name by which SQLite opens a file as `role` needs it."""
    mode = "ro" if role != "writer" else "rwc" if config.create else "rw"
    file = Path(path).absolute()
    log = file.with_name(file.name + "-wal")
    if role == "follower" and not log.exists() and not os.access(file.parent, os.W_OK):
        # Where its log can't be made, a WAL database can only be read as one that nobody writes.
        mode += "&immutable=1"
    # With an empty authority, or a path that begins with two slashes would be taken for one.
    return f"file://{urllib.parse.quote(os.fsencode(file))}?mode={mode}"


def check_path(path: str, config: Config, role: Role) -> None:
    """Say what is wrong with a path; SQLite would only say "unable to open database file"."""
    if path == MEMORY:
        return
    try:
        problem = (
            _problem(
                Path(path),
                must_exist=role == "follower" or not config.create,
                writes=role == "writer",
            )
            if path and "\0" not in path
            else "it is not a path"
        )
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem is not None:
        raise CantOpenError(
            f"opening {path!r}: {problem}", code=sqlite3.SQLITE_CANTOPEN, name="SQLITE_CANTOPEN"
        )


def _problem(file: Path, *, must_exist: bool, writes: bool) -> str | None:
    if file.is_dir():
        return "it is a directory, not a database file"
    if not file.parent.is_dir():
        return f"there is no directory {file.parent}"
    if not file.exists():
        return "it does not exist" if must_exist else None
    # Asked, and not read: to open and close the file here would drop the locks that SQLite holds on
    # it for another connection of this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    size = file.stat().st_size
    # SQLite takes an empty file for an empty database, and writes over one that is shorter than a
    # page: what was something else, or a database once, would be gone unnoticed.
    if 0 < size < SMALLEST_PAGE or (must_exist and size == 0):
        raise CorruptError(
            f"opening {file}: file is not a database" + (", it is empty" if size == 0 else ""),
            code=sqlite3.SQLITE_NOTADB,
            name="SQLITE_NOTADB",
        )
    if writes and not os.access(file, os.W_OK):
        # SQLite would open it, and refuse the first write.
        return "the file is read-only; Database(…, read_only=True) opens it"
    return None


def pragmas(config: Config, role: Role) -> list[str]:
    """The settings of a connection. All values are numbers or words that `Config` has checked."""
    settings: dict[str, int | str] = {
        "busy_timeout": int(SQLITE_BUSY_TIMEOUT * 1000),
        "synchronous": config.synchronous,
        "cache_size": -(config.cache_size // 1024),
        "mmap_size": config.mmap_size,
        "temp_store": config.temp_store,
        "foreign_keys": int(config.foreign_keys),
        "wal_autocheckpoint": config.wal_autocheckpoint,
        "trusted_schema": int(config.trusted_schema),
        "cell_size_check": int(config.cell_size_check),
    }
    if role != "writer":
        # mode=ro keeps them from the file, this from TEMP tables as well (invariant 3).
        settings["query_only"] = 1
    return [f"PRAGMA {name} = {value}" for name, value in settings.items()]


def set_journal(channel: Channel, config: Config, path: str) -> None:
    """Set the journal mode and leave the files that readers need (invariant 4)."""
    [(mode,)] = channel.control(f"PRAGMA journal_mode = {config.journal_mode}")
    if mode != config.journal_mode:
        raise CantOpenError(
            f"journal_mode {config.journal_mode} can't be had for {path}, only {mode}:"
            " does its file system support shared memory, and is it writable?"
        )
    # A read makes the -wal and -shm files of a WAL database.
    channel.control("SELECT count(*) FROM sqlite_schema")
