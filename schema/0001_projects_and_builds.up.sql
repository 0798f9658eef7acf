-- description: projects and builds

PRAGMA application_id = 0x61627464; -- "abtd" in ASCII

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

CREATE INDEX builds_by_start ON builds (started_at);
CREATE INDEX builds_by_commit ON builds (commit_hash);

-- updated_at follows every change that does not itself give it another value. 'now' is the same
-- throughout a statement, so the UPDATE in a trigger does not set it off again, with
-- recursive_triggers or not.

CREATE TRIGGER projects_updated AFTER UPDATE ON projects
WHEN new.updated_at IS old.updated_at
    AND new.updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
BEGIN
    UPDATE projects SET updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') WHERE id = new.id;
END;

CREATE TRIGGER builds_updated AFTER UPDATE ON builds
WHEN new.updated_at IS old.updated_at
    AND new.updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')
BEGIN
    UPDATE builds SET updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') WHERE id = new.id;
END;
