"""The generalised Anscombe transform, which gives counting noise a variance of one, and its unbiased inverse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.restoration.protocol import Noise

Floats = NDArray[np.float64]


def anscombe(electrons: NDArray[Any], variance: float = 0.0, excess: float = 1.0) -> Floats:
    """Stabilise counts whose variance is ``excess · mean + variance`` [1]_.

    Parameters
    ----------
    electrons : ndarray
        Signal, electrons.
    variance : float
        Of added noise, electrons squared.
    excess : float
        Variance over mean of what was counted, above 0.

    Returns
    -------
    ndarray, float64
        Signal whose noise has a standard deviation of about 1 where the mean is above 3 or so.

    References
    ----------
    .. [1] Mäkitalo and Foi, IEEE Trans. Image Process. 22, 91-103 (2013), Eq. 3.
    """
    scaled = np.asarray(electrons, np.float64) / excess
    return 2 * np.sqrt(np.maximum(scaled + 0.375 + variance / excess**2, 0))


def unbiased_inverse(stabilised: NDArray[Any], variance: float = 0.0, excess: float = 1.0) -> Floats:
    """Mean signal, electrons, whose stabilised counts have this mean: the exact unbiased inverse in closed form.

    The closed form is an approximation of the exact inverse, a few thousandths of an electron from it where nothing but
    Poisson noise is there [1]_; added noise shifts it by its variance [2]_.

    References
    ----------
    .. [1] Mäkitalo and Foi, IEEE Trans. Image Process. 20, 2697-2698 (2011).
    .. [2] Mäkitalo and Foi, IEEE Trans. Image Process. 22, 91-103 (2013).
    """
    added, root = variance / excess**2, math.sqrt(1.5)
    # Below this, the stabilised value of no electron at all, the inverse is 0.
    d = np.maximum(np.asarray(stabilised, np.float64), 2 * math.sqrt(0.375 + added))
    mean = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 0.125 - added
    return np.asarray(excess * np.maximum(mean, 0), np.float64)


def noise_level(noise: Noise) -> float:
    """Standard deviation of the noise at the mean of the image, electrons; of counting where no noise is stated."""
    counting = noise.excess * noise.expected_counts if noise.counted or noise.excess > 1 else 0.0
    return math.sqrt(counting + noise.variance) or math.sqrt(noise.expected_counts)


def denoised(image: NDArray[Any], noise: Noise, stabilise: bool, method: Callable[[Floats], NDArray[Any]]) -> Floats:
    """Apply a method that expects noise of standard deviation 1, and return what it gives in ADU.

    Parameters
    ----------
    image : ndarray (H, W)
        ADU.
    noise : Noise
        Gain, black level, and how strong it is.
    stabilise : bool
        By the Anscombe transform; otherwise the image is only divided by `noise_level`.
    method : callable
        (H, W) float64 -> (H, W).
    """
    electrons = (np.asarray(image, np.float64) - noise.black_level) / noise.gain
    if stabilise:
        signal = anscombe(electrons, noise.variance, noise.excess)
        restored = unbiased_inverse(method(signal), noise.variance, noise.excess)
    else:
        level = noise_level(noise)
        restored = level * np.asarray(method(electrons / level), np.float64)
    return noise.gain * restored + noise.black_level
