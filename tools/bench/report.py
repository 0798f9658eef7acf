"""The result for people, in tables, and for programs, as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

from abt_db.tools.output import print_table

from .rounds import Figures, Results
from .systems import OWN
from .targets import Verdict, judge

PACKAGES = ("abt_db", "aiosqlite", "aiosqlitepool", "databases", "sqlalchemy", "greenlet", "apsw")


class Column(NamedTuple):
    """A column of a table: one measure of one workload."""

    title: str
    workload: str
    measure: str
    spread: bool = True


_P12 = ("per second", "succeeded", "errors %", "mean ms", "min ms", "p50 ms", "p99 ms", "max ms")

_TABLES: tuple[tuple[str, tuple[Column, ...]], ...] = (
    (
        "Operations a second",
        (
            Column("P1 reads", "P1", "per second"),
            Column("P2 writes", "P2", "per second"),
            Column("P2 FULL", "P2 full", "per second"),
            Column("P3 read", "P3 read", "per second"),
            Column("P3 write", "P3 write", "per second"),
            Column("P4 mixed", "P4", "per second"),
        ),
    ),
    (
        "Rows a second",
        (
            Column("P5 fetch", "P5", "rows per second"),
            Column("P6 stream", "P6", "rows per second"),
            Column("growth MB", "P6", "growth MB"),
            Column("P7 import", "P7", "rows per second"),
            Column("P10 log lines", "P10", "lines per second"),
        ),
    ),
    (
        "Beside other work",
        (
            Column("P4 p99 ms", "P4", "read p99 ms"),
            Column("P8 ×", "P8", "times as fast"),
            Column("P9 idle ms", "P9", "idle p99 ms"),
            Column("busy ms", "P9", "busy p99 ms"),
            Column("×", "P9", "times the idle p99"),
            Column("slow p99 ms", "slow", "quick p99 ms"),
        ),
    ),
    (
        "P11, a new process",
        (
            Column("import ms", "P11", "import ms"),
            Column("open ms", "P11", "open ms"),
            Column("aiosqlite ms", "P11", "aiosqlite ms"),
        ),
    ),
    *(
        (
            f"P12, {what}",
            tuple(Column(measure, f"P12 {key}", measure, spread=False) for measure in _P12),
        )
        for key, what in (
            ("reads", "count(*) by 50 tasks"),
            ("writes", "inserts by 50 tasks"),
            ("mix", "60 % reads, 30 % inserts, 10 % updates by 10 tasks"),
        )
    ),
    (
        "Point reads a second by number of tasks",
        tuple(
            Column(f"{tasks:,}", f"scaling {tasks}", "per second")
            for tasks in (1, 10, 100, 1_000, 10_000)
        ),
    ),
)


class Report:
    """What was measured, against what has to be reached."""

    def __init__(self, results: Results, missing: Mapping[str, str], *, quick: bool) -> None:
        self.results = results
        self.missing = missing
        self.quick = quick
        self.verdicts = judge(results)

    @property
    def failed(self) -> bool:
        """Whether abt_db did not do the work of a workload."""
        return any(OWN in found and found[OWN].failure for found in self.results.values())

    def print(self) -> None:
        """Print all tables to standard output."""
        found = {workload.key: figures for workload, figures in self.results.items()}
        print(
            "Medians of the rounds, ± half their range; only ratios within one run mean something"
        )
        for title, columns in _TABLES:
            shown = [column for column in columns if column.workload in found]
            if shown:
                _print_figures(title, shown, found)
        _print_verdicts(self.verdicts, quick=self.quick)
        for workload, figures in self.results.items():
            for name, figure in figures.items():
                if reason := figure.failure or figure.skipped:
                    print(f"{workload.key}: no figure for {name}: {reason}")
        for line in self.missing.values():
            print(line)

    def as_json(self) -> str:
        """All figures and what they were measured on: versions, no names, no paths."""
        value = {
            "environment": environment(),
            "quick": self.quick,
            "workloads": {
                workload.key: {
                    "title": workload.title,
                    "unit": workload.unit,
                    "systems": {name: _as_dict(found) for name, found in figures.items()},
                }
                for workload, figures in self.results.items()
            },
            "targets": [
                {
                    "workload": verdict.target.workload,
                    "what": verdict.target.what,
                    "against": verdict.against,
                    "figure": verdict.figure,
                    "at least" if verdict.target.at_least else "at most": verdict.target.bound,
                    "reached": verdict.reached,
                }
                for verdict in self.verdicts
            ],
            "missing": list(self.missing),
        }
        text = json.dumps(value, indent=1, ensure_ascii=False)
        return re.sub(r"{[^{}]*}", lambda figure: " ".join(figure[0].split()), text) + "\n"


def note(line: str) -> None:
    """Tell something that is no result."""
    print(line, file=sys.stderr)


def rounded(value: float) -> str:
    """Three digits that count, for people: 95.1k, 1.02M, 0.43."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9995:
            return f"{_three(value / unit)}{name}"
    return _three(value)


def _three(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 or not value else f"{value:.3g}"


def environment() -> dict[str, Any]:
    """What the figures depend on: versions and processors."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    sqlite = {"sqlite3": sqlite3.sqlite_version}
    if "apsw" in sys.modules:
        sqlite["apsw"] = sys.modules["apsw"].sqlite_lib_version()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "sqlite": sqlite,
        "packages": versions,
    }


def _as_dict(found: Figures) -> dict[str, Any]:
    if reason := found.failure or found.skipped:
        return {"failed" if found.failure else "skipped": reason}
    return {
        name: {key: float(f"{value:.4g}") for key, value in asdict(spread).items()}
        for name in found.rounds[0]
        if (spread := found.spread(name))
    }


def _print_figures(
    title: str, columns: list[Column], found: Mapping[str, Mapping[str, Figures]]
) -> None:
    names = list(dict.fromkeys(name for column in columns for name in found[column.workload]))
    rows = []
    for name in names:
        cells = [_cell(found[column.workload].get(name), column) for column in columns]
        rows.append([name, *cells])
    titles = [column.title for column in columns]
    print(f"\n{title}")
    print_table(["", *titles], rows, right=titles)


def _cell(figures: Figures | None, column: Column) -> str:
    if figures is None or figures.skipped:
        return "–"
    if figures.failure:
        return "failed"
    spread = figures.spread(column.measure)
    if spread is None:
        return "–"
    text = rounded(spread.median)
    return f"{text} ±{spread.percent:.0f}%" if column.spread and spread.percent else text


def _print_verdicts(verdicts: list[Verdict], *, quick: bool) -> None:
    if not verdicts:
        return
    print("\nTargets" + (" (a quick run: more noise than figure)" if quick else ""))
    print_table(
        ["", "what", "figure", "target", "", "against"],
        [
            [
                verdict.target.workload,
                verdict.target.what,
                "–" if verdict.figure is None else rounded(verdict.figure),
                f"{'≥' if verdict.target.at_least else '≤'} {verdict.target.bound:g}",
                {True: "reached", False: "NOT REACHED", None: "no figure"}[verdict.reached],
                verdict.against or "",
            ]
            for verdict in verdicts
        ],
        right=["figure", "target"],
    )
