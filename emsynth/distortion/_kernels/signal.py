"""What a detector does to its signal: streak along time, soft saturation, quantisation. All in place."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, fastmath=False)
def streak_exponential(
    image: NDArray[np.float32], idle: NDArray[np.float64], keep: float, through_fly_back: float, fraction: float
) -> None:
    """Low-pass each row of `image (R, C)` in time, in place.

    `idle (R,)` is the signal between the rows, before each of them, and forever before the first; `keep` is what the
    state keeps over one dwell time, `through_fly_back` over the fly-back; `fraction` of the signal is filtered.
    """
    state = idle[0]
    for r in range(image.shape[0]):
        if r > 0:
            state = through_fly_back * state + (1.0 - through_fly_back) * idle[r]
        for c in range(image.shape[1]):
            signal = np.float64(image[r, c])
            state = keep * state + (1.0 - keep) * signal
            image[r, c] = (1.0 - fraction) * signal + fraction * state


@njit(cache=True, nogil=True, fastmath=False)
def _before(
    image: NDArray[np.float32],
    idle: NDArray[np.float64],
    response: NDArray[np.float64],
    below: NDArray[np.float64],
    gap: int,
    r: int,
    lag: int,
) -> float:
    # What reaches a pixel of row r from before that row, which is `lag` dwell times ago; below[k] = Σ response[:k].
    total, taps = 0.0, response.size
    while lag < taps:
        until = taps if r == 0 else min(taps, lag + gap)
        total += idle[r] * (below[until] - below[lag])
        lag, r = until, r - 1
        for k in range(lag, min(taps, lag + image.shape[1])):
            total += response[k] * image[r, image.shape[1] - 1 - (k - lag)]
        lag += image.shape[1]
    return total


@njit(cache=True, nogil=True, fastmath=False)
def streak_response(
    image: NDArray[np.float32],
    idle: NDArray[np.float64],
    response: NDArray[np.float64],
    gap: int,
    fraction: float,
    out: NDArray[np.float32],
) -> None:
    """Convolve `image (R, C)` in time with the one-sided `response (K,)` per dwell time, into `out`.

    Rows follow each other after a fly-back of `gap` dwell times; `idle (R,)` as for the exponential.
    """
    rows, cols = image.shape
    below, total = np.zeros(response.size + 1), np.empty(cols)
    below[1:] = np.cumsum(response)
    for r in range(rows):
        total[:] = 0.0
        for k in range(min(response.size, cols)):
            for c in range(k, cols):
                total[c] += response[k] * image[r, c - k]
        for c in range(min(cols, response.size - 1)):
            total[c] += _before(image, idle, response, below, gap, r, c + 1)
        for c in range(cols):
            out[r, c] = (1.0 - fraction) * image[r, c] + fraction * total[c]


@njit(cache=True, nogil=True, fastmath=False)
def saturate(image: NDArray[np.float32], level: float, knee: float, mask: NDArray[np.uint8], bit: int) -> None:
    """Bend `image (R, C)` smoothly towards `level` above `knee`, in place; flag what was above `level`."""
    room = level - knee
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            signal = np.float64(image[r, c])
            if signal >= level:
                mask[r, c] |= np.uint8(bit)
            if signal > knee:
                image[r, c] = level - room * np.exp((knee - signal) / room) if room > 0.0 else level


@njit(cache=True, nogil=True, fastmath=False)
def quantise(image: NDArray[np.float32], step: float, levels: int, mask: NDArray[np.uint8], bit: int) -> None:
    """Round `image (R, C)` to multiples of `step`, from 0 to levels - 1 of them, in place; flag what was clipped."""
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            code = np.floor(np.float64(image[r, c]) / step + 0.5)
            if code < 0.0 or code > levels - 1:
                mask[r, c] |= np.uint8(bit)
                code = min(max(code, 0.0), levels - 1.0)
            image[r, c] = code * step
