"""Files that are damaged, protected, lost or full, and a system that has nothing left to give."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.engine import (
    ADD,
    ADD_MANY,
    COUNT,
    COUNT_TABLES,
    CREATE,
    NAMES,
    SOON,
    Driver,
    items,
    run_script,
    script,
)
from support.suite import descriptors, threads

from abt_db import (
    AbtDbError,
    CantOpenError,
    Config,
    CorruptError,
    Database,
    DiskIOError,
    FullError,
    MappingError,
    Query,
    QueryError,
    ReadOnlyError,
    Session,
)

SOUND = Query("sound", "PRAGMA integrity_check", str)
PAGE = 4096
NOBODY = 65534


def make(path: Path, mode: str, rows: int = 200) -> bytes:
    """A sound database of some pages, closed; return what is in the file."""
    path.write_bytes(made(mode, rows))
    return made(mode, rows)


@cache
def made(mode: str, rows: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.db"
        fill(path, mode, rows)
        return path.read_bytes()


def fill(path: Path, mode: str, rows: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(f"PRAGMA journal_mode = {mode}")
        raw.execute(CREATE.sql)
        raw.execute(ADD_MANY.sql, {"count": rows, "name": "x" * 100})


def folder_of(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


async def look(path: Path, **options: Any) -> int | None:
    """Open a file, read all of it, close it."""
    async with Database(path, config=Config(readers=1), **options) as db:
        await db.fetch_all(NAMES())
        return await db.fetch_one(COUNT())


def opened_or_refused(path: Path, **options: Any) -> AbtDbError | None:
    try:
        asyncio.run(look(path, **options))
    except AbtDbError as error:
        return error
    return None


ROOM = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class TestDamaged:
    """A file that is damaged, or is no database, is an error that says so, and stays as it is to
    the last byte: what can still be saved must not be made worse (fault 43)."""

    @pytest.mark.parametrize("read_only", [False, True])
    @given(st.binary(min_size=1, max_size=PAGE * 2))
    @example(b"x")
    @example(b"\0")
    @example(b"SQLite format 3\0")
    @example(b"SQLite format 3\0" + random.Random(1).randbytes(PAGE))
    @example(b"\0" * PAGE)
    @example(b"{}")
    @ROOM
    def test_what_is_no_database(self, path: Path, read_only: bool, data: bytes) -> None:
        path.write_bytes(data)
        before = folder_of(path)
        error = opened_or_refused(path, read_only=read_only)
        assert path.read_bytes() == data
        assert isinstance(error, CorruptError)
        assert str(path) in str(error)
        assert folder_of(path) == before

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    @pytest.mark.parametrize("read_only", [False, True])
    @given(size=st.integers(1, PAGE * 8))
    @example(1)
    @example(PAGE)
    @example(PAGE - 1)
    @example(PAGE + 1)
    @ROOM
    def test_a_truncated_one(self, path: Path, mode: str, read_only: bool, size: int) -> None:
        for left in folder_of(path):
            (path.parent / left).unlink()
        whole = make(path, mode)
        assert len(whole) > PAGE * 9
        path.write_bytes(whole[:size])
        error = opened_or_refused(path, read_only=read_only)
        assert path.read_bytes() == whole[:size]
        assert isinstance(error, CorruptError)

    @given(st.lists(st.tuples(st.integers(0, PAGE * 12), st.binary(min_size=1, max_size=64))))
    @ROOM
    def test_one_with_bytes_turned(self, path: Path, damage: list[tuple[int, bytes]]) -> None:
        """Not every damage can be seen; none may be spread by looking."""
        for left in folder_of(path):
            (path.parent / left).unlink()
        data = bytearray(make(path, "wal"))
        for at, value in damage:
            data[at : at + len(value)] = value
        if data[18:20] != b"\x02\x02":  # no WAL database by its header any more
            data[18:20] = b"\x02\x02"
        path.write_bytes(data)
        error = opened_or_refused(path)
        assert path.read_bytes() == data
        assert error is None or isinstance(error, QueryError | MappingError)

    async def test_damage_that_is_met_later_leaves_the_rest_readable(self, path: Path) -> None:
        whole = bytearray(make(path, "wal"))
        whole[PAGE * 5 :] = b"\xff" * (len(whole) - PAGE * 5)
        path.write_bytes(whole)
        async with Database(path, config=Config(readers=1)) as db:
            with pytest.raises(CorruptError, match=r"items\.names"):
                await db.fetch_all(NAMES())
            assert await db.fetch_one(COUNT_TABLES()) == 2  # its index is counted too
        assert path.read_bytes() == whole

    async def test_a_log_with_rubbish_behind_its_end(self, path: Path) -> None:
        """What has no valid checksum was never committed."""
        make(path, "wal", rows=3)
        run_script(
            """
            raw = sqlite3.connect(path, isolation_level=None)
            raw.execute("INSERT INTO items (name) VALUES ('in the log')")
            os._exit(0)
            """,
            path,
        )
        with Path(f"{path}-wal").open("ab") as log:
            log.write(random.Random(2).randbytes(3 * PAGE))
        async with Database(path) as db:
            assert await db.fetch_one(COUNT()) == 4
            assert await db.fetch_one(SOUND()) == "ok"


@contextmanager
def somebody_else() -> Iterator[None]:
    """Not root, who may do everything; does nothing where one is not root anyway."""
    if os.geteuid() != 0:
        yield
        return
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A path in a directory that other users can get at, as pytest's can't be."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder)
        inside.chmod(0o755)
        with somebody_else():
            if not os.access(inside, os.R_OK | os.X_OK):
                pytest.skip("there is no temporary directory that another user can read")
        yield inside / "app.db"
        inside.chmod(0o755)


def protect(path: Path, *, folder: bool) -> None:
    """Make a file and what is beside it read-only, or the folder."""
    for name in folder_of(path):
        (path.parent / name).chmod(0o644 if folder else 0o444)
    path.parent.chmod(0o555 if folder else 0o777)


class TestProtected:
    """A file or a directory that may not be written is opened with `read_only`, or the error says
    what is in the way; writes never seem to succeed (fault 45)."""

    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_it_can_be_read(self, public: Path, mode: str, folder: bool) -> None:
        data = make(public, mode)
        protect(public, folder=folder)
        with somebody_else():
            assert await look(public, read_only=True) == 200
        assert public.read_bytes() == data

    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    async def test_it_can_be_read_with_what_a_crash_has_left(
        self, public: Path, folder: bool
    ) -> None:
        make(public, "wal")
        run_script(
            """
            raw = sqlite3.connect(path, isolation_level=None)
            raw.execute("INSERT INTO items (name) VALUES ('in the log')")
            os._exit(0)
            """,
            public,
        )
        assert Path(f"{public}-wal").stat().st_size
        protect(public, folder=folder)
        with somebody_else():
            assert await look(public, read_only=True) == 201

    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_it_is_not_opened_to_be_written(
        self, public: Path, mode: str, folder: bool
    ) -> None:
        """Who opens it so is told at once, not by the first write."""
        data = make(public, mode)
        protect(public, folder=folder)
        with somebody_else():
            with pytest.raises((ReadOnlyError, CantOpenError)) as caught:
                await look(public)
        assert str(public) in str(caught.value)
        assert public.read_bytes() == data

    async def test_a_folder_in_which_no_file_can_be_made(self, public: Path) -> None:
        public.parent.chmod(0o555)
        with somebody_else():
            with pytest.raises(CantOpenError) as caught:
                await Database(public).open()
        assert str(public) in str(caught.value)

    @pytest.mark.parametrize("read_only", [False, True])
    async def test_a_file_that_can_not_be_read(self, public: Path, read_only: bool) -> None:
        make(public, "wal")
        public.chmod(0)
        with somebody_else():
            with pytest.raises(CantOpenError) as caught:
                await look(public, read_only=read_only)
        assert str(public) in str(caught.value)

    @pytest.mark.parametrize("read_only", [False, True])
    async def test_a_folder_that_can_not_be_entered(self, public: Path, read_only: bool) -> None:
        make(public, "wal")
        public.parent.chmod(0o700)
        with somebody_else():
            with pytest.raises(CantOpenError) as caught:
                await look(public, read_only=read_only)
        assert str(public) in str(caught.value)

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_reading_changes_nothing(self, path: Path, mode: str) -> None:
        """SQLite itself leaves the two files that it needs to read a WAL database, without content:
        https://www.sqlite.org/wal.html#readonly"""
        data = make(path, mode)
        assert await look(path, read_only=True) == 200
        assert path.read_bytes() == data
        left = folder_of(path) - {path.name}
        assert left <= ({f"{path.name}-wal", f"{path.name}-shm"} if mode == "wal" else set())
        assert not left or Path(f"{path}-wal").stat().st_size == 0

    async def test_reading_leaves_the_log_to_those_who_write(self, path: Path) -> None:
        """The last writer to close a database brings its log into the file; a reader must not."""
        data = make(path, "wal")
        run_script(
            """
            raw = sqlite3.connect(path, isolation_level=None)
            raw.execute("INSERT INTO items (name) VALUES ('in the log')")
            os._exit(0)
            """,
            path,
        )
        log = Path(f"{path}-wal").read_bytes()
        assert await look(path, read_only=True) == 201
        assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == (data, log)


class TestLostFile:
    """A database that is deleted or replaced while it is open takes no more writes, which would go
    into a file that nobody can find, and no other is opened in its place (fault 46)."""

    @pytest.mark.parametrize("other", [None, "another database"])
    @pytest.mark.parametrize("max_lifetime", [None, 0.0])
    async def test_is_noticed(
        self, path: Path, other: str | None, max_lifetime: float | None
    ) -> None:
        async with items(path, "a", max_lifetime=max_lifetime) as db:
            assert await db.fetch_one(COUNT()) == 1
            for ending in "-wal", "-shm", "":
                Path(f"{path}{ending}").unlink()
            if other is not None:
                make(path, "wal", rows=3)
            for write in (
                lambda: db.execute(ADD(name="b")),
                lambda: db.execute_many(ADD, [{"name": "b"}]),
                lambda: db.transaction().__aenter__(),
                lambda: db.write(lambda cx: None),
            ):
                with pytest.raises(CorruptError, match="deleted or replaced"):
                    await write()
            assert await db.fetch_all(NAMES()) == ["a"]
            with pytest.raises(CorruptError, match="deleted or replaced"):
                await db.resize(readers=3)
        assert path.exists() is (other is not None)
        if other is not None:
            assert await look(path) == 3

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_inside_a_transaction(self, path: Path, mode: str) -> None:
        """The look is behind all of its statements, and before the COMMIT."""
        away = path.with_name("away.db")

        def add_and_lose(cx: Session) -> None:
            cx.execute(ADD(name="b"))
            path.rename(away)

        async with items(path, "a", journal_mode=mode) as db:
            with pytest.raises(CorruptError, match="deleted or replaced"):
                async with db.transaction() as tx:
                    await tx.write(add_and_lose)
            away.rename(path)
            with pytest.raises(CorruptError, match="deleted or replaced"):
                await db.write(add_and_lose)
            away.rename(path)
            await db.execute(ADD(name="c"))
            assert await db.fetch_all(NAMES()) == ["a", "c"]

    async def test_put_back_it_is_as_before(self, path: Path) -> None:
        async with items(path, "a") as db:
            path.rename(f"{path}.away")
            with pytest.raises(CorruptError):
                await db.execute(ADD(name="b"))
            Path(f"{path}.away").rename(path)
            await db.execute(ADD(name="c"))
            assert await db.fetch_all(NAMES()) == ["a", "c"]


class TestLostLog:
    """The write-ahead log belongs to the database. Without it what was committed last is gone, but
    nothing else is, and nothing is made worse (fault 47)."""

    async def test_deleted_after_a_crash(self, path: Path) -> None:
        make(path, "wal")
        run_script(
            """
            raw = sqlite3.connect(path, isolation_level=None)
            raw.execute("UPDATE items SET name = name || 'late'")
            os._exit(0)
            """,
            path,
        )
        Path(f"{path}-wal").unlink()
        async with Database(path) as db:
            assert await db.fetch_one(COUNT()) == 200
            assert await db.fetch_one(SOUND()) == "ok"

    @pytest.mark.parametrize("ending", ["-wal", "-shm"])
    @pytest.mark.parametrize("how", ["deleted", "replaced", "a loop of links"])
    async def test_what_could_not_be_read_again_is_not_acknowledged(
        self, path: Path, ending: str, how: str
    ) -> None:
        """By whatever verb; and what was acknowledged before is there."""
        async with items(path, "a") as db:
            lost = Path(f"{path}{ending}")
            if how == "replaced":
                shutil.copy(lost, path.parent / "copy")
                (path.parent / "copy").replace(lost)
            else:
                lost.unlink()
            if how == "a loop of links":
                lost.symlink_to(lost)
            for write in (
                lambda: db.execute(ADD(name="b")),
                lambda: db.execute_batch([ADD(name="b")]),
                lambda: db.execute_many(ADD, [{"name": "b"}]),
                lambda: db.transaction().__aenter__(),
                lambda: db.write(lambda cx: cx.execute(ADD(name="b"))),
                lambda: asyncio.gather(*(db.execute(ADD(name=name)) for name in "bcd")),
            ):
                with pytest.raises(CorruptError, match=f"app.db{ending} was deleted or replaced"):
                    await write()
            with pytest.raises(CorruptError):
                await db.checkpoint("truncate")
            report = await db.run_batch([ADD(name="b")])
            assert (report.done, report.failed) == (0, 1)
            assert await db.fetch_all(NAMES()) == ["a"]  # what is open can still be read
            if how == "a loop of links":
                lost.unlink()
        async with Database(path) as db:
            assert await db.fetch_all(NAMES()) == ["a"]
            assert await db.fetch_one(SOUND()) == "ok"

    async def test_the_log_of_a_database_that_was_closed_in_between_is_another_one(
        self, path: Path
    ) -> None:
        """With the last connection SQLite deletes the log: that is no loss."""
        async with items(path, "a") as db:
            await db.close()
            await db.open()
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]

    def test_acknowledged_writes_outlive_a_kill(self, path: Path) -> None:
        """With a sync a commit, what was acknowledged behind the loss of the log would be gone."""
        run = run_script(
            """
            async def main():
                async with Database(path, config=Config.durable()) as db:
                    await db.execute(CREATE())
                    await db.checkpoint("truncate")
                    Path(path + "-wal").unlink()
                    written = 0
                    for number in range(5):
                        try:
                            await db.execute(ADD(name=str(number)))
                            written += 1
                        except CorruptError:
                            pass
                    print(written, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)

            asyncio.run(main())
            """,
            path,
        )
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT count(*) FROM items").fetchone() == (int(run.stdout),)

    def test_another_process_that_made_a_log_of_its_own_loses_nothing(self, path: Path) -> None:
        """Two processes would write into two logs, and the last to close would win."""
        make(path, "wal", rows=1)
        first_one = """
            async def main():
                async with Database(path) as db:
                    for name in "abc":
                        await db.execute(ADD(name=name))
                    print("written", flush=True)
                    sys.stdin.readline()
                    for name in "def":
                        try:
                            await db.execute(ADD(name=name))
                            print("lost", flush=True)
                        except CorruptError:
                            print("refused", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)

            asyncio.run(main())
            """
        with subprocess.Popen(
            [*script(first_one), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "written\n"
            Path(f"{path}-wal").unlink()
            Path(f"{path}-shm").unlink()
            with closing(sqlite3.connect(path, isolation_level=None)) as second:
                second.executemany("INSERT INTO items (name) VALUES (?)", [("x",), ("y",), ("z",)])
                told, _ = first.communicate("\n", timeout=60)
                assert told == "refused\n" * 3
        with closing(sqlite3.connect(path)) as third:
            names = {name for (name,) in third.execute("SELECT name FROM items")}
            assert {"x", "y", "z"} <= names
            assert third.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    async def test_the_log_of_another_database_is_not_taken_for_its_own(self, path: Path) -> None:
        other = path.with_name("other.db")
        make(path, "wal")
        make(other, "wal", rows=3)
        run_script(
            """
            raw = sqlite3.connect(path, isolation_level=None)
            raw.execute("PRAGMA wal_autocheckpoint = 0")
            raw.execute("UPDATE items SET name = 'foreign' || id")
            os._exit(0)
            """,
            other,
        )
        before = path.read_bytes()
        assert Path(f"{other}-wal").stat().st_size
        async with Database(path) as db:
            assert await db.fetch_one(COUNT()) == 200
        assert path.read_bytes() == before


async def add_in_a_transaction(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD(name="b"))


async def add_together(db: Database) -> None:
    adding = [db.execute(ADD(name=name)) for name in "bcd"]
    told = await asyncio.gather(*adding, return_exceptions=True)
    assert {type(error) for error in told} == {DiskIOError}
    raise told[0]  # type: ignore[misc]


class TestHotJournal:
    """Without a write-ahead log a COMMIT ends with the removal of the journal. Where that fails the
    journal is *hot*: no reader can undo it, so the writer does, before its caller hears of it."""

    @pytest.mark.parametrize(
        "write",
        [
            lambda db: db.execute(ADD(name="b")),
            lambda db: db.execute_many(ADD, [{"name": "b"}]),
            lambda db: db.write(lambda cx: cx.execute(ADD(name="b"))),
            add_in_a_transaction,
            add_together,
        ],
    )
    async def test_reads_go_on_when_the_commit_has_failed(
        self, public: Path, write: Callable[[Database], Awaitable[object]]
    ) -> None:
        def protect(mode: int) -> None:
            me = os.geteuid()
            with suppress(PermissionError):
                os.seteuid(0)  # whose directory it is, where root runs the tests
            public.parent.chmod(mode)
            os.seteuid(me)

        def hook(step: str) -> None:
            if step == "COMMIT":
                protect(0o555)
            elif step.startswith(("SELECT count(*) FROM sqlite_schema", "end")):
                protect(0o777)

        driver = Driver()
        public.parent.chmod(0o777)
        with somebody_else():
            async with items(public, "a", journal_mode="delete", connect=driver.connect) as db:
                driver.hook = hook
                with pytest.raises(DiskIOError, match="SQLITE_IOERR_DELETE"):
                    await write(db)
                driver.hook = lambda step: None
                assert await db.fetch_all(NAMES()) == ["a"]
                async with db.snapshot() as snapshot:
                    assert await snapshot.fetch_one(COUNT()) == 1
                await db.execute(ADD(name="e"))
                assert await db.fetch_all(NAMES()) == ["a", "e"]


class TestDescriptors:
    """Without a file descriptor to be had nothing is opened, and nothing is lost: it works again
    when there are some (fault 48)."""

    def test_none_left(self, path: Path) -> None:
        run = run_script(
            """
            import resource

            async def main():
                db = Database(path, config=Config(readers=3))
                async with db:
                    await db.execute(CREATE())
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                before = threads(), descriptors()
                failed = 0
                for room in range(30):
                    # descriptors() itself needs one for its answer.
                    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1 + room, hard))
                    try:
                        await db.open()
                        await db.execute(ADD(name=str(room)))
                        opened = True
                    except QueryError as error:
                        assert path in str(error), error
                        assert isinstance(error, CantOpenError), repr(error)
                        told = f"of the {before[1] - 1 + room} file descriptors"
                        assert told in str(error), error
                        opened = False
                        failed += 1
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    if opened:
                        await db.close()
                    assert (threads(), descriptors()) == before
                async with db:
                    print(failed, failed + await db.fetch_one(COUNT()))

            asyncio.run(main())
            """,
            path,
        )
        assert run.returncode == 0, run.stderr
        failed, all_of_them = map(int, run.stdout.split())
        assert 0 < failed < all_of_them == 30


class TestThreads:
    """Each connection has a thread; if none can be started, nothing is left of the attempt."""

    @pytest.mark.parametrize("lasting", [False, True])
    async def test_whichever_can_not_be_started(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool
    ) -> None:
        """The first, the second and so on, until it goes well; only that one, or all from it on."""
        failing = started = 0
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            nonlocal started
            started += 1
            if started == failing or (lasting and started > failing):
                raise RuntimeError("can't start new thread")
            start(thread)

        async with items(path, "a"):
            pass
        before = threads(), descriptors()
        monkeypatch.setattr(threading.Thread, "start", limited)
        while True:
            failing, started = failing + 1, 0
            db = Database(path, config=Config(readers=2))
            try:
                await db.open()
            except CantOpenError as error:
                assert f"opening {path}: can't start new thread" in str(error)
                assert (threads(), descriptors()) == before
            else:
                assert await db.fetch_all(NAMES()) == ["a"]
                await db.close()
                break
        assert failing > 6  # the connections' own, and those that make them daemons

    def test_where_no_thread_is_left(self, path: Path) -> None:
        """At open, at resize, in place of a connection that was lost, and for a copy."""
        run = run_script(
            """
            import resource
            import threading
            from abt_db.maintenance import vacuum_into

            GIB = 1 << 30
            threading.stack_size(GIB)

            class Crowd:
                # A block in which only so many threads can be started, for others have the memory.

                def __init__(self, count):
                    self.count = count

                def __enter__(self):
                    self.ends = []
                    pages = Path("/proc/self/statm").read_text().split()[0]
                    size = int(pages) * os.sysconf("SC_PAGE_SIZE") + 8 * GIB
                    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
                    self.fill()
                    for _ in range(self.count):
                        self.let_one_end()
                    return self

                def fill(self):
                    while True:
                        end = threading.Event()
                        thread = threading.Thread(target=end.wait)
                        try:
                            thread.start()
                        except RuntimeError:
                            break
                        self.ends.append((thread, end))

                def takes_another(self):
                    # A thread's memory is free some time after it has told of its end.
                    count = len(self.ends)
                    self.fill()
                    return len(self.ends) > count

                def let_one_end(self):
                    thread, end = self.ends.pop()
                    end.set()
                    thread.join()

                def __exit__(self, *_error):
                    infinite = resource.RLIM_INFINITY
                    resource.setrlimit(resource.RLIMIT_AS, (infinite, infinite))
                    while self.ends:
                        self.let_one_end()

            async def refused(call, kind=CantOpenError):
                try:
                    await call
                except kind as error:
                    assert "can't start new thread" in str(error), error
                else:
                    raise AssertionError("it went well")

            async def main():
                config = Config(readers=3, mmap_size=0)
                db = Database(path, config=config)
                async with db:
                    await db.execute(CREATE())
                before = threads(), descriptors()
                for count in range(4):
                    with Crowd(count):
                        await refused(db.open())
                    assert (threads(), descriptors()) == before, count

                driver = Driver()
                async with Database(path, config=config, connect=driver.connect) as db:
                    with Crowd(0) as crowd:
                        open_ones = threads(), descriptors()
                        await refused(db.resize(readers=5))
                        assert db.stats()["readers"]["size"] == 3
                        assert (threads(), descriptors()) == open_ones
                        await refused(
                            vacuum_into(path, path + ".copy", lambda done, total: None),
                            MaintenanceError,
                        )
                        await lose_writer(db, driver)
                        await until(crowd.takes_another)
                        await refused(db.execute(ADD(name="a")))
                        assert await db.fetch_one(COUNT()) == 0
                    await db.execute(ADD(name="b"))
                    assert await db.fetch_all(NAMES()) == ["b"]
                assert (threads(), descriptors()) == before
                print("done")

            asyncio.run(main())
            """,
            path,
        )
        assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr


def growing_to(pages: int) -> Callable[..., aiosqlite.Connection]:
    """Connect to a database that is full at a number of pages."""

    def connect(*args: Any, factory: Any, **options: Any) -> aiosqlite.Connection:
        class Small(factory):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                super().execute(f"PRAGMA max_page_count = {pages}")

        return aiosqlite.connect(*args, factory=Small, **options)

    return connect


FILL = """
async def fill(db, count=10_000):
    '''Add rows until there is no room; return how many were acknowledged, and the error.'''
    add = Query("fill", "INSERT INTO items (name) VALUES (hex(randomblob(5000)))")
    for number in range(count):
        try:
            await db.execute(add())
        except QueryError as error:
            return number, error
    raise AssertionError("it never became full")

async def check(db, count):
    '''Everything that was acknowledged is there, and nothing else.'''
    assert await db.fetch_one(COUNT()) == count
    assert await db.fetch_one(Query("sound", "PRAGMA integrity_check", str)()) == "ok"
"""


class TestFull:
    """A disk that is full fails the write that needs room, and only that: what was acknowledged is
    there, reads go on, and so do writes as soon as there is room (fault 49)."""

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    async def test_a_database_that_may_not_grow(self, path: Path, mode: str) -> None:
        config: dict[str, Any] = {"journal_mode": mode, "connect": growing_to(30)}
        async with items(path, "a", **config) as db:
            for _ in range(3):
                with pytest.raises(FullError, match=r"items\.add_many"):
                    await db.execute(ADD_MANY(count=2000, name="x" * 100))
                with pytest.raises(FullError):
                    await db.execute_batch([ADD(name="b"), ADD_MANY(count=2000, name="y" * 100)])
                with pytest.raises(FullError):
                    async with db.transaction() as tx:
                        await tx.execute(ADD(name="c"))
                        await tx.execute(ADD_MANY(count=2000, name="z" * 100))
                assert await db.fetch_all(NAMES()) == ["a"]
            await db.execute(ADD_MANY(count=100, name="fits"))
            await db.execute(Query("clear", "DELETE FROM items WHERE id > 1")())
            assert await db.fetch_one(SOUND()) == "ok"
        async with Database(path) as db:
            await db.execute(ADD_MANY(count=2000, name="x" * 100))
            assert await db.fetch_one(COUNT()) == 2001

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_files_that_may_not_grow(self, path: Path, mode: str) -> None:
        """RLIMIT_FSIZE. SQLite takes its EFBIG for a failed write, not for a full disk: in a
        statement, at COMMIT and in a checkpoint."""
        code = f"""
            import resource
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

            async def main():
                async with items(path, journal_mode="{mode}", cache_size=65536) as db:
                    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
                    count, error = await fill(db)
                    assert count and isinstance(error, FullError), repr(error)
                    assert "300,000 bytes in this process (RLIMIT_FSIZE" in str(error), error
                    await check(db, count)
                    assert (await fill(db))[0] == 0
                    try:
                        await db.execute(ADD_MANY(count=20_000, name="x" * 90))  # spills its cache
                    except FullError as error:
                        assert error.query == "items.add_many"
                    else:
                        raise AssertionError("there was room")
                    await check(db, count)  # also while there is no room: it was undone at once
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                    await db.execute(ADD(name="room"))
                    await check(db, count + 1)
                    if "{mode}" == "wal":
                        size = os.stat(path).st_size
                        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
                        try:
                            await db.checkpoint("truncate")
                        except FullError as error:
                            assert "RLIMIT_FSIZE" in str(error)
                        else:
                            raise AssertionError("all of the log went into the file")
                        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                        await check(db, count + 1)
                async with Database(path) as db:
                    await check(db, count + 1)
                print("done")

            asyncio.run(main())
            """
        run = run_script(FILL + textwrap.dedent(code), path)
        assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr

    async def test_a_write_that_fails_below_such_a_limit_is_an_error_of_the_disk(
        self, path: Path
    ) -> None:
        def connect(*args: Any, factory: Any, **options: Any) -> aiosqlite.Connection:
            class Broken(factory):  # type: ignore[misc]
                def execute(self, sql: str, *args: Any) -> Any:
                    if "wal_checkpoint(TRUNCATE)" in sql:
                        error = sqlite3.OperationalError("disk I/O error")
                        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
                        error.sqlite_errorname = "SQLITE_IOERR_WRITE"
                        raise error
                    return super().execute(sql, *args)

            return aiosqlite.connect(*args, factory=Broken, **options)

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        async with items(path, "a", connect=connect) as db:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, hard))
            try:
                with pytest.raises(DiskIOError, match=r"SQLITE_IOERR_WRITE"):
                    await db.checkpoint("truncate")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_a_transaction_that_takes_back_what_grew_too_large(self, path: Path) -> None:
        """Without a log its file could be small again when the error is looked at."""
        run = run_script(
            """
            import resource

            async def main():
                async with items(path, journal_mode="delete", cache_size=65536) as db:
                    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
                    try:
                        await db.execute(ADD_MANY(count=20_000, name="x" * 90))
                    except FullError as error:
                        print("1,000,000 bytes" in str(error))
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

            asyncio.run(main())
            """,
            path,
        )
        assert (run.stdout, run.returncode) == ("True\n", 0), run.stderr

    def test_copies_that_would_grow_beyond_it_are_not_begun(self, path: Path) -> None:
        run = run_script(
            """
            import resource
            from abt_db.maintenance import backup, vacuum_into

            async def main():
                async with items(path) as db:
                    await db.execute(ADD_MANY(count=5_000, name="x" * 100))
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                before = sorted(os.listdir(os.path.dirname(path)))
                for copying in (
                    backup(path, os.path.dirname(path)),
                    vacuum_into(path, path + ".copy", lambda done, total: None),
                ):
                    try:
                        await copying
                    except MaintenanceError as error:
                        assert "no file may grow beyond 0.1 MB" in str(error), error
                    else:
                        raise AssertionError("it was copied")
                assert sorted(os.listdir(os.path.dirname(path))) == before
                print("done")

            asyncio.run(main())
            """,
            path,
        )
        assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr

    def test_a_file_system_that_is_full(self, tmp_path: Path) -> None:
        """In a statement, at COMMIT, in a checkpoint, when it is opened, and after each of them."""
        code = """
            import subprocess

            def mount(*options):
                subprocess.run(["mount", *options, path], check=True)

            async def main():
                mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
                file = path + "/app.db"
                async with items(file, cache_size=65536) as db:
                    count, error = await fill(db)
                    assert count and isinstance(error, FullError), repr(error)
                    await check(db, count)
                    assert (await fill(db))[0] == 0
                    try:
                        await db.execute(ADD_MANY(count=20_000, name="x" * 90))  # spills its cache
                    except FullError:
                        pass
                    await check(db, count)
                    mount("-o", "remount,size=2m")
                    more, error = await fill(db)
                    count += more
                    assert more and isinstance(error, FullError), repr(error)
                    await check(db, count)
                # Closing could not bring all of the log into the file; it is not lost for that.
                try:
                    async with Database(file) as db:
                        await check(db, count)
                except QueryError as error:
                    assert isinstance(error, (FullError, DiskIOError)), repr(error)
                mount("-o", "remount,size=8m")
                async with Database(file) as db:
                    await check(db, count)
                    await db.execute(ADD(name="room"))
                print("done")

            asyncio.run(main())
            """
        if shutil.which("unshare") is None:
            pytest.skip("unshare is not on this machine")
        # A mount of its own, which ends with the process.
        may = subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)],
            capture_output=True,
        )
        if may.returncode != 0:
            pytest.skip("only root can mount a small file system")
        run = subprocess.run(
            ["unshare", "--mount", *script(FILL + textwrap.dedent(code)), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=SOON,
        )
        assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr
