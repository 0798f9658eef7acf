"""The build database of an Android build tool: projects, builds and every line of their logs.

output        what a command prints: chunks, lines, and the lines' exact bytes
classify      the level and the source of a line, told by its text
spool         output that waits to be stored, in memory and then on disk
pump, usage   reading a command's output; what its processes use
command       running a command with all its processes
holder        which process records a build
models        the rows, as dataclasses
family        SQL that depends on what the caller chooses
queries       the SQL
words         the words of a search
projects, builds, logs, metrics  what can be done with the rows of each table
named         choices by name, in any case
recorder      `Recorder`: a command's output, stored as it runs
history, rbtlog     what a history file holds, and what the files of rbtlog hold
importer, exporter  from such files into the database, and back
report        a page about how builds have gone
store         `BuildStore`: the database, opened and migrated
"""

from typing import TYPE_CHECKING

from abt_db.lazy import lazily

if TYPE_CHECKING:
    from abt_db.errors import BuildEndedError, CommandError

    from .classify import Level
    from .command import Outcome, StopReason
    from .exporter import ExportReport
    from .importer import BadLine, ImportReport
    from .models import (
        Build,
        BuildPeriod,
        BuildStatistics,
        BuildStatus,
        BuildSummary,
        FlakyCommit,
        LogLine,
        LogMatch,
        Metric,
        MetricPeriod,
        Project,
        ProjectSummary,
        Pruned,
        Sample,
    )
    from .output import Stream
    from .recorder import Recorder
    from .store import BuildStore
else:
    __getattr__, __dir__ = lazily(
        __name__,
        "builds",
        "classify",
        "command",
        "exporter",
        "importer",
        "models",
        "output",
        "recorder",
        "store",
    )

__all__ = [
    "BadLine",
    "Build",
    "BuildEndedError",
    "BuildPeriod",
    "BuildStatistics",
    "BuildStatus",
    "BuildStore",
    "BuildSummary",
    "CommandError",
    "ExportReport",
    "FlakyCommit",
    "ImportReport",
    "Level",
    "LogLine",
    "LogMatch",
    "Metric",
    "MetricPeriod",
    "Outcome",
    "Project",
    "ProjectSummary",
    "Pruned",
    "Recorder",
    "Sample",
    "StopReason",
    "Stream",
]
