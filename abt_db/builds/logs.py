"""What can be done with the log lines of builds: dataclasses in, dataclasses out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from abt_db.database import Database
from abt_db.session import Session
from abt_db.transaction import Stream as RowStream

from . import queries
from .classify import Level
from .models import LogLine
from .output import Line

__all__ = ["Logs"]


class Logs:
    """The table `build_logs`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def append(self, build_id: int, lines: Iterable[tuple[Line, Level, str | None]]) -> int:
        """Add lines, each with its level and source, in one transaction; return how many.

        Their sequence numbers follow the last one of the build, whoever else appends to it.
        """

        def append(cx: Session) -> int:
            last = cx.fetch_one(queries.LAST_LINE(build_id=build_id)) or 0
            return cx.execute_many(queries.ADD_LINE, _rows(build_id, last, lines))

        return await self._db.write(append)

    def stream(self, build_id: int, *, after: int = 0) -> RowStream[LogLine]:
        """Return the lines of a build behind number `after`, in order and in constant memory."""
        return self._db.stream(queries.LINES(build_id=build_id, after=after))

    async def follow(self, build_id: int, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Yield the lines of a build behind number `after`, each once and in order, as they are
        committed, by whatever process, and end when the build does.

        A line comes within some milliseconds of its commit; from another process, within
        `Config.watch_interval` more. Raises `LookupError` when there is no such build (any more).
        """
        async for progress in self._db.watch(queries.PROGRESS(build_id=build_id)):
            if not progress:
                raise LookupError(f"there is no build {build_id}")
            [now] = progress
            while after < now.log_lines:
                lines = await self._db.fetch_all(
                    queries.NEXT_LINES(build_id=build_id, after=after, last=now.log_lines)
                )
                for line in lines:
                    yield line
                # Those that are missing have been deleted.
                after = lines[-1].sequence_number if lines else now.log_lines
            if now.status.final:
                return

    async def count(self, build_id: int) -> int:
        """Return how many lines a build has."""
        return await self._db.fetch_one(queries.LAST_LINE(build_id=build_id)) or 0


def _rows(
    build_id: int, last: int, lines: Iterable[tuple[Line, Level, str | None]]
) -> Iterator[dict[str, object]]:
    for number, (line, level, source) in enumerate(lines, last + 1):
        yield {
            "build_id": build_id,
            "sequence_number": number,
            "level": level.value,
            "timestamp": line.at,
            "message": line.message,
            "source": source,
            "stream": line.stream.value,
            "raw": line.raw,
        }
