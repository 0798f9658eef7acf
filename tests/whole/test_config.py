"""Settings: refused when they can't work, and in force on every connection when they can."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine import Driver, items, lose_writer

from abt_db import AbtDbError, Config, ConfigError, Database, Query, QueryError, Session
from abt_db.maintenance import look_at, vacuum

MIB = 1024 * 1024

FLAGS = ["create", "immutable", "foreign_keys", "trusted_schema", "cell_size_check"]
SECONDS = ["batch_time", "busy_timeout", "close_timeout", "reader_idle_time"]
SECONDS_OR_NONE = [
    "acquire_timeout",
    "check_interval",
    "max_lifetime",
    "optimize_interval",
    "slow_query",
    "slow_transaction",
    "statement_timeout",
    "transaction_timeout",
    "watch_interval",
]
CHOICES = {
    "journal_mode": ["wal", "delete", "truncate", "persist"],
    "synchronous": ["normal", "full", "extra"],
    "temp_store": ["default", "file", "memory"],
}
SMALLEST = {
    "readers": 1,
    "batch_size": 1,
    "max_pending": 1,
    "cache_size": 0,
    "mmap_size": 0,
    "wal_autocheckpoint": 0,
    "wal_limit": 0,
    "statement_cache": 0,
    "max_value_size": 1024,
    "max_sql_size": 1024,
}
PAGE_SIZES = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
SETTINGS = [field.name for field in fields(Config)]


def made(name: str, value: Any) -> Any:
    """The setting of a Config that was made with it."""
    return getattr(Config(**{name: value}), name)


def refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^Config\.{name} must be .*, not "):
        made(name, value)


class TestValidation:
    """A value that can't work is refused where it is written, by an error that names the setting
    and what it takes."""

    def test_every_setting_has_a_test_here(self) -> None:
        tested = [
            *FLAGS,
            *SECONDS,
            *SECONDS_OR_NONE,
            *CHOICES,
            *SMALLEST,
            "page_size",
            "max_readers",
        ]
        assert sorted(tested) == sorted(SETTINGS)

    @pytest.mark.parametrize("name", FLAGS)
    def test_a_flag_is_a_bool_and_nothing_like_one(self, name: str) -> None:
        for value in (0, 1, "yes", None, 1.0, [True]):
            refused(name, value)
        assert made(name, False) is False

    @pytest.mark.parametrize("name", [*SECONDS, *SECONDS_OR_NONE])
    def test_seconds_are_a_finite_number_from_0(self, name: str) -> None:
        for value in (-1, -0.001, math.nan, math.inf, -math.inf, True, False, "5", [5], 5j):
            refused(name, value)
        for value in (0, 0.0, 5, 1e6):
            assert made(name, value) == value

    @pytest.mark.parametrize("name", [*SECONDS, *SECONDS_OR_NONE])
    def test_seconds_that_no_float_holds_are_refused(self, name: str) -> None:
        refused(name, 10**400)

    @pytest.mark.parametrize("name", SECONDS)
    def test_a_limit_that_must_be_there_is_not_none(self, name: str) -> None:
        refused(name, None)

    @pytest.mark.parametrize("name", SECONDS_OR_NONE)
    def test_a_limit_may_be_switched_off_with_none(self, name: str) -> None:
        assert made(name, None) is None

    @pytest.mark.parametrize("name", CHOICES)
    def test_a_choice_is_one_of_the_words(self, name: str) -> None:
        for value in ("", "off", CHOICES[name][0].upper(), None, 1, True, [CHOICES[name][0]]):
            refused(name, value)
        for word in CHOICES[name]:
            assert made(name, word) == word

    @pytest.mark.parametrize("name", SMALLEST)
    def test_a_size_or_number_is_an_int_within_its_bounds(self, name: str) -> None:
        too_small, too_large = SMALLEST[name] - 1, 2**63
        for value in (too_small, too_large, -1, True, 4096.0, math.nan, "4096", None, [4096]):
            refused(name, value)
        assert made(name, SMALLEST[name]) == SMALLEST[name]

    def test_the_size_of_a_page_is_a_power_of_two_that_sqlite_takes(self) -> None:
        for value in (0, 1, 256, 1000, 4097, 131072, -4096, 4096.0, True, "4096", [4096], math.nan):
            refused("page_size", value)
        for value in (None, *PAGE_SIZES):
            assert made("page_size", value) == value

    def test_most_readers_are_no_fewer_than_readers(self) -> None:
        for value in (3, 0, -1, 257, 4.0, "8", True):
            refused("max_readers", value)
        for value in (None, 4, 256):
            assert made("max_readers", value) == value

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            # SQLite reads these into 32 bits and takes what does not fit for 0: no cache at all,
            # and a write-ahead log that grows for ever.
            ("cache_size", 2**31 * 1024),
            ("wal_autocheckpoint", 2**31),
            # sqlite3.connect would raise OverflowError.
            ("statement_cache", 2**31),
            ("readers", 257),
            ("max_value_size", 2**31),
            ("max_sql_size", 2**31),
        ],
    )
    def test_what_sqlite_can_not_take_is_refused(self, name: str, value: int) -> None:
        refused(name, value)

    @given(
        st.sampled_from(SETTINGS),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.integers(min_value=-(10**500), max_value=10**500),
            st.floats(),
            st.text(),
            st.binary(),
            st.complex_numbers(),
            st.lists(st.integers(), max_size=1),
        ),
    )
    @settings(deadline=None)
    def test_nothing_but_a_config_error_comes_of_any_value(self, name: str, value: Any) -> None:
        try:
            kept = made(name, value)
        except ConfigError as error:
            assert name in str(error)
        else:
            assert kept is value

    def test_a_misspelt_setting_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="reader_count"):
            Config(reader_count=4)  # type: ignore[call-arg]

    def test_settings_have_names(self) -> None:
        with pytest.raises(TypeError):
            Config(4)  # type: ignore[call-arg]

    def test_a_config_does_not_change(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Config().readers = 5  # type: ignore[misc]

    def test_replace_checks_again(self) -> None:
        with pytest.raises(ConfigError, match="readers"):
            replace(Config(), readers=0)


class TestProfiles:
    """`durable` and `hardened` are the defaults with a few settings changed, and more can be."""

    def test_durable_differs_in_synchronous_alone(self) -> None:
        assert Config.durable() == Config(synchronous="full")

    def test_replicated_leaves_checkpoints_to_the_replicator(self) -> None:
        assert Config.replicated().wal_autocheckpoint == 0
        assert Config.replicated().wal_limit == 0
        assert Config.replicated().busy_timeout >= 5

    def test_hardened_is_durable_and_trusts_nobody(self) -> None:
        hardened = Config.hardened()
        assert hardened.synchronous == "full"
        assert hardened.mmap_size == 0
        assert not hardened.trusted_schema
        assert hardened.max_value_size < Config().max_value_size
        assert hardened.max_sql_size < Config().max_sql_size
        assert hardened.statement_timeout is not None

    @pytest.mark.parametrize("profile", [Config.durable, Config.hardened, Config.replicated])
    def test_changes_go_before_the_profile(self, profile: Callable[..., Config]) -> None:
        changed = profile(readers=7, synchronous="extra")
        assert (changed.readers, changed.synchronous) == (7, "extra")
        assert replace(changed, readers=4, synchronous=profile().synchronous) == profile()

    @pytest.mark.parametrize("profile", [Config.durable, Config.hardened, Config.replicated])
    def test_changes_are_checked(self, profile: Callable[..., Config]) -> None:
        with pytest.raises(ConfigError, match="readers"):
            profile(readers=True)
        with pytest.raises(TypeError, match="reader_count"):
            profile(reader_count=4)


PAGE_SIZE = Query("page_size", "PRAGMA page_size", int)

CHANGED = Config(
    readers=3,
    synchronous="extra",
    cache_size=8 * MIB,
    mmap_size=16 * MIB,
    temp_store="file",
    foreign_keys=False,
    wal_autocheckpoint=7,
    trusted_schema=not Config().trusted_schema,
    cell_size_check=False,
)
CONFIGS = {
    "default": Config(),
    "durable": Config.durable(),
    "hardened": Config.hardened(),
    "changed": CHANGED,
    "rollback journal": replace(CHANGED, journal_mode="persist", trusted_schema=True),
    "huge": Config(cache_size=2**40, wal_autocheckpoint=2**31 - 1),
    "no cache": Config(cache_size=0, mmap_size=0, wal_autocheckpoint=0, temp_store="default"),
}


def expected(config: Config, *, writes: bool) -> dict[str, object]:
    """What SQLite must answer, in its own numbers."""
    return {
        "busy_timeout": 10,
        "synchronous": {"normal": 1, "full": 2, "extra": 3}[config.synchronous],
        "cache_size": -config.cache_size // 1024,
        "mmap_size": config.mmap_size,
        "temp_store": {"default": 0, "file": 1, "memory": 2}[config.temp_store],
        "foreign_keys": int(config.foreign_keys),
        "wal_autocheckpoint": config.wal_autocheckpoint,
        "trusted_schema": int(config.trusted_schema),
        "cell_size_check": int(config.cell_size_check),
        "query_only": int(not writes),
        # Only WAL is the file's; how a rollback journal ends is the affair of who writes one.
        "journal_mode": config.journal_mode if writes or config.journal_mode == "wal" else "delete",
    }


def in_force(cx: Session) -> dict[str, object]:
    found = {}
    for name in expected(Config(), writes=True):
        row = cx.fetch_one(Query(f"pragma.{name}", f"PRAGMA {name}")())
        found[name] = row[0] if row is not None else 0  # mmap_size tells nothing in memory
    return found


async def on_each_reader(db: Database, look: Callable[[Session], Any]) -> list[Any]:
    """Call `look` on every reader: each is held by a snapshot, so no two are the same."""
    async with AsyncExitStack() as stack:
        snapshots = [
            await stack.enter_async_context(db.snapshot()) for _ in range(db.config.readers)
        ]
        return [await snapshot.read(look) for snapshot in snapshots]


class TestInForce:
    """Each setting holds on the writer and on every single reader, from the first call on."""

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    async def test_on_the_writer_and_each_reader(self, path: Path, config: Config) -> None:
        async with Database(path, config=config) as db:
            assert await db.write(in_force) == expected(config, writes=True)
            reading = await on_each_reader(db, in_force)
            assert reading == [expected(config, writes=False)] * config.readers

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    async def test_on_each_reader_of_a_read_only_database(self, path: Path, config: Config) -> None:
        async with items(path, journal_mode=config.journal_mode):
            pass
        async with Database(path, config=config, read_only=True) as db:
            reading = await on_each_reader(db, in_force)
            assert reading == [expected(config, writes=False)] * config.readers

    async def test_on_the_one_connection_of_a_database_in_memory(self) -> None:
        async with Database(":memory:", config=CHANGED) as db:
            unlike_a_file = {"journal_mode": "memory", "mmap_size": 0}
            assert await db.write(in_force) == expected(CHANGED, writes=True) | unlike_a_file

    async def test_on_a_connection_that_replaces_a_lost_one(self, path: Path) -> None:
        driver = Driver()
        async with Database(path, config=CHANGED, connect=driver.connect) as db:
            await lose_writer(db, driver)
            assert await db.write(in_force) == expected(CHANGED, writes=True)

    @pytest.mark.parametrize("size", PAGE_SIZES)
    @pytest.mark.parametrize("journal", ["wal", "delete"])
    async def test_the_size_of_a_page_in_a_new_file(
        self, path: Path, size: int, journal: Any
    ) -> None:
        async with items(path, "a", page_size=size, journal_mode=journal):
            pass
        assert look_at(path).page_size == size

    async def test_the_size_of_a_page_in_memory(self) -> None:
        async with items(":memory:", "a", page_size=8192) as db:
            assert await db.fetch_one(PAGE_SIZE()) == 8192

    @pytest.mark.parametrize("journal", ["wal", "delete"])
    async def test_a_file_that_is_there_keeps_the_size_of_its_pages(
        self, path: Path, journal: Any
    ) -> None:
        """Also when it is written anew by VACUUM."""
        async with items(path, "a", page_size=1024, journal_mode=journal):
            pass
        async with Database(path, config=Config(page_size=8192, journal_mode=journal)) as db:
            await vacuum(db)
        assert look_at(path).page_size == 1024

    async def test_the_length_of_a_value_on_each_connection(self, path: Path) -> None:
        long = Query("long", "SELECT hex(zeroblob(1000))", str)

        def too_long(cx: Session) -> bool:
            with pytest.raises(QueryError, match="too big"):
                cx.fetch_one(long())
            return True

        async with items(path, max_value_size=1999) as db:
            assert await db.write(too_long)
            assert all(await on_each_reader(db, too_long))
        async with Database(path, config=Config(max_value_size=2001)) as db:
            assert await db.fetch_one(long()) == "00" * 1000

    async def test_a_parameter_longer_than_that_is_refused(self, path: Path) -> None:
        add = Query("add", "INSERT INTO items (name) VALUES (:name)")
        async with items(path, max_value_size=2000) as db:
            with pytest.raises(QueryError, match="too big"):
                await db.execute(add(name="x" * 2001))
            await db.execute(add(name="x" * 1900))

    async def test_the_length_of_the_sql_on_each_connection(self, path: Path) -> None:
        def query(length: int) -> Query[int]:
            start = "SELECT 1 = '"
            return Query("padded", start + "x" * (length - len(start) - 1) + "'", int)

        def too_long(cx: Session) -> bool:
            with pytest.raises(AbtDbError, match="padded"):
                cx.fetch_one(query(2001)())
            return cx.fetch_one(query(2000)()) == 0

        async with items(path, max_sql_size=2000) as db:
            assert await db.write(too_long)
            assert all(await on_each_reader(db, too_long))

    async def test_the_number_of_prepared_statements(self, path: Path) -> None:
        sizes = []

        def connect(*args: Any, **options: Any) -> aiosqlite.Connection:
            sizes.append(options["cached_statements"])
            return aiosqlite.connect(*args, **options)

        async with Database(path, config=Config(readers=2, statement_cache=11), connect=connect):
            assert sizes == [11] * 3

    async def test_the_number_of_readers(self, path: Path) -> None:
        async with Database(path, config=Config(readers=7)) as db:
            assert db.stats()["readers"]["size"] == 7
