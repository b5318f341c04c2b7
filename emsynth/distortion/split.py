"""Split of a displacement into what a lattice could also show (affine) and what a restorer can undo (the rest)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import motion

MOST_STEPS = 30
COLUMNS_USED = 8
ROWS_USED = 256


def affine_split(displacement: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the affine part of a displacement, robustly.

    Parameters
    ----------
    displacement : (2, R, C) array
        Displacement along rows and columns, px.

    Returns
    -------
    affine : (2, 3) float64
        δ(r, c) ≈ affine @ [r, c, 1]; all zeros where nothing moves.
    rest : (2, R, C) float64
        What is left, px.

    Notes
    -----
    The least sum of absolute deviations, by iteratively reweighted least squares [1]_ on up to 256 rows and 8
    columns, so that one transient, such as the settling after a fly-back, does not tilt the whole window.

    References
    ----------
    .. [1] Holland and Welsch, Commun. Stat. A 6, 813 (1977).
    """
    delta = np.asarray(displacement, dtype=np.float64)
    affine = fit(delta)
    return affine, delta - evaluate(affine, delta.shape[1:])


def fit(delta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine part of the displacement `delta (2, R, C)`, (2, 3); see `affine_split`."""
    if not delta.any():
        return np.zeros((2, 3))
    rows, cols = delta.shape[1:]
    r, c = _spread(rows, ROWS_USED), _spread(cols, COLUMNS_USED)
    centred = np.array([(rows - 1) / 2, (cols - 1) / 2])
    basis = np.stack([*np.meshgrid(r - centred[0], c - centred[1], indexing="ij"), np.ones((r.size, c.size))], axis=-1)
    affine = np.stack([_least_absolute(axis[np.ix_(r, c)].ravel(), basis.reshape(-1, 3)) for axis in delta])
    affine[:, 2] -= affine[:, :2] @ centred
    return affine


def evaluate(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Displacement affine @ [r, c, 1] of each pixel, (2, R, C)."""
    r, c = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return affine[:, 0, None, None] * r + (affine[:, 1, None, None] * c + affine[:, 2, None, None])


def _spread(length: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def _least_absolute(values: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    if not values.any():
        return np.zeros(3)
    least, total = 1e-4 * float(np.abs(values).max()), np.inf
    ridge = np.diag([1e-9, 1e-9, 0.0])  # a window of one row or column has no slope along that axis
    normal, right = basis.T @ basis, basis.T @ values
    for _ in range(MOST_STEPS):
        affine = np.linalg.solve(normal + ridge * normal.max(), right)
        before, total = total, motion.weighted_sums(values, basis, affine, least, normal, right)
        if before - total <= 1e-6 * total or total <= 1e-6 * least * values.size:
            break
    return affine
