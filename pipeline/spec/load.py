"""`targets/` → Spec: reads every file, reports all problems of all files together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import is_file
from pipeline.iree import backends, tuning
from pipeline.iree.attributes import AttributeValue
from pipeline.iree.backends.base import Backend
from pipeline.names import RULE, did_you_mean, is_name
from pipeline.spec.models import read_model
from pipeline.spec.policy import read_policy
from pipeline.spec.reader import Fields, Problems, read
from pipeline.spec.types import Bundle, Executable, Model, Policy, Spec

_T = TypeVar("_T", Executable, Bundle, Model)


def _attribute(fields: Fields | None, known: Collection[str]) -> Mapping[str, AttributeValue]:
    result: dict[str, AttributeValue] = {}
    if fields is None:
        return result
    for key, value in fields.data.items():
        if key not in known:
            fields.problem(key, f"is not a parameter that can be set: {did_you_mean(key, known)}")
        elif isinstance(value, list) and all(isinstance(v, int) for v in value):
            result[key] = tuple(value)
        elif isinstance(value, int | str) and not isinstance(value, bool):
            result[key] = value
        else:
            fields.problem(key, f"must be text, a whole number or a list of them, not {value!r}")
    return result


def _tuned(root: Path, targets: Mapping[str, Executable], problems: Problems) -> dict[str, Executable]:
    """The targets with their tuning records, of those that have one."""
    result = dict(targets)
    for path in sorted((root / "tuning").glob("*.json")):
        if path.stem not in targets:  # one that could not be read has its own report
            if not is_file(str(root / "executables" / f"{path.stem}.yaml")):
                problems.add(path, "", f"there is no executable target {path.stem!r}: {did_you_mean(path.stem, targets)}")
            continue
        try:
            result[path.stem] = replace(targets[path.stem], tuning=tuning.read(path))
        except PipelineError as error:
            problems.add(path, "", f"{error.what}: {error.hint}")
    return result


def _executable(fields: Fields) -> Executable:
    known = {backend.name: backend for backend in backends.every()}
    name = fields.text("backend", choices=list(known))
    backend = known.get(name, Backend())
    attribute, twin = fields.sub("attribute"), fields.sub("twin")
    able = {"attribute": [b for b in known.values() if b.overrides], "twin": [b for b in known.values() if b.has_twins]}
    for key, sub in (("attribute", attribute), ("twin", twin)):
        if sub and name in known and backend not in able[key]:
            fields.problem(key, f"is for {', '.join(b.name for b in able[key])} targets only: remove it, or use flags")
    gates = fields.parsed("gates", backends.parse_gate)
    for index, gate in enumerate(gates):
        if name in known and gate.category not in {**backend.queries, **backend.told}:
            fields.problem(f"gates[{index}]", f"a {name} target never runs on a device that answers {gate.query}")
    return Executable(
        name=fields.path.stem,
        path=fields.path,
        about=fields.text("about"),
        backend=name,
        device=fields.text("device"),
        flags=fields.texts("flags"),
        attribute=_attribute(attribute, backend.overrides),
        gates=gates,
        twin=_attribute(twin, backend.overrides) if twin else None,
        tuning_spec=_tuning_spec(fields, backend),
    )


def _tuning_spec(fields: Fields, backend: Backend) -> str:
    """The text of the file that a target names."""
    name = fields.text("tuning_spec", "")
    if not name:
        return ""
    if not backend.takes_tuning_specs:
        able = [one.name for one in backends.every() if one.takes_tuning_specs]
        fields.problem("tuning_spec", f"IREE obeys one for {', '.join(able)} targets only: remove it")
        return ""
    try:
        return (fields.path.parent / name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fields.problem("tuning_spec", f"{name} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}")
        return ""


def _bundle(fields: Fields) -> Bundle:
    return Bundle(
        name=fields.path.stem,
        path=fields.path,
        about=fields.text("about"),
        targets=fields.texts("targets", required=True),
        flags=fields.texts("flags"),
        on_failure=fields.text("on_failure", "fail", ("fail", "drop")),
        policy=read_policy(fields.sub("policy")),
    )


def _say_if_unread(path: Path, problems: Problems) -> None:
    """Note a file that somebody meant to be read, by its name, and is not."""
    if path.suffix != ".yaml" and path.suffix.lower() in (".yaml", ".yml"):
        problems.add(path, "", f"is not read: rename it to {path.stem}.yaml")


def _folder(root: Path, kind: str, build: Callable[[Fields], _T], problems: Problems) -> dict[str, _T]:
    folder = root / kind
    result: dict[str, _T] = {}
    if not folder.is_dir():
        problems.add(folder, "", "there is no such folder")
        return result
    for path in sorted(folder.iterdir()):
        _say_if_unread(path, problems)
        if path.suffix != ".yaml":
            continue
        if not is_name(path.stem):
            problems.add(path, "", f"the file's name must be a name: {RULE}")
        if fields := read(path, problems):
            result[path.stem] = build(fields)
            fields.done()
    return result


def _references(
    root: Path, kind: str, named: Iterable[tuple[Path, str, Sequence[str]]], known: Iterable[str], problems: Problems
) -> None:
    """Note every name in `named` (file, key, names) that is not `known`. A file that could not be read has its own report."""
    for path, key, names in named:
        for index, name in enumerate(names):
            if name not in known and not is_file(str(root / f"{name}.yaml")):
                problems.add(path, f"{key}[{index}]", f"there is no {kind} {name!r}: {did_you_mean(name, known)}")


def _policy(path: Path, problems: Problems) -> Mapping[str, Policy]:
    """What channels ask of releases; nothing where there is no such file."""
    fields = read(path, problems) if is_file(str(path)) else None
    found = read_policy(fields.sub("channels", required=True)) if fields else {}
    if fields:
        fields.done()
    return found


def load(root: Path) -> Spec:
    """Everything under `root` (`targets/`). Raises ManyProblemsError with all problems, each `file: path.to.key: what to do`."""
    problems = Problems()
    for path in sorted(root.glob("*")):
        _say_if_unread(path, problems)
    spec = Spec(
        _tuned(root, _folder(root, "executables", _executable, problems), problems),
        _folder(root, "bundles", _bundle, problems),
        _folder(root, "models", read_model, problems),
        _policy(root / "policy.yaml", problems),
    )
    bundles, models = spec.bundles.values(), spec.models.values()
    targets = [(b.path, "targets", b.targets) for b in bundles]
    _references(root / "executables", "executable target", targets, spec.executables, problems)
    _references(root / "bundles", "bundle", [(m.path, "bundles", m.bundles) for m in models], spec.bundles, problems)
    if problems.found:
        raise ManyProblemsError(problems.found)
    return spec
