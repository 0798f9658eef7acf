"""The words of a search: how they are found in the full-text index, and in a line.

The index knows each group of three characters of a message (https://www.sqlite.org/fts5.html
#the_trigram_tokenizer): a line that has a word has all of the word's groups. The other way round
that need not be, so lines that are found are compared with the words.
"""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase

MOST = 32
"""Groups that are looked up; a long text is told from others by these as well."""

_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)


def fold(text: str) -> str:
    """Return the text with the capitals of ASCII as small letters, as `lower` of SQLite does."""
    return text.translate(_FOLD)


def split_words(text: str) -> list[str]:
    """Return the words of a text, each once."""
    return list(dict.fromkeys(fold(text).split()))


def has_all(words: list[str], message: str) -> bool:
    """Whether each of the words occurs in a message."""
    folded = fold(message)
    return all(word in folded for word in words)


def groups(words: list[str]) -> str:
    """Return the FTS5 expression for the groups of three in words; "" where none is so long.

    Each group stands in quotes, in which nothing is an operator. To FTS5 a NUL ends the text.
    """
    found = {
        word[start : start + 3]: None
        for word in words
        for start in [*range(0, len(word) - 3, 3), len(word) - 3]
        if start >= 0
    }
    sought = [group.replace('"', '""') for group in found if "\0" not in group]
    return " AND ".join(f'"{group}"' for group in sought[:MOST])


def pattern(words: list[str]) -> re.Pattern[str]:
    """Return what matches each place in a message where one of the words stands."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.ASCII | re.IGNORECASE)
