"""apsw in its asyncio mode, one connection. It brings a SQLite of its own, mostly a newer one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from .sample import BUILDS, INSERT, PRAGMAS, READ, STREAM, UPDATE, metric

if not hasattr(apsw.Connection, "as_async"):
    raise ImportError("this apsw has no asyncio mode")


class Apsw:
    """``await (await db.execute(…)).get``; a single write is its own transaction."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._db = await apsw.Connection.as_async(str(path))
        for pragma in (*PRAGMAS, f"PRAGMA synchronous = {synchronous}"):
            await self._db.execute(pragma)

    async def close(self) -> None:
        await self._db.aclose()

    async def read(self, id: int) -> int:
        timeout: int = (await (await self._db.execute(READ, {"id": id})).get)[3]
        return timeout

    async def insert(self, number: int) -> None:
        await self._db.execute(INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        await self._db.execute(UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        found: int = await (await self._db.execute(sql, parameters)).get
        return found

    async def builds(self) -> list[Any]:
        rows: list[Any] = await (await self._db.execute(BUILDS)).fetchall()
        return rows

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        async for row in await self._db.execute(STREAM, {"times": times}):
            rows += 1
            total += row[8]
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        async with self._db:
            await self._db.executemany(INSERT, rows)
