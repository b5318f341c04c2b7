"""Pixel by pixel: PSNR, SSIM and the bias of the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def psnr(truth: ArrayLike, restored: ArrayLike, *, data_range: float) -> float:
    """Peak signal-to-noise ratio by scikit-image.

    Parameters
    ----------
    truth, restored : array_like (H, W)
        In the same units; nothing is rescaled.
    data_range : float
        What counts as the peak: for emsynth's suites the largest less the smallest value of the truth.

    Returns
    -------
    float
        10·log10(data_range² / mean square error), dB; infinite where the images are equal.
    """
    from skimage import metrics

    by: Any = metrics
    a, b = np.asarray(truth, np.float64), np.asarray(restored, np.float64)
    if np.array_equal(a, b):
        return float("inf")
    return float(by.peak_signal_noise_ratio(a, b, data_range=data_range))


def ssim(truth: ArrayLike, restored: ArrayLike, *, data_range: float) -> float:
    """Mean structural similarity by scikit-image, with the window and constants of its authors.

    Parameters
    ----------
    truth, restored : array_like (H, W)
        In the same units, at least 11 × 11; nothing is rescaled.
    data_range : float
        As for :func:`psnr`.

    Returns
    -------
    float
        1 where the images are equal. Gaussian window of 1.5 px on 11 × 11 px, population covariance, K1 0.01, K2 0.03.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004).
    """
    from skimage import metrics

    by: Any = metrics
    a, b = np.asarray(truth, np.float64), np.asarray(restored, np.float64)
    return float(by.structural_similarity(a, b, data_range=data_range, gaussian_weights=True, sigma=1.5,
                                          use_sample_covariance=False))


def mean_bias(truth: ArrayLike, restored: ArrayLike, black_level: float = 0.0) -> float:
    """Bias of the mean intensity, signed.

    Returns
    -------
    float
        Mean of the restored image less that of the truth, in % of the truth's mean above the black level.
    """
    expected = float(np.asarray(truth, np.float64).mean())
    return 100.0 * (float(np.asarray(restored, np.float64).mean()) - expected) / (expected - black_level)
