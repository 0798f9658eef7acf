"""How SQLite goes about every query of the build database, asked where all of rbtlog is in it.

A query reads through an index or says here why not; and the time of a lookup does not grow with
the table. `pytest -s tests/builds/test_plans.py` tells the times themselves.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest
from test_table import run

from abt_db import Query, Statement
from abt_db.builds import Build, queries
from abt_db.builds.family import Family
from abt_db.builds.queries import BUILD_SUMMARIES, BUILDS, LOGS, METRICS, PROJECTS
from abt_db.builds.report import queries as report_queries
from abt_db.sql.table import Table

# -- what is allowed, and why --------------------------------------------------------------------

FEW = "there are few projects, and a word may stand anywhere in a text"
ALL = "it tells about all builds of all time, so it reads each of them once"

EXPORT = "an export has all of them in it"

REPORT = "a report tells about all builds since a time"

REPORTED = [
    *("totals", "by_project", "by_time", "by_project_and_time", "last_builds", "project_count"),
    *("failing", "slowest", "flaky", "tables"),
]

SCANS = {
    "projects.search": FEW,
    "projects.summaries": "it tells about all projects and all their builds",
    "projects.summaries(word)": FEW,
    "projects.summaries(active)": "the view counts the builds of all projects",
    "projects.summaries(word, active)": FEW,
    "builds.statistics": ALL,
    "builds.slowest": ALL,
    "builds.flaky": ALL,
    "logs.prunable": "old builds are nearly all builds, and it counts the lines of each",
    **{f"builds.trend by {period}": ALL for period in queries.PERIODS},
    **{f"history.{name}": EXPORT for name in ("exported_projects", "exported_builds")},
    **{f"history.{name}": EXPORT for name in ("project_names", "count_builds")},
    **{f"report.{name}": REPORT for name in REPORTED},
    **{f"report.{name}": REPORT for name in ("idle", "idle_count", "line_count", "errors")},
}
"""Queries that read a whole table, each with its reason."""

SORTS = {
    "projects.summaries": "projects are few",
    "builds.statistics": "a duration has its rank among all of those that are looked at",
    **{f"builds.trend by {period}": "periods are no column" for period in queries.PERIODS},
    "builds.slowest": "of those that are looked at only the slowest are kept, in a sorter of LIMIT",
    "builds.flaky": "commits are counted, and those that are flaky are few",
    "logs.index": "the sizes of one step are added up, those of a thousand lines at most",
    "logs.prune": "the sizes of one step are added up, those of a thousand lines at most",
    **{f"metrics.series by {period}": "periods are no column" for period in queries.PERIODS},
    **{f"report.{name}": REPORT for name in REPORTED},
}
"""Queries, with all choices of their conditions, that sort or group what they have read."""

FILTERED: dict[Table[Any], list[tuple[str, ...]]] = {
    PROJECTS: [("id",), ("name",), ("is_active",), ("project_type",)],
    BUILDS: [("id",), ("project_id",), ("project_id", "status"), ("status",), ("commit_hash",)],
    LOGS: [("id",), ("build_id",)],
    METRICS: [("id",), ("metric_name",)],
}
"""The choices of columns by which rows are found through an index."""

PAGED: dict[Table[Any], list[tuple[str, tuple[str, ...]]]] = {
    PROJECTS: [
        ("id", ()),
        ("name", ()),
        ("created_at", ("is_active",)),
        ("id", ("project_type",)),
    ],
    BUILDS: [
        ("id", ()),
        ("started_at", ()),
        ("commit_hash", ()),
        ("build_number", ("project_id",)),
        ("build_number", ("project_id", "status")),
        ("started_at", ("status",)),
        ("id", ("commit_hash",)),
    ],
    LOGS: [("id", ()), ("sequence_number", ("build_id",))],
    METRICS: [("id", ()), ("timestamp", ("metric_name",))],
}
PAGED[BUILD_SUMMARIES] = PAGED[BUILDS]
"""The orders, and with which filters, in which an index has the rows."""

ONE_LOOKUP = 100
"""Steps of SQLite's virtual machine, each of which takes less than a tenth of a microsecond."""
ONE_PAGE = 80 * 50
"""A page is of 50 rows."""


@pytest.fixture(scope="module", params=[False, True], ids=["", "analysed"])
def db(rbtlog_database: Path, request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    """All of rbtlog, and figures of the machine that are never committed; with and without the
    statistics of ANALYZE, by which SQLite may choose other indexes."""
    with closing(sqlite3.connect(rbtlog_database)) as db:
        db.executemany(
            "INSERT INTO system_metrics (metric_name, metric_value, timestamp) VALUES (?, 1, ?)",
            ((f"name {n % 9}", f"2026-01-01T00:{n % 60:02}:00.000+00:00") for n in range(1000)),
        )
        if request.param:
            db.execute("ANALYZE")
        yield db


def constants(value: Any) -> Iterator[Query[Any]]:
    """Every query that a constant of the module has in it; those of a `Table` are `pages`."""
    if isinstance(value, Query):
        yield value
    elif isinstance(value, Family | list | tuple):
        for each in value:
            yield from constants(each)
    elif isinstance(value, dict):
        yield from constants(list(value.values()))


QUERIES = {
    query.name: query
    for module in (queries, report_queries)
    for value in vars(module).values()
    for query in constants(value)
}
TABLES = [value for value in vars(queries).values() if isinstance(value, Table)]


def columns(table: Table[Any]) -> list[str]:
    return [name.strip("[]") for name in table.columns.split(", ")]


def pages(db: sqlite3.Connection, table: Table[Any]) -> Iterator[Statement[Any]]:
    """The first page and those behind a row, in each order that an index has, both ways."""
    [found] = run(db, table.page(1, 40 if table is PROJECTS else 300))
    for (column, filters), sign in product(PAGED[table], ("", "-")):
        values = {name: getattr(found, name) for name in filters}
        yield table.page(50, 0, sign + column, None, values)
        yield table.page(50, 0, sign + column, found, values)
        if column != "id":
            without = SimpleNamespace(**{**asdict(found), column: None})
            yield table.page(50, 0, sign + column, without, values)


def plan(db: sqlite3.Connection, query: Query[Any]) -> list[str]:
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query.text}", query.nulls())]


def scans(steps: list[str]) -> list[str]:
    """The steps which read all of something that is stored."""
    own = [step.split()[1] for step in steps if step.startswith(("MATERIALIZE", "CO-ROUTINE"))]
    return [
        step
        for step in steps
        if (found := re.match(r"SCAN (\w+)", step))
        and found[1] not in (*own, "CONSTANT")
        and "VIRTUAL TABLE" not in step
    ]


def sorts(steps: list[str]) -> list[str]:
    return [step for step in steps if "TEMP B-TREE" in step]


class TestPlans:
    """An index is used wherever one is expected; what reads or sorts more is named above."""

    @pytest.mark.parametrize("name", sorted(QUERIES))
    def test_of_every_query(self, db: sqlite3.Connection, name: str) -> None:
        steps = plan(db, QUERIES[name])
        assert not scans(steps) or name in SCANS, steps
        assert not sorts(steps) or name.partition("(")[0] in SORTS, steps

    def test_what_is_allowed_is_there(self, db: sqlite3.Connection) -> None:
        assert set(SCANS) <= set(QUERIES)
        assert set(SORTS) <= {
            name.partition("(")[0] for name in QUERIES if sorts(plan(db, QUERIES[name]))
        }
        assert set(PAGED) == set(TABLES)

    @pytest.mark.parametrize("table", TABLES, ids=repr)
    def test_of_what_every_table_has(self, db: sqlite3.Connection, table: Table[Any]) -> None:
        found = [table.by_id(1)]
        if table in FILTERED:
            found += [table.update(1, {column: None}) for column in columns(table)[1:]]
            found += [table.delete(1)]
            found += [table.count(dict.fromkeys(names)) for names in FILTERED[table]]
        for statement in found:
            steps = plan(db, statement.query)
            assert any("SEARCH" in step for step in steps), (statement.query.name, steps)
            assert not scans(steps) + sorts(steps), (statement.query.name, steps)

    @pytest.mark.parametrize("table", TABLES, ids=repr)
    def test_of_its_pages(self, db: sqlite3.Connection, table: Table[Any]) -> None:
        """They are read in the order of an index. `TestCost` shows that they end at the limit."""
        for statement in pages(db, table):
            steps = plan(db, statement.query)
            assert not sorts(steps), (statement.query.name, steps)


def steps_of(db: sqlite3.Connection, statement: Statement[Any]) -> tuple[int, float]:
    """How many steps of its machine SQLite takes, and how many milliseconds without counting."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    db.set_progress_handler(step, 1)
    db.execute(statement.query.text, statement.values).fetchall()
    db.set_progress_handler(None, 0)
    began = perf_counter()
    db.execute(statement.query.text, statement.values).fetchall()
    return count, (perf_counter() - began) * 1000


class TestCost:
    """What a person waits for takes a number of steps that does not depend on how much there is."""

    def report(self, name: str, cost: tuple[int, float]) -> int:
        print(f"{cost[0]:7,} steps {cost[1]:7.3f} ms  {name}")
        return cost[0]

    def test_lookups(self, db: sqlite3.Connection) -> None:
        [build] = run(db, BUILDS.page(1, 300))
        assert isinstance(build, Build)
        for statement in (
            BUILDS.by_id(build.id),
            PROJECTS.by_id(build.project_id),
            BUILD_SUMMARIES.by_id(build.id),
            METRICS.by_id(500),
            queries.PROJECT_BY_NAME(name="ac.mdiq.podcini"),
            queries.BUILD_BY_NUMBER(project_id=build.project_id, build_number=build.build_number),
            queries.LAST_LINE(build_id=build.id),
            queries.LATEST_METRIC(metric_name="name 3"),
            queries.RUNNING_BUILDS(),
        ):
            assert self.report(statement.query.name, steps_of(db, statement)) <= ONE_LOOKUP

    def test_pages(self, db: sqlite3.Connection) -> None:
        for table in TABLES:
            for statement in pages(db, table):
                assert self.report(statement.query.name, steps_of(db, statement)) <= ONE_PAGE

    def test_a_scan_would_be_seen(self, db: sqlite3.Connection) -> None:
        cost, _ = steps_of(db, BUILDS.page(50, order_by="duration_seconds"))
        assert cost > ONE_PAGE
        cost, _ = steps_of(db, BUILDS.count({"branch": None}))
        assert cost > ONE_LOOKUP

    def test_reports(self, db: sqlite3.Connection) -> None:
        """These read what they tell about: a few steps for each build, and no log line."""
        window = {"project_id": None, "since": None, "until": None}
        late = {**window, "since": datetime(2025, 1, 18, tzinfo=UTC) - timedelta(days=1)}
        for chosen, builds in ((window, 627), (late, 60)):
            for statement in (
                queries.BUILD_STATISTICS(**chosen),
                queries.BUILD_TREND["week"](**chosen),
                queries.SLOWEST_BUILDS(limit=10, **chosen),
                queries.FLAKY_COMMITS(limit=10, **chosen),
            ):
                cost = self.report(statement.query.name, steps_of(db, statement))
                assert cost <= 150 * builds
