"""Eight processes write the same row as fast as they can: nothing is lost, nobody sees an error,
and all of them come on.

``ABT_DB_LONG=1 pytest -s tests/whole/test_contention.py`` counts to 10,000 in each.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from support.engine import ADD, SOON, LockingProcess, items, script, until

from abt_db import Database
from abt_db.connection import transaction as session

PROCESSES = 8
LONG = bool(os.environ.get("ABT_DB_LONG"))
TIMES = 10_000 if LONG else 60
WAYS = ["update", "transaction", "run_transaction", "long"]
"""By a plain UPDATE; by read and write in `db.transaction`; the same in `db.run_transaction`; and
in transactions that last twenty milliseconds each, one after the other."""

WRITER = """
import mmap, struct
board, number, times, ways = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
ADD = Query("counters.add", "UPDATE counters SET n = n + 1 WHERE way = :way")
GET = Query("counters.get", "SELECT n FROM counters WHERE way = :way", int)
SET = Query("counters.set", "UPDATE counters SET n = :n WHERE way = :way")

async def increment(tx, way, pause=0):
    n = await tx.fetch_one(GET(way=way))
    await asyncio.sleep(pause)
    await tx.execute(SET(n=n + 1, way=way))

async def count(db, way):
    if way == "update":
        await db.execute(ADD(way=way))
    elif way == "run_transaction":
        await db.run_transaction(lambda tx: increment(tx, way))
    else:
        async with db.transaction() as tx:
            await increment(tx, way, 0.02 if way == "long" else 0)

async def main():
    with open(board, "r+b") as file, mmap.mmap(file.fileno(), 0) as counts:
        async with Database(path, config=Config(readers=1)) as db:
            for way in ways:
                print("ready", flush=True)
                sys.stdin.readline()
                enough = times if way != "long" else min(times // 4, 100)
                done = 0
                # However slowly the others have woken up: until each had its turn, if each has one.
                while done < enough or done < 20 * enough and 0 in struct.unpack("8q", counts):
                    await count(db, way)
                    done += 1
                    struct.pack_into("q", counts, 8 * number, done)
                print(*struct.unpack("8q", counts), flush=True)

asyncio.run(main())
"""


@contextmanager
def writers(path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """As many processes, each of which says "ready" before each way, and waits for a line."""
    board = path.with_name("board")
    board.write_bytes(bytes(8 * PROCESSES))
    processes = [
        subprocess.Popen(
            [*script(WRITER, engine=False), *map(str, [path, board, number, TIMES, *WAYS])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        yield processes
        assert [process.wait(SOON) for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it has ended; see its traceback"
    return line


class TestEightProcesses:
    """fault 52: no error reaches anyone, every increment is there, nobody starves."""

    def test_count_together(self, path: Path) -> None:
        """Shown by `pytest -s`: how far each was when the first of them was at its end."""
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("PRAGMA journal_mode = wal")
            raw.execute("CREATE TABLE counters (way TEXT PRIMARY KEY, n INTEGER)")
            raw.executemany("INSERT INTO counters VALUES (?, 0)", [(way,) for way in WAYS])
            with writers(path) as processes:
                for way in WAYS:
                    first, total = race(path, processes, way)
                    values = raw.execute("SELECT n FROM counters WHERE way = ?", (way,)).fetchone()
                    assert values == (total,)
                    assert min(first) > (max(first) / 4 if LONG else 0), f"{way}: unfair"


class TestCourtesy:
    """Who keeps others waiting for long leaves the lock free for a moment before he takes it again:
    otherwise those who look for it from time to time would never find it free."""

    @pytest.fixture(autouse=True)
    def time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The clock stands still, but while somebody works; the waits are noted."""
        self.now = 1.0
        self.waits: list[float] = []
        monkeypatch.setattr(session, "monotonic", lambda: self.now)
        monkeypatch.setattr(session, "sleep", self.waits.append)

    async def work(self, db: Database, times: int, seconds: float) -> None:
        for _ in range(times):
            async with db.transaction() as tx:
                await tx.execute(ADD(name=None))
                self.now += seconds

    async def meet(self, db: Database, path: Path) -> None:
        """Be in need of the lock while another process has it."""
        with LockingProcess(path):
            task = asyncio.create_task(self.work(db, 1, 0.0))
            await until(lambda: [t["state"] for t in db.stats()["transactions"]] == ["waiting"])
        await task

    async def test_after_long_work_where_others_write(self, path: Path) -> None:
        async with items(path) as db:
            await self.meet(db, path)
            await self.work(db, 3, 0.02)
            await self.work(db, 1, 1.0)
            await db.execute(ADD(name="x"))
            assert self.waits == pytest.approx([0.004, 0.004, 0.004, 0.01])

    async def test_not_after_short_work(self, path: Path) -> None:
        async with items(path) as db:
            await self.meet(db, path)
            await self.work(db, 3, 0.004)
            assert not self.waits

    async def test_not_where_nobody_else_writes(self, path: Path) -> None:
        async with items(path) as db:
            await self.work(db, 3, 0.02)
            await self.meet(db, path)
            self.now += 10.0
            await self.work(db, 3, 0.02)  # they have gone again
            assert not self.waits


def race(path: Path, processes: list[subprocess.Popen[str]], way: str) -> tuple[list[int], int]:
    """Let all of them count in one way; return how far each was when the first was at its end, and
    how far all of them came."""
    assert {hear(process) for process in processes} == {"ready\n"}
    with path.with_name("board").open("r+b") as file:
        file.write(bytes(8 * PROCESSES))
    began = monotonic()
    for process in processes:
        say(process, "go\n")
    told = [[int(n) for n in hear(process).split()] for process in processes]
    seconds = monotonic() - began
    first, total = min(told, key=sum), max(map(sum, told))
    print(
        f"\n{way}: {total / seconds:.0f} a second; at the end of the first the slowest was at"
        f" {min(first) / max(first):.0%} of it: {first}"
    )
    return first, total
