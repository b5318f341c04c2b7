"""Cubic B-splines: interpolation of a field, and the smooth surfaces that strain and thicken it.

A row of pixels at a time: where it looks (float64), the index and the fraction of its taps, the sums (float32).
The first steps vectorise over pixels, the sums over taps (see `lanes`).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from emsynth.distortion._kernels.lanes import pair, surface

PAD = 3  # px of coefficients beyond each side of the field, so that no tap needs a branch
MARGIN = 40.0  # px around the window that the control grids cover
EDGE = 1e-6  # field px by which rounding may put a position outside
SURFACE_PAD = 8  # knots by which `lanes` repeats the edges of the control grids

F = np.float32
VERSION = 1  # of `lanes`, whose functions are inlined here


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _look(start: float, step: float, a: float, b: float, offsets: NDArray[np.float32], rows: bool, r: int,
          out: NDArray[np.float64]) -> None:
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
    outside, stride = 0, np.int64(width) + 2 * PAD
    if periodic:
        down, across = 1.0 / height, 1.0 / width
        for c in range(y.size):
            y[c] -= height * np.floor(y[c] * down)
            x[c] -= width * np.floor(x[c] * across)
    else:
        for c in range(y.size):
            v, u = y[c], x[c]
            outside += 1 if (v < -EDGE) | (v > height - 1.0 + EDGE) | (u < -EDGE) | (u > width - 1.0 + EDGE) else 0
        if outside > 0:
            for c in range(y.size):
                y[c] = min(max(y[c], 0.0), height - 1.0)
                x[c] = min(max(x[c], 0.0), width - 1.0)
    for c in range(y.size):
        i, j = np.floor(y[c]), np.floor(x[c])
        base[c] = np.uint32((np.int64(np.int32(i)) + (PAD - 1)) * stride + np.int32(j) + (PAD - 1))
        fraction[0, c] = F(y[c] - i)
        fraction[1, c] = F(x[c] - j)
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
def _knots(position: NDArray[np.float64], length: int, knots: int, index: NDArray[np.int32],
           fraction: NDArray[np.float32]) -> None:
    # The window of `length` px and MARGIN on both sides span knots - 3 intervals; far outside, the surface is constant.
    scale = (knots - 3) / (length - 1 + 2.0 * MARGIN)
    for c in range(position.size):
        s = (position[c] + MARGIN) * scale
        s = s if s > -4.0 else -4.0
        s = s if s < knots + 1.0 else knots + 1.0
        i = np.floor(s)
        index[c] = np.int32(i) + np.int32(SURFACE_PAD)
        fraction[c] = F(s - i)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _surfaces(lanes: NDArray[np.float32], rows: NDArray[np.int32], cols: NDArray[np.int32],
              fraction: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    # Four surfaces of lanes (M, N, 4) at each pixel, out (C, 4).
    flat, stride = lanes.reshape(-1), np.uint64(4 * lanes.shape[1])
    for c in range(out.shape[0]):
        p = np.uint64(rows[c]) * stride + np.uint64(4) * np.uint64(cols[c])
        out[c, 0], out[c, 1], out[c, 2], out[c, 3] = surface(flat, stride, p, fraction[0, c], fraction[1, c])


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _blend(coefficients: NDArray[np.float32], stride: np.uint64, base: NDArray[np.uint32],
           fraction: NDArray[np.float32], plane: NDArray[np.float32], room: NDArray[np.float32],
           out: NDArray[np.float32]) -> None:
    # Linear between the two thicknesses around `plane (C, 4)`[:, 2]; a row meets few, and each is summed for all of it.
    last = coefficients.shape[0] - 1
    least, most = last, 0
    for c in range(out.size):
        k = int(plane[c, 2])
        least, most = min(least, max(k, 0)), max(most, k + 1 if plane[c, 2] > k else k)
        out[c] = F(0.0)
    for k in range(least, min(most, last) + 1):
        _sum(coefficients[k].reshape(-1), stride, base, fraction, room)
        for c in range(out.size):
            near = F(1.0) - np.abs(plane[c, 2] - F(k))
            out[c] += near * room[c] if near > F(0.0) else F(0.0)


@njit(cache=True, nogil=True, fastmath=False)
def surfaces(lanes: NDArray[np.float32], points: NDArray[np.float64], rows: int, cols: int,
             out: NDArray[np.float32]) -> None:
    """Evaluate `lanes (M + 16, N + 16, 4)` at window px `points (2, n)` of a window (rows, cols), into `out (n, 4)`."""
    n = points.shape[1]
    i, j, fraction = np.empty(n, np.int32), np.empty(n, np.int32), np.empty((2, n), np.float32)
    _knots(points[0], rows, lanes.shape[0] - 2 * SURFACE_PAD, i, fraction[0])
    _knots(points[1], cols, lanes.shape[1] - 2 * SURFACE_PAD, j, fraction[1])
    _surfaces(lanes, i, j, fraction, out)


@njit(cache=True, nogil=True, fastmath=False)
def gather(
    coefficients: NDArray[np.float32],
    periodic: bool,
    affine: NDArray[np.float64],
    lanes: NDArray[np.float32],
    plane: float,
    window: tuple[int, int],
    grid: NDArray[np.float64],
    offsets: NDArray[np.float32],
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
    lanes : (M + 16, N + 16, 4) or (0, 0, 4) float32
        Control grids over the window, edges repeated by 8 knots: displacement along rows and cols in field px, the
        fractional plane, and nothing; none where neither varies.
    plane : float
        Fractional index of the thickness where there is no control grid.
    window : (int, int)
        Shape of the window, which the control grids cover.
    grid : (2, 3) float64
        Pixel (r, c) looks at window px grid @ [r, c, 1] + offsets[:, r, c].
    offsets : (2, R, C) float32 or float64, or (2, 0, 0)
        None where empty.
    out : (R, C) float32
        Receives the values.

    Returns
    -------
    int
        How many pixels look outside of a non-periodic field; they show its edge.
    """
    rows, cols = out.shape
    height, width = coefficients.shape[1] - 2 * PAD, coefficients.shape[2] - 2 * PAD
    stride, displaced, last = np.uint64(width + 2 * PAD), offsets.shape[1] > 0, coefficients.shape[0] - 1
    base, fraction = np.empty(cols, np.uint32), np.empty((2, cols), np.float32)
    at, y, x = np.empty((2, cols)), np.empty(cols), np.empty(cols)
    maps, room = np.zeros((cols, 4), np.float32), np.empty(cols, np.float32)
    i, j = np.empty(cols, np.int32), np.empty(cols, np.int32)
    maps[:, 2] = F(plane)
    (a, b, e), (c, d, f) = (affine[0, 0], affine[0, 1], affine[0, 2]), (affine[1, 0], affine[1, 1], affine[1, 2])
    outside, mapped = 0, lanes.shape[0] > 0
    for r in range(rows):
        p, q = grid[0, 0] * r + grid[0, 2], grid[1, 0] * r + grid[1, 2]
        _look(a * p + b * q + e, a * grid[0, 1] + b * grid[1, 1], a, b, offsets, displaced, r, y)
        _look(c * p + d * q + f, c * grid[0, 1] + d * grid[1, 1], c, d, offsets, displaced, r, x)
        if mapped:
            _look(p, grid[0, 1], 1.0, 0.0, offsets, displaced, r, at[0])
            _look(q, grid[1, 1], 0.0, 1.0, offsets, displaced, r, at[1])
            _knots(at[0], window[0], lanes.shape[0] - 2 * SURFACE_PAD, i, fraction[0])
            _knots(at[1], window[1], lanes.shape[1] - 2 * SURFACE_PAD, j, fraction[1])
            _surfaces(lanes, i, j, fraction, maps)
            for n in range(cols):
                y[n] += maps[n, 0]
                x[n] += maps[n, 1]
        outside += _place(y, x, float(height), float(width), periodic, base, fraction)
        if last > 0 and (mapped or plane != np.floor(plane)):
            _blend(coefficients, stride, base, fraction, maps, room, out[r])
        else:
            _sum(coefficients[min(max(int(plane), 0), last)].reshape(-1), stride, base, fraction, out[r])
    return outside
