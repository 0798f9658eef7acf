"""Read what can be known of a statement from its text alone.

Checks that the text is a single statement, that its parameters are named, and that it does not
begin or end a transaction, which only the pool may do. Finds out whether the statement writes, and
makes the text that is passed to SQLite.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from abt_db.errors import QueryDefinitionError

# SQLite's tokens (https://www.sqlite.org/src/file/src/tokenize.c), as far as they matter here. To
# SQLite only ASCII space is space, and every character beyond ASCII can be part of a name.
_TOKEN = re.compile(
    r"""
      (?P<space>    [ \t\r\n\f\ufeff]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>   '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<variable> [:@$#](?:[A-Za-z0-9_$]|[^\x00-\x7f]|::)+(?:\([^ \t\r\n\f)]*\)?)? | \?\d* )
    | (?P<word>     (?:[A-Za-z_]|[^\x00-\x7f])(?:[A-Za-z0-9_$]|[^\x00-\x7f])* )
    | (?P<number>   \d[\w.]* )
    | (?P<rest>     . )
    """,
    re.VERBOSE | re.DOTALL,
)
_NAMED = re.compile(r":([^\W\d]\w*)")

_READING = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})
_WRITING = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})
_SCHEMA = frozenset({"CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE"})
# PRAGMAs that only read, even with an argument: `PRAGMA table_info(projects)`.
TELLING_PRAGMAS = frozenset(
    {
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
_REFUSED = {
    **dict.fromkeys(
        ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"),
        "transactions belong to db.transaction() and tx.savepoint()",
    ),
    "ATTACH": "a database is one file; open another Database",
    "DETACH": "a database is one file; open another Database",
    "VACUUM": "it can't run in a transaction, and every query that writes runs in one",
}


class Scan(NamedTuple):
    """What is known of one statement from its text."""

    verb: str
    writes: bool
    """Whether it needs the writer."""
    alters: bool
    """Whether it may change the schema or a setting of the file, not only rows."""
    returns: bool
    """Whether it may have RETURNING."""
    parameters: tuple[str, ...]
    """Their names, in the order of their first use."""
    text: str
    """The SQL that is passed to SQLite."""
    positional: bool
    """Whether `text` takes its values by position."""
    table: str | None
    """The table to which one statement can add several rows, or None."""
    texts: tuple[tuple[int, str], ...]
    """Texts that add several rows, each with their number, the largest first; the last one is
    `text`, with 1."""


def scan(name: str, sql: str) -> Scan:
    """Read one statement. Raises `QueryDefinitionError`, with the reason, if it can't be a query.

    The text for SQLite begins with the first token and ends with the last. It has `?` in place of
    each named parameter, unless a parameter is used twice. Then the names stay: SQLite would treat
    two `?` as two different values, which matters in a GROUP BY, for instance.
    """

    def refuse(problem: str) -> QueryDefinitionError:
        return QueryDefinitionError(f"query {name!r}: {problem}")

    if not name:
        raise QueryDefinitionError("a query needs a name, such as 'projects.by_name'")
    if "\0" in sql:
        raise refuse("its SQL holds a NUL character, where SQLite would stop reading")
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise refuse("its SQL holds a lone surrogate, which is not valid Unicode") from None

    words: list[str] = []
    parameters: list[str] = []
    pieces: list[tuple[str, str]] = []
    verb, before = "", ""
    depth = 0
    ended = telling = argued = False
    for kind, text in tokens(sql):
        if kind == "space":
            pieces.append((" ", " ") if pieces else ("", ""))
            continue
        if text == ";" and not verb:
            continue
        if ended:
            raise refuse("it holds more than one statement; make a query of each")
        if text == ";":
            # In a trigger, ";" ends each statement of its body. SQLite tells which one ends the
            # whole trigger.
            trigger = "TRIGGER" in words[:3] and words[0] == "CREATE"
            whole = "".join(piece for piece, _ in pieces) + ";"
            ended = not trigger or sqlite3.complete_statement(whole)
            if ended:
                continue
        if kind == "variable":
            named = _NAMED.fullmatch(text)
            if named is None:
                raise refuse(f"its parameter {text} is positional or oddly named; write :name")
            parameters.append(named[1])
        elif kind == "word":
            word = text.upper()
            words.append(word)
            telling = telling or text.lower() in TELLING_PRAGMAS
            # `WITH x AS (…), y AS (…) UPDATE …` writes: the verb follows the last bracket.
            main = verb == "WITH" and depth == 0 and before == ")" and word in _READING | _WRITING
            if not verb or main:
                verb = word
        elif text == "(":
            depth += 1
            argued = True
        elif text == ")":
            depth -= 1
        elif text == "=":
            argued = True
        pieces.append((text, "?" if kind == "variable" else text))
        before = text
    if not verb:
        raise refuse("its SQL is empty")
    if verb in _REFUSED:
        raise refuse(f"{verb} is refused: {_REFUSED[verb]}")
    if verb not in _READING | _WRITING | _SCHEMA:
        raise refuse(f"SQL does not start with {verb}")
    # `PRAGMA user_version = 3` and `PRAGMA user_version(3)` write.
    writes = verb not in _READING or (verb == "PRAGMA" and argued and not telling)
    names = tuple(dict.fromkeys(parameters))
    once = len(names) == len(parameters)
    text = "".join(piece[once] for piece in pieces).rstrip(" ")
    returns = "RETURNING" in words
    table, texts = (None, ((1, text),)) if returns else _together(text, len(names))
    alters = writes and verb not in _WRITING
    return Scan(verb, writes, alters, returns, names, text, once, table, texts)


def tokens(sql: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each token; the texts joined are `sql`."""
    for match in _TOKEN.finditer(sql):
        assert match.lastgroup is not None
        yield match.lastgroup, match[0]


def quoted(name: str) -> str:
    """Return the name of a table, column or index quoted for use in SQL."""
    return '"' + name.replace('"', '""') + '"'


# -- rows that are added together ----------------------------------------------------------------

# Matches a statement that adds one row, made only of its parameters and constants, and replaces no
# row. Then one statement with more rows behind VALUES has the same effect as a statement for each
# row, if the table's schema permits that (`Verbs.execute_many` checks it), and takes a third of the
# time. Not matched behind ON CONFLICT: a subquery, which would run once for all rows, and
# changes(), which returns the count of the statement before.
_VALUE = r"[ ]* (?: \? | NULL | [\d.]+ | '[^']*' ) [ ]*"
_PER_STATEMENT = r"\b (?: SELECT | VALUES | IN | (?:TOTAL_)? CHANGES ) \b"
_ADDS_A_ROW = re.compile(
    rf"""
    INSERT [ ]+ (?: OR [ ]+ (?!REPLACE) \w+ [ ]+ )? INTO [ ]+ (?P<table> \w+ ) [ ]*
    (?: \( [\w, ]* \) [ ]* )?
    VALUES [ ]* (?P<row> \( {_VALUE} (?: , {_VALUE} )* \) )
    (?: [ ]* ON [ ]+ CONFLICT \b (?: (?! {_PER_STATEMENT} ) [^?] )* )?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_TOGETHER = (64, 8)
"""Numbers of rows that one statement adds. Few, because each needs a prepared statement of its own
in the cache."""
_MAX_VARIABLES = 999
"""Parameters that one statement may have in every SQLite (https://www.sqlite.org/limits.html); most
builds permit more."""


def _together(text: str, width: int) -> tuple[str | None, tuple[tuple[int, str], ...]]:
    """Return `Scan.table` and `Scan.texts` of a statement with `width` parameters."""
    found = _ADDS_A_ROW.fullmatch(text)
    if found is None:
        return None, ((1, text),)
    row, end = found["row"], found.end("row")
    many = [
        (count, text[:end] + f", {row}" * (count - 1) + text[end:])
        for count in _TOGETHER
        if count * width <= _MAX_VARIABLES
    ]
    return found["table"], (*many, (1, text))
