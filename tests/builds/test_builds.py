"""`store.builds`: numbers without a gap, a course of life, and what can be said about many."""

from __future__ import annotations

import asyncio
import json
import lzma
import math
import sqlite3
import statistics
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.running import program
from test_table import run

from abt_db import Config, IntegrityError, ParameterError
from abt_db.builds import Build, BuildEndedError, BuildStatistics, BuildStatus, BuildStore, Project
from abt_db.builds.queries import BUILD_STATISTICS

pytestmark = pytest.mark.usefixtures("no_leaks")

START = datetime(2026, 1, 1, tzinfo=UTC)


async def project(store: BuildStore, name: str = "maps") -> Project:
    return await store.projects.ensure(name, project_type="", repository_url="", local_path="")


class TestNumbers:
    """Builds of a project have the numbers 1, 2, 3 …, whoever starts them."""

    async def test_fifty_tasks_in_each_of_four_processes(self, path: Path) -> None:
        code = """
import asyncio, sys
from abt_db.builds import BuildStore

async def main():
    async with await BuildStore.open(sys.argv[1]) as store:
        print(flush=True)
        sys.stdin.readline()
        builds = await asyncio.gather(*(store.builds.start(1) for _ in range(50)))
        print(*sorted(build.build_number for build in builds))

asyncio.run(main())
"""
        async with await BuildStore.open(path) as store:
            await project(store)

        def all_at_once() -> list[int]:
            numbers = []
            with ExitStack() as stack:
                processes = [
                    stack.enter_context(program(code, path, stdin=subprocess.PIPE))
                    for _ in range(4)
                ]
                for process in processes:
                    assert process.stdout is not None and process.stdout.readline() == b"\n"
                for process in processes:
                    assert process.stdin is not None
                    process.stdin.write(b"\n")
                    process.stdin.close()
                for process in processes:
                    assert process.stdout is not None
                    numbers += map(int, process.stdout.read().split())
            return numbers

        assert sorted(all_at_once()) == list(range(1, 201))

    async def test_create_gives_a_number_unless_it_is_named(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            one, two = (await project(store, "one")).id, (await project(store, "two")).id
            made = [
                await store.builds.create(project_id=one),
                await store.builds.create(project_id=two),
                await store.builds.create(project_id=one, build_number=7),
                await store.builds.start(one),
            ]
            assert [build.build_number for build in made] == [1, 1, 7, 8]
            assert [build.status for build in made] == ["pending"] * 3 + ["running"]
            assert await store.builds.get_by_number(one, 7) == made[2]
            with pytest.raises(IntegrityError):
                await store.builds.create(project_id=one, build_number=7)
            with pytest.raises(ParameterError, match="misses 'project_id'"):
                await store.builds.create(status=BuildStatus.RUNNING)
            with pytest.raises(IntegrityError):
                await store.builds.start(99)


class TestLife:
    """Pending, running, ended; and then it does not run again."""

    async def test_times_are_set_on_the_way(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await store.builds.create(project_id=(await project(store)).id)
            assert (build.started_at, build.completed_at) == (None, None)
            running = await store.builds.update_status(build.id, BuildStatus.RUNNING)
            assert running is not None and running.started_at is not None
            await store.builds.update(build.id, started_at=START)
            running = await store.builds.update_status(build.id, BuildStatus.RUNNING)
            assert running is not None and running.started_at == START
            ended = await store.builds.update_status(build.id, BuildStatus.SUCCESS, exit_code=0)
            assert ended is not None and ended.completed_at is not None
            assert ended.duration_seconds == pytest.approx(
                (ended.completed_at - running.started_at).total_seconds(), abs=0.0011
            )
            assert (ended.status, ended.exit_code) == ("success", 0)
            assert await store.builds.get_by_id(build.id) == ended

    async def test_what_is_given_is_taken(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await store.builds.create(project_id=(await project(store)).id)
            changes: dict[str, Any] = {
                "started_at": START,
                "completed_at": START + timedelta(seconds=90),
            }
            ended = await store.builds.update_status(build.id, BuildStatus.FAILED, **changes)
            assert ended is not None and ended.duration_seconds == 90
            other = await store.builds.create(project_id=build.project_id)
            ended = await store.builds.update_status(
                other.id, BuildStatus.FAILED, **changes, duration_seconds=None
            )
            assert ended is not None and ended.duration_seconds is None

    async def test_one_that_never_ran_has_no_duration(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await store.builds.create(project_id=(await project(store)).id)
            ended = await store.builds.update(build.id, status=BuildStatus.CANCELLED)
            assert ended is not None and ended.completed_at is not None
            assert (ended.status, ended.duration_seconds) == ("cancelled", None)

    async def test_notes_are_merged(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await store.builds.start((await project(store)).id, metadata={"a": 1, "b": 2})
            ended = await store.builds.update_status(
                build.id, BuildStatus.FAILED, notes={"b": None, "c": "x", "d": None}
            )
            assert ended is not None and ended.build_metadata == {"a": 1, "c": "x"}
            other = await store.builds.create(project_id=build.project_id)
            ended = await store.builds.update_status(
                other.id, BuildStatus.FAILED, build_metadata={"a": 1}, notes={"b": 2}
            )
            assert ended is not None and ended.build_metadata == {"a": 1, "b": 2}

    @pytest.mark.parametrize("final", [status for status in BuildStatus if status.final])
    @pytest.mark.parametrize("later", BuildStatus)
    async def test_one_that_has_ended_keeps_its_status(
        self, path: Path, final: BuildStatus, later: BuildStatus
    ) -> None:
        async with await BuildStore.open(path, config=Config(readers=1)) as store:
            build = await store.builds.start((await project(store)).id)
            ended = await store.builds.update_status(build.id, final)
            for change in (store.builds.update_status, store.builds.update):
                with pytest.raises(BuildEndedError, match="has ended and keeps its status"):
                    await change(build.id, status=later, exit_code=3)
            assert await store.builds.get_by_id(build.id) == ended
            noted = await store.builds.update(build.id, artifact_path="app.apk")
            assert noted is not None and noted.artifact_path == "app.apk"

    async def test_of_many_at_once_one_ends_it(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await store.builds.start((await project(store)).id)
            ends = await asyncio.gather(
                *(store.builds.update_status(build.id, BuildStatus.FAILED) for _ in range(20)),
                return_exceptions=True,
            )
            assert Counter(map(type, ends)) == {Build: 1, BuildEndedError: 19}

    async def test_what_does_not_fit_is_refused(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            build = await store.builds.start((await project(store)).id)
            bad: Any = [
                ({"status": "fialed"}, "it is one of pending, running, success, failed, cancelled"),
                ({"status": "failed", "completed_at": "now"}, "of builds is not a"),
            ]
            for changes, says in bad:
                with pytest.raises(ParameterError, match=says):
                    await store.builds.update_status(build.id, **changes)
            assert await store.builds.get_by_id(build.id) == build
            assert await store.builds.update_status(99, BuildStatus.FAILED) is None


class TestLists:
    """Newest first, running ones oldest first, page by page."""

    async def test_of_one_project_and_of_all(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            one, two = (await project(store, "one")).id, (await project(store, "two")).id
            ids = {}
            for number, (owner, day) in enumerate([(one, 3), (two, 1), (one, 2), (two, None)]):
                at = day and START + timedelta(days=day)
                status = BuildStatus.RUNNING if day else BuildStatus.PENDING
                build = await store.builds.create(project_id=owner, started_at=at, status=status)
                ids[build.id] = number
            listed = await store.builds.latest()
            assert [ids[build.id] for build in listed] == [0, 2, 1, 3]
            assert [build.project_name for build in listed] == ["one", "one", "two", "two"]
            assert await store.builds.latest(2) == listed[:2]
            assert await store.builds.summaries(2, after=listed[1]) == listed[2:]
            assert [b.build_number for b in await store.builds.for_project(two)] == [2, 1]
            assert [b.build_number for b in await store.builds.for_project(two, 1)] == [2]
            assert [ids[build.id] for build in await store.builds.running()] == [1, 2, 0]
            assert await store.builds.summaries(project_name="one", branch=None) == listed[:2]


# -- figures ---------------------------------------------------------------------------------------


def figures(builds: list[tuple[str, float | None]]) -> dict[str, Any]:
    """The statistics of builds, given as status and duration, as the standard library has them."""
    times = sorted(time for _, time in builds if time is not None)
    ended = [status for status, _ in builds if BuildStatus(status).final]
    return {
        "total": len(builds),
        **{s.value: sum(status == s for status, _ in builds) for s in BuildStatus},
        "success_rate": 100 * ended.count("success") / len(ended) if ended else None,
        "mean_duration": math.fsum(times) / len(times) if times else None,
        "median_duration": statistics.median(times) if times else None,
        "p95_duration": times[math.ceil(len(times) * 95 / 100) - 1] if times else None,
        "longest_duration": times[-1] if times else None,
    }


def told(found: BuildStatistics) -> dict[str, Any]:
    plain = asdict(found)
    return {**plain.pop("by_status"), **plain}


@pytest.fixture(scope="module")
def history(rbtlog: Path) -> list[dict[str, Any]]:
    """The builds of rbtlog as they stand in the file, without their logs."""
    with lzma.open(rbtlog / "builds.jsonl.xz", "rt") as lines:
        builds = [json.loads(line) for line in lines]
    for build in builds:
        del build["build_log"]
        good = build["error"] is None and build["exit_code"] == 0
        build["status"] = "success" if good else "failed"
        build["at"] = datetime.fromtimestamp(build["timestamp"], UTC)
    return builds


class TestStatistics:
    """What SQL computes is what Python computes from the same builds."""

    @settings(max_examples=100)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([status.value for status in BuildStatus]),
                st.none() | st.integers(0, 3).map(float) | st.floats(0, 1e6),
            ),
            max_size=45,
        )
    )
    @example([("success", float(number)) for number in range(20)])
    def test_of_any_builds(self, builds: list[tuple[str, float | None]]) -> None:
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE builds (status TEXT, duration_seconds REAL)")
            db.executemany("INSERT INTO builds VALUES (?, ?)", builds)
            [found] = run(db, BUILD_STATISTICS())
        assert told(found) == pytest.approx(figures(builds))

    async def test_of_all_of_rbtlog(
        self, rbtlog_database: Path, history: list[dict[str, Any]]
    ) -> None:
        async with await BuildStore.open(rbtlog_database) as store:
            found = await store.builds.statistics(days=None)
            expected = figures([(b["status"], b["gradle_seconds"]) for b in history])
            assert told(found) == pytest.approx(expected)
            assert (found.total, found.by_status["failed"]) == (627, 39)

    async def test_of_a_project_and_a_time(
        self, rbtlog_database: Path, history: list[dict[str, Any]]
    ) -> None:
        until = history[20]["at"]  # of a build, which is not in it
        async with await BuildStore.open(rbtlog_database) as store:
            for name, days in (("ac.mdiq.podcini", None), ("ac.mdiq.podcini", 40), (None, 90)):
                project = await store.projects.get_by_name(name) if name else None
                since = START.replace(year=1) if days is None else until - timedelta(days=days)
                expected = [
                    (b["status"], b["gradle_seconds"])
                    for b in history
                    if name in (None, b["appid"]) and since <= b["at"] < until
                ]
                assert 5 < len(expected) < 500
                found = await store.builds.statistics(project and project.id, days, until=until)
                assert told(found) == pytest.approx(figures(expected))

    async def test_trend(self, rbtlog_database: Path, history: list[dict[str, Any]]) -> None:
        begin: dict[str, Callable[[datetime], Any]] = {
            "day": lambda at: at.date(),
            "week": lambda at: at.date() - timedelta(days=at.weekday()),
            "month": lambda at: at.date().replace(day=1),
        }
        async with await BuildStore.open(rbtlog_database) as store:
            for bucket, beginning in begin.items():
                builds = defaultdict(list)
                for build in history:
                    builds[beginning(build["at"])].append(build)
                trend = await store.builds.trend(None, bucket, None)
                assert [
                    (p.start, p.total, p.successful, p.failed, p.mean_duration) for p in trend
                ] == [
                    (
                        datetime(day.year, day.month, day.day, tzinfo=UTC),
                        len(those),
                        sum(build["status"] == "success" for build in those),
                        sum(build["status"] == "failed" for build in those),
                        pytest.approx(statistics.mean(build["gradle_seconds"] for build in those)),
                    )
                    for day, those in sorted(builds.items())
                ]
            with pytest.raises(ParameterError, match="bucket is one of"):
                await store.builds.trend(bucket="year")

    async def test_slowest(self, rbtlog_database: Path, history: list[dict[str, Any]]) -> None:
        slow = sorted(enumerate(history), key=lambda each: -each[1]["gradle_seconds"])[:20]
        async with await BuildStore.open(rbtlog_database) as store:
            found = await store.builds.slowest(limit=20)
            assert [build.duration_seconds for build in found] == [
                build["gradle_seconds"] for _, build in slow
            ]
            [first] = await store.builds.slowest(found[3].project_id, 1)
            assert first.project_id == found[3].project_id

    async def test_flaky(self, rbtlog_database: Path, history: list[dict[str, Any]]) -> None:
        outcomes = defaultdict(list)
        for build in history:
            outcomes[build["appid"], build["commit"]].append(build["status"])
        flaky = {
            (*commit, those.count("success"), those.count("failed"))
            for commit, those in outcomes.items()
            if {"success", "failed"} <= set(those)
        }
        assert flaky
        async with await BuildStore.open(rbtlog_database) as store:
            found = await store.builds.flaky()
            assert {(f.project_name, f.commit_hash, f.successful, f.failed) for f in found} == flaky
            assert await store.builds.flaky(1) == []

    async def test_days_beyond_the_calendar(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            for days in (1e6, 1e12, math.inf, math.nan):
                with pytest.raises(ParameterError, match="before the year 1"):
                    await store.builds.statistics(days=days)
            assert (await store.builds.statistics(days=0.5)).total == 0
