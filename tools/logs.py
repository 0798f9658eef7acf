"""Show the log of a build."""

from __future__ import annotations

import argparse
import sys

from abt_db.builds import Level, LogLine
from abt_db.tools.cli import CliError, find_build, open_store, run_tool
from abt_db.tools.output import colour, print_json

_COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.DEBUG: "dim"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "build", metavar="BUILD", help="PROJECT#NUMBER, PROJECT (its last build), or a build's id"
    )
    parser.add_argument("--level", choices=list(Level), help="only lines as serious as this")
    parser.add_argument("--grep", metavar="TEXT", help="only lines with this text in them")
    parser.add_argument("--follow", action="store_true", help="go on until the build has ended")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--times", action="store_true", help="time, level and source in front")
    form.add_argument("--raw", action="store_true", help="the very bytes that the build printed")
    form.add_argument("--json", action="store_true", help="a JSON object a line")


async def run(arguments: argparse.Namespace) -> int:
    async with await open_store(arguments.db) as store:
        build = await find_build(store, arguments.build)
        if arguments.follow:
            try:
                async for line in store.logs.follow(build.id):
                    if _wanted(line, arguments):
                        _show(line, arguments)
                        sys.stdout.flush()
            except LookupError as error:
                raise CliError(f"{error} any more") from None
            return 0
        async with store.logs.stream(build.id) as lines:
            async for line in lines:
                if _wanted(line, arguments):
                    _show(line, arguments)
    return 0


def _wanted(line: LogLine, arguments: argparse.Namespace) -> bool:
    if arguments.level is not None and not line.level.at_least(Level(arguments.level)):
        return False
    return arguments.grep is None or arguments.grep in line.message


def _show(line: LogLine, arguments: argparse.Namespace) -> None:
    if arguments.raw:
        sys.stdout.buffer.write(line.data)
    elif arguments.json:
        print_json(line)
    else:
        text = _shown(line.message)
        if arguments.times:
            source = f" {line.source}" if line.source else ""
            text = f"{line.timestamp.astimezone():%H:%M:%S.%f}"[:-3] + (
                f" {line.level:<7}{source} {text}"
            )
        print(colour(text, _COLOURS.get(line.level)))


def _shown(message: str) -> str:
    """What a terminal was left with: progress bars write over themselves with "\\r"."""
    return message.rstrip("\r").rpartition("\r")[2]


if __name__ == "__main__":
    sys.exit(run_tool("logs"))
