"""What a detector does to its signal: streak along time, soft saturation, quantisation. All in place."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, fastmath=False)
def streak_exponential(image: NDArray[np.float32], keep: float, through_fly_back: float, fraction: float) -> None:
    """Low-pass each row of `image (R, C)` in time, in place.

    `keep` is what the state keeps over one dwell time, `through_fly_back` over the fly-back; `fraction` of the
    signal goes through the filter.
    """
    state = 0.0
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            signal = np.float64(image[r, c])
            state = keep * state + (1.0 - keep) * signal
            image[r, c] = (1.0 - fraction) * signal + fraction * state
        state *= through_fly_back


@njit(cache=True, nogil=True, fastmath=False)
def streak_response(
    image: NDArray[np.float32], response: NDArray[np.float64], gap: int, fraction: float, out: NDArray[np.float32]
) -> None:
    """Convolve `image (R, C)` in time with the one-sided `response (K,)` per dwell time, into `out`.

    Rows follow each other after a fly-back of `gap` dwell times in which nothing is counted.
    """
    rows, cols = image.shape
    total = np.empty(cols)
    for r in range(rows):
        total[:] = 0.0
        for k in range(response.size):
            for c in range(k, cols):
                total[c] += response[k] * image[r, c - k]
        for back in range(1, r + 1):
            nearest = back * (cols + gap) - (cols - 1)  # lag between the first pixel and the last of that row
            if nearest >= response.size:
                break
            for c in range(cols):
                for k in range(nearest + c, min(response.size, nearest + c + cols)):
                    total[c] += response[k] * image[r - back, cols - 1 - (k - nearest - c)]
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
