"""Packages that import what they offer when the first name of it is asked for.

Python imports a package before any module in it: with the usual imports in `abt_db/__init__.py`,
`abt-db --help`, which is in `abt_db.tools`, would wait for the engine, and `abt-db builds` for all
that records, imports and exports builds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module


def lazily(package: str, *modules: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package (https://peps.python.org/pep-0562/) for the
    names of its `__all__`: the first that is asked for imports these `modules`, which have them.

    Modules inside a package that has one import from each other, and not from the package.
    """

    def look_up(name: str) -> object:
        if name in modules:
            return import_module(f"{package}.{name}")
        there = vars(sys.modules[package])
        if name not in there["__all__"]:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for module in modules:
            found = import_module(f"{package}.{module}")
            offered = [each for each in there["__all__"] if hasattr(found, each)]
            there.update({each: getattr(found, each) for each in offered})
        return there[name]

    def names() -> list[str]:
        there = vars(sys.modules[package])
        return sorted({*there, *there["__all__"]})

    return look_up, names
