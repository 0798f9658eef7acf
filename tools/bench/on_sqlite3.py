"""The standard library alone: on one thread, and in a pool of threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .sample import BUILDS, INSERT, READ, STREAM, UPDATE, metric, tuned

T = TypeVar("T")

THREADS = 4


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    # In autocommit mode a single write is one statement: BEGIN and COMMIT would be two more.
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, factory=tuned(synchronous)
    )


def read(db: sqlite3.Connection, id: int) -> int:
    timeout: int = db.execute(READ, {"id": id}).fetchone()[3]
    return timeout


def value(db: sqlite3.Connection, sql: str, parameters: dict[str, int]) -> int:
    found: int = db.execute(sql, parameters).fetchone()[0]
    return found


def insert_many(db: sqlite3.Connection, rows: Sequence[dict[str, object]]) -> None:
    db.execute("BEGIN")
    db.executemany(INSERT, rows)
    db.execute("COMMIT")


class OneThread:
    """The limit: synchronous calls, nothing between them and SQLite.

    That they stand in coroutines costs some 0.05 µs a call, since none of them ever waits.
    """

    async def open(self, path: Path, synchronous: str) -> None:
        self._db = connect(path, synchronous)

    async def close(self) -> None:
        self._db.close()

    async def read(self, id: int) -> int:
        timeout: int = self._db.execute(READ, {"id": id}).fetchone()[3]
        return timeout

    async def insert(self, number: int) -> None:
        self._db.execute(INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        self._db.execute(UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        return value(self._db, sql, parameters)

    async def builds(self) -> list[Any]:
        return self._db.execute(BUILDS).fetchall()

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        for row in self._db.execute(STREAM, {"times": times}):
            rows += 1
            total += row[8]
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        insert_many(self._db, rows)


class ThreadPool:
    """`loop.run_in_executor`: a connection for each of four threads, and one thread that writes."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

        def start() -> None:
            self._local.db = connect(path, synchronous)
            self._connections.append(self._local.db)

        self._readers = ThreadPoolExecutor(THREADS, initializer=start)
        self._writer = ThreadPoolExecutor(1, initializer=start)

    async def close(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        for connection in self._connections:
            connection.close()

    async def read(self, id: int) -> int:
        return await self._run(self._readers, read, id)

    async def insert(self, number: int) -> None:
        await self._run(self._writer, sqlite3.Connection.execute, INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        parameters = {"id": id, "timeout": timeout}
        await self._run(self._writer, sqlite3.Connection.execute, UPDATE, parameters)

    async def value(self, sql: str, /, **parameters: int) -> int:
        return await self._run(self._readers, value, sql, parameters)

    async def builds(self) -> list[Any]:
        return await self._run(self._readers, lambda db: db.execute(BUILDS).fetchall())

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        await self._run(self._writer, insert_many, rows)

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, lambda: function(self._local.db, *args))
