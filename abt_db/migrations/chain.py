"""A program's migrations in their order, held against the history of a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from abt_db.errors import MigrationChangedError, MigrationOrderError, MigrationUnknownError

from .history import Record
from .model import Migration, in_order


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database stands."""

    applied: tuple[Record, ...]
    """What is in it, in the order in which it was applied."""
    failed: tuple[Record, ...]
    """The last tries that failed; nothing of them is in the database, but for the first
    `statements_done` of a `-- no-transaction` step."""
    pending: tuple[Migration, ...]
    """What is still to be applied, in order."""


class Chain:
    """Migrations in the order of application. `trusted` are versions whose text is not compared."""

    def __init__(
        self, migrations: Iterable[Migration], *, trusted: frozenset[int] = frozenset()
    ) -> None:
        self.migrations = in_order(migrations)
        self._trusted = trusted
        self._by_version = {migration.version: migration for migration in self.migrations}
        # Where each stands in the order of application, which dependencies may make another one
        # than that of the numbers. 0 is the empty database.
        self._place = {version: place for place, version in enumerate((0, *self._by_version))}

    def place(self, version: int) -> int:
        """Return where a version stands in the order, from 1; 0 is the empty database."""
        try:
            return self._place[version]
        except KeyError:
            raise MigrationUnknownError(f"there is no migration {version} to go to") from None

    def until(self, target: int | None) -> tuple[Migration, ...]:
        """Return the migrations up to and with `target`; all of them if None."""
        return self.migrations[: None if target is None else self.place(target)]

    def before(self, migration: Migration) -> int:
        """Return the version that comes before one, 0 for the first."""
        return (0, *self._by_version)[self._place[migration.version] - 1]

    def latest(self, applied: Iterable[Record]) -> int | None:
        """Return the version that comes last in the order, None without any."""
        versions = (record.version for record in applied)
        return max(versions, key=self._place.__getitem__, default=None)

    def applied_after(self, status: Status, target: int) -> list[Migration]:
        """Return what is applied and comes after `target`, the last first."""
        first = self.place(target)
        places = [self._place[record.version] for record in status.applied]
        return [self.migrations[n - 1] for n in sorted(places, reverse=True) if n > first]

    def compare(self, records: Iterable[Record]) -> Status:
        """Hold the history against the migrations (M4).

        Raises `MigrationUnknownError` when the database has a migration that is not in the chain,
        `MigrationChangedError` when one was edited since it was applied, `MigrationOrderError` when
        one is pending that should have come before an applied one.
        """
        records = list(records)
        applied = tuple(record for record in records if record.success)
        for record in applied:
            migration = self._by_version.get(record.version)
            if migration is None:
                raise MigrationUnknownError(
                    f"the database has migration {record.version} ({record.description}), which"
                    " this program does not have; it was made by a newer version of it, probably"
                )
            trusted = record.checksum is None or record.version in self._trusted
            if not trusted and migration.checksum != record.checksum:
                raise MigrationChangedError(
                    f"{migration.origin} was changed after it had been applied on"
                    f" {record.applied_at:%Y-%m-%d}; put it back and write a new migration"
                )
        versions = {record.version for record in applied}
        pending = tuple(m for m in self.migrations if m.version not in versions)
        latest = self.latest(applied)
        if pending and latest and self._place[pending[0].version] < self._place[latest]:
            raise MigrationOrderError(
                f"{pending[0].origin} is not applied, but version {latest}, which comes after"
                " it, is; give it a higher number"
            )
        failed = tuple(record for record in records if not record.success)
        return Status(applied, failed, pending)

    def with_stored(self, records: Iterable[Record]) -> Chain:
        """Return the chain with the applied migrations that it lacks, as the history has them:
        they can be taken back, and not applied."""
        known: list[Migration] = list(self.migrations)
        stored: set[int] = set()
        last: tuple[int, ...] = ()
        for record in records:
            if record.success and record.version not in self._by_version:
                stored.add(record.version)
                known.append(
                    Migration(
                        record.version,
                        record.description,
                        up="",
                        down=record.down_sql,
                        dependencies=last,
                        origin=f"migration {record.version} (as the history has it)",
                    )
                )
            last = (record.version,) if record.success else last
        return Chain(known, trusted=self._trusted | stored)
