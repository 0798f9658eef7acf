"""Opening a file: whichever name it has, whoever else has it open, and what is left if it fails."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import aiosqlite
import pytest
from support.engine import (
    ADD,
    COUNT,
    CREATE,
    NAMES,
    SOON,
    Driver,
    LockingProcess,
    items,
    lose_writer,
    until,
)
from support.suite import threads

from abt_db import AbtDbError, BusyError, CantOpenError, Config, CorruptError, Database, Query
from abt_db.maintenance import restore, vacuum_into

BUSY = 0.3
MODE = Query("mode", "PRAGMA journal_mode", str)


def names_in(path: Path) -> list[str]:
    """What another program finds in the file."""
    with closing(sqlite3.connect(path)) as raw:
        return [name for (name,) in raw.execute("SELECT name FROM items ORDER BY id")]


def make(path: Path, mode: str = "wal") -> None:
    """A database with the row `a`, as another program has left it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(f"PRAGMA journal_mode = {mode}")
        raw.execute(CREATE.sql)
        raw.execute("INSERT INTO items (name) VALUES ('a')")


ODD_NAMES = [
    "with space.db",
    "per%41cent%.db",
    "quest?mode=memory",
    "a?vfs=none&cache=shared#x",
    "ha#sh.db",
    "plus+and&;=.db",
    "quote'\"`.db",
    "new\nline.db",
    "back\\slash.db",
    "üñí-漢字-😀.db",
    "file:x",
    "file:y?mode=memory&cache=shared",
    "file::memory:",
    ":memory:x",
    "-dash.db",
    "~tilde",
    ".hidden",
    " ",
    os.fsdecode(b"not-utf8-\xff\xfe.db"),
]


class TestNames:
    """The file is the one of that name, whatever SQLite would make of the name as a URI."""

    @pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
    async def test_the_file_of_an_odd_name(self, tmp_path: Path, name: str) -> None:
        async with items(tmp_path / name, "a") as db:
            assert await db.fetch_all(NAMES()) == ["a"]
            assert name in {entry.name for entry in tmp_path.iterdir()}
            assert name in repr(db)
        assert [entry.name for entry in tmp_path.iterdir()] == [name]
        assert names_in(tmp_path / name) == ["a"]
        async with Database(tmp_path / name, read_only=True) as db:
            assert await db.fetch_all(NAMES()) == ["a"]

    @pytest.mark.parametrize(
        "name",
        ["app.db", "./file:app", "./:memory:", "./app.db", "../in/app.db", "memory", "profile:x"],
    )
    async def test_a_relative_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        inside = tmp_path / "in"
        inside.mkdir()
        monkeypatch.chdir(inside)
        async with items(name, "a"):
            pass
        assert names_in(inside / Path(name).name) == ["a"]

    @pytest.mark.parametrize("name", ["file.db/", "in/../file.db", "in//file.db", "./file.db"])
    async def test_a_roundabout_one(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "in").mkdir()
        async with items(f"{tmp_path}/{name}", "a"):
            pass
        found = list(tmp_path.rglob("file.db"))
        assert [names_in(path) for path in found] == [["a"]]

    async def test_one_that_begins_with_two_slashes(self, path: Path) -> None:
        """To POSIX it may be another root; on the systems that we know it is the same."""
        async with items(f"/{path}", "a"):
            pass
        assert names_in(path) == ["a"]

    async def test_a_symbolic_link_leads_to_its_file(self, tmp_path: Path) -> None:
        real, link = tmp_path / "real.db", tmp_path / "link.db"
        link.symlink_to(real)  # which does not exist yet
        async with items(link, "a"):
            # Both names must lead to one write-ahead log.
            assert names_in(real) == ["a"]
            assert not Path(f"{link}-wal").exists()
        assert link.is_symlink()
        async with Database(real) as db:
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_a_directory_with_an_odd_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "?mode=ro&x=%00#" / "ö"
        folder.mkdir(parents=True)
        async with items(folder / "app.db", "a"):
            pass
        assert names_in(folder / "app.db") == ["a"]

    @pytest.mark.parametrize("lost", ["reader", "writer"])
    async def test_a_relative_one_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
    ) -> None:
        """A connection that is opened later, in place of a lost one, opens the same file: not the
        one that has the same name in what is the working directory by then."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        make(elsewhere / "app.db")
        monkeypatch.chdir(tmp_path)
        driver = Driver()
        async with items("app.db", "ours", connect=driver.connect, readers=1) as db:
            monkeypatch.chdir(elsewhere)
            if lost == "writer":
                await lose_writer(db, driver)
            else:
                await driver.connections[-1].close()
                with suppress(Exception):
                    await db.fetch_all(NAMES())
                await until(lambda: db.stats()["readers"]["replaced"])
            assert await db.fetch_all(NAMES()) == ["ours"]
            await db.execute(ADD(name="too"))
            assert await db.fetch_all(NAMES()) == ["ours", "too"]
        assert names_in(elsewhere / "app.db") == ["a"]
        assert names_in(tmp_path / "app.db") == ["ours", "too"]


URIS = {
    "file:x?mode=memory&cache=shared": "write ':memory:'",
    "file::memory:?cache=shared": "write ':memory:'",
    "file::memory:?mode=ro": "write ':memory:'",
    "file:x?mode=memory&vfs=memdb": "write ':memory:'",
    "file:x.db": r"it is a URI: write the path, 'x\.db';",
    "file:x%20y.db?cache=shared": r"write the path, 'x y\.db';",
    "file:x.db?mode=ro": r"write the path, 'x\.db', with read_only=True",
    "file:x.db?mode=rw#f": r"write the path, 'x\.db', with Config\(create=False\)",
    "file:x.db?immutable=1&mode=ro": r"'x\.db', with read_only=True and Config\(immutable=True\)",
    "file:///srv/x.db": r"write the path, '/srv/x\.db'",
    "file://localhost/srv/x.db": r"write the path, '/srv/x\.db'",
    "file:/x?vfs=memdb": "it is a URI",
    "file:x?mode=MEMORY": "it is a URI",
    "file:": "it is a URI",
    "File:x.db": "it is a URI",
}
NEARLY_MEMORY = [":MEMORY:", " :memory:", ":memory: ", ":Memory:\n", ":memory", "':memory:'"]


class TestUris:
    """A path that SQLite, or its reader, would take for something else never becomes a file that
    is called so (fault 90)."""

    @pytest.mark.parametrize("path_of", [str, Path])
    @pytest.mark.parametrize("name", [*URIS, *NEARLY_MEMORY])
    async def test_is_refused_with_what_to_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path_of: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for settings in ({}, {"read_only": True}):
            db = Database(path_of(name), **settings)
            with pytest.raises(CantOpenError, match="by its absolute path") as refused:
                await db.open()
            assert refused.value.sqlite_errorname == "SQLITE_CANTOPEN"
            if path_of is str:
                assert re.search(URIS.get(name, "written ':memory:'"), str(refused.value))
        assert list(tmp_path.iterdir()) == []
        async with items(tmp_path / name.replace("/", "_"), "a"):
            pass

    @pytest.mark.parametrize(
        "name",
        [
            "file::memory:",
            "file:%3Amemory%3a",
            "file::memory:?mode=memory&cache=private",
            "file:x?mode=memory",
            "file:?mode=memory",
            "file:///x/y?mode=memory",
            Path(":memory:"),
        ],
    )
    async def test_that_of_a_private_database_in_memory_is_served_as_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | Path
    ) -> None:
        """One connection then serves both lanes, and two Databases are two (invariant 25)."""
        monkeypatch.chdir(tmp_path)
        db = Database(name, config=Config(readers=3))
        assert (db.path, repr(db)) == (":memory:", "<Database :memory:: closed>")
        async with db, Database(name) as other:
            for each in (db, other):
                await each.execute(CREATE())
            await db.execute(ADD(name="a"))
            assert await db.fetch_all(NAMES()) == ["a"]
            assert await other.fetch_all(NAMES()) == []
            async with db.snapshot() as view:
                assert await view.fetch_one(COUNT()) == 1
        assert list(tmp_path.iterdir()) == []

    async def test_the_empty_name_of_a_temporary_database(self) -> None:
        with pytest.raises(CantOpenError, match="a database in memory is written ':memory:'"):
            await Database("").open()

    @pytest.mark.parametrize(
        ("target", "told"),
        [
            ("file:copy.db?mode=ro", "write the path"),
            (":memory:", "in memory, and no file"),
            (" :memory:", "is written ':memory:'"),
            ("", "is not a path"),
        ],
    )
    async def test_nothing_is_copied_to_such_a_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, told: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make(tmp_path / "app.db")
        before = sorted(tmp_path.iterdir())
        for copying in (
            vacuum_into("app.db", target, lambda done, total: None),
            restore("app.db", target),
        ):
            with pytest.raises(CantOpenError, match=told):
                await copying
        assert sorted(tmp_path.iterdir()) == before


class TestMemory:
    """`:memory:` is one database for readers and writer (invariant 25)."""

    async def test_what_is_written_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        async with items(":memory:", "a", readers=4) as db:
            assert await db.fetch_all(NAMES()) == ["a"]
            async with db.snapshot() as snapshot:
                assert await snapshot.fetch_all(NAMES()) == ["a"]
        assert list(tmp_path.iterdir()) == []

    async def test_two_are_two(self) -> None:
        async with items(":memory:", "a") as one, items(":memory:") as two:
            assert (await one.fetch_one(COUNT()), await two.fetch_one(COUNT())) == (1, 0)

    async def test_it_begins_empty_each_time(self) -> None:
        db = Database(":memory:")
        for _ in range(2):
            async with db:
                await db.execute(CREATE())

    async def test_one_that_can_never_be_filled_is_refused(self) -> None:
        with pytest.raises(AbtDbError, match="memory"):
            await Database(":memory:", read_only=True).open()


def missing_folder(path: Path) -> str:
    return str(path / "app.db")


def folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def below_a_file(path: Path) -> str:
    path.write_bytes(b"")
    return str(path / "app.db")


def dangling(path: Path) -> str:
    path.symlink_to(path.parent / "nowhere" / "app.db")
    return str(path)


def endless(path: Path) -> str:
    path.symlink_to(path)
    return str(path)


class TestImpossible:
    """A path that can't be a database is one clear error with the path in it, and leaves nothing
    behind: no file, no thread, no descriptor (fault 42, invariant 22)."""

    @pytest.mark.parametrize(
        "at",
        [
            missing_folder,
            folder,
            below_a_file,
            dangling,
            endless,
            lambda path: "",
            lambda path: f"{path}\0",
            lambda path: f"{path.parent}/{'x' * 300}",
            lambda path: f"{path.parent}/{'x' * 300}/app.db",
            lambda path: f"{path.parent}/{'x/' * 3000}app.db",
        ],
        ids=[
            *("missing folder", "folder", "below a file", "dangling", "endless"),
            *("empty", "nul", "long name", "long folder", "long path"),
        ],
    )
    @pytest.mark.usefixtures("no_leaks")
    async def test_is_told(self, path: Path, at: Callable[[Path], str]) -> None:
        impossible = at(path)
        before = sorted(path.parent.iterdir())
        for read_only in (False, True):
            for create in (False, True):
                config = Config(readers=2, create=create)
                with pytest.raises(CantOpenError) as caught:
                    await Database(impossible, config=config, read_only=read_only).open()
                assert impossible in str(caught.value) or repr(impossible)[1:-1] in str(
                    caught.value
                )
        assert sorted(path.parent.iterdir()) == before

    @pytest.mark.usefixtures("no_leaks")
    async def test_a_file_that_must_be_there_is_not_made(self, path: Path) -> None:
        with pytest.raises(CantOpenError, match="does not exist"):
            await Database(path, read_only=True).open()
        with pytest.raises(CantOpenError, match="does not exist"):
            await Database(path, config=Config(create=False)).open()
        assert list(path.parent.iterdir()) == []

    async def test_it_can_be_opened_when_the_obstacle_has_gone(self, path: Path) -> None:
        db = Database(path / "app.db")
        with pytest.raises(CantOpenError):
            await db.open()
        path.mkdir()
        async with db:
            await db.execute(CREATE())

    async def test_no_thread_is_left_when_sqlite_can_not_open_it(self, path: Path) -> None:
        """It would end by itself, but into a loop that is closed by then."""
        impossible = dangling(path)
        for _ in range(10):
            before = threads()
            with pytest.raises(CantOpenError):
                await Database(impossible, config=Config(readers=1)).open()
            assert threads() == before

    @pytest.mark.parametrize("broken", range(4))
    @pytest.mark.usefixtures("no_leaks")
    async def test_whichever_connection_fails_nothing_stays_open(
        self, path: Path, broken: int
    ) -> None:
        """fault 62"""
        make(path)
        opened = 0

        def connect(name: str, **options: Any) -> aiosqlite.Connection:
            nonlocal opened
            opened += 1
            if opened == broken + 1:
                name = f"file:{path.parent}/missing/app.db?mode=ro"
            return aiosqlite.connect(name, **options)

        db = Database(path, config=Config(readers=3), connect=connect)
        with pytest.raises(CantOpenError):
            await db.open()
        async with db:
            assert await db.fetch_one(COUNT()) == 1


class TestJournalModes:
    """A database in another journal mode is brought into the one that is asked for, with all that
    is in it, if nobody else has it open."""

    @pytest.mark.parametrize("before", ["wal", "delete", "truncate", "persist", "memory", "off"])
    @pytest.mark.parametrize("wanted", ["wal", "delete", "truncate", "persist"])
    async def test_from_each_to_each(self, path: Path, before: str, wanted: str) -> None:
        make(path, before)
        async with Database(path, config=Config(journal_mode=wanted)) as db:  # type: ignore[arg-type]
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]
            assert await db.write(lambda cx: cx.fetch_one(MODE())) == wanted
        assert names_in(path) == ["a", "b"]

    async def test_a_log_that_a_crash_has_left_is_read(self, path: Path) -> None:
        with LockingProcess(
            path,
            "PRAGMA journal_mode = wal",
            CREATE.sql,
            "INSERT INTO items (name) VALUES ('in the log')",
        ) as crashing:
            crashing.kill()
        assert Path(f"{path}-wal").stat().st_size
        async with Database(path, read_only=True) as db:
            assert await db.fetch_all(NAMES()) == ["in the log"]
        async with Database(path) as db:
            assert await db.fetch_all(NAMES()) == ["in the log"]

    async def test_a_transaction_that_a_crash_has_left_is_undone(self, path: Path) -> None:
        """A hot rollback journal (https://www.sqlite.org/lockingv3.html#hot_journals)."""
        make(path, "delete")
        with LockingProcess(
            path,
            "PRAGMA cache_size = 1",
            "BEGIN IMMEDIATE",
            "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 5000)"
            " INSERT INTO items (name) SELECT hex(zeroblob(50)) || x FROM n",
        ) as crashing:
            crashing.kill()
        assert Path(f"{path}-journal").stat().st_size
        async with Database(path) as db:
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_not_while_another_has_it_open(self, path: Path) -> None:
        make(path)
        with LockingProcess(path, "SELECT * FROM items"):
            config = Config(journal_mode="delete", busy_timeout=BUSY)
            with pytest.raises(BusyError, match=path.name):
                await Database(path, config=config).open()
        async with Database(path, config=config) as db:
            assert await db.fetch_all(NAMES()) == ["a"]


class TestLocked:
    """A file that another process keeps locked is waited for, as long as `busy_timeout` says."""

    @pytest.mark.parametrize("read_only", [False, True])
    @pytest.mark.usefixtures("no_leaks")
    async def test_not_for_longer(self, path: Path, read_only: bool) -> None:
        make(path, "delete")
        db = Database(path, config=Config(busy_timeout=BUSY), read_only=read_only)
        with LockingProcess(path, "BEGIN EXCLUSIVE"):
            began = monotonic()
            with pytest.raises(BusyError, match=path.name):
                await db.open()
            assert BUSY <= monotonic() - began < BUSY + SOON
        async with db:
            assert await db.fetch_all(NAMES()) == ["a"]

    async def test_a_writer_at_work_does_not_keep_anyone_from_opening(self, path: Path) -> None:
        make(path)
        with LockingProcess(path):
            began = monotonic()
            async with Database(path, config=Config(busy_timeout=SOON)) as db:
                assert await db.fetch_all(NAMES()) == ["a"]
            assert monotonic() - began < SOON


VISITOR = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as raw:
    print(*(name for (name,) in raw.execute("SELECT name FROM items ORDER BY id")))
raw.close()
"""


def visit(path: Path) -> list[str]:
    """Have another process open the database, read it, and close it."""
    command = [sys.executable, "-c", VISITOR, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


class TestVisitors:
    """A program that opens the file and goes again takes nothing along.

    Whoever closes a database as the last one deletes its log, and knows by the locks of the others
    whether it is the last. Those of this process are gone as soon as *any* descriptor of the file
    is closed in it (https://www.sqlite.org/howtocorrupt.html, 2.2), so nothing in it may open the
    file but SQLite: the others would delete the log that is written here (invariant 28).
    """

    async def test_see_what_was_committed_and_leave_the_log_where_it_is(self, path: Path) -> None:
        async with items(path, "a", readers=3) as db:
            for number in range(1, 4):
                assert len(visit(path)) == number
                assert Path(f"{path}-wal").exists()
                await db.execute(ADD(name=str(number)))
            assert visit(path) == await db.fetch_all(NAMES())
        assert visit(path) == ["a", "1", "2", "3"]

    async def test_also_after_another_database_was_opened_here(self, path: Path) -> None:
        """The same file twice in one process, writing or only reading, or tried in vain."""
        async with items(path, "a") as db:
            async with Database(path), Database(path, read_only=True):
                assert visit(path) == ["a"]
            config = Config(journal_mode="delete", busy_timeout=0)
            with pytest.raises(BusyError):
                await Database(path, config=config).open()
            assert visit(path) == ["a"]
            assert Path(f"{path}-wal").exists()
            await db.execute(ADD(name="b"))
            assert visit(path) == ["a", "b"]

    async def test_also_after_a_connection_was_replaced(self, path: Path) -> None:
        driver = Driver()
        async with items(path, "a", connect=driver.connect) as db:
            await lose_writer(db, driver)
            await db.execute(ADD(name="b"))
            assert visit(path) == ["a", "b"]
            assert Path(f"{path}-wal").exists()
            await db.execute(ADD(name="c"))
            assert visit(path) == ["a", "b", "c"]


class TestNoDatabase:
    """What is no database is told from one that is empty."""

    @pytest.mark.parametrize("read_only", [False, True])
    @pytest.mark.usefixtures("no_leaks")
    async def test_an_empty_file_where_one_must_be(self, path: Path, read_only: bool) -> None:
        """fault 44"""
        path.touch()
        with pytest.raises(CorruptError, match=f"{path.name}.*empty"):
            await Database(path, config=Config(create=False), read_only=read_only).open()
        assert path.read_bytes() == b""

    async def test_an_empty_file_is_a_new_database_where_one_may_be_made(self, path: Path) -> None:
        path.touch()
        async with items(path, "a"):
            pass
        assert names_in(path) == ["a"]

    async def test_an_empty_database_can_be_opened_again(self, path: Path) -> None:
        async with Database(path):
            pass
        for config, read_only in [(Config(create=False), False), (Config(), True)]:
            async with Database(path, config=config, read_only=read_only) as db:
                assert (
                    await db.fetch_one(Query("q", "SELECT count(*) FROM sqlite_schema", int)()) == 0
                )
