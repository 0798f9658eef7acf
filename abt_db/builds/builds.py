"""What can be done with builds: dataclasses in, dataclasses out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from abt_db.database import Database
from abt_db.values import Json

from . import queries
from .models import Build, BuildStatus, BuildSummary

__all__ = ["Builds"]


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


def _now() -> datetime:
    """The time as the database keeps it, in whole milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
