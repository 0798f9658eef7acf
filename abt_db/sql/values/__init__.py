"""Python values <-> SQLite values.

SQLite knows NULL, integers of 64 bits, floats, text and blobs. Other types are stored so that they
sort and compare in SQL and come back equal:

    bool                       0 or 1
    datetime                   text in UTC, "2025-03-01T12:00:00.000+00:00"; never a naive one
    date                       text, "2025-03-01"
    UUID, Path, Decimal        text; a column for Decimal must be TEXT, or SQLite rounds it
    Enum                       its value; where one is declared, that is taken for it as well
    list, tuple, dict,         JSON text; what is inside is stored as above, a dataclass as an
    TypedDict, dataclass       object, and only bytes can't be
    Annotated[X, Json]         JSON text of any X: ``Annotated[Any, Json]`` for any JSON value, of
                               which None is NULL

`encode` goes by the value alone, `encoder` and `decoder` by an annotation, which may also be a
union of native types, `Literal`, `Any`, `Annotated`, a `NewType`, or `X | None` of all these. A
column must return what it is declared as: SQLite keeps a text in an INTEGER column if it must. Only
an integer fits a `float` as well.

    encoding     what SQLite stores for a value, whatever it was declared as
    annotations  what the annotations of a class say
    codecs       how a column, or JSON, that is declared so is stored and read

A value that does not fit is a `ValueError` whose message continues a sentence: "is not a date". The
caller knows the name to put in front; the value itself is never told (invariant 27).
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
