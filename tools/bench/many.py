"""P5 and P7: many rows at once."""

from __future__ import annotations

from itertools import chain
from time import perf_counter

from .sample import BUILDS_ROWS, WrongWorkError, metric
from .systems import Fetches, Imports
from .trial import Measures, Trial


async def fetch(trial: Trial) -> Measures:
    """P5: 10,000 rows of ten columns."""
    assert isinstance(trial.system, Fetches)
    await trial.system.builds()
    began = perf_counter()
    rows = await trial.system.builds()
    seconds = perf_counter() - began
    for number in (0, BUILDS_ROWS - 1):
        row = rows[number]
        if (row[0] if isinstance(row, tuple) else row.id) != number + 1:
            raise WrongWorkError("fetched other rows than the database has")
    if len(rows) != BUILDS_ROWS:
        raise WrongWorkError(f"fetched {len(rows):,} rows of {BUILDS_ROWS:,}")
    return {"rows per second": len(rows) / seconds}


async def bulk(trial: Trial) -> Measures:
    """P7: many rows in one transaction."""
    assert isinstance(trial.system, Imports)
    pilot = list(map(metric, range(1_000)))
    began = perf_counter()
    await trial.system.insert_many(pilot)
    affordable = 1_000 * trial.size.seconds * 5 / (perf_counter() - began)
    count = trial.memory.setdefault("rows", int(max(1_000, min(trial.size.bulk, affordable))))
    rows = list(map(metric, range(count)))
    began = perf_counter()
    await trial.system.insert_many(rows)
    seconds = perf_counter() - began
    for number in chain(range(1_000), range(count)):
        trial.ledger.add(number)
    return {"rows per second": count / seconds, "rows": count}
