"""The mean over frozen phonons, taken until it holds still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth.draw import Streams
from emsynth.simulation.plan import Phonons


@dataclass(frozen=True)
class Accuracy:
    """What the phonon average reached.

    Attributes
    ----------
    configurations : int
        Frozen-phonon configurations that were averaged; 0 for a lattice that does not move.
    standard_error : dict
        Standard error of the phonon mean on each detector: rms over the picture, as a fraction of its mean (TEM: of
        its standard deviation), at the worst thickness.
    """

    configurations: int
    standard_error: dict[str, float]


def average(picture: Callable[[int | None], NDArray[np.float32]], phonons: Phonons, streams: Streams,
            detectors: tuple[str, ...], judged: tuple[int, ...],
            by_contrast: bool = False) -> tuple[NDArray[np.float32], Accuracy]:
    """Mean picture over frozen phonons, taken until the tolerance is met.

    Parameters
    ----------
    picture : callable
        Pictures (thickness, detector, H, W) of the configuration of a seed; None for one that does not move.
    phonons : Phonons
        What is asked for.
    streams : Streams
        Random streams of the field; the seeds are drawn from ``"phonons"``.
    detectors : tuple of str
        Names along the detector axis.
    judged : tuple of int
        Detectors that must meet the tolerance.
    by_contrast : bool
        Whether the standard error is told as a fraction of the picture's standard deviation, as for TEM images, whose
        mean says little; else of its mean.
    """
    if not phonons.moves:
        return picture(None), Accuracy(0, {})
    seeds = streams.generator("phonons").integers(2**31, size=phonons.maximum)
    mean = spread = np.zeros(0)
    for n, seed in enumerate(seeds, start=1):
        image = picture(int(seed))
        if n == 1:
            mean, spread = image.astype(np.float64), np.zeros(image.shape)
        else:  # Welford's update keeps two arrays, however many configurations there are.
            step = image - mean
            mean += step / n
            spread += step * (image - mean)
        error = _standard_error(mean, spread, n, by_contrast)
        if n >= max(2, phonons.minimum) and max(error[detector] for detector in judged) <= phonons.tolerance:
            break
    reached = {name: float(value) for name, value in zip(detectors, error, strict=True)}
    return mean.astype(np.float32), Accuracy(n, reached)


def _standard_error(mean: NDArray[np.float64], spread: NDArray[np.float64], count: int,
                    by_contrast: bool) -> NDArray[np.float64]:
    """Standard error of the mean per detector: rms over the picture by its mean or contrast, at the worst thickness."""
    if count < 2:
        return np.full(mean.shape[1], np.inf)
    variance = (spread / (count - 1) / count).mean(axis=(-2, -1))
    scale = mean.std(axis=(-2, -1)) if by_contrast else mean.mean(axis=(-2, -1))
    error: NDArray[np.float64] = (np.sqrt(variance) / np.maximum(scale, 1e-12)).max(axis=0)
    return error
