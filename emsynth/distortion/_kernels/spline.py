"""Cubic B-splines: interpolation of a field, and the smooth surfaces that strain and thicken it.

A row of pixels at a time: where it looks (float64), the index and the fraction of its taps, the sums (float32).
The first steps vectorise over pixels, the sums over taps (see `lanes`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from emsynth.distortion._kernels.lanes import blend, pair, surface

PAD = 3  # px of coefficients beyond each side of the field, so that no tap needs a branch
MARGIN = 40.0  # px around the window that the control grids cover
EDGE = 1e-6  # field px by which rounding may put a position outside
_CELL = 48  # numbers in the polynomials of a cell: three surfaces of 16
_TOGETHER = 16  # px that are handled at once where a surface is evaluated
SURFACE_PAD = 8  # knots by which `lanes` repeats the edges of the control grids

F, U = np.float32, np.uint64
VERSION = 3  # of `lanes`, whose functions are inlined here


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _look(start: float, step: float, a: float, b: float, offsets: NDArray[np.float32], rows: bool, r: int,
          out: NDArray[Any]) -> None:
    # out[c] = start + step·c + (a, b) · offsets[:, r, c]; `rows` says whether there are offsets.
    if rows:
        first, second = offsets[0, r], offsets[1, r]
        for c in range(out.size):
            out[c] = start + step * c + (a * np.float64(first[c]) + b * np.float64(second[c]))
    else:
        for c in range(out.size):
            out[c] = start + step * c


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _place(y: NDArray[np.float64], x: NDArray[np.float64], height: float, width: float, periodic: bool,
           base: NDArray[np.uint32], fraction: NDArray[np.float32]) -> int:
    # Index of the first tap and the fractions beyond it, (2, C); how many pixels look outside, and at the edge instead.
    outside, stride, before = 0, np.uint32(width + 2 * PAD), np.int32(PAD - 1)
    down, across = 1.0 / height, 1.0 / width
    if periodic:
        for c in range(y.size):
            v, u = y[c], x[c]
            v -= height * np.floor(v * down)
            u -= width * np.floor(u * across)
            i, j = np.floor(v), np.floor(u)
            base[c] = np.uint32(np.int32(i) + before) * stride + np.uint32(np.int32(j) + before)
            fraction[0, c], fraction[1, c] = F(v - i), F(u - j)
        return 0
    for c in range(y.size):
        v, u = y[c], x[c]
        outside += 1 if (v < -EDGE) | (v > height - 1.0 + EDGE) | (u < -EDGE) | (u > width - 1.0 + EDGE) else 0
    if outside > 0:
        for c in range(y.size):
            y[c] = min(max(y[c], 0.0), height - 1.0)
            x[c] = min(max(x[c], 0.0), width - 1.0)
    for c in range(y.size):
        i, j = np.floor(y[c]), np.floor(x[c])
        base[c] = np.uint32(np.int32(i) + before) * stride + np.uint32(np.int32(j) + before)
        fraction[0, c], fraction[1, c] = F(y[c] - i), F(x[c] - j)
    return outside


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _sum(plane: NDArray[np.float32], stride: np.uint64, base: NDArray[np.uint32], fraction: NDArray[np.float32],
         out: NDArray[np.float32]) -> None:
    # The sixteen taps of each pixel in the flat `plane`, two pixels at a time.
    fy, fx, n = fraction[0], fraction[1], out.size
    for c in range(0, n - 1, 2):
        p, q = np.uint64(base[c]), np.uint64(base[c + 1])
        out[c], out[c + 1] = pair(plane, stride, p, q, fy[c], fx[c], fy[c + 1], fx[c + 1])
    if n % 2:
        p, f, g = np.uint64(base[n - 1]), fy[n - 1], fx[n - 1]
        out[n - 1] = pair(plane, stride, p, p, f, g, f, g)[0]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _knots(position: NDArray[np.floating], length: int, knots: int, index: NDArray[np.int32],
           fraction: NDArray[np.float32]) -> None:
    # The window of `length` px and MARGIN on both sides span knots - 3 intervals; far outside, the surface is constant.
    # In the precision of the positions.
    scale, most = F((knots - 3) / (length - 1 + 2.0 * MARGIN)), F(knots + 1)
    for c in range(position.size):
        s = (position[c] + F(MARGIN)) * scale
        s = s if s > F(-4.0) else F(-4.0)
        s = s if s < most else most
        i = np.floor(s)
        index[c] = np.int32(i) + np.int32(SURFACE_PAD)
        fraction[c] = F(s - i)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _number(i: NDArray[np.int32], j: NDArray[np.int32], stride: int, cell: NDArray[np.int32]) -> None:
    for c in range(cell.size):
        cell[c] = i[c] * np.int32(stride) + j[c]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _surfaces(lanes: NDArray[np.float32], rows: NDArray[np.int32], cols: NDArray[np.int32],
              fraction: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    # Four surfaces of lanes (M, N, 4) at each pixel, out (C, 4).
    flat, stride = lanes.reshape(-1), np.uint64(4 * lanes.shape[1])
    for c in range(out.shape[0]):
        p = np.uint64(rows[c]) * stride + np.uint64(4) * np.uint64(cols[c])
        out[c, 0], out[c, 1], out[c, 2], out[c, 3] = surface(flat, stride, p, fraction[0, c], fraction[1, c])


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _between(plane: NDArray[np.float32], size: int, last: int, base: NDArray[np.uint32],
             share: NDArray[np.float32]) -> None:
    # The first of the two planes around each pixel, into its index in the stack, and the share of the second.
    most, step = F(last - 1), np.uint32(size)
    for c in range(share.size):
        k = np.floor(plane[c])
        k = k if k > F(0.0) else F(0.0)
        k = k if k < most else most
        base[c] += np.uint32(np.int32(k)) * step
        share[c] = min(max(plane[c] - k, F(0.0)), F(1.0))


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _blend(stack: NDArray[np.float32], stride: np.uint64, size: np.uint64, base: NDArray[np.uint32],
           fraction: NDArray[np.float32], share: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    # The sixteen taps of each pixel in two planes of `size` coefficients in the flat `stack`, blended.
    fy, fx = fraction[0], fraction[1]
    for c in range(out.size):
        p = np.uint64(base[c])
        out[c] = blend(stack, stride, size, p, fy[c], fx[c], share[c])


@njit(cache=True, nogil=True, fastmath=False)
def _powers(a: float, b: float, c: float, d: float) -> tuple[float, float, float, float]:
    # The cubic B-spline with these four coefficients as a polynomial in the fraction, lowest power first.
    return (a + 4.0 * b + c) / 6.0, (c - a) / 2.0, (a - 2.0 * b + c) / 2.0, (d - a + 3.0 * (b - c)) / 6.0


@njit(cache=True, nogil=True, fastmath=False)
def _polynomial(maps: NDArray[np.float64], i: int, j: int, flat: NDArray[np.float32], at: int,
                half: NDArray[np.float64]) -> None:
    # The three surfaces of maps (3, M, N) between knots (i, j) and the next ones, from `at` on in the flat cells:
    # Σ cell[k, l] · v^k · u^l with v and u from 0 to 1; half (4, 4) is room to work in.
    rows, cols = maps.shape[1] - 1, maps.shape[2] - 1
    r0, r1, r2, r3 = _inside(i - 1, rows), _inside(i, rows), _inside(i + 1, rows), _inside(i + 2, rows)
    for m in range(3):
        for b in range(4):
            c = _inside(j + b - 1, cols)
            powers = _powers(maps[m, r0, c], maps[m, r1, c], maps[m, r2, c], maps[m, r3, c])
            half[0, b], half[1, b], half[2, b], half[3, b] = powers
        for k in range(4):
            to = at + 16 * m + 4 * k
            flat[to], flat[to + 1], flat[to + 2], flat[to + 3] = _powers(half[k, 0], half[k, 1], half[k, 2], half[k, 3])


@njit(cache=True, nogil=True, fastmath=False)
def _inside(k: int, last: int) -> int:
    return min(max(k, 0), last)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _evaluate(cells: NDArray[np.float32], at: Any, m: Any, fraction: NDArray[np.float32], first: Any, end: Any,
              out: NDArray[np.float32]) -> None:
    # The polynomial of surface m that begins at `at` of the flat `cells`, at the pixels of a run. A signed index could
    # count from the end, and then nothing would vectorise.
    a0, a1, a2, a3 = cells[at], cells[at + U(1)], cells[at + U(2)], cells[at + U(3)]
    b0, b1, b2, b3 = cells[at + U(4)], cells[at + U(5)], cells[at + U(6)], cells[at + U(7)]
    c0, c1, c2, c3 = cells[at + U(8)], cells[at + U(9)], cells[at + U(10)], cells[at + U(11)]
    d0, d1, d2, d3 = cells[at + U(12)], cells[at + U(13)], cells[at + U(14)], cells[at + U(15)]
    for k in range(first, end):
        y, x = fraction[0, k], fraction[1, k]
        a, b = a0 + x * (a1 + x * (a2 + x * a3)), b0 + x * (b1 + x * (b2 + x * b3))
        c, d = c0 + x * (c1 + x * (c2 + x * c3)), d0 + x * (d1 + x * (d2 + x * d3))
        out[m, k] = a + y * (b + y * (c + y * d))


@njit(cache=True, nogil=True, fastmath=False)
def _begins(cell: NDArray[np.int32], mark: NDArray[np.uint8], starts: NDArray[np.int32]) -> int:
    # Where another cell begins, into `starts`, and their number; eight marks are looked at together.
    count, words = 0, mark.view(np.uint64)
    for c in range(1, cell.size):
        mark[c] = np.uint8(1) if cell[c] != cell[c - 1] else np.uint8(0)
    mark[0] = np.uint8(1)
    for w in range(words.size):
        if words[w] != np.uint64(0):
            for c in range(8 * w, 8 * w + 8):
                starts[count] = c
                count += 1 if mark[c] != np.uint8(0) else 0
    return count


@njit(cache=True, nogil=True, fastmath=False)
def _mapped(maps: NDArray[np.float64], most: int, cells: NDArray[np.float32], known: NDArray[np.bool_],
            cell: NDArray[np.int32], mark: NDArray[np.uint8], starts: NDArray[np.int32],
            fraction: NDArray[np.float32], half: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    # The first `most` of three surfaces at a row of pixels, out (3, C): by runs in one cell, which is worked out once.
    count, stride = _begins(cell, mark, starts), maps.shape[2] + 2 * SURFACE_PAD
    starts[count] = cell.size
    for n in range(count):
        place = cell[starts[n]]
        if not known[place]:
            i, j = place // stride, place % stride
            _polynomial(maps, i - SURFACE_PAD + 1, j - SURFACE_PAD + 1, cells, place * _CELL, half)
            known[place] = True
        # A whole number of what is handled together in vector registers; what is too much belongs to the next run.
        end = starts[n] + (starts[n + 1] - starts[n] + _TOGETHER - 1) // _TOGETHER * _TOGETHER
        for m in range(U(most)):
            _evaluate(cells, U(place) * U(_CELL) + m * U(16), m, fraction, U(starts[n]), U(end), out)


@njit(cache=True, nogil=True, fastmath=False)
def surfaces(lanes: NDArray[np.float32], points: NDArray[np.float64], rows: int, cols: int,
             out: NDArray[np.float32]) -> None:
    """Evaluate `lanes (M + 16, N + 16, 4)` at window px `points (2, n)` of a window (rows, cols), into `out (n, 4)`."""
    n = points.shape[1]
    i, j, fraction = np.empty(n, np.int32), np.empty(n, np.int32), np.empty((2, n), np.float32)
    _knots(points[0], rows, lanes.shape[0] - 2 * SURFACE_PAD, i, fraction[0])
    _knots(points[1], cols, lanes.shape[1] - 2 * SURFACE_PAD, j, fraction[1])
    _surfaces(lanes, i, j, fraction, out)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _further(line: NDArray[np.floating], along: float, step: float, out: NDArray[np.floating]) -> None:
    # out = line, and the share `along` of the way from pixel to pixel further; `step` where there is one pixel only.
    last = line.size - 1
    if last == 0:
        out[0] = line[0] + along * step
        return
    out[0], out[last] = line[0] + along * (line[1] - line[0]), line[last] + along * (line[last] - line[last - 1])
    half = 0.5 * along
    for c in range(1, last):
        out[c] = line[c] + half * (line[c + 1] - line[c - 1])


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _add(line: NDArray[np.float32], y: NDArray[np.float64]) -> None:
    for c in range(y.size):
        y[c] += line[c]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _collect(seen: NDArray[np.float32], lowest: float, share: float, out: NDArray[np.float32]) -> None:
    # out += share · seen, where that is not below `lowest`.
    least, weight = F(lowest), F(share)
    for c in range(out.size):
        out[c] += weight * (seen[c] if seen[c] > least else least)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _weigh(lowest: float, share: float, out: NDArray[np.float32]) -> None:
    # The same of the only look, in place.
    least, weight = F(lowest), F(share)
    for c in range(out.size):
        out[c] = weight * (out[c] if out[c] > least else least)


@njit(cache=True, nogil=True, fastmath=False)
def gather(
    coefficients: NDArray[np.float32],
    periodic: bool,
    affine: NDArray[np.float64],
    maps: NDArray[np.float64],
    plane: float,
    window: tuple[int, int],
    grid: NDArray[np.float64],
    offsets: NDArray[np.float32],
    path: NDArray[np.float64],
    lowest: float,
    out: NDArray[np.float32],
) -> int:
    """Interpolate a stack of fields at the displaced points of a grid.

    Parameters
    ----------
    coefficients : (T, H + 6, W + 6) float32
        B-spline coefficients of each thickness, padded by 3 px.
    periodic : bool
        Wrap; where not, positions outside the field are not read.
    affine : (2, 3) float64
        Window px to field px.
    maps : (3, M, N) or (3, 0, 0) float64
        Control grids over the window, which go on with the values at their edges: displacement along rows and cols in
        field px, and the fractional plane; none where neither varies.
    plane : float
        Fractional index of the thickness; not a number where the control grid tells.
    window : (int, int)
        Shape of the window, which the control grids cover.
    grid : (2, 3) float64
        Pixel (r, c) looks at window px grid @ [r, c, 1] + offsets[:, r, c].
    offsets : (2, R, C) float32 or float64, or (2, 0, 0)
        None where empty.
    path : (K, 2) float64
        Where each pixel looks beside that, as a share of the way to the next pixel of its row on the displaced path,
        by central differences; and the weight of what is seen there.
    lowest : float
        What is seen and lower counts as that; minus infinity where nothing is too low.
    out : (R, C) float32
        Receives the weighted sums.

    Returns
    -------
    int
        How many pixels look outside of a non-periodic field; they show its edge.
    """
    rows, cols = out.shape
    size, last = coefficients.shape[1] * coefficients.shape[2], coefficients.shape[0] - 1
    height, width = coefficients.shape[1] - 2 * PAD, coefficients.shape[2] - 2 * PAD
    stride, displaced, flat = np.uint64(width + 2 * PAD), offsets.shape[1] > 0, coefficients.reshape(-1)
    mapped, knots = maps.shape[1] > 0, (maps.shape[1] + 2 * SURFACE_PAD, maps.shape[2] + 2 * SURFACE_PAD)
    # Not a number is none of these either.
    blended, surfaces = last > 0 and plane != np.floor(plane), 3 if np.isnan(plane) else 2
    only = flat if np.isnan(plane) else flat[min(max(int(plane), 0), last) * size :]
    base, fraction, share = np.empty(cols, np.uint32), np.empty((2, cols), np.float32), np.empty(cols, np.float32)
    at, near, shown = np.empty((2, cols)), np.empty((2, cols)), np.empty(cols, np.float32)
    index, look, here = np.empty((3, cols), np.int32), np.empty(cols, np.float32), np.empty(cols, np.float32)
    where, wide = np.zeros((2, cols + _TOGETHER), np.float32), np.empty((3, cols + _TOGETHER), np.float32)
    found, half = wide[:, :cols], np.empty((4, 4))
    cells, known = np.empty(knots[0] * knots[1] * _CELL, np.float32), np.zeros(knots[0] * knots[1], np.bool_)
    (a, b, e), (c, d, f) = (affine[0, 0], affine[0, 1], affine[0, 2]), (affine[1, 0], affine[1, 1], affine[1, 2])
    down, across = a * grid[0, 1] + b * grid[1, 1], c * grid[0, 1] + d * grid[1, 1]
    mark, starts = np.zeros(8 * (cols // 8 + 1), np.uint8), np.empty(cols + 9, np.int32)
    found[2] = F(plane)
    outside, plain = 0, path.shape[0] == 1 and path[0, 0] == 0.0
    weighed = path[0, 1] != 1.0 or lowest > -np.inf
    for r in range(rows):
        p, q = grid[0, 0] * r + grid[0, 2], grid[1, 0] * r + grid[1, 2]
        if mapped:
            _look(p, grid[0, 1], 1.0, 0.0, offsets, displaced, r, look)
            _knots(look, window[0], maps.shape[1], index[0], where[0, :cols])
            _look(q, grid[1, 1], 0.0, 1.0, offsets, displaced, r, look)
            _knots(look, window[1], maps.shape[2], index[1], where[1, :cols])
            _number(index[0], index[1], knots[1], index[2])
            _mapped(maps, surfaces if blended else 2, cells, known, index[2], mark, starts, where, half, wide)
        _look(a * p + b * q + e, down, a, b, offsets, displaced, r, at[0])
        _look(c * p + d * q + f, across, c, d, offsets, displaced, r, at[1])
        if mapped:
            _add(found[0], at[0])
            _add(found[1], at[1])
        if plain:
            outside += _place(at[0], at[1], float(height), float(width), periodic, base, fraction)
            if blended:
                _between(found[2], size, last, base, share)
                _blend(flat, stride, np.uint64(size), base, fraction, share, out[r])
            else:
                _sum(only, stride, base, fraction, out[r])
            if weighed:
                _weigh(lowest, path[0, 1], out[r])
            continue
        out[r] = F(0.0)
        for k in range(path.shape[0]):
            _further(at[0], path[k, 0], down, near[0])
            _further(at[1], path[k, 0], across, near[1])
            outside += _place(near[0], near[1], float(height), float(width), periodic, base, fraction)
            if blended:
                _further(found[2], path[k, 0], 0.0, here)
                _between(here, size, last, base, share)
                _blend(flat, stride, np.uint64(size), base, fraction, share, shown)
            else:
                _sum(only, stride, base, fraction, shown)
            _collect(shown, lowest, path[k, 1], out[r])
    return outside
