"""What a build has printed and nobody has stored yet: in memory, and on disk when that is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .output import Chunk, Stream

MIB = 1024 * 1024

# What a chunk takes in memory besides its bytes: a flood of tiny chunks must be bounded, too.
_OVERHEAD = 200
# Of a chunk in the file: stream, seconds since 1970, number of bytes. The bytes follow. A double
# tells the microseconds of our century apart.
_HEADER = struct.Struct("<BdI")


class Spool:
    """A queue of chunks, from the threads that read a build's output to the task that stores it.

    `put` never waits for the taker and loses nothing. Up to `memory` bytes wait in memory; what
    comes on top goes to a temporary file without a name in `directory` (by default the system's
    directory for such files), which is emptied whenever all of it has been read. Where it can't be
    made or written, as on a full disk, memory is the last resort, without a bound.

    To be made in the event loop in which `take` is called, by one task. A context manager: leaving
    it discards what was not taken.
    """

    def __init__(self, *, memory: int = 4 * MIB, directory: Path | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._memory = memory
        self._directory = directory

        # The chunks stand in three places, in this order: `_front`, the file, `_back`. Who takes
        # both locks takes `_disk` first. The event loop takes `_state` alone to put or take: it is
        # never held while the disk is waited for.
        self._disk = threading.Lock()  # the order of puts, and the four below
        self._file: IO[bytes] | None = None
        self._start = 0
        self._end = 0
        self._back: deque[Chunk] = deque()
        self._state = threading.Lock()  # all that follows
        self._front: deque[Chunk] = deque()
        self._front_size = 0
        self._behind = 0  # chunks in the file and in `_back`
        self._closed = False
        self._taker_waits = False
        self._wake_up = asyncio.Event()

        self.chunks = 0
        """How many chunks were put."""
        self.total_bytes = 0
        """How many bytes these had."""
        self.spilled_bytes = 0
        """How many of the bytes went through the file."""

    def put(self, chunk: Chunk) -> None:
        """Add a chunk; from any thread. Waits at most for the disk.

        Raises `RuntimeError` when the spool is closed.
        """
        size = len(chunk.data)
        with self._disk:
            with self._state:
                if self._closed:
                    raise RuntimeError("the spool is closed: nothing more can be put into it")
                self.chunks += 1
                self.total_bytes += size
                fits = not self._behind and self._front_size + size + _OVERHEAD <= self._memory
                if fits:
                    self._front.append(chunk)
                    self._front_size += size + _OVERHEAD
            if not fits:
                spilled = not self._back and self._spill(chunk)
                if not spilled:
                    self._back.append(chunk)
                with self._state:
                    self._behind += 1
                    self.spilled_bytes += size if spilled else 0
        self._wake()

    async def take(self, limit: int = MIB) -> list[Chunk]:
        """Return the next chunks: up to `limit` bytes, but at least one chunk.

        Waits until there is one; returns an empty list when the spool is closed and empty.
        Cancelling loses nothing: what was not returned is there for the next call.
        """
        while True:
            with self._state:
                if taken := self._take_front(limit):
                    return taken
                behind = self._behind > 0
                if not behind:
                    if self._closed:
                        return []
                    self._wake_up.clear()
                    self._taker_waits = True
            if behind:
                await asyncio.to_thread(self._refill, limit)
            else:
                await self._wake_up.wait()

    def close(self) -> None:
        """Nothing more will be put; what is there can still be taken. From any thread."""
        with self._state:
            self._closed = True
        self._wake()

    def discard(self) -> None:
        """Close, forget what was not taken, and free the file."""
        self.close()
        with self._disk, self._state:
            self._front.clear()
            self._back.clear()
            self._front_size = self._behind = self._start = self._end = 0
            if self._file:
                self._file.close()
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def _wake(self) -> None:
        with self._state:
            waits, self._taker_waits = self._taker_waits, False
        if waits:
            # Once the loop is closed nobody will ever take. The thread that reads must not die of
            # it: the build would then hang, or be killed, writing to a pipe that nobody reads.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake_up.set)

    def _take_front(self, limit: int) -> list[Chunk]:
        taken: list[Chunk] = []
        size = 0
        while self._front and (not taken or size + len(self._front[0].data) <= limit):
            taken.append(self._front.popleft())
            size += len(taken[-1].data)
        self._front_size -= size + len(taken) * _OVERHEAD
        return taken

    def _spill(self, chunk: Chunk) -> bool:
        """Append a chunk to the file, and tell whether that was possible."""
        record = _HEADER.pack(chunk.stream, chunk.at.timestamp(), len(chunk.data)) + chunk.data
        try:
            if self._file is None:
                self._file = _unnamed_file(self._directory)
            done = 0
            while done < len(record):
                done += os.pwrite(self._file.fileno(), record[done:], self._end + done)
        except OSError:
            return False  # half a record may be there, but behind the end
        self._end += len(record)
        return True

    def _refill(self, limit: int) -> None:
        """Move the next chunks from behind to the front; waits for the disk."""
        with self._disk:
            chunks: list[Chunk] = []
            size, position = 0, self._start
            while self._file and position < self._end and (size < limit or not chunks):
                chunks.append(_read(self._file.fileno(), position))
                position += _HEADER.size + len(chunks[-1].data)
                size += _OVERHEAD + len(chunks[-1].data)
            self._start = position
            if self._file and position == self._end:
                self._file.truncate(0)
                self._start = self._end = 0
            if self._start == self._end:
                chunks += self._back
                self._back.clear()
            with self._state:
                self._front.extend(chunks)
                self._front_size += sum(_OVERHEAD + len(chunk.data) for chunk in chunks)
                self._behind -= len(chunks)


def _unnamed_file(directory: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile(buffering=0, dir=directory)


def _read(file: int, position: int) -> Chunk:
    stream, at, size = _HEADER.unpack(os.pread(file, _HEADER.size, position))
    data = os.pread(file, size, position + _HEADER.size)
    return Chunk(Stream(stream), datetime.fromtimestamp(at, UTC), data)
