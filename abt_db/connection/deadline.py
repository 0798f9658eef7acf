"""Time limits and cancellation: stop the running statement, and no other.

SQLite calls a *progress handler* every so many steps of its virtual machine, and stops the
statement if the handler returns true (https://www.sqlite.org/c3ref/progress_handler.html). Each
call has a `Deadline` of its own, and the handler checks the deadline of the call that is running.
So a stop that comes too late has no effect. It can't stop the statement of the next call, as
`interrupt()` can (invariant 24).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

from abt_db.errors import AbtDbError, CommitUnknownError, StatementTimeoutError

T = TypeVar("T")

GRACE = 0.05
"""Seconds after its time limit within which a statement that can be stopped has been stopped. If it
still runs after that, it is inside one long step of SQLite's virtual machine (a sort, a function of
a large value) and checks its deadline only when that step ends. So the caller gets its error then
and no longer waits."""

COMMIT_GRACE = 1.0
"""Further seconds that a caller waits if its COMMIT is running at the time limit. Nothing can stop
a COMMIT, and its outcome is worth that wait to the caller. (A caller whose error is to name the
holder of a lock also waits that long for the name.)"""


class Deadline:
    """The time limit of a call, and a flag to stop the call at once.

    Made and cancelled in the event loop, checked on the connection's thread. All fields are plain
    values that are only ever replaced as a whole, so no lock is needed.
    """

    __slots__ = ("at", "cancelled", "committing", "given_up")

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        """The limit on the clock of `time.monotonic()`; None: no limit."""
        self.cancelled = False
        self.given_up: AbtDbError | None = None
        """The error that the caller got before the call ended. If it is set when the call comes to
        its COMMIT, nothing of the call may be committed."""
        self.committing = False
        """Whether the call has reached its COMMIT, which nothing can stop."""

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return a deadline `seconds` from now; None: no limit."""
        return cls(None if seconds is None else monotonic() + seconds)

    def limited(self, seconds: float | None) -> None:
        """Bring the deadline forward to `seconds` from now, if that is earlier."""
        if seconds is not None:
            at = monotonic() + seconds
            if self.at is None or at < self.at:
                self.at = at

    def cancel(self) -> None:
        """Stop the call: it never starts, or SQLite stops its statement at the next check."""
        self.cancelled = True

    def give_up(self, what: str) -> AbtDbError:
        """Note, in the event loop, that the caller no longer waits, and return the error that it
        gets. `what` names the call in the message."""
        # Loop and thread each set their own flag (`given_up`, `committing`) before they read the
        # other's, so at least one of them sees both. If this one does not see `committing`, then
        # `may_commit` sees `given_up`: a COMMIT that the error does not mention never begins.
        self.given_up = StatementTimeoutError(f"{what} was stopped at its time limit")
        if self.committing:
            self.given_up = CommitUnknownError(
                f"{what}: its COMMIT was under way at the time limit, so it may be committed"
            )
        return self.given_up

    def may_commit(self) -> bool:
        """Note, on the connection's thread, that COMMIT comes next; return False if it must not
        run."""
        self.committing = True
        return self.given_up is None

    def passed(self) -> bool:
        """Whether the call must stop."""
        return self.cancelled or (self.at is not None and monotonic() >= self.at)

    def remaining(self) -> float | None:
        """Return the seconds that are left, never negative; None: no limit."""
        return None if self.at is None else max(0.0, self.at - monotonic())


NEVER = Deadline()
"""The deadline of work that must not be stopped. It has no limit and is never cancelled."""


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, however often the caller is cancelled meanwhile (invariant 11).

    If the caller was cancelled, raises `CancelledError` after that end, in place of the result or
    the error of `work`.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it as never retrieved
        raise cancelled
    return task.result()
