"""Undoing what a scan does to whole rows: displacements along the fast axis, and offsets of the signal."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import savgol_filter

Doubles = NDArray[np.float64]

SWEEPS, COARSE = 16, 4  # in all; with a search over whole pixels
REFERENCE = 2.0  # rows, standard deviation of the weights of a row's neighbours
ALONG = 1.0  # px, by which the neighbours are smoothed along the row
SLOW = 15.0  # rows; slower displacements are drift, or the specimen's own, and are left alone


def resample_rows(signal: Doubles, displacement: Doubles) -> Doubles:
    """Rows read at ``col - displacement``, with cubic splines along the row.

    Parameters
    ----------
    signal : ndarray (H, W), float64
        Image.
    displacement : ndarray (H,), float64
        Of each row, px.

    Returns
    -------
    ndarray (H, W), float64
    """
    rows, cols = signal.shape
    coefficients = ndimage.spline_filter1d(signal, 3, axis=1, mode="mirror")
    at = np.arange(cols) - displacement[:, None]
    base = np.floor(at).astype(np.intp)
    t = at - base
    weights = ((1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6)
    period = max(2 * (cols - 1), 1)
    row, total = np.arange(rows)[:, None], np.zeros_like(signal)
    for step, weight in enumerate(weights):
        col = np.abs((base + (step - 1) + cols - 1) % period - (cols - 1))  # mirrored at both ends
        total += weight * coefficients[row, col]
    return total


def row_displacements(signal: Doubles, jitter: float) -> Doubles:
    """Displacement of each row against its neighbours.

    Each row is compared with the weighted mean of its neighbours as they are aligned by then, first over whole pixels,
    then by least squares on the slope, sweep after sweep. Displacements are taken for normal deviates of a standard
    deviation `jitter`, so that rows which say little stay where they are, and what changes slowly from row to row is
    taken out: it is drift, or the lattice itself. The idea of rows that are registered with each other is that of
    [1]_; the rest is ours.

    Parameters
    ----------
    signal : ndarray (H, W), float64
        Image whose noise has a standard deviation of about 1.
    jitter : float
        Expected standard deviation of the displacements, px, above 0.

    Returns
    -------
    ndarray (H,), float64
        px: row r shows at col c what lies at ``c + displacement[r]``.

    References
    ----------
    .. [1] Jones and Nellist, Microsc. Microanal. 19, 1050-1060 (2013).
    """
    displacement = np.zeros(len(signal))
    for sweep in range(SWEEPS):
        aligned = resample_rows(signal, displacement)
        reference = neighbours(aligned)
        if sweep < COARSE:
            step = _whole_pixels(aligned, reference, displacement, jitter)
        else:
            step = _by_slope(aligned, reference, displacement, jitter)
        displacement = _without_slow(displacement + step)
    return displacement


def neighbours(signal: Doubles) -> Doubles:
    """Weighted mean of the rows around each row, itself left out, a little smoothed along the row: (H, W)."""
    reach = min(int(4 * REFERENCE), len(signal) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / REFERENCE) ** 2)
    weights[reach] = 0
    around = ndimage.correlate1d(signal, weights / weights.sum(), axis=0, mode="mirror")
    return np.asarray(ndimage.gaussian_filter1d(around, ALONG, axis=1, mode="mirror"))


def row_offsets(signal: Doubles, span: int) -> Doubles:
    """By how much each row is brighter than it should be.

    The median along the row of what is left when a parabola over `span` rows is taken off each column of pixels [1]_:
    neither slow changes nor anything that a column of atoms does is an offset.

    Parameters
    ----------
    signal : ndarray (H, W), float64
        Image.
    span : int
        Odd number of rows over which the image is smooth.

    Returns
    -------
    ndarray (H,), float64

    References
    ----------
    .. [1] Savitzky and Golay, Anal. Chem. 36, 1627-1639 (1964).
    """
    span = min(span, (len(signal) - 1) // 2 * 2 + 1)
    smooth = savgol_filter(signal, span, 2, axis=0) if span > 2 else signal
    offsets: Doubles = np.median(signal - smooth, axis=1)
    return offsets


def _without_slow(values: Doubles) -> Doubles:
    slow: Doubles = ndimage.gaussian_filter1d(values, SLOW, mode="nearest")
    return values - slow


def _whole_pixels(aligned: Doubles, reference: Doubles, displacement: Doubles, jitter: float) -> Doubles:
    """Best step among whole pixels, up to three times the jitter, ``(H,)``."""
    reach = min(math.ceil(3 * jitter), aligned.shape[1] // 4)
    steps = np.arange(-reach, reach + 1)
    inner = slice(reach, aligned.shape[1] - reach)
    cost = np.empty((len(steps), len(aligned)))
    for number, step in enumerate(steps):
        difference = aligned[:, inner] - np.roll(reference, -step, axis=1)[:, inner]
        cost[number] = difference.var(axis=1)
    # The least difference is what cannot be explained by any step: noise, and rows that do differ.
    least = np.maximum(cost.min(axis=0), 1.0)
    count = inner.stop - inner.start
    evidence = count * cost / least + ((displacement + steps[:, None]) / jitter) ** 2
    return np.asarray(steps[np.argmin(evidence, axis=0)], np.float64)


def _by_slope(aligned: Doubles, reference: Doubles, displacement: Doubles, jitter: float) -> Doubles:
    """Least-squares step on the slope of the reference, at most half a pixel, ``(H,)``."""
    slope = np.gradient(reference, axis=1)
    slope -= slope.mean(axis=1, keepdims=True)  # an offset of the row is no displacement
    difference = aligned - reference
    spread = np.maximum(difference.var(axis=1), 1.0) / jitter**2
    step = ((difference * slope).sum(axis=1) - spread * displacement) / ((slope**2).sum(axis=1) + spread)
    return np.asarray(np.clip(step, -0.5, 0.5))
