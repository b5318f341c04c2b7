"""An image between its pixels: its cosine or Fourier series, held as the cubic spline of an oversampled copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emsynth.distortion._kernels.spline import PAD
from emsynth.distortion.geometry import STILL, Grid, Path, Window

# Oversampling, and up to how many px of the oversampled image: 1 and 4 GiB.
_FACTORS = ((4, 2**28), (2, 2**30))
_BLOCK = 2**20  # px that are transformed at a time
_ROWS = 64  # of a grid that are looked at a time


def factor_of(shape: tuple[int, int]) -> int:
    """Oversampling of an image of `shape`: 4 up to 4096² px, 2 up to 16384², 1 above."""
    return next((k for k, most in _FACTORS if k * k * shape[0] * shape[1] <= most), 1)


@dataclass(frozen=True, eq=False)
class Oversampled:
    """An image that can be looked at anywhere; made by `oversample`.

    Attributes
    ----------
    coefficients : (1, M, N) float32
        Of the cubic spline through the oversampled image, padded by 3 px, or by 4 where it is mirrored.
    shape : (int, int)
        Rows and columns of the image.
    factor : int
        Oversampling.
    periodic : bool
        Whether it wraps; where not, it is mirrored at the outer edges of its pixels.
    """

    coefficients: NDArray[np.float32]
    shape: tuple[int, int]
    factor: int
    periodic: bool

    def at(self, grid: Grid) -> NDArray[np.float32]:
        """What each pixel of a grid shows, (R, C): the grid's window is the image, but it may look anywhere.

        Never below 0, though the series of a sharp image rings.
        """
        window = Window(self.shape, 1.0, origin=((self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2))
        seen = np.empty(grid.shape, np.float32)
        for rows, part in parts(grid):
            if not self.periodic and _may_leave(part, self.shape):
                part = _mirrored(part, self.shape)
            seen[rows] = self.through(window, 1.0, part)
        return seen

    def through(self, window: Window, sampling: float, grid: Grid, path: Path = STILL) -> NDArray[np.float32]:
        """What each pixel of a grid shows, (R, C), through a window on the image.

        Parameters
        ----------
        window : Window
            The specimen's point (0, 0) is the centre of the image's pixel (0, 0).
        sampling : float
            Size of a pixel of the image, Å.
        grid : Grid
            Window px; where the image is not periodic, no more than half of a pixel outside of it.
        path : sequence of (float, float)
            As for `Window.gather`.

        Raises
        ------
        FieldError
            A position lies outside.
        """
        # Where pixel 0 lies after the first sample that the window may show, px.
        start = 0.0 if self.periodic else 1 / self.factor + (0.5 if self.factor > 1 else 0.0)
        row, col = window.origin
        shifted = replace(window, origin=(row + start * sampling, col + start * sampling))
        return shifted.gather(self.coefficients, sampling / self.factor, self.periodic, grid, path, 0.0)


def parts(grid: Grid) -> Iterator[tuple[slice, Grid]]:
    """A grid, some rows at a time, so that the positions of few pixels are held at once."""
    for start in range(0, grid.shape[0], _ROWS):
        rows = slice(start, min(start + _ROWS, grid.shape[0]))
        affine = np.column_stack([grid.affine[:, :2], grid.affine[:, 2] + grid.affine[:, 0] * start])
        offsets = None if grid.offsets is None else np.ascontiguousarray(grid.offsets[:, rows])
        yield rows, Grid((rows.stop - start, grid.shape[1]), affine, offsets)


def _may_leave(grid: Grid, shape: tuple[int, int]) -> bool:
    # By more than half a pixel; from the corners of the grid and its extreme offsets, which is quick.
    rows, cols = grid.shape
    corners = np.array([[0, 0, 1], [rows - 1, 0, 1], [0, cols - 1, 1], [rows - 1, cols - 1, 1]]) @ grid.affine.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    if grid.offsets is not None:
        low, high = low + grid.offsets.min(axis=(1, 2)), high + grid.offsets.max(axis=(1, 2))
    return bool((low < -0.5).any() or (high > np.array(shape) - 0.5).any())


def _mirrored(grid: Grid, shape: tuple[int, int]) -> Grid:
    positions, offsets = grid.positions(), np.empty((2, *grid.shape), np.float32)
    plain = Grid(grid.shape, grid.affine).positions()
    for axis, length in enumerate(shape):
        turned = np.mod(positions[axis] + 0.5, 2 * length)
        offsets[axis] = np.minimum(turned, 2 * length - turned) - 0.5 - plain[axis]
    return Grid(grid.shape, grid.affine, offsets)


def oversample(image: NDArray[np.float32], periodic: bool, factor: int | None = None) -> Oversampled:
    """Sample the series of an image more finely, and put a cubic spline through the samples.

    Parameters
    ----------
    image : (R, C) float32
        The image.
    periodic : bool
        Fourier series, which wraps; else the cosine series, whose image is mirrored at the outer edges of its pixels.
    factor : int, optional
        Samples per pixel along each axis: 1, or even; by default `factor_of` the image's shape.

    Returns
    -------
    Oversampled
        Equal to the image at its pixels.

    Notes
    -----
    With the type II discrete cosine transform X [1]_ the image is x(t) = Σ a_n cos(πn (t + ½)/N), a_n = X_n/N, and half
    of that for n = 0. It is sampled at t = i/k - ½, i = 0 ... kN, by a type I transform; for even k pixel p is sample
    kp + k/2. The spline's prefilter [2]_ divides the terms by (2 + cos(πn/kN))/3 before.

    Largest error of a wave at the image's own Nyquist frequency, as a share of its amplitude along one axis: about
    0.1 % for k = 4 and 3 % for k = 2, and 0.1 % for k = 2 at half of that frequency. Memory: 4 (1 + k + k²) bytes per
    pixel with the image while it is made, 84 for k = 4 and 28 for k = 2; 4 k² are kept.

    References
    ----------
    .. [1] Martucci, IEEE Trans. Signal Process. 42, 1038 (1994).
    .. [2] Unser, Aldroubi and Eden, IEEE Trans. Signal Process. 41, 821 (1993).
    """
    shape = (image.shape[0], image.shape[1])
    k = factor_of(shape) if factor is None else factor
    # One more than a gather needs: the image reaches to the edges of its pixels, and rounding a little beyond.
    pad = PAD if periodic else PAD + 1
    mean = image.mean(dtype=np.float64)  # apart from the waves, so that a bright background costs them no digits
    height, width = (k * length + (k > 1 and not periodic) for length in shape)
    tall = np.empty((height, shape[1]), np.float32)
    for cols in _blocks(shape[1], height):
        tall[:, cols] = _finer((image[:, cols] - mean).astype(np.float32), 0, k, periodic)
    fine = np.empty((1, height + 2 * pad, width + 2 * pad), np.float32)
    for rows in _blocks(height, width):
        fine[0, pad:-pad, pad:-pad][rows] = _finer(tall[rows], 1, k, periodic) + np.float32(mean)
    mode: Literal["wrap", "reflect", "symmetric"] = "wrap" if periodic else "reflect" if k > 1 else "symmetric"
    for plane, length in ((fine[0].T, width), (fine[0], height)):
        source = np.pad(np.arange(length), pad, mode=mode) + pad
        plane[:pad], plane[-pad:] = plane[source[:pad]], plane[source[-pad:]]
    return Oversampled(fine, shape, k, periodic)


def _finer(image: NDArray[np.float32], axis: int, k: int, periodic: bool) -> NDArray[np.float32]:
    length = image.shape[axis]
    transform = (fft.rfft if periodic else fft.dct)(image, axis=axis)
    wave = np.arange(transform.shape[axis])
    weight = 3 / (2 + np.cos((2 if periodic else 1) * np.pi * wave / (k * length)))
    if periodic:
        if length % 2 == 0 and k > 1:
            weight[-1] /= 2  # the Nyquist frequency is shared by both signs
        transform *= _along(k * weight, axis)
        return np.asarray(fft.irfft(transform, n=k * length, axis=axis))
    if k == 1:
        return np.asarray(fft.idct(transform * _along(weight, axis), axis=axis))
    transform *= _along(weight / (2 * length), axis)
    widths = [(0, (k - 1) * length + 1) if n == axis else (0, 0) for n in range(2)]
    return np.asarray(fft.dct(np.pad(transform, widths), type=1, axis=axis))


def _along(weight: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    return weight.astype(np.float32)[(slice(None), None) if axis == 0 else (None, slice(None))]


def _blocks(lines: int, length: int) -> list[slice]:
    # Lines of `length` px, as many at a time as make up _BLOCK px.
    step = max(1, _BLOCK // length)
    return [slice(start, min(start + step, lines)) for start in range(0, lines, step)]

