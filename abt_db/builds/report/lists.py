"""The lists of a report: projects, slow and flaky builds, errors, tables."""

from __future__ import annotations

from . import elements, marks, wording
from .figures import Report
from .markup import Html, joined, tag

LENGTH = 300
"""Characters of an error line that are shown."""


def projects(report: Report) -> Html:
    """All projects, one a line."""
    # Those that need somebody come first, then those that were built last.
    shown = sorted(report.projects, key=lambda project: not project.failing)
    rows = []
    for each in shown:
        figures, last = each.figures, each.last_builds[-1]
        rows.append(
            tag(
                "tr",
                tag(
                    "th",
                    elements.link(elements.anchor(each), elements.name(each.project.name)),
                    scope="row",
                ),
                tag("td", marks.strip(each.last_builds)),
                elements.number(wording.count(figures.builds), rank=figures.builds, less=True),
                elements.number(wording.percent(figures.success_rate), rank=figures.success_rate),
                elements.number(wording.duration(figures.median), rank=figures.median),
                elements.number(wording.duration(figures.p95), rank=figures.p95, less=True),
                tag("td", elements.state(last), class_="t less"),
                tag(
                    "td",
                    elements.time(last.at, wording.day(last.at)),
                    class_="t less",
                    data_value=int(last.at.timestamp()),
                ),
            )
        )
    return joined(
        [
            tag(
                "p",
                "Those whose last build failed first, then those built last. A bar is a build, as"
                " high as it took long.",
                class_="note",
            ),
            elements.table(
                [
                    ("project", "up"),
                    ("last builds", "n"),
                    ("builds", "n less down"),
                    ("success", "n down"),
                    ("median", "n down"),
                    ("95 % within", "n less down"),
                    ("last build", "less up"),
                    ("on", "less down"),
                ],
                rows,
                sorts=True,
            ),
            _left_out(report),
        ]
    )


def _left_out(report: Report) -> Html | None:
    told = []
    if more := report.project_count - len(report.projects):
        told.append(
            f"{wording.plural(more, 'more project')} built earlier: to see one, name it behind"
            " `abt-db report`."
        )
    if report.idle_count:
        names = ", ".join(elements.shortened(name) for name in report.idle)
        dots = ", …" if report.idle_count > len(report.idle) else "."
        told.append(
            f"{wording.plural(report.idle_count, 'project')} without a build"
            f"{' in this time' if report.since else ''}: {names}{dots}"
        )
    return tag("p", " ".join(told), class_="note") if told else None


def slowest(report: Report) -> Html:
    """The builds that took longest, beside what their projects take as a rule."""
    if not report.slowest:
        return tag("p", "No build has ended yet.", class_="note")
    medians = {each.project.id: each.figures.median for each in report.projects}
    longest = report.slowest[0].seconds
    rows = []
    for build in report.slowest:
        median = medians.get(build.project_id)
        rows.append(
            tag(
                "tr",
                tag(
                    "th", elements.name(build.project_name), f" #{build.build_number}", scope="row"
                ),
                tag("td", elements.state(build), class_="t less"),
                tag("td", elements.time(build.at, wording.day(build.at)), class_="t less"),
                tag(
                    "td",
                    marks.share(
                        (build.seconds / longest if longest else 0, marks.KINDS[build.status])
                    ),
                ),
                elements.number(wording.duration(build.seconds)),
                elements.number(f"{build.seconds / median:.1f} ×" if median else "–", less=True),
            )
        )
    return elements.table(
        [
            ("build", ""),
            ("status", "less"),
            ("on", "less"),
            ("", ""),
            ("duration", "n"),
            ("of its project's median", "n less"),
        ],
        rows,
    )


def flaky(report: Report) -> Html:
    """Commits that both failed and succeeded."""
    note = tag(
        "p",
        "The same commit both failed and succeeded: what failed was not, or not only, the source.",
        class_="note",
    )
    if not report.flaky:
        return tag("p", "No commit has both failed and succeeded.", class_="note")
    rows = [
        tag(
            "tr",
            tag("th", elements.name(commit.project_name), scope="row"),
            tag("td", tag("code", commit.commit_hash[:12])),
            elements.number(wording.count(commit.failed)),
            elements.number(wording.count(commit.succeeded)),
            tag("td", elements.time(commit.last_at, wording.day(commit.last_at)), class_="t less"),
        )
        for commit in report.flaky
    ]
    titles = [("project", ""), ("commit", ""), ("failed", "n"), ("succeeded", "n"),
              ("last build", "less")]  # fmt: skip
    return joined([note, elements.table(titles, rows)])


def problems(report: Report) -> Html:
    """The error lines that most builds have printed."""
    if not report.problems:
        return tag("p", "No build has printed an error.", class_="note")
    most = max(problem.builds for problem in report.problems)
    rows = []
    for problem in report.problems:
        failed = problem.failed / most
        rows.append(
            tag(
                "tr",
                tag(
                    "td",
                    tag(
                        "code",
                        elements.shortened(problem.pattern, LENGTH),
                        title=elements.shortened(f"{problem.build}: {problem.example}", LENGTH),
                    ),
                ),
                tag(
                    "td",
                    marks.share((failed, "bad"), (problem.builds / most - failed, "off")),
                    class_="less",
                ),
                elements.number(wording.count(problem.builds)),
                elements.number(wording.count(problem.failed)),
                elements.number(wording.count(problem.lines), less=True),
            )
        )
    inexact = (
        "" if report.problems_exact else " There were too many to count all: at least so often."
    )
    return joined(
        [
            tag(
                "p",
                "By the number of builds that printed one. Lines that differ only in numbers, paths"
                f" and addresses (…) count as one; Gradle's headings are left out.{inexact}",
                class_="note",
            ),
            elements.table(
                [
                    ("error", ""),
                    ("", "less"),
                    ("builds", "n"),
                    ("failed", "n"),
                    ("lines", "n less"),
                ],
                rows,
            ),
        ]
    )


def tables(report: Report) -> Html:
    """What each table takes in the file."""
    if not report.tables:
        return tag(
            "p",
            f"The file has {wording.size(report.file_size)}, of which"
            f" {wording.size(report.free_size)} are free. This SQLite was built without dbstat,"
            " which tells the sizes of single tables.",
            class_="note",
        )
    whole = max(report.file_size, 1)
    rows = [
        tag(
            "tr",
            tag("th", elements.name(table.name), scope="row"),
            elements.number(wording.count(table.rows)),
            elements.number(wording.size(table.data), less=True),
            elements.number(wording.size(table.indexes), less=True),
            elements.number(wording.size(table.data + table.indexes)),
            tag("td", marks.share((table.data / whole, "ok"), (table.indexes / whole, "off"))),
        )
        for table in report.tables
    ]
    free = wording.size(report.free_size)
    return joined(
        [
            tag(
                "p",
                f"{wording.size(report.file_size)} in all, {free} of it free.",
                class_="note",
            ),
            elements.table(
                [
                    ("table", ""),
                    ("rows", "n"),
                    ("data", "n less"),
                    ("indexes", "n less"),
                    ("size", "n"),
                    ("share of the file", ""),
                ],
                rows,
            ),
            elements.legend([("ok", "data"), ("off", "indexes")]),
        ]
    )
