"""Look for damage in the database, while it is in use.

Exit codes: 0 none; 1 failed, or there is damage; 2 usage.
"""

from __future__ import annotations

import argparse
import sys

from abt_db.maintenance import check, command
from abt_db.tools.care import read_only
from abt_db.tools.cli import run_tool
from abt_db.tools.meter import Meter
from abt_db.tools.output import colour, for_terminal, print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--full", action="store_true", help="hold each index against its table, too; much slower"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    meter = Meter()
    async with read_only(arguments) as db, meter:
        meter.telling("integrity")
        health = await check(db, full=arguments.full)
    if arguments.json:
        print_json(health)
        return int(not health.whole)
    for problem in health.problems:
        print(colour(for_terminal(problem), "red"))
    if health.problems:
        print(f"what can be saved, and how: {command('doctor', arguments.db)}")
    for table, rows in health.dangling.items():
        told = f"{rows:,} rows of {table} refer to rows that are not there"
        print(colour(for_terminal(told), "red"))
    if health.whole:
        print(f"{arguments.db}: no damage found in {health.seconds:.1f} s")
    return int(not health.whole)


if __name__ == "__main__":
    sys.exit(run_tool("integrity"))
