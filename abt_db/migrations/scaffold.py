"""Beginning a new migration: a pair of files with the next number."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from abt_db.errors import MigrationFileError

from .loader import load_migrations

_UP = "-- description: {description}\n\n"
_DOWN = "-- Takes back {up}: the schema and the rows as they were before it.\n\n"
_TIMESTAMP = 10**13
"""Versions from here on are dates, such as 20240131120000."""


def new_migration(directory: str | Path, description: str) -> tuple[Path, Path]:
    """Make `0008_add_tags.up.sql` and `.down.sql` for the description "add tags"; return them.

    The number follows the last one of the directory, with as many digits; where versions are dates
    it is the present moment. Raises `MigrationFileError` for a description that gives no name, and
    as `load_migrations` does. Nothing that exists is written over.
    """
    folder = Path(directory)
    name = re.sub(r"[^a-z0-9]+", "_", description.lower()).strip("_")
    if not name or not description.isprintable():
        raise MigrationFileError(
            f"{description!r} gives no name for a file; use letters and digits, as in 'add tags'"
        )
    last = max((migration.version for migration in load_migrations(folder)), default=0)
    number = last + 1
    if last >= _TIMESTAMP:
        number = max(number, int(f"{datetime.now(UTC):%Y%m%d%H%M%S}"))
    pairs = folder.glob("[0-9]*_*.up.sql")
    digits = max((len(file.name.partition("_")[0]) for file in pairs), default=4)
    stem = f"{number:0{digits}}_{name}"
    up, down = folder / f"{stem}.up.sql", folder / f"{stem}.down.sql"
    made: list[Path] = []
    try:
        for file, text in (
            (up, _UP.format(description=description.strip())),
            (down, _DOWN.format(up=up.name)),
        ):
            with file.open("x", encoding="utf-8") as new:
                made.append(file)
                new.write(text)
    except OSError as error:
        for file in made:
            with suppress(OSError):
                file.unlink()
        raise MigrationFileError(f"{file}: it can't be made: {error.strerror}") from error
    return up, down
