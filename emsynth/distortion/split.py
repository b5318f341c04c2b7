"""Split of a displacement into what a lattice could also show (affine) and what a restorer can undo (the rest)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import motion as kernels
from emsynth.distortion.stage import Motion

MOST_STEPS = 30
COLUMNS_USED = 5
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
    The least sum of absolute deviations, by iteratively reweighted least squares [1]_ on up to 256 rows and 5
    columns, so that one transient, such as the settling after a fly-back, does not tilt the whole window.

    References
    ----------
    .. [1] Holland and Welsch, Commun. Stat. A 6, 813 (1977).
    """
    delta = np.asarray(displacement, dtype=np.float64)
    shape = (delta.shape[1], delta.shape[2])
    affine = _fit(lambda r, c: delta[:, r[:, None], c], shape)
    return affine, delta - Motion.affine(affine, shape).displacement()


def affine_part(motion: Motion, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Affine part (2, 3) of a motion over a scan of `shape`; see `affine_split`."""
    return _fit(motion.at, shape)


def _fit(at: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]],
         shape: tuple[int, int]) -> NDArray[np.float64]:
    r, c, basis, centre = _points(*shape)
    delta = at(r, c).reshape(2, -1)
    affine = np.zeros((2, 3))
    for values, part in zip(delta, affine, strict=True):
        kernels.least_absolute(values, basis, 1e-4, MOST_STEPS, part)
    affine[:, 2] -= affine[:, :2] @ centre
    return affine


@lru_cache(64)
def _points(
    rows: int, cols: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    # The rows and columns that a fit looks at, what it fits there, and the middle of the window.
    r, c = _spread(rows, ROWS_USED), _spread(cols, COLUMNS_USED)
    centre = np.array([(rows - 1) / 2, (cols - 1) / 2])
    basis = np.ones((3, r.size * c.size))
    basis[0], basis[1] = np.repeat(r - centre[0], c.size), np.tile(c - centre[1], r.size)
    return r, c, basis, centre


def _spread(length: int, most: int) -> NDArray[np.int64]:
    if length <= most:
        return np.arange(length)
    return (np.arange(most) * (length - 1) / (most - 1)).round().astype(np.int64)
