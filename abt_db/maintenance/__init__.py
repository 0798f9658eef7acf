"""Looking after a database, also while it is in use.

vacuum       makes the file smaller, at once or step by step
backup       whole, checked copies in a directory
restore      a backup into the place of a database
care         statistics for the planner, indexes built anew, looks for damage, old rows of locks
metrics      figures of a database: pages, log, tables and indexes, the pool
prometheus   the same as text that Prometheus reads
processes    which processes read and write a database
file         what the bytes of a file tell before SQLite is asked
indexes      indexes that are not needed, and those that are missing
damage       what of a damaged database can still be read
faults       of SQLite's versions
findings     what the figures say: findings, each with what to do
diagnosis    the doctor, who asks for all of it
examination  the same of a file that is not open here, without a trace
"""

from abt_db.files.copying import vacuum_into
from abt_db.housekeeping import Health

from .backup import Backup, backup
from .care import analyze, check, clear_locks, optimize, reindex
from .diagnosis import Diagnosis, diagnose
from .examination import examine, measure
from .file import DatabaseFile, Log, look_at
from .findings import Finding, Severity, command
from .metrics import IndexFigures, Metrics, TableFigures, metrics, readable
from .processes import Process, processes_of
from .prometheus import prometheus
from .restore import Restored, restore
from .vacuum import Vacuumed, change_page_size, vacuum, vacuum_step_by_step

__all__ = [
    "Backup",
    "DatabaseFile",
    "Diagnosis",
    "Finding",
    "Health",
    "IndexFigures",
    "Log",
    "Metrics",
    "Process",
    "Restored",
    "Severity",
    "TableFigures",
    "Vacuumed",
    "analyze",
    "backup",
    "change_page_size",
    "check",
    "clear_locks",
    "command",
    "diagnose",
    "examine",
    "look_at",
    "measure",
    "metrics",
    "optimize",
    "processes_of",
    "prometheus",
    "readable",
    "reindex",
    "restore",
    "vacuum",
    "vacuum_into",
    "vacuum_step_by_step",
]
