"""Applying migrations: each step in one transaction, decided inside it, together with its history.

A step is one job on the writer, behind a barrier: nobody else reads or writes meanwhile
(invariant 21), and whatever cancels or kills it leaves either all of it or nothing (M1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from abt_db.connection import while_busy
from abt_db.database import Database
from abt_db.deadline import Deadline
from abt_db.errors import (
    AbtDbError,
    MigrationChangedError,
    MigrationError,
    MigrationFailedError,
    MigrationIrreversibleError,
    MigrationUnknownError,
    StatementError,
)
from abt_db.query import Query
from abt_db.session import BeginBusyError, Session
from abt_db.work import Lease

from . import history
from .history import Record
from .model import Migration, MigrationOrderError, in_order
from .script import first_keyword, split

__all__ = ["Migrator", "Status"]

T = TypeVar("T")

_TABLES = Query("migrations.tables", "SELECT name FROM sqlite_schema WHERE type = 'table'", str)
_VIOLATIONS = Query(
    "migrations.violations", "SELECT count(*) FROM pragma_foreign_key_check(:name)", int
)

# A step has a transaction of its own, and one file.
_REFUSED = frozenset(
    ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM")
)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database stands."""

    applied: tuple[Record, ...]
    """What is in it, in the order in which it was applied."""
    failed: tuple[Record, ...]
    """The last tries that failed; nothing of them is in the database."""
    pending: tuple[Migration, ...]
    """What is still to be applied, in order."""


class Migrator:
    """The migrations of a program and the database that they are for.

    `migrations` may be given in any order; `load_migrations` reads them from files. Two programs
    may migrate the same file at the same time: each step is applied once.
    """

    def __init__(self, db: Database, migrations: Iterable[Migration]) -> None:
        self.db = db
        self.migrations = in_order(migrations)
        self._by_version = {migration.version: migration for migration in self.migrations}
        # Where each stands in the order of application, which dependencies may make another one
        # than that of the numbers. 0 is the empty database.
        self._place = {version: place for place, version in enumerate((0, *self._by_version))}

    async def status(self) -> Status:
        """Return what is applied, failed and pending. Never writes (M6).

        Raises `MigrationUnknownError` when the database has a migration that the program does not
        have, `MigrationChangedError` when an applied one was edited since, `MigrationOrderError`
        when one is pending that should have come before an applied one.
        """
        return self._compare(await self.db.read(history.read))

    async def pending(self) -> tuple[Migration, ...]:
        """Return what is still to be applied, in order; raises as `status` does."""
        return (await self.status()).pending

    async def current_version(self) -> int | None:
        """Return the version applied last, None for a database without any."""
        applied = (await self.status()).applied
        return max((r.version for r in applied), key=self._place.__getitem__, default=None)

    async def history(self) -> list[Record]:
        """Return all rows of the history, tries that failed among them."""
        return await self.db.read(history.read)

    async def up(self, target: int | None = None) -> list[Record]:
        """Apply what is pending, up to and with version `target`; return what was applied here.

        Each step has the time limit of its migration, is in the database whole or not at all, and
        is skipped when another process was first. Raises `MigrationFailedError`, having rolled the
        step back and noted the failure in the history; the steps before it stay. Raises as `status`
        does before anything is written.
        """
        last = len(self.migrations) if target is None else self._placed(target)
        pending = [m for m in await self.pending() if self._place[m.version] <= last]
        # Nothing to do is the usual case, at each start of a program: it disturbs nobody.
        if not pending:
            return []
        async with self.db.barrier(label="migrations, up") as lease:
            records = [await self._step(lease, migration, self._up) for migration in pending]
        return [record for record in records if record is not None]

    async def down(self, target: int) -> list[int]:
        """Take back every version that was applied after `target`, the last first; return them.

        0 takes back all. Raises `MigrationIrreversibleError` before anything is written when one
        of the steps has no down script, otherwise as `up`.
        """
        first = self._placed(target)
        steps = [
            self._by_version[record.version]
            for record in reversed((await self.status()).applied)
            if self._place[record.version] > first
        ]
        for migration in steps:
            if migration.down is None:
                raise MigrationIrreversibleError(
                    f"{migration.origin} has no down script: it can't be taken back"
                )
        if not steps:
            return []
        async with self.db.barrier(label="migrations, down") as lease:
            return [m.version for m in steps if await self._step(lease, m, self._down)]

    # -- inside ----------------------------------------------------------------------------------

    def _placed(self, target: int) -> int:
        """Return where `target` stands in the order."""
        try:
            return self._place[target]
        except KeyError:
            raise MigrationUnknownError(f"there is no migration {target} to go to") from None

    def _compare(self, records: list[Record]) -> Status:
        """Hold the history against the program's migrations (M4)."""
        applied = tuple(record for record in records if record.success)
        for record in applied:
            migration = self._by_version.get(record.version)
            if migration is None:
                raise MigrationUnknownError(
                    f"the database has migration {record.version} ({record.description}), which"
                    " this program does not have; it was made by a newer version of it, probably"
                )
            if migration.checksum != record.checksum:
                raise MigrationChangedError(
                    f"{migration.origin} was changed after it had been applied on"
                    f" {record.applied_at:%Y-%m-%d}; put it back and write a new migration"
                )
        versions = {record.version for record in applied}
        pending = tuple(m for m in self.migrations if m.version not in versions)
        if pending and versions:
            latest = max(versions, key=self._place.__getitem__)
            if self._place[pending[0].version] < self._place[latest]:
                raise MigrationOrderError(
                    f"{pending[0].origin} is not applied, but version {latest}, which comes after"
                    " it, is; give it a higher number"
                )
        failed = tuple(record for record in records if not record.success)
        return Status(applied, failed, pending)

    async def _step(
        self, lease: Lease, migration: Migration, step: Callable[[Session, Migration], T]
    ) -> T:
        began = monotonic()

        def run(session: Session) -> T:
            try:
                with session.foreign_keys_off(), session.transaction("IMMEDIATE"):
                    return step(session, migration)
            except (BeginBusyError, MigrationError):
                raise
            except AbtDbError as error:
                raise MigrationFailedError(f"{migration.origin}: {error}") from error

        try:
            return await while_busy(
                lambda: lease.run(run, Deadline.after(migration.timeout)),
                Deadline.after(self.db.config.busy_timeout),
                kind=BeginBusyError,
            )
        except MigrationFailedError as error:
            if step == self._up:
                await self._note_failure(lease, migration, monotonic() - began, error)
            raise

    async def _note_failure(
        self, lease: Lease, migration: Migration, seconds: float, failure: MigrationFailedError
    ) -> None:
        """Write to the history that a try failed, unless another process has succeeded."""

        def note(session: Session) -> None:
            with session.transaction("IMMEDIATE"):
                applied = {record.version for record in history.read(session) if record.success}
                if migration.version not in applied:
                    history.record(session, migration, seconds, error=str(failure))

        try:
            await while_busy(
                lambda: lease.run(note, Deadline()),
                Deadline.after(self.db.config.busy_timeout),
                kind=BeginBusyError,
            )
        except AbtDbError as error:
            # The first error wins (invariant 10).
            failure.add_note(f"It could not be noted in the history: {error}")

    def _up(self, session: Session, migration: Migration) -> Record | None:
        began = monotonic()
        pending = self._compare(history.read(session)).pending
        if migration not in pending:
            return None  # another process was first (M2)
        if migration is not pending[0]:
            raise MigrationOrderError(
                f"{migration.origin}: version {pending[0].version}, which comes before it, was"
                " taken back meanwhile"
            )
        self._run_script(session, migration.origin, migration.up)
        return history.record(session, migration, monotonic() - began)

    def _down(self, session: Session, migration: Migration) -> bool:
        applied = [record.version for record in self._compare(history.read(session)).applied]
        if migration.version not in applied:
            return False
        if migration.version != max(applied, key=self._place.__getitem__):
            raise MigrationOrderError(
                f"{migration.origin} can't be taken back: a later version was applied meanwhile"
            )
        origin = migration.origin.replace(".up.sql", ".down.sql")
        self._run_script(session, origin, migration.down or "")
        history.forget(session, migration.version)
        return True

    def _run_script(self, session: Session, origin: str, script: str) -> None:
        before = _violations(session)
        for statement in split(script):
            where = f"{origin}, line {statement.line}"
            keyword = first_keyword(statement.text)
            if keyword in _REFUSED:
                raise MigrationFailedError(
                    f"{where}: {keyword} is refused, for the step runs in a transaction of its own"
                )
            try:
                session.run_sql(statement.text, doing=where)
            except AbtDbError as error:
                raise MigrationFailedError(str(error)) from error
        if broken := _broken(before, _violations(session)):
            raise MigrationFailedError(f"{origin}: it breaks foreign keys: {'; '.join(broken)}")


def _violations(session: Session) -> dict[str, int | str]:
    """How many foreign keys of each table are violated; or why that can't be checked, for instance
    because one refers to columns that are no key."""
    violations: dict[str, int | str] = {}
    for name in session.fetch_all(_TABLES()):
        try:
            violations[name] = session.fetch_one(_VIOLATIONS(name=name)) or 0
        except StatementError:
            violations[name] = f"a foreign key of {name} can't be checked, it refers to no key"
    return violations


def _broken(before: dict[str, int | str], after: dict[str, int | str]) -> list[str]:
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
