"""Two hundred times killed at any moment: the history tells the truth, and `up` finishes."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.engine import Driver, Gate
from test_migration_crashes import FREE_ROWS, Faults, Processes, family, free_family, migrated
from test_migrations import SMALL, applied, ask, foreign_keys, replayed, state

from abt_db import AbtDbError, Database
from abt_db.migrations import Migrator

ROWS = 400
STATES = replayed(family(ROWS))
KILLS = 200


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    others = Processes(tmp_path_factory.mktemp("others") / "stderr")
    yield others
    others.end()


def killed(processes: Processes, folder: Path, *, free: bool) -> Iterator[Path]:
    """Let a process migrate a new file and kill it, until that has come in time KILLS times."""
    chance = random.Random(63)
    seconds = min(processes.run(folder / f"whole{n}.db", rows=ROWS, free=free)[1] for n in range(3))
    kills = 0
    for number in range(3 * KILLS):
        path = folder / f"{number}.db"
        after = chance.uniform(0.2, 1.0) * seconds
        codes, _ = processes.run(path, rows=ROWS, free=free, kill_after=after)
        yield path
        path.unlink(missing_ok=True)
        kills += codes == [-signal.SIGKILL]
        if kills == KILLS:
            return
    raise AssertionError(f"only {kills} were killed in time")


class TestTwoHundredKills:
    """SIGKILL at random moments (M1; fault 63)."""

    @pytest.mark.large
    async def test_of_steps_in_transactions(self, tmp_path: Path, processes: Processes) -> None:
        places: Counter[int] = Counter()
        for path in killed(processes, tmp_path, free=False):
            done = applied(path)
            assert done == [1, 2, 3][: len(done)]
            assert state(path) == STATES[len(done)]
            assert len(await migrated(path, family(ROWS))) == 3 - len(done)
            assert state(path) == STATES[3]
            places[len(done)] += 1
        assert len(places) >= 3, places

    @pytest.mark.large
    async def test_of_a_step_outside_of_transactions(
        self, tmp_path: Path, processes: Processes
    ) -> None:
        places: Counter[int] = Counter()
        for path in killed(processes, tmp_path, free=True):
            done = statements_done(path)
            if done:
                assert ask(path, "SELECT count(*) FROM parents") == [(FREE_ROWS[done - 1] * ROWS,)]
            assert len(await migrated(path, free_family(ROWS))) == (done < len(FREE_ROWS))
            assert ask(path, "SELECT count(*) FROM parents") == [(5 * ROWS,)]
            assert ask(path, "PRAGMA integrity_check") == [("ok",)]
            assert statements_done(path) == len(FREE_ROWS)
            places[done] += 1
        assert len(places) >= 4, places


class TestAtOnce:
    """Eight processes at once: each statement is applied by one of them, and all exit well (M2)."""

    def test_of_a_step_outside_of_transactions(self, tmp_path: Path, processes: Processes) -> None:
        for again in range(3):
            path = tmp_path / f"{again}.db"
            taken, _ = processes.run(path, rows=ROWS, free=True, processes=8)
            assert sorted(taken) == [0] * 7 + [1]
            assert ask(path, "SELECT count(*) FROM parents") == [(5 * ROWS,)]
            assert statements_done(path) == len(FREE_ROWS)


class TestFaults:
    """Whichever statement fails, of the step or of the engine, and wherever it is cancelled: the
    history tells the truth, and `up` finishes (M1, M3)."""

    async def finishes(self, path: Path, db: Database, where: str) -> None:
        done = statements_done(path)
        if done:
            rows = ask(path, "SELECT count(*) FROM parents")
            assert rows == [(FREE_ROWS[done - 1] * 3,)], where
        await Migrator(db, free_family(3)).up()
        assert await foreign_keys(db) == 1, where
        assert ask(path, "SELECT count(*) FROM parents") == [(5 * 3,)], where
        assert statements_done(path) == len(FREE_ROWS), where

    @pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
    async def test_one_statement_fails_and_then_the_next(
        self, tmp_path: Path, lasting: bool
    ) -> None:
        for number in count(step=3):
            path = tmp_path / f"{number}.db"
            driver = Driver()
            async with Database(path, config=SMALL, connect=driver.connect) as db:
                faults = Faults(driver, number, lasting=lasting)
                try:
                    await Migrator(db, free_family(3)).up()
                except AbtDbError as error:
                    assert faults.failed, error
                faults.end()
                await self.finishes(path, db, f"statement {number}: {faults.failed[:1]}")
            if not faults.failed:
                break
        assert number > 100

    async def test_cancelled_at_one_statement_and_then_the_next(self, tmp_path: Path) -> None:
        for number in count(step=5):
            path = tmp_path / f"{number}.db"
            driver = Driver()
            async with Database(path, config=SMALL, connect=driver.connect) as db:
                gate = Gate(driver)
                gate.stop_at_number(number)
                task = asyncio.create_task(Migrator(db, free_family(3)).up())
                reached = asyncio.create_task(gate.reached.wait())
                await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
                fell = not task.done()
                task.cancel()
                gate.open()
                await asyncio.wait([task])
                reached.cancel()
                await self.finishes(path, db, f"statement {number}")
            if not fell:
                break
        assert number > 100


def statements_done(path: Path) -> int:
    """How many statements the history calls done; all of them when it calls the step applied."""
    if not ask(path, "SELECT 1 FROM sqlite_schema WHERE name = 'migration_history'"):
        return 0
    for success, done in ask(path, "SELECT success, statements_done FROM migration_history"):
        return len(FREE_ROWS) if success else int(done)
    return 0
