"""`Migrator`, which has all the verbs: those that do, in `engine.py`, and those that look ahead."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from abt_db.connection.session import Session
from abt_db.errors import MigrationError, MigrationOrderError, QueryError

from . import history, planner, rehearsal, schema, trial
from .chain import Status
from .engine import Engine
from .history import Record, Reversibility
from .lint import Finding, Level, lint
from .planner import Plan, PlannedStep, Validation
from .rehearsal import Rehearsal
from .schema import Difference, Likeness
from .trial import Trial


@dataclass(frozen=True, slots=True)
class Drift:
    """How the schema of a database differs from what its migrations make."""

    likeness: Likeness
    differences: tuple[Difference, ...]
    after: int | None
    """The version behind which it began: up to there the history has the fingerprints that are
    expected. None without a difference, when it was there from the beginning, and where the history
    has no fingerprints because another program wrote it."""


class Migrator(Engine):
    """The migrations of a program and the database that they are for.

    `migrations` may be given in any order; `load_migrations` reads them from files. Two programs
    may migrate the same file at the same time: each step is applied once. One of them waits for
    the other's transaction for `lock_timeout` seconds at most. With `application_id` a database
    that has another one is refused before anything is written. `progress` is told what is being
    done, from the thread that does it: it must be quick, and not touch the event loop.
    """

    async def plan(self, target: int | None = None) -> Plan:
        """Return what `up(target)` would do, or `down(target)` if that lies behind. Never writes
        to the database (M6).

        Steps up are tried in memory, from the schema that the database has and with made-up rows,
        so what the lint says is what this SQLite says. Raises as `status` does.
        """
        status = await self.status()
        if target is not None and (back := self._chain.applied_after(status, target)):
            known = {record.version: record.reversibility for record in status.applied}
            steps = [planner.planned(m, down=True, reversibility=known[m.version]) for m in back]
            return Plan(tuple(steps), planner.oldest_sqlite(m.down or "" for m in back))
        pending = await self.pending_until(target)
        general: tuple[Finding, ...] = ()
        trials: dict[int, Trial] = {}
        try:
            trials = {each.version: each for each in await self._tried(status, target)}
        except QueryError as error:
            # The schema needs a function or a module of the application's, for instance.
            message = f"the steps could not be tried in memory: {error}"
            general = (Finding(Level.WARNING, "not-tried", self.db.path, message),)
        found: list[PlannedStep] = []
        for migration in pending:
            tried = trials.get(migration.version)
            findings = tried.findings if tried else general
            if tried and tried.error is not None:
                findings += (Finding(Level.ERROR, "fails", migration.origin, tried.error),)
            found.append(
                planner.planned(
                    migration,
                    down=False,
                    reversibility=tried.reversibility if tried and not tried.error else None,
                    findings=findings,
                )
            )
        return Plan(tuple(found), planner.oldest_sqlite(m.up for m in pending))

    async def classify(self, target: int | None = None) -> dict[int, Reversibility]:
        """Return the class of each step that `up(target)` would apply, found by running it in
        memory; for `up(reversibility=…)`, which keeps it in the history."""
        trials = await self._tried(await self.status(), target)
        return {each.version: each.reversibility for each in trials if each.error is None}

    async def _tried(self, status: Status, target: int | None) -> list[Trial]:
        if not status.pending:
            return []
        return await trial.try_out(
            self.migrations,
            start=await self.db.read(schema.snapshot),
            applied=[*status.applied, *(r for r in status.failed if r.statements_done)],
            target=target,
        )

    async def validate(self) -> Validation:
        """Return all that is to be said of the migrations and the history. Never writes (M6).

        Every script is read, every step is run both ways in memory from an empty database, with
        made-up rows; and the history is held against the files. Problems are findings, not errors.
        """
        findings = [*planner.gaps(self.migrations), *planner.misnamed(self.migrations)]
        for migration in self.migrations:
            findings += lint(migration)
            findings += [each for each in lint(migration, down=True) if each.rule != "irreversible"]
        trials = await trial.try_out(self.migrations)
        origins = {migration.version: migration for migration in self.migrations}
        for each in trials:
            migration = origins[each.version]
            findings += each.findings
            if each.error is not None:
                findings.append(Finding(Level.ERROR, "fails", migration.origin, each.error))
            elif migration.down is not None and each.reason is not None:
                bad = each.reversibility is Reversibility.IRREVERSIBLE
                level = Level.WARNING if bad else Level.NOTE
                message = f"{each.reversibility.value}: {each.reason}"
                findings.append(Finding(level, "not-exact", migration.origin, message))
        try:
            failed = (await self.status()).failed
        except MigrationError as error:
            findings.append(Finding(Level.ERROR, "history", self.db.path, str(error)))
        else:
            for record in failed:
                message = f"the last try of version {record.version} failed: {record.error_message}"
                findings.append(Finding(Level.WARNING, "failed", self.db.path, message))
        return Validation(tuple(findings), tuple(trials))

    async def drift(self) -> Drift:
        """Hold the schema of the database against what the applied migrations make of an empty
        one, in memory. Never writes. What other tools keep in the file is no drift."""
        status = await self.status()
        versions = {record.version for record in status.applied}
        expected = await trial.replay([m for m in self.migrations if m.version in versions])
        found = await self.db.read(schema.snapshot)
        likeness, differences = schema.compare(expected.schema, found)
        after = None
        if differences:
            for record in status.applied:
                if record.schema_fingerprint is None:
                    continue  # adopted
                if record.schema_fingerprint != expected.fingerprints[record.version]:
                    break
                after = record.version
        return Drift(likeness, differences, after)

    async def dump(self, *, expected: bool = False) -> str:
        """Return a script that makes the schema of the database in an empty one; `expected`: what
        all migrations make, whatever the database is at. Never writes."""
        if expected:
            return schema.dump((await trial.replay(self.migrations)).schema)
        return schema.dump(await self.db.read(schema.snapshot))

    async def baseline(self, target: int, *, force: bool = False) -> list[Record]:
        """Write to the history that all steps up to `target` are applied, without running them: for
        a database that was made without migrations.

        Raises `MigrationOrderError` if there is a history already, and `MigrationError` if the
        schema is not what these steps would have made, unless `force`.
        """
        steps = self._chain.until(target)
        made = await trial.replay(steps)

        def adopt(session: Session) -> list[Record]:
            if history.read(session):
                raise MigrationOrderError(
                    f"{self.db.path} has a history of migrations already: a baseline is for a"
                    " database without one"
                )
            likeness, differences = schema.compare(made.schema, schema.snapshot(session))
            if likeness is Likeness.DIFFERENT and not force:
                told = "; ".join(
                    str(each) for each in differences if each.likeness is Likeness.DIFFERENT
                )
                raise MigrationError(
                    f"{self.db.path} is not what the migrations up to {target} make: {told};"
                    " force (--force) adopts it all the same"
                )
            return [
                history.put(
                    session,
                    Record(
                        version=migration.version,
                        description=migration.description,
                        applied_at=datetime.now(UTC),
                        execution_time_ms=0.0,
                        success=True,
                        error_message=None,
                        checksum=migration.checksum,
                        down_sql=migration.down,
                        schema_fingerprint=made.fingerprints[migration.version],
                    ),
                )
                for migration in steps
            ]

        return await self.db.write(adopt)

    async def rehearse(
        self,
        target: int | None = None,
        *,
        seed: int = 0,
        then_apply: bool = False,
        directory: str | os.PathLike[str] | None = None,
    ) -> Rehearsal:
        """Copy the database and do there what `up(target)` would do: each step up, down and up.

        The copy is made through SQLite's backup API into a folder of its own in `directory` (that
        for temporary files if None) and deleted at the end; it needs as much room as the database,
        and more for the steps. `seed` rows are put into tables that are empty. The database itself
        is only read, unless `then_apply`: if every step passed, `up(target)` follows, with the
        classes that were found. Cancelling it deletes the copy.
        """
        report = await rehearsal.rehearse(
            self.db, self.migrations, target, rows=seed, directory=directory, tell=self._tell
        )
        if not (then_apply and report.passed):
            return report
        classes = {each.version: each.reversibility for each in report.steps}
        return replace(report, applied=tuple(await self.up(target, reversibility=classes)))
