"""What SQLite stores for a Python value, by the value's own type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from types import NoneType
from typing import Any, TypeAlias
from uuid import UUID

SQLiteValue: TypeAlias = int | float | str | bytes | None
Convert: TypeAlias = Callable[[Any], Any]

JSON_NATIVES = (str, int, float, bool, NoneType)


@dataclass(frozen=True, slots=True)
class Json:
    """A parameter to be stored as JSON text: ``INSERT_PROJECT(tags=Json(["a"]))``.

    The class itself marks a JSON column whose values may be of any type, even of a type that is
    otherwise not stored as JSON: ``notes: Annotated[Any, Json]``.
    """

    value: object


def encode(value: object) -> SQLiteValue:
    """Return what SQLite stores for `value`.

    Raises `ValueError` for a value that SQLite can't store, or would silently store as another one.
    """
    kind: Any = type(value)
    convert = _EXACT.get(kind) or _of_family(kind)
    if convert is not None:
        return convert(value)
    if isinstance(value, list | tuple | dict) or is_dataclass(kind):
        raise ValueError(
            f"is a {kind.__name__}; wrap it in Json(...), or bind a dataclass that declares it"
        )
    raise ValueError(f"is of type {kind.__name__}, which can't be stored")


def encode_all(values: Iterable[Any]) -> list[SQLiteValue]:
    """Return `encode` of each value. Every query calls this, so the most frequent types are handled
    here, without a call."""
    encoded: list[SQLiteValue] = []
    for value in values:
        kind = type(value)
        if kind is str:
            encoded.append(value if value.isascii() else _text(value))
        elif kind is int:
            encoded.append(value if _LEAST <= value <= _MOST else _int(value))
        elif value is None:
            encoded.append(None)
        else:
            encoded.append(encode(value))
    return encoded


# -- kinds of values -----------------------------------------------------------------------------


def same(value: Any) -> Any:
    """Return `value` unchanged."""
    return value


_LEAST, _MOST = -(2**63), 2**63 - 1


def _int(value: int) -> int:
    if _LEAST <= value <= _MOST:
        return value
    raise ValueError("is outside the 64 bits of SQLite's integers")


def _float(value: float) -> float:
    if value == value:
        return value
    raise ValueError("is NaN, which SQLite would store as NULL")


def _text(value: str) -> str:
    if not value.isascii():  # O(1), and most texts are ASCII
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds a lone surrogate, which is not valid Unicode") from None
    return value


def _datetime(value: datetime) -> str:
    if value.tzinfo is not UTC:
        value = _in_utc(value)
    # Texts of either precision sort by time: where the offset of the shorter one begins, its '+'
    # sorts before every digit.
    return value.isoformat(timespec="microseconds" if value.microsecond % 1000 else "milliseconds")


def _in_utc(value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise ValueError("is a naive datetime; give it a timezone, for example datetime.now(UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None


def _decimal(value: Decimal) -> str:
    if value.is_finite():
        return str(value)
    raise ValueError("is a Decimal that is not finite")


# For these types and their subclasses. The first match counts, because a StrEnum is also a str, and
# a datetime also a date. An instance of a subclass of a native type is converted to the native type
# itself, because sqlite3 would look for an adapter for the subclass.
_FAMILIES: dict[type, Callable[[Any], SQLiteValue]] = {
    Enum: lambda value: encode(value.value),
    datetime: _datetime,
    date: lambda value: value.isoformat(),
    UUID: str,
    PurePath: lambda value: _text(str(value)),
    Decimal: _decimal,
    Json: lambda value: dump(value.value, same),
    int: lambda value: _int(int.__int__(value)),
    float: lambda value: _float(float.__float__(value)),
    str: lambda value: _text(str.__str__(value)),
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
}


# For exactly these types: a look-up instead of a search.
_EXACT: dict[type, Callable[[Any], SQLiteValue]] = {
    **_FAMILIES,
    NoneType: same,
    bool: int,
    int: _int,
    float: _float,
    str: _text,
    bytes: same,
}


@lru_cache(maxsize=1024)
def _of_family(kind: type) -> Callable[[Any], SQLiteValue] | None:
    found = (convert for family, convert in _FAMILIES.items() if issubclass(kind, family))
    return next(found, None)


# -- JSON ----------------------------------------------------------------------------------------


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dump(value: Any, check: Convert) -> str:
    """Return `value` as JSON text; `check` raises `ValueError` for a value that must not be
    stored."""
    try:
        value = plain(value)
        check(value)
        return _text(_to_json(value))
    except RecursionError:
        raise ValueError("is nested too deeply, or contains itself") from None


def plain(value: Any) -> Any:
    """Return `value` converted to the types that JSON has."""
    kind = type(value)
    if kind is float and not math.isfinite(value):
        raise ValueError("is not a finite number, and JSON has no other")
    if kind in JSON_NATIVES:
        return value
    if isinstance(value, list | tuple):
        return [within("an item", plain, item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("has a key that is not a str")
        return {key: within("a value", plain, item) for key, item in value.items()}
    if kind is Json:
        return plain(value.value)
    if is_dataclass(kind):
        return {
            field.name: within(f"a field {field.name!r}", plain, getattr(value, field.name))
            for field in fields(kind)
            if field.init
        }
    if isinstance(value, bytes | bytearray | memoryview):
        raise ValueError("is bytes, which JSON does not have")
    return plain(encode(value))


def within(place: str, convert: Convert, value: Any) -> Any:
    """Return ``convert(value)``. If it raises `ValueError`, raise one that also names `place`,
    where the value was."""
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"has {place} that {error}") from error
