"""P10: all of rbtlog into the build database, by the importer and by a plain script."""

from __future__ import annotations

import json
import lzma
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter

from abt_db.builds import BuildStore, Level
from abt_db.builds.classify import Classifier

from .sample import Tuned, WrongWorkError
from .systems import LIMIT
from .trial import Measures, SkippedError, Trial

RBTLOG = Path(os.environ.get("ABT_DB_RBTLOG", "../shared/data/rbtlog"))
BUILDS = 21
"""Builds that are imported for each of `Size.batches`: with 30 of them all 627."""


async def load(trial: Trial) -> Measures:
    """Import builds of rbtlog into a new database, or write the same rows in a plain loop."""
    source = RBTLOG / "builds.jsonl.xz"
    if not source.exists():
        raise SkippedError(f"there is no {source}; ABT_DB_RBTLOG names another folder")
    file, path = trial.path.with_name("builds.jsonl"), trial.path.with_name("builds.db")
    with lzma.open(source) as lines:
        file.write_bytes(b"".join(islice(lines, trial.size.batches * BUILDS)))
    async with await BuildStore.open(path) as store:
        if trial.name != LIMIT:
            began = perf_counter()
            await store.import_file(file)
            seconds = perf_counter() - began
    measures = {}
    if trial.name == LIMIT:
        # For those who want to know what the levels cost: first without, in a copy.
        with closing(sqlite3.connect(path)) as db:
            db.execute("VACUUM INTO ?", [f"{path}-untold"])
        measures["seconds, levels not told"] = _plain(Path(f"{path}-untold"), file, levels=False)
        seconds = _plain(path, file, levels=True)
    with closing(sqlite3.connect(path)) as db:
        [(rows, size)] = db.execute("SELECT count(*), sum(length(message)) FROM build_logs")
    logs = [json.loads(line)["build_log"].split("\n") for line in file.read_bytes().splitlines()]
    if (rows, size) != (sum(map(len, logs)), sum(len(line) for log in logs for line in log)):
        raise WrongWorkError("imported other lines than the file has")
    return {"lines per second": rows / seconds, "seconds": seconds, **measures}


def _plain(path: Path, file: Path, *, levels: bool) -> float:
    """The limit: the same rows by `executemany`, as a plain script would write them."""
    began = perf_counter()
    with closing(sqlite3.connect(path, factory=Tuned)) as db, file.open("rb") as lines:
        for line in lines:
            build = json.loads(line)
            log = build.pop("build_log").split("\n")
            started = datetime.fromtimestamp(build["timestamp"], UTC)
            completed = started + timedelta(seconds=build["gradle_seconds"])
            at = started.isoformat(timespec="milliseconds")
            db.execute(_PROJECT, [build["appid"]])
            [(id,)] = db.execute(
                _BUILD,
                [
                    "failed" if build["error"] else "success",
                    at,
                    completed.isoformat(timespec="milliseconds"),
                    build["gradle_seconds"],
                    build["commit"],
                    build["exit_code"],
                    json.dumps({"rbtlog": build}),
                    build["appid"],
                ],
            )
            classify = Classifier().classify if levels else _untold
            db.executemany(
                _LINE,
                (
                    (id, number, level.value, at, message, source)
                    for number, message in enumerate(log, 1)
                    for level, source in (classify(message),)
                ),
            )
            db.commit()
    return perf_counter() - began


def _untold(_message: str) -> tuple[Level, None]:
    return Level.INFO, None


_PROJECT = """
    INSERT INTO projects (name, project_type, repository_url, local_path)
    VALUES (?, 'android', '', '') ON CONFLICT DO NOTHING
"""
_BUILD = """
    INSERT INTO builds (project_id, build_number, status, started_at, completed_at,
        duration_seconds, commit_hash, exit_code, build_metadata)
    SELECT projects.id, coalesce(max(build_number), 0) + 1, ?, ?, ?, ?, ?, ?, ?
    FROM projects LEFT JOIN builds ON project_id = projects.id WHERE name = ?
    RETURNING id
"""
_LINE = """
    INSERT INTO build_logs (build_id, sequence_number, level, timestamp, message, source)
    VALUES (?, ?, ?, ?, ?, ?)
"""
