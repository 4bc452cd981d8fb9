"""`targets/` → Spec: reads every file, reports all problems of all files together.

Executable targets and bundles are a project's own and the package's. One that `extends` another says only what is different.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import is_file
from pipeline.iree import backends, tuning
from pipeline.iree.attributes import AttributeValue
from pipeline.iree.backends.base import Backend
from pipeline.iree.tuning import Tuned
from pipeline.names import RULE, did_you_mean, is_name
from pipeline.plain import shown
from pipeline.spec import defaults
from pipeline.spec.keys import BUNDLE, EXECUTABLE, MODEL, POLICIES
from pipeline.spec.kinds import Keys
from pipeline.spec.models import read_model
from pipeline.spec.policy import read_policy
from pipeline.spec.reader import Fields, Problems, read
from pipeline.spec.types import Bundle, Executable, Model, Policy, Spec

_T = TypeVar("_T", Executable, Bundle, Model)
_EXTENDS = "extends"
_TUNING = "tuning"


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
    """The targets with their tuning records: the project's entries on top of the package's."""
    folders = [root] if defaults.folder().resolve() == root.resolve() else [defaults.folder(), root]
    result = {}
    for name, target in targets.items():
        found = tuple(path for folder in folders if (path := folder / _TUNING / f"{name}.json").exists())
        record: dict[str, Tuned] = {}
        for path in found:
            try:
                record |= tuning.read(path)
            except PipelineError as error:
                problems.add(path, "", f"{error.what}: {error.hint}")
        record = {kernel: entry for kernel, entry in record.items() if entry.changes}
        result[name] = replace(target, tuning=record, tuning_files=found, record=root / _TUNING / f"{name}.json")
    for path in sorted((root / _TUNING).glob("*.json")):  # one whose target could not be read has its own report
        if path.stem not in targets and not is_file(str(root / "executables" / f"{path.stem}.yaml")):
            problems.add(path, "", f"there is no executable target {path.stem!r}: {did_you_mean(path.stem, targets)}")
    return result


def _executable(fields: Fields) -> Executable:
    known = {backend.name: backend for backend in backends.every()}
    name = fields.text("backend")
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
    name = fields.text("tuning_spec")
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
        targets=fields.texts("targets"),
        flags=fields.texts("flags"),
        on_failure=fields.text("on_failure"),
        policy=read_policy(fields.sub("policy")),
    )


def _say_if_unread(path: Path, problems: Problems) -> None:
    """Note a file that somebody meant to be read, by its name, and is not."""
    if path.suffix != ".yaml" and path.suffix.lower() in (".yaml", ".yml"):
        problems.add(path, "", f"is not read: rename it to {path.stem}.yaml")


def _files(folder: Path, problems: Problems) -> dict[str, Path]:
    """The specs in a folder, by name."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        _say_if_unread(path, problems)
        if path.suffix != ".yaml":
            continue
        if not is_name(path.stem):
            problems.add(path, "", f"the file's name must be a name: {RULE}")
        found[path.stem] = path
    return found


def _build(files: Mapping[str, Path], keys: Keys, build: Callable[[Fields], _T], problems: Problems) -> dict[str, _T]:
    result: dict[str, _T] = {}
    for name, path in sorted(files.items()):
        if fields := read(path, keys, problems):
            result[name] = build(fields)
            fields.done()
    return result


def _models(root: Path, problems: Problems) -> dict[str, Model]:
    folder = root / "models"
    if not folder.is_dir():
        problems.add(folder, "", "there is no such folder")
    return _build(_files(folder, problems), MODEL, read_model, problems)


def _with_defaults(root: Path, kind: str, keys: Keys, build: Callable[[Fields], _T], problems: Problems) -> dict[str, _T]:
    """The project's own specs of a kind, and the package's where it has none of that name."""
    packaged = _files(defaults.folder() / kind, Problems())
    own = _files(root / kind, problems)

    def extended(fields: Fields) -> _T:
        said = _extended(fields, own, packaged)
        result = build(said)
        fields.known.update(said.known, {_EXTENDS})
        return result

    return _build(packaged | own, keys, extended, problems)


def _extended(fields: Fields, own: Mapping[str, Path], packaged: Mapping[str, Path]) -> Fields:
    """What a file says on top of what the file says that it `extends`: the package's of the same name, or any other."""
    data, seen, path, lacks = fields.data, [fields.path], fields.path, False
    while (named := data.get(_EXTENDS)) is not None:
        same = isinstance(named, str) and path == own.get(named)
        known = packaged if same else {**packaged, **own}
        if not isinstance(named, str) or named not in known:
            what = "which the package has none of" if same else did_you_mean(str(named), known)
            fields.problem(_EXTENDS, f"there is no {shown(named)} to extend: {what}")
            lacks = True
            break
        path = known[named]
        if path in seen:
            fields.problem(_EXTENDS, f"comes back to {path}: let one of these files say all itself")
            lacks = True
            break
        seen.append(path)
        base = read(path, fields.keys, Problems())  # what is wrong with it is said of it
        data = _merged(base.data if base else {}, {key: value for key, value in data.items() if key != _EXTENDS})
    problems = Problems() if lacks else fields.problems  # what is missing then may stand in the file that is not there
    return replace(fields, data={key: value for key, value in data.items() if key != _EXTENDS}, known=set(), problems=problems)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `own`: mappings are merged likewise, all else is replaced."""
    both = {k: _merged(base[k], v) for k, v in own.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **own, **both}


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
    fields = read(path, POLICIES, problems) if is_file(str(path)) else None
    found = read_policy(fields.sub("channels")) if fields else {}
    if fields:
        fields.done()
    return found


def load(root: Path) -> Spec:
    """Everything under `root` (`targets/`). Raises ManyProblemsError with all problems, each `file: path.to.key: what to do`."""
    problems = Problems()
    for path in sorted(root.glob("*")):
        _say_if_unread(path, problems)
    spec = Spec(
        _tuned(root, _with_defaults(root, "executables", EXECUTABLE, _executable, problems), problems),
        _with_defaults(root, "bundles", BUNDLE, _bundle, problems),
        _models(root, problems),
        _policy(root / "policy.yaml", problems),
    )
    bundles, models = spec.bundles.values(), spec.models.values()
    targets = [(b.path, "targets", b.targets) for b in bundles]
    _references(root / "executables", "executable target", targets, spec.executables, problems)
    _references(root / "bundles", "bundle", [(m.path, "bundles", m.bundles) for m in models], spec.bundles, problems)
    if problems.found:
        raise ManyProblemsError(problems.found)
    return spec
