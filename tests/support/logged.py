"""Build databases with log lines in them, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from abt_db import Query
from abt_db.builds import BuildStatus, BuildStore, Level, Stream
from abt_db.builds.output import Line

AT = datetime(2026, 1, 1, tzinfo=UTC)

# Compares each entry of the index with the lines that are there; all of them have to be in it.
SOUND = Query(
    "test.sound", "INSERT INTO build_logs_fts (build_logs_fts, rank) VALUES ('integrity-check', 1)"
)
LINES = Query("test.lines", "SELECT id, message FROM build_logs ORDER BY id")


async def started(store: BuildStore, project: str = "app") -> int:
    """Return the id of a new build that runs."""
    owner = await store.projects.get_by_name(project) or await store.projects.ensure(
        project, project_type="android", repository_url="", local_path="", branch="main"
    )
    return (await store.builds.start(owner.id)).id


async def ended(
    store: BuildStore, project: str = "app", *, at: datetime = AT, lines: int = 0
) -> int:
    """Return the id of a build that has ended, with so many lines."""
    build = await started(store, project)
    await append(store, build, (f"line {n} of {project}" for n in range(1, lines + 1)))
    await store.builds.update_status(build, BuildStatus.SUCCESS, completed_at=at)
    return build


async def append(
    store: BuildStore, build: int, messages: Iterable[str], level: Level = Level.INFO
) -> int:
    lines = [(Line(Stream.STDOUT, AT, message, None), level, None) for message in messages]
    return await store.logs.append(build, lines)


async def require_sound(store: BuildStore) -> None:
    """Put all lines into the index and have SQLite compare it with them."""
    await store.logs.index()
    await store.db.execute(SOUND())
