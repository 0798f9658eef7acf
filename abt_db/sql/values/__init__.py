"""Python values <-> SQLite values.

SQLite has NULL, integers of 64 bits, floats, text and blobs. Values of other types are stored so
that SQL can sort and compare them, and that they are read back equal:

    bool                       0 or 1
    datetime                   text in UTC, "2025-03-01T12:00:00.000+00:00"; never a naive one
    date                       text, "2025-03-01"
    UUID, Path, Decimal        text; a column for Decimal must be TEXT, or SQLite rounds it
    Enum                       its value; a column declared so also takes the plain value
    list, tuple, dict,         JSON text; values inside are stored as above, a dataclass as an
    TypedDict, dataclass       object; bytes can't be stored inside JSON
    Annotated[X, Json]         JSON text of any X: ``Annotated[Any, Json]`` for any JSON value, of
                               which None is NULL

`encode` converts by the value's type alone. `encoder` and `decoder` convert by an annotation, which
may also be a union of native types, `Literal`, `Any`, `Annotated`, a `NewType`, or `X | None` of
any of these. The value read from a column must be of the declared type, which SQLite does not
enforce: it stores a text that is no number in an INTEGER column as text. The one exception is that
an integer fits a `float`.

    encoding     what SQLite stores for a value, by the type of the value
    annotations  reading the annotations of a class
    codecs       storing and reading values of a declared type, in a column or inside JSON

A value that does not fit raises `ValueError` with a message that is the end of a sentence: "is not
a date". The caller puts the name of the value in front. The message never contains the value itself
(invariant 27).
"""

from .annotations import constructor_fields, field_types, type_name
from .codecs import decoder, encoder, json_reader, native_check, native_kinds
from .encoding import Json, SQLiteValue, encode, encode_all

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
    "native_check",
    "native_kinds",
    "type_name",
]
