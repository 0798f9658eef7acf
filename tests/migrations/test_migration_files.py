"""Migrations are read from files strictly: understood, or an error that names the file."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abt_db import Database
from abt_db.errors import MigrationFailedError, MigrationFileError, MigrationOrderError
from abt_db.migrations import Migrator
from abt_db.migrations.loader import load_migrations
from abt_db.migrations.model import Migration, in_order
from abt_db.migrations.scaffold import new_migration


def migration(version: int, *dependencies: int, **changes: Any) -> Migration:
    values = {"description": "a step", "up": "SELECT 1;", "down": None} | changes
    return Migration(version=version, dependencies=dependencies, **values)


def fill(directory: Path, files: dict[str, str | bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        raw = content.encode() if isinstance(content, str) else content
        (directory / name).write_bytes(raw)
    return directory


class TestMigration:
    """A migration that exists can be applied as far as its values and its text go."""

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"version": 0}, "version must"),
            ({"version": 2**63}, "version must"),
            ({"version": "1"}, "version must"),
            ({"version": True}, "version must"),
            ({"description": " "}, "description must"),
            ({"description": "two\nlines"}, "description must"),
            ({"description": None}, "description must"),
            ({"up": None}, "up must be SQL"),
            ({"down": b""}, "up must be SQL"),
            ({"dependencies": 3}, "dependencies must"),
            ({"dependencies": "3"}, "dependencies must"),
            ({"dependencies": [0]}, "dependencies must"),
            ({"dependencies": (7,)}, "depends on itself"),
            ({"timeout": 0}, "timeout must"),
            ({"timeout": float("nan")}, "timeout must"),
            ({"timeout": float("inf")}, "timeout must"),
            ({"timeout": True}, "timeout must"),
            ({"timeout": "300"}, "timeout must"),
            ({"transactional": 1}, "transactional must"),
            ({"up": "SELECT 1;\nSELECT 'x"}, r"\(up\), line 2: the string"),
            ({"down": "SELECT '\0'"}, r"\(down\), line 1: it holds a NUL"),
        ],
    )
    def test_a_value_that_can_not_be_one_is_refused(
        self, changes: dict[str, Any], problem: str
    ) -> None:
        values: dict[str, Any] = {
            "version": 7,
            "description": "x",
            "up": "",
            "down": None,
        } | changes
        with pytest.raises(
            MigrationFileError, match=f"^migration {values['version']!r}.*{problem}"
        ):
            Migration(**values)

    def test_line_ends_and_a_byte_order_mark_make_no_difference(self) -> None:
        windows = migration(1, up="\ufeffSELECT 1;\r\nSELECT\r\n2;", down="\ufeffDROP TABLE\r\nx;")
        unix = migration(1, up="SELECT 1;\nSELECT\n2;", down="DROP TABLE\nx;")
        assert windows == unix
        assert windows.checksum == unix.checksum
        assert windows.checksum == hashlib.sha256(b"SELECT 1;\nSELECT\n2;").hexdigest()

    def test_a_lone_carriage_return_stays_for_it_ends_no_comment(self) -> None:
        assert migration(1, up="-- x\rSELECT 1;").up == "-- x\rSELECT 1;"

    def test_only_what_was_applied_is_held_against_the_file(self) -> None:
        one = migration(1, down="DROP TABLE a;")
        assert one.checksum == migration(1, down="DROP TABLE b;", timeout=9).checksum
        assert one.checksum != migration(1, up="SELECT 2;").checksum

    def test_where_it_comes_from_makes_no_difference(self) -> None:
        assert migration(1, origin="a") == migration(1, origin="b")
        assert migration(1).origin == "migration 1"


class TestOrder:
    """Migrations are applied in the order of their versions, each behind its dependencies."""

    def versions(self, *migrations: Migration) -> list[int]:
        return [each.version for each in in_order(migrations)]

    def test_without_dependencies_it_is_that_of_the_versions(self) -> None:
        assert self.versions(migration(20240131120000), migration(3), migration(10)) == [
            3,
            10,
            20240131120000,
        ]

    def test_a_dependency_comes_first(self) -> None:
        assert self.versions(migration(1, 3), migration(2), migration(3, 4), migration(4)) == [
            2,
            4,
            3,
            1,
        ]

    @given(st.data())
    def test_any_order_given_leads_to_the_one_order(self, data: st.DataObject) -> None:
        ranks = data.draw(st.permutations(range(1, 8)))  # a dependency has a smaller rank
        steps = [
            migration(
                version, *(v for v in range(1, 8) if ranks[v - 1] < rank and data.draw(MAYBE))
            )
            for version, rank in enumerate(ranks, start=1)
        ]
        ordered = self.versions(*data.draw(st.permutations(steps)))
        assert sorted(ordered) == list(range(1, 8))
        for place, version in enumerate(ordered):
            done = set(ordered[:place])
            ready = [s.version for s in steps if done >= set(s.dependencies)]
            assert version == min(set(ready) - done)

    def test_a_version_that_is_there_twice_is_refused(self) -> None:
        with pytest.raises(MigrationOrderError, match="version 2 is there twice: a and b"):
            in_order([migration(2, origin="a"), migration(1), migration(2, origin="b")])
        same = migration(1)
        with pytest.raises(MigrationOrderError, match="version 1 is there twice"):
            in_order([same, same])

    def test_an_unknown_dependency_is_refused(self) -> None:
        with pytest.raises(MigrationOrderError, match=r"^migration 2: it depends on version 9,"):
            in_order([migration(1), migration(2, 1, 9)])

    def test_a_cycle_is_named(self) -> None:
        steps = [migration(1), migration(2, 4), migration(3, 2), migration(4, 1, 3)]
        with pytest.raises(MigrationOrderError) as caught:
            in_order(steps)
        _, _, cycle = str(caught.value).partition(": ")
        circle = [int(name.removeprefix("migration ")) for name in cycle.split(" before ")]
        assert circle[0] == circle[-1]
        assert set(circle) == {2, 3, 4}
        for before, after in pairwise(circle):
            assert before in steps[after - 1].dependencies


MAYBE = st.booleans()


class TestPairs:
    """Two files are a step and its way back."""

    def test_a_directory_gives_its_migrations_in_order(self, tmp_path: Path) -> None:
        fill(
            tmp_path,
            {
                "20240131120000_third-step.v2.up.sql": "SELECT 3;",
                "20240131120000_third-step.v2.down.sql": "SELECT -3;",
                "0002_second__step.up.sql": "-- depends: 10\nSELECT 2;",
                "0002_second__step.down.sql": "",
                "10_x.up.sql": "\ufeff-- nothing to do\r\n",
            },
        )
        assert load_migrations(tmp_path) == (
            migration(10, description="x", up="-- nothing to do\n"),
            migration(2, 10, description="second step", up="-- depends: 10\nSELECT 2;", down=""),
            migration(
                20240131120000, description="third step.v2", up="SELECT 3;", down="SELECT -3;"
            ),
        )

    def test_an_empty_directory_gives_none(self, tmp_path: Path) -> None:
        assert load_migrations(tmp_path) == ()

    def test_it_knows_its_file(self, tmp_path: Path) -> None:
        fill(tmp_path, {"0001_a.up.sql": "SELECT 1;", "0001_a.down.sql": "SELECT 2;"})
        (only,) = load_migrations(tmp_path)
        assert only.origin == str(tmp_path / "0001_a.up.sql")

    def test_what_is_known_to_be_no_migration_is_passed_over(self, tmp_path: Path) -> None:
        names = [
            "__init__.py",
            "README",
            "README.md",
            "schema.sql",
            ".gitkeep",
            ".0001_a.up.sql.swp",
        ]
        fill(tmp_path, dict.fromkeys(names, "not SQL '"))
        (tmp_path / "__pycache__").mkdir()
        assert load_migrations(tmp_path) == ()


class TestHeaders:
    """Comments before the first statement say what the name of a file can't."""

    def load(self, tmp_path: Path, sql: str) -> Migration:
        (only,) = load_migrations(fill(tmp_path, {"0007_a.up.sql": sql}))
        return only

    def test_each_header_sets_its_value(self, tmp_path: Path) -> None:
        fill(tmp_path, {"1_x.up.sql": "", "0002_y.up.sql": ""})
        sql = (
            "\ufeff\r\n/* -- timeout: 1 */\r\n--Description:  what: it does \r\n"
            "-- depends: 1, 0002\r\n;-- timeout: 1.5\r\n-- no-transaction\r\nVACUUM;"
        )
        loaded = load_migrations(fill(tmp_path, {"0007_a.up.sql": sql}))[-1]
        assert loaded.description == "what: it does"
        assert loaded.dependencies == (1, 2)
        assert loaded.timeout == 1.5
        assert loaded.transactional is False

    def test_without_headers_the_name_and_the_defaults_hold(self, tmp_path: Path) -> None:
        loaded = self.load(tmp_path, "SELECT 1; -- timeout: 5\n-- no-transaction\n")
        assert loaded == migration(7, description="a", up=loaded.up)
        assert loaded.timeout == 300
        assert loaded.transactional is True

    @pytest.mark.parametrize(
        "comment",
        [
            "-- Copyright: someone",
            "-- https://www.sqlite.org/lang.html: the manual",
            "-- The description of the table follows.",
            "-- timeout",
            "-- times: in seconds",
            "----------",
            "--",
            "-- note: depends: 3",
            "/* depends: 3 */",
        ],
    )
    def test_another_comment_is_a_comment(self, tmp_path: Path, comment: str) -> None:
        assert self.load(tmp_path, f"{comment}\nSELECT 1;").dependencies == ()

    @pytest.mark.parametrize(
        ("header", "problem"),
        [
            ("-- descripton: x", "no header is called 'descripton'; did you mean 'description'"),
            ("-- Depend: 1", "did you mean 'depends'"),
            ("-- dependencies: 1", "did you mean 'depends'"),
            ("-- depends on: 1", "did you mean 'depends'"),
            ("-- time-out: 1", "did you mean 'timeout'"),
            ("-- no_transaction", "did you mean 'no-transaction'"),
            ("-- no transaction", "did you mean 'no-transaction'"),
            ("-- notransaction: yes", "did you mean 'no-transaction'"),
            ("-- description:", "'-- description' can't be understood"),
            ("-- depends:", "'-- depends' can't be understood"),
            ("-- depends: 1 2", "'-- depends' can't be understood"),
            ("-- depends: " + "9" * 5000, "'-- depends' can't be understood"),
            ("-- timeout: 5 minutes", "'-- timeout' can't be understood"),
            ("-- timeout: 1_0", "'-- timeout' can't be understood"),
            ("-- timeout: inf", "'-- timeout' can't be understood"),
            ("-- no-transaction: true", "'-- no-transaction' can't be understood"),
            ("-- timeout: 1\n-- timeout: 1", "a second '-- timeout'"),
        ],
    )
    def test_one_that_can_not_be_meant_so_is_an_error_with_its_line(
        self, tmp_path: Path, header: str, problem: str
    ) -> None:
        with pytest.raises(MigrationFileError) as caught:
            self.load(tmp_path, f"-- fine\n{header}\nSELECT 1;")
        line = 2 + header.count("\n")
        assert str(caught.value).startswith(f"{tmp_path / '0007_a.up.sql'}: line {line}: ")
        assert problem in str(caught.value)

    def test_a_value_that_can_not_be_one_names_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(MigrationFileError, match=r"0007_a\.up\.sql: the timeout must"):
            self.load(tmp_path, "-- timeout: 0")


class TestJson:
    """One file is a whole migration."""

    def load(self, tmp_path: Path, text: str | bytes) -> Migration:
        (only,) = load_migrations(fill(tmp_path, {"0003_add_tags.json": text}))
        return only

    def test_every_value_can_be_given(self, tmp_path: Path) -> None:
        values = {
            "version": 3,
            "description": "tags",
            "up_sql": "SELECT 1;\r\n",
            "down_sql": "SELECT 2;",
            "dependencies": [1],
            "timeout": 5,
            "transactional": False,
        }
        fill(tmp_path, {"0003_tags.json": "\ufeff" + json.dumps(values), "1_x.up.sql": ""})
        loaded = load_migrations(tmp_path)[1]
        assert loaded == Migration(3, "tags", "SELECT 1;\n", "SELECT 2;", (1,), 5, False)
        assert loaded.origin == str(tmp_path / "0003_tags.json")

    def test_version_and_up_are_enough(self, tmp_path: Path) -> None:
        loaded = self.load(tmp_path, '{"version": 3, "up_sql": "SELECT 1;"}')
        assert loaded == Migration(3, "add tags", "SELECT 1;", None)

    def test_its_name_may_be_any(self, tmp_path: Path) -> None:
        """What counts is inside: the first steps of a build database, named as people do."""
        steps = {
            "initial schema.json": (1, "CREATE TABLE projects (id INTEGER PRIMARY KEY, name);"),
            "0001_logs.json": (2, "CREATE TABLE build_logs (id INTEGER PRIMARY KEY, level);"),
            "2024-01-15 Indexe für später.json": (
                3,
                "CREATE INDEX by_level ON build_logs (level);",
            ),
            "20240116_metrics.json": (4, "CREATE TABLE system_metrics (id INTEGER PRIMARY KEY);"),
            "V5__locks.up.json": (5, "CREATE TABLE distributed_locks (resource_id);"),
            "6.json": (6, ""),
            "0007_.json": (7, ""),
        }
        for name, (version, sql) in steps.items():
            fill(tmp_path, {name: json.dumps({"version": version, "up_sql": sql})})
        loaded = load_migrations(tmp_path)
        assert [(each.version, each.up) for each in loaded] == list(steps.values())
        assert [each.description for each in loaded] == [
            "initial schema",
            "logs",
            "2024 01 15 Indexe für später",
            "metrics",
            "V5 locks.up",
            "6",
            "0007",
        ]
        assert [Path(each.origin).name for each in loaded] == list(steps)

    async def test_a_number_in_its_name_that_misleads_is_told_by_validate(
        self, tmp_path: Path
    ) -> None:
        step = '{"version": %d, "up_sql": "", "down_sql": ""}'
        names = {"0001_a.json": 1, "0003_b.json": 2, "c.json": 3, "4-d.json": 4}
        fill(tmp_path / "steps", {name: step % version for name, version in names.items()})
        async with Database(tmp_path / "db") as db:
            findings = (await Migrator(db, load_migrations(tmp_path / "steps")).validate()).findings
        [told] = [each for each in findings if each.rule == "misnamed"]
        assert told.where == str(tmp_path / "steps" / "0003_b.json")
        assert "begins with 0003, but the version in it is 2" in told.message

    def test_a_new_pair_has_as_many_digits_as_other_pairs(self, tmp_path: Path) -> None:
        fill(tmp_path, {"20240116_a.json": '{"version": 1, "up_sql": ""}', "00002_b.up.sql": ""})
        up, _ = new_migration(tmp_path, "add tags")
        assert up.name == "00003_add_tags.up.sql"

    @pytest.mark.parametrize("name", ["package.json", "a.JSON", "a.json5", "a.jsonl"])
    def test_what_is_another_kind_of_file_is_an_error_all_the_same(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(MigrationFileError, match=re.escape(str(tmp_path / name))):
            load_migrations(fill(tmp_path, {name: '{"name": "app", "version": "1.0.0"}'}))

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "line 1: not JSON"),
            ('{"version": 3,\n"up_sql": SELECT}', "line 2: not JSON"),
            ("[" * 100_000, "recursion"),
            ('{"version": 3' + "0" * 5000 + "}", "integer string"),
            ("[]", "one JSON object"),
            ('{"version": 3, "up_sql": "", "up": ""}', "unknown key 'up'; known are version"),
            ('{"version": 3, "version": 3, "up_sql": ""}', "a key is there twice"),
            ('{"version": 3}', "'up_sql' is missing"),
            ('{"up_sql": ""}', "'version' is missing"),
            ('{"version": "3", "up_sql": ""}', "version must be"),
            ('{"version": 3.0, "up_sql": ""}', "version must be"),
            ('{"version": 3, "up_sql": null}', "up must be SQL"),
            ('{"version": 3, "up_sql": "", "dependencies": "1"}', "dependencies must"),
            ('{"version": 3, "up_sql": "", "timeout": NaN}', "timeout must"),
            ('{"version": 3, "up_sql": "", "transactional": null}', "transactional must"),
            ('{"version": 3, "up_sql": "\\ud800"}', "(up), line 1: it holds half"),
            (b'{"version": 3,\n\n"up_sql": "\xff"}', "line 3: it is not UTF-8"),
        ],
    )
    def test_what_is_not_a_migration_is_an_error(
        self, tmp_path: Path, text: str | bytes, problem: str
    ) -> None:
        with pytest.raises(MigrationFileError) as caught:
            self.load(tmp_path, text)
        assert str(caught.value).startswith(str(tmp_path / "0003_add_tags.json"))
        assert problem in str(caught.value)


class TestNotUnderstood:
    """Nothing in the directory is silently left out (faults 68, 66 for the files)."""

    @pytest.mark.parametrize(
        "name",
        [
            "0080_x_up.sql",
            "0080_x.sql",
            "0080-x.up.sql",
            "x.up.sql",
            "0080.up.sql",
            "0080_.up.sql",
            "0080_x.up.SQL",
            "0080_x.up.sql~",
            "0080_x.up.sql.orig",
            "V80__x.sql",
            "0080_x y.up.sql",
            "0080_ü.up.sql",
            "٣_x.up.sql",
            "notes.txt",
            "schema.sql.bak",
            "0080_x.up.sql\n",
        ],
    )
    def test_a_file_that_matches_no_pattern(self, tmp_path: Path, name: str) -> None:
        fill(tmp_path, {"0001_a.up.sql": "", name: "SELECT 1;"})
        with pytest.raises(MigrationFileError, match="not a migration") as caught:
            load_migrations(tmp_path)
        assert str(tmp_path / name) in str(caught.value)

    def test_a_directory_inside(self, tmp_path: Path) -> None:
        (tmp_path / "old").mkdir()
        with pytest.raises(MigrationFileError, match="old: not a migration"):
            load_migrations(tmp_path)
        (tmp_path / "old").rename(tmp_path / "0001_a.up.sql")
        with pytest.raises(MigrationFileError, match=r"0001_a\.up\.sql: it can't be read"):
            load_migrations(tmp_path)

    @pytest.mark.parametrize("up", ["0002_b.up.sql", "2_a.up.sql", "0003_a.up.sql"])
    def test_a_down_without_its_up(self, tmp_path: Path, up: str) -> None:
        fill(tmp_path, {up: "", "0002_a.down.sql": ""})
        with pytest.raises(MigrationFileError, match=r"0002_a\.down\.sql: there is no 0002_a\.up"):
            load_migrations(tmp_path)

    @pytest.mark.parametrize("second", ["0002_b.up.sql", "2_a.up.sql", "002_a.json"])
    def test_a_version_twice(self, tmp_path: Path, second: str) -> None:
        fill(tmp_path, {"0002_a.up.sql": "", second: '{"version": 2, "up_sql": ""}'})
        with pytest.raises(MigrationOrderError, match="version 2 is there twice") as caught:
            load_migrations(tmp_path)
        assert str(tmp_path / "0002_a.up.sql") in str(caught.value)
        assert str(tmp_path / second) in str(caught.value)

    def test_version_zero(self, tmp_path: Path) -> None:
        with pytest.raises(MigrationFileError, match=r"0000_a\.up\.sql: the version must"):
            load_migrations(fill(tmp_path, {"0000_a.up.sql": ""}))

    def test_an_unknown_dependency_and_a_cycle(self, tmp_path: Path) -> None:
        fill(tmp_path, {"1_a.up.sql": "-- depends: 2", "2_b.up.sql": "-- depends: 3"})
        with pytest.raises(MigrationOrderError, match=r"2_b\.up\.sql: it depends on version 3"):
            load_migrations(tmp_path)
        fill(tmp_path, {"2_b.up.sql": "-- depends: 1"})
        with pytest.raises(MigrationOrderError, match=r"cycle: .*_.\.up\.sql before .*_.\.up\.sql"):
            load_migrations(tmp_path)

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"SELECT 1;\n\nSELECT '\xe4';", ": line 3: it is not UTF-8"),
            ("SELECT 1;".encode("utf-16"), ": line 1: it is not UTF-8"),
            (b"SELECT 1;\n\0", " (down), line 2: it holds a NUL"),
            (b"SELECT 1;\nSELECT [x;", " (down), line 2: the quoted identifier"),
        ],
    )
    def test_a_text_that_can_not_be_read_is_named_with_its_line(
        self, tmp_path: Path, raw: bytes, problem: str
    ) -> None:
        fill(tmp_path, {"0001_a.up.sql": "", "0001_a.down.sql": raw})
        with pytest.raises(MigrationFileError) as caught:
            load_migrations(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / '0001_a.down.sql'}{problem}")


@pytest.fixture
def on_path(tmp_path: Path) -> Iterator[Path]:
    """A directory from which packages are imported."""
    known = set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - known:
        del sys.modules[name]


FILES: dict[str, str | bytes] = {"__init__.py": "", "0001_a.up.sql": "SELECT 1;"}


class TestSources:
    """A directory is given by its path or as a package."""

    def test_a_path_as_text_or_path(self, tmp_path: Path) -> None:
        fill(tmp_path / "steps", FILES)
        assert load_migrations(tmp_path / "steps") == load_migrations(str(tmp_path / "steps"))

    def test_a_package_by_its_name_or_itself(self, on_path: Path) -> None:
        fill(on_path / "shop_one" / "steps", FILES)
        (on_path / "shop_one" / "__init__.py").touch()
        (loaded,) = load_migrations("shop_one.steps")
        assert loaded.origin == str(on_path / "shop_one" / "steps" / "0001_a.up.sql")
        assert load_migrations(importlib.import_module("shop_one.steps")) == (loaded,)

    def test_a_package_in_a_zip_file(self, on_path: Path) -> None:
        with zipfile.ZipFile(on_path / "shop.zip", "w") as archive:
            for name, content in FILES.items():
                archive.writestr(f"shop_two/{name}", content)
        sys.path.insert(0, str(on_path / "shop.zip"))
        try:
            (loaded,) = load_migrations("shop_two")
        finally:
            sys.path.remove(str(on_path / "shop.zip"))
        assert loaded.up == "SELECT 1;"
        assert loaded.origin.endswith("0001_a.up.sql")

    def test_a_directory_goes_before_a_package_of_its_name(
        self, on_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(on_path / "shop_three", FILES)
        fill(on_path / "here" / "shop_three", {"0002_b.up.sql": ""})
        monkeypatch.chdir(on_path / "here")
        assert [step.version for step in load_migrations("shop_three")] == [2]

    @pytest.mark.parametrize("source", ["no_such_package", "abt_db.no_such_package"])
    def test_a_name_that_is_nothing(self, source: str) -> None:
        with pytest.raises(MigrationFileError, match=f"^{source}: neither a directory nor a pack"):
            load_migrations(source)

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        for source in (tmp_path / "none", str(tmp_path / "none")):
            with pytest.raises(MigrationFileError, match="none: there is no such directory"):
                load_migrations(source)

    def test_a_directory_that_may_not_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(path: Path) -> Iterator[Path]:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "iterdir", forbidden)
        with pytest.raises(MigrationFileError, match="can't be listed: Permission denied"):
            load_migrations(tmp_path)

    def test_a_file_instead_of_a_directory(self, tmp_path: Path) -> None:
        fill(tmp_path, {"0001_a.up.sql": ""})
        with pytest.raises(MigrationFileError, match="there is no such directory"):
            load_migrations(tmp_path / "0001_a.up.sql")

    def test_a_module_that_is_no_package(self) -> None:
        with pytest.raises(
            MigrationFileError, match=r"^json\.decoder is a module and not a package"
        ):
            load_migrations("json.decoder")

    def test_a_package_that_can_not_be_imported_says_why_itself(self, on_path: Path) -> None:
        fill(on_path / "shop_four", {"__init__.py": "import no_such_module"})
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            load_migrations("shop_four")


class TestOfOthers:
    """Files that were written for other tools load, or are refused with the reason; none is passed
    over in silence (faults 68, 70)."""

    NAMES = (
        "20240131120000_create-users.up.sql",
        "20240131120000_create-users.down.sql",
        "20240201080000_v1.2.add_index.up.sql",
        "20240301080000_Mixed.Case-and_more.up.sql",
        "20240301080000_Mixed.Case-and_more.down.sql",
    )

    async def test_dates_gaps_dots_and_dashes_load_and_are_applied(self, tmp_path: Path) -> None:
        for name in self.NAMES:
            table = name.partition("_")[0]
            what = "CREATE TABLE" if ".up." in name else "DROP TABLE"
            end = " (x);" if ".up." in name else ";"
            (tmp_path / name).write_text(f'{what} "t{table}"{end}')
        migrations = load_migrations(tmp_path)
        assert [m.version for m in migrations] == [20240131120000, 20240201080000, 20240301080000]
        assert [m.description for m in migrations] == [
            "create users",
            "v1.2.add index",
            "Mixed.Case and more",
        ]
        assert [m.down is None for m in migrations] == [False, True, False]
        async with Database(":memory:") as db:
            migrator = Migrator(db, migrations)
            assert len(await migrator.up()) == 3
            assert await migrator.down(20240201080000) == [20240301080000]

    @pytest.mark.parametrize(
        "name",
        [
            "V1__flyway_names.sql",
            "20240131120000_goose_or_dbmate.sql",
            "0080_x_up.sql",
            "0080.up.sql",
            "0080-dash.up.sql",
            "20240131T120000Z_name.up.sql",
            "1.2_name.up.sql",
            "0001_name.up.sql.bak",
            "0001_name.UP.SQL",
            "notes.txt",
        ],
    )
    def test_other_names_are_refused_by_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("SELECT 1;")
        with pytest.raises(MigrationFileError, match=re.escape(name)):
            load_migrations(tmp_path)

    OWN = "BEGIN;\nCREATE TABLE t (x);\nINSERT INTO t VALUES (1);\nCOMMIT;\n"

    async def test_a_transaction_of_its_own_is_refused_or_obeyed_and_always_said(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "1_own.up.sql"
        file.write_text(self.OWN)
        async with Database(":memory:") as db:
            with pytest.raises(
                MigrationFailedError, match=r"1_own\.up\.sql, line 1: .*`-- no-transaction`"
            ):
                await Migrator(db, load_migrations(tmp_path)).up()
            file.write_text(f"-- no-transaction\n{self.OWN}")
            assert len(await Migrator(db, load_migrations(tmp_path)).up()) == 1
