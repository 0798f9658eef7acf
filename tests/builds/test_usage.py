"""What commands use: memory at one moment and processor time in all, of all that they started."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.engine import until
from support.running import program, python, recording, run

from abt_db.builds import usage
from abt_db.builds.usage import Sampler, processes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="only Linux tells what other processes use"
)

MIB = 1024 * 1024
FORK = """
            import os, sys, time
            def fork(work):
                if pid := os.fork(): return pid
                work()
                os._exit(0)
            def burn():
                while time.process_time() < 0.5: pass
            def wait_for(word):
                print(word, flush=True)
                while not os.path.exists(os.path.join(sys.argv[1], word)): time.sleep(0.01)
"""
MEASURE = """
import asyncio, sys
from abt_db.builds.command import Command
from abt_db.builds.spool import Spool

async def peak():
    with Spool() as spool:
        async with Command(sys.argv[1:], spool=spool) as command:
            return (await command.wait()).usage.peak_memory

print(asyncio.run(peak()))
"""


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows with each look at the processes of a command."""
    found: list[float] = []
    sample = Sampler.sample

    def noted(sampler: Sampler) -> float:
        found.append(pause := sample(sampler))
        return pause

    monkeypatch.setattr(Sampler, "sample", noted)
    return found


async def seen(samples: list[float], file: Path) -> None:
    """Make a file, which a command waits for, when it has been looked at once more."""
    before = len(samples)
    await until(lambda: len(samples) >= before + 2)  # the first may have begun before
    file.touch()


class TestMemory:
    """The peak of all processes together, and that of one which was there for a moment."""

    def test_a_moment_is_seen(self) -> None:
        """By a program that is smaller itself, as this one may not be."""
        with program(MEASURE, *python("            data = b'x' * 200 * 2**20")) as measuring:
            peak, _ = measuring.communicate()
        assert 200 * MIB < int(peak) < 250 * MIB

    async def test_processes_at_the_same_time_are_added_up(
        self, tmp_path: Path, samples: list[float]
    ) -> None:
        script = f"""{FORK}
            def hold():
                data = b"x" * 100 * 2**20
                wait_for("seen")
            for pid in [fork(hold), fork(hold)]: os.waitpid(pid, 0)"""
        async with recording(python(script, str(tmp_path))) as record:
            await until(lambda: record.out.count(b"seen") == 2)
            await seen(samples, tmp_path / "seen")
            outcome = await record.command.wait()
        assert 200 * MIB < outcome.usage.peak_memory < 280 * MIB

    async def test_our_own_is_not_taken_for_the_command_s(self) -> None:
        ours = b"x" * 300 * MIB
        # Long enough to be looked at while it runs, however busy the machine is.
        outcome, _ = await run(["sleep", "2"])
        assert outcome.usage.peak_memory < 50 * MIB < len(ours)


class TestProcessorTime:
    """What was started counts once, whether somebody waited for it or not."""

    async def test_what_was_waited_for(self) -> None:
        script = f"""{FORK}
            os.waitpid(fork(lambda: os.waitpid(fork(burn), 0)), 0)"""
        outcome, _ = await run(python(script))
        assert 0.5 <= outcome.usage.cpu_seconds < 1.0

    async def test_a_daemon_that_works_for_the_command_and_stays(self) -> None:
        script = f"""{FORK}
            read, write = os.pipe()
            def work():
                os.setsid()
                burn()
                os.write(write, b".")
                time.sleep(60)
            print(fork(work))
            os.read(read, 1)"""
        outcome, record = await run(python(script), drain=0.0)
        os.kill(int(record.out), signal.SIGKILL)
        assert 0.5 <= outcome.usage.cpu_seconds < 1.0

    async def test_one_whose_parent_left_and_that_ended_before_the_command(
        self, tmp_path: Path, samples: list[float]
    ) -> None:
        script = f"""{FORK}
            read, write = os.pipe()
            def work():
                burn()
                wait_for("burnt")
            os.waitpid(fork(lambda: fork(work)), 0)
            os.close(write)
            os.read(read, 1)  # until it has ended
            wait_for("ended")"""
        async with recording(python(script, str(tmp_path))) as record:
            for word in "burnt", "ended":
                await until(lambda word=word: word.encode() in record.out)
                await seen(samples, tmp_path / word)
            outcome = await record.command.wait()
        assert 0.5 <= outcome.usage.cpu_seconds < 1.0


class TestAccounting:
    """No second of anybody's is missing or counts twice, whatever happens between two samples."""

    @pytest.fixture
    def proc(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A /proc of our own making, in which 100 is the command."""
        monkeypatch.setattr(usage, "_PROC", str(tmp_path))
        return tmp_path

    def test_orphans_count_and_those_that_were_waited_for_do_not(self, proc: Path) -> None:
        sampler = Sampler(100)
        show(proc, pid=100, parent=1, session=100, seconds=1)
        show(proc, pid=101, parent=100, session=100, seconds=2)
        show(proc, pid=102, parent=101, session=102, seconds=4)
        show(proc, pid=103, parent=100, session=103, seconds=8)
        show(proc, pid=7, parent=1, session=7, seconds=1000)
        show(proc, pid=8, parent=7, session=7, seconds=1000)
        sampler.sample()
        assert sampler.usage(NOTHING).cpu_seconds == 0  # as long as their parents live

        hide(proc, 101)  # which had not waited for 102
        show(proc, pid=102, parent=1, session=102, seconds=16)
        show(proc, pid=104, parent=102, session=102, seconds=32)
        sampler.sample()
        assert sampler.usage(NOTHING).cpu_seconds == 16

        hide(proc, 102)  # which had not waited for 104
        show(proc, pid=104, parent=1, session=102, seconds=64)
        show(proc, pid=105, parent=104, session=102, seconds=128)
        sampler.sample()
        assert sampler.usage(NOTHING).cpu_seconds == 16 + 64

        hide(proc, 100)  # which had not waited for 103
        show(proc, pid=103, parent=1, session=103, seconds=256)
        assert sampler.usage(NOTHING).cpu_seconds == 16 + 64 + 128 + 256

    def test_a_number_that_is_used_again_is_another_process(self, proc: Path) -> None:
        sampler = Sampler(100)
        show(proc, pid=100, parent=1, session=100, seconds=1)
        show(proc, pid=101, parent=1, session=100, seconds=2)
        sampler.sample()
        show(proc, pid=101, parent=1, session=101, seconds=1000, started=2)
        assert sampler.usage(NOTHING).cpu_seconds == 2

    def test_memory_is_that_of_the_largest_sample(self, proc: Path) -> None:
        sampler = Sampler(100)
        for pages in (1000, 3000, 2000):
            show(proc, pid=100, parent=1, session=100, pages=pages)
            show(proc, pid=101, parent=100, session=101, pages=500)
            sampler.sample()
        page = os.sysconf("SC_PAGE_SIZE")
        assert sampler.usage(NOTHING).peak_memory == 3500 * page
        assert sampler.usage(waited(kibibytes=3500 * page // 1024)).peak_memory == 3500 * page
        assert sampler.usage(waited(kibibytes=2**20)).peak_memory == 2**30


def waited(kibibytes: int = 0) -> resource.struct_rusage:
    """What `os.wait4` tells: times, memory, and what is of no interest."""
    return resource.struct_rusage([0.0, 0.0, kibibytes, *[0] * 13])


NOTHING = waited()


def show(
    proc: Path, *, pid: int, parent: int, session: int, seconds: int = 0, pages: int = 0,
    started: int = 1,
) -> None:  # fmt: skip
    """Have /proc tell of a process; see proc_pid_stat(5)."""
    ticks = seconds * os.sysconf("SC_CLK_TCK")
    fields = [pid, "(sh)", "S", parent, pid, session, *[0] * 7, 0, 0, 0, ticks, *[0] * 4, started]
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "stat").write_text(" ".join(map(str, [*fields, 0, pages, *[0] * 28])))


def hide(proc: Path, pid: int) -> None:
    (proc / str(pid) / "stat").unlink()


class TestProcesses:
    """What /proc tells of a process, whatever its name."""

    def test_this_process(self) -> None:
        (this,) = processes(os.getpid())
        assert this.parent == os.getppid()
        assert this.group == os.getpgid(0)
        assert this.session == os.getsid(0)
        assert this.memory > 5 * MIB
        assert this.cpu_seconds == pytest.approx(sum(os.times()[:4]), abs=0.1)
        assert not this.zombie
        assert this.pid in {process.pid for process in processes()}

    def test_a_name_may_look_like_anything(self, tmp_path: Path) -> None:
        program = tmp_path / "a) Z 1 (\n"
        program.symlink_to("/bin/sh")
        with subprocess.Popen([program, "-c", "read line"], stdin=subprocess.PIPE) as child:
            (process,) = processes(child.pid)
            assert (process.parent, process.zombie) == (os.getpid(), False)
            child.communicate(b"\n")

    def test_there_may_be_none(self) -> None:
        assert list(processes(2**30)) == []

    def test_a_sample_takes_milliseconds(self) -> None:
        sampler = Sampler(os.getsid(0))
        started = time.process_time()
        for _ in range(10):
            assert sampler.sample() > 0
        assert time.process_time() - started < 10 * 0.005 * len(list(processes()))
