"""Say how a database is: whether it is whole, what takes room, what slows it, what to do.

Nothing is written, and the application may go on meanwhile. Exit codes: 0 fine, perhaps with
warnings; 1 something is wrong; 2 usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import timedelta

from abt_db.builds.logs import Logs
from abt_db.database import Database
from abt_db.errors import MigrationError
from abt_db.maintenance import (
    Diagnosis,
    Finding,
    Metrics,
    Process,
    Severity,
    command,
    examine,
    measure,
    prometheus,
    readable,
)
from abt_db.maintenance.findings import LARGE
from abt_db.migrations import Likeness, Migrator, load_migrations
from abt_db.schema import APPLICATION_ID
from abt_db.sql.query import Query
from abt_db.tools.cli import CliError, run_tool
from abt_db.tools.meter import Meter
from abt_db.tools.output import colour, for_terminal, print_json, print_table, printable

APPLICATION = Query("doctor.application_id", "PRAGMA application_id", int)
SIZE = Query(
    "doctor.size", "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", int
)
TABLES = 12
"""The largest tables that are shown."""
OLD = 90
"""Days for which the log of a build is worth its room, in a large database."""
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--full", action="store_true", help="hold every index against its table as well: slower"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument(
        "--prometheus",
        action="store_true",
        help="figures alone, as Prometheus reads them; cheap: sizes and counts of a database over"
        " 64 MiB only with --full",
    )


async def run(arguments: argparse.Namespace) -> int:
    meter = Meter()
    meter.telling("doctor")
    try:
        async with meter:
            if arguments.prometheus:
                figures = await measure(arguments.db, thorough=arguments.full or None)
            else:
                diagnosis = await examine(arguments.db, full=arguments.full, also=_of_builds)
    except FileNotFoundError:
        raise CliError(
            f"there is no database {arguments.db}; name one at the end, with --db or in ABT_DB"
        ) from None
    except OSError as error:
        raise CliError(f"{arguments.db} can't be read: {error.strerror}") from error
    if arguments.prometheus:
        sys.stdout.write(for_terminal(prometheus(figures)))
        return 0
    if arguments.json:
        print_json(diagnosis)
    else:
        _print(diagnosis)
    return int(not diagnosis.healthy)


async def _of_builds(db: Database) -> Sequence[Finding]:
    """How a build database stands to its migrations, and what of it could go."""
    if await db.fetch_one(APPLICATION()) != APPLICATION_ID:
        return []
    migrator = Migrator(db, load_migrations("abt_db.schema"), application_id=APPLICATION_ID)
    try:
        pending = await migrator.pending()
        drift = await migrator.drift()
    except MigrationError as error:
        return [Finding(Severity.ERROR, "migrations", str(error))]
    size = await db.fetch_one(SIZE()) or 0
    old = await Logs(db).prunable(timedelta(days=OLD)) if size > LARGE and not pending else None
    found = [
        Finding(
            Severity.WARNING,
            "migrations",
            f"{len(pending)} migrations are pending, from version {pending[0].version} on",
            command("migrate up", db.path),
        )
        for _ in pending[:1]
    ]
    if old is not None and old.lines:
        found.append(
            Finding(
                Severity.NOTE,
                "size",
                f"{old.lines:,} lines in the logs of {old.builds:,} builds are older than {OLD}"
                " days",
                command("prune", db.path, f"--older-than {OLD}d"),
            )
        )
    for difference in drift.differences:
        bad = difference.likeness in (Likeness.DIFFERENT, Likeness.UNORDERED)
        found.append(
            Finding(
                Severity.ERROR if bad else Severity.NOTE,
                "schema",
                f"{difference}: not what the migrations make",
                command("migrate drift", db.path),
            )
        )
    return found


# -- printing ------------------------------------------------------------------------------------


def _print(diagnosis: Diagnosis) -> None:
    figures = diagnosis.metrics
    print(colour(printable(diagnosis.path), "dim"))
    if figures is not None:
        _print_figures(figures, diagnosis)
    others = [each for each in diagnosis.processes or () if each.pid != os.getpid()]
    if others:
        print("open in " + ", ".join(map(_who, others)))
    if figures is not None:
        _print_tables(figures)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for finding in diagnosis.findings:
        print()
        shade = _COLOURS[finding.severity]
        print(colour(f"{finding.severity.value}, {finding.subject}:", shade))
        print(
            textwrap.fill(
                printable(finding.message), width, initial_indent="  ", subsequent_indent="  "
            )
        )
        if finding.remedy:
            # Not broken: it may be a command to be copied.
            print(f"  → {printable(finding.remedy)}")
    counts = [
        (sum(finding.severity is severity for finding in diagnosis.findings), severity.value)
        for severity in (Severity.ERROR, Severity.WARNING)
    ]
    told = ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in counts if n)
    print()
    print(colour(told or "nothing is wrong", None if told else "green"))


def _print_figures(figures: Metrics, diagnosis: Diagnosis) -> None:
    (settings, *_) = diagnosis.settings.values()
    print(
        f"{readable(figures.size)} in {figures.pages:,} pages of {figures.page_size:,} bytes,"
        f" {readable(figures.free_size)} of them free; log {readable(figures.log_size)};"
        f" {readable(figures.disk_free or 0)} left on the disk"
    )
    print(
        f"SQLite {figures.sqlite_version}, journal mode {figures.journal_mode}, auto_vacuum"
        f" {('none', 'full', 'incremental')[settings['auto_vacuum']]}; {diagnosis.check} check"
        " passed"
    )


def _who(process: Process) -> str:
    doing = " writes" if process.writes else " reads" if process.views else ""
    return f"{process.pid} ({printable(process.command) or 'of another user'}){doing}"


def _print_tables(figures: Metrics) -> None:
    indexes = {
        table.name: [each for each in figures.indexes if each.table == table.name]
        for table in figures.tables
    }
    shown = figures.tables[:TABLES]
    if not shown:
        return
    print()
    print_table(
        ["table", "rows", "size", "indexes", "size of these"],
        [
            [
                table.name,
                f"{table.rows:,}" if table.rows is not None else "",
                "" if table.size is None else readable(table.size),
                f"{len(indexes[table.name])}" if indexes[table.name] else "",
                readable(sum(each.size or 0 for each in indexes[table.name]))
                if indexes[table.name] and table.size is not None
                else "",
            ]
            for table in shown
        ],
        right=["rows", "size", "indexes", "size of these"],
    )
    if len(figures.tables) > TABLES:
        print(colour(f"and {len(figures.tables) - TABLES} smaller ones", "dim"))


if __name__ == "__main__":
    sys.exit(run_tool("doctor"))
