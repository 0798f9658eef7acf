"""What every table can do, and projects and metrics besides: `store.projects`, `store.metrics`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from abt_db import IntegrityError, ParameterError, Query
from abt_db.builds import (
    BuildEndedError,
    BuildStatus,
    BuildStore,
    Level,
    Metric,
    Project,
    Sample,
    Stream,
)
from abt_db.builds.output import Line
from abt_db.builds.queries import PROJECTS

pytestmark = pytest.mark.usefixtures("no_leaks")

NEW = {"project_type": "gradle", "repository_url": "https://example.org/", "local_path": "/src"}
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
SET_VARIABLES = Query("set_variables", "UPDATE projects SET environment_vars = :text")


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

    async def test_all_of_them_are_told_however_many_there_are(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            new = [PROJECTS.create({"name": f"project {n}", **NEW}) for n in range(150)]
            await store.db.execute_batch(new)
            assert len(await store.projects.get_active()) == 150
            assert len(await store.projects.search("project")) == 150
            assert len(await store.projects.with_build_stats()) == 150
            assert len(await store.projects.get_active(149)) == 149

    @pytest.mark.parametrize(
        "word",
        ["%", "_", "\\", "'", '"', "*", "?", "[", "-", "a\0b", "Ä", "NEAR(", "", "x" * 60_000],
    )
    async def test_every_character_of_a_word_stands_for_itself(self, path: Path, word: str) -> None:
        """fault 38"""
        async with await BuildStore.open(path) as store:
            await store.projects.create(name="plain", **NEW)
            await store.projects.create(name="other", description="nothing special", **NEW)
            named = await store.projects.create(name=f"in{word}name", **NEW)
            told = await store.projects.create(name="told", description=f"so{word}so", **NEW)
            found = await store.projects.search(word)
            assert [project for project in found if word] == ([named, told] if word else [])
            assert len(found) == (2 if word else 4)
            summaries = await store.projects.with_build_stats(word=word)
            newest_first = sorted(found, key=lambda project: project.id, reverse=True)
            assert [summary.project for summary in summaries] == newest_first

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
            [second, first] = await store.projects.with_build_stats()  # the newest first
            assert first.project == await store.projects.get_by_id(one.id)
            assert second.project == await store.projects.get_by_id(two.id)
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


JSON: list[Any] = [
    {"JAVA_HOME": "/opt", "RETRIES": 3, "FLAGS": ["-a", None, {"b": 0.5}], "EMPTY": {}, "ON": True},
    {},
    [],
    [1, [2, "x"]],
    "text",
    "",
    '"quoted"',
    "null",
    0,
    -1.5,
    True,
    False,
    None,
    {"": None},
]


class TestJson:
    """`environment_vars` and `build_metadata` are any JSON value."""

    @pytest.mark.parametrize("value", JSON, ids=repr)
    async def test_any_value_comes_back(self, path: Path, value: Any) -> None:
        async with await BuildStore.open(path) as store:
            project = await store.projects.create(name="maps", environment_vars=value, **NEW)
            build = await store.builds.create(project_id=project.id, build_metadata=value)
            [summary] = await store.projects.with_build_stats()
            for back in project.environment_vars, build.build_metadata, summary.environment_vars:
                assert (back, type(back)) == (value, type(value))
            started = await store.builds.start(project.id, metadata=value)
            assert started.build_metadata == ({} if value is None else value)
            await store.fail_abandoned()  # looks for the recorder in it

    @pytest.mark.parametrize("value", JSON, ids=repr)
    async def test_notes_are_added_to_any_value_and_nothing_is_lost(
        self, path: Path, value: Any
    ) -> None:
        async with await BuildStore.open(path) as store:
            project = await store.projects.create(name="maps", **NEW)
            build = await store.builds.create(project_id=project.id, build_metadata=value)
            notes = {"a": 1, "b": None}
            noted = await store.builds.update_status(build.id, "running", notes=notes)
            kept = {} if value is None else value if isinstance(value, dict) else {"value": value}
            assert noted is not None and noted.build_metadata == {**kept, "a": 1}
            noted = await store.builds.update_status(build.id, "failed", notes={"a": None})
            assert noted is not None and noted.build_metadata == kept

    async def test_what_another_program_has_written_is_read(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            project = await store.projects.create(name="maps", **NEW)
            for text in ("null", "[1, 2]", '"x"', " 7 ", "1e3"):
                await store.db.execute(SET_VARIABLES(text=text))
                found = await store.projects.get_by_id(project.id)
                assert found is not None and found.environment_vars == json.loads(text)

    @pytest.mark.parametrize("value", [{1, 2}, {1: 2}, float("nan"), [b"x"], {"a": "\ud800"}])
    async def test_what_is_no_json_is_refused(self, path: Path, value: Any) -> None:
        async with await BuildStore.open(path) as store:
            with pytest.raises(ParameterError, match="'environment_vars' of projects"):
                await store.projects.create(name="maps", environment_vars=value, **NEW)
            assert await store.projects.count() == 0

    async def test_it_is_exported_and_imported(self, path: Path, tmp_path: Path) -> None:
        one, two, three = (tmp_path / name for name in ("1.jsonl", "2.jsonl", "3.jsonl"))
        async with await BuildStore.open(path) as store:
            for number, value in enumerate(JSON):
                project = await store.projects.create(
                    name=f"{number}", environment_vars=value, **NEW
                )
                await store.builds.create(project_id=project.id, build_metadata=value)
            await store.export_file(one)
        async with await BuildStore.open(tmp_path / "other.db") as store:
            report = await store.import_file(one)
            assert (report.builds, report.bad) == (len(JSON), 0)
            await store.export_file(two)
            assert two.read_bytes() == one.read_bytes()
            # Others with the same numbers: they are known by a key in their metadata.
            three.write_text(one.read_text().replace('"created_at":"2', '"created_at":"1'))
            for added in (len(JSON), 0):
                assert (await store.import_file(three)).builds == added


class TestWords:
    """A plain word is taken for a status or a level where it is the name of one, in any case."""

    async def test_of_a_status(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            project = await store.projects.create(name="maps", **NEW)
            build = await store.builds.create(project_id=project.id, status="Running")
            assert build.status is BuildStatus.RUNNING
            assert await store.builds.get_all(status="running") == [build]
            assert await store.builds.count(status="RUNNING") == 1
            assert len(await store.builds.summaries(status="running")) == 1
            pending = await store.builds.create(project_id=project.id)
            ended = await store.builds.update(pending.id, status="cancelled")
            assert ended is not None and ended.completed_at is not None
            failed = await store.builds.update_status(build.id, "failed", exit_code=1)
            assert failed is not None and failed.status is BuildStatus.FAILED
            assert failed.completed_at is not None
            with pytest.raises(BuildEndedError):
                await store.builds.update_status(build.id, "RUNNING")

    @pytest.mark.parametrize(
        "wrong", ["fialed", "", "failed ", "BuildStatus.FAILED", 1, ["failed"]]
    )
    async def test_another_word_is_refused(self, path: Path, wrong: Any) -> None:
        async with await BuildStore.open(path) as store:
            project = await store.projects.create(name="maps", **NEW)
            build = await store.builds.start(project.id)
            with pytest.raises(ParameterError, match="one of pending, running, success"):
                await store.builds.update_status(build.id, wrong)
            with pytest.raises(ParameterError, match="'status' of builds is not a BuildStatus"):
                await store.builds.create(project_id=project.id, status=wrong)
            with pytest.raises(ParameterError, match="one of debug, info, warning, error"):
                await store.logs.for_build(build.id, level=wrong)
            assert await store.builds.get_all() == [build]

    async def test_of_a_level(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            project = await store.projects.create(name="maps", **NEW)
            build = await store.builds.start(project.id)
            line = await store.logs.create(build_id=build.id, message="m", level="INFO")
            assert line.level is Level.INFO
            printed = Line(Stream.STDOUT, datetime.now(UTC), "error", None)
            new = [(printed, "Warning", None), (printed, "ERROR", None)]
            assert await store.logs.append(build.id, new) == 2
            for word, number in {"DEBUG": 3, "info": 3, "Warning": 2, "ERROR": 1}.items():
                assert len(await store.logs.for_build(build.id, level=word)) == number
                assert len(await store.logs.tail(build.id, level=word)) == number
                assert len(await store.logs.search("r", level=word)) == min(number, 2)
                async with store.logs.stream(build.id, level=word) as lines:
                    assert len([line async for line in lines]) == number
            assert await store.logs.count(level="ERROR") == 1
            assert len(await store.logs.get_all(level="Error")) == 1
            with pytest.raises(ParameterError, match="one of debug"):
                await store.logs.append(build.id, [(printed, "fatal", None)])


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
