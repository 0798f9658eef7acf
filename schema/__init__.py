"""The migrations of the build database, for `load_migrations("abt_db.schema")`.

Conventions of its tables: times are UTC in ISO-8601 with milliseconds and `+00:00`, so that they
sort as text; sizes are bytes; columns called JSON hold a JSON text or NULL. Columns and operations
are described in `abt_db.builds`. Tables are not STRICT, which SQLite before 3.37 could not open.

Left out on purpose, with what it would cost. Measured with all of rbtlog, 593,485 lines of 627
builds in a file of 90.8 MB, inserted build by build: size, and CPU time of the inserts (median of 3
rounds in turns, SQLite 3.40.1, two shared cores, so give or take some percent).

created_at, updated_at of build_logs
    +41 % of size, +28 % of time (the first alone: +21 % of size). A line has the time at which it
    was read, `timestamp`, and never changes. The order of `id` is that in which lines were stored:
    ``ORDER BY id DESC LIMIT 100`` takes 0.2 ms.
an index on build_logs (level)
    +9 % of size, +12 % of time, and 96 % of its entries would be of the level info. Errors and
    warnings have partial indexes, by build and by time, which take 1.5 % of the file: ``WHERE
    level = 'error' ORDER BY timestamp DESC LIMIT 50`` takes 0.2 ms with them and 57 ms without.
an index on build_logs (timestamp)
    +28 % of size, +14 % of time. Errors and warnings have it, see above. All lines of a time are
    those of its builds: ``FROM builds JOIN build_logs ON build_id = builds.id WHERE started_at >=
    :since ORDER BY started_at`` has the first 100 in 0.2 ms. To go by the lines' own times reads
    them all, in 48 ms.
an index on distributed_locks (expires_at)
    It would change with each renewal: twice the pages of the write-ahead log (8,240 bytes for
    4,120), and 23 to 29 us of CPU time for 13 to 20. Without it ``WHERE expires_at < :now`` reads a
    row for each name of a lock: 100 in 0.01 ms, 10,000 in 0.8 ms.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID"]

APPLICATION_ID = 0x61627464
"""`PRAGMA application_id` of a build database: "abtd" in ASCII."""
