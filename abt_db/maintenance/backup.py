"""Backups: whole, checked copies in a directory, the oldest of which make room for new ones."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Literal

from abt_db.errors import CorruptError, MaintenanceError
from abt_db.files.copying import (
    Look,
    Tell,
    check_file,
    check_room,
    copy_pages,
    explained,
    in_thread,
    length_of,
)
from abt_db.files.parts import BESIDE, machine, part_of, put_in_place

from .processes import processes_with

BLOCK = 1024 * 1024
"""Bytes that are packed between two looks at whether to go on."""

PACKED = (".gz", ".xz")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is in its place, whole."""

    path: Path
    size: int
    """Of the file, in bytes."""
    database_size: int
    """Of the database in it, in bytes."""
    seconds: float
    removed: tuple[Path, ...]
    """Older ones that were more than should be kept."""


async def backup(
    database: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    keep: int | None = None,
    compression: Literal["gzip", "xz"] | None = None,
    tell: Tell = lambda done, total: None,
) -> Backup:
    """Copy the database in the file `database`, as it is at one moment, into a new file in
    `directory`, which is named for it and for the moment.

    Others may read and write meanwhile, in this process and in others (``db.path`` is the file of a
    `Database`); the write-ahead log grows for as long. The copy is checked (``quick_check``),
    packed if there is a `compression`, and unpacked again to compare; then it is there, all of it,
    or, whatever happens, nothing. Those may read it who may read the database. `tell` gets how much
    is done and of how much, of which only the ratio means something, in another thread.

    Behind that, older backups of this database in `directory` are removed, so that `keep` are left.
    A database is known by its place, of which the names of its backups tell: the same path on
    another machine, or in another container or file system, is another one; one that was restored
    is the same, one that was moved is not. What is not certainly a backup of this database stays,
    as does one that a process has open, or that has the log of a database beside it.

    Raises `MaintenanceError` where there is no room for it, `CorruptError` if the database is
    damaged, another `QueryError` where SQLite fails. Cancelled, it leaves nothing, but in its last
    moment a backup that is whole.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be 1 or more, not {keep}")
    source, folder = Path(database).absolute(), Path(directory).absolute()
    doing = f"the backup of {source} to {folder}"
    with explained(doing):
        if not source.is_file():
            raise MaintenanceError(f"{source} is not a database file; there is nothing to back up")
        if not folder.is_dir():
            raise MaintenanceError(f"{folder} is not a directory; make it, for backups to go there")
    began = monotonic()
    now = datetime.now(UTC)

    def work(look: Look) -> Backup:
        with explained(doing):
            series = f"{source.stem}-{_place(source)}"
        file = folder / f"{series}-{now:%Y%m%dT%H%M%S.%fZ}{source.suffix}"
        with explained(doing), part_of(file, of=source) as part:
            room = length_of(source) * (2 if compression else 1)
            check_room(folder, room, f"a backup of {source.name}")
            stages = 3 if compression else 1
            copy_pages(str(source), part, lambda done, total: tell(done, stages * total), look)
            check_file(part, source, look)
            size = part.stat().st_size
            look()
            if compression is None:
                there, written = file, size
                put_in_place(part, file, new=True)
            else:
                there, written = _pack(part, file, compression, tell, look)
            gone = _remove_old(there, series, source.suffix, keep) if keep else ()
            return Backup(there, written, size, monotonic() - began, gone)

    return await in_thread(work)


def _pack(
    plain: Path, file: Path, compression: Literal["gzip", "xz"], tell: Tell, look: Look
) -> tuple[Path, int]:
    """Put `plain` into place as a compressed file, which is read again first; return its size."""
    size = plain.stat().st_size
    packed = file.with_name(file.name + (".gz" if compression == "gzip" else ".xz"))
    with part_of(packed, of=plain) as part:
        written, read = hashlib.sha256(), hashlib.sha256()
        with (
            plain.open("rb") as source,
            gzip.open(part, "wb", compresslevel=6)
            if compression == "gzip"
            else lzma.open(part, "wb", preset=1) as out,
        ):
            for block in blocks_of(source, look, lambda done: tell(size + done, 3 * size)):
                written.update(block)
                out.write(block)
        with part.open("rb") as raw, opened_packed(raw, packed.suffix) as again:
            for block in blocks_of(again, look, lambda done: tell(2 * size + done, 3 * size)):
                read.update(block)
        if read.digest() != written.digest():
            raise CorruptError(f"{part} was not written as it should be: does the disk fail?")
        look()
        size_packed = part.stat().st_size
        put_in_place(part, packed, new=True)
    return packed, size_packed


def opened_packed(file: BinaryIO, suffix: str) -> gzip.GzipFile | lzma.LZMAFile:
    """Return what is in a compressed file of that kind, to be read."""
    return gzip.open(file) if suffix == ".gz" else lzma.open(file)


def blocks_of(
    file: BinaryIO | gzip.GzipFile | lzma.LZMAFile, look: Look, tell: Callable[[int], None]
) -> Iterator[bytes]:
    """Read a file to its end; `tell` gets the bytes that were read and worked on."""
    done = 0
    while block := file.read(BLOCK):
        look()
        yield block
        done += len(block)
        tell(done)


def _place(database: Path) -> str:
    """Return what tells the place of a database from any other, for the names of its backups.

    Not from what is in the database: that is the same in one which was restored elsewhere.
    """
    file = database.resolve()
    system = os.statvfs(file.parent).f_fsid if hasattr(os, "statvfs") else 0
    place = f"{machine()} {system} {file.parent.stat().st_ino} ".encode() + os.fsencode(file)
    return hashlib.sha256(place).hexdigest()[:12]


def _remove_old(new: Path, series: str, suffix: str, keep: int) -> tuple[Path, ...]:
    """Remove the oldest backups of a series, so that `keep` are left with `new`."""
    name = re.compile(
        rf"{re.escape(series)}-(\d{{8}}T\d{{6}}\.\d{{6}}Z){re.escape(suffix)}(?:\.gz|\.xz)?"
    )
    moments = {
        file: found[1]
        for file in new.parent.iterdir()
        if (found := name.fullmatch(file.name)) and file.is_file() and not file.is_symlink()
    }
    gone = [
        file
        for file in sorted(moments, key=moments.__getitem__)[:-keep]
        # It stays even if a clock went back, and does not count: of two that are made at the same
        # time each would otherwise remove the other.
        if file != new and not _is_used(file)
    ]
    for file in gone:
        file.unlink(missing_ok=True)
    return tuple(gone)


def _is_used(file: Path) -> bool:
    beside = [file.with_name(file.name + kind) for kind in BESIDE]
    return any(each.exists() for each in beside) or bool(processes_with(file))
