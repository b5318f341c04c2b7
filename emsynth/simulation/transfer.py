"""From exit waves to the images of a through-focus series: the objective lens and partial coherence, in NumPy.

With ψ(q) the exit wave, the image at defocus f is |F⁻¹[ψ(q) A(q) exp(-iχ(q; f))]|², averaged over the spread of the
focus. The average is taken as the sum of images on one fine grid of foci, with Gaussian weights: it holds for thick
specimens too, where the usual envelope of the transfer function knows only the interference with the direct beam. All
images of a series share the grid. The spread of the illumination's angles damps the interference of each wave with the
direct beam by exp(-½σ²|∇χ|²) (Frank, Optik 38, 519, 1973); what a wave loses of its own intensity by that is spread
evenly, so that the mean stays. Of interference between scattered waves that envelope is an approximation.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from emsynth.draw import number
from emsynth.microscope import TransmissionMicroscope
from emsynth.simulation.plan import Plan, angle_step, polar, smooth_number

# Standard deviations of the focus that the grid of foci reaches to, and how far the first alias of its sum lies beyond
# the fastest change of an image with the focus, in the same unit: together an error of 1e-4 of the interference.
_REACH = 3.8
_ALIAS = 4.3


class Lens:
    """An objective lens and its partial coherence.

    Parameters
    ----------
    plan : Plan
        The pass.
    microscope : TransmissionMicroscope
        Drawn microscope.

    Attributes
    ----------
    points : ndarray (n,), int64
        Indices into the plan's flattened (row, col) Fourier grid of all waves that the aperture lets through.
    shape : tuple of int
        (rows, cols) of the images of the box: fine enough for all their frequencies, twice those of the waves.
    """

    def __init__(self, plan: Plan, microscope: TransmissionMicroscope) -> None:
        self._microscope, self._box = microscope, plan.box
        rows, cols = (np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in plan.grid)
        index = np.stack([a.ravel() for a in np.meshgrid(rows, cols, indexing="ij")], axis=1)
        angle, azimuth = polar(index, plan.box, microscope.wavelength)
        edge = number(microscope.aperture) * 1e-3
        passed = np.clip((edge - angle) / angle_step(plan.box, azimuth, microscope.wavelength) + 0.5, 0.0, 1.0)
        self.points = np.flatnonzero(passed)
        index = index[self.points]
        self._angle, self._azimuth = angle[self.points], azimuth[self.points]
        self._aperture = np.sqrt(passed[self.points])
        reach = np.abs(index).max(axis=0)
        self.shape = (smooth_number(4 * reach[0] + 1), smooth_number(4 * reach[1] + 1))
        self._slot = (index[:, 0] % self.shape[0]) * self.shape[1] + index[:, 1] % self.shape[1]

    def foci(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Foci that are imaged (k,) in Å, and the weight of each in each image of the series (image, k)."""
        wanted, spread = self._microscope.defoci(), number(self._microscope.focal_spread)
        if spread == 0:
            return wanted, np.eye(len(wanted))
        # Phase that two waves of the image gain on each other per deviation of the focus.
        fastest = math.pi * float(np.max(self._angle)) ** 2 * spread / self._microscope.wavelength
        step = spread * min(1.0, 2 * math.pi / (fastest + _ALIAS))
        first, last = wanted[0] - _REACH * spread, wanted[-1] + _REACH * spread
        nodes = first + step * np.arange(math.ceil((last - first) / step) + 1)
        weight = np.exp(-0.5 * ((nodes - wanted[:, None]) / spread) ** 2)
        weight[np.abs(nodes - wanted[:, None]) > _REACH * spread + step] = 0.0
        return nodes, weight / weight.sum(axis=1, keepdims=True)

    def images(self, waves: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Images of the through-focus series.

        Parameters
        ----------
        waves : ndarray (plane, n), complex64
            Exit waves at `points`, of a wave of unit amplitude at the entrance.

        Returns
        -------
        ndarray (plane, image, rows, cols), float32
            Intensity relative to the incident beam, of the whole box.
        """
        nodes, weights = self.foci()
        out = np.zeros((len(waves), len(weights), *self.shape), np.float32)
        spectrum = np.zeros((len(waves), self.shape[0] * self.shape[1]), np.complex64)
        for node, weight in zip(nodes, weights.T, strict=True):
            transfer = self._transfer(node)
            spectrum[:, self._slot] = waves * transfer
            # The spread of the illumination takes contrast from a wave, and no electron.
            even = (np.abs(waves) ** 2 * (self._aperture**2 - np.abs(transfer) ** 2)).sum(axis=1)
            image = scipy.fft.ifft2(spectrum.reshape(len(waves), *self.shape), norm="forward")
            intensity = image.real**2 + image.imag**2 + even[:, None, None].astype(np.float32)
            for number_of_image in np.flatnonzero(weight > 0):
                out[:, number_of_image] += np.float32(weight[number_of_image]) * intensity
        return out

    def _transfer(self, defocus: float) -> NDArray[np.complex64]:
        """What the lens does to each wave at one focus."""
        at = self._microscope.model_copy(update={"defocus": float(defocus)})
        chi = at.aberration(self._angle, self._azimuth)
        damping = np.exp(-0.5 * (number(at.illumination) * 1e-3) ** 2 * self._slope_squared(at))
        transfer: NDArray[np.complex64] = (self._aperture * damping * np.exp(-1j * chi)).astype(np.complex64)
        return transfer

    def _slope_squared(self, at: TransmissionMicroscope) -> NDArray[np.float64]:
        """|∇χ|² with respect to the angle of incidence, in 1/rad², by central differences."""
        step = 1e-6
        x, y = self._angle * np.cos(self._azimuth), self._angle * np.sin(self._azimuth)

        def chi(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
            return at.aberration(np.hypot(x, y), np.arctan2(y, x))

        along_x, along_y = chi(x + step, y) - chi(x - step, y), chi(x, y + step) - chi(x, y - step)
        slope: NDArray[np.float64] = (along_x**2 + along_y**2) / (2 * step) ** 2
        return slope


def finished(images: NDArray[np.floating], plan: Plan, microscope: TransmissionMicroscope, oversampling: float,
             negligible: float = 1e-4) -> tuple[NDArray[np.float32], float]:
    """Pictures of one tile, oversampled, and their band limit in 1/Å.

    Parameters
    ----------
    images : ndarray (plane, image, rows, cols)
        Of the whole box.
    plan : Plan
        The pass; of several tiles in the box the mean is taken.
    microscope : TransmissionMicroscope
        Vibration and contrast.
    oversampling : float
        Samples per Nyquist interval.
    negligible : float
        What lies beyond the band limit is left out: of each picture, less than this part of its range (rms).
    """
    spectrum = scipy.fft.rfft2(images.astype(np.float64), norm="forward")
    rows = np.rint(np.fft.fftfreq(images.shape[-2]) * images.shape[-2]).astype(np.int64)
    cols = np.arange(spectrum.shape[-1])
    alike = [(n % r) == 0 for n, r in zip((rows, cols), plan.repeats, strict=True)]
    spectrum = spectrum[..., alike[0], :][..., alike[1]]
    rows, cols = rows[alike[0]] // plan.repeats[0], cols[alike[1]] // plan.repeats[1]
    tile = (plan.box[0] / plan.repeats[0], plan.box[1] / plan.repeats[1])
    frequency = np.hypot(rows[:, None] / tile[0], cols / tile[1])
    spectrum *= np.exp(-2 * (math.pi * number(microscope.vibration) * frequency) ** 2)
    flat = frequency > 0
    spectrum[..., flat] /= number(microscope.contrast)
    limit = _band(spectrum, frequency, cols, np.ptp(images, axis=(-2, -1)), negligible)
    spectrum[..., frequency > limit] = 0.0
    shape = [smooth_number(oversampling * (2 * max(1, math.ceil(limit * side)) + 1)) for side in tile]
    whole = np.zeros((*images.shape[:2], shape[0], shape[1] // 2 + 1), np.complex128)
    held = np.ix_(np.abs(rows) <= (shape[0] - 1) // 2, cols <= (shape[1] - 1) // 2)
    whole[..., rows[held[0][:, 0]][:, None] % shape[0], cols[held[1][0]]] = spectrum[..., held[0], held[1]]
    pictures: NDArray[np.float32] = scipy.fft.irfft2(whole, s=shape, norm="forward").astype(np.float32)
    return pictures, limit


def _band(spectrum: NDArray[np.complex128], frequency: NDArray[np.float64], cols: NDArray[np.int64],
          span: NDArray[np.float64], negligible: float) -> float:
    """Frequency in 1/Å beyond which no picture has anything worth keeping."""
    twice = np.where(cols > 0, 2.0, 1.0)  # the half of the spectrum that is not kept
    order = np.argsort(frequency, axis=None)
    power = (np.abs(spectrum) ** 2 * twice).reshape(*spectrum.shape[:2], -1)[..., order]
    beyond = np.cumsum(power[..., ::-1], axis=-1)[..., ::-1]
    limit = (negligible * np.maximum(span, 1e-12)) ** 2
    needed = np.flatnonzero(np.any(beyond > limit[..., None], axis=(0, 1)))
    lowest = float(frequency[frequency > 0].min())
    return max(float(frequency.ravel()[order[needed[-1]]]) if len(needed) else 0.0, lowest)
