"""The pool: a lane with the one writer, and a lane with the readers of one database file.

It says how work of each kind is done: a read runs as it is, a write runs in a transaction of its
own, and both are tried again while another process's lock is in the way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from .config import Config
from .connection import MEMORY, Connect, Connection, Role, while_busy
from .deadline import Deadline, finish
from .errors import (
    BusyError,
    PoolClosedError,
    ReadOnlyError,
    TransactionStateError,
)
from .lane import Lane
from .session import BeginBusyError, Session
from .work import Job, Lease, Waits

__all__ = ["Pool"]

T = TypeVar("T")


class Pool:
    """The connections of one database, for one event loop."""

    def __init__(
        self, path: str, config: Config, *, read_only: bool, connect: Connect | None
    ) -> None:
        # Made absolute: a connection that is replaced later has to open the same file.
        path = str(Path(path).absolute()) if path not in ("", MEMORY) else path
        self.path = path
        self.config = config
        self._connect = connect
        if path == MEMORY and read_only:
            raise TransactionStateError("a read-only database in memory would stay empty")

        waits: Waits = {}

        def lane(name: Role, size: int) -> Lane:
            async def open_one(number: int) -> Connection:
                return await Connection.open(
                    path, config, name=f"{name} {number}", role=name, connect=connect
                )

            return Lane(
                name,
                size,
                open=open_one,
                serve=self._serve,
                max_pending=config.max_pending,
                waits=waits,
            )

        self.writer = None if read_only else lane("writer", 1)
        if path == MEMORY and self.writer is not None:
            # Each further connection would be a database of its own (invariant 25).
            self.readers = self.writer
        else:
            self.readers = lane("follower" if read_only else "reader", config.readers)

    async def open(self) -> None:
        """Open the writer, then the readers: a reader can't make the files it needs."""
        lanes = self._lanes()
        for number, lane in enumerate(lanes):
            try:
                await lane.open()
            except BaseException:
                for opened in reversed(lanes[:number]):
                    await finish(opened.close(Deadline.after(0)))
                raise

    async def close(self) -> None:
        """Close the readers before the writer, whose last connection checkpoints the WAL."""
        self.refuse()
        deadline = Deadline.after(self.config.close_timeout)
        if self.readers is not self.writer:
            await finish(self.readers.close(deadline))
        if self.writer is not None:
            await finish(self.writer.close(deadline))

    def refuse(self) -> None:
        """Take no more calls, and fail those that wait."""
        for lane in self._lanes():
            lane.refuse()

    def abandon(self) -> None:
        """Let go of everything without waiting: nobody will close it any more."""
        for lane in self._lanes():
            lane.abandon()

    def _lanes(self) -> list[Lane]:
        lanes = [self.readers] if self.writer is self.readers else [self.writer, self.readers]
        return [lane for lane in lanes if lane is not None]

    # -- work ------------------------------------------------------------------------------------

    async def read(
        self,
        label: str,
        function: Callable[[Session], T],
        deadline: Deadline,
        *,
        priority: int = 0,
    ) -> T:
        """Run `function` on a reader, in one hop."""
        return await self.readers.run(
            label,
            self.reading(function),
            deadline,
            priority=priority,
            wait=self.config.acquire_timeout,
        )

    async def write(
        self,
        label: str,
        function: Callable[[Session], T],
        deadline: Deadline,
        *,
        priority: int = 0,
    ) -> T:
        """Run `function` on the writer, in a transaction of its own and in one hop."""
        return await self._writer(label).run(
            label,
            _in_transaction(function),
            deadline,
            priority=priority,
            wait=self.config.acquire_timeout,
        )

    async def lend_reader(self, label: str, deadline: Deadline, *, priority: int = 0) -> Lease:
        return await self.readers.lease(
            label, deadline, priority=priority, wait=self.config.acquire_timeout
        )

    async def lend_writer(self, label: str, deadline: Deadline, *, priority: int = 0) -> Lease:
        return await self._writer(label).lease(
            label, deadline, priority=priority, wait=self.config.acquire_timeout
        )

    @asynccontextmanager
    async def barrier(self, label: str) -> AsyncIterator[Lease]:
        """Lend the writer while no reader works (invariant 21); new readers wait for the end.

        Readers at work are waited for, `Config.acquire_timeout` at most.
        """
        lease = await self.lend_writer(label, Deadline())
        readers = None if self.readers is self.writer else self.readers
        try:
            if readers is not None:
                await readers.pause(self.config.acquire_timeout)
            yield lease
        finally:
            # A step that was cancelled goes on until its thread has undone it; readers wait for
            # that too, though the caller does not.
            if readers is not None:
                readers.disown()
                lease.settled.add_done_callback(lambda _: readers.resume())
            lease.give_back()

    def reading(self, function: Callable[[Session], T]) -> Callable[[Session], T]:
        """Return `function` so that it can't write, even on the one connection of `:memory:`."""
        return _without_writing(function) if self.readers is self.writer else function

    @property
    def waiting(self) -> int:
        """How many calls wait for a connection."""
        return sum(lane.waiting for lane in self._lanes())

    def _writer(self, label: str) -> Lane:
        if self.writer is None:
            raise ReadOnlyError(f"{label} writes, and {self.path} is open read-only")
        return self.writer

    async def _serve(self, connection: Connection, job: Job[Any]) -> Any:
        job.deadline.limited(self.config.statement_timeout)
        limit = Deadline.after(self.config.busy_timeout)
        limit.limited(job.deadline.remaining())

        async def attempt() -> Any:
            if job.future.done():
                raise PoolClosedError(f"the caller of {job.label} has gone")
            return await connection.run(job.function, job.deadline)

        # A read has no effects, so it may meet the lock anywhere; a write is tried again only
        # if its BEGIN met it, when nothing has been done yet.
        kind = BeginBusyError if connection.role == "writer" else BusyError
        return await while_busy(attempt, limit, kind=kind)


def _in_transaction(function: Callable[[Session], T]) -> Callable[[Session], T]:
    def run(session: Session) -> T:
        with session.transaction("IMMEDIATE"):
            return function(session)

    return run


def _without_writing(function: Callable[[Session], T]) -> Callable[[Session], T]:
    def run(session: Session) -> T:
        session.writable = False
        try:
            return function(session)
        finally:
            session.writable = True

    return run
