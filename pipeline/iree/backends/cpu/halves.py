"""Numbers of 16 bits on x86-64: exact conversions instead of those of the compiler's library.

Without F16C, LLVM makes every operation on float16 a call of `__extendhfsf2` and `__truncsfhf2` for each element of each
vector. In IREE 3.13's own library the latter turns every result below 2**-14, which float16 holds as a subnormal number,
into 0. Measured, of 2**20 float32 numbers of which half lie where float16 does: 156622 were converted wrong, all of them
this way. Here such kernels, in LLVM's dialect, are given float32 operations between conversions made of vector instructions.
These are right with the CPU set to flush subnormal float32 numbers, as IREE's runtime sets it: they neither take nor make
any. An attention block in float16 went from 1.7 ms to 0.7 ms.

With F16C, float64 still becomes float16 by `__truncdfhf2`, which flushes too and rounds twice, and so does every FMA.
Integers become bfloat16 by `__truncsfbf2`, which IREE's library does not have: such code did not link.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iree.compiler import ir

from pipeline.iree.mlir import body, operations

# What computes on floating-point numbers, one or many, in LLVM's dialect. Everything else there only moves them.
_ARITHMETIC = ("fadd", "fsub", "fmul", "fdiv", "frem", "fcmp", "fptosi", "fptoui", "sitofp", "uitofp")
_UNARY = ("sqrt", "sin", "cos", "tan", "exp", "exp2", "exp10", "log", "log2", "log10", "sinh", "cosh", "tanh")
_ROUNDING = ("floor", "ceil", "trunc", "rint", "nearbyint", "round", "roundeven", "lrint", "llrint", "lround", "llround")
_BINARY = ("pow", "powi", "ldexp", "atan2", "minnum", "maxnum", "minimum", "maximum", "fmuladd", "fptosi.sat", "fptoui.sat")
_REDUCTIONS = tuple(f"vector.reduce.{name}" for name in ("fadd", "fmul", "fmin", "fmax", "fminimum", "fmaximum"))
_IN_FLOAT = frozenset(
    [f"llvm.{name}" for name in _ARITHMETIC] + [f"llvm.intr.{name}" for name in (*_UNARY, *_ROUNDING, *_BINARY, *_REDUCTIONS)]
)


_MANY = 4  # numbers of a vector
_OPEN = -(1 << 31)  # an index of LLVM's dialect that is an operand


def _of(type_: ir.Type, element: str) -> ir.Type:
    """`type_`, a number or a vector of them, with other elements."""
    new = ir.Type.parse(element)
    return ir.VectorType.get(ir.VectorType(type_).shape, new) if isinstance(type_, ir.VectorType) else new


def _holds(type_: ir.Type, *elements: type[ir.Type]) -> bool:
    """Whether `type_`, a number or a vector of them, is of one of these `elements`."""
    return isinstance(ir.VectorType(type_).element_type if isinstance(type_, ir.VectorType) else type_, elements)


class _Function:
    """The text of a function in LLVM's dialect that computes on numbers, or on vectors, of the shape of `type_`."""

    def __init__(self, type_: ir.Type) -> None:
        self.i1, self.i16, self.i32, self.i64, self.f16, self.bf16, self.f32, self.f64 = (
            str(_of(type_, element)) for element in ("i1", "i16", "i32", "i64", "f16", "bf16", "f32", "f64")
        )

    def k(self, value: float, type_: str) -> str:
        """A constant: `value` in every element."""
        element = type_.rstrip(">").split("x")[-1]
        one = f"{value!r}" if element.startswith("f") else f"{value}"
        return f"llvm.mlir.constant({f'dense<{one}> : {type_}' if '<' in type_ else f'{one} : {type_}'}) : {type_}"

    def to_float(self) -> str:
        """Float16 to float32. A subnormal number is made as 2**-14 more than it is, which is then subtracted."""
        i1, i16, i32, f16, f32, k = self.i1, self.i16, self.i32, self.f16, self.f32, self.k
        return f"""(%half: {f16}) -> {f32} attributes {{always_inline, sym_visibility = "private"}} {{
          %bits = llvm.bitcast %half : {f16} to {i16}
          %wide = llvm.zext %bits : {i16} to {i32}
          %sixteen = {k(16, i32)}
          %top = llvm.shl %wide, %sixteen : {i32}
          %sign_mask = {k(-0x80000000, i32)}
          %sign = llvm.and %top, %sign_mask : {i32}
          %magnitude_mask = {k(0x7FFF0000, i32)}
          %high = llvm.and %top, %magnitude_mask : {i32}
          %three = {k(3, i32)}
          %magnitude = llvm.lshr %high, %three : {i32}
          %rebias = {k((127 - 15) << 23, i32)}
          %normal = llvm.add %magnitude, %rebias : {i32}
          %infinity = {k(31 << 23, i32)}
          %is_finite = llvm.icmp "slt" %magnitude, %infinity : {i32}
          %zero = {k(0, i32)}
          %more = llvm.select %is_finite, %zero, %rebias : {i1}, {i32}
          %number = llvm.add %normal, %more : {i32}
          %smallest = {k(1 << 23, i32)}
          %above = llvm.add %normal, %smallest : {i32}
          %above_float = llvm.bitcast %above : {i32} to {f32}
          %base = {k(2.0**-14, f32)}
          %subnormal_float = llvm.fsub %above_float, %base : {f32}
          %subnormal = llvm.bitcast %subnormal_float : {f32} to {i32}
          %is_normal = llvm.icmp "sge" %magnitude, %smallest : {i32}
          %absolute = llvm.select %is_normal, %number, %subnormal : {i1}, {i32}
          %signed = llvm.or %absolute, %sign : {i32}
          %float = llvm.bitcast %signed : {i32} to {f32}
          llvm.return %float : {f32}
        }}"""

    def to_half(self) -> str:
        """Float32 to float16, to nearest, ties to even. Adding 0.5 makes the CPU round a subnormal result at its last bit."""
        i1, i16, i32, f16, f32, k = self.i1, self.i16, self.i32, self.f16, self.f32, self.k
        return f"""(%float: {f32}) -> {f16} attributes {{always_inline, sym_visibility = "private"}} {{
          %bits = llvm.bitcast %float : {f32} to {i32}
          %magnitude_mask = {k(0x7FFFFFFF, i32)}
          %magnitude = llvm.and %bits, %magnitude_mask : {i32}
          %too_large = {k((127 + 16) << 23, i32)}
          %is_small = llvm.icmp "slt" %magnitude, %too_large : {i32}
          %clamped = llvm.select %is_small, %magnitude, %too_large : {i1}, {i32}
          %thirteen = {k(13, i32)}
          %last = llvm.lshr %clamped, %thirteen : {i32}
          %one = {k(1, i32)}
          %odd = llvm.and %last, %one : {i32}
          %rebias = {k(0xFFF - ((127 - 15) << 23), i32)}
          %rebiased = llvm.add %clamped, %rebias : {i32}
          %rounded = llvm.add %rebiased, %odd : {i32}
          %normal = llvm.lshr %rounded, %thirteen : {i32}
          %absolute = llvm.bitcast %clamped : {i32} to {f32}
          %half = {k(0.5, f32)}
          %sum_float = llvm.fadd %absolute, %half : {f32}
          %sum = llvm.bitcast %sum_float : {f32} to {i32}
          %half_bits = {k(126 << 23, i32)}
          %subnormal = llvm.sub %sum, %half_bits : {i32}
          %smallest = {k((127 - 14) << 23, i32)}
          %is_normal = llvm.icmp "sge" %clamped, %smallest : {i32}
          %number = llvm.select %is_normal, %normal, %subnormal : {i1}, {i32}
          %infinity = {k(255 << 23, i32)}
          %is_nan = llvm.icmp "sgt" %magnitude, %infinity : {i32}
          %nan = {k(0x7E00, i32)}
          %unsigned = llvm.select %is_nan, %nan, %number : {i1}, {i32}
          %sixteen = {k(16, i32)}
          %top = llvm.lshr %bits, %sixteen : {i32}
          %sign_mask = {k(0x8000, i32)}
          %sign = llvm.and %top, %sign_mask : {i32}
          %signed = llvm.or %unsigned, %sign : {i32}
          %narrow = llvm.trunc %signed : {i32} to {i16}
          %result = llvm.bitcast %narrow : {i16} to {f16}
          llvm.return %result : {f16}
        }}"""

    def to_odd(self) -> str:
        """Float64 to one that float32 holds too, rounded to odd: what is then rounded again is as if it never was."""
        i64, f64, k = self.i64, self.f64, self.k
        return f"""(%double: {f64}) -> {f64} attributes {{always_inline, sym_visibility = "private"}} {{
          %bits = llvm.bitcast %double : {f64} to {i64}
          %lost_mask = {k((1 << 29) - 1, i64)}
          %lost = llvm.and %bits, %lost_mask : {i64}
          %carried = llvm.add %lost, %lost_mask : {i64}
          %all = llvm.or %bits, %carried : {i64}
          %kept_mask = {k(-(1 << 29), i64)}
          %kept = llvm.and %all, %kept_mask : {i64}
          %result = llvm.bitcast %kept : {i64} to {f64}
          llvm.return %result : {f64}
        }}"""

    def to_bfloat16(self) -> str:
        """Float32, which is no NaN, to bfloat16, to nearest, ties to even."""
        i16, i32, bf16, f32, k = self.i16, self.i32, self.bf16, self.f32, self.k
        return f"""(%float: {f32}) -> {bf16} attributes {{always_inline, sym_visibility = "private"}} {{
          %bits = llvm.bitcast %float : {f32} to {i32}
          %sixteen = {k(16, i32)}
          %last = llvm.lshr %bits, %sixteen : {i32}
          %one = {k(1, i32)}
          %odd = llvm.and %last, %one : {i32}
          %almost_half = {k(0x7FFF, i32)}
          %up = llvm.add %odd, %almost_half : {i32}
          %rounded = llvm.add %bits, %up : {i32}
          %top = llvm.lshr %rounded, %sixteen : {i32}
          %narrow = llvm.trunc %top : {i32} to {i16}
          %result = llvm.bitcast %narrow : {i16} to {bf16}
          llvm.return %result : {bf16}
        }}"""


class _Exact:
    """Makes computations of `module` exact. `converts`: the CPU itself converts between float16 and float32."""

    def __init__(self, module: ir.Operation, converts: bool) -> None:
        self._module = module
        self._converts = converts
        self._defined: set[str] = set()

    def wrong(self) -> list[ir.Operation]:
        """The operations of the module that need to be replaced."""
        names = {"llvm.fptrunc", "llvm.sitofp", "llvm.uitofp", "llvm.intr.fma"}
        if not self._converts:
            names |= {*_IN_FLOAT, "llvm.fpext"}
        return [operation for operation in operations(self._module, *names) if self._is_wrong(operation)]

    def _is_wrong(self, operation: ir.Operation) -> bool:
        types = [*(v.type for v in operation.operands), *(v.type for v in operation.results)]
        if operation.name in ("llvm.sitofp", "llvm.uitofp") and _holds(types[-1], ir.BF16Type):
            return True
        if not any(_holds(type_, ir.F16Type) for type_ in types):
            return False
        return not self._converts or operation.name == "llvm.intr.fma" or _holds(types[0], ir.F64Type)

    def replace(self, operation: ir.Operation) -> None:
        """Put exact operations in the place of one."""
        with ir.InsertionPoint(operation):
            new = self._exact(operation)
        operation.result.replace_all_uses_with(new)
        operation.erase()

    def _exact(self, operation: ir.Operation) -> ir.Value:
        match operation.name:
            case "llvm.fpext":
                return self._widen(operation.operands[0], "f64" if _holds(operation.result.type, ir.F64Type) else "f32")
            case "llvm.fptrunc":
                return self._narrow(operation.operands[0])
            case "llvm.intr.fma":
                return self._multiply_and_add(operation)
        return self._in_float(operation)

    def _in_float(self, operation: ir.Operation) -> ir.Value:
        """The result of the operation, computed in float32: for all but FMA that is right, though it rounds twice."""
        operands = [self._widen(operand, "f32") for operand in operation.operands]
        type_ = operation.result.type
        attributes = dict(operation.attributes.items())
        if not _holds(type_, ir.F16Type, ir.BF16Type):
            return ir.Operation.create(operation.name, [type_], operands, attributes).result
        float_ = ir.Operation.create(operation.name, [_of(type_, "f32")], operands, attributes).result
        return self._narrow(float_) if _holds(type_, ir.F16Type) else self._call(_Function.to_bfloat16, float_, type_)

    def _multiply_and_add(self, operation: ir.Operation) -> ir.Value:
        """An FMA in float64: the product is exact there, and the sum wherever its last bits could matter to float16."""
        a, b, c = (self._widen(operand, "f64") for operand in operation.operands)
        product = ir.Operation.create("llvm.fmul", [a.type], [a, b]).result
        return self._narrow(ir.Operation.create("llvm.fadd", [a.type], [product, c]).result)

    def _widen(self, value: ir.Value, element: str) -> ir.Value:
        """`value` with elements of type `element`, if its own are float16."""
        if not _holds(value.type, ir.F16Type):
            return value
        float_ = self._convert(_Function.to_float, "llvm.fpext", value, "f32")
        return float_ if element == "f32" else ir.Operation.create("llvm.fpext", [_of(value.type, element)], [float_]).result

    def _narrow(self, value: ir.Value) -> ir.Value:
        """`value`, of float32 or float64, as float16."""
        if _holds(value.type, ir.F64Type):
            odd = self._call(_Function.to_odd, value, value.type)
            value = ir.Operation.create("llvm.fptrunc", [_of(value.type, "f32")], [odd]).result
        return self._convert(_Function.to_half, "llvm.fptrunc", value, "f16")

    def _convert(self, text: Callable[[_Function], str], instruction: str, value: ir.Value, element: str) -> ir.Value:
        type_ = _of(value.type, element)
        return ir.Operation.create(instruction, [type_], [value]).result if self._converts else self._call(text, value, type_)

    def _call(self, text: Callable[[_Function], str], value: ir.Value, type_: ir.Type) -> ir.Value:
        """Call, in front of the current operation, the function of that `text`, defined where it is not yet."""
        count = "_".join(map(str, ir.VectorType(type_).shape)) if isinstance(type_, ir.VectorType) else "scalar"
        name = f"exact_{text.__name__}_{count}"
        if name not in self._defined:
            self._defined.add(name)
            snippet = ir.Module.parse(f"llvm.func internal @{name}{text(_Function(type_))}")
            with ir.InsertionPoint.at_block_begin(body(self._module)):
                snippet.body.operations[0].operation.clone()
        attributes = {
            "callee": ir.FlatSymbolRefAttr.get(name),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, 0]),
            "op_bundle_sizes": ir.DenseI32ArrayAttr.get([]),
        }
        return ir.Operation.create("llvm.call", [type_], [value], attributes).result


def make_exact(variant: ir.Operation, converts: bool) -> None:
    """Make the computations on float16 and bfloat16 in the kernels of `variant` exact: see above.

    `converts`: its CPU has instructions that convert between float16 and float32.
    """
    for module in operations(variant, "builtin.module"):
        exact = _Exact(module, converts)
        for operation in exact.wrong():
            exact.replace(operation)


def broadcast_from_memory(variant: ir.Operation) -> None:
    """Hand over in memory what is converted together and then used one by one, in LLVM's dialect.

    In a product of float16 each number of a row of the left matrix is multiplied by a whole row of the right one. LLVM moves it
    there within registers, in the units that also multiply; from memory it is broadcast as it is read. Volatile, for LLVM would
    see through this. Measured with F16C on AVX2: a product of 64x576 and 576x288 takes 0.33 instead of 0.58 ms.
    """
    pointer, i32 = ir.Type.parse("!llvm.ptr"), ir.IntegerType.get_signless(32)
    for function in operations(variant, "llvm.func"):
        for conversion in operations(function, "llvm.fpext"):
            type_, uses = conversion.result.type, [use.owner.operation for use in conversion.result.uses]
            if not _is_spread(type_, uses):
                continue
            with ir.InsertionPoint.at_block_begin(function.regions[0].blocks[0]):
                one = ir.Operation.create("llvm.mlir.constant", [i32], attributes={"value": ir.IntegerAttr.get(i32, 1)}).result
                place = ir.Operation.create("llvm.alloca", [pointer], [one], {"elem_type": ir.TypeAttr.get(type_)}).result
            after = ir.InsertionPoint.after(conversion)
            ir.Operation.create("llvm.store", [], [conversion.result, place], {"volatile_": ir.UnitAttr.get()}, ip=after)
            for use in uses:
                with ir.InsertionPoint(use):
                    attributes = {
                        "rawConstantIndices": ir.DenseI32ArrayAttr.get([_OPEN]),
                        "elem_type": ir.TypeAttr.get(ir.F32Type.get()),
                    }
                    address = ir.Operation.create("llvm.getelementptr", [pointer], [place, use.operands[1]], attributes).result
                    number = ir.Operation.create("llvm.load", [ir.F32Type.get()], [address]).result
                use.result.replace_all_uses_with(number)
                use.erase()


def _is_spread(type_: ir.Type, uses: Sequence[ir.Operation]) -> bool:
    """Whether the numbers of a vector of float32 are each used by itself, put into other vectors."""
    if not isinstance(type_, ir.VectorType) or not isinstance(ir.VectorType(type_).element_type, ir.F32Type) or len(uses) < _MANY:
        return False
    return all(
        use.name == "llvm.extractelement" and all(u.owner.operation.name == "llvm.insertelement" for u in use.result.uses)
        for use in uses
    )
