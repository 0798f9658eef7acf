"""P6 and P11: what is measured in a fresh process, because memory, modules and caches stay.

`python -m abt_db.tools.bench.processes NAME FILE TIMES` is the child of P6.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from pathlib import Path
from time import perf_counter

from .sample import BUILDS_ROWS, WrongWorkError
from .systems import Streams, make
from .trial import Measures, Trial

TRIES = 3

_IMPORT = """
import json, time
began = time.perf_counter()
{statement}
print(json.dumps({{"ms": (time.perf_counter() - began) * 1000}}))
"""

_OPEN = """
import asyncio, json, sys, time
from abt_db.builds import BuildStore

async def main():
    began = time.perf_counter()
    store = await BuildStore.open(sys.argv[1])
    ms = (time.perf_counter() - began) * 1000
    if await store.projects.with_build_stats() != []:
        sys.exit("a new database is not empty")
    await store.close()
    print(json.dumps({"ms": ms}))

asyncio.run(main())
"""


async def stream(trial: Trial) -> Measures:
    """P6: a long result, row by row; how fast, and how far the memory grows."""
    assert isinstance(trial.system, Streams)
    if "times" not in trial.memory:
        began = perf_counter()
        await trial.system.stream(1)
        affordable = trial.size.seconds * 10 / (perf_counter() - began)
        trial.memory["times"] = max(1, min(trial.size.rows // BUILDS_ROWS, int(affordable)))
    times = trial.memory["times"]
    child = ("-m", "abt_db.tools.bench.processes", trial.name, str(trial.path), str(times))
    found = await _python(*child)
    rows = BUILDS_ROWS * times
    if (found["rows"], found["total"]) != (rows, (BUILDS_ROWS + 1) * rows // 2):
        raise WrongWorkError("streamed other rows than the database has")
    return {
        "rows per second": rows / found["seconds"],
        "growth MB": found["growth"] / 1e6,
        "rows": rows,
    }


async def opening(trial: Trial) -> Measures:
    """P11: what the import of `abt_db` takes over `import aiosqlite`; opening and migrating a new
    file."""
    engine = "from abt_db import Database"  # the package alone imports nothing
    alone, whole = [
        [await _python("-c", _IMPORT.format(statement=statement)) for _ in range(TRIES)]
        for statement in ("import aiosqlite", engine)
    ]
    opened = [
        await _python("-c", _OPEN, str(trial.path.with_name(f"new-{number}.db")))
        for number in range(TRIES)
    ]
    aiosqlite, abt_db, new = (
        sorted(t["ms"] for t in tries)[TRIES // 2] for tries in (alone, whole, opened)
    )
    return {"import ms": abt_db - aiosqlite, "open ms": new, "aiosqlite ms": aiosqlite}


async def _python(*arguments: str) -> dict[str, float]:
    """Run this Python in a process of its own; return what it prints, a JSON object."""
    # As installed packages have it, there is bytecode from the second time on.
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # the installed package, not what stands in the working directory
        *arguments,
        env=settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise WrongWorkError(errors.decode(errors="replace").strip().rpartition("\n")[2])
    found: dict[str, float] = json.loads(output)
    return found


async def _stream(name: str, path: Path, times: int) -> dict[str, float]:
    system = make(name)
    assert isinstance(system, Streams)
    await system.open(path, "normal")
    try:
        await system.stream(1)  # what is needed once: caches, threads, code
        before = _peak_memory()
        began = perf_counter()
        rows, total = await system.stream(times)
        seconds = perf_counter() - began
        growth = _peak_memory() - before
    finally:
        await system.close()
    return {"rows": rows, "total": total, "seconds": seconds, "growth": growth}


def _peak_memory() -> int:
    """The most bytes that this process has had in memory.

    Linux's `ru_maxrss` begins with that of the process which started this one, so /proc is asked
    where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_stream(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))))
