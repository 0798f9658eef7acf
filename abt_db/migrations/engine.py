"""Applying migrations: each step in one transaction, decided inside it, together with its history.

A step is one call on the writer, behind a barrier: nobody else reads or writes meanwhile
(invariant 21), and whatever cancels or kills it leaves either all of it or nothing (M1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from abt_db.connection.busy import while_busy
from abt_db.connection.deadline import Deadline
from abt_db.connection.lock_owners import who_holds
from abt_db.connection.session import Session
from abt_db.connection.transaction import EngineSession
from abt_db.database import Database
from abt_db.errors import (
    AbtDbError,
    BeginBusyError,
    CommitUnknownError,
    MigrationError,
    MigrationFailedError,
    MigrationIrreversibleError,
    MigrationLossError,
    MigrationUnknownError,
    StatementTimeoutError,
)
from abt_db.files.copying import copy_database
from abt_db.pool.loan import Loan

from . import history, schema
from .chain import Chain, Status
from .guard import dropped
from .history import Record, Reversibility
from .model import Migration
from .progress import Progress, Tell
from .step import Step, require_whole

T = TypeVar("T")

_NOT_TO_BE_UNDONE = (Reversibility.LOSSY, Reversibility.IRREVERSIBLE)


class Engine:
    """The part of `Migrator` that does what it is told; see there."""

    def __init__(
        self,
        db: Database,
        migrations: Iterable[Migration],
        *,
        application_id: int | None = None,
        lock_timeout: float = 60.0,
        progress: Tell = lambda progress: None,
    ) -> None:
        self.db = db
        self._chain = Chain(migrations)
        self._application_id = application_id
        self._lock_timeout = lock_timeout
        self._tell = progress

    @property
    def migrations(self) -> tuple[Migration, ...]:
        """All migrations, in the order of application."""
        return self._chain.migrations

    # -- looking ---------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Return what is applied, failed and pending. Never writes (M6).

        Raises `MigrationUnknownError` when the database has a migration that the program does not
        have, `MigrationChangedError` when an applied one was edited since, `MigrationOrderError`
        when one is pending that should have come before an applied one.
        """
        return self._chain.compare(await self.history())

    async def pending(self) -> tuple[Migration, ...]:
        """Return what is still to be applied, in order; raises as `status` does."""
        return (await self.status()).pending

    async def pending_until(self, target: int | None) -> list[Migration]:
        """Return what `up(target)` would apply; raises as it does before it begins."""
        steps = self._chain.until(target)
        status = await self.status()
        require_whole(status.applied)
        return [migration for migration in status.pending if migration in steps]

    def before(self, migration: Migration) -> int:
        """Return the version that comes before one of the migrations, 0 for the first."""
        return self._chain.before(migration)

    async def current_version(self) -> int | None:
        """Return the version applied last, None for a database without any."""
        return self._chain.latest((await self.status()).applied)

    async def history(self) -> list[Record]:
        """Return all rows of the history, tries that failed among them.

        Raises `MigrationUnknownError` for a database with another `application_id`.
        """
        return await self.db.read(self._read)

    def _read(self, session: Session) -> list[Record]:
        records = history.read(session)
        ours = self._application_id
        if ours is not None:
            found = schema.snapshot(session)
            # One that is empty, or does not have the step yet that sets it, may become ours.
            young = found.application_id == 0 and (records or not found.objects)
            if found.application_id != ours and not young:
                raise MigrationUnknownError(
                    f"{self.db.path} belongs to another program: its application_id is"
                    f" {found.application_id:#x} and not {ours:#x}"
                )
        return records

    # -- going -----------------------------------------------------------------------------------

    async def up(
        self,
        target: int | None = None,
        *,
        reversibility: Mapping[int, Reversibility] | None = None,
        backup_to: str | os.PathLike[str] | None = None,
    ) -> list[Record]:
        """Apply what is pending, up to and with version `target`; return what was applied here.

        Each step has the time limit of its migration, is in the database whole or not at all, and
        is skipped when another process was first. A `-- no-transaction` step that stopped half-way
        goes on behind its last statement. Raises `MigrationFailedError`, having rolled the step
        back and noted the failure in the history; the steps before it stay. `MigrationLossError`,
        one of its kinds, says that rows would have been lost which the script does not name. Raises
        as `status` does before anything is written. `reversibility` is what is known of the steps,
        to be kept in the history. The database is copied to the new file `backup_to` before the
        first step that drops a table, or builds one again.
        """
        pending = await self.pending_until(target)
        # Nothing to do is the usual case, at each start of a program: it disturbs nobody.
        if not pending:
            return []
        known = reversibility or {}
        records = []
        async with self.db.barrier(label="migrations, up") as loan:
            for migration in pending:
                if backup_to is not None and dropped(migration.up):
                    await copy_database(self.db.path, backup_to, self._copying)
                    backup_to = None
                step = self._step(
                    self._chain, migration, reversibility=known.get(migration.version)
                )
                records.append(await self._run(loan, step))
        return [record for record in records if record is not None]

    async def down(
        self, target: int, *, allow_data_loss: bool = False, use_history: bool = False
    ) -> list[int]:
        """Take back every version that was applied after `target`, the last first; return them.

        0 takes back all. Raises `MigrationIrreversibleError` before anything is written when one
        of the steps has no down script, otherwise as `up`. Rows that a DROP would take along,
        values of columns that would go, and steps that the history calls lossy or irreversible
        raise `MigrationLossError`, unless `allow_data_loss`; what was taken back before that stays
        so. With `use_history` migrations that only a newer program has are taken back by the script
        that the history keeps.
        """
        records = await self.history()
        chain = self._chain.with_stored(records) if use_history else self._chain
        status = chain.compare(records)
        steps = chain.applied_after(status, target)
        classes = {record.version: record.reversibility for record in status.applied}
        for migration in steps:
            if migration.down is None:
                raise MigrationIrreversibleError(
                    f"{migration.origin} has no down script: it can't be taken back"
                )
            found = classes[migration.version]
            if found in _NOT_TO_BE_UNDONE and not allow_data_loss:
                raise MigrationLossError(
                    f"{migration.origin} is {found.value}: taking it back does not lead to what was"
                    " there before; allow_data_loss (--allow-data-loss) permits it"
                )
        if not steps:
            return []
        gone = []
        async with self.db.barrier(label="migrations, down") as loan:
            for migration in steps:
                step = self._step(chain, migration, down=True, allow_data_loss=allow_data_loss)
                if await self._run(loan, step):
                    gone.append(migration.version)
        return gone

    async def to(self, target: int, *, allow_data_loss: bool = False) -> list[int]:
        """Go up or down to `target`; return the versions that were applied or taken back."""
        applied = {record.version for record in (await self.status()).applied}
        if target != 0 and target not in applied:
            return [record.version for record in await self.up(target)]
        return await self.down(target, allow_data_loss=allow_data_loss)

    async def redo(self, *, allow_data_loss: bool = False) -> list[Record]:
        """Take the last step back and apply it again: for a migration that is being written."""
        status = await self.status()
        version = self._chain.latest(status.applied)
        if version is None:
            return []
        [last] = [migration for migration in self.migrations if migration.version == version]
        await self.down(self.before(last), allow_data_loss=allow_data_loss)
        return await self.up(version)

    # -- inside ----------------------------------------------------------------------------------

    def _copying(self, done: int, total: int) -> None:
        self._tell(Progress(None, "copying", done, total))

    def _step(
        self,
        chain: Chain,
        migration: Migration,
        *,
        down: bool = False,
        allow_data_loss: bool = False,
        reversibility: Reversibility | None = None,
    ) -> Step:
        return Step(
            chain,
            migration,
            tell=self._tell,
            patience=self._lock_timeout,
            down=down,
            allow_data_loss=allow_data_loss,
            reversibility=reversibility,
        )

    async def _run(self, loan: Loan, step: Step) -> Record | None:
        def run(session: EngineSession) -> Record | None:
            try:
                return step.run(session)
            except BeginBusyError:
                self._tell(Progress(step.migration.version, "waiting", 0, 0))
                raise
            except MigrationError:
                raise
            except AbtDbError as error:
                raise MigrationFailedError(f"{step.migration.origin}: {error}") from error

        try:
            return await self._when_free(
                loan, run, step.limit, lambda: Deadline.after(step.migration.timeout)
            )
        except CommitUnknownError as error:
            raise MigrationError(f"{step.migration.origin}: {error}; `status` tells") from error
        except StatementTimeoutError as error:
            # Its statement goes on, and is undone when it has ended: the note waits for that.
            failure = MigrationFailedError(f"{step.migration.origin}: {error}")
            await self._note_failure(loan, step, failure)
            raise failure from error
        except MigrationFailedError as failure:
            await self._note_failure(loan, step, failure)
            raise

    async def _note_failure(self, loan: Loan, step: Step, failure: MigrationFailedError) -> None:
        if step.down:
            return
        limit = Deadline.after(self.db.config.busy_timeout)
        try:
            await self._when_free(
                loan, lambda session: step.note_failure(session, failure), limit, Deadline
            )
        except AbtDbError as error:
            # The first error wins (invariant 10).
            failure.add_note(f"It could not be noted in the history: {error}")

    async def _when_free(
        self,
        loan: Loan,
        function: Callable[[EngineSession], T],
        limit: Deadline,
        deadline: Callable[[], Deadline],
    ) -> T:
        """Run a function, again while another process's lock is in the way of its BEGIN."""
        return await while_busy(
            lambda: loan.run(function, deadline()),
            limit,
            kind=BeginBusyError,
            who=lambda: who_holds(self.db.path),
        )
