"""`Table` and `Family`: SQL that depends on the caller's choice is made from known names alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abt_db import ParameterError, Query, Statement
from abt_db.builds import Build, BuildStatus
from abt_db.builds.family import Family
from abt_db.builds.queries import BUILD_SUMMARIES, BUILDS, PROJECTS
from abt_db.migrations import load_migrations
from abt_db.sql.table import Table

SCRIPTS = [migration.up for migration in load_migrations("abt_db.schema")]
EVIL = [
    "",
    "-",
    "--id",
    "id ",
    "ID",
    "id DESC",
    "id; DROP TABLE builds",
    "id'",
    'id"',
    '"id"',
    "id\0",
    "rowid",
    "(SELECT 1)",
    "build_metadata",
    "nein",
    "\ud800",
]


@pytest.fixture(scope="module")
def db() -> Iterator[sqlite3.Connection]:
    """The build database, with one project in it."""
    with closing(sqlite3.connect(":memory:")) as db:
        for script in SCRIPTS:
            db.executescript(script)
        db.execute(
            "INSERT INTO projects (id, name, project_type, repository_url, local_path)"
            " VALUES (1, 'maps', '', '', '')"
        )
        db.commit()
        yield db


def run(db: sqlite3.Connection, statement: Statement[Any]) -> list[Any]:
    cursor = db.execute(statement.query.text, statement.values)
    return statement.query.map_rows(cursor.description, cursor.fetchall())


class TestNames:
    """No name from outside reaches the SQL: it is one of the columns, or an error that names
    those (fault 37)."""

    @pytest.mark.parametrize("name", EVIL)
    def test_an_order_is_by_a_column_or_refused(self, name: str) -> None:
        for order in name, f"-{name}":
            with pytest.raises(ParameterError, match="one of id, project_id, build_number") as told:
                BUILDS.page(10, order_by=order)
            assert not name or "DROP" not in str(told.value)

    @pytest.mark.parametrize("name", EVIL)
    def test_a_filter_is_a_column_or_refused(self, name: str) -> None:
        for make in (BUILDS.count, lambda names: BUILDS.page(10, filters=names)):
            with pytest.raises(ParameterError, match="the columns are id, project_id"):
                make({name: 1})

    @pytest.mark.parametrize("name", [name for name in EVIL if name != "build_metadata"])
    def test_a_changed_column_is_one_or_refused(self, name: str) -> None:
        for make in (BUILDS.create, lambda names: BUILDS.update(1, names)):
            with pytest.raises(ParameterError, match="the columns are"):
                make({name: 1})

    def test_an_id_does_not_change(self) -> None:
        with pytest.raises(ParameterError, match="'id' can't be used here"):
            BUILDS.update(1, {"id": 2})

    def test_something_has_to_change(self) -> None:
        with pytest.raises(ParameterError, match="name at least one"):
            BUILDS.update(1, {})

    @pytest.mark.parametrize("numbers", [{"limit": -1}, {"limit": 1, "offset": -1}])
    def test_a_page_has_a_bound(self, numbers: dict[str, int]) -> None:
        """To SQLite, a negative limit is none."""
        with pytest.raises(ParameterError, match="must not be below 0"):
            BUILDS.page(**numbers)

    def test_the_text_does_not_depend_on_values(self) -> None:
        texts = {BUILDS.count({"branch": value}).query.text for value in ("a", "'", None, "a\0")}
        assert len(texts) == 1


class TestValues:
    """Values are stored as the row type declares them; what does not fit is refused, untold."""

    def test_json_enum_and_time(self) -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        statement = BUILDS.update(
            1, {"status": BuildStatus.FAILED, "started_at": moment, "build_metadata": {"a": [1]}}
        )
        assert dict(zip(statement.query.parameters, statement.values, strict=True)) == {
            "status": "failed",
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "build_metadata": '{"a":[1]}',
            "id": 1,
        }

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"started_at": datetime(2026, 1, 1)}, "'started_at' of builds is a naive datetime"),
            ({"status": "secret"}, "'status' of builds is not a BuildStatus"),
            ({"build_metadata": {1: 2}}, "'build_metadata' of builds"),
            ({"duration_seconds": float("nan")}, "'duration_seconds' of builds is NaN"),
            ({"exit_code": 2**63}, "'exit_code' of builds is outside the 64 bits"),
        ],
    )
    def test_what_does_not_fit(self, values: dict[str, Any], says: str) -> None:
        with pytest.raises(ParameterError, match=says) as told:
            BUILDS.update(1, values)
        assert "secret" not in str(told.value) and told.value.__cause__ is None


# -- pages -----------------------------------------------------------------------------------------

MOMENTS = [None, *(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))]
ROWS = st.fixed_dictionaries(
    {
        "status": st.sampled_from([BuildStatus.FAILED, BuildStatus.SUCCESS]),
        "started_at": st.sampled_from(MOMENTS),
        "duration_seconds": st.none() | st.sampled_from([0.1, 0.30000000000000004, 1e300, -0.0]),
        "branch": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=2),
    }
)
ORDERS = ["id", "started_at", "duration_seconds", "branch", "status", "build_number"]


def key(row: Build, column: str) -> tuple[Any, ...]:
    """The place of a row, as Python sorts."""
    value = getattr(row, column)
    return (value is not None, value, row.id)


class TestPages:
    """Pages that are asked for by their `after`, joined, are what Python's sort makes of the rows:
    NULL first, alike by id, or all of it backwards; whatever is added or deleted in between."""

    @pytest.fixture(autouse=True)
    def undone(self, db: sqlite3.Connection) -> Iterator[None]:
        yield
        db.rollback()

    @settings(max_examples=200)
    @given(
        rows=st.lists(ROWS, max_size=12),
        between=st.lists(st.none() | st.just("delete") | ROWS, max_size=8),
        column=st.sampled_from(ORDERS),
        descending=st.booleans(),
        size=st.integers(1, 5),
        filters=st.sampled_from([{}, {"started_at": None}, {"status": BuildStatus.FAILED}]),
        table=st.sampled_from([BUILDS, BUILD_SUMMARIES]),
    )
    def test_joined_they_are_the_whole(
        self,
        db: sqlite3.Connection,
        rows: list[dict[str, Any]],
        between: list[Any],
        column: str,
        descending: bool,
        size: int,
        filters: dict[str, Any],
        table: Table[Any],
    ) -> None:
        db.rollback()
        there = {}

        def add(values: dict[str, Any]) -> Any:
            # SQLite would give the id of a last row that was deleted again.
            [row] = run(db, BUILDS.create({"id": len(there) + 1, "project_id": 1, **values}))
            there[row.id] = row
            return row

        for values in rows:
            add(values)
        order_by = f"-{column}" if descending else column
        beyond = (lambda a, b: a < b) if descending else (lambda a, b: a > b)
        expected = {
            id for id, r in there.items() if all(getattr(r, n) == v for n, v in filters.items())
        }
        seen: list[Any] = []
        while True:
            after = seen[-1] if seen else None
            page = run(db, table.page(size, 0, order_by, after, filters))
            assert len(page) <= size
            seen += page
            assert len(seen) <= len(there), "it goes round in circles"
            if len(page) < size:
                break
            action = between.pop() if between else None
            if action == "delete":  # the very row behind which we go on
                assert run_delete(db, seen[-1].id) == 1
            elif action is not None:
                new = add(action)
                fits = all(getattr(new, name) == value for name, value in filters.items())
                if fits and beyond(key(new, column), key(there[seen[-1].id], column)):
                    expected.add(new.id)
        places = [key(there[row.id], column) for row in seen]
        assert places == sorted(places, reverse=descending)
        assert len(places) == len(set(places))
        assert {row.id for row in seen} == expected

    @given(rows=st.lists(ROWS, max_size=8), limit=st.integers(0, 9), offset=st.integers(0, 9))
    @settings(max_examples=30)
    def test_an_offset_leaves_out_the_first_ones(
        self, db: sqlite3.Connection, rows: list[dict[str, Any]], limit: int, offset: int
    ) -> None:
        db.rollback()
        made = [run(db, BUILDS.create({"project_id": 1, **values}))[0] for values in rows]
        made.sort(key=lambda row: key(row, "branch"))
        assert run(db, BUILDS.page(limit, offset, "branch")) == made[offset : offset + limit]
        behind = made[1:][offset : offset + limit]
        if made:
            assert run(db, BUILDS.page(limit, offset, "branch", made[0])) == behind


def run_delete(db: sqlite3.Connection, id: int) -> int:
    statement = BUILDS.delete(id)
    return db.execute(statement.query.text, statement.values).rowcount


class TestWhatIsKept:
    """A text is read once, and no more of them are kept than a bound."""

    def test_the_same_choice_is_the_same_query(self) -> None:
        first = BUILDS.page(5, filters={"status": BuildStatus.FAILED, "branch": "a"})
        second = BUILDS.page(9, filters={"branch": None, "status": BuildStatus.SUCCESS})
        assert first.query is second.query
        assert first.query.name == "builds.page(branch, status) by id"

    def test_they_do_not_grow_without_end(self) -> None:
        from itertools import combinations

        from abt_db.sql.table import _kept

        columns = [field.name for field in fields(Build) if field.name != "build_metadata"]
        for names in combinations(columns, 3):
            BUILDS.count(dict.fromkeys(names))
        assert _kept.cache_info().currsize <= 256


class TestFamily:
    """A condition without a value is not in the text; each choice is a query of its own name."""

    FAMILY = Family(
        "t.all",
        "SELECT id FROM projects WHERE {conditions} LIMIT :limit",
        int,
        name="name = :name",
        active="is_active = :active",
    )

    def test_each_choice(self, db: sqlite3.Connection) -> None:
        assert run(db, self.FAMILY(limit=9)) == [1]
        assert run(db, self.FAMILY(limit=9, name=None, active=True)) == [1]
        assert run(db, self.FAMILY(limit=9, name="maps", active=False)) == []
        texts = {query.name: query.sql for query in self.FAMILY}
        assert texts == {
            "t.all": "SELECT id FROM projects WHERE true LIMIT :limit",
            "t.all(name)": "SELECT id FROM projects WHERE name = :name LIMIT :limit",
            "t.all(active)": "SELECT id FROM projects WHERE is_active = :active LIMIT :limit",
            "t.all(name, active)": "SELECT id FROM projects WHERE name = :name AND"
            " is_active = :active LIMIT :limit",
        }

    def test_a_query_of_it_is_made_once(self) -> None:
        assert self.FAMILY(limit=1).query is self.FAMILY(limit=2, name=None).query
        assert all(isinstance(query, Query) for query in self.FAMILY)

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ParameterError, match="does not know 'nmae'"):
            self.FAMILY(limit=1, nmae="maps")
        with pytest.raises(ParameterError, match="misses 'limit'"):
            self.FAMILY(name="maps")

    def test_they_say_what_they_are(self) -> None:
        assert (repr(self.FAMILY), repr(PROJECTS)) == (
            "<Family t.all(name, active)>",
            "<Table projects>",
        )
