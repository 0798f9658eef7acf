"""Copy the database into a directory of backups, while it is in use.

The copy is checked, and is there whole or not at all.
"""

from __future__ import annotations

import argparse
import sys

from abt_db.maintenance import backup
from abt_db.tools.care import find, megabytes
from abt_db.tools.cli import positive, run_tool
from abt_db.tools.meter import Meter
from abt_db.tools.output import for_terminal, print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="where backups are kept")
    parser.add_argument(
        "--keep",
        type=positive,
        metavar="N",
        help="remove the oldest backups of this database, so that N are left; those made before it"
        " was moved, or by an earlier release, are not known for its own and stay",
    )
    parser.add_argument("--compress", choices=["gzip", "xz"], help="with which kind of compression")
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    path, meter = find(arguments), Meter()
    async with meter:
        done = await backup(
            path,
            arguments.directory,
            keep=arguments.keep,
            compression=arguments.compress,
            tell=meter.telling("backup"),
        )
    if arguments.json:
        print_json(
            {
                "path": str(done.path),
                "size": done.size,
                "database_size": done.database_size,
                "seconds": done.seconds,
                "removed": [str(path) for path in done.removed],
            }
        )
    else:
        print(f"{done.path}: {megabytes(done.size)} in {done.seconds:.1f} s")
        for old in done.removed:
            print(for_terminal(f"removed {old}"))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("backup"))
