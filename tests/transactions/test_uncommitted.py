"""A read beside one's own transaction: it would tell, silently, how things were before (fault
88). Where it reads what the transaction has written it is refused; all else is read as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.engine import ADD, COUNT, NAMES, Witness, items

from abt_db import (
    Database,
    IntegrityError,
    Query,
    Session,
    TransactionStateError,
    TransactionTimeoutError,
)

CREATE_OTHER = Query("other.create", "CREATE TABLE other (id INTEGER PRIMARY KEY, item INTEGER)")
OTHERS = Query("other.count", "SELECT count(*) FROM other", int)
ADD_OTHER = Query("other.add", "INSERT INTO other (item) VALUES (1)")


async def streamed(db: Database, query: Query[Any]) -> list[Any]:
    async with db.stream(query()) as rows:
        return [row async for row in rows]


READS: dict[str, Callable[[Database, Query[Any]], Any]] = {
    "fetch_one": lambda db, query: db.fetch_one(query()),
    "fetch_all": lambda db, query: db.fetch_all(query()),
    "stream": streamed,
    "read one": lambda db, query: db.read(lambda cx: cx.fetch_one(query())),
    "read all": lambda db, query: db.read(lambda cx: cx.fetch_all(query())),
    "read stream": lambda db, query: db.read(lambda cx: list(cx.stream(query()))),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
class TestOfWhatItHasWritten:
    """Every way to read from the database itself."""

    @pytest.mark.parametrize("known", [False, True])
    async def test_it_is_refused_with_what_to_use(
        self, path: Path, read: Callable[[Database, Query[Any]], Any], known: bool
    ) -> None:
        """Whether or not a connection has met the statement before."""
        async with items(path, "a") as db, Witness(db) as witness:
            if known:
                await asyncio.gather(*(read(db, COUNT) for _ in range(4)))
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
                for _ in range(2):
                    with pytest.raises(
                        TransactionStateError, match=r"items\.count.* items .*tx\.fetch_one.*snap"
                    ):
                        await read(db, COUNT)
                assert await tx.fetch_one(COUNT()) == 2
                async with db.snapshot() as view:
                    assert await view.fetch_one(COUNT()) == 1
            await read(db, COUNT)
            await witness.whole()

    async def test_what_it_has_not_written_is_read_as_ever(
        self, path: Path, read: Callable[[Database, Query[Any]], Any]
    ) -> None:
        async with items(path, "a") as db:
            await db.execute(CREATE_OTHER())
            async with db.transaction() as tx:
                await read(db, COUNT)  # nothing is written so far
                await tx.fetch_all(NAMES())
                await read(db, COUNT)
                await tx.execute(ADD(name="b"))
                await read(db, OTHERS)

    async def test_what_another_task_has_not_committed_is_not_there(
        self, path: Path, read: Callable[[Database, Query[Any]], Any]
    ) -> None:
        async with items(path, "a") as db:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
                await asyncio.create_task(as_coroutine(read(db, COUNT)))


async def as_coroutine(work: Any) -> Any:
    return await work


class TestWhatIsWritten:
    """The tables of the transaction are those that SQLite tells of, whoever wrote them."""

    WAYS: Mapping[str, Callable[[Any], Any]] = {
        "execute": lambda tx: tx.execute(ADD(name="b")),
        "batch": lambda tx: tx.execute_batch([ADD(name="b")]),
        "many": lambda tx: tx.execute_many(ADD, [{"name": "b"}]),
        "write": lambda tx: tx.write(lambda cx: cx.execute(ADD(name="b"))),
        "returning": lambda tx: tx.fetch_one(
            Query("items.back", "INSERT INTO items (name) VALUES ('b') RETURNING id", int)()
        ),
    }

    @pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
    async def test_by_every_verb(self, path: Path, write: Callable[[Any], Any]) -> None:
        async with items(path, "a") as db, db.transaction() as tx:
            async with tx.savepoint() as inner:
                await write(inner)
                with pytest.raises(TransactionStateError):
                    await db.fetch_one(COUNT())
            with pytest.raises(TransactionStateError):
                await db.fetch_one(COUNT())

    async def test_through_a_trigger_and_a_view(self, path: Path) -> None:
        trigger = "CREATE TRIGGER t AFTER INSERT ON items BEGIN INSERT INTO other VALUES (NULL, 1);"
        view = Query("view.count", "SELECT count(*) FROM seen", int)
        async with items(path, "a") as db:
            for sql in (
                CREATE_OTHER.sql,
                f"{trigger} END",
                "CREATE VIEW seen AS SELECT * FROM other",
            ):
                await db.execute(Query("schema", sql)())
            async with db.transaction() as tx:
                assert await db.fetch_one(view()) == 0
                await tx.execute(ADD(name="b"))
                with pytest.raises(TransactionStateError, match="other"):
                    await db.fetch_one(view())

    async def test_a_changed_schema_may_change_every_read(self, path: Path) -> None:
        async with items(path, "a") as db, db.transaction() as tx:
            await tx.execute(Query("schema", "ALTER TABLE items ADD COLUMN more")())
            assert await db.fetch_one(Query("one", "SELECT 1", int)()) == 1
            with pytest.raises(TransactionStateError, match="snapshot"):
                await db.fetch_one(COUNT())

    async def test_by_another_task_for_the_one_that_has_the_transaction(self, path: Path) -> None:
        async with items(path, "a") as db, db.transaction() as tx:
            await asyncio.create_task(tx.execute(ADD(name="b")))
            with pytest.raises(TransactionStateError):
                await db.fetch_one(COUNT())

    async def test_only_the_statement_that_reads_it_fails(self, path: Path) -> None:
        """In a function, and for those who share the hop."""
        async with items(path, "a", readers=1) as db:
            await db.execute(CREATE_OTHER())

            def function(cx: Session) -> list[object]:
                with pytest.raises(TransactionStateError):
                    cx.fetch_one(COUNT())
                return [cx.fetch_one(OTHERS())]

            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
                assert await db.read(function) == [0]
                others = [asyncio.create_task(db.fetch_one(COUNT())) for _ in range(5)]
                with pytest.raises(TransactionStateError):
                    await db.fetch_one(COUNT())
                assert await asyncio.gather(*others) == [1] * 5


class TestWhenItIsOver:
    """However the transaction has ended, reads are as ever."""

    async def test_committed_rolled_back_or_out_of_time(self, path: Path) -> None:
        async with items(path, "a") as db, Witness(db) as witness:
            async with db.transaction() as tx:
                await tx.execute(ADD(name="b"))
            assert await db.fetch_one(COUNT()) == 2
            with suppress(KeyError):
                async with db.transaction() as tx:
                    await tx.execute(ADD(name="c"))
                    raise KeyError
            assert await db.fetch_one(COUNT()) == 2
            with pytest.raises(TransactionTimeoutError):
                async with db.transaction(timeout=0.02) as tx:
                    await tx.execute(ADD(name="c"))
                    await witness.whole()
                    assert await db.fetch_one(COUNT()) == 2
            async with db.transaction() as tx:
                assert await db.fetch_one(COUNT()) == 2  # not what the last one has written
                await tx.execute(ADD(name="c"))
                with pytest.raises(TransactionStateError):
                    await db.fetch_one(COUNT())
                with pytest.raises(IntegrityError):
                    await tx.execute(ADD(name="c"))
