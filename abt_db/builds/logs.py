"""What can be done with the log lines of builds: dataclasses in, dataclasses out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
