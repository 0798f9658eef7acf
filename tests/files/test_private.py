"""Every command that writes a file: it is as private as the database, and whole or not there
(fault 91)."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from test_report import Row, fill

from abt_db import Database
from abt_db.builds import BuildStore
from abt_db.maintenance import backup, restore
from abt_db.migrations import Migrator, load_migrations
from abt_db.tools.cli import COMMANDS, main

NEW = {
    "backup": "backup out",
    "backup, packed": "backup out --compress gzip",
    "backup, packed by xz": "backup out --compress xz",
    "restore": "restore saved.db --db out/file",
    "restore, packed": "restore saved.db.gz --db out/file",
    "vacuum --into": "vacuum --into out/file",
    "export": "export -o out/file",
    "export, packed": "export -o out/file.gz",
    "export, packed by xz": "export -o out/file.xz",
    "report": "report -o out/file",
    "up --backup-to": "migrate up --migrations steps --backup-to out/file",
}
OVER = ["export", "export, packed", "report"]
WITHOUT_DATA = {("migrate", "--output"), ("bench", "--json"), ("bench", "--svg")}
"""These hold no rows of a database: they are as private as what was there."""


@pytest.fixture(autouse=True)
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A build database that nobody else may read, and a user who forbids nothing by himself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABT_DB", "builds.db")
    path = tmp_path / "builds.db"
    asyncio.run(fill(path, {"app": [Row("success", datetime.now(UTC), 5.0)]}))
    path.chmod(0o600)
    (tmp_path / "out").mkdir()
    before = os.umask(0)
    yield path
    os.umask(before)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The permissions of what there is whenever something is made durable."""
    real, seen = os.fsync, set()

    def look(descriptor: int) -> None:
        for file in (tmp_path / "out").rglob("*"):
            seen.add(oct(file.stat().st_mode & 0o777))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    return seen


def prepare(path: Path) -> None:
    """What the commands work on besides the database."""

    async def save() -> None:
        for kind, name in ((None, "saved.db"), ("gzip", "saved.db.gz")):
            made = await backup(path, path.parent, compression=kind)
            made.path.rename(path.with_name(name))

    asyncio.run(save())
    make_steps(path)


def make_steps(path: Path) -> None:
    steps = path.parent / "steps"
    steps.mkdir()
    for number, sql in enumerate(["CREATE TABLE a (x)", "DROP TABLE a"], 1):
        (steps / f"000{number}_step.up.sql").write_text(f"{sql};")


@pytest.mark.parametrize("command", NEW)
class TestNew:
    """A new file has the permissions of the database, while it is written and afterwards."""

    @pytest.mark.parametrize("mode", [0o600, 0o640])
    def test_it_is_as_private_as_the_database(
        self, builds: Path, seen: set[str], command: str, mode: int
    ) -> None:
        builds.chmod(mode)
        prepare(builds)
        name, *rest = NEW[command].split()
        database = [] if "--db" in rest else ["--db", "builds.db"]
        if name == "migrate":
            with closing(sqlite3.connect("steps.db")):
                Path("steps.db").chmod(mode)
            assert main([name, "up", "1", "--db", "steps.db", "--migrations", "steps"]) == 0
            database = []
            rest += ["--db", "steps.db"]
        assert main([name, *database, *rest]) == 0
        [file] = Path("out").iterdir()
        assert seen == {"0o700", oct(mode)}
        assert oct(file.stat().st_mode & 0o777) == oct(mode)


@pytest.mark.parametrize("command", OVER)
class TestOver:
    """A file that takes another's place is no more open than either."""

    @pytest.mark.parametrize(
        ("source", "there", "after"),
        [(0o600, 0o644, "0o600"), (0o644, 0o600, "0o600"), (0o664, 0o646, "0o644")],
    )
    def test_it_is_as_private_as_the_database_and_as_what_was_there(
        self, builds: Path, seen: set[str], command: str, source: int, there: int, after: str
    ) -> None:
        builds.chmod(source)
        name, *rest = NEW[command].split()
        file = Path(rest[-1])
        file.touch()
        file.chmod(there)
        assert main([name, *rest]) == 0
        assert oct(file.stat().st_mode & 0o777) == after
        assert seen <= {"0o700", after, oct(there)}
        assert list(Path("out").iterdir()) == [file]


class TestOthers:
    """What is written elsewhere than by a command's output."""

    async def test_lines_that_can_not_be_stored(self, builds: Path) -> None:
        """Nor do they take the place of those that were saved before."""
        store = await BuildStore.open(builds)
        earlier = builds.with_name("builds.db.build-2.log")
        earlier.write_text("mine")
        with pytest.raises(sqlite3.IntegrityError) as caught:
            async with store, store.recorder("app") as build:
                with closing(sqlite3.connect(builds, isolation_level=None)) as other:
                    other.execute(
                        "CREATE TRIGGER no BEFORE INSERT ON build_logs"
                        " BEGIN SELECT RAISE(ABORT, 'no'); END"
                    )
                await build.run(["echo", "secret"])
        assert build.build.id == 2
        saved = builds.with_name("builds.db.build-2.2.log")
        assert f"is in {saved}" in "".join(caught.value.__notes__)
        assert (saved.read_text(), earlier.read_text()) == ("secret\n", "mine")
        assert oct(saved.stat().st_mode & 0o777) == "0o600"

    async def test_an_export_of_a_database_in_memory(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            await store.export_file("out/file")
        assert oct(Path("out/file").stat().st_mode & 0o777) == "0o600"

    async def test_a_copy_that_migrations_are_rehearsed_on(
        self, builds: Path, seen: set[str]
    ) -> None:
        make_steps(builds)
        async with Database("steps.db") as db:
            Path("steps.db").chmod(0o600)
            await Migrator(db, load_migrations("steps")).rehearse(directory="out")
        assert seen == {"0o700", "0o600"}
        assert list(Path("out").iterdir()) == []

    async def test_a_database_that_is_restored_is_as_open_as_it_was(self, builds: Path) -> None:
        """It is the same one, with the same users, whoever may read its backups."""
        saved = (await backup(builds, "out")).path
        builds.chmod(0o660)
        await restore(saved, builds)
        assert oct(builds.stat().st_mode & 0o777) == "0o660"

    @pytest.mark.parametrize("there", [None, 0o600, 0o646])
    def test_what_holds_no_data_is_as_private_as_what_was_there(self, there: int | None) -> None:
        file = Path("out/file")
        if there is not None:
            file.touch()
            file.chmod(there)
        assert main(["migrate", "dump", "--output", str(file)]) == 0
        assert oct(file.stat().st_mode & 0o777) == oct(there or 0o666)

    def test_no_option_that_names_an_output_is_missing_here(self) -> None:
        """One that is added to a command is to be tested here as well."""
        read = {("migrate", "--migrations"), ("migrate", "--check"), ("import", "files")}
        private = {("backup", "directory"), ("restore", "backup"), ("vacuum", "--into")}
        private |= {("export", "--output"), ("report", "--output")}
        private |= {("migrate", "--backup-to"), ("migrate", "--directory")}
        found = {option for name in COMMANDS for option in options(name)}
        assert found == read | private | WITHOUT_DATA


def options(name: str) -> Iterator[tuple[str, str]]:
    """The arguments of a command that name a file or a directory, but for the database."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"abt_db.tools.{name}").arguments(parser)
    parsers = [parser]
    for one in parsers:
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif action.dest.startswith("database "):
                continue
            elif action.metavar in ("FILE", "DIR", "BACKUP"):
                yield name, (action.option_strings or [action.dest])[-1]
