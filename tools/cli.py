"""`abt-db`: finds the command, and says in one sentence what went wrong.

Exit codes: 0 fine, 1 failed, 2 wrong usage; `abt-db record` answers with the command's own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import logging
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TextIO

from abt_db.builds import Build, BuildStore, Project
from abt_db.config import Config
from abt_db.errors import AbtDbError
from abt_db.tools.output import for_terminal

__all__ = [
    "CONFIG",
    "CliError",
    "UsageError",
    "find_build",
    "find_project",
    "is_there",
    "main",
    "name",
    "open_store",
    "positive",
    "run_tool",
    "seconds",
]

DEFAULT_DATABASE = "android_build_tool.db"

# A command is one caller: one reader is enough, and little memory beside a build that needs it.
CONFIG = Config(readers=1, cache_size=16 * 1024 * 1024)

# In the order of `abt-db --help`. Imported when they are asked for.
COMMANDS = (
    *("record", "builds", "logs", "projects", "stats", "report", "import", "export", "prune"),
    *("migrate", "vacuum", "checkpoint", "backup", "restore", "optimize", "integrity", "doctor"),
    "bench",
)
WITHOUT_DATABASE = ("bench",)  # it makes its own


class CliError(Exception):
    """Something that the person at the terminal can put right; told in one sentence."""


class UsageError(CliError):
    """A command line that can't be understood."""

    exit_code = 2


class Tool(Protocol):
    """What the module of a command has; the first line of its docstring is its help."""

    __doc__: str | None

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's own arguments."""

    async def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `abt-db` with `argv` (the process's own arguments if None); return the exit code."""
    parser = argparse.ArgumentParser(
        prog="abt-db", description="Record builds into SQLite, and look at them."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        _add(commands, name)
    return _run(parser, sys.argv[1:] if argv is None else argv)


def run_tool(name: str) -> int:
    """Run one command as a script of its own: `python tools/builds.py …`."""
    tool = _tool(name)
    parser = argparse.ArgumentParser(description=tool.__doc__)
    _declare(parser, name, tool)
    return _run(parser, sys.argv[1:])


def _tool(name: str) -> Tool:
    tool: Tool = importlib.import_module(f"abt_db.tools.{name}")
    return tool


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    tool = _tool(name)
    summary = (tool.__doc__ or "").partition("\n")[0]
    _declare(commands.add_parser(name, help=summary, description=tool.__doc__), name, tool)


def _declare(parser: argparse.ArgumentParser, name: str, tool: Tool) -> None:
    if name not in WITHOUT_DATABASE:
        parser.add_argument(
            "--db",
            metavar="FILE",
            default=os.environ.get("ABT_DB") or DEFAULT_DATABASE,
            help=f"the database (default: $ABT_DB, or {DEFAULT_DATABASE} in this directory)",
        )
    tool.arguments(parser)
    parser.set_defaults(run=tool.run)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    _open_streams()
    try:
        arguments = parser.parse_args(argv)
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
        code: int = asyncio.run(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except (AbtDbError, CliError) as error:
        told = "\n".join([f"{parser.prog}: {error}", *getattr(error, "__notes__", ())])
        with suppress(BrokenPipeError):
            print(for_terminal(told, sys.stderr), file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except BrokenPipeError:
        return 0  # the reader, `head` for one, has seen enough
    except KeyboardInterrupt:
        return 130
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drop_unreadable(stream)


def _drop_unreadable(stream: TextIO) -> None:
    """Send what is buffered for a reader that has gone nowhere: Python, too, flushes at exit, and
    the exit code would be 120."""
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record), sys.stderr)


def _open_streams() -> None:
    """Open what the shell has closed, with `2>&-` for one. Otherwise Python has None there, and
    what is printed to it goes to standard output."""
    for stream, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, stream) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, stream, os.fdopen(nowhere, mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file need not be text. In JSON this is the way to write what is not.
        sys.stdout.reconfigure(errors="backslashreplace")


def positive(number: str) -> int:
    """An argument that is a whole number from 1."""
    if not number.isdecimal() or not 0 < int(number) < 2**63:
        raise argparse.ArgumentTypeError(f"{number!r} is not a whole number from 1")
    return int(number)


def seconds(number: str) -> float:
    """An argument that is a number of seconds above 0."""
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{number!r} is not a number of seconds above 0")
    return value


def name(text: str) -> str:
    """An argument that names something: one line that is not empty."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a name")
    return text


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is anything at a path; `CliError` where this user may not look."""
    try:
        return Path(path).exists()
    except OSError as error:
        raise CliError(f"{path} can't be opened: {error.strerror}") from error


async def open_store(
    database: str, *, create: bool = False, busy_timeout: float = CONFIG.busy_timeout
) -> BuildStore:
    """Open the build database; one that is only looked at has to be there."""
    if not create and not is_there(database):
        raise CliError(
            f"there is no database {database}; `abt-db record` makes one, --db or ABT_DB names"
            " another"
        )
    try:
        Path.cwd()
    except FileNotFoundError:
        raise CliError("the working directory has been removed; change to another one") from None
    return await BuildStore.open(database, config=replace(CONFIG, busy_timeout=busy_timeout))


async def find_project(store: BuildStore, name: str) -> Project:
    """Return the project of this name."""
    if project := await store.projects.get_by_name(name):
        return project
    raise CliError(f"there is no project {name!r}; see: abt-db projects")


async def find_build(store: BuildStore, name: str) -> Build:
    """Return the build that `name` means: PROJECT#NUMBER, PROJECT (its last build), or an id.

    The name of a project goes before an id.
    """
    project_name, _, number = name.rpartition("#")
    build = None
    if not number.isdecimal() or len(number) > 19 or int(number) >= 2**63:
        number = ""
    if project_name and number:
        project = await store.projects.get_by_name(project_name)
        if project is not None:
            build = await store.builds.get_by_number(project.id, int(number))
    elif project := await store.projects.get_by_name(name):
        last = await store.builds.get_all(1, order_by="-build_number", project_id=project.id)
        build = last[0] if last else None
    elif number:
        build = await store.builds.get_by_id(int(number))
    if build is None:
        raise CliError(f"there is no build {name!r}; see: abt-db builds")
    return build


if __name__ == "__main__":
    sys.exit(main())
