"""Finds what a live query depends on: the tables whose commits may change its rows.

SQLite names the tables that a statement reads. But rows can come from elsewhere, and tables can
change without being named. In each of these cases the query either depends on every commit, or is
refused when the watch begins:

- Every commit: a *virtual table* reads and writes tables of its own, by statements that SQLite
  prepares, and asks the authorizer about, while any other statement is running. So its rows may
  change at any commit. The same is true of the tables that it keeps its data in, of SQLite's own
  tables (adding a row writes ``sqlite_sequence``, ANALYZE writes ``sqlite_stat1``), and of what a
  PRAGMA returns about the file.
- Refused: what belongs to a *connection* (``changes()``, ``PRAGMA data_version``, a query plan),
  because it is not a property of the database.
- Refused: what depends on the *time* or on *randomness*, because it changes without a commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from abt_db.connection.access import TablesUsed, folded
from abt_db.connection.transaction import EngineSession
from abt_db.errors import QueryError
from abt_db.sql.query import Query, Statement
from abt_db.sql.scan import TELLING_PRAGMAS, tokens

# Their rows depend only on their arguments.
_PURE_MODULES = frozenset({"generate_series", "json_each", "json_tree", "jsonb_each", "jsonb_tree"})
# Their rows are read from the pages of the file.
_FILE_MODULES = frozenset({"dbstat", "sqlite_dbpage"})
_FILE_PRAGMAS = TELLING_PRAGMAS | {
    *("application_id", "auto_vacuum", "encoding", "freelist_count", "journal_mode"),
    *("page_count", "page_size", "schema_version", "user_version"),
}

_TIME = {"date": 0, "time": 0, "datetime": 0, "julianday": 0, "unixepoch": 0, "timediff": 0} | {
    "strftime": 1  # its first argument is the format
}
"""Functions that return the present time if they have no more than so many arguments, or if an
argument asks for it, as ``'now'`` does."""
_NOW = frozenset({"now", "subsec", "subsecond"})
_CLOCKS = frozenset({"current_date", "current_time", "current_timestamp"})
_CHANCE = frozenset({"random", "randomblob"})
_OF_CONNECTION = frozenset({"changes", "last_insert_rowid", "total_changes"})
# Functions of FTS and R*Tree. They depend only on the rows of their table, although SQLite does not
# list them as deterministic.
_OF_MODULES = frozenset(
    {
        *("bm25", "highlight", "match", "matchinfo", "offsets", "optimize", "snippet"),
        *("fts3_tokenizer", "fts5", "fts5_source_id", "rtreecheck", "rtreedepth", "rtreenode"),
    }
)

# Plain texts and no `Query`, because they run without the checks for a caller's SQL.
_VERSIONS = ("PRAGMA main.schema_version", "PRAGMA temp.schema_version")
_SCHEMA = """
    SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view')
    UNION ALL SELECT type, name, sql FROM sqlite_temp_schema WHERE type IN ('table', 'view')
    UNION ALL SELECT 'module', name, '' FROM pragma_module_list
    UNION ALL SELECT 'module', 'pragma_' || name, '' FROM pragma_pragma_list
    UNION ALL SELECT 'function', name, '' FROM pragma_function_list
        WHERE NOT builtin AND NOT flags & 0x800 -- SQLITE_DETERMINISTIC
"""


class Schema(NamedTuple):
    """The parts of a schema that decide what a query depends on. All names are `folded`."""

    version: tuple[object, ...]
    tables: frozenset[str]
    """The ordinary tables."""
    virtual: frozenset[str]
    """The virtual tables."""
    views: dict[str, str]
    """The SQL of each view, by name."""
    modules: frozenset[str]
    """The modules of virtual tables. Some can be read, by the module's name, without CREATE VIRTUAL
    TABLE."""
    uncertain: frozenset[str]
    """Functions of the application that may return different values each time."""


def look_at_schema(session: EngineSession, known: Schema | None) -> Schema:
    """Return the present schema; it is `known` itself if the schema has not changed."""
    version = tuple(session.control(pragma)[0][0] for pragma in _VERSIONS)
    if known is not None and known.version == version:
        return known
    found: dict[str, dict[str, str]] = {}
    for kind, name, sql in session.control(_SCHEMA):
        if kind == "table" and sql is not None and sql[:14].upper() == "CREATE VIRTUAL":
            kind = "virtual"
        found.setdefault(kind, {})[folded(name)] = sql or ""
    return Schema(
        version,
        frozenset(found.get("table", ())),
        frozenset(found.get("virtual", ())),
        found.get("view", {}),
        frozenset(found.get("module", ())),
        frozenset(found.get("function", ())),
    )


def depends_on(
    statement: Statement[Any], used: TablesUsed | None, schema: Schema
) -> frozenset[str] | None:
    """Return the tables, `folded`, whose commits may change the rows of a statement; None if every
    commit may change them.

    Raises `QueryError` if the rows may change without a commit.
    """
    query = statement.query
    verb = query.text[:7].upper()
    whole = verb.startswith("PRAGMA")
    if verb == "EXPLAIN":
        _refuse(query, "a plan is one connection's; use fetch_all")
    if used is None:
        return None
    for function in used.functions:
        _look_at_function(query, function, schema)
    if not _TIME.keys().isdisjoint(used.functions) and _tells_time(statement, schema):
        _refuse(query, _PASSES)

    seen: set[str] = set()
    if whole:
        for pragma in used.pragmas:
            _look_at_pragma(query, pragma)
    for name in used.reads:
        if name in schema.tables:
            if name.startswith("sqlite_") or _is_kept_by(name, schema.virtual):
                whole = True
            seen.add(name)
        elif name in schema.virtual:
            whole = True
        elif name in schema.modules:
            whole |= _look_at_module(query, name)
        else:
            # A view, a common table expression, or the schema itself: no commit writes rows there.
            seen.add(name)
    return None if whole else frozenset(seen)


def _is_kept_by(table: str, virtual: frozenset[str]) -> bool:
    """Whether one of the virtual tables may keep its data in a table of this name
    (https://www.sqlite.org/vtab.html#xshadowname)."""
    parts = table.split("_")
    return any("_".join(parts[:end]) in virtual for end in range(1, len(parts)))


# -- refusals --------------------------------------------------------------------------------------

_PASSES = (
    "its rows change as time goes by, without a commit; bind the time as a parameter, and begin"
    " another watch when it is due"
)


def _refuse(query: Query[Any], reason: str) -> NoReturn:
    raise QueryError(
        f"query {query.name!r} can't be watched: {reason}", query=query.name, sql=query.sql
    )


def _look_at_function(query: Query[Any], function: str, schema: Schema) -> None:
    if function in _CHANCE:
        _refuse(query, f"{function}() gives other rows each time; bind its value as a parameter")
    if function in _CLOCKS:
        _refuse(query, _PASSES)
    if function in _OF_CONNECTION:
        _refuse(
            query,
            f"{function}() describes a connection; use the Result of the write, or RETURNING there",
        )
    if function in schema.uncertain - _OF_MODULES:
        _refuse(
            query,
            f"{function}() is not known to be deterministic; say so where it is created, or call it"
            " in Python",
        )


def _look_at_pragma(query: Query[Any], pragma: str) -> None:
    if pragma not in _FILE_PRAGMAS:
        _refuse(query, f"PRAGMA {pragma} describes a connection, not the database; use fetch_one")


def _look_at_module(query: Query[Any], name: str) -> bool:
    """Return whether the rows of a virtual table that needs no CREATE depend on the file. Raises
    `QueryError` if it can't be watched."""
    if name.startswith("pragma_"):
        _look_at_pragma(query, name.removeprefix("pragma_"))
    elif name not in _FILE_MODULES | _PURE_MODULES:
        _refuse(query, f"SQLite does not report when the rows of {name} change; use fetch_all")
    return name not in _PURE_MODULES


# -- the time --------------------------------------------------------------------------------------


def _tells_time(statement: Statement[Any], schema: Schema) -> bool:
    """Whether a statement, or a view that it may use, uses the present time.

    SQLite does not report the arguments of a function call, so this searches the SQL texts. (It
    can't find a column or an expression whose value happens to be 'now'.)
    """
    query, values = statement.query, statement.values
    named = values if isinstance(values, dict) else dict(zip(query.parameters, values, strict=True))
    now = {f":{name}" for name, value in named.items() if str(value).lower() in _NOW}
    texts, seen = [query.sql], set[str]()
    while texts:
        words = [*_words(texts.pop())]
        if any(_asks_for_now(words, at, now) for at in range(len(words))):
            return True
        used = {_unquoted(word) for word in words} & schema.views.keys() - seen
        seen |= used
        texts += (schema.views[view] for view in used)
    return False


def _words(sql: str) -> Iterator[str]:
    for kind, text in tokens(sql):
        if kind == "variable":
            yield text
        elif kind != "space":
            yield folded(text)


def _unquoted(word: str) -> str:
    return word[1:-1] if word[:1] in ("'", '"', "`", "[") else word


def _asks_for_now(words: list[str], at: int, now: set[str]) -> bool:
    """Whether the words from place `at` on are a function call that returns the present time."""
    function = _unquoted(words[at])
    if function not in _TIME or words[at + 1 : at + 2] != ["("]:
        return False
    depth, count, before = 0, 0, ""
    for word in words[at + 1 :]:
        if word in ("(", ")"):
            depth += 1 if word == "(" else -1
            if not depth:
                break
        elif word in now or (word[0] in "'\"" and _unquoted(word) in _NOW):
            return True
        count += depth == 1 and word == ","
        before = word
    return count + (before != "(") <= _TIME[function]
