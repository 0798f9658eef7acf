"""`store.logs`: lines of one build, whole, by pages, from the end, by level and text."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logged import append, ended, started

from abt_db.builds import BuildStore, Level, LogLine

TEXTS = ["", "a", "A", "%", "_", "\\", "'", '"', "a%", "\0", "b\0a", "é", "😀"]


@pytest.fixture(scope="module")
def filled() -> Iterator[tuple[asyncio.Runner, BuildStore, int, list[LogLine]]]:
    """A build of 400 lines of all levels, between others."""
    chance = random.Random(5)
    with asyncio.Runner() as runner:
        store = runner.run(BuildStore.open(":memory:"))
        build = runner.run(started(store))
        for _ in range(100):
            level = chance.choice(list(Level))
            for each in (build, runner.run(ended(store))):
                messages = ["".join(chance.choices(TEXTS, k=4)) for _ in range(4)]
                runner.run(append(store, each, messages, level))
        yield runner, store, build, runner.run(store.logs.for_build(build))
        runner.run(store.close())


async def streamed(store: BuildStore, build: int, **chosen: Any) -> list[LogLine]:
    async with store.logs.stream(build, **chosen) as lines:
        return [line async for line in lines]


class TestChoosing:
    """What is chosen in SQL is what Python would choose from all lines."""

    def test_any_choice(
        self, filled: tuple[asyncio.Runner, BuildStore, int, list[LogLine]]
    ) -> None:
        runner, store, build, lines = filled
        assert [line.sequence_number for line in lines] == list(range(1, 401))
        assert {line.build_id for line in lines} == {build}
        assert runner.run(store.logs.count(build_id=build)) == 400

        @settings(max_examples=60, deadline=None)
        @given(
            st.integers(0, 401), st.sampled_from(Level), st.sampled_from(TEXTS), st.integers(0, 9)
        )
        def holds(after: int, level: Level, text: str, number: int) -> None:
            chosen = [line for line in lines if line.level.at_least(level) and text in line.message]
            behind = [line for line in chosen if line.sequence_number > after]
            by: dict[str, Any] = {"level": level, "containing": text}
            logs = store.logs
            assert (
                runner.run(logs.for_build(build, after=after, limit=number, **by))
                == (behind[:number])
            )
            assert runner.run(streamed(store, build, after=after, **by)) == behind
            assert runner.run(logs.tail(build, number, **by)) == chosen[len(chosen) - number :]

        holds()

    async def test_a_build_that_is_not_there_has_no_lines(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            assert await store.logs.for_build(7) == await store.logs.tail(7) == []
            assert await store.logs.count(build_id=7) == 0


class TestRows:
    """Log lines can be handled one by one, as the rows of every table."""

    async def test_what_every_table_can_do(self) -> None:
        async with await BuildStore.open(":memory:") as store:
            build = await started(store)
            lines = [await store.logs.create(build_id=build, message=text) for text in "abcde"]
            assert [line.sequence_number for line in lines] == [1, 2, 3, 4, 5]
            changed = await store.logs.update(lines[1].id, level=Level.ERROR)
            assert changed is not None and changed.message == "b"
            assert await store.logs.get_all(level=Level.ERROR) == [changed]
            page = await store.logs.get_all(2, order_by="-sequence_number", build_id=build)
            assert page == [lines[4], lines[3]]
            rest = await store.logs.get_all(
                order_by="-sequence_number", after=page[-1], build_id=build
            )
            assert rest == [lines[2], changed, lines[0]]
            assert await store.logs.delete(lines[4].id) is True
            assert await store.logs.count(build_id=build) == 4


class TestAppend:
    """Sequence numbers are given by the database, whoever appends at the same time."""

    async def test_many_writers(self, path: Any) -> None:
        async with (
            await BuildStore.open(path) as one,
            await BuildStore.open(path) as another,
        ):
            build = await started(one)
            await asyncio.gather(
                *(append(one, build, [f"{n}"] * 3) for n in range(20)),
                *(append(another, build, [f"{n}"] * 3) for n in range(20, 40)),
            )
            lines = await one.logs.for_build(build)
        assert [line.sequence_number for line in lines] == list(range(1, 121))
        texts = [line.message for line in lines]
        assert texts[::3] == texts[1::3] == texts[2::3]  # an append is not torn apart
        assert sorted(map(int, texts[::3])) == list(range(40))
