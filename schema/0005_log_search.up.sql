-- description: full-text search over log messages
-- depends: 2

-- A line is put into the index some time after it was appended, so that appending does not pay for
-- it. Which ones are in: those with a row in build_logs_fts_docsize.
--
-- Words are found inside of others, by their groups of three characters. Where in a line a group
-- stands is not kept (detail=none): what is found is compared with the words anyway.
CREATE VIRTUAL TABLE build_logs_fts USING fts5 (
    message, content = 'build_logs', content_rowid = 'id', tokenize = 'trigram', detail = none
);

-- To the tokenizer a line ends at a NUL. These few are looked at one by one.
CREATE INDEX build_logs_with_nul ON build_logs (id) WHERE instr(message, char(0));

CREATE TRIGGER build_logs_deleted AFTER DELETE ON build_logs
WHEN EXISTS (SELECT 1 FROM build_logs_fts_docsize WHERE id = old.id)
BEGIN
    INSERT INTO build_logs_fts (build_logs_fts, rowid, message)
    VALUES ('delete', old.id, old.message);
END;

CREATE TRIGGER build_logs_changed AFTER UPDATE OF id, message ON build_logs
WHEN EXISTS (SELECT 1 FROM build_logs_fts_docsize WHERE id = old.id)
BEGIN
    INSERT INTO build_logs_fts (build_logs_fts, rowid, message)
    VALUES ('delete', old.id, old.message);
    INSERT INTO build_logs_fts (rowid, message) VALUES (new.id, new.message);
END;
