"""For the tests of applications that bring migrations: are they right both ways, with rows inside?

from abt_db.migrations import load_migrations
from abt_db.testing import assert_round_trips

def test_migrations() -> None:
    assert_round_trips(load_migrations("schema"))
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from abt_db.config import Config
from abt_db.database import Database
from abt_db.migrations import Level, Migration, Migrator, Reversibility, schema, seed, trial

__all__ = ["assert_round_trips"]

_GOOD = (Reversibility.EXACT, Reversibility.ORDER_ONLY, Reversibility.STRUCTURAL)


def assert_round_trips(
    migrations: Iterable[Migration],
    *,
    rows: int = 3,
    seed: int = 0,
    walks: int = 5,
    allow: Collection[int] = (),
) -> None:
    """Raise `AssertionError` if a migration can't be taken back, or breaks where there are rows.

    Everything happens in memory. First each step goes up, down and up again with `rows` made-up
    rows in every table: the schema and the rows have to come back as they were. A step fails that
    needs empty tables, that loses rows which it does not name, or an index or trigger of a table
    that it builds again. Then the whole chain is walked up and down to `walks` places, and each has
    to look the same whenever it is reached. `seed` chooses other rows and places. The versions in
    `allow` may be lossy, irreversible, or without a down script.

    May be called from any test, also where an event loop runs; blocks until it is done.
    """
    chain = list(migrations)
    with ThreadPoolExecutor(1, thread_name_prefix="abt_db round trips") as thread:
        thread.submit(asyncio.run, _check(chain, rows, seed, walks, frozenset(allow))).result()


async def _check(
    chain: list[Migration], rows: int, number: int, walks: int, allow: frozenset[int]
) -> None:
    problems = []
    for tried in await trial.try_out(chain, rows=rows, number=number):
        if tried.version in allow:
            continue
        told = [str(each) for each in tried.findings if each.level is not Level.NOTE]
        if tried.error is not None:
            told.append(f"it fails: {tried.error}")
        elif tried.reversibility not in _GOOD:
            told.append(f"{tried.reversibility.value}: {tried.reason}")
        problems += [f"migration {tried.version} ({tried.description}): {each}" for each in told]
    if not problems:
        problems = await _walk(chain, rows, number, walks, allow)
    assert not problems, "\n".join(problems)


async def _walk(
    chain: list[Migration], rows: int, number: int, walks: int, allow: frozenset[int]
) -> list[str]:
    """Go up and down the chain with rows inside, and hold each place against what it was before."""
    chance = random.Random(number)
    problems = []
    async with Database(":memory:", config=Config(cache_size=4 * 1024 * 1024)) as db:
        migrator = Migrator(db, chain)
        versions = [0, *(migration.version for migration in migrator.migrations)]
        # What can't be taken back is where each walk turns round.
        stuck = [versions.index(m.version) for m in chain if m.down is None or m.version in allow]
        lowest = max(stuck, default=0)
        seen: dict[int, schema.Schema] = {}
        here = 0
        for _ in range(walks):
            for there in (len(versions) - 1, chance.randint(lowest, len(versions) - 1)):
                # One step at a time: rows refer to those that were there when they were made, and
                # so to none that is taken back before them.
                for version in versions[here + 1 : there + 1]:
                    await migrator.up(version)
                    await db.write(seed.seed, rows, number=number)
                await migrator.down(versions[there], allow_data_loss=True)
                here = there
                found = await db.read(schema.snapshot)
                _, differences = schema.compare(seen.setdefault(here, found), found)
                problems += [
                    f"at version {versions[here]}, reached another time: {each}"
                    for each in differences
                    if each.likeness is schema.Likeness.DIFFERENT
                ]
    return problems
