"""The rows of the build database as dataclasses: what its operations take and give."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Annotated, Any

from abt_db.sql.values import Json

from .classify import Level
from .named import Named
from .output import Stream


def now() -> datetime:
    """Return the time as the database keeps it, in whole milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def as_notes(metadata: object) -> dict[str, Any]:
    """Return a `build_metadata` as an object that notes can be added to; what is none becomes the
    note `value` of one."""
    if metadata is None:
        return {}
    return metadata if isinstance(metadata, dict) else {"value": metadata}


class BuildStatus(Named):
    """Where a build stands: the first two may change, the last three are its end."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether a build in it has ended. A final build does not run again."""
        return self not in (BuildStatus.PENDING, BuildStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Project:
    """What is built. `build_timeout` is in seconds, `environment_vars` any JSON value."""

    id: int
    name: str
    description: str | None
    project_type: str
    repository_url: str
    local_path: str
    branch: str
    build_command: str | None
    environment_vars: Annotated[Any, Json]
    build_timeout: int
    created_at: datetime
    updated_at: datetime
    is_active: bool
    tags: list[str] | None


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a project. `artifact_size` is in bytes; `cpu_usage_percent` of one core;
    `build_metadata` any JSON value."""

    id: int
    project_id: int
    build_number: int
    status: BuildStatus
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    commit_hash: str | None
    branch: str | None
    build_type: str | None
    triggered_by: str | None
    exit_code: int | None
    artifact_path: str | None
    artifact_size: int | None
    memory_usage_mb: float | None
    cpu_usage_percent: float | None
    created_at: datetime
    updated_at: datetime
    build_metadata: Annotated[Any, Json]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a build's output, in the order in which it was read.

    `raw` is None where the bytes of the line are just those of `message` and a newline.
    """

    id: int
    build_id: int
    sequence_number: int
    level: Level
    timestamp: datetime
    message: str
    source: str | None
    stream: Stream
    raw: bytes | None

    @property
    def data(self) -> bytes:
        """The line as the build printed it, byte for byte."""
        return self.message.encode() + b"\n" if self.raw is None else self.raw


@dataclass(frozen=True, slots=True)
class LogMatch:
    """A line that a search has found, and where it stands."""

    id: int
    project_name: str
    build_number: int
    build_id: int
    sequence_number: int
    level: Level
    timestamp: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many lines are gone, or would go, and of how many builds."""

    builds: int
    lines: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: its status, and the number of its last log line."""

    status: BuildStatus
    log_lines: int


@dataclass(frozen=True, slots=True)
class ProjectSummary(Project):
    """A project with all that it has, and how its builds have gone."""

    total_builds: int
    successful_builds: int
    last_build_at: datetime | None

    @property
    def project(self) -> Project:
        """The project alone, as `Projects.get_by_id` returns it."""
        return Project(**{field.name: getattr(self, field.name) for field in fields(Project)})


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """A build as it stands in a list, with the number of its log lines."""

    id: int
    project_id: int
    project_name: str
    build_number: int
    status: BuildStatus
    started_at: datetime | None
    duration_seconds: float | None
    exit_code: int | None
    branch: str | None
    commit_hash: str | None
    build_type: str | None
    log_lines: int


@dataclass(frozen=True, slots=True)
class BuildStatistics:
    """How builds have gone. Durations are in seconds, of all builds that have one, and None when
    none has."""

    total: int
    by_status: dict[str, int]
    """How many builds have each status, also those that none has."""
    success_rate: float | None
    """Percentage of successful builds among those that have ended; None when none has."""
    mean_duration: float | None
    median_duration: float | None
    """The one in the middle; of an even number, the mean of the two in the middle."""
    p95_duration: float | None
    """The least duration that 95 % of the builds did not exceed ("nearest rank")."""
    longest_duration: float | None


@dataclass(frozen=True, slots=True)
class BuildPeriod:
    """The builds that were started in a day, a week or a month, in UTC."""

    start: datetime
    """Midnight; weeks begin on Monday."""
    total: int
    successful: int
    failed: int
    mean_duration: float | None
    """In seconds, of the builds that have one."""


@dataclass(frozen=True, slots=True)
class FlakyCommit:
    """A commit of which some builds failed and others succeeded."""

    project_name: str
    commit_hash: str
    successful: int
    failed: int
    last_build_at: datetime | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure to be recorded: what was measured, when, and in which unit."""

    metric_name: str
    metric_value: float
    metric_unit: str | None = None
    timestamp: datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that was recorded."""

    id: int
    metric_name: str
    metric_value: float
    metric_unit: str | None
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class MetricPeriod:
    """The figures of one name in an hour, a day …, in UTC."""

    start: datetime
    count: int
    mean: float
    least: float
    most: float
