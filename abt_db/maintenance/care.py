"""Statistics for the planner, indexes built anew, looks for damage, rows of locks that are over."""

from __future__ import annotations

from collections.abc import Callable

from abt_db.connection.busy import while_busy
from abt_db.connection.deadline import Deadline
from abt_db.connection.transaction import EngineSession
from abt_db.database import Database
from abt_db.errors import BeginBusyError, MaintenanceError
from abt_db.housekeeping import Health, examine, gather_statistics
from abt_db.locks.table import clear_locks as clear
from abt_db.sql.scan import quoted


async def optimize(db: Database) -> None:
    """Bring the statistics up to date by which SQLite plans queries, from samples: milliseconds.

    In one transaction on the writer; every connection, of other processes too, plans by them from
    its next statement on. From SQLite 3.46 only tables that have changed much are looked at.
    Rows of locks that nobody holds are removed, see `clear_locks`.
    """
    await _written(db, "optimize", lambda session: gather_statistics(session, full=False))
    await clear_locks(db)


async def analyze(db: Database) -> None:
    """As `optimize`, of all tables and from all rows: seconds for a gigabyte, while writes wait."""
    await _written(db, "analyze", lambda session: gather_statistics(session, full=True))


async def reindex(db: Database, name: str | None = None) -> None:
    """Build all indexes anew, or one, or all of one table, while writes wait: for indexes that
    `check(full=True)` finds wrong. `MaintenanceError` for a name that is not there."""

    def run(session: EngineSession) -> None:
        with session.transaction("IMMEDIATE"):
            names = [row[0] for row in session.control("SELECT name FROM sqlite_schema")]
            if name is not None and name not in names:
                raise MaintenanceError(f"{db.path} has no table or index of that name to reindex")
            # Without "main" a table that is called "binary" would be taken for the collation.
            what = "" if name is None else f" main.{quoted(name)}"
            session.run_sql(f"REINDEX{what}", doing="REINDEX", privileged=True)

    await _written(db, "reindex", run)


async def clear_locks(db: Database) -> int:
    """Remove the rows of locks that nobody holds, released or run out; return how many (0 as well
    where the table of the locks is missing). A loan that holds is never touched, and the tokens of
    each name go on growing: the largest one that is removed is kept, in a row whose key is an empty
    blob, and whatever is granted from then on has a larger one.

    In one transaction. `optimize` does it, too. All processes that use the locks should be of a
    release that has this function: an older one lets the tokens of a new row begin at 1.
    """
    return await db.write(clear)


async def check(db: Database, *, full: bool = False) -> Health:
    """Look for damage, on a reader: in all pages, rows and foreign keys; `full` also holds every
    index against its table, which takes several times as long. Damage is no error here."""
    return await db.read(examine, full=full)


async def _written(db: Database, label: str, function: Callable[[EngineSession], None]) -> None:
    async with db.writer(label=label) as loan:
        limit = Deadline.after(db.config.busy_timeout)
        await while_busy(lambda: loan.run(function, Deadline()), limit, kind=BeginBusyError)
