"""A database of a million log lines: looking is quick, and the guard costs little of a rebuild."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest
from test_migrations import step

from abt_db import Config, Database, Query
from abt_db.migrations import Migrator, load_migrations

pytestmark = pytest.mark.large

LINES = 1_000_000
MIGRATIONS = load_migrations("abt_db.schema")
NEXT = MIGRATIONS[-1].version + 1
FILL = [
    Query(
        "project",
        "INSERT INTO projects (id, name, project_type, repository_url, local_path)"
        " VALUES (1, 'a', 'gradle', '', '')",
    ),
    Query(
        "builds",
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100)"
        " INSERT INTO builds (id, project_id, build_number) SELECT x, 1, x FROM n",
    ),
    Query(
        "lines",
        "WITH RECURSIVE n (x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x < :last)"
        " INSERT INTO build_logs (build_id, sequence_number, level, timestamp, message)"
        " SELECT 1 + x / 10000, x % 10000, iif(x % 50, 'info', 'warning'),"
        " '2026-01-01T00:00:00.000+00:00', 'a line such as compilers write, number ' || x FROM n",
    ),
]
OBJECTS = Query(
    "objects",
    "SELECT sql FROM sqlite_schema WHERE tbl_name = 'build_logs' AND sql IS NOT NULL"
    " ORDER BY type <> 'table', name",
    str,
)


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("scale") / "app.db"

    async def fill() -> None:
        async with Database(path, config=Config(readers=1)) as db:
            await Migrator(db, MIGRATIONS).up()
            await db.execute_batch([FILL[0](), FILL[1](), FILL[2](last=LINES - 1)])

    asyncio.run(fill())
    yield path
    path.unlink()


class TestAMillionLines:
    """`status` and `plan` don't go through the lines, and a rebuild is guarded. How long that takes
    is printed (`pytest -s`), and no test's business."""

    async def test_looking_is_quick(self, million: Path) -> None:
        async with Database(million, config=Config(readers=1)) as db:
            more = step(NEXT, "CREATE INDEX more ON build_logs (source);", "DROP INDEX more;")
            migrator = Migrator(db, [*MIGRATIONS, more])

            async def quickest(verb: str) -> float:
                took = []
                for _ in range(5):  # of several, for the machine is shared
                    began = perf_counter()
                    await getattr(migrator, verb)()
                    took.append(perf_counter() - began)
                return min(took)

            assert len((await migrator.plan()).steps) == 1
            for verb in "status", "plan":
                print(f"{verb}: {await quickest(verb) * 1000:.1f} ms")
            assert db._pool is not None
            thousands = db._pool._costs._means  # of steps of SQLite's virtual machine, by query
            assert thousands and max(thousands.values()) < 10 < LINES / 1_000

    async def test_a_rebuild_is_guarded_and_the_cost_is_told(self, million: Path) -> None:
        async with Database(million, config=Config(readers=1)) as db:
            [table, *indexes] = await db.fetch_all(OBJECTS())
            rebuild = "; ".join(
                [
                    table.replace("build_logs", "new"),
                    "INSERT INTO new SELECT * FROM build_logs",
                    "DROP TABLE build_logs",
                    "ALTER TABLE new RENAME TO build_logs",
                    *indexes,
                    "",
                ]
            )
            migrator = Migrator(db, [*MIGRATIONS, step(NEXT, rebuild, None)])
            began = perf_counter()
            [record] = await migrator.up()
            took = perf_counter() - began
            print(f"guard: {record.guard_time_ms} ms of {took * 1000:.0f} ms")
            assert 0 < record.guard_time_ms / 1000 < took
            count = Query("count", "SELECT count(*) FROM build_logs", int)
            assert await db.fetch_one(count()) == LINES
