"""What can be done with the figures of the machine: dataclasses in, dataclasses out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from abt_db.protocols import Readable
from abt_db.repository import Repository

from . import queries
from .models import Metric, MetricPeriod, Sample


class Metrics(Repository[Metric]):
    """The table `system_metrics`."""

    def __init__(self, db: Readable) -> None:
        super().__init__(db, queries.METRICS)

    async def record(self, name: str, value: float, unit: str | None = None) -> None:
        """Note a figure, as of now. Figures that are noted at the same time share a commit."""
        await self.writable.execute(queries.ADD_METRIC(Sample(name, value, unit)))

    async def record_many(self, samples: Iterable[Sample]) -> int:
        """Note figures, all or none of them; return how many. See `Database.execute_many`."""
        return await self.writable.execute_many(queries.ADD_METRIC, samples)

    async def series(self, name: str, since: datetime, bucket: str = "hour") -> list[MetricPeriod]:
        """Return the figures of a name from `since` on, taken together by period, oldest first.

        `bucket` is "minute", "hour", "day", "week" (from Monday) or "month", in UTC; anything else
        raises `ParameterError`. Periods without a figure are left out.
        """
        query = queries.METRIC_SERIES[queries.period(bucket)]
        return await self.db.fetch_all(query(metric_name=name, since=since))

    async def latest(self, name: str) -> Metric | None:
        """Return the newest figure of a name, None if there is none."""
        return await self.db.fetch_one(queries.LATEST_METRIC(metric_name=name))
