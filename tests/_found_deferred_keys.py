"""Found, and not repaired: a group commit heals a deferred foreign key that one of its members has
violated, if a later member happens to make up for it. Alone, the first would have been refused.

SQLite counts deferred violations and checks the count at COMMIT only; the count itself
(SQLITE_DBSTATUS_DEFERRED_FKS) is not to be had from Python's sqlite3, and there is no statement
that asks for it inside a transaction. What would do: not to share a commit where the schema has
a deferred key, or to run those members alone whose tables have one (the authorizer tells).
"""

from __future__ import annotations

from pathlib import Path

from engine import ADD
from test_group_commit import ADD_CHILD, tables, together

from abt_db import IntegrityError
from abt_db.session import Result


async def test_nobody_makes_up_for_what_another_has_violated(path: Path) -> None:
    """faults.md 26: one by one, there is no second item when the child is added."""
    async with tables(path) as db:
        results = await together(db, db.execute(ADD_CHILD(parent=2)), db.execute(ADD(name="a")))
        assert [type(result) for result in results] == [IntegrityError, Result]
