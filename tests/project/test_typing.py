"""The types that a caller's type checker sees."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import abt_db

ROOT = Path(__file__).resolve().parents[2]


class TestTypes:
    """`mypy --strict` accepts the usages in `typed_usage.py`, each with the type that is promised
    there, and refuses those that it says must be refused."""

    def test_the_package_says_that_it_is_typed(self) -> None:
        assert (Path(abt_db.__file__).parent / "py.typed").is_file()

    @pytest.mark.skipif(
        importlib.util.find_spec("mypy") is None, reason="mypy is not installed (`.[dev]` has it)"
    )
    def test_of_all_usages(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores"),
                *("--cache-dir", os.devnull, "--config-file="),
                str(ROOT / "tests" / "typed_usage.py"),
            ],
            cwd=tmp_path,
            env={**os.environ, "MYPYPATH": str(ROOT), "MYPY_FORCE_COLOR": "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
