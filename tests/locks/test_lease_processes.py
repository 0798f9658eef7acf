"""Leases among real processes: that work, die, are stopped, and have their clock set.

``ABT_DB_LONG=1 pytest -s tests/locks/test_lease_processes.py`` counts to 80,000.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import pytest
from support.engine import script
from support.suite import HANG, SOON

from abt_db import Config, Database, LocalLocks, LockTimeoutError, Query
from abt_db.locks.table import LOCKS_TABLE, milliseconds
from abt_db.maintenance import clear_locks

LONG = bool(os.environ.get("ABT_DB_LONG"))
PROCESSES = 8
EACH = 10_000 if LONG else 40

CREATE = Query("counter.create", "CREATE TABLE counter (value INTEGER)")
START = Query("counter.start", "INSERT INTO counter (value) VALUES (0)")
VALUE = Query("counter.value", "SELECT value FROM counter", int)
ADD_TEN = Query("counter.add_ten", "UPDATE counter SET value = value + 10")
UNTIL = Query("until", "SELECT json_extract(lock_holder, '$.until') FROM distributed_locks", int)
HOLDERS = Query(
    "holders",
    "SELECT resource_id, lock_holder, acquired_at, token FROM distributed_locks"
    " WHERE lock_holder IS NOT NULL ORDER BY 1",
)
TOKEN = Query("token", "SELECT token FROM distributed_locks", int)

QUERIES = """
VALUE = Query("counter.value", "SELECT value FROM counter", int)
SET = Query("counter.set", "UPDATE counter SET value = :value")
def say(*words):
    print(*words, flush=True)
async def told():
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
"""


class Process:
    """Another Python program, which is told and tells lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, code: str, *arguments: object, **environment: str) -> Process:
        command = script("", engine=False)[:-1]
        return cls(
            await asyncio.create_subprocess_exec(
                *command,
                script(QUERIES, engine=False)[-1] + code,
                *map(str, arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **environment},
            )
        )

    async def says(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(HANG):
            return (await self._process.stdout.readline()).decode().strip()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def started(*processes: Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for process in processes:
            await process.end()


@asynccontextmanager
async def counting(path: Path) -> AsyncIterator[Database]:
    async with Database(path, config=Config(readers=1)) as db:
        await db.execute_batch([LOCKS_TABLE(), CREATE(), START()])
        yield db


COUNTING = """
import mmap, struct
board, number, times = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
async def main():
    with open(board, "r+b") as file, mmap.mmap(file.fileno(), 0) as counts:
        await count(counts)

async def count(counts):
    async with Database(path, config=Config(readers=1)) as db:
        say("ready")
        await told()
        for done in range(times):
            async with db.lock("counter", timeout=600) as lease:
                value = await db.fetch_one(VALUE())
                await asyncio.sleep(0.001)
                async with db.transaction(lease=lease) as tx:
                    await tx.execute(SET(value=value + 1))
            struct.pack_into("q", counts, 8 * number, done + 1)
        say(*struct.unpack("8q", counts))
asyncio.run(main())
"""


async def count_together(path: Path) -> list[int]:
    """Have all processes count, from the same moment on; return how far each was when the first of
    them was at its end."""
    board = path.with_name("board")
    board.write_bytes(bytes(8 * PROCESSES))
    async with counting(path) as db:
        processes = await asyncio.gather(
            *(Process.start(COUNTING, path, board, number, EACH) for number in range(PROCESSES))
        )
        async with started(*processes):
            for process in processes:
                assert await process.says() == "ready"
            for process in processes:
                process.tell("go")
            told = [[int(n) for n in (await process.says()).split()] for process in processes]
        assert await db.fetch_one(VALUE()) == PROCESSES * EACH
        assert await db.fetch_one(TOKEN()) == PROCESSES * EACH
        return min(told, key=sum)


def test_eight_processes_count_together(path: Path) -> None:
    """Each reads, sleeps and writes under a lease: nothing is lost, and nobody starves."""
    began = perf_counter()
    first = asyncio.run(count_together(path))  # the long form takes longer than tests may
    seconds = perf_counter() - began
    print(
        f"\n{PROCESSES} processes counted to {PROCESSES * EACH:,} under a lease in {seconds:.1f} s:"
        f" {PROCESSES * EACH / seconds:.0f} a second; at the end of the first the others were at"
        f" {first}"
    )
    assert min(first) * (4 if LONG else 30) > EACH  # in a short run chance has its share


HOLDING = """
async def main():
    async with Database(path, config=Config(readers=1)) as db:
        try:
            async with db.lock("a", ttl=float(sys.argv[2])) as lease:
                transaction = db.transaction(lease=lease)
                value = await db.fetch_one(VALUE())
                say(lease.token)
                await told()
                async with transaction as tx:
                    await tx.execute(SET(value=value + 1))
                say("written")
        except LockLostError:
            say("refused, knowing that it is", "lost" if await lease.lost else "held")
asyncio.run(main())
"""

ASKING = """
from datetime import datetime, UTC
async def main():
    async with Database(path, config=Config(readers=1)) as db:
        say(datetime.now(UTC).isoformat())
        try:
            async with db.lock("a", timeout=float(sys.argv[2])) as lease:
                say("had", lease.token)
        except LockTimeoutError:
            say("refused", datetime.now(UTC).isoformat())
asyncio.run(main())
"""


class TestAHolder:
    """Dead or asleep, it keeps the lock until its lease has run out, and no longer."""

    async def test_that_was_killed_is_followed_by_a_larger_token(self, path: Path) -> None:
        """fault 73"""
        async with counting(path) as db:
            holder = await Process.start(HOLDING, path, 1)
            async with started(holder):
                assert await holder.says() == "1"
                holder.signal(signal.SIGKILL)
                until = await db.fetch_one(UNTIL())
                async with db.lock("a", timeout=SOON) as lease:
                    assert until is not None and milliseconds() >= until
                    assert lease.token == 2

    async def test_that_was_stopped_and_comes_back_writes_nothing(self, path: Path) -> None:
        """fault 74: it made its transaction, and read what it wants to write, when it held."""
        async with counting(path) as db:
            holder = await Process.start(HOLDING, path, 3)
            async with started(holder):
                assert await holder.says() == "1"
                holder.signal(signal.SIGSTOP)
                holder.tell("write")
                async with db.lock("a", timeout=SOON) as lease:
                    async with db.transaction(lease=lease) as tx:
                        await tx.execute(ADD_TEN())
                    holder.signal(signal.SIGCONT)
                    assert await holder.says() == "refused, knowing that it is lost"
                    lease.check()
                assert await db.fetch_one(VALUE()) == 10


class TestClearing:
    """Rows of dead holders go, those of living ones stay, and no token is given twice."""

    async def test_beside_living_and_dead_processes(self, path: Path) -> None:
        async with counting(path) as db:
            living = await Process.start(HOLDING, path, 600)
            async with started(living):
                assert await living.says() == "1"
                tokens = [0]
                for _ in range(3):
                    dying = await Process.start(HOLDING.replace('"a"', '"b"'), path, 0.5)
                    async with started(dying):
                        tokens.append(int(await dying.says()))
                        dying.signal(signal.SIGKILL)
                        async with asyncio.timeout(SOON):
                            while await db.lock_info("b") is not None:  # noqa: ASYNC110 (a file)
                                await asyncio.sleep(0.01)
                    before = await db.fetch_all(HOLDERS())
                    assert await clear_locks(db) == 1
                    assert await db.fetch_all(HOLDERS()) == [row for row in before if row[0] == "a"]
                async with db.lock("b", timeout=0) as lease:
                    tokens.append(lease.token)
                assert tokens == sorted({*tokens})
                living.tell("write")
                assert await living.says() == "written"


def libfaketime() -> Path:
    """The library that sets the clock of a process, https://github.com/wolfcw/libfaketime."""
    for folder in Path("/usr/lib"), Path("/usr/local/lib"):
        for found in sorted(folder.glob("**/libfaketime.so.1")):
            return found
    pytest.skip(
        "libfaketime is not installed (Debian: faketime); test_leases.py sets the clock too"
    )


class AClock:
    """The wall clock of a process, which can be set. Its monotonic one can't, as nobody's can."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set("+0")

    def set(self, offset: str) -> None:
        self._file.write_text(offset)


class TestAClockThatJumps:
    """fault 75: by an hour, in one process: never is the lock granted to a second one."""

    async def test_of_who_asks(self, path: Path, tmp_path: Path) -> None:
        clock = AClock(tmp_path / "clock")
        async with counting(path) as db, db.lock("a", ttl=60) as lease:
            asking = await Process.start(ASKING, path, 1, **clock.environment)
            async with started(asking):
                before = datetime.fromisoformat(await asking.says())
                clock.set("+1h")
                answer, after = (await asking.says()).split()
            jumped = datetime.fromisoformat(after) - before
            assert timedelta(hours=1) < jumped < timedelta(hours=2)
            assert answer == "refused"
            lease.check()

    @pytest.mark.parametrize("offset", ["+1h", "-1h"])
    async def test_of_who_holds(self, path: Path, tmp_path: Path, offset: str) -> None:
        clock = AClock(tmp_path / "clock")
        async with counting(path) as db:
            holder = await Process.start(HOLDING, path, 4, **clock.environment)
            async with started(holder):
                assert await holder.says() == "1"
                clock.set(offset)
                before = await db.lock_info("a")
                assert before is not None
                # Longer than the ttl: it is renewed, by a clock that has jumped.
                with pytest.raises(LockTimeoutError):
                    await db.lock("a", timeout=5).__aenter__()
                info = await db.lock_info("a")
                assert info is not None
                assert (info.token, info.until > before.until) == (1, True)
                wrong = abs(info.expires_at - datetime.now(UTC))
                assert timedelta(minutes=50) < wrong
                holder.tell("write")
                assert await holder.says() == "written"
                async with db.lock("a", timeout=SOON) as lease:
                    assert lease.token == 2
                    assert await db.fetch_one(VALUE()) == 1


async def test_what_a_lock_costs(path: Path) -> None:
    """Measured, for ``pytest -s``: what is held here is only that it can be measured."""
    count = 1000 if LONG else 100
    locks = LocalLocks()
    began = perf_counter()
    for _ in range(count * 10):
        async with locks.lock("a"):
            pass
    local = (perf_counter() - began) / (count * 10)
    async with counting(path) as db:
        began = perf_counter()
        for _ in range(count):
            await db.execute(ADD_TEN())
        write = (perf_counter() - began) / count
        began = perf_counter()
        for _ in range(count):
            async with db.lock("a"):
                pass
        lease = (perf_counter() - began) / count
        assert await db.fetch_one(TOKEN()) == count
    print(
        f"\nA local lock: {local * 1e6:.1f} µs; a lease, had and released: {lease * 1e6:.0f} µs;"
        f" for comparison, one committed write: {write * 1e6:.0f} µs"
    )
