"""Make the database smaller, or write a compact copy of it, while it is in use.

Reads go on. Writes of others wait for a full VACUUM until it is done, some ten seconds a gigabyte;
--incremental and --into hold nobody up. --page-size needs the database for itself, and takes it
out of WAL mode and back.
"""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from abt_db.maintenance import Vacuumed, change_page_size, vacuum, vacuum_into, vacuum_step_by_step
from abt_db.tools.care import find, has_log, megabytes, opened
from abt_db.tools.cli import positive, run_tool, seconds
from abt_db.tools.meter import Meter
from abt_db.tools.output import print_json

PAGE_SIZES = [2**n for n in range(9, 17)]


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
    how.add_argument(
        "--page-size",
        type=int,
        choices=PAGE_SIZES,
        metavar="N",
        help="a full VACUUM, into pages of N bytes, a power of two from 512 to 65536",
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
    elif arguments.page_size is not None:
        logged = await has_log(arguments)
        async with meter:
            tell = meter.telling("vacuum" + ", out of WAL mode" * logged)
            done = await change_page_size(
                path, arguments.page_size, timeout=arguments.timeout, tell=tell
            )
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
        if arguments.page_size is not None:
            mode = "; it was taken out of WAL mode for that, and is back in it" * logged
            print(f"its pages have {arguments.page_size:,} bytes{mode}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("vacuum"))
