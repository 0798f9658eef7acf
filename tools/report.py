"""Make a page about how builds have gone, to be looked at in a browser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from abt_db.files.copying import is_part_of
from abt_db.files.parts import replacing
from abt_db.tools.cli import CliError, positive, run_tool
from abt_db.tools.store import find_project, open_store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "projects", nargs="*", metavar="PROJECT", help="only these projects (default: all)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="where the page goes, in place of what is there, as private as that and as the"
        " database; - for standard output",
    )
    parser.add_argument(
        "--days", type=positive, metavar="N", help="only builds of the last N days (default: all)"
    )


async def run(arguments: argparse.Namespace) -> int:
    output = None if arguments.output == "-" else Path(arguments.output)
    if output is not None:
        _require_writable(output, arguments.db)
    async with await open_store(arguments.db) as store:
        only = [(await find_project(store, name)).id for name in arguments.projects]
        page = await store.report(days=arguments.days, projects=only or None)
    content = page.encode()
    if output is None:
        sys.stdout.buffer.write(content)
        return 0
    try:
        with replacing(output, of=Path(arguments.db)) as file:
            file.write(content)
    except OSError as error:
        raise CliError(f"{output} can't be written: {error.strerror}") from error
    print(f"abt-db: {output}, {len(content) / 1000:,.0f} kB", file=sys.stderr)
    return 0


def _require_writable(output: Path, database: str) -> None:
    """Refuse what would be a mistake before any work is done."""
    if output.is_dir():
        raise CliError(f"{output} is a directory; name a file in it")
    if not output.parent.is_dir():
        raise CliError(f"there is no directory {output.parent} to write {output.name} into")
    if is_part_of(database, output):
        raise CliError(f"{output} is the database; name another file for the page")


if __name__ == "__main__":
    sys.exit(run_tool("report"))
