"""A migration: one step of a schema, and the order in which several are applied."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from abt_db.errors import MigrationFileError, MigrationOrderError, ScriptError

from .script import split

_LARGEST_VERSION = 2**63 - 1  # an SQLite integer


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema: the SQL that makes it and the SQL that takes it back.

    `up` and `down` are scripts of any number of statements; `down=None` means that the step can't
    be taken back, and an empty one that there is nothing to do. Line ends become LF and a byte
    order mark is dropped: the same migration, checked out on Windows, leaves the same schema.
    `dependencies` are the versions that must be applied before this one, `timeout` is in seconds,
    for the whole step, and `transactional=False` is for what SQLite does outside transactions only
    (VACUUM). `origin` is where the migration comes from, for messages; it makes no difference.

    Raises `MigrationFileError` for a value that can't be one, and for a script that can't be split
    into statements.
    """

    version: int
    description: str
    up: str
    down: str | None
    dependencies: tuple[int, ...] = ()
    timeout: float = 300.0
    transactional: bool = True
    origin: str = field(default="", kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if not self.origin:
            object.__setattr__(self, "origin", f"migration {self.version!r}")
        if problem := self._problem():
            raise MigrationFileError(f"{self.origin}: {problem}")
        object.__setattr__(self, "dependencies", tuple(self.dependencies))
        object.__setattr__(self, "up", self._script("up", self.up))
        if self.down is not None:
            object.__setattr__(self, "down", self._script("down", self.down))

    @property
    def checksum(self) -> str:
        """SHA-256 of `up`, as hexadecimal digits: what the history holds against the file.

        `down` is left out: it has not been run, a mistake in it may be mended at any time, and the
        history keeps the one that belonged to what was applied.
        """
        return hashlib.sha256(self.up.encode()).hexdigest()

    def _problem(self) -> str | None:
        """Say what is wrong with one of the values, or None."""
        if not _is_version(self.version):
            return f"the version must be a whole number from 1 to {_LARGEST_VERSION}"
        text = self.description
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            return "the description must be a line of text"
        if not isinstance(self.up, str) or not isinstance(self.down, str | None):
            return "up must be SQL, and down SQL or None"
        several = isinstance(self.dependencies, tuple | list)
        if not several or not all(map(_is_version, self.dependencies)):
            return "dependencies must be versions, such as (1, 2)"
        if self.version in self.dependencies:
            return "it depends on itself"
        number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        if not number or not math.isfinite(self.timeout) or self.timeout <= 0:
            return "the timeout must be a number of seconds above 0"
        if not isinstance(self.transactional, bool):
            return "transactional must be True or False"
        return None

    def _script(self, which: str, sql: str) -> str:
        # A lone CR stays: to SQLite it ends no comment, so it is not the end of a line.
        sql = sql.removeprefix("\ufeff").replace("\r\n", "\n")
        try:
            split(sql)
        except ScriptError as error:
            # A pair of files goes by the name of the first; the error may be in the second.
            origin = self.origin.replace(".up.sql", f".{which}.sql")
            raise MigrationFileError(f"{origin} ({which}), {error}") from error
        return sql


def in_order(migrations: Iterable[Migration]) -> tuple[Migration, ...]:
    """Return the migrations in the order of their versions, each behind its dependencies.

    Raises `MigrationOrderError` for a version that is there twice, a dependency that is not there
    and dependencies that form a cycle, naming the migrations.
    """
    by_version: dict[int, Migration] = {}
    for migration in migrations:
        if twin := by_version.get(migration.version):
            raise MigrationOrderError(
                f"version {migration.version} is there twice: {twin.origin} and {migration.origin}"
            )
        by_version[migration.version] = migration
    for migration in by_version.values():
        for dependency in migration.dependencies:
            if dependency not in by_version:
                raise MigrationOrderError(
                    f"{migration.origin}: it depends on version {dependency}, which is not there"
                )
    sorter = TopologicalSorter({m.version: m.dependencies for m in by_version.values()})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " before ".join(by_version[version].origin for version in error.args[1])
        raise MigrationOrderError(f"the dependencies form a cycle: {cycle}") from error
    ordered: list[Migration] = []
    ready: list[int] = []
    while sorter.is_active():
        for version in sorter.get_ready():
            heapq.heappush(ready, version)
        version = heapq.heappop(ready)
        ordered.append(by_version[version])
        sorter.done(version)
    return tuple(ordered)


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_VERSION
