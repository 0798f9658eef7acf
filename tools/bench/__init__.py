"""Measure abt_db beside its peers, and a database layer of your own, in one run.

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
    own        a database layer of one's own, as a system
    compare    that beside the others, under a load that one chooses
    chart      the SVG
"""

from __future__ import annotations

import argparse
from pathlib import Path

from abt_db.files.parts import replacing
from abt_db.tools.cli import CliError, UsageError, positive, seconds

STDOUT = Path("-")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    parser.add_argument("--only", metavar="P1,P2", help="these workloads; `--only help` lists them")
    parser.add_argument("--rounds", metavar="N", type=positive, help="rounds of each workload")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write all figures to this file; -: print them"
    )
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write a chart to this file")
    own = parser.add_argument_group(
        "a load of your own",
        "any of these runs the design guide's workloads instead: read, write, update and mixed"
        " (or those of them that --only names)",
    )
    own.add_argument("--concurrency", metavar="N", type=positive, help="tasks (default: 50)")
    own.add_argument(
        "--operations", metavar="N", type=positive, help="of each workload (default: 1000)"
    )
    own.add_argument(
        "--duration", metavar="SECONDS", type=seconds, help="of each workload; memory stays small"
    )
    own.add_argument(
        "--system",
        metavar="MODULE:FACTORY",
        action="append",
        help="measure this, too: FACTORY(path) returns an object with the coroutine methods read,"
        " write and update (sql, parameters), and open and close if it needs them",
    )
    own.add_argument(
        "--beside",
        metavar="NAME",
        action="append",
        help="only beside this system, such as abt_db, or none (default: all that are installed)",
    )


async def run(arguments: argparse.Namespace) -> int:
    chosen = ("concurrency", "operations", "duration", "system", "beside")
    if any(getattr(arguments, name) is not None for name in chosen):
        return await _compare(arguments)
    return await _measure(arguments)


async def _compare(arguments: argparse.Namespace) -> int:
    from . import compare, own

    for name in "rounds", "svg":
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name} does not go with a load of your own")
    systems = {text: own.find(text) for text in arguments.system or ()}
    few = arguments.quick and arguments.duration is None
    only = arguments.only and [name.strip() for name in arguments.only.split(",")]
    beside = arguments.beside
    try:
        result = await compare.compare(
            systems,
            concurrency=arguments.concurrency or 50,
            operations=arguments.operations or (compare.OPERATIONS // 10 if few else None),
            duration=arguments.duration,
            workloads=only or compare.WORKLOADS,
            beside=[] if beside == ["none"] else beside,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    except own.FactoryError as error:
        raise CliError(str(error)) from error
    if arguments.json != STDOUT:
        result.print()
    _write(arguments.json, result.as_json())
    return 1 if result.failures else 0


async def _measure(arguments: argparse.Namespace) -> int:
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
    if arguments.json != STDOUT:
        outcome.print()
    _write(arguments.json, outcome.as_json())
    if arguments.svg:
        _write(arguments.svg, chart.draw(results))
    return 1 if outcome.failed else 0


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    if path == STDOUT:
        print(text, end="")
        return
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise CliError(f"the result could not be written: {error}") from None
