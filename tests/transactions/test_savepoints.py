"""Savepoints against a model: whatever is nested in what, and wherever it fails, the transaction
holds what the blocks that ended well have written (fault 18)."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine import ADD, COUNT, NAMES, items

from abt_db import Database, IntegrityError, Query, Session

REMOVE = Query("items.remove", "DELETE FROM items WHERE name <> 'first'")

Steps = list[tuple[str, Any]]

SIMPLE = st.one_of(
    st.tuples(st.sampled_from(["add", "half a batch", "half a function", "duplicate"]), st.none()),
    st.tuples(st.sampled_from(["read", "stream"]), st.integers(0, 3)),
    # How many blocks are left by the error.
    st.tuples(st.just("fail"), st.integers(1, 4)),
)
PROGRAMMES = st.recursive(
    st.lists(SIMPLE, max_size=4),
    lambda inner: st.lists(st.one_of(SIMPLE, st.tuples(st.just("block"), inner)), max_size=5),
    max_leaves=30,
)


class FailError(Exception):
    """Leaves so many blocks, and is caught behind the last."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks


@dataclass
class Body:
    """The body of a transaction, and what must be in the database."""

    names: list[str] = field(default_factory=lambda: ["first"])
    serial: int = 0

    async def play(self, handles: list[Any], steps: Steps) -> None:
        """Take the steps with the innermost of the open handles, or with some other."""
        for step, argument in steps:
            self.serial += 1
            handle = handles[-1 if self.serial % 3 else self.serial % len(handles)]
            await getattr(self, step.replace(" ", "_"))(handles, handle, argument)

    async def add(self, _handles: list[Any], handle: Any, _argument: None) -> None:
        self.names.append(f"n{self.serial}")
        await handle.execute(ADD(name=self.names[-1]))

    async def duplicate(self, _handles: list[Any], handle: Any, _argument: None) -> None:
        with pytest.raises(IntegrityError):
            await handle.execute(ADD(name="first"))

    async def half_a_batch(self, _handles: list[Any], handle: Any, _argument: None) -> None:
        with pytest.raises(IntegrityError):
            await handle.execute_batch([ADD(name=f"n{self.serial}"), ADD(name="first")])

    async def half_a_function(self, _handles: list[Any], handle: Any, _argument: None) -> None:
        def add(cx: Session) -> None:
            cx.execute(ADD(name=f"n{self.serial}"))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await handle.write(add)

    async def read(self, _handles: list[Any], handle: Any, _argument: int) -> None:
        assert await handle.fetch_all(NAMES()) == self.names

    async def stream(self, _handles: list[Any], handle: Any, rows: int) -> None:
        """Left early, after so many rows."""
        seen = []
        async with handle.stream(NAMES(), size=1) as found:
            async for name in found:
                seen.append(name)
                if len(seen) > rows:
                    break
        assert seen == self.names[: rows + 1]

    async def fail(self, _handles: list[Any], _handle: Any, blocks: int) -> None:
        raise FailError(blocks)

    async def block(self, handles: list[Any], handle: Any, steps: Steps) -> None:
        before = [*self.names]
        try:
            async with handle.savepoint() as inner:
                await self.play([*handles, inner], steps)
        except FailError as error:
            self.names = before
            error.blocks -= 1
            if error.blocks:
                raise


async def run(db: Database, steps: Steps) -> list[str]:
    body = Body()
    try:
        async with db.transaction() as tx:
            await body.play([tx], steps)
            assert await tx.fetch_one(COUNT()) == len(body.names)
    except FailError:
        body.names = ["first"]
    return body.names


@settings(max_examples=120, deadline=None)
@given(programmes=st.lists(PROGRAMMES, min_size=1, max_size=3))
def test_only_what_ended_well_is_there(programmes: list[Steps]) -> None:
    """In one transaction after the other of the same connection, so that nothing is left behind."""

    async def all_of_them() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with items(Path(folder) / "app.db", "first", readers=1) as db:
                for steps in programmes:
                    expected = await run(db, steps)
                    assert await db.fetch_all(NAMES()) == expected
                    await db.execute(REMOVE())

    asyncio.run(all_of_them())
