"""aiosqlitepool, with the size that its README recommends for most web applications."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiosqlite
from aiosqlitepool import SQLiteConnectionPool

from .on_aiosqlite import fetch_one, import_rows, read_builds, save
from .sample import INSERT, READ, UPDATE, metric, tuned


class Pooled:
    """``async with pool.connection() as db`` around each call."""

    async def open(self, path: Path, synchronous: str) -> None:
        async def connect() -> aiosqlite.Connection:
            return await aiosqlite.connect(path, factory=tuned(synchronous))

        self._pool = SQLiteConnectionPool(connect, pool_size=10, acquisition_timeout=30)

    async def close(self) -> None:
        await self._pool.close()

    async def read(self, id: int) -> int:
        async with self._pool.connection() as db:
            timeout: int = (await fetch_one(db, READ, {"id": id}))[3]
            return timeout

    async def insert(self, number: int) -> None:
        async with self._pool.connection() as db:
            await save(db, INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        async with self._pool.connection() as db:
            await save(db, UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        async with self._pool.connection() as db:
            found: int = (await fetch_one(db, sql, parameters))[0]
            return found

    async def builds(self) -> list[Any]:
        async with self._pool.connection() as db:
            return await read_builds(db)

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        async with self._pool.connection() as db:
            await import_rows(db, rows)
