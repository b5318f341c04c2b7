"""What a detector does to its signal along time and at its limits: relaxation, response, saturation, quantisation."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from emsynth.distortion._kernels.lanes import CLOSE, modulate_close, modulate_eight, relax_eight

VERSION = 2  # of `lanes`, whose functions are inlined here
F = np.float32


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def row_means(image: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    """Mean of each row of `image (R, C)` into `out (R,)`."""
    for r in range(image.shape[0]):
        row, total = image[r], F(0.0)
        for c in range(row.size):
            total += row[c]
        out[r] = total / row.size


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _last_state(row: NDArray[np.float32], weights: NDArray[np.float32]) -> float:
    # What the row itself leaves in the state at its end; weights (K,) of its last K pixels.
    total, start = F(0.0), row.size - weights.size
    for k in range(weights.size):
        total += weights[k] * row[start + k]
    return float(total)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _relax_row(row: NDArray[np.float32], start: float, keep: float, response: NDArray[np.float32], prompt: float,
               delayed: float) -> None:
    # Eight pixels at a time: their states are response (9, 8)[:8] @ signal + response[8] · state before.
    p, d, state, flat = F(prompt), F(delayed), F(start), response.reshape(-1)
    whole = row.size - row.size % 8
    for c in range(0, whole, 8):
        state = relax_eight(row, np.uint64(c), flat, state, p, d)
    for c in range(whole, row.size):
        state = F(keep) * state + (F(1.0) - F(keep)) * row[c]
        row[c] = p * row[c] + d * state


@njit(cache=True, nogil=True, fastmath=False)
def relax(
    image: NDArray[np.float32],
    idle: NDArray[np.float64],
    keep: float,
    through_fly_back: float,
    prompt: float,
    delayed: float,
) -> None:
    """Mix each pixel of `image (R, C)` with a state that relaxes towards the signal, in time order and in place.

    state ← keep · state + (1 - keep) · signal; pixel ← prompt · signal + delayed · state. `idle (R,)` is the signal
    between the rows, before each of them, and forever before the first; `through_fly_back` is what the state keeps
    over the fly-back.
    """
    rows, cols = image.shape
    reach = cols
    if keep < 1.0:
        # What a pixel leaves after so many others is below float32.
        reach = min(cols, int(np.ceil(np.log(1e-9) / np.log(keep))) if keep > 1e-9 else 1)
    weights, response = np.empty(reach, np.float32), np.zeros((9, 8), np.float32)
    for k in range(reach):
        weights[k] = (1.0 - keep) * keep ** (reach - 1 - k)
    for i in range(8):
        response[8, i] = keep ** (i + 1)
        for j in range(i + 1):
            response[j, i] = (1.0 - keep) * keep ** (i - j)
    state, over_a_row = idle[0], keep**cols
    for r in range(rows):
        if r > 0:
            state = through_fly_back * state + (1.0 - through_fly_back) * idle[r]
        after = over_a_row * state + _last_state(image[r], weights)
        _relax_row(image[r], state, keep, response, prompt, delayed)
        state = after


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


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _four_taps(line: NDArray[np.float32], weights: NDArray[np.float32], total: NDArray[np.float32]) -> None:
    # total[c] += Σ_j weights[j] · line[c + 3 - j]
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for n in range(total.size):
        total[n] += (a * line[n + 3] + b * line[n + 2]) + (c * line[n + 1] + d * line[n])


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
    # Filled up to a whole number of four taps, and as much dark before the row, so that no pixel is a special case.
    taps = (response.size + 3) // 4 * 4
    weights, line = np.zeros(taps, np.float32), np.zeros(taps + cols, np.float32)
    weights[: response.size] = response
    below, total = np.zeros(response.size + 1), np.empty(cols, np.float32)
    below[1:] = np.cumsum(response)
    for r in range(rows):
        line[taps:] = image[r]
        total[:] = F(0.0)
        for k in range(0, taps, 4):
            _four_taps(line[taps - k - 3 : taps - k + cols], weights[k : k + 4], total)
        for c in range(min(cols, response.size - 1)):
            total[c] += F(_before(image, idle, response, below, gap, r, c + 1))
        for c in range(cols):
            out[r, c] = F(1.0 - fraction) * image[r, c] + F(fraction) * total[c]


@njit(cache=True, nogil=True, fastmath=False, error_model="numpy")
def saturate(image: NDArray[np.float32], level: float, knee: float, mask: NDArray[np.uint8], bit: int) -> None:
    """Bend `image (R, C)` smoothly towards `level` above `knee`, in place; flag what was at least `level`."""
    room = level - knee
    for r in range(image.shape[0]):
        bright = 0
        for c in range(image.shape[1]):
            bright += 1 if image[r, c] > knee else 0
        if bright == 0:
            continue
        for c in range(image.shape[1]):
            signal = np.float64(image[r, c])
            if signal >= level:
                mask[r, c] |= np.uint8(bit)
            if signal > knee:
                image[r, c] = level - room * np.exp((knee - signal) / room) if room > 0.0 else level


@njit(cache=True, nogil=True, fastmath=False, error_model="numpy")
def quantise(image: NDArray[np.float32], step: float, levels: int, mask: NDArray[np.uint8], bit: int) -> None:
    """Round `image (R, C)` to multiples of `step`, from 0 to levels - 1 of them, in place; flag what was clipped."""
    last, flag, q, over = F(levels - 1), np.uint8(bit), F(step), F(1.0 / step)
    for r in range(image.shape[0]):
        line, flags, clipped = image[r], mask[r], 0
        for c in range(line.size):
            code = np.floor(line[c] * over + F(0.5))
            line[c] = code
            clipped += 1 if (code < F(0.0)) | (code > last) else 0
        if clipped > 0:
            for c in range(line.size):
                if (line[c] < F(0.0)) | (line[c] > last):
                    flags[c] |= flag
                    line[c] = F(0.0) if line[c] < F(0.0) else last
        for c in range(line.size):
            line[c] *= q


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def relaxations(
    white: NDArray[np.float32], lengths: NDArray[np.int64], keep: NDArray[np.float64], ratios: NDArray[np.int64]
) -> None:
    """Add up AR(1) series, each sampled more coarsely than the one before, on the knots of the first, in place.

    The knots of series k + 1 are `ratios[k]` of series k apart. Series k is made of the `lengths[k]` normals of `white`
    after those of series k - 1, and keeps `keep[k]` of its value from knot to knot; between its knots it is linear.
    The first `lengths[0]` numbers of `white` become the sum.
    """
    end, slower = white.size, white[:0]
    for k in range(lengths.size - 1, -1, -1):
        n = lengths[k]
        own = white[end - n : end]
        end -= n
        stays, innovation = F(keep[k]), F(np.sqrt(1.0 - keep[k] * keep[k]))
        state = own[0]
        for j in range(1, n):
            state = stays * state + innovation * own[j]
            own[j] = state
        if k < lengths.size - 1:
            ratio = ratios[k]
            for before in range(min((n - 1) // ratio + 1, slower.size - 1)):
                step = (slower[before + 1] - slower[before]) / F(ratio)
                for j in range(before * ratio, min((before + 1) * ratio, n)):
                    own[j] += slower[before] + step * F(j - before * ratio)
        slower = own


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _modulate_row(series: NDArray[np.float32], start: float, step: float, sigma: float,
                  row: NDArray[np.float32]) -> float:
    # Multiply by 1 + sigma · series at start + step · c, eight pixels at a time; the sum of the factors.
    total, whole = 0.0, row.size - row.size % 8
    if 1.0 + 8.0 * step < CLOSE:
        for c in range(0, whole, 8):
            t = start + step * c
            k = np.int64(t)
            total += modulate_close(row, np.uint64(c), series[k:], F(t - k), F(step), F(sigma))
    else:
        for c in range(0, whole, 8):
            t = start + step * c
            k = np.int64(t)
            total += modulate_eight(row, np.uint64(c), series[k:], F(t - k), F(step), F(sigma))
    for c in range(whole, row.size):
        t = start + step * c
        k = np.int64(t)
        factor = 1.0 + sigma * (series[k] + (t - k) * (series[k + 1] - series[k]))
        row[c] *= F(factor)
        total += factor
    return total


@njit(cache=True, nogil=True, fastmath=False)
def modulate(
    series: NDArray[np.float32], start: float, row_step: float, col_step: float, sigma: float,
    image: NDArray[np.float32],
) -> None:  # fmt: skip
    """Multiply `image (R, C)` by 1 + sigma · series, divided by its mean over the image, in place.

    `series` is taken at knot start + r · row_step + c · col_step, linear in between.
    """
    total = 0.0
    for r in range(image.shape[0]):
        total += _modulate_row(series, start + r * row_step, col_step, sigma, image[r])
    scale = F(image.size / total)
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            image[r, c] *= scale
