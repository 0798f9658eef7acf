"""Move pages of the write-ahead log into the database, while it is in use.

Exit codes: 0 fine; 1 failed, or somebody was in the way and pages are left; 2 usage.
"""

from __future__ import annotations

import argparse
import sys

from abt_db.tools.care import opened
from abt_db.tools.cli import run_tool, seconds
from abt_db.tools.meter import Meter
from abt_db.tools.output import for_terminal, print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=["passive", "full", "restart", "truncate"],
        default="passive",
        help="passive waits for nobody (default); truncate waits for readers, and leaves the log"
        " empty",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="SECONDS",
        default=1.0,
        help="for those who are in the way, while nobody can write (default 1)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    meter = Meter()
    async with opened(arguments) as db, meter:
        meter.telling("checkpoint")
        done = await db.checkpoint(arguments.mode, wait=arguments.wait)
    if arguments.json:
        print_json(done)
    elif done.pages < 0 and not done.busy:
        print(f"{arguments.db} has no write-ahead log")
    elif done.pages == 0:
        print(f"{arguments.db}: the write-ahead log is empty")
    elif done.pages > 0:
        print(
            f"{arguments.db}: {done.moved:,} of the {done.pages:,} pages in the write-ahead log are"
            f" in the database now, after {done.seconds:.3f} s"
        )
    if done.busy and not arguments.json:
        print(for_terminal(f"{arguments.db}: in the way: {'; '.join(done.readers)}"))
    return int(done.busy)


if __name__ == "__main__":
    sys.exit(run_tool("checkpoint"))
