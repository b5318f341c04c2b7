"""Coincidence loss of an electron-counting camera: binomial counts by inversion, in place."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

FROM_ZERO = 8.0  # expected electrons below which the search starts at zero, where no factorial is needed
FULL = 40.0  # electrons per frame above which no frame stays empty: exp(-40) = 4e-18
ROUNDING = 1e-14  # a probability that no 32-bit uniform resolves


@njit(cache=True, nogil=True, fastmath=False)
def occupied(rate: float, frames: float, all_orders: float, u: float) -> float:
    """Number of `frames` that get at least one electron, Binomial(frames, 1 - exp(-rate)), from one uniform `u`.

    Probabilities are taken off u one by one, outwards from the mode (upwards from 0 where few are expected), until
    nothing is left: exact to rounding, in about as many steps as the deviation is wide. Neighbouring probabilities
    follow from each other; with p/q = exp(rate) - 1 and qⁿ = exp(-n·rate) only a start off zero needs factorials.
    `all_orders` is ln(frames!).

    References
    ----------
    Kemp, Commun. Stat. Theory Methods 15, 805 (1986).
    """
    if rate <= 0.0:
        return 0.0
    if rate > FULL:
        return frames
    odds, start, exponent = math.expm1(rate), 0.0, -rate * frames
    if rate * frames >= FROM_ZERO:
        start = min(np.floor((frames + 1.0) * odds / (1.0 + odds)), frames)
        exponent += all_orders - math.lgamma(start + 1.0) - math.lgamma(frames - start + 1.0)
        exponent += start * math.log(odds)
    probability = math.exp(exponent)
    above, below, high, low = probability, probability, start, start
    u -= probability
    while u > 0.0:
        high += 1.0
        above *= (frames - high + 1.0) / high * odds
        u -= above
        if u <= 0.0:
            return high
        below *= low / ((frames - low + 1.0) * odds)
        low = max(low - 1.0, 0.0)
        u -= below
        if u <= 0.0:
            return low
        if above + below < ROUNDING:
            return start
    return start


@njit(cache=True, nogil=True, fastmath=False)
def register(image: NDArray[np.float32], frames: int, detected: float, u: NDArray[np.float64]) -> None:
    """Replace the expected electrons in `image (n,)` by what `frames` binary frames register, per `detected` share.

    `u (n,)` are uniforms strictly between 0 and 1.
    """
    all_orders = math.lgamma(frames + 1.0)
    for n in range(image.size):
        rate = np.float64(image[n]) * detected / frames
        image[n] = occupied(rate, float(frames), all_orders, u[n]) / detected
