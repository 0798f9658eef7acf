"""What is measured: one protocol for all systems, and which of them are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

LIMIT = "sqlite3, one thread"
ONE_HOP = "aiosqlite, one hop"
ORM = "SQLAlchemy ORM"
OWN = "abt_db"

SHARING = ("aiosqlite",)
"""One connection and one transaction for all tasks: a commit takes along what others have written,
and a rollback would too."""
PER_CALL = ("aiosqlite, per request", "databases")
"""A connection for each call that is under way: thousands of them are more than a process has."""


class System(Protocol):
    """One way to use SQLite from asyncio, as its own documentation recommends it.

    A system that has no natural form of fetching many rows, streaming or importing does not have
    that method, and is left out of those workloads.
    """

    async def open(self, path: Path, synchronous: str) -> None:
        """Open a copy of the sample; `synchronous` is "normal" or "full"."""

    async def close(self) -> None:
        """Close everything that `open` opened."""

    async def read(self, id: int) -> int:
        """Run `READ` and return the timeout in the row."""

    async def insert(self, number: int) -> None:
        """Insert `metric(number)` and commit."""

    async def update(self, id: int, timeout: int) -> None:
        """Run `UPDATE` and commit."""

    async def value(self, sql: str, /, **parameters: int) -> int:
        """Return the only value of `COUNT`, `SCAN` or `SETTINGS`."""


@runtime_checkable
class Fetches(Protocol):
    """Brings many rows at once."""

    async def builds(self) -> Sequence[Any]:
        """Return the rows of `BUILDS`."""


@runtime_checkable
class Streams(Protocol):
    """Brings rows one at a time, in constant memory."""

    async def stream(self, times: int) -> tuple[int, int]:
        """Go through the rows of `STREAM`; return how many, and the sum of their sizes."""


@runtime_checkable
class Imports(Protocol):
    """Writes many rows in one transaction."""

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        """Run `INSERT` for each row and commit."""


# name, module, class, and what to install when the module can't be imported
_SYSTEMS = (
    (LIMIT, "on_sqlite3", "OneThread", ""),
    ("sqlite3, thread pool", "on_sqlite3", "ThreadPool", ""),
    ("aiosqlite", "on_aiosqlite", "Typical", ""),
    (ONE_HOP, "on_aiosqlite", "OneHop", ""),
    ("aiosqlite, per request", "on_aiosqlite", "PerRequest", ""),
    ("aiosqlitepool", "on_aiosqlitepool", "Pooled", "aiosqlitepool"),
    ("databases", "on_databases", "Databases", "databases[aiosqlite]"),
    ("SQLAlchemy Core", "on_sqlalchemy", "Core", "sqlalchemy[asyncio]"),
    (ORM, "on_sqlalchemy", "Orm", "sqlalchemy[asyncio]"),
    ("apsw", "on_apsw", "Apsw", "apsw"),
    (OWN, "on_abt_db", "AbtDb", ""),
)


def make(name: str) -> System:
    """Return one of the systems, by its name."""
    [(module, maker)] = [entry[1:3] for entry in _SYSTEMS if entry[0] == name]
    system: System = getattr(importlib.import_module(f"abt_db.tools.bench.{module}"), maker)()
    return system


def load() -> tuple[dict[str, Callable[[], System]], dict[str, str]]:
    """Return what makes each installed system, and a sentence on each that is not installed."""
    present, missing = {}, {}
    for name, module, maker, distribution in _SYSTEMS:
        try:
            found = importlib.import_module(f"abt_db.tools.bench.{module}")
        except ImportError:
            if not distribution:
                raise
            missing[name] = f"{name} is left out; to have it: pip install '{distribution}'"
        else:
            present[name] = getattr(found, maker)
    return present, missing
