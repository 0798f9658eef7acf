"""Eight processes write the same row as fast as they can: nothing is lost, nobody sees an error, and
all of them come on.

``ABT_DB_LONG=1 pytest -s tests/test_contention.py`` counts to 10,000 in each.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from engine import SOON, items, script

from abt_db import Query

PROCESSES = 8
LONG = bool(os.environ.get("ABT_DB_LONG"))
TIMES = 10_000 if LONG else 60
WAYS = ["update", "transaction", "run_transaction", "long"]
"""By a plain UPDATE; by read and write in `db.transaction`; the same in `db.run_transaction`; and in
transactions that last twenty milliseconds each, one after the other."""

CREATE = Query("counters.create", "CREATE TABLE counters (way TEXT PRIMARY KEY, n INTEGER)")
NEW = Query("counters.new", "INSERT INTO counters VALUES (:way, 0)")
VALUE = Query("counters.value", "SELECT n FROM counters WHERE way = :way", int)

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
                for done in range(times if way != "long" else min(times // 4, 100)):
                    await count(db, way)
                    struct.pack_into("q", counts, 8 * number, done + 1)
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
    """faults.md 52: no error reaches anyone, every increment is there, nobody starves."""

    async def test_count_together(self, path: Path) -> None:
        """Shown by `pytest -s`: how far each was when the first of them was at its end."""
        async with items(path, readers=1) as db:
            await db.execute(CREATE())
            for way in WAYS:
                await db.execute(NEW(way=way))
            with writers(path) as processes:
                for way in WAYS:
                    assert {hear(process) for process in processes} == {"ready\n"}
                    with path.with_name("board").open("r+b") as file:
                        file.write(bytes(8 * PROCESSES))
                    began = monotonic()
                    for process in processes:
                        say(process, "go\n")
                    told = [[int(n) for n in hear(process).split()] for process in processes]
                    seconds = monotonic() - began
                    total, first = max(map(sum, told)), min(told, key=sum)
                    print(
                        f"\n{way}: {total / seconds:.0f} a second; when the first was at its end,"
                        f" the slowest was at {min(first) / max(first):.0%}: {first}"
                    )
                    assert await db.fetch_one(VALUE(way=way)) == total
                    assert total == PROCESSES * max(first)
                    # A short run is over before everyone has woken up.
                    if LONG or way == "long":
                        assert min(first) > (max(first) / 4 if LONG else 0), f"{way}: unfair"
