"""Enlarging an image: each pixel a weighted sum of a few of each axis, in a fixed order."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = np.float32


@njit(cache=True, nogil=True, fastmath=False)
def enlarge(
    image: NDArray[np.float32], rows: NDArray[np.int64], across: NDArray[np.float32], cols: NDArray[np.int64],
    along: NDArray[np.float32], out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Sum rows, then columns, of `image (r, c)` into `out (R, C)`.

    Row R is made of `rows (T, R)` with the shares `across (T, R)`, column C of `cols (T, C)` with `along (T, C)`.
    """
    tall = np.empty(image.shape[1], np.float32)
    for r in range(out.shape[0]):
        for t in range(rows.shape[0]):
            line, share = image[rows[t, r]], across[t, r]
            for c in range(tall.size):
                tall[c] = (tall[c] if t > 0 else F(0.0)) + line[c] * share
        for t in range(cols.shape[0]):
            column, part = cols[t], along[t]
            for c in range(out.shape[1]):
                out[r, c] = (out[r, c] if t > 0 else F(0.0)) + tall[column[c]] * part[c]
