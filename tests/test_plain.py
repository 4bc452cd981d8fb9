"""What others wrote does nothing to a terminal, whoever prints it; what is secret in a URL is in no message."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import cli, exits, progress, terminal, why
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import write
from pipeline.manifest import codec
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument
from pipeline.manifest.types import Channel, Index, Manifest
from pipeline.plain import is_plain, plain, public_url, shown, without_secrets
from pipeline.spec.load import load
from pipeline.store.open import open_file, open_source, open_store
from tests import releases, web

# What clears a screen, sets its title, ends a line, turns text around, hides, or is no text at all.
EVIL = [
    "\x1b[2J",
    "\x1b]0;x\x07",
    "\x9b2J",
    "\n",
    "\r",
    "\x00",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u200f",
    "\ufeff",
    "\ud800",
]
GOOD = ["Größe µs → ✓", "模型", "\u3000\u00a0", "می\u200cخواهم", "👩\u200d🔬", "back\\slash"]


@pytest.mark.parametrize("text", EVIL)
def test_what_a_terminal_obeys_is_escaped(text: str) -> None:
    assert not is_plain(text)
    said = plain(f"a{text}b")
    assert said.isascii()
    assert said.isprintable()
    assert said.encode().decode("unicode_escape") == f"a{text}b"
    assert plain(said) == said


@pytest.mark.parametrize("text", GOOD)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert is_plain(text)
    assert plain(text) == text


def texts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, str):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in texts(inner, (*path, key))]


def texts_of(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [text for one in inner for text in texts_of(one)]


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    copied = place = json.loads(json.dumps(document))
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(copied).encode()


@pytest.mark.parametrize("evil", EVIL)
def test_no_text_of_a_document_has_them(evil: str, tmp_path: Path) -> None:
    manifest, _ = releases.release(open_store(str(tmp_path / "store")), tmp_path / "package", 1000, 100)
    kinds: dict[Any, Path | bytes] = {
        Manifest: next((tmp_path / "store").rglob("manifest.json")),
        Index: tmp_path / "store/index.json",
        Channel: next((tmp_path / "store/channels").rglob("*.json")),
        EvidenceDocument: encode(releases.unseen(manifest)),
    }
    for kind, found in kinds.items():
        document = json.loads(found if isinstance(found, bytes) else found.read_bytes())
        document |= {"version": "1"} if kind is Manifest else {}
        for path in texts(document):
            data = changed(document, path, f"a{evil}b")
            if any(key in codec._SAID for key in path):  # the words of tools, which are escaped
                assert plain(f"a{evil}b") in texts_of(json.loads(encode(decode(kind, data, "here"))))
                continue
            with pytest.raises(PipelineError) as caught:
                decode(kind, data, f"here{evil}")
            assert all(map(is_plain, str(caught.value).split("\n")))
            assert len(str(caught.value).split("\n")) == 1
        with pytest.raises(PipelineError, match="is not a key here") as caught:
            decode(kind, json.dumps(document | {f"more{evil}": 1}).encode(), "here")
        assert all(map(is_plain, str(caught.value).split("\n")))


def test_what_tools_say_is_escaped_where_it_is_written_down(tmp_path: Path) -> None:
    manifest, _ = releases.make(tmp_path / "package", 1000, 100)
    said = replace(manifest, version="1", artifacts=(replace(manifest.artifacts[0], notes=("two\nlines \x1b[2J",)),))
    assert decode(Manifest, encode(said), "here").artifacts[0].notes == ("two\\nlines \\x1b[2J",)


@pytest.mark.parametrize("evil", EVIL)
def test_every_way_to_print_escapes(evil: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.prepare_streams()
    terminal.say(f"said {evil}", "second")
    terminal.put(f"put {evil}", Path("second"))
    error = PipelineError(f"what {evil.replace(chr(10), '')}", where=f"where {evil}", hint=f"hint {evil}")
    terminal.say(*f"error: {error}".split("\n"))
    if evil != "\ud800":  # pytest keeps what is logged, and its processes cannot tell each other of that
        logging.getLogger("test").warning("log %s", evil.replace("\n", ""))
    line = progress._StatusLine(terminal.sys.stdout)
    line.say(f"✓ task {evil}".replace("\n", ""))
    reporter = SimpleNamespace(_line=line, failures=[])
    fail = SimpleNamespace(traceback=[f"traceback {evil}".replace("\n", "")], message="")
    progress.Reporter.add_failure(reporter, SimpleNamespace(name=f"task {evil}".replace("\n", "")), fail)  # type: ignore[arg-type]
    print(progress.render([(f"model {evil}", evil, "", "", "", "", evil)], 1000))
    captured = capsys.readouterr()
    assert all(map(is_plain, captured.out.split("\n")))
    assert all(map(is_plain, captured.err.split("\n")))
    assert len(captured.err.rstrip("\n").split("\n")) == 4 + ("log " in captured.err)


def test_arguments_are_said_as_all_else_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["list", "x", "--evil\x1b[2J"])
    assert "unrecognized arguments: --evil\\x1b[2J\n" in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["Teapot \x1b[2J", "\x9b2J"])
def test_what_a_server_says_is_escaped(reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with web.serve(tmp_path, web.Manners(only="", status=418, reason=reason)) as server:
        assert cli.main(["list", "--store", server.url]) == 1
    said = capsys.readouterr().err
    assert f"the server answers 418 {plain(reason)}" in said
    assert all(map(is_plain, said.split("\n")))


def test_a_file_of_any_name_is_said_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x\x1b[2J\nerror: all is well\u202e.vmfb"
    path.write_bytes(b"none")
    assert cli.main(["inspect", str(path)]) == 1
    assert "x\\x1b[2J\\nerror: all is well\\u202e.vmfb: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('about: "a\\e[2Jb"', "about: has characters that cannot be shown"),
        ('about: "a\\nb"', "about: has characters that cannot be shown"),
        ('targets: ["a\\u202eb"]', "targets[0]: has characters that cannot be shown"),
        ('"ab\\eout": x', r"the key 'ab\x1bout' has characters that cannot be shown"),
        ('on_failure: ["\\e[2J"]', r"on_failure: must be text, not ['\x1b[2J']"),
    ],
)
def test_specs_have_no_such_characters(line: str, complaint: str, tmp_path: Path) -> None:
    for kind in ("executables", "models"):
        (tmp_path / kind).mkdir()
    write(tmp_path / "bundles/x.yaml", f"{line}\n".encode())
    with pytest.raises(ManyProblemsError) as caught:
        load(tmp_path)
    assert complaint in str(caught.value)
    assert all(map(is_plain, str(caught.value).split("\n")))


def test_values_are_cut_in_messages() -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = [deep] * 50
    assert max(len(shown(value)) for value in (deep, "y" * 10**6, 10**4000, 1 << 10**5, {str(n): n for n in range(100)})) < 150


# Secrets

SECRET = "hidden"
MISTYPED = [
    f"s3://KEY:{SECRET}@bucket/prefix",
    f"S3://KEY:{SECRET}@bucket",
    f"https://user:{SECRET}@",
    f"https://user:{SECRET}@host:port/x",
    f"https://user:{SECRET}/more@host",
    f"https://{SECRET}@[/x",
    f"https:/user:{SECRET}@host/x",
    f"https//user:{SECRET}@host/x",
    f"htps://user:{SECRET}@host/x",
    f"//user:{SECRET}@host/x",
    f"user:{SECRET}@host:9000/x",
    f"https://127.0.0.1:1/x?token={SECRET}",
    f"http://user:{SECRET}@127.0.0.1:1/x",
]


@pytest.mark.parametrize("url", MISTYPED)
def test_a_mistyped_store_tells_no_secret(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for command in (["list", url], ["fetch", "noise", "--store", url], ["attest", "noise", "--store", url]):
        assert cli.main(command) in (exits.NOT_DONE, exits.AWAY)
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    for opened in (open_store, open_source, open_file):
        try:
            opened(url)
        except PipelineError as error:
            assert SECRET not in f"{error} {error.what} {error.where} {error.args}"


@pytest.mark.parametrize(
    "endpoint", [f"http://user:{SECRET}@127.0.0.1:1", f"user:{SECRET}@127.0.0.1:1", f"http://user:{SECRET}@[x"]
)
def test_a_mistyped_endpoint_tells_no_secret(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert cli.main(["list", "s3://bucket"]) in (exits.NOT_DONE, exits.AWAY)
    said = capsys.readouterr().err
    assert "error: s3://bucket" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "text",
    [
        "https://host/releases/noise@1 is not there",
        "http://[::1]:9000/noise@1",
        "noise@sha256:00 and noise:latest",
        "ssh://me@host:22",
        "C:/Users/a@b/x",
        "call @main$async_dispatch_0::@embedded_elf::@fn",
        "x.mlir:3:5: error: at @here",
        "/data/@store/a@b",
        "did you mean 'x'?",
    ],
)
def test_what_is_no_secret_is_told(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("text", ["(", "a:(", "https://", "a:", "a://b:c/", "x@", "\x1b"])
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    without_secrets(f"{text * 50_000}@?")
    plain(text * 50_000)
    assert time.process_time() - started < 3


def test_urls_are_told_without_what_is_secret() -> None:
    assert public_url(f"https://user:{SECRET}@host:1/a@b?{SECRET}#{SECRET}") == "https://host:1/a@b"
    assert without_secrets(f'to "http://user:{SECRET}@host/x?t={SECRET}" and s3://K:{SECRET}@b/k.') == (
        'to "http://host/x" and s3://b/k.'
    )
    assert list(why.differences({"store": f"s3://K:{SECRET}@b"}, {"store": "s3://b"})) == ['store was "s3://b", is "s3://b"']
