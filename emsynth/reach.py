"""How far a sample looks: all that its truth and its probe see, against the field that must hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain, Grid, Window
from emsynth.distortion.chain import Part
from emsynth.draw import number
from emsynth.errors import FieldError
from emsynth.maps import strain_map
from emsynth.recipe import Image, smallest
from emsynth.simulation.field import Field

_ROUNDING = 1e-9  # as a part of a length
_SMALLEST_SIZE, _SMALLEST_PIXEL = 16, 0.01  # px and Å that a recipe may ask for
_FINEST = 0.25  # of an image's own pixel: a sample with smaller ones would be a blur


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
    truth : Grid
        Where the truth looks, window px.
    """

    shape: tuple[int, int]
    points: NDArray[np.float64]
    around: NDArray[np.float64]
    sway: NDArray[np.float64]
    truth: Grid

    def span(self, rotation: float, flip: bool) -> NDArray[np.float64]:
        """Lowest and highest of the field's (row, col) seen by a window turned by `rotation` degrees, (2, 2) px from
        its centre.
        """
        turn = Window(self.shape, 1.0, math.radians(rotation), flip=flip).affine
        seen, around = self.points @ turn[:, :2].T + turn[:, 2], np.abs(turn[:, :2]) @ self.around
        return np.stack([seen.min(axis=0) - around, seen.max(axis=0) + around]) + self.sway


def reach_of(image: Image, chain: Chain, seed: int, index: int, part: Part | None = None, views: int = 1) -> Reach:
    """Where sample `index` looks, or a part of it, in all of its views; `image` and `chain` are drawn."""
    shape = (image.size, image.size)
    seats = [chain.positions(shape, seed, index, part, view) for view in range(views)]
    margin = max((stage.margin() for stage in (*chain.detector, *chain.camera)), default=0)
    truth, probes = seats[0].truth_grid(), [where.probe_grid(margin) for where in seats]
    along = max((abs(way) for stage in chain.scan for way, _ in stage.exposure()), default=0.0)
    warp = strain_map(image, Window(shape, 1.0), seed, index)
    sway = np.zeros((2, 2)) if warp is None else np.stack([warp.min(axis=(1, 2)), warp.max(axis=(1, 2))])
    points = np.concatenate([_outline(grid) for grid in (truth, *probes)])
    return Reach(shape, points, along * np.max([_step(probe) for probe in probes], axis=0), sway, truth)


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


def largest_pixel(size: int, extent: tuple[float, float], rotation: float = 0.0) -> float:
    """Largest pixel in Å with which a window of `size` px, turned by `rotation` degrees, stays within a field."""
    turn = math.radians(rotation)
    return min(extent) / (size * (abs(math.cos(turn)) + abs(math.sin(turn))))


def check_fit(image: Image, extent: tuple[float, float], name: str) -> None:
    """Raise FieldError where not even the smallest pixel of a recipe lets the window fit a field of `extent` Å.

    The extent is infinite where the field repeats.
    """
    least, most = smallest(image.pixel_size), largest_pixel(image.size, extent)
    if least > most * (1 + 1e-9):
        sides = " x ".join("endless" if math.isinf(side) else f"{side:.1f}" for side in extent)
        raise FieldError(
            f"image.pixel_size: a window of {image.size} px of {least:g} Å is {image.size * least:.1f} Å wide and does "
            f"not fit into the field of {name}, {sides} Å; allow a pixel of {most:.3g} Å or "
            f"less, use a smaller image.size, or a larger box for the specimen")


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
        raise FieldError(_too_small(image.size, least, field, reach.span(rotation, flip), sample, limit))
    return min(number(image.pixel_size), max(limit, least)), rotation


def _largest(span: NDArray[np.float64], extent: NDArray[np.float64]) -> float:
    # The largest pixel, Å, with which a span in px stays within an extent in Å.
    return float((extent / (span[1] - span[0])).min())


def _too_small(size: int, pixel: float, field: Field, span: NDArray[np.float64], sample: int, limit: float) -> str:
    # Only ways out that lead somewhere: there are images that no legal size, pixel or displacement makes large enough.
    sides, sampling = np.array(field.image.shape[-2:]), np.array(field.sampling)
    needed = np.ceil((span[1] - span[0]) * pixel / sampling - 1e-6).astype(int) + 1
    most = size - math.ceil(float(((needed - sides) * sampling).max()) / pixel)
    name = field.provenance["specimen"]["structure"]
    ways = [f"set image.size to {most} or less"] if most >= _SMALLEST_SIZE else []
    if limit >= max(_SMALLEST_PIXEL, _FINEST * float(sampling.max())):
        ways.append(f"lower image.pixel_size to {_rounded_down(limit)} or less")
    if np.all((size - 1) * pixel <= room(field)):
        ways.append("lower the displacement")
    ways.append(f"give an image of {needed[0]} x {needed[1]} px or more in its place")
    return (f"image.size: {name} is {sides[0]} x {sides[1]} px, and sample {sample}, {size} px of {pixel:g} Å, looks "
            f"at {needed[0]} x {needed[1]} px of it with its scan displacement; {', or '.join(ways)}")


def _rounded_down(length: float) -> str:
    # To three digits, and never above, because it is the largest that fits.
    step = 10.0 ** (math.floor(math.log10(length)) - 2)
    return f"{math.floor(length / step) * step:.3g}"


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
