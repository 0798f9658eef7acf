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

from abt_db.config import Config
from abt_db.connection.settings import require_path, uri
from abt_db.errors import CorruptError, MaintenanceError
from abt_db.files.copying import (
    Look,
    Tell,
    check_file,
    check_room,
    connected,
    copy_pages,
    explained,
    in_thread,
)
from abt_db.files.parts import BESIDE, WorkingDirectory, part_of, put_in_place

from .backup import PACKED, blocks_of, opened_packed
from .processes import processes_with

_OLD = ".replaced"


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

    What SQLite keeps beside the old file (``-wal``, ``-journal``) goes with it. If it is cancelled
    or fails, nothing has changed; a new `database` never takes the place of what came meanwhile.

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
        new = not file.exists()
    began = monotonic()

    def work(look: Look) -> Restored:
        with (
            explained(doing),
            part_of(file, of=source if new else file) as part,
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
            with _for_itself(file, new), _set_aside(file):
                if not new and os.name == "posix":
                    with suppress(OSError):  # only the administrator may give a file away
                        os.chown(part, file.stat().st_uid, -1)
                put_in_place(part, file, new=new)
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


@contextmanager
def _set_aside(file: Path) -> Iterator[None]:
    """A block in which SQLite's files beside a database are away; behind it they are gone, or back
    if it has failed. Only a damaged database still has any, or one that was lost but for them.

    Killed in the block, this leaves all of the old database in a directory beside it, under its own
    names. That is removed by the next restore which comes to its end.
    """
    beside = [file.with_name(file.name + kind) for kind in BESIDE]
    names = {file.name, *(each.name for each in beside)}
    there = [each for each in beside if os.path.lexists(each)]
    if not there:
        yield
    else:
        with WorkingDirectory(file.parent, _OLD, names) as old:
            moved: list[Path] = []
            try:
                if file.exists():
                    (old.path / file.name).hardlink_to(file)
                for each in there:
                    each.rename(old.path / each.name)
                    moved.append(each)
                yield
            except BaseException as error:
                with explained(f"putting back what is in {old.path}, after: {error}"):
                    for each in moved:
                        (old.path / each.name).rename(each)
                old.remove()
                raise
            old.remove()
    WorkingDirectory.clear(file.parent, _OLD, names)


# -- whether somebody has it open ------------------------------------------------------------------


@contextmanager
def _for_itself(file: Path, new: bool) -> Iterator[None]:
    """A block in which nobody else has the database open, nor can begin to use it."""
    if new:
        _refuse_if_open(file)
        yield
        return
    # One that has gone meanwhile is not made by looking.
    name = uri(str(file), Config(create=False), "writer")
    with closing(connected(name, timeout=0)) as db:
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
    # One that was deleted under its users still has a log in use.
    found = processes_with(file, *(file.with_name(file.name + kind) for kind in BESIDE))
    if besides is not None:
        found.discard(os.getpid())
    if found:
        raise _in_use(file, found)


def _in_use(file: Path, processes: Iterable[int] = ()) -> MaintenanceError:
    who = f" (process {', '.join(map(str, sorted(processes)))})" if processes else ""
    return MaintenanceError(
        f"{file} is in use{who}; a database is not restored under those who use it: stop them first"
    )
