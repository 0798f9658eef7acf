"""Who records a build, and whether that process is still there.

A recorder that is killed can't say so. Its build names the process instead, in a way that no later
process has: by its number *and* when it was started, in which run of which machine.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from abt_db.sql.values import json_reader

from .models import as_notes
from .usage import processes


@dataclass(frozen=True, slots=True)
class Holder:
    """A process of one machine."""

    host: str
    boot: str
    """Tells one run of the machine from the next, and one container from another."""
    pid: int
    started: int
    """When the process was started, in ticks of the machine's clock; 0 where that is unknown."""

    @classmethod
    def this_process(cls) -> Self:
        pid = os.getpid()
        return cls(socket.gethostname(), _boot(), pid, _started(pid))

    @classmethod
    def from_metadata(cls, metadata: object) -> Self | None:
        """Read what `as_metadata` wrote; None where there is nothing of the kind."""
        try:
            holder: Self = json_reader(cls)(as_notes(metadata).get("recorder"))
        except ValueError:
            return None
        return holder

    def as_metadata(self) -> dict[str, Any]:
        return {"recorder": asdict(self)}

    def gone(self) -> bool:
        """Whether the process has certainly ended. False as well when it can't be known from here:
        on another machine, or in another container of this one."""
        if self.host != socket.gethostname():
            return False
        if self.boot != _boot():
            # Another run of this machine is over. Another container of this run may go on.
            return self.boot.partition("/")[0] != _boot().partition("/")[0]
        return self.started != _started(self.pid)


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> int:
    """When the process was started; 0 where that is unknown, -1 when there is no such process."""
    for process in processes(pid):
        return -1 if process.zombie else process.started
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return -1
    except PermissionError:
        pass  # it is there, and somebody else's
    return 0
