"""The catalogue's pages and the report of a build: in a real browser, with scripts and without, and for hostile words."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import progress
from pipeline.consume import choose, facts
from pipeline.consume.evidence import Testimony
from pipeline.consume.fetch import needed
from pipeline.consume.render import size
from pipeline.errors import PipelineError
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts
from pipeline.layout import SITE, Layout, content_type, page_of, release_key
from pipeline.manifest.codec import encode
from pipeline.manifest.types import Blob, Manifest, Parameters, SegmentInfo
from pipeline.site import catalogue, charts, machines
from pipeline.site import release as about
from pipeline.site.commands import commands
from pipeline.site.gather import Release, gather
from pipeline.stages import fsck, site
from pipeline.stages.prune import Asked, prune
from pipeline.store.directory import DirectoryStore
from pipeline.store.open import open_source, open_store, open_to_keep
from tests import browser, releases, servers, shelf, trusting
from tests.project import Project
from tests.test_hostile import VALUES, places
from tests.web import serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}</title>"
HOSTILE = "a--script-alert"  # as bad as a model's name can be
WEIGHT = 200_000  # bytes of a page with all that it loads


class _Links(HTMLParser):
    """What a page links to and loads, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [i] if (i := found.get("id")) else []
        if tag == "a":
            self.links.append(found.get("href") or "")
        elif tag in ("link", "script", "img"):
            self.loads += [load] if (load := found.get("href") or found.get("src")) else []


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser.browser() as found:
        yield found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a `store` of three models, one of which has hostile words, and its pages in `site`."""
    folder = tmp_path_factory.mktemp("site")
    store = shelf.fill(folder / "store", models=2, releases=3)
    bad = _hostile(shelf.manifest(HOSTILE, about=BAD, licence=BAD))
    seen = shelf.document(bad, "2026-03-01", cpu=BAD)
    wrong = replace(seen.files[0].variants[-1], problem=BAD, device=BAD)
    file = replace(seen.files[0], variants=(*seen.files[0].variants[:-1], wrong))
    shelf.put(store, bad, replace(seen, files=(file,)), finished="2026-03-01T12:00:00Z")
    shelf.point(store, bad)
    other = shelf.manifest(HOSTILE, 1, version="9+x")
    shelf.put(store, other, finished=BAD)
    shelf.yank(store, other, BAD)
    shelf.point(store, other, "old")
    site.run(str(folder / "store"), False, folder / "site", folder / "made")
    return folder


def _hostile(manifest: Manifest) -> Manifest:
    """With hostile names wherever a manifest takes any text."""
    entry, artifact = manifest.entries[0], manifest.artifacts[0]
    segments = (replace(artifact.segments[0], kind=BAD), *artifact.segments[1:])
    blob = Blob("weights.irpa", "5" * 64, 1)
    weights = Parameters("$(touch here)", blob, (SegmentInfo("data", 0, 1, "5" * 64, ()),))
    entry = replace(
        entry,
        source=replace(entry.source, location=BAD),
        inputs=tuple(replace(tensor, name=BAD) for tensor in entry.inputs),
        outputs=tuple(replace(tensor, name=BAD) for tensor in entry.outputs),
    )
    artifact = replace(artifact, segments=segments, notes=(BAD,))
    return replace(manifest, version="1", entries=(entry,), artifacts=(artifact,), parameters=(weights,))


def pages(root: Path) -> list[Path]:
    return sorted((root / "site").rglob("*.html"))


def model_page(root: Path, model: str) -> Path:
    return root / "site" / "models" / model / "index.html"


def test_every_link_leads_somewhere_and_none_out_of_here(root: Path) -> None:
    assert len(pages(root)) > 50
    for path in pages(root):
        found = _Links(path.read_text("utf-8"))
        assert len(found.ids) == len(set(found.ids)), path
        for link in (*found.links, *found.loads):
            parts = urlsplit(link)
            if parts.scheme == "https" and "docs" in path.relative_to(root).parts and link in found.links:
                continue
            assert parts.scheme in ("", "data"), (path, link)
            if parts.scheme or (not parts.path and parts.fragment in found.ids):
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            if "blobs" in target.parts:  # made-up releases have none
                continue
            assert target.is_file(), (path, link)
            if parts.fragment:
                assert parts.fragment in _Links(target.read_text("utf-8")).ids, (path, link)


def test_a_page_with_all_that_it_loads_is_light(root: Path) -> None:
    for path in pages(root):
        loads = [path.parent / load for load in _Links(path.read_text("utf-8")).loads if not load.startswith("data:")]
        assert path.stat().st_size + sum(load.stat().st_size for load in loads) < WEIGHT, path


def test_hostile_words_stay_words(root: Path, running: Browser) -> None:
    for path in pages(root):
        assert "<script>alert" not in (text := path.read_text("utf-8"))
        assert "<img" not in text
    with browser.tab(running) as tab:
        tab.open(model_page(root, HOSTILE))
        assert BAD in tab.text(".lead")
        assert "x86-64 of desktop is wrong" in tab.text(".notice.bad")
        tab.open(root / "site/releases" / HOSTILE / "9+x" / "index.html")
        assert f"This release was yanked on 2026-11-02: {BAD}" in tab.text(".notice.bad")
        tab.open(root / "site/index.html")
        assert BAD in tab.text(f".card:has-text('{HOSTILE}')")
        assert tab.said == []


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_whatever_a_manifest_may_say_has_pages(data: st.DataObject) -> None:
    """What the codec takes, with what hurts in many places, is shown; what it refuses is named."""
    made = shelf.manifest("small", version="1")
    document = json.loads(encode(made))
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([path for path in places(document) if path]))
        place = document
        for key in parents:
            place = place[key]
        place[last] = data.draw(VALUES | st.just(BAD))
    with tempfile.TemporaryDirectory() as name:
        store = DirectoryStore(Path(name))
        shelf.put(store, made, shelf.document(made, "2026-01-01"))
        shelf.point(store, made)
        (Path(name) / release_key("small", "1")).write_text(json.dumps(document))
        found = gather(store)
        made_of = takewhile(lambda page: not page[0].startswith("devices/"), catalogue.pages(found, catalogue.published(name)))
        text = dict(made_of)[catalogue.model_path("small")].decode()
    assert "<script>alert" not in text
    assert found.models[0].releases or found.models[0].problems


def test_commands_run_nothing_that_a_manifest_says() -> None:
    hostile = _hostile(shelf.manifest("small"))
    release = Release(hostile, "0" * 64, Testimony((), ()), "")
    said = dict(commands(release, hostile.artifacts[0], "https://models.example.org/$(touch here)"))
    assert "--parameters=$(touch here)=weights.irpa" in shlex.split(said["IREE's own tools"])
    for how in ("vmfb", "IREE's own tools", "curl"):
        assert "$(" not in re.sub(r"'[^']*'", "", said[how]), how  # what is between such quotes is text


def test_what_is_fetched_for_a_gpu_is_with_the_code_for_the_cpu() -> None:
    made = shelf.manifest("small")
    (artifact,) = made.artifacts
    pairs = [[v.name, cpu] for v in artifact.variants for cpu in ("x86-64-v4", "x86-64-v3", "x86-64") if "x86" not in v.name]
    most = max(sum(s.length for s in needed(artifact, pair)) for pair in pairs)
    alone = max(sum(s.length for s in needed(artifact, [v.name])) for v in artifact.variants)
    assert most > alone
    assert about.sizes(Release(made, "0" * 64, Testimony((), ()), "")).endswith(f"to {size(most)}")


def test_pages_say_all_without_scripts(root: Path, running: Browser) -> None:
    with browser.tab(running, scripts=False) as tab:
        tab.open(root / "site/index.html")
        assert tab.page.locator(".card").count() == 3
        assert not tab.page.locator(".search").is_visible()
        tab.page.get_by_role("link", name="attacut").click()
        assert tab.text("h1") == "attacut"
        row = tab.page.locator(".matrix tr", has_text="NVIDIA GeForce RTX 3060").first
        assert "nvidia-ampere" in row.inner_text()
        assert not tab.page.locator(".ask").first.is_visible()
        tab.page.get_by_role("navigation").get_by_role("link", name="Devices").click()
        tab.page.get_by_role("link", name="rtx-3060").click()
        assert "nvidia-ampere" in tab.page.locator("tbody tr").first.inner_text()


def test_the_search_finds_models(root: Path, running: Browser) -> None:
    with browser.tab(running) as tab:
        tab.open(root / "site/index.html")
        field = tab.page.get_by_role("searchbox", name="Search")
        field.fill("thai stable")
        assert tab.page.locator(".card:visible h2").all_inner_texts() == ["attacut"]
        assert tab.text("#found") == "1 of 3 models"
        field.fill("no such model")
        assert tab.page.locator(".card:visible").count() == 0
        field.fill("")
        assert tab.page.locator(".card:visible").count() == 3
        field.press("Enter")
        assert tab.said == []


def test_a_model_page_has_commands_history_and_every_release(root: Path, running: Browser) -> None:
    with browser.tab(running) as tab:
        tab.open(model_page(root, "attacut"))
        assert "vmfb fetch attacut" in tab.text(".command code")
        assert tab.page.locator(".chart").count() == 3
        assert tab.page.locator(".chart .line circle").count() == 20
        assert tab.page.locator("#releases ~ .scroll tbody tr").count() == 3
        assert "yanked" in tab.page.locator("#releases ~ .scroll tbody tr").last.inner_text()
        tab.page.locator("#releases ~ .scroll a").nth(1).click()
        assert "There is a release that is current" in tab.text(".notice")
        assert tab.said == []


def test_commands_of_a_page_do_what_they_say(built: Project, tmp_path: Path) -> None:
    """In an order in which each finds what it needs: curl brings the file that IREE's own tools run."""
    servers.command("curl", "apt-get install curl")
    with serve(built.layout.store) as web:
        (model,) = gather(open_source(web.url)).models
        assert model.current
        commands = dict(about.files(model.current, web.url)[0].commands)
        assert list(commands) == ["vmfb", "Python", "IREE's own tools", "curl"]
        environment = built.environment(VMFB_CACHE=str(tmp_path / "cache"))
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        for how in ("curl", "IREE's own tools", "vmfb", "Python"):
            shell = [sys.executable, "-c"] if how == "Python" else ["bash", "-euo", "pipefail", "-c"]
            done = subprocess.run(
                [*shell, commands[how]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (how, done.stderr)
    assert (tmp_path / "manifest.json").exists()


# Which one will my machine run?


def _altered(chance: random.Random) -> list[Device]:
    """The devices of some machine, with other answers, without some, or with other formats."""
    found = []
    for device in facts.of_machine(chance.choice(facts.known_machines())):
        answers = dict(device.facts.answers)
        for query in chance.sample(sorted(answers), min(4, len(answers))):
            if chance.random() < 0.3:
                del answers[query]
            else:
                answers[query] = chance.choice([0, 1, 4, 8, 32, 64, 65535, 2**31, 2**32 - 1, -1, 2**32 + 64])
        formats = chance.choice([device.facts.formats, frozenset(["vulkan-spirv-fb", "embedded-elf-x86_64"]), frozenset()])
        driver = chance.choice([device.driver, "local-sync", "vulkan"])
        other = Facts(device.name, formats, answers)
        found.append(replace(device, uri=f"{driver}://0", driver=driver, software=chance.random() < 0.3, facts=other))
    return found


def _told(found: list[choose.Choice]) -> list[Any]:
    decisions = [[{"variant": d.variant, "accepted": d.accepted, "reason": d.reason} for d in c.decisions] for c in found]
    return [[c.device.title, c.variant, said] for c, said in zip(found, decisions, strict=True)]


ANSWER = """([question, document]) => {
  const [file] = choose.files(question);
  const devices = typeof document === "string" ? choose.known(document) : choose.parse(document);
  return choose.choices(file.variants, devices).map((one) => [choose.title(one.device), one.variant, one.decisions]);
}"""


def test_the_script_chooses_as_this_program_does(root: Path, running: Browser) -> None:
    variants = choose.gated(shelf.manifest("attacut").artifacts[0], "here")
    question, chance = machines.question([("desktop", "", variants)]), random.Random(7)
    with browser.tab(running) as tab:
        tab.open(model_page(root, "attacut"))
        for name in facts.known_machines():
            expected = _told(choose.choices(variants, facts.of_machine(name)))
            assert tab.ask(ANSWER, [question, name]) == expected
            assert tab.ask(ANSWER, [question, facts.to_json(facts.of_machine(name))]) == expected
        ran = set()
        for _ in range(150):
            devices = _altered(chance)
            expected = _told(choose.choices(variants, devices))
            assert tab.ask(ANSWER, [question, facts.to_json(devices)]) == expected
            ran |= {variant for _, variant, _ in expected}
        assert len(ran) > 4  # they are no easy question


def test_a_machine_that_is_known_or_a_file_of_it_is_answered(root: Path, running: Browser, tmp_path: Path) -> None:
    with browser.tab(running) as tab:
        tab.open(model_page(root, "attacut"))
        ask = tab.page.locator(".ask").first
        ask.get_by_label("A machine that is known").select_option("rtx-3060")
        answer = ask.locator(".answer")
        assert "NVIDIA GeForce RTX 3060 (NVIDIA 581.58) runs nvidia-ampere, which vmfb takes by itself." in answer.inner_text()
        answer.get_by_text("Why").first.click()
        assert "wants vulkan.device::subgroup_size == 64, the device has 32" in answer.inner_text()
        mine = tmp_path / "mine.json"
        mine.write_text(json.dumps(facts.to_json(facts.of_machine("haswell"))))
        ask.get_by_label("or yours").set_input_files(mine)
        answer.get_by_text("mine.json: 1 device").wait_for()
        assert "CPU (Intel Haswell CPU) runs x86-64-v3" in answer.locator("p").nth(1).inner_text()
        mine.write_text('{"schema": 1}')
        ask.get_by_label("or yours").set_input_files(mine)
        answer.get_by_text("This is no file of device facts: it lists no devices").wait_for()
        tab.open(root / "site/devices/index.html")
        tab.page.get_by_label("A machine that is known").select_option("rtx-4090")
        rows = tab.page.locator(".answer tbody tr")
        assert rows.count() == 3
        assert "nvidia-ampere" in rows.first.inner_text()
        assert tab.said == []


# For everybody


WAYS = {
    "phone": (browser.PHONE, "light"),
    "desktop, dark": (browser.DESKTOP, "dark"),
    "desktop": (browser.DESKTOP, "light"),
    "phone, dark": (browser.PHONE, "dark"),
}


@pytest.mark.parametrize("way", [*list(WAYS)[:2], *(pytest.param(way, marks=pytest.mark.thorough) for way in list(WAYS)[2:])])
def test_pages_are_accessible_and_fit(root: Path, built: Project, running: Browser, way: str) -> None:
    size, theme = WAYS[way]
    shown = [root / "site/index.html", root / "site/devices/index.html", built.layout.summary / "index.html"]
    shown += [model_page(root, "attacut"), model_page(root, HOSTILE)][:: 1 if theme == "light" else -1][:1]
    shown += [root / f"site/docs/{name}.html" for name in ("start", "spec-keys")]
    if way not in list(WAYS)[:2]:
        shown += [root / "site/releases" / HOSTILE / "9+x" / "index.html", root / "site/devices/rtx-4090.html"]
        shown += sorted((root / "site/docs").glob("*.html"))
    with browser.tab(running, size, theme) as tab:
        for path in shown:
            tab.open(path)
            if tab.page.locator(".ask").count():
                tab.page.get_by_label("A machine that is known").first.select_option("rtx-3060")
            assert tab.complaints() == [], path
            assert tab.overflow <= 0, path
            tab.page.keyboard.press("Tab")
            assert tab.ask("document.activeElement.textContent") == "Skip to the content"
        assert tab.said == []


# Beside the releases


def test_pages_beside_the_releases_are_no_strangers_and_know_what_went(
    tmp_path: Path, running: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = str(tmp_path / "store")
    for seed in range(3):
        made, _ = releases.release(DirectoryStore(tmp_path / "store"), tmp_path / f"package-{seed}", seed=seed)
    site.run(url, True, tmp_path / "site", tmp_path / "made")
    said = (tmp_path / "made" / "report.txt").read_text()
    assert "1 model, 3 releases" in said
    first = list((tmp_path / "store" / "site" / "releases").rglob("*.html"))
    assert len(first) == 3
    assert not any(str(tmp_path) in path.read_text("utf-8") for path in first)
    site.run(url, True, tmp_path / "site", tmp_path / "made")
    assert "0 pages changed" in (said := (tmp_path / "made" / "report.txt").read_text())
    assert "0 files sent" in said
    store = open_to_keep(url)
    shutil.rmtree(tmp_path / "store" / "prune")  # or what was just published would stay
    assert [str(f) for f in fsck.Check(store, fsck.Packages([])).run()] == []
    lines = prune(store, Asked(1, grace=0), dry=False)
    assert any("goes" in line for line in lines), lines
    site.run(url, True, tmp_path / "site", tmp_path / "made")
    gone = [path for path in first if "is not in the store any more" in path.read_text("utf-8")]
    assert (len(gone), len(list((tmp_path / "site/releases").rglob("*.html")))) == (1, 2)  # the channel keeps one
    with serve(tmp_path / "store") as web, browser.tab(running) as tab:
        seen = [gather(open_source(one)).models for one in (url, web.url)]
        assert seen[0] == seen[1]  # a web server lists nothing
        tab.open(f"{web.url}/site/models/noise/index.html")
        assert f'curl -fO "$STORE/{release_key("noise", made.version)}"' in tab.text(".command:has-text('curl') code")
        assert f"STORE={web.url}" in tab.page.locator(".command code").last.inner_text().replace("'", "")
        assert tab.said == []
        tab.page.get_by_role("link", name="provenance.json").click()
        assert "in-toto" in tab.text("body")
    page = tmp_path / "site/models/noise/index.html"
    assert str(tmp_path) not in page.read_text("utf-8")  # nobody's business
    with serve(tmp_path / "site") as web, browser.tab(running) as tab:  # without the store
        tab.open(f"{web.url}/models/noise/index.html")
        dead = tab.page.locator('a[href*="store/"]')
        assert (dead.count(), tab.said) == (0, [])
    with browser.tab(running) as tab:
        tab.open(page)
        assert tab.page.locator('a[href*="store/"]').count() >= 2


def test_what_nobody_signed_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = trusting.begun(tmp_path, monkeypatch)
    first = signed.publish(1)
    page = tmp_path / "site" / "models" / first.model.name / "index.html"
    stray = shelf.manifest(first.model.name, version="9")
    shelf.put(DirectoryStore(signed.root), stray)
    site.run(signed.url, False, tmp_path / "site", tmp_path / "made")
    text = page.read_text("utf-8")
    assert "This store is signed, and all that these pages are made of was verified." in text
    assert first.version in text
    assert not (tmp_path / "site" / "releases" / first.model.name / "9").exists()


def test_a_store_that_shows_no_pages_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="a repository of the hub shows no pages"):
        site.run("hf://user/repo", True, tmp_path / "site", tmp_path / "made")
    with pytest.raises(PipelineError, match="there is no such folder"):
        site.run(str(tmp_path / "nothing"), False, tmp_path / "site", tmp_path / "made")
    assert not (tmp_path / "site").exists()


def test_browsers_are_told_what_a_page_in_a_bucket_is(
    seaweedfs: servers.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    made, _ = releases.release(open_store(url), tmp_path / "package")
    site.run(url, True, tmp_path / "site", tmp_path / "made")
    client = servers.client_of(seaweedfs.endpoint)
    types = {
        name: client.head_object(Bucket=servers.BUCKET, Key=f"{tmp_path.name}/{SITE}{name}")["ContentType"]
        for name in ("index.html", f"releases/noise/{made.version}/index.html", "assets/site.css", "assets/site.js")
    }
    assert list(types.values()) == [f"text/{kind}; charset=utf-8" for kind in ("html", "html", "css", "javascript")]
    site.run(url, True, tmp_path / "site", tmp_path / "made")
    assert f"{url}/site/index.html: 0 files sent" in (tmp_path / "made" / "report.txt").read_text()


# The report of a build


def test_a_build_leaves_a_report(built: Project, running: Browser) -> None:
    with browser.tab(running) as tab:
        tab.open(built.layout.summary / "index.html")
        assert "all went well" in tab.text("h1")
        for what in ("verify:small:desktop", "amd-rdna3", "x86-64-v3", "Kernels that cost most", "channel latest"):
            assert what in tab.text("main")
        link = tab.page.locator("#logs ~ details a").nth(1)
        tab.page.locator("#logs ~ details summary").first.click()
        assert (built.layout.summary / (link.get_attribute("href") or "")).exists()
        assert tab.said == []


def test_a_run_with_nothing_to_do_leaves_the_report_and_a_failed_one_says_why(again: Project) -> None:
    page = again.layout.summary / "index.html"
    before = page.read_bytes(), page.stat().st_mtime_ns
    assert again.doit().returncode == 0
    assert (page.read_bytes(), page.stat().st_mtime_ns) == before
    spec = again.targets / "models" / "small.yaml"
    spec.write_text(re.sub("[0-9a-f]{64}", "a" * 64, spec.read_text()))
    run = again.doit()
    assert run.returncode != 0
    assert f"report: {Path('out/report/index.html')}" in run.stdout
    text = page.read_text("utf-8")
    assert "fetch:small failed" in text
    assert "blocked" in text


def test_a_report_that_cannot_be_written_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    reporter = progress.Reporter.__new__(progress.Reporter)
    reporter.layout, reporter.failures, reporter._quiet, reporter._blocked = Layout(tmp_path / "out"), [], [], []
    reporter._seconds, reporter._tasks = {"fetch:small": 1.0}, {"fetch:small": SimpleNamespace(targets=[str(tmp_path / "x")])}
    reporter._summarize(1.0)
    assert "note: there is no report of this run: PipelineError" in capsys.readouterr().err
    reporter._seconds = {"fsck:store": 1.0}
    reporter._summarize(1.0)  # which is no build
    assert capsys.readouterr().err == ""


# Charts


@pytest.mark.parametrize(
    ("values", "steps", "logarithmic"),
    [
        ([3.0, 7.0], (0, 2, 4, 6, 8), False),
        ([0.0, 0.9], (0, 0.25, 0.5, 0.75, 1), False),
        ([0.0], (0, 1), False),
        ([2.0, 30_000.0], (1, 100, 10_000), True),
        ([1e-3, 1e6], (1e-3, 1, 1e3, 1e6), True),
        ([5e-7], (0, 2e-7, 4e-7, 6e-7), False),
        ([5e-324, 1.79e308], (1e-300, 1e-150, 1, 1e150, 1e300), True),  # as a forged document may have it
        ([0.0, 5e-324], (0, 2.5e-301, 5e-301, 7.5e-301, 1e-300), False),
        ([1.79e308], (0, 2.5e299, 5e299, 7.5e299, 1e300), False),
    ],
)
def test_a_scale_shows_all_values_on_round_lines(values: list[float], steps: tuple[float, ...], logarithmic: bool) -> None:
    found = charts.scale(values)
    assert found.steps == pytest.approx(steps)
    assert found.logarithmic == logarithmic
    assert all(0 <= found.part(value) <= 1 for value in values)


def test_a_chart_has_room_for_gaps_and_nothing() -> None:
    text = charts.Scaled("ms", 1000)
    assert charts.chart("Latency", ["1", "2"], [charts.Series("x", (None, math.nan), ("", ""))], text) is None
    found = charts.chart("Latency", ["1", "2", "3"], [charts.Series("x", (0.001, None, 0.002), ("1", "", "2"))], text)
    assert found is not None
    assert [mark.text for mark in found.grid] == ["0 ms", "0.5 ms", "1 ms", "1.5 ms", "2 ms"]
    assert [mark.x for mark in found.lines[0].marks] == [52, 348]
    assert found.lines[0].path == "M52 83 L348 12"


def test_keys_of_pages_are_known_for_what_they_are() -> None:
    assert page_of(f"{SITE}models/a/index.html") == ("a", "")
    assert page_of(f"{SITE}releases/a/1.0+x/index.html") == ("a", "1.0+x")
    for key in (f"{SITE}index.html", f"{SITE}models/A/index.html", f"{SITE}releases/a/../index.html", "models/a/index.html"):
        assert page_of(key) is None
    assert content_type(f"{SITE}x.html") == "text/html; charset=utf-8"
    assert content_type("releases/a/1/x.html") == content_type(f"{SITE}x.bin") == ""
