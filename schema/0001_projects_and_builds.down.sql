-- The indexes and triggers go with their tables.
DROP TABLE builds;
DROP TABLE projects;
PRAGMA application_id = 0;
