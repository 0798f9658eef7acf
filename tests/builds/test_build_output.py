"""A build's output: whatever it prints, its lines hold every byte of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from abt_db.builds.output import MAX_LINE, Chunk, Line, Splitter, Stream, to_bytes

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Little else than what makes a difference: ends of lines, and characters of one to four bytes,
# whole and in parts.
PRINTED = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"\0", "é€𝄞".encode(), b"\xff", b"\xc3"]),
        st.sampled_from([bytes([byte]) for byte in "é€𝄞".encode()]),
        st.text(max_size=5).map(lambda text: text.encode(errors="surrogatepass")),
        st.binary(max_size=5),
    )
).map(b"".join)


def split(*datas: bytes, max_line: int = MAX_LINE) -> list[Line]:
    """The lines of data that is read in these chunks, a second after each other."""
    splitter = Splitter(max_line)
    lines = []
    for second, data in enumerate(datas):
        lines += splitter.feed(Chunk(Stream.STDOUT, NOON + timedelta(seconds=second), data))
    return lines + splitter.finish()


def messages(*datas: bytes, max_line: int = MAX_LINE) -> list[tuple[str, bytes | None]]:
    return [(line.message, line.raw) for line in split(*datas, max_line=max_line)]


@st.composite
def in_chunks(draw: st.DrawFn) -> list[bytes]:
    """Something printed, cut anywhere."""
    printed = draw(PRINTED)
    cuts = sorted(draw(st.lists(st.integers(0, len(printed)))))
    return [printed[start:end] for start, end in pairwise([0, *cuts, len(printed)])]


class TestNothingIsLost:
    """The lines hold exactly the bytes that were fed, however they were cut into chunks."""

    @given(in_chunks(), st.integers(4, 40))
    @example([b"a" * 39, b"\n"], 40)
    @example(["é".encode()[:1], "é".encode()[1:], b"\n"], 4)
    def test_the_lines_give_back_every_byte(self, datas: list[bytes], max_line: int) -> None:
        lines = split(*datas, max_line=max_line)
        assert b"".join(map(to_bytes, lines)) == b"".join(datas)

    @given(in_chunks(), st.integers(4, 40))
    def test_how_it_was_cut_into_chunks_makes_no_difference(
        self, datas: list[bytes], max_line: int
    ) -> None:
        assert messages(*datas, max_line=max_line) == messages(b"".join(datas), max_line=max_line)

    @given(in_chunks(), st.integers(4, 40))
    def test_raw_bytes_are_kept_only_where_the_message_does_not_tell_them(
        self, datas: list[bytes], max_line: int
    ) -> None:
        for line in split(*datas, max_line=max_line):
            assert "\n" not in line.message
            assert line.raw != line.message.encode() + b"\n"

    @given(st.text(), st.integers(4, 9))
    def test_a_character_is_never_split(self, text: str, max_line: int) -> None:
        lines = split(text.encode(), max_line=max_line)
        assert "".join(line.message + "\n" * (line.raw is None) for line in lines) == text

    @given(in_chunks(), st.integers(4, 40))
    def test_no_line_is_longer_than_the_limit_and_few_are_cut(
        self, datas: list[bytes], max_line: int
    ) -> None:
        for line in split(*datas, max_line=max_line):
            length = len(to_bytes(line).removesuffix(b"\n"))
            assert length <= max_line
            if line.raw is not None and not line.raw.endswith(b"\n"):
                last = b"".join(datas).endswith(line.raw)
                assert last or length > max_line - 4


class TestALine:
    """Only "\\n" ends a line, and `raw` is there where the message alone would not do."""

    def test_a_line_is_its_text(self) -> None:
        assert messages(b"one\ntwo\n\n") == [("one", None), ("two", None), ("", None)]

    def test_progress_and_other_separators_stay_in_the_line(self) -> None:
        printed = "10%\r20%\r\nform\x0cfeed\x85next\u2028line\x1c\n"
        assert messages(printed.encode()) == [
            ("10%\r20%\r", None),
            ("form\x0cfeed\x85next\u2028line\x1c", None),
        ]

    def test_a_last_line_without_its_end_is_told_at_the_end(self) -> None:
        splitter = Splitter()
        chunk = Chunk(Stream.STDERR, NOON, b"Password: ")
        assert splitter.feed(chunk) == []
        assert splitter.finish() == [Line(Stream.STDERR, NOON, "Password: ", b"Password: ")]
        assert splitter.finish() == []

    def test_bytes_that_are_not_utf_8_are_shown_and_kept(self) -> None:
        assert messages(b"good\ncaf\xe9\nbetter\n") == [
            ("good", None),
            (r"caf\xe9", b"caf\xe9\n"),
            ("better", None),
        ]

    def test_a_character_may_come_in_two_chunks(self) -> None:
        euro = "€".encode()
        assert messages(euro[:1], euro[1:] + b"\n") == [("€", None)]

    def test_a_line_has_the_time_of_its_last_byte(self) -> None:
        lines = split(b"one\nto", b"", b"wards\n", b"two")
        seconds = [(line.message, (line.at - NOON).seconds) for line in lines]
        assert seconds == [("one", 0), ("towards", 2), ("two", 3)]

    def test_a_line_that_is_too_long_is_cut_between_characters(self) -> None:
        assert messages("abc€def\n".encode(), max_line=4) == [
            ("abc", b"abc"),
            ("€d", "€d".encode()),
            ("ef", None),
        ]


class TestSpeed:
    """Time grows with the bytes alone, whatever their shape."""

    def test_short_lines(self) -> None:
        data = b"Selecting previously unselected package.\n" * 1600
        assert is_linear(lambda size: [data] * (32 * size // 10), lines=512_000)

    def test_a_line_of_100_mb_in_chunks(self) -> None:
        assert is_linear(lambda size: [b"x" * 65536] * 16 * size, lines=100)

    def test_a_line_of_100_mb_in_one_chunk(self) -> None:
        assert is_linear(lambda size: [b"x" * 65536 * 16 * size], lines=100)

    def test_a_line_that_comes_byte_by_byte(self) -> None:
        assert is_linear(lambda size: [b"x"] * 10_000 * size, lines=1)

    def test_a_million_empty_chunks(self) -> None:
        assert is_linear(lambda size: [b""] * 10_000 * size, lines=0)


def is_linear(datas: Callable[[int], list[bytes]], lines: int) -> bool:
    """Whether ten times as much takes about ten times as long, and not a hundred times: in the best
    of some tries, for the machine may be at something else meanwhile."""
    for _ in range(3):
        small, _ = time_of(datas(10))
        large, count = time_of(datas(100))
        assert count == lines
        if large < 40 * small:
            return True
    return False


def time_of(datas: list[bytes]) -> tuple[float, int]:
    """Seconds of the processor that it takes to split them, and how many lines they are."""
    splitter = Splitter()
    chunks = [Chunk(Stream.STDOUT, NOON, data) for data in datas]
    started = time.process_time()
    count = sum(len(splitter.feed(chunk)) for chunk in chunks) + len(splitter.finish())
    return time.process_time() - started, count
