"""Reading migrations from files: pairs of SQL scripts, or JSON.

A strict reader on purpose: a file that a pattern silently skips is a step that is missing, and
shows many steps later. So every file in the directory is either understood, one of the few that
are known not to be migrations, or an error.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from abt_db.errors import MigrationFileError

from .model import Migration, in_order
from .script import leading_comments

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"([0-9]+)_([A-Za-z0-9_.-]+)\.(up\.sql|down\.sql)")
_IGNORED = re.compile(r"\..*|README.*|__init__\.py|__pycache__|schema\.sql", re.DOTALL)

_HEADERS = ("description", "depends", "timeout", "no-transaction")
_FORMS = (
    "the headers are '-- description: text', '-- depends: 1, 2', '-- timeout: 300'"
    " and '-- no-transaction'"
)
_VERSIONS = re.compile(r"[0-9]{1,19}(?:\s*,\s*[0-9]{1,19})*")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")

# The keys of a JSON file and what they are called in a `Migration`.
_KEYS = {
    "version": "version",
    "description": "description",
    "up_sql": "up",
    "down_sql": "down",
    "dependencies": "dependencies",
    "timeout": "timeout",
    "transactional": "transactional",
}


def load_migrations(source: str | Path | ModuleType | Traversable) -> tuple[Migration, ...]:
    """Return the migrations of a directory in the order in which they are to be applied.

    `source` is the path of a directory, or a package or its name (``"abt_db.schema"``), which is
    imported; a `str` that is both is the directory. Two forms of files, in any mixture:

    - `0007_add_tags.up.sql` and `0007_add_tags.down.sql`. Without the second the step can't be
      taken back. Comments before the first statement of the up file may say
      ``-- description: …`` (else the name of the file), ``-- depends: 1, 2``, ``-- timeout: 300``
      (seconds) and ``-- no-transaction``.
    - a `.json` file of any name: an object with `version` and `up_sql`, and, as they are needed,
      `description` (else the name of the file), `down_sql`, `dependencies`, `timeout` and
      `transactional`.

    The version of a pair is digits, any number of them; its name is made of letters, digits, `_`,
    `-` and `.`.
    Text is UTF-8. Dotfiles, `README*`, `__init__.py`, `__pycache__` and `schema.sql` are passed
    over. An empty directory gives ().

    Raises `MigrationFileError` for everything else that lies there, a down without its up, and a
    file that can't be read or understood, naming it; `MigrationOrderError` as `in_order` does.
    """
    ups: dict[str, _File] = {}
    downs: dict[str, _File] = {}
    migrations: list[Migration] = []
    for entry in _entries(_directory(source)):
        if _IGNORED.fullmatch(entry.name):
            continue
        if entry.name.endswith(".json"):
            migrations.append(_from_json(entry))
            continue
        name = _NAME.fullmatch(entry.name)
        if not name:
            raise MigrationFileError(
                f"{entry}: not a migration; one is called 0001_name.up.sql, 0001_name.down.sql"
                " or anything.json"
            )
        file = _File(entry, name[1], name[2])
        (ups if name[3] == "up.sql" else downs)[file.stem] = file
    if lonely := sorted(downs.keys() - ups.keys()):
        raise MigrationFileError(
            f"{downs[lonely[0]].entry}: there is no {lonely[0]}.up.sql that it takes back"
        )
    migrations += [_from_pair(up, downs.get(stem)) for stem, up in ups.items()]
    return in_order(migrations)


@dataclass(frozen=True, slots=True)
class _File:
    """A file that must be a migration, or a half of one."""

    entry: Traversable
    digits: str
    name: str

    @property
    def stem(self) -> str:
        return f"{self.digits}_{self.name}"

    @property
    def description(self) -> str:
        return re.sub("[_-]+", " ", self.name).strip() or self.name

    def error(self, problem: str) -> MigrationFileError:
        return MigrationFileError(f"{self.entry}: {problem}")

    def read(self) -> str:
        try:
            raw = self.entry.read_bytes()
        except OSError as error:
            raise self.error(f"it can't be read: {error.strerror or error}") from error
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise self.error(f"line {line}: it is not UTF-8; save it as UTF-8") from error


def _directory(source: str | Path | ModuleType | Traversable) -> Traversable:
    if isinstance(source, str):
        path = Path(source)
        named = not path.is_dir() and all(part.isidentifier() for part in source.split("."))
        source = _package(source) if named else path
    if isinstance(source, ModuleType):
        if not hasattr(source, "__path__"):
            raise MigrationFileError(f"{source.__name__} is a module and not a package of files")
        # Here, because it takes longer to import than a directory to load.
        from importlib.resources import files

        source = files(source)
    if not source.is_dir():
        raise MigrationFileError(f"{source}: there is no such directory of migrations")
    return source


def _entries(directory: Traversable) -> list[Traversable]:
    try:
        return sorted(directory.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise MigrationFileError(
            f"{directory}: it can't be listed: {error.strerror or error}"
        ) from error


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not its own absence but that of something it imports is the package's own error.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise MigrationFileError(f"{name}: neither a directory nor a package") from error


def _from_pair(up: _File, down: _File | None) -> Migration:
    sql = up.read()
    values = {"description": up.description} | _headers(up, sql)
    return Migration(
        version=int(up.digits),
        up=sql,
        down=down.read() if down else None,
        origin=str(up.entry),
        **values,
    )


def _headers(file: _File, sql: str) -> dict[str, Any]:
    """Return what the comments before the first statement say about the migration."""
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for line, comment in leading_comments(sql):
        if not comment.startswith("--"):
            continue
        word, colon, value = (part.strip() for part in comment[2:].partition(":"))
        header = _header(word.lower(), bool(colon))
        if header is None:
            continue
        if header != word.lower():
            raise file.error(f"line {line}: no header is called {word!r}; did you mean {header!r}?")
        if header in seen:
            raise file.error(f"line {line}: a second '-- {header}'")
        seen.add(header)
        if header == "description" and value:
            values["description"] = value
        elif header == "depends" and _VERSIONS.fullmatch(value):
            values["dependencies"] = tuple(map(int, value.split(",")))
        elif header == "timeout" and _SECONDS.fullmatch(value):
            values["timeout"] = float(value)
        elif header == "no-transaction" and not value:
            values["transactional"] = False
        else:
            raise file.error(f"line {line}: '-- {header}' can't be understood; {_FORMS}")
    return values


def _header(word: str, colon: bool) -> str | None:
    """Return which header `word` is or seems to be meant as; None when it is a mere comment."""
    if len(word) > 2 * max(map(len, _HEADERS)):
        return None
    if word not in _HEADERS:
        # Here, because few files need it and each program that migrates would pay for it.
        from difflib import get_close_matches

        close = get_close_matches(word, _HEADERS, 1, cutoff=0.7)
        if not close:
            return None
        word = close[0]
    return word if colon or word == "no-transaction" else None


def _from_json(entry: Traversable) -> Migration:
    stem = entry.name.removesuffix(".json")
    digits, _, name = stem.partition("_")
    # The number in the name, where there is one, decides nothing: `validate` tells if it misleads.
    file = _File(entry, digits, name) if digits.isdecimal() and name else _File(entry, "", stem)
    try:
        found = json.loads(file.read(), object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise file.error(f"line {error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise file.error(str(error)) from error
    if not isinstance(found, dict):
        raise file.error("it must hold one JSON object")
    if unknown := [key for key in found if key not in _KEYS]:
        raise file.error(f"unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}")
    if missing := {"version", "up_sql"} - found.keys():
        raise file.error(f"{min(missing)!r} is missing")
    values: dict[str, Any] = {"description": file.description, "down": None}
    values |= {_KEYS[key]: value for key, value in found.items()}
    return Migration(**values, origin=str(file.entry))


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
