"""Files that are damaged, protected, lost or full, and a system that has nothing left to give."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from engine import (
    ADD,
    ADD_MANY,
    COUNT,
    COUNT_TABLES,
    CREATE,
    NAMES,
    SOON,
    items,
    run_script,
    script,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from abt_db import (
    AbtDbError,
    CantOpenError,
    Config,
    CorruptError,
    Database,
    FullError,
    MappingError,
    Query,
    QueryError,
    ReadOnlyError,
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
    the last byte: what can still be saved must not be made worse (faults.md 43)."""

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
    what is in the way; writes never seem to succeed (faults.md 45)."""

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
    into a file that nobody can find, and no other is opened in its place (faults.md 46)."""

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
    nothing else is, and nothing is made worse (faults.md 47)."""

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

    async def test_deleted_in_the_middle_of_work(self, path: Path) -> None:
        async with items(path, "a") as db:
            Path(f"{path}-wal").unlink()
            await db.execute(ADD(name="b"))
            assert await db.fetch_all(NAMES()) == ["a", "b"]
        async with Database(path) as db:
            assert await db.fetch_all(NAMES()) == ["a", "b"]
            assert await db.fetch_one(SOUND()) == "ok"

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


class TestDescriptors:
    """Without a file descriptor to be had nothing is opened, and nothing is lost: it works again
    when there are some (faults.md 48)."""

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
    there, reads go on, and so do writes as soon as there is room (faults.md 49)."""

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
        """RLIMIT_FSIZE. SQLite takes its EFBIG for a failed write, not for a full disk."""
        code = f"""
            import resource
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

            async def main():
                async with items(path, journal_mode="{mode}") as db:
                    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
                    count, error = await fill(db)
                    assert count and isinstance(error, (FullError, DiskIOError)), repr(error)
                    await check(db, count)
                    assert (await fill(db))[0] == 0
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                    await db.execute(ADD(name="room"))
                    await check(db, count + 1)
                async with Database(path) as db:
                    await check(db, count + 1)
                print("done")

            asyncio.run(main())
            """
        run = run_script(FILL + textwrap.dedent(code), path)
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
