"""Time limits and cancellation: how the statement that is running is stopped, and only that one.

SQLite calls a *progress handler* every so many steps of its virtual machine, and a true answer
stops the statement (https://www.sqlite.org/c3ref/progress_handler.html). Each call brings a
`Deadline` of its own and the handler asks that of the call that runs at this moment, so a stop that
comes late finds nobody: it can't hit the next call's statement as `interrupt()` can (invariant 24).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

from abt_db.errors import AbtDbError, CommitUnknownError, StatementTimeoutError

T = TypeVar("T")

GRACE = 0.05
"""Seconds behind its limit in which a statement that can be stopped is stopped. Its caller is freed
after that: the statement is inside one long step of SQLite's virtual machine (a sort, a function of
a large value), and sees its deadline at the end of that step."""

COMMIT_GRACE = 1.0
"""Seconds more in which a COMMIT that is under way can end. Nothing stops it, and what has become
of it is worth that wait to its caller. (The same for one that looks who holds the lock.)"""


class Deadline:
    """The end of the time that a call has, and a flag to end it at once.

    Made and cancelled in the event loop, asked on the connection's thread. All fields are plain
    values that are only ever replaced whole, so no lock is needed.
    """

    __slots__ = ("at", "cancelled", "committing", "given_up")

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        """The moment on the clock of `time.monotonic()`; None: no limit."""
        self.cancelled = False
        self.given_up: AbtDbError | None = None
        """What the caller was freed with before the call ended: nothing of it may be committed."""
        self.committing = False
        """Whether the call has come to its COMMIT, which nothing stops."""

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """A deadline that many seconds from now; None: no limit."""
        return cls(None if seconds is None else monotonic() + seconds)

    def limited(self, seconds: float | None) -> None:
        """Bring the deadline forward to `seconds` from now, if that is earlier."""
        if seconds is not None:
            at = monotonic() + seconds
            if self.at is None or at < self.at:
                self.at = at

    def cancel(self) -> None:
        """Stop the call: it never starts, or its statement ends at its next step."""
        self.cancelled = True

    def give_up(self, what: str) -> AbtDbError:
        """Note, in the event loop, that the caller waits no longer; return what it is told of
        `what` it was waiting for."""
        # Each side sets its own mark before it reads that of the other, so at least one of them
        # sees both: a COMMIT that the caller is not told of never begins.
        self.given_up = StatementTimeoutError(f"{what} was stopped at its time limit")
        if self.committing:
            self.given_up = CommitUnknownError(
                f"{what}: its COMMIT was under way at the time limit, so it may be committed"
            )
        return self.given_up

    def may_commit(self) -> bool:
        """Note, on the connection's thread, that a COMMIT comes next; False if it must not."""
        self.committing = True
        return self.given_up is None

    def passed(self) -> bool:
        """Whether the call must stop."""
        return self.cancelled or (self.at is not None and monotonic() >= self.at)

    def remaining(self) -> float | None:
        """Seconds that are left, never negative; None: no limit."""
        return None if self.at is None else max(0.0, self.at - monotonic())


NEVER = Deadline()
"""That of work which must not be stopped; nobody cancels it."""


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, however often the caller is cancelled meanwhile (invariant 11).

    A cancellation is passed on after the end, in place of the result or the error of `work`.
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
            task.exception()  # looked at, so that asyncio does not report it as forgotten
        raise cancelled
    return task.result()
