"""Row mappers: a row type -> a function from tuples to objects.

A dataclass is filled from columns by name, in any order, and each column is read as the annotation
of its field says. Every other type that a column can have maps rows of a single column. `dict` and
`tuple` take any columns.

Tens of thousands of rows are mapped at a time, so everything that does not depend on a row is
decided before the first one: a bound mapper is one list comprehension, compiled for its columns and
its class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from inspect import Parameter, signature
from types import NoneType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, overload

from abt_db.errors import MappingError

from .values import (
    SQLiteValue,
    constructor_fields,
    decoder,
    encoder,
    field_types,
    native_check,
    native_kinds,
    type_name,
)

T = TypeVar("T")
Columns: TypeAlias = tuple[str, ...]
Rows: TypeAlias = Sequence[tuple[Any, ...]]
Decode: TypeAlias = Callable[[Any], Any] | None


class MapRows(Protocol[T]):
    """Maps a list of rows. Errors count rows from `start`."""

    def __call__(self, rows: Rows, start: int = 1) -> list[T]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Mapper(Generic[T]):
    """What is known about a row type.

    `columns` are the names that a result may have (None: any) and `required` those it must have.

    `bind` takes the names of a result's columns, in their order, and returns the function that maps
    a list of its rows. `bind` raises `MappingError` if the columns don't fit, and the function if a
    row does not. The message names the row type, the column, the reason and the number of the row,
    and never a value. Both have no state and may be used from any thread.
    """

    row_type: Any
    columns: Columns | None
    required: frozenset[str]
    bind: Callable[[Columns], MapRows[T]]


@overload
def mapper(row_type: type[T]) -> Mapper[T]: ...
@overload
def mapper(row_type: Any) -> Mapper[Any]: ...
def mapper(row_type: Any) -> Mapper[Any]:
    """Return the mapper of a dataclass, of a scalar type such as `int`, of `dict` or `tuple`.

    Each class has one mapper. Raises `TypeError` for a type to which rows can't be mapped, such as
    a dataclass with a field that no column can hold.
    """
    return _of_class(row_type) if isinstance(row_type, type) else _scalars(row_type)


def field_encoders(row_type: type) -> dict[str, Callable[[Any], SQLiteValue]]:
    """Return, for each field of a dataclass, the function that stores its values as declared.

    Made once for each class. A statement need not use every field, so for a field that can't be
    stored the function raises `TypeError`. `field_encoders` itself raises `TypeError` only if the
    annotations can't be resolved.
    """
    return _field_encoders(row_type)


@cache
def _field_encoders(row_type: type) -> dict[str, Callable[[Any], SQLiteValue]]:
    return {name: _field_encoder(annotation) for name, annotation in field_types(row_type).items()}


def _field_encoder(annotation: Any) -> Callable[[Any], SQLiteValue]:
    try:
        return encoder(annotation)
    except TypeError as error:
        reason = str(error)

    def refuse(value: Any) -> SQLiteValue:
        raise TypeError(reason)

    return refuse


# -- kinds of rows -------------------------------------------------------------------------------


@cache
def _of_class(row_type: type) -> Mapper[Any]:
    if row_type is tuple:
        return Mapper(tuple, None, frozenset(), lambda columns: _as_they_are)
    if row_type is dict:
        return Mapper(dict, None, frozenset(), _bind_dicts)
    return _dataclasses(row_type) if is_dataclass(row_type) else _scalars(row_type)


def _as_they_are(rows: Rows, start: int = 1) -> list[tuple[Any, ...]]:
    return list(rows)


def _bind_dicts(columns: Columns) -> MapRows[dict[str, Any]]:
    if twice := _repeated(columns):
        raise MappingError(f"dict: {twice}")
    return lambda rows, start=1: [dict(zip(columns, row, strict=True)) for row in rows]


def _scalars(row_type: Any) -> Mapper[Any]:
    name, decode, kinds = type_name(row_type), decoder(row_type), native_kinds(row_type)

    def bind(columns: Columns) -> MapRows[Any]:
        if len(columns) != 1:
            raise MappingError(f"{name} takes a single column, and the result has {len(columns)}")
        place = f"{name}: column {columns[0]!r}"
        if kinds is not None:
            fitting = (*kinds, NoneType)  # sum() of no rows is NULL
            source = f"lambda rows: [v if {_fits('v', fitting)} else refuse() for (v,) in rows]"
            make = eval(source, {"refuse": _refuse})
            return _explaining(make, name, [(place, native_check(row_type, fitting))])
        if decode is None:
            return lambda rows, start=1: [value for (value,) in rows]

        def read(value: Any) -> Any:
            return None if value is None else decode(value)

        readers = [(place, read)]
        return _explaining(lambda rows: [read(value) for (value,) in rows], name, readers)

    return Mapper(row_type, None, frozenset(), bind)


def _dataclasses(row_type: Any) -> Mapper[Any]:
    name, taken, types = row_type.__name__, constructor_fields(row_type), field_types(row_type)
    decoders = {field: _field_decoder(name, field, types[field]) for field in taken}
    kinds = {field: native_kinds(types[field]) for field in taken}
    checks = {
        field: decoders[field] if fitting is None else native_check(types[field], fitting)
        for field, fitting in kinds.items()
    }
    required = frozenset(field for field in taken if taken[field])
    make_all = _quick_constructor(row_type)

    # Bounded, because SQL that is put together at run time may have its columns in any order.
    @lru_cache(maxsize=64)
    def bind(columns: Columns) -> MapRows[Any]:
        if problems := _mismatches(columns, tuple(taken), required):
            raise MappingError(f"{name}: {'; '.join(problems)}")
        # Safe to evaluate: all names in the expression are made here, or are fields of the class.
        values = {
            column: f"v{i}" if decoders[column] is None else f"d{i}(v{i})"
            for i, column in enumerate(columns)
        }
        if make_all is not None and values.keys() == taken.keys():
            make, arguments = make_all, [values[field] for field in taken]
        else:
            make, arguments = row_type, _arguments(row_type, values)
        targets = "".join(f"v{i}, " for i in range(len(columns)))
        fits = [
            _fits(f"v{i}", fitting)
            for i, column in enumerate(columns)
            if (fitting := kinds[column]) is not None
        ]
        made = f"make({', '.join(arguments)})"
        if fits:
            made += f" if {' and '.join(fits)} else refuse()"
        names = {f"d{i}": decoders[column] for i, column in enumerate(columns)}
        make_rows = eval(
            f"lambda rows: [{made} for {targets}in rows]",
            {"make": make, "refuse": _refuse, **names},
        )
        readers = [(f"{name}.{column}", checks[column]) for column in columns]
        return _explaining(make_rows, name, readers)

    return Mapper(row_type, tuple(taken), required, bind)


def _fits(value: str, kinds: Sequence[type]) -> str:
    """Return an expression that is true if `value` is of one of these types. Comparing `type` is
    twice as fast as a look-up in a set, and SQLite returns no instances of subclasses."""
    each = [
        f"{value} is None" if kind is NoneType else f"type({value}) is {kind.__name__}"
        for kind in kinds
    ]
    return f"({' or '.join(each)})"


def _refuse() -> Any:
    raise ValueError("a value is of another type than its column is declared")


def _field_decoder(name: str, field: str, annotation: Any) -> Decode:
    try:
        return decoder(annotation)
    except TypeError as error:
        raise TypeError(f"{name}.{field}: {error}") from error


def _arguments(row_type: type, values: dict[str, str]) -> list[str]:
    """Return the arguments of the constructor: as many as possible by position, the others by
    keyword."""
    by_position = []
    for parameter in signature(row_type).parameters.values():
        if parameter.kind is not Parameter.POSITIONAL_OR_KEYWORD or parameter.name not in values:
            break
        by_position.append(parameter.name)
    return [values[field] for field in by_position] + [
        f"{field}={value}" for field, value in values.items() if field not in by_position
    ]


def _quick_constructor(row_type: Any) -> Callable[..., Any] | None:
    """Return a function that makes a frozen, slotted dataclass from all its fields, or None.

    The `__init__` of a frozen class calls `object.__setattr__` for each field, which takes four
    times as long as an assignment. So the function assigns the fields to an instance of a twin, a
    class with the same slots that is not frozen, and then changes the instance's class to
    `row_type`.

    Returns None for a class where that would make a difference: one with a metaclass, or with an
    `__init__` or `__new__` that is not the generated one. Also for a class with bases, because the
    twin can't have the same layout, and for a class without slots, where it would not pay: each
    instance would get a dict of its own, not one that shares its keys.
    """
    options = row_type.__dataclass_params__
    code = getattr(row_type.__init__, "__code__", None)
    generated = options.init and code is not None and code.co_filename == "<string>"
    if not (
        generated
        and options.frozen
        and "__slots__" in vars(row_type)
        and row_type.__new__ is object.__new__
        and row_type.__class__ is type
        and all(field.init for field in fields(row_type))
    ):
        return None
    twin: Any = type(row_type.__name__, (), {"__slots__": vars(row_type)["__slots__"]})
    try:
        object.__new__(twin).__class__ = row_type
    except TypeError:
        return None  # layouts differ to CPython: row_type has bases, or a slot for weak references
    names = [field.name for field in fields(row_type)]
    lines = [
        f"def make({', '.join(f'v{i}' for i in range(len(names)))}):",
        "row = new(twin)",
        *(f"row.{name} = v{i}" for i, name in enumerate(names)),
        "row.__class__ = row_type",
        *(["row.__post_init__()"] if hasattr(row_type, "__post_init__") else []),
        "return row",
    ]
    namespace: dict[str, Any] = {"new": object.__new__, "twin": twin, "row_type": row_type}
    exec("\n    ".join(lines), namespace)
    make: Callable[..., Any] = namespace["make"]
    return make


# -- what can go wrong ---------------------------------------------------------------------------


def _mismatches(columns: Columns, known: Columns, required: frozenset[str]) -> list[str]:
    """Return the reasons why these columns can't fill the known fields."""
    if not columns:
        return ["the statement returns no columns"]
    problems = []
    if missing := [field for field in known if field in required and field not in columns]:
        problems.append(f"no column for {_listed('field', missing)}")
    if unknown := [column for column in columns if column not in known]:
        problems.append(f"no field for {_listed('column', unknown)}{_suggestions(unknown, known)}")
    if twice := _repeated(columns):
        problems.append(twice)
    return problems


def _listed(noun: str, names: Sequence[str]) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _suggestions(unknown: Sequence[str], known: Columns) -> str:
    close = [near[0] for name in unknown if (near := get_close_matches(name.lower(), known, 1))]
    return f" (did you mean {', '.join(map(repr, close))}?)" if close else ""


def _repeated(columns: Columns) -> str | None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    return f"{_listed('column', twice)} more than once; name them apart with AS" if twice else None


def _explaining(
    make: Callable[[Rows], list[T]], name: str, readers: Sequence[tuple[str, Decode]]
) -> MapRows[T]:
    """Return `make` with its errors raised as `MappingError`."""

    def map_rows(rows: Rows, start: int = 1) -> list[T]:
        try:
            return make(rows)
        except Exception as error:
            raise MappingError(explain(rows, start)) from error

    # Goes through the rows again, so that the path without errors need not count them.
    def explain(rows: Rows, start: int) -> str:
        for number, row in enumerate(rows, start):
            for (place, decode), value in zip(readers, row, strict=True):
                try:
                    if decode is not None:
                        decode(value)
                except ValueError as reason:
                    return f"{place} {reason}, in row {number}"
                except Exception as error:
                    return f"{place} can't be read, in row {number} ({type(error).__name__})"
            try:
                make([row])
            except Exception as error:
                return f"{name} refuses the values of row {number} ({type(error).__name__})"
        return f"{name} refused a row, but not when tried again"

    return map_rows
