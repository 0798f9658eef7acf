"""One step, up or down, on the writer's own thread.

Everything is decided inside the transaction that does it: whether the step is still to be done
(M2), whether the guard lets it pass (M7), and what the history says of it (M1).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from abt_db.connection.deadline import Deadline
from abt_db.connection.transaction import EngineSession
from abt_db.errors import MigrationChangedError, MigrationFailedError, MigrationOrderError

from . import guard, history, runner, schema
from .chain import Chain
from .history import Record, Reversibility
from .model import Migration
from .progress import Progress, Tell
from .script import ScriptStatement, split, words


def down_origin(migration: Migration) -> str:
    """Return what the down script of a migration is called in messages."""
    return migration.origin.replace(".up.sql", ".down.sql")


def require_whole(applied: tuple[Record, ...]) -> None:
    """Raise `MigrationOrderError` if a `-- no-transaction` step is half taken back."""
    for record in applied:
        if record.statements_done:
            raise MigrationOrderError(
                f"migration {record.version} ({record.description}) is half taken back, behind"
                f" statement {record.statements_done} of its down script: finish it with `down`"
            )


class Step:
    """A migration to be applied, or with `down` taken back; may be tried any number of times."""

    def __init__(
        self,
        chain: Chain,
        migration: Migration,
        *,
        tell: Tell,
        patience: float,
        down: bool = False,
        allow_data_loss: bool = False,
        reversibility: Reversibility | None = None,
    ) -> None:
        self.migration = migration
        self.down = down
        self._chain = chain
        self._tell = tell
        self._allow_data_loss = allow_data_loss
        self._reversibility = reversibility
        self._script = (migration.down or "") if down else migration.up
        self._origin = down_origin(migration) if down else migration.origin
        self._units: list[runner.Unit] = []
        self._patience = patience
        self.limit = Deadline.after(patience)
        """How long another process's lock may be in the way; set anew behind each unit."""
        self._since = monotonic()
        self._guarding = 0.0  # seconds, since the last note

    def run(self, session: EngineSession) -> Record | None:
        """Do what is still to be done; return the record, or None if another process did it."""
        self._since = monotonic()
        self._units = runner.units(
            self._script, self._origin, transactional=self.migration.transactional
        )
        record: Record | None = None
        with session.foreign_keys_off():
            for unit in self._units:
                record = (self._outside if unit.outside else self._inside)(session, unit)
                if record is None:
                    break
        return record

    def note_failure(self, session: EngineSession, error: MigrationFailedError) -> None:
        """Write to the history that a try failed, unless another process has succeeded."""
        with session.transaction("IMMEDIATE"):
            for record in history.read(session):
                if record.version == self.migration.version:
                    if record.success:
                        return
                    if record.statements_done:
                        history.put(session, replace(record, error_message=str(error)))
                        return
            spent = round((monotonic() - self._since) * 1000, 3)
            failed = replace(self._fresh(), execution_time_ms=spent, error_message=str(error))
            history.put(session, failed)

    # -- one unit --------------------------------------------------------------------------------

    def _inside(self, session: EngineSession, unit: runner.Unit) -> Record | None:
        known = guard.Known()
        while True:
            try:
                with session.transaction("IMMEDIATE"):
                    record = self._standing(session)
                    if record is None or 0 < unit.end <= record.statements_done:
                        return record
                    self._guarded(session, unit, known)
                    return self._note(session, record, unit)
            except guard.AgainError as again:
                known = again.known

    def _outside(self, session: EngineSession, unit: runner.Unit) -> Record | None:
        record = self._standing(session)
        if record is None:
            return None
        if unit.setting or record.statements_done < unit.end:
            self._run(session, unit)
        if unit.setting and unit is not self._units[-1]:
            return record  # of no effect but on what comes behind it
        with session.transaction("IMMEDIATE"):
            record = self._standing(session)
            if record is None or record.statements_done >= unit.end:
                return record
            return self._note(session, record, unit)

    def _guarded(self, session: EngineSession, unit: runner.Unit, known: guard.Known) -> None:
        """Run a unit between two looks at rows and foreign keys."""
        if all(map(_harmless, unit.statements)):
            self._run(session, unit)
            return
        began = monotonic()
        before = guard.take_census(session, violations=known.violations)
        self._guarding += monotonic() - began
        watch = guard.Watch(before, known, counts=self.down and not self._allow_data_loss)
        self._run(session, unit, watch)
        began = monotonic()
        after = guard.take_census(session)
        guard.require_sound(session, self._origin, before, after, watch.names, known)
        watch.require_no_loss(self._origin, after)
        self._guarding += monotonic() - began

    def _run(
        self, session: EngineSession, unit: runner.Unit, watch: guard.Watch | None = None
    ) -> None:
        done = unit.end - len(unit.statements)
        way = "down" if self.down else "up"

        def tell(statement: ScriptStatement) -> None:
            nonlocal done
            total = self._units[-1].end
            self._tell(Progress(self.migration.version, way, done, total, statement.line))
            done += 1
            if watch is not None:
                watch.see(session, statement.text)

        runner.run(session, unit, self._origin, tell)

    # -- the history -----------------------------------------------------------------------------

    def _standing(self, session: EngineSession) -> Record | None:
        """Return the step's record as it is now; None if there is nothing to do any more (M2)."""
        migration = self.migration
        records = history.read(session)
        status = self._chain.compare(records)
        own = next((r for r in records if r.version == migration.version), None)
        if self.down:
            if own is None or not own.success:
                return None
            if migration.version != self._chain.latest(status.applied):
                raise MigrationOrderError(
                    f"{migration.origin} can't be taken back: a later version was applied meanwhile"
                )
            return own
        if migration not in status.pending:
            return None
        require_whole(status.applied)
        if migration is not status.pending[0]:
            raise MigrationOrderError(
                f"{migration.origin}: version {status.pending[0].version}, which comes before it,"
                " was taken back meanwhile"
            )
        if own is None or not own.statements_done:
            return self._fresh()
        if own.checksum != self._checksum(own.statements_done):
            raise MigrationChangedError(
                f"{migration.origin} was changed after its first {own.statements_done} statements"
                " had been applied; put these back, those behind them may be changed"
            )
        return own

    def _checksum(self, statements: int) -> str:
        """Return SHA-256 over the first statements of the script."""
        texts = [statement.text for statement in split(self._script)[:statements]]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def _fresh(self) -> Record:
        return Record(
            version=self.migration.version,
            description=self.migration.description,
            applied_at=datetime.now(UTC),
            execution_time_ms=0.0,
            success=False,
            error_message=None,
            checksum=self.migration.checksum,
            down_sql=self.migration.down,
            schema_fingerprint=None,
        )

    def _note(self, session: EngineSession, record: Record, unit: runner.Unit) -> Record:
        """Write that a unit is done, in the transaction that did it (M1)."""
        now = monotonic()
        self.limit.at = now + self._patience
        last = unit is self._units[-1]
        if self.down:
            if last:
                history.forget(session, record.version)
            else:
                history.put(session, replace(record, statements_done=unit.end))
            return replace(record, statements_done=unit.end)
        record = replace(
            record,
            applied_at=datetime.now(UTC),
            execution_time_ms=round(record.execution_time_ms + (now - self._since) * 1000, 3),
            guard_time_ms=round(record.guard_time_ms + self._guarding * 1000, 3),
            success=last,
            # Of a step that is half done, what is still to come may be mended.
            checksum=self.migration.checksum if last else self._checksum(unit.end),
            error_message=(
                None if last else f"stopped behind statement {unit.end} of {self._units[-1].end}"
            ),
            schema_fingerprint=schema.fingerprint(session) if last else None,
            statements_done=0 if last else unit.end,
            reversibility=self._reversibility if last else None,
        )
        self._since, self._guarding = now, 0.0
        return history.put(session, record)


def _harmless(statement: ScriptStatement) -> bool:
    """Whether it can neither lose rows nor violate foreign keys, so that nothing is counted."""
    first, second, *_ = [*words(statement.text[:80]), "", ""]
    return first == "create" and second in ("index", "unique", "trigger", "view")
