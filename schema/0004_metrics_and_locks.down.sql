DROP TABLE distributed_locks;
DROP TABLE system_metrics;
