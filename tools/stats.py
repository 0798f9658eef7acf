"""Show how builds have gone: how many succeeded, how long they took, which were slow or flaky."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from abt_db.builds.models import BuildPeriod, BuildStatistics
from abt_db.tools.cli import positive, run_tool
from abt_db.tools.output import age, colour, duration, print_json, print_table
from abt_db.tools.store import find_project, open_store

BAR = 30
"""Characters of the longest bar."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", nargs="?", metavar="PROJECT", help="only builds of this project")
    window = parser.add_mutually_exclusive_group()
    window.add_argument(
        "--days",
        type=positive,
        default=30,
        metavar="N",
        help="builds that were started in the last N days (default 30)",
    )
    window.add_argument("--all", action="store_true", help="builds of all time")
    parser.add_argument("--json", action="store_true", help="one JSON object")


async def run(arguments: argparse.Namespace) -> int:
    days = None if arguments.all else arguments.days
    # Few enough rows to fit a screen.
    bucket = "month" if days is None or days > 366 else "week" if days > 31 else "day"
    async with await open_store(arguments.db) as store:
        project = arguments.project and (await find_project(store, arguments.project)).id
        statistics = await store.builds.statistics(project, days)
        trend = await store.builds.trend(project, bucket, days)
        slowest = await store.builds.slowest(project, 5, days)
        flaky = await store.builds.flaky(project, 5, days)
    if arguments.json:
        print_json(
            {
                "project": arguments.project,
                "days": days,
                "statistics": statistics,
                "trend": trend,
                "slowest": slowest,
                "flaky": flaky,
            }
        )
        return 0
    period = "all time" if days is None else "the last day" if days == 1 else f"{days} days"
    print(colour(f"{arguments.project or 'all projects'}, {period}", "dim"))
    if not statistics.total:
        print("no builds" if days is None else "no builds; --all looks further back")
        return 0
    _print_summary(statistics)
    _print_trend(trend, bucket)
    _print_part(
        ["slowest", "duration", "started"],
        [
            [f"{b.project_name}#{b.build_number}", duration(b.duration_seconds), age(b.started_at)]
            for b in slowest
        ],
        right=["duration"],
    )
    _print_part(
        ["flaky", "commit", "successful", "failed", "last build"],
        [
            [
                commit.project_name,
                commit.commit_hash[:10],
                str(commit.successful),
                str(commit.failed),
                age(commit.last_build_at),
            ]
            for commit in flaky
        ],
        right=["successful", "failed"],
    )
    return 0


def _print_summary(statistics: BuildStatistics) -> None:
    rate = statistics.success_rate
    shade = "dim" if rate is None else "green" if rate >= 90 else "yellow" if rate >= 60 else "red"
    figures = {
        "builds": f"{statistics.total:,}",
        **{status: f"{number:,}" for status, number in statistics.by_status.items() if number},
        "rate": "" if rate is None else f"{rate:.1f} %",
        "median": duration(statistics.median_duration),
        "mean": duration(statistics.mean_duration),
        "95 % within": duration(statistics.p95_duration),
        "longest": duration(statistics.longest_duration),
    }
    print_table([*figures], [[*figures.values()]], colours=[shade], right=[*figures])


def _print_trend(trend: Sequence[BuildPeriod], bucket: str) -> None:
    most = max((period.total for period in trend), default=0)
    _print_part(
        [f"{bucket} (UTC)", "builds", "failed", "mean", ""],
        [
            [
                f"{period.start:%Y-%m}" if bucket == "month" else f"{period.start:%Y-%m-%d}",
                f"{period.total:,}",
                f"{period.failed:,}" if period.failed else "",
                duration(period.mean_duration),
                _bar(period, most),
            ]
            for period in trend
        ],
        right=["builds", "failed", "mean"],
    )


def _bar(period: BuildPeriod, most: int) -> str:
    """The period's builds beside those of the busiest one, full for what did not fail."""
    whole = round(BAR * period.total / most)
    failed = min(whole, -(-BAR * period.failed // most))
    return "█" * (whole - failed) + "░" * failed


def _print_part(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str]
) -> None:
    if rows:
        print()
        print_table(titles, rows, right=right)


if __name__ == "__main__":
    sys.exit(run_tool("stats"))
