"""The pages of the reference, as Markdown: made of what they are about, so that they say what is."""

from __future__ import annotations

import argparse
import ast
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import cli, exits
from pipeline.groups import GROUPS, WORDS
from pipeline.site.markdown import anchor_of
from pipeline.spec import defaults
from pipeline.spec.keys import SPECS
from pipeline.spec.kinds import Anything, Either, Key, Keys, Kind, Listing, Number, Text, Whole
from pipeline.variables import COMMON, OWN, Variable

_PACKAGE = Path(__file__).parents[1]
_SCHEMAS = {
    "schema.json": "Manifest",
    "evidence.schema.json": "Evidence",
    "channel.schema.json": "Channel",
    "yank.schema.json": "Yank",
    "lock.schema.json": "Lock",
}


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines] + [""]


# Specs


def spec_keys() -> str:
    """Every mapping of every kind of spec, and its keys."""
    lines = [
        "# Keys of specs",
        "",
        "What may stand in a file of `targets/`; [Describe models and targets](../../targets/README.md) says how it is used.",
        "Keys in **bold** are required. Editors complete and check by the same descriptions: the first line of a spec names",
        "its schema, as `vmfb init` writes it. `doit check` finds all mistakes in all files.",
        "",
    ]
    seen: dict[int, Keys] = {}
    for keys in SPECS.values():
        _gather(keys, seen)
    for keys in seen.values():
        lines += [f"## {_title(keys)}", "", f"{keys.title[0].upper()}{keys.title[1:]}.", ""]
        lines += _table(("key", "is", "says"), [_row(name, key) for name, key in keys.named.items()])
        for value, case in keys.cases.items():
            lines += [f"With `{keys.by}: {value}`:", "", *_table(("key", "is", "says"), [_row(n, k) for n, k in case.items()])]
    return "\n".join(lines)


def _title(keys: Keys) -> str:
    return f"{keys.name[0].upper()}{keys.name[1:]}"


def _gather(kind: Kind, seen: dict[int, Keys]) -> None:
    """All mappings that have a name, from the outermost on."""
    if isinstance(kind, Keys):
        if kind.name:
            if id(kind) in seen:
                return
            seen[id(kind)] = kind
        for key in [key for _, key in kind.every()] + ([kind.others] if kind.others else []):
            _gather(key.kind, seen)
    elif isinstance(kind, Listing):
        _gather(kind.item, seen)
    elif isinstance(kind, Either):
        for one in kind.kinds:
            _gather(one, seen)


def _row(name: str, key: Key) -> tuple[str, str, str]:
    more = f"; default: {_code(str(key.default))}" if key.default is not None else ""
    only = f"; only with {key.only[0]} {_any(key.only[1])}" if key.only else ""
    return f"**{_code(name)}**" if key.required else _code(name), _kind(key.kind), f"{key.about}{only}{more}"


def _any(values: Sequence[str]) -> str:
    """`a`, `b` or `c`."""
    named = [_code(value) for value in values]
    return " or ".join([*([", ".join(named[:-1])] if named[:-1] else []), named[-1]])


def _kind(kind: Kind, many: bool = False) -> str:
    s = "s" if many else ""
    match kind:
        case Text():
            return _any(kind.choices) if kind.choices else f"text{s}"
        case Whole():
            return f"whole number{s}" + ("" if kind.least in (None, 0) else f" from {kind.least} on")
        case Number():
            return f"number{s}"
        case Listing():
            return f"list{s} of {_kind(kind.item, many=True)}"
        case Either():
            return " or ".join(_kind(one, many) for one in kind.kinds)
        case Anything():
            return "any value"
        case Keys():
            if kind.name:
                return f"[{kind.name}](#{anchor_of(kind.name)})" if not many else f"[{kind.name}s](#{anchor_of(kind.name)})"
            return f"mapping: {kind.title} → {_kind(kind.others.kind)}" if kind.others else "mapping"


# Commands


def vmfb() -> str:
    """Every subcommand of `vmfb` with its arguments."""
    parser = cli.parser()
    lines = ["# The command vmfb", "", f"{(parser.description or '').capitalize()}. It needs no compiler.", ""]
    lines += ["`vmfb COMMAND --help` says the same on a terminal.", ""]
    for name, about, command in _commands(parser):
        words = " ".join(command.format_usage().removeprefix("usage: ").split())
        lines += [f"## {name}", "", f"{about[0].upper()}{about[1:]}.", "", "```text", *_wrapped(words), "```", ""]
        rows = [
            _argument(action) for action in command._actions if not isinstance(action, argparse._HelpAction) and not _subs(action)
        ]
        lines += _table(("argument", "says"), rows) if rows else []
    return "\n".join(lines)


def _subs(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield command.prog, about[name], command
                yield from _commands(command)


def _argument(action: argparse.Action) -> tuple[str, str]:
    value = str(action.metavar or "|".join(action.choices or ()) or action.dest.upper())
    if not action.option_strings:
        return _code(value), action.help or ""
    takes = "" if action.nargs == 0 else f" {value}"
    return _code(", ".join(action.option_strings) + takes), action.help or ""


def _wrapped(words: str, width: int = 100) -> Iterator[str]:
    line = ""
    for word in words.split(" "):
        if line and len(line) + len(word) >= width:
            yield line
            line = "   "
        line = f"{line} {word}" if line else word
    yield line


def doit() -> str:
    """The steps of doit, and its commands that matter here."""
    lines = [
        "# The steps of doit",
        "",
        "`doit` runs in a project's folder. A step runs where something that it depends on changed; words like `version=1.2.0`",
        "say more. The name of one step is `stage:model` or `stage:model:bundle`: `doit 'verify:my-model:*'`.",
        "",
        "## Steps",
        "",
        *_table(("step", "does"), [(_code(name), about) for name, about in GROUPS.items()]),
        "`doit` alone is `doit publish`; `doit build` is fetch, import and compile.",
        "",
        "## Words",
        "",
        "They stand after the steps, as in `doit promote model=scores version=1.0 channel=stable`.",
        "",
        *_table(("word", "of", "means", "without it"), [(_code(f"{name}="), *said) for name, said in WORDS.items()]),
        "## Commands",
        "",
    ]
    commands = {
        "doit check": "read all specs and say everything that is wrong with them, without building",
        "doit explain STEP": "say why a step, or one before it, would run: which input, option or output changed",
        "doit list --all": "every step by its name",
        "doit -n 2 STEP…": "two steps at a time",
        "doit forget STEP": "run it the next time, whatever is there",
        "doit clean STEP": "remove what it made",
        "doit help COMMAND": "the options of doit's own commands",
    }
    return "\n".join(lines + _table(("command", "does"), [(_code(name), about) for name, about in commands.items()]))


# Documents in the store


def manifest() -> str:
    """The documents of a store by their schemas."""
    lines = [
        "# Manifests and other documents",
        "",
        "What a store holds beside blobs is JSON. Each kind has a JSON Schema in the package, `pipeline/manifest/`. Names and",
        "meanings do not change; what is added makes a new `schema`. Keys are required where nothing else is said.",
        "",
    ]
    for file, title in _SCHEMAS.items():
        document = json.loads((_PACKAGE / "manifest" / file).read_text("utf-8"))
        root = document["$ref"].rpartition("/")[2]
        names = [root, *sorted(document["$defs"].keys() - {root})]
        lines += [f"## {title}", "", f"Schema: `{file}`.", ""]
        for name in names:
            said = document["$defs"][name]
            heading = [] if name == root else [f"### {title}: {name}", ""]
            optional = said["properties"].keys() - set(said["required"])
            rows = [
                (_code(key), _typed(value, title, root) + ("; may be left out" if key in optional else ""))
                for key, value in said["properties"].items()
            ]
            lines += [*heading, said["description"], "", *_table(("key", "is"), rows)]
    return "\n".join(lines)


def _typed(said: Mapping[str, Any], title: str, root: str) -> str:
    if "$ref" in said:
        name = said["$ref"].rpartition("/")[2]
        return f"[{name}](#{anchor_of(title if name == root else f'{title}: {name}')})"
    if "const" in said or "enum" in said:
        return " or ".join(_code(str(value)) for value in said.get("enum", [said.get("const")]))
    if "anyOf" in said:
        return " or ".join(_typed(one, title, root) for one in said["anyOf"])
    if said["type"] == "array":
        return f"list: {_typed(said['items'], title, root)}"
    return {"string": "digest" if "pattern" in said else "text", "integer": "whole number"}.get(said["type"], str(said["type"]))


# Rights


def s3_policies() -> str:
    """The policies of a bucket, one for each role."""
    lines = [
        "# Policies for S3",
        "",
        "What each role may do, and no more: [Who may do what in a bucket](../../targets/README.md#who-may-do-what-in-a-bucket).",
        "Replace `BUCKET` by the bucket, and `PREFIX/` by the store's prefix with its slash, or by nothing.",
        "",
    ]
    for path in sorted((defaults.folder() / "s3").glob("*.json")):
        lines += [f"## {path.stem}", "", f"```json targets/s3/{path.name}", path.read_text("utf-8").rstrip("\n"), "```", ""]
    return "\n".join(lines)


# The environment


def variables() -> str:
    """Variables of the environment, and exit codes."""

    def rows(known: Sequence[Variable]) -> list[tuple[str, str, str, str]]:
        return [
            (
                _code(v.name.replace(", ", "`, `")),
                v.about,
                v.default,
                "`vmfb`, `doit`" if v.consumer else "`doit`",
            )
            for v in known
        ]

    head = ("variable", "says", "without it", "read by")
    lines = ["# Environment and exit codes", "", "## Variables", "", *_table(head, rows(OWN))]
    lines += ["Those of other tools mean here what they mean there:", "", *_table(head, rows(COMMON))]
    lines += ["## Exit codes", "", *_table(("command", "code", "means"), exits.EXITS)]
    return "\n".join(lines)


# Messages

# What is raised or returned for people, and what is noted of specs.
_ERRORS = ("PipelineError", "DeniedError", "TimedOutError", "BrokenTransferError", "MissingError", "YankedError")
_NOTED = "problem"


@functools.cache  # it reads all modules
def by_module() -> Mapping[str, Sequence[str]]:
    """The messages of each module that has any, by its path in the package."""
    found = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        if any(f"{name}(" in text for name in (*_ERRORS, _NOTED)):
            found[path.relative_to(_PACKAGE).as_posix()] = [m for m in dict.fromkeys(said_by(ast.parse(text))) if m.strip("…: ")]
    return {name: said for name, said in found.items() if said}


def messages() -> str:
    """Every message of an error, by the module that says it; `…` is what varies."""
    lines = ["# Messages", "", "What can go wrong, in the words that say it: where, what, and after `→` what to do.", ""]
    lines += ["`…` stands for what varies.", ""]
    for name, said in by_module().items():
        lines += [f"## {name}", "", *(f"- {_code(line)}" for line in said), ""]
    return "\n".join(lines)


def said_by(tree: ast.AST) -> Iterator[str]:
    """The messages of a module, in order: `where: what → hint`, as far as its text tells."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in _ERRORS and node.args:
            given = {word.arg: _words(word.value) for word in node.keywords}
            hint = f" → {given['hint']}" if given.get("hint", "…") != "…" else ""
            yield _shown(given.get("where", ""), f"{_words(node.args[0])}{hint}")
        elif isinstance(node.func, ast.Attribute) and node.func.attr == _NOTED and len(node.args) > 1:
            yield _shown(_words(node.args[0]), _words(node.args[1]))


def _shown(where: str, what: str) -> str:
    text = f"{where}: {what}" if where.strip("…") else what
    return text.replace("`", "'").replace("\n", " ")


def _words(node: ast.expr) -> str:
    """The text of an expression, with `…` for what is not known before it is said."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    return "…"
