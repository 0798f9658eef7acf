"""What is installed: the wheel, the sdist and the editable install have all that is needed."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.suite import ROOT

pytestmark = pytest.mark.large  # and the gate installs what it tests, on each Python

SQL = {path.name for path in (ROOT / "schema").glob("*.sql")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that make the package: building writes into them."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("abt_db", "schema", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def pip(*arguments: str) -> None:
    """Run pip, or skip the test where it has no registry to take setuptools from."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode and "No matching distribution found for setuptools" in done.stdout:
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip("no package registry to build with")
    assert done.returncode == 0, done.stderr


class TestPackage:
    """`pip install` gives the library, its SQL files and its types; and needs aiosqlite alone."""

    def test_the_wheel_holds_the_sql_files_the_types_and_the_command(
        self, checkout: Path, tmp_path: Path
    ) -> None:
        pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(checkout))
        [wheel] = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            [entry_points] = [name for name in names if name.endswith("entry_points.txt")]
            assert "abt-db = abt_db.tools.cli:main" in archive.read(entry_points).decode()
        assert {f"abt_db/schema/{name}" for name in SQL} <= names
        modules = {
            file.relative_to(checkout).as_posix() for file in checkout.glob("abt_db/**/*.py")
        }
        assert {"abt_db/py.typed", "abt_db/tools/record.py", *modules} <= names
        assert not [name for name in names if name.startswith(("schema/", "tools/", "tests/"))]

    def test_the_sdist_builds_the_same_package(self, checkout: Path, tmp_path: Path) -> None:
        program = (
            "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"
        )
        environment = tmp_path / "environment"
        pip("install", "--quiet", "--target", str(environment), "setuptools>=64")
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(environment)},
            check=True,
            capture_output=True,
        )
        [sdist] = tmp_path.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert {f"schema/{name}" for name in SQL} <= names
        assert {"abt_db/py.typed", "tools/record.py", "LICENSE", "README.md"} <= names

    def test_the_only_dependency_is_aiosqlite(self) -> None:
        needed = importlib.metadata.requires("abt_db") or []
        assert [need for need in needed if "extra ==" not in need] == ["aiosqlite>=0.22.1"]
        test = {need.split(">")[0] for need in needed if need.strip("'\"").endswith("test")}
        assert test == {"pytest", "hypothesis"}

    def test_the_installed_package_has_its_sql_files(self) -> None:
        files = importlib.resources.files("abt_db.schema")
        assert {entry.name for entry in files.iterdir() if entry.name.endswith(".sql")} == SQL
