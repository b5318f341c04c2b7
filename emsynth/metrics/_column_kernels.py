"""Numba kernels of atom columns: weighted Gaussians side by side, the Fisher information of one, sums over discs."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REACH = 4.0  # widths at which a Gaussian ends, for its neighbours and for the information
SMALL = 1e-9  # of a diagonal element: a pivot below it is rounding
BOLD = 0.5  # widths: longest step of a position
STEADY = 1e-4  # px: a column that moves less rests
REST = 4  # sweeps after which a resting column is seen to again, for its neighbours may have moved


@njit(cache=True, nogil=True)
def _add(total: Floats, row: float, col: float, peak: float, width: float, bell: Floats) -> None:
    """Add a Gaussian to an image; `bell` is room for one row of it."""
    rows, cols = total.shape
    reach = REACH * width
    first, end = max(int(col - reach), 0), min(int(col + reach) + 2, cols)
    for c in range(first, end):
        bell[c] = math.exp(-0.5 * ((c - col) / width) ** 2)
    for r in range(max(int(row - reach), 0), min(int(row + reach) + 2, rows)):
        down = peak * math.exp(-0.5 * ((r - row) / width) ** 2)
        for c in range(first, end):
            total[r, c] += down * bell[c]


@njit(cache=True, nogil=True)
def _factor(matrix: Floats) -> int:
    """Cholesky factor in the lower triangle, in place; what cannot be told apart gets an endless diagonal element."""
    size = matrix.shape[0]
    known: int = size
    for j in range(size):
        was = matrix[j, j]
        for k in range(j):
            matrix[j, j] -= matrix[j, k] ** 2
        if not matrix[j, j] > SMALL * was:
            known -= 1
            matrix[j, j] = 1e150
        else:
            matrix[j, j] = math.sqrt(matrix[j, j])
        for i in range(j + 1, size):
            for k in range(j):
                matrix[i, j] -= matrix[i, k] * matrix[j, k]
            matrix[i, j] /= matrix[j, j]
    return known


@njit(cache=True, nogil=True)
def _solve(factor: Floats, right: Floats) -> None:
    """Solve with a Cholesky factor, in place."""
    size = factor.shape[0]
    for i in range(size):
        for k in range(i):
            right[i] -= factor[i, k] * right[k]
        right[i] /= factor[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            right[i] -= factor[k, i] * right[k]
        right[i] /= factor[i, i]


@njit(cache=True, nogil=True)
def _normal(image: Floats, total: Floats, centre: Floats, radius: float, state: Floats, level: float, floor: float,
            matrix: Floats, right: Floats, bell: Floats) -> tuple[float, int]:
    """Weighted normal equations of one column in its disc; weighted sum of squares and number of pixels.

    `total` holds the neighbours only. The variance of a pixel is its model's height above `level`, at least `floor`.
    The slopes are those of peak times (row, col, width) over the width squared, and of peak and background: what is
    common to a slope is multiplied in at the end.
    """
    rows, cols = image.shape
    row, col, peak, width, background = state[0], state[1], state[2], state[3], state[4]
    first, end = max(int(centre[1] - radius), 0), min(int(centre[1] + radius) + 2, cols)
    for c in range(first, end):
        bell[c] = math.exp(-0.5 * ((c - col) / width) ** 2)
    rr = rc = rp = rw = rb = cc = cp = cw = cb = pp = pw = pb = ww = wb = bb = 0.0
    yr = yc = yp = yw = yb = squares = 0.0
    pixels = 0
    for r in range(max(int(centre[0] - radius), 0), min(int(centre[0] + radius) + 2, rows)):
        dr = r - row
        down = math.exp(-0.5 * (dr / width) ** 2)
        chord = radius * radius - (r - centre[0]) ** 2
        for c in range(first, end):
            if (c - centre[1]) ** 2 > chord:
                continue
            p = down * bell[c]
            expected = background + peak * p + total[r, c]
            weight = 1.0 / max(expected - level, floor)
            away = weight * (image[r, c] - expected)
            squares += away * (image[r, c] - expected)
            pixels += 1
            dc = c - col
            dw = dr * dr + dc * dc
            yb += away
            bb += weight
            away *= p
            yp += away
            yr += away * dr
            yc += away * dc
            yw += away * dw
            weight *= p
            pb += weight
            rb += weight * dr
            cb += weight * dc
            wb += weight * dw
            weight *= p
            pp += weight
            rp += weight * dr
            cp += weight * dc
            pw += weight * dw
            rr += weight * dr * dr
            rc += weight * dr * dc
            rw += weight * dr * dw
            cc += weight * dc * dc
            cw += weight * dc * dw
            ww += weight * dw * dw
    a = peak / width ** 2
    w = a / width
    matrix[0, 0], matrix[1, 0], matrix[1, 1] = a * a * rr, a * a * rc, a * a * cc
    matrix[2, 0], matrix[2, 1], matrix[2, 2] = a * rp, a * cp, pp
    matrix[3, 0], matrix[3, 1], matrix[3, 2], matrix[3, 3] = a * w * rw, a * w * cw, w * pw, w * w * ww
    matrix[4, 0], matrix[4, 1], matrix[4, 2], matrix[4, 3], matrix[4, 4] = a * rb, a * cb, pb, w * wb, bb
    right[0], right[1], right[2], right[3], right[4] = a * yr, a * yc, yp, w * yw, yb
    return squares, pixels


@njit(cache=True, nogil=True)
def _step(own: Floats, step: Floats, before: Floats, damped: Floats, i: int, start: Floats, limit: float, sign: float,
          narrowest: float, widest: float) -> float:
    """Take a step within what is allowed, shorter where the last ones went to and fro; how far the position moved."""
    turned = step[0] * before[0] + step[1] * before[1] < 0.0
    damped[i] = damped[i] * 0.6 if turned else min(1.0, damped[i] * 1.3)
    length = math.hypot(step[0], step[1])
    bold = damped[i] * min(1.0, BOLD * own[3] / length) if length > 0.0 else 0.0
    was_row, was_col = own[0], own[1]
    own[0] += bold * step[0]
    own[1] += bold * step[1]
    away = math.hypot(own[0] - start[0], own[1] - start[1])
    if away > limit:
        own[0] = start[0] + (own[0] - start[0]) * limit / away
        own[1] = start[1] + (own[1] - start[1]) * limit / away
    own[2] = sign * max(sign * (own[2] + damped[i] * step[2]), 0.0)
    wider = min(max(own[3] + damped[i] * step[3], own[3] / 1.25), own[3] * 1.25)
    own[3] = min(max(wider, narrowest), widest)
    own[4] += damped[i] * step[4]
    before[0], before[1] = step[0], step[1]
    return math.hypot(own[0] - was_row, own[1] - was_col)


@njit(cache=True, nogil=True)
def fit(image: Floats, start: Floats, radius: Floats, limit: Floats, sign: Floats, state: Floats, narrowest: Floats,
        widest: Floats, pull: float, level: float, floor: float, sweeps: int) -> tuple[Floats, Floats]:
    """Fit all columns at once, in place: Fisher scoring of one after another, with the others' Gaussians known.

    `state` (n, 5) is row, col, peak, width, background. Returns the last step of each position (px) and each peak's
    standard error against a flat background (position and width given), scaled by the scatter about the model.

    Each width is held to its own value at the start, times a factor that all share, with `pull` of the strength with
    which the image alone would hold it were all else known.
    """
    count, width = len(start), state[:, 3].copy()
    total, bell = np.zeros_like(image), np.zeros(image.shape[1])
    matrix, right = np.zeros((5, 5)), np.zeros(5)
    last, before, damped = np.full(count, np.inf), np.zeros((count, 2)), np.ones(count)
    error = np.full(count, np.inf)
    for own in state:
        _add(total, own[0], own[1], own[2], own[3], bell)
    common = 1.0
    for sweep in range(sweeps):
        common += (1.0 + pull) * (np.median(state[:, 3] / width) - common)
        for i in range(count):
            own = state[i]
            if last[i] < STEADY and (sweep + i) % REST:
                continue
            _add(total, own[0], own[1], -own[2], own[3], bell)
            _normal(image, total, start[i], radius[i], own, level, floor, matrix, right, bell)
            right[3] -= pull * matrix[3, 3] * (own[3] - common * width[i])
            matrix[3, 3] *= 1.0 + pull
            _factor(matrix)
            _solve(matrix, right)
            last[i] = _step(own, right, before[i], damped, i, start[i], limit[i], sign[i], narrowest[i], widest[i])
            _add(total, own[0], own[1], own[2], own[3], bell)
        if count == 0 or last.max() < STEADY:
            break
    for i in range(count):
        own = state[i]
        _add(total, own[0], own[1], -own[2], own[3], bell)
        squares, pixels = _normal(image, total, start[i], radius[i], own, level, floor, matrix, right, bell)
        _add(total, own[0], own[1], own[2], own[3], bell)
        alone = matrix[2, 2] - matrix[4, 2] ** 2 / matrix[4, 4] if matrix[4, 4] > 0.0 else 0.0
        if alone > SMALL * matrix[2, 2] and pixels > 5:
            error[i] = math.sqrt(squares / (pixels - 5) / alone)
    return last, error


@njit(cache=True, nogil=True)
def position_variance(electrons: Floats, state: Floats, excess: float, variance: float) -> Floats:
    """Smallest variance (row plus col, px²) of each Gaussian's position, its peak, width and background unknown.

    A pixel's variance is `excess` times its electrons plus `variance`.
    """
    rows, cols = electrons.shape
    out = np.full(len(state), np.nan)
    matrix, right, slope = np.zeros((5, 5)), np.zeros(5), np.zeros(5)
    for n in range(len(state)):
        row, col, peak, width = state[n, 0], state[n, 1], state[n, 2], state[n, 3]
        reach = REACH * width
        matrix[:] = 0.0
        for r in range(max(int(row - reach), 0), min(int(row + reach) + 2, rows)):
            for c in range(max(int(col - reach), 0), min(int(col + reach) + 2, cols)):
                square = (r - row) ** 2 + (c - col) ** 2
                bell = math.exp(-0.5 * square / width ** 2)
                noise = excess * max(electrons[r, c], abs(peak) * bell, 1e-12) + variance
                slope[0] = peak * bell * (r - row) / width ** 2
                slope[1] = peak * bell * (c - col) / width ** 2
                slope[2] = bell
                slope[3] = peak * bell * square / width ** 3
                slope[4] = 1.0
                for i in range(5):
                    for j in range(i + 1):
                        matrix[i, j] += slope[i] * slope[j] / noise
        if _factor(matrix) < 5:
            continue
        both = 0.0
        for axis in range(2):
            right[:] = 0.0
            right[axis] = 1.0
            _solve(matrix, right)
            both += right[axis]
        out[n] = both
    return out


@njit(cache=True, nogil=True)
def sums(image: Floats, position: Floats, radius: Floats) -> Floats:
    """Sum over the disc around each position; a pixel on the rim counts by how far the disc reaches into it."""
    rows, cols = image.shape
    out = np.zeros(len(position))
    for n in range(len(position)):
        reach = radius[n] + 1.0
        for r in range(max(int(position[n, 0] - reach), 0), min(int(position[n, 0] + reach) + 2, rows)):
            for c in range(max(int(position[n, 1] - reach), 0), min(int(position[n, 1] + reach) + 2, cols)):
                inside = radius[n] - math.hypot(r - position[n, 0], c - position[n, 1]) + 0.5
                out[n] += min(max(inside, 0.0), 1.0) * image[r, c]
    return out
