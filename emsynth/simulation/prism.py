"""PRISM: every f-th plane wave of the aperture, and a window around each probe position.

With every f-th wave along each axis, the waves that they make at r are probes at r and at all places a window's side,
box/f, away. A window around r keeps the one (Ophus, Adv. Struct. Chem. Imaging 3, 13, 2017): f² times fewer waves go
through the specimen, for an error from the probe's tails and from what is scattered beyond the window. To propagate the
exit waves back to the middle of the specimen first, where they are narrower, was tried: it changes next to nothing.

The sum over the waves at r has a period of one window in r, and each point of the exit plane is within the window of
one r in a period: with f times a whole number of positions, the sums of one period are those of all positions. They are
made as two products of matrices, along columns and along rows: f² times fewer sums than one for each position and each
point of its window (ours). `prism.json` keeps the errors against multislice; see `prism_check` and docs/prism.md.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from emsynth.draw import number
from emsynth.errors import FieldError
from emsynth.microscope import Microscope
from emsynth.simulation import checked
from emsynth.simulation.plan import Plan, polar, positions, smooth_number, soft_disc
from emsynth.simulation.scattering import amplitude, series_to_picture

# Rows of probe positions that are summed together: the waves are read once for all of them.
_ROWS = 8


class Windowed:
    """Reduction of the exit waves of few plane waves to pictures.

    Parameters
    ----------
    plan : Plan
        The pass; its beams are those that go through.
    microscope : Microscope
        Drawn microscope.
    oversampling : float
        Samples per Nyquist interval of the pictures.

    Attributes
    ----------
    points : ndarray (n,), int64
        Indices into the plan's flattened (row, col) Fourier grid of the exit waves that are needed.
    counts : tuple of int
        Probe positions along (row, col) of the box: f times a whole number, at least `plan.positions`.
    window : tuple of int
        Points of a window along (row, col).
    weight : ndarray (detector, n), float32
        Part of each point of a window's flattened Fourier grid that lies on each detector.
    """

    def __init__(self, plan: Plan, microscope: Microscope, oversampling: float) -> None:
        self._plan, self._microscope, self._oversampling = plan, microscope, oversampling
        f = plan.interpolation
        outer = max(edge for _, edge in microscope.detector_angles().values()) * 1e-3
        # The grid of a window, as many points as the detectors' angles need, and of the box: f windows.
        sides = [side / f for side in plan.box]
        rows, cols = (smooth_number(2 * math.ceil(outer * side / microscope.wavelength) + 3) for side in sides)
        self.window = (rows, cols)
        self._grid = tuple(n * f for n in self.window)
        index = [np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in self._grid]
        held = [axis[np.abs(axis) <= n // 2 - 1] for axis, n in zip(index, plan.grid, strict=True)]
        self._held = np.ix_(held[0] % self._grid[0], held[1] % self._grid[1])
        row, col = (axis % n for axis, n in zip(held, plan.grid, strict=True))
        self.points = (row[:, None] * plan.grid[1] + col).ravel()
        self._counts = (len(held[0]), len(held[1]))
        self.weight = detector_weights(microscope, self.window, (sides[0], sides[1]), f)
        # |.|² of both parts of a complex number.
        self._twice = np.repeat(self.weight, 2, axis=1).T
        rows_needed, cols_needed = positions(plan)
        self._period = (-(-rows_needed // f), -(-cols_needed // f))
        self.counts = (f * self._period[0], f * self._period[1])
        # Beams in units of 1/window, those of one column together.
        coarse = plan.beams // f
        self._order = np.lexsort((coarse[:, 0], coarse[:, 1]))
        self._beams = coarse[self._order]
        edges = np.flatnonzero(np.diff(self._beams[:, 1], prepend=self._beams[0, 1] - 1, append=self._beams[-1, 1] + 1))
        self._columns = [slice(start, stop) for start, stop in pairwise(edges.tolist())]

    def pictures(self, exits: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Pictures of the whole box.

        Parameters
        ----------
        exits : ndarray (plane, beam, n), complex64
            Exit waves at `points`.

        Returns
        -------
        ndarray (plane, detector, H, W), float32
        """
        out = np.stack([self.signals(waves) for waves in exits])
        return series_to_picture(out, self._plan, self._microscope, self._oversampling)

    def signals(self, exits: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Signal of each detector at each probe position (detector, rows, cols), from exit waves (beam, n)."""
        waves = self._in_space(exits)
        out = np.zeros((len(self.weight), *self.counts), np.float32)
        nodes, shares = foci(self._plan, self._microscope)
        for node, share in zip(nodes, shares, strict=True):
            weights = amplitude(self._plan, self._microscope, float(node))[self._order]
            for start in range(0, self._period[0], _ROWS):
                rows = range(start, min(self._period[0], start + _ROWS))
                for row, summed in zip(rows, self._along_rows(waves, weights, rows), strict=True):
                    out[:, row::self._period[0]] += np.float32(share) * self._windows(row, summed)
        return out

    def _in_space(self, exits: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The waves in real space (beam, rows, cols), beams of one column after another."""
        made = np.zeros((len(exits), *self._grid), np.complex64)
        for wave, beam in zip(made, self._order, strict=True):
            wave[self._held] = exits[beam].reshape(self._counts)
            wave[:] = scipy.fft.ifft2(wave, norm="forward")
        return made

    def _along_rows(self, waves: NDArray[np.complex64], weights: NDArray[np.complex128],
                    rows: range) -> NDArray[np.complex64]:
        """Sums over the beams of each column with the probe in some rows of the period (row, column, grid)."""
        phase = np.exp(-2j * np.pi * np.outer(np.array(rows) / self._period[0], self._beams[:, 0]))
        factors = (phase * weights).astype(np.complex64)
        flat = waves.reshape(len(waves), -1)
        out = np.empty((len(rows), len(self._columns), flat.shape[1]), np.complex64)
        for number_of_column, held in enumerate(self._columns):
            out[:, number_of_column] = factors[:, held] @ flat[held]
        return out

    def _windows(self, row: int, partial: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Signals (detector, f, positions) of all positions in one row of each period."""
        f, (high, wide) = self._plan.interpolation, self.window
        first = np.array([self._beams[held.start, 1] for held in self._columns])
        phase = np.exp(-2j * np.pi * np.outer(np.arange(self._period[1]) / self._period[1], first))
        waves = (phase.astype(np.complex64) @ partial).reshape(-1, *self._grid)
        windows = np.empty((self._period[1], f, f, high, wide), np.complex64)
        top = self._corner(row, 0)
        for col, wave in enumerate(waves):
            # Around the f² positions that are a period apart, the windows share the box out among them.
            turned = np.roll(wave, (-top, -self._corner(col, 1)), axis=(0, 1))
            windows[col] = turned.reshape(f, high, f, wide).swapaxes(1, 2)
        spectrum = scipy.fft.fft2(windows, norm="forward", overwrite_x=True)
        parts = spectrum.reshape(-1, high * wide).view(np.float32)
        np.square(parts, out=parts)
        seen = (parts @ self._twice).reshape(self._period[1], f, f, -1)
        # (position in the period, period along rows, along columns, detector)
        signals: NDArray[np.float32] = seen.transpose(3, 1, 2, 0).reshape(len(self.weight), f, -1)
        return signals

    def _corner(self, position: int, axis: int) -> int:
        """First point of the window around a position in the first period."""
        return position * self.window[axis] // self._period[axis] - self.window[axis] // 2


def detector_weights(microscope: Microscope, window: tuple[int, int], sides: tuple[float, float],
                     interpolation: int) -> NDArray[np.float32]:
    """Detectors on the Fourier grid of a window, each edge where it takes in the area that it does on the box's grid.

    A disc of few points is up to 2 % larger or smaller than the same on the f times finer grid, and a bright-field
    picture with it, unless its edge is moved by a small part of a point.

    Parameters
    ----------
    microscope : Microscope
        Drawn microscope.
    window : tuple of int
        Points of a window along (row, col).
    sides : tuple of float
        Its sides in Å.
    interpolation : int
        f: windows in the box, along each axis.

    Returns
    -------
    ndarray (detector, n), float32
    """
    discs = {}
    for edge in {edge for edges in microscope.detector_angles().values() for edge in edges}:
        box = (sides[0] * interpolation, sides[1] * interpolation)
        whole = _disc(edge * 1e-3, (window[0] * interpolation, window[1] * interpolation), box, microscope.wavelength)
        area, step = whole.sum() / interpolation**2, microscope.wavelength / min(sides)
        low, high = edge * 1e-3 - step, edge * 1e-3 + step
        for _ in range(30):
            middle = (low + high) / 2
            disc = _disc(middle, window, sides, microscope.wavelength)
            low, high = (middle, high) if disc.sum() < area else (low, middle)
        discs[edge] = disc if edge > 0 else np.zeros(math.prod(window))
    rings = [discs[high] - discs[low] for low, high in microscope.detector_angles().values()]
    return np.stack(rings).astype(np.float32)


def _disc(edge: float, points: tuple[int, int], sides: tuple[float, float], wavelength: float) -> NDArray[np.float64]:
    """Part of each point of a Fourier grid within an angle in rad."""
    own = [np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in points]
    index = np.stack([part.ravel() for part in np.meshgrid(*own, indexing="ij")], axis=1)
    angle, azimuth = polar(index, sides, wavelength)
    return soft_disc(angle, azimuth, edge, sides, wavelength)


def foci(plan: Plan, microscope: Microscope, error: float = 3e-3) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Foci (k,) in Å and their shares that stand for a normal spread: Gauss and Hermite's, as few as the error allows.

    Parameters
    ----------
    plan : Plan
        The pass.
    microscope : Microscope
        Drawn microscope.
    error : float
        Of the interference of the fastest pair of waves, relative.
    """
    spread, mean = number(microscope.focal_spread), number(microscope.defocus)
    if spread == 0:
        return np.array([mean]), np.ones(1)
    fastest = math.pi * spread / microscope.wavelength * (number(microscope.convergence) * 1e-3) ** 2
    for count in range(2, 16):
        at, weight = np.polynomial.hermite_e.hermegauss(count)
        weight = weight / weight.sum()
        turns = np.linspace(0, fastest, 50)
        if np.abs(np.cos(np.outer(turns, at)) @ weight - np.exp(-(turns**2) / 2)).max() < error:
            break
    return mean + spread * at, weight


record = partial(checked.record, "prism")
record_digest = partial(checked.digest, "prism")
detector_class = partial(checked.detector_class, "prism")


def check_offered(microscope: Microscope) -> dict[str, float]:
    """Refuse what was not checked against multislice, or failed.

    Parameters
    ----------
    microscope : Microscope
        Drawn microscope.

    Returns
    -------
    dict
        Largest relative rms deviation on record, for each detector.

    Raises
    ------
    FieldError
        Naming the detector with its error on record, or a probe wider than those that were checked.
    """
    held, convergence = record(), number(microscope.convergence)
    width, widest = microscope.wavelength / (convergence * 1e-3), float(held["checked"]["probe_widest"])
    if width > widest * 1.001:
        raise FieldError(f"microscope.convergence: {convergence:g} mrad makes a probe λ/α = {width:.2f} Å wide, and "
                         f"PRISM was checked up to {widest:.2f} Å; raise the convergence to at least "
                         f"{microscope.wavelength / widest * 1e3:.3g} mrad, or use physics: multislice")
    deviation = {}
    for name, angles in microscope.detector_angles().items():
        like = detector_class(angles, convergence)
        worst = float(held["worst"][like])
        if like not in held["offered"]:
            raise FieldError(
                f"microscope.detectors: {name} ({angles[0]:g}-{angles[1]:g} mrad) is like {like} in the check of "
                f"PRISM, whose relative rms error was {worst:.1%}; at most {held['limit']:.0%} is allowed. Offered: "
                f"{', '.join(held['offered']) or 'none'}. Remove the detector, or use physics: multislice")
        deviation[name] = worst
    return deviation
