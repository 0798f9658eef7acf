"""Faults of SQLite's versions that can damage a database, or give wrong results, as we use it.

Those that need SQL or a file made by an attacker are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them."""

    since: tuple[int, ...]
    fixed: tuple[int, ...]
    text: str
    """What such a version can do."""
    more: str = ""
    """What there is to say beside that."""
    fixed_also: tuple[tuple[int, ...], ...] = ()
    """Older versions that have the correction as well."""
    wal: bool = False
    """Whether it concerns WAL databases alone."""


FAULTS = (
    # https://www.sqlite.org/wal.html#walresetbug
    Fault(
        (3, 7, 0),
        (3, 51, 3),
        "can, very rarely, damage a WAL database when two connections write or checkpoint at the"
        " same moment",
        more="; a Database has one connection that does, so it takes a second process that writes",
        fixed_also=((3, 44, 6), (3, 50, 7)),
        wal=True,
    ),
    # https://www.sqlite.org/releaselog/3_37_2.html
    Fault(
        (3, 35, 0),
        (3, 37, 2),
        "can damage a database when a savepoint is rolled back and temp_store is memory, as it is"
        " by default in Config",
    ),
    # https://www.sqlite.org/releaselog/3_35_5.html
    Fault((3, 35, 0), (3, 35, 5), "can damage a database by ALTER TABLE DROP COLUMN"),
    # https://www.sqlite.org/releaselog/3_38_3.html
    Fault((3, 38, 0), (3, 38, 3), "can leave out rows of some joins"),
)


def faults_of(version: str, *, wal: bool) -> Iterator[Fault]:
    """Yield those that a version has, in a WAL database or in another one."""
    number = tuple(map(int, version.split(".")))
    for fault in FAULTS:
        concerned = wal or not fault.wal
        if concerned and fault.since <= number < fault.fixed and number not in fault.fixed_also:
            yield fault
