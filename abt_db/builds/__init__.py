"""The build database of an Android build tool: projects, builds and every line of their logs.

output        what a command prints: chunks, lines, and the lines' exact bytes
classify      the level and the source of a line, told by its text
spool         output that waits to be stored, in memory and then on disk
pump, usage   reading a command's output; what its processes use
command       running a command with all its processes
holder        which process records a build
models        the rows, as dataclasses
queries       the SQL
projects, builds, logs  what can be done with the rows of each table
recorder      `Recorder`: a command's output, stored as it runs
history, rbtlog     what a history file holds, and what the files of rbtlog hold
importer, exporter  from such files into the database, and back
store         `BuildStore`: the database, opened and migrated
"""

from .classify import Level
from .command import CommandError, Outcome, StopReason
from .exporter import ExportReport
from .importer import BadLine, ImportReport
from .models import Build, BuildStatus, BuildSummary, LogLine, Project, ProjectSummary
from .output import Stream
from .recorder import Recorder
from .store import BuildStore

__all__ = [
    "BadLine",
    "Build",
    "BuildStatus",
    "BuildStore",
    "BuildSummary",
    "CommandError",
    "ExportReport",
    "ImportReport",
    "Level",
    "LogLine",
    "Outcome",
    "Project",
    "ProjectSummary",
    "Recorder",
    "StopReason",
    "Stream",
]
