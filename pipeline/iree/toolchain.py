"""The compiler's own tools: where they are, which version they are, and how they fail."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import runpy
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import sha256_bytes, sha256_file

REQUIRED = "3.13.0"
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_LINKER = "iree-lld"
_KEEPER = "keep"
# In the place of the system's linker: leaves the object file, the last word, as it is.
_KEEP = 'for object; do :; done\ncat "$object" > "$2"\n'
# How IREE links code for its own loader (EmbeddedLinkerTool.cpp in its source). What calls what is not in it is not made.
_LINK = f"""\
for object in *.o; do
    ./{_LINKER} -flavor gnu -o "${{object%.o}}" --build-id=none -nostdlib -static -shared --no-undefined \\
        --no-allow-shlib-undefined --allow-multiple-definition --gc-sections -z now -z relro --discard-all --icf=all \\
        --ignore-data-address-equality --ignore-function-address-equality --hash-style=sysv \\
        --strip-debug "$object" 2>"$object.log" || cat "$object.log" >&2
done
"""
# Linking would move every dispatch into CPU-only executables as soon as a module holds CPU code (IREE 3.13).
CODEGEN_FLAGS = ("--iree-hal-link-executables=false",)
LINK_FLAGS = ("--iree-vm-bytecode-module-strip-source-map",)


def _package_folder() -> Path:
    # find_spec on the top package only: importing iree.compiler costs half a second on every run.
    try:
        spec = importlib.util.find_spec("iree.compiler")
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise PipelineError("iree-base-compiler is not installed", hint="pip install 'vmfb-pipeline[build]'")
    return Path(next(iter(spec.submodule_search_locations)))


class CompilerRefusedError(PipelineError):
    """The compiler looked at its input and said no. (A full disk or a kill is not that.)"""


class CompilerCrashedError(PipelineError):
    """The compiler ended by a fault of its own."""


@functools.cache
def tool(name: str) -> Path:
    """The path of a compiler tool (`iree-compile`, `iree-opt`) inside the installed package of the pinned version."""
    path = _package_folder() / "_mlir_libs" / name
    if not path.exists():
        raise PipelineError(f"the installed iree-base-compiler has no {name}", where=str(path))
    if (found := importlib.metadata.version("iree-base-compiler")) != REQUIRED:
        raise PipelineError(
            f"iree-base-compiler {found} is installed, but this release is made and tested with {REQUIRED}",
            hint=f"pip install iree-base-compiler=={REQUIRED}",
        )
    return path


@functools.cache
def version() -> dict[str, str]:
    """The compiler's package `version` and source `commit`, as manifests record them."""
    revisions = runpy.run_path(str(_package_folder() / "version.py"))["REVISIONS"]
    return {"version": importlib.metadata.version("iree-base-compiler"), "commit": revisions["IREE"]}


@functools.cache
def digest() -> str:
    """The digest of the compiler itself: of its library and its linker, whatever version they say they are."""
    folder = tool("iree-compile").parent
    return sha256_bytes("".join(_digest(folder / name) for name in ("libIREECompiler.so", _LINKER)).encode())


def _digest(path: Path) -> str:
    """The file's digest; for a file that was not touched since, the one that this machine's cache remembers."""
    from pipeline import cache

    state = path.stat()
    key = sha256_bytes(f"digest {path} {state.st_size} {state.st_mtime_ns} {state.st_ino}".encode())
    return cache.local().remember(key, lambda: sha256_file(path).encode()).decode()


def first_error(log: Path) -> str:
    """The compiler's first diagnostic in `log`, without the IR that follows it, and the operator and node it is about."""
    lines = log.read_text("utf-8", "replace").splitlines()
    for line in lines:
        if match := re.search(r'\berror: (?:loc\("(.*?)"\): )?(.*)', line):
            node, operator = match[1], re.search(r'name = "(onnx\.\w+)"', line)
            if operator:
                where = f" (node {node!r})" if node else ""
                return f"{operator[1]}{where} is not supported: leave it out of the model, and compute it outside"
            if function := re.search(r"'spirv\.GL\.(\w+)' op operand #0 must be 16/32-bit float", line):
                return f"computes {function[1].lower()} of float64, which shaders do not have"
            if lacking := re.match(r"failed to legalize operation '(torch\.[\w.]+)'", match[2]):
                called = f"node {node!r}" if node else "one of its operators"
                # A literal has but one form: what takes it was not lowered.
                needs = "has a form" if lacking[1].endswith(".literal") else f"needs {lacking[1]} in a form"
                return f"{called} {needs} that IREE does not lower: compute it outside the model"
            if lacking := re.match(r"failed to legalize operation '([\w.]+)'(?:.*: \(([^(),]*))?", match[2]):
                operands = f" of {lacking[2]}" if lacking[2] else ""
                return (f"node {node!r} " if node else "") + f"needs {lacking[1]}{operands}, for which IREE has no code here"
            if types := re.match(
                r"failed to legalize unresolved target materialization from \('(.*?)'\) to \('(.*?)'\)", match[2]
            ):
                called = f"node {node!r} " if node else ""
                return f"{called}needs {types[1]} as {types[2]}, for which IREE has no code here"
            return (f"node {node!r}: " if node else "") + match[2].partition(" that was explicitly marked illegal")[0][:300]
    return next((line[:300] for line in lines[1:] if line.strip()), "no output")


def _by_descriptor(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


@contextmanager
def _linking() -> Iterator[int]:
    """The descriptor of a new folder to link in, which holds the linker.

    IREE gives the names of the linker and of its files to `sh` as they are, and in a folder's name a shell finds blanks,
    quotes, variables. So the compiler inherits the folder itself, and names it by the descriptor.
    """
    with disk_errors("the folder for temporary files"), tempfile.TemporaryDirectory(prefix="link-") as folder:
        (Path(folder) / _LINKER).symlink_to(tool(_LINKER))
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            (Path(folder) / _KEEPER).write_text(_KEEP)
            yield descriptor
        finally:
            os.close(descriptor)


def _run(tool_name: str, words: Sequence[str | Path], source: Path, log: Path, timeout: float = 3600) -> process.Result:
    with _linking() as descriptor:
        folder = _by_descriptor(descriptor)
        linkers = {"EMBEDDED": f"{folder}/{_LINKER}", "SYSTEM": f"sh {folder}/{_KEEPER}"}
        env = {**{f"IREE_LLVM_{kind}_LINKER_PATH": path for kind, path in linkers.items()}, "TMPDIR": folder}
        result = process.execute([tool(tool_name), *words], log, stdin=source, timeout=timeout, env=env, pass_fds=[descriptor])
    if result.returncode:
        hint = f"the whole output of {tool_name} is in {log}"
        if -result.returncode in _CRASHES:
            raise CompilerCrashedError(f"{tool_name} crashed ({result.ending})", where=str(source), hint=hint)
        what = first_error(log) if result.returncode > 0 else f"{tool_name} was {result.ending}"
        if result.killed:
            what, hint = f"{what}, perhaps for want of memory", f"free memory, run the same command again; {hint}"
        refused = result.returncode > 0 and "No space left" not in what
        raise (CompilerRefusedError if refused else PipelineError)(what, where=str(source), hint=hint)
    return result


def iree_compile(source: Path, output: Path, flags: Sequence[str], log: Path, timeout: float = 3600) -> process.Result:
    """Run iree-compile on `source` (given on standard input, so that its path cannot reach the output).

    Raises PipelineError with the compiler's first error line; the whole output stays in `log`. Raises TimedOutError if it
    takes longer than `timeout` seconds.
    """
    return _run("iree-compile", ["-", "-o", output, *flags], source, log, timeout)


def link(objects: Mapping[str, bytes], log: Path, timeout: float = 3600) -> dict[str, bytes]:
    """Code that IREE's runtime loads from each object file, by the name of it. What needs more than it has is left out.

    Raises PipelineError where the linker fails for any other reason.
    """
    if not objects:
        return {}
    found = {}
    with _linking() as descriptor:
        folder = Path(_by_descriptor(descriptor))
        for name, data in objects.items():
            (folder / f"{name}.o").write_bytes(data)
        process.execute(["sh", "-c", f"cd {folder}\n{_LINK}"], log, timeout=timeout, pass_fds=[descriptor])
        for name in objects:
            if (made := folder / name).exists():
                found[name] = made.read_bytes()
                continue
            said = folder / f"{name}.o.log"
            if "undefined symbol" not in (why := said.read_text("utf-8", "replace") if said.exists() else ""):
                what = f"{_LINKER} does not link the kernel {name}: {next(iter(why.splitlines()), 'it was ended')}"
                raise PipelineError(what, where=str(log), hint="free memory and room for temporary files, and run it again")
    return found


def iree_opt(source: Path, output: Path, passes: str, flags: Sequence[str], log: Path) -> process.Result:
    """Run `passes` on `source` with those of iree-compile's `flags` that iree-opt knows. Errors as `iree_compile`."""
    known = [flag for flag in flags if flag.lstrip("-").split("=")[0] in _iree_opt_flags()] if flags else []
    words: list[str | Path] = [
        "-",
        "-o",
        output,
        f"--pass-pipeline={passes}",
        "--emit-bytecode",
        "--mlir-disable-threading",
        *known,
    ]
    return _run("iree-opt", words, source, log)


@functools.cache
def _iree_opt_flags() -> frozenset[str]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process.run([tool("iree-opt"), "--help-hidden"], log)
        return frozenset(re.findall(r"^ +--([\w-]+)", log.read_text("utf-8", "replace"), re.MULTILINE))
