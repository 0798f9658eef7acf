"""The threads that read what a command prints, keep it, and show it."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from .output import Chunk, Stream
from .spool import Spool

# Bytes that are read at once: what a pipe holds.
_CHUNK = 64 * 1024
# How often a thread that waits for a pipe or a terminal looks whether it still should; seconds.
_TICK = 0.25
# A process that outlives the command and keeps printing is listened to for this many times `drain`.
_CHATTY = 10


@dataclass(frozen=True, slots=True)
class Ending:
    """What the threads of a command tell each other about its end."""

    gone: threading.Event = field(default_factory=threading.Event)
    """The command has ended; if it was stopped, its whole process group."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Somebody wants it stopped: once it is gone, nothing is waited for any more."""


class Echo:
    """This process's own stdout or stderr, to which output is passed on as it is.

    A slow terminal makes the command slow, as it would without us. One that is closed, or still
    stuck when the command has been stopped, gets nothing more; neither is an error.
    """

    def __init__(self, descriptor: int, ending: Ending, turn: threading.Lock) -> None:
        self._descriptor = descriptor
        self._ending = ending
        # Shared by echoes that go to the same place, so that they don't write into each other's
        # lines; and between poll and write nobody else of us fills the pipe up.
        self._turn = turn
        self._open = True
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, data: bytes) -> None:
        """Write all of it, as long as it can be written."""
        with self._turn:
            left = memoryview(data)
            while left and self._open:
                left = left[self._write_some(left) :]

    def _write_some(self, data: memoryview) -> int:
        ready = self._poll.poll(_TICK * 1000)
        if not ready:
            self._open = not (self._ending.gone.is_set() and self._ending.hurry.is_set())
        elif ready[0][1] & (select.POLLERR | select.POLLNVAL):
            # Not left to `os.write`: where the application wants SIGPIPE, that would end it.
            self._open = False
        else:
            try:
                # A pipe that poll calls ready takes this much without blocking, but not more.
                return os.write(self._descriptor, data[: select.PIPE_BUF])
            except BlockingIOError:
                pass  # another program made it non-blocking: asked again
            except OSError:
                self._open = False
        return 0


def echoes_of(ending: Ending) -> dict[Stream, Echo]:
    """This process's own stdout and stderr, without those that were closed when it started."""
    # Python puts None there for such a descriptor. Its number will have gone to some other file.
    own = {Stream.STDOUT: sys.__stdout__, Stream.STDERR: sys.__stderr__}
    turns = {stream: threading.Lock() for stream in Stream if own[stream] is not None}
    if len(turns) == 2 and os.path.sameopenfile(Stream.STDOUT, Stream.STDERR):
        turns[Stream.STDERR] = turns[Stream.STDOUT]
    return {stream: Echo(stream, ending, turn) for stream, turn in turns.items()}


class Pump(threading.Thread):
    """Reads one stream of a command to its end, puts it into the spool and then shows it.

    The end is that of the stream. Where other processes keep it open, it comes when the command is
    gone and then nothing was printed for `drain` seconds, or when they go on for ten times that;
    what the command itself has printed is read before in any case.

    `fail` is called with the error if reading or keeping is impossible. A daemon thread: it must
    not keep an interpreter from exiting whose event loop died without stopping the command.
    """

    def __init__(
        self,
        stream: Stream,
        pipe: IO[bytes],
        spool: Spool,
        echo: Echo | None,
        *,
        drain: float,
        ending: Ending,
        fail: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name=f"abt_db-{stream.name.lower()}", daemon=True)
        self._stream = stream
        self._pipe = pipe
        self._spool = spool
        self._echo = echo
        self._drain = drain
        self._ending = ending
        self._fail = fail

    def run(self) -> None:
        """Read until the end and close the pipe."""
        try:
            with self._pipe:
                self._read()
        except BaseException as error:
            self._fail(error)

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        gone_at = None
        last = time.monotonic()
        while True:
            if poll.poll(_TICK * 1000):
                if not self._copy(_CHUNK):
                    return
                last = time.monotonic()
            if self._ending.gone.is_set():
                now = time.monotonic()
                gone_at = gone_at or now
                quiet, listened = now - max(last, gone_at), now - gone_at
                if (
                    self._ending.hurry.is_set()
                    or quiet >= self._drain
                    or listened >= self._drain * _CHATTY
                ):
                    break
        # What is in the pipe now the command may have printed, if we were slow; nothing later.
        left = _readable(self._pipe)
        while left > 0 and (copied := self._copy(min(left, _CHUNK))):
            left -= copied

    def _copy(self, most: int) -> int:
        """Pass on what there is; return how many bytes, 0 at the end of the stream."""
        data = os.read(self._pipe.fileno(), most)
        if data:
            self._spool.put(Chunk(self._stream, datetime.now(UTC), data))
            if self._echo is not None:
                self._echo.write(data)
        return len(data)


def _readable(pipe: IO[bytes]) -> int:
    """How many bytes are in the pipe."""
    answer = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
