"""What a command and everything that it started used: processor time and memory.

The kernel tells this for processes that were waited for by their parents, `os.wait4`. The memory
of several processes at the same time, and the time of those that nobody waited for (Gradle's
daemon, for one), can only be looked at now and then, in Linux's /proc; elsewhere they are missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Seconds between two samples: more often at first, for short commands; and never so often that it
# takes more than a twentieth of one processor, where there are thousands of processes to look at.
_FIRST_INTERVAL = 0.01
_INTERVAL = 0.25
_REST = 20

_PROC = "/proc"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
# Each processor counts some pages of each kind by itself before they are added up, so two readings
# of the same peak differ by as much (percpu_counter_batch in the kernel's lib/percpu_counter.c).
_CPUS = os.cpu_count() or 1
_INEXACT = 4 * _CPUS * max(32, 2 * _CPUS) * _PAGE
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command used, with the processes that it started.

    `cpu_seconds` is user and system time. `peak_memory` is the most bytes that they had in memory
    at the same time, where what several of them share counts several times. Of a command that took
    a few milliseconds it is no more than an upper bound: our own peak.
    """

    cpu_seconds: float
    peak_memory: int


class Process(NamedTuple):
    """A process of this machine, as /proc/PID/stat tells it; see proc_pid_stat(5)."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    """Ticks since the machine started: with `pid`, the identity of a process."""
    cpu_seconds: float
    """Of the process and of the children that it waited for."""
    memory: int
    zombie: bool


def processes(*pids: int) -> Iterator[Process]:
    """The processes with these ids, or all that may be seen; none where there is no /proc."""
    for pid in pids or _pids():
        try:
            file = os.open(f"{_PROC}/{pid}/stat", os.O_RDONLY)
            try:
                stat = os.read(file, 4096)
            finally:
                os.close(file)
        except OSError:
            continue  # it has ended since
        # The name of the program stands in brackets, and may have brackets and spaces in it.
        state, *numbers = stat[stat.rindex(b")") + 2 :].split()
        parent, group, session = map(int, numbers[:3])
        yield Process(
            pid=pid,
            parent=parent,
            group=group,
            session=session,
            started=int(numbers[18]),
            cpu_seconds=sum(map(int, numbers[10:14])) / _TICKS,
            memory=int(numbers[20]) * _PAGE,
            zombie=state in b"ZX",
        )


def _pids() -> list[int]:
    with contextlib.suppress(FileNotFoundError), os.scandir(_PROC) as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]
    return []


class Sampler:
    """Looks now and then at the processes of one session: those in it, and those they started."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._interval = _FIRST_INTERVAL
        self._peak_memory = 0
        # By pid and start. A process stays ours when its parent has ended, even in a session of its
        # own. Then it is an orphan: nobody of ours waits for it, so `os.wait4` won't tell its time.
        self._ours: set[tuple[int, int]] = set()
        self._orphans: dict[tuple[int, int], float] = {}
        self._ended_orphans = 0.0
        self._own_peak = _own_peak()

    def sample(self) -> float:
        """Look once, which takes some milliseconds; return after how many seconds to look again."""
        started = time.monotonic()
        tree = self._tree()
        self._ours = {(process.pid, process.started) for process in tree.values()}
        self._peak_memory = max(self._peak_memory, sum(p.memory for p in tree.values()))
        orphans = {
            (process.pid, process.started): process.cpu_seconds
            for process in tree.values()
            # When the first of them has ended, the others are all orphans.
            if process.pid != self._session
            and (process.parent not in tree or self._session not in tree)
        }
        self._ended_orphans += sum(
            seconds for identity, seconds in self._orphans.items() if identity not in orphans
        )
        self._orphans = orphans
        self._interval = min(2 * self._interval, _INTERVAL)
        return max(self._interval, _REST * (time.monotonic() - started))

    def usage(self, waited: resource.struct_rusage) -> Usage:
        """What they used in all, given what `os.wait4` told of the first of them."""
        self.sample()
        orphans = self._ended_orphans + sum(self._orphans.values())
        peak, of_one = self._peak_memory, waited.ru_maxrss * _MAXRSS_UNIT
        # A new process takes over the peak of the program that it was until its exec: of ours.
        if of_one > self._own_peak + _INEXACT or not peak:
            peak = max(peak, of_one)
        return Usage(waited.ru_utime + waited.ru_stime + orphans, peak)

    def _tree(self) -> dict[int, Process]:
        children = defaultdict(list)
        found = []
        for process in processes():
            children[process.parent].append(process)
            identity = (process.pid, process.started)
            if process.session == self._session or identity in self._ours:
                found.append(process)
        tree: dict[int, Process] = {}
        while found:
            process = found.pop()
            if process.pid not in tree:
                tree[process.pid] = process
                found += children[process.pid]
        return tree


def _own_peak() -> int:
    """The most bytes that this program had in memory; 0 where there is no /proc."""
    with contextlib.suppress(OSError):
        if told := re.search(r"VmHWM:\s+(\d+) kB", Path(_PROC, "self/status").read_text()):
            return int(told[1]) * 1024
    return 0
