"""`logs.follow`: each line once, in order, soon after its commit, until the build has ended."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time

import pytest
from support.engine import SOON, script, until

from abt_db import Query
from abt_db.builds import Build, BuildStatus, BuildStore, Level, LogLine, Stream
from abt_db.builds.output import Line

DELETE_BUILD = Query("builds.delete", "DELETE FROM builds WHERE id = :id")
DELETE_LINES = Query(
    "logs.delete", "DELETE FROM build_logs WHERE build_id = :id AND sequence_number <= :last"
)


def lines(messages: Iterable[str]) -> Iterator[tuple[Line, Level, str | None]]:
    now = datetime.now(UTC)
    for message in messages:
        yield Line(Stream.STDOUT, now, message, None), Level.INFO, None


@asynccontextmanager
async def building(path: Path) -> AsyncIterator[tuple[BuildStore, Build]]:
    """A store with a build that runs."""
    async with await BuildStore.open(path) as store:
        project = await store.projects.ensure(
            "app", project_type="", repository_url="", local_path=""
        )
        yield store, await store.builds.start(project.id)


class Follower:
    """A task that follows a build, and what it has seen."""

    def __init__(self, store: BuildStore, build: Build) -> None:
        self.seen: list[LogLine] = []
        self.task = asyncio.create_task(self._follow(store, build))

    async def _follow(self, store: BuildStore, build: Build) -> None:
        async for line in store.logs.follow(build.id):
            self.seen.append(line)

    @property
    def messages(self) -> list[str]:
        return [line.message for line in self.seen]

    async def end(self) -> None:
        await asyncio.wait_for(self.task, SOON)


class TestInOneProcess:
    """Lines come as they are committed."""

    async def test_from_the_first_line_to_the_end_of_the_build(self, path: Path) -> None:
        async with building(path) as (store, build):
            await store.logs.append(build.id, lines(["before"]))
            follower = Follower(store, build)
            await until(lambda: follower.messages == ["before"])
            for number in range(20):
                await store.logs.append(build.id, lines([f"{number}.{n}" for n in range(number)]))
            await store.logs.append(build.id, lines(["last"]))
            await store.builds.update_status(build.id, BuildStatus.SUCCESS)
            await follower.end()
            assert [line.sequence_number for line in follower.seen] == [*range(1, 193)]
            assert follower.messages[-1] == "last"

    async def test_of_a_build_that_has_ended(self, path: Path) -> None:
        async with building(path) as (store, build):
            await store.logs.append(build.id, lines(map(str, range(2500))))
            await store.builds.update_status(build.id, BuildStatus.FAILED)
            follower = Follower(store, build)
            await follower.end()
            assert follower.messages == [*map(str, range(2500))]

    async def test_behind_a_number(self, path: Path) -> None:
        async with building(path) as (store, build):
            await store.logs.append(build.id, lines("abcde"))
            await store.builds.update_status(build.id, BuildStatus.SUCCESS)
            assert [line.message async for line in store.logs.follow(build.id, after=3)] == [
                "d",
                "e",
            ]

    async def test_lines_that_were_deleted_are_passed_over(self, path: Path) -> None:
        async with building(path) as (store, build):
            await store.logs.append(build.id, lines("abc"))
            await store.db.execute(DELETE_LINES(id=build.id, last=3))
            follower = Follower(store, build)
            await asyncio.sleep(0)
            await store.logs.append(build.id, lines("d"))
            await store.builds.update_status(build.id, BuildStatus.SUCCESS)
            await follower.end()
            assert follower.messages == ["d"]

    async def test_a_build_that_is_not_there(self, path: Path) -> None:
        async with building(path) as (store, build):
            with pytest.raises(LookupError, match="no build"):
                await anext(store.logs.follow(build.id + 1))
            follower = Follower(store, build)
            await store.logs.append(build.id, lines("a"))
            await until(lambda: follower.seen)
            await store.db.execute(DELETE_BUILD(id=build.id))
            with pytest.raises(LookupError, match="no build"):
                await follower.end()

    @pytest.mark.parametrize("how", ["aclosing", "break"])
    async def test_one_that_is_abandoned_ends(self, path: Path, how: str) -> None:
        async with building(path) as (store, build):
            await store.logs.append(build.id, lines("ab"))
            if how == "break":
                async for _ in store.logs.follow(build.id):
                    break
            else:
                async with aclosing(store.logs.follow(build.id)) as following:
                    await anext(following)
                assert not store.db._watching._lives
            await until(lambda: not store.db._watching._lives)

    async def test_the_end_of_all_watches_is_before_the_next_line(self, path: Path) -> None:
        async with building(path) as (store, build):
            await store.logs.append(build.id, lines("abc"))
            follower = Follower(store, build)
            await until(lambda: len(follower.seen) == 3)
            async with aclosing(store.logs.follow(build.id)) as following:
                assert (await anext(following)).message == "a"
                store.db.end_watches()
                assert [line async for line in following] == []
            await follower.end()

    async def test_many_followers_are_one_query(self, path: Path) -> None:
        async with building(path) as (store, build):
            followers = [Follower(store, build) for _ in range(20)]
            for number in range(50):
                await store.logs.append(build.id, lines([str(number)]))
            await store.builds.update_status(build.id, BuildStatus.SUCCESS)
            for follower in followers:
                await follower.end()
                assert follower.messages == [*map(str, range(50))]
            assert store.db.stats()["queries"]["logs.progress"]["count"] < 100


APPENDING = """
    import test_follow
    from abt_db.builds import BuildStore

    async def append():
        build, name, count = int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
        async with await BuildStore.open(path) as store:
            for first in range(0, count, 500):
                messages = [f"{name} {n}" for n in range(first, min(first + 500, count))]
                await store.logs.append(build, test_follow.lines(messages))

    asyncio.run(append())
"""

FOLLOWING = """
    import hashlib, time
    from abt_db.builds import BuildStore

    async def follow():
        seen = hashlib.sha256()
        numbers, late = [], []
        async with await BuildStore.open(path) as store:
            print("ready", flush=True)
            async for line in store.logs.follow(int(sys.argv[2])):
                numbers.append(line.sequence_number)
                seen.update(line.message.encode() + b"\\n")
                late.append(time.time() - line.timestamp.timestamp())
        assert numbers == list(range(1, len(numbers) + 1))
        late.sort()
        print(len(numbers), seen.hexdigest(), late[len(late) // 2], late[-1])

    asyncio.run(follow())
"""


@asynccontextmanager
async def processes() -> AsyncIterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts scripts; those that still run at the end of the block are killed."""
    with ExitStack() as stack:

        def start(code: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
            command = [*script(code), str(path), *map(str, arguments)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


class TestAmongProcesses:
    """Whoever appends, whoever follows."""

    @pytest.mark.large
    async def test_three_follow_while_two_append_a_hundred_thousand_lines(self, path: Path) -> None:
        async with building(path) as (store, build), processes() as start:
            following = [start(FOLLOWING, path, build.id) for _ in range(3)]
            for process in following:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            appending = [start(APPENDING, path, build.id, name, 50_000) for name in "ab"]
            for process in appending:
                assert await asyncio.to_thread(process.wait, SOON) == 0
            await store.builds.update_status(build.id, BuildStatus.SUCCESS)

            whole = hashlib.sha256()
            messages = []
            async with store.logs.stream(build.id) as log:
                async for line in log:
                    messages.append(line.message)
                    whole.update(line.message.encode() + b"\n")
            for process in following:
                said, _ = await asyncio.to_thread(process.communicate, None, SOON)
                count, seen, *_ = said.split()
                assert (int(count), seen) == (100_000, whole.hexdigest())
            # Two wrote at the same time, and each one's lines are in its order.
            for name in "ab":
                own = [message for message in messages if message.startswith(name)]
                assert own == [f"{name} {n}" for n in range(50_000)]

    async def test_how_soon_a_line_comes(self, path: Path) -> None:
        """Shown by `pytest -s`: how late, in milliseconds, lines come here and in another process
        that come one by one."""
        async with building(path) as (store, build), processes() as start:
            other = start(FOLLOWING, path, build.id)
            assert other.stdout is not None
            assert await asyncio.to_thread(other.stdout.readline) == "ready\n"

            async def follow() -> list[float]:
                return [
                    time() - line.timestamp.timestamp()
                    async for line in store.logs.follow(build.id)
                ]

            following = asyncio.create_task(follow())
            ends = monotonic() + 0.5
            while monotonic() < ends:
                await store.logs.append(build.id, lines(["line"]))
                await asyncio.sleep(0.013)
            await store.builds.update_status(build.id, BuildStatus.SUCCESS)
            late = await asyncio.wait_for(following, SOON)
            said, _ = await asyncio.to_thread(other.communicate, None, SOON)
            median, most = (1000 * float(figure) for figure in said.split()[2:])
            print(
                f"\nhere: median {1000 * statistics.median(late):.0f} ms,"
                f" most {1000 * max(late):.0f} ms;"
                f" in another process: median {median:.0f} ms, most {most:.0f} ms"
            )
            assert len(late) == await store.logs.count(build_id=build.id)
