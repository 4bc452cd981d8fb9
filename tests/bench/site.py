"""The catalogue of many releases: `python -m tests.bench.site [--models 20] [--releases 10]` times how long its pages take.

The releases are made up (tests/shelf.py), with real gates and evidence. Prints seconds, and the weight of the heaviest page.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from pipeline.site import catalogue
from pipeline.site.folder import put_into
from pipeline.site.gather import gather
from pipeline.store.open import open_source
from tests import shelf


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--releases", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        store, folder = Path(name) / "store", Path(name) / "site"
        shelf.fill(store, arguments.models, arguments.releases)
        started, spent = time.monotonic(), time.process_time()
        found = gather(open_source(str(store)))
        read = time.monotonic()
        pages = dict(catalogue.pages(found, catalogue.beside(str(store), folder)))
        rendered = time.monotonic()
        put_into(folder, pages)
        written, spent = time.monotonic(), time.process_time() - spent
        put_into(folder, pages)
        again = time.monotonic()
    loaded = sum(len(data) for path, data in pages.items() if path.startswith("assets/"))
    heaviest = max((path for path in pages if path.endswith(".html")), key=lambda path: len(pages[path]))
    print(f"{arguments.models * arguments.releases} releases of {arguments.models} models")
    print(f"read {read - started:.2f} s, rendered {rendered - read:.2f} s, written {written - rendered:.2f} s")
    print(f"{len(pages)} files, {spent:.2f} s of a processor's time")
    print(f"written again, nothing changed: {again - written:.2f} s")
    print(f"the heaviest page, {heaviest}: {(len(pages[heaviest]) + loaded) / 1000:.0f} kB with all that it loads")


if __name__ == "__main__":
    main()
