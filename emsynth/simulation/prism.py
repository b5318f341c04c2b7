"""PRISM: every f-th plane wave of the aperture, and a window around each probe position.

With every f-th wave along each axis, the waves that they make at r are probes at r and at all places a window's side,
box/f, away. A window around r keeps the one (Ophus, Adv. Struct. Chem. Imaging 3, 13, 2017): f² times fewer waves go
through the specimen, for an error from the probe's tails and from what is scattered beyond the window. To propagate the
exit waves back to the middle of the specimen first, where they are narrower, was tried: it changes next to nothing.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from emsynth.draw import number
from emsynth.microscope import Microscope
from emsynth.simulation.plan import Plan, polar, positions, smooth_number, soft_disc
from emsynth.simulation.scattering import amplitude, series_to_picture

# Probe positions along each axis whose windows are summed together: they share most of their points.
_BLOCK = 6


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
    """

    def __init__(self, plan: Plan, microscope: Microscope, oversampling: float) -> None:
        self._plan, self._microscope, self._oversampling = plan, microscope, oversampling
        f = plan.interpolation
        outer = max(edge for _, edge in microscope.detector_angles().values()) * 1e-3
        # The grid of a window, as many points as the detectors' angles need, and of the box: f windows.
        sides = [side / f for side in plan.box]
        self._window = tuple(smooth_number(2 * math.ceil(outer * side / microscope.wavelength) + 3) for side in sides)
        self._grid = tuple(n * f for n in self._window)
        index = [np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in self._grid]
        held = [axis[np.abs(axis) <= n // 2 - 1] for axis, n in zip(index, plan.grid, strict=True)]
        self._held = np.ix_(held[0] % self._grid[0], held[1] % self._grid[1])
        rows, cols = (axis % n for axis, n in zip(held, plan.grid, strict=True))
        self.points = (rows[:, None] * plan.grid[1] + cols).ravel()
        self._counts = (len(held[0]), len(held[1]))
        own = [np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in self._window]
        seen = np.stack([part.ravel() for part in np.meshgrid(*own, indexing="ij")], axis=1)
        angle, azimuth = polar(seen, (sides[0], sides[1]), microscope.wavelength)
        self._weight = np.stack([
            soft_disc(angle, azimuth, high * 1e-3, (sides[0], sides[1]), microscope.wavelength)
            - soft_disc(angle, azimuth, low * 1e-3, (sides[0], sides[1]), microscope.wavelength)
            for low, high in microscope.detector_angles().values()]).astype(np.float32)

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
        counts = positions(self._plan)
        out = np.empty((len(exits), len(self._weight), *counts), np.float32)
        for plane, waves in enumerate(exits):
            out[plane] = self._signals(self._in_space(waves), counts)
        return series_to_picture(out, self._plan, self._microscope, self._oversampling)

    def _in_space(self, waves: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The waves in real space (beam, rows, cols)."""
        made = np.zeros((len(waves), *self._grid), np.complex64)
        for wave, spectrum in zip(made, waves, strict=True):
            wave[self._held] = spectrum.reshape(self._counts)
            wave[:] = scipy.fft.ifft2(wave, norm="forward")
        return made

    def _signals(self, waves: NDArray[np.complex64], counts: tuple[int, int]) -> NDArray[np.float32]:
        """Signal of each detector with the probe at each position, (detector, *counts)."""
        out = np.zeros((len(self._weight), *counts))
        nodes, shares = foci(self._plan, self._microscope)
        amplitudes = np.stack([amplitude(self._plan, self._microscope, float(node)) for node in nodes])
        for rows in _blocks(counts[0]):
            for cols in _blocks(counts[1]):
                out[:, rows, cols] = self._block(waves, (rows, cols), counts, amplitudes, shares)
        return out.astype(np.float32)

    def _block(self, waves: NDArray[np.complex64], block: tuple[slice, slice], counts: tuple[int, int],
               amplitudes: NDArray[np.complex128], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        # Positions in points of the box's grid, and the corner of each one's window.
        at = [np.arange(part.start, part.stop) * n / count
              for part, n, count in zip(block, self._grid, counts, strict=True)]
        corner = [np.floor(place).astype(np.int64) - n // 2 for place, n in zip(at, self._window, strict=True)]
        union = [np.arange(first[0], first[-1] + n) for first, n in zip(corner, self._window, strict=True)]
        some = waves[:, (union[0] % self._grid[0])[:, None], union[1] % self._grid[1]]
        phases = [np.exp(-2j * np.pi * np.outer(place / n, self._plan.beams[:, axis]))
                  for axis, (place, n) in enumerate(zip(at, self._grid, strict=True))]
        total = np.zeros((len(self._weight), len(at[0]), len(at[1])))
        for held, share in zip(amplitudes, shares, strict=True):
            weights = (held * phases[0][:, None] * phases[1]).reshape(-1, len(held)).astype(np.complex64)
            summed = (weights @ some.reshape(len(held), -1)).reshape(len(at[0]), len(at[1]), *some.shape[1:])
            windows = np.empty((len(at[0]), len(at[1]), *self._window), np.complex64)
            for i, row in enumerate(corner[0] - union[0][0]):
                for j, col in enumerate(corner[1] - union[1][0]):
                    windows[i, j] = summed[i, j, row:row + self._window[0], col:col + self._window[1]]
            spectrum = scipy.fft.fft2(windows, norm="forward", overwrite_x=True)
            power = (spectrum.real**2 + spectrum.imag**2).reshape(len(at[0]), len(at[1]), -1)
            total += share * np.moveaxis(power @ self._weight.T, -1, 0)
        return total


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


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(count, start + _BLOCK)) for start in range(0, count, _BLOCK)]
