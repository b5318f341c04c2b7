"""Noise without an image: how much of it a network leaves, and whether it makes one wave of that."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emsynth.restoration.neural import NeuralRestorer
from emsynth.streams import generator

Floats = NDArray[np.float32]

WHITE = "white noise"
COUNTS = (3, 30, 300)  # electrons per pixel
NOISE = "the noise itself"
_IMAGES = 6  # of each kind


def empty_images(shape: tuple[int, int]) -> dict[str, list[Floats]]:
    """Images (H, W) of nothing, by kind: a constant with white noise, and counts of constants."""
    found: dict[str, list[Floats]] = {}
    for number, counts in enumerate((None, *COUNTS)):
        draws = [generator(number, index, "benchmark.empty") for index in range(_IMAGES)]
        name = WHITE if counts is None else f"counts of {counts}"
        found[name] = [np.asarray(draw.normal(100.0, 1.0, shape) if counts is None else draw.poisson(counts, shape),
                                  np.float32) for draw in draws]
    return found


def left_in(weights: Mapping[str, str], images: Mapping[str, list[Floats]]) -> dict[str, dict[str, dict[str, float]]]:
    """What networks leave in images of nothing, means over the images of each kind.

    Parameters
    ----------
    weights : mapping of str to str
        Name to file.
    images : mapping of str to list of ndarray (H, W)
        By kind.

    Returns
    -------
    dict
        Name, and `NOISE` for the images as they are, to kind to ``left``, the variance left over that of the noise;
        ``one``, the power of the strongest spatial frequency over all of what is left; and ``seconds`` of processor
        time for an image, the median.
    """
    restorers = {name: NeuralRestorer(path) for name, path in weights.items()}
    found = {NOISE: {kind: {"left": 1.0, "one": float(np.mean([in_one(image) for image in of]))}
                     for kind, of in images.items()}}
    for name in restorers:
        restorers[name](next(iter(images.values()))[0])  # the first one takes longer
        found[name] = {}
    for kind, of in images.items():
        for name, restorer in restorers.items():
            left, one, seconds = zip(*(_restored(restorer, image) for image in of), strict=True)
            found[name][kind] = {"left": float(np.mean(left)), "one": float(np.mean(one)),
                                 "seconds": float(np.median(seconds))}
    return found


def _restored(restorer: NeuralRestorer, image: Floats) -> tuple[float, float, float]:
    began = time.process_time()
    restored = restorer(image)
    taken = time.process_time() - began
    return float(restored.var(dtype=np.float64) / image.var(dtype=np.float64)), in_one(restored), taken


def in_one(image: NDArray[np.floating]) -> float:
    """Power of the strongest coefficient of the Fourier transform of an image less its mean, over that of all.

    A wave has two such coefficients, and so 0.5; a constant image has none, and 0.
    """
    centred = image.astype(np.float64) - image.mean(dtype=np.float64)
    power = np.abs(np.fft.fft2(centred)) ** 2
    return float(power.max() / power.sum()) if power.any() else 0.0
