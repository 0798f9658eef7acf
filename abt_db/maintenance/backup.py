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

from abt_db.copying import (
    Look,
    Tell,
    check_file,
    check_room,
    copy_pages,
    explained,
    in_thread,
    length_of,
    part_of,
    put_in_place,
)
from abt_db.errors import CorruptError, MaintenanceError

__all__ = ["PACKED", "Backup", "backup", "blocks_of", "opened_packed"]

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
    or, whatever happens, nothing. Those may read it who may read the database. Behind that, of the
    backups of this database in `directory`, `keep` are kept: the newest. `tell` gets how much is
    done and of how much, of which only the ratio means something, in another thread.

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
    file = folder / f"{source.stem}-{now:%Y%m%dT%H%M%S.%fZ}{source.suffix}"

    def work(look: Look) -> Backup:
        with (
            explained(doing),
            part_of(file, of=source, like=f"{source.stem}-") as part,
        ):
            room = length_of(source) * (2 if compression else 1)
            check_room(folder, room, f"a backup of {source.name}")
            stages = 3 if compression else 1
            copy_pages(str(source), part, lambda done, total: tell(done, stages * total), look)
            check_file(part, source, look)
            size = part.stat().st_size
            look()
            if compression is None:
                put_in_place(part, file)
                there = file
            else:
                there = _pack(part, file, compression, tell, look)
            gone = _remove_old(there, source, keep) if keep else ()
            return Backup(there, there.stat().st_size, size, monotonic() - began, gone)

    return await in_thread(work)


def _pack(
    plain: Path, file: Path, compression: Literal["gzip", "xz"], tell: Tell, look: Look
) -> Path:
    """Put `plain` into place as a compressed file, which is read again first."""
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
        put_in_place(part, packed)
    return packed


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


def _remove_old(new: Path, source: Path, keep: int) -> tuple[Path, ...]:
    """Remove the oldest backups beside `new`, which itself stays even if a clock went back."""
    name = re.compile(
        rf"{re.escape(source.stem)}-\d{{8}}T\d{{6}}\.\d{{6}}Z{re.escape(source.suffix)}(\.gz|\.xz)?"
    )
    others = sorted(
        file for file in new.parent.iterdir() if name.fullmatch(file.name) and file != new
    )
    gone = others[: max(0, len(others) + 1 - keep)]
    for file in gone:
        file.unlink(missing_ok=True)
    return tuple(gone)
