-- description: build logs
-- depends: 1

-- Nearly all rows of the database are here, so a line pays for no index but the one of its key.
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
