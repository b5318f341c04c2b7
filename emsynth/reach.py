"""How far a sample looks: all that its truth and its probe see, against the field that must hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain, Grid, Window
from emsynth.draw import number
from emsynth.errors import FieldError
from emsynth.maps import strain_map
from emsynth.recipe import Image
from emsynth.simulation.field import Field

_ROUNDING = 1e-9  # as a part of a length


@dataclass(frozen=True, eq=False)
class Reach:
    """Where one sample looks, in px of its window; the pixel's size has no part in it.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the window.
    points : (n, 2) float64
        Where truth and probe look, window px; or the corners of that.
    around : (2,) float64
        How far from these points the exposure of a pixel may extend.
    sway : (2, 2) float64
        Lowest and highest displacement of the strain map along the field's (row, col).
    """

    shape: tuple[int, int]
    points: NDArray[np.float64]
    around: NDArray[np.float64]
    sway: NDArray[np.float64]

    def span(self, rotation: float, flip: bool) -> NDArray[np.float64]:
        """Lowest and highest of the field's (row, col) seen by a window turned by `rotation` degrees, (2, 2) px from
        its centre.
        """
        turn = Window(self.shape, 1.0, math.radians(rotation), flip=flip).affine
        seen, around = self.points @ turn[:, :2].T + turn[:, 2], np.abs(turn[:, :2]) @ self.around
        return np.stack([seen.min(axis=0) - around, seen.max(axis=0) + around]) + self.sway


def reach_of(image: Image, chain: Chain, seed: int, index: int) -> Reach:
    """Where sample `index` looks; `image` and `chain` are drawn."""
    shape = (image.size, image.size)
    where = chain.positions(shape, seed, index)
    margin = max((stage.margin() for stage in (*chain.detector, *chain.camera)), default=0)
    truth, probe = where.truth_grid(), where.probe_grid(margin)
    along = max((abs(way) for stage in chain.scan for way, _ in stage.exposure()), default=0.0)
    warp = strain_map(image, Window(shape, 1.0), seed, index)
    sway = np.zeros((2, 2)) if warp is None else np.stack([warp.min(axis=(1, 2)), warp.max(axis=(1, 2))])
    return Reach(shape, np.concatenate([_outline(truth), _outline(probe)]), along * _step(probe), sway)


def _outline(grid: Grid) -> NDArray[np.float64]:
    """The points of a grid (n, 2); its corners, where it is a plain one."""
    if grid.offsets is not None:
        return grid.positions().reshape(2, -1).T
    rows, cols = grid.shape
    corners = np.array([[0, 0, 1], [rows - 1, 0, 1], [0, cols - 1, 1], [rows - 1, cols - 1, 1]], np.float64)
    seen: NDArray[np.float64] = corners @ grid.affine.T
    return seen


def _step(grid: Grid) -> NDArray[np.float64]:
    """Longest way along each axis from a pixel to the next one in its row, px."""
    step: NDArray[np.float64] = np.abs(grid.affine[:, 1])
    if grid.offsets is not None and grid.shape[1] > 1:
        step += np.abs(np.diff(grid.offsets, axis=2)).max(axis=(1, 2))
    return step


def room(field: Field) -> NDArray[np.float64]:
    """(row, col) of a field's last pixel centre in Å, from the first: what can be seen of one that does not repeat."""
    steps: NDArray[np.float64] = (np.array(field.image.shape[-2:]) - 1) * np.array(field.sampling)
    return steps


def fit(image: Image, least: float, field: Field, reach: Reach, sample: int) -> tuple[float, float]:
    """Pixel in Å and rotation in degrees at which a sample sees nothing beyond a field without surroundings.

    Parameters
    ----------
    image : Image
        Drawn; its pixel and its rotation are kept where they fit. A pixel that is too large is made as large as fits,
        and where that is below `least`, the window is turned to the nearest quarter turn.
    least : float
        Smallest pixel that the recipe allows, Å.
    field : Field
        Not periodic.
    reach : Reach
        Where the sample looks.
    sample : int
        Its index, for the message.

    Raises
    ------
    FieldError
        Where it does not fit at all; says which size would.
    """
    rotation, flip, extent = number(image.rotation), number(image.flip) > 0.5, room(field)
    limit = _largest(reach.span(rotation, flip), extent)
    if limit < least * (1 - _ROUNDING):
        rotation = 90.0 * round(rotation / 90.0)
        limit = _largest(reach.span(rotation, flip), extent)
    if limit < least * (1 - _ROUNDING):
        raise FieldError(_too_small(image.size, least, field, reach.span(rotation, flip), sample))
    return min(number(image.pixel_size), max(limit, least)), rotation


def _largest(span: NDArray[np.float64], extent: NDArray[np.float64]) -> float:
    # The largest pixel, Å, with which a span in px stays within an extent in Å.
    return float((extent / (span[1] - span[0])).min())


def _too_small(size: int, pixel: float, field: Field, span: NDArray[np.float64], sample: int) -> str:
    sides = np.array(field.image.shape[-2:])
    needed = np.ceil((span[1] - span[0]) * pixel / np.array(field.sampling) - 1e-6).astype(int) + 1
    most = size - math.ceil(float(((needed - sides) * field.sampling).max()) / pixel)
    name = field.provenance["specimen"]["structure"]
    smaller = f"set image.size to {most} or less, " if most >= 16 else ""
    return (f"image.size: {name} is {sides[0]} x {sides[1]} px, and sample {sample}, {size} px of {pixel:g} Å, looks "
            f"at {needed[0]} x {needed[1]} px of it with its scan displacement; {smaller}lower image.pixel_size or the "
            f"displacement, or give larger images")


def origin(image: Image, field: Field, reach: Reach, place: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of a fitted window in Å, so that the sample sees nothing beyond the field.

    Parameters
    ----------
    image : Image
        Drawn and fitted.
    field : Field
        Not periodic.
    reach : Reach
        Where the sample looks.
    place : (2,) float64
        Where along (row, col) of all such centres, from 0 to 1.
    """
    low, high = reach.span(number(image.rotation), number(image.flip) > 0.5) * number(image.pixel_size)
    row, col = -low + np.maximum(room(field) - (high - low), 0.0) * place
    return float(row), float(col)
