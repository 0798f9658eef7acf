"""Add the projects and builds of history files that are not there yet."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from abt_db.builds import history
from abt_db.builds.importer import MAX_LINE, ImportReport
from abt_db.builds.report.wording import plural
from abt_db.builds.store import BuildStore
from abt_db.tools.cli import CliError, positive, run_tool
from abt_db.tools.output import for_terminal, print_json
from abt_db.tools.progress import Bar
from abt_db.tools.store import open_store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = history.__doc__
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file; - is standard input")
    parser.add_argument(
        "--max-line",
        type=positive,
        default=MAX_LINE,
        metavar="BYTES",
        help=f"leave out lines that are longer (default {MAX_LINE:,})",
    )
    parser.add_argument(
        "--index",
        action="store_true",
        help="put the lines into the index of `logs --search`, which takes longer than the import;"
        " until then, or until builds that are recorded do it, a search reads them one by one",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a file: what was done")


async def run(arguments: argparse.Namespace) -> int:
    bad = added = 0
    async with await open_store(arguments.db, create=True, busy_timeout=60.0) as store:
        for file in arguments.files:
            try:
                with Bar("lines") as bar:
                    report = await store.import_file(
                        file, max_line=arguments.max_line, progress=partial(_show, bar)
                    )
            except OSError as error:
                raise CliError(f"{file} can't be read: {error.strerror}") from None
            bad += report.bad
            added += report.log_lines
            _tell(report)
            if arguments.json:
                print_json(report)
        if arguments.index:
            await _index(store, added)
    return 1 if bad else 0


async def _index(store: BuildStore, added: int) -> None:
    """Put the lines that were added, and any that were not in it yet, into the search index."""
    with Bar("lines") as bar:
        await store.logs.index(
            progress=lambda done: bar.show(
                done, max(done, added), f"{done:,} lines in the search index", done
            )
        )


def _show(bar: Bar, report: ImportReport) -> None:
    text = f"{plural(report.builds, 'build')}, {plural(report.log_lines, 'line')}"
    bar.show(report.read, report.size, text, report.log_lines)


def _tell(report: ImportReport) -> None:
    """Say what came of a file; standard output is for data."""
    told = [str(line) for line in report.bad_lines]
    if (more := report.bad - len(told)) > 0:
        told.append(f"{report.file} has {plural(more, 'more such line')}")
    there = f"; {report.present:,} were there already" if report.present else ""
    bad = f"; {plural(report.bad, 'bad line')} left out" if report.bad else ""
    told.append(
        f"{report.file}: {plural(report.projects, 'project')},"
        f" {plural(report.builds, 'build')}, {plural(report.log_lines, 'line')} added"
        f"{there}{bad}"
    )
    for line in told:
        print(for_terminal(f"abt-db: {line}", sys.stderr), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_tool("import"))
