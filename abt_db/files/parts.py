"""Writes files that appear complete or not at all, and are as private as their source.

A file is written in a new directory beside its final place, which only the user of this process may
enter, and then moved to that place. The writing process holds a lock on the directory, and the
kernel releases the lock when the process dies. So a process that gets the lock of such a directory
knows that the directory was left behind.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter
from itertools import chain, count
from pathlib import Path
from typing import Self

from abt_db.errors import MaintenanceError

if sys.platform != "win32":
    import fcntl

BESIDE = ("-wal", "-shm", "-journal")
"""The endings of the files that SQLite keeps beside a database. Used with a different database,
such a file would damage it."""

_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat2.html#magic_header_string

_ENDING = ".part"
_PART = "copy"
_PARTS = {_PART, *(_PART + kind for kind in BESIDE)}


@contextmanager
def part_of(file: Path, *, of: Path | None = None) -> Iterator[Path]:
    """Provide the path at which `file` is written before it is `put_in_place`; the path is removed
    after the block.

    No user may read it who may not read the file `of`, from which the content comes, and the
    present `file`, if there is one. Working directories that killed processes have left beside
    `file` are removed as well.
    """
    WorkingDirectory.clear(file.parent, _ENDING, _PARTS)
    with WorkingDirectory(file.parent, _ENDING, _PARTS) as directory:
        part = directory.path / _PART
        models = [of] if of is not None else []
        if file.exists():
            models.append(file)
        if models:
            part.touch(mode=0o600)
            _make_private(part, models)
        try:
            yield part
        finally:
            directory.remove()


@contextmanager
def replacing(file: Path, *, of: Path | None = None) -> Iterator[BufferedWriter]:
    """Open a new file that replaces `file` if the block is left without an error; after an error,
    `file` stays as it was.

    Permissions are as with `part_of`. If `file` is not a regular file (a pipe, a terminal), it is
    opened and written itself. Raises `MaintenanceError` if `file` is a database.
    """
    if file.exists() and not file.is_file():
        with file.open("wb") as out:
            yield out
        return
    file = file.resolve()  # a symbolic link stays one: its target is replaced
    if _is_database(file):
        raise MaintenanceError(f"{file} is a database; name another file to be written")
    with part_of(file, of=of) as part:
        with part.open("wb") as out:
            yield out
        put_in_place(part, file)


def _is_database(file: Path) -> bool:
    if not file.exists():
        return False
    # Before reading the file: opening and closing it would drop the locks that SQLite holds on it
    # in this process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    if any(file.with_name(file.name + kind).exists() for kind in BESIDE):
        return True
    try:
        with file.open("rb") as there:
            return there.read(len(_MAGIC)) == _MAGIC
    except PermissionError:  # a file that can't be read may still be replaced
        return False


def new_file(file: Path, *, of: Path) -> Path:
    """Make an empty file, as private as `of`, and return its path. If `file` exists, the new file
    has a number in its name."""
    names = (file.with_stem(f"{file.stem}.{number}") for number in count(2))
    for new in chain([file], names):
        with suppress(FileExistsError):
            new.touch(mode=0o600, exist_ok=False)
            break
    _make_private(new, [of])
    return new


def put_in_place(part: Path, file: Path, *, new: bool = False) -> None:
    """Move `part` to `file`, atomically, and durably: a power cut does not undo it.

    Raises `MaintenanceError` if `file` must be `new`, and that name exists by now.
    """
    _sync(part)
    if not new:
        part.replace(file)
    else:
        try:
            # A rename would replace a file that another process has made there since the check.
            file.hardlink_to(part)
        except OSError as error:
            # Some file systems have no hard links. There, another process could make the file
            # between the next check and the rename.
            if isinstance(error, FileExistsError) or os.path.lexists(file):
                raise MaintenanceError(
                    f"{file} exists already; a copy is never written over anything"
                ) from error
            part.rename(file)
    if os.name == "posix":
        _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- working directories ---------------------------------------------------------------------------


class WorkingDirectory:
    """A new directory in `parent`, accessible to this user only, for files with certain `names`.

    The directory is locked until its block ends. Leaving the block does not remove the directory:
    `remove` does, or, once the process has died, `clear` in another process.
    """

    def __init__(self, parent: Path, ending: str, names: Collection[str]) -> None:
        self._names = names
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_prefix(), suffix=ending, dir=parent))
            # Before the directory is locked, `clear` in another process may take it for one that
            # was left behind. Then that process has the lock, or has removed the directory: make
            # another one.
            self._lock = _locked(self.path, without=True)
            if self._lock is not None or os.name != "posix":
                break

    @staticmethod
    def clear(parent: Path, ending: str, names: Collection[str]) -> None:
        """Remove working directories in `parent` that processes of this user and machine have left
        behind, if they contain no files but those of `names`. A directory that a living process
        uses stays."""
        for left in parent.glob(f"{_prefix()}*{ending}"):
            with suppress(OSError):
                if (lock := _locked(left)) is not None:
                    try:
                        if os.fstat(lock).st_uid == os.geteuid():
                            _remove(left, names)
                    finally:
                        os.close(lock)

    def remove(self) -> None:
        """Remove the directory and its files; what can't be removed stays."""
        with suppress(OSError):
            _remove(self.path, self._names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._lock is not None:
            os.close(self._lock)


def _prefix() -> str:
    # Named after the machine: if two machines share a file system, one may not see the other's
    # locks.
    return f"abt_db-{machine()[:8]}-"


def _locked(directory: Path, *, without: bool = False) -> int | None:
    """Lock a directory and return a descriptor that holds the lock; closing it releases the lock.
    Returns None if another process has the lock, or has removed the directory.

    If the file system has no such locks, raises `OSError`, or, with `without`, goes on without
    a lock.
    """
    if os.name != "posix":
        return None  # without locks nothing is ever cleared
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not without or isinstance(error, BlockingIOError):
                raise
        if os.path.samestat(os.fstat(lock), directory.lstat()):  # not removed, and not a link
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _remove(directory: Path, names: Collection[str]) -> None:
    found = list(directory.iterdir())
    if {each.name for each in found} <= set(names):
        for each in found:
            each.unlink()
        directory.rmdir()


def machine() -> str:
    """Return an identifier of this machine or container: 64 hexadecimal digits."""
    try:
        number = Path("/etc/machine-id").read_bytes()
    except OSError:
        number = b""
    return hashlib.sha256(os.fsencode(socket.gethostname()) + b"\0" + number).hexdigest()


# -- permissions -----------------------------------------------------------------------------------

_ACL = "system.posix_acl_access"


def _make_private(new: Path, models: Sequence[Path]) -> None:
    """Set the permissions of a new file so that only users who may read every one of the `models`
    may read it."""
    if sys.platform == "linux":
        # An access list that the directory has passed on, which may allow more than the `models`.
        with suppress(OSError):
            os.removexattr(new, _ACL)
    if os.name == "posix":
        with suppress(OSError):  # this user may not be in that group
            os.chown(new, -1, models[0].stat().st_gid)
    mode = 0o777
    for model in models:
        mode &= _open_to(model, new.stat().st_gid)
    with suppress(PermissionError):  # a file system without permissions
        new.chmod(mode | 0o600)  # its owner must write it, even if a model is read-only


def _open_to(model: Path, group: int) -> int:
    """Return permissions for a file of `group` that allow no user more than `model` does."""
    try:
        status = model.stat()
    except FileNotFoundError:  # for example a database in memory, which only this process can read
        return 0
    mode = status.st_mode & 0o777
    if status.st_gid != group or _has_acl(model):
        # A user who is in the file's group may be among the others for `model`, and the reverse.
        # So group and others both get only what `model` allows to both.
        least = mode >> 3 & mode & 0o007
        mode = mode & 0o700 | least << 3 | least
    return mode


def _has_acl(file: Path) -> bool:
    """Whether the file has an access control list. Then the permissions of its group are only the
    upper limit of what the list allows."""
    if sys.platform == "linux":
        with suppress(OSError):
            return bool(os.getxattr(file, _ACL))
    return False
