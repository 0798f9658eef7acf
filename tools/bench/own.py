"""A database layer of one's own, to be measured as the other systems are.

A *factory* is called with the path of a database, a text, whose tables are there. It returns an
object (or is a coroutine function that does) with three coroutine methods, to each of which the SQL
and its parameters, a dict for names such as ``:id``, are given:

    async def read(self, sql, parameters)       a SELECT; what it returns is not looked at
    async def write(self, sql, parameters)      an INSERT, committed when it returns
    async def update(self, sql, parameters)     an UPDATE, committed when it returns

and where it needs them ``open()`` and ``close()``, coroutine methods or plain ones. What was
written is looked for in the file when the object has been closed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from abt_db.tools.cli import CliError, UsageError

from . import sample
from .measure import sentence
from .sample import metric

Factory = Callable[[str], Any]


class FactoryError(Exception):
    """A factory did not bring a system that can be measured."""


class Target(Protocol):
    """What is measured: a `System`, as far as the workloads need it, whatever it returns."""

    async def open(self, path: Path, synchronous: str) -> None: ...
    async def close(self) -> None: ...
    async def read(self, id: int) -> object: ...
    async def insert(self, number: int) -> object: ...
    async def update(self, id: int, timeout: int) -> object: ...
    async def value(self, sql: str, /, **parameters: int) -> object: ...


class Given:
    """What a factory returns, as a `Target`."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._system: Any = None

    async def open(self, path: Path, _synchronous: str) -> None:
        system = self._factory(str(path))
        self._system = await system if inspect.iscoroutine(system) else system
        missing = [
            name
            for name in ("read", "write", "update")
            if not callable(getattr(self._system, name, None))
        ]
        if missing:
            raise FactoryError(
                f"it returned a {type(self._system).__name__}, which has no method"
                f" {' and no '.join(missing)}"
            )
        await self._call("open")

    async def close(self) -> None:
        await self._call("close")

    async def read(self, id: int) -> object:
        return await self._system.read(sample.READ, {"id": id})

    async def insert(self, number: int) -> object:
        return await self._system.write(sample.INSERT, metric(number))

    async def update(self, id: int, timeout: int) -> object:
        return await self._system.update(sample.UPDATE, {"id": id, "timeout": timeout})

    async def value(self, sql: str, /, **parameters: int) -> object:
        return await self._system.read(sql, parameters)

    async def _call(self, name: str) -> None:
        method = getattr(self._system, name, None)
        result = method() if callable(method) else None
        if inspect.isawaitable(result):
            await result


def find(text: str) -> Factory:
    """Return the factory that ``MODULE:FACTORY`` names, also from the working directory.

    Raises `UsageError` for another form, and `CliError` where there is none of that name.
    """
    module, colon, names = text.partition(":")
    if not (module and colon and names):
        raise UsageError(f"--system takes MODULE:FACTORY, such as my_layer:make, not {text!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python` has it, and a script that is installed has not
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # the module may raise anything
        raise CliError(f"--system {text}: {module} can't be imported: {sentence(error)}") from error
    for name in names.split("."):
        if not hasattr(found, name):
            raise CliError(f"--system {text}: {module} has no {names}")
        found = getattr(found, name)
    if not callable(found):
        raise CliError(f"--system {text}: a {type(found).__name__} can't be called with a path")
    factory: Factory = found
    return factory
