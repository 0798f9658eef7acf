"""What all tests share: `async def` tests run without a plugin, and nothing may hang."""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

HANG = 14_400.0 if os.environ.get("ABT_DB_LONG") else 1_800.0
"""Seconds after which a test hangs. The largest take a minute where nothing else runs."""

SOON = 300.0
"""Seconds after which what should happen at once has not happened. A test that waits for it fails
only then, and none may fail because a machine is slow, or stands still for a while."""

ROOT = Path(__file__).resolve().parents[1]
RBTLOG = ROOT.parent / "shared" / "data" / "rbtlog"

# An example may take as long as it takes, and so may making it.
hypothesis.settings.register_profile(
    "slow machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("slow machine")

# Tests are of the installed package; `python -m pytest` would put the checkout before it, where
# `abt_db.schema` and `abt_db.tools` are not to be found.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function in a loop of its own, which is `clock` if the test asks for that;
    more than HANG seconds fail it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}

    clock = pyfuncitem.funcargs.get("clock")

    async def within_limit() -> None:
        # Where the test puts the clock forward, the limit is that of `pytest_runtest_protocol`.
        async with asyncio.timeout(None if clock else HANG):
            await pyfuncitem.obj(**arguments)

    with asyncio.Runner(loop_factory=(lambda: clock) if clock else None) as runner:
        runner.run(within_limit())
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A test that no limit in the event loop can end: show where its threads stand, and exit."""
    faulthandler.dump_traceback_later(HANG + SOON, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.environ.get("ABT_DB_BRIEF") and item.get_closest_marker("large"):
        pytest.skip("ABT_DB_BRIEF is set: the gate runs this on its first Python")


class Clock(asyncio.SelectorEventLoop):
    """A loop whose clock, and the library's with it, can be put forward: a limit is over when the
    test has come to where it wants it to be, however long the machine has taken for that."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def passes(self, seconds: float) -> None:
        """Put the clock forward. From any thread."""
        self.ahead += seconds
        self.call_soon_threadsafe(self.time)  # so that the loop looks which timers are due

    def lead(self, patch: pytest.MonkeyPatch) -> None:
        """Have the library go by this clock, whichever of its modules look at one."""
        ours: dict[str, Any] = {
            "monotonic": lambda: time.monotonic() + self.ahead,
            "monotonic_ns": lambda: time.monotonic_ns() + int(self.ahead * 1e9),
        }
        ours["time"] = SimpleNamespace(**vars(time) | ours)
        theirs = {"time": time, "monotonic": time.monotonic, "monotonic_ns": time.monotonic_ns}
        for module in [sys.modules[name] for name in sys.modules if name.startswith("abt_db")]:
            for name, its in theirs.items():
                if getattr(module, name, None) is its:
                    patch.setattr(module, name, ours[name])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The loop that the test runs in."""
    clock = Clock()
    clock.lead(monkeypatch)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database file that does not exist yet."""
    return tmp_path / "app.db"


@pytest.fixture(scope="session")
def rbtlog() -> Path:
    """The folder of real build logs, which lies beside the checkout and not in it."""
    if not RBTLOG.is_dir():
        missing = "the rbtlog data (../shared/data/rbtlog) is not on this machine"
        if os.environ.get("ABT_DB_NEEDS_DATA"):
            pytest.fail(missing)
        pytest.skip(missing)
    return RBTLOG


@pytest.fixture(scope="session")
def rbtlog_database(rbtlog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build database with all of rbtlog in it, imported once. Not to be changed: who writes has
    to copy it first (it is one file, without a log beside it)."""
    path = tmp_path_factory.mktemp("rbtlog") / "builds.db"
    files = [rbtlog / "projects.jsonl", rbtlog / "builds.jsonl.xz"]
    subprocess.run(["abt-db", "import", "--db", path, *files], check=True, capture_output=True)
    return path


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a file descriptor behind."""
    before = threads(), descriptors()
    yield
    assert (threads(), descriptors()) == before


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def descriptors() -> int:
    """How many file descriptors this process has open (0 where the system does not tell)."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


async def eventually(true: Callable[[], object], *, within: float = SOON) -> None:
    """Wait until something is so; fail if it is not `within` so many seconds."""
    deadline = asyncio.get_running_loop().time() + within
    while not true():
        assert asyncio.get_running_loop().time() < deadline, "this has not come about"
        await asyncio.sleep(0.01)
