"""The figures of a report, read from the database in one snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from abt_db.connection.session import Session
from abt_db.database import Database
from abt_db.sql.values import Json

from . import queries
from .figures import BuildMark, Figures, ProjectReport, Report, Unit
from .problems import count_problems

T = TypeVar("T", Figures, BuildMark)

PROJECTS = 150
"""Projects that are shown, those built last: what a page may hold."""

LAST_BUILDS = 60
"""Builds that are shown of each project."""

LISTED = 12
"""Entries of a list: the slowest builds, the most frequent errors."""

_EVER = datetime.min.replace(tzinfo=UTC)


async def gather(
    db: Database,
    *,
    now: datetime,
    days: int | None = None,
    projects: Collection[int] | None = None,
) -> Report:
    """Return what there is to tell about the builds of the last `days` (all if None).

    `projects` are the ids of those that it is about (all if None). It has a reader to itself for as
    long as it takes, and one consistent view. Memory is bounded, however many builds and lines
    there are, beside what SQLite needs to sort the durations.
    """
    return await db.read(_gather, Path(db.path).name, now.astimezone(UTC), days, projects)


def _gather(
    cx: Session, database: str, now: datetime, days: int | None, only: Collection[int] | None
) -> Report:
    since = None if days is None else now - timedelta(days=min(days, (now - _EVER).days))
    chosen = {"since": since or _EVER, "projects": None if only is None else Json(sorted(only))}
    totals = cx.fetch_one(queries.REPORT_TOTALS(**chosen))
    unit = Unit.dividing(totals.last_at - totals.first_at) if totals else Unit.DAY
    divided = {"unit": unit, "width": unit.width}
    by_project = cx.fetch_all(queries.REPORT_BY_PROJECT(**chosen, limit=PROJECTS))
    shown = {**chosen, "projects": Json([figures.project_id for figures in by_project])}
    problems, exact = count_problems(cx.stream(queries.REPORT_ERRORS(**chosen)), LISTED)
    sized = cx.fetch_one(queries.REPORT_CAN_SIZE_TABLES())
    file_size, free_size = cx.fetch_one(queries.REPORT_FILE_SIZE()) or (0, 0)
    named = {
        project.id: project
        for project in cx.fetch_all(queries.REPORT_PROJECTS(projects=shown["projects"]))
    }
    parts = _of_each(cx.fetch_all(queries.REPORT_BY_PROJECT_AND_TIME(**shown, **divided)))
    last_builds = _of_each(cx.fetch_all(queries.REPORT_LAST_BUILDS(**shown, limit=LAST_BUILDS)))
    return Report(
        database=database,
        now=now,
        since=since,
        named=only is not None,
        totals=totals,
        unit=unit,
        parts=tuple(cx.fetch_all(queries.REPORT_BY_TIME(**chosen, **divided))),
        projects=tuple(
            ProjectReport(
                named[figures.project_id],
                figures,
                tuple(parts[figures.project_id]),
                tuple(last_builds[figures.project_id]),
            )
            for figures in by_project
            if figures.project_id is not None
        ),
        project_count=cx.fetch_one(queries.REPORT_PROJECT_COUNT(**chosen)) or 0,
        failing=cx.fetch_one(queries.REPORT_FAILING(**chosen)) or 0,
        idle=tuple(cx.fetch_all(queries.REPORT_IDLE(**chosen, limit=LISTED))),
        idle_count=cx.fetch_one(queries.REPORT_IDLE_COUNT(**chosen)) or 0,
        log_lines=cx.fetch_one(queries.REPORT_LINE_COUNT(**chosen)) or 0,
        slowest=tuple(cx.fetch_all(queries.REPORT_SLOWEST(**chosen, limit=LISTED))),
        flaky=tuple(cx.fetch_all(queries.REPORT_FLAKY(**chosen, limit=LISTED))),
        problems=tuple(problems),
        problems_exact=exact,
        tables=tuple(cx.fetch_all(queries.REPORT_TABLES())) if sized else (),
        file_size=file_size,
        free_size=free_size,
    )


def _of_each(rows: Iterable[T]) -> defaultdict[int | None, list[T]]:
    """The rows of each project."""
    found: defaultdict[int | None, list[T]] = defaultdict(list)
    for row in rows:
        found[row.project_id].append(row)
    return found
