"""The protocol of leases against a model of it: any steps, by anyone, with time as a variable."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import abt_db.locks.table
from abt_db import Database, LockLostError, Query, Session
from abt_db.locks.table import LOCKS_TABLE, clear_locks, fence, find, grant, release, renew

CREATE = Query("create", "CREATE TABLE written (id INTEGER PRIMARY KEY, token INTEGER)")
WRITE = Query("write", "INSERT INTO written (token) VALUES (:token)")
ROWS = Query("rows", "SELECT count(*) FROM distributed_locks WHERE resource_id = 'a'", int)
WRITTEN = Query("written", "SELECT token FROM written ORDER BY id", int)

HOUR = 3_600_000
holders = st.integers(0, 2)
GONE = 3
ttls = st.sampled_from([10, 1000, 30_000])


def write(cx: Session, token: int) -> None:
    """What a transaction with a lease does."""
    fence(cx, "a", token)
    cx.execute(WRITE(token=token))


class Protocol(RuleBasedStateMachine):
    """Three who want one lock. Each remembers the last lease that it was given, and goes on using
    it, for it may have slept meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50 * HOUR
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(abt_db.locks.table, "milliseconds", lambda: self.now)
        self.patch.setattr(abt_db.locks.table, "wall", lambda: self.wall)
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.db = Database(Path(self.folder.name) / "app.db")
        self.runner.run(self.db.open())
        self.runner.run(self.db.execute_batch([LOCKS_TABLE(), CREATE()]))
        # What each was given: its owner, its token, and until when it was told to have it.
        self.given: list[tuple[str, int, int]] = [("", 0, 0)] * 3
        # The model: whose lease it is, until when, and how many there were.
        self.holder: int | None = None
        self.until = self.ttl = 0
        self.tokens = 0

    def teardown(self) -> None:
        self.runner.run(self.db.close())
        self.runner.close()
        self.folder.cleanup()
        self.patch.undo()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.runner.run(self.db.write(function, *arguments))

    @property
    def taken(self) -> bool:
        """Whether somebody has the lock, by the model."""
        return self.holder is not None and self.now < self.until <= self.now + self.ttl

    def has(self, who: int) -> bool:
        return self.taken and self.holder == who

    @rule(who=holders, ttl=ttls)
    def ask(self, who: int, ttl: int) -> None:
        free = not self.taken
        holder = {"host": "h", "pid": 1, "task": "t", "wanted": 0, "ttl": ttl}
        owner = uuid4().hex
        granted = self.run(grant, "a", {**holder, "owner": owner})
        assert (granted is not None) == free
        if granted is not None:
            token, until = granted
            assert token == self.tokens + 1
            assert until == self.now + ttl
            self.given[who] = owner, token, until
            self.holder, self.until, self.ttl, self.tokens = who, until, ttl, token

    @rule(who=holders)
    def renew(self, who: int) -> None:
        owner, token, _ = self.given[who]
        until = self.run(renew, "a", token, self.ttl)
        assert until == (self.now + self.ttl if self.has(who) else None)
        if until is not None:
            self.given[who] = owner, token, until
            self.until = until

    @rule(who=holders)
    def release(self, who: int) -> None:
        had = self.has(who)
        assert (self.run(release, "a", self.given[who][0]) is not None) == had
        if had:
            self.holder = None

    @rule()
    def break_it(self) -> None:
        info = self.runner.run(self.db.lock_info("a"))
        assert (info is not None) == self.taken
        if info is not None:
            assert self.runner.run(self.db.break_lock(info))
            self.holder = None

    @rule()
    def clear(self) -> None:
        held = self.runner.run(self.db.read(find, "a"))
        self.run(clear_locks)
        assert self.runner.run(self.db.read(find, "a")) == held
        assert self.runner.run(self.db.fetch_one(ROWS())) == (held is not None)
        if not self.taken:
            self.holder = None  # also where the machine's clock could have made it seem alive again

    @rule(who=holders)
    def write(self, who: int) -> None:
        had = self.has(who)
        try:
            self.run(write, self.given[who][1])
        except LockLostError:
            assert not had
        else:
            assert had

    @rule(milliseconds=st.sampled_from([1, 9, 10, 999, 1000, 29_999, 30_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule(hours=st.integers(-24, 24))
    def somebody_sets_the_clock(self, hours: int) -> None:
        self.wall += timedelta(hours=hours)

    @rule()
    def the_machine_starts_anew(self) -> None:
        self.now = 1000 if self.now > 40 * HOUR else 50 * HOUR
        # Who held the lock is gone, with all that anybody remembers. Its lease may be taken for one
        # that holds, if this clock comes to the same time, but for no longer than its ttl.
        self.given = [("", 0, 0)] * 3
        self.holder = None if self.holder is None else GONE

    @invariant()
    def nothing_stale_was_written(self) -> None:
        written = self.runner.run(self.db.fetch_all(WRITTEN()))
        assert written == sorted(written)

    @invariant()
    def the_row_says_who_has_it(self) -> None:
        info = self.runner.run(self.db.read(find, "a"))
        assert (info is not None) == self.taken
        if info is not None:
            assert (info.token, info.until) == (self.tokens, self.until)


Protocol.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestProtocol = Protocol.TestCase
TestProtocol.__doc__ = """Grants exclude each other, tokens only grow, nothing stale is written."""
