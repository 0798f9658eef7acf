"""Migrations: versioned SQL scripts, and the engine that applies them.

script    splits a script into statements, where SQLite would
model     `Migration`, one step, and the order of several
loader    `load_migrations`, from a directory or a package
schema    the schema of a database as a value: compared, fingerprinted, dumped
history   the table `migration_history`
chain     migrations in their order, held against a history
guard     lost rows and violated foreign keys
runner    runs a script in one transaction, or unit by unit
progress  what it tells of its work
step      one step, up or down, decided inside its transaction
copying   a copy of a database that is in use
engine    what applies steps and takes them back
lint      what the text of a script tells
scaffold  a new pair of files
seed      made-up rows
trial     steps tried in memory, and a round trip of one step
planner   what would be done
rehearsal the same on a copy of the real database
migrator  `Migrator`, which has all the verbs
"""

from typing import TYPE_CHECKING

from abt_db.lazy import lazily

if TYPE_CHECKING:
    from abt_db.errors import (
        MigrationFileError,
        MigrationLossError,
        MigrationOrderError,
        ScriptError,
    )

    from .chain import Status
    from .guard import Loss
    from .history import Record, Reversibility
    from .lint import Finding, Level
    from .loader import load_migrations
    from .migrator import Drift, Migrator
    from .model import Migration
    from .planner import Plan, PlannedStep, Validation
    from .progress import Progress
    from .rehearsal import Rehearsal
    from .scaffold import new_migration
    from .schema import Difference, Likeness
    from .seed import Seeded
    from .trial import Trial
else:
    __getattr__, __dir__ = lazily(
        __name__,
        "chain",
        "guard",
        "history",
        "lint",
        "loader",
        "migrator",
        "model",
        "planner",
        "progress",
        "rehearsal",
        "scaffold",
        "schema",
        "script",
        "seed",
        "trial",
    )

__all__ = [
    "Difference",
    "Drift",
    "Finding",
    "Level",
    "Likeness",
    "Loss",
    "Migration",
    "MigrationFileError",
    "MigrationLossError",
    "MigrationOrderError",
    "Migrator",
    "Plan",
    "PlannedStep",
    "Progress",
    "Record",
    "Rehearsal",
    "Reversibility",
    "ScriptError",
    "Seeded",
    "Status",
    "Trial",
    "Validation",
    "load_migrations",
    "new_migration",
]
