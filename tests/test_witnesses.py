"""Machines that verification asks: a real sshd and `vmfb`, and witnesses that are away, slow, broken or hostile."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.errors import PipelineError
from pipeline.manifest.codec import encode
from pipeline.stages import verify
from pipeline.stages.assembly import File
from pipeline.stages.compiled import Compiled
from pipeline.stages.evidence import Evidence
from pipeline.stages.origin import Origin
from pipeline.stages.publish import publish
from pipeline.stages.testdata import read_all
from pipeline.stages.witnesses import answers, asking, ssh
from pipeline.stages.witnesses import dask as dask_witnesses
from pipeline.stages.witnesses.address import SshAddress, addresses, parse
from pipeline.stages.witnesses.answers import Heard
from pipeline.stages.witnesses.job import Job, prepare
from pipeline.store.open import open_store
from tests import servers
from tests.cluster import Dask
from tests.project import ROOT, Project, documents
from tests.sshd import Sshd, sshd
from tests.waiting import wait_for

BUNDLE = {"targets": ["vulkan-any", "x86-64"]}
ATTEST = 'exec $VMFB "$@"'
# What the real one says, but for the first variant, which it is told to have seen wrong.
WRONG = """$VMFB "$@" | python3 -c '
import json, sys
said = json.load(sys.stdin)
for proof in said["files"][0]["variants"]:
    if proof["variant"] == "vulkan-any":
        proof["problem"] = "output 0 is wrong\\u001b[31m"
json.dump(said, sys.stdout)'"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def _client(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{server.client}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, server: Sshd) -> Project:
    """Built by a machine without a Vulkan driver, which asks one that has one, and one that is away."""
    made = Project(tmp_path_factory.mktemp("witnessed"), "small", bundle=BUNDLE)
    result = _doit(made, server, f"{server.witness('good', ATTEST)},ssh://127.0.0.1:1")
    assert result.returncode == 0, result.stdout + result.stderr
    (made.root / "said").write_text(result.stdout)
    return made


def _doit(project: Project, server: Sshd, witnesses: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{server.client}{os.pathsep}{os.environ['PATH']}"
    blind = {"VK_DRIVER_FILES": os.devnull, "VK_ICD_FILENAMES": os.devnull}
    return project.doit(*arguments, PATH=path, PIPELINE_WITNESSES=witnesses, **blind)


def test_what_no_device_here_takes_is_seen_right_by_a_witness_that_has_one(project: Project, server: Sshd) -> None:
    said = (project.root / "said").read_text()
    here = {e["variant"]: e for e in json.loads((project.layout.verified("small", "desktop") / "evidence.json").read_text())}
    assert here["vulkan-any"]["kind"] == "untested"
    assert "llvmpipe" in said
    assert f"witness 127.0.0.1:{server.port}: x86-64: " in said
    assert "; vulkan-any: llvmpipe" in said
    assert "witness 127.0.0.1:1: it cannot be reached: ssh: connect to host 127.0.0.1 port 1: Connection refused" in said
    row = next(
        line for line in said.splitlines() if line.strip().split("  ")[-1].startswith("llvmpipe") or " vulkan-any " in line
    )
    assert " device " in row
    assert f"at 127.0.0.1:{server.port}" in row
    found = documents(project.layout.package("small"))
    kinds = [sorted((p.variant, p.kind, p.problem) for p in document.files[0].variants) for document in found]
    x86 = ("x86-64", "device", "")
    assert sorted(kinds) == [[("vulkan-any", "device", ""), x86], [("vulkan-any", "untested", ""), x86]]
    published = [p for p in (project.layout.store / "evidence").rglob("*.json") if p.name != "index.json"]
    assert len(published) == 2


def test_other_witnesses_are_asked_anew_and_the_same_are_not(project: Project, server: Sshd) -> None:
    good = server.witness("good", ATTEST)
    result = _doit(project, server, f"{good},ssh://127.0.0.1:1")
    assert "done" not in result.stdout, result.stdout
    result = _doit(project, server, "ssh://127.0.0.1:2", "verify")
    assert "✓ verify:small:desktop" in result.stdout
    assert "witness 127.0.0.1:2: it cannot be reached" in result.stdout
    (untested,) = (
        e
        for e in json.loads((project.layout.verified("small", "desktop") / "evidence.json").read_text())
        if e["kind"] == "untested"
    )
    assert "; witness 127.0.0.1:2: it cannot be reached" in untested["reason"]
    result = _doit(project, server, "ssh://-oProxyCommand=evil")
    assert result.returncode == 3
    assert "names no machine" in result.stderr


def _verify(project: Project, folder: Path, witnesses: Sequence[str], on_failure: str) -> None:
    model, bundle, targets = project.spec("small")
    layout = project.layout
    bundle = replace(bundle, on_failure=on_failure)
    made = (layout.compiled("small", "desktop"), layout.imported("small"), layout.reference("small"), layout.scored("small"))
    verify.run(Origin.of(model, layout), bundle, targets, *made, folder, witnesses)


def test_what_is_wrong_there_stops_the_release(project: Project, server: Sshd, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        _verify(project, tmp_path / "verify", [server.witness("wrong", WRONG)], "fail")
    assert "vulkan-any (on llvmpipe" in caught.value.what
    assert f"at 127.0.0.1:{server.port}): output 0 is wrong\\x1b[31m" in caught.value.what


def test_what_is_wrong_there_is_left_out_where_the_bundle_says_so(project: Project, server: Sshd, tmp_path: Path) -> None:
    _verify(project, folder := tmp_path / "verify", [server.witness("wrong", WRONG)], "drop")
    compiled = Compiled.read(folder / "compiled.json")
    assert [v.gated.name for v in compiled.variants] == ["x86-64"]
    assert compiled.dropped[0].name == "vulkan-any"
    assert "at 127.0.0.1" in compiled.dropped[0].reason
    (heard,) = answers.read(folder)
    assert heard.document  # about the file as it is now
    assert [p.variant for p in heard.document.files[0].variants] == ["x86-64"]


@pytest.fixture(scope="module")
def job(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Job:
    model, bundle, _ = project.spec("small")
    verified = project.layout.verified("small", "desktop")
    file = File(verified / "module.vmfb", Compiled.read(verified / "compiled.json"), read_all(verified))
    return prepare(model, bundle.name, project.layout.imported("small"), file, tmp_path_factory.mktemp("job") / "store")


def _ask(server: Sshd, job: Job, folder: Path, *script: str, seconds: float = 1000) -> Heard:
    address = parse(server.witness(f"w{len(list(server.folder.iterdir()))}", *script))
    assert address
    return ssh.ask(address, job, folder / "asked", seconds)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("said['files'][0]['sha256'] = '0' * 64", "is of another file for 'desktop'"),
        ("said['files'][0]['variants'][0]['sha256'] = '0' * 64", "is of other code for"),
        ("said['made'] = '2999-01-01T00:00:00Z'", "is of the future"),
        ("said['made'] = '2026-02-31T00:00:00Z'", "is of no time"),
        ("said['parameters'] = ['0' * 64]", "is of other weights"),
        ("said['reference'] = '0' * 64", "is of other test data"),
        ("said['model'] = 'another'", "is of another model"),
        ("said['files'] = []", "its answer says nothing of any variant"),
        ("said['schema'] = 99", "has schema version 99"),
        ("said['files'][0]['variants'][0]['functions'] = []", "nothing was compared"),
    ],
)
def test_forged_evidence_never_counts(
    server: Sshd, project: Project, job: Job, tmp_path: Path, change: str, problem: str
) -> None:
    found = documents(project.layout.package("small"))
    said = json.loads(encode(next(d for d in found if all(p.kind == "device" for p in d.files[0].variants))))
    exec(change, {"said": said})
    (tmp_path / "answer.json").write_text(json.dumps(said))
    heard = _ask(server, job, tmp_path, f"cat {tmp_path}/answer.json")
    assert heard.document is None
    assert problem in heard.problem


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo hello", "its answer is no evidence: not JSON"),
        ("head -c 300 /dev/urandom", "its answer is no evidence"),
        ("yes '[[[[[[['", "its answer is no evidence: it has more than 16 MiB"),
        ("echo 'error: no runtime here' >&2; exit 1", "no runtime here"),
        ("kill -9 $PPID; sleep 1", ""),
        ("exit 3", "exit code 3"),
        ("exit 0", "exit code 0"),
        ("printf '\\033[2Jerror: \\033]0;x' >&2; exit 1", "\\x1b[2J"),
    ],
)
def test_a_broken_witness_is_named_with_its_reason(server: Sshd, job: Job, tmp_path: Path, script: str, problem: str) -> None:
    heard = _ask(server, job, tmp_path, script)
    assert heard.document is None
    assert heard.problem
    assert problem in heard.problem
    assert heard.problem.isprintable()


def test_a_slow_witness_is_given_up_and_one_without_the_program_is_told(server: Sshd, job: Job, tmp_path: Path) -> None:
    heard = _ask(server, job, tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 1000", seconds=3)
    assert heard.problem == "it did not answer within 3 s"
    if (tmp_path / "pid").exists():  # nor does it go on there
        wait_for(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())
    lost = ssh.ask(SshAddress("127.0.0.1", port=server.port, command="no-vmfb"), job, tmp_path / "lost", 1000)
    assert lost.problem.startswith("there is no `no-vmfb`: ")


def test_nothing_is_left_at_the_witness(server: Sshd, job: Job, tmp_path: Path) -> None:
    heard = _ask(server, job, tmp_path, f'env > {tmp_path}/env; find "$4" > {tmp_path}/found', "exit 1")
    assert heard.problem == "exit code 1"
    cache = next(line for line in (tmp_path / "env").read_text().splitlines() if line.startswith("VMFB_CACHE="))
    assert "manifest.json" in (tmp_path / "found").read_text()
    assert not Path(cache.partition("=")[2]).parent.exists()


def test_the_examples_are_what_systemd_and_github_read() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "attest.yaml").read_text())
    said = [step["run"] for step in workflow["jobs"]["attest"]["steps"] if "run" in step][-1]
    units = [ROOT / "targets" / "witness" / f"vmfb-attest.{kind}" for kind in ("service", "timer")]
    said = said.partition(" ")[2]
    assert f"ExecStart=/usr/bin/env vmfb {said}" in units[0].read_text()
    assert cli.parser().parse_args(shlex.split(said)).all
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_addresses_are_read() -> None:
    assert addresses(" ssh://a, ssh://b:22/opt/vmfb,ssh://a,") == ("ssh://a", "ssh://b:22/opt/vmfb")
    assert parse("ssh://me@gpu-box:2222/opt/v/bin/vmfb") == SshAddress("gpu-box", "me", 2222, "/opt/v/bin/vmfb")
    assert parse("ssh://[::1]:22") == SshAddress("::1", "", 22)
    for wrong in ("gpu-box", "http://a", "ssh://", "ssh://-oX", "ssh://-l@a", "ssh://a:b", "ssh://u:p@a", "ssh://a?x", "dask"):
        with pytest.raises(PipelineError):
            addresses(wrong)


def test_the_reason_of_what_stays_untested_names_those_that_were_asked() -> None:
    away = Heard("gpu-box", None, "it cannot be reached")
    assert asking.explained(Evidence("a", "untested", "no device here"), [away]).reason == (
        "no device here; witness gpu-box: it cannot be reached"
    )
    assert asking.explained(Evidence("a", "twin"), [away]) == Evidence("a", "twin")


@pytest.mark.slow  # the test of `add_evidence` with this key is not
def test_attest_needs_no_more_than_a_witness_key(
    server: Sshd, project: Project, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("seaweedfs", "ceph"):
        endpoint = request.getfixturevalue(name).endpoint
        servers.use_aws(monkeypatch, endpoint)
        store = open_store(url := f"s3://{servers.WITNESSED}")
        publish(project.layout.package("small"), store)
        before = store.keys("evidence/small/")
        servers.use_aws(monkeypatch, endpoint, servers.WITNESS)
        monkeypatch.setenv("VMFB_CACHE", str(tmp_path / name))
        assert cli.main(["attest", "small", "--store", url, "--quiet", "--device", "local"]) == 0
        servers.use_aws(monkeypatch, endpoint)
        assert len(store.keys("evidence/small/")) == len(before) + 1


@pytest.mark.slow
def test_workers_of_a_cluster_that_have_a_device_are_witnesses(
    project: Project, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dask = Dask(tmp_path)
    monkeypatch.setenv("PIPELINE_SCHEDULER", dask.address)
    try:
        dask.scheduler()
        (none,) = dask_witnesses.ask(job, 1000)
        assert "has no worker that was started with --resources device=1" in none.problem
        dask.worker("without")
        dask.worker("gpu", "--resources", "device=1")
        dask.worker("blind", "--resources", "device=1", VK_DRIVER_FILES=os.devnull, VK_ICD_FILENAMES=os.devnull)
        heard = {one.witness: one for one in dask_witnesses.ask(job, 1000)}
        seen = {
            name: {p.variant for p in one.document.files[0].variants} if one.document else one.problem
            for name, one in heard.items()
        }
        assert seen == {"gpu": {"vulkan-any", "x86-64"}, "blind": {"x86-64"}}
        (slow, *_) = dask_witnesses.ask(job, 0.2)
        assert slow.document is None
        assert "within" in slow.problem
    finally:
        dask.close()
