"""The class map: where a specimen is vacuum, amorphous, or which of its grains."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen.base import Specimen

VACUUM, AMORPHOUS, GRAIN = 0, 1, 2
UNKNOWN = 255
# Å: pixel of the map; how far around an atom a place may be its lattice's, so that the open channels of a crystal are
# crystal; and by how much less far it is at the specimen's edge.
PIXEL = 0.5
REACH = 3.0
SHRINK = 1.5


def class_map(specimen: Specimen) -> NDArray[np.uint8]:
    """Class of each place of the specimen's tile in projection.

    Parameters
    ----------
    specimen : Specimen
        Atoms with their grains.

    Returns
    -------
    ndarray (rows, cols), uint8
        0 vacuum, 1 amorphous, 2 + n grain n (the last of them 254); over the same tile as the field, one pixel where
        the whole tile is one class. Where several lie above each other, a crystal counts more than what is amorphous,
        and the grain with more atoms more than the other.

    Notes
    -----
    A class covers what lies within 3 Å of its atoms in projection, drawn in again by 1.5 Å from what does not (a
    morphological closing, ours): it fills the channels of a lattice, and ends 1.5 Å outside of its last atoms.
    """
    grain = np.zeros(len(specimen.atoms), np.int16) if specimen.grain is None else specimen.grain
    if all(specimen.endless) and np.ptp(grain) == 0:
        return np.full((1, 1), _value(int(grain[0])), np.uint8)
    sides = specimen.tile
    shape = (math.ceil(sides[0] / PIXEL), math.ceil(sides[1] / PIXEL))
    position = np.mod(specimen.atoms.positions[:, 1::-1], sides)
    near, edge = (_disc(shape, sides, radius) for radius in (REACH, SHRINK))
    most, out = np.zeros(shape), np.full(shape, VACUUM, np.uint8)
    for n in np.unique(np.maximum(grain, -1)):
        count = _around(_gridded(position[np.maximum(grain, -1) == n], shape, sides), near)
        inside = _around((count == 0).astype(float), edge) == 0
        if n < 0:
            out[inside] = AMORPHOUS
        else:
            here = inside & (count > most)
            out[here], most = _value(int(n)), np.where(inside, np.maximum(most, count), most)
    return out


def _value(grain: int) -> int:
    return AMORPHOUS if grain < 0 else min(GRAIN + grain, UNKNOWN - 1)


def _gridded(position: NDArray[np.float64], shape: tuple[int, int], sides: tuple[float, float]) -> NDArray[np.float64]:
    """Atoms in each pixel."""
    index = np.minimum((position / (np.array(sides) / shape)).astype(np.int64), np.array(shape) - 1)
    count = np.bincount(index[:, 0] * shape[1] + index[:, 1], minlength=shape[0] * shape[1])
    return count.reshape(shape).astype(float)


def _disc(shape: tuple[int, int], sides: tuple[float, float], radius: float) -> NDArray[np.float64]:
    rows, cols = (np.minimum(np.arange(n), n - np.arange(n)) * side / n for n, side in zip(shape, sides, strict=True))
    return (np.hypot(rows[:, None], cols) <= radius).astype(float)


def _around(count: NDArray[np.float64], disc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the disc around each pixel, periodic."""
    from scipy.fft import irfft2, rfft2

    summed: NDArray[np.float64] = np.rint(irfft2(rfft2(count) * rfft2(disc), s=count.shape))
    return summed
