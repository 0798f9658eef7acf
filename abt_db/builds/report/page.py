"""The page of a report, from its figures."""

from __future__ import annotations

from collections.abc import Iterable

from . import elements, lists, plot, wording
from .figures import Figures, ProjectReport, Report
from .markup import Html, document, joined, tag
from .scale import Span
from .style import SCRIPT, STYLE


def render(report: Report) -> str:
    """Return the page as one HTML document, the same for the same report.

    It loads nothing, links nowhere but to itself, and shows what a log contains as text.
    """
    totals, database = report.totals, elements.shortened(report.database)
    size = ("size", "Size of the tables", lists.tables(report))
    if totals is None:
        sections = [("", "", _nothing(report)), size]
    else:
        span = Span.of(report.unit, totals.first_at, totals.last_at)
        sections = [
            ("time", "Over time", _over_time(report, totals, span)),
            ("projects", "Projects", lists.projects(report)),
            ("slow", "Slowest builds", lists.slowest(report)),
            ("flaky", "Flaky commits", lists.flaky(report)),
            ("errors", "Most frequent errors", lists.problems(report)),
            size,
            ("each", "Project by project", _details(report, totals, span)),
        ]
    return document(
        f"Build report: {database}",
        _header(report, [(id, title) for id, title, _ in sections if id]),
        tag(
            "main",
            None if totals is None else _totals(report, totals),
            *(_section(id, title, content) for id, title, content in sections),
        ),
        tag(
            "footer",
            tag("p", f"Made by abt-db from {database}. All times are in UTC."),
        ),
        style=STYLE,
        script=SCRIPT,
    )


def _section(id: str, title: str, content: Html) -> Html:
    heading = tag("h2", title) if title else None
    return tag("section", heading, content, id=id or None)


# -- at the top ----------------------------------------------------------------------------------


def _header(report: Report, sections: Iterable[tuple[str, str]]) -> Html:
    totals = report.totals
    about = "some projects" if report.named else "all projects"
    if report.since is not None:
        about += f" since {wording.day(report.since)}"
    if totals is not None:
        first, last = wording.day(totals.first_at), wording.day(totals.last_at)
        about += f", {first}" if first == last else f", {first} – {last}"
    return tag(
        "header",
        tag("h1", "Build report"),
        tag(
            "p",
            elements.name(report.database),
            f" ({wording.size(report.file_size)}): {about}. Made ",
            elements.time(report.now, wording.minute(report.now)),
            " UTC.",
        ),
        tag(
            "nav",
            tag("ul", *(tag("li", elements.link(id, title)) for id, title in sections)),
            aria_label="On this page",
        ),
    )


def _totals(report: Report, totals: Figures) -> Html:
    facts = [
        (wording.count(report.project_count), wording.noun(report.project_count, "project")),
        (wording.count(totals.builds), wording.noun(totals.builds, "build")),
        (wording.percent(totals.success_rate), "succeeded"),
        (wording.count(report.failing), f"{wording.noun(report.failing, 'project')} failing now"),
        (wording.duration(totals.median), "median duration"),
        (wording.duration(totals.p95), "95 % within"),
        (wording.count(report.log_lines), "log lines"),
        (wording.count(totals.running), "running now"),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", what), tag("dd", figure)) for figure, what in facts),
        class_="totals",
    )


def _nothing(report: Report) -> Html:
    if report.since is None and not report.named:
        return tag(
            "p",
            "There are no builds yet. Record one: ",
            tag("code", "abt-db record --project NAME -- COMMAND …"),
        )
    return tag("p", "There are no builds in this choice of projects and time.")


# -- over all ------------------------------------------------------------------------------------


def _over_time(report: Report, totals: Figures, span: Span) -> Html:
    parts, unit = report.parts, span.unit
    return tag(
        "div",
        _card(
            f"Builds per {unit}",
            plot.counts(span, parts),
            elements.legend(_kinds(totals, "ok", "bad", "off", "now")),
        ),
        _card(
            f"Success rate per {unit}",
            plot.rates(span, parts),
            elements.legend([("curve ok", "succeeded, of those that ended")]),
        )
        if totals.ended
        else None,
        _card(
            f"Duration per {unit}",
            plot.durations(span, parts),
            elements.legend([("curve ok", "median"), ("curve off", "95 % within")]),
        )
        if totals.median is not None
        else None,
        class_="cards close",
    )


def _card(title: str, *content: Html) -> Html:
    return tag("figure", tag("h3", title), *content, class_="card")


def _kinds(totals: Figures, ok: str, bad: str, off: str, now: str) -> list[tuple[str, str]]:
    """What the marks for builds mean, as far as there are such builds."""
    kinds = [(ok, "succeeded"), (bad, "failed")]
    if totals.cancelled:
        kinds.append((off, "cancelled"))
    if totals.running + totals.pending:
        kinds.append((now, "not ended"))
    return kinds


# -- project by project --------------------------------------------------------------------------


def _details(report: Report, totals: Figures, span: Span) -> Html:
    return joined(
        [
            tag(
                "p",
                f"Above, the success rate per {span.unit}; below, each of the last builds by its"
                " duration.",
                class_="note",
            ),
            elements.legend(
                [
                    *_kinds(totals, "dot", "cross", "ring off", "ring now"),
                    ("median", "median"),
                ]
            ),
            tag(
                "div",
                *(
                    _detail(each, span)
                    for each in sorted(report.projects, key=lambda each: each.project.name)
                ),
                class_="cards",
            ),
        ]
    )


def _detail(each: ProjectReport, span: Span) -> Html:
    project, figures = each.project, each.figures
    facts = [
        (wording.noun(figures.builds, "build"), wording.count(figures.builds)),
        ("succeeded", wording.percent(figures.success_rate)),
        ("median", wording.duration(figures.median)),
        ("longest", wording.duration(figures.longest)),
    ]
    return tag(
        "article",
        tag(
            "div",
            tag("h3", elements.name(project.name)),
            elements.state(each.last_builds[-1], brief=True),
            class_="head",
        ),
        tag(
            "dl",
            *(tag("div", tag("dt", what), tag("dd", figure)) for what, figure in facts),
            class_="facts",
        ),
        plot.history(span, each),
        tag(
            "p",
            f"{elements.shortened(project.project_type)} · {elements.shortened(project.branch)} · ",
            tag(
                "span",
                elements.shortened(project.repository_url.removeprefix("https://")),
                class_="name",
            ),
            class_="from",
        ),
        class_="card",
        id=elements.anchor(each),
    )
