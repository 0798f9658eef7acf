"""`store.logs.search`: the lines in which all words occur, whatever is in the words."""

from __future__ import annotations

import asyncio
import json
import lzma
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.logged import LINES, append, ended, require_sound, started

from abt_db import CorruptError, Database, ParameterError, Query
from abt_db.builds import BuildStore, Level, LogMatch
from abt_db.builds.logs import STEP, Logs
from abt_db.builds.words import MOST, groups
from abt_db.errors import MigrationFailedError
from abt_db.events import Event, Ran
from abt_db.migrations import Migrator, load_migrations

Rows = list[tuple[int, str]]

# Operators and quotes of SQL, of LIKE and of FTS5, letters that Unicode folds to others or takes
# apart, characters that UTF-8 writes in one to four bytes, and what SQLite takes for an end.
PIECES = [
    *"aAbk\u212aß\u017fİi\u0301äÄ%_\\'\"*^:()-+{},.;/?#!\0\ufffe漢字😀",
    "AND",
    "OR",
    "NOT",
    "NEAR(",
    "error",
]
SPACES = [" ", "\t", "  "]

TEXTS = st.lists(st.sampled_from([*PIECES, *SPACES]), max_size=8).map("".join)


def lower(text: str) -> bytes:
    return text.encode().lower()  # of bytes: ASCII alone


def found_by_python(lines: Rows, text: str) -> list[int]:
    words = [lower(word) for word in text.split()]
    return [
        id
        for id, message in reversed(lines)
        if words and all(word in lower(message) for word in words)
    ]


async def found(store: BuildStore, text: str) -> list[int]:
    return [match.id for match in await store.logs.search(text, limit=10_000)]


Corpus = tuple[asyncio.Runner, BuildStore, Rows]


@pytest.fixture(scope="module", params=["none", "half", "all"])
def corpus(request: pytest.FixtureRequest) -> Iterator[Corpus]:
    """A store with any lines; none, half or all of them are in the index."""
    chance = random.Random(5)
    messages = ["".join(chance.choices([*PIECES, " "], k=chance.randrange(14))) for _ in range(600)]
    with asyncio.Runner() as runner:
        store = runner.run(BuildStore.open(":memory:"))
        build = runner.run(started(store))
        runner.run(append(store, build, messages[:300]))
        if request.param != "none":
            runner.run(store.logs.index())
        runner.run(append(store, build, messages[300:]))
        if request.param == "all":
            runner.run(store.logs.index())
        yield runner, store, runner.run(store.db.fetch_all(LINES()))
        runner.run(store.close())


class TestLiteral:
    """Words are taken literally, and never end in an error of SQLite (fault 38): what is found
    is what plain Python finds, whether the lines are in the index or not."""

    def test_any_text(self, corpus: Corpus) -> None:
        runner, store, lines = corpus
        hits = 0

        @settings(max_examples=150, deadline=None)
        @given(TEXTS)
        @example("")
        @example("%%%")
        @example('"')
        @example("\0\0\0")
        @example("a\0b")
        @example("error AND")
        @example("NEAR(a b)")
        @example("-a ^b c* message:d")
        @example("error " * 500)
        @example("".join(map(chr, range(33, 2_000))))
        def holds(text: str) -> None:
            nonlocal hits
            expected = found_by_python(lines, text)
            assert runner.run(found(store, text)) == expected
            hits += bool(expected)

        holds()
        assert hits > 20

    def test_each_piece_of_each_line(self, corpus: Corpus) -> None:
        runner, store, lines = corpus
        chance = random.Random(6)
        for id, message in chance.sample(lines, 60):
            start = chance.randrange(len(message) + 1)
            text = message[start : start + 4]
            expected = found_by_python(lines, text)
            assert runner.run(found(store, text)) == expected
            assert id in expected or not text.split()

    async def test_what_can_not_be_stored_is_refused(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            with pytest.raises(ParameterError, match="'word'"):
                await store.logs.search("\udcff")

    def test_of_a_very_long_text_a_part_is_looked_up(self) -> None:
        assert groups(["abcdefg", '"a"']) == '"abc" AND "def" AND "efg" AND """a"""'
        assert groups([f"{n:09}" for n in range(100_000)]).count(" AND ") == MOST - 1


class TestRealLogs:
    """In real logs, what is found is what plain Python finds."""

    async def test_pieces_of_any_lines(self, rbtlog: Path) -> None:
        with lzma.open(rbtlog / "builds.jsonl.xz", "rt") as file:
            logs = [json.loads(line)["build_log"].split("\n") for line in islice(file, 0, 400, 20)]
        async with await BuildStore.open(":memory:") as store:
            for log in logs:
                await append(store, await started(store), log)
            await store.logs.index(most=20_000)
            lines = await store.db.fetch_all(LINES())
            chance = random.Random(7)
            for _ in range(15):
                words = chance.choice(lines)[1].split() or ["gradle"]
                text = " ".join(
                    word[(start := chance.randrange(len(word))) : start + chance.choice([3, 9])]
                    for word in chance.sample(words, min(len(words), chance.choice([1, 2, 3])))
                )
                expected = found_by_python(lines, text)
                assert expected
                assert await found(store, text) == expected[:10_000]
            await require_sound(store)


async def filled(path: Path | str) -> BuildStore:
    """A store with two projects of two builds, some of their lines in the index."""
    store = await BuildStore.open(path)
    for project in ("maps", "mail"):
        for number in (1, 2):
            build = await started(store, project)
            await append(store, build, [f"{project} {number} begins", "Compiling a.kt"])
            await append(store, build, ["w: unused variable"], Level.WARNING)
            if number == 1:
                await store.logs.index()
            await append(store, build, ["e: a.kt: unresolved reference"], Level.ERROR)
    return store


class TestChoosing:
    """Of what is found the newest comes first, page by page, of one project, build or level."""

    async def places(self, store: BuildStore, text: str, **chosen: Any) -> list[str]:
        return [
            f"{match.project_name}#{match.build_number}:{match.sequence_number}"
            for match in await store.logs.search(text, **chosen)
        ]

    async def test_all_or_a_part(self) -> None:
        async with await filled(":memory:") as store:
            maps = await store.projects.get_by_name("maps")
            assert maps is not None
            every = ["mail#2:2", "mail#1:2", "maps#2:2", "maps#1:2"]
            assert await self.places(store, "KT compil") == every
            assert await self.places(store, "kt compil", limit=3) == every[:3]
            assert await self.places(store, "kt compil", limit=0) == []
            assert await self.places(store, "kt compil", project_id=maps.id) == every[2:]
            assert await self.places(store, "kt compil", build_id=3) == ["mail#1:2"]
            assert await self.places(store, "kt", build_id=3) == ["mail#1:4", "mail#1:2"]
            assert await self.places(store, "kt", build_id=3, level=Level.ERROR) == ["mail#1:4"]
            assert await self.places(store, "un", level=Level.WARNING, limit=2) == [
                "mail#2:4",
                "mail#2:3",
            ]

    async def test_page_by_page(self) -> None:
        async with await filled(":memory:") as store:
            pages: list[int] = []
            before: int | None = None
            while page := await store.logs.search("a.kt", before=before, limit=3):
                before = page[-1].id
                pages += [match.id for match in page]
            assert pages == await found(store, "a.kt")
            assert len(pages) == 8

    async def test_a_match_tells_all_of_its_line(self) -> None:
        async with await filled(":memory:") as store:
            [match] = await store.logs.search("maps#1 begins".replace("#", " "))
            [line, *_] = await store.logs.for_build(match.build_id)
            assert match == LogMatch(
                line.id, "maps", 1, line.build_id, 1, line.level, line.timestamp, "maps 1 begins"
            )


class TestIndex:
    """Lines are put into the index behind the appends, and its entries are always those of the
    lines that are there."""

    async def test_an_append_writes_nothing_into_it(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            empty = await store.db.fetch_all(BLOCKS())
            await append(store, await started(store), ["one", "two"])
            assert await store.db.fetch_all(BLOCKS()) == empty
            assert [await store.logs.index(), await store.logs.index()] == [2, 0]
            assert await store.db.fetch_all(BLOCKS()) != empty

    async def test_it_is_filled_in_short_transactions(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            build = await started(store)
            await append(store, build, map(str, range(2_500)))
            await append(store, build, ["x" * 700_000, "y" * 700_000, "z" * 3_000_000, "end"])
            steps: list[int] = []
            store.db.add_listener(rows_of("logs.index", steps))
            assert await store.logs.index(most=1) == STEP["lines"]
            assert await store.logs.index() == 1_504
            assert steps == [1_000, 1_000, 501, 1, 1, 1, 0]
            await require_sound(store)

    async def test_the_end_of_a_recorded_build_fills_it(self, path: Path) -> None:
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(["echo", "needle"])
            assert await store.logs.index() == 0
            assert len(await store.logs.search("needle")) == 1

    async def test_a_build_is_recorded_even_if_that_fails(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with await BuildStore.open(path) as store:
            await store.db.execute(Query("test.break", "DROP TABLE build_logs_fts_config")())
        async with await BuildStore.open(path) as store:
            async with store.recorder("app") as build:
                await build.run(["echo", "needle"])
            assert build.build.status == "success"
        assert "not in the index" in caplog.text

    async def test_a_search_needs_no_right_to_write(self, path: Path) -> None:
        async with await filled(path):
            pass
        async with Database(path, read_only=True) as db:
            assert len(await Logs(db).search("a.kt")) == 8

    async def test_lines_from_before_the_index_are_found(self, path: Path) -> None:
        steps = load_migrations("abt_db.schema")
        async with Database(path) as db:
            await Migrator(db, steps).up(4)
            await ended(BuildStore(db), lines=3)
        async with await BuildStore.open(path) as store:
            assert len(await found(store, "line")) == 3
            await require_sound(store)
            assert len(await found(store, "line")) == 3
            await Migrator(store.db, steps).down(4)
            await Migrator(store.db, steps).up()
            assert len(await found(store, "line")) == 3

    async def test_without_fts5_the_schema_stays_as_it_was_and_it_is_said_why(
        self, path: Path
    ) -> None:
        steps = load_migrations("abt_db.schema")
        elsewhere = [replace(step, up=step.up.replace("fts5 (", "fts9 (")) for step in steps]
        async with Database(path) as db:
            with pytest.raises(MigrationFailedError, match="no such module: fts9"):
                await Migrator(db, elsewhere).up()
            build = await ended(BuildStore(db), lines=3)
            assert await Logs(db).count(build_id=build) == 3
            await db.execute(Query("test.delete", "DELETE FROM builds")())

    async def test_vacuum_leaves_it_as_it_was(self, path: Path) -> None:
        async with await filled(path) as store:
            await store.db.execute(DEEDS["delete line"](n=3))
            expected = await found(store, "a.kt")
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("VACUUM")
        async with await BuildStore.open(path) as store:
            assert await found(store, "a.kt") == expected
            await require_sound(store)

    def test_whatever_is_done_to_lines(self) -> None:
        with asyncio.Runner() as runner:
            store = runner.run(BuildStore.open(":memory:"))

            @settings(max_examples=40, deadline=None)
            @given(
                st.lists(st.tuples(st.sampled_from(list(DEEDS)), st.integers(0, 9)), max_size=12)
            )
            # Ids of deleted lines at the end are given again.
            @example([("append", 5), ("index", 0), ("delete build", 0), ("append", 3)])
            @example([("append", 5), ("index", 0), ("delete line", 4), ("append", 3)])
            def holds(deeds: list[tuple[str, int]]) -> None:
                runner.run(do(deeds))

            async def do(deeds: list[tuple[str, int]]) -> None:
                await store.db.execute(DEEDS["delete project"](n=0))
                for deed, number in deeds:
                    if deed == "index":
                        await store.logs.index()
                    elif deed == "append":
                        build = await ended(store, lines=number)
                        await append(store, build, [f"naïve\0{number}", "😀" * number])
                    else:
                        await store.db.execute(DEEDS[deed](n=number))
                    await compare()
                await require_sound(store)
                await compare()

            async def compare() -> None:
                lines = await store.db.fetch_all(LINES())
                for text in ("line", "1 of app", "naïve", "😀😀😀", "changed"):
                    assert await found(store, text) == found_by_python(lines, text)

            holds()
            runner.run(store.close())

    async def test_the_comparison_can_fail(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            await ended(store, lines=3)
            await require_sound(store)
            await store.db.execute(Query("test.drop", "DROP TRIGGER build_logs_deleted")())
            await store.db.execute(DEEDS["delete line"](n=1))
            with pytest.raises(CorruptError):
                await require_sound(store)


_NTH = "(SELECT id FROM build_logs ORDER BY id LIMIT 1 OFFSET :n)"

DEEDS = {
    "append": Query("test.none", "SELECT :n", int),
    "index": Query("test.none", "SELECT :n", int),
    "delete line": Query("test.delete_line", f"DELETE FROM build_logs WHERE id = {_NTH}"),
    "change line": Query(
        "test.change_line", f"UPDATE build_logs SET message = 'changed' WHERE id = {_NTH}"
    ),
    "delete build": Query(
        "test.delete_build",
        "DELETE FROM builds WHERE id = (SELECT id FROM builds ORDER BY id DESC LIMIT 1 OFFSET :n)",
    ),
    "delete project": Query("test.delete_project", "DELETE FROM projects WHERE :n >= 0"),
}

BLOCKS = Query("test.blocks", "SELECT id, block FROM build_logs_fts_data ORDER BY id")


def rows_of(query: str, counts: list[int]) -> Callable[[Event], None]:
    """Return a listener that notes how many rows each run of a query has changed."""

    def listen(event: Event) -> None:
        if isinstance(event, Ran) and event.query == query:
            counts.append(event.rows)

    return listen
