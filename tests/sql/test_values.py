"""Python values <-> SQLite values, through a real database."""

from __future__ import annotations

import enum
import math
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abt_db.sql.values import Json, decoder, encode, encode_all, encoder, type_name

examples = settings(deadline=None)


def through_sqlite(value: object, declared: str = "") -> Any:
    """Store a value in a column of the declared type and return what SQLite gives back."""
    with closing(sqlite3.connect(":memory:")) as cx:
        cx.execute(f"CREATE TABLE t (x {declared})")
        cx.execute("INSERT INTO t VALUES (:x)", {"x": value})
        return cx.execute("SELECT x FROM t").fetchone()[0]


def round_trip(annotation: Any, value: object, declared: str = "") -> Any:
    stored = through_sqlite(encoder(annotation)(value), declared)
    decode = decoder(annotation)
    return stored if decode is None else decode(stored)


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 1


class Status(enum.StrEnum):
    RUNNING = "running"
    FAILED = "failed"


class Digit(enum.Enum):
    ONE = "1"
    TWO = "2"


class Mixed(enum.Enum):
    NUMBER = 1
    TEXT = "text"
    RATIO = 0.5
    BLOB = b"\0"


class Coded(int, enum.Enum):
    """Its members are numbers, but their values are not those."""

    A = (1, "first")
    B = (2, "second")

    def __new__(cls, number: int, code: str) -> Coded:
        member = int.__new__(cls, number)
        member._value_ = code
        return member


class Local(datetime):
    """Some libraries have datetimes of their own."""


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Holiday(enum.Enum):
    NEW_YEAR = date(2025, 1, 1)


class Explosive(enum.Enum):
    ONE = "one"

    @classmethod
    def _missing_(cls, value: object) -> Explosive:
        raise LookupError(value)


class Lenient(enum.Enum):
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> Lenient:
        return cls.UNKNOWN


Notes = NewType("Notes", Annotated[Any, Json])  # type: ignore[valid-newtype]


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float = 0.0


@dataclass
class Step:
    name: str
    at: datetime
    ended: datetime | None = None
    where: Point | None = None
    points: tuple[Point, ...] = ()
    children: list[Step] = field(default_factory=list)
    length: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("s3cret: a step has a name")


class Options(TypedDict):
    level: Level
    since: NotRequired[date]


BuildId = NewType("BuildId", int)
Tags = NewType("Tags", list[str])
T = TypeVar("T")

integers = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
first, last = datetime(1, 1, 3), datetime(9999, 12, 29)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(first, last, timezones=offsets)
# With gaps and folds; Python finds those never equal to a time of another timezone.
local_times = st.datetimes(first, last, timezones=st.timezones())
decimals = st.decimals(allow_nan=False, allow_infinity=False)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(Path)
points = st.builds(Point, finite, finite)
steps = st.builds(
    Step,
    st.text(min_size=1),
    instants,
    st.none() | instants,
    st.none() | points,
    st.lists(points, max_size=2).map(tuple),
)
steps = st.builds(Step, st.text(min_size=1), instants, children=st.lists(steps, max_size=2)) | steps
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

NATIVE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, integers),
    (float, st.floats(allow_nan=False)),
    (str, st.text()),
    (bytes, st.binary()),
    (int | str | None, integers | st.text() | st.none()),
    (Optional[bytes], st.binary() | st.none()),  # noqa: UP045
    (Any, integers | st.text() | st.none() | st.binary()),
    (object, integers | st.text()),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (BuildId, integers),
    (Annotated[int, "unit: seconds"], integers),
    (Annotated[int, {"unit": "seconds"}], integers),
]
SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bool, st.booleans()),
    (bool | None, st.booleans() | st.none()),
    (datetime, instants),
    (datetime | None, instants | st.none()),
    (Annotated[datetime, "when"], instants),
    (date, st.dates()),
    (UUID, st.uuids()),
    (Path, paths),
    (PurePath, paths.map(PurePath)),
    (PurePosixPath, paths.map(PurePosixPath)),
    (Decimal, decimals),
    (Union[None, Decimal], decimals | st.none()),  # noqa: UP007
    (Level, st.sampled_from(Level)),
    (Status, st.sampled_from(Status)),
    (Digit, st.sampled_from(Digit)),
    (Holiday, st.sampled_from(Holiday)),
    (Coded, st.sampled_from(Coded)),
    (Status | None, st.sampled_from(Status) | st.none()),
]
IN_JSON: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *SCALARS,
    (str, st.text()),
    (int, st.integers()),
    (float, finite),
    (str | int | None, st.text() | st.integers() | st.none()),
    (Any, documents),
    (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),
    (Tags, st.lists(st.text())),
]
JSON: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (list, st.lists(documents)),
    (dict, st.dictionaries(st.text(), documents)),
    (tuple[int, datetime], st.tuples(st.integers(), instants)),
    (tuple[()], st.just(())),
    (list[list[int]] | None, st.lists(st.lists(st.integers())) | st.none()),
    (Annotated[Any, Json], documents),
    (Annotated[Any, "notes", Json] | None, documents),
    (Annotated[str, Json], st.text()),
    (Annotated[int | str | None, Json], st.integers() | st.text() | st.none()),
    (Annotated[Status, Json], st.sampled_from(Status)),
    (Notes, documents),
    (Point, points),
    (Step, steps),
    (Step | None, steps | st.none()),
    (
        Options,
        st.fixed_dictionaries({"level": st.sampled_from(Level)}, optional={"since": st.dates()}),
    ),
]


def names(cases: list[tuple[Any, st.SearchStrategy[Any]]]) -> list[str]:
    return [type_name(annotation) for annotation, _ in cases]


@st.composite
def declared_containers(draw: st.DrawFn) -> tuple[Any, Any]:
    """Any of the types in lists in dicts in tuples …, and a value of it."""
    inner: Any
    inner, values = draw(st.sampled_from(IN_JSON + JSON))
    for kind in draw(st.lists(st.sampled_from([list, dict, tuple, None]), min_size=1, max_size=3)):
        if kind is list:
            inner, values = list[inner], st.lists(values, max_size=4)
        elif kind is dict:
            inner, values = dict[str, inner], st.dictionaries(st.text(), values, max_size=4)
        elif kind is tuple:
            inner, values = tuple[inner, ...], st.lists(values, max_size=4).map(tuple)
        else:
            inner, values = tuple[inner, str], st.tuples(values, st.text())
    return inner, draw(values)


class TestWhatComesBack:
    """A value comes back from SQLite equal, and of its own type, under its annotation."""

    @pytest.mark.parametrize(("annotation", "values"), NATIVE, ids=names(NATIVE))
    @given(data=st.data())
    @examples
    def test_native_types_are_stored_as_they_are(
        self, annotation: Any, values: st.SearchStrategy[Any], data: st.DataObject
    ) -> None:
        value = data.draw(values)
        back = round_trip(annotation, value)
        assert decoder(annotation) is None
        assert back == value
        assert type(back) is type(value)

    @pytest.mark.parametrize(("annotation", "values"), SCALARS + JSON, ids=names(SCALARS + JSON))
    @given(data=st.data())
    @settings(deadline=None, max_examples=30)
    def test_other_types_go_by_their_annotation(
        self, annotation: Any, values: st.SearchStrategy[Any], data: st.DataObject
    ) -> None:
        value = data.draw(values)
        back = round_trip(annotation, value, "TEXT" if annotation is Decimal else "")
        assert back == value
        assert type(back) is type(value)

    @pytest.mark.parametrize(
        ("annotation", "plain", "member"),
        [
            (Status, "failed", Status.FAILED),
            (Status | None, "failed", Status.FAILED),
            (Level, 1, Level.HIGH),
            (Access, 3, Access.READ | Access.WRITE),
            (Digit, "2", Digit.TWO),
            (Mixed, b"\0", Mixed.BLOB),
            (Coded, "second", Coded.B),
            (Holiday, date(2025, 1, 1), Holiday.NEW_YEAR),
            (Lenient, "whatever", Lenient.UNKNOWN),
        ],
    )
    def test_a_plain_value_of_an_enum_is_taken_for_its_member(
        self, annotation: Any, plain: object, member: object
    ) -> None:
        assert encoder(annotation)(plain) == encoder(annotation)(member)
        assert round_trip(annotation, plain) is member or annotation is Access

    @given(declared_containers())
    @settings(deadline=None, max_examples=300)
    def test_and_so_does_what_is_inside_json(self, declared: tuple[Any, Any]) -> None:
        annotation, value = declared
        assert round_trip(annotation, value) == value

    @pytest.mark.parametrize("annotation", [bool, datetime, Path, Status, list[str], Step, Decimal])
    def test_none_is_always_stored_because_not_null_is_up_to_the_schema(
        self, annotation: Any
    ) -> None:
        assert encoder(annotation)(None) is None

    @given(st.text())
    @example("a\0b")
    @examples
    def test_text_is_returned_whole_with_its_nul_characters(self, text: str) -> None:
        """fault 32."""
        assert through_sqlite(encode(text)) == text

    @pytest.mark.parametrize(
        ("value", "stored"),
        [
            (True, 1),
            (Level.HIGH, 1),
            (Status.FAILED, "failed"),
            (Access.READ | Access.WRITE, 3),
            (Coded.B, "second"),
            (
                Local(2025, 1, 1, tzinfo=timezone(timedelta(hours=1))),
                "2024-12-31T23:00:00.000+00:00",
            ),
            (bytearray(b"ab"), b"ab"),
            (memoryview(b"abcd")[::2], b"ac"),
            (Path("a") / "b", "a/b"),
            (Decimal("1.10"), "1.10"),
            (date(2025, 3, 1), "2025-03-01"),
            (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (Json({"a": [1, None, "é"]}), '{"a":[1,null,"é"]}'),
        ],
    )
    def test_each_type_has_one_stored_form(self, value: object, stored: object) -> None:
        encoded = encode(value)
        assert encoded == stored
        assert type(encoded) is type(stored)

    @given(st.lists(integers | st.text() | st.none() | st.binary() | st.booleans() | instants))
    @examples
    def test_many_values_are_stored_like_each_of_them(self, values: list[Any]) -> None:
        encoded = encode_all(values)
        assert encoded == [encode(value) for value in values]
        assert [type(value) for value in encoded] == [type(encode(value)) for value in values]

    def test_subclasses_of_native_types_are_stored_as_the_native_type(self) -> None:
        class Shouting(str):
            __slots__ = ()

            def __str__(self) -> str:
                return self.upper()

            def __conform__(self, protocol: object) -> str:
                return "adapted"

        class Count(int):
            def __int__(self) -> int:
                return -1

        class Ratio(float):
            def __float__(self) -> float:
                return -1.0

        class Blob(bytes):
            pass

        values = [Shouting("abc"), Count(7), Ratio(0.5), Blob(b"x")]
        encoded = [encode(value) for value in values]
        assert encoded == ["abc", 7, 0.5, b"x"]
        assert [type(value) for value in encoded] == [str, int, float, bytes]


class TestInstants:
    """Datetimes are stored in UTC, and sort as text the way they do in time."""

    @given(instants | local_times, instants | local_times)
    @example(
        datetime(2025, 1, 1, 0, 0, 0, 123_000, UTC),
        datetime(2025, 1, 1, 0, 0, 0, 123_456, UTC),
    )
    @examples
    def test_the_order_of_the_texts_is_the_order_of_time(self, a: datetime, b: datetime) -> None:
        with closing(sqlite3.connect(":memory:")) as cx:
            in_text = cx.execute("SELECT ? < ?", (encode(a), encode(b))).fetchone()[0]
        assert bool(in_text) == (a.astimezone(UTC) < b.astimezone(UTC))

    @given(instants | local_times)
    @examples
    def test_what_comes_back_is_the_same_instant_in_utc(self, moment: datetime) -> None:
        back = round_trip(datetime, moment)
        assert back == moment.astimezone(UTC)
        assert back.tzinfo is UTC

    @given(instants)
    @examples
    def test_sqlite_reads_them_as_the_same_instant(self, moment: datetime) -> None:
        moment = moment.replace(microsecond=0)
        with closing(sqlite3.connect(":memory:")) as cx:
            query = "SELECT CAST(strftime('%s', ?) AS INTEGER)"
            seconds = cx.execute(query, (encode(moment),)).fetchone()[0]
        assert seconds == (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)

    def test_milliseconds_are_written_unless_microseconds_are_needed(self) -> None:
        second = datetime(2025, 3, 1, 12, tzinfo=UTC)
        assert encode(second) == "2025-03-01T12:00:00.000+00:00"
        assert encode(second.replace(microsecond=5_000)) == "2025-03-01T12:00:00.005+00:00"
        assert encode(second.replace(microsecond=5)) == "2025-03-01T12:00:00.000005+00:00"

    @pytest.mark.parametrize("moment", [datetime.min, datetime.max])
    def test_the_first_and_the_last_instant_are_stored(self, moment: datetime) -> None:
        moment = moment.replace(tzinfo=UTC)
        assert round_trip(datetime, moment) == moment

    @pytest.mark.parametrize(("moment", "hours"), [(datetime.min, 1), (datetime.max, -1)])
    def test_an_instant_that_utc_can_not_express_is_refused(
        self, moment: datetime, hours: int
    ) -> None:
        offset = timezone(timedelta(hours=hours))
        with pytest.raises(ValueError, match="outside the years 1 to 9999 in UTC"):
            encode(moment.replace(tzinfo=offset))
        decode = decoder(datetime)
        assert decode is not None
        with pytest.raises(ValueError, match="is not a datetime"):
            decode(moment.replace(tzinfo=offset).isoformat())

    def test_a_naive_datetime_is_refused_with_advice(self) -> None:
        with pytest.raises(ValueError, match=r"^is a naive datetime; .*datetime\.now\(UTC\)"):
            encode(datetime(2025, 1, 1))

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs time.tzset")
    def test_the_clock_of_sqlite_is_read_as_utc_wherever_the_machine_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode = decoder(datetime)
        assert decode is not None
        try:
            monkeypatch.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            with closing(sqlite3.connect(":memory:")) as cx:
                now = decode(cx.execute("SELECT CURRENT_TIMESTAMP").fetchone()[0])
        finally:
            monkeypatch.undo()
            time.tzset()
        assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)

    def test_an_offset_in_the_text_is_followed(self) -> None:
        decode = decoder(datetime)
        assert decode is not None
        assert decode("2025-01-01T02:00+02:00") == datetime(2025, 1, 1, tzinfo=UTC)


class TestWhatIsRefusedOnTheWayIn:
    """What SQLite can't store, or would store as something else, never reaches it."""

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (2**63, "is outside the 64 bits"),
            (-(2**63) - 1, "is outside the 64 bits"),
            (math.nan, "is NaN"),
            ("s3cret\ud800", "holds a lone surrogate"),
            (Path("s3cret\udcff"), "holds a lone surrogate"),
            (Decimal("sNaN"), "is a Decimal that is not finite"),
            (Decimal("-Infinity"), "is a Decimal that is not finite"),
            (["s3cret"], r"is a list; wrap it in Json\(\.\.\.\)"),
            (("s3cret",), r"is a tuple; wrap it in Json\(\.\.\.\)"),
            ({"s3cret": 1}, r"is a dict; wrap it in Json\(\.\.\.\)"),
            (Point(1), r"is a Point; wrap it in Json\(\.\.\.\)"),
            ({"s3cret"}, "is of type set, which can't be stored"),
            (1j, "is of type complex"),
            (Point, "is of type type"),
            (len, "is of type builtin_function_or_method"),
        ],
    )
    def test_with_a_reason_that_does_not_hold_the_value(self, value: object, reason: str) -> None:
        """faults 30, 31; invariant 27."""
        with pytest.raises(ValueError, match=f"^{reason}") as caught:
            encode(value)
        assert "s3cret" not in str(caught.value)
        with pytest.raises(ValueError, match=f"^{reason}"):
            encode_all(["a", 1, value])

    def test_nan_would_have_become_null(self) -> None:
        """fault 31: the reason for the check above."""
        assert through_sqlite(math.nan) is None

    @given(st.integers())
    @examples
    def test_integers_are_refused_exactly_where_sqlite_overflows(self, value: int) -> None:
        """fault 30."""
        try:
            encode(value)
        except ValueError:
            with pytest.raises(OverflowError):
                through_sqlite(value)
        else:
            assert through_sqlite(value) == value

    @given(st.text(st.characters()))
    @examples
    def test_text_is_refused_exactly_where_it_is_not_unicode(self, text: str) -> None:
        """fault 30."""
        try:
            encode(text)
        except ValueError:
            with pytest.raises(UnicodeEncodeError):
                through_sqlite(text)
        else:
            assert through_sqlite(text) == text

    @pytest.mark.parametrize(
        ("annotation", "value", "reason"),
        [
            (bool, 1, "is not a bool"),
            (bool, "s3cret", "is not a bool"),
            (datetime, "2025-01-01", "is not a datetime"),
            (datetime, date(2025, 1, 1), "is not a datetime"),
            (date, datetime(2025, 1, 1, tzinfo=UTC), "is not a date"),
            (UUID, "s3cret", "is not a UUID"),
            (Path, "s3cret", "is not a Path"),
            (Decimal, 1, "is not a Decimal"),
            (Status, "s3cret", "is not a Status"),
            (Status, "FAILED", "is not a Status"),
            (Status, Level.LOW, "is not a Status"),
            (Status, ["running"], "is not a Status"),
            (Level, True, "is not a Level"),
            (Level, 1.0, "is not a Level"),
            (Level, 7, "is not a Level"),
            (Level, Access.READ, "is not a Level"),
            (Coded, 2, "is not a Coded"),
            (Digit, 1, "is not a Digit"),
            (Explosive, "s3cret", "is not an Explosive"),
            (Annotated[int, Json], "s3cret", "is not"),
            (Annotated[Any, Json], {"s3cret"}, "is of type set"),
            (Annotated[Any, Json], [math.nan], "has an item that is not a finite number"),
            (Annotated[Any, Json] | None, {1: "s3cret"}, "has a key that is not a str"),
            (list[str], "s3cret", r"is not a list\[str\]"),
            (list[str], ["a", 1], "has an item that is not a str"),
            (list[str], ["a", None], "has an item that is NULL, but str is not optional"),
            (list[int], [True], "has an item that is not an int"),
            (list[Status], ["s3cret"], "has an item that is not a Status"),
            (dict[str, int], {"s3cret": "x"}, "has a value that is not an int"),
            (dict[str, int], {1: 1}, "has a key that is not a str"),
            (tuple[int, str], (1,), r"is not a tuple\[int, str\]"),
            (tuple[int, str], (1, "a", 2), r"is not a tuple\[int, str\]"),
            (Step, Point(1), "has no at and no name"),
            (Point, Point("s3cret"), "has a field 'x' that is not a float"),  # type: ignore[arg-type]
            (Options, {"since": date(2025, 1, 1)}, "has no level"),
            (Options, {"level": Level.LOW, "s3cret": 1}, "has a key that Options does not have"),
            (list[Literal["a"]], ["s3cret"], r"has an item that is not a typing\.Literal\['a'\]"),
            (list[float], [10**400], "has an item that is too large for a float"),
        ],
    )
    def test_a_value_that_does_not_fit_its_annotation(
        self, annotation: Any, value: object, reason: str
    ) -> None:
        """fault 30; invariant 27."""
        with pytest.raises(ValueError, match=f"^{reason}") as caught:
            encoder(annotation)(value)
        assert "s3cret" not in str(caught.value)


class TestJson:
    """JSON text is always valid, and holds nothing that would not come back."""

    @given(documents)
    @examples
    def test_sqlite_finds_it_valid(self, document: object) -> None:
        with closing(sqlite3.connect(":memory:")) as cx:
            assert cx.execute("SELECT json_valid(?)", (encode(Json(document)),)).fetchone()[0] == 1

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (math.nan, "is not a finite number"),
            ([math.inf], "has an item that is not a finite number"),
            ({"s3cret": -math.inf}, "has a value that is not a finite number"),
            ({1: "s3cret"}, "has a key that is not a str"),
            ({None: "s3cret"}, "has a key that is not a str"),
            (["s3cret\udfff"], "holds a lone surrogate"),
            ({"s3cret\udfff": 1}, "holds a lone surrogate"),
            ([b"s3cret"], "has an item that is bytes"),
            ([Mixed.BLOB], "has an item that is bytes"),
            ([{"s3cret"}], "has an item that is of type set, which can't be stored"),
            ([datetime(2025, 1, 1)], "has an item that is a naive datetime"),
            (Point(math.nan), "has a field 'x' that is not a finite number"),
        ],
    )
    def test_what_json_does_not_have_is_refused(self, value: object, reason: str) -> None:
        """faults 30, 31; invariant 27."""
        with pytest.raises(ValueError, match=f"^{reason}") as caught:
            encode(Json(value))
        assert "s3cret" not in str(caught.value)

    def test_everything_that_a_column_can_hold_may_be_inside(self) -> None:
        moment = datetime(2025, 1, 1, tzinfo=UTC)
        inside = [Level.HIGH, Status.FAILED, moment, Path("a"), Point(1.5), Json([1]), (1, 2)]
        text = '[1,"failed","2025-01-01T00:00:00.000+00:00","a",{"x":1.5,"y":0.0},[1],[1,2]]'
        assert encode(Json(inside)) == text

    def test_a_list_that_contains_itself_is_refused(self) -> None:
        endless: list[object] = []
        endless.append(endless)
        for convert in (encode, encoder(list)):
            with pytest.raises(ValueError, match="is nested too deeply, or contains itself"):
                convert(Json(endless))

    @pytest.mark.parametrize(
        ("annotation", "opening", "ending", "depth"),
        [
            (list, "[", "]", 500_000),
            (Step, '{"name":"s3cret","at":"2025-01-01","children":[', "]}", 300),
        ],
    )
    def test_text_that_is_nested_too_deeply_is_refused(
        self, annotation: Any, opening: str, ending: str, depth: int
    ) -> None:
        """fault 34."""
        decode = decoder(annotation)
        assert decode is not None
        with pytest.raises(ValueError, match="is nested too deeply") as caught:
            decode(opening * depth + ending * depth)
        assert "s3cret" not in str(caught.value)

    def test_a_dataclass_takes_its_defaults_for_missing_keys(self) -> None:
        decode = decoder(Step)
        assert decode is not None
        assert decode('{"name":"a","at":"2025-01-01"}') == Step(
            "a", datetime(2025, 1, 1, tzinfo=UTC)
        )

    def test_an_int_is_read_as_the_float_that_was_declared(self) -> None:
        decode = decoder(Point)
        assert decode is not None
        x = decode('{"x":1}').x
        assert (x, type(x)) == (1.0, float)

    def test_the_error_of_a_constructor_is_the_cause_and_not_part_of_the_message(self) -> None:
        decode = decoder(list[Step])
        assert decode is not None
        with pytest.raises(ValueError, match="has an item that is refused by Step") as caught:
            decode('[{"name":"","at":"2025-01-01"}]')
        assert "s3cret" not in str(caught.value)
        cause = caught.value.__cause__
        assert cause is not None
        assert "s3cret" in str(cause.__cause__)


class TestWhatIsRefusedOnTheWayOut:
    """A stored value that its annotation can't be is refused with a reason, without the value."""

    @pytest.mark.parametrize(
        ("annotation", "stored", "reason"),
        [
            (bool, 2, "is not a bool"),
            (bool, -1, "is not a bool"),
            (bool, 1.0, "is not a bool"),
            (bool, "1", "is not a bool"),
            (bool, None, "is NULL, but bool is not optional"),
            (datetime, "s3cret", "is not a datetime"),
            (datetime, 1735689600, "is not a datetime"),
            (datetime, None, "is NULL, but datetime is not optional"),
            (date, "2025-02-30", "is not a date"),
            (date, "2025-01-01T00:00:00", "is not a date"),
            (UUID, "s3cret", "is not a UUID"),
            (UUID, 5, "is not a UUID"),
            (Path, b"s3cret", "is not a Path"),
            (Decimal, "s3cret", "is not a Decimal"),
            (Decimal, "NaN", "is not a Decimal"),
            (Decimal, 1.5, "is a float and no longer exact; its column must be declared TEXT"),
            (Level, 7, "is not a Level"),
            (Level, None, "is NULL, but Level is not optional"),
            (Status, "s3cret", "is not a Status"),
            (Status, b"s3cret", "is not a Status"),
            (list[str], '["s3cret"', "is not valid JSON"),
            (list[str], "", "is not valid JSON"),
            (list[Any], "[NaN]", "is not valid JSON"),
            (list[Any], "[Infinity]", "is not valid JSON"),
            (list[float], "[1e999]", "has an item that is not a finite number"),
            (list[str], '{"s3cret":1}', r"is not a list\[str\]"),
            (list[str], b'["s3cret"]', r"is not a list\[str\]"),
            (list[str], None, r"is NULL, but list\[str\] is not optional"),
            (list[bool], "[1]", "has an item that is not a bool"),
            (list[Status], '[["s3cret"]]', "has an item that is not a Status"),
            (list[Literal[1]], "[true]", "has an item that is not a typing.Literal"),
            (list[Literal["a"]], '["s3cret"]', "has an item that is not a typing.Literal"),
            (dict[str, date], '{"s3cret":"x"}', "has a value that is not a date"),
            (Point, "[1]", "is not a Point"),
            (Point, '{"y":1}', "has no x"),
            (Point, '{"x":1,"s3cret":1}', "has a key that Point does not have"),
            (Step, '{"name":"s3cret","at":"s3cret"}', "has a field 'at' that is not a datetime"),
            (Step, '{"name":"a","at":"2025-01-01","length":1}', "has a key that Step does not"),
            (Options, '{"level":9}', "has a field 'level' that is not a Level"),
        ],
    )
    def test_it_says_why(self, annotation: Any, stored: object, reason: str) -> None:
        """fault 34; invariant 27."""
        decode = decoder(annotation)
        assert decode is not None
        with pytest.raises(ValueError, match=f"^{reason}") as caught:
            decode(through_sqlite(stored))
        told: BaseException | None = caught.value
        while told is not None:
            assert "s3cret" not in str(told)
            told = told.__cause__ or told.__context__

    @given(st.text() | integers | st.floats() | st.binary() | documents.map(Json).map(encode))
    @settings(deadline=None, max_examples=200)
    def test_whatever_is_stored_it_is_read_or_refused_with_a_value_error(
        self, stored: object
    ) -> None:
        for annotation, _ in SCALARS + JSON:
            decode = decoder(annotation)
            assert decode is not None
            try:
                decode(stored)
            except ValueError as error:
                assert re.match("is |has ", str(error))


class TestAffinity:
    """What a column's affinity makes of a stored value is understood, or refused."""

    @pytest.mark.parametrize(
        ("annotation", "value", "declared"),
        [
            (Level, Level.HIGH, "TEXT"),
            (Level, Level.LOW, "REAL"),
            (Digit, Digit.TWO, "INTEGER"),
            (Mixed, Mixed.NUMBER, "TEXT"),
            (Mixed, Mixed.RATIO, "TEXT"),
            (Mixed, Mixed.BLOB, "TEXT"),
            (Access, Access.READ | Access.WRITE, "INTEGER"),
            (Decimal, Decimal("1.10"), "TEXT"),
            (Decimal, Decimal(7), "INTEGER"),
            (datetime, datetime(2025, 1, 1, tzinfo=UTC), "DATETIME"),
            (date, date(2025, 1, 1), "DATE"),
            (list[int], [1], "JSON"),
            (UUID, UUID(int=10**30), "NUMERIC"),
        ],
    )
    def test_the_value_still_comes_back(self, annotation: Any, value: Any, declared: str) -> None:
        back = round_trip(annotation, value, declared)
        assert back == value
        assert type(back) is type(value)

    def test_a_decimal_that_sqlite_rounded_is_refused(self) -> None:
        with pytest.raises(ValueError, match="declared TEXT"):
            round_trip(Decimal, Decimal("0.1"), "NUMERIC")

    def test_an_enum_may_explain_values_that_it_does_not_list(self) -> None:
        decode = decoder(Lenient)
        assert decode is not None
        assert decode("never heard of") is Lenient.UNKNOWN


class Unstorable(enum.Enum):
    PAIR = (1, 2)


@dataclass
class Hidden:
    inside: set[str]


@dataclass
class Page(Generic[T]):
    items: list[T]


@dataclass
class Unresolved:
    # A name that only the type checker would know.
    when: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Initialised:
    x: InitVar[int]


class TestAnnotations:
    """An annotation that can't be stored is refused when the query is defined, not on a row."""

    @pytest.mark.parametrize(
        ("annotation", "named"),
        [
            (set[str], "set[str]"),
            (list[set[str]], "set[str]"),
            (dict[int, str], "dict[int, str]"),
            (list[bytes], "bytes"),
            (int | datetime, "int | datetime.datetime"),
            (list[int] | dict[str, int], "list[int] | dict[str, int]"),
            (list[int | list[int]], "int | list[int]"),
            (list[Literal[b"a"]], "typing.Literal[b'a']"),
            (Callable[[], int], "collections.abc.Callable[[], int]"),
            (T, "~T"),
            (Page[int], "Page[int]"),
            (Page, "~T"),
            (Hidden, "set[str]"),
            (list[Hidden], "set[str]"),
            (Unstorable, "the value of Unstorable.PAIR is a tuple"),
            (Unresolved, "an annotation of Unresolved can't be resolved: name 'Nowhere'"),
            (Initialised, "Initialised.x is an InitVar"),
            (Json, "Json"),
            (timedelta, "timedelta"),
            ("int", "int"),
        ],
    )
    @pytest.mark.parametrize("make", [encoder, decoder])
    def test_it_is_named(self, make: Callable[[Any], object], annotation: Any, named: str) -> None:
        with pytest.raises(TypeError, match=re.escape(named)):
            make(annotation)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = …` is newer")
    def test_a_type_alias_is_what_it_stands_for(self) -> None:
        names: dict[str, Any] = {"datetime": datetime}
        exec("type Moment = datetime\ntype Moments = list[Moment] | None", names)
        moment = datetime(2025, 1, 1, tzinfo=UTC)
        assert round_trip(names["Moments"], [moment]) == [moment]
