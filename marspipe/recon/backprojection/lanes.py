"""Sixteen float32 at a time: small numba intrinsics that the kernels are made of.

They work on 16 lanes of whatever vectors the processor has. Fused multiply-adds are asked for by name and nothing may
be reassociated, so that every processor gives the same bits.

numba's cache watches the file of a kernel alone: after a change here its cached kernels must be deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as numba_cgutils
from numba.extending import intrinsic as numba_intrinsic

LANES = 16

F32, F64 = ir.FloatType(), ir.DoubleType()
I32, I64 = ir.IntType(32), ir.IntType(64)
V16 = ir.VectorType(F32, LANES)
W16 = ir.VectorType(I32, LANES)
IOTA = ir.Constant(W16, list(range(LANES)))

Codegen = Callable[[Any, Any, Any, Any], Any]

# numba types these by halves, differently from version to version.
cgutils: Any = numba_cgutils
intrinsic: Any = numba_intrinsic


def integer(value: int) -> ir.Constant:
    """Return a 64-bit constant."""
    return ir.Constant(I64, value)


def data_of(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Return the pointer to an array's first element."""
    return context.make_array(array_type)(context, builder, array).data


def splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Return a vector with a scalar in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(W16, [0] * LANES))


def load(builder: Any, pointer: Any, index: Any, align: int = 4) -> Any:
    """Return 16 floats from ``pointer[index]`` on."""
    value = builder.load(builder.bitcast(builder.gep(pointer, [index]), V16.as_pointer()))
    value.align = align
    return value


def store(builder: Any, value: Any, pointer: Any, index: Any, align: int = 4) -> None:
    """Write 16 floats to ``pointer[index]`` on."""
    stored = builder.store(value, builder.bitcast(builder.gep(pointer, [index]), V16.as_pointer()))
    stored.align = align


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), list(values))


@intrinsic
def fma32(typingctx: Any, a: Any, b: Any, c: Any) -> tuple[Any, Codegen]:
    """Return ``a * b + c`` of three float32 with one rounding."""
    signature = types.float32(types.float32, types.float32, types.float32)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return call(builder, "llvm.fma.f32", F32, *values)

    return signature, codegen


@intrinsic
def floor32(typingctx: Any, value: Any) -> tuple[Any, Codegen]:
    """Return a float32 rounded down, as a float32."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return call(builder, "llvm.floor.f32", F32, *values)

    return types.float32(types.float32), codegen


@intrinsic
def floor64(typingctx: Any, value: Any) -> tuple[Any, Codegen]:
    """Return a float64 rounded down, as a float64."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return call(builder, "llvm.floor.f64", F64, *values)

    return types.float64(types.float64), codegen


@intrinsic
def transpose_block(
    typingctx: Any, source: Any, start: Any, stride: Any, target: Any, to: Any, to_stride: Any
) -> tuple[Any, Codegen]:
    """Transpose 16 x 16 float32: ``target[to + j to_stride + i] = source[start + i stride + j]``."""
    signature = types.void(source, start, stride, target, to, to_stride)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        source_ = data_of(context, builder, sig.args[0], values[0])
        target_ = data_of(context, builder, sig.args[3], values[3])
        _, start_, stride_, _, to_, to_stride_ = values
        rows = [load(builder, source_, builder.add(start_, builder.mul(stride_, integer(i)))) for i in range(LANES)]
        for half in (8, 4, 2, 1):  # swap the off-diagonal squares of this size
            low = ir.Constant(W16, [k - half + LANES if k & half else k for k in range(LANES)])
            high = ir.Constant(W16, [k + LANES if k & half else k + half for k in range(LANES)])
            for i in range(LANES):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i], rows[i + half] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        for i, row in enumerate(rows):
            store(builder, row, target_, builder.add(to_, builder.mul(to_stride_, integer(i))))
        return context.get_dummy_value()

    return signature, codegen


@njit(nogil=True, error_model="numpy", cache=True)
def transpose_rows(source, first_row, n_rows, target, to_column):  # type: ignore[no-untyped-def]
    """Write ``source[first_row + i, j]`` to ``target[j, to_column + i]`` for all columns ``j`` of ``target``."""
    n_columns, stride, to_stride = target.shape[0], source.shape[1], target.shape[1]
    flat_source, flat_target = source.reshape(-1), target.reshape(-1)
    for i in range(0, n_rows, LANES):
        for j in range(0, n_columns, LANES):
            start, to = (first_row + i) * stride + j, j * to_stride + to_column + i
            if i + LANES <= n_rows and j + LANES <= n_columns:
                transpose_block(flat_source, start, stride, flat_target, to, to_stride)
            else:
                for b in range(min(LANES, n_columns - j)):
                    for a in range(min(LANES, n_rows - i)):
                        flat_target[to + b * to_stride + a] = flat_source[start + a * stride + b]
