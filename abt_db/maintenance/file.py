"""What the bytes of a database file and of what lies beside it tell, before SQLite is asked.

The formats: https://www.sqlite.org/fileformat2.html and https://www.sqlite.org/walformat.html.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"SQLite format 3\0"
_LOG_MAGIC = (0x377F0682, 0x377F0683)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK": "zip",
}


@dataclass(frozen=True, slots=True)
class Log:
    """The state of the write-ahead log, from the index that its users share (`-shm`)."""

    frames: int
    """Pages that were committed to it."""
    moved: int
    """How many of them are in the database file already."""
    marks: tuple[int, ...]
    """Where readers may stand: how many frames those see who hold that mark's lock."""


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """A file as it lies there. Sizes are bytes."""

    path: str
    size: int
    problem: str | None
    """Why SQLite can't take it for a database; None: it can."""
    page_size: int = 0
    pages: int = 0
    """As its header says; 0 where that is not to be relied on."""
    wal: bool = False
    """Whether it is a WAL database."""
    log_size: int | None = None
    """Of the `-wal` file; None without one."""
    log_is_one: bool = True
    """Whether what is in that file begins as a log does."""
    log: Log | None = None
    journal_size: int = 0
    """Of the `-journal` file: more than 0 in a transaction, and after one that was interrupted."""
    has_index: bool = False
    """Whether there is a `-shm` file: somebody has it open, or had and died."""
    followed: bool = False
    """Whether Litestream writes to it (`litestream restore -f`)."""

    @property
    def missing(self) -> int:
        """How many bytes of its pages are not in the file."""
        # While a log is there, the last pages may be in that.
        return 0 if self.log_size else max(0, self.pages * self.page_size - self.size)

    @property
    def nobody_writes(self) -> bool:
        """Whether nobody has it open as far as can be seen, and nothing is left to be recovered."""
        return not (self.log_size is not None or self.has_index or self.journal_size)


def look_at(path: str | os.PathLike[str]) -> DatabaseFile:
    """Return what a file looks like. Changes nothing, and asks nobody for a lock.

    Not for a file that this process has open through SQLite: to close it here would drop the locks
    that SQLite holds on it (https://www.sqlite.org/howtocorrupt.html, 2.2). Raises `OSError` for
    what can't be read.
    """
    name = os.path.realpath(path)
    if Path(name).is_fifo():  # to open it would wait for somebody who writes
        raise OSError(errno.EINVAL, "it is a pipe, and no file", name)
    with Path(name).open("rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    if problem := _problem(header, size):
        return DatabaseFile(name, size, problem)
    (page_size,) = struct.unpack(">H", header[16:18])
    changes, pages = struct.unpack(">II", header[24:32])
    (valid_for,) = struct.unpack(">I", header[92:96])
    log_size = _size(f"{name}-wal")
    return DatabaseFile(
        path=name,
        size=size,
        problem=None,
        page_size=65536 if page_size == 1 else page_size,
        pages=pages if changes == valid_for else 0,
        wal=header[18] == 2,
        log_size=log_size,
        log_is_one=not log_size or _begin(f"{name}-wal", 4) in map(_big, _LOG_MAGIC),
        log=_log(_begin(f"{name}-shm", 136)) if log_size else None,
        journal_size=_size(f"{name}-journal") or 0,
        has_index=_size(f"{name}-shm") is not None,
        followed=_size(f"{name}-txid") is not None,
    )


def _problem(header: bytes, size: int) -> str | None:
    if size == 0:
        return "it is empty"
    if not any(header):
        return "it begins with zeros: its first page was overwritten"
    for magic, name in _COMPRESSED.items():
        if header.startswith(magic):
            return f"it is compressed ({name})"
    if not header.startswith(MAGIC):
        return "it does not begin as a database does: it is another kind of file, or encrypted"
    if len(header) < 100:
        return f"it is cut off after {size} bytes"
    (page_size,) = struct.unpack(">H", header[16:18])
    if page_size != 1 and (page_size < 512 or page_size & (page_size - 1)):
        return "its header is damaged: it has no valid page size"
    if not {header[18], header[19]} <= {1, 2}:
        return "its header is damaged: it has no valid journal mode"
    return None


def _log(index: bytes) -> Log | None:
    if len(index) < 136 or index[:48] != index[48:96] or not index[12]:
        return None  # nobody has used it yet, or it is being changed just now
    frames = struct.unpack("=I", index[16:20])[0]
    moved, *marks = struct.unpack("=6I", index[96:120])
    return Log(frames, moved, tuple(marks))


def _begin(path: str, count: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _big(number: int) -> bytes:
    return number.to_bytes(4, "big")
