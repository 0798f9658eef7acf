"""aiosqlite: as its README shows it, in one thread hop a call, and with a connection a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from .sample import BUILDS, INSERT, READ, STREAM, UPDATE, metric, tuned


async def fetch_one(db: aiosqlite.Connection, sql: str, parameters: dict[str, int]) -> Any:
    async with db.execute(sql, parameters) as cursor:
        return await cursor.fetchone()


async def save(db: aiosqlite.Connection, sql: str, parameters: dict[str, Any]) -> None:
    await db.execute(sql, parameters)
    await db.commit()


async def read_builds(db: aiosqlite.Connection) -> list[Any]:
    async with db.execute(BUILDS) as cursor:
        return list(await cursor.fetchall())


async def import_rows(db: aiosqlite.Connection, rows: Sequence[dict[str, object]]) -> None:
    await db.executemany(INSERT, rows)
    await db.commit()


class Typical:
    """One connection for all tasks: ``async with db.execute(…) as cursor``, and ``commit()``."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._db = await aiosqlite.connect(path, factory=tuned(synchronous))

    async def close(self) -> None:
        await self._db.close()

    async def read(self, id: int) -> int:
        timeout: int = (await fetch_one(self._db, READ, {"id": id}))[3]
        return timeout

    async def insert(self, number: int) -> None:
        await save(self._db, INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        await save(self._db, UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        found: int = (await fetch_one(self._db, sql, parameters))[0]
        return found

    async def builds(self) -> list[Any]:
        return await read_builds(self._db)

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        async with self._db.execute(STREAM, {"times": times}) as cursor:
            async for row in cursor:
                rows += 1
                total += row[8]
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        await import_rows(self._db, rows)


class OneHop:
    """One connection in autocommit mode, and `execute_fetchall` for all: the best it can do."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._db = await aiosqlite.connect(path, isolation_level=None, factory=tuned(synchronous))

    async def close(self) -> None:
        await self._db.close()

    async def read(self, id: int) -> int:
        [row] = await self._db.execute_fetchall(READ, {"id": id})
        timeout: int = row[3]
        return timeout

    async def insert(self, number: int) -> None:
        await self._db.execute_fetchall(INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        await self._db.execute_fetchall(UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        [row] = await self._db.execute_fetchall(sql, parameters)
        found: int = row[0]
        return found

    async def builds(self) -> list[Any]:
        return list(await self._db.execute_fetchall(BUILDS))


class PerRequest:
    """``async with aiosqlite.connect(…)`` around each call, as many an application does."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._path = path
        self._factory = tuned(synchronous)

    async def close(self) -> None:
        pass

    def _connect(self) -> aiosqlite.Connection:
        return aiosqlite.connect(self._path, factory=self._factory)

    async def read(self, id: int) -> int:
        async with self._connect() as db:
            timeout: int = (await fetch_one(db, READ, {"id": id}))[3]
            return timeout

    async def insert(self, number: int) -> None:
        async with self._connect() as db:
            await save(db, INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        async with self._connect() as db:
            await save(db, UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        async with self._connect() as db:
            found: int = (await fetch_one(db, sql, parameters))[0]
            return found
