"""BM3D, by its authors' own package, alone or after the rows have been set straight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError
from emsynth.restoration.classical import optional
from emsynth.restoration.protocol import Floats, Noise, Values
from emsynth.restoration.rows import resample_rows, row_displacements, row_offsets
from emsynth.restoration.stabilise import denoised

Doubles = NDArray[np.float64]

BLOCK = 8  # px


def match_blocks(signal: Doubles, strength: float) -> Doubles:
    """BM3D of an image with white noise [1]_, [2]_.

    Parameters
    ----------
    signal : ndarray (H, W), float64
        Image.
    strength : float
        Standard deviation that BM3D is told; 0 is the identity.

    Returns
    -------
    ndarray (H, W), float64

    Raises
    ------
    RestorerError
        The package is not installed, or the image is smaller than a block.

    References
    ----------
    .. [1] Dabov, Foi, Katkovnik and Egiazarian, IEEE Trans. Image Process. 16, 2080-2095 (2007).
    .. [2] Mäkinen, Azzari and Foi, IEEE Trans. Image Process. 29, 8339-8354 (2020).
    """
    if not strength:
        return signal
    if min(signal.shape) < BLOCK:
        raise RestorerError(f"bm3d: an image of {signal.shape} is smaller than a block of {BLOCK} x {BLOCK} px")
    bm3d = optional("bm3d")
    profile = bm3d.BM3DProfile()
    profile.num_threads = 1  # with more, the order of sums is not the same every time
    # Exact variances of overlapping blocks cost six times the time and gain nothing on white noise.
    profile.nf = 0
    return np.asarray(bm3d.bm3d(signal, strength, profile), np.float64)


def block_matching(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """BM3D with its strength relative to the noise."""
    strength = float(values["strength"])
    if not strength:
        return image
    return denoised(image, noise, bool(values["stabilise"]), lambda given: match_blocks(given, strength))


def rows_then_blocks(image: Floats, noise: Noise, values: Values) -> NDArray[Any]:
    """Rows set straight by `row_displacements` and, if asked for, levelled by `row_offsets`; then BM3D."""
    strength = float(values["strength"])
    jitter, span = float(values["jitter"]), int(values["level_rows"])
    if not (strength or jitter or span):
        return image

    def method(given: Doubles) -> Doubles:
        # Offsets do not disturb displacements, which compare slopes; the other way round they would.
        straight = resample_rows(given, row_displacements(given, jitter)) if jitter else given
        levelled = straight - row_offsets(straight, span)[:, None] if span else straight
        return match_blocks(levelled, strength)

    # Where BM3D removes nothing, the inverse of a mean is not what belongs to a single noisy value.
    return denoised(image, noise, bool(values["stabilise"]) and strength > 0, method)
