"""The lines of rbtlog, a transparency log of Android builds, as records of a history file.

rbtlog (https://github.com/obfusk/rbtlog) builds published apps again and keeps what was printed.
Each of its builds succeeded if it has no `error`, and it ran `gradle_seconds` from `timestamp` on,
the only moment that is known of its log lines too. What has no column here is kept, as it is, in
`build_metadata` under `rbtlog`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from abt_db.sql.values import json_reader

from .history import BuildRecord, ProjectRecord, identified
from .models import BuildStatus

PROJECT_TYPE = "android"
"""What all of its projects are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Project:
    name: str
    project_type: str = PROJECT_TYPE
    repository_url: str = ""
    build_command: str | None = None
    build_timeout: int | None = None
    environment: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    appid: str
    timestamp: int
    commit: str | None = None
    exit_code: int | None = None
    error: str | None = None
    gradle_seconds: float | None = None
    build_log: str | None = None


_read_project = json_reader(_Project)
_read_build = json_reader(_Build)
_KNOWN = {field.name for field in fields(_Build)}
_IN_COLUMNS = _KNOWN - {"error"}


def read_project(value: dict[str, Any]) -> ProjectRecord:
    """Return the project that a parsed line holds; `ValueError` as `history.read_project`."""
    app = _read_project(value)
    settings = (app.environment or {}).items()
    return ProjectRecord(
        name=app.name,
        project_type=app.project_type,
        repository_url=app.repository_url,
        build_command=app.build_command,
        # Variables are texts: other settings as JSON, and those that are not set not at all.
        environment_vars={
            name: setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False)
            for name, setting in settings
            if setting is not None
        },
        build_timeout=1800 if app.build_timeout is None else app.build_timeout,
    )


def read_build(value: dict[str, Any]) -> BuildRecord:
    """Return the build that a parsed line holds; `ValueError` as `history.read_build`.

    The lines of its log are what stands between the "\\n": the last one, behind the last "\\n", is
    mostly empty, and has no newline in its bytes.
    """
    build = _read_build({name: value[name] for name in _KNOWN & value.keys()})
    log: list[Any] = []
    try:
        started = datetime.fromtimestamp(build.timestamp, UTC)
        completed = started + timedelta(seconds=build.gradle_seconds or 0)
        if build.build_log is not None:
            *log, rest = build.build_log.split("\n")
            log.append({"message": rest, "raw": b64encode(rest.encode()).decode()})
    except UnicodeEncodeError:
        raise ValueError("has a log with half a character in it, a lone surrogate") from None
    except (OverflowError, OSError, ValueError):
        raise ValueError("has a timestamp that is outside the years 1 to 9999") from None
    succeeded = build.error is None and build.exit_code == 0
    record = BuildRecord(
        project=build.appid,
        status=BuildStatus.SUCCESS if succeeded else BuildStatus.FAILED,
        started_at=started,
        completed_at=completed,
        duration_seconds=build.gradle_seconds,
        commit_hash=build.commit,
        triggered_by="rbtlog",
        exit_code=build.exit_code,
        build_metadata={
            "rbtlog": {name: item for name, item in value.items() if name not in _IN_COLUMNS}
        },
        log=log,
    )
    about = {name: item for name, item in value.items() if name != "build_log"}
    return identified(record, about, build.build_log or "")
