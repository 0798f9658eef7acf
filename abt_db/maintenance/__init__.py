"""Looking after a database.

metrics      figures of a database: pages, log, tables and indexes, the pool
prometheus   the same as text that Prometheus reads
processes    which processes read and write a database
file         what the bytes of a file tell before SQLite is asked
indexes      indexes that are not needed, and those that are missing
damage       what of a damaged database can still be read
findings     what the figures say: findings, each with what to do
diagnosis    the doctor, who asks for all of it
examination  the same of a file that is not open here, without a trace
"""

from .diagnosis import Diagnosis, diagnose
from .examination import examine, measure
from .file import DatabaseFile, Log, look_at
from .findings import Finding, Severity, command
from .metrics import IndexFigures, Metrics, TableFigures, metrics, readable
from .processes import Process, processes_of
from .prometheus import prometheus

__all__ = [
    "DatabaseFile",
    "Diagnosis",
    "Finding",
    "IndexFigures",
    "Log",
    "Metrics",
    "Process",
    "Severity",
    "TableFigures",
    "command",
    "diagnose",
    "examine",
    "look_at",
    "measure",
    "metrics",
    "processes_of",
    "prometheus",
    "readable",
]
