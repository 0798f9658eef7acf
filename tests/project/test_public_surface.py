"""What the package offers: named once, from one place, documented, and light to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from test_layers import imported, modules

import abt_db
import abt_db.builds
import abt_db.errors
import abt_db.migrations
from abt_db import AbtDbError, Database

# What the benchmark measures is in an extra of its own.
PEERS = {
    f"abt_db.tools.bench.on_{peer}": peer
    for peer in ("aiosqlitepool", "apsw", "databases", "sqlalchemy")
}
# A `__main__` runs when it is imported.
NAMES = [name for name, _ in modules() if not name.endswith(".__main__")]
MODULES = [(name, path) for name, path in modules() if name in NAMES]
LIBRARY = [name for name in NAMES if not name.startswith(("abt_db.tools", "abt_db.schema"))]
PACKAGES = {name for name, path in modules() if path.name == "__init__.py"}
PUBLIC = [(name, getattr(abt_db, name)) for name in abt_db.__all__]
OFFERING = {
    "abt_db",
    "abt_db.builds",
    "abt_db.errors",
    "abt_db.events",
    "abt_db.maintenance",
    "abt_db.migrations",
    "abt_db.schema",
    "abt_db.sql.values",  # to the rooms beside it, which know none of its modules
    "abt_db.testing",
}
"""The modules that applications import from."""
CLASSES = [(name, value) for name, value in PUBLIC if isinstance(value, type)]


def loaded(name: str) -> ModuleType:
    if name in PEERS:
        pytest.importorskip(
            PEERS[name], reason=f"{PEERS[name]} is not installed (`.[bench]` has it)"
        )
    return importlib.import_module(name)


def documented(value: Any) -> bool:
    """Whether it has a docstring of its own: not that of its base, nor a generated one."""
    text = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    return (
        text is not None
        and text != ""
        and not text.startswith(f"{getattr(value, '__name__', value)}(")
    )


def verbs(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, those of its own bases as well."""
    for base in kind.__mro__:
        if base.__module__.startswith("abt_db"):
            for name, value in vars(base).items():
                if not name.startswith("_") and (
                    inspect.isroutine(value) or isinstance(value, property | classmethod)
                ):
                    yield f"{base.__name__}.{name}", value


class TestAll:
    """`abt_db.__all__` is what the package offers: all of it, sorted, nothing twice."""

    def test_is_sorted_plainly_and_names_nothing_twice(self) -> None:
        assert list(abt_db.__all__) == sorted(set(abt_db.__all__))

    def test_is_complete(self) -> None:
        offered = {
            name
            for name, value in vars(abt_db).items()
            if not name.startswith("_") and not isinstance(value, ModuleType)
        }
        assert offered == set(abt_db.__all__)

    def test_is_what_a_star_gives(self) -> None:
        namespace: dict[str, object] = {}
        exec("from abt_db import *", namespace)
        assert namespace.keys() - {"__builtins__"} == set(abt_db.__all__)

    def test_has_everything_that_a_caller_may_have_to_catch(self) -> None:
        offered = {*abt_db.__all__, *abt_db.migrations.__all__, *abt_db.builds.__all__}
        raised = {
            name
            for name in abt_db.errors.__all__
            if isinstance(kind := getattr(abt_db.errors, name), type)
            and issubclass(kind, AbtDbError)
        }
        assert raised <= offered

    def test_every_error_of_the_library_stands_in_one_module(self) -> None:
        for name in LIBRARY:
            for kind in vars(loaded(name)).values():
                if isinstance(kind, type) and issubclass(kind, AbtDbError):
                    assert kind.__module__ == "abt_db.errors"


class TestDocumentation:
    """Everything that is public says what it promises."""

    def test_the_package_is_a_map_of_itself(self) -> None:
        assert abt_db.__doc__
        for module in LIBRARY:
            first, *deeper = module.split(".")[1:] or [""]
            if not deeper:
                assert first in abt_db.__doc__, f"the map of the package lacks {module}"

    @pytest.mark.parametrize("name", NAMES)
    def test_of_every_module(self, name: str) -> None:
        assert name in PACKAGES or loaded(name).__doc__

    @pytest.mark.parametrize(("name", "value"), PUBLIC, ids=abt_db.__all__)
    def test_of_every_public_name(self, name: str, value: Any) -> None:
        assert documented(value)

    @pytest.mark.parametrize(("name", "kind"), CLASSES, ids=[name for name, _ in CLASSES])
    def test_of_every_public_method(self, name: str, kind: type) -> None:
        silent = [where for where, verb in verbs(kind) if not inspect.getdoc(verb)]
        assert not silent

    def test_of_every_verb_of_a_database(self) -> None:
        found = dict(verbs(Database))
        assert len(found) > 12
        for where, verb in found.items():
            assert len(verb.__doc__ or "") > 40, where


class TestModules:
    """Where applications import from, `__all__` says what; inside, an underscore says what not."""

    @pytest.mark.parametrize("name", NAMES)
    def test_those_that_applications_import_from_say_what(self, name: str) -> None:
        assert hasattr(loaded(name), "__all__") == (name in OFFERING)

    @pytest.mark.parametrize("name", sorted(OFFERING))
    def test_what_it_names_is_there(self, name: str) -> None:
        offered = loaded(name).__all__
        assert len(offered) == len(set(offered))
        for each in offered:
            assert hasattr(loaded(name), each)

    @pytest.mark.parametrize(("name", "path"), MODULES, ids=NAMES)
    def test_nothing_private_of_another_is_used(self, name: str, path: Any) -> None:
        for target in set(imported(name, path)):
            home, _, each = target.rpartition(".")
            if home in set(NAMES) - {name} and target not in NAMES:
                assert not each.startswith("_"), f"{name} uses {target}"

    @pytest.mark.parametrize(("name", "path"), MODULES, ids=NAMES)
    def test_nothing_in_it_is_defined_twice(self, name: str, path: Any) -> None:
        body = ast.parse(path.read_text()).body
        defined = Counter(
            node.name
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not any("overload" in ast.dump(mark) for mark in node.decorator_list)
        )
        assert not [each for each, times in defined.items() if times > 1]


class TestImport:
    """`from abt_db import …` brings in the driver and the standard library, and nothing else."""

    @pytest.mark.parametrize("name", ["abt_db", "abt_db.migrations", "abt_db.builds"])
    def test_brings_in_no_other_package(self, name: str) -> None:
        code = f"import sys; old = {{*sys.modules}}; from {name} import *"
        code += "; print(*{*sys.modules} - old)"
        found = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        foreign = {module.partition(".")[0] for module in found} - sys.stdlib_module_names
        assert foreign == {"abt_db", "aiosqlite"}

    def test_does_nothing(self) -> None:
        """No thread, no file, no output, no warning."""
        code = "import threading; from abt_db import *; assert threading.active_count() == 1"
        done = subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", code], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
