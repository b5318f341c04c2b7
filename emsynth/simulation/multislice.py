"""Multislice of a specimen with abTEM: plane waves through frozen-phonon potentials, one pass for everything.

This is the only file that imports abTEM, and the only one that knows that abTEM's arrays are x-first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import abtem
import dask
import numpy as np
import scipy.fft
from abtem.antialias import antialias_aperture
from abtem.integrals import ScatteringFactorProjectionIntegrals
from abtem.multislice import FresnelPropagator
from abtem.potentials.iam import PotentialArray
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from emsynth.draw import Streams, number
from emsynth.microscope import Microscope
from emsynth.simulation.field import Field
from emsynth.simulation.plan import Plan, Simulation, plan_for
from emsynth.simulation.scattering import Probe, Reciprocal, products, reciprocal
from emsynth.specimen.base import Specimen

# A few waves at a time run from the cache.
_BATCH = 8
# One thread and plans that are the same each time: the same bytes each time. And abTEM's own defaults for all that
# changes numbers, whatever configuration a user has set for abTEM elsewhere.
_SETTINGS = {"fftw.planning_effort": "FFTW_ESTIMATE", "fftw.threads": 1, "device": "cpu", "precision": "float32",
             "diagnostics.progress_bar": False, "fft": "fftw", "antialias.cutoff": 0.6666666, "antialias.taper": 0.01,
             "warnings.overspecified-grid": False}


@dataclass(frozen=True)
class Accuracy:
    """What the phonon average reached.

    Attributes
    ----------
    configurations : int
        Frozen-phonon configurations that were averaged; 0 for a static lattice.
    standard_error : dict
        Standard error of the phonon mean on each detector: rms over the picture, as a fraction of its mean, at
        the worst thickness.
    """

    configurations: int
    standard_error: dict[str, float]


def simulate(specimen: Specimen, microscope: Microscope, settings: Simulation, streams: Streams) -> Field:
    """Simulate one field.

    Parameters
    ----------
    specimen : Specimen
        Atoms in their box.
    microscope : Microscope
        Drawn microscope.
    settings : Simulation
        Grid, exit planes, phonons.
    streams : Streams
        Random streams of the field; the phonons use the stream ``"phonons"``.

    Returns
    -------
    Field
        All detectors at all exit planes.

    Raises
    ------
    FieldError
        Where a detector reaches beyond the simulated angle.
    """
    planned = plan_for(specimen, microscope, settings)
    with threadpool_limits(1), dask.config.set(scheduler="synchronous"), abtem.config.set(_SETTINGS):
        image, accuracy = _average(specimen, planned, microscope, settings, streams)
    sampling = (planned.box[0] / planned.repeats[0] / image.shape[-2],
                planned.box[1] / planned.repeats[1] / image.shape[-1])
    return Field(
        image=image, sampling=sampling, periodic=True, columns=specimen.columns,
        thickness=np.clip(np.array(planned.planes) * (planned.depth / planned.slices) - specimen.entrance, 0.0,
                          specimen.thickness),
        detectors=tuple(microscope.detector_angles()), band_limit=microscope.band_limit, mistilt=specimen.mistilt,
        entrance=specimen.entrance, repeats=specimen.kind == "crystal",
        provenance=_provenance(specimen, planned, microscope, settings, accuracy))


def _average(specimen: Specimen, planned: Plan, microscope: Microscope, settings: Simulation,
             streams: Streams) -> tuple[NDArray[np.float32], Accuracy]:
    """Mean picture over frozen phonons, taken until the tolerance is met."""
    points = reciprocal(planned, microscope)
    probe = Probe(planned, microscope, settings.oversampling)
    judged = int(np.argmax([inner for inner, _ in microscope.detector_angles().values()]))
    phonons = settings.phonons
    seeds = streams.generator("phonons").integers(2**31, size=max(1, phonons.maximum))
    mean = np.zeros(0)
    spread = np.zeros(0)
    for n, seed in enumerate(seeds, start=1):
        image = _picture(specimen, planned, microscope, points, probe, int(seed) if phonons.maximum else None)
        if n == 1:
            mean, spread = image.astype(np.float64), np.zeros(image.shape)
        else:  # Welford's update keeps two arrays, however many configurations there are.
            step = image - mean
            mean += step / n
            spread += step * (image - mean)
        error = _standard_error(mean, spread, n)
        if n >= max(2, phonons.minimum) and error[judged] <= phonons.tolerance:
            break
    reached = dict(zip(microscope.detector_angles(), (float(e) for e in error), strict=True))
    return mean.astype(np.float32), Accuracy(n if phonons.maximum else 0, reached if phonons.maximum else {})


def _standard_error(mean: NDArray[np.float64], spread: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Standard error of the mean per detector: rms over the picture by its mean, at the worst thickness."""
    if count < 2:
        return np.full(mean.shape[1], np.inf)
    variance = (spread / (count - 1) / count).mean(axis=(-2, -1))
    error: NDArray[np.float64] = (np.sqrt(variance) / mean.mean(axis=(-2, -1))).max(axis=0)
    return error


def _picture(specimen: Specimen, planned: Plan, microscope: Microscope, points: Reciprocal, probe: Probe,
             seed: int | None) -> NDArray[np.float32]:
    """Pictures (thickness, detector, H, W) of one phonon configuration."""
    passage = _Passage(specimen, planned, microscope, seed)
    # x-first to (row, col), here and in the plane waves of _Passage, and nowhere else.
    row, col = np.divmod(points.flat, planned.grid[1])
    used = col * planned.grid[0] + row
    series = np.zeros((len(planned.planes), len(points.weight), probe.shape[0] * probe.shape[1]), np.complex128)
    # One class of waves at a time: only waves of one class meet in a product, and all of them need much memory.
    for number_of_class, group in enumerate(planned.wave_classes()):
        waves = np.empty((len(planned.planes), len(group), len(used)), np.complex64)
        for start in range(0, len(group), _BATCH):
            batch = slice(start, start + _BATCH)
            for plane, spectrum in passage.exit_spectra(planned.beams[group[batch]]):
                np.take(spectrum, used, axis=1, out=waves[plane, batch])
        waves /= np.float32(planned.grid[0] * planned.grid[1])
        for plane, exit_waves in enumerate(waves):
            series[plane] += probe.series(number_of_class, products(exit_waves, points))
    return probe.picture(series)


class ExactProjection(ScatteringFactorProjectionIntegrals):
    """Infinite projection of abTEM's atomic potentials, with exact phases for positions between grid points.

    abTEM spreads each atom linearly over the four nearest grid points and divides by a sinc: at the largest angle that
    the grid carries, an atom on a point then scatters 1.21 and one between two points 0.60 of its amplitude. Here the
    structure factor Σ exp(-2πi k·r) of each slice is summed as a product of matrices, at every k.
    """

    def integrate_on_grid(self, atoms: Atoms, a: float, b: float, gpts: tuple[int, int],
                          sampling: tuple[float, float], device: str = "cpu") -> NDArray[np.float32]:
        """Projected potential in V·Å of all `atoms`, on a grid (x, y); abTEM chooses atoms by slice."""
        spectrum = np.zeros(gpts, np.complex64)
        waves = [-2j * np.pi * np.fft.fftfreq(n, d) for n, d in zip(gpts, sampling, strict=True)]
        for element in np.unique(atoms.numbers):
            x, y = atoms.positions[atoms.numbers == element, :2].T
            # Phases in double precision: a product of hundreds of Å with 1/Å loses its decimals in single.
            phases = [np.exp(np.outer(wave, r)).astype(np.complex64) for wave, r in zip(waves, (x, y), strict=True)]
            spectrum += (phases[0] @ phases[1].T) * self.get_scattering_factor(
                chemical_symbols[element], gpts, sampling, device)
        projected: NDArray[np.float32] = scipy.fft.ifft2(spectrum).real / np.float32(sampling[0] * sampling[1])
        return projected


def potential(atoms: Atoms, planned: Plan) -> abtem.Potential:
    """Potential of a box in the slices of a plan, on a grid `planned.refinement` times finer than the waves'."""
    rows, cols = (n * planned.refinement for n in planned.grid)
    return abtem.Potential(atoms, gpts=(cols, rows), slice_thickness=planned.depth / planned.slices,
                           parametrization="lobato", projection="infinite", integrator=ExactProjection("lobato"))


def _displaced(specimen: Specimen, seed: int) -> Atoms:
    """Atoms of one frozen-phonon configuration, none of them beyond the top or bottom of the box."""
    sigmas = {symbol: specimen.thermal[symbol] for symbol in sorted(set(specimen.atoms.get_chemical_symbols()))}
    atoms = abtem.FrozenPhonons(specimen.atoms, 1, sigmas=sigmas, seed=seed).randomize(specimen.atoms)
    depth = atoms.cell.lengths()[2]
    atoms.positions[:, 2] = np.clip(atoms.positions[:, 2], 0.0, depth * (1 - 1e-9))
    return atoms


def _transmission(part: PotentialArray, planned: Plan, energy: float) -> NDArray[np.complex64]:
    """Transmission function of a slice (x, y), band-limited, brought from the potential's grid to the waves'.

    exp(iσV) has frequencies far beyond those of V. On the waves' own grid they fold back: a gold atom's scattering
    beyond 60 mrad would change by a fifth with its position on a grid of 0.1 Å. On the finer grid they do not.
    """
    spectrum = scipy.fft.fft2(part.transmission_function(energy=energy).array[0])
    kept = (np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in planned.grid[::-1])
    spectrum = spectrum[np.ix_(*kept)] / np.float32(planned.refinement**2)
    sampling = (planned.box[1] / planned.grid[1], planned.box[0] / planned.grid[0])
    spectrum *= antialias_aperture(planned.grid[::-1], sampling, np)
    limited: NDArray[np.complex64] = scipy.fft.ifft2(spectrum).astype(np.complex64)
    return limited


class _Passage:
    """One frozen-phonon configuration of a specimen, ready to let plane waves through.

    Potential, transmission functions and propagator are abTEM's. The loop over the slices is here because abTEM's
    plans its transforms anew in every slice; SciPy's are twice as fast, and the same bytes each time.
    """

    def __init__(self, specimen: Specimen, planned: Plan, microscope: Microscope, seed: int | None) -> None:
        self._planned = planned
        self._planes = {after: plane for plane, after in enumerate(planned.planes)}
        energy = number(microscope.energy)
        atoms = specimen.atoms if seed is None else _displaced(specimen, seed)
        self._transmission = [_transmission(part, planned, energy)
                              for part in potential(atoms, planned).generate_slices()]
        # abTEM tilts the beam, not the specimen: in the frame of the columns the two are the same.
        tilt = {"base_tilt_x": specimen.mistilt[1], "base_tilt_y": specimen.mistilt[0]}
        frame = abtem.Waves(np.zeros(planned.grid[::-1], np.complex64), energy=energy, metadata=tilt,
                            extent=planned.box[::-1])
        # A slice acts at its top; half a slice of lead makes a tilted beam meet the atoms where they are on average.
        self._lead = [math.tan(tilt * 1e-3) * planned.depth / planned.slices / 2 / side
                      for tilt, side in zip(specimen.mistilt, planned.box, strict=True)]
        self._propagator = FresnelPropagator().get_array(frame, planned.depth / planned.slices)

    def exit_spectra(self, beams: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.complex64]]]:
        """Yield (plane number, unnormalised Fourier amplitudes (wave, x·y)) at each exit plane."""
        rows, cols = (np.arange(n) / n - lead for n, lead in zip(self._planned.grid, self._lead, strict=True))
        phase = beams[:, 1, None, None] * cols[:, None] + beams[:, 0, None, None] * rows
        waves = np.exp(2j * np.pi * phase).astype(np.complex64)
        for passed, transmission in enumerate(self._transmission, start=1):
            waves *= transmission
            spectrum = scipy.fft.fft2(waves, overwrite_x=True)
            spectrum *= self._propagator
            if passed in self._planes:
                yield self._planes[passed], spectrum.reshape(len(beams), -1)
            if passed < self._planned.planes[-1]:
                waves = scipy.fft.ifft2(spectrum, overwrite_x=True)


def _provenance(specimen: Specimen, planned: Plan, microscope: Microscope, settings: Simulation,
                accuracy: Accuracy) -> dict[str, Any]:
    return {
        "physics": "multislice",
        "method": "plane waves through abTEM multislice, superposed exactly (scattering matrix, interpolation 1)",
        "specimen": {"kind": specimen.kind, "structure": specimen.structure, "prototype": specimen.prototype,
                     "formula": specimen.atoms.get_chemical_formula("metal"), "thickness": specimen.thickness,
                     "mistilt": list(specimen.mistilt), **specimen.about},
        "microscope": microscope.model_dump(mode="json"),
        "simulate": settings.model_dump(mode="json"),
        "box": [*planned.box, planned.depth], "repeats": list(planned.repeats), "grid": list(planned.grid),
        "slices": planned.slices, "beams": len(planned.beams), "atoms": len(specimen.atoms),
        "phonon_configurations": accuracy.configurations, "standard_error": accuracy.standard_error,
    }
