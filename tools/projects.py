"""List projects, with how their builds have gone."""

from __future__ import annotations

import argparse
import sys

from abt_db.tools.cli import run_tool
from abt_db.tools.output import age, print_json, print_table
from abt_db.tools.store import open_store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--search", metavar="WORD", help="only with it in name or description")
    parser.add_argument("--active", action="store_true", help="only those that are still built")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")


async def run(arguments: argparse.Namespace) -> int:
    async with await open_store(arguments.db) as store:
        projects = await store.projects.with_build_stats(
            word=arguments.search, active=arguments.active or None
        )
    projects.sort(key=lambda project: project.name)
    if arguments.json:
        for project in projects:
            print_json(project)
        return 0
    print_table(
        ["project", "type", "builds", "successful", "last build"],
        [
            [
                project.name,
                project.project_type,
                f"{project.total_builds:,}",
                f"{project.successful_builds:,}",
                age(project.last_build_at),
            ]
            for project in projects
        ],
        colours=[None if project.is_active else "dim" for project in projects],
        right=["builds", "successful"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("projects"))
