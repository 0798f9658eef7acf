"""`abt-db logs` and `abt-db prune`: what is chosen, found, highlighted and removed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.logged import append, ended, started
from test_cli import on_terminal

from abt_db.builds import BuildStore, Level
from abt_db.tools.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a database of three builds; the first ended long ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABT_DB", raising=False)

    async def fill() -> None:
        async with await BuildStore.open("android_build_tool.db") as store:
            await ended(store, "maps", at=datetime.now(UTC) - timedelta(days=100), lines=3)
            for project in ("maps", "mail"):
                build = await started(store, project)
                await append(store, build, [f"Building {project}", "50%\r100% done"])
                await append(store, build, ["w: unused 'x'"], Level.WARNING)
                await append(store, build, ["e: \x1b[31mBroken\x1b[0m build"], Level.ERROR)

    asyncio.run(fill())
    return tmp_path


@pytest.fixture
def run(directory: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `abt-db` in that directory; return its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        return code, *capfd.readouterr()

    return run


class TestLogs:
    """`abt-db logs BUILD` shows what is asked for of one log."""

    def test_the_last_lines_of_those_that_are_chosen(self, run: Run) -> None:
        assert run("logs", "maps#1", "--tail", "2") == (0, "line 2 of maps\nline 3 of maps\n", "")
        assert run("logs", "maps#1", "--tail", "9", "--grep", "2 o")[1] == "line 2 of maps\n"
        assert run("logs", "mail", "--level", "warning", "--tail", "9", "--grep", "'")[1] == (
            "w: unused 'x'\n"
        )
        assert run("logs", "mail", "--level", "debug", "--grep", "%")[1] == "100% done\n"


class TestSearch:
    """`abt-db logs --search` finds lines of all builds, and says where they stand."""

    def test_the_newest_are_first(self, run: Run) -> None:
        assert run("logs", "--search", "BUILD ing") == (
            0,
            "mail#1:1: Building mail\nmaps#2:1: Building maps\n",
            "",
        )
        assert run("logs", "--search", "nowhere") == (0, "", "")

    def test_of_one_project_or_build_or_level_and_not_too_many(self, run: Run) -> None:
        assert run("logs", "--search", "done", "--project", "maps")[1] == (
            "maps#2:2: 50% 100% done\n"
        )
        assert run("logs", "maps#1", "--search", "maps line", "--limit", "1")[1] == (
            "maps#1:3: line 3 of maps\n"
        )
        assert run("logs", "mail", "--search", "un", "--level", "warning")[1] == (
            "mail#1:3: w: unused 'x'\n"
        )

    def test_json(self, run: Run) -> None:
        [found] = map(json.loads, run("logs", "--search", "mail", "--json")[1].splitlines())
        assert (found["project_name"], found["build_number"], found["sequence_number"]) == (
            "mail",
            1,
            1,
        )
        assert (found["message"], found["level"]) == ("Building mail", "info")

    def test_on_a_terminal_the_words_are_highlighted_and_nothing_else_colours_it(
        self, directory: Path
    ) -> None:
        assert on_terminal(directory, "logs", "--search", "broken bu", "--project", "mail") == (
            "mail#1:4: e: \x1b[31mBroken\x1b[0m \x1b[31mbu\x1b[0mild\r\n"
        )

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["logs"], 2, "name a BUILD, or search"),
            (["logs", "--search", " "], 2, "no word to search for"),
            (["logs", "--search", "x", "--follow"], 2, "--follow does not go with --search"),
            (["logs", "--search", "x", "--grep", "y"], 2, "--grep does not go with --search"),
            (["logs", "maps", "--limit", "3"], 2, "--limit does not go without --search"),
            (["logs", "maps", "--search", "x", "--project", "maps"], 2, "not both"),
            (["logs", "maps", "--tail", "0"], 2, "whole number from 1"),
            (["logs", "--search", "x", "--project", "nope"], 1, "there is no project 'nope'"),
            (["logs", "--search", "\udcff"], 1, "surrogate"),
            (["prune"], 2, "--older-than"),
            (["prune", "--older-than", "90"], 2, "'90' is not an age such as 90d"),
            (["prune", "--older-than", "0d"], 2, "not an age"),
            (["prune", "--older-than", "999999w"], 2, "not an age"),
            (["prune", "--older-than", "1d", "--db", "nope.db"], 1, "there is no database"),
        ],
    )
    def test_what_makes_no_sense_is_told_in_a_sentence(
        self, run: Run, arguments: list[str], code: int, says: str
    ) -> None:
        answer = run(*arguments)
        assert answer[:2] == (code, "")
        assert says in answer[2]


class TestPrune:
    """`abt-db prune` removes the lines of old builds, and can say before what it would remove."""

    def test_it_removes_what_the_dry_run_said(self, run: Run) -> None:
        age = ("--older-than", "12w")
        assert run("prune", *age, "--dry-run") == (0, "would remove 3 lines of 1 build\n", "")
        assert run("logs", "maps#1")[1].count("\n") == 3
        answer = run("prune", *age, "--json")
        assert (answer[0], json.loads(answer[1]), answer[2]) == (0, {"builds": 1, "lines": 3}, "")
        assert run("logs", "maps#1") == (0, "", "")
        assert run("prune", *age)[1] == "removed 0 lines of 0 builds\n"
        assert run("logs", "maps#2")[1].count("\n") == 4


class TestForeignHistory:
    """What was imported may be anything: it is shown, and neither stops nor steers a terminal."""

    @pytest.fixture
    def show(self, directory: Path, run: Run) -> Callable[..., str]:
        """Import a build, and return what a command prints about it."""

        def show(build: dict[str, object], *command: str) -> str:
            Path("history").write_text(json.dumps({"build": build}))
            assert run("import", "history")[0] == 0
            code, out, err = run(*command)
            assert (code, err) == (0, "")
            return out

        return show

    def test_the_names_of_projects_are_no_escapes(self, show: Callable[..., str]) -> None:
        build = {"project": "a\x1b]0;title\x07b", "log": ["needle"]}
        assert show(build, "logs", "--search", "needle") == "a ]0;title b#1:1: needle\n"

    @pytest.mark.parametrize("zone", ["EST+5", "JST-9"])
    @pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
    def test_times_may_be_the_first_and_the_last_there_are(
        self, show: Callable[..., str], monkeypatch: pytest.MonkeyPatch, zone: str, at: str
    ) -> None:
        """ "0001-01-01T00:00:00Z" is how programs in Go say that there is none."""
        with monkeypatch.context() as settings:
            settings.setenv("TZ", zone)
            time.tzset()
            build = {"project": "app", "started_at": at, "log": ["line"]}
            assert "app#1" in show(build, "builds", "app")
            assert show(build, "logs", "app", "--times").endswith(" line\n")
        time.tzset()

    def test_a_very_long_name_is_cut_at_once(
        self, directory: Path, show: Callable[..., str]
    ) -> None:
        show({"project": "long" * 10_000}, "projects", "--json")
        assert "longlonglongl…" in on_terminal(directory, "projects", NO_COLOR="1", COLUMNS="60")
