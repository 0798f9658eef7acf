"""Putting a backup into the place of a database: all of it, or nothing has changed."""

from __future__ import annotations

import gzip
import lzma
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from abt_db.copying import (
    BESIDE,
    Look,
    Tell,
    check_file,
    check_room,
    copy_pages,
    explained,
    in_thread,
    part_of,
    put_in_place,
)
from abt_db.errors import CorruptError, MaintenanceError
from abt_db.opening import require_path

from .backup import PACKED, blocks_of, opened_packed

__all__ = ["Restored", "restore"]


@dataclass(frozen=True, slots=True)
class Restored:
    """A database that has come out of a backup."""

    path: Path
    size: int
    """In bytes."""
    seconds: float


async def restore(
    backup: str | os.PathLike[str],
    database: str | os.PathLike[str],
    *,
    tell: Tell = lambda done, total: None,
) -> Restored:
    """Put what is in the file `backup`, of `backup` or any other SQLite database, into the place of
    the file `database`, which need not exist. Where that is a link, what it leads to is replaced.
    The new file is open to those to whom the old one was, or else `backup`, and belongs to whom
    that belonged as far as this user may give it away.

    It is copied or unpacked beside `database` and checked (``quick_check``) first. Then, while
    nobody else can open it, the old file is replaced in one moment: whenever this is stopped,
    either the old or the new database is there, whole. Raises `MaintenanceError`, with nothing
    changed, while somebody has the database open; `CorruptError` for a backup that is damaged.
    (Without a write-ahead log, a program that has it open and does nothing with it is seen on Linux
    only.) A database that is damaged itself can be replaced.
    """
    require_path(database)
    source, file = Path(backup).absolute(), Path(os.path.realpath(database))
    doing = f"restoring {file} from {source}"
    with explained(doing):
        if not source.is_file():
            raise MaintenanceError(f"{source} is not a file; there is nothing to restore")
        if file.exists() and (not file.is_file() or file.samefile(source)):
            raise MaintenanceError(
                f"{file} is not a database that {source} could be put in place of"
            )
    began = monotonic()

    def work(look: Look) -> Restored:
        with (
            explained(doing),
            part_of(file, of=file if file.exists() else source) as part,
        ):
            _refuse_if_open(file)  # before much is done in vain
            check_room(file.parent, source.stat().st_size, f"the database out of {source.name}")
            if source.suffix in PACKED:
                _unpack(source, part, tell, look)
            else:
                copy_pages(str(source), part, tell, look)
            check_file(part, source, look)
            size = part.stat().st_size
            look()
            with _for_itself(file):
                _replace(file, part)
            return Restored(file, size, monotonic() - began)

    return await in_thread(work)


def _unpack(source: Path, part: Path, tell: Tell, look: Look) -> None:
    total = source.stat().st_size
    try:
        with source.open("rb") as raw, part.open("wb") as out:
            with opened_packed(raw, source.suffix) as packed:
                for block in blocks_of(packed, look, lambda done: tell(raw.tell(), total)):
                    out.write(block)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise CorruptError(f"{source} is damaged, it can't be unpacked: {error}") from error


def _replace(file: Path, part: Path) -> None:
    """Let `file` be what `part` is. What it was is kept, with a name of its own, until then."""
    old = file.with_name(f"{file.name}.replaced")
    old.unlink(missing_ok=True)
    if file.exists():
        old.hardlink_to(file)
        _hand_over(part, file.stat())
    # Only a damaged database still has any of these.
    for kind in BESIDE:
        with suppress(FileNotFoundError):
            file.with_name(file.name + kind).replace(old.with_name(old.name + kind))
    put_in_place(part, file)
    for kind in ("", *BESIDE):
        old.with_name(old.name + kind).unlink(missing_ok=True)


def _hand_over(part: Path, like: os.stat_result) -> None:
    """Let a file belong to whom another one does, as far as this user may give it away."""
    if os.name == "posix":
        for user, group in ((-1, like.st_gid), (like.st_uid, -1)):
            with suppress(PermissionError):
                os.chown(part, user, group)


# -- whether somebody has it open ------------------------------------------------------------------


@contextmanager
def _for_itself(file: Path) -> Iterator[None]:
    """A block in which nobody else has the database open, nor can begin to use it."""
    if not file.exists():
        yield
        return
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as db:
        try:
            # To leave WAL mode, or to lock the file as a whole, fails while anybody else has a
            # connection, even an idle one. It empties the log and removes it as well.
            [(mode,)] = db.execute("PRAGMA journal_mode = delete")
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise _in_use(file) from error
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            # It can't be locked, and nobody can work with it.
            mode = "delete"
        if mode != "delete":
            raise _in_use(file)
        _refuse_if_open(file, besides=db)
        yield


def _refuse_if_open(file: Path, besides: sqlite3.Connection | None = None) -> None:
    found = _processes_with(file)
    if besides is not None:
        found.discard(os.getpid())
    if found:
        raise _in_use(file, found)


def _in_use(file: Path, processes: Iterable[int] = ()) -> MaintenanceError:
    who = f" (process {', '.join(map(str, sorted(processes)))})" if processes else ""
    return MaintenanceError(
        f"{file} is in use{who}; a database is not restored under those who use it: stop them first"
    )


def _processes_with(file: Path) -> set[int]:
    """The processes that have a file open; empty where the system does not tell."""
    try:
        wanted = file.stat()
    except FileNotFoundError:
        return set()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours to look at
            for link in (process / "fd").iterdir():
                with suppress(OSError):  # it has been closed
                    if os.path.samestat(link.stat(), wanted):
                        found.add(int(process.name))
    return found
