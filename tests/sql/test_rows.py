"""Row mappers, over rows that a real database returned."""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import pickle
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from itertools import permutations
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple, NewType
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abt_db import Database, Query
from abt_db.errors import MappingError
from abt_db.sql.rows import field_encoders, mapper


def stored(row: Any) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Insert a dataclass instance by its field encoders and return what a SELECT gives."""
    values = {
        name: encode(getattr(row, name)) for name, encode in field_encoders(type(row)).items()
    }
    return selected(", ".join(f":{name} AS {name}" for name in values), values)


def selected(
    columns: str, parameters: dict[str, Any] | None = None
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(":memory:")) as cx:
        cx.execute(f"CREATE TABLE t AS SELECT {columns}", parameters or {})
        cursor = cx.execute("SELECT * FROM t")
        return tuple(column[0] for column in cursor.description), cursor.fetchall()


class Status(StrEnum):
    RUNNING = "running"
    FAILED = "failed"


class Grumpy(Enum):
    ONLY = 1

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise KeyError(value)


@dataclass(frozen=True)
class Change:
    at: datetime
    author: str | None = None
    lines: tuple[int, ...] = ()


def row_class(**options: bool) -> Any:
    """A dataclass with a field of every kind."""
    annotations = {
        "id": int,
        "name": str,
        "ratio": float,
        "active": bool,
        "status": Status,
        "created_at": datetime,
        "day": date | None,
        "key": UUID,
        "path": Path,
        "price": Decimal,
        "tags": list[str],
        "changes": list[Change],
        "data": bytes,
        "environment": dict[str, Any],
    }
    defaults = {"data": b"", "environment": field(default_factory=dict)}
    namespace = {"__module__": __name__, "__annotations__": annotations, **defaults}
    return dataclass(**options)(type("Row", (), namespace))


KINDS = {
    "plain": row_class(),
    "slotted": row_class(slots=True),
    "frozen": row_class(frozen=True),
    "frozen and slotted": row_class(frozen=True, slots=True),
    "keyword only": row_class(kw_only=True),
    "frozen, slotted, keyword only": row_class(frozen=True, slots=True, kw_only=True),
    "with weak references": row_class(frozen=True, slots=True, weakref_slot=True),
}

instants = st.datetimes(
    datetime(1, 1, 3),
    datetime(9999, 12, 29),
    timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(Path)
fields_of_a_row = st.fixed_dictionaries(
    {
        "id": st.integers(-(2**63), 2**63 - 1),
        "name": st.text(),
        "ratio": st.floats(allow_nan=False),
        "active": st.booleans(),
        "status": st.sampled_from(Status),
        "created_at": instants,
        "day": st.none() | st.dates(),
        "key": st.uuids(),
        "path": paths,
        "price": st.decimals(allow_nan=False, allow_infinity=False),
        "tags": st.lists(st.text()),
        "changes": st.lists(
            st.builds(
                Change,
                instants,
                st.none() | st.text(),
                st.lists(st.integers(), max_size=3).map(tuple),
            ),
            max_size=3,
        ),
    },
    optional={
        "data": st.binary(),
        "environment": st.dictionaries(st.text(), st.text() | st.integers() | st.none()),
    },
)


@dataclass(frozen=True, slots=True)
class Project:
    id: int
    name: str
    created_at: datetime
    tags: list[str] = field(default_factory=list)
    branch: str = "main"


@dataclass(frozen=True, slots=True)
class Checked:
    id: int
    name: str

    def __post_init__(self) -> None:
        assert type(self) is Checked
        if self.id < 0:
            raise ValueError(f"{self.name}: no such id")
        object.__setattr__(self, "name", self.name.upper())


@dataclass(frozen=True, slots=True)
class Guarded:
    level: Grumpy


@dataclass(frozen=True, slots=True)
class Node:
    id: int
    children: list[Node]


class Named(NamedTuple):
    id: int


class TestRoundTrip:
    """A dataclass that was inserted comes back equal."""

    @pytest.mark.parametrize("row_type", KINDS.values(), ids=KINDS)
    @given(values=fields_of_a_row)
    @settings(deadline=None, max_examples=50)
    def test_whatever_kind_of_dataclass_it_is(self, row_type: Any, values: dict[str, Any]) -> None:
        row = row_type(**values)
        columns, rows = stored(row)
        (back,) = mapper(row_type).bind(columns)(rows)
        assert back == row
        assert type(back) is row_type
        assert repr(back.tags) == repr(row.tags)

    def test_a_class_may_hold_itself_in_json(self) -> None:
        tree = Node(1, [Node(2, []), Node(3, [Node(4, [])])])
        columns, rows = stored(tree)
        assert mapper(Node).bind(columns)(rows) == [tree]


class TestColumns:
    """Columns match fields by name; what does not match is listed before any row is mapped."""

    @pytest.mark.parametrize("columns", list(permutations(["id", "name", "created_at"])))
    def test_their_order_does_not_matter(self, columns: tuple[str, ...]) -> None:
        values = {"id": 1, "name": "maps", "created_at": "2025-01-01T00:00:00.000+00:00"}
        found = mapper(Project).bind(columns)([tuple(values[column] for column in columns)])
        assert found == [Project(1, "maps", datetime(2025, 1, 1, tzinfo=UTC))]

    def test_a_missing_column_leaves_its_field_to_the_default(self) -> None:
        columns = ("id", "name", "created_at", "branch")
        one, two = mapper(Project).bind(columns)([(1, "a", "2025-01-01", "x")] * 2)
        assert (one.tags, one.branch) == ([], "x")
        assert one.tags is not two.tags

    @pytest.mark.parametrize(
        ("columns", "problem"),
        [
            (("id", "name"), "Project: no column for field 'created_at'"),
            (("tags",), "Project: no column for fields 'id', 'name', 'created_at'"),
            (
                ("id", "name", "created_at", "owner", "size"),
                "Project: no field for columns 'owner', 'size'",
            ),
            (
                ("id", "name", "Created", "branch"),
                "Project: no column for field 'created_at';"
                " no field for column 'Created' (did you mean 'created_at'?)",
            ),
            (
                ("ID", "name", "created_at"),
                "Project: no column for field 'id'; no field for column 'ID' (did you mean 'id'?)",
            ),
            (
                ("id", "name", "created_at", "id"),
                "Project: column 'id' more than once; name them apart with AS",
            ),
            ((), "Project: the statement returns no columns"),
        ],
    )
    def test_what_does_not_match_is_listed(self, columns: tuple[str, ...], problem: str) -> None:
        """fault 35."""
        with pytest.raises(MappingError) as caught:
            mapper(Project).bind(columns)
        assert str(caught.value) == problem

    def test_the_mapper_tells_them_for_checks_without_a_row(self) -> None:
        known = mapper(Project)
        assert known.row_type is Project
        assert known.columns == ("id", "name", "created_at", "tags", "branch")
        assert known.required == {"id", "name", "created_at"}

    def test_there_is_one_mapper_for_each_class_and_one_function_for_each_result(self) -> None:
        columns = ("id", "name", "created_at")
        assert mapper(Project) is mapper(Project)
        assert mapper(Project).bind(columns) is mapper(Project).bind(columns)


class TestDataclasses:
    """Whatever a dataclass does when it is made, it does for a row."""

    def test_inherited_fields_are_columns_too(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Timed:
            created_at: datetime

        @dataclass(frozen=True, slots=True)
        class Build(Timed):
            number: int = 0

        columns, rows = stored(Build(datetime(2025, 1, 1, tzinfo=UTC), 7))
        assert mapper(Build).bind(columns)(rows) == [Build(datetime(2025, 1, 1, tzinfo=UTC), 7)]

    def test_a_computed_field_is_no_column_but_may_be_a_parameter(self) -> None:
        @dataclass
        class Person:
            name: str
            initial: str = field(init=False)

            def __post_init__(self) -> None:
                self.initial = self.name[0]

        assert mapper(Person).columns == ("name",)
        assert mapper(Person).bind(("name",))([("Ada",)])[0].initial == "A"
        assert list(field_encoders(Person)) == ["name", "initial"]

    def test_a_computed_field_of_a_frozen_class_is_computed(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Person:
            name: str
            age: int = field(init=False, default=7)

        assert mapper(Person).bind(("name",))([("Ada",)])[0].age == 7

    def test_a_constructor_of_its_own_is_called_by_keyword(self) -> None:
        @dataclass(init=False)
        class Reversed:
            first: str
            second: str

            def __init__(self, second: str, *, first: str) -> None:
                self.first, self.second = first, second

        (row,) = mapper(Reversed).bind(("first", "second"))([("a", "b")])
        assert (row.first, row.second) == ("a", "b")

    def test_an_init_var_is_refused(self) -> None:
        @dataclass
        class Seeded:
            seed: InitVar[int]

        with pytest.raises(TypeError, match=r"Seeded\.seed is an InitVar"):
            mapper(Seeded)

    def test_a_field_that_no_column_can_hold_is_refused_when_the_mapper_is_made(self) -> None:
        @dataclass
        class Tagged:
            tags: set[str]

        with pytest.raises(TypeError, match=r"Tagged\.tags: set\[str\] is not a type"):
            mapper(Tagged)


def watched(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        object.__setattr__(self, "a", "by __init__")

    return wrapper


class TestFrozenSlotted:
    """A frozen, slotted row is made without its slow `__init__`, and nobody can tell."""

    @pytest.fixture
    def rows(self) -> list[Project]:
        columns = ("tags", "branch", "id", "name", "created_at")
        bind = mapper(Project).bind
        return bind(columns)([('["a"]', "main", 1, "maps", "2025-01-01")])

    def test_it_is_the_same_as_one_made_by_hand(self, rows: list[Project]) -> None:
        (row,) = rows
        by_hand = Project(1, "maps", datetime(2025, 1, 1, tzinfo=UTC), ["a"], "main")
        assert type(row) is Project
        assert row == by_hand
        assert by_hand == row
        assert repr(row) == repr(by_hand)
        assert dataclasses.asdict(row) == dataclasses.asdict(by_hand)
        assert not hasattr(row, "__dict__")

    def test_its_init_is_not_called(self) -> None:
        calls = []

        def watch(frame: FrameType, event: str, argument: object) -> None:
            if event == "call":
                calls.append(frame.f_code)

        map_rows = mapper(Checked).bind(("id", "name"))
        sys.setprofile(watch)
        try:
            map_rows([(1, "a")])
        finally:
            sys.setprofile(None)
        assert Checked.__post_init__.__code__ in calls
        assert Checked.__init__.__code__ not in calls

    def test_it_is_frozen(self, rows: list[Project]) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            rows[0].id = 2  # type: ignore[misc]
        with pytest.raises(dataclasses.FrozenInstanceError):
            del rows[0].id

    @pytest.mark.parametrize(
        "copied", [copy.copy, copy.deepcopy, lambda row: pickle.loads(pickle.dumps(row))]
    )
    def test_it_can_be_copied_and_pickled(
        self, rows: list[Project], copied: Callable[[Project], Project]
    ) -> None:
        again = copied(rows[0])
        assert again == rows[0]
        assert type(again) is Project
        assert dataclasses.replace(again, id=2).id == 2

    def test_it_hashes_like_one_made_by_hand(self) -> None:
        (row,) = mapper(Checked).bind(("id", "name"))([(1, "a")])
        assert hash(row) == hash(Checked(1, "a"))

    def test_its_post_init_runs_on_the_finished_row(self) -> None:
        assert mapper(Checked).bind(("id", "name"))([(1, "maps")]) == [Checked(1, "maps")]

    def test_no_class_is_added_to_those_of_the_application(self) -> None:
        assert Project.__subclasses__() == []

    def test_an_instrumented_constructor_is_called(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Row:
            a: str

        Row.__init__ = watched(Row.__init__)  # type: ignore[method-assign]
        assert mapper(Row).bind(("a",))([("x",)])[0].a == "by __init__"

    def test_a_constructor_in_a_subclass_is_called(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Row:
            a: str

        class Sub(Row):
            def __init__(self, a: str) -> None:
                super().__init__(a + " by __init__")

        assert mapper(Sub).bind(("a",))([("x",)])[0].a == "x by __init__"

    def test_a_new_of_its_own_is_called(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Row:
            a: str

            def __new__(cls, a: str) -> Row:
                made.append(a)
                return object.__new__(cls)

        made: list[str] = []
        assert mapper(Row).bind(("a",))([("x",)])[0].a == "x"
        assert made == ["x"]

    def test_an_abstract_class_is_not_made(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Row(metaclass=abc.ABCMeta):
            a: str

            @abc.abstractmethod
            def method(self) -> None: ...

        with pytest.raises(MappingError, match="Row refuses the values of row 1"):
            mapper(Row).bind(("a",))([("x",)])

    def test_slots_written_by_hand_are_kept(self) -> None:
        @dataclass(frozen=True)
        class Row:
            __slots__ = ("__weakref__", "a")
            a: str

        (row,) = mapper(Row).bind(("a",))([("x",)])
        assert (type(row), row.a) == (Row, "x")


class TestBadRows:
    """A row that does not fit is named by type, column, reason and number, never by its values."""

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ((2, "s3cret", "s3cret", "[]"), "Project.created_at is not a datetime, in row 2"),
            (
                (2, "s3cret", None, "[]"),
                "Project.created_at is NULL, but datetime is not optional, in row 2",
            ),
            ((2, "s3cret", "2025-01-01", "s3cret"), "Project.tags is not valid JSON, in row 2"),
            (
                (2, "s3cret", "2025-01-01", '["s3cret", 1]'),
                "Project.tags has an item that is not a str, in row 2",
            ),
        ],
    )
    def test_a_value_that_can_not_be_decoded(self, row: tuple[Any, ...], problem: str) -> None:
        """fault 34; invariant 27."""
        good = (1, "a", "2025-01-01", "[]")
        with pytest.raises(MappingError) as caught:
            mapper(Project).bind(("id", "name", "created_at", "tags"))([good, row, good])
        assert str(caught.value) == problem
        assert isinstance(caught.value.__cause__, ValueError)

    def test_an_enum_value_that_does_not_exist(self) -> None:
        """fault 34."""
        with pytest.raises(
            MappingError, match=r"^Status: column 'status' is not a Status, in row 2$"
        ):
            mapper(Status).bind(("status",))([("failed",), ("s3cret",)])

    @pytest.mark.parametrize("good_rows", [0, 3])
    def test_the_error_of_a_post_init_is_chained(self, good_rows: int) -> None:
        rows = [(1, "a")] * good_rows + [(-1, "s3cret"), (-2, "b")]
        with pytest.raises(MappingError) as caught:
            mapper(Checked).bind(("id", "name"))(rows)
        number = good_rows + 1
        assert str(caught.value) == f"Checked refuses the values of row {number} (ValueError)"
        assert str(caught.value.__cause__) == "s3cret: no such id"

    def test_an_unexpected_error_of_a_type_is_chained(self) -> None:
        with pytest.raises(MappingError) as caught:
            mapper(Guarded).bind(("level",))([("s3cret",)])
        assert str(caught.value) == "Guarded.level can't be read, in row 1 (KeyError)"
        assert isinstance(caught.value.__cause__, KeyError)

    def test_an_error_that_does_not_come_again_is_not_lost(self) -> None:
        failures = [OSError("first")]

        @dataclass
        class Row:
            a: int

            def __post_init__(self) -> None:
                while failures:
                    raise failures.pop()

        with pytest.raises(MappingError, match=r"^Row refused a row") as caught:
            mapper(Row).bind(("a",))([(1,)])
        assert isinstance(caught.value.__cause__, OSError)


NATIVES: dict[str, Any] = {"int": 1, "float": 0.5, "str": "s3cret", "bytes": b"s3cret"}
UserId = NewType("UserId", int)
FITTING: list[tuple[Any, str]] = [
    (int, "int"),
    (str, "str"),
    (bytes, "bytes"),
    (float, "float int"),
    (int | str, "int str"),
    (float | bytes, "float int bytes"),
    (Annotated[int, "a note"], "int"),
    (UserId, "int"),
    (Literal["running", 7], "str int"),
    (Any, "int float str bytes"),
]


class TestStorageClasses:
    """SQLite keeps whatever it is given in whatever column, so what a column returns is looked at:
    the types that it stores as they are, as well as those that are decoded."""

    @pytest.mark.parametrize("optional", [False, True])
    @pytest.mark.parametrize(("annotation", "fitting"), FITTING, ids=str)
    def test_a_field_takes_what_it_is_declared_as_and_nothing_else(
        self, annotation: Any, fitting: str, optional: bool
    ) -> None:
        declared = annotation | None if optional else annotation
        row_type: Any
        for row_type in (
            make_dataclass("Row", [("a", int), ("b", declared)]),
            make_dataclass("Row", [("a", int), ("b", declared)], frozen=True, slots=True),
            make_dataclass("Row", [("b", declared), ("a", int)], kw_only=True),
        ):
            map_rows = mapper(row_type).bind(("a", "b"))
            for kind, value in {**NATIVES, "NULL": None}.items():
                rows = [(1, NATIVES[fitting.split()[0]]), (2, value)]
                null = kind == "NULL"
                if (optional or annotation is Any) if null else kind in fitting.split():
                    assert map_rows(rows)[1] == row_type(a=2, b=value)
                    continue
                problem = "is NULL, but .* is not optional" if null else "is not an? "
                with pytest.raises(MappingError, match=rf"^Row\.b {problem}.*, in row 12$") as told:
                    map_rows(rows, 11)
                assert "s3cret" not in str(told.value)

    @pytest.mark.parametrize(("annotation", "fitting"), FITTING, ids=str)
    def test_a_scalar_does_and_null_which_is_the_sum_of_no_rows(
        self, annotation: Any, fitting: str
    ) -> None:
        for declared in (annotation, annotation | None):
            map_rows = mapper(declared).bind(("n",))
            assert map_rows([(None,)]) == [None]
            for kind, value in NATIVES.items():
                if kind in fitting.split():
                    [mapped] = map_rows([(value,)])
                    assert mapped is value
                else:
                    with pytest.raises(MappingError, match=r": column 'n' is not an? .* in row 3$"):
                        map_rows([(None,), (None,), (value,)])

    def test_a_value_that_a_missing_column_leaves_to_its_default_is_not_looked_at(self) -> None:
        @dataclass
        class Row:
            a: int
            b: int = "x"  # type: ignore[assignment]

        assert mapper(Row).bind(("a",))([(1,)]) == [Row(1)]

    def test_a_field_may_have_the_name_of_anything_that_the_check_needs(self) -> None:
        names = ["type", "int", "make", "refuse", "rows", "v0", "str", "d1"]
        row_type: Any = make_dataclass("Row", [(name, int) for name in names], kw_only=True)
        (row,) = mapper(row_type).bind((*names,))([(*range(8),)])
        assert row == row_type(**{name: n for n, name in enumerate(names)})
        with pytest.raises(MappingError, match=r"Row\.refuse is not an int"):
            mapper(row_type).bind((*names,))([(0, 1, 2, "x", 4, 5, 6, 7)])

    async def test_the_query_is_named(self, path: Path) -> None:
        """fault 34; in a row of every storage class, by each verb that reads."""
        number = Query("numbers", "SELECT n FROM numbers ORDER BY rowid", int)
        row = make_dataclass("Row", [("n", int)])
        object_ = Query("objects", "SELECT n FROM numbers WHERE rowid < :end", row)
        async with Database(path) as db:
            await db.execute(Query("c", "CREATE TABLE numbers (n INTEGER)")())
            add = Query("a", "INSERT INTO numbers VALUES (:n)")
            await db.execute_many(add, [{"n": n} for n in (1, None, "x", b"x", 0.5)])
            wrong = r"query 'numbers': int: column 'n' is not an int, in row 3"
            with pytest.raises(MappingError, match=wrong):
                await db.fetch_all(number())
            with pytest.raises(MappingError, match=wrong):
                async with db.stream(number(), size=2) as rows:
                    async for _ in rows:
                        pass
            assert await db.fetch_one(object_(end=2)) == row(1)
            with pytest.raises(MappingError, match=r"query 'objects': Row\.n is NULL, but int is"):
                await db.fetch_all(object_(end=9))


class TestOtherRows:
    """Scalars take the single column; `dict` and `tuple` take any."""

    @pytest.mark.parametrize(
        ("row_type", "sql", "rows"),
        [
            (int, "7 AS n", [7]),
            (str, "'x' AS n", ["x"]),
            (int, "NULL AS n", [None]),
            (int | None, "NULL AS n", [None]),
            (bool, "1 AS n", [True]),
            (bool, "NULL AS n", [None]),
            (datetime, "'2025-01-01' AS n", [datetime(2025, 1, 1, tzinfo=UTC)]),
            (datetime, "NULL AS n", [None]),
            (datetime | None, "NULL AS n", [None]),
            (list[int], "'[1]' AS n", [[1]]),
            (Any, "x'00' AS n", [b"\0"]),
            (tuple, "1 AS a, 2 AS b", [(1, 2)]),
            (dict, "1 AS a, 2 AS b", [{"a": 1, "b": 2}]),
        ],
    )
    def test_they_are_what_the_row_type_says(
        self, row_type: Any, sql: str, rows: list[Any]
    ) -> None:
        columns, found = selected(sql)
        assert mapper(row_type).bind(columns)(found) == rows

    @pytest.mark.parametrize("row_type", [int, bool, tuple, dict])
    def test_each_row_is_mapped(self, row_type: Any) -> None:
        rows = mapper(row_type).bind(("n",))([(1,), (0,), (1,)])
        assert [row if row_type in (int, bool) else list(row) for row in rows] == {
            int: [1, 0, 1],
            bool: [True, False, True],
            tuple: [[1], [0], [1]],
            dict: [["n"]] * 3,
        }[row_type]

    @pytest.mark.parametrize("row_type", [int, datetime, list[int], str | None])
    @pytest.mark.parametrize("columns", [(), ("a", "b")])
    def test_a_scalar_refuses_any_other_number_of_columns(
        self, row_type: Any, columns: tuple[str, ...]
    ) -> None:
        """fault 35."""
        with pytest.raises(MappingError, match=f"single column, and the result has {len(columns)}"):
            mapper(row_type).bind(columns)

    def test_a_dict_refuses_two_columns_of_one_name(self) -> None:
        """fault 35: the second would have replaced the first."""
        with pytest.raises(
            MappingError, match=r"^dict: columns 'a', 'b' more than once; name them"
        ):
            mapper(dict).bind(("a", "b", "c", "b", "a"))

    def test_a_tuple_keeps_both(self) -> None:
        assert mapper(tuple).bind(("a", "a"))([(1, 2)]) == [(1, 2)]

    def test_any_row_type_names_no_columns(self) -> None:
        for row_type in (int, dict, tuple):
            assert mapper(row_type).columns is None
            assert mapper(row_type).required == frozenset()

    @pytest.mark.parametrize(
        "row_type", [set, object(), Named, int | datetime, set[str], "Project"]
    )
    def test_a_type_that_rows_can_not_become_is_named(self, row_type: Any) -> None:
        with pytest.raises(TypeError, match=r"(set|object|Named|int|Project).* is not a type"):
            mapper(row_type)


class TestFieldEncoders:
    """The parameters that a dataclass instance gives are stored as its fields declare."""

    def test_each_field_is_stored_by_its_annotation(self) -> None:
        row = Change(datetime(2025, 1, 1, tzinfo=UTC), None, (1, 2))
        values = {
            name: encode(getattr(row, name)) for name, encode in field_encoders(Change).items()
        }
        assert values == {"at": "2025-01-01T00:00:00.000+00:00", "author": None, "lines": "[1,2]"}

    def test_a_value_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^is not a datetime$"):
            field_encoders(Change)["at"]("2025-01-01")

    def test_a_field_that_can_not_be_stored_harms_only_the_statements_that_use_it(self) -> None:
        @dataclass
        class Job:
            id: int
            callbacks: set[str]

        encoders = field_encoders(Job)
        assert encoders["id"](1) == 1
        with pytest.raises(TypeError, match=r"^set\[str\] is not a type that can be stored"):
            encoders["callbacks"](set())

    def test_they_are_made_once_for_each_class(self) -> None:
        assert field_encoders(Change) is field_encoders(Change)
