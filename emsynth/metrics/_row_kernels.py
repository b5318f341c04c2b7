"""Numba kernel of row registration: how far each row of one image is displaced against the same row of another."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COARSE = 0.5  # px between the shifts that are tried first
ALIAS = 0.02  # by how much a larger shift must explain a row better: a lattice is like itself a period away
STEPS = 12
STILL = 1e-7  # px
ALIKE = 6  # px over which a restorer or a detector may have smoothed the noise


@njit(cache=True, nogil=True)
def _sample(spline: Floats, x: float) -> tuple[float, float]:
    """Value and slope of a cubic B-spline."""
    at = int(np.floor(x))
    t = x - at
    a, b, c, d = spline[at - 1], spline[at], spline[at + 1], spline[at + 2]
    u = 1.0 - t
    value = (a * u * u * u + b * (4.0 - 6.0 * t * t + 3.0 * t * t * t) + c * (4.0 - 6.0 * u * u + 3.0 * u * u * u)
             + d * t * t * t) / 6.0
    slope = 0.5 * (-a * u * u + b * (3.0 * t * t - 4.0 * t) + c * (4.0 * u - 3.0 * u * u) + d * t * t)
    return value, slope


@njit(cache=True, nogil=True)
def _moments(spline: Floats, row: Floats, shift: float, edge: int) -> tuple[float, float, float, float, float]:
    """Sums of squares and products about the means of the shifted spline v, its slope g and the row y.

    In the order vv, vy, vg, gy, gg.
    """
    n = row.size - 2 * edge
    v = g = y = vv = vy = vg = gy = gg = 0.0
    for x in range(edge, row.size - edge):
        value, slope = _sample(spline, x - shift)
        v += value
        g += slope
        y += row[x]
    v, g, y = v / n, g / n, y / n
    for x in range(edge, row.size - edge):
        value, slope = _sample(spline, x - shift)
        a, b, c = value - v, slope - g, row[x] - y
        vv += a * a
        vy += a * c
        vg += a * b
        gy += b * c
        gg += b * b
    return vv, vy, vg, gy, gg


@njit(cache=True, nogil=True)
def _variance(spline: Floats, row: Floats, shift: float, edge: int, factor: float, share: float, alone: float) -> float:
    """Variance of a shift, each pixel's noise being as large as its own residual, and like its neighbours'.

    Poisson noise is not even, and what is left of noise in a restored image is not white: the sum over neighbours with
    weights that fall to 0 (Newey and West, Econometrica 55, 703 (1987)), and no less than without them.
    `factor` is the regression of the row on the spline, `share` that of the slope on the spline, `alone` the sum of
    squares of what is left of the slope.
    """
    n = row.size - 2 * edge
    v = g = y = 0.0
    for x in range(edge, row.size - edge):
        value, slope = _sample(spline, x - shift)
        v += value
        g += slope
        y += row[x]
    v, g, y = v / n, g / n, y / n
    score = np.zeros(n)
    for x in range(edge, row.size - edge):
        value, slope = _sample(spline, x - shift)
        score[x - edge] = (slope - g - share * (value - v)) * (row[x] - y - factor * (value - v))
    plain: float = (score * score).sum()
    total = plain
    for lag in range(1, ALIKE + 1):
        total += 2.0 * (1.0 - lag / (ALIKE + 1.0)) * float((score[lag:] * score[:-lag]).sum())
    return max(total, plain) * n / (n - 3) / (factor * alone) ** 2


@njit(cache=True, nogil=True)
def register(spline: Floats, image: Floats, largest: float, edge: int) -> tuple[Floats, Floats]:
    """Displacement of each row and its variance, px and px²; NaN where a row has nothing to be recognised by.

    `spline` holds the B-spline coefficients of the rows of the other image. A row is a factor above 0 times the other
    image's row, displaced, plus a constant: least squares by Gauss-Newton, from the best of all shifts up to `largest`,
    the smaller one where two are about as good.
    """
    rows = len(image)
    shift, variance = np.full(rows, np.nan), np.full(rows, np.nan)
    for r in range(rows):
        best, s = 0.0, np.nan
        for k in range(int(2.0 * largest / COARSE) + 1):
            tried = ((k + 1) // 2) * (COARSE if k % 2 else -COARSE)
            vv, vy, _, _, _ = _moments(spline[r], image[r], tried, edge)
            if vy > 0.0 and vv > 0.0 and vy * vy / vv > best * (1.0 + ALIAS):
                best, s = vy * vy / vv, tried
        if np.isnan(s):
            continue
        for _ in range(STEPS):
            vv, vy, vg, gy, gg = _moments(spline[r], image[r], s, edge)
            alone = gg - vg * vg / vv if vv > 0.0 else 0.0
            if not (vy > 0.0 and alone > 1e-12 * gg):
                break
            factor = vy / vv
            step = -(gy - factor * vg) / (factor * alone)
            s = min(max(s + min(max(step, -COARSE), COARSE), -largest), largest)
            if abs(step) < STILL:
                break
        vv, vy, vg, gy, gg = _moments(spline[r], image[r], s, edge)
        alone = gg - vg * vg / vv if vv > 0.0 else 0.0
        if vy > 0.0 and alone > 1e-12 * gg:
            shift[r] = s
            variance[r] = _variance(spline[r], image[r], s, edge, vy / vv, vg / vv, alone)
    return shift, variance
