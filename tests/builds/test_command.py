"""Commands that are run, recorded and stopped: real processes with all their bad habits."""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.running import python, recording, run, sh
from support.suite import SOON, eventually

from abt_db.builds import command, pump, usage
from abt_db.builds.command import Command, StopReason
from abt_db.builds.output import Line, Splitter, Stream, to_bytes
from abt_db.builds.spool import Spool
from abt_db.builds.usage import processes
from abt_db.errors import CommandError

pytestmark = pytest.mark.usefixtures("no_leaks", "no_children")

MIB = 1024 * 1024

# Tells its process group, and ignores what can be ignored, as do the two that it starts.
STUBBORN = sh(
    "trap '' TERM INT; sleep 1000 & (sleep 1000; echo never) & echo $$; sleep 1000; echo never"
)
# Tells it as well, and ends when it is asked to, but what it starts does not.
LEADERLESS = sh("trap '' TERM; (echo $$; exec sleep 1000) & trap - TERM; exec sleep 1000")


@pytest.fixture
def no_children() -> Iterator[None]:
    """Fail a test that leaves a child process, or a zombie, behind."""
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def alive_in(group: str) -> list[int]:
    found = [process for process in processes() if process.group == int(group)]
    return [process.pid for process in found if not process.zombie]


class TestOutput:
    """Every byte that is printed arrives, those of a stream in their order."""

    async def test_both_streams_arrive_in_their_order(self) -> None:
        outcome, record = await run(sh("echo one; echo two >&2; echo three; echo four >&2"))
        assert outcome.exit_code == 0
        assert record.out == b"one\nthree\n"
        assert record.err == b"two\nfour\n"
        for stream in Stream:
            times = [chunk.at for chunk in record.chunks if chunk.stream is stream]
            assert times == sorted(times)
            assert times[0] >= outcome.started_at

    async def test_it_arrives_while_the_command_runs(self) -> None:
        async with recording(sh("echo Continue?; exec sleep 1000")) as record:
            assert await record.line() == "Continue?"
            assert record.command.outcome is None

    async def test_strange_bytes_and_a_line_without_an_end_arrive(self, tmp_path: Path) -> None:
        log = b"10%\r20%\r\n\x1b[31mred\ncaf\xe9 \xff\0\n" + b"x" * 3 * MIB + "€\nend".encode()
        lines = await printed_by_cat(log, tmp_path)
        assert [line.message for line in lines[:3]] == [
            "10%\r20%\r",
            "\x1b[31mred",
            "caf\\xe9 \\xff\0",
        ]
        assert lines[-1].message == "end"

    @pytest.mark.large
    async def test_real_logs_come_back_byte_for_byte(self, rbtlog: Path, tmp_path: Path) -> None:
        with lzma.open(rbtlog / "builds.jsonl.xz", "rt", encoding="utf-8") as builds:
            logs = [json.loads(build)["build_log"] for build in builds]
        for start in range(0, len(logs), 64):
            log = "\n".join(logs[start : start + 64])
            lines = await printed_by_cat(log.encode(), tmp_path)
            assert [line.message for line in lines] == log.removesuffix("\n").split("\n")

    async def test_a_command_is_not_held_up_when_nobody_takes(self) -> None:
        line = b"The build goes on, whether the database does or not.\n"
        flood = sh(f"yes '{line.decode().strip()}' | head -c 50000000")
        with Spool(memory=MIB) as spool:
            async with Command(flood, spool=spool) as command:
                outcome = await command.wait()
            assert outcome.exit_code == 0
            assert spool.spilled_bytes > spool.total_bytes - MIB
            printed = bytearray()
            while chunks := await spool.take():
                printed += b"".join(chunk.data for chunk in chunks)
        same = printed == (line * 1_000_000)[:50_000_000]  # pytest would explain it for hours
        assert same

    async def test_two_floods_do_not_block_each_other(self) -> None:
        script = """
            import os, threading
            def flood(file):
                for _ in range(100):
                    data = memoryview(bytes([64 + file]) * 99_999 + b"\\n")
                    while data:
                        data = data[os.write(file, data):]
            threads = [threading.Thread(target=flood, args=[file]) for file in (1, 2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()"""
        outcome, record = await run(python(script))
        assert outcome.exit_code == 0
        assert record.out == (b"A" * 99_999 + b"\n") * 100
        assert record.err == (b"B" * 99_999 + b"\n") * 100


async def printed_by_cat(log: bytes, folder: Path) -> list[Line]:
    """The lines of a log that a command printed, which hold every byte of it."""
    file = folder / "log"
    await asyncio.to_thread(file.write_bytes, log)
    _, record = await run(["cat", str(file)])
    splitter = Splitter()
    lines = [line for chunk in record.chunks for line in splitter.feed(chunk)]
    lines += splitter.finish()
    assert b"".join(map(to_bytes, lines)) == log
    return lines


class TestOutcome:
    """How a command ended is told as a shell would tell it."""

    async def test_success(self) -> None:
        began = time.monotonic()
        outcome, record = await run(["true"])
        took = time.monotonic() - began
        assert (outcome.exit_code, outcome.signal, outcome.stopped) == (0, None, None)
        assert outcome is record.command.outcome
        between = (outcome.completed_at - outcome.started_at).total_seconds()
        assert 0 < outcome.duration <= took
        assert outcome.duration == pytest.approx(between, abs=max(0.1, took - outcome.duration))

    async def test_an_exit_code(self) -> None:
        outcome, _ = await run(sh("exit 42"))
        assert (outcome.exit_code, outcome.signal) == (42, None)

    async def test_a_signal_that_was_not_ours(self) -> None:
        outcome, _ = await run(sh("kill -KILL $$"))
        assert (outcome.exit_code, outcome.signal) == (137, signal.SIGKILL)
        assert outcome.stopped is None

    async def test_arguments_directory_environment_and_input(self, tmp_path: Path) -> None:
        argv = ["/bin/sh", "-c", 'pwd; echo "$1 $COLOUR"; cat', "sh", "two  words; $HOME"]
        settings = {"cwd": tmp_path, "env": {"COLOUR": "red"}, "stdin": subprocess.DEVNULL}
        _, record = await run(argv, **settings)
        assert record.out.decode() == f"{tmp_path}\ntwo  words; $HOME red\n"

    async def test_other_children_of_the_application_are_left_to_it(self) -> None:
        own = await asyncio.create_subprocess_exec(*sh("exit 5"))
        outcome, _ = await run(sh("exit 6"))
        assert outcome.exit_code == 6
        assert await own.wait() == 5

    async def test_it_is_told_without_pidfd_and_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on systems that are not Linux."""
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.setattr(usage, "_PROC", "/missing")
        outcome, _ = await run(sh("exit 3"))
        assert outcome.exit_code == 3
        assert outcome.usage.peak_memory > 0
        async with recording(LEADERLESS, grace=0.2) as record:
            group = await record.line()
            record.command.stop(StopReason.TERMINATED)
            outcome = await record.command.wait()
            monkeypatch.undo()
            assert alive_in(group) == []
        assert outcome.signal == signal.SIGTERM


class TestStarting:
    """A command that can't be started is one clear error, and nothing is left of the attempt."""

    @pytest.mark.parametrize(
        ("argv", "settings", "code", "message"),
        [
            (["no-such-program"], {}, 127, "can't run 'no-such-program': no such program"),
            (["/etc/passwd"], {}, 126, "can't run '/etc/passwd': Permission denied"),
            (["ls"], {"cwd": "/missing"}, 126, "can't run 'ls' in /missing: no such directory"),
            (["ls", "a\0b"], {}, 126, "can't run 'ls': embedded null byte"),
            (["ls", "x" * 2**22], {}, 126, "can't run 'ls': Argument list too long"),
            ([], {}, 126, "a command is a list"),
            ("ls -l", {}, 126, "a command is a list"),
        ],
    )
    async def test_it_is_said_why(
        self, argv: list[str], settings: dict[str, Any], code: int, message: str
    ) -> None:
        with Spool() as spool:
            with pytest.raises(CommandError, match=message) as caught:
                Command(argv, spool=spool, **settings).start()
            assert caught.value.exit_code == code
            assert await spool.take() == [], "who collects is told that nothing will come"

    async def test_no_file_descriptors_are_left(self) -> None:
        """fault 48: an error, and it works again later."""
        async with recording(["true"]):
            with (
                limited(resource.RLIMIT_NOFILE, 3),
                pytest.raises(CommandError, match="open files"),
            ):
                await run(["true"])
        outcome, _ = await run(["true"])
        assert outcome.exit_code == 0

    @pytest.mark.parametrize("name", ["abt_db-supervisor", "abt_db-stdout", "abt_db-stderr"])
    async def test_no_thread_can_be_started(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises((CommandError, RuntimeError), match="thread"):
            await run(["sleep", "1000"])

    async def test_a_command_runs_once(self) -> None:
        async with recording(["true"]) as record:
            with pytest.raises(CommandError, match="already"):
                record.command.start()

    async def test_what_was_not_started_can_not_be_waited_for(self) -> None:
        with Spool() as spool, pytest.raises(CommandError, match="not been started"):
            await Command(["true"], spool=spool).wait()


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


class TestStopping:
    """Stopping takes the whole process group, politely first; what was printed is kept."""

    @pytest.mark.parametrize(
        ("reason", "told"),
        [
            (StopReason.INTERRUPTED, "SIGINT"),
            (StopReason.TERMINATED, "SIGTERM"),
            (StopReason.CANCELLED, "SIGTERM"),
        ],
    )
    async def test_it_is_asked_to_end(self, reason: StopReason, told: str) -> None:
        script = """
            import signal, sys
            def end(number, frame):
                print(signal.Signals(number).name)
                sys.exit(7)
            signal.signal(signal.SIGINT, end), signal.signal(signal.SIGTERM, end)
            print("ready", flush=True)
            while True: signal.pause()"""
        async with recording(python(script)) as record:
            assert await record.line() == "ready"
            record.command.stop(reason)
            record.command.stop(StopReason.FAILED)  # too late to be the reason
            outcome = await record.command.wait()
        assert (outcome.exit_code, outcome.stopped) == (7, reason)
        assert record.out.decode() == f"ready\n{told}\n"

    @pytest.mark.parametrize("reason", [StopReason.INTERRUPTED, StopReason.TERMINATED])
    async def test_it_is_killed_when_it_does_not_end(self, reason: StopReason) -> None:
        async with recording(STUBBORN, grace=0.2) as record:
            group = await record.line()
            assert len(alive_in(group)) >= 3
            record.command.stop(reason)
            outcome = await record.command.wait()
            assert alive_in(group) == []
        assert (outcome.signal, outcome.exit_code) == (signal.SIGKILL, 137)
        assert outcome.stopped is reason
        assert record.out.decode() == f"{group}\n"

    async def test_what_it_started_is_killed_when_only_that_does_not_end(self) -> None:
        async with recording(LEADERLESS, grace=0.5) as record:
            group = await record.line()
            started = time.monotonic()
            record.command.stop(StopReason.TERMINATED)
            outcome = await record.command.wait()
            assert time.monotonic() - started >= 0.5
            assert alive_in(group) == []
        assert outcome.signal == signal.SIGTERM

    async def test_the_time_limit(self, clock: Clock) -> None:
        async with recording(sh("echo begun; exec sleep 1000"), timeout=9000) as record:
            await record.line()
            clock.passes(9000)
            outcome = await record.command.wait()
        assert outcome.stopped is StopReason.TIMEOUT
        assert outcome.exit_code == 128 + signal.SIGTERM
        assert outcome.duration >= 9000
        assert record.out == b"begun\n"

    async def test_the_time_limit_comes_by_itself(self) -> None:
        outcome, _ = await run(["sleep", "1000"], timeout=0.2)
        assert outcome.stopped is StopReason.TIMEOUT
        assert outcome.duration >= 0.2

    async def test_other_groups_are_neither_stopped_nor_waited_for(self) -> None:
        script = sh("setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000")
        async with recording(script, drain=1000.0) as record:
            daemon = int(await record.line())
            record.command.stop(StopReason.TERMINATED)
            await asyncio.wait_for(record.command.wait(), SOON)
        kill_daemon(daemon)

    async def test_a_zombie_that_nobody_reaps_is_not_waited_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its parent is of the session, but not of the group, and goes on."""
        script = """
            import os, time
            group = os.getpgid(0)
            if os.fork() == 0:
                os.setpgid(0, 0)
                if os.fork() == 0:
                    os.setpgid(0, group)
                    print(os.getppid(), flush=True)
            time.sleep(1000)"""
        monkeypatch.setattr(command, "_KILLED", 1000.0)
        async with recording(python(script)) as record:
            parent = int(await record.line())
            record.command.stop(StopReason.TERMINATED)
            await asyncio.wait_for(record.command.wait(), SOON)
        kill_daemon(parent)

    async def test_too_early_and_too_late_it_does_nothing(self) -> None:
        with Spool() as spool:
            command = Command(["true"], spool=spool)
            command.stop(StopReason.TERMINATED)
            async with command:
                outcome = await command.wait()
            command.stop(StopReason.TERMINATED)
            assert await command.wait() is outcome
        assert (outcome.exit_code, outcome.stopped) == (0, None)

    async def test_output_that_can_not_be_kept_stops_the_command(self) -> None:
        async with recording(sh("trap '' PIPE; while :; do echo line; done")) as record:
            await record.line()
            record.spool.close()
            with pytest.raises(RuntimeError, match="the spool is closed"):
                await record.command.wait()
            assert record.command.outcome is not None
            assert record.command.outcome.stopped is StopReason.FAILED


class TestCancelling:
    """A cancelled wait goes on when everything has been cleaned up, and not before."""

    async def test_the_command_is_gone_when_the_task_is(self) -> None:
        async with recording(STUBBORN, grace=0.2) as record:
            group = await record.line()
            waiter = asyncio.create_task(record.command.wait())
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert alive_in(group) == []
            assert record.command.outcome is not None
            assert record.command.outcome.stopped is StopReason.CANCELLED
        assert record.out.decode() == f"{group}\n"

    async def test_cancelling_again_and_again_changes_nothing(self, clock: Clock) -> None:
        """fault 7, for a command."""
        async with recording(STUBBORN, grace=9000) as record:
            group = await record.line()
            waiter = asyncio.create_task(record.command.wait())
            cancels = 0
            while not waiter.done():
                await asyncio.sleep(0.01)
                cancels += waiter.cancel()
                if cancels == 6:
                    clock.passes(9000)
            assert cancels > 5
            assert waiter.cancelled()
            assert alive_in(group) == []

    async def test_a_time_limit_around_it_is_honoured(self) -> None:
        """fault 12."""
        async with recording(["sleep", "1000"]) as record:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await record.command.wait()
            assert record.command.outcome is not None

    async def test_leaving_the_block_stops_the_command(self) -> None:
        with pytest.raises(ZeroDivisionError):
            async with recording(STUBBORN, grace=0.2) as record:
                group = await record.line()
                raise ZeroDivisionError
        assert alive_in(group) == []
        assert record.command.outcome is not None
        assert record.command.outcome.stopped is StopReason.CANCELLED


class TestWhatIsLeftRunning:
    """What outlives a command can't hold up its end for long, and is not harmed."""

    async def test_one_that_holds_the_pipe_is_waited_for_a_moment(self) -> None:
        started = time.monotonic()
        outcome, record = await run(sh("sleep 1000 & echo $!"), drain=0.5)
        assert outcome.exit_code == 0
        assert time.monotonic() - started >= 0.5
        kill_daemon(int(record.out))

    async def test_what_it_prints_in_that_moment_is_kept(self, tmp_path: Path) -> None:
        script = f"(until test -e {tmp_path}/go; do sleep 0.01; done; echo late) & echo early $$"
        async with recording(sh(script), drain=1000.0) as record:
            pid = int((await record.line()).split()[1])
            await eventually(lambda: not list(processes(pid)))
            (tmp_path / "go").touch()
            await record.command.wait()
        assert record.out == b"early %d\nlate\n" % pid

    async def test_one_that_goes_on_printing_is_not_listened_to_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pump, "_CHATTY", 2)
        chatty = "while echo chat; do :; done"  # until nobody listens
        started = time.monotonic()
        outcome, record = await run(sh(f"({chatty}) & exit 0"), drain=1.0)
        assert time.monotonic() - started - outcome.duration >= 2
        assert record.out.count(b"chat\n") > 10


def kill_daemon(pid: int) -> None:
    """End a process, which must be alive."""
    assert [process.zombie for process in processes(pid)] == [False]
    os.kill(pid, signal.SIGKILL)
