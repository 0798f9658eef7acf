"""The work of one hop: reads one after the other, or writes that share a transaction.

This module runs on a connection's thread. A hop to a thread and back costs ten times as much as a
short statement, and a commit costs several times as much. Calls that share a hop or a commit pay
only a small part of that. (With *group commit*, each caller is answered only after the COMMIT that
contains its write.)

Sharing must not be visible to callers: each call has its own result or error, as if it ran alone.
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

    The connection's thread takes the next call from the left end of `todo`. If a call turns out to
    be slow, the event loop takes the remaining ones back from the right end. The thread fills
    `done` and the event loop empties it, even while the hop goes on.
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
        """The moment after which no further call is begun."""
        self.busy = False
        """Whether another process's lock was in the way, so that the calls in `todo` have to be
        tried again."""
        self.since = self.began = monotonic()

    def next(self, limits: Limits) -> Call[Any] | None:
        """Take the next call whose caller still waits, and start its time; None if none is left."""
        while self.todo:
            try:
                call = self.todo.popleft()
            except IndexError:
                break  # the event loop took the last call first
            if call.begins(limits):
                self.current = call
                return call
            self.done.append(call)
        return None

    def put_back(self, calls: Iterable[Call[Any]]) -> None:
        """Put `calls` back at the front, in their order."""
        self.todo.extendleft(reversed([*calls]))


def alone(session: EngineSession, call: Call[Any], limits: Limits) -> bool:
    """Run one call in a hop of its own; return whether it has to be tried again because another
    process's lock was in the way."""
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
    """Run the calls of a batch, for as long as `limits` allow. Either all calls write, or none."""
    if batch.writes:
        # There is more than one transaction only if a call spoils the first.
        while batch.todo and not batch.busy and session.settled and monotonic() < batch.end:
            _transaction(session, batch, limits)
        return
    batch.end = monotonic() + limits.batch
    if len(batch.calls) == 1:
        _read_together(session, batch, limits)
        return
    # All calls came before the hop began, so one view of the database serves all of them (invariant
    # 6). Opening a view for each call would take longer than most of the calls.
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
    """Run a call that only reads; return whether it has to be tried again, as `alone` does."""
    # A read has no effects, so wherever it meets the lock, it can be run again.
    return (
        not _do(session, call)
        and isinstance(call.error, BusyError)
        and _waits(call, call.error, limits)
    )


def _transaction(session: EngineSession, batch: Batch, limits: Limits) -> None:
    """Run calls of the batch in one transaction and commit it.

    If one call spoils the transaction, it is rolled back: nothing of its calls is in the database.
    They go back into the batch, and the call that spoilt it, or may have, runs alone the next time.
    """
    call = batch.next(limits)
    if call is None:
        return
    try:
        session.begin("IMMEDIATE")
        # With deferred foreign keys, the COMMIT would not say which call broke one, and a row of
        # another call could satisfy a key that should have failed. So those calls share nothing.
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
        batch.end = monotonic() + limits.batch  # only now: the wait for the lock does not count
    # Also the calls that failed: their error may come from another call's uncommitted row.
    calls: list[Call[Any]] = []
    while call is not None:
        calls.append(call)
        before = session.changes
        if not _do(session, call):
            # Usually SQLite has undone the statement, and only that. But OR ROLLBACK, a full disk
            # and some other errors end the whole transaction (invariant 8), OR FAIL leaves half of
            # the statement's changes, and a returned row that can't be mapped leaves all of them.
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
            session.rollback()  # nothing to commit, and no other call's row caused an error
        elif late := [call for call in calls if not call.may_commit()]:
            # Their callers have got their time limit's error, which says that nothing was written.
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
    """Put the calls back to be run again, the spoiler in a transaction of its own. If the spoiler
    was the only call, it has failed and is done."""
    if len(calls) == 1:
        batch.done.extend(calls)
        return
    for call in calls:
        call.error = None
        call.committing = False
    spoiler.shares = False
    batch.put_back(calls)


def _do(session: EngineSession, call: Call[Any]) -> bool:
    """Run one call; return whether it succeeded."""
    session.deadline = call
    try:
        call.result = call.function(session, *call.arguments)
    except BaseException as error:  # whatever a caller's function raises is for that caller
        call.error = error
        call.ended = monotonic()
        return False
    call.ended = monotonic()
    return True


def _roll_back(session: EngineSession, first: BaseException | None) -> None:
    """Roll the transaction back. If that fails, its error is added as a note to `first` (invariant
    10), and the connection, which is still in the transaction, is replaced later."""
    try:
        session.close_cursors()
        session.rollback()
    except Exception as error:
        if first is not None:
            first.add_note(f"The rollback failed as well: {error}")


def _fail(call: Call[Any], error: BaseException) -> None:
    """Fail a call with an error of its BEGIN or COMMIT, which several calls may have in common."""
    mine = copy.copy(error)  # raising it in each caller adds that caller's traceback
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
    """Whether a call that met the lock may go on waiting for it. If not, the call has failed."""
    now = monotonic()
    if now < call.began + limits.busy and not call.passed():
        call.error = None
        return True
    call.refused = True
    _fail(call, gave_up(error, now - call.began, limits.who()))
    return False


def _wait_together(batch: Batch, error: BeginBusyError, limits: Limits) -> None:
    """Keep in the batch the calls that may go on waiting for the lock; fail the others."""
    limits = replace(limits, who=cache(limits.who))  # asked once for all of them
    waiting = []
    while (call := batch.next(limits)) is not None:
        if _waits(call, error, limits):
            waiting.append(call)
        else:
            batch.done.append(call)
    batch.put_back(waiting)
    batch.busy = bool(waiting)
