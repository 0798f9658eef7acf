"""The database under Litestream, a real process: replicated, restored, followed.

`pip install '.[integration]'` brings it; where it is missing, these tests are skipped.
``ABT_DB_LONG=1 pytest -s tests/maintenance/test_litestream.py -k restored`` writes for a minute,
and tells its figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from support.suite import SOON

from abt_db import CantOpenError, Config, Database, Query
from abt_db.builds import BuildStore
from abt_db.maintenance import Severity, diagnose, examine
from abt_db.migrations import Migrator, load_migrations

FOUND = shutil.which("litestream", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(
    FOUND is None, reason="litestream is not installed (`.[integration]` has it)"
)
LONG = bool(os.environ.get("ABT_DB_LONG"))
SECONDS = 60.0 if LONG else 1.5
PATIENCE = SOON
"""Seconds after which a process that is not there yet won't come."""

TABLES = [Query(f"create {name}", f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, amount)")
          for name in ("paid", "booked")]  # fmt: skip
PAY = Query("pay", "INSERT INTO paid (amount) VALUES (:amount)")
BOOK = Query("book", "INSERT INTO booked (amount) VALUES (:amount)")
RAISE = Query("raise", "UPDATE paid SET amount = amount + 1")
# Each transaction writes to both tables: they differ in no state that ever was.
STATE = Query(
    "state",
    "SELECT (SELECT count(*) FROM paid), (SELECT total(amount) FROM paid),"
    " (SELECT count(*) FROM booked), (SELECT total(amount) FROM booked)",
)
SPREAD = Query("spread", "SELECT min(amount), max(amount) FROM paid")


class Litestream:
    """Its processes for one database, and where it keeps what."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.copy = path.with_name("copy.db")
        self._settings = path.with_name("litestream.json")  # JSON is YAML
        replica = {"type": "file", "path": str(path.with_name("replica")), "sync-interval": "50ms"}
        database = {"path": str(path), "monitor-interval": "50ms", "replica": replica}
        self._settings.write_text(json.dumps({"dbs": [database]}))

    def _argv(self, verb: str, *arguments: str) -> list[str]:
        assert FOUND is not None
        return [FOUND, verb, "-config", str(self._settings), *arguments]

    @contextmanager
    def replicating(self) -> Iterator[None]:
        with self._running("replicate"):
            yield

    @contextmanager
    def following(self) -> Iterator[None]:
        arguments = ["-f", "-follow-interval", "50ms", "-o", str(self.copy), str(self.path)]
        with self._running("restore", *arguments):
            yield

    def restore(self) -> None:
        arguments = ["-o", str(self.copy), "-integrity-check", "full", str(self.path)]
        subprocess.run(self._argv("restore", *arguments), check=True, capture_output=True)

    @contextmanager
    def _running(self, *argv: str) -> Iterator[None]:
        log = self.path.with_name(f"{argv[0]}.log")
        with log.open("wb") as output:
            process = subprocess.Popen(self._argv(*argv), stdout=output, stderr=output)
        try:
            yield
            process.terminate()
            assert process.wait(PATIENCE) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition, for PATIENCE at most."""
    limit = monotonic() + PATIENCE
    while not await condition():
        assert monotonic() < limit, "this has not come about"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def replicated(path: Path) -> AsyncIterator[tuple[Database, Litestream]]:
    """A database with two tables, under Litestream, which has made its first copy."""
    litestream = Litestream(path)
    async with Database(path, config=Config.replicated(readers=1)) as db:
        for create in TABLES:
            await db.execute(create())
        await db.execute_batch([PAY(amount=0), BOOK(amount=0)])
        with litestream.replicating():

            async def copied() -> bool:
                return bool([*path.parent.glob("replica/ltx/9/*.ltx")])

            await until(copied)
            yield db, litestream


async def write(db: Database, seconds: float) -> int:
    """Write as fast as it goes for so long; return how many transactions there were."""
    limit, done = monotonic() + seconds, 0
    while monotonic() < limit:
        some = range(done, done + 50)
        await asyncio.gather(*(db.execute_batch([PAY(amount=n), BOOK(amount=n)]) for n in some))
        done += 50
    return done


async def written_alone(path: Path, config: Config) -> int:
    """How many transactions there are without Litestream."""
    async with Database(path, config=config) as db:
        for create in TABLES:
            await db.execute(create())
        done = await write(db, SECONDS)
    path.unlink()
    return done


def rows_of(path: Path) -> list[list[tuple[int, int]]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        return [raw.execute(f"SELECT * FROM {name}").fetchall() for name in ("paid", "booked")]


class TestReplicated:
    """`Config.replicated()` lets Litestream copy the database while the pool writes at full speed,
    and what is restored from the copy is the same, row by row."""

    async def test_what_is_restored_is_what_was_written(self, path: Path) -> None:
        async with replicated(path) as (db, litestream):
            written = await write(db, SECONDS)
            # Its reader keeps the log from being started anew. That is said, and holds nobody up.
            began = monotonic()
            passive = await db.checkpoint("passive")
            assert not passive.busy
            truncate = await db.checkpoint("truncate")
            assert truncate.busy and monotonic() - began < SOON
            rows = await db.read(lambda cx: cx.fetch_one(STATE()))
            assert rows is not None and rows[0] == written + 1
        litestream.restore()
        tables = rows_of(path)
        assert rows_of(litestream.copy) == tables
        if LONG:
            count = sum(map(len, tables))
            print(f"\n{count:,} rows compared; {written / SECONDS:,.0f} transactions/s")
            for name, config in ("replicated()", Config.replicated()), ("()", Config()):
                alone = await written_alone(path.with_name("alone.db"), config)
                print(f"without Litestream, Config{name}: {alone / SECONDS:,.0f} transactions/s")
        assert (await examine(litestream.copy, full=True)).healthy

    async def test_what_litestream_keeps_in_the_file_is_no_drift(self, path: Path) -> None:
        async with await BuildStore.open(path):
            pass
        async with Database(path, config=Config.replicated(readers=1)) as db:
            with Litestream(path).replicating():

                async def there() -> bool:
                    tables = Query("own", "SELECT count(*) FROM sqlite_schema WHERE name = :n", int)
                    return bool(await db.fetch_one(tables(n="_litestream_seq")))

                await until(there)
                migrator = Migrator(db, load_migrations("abt_db.schema"))
                assert (await migrator.drift()).differences == ()
                assert await migrator.up() == []
                found = await diagnose(db)
                assert found.healthy
                assert not [each for each in found.findings if each.subject == "replica"]
        async with Database(path, config=Config(readers=1)) as db:
            [finding] = [f for f in (await diagnose(db)).findings if f.subject == "replica"]
            assert finding.remedy == "open it with Config.replicated()"


class TestFollowed:
    """Another file is kept up to date by `litestream restore -f` and is read through
    `Database(read_only=True)`: each read sees a state that was, and soon the latest one."""

    async def test_reads_see_whole_states_and_then_the_last(self, path: Path) -> None:
        async with replicated(path) as (db, litestream):
            with litestream.following():
                copy = litestream.copy

                async def there() -> bool:
                    return Path(f"{copy}-txid").exists()

                await until(there)
                with pytest.raises(CantOpenError, match="journal_mode = DELETE") as caught:
                    await Database(copy, read_only=True).open()
                [finding] = [f for f in (await examine(copy)).findings if f.subject == "replica"]
                assert finding.severity is Severity.ERROR
                assert str(finding.remedy) in str(caught.value)
                with closing(sqlite3.connect(copy)) as raw:
                    raw.execute("PRAGMA journal_mode = DELETE")
                async with Database(copy, read_only=True, config=Config(readers=2)) as follower:
                    await self.follow(db, follower)

    async def follow(self, db: Database, follower: Database) -> None:
        states: set[tuple[float, ...]] = set()

        async def look() -> None:
            while True:
                state = await follower.fetch_one(STATE())
                assert state is not None and state[:2] == state[2:]
                states.add(state)
                await asyncio.sleep(0.005)

        looking = asyncio.create_task(look())
        await write(db, 1.0)
        written = await db.fetch_one(STATE())

        async def caught_up() -> bool:
            return looking.done() or written in states

        await until(caught_up)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert len(states) > 2

        # Of this Litestream does not tell SQLite: no page is new, and the header stays as it is.
        for _ in range(20):
            await db.execute(RAISE())
        last = await db.fetch_one(SPREAD())

        async def raised() -> bool:
            return await follower.fetch_one(SPREAD()) == last

        await until(raised)
