"""Bring the statistics up to date by which SQLite plans queries, while the database is in use."""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from abt_db.maintenance import analyze, optimize, reindex
from abt_db.tools.care import opened
from abt_db.tools.cli import run_tool
from abt_db.tools.meter import Meter
from abt_db.tools.output import print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--full", action="store_true", help="from all rows, and not from samples; writes wait"
    )
    parser.add_argument(
        "--reindex",
        metavar="NAME",
        nargs="?",
        const="",
        help="build the indexes anew first: all, or those of that name or table; writes wait",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    began, meter = monotonic(), Meter()
    async with opened(arguments) as db, meter:
        if arguments.reindex is not None:
            meter.telling("reindex")
            await reindex(db, arguments.reindex or None)
        meter.telling("optimize")
        await (analyze(db) if arguments.full else optimize(db))
    if arguments.json:
        print_json({"seconds": monotonic() - began})
    else:
        print(f"{arguments.db}: done in {monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("optimize"))
