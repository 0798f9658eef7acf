"""The write-ahead log: it stays under `Config.wal_limit`, and who keeps it from that is named.

``ABT_DB_LONG=1 pytest -s tests/connection/test_wal.py -k Limit`` writes for ten minutes by the
clock, and says how long the log was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count, takewhile
from pathlib import Path
from time import monotonic, perf_counter

import pytest
from support.clock import Clock
from support.engine import (
    ADD,
    COUNT,
    COUNT_TABLES,
    SOON,
    Driver,
    Holder,
    LockingProcess,
    items,
    until,
)

from abt_db import Query
from abt_db.connection.busy import LONGEST_PAUSE
from abt_db.connection.checkpoint import LONGEST, PAUSE, SHORTEST, Wal, processes_reading
from abt_db.events import Checkpointed

MIB = 1024 * 1024
LIMIT = 4 * MIB
FILL = Query("fill", "INSERT INTO items (name) VALUES (hex(randomblob(4000)))")  # two pages or so
PAGES = Query("pages", "CREATE TABLE pages (content)")
ADD_PAGES = Query("add pages", "INSERT INTO pages VALUES (zeroblob(4096 * :count))")
SET_PAGES = Query(  # somewhere in 80 MB, so that the file has an end
    "set pages",
    "INSERT OR REPLACE INTO pages (rowid, content)"
    " VALUES (abs(random()) % 10000, zeroblob(4096 * :count))",
)
LONG = bool(os.environ.get("ABT_DB_LONG"))
WRITES, MINUTES = 1_000, 10
READ = "SELECT count(*) FROM sqlite_schema"


def log_of(path: Path) -> int:
    return path.with_name("app.db-wal").stat().st_size


@contextmanager
def held_from_checkpoints(path: Path) -> Iterator[None]:
    """A block in which another process holds the lock of those who make a checkpoint."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX, 1,"
        " 121); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, f"{path}-shm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


class TestLimit:
    """invariant 20: however many pages are written, the log stays under its limit while readers
    come and go."""

    @pytest.mark.parametrize("limit", [LIMIT, 0], ids=["held", "switched off"])
    async def test_readers_that_come_and_go_without_a_gap(self, path: Path, limit: int) -> None:
        """Switched off, it grows: SQLite alone never finds the moment to start it anew."""
        largest, times = 0, []
        stop = asyncio.Event()
        end = monotonic() + 60 * MINUTES
        left = takewhile(lambda n: monotonic() < end if LONG and limit else n < WRITES, count())

        async def read() -> None:
            while not stop.is_set():
                async with db.snapshot() as snapshot:
                    await snapshot.fetch_one(COUNT())
                    await asyncio.sleep(random.uniform(0, 0.02))

        async def write() -> None:
            nonlocal largest
            for _ in left:
                began = perf_counter()
                await db.execute(SET_PAGES(count=2))
                times.append(perf_counter() - began)
                largest = max(largest, log_of(path))

        async with items(path, readers=3, wal_limit=limit) as db:
            await db.execute(PAGES())
            async with asyncio.TaskGroup() as readers:
                for _ in range(3):
                    readers.create_task(read())
                async with asyncio.TaskGroup() as writers:
                    for _ in range(4):
                        writers.create_task(write())
                stop.set()
        if LONG:
            times.sort()
            p50, p99, slowest = (1000 * times[int(len(times) * x)] for x in (0.5, 0.99, 0.999999))
            print(
                f"\nlimit {limit:,}: {len(times):,} writes, the log {largest:,} bytes at most;"
                f" a write took {p50:.1f} ms, p99 {p99:.1f} ms, {slowest:.0f} ms at most"
            )
        assert (largest < LIMIT) == (limit == LIMIT), largest

    @pytest.mark.skipif(not LONG, reason="it is measured where ABT_DB_LONG is set")
    @pytest.mark.parametrize("held", [0.0, 0.02, 0.1, 0.25])
    @pytest.mark.parametrize("limit", [0, 64 * MIB], ids=["switched off", "64 MiB"])
    async def test_what_it_costs_at_full_speed(self, path: Path, limit: int, held: float) -> None:
        """Who writes waits as long as readers read: a part of the time that grows with that."""
        times: list[float] = []
        tries: list[Checkpointed] = []
        largest, end = 0, monotonic() + 5

        async def read() -> None:
            while held and monotonic() < end:
                async with db.snapshot() as snapshot:
                    await snapshot.fetch_one(COUNT_TABLES())
                    await asyncio.sleep(held * random.uniform(0.5, 1.5))

        async def write() -> None:
            nonlocal largest
            while monotonic() < end:
                began = perf_counter()
                await db.execute(ADD_PAGES(count=1))
                times.append(perf_counter() - began)
                if not len(times) % 100:
                    largest = max(largest, log_of(path))

        async with items(path, readers=4, wal_limit=limit) as db:
            await db.execute(PAGES())
            db.add_listener(tries.append, Checkpointed)
            await asyncio.gather(*(read() for _ in range(4)), *(write() for _ in range(20)))
        waited = sum(each.seconds for each in tries if each.mode == "truncate")
        times.sort()
        p50, p99, p999 = (1000 * times[int(len(times) * x)] for x in (0.5, 0.99, 0.999))
        print(
            f"\n{limit // MIB} MiB, readers of {held} s: {len(times) / 5:,.0f} writes/s,"
            f" {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.0f} ms; the log {largest // MIB} MiB at"
            f" most; {waited / 5:.0%} of the time in waits for readers"
        )
        assert not limit or largest < limit

    async def test_a_transaction_that_is_larger_than_it(self, path: Path) -> None:
        async with items(path, wal_limit=LIMIT) as db:
            async with db.transaction() as tx:
                for _ in range(500):
                    await tx.execute(FILL())
            assert log_of(path) == 0
            assert await db.fetch_one(COUNT()) == 500

    @pytest.mark.parametrize("linked", [False, True])
    async def test_the_log_is_emptied_while_nothing_else_is_done(
        self, path: Path, linked: bool
    ) -> None:
        """Left long by a reader that has gone, and then by those who write as well; it lies beside
        the file itself, and not beside a link by which that is opened."""
        name = path.with_name("link.db") if linked else path
        if linked:
            name.symlink_to(path)
        async with items(name, wal_limit=LIMIT) as db:
            async with Holder(db.snapshot()), db.transaction() as tx:
                for _ in range(500):
                    await tx.execute(FILL())
            for _ in range(100):
                await db.execute(ADD(name=os.urandom(4).hex()))
            await until(lambda: log_of(path) == 0)

    @pytest.mark.parametrize("fault", ["disk I/O error", "database or disk is full"])
    async def test_a_checkpoint_that_fails_takes_no_commit_with_it(
        self, path: Path, caplog: pytest.LogCaptureFixture, fault: str
    ) -> None:
        """faults 49, 50"""
        driver = Driver()

        def fail(step: str) -> None:
            if step.startswith("PRAGMA wal_checkpoint"):
                raise sqlite3.OperationalError(fault)

        async with items(path, wal_limit=LIMIT, connect=driver.connect) as db:
            driver.hook = fail
            for _ in range(500):
                await db.execute(FILL())
            assert fault in caplog.text
            driver.hook = lambda step: None
            assert await db.fetch_one(COUNT()) == 500
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT count(*) FROM items").fetchone() == (500,)


class TestInTheWay:
    """fault 53: readers in the way make a checkpoint `busy`, no error, and are named."""

    @pytest.mark.parametrize("mode", ["full", "restart", "truncate"])
    async def test_a_checkpoint_names_the_reader_of_this_process(
        self, path: Path, mode: str
    ) -> None:
        async with items(path, "a") as db:
            async with Holder(db.snapshot(label="export"), name="exporter"):
                await db.execute(ADD(name="b"))
                done = await db.checkpoint(mode, wait=0.01)  # type: ignore[arg-type]
            assert done.busy and done.seconds < SOON
            assert len(done.readers) == 1
            assert re.fullmatch(
                r"snapshot 'export' of task 'exporter', for \d+\.\d s", done.readers[0]
            )
            done = await db.checkpoint(mode)  # type: ignore[arg-type]
            assert (done.busy, done.readers) == (False, ())

    async def test_and_the_process_of_another_one(self, path: Path) -> None:
        async with items(path, "a") as db:
            with LockingProcess(path, "BEGIN", READ) as other:
                await db.execute(ADD(name="b"))
                assert processes_reading(db.path) == [other._process.pid]
                done = await db.checkpoint("truncate", wait=0)
                assert done.busy
                assert done.readers == (f"process {other._process.pid}",)
                assert not (await db.checkpoint("passive")).busy  # waits for nobody
                await db.execute(ADD(name="c"))  # the writer is not held up
            assert processes_reading(db.path) == []
            assert not (await db.checkpoint("truncate")).busy

    async def test_another_checkpoint_is_waited_for_and_holds_up_nobody_who_writes(
        self, path: Path, clock: Clock
    ) -> None:
        """SQLite itself does not wait for one, but says at once that it is busy."""
        driver, tries = Driver(), 0

        def count(step: str) -> None:
            nonlocal tries
            tries += step.startswith("PRAGMA wal_checkpoint")

        async with items(path, "a", wal_limit=LIMIT, connect=driver.connect) as db:
            told: list[Checkpointed] = []
            db.add_listener(told.append, Checkpointed)
            with held_from_checkpoints(path):
                driver.hook = count
                began = monotonic()
                task = asyncio.create_task(db.checkpoint("truncate", wait=1000))
                await until(lambda: tries >= 2)
                clock.passes(1000)
                done = await task
                assert (done.busy, done.pages, done.readers) == (True, -1, ("another checkpoint",))
                assert tries <= 2 + (monotonic() - began) / LONGEST_PAUSE  # with a pause between
                assert (await db.checkpoint("passive")).busy
                for _ in range(400):
                    await db.execute(FILL())
                assert log_of(path) > LIMIT and len(told) == 2
                waiting = asyncio.create_task(db.checkpoint("truncate", wait=SOON))
                await until(lambda: db.stats()["writer"]["busy"])
            assert not (await waiting).busy
            assert log_of(path) == 0

    async def test_nobody_can_be_named_without_a_log(self, path: Path) -> None:
        async with items(path, journal_mode="delete") as db:
            assert processes_reading(db.path) == []
            assert (await db.checkpoint("truncate")).pages == -1

    async def test_a_reader_that_never_ends_is_named_by_the_log_once(
        self, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("abt_db.pool.checkpoints.LONG", 0.05)
        monkeypatch.setattr("abt_db.pool.checkpoints.BUSY_MOMENTS", 0.0)
        monkeypatch.setattr("abt_db.connection.checkpoint.LONGEST", 0.1)
        monkeypatch.setattr("abt_db.connection.checkpoint.PAUSE", 0.05)
        tries: list[Checkpointed] = []
        async with items(path, wal_limit=LIMIT) as db:
            db.add_listener(tries.append, Checkpointed)
            async with Holder(db.snapshot(label="endless"), name="forgetful"):
                while len(tries) < 3:
                    await db.execute(FILL())
                assert all(done.busy for done in tries)
            [warning] = [r for r in caplog.records if r.levelno == logging.WARNING]
            assert "app.db" in warning.getMessage()
            assert "read by snapshot 'endless' of task 'forgetful', for" in warning.getMessage()
            while tries[-1].busy:
                await db.execute(FILL())
            assert log_of(path) < LIMIT

    async def test_a_wait_must_be_one(self, path: Path) -> None:
        async with items(path) as db:
            for wait in (-1, float("nan")):
                with pytest.raises(ValueError, match="wait must be"):
                    await db.checkpoint("full", wait=wait)


class TestTries:
    """How long is waited for readers, and how often."""

    def test_five_tries_are_made_below_the_limit_each_waiting_longer(self, tmp_path: Path) -> None:
        log = tmp_path / "db-wal"
        wal = Wal(str(tmp_path / "db"), 1000)
        waits, now = [], 0.0
        for size in range(0, 1000, 10):
            log.write_bytes(b"x" * size)
            now += 0.1
            if wal.is_long(now):
                waits.append(wal.patience)
                wal.in_use(now)
        assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]
        assert (waits[0], waits[-1]) == (SHORTEST, LONGEST)

    def test_in_vain_they_are_made_less_and_less_often(self, tmp_path: Path) -> None:
        (tmp_path / "db-wal").write_bytes(b"x" * 1000)
        wal = Wal(str(tmp_path / "db"), 10)
        tries, now = 0, 0.0
        while now < 3600:
            if wal.is_long(now):
                tries += 1
                (tmp_path / "db-wal").write_bytes(b"x" * (1000 + 2 * tries))
                wal.in_use(now)
            now += PAUSE / 4
        assert 5 * 10 < tries < 5 * 30

    def test_the_wait_that_was_enough_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "db-wal").write_bytes(b"x" * 1000)
        wal = Wal(str(tmp_path / "db"), 1000)
        wal.in_use(0.0)
        wal.emptied()
        assert wal.patience == 2 * SHORTEST
        assert wal.is_long(1.0)

    def test_where_a_longer_wait_was_enough_the_next_one_comes_later(self, tmp_path: Path) -> None:
        """There is room for the tries that are left, and each costs those who write a wait."""
        log = tmp_path / "db-wal"
        wal = Wal(str(tmp_path / "db"), 1000)
        tries, now = [], 0.0
        for _ in range(4):
            for size in range(0, 1000, 10):
                log.write_bytes(b"x" * size)
                now += 0.1
                if wal.is_long(now):
                    tries.append((size, wal.patience))
                    if wal.patience >= 0.4:
                        wal.emptied()
                        break
                    wal.in_use(now)
            now += PAUSE
        assert tries == [(510, 0.1), (620, 0.2), (730, 0.4), (710, 0.4), (710, 0.4), (710, 0.4)]

    def test_it_is_looked_at_five_hundred_times_a_second_at_most(self, tmp_path: Path) -> None:
        wal = Wal(str(tmp_path / "db"), 0)
        assert not wal.is_long(1.0)  # there is none
        (tmp_path / "db-wal").write_bytes(b"x")
        assert not wal.is_long(1.001)
        assert wal.is_long(1.01)

    def test_a_long_log_is_tried_again_though_it_does_not_grow(self, tmp_path: Path) -> None:
        (tmp_path / "db-wal").write_bytes(b"x" * 1000)
        wal = Wal(str(tmp_path / "db"), 1000)
        assert wal.is_long(1.0)
        wal.in_use(1.0)
        assert not wal.is_long(PAUSE)
        assert wal.is_long(PAUSE + 1)
