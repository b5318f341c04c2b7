"""Taps of cubic B-splines, a recursive filter and roundings in vector registers, which the compiler does not find.

Numba does not vectorise straight-line code, so these few sums are written down as vector instructions. Without the
compiler the same sums are taken in plain Python. `spline`, `signal` and `motion` inline them: raise `VERSION` there
with every edit here, because Numba's cache does not notice one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic
from numpy.typing import NDArray

# Cubic B-spline weights of the four taps as polynomials in the fraction, lowest power first.
POWERS = ((1 / 6, 2 / 3, 1 / 6, 0.0), (-0.5, 0.0, 0.5, 0.0), (0.5, -1.0, 0.5, 0.0), (-1 / 6, 0.5, -0.5, 1 / 6))

CLOSE = 4  # knots

_I32, _F32 = ir.IntType(32), ir.FloatType()
_FUSED = ("contract",)


def _weights(fraction: float) -> NDArray[np.float32]:
    powers = np.asarray(POWERS, dtype=np.float32)
    f = np.float32(fraction)
    weights: NDArray[np.float32] = powers[0] + f * (powers[1] + f * (powers[2] + f * powers[3]))
    return weights


def _plain_pair(plane: Any, stride: Any, p: Any, q: Any, fy: Any, fx: Any, gy: Any, gx: Any) -> tuple[Any, Any]:
    rows, cols = int(stride) * np.arange(4)[:, None], np.arange(4)
    first, second = plane[int(p) + rows + cols], plane[int(q) + rows + cols]
    return _weights(fy) @ first @ _weights(fx), _weights(gy) @ second @ _weights(gx)


def _plain_blend(stack: Any, stride: Any, size: Any, p: Any, fy: Any, fx: Any, share: Any) -> Any:
    near, far = _plain_pair(stack, stride, p, int(p) + int(size), fy, fx, fy, fx)
    return near + share * (far - near)


def _plain_surface(lanes: Any, stride: Any, p: Any, fy: Any, fx: Any) -> tuple[Any, ...]:
    taps = int(p) + int(stride) * np.arange(4)[:, None, None] + 4 * np.arange(4)[:, None] + np.arange(4)
    return tuple(np.einsum("i,j,ijk->k", _weights(fy), _weights(fx), lanes[taps]))


def _plain_relax(row: Any, c: Any, response: Any, state: Any, prompt: Any, delayed: Any) -> Any:
    part, table = row[int(c) : int(c) + 8], response.reshape(9, 8)
    states = part @ table[:8] + state * table[8]
    part[:] = prompt * part + delayed * states
    return states[7]


def _plain_products(first: Any, second: Any, c: Any, cols: Any, factors: Any, k: Any, terms: Any) -> int:
    part = slice(int(c), int(c) + 16)
    table, length = cols[int(k) : int(k) + 8, part], factors.size // 2
    for axis, line in enumerate((first, second)):
        line[part] += factors[axis * length + int(k) : axis * length + int(k) + 8] @ table
    return 0


def _plain_half(line: Any, c: Any, code: Any) -> int:
    part = slice(int(c), int(c) + 8)
    rounded = line[part].astype(np.float16)
    code[part], line[part] = rounded.view(np.uint16), rounded
    return 0


def _plain_modulate(row: Any, c: Any, series: Any, start: Any, step: Any, sigma: Any) -> Any:
    t = start + step * np.arange(8, dtype=np.float32)
    k = t.astype(np.int32)
    factor = 1 + sigma * (series[k] + (t - k) * (series[k + 1] - series[k]))
    row[int(c) : int(c) + 8] *= factor
    return np.float32(factor.sum())


class _Lanes:
    """Vector instructions on 4, 8 or 16 floats."""

    def __init__(self, builder: Any, width: int) -> None:
        self.builder, self.width = builder, width
        self.type = ir.VectorType(_F32, width)
        self.undefined = ir.Constant(self.type, ir.Undefined)

    def order(self, a: Any, b: Any, index: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(index)), index))

    def fill(self, *numbers: Any) -> Any:
        """Each number in its share of the lanes, one after the other."""
        share, filled = self.width // len(numbers), self.undefined
        for n, value in enumerate(numbers):
            filled = self.builder.insert_element(filled, value, ir.Constant(_I32, n * share))
        return self.order(filled, self.undefined, [n * share for n in range(len(numbers)) for _ in range(share)])

    def tap(self, weights: Any, k: int) -> Any:
        """Weight k of each group of four lanes, in all four of them."""
        return self.order(weights, self.undefined, [n - n % 4 + k for n in range(self.width)])

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """Product of a and b plus c, c None for 0."""
        product = self.builder.fmul(a, b, flags=_FUSED)
        return product if c is None else self.builder.fadd(product, c, flags=_FUSED)

    def weights(self, fraction: Any) -> Any:
        constants = [ir.Constant(self.type, [float(np.float32(v)) for v in row] * (self.width // 4)) for row in POWERS]
        return self.fused(fraction, self.fused(fraction, self.fused(fraction, constants[3], constants[2]),
                                               constants[1]), constants[0])

    def place(self, data: Any, at: Any, width: int) -> Any:
        """Address of `width` floats from index `at` on."""
        return self.builder.bitcast(self.builder.gep(data, [at]), ir.VectorType(_F32, width).as_pointer())

    def load(self, data: Any, at: Any, width: int = 4) -> Any:
        return self.builder.load(self.place(data, at, width), align=4)

    def starts(self, data: Any, stride: Any) -> list[Any]:
        """Addresses of four rows; they are the same for all pixels, and leave the loop over them."""
        count = (ir.Constant(stride.type, k) for k in range(4))
        return [self.builder.gep(data, [self.builder.mul(stride, k)]) for k in count]

    def item(self, lanes: Any, n: int) -> Any:
        return self.builder.extract_element(lanes, ir.Constant(_I32, n))


def _compiled_pair(typing: Any, plane: Any, stride: Any, p: Any, q: Any, fy: Any, fx: Any, gy: Any, gx: Any) -> Any:
    signature = types.UniTuple(types.float32, 2)(
        plane, types.uint64, types.uint64, types.uint64, *(types.float32,) * 4)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        plane, stride, p, q, fy, fx, gy, gx = arguments
        data, lanes = context.make_array(signature.args[0])(context, builder, plane).data, _Lanes(builder, 8)
        down, along, total = lanes.weights(lanes.fill(fy, gy)), lanes.weights(lanes.fill(fx, gx)), None
        for k, row in enumerate(lanes.starts(data, stride)):
            both = lanes.order(lanes.load(row, p), lanes.load(row, q), list(range(8)))
            total = lanes.fused(lanes.tap(down, k), both, total)
        total = builder.fmul(total, along)
        for swapped in ([1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5]):
            total = builder.fadd(total, lanes.order(total, total, swapped))
        return context.make_tuple(builder, signature.return_type, [lanes.item(total, 0), lanes.item(total, 4)])

    return signature, emit


def _compiled_blend(typing: Any, stack: Any, stride: Any, size: Any, p: Any, fy: Any, fx: Any, share: Any) -> Any:
    signature = types.float32(stack, types.uint64, types.uint64, types.uint64, *(types.float32,) * 3)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stack, stride, size, p, fy, fx, share = arguments
        data, four = context.make_array(signature.args[0])(context, builder, stack).data, _Lanes(builder, 4)
        down, along, near, far = four.weights(four.fill(fy)), four.weights(four.fill(fx)), None, None
        planes = four.starts(data, stride), four.starts(builder.gep(data, [size]), stride)
        for k, (one, other) in enumerate(zip(*planes, strict=True)):
            weight = four.tap(down, k)
            near, far = four.fused(weight, four.load(one, p), near), four.fused(weight, four.load(other, p), far)
        total = builder.fmul(four.fused(four.fill(share), builder.fsub(far, near), near), along)
        for swapped in ([1, 0, 3, 2], [2, 3, 0, 1]):
            total = builder.fadd(total, four.order(total, total, swapped))
        return four.item(total, 0)

    return signature, emit


def _compiled_surface(typing: Any, lanes: Any, stride: Any, p: Any, fy: Any, fx: Any) -> Any:
    signature = types.UniTuple(types.float32, 4)(lanes, types.uint64, types.uint64, types.float32, types.float32)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, stride, p, fy, fx = arguments
        data, four = context.make_array(signature.args[0])(context, builder, array).data, _Lanes(builder, 4)
        down, along, total = four.weights(four.fill(fy)), four.weights(four.fill(fx)), None
        for i in range(4):
            row, at = None, p
            for j in range(4):
                row = four.fused(four.tap(along, j), four.load(data, at), row)
                at = builder.add(at, ir.Constant(at.type, 4))
            total = four.fused(four.tap(down, i), row, total)
            p = builder.add(p, stride)
        return context.make_tuple(builder, signature.return_type, [four.item(total, k) for k in range(4)])

    return signature, emit


def _compiled_relax(typing: Any, row: Any, c: Any, response: Any, state: Any, prompt: Any, delayed: Any) -> Any:
    signature = types.float32(row, types.uint64, response, *(types.float32,) * 3)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, c, response, state, prompt, delayed = arguments
        data, table = (context.make_array(signature.args[n])(context, builder, array).data
                       for n, array in ((0, row), (2, response)))
        eight = _Lanes(builder, 8)
        column = [eight.load(table, ir.Constant(ir.IntType(64), 8 * j), 8) for j in range(9)]
        signal, sums = eight.load(data, c, 8), [None, None]
        for j in range(8):
            # Two sums side by side; the state joins last, because the next eight pixels wait for it.
            sums[j % 2] = eight.fused(eight.order(signal, eight.undefined, [j] * 8), column[j], sums[j % 2])
        states = eight.fused(eight.fill(state), column[8], builder.fadd(sums[0], sums[1]))
        mixed = eight.fused(eight.fill(delayed), states, builder.fmul(eight.fill(prompt), signal))
        builder.store(mixed, eight.place(data, c, 8), align=4)
        return eight.item(states, 7)

    return signature, emit


def _compiled_products(
    typing: Any, first: Any, second: Any, c: Any, cols: Any, factors: Any, k: Any, terms: Any
) -> Any:
    signature = types.intp(first, second, types.uint64, cols, factors, types.uint64, types.uint64)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second, c, cols, factors, k, terms = arguments
        lines = [context.make_array(signature.args[n])(context, builder, array).data
                 for n, array in ((0, first), (1, second))]
        table = context.make_array(signature.args[3])(context, builder, cols)
        data = context.make_array(signature.args[4])(context, builder, factors).data
        length = builder.extract_value(table.shape, 1)
        sixteen, at = _Lanes(builder, 16), builder.add(builder.mul(k, length), c)
        sums = [sixteen.load(line, c, 16) for line in lines]
        for _ in range(8):
            col = sixteen.load(table.data, at, 16)
            for axis, index in enumerate((k, builder.add(k, terms))):
                sums[axis] = sixteen.fused(sixteen.fill(builder.load(builder.gep(data, [index]))), col, sums[axis])
            at, k = builder.add(at, length), builder.add(k, ir.Constant(k.type, 1))
        for line, total in zip(lines, sums, strict=True):
            builder.store(total, sixteen.place(line, c, 16), align=4)
        return context.get_constant(types.intp, 0)

    return signature, emit


def _compiled_half(typing: Any, line: Any, c: Any, code: Any) -> Any:
    signature = types.intp(line, types.uint64, code)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line, c, code = arguments
        data, codes = (context.make_array(signature.args[n])(context, builder, array).data
                       for n, array in ((0, line), (2, code)))
        eight, short = _Lanes(builder, 8), ir.VectorType(ir.IntType(16), 8)
        half = builder.fptrunc(eight.load(data, c, 8), ir.VectorType(ir.HalfType(), 8))
        place = builder.bitcast(builder.gep(codes, [c]), short.as_pointer())
        builder.store(builder.bitcast(half, short), place, align=2)
        builder.store(builder.fpext(half, eight.type), eight.place(data, c, 8), align=4)
        return context.get_constant(types.intp, 0)

    return signature, emit


def _picked(eight: _Lanes, knots: Any, k: Any) -> tuple[Any, Any]:
    """The knots before and after eight places, wherever they are."""
    builder, near, far = eight.builder, eight.undefined, eight.undefined
    for n in range(8):
        at = builder.zext(builder.extract_element(k, ir.Constant(_I32, n)), ir.IntType(64))
        after = builder.add(at, ir.Constant(at.type, 1))
        near = builder.insert_element(near, builder.load(builder.gep(knots, [at])), ir.Constant(_I32, n))
        far = builder.insert_element(far, builder.load(builder.gep(knots, [after])), ir.Constant(_I32, n))
    return near, far


def _chosen(eight: _Lanes, knots: Any, k: Any) -> tuple[Any, Any]:
    """The same where all of them lie between the first `CLOSE` + 1 knots: chosen, not looked up."""
    builder, number = eight.builder, ir.IntType(64)
    values = [eight.fill(builder.load(builder.gep(knots, [ir.Constant(number, n)]))) for n in range(CLOSE + 1)]
    near, far = values[:2]
    for n in range(1, CLOSE):
        beyond = builder.icmp_signed(">=", k, ir.Constant(k.type, [n] * 8))
        near, far = builder.select(beyond, values[n], near), builder.select(beyond, values[n + 1], far)
    return near, far


def _compiled_modulate_close(typing: Any, row: Any, c: Any, series: Any, start: Any, step: Any, sigma: Any) -> Any:
    return _modulation(row, series, _chosen)


def _compiled_modulate(typing: Any, row: Any, c: Any, series: Any, start: Any, step: Any, sigma: Any) -> Any:
    return _modulation(row, series, _picked)


def _modulation(row: Any, series: Any, knots_at: Any) -> Any:
    signature = types.float32(row, types.uint64, series, *(types.float32,) * 3)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, c, series, start, step, sigma = arguments
        data, knots = (context.make_array(signature.args[n])(context, builder, array).data
                       for n, array in ((0, row), (2, series)))
        eight, whole = _Lanes(builder, 8), ir.VectorType(_I32, 8)
        count = ir.Constant(eight.type, [float(n) for n in range(8)])
        t = eight.fused(eight.fill(step), count, eight.fill(start))
        k = builder.fptosi(t, whole)
        share = builder.fsub(t, builder.sitofp(k, eight.type))
        near, far = knots_at(eight, knots, k)
        value = eight.fused(share, builder.fsub(far, near), near)
        factor = eight.fused(eight.fill(sigma), value, ir.Constant(eight.type, [1.0] * 8))
        builder.store(builder.fmul(eight.load(data, c, 8), factor), eight.place(data, c, 8), align=4)
        for swapped in ([1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5], [4, 5, 6, 7, 0, 1, 2, 3]):
            factor = builder.fadd(factor, eight.order(factor, factor, swapped))
        return eight.item(factor, 0)

    return signature, emit


_INTERPRETED = bool(getattr(config, "DISABLE_JIT", False))
# Sixteen taps of two pixels: their first ones at `p` and `q` of the flat `plane`, rows `stride` apart, with the
# fractions (fy, fx) and (gy, gx). And of one pixel of four surfaces that lie side by side. And eight pixels of a row
# from `c` on mixed with the state that relaxes towards them; the state after them.
pair: Any = _plain_pair if _INTERPRETED else intrinsic(_compiled_pair)
# Sixteen taps of one pixel in two planes of a stack, of `size` numbers each: (1 - share) · the plane with the first tap
# at `p` + share · the next one.
blend: Any = _plain_blend if _INTERPRETED else intrinsic(_compiled_blend)
surface: Any = _plain_surface if _INTERPRETED else intrinsic(_compiled_surface)
relax_eight: Any = _plain_relax if _INTERPRETED else intrinsic(_compiled_relax)
# Eight numbers of a line from `c` on rounded to half precision, in place and as codes. And eight pixels multiplied by
# 1 + sigma · series at start + step · n, linear between its knots; the sum of the factors. `modulate_close` where these
# are all below CLOSE.
half_eight: Any = _plain_half if _INTERPRETED else intrinsic(_compiled_half)
modulate_eight: Any = _plain_modulate if _INTERPRETED else intrinsic(_compiled_modulate)
modulate_close: Any = _plain_modulate if _INTERPRETED else intrinsic(_compiled_modulate_close)
# To sixteen numbers of two lines from `c` on: eight products each, of the numbers of `factors (2 terms,)` and the rows
# of `cols` from `k` on.
products_sixteen: Any = _plain_products if _INTERPRETED else intrinsic(_compiled_products)
