"""The command line as it is started: from a checkout, and without what a command has no use for."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import aiosqlite
import pytest
from support.suite import ROOT

from abt_db.tools.cli import COMMANDS

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPTS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, beside an environment in which only aiosqlite is installed."""
    folder = tmp_path_factory.mktemp("clone")
    venv.create(folder / "environment", symlinks=True)
    [packages] = folder.glob("environment/lib/*/site-packages")
    shutil.copytree(Path(aiosqlite.__file__).parent, packages / "aiosqlite")
    for name in ("abt_db", "schema", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def run(checkout: Path, tmp_path: Path) -> Run:
    """Run a script of `tools/` in an empty directory."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [checkout / "environment" / "bin" / "python", checkout / "tools" / script, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={k: v for k, v in os.environ.items() if k not in ("ABT_DB", "PYTHONPATH")},
        )

    return run


class TestCheckout:
    """Each script of `tools/` runs where nothing but aiosqlite is installed."""

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_a_script_runs_and_a_command_tells_its_arguments(self, run: Run, script: str) -> None:
        done = run(script, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        if script.removesuffix(".py") in COMMANDS:
            assert done.stdout.startswith(f"usage: {script} ")

    def test_the_benchmark_tells_its_arguments(self, run: Run) -> None:
        done = run("bench", "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: abt-db bench ")

    def test_a_build_is_recorded_and_its_database_looked_after(
        self, run: Run, tmp_path: Path
    ) -> None:
        done = run("record.py", "--quiet", "--db", "x.db", "--project", "app", "--", "echo", "hi")
        assert (done.stdout, done.stderr, done.returncode) == ("hi\n", "", 0)
        for script in "vacuum.py", "checkpoint.py", "optimize.py", "integrity.py", "doctor.py":
            done = run(script, "x.db")
            assert (done.returncode, done.stderr) == (0, "")
            assert "x.db" in done.stdout
        assert run("migrate.py", "plan", "x.db").stdout.startswith("0 steps, ")
        assert run("logs.py", "--db", "x.db", "app").stdout == "hi\n"

    def test_the_whole_command_line_is_one_of_them(self, run: Run) -> None:
        done = run("cli.py", "builds")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("abt-db: there is no database android_build_tool.db; ")

    def test_it_is_the_code_of_the_checkout_that_runs(self, checkout: Path, tmp_path: Path) -> None:
        """Though another version be installed."""
        script = checkout / "tools" / "where.py"
        script.write_text("import abt_db.schema as s, abt_db as a; print(a.__file__, s.__file__)")
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        script.unlink()
        init = "__init__.py"
        assert done.stdout == f"{checkout / 'abt_db' / init} {checkout / 'schema' / init}\n"


def modules_of(*arguments: str) -> set[str]:
    """All modules that `abt-db` has imported when a command ends."""
    program = (
        "import sys\n"
        "from abt_db.tools.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True
    )
    return set(done.stderr.split("\n")[-2].split())


ENGINE = {"abt_db.pool.lane", "abt_db.database", "aiosqlite", "asyncio", "sqlite3"}
LOOKED_AT = {"abt_db.maintenance", "abt_db.migrations.planner", "abt_db.migrations.trial"}
RECORDED = {f"abt_db.builds.{each}" for each in ("recorder", "command", "pump", "spool")}
MOVED = {f"abt_db.builds.{each}" for each in ("importer", "exporter", "history", "rbtlog")}
REPORTED = {f"abt_db.builds.report.{each}" for each in ("gather", "page", "queries", "figures")}
OF_BUILDS = {"abt_db.builds.store", "abt_db.migrations.engine"}


class TestImports:
    """A command is started often, so it imports what it needs: no other command, and of the
    library no part that it does not use."""

    def test_the_help_needs_nothing_of_the_library(self) -> None:
        found = modules_of("--help")
        ours = {name for name in found if name.startswith("abt_db")}
        assert ours == {"abt_db", "abt_db.lazy", "abt_db.tools", "abt_db.tools.cli"}
        assert not found & ENGINE

    @pytest.mark.parametrize(
        ("arguments", "commands", "not_needed"),
        [
            ("builds --db none", "builds store care", LOOKED_AT | RECORDED | MOVED | REPORTED),
            ("projects --help", "projects store care", LOOKED_AT | RECORDED | MOVED | REPORTED),
            ("stats --help", "stats store care", LOOKED_AT | RECORDED | MOVED | REPORTED),
            ("record --help", "record store care", LOOKED_AT | MOVED | REPORTED),
            ("export --help", "export store care progress", LOOKED_AT | RECORDED | REPORTED),
            ("checkpoint --help", "checkpoint care meter", LOOKED_AT | OF_BUILDS),
            ("vacuum --help", "vacuum care meter", OF_BUILDS),
            ("bench --help", "bench", OF_BUILDS | LOOKED_AT | ENGINE - {"asyncio", "sqlite3"}),
        ],
    )
    def test_a_command_needs_no_other(
        self, arguments: str, commands: str, not_needed: set[str]
    ) -> None:
        found = modules_of(*arguments.split())
        tools = {name for name in found if name.startswith("abt_db.tools.")}
        needed = {f"abt_db.tools.{name}" for name in commands.split()}
        assert tools - {"abt_db.tools.cli", "abt_db.tools.output"} == needed
        assert not found & not_needed

    def test_each_command_is_in_the_help_as_its_module_says(self) -> None:
        for name, summary in COMMANDS.items():
            folder = ROOT / "tools" / name
            module = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
            text = ast.get_docstring(ast.parse(module.read_text())) or ""
            assert text.partition("\n")[0] == summary
