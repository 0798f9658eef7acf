"""Local locks and semaphores: one at a time, first come first served, whoever is cancelled when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine import Holder, until

from abt_db import LocalLocks, LockStateError, LockTimeoutError


def waiting(locks: LocalLocks) -> int:
    return int(locks.stats()["waiting"])


def unused(locks: LocalLocks) -> bool:
    stats = locks.stats()
    return (stats["held"], stats["waiting"], stats["names"]) == (0, 0, {})


async def enter(block: Any, log: list[str], name: str) -> None:
    """Note in `log` that the block was entered, and leave it."""
    async with block:
        log.append(name)


async def line_up(locks: LocalLocks, log: list[str], *names: str) -> list[asyncio.Task[None]]:
    """Have tasks wait for lock "a", in this order; they note when they have it."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(enter(locks.lock("a"), log, name), name=name))
        await asyncio.sleep(0)
    assert waiting(locks) == len(names)
    return tasks


class TestALock:
    """One task at a time has it, in the order of coming."""

    async def test_serves_those_who_wait_in_their_order(self) -> None:
        locks, log = LocalLocks(), list[str]()
        async with locks.lock("a"):
            tasks = await line_up(locks, log, "1", "2", "3")
            assert log == []
        await asyncio.gather(*tasks)
        assert log == ["1", "2", "3"]
        assert unused(locks)

    async def test_nobody_comes_between_who_lets_go_and_who_waits(self) -> None:
        locks, log = LocalLocks(), list[str]()
        async with locks.lock("a"):
            tasks = await line_up(locks, log, "first")
        # In the very step that has let go, before the other could run.
        await enter(locks.lock("a"), log, "newcomer")
        await asyncio.gather(*tasks)
        assert log == ["first", "newcomer"]

    async def test_other_names_are_other_locks(self) -> None:
        locks = LocalLocks()
        async with locks.lock("a"), locks.lock("b", timeout=0):
            assert locks.stats()["held"] == 2

    async def test_can_be_let_go_before_the_end_and_only_once(self) -> None:
        locks, log = LocalLocks(), list[str]()
        async with locks.lock("a") as permit:
            (task,) = await line_up(locks, log, "1")
            permit.release()
            async with Holder(locks.lock("a")):
                await task
                permit.release()  # not that of the other, who has it now
                assert locks.stats()["held"] == 1
        assert unused(locks)

    async def test_a_task_that_has_it_is_told_at_once(self) -> None:
        locks = LocalLocks()
        async with locks.lock("a"):
            with pytest.raises(LockStateError, match="this very task"):
                await locks.lock("a").__aenter__()
            assert locks.stats()["held"] == 1
        assert unused(locks)

    async def test_a_block_is_entered_once(self) -> None:
        permit = LocalLocks().lock("a")
        async with permit:
            pass
        with pytest.raises(LockStateError, match="once"):
            await permit.__aenter__()


class TestASemaphore:
    """As many tasks as its limit says, and no more."""

    async def test_lets_in_as_many_as_its_limit_says(self) -> None:
        locks = LocalLocks()
        inside: list[int] = []

        async def work() -> None:
            async with locks.semaphore("s", 3):
                inside.append(locks.stats()["held"])
                await asyncio.sleep(0)

        await asyncio.gather(*(work() for _ in range(20)))
        assert max(inside) == 3
        assert len(inside) == 20
        assert unused(locks)

    async def test_may_be_held_twice_by_a_task_if_others_can_let_go(self) -> None:
        locks = LocalLocks()
        async with Holder(locks.semaphore("s", 2)) as other, locks.semaphore("s", 2):
            entering = asyncio.create_task(locks.semaphore("s", 2).__aenter__())
            await until(lambda: waiting(locks) == 1)
            other.let_go()
            await entering
            with pytest.raises(LockTimeoutError):
                await locks.semaphore("s", 2, timeout=0).__aenter__()

    async def test_has_one_limit_at_a_time(self) -> None:
        locks = LocalLocks()
        async with locks.semaphore("s", 2):
            with pytest.raises(ValueError, match="limit of 2, not 3"):
                await locks.semaphore("s", 3).__aenter__()
        async with locks.semaphore("s", 3):
            pass
        with pytest.raises(ValueError, match="1 or more"):
            locks.semaphore("s", 0)


class TestTimeouts:
    """fault 78: a waiter whose time is over has nothing, and lets go of nothing."""

    async def test_the_error_names_the_holder(self) -> None:
        locks = LocalLocks()
        async with Holder(locks.lock("a"), name="the deploy"):
            with pytest.raises(LockTimeoutError, match=r"'a'.* 0\.01 s; task 'the deploy' has"):
                await locks.lock("a", timeout=0.01).__aenter__()
            stats = locks.stats()
            assert (stats["held"], stats["waiting"], stats["timeouts"]) == (1, 0, 1)
            assert stats["longest_wait"] >= 0.01
        assert unused(locks)

    async def test_zero_is_one_try(self) -> None:
        locks = LocalLocks()
        async with locks.lock("a", timeout=0):
            pass
        assert locks.stats()["grants"] == 1

    @pytest.mark.parametrize("first", ["time over", "let go"])
    async def test_in_the_instant_of_the_hand_over(self, first: str) -> None:
        """The lock comes free in the same step as the time is over: one of both holds."""
        locks = LocalLocks()
        async with locks.lock("a") as permit:
            late = locks.lock("a", timeout=60)
            task = asyncio.create_task(late.__aenter__())
            await until(lambda: waiting(locks) == 1)
            steps: list[Callable[[], None]] = [late._expire, permit.release]
            for step in steps if first == "time over" else reversed(steps):
                step()
        if first == "time over":
            with pytest.raises(LockTimeoutError):
                await task
        else:
            await task
            assert locks.stats()["held"] == 1
            late.release()
        assert unused(locks)


class TestCancelling:
    """invariant 13: a waiter that is cancelled takes nothing with it."""

    async def test_while_it_waits(self) -> None:
        locks, log = LocalLocks(), list[str]()
        async with locks.lock("a"):
            first, second = await line_up(locks, log, "1", "2")
            first.cancel()
            await asyncio.wait([first])
            assert waiting(locks) == 1
        await second
        assert first.cancelled()
        assert log == ["2"]
        assert unused(locks)

    @pytest.mark.parametrize("others", [0, 2])
    async def test_in_the_instant_of_the_hand_over(self, others: int) -> None:
        locks, log = LocalLocks(), list[str]()
        async with locks.lock("a"):
            first, *rest = await line_up(locks, log, *map(str, range(others + 1)))
        # It has the lock now, and has not run since.
        assert locks.stats()["names"]["a"]["holders"][0]["task"] == "0"
        first.cancel()
        await asyncio.wait([first, *rest])
        assert first.cancelled()
        assert log == ["1", "2"][:others]
        assert unused(locks)

    async def test_before_the_hand_over_in_the_same_step(self) -> None:
        locks, log = LocalLocks(), list[str]()
        async with locks.lock("a"):
            first, second = await line_up(locks, log, "1", "2")
            first.cancel()
        await asyncio.wait([first, second])
        assert log == ["2"]
        assert unused(locks)

    async def test_inside_the_block(self) -> None:
        locks, log = LocalLocks(), list[str]()
        async with Holder(locks.lock("a")) as holder:
            (task,) = await line_up(locks, log, "1")
            assert holder.task is not None
            holder.task.cancel()
            await task
            holder.task = asyncio.ensure_future(asyncio.sleep(0))
        assert unused(locks)

    @given(
        st.integers(1, 3),
        st.lists(st.sampled_from(["ask", "let go", "cancel", "expire", "run"])),
        st.randoms(use_true_random=False),
    )
    def test_at_any_instant(self, limit: int, steps: list[str], random: Any) -> None:
        """Whatever happens in whatever order: never too many inside, nobody forgotten."""

        def has(task: asyncio.Task[Any]) -> bool:
            return task.done() and not task.cancelled() and task.exception() is None

        async def play() -> None:
            locks = LocalLocks()
            asked: list[tuple[asyncio.Task[Any], Any]] = []

            def let_go() -> None:
                for task, permit in asked:
                    if has(task):
                        permit.release()

            for step in steps:
                if step == "ask":
                    permit: Any = locks.semaphore("s", limit, timeout=60)
                    asked.append((asyncio.create_task(permit.__aenter__()), permit))
                elif step == "run":
                    await asyncio.sleep(0)
                elif asked:
                    task, permit = random.choice(asked)
                    if step == "cancel":
                        task.cancel()
                    elif step == "let go" and has(task):
                        permit.release()
                    elif step == "expire" and hasattr(permit, "_future"):
                        permit._expire()
                for line in locks._lines.values():
                    idle = limit - len(line.holding)
                    assert idle == 0 or all(each._future.done() for each in line.waiting)
                    assert idle >= 0
            while pending := [task for task, _ in asked if not task.done()]:
                let_go()
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            let_go()
            assert unused(locks)

        asyncio.run(play())


class TestWhereItIsUsed:
    """One event loop, and no more memory than there are names in use."""

    async def test_names_are_forgotten(self) -> None:
        locks = LocalLocks()
        for number in range(1000):
            async with locks.lock(f"project {number}"):
                assert len(locks.stats()["names"]) == 1
        assert unused(locks)
        assert locks.stats()["grants"] == 1000

    def test_another_loop_is_told_so(self) -> None:
        locks = LocalLocks()

        async def use() -> None:
            async with locks.lock("a", timeout=0):
                pass

        with asyncio.Runner() as first, asyncio.Runner() as second:
            first.run(use())
            with pytest.raises(LockStateError, match="another event loop"):
                second.run(use())

    def test_a_loop_that_is_closed_holds_nothing(self) -> None:
        locks = LocalLocks()

        async def have() -> None:
            await locks.lock("a", timeout=0).__aenter__()

        asyncio.run(have())
        asyncio.run(have())
        assert locks.stats()["held"] == 1
