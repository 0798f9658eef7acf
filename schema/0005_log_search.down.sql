DROP TRIGGER build_logs_changed;
DROP TRIGGER build_logs_deleted;
DROP INDEX build_logs_with_nul;
DROP TABLE build_logs_fts;
