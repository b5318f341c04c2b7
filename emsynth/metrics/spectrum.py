"""Fourier ring correlation of a restored image with its truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CRITERION = 0.5  # against a truth without noise
FILLED = 1e-3  # of the truth's power: a ring with less has nothing to be resolved
ROUNDING = 1e-28  # of the greatest power that an image can have: nothing is there
FIRST = 2  # ring beyond the window's own peak at frequency zero


class Correlation(NamedTuple):
    """Fourier ring correlation.

    Attributes
    ----------
    frequency : ndarray (n,)
        Of each ring, 1/px.
    value : ndarray (n,)
        Correlation, -1 to 1.
    filled : ndarray (n,), bool
        Rings that hold at least a thousandth of the truth's power; only these count below.
    """

    frequency: Floats
    value: Floats
    filled: Mask

    @property
    def mean(self) -> float:
        """Mean correlation."""
        return float(self.value[self.filled].mean())

    @property
    def edge(self) -> float:
        """Highest frequency of the truth, 1/px."""
        return float(self.frequency[self.filled].max())

    @property
    def resolved(self) -> float:
        """Frequency at which the correlation first falls below 0.5, 1/px; that of the truth's edge if it never does."""
        frequency, value = self.frequency[self.filled], self.value[self.filled]
        lost = np.flatnonzero(value < CRITERION)
        if len(lost) == 0:
            return self.edge
        first = int(lost[0])
        if first == 0:
            return 0.0
        part = (value[first - 1] - CRITERION) / (value[first - 1] - value[first])
        return float(frequency[first - 1] + part * (frequency[first] - frequency[first - 1]))


def ring_correlation(truth: ArrayLike, restored: ArrayLike) -> Correlation | None:
    """Correlate two images ring by ring.

    Parameters
    ----------
    truth, restored : array_like (H, W)
        In any units.

    Returns
    -------
    Correlation or None
        None where the truth has no structure.

    Notes
    -----
    Under a Hann window along both axes, less the mean under it; rings are as wide as one frequency of the longer side,
    from the second to Nyquist's. The criterion is 0.5, as for a map against a model without noise: the 0.143 of two
    halves of the data is that very value of the correlation with the truth.

    References
    ----------
    Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003).
    """
    a, b = np.asarray(truth, np.float64), np.asarray(restored, np.float64)
    window = np.hanning(a.shape[0] + 2)[1:-1, None] * np.hanning(a.shape[1] + 2)[1:-1]
    fourier = [np.fft.rfft2(window * (x - (window * x).sum() / window.sum())) for x in (a, b)]
    side = max(a.shape)
    ring = np.rint(side * np.hypot(np.fft.fftfreq(a.shape[0])[:, None], np.fft.rfftfreq(a.shape[1]))).astype(int)
    last = min(a.shape) // 2 * side // min(a.shape)
    twice = np.broadcast_to(np.where(np.isin(np.arange(ring.shape[1]), (0, a.shape[1] / 2)), 1.0, 2.0), ring.shape)

    def total(values: Floats) -> Floats:
        return np.bincount(ring.ravel(), (twice * values).ravel(), last + 1)[FIRST:last + 1].astype(np.float64)

    cross = total((fourier[0] * fourier[1].conj()).real)
    ours, theirs = total(np.abs(fourier[0]) ** 2), total(np.abs(fourier[1]) ** 2)
    if not ours.sum() > 0.0:
        return None
    both = np.sqrt(ours * theirs)
    real = theirs > ROUNDING * float((window**2).sum() * (window * b**2).sum())
    value = np.divide(cross, both, out=np.zeros_like(cross), where=real & (both > 0.0))
    return Correlation(np.arange(FIRST, last + 1) / side, value, ours >= FILLED * ours.sum())
