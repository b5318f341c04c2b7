"""Multislice of a specimen with abTEM: plane waves through frozen-phonon potentials, one pass for everything.

This is the only file that imports abTEM, and the only one that knows that abTEM's arrays are x-first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import abtem
import dask
import numpy as np
import scipy.fft
from abtem.antialias import antialias_aperture
from abtem.integrals import ScatteringFactorProjectionIntegrals
from abtem.multislice import FresnelPropagator
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from emsynth.draw import Streams, number
from emsynth.microscope import Instrument, Microscope
from emsynth.simulation.backend import backend, name_of, transforms
from emsynth.simulation.field import Field
from emsynth.simulation.phonons import Accuracy, average
from emsynth.simulation.plan import TOGETHER, Plan, Simulation, plan_for
from emsynth.simulation.prism import Windowed, detector_class, record
from emsynth.simulation.scattering import Probe, Scan, reciprocal
from emsynth.specimen.base import Specimen
from emsynth.specimen.classes import class_map

# One thread and plans that are the same each time: the same bytes each time. And abTEM's own defaults for all that
# changes numbers, whatever configuration a user has set for abTEM elsewhere.
_SETTINGS = {"fftw.planning_effort": "FFTW_ESTIMATE", "fftw.threads": 1, "device": "cpu", "precision": "float32",
             "diagnostics.progress_bar": False, "fft": "fftw", "antialias.cutoff": 0.6666666, "antialias.taper": 0.01,
             "warnings.overspecified-grid": False}


@contextmanager
def settled() -> Iterator[None]:
    """While it lasts, abTEM and the libraries below it do the same each time, in one thread."""
    # MKL is loaded before its threads are limited.
    with transforms(), threadpool_limits(1), dask.config.set(scheduler="synchronous"), abtem.config.set(_SETTINGS):
        yield


def simulate(specimen: Specimen, microscope: Microscope, settings: Simulation, streams: Streams) -> Field:
    """Simulate the field of a scanned probe.

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
    how = _Positions if planned.positions else _Prism if planned.interpolation > 1 else _PlaneWaves
    scan = how(planned, microscope, settings)

    def picture(seed: int | None) -> NDArray[np.float32]:
        return scan.picture(Passage(specimen, planned, number(microscope.energy), settings, seed))

    angles = microscope.detector_angles()
    judged = int(np.argmax([inner for inner, _ in angles.values()]))
    with settled():
        image, accuracy = average(picture, settings.phonons, streams, tuple(angles), (judged,))
    return made_field(specimen, planned, microscope, image, accuracy, {
        "detectors": tuple(angles), "band_limit": microscope.band_limit, "method": scan.method,
        "physics": scan.physics, **scan.about}, settings)


def made_field(specimen: Specimen, planned: Plan, microscope: Instrument, image: NDArray[np.float32],
               accuracy: Accuracy, made: dict[str, Any], settings: Simulation) -> Field:
    """The field of a multislice pass; `made` names its detectors, its band limit, the method and whatever else."""
    tile = (planned.box[0] / planned.repeats[0], planned.box[1] / planned.repeats[1])
    sampling = (tile[0] / image.shape[-2], tile[1] / image.shape[-1])
    thickness = np.array(planned.planes) * (planned.depth / planned.slices) - specimen.entrance
    about = {key: value for key, value in made.items() if key not in ("detectors", "band_limit")}
    return Field(
        image=image, sampling=sampling, periodic=True, columns=specimen.columns,
        thickness=np.clip(thickness, 0.0, specimen.thickness), detectors=made["detectors"],
        band_limit=made["band_limit"], mistilt=specimen.mistilt, entrance=specimen.entrance, repeats=specimen.endless,
        classes=class_map(specimen),
        provenance=_provenance(specimen, planned, microscope, settings, accuracy) | about)


class _PlaneWaves:
    """Every plane wave of the aperture, and the products of what they become: all positions at once."""

    physics, about = "multislice", MappingProxyType[str, Any]({})
    method = "plane waves through abTEM multislice, superposed exactly (scattering matrix, interpolation 1)"

    def __init__(self, planned: Plan, microscope: Microscope, settings: Simulation) -> None:
        self._planned = planned
        self._points = reciprocal(planned, microscope)
        self._probe = Probe(planned, microscope, settings.oversampling)

    def picture(self, passage: Passage) -> NDArray[np.float32]:
        """Pictures (thickness, detector, H, W) of one phonon configuration."""
        planned, points, probe = self._planned, self._points, self._probe
        series = np.zeros((len(planned.planes), len(points.weight), probe.shape[0] * probe.shape[1]), np.complex128)
        # One class of waves at a time: only waves of one class meet in a product, and all of them need much memory.
        for number_of_class, group in enumerate(planned.wave_classes()):
            own = planned.beams[group]
            exits = passage.exits(len(own), partial(_plane_waves, passage, own), points.flat)
            for plane, waves in enumerate(exits):
                series[plane] += probe.series(number_of_class, waves, points)
        return probe.picture(series)


class _Prism:
    """Every f-th plane wave of the aperture, and a window around each probe position."""

    physics = "PRISM"
    method = "PRISM: every {f}-th plane wave through abTEM multislice, windows of {side:.1f} Å"

    def __init__(self, planned: Plan, microscope: Microscope, settings: Simulation) -> None:
        self._planned = planned
        self._windowed = Windowed(planned, microscope, settings.oversampling)
        classes = {name: detector_class(angles, number(microscope.convergence))
                   for name, angles in microscope.detector_angles().items()}
        self.about = {"deviation": {name: record()["worst"][like] for name, like in classes.items()}}
        self.method = self.method.format(f=planned.interpolation, side=min(planned.box) / planned.interpolation)

    def picture(self, passage: Passage) -> NDArray[np.float32]:
        """Pictures (thickness, detector, H, W) of one phonon configuration."""
        planned = self._planned
        exits = passage.exits(len(planned.beams), partial(_plane_waves, passage, planned.beams), self._windowed.points)
        return self._windowed.pictures(exits)


def _plane_waves(passage: Passage, beams: NDArray[np.int64], batch: slice) -> NDArray[np.complex64]:
    return passage.plane_waves(beams[batch])


def _superposed(passage: Passage, beams: NDArray[np.int64], amplitudes: NDArray[np.complex128],
                batch: slice) -> NDArray[np.complex64]:
    return passage.superposed(beams, amplitudes[batch])


class _Positions:
    """The probe itself, at Nyquist's distance over one tile: fewer waves where the tile is small."""

    physics, about = "multislice", MappingProxyType[str, Any]({})
    method = "probe positions through abTEM multislice, over one tile of the box"

    def __init__(self, planned: Plan, microscope: Microscope, settings: Simulation) -> None:
        self._planned = planned
        self._points = reciprocal(planned, microscope)
        self._scan = Scan(planned, microscope, settings.oversampling)

    def picture(self, passage: Passage) -> NDArray[np.float32]:
        """Pictures (thickness, detector, H, W) of one phonon configuration."""
        scan, signals = self._scan, []
        beams, amplitudes = self._planned.beams, scan.amplitudes
        for start in range(0, len(amplitudes), TOGETHER):
            some = amplitudes[start:start + TOGETHER]
            exits = passage.exits(len(some), partial(_superposed, passage, beams, some), self._points.flat)
            signals.append([np.abs(waves) ** 2 @ self._points.weight.T for waves in exits])
        # (plane, position, detector)
        return scan.picture(np.concatenate(signals, axis=1))


class ExactProjection(ScatteringFactorProjectionIntegrals):
    """Infinite projection of abTEM's atomic potentials, with exact phases for positions between grid points.

    abTEM spreads each atom linearly over the four nearest grid points and divides by a sinc: at the largest angle that
    the grid carries, an atom on a point then scatters 1.21 and one between two points 0.60 of its amplitude. Here the
    structure factor Σ exp(-2πi k·r) of each slice is summed as a product of matrices, at every k.

    Parameters
    ----------
    damping : dict, optional
        Root-mean-square displacement of each element along one axis in Å: its potential is that of the mean over
        thermal displacements u, f(k) exp(-2π²u²k²) (Debye and Waller).
    """

    def __init__(self, damping: dict[str, float] | None = None) -> None:
        super().__init__("lobato")
        self._damping = damping or {}

    def integrate_on_grid(self, atoms: Atoms, a: float, b: float, gpts: tuple[int, int],
                          sampling: tuple[float, float], device: str = "cpu") -> NDArray[np.float32]:
        """Projected potential in V·Å of all `atoms`, on a grid (x, y); abTEM chooses atoms by slice."""
        # The potential is real: one half of its spectrum will do.
        half = gpts[1] // 2 + 1
        spectrum = np.zeros((gpts[0], half), np.complex64)
        orders = np.rint(np.fft.fftfreq(gpts[0]) * gpts[0]), np.arange(half)
        sides = [n * d for n, d in zip(gpts, sampling, strict=True)]
        for element in np.unique(atoms.numbers):
            places = atoms.positions[atoms.numbers == element, :2] / sides
            phases = [_phases(order, place) for order, place in zip(orders, places.T, strict=True)]
            symbol = chemical_symbols[element]
            factor = self.get_scattering_factor(symbol, gpts, sampling, device)[:, :half]
            if self._damping:
                along = [np.exp(-2 * (np.pi * self._damping[symbol] * order / side) ** 2)
                         for order, side in zip(orders, sides, strict=True)]
                factor = factor * np.outer(*along).astype(np.float32)
            spectrum += (phases[0] @ phases[1].T) * factor
        projected: NDArray[np.float32] = scipy.fft.irfft2(spectrum, s=gpts) / np.float32(sampling[0] * sampling[1])
        return projected


def _phases(order: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.complex64]:
    """exp(-2πi n x) for orders n and places x, (n, x)."""
    turns = np.outer(order, place)
    # Whole turns are taken off in double precision: hundreds of them would cost single precision its decimals.
    turns -= np.rint(turns)
    angle = (-2 * np.pi * turns).astype(np.float32)
    phases = np.empty(angle.shape, np.complex64)
    np.cos(angle, out=phases.real)
    np.sin(angle, out=phases.imag)
    return phases


def potential(atoms: Atoms, planned: Plan, damping: dict[str, float] | None = None) -> abtem.Potential:
    """Potential of a box in the slices of a plan, on a grid `planned.refinement` times finer than the waves'."""
    rows, cols = (n * planned.refinement for n in planned.grid)
    atoms = atoms.copy()
    atoms.cell[2, 2] = planned.depth
    return abtem.Potential(atoms, gpts=(cols, rows), slice_thickness=planned.depth / planned.slices,
                           parametrization="lobato", projection="infinite",
                           integrator=_projection(tuple(sorted((damping or {}).items()))))


@lru_cache(maxsize=4)
def _projection(damping: tuple[tuple[str, float], ...]) -> ExactProjection:
    # It keeps the scattering factors of its grid, the same for every configuration.
    return ExactProjection(dict(damping))


def _displaced(specimen: Specimen, seed: int) -> Atoms:
    """Atoms of one frozen-phonon configuration, none of them beyond the top or bottom of the box."""
    sigmas = {symbol: specimen.thermal[symbol] for symbol in sorted(set(specimen.atoms.get_chemical_symbols()))}
    atoms = abtem.FrozenPhonons(specimen.atoms, 1, sigmas=sigmas, seed=seed).randomize(specimen.atoms)
    depth = atoms.cell.lengths()[2]
    atoms.positions[:, 2] = np.clip(atoms.positions[:, 2], 0.0, depth * (1 - 1e-9))
    return atoms


def _transmissions(atoms: Atoms, planned: Plan, energy: float,
                   damping: dict[str, float] | None) -> Iterator[NDArray[np.complex64]]:
    """Transmission function of each slice (x, y), band-limited, brought from the potential's grid to the waves'.

    exp(iσV) has frequencies far beyond those of V. On the waves' own grid they fold back: a gold atom's scattering
    beyond 60 mrad would change by a fifth with its position on a grid of 0.1 Å. On the finer grid they do not.
    """
    sampling = (planned.box[1] / planned.grid[1], planned.box[0] / planned.grid[0])
    limit = antialias_aperture(planned.grid[::-1], sampling, np) / np.float32(planned.refinement**2)
    kept = [np.rint(np.fft.fftfreq(n) * n).astype(np.int64) for n in planned.grid[::-1]]
    for part in potential(atoms, planned, damping).generate_slices():
        # What is not kept along x need not be transformed along y.
        along_x = scipy.fft.fft(part.transmission_function(energy=energy).array[0], axis=0, overwrite_x=True)[kept[0]]
        spectrum = scipy.fft.fft(along_x, axis=1, overwrite_x=True)[:, kept[1]]
        spectrum *= limit
        yield scipy.fft.ifft2(spectrum, overwrite_x=True).astype(np.complex64, copy=False)


class Passage:
    """One configuration of a specimen, ready to let waves through.

    Potential, transmission functions and propagator are abTEM's. The loop over the slices is here because abTEM's
    plans its transforms anew in every slice; those of the backend are twice as fast, and the same bytes each time.

    Parameters
    ----------
    specimen : Specimen
        Atoms in their box.
    planned : Plan
        Grid and slices.
    energy : float
        Of the beam in eV.
    settings : Simulation
        Device and thermal model.
    seed : int or None
        Of the frozen phonons; None for a lattice that does not move.
    """

    def __init__(self, specimen: Specimen, planned: Plan, energy: float, settings: Simulation,
                 seed: int | None) -> None:
        self._planned = planned
        self._backend = backend(settings.device)
        self._planes = {after: plane for plane, after in enumerate(planned.planes)}
        atoms = specimen.atoms if seed is None else _displaced(specimen, seed)
        damping = specimen.thermal if settings.phonons.model == "debye_waller" else None
        arrays = self._backend.arrays
        self._transmission = [arrays.asarray(made) for made in _transmissions(atoms, planned, energy, damping)]
        # abTEM tilts the beam, not the specimen: in the frame of the columns the two are the same.
        tilt = {"base_tilt_x": specimen.mistilt[1], "base_tilt_y": specimen.mistilt[0]}
        frame = abtem.Waves(np.zeros(planned.grid[::-1], np.complex64), energy=energy, metadata=tilt,
                            extent=planned.box[::-1])
        # A slice acts at its top; half a slice of lead makes a tilted beam meet the atoms where they are on average.
        self._lead = [math.tan(tilt * 1e-3) * planned.depth / planned.slices / 2 / side
                      for tilt, side in zip(specimen.mistilt, planned.box, strict=True)]
        self._propagator = arrays.asarray(FresnelPropagator().get_array(frame, planned.depth / planned.slices))

    def plane_waves(self, beams: NDArray[np.int64]) -> NDArray[np.complex64]:
        """Plane waves (wave, x, y) of unit amplitude at the entrance; `beams (wave, 2)` has their (row, col)."""
        rows, cols = (np.arange(n) / n - lead for n, lead in zip(self._planned.grid, self._lead, strict=True))
        phase = beams[:, 1, None, None] * cols[:, None] + beams[:, 0, None, None] * rows
        waves: NDArray[np.complex64] = np.exp(2j * np.pi * phase).astype(np.complex64)
        return waves

    def superposed(self, beams: NDArray[np.int64], amplitudes: NDArray[np.complex128]) -> NDArray[np.complex64]:
        """Waves (wave, x, y) at the entrance, each a sum of plane waves with `amplitudes (wave, beam)`."""
        rows, cols = self._planned.grid
        led = amplitudes * np.exp(-2j * np.pi * (beams[:, 0] * self._lead[0] + beams[:, 1] * self._lead[1]))
        spectrum = np.zeros((len(amplitudes), cols, rows), np.complex128)
        spectrum[:, beams[:, 1] % cols, beams[:, 0] % rows] = led
        waves: NDArray[np.complex64] = scipy.fft.ifft2(spectrum, norm="forward").astype(np.complex64)
        return waves

    def exits(self, count: int, incident: Callable[[slice], NDArray[np.complex64]],
              points: NDArray[np.int64]) -> NDArray[np.complex64]:
        """Fourier amplitudes at the exit planes of waves that are sent through a few at a time.

        Parameters
        ----------
        count : int
            How many waves.
        incident : callable
            The waves (wave, x, y) of a slice of them, at the entrance.
        points : ndarray (n,)
            Indices into the flattened (row, col) Fourier grid.

        Returns
        -------
        ndarray (plane, wave, n), complex64
            A wave of unit amplitude has unit amplitude.
        """
        row, col = np.divmod(points, self._planned.grid[1])
        # x-first to (row, col), here and in the waves at the entrance, and nowhere else.
        used = self._backend.arrays.asarray(col * self._planned.grid[0] + row)
        out = np.empty((len(self._planned.planes), count, len(points)), np.complex64)
        for start in range(0, count, self._backend.batch):
            batch = slice(start, min(count, start + self._backend.batch))
            for plane, spectrum in self._through(incident(batch)):
                out[plane, batch] = self._backend.fetch(spectrum[:, used])
        out /= np.float32(self._planned.grid[0] * self._planned.grid[1])
        return out

    def _through(self, waves: NDArray[np.complex64]) -> Iterator[tuple[int, Any]]:
        """Yield (plane number, unnormalised Fourier amplitudes (wave, x·y)) at each exit plane."""
        held = self._backend.arrays.asarray(waves)
        for passed, transmission in enumerate(self._transmission, start=1):
            held *= transmission
            spectrum = self._backend.fft2(held)
            spectrum *= self._propagator
            if passed in self._planes:
                yield self._planes[passed], spectrum.reshape(len(waves), -1)
            if passed < self._planned.planes[-1]:
                held = self._backend.ifft2(spectrum)


def _provenance(specimen: Specimen, planned: Plan, microscope: Instrument, settings: Simulation,
                accuracy: Accuracy) -> dict[str, Any]:
    return {
        "physics": "multislice", "backend": name_of(settings.device),
        "specimen": {"kind": specimen.kind, "structure": specimen.structure, "prototype": specimen.prototype,
                     "formula": specimen.atoms.get_chemical_formula("metal"), "thickness": specimen.thickness,
                     "mistilt": list(specimen.mistilt), **specimen.about},
        "microscope": microscope.model_dump(mode="json"),
        "simulate": settings.model_dump(mode="json"),
        "box": [*planned.box, planned.depth], "repeats": list(planned.repeats), "grid": list(planned.grid),
        "slices": planned.slices, "beams": len(planned.beams), "atoms": len(specimen.atoms),
        "phonon_configurations": accuracy.configurations, "standard_error": accuracy.standard_error,
    }
