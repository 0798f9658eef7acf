"""Migrations: versioned SQL scripts, and the engine that applies them.

script    splits a script into statements, where SQLite would
model     `Migration`, one step, and the order of several
loader    `load_migrations`, from a directory or a package
schema    the schema of a database as a value: compared, fingerprinted, dumped
history   the table `migration_history`
chain     migrations in their order, held against a history
runner    runs a script in one transaction, or unit by unit
guard     lost rows and violated foreign keys
step      one step, up or down, decided inside its transaction
engine    `Migrator`, which has the verbs
"""

from .chain import Status
from .engine import Migrator
from .guard import MigrationLossError
from .history import Record, Reversibility
from .loader import load_migrations
from .model import Migration, MigrationFileError, MigrationOrderError
from .script import ScriptError
from .step import Progress

__all__ = [
    "Migration",
    "MigrationFileError",
    "MigrationLossError",
    "MigrationOrderError",
    "Migrator",
    "Progress",
    "Record",
    "Reversibility",
    "ScriptError",
    "Status",
    "load_migrations",
]
