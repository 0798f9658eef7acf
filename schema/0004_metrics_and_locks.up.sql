-- description: metrics and locks

CREATE TABLE system_metrics (
    id INTEGER PRIMARY KEY,
    metric_name TEXT NOT NULL,
    metric_value REAL NOT NULL,
    metric_unit TEXT,
    timestamp TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))
);

CREATE INDEX system_metrics_by_time ON system_metrics (metric_name, timestamp);

-- A lock that nobody holds keeps its row, with NULL for holder and times: its token only grows, and
-- a holder that comes back too late is known by its smaller one.
CREATE TABLE distributed_locks (
    resource_id TEXT NOT NULL PRIMARY KEY,
    lock_holder TEXT,
    acquired_at TEXT,
    expires_at TEXT,
    token INTEGER NOT NULL DEFAULT 0 CHECK (typeof(token) = 'integer')
);
