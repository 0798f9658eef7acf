"""databases, as its quickstart shows it: each query of a task on a connection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from databases import Database

from .sample import BUILDS, INSERT, READ, STREAM, UPDATE, metric, tuned


class Databases:
    """``await database.fetch_one(query=…, values=…)``."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._db = Database(f"sqlite+aiosqlite:///{path}", factory=tuned(synchronous))
        await self._db.connect()

    async def close(self) -> None:
        await self._db.disconnect()

    async def read(self, id: int) -> int:
        row = await self._db.fetch_one(query=READ, values={"id": id})
        timeout: int = row["timeout"]
        return timeout

    async def insert(self, number: int) -> None:
        await self._db.execute(query=INSERT, values=metric(number))

    async def update(self, id: int, timeout: int) -> None:
        await self._db.execute(query=UPDATE, values={"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        found: int = await self._db.fetch_val(query=sql, values=parameters)
        return found

    async def builds(self) -> list[Any]:
        rows: list[Any] = await self._db.fetch_all(query=BUILDS)
        return rows

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        async for row in self._db.iterate(query=STREAM, values={"times": times}):
            rows += 1
            total += row["size"]
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        async with self._db.transaction():
            await self._db.execute_many(query=INSERT, values=rows)
