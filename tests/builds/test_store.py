"""`BuildStore.open`: the file is the build database of this program, or it is left as it was."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.engine import Driver, Turns, run_in_turns
from support.suite import SOON, descriptors, threads
from test_migrations import applied, ask, notes, nothing_written, replayed, state, step, table

from abt_db import CantOpenError, Config, CorruptError, Database, PoolClosedError, Query
from abt_db.builds.store import BuildStore
from abt_db.errors import (
    MigrationChangedError,
    MigrationError,
    MigrationFailedError,
    MigrationUnknownError,
)
from abt_db.migrations import Migrator, load_migrations
from abt_db.schema import APPLICATION_ID

STEPS = load_migrations("abt_db.schema")
VERSIONS = [migration.version for migration in STEPS]
STATES = replayed(STEPS)
PROJECT = (
    "INSERT INTO projects (name, project_type, repository_url, local_path) VALUES (?, '', '', '')"
)
PROJECTS = Query("projects.names", "SELECT name FROM projects", str)

pytestmark = pytest.mark.usefixtures("no_leaks")


@contextmanager
def untouched(path: Path) -> Iterator[None]:
    """Fail if the file is another one after this block, or has something in its log."""
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before
    log = path.with_name(f"{path.name}-wal")
    assert not log.exists() or log.stat().st_size == 0


async def opened(path: Path, **config: Any) -> None:
    """Open the file, find the build database there, and close it."""
    async with await BuildStore.open(path, config=Config(readers=1, **config)) as store:
        await store.db.fetch_all(PROJECTS())
    assert applied(path) == VERSIONS
    assert state(path)[0] == STATES[-1][0]
    assert ask(path, "PRAGMA application_id") == [(APPLICATION_ID,)]


async def migrate(path: Path, *migrations: Any, up: int | None = None) -> None:
    """What another program, or another version of this one, has done with the file."""
    async with Database(path, config=Config(readers=1)) as db:
        await Migrator(db, migrations or STEPS).up(up)


def into_one_file(path: Path) -> None:
    """Leave the write-ahead log, as a copy by `VACUUM INTO` has."""
    assert ask(path, "PRAGMA journal_mode = delete") == [("delete",)]


class TestOpen:
    """The file is made if need be and its schema brought up to date; what is in it is kept."""

    async def test_a_new_file(self, path: Path) -> None:
        await opened(path)
        assert ask(path, "PRAGMA journal_mode") == [("wal",)]

    async def test_one_that_is_there_is_opened_and_nothing_written(self, path: Path) -> None:
        await opened(path)
        ask(path, PROJECT, "maps")
        with nothing_written(path):
            async with await BuildStore.open(str(path)) as store:
                assert await store.db.fetch_all(PROJECTS()) == ["maps"]

    async def test_no_other_process_can_take_its_log_away(self, path: Path) -> None:
        """As could be done when the locks were lost: by closing any file descriptor of the
        database in this process, https://www.sqlite.org/howtocorrupt.html."""
        code = """
import sqlite3, sys
try:
    print(*sqlite3.connect(sys.argv[1], timeout=0).execute("PRAGMA journal_mode = delete"))
except sqlite3.OperationalError as error:
    print(error)
"""
        async with await BuildStore.open(path):
            for _ in range(2):
                other = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-c", code, str(path), stdout=subprocess.PIPE
                )
                told, _ = await other.communicate()
                assert told == b"database is locked\n"
                await opened(path)  # a second one in this process

    async def test_a_database_in_memory(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            assert await store.db.fetch_all(PROJECTS()) == []

    async def test_an_empty_file_is_as_good_as_none(self, path: Path) -> None:
        path.touch()
        await opened(path)

    async def test_an_empty_database(self, path: Path) -> None:
        ask(path, "PRAGMA journal_mode = wal")
        await opened(path)

    async def test_where_a_database_must_exist_an_empty_file_is_an_error(self, path: Path) -> None:
        """fault 44"""
        path.touch()
        with pytest.raises(CorruptError, match="empty"):
            await opened(path, create=False)
        assert path.stat().st_size == 0

    async def test_where_a_database_must_exist_none_is_made(self, path: Path) -> None:
        with pytest.raises(CantOpenError, match="does not exist"):
            await opened(path, create=False)
        assert not path.exists()

    @pytest.mark.parametrize("version", VERSIONS[:-1])
    async def test_an_older_schema_is_brought_up_and_its_rows_are_kept(
        self, path: Path, version: int
    ) -> None:
        await migrate(path, up=version)
        ask(path, PROJECT, "maps")
        await opened(path)
        assert ask(path, "SELECT name FROM projects") == [("maps",)]

    async def test_after_all_was_taken_back(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            assert await Migrator(store.db, STEPS).down(0) == VERSIONS[::-1]
        await opened(path)

    async def test_after_a_first_try_that_failed(self, path: Path) -> None:
        with pytest.raises(MigrationFailedError):
            await migrate(path, step(VERSIONS[0], "SELECT nothing;"))
        await opened(path)
        assert notes(path) == {}

    async def test_it_is_closed_with_its_block_and_closing_again_is_nothing(
        self, path: Path
    ) -> None:
        async with await BuildStore.open(path) as store:
            pass
        await store.close()
        with pytest.raises(PoolClosedError):
            await store.db.fetch_all(PROJECTS())

    async def test_it_is_open_as_configured(self, path: Path) -> None:
        config = Config(readers=3, foreign_keys=False)
        async with await BuildStore.open(path, config=config) as store:
            assert store.db.config is config


class TestNotThisSchema:
    """A schema that this program can't have made is refused before anything is written, and the
    error names the migration (M4; faults 65, 66)."""

    NEWER = step(VERSIONS[-1] + 1, "CREATE TABLE newer (x);", "DROP TABLE newer;")

    @pytest.mark.parametrize("wal", [True, False], ids=["wal", "one file"])
    async def test_a_newer_one(self, path: Path, wal: bool) -> None:
        await migrate(path, *STEPS, self.NEWER)
        if not wal:
            into_one_file(path)
        with untouched(path), pytest.raises(MigrationUnknownError, match=r"migration 7 .*newer"):
            await opened(path)

    async def test_an_edited_one(self, path: Path) -> None:
        first, *rest = STEPS
        await migrate(path, step(first.version, first.up + "-- edited"), *rest)
        with untouched(path), pytest.raises(MigrationChangedError, match=r"0001_.*\.up\.sql"):
            await opened(path)

    async def test_one_with_a_gap(self, path: Path) -> None:
        await migrate(path)
        ask(path, "DELETE FROM migration_history WHERE version = ?", VERSIONS[1])
        with untouched(path), pytest.raises(MigrationError, match=r"0002_.*\.up\.sql"):
            await opened(path)


# -- other programs --------------------------------------------------------------------------------


async def tables(path: Path) -> None:
    ask(path, "CREATE TABLE theirs (x)")


async def tables_behind_a_log(path: Path) -> None:
    ask(path, "PRAGMA journal_mode = wal")
    ask(path, "CREATE TABLE theirs (x)")


async def a_view(path: Path) -> None:
    ask(path, "CREATE VIEW theirs AS SELECT 1")


async def an_application_id(path: Path) -> None:
    ask(path, "PRAGMA application_id = 1196444487")


async def a_history_of_another_shape(path: Path) -> None:
    ask(path, "CREATE TABLE migration_history (name TEXT, batch INTEGER)")
    ask(path, "INSERT INTO migration_history VALUES ('0001_users', 1)")


async def a_history_of_another_shape_that_is_empty(path: Path) -> None:
    ask(path, "CREATE TABLE migration_history (name TEXT, batch INTEGER)")


async def a_history_of_the_same_engine(path: Path) -> None:
    await migrate(path, table(100), table(200))


async def a_history_of_the_same_engine_and_numbers(path: Path) -> None:
    await migrate(path, table(1), table(2))


async def tables_and_a_failed_try(path: Path) -> None:
    ask(path, "CREATE TABLE theirs (x)")
    with pytest.raises(MigrationFailedError):
        await migrate(path, step(1, "SELECT nothing;"))


async def an_application_id_and_a_failed_try(path: Path) -> None:
    ask(path, "PRAGMA application_id = 1196444487")
    with pytest.raises(MigrationFailedError):
        await migrate(path, step(1, "SELECT nothing;"))


async def our_migrations_and_their_application_id(path: Path) -> None:
    await migrate(path)
    ask(path, "PRAGMA application_id = 1196444487")


OTHERS = [
    tables,
    tables_behind_a_log,
    a_view,
    an_application_id,
    a_history_of_another_shape,
    a_history_of_another_shape_that_is_empty,
    a_history_of_the_same_engine,
    a_history_of_the_same_engine_and_numbers,
    tables_and_a_failed_try,
    an_application_id_and_a_failed_try,
    our_migrations_and_their_application_id,
]


class TestAnotherProgram:
    """A database that belongs to another program is refused and not written to, not even to have a
    write-ahead log from then on; and what is none is neither mended nor overwritten."""

    @pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.__name__)
    async def test_its_database_is_refused(self, path: Path, other: Callable[..., Any]) -> None:
        await other(path)
        with untouched(path), pytest.raises(MigrationUnknownError, match="another program") as told:
            await opened(path)
        assert str(path) in str(told.value)

    async def test_it_may_be_using_it(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("CREATE TABLE theirs (x)")
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(MigrationUnknownError, match="another program"):
                await opened(path, busy_timeout=0.2)
            other.execute("INSERT INTO theirs VALUES (1)")
            other.execute("COMMIT")
        assert ask(path, "PRAGMA journal_mode") == [("delete",)]

    @pytest.mark.parametrize("size", [2, 100, 8192])
    async def test_what_is_no_database(self, path: Path, size: int) -> None:
        """fault 43"""
        path.write_bytes(random.Random(size).randbytes(size))
        with untouched(path), pytest.raises(CorruptError):
            await opened(path)

    async def test_what_is_half_a_database(self, path: Path) -> None:
        """fault 43"""
        await migrate(path)
        into_one_file(path)
        path.write_bytes(path.read_bytes()[:6000])
        with untouched(path), pytest.raises(CorruptError):
            await opened(path)

    async def test_a_path_that_can_not_be_a_file(self, tmp_path: Path) -> None:
        """fault 42"""
        for path in tmp_path, tmp_path / "nowhere" / "app.db":
            with pytest.raises(CantOpenError, match=str(path)):
                await opened(path)
        assert list(tmp_path.iterdir()) == []


class TestAtOnce:
    """Any number may open the same new file at once: all of them find the build database, which was
    made once (faults 55, 64)."""

    async def test_tasks(self, path: Path) -> None:
        stores = await asyncio.gather(
            *(BuildStore.open(path, config=Config(readers=1)) for _ in range(16))
        )
        assert [await store.db.fetch_all(PROJECTS()) for store in stores] == [[]] * 16
        await asyncio.gather(*(store.close() for store in stores))
        assert (applied(path), notes(path)) == (VERSIONS, {})
        assert state(path) == STATES[-1]

    def test_processes(self, tmp_path: Path) -> None:
        code = """
import asyncio, sys
from abt_db.builds.store import BuildStore

async def main():
    async with await BuildStore.open("app.db") as store:
        await store.projects.ensure(
            sys.argv[1], project_type="", repository_url="", local_path=""
        )

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""
        others = [
            subprocess.Popen(
                [sys.executable, "-P", "-c", code, f"project {number}"],
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(8)
        ]
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        for other in others:
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
        told = [other.communicate(timeout=SOON)[1] for other in others]
        assert [other.returncode for other in others] == [0] * 8, told
        path = tmp_path / "app.db"
        assert (applied(path), notes(path)) == (VERSIONS, {})
        assert ask(path, "SELECT count(*) FROM projects") == [(8,)]

    @pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
    async def test_another_is_first_between_any_two_looks_of_ours(
        self, tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver = Driver()
        # The driver makes its connections with the real `connect`, which it has imported itself.
        stand_in = SimpleNamespace(connect=driver.connect)
        monkeypatch.setattr("abt_db.connection.driver.aiosqlite", stand_in)
        for moment in count():
            path = tmp_path / f"{moment}.db"
            meddler = Meddler(driver, path, moment, version)
            await opened(path)
            if not meddler.came:
                break
        assert moment >= 2


class Meddler:
    """Migrates a file before the n-th of our looks at it, if that comes before our first write."""

    def __init__(self, driver: Driver, path: Path, moment: int, version: int) -> None:
        self.came = False
        looks = count()

        def hook(sql: str) -> None:
            if sql == "BEGIN IMMEDIATE":
                driver.hook = lambda sql: None
            elif "SELECT" in sql and next(looks) == moment:
                self.came = True
                driver.hook = lambda sql: None
                asyncio.run(migrate(path, up=version))

        driver.hook = hook


class TestFailedOpen:
    """An open that fails, or is cancelled at any turn of the loop, leaves nothing open and the file
    between two steps; the next one succeeds (invariant 22)."""

    @pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
    def test_cancelled(self, tmp_path: Path, again: bool) -> None:
        async def main(turns: Turns) -> None:
            for turn in count():
                path = tmp_path / f"{turn}.db"
                before = threads(), descriptors()
                task = asyncio.create_task(BuildStore.open(path, config=Config(readers=1)))
                here = count()

                def fall(
                    task: asyncio.Task[BuildStore] = task,
                    here: Iterator[int] = here,
                    turn: int = turn,
                ) -> bool:
                    now = next(here)
                    falls = not task.done() and (now == turn or (again and now > turn))
                    return falls and task.cancel()

                turns.before = fall
                await asyncio.wait([task])
                turns.before = lambda: False
                if not task.cancelled():
                    await task.result().close()
                    break
                assert (threads(), descriptors()) == before
                done = applied(path)
                assert done == VERSIONS[: len(done)]
                assert state(path) == STATES[len(done)]
                if turn % 5 == 0:
                    await opened(path)
            assert turn > 10

        run_in_turns(main)
