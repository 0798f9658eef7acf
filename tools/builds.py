"""List builds, newest first."""

from __future__ import annotations

import argparse
import sys

from abt_db.builds import BuildStatus
from abt_db.tools.cli import CliError, open_store, positive, run_tool
from abt_db.tools.output import age, duration, print_json, print_table

_COLOURS = {
    BuildStatus.SUCCESS: "green",
    BuildStatus.FAILED: "red",
    BuildStatus.CANCELLED: "yellow",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", nargs="?", metavar="PROJECT", help="only builds of this project")
    parser.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most N (default 50)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line")


async def run(arguments: argparse.Namespace) -> int:
    async with await open_store(arguments.db) as store:
        if arguments.project is None:
            builds = await store.builds.latest(arguments.limit)
        else:
            project = await store.projects.get_by_name(arguments.project)
            if project is None:
                raise CliError(f"there is no project {arguments.project!r}; see: abt-db projects")
            builds = await store.builds.for_project(project.id, arguments.limit)
    if arguments.json:
        for build in builds:
            print_json(build)
        return 0
    print_table(
        ["build", "status", "started", "duration", "exit", "lines", "branch", "commit", "type"],
        [
            [
                f"{build.project_name}#{build.build_number}",
                build.status,
                age(build.started_at),
                duration(build.duration_seconds),
                "" if build.exit_code is None else str(build.exit_code),
                f"{build.log_lines:,}",
                build.branch or "",
                (build.commit_hash or "")[:10],
                build.build_type or "",
            ]
            for build in builds
        ],
        colours=[_COLOURS.get(build.status) for build in builds],
        right=["duration", "exit", "lines"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("builds"))
