"""Read the annotations of a class, without the parts that only type checkers need."""

from __future__ import annotations

from dataclasses import MISSING, InitVar, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)


def field_types(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, or of a TypedDict.

    Raises `TypeError` for a name that can't be resolved, and for an `InitVar`, whose value is not
    kept in the instance and so can't be stored.
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
    """Return, for each field that the constructor of a dataclass or TypedDict takes, whether it is
    required."""
    if is_dataclass(kind):
        return {
            field.name: field.default is MISSING and field.default_factory is MISSING
            for field in fields(kind)
            if field.init
        }
    # Under `from __future__ import annotations`, `__required_keys__` ignores NotRequired.
    return {
        key: get_origin(annotation) is Required
        or (get_origin(annotation) is not NotRequired and key in kind.__required_keys__)
        for key, annotation in field_types(kind).items()
    }


def type_name(annotation: Any) -> str:
    """Return the name of a type as it is written in code."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def parts(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the single type, without the parts that only type checkers
    need."""
    while True:
        if get_origin(annotation) in (Annotated, Required, NotRequired):
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = …`, since Python 3.12
            annotation = annotation.__value__
        elif get_origin(annotation) in (Union, UnionType):
            return tuple(part for member in get_args(annotation) for part in parts(member))
        else:
            return (NoneType if annotation is None else annotation,)


def marks(annotation: Any) -> tuple[Any, ...]:
    """Return the metadata that ``Annotated`` adds to a type, or to the members of a union."""
    if get_origin(annotation) is Annotated:
        inner, *added = get_args(annotation)
        return (*added, *marks(inner))
    if isinstance(annotation, NewType):
        return marks(annotation.__supertype__)
    if type(annotation).__name__ == "TypeAliasType":  # `type X = …`, since Python 3.12
        return marks(annotation.__value__)
    if get_origin(annotation) in (Union, UnionType, Required, NotRequired):
        return tuple(mark for member in get_args(annotation) for mark in marks(member))
    return ()


def without_none(annotation: Any) -> Any:
    """Return X for `X | None`, and for X alone."""
    kinds = [part for part in parts(annotation) if part is not NoneType]
    if len(kinds) == 1:
        return kinds[0]
    raise unsupported(annotation)


def is_native(kind: Any) -> bool:
    """Whether SQLite stores and returns values of a type unchanged."""
    natives = (int, float, str, bytes, NoneType)
    if get_origin(kind) is Literal:
        return all(type(option) in natives for option in get_args(kind))
    return kind is Any or kind is object or kind in natives


def unsupported(annotation: Any) -> TypeError:
    """Return the error for an annotation that no column can have."""
    return TypeError(
        f"{type_name(annotation)} is not a type that can be stored; abt_db.sql.values lists those"
    )
