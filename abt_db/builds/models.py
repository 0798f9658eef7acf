"""The rows of the build database as dataclasses: what its operations take and give."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from .classify import Level
from .output import Stream

__all__ = [
    "Build",
    "BuildStatus",
    "BuildSummary",
    "LogLine",
    "LogMatch",
    "Progress",
    "Project",
    "ProjectSummary",
    "Pruned",
]


class BuildStatus(StrEnum):
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
    """What is built. `build_timeout` is in seconds."""

    id: int
    name: str
    description: str | None
    project_type: str
    repository_url: str
    local_path: str
    branch: str
    build_command: str | None
    environment_vars: dict[str, str] | None
    build_timeout: int
    created_at: datetime
    updated_at: datetime
    is_active: bool
    tags: list[str] | None


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a project. `artifact_size` is in bytes; `cpu_usage_percent` of one core."""

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
    build_metadata: dict[str, Any] | None


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
class ProjectSummary:
    """A project and how its builds have gone."""

    id: int
    name: str
    project_type: str
    is_active: bool
    total_builds: int
    successful_builds: int
    last_build_at: datetime | None


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """A build as it stands in a list, with the number of its log lines."""

    id: int
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
