"""The level of a restored image: its normalisation, its mean given back, and single extreme pixels kept out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError
from emsynth.restoration.protocol import Floats

Doubles = NDArray[np.float64]

_TRIM = 10 * 1.4826  # median absolute deviations; the second number makes them deviations, were the residual normal
_EXTREME = 30  # deviations from the mean; no pixel of an image of up to 901 px can be as far
_ALONE = 0.1  # of a pixel's distance from the mean, within which its neighbours are
_ROUNDS = 5
_SQUARED = 1e150  # the square of this, and of its inverse, is a double without loss
_AROUND = np.array([(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1) if row or col])


def levelled(image: Doubles, restored: Doubles) -> Doubles:
    """A restored image with the mean of what it was restored from.

    Nothing in a network keeps the mean, and what it takes away from most images is noise of mean 0. So the mean of the
    residual is added again, but only over the pixels where the residual is within ten deviations (from the median
    absolute deviation) of its median: X-ray hits, dead pixels and rows that were dropped are no noise of mean 0, and
    what they took or gave is not to be spread over the image. Images and numbers go together: from a·image + b and
    a·restored + b comes a·y + b.

    Parameters
    ----------
    image, restored : ndarray (H, W), float64
        In the same unit, all finite.

    Returns
    -------
    ndarray (H, W), float64
    """
    residual = image - restored
    distance = np.abs(residual - np.median(residual))
    return np.asarray(restored + residual[distance <= _TRIM * np.median(distance)].mean())


def steadied(image: Doubles) -> tuple[Doubles, NDArray[np.bool_]]:
    """An image without single pixels that are so extreme that its mean and deviation would be theirs.

    Such a pixel is more than 30 deviations from the image's mean, and alone: the median of its up to eight neighbours
    is within a tenth of its distance from the mean. It takes the value of that median. This is repeated, at most five
    times, because smaller ones show when larger ones are gone. Columns of atoms that are 3 px wide (full width at half
    maximum) or more are not alone, and no image of up to 901 px has a pixel so far out.

    Parameters
    ----------
    image : ndarray (H, W), float64
        All finite.

    Returns
    -------
    image : ndarray (H, W), float64
        The same array where nothing was replaced.
    replaced : ndarray (H, W), bool
        Where something was.
    """
    replaced = np.zeros(image.shape, bool)
    for _ in range(_ROUNDS):
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = image.mean(), image.std()
            places = np.argwhere(np.abs(image - mean) > _EXTREME * deviation)
        middles = _middles(image, places)
        alone = np.abs(middles - mean) < _ALONE * np.abs(image[tuple(places.T)] - mean)
        if not alone.any():
            break
        where = tuple(places[alone].T)
        image = image.copy()
        image[where], replaced[where] = middles[alone], True
    return image, replaced


def about_mean(image: NDArray[Any], run: Callable[[Floats], Floats], kind: np.dtype[Any], name: str,
               kept: bool = True) -> NDArray[Any]:
    """What a network that sees images of mean 0 and deviation 1 makes of an image of any unit.

    Parameters
    ----------
    image : ndarray (H, W)
        Real numbers, all finite. Where all are the same, it is returned as it is.
    run : callable
        The network, for a normalised image (H, W).
    kind : dtype
        Of what is returned.
    name : str
        What a message calls the network.
    kept : bool
        Whether extreme pixels are replaced before (`steadied`) and the mean is given back after (`levelled`).

    Raises
    ------
    RestorerError
        The image's numbers are too large or too small to be squared, or what is restored is not finite.
    """
    with np.errstate(over="ignore"):
        exact = image.astype(np.float64)
    if kept:
        exact, _ = steadied(exact)
    if exact.min() == exact.max():
        return exact.astype(kind)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(exact.mean()), float(exact.std())
    if not 1 / _SQUARED < deviation < _SQUARED:
        raise RestorerError(f"the image: its deviation, {deviation:g}, is not within {1 / _SQUARED:g} to {_SQUARED:g}, "
                            "so it cannot be normalised; multiply it by a number first, e.g. by 1 / abs(image).max()")
    normalised = (exact - mean) / deviation
    restored = run(normalised.astype(np.float32)).astype(np.float64)
    if not np.isfinite(restored).all():
        raise RestorerError(f"{name}: the network returned numbers that are not finite; take another one")
    if kept:
        restored = levelled(normalised, restored)
    with np.errstate(over="ignore"):
        scaled = np.asarray(restored * deviation + mean, kind)
    if not np.isfinite(scaled).all():
        raise RestorerError(f"the image: reaches to {np.abs(exact).max():g}, and restored it is beyond what {kind} "
                            "holds; divide it by a number first, or convert it to float64")
    return scaled


def _middles(image: Doubles, places: NDArray[np.intp]) -> Doubles:
    """The median of the neighbours of pixels, (N,), of which each place (N, 2) has up to eight."""
    if not places.size:
        return np.zeros(0)
    around = places[:, None] + _AROUND
    there = ((around >= 0) & (around < image.shape)).all(-1)
    row, col = np.moveaxis(np.where(there[..., None], around, 0), -1, 0)
    return np.asarray(np.nanmedian(np.where(there, image[row, col], np.nan), axis=1))
