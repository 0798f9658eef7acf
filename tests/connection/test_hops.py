"""Each call is one trip to a connection's thread and back: what the engine is built around."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, NAMES, Driver, busy, items, until

from abt_db import Database

CALLS: dict[str, tuple[int, Callable[[Database], Awaitable[Any]]]] = {
    "fetch_one": (1, lambda db: db.fetch_one(COUNT())),
    "fetch_all": (1, lambda db: db.fetch_all(NAMES())),
    "execute": (1, lambda db: db.execute(ADD(name="x"))),
    "execute_batch": (1, lambda db: db.execute_batch([ADD(name="x"), ADD(name="y")])),
    "execute_many": (1, lambda db: db.execute_many(ADD, [{"name": str(n)} for n in range(999)])),
    "read": (1, lambda db: db.read(lambda cx: [cx.fetch_one(COUNT()) for _ in range(9)])),
    "write": (1, lambda db: db.write(lambda cx: cx.execute(ADD(name="x")))),
    # BEGIN, a statement each, COMMIT; savepoints take none.
    "transaction": (4, lambda db: transaction(db)),
    # The view, a statement each; the lane's task gives the view up.
    "snapshot": (4, lambda db: snapshot(db)),
}


async def transaction(db: Database) -> None:
    async with db.transaction() as tx:
        async with tx.savepoint():
            await tx.execute(ADD(name="x"))
            async with tx.savepoint():
                await tx.execute(ADD(name="y"))


async def snapshot(db: Database) -> None:
    async with db.snapshot() as view:
        await view.fetch_one(COUNT())
        await view.fetch_all(NAMES())


@pytest.mark.parametrize("verb", CALLS)
async def test_a_call_takes_one_hop(path: Path, verb: str) -> None:
    expected, call = CALLS[verb]
    driver = Driver()
    hops: list[str] = []
    async with items(path, "a", connect=driver.connect) as db:
        driver.hook = lambda step: hops.append(step) if step == "begin" else None
        await call(db)
        await until(lambda: not busy(db))
        assert len(hops) == expected
