"""The SQL texts of the page, each a named `Query`.

Each tells of the builds since a time (those that have not started: made since), of some projects or
of all. So it reads them all: an index helps only where one is named here.
"""

from __future__ import annotations

from abt_db.sql.query import Query

from .figures import BuildMark, ErrorLine, Figures, Flake, ReportedProject, SlowBuild, TableSize

_REPORTED = """WITH reported AS (
        SELECT builds.id, project_id, build_number, status, commit_hash,
               coalesce(started_at, builds.created_at) AS at, duration_seconds AS seconds
        FROM builds
        WHERE coalesce(started_at, builds.created_at) >= :since
          AND (:projects IS NULL OR project_id IN (SELECT value FROM json_each(:projects)))
    )"""

# The median is the mean of the two durations in the middle, p95 the smallest duration that 95 % of
# all do not exceed. Builds without a duration stand behind the others.
_FIGURES = """
           count(*) AS builds,
           count(*) FILTER (WHERE status = 'success') AS succeeded,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'pending') AS pending,
           avg(seconds) FILTER (WHERE place IN ((timed + 1) / 2, (timed + 2) / 2)) AS median,
           min(seconds) FILTER (WHERE place * 100 >= timed * 95) AS p95,
           max(seconds) AS longest,
           min(at) AS first_at,
           max(at) AS last_at"""

REPORT_TOTALS = Query(
    "report.totals",
    f"""
    {_REPORTED}
    SELECT NULL AS project_id, NULL AS part, {_FIGURES}
    FROM (SELECT *, row_number() OVER (ORDER BY seconds IS NULL, seconds) AS place,
                 count(seconds) OVER () AS timed
          FROM reported)
    GROUP BY NULL
    """,
    Figures,
)

REPORT_BY_PROJECT = Query(
    "report.by_project",
    f"""
    {_REPORTED}
    SELECT project_id, NULL AS part, {_FIGURES}
    FROM (SELECT *, row_number() OVER (PARTITION BY project_id
                                       ORDER BY seconds IS NULL, seconds) AS place,
                 count(seconds) OVER (PARTITION BY project_id) AS timed
          FROM reported)
    GROUP BY project_id
    ORDER BY last_at DESC, project_id
    LIMIT :limit
    """,
    Figures,
)

_PART = """CASE :unit WHEN 'week' THEN date(at, 'weekday 0', '-6 days')
                         ELSE substr(at, 1, :width) END AS part"""

REPORT_BY_TIME = Query(
    "report.by_time",
    f"""
    {_REPORTED}
    SELECT NULL AS project_id, part, {_FIGURES}
    FROM (SELECT *, row_number() OVER (PARTITION BY part
                                       ORDER BY seconds IS NULL, seconds) AS place,
                 count(seconds) OVER (PARTITION BY part) AS timed
          FROM (SELECT *, {_PART} FROM reported))
    GROUP BY part
    ORDER BY part
    """,
    Figures,
)

REPORT_BY_PROJECT_AND_TIME = Query(
    "report.by_project_and_time",
    f"""
    {_REPORTED}
    SELECT project_id, part, {_FIGURES}
    FROM (SELECT *, row_number() OVER (PARTITION BY project_id, part
                                       ORDER BY seconds IS NULL, seconds) AS place,
                 count(seconds) OVER (PARTITION BY project_id, part) AS timed
          FROM (SELECT *, {_PART} FROM reported))
    GROUP BY project_id, part
    ORDER BY project_id, part
    """,
    Figures,
)

REPORT_LAST_BUILDS = Query(
    "report.last_builds",
    f"""
    {_REPORTED}
    SELECT project_id, build_number, status, at, seconds
    FROM (SELECT *, row_number() OVER (PARTITION BY project_id ORDER BY build_number DESC) AS place
          FROM reported)
    WHERE place <= :limit
    ORDER BY project_id, build_number
    """,
    BuildMark,
)

REPORT_PROJECTS = Query(
    "report.projects",
    """
    SELECT id, name, project_type, repository_url, branch FROM projects
    WHERE id IN (SELECT value FROM json_each(:projects))
    """,
    ReportedProject,
)

REPORT_PROJECT_COUNT = Query(
    "report.project_count", f"{_REPORTED} SELECT count(DISTINCT project_id) FROM reported", int
)

REPORT_FAILING = Query(
    "report.failing",
    f"""
    {_REPORTED}
    SELECT count(*)
    FROM (SELECT status, row_number() OVER (PARTITION BY project_id
                                            ORDER BY build_number DESC) AS place
          FROM reported WHERE status NOT IN ('pending', 'running'))
    WHERE place = 1 AND status = 'failed'
    """,
    int,
)

_IDLE = """FROM projects
    WHERE (:projects IS NULL OR projects.id IN (SELECT value FROM json_each(:projects)))
      AND projects.id NOT IN (SELECT project_id FROM reported)"""

REPORT_IDLE = Query(
    "report.idle", f"{_REPORTED} SELECT name {_IDLE} ORDER BY name LIMIT :limit", str
)

REPORT_IDLE_COUNT = Query("report.idle_count", f"{_REPORTED} SELECT count(*) {_IDLE}", int)

REPORT_SLOWEST = Query(
    "report.slowest",
    f"""
    {_REPORTED}
    SELECT project_id, projects.name AS project_name, build_number, status, at, seconds
    FROM reported JOIN projects ON projects.id = project_id
    WHERE seconds IS NOT NULL
    ORDER BY seconds DESC, reported.id DESC
    LIMIT :limit
    """,
    SlowBuild,
)

REPORT_FLAKY = Query(
    "report.flaky",
    f"""
    {_REPORTED}
    SELECT project_id, projects.name AS project_name, commit_hash,
           count(*) FILTER (WHERE status = 'success') AS succeeded,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           max(at) AS last_at
    FROM reported JOIN projects ON projects.id = project_id
    WHERE commit_hash IS NOT NULL
    GROUP BY project_id, commit_hash
    HAVING succeeded > 0 AND failed > 0
    ORDER BY last_at DESC, project_id, commit_hash
    LIMIT :limit
    """,
    Flake,
)

REPORT_LINE_COUNT = Query(
    "report.line_count",
    f"""
    {_REPORTED}
    SELECT count(*) FROM reported CROSS JOIN build_logs ON build_id = reported.id
    """,
    int,
)

# The index of problems gives the lines build after build, as they have to be counted; that its
# condition is repeated lets SQLite use it. The end of a long line is never read.
REPORT_ERRORS = Query(
    "report.errors",
    f"""
    {_REPORTED}
    SELECT reported.id AS build_id, projects.name || '#' || build_number AS build,
           status = 'failed' AS failed, substr(message, 1, 1000) AS message
    FROM reported
    JOIN projects ON projects.id = project_id
    CROSS JOIN build_logs ON build_id = reported.id
    WHERE level = 'error' AND level IN ('warning', 'error')
    ORDER BY reported.id, sequence_number
    """,
    ErrorLine,
)

REPORT_CAN_SIZE_TABLES = Query(
    "report.can_size_tables",
    "SELECT count(*) > 0 FROM pragma_module_list WHERE name = 'dbstat'",
    bool,
)

# The rows of a b-tree are the cells of its leaves; without rowids, inner pages have some as well.
REPORT_TABLES = Query(
    "report.tables",
    """
    SELECT tbl_name AS name,
           sum(CASE WHEN wr THEN cells ELSE leaves END) FILTER (WHERE is_table) AS rows,
           sum(size) FILTER (WHERE is_table) AS data,
           coalesce(sum(size) FILTER (WHERE NOT is_table), 0) AS indexes
    FROM (SELECT name, sum(pgsize) AS size, sum(ncell) AS cells,
                 sum(ncell) FILTER (WHERE pagetype = 'leaf') AS leaves
          FROM dbstat GROUP BY name) AS btree
    JOIN (SELECT name, tbl_name, type = 'table' AS is_table FROM sqlite_schema
          UNION ALL SELECT 'sqlite_schema', 'sqlite_schema', true) AS entry
        ON entry.name = btree.name
    LEFT JOIN pragma_table_list AS listed
        ON listed.schema = 'main' AND listed.name = btree.name
    GROUP BY tbl_name
    ORDER BY sum(size) DESC, tbl_name
    """,
    TableSize,
)

REPORT_FILE_SIZE = Query(
    "report.file_size",
    """
    SELECT page_count * page_size, freelist_count * page_size
    FROM pragma_page_count, pragma_page_size, pragma_freelist_count
    """,
)
