"""Motion of the probe: a sum of spectral lines, and the sums of a robust affine fit."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, fastmath=False)
def spectral_lines(
    along_rows: NDArray[np.float64],
    along_cols: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    phase: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add Σ A sin(a(r) + b(c) + φ) to `out (R, C)`.

    `along_rows (L, R)` and `along_cols (L, C)` are the phases that a line gains from row to row and within a
    row; the sine of the sum is written as products of both, so that no sine is taken per pixel.
    """
    for line in range(amplitude.size):
        sine, cosine = np.sin(along_cols[line]), np.cos(along_cols[line])
        for r in range(out.shape[0]):
            a = amplitude[line] * np.sin(along_rows[line, r] + phase[line])
            b = amplitude[line] * np.cos(along_rows[line, r] + phase[line])
            for c in range(out.shape[1]):
                out[r, c] += a * cosine[c] + b * sine[c]


@njit(cache=True, nogil=True, fastmath=False)
def weighted_sums(
    values: NDArray[np.float64],
    basis: NDArray[np.float64],
    affine: NDArray[np.float64],
    least: float,
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
) -> float:
    """Normal equations of one reweighting step of a fit with the least sum of absolute deviations.

    `values (n,)` ≈ `basis (n, 3)` @ `affine (3,)`; the weights are 1 / max(|residual|, least). Writes `normal
    (3, 3)` and `right (3,)` and returns the sum of the absolute residuals.
    """
    normal[:] = 0.0
    right[:] = 0.0
    total = 0.0
    for n in range(values.size):
        a, b, c = basis[n, 0], basis[n, 1], basis[n, 2]
        residual = np.abs(values[n] - (affine[0] * a + affine[1] * b + affine[2] * c))
        total += residual
        weight = 1.0 / max(residual, least)
        for i in range(3):
            scaled = weight * basis[n, i]
            right[i] += scaled * values[n]
            for j in range(3):
                normal[i, j] += scaled * basis[n, j]
    return total
