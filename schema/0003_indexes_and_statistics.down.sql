DROP VIEW build_performance_stats;
DROP INDEX build_logs_problems_by_time;
DROP INDEX build_logs_problems;
DROP INDEX builds_by_project_status;
DROP INDEX builds_by_status;
DROP INDEX projects_by_activity;
