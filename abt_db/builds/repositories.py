"""What can be done with projects, builds and log lines: dataclasses in, dataclasses out.

Each repository is a thin face of one table: named queries from `queries`, run on the engine's
public API alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from abt_db.database import Database
from abt_db.session import Session
from abt_db.transaction import Stream as RowStream
from abt_db.values import Json

from . import queries
from .classify import Level
from .models import Build, BuildStatus, BuildSummary, LogLine, Project, ProjectSummary
from .output import Line

__all__ = ["Builds", "Logs", "Projects"]


class Projects:
    """The table `projects`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get_by_id(self, id: int) -> Project | None:
        return await self._db.fetch_one(queries.PROJECT_BY_ID(id=id))

    async def get_by_name(self, name: str) -> Project | None:
        return await self._db.fetch_one(queries.PROJECT_BY_NAME(name=name))

    async def ensure(
        self,
        name: str,
        *,
        project_type: str,
        repository_url: str,
        local_path: str,
        branch: str = "main",
    ) -> Project:
        """Return the project of this name; the rest is noted only if it has to be made first."""
        add = queries.ADD_PROJECT(
            name=name,
            project_type=project_type,
            repository_url=repository_url,
            local_path=local_path,
            branch=branch,
        )
        find = queries.PROJECT_BY_NAME(name=name)

        def ensure(cx: Session) -> Project:
            cx.execute(add)
            project = cx.fetch_one(find)
            assert project is not None
            return project

        project = await self._db.fetch_one(find)
        return project if project is not None else await self._db.write(ensure)

    async def summaries(self) -> list[ProjectSummary]:
        """Return all projects by name, with how their builds have gone."""
        return await self._db.fetch_all(queries.PROJECT_SUMMARIES())


class Builds:
    """The table `builds`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get_by_id(self, id: int) -> Build | None:
        return await self._db.fetch_one(queries.BUILD_BY_ID(id=id))

    async def get_by_number(self, project_id: int, build_number: int) -> Build | None:
        return await self._db.fetch_one(
            queries.BUILD_BY_NUMBER(project_id=project_id, build_number=build_number)
        )

    async def start(
        self,
        project_id: int,
        *,
        build_type: str | None = None,
        triggered_by: str | None = None,
        commit_hash: str | None = None,
        branch: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Build:
        """Add a running build with the project's next number, which no other build can get.

        Raises `IntegrityError` when there is no such project.
        """
        build = await self._db.fetch_one(
            queries.START_BUILD(
                project_id=project_id,
                started_at=_now(),
                commit_hash=commit_hash,
                branch=branch,
                build_type=build_type,
                triggered_by=triggered_by,
                build_metadata=Json(metadata or {}),
            )
        )
        assert build is not None
        return build

    async def end(
        self,
        id: int,
        status: BuildStatus,
        *,
        completed_at: datetime | None = None,
        duration_seconds: float | None = None,
        exit_code: int | None = None,
        artifact_path: str | None = None,
        artifact_size: int | None = None,
        memory_usage_mb: float | None = None,
        cpu_usage_percent: float | None = None,
        notes: dict[str, Any] | None = None,
    ) -> Build | None:
        """Give a pending or running build its final status; None when it has one already.

        `notes` are merged into its `build_metadata`.
        """
        if not status.final:
            raise ValueError(f"a build does not end as {status}")
        return await self._db.fetch_one(
            queries.END_BUILD(
                id=id,
                status=status,
                completed_at=completed_at or _now(),
                duration_seconds=duration_seconds,
                exit_code=exit_code,
                artifact_path=artifact_path,
                artifact_size=artifact_size,
                memory_usage_mb=memory_usage_mb,
                cpu_usage_percent=cpu_usage_percent,
                notes=Json(notes or {}),
            )
        )

    async def running(self) -> list[Build]:
        """Return the builds that run, oldest first."""
        return await self._db.fetch_all(queries.RUNNING_BUILDS())

    async def latest(self, limit: int = 50) -> list[BuildSummary]:
        """Return builds of all projects, newest first."""
        return await self._db.fetch_all(queries.LATEST_BUILDS(limit=limit))

    async def for_project(self, project_id: int, limit: int = 50) -> list[BuildSummary]:
        """Return builds of one project, newest number first."""
        return await self._db.fetch_all(
            queries.BUILDS_OF_PROJECT(project_id=project_id, limit=limit)
        )


class Logs:
    """The table `build_logs`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def append(self, build_id: int, lines: Iterable[tuple[Line, Level, str | None]]) -> int:
        """Add lines, each with its level and source, in one transaction; return how many.

        Their sequence numbers follow the last one of the build, whoever else appends to it.
        """

        def append(cx: Session) -> int:
            last = cx.fetch_one(queries.LAST_LINE(build_id=build_id)) or 0
            return cx.execute_many(queries.ADD_LINE, _rows(build_id, last, lines))

        return await self._db.write(append)

    def stream(self, build_id: int, *, after: int = 0) -> RowStream[LogLine]:
        """Return the lines of a build behind number `after`, in order and in constant memory."""
        return self._db.stream(queries.LINES(build_id=build_id, after=after))

    async def count(self, build_id: int) -> int:
        """Return how many lines a build has."""
        return await self._db.fetch_one(queries.LAST_LINE(build_id=build_id)) or 0


def _rows(
    build_id: int, last: int, lines: Iterable[tuple[Line, Level, str | None]]
) -> Iterator[dict[str, object]]:
    for number, (line, level, source) in enumerate(lines, last + 1):
        yield {
            "build_id": build_id,
            "sequence_number": number,
            "level": level.value,
            "timestamp": line.at,
            "message": line.message,
            "source": source,
            "stream": line.stream.value,
            "raw": line.raw,
        }


def _now() -> datetime:
    """The time as the database keeps it, in whole milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
