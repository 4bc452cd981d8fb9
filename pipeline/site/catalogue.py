"""The pages of a store's catalogue: the list of models, a page for each model and each release, and the question which variant
a machine runs. Values in, pages out."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from pipeline import __version__
from pipeline.consume.choose import choices
from pipeline.iree import backends
from pipeline.iree.device import Device
from pipeline.iree.gates import Gated
from pipeline.layout import SITE, bom_key, provenance_key, release_key
from pipeline.site import documents, history, machines
from pipeline.site import release as about
from pipeline.site.commands import SOMEWHERE
from pipeline.site.gather import Catalogue, Model, Release
from pipeline.site.page import DEVICES, DOCS, MODELS, Frame, Page, assets, fragment, render

NAME = "vmfb catalogue"
DEVICES_TITLE = "Which one will my machine run?"


@dataclass(frozen=True)
class Beside:
    """Where the store's own files are, as seen from the site's root: `prefix` before their keys, None where no link leads there.

    `address` is what `vmfb` opens the store by. `published`: the pages are in the store, wherever that is served.
    """

    prefix: str | None
    address: str
    published: bool = False


def beside(url: str, folder: Path) -> Beside:
    """Of pages in the folder `folder`, made from the store at `url`. A folder is called as it is seen from here."""
    if "://" not in url:
        prefix = f"{_seen_from(folder, url)}/" if Path(url).is_dir() else None
        return Beside(prefix, _seen_from(Path(), url))
    return Beside(f"{url}/" if url.startswith(("https://", "http://")) else None, url)


def _seen_from(folder: Path, path: str) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path


def published(url: str) -> Beside:
    """Of pages that are put into the store at `url`. A folder's path is nobody's business: it is served, or copied."""
    return Beside("../" * SITE.count("/"), url if "://" in url else SOMEWHERE, published=True)


def model_path(model: str) -> str:
    """The page of a model, from the site's root."""
    return f"models/{model}/index.html"


def release_path(model: str, version: str) -> str:
    """The page of a release, from the site's root."""
    return f"releases/{model}/{version}/index.html"


def pages(catalogue: Catalogue, where: Beside) -> Iterator[tuple[str, bytes]]:
    """Every file of the site, by its path from the root, and its bytes; what others link to comes first, the front page last."""
    yield from assets().items()
    yield "assets/machines.js", machines.script()
    frame = Frame(
        NAME,
        (MODELS, DEVICES, DOCS),
        f"Made by vmfb-pipeline {__version__} from the manifests and the evidence in "
        f"{'the store that this page is in' if where.published else where.address}.",
    )
    for model in catalogue.models:
        for release in model.releases:
            page = Page(
                release_path(model.name, release.version),
                f"{model.name} {history.short(release.version)}",
                MODELS.name,
                release.manifest.model.about,
                machines.SCRIPTS,
            )
            yield page.path, render(frame, page, "release.html.j2", **_release(catalogue, model, release, where, page))
        yield _model_page(frame, catalogue, model, where)
    yield from _devices_pages(frame, catalogue)
    yield from documents.pages(frame)
    page = Page("index.html", NAME, MODELS.name, "Verified releases of models for many devices")
    yield page.path, render(frame, page, "index.html.j2", catalogue=catalogue, cards=_cards(catalogue))


def gone(model: str, version: str = "") -> tuple[str, bytes]:
    """The page in the place of that of a release, or a model, that is not in the store any more."""
    path = release_path(model, version) if version else model_path(model)
    page = Page(path, f"{model} {version}".strip(), MODELS.name)
    frame = Frame(NAME, (MODELS, DEVICES, DOCS), f"Made by vmfb-pipeline {__version__}.")
    return path, render(frame, page, "gone.html.j2", model=model, version=version)


def _model_page(frame: Frame, catalogue: Catalogue, model: Model, where: Beside) -> tuple[str, bytes]:
    current = model.current
    text = current.manifest.model.about if current else ""
    page = Page(model_path(model.name), model.name, MODELS.name, text, machines.SCRIPTS)
    values = _release(catalogue, model, current, where, page) if current else {}
    versions = [
        {
            "release": release,
            "path": release_path(model.name, release.version),
            "short": history.short(release.version),
            "counts": about.counts(release),
            "sizes": about.sizes(release),
        }
        for release in model.releases
    ]
    charts = history.charts(model.releases)
    return page.path, render(
        frame, page, "model.html.j2", **{"model": model, "release": None, **values}, versions=versions, charts=charts
    )


def _release(catalogue: Catalogue, model: Model, release: Release, where: Beside, page: Page) -> dict[str, object]:
    """What the template of a release needs."""
    name = (model.name, release.version)
    keys = {"manifest.json": release_key(*name)}
    keys |= {"provenance.json": provenance_key(*name)} if release.provenance else {}
    keys |= {"bom.json": bom_key(*name)} if release.bom else {}
    seen, count = about.evidence(release)
    return {
        "model": model,
        "release": release,
        "manifest": release.manifest,
        "short": history.short(release.version),
        "entries": about.entries(release),
        "files": about.files(release, where.address),
        "counts": about.counts(release),
        "sizes": about.sizes(release),
        "origin": about.origin(release),
        "seen": seen,
        "seen_count": count,
        "documents": [(label, key, _link(where, page, key)) for label, key in keys.items()],
        "matrix": _matrix,
        "known_count": len(machines.known()),
        "store_link": lambda key: _link(where, page, key),
        "is_signed": catalogue.is_signed,
        "where": where,
        "current": model.current,
        "model_path": model_path(model.name),
    }


def _matrix(file: about.File) -> Markup:
    """The table of which known device runs which variant of a file."""
    return _drawn(file.bundle, file.gated, tuple((variant.name, variant.kind) for variant in file.variants))


@functools.lru_cache(maxsize=512)
def _drawn(bundle: str, gated: tuple[Gated, ...], variants: tuple[tuple[str, str], ...]) -> Markup:
    """The same for all files with these gates and this evidence: most releases of a model have those of the one before."""
    return fragment("matrix.html.j2", bundle=bundle, variants=variants, kinds=machines.matrix(gated))


def _link(where: Beside, page: Page, key: str) -> str:
    """The URL of the store's object at `key`; empty where no link leads there."""
    if where.prefix is None:
        return ""
    target = where.prefix + key
    return target if "://" in where.prefix else page.link(target)


def _cards(catalogue: Catalogue) -> list[dict[str, object]]:
    """What the front page says of each model."""
    found = []
    for model in catalogue.models:
        release = model.current
        found.append(
            {
                "model": model,
                "path": model_path(model.name),
                "about": release.manifest.model.about if release else "",
                "licence": release.manifest.model.licence if release else "",
                "sizes": about.sizes(release) if release else "",
                "counts": about.counts(release) if release else {},
                "day": release.made[:10] if release else "",
                "channels": [(name, history.short(version)) for name, version in model.channels.items()],
                "version": history.short(release.version) if release else "",
                "yanked": bool(release and release.yank),
            }
        )
    return found


def _devices_pages(frame: Frame, catalogue: Catalogue) -> Iterator[tuple[str, bytes]]:
    """The question which variant a machine runs, and the answer for each machine that is known."""
    asked = [
        (model, release, file) for model in catalogue.models if (release := model.current) for file in about.files(release, "")
    ]
    page = Page("devices/index.html", DEVICES_TITLE, DEVICES.name, "", machines.SCRIPTS)
    files = [(f"{model.name}, {file.bundle}", page.link(model_path(model.name)), file.gated) for model, _, file in asked]
    names = [
        (name, [device.title for device in sorted(devices, key=backends.is_cpu)]) for name, devices in machines.machines().items()
    ]
    yield page.path, render(frame, page, "devices.html.j2", question=machines.question(files), names=names)
    for name, held in machines.machines().items():
        devices = sorted(held, key=backends.is_cpu)
        page = Page(f"devices/{name}.html", name, DEVICES.name)
        rows = [
            {"model": model.name, "path": model_path(model.name), "bundle": file.bundle, "answers": _answers(file, devices)}
            for model, _, file in asked
            if file.gated
        ]
        yield page.path, render(frame, page, "machine.html.j2", name=name, devices=devices, rows=rows)


def _answers(file: about.File, devices: Sequence[Device]) -> list[tuple[str, str, bool]]:
    """For each device the variant that it runs, how that was verified, and whether it is the device that is taken by itself."""
    kinds = {variant.name: variant.kind for variant in file.variants}
    found = choices(file.gated, devices)
    by_device = {id(choice.device): choice for choice in found}
    names = [by_device[id(device)].variant or "" for device in devices]
    return [(name, kinds.get(name, ""), device is found[0].device) for name, device in zip(names, devices, strict=True)]
