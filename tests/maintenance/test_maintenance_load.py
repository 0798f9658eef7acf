"""The commands that look after a database, on one that another process reads and writes all along.

``ABT_DB_LONG=1 pytest -s tests/maintenance/test_maintenance_load.py`` has a database of more than a
gigabyte, and shows what the others notice of each command; seven minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.engine import script
from support.suite import SOON

LONG = bool(os.environ.get("ABT_DB_LONG"))
ROWS = 650_000 if LONG else 2_000
PHASE = 10.0 if LONG else 0.1
"""Seconds of load before and after the command, and it lasts until each kind has got somewhere."""

TOOLS = (
    "vacuum --make-incremental",
    "vacuum --incremental",
    "vacuum",
    "vacuum --into into.db",
    "checkpoint",
    "checkpoint --mode truncate",
    "backup .",
    "backup . --compress gzip",
    "optimize",
    "optimize --full --reindex",
    "integrity",
    "integrity --full",
    "doctor",
    "doctor --full",
)
IN_THE_GATE = (
    "vacuum --make-incremental",
    "vacuum --incremental",
    "backup .",
    "optimize",
    "doctor",
)

PROGRESS = re.compile(r"([a-z, ]+(: \d+ %)?, \d+ s\n)*")
"""What a tool says on standard error, where that is no terminal, when it takes some seconds."""

# Moves an amount between two tables in each transaction, and reads both. On a line with a number of
# seconds it says what it has measured since the last one: when they have passed, and something of
# each kind has been done since (at once for 0).
LOAD = """
import json, random, time
MOVE = [
    Query("take", "UPDATE one SET n = n - :n WHERE id = :id"),
    Query("give", "UPDATE two SET n = n + :n WHERE id = :id"),
]
READ = Query("read", "SELECT length(x), (SELECT n FROM one WHERE id = 1) FROM big WHERE id = :id")

async def main():
    figures = {"read": [], "write": []}
    async with Database(path, config=Config(readers=2, busy_timeout=BUSY)) as db:
        async def load(kind, call):
            while True:
                began = time.perf_counter()
                await call()
                figures[kind].append(time.perf_counter() - began)
                await asyncio.sleep(0.001)

        def write():
            n, id = random.randint(1, 9), random.randint(1, 100)
            return db.execute_batch([query(n=n, id=id) for query in MOVE])

        def read():
            return db.fetch_one(READ(id=2 * random.randint(1, ROWS // 2 - 1)))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load("read", read)) for _ in range(4)]
            tasks += [group.create_task(load("write", write)) for _ in range(2)]
            print("ready", flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                seconds = float(line)
                await asyncio.sleep(seconds)
                while seconds and not all(figures.values()):
                    await asyncio.sleep(0.001)
                told = {}
                for kind, times in figures.items():
                    times.sort()
                    told[kind] = [len(times), *(
                        round(1000 * times[int(len(times) * share)], 1) if times else 0
                        for share in (0.5, 0.99, 0.999999)
                    )]
                    times.clear()
                print(json.dumps(told), flush=True)
            for task in tasks:
                task.cancel()
    print("fine")

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database, without free pages; in WAL mode."""
    path = tmp_path_factory.mktemp("made") / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA synchronous = off")
        for table in "one (id INTEGER PRIMARY KEY, n)", "two (id INTEGER PRIMARY KEY, n)":
            db.execute(f"CREATE TABLE {table}")
        db.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, name, x)")
        db.execute("CREATE INDEX names ON big (name)")
        db.executemany("INSERT INTO one VALUES (?, 0)", ((n,) for n in range(1, 101)))
        db.execute("INSERT INTO two SELECT * FROM one")
        db.executemany(
            "INSERT INTO big VALUES (?, hex(randomblob(8)), randomblob(2000))",
            ((n,) for n in range(1, ROWS)),
        )
        db.commit()
    yield path
    path.unlink()


@contextmanager
def load(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is at work with the database; it must have no error."""
    command = script(f"ROWS, BUSY = {ROWS}, {SOON}\n{LOAD}", engine=False)
    with subprocess.Popen(
        [*command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
            process.stdin.close()
            assert process.stdout.read().endswith("fine\n")
            assert process.wait(SOON) == 0
        finally:
            process.kill()


def measured(process: subprocess.Popen[str], seconds: float) -> dict[str, list[float]]:
    """What the load has noticed since it was last asked, for so many seconds at least."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    told: dict[str, list[float]] = json.loads(process.stdout.readline())
    return told


def test_whoever_works_with_the_database_goes_on_without_an_error(
    made: Path, tmp_path: Path
) -> None:
    """fault 54: everyone waits or goes on; and what is found in the end is whole."""
    path = tmp_path / "app.db"
    shutil.copy(made, path)
    with load(path) as process:
        for number, tool in enumerate(TOOLS if LONG else IN_THE_GATE):
            if tool.startswith("vacuum"):
                ask(path, f"DELETE FROM big WHERE id * 16 / {ROWS} = {number}")
            measured(process, 0)
            figures = {"before": measured(process, PHASE)}
            done = run(path, tool)
            assert done.returncode == 0 and PROGRESS.fullmatch(done.stderr), (tool, done)
            figures["during"] = measured(process, PHASE / 5)  # with the writes that it has held up
            figures["after"] = measured(process, PHASE)
            if tool.startswith("vacuum --incremental"):
                told = json.loads(done.stdout)
                assert told["before"] - told["after"] > ROWS * 2000 / 20
            if LONG:
                show(path, tool, figures, done)
            for left in [*tmp_path.glob("into.db*"), *tmp_path.glob("app-*")]:
                if left.suffix == ".db":
                    assert ask(left, SUMS) == [(0,)]
                left.unlink()
        if LONG:
            refused = run(path, f"restore {made}")
            assert refused.returncode == 1
            assert f"is in use (process {process.pid})" in refused.stderr
    assert ask(path, SUMS) == [(0,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


def run(path: Path, tool: str) -> subprocess.CompletedProcess[str]:
    """Run a command about the database, in its directory."""
    command = [str(Path(sys.executable).with_name("abt-db")), *tool.split(), "--json"]
    environment = {**os.environ, "ABT_DB": str(path)}
    return subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True)


def ask(path: Path, sql: str) -> list[tuple[int | str, ...]]:
    with closing(sqlite3.connect(path, timeout=SOON)) as db, db:
        return db.execute(sql).fetchall()


def show(
    path: Path,
    tool: str,
    figures: dict[str, dict[str, list[float]]],
    done: subprocess.CompletedProcess[str],
) -> None:
    log = path.with_name("app.db-wal").stat().st_size
    print(f"\n{tool}: {done.stdout.strip()[:150]}")
    print(f"  the log has {log / 1e6:.0f} MB, the database {path.stat().st_size / 1e6:.0f} MB")
    for when, kinds in figures.items():
        for kind, (number, p50, p99, slowest) in kinds.items():
            print(
                f"  {when:6} {number:7,} {kind}s: {p50:4.1f} ms, p99 {p99:6.1f} ms,"
                f" {slowest:7,.1f} ms at most"
            )


SUMS = "SELECT (SELECT sum(n) FROM one) + (SELECT sum(n) FROM two)"
