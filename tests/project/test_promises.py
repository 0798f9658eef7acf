"""The promises in `docs/`: what code and tests cite is there, and each is held by tests that exist.

A citation is ``invariant 12`` or ``invariants 11, 12``, ``fault 47`` or ``faults 46, 47``, and for
the promises of the migrations ``M3``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.suite import ROOT

DOCUMENTS = {"invariant": ROOT / "docs" / "invariants.md", "fault": ROOT / "docs" / "faults.md"}
FOLDERS = ("abt_db", "schema", "tools", "tests")
HERE = Path(__file__).resolve()

HEADING = re.compile(r"^### (M?\d+)\. \S", re.MULTILINE)
TEST = re.compile(r"`(test_\w+\.py(?:::\w+){1,2})`")
NUMBERS = r"\d+(?:(?:,| and| or| to|-|–) ?\d+)*"
CITATION = re.compile(rf"\b(invariant|fault)(s?)((?:\.md)?) ({NUMBERS})", re.IGNORECASE)
OF_MIGRATIONS = re.compile(r"(?<![\w\"'`-])M(\d+)\b(?!\.\d)")
RIGHT = re.compile(r"invariant \d+|fault \d+|(?:invariants|faults) \d+(?:, \d+)+", re.IGNORECASE)


def promises(document: str) -> list[tuple[str, str]]:
    """The number of each promise of a document, with its text."""
    parts = HEADING.split(DOCUMENTS[document].read_text())
    return list(zip(parts[1::2], parts[2::2], strict=True))


def texts() -> Iterator[tuple[Path, str]]:
    """Whatever may cite a promise, each text in one line: a citation may stand on two."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    for file in [*files, *DOCUMENTS.values(), ROOT / "README.md", ROOT / "CHANGELOG.md"]:
        if file != HERE:
            yield file.relative_to(ROOT), re.sub(r"\s*\n\s*(?:# )?", " ", file.read_text())


def existing_tests() -> dict[str, set[str]]:
    """The names of all tests and of their classes, ``Class::function``, by the name of the file."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        assert file.name not in found, f"there are two files {file.name}; tests are cited by it"
        names = found[file.name] = set()
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign):  # the test case of a state machine
                names.update(name.id for name in node.targets if isinstance(name, ast.Name))
            elif isinstance(node, ast.ClassDef):
                names.add(node.name)
                names.update(
                    f"{node.name}::{each.name}"
                    for each in node.body
                    if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                )
    return found


class TestCitations:
    """A reader who meets a number finds it in the documents."""

    def test_each_number_is_there(self) -> None:
        known = {document: {number for number, _ in promises(document)} for document in DOCUMENTS}
        cited = 0
        for file, text in texts():
            for kind, _, _, numbers in CITATION.findall(text):
                for number in re.findall(r"\d+", numbers):
                    assert number in known[kind.lower()], f"{file}: {kind} {number}"
                    cited += 1
            for number in OF_MIGRATIONS.findall(text):
                assert f"M{number}" in known["invariant"], f"{file}: M{number}"
                cited += 1
        assert cited > 300, "the citations are not found any more"

    def test_they_are_spelt_in_one_way(self) -> None:
        for file, text in texts():
            for found in CITATION.finditer(text):
                assert RIGHT.fullmatch(found[0]), f"{file}: {found[0]}"


@pytest.mark.parametrize("document", DOCUMENTS)
class TestDocuments:
    """Each promise has one number, stands in its place, and is held by a test."""

    def test_numbers_have_no_gap_and_come_once(self, document: str) -> None:
        numbers = [number for number, _ in promises(document)]
        plain = [int(number) for number in numbers if number.isdecimal()]
        migrations = [int(number[1:]) for number in numbers if not number.isdecimal()]
        assert plain == [*range(1, len(plain) + 1)]
        assert migrations == [*range(1, len(migrations) + 1)]
        assert numbers and (document == "invariant") == bool(migrations)

    def test_each_names_the_tests_that_hold_it(self, document: str) -> None:
        for number, text in promises(document):
            held = re.findall(r"^- Held by", text, re.MULTILINE)
            assert len(held) == bool(TEST.search(text)), f"{document} {number}"
            assert held or "*Not yet*" in text, f"no test holds {document} {number}"
            assert "\n- Kept by " in text or not held, f"{document} {number}: kept by what?"

    def test_each_test_that_is_named_exists(self, document: str) -> None:
        existing = existing_tests()
        for number, text in promises(document):
            for name in re.findall(r"`(test_[^`]*)`", text):
                assert TEST.fullmatch(f"`{name}`"), f"{document} {number}: {name}"
                file, _, test = name.partition("::")
                assert test in existing.get(file, set()), f"{document} {number}: {name}"
