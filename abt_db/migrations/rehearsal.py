"""Rehearsing on a copy of the real database: its rows, its size, its drift."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from abt_db.database import Database
from abt_db.files.copying import copy_database

from . import seed
from .engine import Engine
from .history import Record
from .model import Migration
from .planner import oldest_sqlite
from .progress import Progress, Tell
from .seed import Seeded
from .trial import Trial, round_trip


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the pending steps did to a copy of the database, each up, down and up again."""

    steps: tuple[Trial, ...]
    minimum_sqlite: str
    """The oldest SQLite that understands them, as far as that is known."""
    bytes_copied: int
    copy_seconds: float
    seeded: tuple[Seeded, ...] = ()
    """The tables that were empty in the copy and got made-up rows."""
    applied: tuple[Record, ...] = ()
    """What was applied to the real database afterwards."""

    @property
    def passed(self) -> bool:
        """Whether every step could be applied, and again after it was taken back."""
        return all(step.error is None and not step.stuck for step in self.steps)


async def rehearse(
    db: Database,
    migrations: Sequence[Migration],
    target: int | None,
    *,
    rows: int,
    directory: str | os.PathLike[str] | None,
    tell: Tell,
) -> Rehearsal:
    """Copy the database into `directory` and try there what is pending; see `Migrator.rehearse`."""
    with tempfile.TemporaryDirectory(prefix="abt_db-rehearsal-", dir=directory) as folder:
        copy = Path(folder, "copy.db")
        began = monotonic()
        size = await copy_database(
            db.path, copy, lambda done, total: tell(Progress(None, "copying", done, total))
        )
        copied = monotonic() - began
        config = replace(db.config, readers=1, create=False)
        trials: list[Trial] = []
        seeded: dict[str, Seeded] = {}
        async with Database(copy, config=config) as spoilt:
            engine = Engine(spoilt, migrations, progress=tell)
            for migration in await engine.pending_until(target):
                if rows:
                    for each in await spoilt.write(seed.seed, rows):
                        if each.rows or each.problem:
                            seeded[each.table] = each
                trials.append(await round_trip(spoilt, engine, migration))
                if trials[-1].error is not None or trials[-1].stuck:
                    break
    tried = {trial.version for trial in trials}
    return Rehearsal(
        steps=tuple(trials),
        minimum_sqlite=oldest_sqlite(m.up for m in migrations if m.version in tried),
        bytes_copied=size,
        copy_seconds=round(copied, 6),
        seeded=tuple(seeded[name] for name in sorted(seeded)),
    )
