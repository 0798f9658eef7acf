"""Files that are there whole or not at all, and as private as what they are made from.

A file is written in a directory of its own beside its place, which only its owner may enter, and
moved from there. The process that writes holds a lock on that directory, and the kernel gives it
back when the process dies. So whoever gets the lock of such a directory knows that it was left.
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
"""What SQLite keeps beside a database; read with another one, it would destroy that."""

_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat2.html#magic_header_string

_ENDING = ".part"
_PART = "copy"
_PARTS = {_PART, *(_PART + kind for kind in BESIDE)}


@contextmanager
def part_of(file: Path, *, of: Path | None = None) -> Iterator[Path]:
    """The name under which `file` is written before it is `put_in_place`; gone after the block.

    It is open to those alone to whom the file `of` is, which holds what is written, and the present
    `file`, if there is one. What killed processes have left in that directory is removed, too.
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
    """Open what takes the place of `file` if the block is left without an error, and otherwise
    leaves it as it was. Permissions are as with `part_of`. What is no regular file (a pipe, a
    terminal) is written as it is. Raises `MaintenanceError` if `file` is a database."""
    if file.exists() and not file.is_file():
        with file.open("wb") as out:
            yield out
        return
    file = file.resolve()  # a link goes on to be one
    if _is_database(file):
        raise MaintenanceError(f"{file} is a database; name another file to be written")
    with part_of(file, of=of) as part:
        with part.open("wb") as out:
            yield out
        put_in_place(part, file)


def _is_database(file: Path) -> bool:
    if not file.exists():
        return False
    # Asked for first: to read and close a file would drop the locks that SQLite holds on it in this
    # process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    if any(file.with_name(file.name + kind).exists() for kind in BESIDE):
        return True
    try:
        with file.open("rb") as there:
            return there.read(len(_MAGIC)) == _MAGIC
    except PermissionError:  # it may be replaced all the same
        return False


def new_file(file: Path, *, of: Path) -> Path:
    """Make an empty file, as private as `of`; under another name, which is returned, if there is
    anything by this one."""
    names = (file.with_stem(f"{file.stem}.{number}") for number in count(2))
    for new in chain([file], names):
        with suppress(FileExistsError):
            new.touch(mode=0o600, exist_ok=False)
            break
    _make_private(new, [of])
    return new


def put_in_place(part: Path, file: Path, *, new: bool = False) -> None:
    """Let `file` be what `part` is, in one moment, and so that a power cut does not undo it.

    Raises `MaintenanceError` if it was to be a `new` file and anything has that name by now.
    """
    _sync(part)
    if not new:
        part.replace(file)
    else:
        try:
            # A rename would destroy what another process has put there since this one looked.
            file.hardlink_to(part)
        except OSError as error:
            # Not each file system has links; then a moment remains between the look and the rename.
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


# -- directories to work in ------------------------------------------------------------------------


class WorkingDirectory:
    """A new directory in `parent`, for this user alone, in which files of certain `names` are made.

    It is locked in its block. Leaving the block does not remove it: `remove` does, or, once the
    process has died, `clear`.
    """

    def __init__(self, parent: Path, ending: str, names: Collection[str]) -> None:
        self._names = names
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_prefix(), suffix=ending, dir=parent))
            # In the moment before it is locked, `clear` of another process may take it for one that
            # was left; then that process has the lock, or has removed it.
            self._lock = _locked(self.path, without=True)
            if self._lock is not None or os.name != "posix":
                break

    @staticmethod
    def clear(parent: Path, ending: str, names: Collection[str]) -> None:
        """Remove those in `parent` that processes of this user and machine have left and that hold
        nothing but files of these names. What a living process works in stays."""
        for left in parent.glob(f"{_prefix()}*{ending}"):
            with suppress(OSError):
                if (lock := _locked(left)) is not None:
                    try:
                        if os.fstat(lock).st_uid == os.geteuid():
                            _remove(left, names)
                    finally:
                        os.close(lock)

    def remove(self) -> None:
        """Remove the directory and what is in it by its names; what can't be removed stays."""
        with suppress(OSError):
            _remove(self.path, self._names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._lock is not None:
            os.close(self._lock)


def _prefix() -> str:
    # A file system that two machines share need not show to one what the other has locked.
    return f"abt_db-{machine()[:8]}-"


def _locked(directory: Path, *, without: bool = False) -> int | None:
    """Return a descriptor that holds the lock of a directory, which closing it gives back; None if
    another one has the lock, or had and has removed the directory.

    Where the file system has no such locks an `OSError` is raised; `without` goes on.
    """
    if os.name != "posix":
        return None  # so that nothing is ever cleared
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
        if os.path.samestat(os.fstat(lock), directory.lstat()):  # nor is it a link
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
    """Return what tells this machine or container from another: 64 hexadecimal digits."""
    try:
        number = Path("/etc/machine-id").read_bytes()
    except OSError:
        number = b""
    return hashlib.sha256(os.fsencode(socket.gethostname()) + b"\0" + number).hexdigest()


# -- who may read what is written ------------------------------------------------------------------

_ACL = "system.posix_acl_access"


def _make_private(new: Path, models: Sequence[Path]) -> None:
    """Open a file of this process to those alone to whom each of the `models` is."""
    if sys.platform == "linux":
        with suppress(OSError):  # inherited from the directory, and for others than `models` are
            os.removexattr(new, _ACL)
    if os.name == "posix":
        with suppress(OSError):  # this user is not in that group
            os.chown(new, -1, models[0].stat().st_gid)
    mode = 0o777
    for model in models:
        mode &= _open_to(model, new.stat().st_gid)
    with suppress(PermissionError):  # a file system that knows no permissions
        new.chmod(mode | 0o600)  # it is to be written, which a model may not be


def _open_to(model: Path, group: int) -> int:
    """The permissions of a file of that group which nobody may read who may not read `model`."""
    try:
        status = model.stat()
    except FileNotFoundError:  # as with a database in memory, which this process alone can read
        return 0
    mode = status.st_mode & 0o777
    if status.st_gid != group or _has_acl(model):
        # Either may be given to people whom `model` takes for the other.
        least = mode >> 3 & mode & 0o007
        mode = mode & 0o700 | least << 3 | least
    return mode


def _has_acl(file: Path) -> bool:
    """Whether the permissions of the group are only the most that a list of people may have."""
    if sys.platform == "linux":
        with suppress(OSError):
            return bool(os.getxattr(file, _ACL))
    return False
