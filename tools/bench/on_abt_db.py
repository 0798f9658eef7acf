"""abt_db, all of it on: dataclass rows, checked parameters, a time limit a call, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abt_db import Config, Database, Query

from . import sample
from .sample import metric

TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Project:
    id: int
    name: str
    branch: str
    timeout: int


@dataclass(frozen=True, slots=True)
class Build:
    id: int
    project_id: int
    number: int
    status: str
    branch: str
    commit_hash: str | None
    started_at: str | None
    duration: float | None
    size: int
    message: str


READ = Query("projects.by_id", sample.READ, Project)
INSERT = Query("metrics.insert", sample.INSERT)
UPDATE = Query("projects.update", sample.UPDATE)
BUILDS = Query("builds.all", sample.BUILDS, Build)
STREAM = Query("builds.stream", sample.STREAM, Build)
VALUES = {
    sql: Query(name, sql, int)
    for name, sql in (
        ("projects.count", sample.COUNT),
        ("builds.scan", sample.SCAN),
        ("settings", sample.SETTINGS),
    )
}


class AbtDb:
    """The public API, with the default settings."""

    async def open(self, path: Path, synchronous: Literal["normal", "full"]) -> None:
        self._db = await Database(path, config=Config(synchronous=synchronous)).open()

    async def close(self) -> None:
        await self._db.close()

    async def read(self, id: int) -> int:
        project = await self._db.fetch_one(READ(id=id), timeout=TIMEOUT)
        assert project is not None
        return project.timeout

    async def insert(self, number: int) -> None:
        await self._db.execute(INSERT(metric(number)), timeout=TIMEOUT)

    async def update(self, id: int, timeout: int) -> None:
        await self._db.execute(UPDATE(id=id, timeout=timeout), timeout=TIMEOUT)

    async def value(self, sql: str, /, **parameters: int) -> int:
        found = await self._db.fetch_one(VALUES[sql](**parameters), timeout=TIMEOUT)
        assert found is not None
        return found

    async def builds(self) -> Sequence[Any]:
        return await self._db.fetch_all(BUILDS(), timeout=TIMEOUT)

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        async with self._db.stream(STREAM(times=times), timeout=TIMEOUT) as builds:
            async for build in builds:
                rows += 1
                total += build.size
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        await self._db.execute_many(INSERT, rows, timeout=TIMEOUT)
