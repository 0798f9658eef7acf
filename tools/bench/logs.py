"""P10: log lines into the schema of the build database, in batches of 1,000."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

from abt_db.builds import BuildStore, Level, Stream, queries
from abt_db.builds.output import Line

from .sample import Tuned, WrongWorkError
from .systems import LIMIT
from .trial import Measures, Trial

BATCH = 1_000

_START = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
_LINES = [
    (
        Line(
            stream=Stream.STDOUT,
            at=_START + timedelta(milliseconds=number),
            message=f"> Task :module{number}:compileReleaseKotlin is up to date, nothing to do",
            raw=None,
        ),
        Level.WARNING if number % 50 == 0 else Level.INFO,
        "compile",
    )
    for number in range(BATCH)
]


async def append(trial: Trial) -> Measures:
    """Append the same lines again and again, by `logs.append` or in a plain loop."""
    path = trial.path.with_name("builds.db")
    async with await BuildStore.open(path) as store:
        project = await store.projects.ensure(
            "app", project_type="gradle", repository_url="", local_path=""
        )
        build = (await store.builds.start(project.id)).id
        if trial.name != LIMIT:
            await store.logs.append(build, _LINES)
            began = perf_counter()
            for _ in range(trial.size.batches):
                await store.logs.append(build, _LINES)
            seconds = perf_counter() - began
    if trial.name == LIMIT:
        seconds = _plain(path, build, trial.size.batches)
    with closing(sqlite3.connect(path)) as db:
        [(lines, last)] = db.execute("SELECT count(*), max(sequence_number) FROM build_logs")
    if lines != last or lines != BATCH * (trial.size.batches + 1):
        raise WrongWorkError(
            f"wrote {BATCH * (trial.size.batches + 1):,} lines, {lines:,} are there"
        )
    return {"lines per second": trial.size.batches * BATCH / seconds}


def _plain(path: Path, build: int, batches: int) -> float:
    """The limit: `executemany` of the same lines, as a plain script would write it."""
    with closing(sqlite3.connect(path, factory=Tuned)) as db:
        for number in range(batches + 1):
            if number == 1:
                began = perf_counter()
            [(last,)] = db.execute(queries.LAST_LINE.sql, {"build_id": build})
            db.executemany(
                queries.ADD_LINE.sql,
                (
                    {
                        "build_id": build,
                        "sequence_number": sequence,
                        "level": level.value,
                        "timestamp": line.at.isoformat(timespec="milliseconds"),
                        "message": line.message,
                        "source": source,
                        "stream": line.stream.value,
                        "raw": line.raw,
                    }
                    for sequence, (line, level, source) in enumerate(_LINES, last + 1)
                ),
            )
            db.commit()
        return perf_counter() - began
