"""From scattered plane waves to pictures, for any probe: the reduction of a scattering matrix, in NumPy.

A probe is a sum of plane waves with amplitudes A(k). With S(k, q) the amplitude at angle q behind the specimen of
plane wave k, the signal of a detector D with the probe at r is

    I(r) = Σ_q D(q) |Σ_k A(k) e^(-2πi k·r) S(k, q)|² = Σ_G e^(2πi G·r) Σ_{k' - k = G} A(k) A*(k') M(k, k'),
    M(k, k') = Σ_q D(q) S(k, q) S*(k', q).

This is multislice by superposition (PRISM of Ophus, Adv. Struct. Chem. Imaging 3, 13, 2017, at interpolation 1: no
approximation), brought to the form of Hopkins' transmission cross coefficients (Proc. R. Soc. A 217, 408, 1953). The
products M do not know the probe, and the sum over G is the exact Fourier series of the picture up to its band limit
2α/λ. Where the box holds several tiles of a crystal, only pairs of waves whose difference is a reciprocal lattice
vector of the tile can contribute to the picture that all tiles share: the rest is left out, which is the mean over all
tiles in the box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth.draw import number
from emsynth.microscope import Microscope
from emsynth.simulation.plan import Plan, picture_shape, polar, positions, soft_disc

# Pairs of waves that are worked on together, and up to how many their weights are kept.
_BLOCK_PAIRS, _KEPT_PAIRS = 2_000_000, 4_000_000


@dataclass(frozen=True)
class Reciprocal:
    """The points of reciprocal space that some detector uses.

    Attributes
    ----------
    flat : ndarray (n,), int
        Indices into the flattened (row, col) Fourier grid.
    weight : ndarray (detector, n), float32
        Part of each point that lies on each detector.
    """

    flat: NDArray[np.int64]
    weight: NDArray[np.float32]


def reciprocal(plan: Plan, microscope: Microscope) -> Reciprocal:
    """Detector weights on the plan's Fourier grid, points that no detector uses left out."""
    rows, cols = (np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in plan.grid)
    index = np.stack([a.ravel() for a in np.meshgrid(rows, cols, indexing="ij")], axis=1)
    angle, azimuth = polar(index, plan.box, microscope.wavelength)
    weight = np.stack([
        soft_disc(angle, azimuth, outer * 1e-3, plan.box, microscope.wavelength)
        - soft_disc(angle, azimuth, inner * 1e-3, plan.box, microscope.wavelength)
        for inner, outer in microscope.detector_angles().values()])
    used = np.flatnonzero(weight.any(axis=0))
    return Reciprocal(used, weight[:, used].astype(np.float32))


class Probe:
    """How pairs of plane waves add up to a picture, for one microscope.

    Parameters
    ----------
    plan : Plan
        The pass.
    microscope : Microscope
        Drawn microscope.
    oversampling : float
        Samples per Nyquist interval of the picture.
    """

    def __init__(self, plan: Plan, microscope: Microscope, oversampling: float) -> None:
        self.shape = picture_shape(plan, oversampling)
        self._plan, self._microscope = plan, microscope
        self._tile = (plan.box[0] / plan.repeats[0], plan.box[1] / plan.repeats[1])
        self._groups = plan.wave_classes()
        few = sum(len(group) ** 2 for group in self._groups) <= _KEPT_PAIRS
        # The same for every plane and configuration; of very many pairs they are worked out anew.
        self._kept = [list(self._blocks(group)) for group in self._groups] if few else None

    def series(self, group: int, waves: NDArray[np.complex64], points: Reciprocal) -> NDArray[np.complex128]:
        """What one class of waves adds to the Fourier series of the pictures.

        Parameters
        ----------
        group : int
            Number of the class in `Plan.wave_classes`.
        waves : ndarray (wave, n), complex64
            Amplitude of each scattered wave of the class at the points of reciprocal space.
        points : Reciprocal
            Those points with their detector weights.

        Returns
        -------
        ndarray (detector, H·W), complex128
            Its inverse transform has the right real part: of two pairs (k, k') and (k', k) one is left out, and the
            other counts twice.
        """
        size = self.shape[0] * self.shape[1]
        out = np.zeros((len(points.weight), size), np.complex128)
        for row, weight in zip(out, points.weight, strict=True):
            seen = np.flatnonzero(weight)
            lit = np.ascontiguousarray(waves[:, seen])
            for rows, slot, share in self._kept[group] if self._kept else self._blocks(self._groups[group]):
                # The conjugate of M(k, k') for all k of the rows, from the first of them on for k'.
                pairs = ((lit[rows].conj() * weight[seen]) @ lit[rows.start:].T).conj().ravel() * share
                row.real += np.bincount(slot, pairs.real, size)
                row.imag += np.bincount(slot, pairs.imag, size)
        return out

    def _blocks(self, group: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.complex128]]]:
        """Some rows of the pairs at a time: which, where each pair belongs, and its weight."""
        step = max(1, _BLOCK_PAIRS // len(group))
        for start in range(0, len(group), step):
            rows = slice(start, min(len(group), start + step))
            first, second = np.repeat(group[rows], len(group) - start), np.tile(group[start:], rows.stop - start)
            harmonic = (self._plan.beams[second] - self._plan.beams[first]) // np.asarray(self._plan.repeats)
            wrapped = harmonic % np.asarray(self.shape)
            weight = _coherence(self._plan, self._microscope, first, second)
            weight *= _source(harmonic, self._tile, self._microscope)
            # Pairs within the rows come twice as it is.
            twice = np.ones(len(group) - start)
            twice[rows.stop - start:] = 2.0
            yield rows, wrapped[:, 0] * self.shape[1] + wrapped[:, 1], weight * np.tile(twice, rows.stop - start)

    def picture(self, series: NDArray[np.complex128]) -> NDArray[np.float32]:
        """Pictures (..., H, W) of one tile, fraction of the beam, from their whole Fourier series (..., H·W)."""
        series = series.reshape(*series.shape[:-1], *self.shape)
        return np.fft.ifft2(series, norm="forward").real.astype(np.float32)


class Scan:
    """Probe positions over one tile, and the picture that their signals determine.

    Parameters
    ----------
    plan : Plan
        The pass.
    microscope : Microscope
        Drawn microscope, its focus without spread.
    oversampling : float
        Samples per Nyquist interval of the picture.

    Attributes
    ----------
    amplitudes : ndarray (position, beam), complex128
        Of the plane waves that make the probe, positions in row-major order.
    """

    def __init__(self, plan: Plan, microscope: Microscope, oversampling: float) -> None:
        self._plan, self._microscope, self._oversampling = plan, microscope, oversampling
        self._counts = positions(plan)
        steps = np.meshgrid(*(np.arange(n) / n / r for n, r in zip(self._counts, plan.repeats, strict=True)),
                            indexing="ij")
        at = np.stack([part.ravel() for part in steps], axis=1)
        self.amplitudes = amplitude(plan, microscope) * np.exp(-2j * np.pi * at @ plan.beams.T)

    def picture(self, signals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pictures (plane, detector, H, W) of the tile from `signals (plane, position, detector)`."""
        planes, _, detectors = signals.shape
        seen = np.moveaxis(signals.reshape(planes, *self._counts, detectors), -1, 1)
        return series_to_picture(seen, self._plan, self._microscope, self._oversampling)


def series_to_picture(signals: NDArray[np.floating], plan: Plan, microscope: Microscope,
                      oversampling: float) -> NDArray[np.float32]:
    """Pictures (..., H, W) of a tile from the signals (..., rows, cols) at its probe positions, blurred by the source.

    The positions are as many as determine the Fourier series; see `plan.positions`.
    """
    counts, shape = signals.shape[-2:], picture_shape(plan, oversampling)
    tile = (plan.box[0] / plan.repeats[0], plan.box[1] / plan.repeats[1])
    rows, cols = (np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in counts)
    harmonic = np.stack([part.ravel() for part in np.meshgrid(rows, cols, indexing="ij")], axis=1)
    series = np.fft.fft2(signals.astype(np.float64), norm="forward").reshape(*signals.shape[:-2], -1)
    whole = np.zeros((*signals.shape[:-2], shape[0] * shape[1]), np.complex128)
    slot = (harmonic[:, 0] % shape[0]) * shape[1] + harmonic[:, 1] % shape[1]
    whole[..., slot] = series * _source(harmonic, tile, microscope)
    whole = whole.reshape(*signals.shape[:-2], *shape)
    picture: NDArray[np.float32] = np.fft.ifft2(whole, norm="forward").real.astype(np.float32)
    return picture


def _source(harmonic: NDArray[np.int64], tile: tuple[float, float], microscope: Microscope) -> NDArray[np.float64]:
    """Fourier transform of the Gaussian source at harmonics of the tile."""
    deviation = number(microscope.source_size) / math.sqrt(8 * math.log(2))
    frequency = np.hypot(harmonic[:, 0] / tile[0], harmonic[:, 1] / tile[1])
    blur: NDArray[np.float64] = np.exp(-2 * (math.pi * deviation * frequency) ** 2)
    return blur


def _coherence(plan: Plan, microscope: Microscope, first: NDArray[np.int64],
               second: NDArray[np.int64]) -> NDArray[np.complex128]:
    """A(k) A*(k') of each pair, averaged over the spread of the focus.

    χ is linear in the focus, so the mean over a normal spread σ is exact: exp(-½ (πσ/λ)² (α² - α'²)²) times the product
    at the mean focus. A point on the rim of the aperture passes the intensity that its area inside does, the root of it
    in amplitude.
    """
    angle, _ = polar(plan.beams, plan.box, microscope.wavelength)
    weight = amplitude(plan, microscope)
    apart = math.pi * number(microscope.focal_spread) / microscope.wavelength * (angle[first] ** 2 - angle[second] ** 2)
    coherent: NDArray[np.complex128] = weight[first] * weight[second].conj() * np.exp(-(apart**2) / 2)
    return coherent


def amplitude(plan: Plan, microscope: Microscope, defocus: float | None = None) -> NDArray[np.complex128]:
    """Amplitude A(k) of each plane wave in a probe of unit intensity, at the mean focus or at a given one in Å."""
    angle, azimuth = polar(plan.beams, plan.box, microscope.wavelength)
    edge = number(microscope.convergence) * 1e-3
    # With every f-th wave, a point stands for the area of f² of them.
    coarse = (plan.box[0] / plan.interpolation, plan.box[1] / plan.interpolation)
    aperture = np.sqrt(soft_disc(angle, azimuth, edge, coarse, microscope.wavelength))
    aperture /= math.sqrt(float(np.sum(aperture**2)))
    at = microscope if defocus is None else microscope.model_copy(update={"defocus": defocus})
    made: NDArray[np.complex128] = aperture * np.exp(-1j * at.aberration(angle, azimuth))
    return made
