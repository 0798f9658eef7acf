"""How commands open a database, those that look after it above all."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from abt_db.config import Config
from abt_db.database import Database
from abt_db.sql.query import Query
from abt_db.tools.cli import CliError, is_there

CONFIG = Config(readers=1, cache_size=16 * 1024 * 1024)
"""A command is one caller: one reader is enough, and little memory beside a build that needs it."""

PATIENT = 30.0
"""Seconds that a tool waits for those who use the database: they go first."""

CARE = replace(CONFIG, slow_transaction=None)
"""Work that takes long is what these commands are for: no warning of it."""

JOURNAL_MODE = Query("journal_mode", "PRAGMA journal_mode", str)


def find(arguments: argparse.Namespace) -> Path:
    """The database of the command line, which has to be there."""
    path = Path(arguments.db)
    if not is_there(path):
        raise CliError(f"there is no database {path}; name one at the end, with --db or in ABT_DB")
    return path


@asynccontextmanager
async def read_only(arguments: argparse.Namespace) -> AsyncIterator[Database]:
    """The database of the command line, to be looked at."""
    async with Database(find(arguments), config=CARE, read_only=True) as db:
        yield db


async def has_log(arguments: argparse.Namespace) -> bool:
    """Whether the database of the command line is in WAL mode."""
    async with read_only(arguments) as db:
        return await db.fetch_one(JOURNAL_MODE()) == "wal"


@asynccontextmanager
async def opened(arguments: argparse.Namespace) -> AsyncIterator[Database]:
    """The database of the command line, to be written to, in the journal mode that it has."""
    config = replace(
        CARE,
        create=False,
        busy_timeout=PATIENT,
        journal_mode="wal" if await has_log(arguments) else "delete",
        wal_limit=0,  # the application sees to its log
    )
    async with Database(find(arguments), config=config) as db:
        yield db


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
