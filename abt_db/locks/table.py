"""The table of locks among processes, and the steps that grant, renew and release a lock.

Each step that writes is a function that runs in one write transaction, so that nothing can come
between its reads and its writes. A step reads the clock inside the transaction, because the wait
for the writer before it may have been long.

No decision depends on the wall clock, which can be set (fault 75). Time is that of
`time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic_ns
from typing import Any

from abt_db.connection.session import Session
from abt_db.errors import LockLostError
from abt_db.sql.query import Query
from abt_db.sql.values import Json

LOCKS_TABLE = Query(
    "locks.create_table",
    """
    CREATE TABLE IF NOT EXISTS distributed_locks (
        resource_id TEXT NOT NULL PRIMARY KEY,
        lock_holder TEXT,
        acquired_at TEXT,
        expires_at TEXT,
        token INTEGER NOT NULL DEFAULT 0 CHECK (typeof(token) = 'integer')
    )
    """,
)
"""The table that `Database.lock` needs. ``await db.execute(LOCKS_TABLE())`` creates it if it is
missing; so does a migration that contains the text ``LOCKS_TABLE.sql``.

A lock that comes free keeps its row, because its token must go on growing: never delete rows.
`abt_db.maintenance.clear_locks` removes rows that are not needed, and keeps the tokens growing."""


@dataclass(frozen=True, slots=True)
class LockInfo:
    """The holder of a lock among processes, as it was at one moment."""

    name: str
    token: int
    owner: str
    """A random text, different for each grant."""
    host: str
    pid: int
    task: str
    acquired_at: datetime
    """By the wall clock, for people to read, as is `expires_at`. The clock may have been set since.
    """
    expires_at: datetime
    ttl: int
    """How long the lease lasts without being renewed, in milliseconds."""
    until: int
    """When the lease runs out, in milliseconds of the machine's `time.monotonic()`."""
    wanted: bool
    """Whether another process waits for the lock."""
    label: str | None = None
    """What the lock is held for, see `Database.lock`."""

    def holds_at(self, now: int) -> bool:
        """Whether the lease has not run out at `now`, in milliseconds of `time.monotonic()`."""
        # That clock starts again when the machine boots. A lease that would last longer than its
        # ttl is from before the boot. At worst, a lease from before blocks the lock for the length
        # of its ttl. (The kernel's boot id would decide every case, but containers of one machine
        # may each see a different one.)
        return now < self.until <= now + self.ttl

    def __str__(self) -> str:
        label = "" if self.label is None else f"{self.label!r}, "
        return (
            f"{label}task {self.task!r} of process {self.pid} on {self.host} has held it since"
            f" {self.acquired_at:%Y-%m-%d %H:%M:%S} UTC"
        )


_FIND = Query(
    "locks.find",
    """
    SELECT resource_id AS name, token,
           json_extract(lock_holder, '$.owner') AS owner,
           json_extract(lock_holder, '$.host') AS host,
           json_extract(lock_holder, '$.pid') AS pid,
           json_extract(lock_holder, '$.task') AS task,
           acquired_at, expires_at,
           json_extract(lock_holder, '$.ttl') AS ttl,
           json_extract(lock_holder, '$.until') AS until,
           json_extract(lock_holder, '$.wanted') AS wanted,
           json_extract(lock_holder, '$.label') AS label
    FROM distributed_locks
    WHERE resource_id = :name AND lock_holder IS NOT NULL
    """,
    LockInfo,
)

_GRANT = Query(
    "locks.grant",
    """
    INSERT INTO distributed_locks (resource_id, lock_holder, acquired_at, expires_at, token)
    VALUES (
        :name, :holder, :acquired_at, :expires_at,
        1 + coalesce((SELECT token FROM distributed_locks WHERE resource_id = x''), 0)
    )
    ON CONFLICT (resource_id) DO UPDATE
    SET lock_holder = excluded.lock_holder, acquired_at = excluded.acquired_at,
        expires_at = excluded.expires_at, token = max(token + 1, excluded.token)
    RETURNING token
    """,
    int,
)

_RENEW = Query(
    "locks.renew",
    """
    UPDATE distributed_locks
    SET lock_holder = json_set(lock_holder, '$.until', :until), expires_at = :expires_at
    WHERE resource_id = :name AND token = :token AND lock_holder IS NOT NULL
    """,
)

_WANT = Query(
    "locks.want",
    """
    UPDATE distributed_locks SET lock_holder = json_set(lock_holder, '$.wanted', 1)
    WHERE resource_id = :name AND token = :token AND lock_holder IS NOT NULL
    """,
)

_FREE = Query(
    "locks.free",
    """
    UPDATE distributed_locks SET lock_holder = NULL, acquired_at = NULL, expires_at = NULL
    WHERE resource_id = :name AND token = :token
    """,
)

# A row of its own keeps the largest token of all rows that were removed: new names are granted
# larger ones. Its key is a blob, which equals no text, and so no name
# (https://www.sqlite.org/datatype3.html, 4.1).
_OVER = """
    resource_id <> x'' AND CASE
        WHEN lock_holder IS NULL THEN 1
        WHEN json_valid(lock_holder) THEN NOT (
            :now < json_extract(lock_holder, '$.until')
            AND json_extract(lock_holder, '$.until') <= :now + json_extract(lock_holder, '$.ttl')
        )
    END
"""

_LARGEST = Query(
    "locks.largest",
    f"SELECT coalesce(max(token), -1) FROM distributed_locks WHERE {_OVER}",
    int,
)

_BEGIN_ABOVE = Query(
    "locks.begin_above",
    """
    INSERT INTO distributed_locks (resource_id, token) VALUES (x'', :token)
    ON CONFLICT (resource_id) DO UPDATE SET token = max(token, excluded.token)
    """,
)

_CLEAR = Query("locks.clear", f"DELETE FROM distributed_locks WHERE {_OVER}")

_COLUMNS = Query(
    "locks.columns",
    """
    SELECT count(*) FROM pragma_table_info('distributed_locks')
    WHERE name IN ('resource_id', 'lock_holder', 'token')
    """,
    int,
)


def milliseconds() -> int:
    """Return the time of the clock that all processes of this machine share, in milliseconds."""
    return monotonic_ns() // 1_000_000


def wall() -> datetime:
    """Return the time of the wall clock, in UTC."""
    return datetime.now(UTC)


def find(cx: Session, name: str) -> LockInfo | None:
    """Return the holder of a lock; None if the lock is free or the lease has run out."""
    info = cx.fetch_one(_FIND(name=name))
    return info if info is not None and info.holds_at(milliseconds()) else None


def grant(cx: Session, name: str, holder: dict[str, Any]) -> tuple[int, int] | None:
    """Grant the lock if it is free; return the token and when the lease runs out, else None."""
    if find(cx, name) is not None:
        return None
    until = milliseconds() + holder["ttl"]
    now = wall()
    row = {
        "name": name,
        "holder": Json({**holder, "until": until}),
        "acquired_at": now,
        "expires_at": now + timedelta(milliseconds=holder["ttl"]),
    }
    token = cx.fetch_one(_GRANT(row))
    assert token is not None  # an upsert returns its row
    return token, until


def renew(cx: Session, name: str, token: int, ttl: int) -> int | None:
    """Let the lease with that token last `ttl` milliseconds from now; return when it runs out then,
    None if it is over."""
    info = find(cx, name)
    if info is None or info.token != token:
        return None
    until = milliseconds() + ttl
    then = wall() + timedelta(milliseconds=ttl)
    cx.execute(_RENEW(name=name, token=token, until=until, expires_at=then))
    return until


def want(cx: Session, info: LockInfo) -> None:
    """Note in the lock's row, for its holder, that another process waits for the lock."""
    cx.execute(_WANT(name=info.name, token=info.token))


def release(cx: Session, name: str, owner: str) -> LockInfo | None:
    """End the lease of `owner`, and no other lease (fault 76); return it, None if it was over."""
    info = find(cx, name)
    if info is None or info.owner != owner:
        return None
    cx.execute(_FREE(name=name, token=info.token))
    return info


def fence(cx: Session, name: str, token: int) -> None:
    """Raise `LockLostError` unless the lease with that token holds now (fault 74).

    In a write transaction, one check at the beginning is enough: granting the lock to another
    holder is a write too, and can't happen before this transaction has ended. So even if the lease
    runs out meanwhile, everything committed here comes before everything of the next holder. A
    lease that has run out is over even if the lock was not granted again: a program that outlives
    its leases should fail always, and not only when another process wants the lock.
    """
    info = find(cx, name)
    if info is None or info.token != token:
        raise LockLostError(
            f"the lease on lock {name!r} with the token {token} is over, and nothing was written;"
            " get the lock again, and read the data again before writing"
        )


def clear_locks(cx: Session) -> int:
    """Remove the rows of locks that are not held; return how many were removed. The row of a held
    lease stays, and so does a row that another program has written in a format of its own.

    Every later grant, whatever the lock's name, gets a token above the largest one that was
    removed, so the tokens of each name go on growing.
    """
    if cx.fetch_one(_COLUMNS()) != 3:
        return 0  # there is no such table, or it has other columns
    now = milliseconds()
    largest = cx.fetch_one(_LARGEST(now=now))
    if largest == -1:
        return 0
    cx.execute(_BEGIN_ABOVE(token=largest))
    return cx.execute(_CLEAR(now=now)).rowcount
