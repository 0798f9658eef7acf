"""The SQL texts of the build database, each a named `Query`; those of the page are in
`report.queries`.

Where the columns or conditions are chosen by the caller, a `Table` or a `Family` makes them.
"""

from __future__ import annotations

from abt_db.errors import ParameterError
from abt_db.sql.query import Query
from abt_db.sql.table import Table

from .family import Family
from .models import (
    Build,
    BuildPeriod,
    BuildStatistics,
    BuildSummary,
    FlakyCommit,
    LogLine,
    LogMatch,
    Metric,
    MetricPeriod,
    Progress,
    Project,
    ProjectSummary,
    Pruned,
)

PERIODS = {
    "minute": "strftime('%Y-%m-%dT%H:%M:00.000+00:00', {})",
    "hour": "strftime('%Y-%m-%dT%H:00:00.000+00:00', {})",
    "day": "strftime('%Y-%m-%dT00:00:00.000+00:00', {})",
    "week": "strftime('%Y-%m-%dT00:00:00.000+00:00', {}, 'weekday 0', '-6 days')",
    "month": "strftime('%Y-%m-01T00:00:00.000+00:00', {})",
}
"""For each kind of period the SQL of the beginning of the one that holds a moment."""


def period(bucket: str) -> str:
    """Return `bucket` if it is a kind of period, or raise `ParameterError`."""
    if bucket not in PERIODS:
        raise ParameterError(f"there are no such periods; bucket is one of {', '.join(PERIODS)}")
    return bucket


# -- projects ------------------------------------------------------------------------------------

PROJECTS = Table("projects", Project, json=("environment_vars", "tags"))

PROJECT_BY_NAME = Query(
    "projects.by_name", f"SELECT {PROJECTS.columns} FROM projects WHERE name = :name", Project
)

ADD_PROJECT = Query(
    "projects.add",
    """
    INSERT INTO projects (name, project_type, repository_url, local_path, branch)
    VALUES (:name, :project_type, :repository_url, :local_path, :branch)
    ON CONFLICT (name) DO NOTHING
    """,
)

# Unlike LIKE, instr() knows no special characters.
_HAS_WORD = """(instr(lower(projects.name), lower(:word))
           OR instr(lower(projects.description), lower(:word)))"""

SEARCH_PROJECTS = Query(
    "projects.search",
    f"SELECT {PROJECTS.columns} FROM projects WHERE {_HAS_WORD} ORDER BY name LIMIT :limit",
    Project,
)

PROJECT_SUMMARIES = Family(
    "projects.summaries",
    f"""
    SELECT {PROJECTS.columns}, total_builds, successful_builds, last_build_at
    FROM build_performance_stats
    JOIN projects ON projects.id = project_id
    WHERE {{conditions}}
    ORDER BY created_at DESC, id DESC
    """,
    ProjectSummary,
    word=_HAS_WORD,
    active="projects.is_active = :active",
)

# -- builds --------------------------------------------------------------------------------------

BUILDS = Table(
    "builds",
    Build,
    json=("build_metadata",),
    # Asked in the statement that adds the row: nobody else can get the same number.
    made={
        "build_number": "(SELECT coalesce(max(build_number), 0) + 1 FROM builds"
        " WHERE project_id = :project_id)"
    },
)

BUILD_BY_NUMBER = Query(
    "builds.by_number",
    f"""
    SELECT {BUILDS.columns} FROM builds
    WHERE project_id = :project_id AND build_number = :build_number
    """,
    Build,
)

RUNNING_BUILDS = Query(
    "builds.running",
    f"SELECT {BUILDS.columns} FROM builds WHERE status = 'running' ORDER BY started_at, id",
    Build,
)

_SUMMARY = """SELECT builds.id, project_id, projects.name AS project_name, build_number, status,
           started_at, duration_seconds, exit_code, builds.branch, commit_hash, build_type,
           (SELECT coalesce(max(sequence_number), 0) FROM build_logs
            WHERE build_id = builds.id) AS log_lines
    FROM builds JOIN projects ON projects.id = project_id"""

BUILD_SUMMARIES = Table("builds.summaries", BuildSummary, f"({_SUMMARY})")

_CHOSEN = {
    "project_id": "project_id = :project_id",
    "since": "started_at >= :since",
    "until": "started_at < :until",
}

BUILD_STATISTICS = Family(
    "builds.statistics",
    """
    WITH ranked AS (
        SELECT status, duration_seconds, count(duration_seconds) OVER () AS timed,
               row_number() OVER (ORDER BY duration_seconds NULLS LAST) AS rank
        FROM builds WHERE {conditions}
    )
    SELECT count(*) AS total,
           json_object('pending', count(*) FILTER (WHERE status = 'pending'),
                       'running', count(*) FILTER (WHERE status = 'running'),
                       'success', count(*) FILTER (WHERE status = 'success'),
                       'failed', count(*) FILTER (WHERE status = 'failed'),
                       'cancelled', count(*) FILTER (WHERE status = 'cancelled')) AS by_status,
           100.0 * count(*) FILTER (WHERE status = 'success')
           / nullif(count(*) FILTER (WHERE status IN ('success', 'failed', 'cancelled')), 0)
               AS success_rate,
           avg(duration_seconds) AS mean_duration,
           avg(duration_seconds) FILTER (WHERE rank IN ((timed + 1) / 2, (timed + 2) / 2))
               AS median_duration,
           min(duration_seconds) FILTER (WHERE rank * 100 >= timed * 95) AS p95_duration,
           max(duration_seconds) AS longest_duration
    FROM ranked
    """,
    BuildStatistics,
    **_CHOSEN,
)

BUILD_TREND = {
    kind: Family(
        f"builds.trend by {kind}",
        f"""
        SELECT {beginning.format("started_at")} AS start, count(*) AS total,
               count(*) FILTER (WHERE status = 'success') AS successful,
               count(*) FILTER (WHERE status = 'failed') AS failed,
               avg(duration_seconds) AS mean_duration
        FROM builds WHERE started_at IS NOT NULL AND {{conditions}}
        GROUP BY start ORDER BY start
        """,
        BuildPeriod,
        **_CHOSEN,
    )
    for kind, beginning in PERIODS.items()
}

SLOWEST_BUILDS = Family(
    "builds.slowest",
    f"""
    {_SUMMARY}
    WHERE builds.id IN (
        SELECT id FROM builds WHERE duration_seconds IS NOT NULL AND {{conditions}}
        ORDER BY duration_seconds DESC, id LIMIT :limit
    )
    ORDER BY duration_seconds DESC, builds.id
    """,
    BuildSummary,
    **_CHOSEN,
)

FLAKY_COMMITS = Family(
    "builds.flaky",
    """
    SELECT projects.name AS project_name, commit_hash,
           count(*) FILTER (WHERE status = 'success') AS successful,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           max(started_at) AS last_build_at
    FROM builds JOIN projects ON projects.id = project_id
    WHERE commit_hash IS NOT NULL AND {conditions}
    GROUP BY project_name, commit_hash
    HAVING successful AND failed
    ORDER BY last_build_at DESC, commit_hash LIMIT :limit
    """,
    FlakyCommit,
    **_CHOSEN,
)

# -- metrics -------------------------------------------------------------------------------------

METRICS = Table("system_metrics", Metric)

ADD_METRIC = Query(
    "metrics.add",
    """
    INSERT INTO system_metrics (metric_name, metric_value, metric_unit, timestamp)
    VALUES (:metric_name, :metric_value, :metric_unit, :timestamp)
    """,
)

LATEST_METRIC = Query(
    "metrics.latest",
    f"""
    SELECT {METRICS.columns} FROM system_metrics WHERE metric_name = :metric_name
    ORDER BY timestamp DESC, id DESC LIMIT 1
    """,
    Metric,
)

METRIC_SERIES = {
    kind: Query(
        f"metrics.series by {kind}",
        f"""
        SELECT {beginning.format("timestamp")} AS start, count(*) AS count,
               avg(metric_value) AS mean, min(metric_value) AS least, max(metric_value) AS most
        FROM system_metrics WHERE metric_name = :metric_name AND timestamp >= :since
        GROUP BY start ORDER BY start
        """,
        MetricPeriod,
    )
    for kind, beginning in PERIODS.items()
}

# -- log lines -----------------------------------------------------------------------------------

LOGS = Table(
    "build_logs",
    LogLine,
    made={
        "sequence_number": "(SELECT coalesce(max(sequence_number), 0) + 1 FROM build_logs"
        " WHERE build_id = :build_id)"
    },
)

LAST_LINE = Query(
    "logs.last",
    "SELECT coalesce(max(sequence_number), 0) FROM build_logs WHERE build_id = :build_id",
    int,
)

ADD_LINE = Query(
    "logs.add",
    """
    INSERT INTO build_logs (build_id, sequence_number, level, timestamp, message, source, stream,
                            raw)
    VALUES (:build_id, :sequence_number, :level, :timestamp, :message, :source, :stream, :raw)
    """,
)

_OF_LOG = f"""SELECT {LOGS.columns} FROM build_logs
    WHERE build_id = :build_id AND instr(:levels, level) AND instr(message, :containing)"""

# Word for word as in the indexes of these few lines, or SQLite does not use them.
_PROBLEM = "level IN ('warning', 'error')"

_ONWARD = "AND sequence_number > :after ORDER BY sequence_number LIMIT :limit"

WHOLE_LOG = Query(
    "logs.whole",
    f"SELECT {LOGS.columns} FROM build_logs WHERE build_id = :build_id ORDER BY sequence_number",
    LogLine,
)

LINES = Query("logs.lines", f"{_OF_LOG} {_ONWARD}", LogLine)

PROBLEMS = Query("logs.problems", f"{_OF_LOG} AND {_PROBLEM} {_ONWARD}", LogLine)

_LAST = "ORDER BY sequence_number DESC LIMIT :limit"

LAST_LINES = Query("logs.last_lines", f"{_OF_LOG} {_LAST}", LogLine)

LAST_PROBLEMS = Query("logs.last_problems", f"{_OF_LOG} AND {_PROBLEM} {_LAST}", LogLine)

# The joins are CROSS, so that lines come by their ids, the newest first, and a search ends when it
# has enough of them.
_MATCH = """projects.name AS project_name, build_number, build_id, sequence_number, level,
           build_logs.timestamp, build_logs.message"""

_OF_BUILD = """CROSS JOIN builds ON builds.id = build_id
    CROSS JOIN projects ON projects.id = project_id"""

_HIT = """instr(lower(build_logs.message), :word) AND instr(:levels, level)
      AND (:project_id IS NULL OR project_id = :project_id)"""

_INDEXED = "(SELECT coalesce(max(id), 0) FROM build_logs_fts_docsize)"

SEARCH = Query(
    "logs.search",
    f"""
    SELECT build_logs_fts.rowid AS id, {_MATCH}
    FROM build_logs_fts CROSS JOIN build_logs ON build_logs.id = build_logs_fts.rowid {_OF_BUILD}
    WHERE build_logs_fts MATCH :groups AND build_logs_fts.rowid < :before
      AND NOT instr(build_logs.message, char(0)) AND {_HIT}
    UNION ALL
    SELECT build_logs.id, {_MATCH} FROM build_logs {_OF_BUILD}
    WHERE build_logs.id < :before AND build_logs.id <= {_INDEXED}
      AND instr(build_logs.message, char(0)) AND {_HIT}
    UNION ALL
    SELECT build_logs.id, {_MATCH} FROM build_logs {_OF_BUILD}
    WHERE build_logs.id < :before AND build_logs.id > {_INDEXED} AND {_HIT}
    ORDER BY id DESC
    """,
    LogMatch,
)

SEARCH_EACH_LINE = Query(
    "logs.search_each_line",
    f"""
    SELECT build_logs.id, {_MATCH} FROM build_logs {_OF_BUILD}
    WHERE build_logs.id < :before AND {_HIT}
    ORDER BY build_logs.id DESC
    """,
    LogMatch,
)

SEARCH_BUILD = Query(
    "logs.search_build",
    f"""
    SELECT build_logs.id, {_MATCH} FROM build_logs {_OF_BUILD}
    WHERE build_id = :build_id AND build_logs.id < :before AND {_HIT}
    ORDER BY sequence_number DESC
    """,
    LogMatch,
)

# What is done in steps takes so many lines at a time, and of long lines fewer, but one at least.
_BYTES = "length(CAST(message AS BLOB)) AS bytes"

_STEP = """SELECT id FROM (
            SELECT id, place, min(place) OVER () AS first, sum(bytes) OVER (ORDER BY place) AS total
            FROM wanted
        )
        WHERE place = first OR total <= :bytes"""

INDEX_LINES = Query(
    "logs.index",
    f"""
    INSERT INTO build_logs_fts (rowid, message)
    SELECT id, message FROM build_logs
    WHERE id IN (
        WITH wanted AS (
            SELECT id, id AS place, {_BYTES} FROM build_logs
            WHERE id > {_INDEXED}
            ORDER BY id LIMIT :lines
        )
        {_STEP}
    )
    ORDER BY id
    """,
)

# From the end, so that the last number is the number of lines even of a build that is half pruned.
PRUNE_LINES = Query(
    "logs.prune",
    f"""
    DELETE FROM build_logs
    WHERE id IN (
        WITH wanted AS (
            SELECT id, -sequence_number AS place, {_BYTES} FROM build_logs
            WHERE build_id = :build_id
            ORDER BY sequence_number DESC LIMIT :lines
        )
        {_STEP}
    )
    """,
)

_ENDED = """status NOT IN ('pending', 'running')
      AND coalesce(completed_at, started_at, created_at) < :before"""

NEXT_TO_PRUNE = Query(
    "logs.next_to_prune",
    f"""
    SELECT id FROM builds
    WHERE id > :after AND {_ENDED} AND EXISTS (SELECT 1 FROM build_logs WHERE build_id = builds.id)
    ORDER BY id LIMIT 1
    """,
    int,
)

PRUNABLE = Query(
    "logs.prunable",
    f"""
    SELECT count(*) AS builds, coalesce(sum(lines), 0) AS lines
    FROM (
        SELECT (SELECT count(*) FROM build_logs WHERE build_id = builds.id) AS lines
        FROM builds WHERE {_ENDED}
    )
    WHERE lines > 0
    """,
    Pruned,
)

PROGRESS = Query(
    "logs.progress",
    """
    SELECT status, (SELECT coalesce(max(sequence_number), 0) FROM build_logs
                    WHERE build_id = builds.id) AS log_lines
    FROM builds WHERE id = :build_id
    """,
    Progress,
)

NEXT_LINES = Query(
    "logs.next",
    f"""
    SELECT {LOGS.columns} FROM build_logs
    WHERE build_id = :build_id AND sequence_number > :after AND sequence_number <= :last
    ORDER BY sequence_number LIMIT 1000
    """,
    LogLine,
)

# -- history files -------------------------------------------------------------------------------

IMPORT_PROJECT = Query(
    "history.import_project",
    """
    INSERT INTO projects (name, description, project_type, repository_url, local_path, branch,
                          build_command, environment_vars, build_timeout, created_at, updated_at,
                          is_active, tags)
    VALUES (:name, :description, :project_type, :repository_url, :local_path, :branch,
            :build_command, :environment_vars, :build_timeout, :created_at, :updated_at,
            :is_active, :tags)
    """,
)

FILL_PROJECT_IN = Query(
    "history.fill_project_in",
    """
    UPDATE projects
    SET description = :description, project_type = :project_type, repository_url = :repository_url,
        local_path = :local_path, build_command = :build_command,
        environment_vars = :environment_vars, tags = :tags
    WHERE id = :id
    """,
)

# Those that may be the same build; all others of the project need not be looked at. The "+" has
# SQLite search by the start alone, for there few builds are alike.
BUILDS_ALIKE = Query(
    "history.builds_alike",
    f"""
    SELECT {BUILDS.columns} FROM builds
    WHERE project_id = :project_id AND build_number = :build_number
    UNION ALL
    SELECT {BUILDS.columns} FROM builds
    WHERE +project_id = :project_id AND started_at IS :started_at
    """,
    Build,
)

FREE_NUMBER = Query(
    "history.free_number",
    """
    SELECT CASE
        WHEN :build_number IS NULL OR EXISTS (
            SELECT 1 FROM builds
            WHERE project_id = projects.id AND build_number = :build_number
        ) THEN (
            SELECT coalesce(max(build_number), 0) + 1 FROM builds WHERE project_id = projects.id
        )
        ELSE :build_number
    END
    FROM projects WHERE name = :project
    """,
    int,
)

IMPORT_BUILD = Query(
    "history.import_build",
    """
    INSERT INTO builds (project_id, build_number, status, started_at, completed_at,
                        duration_seconds, commit_hash, branch, build_type, triggered_by, exit_code,
                        artifact_path, artifact_size, memory_usage_mb, cpu_usage_percent,
                        created_at, updated_at, build_metadata)
    SELECT id, :build_number, :status, :started_at, :completed_at,
           :duration_seconds, :commit_hash, :branch, :build_type, :triggered_by, :exit_code,
           :artifact_path, :artifact_size, :memory_usage_mb, :cpu_usage_percent,
           :created_at, :updated_at, :build_metadata
    FROM projects WHERE name = :project
    RETURNING id
    """,
    int,
)

EXPORTED_PROJECTS = Query(
    "history.exported_projects", f"SELECT {PROJECTS.columns} FROM projects ORDER BY id", Project
)

EXPORTED_BUILDS = Query(
    "history.exported_builds", f"SELECT {BUILDS.columns} FROM builds ORDER BY id", Build
)

PROJECT_NAMES = Query("history.project_names", "SELECT id, name FROM projects")

COUNT_BUILDS = Query("history.count_builds", "SELECT count(*) FROM builds", int)
