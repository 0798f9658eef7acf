"""The benchmark: each system does the work before it has a speed, and the results can be read."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import abt_db.tools.bench.compare
from abt_db.tools.bench import chart, rounds, systems, workloads
from abt_db.tools.bench.compare import compare
from abt_db.tools.bench.measure import Durations, drive, percentile
from abt_db.tools.bench.on_sqlite3 import OneThread
from abt_db.tools.bench.own import FactoryError
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


@dataclass
class Mine:
    """A layer of somebody's own: a connection, and what it is told to do wrong."""

    path: str
    fails: int = 0
    """Of so many operations, each last one."""
    loses: bool = False
    opened: int = 0
    calls: int = 0

    def open(self) -> None:
        self.opened += 1
        self.db = sqlite3.connect(self.path, isolation_level=None)

    async def close(self) -> None:
        assert self.opened == 1
        self.db.close()

    async def read(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        return self._run(sql, parameters)

    async def write(self, sql: str, parameters: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if not self.loses:
            self._run(sql, parameters)

    async def update(self, sql: str, parameters: dict[str, Any]) -> None:
        await self.write(sql, parameters)

    def _run(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        self.calls += 1
        if self.fails and self.calls % self.fails == 0:
            raise ValueError(f"call {self.calls}")
        return self.db.execute(sql, parameters).fetchall()


async def made(path: str) -> Mine:
    return Mine(path)


class TestASystemOfOnesOwn:
    """Measured beside the others; its errors are counted, and its work is looked for."""

    @pytest.mark.parametrize("factory", [Mine, made])
    async def test_has_figures_beside_ours(self, factory: Any) -> None:
        result = await compare({"mine": factory}, concurrency=7, operations=40, beside=[OWN])
        assert list(result.workloads) == ["read", "write", "update", "mixed"]
        for figures in result.workloads.values():
            assert list(figures) == [OWN, "mine"]
            for found in figures.values():
                assert (found.succeeded, found.errors, found.failure) == (40, 0, None)
                assert found.min is not None and found.p50 is not None and found.p99 is not None
                assert found.mean is not None and found.max is not None
                assert 0 < found.min <= found.p50 <= found.p99 <= found.max
                assert found.min <= found.mean <= found.max
        assert result.failures == {}

    async def test_its_errors_are_counted(self, capfd: pytest.CaptureFixture[str]) -> None:
        result = await compare(
            {"mine": lambda path: Mine(path, fails=4)}, operations=40, beside=[LIMIT]
        )
        for figures in result.workloads.values():
            assert (figures["mine"].succeeded, figures["mine"].errors) == (30, 10)
            assert figures["mine"].first_error == "ValueError: call 4"
        result.print()
        assert "write: the first error of mine: ValueError: call 4" in capfd.readouterr().out

    async def test_one_that_only_fails_has_no_times(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        mine = {"mine": lambda path: Mine(path, fails=1)}
        result = await compare(mine, duration=0.01, beside=[], workloads=["read"])
        found = result.workloads["read"]["mine"]
        assert found.succeeded == 0 < found.errors and found.p99 is None
        result.print()
        assert (
            json.loads(result.as_json())["workloads"]["read"]["systems"]["mine"]["p99 ms"] is None
        )

    @pytest.mark.parametrize(
        ("workload", "failure"),
        [("write", r"wrote \d+ rows, but the database has 0"), ("update", r"lost \d+ updates")],
    )
    async def test_one_that_loses_its_work_has_no_figures(
        self, workload: str, failure: str
    ) -> None:
        mine = {"mine": lambda path: Mine(path, loses=True)}
        result = await compare(mine, operations=40, beside=[LIMIT], workloads=[workload])
        assert re.search(failure, result.failures[f"{workload}: mine"])
        assert result.workloads[workload][LIMIT].failure is None

    async def test_one_that_stands_still_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Stuck(Mine):
            async def read(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
                self.calls += 1
                if self.calls > 20:
                    await asyncio.Event().wait()
                return []

        monkeypatch.setattr(abt_db.tools.bench.compare, "STUCK", 0.05)
        result = await compare({"mine": Stuck}, operations=40, beside=[], workloads=["read"])
        assert "no operation has ended" in result.failures["read: mine"]

    async def test_a_cancellation_of_its_own_is_an_error_like_others(self) -> None:
        class Cancels(Mine):
            async def read(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
                raise asyncio.CancelledError

        result = await compare({"mine": Cancels}, operations=40, beside=[], workloads=["read"])
        assert result.workloads["read"]["mine"].errors == 40

    @pytest.mark.parametrize(
        ("factory", "told"),
        [
            (lambda path: 7, "a int, which has no method read and no write and no update"),
            (lambda path: 1 / 0, "ZeroDivisionError"),
            (lambda: 7, "TypeError"),
            (lambda path: Mine("/no/such/folder/x.db"), "unable to open"),
        ],
    )
    async def test_a_factory_that_brings_none_is_told_before_anything_is_measured(
        self, factory: Any, told: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(FactoryError, match=f"mine brings no system: .*{told}"):
            await compare({"mine": factory})
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"concurrency": 0}, "concurrency"),
            ({"operations": 0}, "operations"),
            ({"duration": 0}, "duration"),
            ({"duration": float("nan")}, "duration"),
            ({"workloads": ["reads"]}, "no workload reads; there are read, write"),
            ({"beside": ["mysql"]}, "no system mysql; there are sqlite3"),
        ],
    )
    async def test_arguments_that_can_not_be_right(self, wrong: Any, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            await compare({}, **wrong)

    async def test_with_many_tasks_those_that_open_a_connection_for_each_are_left_out(self) -> None:
        few = await compare({}, concurrency=100, workloads=[])
        many = await compare({}, concurrency=101, workloads=[])
        left_out = {*many.missing} - {*few.missing}
        assert "aiosqlite, per request" in str(left_out)
        assert all("a connection for each call" in line for line in left_out)

    def test_from_the_command_line(self, tmp_path: Path) -> None:
        (tmp_path / "my_layer.py").write_text(
            "import sqlite3\n"
            "class Mine:\n"
            "    def __init__(self, path):\n"
            "        self.db = sqlite3.connect(path, isolation_level=None)\n"
            "    async def read(self, sql, parameters):\n"
            "        return self.db.execute(sql, parameters).fetchall()\n"
            "    write = update = read\n"
        )
        command = ["abt-db", "bench", "--concurrency", "3", "--duration", "0.05"]
        command += ["--system", "my_layer:Mine", "--beside", OWN, "--json"]
        done = subprocess.run([*command, "-"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        assert (value["concurrency"], value["operations"], value["duration"]) == (3, None, 0.05)
        assert list(value["workloads"]) == ["read", "write", "update", "mixed"]
        for workload in value["workloads"].values():
            assert list(workload["systems"]) == [OWN, "my_layer:Mine"]
            for found in workload["systems"].values():
                assert found["errors"] == 0 < found["succeeded"]
                assert found["min ms"] <= found["p50 ms"] * 1.01 <= found["max ms"] * 1.02
        done = subprocess.run(
            [*command, "f.json", "--only", "read"], cwd=tmp_path, capture_output=True, text=True
        )
        assert re.search(r"my_layer:Mine +[\d.]+k? +[\d,]+ +0 ", done.stdout)
        assert list(json.loads((tmp_path / "f.json").read_text())["workloads"]) == ["read"]

    @pytest.mark.parametrize(
        ("system", "code", "told"),
        [
            ("my_layer", 2, "--system takes MODULE:FACTORY"),
            (":Mine", 2, "--system takes MODULE:FACTORY"),
            ("no_such_layer:Mine", 1, "no_such_layer can't be imported: ModuleNotFoundError"),
            ("my_layer:make", 1, "my_layer has no make"),
            ("my_layer:number", 1, "a int can't be called"),
            ("my_broken:Mine", 1, "my_broken can't be imported: SyntaxError"),
            ("my_layer:nothing", 1, "a NoneType, which has no method read"),
        ],
    )
    def test_one_that_is_not_there_is_told(
        self, tmp_path: Path, system: str, code: int, told: str
    ) -> None:
        (tmp_path / "my_layer.py").write_text("number = 7\ndef nothing(path): ...\n")
        (tmp_path / "my_broken.py").write_text("class\n")
        command = ["abt-db", "bench", "--system", system, "--beside", "none"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, "")
        assert told in done.stderr and "Traceback" not in done.stderr

    @pytest.mark.parametrize("option", [["--svg", "x.svg"], ["--rounds", "3"]])
    def test_options_of_the_other_run_are_refused(
        self, option: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["bench", "--concurrency", "3", *option]) == 2
        assert "does not go with" in capsys.readouterr().err


class TestDurations:
    """Bounded, and as exact as a table shows them."""

    @given(
        st.lists(st.floats(1e-7, 1e4), min_size=1, max_size=300),
        st.sampled_from([1, 50, 90, 99, 100]),
    )
    def test_a_percentile_is_at_most_one_percent_too_high(
        self, values: list[float], percent: int
    ) -> None:
        durations = Durations()
        for value in values:
            durations.add(value)
        exact = percentile(values, percent)
        assert exact <= durations.percentile(percent) <= exact * 1.01
        assert (durations.shortest, durations.longest) == (min(values), max(values))
        assert durations.mean == pytest.approx(sum(values) / len(values))

    def test_they_take_no_more_memory_the_more_there_are(self) -> None:
        durations, more = Durations(), Durations()
        for n in range(10_000):
            durations.add(1e-5 * (1 + n % 1000))
        for n in range(100_000):
            more.add(1e-5 * (1 + n % 1000))
        assert len(more._buckets) == len(durations._buckets) < 1_500
        assert more.count == 100_000


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
