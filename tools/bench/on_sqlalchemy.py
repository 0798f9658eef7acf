"""SQLAlchemy 2 with its asyncio extension: Core with textual SQL, and the ORM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from . import sample
from .sample import metric, tuned

READ, BUILDS, STREAM = text(sample.READ), text(sample.BUILDS), text(sample.STREAM)
INSERT, UPDATE = text(sample.INSERT), text(sample.UPDATE)


def engine(path: Path, synchronous: str) -> AsyncEngine:
    return create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"factory": tuned(synchronous)}
    )


class Core:
    """A connection of the engine's pool for each call, `begin()` where it writes."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._engine = engine(path, synchronous)

    async def close(self) -> None:
        await self._engine.dispose()

    async def read(self, id: int) -> int:
        async with self._engine.connect() as connection:
            row = (await connection.execute(READ, {"id": id})).one()
            timeout: int = row.timeout
            return timeout

    async def insert(self, number: int) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> int:
        async with self._engine.connect() as connection:
            found: int = (await connection.execute(text(sql), parameters)).scalar_one()
            return found

    async def builds(self) -> Sequence[Any]:
        async with self._engine.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(BUILDS)).all()
            return rows

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        async with self._engine.connect() as connection:
            async with connection.stream(STREAM, {"times": times}) as result:
                async for row in result:
                    rows += 1
                    total += row.size
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(INSERT, rows)


class Base(DeclarativeBase):
    """The mapped classes."""


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    branch: Mapped[str]
    timeout: Mapped[int]


class Build(Base):
    __tablename__ = "builds"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    number: Mapped[int]
    status: Mapped[str]
    branch: Mapped[str]
    commit_hash: Mapped[str | None]
    started_at: Mapped[str | None]
    duration: Mapped[float | None]
    size: Mapped[int]
    message: Mapped[str]


class Metric(Base):
    __tablename__ = "metrics"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str | None]


class Orm:
    """A session for each call."""

    async def open(self, path: Path, synchronous: str) -> None:
        self._engine = engine(path, synchronous)
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)

    async def close(self) -> None:
        await self._engine.dispose()

    async def read(self, id: int) -> int:
        async with self._session() as session:
            timeout: int = (await session.get_one(Project, id)).timeout
            return timeout

    async def insert(self, number: int) -> None:
        async with self._session.begin() as session:
            session.add(Metric(**metric(number)))

    async def update(self, id: int, timeout: int) -> None:
        async with self._session.begin() as session:
            await session.execute(update(Project).where(Project.id == id).values(timeout=timeout))

    async def value(self, sql: str, /, **parameters: int) -> int:
        async with self._session() as session:
            found: int = (await session.execute(text(sql), parameters)).scalar_one()
            return found

    async def builds(self) -> Sequence[Any]:
        async with self._session() as session:
            builds: Sequence[Any] = (await session.scalars(select(Build))).all()
            return builds

    async def stream(self, times: int) -> tuple[int, int]:
        rows = total = 0
        statement = select(Build).from_statement(STREAM.bindparams(times=times))
        async with self._session() as session:
            found = await session.stream_scalars(statement, execution_options={"yield_per": 500})
            async for build in found:
                rows += 1
                total += build.size
        return rows, total

    async def insert_many(self, rows: Sequence[dict[str, object]]) -> None:
        async with self._session.begin() as session:
            await session.execute(insert(Metric), rows)
