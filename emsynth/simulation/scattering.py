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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsynth.draw import number
from emsynth.microscope import Microscope
from emsynth.simulation.plan import Plan, picture_shape, polar, soft_disc

_FOCAL_NODES = 7


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


def wave_classes(plan: Plan) -> list[NDArray[np.int64]]:
    """Waves grouped so that within a group all differences are reciprocal lattice vectors of the tile."""
    label = (plan.beams[:, 0] % plan.repeats[0]) * plan.repeats[1] + plan.beams[:, 1] % plan.repeats[1]
    return [np.flatnonzero(label == n) for n in np.unique(label)]


def products(waves: NDArray[np.complex64], points: Reciprocal,
             classes: list[NDArray[np.int64]]) -> NDArray[np.complex64]:
    """Scattering products M(k, k') of each detector.

    Parameters
    ----------
    waves : ndarray (wave, n), complex64
        Amplitude of each scattered wave at the points of reciprocal space.
    points : Reciprocal
        Those points with their detector weights.
    classes : list of ndarray
        The groups of `wave_classes`.

    Returns
    -------
    ndarray (detector, pair), complex64
        The pairs (k, k') of all groups in turn, k' running fastest.
    """
    out = []
    for weight in points.weight:
        seen = np.flatnonzero(weight)
        lit = waves[:, seen]
        out.append(np.concatenate([((lit[c] * weight[seen]) @ lit[c].conj().T).ravel() for c in classes]))
    return np.stack(out)


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
        self.tile = (plan.box[0] / plan.repeats[0], plan.box[1] / plan.repeats[1])
        classes = wave_classes(plan)
        first = np.concatenate([np.repeat(c, len(c)) for c in classes])
        second = np.concatenate([np.tile(c, len(c)) for c in classes])
        harmonic = (plan.beams[second] - plan.beams[first]) // np.asarray(plan.repeats)
        self.shape = picture_shape(plan, oversampling)
        wrapped = harmonic % np.asarray(self.shape)
        self._slot = wrapped[:, 0] * self.shape[1] + wrapped[:, 1]
        self._weight = _coherence(plan, microscope, first, second) * self._source(harmonic, microscope)

    def _source(self, harmonic: NDArray[np.int64], microscope: Microscope) -> NDArray[np.float64]:
        """Fourier transform of the Gaussian source at each harmonic of the tile."""
        deviation = number(microscope.source_size) / math.sqrt(8 * math.log(2))
        frequency = np.hypot(harmonic[:, 0] / self.tile[0], harmonic[:, 1] / self.tile[1])
        blur: NDArray[np.float64] = np.exp(-2 * (math.pi * deviation * frequency) ** 2)
        return blur

    def picture(self, products: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Picture of one tile.

        Parameters
        ----------
        products : ndarray (..., pair), complex64
            Scattering products of `products`, e.g. (thickness, detector, pair).

        Returns
        -------
        ndarray (..., H, W), float32
            Fraction of the beam.
        """
        size = self.shape[0] * self.shape[1]
        flat = products.reshape(-1, products.shape[-1])
        out = np.empty((len(flat), *self.shape), np.float32)
        for n, pairs in enumerate(flat):
            terms = pairs * self._weight
            series = (np.bincount(self._slot, terms.real, size) + 1j * np.bincount(self._slot, terms.imag, size))
            out[n] = np.fft.ifft2(series.reshape(self.shape)).real * size
        return out.reshape(*products.shape[:-1], *self.shape)


def _coherence(plan: Plan, microscope: Microscope, first: NDArray[np.int64],
               second: NDArray[np.int64]) -> NDArray[np.complex128]:
    """A(k) A*(k') of each pair, averaged over the spread of the focus by Gauss-Hermite quadrature."""
    angle, azimuth = polar(plan.beams, plan.box, microscope.wavelength)
    edge = number(microscope.convergence) * 1e-3
    aperture = soft_disc(angle, azimuth, edge, plan.box, microscope.wavelength)
    aperture /= math.sqrt(float(np.sum(aperture**2)))
    spread = number(microscope.focal_spread)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_FOCAL_NODES) if spread > 0 else (np.zeros(1), np.ones(1))
    total = np.zeros(len(first), np.complex128)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        amplitude = aperture * np.exp(-1j * microscope.aberration(angle, azimuth, float(node) * spread))
        total += weight * amplitude[first] * amplitude[second].conj()
    return total
