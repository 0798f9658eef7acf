"""Recording a build as it runs: ``async with store.recorder("app") as build: await build.run(…)``.

The command's output waits in a spool, in memory and then on disk, until it is stored: the build is
never held up by the database, and no line is lost while the database is slow, busy or full.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from abt_db.connection.deadline import finish
from abt_db.errors import (
    AbtDbError,
    BuildEndedError,
    BusyError,
    CommandError,
    DiskIOError,
    FullError,
    PoolTimeoutError,
)
from abt_db.files.parts import new_file
from abt_db.log import LOG

from .classify import Classifier
from .command import Command, Outcome, StopReason
from .holder import Holder
from .models import Build, BuildStatus, Project
from .output import Line, Splitter, Stream, to_bytes
from .spool import Spool

if TYPE_CHECKING:
    from .store import BuildStore

T = TypeVar("T")


MIB = 1024 * 1024
PORTION = MIB // 4
"""Bytes that are stored in one transaction; when fewer wait, more are waited for, for `PAUSE`."""
PAUSE = 0.05
"""Seconds; lines that come together are stored together."""
PATIENCE = 60.0
"""Seconds after the end of the build in which its last lines, and its end, can still be stored."""

INDEXED = 20_000
"""Lines that are put into the index at the end of a build: a quarter of a second."""

# What passes: somebody holds the lock, or makes room on the disk. Anything else will not.
_PASSING = (BusyError, FullError, DiskIOError, PoolTimeoutError)

_CANCELLED = (StopReason.INTERRUPTED, StopReason.TERMINATED, StopReason.CANCELLED)


class Recorder:
    """One build that is being recorded. Made by `BuildStore.recorder`; its block is the build.

    Entering it notes the build as running, and builds whose recorder has died as failed. Leaving
    it notes the outcome: success or failure by the exit code, `cancelled` when it was stopped, and
    `failed` when nothing was run or the block is left by an error.
    """

    def __init__(
        self,
        store: BuildStore,
        project: str,
        *,
        build_type: str | None = None,
        triggered_by: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        artifact: str | os.PathLike[str] | None = None,
    ) -> None:
        self._store = store
        self._name = project
        self._build_type = build_type
        self._triggered_by = triggered_by
        self._directory = Path(directory or Path.cwd()).absolute()
        self._artifact = None if artifact is None else self._directory / artifact
        self._project: Project | None = None
        self._build: Build | None = None
        self._command: Command | None = None
        self._outcome: Outcome | None = None
        self._exit_code: int | None = None
        self._ended = asyncio.Event()
        self._unstored: list[Line] = []
        self._give_up_at = math.inf
        self.lines = 0
        """How many lines have been stored."""

    @property
    def build(self) -> Build:
        """The build, as it stood when it was noted last."""
        if self._build is None:
            raise RuntimeError("a recorder is used with `async with`")
        return self._build

    @property
    def project(self) -> Project:
        """The project that is built."""
        if self._project is None:
            raise RuntimeError("a recorder is used with `async with`")
        return self._project

    async def __aenter__(self) -> Self:
        await self._store.fail_abandoned()
        commit, branch = await _checkout(self._directory)
        self._project = await self._store.projects.get_by_name(self._name)
        if self._project is None:
            self._project = await self._store.projects.ensure(
                self._name,
                project_type=_project_type(self._directory),
                repository_url=await _git(self._directory, "remote", "get-url", "origin") or "",
                local_path=_told(self._directory),
                branch=branch or "main",
            )
        self._build = await self._store.builds.start(
            self._project.id,
            build_type=self._build_type,
            triggered_by=self._triggered_by,
            commit_hash=commit,
            branch=branch,
            metadata=Holder.this_process().as_metadata(),
        )
        return self

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        echo: bool = False,
        timeout: float | None = None,
    ) -> Outcome:
        """Run a command as the build, storing what it prints; return how it ended.

        With `echo` its output is passed through to this process's own. After `timeout` seconds
        (the project's `build_timeout` if None) it is stopped with all of its process group.
        Returns when every line is stored. Cancelling stops the command first and keeps the log.

        Raises `CommandError` when it can't be started. When its last lines can't be stored within
        a minute after its end, or the database fails for good, they are written to a file beside
        the database, and the error, which names that file, is raised.
        """
        limit = self.project.build_timeout if timeout is None else timeout
        with Spool() as spool:
            self._command = Command(
                argv, spool=spool, cwd=self._directory, env=env, echo=echo, timeout=limit
            )
            try:
                self._command.start()
            except CommandError as error:
                self._exit_code = error.exit_code
                raise
            portions = self._portions(spool)
            storing = asyncio.create_task(self._store_lines(portions))
            try:
                await self._command.wait()
            finally:
                self._outcome = self._command.outcome
                self._ended.set()
                failure = await finish(self._stored(storing, portions))
            if failure is not None:
                raise failure
        assert self._outcome is not None
        return self._outcome

    def stop(self, reason: StopReason = StopReason.TERMINATED) -> None:
        """Stop the command that runs, if one does. From a signal handler of the loop, too."""
        if self._command is not None:
            self._command.stop(reason)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await finish(self._end(error))
        except AbtDbError as problem:
            if error is None:
                raise
            # The first error tells the cause, and where the lines are (invariant 10).
            error.add_note(f"How the build ended is not stored either: {problem}")

    async def _end(self, error: BaseException | None) -> None:
        outcome = self._outcome
        status = BuildStatus.FAILED
        if outcome is not None:
            if outcome.stopped in _CANCELLED:
                status = BuildStatus.CANCELLED
            elif outcome.stopped is None and outcome.exit_code == 0:
                status = BuildStatus.SUCCESS
        elif isinstance(error, asyncio.CancelledError):
            status = BuildStatus.CANCELLED
        notes = {
            "lines": self.lines,
            "stopped": outcome and outcome.stopped,
            "signal": outcome and outcome.signal,
        }
        note = partial(
            self._store.builds.update_status,
            self.build.id,
            status,
            exit_code=outcome.exit_code if outcome else self._exit_code,
            artifact_path=None if self._artifact is None else _told(self._artifact),
            artifact_size=_size(self._artifact),
            **(_figures(outcome) if outcome else {}),
            notes=notes,
        )
        self._ended.set()  # also where nothing was run
        with suppress(BuildEndedError):  # somebody else has noted it as failed
            self._build = await self._patiently(note) or self._build
        try:
            await self._store.logs.index(INDEXED)
        except AbtDbError as error:
            # The next one does it; until then these lines are read one by one by a search.
            LOG.warning("abt_db: the log is stored, but not in the index of searches: %s", error)

    # -- storing ---------------------------------------------------------------------------------

    async def _portions(self, spool: Spool) -> AsyncIterator[list[Line]]:
        """Yield the lines as they come, those together that are to be stored together."""
        splitters = {stream: Splitter() for stream in Stream}
        while chunks := await spool.take(PORTION):
            yield [line for chunk in chunks for line in splitters[chunk.stream].feed(chunk)]
            if sum(len(chunk.data) for chunk in chunks) < PORTION // 2:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await self._ended.wait()
        yield [line for splitter in splitters.values() for line in splitter.finish()]

    async def _store_lines(self, portions: AsyncIterator[list[Line]]) -> None:
        classifiers = {stream: Classifier() for stream in Stream}
        async for lines in portions:
            self._unstored = lines
            told = [(line, *classifiers[line.stream].classify(line.message)) for line in lines]
            if told:
                append = partial(self._store.logs.append, self.build.id, told)
                self.lines += await self._patiently(append)
            self._unstored = []

    async def _patiently(self, store: Callable[[], Awaitable[T]]) -> T:
        """Store something, trying as long as the build runs and for a minute after it."""
        while True:
            try:
                stored = await store()
            except _PASSING as error:
                if self._ended.is_set():
                    self._give_up_at = min(self._give_up_at, monotonic() + PATIENCE)
                    if monotonic() > self._give_up_at:
                        raise
                LOG.warning("abt_db: what is recorded waits until it can be stored: %s", error)
                await asyncio.sleep(1.0)
            else:
                self._give_up_at = math.inf
                return stored

    async def _stored(
        self, storing: asyncio.Task[None], portions: AsyncIterator[list[Line]]
    ) -> Exception | None:
        """Wait until all lines are stored; if they can't be, save them and return the error."""
        try:
            await storing
            return None
        except Exception as error:
            file = Path(f"{self._store.db.path}.build-{self.build.id}.log").absolute()
            output = f"The output from line {self.lines + 1} on"
            # The build has ended and nobody is served from here: blocking calls are fine.
            try:
                file = new_file(file, of=Path(self._store.db.path))
                with file.open("wb") as unstored:
                    unstored.writelines(map(to_bytes, self._unstored))
                    async for lines in portions:
                        unstored.writelines(map(to_bytes, lines))
            except OSError as problem:  # the disk that is full for the one is so for the other
                error.add_note(f"{output} is lost: {file} can't be written: {problem.strerror}")
            else:
                error.add_note(f"{output} is in {file}")
            return error


def _figures(outcome: Outcome) -> dict[str, Any]:
    """What a build keeps of how its command went; the percentage is of one core."""
    usage, seconds = outcome.usage, outcome.duration
    return {
        "completed_at": outcome.completed_at,
        "duration_seconds": round(seconds, 3),
        "memory_usage_mb": round(usage.peak_memory / MIB, 1),
        "cpu_usage_percent": round(100 * usage.cpu_seconds / seconds, 1) if seconds else None,
    }


def _told(path: Path) -> str:
    """The path as text; bytes of it that are not UTF-8 as in a line, `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _size(artifact: Path | None) -> int | None:
    try:
        return None if artifact is None else artifact.stat().st_size
    except OSError:
        return None


_MARKS = {
    "gradlew": "android",
    "settings.gradle": "android",
    "settings.gradle.kts": "android",
    "build.gradle": "android",
    "build.gradle.kts": "android",
    "pyproject.toml": "python",
    "setup.py": "python",
    "Cargo.toml": "rust",
    "package.json": "node",
    "CMakeLists.txt": "cmake",
    "Makefile": "make",
}


def _project_type(directory: Path) -> str:
    """What kind of project a directory holds, as far as its files tell."""
    return next((kind for file, kind in _MARKS.items() if (directory / file).exists()), "unknown")


async def _checkout(directory: Path) -> tuple[str | None, str | None]:
    """Ask git for commit and branch; None without git, outside a checkout, or on no branch."""
    answer = await _git(directory, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    commit, _, branch = (answer or "").partition("\n")
    return commit or None, branch if branch and branch != "HEAD" else None


async def _git(directory: Path, *arguments: str) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    output, _ = await process.communicate()
    answer = output.decode(errors="replace").strip()
    return answer if process.returncode == 0 and answer else None
