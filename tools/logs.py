"""Show the log of a build, or search all logs."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing

from abt_db.builds.classify import Level, without_escapes
from abt_db.builds.models import Build, LogLine
from abt_db.builds.store import BuildStore
from abt_db.builds.words import pattern, split_words
from abt_db.errors import AbtDbError
from abt_db.log import LOG
from abt_db.tools.cli import CliError, UsageError, positive, run_tool
from abt_db.tools.output import colour, local, logged, print_json, printable
from abt_db.tools.store import find_build, find_project, open_store

LOOK = 2.0
"""Seconds between two looks whether a recorder has died."""

_COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.DEBUG: "dim"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "build",
        nargs="?",
        metavar="BUILD",
        help="PROJECT#NUMBER, PROJECT (its last build), or a build's id",
    )
    parser.add_argument("--level", choices=list(Level), help="only lines as serious as this")
    parser.add_argument("--grep", metavar="TEXT", help="only lines with this text in them")
    parser.add_argument("--tail", type=positive, metavar="N", help="only the last N of them")
    parser.add_argument("--follow", action="store_true", help="go on until the build has ended")
    parser.add_argument(
        "--search",
        type=words,
        metavar="TEXT",
        help="the newest lines of all builds, or of BUILD, in which all of these words occur",
    )
    parser.add_argument("--project", metavar="NAME", help="search the builds of one project")
    parser.add_argument("--limit", type=positive, metavar="N", help="find at most N (default 50)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--times", action="store_true", help="time, level and source in front")
    form.add_argument("--raw", action="store_true", help="the very bytes that the build printed")
    form.add_argument("--json", action="store_true", help="a JSON object a line")


def words(text: str) -> str:
    """An argument that has a word in it."""
    if not text.split():
        raise argparse.ArgumentTypeError("there is no word to search for")
    return text


async def run(arguments: argparse.Namespace) -> int:
    _require_sense(arguments)
    async with await open_store(arguments.db) as store:
        if arguments.search is not None:
            await _search(store, arguments)
        else:
            build = await find_build(store, arguments.build)
            last = await _show_lines(store, build, arguments)
            if arguments.follow:
                await _follow(store, build, last, arguments)
    return 0


def _require_sense(arguments: argparse.Namespace) -> None:
    """Refuse options that have nothing to do with what is asked for."""
    searching = arguments.search is not None
    if not searching and arguments.build is None:
        raise UsageError("name a BUILD, or search all of them with --search TEXT")
    senseless = ("grep", "tail", "follow", "times", "raw") if searching else ("project", "limit")
    for option in senseless:
        if getattr(arguments, option):
            way = "with" if searching else "without"
            raise UsageError(f"--{option} does not go {way} --search")
    if arguments.project is not None and arguments.build is not None:
        raise UsageError("name a BUILD or a --project to search, not both")


async def _show_lines(store: BuildStore, build: Build, arguments: argparse.Namespace) -> int:
    """Show the lines that are there, and return the number from which to go on."""
    last = 0
    level, text = Level(arguments.level or Level.DEBUG), arguments.grep or ""
    if arguments.tail is not None:
        for line in await store.logs.tail(build.id, arguments.tail, level=level, containing=text):
            last = line.sequence_number
            _show(line, arguments)
    else:
        async with store.logs.stream(build.id, level=level, containing=text) as lines:
            async for line in lines:
                last = line.sequence_number
                _show(line, arguments)
    return last


async def _follow(
    store: BuildStore, build: Build, last: int, arguments: argparse.Namespace
) -> None:
    """Show the lines that come behind number `last`, until the build has ended."""
    sys.stdout.flush()
    looking = asyncio.create_task(_notice_deaths(store))
    try:
        async with aclosing(store.logs.follow(build.id, after=last)) as lines:
            async for line in lines:
                if _wanted(line, arguments):
                    _show(line, arguments)
                    sys.stdout.flush()
    except LookupError as error:
        raise CliError(f"{error} any more") from None
    finally:
        looking.cancel()
        await asyncio.wait([looking])


async def _notice_deaths(store: BuildStore) -> None:
    """Now and then note as failed what is recorded by nobody any more: it would never end."""
    try:
        while True:
            await store.fail_abandoned()
            await asyncio.sleep(LOOK)
    except AbtDbError as error:
        LOG.warning("abt-db: whether the recorder is still there can't be noted: %s", error)


async def _search(store: BuildStore, arguments: argparse.Namespace) -> None:
    project_id = build_id = None
    if arguments.build is not None:
        build_id = (await find_build(store, arguments.build)).id
    if arguments.project is not None:
        project_id = (await find_project(store, arguments.project)).id
    limit = arguments.limit or 50
    matches = await store.logs.search(
        arguments.search,
        project_id=project_id,
        build_id=build_id,
        level=Level(arguments.level or Level.DEBUG),
        limit=limit,
    )
    sought = pattern(split_words(arguments.search))
    for match in matches:
        if arguments.json:
            print_json(match)
        else:
            text = sought.sub(
                lambda found: colour(found[0], "red"), printable(without_escapes(match.message))
            )
            project = printable(match.project_name)
            print(f"{project}#{match.build_number}:{match.sequence_number}: {text}")
    if len(matches) == limit and sys.stderr.isatty():
        print(f"abt-db: the newest {limit:,}; --limit N shows more", file=sys.stderr)


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
            text = f"{local(line.timestamp):%H:%M:%S.%f}"[:-3] + (
                f" {line.level:<7}{source} {text}"
            )
        print(colour(text, _COLOURS.get(line.level)))


def _shown(message: str) -> str:
    """What a terminal was left with: progress bars write over themselves with "\\r"."""
    return logged(message.rstrip("\r").rpartition("\r")[2])


if __name__ == "__main__":
    sys.exit(run_tool("logs"))
