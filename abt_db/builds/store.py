"""`BuildStore`: the build database, opened and migrated."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from abt_db.config import Config
from abt_db.database import Database
from abt_db.errors import BuildEndedError, MigrationUnknownError, StatementError
from abt_db.migrations.engine import Engine
from abt_db.migrations.loader import load_migrations
from abt_db.migrations.model import Migration
from abt_db.schema import APPLICATION_ID
from abt_db.sql.query import Query

from .builds import Builds
from .holder import Holder
from .logs import Logs
from .metrics import Metrics
from .models import Build, BuildStatus
from .projects import Projects

if TYPE_CHECKING:  # what takes long to import, and is imported where it is needed
    from .exporter import ExportReport
    from .importer import ImportReport
    from .recorder import Recorder

SCHEMA = "abt_db.schema"


class BuildStore:
    """Projects, builds, their logs and figures of the machine in one file.

    ``async with await BuildStore.open("builds.db") as store: …``
    """

    def __init__(self, db: Database) -> None:
        self.db = db
        """The database itself, for queries of one's own."""
        self.projects = Projects(db)
        self.builds = Builds(db)
        self.logs = Logs(db)
        self.metrics = Metrics(db)

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], *, config: Config | None = None
    ) -> BuildStore:
        """Open the file, make it if need be, and bring its schema up to date.

        Raises as `Database.open` and `Migrator.up` do, and `MigrationUnknownError` for a database
        of another program, to which nothing is written.
        """
        migrations = load_migrations(SCHEMA)
        await _require_own(path, config or Config(), migrations)
        db = await Database(path, config=config).open()
        try:
            await Engine(db, migrations).up()
        except BaseException:
            await db.close()
            raise
        return cls(db)

    def recorder(
        self,
        project: str,
        *,
        build_type: str | None = None,
        triggered_by: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        artifact: str | os.PathLike[str] | None = None,
    ) -> Recorder:
        """Return a build to be recorded: ``async with store.recorder("app") as build: …``.

        `project` is its name; one that is new is added. The build runs in `directory`, the working
        directory if None, and `artifact`, a path in it, is noted with its size at the end.
        """
        from .recorder import Recorder

        return Recorder(
            self,
            project,
            build_type=build_type,
            triggered_by=triggered_by,
            directory=directory,
            artifact=artifact,
        )

    async def import_file(
        self,
        path: str | os.PathLike[str],
        *,
        max_line: int | None = None,
        progress: Callable[[ImportReport], object] | None = None,
    ) -> ImportReport:
        """Add the projects and builds of a history file that are not there yet.

        What is in such a file, and how it is known what is there, is told in
        `abt_db.builds.history`. Plain, gzip or xz, whatever its name; ``"-"`` is standard input.
        A line that can't be read or stored, or is longer than `max_line` bytes (256 MiB if
        None), is left out and told in the report. `progress` is called with the report after each
        line.

        Each project and build is a transaction of its own. Cancelled, or stopped by an error, it
        leaves those that were added; started again, it goes on behind them. Raises `OSError` when
        the file can't be opened, and as `Database.write` does when nothing can be stored.
        """
        from .importer import import_file

        return await import_file(self.db, path, max_line=max_line, progress=progress)

    async def export_file(
        self,
        path: str | os.PathLike[str],
        *,
        projects: Collection[str] = (),
        progress: Callable[[ExportReport], object] | None = None,
    ) -> ExportReport:
        """Write projects and their builds into a history file, all of them or those named.

        The inverse of `import_file`: every column is kept but the ids, and the export of a new
        database into which it was imported has the same bytes. All of it is one view of the
        database, in constant memory. Packed if its name ends in ``.gz`` or ``.xz``; ``"-"`` is
        standard output. `progress` is called with the report every now and then.

        The file takes the place of one of that name at the end; when it is cancelled or fails,
        nothing has changed. Those alone may read it who may read the database and could read what
        was there. Raises `LookupError` for a project that is not there, `ParameterError` when the
        file is the database itself, `MaintenanceError` when it is another one, `OSError` when it
        can't be written, and as `Database.snapshot` does.
        """
        from .exporter import export_file

        return await export_file(self.db, path, projects=projects, progress=progress)

    async def report(
        self,
        *,
        days: int | None = None,
        projects: Collection[int] | None = None,
        now: datetime | None = None,
    ) -> str:
        """Return a page about the builds of the last `days` (all if None), one HTML document.

        `projects` are the ids of those that it is about (all if None). The page is the same for the
        same database and the same `now`, the present time if None. It is read in one snapshot and
        has a reader to itself meanwhile; it can be cancelled at any moment.
        """
        from .report.gather import gather
        from .report.page import render

        figures = await gather(self.db, now=now or datetime.now(UTC), days=days, projects=projects)
        return await asyncio.to_thread(render, figures)

    async def fail_abandoned(self) -> list[Build]:
        """Note as failed the running builds whose recorder has died, and return them.

        Builds that another machine records, or nobody known, are left as they are.
        """
        failed = []
        for build in await self.builds.running():
            holder = Holder.from_metadata(build.build_metadata)
            if holder is not None and holder.gone():
                notes = {"stopped": "recorder died"}
                # Another process may have noted it in the meantime.
                with suppress(BuildEndedError):
                    ended = await self.builds.update_status(
                        build.id, BuildStatus.FAILED, notes=notes
                    )
                    failed += [ended] if ended else []
        return failed

    async def close(self) -> None:
        """Close the database; see `Database.close`."""
        await self.db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


_IDENTITY = Query(
    "store.identity",
    """
    SELECT application_id,
           (SELECT count(*) FROM sqlite_schema
            WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name <> 'migration_history')
    FROM pragma_application_id()
    """,
)


async def _require_own(
    path: str | os.PathLike[str], config: Config, migrations: tuple[Migration, ...]
) -> None:
    """Refuse a database of another program, or of a newer one, before anything is written to it.

    Not even its journal mode is changed, so it is looked at through a read-only connection.
    """
    file = Path(path)
    if not (file.is_file() and file.stat().st_size):
        return
    async with Database(path, config=replace(config, readers=1), read_only=True) as db:
        application, tables = await db.fetch_one(_IDENTITY()) or (0, 0)
        # One whose migrations were all taken back, or whose first one failed, is empty.
        own = application == APPLICATION_ID or (application, tables) == (0, 0)
        try:
            if own:
                await Engine(db, migrations).status()
        except StatementError:
            own = False  # a history of another shape
    if not own:
        raise MigrationUnknownError(
            f"{path} belongs to another program; name another file with --db or ABT_DB"
        )
