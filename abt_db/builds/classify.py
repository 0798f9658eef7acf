"""What a line of a build's output says about itself: how serious it is, and where it comes from."""

from __future__ import annotations

import json
import re

from .named import Named


class Level(Named):
    """How serious a line is, from the least to the most."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def at_least(self, least: Level) -> bool:
        """Whether this is as serious as `least`, or more."""
        return _ORDER.index(self) >= _ORDER.index(least)


_ORDER = tuple(Level)


class Classifier:
    """Tells level and source of the lines of one stream, which it has to see in their order.

    The source is the Gradle task, or project, under whose header a line stands
    ("> Task :app:compileDebugKotlin": ":app:compileDebugKotlin"). The paragraph in which Gradle
    says what went wrong is an error as a whole.
    """

    def __init__(self) -> None:
        self._task: str | None = None
        self._explains_failure = False

    def classify(self, message: str) -> tuple[Level, str | None]:
        """Return the level of the next line, INFO where its text tells no other, and its source."""
        text = as_shown(message)
        if gradle := _GRADLE.match(text, 0, _FAR_ENOUGH):
            self._task = gradle["task"]
            self._explains_failure = gradle["failure"] is not None
        if self._explains_failure:
            self._explains_failure = bool(text)
            failed = _FAILED_TASK.match(text, 0, _FAR_ENOUGH)
            return Level.ERROR if text else Level.INFO, failed[1] if failed else None
        return _level(text), self._task


# All is told in the first words, or behind a path: the rest of a very long line is not looked at.
_FAR_ENOUGH = 4096

_GRADLE = re.compile(
    r"> (?:Task|Configure project) (?P<task>:[^\s:]*(?::[^\s:]+)*)"
    r"|(?P<failure>\* What went wrong:)"
    r"|FAILURE: |BUILD (?:SUCCESSFUL|FAILED)\b"
)
_FAILED_TASK = re.compile(r"Execution failed for task '([^']+)'")


# -- what a terminal shows -----------------------------------------------------------------------

# https://en.wikipedia.org/wiki/ANSI_escape_code: colours and cursor moves, titles and links, others
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


def without_escapes(message: str) -> str:
    """Return the text without what colours it, moves the cursor or sets a title."""
    return _ESCAPES.sub("", message) if "\x1b" in message else message


def inert_json(text: str) -> str:
    """Return JSON, which is the same to whatever reads it, without a character that steers a
    terminal: JSON itself demands escapes for those below U+0020 only."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


def as_shown(message: str) -> str:
    """The text without colours, indentation, and what a "\\r" let the next text write over."""
    text = without_escapes(message).strip()
    if "\r" in text:
        text = text[text.rindex("\r") + 1 :].lstrip()
    return text


# -- levels --------------------------------------------------------------------------------------

# No rule matches a text that has none of these: most lines end here, at a tenth of the cost. The
# order is by how often they come.
_HINTS = (
    "warn", "error", "fail", "exception", "fatal", "traceback", "deprecation", "debug:", "debug]",
    "panic", " ***", "npm err!", "build stopped", "undefined reference",
)  # fmt: skip
# Every alternative of the rules captures the one word that tells the level.
_SAYS = r"""
    (?: (?i: fatal | cmake | cmake[ ]deprecation ) [ ] )?
    (?i: (warning|warn|error|fatal|failure|deprecation|debug|panic) )
    (?: \[ [^][]* \] | [ ] [A-Z]+ \d+ )?         # rustc's error[E0308]:, TypeScript's error TS2304:
    : (?! : )                                   # no Rust path
  | (?: [a-z_][\w$]* \. )* [A-Z][\w$]* (Warning|Error|Exception) (?: : | \Z )
  | CMake[ ] (?:Deprecation[ ])? (Warning|Error) [ ] (?: at | in | \( )
  | \[ \s* (?i: (warn|warning|error|fatal|debug) ) \s* \]           # Maven, sbt
  | (WARN|WARNING|ERROR|FATAL) \s+ (?! [A-Z]{2} ) [\w[(/"'<]        # loggers, webpack
  | BUILD[ ] (FAILED|FAILURE) \b
  | (undefined[ ]reference) [ ] to
"""
_AT_START = re.compile(
    rf"""
    {_SAYS}
  | ([eEwW]) : [ ]                              # Kotlin; apt
  | (warning|error) [ ] ["A-Z]                  # yarn
  | npm[ ] (?i: (err!|error|warn) ) [ ]
  | (Warning|Error) [ ] in [ ]                  # D8
  | \d+:\d+ \s+ (error|warning) \s              # ESLint
  | (?: \d\S* [ ] ){{1,2}} (?: \[ [^][]* \] [ ] )? \[? (WARN|WARNING|ERROR|FATAL|DEBUG) \b
  | \S* make (?: \[ \d+ \] )? : [ ] (\*\*\*) [ ]
  | ninja: [ ] (build[ ]stopped)
  | (FAILED) \b (?! [ :]* \d )                  # ninja, pytest
  | (?: ---[ ] )? (FAIL) (?: : | \s | \Z )      # Go, unittest, Jest
  | (Traceback) [ ] \(most
  | (Exception) [ ] in [ ] thread
  | thread [ ] '[^']*' .* (panicked) [ ] at
    """,
    re.VERBOSE,
)
# "Foo.java:10: error: …", "[3/9] warning: …", "(node:7) Warning: …", "a.ts:3:5 - error TS2304: …"
_BEHIND = re.compile(rf"[]:)-][ ] (?: {_SAYS} )", re.VERBOSE)
# "> Task :app:lint FAILED", "FooTest > bar FAILED"; Android's manifest merger
_AT_END = re.compile(r"[ ] (?: (FAILED) | (Warning|Error) : ) \Z", re.VERBOSE)

_DEBUG = {"debug"}
_WARNING = {"w", "warn", "warning", "deprecation"}


def _level(text: str) -> Level:
    lowered = text.lower()
    if lowered[1:3] != ": ":
        for hint in _HINTS:
            if hint in lowered:
                break
        else:
            return Level.INFO
    told = (
        _AT_START.match(text, 0, _FAR_ENOUGH)
        or _BEHIND.search(text, 0, _FAR_ENOUGH)
        or _AT_END.search(text, max(0, len(text) - 10))
    )
    if told is None:
        return Level.INFO
    word = told[told.lastindex or 0].lower()
    return Level.DEBUG if word in _DEBUG else Level.WARNING if word in _WARNING else Level.ERROR
