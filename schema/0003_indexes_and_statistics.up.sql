-- description: composite indexes and the view of build performance
-- depends: 1, 2

CREATE INDEX projects_by_activity ON projects (is_active, created_at);
CREATE INDEX builds_by_status ON builds (status, started_at);
CREATE INDEX builds_by_project_status ON builds (project_id, status, build_number);

-- Few lines are warnings or errors: these are quick to find, and the others are in no index here.
-- SQLite takes a partial index only where the query repeats its condition word for word.
CREATE INDEX build_logs_problems ON build_logs (build_id, sequence_number)
WHERE level IN ('warning', 'error');
CREATE INDEX build_logs_problems_by_time ON build_logs (level, timestamp)
WHERE level IN ('warning', 'error');

CREATE VIEW build_performance_stats AS
SELECT
    projects.id AS project_id,
    projects.name AS project_name,
    count(builds.id) AS total_builds,
    count(*) FILTER (WHERE builds.status = 'success') AS successful_builds,
    avg(builds.duration_seconds) AS avg_duration, -- of the builds that have ended, in seconds
    max(builds.started_at) AS last_build_at
FROM projects
LEFT JOIN builds ON builds.project_id = projects.id
GROUP BY projects.id;
