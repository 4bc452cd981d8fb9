"""The documentation as pages: which there are, for whom, and where their text is. See `pipeline/README.md`, "Documentation"."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.site import reference
from pipeline.site.markdown import Text, html
from pipeline.site.page import DOCS, Frame, Page, render
from pipeline.spec import defaults

_PACKAGE = Path(__file__).parents[1]
# Where documents are called so in links between them: the repository's folders, which a wheel has elsewhere.
_FOLDERS: Mapping[str, Path] = {"pipeline": _PACKAGE, "targets": defaults.folder()}


@dataclass(frozen=True)
class Document:
    """A page: its `name` in URLs, its `title` in the navigation, and its text: a file of the repository, or made."""

    name: str
    title: str
    source: str | Callable[[], str]

    @property
    def path(self) -> str:
        """The page, from the site's root."""
        return f"docs/{self.name}.html"

    @property
    def place(self) -> str:
        """Its file in the repository, from its root; of one that is made, where it would be."""
        return self.source if isinstance(self.source, str) else f"pipeline/docs/{self.name}.md"

    def text(self) -> str:
        """Its Markdown."""
        if not isinstance(self.source, str):
            return self.source()
        folder, _, rest = self.source.partition("/")
        return (_FOLDERS[folder] / rest).read_text("utf-8")


@dataclass(frozen=True)
class Part:
    """A part of the navigation, for one kind of reader."""

    title: str
    about: str
    documents: tuple[Document, ...]


def _page(name: str, title: str) -> Document:
    return Document(name, title, f"pipeline/docs/{name}.md")


INDEX = Document("index", "Documentation", "pipeline/docs/index.md")
PARTS = (
    Part(
        "I make releases",
        "From a model's file to a verified release that others fetch.",
        (
            _page("start", "Your first release"),
            Document("specs", "Describe models and targets", "targets/README.md"),
            _page("s3", "Publish to S3"),
            _page("ci", "Release from CI"),
            _page("witness", "Verify on other machines"),
            _page("keys", "Sign what you publish"),
            _page("cluster", "Share code and a cluster"),
            Document("runbook", "When something went wrong", "pipeline/runbook.md"),
        ),
    ),
    Part(
        "I use a release",
        "Fetch a model, run it, and know which code runs and why.",
        (
            _page("use", "Fetch, run, explain"),
            _page("offline", "Offline, copies and locks"),
        ),
    ),
    Part(
        "How and why",
        "What stands behind it.",
        (
            _page("why", "Why a plain fat file is wrong"),
            _page("verified", "What “verified” means"),
            Document("threats", "What an attacker can do", "pipeline/threats.md"),
        ),
    ),
    Part(
        "I change the pipeline",
        "How it works, and where to change what.",
        (Document("inside", "How it works", "pipeline/README.md"),),
    ),
    Part(
        "Reference",
        "Every key, command, variable and message.",
        (
            Document("spec-keys", "Keys of specs", reference.spec_keys),
            Document("vmfb", "The command vmfb", reference.vmfb),
            Document("doit", "The steps of doit", reference.doit),
            Document("manifest", "Manifests and other documents", reference.manifest),
            Document("s3-policies", "Policies for S3", reference.s3_policies),
            Document("variables", "Environment and exit codes", reference.variables),
            Document("messages", "Messages", reference.messages),
        ),
    ),
)
ALL = (INDEX, *(document for part in PARTS for document in part.documents))
# Documents that are in the repository alone: links to them are text.
ELSEWHERE = ("README.md", "CHANGELOG.md", "tests/bench/README.md")


def target(document: Document, href: str) -> str | None:
    """What a link in a document leads to: a URL as it is, a page from the site's root, or None, for a file that is no page.

    Raises ValueError for a file that is none of the repository's documents.
    """
    if "://" in href or href.startswith("mailto:"):
        return href
    path, mark, anchor = href.partition("#")
    named = posixpath.normpath(posixpath.join(posixpath.dirname(document.place), path)) if path else document.place
    found = next((one for one in ALL if one.place == named), None)
    if found is None and named.endswith(".md") and named not in ELSEWHERE:
        raise ValueError(f"{document.place} links to {href}, which is no page")
    return f"{found.path}{mark}{anchor}" if found else None


def body(document: Document, page: Page) -> Text:
    """A document as HTML, its links as seen from a page."""

    def link(href: str) -> str | None:
        found = target(document, href)
        return found if found is None or "://" in found or found.startswith("mailto:") else page.link(found)

    return html(document.text(), link)


def pages(frame: Frame) -> Iterator[tuple[str, bytes]]:
    """Every page of the documentation, by its path from the site's root."""
    for document in ALL:
        page = Page(document.path, document.title, DOCS.name)
        text = body(document, page)
        at = ALL.index(document)
        around = {"before": ALL[at - 1] if at else None, "after": ALL[at + 1] if at + 1 < len(ALL) else None}
        yield page.path, render(frame, page, "document.html.j2", document=document, parts=PARTS, text=text, index=INDEX, **around)
