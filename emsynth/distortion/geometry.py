"""The window through which a field is seen: where its pixels lie on the specimen, and what is seen there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter1d

from emsynth.distortion._kernels import spline
from emsynth.errors import FieldError

MARGIN = spline.MARGIN
_FARTHEST = 2.0**31  # px; float64 keeps 2e-7 px there, and the kernel's index its sign
_NO_MAPS = np.zeros((3, 0, 0))
_NO_OFFSETS = np.empty((2, 0, 0), np.float32)

# Where each pixel looks, as shares of the way to the next one of its row, and the weight of each look.
Path = Sequence[tuple[float, float]]
STILL: Path = ((0.0, 1.0),)
_MOST_COEFFICIENTS = 2**32 - 1  # the kernel's index has 32 bits


def prefilter(stack: NDArray[np.floating], periodic: bool) -> NDArray[np.float32]:
    """Cubic B-spline coefficients of a stack of fields, padded by 3 px, so that a gather never leaves them.

    Parameters
    ----------
    stack : (T, H, W) or (H, W) array
        The field at each thickness.
    periodic : bool
        Whether the field tiles without end; where not, it is mirrored at its edges.

    Returns
    -------
    (T, H + 6, W + 6) float32

    References
    ----------
    Unser, Aldroubi and Eden, IEEE Trans. Signal Process. 41, 821 (1993).
    """
    stack = np.asarray(stack)
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or min(stack.shape) < 1:
        raise FieldError(f"a field of shape {stack.shape} cannot be filtered; give (thickness, H, W) or (H, W)")
    if min(stack.shape[1:]) < 4:
        raise FieldError(f"a field of {stack.shape[1]} × {stack.shape[2]} px is too small; give at least 4 × 4")
    pad = ((spline.PAD, spline.PAD), (spline.PAD, spline.PAD))
    out = np.empty((len(stack), stack.shape[1] + 2 * spline.PAD, stack.shape[2] + 2 * spline.PAD), dtype=np.float32)
    for plane, image in zip(out, stack, strict=True):
        filtered = image.astype(np.float64)
        for axis in (0, 1):
            filtered = spline_filter1d(filtered, axis=axis, mode="grid-wrap" if periodic else "mirror")
        plane[:] = np.pad(filtered, pad, mode="wrap") if periodic else np.pad(filtered, pad, mode="reflect")
    return out


@dataclass(frozen=True, eq=False)
class Grid:
    """Where each pixel of an image looks: pixel (r, c) at window px affine @ [r, c, 1] + offsets[:, r, c].

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    affine : (2, 3) float64
        Pixel to window px.
    offsets : (2, R, C) float32 or None
        Window px along rows and columns.
    """

    shape: tuple[int, int]
    affine: NDArray[np.float64]
    offsets: NDArray[np.float32] | None = None

    def positions(self) -> NDArray[np.float64]:
        """Each pixel's position, window px, (2, R, C)."""
        r, c = np.arange(self.shape[0])[:, None], np.arange(self.shape[1])[None, :]
        at = self.affine[:, 0, None, None] * r + self.affine[:, 1, None, None] * c + self.affine[:, 2, None, None]
        return at if self.offsets is None else at + self.offsets


@dataclass(frozen=True, eq=False)
class Window:
    """A rotated, scaled and strained view of a field.

    A window px p = (row, col) lies at the specimen point (Å, row then col)::

        origin + pixel · F · R(rotation) · (p - centre) + u(p)

    with R = [[cos, sin], [-sin, cos]], F the mirror of the specimen's col axis where `flip` is set, and u the warp.
    Row points down, col to the right; a positive rotation turns what is seen counter-clockwise. The field's
    pixel (0, 0) is the specimen's point (0, 0).

    Attributes
    ----------
    shape : (int, int)
        Rows and columns, px.
    pixel : float
        Pixel size, Å.
    rotation : float
        Rotation of what is seen, rad, counter-clockwise.
    origin : (float, float)
        Specimen point (row, col) at the window's centre ((R - 1)/2, (C - 1)/2), Å.
    flip : bool
        Mirror the field, left to right before the rotation.
    warp : (2, M, N) float64 or None
        B-spline coefficients of the displacement u along rows and columns, Å. Its strain is at most the difference
        of neighbouring coefficients over their spacing; `control_points` tells where they are.
    plane : float or (M, N) float64
        Index of the thickness, fractional between two; a map has the shape of the warp's grids.
    """

    shape: tuple[int, int]
    pixel: float
    rotation: float = 0.0
    origin: tuple[float, float] = (0.0, 0.0)
    flip: bool = False
    warp: NDArray[np.float64] | None = None
    plane: NDArray[np.float64] | float = 0.0

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not self.pixel > 0:
            raise FieldError(f"a window of {self.shape} px of {self.pixel:g} Å is empty; both must be above 0")
        grids = [np.shape(g)[-2:] for g in (self.warp, self.plane) if g is not None and np.ndim(g) >= 2]
        if len(set(grids)) > 1 or any(min(g) < 4 for g in grids):
            raise FieldError(f"control grids of shapes {grids} do not go together; give one shape of at least (4, 4)")

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """Window px to specimen Å without the warp, (2, 3): Å = affine @ [row, col, 1]."""
        cosine, sine = float(np.cos(self.rotation)), float(np.sin(self.rotation))
        affine = np.empty((2, 3))
        affine[:, :2] = self.pixel * np.array([[cosine, sine], [-sine, cosine]])
        if self.flip:
            affine[1, :2] = -affine[1, :2]
        centre = np.array([(self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2])
        affine[:, 2] = self.origin - affine[:, :2] @ centre
        return affine

    def control_points(self, knots: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows and columns, in window px, of a grid with `knots` control points on each axis."""
        steps = (np.arange(knots) - 1) / (knots - 3)
        rows, cols = ((length - 1 + 2 * MARGIN) * steps - MARGIN for length in self.shape)
        return rows, cols

    def positions(self) -> NDArray[np.float64]:
        """Each pixel's own position, window px, (2, R, C)."""
        return np.indices(self.shape, dtype=np.float64)

    def to_specimen(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Specimen points (n, 2) Å of window `points (n, 2)` px."""
        points = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2)
        return points @ self.affine[:, :2].T + self.affine[:, 2] + self._warp_at(points)

    def to_window(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Window px (n, 2) of specimen `points (n, 2)` Å, by fixed-point iteration to 2e-6 px.

        Raises
        ------
        FieldError
            Where the warp folds the specimen, so that the iteration does not come to rest.
        """
        inverse = np.linalg.inv(self.affine[:, :2])
        start = (np.asarray(points, dtype=np.float64).reshape(-1, 2) - self.affine[:, 2]) @ inverse.T
        at = start
        for _ in range(100):
            before, at = at, start - self._warp_at(at) @ inverse.T
            if np.abs(at - before).max(initial=0) < 2e-6:  # the maps are float32
                return at
        raise FieldError("the window's warp cannot be inverted: its strain is too strong; keep it below 20 %")

    def extent(self, margin: float = 0.0) -> NDArray[np.float64]:
        """Lowest and highest specimen point, (2, 2) Å, of the window's outline grown by `margin` px."""
        along = np.linspace(0, 1, 65)
        sides = ((0, along), (1, along), (along, 0), (along, 1))
        outline = np.concatenate([np.column_stack(np.broadcast_arrays(*side)) for side in sides])
        outline = outline * (np.array(self.shape) - 1 + 2 * margin) - margin
        points = self.to_specimen(outline)
        return np.stack([points.min(axis=0), points.max(axis=0)])

    def gather(
        self,
        coefficients: NDArray[np.float32],
        sampling: float | Sequence[float],
        periodic: bool,
        where: Grid | NDArray[np.float64],
        path: Path = STILL,
        lowest: float = -math.inf,
    ) -> NDArray[np.float32]:
        """What the field shows at window positions.

        Parameters
        ----------
        coefficients : (T, H + 6, W + 6) float32
            From `prefilter`.
        sampling : float or two floats
            Size of a field pixel along row and col, Å.
        periodic : bool
            As for `prefilter`.
        where : Grid or (2, ...) float64
            Window px; may lie outside the window, by up to `MARGIN` px with full warp.
        path : sequence of (float, float)
            Shares of the way from each pixel of a grid to the next one of its row, at which it looks instead, by
            central differences on the displaced path; and the weight of each look.
        lowest : float
            What is seen and lower counts as that, e.g. 0 where a spline may ring below it.

        Returns
        -------
        (...) float32

        Raises
        ------
        FieldError
            A position lies outside a non-periodic field, or a thickness outside the stack.
        """
        if isinstance(where, Grid):
            return self._gather(coefficients, sampling, periodic, where, path, lowest)
        at = np.ascontiguousarray(where, dtype=np.float64)
        grid = Grid((1, at[0].size), np.zeros((2, 3)), at.reshape(2, 1, -1))  # type: ignore[arg-type]
        return self._gather(coefficients, sampling, periodic, grid, STILL, lowest).reshape(at.shape[1:])

    def _gather(self, coefficients: NDArray[np.float32], sampling: float | Sequence[float], periodic: bool,
                grid: Grid, path: Path, lowest: float) -> NDArray[np.float32]:
        offsets = _NO_OFFSETS if grid.offsets is None else grid.offsets
        if grid.offsets is not None and offsets.shape != (2, *grid.shape):
            raise FieldError(f"offsets of shape {offsets.shape} do not go with a grid of {grid.shape}")
        if coefficients.size > _MOST_COEFFICIENTS:
            raise FieldError(f"a stack of {coefficients.shape[0]} fields of {coefficients.shape[1]} × "
                             f"{coefficients.shape[2]} px has more than 2³² pixels; use less oversampling or cut it "
                             "into parts")
        self._check_plane(len(coefficients))
        down, across = (sampling, sampling) if isinstance(sampling, float | int) else sampling
        to_field, maps, stretch, warped = self._in_field(down, across)
        _check_reach(grid, offsets, stretch, warped)
        out, plane = np.empty(grid.shape, dtype=np.float32), math.nan if np.ndim(self.plane) else self._planes[0]
        outside = spline.gather(
            coefficients, periodic, to_field, maps, plane, self.shape, grid.affine, offsets,
            np.array(path, dtype=np.float64), lowest, out)
        if outside > 0:
            points = self.to_specimen(grid.positions().reshape(2, -1).T) / (down, across)
            height, width = coefficients.shape[1] - 2 * spline.PAD, coefficients.shape[2] - 2 * spline.PAD
            beyond = np.maximum(-points, points - (np.array([height, width]) - 1)).max()
            raise FieldError(
                f"the window reaches {beyond:.1f} px beyond the field: take a smaller pixel or displacement, "
                "another rotation, or a wider field"
            )
        return out

    def _check_plane(self, thicknesses: int) -> None:
        low, high = self._planes
        if not 0 <= low <= high <= thicknesses - 1:
            raise FieldError(f"thickness index {low:g} to {high:g} is outside the field's 0 to {thicknesses - 1}")

    @cached_property
    def _planes(self) -> tuple[float, float]:
        return float(np.min(self.plane)), float(np.max(self.plane))

    @cached_property
    def _maps(self) -> NDArray[np.float32]:
        # Displacement in Å and plane, side by side with repeated edges (M + 16, N + 16, 4).
        grid = np.shape(self.plane) if self.warp is None else self.warp.shape[1:]
        maps = np.zeros((*grid, 4), np.float32)
        if self.warp is not None:
            maps[:, :, :2] = np.moveaxis(self.warp, 0, -1)
        maps[:, :, 2] = self.plane
        return _repeated(maps)

    def _in_field(self, down: float, across: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        # Window px to px of a field of this sampling; the maps, their displacement in field px; the sum of the first's
        # numbers and the largest of the second. Worked out once, because truth and image look at the same field.
        held = self.__dict__.get("_held")
        if held is None or held[0] != (down, across):
            to_field = self.affine * (1 / np.array([[down], [across]]))
            maps = _NO_MAPS
            if self.warp is not None or np.ndim(self.plane):
                maps = np.zeros((3, *(np.shape(self.plane) if self.warp is None else self.warp.shape[1:])))
                maps[2] = self.plane
            if self.warp is not None:
                np.divide(self.warp[0], down, out=maps[0])
                np.divide(self.warp[1], across, out=maps[1])
            largest = float(np.abs(maps).max()) if maps.size else 0.0
            held = (down, across), (to_field, maps, float(np.abs(to_field).sum()), largest)
            self.__dict__["_held"] = held
        return held[1]

    def plane_at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional index of the thickness (n,) at window `points (n, 2)` px."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        if np.ndim(self.plane) == 0:
            return np.full(len(points), float(np.asarray(self.plane)))
        return self._surfaces(points)[:, 2]

    def _warp_at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.warp is None:
            return np.zeros(points.shape)
        return self._surfaces(points)[:, :2]

    def _surfaces(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.empty((len(points), 4), np.float32)
        spline.surfaces(self._maps, np.ascontiguousarray(points.T), *self.shape, out)
        return out.astype(np.float64)


def _check_reach(grid: Grid, offsets: NDArray[np.floating], stretch: float, warped: float) -> None:
    # The kernel does not look where it reads: refuse what would take it to another end of the memory.
    (a, b, e), (c, d, f) = grid.affine.tolist()
    # One sum that is finite only where every number is, and no smaller than the largest of them.
    far = math.sqrt(float(np.vdot(offsets, offsets)))
    far += (abs(a) + abs(c)) * grid.shape[0] + (abs(b) + abs(d)) * grid.shape[1] + abs(e) + abs(f)
    if not math.isfinite(far):
        raise FieldError("a position is not a finite number; look at the scan stages that displace it")
    reach = stretch * max(far, 1.0) + warped
    if not reach < _FARTHEST:
        raise FieldError(f"a window that reaches {reach:.3g} px of the field is not a place on a specimen; look at "
                         "its origin, pixel, rotation and warp, and at the field's sampling")


def _repeated(lanes: NDArray[np.float32]) -> NDArray[np.float32]:
    pad = (spline.SURFACE_PAD, spline.SURFACE_PAD)
    return np.ascontiguousarray(np.pad(lanes, (pad, pad, (0, 0)), mode="edge"))
