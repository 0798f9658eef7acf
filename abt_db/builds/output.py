"""What a command prints: chunks of bytes as they were read, and the lines that they hold.

Nothing is lost on the way: `to_bytes` gives back the exact bytes of every line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

MAX_LINE = 1024 * 1024
"""Bytes of a line, without its "\\n", that are kept together; what is longer comes in pieces."""


class Stream(IntEnum):
    """Where a command prints; the value is the file descriptor."""

    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of one stream, read together at one moment (an aware UTC time)."""

    stream: Stream
    at: datetime
    data: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or a piece of a very long one.

    `at` is when its last byte was read. `message` is the text without the final "\\n"; a "\\r" is
    part of it. `raw` is None where the bytes were simply `message` in UTF-8 and a "\\n"; otherwise
    it is those bytes: not UTF-8 (`message` then shows the strange ones as `\\xff`), or without a
    "\\n" because the output ended there or the line goes on in the next piece.
    """

    stream: Stream
    at: datetime
    message: str
    raw: bytes | None


def to_bytes(line: Line) -> bytes:
    """The bytes that were printed, with the "\\n" if there was one."""
    return line.message.encode() + b"\n" if line.raw is None else line.raw


class Splitter:
    """Cuts the chunks of one stream into lines; how the chunks were cut makes no difference.

    Only "\\n" ends a line. Keeps at most `max_line` bytes from one chunk to the next, 4 or more: a
    longer line comes in pieces of nearly that size, never cut inside a character.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._rest = bytearray()
        self._last: Chunk | None = None

    def feed(self, chunk: Chunk) -> list[Line]:
        """Take the next chunk and return the lines, and pieces of one, that are whole now."""
        if not chunk.data:
            return []
        self._last = chunk
        end = chunk.data.rfind(b"\n") + 1
        lines = []
        if end:
            lines = self._whole_lines(chunk, bytes(self._rest) + chunk.data[:end])
            self._rest.clear()
        self._rest += chunk.data[end:]
        if len(self._rest) > self._max_line:
            *pieces, rest = _pieces(bytes(self._rest), self._max_line)
            lines += [_exact(chunk, piece) for piece in pieces]
            self._rest = bytearray(rest)
        return lines

    def finish(self) -> list[Line]:
        """The output has ended: return what came after the last "\\n", if anything did."""
        if self._last is None or not self._rest:
            return []
        rest = bytes(self._rest)
        self._rest.clear()
        return [_exact(self._last, rest)]

    def _whole_lines(self, chunk: Chunk, data: bytes) -> list[Line]:
        """Split what ends with a "\\n": all at once where it is UTF-8 and no line is too long."""
        stream, at = chunk.stream, chunk.at
        if len(data) <= self._max_line:
            try:
                messages = data.decode().split("\n")
            except UnicodeDecodeError:
                pass  # line by line, then: most of them are probably good
            else:
                messages.pop()
                return [Line(stream, at, message, None) for message in messages]
        return [
            _exact(chunk, piece)
            for line in data.split(b"\n")[:-1]
            for piece in _pieces(line + b"\n", self._max_line)
        ]


def _pieces(data: bytes, most: int) -> Iterator[bytes]:
    """Cut one line, whose "\\n" does not count, where it is longer than `most` bytes."""
    start, length = 0, len(data) - data.endswith(b"\n")
    while length - start > most:
        cut = start + most
        # The bytes 0b10xxxxxx go on with a character, of which a good one has at most three.
        while cut > start + most - 3 and data[cut] & 0xC0 == 0x80:
            cut -= 1
        yield data[start:cut]
        start = cut
    yield data[start:]


def _exact(chunk: Chunk, data: bytes) -> Line:
    """The line, or piece of one, that is made of these bytes."""
    try:
        message = data.decode()
    except UnicodeDecodeError:
        message = data.removesuffix(b"\n").decode(errors="backslashreplace")
        return Line(chunk.stream, chunk.at, message, data)
    if message.endswith("\n"):
        return Line(chunk.stream, chunk.at, message[:-1], None)
    return Line(chunk.stream, chunk.at, message, data)
