"""The steps by which a lock among processes changes hands: what is read and written for each.

Each is a function that is run in one write transaction, so that nothing can come between what it
reads and what it writes. The time is asked for in there as well: before it, there may have been a
long wait for the writer.

No process goes by the wall clock, which can be set (fault 75). Time is that of `time.monotonic()`,
which all processes of a machine share.
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
"""The table that `Database.lock` needs. ``await db.execute(LOCKS_TABLE())`` makes it where it is
not there yet, and so does a migration that has the text ``LOCKS_TABLE.sql``.

A lock that comes free keeps its row, for its token must not begin anew: never delete rows.
`abt_db.maintenance.clear_locks` removes rows that no process needs; the tokens still grow."""


@dataclass(frozen=True, slots=True)
class LockInfo:
    """The holder of a lock among processes, at one moment."""

    name: str
    token: int
    owner: str
    """Random, another one for each grant."""
    host: str
    pid: int
    task: str
    acquired_at: datetime
    """For people: by the wall clock, as is `expires_at`. It may have been set since."""
    expires_at: datetime
    ttl: int
    """Milliseconds."""
    until: int
    """The end, in milliseconds of the machine's `time.monotonic()`."""
    wanted: bool
    """Whether another process waits for it."""
    label: str | None = None
    """What the holder says of itself, see `Database.lock`."""

    def holds_at(self, now: int) -> bool:
        """Whether the lease has not run out at `now`, in milliseconds of `time.monotonic()`."""
        # That clock begins anew when the machine does. What would last longer than a lease can is
        # from before that; at worst, such a one is in the way for the length of its ttl. (The
        # kernel's boot id would tell more, but containers of one machine may each see another.)
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

# The token above which all are granted is in a row of its own. The key of that is a blob, which
# equals no text, and so no name (https://www.sqlite.org/datatype3.html, 4.1).
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
    """The time on the clock that all processes of this machine share."""
    return monotonic_ns() // 1_000_000


def wall() -> datetime:
    """What people call the time."""
    return datetime.now(UTC)


def find(cx: Session, name: str) -> LockInfo | None:
    """Return the holder of a lock; None if it can be granted: free, or its lease has run out."""
    info = cx.fetch_one(_FIND(name=name))
    return info if info is not None and info.holds_at(milliseconds()) else None


def grant(cx: Session, name: str, holder: dict[str, Any]) -> tuple[int, int] | None:
    """Give the lock away if it can be had; return the token and when the lease runs out."""
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
    """Let the lease with that token last `ttl` from now; return until when, None if it is over."""
    info = find(cx, name)
    if info is None or info.token != token:
        return None
    until = milliseconds() + ttl
    then = wall() + timedelta(milliseconds=ttl)
    cx.execute(_RENEW(name=name, token=token, until=until, expires_at=then))
    return until


def want(cx: Session, info: LockInfo) -> None:
    """Let the holder know that another process waits."""
    cx.execute(_WANT(name=info.name, token=info.token))


def release(cx: Session, name: str, owner: str) -> LockInfo | None:
    """End the lease of `owner`, and no other (fault 76); return it, None if it was over."""
    info = find(cx, name)
    if info is None or info.owner != owner:
        return None
    cx.execute(_FREE(name=name, token=info.token))
    return info


def fence(cx: Session, name: str, token: int) -> None:
    """Raise `LockLostError` unless the lease with that token holds now (fault 74).

    In a write transaction, once is enough: who is to have the lock next has to write as well, and
    can't before this one has ended. If the lease runs out meanwhile, all that is committed here is
    still before anything of the next holder's. A lease that has run out is over even if nobody has
    come to take the lock: a program that outlives its leases shall fail on quiet days too.
    """
    info = find(cx, name)
    if info is None or info.token != token:
        raise LockLostError(
            f"the lease on lock {name!r} with the token {token} is over, and nothing was written;"
            " have the lock anew, and look at the data again"
        )


def clear_locks(cx: Session) -> int:
    """Remove the rows of locks that nobody holds; return how many. The row of a lease that holds is
    left as it is, and so is one that another program has written in a way of its own.

    Whatever is granted from then on has a token above the largest one that was removed, by whatever
    name: so the tokens of each name go on growing.
    """
    if cx.fetch_one(_COLUMNS()) != 3:
        return 0  # there is no such table, or it is not ours
    now = milliseconds()
    largest = cx.fetch_one(_LARGEST(now=now))
    if largest == -1:
        return 0
    cx.execute(_BEGIN_ABOVE(token=largest))
    return cx.execute(_CLEAR(now=now)).rowcount
