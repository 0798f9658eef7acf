"""`Repository` and `Table` of an application's own, through every handle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest

from abt_db import (
    Database,
    IntegrityError,
    Json,
    ParameterError,
    Query,
    QueryDefinitionError,
    Readable,
    ReadOnlyError,
    Repository,
    Session,
    Table,
    TransactionStateError,
    Writable,
)
from abt_db.builds import BuildStore

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclass(frozen=True, slots=True)
class Note:
    """A row whose columns have the names of keywords."""

    id: int
    order: int
    group: str | None
    index: Annotated[Any, Json]
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """The same table, as one sees it to whom `updated_at` is a number."""

    id: int
    order: int
    updated_at: int | None


NOTES = Table("table", Note, json=["index"])
CREATE = Query(
    "notes.create",
    """
    CREATE TABLE "table" (
        id INTEGER PRIMARY KEY, "order" INTEGER NOT NULL UNIQUE DEFAULT 7, "group" TEXT,
        "index" TEXT CHECK (json_valid(coalesce("index", 'null'))), updated_at,
        "left out" TEXT DEFAULT 'x'
    )
    """,
)
ADD = Query("notes.add", 'INSERT INTO "table" ("order") VALUES (:order)')
FIRST = Query("notes.first", f'SELECT {NOTES.columns} FROM "table" ORDER BY "order" LIMIT 1', Note)


class Notes(Repository[Note]):
    """What an application makes of it."""

    def __init__(self, db: Readable) -> None:
        super().__init__(db, NOTES)

    async def first(self) -> Note | None:
        return await self.db.fetch_one(FIRST())

    async def swap(self, one: int, other: int) -> None:
        def swap(cx: Session) -> None:
            a, b = cx.fetch_one(NOTES.by_id(one)), cx.fetch_one(NOTES.by_id(other))
            assert a is not None and b is not None
            cx.fetch_one(NOTES.update(one, {"order": -1}))
            cx.fetch_one(NOTES.update(other, {"order": a.order}))
            cx.fetch_one(NOTES.update(one, {"order": b.order}))

        await self.writable.write(swap)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Database]:
    async with Database(path) as db:
        await db.execute(CREATE())
        yield db


class TestHandles:
    """One class of repository works through a database, a transaction, a savepoint, a snapshot."""

    async def test_through_the_database_each_call_is_committed(self, path: Path) -> None:
        async with opened(path) as db:
            notes = Notes(db)
            made = await notes.create(order=1, group="a", index={"any": [1, None, "x"]})
            assert await notes.first() == await notes.get_by_id(made.id) == made
            other = await notes.create(order=2)
            await notes.swap(made.id, other.id)
            assert [note.id for note in await notes.get_all(order_by="order")] == [
                other.id,
                made.id,
            ]
            assert await notes.delete(other.id) is True
            assert await notes.count(group="a") == 1

    async def test_within_a_transaction_it_is_a_part_of_that(self, path: Path) -> None:
        async with opened(path) as db:
            notes = Notes(db)
            with pytest.raises(LookupError):
                async with db.transaction() as tx:
                    inside = notes.within(tx)
                    assert type(inside) is Notes and inside is not notes
                    assert isinstance(await inside.create(order=1), Note)
                    assert await inside.count() == 1
                    raise LookupError
            assert await notes.count() == 0
            async with db.transaction() as tx:
                inside = Notes(tx)
                kept = await inside.create(order=1)
                with pytest.raises(LookupError):
                    async with tx.savepoint() as savepoint:
                        await inside.within(savepoint).create(order=2)
                        await inside.within(savepoint).delete(kept.id)
                        raise LookupError
                changed = await inside.update(kept.id, group="b")
                with pytest.raises(TransactionStateError):
                    await notes.create(order=3)  # of this task it would wait for ever
            assert await notes.get_all() == [changed]

    async def test_over_a_snapshot_it_reads_what_was_and_writes_nothing(self, path: Path) -> None:
        async with opened(path) as db:
            notes = Notes(db)
            before = await notes.create(order=1)
            async with db.snapshot() as snapshot:
                then = notes.within(snapshot)
                assert await then.count() == 1
                await notes.create(order=2)
                assert (await then.count(), await notes.count()) == (1, 2)
                assert await then.get_all() == [before] == [await then.first()]
                for write in (
                    then.create(order=3),
                    then.update(before.id, order=3),
                    then.delete(before.id),
                    then.swap(before.id, 2),
                ):
                    with pytest.raises(ReadOnlyError, match="through a Snapshot, which only reads"):
                        await write
            assert [note.order for note in await notes.get_all()] == [1, 2]

    async def test_those_of_the_build_database_do_as_well(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            with pytest.raises(LookupError):
                async with store.db.transaction() as tx:
                    project = await store.projects.within(tx).create(
                        name="maps", project_type="", repository_url="", local_path=""
                    )
                    build = await store.builds.within(tx).start(project.id)
                    await store.builds.within(tx).update_status(build.id, "failed")
                    await store.logs.within(tx).create(build_id=build.id, message="x")
                    await store.metrics.within(tx).record("load", 1)
                    [summary] = await store.projects.within(tx).with_build_stats()
                    assert summary.total_builds == 1
                    with pytest.raises(TransactionStateError, match="through the database"):
                        await anext(store.logs.within(tx).follow(build.id))
                    raise LookupError
            assert await store.projects.count() == await store.metrics.count() == 0
            async with store.db.snapshot() as snapshot:
                with pytest.raises(ReadOnlyError):
                    await store.metrics.within(snapshot).record("load", 1)
                with pytest.raises(ReadOnlyError):
                    await store.projects.within(snapshot).ensure(
                        "maps", project_type="", repository_url="", local_path=""
                    )

    async def test_what_is_writable_is_known_at_run_time(self, path: Path) -> None:
        async with opened(path) as db:
            async with (
                db.snapshot() as snapshot,
                db.transaction() as tx,
                tx.savepoint() as savepoint,
            ):
                handles: list[object] = [db, tx, savepoint, snapshot, None]
                assert [isinstance(each, Writable) for each in handles] == [True] * 3 + [False] * 2


@dataclass(frozen=True, slots=True)
class Filed:
    """The same table, whose JSON may only be of one type, though that is native to SQLite."""

    id: int
    index: Annotated[int | float, Json]


class TestTable:
    """A table of anything that SQLite allows, as a dataclass describes it."""

    async def test_columns_may_have_the_names_of_keywords(self, path: Path) -> None:
        async with opened(path) as db:
            notes = Notes(db)
            made = [await notes.create(order=n, group="b" if n % 2 else None) for n in range(6)]
            assert await notes.get_all(2, order_by="-order") == made[:-3:-1]
            page = await notes.get_all(2, order_by="group")
            rest = await notes.get_all(None, order_by="group", after=page[-1])
            assert [note.order for note in page + rest] == [0, 2, 4, 1, 3, 5]
            upsert = NOTES.create({"order": 3, "group": "c"}, key="order")
            changed = await db.fetch_one(upsert)
            assert changed is not None and (changed.id, changed.group) == (made[3].id, "c")
            assert await notes.count(group="b", order=1) == 1

    async def test_a_row_of_defaults_alone_is_made(self, path: Path) -> None:
        async with opened(path) as db:
            made = await Notes(db).create()
            assert (made.order, made.group, made.index) == (7, None, None)
            with pytest.raises(IntegrityError):
                await Notes(db).create()

    async def test_updated_at_follows_where_it_is_a_time(self, path: Path) -> None:
        async with opened(path) as db:
            counted = Repository(db, Table("table", Counted))
            made = await counted.create(updated_at=None)
            assert await counted.update(made.id, order=8) == Counted(made.id, 8, None)
            note = await Notes(db).update(made.id, group="x")
            assert note is not None and note.updated_at is not None
            assert note.updated_at <= datetime.now(UTC)

    async def test_json_of_a_native_type_is_json(self, path: Path) -> None:
        async with opened(path) as db:
            filed = Repository(db, Table("table", Filed, json=["index"]))
            made = await filed.create(index=0.5)
            assert made.index == (await Notes(db).get_all())[0].index == 0.5
            assert await filed.update(made.id, index=7) == Filed(made.id, 7)
            with pytest.raises(ParameterError, match="'index' of table is not"):
                await filed.update(made.id, index="7")

    async def test_no_limit_is_none(self, path: Path) -> None:
        async with opened(path) as db:
            await db.execute_many(ADD, ({"order": n} for n in range(150)))
            assert len(await Notes(db).get_all()) == 100
            assert len(await Notes(db).get_all(None)) == 150
            assert len(await Notes(db).get_all(None, 140, order_by="-order")) == 10

    def test_what_can_not_be_one_is_refused_when_it_is_made(self) -> None:
        @dataclass
        class NoId:
            name: str

        for row in (NoId, dict, int):
            with pytest.raises(QueryDefinitionError, match="'notes' must be of a dataclass"):
                Table("notes", row)
        with pytest.raises(ParameterError, match="'nmae' can't be used here"):
            NOTES.create({"order": 1}, key="nmae")
