"""The database that is measured on: its tables, the SQL that every system runs, and what must be in
it afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

PROJECTS = 1_000
BUILDS_ROWS = 10_000
REPEATS = 1_000

_TABLES = (
    """
    CREATE TABLE projects (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, branch TEXT NOT NULL, timeout INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE builds (
        id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL REFERENCES projects (id),
        number INTEGER NOT NULL, status TEXT NOT NULL, branch TEXT NOT NULL, commit_hash TEXT,
        started_at TEXT, duration REAL, size INTEGER NOT NULL, message TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE metrics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, value REAL NOT NULL, unit TEXT
    )
    """,
    "CREATE TABLE repeats (n INTEGER PRIMARY KEY)",
)

READ = "SELECT id, name, branch, timeout FROM projects WHERE id = :id"
COUNT = "SELECT count(*) FROM projects"
INSERT = "INSERT INTO metrics (name, value, unit) VALUES (:name, :value, :unit)"
UPDATE = "UPDATE projects SET timeout = :timeout WHERE id = :id"
BUILDS = """
    SELECT id, project_id, number, status, branch, commit_hash, started_at, duration, size, message
    FROM builds
"""
# The builds again and again, `times` times, each row with an id of its own.
STREAM = f"""
    SELECT repeats.n * {BUILDS_ROWS} + builds.id AS id, project_id, number, status, branch,
        commit_hash, started_at, duration, size, message
    FROM repeats CROSS JOIN builds WHERE repeats.n <= :times
"""
# Work for the processor, not for the disk.
SCAN = """
    SELECT count(*) FROM repeats CROSS JOIN builds
    WHERE repeats.n <= :times AND instr(builds.message, 'the parser')
"""
# How many settings are as they should be: all five. (`mmap_size` can't be asked like this.)
SETTINGS = """
    SELECT (SELECT journal_mode = 'wal' FROM pragma_journal_mode)
        + (SELECT synchronous = :synchronous FROM pragma_synchronous)
        + (SELECT cache_size = -65536 FROM pragma_cache_size)
        + (SELECT temp_store = 2 FROM pragma_temp_store)
        + (SELECT foreign_keys = 1 FROM pragma_foreign_keys)
"""

PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA cache_size = -65536",
    "PRAGMA mmap_size = 268435456",
    "PRAGMA temp_store = memory",
    "PRAGMA foreign_keys = on",
)


class Tuned(sqlite3.Connection):
    """A connection with the settings that all systems share.

    Made by ``factory=``, which every driver over sqlite3 hands on: so a connection costs none of
    them a thread hop a PRAGMA.
    """

    synchronous = "normal"

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)  # type: ignore[arg-type]  # whatever connect() gets
        for pragma in (*PRAGMAS, f"PRAGMA synchronous = {self.synchronous}"):
            self.execute(pragma)


class TunedFull(Tuned):
    """The same with an fsync a commit."""

    synchronous = "full"


def tuned(synchronous: str) -> type[Tuned]:
    """The connection class for `synchronous`, "normal" or "full"."""
    return TunedFull if synchronous == "full" else Tuned


def create(path: Path) -> None:
    """Make the file that every system gets a copy of."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = wal")
        for table in _TABLES:
            db.execute(table)
        db.executemany(
            "INSERT INTO projects VALUES (?, ?, 'main', ?)",
            ((id, f"project {id}", timeout_of(id)) for id in range(1, PROJECTS + 1)),
        )
        db.executemany(
            "INSERT INTO builds VALUES (?, ?, ?, 'success', 'main', ?, ?, ?, ?, ?)",
            (
                (
                    id,
                    id % PROJECTS + 1,
                    id // PROJECTS + 1,
                    f"{id:040x}",
                    "2025-01-02T03:04:05.678+00:00",
                    id / 8,
                    id,
                    f"change {id}: the tests of the configuration, with what they need",
                )
                for id in range(1, BUILDS_ROWS + 1)
            ),
        )
        db.executemany("INSERT INTO repeats VALUES (?)", ((n,) for n in range(1, REPEATS + 1)))
        db.commit()


def timeout_of(id: int) -> int:
    """What `READ` must find for a project."""
    return 600 + id


def identifiers(count: int) -> Iterator[int]:
    """Ids of projects, `count` of them, all over the table and the same in each run."""
    return (number * 7919 % PROJECTS + 1 for number in range(count))


def metric(number: int) -> dict[str, object]:
    """The row of a metric, as the parameters of `INSERT`."""
    return {"name": "duration", "value": float(number), "unit": "s"}


class WrongWorkError(Exception):
    """A system did not do the work, so its speed means nothing."""


@dataclass(slots=True)
class Ledger:
    """The metrics that a system says it has written, to be held against its database."""

    rows: int = 0
    total: float = 0.0

    def add(self, number: int) -> None:
        """Note `metric(number)` as written."""
        self.rows += 1
        self.total += number

    def check(self, path: Path) -> None:
        """Look into the file, which must be closed: raise `WrongWorkError` if rows are missing.

        Closed, because apsw brings a SQLite of its own, and two of them in one process take each
        other's file locks away (https://www.sqlite.org/howtocorrupt.html, 2.2.1).
        """
        with closing(sqlite3.connect(path)) as db:
            rows, total = db.execute("SELECT count(*), total(value) FROM metrics").fetchone()
        if (rows, total) != (self.rows, self.total):
            raise WrongWorkError(f"wrote {self.rows:,} rows, but the database has {rows:,} of them")
