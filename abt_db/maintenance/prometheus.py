"""Metrics as text that Prometheus reads
(https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .metrics import Metrics

Sample = tuple[Mapping[str, str], float | int | None]


def prometheus(metrics: Metrics) -> str:
    """Return metrics as Prometheus text, each labelled with the path of the database."""
    lines: list[str] = []
    for name, kind, text, samples in _families(metrics):
        told = [(labels, value) for labels, value in samples if value is not None]
        if told:
            lines += [f"# HELP abt_db_{name} {text}", f"# TYPE abt_db_{name} {kind}"]
            lines += [_line(name, {"db": metrics.path, **labels}, value) for labels, value in told]
    return "\n".join(lines) + "\n"


def _families(m: Metrics) -> Iterator[tuple[str, str, str, list[Sample]]]:
    """Yield name, type, help and samples of each metric."""
    yield "info", "gauge", "What serves the database.", [
        ({"sqlite": m.sqlite_version, "journal_mode": m.journal_mode}, 1)
    ]  # fmt: skip
    connections, cache, mapped = (
        (None, None, None) if m.pool is None else (m.connections, m.cache_size, m.mmap_size)
    )
    for name, text, value in (
        ("page_size_bytes", "Size of a page.", m.page_size),
        ("pages", "Pages of the database.", m.pages),
        ("free_pages", "Pages that hold nothing.", m.free_pages),
        ("log_size_bytes", "Size of the write-ahead log's file.", m.log_size),
        ("disk_free_bytes", "Room left on the disk.", m.disk_free),
        ("connections", "Connections that are open.", connections),
        ("cache_size_bytes", "What their page caches may take.", cache),
        ("mmap_size_bytes", "How much of the file each of them may map into memory.", mapped),
    ):
        yield name, "gauge", text, [({}, value)]
    tables, indexes = m.tables, m.indexes
    rows: list[Sample] = [
        ({"table": each.name, "counted": str(each.counted).lower()}, each.rows) for each in tables
    ]
    yield "table_rows", "gauge", "Rows of a table, counted or estimated.", rows
    yield "table_size_bytes", "gauge", "Size of a table without indexes.", [
        ({"table": each.name}, each.size) for each in tables
    ]  # fmt: skip
    yield "index_size_bytes", "gauge", "Size of an index.", [
        ({"table": each.table, "index": each.name}, each.size) for each in indexes
    ]  # fmt: skip
    if m.pool is not None:
        yield from _of_the_pool(m.pool)


def _of_the_pool(pool: dict[str, Any]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    lanes = [(lane, pool[lane]) for lane in ("writer", "readers") if pool[lane] is not None]
    for key, kind, text in (
        ("busy", "gauge", "Connections at work."),
        ("waiting", "gauge", "Calls that wait for a connection."),
        ("longest_wait", "gauge", "Seconds of the longest wait."),
        ("waits", "counter", "Calls that had to wait."),
        ("calls", "counter", "Calls that were done."),
        ("hops", "counter", "Trips to a connection's thread."),
        ("commits", "counter", "Transactions that were committed."),
        ("replaced", "counter", "Connections that had to be replaced."),
    ):
        name = {"longest_wait": "longest_wait_seconds"}.get(key, key)
        name += "_total" if kind == "counter" else ""
        yield f"pool_{name}", kind, text, [({"lane": lane}, each[key]) for lane, each in lanes]
    queries = pool["queries"]
    for key, kind, name, text in (
        ("count", "counter", "query_runs_total", "Runs of a query."),
        ("errors", "counter", "query_errors_total", "Runs of a query that failed."),
        ("rows", "counter", "query_rows_total", "Rows that a query read or changed."),
        ("seconds", "counter", "query_seconds_total", "Seconds that a query ran."),
        ("slowest", "gauge", "query_slowest_seconds", "The slowest run of a query."),
    ):
        yield name, kind, text, [({"query": query}, each[key]) for query, each in queries.items()]
    oldest = max((each["age"] for each in pool["transactions"]), default=0)
    yield "oldest_transaction_seconds", "gauge", "Age of what is open longest.", [({}, oldest)]


def _line(name: str, labels: Mapping[str, str], value: float | int | None) -> str:
    told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"abt_db_{name}{{{told}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
