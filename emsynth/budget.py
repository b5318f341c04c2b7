"""What a build will cost, before it starts: time, disk and memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

from emsynth.passes import Outline
from emsynth.recipe import Recipe
from emsynth.simulation.images import OwnImages
from emsynth.simulation.plan import Phenomenological
from emsynth.store.layout import shard_count

# Measured on one core of the reference machine, on which a stack of 32 complex Fourier transforms of 160² goes at
# _REFERENCE_FFT points/s: multislice in wave points x slices per second, and the time to render and write 256² pixels.
_REFERENCE_FFT = 250e6
_REFERENCE_RATE = 130e6
_REFERENCE_RENDER = 0.020
# Phonon configurations that most fields need, where the recipe allows it.
_CONFIGURATIONS = 3
_READ_CACHED = 0.2  # seconds
# Seconds per pixel to read and to check an image of the user's, and to oversample it for the samples of a shard.
_READ_IMAGE, _OVERSAMPLE = 20e-9, 250e-9
_TYPICAL_IMAGE, _MOST_OVERSAMPLED = 1024**2, 16  # pixels, and how many more the oversampled image has
# Seconds until a worker has loaded what it needs, and abTEM where there is something to simulate.
_START, _LOAD_ABTEM = 2.0, 3.5
# Bytes on disk per byte in memory.
_KEPT = {"truth": 0.80, "distorted": 0.60, "displacement": 0.60, "mask": 0.01, "field": 0.85}
_INTERPRETER = 0.6  # GB of a worker process before it does anything


@dataclass(frozen=True)
class Budget:
    """The cost of a build.

    Attributes
    ----------
    samples, fields, shards : int
        How many to render, to simulate and to write.
    cached : int
        Fields that are in the cache already.
    structures : int
        Different structures.
    splits : dict
        Samples in each split.
    workers : int
        Processes.
    seconds : float
        Estimated time with that many processes.
    bytes : int
        Estimated size on disk.
    memory : float
        Memory of one process in GB.
    """

    samples: int
    fields: int
    shards: int
    cached: int
    structures: int
    splits: dict[str, int]
    workers: int
    seconds: float
    bytes: int
    memory: float


def machine_speed() -> float:
    """Speed of one core of this machine against the reference, from Fourier transforms that take 0.2 s."""
    stack = np.ones((32, 160, 160), np.complex64)
    best, end = np.inf, time.perf_counter() + 0.2
    while time.perf_counter() < end:
        start = time.perf_counter()
        scipy.fft.fft2(stack, workers=1)
        best = min(best, time.perf_counter() - start)
    return stack.size / best / _REFERENCE_FFT


def field_seconds(recipe: Recipe, outline: Outline) -> float:
    """Time of one simulation pass on one core of the reference machine."""
    if outline.cached:
        return _READ_CACHED
    if isinstance(recipe.simulate, OwnImages):
        return _READ_IMAGE * outline.bytes / 4
    if isinstance(recipe.simulate, Phenomenological):
        return outline.work / _REFERENCE_RATE
    phonons = recipe.simulate.phonons
    configurations = min(phonons.maximum, max(phonons.minimum, _CONFIGURATIONS)) if phonons.moves else 1
    return outline.work * configurations / _REFERENCE_RATE


def shard_seconds(recipe: Recipe, samples: int) -> float:
    """Time to render and write some samples on one core of the reference machine."""
    read = min(samples, recipe.fields) if isinstance(recipe.simulate, OwnImages) else 0
    return samples * _REFERENCE_RENDER * recipe.image.size**2 / 256**2 + read * _OVERSAMPLE * _TYPICAL_IMAGE


def budget(recipe: Recipe, outlines: Sequence[Outline], samples: range, workers: int, speed: float = 1.0) -> Budget:
    """Estimate the cost of a build.

    Parameters
    ----------
    recipe : Recipe
        What to build.
    outlines : sequence of Outline
        Of the fields to simulate.
    samples : range
        Samples to render.
    workers : int
        Processes that work at the same time.
    speed : float
        Of this machine against the reference; see `machine_speed`.
    """
    passes = [field_seconds(recipe, o) for o in outlines]
    largest_shard = min(len(samples), recipe.store.shard)
    # No shorter than the longest task: a field or a shard is the work of one process.
    start = _START + (_LOAD_ABTEM if any(not o.cached and o.work for o in outlines) else 0.0)
    seconds = (start + max(max(passes, default=0.0), sum(passes) / workers)
               + max(shard_seconds(recipe, largest_shard), shard_seconds(recipe, len(samples)) / workers)) / speed
    pixels = recipe.image.size**2
    sample = pixels * (4 * _KEPT["truth"] + 4 * _KEPT["distorted"] + 4 * _KEPT["displacement"] + _KEPT["mask"])
    stacks = sum(o.bytes for o in outlines)
    # While a shard is written, its samples, one stacked array and the file of that array are in memory.
    at_hand = min(stacks * (1 + _MOST_OVERSAMPLED if isinstance(recipe.simulate, OwnImages) else 1), 2**30)
    writing = (13 + 8) * pixels * largest_shard / 1e9 + at_hand / 1e9
    memory = _INTERPRETER + max(max((o.memory for o in outlines), default=0.0), writing)
    return Budget(
        samples=len(samples), fields=len(outlines), shards=shard_count(len(samples), recipe.store.shard),
        cached=sum(o.cached for o in outlines), structures=len({o.structure for o in outlines}),
        splits=_splits(outlines, samples, recipe.fields), workers=workers, seconds=seconds,
        bytes=round(len(samples) * sample + _KEPT["field"] * stacks), memory=memory)


def _splits(outlines: Sequence[Outline], samples: range, fields: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for o in outlines:
        counts[o.split] += len(range(samples.start + (o.field - samples.start) % fields, samples.stop, fields))
    return dict(counts)
