"""What a simulation pass is asked for, and the grids, waves and costs that follow from it. No abTEM here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from emsynth.draw import Drawable, number, optional_tag
from emsynth.errors import FieldError
from emsynth.microscope import Microscope, TransmissionMicroscope
from emsynth.specimen.base import Specimen

# abTEM band-limits waves and transmission functions to 2/3 of Nyquist: the largest angle is λ/(3d).
_ANTIALIAS = 3.0
# Å: window of PRISM around a probe without aberrations, for a specimen without thickness.
_PRISM_WINDOW = 18.0
# Fewer than every second wave was not checked against multislice.
_MOST_INTERPOLATION = 2
# Time of the product of two waves at one point of the detectors, as wave points (a matrix product, half of the pairs).
_PRODUCT = 0.01
# Waves that take as long as the potential of a slice, for each point of its grid (measured).
_POTENTIAL = 8.0
# Å: atoms whose heights differ by less lie in one plane; and how much thicker than asked for a slice may be, where that
# gives each plane its own.
_PLANE = 0.3
_THICKER = 1.1
# A grid that gives each tile a whole number of points may be so much larger.
_WORTH = 1.1
# The grid carries so many times the largest angle: what is scattered from within the probe to a detector's outer edge
# needs it. Without it gold would lose 8 % on a detector that ends at that angle, with it 2 % (docs/convergence.md).
_CARRIED = 1.1
# Å: a slab thinner than this is not among the exit planes (unless the specimen is).
_THINNEST = 20.0
# Probe positions whose exit waves are in memory together.
TOGETHER = 64
# Rms over the picture of one cell in one phonon configuration, as a fraction of the mean: what the choice between probe
# positions and plane waves reckons with (measured on strontium titanate).
_ONE_CELL = 0.2
# Grid in Å on which exp(iσV) of a heavy atom no longer changes by more than 3 % with the atom's place on it.
_FINE = 0.04
# The same for the angles below 50 mrad or so that make a TEM image.
_FINE_TRANSMISSION = 0.1


class Phonons(Drawable):
    """Thermal vibrations: random displacements are averaged until the picture holds still.

    Each configuration displaces every atom by a normal deviate of its thermal amplitude (Einstein model;
    Loane, Xu and Silcox, Acta Cryst. A47, 267, 1991). The other model, for TEM, is one pass through the mean potential,
    damped by the Debye-Waller factor: elastic scattering only, without the diffuse background.
    """

    model: Literal["frozen", "debye_waller"] = Field(
        "frozen", description="frozen phonons, or debye_waller: one pass through the mean potential (TEM)")

    tolerance: float = Field(0.10, gt=0, le=1, description="largest allowed standard error of the phonon mean, as a "
                             "fraction of the mean intensity, on the detector with the largest inner angle; of a "
                             "TEM image, as a fraction of its standard deviation")
    minimum: int = Field(2, ge=0, le=1000, description="fewest configurations; 0 for a static lattice")
    maximum: int = Field(16, ge=0, le=1000, description="most configurations; the field records what it reached")

    @property
    def moves(self) -> bool:
        """Whether configurations are averaged."""
        return self.model == "frozen" and self.maximum > 0

    @model_validator(mode="after")
    def _ordered(self) -> Phonons:
        if self.minimum == 1 or self.minimum > self.maximum or (self.minimum == 0) != (self.maximum == 0):
            raise ValueError(f"minimum {self.minimum} and maximum {self.maximum}: both 0 (static), or 2 at least (a "
                             "standard error needs two) and minimum at most maximum")
        return self


class Simulation(Drawable):
    """How a field is simulated."""

    # Not written out, so that a recipe without it, and its digest, stay as they were when there was nothing else.
    kind: Literal["multislice"] = Field("multislice", exclude=True, json_schema_extra=optional_tag,
                                        description="multislice, or images for a folder of your own")
    max_angle: float = Field(120.0, gt=1, le=500, json_schema_extra={"unit": "mrad"}, description="largest scattering "
                             "angle that the grid carries; no detector may reach beyond it [mrad]")
    slice_thickness: float = Field(2.0, ge=0.2, le=5, json_schema_extra={"unit": "Å"}, description="thickness of a "
                                   "multislice slice, at most [Å]")
    thicknesses: Annotated[int, Field(ge=1, le=200)] = Field(
        12, description="exit planes kept from one pass over a crystal, evenly over its thickness")
    film_thicknesses: Annotated[int, Field(ge=1, le=200)] = Field(
        4, description="the same for an amorphous film and for whatever else is scanned in full, which pays for each")
    phonons: Phonons = Phonons()
    oversampling: float = Field(4.0, ge=2, le=16, description="samples of the field per Nyquist interval; 4 keeps "
                                "the error of cubic splines below 0.1 % of the range up to the band edge")
    physics: Literal["multislice", "prism", "convolution"] = Field(
        "multislice", description="prism and convolution are approximations, with their deviation on record")
    deviation: float = Field(0.10, gt=0, le=1, description="largest relative rms deviation from multislice that an "
                             "approximation may have on record, on each detector")
    device: Literal["cpu", "gpu"] = Field("cpu", description="gpu needs CuPy")
    memory: float = Field(3.0, gt=0, json_schema_extra={"unit": "GB"}, description="most memory that one pass may plan "
                          "for [GB]")


class Phenomenological(Drawable):
    """How a field of a morphology is made: by a labelled model of its signal, without atoms."""

    kind: Literal["phenomenological"] = "phenomenological"
    size: int = Field(1280, ge=64, le=2048, json_schema_extra={"unit": "px"},
                      description="rows and columns of a field [px]")


@dataclass(frozen=True)
class Plan:
    """Grids, waves and costs of one pass.

    Attributes
    ----------
    box : tuple of float
        (row, col) sides of the simulated box in Å.
    repeats : tuple of int
        Tiles in the box along (row, col).
    grid : tuple of int
        (row, col) points of the multislice grid, made of the primes 2, 3, 5.
    refinement : int
        How much finer the grid is on which the potential becomes a transmission function.
    slices : int
        Slices of equal thickness.
    depth : float
        Height of all slices together in Å: that of the box, or a little more.
    planes : tuple of int
        Numbers of slices after which the exit waves are kept.
    beams : ndarray (n, 2), int
        (row, col) indices of the plane waves in the probe, in units of 1/box.
    carried : int
        Grid points of reciprocal space that the detectors use.
    positions : int
        Probe positions that are sent through in place of the plane waves; 0 where these are.
    interpolation : int
        Every how many-th plane wave is among the beams, along each axis: above 1, the pass is PRISM.
    rim : tuple of int
        Largest (row, col) index of a plane wave in the probe.
    """

    box: tuple[float, float]
    repeats: tuple[int, int]
    grid: tuple[int, int]
    refinement: int
    slices: int
    depth: float
    planes: tuple[int, ...]
    beams: NDArray[np.int64]
    carried: int
    positions: int = 0
    interpolation: int = 1
    rim: tuple[int, int] = (0, 0)

    @property
    def work(self) -> float:
        """Wave points times slices of one phonon configuration: what the time is proportional to.

        The potential of a slice, on its finer grid, takes as long as `_POTENTIAL` waves through that many points.
        """
        waves = (self.positions or len(self.beams)) + _POTENTIAL * self.refinement**2
        through = float(waves) * self.slices * self.grid[0] * self.grid[1]
        pairs = 0.0 if self.positions else float(sum(len(group) ** 2 for group in self.wave_classes()))
        return through + _PRODUCT * pairs * self.carried * len(self.planes)

    def wave_classes(self) -> list[NDArray[np.int64]]:
        """Beams grouped so that within a group all differences are reciprocal lattice vectors of the tile."""
        label = (self.beams[:, 0] % self.repeats[0]) * self.repeats[1] + self.beams[:, 1] % self.repeats[1]
        return [np.flatnonzero(label == n) for n in np.unique(label)]

    @property
    def memory(self) -> float:
        """Memory in GB of the exit waves, the transmission functions and the scattering products."""
        together = min(TOGETHER, self.positions) or max(len(group) for group in self.wave_classes())
        waves = 8.0 * len(self.planes) * together * self.carried
        transmission = (8.0 * self.slices + 40.0 * self.refinement**2) * self.grid[0] * self.grid[1]
        # Of one plane: what one detector sees of the waves, and some of the pairs with their weights.
        products = 0.0 if self.positions else 8.0 * together * self.carried + 100.0 * min(together**2, 4e6)
        return (waves + transmission + products) / 1e9


def smooth_number(least: float) -> int:
    """Smallest whole number from `least` whose only primes are 2, 3 and 5 (what fast Fourier transforms like)."""
    candidate = max(1, math.ceil(least - 1e-9))
    while True:
        rest = candidate
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return candidate
        candidate += 1


def plan_for(specimen: Specimen, microscope: Microscope, settings: Simulation) -> Plan:
    """Work out one pass.

    Parameters
    ----------
    specimen : Specimen
        Atoms in their box.
    microscope : Microscope
        Drawn microscope.
    settings : Simulation
        What is asked for.

    Returns
    -------
    Plan
        With the last exit plane at the bottom of the box.

    Raises
    ------
    FieldError
        Where a detector reaches beyond `settings.max_angle`.
    """
    check_angles(microscope, settings)
    x, y = (float(side) for side in specimen.atoms.cell.lengths()[:2])
    _check_box(min(x, y), specimen.structure, microscope)
    step = microscope.wavelength / (_ANTIALIAS * _CARRIED * settings.max_angle * 1e-3)
    slices, depth, kept = _slices(specimen, settings)
    outer = max(angles[1] for angles in microscope.detector_angles().values())
    disc = math.pi * (outer * 1e-3 / microscope.wavelength) ** 2 * x * y
    whole = beams((y, x), microscope)
    planned = Plan((y, x), specimen.repeats, _grid((y, x), step, specimen.repeats),
                   max(1, math.ceil(step / _FINE - 1e-9)), slices, depth, kept, whole, math.ceil(disc),
                   rim=(int(np.abs(whole[:, 0]).max()), int(np.abs(whole[:, 1]).max())))
    interpolation = _interpolation(planned, microscope, settings)
    if interpolation > 1:
        window = (y / interpolation, x / interpolation)
        return replace(planned, beams=interpolation * beams(window, microscope), interpolation=interpolation)
    scanned = math.prod(positions(planned))
    cheaper = scanned * _configurations(settings.phonons, 1) < len(planned.beams) * _configurations(
        settings.phonons, math.prod(planned.repeats))
    # The spread of the focus comes for nothing with plane waves, and with probes not at all.
    if number(microscope.focal_spread) == 0 and all(specimen.endless) and cheaper:
        return replace(planned, positions=scanned)
    return planned


def _interpolation(planned: Plan, microscope: Microscope, settings: Simulation) -> int:
    """Every how many-th wave PRISM needs so that its windows are wide enough; 1 for all of them."""
    if settings.physics != "prism" or planned.repeats != (1, 1):
        return 1
    return min(_MOST_INTERPOLATION, max(1, int(min(planned.box) / prism_window(planned, microscope, settings) + 1e-9)))


def prism_window(planned: Plan, microscope: Microscope, settings: Simulation) -> float:
    """Least side in Å of PRISM's window: the probe, and half of what is scattered to the largest angle on the way down.

    The constant is ours: with it the pictures deviate from multislice by less than 2 % (see docs/prism.md).
    """
    spread = planned.depth * math.tan(settings.max_angle * 1e-3) / 2
    return _PRISM_WINDOW + 2 * microscope.blur + spread


def _configurations(phonons: Phonons, cells: int) -> int:
    """How many configurations the tolerance may take where each gives the mean over `cells` cells."""
    if not phonons.moves:
        return 1
    needed = math.ceil((_ONE_CELL / phonons.tolerance) ** 2 / cells)
    return min(max(phonons.minimum, needed), phonons.maximum)


def positions(planned: Plan) -> tuple[int, int]:
    """Probe positions along (row, col) of a tile that determine its picture: as many as it has harmonics."""
    rows, cols = harmonics(planned)
    return 2 * rows + 1, 2 * cols + 1


def harmonics(planned: Plan) -> tuple[int, int]:
    """Highest harmonics of the tile along (row, col) in its picture."""
    rows, cols = (2 * rim // tiles for rim, tiles in zip(planned.rim, planned.repeats, strict=True))
    return rows, cols


def plan_transmission(specimen: Specimen, microscope: TransmissionMicroscope, settings: Simulation) -> Plan:
    """Work out a pass of one plane wave, for the images of a TEM.

    Raises
    ------
    FieldError
        Where the objective aperture is beyond `settings.max_angle`.
    """
    aperture = number(microscope.aperture)
    if aperture > settings.max_angle + 1e-9:
        raise FieldError(f"microscope.aperture: {aperture:g} mrad is beyond the simulated {settings.max_angle:g} mrad; "
                         f"raise simulate.max_angle or lower the aperture")
    x, y = (float(side) for side in specimen.atoms.cell.lengths()[:2])
    step = microscope.wavelength / (_ANTIALIAS * settings.max_angle * 1e-3)
    slices, depth, kept = _slices(specimen, settings)
    disc = math.pi * (aperture * 1e-3 / microscope.wavelength) ** 2 * x * y
    return Plan((y, x), specimen.repeats, _grid((y, x), step, specimen.repeats),
                max(1, math.ceil(step / _FINE_TRANSMISSION - 1e-9)), slices, depth, kept, np.zeros((1, 2), np.int64),
                math.ceil(disc))


def _grid(box: tuple[float, float], step: float, repeats: tuple[int, int]) -> tuple[int, int]:
    """Grid points of a box: a whole number in each tile where that costs little, so that all tiles are alike."""
    least = [side / step for side in box]
    alike = [smooth_number(n / tiles) * tiles for n, tiles in zip(least, repeats, strict=True)]
    plain = [smooth_number(n) for n in least]
    rows, cols = (a if a <= _WORTH * p and a == smooth_number(a) else p for a, p in zip(alike, plain, strict=True))
    return rows, cols


def _slices(specimen: Specimen, settings: Simulation) -> tuple[int, float, tuple[int, ...]]:
    """Number of slices, their depth together in Å, and after which of them the waves are kept."""
    depth = float(specimen.atoms.cell.lengths()[2])
    repeat = specimen.about.get("beam_repeat")
    if repeat is None or specimen.thickness < repeat:  # a layer, or a box taken as it is, has no planes that repeat
        slices = max(1, math.ceil(depth / settings.slice_thickness - 1e-9))
        return slices, depth, _exit_planes(specimen, slices, depth / slices, settings)
    step = repeat / _slices_per_repeat(specimen, repeat, settings.slice_thickness)
    slices = math.ceil(depth / step - 1e-9)
    return slices, slices * step, _exit_planes(specimen, slices, step, settings)


def _slices_per_repeat(specimen: Specimen, repeat: float, thickness: float) -> int:
    """Slices in one repeat along the beam: as many as its atomic planes, or as parts of these, where that comes near.

    Slices of any thickness hold now two planes and now none, and the scattering of planes that lie in one slice adds up
    as if they were at one height: silicon along [110], in slices of 2 Å, would be 15 % off in a thin slab.
    """
    height = specimen.atoms.positions[:, 2] if specimen.grain is None else \
        specimen.atoms.positions[specimen.grain >= 0, 2]
    levels = np.sort(np.mod(height - specimen.entrance, repeat))
    planes = max(1, int(np.sum(np.diff(levels) > _PLANE)) + int(levels[0] + repeat - levels[-1] > _PLANE))
    wanted = max(1, math.ceil(repeat / (_THICKER * thickness) - 1e-9))
    for parts in (planes * n for n in range(1, wanted + 1)):
        if wanted <= parts <= 2 * wanted:
            return parts
    return wanted


def _exit_planes(specimen: Specimen, slices: int, step: float, settings: Simulation) -> tuple[int, ...]:
    """Numbers of slices after which the waves are kept: from the thinnest slab worth a picture to the bottom."""
    # Half of a particle is not a thinner particle, and half of a layer is no layer.
    series = settings.thicknesses if all(specimen.endless) else settings.film_thicknesses
    wanted = series if specimen.slab else 1
    first = min(slices, math.ceil((specimen.entrance + min(_THINNEST, specimen.thickness)) / step))
    return tuple(sorted({round(n) for n in np.linspace(first, slices, wanted)})) if wanted > 1 else (slices,)


def _check_box(side: float, name: str, microscope: Microscope) -> None:
    """Raise FieldError where the aberrated probe does not fit the box: it would meet its own repetition."""
    needed = 2 * (microscope.blur + microscope.wavelength / (number(microscope.convergence) * 1e-3))
    if side < needed:
        raise FieldError(
            f"specimen.minimum_box: the box of {name} is {side:.1f} Å wide, and the probe needs {needed:.1f} Å (blur "
            f"{microscope.blur:.1f} Å at spherical {number(microscope.spherical):.3g} Å, defocus "
            f"{number(microscope.defocus):.3g} Å, {number(microscope.convergence):.3g} mrad); raise minimum_box (or "
            f"box), or bring the defocus nearer to its optimum")


def picture_shape(planned: Plan, oversampling: float) -> tuple[int, int]:
    """(H, W) of the picture of one tile: its highest harmonics, oversampled."""
    rows, cols = harmonics(planned)
    return smooth_number(oversampling * (2 * rows + 1)), smooth_number(oversampling * (2 * cols + 1))


def check_angles(microscope: Microscope, settings: Simulation) -> None:
    """Raise FieldError where a detector reaches beyond the angle that the grid carries."""
    for name, (_, outer) in microscope.detector_angles().items():
        if outer > settings.max_angle + 1e-9:
            raise FieldError(f"microscope.detectors: {name} reaches to {outer:g} mrad, beyond the simulated "
                             f"{settings.max_angle:g} mrad; raise simulate.max_angle (time grows with its square) or "
                             f"lower the detector's outer angle")
    convergence = number(microscope.convergence)
    if convergence >= settings.max_angle:
        raise FieldError(f"microscope.convergence: {convergence:g} mrad is beyond the simulated "
                         f"{settings.max_angle:g} mrad; raise simulate.max_angle")


def angle_step(box: tuple[float, float], azimuth: NDArray[np.float64], wavelength: float) -> NDArray[np.float64]:
    """Width in rad of a point of the box's reciprocal grid, along each azimuth."""
    step: NDArray[np.float64] = np.hypot(np.sin(azimuth) * wavelength / box[0], np.cos(azimuth) * wavelength / box[1])
    return step


def soft_disc(angle: NDArray[np.float64], azimuth: NDArray[np.float64], edge: float, box: tuple[float, float],
              wavelength: float) -> NDArray[np.float64]:
    """Disc of radius `edge` rad whose border points count by the part of them that lies inside."""
    if edge <= 0:
        return np.zeros_like(angle)
    disc: NDArray[np.float64] = np.clip((edge - angle) / angle_step(box, azimuth, wavelength) + 0.5, 0.0, 1.0)
    return np.where(angle == 0, 1.0, disc)


def beams(box: tuple[float, float], microscope: Microscope) -> NDArray[np.int64]:
    """(row, col) indices of all plane waves with weight in the aperture, in row-major order."""
    edge = number(microscope.convergence) * 1e-3
    reach = [math.ceil(edge * side / microscope.wavelength + 1) for side in box]
    rows, cols = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    index = np.stack([rows.ravel(), cols.ravel()], axis=1)
    angle, azimuth = polar(index, box, microscope.wavelength)
    return index[soft_disc(angle, azimuth, edge, box, microscope.wavelength) > 0]


def polar(index: NDArray[np.int64], box: tuple[float, float],
          wavelength: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angle in rad and azimuth in rad (from column to row axis) of points of the box's reciprocal grid."""
    row, col = index[:, 0] / box[0], index[:, 1] / box[1]
    return wavelength * np.hypot(row, col), np.arctan2(row, col)
