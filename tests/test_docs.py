"""The documentation: every example does what stands there, every link leads somewhere, and what is described is what there is."""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import boto3
import pytest

import pipeline
from pipeline import cli, variables
from pipeline.groups import GROUPS, WORDS
from pipeline.site import documents, reference
from pipeline.site.documents import ALL, Document
from pipeline.site.markdown import LANGUAGES, html, parse
from pipeline.site.page import DOCS, Frame
from pipeline.tasks import ASKED
from tests import servers
from tests.examples import Shell, commands, examples, fits, follow
from tests.project import ROOT

PACKAGE = Path(pipeline.__file__).parent
README = Document("readme", "README", "README.md")
FRAME = Frame("catalogue", (DOCS,), "foot")
WRITTEN = [document for document in ALL if isinstance(document.source, str)]


def text_of(document: Document) -> str:
    return (ROOT / "README.md").read_text("utf-8") if document is README else document.text()


# Examples


def _damage(project: Path) -> None:
    store = project / "out" / "store"
    files = (path for path in (store / "blobs").rglob("*") if path.is_file())
    blob = max(files, key=lambda path: path.stat().st_size)
    blob.write_bytes(b"x" * blob.stat().st_size)
    (store / "releases" / "example" / "2.0" / "manifest.json").write_bytes(b"{")
    (store / "index.json").unlink()


def _make_old(project: Path) -> None:
    """All of it was published two days ago, and there is something that nobody needs."""
    store = project / "out" / "store"
    blob = store / "blobs" / "sha256" / "00" / ("0" * 64)
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"x")
    before = time.time() - 2 * 86400
    for path in store.rglob("*"):
        if path.is_file():
            os.utime(path, (before, before))


FIRST: dict[str, Callable[[Path], None]] = {"damage": _damage, "make old": _make_old}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that the tutorial's reader has in the end, when all of it printed what stands there."""
    shell = Shell(tmp_path_factory.mktemp("tutorial"), {"PIPELINE_CACHE_DIR": os.environ["PIPELINE_CACHE_DIR"]})
    check(next(document for document in ALL if document.name == "start"), shell)
    return shell.folder / "models"


@pytest.fixture(scope="session")
def released(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And two more releases of its example, 1.0 and 2.0."""
    project = Path(shutil.copytree(made, tmp_path_factory.mktemp("released") / "models"))
    shell = Shell(project, {})
    for version in ("1.0", "2.0"):
        printed, code = shell.run(f"doit publish:example version={version}")
        assert code == 0, "\n".join(printed)
    return project


@pytest.fixture
def bucket(released: Path, seaweedfs: servers.Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """And AWS's variables, as who reads the page has them, for a server with an empty bucket."""
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    boto3.client("s3").create_bucket(Bucket="models")
    return released


def check(document: Document, shell: Shell) -> None:
    """Follow a page, and raise at the first command that does anything else than what stands there."""
    for command, printed, code in follow(examples(text_of(document)), shell, FIRST):
        assert fits(printed, command.printed), f"{document.place}: $ {command.text}\n" + "\n".join(printed)
        assert code == command.code, f"{document.place}: $ {command.text} ended with {code}\n" + "\n".join(printed)


def test_the_tutorial_does_what_it_says(made: Path) -> None:
    assert (made / "out" / "store" / "index.json").is_file()


RUN = [d for d in WRITTEN if d.name != "start" and any(b.commands and not b.skipped for b in examples(d.text()).blocks)]


@pytest.mark.parametrize("document", RUN, ids=lambda document: document.name)
def test_every_example_prints_what_stands_there(document: Document, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    page = examples(text_of(document))
    folder = tmp_path / "models"
    if page.begin:
        shutil.copytree(request.getfixturevalue(page.begin), folder)
    else:
        folder.mkdir()
    check(document, Shell(folder, {}))


def test_what_is_not_run_says_why() -> None:
    skipped = [block for document in [README, *WRITTEN] for block in examples(text_of(document)).blocks if block.skipped]
    run = [block for document in [README, *WRITTEN] for block in examples(text_of(document)).blocks if block.commands]
    assert all(len(block.skipped) > 8 for block in skipped)
    assert len(skipped) < len(run) / 2


@pytest.mark.parametrize("document", [README, *WRITTEN], ids=lambda document: document.name)
def test_what_is_typed_stands_in_console_blocks(document: Document) -> None:
    for token in parse(text_of(document)):
        if token.type == "fence":
            assert token.info.split()[0] in LANGUAGES, token.content
        if token.type in ("code_block", "fence") and not token.info.startswith("console"):
            lines = token.content.split("\n")
            typed = [
                line
                for line in lines
                if re.match(r"\$ |(sudo |export )?(vmfb|doit|pip|pytest|python -m|PIPELINE_\w+=\S+) ", line)
            ]
            assert typed == [], f"{document.place}: these are not in a console block"


def test_output_is_compared() -> None:
    (one,) = commands("$ a \\\n    b\nx … z\n…\nend\n")
    assert one.text == "a b"
    assert fits(["x y z", "end"], one.printed)
    assert fits(["x  z", "1", "2", "end"], one.printed)
    assert not fits(["x y z", "end", "more"], one.printed)
    assert not fits(["x y", "end"], one.printed)
    assert not fits([], one.printed)
    assert not fits(["something"], ())


# Pages


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "a" and said.get("href"):
            self.links.append(str(said["href"]))
        if said.get("id"):
            self.anchors.append(str(said["id"]))


@pytest.fixture(scope="module")
def site() -> dict[str, _Page]:
    pages = dict(documents.pages(FRAME))
    assert all(len(data) < 200_000 for data in pages.values())
    return {path: _Page(data.decode()) for path, data in pages.items()}


def test_every_link_leads_to_a_page_and_a_heading(site: dict[str, _Page]) -> None:
    for path, page in site.items():
        for link in page.links:
            name, _, anchor = link.partition("#")
            if "://" in link:
                continue
            leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(name))) if name else path
            assert leads in site, f"{path}: {link}"
            assert not anchor or unquote(anchor) in site[leads].anchors, f"{path}: {link}"


def test_anchors_are_unique(site: dict[str, _Page]) -> None:
    for path, page in site.items():
        assert len(page.anchors) == len(set(page.anchors)), path


def test_links_of_the_repositorys_documents_lead_to_files() -> None:
    """As they are read there, without the site."""
    for document in [README, *WRITTEN]:
        here = ROOT / document.place
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(document)):
            made = link.rpartition("/")[2].removesuffix(".md") in {one.name for one in ALL}  # of the reference
            assert "://" in link or (here.parent / link).exists() or made, f"{document.place}: {link}"


def test_text_is_escaped_and_html_refused() -> None:
    body = html('# T\n\n`<script>` & "x"\n\n    <pre>\n', lambda href: href).body
    assert "<script>" not in body
    assert "&lt;script&gt;" in body
    assert "&lt;pre&gt;" in body
    with pytest.raises(ValueError, match="HTML in a document"):
        html("<script>alert(1)</script>\n", lambda href: href)


# Help


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _parsers(command)


def test_help_fits_a_screen_and_speaks_with_one_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for parser in _parsers(cli.parser()):
        lines = parser.format_help().splitlines()
        assert len(lines) <= 36, parser.prog
        assert all(len(line) <= 80 for line in lines), parser.prog
        assert parser.description, parser.prog
        said_of = [action.help for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
        assert all(said_of), parser.prog
        for said in [parser.description, *map(str, said_of)]:
            assert re.match(r"[a-z$-]|FILE|MODEL|s3://", said), f"{parser.prog}: {said}"
            assert not said.endswith("."), f"{parser.prog}: {said}"


def test_the_steps_of_doit_fit_a_screen() -> None:
    width = max(map(len, GROUPS))
    assert width + 2 + max(map(len, GROUPS.values())) <= 80
    assert len(GROUPS) < 30
    assert {"version", "channel", *ASKED} == WORDS.keys()
    for steps, *_ in WORDS.values():
        assert steps.startswith("all ") or {*steps.split(", ")} <= GROUPS.keys()


# What is described


def _sources() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "variables.py":
            yield path, path.read_text("utf-8")


def test_every_variable_that_is_read_is_described() -> None:
    known = set(variables.INTERNAL)
    for variable in (*variables.OWN, *variables.COMMON):
        known |= set(re.findall(r"[A-Z][A-Z0-9_]+", variable.name))
    for path, text in _sources():
        read = set(re.findall(r'environ(?:\.get|\.setdefault)?[\[(]"([A-Z0-9_]+)"', text))
        read |= set(re.findall(r"\b(?:PIPELINE|VMFB)_[A-Z_]+[A-Z]\b", text))
        assert read <= known, path


def test_every_variable_that_is_described_is_read() -> None:
    text = "".join(text for _, text in _sources())
    for variable in variables.OWN:
        assert variable.name in text


def test_messages_speak_with_one_voice() -> None:
    """What, in lower case but for names; a colon before why; no stop at the end; what to do stands apart."""
    for path, said_there in reference.by_module().items():
        for message in said_there:
            what, _, hint = message.partition(" → ")
            for said in (what, hint):
                assert not re.match(r"(?!LiteRT|Python)[A-Z][a-z]", said), f"{path}: {message}"
                assert not said.rstrip().endswith((".", "!")), f"{path}: {message}"
            assert not re.match("not a ", what), f"{path}: {message}: say `is no`"


def test_the_reference_has_every_key_command_and_message() -> None:
    assert "`subgroup_size_choices`" not in reference.spec_keys()  # a parameter of a backend is no key
    for said in ("**`sha256`**", "`on_failure`", "[open dimensions](#open-dimension)", "`less_exact`"):
        assert said in reference.spec_keys()
    for said in ("## vmfb cache prune", "`--pretend FACTS`", "## vmfb trust add"):
        assert said in reference.vmfb()
    assert "`trust-rotate`" in reference.doit()
    assert "### Manifest: DimensionInfo" in reference.manifest()
    assert "is not a key here: …" in reference.messages()
