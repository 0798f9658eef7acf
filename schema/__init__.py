"""The migrations of the build database, for `load_migrations("abt_db.schema")`.

Conventions of its tables: times are UTC in ISO-8601 with milliseconds and `+00:00`, so that they
sort as text; sizes are bytes; columns called JSON hold a JSON text or NULL. Columns and operations
are described in `abt_db.builds`. Tables are not STRICT, which SQLite before 3.37 could not open.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID"]

APPLICATION_ID = 0x61627464
"""`PRAGMA application_id` of a build database: "abtd" in ASCII."""
