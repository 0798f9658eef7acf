"""Recording real builds: real processes, real output, real kills."""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.clock import Clock
from support.suite import descriptors, eventually, threads

from abt_db.builds import Build, BuildStatus, BuildStore, CommandError, Level, LogLine, Stream
from abt_db.builds.holder import Holder
from abt_db.builds.usage import processes
from abt_db.config import Config

PYTHON = sys.executable


def script(text: str) -> list[str]:
    """A command that runs a Python program."""
    return [PYTHON, "-c", text]


async def log_of(store: BuildStore, build: Build) -> list[LogLine]:
    async with store.logs.stream(build.id) as lines:
        return [line async for line in lines]


def printed(lines: list[LogLine], stream: Stream = Stream.STDOUT) -> bytes:
    return b"".join(line.data for line in lines if line.stream is stream)


def refuse(path: Path, what: str, why: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(
            f"CREATE TRIGGER no_{len(what)} BEFORE {what} BEGIN SELECT RAISE(ABORT, '{why}'); END"
        )
    db.close()


class TestOutcome:
    """A build's row says how it ended, and every line that it printed is kept."""

    async def test_a_build_that_succeeds_is_recorded_whole(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            async with store.recorder("app", build_type="debug", triggered_by="me") as build:
                outcome = await build.run(
                    script("import sys; print('one'); print('two', file=sys.stderr)")
                )
            assert outcome.exit_code == 0
            ended = build.build
            assert (ended.status, ended.exit_code, ended.build_number) == ("success", 0, 1)
            assert (ended.build_type, ended.triggered_by) == ("debug", "me")
            assert ended.started_at is not None and ended.completed_at is not None
            assert ended.started_at <= ended.completed_at
            assert ended.duration_seconds is not None and ended.duration_seconds > 0
            assert ended.memory_usage_mb is not None and ended.memory_usage_mb > 1
            assert ended == await store.builds.get_by_id(ended.id)
            log = await log_of(store, ended)
            assert printed(log) == b"one\n"
            assert printed(log, Stream.STDERR) == b"two\n"
            assert [line.sequence_number for line in log] == [1, 2]

    @pytest.mark.parametrize(
        ("program", "status", "exit_code"),
        [
            ("raise SystemExit(7)", "failed", 7),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed", 137),
        ],
    )
    async def test_a_build_that_fails_keeps_its_exit_code(
        self, path: Path, program: str, status: str, exit_code: int
    ) -> None:
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(script(program))
            assert (build.build.status, build.build.exit_code) == (status, exit_code)

    async def test_a_command_that_can_not_be_started_fails_the_build(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            with pytest.raises(CommandError, match="no-such-program"):
                async with store.recorder("app") as build:
                    await build.run(["no-such-program"])
            assert (build.build.status, build.build.exit_code) == ("failed", 127)

    async def test_a_time_limit_stops_the_whole_group_and_keeps_the_log(
        self, path: Path, clock: Clock
    ) -> None:
        program = "sleep 1000 & echo $!; echo started; wait"
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                running = asyncio.create_task(build.run(["sh", "-c", program], timeout=9000))
                await eventually(lambda: _lines(path) == 2)
                clock.passes(9000)
                await running
            assert build.build.status == "failed"
            assert build.build.build_metadata is not None
            assert build.build.build_metadata["stopped"] == "timeout"
            log = await log_of(store, build.build)
            assert log[1].message == "started"
            assert not alive(int(log[0].message))

    async def test_a_cancelled_build_is_noted_as_cancelled(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            running = asyncio.Event()

            async def record() -> None:
                async with store.recorder("app") as build:
                    running.set()
                    await build.run(["sh", "-c", "echo started; exec sleep 1000"])

            task = asyncio.create_task(record())
            await running.wait()
            await eventually(lambda: _lines(path) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            [build] = await store.builds.latest()
            assert (build.status, build.log_lines) == ("cancelled", 1)

    async def test_an_artifact_is_noted_with_its_size(self, path: Path, tmp_path: Path) -> None:
        async with await BuildStore.open(path) as store:
            async with store.recorder("app", directory=tmp_path, artifact="app.apk") as build:
                await build.run(["sh", "-c", "printf 12345 > app.apk"])
            assert build.build.artifact_path == str(tmp_path / "app.apk")
            assert build.build.artifact_size == 5

    async def test_paths_that_are_not_utf_8_are_told_with_their_bytes(
        self, path: Path, tmp_path: Path
    ) -> None:
        directory = tmp_path / os.fsdecode(b"caf\xe9")
        directory.mkdir()
        async with await BuildStore.open(path) as store:
            artifact = os.fsdecode(b"\xff.apk")
            async with store.recorder("app", directory=directory, artifact=artifact) as build:
                await build.run(["touch", artifact])
            assert build.project.local_path.endswith("/caf\\xe9")
            assert (build.build.artifact_path or "").endswith("/caf\\xe9/\\xff.apk")
            assert (build.build.status, build.build.artifact_size) == ("success", 0)

    async def test_commit_and_branch_come_from_the_checkout(
        self, path: Path, tmp_path: Path
    ) -> None:
        def git(*arguments: str) -> str:
            done = subprocess.run(
                ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments],
                cwd=tmp_path,
                check=True,
                capture_output=True,
                text=True,
            )
            return done.stdout.strip()

        git("init", "--quiet", "--initial-branch", "topic")
        git("commit", "--quiet", "--allow-empty", "--message", "first")
        async with await BuildStore.open(path) as store:
            async with store.recorder("app", directory=tmp_path) as build:
                await build.run(["true"])
            assert build.build.commit_hash == git("rev-parse", "HEAD")
            assert build.build.branch == "topic"
            assert build.project.branch == "topic"

    async def test_levels_and_sources_are_told_by_the_text(self, path: Path) -> None:
        text = "> Task :app:compile\nw: careful\ne: broken\nplain\n"
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(script(f"print({text!r}, end='')"))
            told = [(line.level, line.source) for line in await log_of(store, build.build)]
        assert told == [
            (level, ":app:compile")
            for level in (Level.INFO, Level.WARNING, Level.ERROR, Level.INFO)
        ]

    async def test_numbers_of_builds_that_start_together_have_no_gap(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:

            async def record() -> int:
                async with store.recorder("app") as build:
                    await build.run(["true"])
                return build.build.build_number

            numbers = await asyncio.gather(*(record() for _ in range(10)))
        assert sorted(numbers) == list(range(1, 11))

    async def test_nothing_is_left_behind(self, path: Path) -> None:
        before = threads(), descriptors()
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(["true"])
        assert (threads(), descriptors()) == before


class TestNothingIsLost:
    """Every byte comes back, whatever a build prints and whatever befalls the database."""

    async def test_bytes_come_back_as_they_were_printed(self, path: Path) -> None:
        odd = (
            b"caf\xe9\n\r\n10%\r20%\r30%\n\x1b[31mred\x1b[0m\n\0\n\n" + "é漢".encode() * 9 + b"end"
        )
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(script(f"import sys; sys.stdout.buffer.write({odd!r})"))
            log = await log_of(store, build.build)
        assert printed(log) == odd
        assert [line.message for line in log][2:5] == [
            "10%\r20%\r30%",
            "\x1b[31mred\x1b[0m",
            "\0",
        ]

    @pytest.mark.large
    async def test_all_real_logs_come_back_byte_for_byte(
        self, path: Path, tmp_path: Path, rbtlog: Path
    ) -> None:
        """Issue 2: the text of all 627 logs, as a command's output."""
        with lzma.open(rbtlog / "builds.jsonl.xz", "rt", encoding="utf-8") as file:
            logs = [json.loads(line)["build_log"].encode() for line in file]
        assert len(logs) == 627
        text = tmp_path / "log.txt"
        async with await BuildStore.open(path) as store:
            lines = 0
            for log in logs:
                text.write_bytes(log)
                async with store.recorder("app") as build:
                    await build.run(["cat", str(text)])
                recorded = await log_of(store, build.build)
                assert printed(recorded) == log
                lines += len(recorded)
        assert lines == 592_858  # every one ends with a newline

    @pytest.mark.large
    async def test_200_000_lines_at_full_speed_are_all_there_in_order(self, path: Path) -> None:
        """Issue 2: both streams at once, as fast as a process can print."""
        program = """
import sys, threading
def write(stream, name):
    for i in range(0, 100_000, 100):
        stream.write("".join(f"{name} line {n}: compiling something\\n" for n in range(i, i + 100)))
    stream.flush()
other = threading.Thread(target=write, args=(sys.stderr, "err"))
other.start(); write(sys.stdout, "out"); other.join()
"""
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(script(program))
            assert build.build.status == "success"
            log = await log_of(store, build.build)
        for stream, name in ((Stream.STDOUT, "out"), (Stream.STDERR, "err")):
            assert printed(log, stream) == b"".join(
                b"%s line %d: compiling something\n" % (name.encode(), n) for n in range(100_000)
            )
        assert [line.sequence_number for line in log] == list(range(1, 200_001))

    async def test_a_database_that_is_locked_for_a_while_loses_no_line(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                with locked(path):
                    # The build runs to its end although nothing can be stored.
                    running = asyncio.create_task(
                        build.run(["sh", "-c", f"seq 1 50000; touch {path}.done"])
                    )
                    await eventually(lambda: Path(f"{path}.done").exists())
                    assert not running.done()
                await running
            assert build.lines == 50_000
            assert printed(await log_of(store, build.build)) == b"".join(
                b"%d\n" % n for n in range(1, 50_001)
            )

    async def test_a_database_that_is_locked_at_the_end_loses_no_outcome(self, path: Path) -> None:
        async with await BuildStore.open(path, config=Config(busy_timeout=0.01)) as store:
            async with store.recorder("app") as build:
                lock = sqlite3.connect(path, isolation_level=None)
                lock.execute("BEGIN IMMEDIATE")
                await build.run(["sh", "-c", "exit 3"])
                # Long after its own time limit. It was tried by then.
                asyncio.get_running_loop().call_later(0.3, lock.close)
            assert (build.build.status, build.build.exit_code) == ("failed", 3)

    async def test_lines_that_can_not_be_stored_are_saved_in_a_file(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            with pytest.raises(sqlite3.IntegrityError) as caught:
                async with store.recorder("app") as build:
                    # The project goes, and the build with it: its lines have nowhere to be.
                    with sqlite3.connect(path) as other:
                        other.execute("PRAGMA foreign_keys = 1")
                        other.execute("DELETE FROM projects")
                    other.close()
                    # So many that they are read in pieces, which end in the middle of a line.
                    await build.run(["seq", "1", "100000"])
        [note] = [note for note in caught.value.__notes__ if "output" in note]
        saved = Path(note.rpartition(" ")[2])
        assert saved.read_bytes() == b"".join(b"%d\n" % n for n in range(1, 100_001))

    async def test_it_is_told_where_they_are_when_nothing_else_can_be_stored_either(
        self, path: Path
    ) -> None:
        async with await BuildStore.open(path) as store:
            with pytest.raises(sqlite3.IntegrityError, match="no more lines") as caught:
                async with store.recorder("app") as build:
                    refuse(path, "INSERT ON build_logs", "no more lines")
                    refuse(path, "UPDATE ON builds", "no more builds")
                    await build.run(["echo", "one"])
        lines, end = caught.value.__notes__[-2:]
        assert lines == f"The output from line 1 on is in {path}.build-1.log"
        assert end.startswith("How the build ended is not stored either") and "no more b" in end
        assert Path(f"{path}.build-1.log").read_bytes() == b"one\n"

    async def test_lines_that_can_not_be_saved_either_are_told(self, path: Path) -> None:
        path = path.with_name("x" * 245)  # as a full disk would, the longer name refuses the file
        async with await BuildStore.open(path) as store:
            with pytest.raises(sqlite3.IntegrityError, match="no more lines") as caught:
                async with store.recorder("app") as build:
                    refuse(path, "INSERT ON build_logs", "no more lines")
                    await build.run(["echo", "one"])
            assert build.build.status is BuildStatus.SUCCESS
        assert "is lost" in caught.value.__notes__[-1]


class TestKilledRecorder:
    """`kill -9` of the recorder: what was committed stays, and the build does not run for ever."""

    def test_committed_lines_stay_and_the_next_start_marks_the_build(self, path: Path) -> None:
        command = ["abt-db", "record", "--db", str(path), "--project", "app", "--"]
        recorder = subprocess.Popen(
            [*command, *script("import itertools\nfor n in itertools.count(): print(n)")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        asyncio.run(eventually(lambda: _lines(path) > 5_000))
        recorder.kill()
        recorder.wait()
        kept = _lines(path)
        subprocess.run([*command, "true"], check=True, capture_output=True)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            builds = db.execute("SELECT status, exit_code FROM builds ORDER BY id").fetchall()
            assert builds == [("failed", None), ("success", 0)]
            messages = db.execute(
                "SELECT message FROM build_logs WHERE build_id = 1 ORDER BY sequence_number"
            ).fetchall()
        db.close()
        assert len(messages) >= kept > 5_000
        assert messages == [(str(n),) for n in range(len(messages))]

    async def test_builds_of_a_living_recorder_are_left_alone(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                assert await store.fail_abandoned() == []
                await build.run(["true"])
            assert build.build.status is BuildStatus.SUCCESS

    @pytest.mark.parametrize("pid", ["x", None, 1.5, 10**20])
    async def test_a_note_that_names_no_process_stops_nobody(self, path: Path, pid: object) -> None:
        """It may have been imported, like any other note."""
        here = Holder.this_process().as_metadata()["recorder"]
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                note = {"recorder": {**here, "pid": pid}}
                await store.builds.update(build.build.id, build_metadata=note)
                # A process of such a number there can't be, so the one that is meant has gone.
                failed = [build.build.id] if pid == 10**20 else []
                assert [gone.id for gone in await store.fail_abandoned()] == failed


class TestMemory:
    """The recorder's memory does not grow with the log."""

    @pytest.mark.large
    def test_200_000_lines_take_less_than_50_mb(self, path: Path) -> None:
        def peak(lines: int) -> int:
            """Peak memory of a recorder in MiB, in a process of its own."""
            program = f"""
import resource, subprocess, sys
subprocess.run(["abt-db", "record", "--db", {str(path)!r}, "--project", "app", "--", "sh", "-c",
                "yes 'a line of a build log as long as they usually are' | head -n {lines}"],
               check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
            done = subprocess.run(script(program), check=True, capture_output=True, text=True)
            return int(done.stdout)

        assert resource.getpagesize() > 0
        assert peak(200_000) - peak(10) < 50
        assert _lines(path) == 200_010


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent to notice."""
    return any(process.pid == pid and not process.zombie for process in processes())


def _lines(path: Path) -> int:
    """How many log lines another process sees."""
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        [(count,)] = db.execute("SELECT count(*) FROM build_logs")
        return int(count)
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    holder = subprocess.Popen(
        script(
            "import sqlite3, sys\n"
            f"db = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
            "db.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"locked\n"
        yield
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
