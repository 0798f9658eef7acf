"""Running the statements of a script: in one transaction, or unit by unit.

A script runs in one transaction, which is its only unit. One that is marked `-- no-transaction` has
a unit for each statement, or for those between a BEGIN and a COMMIT of its own, and each commits
together with its number in the history: killed anywhere, the next try goes on behind it. Only what
SQLite can't do in a transaction runs outside, and may therefore run twice: VACUUM and settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from abt_db.connection.transaction import EngineSession
from abt_db.errors import AbtDbError, BeginBusyError, BusyError, MigrationFailedError

from .script import ScriptStatement, first_keyword, pragma_name, split, words

_TRANSACTION = frozenset(("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"))
_OUTSIDE = frozenset(
    ("auto_vacuum", "foreign_keys", "incremental_vacuum", "optimize", "page_size", "wal_checkpoint")
)


@dataclass(frozen=True, slots=True)
class Unit:
    """Statements that are committed together, and how many of the script are done behind them."""

    statements: tuple[ScriptStatement, ...]
    end: int
    outside: bool = False
    """It runs outside transactions."""
    setting: bool = False
    """It changes the connection and not the file, so each try needs it again."""


def units(script: str, origin: str, *, transactional: bool) -> list[Unit]:
    """Return the units of a script, one at least.

    Raises `MigrationFailedError`, naming file and line, for what a migration may not do.
    """
    statements = split(script)
    if transactional:
        for statement in statements:
            if problem := refusal(statement.text, transactional=True):
                raise _refused(origin, statement, problem)
        return [Unit(tuple(statements), len(statements))]
    found: list[Unit] = []
    open_from: ScriptStatement | None = None
    group: list[ScriptStatement] = []
    for number, statement in enumerate(statements, 1):
        keyword = first_keyword(statement.text)
        if problem := refusal(statement.text, transactional=False, inside=open_from is not None):
            raise _refused(origin, statement, problem)
        if keyword == "BEGIN":
            open_from, group = statement, []
        elif keyword in ("COMMIT", "END"):
            found.append(Unit(tuple(group), number))
            open_from = None
        elif open_from is not None:
            group.append(statement)
        else:
            found.append(_unit(statement, number))
    if open_from is not None:
        raise _refused(origin, open_from, "this BEGIN has no COMMIT, and the script ends")
    return found or [Unit((), 0)]


def _unit(statement: ScriptStatement, number: int) -> Unit:
    pragma = pragma_name(statement.text)
    outside = first_keyword(statement.text) == "VACUUM" or pragma in _OUTSIDE
    return Unit(
        (statement,), number, outside=outside, setting=pragma in ("auto_vacuum", "foreign_keys")
    )


def _refused(origin: str, statement: ScriptStatement, problem: str) -> MigrationFailedError:
    return MigrationFailedError(f"{origin}, line {statement.line}: {problem}")


def refusal(sql: str, *, transactional: bool, inside: bool = False) -> str | None:
    """Say why a migration may not run this statement, and what to do instead; None if it may.

    `inside` is whether it stands between a BEGIN and a COMMIT of its script.
    """
    keyword = first_keyword(sql)
    if keyword in ("ATTACH", "DETACH"):
        return f"{keyword} is refused: a migration changes one file"
    if keyword == "VACUUM":
        if "into" in words(sql):
            return "VACUUM INTO is refused: a migration changes one file"
        if transactional or inside:
            return (
                "VACUUM is refused: it can't run in a transaction; put it into a step of its own"
                " whose file begins with `-- no-transaction`"
            )
    if transactional:
        if keyword in _TRANSACTION:
            return (
                f"{keyword} is refused, for the step runs in a transaction of its own: leave it"
                " out, or begin the file with `-- no-transaction`"
            )
        if pragma_name(sql) == "foreign_keys" and re.search(r"[=(]", sql):
            return (
                "PRAGMA foreign_keys is refused, for it does nothing in a transaction: leave it"
                " out, foreign keys are off while a migration runs and are checked at its end"
            )
        return None
    if keyword in ("ROLLBACK", "SAVEPOINT", "RELEASE"):
        return f"{keyword} is refused: a step that fails is rolled back by itself, leave it out"
    if keyword == "BEGIN" and inside:
        return "BEGIN is refused inside of a transaction: the COMMIT before it is missing"
    if keyword in ("COMMIT", "END") and not inside:
        return f"{keyword} is refused: there is no BEGIN before it"
    return None


def run(
    session: EngineSession, unit: Unit, origin: str, tell: Callable[[ScriptStatement], None]
) -> None:
    """Run the statements of a unit; `tell` is called before each.

    Raises `MigrationFailedError` with file and line; `BeginBusyError` if it runs outside of
    transactions and another process is in the way.
    """
    for statement in unit.statements:
        tell(statement)
        where = f"{origin}, line {statement.line}"
        # One between BEGIN and COMMIT does nothing, as it does in any SQLite shell.
        privileged = unit.outside or pragma_name(statement.text) == "foreign_keys"
        try:
            session.run_sql(statement.text, doing=where, privileged=privileged)
        except AbtDbError as error:
            if isinstance(error, BusyError) and unit.outside:
                # Nothing of it has been done, so it is waited for as if it were a BEGIN.
                raise BeginBusyError(
                    str(error), code=error.sqlite_errorcode, name=error.sqlite_errorname
                ) from error
            raise MigrationFailedError(str(error)) from error
