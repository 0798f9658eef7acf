"""HTML and SVG in which a value can't be anything but text.

`tag` makes all markup there is, and escapes whatever is not markup already; so to leave a value
unescaped is not a slip but a decision, which is taken nowhere outside this module.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape


class Html(str):
    """Markup. What is put together from it by other means than these functions is text again."""

    __slots__ = ()


_VOID = frozenset({"meta", "wbr"})
_SHAPES = frozenset({"circle", "line", "path", "rect"})

# What moves the cursor, turns the direction of writing, or may not stand in a document. Controls
# have pictures; for the others stands the sign for what can't be shown.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


def text(value: object) -> Html:
    """A value as text: whatever it contains, a reader sees it and a browser does not obey it."""
    return Html(escape(_UNSEEN.sub(_picture, str(value))))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one behind the other, each escaped unless it is markup; None is left out."""
    return Html(text(between).join(_markup(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children are escaped unless they are markup; None among them is left out.

    `class_` is the attribute class and `aria_label` is aria-label; one that is None is left out.
    """
    opened = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{opened}>")
    inside = joined(children)
    if name in _SHAPES and not inside:
        return Html(f"<{name}{opened}/>")
    return Html(f"<{name}{opened}>{inside}</{name}>")


def _markup(value: object) -> Html:
    return value if isinstance(value, Html) else text(value)


def document(title: str, *body: Html, style: str, script: str) -> Html:
    """A whole page, which may use its own style and script and nothing else, from nowhere.

    (https://www.w3.org/TR/CSP3/: a browser runs only what has the hash that the policy names.)
    """
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none';"
        f" style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    )
    page = tag("html", head, tag("body", *body, Html(f"<script>{script}</script>")), lang="en")
    return Html(f"<!DOCTYPE html>\n{page}\n")


def _hash(content: str) -> str:
    return b64encode(sha256(content.encode()).digest()).decode()
