"""Importing history files: all that is in them, once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import lzma
import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from support.suite import SOON
from test_migrations import ask

from abt_db import Config
from abt_db.builds import BuildStatus, BuildStore, ImportReport, Level, Stream
from abt_db.builds.classify import Classifier
from abt_db.builds.output import Line

SLICE = 12
"""Builds of rbtlog, where all of them would take too long."""
AT = datetime(2025, 2, 18, 9, 30, 0, 123000, UTC)


@pytest.fixture(scope="module")
def some(rbtlog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first builds of rbtlog."""
    path = tmp_path_factory.mktemp("some") / "builds.jsonl"
    with lzma.open(rbtlog / "builds.jsonl.xz") as builds:
        path.write_bytes(b"".join(islice(builds, SLICE)))
    return path


@pytest.fixture(scope="module")
def imported(some: Path) -> Path:
    """A database with those, imported at a go."""
    path = some.with_name("imported.db")
    assert abt_db("import", "--db", path, some).returncode == 0
    return path


def abt_db(*arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["abt-db", *arguments], capture_output=True, **how)


def content(path: Path) -> str:
    """A digest of all rows; when the projects were added makes no difference."""
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path)) as db:
        for table in ("projects", "builds", "build_logs"):
            columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
            if table == "projects":
                columns = [name for name in columns if name not in ("created_at", "updated_at")]
            for row in db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY id"):
                digest.update(repr(row).encode())
    return digest.hexdigest()


def write(path: Path, *lines: object) -> Path:
    """Write a history file; bytes as they are."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def project(name: str = "maps", **columns: object) -> dict[str, object]:
    return {"project": {"name": name, **columns}}


def build(name: str = "maps", **columns: object) -> dict[str, object]:
    return {"build": {"project": name, **columns}}


def rbtlog_build(**changes: object) -> dict[str, object]:
    """A build as rbtlog has it."""
    return {
        "appid": "maps",
        "tag": "v1",
        "commit": "c0ffee",
        "timestamp": 1_700_000_000,
        "error": None,
        "exit_code": 0,
        "gradle_seconds": 90,
        "provisioning": {"jdk": "17", "ndk": None},
        "build_log": "+ ./gradlew\n> Task :app:lint\r\ne: broken\n",
        **changes,
    }


class TestRbtlog:
    """All of rbtlog is imported: each build, each line as it is in the file, and only once."""

    def test_projects_builds_and_lines_are_all_there(
        self, rbtlog: Path, rbtlog_database: Path
    ) -> None:
        tables = ("projects", "builds", "build_logs")
        counts = [ask(rbtlog_database, f"SELECT count(*) FROM {table}") for table in tables]
        assert counts == [[(80,)], [(627,)], [(593_485,)]]

        names = [line["name"] for line in lines_of(rbtlog / "projects.jsonl")]
        assert ask(rbtlog_database, "SELECT name FROM projects ORDER BY id") == [
            (name,) for name in names
        ]

    def test_every_message_is_its_source_and_the_bytes_are_those_of_the_log(
        self, rbtlog: Path, rbtlog_database: Path
    ) -> None:
        total = 0
        with closing(sqlite3.connect(rbtlog_database)) as db:
            rows = db.execute(
                "SELECT build_id, sequence_number, message, raw, stream FROM build_logs"
                " ORDER BY build_id, sequence_number"
            )
            builds = groupby(rows, key=itemgetter(0))
            for source, (_, found) in zip(
                lines_of(rbtlog / "builds.jsonl.xz"), builds, strict=True
            ):
                lines = list(found)
                messages = [line[2] for line in lines]
                assert messages == source["build_log"].split("\n")
                assert [line[1] for line in lines] == list(range(1, len(lines) + 1))
                assert [line[3] for line in lines] == [None] * (len(lines) - 1) + [b""]
                assert {line[4] for line in lines} == {Stream.STDOUT}
                total += len(lines)
        assert total == 593_485

    async def test_what_is_known_of_a_build_is_kept(
        self, rbtlog: Path, rbtlog_database: Path
    ) -> None:
        counts: Counter[str] = Counter()
        async with await BuildStore.open(rbtlog_database, config=Config(readers=1)) as store:
            for id, source in enumerate(lines_of(rbtlog / "builds.jsonl.xz"), 1):
                found = await store.builds.get_by_id(id)
                assert found is not None
                owner = await store.projects.get_by_id(found.project_id)
                assert owner is not None and owner.name == source["appid"]
                counts[owner.name] += 1
                assert found.build_number == counts[owner.name]
                assert found.started_at == datetime.fromtimestamp(source["timestamp"], UTC)
                assert found.duration_seconds == source["gradle_seconds"]
                assert found.commit_hash == source["commit"]
                assert found.exit_code == source["exit_code"]
                failed = source["error"] is not None
                assert found.status == (BuildStatus.FAILED if failed else BuildStatus.SUCCESS)
                known = (found.build_metadata or {})["rbtlog"]
                rest = ("appid", "timestamp", "commit", "exit_code", "gradle_seconds", "build_log")
                assert known == {key: source[key] for key in source if key not in rest}

    def test_levels_and_sources_are_told_as_the_recorder_does(
        self, rbtlog: Path, rbtlog_database: Path
    ) -> None:
        with closing(sqlite3.connect(rbtlog_database)) as db:
            for id, source in enumerate(lines_of(rbtlog / "builds.jsonl.xz"), 1):
                if id % 20 == 0:
                    classifier = Classifier()
                    told = [classifier.classify(line) for line in source["build_log"].split("\n")]
                    assert (
                        told
                        == db.execute(
                            "SELECT level, source FROM build_logs WHERE build_id = ?"
                            " ORDER BY sequence_number",
                            (id,),
                        ).fetchall()
                    )

    def test_a_second_import_changes_nothing(self, rbtlog: Path, rbtlog_database: Path) -> None:
        before = hashlib.sha256(rbtlog_database.read_bytes()).digest()
        with closing(sqlite3.connect(rbtlog_database)) as watcher:
            version = watcher.execute("PRAGMA data_version").fetchall()
            files = rbtlog / "builds.jsonl.xz", rbtlog / "projects.jsonl"
            done = abt_db("import", "--db", rbtlog_database, *files)
            assert watcher.execute("PRAGMA data_version").fetchall() == version
        assert done.stderr.count(b"0 projects, 0 builds, 0 lines added") == 2
        assert b"627 were there already" in done.stderr
        assert done.returncode == 0
        assert hashlib.sha256(rbtlog_database.read_bytes()).digest() == before


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    with (lzma.open if path.suffix == ".xz" else open)(path) as lines:  # type: ignore[operator]
        yield from map(json.loads, lines)


class TestInterrupted:
    """A build is there whole or not at all, and going on ends where an undisturbed import does."""

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_killed_and_started_again(
        self, some: Path, imported: Path, tmp_path: Path, seed: int
    ) -> None:
        chance = random.Random(seed)
        for attempt in range(20):
            path = tmp_path / f"{attempt}.db"
            if killed_at(chance.randrange(1, SLICE * 2 // 3), chance.random() / 100, path, some):
                break  # otherwise it was quicker
        assert 1 <= count_of(path, "builds") < SLICE
        counts = ask(path, "SELECT count(*) FROM build_logs GROUP BY build_id")
        for source, (lines,) in zip(lines_of(some), counts, strict=False):
            assert lines == source["build_log"].count("\n") + 1
        assert abt_db("import", "--db", path, some).returncode == 0
        assert content(path) == content(imported)

    def test_two_processes_at_once(self, some: Path, imported: Path, path: Path) -> None:
        command = ["abt-db", "import", "--json", "--db", path, some]
        both = [subprocess.Popen(command, stdout=-1, stderr=-3) for _ in range(2)]
        reports = [json.loads(process.communicate(timeout=SOON)[0]) for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sum(report["builds"] for report in reports) == SLICE
        assert sum(report["present"] for report in reports) == SLICE
        assert content(path) == content(imported)

    def test_while_builds_of_the_same_project_are_recorded(self, some: Path, path: Path) -> None:
        [(name, _)] = Counter(line["appid"] for line in lines_of(some)).most_common(1)
        record = ["abt-db", "record", "--quiet", "--db", path, "--project", name, "--", "echo", "x"]
        with subprocess.Popen(["abt-db", "import", "--db", path, some], stderr=-3) as importing:
            recorded = 0
            while importing.poll() is None:
                subprocess.run(record, check=True, stdout=-3)
                recorded += 1
        assert importing.returncode == 0
        assert recorded >= 1
        assert count_of(path, "builds") == SLICE + recorded
        [(builds, last)] = ask(
            path,
            "SELECT count(*), max(build_number) FROM builds JOIN projects"
            f" ON projects.id = project_id WHERE name = '{name}'",
        )
        assert builds == last

    @pytest.mark.usefixtures("no_leaks")
    def test_its_lines_are_put_into_the_search_index_if_asked(self, some: Path, path: Path) -> None:
        """Those of an import before it as well."""

        def indexed() -> tuple[int, int]:
            [(lines, there)] = ask(
                path,
                "SELECT (SELECT count(*) FROM build_logs), (SELECT count(*) FROM"
                " build_logs_fts_docsize)",
            )
            return lines, there

        assert abt_db("import", "--db", path, some).returncode == 0
        assert indexed()[1] == 0
        assert abt_db("import", "--db", path, some, "--index").returncode == 0
        assert indexed()[0] == indexed()[1] > 1_000

    async def test_cancelled(self, some: Path, path: Path) -> None:
        async with await BuildStore.open(path, config=Config(readers=1)) as store:
            seen = asyncio.Event()

            def progress(report: ImportReport) -> None:
                if report.builds == 5:
                    seen.set()

            task = asyncio.create_task(store.import_file(some, progress=progress))
            await seen.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await store.import_file(some)).present in (5, 6)
        assert count_of(path, "builds") == SLICE


def killed_at(builds: int, seconds: float, path: Path, file: Path) -> bool:
    """Kill an import `seconds` after so many builds are there; whether that came before its end."""
    with subprocess.Popen(["abt-db", "import", "--db", path, file], stderr=-3) as importing:
        deadline = time.monotonic() + SOON
        while count_of(path, "builds") < builds and importing.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(seconds)  # so that it is hit anywhere: a build takes about ten milliseconds
        importing.kill()
    return importing.returncode == -9


def count_of(path: Path, table: str) -> int:
    """How many rows there are; none before the table is."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


class TestIdentity:
    """A build is the same wherever and however often it is imported; two builds are never taken for
    one, and what is there is not overwritten."""

    async def test_two_builds_that_differ_in_anything_are_two(self, tmp_path: Path) -> None:
        lines = [
            rbtlog_build(),
            rbtlog_build(build_log="another"),
            rbtlog_build(exit_code=1),
            rbtlog_build(tag="v2"),
            rbtlog_build(appid="atlas"),
            build(status="success", started_at="2025-02-18T09:30:00Z"),
            build(status="failed", started_at="2025-02-18T09:30:00Z"),
            build(),
            build(build_number=50, created_at="2025-02-18T09:30:00Z"),
            build(build_number=50, created_at="2025-02-18T09:31:00Z"),
            build(build_number=51, created_at="2025-02-18T09:31:00Z"),
        ]
        file = write(tmp_path / "file", *lines, *lines[::-1])
        async with await BuildStore.open(tmp_path / "app.db") as store:
            first, second = await store.import_file(file), await store.import_file(file)
        assert (first.builds, first.present, first.bad) == (len(lines), len(lines), 0)
        assert (second.builds, second.present) == (0, 2 * len(lines))

    async def test_how_a_line_is_written_makes_no_difference(self, tmp_path: Path) -> None:
        line = rbtlog_build()
        turned = json.dumps(dict(reversed(line.items())), indent=None, separators=(" , ", ":"))
        file = write(tmp_path / "file", line, turned.encode())
        async with await BuildStore.open(tmp_path / "app.db") as store:
            assert (await store.import_file(file)).builds == 1

    async def test_a_build_recorded_here_is_kept_and_keeps_its_number(self, tmp_path: Path) -> None:
        theirs, ours = tmp_path / "theirs.db", tmp_path / "ours.db"
        file = tmp_path / "file"
        async with await BuildStore.open(theirs) as store:
            await record(store, "theirs")
            await store.export_file(file)
        async with await BuildStore.open(ours) as store:
            own = await record(store, "ours")
            reports = [await store.import_file(file) for _ in range(2)]
            assert [(report.builds, report.present) for report in reports] == [(1, 1), (0, 2)]
            assert await store.builds.get_by_id(own) == await store.builds.get_by_number(1, 1)
        joined = "builds JOIN build_logs ON builds.id = build_id"
        found = ask(ours, f"SELECT build_number, message FROM {joined} ORDER BY build_number")
        assert found == [(1, "ours"), (2, "theirs")]
        # What was imported there comes home, and is known.
        async with await BuildStore.open(ours) as store:
            await store.export_file(file)
        async with await BuildStore.open(theirs) as store:
            report = await store.import_file(file)
            assert (report.builds, report.present) == (1, 2)

    async def test_its_own_export_is_known(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        async with await BuildStore.open(tmp_path / "app.db") as store:
            await record(store, "line")
            await store.builds.start(1)
            await store.export_file(file)
            report = await store.import_file(file)
        assert (report.projects, report.builds, report.present) == (0, 0, 3)

    async def test_what_a_project_lacks_is_filled_in_and_the_rest_left(
        self, tmp_path: Path
    ) -> None:
        of_rbtlog = {
            "name": "maps",
            "project_type": "android",
            "repository_url": "https://example.org/maps.git",
            "build_command": "./gradlew",
            "build_timeout": None,
            "environment": {"jdk": "17", "ndk": None, "verify": True, "tools": {"version": "12"}},
        }
        first = write(tmp_path / "first", build(), project(description="", local_path="/maps"))
        second = write(tmp_path / "second", of_rbtlog, project(description="Maps"))
        third = write(tmp_path / "third", project(description="no", branch="no", local_path="no"))
        async with await BuildStore.open(tmp_path / "app.db") as store:
            reports = [await store.import_file(file) for file in (first, second, third, second)]
            assert [(r.projects, r.present) for r in reports] == [(2, 0), (2, 0), (0, 1), (0, 2)]
            maps = await store.projects.get_by_name("maps")
        assert maps is not None
        assert (maps.description, maps.local_path, maps.branch) == ("Maps", "/maps", "main")
        assert (maps.project_type, maps.repository_url, maps.build_command, maps.build_timeout) == (
            "android", "https://example.org/maps.git", "./gradlew", 1800
        )  # fmt: skip
        assert maps.environment_vars == {
            "jdk": "17",
            "verify": "true",
            "tools": '{"version": "12"}',
        }


async def record(store: BuildStore, message: str) -> int:
    """Note a build with one line, as a recorder does; return its id."""
    owner = await store.projects.ensure(
        "maps", project_type="android", repository_url="", local_path=""
    )
    id = (await store.builds.start(owner.id)).id
    line = Line(Stream.STDOUT, datetime.now(UTC), message, None)
    await store.logs.append(id, [(line, Level.INFO, None)])
    await store.builds.update_status(id, BuildStatus.SUCCESS, exit_code=0)
    return id


class TestLines:
    """A line of a log may be its message alone; what it does not say is told as documented."""

    async def test_what_is_left_out(self, path: Path, tmp_path: Path) -> None:
        log: list[object] = [
            "> Task :app:lint",
            {"message": "w: unused", "timestamp": "2025-02-18T09:30:01"},
            {"message": "w: unused", "level": "info"},
            {"message": "e: \u00e9", "source": "kotlin", "raw": "ZTog6Q==", "sequence_number": 9},
            {"message": "e: broken", "stream": 2, "timestamp": "2025-02-18T10:30:02+01:00"},
            "",
        ]
        times = {"created_at": "2025-02-17T08:00:00Z", "started_at": "2025-02-18T09:30:00Z"}
        file = write(tmp_path / "file", build(**times, log=log))
        async with await BuildStore.open(path) as store:
            assert (await store.import_file(file)).log_lines == 6
            async with store.logs.stream(1) as stream:
                lines = [line async for line in stream]
        assert [line.level for line in lines] == [
            "info",
            "warning",
            "info",
            "error",
            "error",
            "info",
        ]
        lint = ":app:lint"
        assert [line.source for line in lines] == [lint, lint, None, "kotlin", None, lint]
        assert [line.sequence_number for line in lines] == [1, 2, 3, 9, 10, 11]
        assert [line.timestamp.second for line in lines] == [0, 1, 1, 1, 2, 2]
        assert {line.timestamp.hour for line in lines} == {9}
        assert [line.stream for line in lines] == [1, 1, 1, 1, 2, 1]
        assert [line.raw for line in lines] == [None, None, None, b"e: \xe9", None, None]


GOOD = project("good")
BAD: list[tuple[object, str]] = [
    (b"{", "is not JSON: "),
    (b'{"project": {"name": "x"}} {}', "is not JSON: Extra data, at character 28"),
    (b"\xff\xfe", "is not UTF-8"),
    (b"[]", "neither a project nor a build"),
    (b"null", "neither a project nor a build"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"build": {"project": "x", "build_metadata": {"x": ' + b"[" * 100_000, "nested too deeply"),
    (b'{"project": {"name": "x", "build_timeout": ' + b"9" * 5000 + b"}}", "is not JSON: "),
    (b'{"build": {"project": "x", "duration_seconds": NaN}}', "is not JSON: "),
    (b'{"build": {"project": "x", "duration_seconds": 1e999}}', "not a finite number"),
    ({}, "neither a project nor a build"),
    ({**project(), **build()}, "neither a project nor a build"),
    ({"project": []}, "is not a ProjectRecord"),
    (project(7), "has a field 'name' that is not a str"),  # type: ignore[arg-type]
    ({"project": {"title": "x"}}, "has a key 'title', which is not known there"),
    ({"project": {}}, "has no name"),
    (project(build_timeout=0), "can't be stored: "),
    (project(build_timeout=2**63), "can't be stored: "),
    (project("\ud800"), "can't be stored: "),
    (project(tags="x"), "has a field 'tags' that"),
    (build(status="done"), "has a field 'status' that is not a BuildStatus"),
    (build(started_at="yesterday"), "has a field 'started_at' that is not a datetime"),
    (build(build_number="7"), "has a field 'build_number' that"),
    (build(log="text"), "has a field 'log' that"),
    (build(log=["fine", 7]), "has a log line 2 that is not a LineRecord"),
    (build(log=[{"message": "x", "raw": "?"}]), "has a log line 1 that has a field 'raw'"),
    (build(log=[{"message": "x", "colour": 1}]), "has a log line 1 that has a key 'colour'"),
    (build(log=[{"message": "x", "stream": 3}]), "has a log line 1 that has a field 'stream'"),
    (build(log=["x", {"message": "x", "sequence_number": 1}]), "does not rise"),
    (build(log=["\udfff"]), "can't be stored: "),
    (rbtlog_build(timestamp=10**15), "years 1 to 9999"),
    (rbtlog_build(timestamp="now"), "has a field 'timestamp' that is not an int"),
    (rbtlog_build(build_log="\ud800"), "lone surrogate"),
    (rbtlog_build(build_log=None, appid=None), "has a field 'appid' that"),
    ({"name": "x", "environment": 7}, "has a field 'environment' that"),
]


class TestBadLines:
    """A bad line is left out, told by file and number, and counted; the rest is imported."""

    async def test_of_every_kind(self, path: Path, tmp_path: Path) -> None:
        lines = [line for bad, _ in BAD for line in (bad, b"", b" \r")]
        file = write(tmp_path / "file", *lines, build("good", log=["x"]), b"\xef\xbb\xbf{}", GOOD)
        async with await BuildStore.open(path) as store:
            report = await store.import_file(file)
        for number, (bad, (_, problem)) in enumerate(zip(report.bad_lines, BAD, strict=False)):
            assert str(bad).startswith(f"{file} line {number * 3 + 1} "), bad
            assert problem in bad.problem and "\ud800" not in str(bad), bad
        assert report.bad == len(BAD) + 1
        assert ask(path, "SELECT name FROM projects") == [("good",)]
        assert (report.projects, report.builds, report.log_lines) == (1, 1, 1)

    async def test_nested_as_deeply_as_it_goes(self, path: Path, tmp_path: Path) -> None:
        """Whoever gives up first, the parser, Python or SQLite: it is one bad line."""
        head = b'{"build": {"project": "x", "build_metadata": {"x": '
        depths = (100, *range(800, 1_100, 20))
        file = write(tmp_path / "file", *(head + b"[" * n + b"]" * n + b"}}}" for n in depths))
        async with await BuildStore.open(path) as store:
            report = await store.import_file(file)
        assert report.builds >= 1 and report.bad >= 1
        assert report.builds + report.bad == len(depths)

    async def test_only_the_first_hundred_are_kept(self, path: Path, tmp_path: Path) -> None:
        file = write(tmp_path / "file", *[b"{"] * 150)
        async with await BuildStore.open(path) as store:
            report = await store.import_file(file)
        assert (report.bad, len(report.bad_lines)) == (150, 100)

    async def test_a_line_that_is_too_long(self, path: Path, tmp_path: Path) -> None:
        """It is passed over without being in memory as a whole."""
        exact = json.dumps(project("exact", tags=["x" * 100])).encode()
        long = json.dumps(project("long", tags=["x" * 3_000_000])).encode()
        file = write(tmp_path / "file", long, GOOD, exact, exact + b" ", long)
        async with await BuildStore.open(path) as store:
            report = await store.import_file(file, max_line=len(exact))
        assert [bad.line for bad in report.bad_lines] == [1, 4, 5]
        assert "is longer than" in report.bad_lines[0].problem
        assert ask(path, "SELECT name FROM projects ORDER BY id") == [("good",), ("exact",)]

    @pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
    async def test_a_file_that_is_cut_off(
        self, path: Path, tmp_path: Path, pack: Callable[[bytes], bytes]
    ) -> None:
        lines = [json.dumps(project(f"{n}", tags=[random.Random(n).randbytes(200).hex()])).encode()
                 for n in range(500)]  # fmt: skip
        file = tmp_path / "file"
        packed = pack(b"\n".join(lines))
        file.write_bytes(packed[: len(packed) // 2])
        async with await BuildStore.open(path) as store:
            report = await store.import_file(file)
        assert 0 < report.projects < 500
        [bad] = report.bad_lines
        assert str(bad) == (
            f"{file} line {report.projects + 1} can't be read: the file is damaged or cut off there"
        )
