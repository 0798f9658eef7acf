"""Running a command with its output kept, byte for byte, and passed on unchanged.

A command has three threads: two pumps, each of which reads one stream into the spool, and a
supervisor, which alone waits for the process and cleans up after it. So the event loop never waits
for a terminal, a slow database never slows the command, and no cancellation, however often it is
repeated, interrupts the cleaning up.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from abt_db.errors import CommandError

from .output import Stream
from .pump import Ending, Pump, echoes_of
from .spool import Spool
from .usage import Sampler, Usage, processes

# After SIGKILL, how many seconds to wait for a process group to be gone: a process that hangs in a
# dead network mount does not even die of that.
_KILLED = 5.0
# Seconds between two looks, where the end of a process does not wake us up.
_LOOK = 0.02


class StopReason(StrEnum):
    """Why we stopped a command."""

    INTERRUPTED = "interrupted"
    """Ctrl-C. The command gets SIGINT first; for all other reasons it gets SIGTERM."""
    TERMINATED = "terminated"
    """This process was asked to end."""
    TIMEOUT = "timeout"
    """It ran longer than it may."""
    CANCELLED = "cancelled"
    """The task that waited for it was cancelled, or left its block."""
    FAILED = "failed"
    """Its output could not be read or kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    `exit_code` is as a shell tells it, 128 + N for signal N, and `signal` that N. `stopped` says
    that it was us who stopped it, and why. The times, aware and UTC, and `duration`, in seconds,
    are those of the command itself, whatever it left running.
    """

    exit_code: int
    signal: int | None
    stopped: StopReason | None
    started_at: datetime
    completed_at: datetime
    duration: float
    usage: Usage


class Command:
    """A command in a session, and so a process group, of its own. It runs once.

    `argv` is the program and its arguments; `cwd`, `env` and `stdin` are those of
    `subprocess.Popen`. All that is printed goes into `spool`, which is closed when nothing more
    comes, and with `echo` also, unchanged and at once, to this process's file descriptors 1 and 2.

    After `timeout` seconds the command is stopped. To stop it, its whole process group gets a
    signal, and SIGKILL when it is not gone after `grace` seconds. When the command ends by itself,
    what it leaves running is left alone, and its output is waited for until nothing came for
    `drain` seconds.

    A context manager: entering starts the command, leaving stops it if it still runs. To be made,
    started and waited for in one event loop.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        spool: Spool,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
        echo: bool = False,
        timeout: float | None = None,
        grace: float = 5.0,
        drain: float = 2.0,
    ) -> None:
        self._argv = argv
        self._spool = spool
        self._cwd = cwd
        self._env = env
        self._stdin = stdin
        self._echo = echo
        self._timeout = math.inf if timeout is None else timeout
        self._grace = grace
        self._drain = drain

        self.outcome: Outcome | None = None
        """How the command ended; None before that."""
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        self._ending = Ending()
        # Guards what follows. The process is reaped under it: from then on its id, and that of its
        # group, may be another's, and no signal goes there unless we were stopping it already.
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: StopReason | None = None
        self._kill_at = math.inf
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the command; takes as long as fork and exec do.

        Raises `CommandError` when that is impossible; the spool is closed then.
        """
        if self._process is not None:
            raise CommandError("this command has been started already: make a new one to run again")
        self._started_at, self._started = datetime.now(UTC), time.monotonic()
        try:
            self._process = process = _popen(self._argv, self._cwd, self._env, self._stdin)
        except BaseException:
            self._spool.close()
            raise
        # Like the pumps a daemon: when the event loop dies, the interpreter must still exit.
        self._supervisor = threading.Thread(
            target=self._supervise, args=[process], name="abt_db-supervisor", daemon=True
        )
        try:
            self._supervisor.start()
        except RuntimeError as error:
            self._process = None
            _put_down(process)
            self._spool.close()
            raise CommandError("can't run a command: no thread could be started") from error

    async def wait(self) -> Outcome:
        """Return how the command ended, when nothing of ours is left of it: thread, pipe, zombie.

        Cancelling stops the command and goes on when that is done, however often it is repeated;
        `outcome` is there nevertheless. Raises what made it impossible to keep the output.
        """
        await self._until_finished()
        if self._error is not None:
            raise self._error
        assert self.outcome is not None
        return self.outcome

    def stop(self, reason: StopReason) -> None:
        """Begin to stop the command with its process group; `wait` returns when they are gone.

        Does nothing when it has ended or is being stopped already. Can be called from any thread
        and from a signal handler of the event loop.
        """
        self._ending.hurry.set()
        with self._lock:
            process = self._process
            if process is not None and process.returncode is None and self._stopped is None:
                self._stopped = reason
                self._kill_at = time.monotonic() + self._grace
                interrupt = reason is StopReason.INTERRUPTED
                _signal_group(process.pid, signal.SIGINT if interrupt else signal.SIGTERM)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(StopReason.CANCELLED)
        await self._until_finished()

    async def _until_finished(self) -> None:
        if self._process is None:
            raise CommandError("this command has not been started: start it before waiting for it")
        cancelled = None
        while not self._finished.is_set():
            try:
                await self._finished.wait()
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                self.stop(StopReason.CANCELLED)
        self._supervisor.join()  # it has nothing left to do
        if cancelled is not None:
            raise cancelled

    # -- in the supervisor's thread --------------------------------------------------------------

    def _supervise(self, process: subprocess.Popen[bytes]) -> None:
        """See the command through to its end, clean up, and tell the event loop."""
        pumps = self._pumps(process)
        try:
            for pump in pumps:
                pump.start()
            self.outcome = self._follow(process)
            if self._stopped is not None:
                self._await_group(process.pid)
        except BaseException as error:
            self._fail(error)
            _put_down(process)
        self._ending.gone.set()
        for pump in pumps:
            if pump.is_alive():
                pump.join()
        self._spool.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._finished.set)

    def _pumps(self, process: subprocess.Popen[bytes]) -> list[Pump]:
        pipes = {Stream.STDOUT: process.stdout, Stream.STDERR: process.stderr}
        echoes = echoes_of(self._ending) if self._echo else {}
        return [
            Pump(
                stream,
                pipe,
                self._spool,
                echoes.get(stream),
                drain=self._drain,
                ending=self._ending,
                fail=self._fail,
            )
            for stream, pipe in pipes.items()
            if pipe is not None
        ]

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error  # the first one tells the cause
        self.stop(StopReason.FAILED)

    def _follow(self, process: subprocess.Popen[bytes]) -> Outcome:
        """Wait until the process has ended, and press for it when it is time to."""
        started_at, started = self._started_at, self._started
        sampler = Sampler(process.pid)
        sample_at = 0.0
        stop_at = started + self._timeout
        with _end_of(process.pid) as wait_for_end:
            while (used := self._reap(process)) is None:
                now = time.monotonic()
                if now >= stop_at:
                    stop_at = math.inf
                    self.stop(StopReason.TIMEOUT)
                self._kill_if_due(process.pid)
                if now >= sample_at:
                    sample_at = now + sampler.sample()
                wait_for_end(max(0.0, min(stop_at, self._kill_at, sample_at) - time.monotonic()))
        code = process.returncode
        return Outcome(
            exit_code=code if code >= 0 else 128 - code,
            signal=-code if code < 0 else None,
            stopped=self._stopped,
            started_at=started_at,
            completed_at=datetime.now(UTC),
            duration=time.monotonic() - started,
            usage=sampler.usage(used),
        )

    def _reap(self, process: subprocess.Popen[bytes]) -> resource.struct_rusage | None:
        """Take the exit code and what was used, if the process has ended."""
        with self._lock:
            try:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
            except ChildProcessError:
                self._error = CommandError(
                    "the exit code of the command is lost: this program must not ignore SIGCHLD, "
                    "nor wait for processes that it did not start"
                )
                process.returncode = self._error.exit_code
                return resource.struct_rusage([0] * 16)
            if not pid:
                return None
            # Told to Popen, which otherwise warns of a process that still runs, or waits for it.
            process.returncode = os.waitstatus_to_exitcode(status)
            return used

    def _kill_if_due(self, group: int) -> None:
        now = time.monotonic()
        if now >= self._kill_at:
            self._kill_at = now + 1  # and again: one of them may just have been forking
            _signal_group(group, signal.SIGKILL)

    def _await_group(self, group: int) -> None:
        """The command was stopped and has ended: wait for the rest of its process group."""
        give_up_at = self._kill_at + _KILLED
        while _is_alive(group) and time.monotonic() < give_up_at:
            self._kill_if_due(group)
            time.sleep(_LOOK)


def _popen(
    argv: Sequence[str],
    cwd: Path | str | None,
    env: Mapping[str, str] | None,
    stdin: int | IO[bytes] | None,
) -> subprocess.Popen[bytes]:
    if isinstance(argv, str) or not argv:
        raise CommandError("a command is a list: a program, and each of its arguments by itself")
    try:
        return subprocess.Popen(
            argv,
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    except ValueError as error:
        raise CommandError(f"can't run {argv[0]!r}: {error}") from error
    except OSError as error:
        if cwd is not None and not Path(cwd).is_dir():
            raise CommandError(f"can't run {argv[0]!r} in {cwd}: no such directory") from error
        if isinstance(error, FileNotFoundError):
            problem = "no such program, or its interpreter is missing; is PATH right?"
            raise CommandError(f"can't run {argv[0]!r}: {problem}", 127) from error
        raise CommandError(f"can't run {argv[0]!r}: {error.strerror}") from error


def _put_down(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that can't be taken care of, and free what it has here."""
    with process:  # leaving it closes the pipes and waits
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _end_of(pid: int) -> Iterator[Callable[[float], object]]:
    """Give a function that waits for the end of a process, or so many seconds."""
    with contextlib.ExitStack() as closing:
        try:
            file = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux, an old one, or forbidden
            yield lambda seconds: time.sleep(min(seconds, _LOOK))
            return
        closing.callback(os.close, file)
        poll = select.poll()
        poll.register(file, select.POLLIN)
        yield lambda seconds: poll.poll(seconds * 1000)


def _signal_group(group: int, number: int) -> None:
    # Gone already; or somebody else's, like a sudo, of which we can't and need not be rid.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _is_alive(group: int) -> bool:
    """Whether a process group has members that are not zombies, which some parents never reap."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    members = [process for process in processes() if process.group == group]
    return not members or any(not process.zombie for process in members)
