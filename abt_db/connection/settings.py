"""How a database file is opened: the checks of its path, its URI, its settings.

Everything here concerns one file and one `Config`. `driver.py` opens the connection.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import urllib.parse
from pathlib import Path
from typing import Final, Literal

from abt_db.config import Config
from abt_db.errors import CantOpenError, CorruptError, QueryError

from .busy import SQLITE_BUSY_TIMEOUT
from .transaction import EngineSession

MEMORY: Final = ":memory:"

Role = Literal["writer", "reader", "follower"]
"""A *reader* belongs to a pool that has a writer. A *follower* opens a database read-only, which
other processes may write."""

SMALLEST_PAGE = 512  # bytes


_LIKE_MEMORY = re.compile(r"""[\s:'"]*memory[\s:'"]*""", re.IGNORECASE)
_MODES = {"ro": "read_only=True", "rw": "Config(create=False)"}


def in_memory(path: str) -> bool:
    """Whether a path means a database in memory with one connection: `MEMORY`, or a URI for it."""
    if path == MEMORY:
        return True
    if not path.startswith("file:"):
        return False
    name, options = _read_uri(path)
    mode = options.pop("mode", "memory" if name == MEMORY else None)
    return mode == "memory" and options.pop("cache", "private") == "private" and not options


def require_path(path: str | os.PathLike[str]) -> None:
    """Raise `CantOpenError` if `path` is not meant as the path of a file; the error says what to
    write instead.

    SQLite takes a name that begins with "file:" for a URI (https://www.sqlite.org/uri.html), and an
    empty name for a temporary database. The library passes only paths to SQLite, so without this
    check a file of that name would silently be created.
    """
    path = os.fspath(path)
    instead = None
    if path == MEMORY:
        instead = "it is a database in memory, and no file"
    elif not path:
        instead = f"it is not a path; a database in memory is written {MEMORY!r}"
    elif ":" in path and _LIKE_MEMORY.fullmatch(path):
        instead = f"a database in memory is written {MEMORY!r}"
    elif path[:5].lower() == "file:":
        name, options = _read_uri(path)
        if name == MEMORY or options.get("mode") == "memory":
            instead = (
                "a database in memory is that of one Database, which all tasks can use: write"
                f" {MEMORY!r}"
            )
        else:
            instead = f"it is a URI: write the path, {name!r}"
            if "immutable" in options:
                instead += ", with read_only=True and Config(immutable=True)"
            elif options.get("mode") in _MODES:
                instead += f", with {_MODES[options['mode']]}"
    if instead is not None:
        raise CantOpenError(
            f"opening {path!r}: {instead}"
            + ("; a file of that name is opened by its absolute path" if path else ""),
            code=sqlite3.SQLITE_CANTOPEN,
            name="SQLITE_CANTOPEN",
        )


def _read_uri(path: str) -> tuple[str, dict[str, str]]:
    """Return the file's name and the options of a URI, parsed as SQLite does."""
    name, _, query = path[len("file:") :].partition("#")[0].partition("?")
    if name.startswith("//"):
        authority, slash, rest = name[2:].partition("/")
        name = slash + rest if authority in ("", "localhost") else name
    return urllib.parse.unquote(name), dict(urllib.parse.parse_qsl(query, True))


def uri(path: str, config: Config, role: Role) -> str:
    """Return the URI with which SQLite opens a file for `role`."""
    mode = "ro" if role != "writer" else "rwc" if config.create else "rw"
    file = Path(path).absolute()
    if role == "follower" and (config.immutable or _nobody_can_write(file)):
        mode += "&immutable=1"
    # The authority is empty. Without it, SQLite would read one from a path that begins with two
    # slashes.
    return f"file://{urllib.parse.quote(os.fsencode(file))}?mode={mode}"


def _nobody_can_write(file: Path) -> bool:
    """Whether no process can create a log beside a file. SQLite can then read a WAL database only
    as an immutable one (https://www.sqlite.org/wal.html#readonly)."""
    file = file.resolve()
    if _beside(file, "-wal").exists() or _size(_beside(file, "-journal")):
        return False
    folder = file.parent
    closed = not (folder.stat().st_mode & 0o222 or os.access(folder, os.W_OK))
    return closed or _is_read_only(folder)


def _is_read_only(folder: Path) -> bool:
    """Whether a file system can't be written at all, not even through another mount."""
    if not hasattr(os, "statvfs") or not os.statvfs(folder).f_flag & os.ST_RDONLY:
        return False
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return True
    # The third word of each line is the mount's device, the last the file system's options; see
    # proc_pid_mountinfo(5).
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    options = [words[-1] for words in map(str.split, mounts) if words[2] == number]
    return bool(options) and all("ro" in each.split(",") for each in options)


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def check_path(path: str, config: Config, role: Role) -> None:
    """Raise `CantOpenError` or `CorruptError` if a path can't be opened, with the reason; SQLite
    would only say "unable to open database file"."""
    if path == MEMORY:
        return
    try:
        problem = (
            _problem(
                Path(path),
                must_exist=role == "follower" or not config.create,
                role=role,
                immutable=config.immutable,
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


def _problem(file: Path, *, must_exist: bool, role: Role, immutable: bool) -> str | None:
    if file.is_dir():
        return "it is a directory, not a database file"
    if not file.parent.is_dir():
        return f"there is no directory {file.parent}"
    if not file.exists():
        return "it does not exist" if must_exist else None
    # The file is not read: to open and close it here would drop the locks that SQLite holds on it
    # for another connection of this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    size = file.stat().st_size
    # SQLite takes an empty file for an empty database, and overwrites a file that is shorter than a
    # page. A file of another kind, or a database that was cut off, would be lost unnoticed.
    if 0 < size < SMALLEST_PAGE or (must_exist and size == 0):
        raise CorruptError(
            f"opening {file}: file is not a database" + (", it is empty" if size == 0 else ""),
            code=sqlite3.SQLITE_NOTADB,
            name="SQLITE_NOTADB",
        )
    if role == "writer" and not os.access(file, os.W_OK):
        # SQLite would open the file and fail at the first write.
        return "the file is read-only; Database(…, read_only=True) opens it"
    if role == "follower" and immutable:
        for ending in ("-wal", "-journal"):
            if _size(_beside(file.resolve(), ending)):
                # SQLite would ignore this file: reads would miss its commits, or see half of one.
                return f"it has a {ending} file, so it is no archive: open it without immutable"
    return None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def pragmas(path: str, config: Config, role: Role) -> list[str]:
    """Return the PRAGMA statements that configure a connection. Their values are numbers, or words
    that `Config` has checked."""
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
        # mode=ro prevents writes to the file, query_only also those to TEMP tables (invariant 3).
        settings["query_only"] = 1
    if role == "follower" and is_followed(path):
        # Litestream writes pages without SQLite's knowledge, so SQLite would go on reading its
        # cached pages. It does see changes of pages that are mapped into memory.
        settings["cache_size"] = 0
    return [f"PRAGMA {name} = {value}" for name, value in settings.items()]


def set_page_size(session: EngineSession, config: Config) -> None:
    """Set the page size of a database that is still empty.

    A database that is not empty is left alone: the next VACUUM without a write-ahead log would
    change its page size, even a VACUUM that was not meant to
    (https://www.sqlite.org/pragma.html#pragma_page_size).
    """
    if config.page_size is not None and session.control("PRAGMA page_count") == [(0,)]:
        session.control(f"PRAGMA page_size = {config.page_size}")


def set_journal(session: EngineSession, config: Config, path: str) -> None:
    """Set the journal mode and create the files that readers need (invariant 4)."""
    [(mode,)] = session.control(f"PRAGMA journal_mode = {config.journal_mode}")
    if mode != config.journal_mode:
        raise CantOpenError(
            f"journal_mode {config.journal_mode} can't be set for {path}, which stays in {mode}:"
            " does its file system support shared memory, and is it writable?"
        )
    # The first read creates the -wal and -shm files of a WAL database.
    session.control("SELECT count(*) FROM sqlite_schema")


def is_followed(path: str) -> bool:
    """Whether Litestream keeps this file up to date: `litestream restore -f` has a file beside it
    that records its progress."""
    return path != MEMORY and Path(f"{os.path.realpath(path)}-txid").exists()


def require_let_go(session: EngineSession, path: str) -> None:
    """Raise `CantOpenError` if Litestream could no longer write the file once it is open here.

    Litestream waits until no process has a lock on the file. A connection to a WAL database has a
    lock until it is closed, a connection to any other database only while it reads.
    """
    if is_followed(path) and session.control("PRAGMA journal_mode") == [("wal",)]:
        raise CantOpenError(
            f"opening {path}: Litestream writes this file, and would wait for ever while it is open"
            f' as a WAL database; run this once: sqlite3 {shlex.quote(path)} "PRAGMA journal_mode ='
            ' DELETE"'
        )


def unreadable(path: str, error: QueryError) -> QueryError:
    """Return the error for a follower that could not open a file: `error`, or if the cause is
    known, a `CantOpenError` that says what to do."""
    if error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK":
        return CantOpenError(
            f"opening {path}: a transaction was interrupted there, of which {path}-journal is left;"
            " open the database once without read_only, which rolls the transaction back; deleting"
            " the journal would damage the database",
            code=error.sqlite_errorcode,
            name=error.sqlite_errorname,
        )
    folder = Path(path).resolve().parent
    if os.access(folder, os.W_OK) or _beside(Path(path).resolve(), "-wal").exists():
        return error
    return CantOpenError(
        f"{error}: it is a WAL database, and the files that it needs beside it can't be made in"
        f" {folder}; if no process writes it while it is open here, Config(immutable=True) reads it"
        " without them",
        code=error.sqlite_errorcode,
        name=error.sqlite_errorname,
    )
