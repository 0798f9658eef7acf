DROP INDEX build_logs_warnings_by_time;
DROP INDEX build_logs_errors_by_time;
CREATE INDEX build_logs_problems_by_time ON build_logs (level, timestamp)
WHERE level IN ('warning', 'error');
DROP INDEX projects_by_type;
