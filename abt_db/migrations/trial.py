"""Trying steps out before they count: on a database in memory, with made-up rows.

The steps run through the engine itself, up, down and up again, so what is found is what would
happen. `round_trip` does the same to any database that may be spoilt, for instance a copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic

from abt_db.config import Config
from abt_db.connection.deadline import Deadline
from abt_db.connection.session import Session
from abt_db.connection.transaction import EngineSession
from abt_db.database import Database
from abt_db.errors import AbtDbError, MigrationError

from . import guard, history, runner, schema, seed
from .engine import Engine
from .guard import Loss, read_names
from .history import Record, Reversibility
from .lint import Finding, Level
from .model import Migration
from .schema import Content, Difference, Likeness, Schema, SchemaObject
from .script import folded, split, words

_EMPTY = Schema(())


@dataclass(frozen=True, slots=True)
class Trial:
    """What one step did, up and down and up again, to a database that does not count."""

    version: int
    description: str
    reversibility: Reversibility
    reason: str | None
    """Why it is not exact."""
    likeness: Likeness | None
    """How the schema after up, down is to the one before; None where it did not get there."""
    lost: tuple[Loss, ...]
    """Tables that have fewer rows behind `up` than before it."""
    up_seconds: float
    guard_seconds: float
    """The part of `up_seconds` that went into counting rows and foreign keys."""
    down_seconds: float
    error: str | None
    """Why `up` failed."""
    stuck: bool = False
    """It could not be applied again, so that the database was left in between."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """What migrations make of an empty database."""

    schema: Schema
    fingerprints: dict[int, str | None]
    """Of the schema after each step."""


@asynccontextmanager
async def _in_memory(
    start: Schema = _EMPTY, applied: Sequence[Record] = ()
) -> AsyncIterator[Database]:
    """A database for one experiment: empty tables, and a history that says what made them."""
    async with Database(":memory:", config=Config(cache_size=4 * 1024 * 1024)) as db:
        await _transact(db, lambda session: _make(session, start, applied))
        yield db


async def _transact(db: Database, function: Callable[[EngineSession], None]) -> None:
    """Run a function that may run any SQL, in a transaction."""

    def run(session: EngineSession) -> None:
        with session.transaction("IMMEDIATE"):
            function(session)

    async with db.barrier() as loan:
        await loan.run(run, Deadline())


def _make(session: EngineSession, start: Schema, applied: Sequence[Record]) -> None:
    for statement in split(schema.dump(start)):
        session.run_sql(statement.text, doing="the schema as it is")
    for record in applied:
        history.put(session, record)


async def replay(migrations: Sequence[Migration]) -> Replay:
    """Apply the migrations to an empty database in memory, and return what came of it."""
    async with _in_memory() as db:
        records = await Engine(db, migrations).up()
        fingerprints = {record.version: record.schema_fingerprint for record in records}
        return Replay(await db.read(schema.snapshot), fingerprints)


async def try_out(
    migrations: Sequence[Migration],
    *,
    start: Schema = _EMPTY,
    applied: Sequence[Record] = (),
    target: int | None = None,
    rows: int = 3,
    number: int = 0,
) -> list[Trial]:
    """Try what is not `applied`, up to `target`, on a database in memory with the schema `start`.
    What is half applied goes on behind its last statement.

    Each step finds `rows` rows in every table that can be filled (`number` chooses other ones). One
    that fails with them is tried again without, for real rows may be of another kind; one that
    fails then, too, ends it.
    """
    trials: list[Trial] = []
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(_in_memory(start, applied))
        for migration in await Engine(db, migrations).pending_until(target):
            engine = Engine(db, migrations)
            before = await db.read(schema.snapshot)
            done = await engine.history()
            await db.write(seed.seed, rows, number=number)
            trial = await _with_findings(db, engine, migration, before)
            if trial.error is not None:
                failed = Finding(
                    Level.WARNING,
                    "fails-with-rows",
                    migration.origin,
                    f"it fails where tables have rows, made up as they are here: {trial.error}",
                )
                await stack.aclose()
                db = await stack.enter_async_context(_in_memory(before, done))
                empty = await round_trip(db, Engine(db, migrations), migration)
                trial = trial if empty.error else replace(empty, findings=(failed,))
            trials.append(trial)
            if trial.error is not None:
                break
            if trial.stuck:
                await stack.aclose()
                db = await stack.enter_async_context(_in_memory(before, done))
                await Engine(db, migrations).up(migration.version)
    return trials


async def round_trip(db: Database, engine: Engine, migration: Migration) -> Trial:
    """Apply the next step, take it back and apply it again, and tell what that did.

    Reads every row of the database three times, and leaves it behind `up`, unless `error` or
    `stuck` say otherwise.
    """

    async def up() -> Record:
        [record] = await engine.up(migration.version)
        return record

    before = await db.read(_look)
    began = monotonic()
    try:
        record = await up()
    except MigrationError as error:
        return _failed(migration, str(error))
    up_seconds = monotonic() - began
    after = await db.read(_look)
    names = read_names(migration.up)
    lost = [
        Loss(table, None, content.rows - left)
        for table, content in before.content.items()
        if (left := after.rows(names.now(folded(table)))) < content.rows
    ]
    likeness: Likeness | None = None
    down_seconds = 0.0
    found = Reversibility.IRREVERSIBLE
    reason: str | None = "it has no down script"
    if migration.down is not None:
        began = monotonic()
        try:
            await engine.down(engine.before(migration), allow_data_loss=True)
        except MigrationError as error:
            reason = f"its down script fails: {error}"
        else:
            down_seconds = monotonic() - began
            back = await db.read(_look)
            likeness, differences = schema.compare(before.schema, back.schema)
            try:
                await up()
            except MigrationError as error:
                reason = f"it can't be applied again: {error}"
            else:
                again = await db.read(_look)
                found, reason = _judge(likeness, differences, before, after, back, again)
    whole = [each.version for each in (await engine.status()).applied if not each.statements_done]
    return Trial(
        version=migration.version,
        description=migration.description,
        reversibility=found,
        reason=reason,
        likeness=likeness,
        lost=tuple(lost),
        up_seconds=round(up_seconds, 6),
        guard_seconds=round(record.guard_time_ms / 1000, 6),
        down_seconds=round(down_seconds, 6),
        error=None,
        stuck=migration.version not in whole,
    )


def _failed(migration: Migration, error: str) -> Trial:
    irreversible = Reversibility.IRREVERSIBLE
    return Trial(
        migration.version, migration.description, irreversible, None, None, (), 0, 0, 0, error
    )


# -- judging -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    """All that a database holds."""

    schema: Schema
    content: dict[str, Content]

    def rows(self, table: str) -> int:
        return sum(c.rows for name, c in self.content.items() if folded(name) == table)


def _look(session: Session) -> _State:
    return _State(schema.snapshot(session), schema.contents(session))


_CLASSES = {
    Likeness.EXACT: Reversibility.EXACT,
    Likeness.NORMALISED: Reversibility.STRUCTURAL,
    Likeness.STRUCTURAL: Reversibility.STRUCTURAL,
    Likeness.UNORDERED: Reversibility.ORDER_ONLY,
    Likeness.DIFFERENT: Reversibility.IRREVERSIBLE,
}


def _judge(
    likeness: Likeness,
    differences: tuple[Difference, ...],
    before: _State,
    after: _State,
    back: _State,
    again: _State,
) -> tuple[Reversibility, str | None]:
    """Return the class of a step that went up, down and up again, and why it is not exact."""
    told = "; ".join(map(str, differences))
    if likeness is Likeness.DIFFERENT:
        return Reversibility.IRREVERSIBLE, f"its down script leads elsewhere: {told}"
    second, others = schema.compare(after.schema, again.schema)
    if second is Likeness.DIFFERENT:
        others_told = "; ".join(map(str, others))
        return Reversibility.IRREVERSIBLE, f"applied again it leads elsewhere: {others_told}"
    changed = [name for name, content in before.content.items() if back.content[name] != content]
    if changed:
        return Reversibility.LOSSY, f"rows of {', '.join(changed)} do not come back as they were"
    if likeness is Likeness.EXACT and second is not Likeness.EXACT:
        likeness, told = second, "applied again it leads to another text"
    return _CLASSES[likeness], told or None


async def _with_findings(
    db: Database, engine: Engine, migration: Migration, before: Schema
) -> Trial:
    """Try one step, as this engine does it and as others would."""
    half = migration.version in {record.version for record in await engine.history()}
    findings = [] if half else await _as_others_do(db, migration)
    trial = await round_trip(db, engine, migration)
    if trial.error is not None:
        return trial
    after = await db.read(schema.snapshot)
    findings += _taken_along(migration, before, after)
    return replace(trial, findings=tuple(findings))


class _UndoneError(Exception):
    """Rolls an experiment back, and brings its findings."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings


async def _as_others_do(db: Database, migration: Migration) -> list[Finding]:
    """Run a step as many tools do, in a transaction with foreign keys on, and undo it."""

    def found(problem: str) -> list[Finding]:
        message = f"run in a transaction with foreign keys on, as other tools do, it {problem}"
        return [Finding(Level.NOTE, "foreign-keys", migration.origin, message)]

    def run(session: EngineSession) -> None:
        names = read_names(migration.up)
        before = guard.take_census(session)
        try:
            for statement in split(migration.up):
                if not runner.refusal(statement.text, transactional=True):
                    session.run_sql(statement.text, doing=f"line {statement.line}")
            after = guard.take_census(session)
        except AbtDbError as error:
            raise _UndoneError(found(f"fails: {error}")) from None
        lost = [
            Loss(table, None, rows - left)
            for table, rows in before.rows.items()
            if (left := after.rows.get(names.now(table), 0)) < rows
            and table not in names.deleted | names.dropped
        ]
        told = ", ".join(f"{loss} (of {before.rows[loss.table]})" for loss in lost)
        raise _UndoneError(
            found(f"would delete {told}; this engine switches them off") * bool(lost)
        )

    try:
        await _transact(db, run)
    except _UndoneError as undone:
        return undone.findings
    raise AssertionError("an experiment was committed")


def _taken_along(migration: Migration, before: Schema, after: Schema) -> list[Finding]:
    """Find indexes and triggers that went with a DROP TABLE though their table is there again."""
    names = read_names(migration.up)
    left = {(each.kind, folded(each.name)) for each in after.objects}
    named = set(words(migration.up))

    def gone(each: SchemaObject) -> bool:
        table = names.now(folded(each.table))
        there = ("table", table) in left and folded(each.table) in names.dropped
        return there and (each.kind, folded(each.name)) not in left

    return [
        Finding(
            Level.WARNING,
            f"lost-{each.kind}",
            migration.origin,
            f"{each.table} is built again without its {each.kind} {each.name}, which the DROP TABLE"
            f" takes along; make it again, or say DROP {each.kind.upper()} {each.name}",
        )
        for each in before.objects
        if each.kind in ("index", "trigger") and gone(each) and folded(each.name) not in named
    ]
