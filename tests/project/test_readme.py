"""The README claims only what works: its programs run, its commands exist."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.suite import ROOT

from abt_db import Database, Query
from abt_db.migrations import Migrator

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@cache
def help_of(command: str) -> str:
    done = subprocess.run(["abt-db", command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestReadme:
    """What stands in the README is what happens."""

    def test_the_library_program_prints_what_it_says(self, tmp_path: Path) -> None:
        program, shown = blocks("python")[0], blocks("text")[0]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        pattern = re.escape(shown).replace("…", ".*")
        assert re.fullmatch(pattern, done.stdout), done.stdout

    def test_the_migration_snippet_migrates(self, tmp_path: Path) -> None:
        (tmp_path / "0001_first.up.sql").write_text("CREATE TABLE t (x);")
        (tmp_path / "0001_first.down.sql").write_text("DROP TABLE t;")
        names: dict[str, Any] = {}
        exec(blocks("python")[1], names)

        async def migrate() -> list[int]:
            db = await names["open_migrated"](str(tmp_path / ".app.db"), str(tmp_path))
            try:
                return [record.version for record in await Migrator(db, ()).history()]
            finally:
                await db.close()

        assert asyncio.run(migrate()) == [1]

    def test_the_live_query_snippet_ends_its_streams_at_sigterm(self, tmp_path: Path) -> None:
        names: dict[str, Any] = {}
        exec(blocks("python")[2], names)

        async def serve() -> list[str]:
            async with names["lifespan"](str(tmp_path / "app.db")) as db:
                for sql in (
                    "CREATE TABLE projects (name)",
                    "INSERT INTO projects VALUES ('atlas'), ('maps')",
                ):
                    await db.execute(Query(sql, sql)())
                sent = []
                async for event in names["events"](db):
                    sent.append(event)
                    os.kill(os.getpid(), signal.SIGTERM)
                return sent

        assert asyncio.run(asyncio.wait_for(serve(), 60)) == ["data: atlas, maps\n\n"]

    def test_the_repository_snippet_pins_a_note(self, tmp_path: Path) -> None:
        # By its name, for a dataclass looks for the module that it is in.
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(blocks("python")[3], names)
        sql = "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT, pinned INTEGER)"

        async def pin() -> list[str]:
            async with Database(tmp_path / "app.db") as db:
                await db.execute(Query("create", sql)())
                return [note.title for note in await names["pin"](db, "read me")]

        assert asyncio.run(pin()) == ["read me"]

    def test_the_benchmark_snippet_measures_a_layer(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names: dict[str, Any] = {}
        exec(blocks("python")[4].replace("duration=60", "duration=0.01"), names)

        class Layer:
            def __init__(self, path: str) -> None:
                self.db = sqlite3.connect(path, isolation_level=None)

            async def read(self, sql: str, parameters: dict[str, object]) -> list[object]:
                return self.db.execute(sql, parameters).fetchall()

            write = update = read

            def close(self) -> None:
                self.db.close()

        asyncio.run(names["measure"](Layer))
        assert len(re.findall(r"^mine +\S+ +[\d,]+ +0 ", capsys.readouterr().out, re.M)) == 4

    def test_the_recording_snippet_records(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        exec(blocks("python")[5], names)
        assert asyncio.run(names["build"]("sh", "-c", "echo hello; exit 3")) == 3
        assert capsys.readouterr().out == "failed 1 lines\n"

    def test_the_scripts_of_a_checkout_run(self, tmp_path: Path) -> None:
        """With an installed package; tests/tools/test_checkout.py has them run without."""
        [line] = [block for block in blocks("sh") if "tools/" in block]
        with closing(sqlite3.connect(tmp_path / "app.db")) as raw:
            raw.execute("CREATE TABLE t (x)")
        for step in line.split("&&"):
            python, script, *arguments = shlex.split(step)
            assert (python, arguments) == ("python", ["app.db"])
            subprocess.run([sys.executable, ROOT / script, "app.db"], cwd=tmp_path, check=True)

    def test_every_command_that_it_names_exists(self) -> None:
        for command in set(re.findall(r"`abt-db (\w+)", README)):
            assert help_of(command)

    def test_every_option_that_it_names_exists(self) -> None:
        for name, line in re.findall(r"^\| `abt-db (\w+)(.*)", README, re.MULTILINE):
            for option in re.findall(r"(--[a-z-]+)", line):
                assert option in help_of(name), f"abt-db {name} has no {option}"

    def test_its_first_command_records_a_build_of_this_package(self) -> None:
        # Run whole only in a fresh clone: here, that its parts are what the CLI understands.
        [first, second, *_] = blocks("sh")
        steps = [shlex.split(step) for step in first.split("&&")]
        assert [step[:2] for step in steps] == [
            ["pip", "install"],
            ["abt-db", "record"],
            ["abt-db", "builds"],
            ["abt-db", "logs"],
        ]
        assert second.split("&&")[-1].strip() == "pytest"

    def test_its_figures_are_those_of_the_committed_result(self) -> None:
        result = json.loads((ROOT / "tools" / "bench" / "result.json").read_text())
        workloads = ["P1", "P2", "P2 full", "P3 read", "P3 write", "P4"]
        for name, label in ("abt_db", "**abt_db**"), ("aiosqlite, one hop", "aiosqlite, one hop"):
            figures = [
                result["workloads"][workload]["systems"][name]["per second"]["median"]
                for workload in workloads
            ]
            assert f"| {label} | {' | '.join(f'{figure:,.0f}' for figure in figures)} |" in README
