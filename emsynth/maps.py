"""Smooth random maps over the window of a sample: strain, and the place in the thickness series."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Window
from emsynth.draw import number
from emsynth.recipe import Image
from emsynth.streams import passing_generator

# Control points of the smooth maps along each axis, and waves that make them up.
_KNOTS = 9
_WAVES = 4


@lru_cache(16)
def _control_points(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return Window(shape, 1.0).control_points(_KNOTS)


def _smooth_map(rng: np.random.Generator, window: Window) -> NDArray[np.float64]:
    """Smooth random control points: a few waves, one to three windows long, that all strain alike."""
    rows, cols = _control_points(window.shape)
    direction, phase = rng.uniform(0, 2 * math.pi, (2, _WAVES))
    length = rng.uniform(1, 3, _WAVES) * max(window.shape)
    amplitude = rng.standard_normal(_WAVES) * length
    across = np.cos(direction) * rows[:, None, None] + np.sin(direction) * cols[:, None]
    total: NDArray[np.float64] = (amplitude * np.sin(2 * math.pi * across / length + phase)).sum(axis=-1)
    return total


def strain_map(image: Image, window: Window, seed: int, index: int) -> NDArray[np.float64] | None:
    """Smooth random displacement in Å whose largest strain is the drawn one."""
    strain = number(image.strain)
    if strain == 0:
        return None
    rng = passing_generator(seed, index, "image.strain.map")
    warp = np.empty((2, _KNOTS, _KNOTS))
    warp[0], warp[1] = _smooth_map(rng, window), _smooth_map(rng, window)
    rows, cols = _control_points(window.shape)
    # The derivative of a B-spline lies within the differences of its control points over their spacing.
    steepest = max(float(np.abs(warp[:, 1:] - warp[:, :-1]).max()) / (rows[1] - rows[0]),
                   float(np.abs(warp[:, :, 1:] - warp[:, :, :-1]).max()) / (cols[1] - cols[0])) / window.pixel
    warp *= strain / steepest
    return warp


def plane_map(image: Image, window: Window, planes: int, seed: int, index: int) -> NDArray[np.float64] | float:
    """Index of the exit plane at each point: the drawn one, plus a smooth random map."""
    last = planes - 1
    middle, span = number(image.plane) * last, number(image.thickness_variation) * last
    if span == 0:
        # Without a map nothing needs a blend of two exit planes, which only approximates what lies between them.
        return float(round(middle))
    swing = _smooth_map(passing_generator(seed, index, "image.thickness.map"), window)
    swing = (swing - swing.min()) / np.ptp(swing) - 0.5
    plane: NDArray[np.float64] = np.clip(middle + span * swing, 0.0, float(last))
    return plane
