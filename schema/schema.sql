-- The schema that the migrations make, by `abt-db migrate dump`; not to be edited.

PRAGMA application_id = 1633842276;

CREATE TABLE build_logs (
    id INTEGER PRIMARY KEY,
    build_id INTEGER NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    -- As with build_number: text would be larger than any number.
    sequence_number INTEGER NOT NULL CHECK (typeof(sequence_number) = 'integer'),
    level TEXT NOT NULL DEFAULT 'info' CHECK (level IN ('debug', 'info', 'warning', 'error')),
    timestamp TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')),
    message TEXT NOT NULL,
    source TEXT,
    -- The file descriptor: 1 stdout, 2 stderr. (A stored 1 takes no byte.)
    stream INTEGER NOT NULL DEFAULT 1 CHECK (stream IN (1, 2)),
    -- The bytes of the line where they are not just message and newline: not UTF-8, without a
    -- newline at the end, or a piece of an overlong line.
    raw BLOB CHECK (raw IS NULL OR typeof(raw) = 'blob'),
    UNIQUE (build_id, sequence_number)
);

CREATE INDEX build_logs_errors_by_time ON build_logs (timestamp) WHERE level = 'error';

CREATE INDEX build_logs_problems ON build_logs (build_id, sequence_number)
WHERE level IN ('warning', 'error');

CREATE INDEX build_logs_warnings_by_time ON build_logs (timestamp) WHERE level = 'warning';

CREATE INDEX build_logs_with_nul ON build_logs (id) WHERE instr(message, char(0));

CREATE TRIGGER build_logs_changed AFTER UPDATE OF id, message ON build_logs
WHEN EXISTS (SELECT 1 FROM build_logs_fts_docsize WHERE id = old.id)
BEGIN
    INSERT INTO build_logs_fts (build_logs_fts, rowid, message)
    VALUES ('delete', old.id, old.message);
    INSERT INTO build_logs_fts (rowid, message) VALUES (new.id, new.message);
END;

CREATE TRIGGER build_logs_deleted AFTER DELETE ON build_logs
WHEN EXISTS (SELECT 1 FROM build_logs_fts_docsize WHERE id = old.id)
BEGIN
    INSERT INTO build_logs_fts (build_logs_fts, rowid, message)
    VALUES ('delete', old.id, old.message);
END;

CREATE VIRTUAL TABLE build_logs_fts USING fts5 (
    message, content = 'build_logs', content_rowid = 'id', tokenize = 'trigram', detail = none
);

CREATE TABLE builds (
    id INTEGER PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    -- The next number is the largest plus one, and to SQLite any text is larger than any number.
    build_number INTEGER NOT NULL CHECK (typeof(build_number) = 'integer'),
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'success', 'failed', 'cancelled')),
    started_at TEXT,
    completed_at TEXT,
    duration_seconds REAL,
    commit_hash TEXT,
    branch TEXT,
    build_type TEXT,
    triggered_by TEXT,
    exit_code INTEGER,
    artifact_path TEXT,
    artifact_size INTEGER, -- bytes
    memory_usage_mb REAL,
    cpu_usage_percent REAL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')),
    build_metadata TEXT CHECK (build_metadata IS NULL OR json_valid(build_metadata)), -- JSON
    UNIQUE (project_id, build_number)
);

CREATE INDEX builds_by_commit ON builds (commit_hash);

CREATE INDEX builds_by_project_status ON builds (project_id, status, build_number);

CREATE INDEX builds_by_start ON builds (started_at);

CREATE INDEX builds_by_status ON builds (status, started_at);

CREATE TRIGGER builds_updated AFTER UPDATE ON builds
WHEN new.updated_at IS old.updated_at
    AND new.updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
BEGIN
    UPDATE builds SET updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') WHERE id = new.id;
END;

CREATE TABLE distributed_locks (
    resource_id TEXT NOT NULL PRIMARY KEY,
    lock_holder TEXT,
    acquired_at TEXT,
    expires_at TEXT,
    token INTEGER NOT NULL DEFAULT 0 CHECK (typeof(token) = 'integer')
);

CREATE TABLE projects (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT,
    project_type TEXT NOT NULL,
    repository_url TEXT NOT NULL,
    local_path TEXT NOT NULL,
    branch TEXT NOT NULL DEFAULT 'main',
    build_command TEXT,
    environment_vars TEXT CHECK (environment_vars IS NULL OR json_valid(environment_vars)), -- JSON
    build_timeout INTEGER NOT NULL DEFAULT 1800 CHECK (build_timeout > 0), -- seconds
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')),
    is_active INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    tags TEXT CHECK (tags IS NULL OR json_valid(tags)) -- JSON
);

CREATE INDEX projects_by_activity ON projects (is_active, created_at);

CREATE INDEX projects_by_type ON projects (project_type);

CREATE TRIGGER projects_updated AFTER UPDATE ON projects
WHEN new.updated_at IS old.updated_at
    AND new.updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
BEGIN
    UPDATE projects SET updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') WHERE id = new.id;
END;

CREATE TABLE system_metrics (
    id INTEGER PRIMARY KEY,
    metric_name TEXT NOT NULL,
    metric_value REAL NOT NULL,
    metric_unit TEXT,
    timestamp TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))
);

CREATE INDEX system_metrics_by_time ON system_metrics (metric_name, timestamp);

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
