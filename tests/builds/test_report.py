"""The report: its figures are right, its page shows what a log contains and obeys none of it."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
import sqlite3
import statistics
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abt_db import Database, Query
from abt_db.builds import BuildStatus, BuildStore
from abt_db.builds.report import gather as gathering
from abt_db.builds.report import problems, queries, wording
from abt_db.builds.report.figures import (
    BuildMark,
    ErrorLine,
    Figures,
    Flake,
    Problem,
    ProjectReport,
    Report,
    ReportedProject,
    SlowBuild,
    TableSize,
    Unit,
)
from abt_db.builds.report.gather import gather
from abt_db.builds.report.markup import joined, tag, text
from abt_db.builds.report.page import render
from abt_db.builds.report.problems import count_problems, pattern
from abt_db.builds.report.scale import Span
from abt_db.builds.report.style import DARK, LIGHT
from abt_db.tools.cli import main

NOW = datetime(2026, 11, 22, 14, 40, tzinfo=UTC)
EVIL = "<script>alert(1)</script>]]>\"'&amp;\u202egpj.exe\x00\x1b[31m--><style>*{}</style>"


class Row(NamedTuple):
    """A build to be stored."""

    status: str
    at: datetime | None
    seconds: float | None = None
    commit: str | None = None
    errors: Sequence[str] = ()


def stored(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")


async def fill(path: Path, projects: dict[str, Sequence[Row]]) -> None:
    """Make a build database with these projects and builds in it."""
    async with await BuildStore.open(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        for name, rows in projects.items():
            project = db.execute(
                "INSERT INTO projects (name, project_type, repository_url, local_path, created_at)"
                " VALUES (?, 'android', ?, '', ?)",
                (name, f"https://example.org/{name}", stored(NOW)),
            ).lastrowid
            for number, row in enumerate(rows, 1):
                build = db.execute(
                    "INSERT INTO builds (project_id, build_number, status, started_at,"
                    " duration_seconds, commit_hash, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (project, number, row.status, stored(row.at), row.seconds, row.commit,
                     stored(NOW)),
                ).lastrowid  # fmt: skip
                db.executemany(
                    "INSERT INTO build_logs (build_id, sequence_number, level, message)"
                    " VALUES (?, ?, ?, ?)",
                    [(build, 1, "info", "begin"), (build, 2, "warning", "error: no, a warning")]
                    + [(build, n, "error", error) for n, error in enumerate(row.errors, 3)],
                )
        db.commit()


async def gathered(path: Path, **choice: Any) -> Report:
    async with Database(path) as db:
        return await gather(db, now=NOW, **choice)


class Page(HTMLParser):
    """A page, read back: its elements in their order, each closed where it should be."""

    VOID = ("meta", "wbr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: defaultdict[str, list[str]] = defaultdict(list)
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {attributes}"
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self._open.append(name)
            self.texts[name].append("")

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        for name in set(self._open):
            self.texts[name][-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError("a declaration")

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name in names]

    @property
    def skeleton(self) -> list[tuple[str, tuple[str, ...]]]:
        """What the page is made of, but for the places where a name may be broken."""
        return [(name, tuple(keys)) for name, keys in self.elements if name != "wbr"]

    @property
    def drawings(self) -> list[ET.Element]:
        return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.html, re.DOTALL)]


def figures(project: int | None = None, part: str | None = None, **changes: Any) -> Figures:
    one = Figures(project, part, 4, 2, 1, 1, 0, 0, 60.0, 90.0, 90.0, NOW - timedelta(days=1), NOW)
    return dataclasses.replace(one, **changes)


def report_of(word: str) -> Report:
    """A report with everything in it, and a word wherever a word may come from outside."""
    builds = tuple(
        BuildMark(1, number, status, NOW - timedelta(hours=number), number * 10.0)
        for number, status in enumerate(BuildStatus, 1)
    )
    part = figures(1, "2026-11-22")
    project = ProjectReport(ReportedProject(1, word, word, word, word), figures(1), (part,), builds)
    return Report(
        database=word,
        now=NOW,
        since=None,
        named=False,
        totals=figures(),
        unit=Unit.DAY,
        parts=(figures(part="2026-11-22"),),
        projects=(project,),
        project_count=2,
        failing=1,
        idle=(word,),
        idle_count=1,
        log_lines=5,
        slowest=(SlowBuild(1, word, 1, BuildStatus.FAILED, NOW, 90.0),),
        flaky=(Flake(1, word, word, 1, 1, NOW),),
        problems=(Problem(word, 3, 2, 1, word, word),),
        problems_exact=False,
        tables=(TableSize(word, 1, 4096, 4096),),
        file_size=12288,
        free_size=4096,
    )


PLAIN = Page(render(report_of("plain")))

# Every kind of character, and pieces of markup and of scripts among them.
HOSTILE = st.lists(
    st.text(st.characters(), max_size=8)
    | st.sampled_from(
        [EVIL, "<", "</title>", "]]>", "-->", "&#x3c;", "javascript:", "\ud800", "{}"]
    )
).map("".join)


class TestEscaping:
    """A log, a name or a path is text in the page, and is neither markup nor invisible."""

    @settings(max_examples=40, deadline=None)
    @given(HOSTILE)
    @example(EVIL)
    @example("x" * 100_000)
    def test_nothing_from_outside_becomes_an_element_or_an_attribute(self, word: str) -> None:
        page = Page(render(report_of(word)))
        assert page.skeleton == PLAIN.skeleton
        assert page.texts["script"] == PLAIN.texts["script"]
        assert page.texts["style"] == PLAIN.texts["style"]
        assert len(page.html) < 100_000
        assert page.drawings
        page.html.encode()

    @settings(deadline=None)
    @given(HOSTILE)
    def test_what_is_visible_comes_back_as_it_was(self, word: str) -> None:
        seen = "".join(c for c in word if c.isprintable())
        element = Page(tag("p", word, title=word))
        assert "".join(c for c in element.texts["p"][0] if c in seen) == seen
        assert len(element.texts["p"][0]) == len(word)
        assert element.all("p") == [{"title": element.texts["p"][0]}]

    @settings(deadline=None)
    @given(HOSTILE)
    def test_what_is_invisible_or_turns_the_text_round_is_shown_as_a_sign(self, word: str) -> None:
        shown = text(word)
        assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", shown)
        assert not any(0xD800 <= ord(character) < 0xE000 for character in shown)
        assert text("\x1b\x00\x7f\u202e") == "␛␀␡\ufffd"

    def test_markup_is_made_in_one_place(self) -> None:
        package = Path(problems.__file__).parent
        for module in package.glob("*.py"):
            assert module.name == "markup.py" or "Html(" not in module.read_text(), module

    def test_markup_that_is_put_together_elsewhere_is_text_again(self) -> None:
        bold = tag("b", "1 < 2")
        assert bold == "<b>1 &lt; 2</b>"
        assert joined([bold, "<i>"], "&") == "<b>1 &lt; 2</b>&amp;&lt;i&gt;"
        assert tag("p", bold + "") == "<p>&lt;b&gt;1 &amp;lt; 2&lt;/b&gt;</p>"


class TestPage:
    """The page is whole: valid, accessible, and in need of nothing from outside."""

    def test_it_may_load_nothing_and_run_only_its_own_script(self) -> None:
        [policy] = [
            meta["content"] or ""
            for meta in PLAIN.all("meta")
            if meta.get("http-equiv") == "Content-Security-Policy"
        ]
        [style], [script] = PLAIN.texts["style"], PLAIN.texts["script"]
        hashes = [b64encode(sha256(of.encode()).digest()).decode() for of in (style, script)]
        assert policy == (
            "default-src 'none'; base-uri 'none'; form-action 'none';"
            f" style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
        )

    def test_it_refers_to_nothing_but_itself(self) -> None:
        ids = [attributes["id"] for _, attributes in PLAIN.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for name, attributes in PLAIN.elements:
            assert not {"src", "srcset", "style", "action", "data"} & attributes.keys(), name
            assert not any(key.startswith("on") for key in attributes)
            if "href" in attributes:
                assert (attributes["href"] or "").removeprefix("#") in ids
        assert not re.search(r"https?:|//|url\(|@import", PLAIN.html)
        assert len(PLAIN.all("a")) > 7

    def test_drawings_are_xml_and_say_what_they_show(self) -> None:
        assert len(PLAIN.drawings) == len(PLAIN.all("svg"))
        for drawing in PLAIN.drawings:
            titled = drawing.find("title") is not None and drawing.get("role") == "img"
            assert titled or drawing.get("aria-hidden") == "true"

    def test_tables_have_headers(self) -> None:
        assert len(PLAIN.all("table")) == 5
        assert all(head.get("scope") in ("col", "row") for head in PLAIN.all("th"))

    def test_the_same_report_is_the_same_page(self) -> None:
        assert render(report_of("plain")) == PLAIN.html

    @pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
    def test_colours_can_be_read_in_both_schemes(self, scheme: dict[str, str]) -> None:
        """https://www.w3.org/TR/WCAG22/#contrast-minimum and #non-text-contrast"""
        for ground in (scheme["page"], scheme["card"]):
            for name in ("ink", "soft", "bad", "now", "ok"):
                assert contrast(scheme[name], ground) >= 4.5, name
            assert contrast(scheme["off"], ground) >= 3

    def test_success_and_failure_differ_in_grey_too(self) -> None:
        assert PLAIN.html.count('class="cross"') >= 2
        assert "✕ failed" in PLAIN.html


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def some_builds(seed: int, count: int, days: float) -> list[Row]:
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        status = chance.choice([*BuildStatus, "success", "success", "failed"])
        at = NOW - timedelta(days=chance.random() * days)
        final = BuildStatus(status).final
        rows.append(
            Row(
                status,
                None if status == "pending" else at.replace(microsecond=0),
                round(chance.expovariate(0.01), 2) if final and chance.random() < 0.9 else None,
                chance.choice([None, "a" * 40, "b" * 40, "c" * 40, str(chance.random())]),
                chance.choices(["error: one", "e: two", "fatal: three"], k=status == "failed"),
            )
        )
    return rows


def expected(rows: Iterable[Row]) -> dict[str, Any]:
    """Figures of builds, computed without SQL."""
    rows = list(rows)
    states = Counter(row.status for row in rows)
    times = sorted(row.seconds for row in rows if row.seconds is not None)
    starts = [row.at or NOW for row in rows]
    return {
        "builds": len(rows),
        "succeeded": states["success"],
        "failed": states["failed"],
        "cancelled": states["cancelled"],
        "running": states["running"],
        "pending": states["pending"],
        "median": pytest.approx(statistics.median(times)) if times else None,
        "p95": times[ceil(len(times) * 0.95) - 1] if times else None,
        "longest": times[-1] if times else None,
        "first_at": min(starts),
        "last_at": max(starts),
    }


def failing(rows: Sequence[Row]) -> bool:
    """Whether the last build that ended has failed."""
    ended = [row.status for row in rows if BuildStatus(row.status).final]
    return ended[-1:] == ["failed"]


def told(figures: Figures) -> dict[str, Any]:
    values = dataclasses.asdict(figures)
    return {key: value for key, value in values.items() if key not in ("project_id", "part")}


PROJECTS = {"one": some_builds(1, 120, 300), "two": some_builds(2, 31, 20), "none": []}


class TestFigures:
    """The figures of a report are those of the builds, counted by other means."""

    @pytest.mark.parametrize("days", [None, 30, 200, 10**12])
    async def test_are_those_of_the_builds(self, path: Path, days: int | None) -> None:
        await fill(path, PROJECTS)
        report = await gathered(path, days=days)
        since = (
            NOW - timedelta(days=min(days, 10_000)) if days else datetime.min.replace(tzinfo=UTC)
        )
        chosen = {
            name: [(number, row) for number, row in enumerate(rows, 1) if (row.at or NOW) >= since]
            for name, rows in PROJECTS.items()
        }
        rows = {name: [row for _, row in found] for name, found in chosen.items()}
        every = [row for found in rows.values() for row in found]
        assert report.totals is not None
        assert told(report.totals) == expected(every)
        assert {each.project.name: told(each.figures) for each in report.projects} == {
            name: expected(found) for name, found in rows.items() if found
        }
        by_part: defaultdict[tuple[str | None, str], list[Row]] = defaultdict(list)
        for name, found in rows.items():
            for row in found:
                part = stored(report.unit.begin(row.at or NOW)) or ""
                by_part[name, part[: report.unit.width]].append(row)
                by_part[None, part[: report.unit.width]].append(row)
        assert {(None, part.part): told(part) for part in report.parts} | {
            (each.project.name, part.part): told(part)
            for each in report.projects
            for part in each.parts
        } == {key: expected(found) for key, found in by_part.items()}
        assert report.failing == sum(map(failing, rows.values()))
        for each in report.projects:
            assert each.failing == failing(rows[each.project.name])
            last = chosen[each.project.name][-60:]
            assert [(m.build_number, m.status, m.at, m.seconds) for m in each.last_builds] == [
                (number, row.status, row.at or NOW, row.seconds) for number, row in last
            ]
        timed = sorted((row.seconds for row in every if row.seconds is not None), reverse=True)
        assert [build.seconds for build in report.slowest] == timed[:12]
        states: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for name, found in rows.items():
            for row in found:
                if row.commit:
                    states[name, row.commit][row.status] += 1
        assert {(f.project_name, f.commit_hash): (f.succeeded, f.failed) for f in report.flaky} == {
            key: (count["success"], count["failed"])
            for key, count in states.items()
            if count["success"] and count["failed"]
        }
        errors = Counter(error for row in every for error in row.errors)
        assert {p.pattern: (p.lines, p.builds, p.failed) for p in report.problems} == {
            error: (number,) * 3 for error, number in errors.items()
        }
        assert report.log_lines == sum(2 + len(row.errors) for row in every)
        assert (report.project_count, report.idle, report.idle_count) == (2, ("none",), 1)

    async def test_the_time_is_told_in_utc(self, path: Path) -> None:
        await fill(path, {"app": [Row("success", NOW, 1.0)]})
        async with await BuildStore.open(path) as store:
            page = await store.report(now=NOW.astimezone(timezone(timedelta(hours=9))))
        assert page == render(await gathered(path))
        assert "Made <time" in page and "22 Nov 2026, 14:40</time> UTC" in page

    async def test_are_of_the_projects_that_are_named(self, path: Path) -> None:
        await fill(path, PROJECTS)
        report = await gathered(path, projects=[2, 3])
        assert report.totals is not None
        assert told(report.totals) == expected(PROJECTS["two"])
        assert (report.project_count, report.idle) == (1, ("none",))
        assert "some projects" in render(report)

    async def test_stand_in_the_page(self, path: Path) -> None:
        await fill(path, PROJECTS)
        report = await gathered(path)
        page = Page(render(report))
        totals = expected(row for rows in PROJECTS.values() for row in rows)
        shown = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
        ended = totals["succeeded"] + totals["failed"] + totals["cancelled"]
        assert shown["succeeded"].endswith(" %")
        assert page.texts["dd"][:4] == [
            "2",
            str(totals["builds"]),
            f"{totals['succeeded'] / ended * 100:.0f} %",
            str(sum(failing(rows) for rows in PROJECTS.values())),
        ]
        marks = page.html.count('class="cross"') - 1  # one is in the key
        last = [build for each in report.projects for build in each.last_builds]
        assert marks == sum(build.status is BuildStatus.FAILED for build in last)

    async def test_are_of_one_moment(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is committed while they are gathered is in none of them."""
        await fill(path, {"app": [Row("success", NOW, 1.0)]})

        def meanwhile(lines: Iterable[ErrorLine], most: int) -> tuple[list[Problem], bool]:
            with closing(sqlite3.connect(path)) as db:
                db.execute("INSERT INTO builds (project_id, build_number) VALUES (1, 2)")
                db.commit()
            return count_problems(lines, most)

        monkeypatch.setattr(gathering, "count_problems", meanwhile)
        report = await gathered(path)
        assert [len(each.last_builds) for each in report.projects] == [1]
        assert [part.builds for part in report.parts] == [1]
        monkeypatch.undo()
        again = await gathered(path)
        assert [part.builds for part in again.parts] == [1, 1]

    async def test_many_projects_are_bounded(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gathering, "PROJECTS", 3)
        await fill(
            path,
            {f"p{n}": [Row("success", NOW - timedelta(days=n), 1.0)] for n in range(5)},
        )
        report = await gathered(path)
        assert [each.project.name for each in report.projects] == ["p0", "p1", "p2"]
        assert report.totals is not None
        assert (report.totals.builds, report.project_count) == (5, 5)
        assert "2 more projects" in render(report)

    async def test_tables_are_measured_where_sqlite_can(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(path, PROJECTS)
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
            db.execute("CREATE TABLE pairs (a PRIMARY KEY, b) WITHOUT ROWID")
            db.executemany("INSERT INTO pairs VALUES (?, ?)", [(n, "x" * 99) for n in range(999)])
            db.commit()
        report = await gathered(path)
        rows = {table.name: table.rows for table in report.tables}
        assert (rows["pairs"], rows["words_config"]) == (999, 1)
        assert (rows["projects"], rows["builds"], rows["build_logs"]) == (3, 151, report.log_lines)
        size = sum(table.data + table.indexes for table in report.tables)
        assert size + report.free_size == report.file_size

        monkeypatch.setattr(
            queries, "REPORT_CAN_SIZE_TABLES", Query("report.without", "SELECT 0", bool)
        )
        less = await gathered(path)
        assert (less.tables, less.file_size) == ((), report.file_size)
        assert "without dbstat" in render(less)


FEW = {
    "an empty database": {},
    "a project without builds": {"app": []},
    "one build": {"app": [Row("success", NOW, 62.5)]},
    "only failures": {"app": [Row("failed", NOW - timedelta(days=n), n) for n in range(9, 0, -1)]},
    "no durations": {"app": [Row("cancelled", NOW - timedelta(days=n)) for n in range(9, 0, -1)]},
    "nothing has ended": {"app": [Row("running", NOW), Row("pending", None)]},
    "no time at all": {"app": [Row("success", NOW, 0.0)] * 3},
    "the ends of time": {
        "app": [Row("success", datetime(1, 1, 1, tzinfo=UTC), 1e15),
                Row("failed", datetime(9999, 12, 31, 23, 59, tzinfo=UTC), 1e-9)]
    },
}  # fmt: skip


class TestEdges:
    """Where there is little or nothing to tell, the page says so, and stands as it should."""

    @pytest.mark.parametrize("name", FEW)
    async def test_with(self, path: Path, name: str) -> None:
        await fill(path, FEW[name])
        page = Page(render(await gathered(path)))
        assert not re.search(r"\b(nan|inf|None)\b", page.html)
        for drawing in page.drawings:
            for key, value in ((k, v) for mark in drawing.iter() for k, v in mark.items()):
                if key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                    assert -1 <= float(value) <= 400, (key, value)
        assert ("There are no builds yet" in page.html) == (not FEW[name].get("app"))
        assert ("per year" in page.html) == (name == "the ends of time")


class TestTime:
    """The time is divided into parts that can be told apart, the same ones in SQL and in Python."""

    MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0))

    @settings(deadline=None)
    @given(MOMENTS, st.sampled_from(Unit))
    def test_sql_and_python_agree_where_a_part_begins(self, at: datetime, unit: Unit) -> None:
        with closing(sqlite3.connect(":memory:")) as db:
            found = db.execute(
                f"SELECT {queries.REPORT_BY_TIME.sql.split('SELECT *, ')[-1].split(' FROM')[0]}"
                " FROM (SELECT :at AS at)",
                {"at": stored(at), "unit": unit, "width": unit.width},
            ).fetchone()[0]
        assert found == (stored(unit.begin(at)) or "")[: unit.width]

    @settings(deadline=None)
    @given(MOMENTS, st.floats(0, 11.5))
    @example(datetime(2026, 1, 10, tzinfo=UTC), 6.59)  # 45 days, with a 29th
    def test_parts_and_labels_are_few_and_even(self, first: datetime, magnitude: float) -> None:
        seconds = min(10**magnitude, (datetime.max.replace(tzinfo=UTC) - first).days * 86400)
        last = first + timedelta(seconds=int(seconds))
        unit = Unit.dividing(last - first)
        span = Span.of(unit, first, last)
        assert unit is Unit.YEAR or (last - first) / (unit.end(span.begin) - span.begin) <= 66
        ticks = [at for at, label in span.ticks() if label]
        assert 1 <= len(ticks) <= 4
        assert all(span.begin <= at <= span.end for at in ticks)
        gaps = [after - before for before, after in pairwise(ticks)]
        assert not gaps or timedelta(0) < max(gaps) < min(gaps) * 3

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(None, "–"), (0, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (291, "4 min 51 s"),
         (3599.7, "1 h 00 min"), (3723, "1 h 02 min"), (1e6, "277 h 47 min")],
    )  # fmt: skip
    def test_durations_are_written_as_people_do(self, seconds: float | None, shown: str) -> None:
        assert wording.duration(seconds) == shown

    @pytest.mark.parametrize(
        ("share", "shown"),
        [(None, "–"), (0, "0 %"), (1, "100 %"), (0.938, "94 %"), (0.9999, "99.9 %"),
         (0.996, "99.6 %"), (0.00001, "0.1 %")],
    )  # fmt: skip
    def test_only_all_is_a_hundred_percent(self, share: float | None, shown: str) -> None:
        assert wording.percent(share) == shown


class TestProblems:
    """Error lines that differ only in numbers, paths and addresses are one; others are not."""

    @pytest.mark.parametrize(
        "lines",
        [
            ("e: /build/repo/A.kt:1:2 Unresolved reference: foo",
             "e: file:///home/me/B.kt:33:4 Unresolved reference: foo"),
            ("src/main/java/A.java:10: error: cannot find symbol",
             "src/test/B.java:2: error: cannot find symbol"),
            ("error: RPC failed; curl 92 HTTP/2 stream 5 (err 8)",
             "error: RPC failed; curl 56 HTTP/2 stream 71 (err 12)"),
            ("expected version is 1.8.0.", "expected version is 1.10.22."),
            ("object 4f2c9aa1be at 0x7ffE", "object 00ab12cd34ef at 0x10"),
            ("java.lang.Error@1f2e3d4c", "java.lang.Error@abcdefab"),
            ("Could not GET 'https://a.org/b?c=1'.", "Could not GET 'http://b.org/'."),
            ("\x1b[31merror: \x1b[0mred", "  error:   red\r"),
            (r"C:\a\b\c.cpp(3): fatal", r"D:\x\y.cpp(31): fatal"),
        ],
    )  # fmt: skip
    def test_are_one(self, lines: tuple[str, str]) -> None:
        one, other = map(pattern, lines)
        assert one == other

    @pytest.mark.parametrize(
        "lines",
        [
            ("Unresolved reference: foo", "Unresolved reference: bar"),
            ("Execution failed for task ':app:lint'.", "Execution failed for task ':lib:lint'."),
            ("error: x86 is missing", "error: x64 is missing"),
            ("error: deadbeef", "error: facade"),
        ],
    )
    def test_are_two(self, lines: tuple[str, str]) -> None:
        one, other = map(pattern, lines)
        assert one != other

    @settings(deadline=None)
    @given(st.integers(0), st.integers(0))
    def test_numbers_never_part_them(self, one: int, other: int) -> None:
        assert pattern(f"error: {one} tests failed") == pattern(f"error: {other} tests failed")

    def test_are_ranked_by_builds_and_then_by_lines(self) -> None:
        lines = [
            *(ErrorLine(1, "a#1", False, f"often {n}") for n in range(9)),
            ErrorLine(1, "a#1", False, "* What went wrong:"),
            ErrorLine(1, "a#1", False, "twice"),
            ErrorLine(2, "a#2", True, "twice"),
            ErrorLine(2, "a#2", True, "rare"),
        ]
        assert count_problems(lines, 2) == (
            [
                Problem("twice", 2, 2, 1, "twice", "a#2"),
                Problem("often …", 9, 1, 0, "often 0", "a#1"),
            ],
            True,
        )

    def test_memory_is_bounded_and_what_is_frequent_is_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(problems, "KEPT", 100)
        words = (f"word {'x' * n}" for n in range(1, 290))
        lines = (
            ErrorLine(build, "", True, message)
            for build, word in enumerate(words)
            for message in (word, "frequent")
        )
        [first], exact = count_problems(lines, 1)
        assert (first.pattern, first.builds, exact) == ("frequent", 289, False)

    def test_of_a_very_long_line_only_the_beginning_is_looked_at(self) -> None:
        assert len(pattern("a/" * 1_000_000)) <= problems.LENGTH
        assert pattern("error: " + "word " * 100_000).endswith("…")


class TestCommand:
    """`abt-db report` writes one whole page, or says in a sentence why it does not."""

    @pytest.fixture(autouse=True)
    def there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ABT_DB", raising=False)

    def run(self, *arguments: str) -> int:
        return main(["report", *arguments])

    def make(self) -> None:
        asyncio.run(fill(Path("android_build_tool.db"), {"app": [Row("success", NOW, 5.0)]}))

    def test_the_page_is_written_and_said_on_stderr(self, capsys: Any) -> None:
        self.make()
        Path("page.html").write_text("an old one")
        assert self.run("-o", "page.html") == 0
        page = Page(Path("page.html").read_text(encoding="utf-8"))
        assert "android_build_tool.db" in page.texts["header"][0]
        said = capsys.readouterr()
        assert said.out == ""
        assert re.fullmatch(r"abt-db: page.html, \d+ kB\n", said.err)
        assert list(Path().glob("*page*")) == [Path("page.html")]

    def test_standard_output_carries_the_page_and_nothing_else(self, capsysbinary: Any) -> None:
        self.make()
        assert self.run("app", "--days", "99999999999", "-o", "-") == 0
        said = capsysbinary.readouterr()
        assert said.out.startswith(b"<!DOCTYPE html>") and said.out.endswith(b"</html>\n")
        assert said.err == b""

    def test_a_link_goes_on_to_be_one(self) -> None:
        self.make()
        Path("elsewhere.html").touch()
        Path("page.html").symlink_to("elsewhere.html")
        assert self.run("-o", "page.html") == 0
        assert Path("page.html").is_symlink()
        assert Path("elsewhere.html").stat().st_size > 1000

    def test_when_writing_fails_the_old_page_is_still_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        self.make()
        Path("page.html").write_text("an old one")

        def full(*_arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        assert self.run("-o", "page.html") == 1
        assert "page.html can't be written: No space left on device" in capsys.readouterr().err
        assert Path("page.html").read_text() == "an old one"
        assert list(Path().glob("*page*")) == [Path("page.html")]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("-o", "android_build_tool.db"), "is the database"),
            (("-o", "link.db"), "is the database"),
            (("-o", "."), "is a directory"),
            (("-o", "missing/page.html"), "there is no directory missing"),
            (("-o", "page.html", "nobody"), "there is no project 'nobody'"),
            (("-o", "page.html", "--db", "other.db"), "there is no database other.db"),
        ],
    )
    def test_mistakes_are_refused(self, arguments: tuple[str, ...], said: str, capsys: Any) -> None:
        self.make()
        before = Path("android_build_tool.db").read_bytes()
        Path("link.db").symlink_to("android_build_tool.db")
        assert self.run(*arguments) == 1
        assert said in capsys.readouterr().err
        assert Path("android_build_tool.db").read_bytes() == before
        assert not Path("page.html").exists()

    @pytest.mark.parametrize(
        "arguments", [(), ("-o", "a", "--days", "0"), ("-o", "a", "--days", "x")]
    )
    def test_wrong_usage_is_2(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit) as ended:
            self.run(*arguments)
        assert ended.value.code == 2
