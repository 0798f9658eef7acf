"""Put a backup into the place of the database, which nobody may have open."""

from __future__ import annotations

import argparse
import sys

from abt_db.maintenance import restore
from abt_db.tools.care import megabytes
from abt_db.tools.cli import run_tool
from abt_db.tools.meter import Meter
from abt_db.tools.output import print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", metavar="BACKUP", help="a file of `abt-db backup`")
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    meter = Meter()
    async with meter:
        done = await restore(arguments.backup, arguments.db, tell=meter.telling("restore"))
    if arguments.json:
        print_json({"path": str(done.path), "size": done.size, "seconds": done.seconds})
    else:
        print(f"{done.path}: {megabytes(done.size)} restored in {done.seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("restore"))
