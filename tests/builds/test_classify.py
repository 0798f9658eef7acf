"""Levels and sources of lines, as real tools print them."""

from __future__ import annotations

import json
import lzma
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.suite import SOON

from abt_db.builds.classify import Classifier, Level

ERRORS = """\
e: file:///src/app/Main.kt:12:5 Unresolved reference 'foo'.
error: incompatible types: String cannot be converted to int
FAILURE: Build failed with an exception.
BUILD FAILED in 1m 29s
> Task :app:compileDebugKotlin FAILED
CalculatorTest > adds() FAILED
ERROR: Missing classes detected while running R8.
ERROR:/src/app/proguard-rules.pro:6:1-27: R8: Unknown option
     ERROR: /src/app/AndroidManifest.xml:2: AAPT: error: attribute not found.
/src/app/src/main/res/values/strings.xml:266: Error: "open" is not translated [MissingTranslation]
/src/Foo.java:10: error: ';' expected
main.c:12:3: error: 'x' undeclared (first use in this function)
main.c:1:10: fatal error: nothing.h: No such file or directory
C/C++: /src/native.cpp:3:4: error: expected ';'
error[E0308]: mismatched types
error: could not compile `app` (bin "app") due to 1 previous error
collect2: error: ld returned 1 exit status
/usr/bin/ld: main.o:main.c:3: undefined reference to `f'
ld.lld: error: undefined symbol: f
FAILED: obj/main.o
[3/9] error: something broke
ninja: build stopped: subcommand failed.
ninja: error: loading 'build.ninja': No such file or directory
make: *** [Makefile:3: app] Error 1
gmake[2]: *** Waiting for unfinished jobs....
CMake Error at CMakeLists.txt:8 (message):
  error: subprocess-exited-with-error
ERROR: Failed building wheel for app
npm ERR! code ELIFECYCLE
npm error code ERESOLVE
error Command failed with exit code 1.
ERROR in ./src/index.js 3:0-21
src/app.ts:3:5 - error TS2304: Cannot find name 'foo'.
src/app.ts(3,5): error TS2304: Cannot find name 'foo'.
  3:5  error  'foo' is not defined  no-undef
Traceback (most recent call last):
ValueError: not a number
subprocess.CalledProcessError: Command '['false']' returned non-zero exit status 1.
Exception in thread "main" java.lang.NullPointerException
Caused by: java.io.IOException: Stream closed
java.lang.IllegalStateException
thread 'main' panicked at src/main.rs:2:5:
panic: runtime error: index out of range
--- FAIL: TestAdd (0.00s)
FAILED tests/test_app.py::test_add - assert 1 == 2
tests/test_app.py::test_add FAILED
[ERROR] Failed to execute goal on project app
[error] not found: value foo
[INFO] BUILD FAILURE
2026-03-01 12:00:00,123 ERROR app.main - it broke
2026-03-01T12:00:00.123+0000 [ERROR] [org.gradle.Foo] it broke
fatal: early EOF
dpkg: error: need an action option
E: Unable to locate package foo"""

WARNINGS = """\
w: file:///src/app/Main.kt:12:5 Parameter 'x' is never used
warning: [options] source value 8 is obsolete and will be removed in a future release
WARNING: We recommend using a newer Android Gradle plugin to use compileSdk = 35
WARNING:The option setting 'android.disableResourceValidation=true' is experimental.
Warning: Lint will treat :domain as an external dependency and not analyze it.
warn: removing resource app:string/name without required default value.
/src/app/src/main/AndroidManifest.xml:163:2-1065:16 Warning:
/src/Foo.java:387: warning: [deprecation] getColor(int) in Resources has been deprecated
main.c:12:3: warning: unused variable 'x' [-Wunused-variable]
warning: unused variable: `x`
update-alternatives: warning: forcing reinstallation
CMake Warning (dev) at CMakeLists.txt:8 (message):
C/C++: CMake Deprecation Warning at CMakeLists.txt:1 (cmake_minimum_required):
DEPRECATION: Legacy editable install of app is deprecated.
npm WARN deprecated har-validator@5.1.5: this library is no longer supported
warning " > eslint-plugin@5.1.3" has unmet peer dependency "prettier@>=3.0.0".
WARNING in asset size limit: The following asset(s) exceed the recommended size limit.
[WARN] Incremental annotation processing requested
[WARNING] Using platform encoding
[warn] one deprecation
/src/app.py:3: DeprecationWarning: invalid escape sequence
(node:7) [DEP0005] DeprecationWarning: Buffer() is deprecated
[main] WARN org.app.Main - careful
Warning in /src/lib.jar:"""

DEBUGS = """\
DEBUG: Rule 'foo' indicated that a canonical form can be obtained
[DEBUG] Configuring mojo
2026-03-01T12:00:00.123+0000 [DEBUG] [org.gradle.Foo] error: of no importance"""

INFOS = """\

> Task :app:compileDebugKotlin UP-TO-DATE
BUILD SUCCESSFUL in 5m 1s
0 errors
22 errors, 0 warnings
1 warning
no warnings
gcc -Wall -Werror -c error_handler.c -o error.o
error_handler.c
warning_count = 3
[12/90] CC errors/warning.o
   Compiling thiserror v1.0
   Compiling error::Error v1.0
error::Error is a type
 - Enhanced Error and Warning Messages
ERROR HANDLING AND WARNINGS
Failed: 0
FAILED: 0
-- Looking for error.h - not found
-keep public class * extends java.lang.Exception
test_fails_with_error (tests.test_app) ... ok
You can use '--warning-mode all' to show the individual deprecation warnings
Failed to clone 'external/fmt'. Retry scheduled
{"error": null, "warning": false}
[INFO] 0 errors
> Task :app:assembleDebug
Building debug.apk without errors: done
    at java.lang.Exception.foo(Exception.java:3)
fixing 'assets/scripts/debug.lua'..."""


def level(message: str) -> Level:
    return Classifier().classify(message)[0]


class TestLevels:
    """A line has the level that its text plainly tells, and is otherwise INFO."""

    @pytest.mark.parametrize("message", ERRORS.splitlines())
    def test_this_is_an_error(self, message: str) -> None:
        assert level(message) is Level.ERROR

    @pytest.mark.parametrize("message", WARNINGS.splitlines())
    def test_this_is_a_warning(self, message: str) -> None:
        assert level(message) is Level.WARNING

    @pytest.mark.parametrize("message", DEBUGS.splitlines())
    def test_this_is_for_debugging(self, message: str) -> None:
        assert level(message) is Level.DEBUG

    @pytest.mark.parametrize("message", INFOS.splitlines())
    def test_this_is_neither(self, message: str) -> None:
        assert level(message) is Level.INFO

    @pytest.mark.parametrize(
        "message",
        [
            "\x1b[1m\x1b[31merror\x1b[0m\x1b[1m: cannot find value `x`\x1b[0m",
            "\x1b[1mmain.c:1:2:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kexpected ';'",
            "\x1b]8;;file:///main.c\x07main.c:1:2\x1b]8;;\x07: error: expected ';'",
            "[1/9] CC a.o\r[2/9] CC b.o\rmain.c:1:2: error: expected ';'",
            "\x1b[2K\rerror: expected ';'",
            "error: expected ';'\r",
            "> Task :app:lint FAILED\r",
            "   error: expected ';'",
        ],
    )
    def test_colours_and_progress_do_not_hide_an_error(self, message: str) -> None:
        assert level(message) is Level.ERROR

    def test_what_progress_has_written_over_does_not_count(self) -> None:
        assert level("error: retrying\rdownloaded") is Level.INFO

    def test_levels_have_an_order(self) -> None:
        assert [least for least in Level if Level.WARNING.at_least(least)] == [
            Level.DEBUG,
            Level.INFO,
            Level.WARNING,
        ]


class TestSources:
    """What stands under the header of a Gradle task comes from it."""

    def test_lines_belong_to_the_task_until_the_next_header_or_the_summary(self) -> None:
        log = """\
            Starting a Gradle Daemon
            > Configure project :app
            WARNING: The option is experimental.
            > Task :app:compileDebugKotlin
            w: Main.kt:1:2 unused

            e: Main.kt:2:2 unresolved
            > Task :lib:native:configureCMake[arm64-v8a] FAILED
            C/C++: ninja
            FAILURE: Build failed with an exception.
            Run with --info.
            > Task :clean
            BUILD SUCCESSFUL in 1s
            done"""
        assert sources(log) == [
            None,
            *[":app"] * 2,
            *[":app:compileDebugKotlin"] * 4,
            *[":lib:native:configureCMake[arm64-v8a]"] * 2,
            *[None] * 2,
            ":clean",
            *[None] * 2,
        ]

    def test_the_root_project_has_a_name(self) -> None:
        assert sources("> Configure project :\nfoo\n> Task :assemble\r\nbar") == [
            *[":"] * 2,
            *[":assemble"] * 2,
        ]

    def test_a_quoted_header_is_none(self) -> None:
        assert sources('echo "> Task :app:lint"') == [None]

    def test_what_went_wrong_is_an_error_to_the_end_of_the_paragraph(self) -> None:
        log = """\
            > Task :app:lint FAILED

            * What went wrong:
            Execution failed for task ':app:lint'.
            > A failure occurred
               > No such file

            * Try:
            > Run with --stacktrace"""
        error, info = Level.ERROR, Level.INFO
        assert told(log) == [
            (error, ":app:lint"),
            (info, ":app:lint"),
            (error, None),
            (error, ":app:lint"),
            (error, None),
            (error, None),
            (info, None),
            (info, None),
            (info, None),
        ]


class TestEffort:
    """A line takes about a microsecond, and a strange one no more than its length allows."""

    @given(st.text(st.sampled_from(" :[]()-\x1b\r\\]*.'aAeEw1/") | st.characters(), max_size=200))
    def test_any_text_has_a_level(self, message: str) -> None:
        assert level(message) in Level

    @pytest.mark.parametrize(
        "unit",
        [" ", "a", "\r", "\x1b", "\x1b[", "\x1b]", "\x1b[0m", "a.", "A", "error[", ": error[",
         ": error ", ": [ ", "- a.", "1 ", "[", "thread '", " FAILED", "> Task :", ":a", ": [debug",
         "Execution failed for task '", "ERROR ", ") (", "é: "],
    )  # fmt: skip
    def test_a_line_of_a_mebibyte_is_fine(self, unit: str) -> None:
        for start in ("", "error", "> Task :", "* What went wrong:", "thread 'panic", "[debug] 1 "):
            message = start + unit * (2**20 // len(unit))
            started = time.process_time()
            level(message)
            # What looked at each part of the line from each of its parts would take hours.
            assert time.process_time() - started < SOON

    def test_a_source_is_not_as_long_as_the_line(self) -> None:
        _, source = Classifier().classify("> Task :" + "a" * 2**20)
        assert source is not None
        assert len(source) < 10_000

    def test_a_typical_line_is_cheap(self) -> None:
        """By the calls that it takes, which are the same on every machine."""
        classify = Classifier().classify
        message = "Preparing to unpack .../50-openjdk-17-jre-headless_17.0.10+7_amd64.deb ...\r"
        calls: list[str] = []
        sys.setprofile(lambda _frame, event, _argument: calls.append(event))
        try:
            classify(message)
        finally:
            sys.setprofile(None)
        assert sum(event in ("call", "c_call") for event in calls) < 16


class TestRealLogs:
    """The logs of some hundred builds of Android apps, which say what they say."""

    @pytest.mark.large
    def test_levels_and_sources_of_real_logs(self, rbtlog: Path) -> None:
        levels: Counter[Level] = Counter()
        missed: Counter[str] = Counter()
        with lzma.open(rbtlog / "builds.jsonl.xz", "rt", encoding="utf-8") as builds:
            for build in builds:
                classifier = Classifier()
                for message in json.loads(build)["build_log"].split("\n"):
                    of_line, source = classifier.classify(message)
                    levels[of_line] += 1
                    assert source is None or source.startswith(":")
                    if message.startswith(("w: ", "warning: ", "WARNING:")):
                        missed["warning"] += of_line is not Level.WARNING
                    elif message.startswith(("e: ", "error: ", "ERROR:", "FAILURE:", "BUILD FAI")):
                        missed["error"] += of_line is not Level.ERROR
                    else:
                        assert of_line is not Level.WARNING or "arn" in message.lower()
        assert missed.total() == 0
        # What the rules found when a sample of every kind of line, found and not, was right.
        assert 24_500 < levels[Level.WARNING] < 26_000
        assert 650 < levels[Level.ERROR] < 800
        assert levels[Level.DEBUG] == 0


def told(log: str) -> list[tuple[Level, str | None]]:
    classify = Classifier().classify
    return [classify(line) for line in log.split("\n")]


def sources(log: str) -> list[str | None]:
    return [source for _, source in told(log)]
