"""Every SQL text of the build database, each a named `Query`."""

from __future__ import annotations

from abt_db.query import Query

from .models import (
    Build,
    BuildSummary,
    LogLine,
    LogMatch,
    Progress,
    Project,
    ProjectSummary,
    Pruned,
)

__all__: list[str] = []

_PROJECT = """id, name, description, project_type, repository_url, local_path, branch,
       build_command, environment_vars, build_timeout, created_at, updated_at, is_active, tags"""

_BUILD = """id, project_id, build_number, status, started_at, completed_at, duration_seconds,
       commit_hash, branch, build_type, triggered_by, exit_code, artifact_path, artifact_size,
       memory_usage_mb, cpu_usage_percent, created_at, updated_at, build_metadata"""

_LINE = """id, build_id, sequence_number, level, timestamp, message, source, stream, raw"""

# -- projects ------------------------------------------------------------------------------------

PROJECT_BY_ID = Query("projects.by_id", f"SELECT {_PROJECT} FROM projects WHERE id = :id", Project)

PROJECT_BY_NAME = Query(
    "projects.by_name", f"SELECT {_PROJECT} FROM projects WHERE name = :name", Project
)

ADD_PROJECT = Query(
    "projects.add",
    """
    INSERT INTO projects (name, project_type, repository_url, local_path, branch)
    VALUES (:name, :project_type, :repository_url, :local_path, :branch)
    ON CONFLICT (name) DO NOTHING
    """,
)

PROJECT_SUMMARIES = Query(
    "projects.summaries",
    """
    SELECT projects.id, projects.name, project_type, is_active,
           total_builds, successful_builds, last_build_at
    FROM build_performance_stats
    JOIN projects ON projects.id = project_id
    ORDER BY projects.name
    """,
    ProjectSummary,
)

# -- builds --------------------------------------------------------------------------------------

BUILD_BY_ID = Query("builds.by_id", f"SELECT {_BUILD} FROM builds WHERE id = :id", Build)

BUILD_BY_NUMBER = Query(
    "builds.by_number",
    f"""
    SELECT {_BUILD} FROM builds
    WHERE project_id = :project_id AND build_number = :build_number
    """,
    Build,
)

START_BUILD = Query(
    "builds.start",
    f"""
    INSERT INTO builds (project_id, build_number, status, started_at, commit_hash, branch,
                        build_type, triggered_by, build_metadata)
    SELECT :project_id, coalesce(max(build_number), 0) + 1, 'running', :started_at, :commit_hash,
           :branch, :build_type, :triggered_by, :build_metadata
    FROM builds WHERE project_id = :project_id
    RETURNING {_BUILD}
    """,
    Build,
)

# The condition on the status keeps a build that has ended from ending twice. RETURNING tells what
# the statement set and not what a trigger did afterwards, so `updated_at` is set here.
END_BUILD = Query(
    "builds.end",
    f"""
    UPDATE builds
    SET status = :status, completed_at = :completed_at, duration_seconds = :duration_seconds,
        exit_code = :exit_code, artifact_path = :artifact_path, artifact_size = :artifact_size,
        memory_usage_mb = :memory_usage_mb, cpu_usage_percent = :cpu_usage_percent,
        build_metadata = json_patch(coalesce(build_metadata, '{{}}'), :notes),
        updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
    WHERE id = :id AND status IN ('pending', 'running')
    RETURNING {_BUILD}
    """,
    Build,
)

RUNNING_BUILDS = Query(
    "builds.running",
    f"SELECT {_BUILD} FROM builds WHERE status = 'running' ORDER BY started_at",
    Build,
)

_SUMMARY = """SELECT builds.id, projects.name AS project_name, build_number, status, started_at,
           duration_seconds, exit_code, builds.branch, commit_hash, build_type,
           (SELECT coalesce(max(sequence_number), 0) FROM build_logs
            WHERE build_id = builds.id) AS log_lines
    FROM builds JOIN projects ON projects.id = project_id"""

LATEST_BUILDS = Query(
    "builds.latest", f"{_SUMMARY} ORDER BY builds.id DESC LIMIT :limit", BuildSummary
)

BUILDS_OF_PROJECT = Query(
    "builds.of_project",
    f"{_SUMMARY} WHERE project_id = :project_id ORDER BY build_number DESC LIMIT :limit",
    BuildSummary,
)

# -- log lines -----------------------------------------------------------------------------------

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

_CHOSEN = f"""SELECT {_LINE} FROM build_logs
    WHERE build_id = :build_id AND instr(:levels, level) AND instr(message, :containing)"""

# Word for word as in the indexes of these few lines, or SQLite does not use them.
_PROBLEM = "level IN ('warning', 'error')"

_ONWARD = "AND sequence_number > :after ORDER BY sequence_number LIMIT :limit"

LINES = Query("logs.lines", f"{_CHOSEN} {_ONWARD}", LogLine)

PROBLEMS = Query("logs.problems", f"{_CHOSEN} AND {_PROBLEM} {_ONWARD}", LogLine)

_LAST = "ORDER BY sequence_number DESC LIMIT :limit"

LAST_LINES = Query("logs.last_lines", f"{_CHOSEN} {_LAST}", LogLine)

LAST_PROBLEMS = Query("logs.last_problems", f"{_CHOSEN} AND {_PROBLEM} {_LAST}", LogLine)

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
    SELECT {_LINE} FROM build_logs
    WHERE build_id = :build_id AND sequence_number > :after AND sequence_number <= :last
    ORDER BY sequence_number LIMIT 1000
    """,
    LogLine,
)
