"""Vectors of sixteen lanes inside numba: three scalar types whose machine representation is an LLVM vector.

LLVM splits them into what the processor has (one AVX-512 register, two of AVX2, four of SSE or NEON), so one kernel source
serves every machine. The types are `float32x16`, `int32x16` and `mask16`; `+ - * / >= <= > < & ~` work on them, a float
scalar beside a vector is broadcast (and rounded to float32 first, so `0.5 * v` does not promote).

A *block* is a tuple of four vectors, one column per channel: channels are blended four at a time, with all accumulators in
registers whatever their number, so no kernel has to be generated or compiled per number of channels.

numba caches a kernel by the date of the file that holds the kernel, not of this one: after a change here, delete the
`*.nbi` files of `cpu/__pycache__`.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from .compiling import FASTMATH

LANES = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_INT_VECTOR = ir.VectorType(_I32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)

_FLAGS = tuple(sorted(FASTMATH))


class _Float32x16(types.Type):
    def __init__(self) -> None:
        super().__init__("float32x16")


class _Int32x16(types.Type):
    def __init__(self) -> None:
        super().__init__("int32x16")


class _Mask16(types.Type):
    def __init__(self) -> None:
        super().__init__("mask16")


float32x16, int32x16, mask16 = _Float32x16(), _Int32x16(), _Mask16()


def _register(numba_type: type, llvm_type: ir.Type) -> None:
    @register_model(numba_type)
    class _Model(models.PrimitiveModel):
        def __init__(self, manager, fe_type) -> None:
            super().__init__(manager, fe_type, llvm_type)


_register(_Float32x16, _VECTOR)
_register(_Int32x16, _INT_VECTOR)
_register(_Mask16, _MASK)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(value)] * LANES)


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INT_VECTOR, [0] * LANES))


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list[ir.Value]) -> ir.Value:
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fma.v16f32", _VECTOR, [a, b, c])


@lower_cast(types.Number, float32x16)
def _cast_to_vector(context, builder, from_type, to_type, value):
    return _broadcast(builder, context.cast(builder, value, from_type, types.float32), _VECTOR)


# ---------------------------------------------------------------------------------------------------------- operators


def _binary(op, result: types.Type, operands: types.Type, emit) -> None:
    """Defines `op` on two values of `operands`, of which one may be a scalar."""

    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and operands in args:
                if all(
                    a == operands or (operands == float32x16 and isinstance(a, types.Number)) for a in args
                ):
                    return signature(result, operands, operands)
            return None

    @lower_builtin(op, operands, operands)
    def _lower(context, builder, sig, args):
        return emit(builder, *args)


for _op, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _binary(_op, float32x16, float32x16, lambda b, x, y, name=_name: getattr(b, name)(x, y, flags=_FLAGS))
for _op, _name in ((operator.ge, ">="), (operator.le, "<="), (operator.gt, ">"), (operator.lt, "<")):
    _binary(_op, mask16, float32x16, lambda b, x, y, name=_name: b.fcmp_ordered(name, x, y))
    _binary(_op, mask16, int32x16, lambda b, x, y, name=_name: b.icmp_signed(name, x, y))
_binary(operator.and_, mask16, mask16, lambda b, x, y: b.and_(x, y))


def _unary(op, operand: types.Type, emit) -> None:
    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            return signature(operand, operand) if args == (operand,) else None

    @lower_builtin(op, operand)
    def _lower(context, builder, sig, args):
        return emit(builder, *args)


_unary(operator.neg, float32x16, lambda b, x: b.fsub(_constant(0.0), x))
_unary(operator.invert, mask16, lambda b, x: b.not_(x))


# ---------------------------------------------------------------------------------------------------------- functions


@intrinsic
def vector(typing_context, scalar):
    """A float32 scalar in all lanes."""

    def emit(context, builder, sig, args):
        return _broadcast(builder, context.cast(builder, args[0], sig.args[0], types.float32), _VECTOR)

    return float32x16(scalar), emit


@intrinsic
def int_vector(typing_context, scalar):
    """An int32 scalar in all lanes."""

    def emit(context, builder, sig, args):
        return _broadcast(builder, context.cast(builder, args[0], sig.args[0], types.int32), _INT_VECTOR)

    return int32x16(scalar), emit


@intrinsic
def lane_x(typing_context):
    """Column of each lane in its 4x4 pixel group: 0 1 2 3 0 1 2 3 ..."""
    return float32x16(), lambda *_: ir.Constant(_VECTOR, [float(lane % 4) for lane in range(LANES)])


@intrinsic
def lane_y(typing_context):
    """Row of each lane in its 4x4 pixel group: 0 0 0 0 1 1 1 1 ..."""
    return float32x16(), lambda *_: ir.Constant(_VECTOR, [float(lane // 4) for lane in range(LANES)])


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def emit(context, builder, sig, args):
        return _fma(builder, *args)

    return float32x16(float32x16, float32x16, float32x16), emit


def _select_min_max(predicate: str):
    @intrinsic
    def function(typing_context, a, b):
        def emit(context, builder, sig, args):
            return builder.select(builder.fcmp_ordered(predicate, *args), *args)

        return float32x16(float32x16, float32x16), emit

    return function


vmin, vmax = _select_min_max("<"), _select_min_max(">")


@intrinsic
def vabs(typing_context, a):
    def emit(context, builder, sig, args):
        return _call(builder, "llvm.fabs.v16f32", _VECTOR, [args[0]])

    return float32x16(float32x16), emit


@intrinsic
def select(typing_context, mask, a, b):
    """a where the mask is set, else b."""

    def emit(context, builder, sig, args):
        return builder.select(*args)

    return a(mask16, a, a), emit


@intrinsic
def bits(typing_context, mask):
    """The mask as an integer, lane 0 in bit 0."""

    def emit(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), _I32)

    return types.int32(mask16), emit


@intrinsic
def lowest_bit(typing_context, a):
    """Index of the lowest set bit; the argument must not be 0."""

    def emit(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int32(types.int32), emit


# Taylor coefficients of 2^f, |f| <= 1/2, highest first: relative error 1e-7, the last bit of float32.
_EXP2 = (
    1.5403530393381610e-4,
    1.3333558146428443e-3,
    9.6181291076284772e-3,
    5.5504108664821580e-2,
    2.4022650695910072e-1,
    6.9314718055994531e-1,
    1.0,
)
_ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits


@intrinsic
def vexp(typing_context, a):
    """exp(a) for a <= 0; below -87 it stays at 2^-126, which no threshold of ours can tell from 0."""

    def emit(context, builder, sig, args):
        y = builder.fmul(args[0], _constant(1.4426950408889634))
        y = builder.select(builder.fcmp_ordered("<", y, _constant(-126.0)), _constant(-126.0), y)
        rounded = builder.fadd(y, _constant(_ROUND))
        f = builder.fsub(y, builder.fsub(rounded, _constant(_ROUND)))
        p = _constant(_EXP2[0])
        for coefficient in _EXP2[1:]:
            p = _fma(builder, p, f, _constant(coefficient))
        exponent = builder.shl(builder.bitcast(rounded, _INT_VECTOR), ir.Constant(_INT_VECTOR, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(p, _INT_VECTOR), exponent), _VECTOR)

    return float32x16(float32x16), emit


@intrinsic
def float_bits(typing_context, a):
    """The bits of a float32 as int32 (of positive floats they sort like the floats)."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], _I32)


# -------------------------------------------------------------------------------------------------------------- memory


def _pointer(context, builder, array_type, array, index, offset: int, element: ir.Type) -> ir.Value:
    data = context.make_array(array_type)(context, builder, array).data
    if offset:
        index = builder.add(index, ir.Constant(index.type, offset))
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _load(context, builder, array_type, array, index, offset: int, element: ir.Type) -> ir.Value:
    value = builder.load(_pointer(context, builder, array_type, array, index, offset, element))
    value.align = 4
    return value


def _store(context, builder, array_type, array, index, offset: int, value: ir.Value) -> None:
    builder.store(value, _pointer(context, builder, array_type, array, index, offset, value.type)).align = 4


@intrinsic
def load(typing_context, array, start):
    """Sixteen consecutive float32 (or int32) of a flat array, from element `start`."""
    of_int = array.dtype == types.int32

    def emit(context, builder, sig, args):
        return _load(context, builder, sig.args[0], args[0], args[1], 0, _INT_VECTOR if of_int else _VECTOR)

    return (int32x16 if of_int else float32x16)(array, types.intp), emit


@intrinsic
def store(typing_context, array, start, value):
    """Writes a vector to sixteen consecutive elements of a flat array."""

    def emit(context, builder, sig, args):
        _store(context, builder, sig.args[0], args[0], args[1], 0, args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def prefetch(typing_context, array, start):
    """Asks for the cache line of a flat array's element `start`, which will be read soon."""

    def emit(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], 0, ir.IntType(8))
        arguments = [pointer, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)]
        _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


# --------------------------------------------------------------------- columns: the vectors of a block of four channels

BLOCK = 4
"""Channels blended at a time: 4 accumulators are 8 AVX2 registers of the 16, enough to hide the latency of fma."""

columns = types.UniTuple(float32x16, BLOCK)
_QUAD = ir.VectorType(_F32, BLOCK)


def _unpack(builder: ir.IRBuilder, packed: ir.Value) -> list[ir.Value]:
    return [builder.extract_value(packed, k) for k in range(BLOCK)]


def _indices(*lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes))


@intrinsic
def zero_columns(typing_context):
    """A block of zeros."""
    return columns(), lambda context, builder, *_: context.make_tuple(
        builder, columns, [_constant(0.0)] * BLOCK
    )


@intrinsic
def add_scaled_scalars(typing_context, block, weight, scalars, start):
    """block[k] + weight * scalars[start + k]: a Gaussian's features into sixteen pixels."""

    def emit(context, builder, sig, args):
        packed, w, array, first = args
        out = []
        for k, column in enumerate(_unpack(builder, packed)):
            value = _load(context, builder, sig.args[2], array, first, k, _F32)
            out.append(_fma(builder, w, _broadcast(builder, value, _VECTOR), column))
        return context.make_tuple(builder, columns, out)

    return columns(columns, float32x16, scalars, types.intp), emit


@intrinsic
def add_scaled_vectors(typing_context, block, weight, vectors, start):
    """block[k] + weight * vectors[start + 16 k ...]: sixteen pixels' values towards a Gaussian."""

    def emit(context, builder, sig, args):
        packed, w, array, first = args
        out = []
        for k, column in enumerate(_unpack(builder, packed)):
            value = _load(context, builder, sig.args[2], array, first, LANES * k, _VECTOR)
            out.append(_fma(builder, w, value, column))
        return context.make_tuple(builder, columns, out)

    return columns(columns, float32x16, vectors, types.intp), emit


@intrinsic
def add_dot(typing_context, value, scalars, scalar_start, vectors, vector_start):
    """value + sum over a block of scalars[scalar_start + k] * vectors[vector_start + 16 k ...]."""

    def emit(context, builder, sig, args):
        total, s, s_first, v, v_first = args
        partial = [total, None]  # two chains: half the latency
        for k in range(BLOCK):
            scalar = _broadcast(builder, _load(context, builder, sig.args[1], s, s_first, k, _F32), _VECTOR)
            vector_k = _load(context, builder, sig.args[3], v, v_first, LANES * k, _VECTOR)
            before = partial[k % 2]
            if before is None:
                partial[k % 2] = builder.fmul(vector_k, scalar, flags=_FLAGS)
            else:
                partial[k % 2] = _fma(builder, vector_k, scalar, before)
        return builder.fadd(*partial, flags=_FLAGS)

    return float32x16(float32x16, scalars, types.intp, vectors, types.intp), emit


@intrinsic
def store_by_lane(typing_context, block, array, start, stride):
    """Writes element `lane` of column k to array[start + stride * lane + k]: pixel after pixel."""

    def emit(context, builder, sig, args):
        packed, out, first, step = args
        a, b, c, d = _unpack(builder, packed)
        for quarter in range(0, LANES, 4):
            # four lanes of four columns: a 4x4 transpose in two rounds of shuffles
            low, high = (
                _indices(quarter, 16 + quarter, quarter + 1, 17 + quarter),
                _indices(quarter + 2, 18 + quarter, quarter + 3, 19 + quarter),
            )
            ab, cd = [
                [builder.shuffle_vector(*pair, half) for half in (low, high)] for pair in ((a, b), (c, d))
            ]
            for lane in range(4):
                half = lane // 2
                pick = _indices(0, 1, 4, 5) if lane % 2 == 0 else _indices(2, 3, 6, 7)
                offset = builder.add(first, builder.mul(step, ir.Constant(step.type, quarter + lane)))
                value = builder.shuffle_vector(ab[half], cd[half], pick)
                _store(context, builder, sig.args[1], out, offset, 0, value)
        return context.get_dummy_value()

    return types.void(columns, array, types.intp, types.intp), emit


@intrinsic
def load_by_lane(typing_context, array, start, stride):
    """The block whose column k has array[start + stride * lane + k] in each lane: the inverse of `store_by_lane`."""

    def emit(context, builder, sig, args):
        source, first, step = args
        quarters: list[list[ir.Value]] = []
        for quarter in range(0, LANES, 4):
            rows = []
            for lane in range(quarter, quarter + 4):
                offset = builder.add(first, builder.mul(step, ir.Constant(step.type, lane)))
                rows.append(_load(context, builder, sig.args[0], source, offset, 0, _QUAD))
            r0, r1, r2, r3 = rows
            low01, low23 = (
                builder.shuffle_vector(x, y, _indices(0, 4, 1, 5)) for x, y in ((r0, r1), (r2, r3))
            )
            high01, high23 = (
                builder.shuffle_vector(x, y, _indices(2, 6, 3, 7)) for x, y in ((r0, r1), (r2, r3))
            )
            quarters.append(
                [
                    builder.shuffle_vector(x, y, pick)
                    for x, y in ((low01, low23), (high01, high23))
                    for pick in (_indices(0, 1, 4, 5), _indices(2, 3, 6, 7))
                ]
            )
        out = []
        for k in range(BLOCK):
            halves = [
                builder.shuffle_vector(quarters[i][k], quarters[i + 1][k], _indices(*range(8)))
                for i in (0, 2)
            ]
            out.append(builder.shuffle_vector(*halves, _indices(*range(16))))
        return context.make_tuple(builder, columns, out)

    return columns(array, types.intp, types.intp), emit


@intrinsic
def store_columns(typing_context, block, array, start):
    """Writes column k to array[start + 16 k ...]."""

    def emit(context, builder, sig, args):
        for k, column in enumerate(_unpack(builder, args[0])):
            _store(context, builder, sig.args[1], args[1], args[2], LANES * k, column)
        return context.get_dummy_value()

    return types.void(columns, array, types.intp), emit


def _halves(builder: ir.IRBuilder, v: ir.Value, width: int) -> ir.Value:
    """Lower half plus upper half of a vector of `2 * width`."""
    lower, upper = _indices(*range(width)), _indices(*range(width, 2 * width))
    return builder.fadd(
        builder.shuffle_vector(v, v, lower), builder.shuffle_vector(v, v, upper), flags=_FLAGS
    )


def _pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """[a0+a1, a2+a3, b0+b1, b2+b3] of two vectors of four."""
    even, odd = (
        builder.shuffle_vector(a, b, _indices(0, 2, 4, 6)),
        builder.shuffle_vector(a, b, _indices(1, 3, 5, 7)),
    )
    return builder.fadd(even, odd, flags=_FLAGS)


@intrinsic
def store_sums(typing_context, block, array, start):
    """Writes the sum over the lanes of column k to array[start + k]; the last two halvings are shared by the four."""

    def emit(context, builder, sig, args):
        a, b, c, d = (_halves(builder, _halves(builder, v, 8), 4) for v in _unpack(builder, args[0]))
        sums = _pairs(builder, _pairs(builder, a, b), _pairs(builder, c, d))
        _store(context, builder, sig.args[1], args[1], args[2], 0, sums)
        return context.get_dummy_value()

    return types.void(columns, array, types.intp), emit
