"""Exporting: the inverse of importing, to the byte; and both as commands."""

from __future__ import annotations

import asyncio
import gzip
import json
import lzma
import os
import pty
import re
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_import import abt_db, build, project, record, some, write
from test_migrations import ask

from abt_db import Config, Json, MappingError
from abt_db.builds import BuildStatus, BuildStore, Level, Stream
from abt_db.builds.output import Line
from abt_db.sql.values import encode
from abt_db.tools.cli import main

CONFIG = Config(readers=1)

__all__ = ["some"]

# -- what a database may hold ----------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["\0", "\r", "\n", "\\", '"', "\u2028", "\ufeff", "\x1b[31m", "\U0001f600", "{}", "\x7f\x80"]
)
INTEGER = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
MOMENT = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(encode)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGER | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def as_json(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return optional(values.map(Json).map(encode))


PROJECTS = st.lists(
    st.fixed_dictionaries(
        {
            "name": TEXT,
            "description": optional(TEXT),
            "project_type": TEXT,
            "repository_url": TEXT,
            "local_path": TEXT,
            "branch": TEXT,
            "build_command": optional(TEXT),
            "environment_vars": as_json(st.dictionaries(TEXT, TEXT, max_size=3)),
            "build_timeout": st.integers(1, 2**63 - 1),
            "created_at": MOMENT,
            "updated_at": MOMENT,
            "is_active": st.integers(0, 1),
            "tags": as_json(st.lists(TEXT, max_size=3)),
        }
    ),
    unique_by=lambda project: project["name"],
    max_size=3,
)
BUILDS = st.lists(
    st.fixed_dictionaries(
        {
            "project_id": st.integers(1, 3),
            "build_number": INTEGER,
            "status": st.sampled_from(list(BuildStatus)).map(str),
            "started_at": optional(MOMENT),
            "completed_at": optional(MOMENT),
            "duration_seconds": optional(NUMBER),
            "commit_hash": optional(TEXT),
            "branch": optional(TEXT),
            "build_type": optional(TEXT),
            "triggered_by": optional(TEXT),
            "exit_code": optional(INTEGER),
            "artifact_path": optional(TEXT),
            "artifact_size": optional(INTEGER),
            "memory_usage_mb": optional(NUMBER),
            "cpu_usage_percent": optional(NUMBER),
            "created_at": MOMENT,
            "updated_at": MOMENT,
            "build_metadata": as_json(st.dictionaries(TEXT, JSON, max_size=3)),
        }
    ),
    unique_by=lambda build: (build["project_id"], build["build_number"]),
    max_size=4,
)
LINES = st.lists(
    st.fixed_dictionaries(
        {
            "build_id": st.integers(1, 4),
            "sequence_number": st.integers(1, 5) | st.integers(1, 2**63 - 1),
            "level": st.sampled_from(list(Level)).map(str),
            "timestamp": MOMENT | st.just("2025-02-18T09:30:00.123+00:00"),
            "message": TEXT,
            "source": optional(TEXT),
            "stream": st.integers(1, 2),
            "raw": optional(st.binary(max_size=8)),
        }
    ),
    unique_by=lambda line: (line["build_id"], line["sequence_number"]),
    max_size=8,
)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A build database with nothing in it."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    with closing(sqlite3.connect(path)) as _:
        assert abt_db("import", "--db", path, "/dev/null").returncode == 0
    return path.read_bytes()


def fill(path: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Insert rows; builds of no project and lines of no build are left out."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA foreign_keys = on")
        for table, rows in tables.items():
            for row in rows:
                places = ", ".join(f":{name}" for name in row)
                try:
                    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", row)
                except sqlite3.IntegrityError as error:
                    assert "FOREIGN KEY" in str(error)
        db.commit()


def values(path: Path) -> list[list[tuple[Any, ...]]]:
    """All that is in the database; only log lines have other ids where they were added later."""
    columns = "build_id, sequence_number, level, timestamp, message, source, stream, raw"
    return [
        ask(path, "SELECT * FROM projects ORDER BY id"),
        ask(path, "SELECT * FROM builds ORDER BY id"),
        ask(path, f"SELECT {columns} FROM build_logs ORDER BY build_id, sequence_number"),
    ]


class TestRoundTrip:
    """What is exported, imported elsewhere and exported again has the same bytes."""

    @pytest.mark.large
    @given(PROJECTS, BUILDS, LINES)
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def test_whatever_is_in_the_database(
        self,
        empty: bytes,
        projects: list[dict[str, Any]],
        builds: list[dict[str, Any]],
        lines: list[dict[str, Any]],
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder, "first.db"), Path(folder, "second.db")
            first.write_bytes(empty)
            second.write_bytes(empty)
            fill(first, {"projects": projects, "builds": builds, "build_logs": lines})

            async def main() -> None:
                async with (
                    await BuildStore.open(first, config=CONFIG) as one,
                    await BuildStore.open(second, config=CONFIG) as two,
                ):
                    out = await one.export_file(Path(folder, "one"))
                    report = await two.import_file(Path(folder, "one"))
                    assert (report.bad_lines, report.present) == ([], 0)
                    assert (report.builds, report.log_lines) == (out.builds, out.log_lines)
                    await two.export_file(Path(folder, "two"))
                    known = await one.import_file(Path(folder, "two"))
                    assert (known.projects, known.builds, known.bad) == (0, 0, 0)

            asyncio.run(main())
            assert Path(folder, "one").read_bytes() == Path(folder, "two").read_bytes()
            assert values(first) == values(second)

    async def test_builds_of_rbtlog(self, some: Path, tmp_path: Path) -> None:
        files = [tmp_path / name for name in ("one.gz", "two.gz")]
        async with await BuildStore.open(tmp_path / "one.db", config=CONFIG) as store:
            await store.import_file(some)
            await store.export_file(files[0])
        async with await BuildStore.open(tmp_path / "two.db", config=CONFIG) as store:
            await store.import_file(files[0])
            await store.export_file(files[1])
            assert (await store.import_file(some)).builds == 0
        assert files[0].read_bytes() == files[1].read_bytes()
        assert values(tmp_path / "one.db") == values(tmp_path / "two.db")


class TestExport:
    """The file is one view of the database, whole or not there, and costs little memory."""

    async def test_only_the_projects_that_are_named(self, path: Path, tmp_path: Path) -> None:
        source = write(tmp_path / "source", build("a", log=["x"]), build("b"), build("c"))
        async with await BuildStore.open(path, config=CONFIG) as store:
            await store.import_file(source)
            report = await store.export_file(tmp_path / "some", projects=["c", "a"])
            with pytest.raises(LookupError, match="there is no project 'd'"):
                await store.export_file(tmp_path / "none", projects=["a", "d"])
        lines = [json.loads(line) for line in (tmp_path / "some").read_bytes().splitlines()]
        assert [next(iter(line)) for line in lines] == ["project", "project", "build", "build"]
        assert (report.projects, report.builds, report.log_lines) == (2, 2, 1)
        assert not (tmp_path / "none").exists()

    async def test_what_is_written_meanwhile_is_not_in_it(self, path: Path, tmp_path: Path) -> None:
        async with await BuildStore.open(path, config=CONFIG) as store:
            for _ in range(3):
                await record(store, "before")
            with closing(sqlite3.connect(path)) as other:

                def meddle(_report: object) -> None:
                    other.execute("UPDATE build_logs SET message = 'after'")
                    other.commit()

                await store.export_file(tmp_path / "file", progress=meddle)
        text = (tmp_path / "file").read_text()
        assert (text.count("before"), text.count("after")) == (3, 0)

    async def test_a_failed_one_leaves_the_old_file_and_nothing_else(
        self, path: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "out" / "file"
        file.parent.mkdir()
        file.write_bytes(b"old")
        async with await BuildStore.open(path, config=CONFIG) as store:
            await record(store, "line")
            await store.db.write(lambda cx: None)
            ask(path, "UPDATE builds SET duration_seconds = 9e999")
            with pytest.raises(MappingError, match="maps#1 can't be exported"):
                await store.export_file(file)
        assert file.read_bytes() == b"old"
        assert list(file.parent.iterdir()) == [file]

    async def test_a_long_log_is_not_held_in_memory(self, path: Path, tmp_path: Path) -> None:
        lines = [
            (Line(Stream.STDOUT, datetime.now(UTC), "x" * 1_000, None), Level.INFO, None)
        ] * 10_000
        async with await BuildStore.open(path, config=CONFIG) as store:
            await record(store, "line")
            await store.logs.append(1, lines)
            tracemalloc.start()
            try:
                await store.export_file(tmp_path / "file")
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert (tmp_path / "file").stat().st_size > 10_000_000
        assert peak < 5_000_000


class TestCommands:
    """`abt-db import` and `abt-db export`: what they print where, and their exit codes."""

    def test_through_a_pipe_and_packed(self, tmp_path: Path) -> None:
        source = write(tmp_path / "source", project("maps"), build("maps", log=["a", "b"]))
        for pack, told in (
            (gzip.compress, b"1 project, 1 build, 2 lines added"),
            (lzma.compress, b"0 projects, 0 builds, 0 lines added; 2 were there already"),
            (bytes, b"0 projects, 0 builds, 0 lines added; 2 were there already"),
        ):
            done = abt_db("import", "-", input=pack(source.read_bytes()), cwd=tmp_path)
            assert (done.returncode, done.stdout) == (0, b"")
            assert done.stderr == b"abt-db: -: " + told + b"\n"
        done = abt_db("export", cwd=tmp_path)
        assert (done.returncode, done.stdout.count(b'"message"')) == (0, 2)
        assert done.stderr == b"abt-db: 1 project, 1 build, 2 lines written\n"

    def test_bad_lines_are_told_and_the_exit_code_says_so(self, tmp_path: Path) -> None:
        write(tmp_path / "bad", b"{", project("maps"), *[b"{"] * 101)
        write(tmp_path / "good", project("atlas"))
        done = abt_db("import", "--json", "bad", "good", cwd=tmp_path)
        assert done.returncode == 1
        told = done.stderr.decode().splitlines()
        assert told[0].startswith("abt-db: bad line 1 is not JSON: ")
        assert told[-3:] == [
            "abt-db: bad has 2 more such lines",
            "abt-db: bad: 1 project, 0 builds, 0 lines added; 102 bad lines left out",
            "abt-db: good: 1 project, 0 builds, 0 lines added",
        ]
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(report["file"], report["bad"]) for report in reports] == [
            ("bad", 102),
            ("good", 0),
        ]

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["import", "none"], 1, "none can't be read: No such file"),
            (["import", "folder"], 1, "folder can't be read: Is a directory"),
            (["import"], 2, "FILE"),
            (["import", "--max-line", "0", "empty"], 2, "--max-line"),
            (["export", "--db", "none.db"], 1, "there is no database none.db"),
            (
                ["export", "--db", "good.db", "no"],
                1,
                "there is no project 'no'; see: abt-db projects",
            ),
            (["export", "--db", "good.db", "-o", "none/file"], 1, "none/file can't be written: No"),
            (["export", "--db", "good.db", "-o", "./good.db"], 1, "good.db is the database; name"),
            (["export", "--db", "good.db", "-o", "good.db-wal"], 1, "is the database; name"),
        ],
    )
    def test_errors_are_one_sentence(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        empty: bytes,
        arguments: list[str],
        code: int,
        says: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("folder").mkdir()
        Path("good.db").write_bytes(empty)
        try:
            assert main(arguments) == code
        except SystemExit as usage:
            assert usage.code == code
        out, err = capfd.readouterr()
        assert out == "" and says in err.splitlines()[-1]

    def test_progress_is_shown_on_a_terminal(self, some: Path, tmp_path: Path) -> None:
        code = (
            "import sys; from abt_db.tools import progress; from abt_db.tools.cli import main;"
            " progress.INTERVAL = 0.0; sys.exit(main(['import', sys.argv[1]]))"
        )
        command = [sys.executable, "-c", code, str(some)]
        controller, terminal = pty.openpty()
        with subprocess.Popen(command, cwd=tmp_path, stderr=terminal) as process:
            os.close(terminal)
            shown = b"".join(chunks(controller))
        os.close(controller)
        assert process.returncode == 0
        *drawn, last = shown.decode().strip().split("\r")
        bars = [text for text in drawn if "lines/s" in text]
        assert bars and all(re.match(r"\[#*\.*\] +\d+%  \d+ builds?, ", bar) for bar in bars)
        assert all(len(bar.removesuffix("\x1b[K")) < 80 for bar in bars)
        assert last.startswith("\x1b[Kabt-db: ") and "lines added" in last

    def test_the_help_tells_the_format(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["import", "--help"])
        told = capsys.readouterr().out
        assert '{"project": {"name": "maps"' in told


def chunks(descriptor: int) -> Iterator[bytes]:
    try:
        while data := os.read(descriptor, 65536):
            yield data
    except OSError:
        return  # the terminal's last user has gone
