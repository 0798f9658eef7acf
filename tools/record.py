"""Run a build and record it: every line of its output, and how it ended.

Its output passes through unchanged, and its exit code is the command's.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import signal
import sys
from contextlib import suppress

from abt_db.builds.command import StopReason
from abt_db.builds.report.wording import plural
from abt_db.tools.cli import UsageError, name, run_tool, seconds
from abt_db.tools.output import duration
from abt_db.tools.store import open_store

_SIGNALS = {
    signal.SIGINT: StopReason.INTERRUPTED,
    signal.SIGTERM: StopReason.TERMINATED,
    signal.SIGHUP: StopReason.TERMINATED,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", type=name, metavar="NAME", required=True, help="what is built")
    parser.add_argument("--build-type", metavar="TYPE", help="for instance debug or release")
    parser.add_argument("--artifact", metavar="PATH", help="what it makes: path and size are noted")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help="stop it after so long (default: the project's build_timeout, at first 1800)",
    )
    parser.add_argument("--quiet", action="store_true", help="don't say how it was recorded")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="the build"
    )


async def run(arguments: argparse.Namespace) -> int:
    command = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise UsageError("there is no command to record; write it behind `--`")
    async with await open_store(arguments.db, create=True) as store:
        recorder = store.recorder(
            arguments.project,
            build_type=arguments.build_type,
            triggered_by=_user(),
            artifact=arguments.artifact,
        )
        loop = asyncio.get_running_loop()
        try:
            async with recorder:
                for number, reason in _SIGNALS.items():
                    # Those that we were started to ignore, as by nohup, stay ignored.
                    if signal.getsignal(number) is not signal.SIG_IGN:
                        loop.add_signal_handler(number, recorder.stop, reason)
                outcome = await recorder.run(command, echo=True, timeout=arguments.timeout)
        finally:  # not before it is noted how the build ended
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        if not arguments.quiet:
            build = recorder.build
            with suppress(BrokenPipeError):  # the exit code is the command's, whoever reads this
                print(
                    f"abt-db: {recorder.project.name}#{build.build_number} {build.status},"
                    f" {plural(recorder.lines, 'line')} in {duration(outcome.duration)};"
                    f" see them with: abt-db logs {recorder.project.name}#{build.build_number}",
                    file=sys.stderr,
                )
        return outcome.exit_code


def _user() -> str | None:
    """Who runs this; None where nobody has given the number a name, as in many a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter since Python 3.13
        return None


if __name__ == "__main__":
    sys.exit(run_tool("record"))
