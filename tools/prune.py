"""Remove the log lines of old builds; the builds themselves are kept."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import timedelta

from abt_db.builds.models import Pruned
from abt_db.builds.report.wording import plural
from abt_db.tools.cli import run_tool
from abt_db.tools.output import print_json
from abt_db.tools.store import open_store

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        type=period,
        required=True,
        metavar="AGE",
        help="of builds that ended longer ago than this: 90d, 12w, 36h",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--json", action="store_true", help="the counts as a JSON object")


def period(text: str) -> timedelta:
    """An argument that is a number of hours, days or weeks, of a hundred years at most."""
    match = re.fullmatch(r"(\d{1,6})([hdw])", text, re.ASCII)
    found = match and timedelta(**{_UNITS[match[2]]: int(match[1])})
    if not found or found > timedelta(days=36_525):
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 90d, 12w or 36h")
    return found


async def run(arguments: argparse.Namespace) -> int:
    age: timedelta = arguments.older_than
    async with await open_store(arguments.db) as store:
        pruned = await store.logs.prunable(age)
        if not arguments.dry_run:
            shows = sys.stderr.isatty()
            total = f"{pruned.lines:,}"

            def show(gone: Pruned) -> None:
                print(f"\r{gone.lines:,} of {total} lines", end="", file=sys.stderr, flush=True)

            pruned = await store.logs.prune(age, progress=show if shows else None)
            if shows and pruned.lines:
                print(file=sys.stderr)
    if arguments.json:
        print_json(pruned)
    else:
        verb = "would remove" if arguments.dry_run else "removed"
        print(f"{verb} {plural(pruned.lines, 'line')} of {plural(pruned.builds, 'build')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("prune"))
