"""What can be done with the log lines of builds: dataclasses in, dataclasses out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import monotonic

from abt_db.connection.session import Session
from abt_db.database import Database
from abt_db.errors import TransactionStateError
from abt_db.protocols import Readable
from abt_db.repository import Repository
from abt_db.sql.query import Query, Statement
from abt_db.transactions.handles import Stream as RowStream

from . import queries
from .classify import Level
from .models import LogLine, LogMatch, Pruned
from .output import Line
from .words import fold, groups, has_all, split_words

STEP = {"lines": 1_000, "bytes": 1024 * 1024}
"""How much is indexed or removed in one transaction, which takes about 10 or 20 ms."""


class Logs(Repository[LogLine]):
    """The table `build_logs`, and the full-text index over its messages.

    A line is appended without touching the index, and `index` puts it in later; a `Recorder` does
    so when its build has ended. `search` reads the lines that are not in it yet one by one.
    """

    def __init__(self, db: Readable) -> None:
        super().__init__(db, queries.LOGS)

    async def append(
        self, build_id: int, lines: Iterable[tuple[Line, Level | str, str | None]]
    ) -> int:
        """Add lines, each with its level and source, in one transaction; return how many.

        Their sequence numbers follow the last one of the build, whoever else appends to it.
        """

        def append(cx: Session) -> int:
            last = cx.fetch_one(queries.LAST_LINE(build_id=build_id)) or 0
            return cx.execute_many(queries.ADD_LINE, _rows(build_id, last, lines))

        return await self.writable.write(append)

    async def for_build(
        self,
        build_id: int,
        *,
        after: int = 0,
        level: Level | str = Level.DEBUG,
        containing: str = "",
        limit: int = 1_000,
    ) -> list[LogLine]:
        """Return the next lines of a build behind number `after`, in order, at most `limit`.

        Only those as serious as `level`, a name in any case, and with the very text `containing` in
        them.
        """
        return await self.db.fetch_all(_onward(build_id, after, level, containing, limit))

    async def tail(
        self, build_id: int, n: int = 10, *, level: Level | str = Level.DEBUG, containing: str = ""
    ) -> list[LogLine]:
        """Return the last `n` such lines of a build, in order."""
        query = _for_level(level, queries.LAST_LINES, queries.LAST_PROBLEMS)
        lines = await self.db.fetch_all(
            query(build_id=build_id, levels=_from(level), containing=containing, limit=max(n, 0))
        )
        return lines[::-1]

    def stream(
        self,
        build_id: int,
        *,
        after: int = 0,
        level: Level | str = Level.DEBUG,
        containing: str = "",
    ) -> RowStream[LogLine]:
        """Return such lines of a build behind number `after`, in order and in constant memory."""
        return self.db.stream(_onward(build_id, after, level, containing, -1))

    async def follow(self, build_id: int, *, after: int = 0) -> AsyncGenerator[LogLine, None]:
        """Yield the lines of a build behind number `after`, each once and in order, as they are
        committed, by whatever process, and end when the build does.

        A line comes within some milliseconds of its commit; from another process, within
        `Config.watch_interval` more. Raises `LookupError` when there is no such build (any more).

        Whoever breaks off early, and keeps the generator or may be cancelled between two lines,
        ends it at once by `contextlib.aclosing`. After `Database.end_watches` there is no other
        line. Only the `Database` itself can tell what is committed: over another handle it raises
        `TransactionStateError`.
        """
        if not isinstance(self.db, Database):
            raise TransactionStateError(
                f"a log can't be followed through a {type(self.db).__name__}, which does not see"
                " what is committed later; follow it through the database"
            )
        async with self.db.watch(queries.PROGRESS(build_id=build_id)) as states:
            async for progress in states:
                if not progress:
                    raise LookupError(f"there is no build {build_id}")
                [now] = progress
                while after < now.log_lines:
                    lines = await self.db.fetch_all(
                        queries.NEXT_LINES(build_id=build_id, after=after, last=now.log_lines)
                    )
                    for line in lines:
                        if states.ended:
                            return
                        yield line
                    # Those that are missing have been deleted.
                    after = lines[-1].sequence_number if lines else now.log_lines
                if now.status.final:
                    return

    # -- searching -------------------------------------------------------------------------------

    async def search(
        self,
        text: str,
        *,
        project_id: int | None = None,
        build_id: int | None = None,
        level: Level | str = Level.DEBUG,
        before: int | None = None,
        limit: int = 100,
    ) -> list[LogMatch]:
        """Return the lines in which every word of `text` occurs, the newest first, at most `limit`.

        A word is what stands between spaces. It is taken literally, whatever is in it, and may be
        a part of a longer one; capitals of ASCII count as small letters. A text without words
        finds nothing. `before` is the `id` of the last match of the page before this one.

        Words of three characters and more are found through the index; where there are only
        shorter ones, and in the lines of one build, each line is read until there are enough.
        """
        words = split_words(text)
        if not words:
            return []
        candidates = _candidates(
            words,
            build_id,
            project_id=project_id,
            levels=_from(level),
            before=2**63 - 1 if before is None else before,
        )

        def find(cx: Session) -> list[LogMatch]:
            found = cx.stream(candidates, size=max(1, min(limit, 500)))
            return list(islice((line for line in found if has_all(words, line.message)), limit))

        return await self.db.read(find)

    async def index(
        self, most: int | None = None, *, progress: Callable[[int], object] | None = None
    ) -> int:
        """Put the lines that are not in the index yet into it, about `most`; return how many.

        In short transactions, between which others have their turn: `progress` is called after
        each with how many are done. Cancelling keeps them, and from `progress` begins no other.
        """
        done = 0
        began = monotonic()
        while (most is None or done < most) and (
            count := (await self.writable.execute(queries.INDEX_LINES(**STEP))).rowcount
        ):
            done += count
            if progress is not None:
                progress(done)
            began = await _let_others(began)
        return done

    # -- pruning ---------------------------------------------------------------------------------

    async def prune(
        self, older_than: timedelta, *, progress: Callable[[Pruned], object] | None = None
    ) -> Pruned:
        """Remove the lines of builds that ended longer ago than this; return how many.

        The builds themselves are kept. In short transactions, between which others have their
        turn: `progress` is called after each with what is gone so far. Cancelled or killed, it has
        done a part, and the next call goes on there; cancelled from `progress`, it begins no other
        transaction. The file does not get smaller, its room is used again.
        """
        before = datetime.now(UTC) - older_than
        builds = lines = build_id = 0
        while (
            build_id := await self.db.fetch_one(
                queries.NEXT_TO_PRUNE(after=build_id, before=before)
            )
            or 0
        ):
            builds += 1
            began = monotonic()
            prune = queries.PRUNE_LINES(build_id=build_id, **STEP)
            while count := (await self.writable.execute(prune)).rowcount:
                lines += count
                if progress is not None:
                    progress(Pruned(builds, lines))
                began = await _let_others(began)
        return Pruned(builds, lines)

    async def prunable(self, older_than: timedelta) -> Pruned:
        """Return what `prune` would remove now."""
        before = datetime.now(UTC) - older_than
        return await self.db.fetch_one(queries.PRUNABLE(before=before)) or Pruned(0, 0)


async def _let_others(began: float) -> float:
    """Wait between a transaction that began then and the next one; return when that one begins.

    In this process whoever waits for the writer comes first anyway. Another one looks for the lock
    now and then, so that it has to be free for a while.
    """
    await asyncio.sleep((monotonic() - began) / 2)
    return monotonic()


def _rows(
    build_id: int, last: int, lines: Iterable[tuple[Line, Level | str, str | None]]
) -> Iterator[dict[str, object]]:
    for number, (line, level, source) in enumerate(lines, last + 1):
        yield {
            "build_id": build_id,
            "sequence_number": number,
            "level": str(Level.of(level)),
            "timestamp": line.at,
            "message": line.message,
            "source": source,
            "stream": line.stream.value,
            "raw": line.raw,
        }


def _onward(
    build_id: int, after: int, level: Level | str, containing: str, limit: int
) -> Statement[LogLine]:
    query = _for_level(level, queries.LINES, queries.PROBLEMS)
    return query(
        build_id=build_id, after=after, levels=_from(level), containing=containing, limit=limit
    )


def _for_level(
    level: Level | str, lines: Query[LogLine], problems: Query[LogLine]
) -> Query[LogLine]:
    """Warnings and errors have an index of their own."""
    return problems if Level.of(level).at_least(Level.WARNING) else lines


def _from(level: Level | str) -> str:
    """The names of all levels as serious as this."""
    least = Level.of(level)
    return " ".join(each for each in Level if each.at_least(least))


def _candidates(words: list[str], build_id: int | None, **chosen: object) -> Statement[LogMatch]:
    """Return what finds every line that has all of the words, but maybe not only these."""
    chosen["word"] = fold(max(words, key=len))
    if build_id is not None:
        return queries.SEARCH_BUILD(build_id=build_id, **chosen)
    if sought := groups(words):
        return queries.SEARCH(groups=sought, **chosen)
    return queries.SEARCH_EACH_LINE(**chosen)
