"""Measure abt_db against its peers, all in one run.

Every system does the same work with the same SQL and settings in a database of its own, in rounds
that go from system to system. Only ratios within one run mean something.

    sample     the database that is measured on, its SQL, and what it must hold afterwards
    systems    what is measured: one protocol, and one `on_…` module for each driver
    measure    running many operations in tasks; percentiles, medians, spread
    workloads  what each system is made to do in one round
    processes  what has to be measured in a process of its own: memory, importing, opening
    rounds     all of it in turns; a system that did not do the work has no figure
    targets    what abt_db has to reach
    report     the tables on the terminal, and the JSON
    chart      the SVG
"""

from __future__ import annotations

import argparse
from pathlib import Path

from abt_db.parts import replacing
from abt_db.tools.cli import CliError, UsageError, positive

__all__ = ["arguments", "run"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    parser.add_argument("--only", metavar="P1,P2", help="these workloads; `--only help` lists them")
    parser.add_argument("--rounds", metavar="N", type=positive, help="rounds of each workload")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to this file")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write a chart to this file")


async def run(arguments: argparse.Namespace) -> int:
    # Imported here: `abt-db` asks each command for its help, and the peers take long to import.
    from . import chart, report, rounds, systems, workloads

    try:
        chosen = workloads.choose(arguments.only, quick=arguments.quick)
    except KeyError as error:
        known = ", ".join(workloads.groups())
        raise UsageError(f"there is no workload {error.args[0]}; there are {known}") from None
    present, missing = systems.load()
    for line in missing.values():
        report.note(line)
    size = workloads.QUICK if arguments.quick else workloads.FULL
    results = await rounds.measure(chosen, present, size, rounds=arguments.rounds)
    outcome = report.Report(results, missing, quick=arguments.quick)
    outcome.print()
    try:
        if arguments.json:
            with replacing(arguments.json) as file:
                file.write(outcome.as_json().encode())
        if arguments.svg:
            with replacing(arguments.svg) as file:
                file.write(chart.draw(results).encode())
    except OSError as error:
        raise CliError(f"the result could not be written: {error}") from None
    return 1 if outcome.failed else 0
