"""The schema of the build database, applied with nothing but sqlite3 and the splitter."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from abt_db.migrations.loader import load_migrations
from abt_db.migrations.model import Migration
from abt_db.migrations.script import split

SCHEMA = Path(__file__).parents[2] / "schema"
STEPS = load_migrations(SCHEMA)
LAST = STEPS[-1].version

Rows = list[tuple[object, ...]]


def apply(db: sqlite3.Connection, sql: str | None) -> None:
    """Run a script as the engine does: foreign keys off, in one transaction."""
    assert sql is not None
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("BEGIN IMMEDIATE")
    for statement in split(sql):
        db.execute(statement.text)
    db.execute("COMMIT")
    db.execute("PRAGMA foreign_keys = ON")
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def schema(db: sqlite3.Connection) -> Rows:
    """Return all that a migration may leave behind, but not where on the disk it lies."""
    kept = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
    return [*kept, *db.execute("PRAGMA application_id"), *db.execute("PRAGMA user_version")]


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    yield db
    db.close()


@pytest.fixture
def db(empty: sqlite3.Connection) -> sqlite3.Connection:
    """The migrated database, without a row."""
    for step in STEPS:
        apply(empty, step.up)
    return empty


FILL = {
    1: """
        INSERT INTO projects (id, name, project_type, repository_url, local_path, tags)
        VALUES (1, 'maps', 'gradle', 'https://example.org/maps', '/src/maps', '["a"]'),
               (2, 'mail', 'gradle', 'https://example.org/mail', '/src/mail', NULL);
        INSERT INTO builds (id, project_id, build_number, status, started_at, duration_seconds)
        VALUES (1, 1, 1, 'success', '2026-01-01T00:00:00.000+00:00', 10),
               (2, 1, 2, 'failed', '2026-01-03T00:00:00.000+00:00', 20.5),
               (3, 1, 3, 'success', '2026-01-02T00:00:00.000+00:00', 30),
               (4, 1, 4, 'pending', NULL, NULL);
    """,
    2: """
        INSERT INTO build_logs (build_id, sequence_number, level, message, stream, raw)
        VALUES (1, 1, 'info', 'one', 1, NULL), (1, 2, 'error', 'two', 2, x'74776fff'),
               (2, 1, 'warning', 'one', 1, NULL);
    """,
    3: "",
    4: """
        INSERT INTO system_metrics (metric_name, metric_value) VALUES ('load', 1), ('load', 2);
        INSERT INTO distributed_locks (resource_id, lock_holder, token) VALUES ('deploy', 'me', 7);
    """,
    5: "INSERT INTO build_logs_fts (rowid, message) SELECT id, message FROM build_logs;",
    6: "",
}


def rows(db: sqlite3.Connection) -> dict[str, Rows]:
    tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {name: db.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables}


@pytest.fixture
def filled(db: sqlite3.Connection) -> sqlite3.Connection:
    """The migrated database with a few rows in each table."""
    for script in FILL.values():
        apply(db, script)
    return db


class TestRoundTrip:
    """Each step can be taken back, exactly (M5)."""

    @pytest.mark.parametrize("step", STEPS, ids=lambda step: f"step {step.version}")
    def test_up_and_down_lead_back_and_up_again_to_the_same(
        self, empty: sqlite3.Connection, step: Migration
    ) -> None:
        for earlier in STEPS[: STEPS.index(step)]:
            apply(empty, earlier.up)
        before = schema(empty)
        apply(empty, step.up)
        after = schema(empty)
        apply(empty, step.down)
        assert schema(empty) == before
        apply(empty, step.up)
        assert schema(empty) == after != before

    def test_all_the_way_down_nothing_is_left(self, empty: sqlite3.Connection) -> None:
        for script in [step.up for step in STEPS] + [step.down for step in reversed(STEPS)]:
            apply(empty, script)
        assert schema(empty) == [(0,), (0,)]

    def test_rows_of_the_other_tables_survive_each_step_both_ways(
        self, empty: sqlite3.Connection
    ) -> None:
        stages = [rows(empty)]
        for step in STEPS:
            apply(empty, step.up)
            apply(empty, FILL[step.version])
            stages.append(rows(empty))
        assert all(stages[-1].values())
        for step in reversed(STEPS):
            assert rows(empty) == stages.pop()
            apply(empty, step.down)
            assert rows(empty) == stages[-1]
            apply(empty, step.up)
            apply(empty, step.down)

    def test_the_application_id_reads_abtd_and_is_rolled_back_with_its_step(
        self, empty: sqlite3.Connection
    ) -> None:
        empty.execute("BEGIN")
        for statement in split(STEPS[0].up):
            empty.execute(statement.text)
        (number,) = empty.execute("PRAGMA application_id").fetchone()
        assert number.to_bytes(4, "big") == b"abtd"
        assert number == application_id()
        empty.execute("ROLLBACK")
        assert schema(empty) == [(0,), (0,)]


def application_id() -> int:
    """Return what the package says; it is installed as `abt_db.schema`, so load it by its path."""
    spec = importlib.util.spec_from_file_location("schema_under_test", SCHEMA / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.APPLICATION_ID)


COLUMNS = {
    "projects": "id name description project_type repository_url local_path branch build_command"
    " environment_vars build_timeout created_at updated_at is_active tags",
    "builds": "id project_id build_number status started_at completed_at duration_seconds"
    " commit_hash branch build_type triggered_by exit_code artifact_path artifact_size"
    " memory_usage_mb cpu_usage_percent created_at updated_at build_metadata",
    "build_logs": "id build_id sequence_number level timestamp message source stream raw",
    "build_logs_fts": "message",
    "system_metrics": "id metric_name metric_value metric_unit timestamp",
    "distributed_locks": "resource_id lock_holder acquired_at expires_at token",
    "build_performance_stats": "project_id project_name total_builds successful_builds"
    " avg_duration last_build_at",
}


class TestTables:
    """The tables are those of the design, and hold only what makes sense."""

    def test_names_and_order_of_the_columns(self, db: sqlite3.Connection) -> None:
        tables = db.execute(
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
            " AND name NOT GLOB '*_fts_*'"
        )
        assert {
            name: " ".join(row[1] for row in db.execute(f"PRAGMA table_info({name})"))
            for (name,) in tables.fetchall()
        } == COLUMNS

    def test_defaults(self, filled: sqlite3.Connection) -> None:
        project = filled.execute(
            "SELECT branch, build_timeout, is_active, length(created_at), updated_at = created_at"
            " FROM projects"
        ).fetchone()
        assert project == ("main", 1800, 1, len("2026-11-22T07:54:47.123+00:00"), 1)
        filled.execute("INSERT INTO builds (project_id, build_number) VALUES (2, 1)")
        filled.execute(
            "INSERT INTO build_logs (build_id, sequence_number, message) VALUES (4, 1, '')"
        )
        last = "SELECT * FROM {} ORDER BY id DESC"
        assert filled.execute(last.format("builds")).fetchone()[3] == "pending"
        line = filled.execute(last.format("build_logs")).fetchone()
        assert (line[3], line[7:]) == ("info", (1, None))

    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE projects SET name = 'mail' WHERE id = 1",
            "UPDATE projects SET name = NULL WHERE id = 1",
            "UPDATE projects SET tags = '[1' WHERE id = 1",
            "UPDATE projects SET environment_vars = '' WHERE id = 1",
            "UPDATE projects SET is_active = 2 WHERE id = 1",
            "UPDATE projects SET build_timeout = 0 WHERE id = 1",
            "UPDATE builds SET build_number = 2 WHERE id = 1",
            "UPDATE builds SET build_number = 'x' WHERE id = 1",
            "UPDATE builds SET status = 'done' WHERE id = 1",
            "UPDATE builds SET project_id = 9 WHERE id = 1",
            "UPDATE builds SET build_metadata = '{]' WHERE id = 1",
            "UPDATE build_logs SET sequence_number = 2 WHERE id = 1",
            "UPDATE build_logs SET sequence_number = 'x' WHERE id = 1",
            "UPDATE build_logs SET level = 'fatal' WHERE id = 1",
            "UPDATE build_logs SET message = NULL WHERE id = 1",
            "UPDATE build_logs SET stream = 3 WHERE id = 1",
            "UPDATE build_logs SET raw = 'text' WHERE id = 1",
            "UPDATE build_logs SET build_id = 9 WHERE id = 1",
            "INSERT INTO distributed_locks (resource_id) VALUES ('deploy')",
            "INSERT INTO distributed_locks (resource_id) VALUES (NULL)",
            "UPDATE distributed_locks SET token = 'x'",
        ],
    )
    def test_what_makes_no_sense_is_refused(self, filled: sqlite3.Connection, sql: str) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            filled.execute(sql)

    @pytest.mark.parametrize(
        "sql",
        [
            'UPDATE projects SET environment_vars = \'{"A": "b"}\', tags = NULL, is_active = 0',
            "UPDATE builds SET build_metadata = 'null', project_id = 2",
            *(
                f"UPDATE builds SET status = '{status}'"
                for status in ("pending", "running", "success", "failed", "cancelled")
            ),
            *(
                f"UPDATE build_logs SET level = '{level}', stream = 2, raw = x'00'"
                for level in ("debug", "info", "warning", "error")
            ),
        ],
    )
    def test_what_makes_sense_is_kept(self, filled: sqlite3.Connection, sql: str) -> None:
        assert filled.execute(sql).rowcount > 0

    def test_a_project_takes_its_builds_along_and_a_build_its_lines(
        self, filled: sqlite3.Connection
    ) -> None:
        count = "SELECT (SELECT count(*) FROM builds), (SELECT count(*) FROM build_logs)"
        assert filled.execute(count).fetchone() == (4, 3)
        filled.execute("DELETE FROM builds WHERE id = 2")
        assert filled.execute(count).fetchone() == (3, 2)
        filled.execute("DELETE FROM projects WHERE id = 1")
        assert filled.execute(count).fetchone() == (0, 0)


OLD = "2020-01-01T00:00:00.000+00:00"


@pytest.mark.parametrize("table", ["projects", "builds"])
@pytest.mark.parametrize("recursive", ["OFF", "ON"])
class TestUpdatedAt:
    """updated_at follows every change that does not set it."""

    @pytest.fixture
    def old(self, filled: sqlite3.Connection, table: str, recursive: str) -> sqlite3.Connection:
        filled.execute(f"PRAGMA recursive_triggers = {recursive}")
        filled.execute(f"UPDATE {table} SET updated_at = '{OLD}'")
        return filled

    def test_a_change_of_any_column_moves_it_in_that_row_alone(
        self, old: sqlite3.Connection, table: str
    ) -> None:
        columns = COLUMNS[table].split()
        columns.remove("updated_at")
        for column in columns:
            old.execute("BEGIN")
            assert old.execute(f"UPDATE {table} SET {column} = {column} WHERE id = 1").rowcount == 1
            (changed,), (other,) = old.execute(
                f"SELECT updated_at FROM {table} ORDER BY id LIMIT 2"
            )
            assert changed > OLD
            assert other == OLD
            old.execute("ROLLBACK")

    def test_a_change_that_sets_it_is_left_alone(self, old: sqlite3.Connection, table: str) -> None:
        later = "2999-01-01T00:00:00.000+00:00"
        old.execute(f"UPDATE {table} SET branch = 'x', updated_at = '{later}' WHERE id = 1")
        assert old.execute(f"SELECT updated_at FROM {table} WHERE id = 1").fetchone() == (later,)

    def test_it_has_the_form_of_the_engine(self, old: sqlite3.Connection, table: str) -> None:
        old.execute(f"UPDATE {table} SET branch = 'x'")
        digits = "[0-9]" * 2
        form = f"20{digits}-{digits}-{digits}T{digits}:{digits}:{digits}.{digits}[0-9]+00:00"
        every = f"SELECT min(updated_at GLOB '{form}'), min(created_at GLOB '{form}') FROM {table}"
        assert old.execute(every).fetchone() == (1, 1)

    def test_changes_in_the_same_millisecond_do_not_set_it_off_again(
        self, old: sqlite3.Connection, table: str
    ) -> None:
        for _ in range(300):
            assert old.execute(f"UPDATE {table} SET branch = 'x' WHERE id = 1").rowcount == 1


class TestView:
    """build_performance_stats counts the builds of each project."""

    def test_its_figures(self, filled: sqlite3.Connection) -> None:
        assert filled.execute("SELECT * FROM build_performance_stats").fetchall() == [
            (1, "maps", 4, 2, 60.5 / 3, "2026-01-03T00:00:00.000+00:00"),
            (2, "mail", 0, 0, None, None),
        ]

    def test_one_project_reads_only_its_builds(self, db: sqlite3.Connection) -> None:
        query = "SELECT * FROM build_performance_stats WHERE project_id = :id"
        used = plan(db, query)
        assert "SEARCH projects USING INTEGER PRIMARY KEY (rowid=?)" in used
        assert "SEARCH builds" in used


def plan(db: sqlite3.Connection, query: str) -> str:
    names = {"id", "before", "status", "since", "name", "level", "commit", "after"}
    steps = db.execute(f"EXPLAIN QUERY PLAN {query}", dict.fromkeys(names, 1))
    return "; ".join(row[3] for row in steps)


PROBLEM = "level IN ('warning', 'error')"

# Which index serves which query: all of the row is found through it, in order, without sorting.
PLANS = {
    "builds of a project, newest number first": (
        "SELECT * FROM builds WHERE project_id = :id ORDER BY build_number DESC LIMIT 50",
        "builds USING INDEX sqlite_autoindex_builds_1 (project_id=?)",
    ),
    "the next build number": (
        "SELECT max(build_number) FROM builds WHERE project_id = :id",
        "builds USING COVERING INDEX sqlite_autoindex_builds_1 (project_id=?)",
    ),
    "running builds, oldest first": (
        "SELECT * FROM builds WHERE status = 'running' ORDER BY started_at, id",
        "builds USING INDEX builds_by_status (status=?)",
    ),
    "builds by status and time": (
        "SELECT * FROM builds WHERE status = :status AND started_at >= :since ORDER BY started_at",
        "builds USING INDEX builds_by_status (status=? AND started_at>?)",
    ),
    "builds by time": (
        "SELECT * FROM builds WHERE started_at >= :since ORDER BY started_at",
        "builds USING INDEX builds_by_start (started_at>?)",
    ),
    "builds of a commit": (
        "SELECT * FROM builds WHERE commit_hash = :commit",
        "builds USING INDEX builds_by_commit (commit_hash=?)",
    ),
    "builds of a project by status, newest number first": (
        "SELECT * FROM builds WHERE project_id = :id AND status = :status"
        " ORDER BY build_number DESC",
        "builds USING INDEX builds_by_project_status (project_id=? AND status=?)",
    ),
    "how many builds of a project have which status": (
        "SELECT status, count(*) FROM builds WHERE project_id = :id GROUP BY status",
        "builds USING COVERING INDEX builds_by_project_status (project_id=?)",
    ),
    "a project by its name": (
        "SELECT * FROM projects WHERE name = :name",
        "projects USING INDEX sqlite_autoindex_projects_1 (name=?)",
    ),
    "active projects, newest first": (
        "SELECT * FROM projects WHERE is_active = 1 ORDER BY created_at DESC, id DESC",
        "projects USING INDEX projects_by_activity (is_active=?)",
    ),
    "lines of a build after a number": (
        "SELECT * FROM build_logs WHERE build_id = :id AND sequence_number > :after"
        " ORDER BY sequence_number",
        "build_logs USING INDEX sqlite_autoindex_build_logs_1 (build_id=? AND sequence_number>?)",
    ),
    "the last lines of a build": (
        "SELECT * FROM build_logs WHERE build_id = :id ORDER BY sequence_number DESC LIMIT 10",
        "build_logs USING INDEX sqlite_autoindex_build_logs_1 (build_id=?)",
    ),
    "the lines that go with a build": (
        "DELETE FROM build_logs WHERE build_id = :id",
        "build_logs USING COVERING INDEX sqlite_autoindex_build_logs_1 (build_id=?)",
    ),
    "warnings and errors of a build": (
        f"SELECT * FROM build_logs WHERE build_id = :id AND sequence_number > :after AND {PROBLEM}"
        " ORDER BY sequence_number",
        "build_logs USING INDEX build_logs_problems (build_id=? AND sequence_number>?)",
    ),
    "errors of a build": (
        f"SELECT * FROM build_logs WHERE build_id = :id AND {PROBLEM} AND level = :level"
        " ORDER BY sequence_number",
        "build_logs USING INDEX build_logs_problems (build_id=?)",
    ),
    "errors of all builds since a time": (
        "SELECT * FROM build_logs WHERE level = 'error' AND timestamp >= :since ORDER BY timestamp",
        "build_logs USING INDEX build_logs_errors_by_time (timestamp>?)",
    ),
    "warnings of all builds since a time": (
        "SELECT * FROM build_logs WHERE level = 'warning' AND timestamp >= :since"
        " ORDER BY timestamp DESC",
        "build_logs USING INDEX build_logs_warnings_by_time (timestamp>?)",
    ),
    "projects of a type": (
        "SELECT * FROM projects WHERE project_type = :name ORDER BY id",
        "projects USING INDEX projects_by_type (project_type=?)",
    ),
    "the lines with a NUL": (
        "SELECT * FROM build_logs WHERE id < :before AND instr(message, char(0)) ORDER BY id DESC",
        "build_logs USING INDEX build_logs_with_nul (id<?)",
    ),
    "a metric over time": (
        "SELECT * FROM system_metrics WHERE metric_name = :name AND timestamp >= :since"
        " ORDER BY timestamp",
        "system_metrics USING INDEX system_metrics_by_time (metric_name=? AND timestamp>?)",
    ),
    "the latest of a metric": (
        "SELECT * FROM system_metrics WHERE metric_name = :name"
        " ORDER BY timestamp DESC, id DESC LIMIT 1",
        "system_metrics USING INDEX system_metrics_by_time (metric_name=?)",
    ),
}


class TestIndexes:
    """Each query has its index, and each index its query."""

    @pytest.mark.parametrize(("query", "expected"), PLANS.values(), ids=PLANS)
    def test_a_query_finds_its_rows_in_order(
        self, db: sqlite3.Connection, query: str, expected: str
    ) -> None:
        assert plan(db, query) == f"SEARCH {expected}"

    @pytest.mark.parametrize("level", ["error", "warning"])
    @pytest.mark.parametrize("words", ["level = '{}'", "level = :level"])
    def test_problems_are_found_by_what_people_write(
        self, db: sqlite3.Connection, level: str, words: str
    ) -> None:
        """The condition need not be repeated from the schema, and may be bound."""
        query = (
            f"SELECT * FROM build_logs WHERE {words.format(level)} ORDER BY timestamp DESC LIMIT 50"
        )
        values = {"level": level} if ":" in words else {}
        [step] = db.execute(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
        assert step[3] == f"SCAN build_logs USING INDEX build_logs_{level}s_by_time"

    def test_lines_of_a_time_are_found_through_their_builds(self, db: sqlite3.Connection) -> None:
        """There is no index over the times of all lines: the docstring of the schema says why."""
        query = (
            "SELECT build_logs.* FROM builds JOIN build_logs ON build_id = builds.id"
            " WHERE started_at >= :since ORDER BY started_at LIMIT 100"
        )
        assert plan(db, query) == (
            "SEARCH builds USING COVERING INDEX builds_by_start (started_at>?); "
            "SEARCH build_logs USING INDEX sqlite_autoindex_build_logs_1 (build_id=?)"
        )

    def test_no_index_is_without_a_query(self, db: sqlite3.Connection) -> None:
        indexes = db.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")
        idle = {
            name
            for (name,) in indexes
            if not any(f"INDEX {name} " in expected for _, expected in PLANS.values())
        }
        assert idle == {"sqlite_autoindex_distributed_locks_1"}

    def test_no_index_is_the_beginning_of_another(self, db: sqlite3.Connection) -> None:
        found = db.execute(
            "SELECT tables.name, indexes.partial, group_concat(columns.name)"
            " FROM sqlite_schema AS tables, pragma_index_list(tables.name) AS indexes,"
            " pragma_index_info(indexes.name) AS columns"
            " WHERE tables.type = 'table' GROUP BY indexes.name"
        ).fetchall()
        for one in found:
            for other in found:
                same = one[:2] == other[:2] and one != other
                assert not (same and f"{other[2]},".startswith(f"{one[2]},"))

    def test_an_unremarkable_line_is_in_no_index_but_its_keys(self, db: sqlite3.Connection) -> None:
        indexes = db.execute(
            "SELECT name FROM pragma_index_list('build_logs') WHERE NOT partial"
        ).fetchall()
        assert indexes == [("sqlite_autoindex_build_logs_1",)]
