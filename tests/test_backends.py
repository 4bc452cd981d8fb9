"""Backends: what there are, that nothing else names one, and what happens to code of one that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.gates import Facts, Gate, Gated, select

PACKAGE = Path(pipeline.__file__).parent


def test_nothing_but_its_own_module_names_a_backend() -> None:
    words = {word for b in backends.every() for word in (b.name, *b.formats, f'"{b.driver}"')}
    words |= {f"{category}::" for b in backends.every() for category in b.queries}
    paths = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2") and "backends" not in path.parts]
    assert len(paths) > 80
    found = [f"{path.relative_to(PACKAGE)}: {word}" for path in paths for word in sorted(words) if word in path.read_text()]
    assert not found


def test_backends_have_names_formats_drivers_and_words_of_their_own() -> None:
    every = backends.every()
    assert [b.rank for b in every] == sorted({b.rank for b in every})
    for of in (lambda b: [b.name], lambda b: list(b.formats), lambda b: [b.driver], lambda b: list(b.words)):
        said = [word for b in every for word in of(b)]
        assert len(said) == len(set(said))
    assert [b.name for b in every if b.is_cpu] == [every[-1].name]  # asked for last: whatever else there is, it is there
    for backend in every:
        assert backends.named(backend.name) is backend
        assert backends.of_driver(backend.driver) is backend
        assert all(backends.of_format(format_) is backend for format_ in backend.formats)


def test_code_of_a_backend_that_is_not_known_is_passed_over() -> None:
    """A file of a newer release on an older program: no device that it knows takes such code."""
    newer = Gated("npu", "npu-code-fb", (Gate.parse("npu.device::generation >= 7"),))
    known = Gated("x86-64", "embedded-elf-x86_64", ())
    backends.require_known([newer, known], "FILE")
    assert select([newer, known], Facts("CPU", frozenset({"embedded-elf-x86_64"}))) == "x86-64"
    assert "this program does not know" in backends.people("npu-code-fb")


def test_a_query_that_is_not_known_of_a_format_that_is_needs_an_upgrade() -> None:
    newer = Gated("x86-64-v5", "embedded-elf-x86_64", (Gate.parse("hal.cpu::avx2048 == 1"),))
    with pytest.raises(PipelineError, match=r"x86-64-v5 asks devices for hal\.cpu::avx2048.*does not know") as caught:
        backends.require_known([newer], "FILE")
    assert "upgrade" in caught.value.hint
