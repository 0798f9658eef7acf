"""Recording as a program does it: what it shows of a command, and how it lives and dies itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.running import program, python, sh
from support.suite import SOON

from abt_db.builds.usage import processes

MIB = 1024 * 1024

# Arguments: a file for what was recorded; settings of Command and `stop_at`, a file at the sight of
# which it is stopped; the command.
RECORD = """
import asyncio, json, signal, sys
from pathlib import Path
from abt_db.builds.command import Command, CommandError, StopReason
from abt_db.builds.spool import Spool

async def stop(command, sign):
    while not sign.exists():
        await asyncio.sleep(0.01)
    command.stop(StopReason.TERMINATED)

async def record(file, settings, *argv):
    told = {"STDOUT": 0, "STDERR": 0}
    settings = json.loads(settings)
    sign = settings.pop("stop_at", None)
    with Spool() as spool:
        async with Command(argv, spool=spool, echo=True, **settings) as command:
            stopping = sign and asyncio.create_task(stop(command, Path(sign)))
            try:
                outcome = await command.wait()
                told |= {"exit_code": outcome.exit_code, "stopped": outcome.stopped}
            except CommandError as error:
                told |= {"error": str(error)}
        while chunks := await spool.take():
            for chunk in chunks:
                told[chunk.stream.name] += len(chunk.data)
    Path(file).write_text(json.dumps(told))
"""
# SIGPIPE as in a program that is written to be part of a pipeline.
RECORD_AND_EXIT = f"""{RECORD}
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
asyncio.run(record(*sys.argv[1:]))
"""
# Prints until a terminal that nobody reads is full, then something that waits for room there, and
# then 48 KiB more, which stay in the pipe to the recorder.
FILL = """
            import fcntl, os, sys, termios, time
            for _ in range(8 + 1):
                os.write(1, bytes(8192))
                while any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))): time.sleep(0.001)
            os.write(1, bytes(6 * 8192))"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a program writes what it has recorded."""
    return tmp_path / "recorded.json"


def recorded(file: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(file.read_text())
    return told


class TestEcho:
    """Output is shown unchanged and at once; a terminal that fails ends that, and nothing else."""

    def test_both_streams_are_shown_unchanged(self, file: Path) -> None:
        data = os.urandom(3 * MIB)
        copy = file.with_name("data")
        copy.write_bytes(data)
        with program(RECORD_AND_EXIT, file, "{}", *sh(f"cat {copy}; cat {copy} >&2")) as shown:
            out, err = shown.communicate()
        same = out == err == data  # pytest would take hours to explain a difference
        assert same
        assert recorded(file) == {
            "STDOUT": len(data), "STDERR": len(data), "exit_code": 0, "stopped": None
        }  # fmt: skip

    def test_both_may_be_shown_in_one_place(self, file: Path) -> None:
        script = sh("seq 100000 & seq 100000 >&2; wait")
        with program(RECORD_AND_EXIT, file, "{}", *script, err=subprocess.STDOUT) as shown:
            output, _ = shown.communicate()
        assert len(output) == recorded(file)["STDOUT"] + recorded(file)["STDERR"]

    def test_a_question_is_shown_and_answered(self, file: Path) -> None:
        script = sh("echo Continue?; read answer; echo $answer")
        with program(RECORD_AND_EXIT, file, "{}", *script, stdin=subprocess.PIPE) as shown:
            assert shown.stdout is not None
            assert shown.stdout.readline() == b"Continue?\n"
            assert shown.communicate(b"yes\n") == (b"yes\n", b"")

    @pytest.mark.parametrize("redirected", ["", ">&-", ">/dev/full", "</dev/null >&0"])
    def test_where_nothing_can_be_shown_all_is_recorded(self, file: Path, redirected: str) -> None:
        script = sh("head -c 1000000 /dev/zero; echo done >&2; exit 3")
        with program(RECORD_AND_EXIT, file, "{}", *script, redirected=redirected) as shown:
            assert shown.stdout is not None
            shown.stdout.close()
            assert shown.stderr is not None
            assert shown.stderr.read() == b"done\n"
        assert recorded(file) == {
            "STDOUT": 1_000_000, "STDERR": 5, "exit_code": 3, "stopped": None
        }  # fmt: skip

    def test_a_pipe_that_does_not_block_and_is_not_ours_alone(self, file: Path) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        with os.fdopen(read, "rb") as pipe:
            script = sh("head -c 10000000 /dev/zero")
            with program(RECORD_AND_EXIT, file, "{}", *script, out=write) as shown:
                other = threading.Thread(target=fill, args=[write, shown])
                other.start()
                assert pipe.read().count(b"\0") == 10_000_000
                other.join()

    @pytest.mark.parametrize("printing", ["yes", "yes >&2 & yes"])
    def test_a_stuck_terminal_does_not_keep_a_command_from_being_stopped(
        self, file: Path, printing: str
    ) -> None:
        sign = file.with_name("stop")
        script = sh(f"echo first; sleep 0.1; {printing}")
        argv = [str(file), json.dumps({"stop_at": str(sign)}), *script]
        with program(RECORD_AND_EXIT, *argv, err=subprocess.STDOUT) as shown:
            assert shown.stdout is not None
            for _ in range(500):
                os.read(shown.stdout.fileno(), 4096)
            sign.touch()
            # From here on nobody reads.
        assert recorded(file)["stopped"] == "terminated"
        assert recorded(file)["STDOUT"] > 64 * 1024

    def test_a_slow_terminal_loses_nothing(self, file: Path) -> None:
        """When the command ends, 48 KiB of it wait in its pipe, which a daemon holds open."""
        script = (
            f"{FILL}\n            print(os.getpid(), os.fork() or time.sleep(600), file=sys.stderr)"
        )
        with program(RECORD_AND_EXIT, file, '{"drain": 0.001}', *python(script)) as shown:
            assert shown.stderr is not None
            command, daemon = map(int, shown.stderr.readline().split())
            until_gone(command)
            assert shown.stdout is not None
            assert len(shown.stdout.read()) == 15 * 8192
        assert recorded(file)["STDOUT"] == 15 * 8192
        os.kill(daemon, signal.SIGKILL)

    def test_all_that_a_stopped_command_printed_is_kept(self, file: Path) -> None:
        """When it is stopped, 48 KiB of it wait in its pipe, since the terminal is stuck."""
        sign = file.with_name("stop")
        script = python(f"{FILL}\n            open({str(sign)!r}, 'w').close(); time.sleep(1000)")
        with program(RECORD_AND_EXIT, file, json.dumps({"stop_at": str(sign)}), *script):
            pass  # nobody reads what it shows
        assert recorded(file)["stopped"] == "terminated"
        assert recorded(file)["STDOUT"] == 15 * 8192


def fill(pipe: int, process: subprocess.Popen[bytes]) -> None:
    """Write into a pipe whenever there is room, as long as a process runs."""
    while process.poll() is None:
        with suppress(BlockingIOError):
            os.write(pipe, b"x" * 4096)
    os.close(pipe)


class TestEmbedding:
    """What the program does with itself does not hurt the recording, nor the other way round."""

    def test_a_program_whose_loop_dies_ends(self, file: Path) -> None:
        """fault 58, for a command."""
        code = """
import asyncio, sys, time
from abt_db.builds.command import Command
from abt_db.builds.spool import Spool

async def forget():
    Command(sys.argv[1:], spool=Spool()).start()

asyncio.run(forget())
print("end")
"""
        with program(code, *sh(f"echo $$ >{file}; while sleep 0.01; do echo; done")) as forgetful:
            assert forgetful.communicate() == (b"end\n", b"")
        until_gone(int(file.read_text()))  # killed by what it prints

    def test_a_program_that_ignores_the_end_of_children_is_told_so(self, file: Path) -> None:
        code = f"""{RECORD}
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
asyncio.run(record(*sys.argv[1:]))
"""
        with program(code, file, "{}", *sh("echo one; exit 3")) as shown:
            assert shown.communicate() == (b"one\n", b"")
        assert "must not ignore SIGCHLD" in recorded(file)["error"]
        assert recorded(file)["STDOUT"] == 4


def until_gone(pid: int) -> None:
    """Wait for the end of a process that is not a child."""
    deadline = time.monotonic() + SOON
    while any(not process.zombie for process in processes(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
