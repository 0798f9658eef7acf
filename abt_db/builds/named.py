"""`Named`: choices that callers may make by name, in any case."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from abt_db.errors import ParameterError


class Named(StrEnum):
    """Choices that are stored by their names in small letters; ``Level("INFO")`` is one, too."""

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the choice of this name, or raise `ParameterError`, which lists them."""
        try:
            return cls(name)
        except ValueError:
            raise ParameterError(
                f"there is no such {cls.__name__}; it is one of {', '.join(cls)}"
            ) from None

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        name = value.lower() if isinstance(value, str) else None
        return next((choice for choice in cls if choice.value == name), None)
