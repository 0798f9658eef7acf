"""What can be done with builds: dataclasses in, dataclasses out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict

from abt_db.connection.session import Session
from abt_db.errors import BuildEndedError, ParameterError
from abt_db.protocols import Readable
from abt_db.repository import Repository

from . import queries
from .models import (
    Build,
    BuildPeriod,
    BuildStatistics,
    BuildStatus,
    BuildSummary,
    FlakyCommit,
    as_notes,
    now,
)


class Builds(Repository[Build]):
    """The table `builds`.

    `create` gives a build the next number of its project when it names none.
    """

    def __init__(self, db: Readable) -> None:
        super().__init__(db, queries.BUILDS)

    async def get_by_number(self, project_id: int, build_number: int) -> Build | None:
        """Return the build of a project that has this number, None if there is none."""
        return await self.db.fetch_one(
            queries.BUILD_BY_NUMBER(project_id=project_id, build_number=build_number)
        )

    # -- the life of a build ---------------------------------------------------------------------

    async def start(
        self,
        project_id: int,
        *,
        build_type: str | None = None,
        triggered_by: str | None = None,
        commit_hash: str | None = None,
        branch: str | None = None,
        metadata: object = None,
    ) -> Build:
        """Add a running build with the project's next number, which no other build can get.

        `metadata`, any JSON value, is its `build_metadata`, an empty object if None. Raises
        `IntegrityError` when there is no such project.
        """
        return await self.create(
            project_id=project_id,
            status=BuildStatus.RUNNING,
            started_at=now(),
            commit_hash=commit_hash,
            branch=branch,
            build_type=build_type,
            triggered_by=triggered_by,
            build_metadata={} if metadata is None else metadata,
        )

    async def update(self, id: int, **changes: Any) -> Build | None:
        """Change columns of a build, as every `Repository` does; the status as `update_status`."""
        if "status" in changes:
            return await self.update_status(id, **changes)
        return await super().update(id, **changes)

    async def update_status(
        self,
        id: int,
        status: BuildStatus | str,
        *,
        notes: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Build | None:
        """Give a build that has not ended another status, ``"failed"`` or `BuildStatus.FAILED`, and
        return it; None if there is none.

        A build that is first running gets `started_at`; one that ends gets `completed_at`, and
        `duration_seconds` from the one to the other, where they are not among the `changes`.
        `notes` are merged into its `build_metadata`; None takes a note away. (What is no object is
        kept as the note `value`.)

        Raises `BuildEndedError` when the build has ended: it does not run, or end, again.
        """
        # What does not fit is refused before the writer is asked for.
        status = BuildStatus.of(status)
        queries.BUILDS.update(id, {"status": status, **changes})

        def change(cx: Session) -> Build | None:
            build = cx.fetch_one(queries.BUILDS.by_id(id))
            if build is None:
                return None
            if build.status.final:
                raise BuildEndedError(
                    "the build has ended and keeps its status; start another build instead"
                )
            columns = {"status": status, **_times(build, status, changes), **changes}
            if notes is not None:
                noted = {**as_notes(changes.get("build_metadata", build.build_metadata)), **notes}
                columns["build_metadata"] = {
                    name: note
                    for name, note in noted.items()
                    if note is not None or name not in notes
                }
            return cx.fetch_one(queries.BUILDS.update(id, columns))

        return await self.writable.write(change)

    # -- lists -----------------------------------------------------------------------------------

    async def running(self) -> list[Build]:
        """Return the builds that run, oldest first."""
        return await self.db.fetch_all(queries.RUNNING_BUILDS())

    async def summaries(
        self,
        limit: int | None = 50,
        offset: int = 0,
        order_by: str = "-started_at",
        after: Build | BuildSummary | None = None,
        **filters: object,
    ) -> list[BuildSummary]:
        """Return builds with the names of their projects and the numbers of their lines.

        Newest first; otherwise as `get_all`. The filters, too, are fields of `BuildSummary`.
        """
        return await self.db.fetch_all(
            queries.BUILD_SUMMARIES.page(limit, offset, order_by, after, filters)
        )

    async def latest(self, limit: int | None = 50) -> list[BuildSummary]:
        """Return builds of all projects, newest first."""
        return await self.summaries(limit)

    async def for_project(self, project_id: int, limit: int | None = 50) -> list[BuildSummary]:
        """Return builds of one project, newest number first."""
        return await self.summaries(limit, order_by="-build_number", project_id=project_id)

    # -- how builds have gone --------------------------------------------------------------------

    async def statistics(
        self,
        project_id: int | None = None,
        days: float | None = 30,
        *,
        until: datetime | None = None,
    ) -> BuildStatistics:
        """Return how many builds there were, how they went, and how long they took.

        Of one project, or of all (None); of those that were started in the last `days` before
        `until`, which is now if None. With neither it is of all builds, started or not.
        """
        found = await self.db.fetch_one(
            queries.BUILD_STATISTICS(project_id=project_id, **_window(days, until))
        )
        assert found is not None  # counts of nothing are a row, too
        return found

    async def trend(
        self,
        project_id: int | None = None,
        bucket: str = "day",
        days: float | None = 30,
        *,
        until: datetime | None = None,
    ) -> list[BuildPeriod]:
        """Return how builds went in each period, oldest first; chosen as by `statistics`.

        `bucket` is "minute", "hour", "day", "week" (from Monday) or "month", in UTC; anything else
        raises `ParameterError`. Periods without a build are left out.
        """
        family = queries.BUILD_TREND[queries.period(bucket)]
        return await self.db.fetch_all(family(project_id=project_id, **_window(days, until)))

    async def slowest(
        self,
        project_id: int | None = None,
        limit: int = 10,
        days: float | None = None,
        *,
        until: datetime | None = None,
    ) -> list[BuildSummary]:
        """Return the builds that took longest, the slowest first; chosen as by `statistics`."""
        return await self.db.fetch_all(
            queries.SLOWEST_BUILDS(project_id=project_id, limit=limit, **_window(days, until))
        )

    async def flaky(
        self,
        project_id: int | None = None,
        limit: int = 50,
        days: float | None = None,
        *,
        until: datetime | None = None,
    ) -> list[FlakyCommit]:
        """Return commits of which some builds failed and others succeeded, the latest first;
        chosen as by `statistics`."""
        return await self.db.fetch_all(
            queries.FLAKY_COMMITS(project_id=project_id, limit=limit, **_window(days, until))
        )


class _Window(TypedDict):
    since: datetime | None
    until: datetime | None


def _window(days: float | None, until: datetime | None) -> _Window:
    try:
        since = None if days is None else (until or now()) - timedelta(days=days)
    except (OverflowError, ValueError):
        raise ParameterError(
            "the days begin before the year 1; take fewer, or leave them out for all time"
        ) from None
    return {"since": since, "until": until}


def _times(build: Build, status: BuildStatus, changes: Mapping[str, Any]) -> dict[str, object]:
    """What a build that changes to `status` gets unasked."""
    started = changes.get("started_at", build.started_at)
    if status is BuildStatus.RUNNING:
        return {"started_at": started or now()}
    if not status.final:
        return {}
    completed = changes.get("completed_at") or now()
    took = None if started is None else round((completed - started).total_seconds(), 3)
    return {"completed_at": completed, "duration_seconds": took}
