"""Lazy packages: a package imports its public names when the first of them is used.

Python imports a package before any module in it. With ordinary imports in `abt_db/__init__.py`,
`abt-db --help`, which is in `abt_db.tools`, would also import the engine, and `abt-db builds` every
module that records, imports or exports builds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module


def lazily(package: str, *modules: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package (https://peps.python.org/pep-0562/) whose
    `__all__` names are defined in `modules`. The first use of such a name imports these modules.

    Modules inside a lazy package must import from each other, not from the package.
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
