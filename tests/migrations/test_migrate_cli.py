"""`abt-db migrate` as a person and a script use it: output, exit codes, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.suite import ROOT, SOON
from test_migrations import ask

from abt_db.tools.cli import main


def problems(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on standard error that are not of the progress of a step, which is told where it
    takes long: on a slow machine."""
    progress = re.compile(r"\d+ (up|down): statement \d+ of \d+, line \d+, \d+ s")
    return [line for line in done.stderr.splitlines() if not progress.fullmatch(line)]


class Done(NamedTuple):
    """What a command answered."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A directory of two migrations."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.up.sql").write_text("CREATE TABLE t (x);")
    (folder / "0001_first.down.sql").write_text("DROP TABLE t;")
    (folder / "0002_second.up.sql").write_text("-- description: indexes\nCREATE INDEX i ON t (x);")
    (folder / "0002_second.down.sql").write_text("DROP INDEX i;")
    return folder


@pytest.fixture
def run(
    tmp_path: Path,
    schema: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run `abt-db migrate` on `app.db`, with the two migrations unless there are others; in this
    process, for a hundred of them take their time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABT_DB", "app.db")
    monkeypatch.setenv("ABT_DB_MIGRATIONS", str(schema))
    monkeypatch.setattr(sys, "argv", ["abt-db"])

    def run(*arguments: str) -> Done:
        try:
            code = main(["migrate", *arguments])
        except SystemExit as error:
            code = int(str(error.code))
        return Done(code, *capsys.readouterr())

    return run


def parsed(done: Done) -> list[Any]:
    assert problems(done) == []
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestVerbs:
    """Each verb does what the method of its name does: a table for people, JSON for machines."""

    def test_up_status_and_down(self, run: Run) -> None:
        done = run("up", "1")
        assert (done.returncode, problems(done)) == (0, [])
        assert "first" in done.stdout and "exact" in done.stdout
        assert run("status").returncode == 0
        assert run("status", "--exit-code").returncode == 1
        assert "pending" in run("status").stdout
        [record] = parsed(run("up", "--json"))
        assert (record["version"], record["description"], record["success"]) == (2, "indexes", True)
        assert (record["reversibility"], record["statements_done"]) == ("exact", 0)
        assert run("status", "--exit-code").returncode == 0
        [status] = parsed(run("status", "--json"))
        assert ([r["version"] for r in status["applied"]], status["pending"]) == ([1, 2], [])
        assert run("up").stdout == "nothing to do\n"
        assert parsed(run("down", "0", "--json")) == [{"versions": [2, 1]}]
        assert parsed(run("to", "2", "--json")) == [{"versions": [1, 2]}]
        assert [record["version"] for record in parsed(run("redo", "--json"))] == [2]
        assert [record["version"] for record in parsed(run("history", "--json"))] == [1, 2]

    def test_data_is_lost_only_on_request(self, run: Run, tmp_path: Path) -> None:
        run("up")
        ask(tmp_path / "app.db", "INSERT INTO t VALUES (1)")
        done = run("down", "0")
        assert (done.returncode, done.stdout) == (1, "")
        assert "would lose 1 row of t" in done.stderr and "--allow-data-loss" in done.stderr
        assert run("down", "0", "--allow-data-loss").returncode == 0

    def test_plan_and_validate(self, run: Run, schema: Path) -> None:
        run("up", "1")
        done = run("plan")
        assert (done.returncode, problems(done)) == (0, [])
        assert done.stdout.splitlines() == [
            "up 2 indexes (in a transaction, exact)",
            "    CREATE INDEX i ON t (x);",
            "1 step, for SQLite 3.0 and later",
        ]
        assert run("validate").returncode == 0
        (schema / "0003_third.up.sql").write_text("VACUUM;")
        for verb in ("plan", "validate"):
            done = run(verb)
            assert done.returncode == 1
            assert "VACUUM is refused" in done.stdout
            assert parsed(run(verb, "--json"))

    def test_drift_and_baseline(self, run: Run, tmp_path: Path) -> None:
        ask(tmp_path / "app.db", "CREATE TABLE t (X)")
        assert run("baseline", "2").returncode == 1
        assert run("baseline", "1").returncode == 0
        assert run("drift").returncode == 1
        assert run("drift", "--accept", "normalised").returncode == 0
        assert parsed(run("drift", "--json"))[0]["likeness"] == "normalised"
        run("up")
        ask(tmp_path / "app.db", "DROP INDEX i")
        assert run("drift", "--accept", "unordered").stdout.startswith("index i is missing\n")

    def test_rehearse(self, run: Run, tmp_path: Path) -> None:
        run("up", "1")
        done = run("rehearse", "--seed", "3")
        assert (done.returncode, problems(done)) == (0, [])
        assert "indexes" in done.stdout and "0 applied" in done.stdout
        [report] = parsed(run("rehearse", "--then-apply", "--json"))
        assert [record["version"] for record in report["applied"]] == [2]
        assert sorted(file.name for file in tmp_path.glob("app.db*")) == ["app.db"]

    def test_dump(self, run: Run, tmp_path: Path) -> None:
        dumped = run("dump").stdout
        assert "CREATE TABLE t (x);\n\nCREATE INDEX i ON t (x);" in dumped
        assert run("dump", "--output", "schema.sql").returncode == 0
        assert (tmp_path / "schema.sql").read_text() == dumped
        assert run("dump", "--check", "schema.sql").returncode == 0
        (tmp_path / "schema.sql").write_text(f"{dumped} ")
        assert run("dump", "--check", "schema.sql").returncode == 1
        assert not (tmp_path / "app.db").exists()

    def test_new(self, run: Run, schema: Path) -> None:
        done = run("new", "Add tags, please!")
        names = ["0003_add_tags_please.up.sql", "0003_add_tags_please.down.sql"]
        assert done.stdout.splitlines() == [str(schema / name) for name in names]
        assert "-- description: Add tags, please!" in (schema / names[0]).read_text()
        assert run("up").returncode == 0  # empty as it is, it is a step
        assert run("new", "äöü").returncode == 1
        # Where versions are dates, so is the next one.
        (schema / "20240131120000_date.up.sql").write_text("")
        [pair] = parsed(run("new", "later", "--json"))
        assert Path(pair[0]).name > "20260101000000_later.up.sql"
        assert Path(pair[0]).name.endswith("_later.up.sql")

    def test_the_backup_is_made_before_a_drop(self, run: Run, schema: Path, tmp_path: Path) -> None:
        run("up")
        (schema / "0003_third.up.sql").write_text("DROP TABLE t;")
        assert run("up", "--backup-to", "backup.db").returncode == 0
        assert ask(tmp_path / "backup.db", "SELECT count(*) FROM t") == [(0,)]

    def test_an_older_program_goes_down_by_the_history(self, run: Run, schema: Path) -> None:
        run("up")
        for file in schema.glob("0002*"):
            file.unlink()
        assert "newer" in run("status").stderr
        assert parsed(run("down", "1", "--use-history", "--json")) == [{"versions": [2]}]
        assert run("status").returncode == 0


class TestOwnSchema:
    """Without `--migrations` it is the build database, installed or in a checkout."""

    def test_as_a_script_of_the_checkout(self, tmp_path: Path) -> None:
        script = [sys.executable, "-P", str(ROOT / "tools" / "migrate.py")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ABT_DB")}
        for verb in (["up"], ["drift"], ["status", "--exit-code"], ["plan"], ["validate"]):
            done = subprocess.run(
                [*script, *verb], cwd=tmp_path, capture_output=True, text=True, env=environment
            )
            assert (done.returncode, problems(done)) == (0, [])
        assert (tmp_path / "android_build_tool.db").exists()

    def test_its_dump_is_in_the_checkout(self, run: Run) -> None:
        check = ["dump", "--migrations", "abt_db.schema", "--check"]
        done = run(*check, str(ROOT / "schema" / "schema.sql"))
        assert (done.returncode, problems(done)) == (0, [])

    def test_another_programs_database_is_left_as_it_is(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "app.db"
        ask(path, "CREATE TABLE t (x)")
        before = path.read_bytes()
        for verb in (["up"], ["status"], ["to", "1"], ["rehearse", "--then-apply"]):
            done = run(*verb, "--migrations", "abt_db.schema")
            assert done.returncode == 1
            assert "belongs to another program" in done.stderr
        assert path.read_bytes() == before


class TestAtOnce:
    """Eight processes run `up` on the same new file: each step is applied once, and all exit with 0
    (M2; fault 64)."""

    def test_eight_processes_on_a_new_file(self, tmp_path: Path) -> None:
        command = ["abt-db", "migrate", "up", "--json", "--db", "new.db"]
        command += ["--migrations", "abt_db.schema"]
        running = [
            subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for _ in range(8)
        ]
        said = [process.communicate(timeout=SOON) for process in running]
        assert [process.returncode for process in running] == [0] * 8, said
        versions = [json.loads(line)["version"] for out, _ in said for line in out.splitlines()]
        assert sorted(versions) == [1, 2, 3, 4, 5, 6]
        assert ask(tmp_path / "new.db", "SELECT count(*) FROM migration_history") == [(6,)]


class TestBadInput:
    """One sentence on stderr; 1 for what failed, 2 for what can't be understood."""

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["status"], 1, "there is no database app.db"),
            (["down", "0"], 0, ""),
            (["up", "9"], 1, "there is no migration 9"),
            (["up", "--migrations", "nowhere"], 1, "nowhere"),
            (["new", "x", "--migrations", "no-such-place"], 1, "neither a directory nor a package"),
            (["baseline", "1"], 1, "no database app.db to adopt"),
            (["dump", "--check", "missing.sql"], 1, "missing.sql can't be used: No such file"),
            (["up", "one"], 2, "one is neither a number nor a database"),
            (["down", "one"], 2, "invalid int value: 'one'"),
            (["down"], 2, "TARGET"),
            (["drift", "--accept", "different"], 2, "--accept"),
            (["upwards"], 2, "upwards"),
            ([], 2, "VERB"),
        ],
    )
    def test_it_is_told(self, run: Run, arguments: list[str], code: int, says: str) -> None:
        done = run(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert says in done.stderr
        if code == 1:
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("abt-db: ")

    def test_a_failed_step_is_told_and_noted(self, run: Run, schema: Path) -> None:
        (schema / "0002_second.up.sql").write_text("CREATE TABLE t (x);")
        done = run("up")
        assert (done.returncode, done.stdout) == (1, "")
        assert "0002_second.up.sql, line 1: table t already exists" in done.stderr
        assert "failed: " in run("status").stdout


class TestProgress:
    """A long step is told of on standard error, and standard output stays clean."""

    def test_a_step_of_more_than_a_second(self, run: Run, schema: Path) -> None:
        endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x)"
        (schema / "0003_long.up.sql").write_text(f"-- timeout: 4\nSELECT 1;\n{endless} FROM n;")
        run("up", "2")
        # Not `up`, which would try it in memory as well.
        done = run("to", "3", "--json")
        assert (done.returncode, done.stdout) == (1, "")
        first, *_, last = done.stderr.splitlines()
        assert first.startswith("3 up: statement 2 of 2, line 3, ")
        assert "time limit" in last
