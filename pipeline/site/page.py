"""One page: head, navigation and foot around what it has to say. All text is escaped, all links are relative."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from pipeline.plain import plain_lines

_HERE = Path(__file__).parent
_ASSETS = "assets"  # the folder of the site that has style and scripts


@dataclass(frozen=True)
class Place:
    """An entry of the navigation: pages say by its `name` that they belong to it. `path` is from the site's root."""

    name: str
    title: str
    path: str


MODELS = Place("models", "Models", "index.html")
DEVICES = Place("devices", "Devices", "devices/index.html")
DOCS = Place("docs", "Documentation", "docs/index.html")


@dataclass(frozen=True)
class Frame:
    """What all pages of a site share: what it is called, its navigation, and a line at the foot of each page."""

    name: str
    places: tuple[Place, ...]
    foot: str = ""


@dataclass(frozen=True)
class Page:
    """A page: `path` from the site's root (`docs/start.html`), the name of its `place` in the navigation, what it is `about`.

    `scripts` are the assets that it needs beside `site.js`.
    """

    path: str
    title: str
    place: str = ""
    about: str = ""
    scripts: tuple[str, ...] = ()

    def link(self, target: str) -> str:
        """The URL of `target`, a path from the site's root with or without `#…`, as seen from this page."""
        path, mark, anchor = target.partition("#")
        seen = posixpath.relpath(path, posixpath.dirname(self.path) or ".") if path else ""
        return f"{quote(seen)}{mark}{quote(anchor)}"


def render(frame: Frame, page: Page, template: str, **values: object) -> bytes:
    """The page, laid out by the template of this name.

    Text among `values` is escaped; HTML is a `Markup`, for `text.html.j2` a `body`.
    """
    return _environment().get_template(template).render(frame=frame, page=page, **values).encode()


def fragment(template: str, **values: object) -> Markup:
    """A part of pages, laid out by the template of this name."""
    return Markup(_environment().get_template(template).render(**values))  # noqa: S704  # what the template escaped


def assets() -> Mapping[str, bytes]:
    """Style and scripts, by their paths from the site's root."""
    return {f"{_ASSETS}/{path.name}": path.read_bytes() for path in sorted((_HERE / _ASSETS).iterdir())}


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seen(value: Any) -> Any:
    """Text without what hides letters or turns them around: manifests have none, words of tools and machines may."""
    return "\n".join(plain_lines(value)) if isinstance(value, str) and not isinstance(value, Markup) else value
