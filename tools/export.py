"""Write projects and builds into a history file, which `abt-db import` reads."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from abt_db.builds.exporter import ExportReport
from abt_db.builds.report.wording import plural
from abt_db.tools.cli import CliError, run_tool
from abt_db.tools.progress import Bar
from abt_db.tools.store import open_store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "projects", nargs="*", metavar="PROJECT", help="only these projects (default: all)"
    )
    parser.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="as private as the database; packed if its name ends in .gz or .xz (default: -,"
        " standard output)",
    )


async def run(arguments: argparse.Namespace) -> int:
    async with await open_store(arguments.db) as store:
        try:
            with Bar("lines") as bar:
                report = await store.export_file(
                    arguments.output,
                    projects=arguments.projects,
                    progress=partial(_show, bar),
                )
        except BrokenPipeError:
            raise  # of standard output: whoever read it has seen enough
        except LookupError as error:
            raise CliError(f"{error}; see: abt-db projects") from None
        except OSError as error:
            raise CliError(f"{arguments.output} can't be written: {error.strerror}") from None
    print(
        f"abt-db: {plural(report.projects, 'project')}, {plural(report.builds, 'build')},"
        f" {plural(report.log_lines, 'line')} written",
        file=sys.stderr,
    )
    return 0


def _show(bar: Bar, report: ExportReport) -> None:
    text = f"{plural(report.builds, 'build')}, {plural(report.log_lines, 'line')}"
    bar.show(report.builds, report.total_builds, text, report.log_lines)


if __name__ == "__main__":
    sys.exit(run_tool("export"))
