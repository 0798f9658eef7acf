"""What can be said of a script from its text: what the engine refuses, what does nothing, and the
oldest SQLite that understands it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from . import runner
from .model import Migration
from .script import first_keyword, pragma_name, split, words
from .step import down_origin


class Level(Enum):
    """How much a finding matters."""

    ERROR = "error"
    """The step will fail."""
    WARNING = "warning"
    """The step may fail, or do other than it seems to."""
    NOTE = "note"
    """Worth knowing; of no harm to this engine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one script."""

    level: Level
    rule: str
    where: str
    """The file, and the line where it is known."""
    message: str

    def __str__(self) -> str:
        return f"{self.level.value}: {self.where}: {self.message} [{self.rule}]"


# What needs which SQLite (https://www.sqlite.org/changes.html), sought in the words of a statement,
# strings left out. One space stands between two words.
_NEEDS: tuple[tuple[tuple[int, int], str, str], ...] = (
    ((3, 45), "JSONB functions", r"\bjsonb\w* \("),
    ((3, 44), "concat() and string_agg()", r"\b(?:concat|concat_ws|string_agg) \("),
    ((3, 43), "octet_length() and timediff()", r"\b(?:octet_length|timediff) \("),
    ((3, 41), "unhex()", r"\bunhex \("),
    ((3, 39), "RIGHT and FULL JOIN", r"\b(?:right|full) (?:outer )?join\b"),
    ((3, 39), "IS [NOT] DISTINCT FROM", r"\bis (?:not )?distinct from\b"),
    ((3, 38), "the operators -> and ->>", r" ->>? "),
    ((3, 38), "format() and unixepoch()", r"\b(?:format|unixepoch) \("),
    ((3, 37), "STRICT tables", r"^create (?:temp |temporary )?table .*\) (?:[^()]* )?strict\b"),
    ((3, 35), "ALTER TABLE … DROP COLUMN", r"^alter table .* drop (?!constraint\b)"),
    ((3, 35), "RETURNING", r"^(?:insert|update|delete|replace|with)\b.* returning\b"),
    ((3, 35), "MATERIALIZED", r"\bas (?:not )?materialized \("),
    ((3, 35), "mathematical functions", r"\b(?:ceil|ceiling|floor|ln|log2|log10|pow|sqrt|pi) \("),
    ((3, 33), "UPDATE … FROM", r"^update .* set .* from\b(?!.*\))"),
    ((3, 32), "iif()", r"\biif \("),
    ((3, 31), "generated columns", r"\bgenerated always as \(|\) (?:stored|virtual)\b"),
    ((3, 30), "NULLS FIRST and LAST", r"\bnulls (?:first|last)\b"),
    ((3, 30), "FILTER behind an aggregate", r"\) filter \( where\b"),
    ((3, 25), "window functions", r"\) over (?:\(|\w)"),
    ((3, 25), "ALTER TABLE … RENAME COLUMN", r"^alter table .* rename (?!to\b)"),
    ((3, 24), "upserts", r"\bon conflict (?:\(|do\b)"),
)
_PATTERNS = [(version, what, re.compile(pattern)) for version, what, pattern in _NEEDS]


def lint(migration: Migration, *, down: bool = False) -> tuple[Finding, ...]:
    """Return what is to be said of the up script, or of the down script, from its text alone."""
    return tuple(_findings(migration, down=down))


def _findings(migration: Migration, *, down: bool) -> Iterator[Finding]:
    script = migration.down if down else migration.up
    origin = down_origin(migration) if down else migration.origin
    if migration.down is None:
        message = "there is no down script: the step can't be taken back"
        yield Finding(Level.NOTE, "irreversible", migration.origin, message)
    inside = migration.transactional
    for statement in split(script or ""):
        where = f"{origin}, line {statement.line}"
        text, keyword = statement.text, first_keyword(statement.text)
        pragma = pragma_name(text)
        if problem := runner.refusal(text, transactional=migration.transactional, inside=inside):
            yield Finding(Level.ERROR, "refused", where, problem)
        elif pragma == "foreign_keys" and inside:
            message = "it does nothing inside a transaction; leave it out"
            yield Finding(Level.WARNING, "misplaced-pragma", where, message)
        elif pragma == "page_size":
            message = "it does nothing to a database with a write-ahead log"
            yield Finding(Level.WARNING, "page-size", where, message)
        needed, what = minimum_sqlite(text)
        if needed > sqlite3.sqlite_version_info:
            message = f"{what} need SQLite {_dotted(needed)}; this is {sqlite3.sqlite_version}"
            yield Finding(Level.ERROR, "sqlite-version", where, message)
        if not migration.transactional:
            inside = keyword == "BEGIN" or (inside and keyword not in ("COMMIT", "END"))


def minimum_sqlite(sql: str) -> tuple[tuple[int, ...], str]:
    """Return the oldest SQLite that understands a script, and what in it needs that; as far as the
    features and functions go that are known here, down to 3.24."""
    needed: tuple[tuple[int, ...], str] = ((3, 0), "")
    for statement in split(sql):
        text = " ".join(word for word in words(statement.text) if not word.startswith("'"))
        for version, what, pattern in _PATTERNS:
            if version > needed[0] and pattern.search(text):
                needed = version, what
    return needed


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
