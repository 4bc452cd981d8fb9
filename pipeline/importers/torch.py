"""A program that `torch.export.save` wrote → MLIR, by the importer that comes with IREE's compiler.

Run as a child process, see `child`. An operator that IREE has no code for is put as simpler ones. Needs PyTorch, which the extra
`torch` brings.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iree.compiler import ir, passmanager

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.importers import part
from pipeline.importers.child import Options, main
from pipeline.importers.signature import Signature, Tensor, shapes_of
from pipeline.iree import entry, mlir
from pipeline.names import did_you_mean
from pipeline.spec.types import MLIR_DTYPES, Input

_PLAIN = Options()
# Bytes of a constant that stands in the code: IREE copies such into kernels (up to 256), where a resource would be lost.
_SMALL = 1024
_ROUNDS = 10  # in which operators that IREE lacks are put as others, which it may lack too
# What numpy lacks is float32 at the boundary, with the same numbers: see `boundary`.
_WIDE = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


def require() -> None:
    """Raise PipelineError where PyTorch is not installed."""
    try:
        import torch.export  # noqa: F401
    except ImportError as error:
        hint = "pip install 'vmfb-pipeline[torch]'"
        raise PipelineError(f"the format torch needs PyTorch: {error}", hint=hint) from error


def load(path: Path) -> Any:
    """The program in the file at `path`. Raises PipelineError where it is none, or one that keeps a state."""
    import torch

    hint = "write it with `torch.export.save(torch.export.export(model.eval(), args), path)`"
    try:
        with path.open("rb") as file:
            program = torch.export.load(file)
    except Exception as error:  # of a dozen kinds, from zip files to pickles and schemas
        raise PipelineError(f"is no program that torch.export saved: {_first_line(error)}", where=str(path), hint=hint) from error
    return program


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def dtype(value: Any) -> str:
    """numpy's name of the type of a tensor's elements; PyTorch's own where numpy has none."""
    return str(value.dtype).removeprefix("torch.")


def is_wide(value: Any) -> bool:
    """Whether a tensor is float32 at the boundary, for numpy lacks its type."""
    return dtype(value) in _WIDE


def inputs_of(program: Any) -> list[tuple[str, Any]]:
    """The names of the program's tensors, in order, and what is known of each. Raises PipelineError for inputs that are none."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = []
    for spec in program.graph_signature.input_specs:
        if spec.kind.name != "USER_INPUT" or type(spec.arg).__name__ == "ConstantArgument":
            continue
        if type(spec.arg).__name__ != "TensorArgument":
            hint = "export it for one number, or let it take a tensor"
            raise PipelineError(f"input {spec.arg.name!r} is a number that varies, no tensor", hint=hint)
        found.append((spec.arg.name, nodes[spec.arg.name].meta["val"]))
    return found


def output_names(program: Any) -> list[str]:
    """Names of the program's tensors of results: the keys of the dicts they are in, else `output0`, … by position."""
    from torch.utils import _pytree as pytree

    spec = program.call_spec.out_spec
    leaves = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))[0]
    tensors = [n for n, s in enumerate(_user_outputs(program)) if type(s.arg).__name__ == "TensorArgument"]
    names = []
    for position, index in enumerate(tensors):
        path = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in leaves[index][0]]
        is_named = any(not isinstance(key, pytree.SequenceKey) for key in leaves[index][0])
        names.append(".".join(path) if is_named else f"output{position}")
    return names


def _user_outputs(program: Any) -> list[Any]:
    return [spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]


def flat(program: Any) -> Callable[..., list[Any]]:
    """The program as a function of its tensors, in order, that returns its tensors, in order."""
    import torch
    from torch.utils import _pytree as pytree

    module = program.module(check_guards=False)
    given = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]

    def run(*tensors: Any) -> list[Any]:
        waiting = iter(tensors)
        leaves = [a.value if type(a).__name__ == "ConstantArgument" else next(waiting) for a in given]
        args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
        return [leaf for leaf in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]

    run.module = module  # type: ignore[attr-defined]
    return run


def _require_fit(program: Any, inputs: Sequence[Input], where: str) -> None:
    """Raise PipelineError where the spec's inputs are not the program's."""
    real = dict(inputs_of(program))
    for spec in inputs:
        if spec.name not in real:
            raise PipelineError(f"the program has no input {spec.name!r}: {did_you_mean(spec.name, real)}", where=where)
        value = real[spec.name]
        wanted = "float32" if is_wide(value) else dtype(value)
        if wanted not in MLIR_DTYPES:
            raise PipelineError(f"input {spec.name!r} is {wanted}, which IREE does not compute with", where=where)
        if wanted != spec.dtype:
            raise PipelineError(f"input {spec.name!r} is {wanted}, not {spec.dtype}", where=where)
        sizes, fixed = [size if isinstance(size, int) else None for size in value.shape], _fixed(spec)
        if len(sizes) != len(fixed) or any(s not in (None, w) for s, w in zip(sizes, fixed, strict=True)):
            hint = "export it with `dynamic_shapes` for dimensions that vary"
            shape = ", ".join(map(str, value.shape))
            raise PipelineError(f"the program takes {spec.name} [{shape}], not {shapes_of([spec])}", where=where, hint=hint)
    _require_sizes(real, inputs, where)
    if missing := [name for name in real if name not in {spec.name for spec in inputs}]:
        raise PipelineError(f"the spec does not give the input {missing[0]!r}", where=where)
    if [spec.name for spec in inputs] != list(real):
        raise PipelineError(f"the inputs must stand in the program's order: {', '.join(real)}", where=where)


def _require_sizes(real: Mapping[str, Any], inputs: Sequence[Input], where: str) -> None:
    """Raise PipelineError where sizes that depend on each other in the program do not in the spec: IREE takes that they do."""
    called: dict[str, object] = {}
    for spec in inputs:
        for size, said, fixed in zip(real[spec.name].shape, spec.shape, _fixed(spec), strict=True):
            if isinstance(size, int):
                continue
            if fixed is None and not str(size).isidentifier():
                what = f"a size of input {spec.name!r} is {size} in the program, which a spec cannot say"
                raise PipelineError(what, where=where, hint="give the inputs fixed sizes, or `entries` of such")
            mine = said if fixed is None else fixed
            if called.setdefault(str(size), mine) != mine:
                what = f"a size of input {spec.name!r} is `{mine}`, but in the program the same as `{called[str(size)]}`"
                raise PipelineError(what, where=where, hint="give both one name: `{name: N, min: …, max: …}`, then `{name: N}`")


def fitted(program: Any, inputs: Sequence[Input], where: str) -> Any:
    """The program for the shapes of `inputs`, and of types that numpy has. Raises PipelineError where it does not fit."""
    import torch

    _require_fit(program, inputs, where)
    values = [value for _, value in inputs_of(program)]
    outputs = [node.meta["val"] for node in output_nodes(program)]
    pairs = [pair for v, i in zip(values, inputs, strict=True) for pair in zip(v.shape, _fixed(i), strict=True)]
    fixes = any(not isinstance(size, int) and fixed is not None for size, fixed in pairs)
    tensors = [v for v in outputs if isinstance(v, torch.Tensor)]
    is_plain = not any(is_wide(v) for v in (*values, *tensors)) and len(tensors) == len(_user_outputs(program))
    if not fixes and is_plain:
        return program
    run = flat(program)

    class Fitted(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner = run.module  # type: ignore[attr-defined]

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            results = run(*(tensor.to(value.dtype) for tensor, value in zip(tensors, values, strict=True)))
            return tuple(r.to(torch.float32) if is_wide(r) else r for r in results)

    examples = tuple(torch.zeros(spec.fixed, dtype=getattr(torch, spec.dtype)) for spec in inputs)
    open_ = [{n: torch.export.Dim.AUTO for n, size in enumerate(_fixed(spec)) if size is None} for spec in inputs]
    dynamic = {"tensors": tuple(open_)} if any(open_) else None
    try:
        return torch.export.export(Fitted(), examples, dynamic_shapes=dynamic)
    except Exception as error:  # whatever the program's own operators raise for these sizes
        raise PipelineError(f"the program does not take {shapes_of(inputs)}: {_first_line(error)}", where=where) from error


def _fixed(spec: Input) -> tuple[int | None, ...]:
    return Tensor(spec.name, spec.dtype, spec.shape).fixed


def output_nodes(program: Any) -> list[Any]:
    """The nodes of the program's tensors of results, in order."""
    nodes = {node.name: node for node in program.graph.nodes}
    return [nodes[s.arg.name] for s in _user_outputs(program) if type(s.arg).__name__ == "TensorArgument"]


def _require_stateless(program: Any, where: str) -> None:
    """Raise PipelineError where the program, without operators in place, changes what it keeps or takes."""
    signature = program.graph_signature
    if changed := list(signature.buffers_to_mutate.values()):
        hint = "export `model.eval()`; a state goes in as an input and comes out as an output"
        raise PipelineError(f"it changes its own buffer {changed[0]!r} when it runs", where=where, hint=hint)
    if changed := list(signature.user_inputs_to_mutate.values()):
        raise PipelineError(f"it changes its input {changed[0]!r} when it runs", where=where, hint="let it change a copy")


def _imported(program: Any, function: str) -> ir.Module:
    """`program` as IREE's importer reads it; the graph's nodes are the locations."""
    import torch
    from iree.compiler.extras import fx_importer

    class Named(fx_importer.ContextCache):  # type: ignore[misc]  # IREE's has no types
        """Knows nodes by their names: files and lines of the machine that exported say nothing here."""

        __slots__ = ()

        def get_node_location(self, node: Any) -> ir.Location:
            return ir.Location.name(node.name, context=self._c)

    class Weights(fx_importer.FxImporterHooks):  # type: ignore[misc]
        """Names constants by their content, each once; small ones stand in the code."""

        def __init__(self) -> None:
            self._found: dict[str, ir.Attribute] = {}

        def resolve_literal(self, gni: Any, literal: Any, info: Any) -> ir.Value | None:
            if not isinstance(literal, torch.Tensor) or literal.numel() <= 1:
                return None
            element = fx_importer.TORCH_DTYPE_TO_NPY_TYPE[literal.dtype]
            data = literal.detach().contiguous().reshape(-1).view(torch.uint8).numpy().copy()
            key = sha256_bytes(f"{literal.dtype} {list(literal.shape)} ".encode() + data.tobytes())[:32]
            if key not in self._found:
                type_ = fx_importer.create_mlir_tensor_type(literal)
                if data.size <= _SMALL:
                    self._found[key] = ir.Attribute.parse(f'dense<"0x{data.tobytes().hex().upper()}"> : {type_}')
                else:
                    buffer = data.view(element)
                    self._found[key] = ir.DenseResourceElementsAttr.get_from_buffer(buffer, f"weight_{key}", type_)
            results = [gni._cc.tensor_to_vtensor_type(literal)]
            return ir.Operation.create("torch.vtensor.literal", results=results, attributes={"value": self._found[key]}).result

    importer = fx_importer.FxImporter(context=ir.Context(), hooks=Weights())
    importer._cc.__class__ = Named
    importer.import_program(program, func_name=function, import_symbolic_shape_expressions=True)
    return importer.module


def _refused(module: ir.Module) -> tuple[list[str], str]:
    """The operators that IREE has no code for, as `torch.aten.add.Tensor`, and what it says; none where it takes the module."""
    lacking = {str(ir.StringAttr(op.attributes["name"]).value) for op in mlir.operations(module, "torch.operator")}
    if lacking:
        return sorted(lacking), "it does not know it"
    with mlir.parsed(mlir.to_bytes(module)) as copy:
        try:
            passmanager.PassManager.parse("builtin.module(torch-to-iree)").run(copy.operation)
        except ir.MLIRError as error:
            said = str(error)
            found = re.findall(r"failed to legalize operation '(torch\.aten\.[\w.]+)'", said) or _left(copy)
            return list(dict.fromkeys(found)), _reason(said)
    return [], ""


def _left(module: ir.Module) -> list[str]:
    """The operators that stand in a module whose lowering failed."""
    found: list[str] = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        found.extend([operation.name] if operation.name.startswith("torch.aten.") else [])
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _reason(said: str) -> str:
    lines = [re.sub(r'^.*?error: (".*?": )?', "", line) for line in said.splitlines() if "error:" in line]
    return next(iter(lines), said)[:300]


def _name(target: Any) -> str:
    return "torch." + target.name().replace("::", ".") if hasattr(target, "name") and callable(target.name) else ""


def _simpler(program: Any, names: Sequence[str]) -> dict[Any, Any]:
    """How PyTorch itself puts the operators called `names` of the program by others."""
    from torch._decomp import get_decompositions

    targets = {node.target for node in program.graph.nodes if node.op == "call_function" and _name(node.target) in names}
    found: dict[Any, Any] = dict(get_decompositions(list(targets)))
    own = {t: t.decompose for t in targets if t not in found and getattr(t, "_can_decompose", bool)()}
    return found | own


def _always() -> dict[Any, Any]:
    """How PyTorch puts operators that IREE must not see: those that change what they take, and attention.

    For attention IREE 3.13 has an operation of its own, which it does not lower for Vulkan ("'iree_linalg_ext.online_attention'
    op result #0 must be variadic of ranked tensor").
    """
    import torch
    from torch._decomp import decomposition_table

    in_place = {op: how for op, how in decomposition_table.items() if hasattr(op, "_schema") and op._schema.is_mutable}
    return {**in_place, torch.ops.aten.scaled_dot_product_attention.default: _attention}


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """`torch.nn.functional.scaled_dot_product_attention`, by its definition."""
    import torch

    if enable_gqa:
        key, value = (t.repeat_interleave(query.size(-3) // t.size(-3), -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    # A row of which nothing is left is zero.
    weights = torch.softmax(scores, -1).masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0).to(value.dtype)
    return torch.dropout(weights, dropout_p, train=bool(dropout_p)) @ value


def _lowered(program: Any, function: str, where: str) -> tuple[Any, ir.Module]:
    """`program` in operators that IREE has code for, and as MLIR. Raises PipelineError where there are none."""
    table = _always()
    lacking: list[str] = []
    why = ""
    for _ in range(_ROUNDS):
        try:
            done = program.run_decompositions(table)
        except Exception as error:  # a decomposition that does not fit
            why = f"{why}; in simpler operators: {_first_line(error)}" if why else _first_line(error)
            break
        _require_stateless(done, where)
        try:
            module = _imported(done, function)
        except Exception as error:  # it raises its own, KeyError, TypeError, NotImplementedError, …
            raise PipelineError(f"IREE does not import it: {_first_line(error)}", where=where) from error
        with module.context:
            lacking, why = _refused(module)
        if not why:
            return done, module
        new = {op: how for op, how in _simpler(done, lacking).items() if op not in table}
        if not new:
            break
        table |= new
    named = ", ".join(lacking) or "an operator"
    nodes = [n.name for n in done.graph.nodes if n.op == "call_function" and _name(n.target) in lacking] if lacking else []
    called = f" (node {nodes[0]!r})" if nodes else ""
    hint = "compute this part outside the model: export what comes before it"
    raise PipelineError(f"IREE has no code for {named}{called}: {why}", where=where, hint=hint)


def convert(source: Path, folder: Path, inputs: Sequence[Input], options: Options = _PLAIN) -> None:
    """Write `model.mlirbc`, `signature.json` and `rewrites.json` (there are none) into `folder`."""
    require()
    where = str(source)
    program = load(source)
    names = output_names(program)
    program, module = _lowered(fitted(program, inputs, where), options.function, where)
    taken = tuple(Tensor(spec.name, spec.dtype, spec.shape) for spec in inputs)
    given = tuple(_output(name, node.meta["val"], where) for name, node in zip(names, output_nodes(program), strict=True))
    signature = Signature(options.function, taken, given)
    with module.context:
        function = entry.entry_function(module, options.function, where)
        part.save(module, function, signature, folder)
    part.save_rewrites([], folder)


def _output(name: str, value: Any, where: str) -> Tensor:
    if dtype(value) not in MLIR_DTYPES:
        raise PipelineError(f"output {name!r} is {dtype(value)}, which IREE does not compute with", where=where)
    return Tensor(name, dtype(value), tuple(size if isinstance(size, int) else None for size in value.shape))


if __name__ == "__main__":
    sys.exit(main(convert))
