"""The spool between a build that prints and a database that stores: nothing lost, nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abt_db.builds.output import Chunk, Stream
from abt_db.builds.spool import Spool

NOON = datetime(2026, 3, 1, 12, 30, 15, 123457, tzinfo=UTC)
KIB = 1024


def numbered(number: int, size: int = 0) -> Chunk:
    """A chunk like no other."""
    at = NOON + timedelta(microseconds=number)
    return Chunk(Stream(1 + number % 2), at, b"%d" % number + bytes(size))


async def rest_of(spool: Spool) -> list[Chunk]:
    spool.close()
    chunks = []
    while taken := await spool.take(20 * KIB):
        chunks += taken
    return chunks


class TestOrder:
    """Chunks come out as they went in, by way of memory, of the file, or of both."""

    @settings(deadline=None)
    @example([("put", 0), ("take", 0)], 0)
    @given(
        st.lists(st.tuples(st.sampled_from(["put", "put", "take"]), st.integers(0, 800))),
        st.sampled_from([0, 700, 3000]),
    )
    def test_any_order_of_puts_and_takes(self, steps: list[tuple[str, int]], memory: int) -> None:
        async def run() -> None:
            put: list[Chunk] = []
            taken: list[Chunk] = []
            with Spool(memory=memory) as spool:
                for number, (step, size) in enumerate(steps):
                    if step == "put":
                        put.append(numbered(number, size))
                        spool.put(put[-1])
                    elif len(taken) < len(put):
                        some = await spool.take(size)
                        assert len(some) == 1 or sum(len(one.data) for one in some) <= size
                        taken += some
                assert taken + await rest_of(spool) == put
                assert spool.chunks == len(put)
                assert spool.total_bytes == sum(len(chunk.data) for chunk in put)

        asyncio.run(run())

    async def test_what_exceeds_the_memory_goes_to_the_file_and_comes_back(
        self, tmp_path: Path
    ) -> None:
        with Spool(memory=100 * KIB, directory=tmp_path) as spool:
            put = [numbered(number, 10 * KIB) for number in range(100)]
            for chunk in put:
                spool.put(chunk)
            assert spool.total_bytes > 1000 * KIB
            assert spool.total_bytes - spool.spilled_bytes <= 100 * KIB
            assert sizes_of_files_in(tmp_path) == [pytest.approx(spool.spilled_bytes, rel=0.1)]
            assert await rest_of(spool) == put
            assert sizes_of_files_in(tmp_path) == [0]
        assert sizes_of_files_in(tmp_path) == []

    async def test_memory_is_used_again_when_the_file_has_been_read(self) -> None:
        with Spool(memory=2 * KIB) as spool:
            put = [numbered(number, KIB) for number in range(4)]
            for chunk in put:
                spool.put(chunk)
            spilled = spool.spilled_bytes
            assert spilled > 0
            taken: list[Chunk] = []
            while len(taken) < len(put):
                taken += await spool.take()
            spool.put(numbered(4))
            assert spool.spilled_bytes == spilled
            assert taken + await rest_of(spool) == [*put, numbered(4)]


class TestBounds:
    """Memory is bounded; a disk that fails takes that bound away, and nothing else."""

    async def test_a_flood_of_tiny_chunks_is_bounded_as_well(self) -> None:
        with Spool(memory=100 * KIB) as spool:
            for number in range(10_000):
                spool.put(numbered(number))
            assert spool.chunks - len(await spool.take()) > 9000

    async def test_no_room_on_the_disk_loses_nothing(self) -> None:
        with Spool(memory=10 * KIB) as spool:
            put = [numbered(number, KIB) for number in range(300)]
            for chunk in put[:100]:
                spool.put(chunk)
            with files_not_longer_than(95 * KIB + 100):  # the end of one comes inside a chunk
                for chunk in put[100:200]:
                    spool.put(chunk)
            full = spool.spilled_bytes
            assert 0 < full < 100 * KIB
            for chunk in put[200:]:
                spool.put(chunk)
            assert spool.spilled_bytes == full, "the order is that of the puts"
            assert await rest_of(spool) == put

    async def test_the_file_is_used_again_when_there_is_room(self) -> None:
        with Spool(memory=KIB) as spool:
            put = [numbered(number, KIB) for number in range(9)]
            with files_not_longer_than(2 * KIB):
                for chunk in put[:6]:
                    spool.put(chunk)
            full = spool.spilled_bytes
            taken: list[Chunk] = []
            while len(taken) < 6:
                taken += await spool.take()
            for chunk in put[6:]:
                spool.put(chunk)
            assert spool.spilled_bytes > full
            assert taken + await rest_of(spool) == put

    async def test_no_place_for_the_file_loses_nothing(self, tmp_path: Path) -> None:
        with Spool(memory=0, directory=tmp_path / "missing") as spool:
            put = [numbered(number) for number in range(10)]
            for chunk in put:
                spool.put(chunk)
            assert await rest_of(spool) == put
            assert spool.spilled_bytes == 0


class TestTaking:
    """The taker sleeps until there is something, is woken once, and can be cancelled any time."""

    async def test_a_taker_gets_what_another_thread_puts(self) -> None:
        with Spool() as spool:
            taker = asyncio.create_task(spool.take())
            await asyncio.sleep(0)
            await asyncio.to_thread(spool.put, numbered(1))
            assert await taker == [numbered(1)]

    async def test_closing_ends_a_taker_that_waits(self) -> None:
        with Spool() as spool:
            taker = asyncio.create_task(spool.take())
            await asyncio.sleep(0)
            await asyncio.to_thread(spool.close)
            assert await taker == []
            assert await spool.take() == []

    async def test_what_was_put_before_closing_can_be_taken(self) -> None:
        with Spool() as spool:
            spool.put(numbered(1))
            spool.close()
            assert await spool.take() == [numbered(1)]
            with pytest.raises(RuntimeError, match="closed"):
                spool.put(numbered(2))
            assert await spool.take() == []

    async def test_a_burst_wakes_the_loop_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        wake_ups = []

        def counted(callback: Callable[..., Any], *arguments: Any) -> None:
            wake_ups.append(callback)
            loop.call_soon(callback, *arguments)

        with Spool() as spool:
            monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
            for number in range(10):
                spool.put(numbered(number))
            assert len(await spool.take()) == 10
            assert wake_ups == []
            taker = asyncio.create_task(spool.take())
            await asyncio.sleep(0)
            for number in range(10):
                spool.put(numbered(number))
            assert len(await taker) == 10
            assert len(wake_ups) == 1

    async def test_cancelling_loses_nothing(self) -> None:
        """Faults 1, 2, for a spool: cancelled at any moment, also while the file is read."""
        put = [numbered(number, 500) for number in range(3000)]
        taken: list[Chunk] = []
        with Spool(memory=4 * KIB) as spool:

            def produce() -> None:
                for chunk in put:
                    spool.put(chunk)
                spool.close()

            producer = threading.Thread(target=produce)
            producer.start()
            cancelled = 0
            while True:
                taker = asyncio.create_task(spool.take(20 * KIB))
                for _ in range(cancelled % 5):
                    await asyncio.sleep(0)
                taker.cancel()
                try:
                    some = await taker
                except asyncio.CancelledError:
                    cancelled += 1
                    continue
                if not some:
                    break
                taken += some
            producer.join()
        assert cancelled > 10
        assert taken == put

    def test_a_closed_loop_does_not_hurt_the_thread_that_reads(self) -> None:
        async def abandon() -> Spool:
            spool = Spool()
            taker = asyncio.create_task(spool.take())
            await asyncio.sleep(0)
            assert not taker.done()
            return spool

        with asyncio.run(abandon()) as spool:
            spool.put(numbered(1))
            spool.put(numbered(2))
            assert spool.chunks == 2


class TestFreeing:
    """Nothing is left of a spool whose block was left."""

    async def test_discarding_frees_the_file_and_forgets_the_chunks(
        self, tmp_path: Path, no_leaks: None
    ) -> None:
        with Spool(memory=0, directory=tmp_path) as spool:
            spool.put(numbered(1))
            assert len(sizes_of_files_in(tmp_path)) == 1
            spool.discard()
            assert sizes_of_files_in(tmp_path) == []
            assert await spool.take() == []


@contextlib.contextmanager
def files_not_longer_than(size: int) -> Iterator[None]:
    """Have this process's writes behind `size` fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes_of_files_in(directory: Path) -> list[int]:
    """The sizes of the files, with or without a name, that this process has open there."""
    sizes = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(descriptor.readlink()).startswith(f"{directory}/"):
                sizes.append(descriptor.stat().st_size)
    return sizes
