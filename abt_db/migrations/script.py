"""Splitting a script into its statements, exactly where SQLite would.

A `;` ends a statement unless it stands in a string, an identifier, a comment or the body of a
trigger. Where quotes and comments begin and end is found here; whether a `;` ends a statement is
for SQLite to say: `sqlite3.complete_statement` (https://www.sqlite.org/c3ref/complete.html).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase

from abt_db.errors import ScriptError


@dataclass(frozen=True, slots=True)
class ScriptStatement:
    """One statement of a script."""

    text: str
    """The statement with its `;`, as it stands there: SQLite keeps that text in its schema."""
    line: int
    """The line of the script, from 1, on which the text starts."""


# What may stand between statements. A byte order mark is white space to SQLite's parser, but to
# `complete_statement` a part of the next word: it would no longer see the TRIGGER behind CREATE.
# Possessive (`++`): a million lines of comments need no million places to come back to.
_COMMENT = r"--[^\n]*+|/\*(?s:.*?)\*/"
_GAP = rf"(?:[ \t\r\n\f\ufeff;]++|{_COMMENT})*+"
_LEADING = re.compile(_GAP)
_COMMENTS = re.compile(_COMMENT)

# Whatever can hold a `;` that ends nothing, the `;` itself, and last what opens and never ends.
_PART = re.compile(rf"""{_COMMENT}|'[^']*+'|"[^"]*+"|`[^`]*+`|\[[^\]]*+\]|;|/\*|['"`\[]""")
_OPENED = {
    "/*": "comment",
    "'": "string",
    '"': "quoted identifier",
    "`": "quoted identifier",
    "[": "quoted identifier",
}
_LONE_END = re.compile(rf"{_GAP}END{_GAP}", re.IGNORECASE)

_WORD = re.compile(rf"{_GAP}([A-Za-z_]\w*+)")
_NAME = r"""(?:[^\W\d][\w$]*+|"[^"]*+"|'[^']*+'|`[^`]*+`|\[[^\]]*+\])"""
_PRAGMA = re.compile(rf"{_GAP}PRAGMA\b(?:{_GAP}{_NAME}{_GAP}\.)?{_GAP}({_NAME})", re.IGNORECASE)


def split(sql: str) -> list[ScriptStatement]:
    """Return the statements of a script in their order; none for one of comments alone.

    The last statement needs no `;`, and empty ones (`;;`) are left out. Line ends may be CRLF, and
    a byte order mark is white space. Takes time in proportion to the length of the script.

    Raises `ScriptError`, naming the line, for a string, comment or trigger that never ends, for a
    NUL, and for text that can't be written as UTF-8.
    """
    _require_text(sql)
    statements = []
    counted, line = 0, 1
    start = _after_gap(sql, 0)
    while start < len(sql):
        line += sql.count("\n", counted, start)
        counted = start
        end = _end_of_statement(sql, start, line)
        statements.append(ScriptStatement(sql[start:end], line))
        start = _after_gap(sql, end)
    return statements


def first_keyword(sql: str) -> str:
    """Return the first word of a statement in upper case, comments skipped; "" without one."""
    word = _WORD.match(sql)
    return word[1].upper() if word else ""


def pragma_name(sql: str) -> str:
    """Return which PRAGMA a statement is, in lower case and without its schema; "" if none.

    What can't be read gives "" as well: ask for the names that are fine, not for those that aren't.
    """
    pragma = _PRAGMA.match(sql)
    return pragma[1].strip("\"'`[]").lower() if pragma else ""


_TOKEN = re.compile(
    rf"""
      (?P<gap>    [ \t\r\n\f\ufeff]++ | {_COMMENT} )
    | (?P<string> '(?:[^']|'')*+' )
    | (?P<name>   "(?:[^"]|"")*+" | `(?:[^`]|``)*+` | \[[^\]]*+\] )
    | (?P<word>   [^\W\d][\w$]*+ )
    | (?P<rest>   [\d.]++(?:[eE][+-]?\d++)? | \|\| | ->>? | [<>=!]=? | . )
    """,
    re.VERBOSE | re.DOTALL,
)


_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def folded(name: str) -> str:
    """Return a name in lower case, as SQLite folds it: A to Z, and no other letter."""
    return name.lower() if name.isascii() else name.translate(_LOWER)


def words(sql: str) -> list[str]:
    """Return what SQLite reads of a text: keywords and names in lower case and without quotes,
    strings as they are, numbers, signs. Spaces and comments are left out."""
    return list(_words(sql))


@lru_cache(maxsize=256)
def _words(sql: str) -> tuple[str, ...]:
    found = []
    for token in _TOKEN.finditer(sql):
        kind, text = token.lastgroup, token[0]
        if kind == "name":
            text = folded(text[1:-1].replace(text[0] * 2, text[0]))
        elif kind == "word":
            text = folded(text)
        if kind != "gap":
            found.append(text)
    return tuple(found)


def brackets(sql: str, word: str) -> list[str]:
    """Return the text of each bracket that stands behind `word`: the CHECKs of a table."""
    found = []
    before, depth, start = "", 0, -1
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "gap":
            continue
        text = token[0]
        if text == "(":
            if start < 0 and before == word:
                start, depth = token.start(), 0
            depth += 1
        elif text == ")":
            depth -= 1
            if start >= 0 and depth == 0:
                found.append(sql[start : token.end()])
                start = -1
        before = folded(text)
    return found


def leading_comments(sql: str) -> Iterator[tuple[int, str]]:
    """Yield the comments before the first statement, each with the line on which it starts."""
    counted, line = 0, 1
    for comment in _COMMENTS.finditer(sql, 0, _after_gap(sql, 0)):
        line += sql.count("\n", counted, comment.start())
        counted = comment.start()
        yield line, comment[0]


def _end_of_statement(sql: str, start: int, line: int) -> int:
    """Return the position behind the `;` of the statement at `start`, or the script's length."""
    after = start  # behind the last `;`
    for part in _PART.finditer(sql, start):
        if part[0] == ";":
            # Only a trigger goes on after a `;`, and only `; END ;` ends it. To ask SQLite about
            # every `;` would have it read a long trigger again for each line of its body.
            may_end = after == start or _LONE_END.fullmatch(sql, after, part.start())
            if may_end and sqlite3.complete_statement(sql[start : part.end()]):
                return part.end()
            after = part.end()
        elif part[0] in _OPENED:
            opened = sql.count("\n", 0, part.start()) + 1
            raise _at(line, f"the {_OPENED[part[0]]} opened on line {opened} never ends")
    if sqlite3.complete_statement(f"{sql[start:]}\n;"):
        return len(sql)
    raise _at(line, "the trigger that starts here never ends; close its body with END;")


def _after_gap(sql: str, position: int) -> int:
    gap = _LEADING.match(sql, position)
    return gap.end() if gap else position


def _require_text(sql: str) -> None:
    if (nul := sql.find("\0")) >= 0:
        line = sql.count("\n", 0, nul) + 1
        raise _at(line, "it holds a NUL character, where SQLite would stop reading")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        line = sql.count("\n", 0, error.start) + 1
        raise _at(line, "it holds half a surrogate pair, which is no character") from None


def _at(line: int, problem: str) -> ScriptError:
    return ScriptError(f"line {line}: {problem}", line)
