"""Every SQL text of the build database, each a named `Query`."""

from __future__ import annotations

from abt_db.query import Query

from .models import Build, BuildSummary, LogLine, Project, ProjectSummary

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

LINES = Query(
    "logs.lines",
    f"""
    SELECT {_LINE} FROM build_logs
    WHERE build_id = :build_id AND sequence_number > :after
    ORDER BY sequence_number
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
    SELECT {_BUILD} FROM builds WHERE project_id = :project_id AND build_number = :build_number
    UNION ALL
    SELECT {_BUILD} FROM builds WHERE +project_id = :project_id AND started_at IS :started_at
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
    "history.exported_projects", f"SELECT {_PROJECT} FROM projects ORDER BY id", Project
)

EXPORTED_BUILDS = Query(
    "history.exported_builds", f"SELECT {_BUILD} FROM builds ORDER BY id", Build
)

PROJECT_NAMES = Query("history.project_names", "SELECT id, name FROM projects")

COUNT_BUILDS = Query("history.count_builds", "SELECT count(*) FROM builds", int)
