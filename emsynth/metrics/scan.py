"""Row jitter that a restorer leaves: each row registered against the same row of the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LARGEST = 8.0  # px: largest displacement of a row
EDGE = 10  # px at both ends of a row, which a displaced row may not have
UNSURE = 0.5  # px: standard error beyond which a row is left out
ROWS = 8  # fewest rows that tell of jitter
ROUNDING = 1e-6  # px: standard error of a registration without noise
STRUCTURE = 1e-3  # of the row with most: variance along a row of the truth below which it is left out


class Jitter(NamedTuple):
    """rms : of the rows' displacements, px, the noise's share taken off; floor : rms that noise alone would show, px;
    rows : how many could be registered
    """

    rms: float
    floor: float
    rows: int


def row_displacement(truth: ArrayLike, restored: ArrayLike) -> tuple[Floats, Floats]:
    """Displacement of each row of the restored image along itself, against the truth.

    Parameters
    ----------
    truth, restored : array_like (H, W)
        At least 40 px wide.

    Returns
    -------
    tuple of ndarray (H,)
        Displacement, px, positive to larger columns, up to 8; and its standard error, px. Both NaN where a row of the
        truth has no structure or the restored one has nothing in common with it.
    """
    from scipy.ndimage import spline_filter1d

    from emsynth.metrics._row_kernels import register

    a, b = np.asarray(truth, np.float64), np.ascontiguousarray(restored, np.float64)
    spline = spline_filter1d(a, 3, axis=1, mode="mirror")
    shift, variance = register(np.ascontiguousarray(spline), b, LARGEST, EDGE)
    spread = a.var(axis=1)
    plain = spread <= STRUCTURE * spread.max()
    shift[plain] = variance[plain] = np.nan
    return shift, np.sqrt(variance)


def row_jitter(truth: ArrayLike, restored: ArrayLike) -> Jitter | None:
    """Residual row jitter.

    Parameters
    ----------
    truth, restored : array_like (H, W)
        At least 40 px wide.

    Returns
    -------
    Jitter or None
        None where fewer than 8 rows can be registered to half a pixel.

    Notes
    -----
    A straight line through the displacements (drift) is not jitter and is taken off. What scatters about it is the
    jitter's variance plus that of each registration, which is known; the jitter's is the value at which the scatter is
    as large as it should be (Paule and Mandel). Without jitter it would come out at about the floor: the square root of
    √(2 / rows) times the mean variance of a registration.

    References
    ----------
    Paule and Mandel, J. Res. Natl. Bur. Stand. 87, 377 (1982).
    """
    if np.shape(truth)[1] < 4 * EDGE:
        return None
    shift, error = row_displacement(truth, restored)
    sure = np.nan_to_num(error, nan=np.inf) < UNSURE
    if sure.sum() < ROWS:
        return None
    where, variance = np.flatnonzero(sure).astype(np.float64), np.maximum(error[sure], ROUNDING) ** 2
    mean = 1.0 / np.mean(1.0 / variance)
    floor = float(np.sqrt(mean * np.sqrt(2.0 / len(where))))
    return Jitter(_between(shift[sure], variance, where), floor if floor > ROUNDING else 0.0, len(where))


def _between(shift: Floats, variance: Floats, where: Floats) -> float:
    """Standard deviation between rows beyond the known variance of each, by bisection."""
    aim, low, high = len(shift) - 2.0, 0.0, (2.0 * LARGEST) ** 2
    if _scatter(shift, variance, where) <= aim:
        return 0.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _scatter(shift, variance + middle, where) > aim else (low, middle)
    return float(np.sqrt(0.5 * (low + high)))


def _scatter(shift: Floats, variance: Floats, where: Floats) -> float:
    """Weighted sum of squares about the weighted straight line."""
    weight = 1.0 / variance
    total = weight.sum()
    x, y = where - (weight @ where) / total, shift - (weight @ shift) / total
    slope = (weight * x @ y) / (weight * x @ x)
    return float(weight @ (y - slope * x) ** 2)
