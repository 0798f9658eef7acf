"""What a report tells, as dataclasses. Durations are in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from abt_db.builds.models import BuildStatus


class Unit(StrEnum):
    """How long the parts are into which a report divides its time; they begin in UTC."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"

    @property
    def width(self) -> int:
        """How much of a time's ISO 8601 text tells its part (a week's is its Monday)."""
        return {"hour": 13, "day": 10, "week": 10, "month": 7, "year": 4}[self]

    @classmethod
    def dividing(cls, span: timedelta) -> Unit:
        """The unit that divides a span into parts few enough to be told apart in a chart."""
        for unit, longest in _LONGEST.items():
            if span <= longest:
                return unit
        return cls.YEAR

    def begin(self, moment: datetime) -> datetime:
        """When the part began in which a moment is."""
        day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        match self:
            case Unit.HOUR:
                return day.replace(hour=moment.hour)
            case Unit.DAY:
                return day
            case Unit.WEEK:
                return day - timedelta(days=day.weekday())
            case Unit.MONTH:
                return day.replace(day=1)
        return day.replace(month=1, day=1)

    def end(self, begin: datetime) -> datetime:
        """When the part ends that begins then: the beginning of the next, or the end of time."""
        try:
            match self:
                case Unit.HOUR:
                    return begin + timedelta(hours=1)
                case Unit.DAY:
                    return begin + timedelta(days=1)
                case Unit.WEEK:
                    return begin + timedelta(days=7)
                case Unit.MONTH:
                    return self.begin(begin + timedelta(days=31))
            return begin.replace(year=begin.year + 1)
        except (OverflowError, ValueError):
            return datetime.max.replace(tzinfo=begin.tzinfo)


_LONGEST = {
    Unit.HOUR: timedelta(hours=48),
    Unit.DAY: timedelta(days=45),
    Unit.WEEK: timedelta(days=280),
    Unit.MONTH: timedelta(days=5 * 366),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """How builds have gone: all of them, those of a project, or those of a part of the time.

    `part` is the beginning of an ISO 8601 time where it tells which builds these are. Half of the
    durations are not above the median, 95 % not above `p95`; builds that run have none.
    """

    project_id: int | None
    part: str | None
    builds: int
    succeeded: int
    failed: int
    cancelled: int
    running: int
    pending: int
    median: float | None
    p95: float | None
    longest: float | None
    first_at: datetime
    last_at: datetime

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def success_rate(self) -> float | None:
        """How many of those that have ended did succeed, from 0 to 1."""
        return self.succeeded / self.ended if self.ended else None


@dataclass(frozen=True, slots=True)
class ReportedProject:
    """A project, as a report names it."""

    id: int
    name: str
    project_type: str
    repository_url: str
    branch: str


@dataclass(frozen=True, slots=True)
class BuildMark:
    """One build in a plot. `at` is when it started, or was made if it has not."""

    project_id: int
    build_number: int
    status: BuildStatus
    at: datetime
    seconds: float | None


@dataclass(frozen=True, slots=True)
class SlowBuild:
    """A build that took long, with the name of its project."""

    project_id: int
    project_name: str
    build_number: int
    status: BuildStatus
    at: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Flake:
    """A commit whose builds both failed and succeeded."""

    project_id: int
    project_name: str
    commit_hash: str
    succeeded: int
    failed: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """The beginning of an error line, and the build that printed it."""

    build_id: int
    build: str
    failed: bool
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Error lines that differ only in numbers and paths: `pattern` is what they share.

    `builds` printed such a line, `failed` of these failed; `example` is the line of the last one,
    `build`.
    """

    pattern: str
    lines: int
    builds: int
    failed: int
    example: str
    build: str


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table takes in the file, with its indexes."""

    name: str
    rows: int
    data: int
    indexes: int


@dataclass(frozen=True, slots=True)
class ProjectReport:
    """A project's figures: all of them, by part of the time, and its last builds in their order."""

    project: ReportedProject
    figures: Figures
    parts: tuple[Figures, ...]
    last_builds: tuple[BuildMark, ...]

    @property
    def last_ended(self) -> BuildMark | None:
        return next((build for build in reversed(self.last_builds) if build.status.final), None)

    @property
    def failing(self) -> bool:
        """Whether the last build that ended has failed."""
        return self.last_ended is not None and self.last_ended.status is BuildStatus.FAILED


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page tells.

    `since` is None where the report is about all builds. `projects` are those built last, of
    `project_count` in all; the last build of `failing` of these has failed. `idle` are some of the
    `idle_count` that were not built in this time. Where SQLite can't tell the sizes of tables,
    `tables` is empty. Where there were too many different error lines to count them all,
    `problems_exact` is False and the counts may be too low.
    """

    database: str
    now: datetime
    since: datetime | None
    named: bool
    """Whether it is about some projects only."""
    totals: Figures | None
    unit: Unit
    parts: tuple[Figures, ...]
    projects: tuple[ProjectReport, ...]
    project_count: int
    failing: int
    idle: tuple[str, ...]
    idle_count: int
    log_lines: int
    slowest: tuple[SlowBuild, ...]
    flaky: tuple[Flake, ...]
    problems: tuple[Problem, ...]
    problems_exact: bool
    tables: tuple[TableSize, ...]
    file_size: int
    free_size: int
