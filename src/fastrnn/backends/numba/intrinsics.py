"""What Numba lacks: fused multiply-add, powers of two, strided groups of scalars, contiguous rows of any array."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


@intrinsic
def fma(context, a, b, c):
    """a·b + c, rounded once, in the narrowest type of the three: Python constants take that of the variables."""
    t = min((v for v in (a, b, c) if isinstance(v, types.Float)), key=lambda v: v.bitwidth)
    return t(t, t, t), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def power_of_two(context, n):
    """2^n for a whole number n from -bias (which gives 0) to bias, by way of the exponent's bits."""
    mantissa, bias = (23, 127) if n.bitwidth == 32 else (52, 1023)

    def generate(context, builder, signature, args):
        integer, real = ir.IntType(n.bitwidth), args[0].type
        aligned = builder.fadd(args[0], ir.Constant(real, 1.5 * 2.0**mantissa + bias))  # n + bias in the low bits
        bits = builder.shl(builder.bitcast(aligned, integer), ir.Constant(integer, mantissa))
        return builder.bitcast(bits, real)

    return n(n), generate


@intrinsic
def copysign(context, magnitude, sign):
    def generate(context, builder, signature, args):
        real = args[0].type
        function = builder.module.declare_intrinsic("llvm.copysign", [real], ir.FunctionType(real, [real, real]))
        return builder.call(function, args)

    return magnitude(magnitude, magnitude), generate


@intrinsic(prefer_literal=True)
def load(context, array, at, stride, count):
    """The tuple array[at], array[at + stride], … of `count` values, a constant."""

    def generate(context, builder, signature, args):
        values = [builder.load(p) for p in strided(context, builder, array, args, count.literal_value)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(array.dtype, count.literal_value)(array, types.intp, types.intp, count), generate


@intrinsic
def store(context, array, at, stride, values):
    """array[at], array[at + stride], … = values, a tuple."""

    def generate(context, builder, signature, args):
        pointers = strided(context, builder, array, args, len(values))
        for value, pointer in zip(cgutils.unpack_tuple(builder, args[3]), pointers):
            builder.store(value, pointer)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, values), generate


def strided(context, builder, array, args, count):
    """Pointers to args[0][args[1] + k·args[2]] for k < count."""
    data, at, stride = make_array(array)(context, builder, args[0]).data, args[1], args[2]
    indices = (builder.add(at, builder.mul(stride, ir.Constant(stride.type, k))) for k in range(count))
    return [builder.gep(data, [index], inbounds=True) for index in indices]


@intrinsic
def features(context, array, t, row):
    """array[t, row] as a contiguous vector, which it is by the contract, though not by its type."""
    vector = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def generate(context, builder, signature, args):
        source = make_array(array)(context, builder, args[0])
        strides, shape = cgutils.unpack_tuple(builder, source.strides), cgutils.unpack_tuple(builder, source.shape)
        offset = builder.add(builder.mul(args[1], strides[0]), builder.mul(args[2], strides[1]))
        view = make_array(vector)(context, builder)
        populate_array(
            view,
            data=cgutils.pointer_add(builder, source.data, offset),
            shape=[shape[2]],
            strides=[source.itemsize],
            itemsize=source.itemsize,
            meminfo=None,
        )
        return view._getvalue()

    return vector(array, types.intp, types.intp), generate


@intrinsic
def horner(context, v, coefficients):
    """Σ_k coefficients[k]·v^k by fused multiply-adds."""

    def generate(context, builder, signature, args):
        values = cgutils.unpack_tuple(builder, args[1])
        *rest, total = (context.cast(builder, value, coefficients.dtype, v) for value in values)
        for value in reversed(rest):
            total = builder.fma(total, args[0], value)
        return total

    return v(v, coefficients), generate
