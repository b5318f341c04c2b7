"""Cubic B-splines: interpolation of a field, and the smooth surfaces that strain and thicken it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

PAD = 3  # px of coefficients beyond each side of the field, so that no tap needs a branch
MARGIN = 40.0  # px around the window that the control grids cover


@njit(cache=True, nogil=True, fastmath=False)
def _weights(f: float) -> tuple[float, float, float, float]:
    # The four cubic B-splines that overlap a point at the fraction f of its interval.
    g = 1.0 - f
    return (
        g * g * g / 6.0,
        2.0 / 3.0 - 0.5 * f * f * (2.0 - f),
        2.0 / 3.0 - 0.5 * g * g * (2.0 - g),
        f * f * f / 6.0,
    )


@njit(cache=True, nogil=True, fastmath=False)
def _interval(position: float, length: int, knots: int) -> tuple[int, float]:
    # The window of `length` px and MARGIN on both sides span knots - 3 intervals; far outside, the surface is constant.
    s = (position + MARGIN) * ((knots - 3) / (length - 1 + 2.0 * MARGIN))
    s = min(max(s, -4.0), knots + 1.0)
    base = np.floor(s)
    return int(base), s - base


@njit(cache=True, nogil=True, fastmath=False)
def _row(
    control: NDArray[np.float64], i: int, j0: int, j1: int, j2: int, j3: int, v: tuple[float, float, float, float]
) -> float:
    return float(v[0] * control[i, j0] + v[1] * control[i, j1] + v[2] * control[i, j2] + v[3] * control[i, j3])


@njit(cache=True, nogil=True, fastmath=False)
def _surfaces(
    controls: NDArray[np.float64], row: float, col: float, rows: int, cols: int, out: NDArray[np.float64]
) -> None:
    # Each surface of controls (K, M, N) at one window px, into out (K,); indices beyond the grid repeat its edge.
    top, left = controls.shape[1] - 1, controls.shape[2] - 1
    i, f = _interval(row, rows, top + 1)
    j, g = _interval(col, cols, left + 1)
    w, v = _weights(f), _weights(g)
    j0, j1 = min(max(j, 0), left), min(max(j + 1, 0), left)
    j2, j3 = min(max(j + 2, 0), left), min(max(j + 3, 0), left)
    i0, i1 = min(max(i, 0), top), min(max(i + 1, 0), top)
    i2, i3 = min(max(i + 2, 0), top), min(max(i + 3, 0), top)
    for k in range(controls.shape[0]):
        control = controls[k]
        total = w[0] * _row(control, i0, j0, j1, j2, j3, v)
        total += w[1] * _row(control, i1, j0, j1, j2, j3, v)
        total += w[2] * _row(control, i2, j0, j1, j2, j3, v)
        out[k] = total + w[3] * _row(control, i3, j0, j1, j2, j3, v)


@njit(cache=True, nogil=True, fastmath=False)
def surfaces(
    controls: NDArray[np.float64], points: NDArray[np.float64], rows: int, cols: int, out: NDArray[np.float64]
) -> None:
    """Evaluate `controls (K, M, N)` at window px `points (n, 2)` of a window (rows, cols), into `out (n, K)`."""
    for n in range(points.shape[0]):
        _surfaces(controls, points[n, 0], points[n, 1], rows, cols, out[n])


@njit(cache=True, nogil=True, fastmath=False)
def _tap(
    plane: NDArray[np.float32],
    i: int,
    j: int,
    w: tuple[float, float, float, float],
    v: tuple[float, float, float, float],
) -> float:
    total = 0.0
    for k in range(4):
        a = v[0] * plane[i + k, j] + v[1] * plane[i + k, j + 1]
        b = v[2] * plane[i + k, j + 2] + v[3] * plane[i + k, j + 3]
        total += w[k] * (a + b)
    return total


@njit(cache=True, nogil=True, fastmath=False)
def gather(
    coefficients: NDArray[np.float32],
    periodic: bool,
    affine: NDArray[np.float64],
    controls: NDArray[np.float64],
    plane: float,
    rows: int,
    cols: int,
    positions: NDArray[np.float64],
    out: NDArray[np.float32],
) -> float:
    """Interpolate a stack of fields at window positions.

    Parameters
    ----------
    coefficients : (T, H + 6, W + 6) float32
        B-spline coefficients of each thickness, padded by 3 px.
    periodic : bool
        Wrap; where not, positions outside the field are not read.
    affine : (2, 3) float64
        Window px to field px.
    controls : (K, M, M) float64
        Control grids over the window: none (K = 0), or displacement along rows and cols in field px and the
        fractional plane (K = 3).
    plane : float
        Fractional index of the thickness where there is no control grid.
    rows, cols : int
        Shape of the window.
    positions : (2, n) float64
        Where to look, window px.
    out : (n,) float32
        Receives the values.

    Returns
    -------
    float
        How far, in field px, the farthest position lies outside a non-periodic field; 0 where none does.
    """
    height, width = coefficients.shape[1] - 2 * PAD, coefficients.shape[2] - 2 * PAD
    last, outside = coefficients.shape[0] - 1, 0.0
    surface = np.zeros(3)
    surface[2] = plane
    for n in range(positions.shape[1]):
        row, col = positions[0, n], positions[1, n]
        if controls.shape[0]:
            _surfaces(controls, row, col, rows, cols, surface)
        y = affine[0, 0] * row + affine[0, 1] * col + affine[0, 2] + surface[0]
        x = affine[1, 0] * row + affine[1, 1] * col + affine[1, 2] + surface[1]
        if periodic:
            y -= height * np.floor(y / height)
            x -= width * np.floor(x / width)
        else:
            beyond = max(max(-y, y - (height - 1)), max(-x, x - (width - 1)))
            outside = max(outside, beyond)
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        above, before = np.floor(y), np.floor(x)
        w, v = _weights(y - above), _weights(x - before)
        i, j = int(above) + PAD - 1, int(before) + PAD - 1
        k = min(max(int(surface[2]), 0), last)
        share = surface[2] - k
        value = _tap(coefficients[k], i, j, w, v)
        if share > 0.0 and k < last:
            value = (1.0 - share) * value + share * _tap(coefficients[k + 1], i, j, w, v)
        out[n] = value
    return outside
