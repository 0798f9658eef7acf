"""Error lines, counted by what they have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable

from abt_db.builds.classify import as_shown

from .figures import ErrorLine, Problem

LENGTH = 300
"""Characters of a line that are looked at and shown."""

KEPT = 5_000
"""Patterns that are kept at a time: some 10 MB, however many lines there are."""

# Gradle says so whatever has gone wrong.
_HEADINGS = re.compile(r"\* What went wrong:|FAILURE: Build |BUILD FAILED\b|> A failure occurred ")

# What differs between two lines that mean the same, each behind what can't be a part of it: paths
# with their line numbers, addresses, ids in hexadecimal, numbers and versions.
_VARIABLE = re.compile(
    r"""
    (?<![\w.]) (?:
        [a-z][a-z+]* :// [^\s'"<>)]+                            # a URL
      | (?: file: | [A-Za-z]: (?=[\\/]) )? (?: ~ | \.{1,2} )?
        (?: [\\/] [^\s\\/:'"<>()]+ ){2,} [\\/]? (?: :\d+ )*     # /a/b.c:1:2
      | [\w.+@-]+ (?: [\\/] [\w.+@$-]+ ){2,} (?: :\d+ )*         # a/b/c.kt:1
      | [\w.+@-]+ [\\/] [\w.+@$-]+ \. [A-Za-z]\w* (?: :\d+ )*    # b/c.kt:1
      | 0x [0-9A-Fa-f]+
      | (?=[a-f]*\d) [0-9a-f]{7,} (?: - [0-9a-f]{4,} )* (?!\w)   # a hash, a UUID
      | \d+ (?: [.,:_-] \d+ )* (?! \w )
    )
    | (?<=@) [0-9a-f]{4,8} \b                                    # Java's object@1f2e3d
    """,
    re.VERBOSE,
)


def pattern(message: str) -> str:
    """What a line has in common with others that mean the same: "…" stands for the rest."""
    return _VARIABLE.sub("…", _short(message))


def count_problems(lines: Iterable[ErrorLine], most: int) -> tuple[list[Problem], bool]:
    """Return the `most` frequent patterns, by builds and then by lines, and whether it is exact.

    The lines of one build have to follow each other. Memory is bounded: when there are more than
    `KEPT` patterns the rarer half is dropped, so what is rare may be counted too low.
    """
    counts: dict[str, _Count] = {}
    exact = True
    for line in lines:
        text = _short(line.message)
        if _HEADINGS.match(text):
            continue
        shape = _VARIABLE.sub("…", text)
        if (count := counts.get(shape)) is None:
            if len(counts) >= KEPT:
                exact = False
                for rare in sorted(counts, key=lambda shape: counts[shape].rank)[KEPT // 2 :]:
                    del counts[rare]
            count = counts[shape] = _Count()
        count.add(line, text)
    ranked = sorted(counts.items(), key=lambda item: (item[1].rank, item[0]))[:most]
    return [
        Problem(shape, count.lines, count.builds, count.failed, count.example, count.build)
        for shape, count in ranked
    ], exact


class _Count:
    __slots__ = ("build", "build_id", "builds", "example", "failed", "lines")

    def __init__(self) -> None:
        self.lines = self.builds = self.failed = 0
        self.build_id = -1
        self.build = self.example = ""

    @property
    def rank(self) -> tuple[int, int]:
        return -self.builds, -self.lines

    def add(self, line: ErrorLine, text: str) -> None:
        self.lines += 1
        if line.build_id != self.build_id:
            self.build_id, self.build, self.example = line.build_id, line.build, text
            self.builds += 1
            self.failed += line.failed


def _short(message: str) -> str:
    text = " ".join(as_shown(message).split())
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
