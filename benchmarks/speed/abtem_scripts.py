"""STEM with abTEM alone: a competent script, and what a newcomer writes. Nothing of emsynth is in here.

Both take a `Setting` of plain numbers and arrays and give the fraction of the beam, (plane, detector, x, y).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import abtem
import abtem.core.fft
import dask
import numpy as np
from abtem.antialias import antialias_aperture
from abtem.core.fft import CachedFFTWConvolution
from abtem.potentials.iam import TransmissionFunction
from abtem.transfer import Aperture
from ase import Atoms
from numpy.typing import NDArray

# One thread, plans that cost nothing to make and are the same each time.
CONFIGURATION = {"fftw.planning_effort": "FFTW_ESTIMATE", "fftw.threads": 1, "device": "cpu", "precision": "float32",
                 "diagnostics.progress_bar": False, "fft": "fftw", "warnings.overspecified-grid": False}

class _Mkl:
    """mkl_fft 2 for abTEM 1.0.11, which calls it with a keyword of mkl_fft 1: mended, in abTEM's favour."""

    @staticmethod
    def __call__(name: str, x: Any, overwrite_x: bool, **how: Any) -> Any:
        import mkl_fft

        return getattr(mkl_fft, name)(x, **how, **({"out": x} if overwrite_x and x.dtype == np.complex64 else {}))

    def __getattr__(self, name: str) -> Any:
        return lambda x, overwrite_x=False, **how: self(name, x, overwrite_x, **how)


if abtem.core.fft.mkl_fft is not None:
    abtem.core.fft.mkl_fft = _Mkl()

Detection = Literal["weights", "annular", "flexible"]
Slices = Literal["transmission", "potential"]


@dataclass(frozen=True)
class Setting:
    """One simulation in abTEM's terms; pairs are (x, y).

    Attributes
    ----------
    atoms : ase.Atoms
        The box, x first, at rest.
    sigmas : dict
        Thermal displacement of each element along one axis, Å.
    seeds : tuple of int
        One frozen-phonon configuration each.
    gpts, slices, exit_planes
        Grid; number of slices; indices of the slices behind which is detected.
    energy, convergence, defocus, spherical
        eV, mrad, Å (positive is underfocus), Å.
    rings : tuple of (float, float)
        Inner and outer angle of each detector in mrad.
    weights : ndarray (detector, x, y), float32
        Part of each point of reciprocal space that lies on each detector, not shifted.
    cell : tuple of float
        Sides of the cell to be scanned, Å.
    positions : tuple of int
        Probe positions in it.
    projected : Callable
        Atoms to an `abtem.Potential` on a grid that is a whole number of times finer, on which it becomes a
        transmission function: the same one on both sides.
    """

    atoms: Atoms
    sigmas: dict[str, float]
    seeds: tuple[int, ...]
    gpts: tuple[int, int]
    slices: int
    exit_planes: tuple[int, ...]
    energy: float
    convergence: float
    defocus: float
    spherical: float
    rings: tuple[tuple[float, float], ...]
    weights: NDArray[np.float32]
    cell: tuple[float, float]
    positions: tuple[int, int]
    projected: Callable[[Atoms], abtem.Potential]


class EqualArea(Aperture):
    """abTEM's soft aperture with the root of the area as amplitude, so that a point on the rim passes its area."""

    def _evaluate_from_angular_grid(self, alpha: Any, phi: Any) -> Any:
        return np.sqrt(super()._evaluate_from_angular_grid(alpha, phi))


class WeightedDetectors(abtem.FlexibleAnnularDetector):
    """All detectors from one Fourier transform and one product of matrices; points on a rim count by their area.

    abTEM's own detectors take or leave a point whole, so that no ring of them is the same number as a ring whose rim is
    weighted. This one is, and it is faster than theirs: it is given to abTEM.
    """

    def __init__(self, weights: NDArray[np.float32], **kwargs: Any) -> None:
        self._weights = weights
        super().__init__(step_size=1.0, inner=0.0, outer=float(len(weights)))

    @property
    def weights(self) -> NDArray[np.float32]:
        """(detector, x, y); abTEM copies a detector by its arguments."""
        return self._weights

    def _calculate_new_array(self, waves: abtem.Waves) -> NDArray[np.float32]:
        spectrum = abtem.core.fft.fft2(waves.array, overwrite_x=False)
        # The probe is normalised to a sum of 1 over reciprocal space.
        intensity = spectrum.real**2 + spectrum.imag**2
        flat = intensity.reshape(*intensity.shape[:-2], -1)
        signals: NDArray[np.float32] = flat @ self._weights.reshape(len(self._weights), -1).T
        return signals[..., None]


class Transmission(TransmissionFunction):
    """Transmission functions that can be scanned through.

    The class of abTEM itself cannot: a scan copies the potential with arguments that it does not take. It is mended
    here because without it abTEM makes the transmission functions of all slices anew for each batch of probes.
    """

    def __init__(self, array: Any, slice_thickness: Any, extent: Any = None, sampling: Any = None, energy: Any = None,
                 exit_planes: Any = None, ensemble_axes_metadata: Any = None, metadata: Any = None) -> None:
        super().__init__(array, slice_thickness, extent, sampling, energy)
        self._exit_planes = exit_planes if exit_planes is not None else (len(self) - 1,)

    def generate_slices(self, first_slice: int = 0, last_slice: int | None = None) -> Iterator[TransmissionFunction]:
        """Slices in turn, each knowing whether something is detected behind it."""
        for n in range(first_slice, len(self) if last_slice is None else last_slice):
            made = TransmissionFunction(self.array[n][None], self.slice_thickness[n:n + 1], self.extent,
                                        energy=self.energy)
            made._exit_planes = (0,) if n in self.exit_planes else ()
            yield made


def displaced(setting: Setting) -> Iterator[Atoms]:
    """Atoms of each frozen-phonon configuration, none of them beyond the top or bottom of the box."""
    for seed in setting.seeds:
        atoms = abtem.FrozenPhonons(setting.atoms, 1, sigmas=setting.sigmas, seed=seed).randomize(setting.atoms)
        atoms.positions[:, 2] = np.clip(atoms.positions[:, 2], 0, atoms.cell.lengths()[2] * (1 - 1e-9))
        yield atoms


def transmission(setting: Setting, atoms: Atoms) -> TransmissionFunction:
    """Band-limited transmission functions of all slices, made on the fine grid, once for all probes."""
    projected = setting.projected(atoms)
    fine = np.prod(projected.base_shape[-2:]) / np.prod(setting.gpts)
    thickness = atoms.cell.lengths()[2] / setting.slices
    extent = tuple(float(side) for side in atoms.cell.lengths()[:2])
    kept = [np.rint(np.fft.fftfreq(n) * n).astype(int) for n in setting.gpts]
    aperture = antialias_aperture(setting.gpts, (extent[0] / setting.gpts[0], extent[1] / setting.gpts[1]), np)
    aperture = (aperture / fine).astype(np.float32)
    array = np.empty((setting.slices, *setting.gpts), np.complex64)
    for out, part in zip(array, projected.generate_slices(), strict=True):
        spectrum = abtem.core.fft.fft2(part.transmission_function(energy=setting.energy).array[0], overwrite_x=True)
        out[:] = abtem.core.fft.ifft2(spectrum[np.ix_(*kept)] * aperture, overwrite_x=True)
    return Transmission(array, thickness, extent, energy=setting.energy, exit_planes=setting.exit_planes)


def potential(setting: Setting, atoms: Atoms) -> Any:
    """Potential as abTEM makes it, on the waves' grid, built once for all probes."""
    thickness = atoms.cell.lengths()[2] / setting.slices
    return abtem.Potential(atoms, gpts=setting.gpts, slice_thickness=thickness, parametrization="lobato",
                           projection="infinite", exit_planes=setting.exit_planes).build(lazy=False)


def _detectors(setting: Setting, detection: Detection) -> list[Any]:
    if detection == "weights":
        return [WeightedDetectors(setting.weights)]
    if detection == "annular":
        return [abtem.AnnularDetector(inner, outer) for inner, outer in setting.rings]
    return [abtem.FlexibleAnnularDetector(step_size=1.0)]


def _gathered(measured: Any, setting: Setting, detection: Detection, batch: int | None) -> NDArray[np.float32]:
    """Measurements as (plane, detector, x, y)."""
    found = measured if batch is None else measured.compute()
    found = list(found) if isinstance(found, list) else [found]
    planes = len(setting.exit_planes)
    if detection == "annular":
        return np.stack([one.array.reshape(planes, *setting.positions) for one in found], axis=1)
    if detection == "flexible":
        rings = [found[0].integrate_radial(inner, outer) for inner, outer in setting.rings]
        return np.stack([one.array.reshape(planes, *setting.positions) for one in rings], axis=1)
    array = found[0].array.reshape(planes, *setting.positions, -1)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def competent(setting: Setting, detection: Detection = "weights", slices: Slices = "transmission",
              batch: int | None = 16, **changes: Any) -> NDArray[np.float32]:
    """One cell scanned once: all detectors, all exit planes, potentials built once.

    Parameters
    ----------
    setting : Setting
        What is simulated.
    detection : str
        ``"weights"``, all detectors from one transform; ``"annular"``, abTEM's detector for each ring; ``"flexible"``,
        its rings of 1 mrad, added up afterwards.
    slices : str
        ``"transmission"``, transmission functions made once; ``"potential"``, abTEM's own potential, from which it
        makes them anew for each batch.
    batch : int or None
        Probes at a time, through Dask; None for all of them at once, without it.
    **changes
        Of abTEM's configuration.

    Returns
    -------
    ndarray (plane, detector, x, y), float32
        Mean over the configurations.
    """
    with dask.config.set(scheduler="synchronous"), abtem.config.set(CONFIGURATION | changes):
        probe = abtem.Probe(energy=setting.energy, aperture=EqualArea(setting.convergence),
                            aberrations={"C10": -setting.defocus, "C30": setting.spherical})
        scan = abtem.GridScan((0, 0), setting.cell, gpts=setting.positions, endpoint=False)
        total = np.zeros((len(setting.exit_planes), len(setting.rings), *setting.positions))
        for atoms in displaced(setting):
            through = transmission(setting, atoms) if slices == "transmission" else potential(setting, atoms)
            measured = probe.scan(through, scan=scan, detectors=_detectors(setting, detection), lazy=batch is not None,
                                  max_batch="auto" if batch is None else batch)
            total += _gathered(measured, setting, detection, batch)
        return (total / len(setting.seeds)).astype(np.float32)


@contextmanager
def kept_plans() -> Iterator[None]:
    """A mended abTEM, with the Fourier plans of a batch kept over its slices.

    Its `CachedFFTWConvolution` means to, but never notes the shape that its plans are for, and so plans anew at every
    slice. No script of a user would do this; here it says what that costs.
    """
    kept: Any = CachedFFTWConvolution
    original = kept.__call__

    def call(self: Any, array: Any, kernel: Any, overwrite_x: bool) -> Any:
        self._shape = array.shape
        return original(self, array, kernel, overwrite_x)

    kept.__call__ = call
    try:
        yield
    finally:
        kept.__call__ = original


@dataclass(frozen=True)
class Estimate:
    """CPU seconds of a long scan, from some of its positions: of each position, and of what comes before."""

    seconds: float
    position: float
    start: float
    positions: int


def newcomer(atoms: Atoms, setting: Setting, ring: tuple[float, float], few: int, more: int) -> Estimate:
    """What a first script does: ``sampling=0.05``, slices of 1 Å, the whole field scanned, one detector, one thickness.

    Parameters
    ----------
    atoms : ase.Atoms
        A field as large as the picture.
    setting : Setting
        Thermal displacements, energy, convergence, defocus and seeds are taken from it.
    ring : tuple of float
        The detector in mrad.
    few, more : int
        Positions in a row that are run, once each: the work of a position is the same everywhere. What abTEM does again
        for each of its batches is counted once.

    Returns
    -------
    Estimate
        CPU seconds of one image with all of the setting's configurations.
    """
    changes = {"diagnostics.progress_bar": False, "fftw.threads": 1, "warnings.overspecified-grid": False}
    with dask.config.set(scheduler="synchronous"), abtem.config.set(changes):
        phonons = abtem.FrozenPhonons(atoms, num_configs=1, sigmas=setting.sigmas, seed=setting.seeds[0])
        width, height = (float(side) for side in atoms.cell.lengths()[:2])
        probe = abtem.Probe(energy=setting.energy, semiangle_cutoff=setting.convergence, defocus=setting.defocus)
        # Nyquist's distance, as abTEM chooses it where no other is given.
        step = float(probe.aperture.nyquist_sampling)
        spent = []
        for count in (few, more):
            start = time.process_time()
            through = abtem.Potential(phonons, sampling=0.05)
            row = abtem.GridScan((0, 0), (step, count * step), gpts=(1, count), endpoint=False)
            measured: Any = probe.scan(through, scan=row, detectors=abtem.AnnularDetector(*ring))
            measured.compute()
            spent.append(time.process_time() - start)
    each = (spent[1] - spent[0]) / (more - few)
    positions = math.ceil(width / step) * math.ceil(height / step)
    before = max(0.0, spent[0] - few * each)
    return Estimate((before + positions * each) * len(setting.seeds), each, before, positions)
