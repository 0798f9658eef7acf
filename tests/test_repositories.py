"""What every table can do, and projects and metrics besides: `store.projects`, `store.metrics`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from abt_db import IntegrityError, ParameterError
from abt_db.builds import BuildStatus, BuildStore, Metric, Project, Sample

pytestmark = pytest.mark.usefixtures("no_leaks")

NEW = {"project_type": "gradle", "repository_url": "https://example.org/", "local_path": "/src"}
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class NewProject:
    """What a caller of ours may have in place of keywords."""

    name: str
    tags: list[str]
    project_type: str = "gradle"
    repository_url: str = ""
    local_path: str = ""


class TestRepository:
    """Dataclasses in and out; what is not named is filled in, what is unknown is refused."""

    async def test_a_row_is_made_found_changed_counted_and_deleted(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            made = await store.projects.create(name="maps", tags=["a", "b"], **NEW)
            assert isinstance(made, Project)
            assert (made.branch, made.build_timeout, made.is_active) == ("main", 1800, True)
            assert await store.projects.get_by_id(made.id) == made
            changed = await store.projects.update(made.id, tags=None, build_timeout=60)
            assert changed is not None and (changed.tags, changed.build_timeout) == (None, 60)
            assert await store.projects.get_by_id(made.id) == changed
            assert await store.projects.count() == await store.projects.count(description=None) == 1
            assert await store.projects.delete(made.id) is True
            assert await store.projects.delete(made.id) is False
            assert await store.projects.get_by_id(made.id) is None
            assert await store.projects.update(made.id, description="gone") is None

    async def test_a_row_is_made_from_a_dataclass(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            first = await store.projects.create(NewProject("maps", ["x"]))
            assert (first.name, first.tags) == ("maps", ["x"])
            await store.projects.delete(first.id)
            assert await store.projects.create(first) == first  # its id as well
            second = await store.projects.create(NewProject("maps", []), name="mail")
            assert second.name == "mail"
            for no_row in ("maps", NewProject):
                with pytest.raises(ParameterError, match="keywords or a dataclass instance"):
                    await store.projects.create(no_row)

    async def test_updated_at_follows_and_is_told(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            made = await store.projects.create(name="maps", updated_at=LONG_AGO, **NEW)
            assert made.updated_at == LONG_AGO
            changed = await store.projects.update(made.id, description="x")
            assert changed is not None and changed.updated_at > LONG_AGO
            given = await store.projects.update(made.id, updated_at=LONG_AGO)
            assert given is not None and given.updated_at == LONG_AGO
            assert await store.projects.get_by_id(made.id) == given

    async def test_what_the_schema_or_the_columns_refuse_is_not_written(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            made = await store.projects.create(name="maps", **NEW)
            with pytest.raises(IntegrityError):
                await store.projects.create(name="maps", **NEW)
            with pytest.raises(IntegrityError):
                await store.projects.create(name="mail")
            with pytest.raises(IntegrityError):
                await store.projects.update(made.id, name=None)
            for call in (store.projects.create, store.projects.count, store.projects.get_all):
                with pytest.raises(ParameterError, match="'nmae'"):
                    await call(nmae="maps")
            with pytest.raises(ParameterError, match="name at least one"):
                await store.projects.update(made.id)
            assert await store.projects.get_all() == [made]

    async def test_pages(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            made = [await store.projects.create(name=name, **NEW) for name in "cabd"]
            assert await store.projects.get_all() == made
            by_name = sorted(made, key=lambda project: project.name)
            assert await store.projects.get_all(2, order_by="name") == by_name[:2]
            assert await store.projects.get_all(2, 1, order_by="-name") == by_name[2:0:-1]
            assert await store.projects.get_all(order_by="name", after=by_name[1]) == by_name[2:]
            assert await store.projects.get_all(name="b", is_active=True) == [by_name[1]]
            assert await store.projects.get_all(0) == []


class TestProjects:
    """By name, by word, active ones, with the outcome of their builds; added or changed."""

    async def test_by_name_and_active_newest_first(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            made = [
                await store.projects.create(
                    name=name, created_at=LONG_AGO + timedelta(days=days), is_active=on, **NEW
                )
                for name, days, on in (("a", 2, True), ("b", 3, False), ("c", 3, True))
            ]
            assert await store.projects.get_by_name("b") == made[1]
            assert await store.projects.get_by_name("B") is None
            assert await store.projects.get_active() == [made[2], made[0]]
            assert await store.projects.get_active(limit=1) == [made[2]]

    @pytest.mark.parametrize(
        "word",
        ["%", "_", "\\", "'", '"', "*", "?", "[", "-", "a\0b", "Ä", "NEAR(", "", "x" * 60_000],
    )
    async def test_every_character_of_a_word_stands_for_itself(self, path: Path, word: str) -> None:
        """faults.md 38"""
        async with await BuildStore.open(path) as store:
            await store.projects.create(name="plain", **NEW)
            await store.projects.create(name="other", description="nothing special", **NEW)
            named = await store.projects.create(name=f"in{word}name", **NEW)
            told = await store.projects.create(name="told", description=f"so{word}so", **NEW)
            found = await store.projects.search(word)
            assert [project for project in found if word] == ([named, told] if word else [])
            assert len(found) == (2 if word else 4)
            summaries = await store.projects.with_build_stats(word=word)
            assert [summary.id for summary in summaries] == [project.id for project in found]

    async def test_a_word_is_found_in_either_case(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            made = await store.projects.create(name="OsmAnd", description=None, **NEW)
            assert await store.projects.search("osmand") == [made]
            assert await store.projects.search("OSM", limit=0) == []

    async def test_with_the_outcome_of_their_builds(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            one, two = [await store.projects.create(name=name, **NEW) for name in ("two", "one")]
            await store.projects.update(two.id, is_active=False)
            for status in (BuildStatus.SUCCESS, BuildStatus.FAILED):
                build = await store.builds.start(one.id)
                await store.builds.update_status(build.id, status)
            [second, first] = await store.projects.with_build_stats()
            assert (first.name, first.total_builds, first.successful_builds) == ("two", 2, 1)
            assert first.last_build_at == build.started_at
            assert (second.total_builds, second.last_build_at) == (0, None)
            assert await store.projects.with_build_stats(active=True) == [first]
            assert await store.projects.with_build_stats(active=False, word="TWO") == []

    async def test_upsert_adds_or_changes(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            first = await store.projects.upsert("maps", description="old", tags=["a"], **NEW)
            await store.projects.update(first.id, updated_at=LONG_AGO)
            second = await store.projects.upsert("maps", description=None, **NEW)
            assert (second.id, second.description, second.tags) == (first.id, None, ["a"])
            assert second.updated_at > LONG_AGO
            assert await store.projects.get_all() == [second]
            same = await asyncio.gather(*(store.projects.upsert("mail", **NEW) for _ in range(20)))
            assert len({project.id for project in same}) == 1


class TestMetrics:
    """Figures are recorded one by one or many at once, and told by period."""

    async def test_recorded_and_latest(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            assert await store.metrics.latest("load") is None
            before = datetime.now(UTC) - timedelta(milliseconds=1)
            await store.metrics.record("load", 1.5, "tasks")
            latest = await store.metrics.latest("load")
            assert isinstance(latest, Metric) and latest.timestamp >= before
            assert (latest.metric_value, latest.metric_unit) == (1.5, "tasks")
            at = datetime.now(UTC) + timedelta(hours=1)
            samples = [Sample("load", value, timestamp=at) for value in (2, 3)]
            assert await store.metrics.record_many(samples) == 2
            latest = await store.metrics.latest("load")
            assert latest is not None and (latest.metric_value, latest.metric_unit) == (3, None)
            assert await store.metrics.get_all(order_by="-timestamp", limit=1) == [latest]

    async def test_many_are_all_or_none(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            bad: Any = [Sample("load", 1), Sample("load", None)]  # type: ignore[arg-type]
            with pytest.raises(IntegrityError):
                await store.metrics.record_many(bad)
            assert await store.metrics.count() == 0

    async def test_series(self, path: Path) -> None:
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC)  # a Thursday
        minutes = [0, 10, 59, 60, 60 * 24, 60 * 24 * 40]
        async with await BuildStore.open(path) as store:
            await store.metrics.record_many(
                Sample("load", number, timestamp=noon + timedelta(minutes=minute))
                for number, minute in enumerate(minutes)
            )
            await store.metrics.record("other", 1e9)
            hours = await store.metrics.series("load", noon + timedelta(minutes=10))
            assert [(h.start.hour, h.count, h.mean, h.least, h.most) for h in hours] == [
                (12, 2, 1.5, 1, 2),
                (13, 1, 3, 3, 3),
                (12, 1, 4, 4, 4),
                (12, 1, 5, 5, 5),
            ]
            for bucket, starts in {
                "day": ["2026-01-01", "2026-01-02", "2026-02-10"],
                "week": ["2025-12-29", "2026-02-09"],
                "month": ["2026-01-01", "2026-02-01"],
            }.items():
                series = await store.metrics.series("load", LONG_AGO, bucket)
                assert [f"{each.start:%Y-%m-%d}" for each in series] == starts
            assert len(await store.metrics.series("load", LONG_AGO, "minute")) == len(minutes)
            with pytest.raises(ParameterError, match="one of minute, hour, day, week, month"):
                await store.metrics.series("load", noon, "day'; DROP TABLE builds")
