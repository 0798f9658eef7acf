"""How the library is used, as mypy has to accept it: each `assert_type` is a promise.

Not run; `mypy --strict` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

from abt_db import (
    BatchReport,
    Config,
    Database,
    Holding,
    Json,
    LockInfo,
    LockLease,
    LockLostError,
    Query,
    Readable,
    Repository,
    Result,
    Session,
    Statement,
    Table,
    Transaction,
    Writable,
)


@dataclass(frozen=True, slots=True)
class Project:
    id: int
    name: str
    tags: list[str]
    created_at: datetime


PROJECT = Query("projects.by_name", "SELECT * FROM projects WHERE name = :name", Project)
COUNT = Query("projects.count", "SELECT count(*) FROM projects", int)
LAST = Query("projects.last", "SELECT max(created_at) FROM projects", datetime)
PAIRS = Query("projects.pairs", "SELECT id, name FROM projects")
AS_DICT = Query("projects.dicts", "SELECT id, name FROM projects", dict)
RENAME = Query("projects.rename", "UPDATE projects SET name = :name WHERE id = :id")

assert_type(PROJECT, Query[Project])
assert_type(COUNT, Query[int])
assert_type(PAIRS, Query[tuple[Any, ...]])
assert_type(PROJECT(name="maps"), Statement[Project])


def rename(cx: Session, old: str, new: str) -> int:
    project = cx.fetch_one(PROJECT(name=old))
    assert_type(project, Project | None)
    assert_type(cx.fetch_all(PAIRS()), list[tuple[Any, ...]])
    return cx.execute(RENAME(id=project.id, name=new)).rowcount if project else 0


def move_one(cx: Session) -> None:
    cx.execute(RENAME(id=1, name="x"))


async def move(tx: Transaction) -> int:
    return (await tx.execute(RENAME(id=1, name="x"))).rowcount


async def use() -> None:
    async with Database("app.db", config=Config(readers=2)) as db:
        assert_type(db, Database)
        assert_type(await db.fetch_one(PROJECT(name="maps")), Project | None)
        assert_type(await db.fetch_all(PROJECT(name="maps")), list[Project])
        assert_type(await db.fetch_one(COUNT()), int | None)
        assert_type(await db.fetch_all(LAST()), list[datetime])
        assert_type(await db.fetch_all(PAIRS(), timeout=1.0, priority=3), list[tuple[Any, ...]])
        assert_type(await db.fetch_all(AS_DICT()), list[dict[Any, Any]])
        assert_type(await db.execute(RENAME(id=1, name="x")), Result)
        assert_type(
            await db.execute_batch([RENAME(id=1, name="x"), PROJECT(name="y")]), list[Result]
        )
        assert_type(await db.execute_many(RENAME, [{"id": 1, "name": Json([])}]), int)
        assert_type(await db.read(lambda cx: cx.fetch_one(COUNT())), int | None)
        assert_type(await db.write(rename, "old", new="new"), int)
        assert_type(await db.read(lambda cx: cx.fetch_one(COUNT()), priority=3), int | None)
        assert_type(await db.write(rename, "old", new="new", priority=3), int)
        assert_type(await db.end_transactions(older_than=60.0), list[Holding])
        assert_type(await db.run_transaction(move, attempts=2, timeout=5.0), int)
        assert_type(await db.run_batch([RENAME(id=1, name="x"), move_one, move]), BatchReport)
        assert_type((await db.run_batch([move], label="moves")).results, tuple[Any, ...])
        async with db.lock("deploy", ttl=30, timeout=10) as lease, db.transaction(lease=lease):
            assert_type(lease, LockLease)
            assert_type(lease.token, int)
            assert_type(await lease.lost, LockLostError | None)
        assert_type(await db.lock_info("deploy"), LockInfo | None)
        async with db.transaction(label="deploy", timeout=3) as tx:
            assert_type(await tx.fetch_one(PROJECT(name="maps")), Project | None)
            async with tx.savepoint() as inner:
                assert_type(await inner.execute(RENAME(id=1, name="x")), Result)
        async with db.snapshot() as snapshot:
            assert_type(await snapshot.fetch_all(PROJECT(name="maps")), list[Project])
        async with db.watch(PROJECT(name="maps")) as states:
            async for state in states:
                assert_type(state, list[Project])

        async with db.stream(PROJECT(name="maps")) as rows:
            async for row in rows:
                assert_type(row, Project)
        assert_type(db.stats(), dict[str, Any])


PROJECTS = Table("projects", Project, json=["tags"])
assert_type(PROJECTS, Table[Project])
assert_type(PROJECTS.by_id(1), Statement[Project])


class Projects(Repository[Project]):
    def __init__(self, db: Readable) -> None:
        super().__init__(db, PROJECTS)

    async def named(self, name: str) -> Project | None:
        return await self.db.fetch_one(PROJECT(name=name))

    async def rename(self, old: str, new: str) -> int:
        return await self.writable.write(rename, old, new)


async def names(db: Readable) -> list[str]:
    return [project.name for project in await db.fetch_all(PROJECT(name="maps"))]


async def add(db: Writable) -> Result:
    return await db.execute(RENAME(id=1, name="x"))


async def use_handles(db: Database) -> None:
    projects = Projects(db)
    assert_type(await projects.get_by_id(1), Project | None)
    assert_type(await projects.get_all(None, order_by="-name"), list[Project])
    assert_type(await projects.create(name="maps", tags=[]), Project)
    assert_type(await projects.update(1, name="atlas"), Project | None)
    async with db.transaction() as tx, tx.savepoint() as savepoint:
        assert_type(projects.within(tx), Projects)
        assert_type(await projects.within(savepoint).rename("a", "b"), int)
        assert_type(Repository(tx, PROJECTS), Repository[Project])
        await names(tx), await names(savepoint), await add(tx), await add(savepoint)
    async with db.snapshot() as snapshot:
        assert_type(await Projects(snapshot).named("maps"), Project | None)
        await names(snapshot), await names(db), await add(db)
        await add(snapshot)  # type: ignore[arg-type]
    await names(PROJECTS)  # type: ignore[arg-type]


async def not_accepted(db: Database) -> None:
    # Each must stay an error: `warn_unused_ignores` fails the line when mypy begins to accept it.
    await db.fetch_one(COUNT)  # type: ignore[arg-type]
    await db.fetch_one("SELECT 1")  # type: ignore[arg-type]
    Database("app.db", config={"readers": 2})  # type: ignore[arg-type]
    Config(4)  # type: ignore[call-arg]
