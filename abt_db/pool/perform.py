"""What is done in one thread hop: reads one after the other, or writes in one transaction.

This runs on a connection's thread. The way to that thread and back costs ten times as much as a
short statement, and a COMMIT several times as much; calls that share a hop or a COMMIT pay for it
together (*group commit*: a caller is answered only after the COMMIT that has its write in it).

Callers do not notice the sharing: each has its own result or error, as if its call had been alone.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from math import inf
from time import monotonic
from typing import Any

from abt_db.connection.busy import gave_up
from abt_db.connection.transaction import EngineSession
from abt_db.errors import BeginBusyError, BusyError, QueryError

from .call import Call, Limits


class Batch:
    """The calls of one hop.

    Two threads use `todo` at once: the connection's thread takes the next call from the left, and
    the event loop takes calls back from the right when the running one turns out to be slow. The
    connection's thread fills `done`, and the loop empties it, also while the hop goes on.
    """

    __slots__ = ("began", "busy", "calls", "current", "done", "end", "since", "todo", "writes")

    def __init__(self, calls: Sequence[Call[Any]]) -> None:
        self.calls = calls
        self.writes = calls[0].writes
        self.todo = deque(calls)
        self.done: deque[Call[Any]] = deque()
        self.current: Call[Any] | None = None
        """The call that was begun last."""
        self.end = inf
        """After this moment no further call of the batch is begun."""
        self.busy = False
        """Whether another process's lock was in the way: the calls that are left
        are tried again."""
        self.since = self.began = monotonic()

    def next(self, limits: Limits) -> Call[Any] | None:
        """Take the next call whose caller still waits, and start its clock."""
        while self.todo:
            try:
                call = self.todo.popleft()
            except IndexError:
                break  # the loop was faster
            if call.begins(limits):
                self.current = call
                return call
            self.done.append(call)
        return None

    def put_back(self, calls: Iterable[Call[Any]]) -> None:
        """Put calls back, in their order, as the next ones."""
        self.todo.extendleft(reversed([*calls]))


def alone(session: EngineSession, call: Call[Any], limits: Limits) -> bool:
    """Perform one call alone. Return whether to try it again, because another process's lock was in
    the way."""
    if not call.begins(limits):
        return False
    if not call.writes:
        return _read(session, call, limits)
    try:
        session.begin("IMMEDIATE")
    except BeginBusyError as error:
        return _waits(call, error, limits)
    except Exception as error:
        _fail(call, error)
        return False
    if not _do(session, call):
        _roll_back(session, call.error)
        return False
    try:
        session.commit()
    except BaseException as error:
        _roll_back(session, error)
        _fail(call, error)
    return False


def together(session: EngineSession, batch: Batch, limits: Limits) -> None:
    """Perform the calls of a batch, which all write or all read, for as long as the limits
    allow."""
    if batch.writes:
        # There is more than one transaction only if a call spoils the first.
        while batch.todo and not batch.busy and session.settled and monotonic() < batch.end:
            _transaction(session, batch, limits)
        return
    batch.end = monotonic() + limits.batch
    if len(batch.calls) == 1:
        _read_together(session, batch, limits)
        return
    # All calls came before the hop began, so one view of the database serves them all (invariant
    # 6). To open one for each would take longer than most of the calls do.
    try:
        with session.view():
            _read_together(session, batch, limits)
    except Exception as error:
        # SQLite could not open or close the view.
        while (call := batch.next(limits)) is not None:
            _fail(call, error)
            batch.done.append(call)


def _read_together(session: EngineSession, batch: Batch, limits: Limits) -> None:
    while (call := batch.next(limits)) is not None:
        if _read(session, call, limits):
            batch.put_back([call])
            batch.busy = True
            return
        batch.done.append(call)
        if call.ended >= batch.end:
            return


def _read(session: EngineSession, call: Call[Any], limits: Limits) -> bool:
    """Perform a call that reads; returns as `alone` does."""
    # A read has no effects: wherever it met the lock, it can begin anew.
    return (
        not _do(session, call)
        and isinstance(call.error, BusyError)
        and _waits(call, call.error, limits)
    )


def _transaction(session: EngineSession, batch: Batch, limits: Limits) -> None:
    """Perform calls in one transaction and commit it.

    If a call spoils the transaction, it is rolled back and its calls go back to the batch; the call
    that spoiled it, or may have, is alone in its transaction the next time.
    """
    call = batch.next(limits)
    if call is None:
        return
    try:
        session.begin("IMMEDIATE")
        # A call that breaks a deferred foreign key could be saved by the row of another call, or
        # fail the COMMIT of all, and SQLite would not say which call it was.
        shared = bool(batch.todo) and call.shares and not session.has_deferred_keys()
    except BeginBusyError as error:
        batch.put_back([call])
        _wait_together(batch, error, limits)
        return
    except Exception as error:
        _roll_back(session, error)
        _fail(call, error)
        batch.done.append(call)
        return

    if batch.end == inf:
        batch.end = monotonic() + limits.batch  # the wait for the lock does not count
    # Failed calls too: the row that a call collided with may be one of this transaction, which is
    # not committed yet.
    calls: list[Call[Any]] = []
    while call is not None:
        calls.append(call)
        before = session.changes
        if not _do(session, call):
            # Usually SQLite undoes the failed statement, and only that. But OR ROLLBACK, a full
            # disk and some other errors end the whole transaction (invariant 8), OR FAIL leaves the
            # first half of the statement, and an error of row mapping leaves all of it.
            undone = session.in_transaction and (call.savepoint or session.changes == before)
            if not undone or not call.shares:
                _roll_back(session, call.error)
                _put_apart(batch, calls, call)
                return
        if not shared or call.ended >= batch.end or not (batch.todo and batch.todo[0].shares):
            break
        call = batch.next(limits)

    try:
        if all(call.error is not None for call in calls):
            session.rollback()  # there is nothing to commit, nor anybody to have been in the way
        elif late := [call for call in calls if not call.may_commit()]:
            # Their callers have been told that nothing was written.
            _roll_back(session, None)
            _put_apart(batch, calls, late[0])
            return
        else:
            session.commit()
    except BaseException as error:
        _roll_back(session, error)
        for call in calls:
            _fail(call, error)
    batch.done.extend(calls)


def _put_apart(batch: Batch, calls: list[Call[Any]], spoiler: Call[Any]) -> None:
    """Put calls back to be performed again, the spoiler alone. A spoiler that was alone has
    failed."""
    if len(calls) == 1:
        batch.done.extend(calls)
        return
    for call in calls:
        call.error = None
        call.committing = False
    spoiler.shares = False
    batch.put_back(calls)


def _do(session: EngineSession, call: Call[Any]) -> bool:
    """Run the function of one call; return whether it raised nothing."""
    session.deadline = call
    try:
        call.result = call.function(session, *call.arguments)
    except BaseException as error:  # of a caller's function, whatever it is: the caller gets it
        call.error = error
        call.ended = monotonic()
        return False
    call.ended = monotonic()
    return True


def _roll_back(session: EngineSession, first: BaseException | None) -> None:
    """Roll back. An error of that is noted on the first error (invariant 10); the connection, which
    is still in the transaction then, is replaced."""
    try:
        session.close_cursors()
        session.rollback()
    except Exception as error:
        if first is not None:
            first.add_note(f"The rollback failed as well: {error}")


def _fail(call: Call[Any], error: BaseException) -> None:
    """Fail a call by an error of its BEGIN or COMMIT, which other calls may have in common."""
    mine = copy.copy(error)  # raising it adds the traceback of one caller
    mine.__cause__ = error.__cause__
    if isinstance(mine, QueryError) and mine.query is None and not isinstance(call.what, str):
        mine.query, mine.sql = call.what.name, call.what.sql
        mine.args = (f"query {mine.query!r}: {error}",)
        notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith("SQL: ")]
        mine.__notes__ = [f"SQL: {mine.sql}", *notes]
    call.error = mine
    call.ended = monotonic()


# -- another process's lock ----------------------------------------------------------------------


def _waits(call: Call[Any], error: BusyError, limits: Limits) -> bool:
    """Return whether a call that met the lock may wait on; if not, it has failed."""
    now = monotonic()
    if now < call.began + limits.busy and not call.passed():
        call.error = None
        return True
    call.refused = True
    _fail(call, gave_up(error, now - call.began, limits.who()))
    return False


def _wait_together(batch: Batch, error: BeginBusyError, limits: Limits) -> None:
    """Keep the calls that may wait on for the lock, fail the others."""
    limits = replace(limits, who=cache(limits.who))  # asked once for all calls
    waiting = []
    while (call := batch.next(limits)) is not None:
        if _waits(call, error, limits):
            waiting.append(call)
        else:
            batch.done.append(call)
    batch.put_back(waiting)
    batch.busy = bool(waiting)
