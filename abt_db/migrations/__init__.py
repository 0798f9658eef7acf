"""Migrations: versioned SQL scripts, and the engine that applies them.

script    splits a script into statements, where SQLite would
model     `Migration`, one step, and the order of several
loader    `load_migrations`, from a directory or a package
history   the table `migration_history`
engine    `Migrator`: status, up, down
"""

from .engine import Migrator, Status
from .history import Record
from .loader import load_migrations
from .model import Migration, MigrationFileError, MigrationOrderError
from .script import ScriptError

__all__ = [
    "Migration",
    "MigrationFileError",
    "MigrationOrderError",
    "Migrator",
    "Record",
    "ScriptError",
    "Status",
    "load_migrations",
]
