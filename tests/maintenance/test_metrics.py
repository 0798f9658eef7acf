"""Figures of a database: right, bounded in cost, and readable by Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.engine import ADD, ADD_MANY, COUNT, Holder, items

from abt_db import Config, Database, Query, maintenance
from abt_db.maintenance import Metrics, prometheus, readable

CREATE_OTHER = Query("other", "CREATE TABLE other (word TEXT PRIMARY KEY) WITHOUT ROWID")
ANALYZE = Query("analyze", "ANALYZE")
CLEAR = Query("items.clear", "DELETE FROM items WHERE id > 10")


def rows_of(figures: Metrics, table: str) -> tuple[int | None, bool]:
    [found] = [each for each in figures.tables if each.name == table]
    return found.rows, found.counted


class TestFigures:
    """`maintenance.metrics(db)` says what SQLite says, and how it came to know."""

    async def test_of_the_file_and_the_pool(self, path: Path) -> None:
        async with items(path, readers=2) as db:
            await db.execute(ADD_MANY(count=2000, name="x" * 50))
            figures = await maintenance.metrics(db)
            [[pages]] = await db.fetch_all(Query("pages", "PRAGMA page_count")())
            assert (figures.pages, figures.size) == (pages, pages * 4096)
            assert figures.log_size == Path(f"{path}-wal").stat().st_size > 0
            assert figures.journal_mode == "wal"
            assert figures.connections == 3
            assert figures.cache_size == 3 * Config().cache_size
            assert figures.mmap_size == Config().mmap_size
            assert figures.disk_free is not None and figures.disk_free > 0
            assert figures.pool is not None and figures.pool["writer"]["commits"] >= 2

    async def test_sizes_add_up_to_the_file(self, path: Path) -> None:
        async with items(path) as db:
            await db.execute(ADD_MANY(count=2000, name="x" * 50))
            await db.execute(CLEAR())
            figures = await maintenance.metrics(db)
            if figures.tables[0].size is None:
                pytest.skip("this SQLite was built without dbstat")
            measured = sum(each.size or 0 for each in (*figures.tables, *figures.indexes))
            schema = 4096
            assert measured + figures.free_size + schema == figures.size
            assert [each.name for each in figures.indexes] == ["sqlite_autoindex_items_1"]
            assert figures.free_pages > 0

    async def test_rows_are_counted_or_estimated(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with items(path) as db:
            await db.execute(CREATE_OTHER())
            await db.execute(ADD_MANY(count=2000, name="x"))
            await db.execute(CLEAR())
            await db.execute(ADD(name="one more"))
            assert rows_of(await maintenance.metrics(db), "items") == (11, True)
            await db.execute(ADD(name="last"))
            await db.execute(Query("gap", "UPDATE items SET id = 5000 WHERE id = 12")())
            cheap = await maintenance.metrics(db, thorough=False)
            assert rows_of(cheap, "items") == (5000, False)  # from the first rowid to the last
            assert rows_of(cheap, "other") == (None, False)
            assert {each.size for each in cheap.tables} == {None}
            await db.execute(ANALYZE())
            await db.execute(ADD(name="after that"))
            assert rows_of(await maintenance.metrics(db, thorough=False), "items") == (12, False)
            thorough = await maintenance.metrics(db, thorough=True)
            assert rows_of(thorough, "items") == (13, True)

    async def test_a_cheap_look_does_not_read_the_table(self, path: Path) -> None:
        async with items(path) as db:
            await db.execute(ADD_MANY(count=50_000, name="x"))
            await maintenance.metrics(db, thorough=False)
            queries = db.stats()["queries"]
            assert "metrics.rows of items" not in queries and "metrics.sizes" not in queries
            plan = f"EXPLAIN QUERY PLAN {SPAN}"
            details = [row[3] for row in await db.fetch_all(Query("plan", plan)())]
            assert not [each for each in details if each.startswith("SCAN items")]

    async def test_of_a_read_only_database_and_one_in_memory(self, path: Path) -> None:
        async with items(path, "a"):
            pass
        async with Database(path, read_only=True) as db:
            figures = await maintenance.metrics(db)
            assert figures.pool is not None and figures.pool["writer"] is None
        figures = await maintenance.measure(path)
        assert (figures.journal_mode, figures.cache_size, figures.mmap_size) == ("wal", 0, 0)
        async with Database(path, config=Config(readers=2, cache_size=2**20, mmap_size=0)) as db:
            figures = await maintenance.metrics(db)
            assert (figures.cache_size, figures.mmap_size) == (3 * 2**20, 0)
        async with items(":memory:", "a") as db:
            figures = await maintenance.metrics(db)
            assert (figures.connections, figures.log_size, figures.disk_free) == (1, 0, None)
            assert (figures.journal_mode, figures.mmap_size) == ("memory", 0)
            assert rows_of(figures, "items") == (1, True)

    def test_sizes_are_readable(self) -> None:
        assert [readable(n) for n in (0, 999, 1000, 4_300_000, 2**40)] == [
            "0 bytes", "999 bytes", "1.0 KiB", "4.1 MiB", "1.0 TiB",
        ]  # fmt: skip


SPAN = "SELECT (SELECT max(rowid) FROM items) - (SELECT min(rowid) FROM items)"

SAMPLE = re.compile(
    r'abt_db_[a-z_]+\{db="[^"\\\n]+"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\} [-0-9.e]+'
)


class TestPrometheus:
    """The text is what Prometheus reads: each metric with its help, its type and its samples, once,
    whatever the names are."""

    async def test_every_line_is_well_formed(self, path: Path) -> None:
        odd = 'a "quoted"\\ name\nof two lines'
        quoted = '"' + odd.replace('"', '""') + '"'
        async with items(path, "a") as db, Holder(db.snapshot()):
            await db.execute(Query("odd", f"CREATE TABLE {quoted} (x)")())
            await db.fetch_one(COUNT())
            text = prometheus(await maintenance.metrics(db))
        assert text.endswith("\n")
        kinds: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                assert name not in kinds
                kinds[name] = kind
            elif not line.startswith("# HELP "):
                assert SAMPLE.fullmatch(line), line
                assert line.partition("{")[0] in kinds
        assert 'table="a \\"quoted\\"\\\\ name\\nof two lines"' in text
        assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
        assert 'query_runs_total{db="' in text and 'query="items.count"} 1' in text
        assert f"}} {Config().mmap_size}\n" in text.partition("# TYPE abt_db_mmap_size_bytes")[2]
        assert "abt_db_pool_busy{" in text and "oldest_transaction_seconds{" in text
