"""`store.logs.prune`: the lines of old builds go in small steps, and the builds stay."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from support.logged import append, ended, require_sound, started

from abt_db import Query
from abt_db.builds import BuildStatus, BuildStore, Pruned
from abt_db.builds.logs import STEP
from abt_db.events import Event, Ran

STEP_LINES = STEP["lines"]
AGE = timedelta(days=90)


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


class TestWhatGoes:
    """Only lines of builds that have ended, long enough ago."""

    async def test_old_builds_lose_their_lines_and_are_kept(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            old = [await ended(store, at=days_ago(91), lines=n) for n in (3, 0, 2)]
            kept = {await ended(store, at=days_ago(89), lines=3): 3}
            running = await started(store)
            kept[running] = await append(store, running, ["begun long ago"])
            await store.db.execute(BEGUN(id=running, started_at=days_ago(100)))
            builds = await store.builds.latest()

            assert await store.logs.prunable(AGE) == Pruned(builds=2, lines=5)
            assert await store.logs.prune(AGE) == Pruned(builds=2, lines=5)
            assert [await store.logs.count(build_id=build) for build in old] == [0, 0, 0]
            assert {build: await store.logs.count(build_id=build) for build in kept} == kept
            assert len(await store.builds.latest()) == len(builds)
            assert await store.logs.prune(AGE) == Pruned(0, 0)
            assert await store.logs.search("line 1 of app") != []
            await require_sound(store)

    async def test_of_a_build_without_an_end_its_beginning_counts(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            for days in (91, 89):
                build = await ended(store, lines=1)
                await store.db.execute(IMPORTED(id=build, started_at=days_ago(days)))
            assert await store.logs.prune(AGE) == Pruned(1, 1)


class TestSteps:
    """No transaction is long, and whoever waits for the writer comes between two of them."""

    async def test_each_step_has_a_bounded_size(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            await ended(store, lines=2 * STEP_LINES + 1)
            build = await ended(store)
            await append(store, build, ["x" * 400_000] * 4 + ["y" * 3_000_000] * 2)
            steps: list[int] = []
            gone: list[Pruned] = []

            def listen(event: Event) -> None:
                if isinstance(event, Ran) and event.query == "logs.prune":
                    steps.append(event.rows)

            store.db.add_listener(listen)
            done = await store.logs.prune(AGE, progress=gone.append)
            assert steps == [STEP_LINES, STEP_LINES, 1, 0, 1, 1, 2, 2, 0]
            assert gone[-1] == done == Pruned(2, 2 * STEP_LINES + 7)
            assert [each.lines for each in gone[:3]] == [STEP_LINES, 2 * STEP_LINES, done.lines - 6]

    async def test_others_append_between_any_two(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            await ended(store, lines=8 * STEP_LINES)
            running = await started(store)
            order: list[str] = []

            async def appending() -> None:
                while True:
                    await append(store, running, ["on and on"])
                    order.append("append")

            appender = asyncio.create_task(appending())
            await store.logs.prune(AGE, progress=lambda _: order.append("prune"))
            appender.cancel()
            pruned = [place for place, what in enumerate(order) if what == "prune"]
            assert len(pruned) == 8
            assert all(later - earlier > 1 for earlier, later in pairwise(pruned))
            await asyncio.gather(appender, return_exceptions=True)
            unacknowledged = await store.logs.count(build_id=running) - order.count("append")
            assert unacknowledged in (0, 1)
            await require_sound(store)


class TestStopped:
    """What is done stays done, and the next call goes on there."""

    async def test_cancelled(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await ended(store, lines=5 * STEP_LINES)

            def tell(gone: Pruned) -> None:
                if gone.lines > STEP_LINES:
                    task.cancel()

            task = asyncio.create_task(store.logs.prune(AGE, progress=tell))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.logs.count(build_id=build) == 3 * STEP_LINES
            assert await store.logs.prune(AGE) == Pruned(1, 3 * STEP_LINES)

    async def test_killed_while_others_append_and_index(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await ended(store, lines=20 * STEP_LINES)
            await store.logs.index()
        command = [sys.executable, "-P", "-c", PRUNE, path, Path(__file__).parents[1]]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline()
            process.kill()
        async with await BuildStore.open(path) as store:
            assert len(await store.builds.latest()) > 1
            left = await store.logs.count(build_id=build)
            assert 0 < left <= 17 * STEP_LINES
            assert left % STEP_LINES == 0
            lines = await store.logs.for_build(build, limit=left + 1)
            assert [line.sequence_number for line in lines] == list(range(1, left + 1))
            await require_sound(store)
            assert await store.logs.prune(AGE) == Pruned(1, left)
            await require_sound(store)
            again = await store.builds.get_by_id(build)
            assert again is not None and again.status is BuildStatus.SUCCESS


BEGUN = Query("test.begun", "UPDATE builds SET started_at = :started_at WHERE id = :id")
IMPORTED = Query(
    "test.imported",
    "UPDATE builds SET started_at = :started_at, completed_at = NULL WHERE id = :id",
)

PRUNE = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from abt_db.builds import BuildStore
sys.path.append(sys.argv[2])
from support.logged import ended

async def main():
    async with await BuildStore.open(sys.argv[1]) as store:
        tell = lambda gone: print(gone, flush=True)
        asyncio.create_task(churn(store))
        await store.logs.prune(timedelta(days=90), progress=tell)

async def churn(store):
    while True:
        await ended(store, at=datetime.now(UTC), lines=50)
        await store.logs.index()

asyncio.run(main())
"""
