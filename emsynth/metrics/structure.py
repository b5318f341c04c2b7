"""False structure where there should be none: what a restorer leaves or invents in vacuum and amorphous regions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TAPER = 8.0  # px over which a region begins
SMALLEST = 256.0  # px: region of which something can be said
SLOWEST = 2.0  # periods across the region: what is slower is no period
GROUP = 128  # frequencies of like length that tell what noise there is
ALARM = 0.01  # chance that noise has one frequency that stands out


class Residual(NamedTuple):
    """rms : of restored less truth in the region, in units of the image; periodic : share of its power, 0 to 1, that
    stands out of the spectrum as noise does not
    """

    rms: float
    periodic: float


def taper(region: ArrayLike) -> Floats:
    """Weights (H, W) of a region, 0 outside of it and risen to 1 8 px within (raised cosine); borders are outside."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(np.asarray(region, bool), 1))[1:-1, 1:-1]
    weight: Floats = 0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / (TAPER + 1.0), 1.0))
    return weight


def residual(truth: ArrayLike, restored: ArrayLike, region: ArrayLike) -> Residual | None:
    """What is left, and how much of it repeats.

    Parameters
    ----------
    truth, restored : array_like (H, W)
        In the same units.
    region : array_like (H, W), bool
        Vacuum and amorphous places.

    Returns
    -------
    Residual or None
        None where the region is too small (256 px within its taper).

    Notes
    -----
    The spectrum of the tapered residual is divided by what noise has at frequencies of about the same length: the
    median of 128 of them over ln 2, so that neither the noise's colour nor a few peaks matter. In 1 % of all images of
    noise one frequency of n stands out of that by more than ln(n / 0.01); all power beyond is periodic: near 0 for
    noise of any colour, near 1 for fringes or a lattice. Streaks along one direction stand out too. Periods longer than
    half the region are left out.
    """
    weight = taper(region)
    size = float((weight**2).sum())
    if size < SMALLEST:
        return None
    away = np.asarray(restored, np.float64) - np.asarray(truth, np.float64)
    rms = float(np.sqrt((weight**2 * away**2).sum() / size))
    level = float((weight * away).sum() / weight.sum())
    return Residual(rms, _standing_out(weight * (away - level), SLOWEST / np.sqrt(size)) if rms > 0.0 else 0.0)


def _standing_out(image: Floats, slowest: float) -> float:
    power = np.abs(np.fft.rfft2(image)) ** 2
    down, along = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])
    frequency = np.hypot(down, along)
    half = (along > 0.0) | (down > 0.0)
    chosen = half & (frequency >= slowest)
    power = power[chosen][np.argsort(frequency[chosen], kind="stable")]
    if not power.sum() > 0.0:
        return 0.0
    groups = np.array_split(power, max(len(power) // GROUP, 1))
    noise = np.concatenate([np.full(len(group), np.median(group) / np.log(2.0)) for group in groups])
    return float(power[power > np.log(len(power) / ALARM) * noise].sum() / power.sum())
