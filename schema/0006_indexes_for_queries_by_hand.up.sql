-- description: indexes for queries that are written by hand
-- depends: 3, 4

CREATE INDEX projects_by_type ON projects (project_type);

-- One index for each level, in place of one for both: SQLite takes a partial index where the query
-- has its condition, and `level = 'error'` is what people write, or `level = :level`.
DROP INDEX build_logs_problems_by_time;
CREATE INDEX build_logs_errors_by_time ON build_logs (timestamp) WHERE level = 'error';
CREATE INDEX build_logs_warnings_by_time ON build_logs (timestamp) WHERE level = 'warning';

-- What is left out, and what it would cost, is told in `abt_db.schema`.
