"""What would be done, told beforehand: steps, their SQL, and what speaks against them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from .guard import dropped
from .history import Reversibility
from .lint import Finding, Level, lint, minimum_sqlite
from .model import Migration
from .script import split
from .step import down_origin
from .trial import Trial


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step that would be done."""

    version: int
    description: str
    origin: str
    direction: str
    """"up" or "down"."""
    transactional: bool
    timeout: float
    statements: tuple[str, ...]
    drops: tuple[str, ...]
    """Tables that it drops, or drops and builds again."""
    reversibility: Reversibility | None
    """As found by running it in memory, or as the history has it."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` or `down` would do."""

    steps: tuple[PlannedStep, ...]
    minimum_sqlite: str
    """The oldest SQLite that understands all of it, as far as that is known."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What will fail."""
        found = (finding for step in self.steps for finding in step.findings)
        return tuple(finding for finding in found if finding.level is Level.ERROR)


@dataclass(frozen=True, slots=True)
class Validation:
    """What is to be said of all migrations, and of the history."""

    findings: tuple[Finding, ...]
    trials: tuple[Trial, ...]
    """Of each step, one after the other from an empty database."""

    @property
    def valid(self) -> bool:
        """Whether nothing will fail."""
        return all(finding.level is not Level.ERROR for finding in self.findings)


def planned(
    migration: Migration,
    *,
    down: bool,
    reversibility: Reversibility | None,
    findings: Iterable[Finding] = (),
) -> PlannedStep:
    """Return a step as it would be done."""
    script = (migration.down or "") if down else migration.up
    return PlannedStep(
        version=migration.version,
        description=migration.description,
        origin=down_origin(migration) if down else migration.origin,
        direction="down" if down else "up",
        transactional=migration.transactional,
        timeout=migration.timeout,
        statements=tuple(statement.text for statement in split(script)),
        drops=dropped(script),
        reversibility=reversibility,
        findings=(*lint(migration, down=down), *findings),
    )


def oldest_sqlite(scripts: Iterable[str]) -> str:
    """Return the oldest SQLite that understands the scripts, as text."""
    return ".".join(map(str, max((minimum_sqlite(s)[0] for s in scripts), default=(3, 0))))


def gaps(migrations: Sequence[Migration]) -> list[Finding]:
    """Tell which numbers are left out; of versions that count, not of those that are dates."""
    versions = sorted(migration.version for migration in migrations)
    if versions and versions[-1] > 10 * len(versions) + 1000:
        return []
    missing = sorted(set(range(1, versions[-1] + 1)) - set(versions)) if versions else []
    told = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
    message = f"there is no version {told}; that is allowed, if it was meant"
    return [Finding(Level.NOTE, "gap", "the migrations", message)] if missing else []


def misnamed(migrations: Iterable[Migration]) -> list[Finding]:
    """Tell which JSON files begin with a number that is not the version inside, which counts."""
    findings = []
    for migration in migrations:
        digits, line, _ = PurePath(migration.origin).name.partition("_")
        numbered = migration.origin.endswith(".json") and line and digits.isdecimal()
        if numbered and digits.lstrip("0") != str(migration.version):
            message = f"its name begins with {digits}, but the version in it is {migration.version}"
            findings.append(Finding(Level.NOTE, "misnamed", migration.origin, message))
    return findings
