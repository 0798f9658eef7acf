"""Store and read values of a declared type, in a column or inside JSON.

An encoder or decoder is made once for a column and used for each of its values, so everything that
depends only on the annotation is decided when it is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from itertools import repeat
from pathlib import PurePath
from types import NoneType
from typing import Any, Literal, get_args, get_origin, is_typeddict
from uuid import UUID

from .annotations import (
    constructor_fields,
    field_types,
    is_native,
    marks,
    parts,
    type_name,
    unsupported,
    without_none,
)
from .encoding import JSON_NATIVES, Convert, Json, SQLiteValue, dump, encode, plain, same, within


def encoder(annotation: Any) -> Callable[[Any], SQLiteValue]:
    """Return the function that stores the values of a column declared as `annotation`.

    The function also takes None, because NOT NULL is left to the schema. If native types are
    declared, it stores a value as `encode` does. If another type is declared, it raises
    `ValueError` for a value that does not fit. Raises `TypeError` for an annotation that can't be
    stored.
    """
    if _is_marked(annotation):
        return _json_encoder(_reader(annotation, {}))
    if decoder(annotation) is None:
        return encode
    kind = without_none(annotation)
    return _scalar_encoder(kind) if _is_scalar(kind) else _json_encoder(_container_reader(kind, {}))


def decoder(annotation: Any) -> Convert | None:
    """Return the function that reads a column declared as `annotation`, or None.

    None means that there is nothing to convert: values of native types are used as SQLite returns
    them, and `native_kinds` says which of them fit. The function raises `ValueError` for a value
    that does not fit. Raises `TypeError` for an annotation that can't be read.
    """
    members = parts(annotation)
    if _is_marked(annotation):
        decode: Convert = _json_decoder(type_name(annotation), _reader(annotation, {}))
        nullable = any(member in (NoneType, Any, object) for member in members)
        return _nullable(decode) if nullable else decode
    if all(map(is_native, members)):
        return None
    kind = without_none(annotation)
    if kind is bool:
        decode = _int_to_bool
    elif _is_scalar(kind):
        decode = _scalar_decoder(kind)
    else:
        decode = _json_decoder(type_name(kind), _container_reader(kind, {}))
    return _nullable(decode) if NoneType in members else decode


def native_kinds(annotation: Any) -> tuple[type, ...] | None:
    """Return the types of values that fit a column declared as native types, or None if there is
    nothing to check, because any value fits or `decoder` checks it.

    An integer fits `float`: SQLite returns integers for ``sum(n)``, or from a column that is not
    REAL.
    """
    members = parts(annotation)
    if _is_marked(annotation) or Any in members or object in members:
        return None
    if not all(map(is_native, members)):
        return None
    kinds: dict[type, None] = {}
    for member in members:
        if get_origin(member) is Literal:
            kinds.update(dict.fromkeys(map(type, get_args(member))))
        else:
            kinds.update(dict.fromkeys((float, int) if member is float else (member,)))
    return tuple(kinds)


def native_check(annotation: Any, kinds: tuple[type, ...]) -> Convert:
    """Return the function that raises `ValueError` for a value of a column declared as
    `annotation` whose type is none of `kinds`."""
    name = type_name(annotation)

    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise _refusal(value, name)
        return value

    return check


def json_reader(annotation: Any) -> Convert:
    """Return the function that converts a value from `json.loads` to what `annotation` declares.

    It accepts the same values as `decoder` does in the text of a JSON column, and also raises
    `ValueError` for others. Raises `TypeError` for an annotation that can't be read.
    """
    return _reader(annotation, {})


def _is_marked(annotation: Any) -> bool:
    """Whether an annotation, or a member of its union, is ``Annotated[…, Json]``."""
    return any(mark is Json for mark in marks(annotation))


def _nullable(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _refusal(value: object, name: str) -> ValueError:
    if value is None:
        return ValueError(f"is NULL, but {name} is not optional")
    return ValueError(f"is not {'an' if name[0] in 'aeioAEIO' else 'a'} {name}")


# -- scalars -------------------------------------------------------------------------------------


def _is_scalar(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    return kind is bool or kind in _PARSERS or issubclass(kind, Enum | PurePath)


def _scalar_encoder(kind: type) -> Callable[[Any], SQLiteValue]:
    wanted = PurePath if issubclass(kind, PurePath) else kind

    def encode_scalar(value: Any) -> SQLiteValue:
        if value is None:
            return None
        # In Python a datetime is a date, but its text could not be read back as a date.
        if isinstance(value, wanted) and not (wanted is date and isinstance(value, datetime)):
            return encode(value)
        if issubclass(kind, Enum) and (member := _member(kind, value)) is not None:
            return encode(member)
        raise _refusal(value, kind.__name__)

    return encode_scalar


def _member(kind: type[Enum], value: object) -> Enum | None:
    """Return the member with this plain value, as ``Status("failed")`` does, or None."""
    try:
        member = kind(value)
    except Exception:
        return None  # an error of the caller's `_missing_` may quote the value
    return member if type(member.value) is type(value) else None  # True == 1


def _scalar_decoder(kind: Any) -> Convert:
    """Return the function that reads a scalar, from a column or from JSON."""
    if issubclass(kind, Enum):
        return _enum_decoder(kind)
    parse = kind if issubclass(kind, PurePath) else _PARSERS[kind]
    readable = (str, int) if kind is Decimal else (str,)

    def decode(value: Any) -> Any:
        if type(value) in readable:
            try:
                return parse(value)
            except (ValueError, ArithmeticError):
                pass  # refused below, outside this block, for this error quotes the value
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
    # The texts of CURRENT_TIMESTAMP and datetime('now') are in UTC, without an offset.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _parse_decimal(number: str | int) -> Decimal:
    decimal = Decimal(number)
    encode(decimal)
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
            return kind(value)  # combined flags, and values that `_missing_` accepts
        except ValueError:
            pass  # refused below, outside this block, for this error quotes the value
        raise _refusal(value, kind.__name__)

    return decode


# -- JSON ----------------------------------------------------------------------------------------


def _json_encoder(read: Convert) -> Callable[[Any], SQLiteValue]:
    def encode_json(value: Any) -> SQLiteValue:
        # A value fits if it can be read back as declared.
        return None if value is None else dump(value, read)

    return encode_json


def _json_decoder(name: str, read: Convert) -> Convert:
    def decode(text: Any) -> Any:
        if type(text) is not str:
            raise _refusal(text, name)
        try:
            return read(_load(text))
        except RecursionError:
            raise ValueError("is nested too deeply") from None

    return decode


def _load(text: str) -> Any:
    try:
        return _from_json(text)
    except ValueError:
        pass  # refused below, outside this block, for this error holds the text
    raise ValueError("is not valid JSON")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_from_json = json.JSONDecoder(parse_constant=_no_constant).decode


def _reader(annotation: Any, known: dict[type, Convert]) -> Convert:
    """Return the function that reads a parsed JSON value. `known` has the readers of classes that
    enclose it, because a class may contain itself."""
    members = parts(annotation)
    if Any in members or object in members:
        return same
    if all(member in JSON_NATIVES for member in members):
        return _native_reader(members, type_name(annotation))
    kind = without_none(annotation)
    if get_origin(kind) is Literal:
        read = _literal_reader(kind)
    else:
        read = _scalar_decoder(kind) if _is_scalar(kind) else _container_reader(kind, known)
    return _nullable(read) if NoneType in members else read


def _native_reader(kinds: tuple[Any, ...], name: str) -> Convert:
    def read(value: Any) -> Any:
        if type(value) is int and float in kinds and int not in kinds:
            try:
                value = float(value)
            except OverflowError:
                raise ValueError("is too large for a float") from None
        if type(value) in kinds:
            return plain(value)
        raise _refusal(value, name)

    return read


def _container_reader(kind: Any, known: dict[type, Convert]) -> Convert:
    origin, arguments, name = get_origin(kind) or kind, get_args(kind), type_name(kind)
    if origin is tuple and kind is not tuple and arguments[1:] != (...,):
        return _array_reader(tuple, name, [_reader(argument, known) for argument in arguments])
    if origin is list or origin is tuple:
        item = _reader(arguments[0] if arguments else Any, known)
        return _array_reader(origin, name, repeat(item))
    if origin is dict and (not arguments or parts(arguments[0]) == (str,)):
        return _dict_reader(name, _reader(arguments[1] if arguments else Any, known))
    if isinstance(kind, type) and (is_dataclass(kind) or is_typeddict(kind)) and kind is not Json:
        return known.get(kind) or _object_reader(kind, known)
    raise unsupported(kind)


def _literal_reader(kind: Any) -> Convert:
    options = get_args(kind)
    if not all(type(option) in JSON_NATIVES for option in options):
        raise unsupported(kind)

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
        return kind(map(within, repeat("an item"), items, value))  # as long as `value`

    return read


def _dict_reader(name: str, read_item: Convert) -> Convert:
    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: within("a value", read_item, item) for key, item in value.items()}
        raise _refusal(value, name)

    return read


def _object_reader(kind: Any, known: dict[type, Convert]) -> Convert:
    """Return the function that reads a dataclass or a TypedDict, each field by its annotation."""
    name = kind.__name__
    readers: dict[str, Convert] = {}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _refusal(value, name)
        if missing := required - value.keys():
            raise ValueError(f"has no {' and no '.join(sorted(missing))}")
        if value.keys() - readers.keys():
            raise ValueError(f"has a key that {name} does not have")
        found = {key: within(f"a field {key!r}", readers[key], item) for key, item in value.items()}
        try:
            return kind(**found)
        except Exception as error:
            raise ValueError(f"is refused by {name} ({type(error).__name__})") from error

    known[kind] = read  # before the readers of its fields are made: they may contain the class
    types, needed = field_types(kind), constructor_fields(kind)
    required = {key for key in needed if needed[key]}
    readers.update((key, _reader(types[key], known)) for key in needed)
    return read
