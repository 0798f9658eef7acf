"""Backup and restore, vacuum, statistics and checks: on a database that is in use, and killed.

``ABT_DB_LONG=1 pytest -s tests/maintenance/test_maintenance.py -k "existed or Killed"`` takes 50
backups under load, and kills at every line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from textwrap import dedent
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from support.engine import SOON, Holder, LockingProcess, run_script, until
from support.suite import HANG

from abt_db import (
    CantOpenError,
    Config,
    ConfigError,
    CorruptError,
    Database,
    MaintenanceError,
    Query,
    StatementError,
    StatementTimeoutError,
)
from abt_db.maintenance import (
    analyze,
    backup,
    change_page_size,
    check,
    look_at,
    optimize,
    reindex,
    restore,
    vacuum,
    vacuum_into,
    vacuum_step_by_step,
)
from abt_db.maintenance.processes import processes_with
from abt_db.tools.cli import main

LONG = bool(os.environ.get("ABT_DB_LONG"))
MOVE = [
    Query("take", "UPDATE one SET n = n - :n WHERE id = :id"),
    Query("give", "UPDATE two SET n = n + :n WHERE id = :id"),
    Query("note", "INSERT INTO notes VALUES (NULL, hex(randomblob(:n)))"),
]


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(sql).fetchall()


def make(path: Path, *, rows: int = 100, free: bool = False) -> Path:
    """A database with two tables whose sums are 0 together, and some pages beside them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("BEGIN")
        for name in "one", "two":
            db.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, n)")
            db.executemany(f"INSERT INTO {name} VALUES (?, 0)", ((n,) for n in range(10)))
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text)")
        notes = ((os.urandom(1000).hex(),) for _ in range(rows))
        db.executemany("INSERT INTO notes (text) VALUES (?)", notes)
        db.execute("CREATE INDEX texts ON notes (text)")
        if free:
            db.execute("DELETE FROM notes WHERE id % 2")
        db.execute("COMMIT")
    return path


def names(folder: Path) -> list[str]:
    """What is there, but for what those leave who only read a database."""
    return sorted(f.name for f in folder.iterdir() if not f.name.endswith((".db-wal", ".db-shm")))


def whole(path: Path) -> bool:
    """Whether a database is one that has existed."""
    sums = "SELECT (SELECT sum(n) FROM one) + (SELECT sum(n) FROM two)"
    return ask(path, "PRAGMA integrity_check") == [("ok",)] and ask(path, sums) == [(0,)]


@pytest.fixture
def app(path: Path) -> Path:
    return make(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where backups go."""
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


class TestBackup:
    """A backup is whole, or it is not there; and it is a state that has existed."""

    async def test_taken_while_others_write_it_is_a_state_that_existed(
        self, path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It ends, too, though there are writes between any two of its steps."""
        app = make(path, rows=5_000 if LONG else 100)
        monkeypatch.setattr("abt_db.files.copying.PAGES", 100 if LONG else 10)
        done = during = 0

        async def write(number: int) -> None:
            nonlocal done
            while True:
                await db.execute_batch([move(n=number, id=number) for move in MOVE[:2]])
                done += 1

        def let_others_write(_copied: int, _total: int) -> None:
            seen, limit = done, monotonic() + SOON
            while done == seen:
                assert monotonic() < limit
                sleep(0.0001)

        async with Database(app) as db:
            writers = [asyncio.create_task(write(number)) for number in range(1, 9)]
            began, seen = monotonic(), -1
            for turn in range(50 if LONG else 5):
                before, target = done, tmp_path / f"{turn}.db"
                made = await backup(app, folder, keep=2, tell=let_others_write)
                during += done - before
                await restore(made.path, target)
                assert await asyncio.to_thread(whole, target)
                [(moved,)] = ask(target, "SELECT sum(n) FROM two")
                assert moved > seen  # and newer than the last one
                seen = moved
                target.unlink()
            for writer in writers:
                writer.cancel()
            await asyncio.wait(writers)
            if LONG:
                rate = done / (monotonic() - began)
                print(
                    f"\n{turn + 1} backups of {made.size / 1e6:.0f} MB, each restored and whole;"
                    f" {rate:,.0f} transactions a second, {during:,} while backups were taken"
                )
        assert len(list(folder.iterdir())) == 2

    @pytest.mark.parametrize(("kind", "suffix"), [("gzip", ".gz"), ("xz", ".xz"), (None, "")])
    async def test_it_can_be_packed_and_comes_out_again(
        self, app: Path, folder: Path, kind: Any, suffix: str
    ) -> None:
        told: list[float] = []
        made = await backup(
            app, folder, compression=kind, tell=lambda done, total: told.append(done / total)
        )
        assert made.path.name.endswith(f"Z.db{suffix}")
        assert list(folder.iterdir()) == [made.path]
        assert told == sorted(told) and told[-1] == 1
        assert made.size == made.path.stat().st_size
        before = ask(app, "SELECT * FROM notes")
        ask(app, "DELETE FROM notes")
        restored = await restore(made.path, app)
        assert restored.size == made.database_size == app.stat().st_size
        assert ask(app, "SELECT * FROM notes") == before

    async def test_the_newest_are_kept_and_nothing_else_is_touched(
        self, app: Path, folder: Path
    ) -> None:
        # Some named as an earlier release named them, which does not tell of which database.
        others = ["app-20200101T000000.000000Z.db", "app-old.db", "other-20200101T000000Z.db"]
        for name in others:
            (folder / name).touch()
        first, second, third = [await backup(app, folder, keep=2) for _ in range(3)]
        (folder / later(third.path).name).mkdir()
        (folder / early(first.path).name).symlink_to(second.path)
        fourth = await backup(app, folder, keep=2, compression="gzip")
        assert {file.name for file in folder.iterdir()} == {
            *(*others, later(third.path).name, early(first.path).name),
            *(third.path.name, fourth.path.name),
        }
        assert (second.removed, third.removed) == ((), (first.path,))
        assert fourth.removed == (second.path,)

    async def test_one_of_a_wrong_clock_counts_and_the_new_one_stays(
        self, app: Path, folder: Path
    ) -> None:
        first = (await backup(app, folder)).path
        ahead = first.rename(later(first))
        second, third = [await backup(app, folder, keep=2) for _ in range(2)]
        assert third.removed == (second.path,)
        assert set(folder.iterdir()) == {ahead, third.path}
        assert (await backup(app, folder, keep=1)).removed == (third.path,)

    async def test_those_of_another_database_stay_whatever_its_name_and_content(
        self, app: Path, folder: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other" / "app.db"
        other.parent.mkdir()
        first = await backup(app, folder)
        await restore(first.path, other)
        second = await backup(other, folder, keep=1)
        third = await backup(other, folder, keep=1, compression="xz")
        assert (second.removed, third.removed) == ((), (second.path,))
        # One that was restored is the same, by whichever path it is named.
        ask(app, "DELETE FROM notes")
        await restore(first.path, app)
        link = tmp_path / "app.link"
        link.symlink_to(app)
        (tmp_path / "link").symlink_to(tmp_path)
        fourth = await backup(tmp_path / "link" / "app.db", folder, keep=1)
        assert fourth.removed == (first.path,)
        assert set(folder.iterdir()) == {third.path, fourth.path}

    @pytest.mark.parametrize(
        "differs", ["the machine", "the file system", "the directory", "the path"]
    )
    async def test_those_of_the_same_path_elsewhere_stay(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, differs: str
    ) -> None:
        """Machines and containers have the same paths, and may share a directory of backups."""
        first = await backup(app, folder)
        if differs == "the machine":
            monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        elif differs == "the file system":
            there = os.statvfs(app)
            figures = {name: getattr(there, name) for name in dir(there) if name[:2] == "f_"}
            other = SimpleNamespace(**figures | {"f_fsid": there.f_fsid + 1})
            monkeypatch.setattr("os.statvfs", lambda path: other)
        elif differs == "the path":
            folder = app.parent.rename(app.parent.with_name("after")) / "backups"
            app, first = folder.parent / "app.db", replace(first, path=folder / first.path.name)
        else:
            old = app.parent.with_name("before")
            app.parent.rename(old)
            app.parent.mkdir()
            for moved in old.iterdir():
                moved.rename(app.parent / moved.name)
        assert (await backup(app, folder, keep=1)).removed == ()
        assert first.path.exists()

    @pytest.mark.parametrize("how", ["it is open", "it has a log"])
    async def test_one_that_somebody_uses_stays(self, app: Path, folder: Path, how: str) -> None:
        first = (await backup(app, folder)).path
        if how == "it is open":
            with LockingProcess(first, "SELECT 1 FROM notes"):
                second = await backup(app, folder, keep=1)
        else:
            log = first.with_name(f"{first.name}-wal")
            log.touch()
            second = await backup(app, folder, keep=1)
            log.unlink()
        assert second.removed == ()
        assert (await backup(app, folder, keep=1)).removed == (first, second.path)

    async def test_of_two_at_the_same_time_one_is_left(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each could take the other's for the one too many."""
        both = threading.Barrier(2)
        module = sys.modules["abt_db.maintenance.backup"]
        remove = module._remove_old

        def together(*arguments: Any) -> Any:
            both.wait(SOON)  # both are in place
            return remove(*arguments)

        monkeypatch.setattr(module, "_remove_old", together)
        made = await asyncio.gather(*(backup(app, folder, keep=1) for _ in range(2)))
        assert list(folder.iterdir()) == [max(each.path for each in made)]

    async def test_what_came_to_be_there_meanwhile_is_not_written_over(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("abt_db.files.copying.STEPS", 1)
        copy = folder / "copy.db"
        with pytest.raises(MaintenanceError, match="exists already"):
            await vacuum_into(str(app), copy, lambda done, total: copy.write_text("mine"))
        assert (copy.read_text(), names(folder)) == ("mine", ["copy.db"])
        copy.unlink()
        copy.symlink_to("nowhere")
        with pytest.raises(MaintenanceError, match="exists already"):
            await vacuum_into(str(app), copy, lambda done, total: None)
        assert copy.is_symlink()

    async def test_what_killed_ones_have_left_is_removed(self, app: Path, folder: Path) -> None:
        done = run_script(
            """
            from abt_db.maintenance import backup
            def tell(done, total):
                os.kill(os.getpid(), signal.SIGKILL)
            asyncio.run(backup(path, Path(path).parent / "backups", tell=tell))
            """,
            app,
        )
        assert done.returncode == -signal.SIGKILL
        assert len(names(folder)) == 1
        made = await vacuum_into(str(app), folder / "copy.db", lambda done, total: None)
        assert made == (folder / "copy.db").stat().st_size
        assert names(folder) == ["copy.db"]

    @pytest.mark.parametrize("packed", [None, "gzip"])
    async def test_a_damaged_database_makes_no_backup(
        self, app: Path, folder: Path, packed: Any
    ) -> None:
        damage(app)
        with pytest.raises(CorruptError):
            await backup(app, folder, compression=packed)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("packed", [None, "gzip"])
    async def test_cancelled_it_leaves_nothing(
        self, app: Path, folder: Path, packed: Any, no_leaks: None
    ) -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def tell(done: int, total: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            deadline = monotonic() + SOON
            while not task.cancelling():
                assert monotonic() < deadline
                sleep(0.001)

        task = asyncio.create_task(backup(app, folder, compression=packed, tell=tell))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(folder.iterdir()) == []

    async def test_what_can_not_be_is_told(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(MaintenanceError, match="is not a database file"):
            await backup(folder / "missing.db", folder)
        with pytest.raises(MaintenanceError, match="is not a directory"):
            await backup(app, folder / "missing")
        with pytest.raises(ValueError, match="keep must be"):
            await backup(app, folder, keep=0)
        no_room(monkeypatch)
        with pytest.raises(MaintenanceError, match=r"needs 0\.\d MB in .*, and only 0\.0 MB"):
            await backup(app, folder)

    async def test_what_only_some_may_read_stays_theirs(self, app: Path, folder: Path) -> None:
        """Also while it is written, in a directory that only its owner may enter."""
        modes, directories = set(), set()

        def look(_done: int, _total: int) -> None:
            for file in folder.rglob("*"):
                (directories if file.is_dir() else modes).add(oct(file.stat().st_mode & 0o777))

        app.chmod(0o640)
        await vacuum_into(str(app), folder / "copy.db", look)
        await backup(app, folder, tell=look)
        await backup(app, folder, compression="gzip", tell=look)
        look(0, 0)
        assert (modes, directories) == ({"0o640"}, {"0o700"})

    async def test_a_copy_may_have_a_name_that_looks_like_an_address(
        self, app: Path, folder: Path
    ) -> None:
        """Where its path is absolute, so that it can't be meant as one."""
        await vacuum_into(str(app), folder / "file:copy.db?mode=ro", lambda done, total: None)
        assert names(folder) == ["file:copy.db?mode=ro"]

    async def test_what_a_crash_has_left_of_a_transaction_is_told(
        self, app: Path, folder: Path
    ) -> None:
        """SQLite says only that it may not write."""
        ask(app, "PRAGMA journal_mode = delete")
        with LockingProcess(
            app, "PRAGMA cache_size = 1", "BEGIN", "UPDATE notes SET text = hex(randomblob(900))"
        ):
            pass
        assert app.with_name("app.db-journal").stat().st_size
        with pytest.raises(CantOpenError, match="a transaction was interrupted there"):
            await backup(app, folder)
        with pytest.raises(CantOpenError, match="a transaction was interrupted there"):
            await vacuum_into(str(app), folder / "copy.db", lambda done, total: None)
        assert names(folder) == []

    async def test_no_copy_is_put_beside_the_log_of_another_database(
        self, app: Path, folder: Path
    ) -> None:
        """SQLite would read the log of one that was deleted in place of what is in the copy."""
        with LockingProcess(app, "PRAGMA wal_autocheckpoint = 0", "DELETE FROM notes"):
            log = app.with_name("app.db-wal").read_bytes()
        beside, copy = folder / "copy.db-wal", folder / "copy.db"
        beside.write_bytes(log)
        with pytest.raises(MaintenanceError, match=r"copy\.db-wal exists"):
            await vacuum_into(str(app), copy, lambda done, total: None)
        assert list(folder.iterdir()) == [beside]
        assert beside.read_bytes() == log


def later(backup: Path) -> Path:
    """The name of a backup that was made when the clock was ahead."""
    return backup.with_name(re.sub(r"-\d{8}T", "-20990101T", backup.name))


def early(backup: Path) -> Path:
    """The name of a backup that was made long ago."""
    return backup.with_name(re.sub(r"-\d{8}T", "-20000101T", backup.name))


def damage(path: Path) -> None:
    """Write noise into the middle of a database."""
    ask(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096 * 6)
        file.write(os.urandom(4096 * 20))


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1))


class TestRestore:
    """What is restored was checked before, and nobody has the database open meanwhile."""

    @pytest.mark.parametrize("packed", [None, "gzip", "xz"])
    async def test_a_damaged_backup_changes_nothing(
        self, app: Path, folder: Path, packed: Any
    ) -> None:
        file = (await backup(app, folder, compression=packed)).path
        before = app.read_bytes()
        content = bytearray(file.read_bytes())
        for spoilt in (
            bytes(content[: len(content) // 2]),
            bytes(content[:30_000]) + os.urandom(60_000) + bytes(content[90_000:]),
            b"",
        ):
            file.write_bytes(spoilt)
            with pytest.raises(CorruptError):
                await restore(file, app)
            assert app.read_bytes() == before
        assert names(app.parent) == ["app.db", "backups"]

    async def test_a_database_in_use_is_not_replaced(self, app: Path, folder: Path) -> None:
        file = (await backup(app, folder)).path
        async with Database(app):
            with pytest.raises(MaintenanceError, match=f"in use .process {os.getpid()}"):
                await restore(file, app)
        assert whole(app)

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    @pytest.mark.parametrize("sees", [True, False], ids=["/proc", "locks alone"])
    async def test_nor_one_that_another_process_has_open(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, sees: bool
    ) -> None:
        """Idle: without a write-ahead log such a connection has no lock that could be seen."""
        ask(app, f"PRAGMA journal_mode = {mode}")
        file = (await backup(app, folder)).path
        before = ask(app, "SELECT * FROM notes")
        busy = ["BEGIN"] if mode == "delete" and not sees else []
        if not sees:
            module = sys.modules["abt_db.maintenance.restore"]
            monkeypatch.setattr(module, "processes_with", lambda *files: set())
        with LockingProcess(app, *busy, "SELECT * FROM notes"):
            with pytest.raises(MaintenanceError, match=r"in use.*stop them first"):
                await restore(file, app)
        assert ask(app, "SELECT * FROM notes") == before
        await restore(file, app)
        assert names(app.parent) == ["app.db", "backups"]

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="it is seen on Linux alone")
    async def test_nor_one_that_somebody_opens_meanwhile(self, app: Path, folder: Path) -> None:
        file = (await backup(app, folder)).path
        ask(app, "PRAGMA journal_mode = delete")
        before = app.read_bytes()
        with ExitStack() as others:

            def tell(_done: int, _total: int) -> None:
                others.enter_context(LockingProcess(app, "SELECT * FROM notes"))

            with pytest.raises(MaintenanceError, match=r"in use.*stop them first"):
                await restore(file, app, tell=tell)
        assert app.read_bytes() == before

    def test_processes_that_end_while_they_are_looked_at_are_no_error(
        self, app: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone, here = Path("/proc/999999999"), Path(f"/proc/{os.getpid()}")
        monkeypatch.setattr(Path, "glob", lambda self, pattern: [gone, here])
        with app.open():
            assert processes_with(app) == {os.getpid()}

    async def test_the_log_of_a_program_that_was_killed_is_not_read_with_the_backup(
        self, app: Path, folder: Path
    ) -> None:
        file = (await backup(app, folder)).path
        with LockingProcess(app, "PRAGMA wal_autocheckpoint = 0", "DELETE FROM notes"):
            pass
        assert app.with_name("app.db-wal").stat().st_size
        await restore(file, app)
        assert whole(app)
        assert ask(app, "SELECT count(*) FROM notes") == [(100,)]

    @pytest.mark.parametrize("what", ["noise", "damaged", "nothing", "only its log"])
    async def test_a_database_that_is_lost_can_be_restored(
        self, app: Path, folder: Path, what: str
    ) -> None:
        file = (await backup(app, folder)).path
        with LockingProcess(app, "PRAGMA wal_autocheckpoint = 0", "DELETE FROM notes"):
            log = app.with_name("app.db-wal").read_bytes()
        if what == "noise":
            app.write_bytes(os.urandom(10_000))
        elif what == "damaged":
            damage(app)
        else:
            app.unlink()
        if what == "noise":
            app.with_name("app.db-wal").write_bytes(os.urandom(5_000))
        elif what == "only its log":  # SQLite would read it with any database of that name
            app.with_name("app.db-wal").write_bytes(log)
        await restore(file, app)
        assert whole(app)
        assert ask(app, "SELECT count(*) FROM notes") == [(100,)]
        assert names(app.parent) == ["app.db", "backups"]

    async def test_no_file_of_a_like_name_is_touched(self, app: Path, folder: Path) -> None:
        file = (await backup(app, folder)).path
        mine = {app.with_name(f"app.db.replaced{kind}") for kind in ("", "-wal", "-shm")}
        for damaged in False, True:
            for each in mine:
                each.write_text("mine")
            if damaged:
                app.write_bytes(os.urandom(10_000))
                app.with_name("app.db-wal").write_bytes(os.urandom(5_000))
            await restore(file, app)
            assert {each.read_text() for each in mine} == {"mine"}
        assert {each.name for each in app.parent.iterdir()} == {
            *(each.name for each in mine),
            *("app.db", "backups"),
        }

    async def test_what_fails_at_the_end_has_changed_nothing(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log of a database that is lost, which is moved away for a moment, is back."""
        file = (await backup(app, folder)).path
        with LockingProcess(app, "PRAGMA wal_autocheckpoint = 0", "DELETE FROM notes"):
            pass
        app.unlink()
        before = {each: each.read_bytes() for each in app.parent.glob("app.db-*")}
        assert len(before) == 2

        def fail(_file: int) -> None:
            assert not any(each.exists() for each in before)
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(MaintenanceError, match="Input/output error"):
            await restore(file, app)
        assert {
            each: each.read_bytes() for each in app.parent.iterdir() if each != folder
        } == before

    async def test_killed_while_the_old_log_is_away_it_leaves_all_of_the_old_database(
        self, app: Path, folder: Path
    ) -> None:
        file = (await backup(app, folder)).path
        old = {"app.db": os.urandom(10_000), "app.db-wal": os.urandom(5_000)}
        for name, content in old.items():
            app.with_name(name).write_bytes(content)
        done = run_script(
            f"""
            from abt_db.maintenance import restore
            Path.replace = lambda part, file: os.kill(os.getpid(), signal.SIGKILL)
            asyncio.run(restore({str(file)!r}, path))
            """,
            app,
        )
        assert done.returncode == -signal.SIGKILL
        [kept] = app.parent.glob("*.replaced")
        assert old.items() <= {each.name: each.read_bytes() for each in kept.iterdir()}.items()
        # Nothing else that is written there removes it; the next restore needs it no more.
        await backup(file, app.parent)
        await restore(file, app.with_name("other.db"))
        assert (kept / "app.db").exists() and (kept / "app.db-wal").exists()
        await restore(file, app)
        assert not kept.exists() and whole(app)

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="it is seen on Linux alone")
    async def test_one_that_was_deleted_under_its_users_is_in_use(
        self, app: Path, folder: Path
    ) -> None:
        file = (await backup(app, folder)).path
        with LockingProcess(app, "DELETE FROM notes WHERE id = 1"):
            app.unlink()
            log = app.with_name("app.db-wal").read_bytes()
            with pytest.raises(MaintenanceError, match=r"in use.*stop them first"):
                await restore(file, app)
            assert app.with_name("app.db-wal").read_bytes() == log
        assert not app.exists()

    async def test_a_database_that_somebody_makes_meanwhile_is_not_written_over(
        self, app: Path, folder: Path
    ) -> None:
        file, new = (await backup(app, folder)).path, folder / "new.db"
        with pytest.raises(MaintenanceError, match="exists already"):
            await restore(file, new, tell=lambda done, total: new.write_text("mine"))
        assert new.read_text() == "mine"

    async def test_it_belongs_to_whom_the_old_one_did(self, app: Path, folder: Path) -> None:
        file = (await backup(app, folder)).path
        if os.geteuid() == 0:
            os.chown(app, 12, 34)
        app.chmod(0o660)
        before = app.stat()
        await restore(file, app)
        after = app.stat()
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
        assert after.st_ino != before.st_ino
        assert oct(after.st_mode & 0o777) == "0o660"

    async def test_where_there_was_none_it_is_as_private_as_the_backup(
        self, app: Path, folder: Path
    ) -> None:
        app.chmod(0o600)
        await restore((await backup(app, folder, compression="gzip")).path, folder / "new.db")
        assert oct((folder / "new.db").stat().st_mode & 0o777) == "0o600"

    async def test_a_link_goes_on_to_lead_to_it(self, app: Path, folder: Path) -> None:
        file = (await backup(app, folder)).path
        ask(app, "DELETE FROM notes")
        link = app.with_name("link.db")
        link.symlink_to(app)
        await restore(file, link)
        assert link.is_symlink()
        assert ask(app, "SELECT count(*) FROM notes") == [(100,)]

    async def test_what_can_not_be_is_told(
        self, app: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(MaintenanceError, match="is not a file"):
            await restore(folder / "missing", app)
        with pytest.raises(MaintenanceError, match="could be put in place of"):
            await restore(app, app)
        with pytest.raises(MaintenanceError, match="could be put in place of"):
            await restore(app, folder)
        copy = make(folder / "copy.db")
        no_room(monkeypatch)
        with pytest.raises(MaintenanceError, match="make room"):
            await restore(copy, app)


# Runs a function in children that are killed, each at a later line of the modules that do the work;
# says after each kill what is there.
KILLED = """
import gzip, itertools, json, random, shutil, threading, time
from abt_db.maintenance import *
from test_maintenance import ask, names, whole

MODULES = {sys.modules[f"abt_db.{name}"].__file__
           for name in ("files.copying", "files.parts",
                        "maintenance.backup", "maintenance.restore")}

def child(work, line):
    passed = itertools.count()

    def trace(frame, event, _argument):
        if frame.f_code.co_filename not in MODULES:
            return None
        if event == "line" and next(passed) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    if line is not None:
        threading.settrace(trace)
    asyncio.run(work())
    os._exit(0)

def killed(work, line=None, after=None):
    process = os.fork()
    if not process:
        if after is not None:
            signal.setitimer(signal.ITIMER_REAL, after)  # SIGALRM ends it on the spot
        child(work, line)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status)

folder = Path(path).parent
step = 1 if os.environ.get("ABT_DB_LONG") else 7
"""
ENOUGH = HANG


class TestKilled:
    """Killed at any moment, no tool leaves a damaged database, nor half a backup."""

    def test_restore_at_each_line(self, app: Path, tmp_path: Path) -> None:
        """The old or the new database is there, whole; the next restore leaves nothing else."""
        done = run_script(
            KILLED
            + dedent("""
            saved = folder / "saved.db"
            shutil.copy(path, saved)
            ask(saved, "DELETE FROM notes WHERE id > 50")
            # The old one is as a program leaves it that is killed, with pages in its log.
            process = os.fork()
            if not process:
                cx = sqlite3.connect(path, isolation_level=None)
                cx.execute("PRAGMA wal_autocheckpoint = 0")
                cx.execute("DELETE FROM notes WHERE id > 90")
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(process, 0)
            old = {name: (folder / name).read_bytes() for name in ("app.db", "app.db-wal")}
            seen = []
            for line in itertools.count(random.randrange(step), step):
                for name, content in old.items():
                    (folder / name).write_bytes(content)
                (folder / "app.db-shm").unlink(missing_ok=True)
                if not killed(lambda: restore(saved, path), line):
                    break
                assert whole(Path(path)), line
                seen.append(ask(Path(path), "SELECT count(*) FROM notes")[0][0])
                if random.random() < 0.2:
                    assert not killed(lambda: restore(saved, path))
                    assert names(folder) == ["app.db", "saved.db"]
                for left in folder.glob("abt_db-*"):  # to clear it costs lines as well
                    shutil.rmtree(left)
            print(json.dumps([len(seen), sorted(set(seen)), seen == sorted(seen, reverse=True)]))
            """),
            app,
            seconds=ENOUGH,
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines, seen, in_order = json.loads(done.stdout)
        assert lines > 10
        if LONG:
            print(f"\na restore killed at each of {lines} lines")
        assert (seen, in_order) == ([50, 90], True)

    @pytest.mark.parametrize("packed", [None, "gzip"])
    def test_backup_at_each_line(self, app: Path, packed: str | None) -> None:
        """Each file with the name of a backup is one; the database is as it was."""
        done = run_script(
            f"packed = {packed!r}\n{KILLED}"
            + dedent("""
            b = folder / "b"

            def work():
                return backup(path, b, keep=2, compression=packed)

            def look(most):
                files = [file for file in b.iterdir() if file.suffix in (".db", ".gz")]
                assert 2 <= len(files) <= most, files
                for file in files:
                    if file.suffix == ".gz":
                        (folder / "out.db").write_bytes(gzip.decompress(file.read_bytes()))
                        file = folder / "out.db"
                    assert whole(file)

            b.mkdir()
            for _ in range(2):
                assert not killed(work)
            before = {file: file.read_bytes() for file in b.iterdir()}
            for line in itertools.count(random.randrange(step), step):
                if not killed(work, line):
                    break
                look(most=3)
                # As it was, for what is removed costs lines as well; a part of a file stays.
                for file in {*b.glob("*.db"), *b.glob("*.gz")} - before.keys():
                    file.unlink()
                for file, content in before.items():
                    file.write_bytes(content)
            assert line > 50
            look(most=2)
            assert whole(Path(path))
            assert not list(b.glob("*.part"))
            print(line)
            """),
            app,
            seconds=ENOUGH,
        )
        assert (done.returncode, done.stderr) == (0, "")
        if LONG:
            print(f"\na backup killed at each of {done.stdout.strip()} lines")

    def test_the_others_at_random_moments(self, tmp_path: Path) -> None:
        path = make(tmp_path / "app.db", rows=2000, free=True)
        done = run_script(
            KILLED
            + dedent("""
            into = folder / "into.db"
            async def work():
                async with Database(path) as db:
                    await vacuum(db, make_incremental=True)
                    await vacuum_step_by_step(db)
                    await reindex(db)
                    await analyze(db)
                    await db.checkpoint("truncate")
                await vacuum_into(path, into, lambda done, total: None)
            shutil.copy(path, folder / "before.db")
            began = time.monotonic()
            assert not killed(work)
            took = time.monotonic() - began
            count = 0
            into.unlink()
            for _ in range(100 if step == 1 else 10):
                for kind in "", "-wal", "-shm":
                    Path(path + kind).unlink(missing_ok=True)
                shutil.copy(folder / "before.db", path)
                count += killed(work, after=random.uniform(0.001, took))
                for file in [Path(path), *folder.glob("into.db")]:
                    assert whole(file)
                    assert ask(file, "SELECT count(*) FROM notes") == [(1000,)]
                into.unlink(missing_ok=True)
            print(count)
            """),
            path,
            seconds=ENOUGH,
        )
        assert (done.returncode, done.stderr) == (0, "")
        if LONG:
            print(f"\nthe others killed at {done.stdout.strip()} of 100 moments")
        assert int(done.stdout) >= 3


class TestVacuum:
    """Free pages go back to the disk; nobody fails meanwhile."""

    async def test_under_traffic_everyone_waits_or_goes_on(self, path: Path) -> None:
        """fault 54"""
        make(path, rows=2000, free=True)
        async with Database(path) as db:
            calls: list[int] = []

            async def use(number: int) -> None:
                while True:
                    await db.execute_batch([move(n=1, id=number) for move in MOVE[:2]])
                    await db.fetch_one(Query("n", "SELECT count(*) FROM notes", int)())
                    calls.append(number)

            users = [asyncio.create_task(use(number)) for number in range(5)]
            await until(lambda: calls)
            done = await vacuum(db)
            seen = len(calls)
            await until(lambda: len(calls) > seen + 5)
            assert not any(user.done() for user in users)
            for user in users:
                user.cancel()
            await asyncio.wait(users)
            assert done.gained > 0.4 * done.before
            await db.checkpoint("truncate")
            assert path.stat().st_size <= done.after + 4096 * 10
        assert whole(path)

    @pytest.mark.parametrize("journal", ["wal", "delete"])
    async def test_step_by_step_others_write_between_two_steps(
        self, path: Path, journal: Any
    ) -> None:
        make(path, rows=2400, free=True)
        async with Database(path, config=Config(journal_mode=journal)) as db:
            with pytest.raises(MaintenanceError, match="--make-incremental"):
                await vacuum_step_by_step(db)
            assert (await vacuum(db, make_incremental=True)).gained > 0
            ask(path, "DELETE FROM notes WHERE id % 4 = 0")
            [(free,)] = ask(path, "PRAGMA freelist_count")
            few = await vacuum_step_by_step(db, pages=10)
            assert 10 * 4096 <= few.gained <= 11 * 4096
            told: list[tuple[int, int]] = []
            commits = db.stats()["writer"]["commits"]

            def tell(done: int, total: int) -> None:
                told.append((done, total))

            done = await vacuum_step_by_step(db, tell=tell)
            assert told[-1][0] >= free - 10 and told[-1][1] == free - 10
            assert done.gained >= told[-1][0] * 4096  # and what has told of them
            assert db.stats()["writer"]["commits"] - commits == len(told) + 1 > 2
            assert (await check(db, full=True)).whole
        assert ask(path, "PRAGMA freelist_count") == [(0,)]
        assert whole(path)

    async def test_at_its_time_limit_nothing_has_changed(self, path: Path) -> None:
        make(path, rows=3000, free=True)
        async with Database(path) as db:
            with pytest.raises(StatementTimeoutError):
                await vacuum(db, timeout=0.001)
            [(free,)] = ask(path, "PRAGMA freelist_count")
            assert free > 100
            assert (await vacuum(db)).gained >= 0.9 * free * 4096
        assert whole(path)

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells")
    async def test_what_was_gained_is_the_disks_when_it_returns(self, path: Path) -> None:
        make(path, rows=1000, free=True)
        async with Database(path) as db:
            done = await vacuum(db)
            files = path, path.with_name("app.db-wal")
            assert done.gained > 0 and sum(f.stat().st_size for f in files) == done.after

    async def test_how_much_it_has_written_is_told(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """First the temporary file grows, then the log."""
        make(path, rows=3000)
        monkeypatch.setattr(sys.modules["abt_db.maintenance.vacuum"], "LOOK", 0.001)
        told: list[tuple[int, int]] = []
        async with Database(path) as db:
            await vacuum(db, tell=lambda done, total: told.append((done, total)))
        total = told[0][1]
        assert 2 * path.stat().st_size <= total <= 2.1 * path.stat().st_size
        assert told == sorted(told) and total / 4 < told[-1][0] <= total

    async def test_the_room_for_it_is_looked_for_first(
        self, app: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Database(app) as db:
            no_room(monkeypatch)
            with pytest.raises(MaintenanceError, match=r"VACUUM of .* needs .* MB in"):
                await vacuum(db)

    async def test_what_is_temporary_on_the_writer_stays(self) -> None:
        async with Database(":memory:") as db:
            await db.execute(Query("t", "CREATE TEMP TABLE t AS SELECT 7 AS x")())
            await vacuum(db)
            x = Query("x", "SELECT x FROM t", int)
            assert await db.write(lambda cx: cx.fetch_one(x())) == 7

    async def test_another_process_is_waited_for(self, app: Path) -> None:
        async with Database(app) as db:
            with LockingProcess(app) as other:
                task = asyncio.create_task(vacuum(db))
                await until(lambda: db.stats()["writer"]["busy"])
                other.kill()
                assert (await task).after > 0


def shape(path: Path) -> tuple[int, str, int]:
    """The size of a database's pages, its journal mode, and how many notes it has."""
    [(size,)], [(mode,)] = ask(path, "PRAGMA page_size"), ask(path, "PRAGMA journal_mode")
    [(notes,)] = ask(path, "SELECT count(*) FROM notes")
    return size, mode, notes


class TestPageSize:
    """The size of the pages changes for a file that nobody else has open; otherwise nothing does,
    and one in WAL mode is in it again, whatever comes between."""

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_it_changes_and_nothing_else(self, app: Path, mode: str, no_leaks: None) -> None:
        ask(app, f"PRAGMA journal_mode = {mode}")
        schema = ask(app, "SELECT * FROM sqlite_schema ORDER BY name")
        for size in (8192, 512, 65536):
            done = await change_page_size(app, size)
            assert shape(app) == (size, mode, 100)
            assert done.after == app.stat().st_size
        assert [row[:3] for row in ask(app, "SELECT * FROM sqlite_schema ORDER BY name")] == [
            row[:3] for row in schema
        ]
        assert whole(app)

    async def test_what_is_in_the_log_is_kept(self, app: Path) -> None:
        run_script(
            """
            cx = sqlite3.connect(path, isolation_level=None)
            cx.execute("PRAGMA wal_autocheckpoint = 0")
            cx.execute("DELETE FROM notes WHERE id > 60")
            os._exit(0)
            """,
            app,
        )
        assert app.with_name("app.db-wal").stat().st_size
        await change_page_size(app, 8192)
        assert shape(app) == (8192, "wal", 60) and whole(app)

    async def test_while_another_process_has_it_open_it_is_refused(self, app: Path) -> None:
        """Though that one does nothing with it."""
        with LockingProcess(app, "SELECT 1 FROM notes") as other:
            with pytest.raises(MaintenanceError, match="is open elsewhere") as caught:
                await change_page_size(app, 8192)
            if Path("/proc/self/fd").is_dir():
                assert f"(process {other._process.pid})" in str(caught.value)
            assert shape(app) == (4096, "wal", 100)
        await change_page_size(app, 8192)
        assert shape(app) == (8192, "wal", 100)

    async def test_while_this_process_has_it_open_it_is_refused(self, app: Path) -> None:
        async with Database(app) as db:
            with pytest.raises(MaintenanceError, match="is open elsewhere"):
                await change_page_size(app, 8192)
            assert await db.fetch_one(Query("n", "SELECT count(*) FROM notes", int)()) == 100
            await db.execute(MOVE[0](n=0, id=1))
        assert shape(app) == (4096, "wal", 100)

    @pytest.mark.parametrize("size", [0, 1000, 131072, True])
    async def test_what_can_be_no_size_of_a_page_is_refused(self, app: Path, size: int) -> None:
        before = app.read_bytes()
        with pytest.raises(ConfigError, match=r"Config\.page_size must be a power of two"):
            await change_page_size(app, size)
        assert app.read_bytes() == before

    async def test_at_its_time_limit_it_is_as_it_was(self, path: Path) -> None:
        make(path, rows=3000)
        with pytest.raises(StatementTimeoutError):
            await change_page_size(path, 8192, timeout=0.001)
        assert shape(path) == (4096, "wal", 3000) and whole(path)

    async def test_without_room_or_cancelled_it_is_as_it_was(
        self, app: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            no_room(patch)
            with pytest.raises(MaintenanceError, match="are free there"):
                await change_page_size(app, 8192)
        assert shape(app) == (4096, "wal", 100)
        modes: list[bool] = []

        def cancel(*_arguments: object) -> None:
            modes.append(look_at(app).wal)
            tasks[0].cancel()

        monkeypatch.setattr(sys.modules["abt_db.maintenance.vacuum"], "check_room", cancel)
        tasks = [asyncio.create_task(change_page_size(app, 8192))]
        await asyncio.wait(tasks)
        assert tasks[0].cancelled() and modes == [False]
        size, *rest = shape(app)  # the statement may be done before it is stopped
        assert size in (4096, 8192) and rest == ["wal", 100] and whole(app)

    async def test_one_who_opens_it_meanwhile_loses_nothing(
        self, app: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has put the file into WAL mode before VACUUM had its lock."""

        def meanwhile(*_arguments: object) -> None:
            ask(app, "PRAGMA journal_mode = wal")
            ask(app, "DELETE FROM notes WHERE id = 1")

        monkeypatch.setattr(sys.modules["abt_db.maintenance.vacuum"], "check_room", meanwhile)
        with pytest.raises(MaintenanceError, match="still has pages of 4096 bytes"):
            await change_page_size(app, 8192)
        assert shape(app) == (4096, "wal", 99) and whole(app)

    async def test_one_who_keeps_it_out_of_wal_mode_is_told(
        self, app: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = sys.modules["abt_db.maintenance.vacuum"]
        into_wal = module._into_wal

        async def late(path: Path) -> None:
            with LockingProcess(path, "BEGIN", "SELECT * FROM notes"):
                await into_wal(path)

        monkeypatch.setattr(module, "PATIENT", 0.01)
        monkeypatch.setattr(module, "_into_wal", late)
        with pytest.raises(MaintenanceError, match="has pages of 8192 bytes now, and could not be"):
            await change_page_size(app, 8192)
        assert shape(app) == (8192, "delete", 100) and whole(app)
        async with Database(app):
            pass
        assert shape(app) == (8192, "wal", 100)

    def test_killed_it_is_whole_and_in_wal_mode_when_it_is_next_opened(
        self, tmp_path: Path
    ) -> None:
        path = make(tmp_path / "app.db", rows=1000)
        done = run_script(
            KILLED
            + dedent("""
            from test_maintenance import shape
            module = sys.modules["abt_db.maintenance.vacuum"]
            module.LOOK = 0.001
            saved = folder / "saved"
            shutil.copy(path, saved)
            moments = ["out of WAL mode", 0.1, 0.4, 0.6, 0.8, 0.95]
            count = 0

            def die(*_arguments):
                os.kill(os.getpid(), signal.SIGKILL)

            async def work():
                if isinstance(moment, str):
                    module.check_room = die
                await module.change_page_size(path, 8192, tell=look)

            def look(done, total):
                if not isinstance(moment, str) and done > moment * total:
                    die()

            async def reopened():
                async with Database(path):
                    pass

            for moment in moments:
                for kind in "", "-wal", "-shm", "-journal":
                    Path(path + kind).unlink(missing_ok=True)
                shutil.copy(saved, path)
                died = killed(work)
                count += died
                left_wal = Path(path).read_bytes()[18] == 1
                assert left_wal == died or not isinstance(moment, str)
                assert whole(Path(path)), moment
                size, mode, notes = shape(Path(path))
                assert notes == 1000 and size in (4096, 8192), moment
                asyncio.run(reopened())
                assert shape(Path(path)) == (size, "wal", 1000), moment
            print(count)
            """),
            path,
            seconds=ENOUGH,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert int(done.stdout) >= 1  # at the first moment for certain


class TestStatistics:
    """ANALYZE reaches the plans of every connection."""

    @pytest.mark.parametrize("how", [optimize, analyze], ids=["optimize", "analyze"])
    async def test_readers_plan_by_them_from_then_on(
        self, path: Path, how: Callable[[Database], Any]
    ) -> None:
        """Also when there have been statistics before, and with another process at work."""
        fill = "INSERT INTO t WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000)"
        ask(path, "PRAGMA journal_mode = wal")
        for sql in (
            "CREATE TABLE t (a, b)",
            "CREATE INDEX by_a ON t (a)",
            "CREATE INDEX by_b ON t (b)",
            f"{fill} SELECT x, 1 FROM n",
        ):
            ask(path, sql)

        async with Database(path, config=Config(readers=1)) as db:
            number = count()

            async def index() -> str:
                # To explain a statement, SQLite does not look whether the schema is another by now,
                # nor if it has explained it before.
                await db.fetch_one(Query("t", "SELECT a FROM t WHERE a = 1", int)())
                sql = f"EXPLAIN QUERY PLAN SELECT {next(number)} FROM t WHERE a = 1 AND b = 1"
                [row] = await db.fetch_all(Query("plan", sql)())
                return str(row[3])

            await how(db)
            assert "by_a" in await index()
            await db.execute(Query("swap", "UPDATE t SET a = b, b = a")())
            with LockingProcess(path, "BEGIN", "SELECT * FROM t"):
                await analyze(db)  # `optimize` may think that not enough has changed
            assert "by_b" in await index()

    @pytest.mark.parametrize("name", ["texts", "nocase"])
    async def test_indexes_are_built_anew_all_or_by_name(self, app: Path, name: str) -> None:
        """A table is meant by its name, and not the collation that is called so."""
        ask(app, "ALTER TABLE notes RENAME TO nocase")
        # The index forgets a row: only a full check sees it, and REINDEX mends it.
        with closing(sqlite3.connect(app, isolation_level=None)) as raw:
            [(sql,)] = raw.execute("SELECT sql FROM sqlite_schema WHERE name = 'texts'")
            raw.execute("PRAGMA writable_schema = on")
            partial = "CREATE INDEX texts ON nocase (text) WHERE id > 1"
            raw.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'texts'", (partial,))
        with closing(sqlite3.connect(app, isolation_level=None)) as raw:
            raw.execute("REINDEX")
            raw.execute("PRAGMA writable_schema = on")
            raw.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'texts'", (sql,))
        async with Database(app) as db:
            assert (await check(db)).whole
            found = await check(db, full=True)
            assert not found.whole and "missing from index texts" in found.problems[0]
            with pytest.raises(MaintenanceError, match="no table or index"):
                await reindex(db, "nope")
            await reindex(db, name)
            assert (await check(db, full=True)).whole
            await reindex(db)


class TestCheck:
    """Damage is a result, told in SQLite's words; rows that refer to nothing are counted."""

    async def test_of_foreign_keys(self, path: Path) -> None:
        ask(path, "CREATE TABLE p (id INTEGER PRIMARY KEY)")
        ask(path, "CREATE TABLE c (p REFERENCES p)")
        ask(path, "INSERT INTO c VALUES (1), (2), (NULL)")
        async with Database(path, read_only=True) as db:
            found = await check(db)
        assert (found.dangling, found.problems, found.whole) == ({"c": 2}, (), False)

    async def test_of_pages(self, app: Path) -> None:
        damage(app)
        async with Database(app) as db:
            found = await check(db)
            assert found.problems and not found.whole

    async def test_of_pages_where_foreign_keys_can_not_be_checked(self, app: Path) -> None:
        ask(app, "CREATE TABLE c (n REFERENCES notes (text))")  # which is not unique
        ask(app, "INSERT INTO c VALUES (1)")
        async with Database(app) as db:
            with pytest.raises(StatementError, match="foreign key mismatch"):
                await check(db)
        with closing(sqlite3.connect(app, isolation_level=None)) as raw:
            raw.execute("PRAGMA writable_schema = on")
            raw.execute("DELETE FROM sqlite_schema WHERE name = 'texts'")
        async with Database(app) as db:
            first, *_, last = (await check(db)).problems
        assert "never used" in first and "foreign key mismatch" in last


class TestSchedule:
    """What `Config` asks for is done again and again, until the database is closed."""

    async def test_statistics(self, app: Path, no_leaks: None) -> None:
        async with Database(app, config=Config(optimize_interval=0)) as db:
            await until(lambda: ask(app, "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'"))
            seen = db.stats()["writer"]["loans"]
            await until(lambda: db.stats()["writer"]["loans"] > seen)
            # Somebody is in the way: a warning, and the next time it works.
            async with Holder(db.transaction()):
                pass

    async def test_damage_is_logged(
        self, app: Path, caplog: pytest.LogCaptureFixture, no_leaks: None
    ) -> None:
        damage(app)
        async with Database(app, config=Config(check_interval=0.05), read_only=True):
            await until(lambda: "is damaged" in caplog.text)


class TestCommands:
    """`abt-db vacuum` and the others: one clear sentence, JSON for machines, exit codes."""

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["vacuum"], 0, "app.db: 0.7 MB, was 0.7 MB; nothing gained in "),
            (["vacuum", "--into", "{}/into.db"], 0, "app.db with 0.7 MB; "),
            (
                ["vacuum", "--page-size", "8192"],
                0,
                "8,192 bytes; it was taken out of WAL mode",
            ),
            (["vacuum", "--page-size", "1000"], 2, "invalid choice: 1000"),
            (["vacuum", "--page-size", "512", "--into", "x"], 2, "not allowed with"),
            (["vacuum", "--incremental"], 1, "its auto_vacuum is off"),
            (["vacuum", "--incremental", "--into", "x"], 2, "not allowed with"),
            (["checkpoint"], 0, "app.db: the write-ahead log is empty"),
            (["checkpoint", "--mode", "truncate", "--wait", "0"], 2, "--wait"),
            (["backup", "{}"], 0, "Z.db: 0.7 MB in "),
            (["backup", "{}", "--keep", "0"], 2, "--keep"),
            (["backup", "{}/missing"], 1, "is not a directory"),
            (["restore", "{}/missing"], 1, "nothing to restore"),
            (["optimize"], 0, "app.db: done in "),
            (["optimize", "--full", "--reindex", "notes"], 0, "app.db: done in "),
            (["optimize", "--reindex", "nope"], 1, "no table or index"),
            (["integrity", "--full"], 0, "app.db: no damage found in "),
        ],
    )
    def test_what_they_say(
        self,
        app: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        code: int,
        said: str,
    ) -> None:
        name, *rest = [argument.format(tmp_path) for argument in arguments]
        try:
            result = main([name, "--db", str(app), *rest])
        except SystemExit as end:
            result = int(end.code or 0)
        told = capsys.readouterr()
        assert (result, said in (told.err if code else told.out)) == (code, True), told
        assert whole(app)

    def test_json_and_exit_codes(
        self, app: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def run(name: str, *arguments: str) -> tuple[int, Any]:
            code = main([name, "--db", str(app), *arguments, "--json"])
            return code, json.loads(capsys.readouterr().out)

        code, made = run("backup", str(folder), "--compress", "xz", "--keep", "1")
        assert (code, made["removed"]) == (0, [])
        assert run("restore", made["path"])[1]["size"] == made["database_size"]
        ask(app, "PRAGMA journal_mode = wal")
        assert run("vacuum", "--make-incremental")[1]["after"] > 0
        assert run("vacuum", "--incremental", "--pages", "5")[1]["seconds"] > 0
        assert run("optimize")[0] == 0
        with LockingProcess(app, "BEGIN", "SELECT * FROM notes") as other:
            ask(app, "DELETE FROM notes")
            code, done = run("checkpoint", "--mode", "full", "--wait", "0.01")
            assert (code, done["busy"]) == (1, True)
            assert done["readers"] == [f"process {other._process.pid}"]
        ask(app, "DROP TABLE notes")
        ask(app, "CREATE TABLE c (n REFERENCES one)")
        ask(app, "INSERT INTO c VALUES (77)")
        code, found = run("integrity")
        assert found.pop("seconds") > 0
        assert (code, found) == (1, {"problems": [], "dangling": {"c": 1}, "full": False})

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            ("vacuum", 1),
            ("vacuum --make-incremental", 1),
            ("vacuum --into {}/into.db", 1),
            ("backup {}", 1),
            ("backup {} --compress gzip", 1),
            ("optimize --reindex", 1),
            ("integrity", 1),
            ("integrity --full", 1),
            ("checkpoint --mode truncate", 0),
        ],
    )
    def test_a_damaged_database_is_not_made_worse(
        self,
        app: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        command: str,
        code: int,
    ) -> None:
        damage(app)
        before = app.read_bytes()
        name, *rest = command.format(tmp_path).split()
        assert main([name, "--db", str(app), *rest]) == code
        told = capsys.readouterr()
        said = told.out if name == "integrity" else told.err
        assert not code or "malformed" in said or f"{app} is damaged: " in said
        assert app.read_bytes() == before
        assert names(tmp_path) == ["app.db"]

    def test_the_journal_mode_of_a_database_is_left_as_it_is(
        self, app: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ask(app, "PRAGMA journal_mode = delete")
        for command in "vacuum", "optimize", "checkpoint", "integrity":
            assert main([command, "--db", str(app)]) == 0
        assert ask(app, "PRAGMA journal_mode") == [("delete",)]
        assert "has no write-ahead log" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "command",
        [
            *("vacuum", "checkpoint", "backup .", "optimize", "integrity", "doctor", "builds"),
            *("migrate status", "restore {app}", "restore --db new.db {long}"),
            *("backup --db {app} {long}", "vacuum --db {app} --into {long}"),
        ],
    )
    def test_a_path_that_can_not_be_is_told(
        self, app: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        long = "x" * 300
        name, *rest = command.format(app=app, long=long).split()
        assert main([name, *([] if "--db" in rest else ["--db", long]), *rest]) == 1
        assert capsys.readouterr().err.endswith("File name too long\n")

    def test_a_name_need_not_be_text(
        self, app: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In JSON it is what Python reads again as the name of that file."""
        odd = app.rename(os.fsdecode(os.fsencode(folder) + b"/\xff.db"))
        copy = os.fsdecode(os.fsencode(folder) + b"/\xfe.db")
        for command in ["vacuum", "--into", copy], ["integrity"], ["doctor"]:
            assert main([command[0], "--db", str(odd), *command[1:]]) == 0
        assert whole(Path(copy))
        capsys.readouterr()
        assert main(["backup", "--db", str(odd), str(folder), "--json"]) == 0
        assert Path(json.loads(capsys.readouterr().out.encode())["path"]).is_file()

    def test_none_of_them_makes_a_database(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        missing = str(tmp_path / "missing.db")
        for command in (["vacuum"], ["checkpoint"], ["backup", "."], ["optimize"], ["integrity"]):
            assert main([command[0], "--db", missing, *command[1:]]) == 1
            assert "there is no database" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
