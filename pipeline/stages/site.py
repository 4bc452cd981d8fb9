"""Site: the catalogue of a store, as pages in a folder, and where that is asked for beside the releases in the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipeline import activity
from pipeline.consume.render import size
from pipeline.consume.resolve import Remote
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, write
from pipeline.layout import SITE, page_of
from pipeline.site import catalogue
from pipeline.site.folder import put_into
from pipeline.site.gather import Catalogue, gather
from pipeline.store.base import Store
from pipeline.store.open import open_store
from pipeline.store.survey import side_by_side


def run(url: str, publishes: bool, folder: Path, report: Path) -> None:
    """Make the pages of the store at `url` in `folder`, and put them into the store if it `publishes`; a `report.txt`, too.

    Raises PipelineError where the store cannot be read, or takes no pages.
    """
    store = _open(url) if publishes else None  # before anything takes time
    remote = Remote(url)
    found = gather(remote.source, remote.is_signed, activity.say)
    pages = dict(catalogue.pages(found, catalogue.beside(remote.url, folder)))
    changed = put_into(folder, pages)
    lines = [f"{_told(found)}: {folder / 'index.html'}, {_counted(changed, 'page')} changed"]
    lines += [f"! {problem}" for model in found.models for problem in model.problems]
    if store:
        sent = publish(store, dict(catalogue.pages(found, catalogue.published(remote.url))), activity.say)
        lines.append(f"{store.url}/{SITE}index.html: {_counted(sent, 'file')} sent")
    write(report / "report.txt", "".join(f"{line}\n" for line in lines).encode())


def _open(url: str) -> Store:
    if url.startswith("hf://"):
        what, hint = "a repository of the hub shows no pages, and would have a commit for each", "put out/site on any web server"
        raise PipelineError(what, where=url, hint=hint)
    return open_store(url)


def _told(found: Catalogue) -> str:
    return f"{_counted(len(found.models), 'model')}, {_counted(sum(len(m.releases) for m in found.models), 'release')}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def publish(store: Store, pages: Mapping[str, bytes], note: Callable[[str], None] = lambda _: None) -> int:
    """Put the pages below `site/`: what others link to first, the front page last; how many were not there as they are.

    Pages of what is not in the store any more say so from then on: publishers remove nothing.
    """
    old = [page for key in store.keys(SITE) if key.removeprefix(SITE) not in pages and (page := page_of(key))]
    gone = dict(catalogue.gone(*page) for page in old)
    first = [name for name in pages if not name.endswith(".html")]
    last = "index.html"
    sent = 0
    with tempfile.TemporaryDirectory() as staging:
        for names in (first, [name for name in (*pages, *gone) if name not in first and name != last], [last]):
            sent += _send(store, {name: pages.get(name) or gone[name] for name in names}, Path(staging), note)
    return sent


def _send(store: Store, files: Mapping[str, bytes], staging: Path, note: Callable[[str], None]) -> int:
    def send(name: str) -> bool:
        data = files[name]
        sha256, key = sha256_bytes(data), f"{SITE}{name}"
        if store.holds(key, len(data), sha256):
            return False
        path = staging / sha256
        with disk_errors(str(staging)):
            path.write_bytes(data)
        store.upload(key, path, sha256)
        note(f"sent {name}, {size(len(data))}")
        return True

    return sum(_all(side_by_side(send, files)))


def _all(sent: Iterable[tuple[str, bool]]) -> list[bool]:
    return [was_sent for _, was_sent in sent]
