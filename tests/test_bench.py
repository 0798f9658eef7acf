"""The benchmark: each system does the work before it has a speed, and the results can be read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abt_db.tools.bench import chart, rounds, systems, workloads
from abt_db.tools.bench.measure import drive, percentile
from abt_db.tools.bench.on_sqlite3 import OneThread
from abt_db.tools.bench.report import Report, rounded
from abt_db.tools.bench.systems import LIMIT, OWN, System
from abt_db.tools.bench.workloads import Workload
from abt_db.tools.cli import main

TINY = replace(
    workloads.QUICK,
    rounds=2,
    others=1,
    seconds=0.002,
    rows=10_000,
    bulk=1_000,
    slow=0.01,
    operations=20,
    batches=1,
)
ALWAYS = (LIMIT, "aiosqlite", OWN)
PEERS = ("aiosqlitepool", "databases", "SQLAlchemy Core", "SQLAlchemy ORM", "apsw")


def makers(*names: str) -> dict[str, Callable[[], System]]:
    present, _ = systems.load()
    return {name: present[name] for name in names}


def chosen(*keys: str) -> list[Workload]:
    return [workload for workload in workloads.ALL if workload.key in keys]


class Loses(OneThread):
    """Every tenth insert is forgotten."""

    async def insert(self, number: int) -> None:
        if number % 10:
            await super().insert(number)


class Forgets(OneThread):
    async def update(self, id: int, timeout: int) -> None:
        """Say that it is done."""


class Misreads(OneThread):
    async def read(self, id: int) -> int:
        return await super().read(id % 5 + 1)


class Untuned(OneThread):
    """As fast as it gets: no foreign keys."""

    async def value(self, sql: str, /, **parameters: int) -> int:
        self._db.execute("PRAGMA foreign_keys = off")
        return await super().value(sql, **parameters)


class TestSystems:
    """A speed is told only of a system that has done the work."""

    async def test_every_system_that_is_always_there_does_all_workloads(self) -> None:
        # P6 and P11 start processes, for which there is a test of their own.
        quick = [w for w in workloads.ALL if w.quick and w.group not in ("P6", "P11")]
        results = await rounds.measure(quick, makers(*ALWAYS), TINY, rounds=1)
        for workload, figures in results.items():
            assert OWN in figures
            for name, found in figures.items():
                assert found.failure is None, f"{workload.key} of {name}: {found.failure}"
                assert found.rounds or "rbtlog" in (found.skipped or "")
                assert all(value >= 0 for measures in found.rounds for value in measures.values())

    @pytest.mark.parametrize("name", PEERS)
    async def test_an_installed_peer_does_the_work(self, name: str) -> None:
        present, missing = systems.load()
        if name in missing:
            pytest.skip(missing[name])
        keys = ("P3 read", "P3 write", "P4", "P5", "P7", "P8")
        results = await rounds.measure(chosen(*keys), {name: present[name]}, TINY, rounds=1)
        failures = {w.key: found[name].failure for w, found in results.items() if name in found}
        assert {"P3 read", "P3 write", "P4", "P8"} <= set(failures)
        assert not any(failures.values()), failures

    @pytest.mark.parametrize(
        ("system", "workload", "failure"),
        [
            (Loses, "P2", r"wrote \d+ rows, but the database has \d+ of them"),
            (Forgets, "P12 mix", "lost an update"),
            (Misreads, "P1", "read other values than the database has"),
            (Untuned, "P1", "does not have the settings that all have to have"),
        ],
    )
    async def test_a_system_that_cheats_has_no_speed(
        self, system: type[OneThread], workload: str, failure: str
    ) -> None:
        # Long enough for the mix to come to its fourth operation, an update, on a busy machine.
        size = replace(TINY, slow=0.3)
        results = await rounds.measure(
            chosen(workload), {"cheat": system, LIMIT: OneThread}, size, rounds=1
        )
        [figures] = results.values()
        assert re.search(failure, figures["cheat"].failure or "")
        assert figures["cheat"].spread("per second") is None
        assert figures[LIMIT].spread("per second") is not None

    def test_a_peer_that_is_missing_is_told_with_how_to_install_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "databases", None)
        monkeypatch.delitem(sys.modules, "abt_db.tools.bench.on_databases", raising=False)
        present, missing = systems.load()
        assert "databases" not in present
        told = "databases is left out; to have it: pip install 'databases[aiosqlite]'"
        assert missing["databases"] == told
        assert set(ALWAYS) <= set(present)


class TestReport:
    """What was measured can be read: by people, by programs, as a picture."""

    async def test_tables_json_and_chart_of_a_run(self, capfd: pytest.CaptureFixture[str]) -> None:
        keys = ("P1", "P3 read", "P6", "P11")
        results = await rounds.measure(chosen(*keys), makers(*ALWAYS), TINY)
        report = Report(results, {"peer": "peer is left out"}, quick=True)
        report.print()
        printed = capfd.readouterr().out
        assert "peer is left out" in printed
        assert "× reads of the synchronous loop" in printed
        assert max(map(len, printed.splitlines())) <= 100
        assert not report.failed

        value = json.loads(report.as_json())
        assert set(value["workloads"]) == set(keys)
        speed = value["workloads"]["P1"]["systems"][OWN]["per second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert value["environment"]["packages"]["aiosqlite"]
        assert {target["workload"] for target in value["targets"]} == set(keys)
        growth = value["workloads"]["P6"]["systems"][OWN]["growth MB"]["median"]
        assert growth < 16

        root = ElementTree.fromstring(chart.draw(results))
        texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        assert {*ALWAYS, "point reads, 100 tasks", "point reads, one task"} <= texts
        bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("class") == "own"]
        assert len(bars) == 2

    async def test_a_failure_is_told_and_fails_the_run_if_it_is_ours(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        results = await rounds.measure(chosen("P2"), {OWN: Loses, LIMIT: OneThread}, TINY)
        report = Report(results, {}, quick=False)
        report.print()
        assert report.failed
        assert "P2: no figure for abt_db: WrongWorkError: wrote" in capfd.readouterr().out
        assert {target["reached"] for target in json.loads(report.as_json())["targets"]} == {None}

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (0.01234, "0.0123"), (9.876, "9.88"), (99.99, "100"), (999.9, "1k"),
         (95_123, "95.1k"), (123_456, "123k"), (1_020_000, "1.02M")],
    )  # fmt: skip
    def test_three_digits_count(self, value: float, text: str) -> None:
        assert rounded(value) == text


class TestMeasure:
    """Operations are each run once, and percentiles are what they are called."""

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(1, 100))
    def test_a_percentile_is_the_smallest_value_that_so_many_are_not_above(
        self, values: list[float], percent: int
    ) -> None:
        found = percentile(values, percent)
        enough = ceil(len(values) * percent / 100)
        assert found in values
        assert sum(value <= found for value in values) >= enough
        assert sum(value < found for value in values) < enough

    async def test_each_number_is_taken_once_by_whichever_task(self) -> None:
        taken = []

        async def operation(number: int) -> int:
            taken.append(number)
            return number

        _, total = await drive(7, range(100), operation)
        assert sorted(taken) == list(range(100))
        assert total == sum(range(100))

    async def test_the_error_of_an_operation_is_raised_as_it_is(self) -> None:
        async def operation(number: int) -> int:
            raise ValueError(number)

        with pytest.raises(ValueError, match="0"):
            await drive(3, range(10), operation)


class TestCommand:
    """`abt-db bench` is there without the peers, and costs the other commands nothing."""

    def test_a_workload_that_is_none_is_told_with_those_that_are(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["bench", "--only", "P1,P99"]) == 2
        assert "there is no workload P99; there are P1, P2" in capsys.readouterr().err

    def test_help_imports_no_peer(self) -> None:
        program = (
            "import sys; from abt_db.tools.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "print({'sqlalchemy', 'databases', 'apsw', 'aiosqlitepool'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
        )
        assert "bench" in done.stdout
        assert done.stdout.endswith("set()\n")
