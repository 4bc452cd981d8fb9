"""Spec → steps: what is to be done for every model, from which files, into which, under which options. Knows no doit."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.layout import PACKAGED_EVIDENCE, PROVENANCE, Layout
from pipeline.manifest import provenance
from pipeline.names import RULE, did_you_mean, is_name, is_version
from pipeline.spec.types import Bundle, Executable, Model, PathSource, ScriptSource, Spec, source_files
from pipeline.stages.origin import Origin, Recipe
from pipeline.stages.record import REVISIONS, VERIFIED


@dataclass(frozen=True)
class Step:
    """One unit of work. `options` are JSON values that change the outcome as the files in `inputs` do."""

    name: str
    about: str
    action: Callable[[], None]
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    always: bool = False  # never up to date


PINS = Path("targets/pins.txt")  # releases that a prune leaves


# The words that `trust-…` steps take, beside `model`.
TRUST: Mapping[str, str] = {"add": "no", **dict.fromkeys(("roots", "threshold", "days", "role", "key", "remove", "name"), "")}
_TRUST_STEPS = {
    "init": "begin to sign",
    "rotate": "change who signs",
    "witness": "whose evidence counts in",
    "refresh": "sign anew",
}


@dataclass(frozen=True)
class Target:
    """Where and as what to publish. An empty version is that by which a channel knows the content, or derived from it."""

    store: str
    version: str = ""
    channel: str = "latest"

    def __post_init__(self) -> None:
        if self.version and not is_version(self.version):
            raise PipelineError(f"version={self.version} cannot be a version", hint=f"{RULE}; capitals and '+' too")
        if not is_name(self.channel):
            raise PipelineError(f"channel={self.channel} cannot be a channel", hint=RULE)


@dataclass(frozen=True)
class Asked:
    """What is asked of the steps that are only done when asked for.

    `sample`: cached pieces of each bundle that an audit generates again. `seconds` that a reduction may take. `budget`:
    those that tuning a model may take, and the `target` that it is tuned for, or several with commas. `model`: the only one
    that is reduced, reported on or looked at in the store; `any_model`: that may be one that only the store has. The
    `reason` of a yank, or whether it is to `undo` one. How many releases a prune is to `keep`, beside what `pins` name, and
    whether it is `dry`. Whether a check of the store reads `deep`, and is to `repair`. Whether the catalogue's pages are put into
    the store (`publishes_site`). `trust`: the words that `trust-…` steps take.
    """

    sample: int = 20
    seconds: int = 600
    budget: int = 600
    target: str = ""
    model: str = ""
    reason: str = ""
    undo: bool = False
    keep: int = 0
    pins: str = ""
    dry: bool = True
    deep: bool = False
    repair: bool = False
    any_model: bool = False
    publishes_site: bool = False
    trust: Mapping[str, str] = field(default_factory=dict)


def _stage(module: str, *arguments: Any) -> Callable[[], None]:
    """Call `run(*arguments)` of a stage, imported when it runs: nothing to do must cost nothing."""

    def call() -> None:
        importlib.import_module(f"pipeline.stages.{module}").run(*arguments)

    return call


def _revision(stage: str) -> dict[str, object]:
    return {"revision": REVISIONS[stage]}


def _files(folder: Path, *names: str) -> tuple[Path, ...]:
    return tuple(folder / name for name in names)


def _source_files(model: Model) -> tuple[Path, ...]:
    """The files of this repository that the model's sources and data sets are or are made by."""
    found: list[Path] = []
    for source in dict.fromkeys((*model.sources, *(file.source for file in model.data_files))):
        if isinstance(source, PathSource):
            found += source_files(source, source.path)
        elif isinstance(source, ScriptSource):
            found.append(source.script)
    return tuple(found)


def _records(targets: Iterable[Executable]) -> list[Path]:
    """The files of the tuning records that there are of `targets`."""
    return [path for target in targets for path in target.tuning_files]


def _model_steps(model: Model, origin: Origin, layout: Layout) -> list[Step]:
    sources, imported, reference = origin.all_files, layout.imported(model.name), layout.reference(model.name)
    given = [path for entry in model.entries if isinstance(entry.reference, tuple) for path in entry.reference]
    inputs = repr([(e.function, e.asked, e.inputs, model.sources.index(e.source)) for e in model.entries])
    described = {"inputs": inputs, "format": model.format, "parameters": model.parameters, **_revision("import")}
    judged = {"references": repr([entry.reference for entry in model.entries]), "judged": model.judged}
    return [
        Step(
            f"fetch:{model.name}",
            model.about,
            _stage("source", origin),
            _source_files(model),
            outputs=(*sources, *dict.fromkeys(origin.data.values())),
            options={"source": repr(model.sources), **({"data": repr(model.data_files)} if model.data_files else {})},
        ),
        Step(
            f"import:{model.name}",
            f"{model.name} from {model.format} to MLIR",
            _stage("import_", origin, imported),
            (*sources, *model.test_files),  # on which rewrites are proved
            _files(imported, "model.mlirbc", "signature.json", "rewrites.json", "record.json"),
            described,
        ),
        Step(
            f"reference:{model.name}",
            f"test data of {model.name}",
            _stage("reference", origin, imported, reference),
            # After the import: it says better what does not fit between the spec's inputs and the graph.
            (*sources, imported / "signature.json", *model.test_files, *given),
            _files(reference, "record.json"),
            {"inputs": inputs, **judged, **_revision("reference")},
        ),
        *_score_steps(origin, layout, inputs),
    ]


def _score_steps(origin: Origin, layout: Layout, inputs: str) -> list[Step]:
    """The step of a model that has a data set."""
    model = origin.model
    if not model.data_files:
        return []
    imported, reference, scored = layout.imported(model.name), layout.reference(model.name), layout.scored(model.name)
    evaluated = [(e.reference, replace(e.evaluate, limit=0.0)) for e in model.entries if e.evaluate]
    return [
        Step(
            f"score:{model.name}",
            f"the reference of {model.name} on its data set",
            _stage("score", origin, imported, scored),
            # After the reference: what the evaluator does not run at all is told there.
            (*origin.all_files, *origin.data.values(), *model.metrics, imported / "signature.json", reference / "record.json"),
            _files(scored, "scores.json", "record.json"),
            {"inputs": inputs, "evaluated": repr(evaluated), **_revision("score")},
        )
    ]


def _bundle_steps(
    origin: Origin,
    bundle: Bundle,
    targets: tuple[Executable, ...],
    layout: Layout,
    machine: str,
    made: Mapping[str, object],
    asked: Asked,
    witnesses: tuple[str, ...],
    leaves_out: bool,
) -> list[Step]:
    """`made` is everything but the model that a file of this bundle depends on. `leaves_out`: it is without what nobody ran."""
    model = origin.model
    imported, reference = layout.imported(model.name), layout.reference(model.name)
    compiled, verified = layout.compiled(model.name, bundle.name), layout.verified(model.name, bundle.name)
    reduced, scored = layout.reduced(model.name, bundle.name), layout.scored(model.name)
    data = (*_files(scored, "scores.json"), *origin.data.values(), *model.metrics) if model.data_files else ()
    evaluated = {"evaluated": repr([e.evaluate for e in model.entries])} if model.data_files else {}
    return [
        Step(
            f"compile:{model.name}:{bundle.name}",
            f"{model.name} for {', '.join(bundle.targets)}",
            _stage("compile", origin, imported, compiled, bundle, targets),
            (*_files(imported, "model.mlirbc", "signature.json", "record.json"), *_records(targets)),
            _files(compiled, "module.vmfb", "compiled.json"),
            {"made": made, "sources": repr(model.sources)},
        ),
        Step(
            f"verify:{model.name}:{bundle.name}",
            f"every variant of {model.name} that this machine can run",
            _stage("verify", origin, bundle, targets, compiled, imported, reference, scored, verified, witnesses, leaves_out),
            (*_files(compiled, "module.vmfb", "compiled.json"), *_files(reference, "record.json"), *data),
            _files(verified, *VERIFIED),
            {
                "made": made,
                "judged": model.judged,
                "machine": machine,
                "witnesses": witnesses,
                "leaves_out": leaves_out,
                **evaluated,
                **_revision("verify"),
            },
        ),
        Step(
            f"audit:{model.name}:{bundle.name}",
            f"{asked.sample} of the cached pieces of {model.name}",
            _stage("audit", imported / "model.mlirbc", layout.audited(model.name, bundle.name), bundle, targets, asked.sample),
            _files(imported, "model.mlirbc"),
            _files(layout.audited(model.name, bundle.name), "audit.json"),
            always=True,
        ),
        Step(
            f"reduce:{model.name}:{bundle.name}",
            f"the smallest part of {model.name} that fails",
            _stage("reduce", origin, bundle, targets, imported, reference, reduced, asked.seconds),
            _files(imported, "model.mlirbc"),
            _files(reduced, "report.txt"),
            always=True,
        ),
        Step(
            f"report:{model.name}:{bundle.name}",
            f"what the kernels of {model.name} cost",
            _stage("report", compiled, layout.reported(model.name, bundle.name), f"{model.name} / {bundle.name}"),
            _files(compiled, "module.vmfb", "compiled.json"),
            _files(layout.reported(model.name, bundle.name), "report.txt", "report.json"),
            always=True,
        ),
    ]


def _tune_step(origin: Origin, bundles: list[tuple[Bundle, tuple[Executable, ...]]], layout: Layout, asked: Asked) -> Step:
    model = origin.model
    imported, reference, folder = layout.imported(model.name), layout.reference(model.name), layout.tuned(model.name)
    names = [name for name in asked.target.split(",") if name]
    return Step(
        f"tune:{model.name}",
        f"faster code for the kernels of {model.name}",
        _stage("tune", origin, bundles, imported, reference, folder, names, asked.budget),
        (*_files(imported, "model.mlirbc", "signature.json", "record.json"), *_files(reference, "record.json")),
        _files(folder, "report.txt"),
        always=True,
    )


def _store_steps(spec: Spec, layout: Layout, target: Target, asked: Asked) -> list[Step]:
    """The steps that are about what is in the store already: each is done when it is asked for, and writes a report."""
    policies, store, model, version, channel = (
        spec.policies(target.channel),
        target.store,
        asked.model,
        target.version,
        target.channel,
    )
    named = model or "model=NAME"
    release = f"{named}@{version or 'version=VERSION'}"
    moves = (store, model, version, channel, policies)
    found: list[tuple[str, str, Path, tuple[object, ...]]] = [
        ("promote:release", f"{release} to {channel} in {store}", layout.promoted, (*moves, layout.promoted, spec.channels)),
        (
            "rollback:channel",
            f"{channel} of {named} in {store}, to the release before",
            layout.rolled_back,
            (*moves, layout.rolled_back, spec.channels),
        ),
        (
            "yank:release",
            f"{release} in {store}",
            layout.yanked,
            (store, model, version, asked.reason, asked.undo, layout.yanked),
        ),
        (
            "prune:releases",
            f"{store}: the last {asked.keep or 'keep=N'} of {model or 'each model'}",
            layout.pruned,
            (store, asked.keep, model, asked.pins, PINS, asked.dry, layout.pruned),
        ),
        (
            "reproduce:release",
            f"{release} of {store}, built again and compared",
            layout.reproduced,
            (store, model, version, spec, layout.root, layout.reproduced),
        ),
        (
            "site:catalogue",
            f"the catalogue of {store}",
            layout.site_made,
            (store, asked.publishes_site, layout.site, layout.site_made),
        ),
        ("fsck:store", store, layout.checked, (store, asked.deep, asked.repair, layout.root, layout.checked)),
        (
            "runtimes:releases",
            f"the releases in {store}, in other releases of IREE's runtime",
            layout.runtimes,
            (store, tuple(spec.models), layout.runtimes),
        ),
    ]
    for action, about in _TRUST_STEPS.items():
        folder = layout.trusted(action)
        found.append(
            (f"trust-{action}:store", f"{about} {store}", folder, (action, store, {**asked.trust, "model": model}, folder))
        )
    return [
        Step(name, about, _stage(re.split("[:-]", name)[0], *arguments), outputs=_files(folder, "report.txt"), always=True)
        for name, about, folder, arguments in found
    ]


def steps(
    spec: Spec,
    layout: Layout,
    target: Target,
    machine: str = "",
    asked: Asked | None = None,
    witnesses: tuple[str, ...] = (),
) -> list[Step]:
    """Every step for every model, in the order of the data's way.

    `machine` says what verification could find here, `witnesses` are whom it asks beside: when either changes, everything is
    verified again.
    """
    asked = asked or Asked()
    if asked.model and asked.model not in spec.models and not asked.any_model:
        raise PipelineError(f"model={asked.model}: there is no such model", hint=did_you_mean(asked.model, spec.models))
    policies = spec.policies(target.channel)
    targets = {name: tuple(spec.executables[t] for t in bundle.targets) for name, bundle in spec.bundles.items()}
    options, builder = importlib.import_module("pipeline.stages.compile").options, provenance.builder()
    made = {name: options(bundle, targets[name]) for name, bundle in spec.bundles.items()}
    result = []
    for model in spec.models.values():
        origin = Origin.of(model, layout)
        result += _model_steps(model, origin, layout)
        verified = {name: layout.verified(model.name, name) for name in model.bundles}
        for name in model.bundles:
            leaves_out = name in policies and policies[name].untested == "left out"
            result += _bundle_steps(
                origin, spec.bundles[name], targets[name], layout, machine, made[name], asked, witnesses, leaves_out
            )
        result.append(_tune_step(origin, [(spec.bundles[name], targets[name]) for name in model.bundles], layout, asked))
        imported, package = layout.imported(model.name), layout.package(model.name)
        info = {
            "about": model.about,
            "licence": model.licence,
            "sources": repr(model.sources),
            "judged": model.judged,
        }
        bundles = [spec.bundles[name] for name in model.bundles]
        of_targets = [t for b in bundles for t in targets[b.name]]
        specs = (model.path, *(b.path for b in bundles), *(t.path for t in of_targets), *_records(of_targets))
        recipe = Recipe(tuple(dict.fromkeys(specs)), {name: made[name] for name in model.bundles}, builder)
        result.append(
            Step(
                f"package:{model.name}",
                f"the manifest of {model.name}",
                _stage("package", model, imported, verified, package, recipe),
                (
                    *_files(imported, "signature.json", "rewrites.json", "record.json"),
                    *(p / n for p in verified.values() for n in VERIFIED),
                ),
                _files(package, "manifest.json", PROVENANCE, PACKAGED_EVIDENCE),
                {**info, **_revision("package")},
            )
        )
        receipt = layout.published(model.name)
        result.append(
            Step(
                f"publish:{model.name}",
                f"{model.name} to {target.store}",
                _stage("publish", package, target.store, target.version, target.channel, policies, receipt),
                _files(package, "manifest.json", PROVENANCE, PACKAGED_EVIDENCE),
                (receipt,),
                {"store": target.store, "version": target.version, "channel": target.channel, "policy": repr(policies)},
            )
        )
    result += _store_steps(spec, layout, target, asked)
    of_one = ("reduce:", "report:", "tune:")  # what `model=` is about
    return [step for step in result if asked.model in ("", step.name.split(":")[1]) or not step.name.startswith(of_one)]
