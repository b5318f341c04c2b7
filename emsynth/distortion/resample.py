"""Resampling by the user: a part of the micrograph, enlarged to the size of the whole."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import spline_filter1d

from emsynth.distortion._kernels import enlarge as kernels
from emsynth.distortion.stage import Artefact, Pair, uniforms
from emsynth.distortion.symmetry import SQUARE, Symmetry
from emsynth.draw import AnyChoice, Choice, Quantity, Uniform, number, quantity

SMALLEST_CROP = 8  # px; fewer show nothing that could be restored

Interpolation = Literal["nearest", "bilinear", "cubic"]


class Resample(Artefact):
    """The user crops a part of the micrograph and enlarges it to the full size.

    Pixel q of the R output pixels lies at p = (q + 1/2)·n/R - 1/2 of the n cropped ones, as in every image
    program, and the crop is mirrored about its outermost pixels' edges. Share and probability are those of [1]_'s code.

    In the truth, but by cubic B-splines, so that it has neither the staircase of `nearest` nor the blur of
    `bilinear`. The chain renders only `region`, lets detector and scan act on it, and then calls `enlarge`: this
    stage changes the geometry and therefore has no `retouch`. What lies at p of the crop, say an atom column, lies at
    (p + 1/2)·R/n - 1/2 afterwards. A flag marks every pixel that a flagged one has a part in; the displacement of
    `nearest` holds its staircase as well.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["resample"] = "resample"
    symmetry: ClassVar[Symmetry] = SQUARE  # any part alike, filled in alike along both axes
    share: Quantity = quantity(
        Uniform(low=64 / 256, high=191 / 256), unit="1", low=0.05, high=1,
        about="Sides of the crop, as a share of those of the window",
    )
    interpolation: Annotated[
        Literal["bilinear", "nearest"] | AnyChoice, Field(description="How the user's program fills in the pixels")
    ] = Choice(values=("bilinear", "nearest"), weights=(0.8, 0.2))

    def region(self, shape: tuple[int, int], key: int) -> tuple[int, int, int, int]:
        """Part of a window of `shape` that is kept: first row, first col, rows, cols.

        At least 8 px are kept along each side, or the whole side where it has fewer. Every position within the window
        is alike.
        """
        rows, cols = (min(side, max(SMALLEST_CROP, round(number(self.share) * side))) for side in shape)
        down, right = uniforms(key, 0, (2,))
        return int(down * (shape[0] - rows + 1)), int(right * (shape[1] - cols + 1)), rows, cols

    def enlarge(self, pair: Pair, displacement: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """Enlarge the cropped `pair` to `shape`, in place, and return its `displacement` enlarged.

        Parameters
        ----------
        pair : Pair
            The crop; the sampling that it gets is the geometric mean of both axes, which differ by rounding only.
        displacement : (2, rows, cols) float
            Probe position minus truth position, px of the crop.
        shape : (int, int)
            Rows and columns of the window.

        Returns
        -------
        (2, R, C), of the type of `displacement`
            In px of the enlarged image.
        """
        crop = pair.truth.shape
        if crop == shape:
            return displacement
        chosen: Interpolation = "nearest" if self.interpolation == "nearest" else "bilinear"
        zoom = np.divide(shape, crop).astype(np.float32)
        # A spline rings at sharp features, where nothing should be darker than the darkest.
        pair.truth = np.maximum(interpolate(pair.truth, shape, "cubic"), pair.truth.min())
        pair.image = interpolate(pair.image, shape, chosen)
        pair.mask = _flagged(pair.mask, shape, chosen)
        if chosen != "nearest":
            pair.step = 0.0
        if pair.sampling is not None:
            pair.sampling /= math.sqrt(float(zoom[0]) * float(zoom[1]))
        moved = enlarged_map(displacement, shape, chosen)
        return moved + _staircase(crop, shape).astype(moved.dtype) if chosen == "nearest" else moved


def _flagged(mask: NDArray[np.uint8], shape: tuple[int, int], method: Interpolation) -> NDArray[np.uint8]:
    """The flags of every pixel that has a part in an enlarged one."""
    if method == "nearest":
        return interpolate(mask, shape, method)
    flags = np.zeros(shape, np.uint8)
    for bit in np.unique(np.bitwise_or.reduce(mask, axis=None) & (1 << np.arange(8))):
        if bit:
            there = interpolate(((mask & bit) > 0).astype(np.float32), shape, method) > 0
            flags |= np.where(there, np.uint8(bit), np.uint8(0))
    return flags


def _staircase(crop: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.float32]:
    """How far from its place a pixel looks that copies the nearest one, (2, R, C) in px of the larger image."""
    steps = []
    for length, wanted in zip(crop, shape, strict=True):
        place = (np.arange(wanted) + 0.5) * length / wanted - 0.5
        steps.append(((2 * np.arange(wanted) + 1) * length // (2 * wanted) - place) * wanted / length)
    down, across = np.broadcast_arrays(steps[0][:, None], steps[1][None, :])
    return np.stack([down, across]).astype(np.float32)


def enlarged_map(
    displacement: NDArray[Any], shape: tuple[int, int], method: Interpolation = "bilinear"
) -> NDArray[Any]:
    """A displacement (2, r, c) px enlarged to (2, *shape) with its own type, in px of the larger image."""
    zoom = np.divide(shape, displacement.shape[1:]).astype(np.float32)
    parts = zip(displacement.astype(np.float32), zoom, strict=True)
    return np.stack([interpolate(part, shape, method) * by for part, by in parts]).astype(displacement.dtype)


def interpolate(image: NDArray[Any], shape: tuple[int, int], method: Interpolation) -> NDArray[Any]:
    """Resize `image (r, c)` to `shape (R, C)`, half-sample symmetric at its edges, as float32.

    Cubic B-splines pass through the pixels of the image [1]_; `nearest` only copies, in the image's own type, so that
    masks stay masks.

    References
    ----------
    .. [1] Unser, IEEE Signal Process. Mag. 16(6), 22 (1999).
    """
    if method == "cubic":
        for axis in (0, 1):
            image = spline_filter1d(image, 3, axis=axis, output=image.dtype, mode="reflect")
    rows, across = _taps(image.shape[0], shape[0], method)
    cols, along = _taps(image.shape[1], shape[1], method)
    if method == "nearest":
        copied: NDArray[Any] = image[rows[0]][:, cols[0]]
        return copied
    wide = np.empty(shape, np.float32)
    kernels.enlarge(np.ascontiguousarray(image, np.float32), rows, across, cols, along, wide)
    return wide


def _taps(length: int, wanted: int, method: Interpolation) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Pixels that each output pixel is made of, (taps, wanted), and their shares, which sum to 1."""
    if method == "nearest":
        nearest = (2 * np.arange(wanted) + 1) * length // (2 * wanted)
        return nearest[None], np.ones((1, wanted), np.float32)
    position = (np.arange(wanted) + 0.5) * length / wanted - 0.5
    first = np.floor(position).astype(np.intp)
    f = position - first
    if method == "bilinear":
        taps, shares = first + np.arange(2)[:, None], [1 - f, f]
    else:
        taps, g = first + np.arange(-1, 3)[:, None], 1 - f
        shares = [g**3 / 6, 2 / 3 - f**2 * (2 - f) / 2, 2 / 3 - g**2 * (2 - g) / 2, f**3 / 6]
    taps = np.mod(taps, 2 * length)
    return np.minimum(taps, 2 * length - 1 - taps), np.array(shares, dtype=np.float32)
