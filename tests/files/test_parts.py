"""What is written is there whole or not at all, is as private as what it was made from, and only
what this library has made and no process uses is removed (invariant 36)."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from support.engine import SOON, script

from abt_db import MaintenanceError
from abt_db.files.parts import WorkingDirectory, new_file, part_of, put_in_place, replacing

WRITES = """
from abt_db.files.parts import part_of, put_in_place
with part_of(Path(path)) as part:
    part.write_bytes(b"from another process")
    print(part.parent.name, flush=True)
    if sys.stdin.readline():
        put_in_place(part, Path(path))
"""


@contextmanager
def writing(file: Path, *before: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that is in the middle of writing a file, and the directory it works in."""
    with subprocess.Popen(
        [*before, *script(WRITES), str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, file.parent / process.stdout.readline().strip()
        finally:
            process.kill()


def write(file: Path, content: str = "new", of: Path | None = None) -> None:
    with replacing(file, of=of) as out:
        out.write(content.encode())


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def mode(file: Path) -> str:
    return oct(file.stat().st_mode & 0o777)


class TestLeftOver:
    """What killed processes have left is cleared; nothing else is."""

    def test_of_a_killed_process_by_the_next_one(self, tmp_path: Path) -> None:
        with writing(tmp_path / "file") as (process, directory):
            process.kill()
            process.wait(SOON)
            assert names(directory) == ["copy"]
            write(tmp_path / "other")
        assert names(tmp_path) == ["other"]

    @pytest.mark.parametrize("apart", [False, True], ids=["", "in a container of its own"])
    def test_not_of_a_process_that_writes(self, tmp_path: Path, apart: bool) -> None:
        """In another container its number means another process here, or none."""
        before = ["unshare", "--pid", "--fork", "--kill-child"] if apart else []
        if apart and subprocess.run([*before, "true"], capture_output=True).returncode:
            pytest.skip("this user may not make a container")
        file = tmp_path / "file"
        with writing(file, *before) as (process, directory):
            write(file, "from this process")
            assert names(directory) == ["copy"]
            assert file.read_text() == "from this process"
            process.communicate("go on\n", timeout=SOON)
        assert file.read_text() == "from another process"
        assert names(tmp_path) == ["file"]

    def test_two_of_one_process_that_write_the_same_file_do_not_meet(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        with replacing(file) as one:
            one.write(b"on")
            with replacing(file) as two:
                two.write(b"two")
            assert file.read_text() == "two"
            one.write(b"e")
        assert file.read_text() == "one"
        assert names(tmp_path) == ["file"]

    def test_not_what_only_looks_like_it(self, tmp_path: Path) -> None:
        """Names of an earlier release among them, which anything may have."""
        with WorkingDirectory(tmp_path, ".part", {"copy"}) as ours:
            pass
        (ours.path / "copy").touch()
        (ours.path / "mine").touch()
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            gone.wait(SOON)
        for name in f"file.{gone.pid}.part", f"file.{gone.pid}.part-journal", "abt_db-0.part":
            (tmp_path / name).write_text("mine")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "copy").write_text("mine")
        (tmp_path / f"{ours.path.name[:-9]}12345.part").symlink_to(elsewhere)
        before = names(tmp_path)
        write(tmp_path / "file")
        assert names(tmp_path) == sorted([*before, "file"])
        assert names(ours.path) == ["copy", "mine"]
        assert names(elsewhere) == ["copy"]

    def test_not_of_another_machine_whose_locks_may_not_be_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as there:
            there.setattr(socket, "gethostname", lambda: "elsewhere")
            with WorkingDirectory(tmp_path, ".part", {"copy"}) as left:
                pass
        write(tmp_path / "file")
        assert left.path.is_dir()
        with monkeypatch.context() as there:
            there.setattr(socket, "gethostname", lambda: "elsewhere")
            write(tmp_path / "file")
        assert not left.path.exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only the administrator can give a file away")
    def test_not_of_another_user(self, tmp_path: Path) -> None:
        with WorkingDirectory(tmp_path, ".part", {"copy"}) as left:
            pass
        os.chown(left.path, 12, -1)
        write(tmp_path / "file")
        assert left.path.is_dir()

    def test_one_that_is_cleared_while_it_is_locked_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = fcntl.flock

        def late(descriptor: int, how: int) -> None:
            for directory in tmp_path.glob("*.part"):
                monkeypatch.setattr("fcntl.flock", real)
                directory.rmdir()
            real(descriptor, how)

        monkeypatch.setattr("fcntl.flock", late)
        write(tmp_path / "file")
        assert names(tmp_path) == ["file"]

    @pytest.mark.parametrize("moment", ["removed", "locked"])
    def test_one_that_is_cleared_before_it_is_locked_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        """Another process finds the directory between its making and its locking."""
        module = sys.modules["abt_db.files.parts"]
        real = module._locked
        held: list[int] = []

        def late(directory: Path, *, without: bool = False) -> int | None:
            if without and not held:
                held.append(real(directory))
                if moment == "removed":
                    directory.rmdir()
                    os.close(held[0])
            found: int | None = real(directory, without=without)
            return found

        monkeypatch.setattr(module, "_locked", late)
        write(tmp_path / "file")
        if moment == "locked":
            [left] = tmp_path.glob("*.part")
            left.rmdir()
            os.close(held[0])
        assert names(tmp_path) == ["file"]

    def test_where_nothing_can_be_locked_files_are_written_and_nothing_is_cleared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on some network file systems."""
        with WorkingDirectory(tmp_path, ".part", {"copy"}) as left:
            pass

        def refuse(_file: int, _how: int) -> None:
            raise OSError(9, "Bad file descriptor")

        monkeypatch.setattr("fcntl.flock", refuse)
        write(tmp_path / "file")
        assert names(tmp_path) == [left.path.name, "file"]


class TestInPlace:
    """A new file takes no other's place."""

    @pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
    @pytest.mark.parametrize("kind", ["a file", "a broken link"])
    def test_what_came_meanwhile_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, links: bool
    ) -> None:
        def refuse(*_arguments: object, **_settings: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        if not links:  # as FAT does
            monkeypatch.setattr("os.link", refuse)
        file = tmp_path / "file"
        with part_of(file) as part:
            part.write_text("a copy")
            if kind == "a file":
                file.write_text("mine")
            else:
                file.symlink_to("nowhere")
            with pytest.raises(MaintenanceError, match="exists already"):
                put_in_place(part, file, new=True)
        assert names(tmp_path) == ["file"]
        assert file.is_symlink() or file.read_text() == "mine"
        file.unlink()
        with part_of(file) as part:
            part.write_text("a copy")
            put_in_place(part, file, new=True)
        assert (file.read_text(), names(tmp_path)) == ("a copy", ["file"])

    def test_a_file_of_its_own_is_not_written_over(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.touch()
        source.chmod(0o640)
        made = [new_file(tmp_path / "build-1.log", of=source) for _ in range(3)]
        assert [file.name for file in made] == ["build-1.log", "build-1.2.log", "build-1.3.log"]
        assert {mode(file) for file in made} == {"0o640"}

    @pytest.mark.parametrize("open", [False, True])
    def test_no_database_is_written_over_by_something_else(
        self, tmp_path: Path, open: bool
    ) -> None:
        path, link = tmp_path / "app.db", tmp_path / "page.html"
        link.symlink_to(path)
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = wal" if open else "PRAGMA journal_mode = delete")
            db.execute("CREATE TABLE t (x)")
            if not open:
                db.close()
            before = path.read_bytes()
            with pytest.raises(MaintenanceError, match=r"app\.db is a database"):
                write(link)
            assert path.read_bytes() == before


class TestPrivacy:
    """Nobody may read a copy who may not read the source, nor what was there before."""

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    @pytest.mark.parametrize(
        ("source", "present", "result"),
        [
            (0o600, None, "0o600"),
            (0o640, None, "0o640"),
            (0o644, None, "0o644"),
            (0o666, None, "0o666"),
            (0o400, None, "0o600"),
            (0o600, 0o644, "0o600"),
            (0o640, 0o666, "0o640"),
            (0o644, 0o600, "0o600"),
            (0o660, 0o604, "0o600"),
        ],
    )
    def test_of_a_new_file_and_of_one_that_is_replaced(
        self, tmp_path: Path, source: int, present: int | None, result: str, umask: int
    ) -> None:
        of, file = tmp_path / "source", tmp_path / "file"
        of.touch()
        of.chmod(source)
        if present is not None:
            file.touch()
            file.chmod(present)
        before = os.umask(umask)
        try:
            with part_of(file, of=of) as part:
                assert (mode(part), mode(part.parent)) == (result, "0o700")
                part.write_text("secret")
                put_in_place(part, file)
        finally:
            os.umask(before)
        assert mode(file) == result

    def test_a_source_that_is_no_file_is_this_users_alone(self, tmp_path: Path) -> None:
        write(tmp_path / "file", of=tmp_path / ":memory:")
        assert mode(tmp_path / "file") == "0o600"

    def test_what_has_no_source_is_as_private_as_what_was_there(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        before = os.umask(0o027)
        try:
            write(file)
        finally:
            os.umask(before)
        assert mode(file) == "0o640"
        file.chmod(0o600)
        write(file)
        assert mode(file) == "0o600"

    def test_a_link_leads_to_what_is_private(self, tmp_path: Path) -> None:
        source, link, file = (tmp_path / name for name in ("source", "link", "file"))
        source.touch(mode=0o600)
        file.touch(mode=0o644)
        link.symlink_to(file)
        write(link, of=source)
        assert (mode(file), link.is_symlink()) == ("0o600", True)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only the administrator can give a file away")
    @pytest.mark.parametrize(
        ("may", "group", "result"), [(True, 34, "0o640"), (False, 99, "0o600")]
    )
    def test_the_group_of_the_source_or_none(
        self, tmp_path: Path, may: bool, group: int, result: str
    ) -> None:
        """The group that files get in a directory may not be the one that may read the source."""
        source, folder = tmp_path / "source", tmp_path / "folder"
        tmp_path.chmod(0o755)
        source.touch()
        os.chown(source, -1, 34)
        source.chmod(0o640)
        folder.mkdir()
        os.chown(folder, 12, 99)
        folder.chmod(0o2770)  # files in it get its group
        write_as(0 if may else 12, folder, source)
        assert (mode(folder / "file"), (folder / "file").stat().st_gid) == (result, group)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only the administrator can give a file away")
    def test_a_group_that_could_not_read_what_was_there_can_not_read_the_new(
        self, tmp_path: Path
    ) -> None:
        source, file = tmp_path / "source", tmp_path / "file"
        for each, group in (source, 34), (file, 99):
            each.touch()
            os.chown(each, -1, group)
            each.chmod(0o640)
        write(file, of=source)
        assert mode(file) == "0o600"

    @pytest.mark.skipif(sys.platform != "linux", reason="lists of people are Linux's")
    @pytest.mark.parametrize("where", ["source", "folder"])
    def test_lists_of_people_open_nothing(self, tmp_path: Path, where: str) -> None:
        """With one, what the group may do is no more than a limit for the people on it."""
        if sys.platform != "linux":
            return
        folder = tmp_path / "folder"
        folder.mkdir()
        source, file = folder / "source", folder / "file"
        source.touch()
        source.chmod(0o640)
        # Its owner and the user 12 may read and write, its group and all others nothing.
        entries = [(1, 6, -1), (2, 6, 12), (4, 0, -1), (16, 6, -1), (32, 0, -1)]
        acl = struct.pack("<I", 2)
        acl += b"".join(struct.pack("<HHi", *entry) for entry in entries)
        name = "system.posix_acl_access" if where == "source" else "system.posix_acl_default"
        try:
            os.setxattr(source if where == "source" else folder, name, acl)
        except OSError:
            pytest.skip("this file system has no such lists")
        write(file, of=source)
        assert "system.posix_acl_access" not in os.listxattr(file)
        assert mode(file) == ("0o600" if where == "source" else "0o640")


def write_as(user: int, folder: Path, source: Path) -> None:
    """Write a file in `folder` as another user, in no group, in a process of its own."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.chroot(source.parent)  # the directories above are not open to that user
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            write(Path("/", folder.name, "file"), of=Path("/", source.name))
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
