"""The shape of the package, held: layers import downwards, and one module imports aiosqlite."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the bottom up. A module imports from the layers below its own, or from its own package.
LAYERS = [
    ("exhausted", "lazy", "log"),
    ("errors", "events"),
    ("config", "sql"),
    ("connection",),
    ("pool", "files"),
    ("locks", "transactions", "watch"),
    ("housekeeping", "protocols"),
    ("database",),
    ("repository",),
    ("maintenance",),
    ("migrations",),
    ("schema",),
    ("builds", "testing"),
    ("tools",),
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def modules() -> list[tuple[str, Path]]:
    """Every module of the package by its dotted name, wherever it stands in the checkout."""
    found = []
    for folder, prefix in (
        ("abt_db", "abt_db"),
        ("schema", "abt_db.schema"),
        ("tools", "abt_db.tools"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append((".".join([prefix, *(p for p in parts if p != "__init__")]), path))
    return found


def imported(name: str, path: Path) -> Iterator[str]:
    """The dotted names that a module imports, relative ones made whole."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def layer(name: str) -> str:
    """The layer of a dotted name of the package; "" for the package itself."""
    return [*name.split("."), ""][1]


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
class TestLayers:
    """A newcomer can read the package from the bottom up, and never meets a loop."""

    def test_every_module_has_a_layer(self, name: str, path: Path) -> None:
        assert name == "abt_db" or layer(name) in HEIGHT

    def test_imports_go_downwards(self, name: str, path: Path) -> None:
        if name == "abt_db":
            return  # the public surface takes from everywhere
        for target in imported(name, path):
            if target.split(".")[0] != "abt_db" or layer(target) not in HEIGHT:
                continue
            same = layer(target) == layer(name)
            assert same or HEIGHT[layer(target)] < HEIGHT[layer(name)], f"{name} imports {target}"

    def test_nothing_imports_the_public_surface_from_inside(self, name: str, path: Path) -> None:
        if layer(name) == "tools":
            return
        assert "abt_db" not in set(imported(name, path)), f"{name} imports abt_db itself"

    def test_only_connection_imports_the_driver(self, name: str, path: Path) -> None:
        drivers = {target for target in imported(name, path) if target.split(".")[0] == "aiosqlite"}
        measured = name.startswith("abt_db.tools.bench.")  # a peer of ours there
        assert not drivers or measured or name == "abt_db.connection.driver"

    def test_files_are_opened_in_two_places(self, name: str, path: Path) -> None:
        """By the driver, for a lane, and plainly for the work on whole files: why is told there."""
        opens = {"sqlite3.connect", "aiosqlite.connect"} & {
            *imported(name, path),
            *(
                ast.unparse(node)
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute)
            ),
        }
        measured = name.startswith("abt_db.tools.bench.")  # peers of ours
        assert not opens or measured or name in ("abt_db.connection.driver", "abt_db.files.copying")

    def test_executescript_is_never_called(self, name: str, path: Path) -> None:
        # It commits whatever transaction is open.
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        ]
        assert "executescript" not in {node.attr for node in calls}
