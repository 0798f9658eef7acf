"""Looking after a database that is in use.

- `vacuum` makes the file smaller, `vacuum_step_by_step` so that nobody waits, `vacuum_into` makes a
  compact copy; `Database.checkpoint` moves pages out of the write-ahead log;
- `backup` and `restore`;
- `optimize`, `analyze` and `reindex` keep queries quick, `check` looks for damage.
"""

from abt_db.copying import vacuum_into
from abt_db.upkeep import Health

from .backup import Backup, backup
from .care import analyze, check, optimize, reindex
from .restore import Restored, restore
from .vacuum import Vacuumed, vacuum, vacuum_step_by_step

__all__ = [
    "Backup",
    "Health",
    "Restored",
    "Vacuumed",
    "analyze",
    "backup",
    "check",
    "optimize",
    "reindex",
    "restore",
    "vacuum",
    "vacuum_into",
    "vacuum_step_by_step",
]
