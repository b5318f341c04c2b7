"""Classical restorers from SciPy, scikit-image and PyWavelets, each with one strength whose 0 is the identity."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from emsynth.errors import RestorerError
from emsynth.restoration.protocol import Floats, Noise, Values
from emsynth.restoration.stabilise import denoised

Doubles = NDArray[np.float64]


def optional(module: str) -> Any:
    """A module of the extra ``baselines``; RestorerError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RestorerError(f"this restorer needs {module.split('.')[0]}, which is not installed; "
                            "pip install 'emsynth[baselines]'") from error


def identity(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """The image itself."""
    return image


def gaussian(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Gaussian smoothing by ``sigma`` px; linear, so that nothing is gained by stabilising."""
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float64), float(values["sigma"]), mode="reflect"))


def median(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Median of a disc of ``radius`` px; it commutes with stabilising."""
    radius = float(values["radius"])
    reach = int(radius)
    row, col = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    return np.asarray(ndimage.median_filter(image, footprint=row**2 + col**2 <= radius**2, mode="reflect"))


def wiener(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Adaptive Wiener filter in a square window [1]_.

    References
    ----------
    .. [1] Lim, Two-dimensional signal and image processing, Prentice Hall (1990), p. 548; here SciPy's.
    """
    level, window = float(values["strength"]), int(values["window"])

    def method(given: Doubles) -> NDArray[Any]:
        # SciPy takes what lies beyond the border for 0.
        wide = np.pad(given, window, mode="reflect")
        with np.errstate(divide="ignore", invalid="ignore"):
            filtered = signal.wiener(wide, window, level**2)[window:-window, window:-window]
        # Not a number where the window is constant, which is its own best estimate.
        return np.where(np.isfinite(filtered), filtered, given)

    return denoised(image, noise, bool(values["stabilise"]), method) if level else image


def total_variation(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Total variation by Chambolle's projections [1]_; the weight is the strength times the noise.

    References
    ----------
    .. [1] Chambolle, J. Math. Imaging Vis. 20, 89-97 (2004).
    """
    weight = float(values["strength"])
    restoration = optional("skimage.restoration")

    def method(given: Doubles) -> NDArray[Any]:
        # The criterion is relative to the first step, so strong smoothing needs many of them.
        return np.asarray(restoration.denoise_tv_chambolle(given, weight=weight, eps=1e-5, max_num_iter=400))

    return denoised(image, noise, bool(values["stabilise"]), method) if weight else image


def nonlocal_means(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Non-local means with windowed patches [1]_; the cut-off is the strength times the noise.

    References
    ----------
    .. [1] Buades, Coll and Morel, CVPR 2005, 60-65; noise taken off distances as in IPOL 1, 208-212 (2011).
    """
    cut_off, patch = float(values["strength"]), int(values["patch"])
    restoration = optional("skimage.restoration")

    def method(given: Doubles) -> NDArray[Any]:
        # The next column is within reach: 3 Å at 0.2 Å per pixel.
        return np.asarray(restoration.denoise_nl_means(given, patch_size=patch, patch_distance=15, h=cut_off,
                                                       sigma=1.0, fast_mode=True))

    return denoised(image, noise, bool(values["stabilise"]), method) if cut_off else image


def wavelet(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Thresholds on translation-invariant wavelets: 16 shifts are averaged [1]_.

    Hard thresholds are universal [2]_, soft ones those of BayesShrink [3]_.

    References
    ----------
    .. [1] Coifman and Donoho, Lecture Notes in Statistics 103, 125-150 (1995).
    .. [2] Donoho and Johnstone, Biometrika 81, 425-455 (1994).
    .. [3] Chang, Yu and Vetterli, IEEE Trans. Image Process. 9, 1532-1546 (2000).
    """
    level, hard = float(values["strength"]), values["threshold"] == "hard"
    optional("pywt")
    restoration = optional("skimage.restoration")
    how = {"sigma": level, "wavelet": "sym4", "mode": "hard" if hard else "soft", "rescale_sigma": False,
           "method": "VisuShrink" if hard else "BayesShrink"}

    def method(given: Doubles) -> NDArray[Any]:
        return np.asarray(restoration.cycle_spin(given, restoration.denoise_wavelet, 3, func_kw=how, workers=1))

    return denoised(image, noise, bool(values["stabilise"]), method) if level else image
