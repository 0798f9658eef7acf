"""Python values <-> SQLite values.

SQLite knows NULL, integers of 64 bits, floats, text and blobs. Other types are stored so that they
sort and compare in SQL and come back equal:

    bool                       0 or 1
    datetime                   text in UTC, "2025-03-01T12:00:00.000+00:00"; never a naive one
    date                       text, "2025-03-01"
    UUID, Path, Decimal        text; a column for Decimal must be TEXT, or SQLite rounds it
    Enum                       its value
    list, tuple, dict,         JSON text; what is inside is stored as above, a dataclass as an
    TypedDict, dataclass       object, and only bytes can't be

`encode` goes by the value alone, `encoder` and `decoder` by an annotation, which may also be a
union of native types, `Literal`, `Any`, `Annotated`, a `NewType`, or `X | None` of all these.

A value that does not fit is a `ValueError` whose message continues a sentence: "is not a date". The
caller knows the name to put in front; the value itself is never told (invariant 27).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import MISSING, InitVar, dataclass, fields, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import repeat
from pathlib import PurePath
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from uuid import UUID

__all__ = [
    "Json",
    "SQLiteValue",
    "constructor_fields",
    "decoder",
    "encode",
    "encode_all",
    "encoder",
    "field_types",
    "json_reader",
    "type_name",
]

SQLiteValue: TypeAlias = int | float | str | bytes | None
Convert: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Json:
    """A parameter to be stored as JSON text: ``INSERT_PROJECT(tags=Json(["a"]))``."""

    value: object


def encode(value: object) -> SQLiteValue:
    """Return what SQLite stores for `value`.

    Raises `ValueError` for what SQLite can't store, or would silently store as something else.
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
    """Return `encode` of each value; every query comes through here, so most without a call."""
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


def encoder(annotation: Any) -> Callable[[Any], SQLiteValue]:
    """Return the function that stores the values of a column declared as `annotation`.

    It takes None as well, for NOT NULL is the schema's business. Native types are stored as
    `encode` does; a value of another type must fit the annotation, or `ValueError` is raised.
    Raises `TypeError` for an annotation that can't be stored.
    """
    if decoder(annotation) is None:
        return encode
    kind = _without_none(annotation)
    return _scalar_encoder(kind) if _is_scalar(kind) else _json_encoder(kind)


def decoder(annotation: Any) -> Convert | None:
    """Return the function that reads a column declared as `annotation`, or None.

    None means that there is nothing to do: native types are handed on unchecked, as SQLite returns
    them. The function raises `ValueError` for what does not fit. Raises `TypeError` for an
    annotation that can't be read.
    """
    parts = _parts(annotation)
    if all(map(_is_native, parts)):
        return None
    kind = _without_none(annotation)
    if kind is bool:
        decode: Convert = _int_to_bool
    else:
        decode = _scalar_decoder(kind) if _is_scalar(kind) else _json_decoder(kind)
    return _nullable(decode) if NoneType in parts else decode


def json_reader(annotation: Any) -> Convert:
    """Return the function that reads a value as `json.loads` gives it, declared as `annotation`.

    It takes what `decoder` takes from the text of a JSON column, and raises `ValueError` as that
    does. Raises `TypeError` for an annotation that can't be read.
    """
    return _reader(annotation, {})


def field_types(kind: type) -> dict[str, Any]:
    """Return the annotations of the fields of a dataclass, or of a TypedDict, as types.

    Raises `TypeError` for names that can't be resolved and for an `InitVar`, which has no value
    that could be stored.
    """
    try:
        types = get_type_hints(kind, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"an annotation of {kind.__name__} can't be resolved: {error};"
            " types must be there at run time, not only for the type checker"
        ) from error
    for name, annotation in types.items():
        if annotation is InitVar or isinstance(annotation, InitVar):
            raise TypeError(f"{kind.__name__}.{name} is an InitVar, which can't be a column")
    if is_dataclass(kind):
        return {field.name: types[field.name] for field in fields(kind)}
    return types


def constructor_fields(kind: Any) -> dict[str, bool]:
    """Return the fields that a dataclass, or a TypedDict, is made from, and which it must have."""
    if is_dataclass(kind):
        return {
            field.name: field.default is MISSING and field.default_factory is MISSING
            for field in fields(kind)
            if field.init
        }
    # Under `from __future__ import annotations` a TypedDict has overlooked its NotRequired.
    return {
        key: get_origin(annotation) is Required
        or (get_origin(annotation) is not NotRequired and key in kind.__required_keys__)
        for key, annotation in field_types(kind).items()
    }


def type_name(annotation: Any) -> str:
    """Return a type as its reader would write it."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


# -- by the value alone --------------------------------------------------------------------------


def _same(value: Any) -> Any:
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
    if not value.isascii():  # O(1), and false for most
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds a lone surrogate, which is not valid Unicode") from None
    return value


def _datetime(value: datetime) -> str:
    if value.tzinfo is not UTC:
        value = _in_utc(value)
    # The order of these texts is the order of time, whatever their precision: where the shorter
    # one ends and its offset begins, '+' sorts before every digit.
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


# By type and its subclasses; the first that fits, for a StrEnum is a str and a datetime a date.
# Subclasses of native types are made exact: on them sqlite3 would try its adapters.
_FAMILIES: dict[type, Callable[[Any], SQLiteValue]] = {
    Enum: lambda value: encode(value.value),
    datetime: _datetime,
    date: lambda value: value.isoformat(),
    UUID: str,
    PurePath: lambda value: _text(str(value)),
    Decimal: _decimal,
    Json: lambda value: _dump(value.value, _same),
    int: lambda value: _int(int.__int__(value)),
    float: lambda value: _float(float.__float__(value)),
    str: lambda value: _text(str.__str__(value)),
    bytes: bytes,
    bytearray: bytes,
    memoryview: bytes,
}


# By the type alone, without a search.
_EXACT: dict[type, Callable[[Any], SQLiteValue]] = {
    **_FAMILIES,
    NoneType: _same,
    bool: int,
    int: _int,
    float: _float,
    str: _text,
    bytes: _same,
}


@lru_cache(maxsize=1024)
def _of_family(kind: type) -> Callable[[Any], SQLiteValue] | None:
    found = (convert for family, convert in _FAMILIES.items() if issubclass(kind, family))
    return next(found, None)


# -- annotations ---------------------------------------------------------------------------------


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type, freed of what only type checkers read."""
    while True:
        if get_origin(annotation) in (Annotated, Required, NotRequired):
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = …`, since Python 3.12
            annotation = annotation.__value__
        elif get_origin(annotation) in (Union, UnionType):
            return tuple(part for member in get_args(annotation) for part in _parts(member))
        else:
            return (NoneType if annotation is None else annotation,)


def _without_none(annotation: Any) -> Any:
    """Return the X of `X | None` and of X alone."""
    kinds = [part for part in _parts(annotation) if part is not NoneType]
    if len(kinds) == 1:
        return kinds[0]
    raise _unsupported(annotation)


def _is_native(kind: Any) -> bool:
    natives = (int, float, str, bytes, NoneType)
    if get_origin(kind) is Literal:
        return all(type(option) in natives for option in get_args(kind))
    return kind is Any or kind is object or kind in natives


def _is_scalar(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    return kind is bool or kind in _PARSERS or issubclass(kind, Enum | PurePath)


def _nullable(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _refusal(value: object, name: str) -> ValueError:
    if value is None:
        return ValueError(f"is NULL, but {name} is not optional")
    return ValueError(f"is not {'an' if name[0] in 'aeioAEIO' else 'a'} {name}")


def _unsupported(annotation: Any) -> TypeError:
    return TypeError(
        f"{type_name(annotation)} is not a type that can be stored; abt_db.values lists those"
    )


# -- scalars -------------------------------------------------------------------------------------


def _scalar_encoder(kind: type) -> Callable[[Any], SQLiteValue]:
    wanted = PurePath if issubclass(kind, PurePath) else kind

    def encode_scalar(value: Any) -> SQLiteValue:
        if value is None:
            return None
        # A datetime is a date to Python; as one it could not be read back.
        if isinstance(value, wanted) and not (wanted is date and isinstance(value, datetime)):
            return encode(value)
        raise _refusal(value, kind.__name__)

    return encode_scalar


def _scalar_decoder(kind: Any) -> Convert:
    """Return what reads a scalar, from a column or from JSON."""
    if issubclass(kind, Enum):
        return _enum_decoder(kind)
    parse = kind if issubclass(kind, PurePath) else _PARSERS[kind]
    readable = (str, int) if kind is Decimal else (str,)

    def decode(value: Any) -> Any:
        if type(value) in readable:
            try:
                return parse(value)
            except (ValueError, ArithmeticError):
                pass  # refused below, outside of here: this error quotes the value
        if type(value) is float and kind is Decimal:
            raise ValueError("is a float and no longer exact; its column must be declared TEXT")
        raise _refusal(value, kind.__name__)

    return decode


def _int_to_bool(value: Any) -> bool:
    if type(value) is int and 0 <= value <= 1:
        return value == 1
    raise _refusal(value, "bool")


def _parse_datetime(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    # CURRENT_TIMESTAMP and datetime('now') are in UTC without saying so.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _parse_decimal(number: str | int) -> Decimal:
    decimal = Decimal(number)
    _decimal(decimal)
    return decimal


_PARSERS: dict[type, Convert] = {
    datetime: _parse_datetime,
    date: date.fromisoformat,
    UUID: UUID,
    Decimal: _parse_decimal,
}


def _enum_decoder(kind: type[Enum]) -> Convert:
    members: dict[Any, Enum] = {}
    for member in kind.__members__.values():
        try:
            members[encode(member.value)] = member
        except ValueError as error:
            raise TypeError(f"the value of {kind.__name__}.{member.name} {error}") from None
    # A column's affinity turns 1 into '1', or '1' into 1.
    by_text = {str(stored): member for stored, member in members.items()}

    def decode(value: Any) -> Enum:
        if isinstance(value, list | dict):  # inside JSON; not hashable
            raise _refusal(value, kind.__name__)
        if value in members:
            return members[value]
        if str(value) in by_text:
            return by_text[str(value)]
        try:
            return kind(value)  # combined flags, and what `_missing_` knows
        except ValueError:
            pass  # refused below, outside of here: this error quotes the value
        raise _refusal(value, kind.__name__)

    return decode


# -- JSON ----------------------------------------------------------------------------------------

_JSON_NATIVES = (str, int, float, bool, NoneType)


def _json_encoder(kind: Any) -> Callable[[Any], SQLiteValue]:
    read = _container_reader(kind, {})

    def encode_json(value: Any) -> SQLiteValue:
        # What can be read back as declared fits.
        return None if value is None else _dump(value, read)

    return encode_json


def _json_decoder(kind: Any) -> Convert:
    read = _container_reader(kind, {})

    def decode(text: Any) -> Any:
        if type(text) is not str:
            raise _refusal(text, type_name(kind))
        try:
            return read(_load(text))
        except RecursionError:
            raise ValueError("is nested too deeply") from None

    return decode


def _dump(value: Any, check: Convert) -> str:
    try:
        plain = _plain(value)
        check(plain)
        return _text(_to_json(plain))
    except RecursionError:
        raise ValueError("is nested too deeply, or contains itself") from None


def _load(text: str) -> Any:
    try:
        return _from_json(text)
    except ValueError:
        pass  # refused below, outside of here: this error holds the text
    raise ValueError("is not valid JSON")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_from_json = json.JSONDecoder(parse_constant=_no_constant).decode


def _plain(value: Any) -> Any:
    """Return `value` in the types that JSON has."""
    kind = type(value)
    if kind is float and not math.isfinite(value):
        raise ValueError("is not a finite number, and JSON has no other")
    if kind in _JSON_NATIVES:
        return value
    if isinstance(value, list | tuple):
        return [_within("an item", _plain, item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("has a key that is not a str")
        return {key: _within("a value", _plain, item) for key, item in value.items()}
    if kind is Json:
        return _plain(value.value)
    if is_dataclass(kind):
        return {
            field.name: _within(f"a field {field.name!r}", _plain, getattr(value, field.name))
            for field in fields(kind)
            if field.init
        }
    if isinstance(value, bytes | bytearray | memoryview):
        raise ValueError("is bytes, which JSON does not have")
    return _plain(encode(value))


def _within(place: str, convert: Convert, value: Any) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"has {place} that {error}") from error


def _reader(annotation: Any, known: dict[type, Convert]) -> Convert:
    """Return what reads a parsed JSON value; `known` has the classes that are being made above."""
    parts = _parts(annotation)
    if Any in parts or object in parts:
        return _same
    if all(part in _JSON_NATIVES for part in parts):
        return _native_reader(parts, type_name(annotation))
    kind = _without_none(annotation)
    if get_origin(kind) is Literal:
        read = _literal_reader(kind)
    else:
        read = _scalar_decoder(kind) if _is_scalar(kind) else _container_reader(kind, known)
    return _nullable(read) if NoneType in parts else read


def _native_reader(kinds: tuple[Any, ...], name: str) -> Convert:
    def read(value: Any) -> Any:
        if type(value) is int and float in kinds and int not in kinds:
            try:
                value = float(value)
            except OverflowError:
                raise ValueError("is too large for a float") from None
        if type(value) in kinds:
            return _plain(value)
        raise _refusal(value, name)

    return read


def _container_reader(kind: Any, known: dict[type, Convert]) -> Convert:
    origin, arguments, name = get_origin(kind) or kind, get_args(kind), type_name(kind)
    if origin is tuple and kind is not tuple and arguments[1:] != (...,):
        return _array_reader(tuple, name, [_reader(argument, known) for argument in arguments])
    if origin is list or origin is tuple:
        item = _reader(arguments[0] if arguments else Any, known)
        return _array_reader(origin, name, repeat(item))
    if origin is dict and (not arguments or _parts(arguments[0]) == (str,)):
        return _dict_reader(name, _reader(arguments[1] if arguments else Any, known))
    if isinstance(kind, type) and (is_dataclass(kind) or is_typeddict(kind)) and kind is not Json:
        return known.get(kind) or _object_reader(kind, known)
    raise _unsupported(kind)


def _literal_reader(kind: Any) -> Convert:
    options = get_args(kind)
    if not all(type(option) in _JSON_NATIVES for option in options):
        raise _unsupported(kind)

    def read(value: Any) -> Any:
        if any(type(value) is type(option) and value == option for option in options):
            return value
        raise _refusal(value, type_name(kind))

    return read


def _array_reader(kind: type, name: str, items: list[Convert] | repeat[Convert]) -> Convert:
    length = len(items) if isinstance(items, list) else None

    def read(value: Any) -> Any:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise _refusal(value, name)
        return kind(map(_within, repeat("an item"), items, value))  # ends with the value

    return read


def _dict_reader(name: str, read_item: Convert) -> Convert:
    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _within("a value", read_item, item) for key, item in value.items()}
        raise _refusal(value, name)

    return read


def _object_reader(kind: Any, known: dict[type, Convert]) -> Convert:
    """Read a dataclass or a TypedDict, each field by its own annotation."""
    name = kind.__name__
    readers: dict[str, Convert] = {}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _refusal(value, name)
        if missing := required - value.keys():
            raise ValueError(f"has no {' and no '.join(sorted(missing))}")
        if value.keys() - readers.keys():
            raise ValueError(f"has a key that {name} does not have")
        found = {
            key: _within(f"a field {key!r}", readers[key], item) for key, item in value.items()
        }
        try:
            return kind(**found)
        except Exception as error:
            raise ValueError(f"is refused by {name} ({type(error).__name__})") from error

    known[kind] = read  # before its fields are looked at: they may hold the class again
    types, needed = field_types(kind), constructor_fields(kind)
    required = {key for key in needed if needed[key]}
    readers.update((key, _reader(types[key], known)) for key in needed)
    return read
