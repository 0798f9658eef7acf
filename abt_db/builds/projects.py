"""What can be done with projects: dataclasses in, dataclasses out."""

from __future__ import annotations

from abt_db.database import Database
from abt_db.session import Session

from . import queries
from .models import Project, ProjectSummary

__all__ = ["Projects"]


class Projects:
    """The table `projects`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get_by_id(self, id: int) -> Project | None:
        return await self._db.fetch_one(queries.PROJECT_BY_ID(id=id))

    async def get_by_name(self, name: str) -> Project | None:
        return await self._db.fetch_one(queries.PROJECT_BY_NAME(name=name))

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

        project = await self._db.fetch_one(find)
        return project if project is not None else await self._db.write(ensure)

    async def summaries(self) -> list[ProjectSummary]:
        """Return all projects by name, with how their builds have gone."""
        return await self._db.fetch_all(queries.PROJECT_SUMMARIES())
