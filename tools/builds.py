"""List builds, newest first."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from abt_db.builds.models import BuildStatus
from abt_db.tools.cli import positive, run_tool
from abt_db.tools.output import age, duration, print_json, print_table
from abt_db.tools.store import find_build, find_project, open_store

_COLOURS = {
    BuildStatus.SUCCESS: "green",
    BuildStatus.FAILED: "red",
    BuildStatus.CANCELLED: "yellow",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", nargs="?", metavar="PROJECT", help="only builds of this project")
    parser.add_argument("--status", choices=list(BuildStatus), help="only builds that stand so")
    parser.add_argument("--branch", metavar="NAME", help="only builds of this branch")
    parser.add_argument(
        "--after", metavar="BUILD", help="go on behind this one, the last of an earlier list"
    )
    parser.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most N (default 50)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line")


async def run(arguments: argparse.Namespace) -> int:
    async with await open_store(arguments.db) as store:
        filters: dict[str, Any] = {}
        order = "-started_at"
        if arguments.project is not None:
            filters["project_id"] = (await find_project(store, arguments.project)).id
            order = "-build_number"
        if arguments.status is not None:
            filters["status"] = BuildStatus(arguments.status)
        if arguments.branch is not None:
            filters["branch"] = arguments.branch
        after = arguments.after and await find_build(store, arguments.after)
        builds = await store.builds.summaries(
            arguments.limit, order_by=order, after=after, **filters
        )
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
