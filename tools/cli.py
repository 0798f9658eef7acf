"""`abt-db`: finds the command, and says in one sentence what went wrong.

Exit codes: 0 fine, 1 failed, 2 wrong usage; `abt-db record` answers with the command's own.
"""

from __future__ import annotations

import argparse
import importlib
import io
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

DEFAULT_DATABASE = "android_build_tool.db"

# In the order of `abt-db --help`, which prints these lines: the first of the docstring of each
# command's module. That is imported when there are arguments for it, for it takes time.
COMMANDS = {
    "record": "Run a build and record it: every line of its output, and how it ended.",
    "builds": "List builds, newest first.",
    "logs": "Show the log of a build, or search all logs.",
    "projects": "List projects, with how their builds have gone.",
    "stats": (
        "Show how builds have gone: how many succeeded, how long they took, which were slow or"
        " flaky."
    ),
    "report": "Make a page about how builds have gone, to be looked at in a browser.",
    "import": "Add the projects and builds of history files that are not there yet.",
    "export": "Write projects and builds into a history file, which `abt-db import` reads.",
    "prune": "Remove the log lines of old builds; the builds themselves are kept.",
    "migrate": "Bring the schema of a database up to date, look ahead, go back, rehearse.",
    "vacuum": "Make the database smaller, or write a compact copy of it, while it is in use.",
    "checkpoint": "Move pages of the write-ahead log into the database, while it is in use.",
    "backup": "Copy the database into a directory of backups, while it is in use.",
    "restore": "Put a backup into the place of the database, which nobody may have open.",
    "optimize": (
        "Bring the statistics up to date by which SQLite plans queries, while the database is in"
        " use."
    ),
    "integrity": "Look for damage in the database, while it is in use.",
    "doctor": (
        "Say how a database is: whether it is whole, what takes room, what slows it, what to do."
    ),
    "bench": "Measure abt_db beside its peers, and a database layer of your own, in one run.",
}
WITHOUT_DATABASE = ("bench",)  # it makes its own
ONE_FILE = ["prune", "vacuum", "checkpoint", "backup", "restore", "optimize", "integrity", "doctor"]
"""Whose last argument may be the database; `migrate` has verbs for which that is so."""


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
    parser = _Parser(prog="abt-db", description="Record builds into SQLite, and look at them.")
    add_database(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary).command = name
    return _run(parser, sys.argv[1:] if argv is None else argv)


def run_tool(name: str) -> int:
    """Run one command as a script of its own: `python tools/builds.py …`."""
    parser = _Parser()
    parser.command = name
    return _run(parser, sys.argv[1:])


class _Parser(argparse.ArgumentParser):
    """The arguments of a command, whose module is imported when there are any to be parsed."""

    command: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        command, self.command = self.command, None
        if command is not None:
            tool: Tool = importlib.import_module(f"abt_db.tools.{command}")
            self.description = tool.__doc__
            self.set_defaults(run=tool.run)
            if command not in WITHOUT_DATABASE:
                add_database(self)
            tool.arguments(self)
            if command in ONE_FILE:
                add_file(self)
        return super().parse_known_args(args, namespace)


# What names the database, each under a name of its own: a parser hides what the one before it has
# found under the same.
_NAMED = "database "
_LAST = _NAMED + "that stands last"


def add_database(parser: argparse.ArgumentParser) -> None:
    """Let --db name the database."""
    parser.add_argument(
        "--db",
        dest=_NAMED + parser.prog,
        metavar="FILE",
        help=f"the database (default: $ABT_DB, or {DEFAULT_DATABASE} in this directory)",
    )


def add_file(parser: argparse.ArgumentParser) -> None:
    """Let the last argument name the database, as --db does."""
    parser.add_argument(_LAST, nargs="?", metavar="FILE", help="the database, as --db FILE")


class NumberOrFile(argparse.Action):
    """A number that may be missing, so that the database, which stands last, is in its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            setattr(namespace, self.dest, None if values is None else int(values))
        except ValueError:
            self._take_file(namespace, values)

    def _take_file(self, namespace: argparse.Namespace, file: str) -> None:
        try:
            problem = None if is_there(file) else f"{file} is neither a number nor a database"
        except CliError as error:
            problem = str(error)
        if problem is not None:
            message = f"{problem}; one that is to be made is named with --db"
            raise argparse.ArgumentError(self, message)
        setattr(namespace, self.dest, None)
        setattr(namespace, _NAMED + self.dest, file)


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, and in `db` the one database that they name."""
    arguments, rest = parser.parse_known_args(argv)
    # `backup DIR --json FILE`: before Python 3.13 the parser looks for FILE right behind DIR alone.
    if len(rest) == 1 and not rest[0].startswith("-") and vars(arguments).get(_LAST, "") is None:
        setattr(arguments, _LAST, rest.pop())
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    named = [file for key, file in vars(arguments).items() if key.startswith(_NAMED)]
    files = {Path(file).absolute(): file for file in named if file is not None}
    if len(files) > 1:
        parser.error(f"more than one database is named: {', '.join(sorted(files.values()))}")
    [arguments.db] = files.values() or [os.environ.get("ABT_DB") or DEFAULT_DATABASE]
    return arguments


def _run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    _open_streams()
    try:
        return _exit_code(parser.prog, _parsed(parser, argv))
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drop_unreadable(stream)


def _exit_code(prog: str, arguments: argparse.Namespace) -> int:
    """Run a command, and print the error that ends it."""
    # Imported here, for `--help` needs none of it.
    import asyncio

    from abt_db.errors import AbtDbError
    from abt_db.tools.output import for_terminal, log_to_terminal

    log_to_terminal()
    try:
        code: int = asyncio.run(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except (AbtDbError, CliError) as error:
        told = "\n".join([f"{prog}: {error}", *getattr(error, "__notes__", ())])
        with suppress(BrokenPipeError):
            print(for_terminal(told, sys.stderr), file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except BrokenPipeError:
        return 0  # the reader, `head` for one, has seen enough
    except KeyboardInterrupt:
        return 130


def _drop_unreadable(stream: TextIO) -> None:
    """Send what is buffered for a reader that has gone nowhere: Python, too, flushes at exit, and
    the exit code would be 120."""
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


if __name__ == "__main__":
    # Not this module's own `main`: what commands raise is known to the one that they import.
    sys.exit(importlib.import_module("abt_db.tools.cli").main())
