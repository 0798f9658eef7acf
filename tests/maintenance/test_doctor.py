"""The doctor: what it says of sound, slow and damaged databases, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.engine import COUNT, NAMES, SOON, Holder, LockingProcess, items, run_script
from support.logged import ended
from test_files import PAGE, fill, make

from abt_db import Config, Database, Query, maintenance
from abt_db.builds import BuildStore
from abt_db.maintenance import (
    Diagnosis,
    Finding,
    Severity,
    diagnose,
    examine,
    findings,
    look_at,
    processes_of,
)
from abt_db.tools.cli import main


def doctor(path: Path, **options: Any) -> Diagnosis:
    return asyncio.run(examine(path, **options))


def said(found: Diagnosis, subject: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.subject == subject]


def the(found: Diagnosis, subject: str) -> Finding:
    [finding] = said(found, subject)
    return finding


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def page_of(path: Path, name: str, number: int) -> int:
    """The page of a table or an index that comes at that place among its leaves."""
    with closing(sqlite3.connect(path)) as raw:
        sql = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
        pages = [page for (page,) in raw.execute(sql, [name])]
    return int(pages[number])


def crash(path: Path, sql: str) -> None:
    """Have a process commit something and die, so that its log is left."""
    run_script(
        f"""
        raw = sqlite3.connect(path, isolation_level=None)
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        raw.execute({sql!r})
        os._exit(0)
        """,
        path,
    )


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


NOISE = random.Random(7).randbytes(PAGE)


class TestDamaged:
    """A damaged file is told from a sound one, with what to do; not a byte of it is changed, and
    nothing is left beside it (faults 43, 44)."""

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "it is empty"),
            (bytes(PAGE), "begins with zeros"),
            (b"\x1f\x8b\x08" + NOISE, "compressed (gzip)"),
            (NOISE, "another kind of file, or encrypted"),
            (b"SQLite format 3\0" + b"\x10", "cut off after 17 bytes"),
            (b"SQLite format 3\0" + b"\x10\x01" + NOISE, "no valid page size"),
            (b"SQLite format 3\0" + b"\x10\x00\x09\x09" + NOISE, "no valid journal mode"),
        ],
    )
    def test_what_is_no_database(self, path: Path, data: bytes, says: str) -> None:
        path.write_bytes(data)
        found = doctor(path)
        assert the(found, "file").severity is Severity.ERROR
        assert says in the(found, "file").message
        assert the(found, "file").remedy
        assert not found.healthy
        assert bytes_of(path) == {path.name: data}

    async def test_what_is_said_of_a_packed_one_can_be_done(self, path: Path) -> None:
        """`abt-db restore` knows it by its name, and would refuse one that is called otherwise."""
        make(path, "wal")
        file = (await maintenance.backup(path, path.parent, compression="gzip")).path
        remedy = the(await examine(file), "file").remedy
        assert remedy == f"if it is a backup: abt-db restore --db NEW {file}"
        finding = the(await examine(file.replace(path)), "file")
        assert finding.remedy == "unpack it, and look at what comes out"

    @pytest.mark.parametrize("size", [PAGE, PAGE * 5, PAGE * 5 + 100])
    def test_a_truncated_one(self, path: Path, size: int) -> None:
        path.write_bytes(make(path, "wal")[:size])
        before = bytes_of(path)
        found = doctor(path)
        assert "of them are missing" in the(found, "file").message
        assert not found.healthy and "abt-db restore --db" in (the(found, "file").remedy or "")
        assert bytes_of(path) == before

    @pytest.mark.parametrize("full", [False, True])
    def test_a_page_of_a_table(self, path: Path, full: bool) -> None:
        make(path, "wal")
        overwrite(path, (page_of(path, "items", 2) - 1) * PAGE, NOISE)
        before = bytes_of(path)
        found = doctor(path, full=full)
        whole, table = said(found, "integrity")
        assert "damaged" in whole.message
        assert "table items is damaged" in table.message and " rows can be read" in table.message
        assert ".recover" in (table.remedy or "") and "abt-db restore --db" in (table.remedy or "")
        assert bytes_of(path) == before

    def test_a_page_of_an_index(self, path: Path) -> None:
        """Its table is whole, and SQLite can't REINDEX it: nothing less than a new file helps."""
        make(path, "wal")
        overwrite(path, (page_of(path, "sqlite_autoindex_items_1", 2) - 1) * PAGE, NOISE)
        before = bytes_of(path)
        table = said(doctor(path), "integrity")[-1]
        assert "its 200 rows are whole" in table.message
        assert bytes_of(path) == before
        assert ".recover" in (table.remedy or "")

    def test_an_index_that_lacks_rows_is_seen_by_the_full_check(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name)")
            raw.execute("CREATE INDEX by_name ON items (name)")
            raw.execute("INSERT INTO items (name) VALUES ('a'), ('b')")
            raw.execute("PRAGMA writable_schema = 1")
            # Two rows that were written without the index.
            sql = (
                "UPDATE sqlite_schema SET sql = replace(sql, '(name)', '(name) WHERE name < ''b''')"
            )
            raw.execute(f"{sql} WHERE type = 'index'")
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("INSERT INTO items (name) VALUES ('c')")
            raw.execute("PRAGMA writable_schema = 1")
            raw.execute(
                "UPDATE sqlite_schema SET sql = replace(sql, ' WHERE name < ''b''', '')"
                " WHERE type = 'index'"
            )
        assert doctor(path).healthy
        found = doctor(path, full=True)
        assert "missing from index by_name" in said(found, "integrity")[0].message
        remedy = said(found, "integrity")[-1].remedy
        assert remedy == 'REINDEX "items"'
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute(remedy)
        assert doctor(path, full=True).healthy

    def test_the_schema_itself(self, path: Path) -> None:
        make(path, "delete")
        overwrite(path, 100, NOISE[:200])
        before = bytes_of(path)
        found = doctor(path)
        assert not found.healthy and found.metrics is None
        assert "abt-db restore --db" in (found.findings[-1].remedy or "")
        assert bytes_of(path) == before

    def test_rows_that_break_a_constraint(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("CREATE TABLE parts (size)")
            raw.execute("INSERT INTO parts (size) VALUES (NULL)")
            raw.execute("PRAGMA writable_schema = 1")
            raw.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE parts (size NOT NULL)'")
        finding = the(doctor(path), "integrity")
        assert "break a constraint" in finding.message and "parts.size" in finding.message

    def test_foreign_keys_that_lead_nowhere(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
            raw.execute("CREATE TABLE b (a REFERENCES a)")
            raw.execute("INSERT INTO b VALUES (1), (2)")
        finding = the(doctor(path), "foreign keys")
        assert finding.severity is Severity.ERROR
        assert finding.message == "rows of b that refer to one of a which is not there: 2"


class TestLostLog:
    """What has become of the log is seen from what lies there (fault 47)."""

    def test_a_log_that_a_crash_has_left_is_no_fault(self, path: Path) -> None:
        make(path, "wal")
        crash(path, "INSERT INTO items (name) VALUES ('late')")
        log, data = Path(f"{path}-wal").read_bytes(), path.read_bytes()
        found = doctor(path)
        assert found.healthy and found.metrics is not None
        assert [table.rows for table in found.metrics.tables if table.name == "items"] == [201]
        assert (Path(f"{path}-wal").read_bytes(), path.read_bytes()) == (log, data)

    def test_a_log_that_was_deleted(self, path: Path) -> None:
        make(path, "wal")
        crash(path, "INSERT INTO items (name) VALUES ('late')")
        Path(f"{path}-wal").unlink()
        data = path.read_bytes()
        finding = the(doctor(path), "log")
        assert finding.severity is Severity.ERROR and "the log was deleted" in finding.message
        assert path.read_bytes() == data

    def test_a_log_that_is_rubbish(self, path: Path) -> None:
        make(path, "wal")
        Path(f"{path}-wal").write_bytes(NOISE)
        data = path.read_bytes()
        finding = the(doctor(path), "log")
        assert finding.severity is Severity.ERROR and "is no write-ahead log" in finding.message
        assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == (data, NOISE)

    def test_a_journal_that_a_crash_has_left(self, path: Path) -> None:
        """Nothing but opening the database to write undoes what is half written in it."""
        make(path, "delete")
        run_script(
            """
            raw = sqlite3.connect(path, isolation_level=None)
            raw.execute("PRAGMA cache_size = 5")
            raw.execute("BEGIN")
            raw.execute("UPDATE items SET name = hex(randomblob(500))")
            os._exit(0)
            """,
            path,
        )
        before = bytes_of(path)
        assert f"{path.name}-journal" in before
        finding = the(doctor(path), "file")
        assert "a transaction was interrupted there" in finding.message
        assert bytes_of(path) == before
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("SELECT count(*) FROM items")
        assert doctor(path).healthy

    def test_a_transaction_that_goes_on_is_no_fault(self, path: Path) -> None:
        make(path, "delete")
        with LockingProcess(path, "BEGIN IMMEDIATE", "UPDATE items SET name = name || 'x'"):
            assert Path(f"{path}-journal").stat().st_size
            assert doctor(path).healthy


class TestNoTrace:
    """A file that nobody has open is examined without a lock, and nothing is left beside it; one
    that somebody begins to write meanwhile is examined again."""

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_nothing_is_left(self, path: Path, mode: str) -> None:
        make(path, mode)
        before = bytes_of(path)
        found = doctor(path, full=True)
        assert found.healthy and found.metrics is not None
        assert found.metrics.journal_mode == mode
        assert bytes_of(path) == before

    async def test_somebody_who_begins_to_write_is_noticed(self, path: Path) -> None:
        make(path, "wal")
        rows: list[int | None] = []

        async def meanwhile(db: Database) -> list[Finding]:
            rows.append(await db.fetch_one(COUNT()))
            if len(rows) == 1:
                subprocess.run(
                    [sys.executable, "-c", "import sqlite3, sys; cx = sqlite3.connect(sys.argv[1]);"
                     " cx.execute(\"INSERT INTO items (name) VALUES ('new')\"); cx.commit()",
                     str(path)],
                    check=True,
                )  # fmt: skip
            return []

        assert (await examine(path, also=meanwhile)).healthy
        assert rows == [200, 201]

    async def test_a_database_in_use_stays_in_use(self, path: Path) -> None:
        fill(path, "wal", 200)
        with LockingProcess(path, "BEGIN IMMEDIATE", "INSERT INTO items (name) VALUES ('x')"):
            found = await examine(path)
            assert found.healthy
            if (processes := found.processes) is not None:
                assert [each.writes for each in processes if each.pid != os.getpid()] == [True]


class TestReaders:
    """Who reads so long that the log can't be emptied is named (fault 53, invariant 20)."""

    def test_a_process_that_does_not_end_its_transaction(self, path: Path) -> None:
        fill(path, "wal", 200)
        if processes_of(path) is None:
            pytest.skip("this system does not list locks")
        with LockingProcess(path, "BEGIN", "SELECT count(*) FROM items") as reader:
            crash(path, "INSERT INTO items (name) VALUES ('late')")
            finding = the(doctor(path), "reader")
            assert finding.severity is Severity.WARNING
            assert f"process {reader._process.pid} (" in finding.message
            assert "python" in finding.message

    def test_many_that_come_and_go_are_not_one_that_stays(self) -> None:
        def look(*views: int) -> list[maintenance.Process]:
            return [maintenance.Process(7, "app", False, frozenset(views))]

        def named(*looks: list[maintenance.Process]) -> bool:
            return bool([*findings.of_processes(looks, 0.5, log_is_held=True)])

        assert named(look(1, 2), look(2), look(2, 3))
        assert not named(look(1), look(2), look(1))
        assert not named(look(1), [], look(1))

    def test_one_that_only_has_it_open_is_none(self, path: Path) -> None:
        fill(path, "wal", 200)
        with LockingProcess(path, "SELECT count(*) FROM items"):
            assert not said(doctor(path), "reader")

    async def test_a_snapshot_of_this_process(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("abt_db.maintenance.diagnosis.AGE", 0.0)
        async with items(path, "a") as db, Holder(db.snapshot(label="audit"), name="auditor"):
            finding = the(await diagnose(db), "reader")
            assert "snapshot 'audit' of task 'auditor'" in finding.message

    async def test_a_log_that_is_too_long(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(findings, "LOG_LIMIT", 10_000)
        fill(path, "wal", 200)
        with LockingProcess(path, "BEGIN", "SELECT count(*) FROM items"):
            crash(path, "UPDATE items SET name = name || 'x'")
            log = look_at(path).log
            assert log is not None and log.frames > log.moved
            [pending, size] = said(await examine(path), "log")
            assert f"{log.frames - log.moved:,} pages" in pending.message
            assert (pending.severity, size.severity) == (Severity.ERROR, Severity.WARNING)
            assert "abt-db checkpoint" in (pending.remedy or "")


class TestForeign:
    """What other programs have made is looked at as well."""

    @pytest.mark.parametrize("full", [False, True])
    def test_a_virtual_table_that_only_another_program_can_read(
        self, path: Path, full: bool
    ) -> None:
        make(path, "wal")
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("PRAGMA writable_schema = on")
            raw.execute(
                "INSERT INTO sqlite_schema VALUES"
                " ('table', 'words', 'words', 0, 'CREATE VIRTUAL TABLE words USING elsewhere(x)')"
            )
        assert doctor(path, full=full).healthy


class TestIndexes:
    """Indexes that are not needed and those that are missing are named, with the SQL that helps;
    those that do their work are not."""

    SCHEMA = """
        CREATE TABLE makers (id INTEGER PRIMARY KEY, name UNIQUE, country);
        CREATE TABLE parts (id INTEGER PRIMARY KEY, maker REFERENCES makers, second INTEGER
            REFERENCES makers, kind, note);
        CREATE TABLE twins (id INTEGER PRIMARY KEY REFERENCES makers);
        CREATE INDEX parts_maker ON parts (maker, kind);
        CREATE INDEX parts_maker_alone ON parts (maker);
        CREATE INDEX parts_maker_down ON parts (maker DESC);
        CREATE INDEX parts_some ON parts (maker) WHERE kind = 1;
        CREATE INDEX parts_note ON parts (lower(note));
        CREATE INDEX parts_kind ON parts (kind);
        CREATE INDEX makers_name ON makers (name);
        CREATE UNIQUE INDEX makers_country ON makers (name, country);
        CREATE UNIQUE INDEX makers_one_a_country ON makers (country);
        CREATE INDEX makers_both ON makers (country, name);
    """

    async def test_what_is_said(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings, "MANY", 100)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            for sql in self.SCHEMA.split(";"):
                raw.execute(sql)
            raw.execute(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 200)"
                " INSERT INTO parts (kind) SELECT x % 2 FROM n"
            )
            raw.execute("ANALYZE")
        found = said(await examine(path), "index")
        told = {finding.remedy: finding.message for finding in found}
        assert "parts_maker begins with the same" in told.pop('DROP INDEX "parts_maker_alone"')
        assert "sqlite_autoindex_makers_1" in told.pop('DROP INDEX "makers_name"')
        missing = told.pop('CREATE INDEX "parts_second" ON "parts" ("second")')
        assert missing.endswith("each DELETE in makers reads all 200 rows of parts")
        [(remedy, vague)] = told.items()
        assert remedy is not None and remedy.startswith('DROP INDEX "parts_kind", if')
        assert vague.endswith("a value of kind stands in 100 of 200 rows on average")

    async def test_what_sqlite_believes_of_the_rows(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(findings, "MANY", 100)
        fill(path, "wal", 200)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("CREATE INDEX items_double ON items (id, name)")
            finding = the(await examine(path), "statistics")
            assert finding.message.endswith("knows nothing")
            assert finding.remedy == f"abt-db optimize --db {path}"
            raw.execute("ANALYZE")
            assert not said(await examine(path), "statistics")
            raw.execute("DELETE FROM items WHERE id > 150")
            raw.execute("UPDATE sqlite_stat1 SET stat = '5 1 1'")
            assert the(await examine(path), "statistics").message.endswith("that it has 5")

    async def test_an_index_of_few_rows_does_not_stand_for_all(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(findings, "MANY", 100)
        fill(path, "wal", 200)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("CREATE TABLE more AS SELECT * FROM items")
            raw.execute("CREATE INDEX more_few ON more (id) WHERE id > 198")
            raw.execute("CREATE INDEX more_all ON more (name)")
            raw.execute("ANALYZE")
        assert not said(await examine(path), "statistics")

    async def test_queries_that_ran_are_looked_at(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(findings, "MANY", 100)
        slow = Query("items.by_length", "SELECT id FROM items WHERE length(name) = :n", int)
        never = Query("items.never", "SELECT id FROM items WHERE name LIKE :n", int)
        async with items(path, *map(str, range(100))) as db:
            await db.execute(Query("index", "CREATE INDEX items_double ON items (id, name)")())
            await db.fetch_all(slow(n=1))
            await db.fetch_all(NAMES())
            found = await diagnose(db, queries=[slow, never])
            assert [each.message[:54] for each in said(found, "query")] == [
                "query 'items.by_length' reads all 100 rows of items (r"
            ]
            unused = the(found, "index")
            assert (
                unused.message == "index items_double is used by no query that ran, of 1 looked at"
            )


class TestDiagnosis:
    """A database in use is looked at through its own connections."""

    async def test_settings_of_both_kinds_of_connections(self, path: Path) -> None:
        config = Config(readers=1, cache_size=1024 * 1024, synchronous="full")
        async with Database(path, config=config) as db:
            settings = (await diagnose(db)).settings
        assert settings.keys() == {"reader", "writer"}
        for kind in settings:
            assert settings[kind]["synchronous"] == 2
            assert settings[kind]["cache_size"] == -1024
            assert settings[kind]["query_only"] == (kind == "reader")

    async def test_a_writer_that_is_busy_is_said(self, path: Path) -> None:
        async with items(path, "a", acquire_timeout=0.5) as db, Holder(db.transaction(label="x")):
            found = await diagnose(db)
            assert "transaction 'x'" in the(found, "writer").message
            assert found.settings.keys() == {"reader"}

    async def test_in_memory(self) -> None:
        async with items(":memory:", "a") as db:
            found = await diagnose(db)
            assert found.healthy and found.metrics is not None
            assert found.metrics.disk_free is None

    @pytest.mark.parametrize(
        ("version", "mode", "count"),
        [
            ("3.40.1", "wal", 1),
            ("3.51.2", "wal", 1),
            ("3.51.3", "wal", 0),
            ("3.44.6", "wal", 0),
            ("3.44.5", "wal", 1),
            ("3.40.1", "delete", 0),
            ("3.35.4", "delete", 2),
            ("3.35.5", "delete", 1),
            ("3.37.1", "wal", 2),
            ("3.37.2", "wal", 1),
            ("3.38.2", "delete", 1),
        ],
    )
    def test_the_version_of_sqlite(self, version: str, mode: str, count: int) -> None:
        assert len(list(findings.of_the_version(version, mode))) == count

    async def test_a_disk_that_is_nearly_full(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(path, "wal")
        for free, severity in ((1000, Severity.ERROR), (30 * 2**20, None)):
            usage = shutil._ntuple_diskusage(0, 0, free)
            monkeypatch.setattr(shutil, "disk_usage", lambda folder, usage=usage: usage)
            found = said(await examine(path), "disk")
            assert [each.severity for each in found] == ([severity] if severity else [])

    async def test_much_free_space(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings, "MUCH", 0)
        fill(path, "wal", 200)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("DELETE FROM items")
        finding, *_ = said(await examine(path), "space")
        assert "hold nothing" in finding.message and "abt-db vacuum" in (finding.remedy or "")


class TestRecommendations:
    """What could be set or removed so that a database does better: each with a figure, and the
    change to make; nothing where all is as it should be."""

    SUBJECTS = ("journal", "cache", "mmap", "size")

    def all_of(self, found: Diagnosis) -> dict[str, Finding]:
        return {each.subject: each for each in found.findings if each.subject in self.SUBJECTS}

    async def test_of_a_database_with_the_usual_settings_there_is_none(self, path: Path) -> None:
        async with items(path, "a") as db:
            assert not self.all_of(await diagnose(db))
        assert not self.all_of(await examine(path))

    async def test_a_journal_mode_other_than_wal(self, path: Path) -> None:
        async with items(path, "a", journal_mode="delete") as db:
            finding = the(await diagnose(db), "journal")
        assert finding.severity is Severity.WARNING
        assert "journal_mode is delete" in finding.message and "2 fsyncs" in finding.message
        assert finding.remedy == 'open it with Config(journal_mode="wal")'

    @pytest.mark.parametrize("in_use", [True, False])
    async def test_the_journal_mode_of_a_file_is_changed_by_what_is_said(
        self, path: Path, in_use: bool
    ) -> None:
        make(path, "delete")
        if in_use:
            async with Database(path, read_only=True) as db:
                remedy = the(await diagnose(db), "journal").remedy
        else:
            remedy = the(await examine(path), "journal").remedy
        statement = (remedy or "").removeprefix(f"sqlite3 {path} ").strip('"')
        with closing(sqlite3.connect(path)) as raw:
            raw.execute(statement)
        assert not self.all_of(await examine(path))

    async def test_an_archive_and_a_copy_that_litestream_follows_are_right_as_they_are(
        self, path: Path
    ) -> None:
        make(path, "delete")
        async with Database(path, config=Config(immutable=True), read_only=True) as db:
            assert not self.all_of(await diagnose(db))
        Path(f"{path}-txid").write_text("0000000000000001")
        async with Database(path, read_only=True) as db:
            assert not self.all_of(await diagnose(db))
        assert not self.all_of(await examine(path))

    async def test_a_cache_that_is_small_for_the_database(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, "wal", 2000)
        size = path.stat().st_size
        for cache, mapped in ((size // 2, 2**20), (2 * size, 2**20), (0, 2**20)):
            config = Config(cache_size=cache, mmap_size=mapped)
            async with Database(path, config=config) as db:
                found = self.all_of(await diagnose(db))
            assert set(found) == ({"cache"} if cache < size else set())
            if found:
                assert f"cache_size is {maintenance.readable(cache)} for" in found["cache"].message
                assert found["cache"].remedy == "open it with Config(cache_size=1 * 1024 * 1024)"
        monkeypatch.setattr(findings, "SMALL_CACHE", size // 4)
        async with Database(path, config=Config(cache_size=size // 2)) as db:
            assert not self.all_of(await diagnose(db))

    async def test_no_memory_mapping_where_the_file_is_larger_than_the_cache(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, "wal", 2000)
        size = path.stat().st_size
        monkeypatch.setattr(findings, "SMALL_CACHE", size // 4)
        for cache, mapped, said_of in (
            (size // 2, 0, {"mmap"}),
            (size * 2, 0, set()),
            (size // 2, 2**20, set()),
        ):
            async with Database(path, config=Config(cache_size=cache, mmap_size=mapped)) as db:
                found = self.all_of(await diagnose(db))
            assert set(found) == said_of
            for finding in found.values():
                assert finding.severity is Severity.NOTE
                assert "mmap_size is 0 for a database of" in finding.message
                assert "Config(mmap_size=1 * 1024 * 1024)" in (finding.remedy or "")

    async def test_a_large_database_and_what_is_large_in_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, "wal", 2000)
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("CREATE TABLE plain AS SELECT name FROM items")
            raw.execute("CREATE TABLE few (x)")
        found = await examine(path)
        assert not said(found, "size") and found.metrics is not None
        figures = found.metrics
        if figures.tables[0].size is None:
            pytest.skip("this SQLite was built without dbstat")
        monkeypatch.setattr(findings, "LARGE", figures.size)
        assert not said(await examine(path), "size")  # not larger than that
        monkeypatch.setattr(findings, "LARGE", figures.size - 1)
        monkeypatch.setattr(findings, "LARGE_TABLE", 5000)
        whole, *tables = said(await examine(path), "size")
        assert whole.message.startswith(f"the database has {maintenance.readable(figures.size)}; ")
        assert "items " in whole.message and "few" not in whole.message
        assert whole.remedy is not None and whole.remedy.endswith(f"abt-db vacuum --db {path}")
        told = {finding.message.split()[1]: finding for finding in tables}
        assert set(told) == {"items", "plain"}
        assert " in 2,000 rows, and " in told["items"].message
        assert "CREATE INDEX" not in (told["items"].remedy or "")
        assert "without an index" in told["plain"].message
        assert "CREATE INDEX" in (told["plain"].remedy or "")

    async def test_where_a_virtual_table_keeps_its_data_no_index_is_asked_for(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            try:
                raw.execute("CREATE VIRTUAL TABLE words USING fts5 (text)")
            except sqlite3.OperationalError:
                pytest.skip("this SQLite was built without FTS5")
            raw.execute("CREATE TABLE words_alone (x)")
        async with Database(path, read_only=True) as db:
            figures = await maintenance.metrics(db)
        of = {each.name: each.of for each in figures.tables}
        assert of.pop("words_data") == of.pop("words_content") == "words"
        assert of.pop("words_alone") is None
        monkeypatch.setattr(findings, "LARGE_TABLE", 0)
        found = said(await examine(path), "size")
        of_words = [each for each in found if "the virtual table words keeps its" in each.message]
        assert len(of_words) == len(found) - 1
        for finding in of_words:
            assert (finding.remedy or "").endswith("rows of words that nobody needs any more")


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `abt-db doctor` in an empty directory."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["abt-db", "doctor", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    return run


class TestCommand:
    """`abt-db doctor`: 0 fine, 1 wrong, 2 usage; a person reads it, `--json` and `--prometheus` are
    for machines."""

    async def test_a_sound_build_database(self, run: Run, path: Path) -> None:
        async with await BuildStore.open(path):
            pass
        before = bytes_of(path)
        done = run("--db", path.name)
        assert (done.returncode, done.stderr) == (0, "")
        assert "quick check passed" in done.stdout and "build_logs" in done.stdout
        told = json.loads(run("--db", path.name, "--json", "--full").stdout)
        assert told["check"] == "full"
        assert {finding["severity"] for finding in told["findings"]} <= {"warning", "note"}
        assert "abt_db_table_rows{db=" in run("--db", path.name, "--prometheus").stdout
        assert bytes_of(path) == before

    async def test_drift_from_the_migrations(self, run: Run, path: Path) -> None:
        async with await BuildStore.open(path):
            pass
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("DROP INDEX builds_by_commit")
            for table in ("_litestream_seq", "_litestream_lock"):
                raw.execute(f"CREATE TABLE {table} (id INTEGER)")  # another tool's are no drift
        done = run("--db", path.name)
        assert done.returncode == 1
        assert "error, schema:\n  index builds_by_commit is missing" in done.stdout
        assert "litestream" not in done.stdout.partition("error,")[2]

    async def test_old_logs_in_a_large_build_database(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with await BuildStore.open(path) as store:
            for days in (91, 89):
                await ended(store, at=datetime.now(UTC) - timedelta(days=days), lines=3)
        for large, told in (findings.LARGE, False), (0, True):
            monkeypatch.setattr("abt_db.tools.doctor.LARGE", large)
            assert await asyncio.to_thread(main, ["doctor", str(path)]) == 0
            shown = capsys.readouterr().out
            assert ("3 lines in the logs of 1 builds are older than 90 days" in shown) == told
            assert (f"→ abt-db prune --db {path} --older-than 90d" in shown) == told

    def test_what_is_wrong_is_in_the_exit_code(self, run: Run, path: Path) -> None:
        path.write_bytes(NOISE)
        done = run("--db", path.name)
        assert (done.returncode, done.stderr) == (1, "")
        assert "error, file:\n  this is no SQLite database" in done.stdout
        assert run("--db", path.name, "--prometheus").returncode == 1

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["--db", "none.db"], 1, "there is no database none.db"),
            (["--db", "."], 1, "Is a directory"),
            (["--json", "--prometheus"], 2, "not allowed with"),
        ],
    )
    def test_bad_input(self, run: Run, arguments: list[str], code: int, says: str) -> None:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (code, "") and says in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_pipe_is_not_waited_for(self, path: Path) -> None:
        os.mkfifo(path)
        command = ["abt-db", "doctor", "--db", path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SOON)
        assert (done.returncode, done.stdout) == (1, "") and "it is a pipe" in done.stderr
