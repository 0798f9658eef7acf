"""What can be done with projects: dataclasses in, dataclasses out."""

from __future__ import annotations

from abt_db.connection.session import Session
from abt_db.protocols import Readable
from abt_db.repository import Repository

from . import queries
from .models import Project, ProjectSummary


class Projects(Repository[Project]):
    """The table `projects`."""

    def __init__(self, db: Readable) -> None:
        super().__init__(db, queries.PROJECTS)

    async def get_by_name(self, name: str) -> Project | None:
        """Return the project of this name, None if there is none."""
        return await self.db.fetch_one(queries.PROJECT_BY_NAME(name=name))

    async def get_active(self, limit: int | None = None) -> list[Project]:
        """Return the projects that are still built, newest first; at most `limit`, all if None."""
        return await self.get_all(limit, order_by="-created_at", is_active=True)

    async def search(self, word: str, limit: int | None = None) -> list[Project]:
        """Return the projects with `word` in their name or description, by name.

        At most `limit`, all if None. Every character of it stands for itself; a to z match A to Z.
        """
        most = -1 if limit is None else limit
        return await self.db.fetch_all(queries.SEARCH_PROJECTS(word=word, limit=most))

    async def with_build_stats(
        self, *, word: str | None = None, active: bool | None = None
    ) -> list[ProjectSummary]:
        """Return projects, newest first, with how their builds have gone.

        All of them, or those that `search` finds by `word`, or that are active or are not.
        """
        return await self.db.fetch_all(queries.PROJECT_SUMMARIES(word=word, active=active))

    async def ensure(
        self,
        name: str,
        *,
        project_type: str,
        repository_url: str,
        local_path: str,
        branch: str = "main",
    ) -> Project:
        """Return the project of this name; the rest is noted only if it has to be made first."""
        add = queries.ADD_PROJECT(
            name=name,
            project_type=project_type,
            repository_url=repository_url,
            local_path=local_path,
            branch=branch,
        )
        find = queries.PROJECT_BY_NAME(name=name)

        def ensure(cx: Session) -> Project:
            cx.execute(add)
            project = cx.fetch_one(find)
            assert project is not None
            return project

        project = await self.db.fetch_one(find)
        return project if project is not None else await self.writable.write(ensure)

    async def upsert(self, name: str, **values: object) -> Project:
        """Add a project, or change these columns of the one that has this name; return it.

        All columns that a new project must have are to be named in either case.
        """
        values["name"] = name
        return await self._insert(queries.PROJECTS.create(values, key="name"))
