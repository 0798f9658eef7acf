"""What a step must not do unseen: violate foreign keys, or lose rows that it does not name (M7).

Foreign keys are counted per table before and after a step, and so are the rows. A table that has
fewer than before must be named in a DELETE or DROP of the migration's own text: otherwise a
cascade, a trigger or a REPLACE has taken them, and nothing in SQLite would tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from abt_db.connection.session import Session
from abt_db.errors import MigrationFailedError, MigrationLossError, StatementError
from abt_db.sql.query import Query
from abt_db.sql.scan import quoted

from . import schema
from .script import folded, split, words


@dataclass(frozen=True, slots=True)
class Known:
    """What a first run of a script has shown has to be looked at before the next one."""

    violations: bool = False
    """There are violated foreign keys behind it: were they there before?"""
    columns: frozenset[tuple[str, str]] = frozenset()
    """These columns are gone: did they hold anything?"""


class AgainError(Exception):
    """A script has to be undone and run again, when more is known of what was there before.

    To look at everything each time would cost as much as many a step does.
    """

    def __init__(self, known: Known) -> None:
        self.known = known


_TABLES = Query("migrations.tables", "SELECT name FROM sqlite_schema WHERE type = 'table'", str)
_VIOLATIONS = Query(
    "migrations.violations", "SELECT count(*) FROM pragma_foreign_key_check(:name)", int
)
_COLUMNS = Query("migrations.column_names", "SELECT name, dflt_value FROM pragma_table_info(:name)")
_DELETE = ["delete", "from"]
_FOREIGN_KEYS = Query("migrations.foreign_keys_on", "PRAGMA foreign_keys", int)


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows of a table that are gone; of a `column`, values that were not its default."""

    table: str
    column: str | None
    rows: int

    def __str__(self) -> str:
        if self.column is not None:
            return f"{self.rows:,} values of {self.table}.{self.column}"
        return f"{self.rows:,} row{'s' * (self.rows != 1)} of {self.table}"


@dataclass(frozen=True, slots=True)
class Census:
    """What is in each table at one moment; names are in lower case."""

    rows: Mapping[str, int]
    columns: Mapping[str, Mapping[str, str | None]]
    """The columns of each table with their defaults."""
    violations: Mapping[str, int | str] | None = None
    """How many foreign keys of each table are violated, or why that can't be checked; None: not
    known."""


def take_census(session: Session, *, violations: bool = True) -> Census:
    """Count rows, for which the smallest index of each table is read, and violations, for which
    each foreign key is sought in its parent."""
    tables = [folded(name) for name in schema.tables(session)]
    columns = {
        name: {
            folded(column): default for column, default in session.fetch_all(_COLUMNS(name=name))
        }
        for name in tables
    }
    rows = {name: count_rows(session, name) for name in tables}
    return Census(rows, columns, _violations(session) if violations else None)


def _violations(session: Session) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for name in session.fetch_all(_TABLES()):
        try:
            if count := session.fetch_one(_VIOLATIONS(name=name)):
                found[name] = count
        except StatementError:
            # For instance because one refers to columns that are no key.
            found[name] = f"a foreign key of {name} can't be checked, it refers to no key"
    return found


def count_rows(session: Session, table: str) -> int:
    """Return how many rows a table has."""
    return session.fetch_one(_counting(table)()) or 0


@lru_cache(maxsize=256)
def _counting(table: str) -> Query[int]:
    return Query(f"migrations.rows of {table}", f"SELECT count(*) FROM {quoted(table)}", int)


# -- what a script says itself -------------------------------------------------------------------


class Names:
    """Which tables a script names, each by the name that it had before the script."""

    def __init__(self) -> None:
        self.deleted: set[str] = set()
        self.dropped: set[str] = set()
        self._tables: dict[str, str] = {}  # first names by those of the moment; "": a new table
        self._gone: dict[str, str] = {}  # first names of dropped tables, by those they had then
        self._columns: dict[tuple[str, str], str] = {}

    def see(self, statement: str) -> None:
        """Read what a statement deletes from, drops, makes and renames. The bodies of triggers are
        what others will do one day, so they are left out."""
        text = words(statement)
        match text:
            case ["create", *rest]:
                # IF NOT EXISTS leaves it open which table it is: nothing is known then.
                if "table" in rest[:2] and rest[rest.index("table") + 1] != "if":
                    name = _name(rest, rest.index("table") + 1)
                    self._tables[name] = self._gone.get(name, "")
            case ["drop", "table", *rest]:
                name = _dropped_name(rest)
                self.dropped.add(self.first(name))
                self._gone[name] = self.first(name)
            case ["alter", "table", *rest]:
                name, verb, tail = _altered(rest)
                if verb == "rename":
                    self._rename(name, tail)
            case _:
                self.deleted.update(map(self.first, _deletes(text)))

    def _rename(self, name: str, tail: list[str]) -> None:
        first = self.first(name)
        if tail[0] == "to":
            # A new table under the name of one that was dropped is that one, built again.
            self._tables[tail[1]] = first or self._gone.get(tail[1], "")
            self._tables[name] = ""  # who is called so from now on is new
        else:
            to = tail.index("to", 1)  # RENAME old TO new, RENAME COLUMN old TO new
            old, new = tail[to - 1], tail[to + 1]
            self._columns[first, new] = self._columns.pop((first, old), old)

    def first(self, name: str) -> str:
        """Return what the table of this name was called before the script; "" for a new one."""
        return self._tables.get(name, name)

    def now(self, first: str) -> str:
        """Return what a table is called by now."""
        return next((name for name, its in self._tables.items() if its == first), first)

    def column_now(self, table: str, first: str) -> str:
        """Return what a column is called by now; `table` is the first name of its table."""
        found = (new for (its, new), old in self._columns.items() if (its, old) == (table, first))
        return next(found, first)


def read_names(script: str) -> Names:
    """Return the names of a whole script."""
    names = Names()
    for statement in split(script):
        names.see(statement.text)
    return names


def dropped(script: str) -> tuple[str, ...]:
    """Return the tables that a script drops, also those that it builds again."""
    return tuple(sorted(read_names(script).dropped - {""}))


def _name(text: list[str], place: int) -> str:
    """Return the name at `place`, without the schema in front of it; "" for a temporary table."""
    if text[place + 1 : place + 2] == ["."]:
        if text[place] in ("temp", "temporary"):
            return ""
        place += 2
    return "".join(text[place : place + 1])


def _deletes(text: list[str]) -> list[str]:
    """Return the names behind DELETE FROM, which may stand behind a WITH."""
    return [_name(text, n + 1) for n in range(1, len(text)) if text[n - 1 : n + 1] == _DELETE]


def _altered(rest: list[str]) -> tuple[str, str, list[str]]:
    """Return the table, the verb and the rest of what stands behind ALTER TABLE."""
    verb = 3 if rest[1:2] == ["."] else 1
    return _name(rest, 0), rest[verb], rest[verb + 1 :]


def _dropped_name(rest: list[str]) -> str:
    """Return the name behind DROP TABLE."""
    return _name(rest, 2 if rest[:2] == ["if", "exists"] else 0)


# -- judging -------------------------------------------------------------------------------------


def require_sound(
    session: Session, origin: str, before: Census, after: Census, names: Names, known: Known
) -> None:
    """Raise `MigrationFailedError` for new violations of foreign keys, and `MigrationLossError`
    for rows that are gone from tables which the script does not name (M7). Violations that may have
    been there before raise `AgainError`."""
    named = names.deleted | names.dropped
    lost = [
        Loss(table, None, rows - left)
        for table, rows in before.rows.items()
        if (left := after.rows.get(names.now(table), 0)) < rows and table not in named
    ]
    if lost:
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
            f"{origin}: it would lose {' and '.join(map(str, lost))} without a DELETE or DROP of"
            f" {'its' if len(lost) == 1 else 'their'} own; {why}. If they are to go, write"
            f" DELETE FROM {lost[0].table}"
        )
    if not after.violations:
        return
    if before.violations is None:
        raise AgainError(replace(known, violations=True))
    if broken := _broken(before, after):
        raise MigrationFailedError(
            f"{origin}: it breaks foreign keys: {'; '.join(broken)}; statements that mend it"
            " belong into the same transaction, between BEGIN and COMMIT in a `-- no-transaction`"
            " file"
        )


class Watch:
    """Looks on as a script runs. On the way down, what a DROP takes along is data that is lost.

    Rows that a DELETE of the script names are meant to go. A table that is built again has lost
    what it has less. Which columns will be gone is known at the end only, so that the script has to
    run a second time to see what they hold when they are dropped.
    """

    def __init__(self, before: Census, known: Known, *, counts: bool) -> None:
        self._before = before
        self._known = known
        self._counts = counts  # otherwise only the names are read
        self._unseen = set(known.columns)
        self._rows: dict[str, int] = {}  # of tables when they were dropped
        self._lost: list[Loss] = []
        self.names = Names()

    def see(self, session: Session, statement: str) -> None:
        """Look at what a statement is going to drop, before it runs."""
        if self._counts:
            self._count(session, words(statement))
        self.names.see(statement)

    def _count(self, session: Session, text: list[str]) -> None:
        match text:
            case ["drop", "table", *rest]:
                table = _dropped_name(rest)
                first = self.names.first(table)
                if first in self._before.rows:
                    self._rows[first] = count_rows(session, table)
                    for column in [each for each in self._unseen if each[0] == first]:
                        self._look(session, table, column)
            case ["alter", "table", *rest]:
                table, verb, tail = _altered(rest)
                first = self.names.first(table)
                for column in [each for each in self._unseen if each[0] == first]:
                    if verb == "drop" and self.names.column_now(*column) in tail:
                        self._look(session, table, column)
            case _:
                for table in _deletes(text):
                    first = self.names.first(table)
                    if first in self._rows:  # built again: what it lacks now was not deleted
                        self._settle(first, count_rows(session, table))

    def _settle(self, first: str, left: int) -> None:
        rows = self._rows.pop(first)
        if left < rows:
            self._lost.append(Loss(first, None, rows - left))

    def _look(self, session: Session, table: str, column: tuple[str, str]) -> None:
        self._unseen.discard(column)
        default = self._before.columns[column[0]][column[1]] or "NULL"
        name = self.names.column_now(*column)
        held = Query(
            f"migrations.values of {table}.{name}",
            f"SELECT count(*) FROM {quoted(table)} WHERE {quoted(name)} IS NOT ({default})",
            int,
        )
        if rows := session.fetch_one(held()):
            self._lost.append(Loss(*column, rows))

    def require_no_loss(self, origin: str, after: Census) -> None:
        """Raise `MigrationLossError` if anything is lost, `AgainError` to look closer."""
        if not self._counts:
            return
        for first in list(self._rows):
            self._settle(first, after.rows.get(self.names.now(first), 0))
        if self._lost:
            raise MigrationLossError(
                f"{origin}: taking it back would lose {', '.join(map(str, self._lost))}; nothing"
                " was changed, allow_data_loss (--allow-data-loss) permits it"
            )
        gone = frozenset(
            (table, column)
            for table, columns in self._before.columns.items()
            if (there := after.columns.get(self.names.now(table))) is not None
            for column in columns
            if self.names.column_now(table, column) not in there
        )
        if gone - self._known.columns:
            raise AgainError(replace(self._known, columns=gone))


def _broken(before: Census, after: Census) -> list[str]:
    """Say in which tables a step has violated foreign keys that were not violated before.

    They are counted, for a table that was built again has its rows elsewhere; and what was
    violated in tables that are gone may be so in new ones, which may be the same under other names.
    """
    then, now = before.violations or {}, after.violations or {}
    broken = []
    gone = sum(
        count
        for name, count in then.items()
        if folded(name) not in after.rows and isinstance(count, int)
    )
    for name, count in now.items():
        earlier = then.get(name, 0)
        if isinstance(earlier, str):
            continue
        if isinstance(count, str):
            broken.append(count)
        elif folded(name) in before.rows and count > earlier:
            broken.append(f"{count - earlier} of {name}")
        elif folded(name) not in before.rows:
            gone -= count
            if gone < 0:
                broken.append(f"{count} of {name}")
    return broken
