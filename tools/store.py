"""The build database of a command, and what its arguments name there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from abt_db.builds.models import Build, Project
from abt_db.builds.store import BuildStore
from abt_db.tools.care import CONFIG
from abt_db.tools.cli import CliError, is_there


async def open_store(
    database: str, *, create: bool = False, busy_timeout: float = CONFIG.busy_timeout
) -> BuildStore:
    """Open the build database; one that is only looked at has to be there."""
    if not create and not is_there(database):
        raise CliError(
            f"there is no database {database}; `abt-db record` makes one, --db or ABT_DB names"
            " another"
        )
    try:
        Path.cwd()
    except FileNotFoundError:
        raise CliError("the working directory has been removed; change to another one") from None
    return await BuildStore.open(database, config=replace(CONFIG, busy_timeout=busy_timeout))


async def find_project(store: BuildStore, name: str) -> Project:
    """Return the project of this name."""
    if project := await store.projects.get_by_name(name):
        return project
    raise CliError(f"there is no project {name!r}; see: abt-db projects")


async def find_build(store: BuildStore, name: str) -> Build:
    """Return the build that `name` means: PROJECT#NUMBER, PROJECT (its last build), or an id.

    The name of a project goes before an id.
    """
    project_name, _, number = name.rpartition("#")
    build = None
    if not number.isdecimal() or len(number) > 19 or int(number) >= 2**63:
        number = ""
    if project_name and number:
        project = await store.projects.get_by_name(project_name)
        if project is not None:
            build = await store.builds.get_by_number(project.id, int(number))
    elif project := await store.projects.get_by_name(name):
        last = await store.builds.get_all(1, order_by="-build_number", project_id=project.id)
        build = last[0] if last else None
    elif number:
        build = await store.builds.get_by_id(int(number))
    if build is None:
        raise CliError(f"there is no build {name!r}; see: abt-db builds")
    return build
