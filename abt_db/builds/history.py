"""History files: what `abt-db export` writes and `abt-db import` reads.

JSON Lines in UTF-8, plain or packed with gzip or xz. Each line is a project, or a build with its
log:

    {"project": {"name": "maps", "project_type": "android", "tags": ["offline"]}}
    {"build": {"project": "maps", "status": "failed", "started_at": "2025-02-18T09:30:00Z",
     "exit_code": 1, "log": ["> Task :app:lint", {"message": "e: no such file", "stream": 2}]}}

(all on one line). The keys are the columns of `projects`, `builds` and `build_logs`; JSON columns
hold their value itself. A project must have its `name`, a build the name of its `project`, a log
line its `message`. The rest may be left out; a log line may be just its message.

    times             ISO 8601, in UTC where they don't say; a log line without one has that of the
                      line before it, the first one that of the build's start
    level, source     of a log line without a `level` are told by its text, as `abt-db record` does
    stream            1 for stdout, 2 for stderr
    raw               base64 of the line's bytes, where they are not just the message and a newline
    sequence_number   rises; without it, one more than that of the line before

What is in the database is never overwritten. A project is known by its name, and what it lacks is
filled in. A build is known by `build_number`, `created_at`, `started_at` and `commit_hash`, all of
them together; one without a `build_number` or `created_at` by all that its line says. A build whose
number another one has gets the next number of its project. What the last two are known by is kept
in their `build_metadata`, as `import_key`; metadata that is no object becomes its `value`.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Annotated, Any

from abt_db.sql.values import Json, encode, json_reader

from .classify import Level
from .models import Build, BuildStatus, as_notes
from .output import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRecord:
    """A project as it stands in a history file."""

    name: str
    description: str | None = None
    project_type: str = "unknown"
    repository_url: str = ""
    local_path: str = ""
    branch: str = "main"
    build_command: str | None = None
    environment_vars: Annotated[Any, Json] = None
    build_timeout: int = 1800
    created_at: datetime | None = None
    updated_at: datetime | None = None
    is_active: bool = True
    tags: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """A build as it stands in a history file; `read_line` reads what is in its log."""

    project: str
    build_number: int | None = None
    status: BuildStatus = BuildStatus.PENDING
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_seconds: float | None = None
    commit_hash: str | None = None
    branch: str | None = None
    build_type: str | None = None
    triggered_by: str | None = None
    exit_code: int | None = None
    artifact_path: str | None = None
    artifact_size: int | None = None
    memory_usage_mb: float | None = None
    cpu_usage_percent: float | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    build_metadata: Annotated[Any, Json] = None
    log: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRecord:
    """A log line as it stands in a history file."""

    message: str
    level: Level | None = None
    timestamp: datetime | None = None
    source: str | None = None
    stream: Stream = Stream.STDOUT
    raw: str | None = None
    sequence_number: int | None = None

    def raw_bytes(self) -> bytes | None:
        """Return what `raw` stands for; `ValueError` if it is not base64."""
        try:
            return None if self.raw is None else b64decode(self.raw, validate=True)
        except ValueError:
            raise ValueError("has a field 'raw' that is not base64") from None


def read_project(value: object) -> ProjectRecord:
    """Return the project that a parsed line holds.

    Like the other readers it raises `ValueError` for what does not fit, with a message that goes
    on where the caller has said which line it is: "has a field 'name' that is not a str".
    """
    record: ProjectRecord = _checked(value, ProjectRecord, _project)
    return record


def read_build(value: object) -> BuildRecord:
    """Return the build that a parsed line holds; as `read_project`."""
    record: BuildRecord = _checked(value, BuildRecord, _build)
    return identified(record, value)


def read_line(value: object) -> LineRecord:
    """Return the log line that an item of a build's log holds; as `read_project`."""
    if isinstance(value, str):
        return LineRecord(message=value)
    record: LineRecord = _checked(value, LineRecord, _line)
    return record


_project = json_reader(ProjectRecord)
_build = json_reader(BuildRecord)
_line = json_reader(LineRecord)


def _checked(value: object, kind: Any, read: Any) -> Any:
    """Name the keys that are misspelt: the readers themselves name nothing of what was given."""
    if isinstance(value, dict) and (unknown := value.keys() - _KEYS[kind]):
        raise ValueError(f"has a key {min(unknown)[:40]!r}, which is not known there")
    return read(value)


_KEYS = {
    kind: frozenset(field.name for field in fields(kind))
    for kind in (ProjectRecord, BuildRecord, LineRecord)
}


# -- which build it is ---------------------------------------------------------------------------


def identity(build: Build | BuildRecord) -> str:
    """Return what a build is known by among those of its project, wherever it is kept."""
    key = as_notes(build.build_metadata).get("import_key")
    if isinstance(key, str):
        return key
    known = build.build_number, build.created_at, build.started_at, build.commit_hash
    return json.dumps([encode(value) for value in known])


def identified(build: BuildRecord, *told: object) -> BuildRecord:
    """Return the build with an `import_key`, if it needs one; `told` is all that its line says."""
    metadata = as_notes(build.build_metadata)
    exported = build.build_number is not None and build.created_at is not None
    if exported or isinstance(metadata.get("import_key"), str):
        return build
    digest = hashlib.blake2b(digest_size=16)
    for part in told:
        # A long text is not made JSON, for that takes longer than all the rest.
        text = part if isinstance(part, str) else json.dumps(part, sort_keys=True)
        digest.update(text.encode(errors="surrogatepass") + b"\0")
    return replace(build, build_metadata={**metadata, "import_key": digest.hexdigest()})
