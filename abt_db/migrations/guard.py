"""What a step must not do unseen: violate foreign keys, or lose rows that it does not name (M7).

Foreign keys are counted per table before and after a step, and so are the rows. A table that has
fewer than before must be named in a DELETE or DROP of the migration's own text: otherwise a
cascade, a trigger or a REPLACE has taken them, and nothing in SQLite would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from abt_db.errors import MigrationFailedError, StatementError
from abt_db.query import Query
from abt_db.session import Session

from . import schema
from .schema import quoted
from .script import words

__all__ = [
    "Census",
    "ColumnsGoneError",
    "Loss",
    "MigrationLossError",
    "Touched",
    "broken_keys",
    "losses",
    "require_empty",
    "require_no_loss",
    "require_sound",
    "take_census",
    "touched",
]


class MigrationLossError(MigrationFailedError):
    """Rows or values would be lost, so the step was stopped before its commit."""


class ColumnsGoneError(Exception):
    """A script takes columns away, and whether they hold anything has to be looked at first."""

    def __init__(self, columns: frozenset[tuple[str, str]]) -> None:
        self.columns = columns


_TABLES = Query("migrations.tables", "SELECT name FROM sqlite_schema WHERE type = 'table'", str)
_VIOLATIONS = Query(
    "migrations.violations", "SELECT count(*) FROM pragma_foreign_key_check(:name)", int
)
_COLUMNS = Query("migrations.column_names", "SELECT name, dflt_value FROM pragma_table_info(:name)")
_FOREIGN_KEYS = Query("migrations.foreign_keys_on", "PRAGMA foreign_keys", int)


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows of a table that are gone; of a `column`, values that were not its default."""

    table: str
    rows: int
    column: str | None = None

    def __str__(self) -> str:
        if self.column is not None:
            return f"{self.rows:,} values of {self.table}.{self.column}"
        return f"{self.rows:,} row{'s' * (self.rows != 1)} of {self.table}"


@dataclass(frozen=True, slots=True)
class Census:
    """What is in each table at one moment."""

    rows: Mapping[str, int]
    columns: Mapping[str, Mapping[str, str | None]]
    """The columns of each table with their defaults."""
    violations: Mapping[str, int | str]
    """How many foreign keys of each table are violated; or why that can't be checked."""


def take_census(session: Session) -> Census:
    """Count rows and violations: reads the smallest index of each table, and its foreign keys."""
    rows = {}
    columns = {}
    for name in schema.tables(session):
        count = Query(f"migrations.count of {name}", f"SELECT count(*) FROM {quoted(name)}", int)
        rows[name] = session.fetch_one(count()) or 0
        columns[name] = dict(session.fetch_all(_COLUMNS(name=name)))
    violations: dict[str, int | str] = {}
    for name in session.fetch_all(_TABLES()):
        try:
            violations[name] = session.fetch_one(_VIOLATIONS(name=name)) or 0
        except StatementError:
            # For instance because one refers to columns that are no key.
            violations[name] = f"a foreign key of {name} can't be checked, it refers to no key"
    return Census(rows, columns, violations)


# -- what a script says itself -------------------------------------------------------------------


@dataclass(slots=True)
class Touched:
    """Which tables a script names, each by the name that it had before."""

    deleted: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    now: dict[str, str] = field(default_factory=dict)
    """What a table is called behind the script, by what it was called before."""
    columns: dict[tuple[str, str], str] = field(default_factory=dict)
    """What a column is called behind the script, by the table's first name and its own."""


def touched(statements: Iterable[str]) -> Touched:
    """Read which tables the statements delete from, drop and rename. Bodies of triggers are what
    others will do one day, so they are left out."""
    found = Touched()
    before: dict[str, str] = {}  # by the name at this point of the script

    def first(name: str) -> str:
        return before.get(name, name)

    for statement in statements:
        text = words(statement)
        if text[:1] == ["create"]:
            continue
        for place, word in enumerate(text):
            if word == "delete" and text[place + 1 : place + 2] == ["from"]:
                found.deleted.add(first(_name(text, place + 2)))
            elif text[place : place + 2] == ["drop", "table"]:
                skip = 4 if text[place + 2 : place + 4] == ["if", "exists"] else 2
                name = _name(text, place + skip)
                found.dropped.add(first(name))
        if text[:2] == ["alter", "table"] and "rename" in text:
            name = _name(text, 2)
            rest = text[text.index("rename") + 1 :]
            if rest[:1] == ["to"]:
                before[rest[1]] = first(name)
                before[name] = ""  # who has that name from now on is new
            elif "to" in rest:
                old, new = rest[rest.index("to") - 1], rest[rest.index("to") + 1]
                found.columns[first(name), old] = new
    found.now = {then: now for now, then in before.items() if then}
    return found


def _name(text: list[str], place: int) -> str:
    """Return the name at `place`, without the schema in front of it."""
    if text[place + 1 : place + 2] == ["."]:
        place += 2
    return "".join(text[place : place + 1])


# -- judging -------------------------------------------------------------------------------------


def losses(before: Census, after: Census, names: Touched, *, but: set[str]) -> list[Loss]:
    """Return which tables have fewer rows than before, those in `but` left out."""
    left = {name.lower(): rows for name, rows in after.rows.items()}
    found = []
    for name, rows in before.rows.items():
        key = name.lower()
        now = left.get(names.now.get(key, key), 0)
        if now < rows and key not in but:
            found.append(Loss(name, rows - now))
    return found


def require_sound(
    session: Session, origin: str, before: Census, after: Census, names: Touched
) -> None:
    """Raise `MigrationFailedError` for new violations of foreign keys, and `MigrationLossError`
    for rows that are gone from tables which the script does not name (M7)."""
    if lost := losses(before, after, names, but=names.deleted | names.dropped):
        told = " and ".join(map(str, lost))
        if session.fetch_one(_FOREIGN_KEYS()):
            why = (
                "foreign keys are on in this script, and a DROP TABLE or DELETE then takes the rows"
                " that refer to it along; PRAGMA foreign_keys = OFF does nothing between BEGIN and"
                " COMMIT, so take every PRAGMA foreign_keys out: they are off while a migration"
                " runs"
            )
        else:
            why = "a trigger or a REPLACE takes them, probably"
        raise MigrationLossError(
            f"{origin}: it would lose {told} without a DELETE or DROP of"
            f" {'its' if len(lost) == 1 else 'their'} own; {why}. If they are to go, write"
            f" DELETE FROM {lost[0].table}"
        )
    if broken := broken_keys(before.violations, after.violations):
        raise MigrationFailedError(
            f"{origin}: it breaks foreign keys: {'; '.join(broken)}; statements that mend it"
            " belong into the same transaction, between BEGIN and COMMIT in a `-- no-transaction`"
            " file"
        )


def require_no_loss(
    origin: str,
    before: Census,
    after: Census,
    names: Touched,
    checked: frozenset[tuple[str, str]],
) -> None:
    """Raise `MigrationLossError` when a down script takes data along that no DELETE of it names.

    What a column held can't be seen when it is gone: the first time `ColumnsGoneError` is raised,
    and the script has to be run again after `require_empty`, with those columns in `checked`.
    """
    if lost := losses(before, after, names, but=names.deleted):
        raise _refused(origin, lost)
    left = {name.lower(): {c.lower() for c in columns} for name, columns in after.columns.items()}
    gone = frozenset(
        (table, column)
        for table, columns in before.columns.items()
        if (now := left.get(names.now.get(table.lower(), table.lower()))) is not None
        for column in columns
        if names.columns.get((table.lower(), column.lower()), column.lower()) not in now
    )
    if gone - checked:
        raise ColumnsGoneError(gone)


def require_empty(
    session: Session, origin: str, before: Census, columns: frozenset[tuple[str, str]]
) -> None:
    """Raise `MigrationLossError` if one of the columns holds anything but its default."""
    lost = []
    for table, column in sorted(columns):
        default = before.columns[table][column] or "NULL"
        held = Query(
            f"migrations.values of {table}.{column}",
            f"SELECT count(*) FROM {quoted(table)} WHERE {quoted(column)} IS NOT ({default})",
            int,
        )
        if rows := session.fetch_one(held()):
            lost.append(Loss(table, rows, column))
    if lost:
        raise _refused(origin, lost)


def _refused(origin: str, lost: list[Loss]) -> MigrationLossError:
    return MigrationLossError(
        f"{origin}: taking it back would lose {', '.join(map(str, lost))}; nothing was changed."
        " allow_data_loss (--allow-data-loss) permits it"
    )


def broken_keys(before: Mapping[str, int | str], after: Mapping[str, int | str]) -> list[str]:
    """Say in which tables a step has violated foreign keys that were not violated before.

    They are counted, for a table that was built again has its rows elsewhere; and what was
    violated in tables that are gone may be so in new ones, which may be the same under other names.
    """
    broken = []
    gone = sum(
        count for name, count in before.items() if name not in after and isinstance(count, int)
    )
    for name, now in after.items():
        then = before.get(name, 0)
        if isinstance(then, str) or now == 0:
            continue
        if isinstance(now, str):
            broken.append(now)
        elif name in before and now > then:
            broken.append(f"{now - then} of {name}")
        elif name not in before:
            gone -= now
            if gone < 0:
                broken.append(f"{now} of {name}")
    return broken
