"""Databases that are only read: followers, archives, read-only media (fault 45)."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, NAMES, script
from test_files import fill, folder_of, look, make, public, somebody_else

from abt_db import CantOpenError, Config, ConfigError, Database, Query, ReadOnlyError
from abt_db.builds import BuildStore
from abt_db.maintenance import diagnose, metrics
from abt_db.migrations import Migrator, load_migrations

__all__ = ["public"]  # a fixture

VERSION = Query("set_version", "PRAGMA user_version = 3")


class TestVerbs:
    """Each verb that writes is refused, by an error that names it, the file and what to do; those
    that read work as ever."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda db: db.execute(ADD(name="x")),
            lambda db: db.execute_batch([ADD(name="x")]),
            lambda db: db.execute_many(ADD, [{"name": "x"}]),
            lambda db: db.fetch_one(VERSION()),
            lambda db: db.write(lambda cx: None),
            lambda db: db.checkpoint(),
            lambda db: enter(db.transaction(label="deploy")),
            lambda db: enter(db.barrier()),
            lambda db: Migrator(db, load_migrations("abt_db.schema")).up(),
            lambda db: Migrator(db, load_migrations("abt_db.schema")).baseline(1),
        ],
        ids=[
            *("execute", "execute_batch", "execute_many", "pragma", "write", "checkpoint"),
            *("transaction", "barrier", "migrate", "baseline"),
        ],
    )
    async def test_what_writes_is_refused(self, path: Path, call: Callable[..., Any]) -> None:
        data = make(path, "wal")
        async with Database(path, read_only=True) as db:
            with pytest.raises(ReadOnlyError) as caught:
                await call(db)
            assert str(path) in str(caught.value)
            assert "read-only" in str(caught.value) and "without read_only" in str(caught.value)
            assert await db.fetch_one(COUNT()) == 200
        assert path.read_bytes() == data

    async def test_what_looks_works(self, path: Path) -> None:
        async with await BuildStore.open(path):
            pass
        async with Database(path, read_only=True) as db:
            migrator = Migrator(db, load_migrations("abt_db.schema"))
            assert (await migrator.drift()).differences == ()
            assert await migrator.pending() == ()
            assert (await diagnose(db)).healthy
            assert (await metrics(db)).pages > 0


async def enter(block: Any) -> None:
    async with block:
        pass


class TestArchive:
    """A WAL database in a directory where nothing can be made beside it is read as one that nobody
    writes: without being asked to where nobody can, and otherwise only if the caller says so."""

    async def test_nobody_may_write_to_the_directory(self, public: Path) -> None:
        data = make(public, "wal")
        public.parent.chmod(0o555)
        with somebody_else():
            assert await look(public, read_only=True) == 200
        assert (public.read_bytes(), folder_of(public)) == (data, {public.name})

    async def test_where_others_may_write_it_has_to_be_said(self, public: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can make a directory that is another user's")
        data = make(public, "wal")
        with somebody_else():
            with pytest.raises(CantOpenError, match=r"Config\(immutable=True\)") as caught:
                await look(public, read_only=True)
            assert str(public.parent) in str(caught.value)
            config = Config(readers=1, immutable=True)
            async with Database(public, config=config, read_only=True) as db:
                assert len(await db.fetch_all(NAMES())) == 200
        assert (public.read_bytes(), folder_of(public)) == (data, {public.name})

    async def test_what_has_a_log_is_no_archive(self, path: Path) -> None:
        fill(path, "wal", 200)
        Path(f"{path}-wal").write_bytes(b"x" * 100)
        with pytest.raises(CantOpenError, match="-wal file"):
            await Database(path, config=Config(immutable=True), read_only=True).open()

    async def test_it_is_for_reading_alone(self, path: Path) -> None:
        with pytest.raises(ConfigError, match="read_only"):
            Database(path, config=Config(immutable=True))

    async def test_nothing_is_made_beside_it(self, path: Path) -> None:
        make(path, "wal")
        config = Config(readers=2, immutable=True)
        async with Database(path, config=config, read_only=True) as db:
            assert await db.fetch_one(COUNT()) == 200
            assert folder_of(path) == {path.name}
        assert folder_of(path) == {path.name}


class TestMedia:
    """From a file system that nobody can write to a database is read without being asked how; a
    mount that is read-only here may be written elsewhere."""

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_a_file_system_that_is_read_only(self, tmp_path: Path, mode: str) -> None:
        make(tmp_path / "app.db", mode)
        said = mounted(
            'mount -t tmpfs tmpfs "$1" && cp "$0" "$1" && mount -o remount,ro "$1"', tmp_path
        )
        assert said == ["200", "CantOpenError: read_only=True"]

    def test_a_mount_that_is_read_only(self, tmp_path: Path) -> None:
        make(tmp_path / "app.db", "wal")
        said = mounted('mount --bind "${0%/*}" "$1" && mount -o remount,ro,bind "$1"', tmp_path)
        assert said == ["CantOpenError: immutable=True", "CantOpenError: read_only=True"]


def mounted(mount: str, folder: Path) -> list[str]:
    """What comes of reading and of writing a database, once it was mounted with this command."""
    place = folder.with_name(f"{folder.name}-mounted")
    place.mkdir()
    code = """
        async def main():
            for how in ({"read_only": True}, {}):
                try:
                    async with Database(path, **how) as db:
                        print(await db.fetch_one(COUNT()))
                except QueryError as error:
                    [advice] = re.findall("(?:read_only|immutable)=True", str(error))
                    print(f"{type(error).__name__}: {advice}")

        import re
        asyncio.run(main())
    """
    steps = ["unshare", "--mount", "sh", "-c", f'{mount} && shift && exec "$@"']
    try:
        may = subprocess.run([*steps, str(folder / "app.db"), str(place), "true"])
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if may.returncode != 0:
        pytest.skip("only root can mount a file system")
    command = [*script(textwrap.dedent(code)), str(place / "app.db")]
    run = subprocess.run(
        [*steps, str(folder / "app.db"), str(place), *command], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


class TestFollowed:
    """A file that Litestream keeps up to date (`litestream restore -f` notes beside it how far it
    is) is opened so that Litestream can go on, and that what it writes is seen."""

    async def test_a_wal_database_is_refused_with_what_to_do(self, path: Path) -> None:
        data = make(path, "wal")
        Path(f"{path}-txid").write_text("0000000000000001")
        with pytest.raises(CantOpenError, match="PRAGMA journal_mode = DELETE"):
            await Database(path, read_only=True).open()
        assert path.read_bytes() == data

    @pytest.mark.parametrize("linked", [False, True])
    async def test_pages_that_change_unannounced_are_seen(self, path: Path, linked: bool) -> None:
        """A byte of a row is changed in the file, as Litestream does: without a word to SQLite."""
        make(path, "delete")
        Path(f"{path}-txid").write_text("0000000000000001")
        name = path.with_name("link.db") if linked else path
        if linked:
            name.symlink_to(path)
        config = Config(readers=1, mmap_size=0)
        async with Database(name, config=config, read_only=True) as db:
            before = await db.fetch_all(NAMES())
            data = path.read_bytes()
            # In another process: to close the file here would drop SQLite's locks on it.
            changed = data.replace(b"x" * 100 + b"77", b"y" * 100 + b"77")
            subprocess.run(["dd", f"of={path}", "conv=notrunc", "status=none"], input=changed)
            after = await db.fetch_all(NAMES())
        assert changed != data
        assert {name[0] for name in before} == {"x"}
        assert [name for name in after if name[0] == "y"] == ["y" * 100 + "77"]
