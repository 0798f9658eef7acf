"""What all tests share: `async def` tests run without a plugin, and nothing may hang."""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support.clock import Clock
from support.suite import HANG, RBTLOG, ROOMS, ROOT, SOON, descriptors, threads

# An example may take as long as it takes, and so may making it.
hypothesis.settings.register_profile(
    "slow machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("slow machine")

# Tests are of the installed package; `python -m pytest` would put the checkout before it, where
# `abt_db.schema` and `abt_db.tools` are not to be found.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path += ROOMS  # some use the helpers of another room's tests


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
