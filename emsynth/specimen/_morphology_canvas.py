"""The periodic canvas on which a morphology is drawn: noise, Voronoi cells, and shapes that are laid on what is
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Map = NDArray[np.float64]
# (height above what it lies on, thickness, coverage from 0 to 1), each (rows, cols), from (row, col) in Å off centre.
Shape = Callable[[Map, Map], tuple[Map, Map, Map]]

# Å: thickness of a bulk specimen: more than any electron comes back from.
BULK = 1e7


@dataclass(frozen=True)
class Cells:
    """Voronoi cells: `owner` (H, W) int, `gap` (H, W) Å to the next boundary, `away` (H, W) Å from the cell's site."""

    owner: NDArray[np.int64]
    gap: Map
    away: Map


@dataclass
class Canvas:
    """A specimen while it is drawn.

    Attributes
    ----------
    shape : tuple of int
        (rows, cols).
    step : float
        Side of a pixel in Å; the canvas repeats without end.
    size : float
        Typical width of a feature in Å.
    coverage : float
        Part of the area that features cover, 0 to 1.
    aspect : float
        Height of a feature over its width.
    spread : float
        Deviation of the logarithm of sizes.
    roughness : float
        Amplitude of the fine texture, as a part of the size.
    film : float
        Thickness in Å of a supporting or sectioned film.
    support : str
        ``"bulk"``, ``"film"`` or ``"none"``.
    body, ground, extra : str
        Material of the features, of what carries them, and of what lies upon both in a mixture.
    crystalline : dict of str to bool
        Of each material, whether its bodies are grains.
    generator : callable
        Name of a purpose to its random generator.
    height : ndarray (H, W)
        Top surface in Å.
    layers : dict of str to ndarray (H, W)
        Thickness of each material in Å, the undermost first.
    grain : ndarray (H, W), int16
        Uppermost grain; -1 where there is none.
    """

    shape: tuple[int, int]
    step: float
    size: float
    coverage: float
    aspect: float
    spread: float
    roughness: float
    film: float
    support: str
    body: str
    ground: str
    extra: str
    crystalline: dict[str, bool]
    generator: Callable[[str], np.random.Generator]
    height: Map = field(init=False)
    layers: dict[str, Map] = field(init=False, default_factory=dict)
    grain: NDArray[np.int16] = field(init=False)
    grains: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.height = np.zeros(self.shape)
        self.grain = np.full(self.shape, -1, np.int16)

    @property
    def side(self) -> tuple[float, float]:
        """(row, col) period in Å."""
        return self.shape[0] * self.step, self.shape[1] * self.step

    @property
    def area(self) -> float:
        """Area in Å²."""
        return self.side[0] * self.side[1]

    def places(self) -> tuple[Map, Map]:
        """Row (H, 1) and column (1, W) coordinates in Å."""
        row, col = (np.arange(n, dtype=np.float64) * self.step for n in self.shape)
        return row[:, None], col[None]

    def layer(self, material: str) -> Map:
        """Thickness map of a material; one that is new lies above those that are there."""
        if material not in self.layers:
            self.layers[material] = np.zeros(self.shape)
        return self.layers[material]

    def new_grain(self, material: str) -> int:
        """Number of a grain to be drawn; -1 in an amorphous material."""
        if not self.crystalline[material]:
            return -1
        self.grains += 1
        return (self.grains - 1) % 32767

    def noise(self, purpose: str, length: float, slope: float = 2.0, stretch: float = 1.0, angle: float = 0.0) -> Map:
        """Periodic Gaussian random field, mean 0, deviation 1, power spectrum (1 + (2π f length)²)^-slope.

        Parameters
        ----------
        purpose : str
            Its random stream.
        length : float
            Correlation length in Å.
        slope : float
            3 and more is smooth; 1.2 is rough on every scale down to the pixel.
        stretch, angle : float
            How much longer along `angle` (rad, from the column axis to the row axis).
        """
        rows, cols = self.shape
        white = self.generator(purpose).standard_normal(self.shape, np.float32)
        u, v = fft.fftfreq(rows, self.step)[:, None], fft.rfftfreq(cols, self.step)[None]
        along, across = v * math.cos(angle) + u * math.sin(angle), u * math.cos(angle) - v * math.sin(angle)
        square = (2 * math.pi * length) ** 2 * ((along * stretch) ** 2 + across**2)
        spectrum = fft.rfft2(white) * ((1 + square) ** (-slope / 2)).astype(np.float32)
        spectrum[0, 0] = 0
        made = fft.irfft2(spectrum, s=self.shape).astype(np.float64)
        scaled: Map = made / max(float(made.std()), 1e-30)
        return scaled

    def smooth(self, values: Map, length: float) -> Map:
        """`values` under a Gaussian of deviation `length` in Å, periodic."""
        u, v = fft.fftfreq(self.shape[0], self.step)[:, None], fft.rfftfreq(self.shape[1], self.step)[None]
        damped: Map = fft.irfft2(fft.rfft2(values) * np.exp(-2 * (math.pi * length) ** 2 * (u**2 + v**2)), s=self.shape)
        return damped

    def sites(self, purpose: str, count: int, clustering: float = 0.0) -> Map:
        """Random places (count, 2) in Å; with `clustering` from 0 to 1, that part of them in clouds."""
        rng = self.generator(purpose)
        at = rng.uniform(0, 1, (count, 2)) * self.side
        if clustering > 0:
            clouds = max(2, count // 25)
            centre = rng.uniform(0, 1, (clouds, 2)) * self.side
            wide = rng.lognormal(math.log(min(self.side) / (3 * math.sqrt(clouds))), 0.5, clouds)
            member = rng.integers(clouds, size=count)
            near = centre[member] + rng.standard_normal((count, 2)) * wide[member, None]
            at = np.where(rng.random((count, 1)) < clustering, near, at)
        inside: Map = np.mod(at, self.side)
        return inside

    def cells(self, sites: Map, warp: tuple[Map, Map] | None = None) -> Cells:
        """Voronoi cells of `sites` (n, 2) in Å, on coordinates displaced by `warp` in Å, so that borders are curved."""
        from scipy.spatial import cKDTree

        row, col = np.broadcast_arrays(*self.places())
        point = np.stack([row, col], -1).reshape(-1, 2)
        if warp is not None:
            point = point + np.stack(warp, -1).reshape(-1, 2)
        side = np.array(self.side)
        point = np.mod(point, side)
        point[point >= side] = 0.0
        sites = np.where(sites >= side, 0.0, sites)
        near, number = cKDTree(sites, boxsize=side).query(point, k=2)
        between = sites[number[:, 0]] - sites[number[:, 1]]
        between -= side * np.round(between / side)
        apart = np.maximum(np.hypot(between[:, 0], between[:, 1]), 1e-9)
        gap = (near[:, 1] ** 2 - near[:, 0] ** 2) / (2 * apart)
        return Cells(number[:, 0].reshape(self.shape), gap.reshape(self.shape), near[:, 0].reshape(self.shape))

    def patch(
        self, centre: NDArray[np.float64] | tuple[float, float], reach: float
    ) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Map, Map]:
        """Indices of the pixels within `reach` Å of `centre` along each axis, and their (row, col) off it in Å."""
        found = []
        for axis in (0, 1):
            half = min(reach, self.side[axis] / 2 - self.step)
            first, last = math.ceil((centre[axis] - half) / self.step), math.floor((centre[axis] + half) / self.step)
            found.append(np.arange(first, last + 1))
        row, col = found
        index = np.ix_(row % self.shape[0], col % self.shape[1])
        return (index[0], index[1]), row[:, None] * self.step - centre[0], col[None] * self.step - centre[1]

    def lay(
        self,
        centre: NDArray[np.float64] | tuple[float, float],
        reach: float,
        shape: Shape,
        material: str,
        base: float | None = None,
        grain: int | None = None,
    ) -> None:
        """Lay a body on what is there, at `base` Å or on the median height below it."""
        index, row, col = self.patch(centre, reach)
        if row.size == 0 or col.size == 0:
            return
        height, thickness, cover = shape(row, col)
        ground = self.height[index]
        if base is None:
            under = cover > 0.5
            base = float(np.median(ground[under])) if under.any() else float(ground.mean())
        top = base + height
        self.height[index] = np.maximum(ground, ground + cover * (top - ground))
        self.layer(material)[index] += cover * thickness
        number = self.new_grain(material) if grain is None else grain
        above = (cover > 0.5) & (top >= ground)
        self.grain[index] = np.where(above, np.int16(number), self.grain[index])

    def soft(self, distance: Map) -> Map:
        """Part of a pixel that lies inside, of a `distance` in Å to the edge, positive inside."""
        part: Map = np.clip(0.5 + distance / self.step, 0.0, 1.0)
        return part
