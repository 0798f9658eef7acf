"""Where the suite stands, how long its tests wait, and what they look at in their process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

HANG = 14_400.0 if os.environ.get("ABT_DB_LONG") else 1_800.0
"""Seconds after which a test hangs. The largest take a minute where nothing else runs."""

SOON = 300.0
"""Seconds after which what should happen at once has not happened. A test that waits for it fails
only then, and none may fail because a machine is slow, or stands still for a while."""

ROOT = Path(__file__).resolve().parents[2]
ROOMS = [str(room) for room in sorted((ROOT / "tests").iterdir()) if room.is_dir()]
RBTLOG = ROOT.parent / "shared" / "data" / "rbtlog"


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
