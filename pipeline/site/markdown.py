"""Markdown → the HTML of a page: headings with anchors, tables that scroll, links between the pages of a site."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

LANGUAGES = ("console", "yaml", "python", "json", "text")  # of fenced blocks


@dataclass(frozen=True)
class Heading:
    """A heading of a page: its level, from 2 on, its text, and the anchor by which links name it."""

    level: int
    text: str
    anchor: str


@dataclass
class Text:
    """A page's text: its title, which is its first heading, the other headings, and the body as HTML."""

    title: str = ""
    headings: list[Heading] = field(default_factory=list)
    body: Markup = Markup()  # noqa: RUF009  # it never changes


def anchor_of(text: str) -> str:
    """The anchor of a heading, as GitHub makes it: so links lead to it there too."""
    kept = (sign for sign in unicodedata.normalize("NFC", text).lower() if sign.isalnum() or sign in " -_")
    return "".join(kept).replace(" ", "-")


def parse(source: str) -> list[Token]:
    """The tokens of a document in Markdown with tables. HTML in it may only be comments, which are not shown."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").parse(source)


def plain(token: Token) -> str:
    """The text of an inline token, without marks."""
    return "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))


def html(source: str, link: Callable[[str], str | None]) -> Text:
    """A document as HTML. `link` gives the URL of what a link in it names, or None: then only its text stays.

    Raises ValueError for HTML that is no comment.
    """
    tokens = parse(source)
    result = Text()
    _anchor(tokens, result)
    for index, token in enumerate(tokens):
        _link(token.children or [], link)
        if token.type == "th_open" and not tokens[index + 1].content:
            token.tag = tokens[index + 2].tag = "td"  # an empty corner is the head of nothing
    renderer = _renderer(result)
    result.body = Markup(renderer.renderer.render(tokens, renderer.options, {}))  # noqa: S704  # text in it is escaped
    return result


def _anchor(tokens: Sequence[Token], result: Text) -> None:
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        text = plain(tokens[index + 1])
        name = anchor_of(text)
        count = seen[name] = seen.get(name, -1) + 1
        token.attrSet("id", f"{name}-{count}" if count else name)
        if token.tag == "h1" and not result.title:
            result.title = text
        else:
            result.headings.append(Heading(int(token.tag[1]), text, str(token.attrGet("id"))))


def _link(children: list[Token], link: Callable[[str], str | None]) -> None:
    """Let each link name what it leads to here; one that leads nowhere is its text."""
    dropped: list[Token] = []
    is_dropped = False
    for child in children:
        if child.type == "link_open":
            url = link(str(child.attrGet("href")))
            is_dropped = url is None
            child.attrSet("href", url or "")
        if is_dropped and child.type in ("link_open", "link_close"):
            dropped.append(child)
    children[:] = [child for child in children if not any(child is one for one in dropped)]


def _renderer(text: Text) -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    above = [""]  # the heading over a table names it
    named: Counter[str] = Counter()  # each table otherwise

    def heading(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        above[0] = plain(tokens[index + 1])
        return str(self.renderToken(tokens, index, options, env))

    def table(_self: Any, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any) -> str:
        name = above[0] or text.title
        named[name] += 1
        label = f"{name}, {named[name]}" if named[name] > 1 else name
        return f'<div class="scroll" role="region" aria-label="Table: {escape(label)}" tabindex="0">\n<table>\n'

    def table_end(_self: Any, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any) -> str:
        return "</table>\n</div>\n"

    def code(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
        words = tokens[index].info.split()
        content = tokens[index].content.rstrip("\n")
        shown = "\n".join(map(_console, content.split("\n"))) if words[:1] == ["console"] else escape(content)
        caption = f'<p class="file"><code>{escape(words[1])}</code></p>\n' if len(words) > 1 else ""
        return f'{caption}<pre tabindex="0"><code>{shown}</code></pre>\n'

    def comment(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
        if not re.fullmatch(r"<!--.*?-->\s*", tokens[index].content, re.DOTALL):
            raise ValueError(f"HTML in a document: {tokens[index].content!r:.100}")
        return ""

    rules = {"heading_open": heading, "table_open": table, "table_close": table_end, "fence": code, "code_block": code}
    for name, rule in {**rules, "html_block": comment, "html_inline": comment}.items():
        markdown.add_render_rule(name, rule)
    return markdown


def _console(line: str) -> Markup:
    """A line of a console: what is typed stands out, and its prompt is not copied with it."""
    if line.startswith("$ "):
        return Markup('<span class="prompt">$ </span><b>{}</b>').format(line[2:])
    return escape(line)
