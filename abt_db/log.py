"""The library's logger, `LOG`. An error in the application's logging can't stop the library.

Handlers and filters belong to the application and may raise, because their disk is full or their
socket is closed. The library also logs between two steps of which the second must follow the first.
So an error of a handler or filter is printed to standard error and not raised (invariant 31).
`logging` does the same with the errors that it catches
(https://docs.python.org/3/library/logging.html#logging.Handler.handleError).
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress

_CALLER = 3
"""Stack frames from `logging` back to the line of the library that a record names: `log`, `_log`,
`warning`."""


class _Log:
    """The methods of `logging.Logger` that the library uses."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def warning(self, message: str, *values: object) -> None:
        """Log what an operator may want to look at."""
        self._log(logging.WARNING, message, values)

    def error(self, message: str, *values: object) -> None:
        """Log what an operator has to look at."""
        self._log(logging.ERROR, message, values)

    def exception(self, message: str, *values: object) -> None:
        """Log the exception that is being handled, with its traceback."""
        self._log(logging.ERROR, message, values, trace=True)

    def _log(
        self, level: int, message: str, values: tuple[object, ...], trace: bool = False
    ) -> None:
        try:
            self._logger.log(level, message, *values, exc_info=trace, stacklevel=_CALLER)
        except Exception:
            _print_exception()


def _print_exception() -> None:
    # Without a console `sys.stderr` is None; a closed one raises.
    with suppress(Exception):
        if sys.stderr is not None:
            traceback.print_exc(file=sys.stderr)


LOG = _Log("abt_db")
