"""Make the database smaller, or write a compact copy of it, while it is in use.

Reads go on. Writes of others wait for a full VACUUM until it is done, some ten seconds a gigabyte;
--incremental and --into hold nobody up.
"""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from abt_db.maintenance import Vacuumed, vacuum, vacuum_into, vacuum_step_by_step
from abt_db.tools.care import find, megabytes, opened
from abt_db.tools.cli import positive, run_tool, seconds
from abt_db.tools.meter import Meter
from abt_db.tools.output import print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--incremental",
        action="store_true",
        help="give free pages back in small steps (for databases with auto_vacuum=incremental)",
    )
    how.add_argument("--into", metavar="FILE", help="write a compact copy to a new file")
    how.add_argument(
        "--make-incremental",
        action="store_true",
        help="a full VACUUM, and make --incremental possible from then on",
    )
    parser.add_argument(
        "--pages", type=positive, metavar="N", help="with --incremental: N pages at most"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up a full VACUUM after that, with nothing changed",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    path, meter = find(arguments), Meter()
    if arguments.into is not None:
        began = monotonic()
        async with meter:
            size = await vacuum_into(str(path), arguments.into, meter.telling("vacuum"))
        done = Vacuumed(path.stat().st_size, size, monotonic() - began)
    else:
        async with opened(arguments) as db, meter:
            if arguments.incremental:
                tell = meter.telling("vacuum")
                done = await vacuum_step_by_step(db, pages=arguments.pages, tell=tell)
            else:
                done = await vacuum(
                    db,
                    make_incremental=arguments.make_incremental,
                    timeout=arguments.timeout,
                    tell=meter.telling("vacuum, writes wait"),
                )
    if arguments.json:
        print_json({"before": done.before, "after": done.after, "seconds": done.seconds})
    else:
        before = f"the copy of {path} with" if arguments.into else "was"
        gained = f"{megabytes(done.gained)} gained" if done.gained > 0 else "nothing gained"
        print(
            f"{arguments.into or arguments.db}: {megabytes(done.after)}, {before}"
            f" {megabytes(done.before)}; {gained} in {done.seconds:.1f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("vacuum"))
