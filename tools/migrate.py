"""Bring the schema of a database up to date, look ahead, go back, rehearse.

Exit codes: 0 fine; 1 failed, or something that was asked about is not as it should be; 2 usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from abt_db.builds.report.wording import plural
from abt_db.database import Database
from abt_db.errors import AbtDbError, MigrationError
from abt_db.files.parts import replacing
from abt_db.migrations import (
    Finding,
    Level,
    Likeness,
    Migrator,
    Record,
    Trial,
    load_migrations,
    new_migration,
)
from abt_db.schema import APPLICATION_ID
from abt_db.tools.care import CONFIG
from abt_db.tools.cli import CliError, NumberOrFile, add_database, add_file, is_there, run_tool
from abt_db.tools.meter import Meter
from abt_db.tools.output import age, colour, for_terminal, print_json, print_table

OWN = "abt_db.schema"
_LEVELS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: "dim"}


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    looking: list[argparse.ArgumentParser] = []  # at a database

    def verb(name: str, help: str, does: Verb, *, database: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help)
        if database:  # behind the verb as well as before it
            add_database(sub)
            looking.append(sub)
        sub.add_argument(
            "--migrations",
            metavar="DIR",
            default=os.environ.get("ABT_DB_MIGRATIONS") or OWN,
            help="a directory or package of migrations (default: $ABT_DB_MIGRATIONS, or those of"
            " the build database)",
        )
        if database:
            sub.add_argument(
                "--application-id",
                metavar="N",
                type=lambda text: int(text, 0),
                help="refuse a database with another PRAGMA application_id",
            )
        sub.add_argument("--json", action="store_true", help="JSON, an object a line")
        sub.set_defaults(does=does)
        return sub

    sub = verb("status", "What is applied and what is pending.", _status)
    sub.add_argument("--exit-code", action="store_true", help="1 when something is pending")
    sub = verb("plan", "What `up`, or `down TARGET`, would do, and what speaks against it.", _plan)
    _target(sub)
    sub = verb("up", "Apply what is pending.", _up)
    _target(sub)
    sub.add_argument(
        "--backup-to", metavar="FILE", help="copy the database first, if a step drops a table"
    )
    sub = verb("down", "Take back every step after TARGET; 0 takes back all.", _down)
    _target(sub, required=True)
    _loss(sub)
    sub.add_argument(
        "--use-history",
        action="store_true",
        help="take back what only a newer program has, by the scripts in the history",
    )
    sub = verb("to", "Go up or down to TARGET.", _to)
    _target(sub, required=True)
    _loss(sub)
    _loss(verb("redo", "Take the last step back and apply it again.", _redo))
    verb("history", "Every step that was applied, and the last tries that failed.", _history)
    verb("validate", "Read and run every migration in memory; check the history.", _validate)
    sub = verb("baseline", "Adopt a database that was made without migrations.", _baseline)
    _target(sub, required=True)
    sub.add_argument("--force", action="store_true", help="even if its schema is another")
    sub = verb("drift", "Compare the schema with what the migrations make.", _drift)
    sub.add_argument(
        "--accept",
        choices=[each.value for each in Likeness][:-1],
        default=Likeness.EXACT.value,
        help="how much alike is enough for exit code 0 (default: exact)",
    )
    sub = verb("rehearse", "Try the pending steps on a copy of the database.", _rehearse)
    _target(sub)
    sub.add_argument(
        "--seed", metavar="ROWS", type=int, default=0, help="made-up rows for empty tables"
    )
    sub.add_argument("--then-apply", action="store_true", help="then apply them, if all passed")
    sub.add_argument("--directory", metavar="DIR", help="where the copy is made")
    sub = verb("dump", "The schema that all migrations make, as SQL.", _dump, database=False)
    sub.add_argument("--output", metavar="FILE", help="write it to a file")
    sub.add_argument("--check", metavar="FILE", help="say whether a file holds just that")
    sub = verb("new", "Begin a migration: a pair of files.", _new, database=False)
    sub.add_argument("name", metavar="NAME", help="what it does, as in 'add tags'")
    for sub in looking:
        add_file(sub)


Verb = Callable[[argparse.Namespace], Awaitable[int]]


def _target(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    if required:
        parser.add_argument("target", metavar="TARGET", type=int, help="a version")
    else:
        parser.add_argument(
            "target", metavar="TARGET", nargs="?", action=NumberOrFile, help="a version"
        )


def _loss(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-data-loss", action="store_true", help="even if rows or values are lost"
    )


async def run(arguments: argparse.Namespace) -> int:
    does: Verb = arguments.does
    return await does(arguments)


# -- opening -------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(arguments: argparse.Namespace, *, writes: bool) -> AsyncIterator[Migrator]:
    """The migrator of the command line; while a long step runs, standard error tells of it."""
    migrations = load_migrations(arguments.migrations)
    application = arguments.application_id
    if application is None and arguments.migrations == OWN:
        application = APPLICATION_ID
    meter = Meter()

    def migrator(db: Database) -> Migrator:
        return Migrator(db, migrations, application_id=application, progress=meter.tell)

    path = Path(arguments.db)
    if not is_there(path) and not writes:
        raise CliError(f"there is no database {path}; `abt-db migrate up` makes one, --db names it")
    if writes and path.is_file() and path.stat().st_size:
        # Not even the journal mode of another program's file is changed.
        async with Database(path, config=CONFIG, read_only=True) as db:
            await migrator(db).history()
    async with Database(path, config=CONFIG, read_only=not writes) as db:
        async with meter:
            yield migrator(db)


# -- verbs ---------------------------------------------------------------------------------------


async def _status(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=False) as migrator:
        status = await migrator.status()
    if arguments.json:
        print_json(status)
    else:
        failed = {record.version: record for record in status.failed}
        rows = [_row(record) for record in status.applied]
        for migration in status.pending:
            tried = failed.get(migration.version)
            rows.append(
                _row(tried) if tried else [f"{migration.version}", migration.description, "pending"]
            )
        _print_steps(rows)
    return int(bool(arguments.exit_code and status.pending))


async def _history(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=False) as migrator:
        records = await migrator.history()
    _print_records(arguments, records)
    return 0


async def _plan(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=False) as migrator:
        plan = await migrator.plan(arguments.target)
    if arguments.json:
        print_json(plan)
        return int(bool(plan.errors))
    for step in plan.steps:
        mode = "in a transaction" if step.transactional else "statement by statement"
        kind = f", {step.reversibility.value}" if step.reversibility else ""
        print(for_terminal(f"{step.direction} {step.version} {step.description} ({mode}{kind})"))
        for finding in step.findings:
            _print_finding(finding)
        for sql in step.statements:
            print(for_terminal("    " + sql.replace("\n", "\n    ")))
    print(f"{plural(len(plan.steps), 'step')}, for SQLite {plan.minimum_sqlite} and later")
    return int(bool(plan.errors))


async def _up(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=True) as migrator:
        try:
            known = await migrator.classify(arguments.target)
        except MigrationError:
            raise
        except AbtDbError as error:  # of the experiment in memory, and of no harm to the step
            known = {}
            told = f"abt-db: the steps could not be tried in memory: {error}"
            print(for_terminal(told, sys.stderr), file=sys.stderr)
        records = await migrator.up(
            arguments.target, reversibility=known, backup_to=arguments.backup_to
        )
    _print_records(arguments, records)
    return 0


async def _down(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=True) as migrator:
        gone = await migrator.down(
            arguments.target,
            allow_data_loss=arguments.allow_data_loss,
            use_history=arguments.use_history,
        )
    _print_versions(arguments, "taken back", gone)
    return 0


async def _to(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=True) as migrator:
        done = await migrator.to(arguments.target, allow_data_loss=arguments.allow_data_loss)
    _print_versions(arguments, "done", done)
    return 0


async def _redo(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=True) as migrator:
        records = await migrator.redo(allow_data_loss=arguments.allow_data_loss)
    _print_records(arguments, records)
    return 0


async def _baseline(arguments: argparse.Namespace) -> int:
    if not is_there(arguments.db):
        raise CliError(f"there is no database {arguments.db} to adopt")
    async with _opened(arguments, writes=True) as migrator:
        records = await migrator.baseline(arguments.target, force=arguments.force)
    _print_records(arguments, records)
    return 0


async def _validate(arguments: argparse.Namespace) -> int:
    if not is_there(arguments.db):
        arguments.db = ":memory:"  # the migrations alone
    async with _opened(arguments, writes=arguments.db == ":memory:") as migrator:
        validation = await migrator.validate()
    if arguments.json:
        print_json(validation)
    else:
        for finding in validation.findings:
            _print_finding(finding, "")
        tried, found = len(validation.trials), len(validation.findings)
        print(f"{plural(tried, 'migration')}, {plural(found, 'finding')}")
    return int(not validation.valid)


async def _drift(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=False) as migrator:
        drift = await migrator.drift()
    if arguments.json:
        print_json(drift)
    else:
        for difference in drift.differences:
            print(for_terminal(str(difference)))
        since = f", since version {drift.after}" if drift.after is not None else ""
        print(f"{drift.likeness.value}{since}")
    order = [each.value for each in Likeness]
    return int(order.index(drift.likeness.value) > order.index(arguments.accept))


async def _rehearse(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, writes=arguments.then_apply) as migrator:
        report = await migrator.rehearse(
            arguments.target,
            seed=arguments.seed,
            then_apply=arguments.then_apply,
            directory=arguments.directory,
        )
    if arguments.json:
        print_json(report)
        return int(not report.passed)
    if report.steps:
        print_table(
            ["version", "description", "class", "up", "guard", "down", "lost", "why"],
            [_trial_row(trial) for trial in report.steps],
            colours=["red" if trial.error else None for trial in report.steps],
            right=["version", "up", "guard", "down"],
        )
    for seeded in report.seeded:
        if seeded.problem:
            told = f"{seeded.table} got only {seeded.rows} made-up rows: {seeded.problem}"
            print(for_terminal(told))
    print(
        f"{plural(len(report.steps), 'step')}, for SQLite {report.minimum_sqlite} and later, on a"
        f" copy of {report.bytes_copied:,} bytes; {len(report.applied)} applied"
    )
    return int(not report.passed)


async def _dump(arguments: argparse.Namespace) -> int:
    async with Database(":memory:", config=CONFIG) as db:
        text = await Migrator(db, load_migrations(arguments.migrations)).dump(expected=True)
    try:
        if arguments.check is not None:
            same = Path(arguments.check).read_text(encoding="utf-8") == text
            print(f"{arguments.check} {'is' if same else 'is not'} what the migrations make")
            return int(not same)
        if arguments.output is not None:
            with replacing(Path(arguments.output)) as file:
                file.write(text.encode())
            return 0
    except (OSError, UnicodeDecodeError) as error:
        file = arguments.check or arguments.output
        raise CliError(f"{file} can't be used: {getattr(error, 'strerror', error)}") from error
    sys.stdout.write(for_terminal(text))
    return 0


async def _new(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.migrations)
    if not folder.is_dir():
        spec = importlib.util.find_spec(arguments.migrations)
        if spec is None or not spec.submodule_search_locations:
            raise CliError(f"{arguments.migrations} is neither a directory nor a package")
        folder = Path(spec.submodule_search_locations[0])
    files = [str(file) for file in new_migration(folder, arguments.name)]
    if arguments.json:
        print_json(files)
    else:
        print(*files, sep="\n")
    return 0


# -- printing ------------------------------------------------------------------------------------


def _row(record: Record) -> list[str]:
    if record.success and record.statements_done:
        state = f"half taken back, behind statement {record.statements_done}"
    elif record.success:
        state = "applied"
    elif record.statements_done:
        state = f"half applied: {record.error_message}"
    else:
        state = f"failed: {record.error_message}"
    return [
        f"{record.version}",
        record.description,
        state,
        age(record.applied_at),
        f"{record.execution_time_ms:,.1f} ms",
        f"{record.guard_time_ms:,.1f} ms",
        record.reversibility.value if record.reversibility else "",
    ]


def _print_steps(rows: list[list[str]]) -> None:
    titles = ["version", "description", "state", "at", "took", "guard", "class"]
    print_table(
        titles,
        [row + [""] * (len(titles) - len(row)) for row in rows],
        colours=[{"applied": None, "pending": "yellow"}.get(row[2], "red") for row in rows],
        right=["version", "took", "guard"],
    )


def _print_records(arguments: argparse.Namespace, records: list[Record]) -> None:
    if arguments.json:
        for record in records:
            print_json(record)
    elif records:
        _print_steps([_row(record) for record in records])
    else:
        print("nothing to do" if arguments.does is not _history else "there is no history yet")


def _print_versions(arguments: argparse.Namespace, done: str, versions: list[int]) -> None:
    if arguments.json:
        print_json({"versions": versions})
    else:
        print(f"{done}: {', '.join(map(str, versions))}" if versions else "nothing to do")


def _print_finding(finding: Finding, indent: str = "  ") -> None:
    print(indent + colour(for_terminal(str(finding)), _LEVELS[finding.level]))


def _trial_row(trial: Trial) -> list[str]:
    return [
        f"{trial.version}",
        trial.description,
        "failed" if trial.error else trial.reversibility.value,
        f"{trial.up_seconds:.3f} s",
        f"{trial.guard_seconds:.3f} s",
        f"{trial.down_seconds:.3f} s",
        ", ".join(map(str, trial.lost)),
        trial.error or trial.reason or "",
    ]


if __name__ == "__main__":
    sys.exit(run_tool("migrate"))
