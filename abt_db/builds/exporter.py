"""Exporting projects and builds to a history file, the inverse of importing it."""

from __future__ import annotations

import asyncio
import gzip
import json
import lzma
import os
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import BufferedWriter
from pathlib import Path
from typing import Any, TypeAlias

from abt_db.connection.deadline import finish
from abt_db.database import Database
from abt_db.errors import MappingError, ParameterError
from abt_db.files.copying import is_part_of
from abt_db.files.parts import replacing
from abt_db.sql.values import encode
from abt_db.transactions.handles import Snapshot

from . import queries
from .classify import inert_json
from .history import BuildRecord, ProjectRecord
from .models import Build, LogLine
from .output import Stream

_File: TypeAlias = BufferedWriter | gzip.GzipFile | lzma.LZMAFile

PORTION = 1024 * 1024
"""Bytes that are written together; no more of a log is in memory."""


@dataclass(slots=True)
class ExportReport:
    """What went into a file; as long as it is written, what has gone into it so far."""

    file: str
    total_builds: int
    """How many builds there are, of all projects."""
    projects: int = 0
    builds: int = 0
    log_lines: int = 0


async def export_file(
    db: Database,
    path: str | os.PathLike[str],
    *,
    projects: Collection[str] = (),
    progress: Callable[[ExportReport], object] | None = None,
) -> ExportReport:
    """Write projects and builds into a history file; see `BuildStore.export_file`."""
    if is_part_of(db.path, Path(path)):
        raise ParameterError(f"{path} is the database; name another file for the export")
    async with db.snapshot(label="export") as snapshot:
        total = await snapshot.fetch_one(queries.COUNT_BUILDS()) or 0
        report = ExportReport(os.fspath(path), total)
        names = await _names(snapshot, projects)
        with _written(path, Path(db.path)) as file:
            shown = os.fspath(path) == "-" and sys.stdout.isatty()
            portion = bytearray()
            async for text in _texts(snapshot, names, report):
                # A lone surrogate, which JSON can hold as an escape, is written as that escape.
                text = inert_json(text) if shown else text
                portion += text.encode(errors="backslashreplace")
                if len(portion) >= PORTION:
                    # In a thread, for to pack it takes long; waited for, for the file is closed.
                    await finish(asyncio.to_thread(file.write, portion))
                    portion = bytearray()
                if progress is not None:
                    progress(report)
            await finish(asyncio.to_thread(file.write, portion))
    return report


async def _names(snapshot: Snapshot, wanted: Collection[str]) -> dict[int, str]:
    """Return the chosen projects, by their ids; all of them if none is chosen."""
    names = dict(await snapshot.fetch_all(queries.PROJECT_NAMES()))
    for name in wanted:
        if name not in names.values():
            raise LookupError(f"there is no project {name!r}")
    return {id: name for id, name in names.items() if not wanted or name in wanted}


async def _texts(
    snapshot: Snapshot, names: dict[int, str], report: ExportReport
) -> AsyncIterator[str]:
    """Yield the text of the file, in pieces: projects and builds in the order of their making."""
    async with snapshot.stream(queries.EXPORTED_PROJECTS(), size=100) as projects:
        async for project in projects:
            if project.id in names:
                columns = {name: getattr(project, name) for name in _PROJECT}
                yield _json({"project": columns}, project.name) + "\n"
                report.projects += 1
    async with snapshot.stream(queries.EXPORTED_BUILDS(), size=100) as builds:
        async for build in builds:
            if build.project_id in names:
                name = names[build.project_id]
                columns = {"project": name, **{name: getattr(build, name) for name in _BUILD}}
                head = _json({"build": columns}, f"{name}#{build.build_number}")
                yield f'{head[:-2]},"log":['
                async for text in _log(snapshot, build, report):
                    yield text
                yield "]}}\n"
                report.builds += 1


_PROJECT = [field.name for field in fields(ProjectRecord)]
_BUILD = [field.name for field in fields(BuildRecord) if field.name not in ("project", "log")]


async def _log(snapshot: Snapshot, build: Build, report: ExportReport) -> AsyncIterator[str]:
    """Yield the items of a log, with the commas between them."""
    before: LogLine | None = None
    comma = ""
    async with snapshot.stream(queries.WHOLE_LOG(build_id=build.id)) as lines:
        async for line in lines:
            yield comma + _encode(_columns(line, before))
            before, comma = line, ","
            report.log_lines += 1


def _columns(line: LogLine, before: LogLine | None) -> dict[str, Any]:
    """What has to be said of a line behind the one before it."""
    columns: dict[str, Any] = {"message": line.message, "level": line.level}
    if before is None or line.timestamp != before.timestamp:
        columns["timestamp"] = line.timestamp
    if line.source is not None:
        columns["source"] = line.source
    if line.stream is not Stream.STDOUT:
        columns["stream"] = line.stream
    if line.raw is not None:
        columns["raw"] = b64encode(line.raw).decode()
    if line.sequence_number != (before.sequence_number if before else 0) + 1:
        columns["sequence_number"] = line.sequence_number
    return columns


def _json(value: object, what: str) -> str:
    try:
        return _encode(value)
    except ValueError:
        raise MappingError(
            f"{what} can't be exported: it has a number that is not finite, and JSON has no other"
        ) from None


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=encode
).encode


# -- the file ------------------------------------------------------------------------------------


@contextmanager
def _written(path: str | os.PathLike[str], source: Path) -> Iterator[_File]:
    """Open what packs into the file, which is there whole or not at all, private as `source`."""
    if path == "-":
        sys.stdout.flush()
        with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as stdout:
            yield stdout
        return
    target = Path(path)
    with replacing(target, of=source) as file, _packed(file, target.suffix) as packed:
        yield packed


@contextmanager
def _packed(file: BufferedWriter, suffix: str) -> Iterator[_File]:
    """Pack by the suffix of the name; the same content gives the same bytes."""
    if suffix == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            yield packed
    elif suffix == ".xz":
        with lzma.open(file, "wb") as packed:
            yield packed
    else:
        yield file
