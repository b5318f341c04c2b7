"""Where a sample looks: its window on the field, with strain and thickness maps, and the columns in it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Window
from emsynth.draw import generator, number
from emsynth.passes import check_fit, largest_pixel
from emsynth.recipe import Image, smallest
from emsynth.simulation.field import Field

# Control points of the smooth maps along each axis, and waves that make them up.
_KNOTS = 9
_WAVES = 4

PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def fitted(drawn: Image, recipe: Image, field: Field) -> Image:
    """The drawn image section with a pixel and a rotation that fit the field.

    A window may not show a particle or an amorphous film twice. A pixel that was drawn too large is made as large as
    fits, where the recipe's distribution reaches down to it; where it does not, the rotation becomes the nearest
    quarter turn, at which the window fits best.

    Raises
    ------
    FieldError
        Where the window does not fit even then.
    """
    if field.repeats:
        return drawn
    check_fit(recipe, field.extent, field.repeats, str(field.provenance["specimen"]["structure"]))
    least, rotation = smallest(recipe.pixel_size), number(drawn.rotation)
    limit = largest_pixel(drawn.size, field.extent, rotation)
    if limit < least:
        rotation = 90.0 * round(rotation / 90.0)
        limit = max(least, largest_pixel(drawn.size, field.extent, rotation))
    return drawn.model_copy(update={"pixel_size": min(number(drawn.pixel_size), limit), "rotation": rotation})


def place(image: Image, field: Field, seed: int, index: int) -> Window:
    """The window of one sample.

    Parameters
    ----------
    image : Image
        Drawn and fitted image section.
    field : Field
        The field it looks at.
    seed, index : int
        Keys of the streams ``image.origin``, ``image.strain.map`` and ``image.thickness.map``.

    Returns
    -------
    Window
    """
    pixel, size, rotation = number(image.pixel_size), image.size, math.radians(number(image.rotation))
    turned = size * pixel * (abs(math.cos(rotation)) + abs(math.sin(rotation)))
    # A window that must not see the repetition stays within the field.
    slack = np.asarray(field.extent) - (0.0 if field.repeats else turned)
    offset = (generator(seed, index, "image.origin").random(2) - 0.5) * np.maximum(slack, 0.0)
    origin = np.asarray(field.extent) / 2 + offset
    window = Window(shape=(size, size), pixel=pixel, rotation=rotation,
                    origin=(float(origin[0]), float(origin[1])), flip=number(image.flip) > 0.5)
    return Window(**{**vars(window), "warp": _strain_map(image, window, seed, index),
                     "plane": _plane_map(image, window, len(field.thickness), seed, index)})


def _smooth_map(rng: np.random.Generator, window: Window) -> NDArray[np.float64]:
    """Smooth random control points: a few waves, one to three windows long, that all strain alike."""
    rows, cols = window.control_points(_KNOTS)
    direction, phase = rng.uniform(0, 2 * math.pi, (2, _WAVES))
    length = rng.uniform(1, 3, _WAVES) * max(window.shape)
    amplitude = rng.standard_normal(_WAVES) * length
    across = np.cos(direction) * rows[:, None, None] + np.sin(direction) * cols[:, None]
    total: NDArray[np.float64] = (amplitude * np.sin(2 * math.pi * across / length + phase)).sum(axis=-1)
    return total


def _strain_map(image: Image, window: Window, seed: int, index: int) -> NDArray[np.float64] | None:
    """Smooth random displacement in Å whose largest strain is the drawn one."""
    strain = number(image.strain)
    if strain == 0:
        return None
    rng = generator(seed, index, "image.strain.map")
    warp = np.stack([_smooth_map(rng, window), _smooth_map(rng, window)])
    rows, cols = window.control_points(_KNOTS)
    # The derivative of a B-spline lies within the differences of its control points over their spacing.
    steepest = max(float(np.abs(np.diff(warp, axis=1)).max()) / (rows[1] - rows[0]),
                   float(np.abs(np.diff(warp, axis=2)).max()) / (cols[1] - cols[0])) / window.pixel
    return np.ascontiguousarray(warp * (strain / steepest))


def _plane_map(image: Image, window: Window, planes: int, seed: int, index: int) -> NDArray[np.float64] | float:
    """Index of the exit plane at each point: the drawn one, plus a smooth random map."""
    last = planes - 1
    middle, span = number(image.plane) * last, number(image.thickness_variation) * last
    if span == 0:
        # Without a map nothing needs a blend of two exit planes, which only approximates what lies between them.
        return float(round(middle))
    swing = _smooth_map(generator(seed, index, "image.thickness.map"), window)
    swing = (swing - swing.min()) / np.ptp(swing) - 0.5
    plane: NDArray[np.float64] = np.clip(middle + span * swing, 0.0, float(last))
    return plane


def thickness_at(window: Window, field: Field, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thickness in Å (n,) that the window's maps have at `points (n, 2)` px; between exit planes it is a blend."""
    plane = window.plane_at(points)
    thickness: NDArray[np.float64] = np.interp(plane, np.arange(len(field.thickness)), field.thickness)
    return thickness


def columns_in(window: Window, field: Field, to_truth: PointMap,
               shared: float) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Columns of a field that a window shows.

    Parameters
    ----------
    window : Window
        The window.
    field : Field
        The field; its columns repeat with it.
    to_truth : callable
        Window px to truth px (the part of the scan displacement that the truth shares).
    shared : float
        How far, in px, that part reaches: columns from outside of the window can be in the truth.

    Returns
    -------
    position : ndarray (n, 2)
        (row, col) in px of the truth, all within the truth.
    column : ndarray (n,)
        Index of the column in the field.
    resolved : ndarray (n,), bool
        Whether it appears as a column at its tilt and thickness.
    """
    position = field.columns.position
    if len(position) == 0:
        return np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    extent = np.asarray(field.extent)
    low, high = window.extent(margin=shared + 2.0)
    first, last = np.floor((low - position.max(0)) / extent), np.ceil((high - position.min(0)) / extent)
    shifts = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)), indexing="ij"), -1)
    points = (shifts.reshape(-1, 1, 2) * extent + position).reshape(-1, 2)
    near = np.all((points >= low) & (points <= high), axis=1)
    points, column = points[near], np.tile(np.arange(len(position)), shifts.size // 2)[near]
    # Each column has the thickness of its own place, and with it its own lean.
    thickness = thickness_at(window, field, window.to_window(points))
    appears, resolved = field.columns_at(thickness, column)
    seen = to_truth(window.to_window(points + appears - position[column]))
    inside = np.all((seen > -0.5) & (seen < np.asarray(window.shape) - 0.5), axis=1)
    inside &= field.columns.depth[column, 0] <= thickness + field.entrance
    return seen[inside], column[inside], resolved[inside]


def integrated_intensity(truth: NDArray[np.float32], position: NDArray[np.float64],
                         radius: float) -> NDArray[np.float32]:
    """Mean of the truth in a disc around each column, times its area.

    Parameters
    ----------
    truth : ndarray (rows, cols)
        Picture, without its black level.
    position : ndarray (n, 2)
        (row, col) in px.
    radius : float
        Of the disc in px, at least 1.

    Returns
    -------
    ndarray (n,), float32
        Truth's unit times px².
    """
    if len(position) == 0:
        return np.zeros(0, np.float32)
    reach = math.ceil(radius)
    step = np.arange(-reach, reach + 1)
    base = np.rint(position).astype(np.int64)
    rows, cols = base[:, 0, None, None] + step[:, None], base[:, 1, None, None] + step
    inside = (rows >= 0) & (rows < truth.shape[0]) & (cols >= 0) & (cols < truth.shape[1])
    inside &= np.hypot(rows - position[:, 0, None, None], cols - position[:, 1, None, None]) <= radius
    value = truth[np.clip(rows, 0, truth.shape[0] - 1), np.clip(cols, 0, truth.shape[1] - 1)]
    mean = (value * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
    integrated: NDArray[np.float32] = (mean * (math.pi * radius**2)).astype(np.float32)
    return integrated
