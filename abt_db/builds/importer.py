"""Importing history files: projects, and builds with their logs, a transaction each.

A build that is there is whole, so an import that was killed goes on where it stopped when it is
started again, and a second one changes nothing. The format is told in `history`; the lines of
`rbtlog` are understood as well.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from abt_db.connection.deadline import finish
from abt_db.connection.session import Session
from abt_db.database import Database
from abt_db.errors import IntegrityError, ParameterError, TooBigError
from abt_db.sql.values import encode

from . import queries, rbtlog
from .classify import Classifier, Level
from .history import (
    BuildRecord,
    LineRecord,
    ProjectRecord,
    identity,
    read_build,
    read_line,
    read_project,
)
from .models import Project, as_notes
from .output import Stream

_File: TypeAlias = BufferedReader | gzip.GzipFile | lzma.LZMAFile

MIB = 1024 * 1024
MAX_LINE = 256 * MIB
"""Bytes of a line, unpacked. A line is in memory as a whole, and takes a few times its size."""
PORTION = MIB // 4
"""Bytes of lines, unpacked, that are read together."""
MAX_TOLD = 100
"""Bad lines that a report tells one by one."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out; `problem` goes on where the line is named."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file} line {self.line} {self.problem}"


@dataclass(slots=True)
class ImportReport:
    """What came of a file; as long as it is read, what has come of it so far."""

    file: str
    size: int | None
    """Bytes of the file, packed as it is; None for a pipe."""
    read: int = 0
    """Bytes of it that have been read; of a pipe, unpacked."""
    projects: int = 0
    """Projects that are new, or had something filled in."""
    builds: int = 0
    """Builds that are new."""
    log_lines: int = 0
    """Lines of their logs."""
    present: int = 0
    """Projects and builds that were there already."""
    bad: int = 0
    """Lines that were left out."""
    bad_lines: list[BadLine] = field(default_factory=list)
    """The first hundred of them."""


async def import_file(
    db: Database,
    path: str | os.PathLike[str],
    *,
    max_line: int | None = None,
    progress: Callable[[ImportReport], object] | None = None,
) -> ImportReport:
    """Add what a history file has and the database has not; see `BuildStore.import_file`."""
    report = ImportReport(os.fspath(path), _size(path))
    with closing(_portions(path, report.size, max_line or MAX_LINE)) as portions:
        # In a thread, for to unpack and parse a large build would hold the event loop up. It is
        # waited for also when this is cancelled: the file is closed then.
        while portion := await finish(asyncio.to_thread(next, portions, None)):
            for line, report.read, entry in portion:
                problem = entry if isinstance(entry, str) else await _store(db, entry, report)
                if problem is not None:
                    report.bad += 1
                    if len(report.bad_lines) < MAX_TOLD:
                        report.bad_lines.append(BadLine(report.file, line, problem))
                if progress is not None:
                    progress(report)
    return report


# -- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a line holds: a project, or a build and as much as it tells about its project."""

    project: ProjectRecord
    build: BuildRecord | None = None


def _size(path: str | os.PathLike[str]) -> int | None:
    status = os.fstat(sys.stdin.fileno()) if path == "-" else Path(path).stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BufferedReader, _File]]:
    """Open a file, and what unpacks it. Its first bytes tell, for a pipe has no suffix."""
    with ExitStack() as stack:
        where = sys.stdin.fileno() if path == "-" else path
        packed = stack.enter_context(open(where, "rb", closefd=path != "-"))
        start = packed.peek(len(_XZ))
        if start.startswith(_GZIP):
            yield packed, stack.enter_context(gzip.open(packed))
        elif start.startswith(_XZ):
            yield packed, stack.enter_context(lzma.open(packed))
        else:
            yield packed, packed


_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error)


def _portions(
    path: str | os.PathLike[str], size: int | None, max_line: int
) -> Generator[list[tuple[int, int, _Entry | str]], None, None]:
    """Yield the lines, some at a time: for each its number, how far the file has been read, and
    what the line holds, or what is wrong with it."""
    unpacked, enough = 0, 0
    portion: list[tuple[int, int, _Entry | str]] = []
    with _opened(path) as (packed, file):
        for number in count(1):
            entry: _Entry | str = ""
            try:
                line = file.readline(max_line + 1)
                unpacked += len(line)
                if len(line) > max_line and not line.endswith(b"\n"):
                    entry = f"is longer than {max_line:,} bytes, the limit of this import"
                    while (rest := file.readline(MIB)) and not rest.endswith(b"\n"):
                        unpacked += len(rest)
                elif line.strip():
                    entry = _parse(line)
            except ValueError as error:
                entry = str(error)
            except RecursionError:
                entry = "is nested too deeply"
            except _DAMAGED:
                line, entry = b"", "can't be read: the file is damaged or cut off there"
            if entry:
                portion.append((number, unpacked if size is None else packed.tell(), entry))
            if portion and (not line or unpacked >= enough):
                yield portion
                portion, enough = [], unpacked + PORTION
            if not line:
                return


def _parse(line: bytes) -> _Entry:
    """Return what a line holds; raises `ValueError` as `history.read_project` does."""
    try:
        value = _decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg}, at character {error.pos + 1}") from None
    except ValueError:
        raise ValueError("is not JSON: it has a number that none can be") from None
    match value:
        case {"project": content} if len(value) == 1:
            return _Entry(read_project(content))
        case {"build": content} if len(value) == 1:
            build = read_build(content)
            return _Entry(ProjectRecord(name=build.project), build)
        case {"appid": _}:
            build = rbtlog.read_build(value)
            project = ProjectRecord(name=build.project, project_type=rbtlog.PROJECT_TYPE)
            return _Entry(project, build)
        case {"name": _}:
            return _Entry(rbtlog.read_project(value))
    raise ValueError("is neither a project nor a build")


def _no_constant(_name: str) -> object:
    raise ValueError


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


# -- storing -------------------------------------------------------------------------------------


async def _store(db: Database, entry: _Entry, report: ImportReport) -> str | None:
    """Add an entry, if it is new; return what is wrong with it, if anything is."""
    try:
        added = await db.write(_add, entry)
    except (ParameterError, IntegrityError, TooBigError) as error:
        return f"can't be stored: {error}"
    except ValueError as error:
        return str(error)
    if added is None:
        report.present += 1
    else:
        report.projects += added.projects
        report.builds += added.builds
        report.log_lines += added.log_lines
    return None


@dataclass(frozen=True, slots=True)
class _Added:
    projects: int
    builds: int = 0
    log_lines: int = 0


def _is_present(cx: Session, entry: _Entry) -> bool:
    """Whether there is nothing that an entry could add."""
    project = cx.fetch_one(queries.PROJECT_BY_NAME(name=entry.project.name))
    if project is None:
        return False
    if entry.build is None:
        return not _gaps(project, entry.project)
    alike = queries.BUILDS_ALIKE(
        project_id=project.id,
        build_number=entry.build.build_number,
        started_at=entry.build.started_at,
    )
    return identity(entry.build) in map(identity, cx.fetch_all(alike))


def _gaps(project: Project, told: ProjectRecord) -> dict[str, Any]:
    """What is told of what a project lacks."""
    return {
        name: getattr(told, name)
        for name in _FILLED_IN
        if getattr(project, name) in _NOTHING and getattr(told, name) not in _NOTHING
    }


_FILLED_IN = (
    "description",
    "project_type",
    "repository_url",
    "local_path",
    "build_command",
    "environment_vars",
    "tags",
)
_NOTHING = (None, "", "unknown")


def _add(cx: Session, entry: _Entry) -> _Added | None:
    """Add an entry, in one transaction; None if all of it is there."""
    if _is_present(cx, entry):
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    told, build = entry.project, entry.build
    project = cx.fetch_one(queries.PROJECT_BY_NAME(name=told.name))
    if project is None:
        created = told.created_at or now
        updated = told.updated_at or created
        cx.execute(queries.IMPORT_PROJECT(replace(told, created_at=created, updated_at=updated)))
    elif build is None:
        cx.execute(queries.FILL_PROJECT_IN(replace(project, **_gaps(project, told))))
    if build is None:
        return _Added(1)
    created = build.created_at or build.started_at or now
    row = replace(
        build,
        build_number=cx.fetch_one(
            queries.FREE_NUMBER(project=build.project, build_number=build.build_number)
        ),
        created_at=created,
        updated_at=build.updated_at or build.completed_at or created,
    )
    if identity(row) != identity(build):
        metadata = {**as_notes(build.build_metadata), "import_key": identity(build)}
        row = replace(row, build_metadata=metadata)
    id = cx.fetch_one(queries.IMPORT_BUILD(row))
    assert id is not None
    lines = cx.execute_many(queries.ADD_LINE, _log_rows(id, row))
    return _Added(project is None, 1, lines)


def _log_rows(build_id: int, build: BuildRecord) -> Iterator[dict[str, object]]:
    """Yield the rows of a log; raises `ValueError` for a line that can't be one."""
    classifiers = {stream: Classifier() for stream in Stream}
    classify = classifiers[Stream.STDOUT].classify
    at = encode(build.started_at or build.created_at)
    last = 0
    for number, item in enumerate(build.log, 1):
        if isinstance(item, str):
            last += 1
            level, source = classify(item)
            yield {
                "build_id": build_id,
                "sequence_number": last,
                "level": str(level),
                "timestamp": at,
                "message": item,
                "source": source,
                "stream": 1,
                "raw": None,
            }
            continue
        try:
            line = read_line(item)
            raw = line.raw_bytes()
            at = at if line.timestamp is None else encode(line.timestamp)
            last = _next_number(last, line)
        except ValueError as error:
            raise ValueError(f"has a log line {number} that {error}") from None
        level, source = line.level or Level.INFO, line.source
        if line.level is None:
            level, told = classifiers[line.stream].classify(line.message)
            source = source or told
        yield {
            "build_id": build_id,
            "sequence_number": last,
            "level": str(level),
            "timestamp": at,
            "message": line.message,
            "source": source,
            "stream": line.stream.value,
            "raw": raw,
        }


def _next_number(last: int, line: LineRecord) -> int:
    number = last + 1 if line.sequence_number is None else line.sequence_number
    if number <= last:
        raise ValueError("has a sequence_number that does not rise")
    return number
