"""Running commands in tests: real processes, recorded."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.suite import SOON

from abt_db.builds.command import Command, Outcome
from abt_db.builds.output import Chunk, Stream
from abt_db.builds.spool import Spool


@dataclass
class Recording:
    """A command, and what it has printed up to now."""

    command: Command
    spool: Spool
    chunks: list[Chunk] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def out(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks if chunk.stream is Stream.STDOUT)

    @property
    def err(self) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks if chunk.stream is Stream.STDERR)

    async def collect(self) -> None:
        while chunks := await self.spool.take():
            self.chunks += chunks
            self.more.set()

    async def line(self) -> str:
        """The first line, when it is there."""
        while b"\n" not in self.out:
            self.more.clear()
            await self.more.wait()
        return self.out.decode().partition("\n")[0]


@asynccontextmanager
async def recording(argv: list[str], **settings: Any) -> AsyncIterator[Recording]:
    """Run a command for the length of a block; behind it, all that it printed is there."""
    with Spool() as spool:
        record = Recording(Command(argv, spool=spool, **settings), spool)
        collector = asyncio.create_task(record.collect())
        try:
            async with record.command:
                yield record
        finally:
            await collector


async def run(argv: list[str], **settings: Any) -> tuple[Outcome, Recording]:
    async with recording(argv, **settings) as record:
        outcome = await record.command.wait()
    return outcome, record


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", f"if True:\n{script}", *arguments]


@contextmanager
def program(
    code: str,
    *arguments: str | Path,
    redirected: str = "",
    stdin: int | None = None,
    out: int = subprocess.PIPE,
    err: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program for the length of a block; it must end soon after it, and well."""
    shell = ["/bin/sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-P", "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [*shell, *map(str, arguments)], env=environment, stdin=stdin, stdout=out, stderr=err
    ) as process:
        try:
            yield process
            assert process.wait(SOON) == 0
        finally:
            process.kill()
