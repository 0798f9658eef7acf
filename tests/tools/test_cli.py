"""The command line as a person uses it: real processes, their output, their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.suite import ROOT, SOON, eventually

from abt_db.builds.usage import processes
from abt_db.tools.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `abt-db` in an empty directory."""

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **settings}
        environment.pop("ABT_DB", None) if "ABT_DB" not in settings else None
        return subprocess.run(
            ["abt-db", *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    return run


def recording(
    directory: Path, build: str, number: signal.Signals, action: signal.Handlers
) -> subprocess.Popen[str]:
    """Start to record a shell's build, with this action for a signal when it starts."""
    start = f"import os, signal, sys; signal.signal({number:d}, signal.{action.name}); "
    return subprocess.Popen(
        [sys.executable, "-c", start + "os.execvp(sys.argv[1], sys.argv[1:])",
         "abt-db", "record", "--project", "app", "--", "sh", "-c", build],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip


class TestRecord:
    """`abt-db record` is transparent: same output, same exit code; and the build is in the list."""

    def test_output_passes_through_unchanged_on_both_streams(
        self, run: Run, tmp_path: Path
    ) -> None:
        done = run("record", "--quiet", "--project", "app", "--", "sh", "-c", "echo a; echo b >&2")
        assert (done.stdout, done.stderr, done.returncode) == ("a\n", "b\n", 0)
        assert (tmp_path / "android_build_tool.db").exists()

    def test_the_exit_code_is_the_commands(self, run: Run) -> None:
        assert run("record", "--project", "app", "--", "sh", "-c", "exit 42").returncode == 42
        assert run("record", "--project", "app", "--", "no-such-program").returncode == 127

    def test_it_says_where_to_look(self, run: Run) -> None:
        done = run("record", "--project", "app", "--", "echo", "hi")
        assert re.fullmatch(
            r"abt-db: app#1 success, 1 line in \d+\.\d s; see them with: abt-db logs app#1\n",
            done.stderr,
        )

    def test_options_of_the_command_are_left_to_it(self, run: Run) -> None:
        done = run("record", "--quiet", "--project", "app", "--", "echo", "--project", "--", "-x")
        assert done.stdout == "--project -- -x\n"

    def test_a_user_without_a_name_can_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
        database = str(tmp_path / "app.db")
        assert main(["record", "--quiet", "--db", database, "--project", "app", "--", "true"]) == 0

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_stops_the_whole_group_and_keeps_the_log(
        self, run: Run, tmp_path: Path, how: signal.Signals
    ) -> None:
        # dash loses a SIGINT that comes while it forks
        with recording(tmp_path, "sleep 1000 & echo $!; wait", how, signal.SIG_DFL) as recorder:
            assert recorder.stdout is not None
            sleeper = int(recorder.stdout.readline())
            recorder.send_signal(how)
            assert recorder.wait(timeout=SOON) == 128 + (2 if how is signal.SIGINT else 15)
        assert not any(p.pid == sleeper and not p.zombie for p in processes())
        [build] = map(json.loads, run("builds", "--json").stdout.splitlines())
        assert (build["status"], build["log_lines"]) == ("cancelled", 1)

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
    def test_a_signal_that_is_ignored_from_the_start_stays_so(
        self, tmp_path: Path, how: signal.Signals
    ) -> None:
        """nohup does so with SIGHUP, and a shell script with SIGINT for what it runs in the
        background."""
        build = f"echo up; read go; kill -{how.value} $$; exit 5"
        with recording(tmp_path, build, how, signal.SIG_IGN) as recorder:
            assert recorder.stdout is not None
            assert recorder.stdout.readline() == "up\n"
            recorder.send_signal(how)
            recorder.communicate("go\n", timeout=SOON)
        assert recorder.returncode == 5

    def test_a_signal_after_the_end_does_not_keep_it_from_being_noted(
        self, run: Run, tmp_path: Path
    ) -> None:
        with recording(tmp_path, "echo $$; read go", signal.SIGTERM, signal.SIG_DFL) as recorder:
            assert recorder.stdout is not None and recorder.stdin is not None
            build = int(recorder.stdout.readline())
            lock = sqlite3.connect(tmp_path / "android_build_tool.db", isolation_level=None)
            stored = "SELECT count(*) FROM build_logs"
            asyncio.run(eventually(lambda: lock.execute(stored).fetchone() == (1,)))
            lock.execute("BEGIN IMMEDIATE")
            recorder.stdin.write("go\n")
            recorder.stdin.flush()
            asyncio.run(eventually(lambda: not list(processes(build))))
            until = time.monotonic() + 0.3
            while recorder.poll() is None and time.monotonic() < until:
                recorder.send_signal(signal.SIGTERM)
                time.sleep(0.01)
            lock.close()
            assert recorder.wait(timeout=SOON) == 0
        [row] = map(json.loads, run("builds", "--json").stdout.splitlines())
        assert row["status"] == "success"

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_the_exit_code_is_the_commands_when_nobody_reads_what_is_said(
        self, tmp_path: Path, unbuffered: str
    ) -> None:
        with subprocess.Popen(
            ["abt-db", "record", "--project", "app", "--", "sh", "-c", "read go; exit 5"],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        ) as recorder:
            assert recorder.stderr is not None
            recorder.stderr.close()
            recorder.communicate(b"go\n", timeout=SOON)
        assert recorder.returncode == 5

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize(("mistake", "code"), [(("vacuum", "--db", "no.db"), 1), (("x",), 2)])
    def test_an_error_that_nobody_reads_has_its_exit_code(
        self, tmp_path: Path, mistake: tuple[str, ...], code: int, unbuffered: str
    ) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            ["abt-db", *mistake],
            cwd=tmp_path,
            stderr=writing,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
        os.close(writing)
        assert done.returncode == code

    def test_a_time_limit_fails_the_build(self, run: Run) -> None:
        done = run("record", "--timeout", "0.3", "--project", "app", "--", "sleep", "1000")
        assert done.returncode == 128 + signal.SIGTERM
        [build] = map(json.loads, run("builds", "--json").stdout.splitlines())
        assert build["status"] == "failed"

    def test_a_reader_that_goes_away_does_not_stop_the_build(
        self, run: Run, tmp_path: Path
    ) -> None:
        recorder = subprocess.Popen(
            ["abt-db", "record", "--project", "app", "--", "seq", "1", "100000"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert recorder.stdout is not None
        recorder.stdout.readline()
        recorder.stdout.close()
        assert recorder.wait(timeout=SOON) == 0
        assert run("logs", "app", "--raw").stdout == "".join(f"{n}\n" for n in range(1, 100_001))


class TestLooking:
    """Lists and logs: tables for people, JSON for machines, and nothing but data on stdout."""

    def test_builds_and_projects_are_listed(self, run: Run) -> None:
        run("record", "--project", "one", "--", "true")
        run("record", "--project", "two", "--", "false")
        run("record", "--project", "two", "--build-type", "debug", "--", "true")
        table = run("builds").stdout.splitlines()
        assert [row.split()[:2] for row in table] == [
            ["build", "status"],
            ["two#2", "success"],
            ["two#1", "failed"],
            ["one#1", "success"],
        ]
        assert len(run("builds", "two", "--limit", "1").stdout.splitlines()) == 2
        projects = [json.loads(line) for line in run("projects", "--json").stdout.splitlines()]
        assert [(p["name"], p["total_builds"], p["successful_builds"]) for p in projects] == [
            ("one", 1, 1),
            ("two", 2, 1),
        ]
        assert run("projects").stdout.splitlines()[1].split()[:4] == ["one", "unknown", "1", "1"]

    def test_builds_are_chosen_by_status_and_page(self, run: Run) -> None:
        for command in ("true", "false", "true", "false"):
            run("record", "--project", "app", "--", command)

        def listed(*arguments: str) -> list[str]:
            rows = run("builds", *arguments).stdout.splitlines()[1:]
            return [row.split()[0] for row in rows]

        assert listed("--status", "failed") == ["app#4", "app#2"]
        assert listed("app", "--status", "success", "--limit", "1") == ["app#3"]
        assert listed("--limit", "2") == ["app#4", "app#3"]
        assert listed("--limit", "2", "--after", "app#3") == ["app#2", "app#1"]
        assert listed("app", "--after", "app#2") == ["app#1"]
        assert listed("app", "--after", "app#1") == listed("--branch", "none") == []

    def test_projects_are_found_by_a_word(self, run: Run) -> None:
        for name in ("one%", "two"):
            run("record", "--project", name, "--", "true")
        assert len(run("projects", "--search", "%").stdout.splitlines()) == 2
        assert len(run("projects", "--search", "O", "--active").stdout.splitlines()) == 3

    def test_stats_tell_how_builds_have_gone(self, run: Run) -> None:
        for command in ("true", "false", "true"):
            run("record", "--project", "app", "--", command)
        run("record", "--project", "other", "--", "true")
        shown = run("stats", "app").stdout.splitlines()
        assert shown[0] == "app, 30 days"
        assert shown[1].split()[:5] == ["builds", "success", "failed", "rate", "median"]
        assert shown[2].split()[:5] == ["3", "2", "1", "66.7", "%"]
        assert shown[4].split() == ["day", "(UTC)", "builds", "failed", "mean"]
        assert shown[5].split()[1:3] == ["3", "1"] and shown[5].endswith("█" * 20 + "░" * 10)
        assert shown[7].split() == ["slowest", "duration", "started"]
        told = json.loads(run("stats", "--json", "--all").stdout)
        assert (told["project"], told["days"]) == (None, None)
        assert told["statistics"]["by_status"]["success"] == 3
        assert (told["trend"][0]["total"], len(told["slowest"]), told["flaky"]) == (4, 4, [])
        assert run("stats", "--days", "400").stdout.startswith("all projects, 400 days\n")

    def test_stats_of_nothing(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "empty.db").touch()
        assert run("stats", "--db", "empty.db").stdout == (
            "all projects, 30 days\nno builds; --all looks further back\n"
        )

    def test_a_log_is_shown_by_name_number_and_id(self, run: Run) -> None:
        for word in ("first", "second"):
            run("record", "--project", "app", "--", "echo", word)
        assert run("logs", "app#1").stdout == "first\n"
        assert run("logs", "app").stdout == "second\n"
        assert run("logs", "2").stdout == "second\n"

    def test_lines_are_chosen_by_level_and_text(self, run: Run) -> None:
        text = "plain\nwarning: careful\nerror: broken\nplain warning\n"
        run("record", "--project", "app", "--", "printf", text)
        assert run("logs", "app", "--level", "warning").stdout == (
            "warning: careful\nerror: broken\n"
        )
        assert run("logs", "app", "--grep", "lain w").stdout == "plain warning\n"

    def test_progress_bars_are_shown_as_a_terminal_would_leave_them(self, run: Run) -> None:
        run("record", "--project", "app", "--", "printf", "10%%\r100%%\nend\r\n")
        assert run("logs", "app").stdout == "100%\nend\n"
        [bar, end] = map(json.loads, run("logs", "app", "--json").stdout.splitlines())
        assert (bar["message"], end["message"]) == ("10%\r100%", "end\r")

    def test_follow_ends_with_the_build(self, run: Run, tmp_path: Path) -> None:
        go = tmp_path / "go"
        os.mkfifo(go)
        recorder = subprocess.Popen(
            ["abt-db", "record", "--quiet", "--project", "app", "--", "sh", "-c",
             f"echo first; cat {go}; echo last"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        asyncio.run(eventually(lambda: run("logs", "app").stdout == "first\n"))
        follower = subprocess.Popen(
            ["abt-db", "logs", "app", "--follow"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        go.write_text("")
        assert follower.stdout.read() == "last\n"
        assert (follower.wait(timeout=SOON), recorder.wait(timeout=SOON)) == (0, 0)
        follower.stdout.close()

    def test_follow_ends_when_the_recorder_is_killed(self, run: Run, tmp_path: Path) -> None:
        go = tmp_path / "go"
        os.mkfifo(go)
        recorder = subprocess.Popen(
            ["abt-db", "record", "--quiet", "--project", "app", "--", "sh", "-c",
             f"echo first; cat {go}"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        asyncio.run(eventually(lambda: run("logs", "app").stdout == "first\n"))
        follower = subprocess.Popen(
            ["abt-db", "logs", "app", "--follow"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        recorder.kill()
        recorder.wait()
        assert (follower.stdout.read(), follower.wait(timeout=SOON)) == ("", 0)
        assert json.loads(run("builds", "--json").stdout)["status"] == "failed"
        go.write_text("")  # the command is still there
        follower.stdout.close()

    def test_colours_only_on_a_terminal_and_only_if_nobody_minds(
        self, run: Run, tmp_path: Path
    ) -> None:
        run("record", "--project", "app", "--", "echo", "error: broken")
        assert run("logs", "app").stdout == "error: broken\n"
        assert on_terminal(tmp_path, "logs", "app") == "\x1b[31merror: broken\x1b[0m\r\n"
        assert on_terminal(tmp_path, "logs", "app", NO_COLOR="1") == "error: broken\r\n"

    def test_of_what_a_log_would_tell_the_terminal_only_colours_get_there(
        self, run: Run, tmp_path: Path
    ) -> None:
        line = r"\033[1;32mok\033[0m\033]0;a title\007\033[2J\033[H of\t1\b2\033P\n"
        run("record", "--project", "app", "--", "printf", line)
        shown = "\x1b[1;32mok\x1b[0m of\t1 2\x1b[0m\r\n"
        assert on_terminal(tmp_path, "logs", "app") == shown
        assert on_terminal(tmp_path, "logs", "app", NO_COLOR="1") == "ok of\t1 2\r\n"
        raw = "\x1b[1;32mok\x1b[0m\x1b]0;a title\x07\x1b[2J\x1b[H of\t1\b2\x1bP\n"
        assert run("logs", "app").stdout == raw

    def test_no_command_lets_what_is_recorded_steer_the_terminal(
        self, run: Run, tmp_path: Path
    ) -> None:
        """Neither the controls above ASCII, of which U+009B begins what ESC [ does, nor what turns
        the direction of writing; JSON means the same as before."""
        steering = "\x9b31m\x85\u202egpj\u2066\u200f\u2028\u200b\x7f\U000e0001"
        line = f"error: über 漢 {steering} file.c:1"
        run("record", "--project", "app", "--artifact", steering, "--", "printf", f"{line}\n")
        folder = tmp_path / "steps"
        folder.mkdir()
        (folder / "0001_a.up.sql").write_text(f"CREATE TABLE t (a DEFAULT '{steering}');\n")
        (folder / "0001_a.down.sql").write_text(f"DROP TABLE t; SELECT '{steering}';\n")
        commands = [
            ["logs", "app"],
            ["logs", "app", "--json"],
            ["logs", "--search", "error"],
            ["logs", "--search", "error", "--json"],
            ["builds"],
            ["builds", "--json"],
            ["stats", "--json"],
            ["export"],
            ["import", f"bad{steering}.jsonl"],
            ["logs", steering],
            ["builds", "--db", f"{steering}.db"],
            ["integrity", "--db", "other.db"],
            ["integrity", "--db", "other.db", "--json"],
            ["doctor", "--db", "other.db"],
            ["doctor", "--db", "other.db", "--prometheus"],
            ["migrate", "dump", "--migrations", "steps"],
            ["migrate", "plan", "--migrations", "steps", "--db", "other.db"],
            ["migrate", "up", "--migrations", "steps", "--db", "other.db"],
        ]
        (tmp_path / f"bad{steering}.jsonl").write_text(
            json.dumps({f"x{steering}": 1}, ensure_ascii=False)
        )
        with closing(sqlite3.connect(tmp_path / "other.db")) as db:
            db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            db.execute(f'CREATE TABLE "t{steering}" (a REFERENCES parent)')
            db.execute(f'INSERT INTO "t{steering}" VALUES (7)')
            db.commit()
        for command in commands:
            shown = on_terminal(tmp_path, *command, errors=True, NO_COLOR="1")
            text = re.sub(r"\r|\x1b\[K", "", shown)  # of the line that shows how far it is
            assert shown and all(c.isprintable() or c in "\n\t" for c in text), (command, shown)
            if "--json" in command and command[0] == "logs":
                assert json.loads(shown)["message"] == line
                assert "über 漢" in shown  # what can be shown is
                assert run(*command).stdout.replace("\n", "\r\n") == shown
        exported = on_terminal(tmp_path, "export").splitlines()
        assert [*map(json.loads, exported)] == [
            *map(json.loads, run("export").stdout.split("\n")[:-1])
        ]
        assert steering.replace("\x7f", "") in run("export").stdout.replace("\x7f", "")

    def test_a_table_fits_the_terminal(self, run: Run, tmp_path: Path) -> None:
        run("record", "--project", "a-project-with-a-very-long-name-indeed", "--", "true")
        for command in ("builds", "projects", "stats"):
            shown = on_terminal(tmp_path, command, NO_COLOR="1", COLUMNS="60").splitlines()
            assert max(map(len, shown)) <= 60

    def test_head_can_close_the_pipe(self, run: Run, tmp_path: Path) -> None:
        run("record", "--project", "app", "--", "seq", "1", "100000")
        done = subprocess.run(
            "abt-db logs app | head -n 1", shell=True, cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("1\n", "")

    def test_commands_run_as_scripts_of_a_checkout_too(self, run: Run, tmp_path: Path) -> None:
        run("record", "--project", "app", "--", "echo", "hi")
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "logs.py"), "app"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("hi\n", "", 0)

    def test_the_database_is_named_by_option_or_environment(self, run: Run, tmp_path: Path) -> None:
        run("record", "--db", "a.db", "--project", "app", "--", "echo", "a")
        run("record", "--project", "app", "--", "echo", "b", ABT_DB="b.db")
        assert run("logs", "app", ABT_DB="a.db").stdout == "a\n"
        assert run("logs", "--db", "b.db", "app").stdout == "b\n"
        assert sorted(path.name for path in tmp_path.glob("*.db")) == ["a.db", "b.db"]

    @pytest.fixture
    def built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A directory with a build database, `a.db`, and a copy of it, and no other."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ABT_DB", raising=False)
        assert main(["record", "--quiet", "--db", "a.db", "--project", "app", "--", "true"]) == 0
        shutil.copy("a.db", "copy")
        return tmp_path

    @pytest.mark.parametrize(
        "command",
        [
            *("vacuum", "vacuum --timeout 1000", "checkpoint --mode full", "doctor --json"),
            *("integrity", "optimize --full", "prune --older-than 9d --dry-run"),
            *("vacuum --page-size 8192", "vacuum --into new.db"),
            *("backup .", "backup . --keep 3", "restore copy", "restore copy --json"),
            *("migrate status", "migrate plan --json", "migrate plan 6 --json", "migrate up"),
            *("migrate up 6 --json", "migrate down 6", "migrate to 6 --json", "migrate drift"),
            *("migrate history", "migrate validate", "migrate rehearse --json"),
        ],
    )
    def test_the_database_is_the_last_argument_or_stands_before_the_command(
        self, built: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        for arguments in [*command.split(), "a.db"], ["--db", "a.db", *command.split()]:
            assert main(arguments) == 0
            (built / "new.db").unlink(missing_ok=True)
        assert capsys.readouterr().err == ""
        assert not (built / "android_build_tool.db").exists()

    @pytest.mark.parametrize(
        "command",
        [
            *("vacuum", "checkpoint", "backup .", "optimize", "integrity", "doctor"),
            *("prune --older-than 9d", "migrate status", "migrate drift"),
        ],
    )
    def test_without_a_database_it_is_said_how_to_name_one(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        command: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ABT_DB", raising=False)
        for named in "android_build_tool.db", "a.db":
            assert main([*command.split(), *([named] if named == "a.db" else [])]) == 1
            said = capsys.readouterr().err
            assert f"there is no database {named}; " in said and "--db" in said
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize(
        "arguments",
        [
            *("vacuum --db a.db b.db", "--db a.db vacuum b.db", "--db a.db builds --db b.db"),
            *("--db a.db restore b.db --db b.db", "migrate --db b.db up a.db"),
            *("migrate up a.db b.db", "--db b.db migrate --db b.db up 3 --db a.db"),
        ],
    )
    def test_two_databases_are_one_too_many(self, run: Run, tmp_path: Path, arguments: str) -> None:
        run("record", "--db", "a.db", "--project", "app", "--", "true")
        done = run(*arguments.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("error: more than one database is named: a.db, b.db\n")
        assert [path.name for path in tmp_path.glob("*.db")] == ["a.db"]

    def test_the_same_may_be_named_twice(
        self, built: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ABT_DB", "b.db")
        assert main(["--db", "a.db", "vacuum", "--db", "./a.db", str(built / "a.db")]) == 0

    def test_what_is_neither_version_nor_database_makes_none(
        self, run: Run, tmp_path: Path
    ) -> None:
        done = run("migrate", "up", "tow")
        assert (done.returncode, [*tmp_path.iterdir()]) == (2, [])
        assert "tow is neither a number nor a database; one that is to be made is" in done.stderr


def shell(directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], cwd=directory, capture_output=True, text=True)


class TestClosedStreams:
    """What the shell has closed before the start is as good as /dev/null."""

    def test_a_build_without_any_is_recorded_and_messages_do_not_go_among_the_data(
        self, tmp_path: Path
    ) -> None:
        build = "sh -c 'echo a; echo b >&2; exit 5'"
        done = shell(tmp_path, f"abt-db record --project app -- {build} <&- >&- 2>&-")
        assert done.returncode == 5
        _project, recorded = map(
            json.loads, shell(tmp_path, "abt-db export 2>&-").stdout.splitlines()
        )
        assert sorted(line["message"] for line in recorded["build"]["log"]) == ["a", "b"]

    def test_importing_nothing_and_exporting_to_nobody_are_fine(self, tmp_path: Path) -> None:
        done = shell(tmp_path, "abt-db import - <&- && abt-db export >&-")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)


class TestBadInput:
    """One clear sentence on stderr, exit code 1; usage errors 2; never a traceback."""

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["builds"], 1, "there is no database android_build_tool.db"),
            (["logs", "app"], 1, "there is no database"),
            (["builds", "--db", "/"], 1, "is a directory"),
            (["record", "--db", "no/where.db", "--project", "x", "--", "true"], 1, "no directory"),
            (["builds", "--db", "random.db"], 1, "not a database"),
            (["builds", "--db", "empty.db"], 0, ""),
            (["builds", "--db", "other.db"], 1, "belongs to another program"),
            (["logs", "--db", "good.db", "nope"], 1, "there is no build 'nope'"),
            (["logs", "--db", "good.db", "app#9"], 1, "there is no build 'app#9'"),
            (["logs", "--db", "good.db", "9" * 5_000], 1, "there is no build"),
            (["builds", "--db", "good.db", "nope"], 1, "there is no project 'nope'"),
            (["builds", "--db", "good.db", "--limit", "0"], 2, "--limit"),
            (["builds", "--db", "good.db", "--status", "ok"], 2, "--status"),
            (["builds", "--db", "good.db", "--after", "app#9"], 1, "there is no build 'app#9'"),
            (["stats", "--db", "good.db", "nope"], 1, "there is no project 'nope'"),
            (["stats", "--db", "good.db", "--days", "0"], 2, "--days"),
            (["stats", "--db", "good.db", "--days", "9999999"], 1, "before the year 1"),
            (["stats", "--db", "good.db", "--days", "9", "--all"], 2, "not allowed with"),
            (["record", "--db", "good.db", "--project", "x"], 2, "no command to record"),
            (["record", "--db", "good.db", "--project", "", "--", "true"], 2, "--project"),
            (["record", "--", "true"], 2, "--project"),
            (["record", "--timeout", "soon", "--project", "x", "--", "true"], 2, "--timeout"),
            (["record", "--timeout", "-1", "--project", "x", "--", "true"], 2, "--timeout"),
            (["logs", "--level", "loud", "x"], 2, "loud"),
            (["nonsense"], 2, "nonsense"),
            ([], 2, "COMMAND"),
        ],
    )
    def test_it_is_told_in_one_sentence(
        self, run: Run, tmp_path: Path, arguments: list[str], code: int, says: str
    ) -> None:
        (tmp_path / "random.db").write_bytes(os.urandom(8192))
        (tmp_path / "empty.db").write_bytes(b"")
        subprocess.run(["sqlite3", tmp_path / "other.db", "CREATE TABLE t (x)"], check=False)
        if not (tmp_path / "other.db").exists():
            program = "import sqlite3; sqlite3.connect('other.db').execute('CREATE TABLE t (x)')"
            subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
        run("record", "--db", "good.db", "--project", "app", "--", "true")
        done = run(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert says in done.stderr
        if code == 1:
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("abt-db: ")

    def test_a_working_directory_that_is_gone_is_told(self, tmp_path: Path) -> None:
        gone = "mkdir gone && cd gone && rmdir ../gone"
        done = shell(tmp_path, f"{gone} && abt-db record --project app -- true")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "abt-db: the working directory has been removed; change to another one\n"
        )

    def test_a_missing_database_is_not_made_by_looking(self, run: Run, tmp_path: Path) -> None:
        run("builds")
        assert list(tmp_path.iterdir()) == []

    def test_a_random_file_is_left_as_it_is(self, run: Run, tmp_path: Path) -> None:
        noise = os.urandom(8192)
        (tmp_path / "random.db").write_bytes(noise)
        run("record", "--db", "random.db", "--project", "app", "--", "true")
        assert (tmp_path / "random.db").read_bytes() == noise


def on_terminal(directory: Path, *arguments: str, errors: bool = False, **settings: str) -> str:
    """What `abt-db` prints when its output is a terminal, and with `errors` standard error, too."""
    controller, terminal = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        ["abt-db", *arguments],
        cwd=directory,
        stdout=terminal,
        stderr=terminal if errors else None,
        env={**environment, **settings},
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        try:
            data = os.read(controller, 65536)
        except OSError:
            break  # the terminal's last user has gone
        if not data:
            break
        shown += data
    process.wait(timeout=SOON)
    os.close(controller)
    return shown.decode()
