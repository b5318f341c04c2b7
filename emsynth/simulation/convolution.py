"""The convolution model: a dark-field picture as a sum of atomic responses, each of them the probe, widened.

An approximation, and labelled as one. An atom j at depth z adds to the picture

    I_j(r) = σ_j Σ_f Σ_i c_fi(ζ) [P(z_f) ⊗ G(s_i)](r - r_f),

with P(z) the intensity of the free probe at depth z (aberrations, focal spread, source), G a Gaussian of one of a few
fixed widths s, ζ the depth below the first atom of the atom's column, and f the part of the way from there to the atom
at which the probe is taken: a channelling column keeps the probe of its entrance, f = 0, a weak one has that of the
atom's own depth, f = 1. Amplitudes c are fitted by least squares to multislice at the drawn microscope: those of a
lone atom of each element, exactly averaged over its thermal motion; and how they change with depth in each kind of
column, in a small piece (about 10 Å) cut out of the specimen itself, so that the neighbours' share is in it. What is
added up over a whole specimen is linear in the atoms: no interference between columns, which is why only detectors
far outside the bright disc are offered. `convolution.json` keeps the errors against multislice; see
docs/convolution.md. The idea of incoherent imaging by convolution: Pennycook and Jesson, Ultramicroscopy 37, 14
(1991); depth-dependent amplitudes instead of Z contrast alone, and the way in which they are fitted: ours.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.fft
from ase import Atoms
from numpy.typing import NDArray

from emsynth.draw import Streams, number
from emsynth.errors import FieldError
from emsynth.microscope import Detector, Microscope
from emsynth.provenance import fingerprint
from emsynth.simulation import checked
from emsynth.simulation import field as field_cache
from emsynth.simulation.field import Field
from emsynth.simulation.plan import Phonons, Simulation, beams, picture_shape, plan_for, polar, smooth_number, soft_disc
from emsynth.specimen.base import Columns, Specimen
from emsynth.specimen.classes import class_map
from emsynth.specimen.columns import cluster

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Spectrum = NDArray[np.complex128]

# Standard deviations in Å of the Gaussians that widen the probe.
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0)
# Parts of the way from the column's first atom to an atom at which the probe is taken.
FOCI = (0.0, 0.5, 1.0)
# Amplitudes depend on depth by these powers of it.
POWERS = (1.0, 2.0, 3.0)
# Å: side of the piece of the specimen on which columns are fitted, and of its box.
PIECE = 10.0
BOX = 13.0
# Å: depths at which a lone atom's amplitude may change besides, linearly between: the interference of an atom's elastic
# scattering with that of the next ones down the column comes and goes within 2λ/θ² (23 Å at 60 mrad and 80 kV).
KNOTS = (3.0, 7.0, 11.0, 15.0, 20.0, 26.0, 34.0, 45.0)
# Exit planes of the pass over a piece, at least, and how far apart they are at most in Å: nearer than the knots.
PLANES = 16
PLANE_STEP = 4.0
# Frozen-phonon configurations of that pass: of a slab, and of an edge or a particle, whose pieces hold fewer atoms.
CONFIGURATIONS = 12
CONFIGURATIONS_FINITE = 24
# Å: thickest slice of it. The interference of an atom with the next ones down its column decides how much of a thin
# specimen's signal is elastic, and slices of 2 Å, some with two atoms and some with none, change that by 15 %.
SLICE = 1.0
# Å: depths that share a probe.
DEPTH_BIN = 4.0
# Fewest atoms in a column, and the largest gap in Å within one: beyond it a new column begins.
SHORTEST = 3
LARGEST_GAP = 8.0
# Columns whose cross-sections per length differ by less than this factor are of one kind.
ALIKE = 1.3
# Kinds with a smaller share of the columns are counted to the next one.
RARE = 0.02
# Ridge of the least squares, relative to the mean square of the design.
RIDGE = 1e-3
# Å: widest probe of the check, λ/α, and most blur by defocus and spherical aberration.
WIDEST, MOST_BLUR = 1.9, 3.0
# Nodes of Gauss-Hermite quadrature over the spread of the focus.
_NODES = 7
# Å of vacuum above and below what is simulated for a fit, at least.
_LEAD, _TAIL = 0.5, 1.5
# The fit of a column belongs to the column and not to a field: the same phonons each time.
_STREAMS = Streams(0, 0)
_DETERMINING = ("abtem", "ase", "numpy", "scipy", "pyfftw")


class Harmonics:
    """Fourier coefficients of pictures of a periodic box up to the band limit, and the free probe among them.

    Parameters
    ----------
    box : tuple of float
        (row, col) sides in Å.
    microscope : Microscope
        Drawn microscope.
    repeats : tuple of int
        Tiles in the box along (row, col): only their common harmonics are kept, and pictures are of one tile.
    """

    def __init__(self, box: tuple[float, float], microscope: Microscope, repeats: tuple[int, int] = (1, 1)) -> None:
        self.box = box
        self._microscope = microscope
        self._beams = beams(box, microscope)
        reach = [2 * int(n) for n in np.abs(self._beams).max(axis=0)]
        self._whole = (smooth_number(2 * reach[0] + 1), smooth_number(2 * reach[1] + 1))
        self.shape = tuple(smooth_number(2 * (n // m) + 1) for n, m in zip(reach, repeats, strict=True))
        self.rows = np.rint(np.fft.fftfreq(self.shape[0]) * self.shape[0]) * repeats[0]
        self.cols = np.arange(self.shape[1] // 2 + 1, dtype=float) * repeats[1]
        # Of an even number of points, the outermost may be beyond the band.
        inside = (np.abs(self.rows)[:, None] <= reach[0]) & (self.cols <= reach[1])
        self._inside = inside
        square = (self.rows[:, None] / box[0]) ** 2 + (self.cols / box[1]) ** 2
        self.widths: Floats = np.exp(-2 * math.pi**2 * np.multiply.outer(np.square(WIDTHS), square))
        source = number(microscope.source_size) / math.sqrt(8 * math.log(2))
        self._source = np.exp(-2 * math.pi**2 * source**2 * square)
        self._square = square
        self._probes: dict[float, Spectrum] = {}

    def gaussian(self, width: float) -> Floats:
        """Transform of a Gaussian of standard deviation `width` Å."""
        transform: Floats = np.exp(-2 * math.pi**2 * width**2 * self._square)
        return transform

    def probe(self, depth: float) -> Spectrum:
        """Transform of the intensity of the free probe at a depth in Å below the top of the box; 1 at frequency 0."""
        if depth not in self._probes:
            self._probes[depth] = self._probe_at(depth)
        return self._probes[depth]

    def _probe_at(self, depth: float) -> Spectrum:
        scope = self._microscope
        angle, azimuth = polar(self._beams, self.box, scope.wavelength)
        aperture = np.sqrt(soft_disc(angle, azimuth, number(scope.convergence) * 1e-3, self.box, scope.wavelength))
        aperture /= math.sqrt(float(np.sum(aperture**2)))
        phase = scope.aberration(angle, azimuth)
        curvature = math.pi * angle**2 / scope.wavelength
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES if number(scope.focal_spread) > 0 else 1)
        place = tuple((self._beams % np.asarray(self._whole)).T)
        intensity = np.zeros(self._whole)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            wave = np.zeros(self._whole, np.complex128)
            # Travelling deeper is the same as less defocus.
            wave[place] = aperture * np.exp(-1j * (phase + curvature * (depth - node * number(scope.focal_spread))))
            intensity += weight * np.abs(scipy.fft.ifft2(wave, norm="forward")) ** 2
        whole = scipy.fft.rfft2(intensity, norm="forward")
        rows, cols = (np.rint(n).astype(np.int64) for n in (self.rows, self.cols))
        picked = whole[rows[:, None] % self._whole[0], np.minimum(cols, whole.shape[1] - 1)]
        # The picture is over probe positions: it shows the probe turned by half a turn.
        spectrum: Spectrum = picked.conj() * self._source * self._inside
        return spectrum

    def structure_factors(self, position: Floats, weights: Floats) -> NDArray[np.complex64]:
        """Σ_j w_j exp(-2πi G·r_j) / area for several sets of weights.

        Parameters
        ----------
        position : ndarray (n, 2)
            (row, col) in Å.
        weights : ndarray (set, n)
            Weights.

        Returns
        -------
        ndarray (set, rows, cols), complex64
        """
        # Phases in double precision: products of hundreds of Å with 1/Å lose their decimals in single.
        row, col = (np.exp(-2j * math.pi / side * np.multiply.outer(harmonic, r)).astype(np.complex64)
                    for harmonic, r, side in zip((self.rows, self.cols), position.T, self.box, strict=True))
        weighted = weights.astype(np.float32)[:, None] * row
        summed = weighted.reshape(-1, len(position)) @ col.T
        factors: NDArray[np.complex64] = summed.reshape(len(weights), *self._square.shape)
        return factors / np.float32(self.box[0] * self.box[1])

    def picture(self, spectrum: Spectrum, shape: tuple[int, int] | None = None) -> Floats:
        """Pictures (..., H, W) of the box from their coefficients, on a grid not coarser than the band needs."""
        rows, cols = shape or self.shape
        padded = np.zeros((*spectrum.shape[:-2], rows, cols // 2 + 1), np.complex128)
        half = (self.shape[0] - 1) // 2
        width = (self.shape[1] + 1) // 2
        padded[..., :half + 1, :width] = spectrum[..., :half + 1, :width]
        if half:
            padded[..., -half:, :width] = spectrum[..., -half:, :width]
        image: Floats = scipy.fft.irfft2(padded, s=(rows, cols), norm="forward")
        return image


@dataclass(frozen=True)
class Scatterers:
    """Atoms as the model sees them.

    Attributes
    ----------
    position : ndarray (n, 2)
        (row, col) in Å in the frame of the specimen.
    depth : ndarray (n,)
        Depth in Å below the top of the box.
    top : ndarray (n,)
        Depth of the first atom of the column; the atom's own where it stands in none.
    number : ndarray (n,), int
        Atomic number.
    column : ndarray (n,), int
        Column of each atom, from 0; -1 of a lone atom.
    kind : ndarray (n,), int
        Kind of the column, from 0; -1 of a lone atom.
    """

    position: Floats
    depth: Floats
    top: Floats
    number: Integers
    column: Integers
    kind: Integers

    def at(self, part: float, tilt: Floats) -> tuple[Floats, Floats]:
        """Depth of the probe and projected position for one of `FOCI`."""
        depth = self.top + part * (self.depth - self.top)
        return depth, self.position - tilt * depth[:, None]

    def chosen(self, which: NDArray[Any]) -> Scatterers:
        """Some of them."""
        return Scatterers(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def scatterers(specimen: Specimen, sections: dict[int, float]) -> Scatterers:
    """Sort the atoms of a specimen into columns of a few kinds and lone atoms.

    Parameters
    ----------
    specimen : Specimen
        Any; atoms of grain -1, and all of an amorphous specimen, are lone atoms.
    sections : dict
        Cross-section of each atomic number, by which kinds are told apart.
    """
    atoms = specimen.atoms
    sides = atoms.cell.lengths()
    position, depth = atoms.positions[:, [1, 0]].copy(), atoms.positions[:, 2].copy()
    column = np.full(len(atoms), -1, np.int64)
    ordered = np.full(len(atoms), specimen.kind != "amorphous") if specimen.grain is None else specimen.grain >= 0
    within = np.flatnonzero(ordered)
    if len(within):
        label = cluster(atoms.positions[within, :2], (float(sides[0]), float(sides[1]))).label
        column[within] = _runs(label, depth[within])
    top = depth.copy()
    inside = np.flatnonzero(column >= 0)
    first = np.full(int(column.max(initial=-1)) + 1, np.inf)
    np.minimum.at(first, column[inside], depth[inside])
    top[inside] = first[column[inside]]
    numbers = atoms.numbers.astype(np.int64)
    kind = np.full(len(atoms), -1, np.int64)
    if len(first):
        kind[inside] = _kinds(column[inside], depth[inside], numbers[inside], sections)[column[inside]]
    return Scatterers(position, depth, top, numbers, column, kind)


def _runs(label: Integers, depth: Floats) -> Integers:
    """Columns without gaps, numbered from 0; -1 of atoms in clusters too short to be one."""
    order = np.lexsort((depth, label))
    new = np.ones(len(label), bool)
    new[1:] = (np.diff(label[order]) != 0) | (np.diff(depth[order]) > LARGEST_GAP)
    run = np.cumsum(new) - 1
    valid = (np.bincount(run)[run] >= SHORTEST) & (label[order] >= 0)
    column = np.full(len(label), -1, np.int64)
    column[order[valid]] = np.unique(run[valid], return_inverse=True)[1]
    return column


def _kinds(column: Integers, depth: Floats, numbers: Integers, sections: dict[int, float]) -> Integers:
    """Kind of each column: its chief element, and its cross-section per length in steps of `ALIKE`."""
    keys = []
    for members in np.split(np.argsort(column, kind="stable"), np.cumsum(np.bincount(column))[:-1]):
        weight = np.array([sections[z] for z in numbers[members].tolist()])
        chief = max(set(numbers[members].tolist()), key=lambda z: float(weight[numbers[members] == z].sum()))
        own = np.sort(depth[members][numbers[members] == chief])
        # The median spacing is that of the lattice, vacancies or not.
        spacing = float(np.median(np.diff(own))) if len(own) > 1 else LARGEST_GAP
        load = float(weight.sum()) / len(own) / max(spacing, 0.5)
        keys.append((chief, round(math.log(load) / math.log(ALIKE))))
    found, kind, count = np.unique(np.array(keys), axis=0, return_inverse=True, return_counts=True)
    kind = kind.ravel()
    common = np.flatnonzero(count >= RARE * len(keys))
    apart = np.abs(found[:, None, 1] - found[None, common, 1]) + 100.0 * (found[:, None, 0] != found[None, common, 0])
    joined: Integers = np.argmin(apart, axis=1)[kind]
    return joined


@dataclass(frozen=True)
class Response:
    """Amplitudes of one kind of column.

    Attributes
    ----------
    change : ndarray (detector, focus, width, power), float64
        What c of an atom at relative depth u = ζ/length has beyond a lone atom's, times the powers of u.
    fringe : ndarray (detector, knot), float64
        Relative change of a lone atom's amplitudes at `KNOTS`.
    length : float
        Depth in Å down to which it was fitted; deeper atoms respond like those at the end.
    residual : ndarray (detector,), float64
        rms of what the fit left of the piece's pictures, by their mean, on each detector.
    """

    change: Floats
    fringe: Floats
    length: float
    residual: Floats


@dataclass(frozen=True)
class Fitted:
    """All that was fitted for one specimen and microscope.

    Attributes
    ----------
    lone : dict
        Amplitudes (detector, width) in Å² of a lone atom of each atomic number.
    columns : dict
        Response of each kind of column.
    """

    lone: dict[int, Floats]
    columns: dict[int, Response]


def _terms(harmonics: Harmonics, atoms: Scatterers, tilt: Floats, part: float, weights: Floats) -> Spectrum:
    """Spectra (set, rows, cols) of weights (set, width, n), over atoms and widths; the probe at `part` of the way."""
    out = np.zeros((len(weights), len(harmonics.rows), len(harmonics.cols)), np.complex128)
    depth, position = atoms.at(part, tilt)
    layer = np.rint(depth / DEPTH_BIN).astype(np.int64)
    for n in np.unique(layer):
        here = np.flatnonzero(layer == n)
        sets = weights[..., here].reshape(-1, len(here))
        factors = harmonics.structure_factors(position[here], sets).reshape(*weights.shape[:2], *out.shape[1:])
        out += np.einsum("swrc,wrc->src", factors, harmonics.widths) * harmonics.probe(float(n) * DEPTH_BIN)
    return out


def vacuum(microscope: Microscope, box: tuple[float, float]) -> Floats:
    """What each detector sees without a specimen: the part of the bright disc that lies on it."""
    angle, azimuth = polar(beams(box, microscope), box, microscope.wavelength)

    def disc(edge: float) -> Floats:
        return soft_disc(angle, azimuth, edge * 1e-3, box, microscope.wavelength)

    aperture = disc(number(microscope.convergence))
    return np.array([float(np.sum(aperture * (disc(outer) - disc(inner)))) / float(aperture.sum())
                     for inner, outer in microscope.detector_angles().values()])


def _box_side(microscope: Microscope, least: float) -> float:
    """Side in Å of a box that holds the probe."""
    return max(least, 2 * (microscope.blur + microscope.wavelength / (number(microscope.convergence) * 1e-3)) + 0.1)


def _small(atoms: Atoms, specimen: Specimen, settings: Simulation) -> Specimen:
    """A few atoms as a specimen; called thin, so that the exit planes begin right below the first of them."""
    side = atoms.cell.lengths()
    return Specimen(
        atoms=atoms, tile=(float(side[1]), float(side[0])), columns=Columns.none(), thermal=specimen.thermal,
        mistilt=specimen.mistilt, kind="crystal", structure=f"piece of {specimen.structure}",
        prototype=specimen.prototype, thickness=settings.slice_thickness, entrance=_LEAD, slab=True)


def _pass(small: Specimen, microscope: Microscope, settings: Simulation, cached: bool) -> Field:
    """One small multislice pass, from the field cache where it is there."""
    atoms: Any = small.atoms  # ASE has no types
    digest = hashlib.sha256()
    for array in (atoms.cell.array, atoms.numbers.astype(np.int64), atoms.positions):
        digest.update(np.ascontiguousarray(array).tobytes())
    elements = set(atoms.get_chemical_symbols())
    key = field_cache.content_digest({
        "physics": "piece for convolution", "atoms": digest.hexdigest(), "mistilt": list(small.mistilt),
        "thermal": {symbol: u for symbol, u in small.thermal.items() if symbol in elements},
        "microscope": microscope.model_dump(mode="json", exclude={"weight", "looks_at"}),
        "simulate": settings.model_dump(mode="json", exclude={"memory"}),
        "versions": {name: importlib.metadata.version(name) for name in _DETERMINING}, "platform": fingerprint()})
    kept = field_cache.load(key) if cached else None
    if kept is not None:
        return kept
    # abTEM takes seconds to import: only who simulates pays for it.
    from emsynth.simulation import multislice

    made = multislice.simulate(small, microscope, settings, _STREAMS)
    if cached:
        field_cache.keep(key, made)
    return made


def _harmonics_of(image: NDArray[np.float32], harmonics: Harmonics) -> Spectrum:
    """Coefficients (..., rows, cols) of pictures on any finer grid."""
    whole = scipy.fft.rfft2(image.astype(np.float64), norm="forward")
    half = (harmonics.shape[0] - 1) // 2
    width = (harmonics.shape[1] + 1) // 2
    out = np.zeros((*image.shape[:-2], len(harmonics.rows), len(harmonics.cols)), np.complex128)
    out[..., :half + 1, :width] = whole[..., :half + 1, :width]
    out[..., -half:, :width] = whole[..., -half:, :width]
    return out


def fit_lone(element: int, specimen: Specimen, microscope: Microscope, settings: Simulation,
             cached: bool = True) -> Floats:
    """Amplitudes (detector, width) in Å² of a lone atom.

    A lone atom's mean over its thermal motion is its static picture, blurred by that motion: no phonons are needed.
    """
    from ase.data import chemical_symbols

    side = _box_side(microscope, BOX)
    thin = settings.slice_thickness
    atoms = Atoms(numbers=[element], positions=[(side / 2, side / 2, thin / 2)], cell=[side, side, thin], pbc=True)
    static = settings.model_copy(update={"phonons": Phonons(minimum=0, maximum=0), "oversampling": 2.0,
                                         "thicknesses": 1, "film_thicknesses": 1})
    upright = replace(_small(atoms, specimen, settings), mistilt=(0.0, 0.0))
    # A heavy atom scatters up to 3 % more on a point of the potential's grid than between; a quarter off is the mean.
    planned = plan_for(upright, microscope, static)
    place = np.array([side / 2 + side / (n * planned.refinement) / 4 for n in planned.grid])
    atoms.positions[0, :2] = place[::-1]
    made = _pass(upright, microscope, static, cached)
    harmonics = Harmonics((side, side), microscope)
    blur = harmonics.gaussian(specimen.thermal[chemical_symbols[element]])
    seen = harmonics.picture(_harmonics_of(made.image[0], harmonics) * blur)
    seen -= vacuum(microscope, (side, side))[:, None, None]
    # A slice acts at its top.
    factor = harmonics.structure_factors(place[None], np.ones((1, 1)))[0]
    basis = harmonics.picture(factor * harmonics.widths * harmonics.probe(0.0)).reshape(len(WIDTHS), -1)
    amplitude: Floats = _least_squares(basis, seen.reshape(len(seen), -1))
    return amplitude


def _least_squares(basis: Floats, seen: Floats) -> Floats:
    """Amplitudes (picture, basis) by least squares with a small ridge."""
    normal = basis @ basis.T
    diagonal = np.diag_indices_from(normal)
    # What no atom uses (a depth below the end of every column) stays 0.
    normal[diagonal] += RIDGE * normal[diagonal] + 1e-12 * float(np.trace(normal))
    solved: Floats = np.asarray(np.linalg.solve(normal, basis @ seen.T).T, np.float64)
    return solved


def _powers(atoms: Scatterers, length: float) -> Floats:
    """(power, n): powers of the depth within the column, relative to the length of the fit."""
    relative = np.clip((atoms.depth - atoms.top) / length, 0.0, 1.0)
    return np.stack([relative**power for power in POWERS])


def _knots(atoms: Scatterers, length: float) -> Floats:
    """(knot, n): triangles of height 1 at each of `KNOTS`, ending at its neighbours; beyond the last they die away."""
    relative = np.clip(atoms.depth - atoms.top, 0.0, length)
    places = (0.0, *KNOTS, 2 * KNOTS[-1] - KNOTS[-2])
    return np.stack([np.interp(relative, places, unit) for unit in np.eye(len(places))[1:-1]])


def _foci(tilt: Floats) -> tuple[int, ...]:
    """Indices of the `FOCI` that are used; halfway matters only where the column leans."""
    return (0, 1, 2) if np.any(tilt) else (0, 2)


def fit_piece(atoms: Scatterers, specimen: Specimen, microscope: Microscope, settings: Simulation,
              lone: dict[int, Floats], centre: Floats, cached: bool = True) -> dict[int, Response]:
    """Responses of the kinds of column around a point, from multislice of the piece of the specimen there.

    Parameters
    ----------
    atoms : Scatterers
        All atoms of the specimen.
    specimen, microscope, settings
        As for `convolve`.
    lone : dict
        Amplitudes of lone atoms.
    centre : ndarray (2,)
        (row, col) of the middle of the piece in Å.
    cached : bool
        Whether to use the field cache.

    Returns
    -------
    dict
        Response of each kind that has a column in the piece.
    """
    period = specimen.atoms.cell.lengths()[[1, 0]]
    offset = atoms.position - centre
    offset -= period * np.round(offset / period)
    members = np.flatnonzero((np.abs(offset) <= PIECE / 2).all(axis=1) & (atoms.kind >= 0))
    side = _box_side(microscope, BOX)
    box = (side, side)
    thin = settings.slice_thickness
    # By whole slices, and as high as some: where atoms lie in their slices matters for what is elastic.
    raised = max(0.0, math.floor((float(atoms.depth[members].min()) - _LEAD) / thin + 1e-9) * thin)
    piece = replace(atoms.chosen(members), position=offset[members] + side / 2, depth=atoms.depth[members] - raised,
                    top=np.maximum(atoms.top[members] - raised, 0.0))
    height = math.ceil((float(piece.depth.max()) + _TAIL) / thin) * thin
    cut = Atoms(numbers=piece.number, positions=np.column_stack([piece.position[:, ::-1], piece.depth]),
                cell=[side, side, height], pbc=True)
    kept = max(PLANES, math.ceil(height / PLANE_STEP))
    configurations = CONFIGURATIONS if specimen.slab else CONFIGURATIONS_FINITE
    asked = settings.model_copy(update={
        "thicknesses": kept, "film_thicknesses": kept, "oversampling": 2.0,
        "phonons": Phonons(minimum=configurations, maximum=configurations) if settings.phonons.maximum else
        settings.phonons})
    nearer = microscope.model_copy(update={"defocus": number(microscope.defocus) - raised})
    small = _small(cut, specimen, settings)
    made = _pass(small, nearer, asked, cached)
    planned = plan_for(small, nearer, asked)
    planes = np.array(planned.planes) * (planned.depth / planned.slices)
    return _fit(piece, made.image, planes, Harmonics(box, nearer), _tilt(specimen), lone, vacuum(nearer, box))


def _tilt(specimen: Specimen) -> Floats:
    tilt: Floats = np.tan(np.asarray(specimen.mistilt) * 1e-3)
    return tilt


def _fit(piece: Scatterers, image: NDArray[np.float32], planes: Floats, harmonics: Harmonics, tilt: Floats,
         lone: dict[int, Floats], background: Floats) -> dict[int, Response]:
    detectors = len(background)
    seen = harmonics.picture(_harmonics_of(image, harmonics)) - background[:, None, None]
    length = float(np.max(piece.depth - piece.top)) or 1.0
    powers = _powers(piece, length)
    kinds, foci = [int(k) for k in np.unique(piece.kind)], _foci(tilt)
    weight = np.sqrt(_central(harmonics))
    slices = np.searchsorted(planes, piece.depth + 1e-6)
    # Lone atoms first: what is fitted is what they leave.
    amplitude = np.stack([lone[z] for z in piece.number.tolist()], axis=-1)
    change: dict[int, Floats] = {k: np.zeros((detectors, len(FOCI), len(WIDTHS), len(POWERS))) for k in kinds}
    fringe: dict[int, Floats] = {k: np.zeros((detectors, len(KNOTS))) for k in kinds}
    knots = _knots(piece, length)
    residual = np.zeros(detectors)
    growth = []
    for plane in range(len(planes)):
        here = piece.chosen(slices == plane)
        growth.append(_terms(harmonics, here, tilt, 1.0, amplitude[..., slices == plane]) if len(here.depth) else
                      np.zeros((detectors, len(harmonics.rows), len(harmonics.cols))))
    rest = seen - harmonics.picture(np.cumsum(np.array(growth), axis=0))
    for detector in range(detectors):
        section = amplitude[detector].sum(axis=0)
        columns = np.concatenate([
            _design(piece, slices, len(planes), harmonics, tilt, section * powers, kinds, foci),
            _fringes(piece, slices, len(planes), harmonics, tilt, knots[:, None] * amplitude[detector], kinds)])
        scale = weight / seen[:, detector].mean(axis=(1, 2))[:, None, None]
        solved = _least_squares((columns * scale).reshape(len(columns), -1),
                                (rest[:, detector] * scale).reshape(1, -1))[0]
        left = rest[:, detector] - np.tensordot(solved, columns, axes=1)
        residual[detector] = math.sqrt(float(np.mean((left * scale) ** 2) / np.mean(weight**2)))
        beyond = len(kinds) * len(KNOTS)
        shaped = solved[:-beyond].reshape(len(kinds), len(foci), len(WIDTHS), len(POWERS))
        for n, kind in enumerate(kinds):
            change[kind][detector][list(foci)] = shaped[n]
            fringe[kind][detector] = solved[-beyond:].reshape(len(kinds), -1)[n]
    return {kind: Response(change[kind], fringe[kind], length, residual) for kind in kinds}


def _design(piece: Scatterers, slices: Integers, planes: int, harmonics: Harmonics, tilt: Floats, weights: Floats,
            kinds: list[int], foci: tuple[int, ...]) -> Floats:
    """Pictures (unknown, plane, H, W) of every amplitude set to 1."""
    shape = (len(kinds), len(foci), len(WIDTHS), len(POWERS), planes, len(harmonics.rows), len(harmonics.cols))
    spectra = np.zeros(shape, np.complex64)
    for k, kind in enumerate(kinds):
        for f, focus in enumerate(foci):
            for plane in range(planes):
                which = np.flatnonzero((piece.kind == kind) & (slices == plane))
                if len(which):
                    spectra[k, f, :, :, plane] = _unit_terms(harmonics, piece.chosen(which), tilt, FOCI[focus],
                                                             weights[:, which])
    whole: Spectrum = np.cumsum(spectra, axis=4, dtype=np.complex128).reshape(-1, *shape[-3:])
    return harmonics.picture(whole)


def _fringes(piece: Scatterers, slices: Integers, planes: int, harmonics: Harmonics, tilt: Floats, weights: Floats,
             kinds: list[int]) -> Floats:
    """As `_design`, of lone atoms' amplitudes (knot, width, n)."""
    spectra = np.zeros((len(kinds), len(weights), planes, len(harmonics.rows), len(harmonics.cols)), np.complex128)
    for k, kind in enumerate(kinds):
        for plane in range(planes):
            which = np.flatnonzero((piece.kind == kind) & (slices == plane))
            if len(which):
                spectra[k, :, plane] = _terms(harmonics, piece.chosen(which), tilt, 1.0, weights[..., which])
    return harmonics.picture(np.cumsum(spectra, axis=2).reshape(-1, *spectra.shape[2:]))


def _unit_terms(harmonics: Harmonics, atoms: Scatterers, tilt: Floats, part: float, weights: Floats) -> Spectrum:
    """As `_terms`, each width by itself: spectra (width, set, rows, cols) of weights (set, n)."""
    out = np.zeros((len(WIDTHS), len(weights), len(harmonics.rows), len(harmonics.cols)), np.complex128)
    depth, position = atoms.at(part, tilt)
    layer = np.rint(depth / DEPTH_BIN).astype(np.int64)
    for n in np.unique(layer):
        here = np.flatnonzero(layer == n)
        factors = harmonics.structure_factors(position[here], weights[:, here])
        out += factors * harmonics.widths[:, None] * harmonics.probe(float(n) * DEPTH_BIN)
    return out


def _central(harmonics: Harmonics) -> Floats:
    """Weight of each point of a piece: its middle counts, its rim has fewer neighbours than the specimen has."""
    (rows, cols), (height, width) = harmonics.shape, harmonics.box
    row = np.abs(np.arange(rows) / rows - 0.5) * height
    col = np.abs(np.arange(cols) / cols - 0.5) * width
    radius = np.hypot(row[:, None], col)
    weight: Floats = 0.05 + 1 / (1 + np.exp((radius - 3.5) / 0.3))
    return weight


def fitted(specimen: Specimen, microscope: Microscope, asked: Simulation,
           cached: bool = True) -> tuple[Scatterers, Fitted]:
    """Fit all that a specimen needs: its lone atoms, and its kinds of column.

    Pieces are taken where the columns are longest and closest; a kind is fitted in the first piece that has it near
    its middle.
    """
    settings = asked.model_copy(update={"slice_thickness": min(SLICE, asked.slice_thickness)})
    elements = sorted(set(specimen.atoms.numbers.tolist()))
    lone = {z: fit_lone(z, specimen, microscope, settings, cached) for z in elements}
    judged = int(np.argmax([inner for inner, _ in microscope.detector_angles().values()]))
    atoms = scatterers(specimen, {z: float(lone[z][judged].sum()) for z in elements})
    columns: dict[int, Response] = {}
    wanted = set(atoms.kind[atoms.kind >= 0].tolist())
    position, kind, crowd = _crowding(atoms, specimen)
    while wanted:
        candidates = np.flatnonzero(np.isin(kind, list(wanted)))
        centre = position[candidates[np.argmax(crowd[candidates])]]
        found = fit_piece(atoms, specimen, microscope, settings, lone, centre, cached)
        away = position - centre
        period = specimen.atoms.cell.lengths()[[1, 0]]
        away -= period * np.round(away / period)
        central = set(kind[np.hypot(*away.T) < 3.0].tolist())
        columns |= {k: found[k] for k in central & wanted}
        wanted -= central
    return atoms, Fitted(lone, columns)


def _crowding(atoms: Scatterers, specimen: Specimen) -> tuple[Floats, Integers, Floats]:
    """Position and kind of each column, and the length of columns around it that would be in its piece."""
    from scipy.spatial import cKDTree

    count = int(atoms.column.max(initial=-1)) + 1
    inside = np.flatnonzero(atoms.column >= 0)
    number_of = np.bincount(atoms.column[inside], minlength=count)
    position = np.stack([np.bincount(atoms.column[inside], atoms.position[inside, a], count) for a in (0, 1)],
                        axis=1) / np.maximum(number_of, 1)[:, None]
    kind = np.zeros(count, np.int64)
    kind[atoms.column[inside]] = atoms.kind[inside]
    if not count:
        return position, kind, np.zeros(0)
    period = specimen.atoms.cell.lengths()[[1, 0]]
    folded = np.mod(position, period) % period
    tree = cKDTree(folded, boxsize=period)
    near = tree.query_ball_point(folded, min(PIECE / 2, 0.49 * float(period.min())))
    crowd = np.array([float(number_of[others].sum()) for others in near])
    return folded, kind, crowd


def convolve(specimen: Specimen, microscope: Microscope, settings: Simulation, streams: Streams,
             cached: bool = True) -> Field:
    """A field by the convolution model: in seconds where multislice needs hours.

    Parameters
    ----------
    specimen : Specimen
        Any; what is added up per atom is fitted on pieces of it.
    microscope : Microscope
        Drawn microscope.
    settings : Simulation
        Grid and exit planes, as for multislice.
    streams : Streams
        Not used: the phonons of the fit belong to the columns, and are the same in each field.
    cached : bool
        Whether the small multislice passes of the fit are looked for and kept in the field cache.

    Returns
    -------
    Field
        As multislice would give it; ``provenance["deviation"]`` is the largest relative rms deviation from multislice
        on record for each detector.

    Raises
    ------
    FieldError
        Where a detector, the energy, the thickness or the tilt is not among what was checked and passed.
    """
    deviation = check_offered(specimen, microscope)
    return rendered(specimen, microscope, settings, cached, {"deviation": deviation})


def rendered(specimen: Specimen, microscope: Microscope, settings: Simulation, cached: bool = True,
             about: dict[str, Any] | None = None) -> Field:
    """As `convolve`, for any detector and specimen: the errors on record are measured with it."""
    planned = plan_for(specimen, microscope, settings)
    every: Any = specimen.atoms  # ASE has no types
    atoms, fits = fitted(specimen, microscope, settings, cached)
    harmonics = Harmonics(planned.box, microscope, planned.repeats)
    ends = np.array(planned.planes) * (planned.depth / planned.slices)
    shape = picture_shape(planned, settings.oversampling)
    image = harmonics.picture(_spectra(atoms, fits, harmonics, _tilt(specimen), ends), shape)
    image += vacuum(microscope, planned.box)[:, None, None]
    detectors = tuple(microscope.detector_angles())
    return Field(
        image=image.astype(np.float32),
        sampling=(specimen.tile[0] / shape[0], specimen.tile[1] / shape[1]), periodic=True, columns=specimen.columns,
        thickness=np.clip(ends - specimen.entrance, 0.0, specimen.thickness), detectors=detectors,
        band_limit=microscope.band_limit, mistilt=specimen.mistilt, entrance=specimen.entrance,
        repeats=specimen.endless, classes=class_map(specimen),
        provenance={
            "physics": "convolution", "method": "sum of atomic responses, fitted to multislice of pieces",
            "specimen": {"kind": specimen.kind, "structure": specimen.structure, "prototype": specimen.prototype,
                         "formula": every.get_chemical_formula("metal"), "thickness": specimen.thickness,
                         "mistilt": list(specimen.mistilt), **specimen.about},
            "microscope": microscope.model_dump(mode="json"), "simulate": settings.model_dump(mode="json"),
            "box": [*planned.box, planned.depth], "repeats": list(planned.repeats), "atoms": len(specimen.atoms),
            "phonon_configurations": (
                CONFIGURATIONS if specimen.slab else CONFIGURATIONS_FINITE) if settings.phonons.maximum else 0,
            "standard_error": {},
            "kinds_of_column": len(fits.columns),
            "fit_residual": {name: max((float(r.residual[n]) for r in fits.columns.values()), default=0.0)
                             for n, name in enumerate(detectors)}, **(about or {})})


def _spectra(atoms: Scatterers, fits: Fitted, harmonics: Harmonics, tilt: Floats, ends: Floats) -> Spectrum:
    """Coefficients (plane, detector, rows, cols) of the pictures down to each exit plane."""
    lone = np.stack([fits.lone[z] for z in atoms.number.tolist()], axis=-1)
    section = lone.sum(axis=1)
    amplitude = np.zeros((len(FOCI), *lone.shape))
    amplitude[-1] = lone
    for kind, response in fits.columns.items():
        which = np.flatnonzero(atoms.kind == kind)
        powers = _powers(atoms.chosen(which), response.length)
        amplitude[..., which] += np.einsum("dfwp,pn,dn->fdwn", response.change, powers, section[:, which])
        knots = _knots(atoms.chosen(which), response.length)
        amplitude[-1][..., which] += lone[..., which] * np.einsum("dk,kn->dn", response.fringe, knots)[:, None]
    plane = np.searchsorted(ends, atoms.depth + 1e-6)
    out = np.zeros((len(ends), len(section), len(harmonics.rows), len(harmonics.cols)), np.complex128)
    for n in range(len(ends)):
        for f, part in enumerate(FOCI):
            which = np.flatnonzero((plane == n) & ((atoms.kind >= 0) | (f == len(FOCI) - 1)))
            if len(which) and amplitude[f][..., which].any():
                out[n] += _terms(harmonics, atoms.chosen(which), tilt, part, amplitude[f][..., which])
    total: Spectrum = np.cumsum(out, axis=0)
    return total


record = partial(checked.record, "convolution")
record_digest = partial(checked.digest, "convolution")
detector_class = partial(checked.detector_class, "convolution")


def vacant(specimen: Specimen) -> float:
    """Share of the sites within columns that hold no atom, by the spacing of each column's chief element."""
    atoms = scatterers(specimen, {z: float(z) ** 1.7 for z in set(specimen.atoms.numbers.tolist())})
    sites = missing = 0
    for column in range(int(atoms.column.max(initial=-1)) + 1):
        members = np.flatnonzero(atoms.column == column)
        chief = int(np.bincount(atoms.number[members], weights=atoms.number[members] ** 1.7).argmax())
        steps = np.diff(np.sort(atoms.depth[members[atoms.number[members] == chief]]))
        if len(steps):
            # Dumbbells along the beam have two spacings: only what is well beyond the largest usual one is a gap.
            usual = max(float(np.quantile(steps, 0.75)), 0.5)
            sites += len(steps) + 1
            missing += int(np.maximum(np.rint(steps / usual) - 1, 0).sum())
    return missing / max(1, sites + missing)


def check_offered(specimen: Specimen, microscope: Microscope) -> dict[str, float]:
    """Refuse what was not checked against multislice, or failed.

    Returns
    -------
    dict
        Largest relative rms deviation on record, for each detector.

    Raises
    ------
    FieldError
        Naming the detector with its error on record, or what lies outside of what was checked.
    """
    held, bounds = record(), record()["checked"]
    deviation = {}
    for name, angles in microscope.detector_angles().items():
        like = detector_class(angles, number(microscope.convergence))
        worst = float(held["worst"][like])
        if like not in held["offered"]:
            raise FieldError(
                f"microscope.detectors: {name} ({angles[0]:g}-{angles[1]:g} mrad) is like {like} in the check of the "
                f"convolution model, whose relative rms error was {worst:.0%}; at most {held['limit']:.0%} is allowed. "
                f"Offered: {', '.join(held['offered']) or 'none'}, with an inner angle from "
                f"{bounds['inner_least']:g} mrad and {bounds['inner_least_convergences']:g} times the convergence. "
                f"Remove the detector, or use multislice")
        deviation[name] = worst
    tilt, energy = float(np.hypot(*specimen.mistilt)), number(microscope.energy)
    width = 1e3 * microscope.wavelength / number(microscope.convergence)
    if width > WIDEST or microscope.blur > MOST_BLUR:
        raise FieldError(f"microscope.convergence: the convolution model was checked for probes of up to λ/α = "
                         f"{WIDEST:g} Å and {MOST_BLUR:g} Å of blur by aberrations, and this one has {width:.2g} and "
                         f"{microscope.blur:.2g} Å; use a corrected microscope, or multislice")
    for key, value, unit, (low, high) in (
            ("microscope.energy", energy, "eV", bounds["energy"]),
            ("specimen.mistilt", tilt, "mrad", (0.0, bounds["mistilt_most"])),
            ("specimen.thickness", specimen.thickness, "Å", (0.0, bounds["thickness_most"])),
            ("specimen: vacancies", vacant(specimen), "of the sites", (0.0, bounds["vacant_most"]))):
        if not low - 1e-6 <= value <= high + 1e-6:
            raise FieldError(f"{key}: the convolution model was checked from {low:g} to {high:g} {unit}, and this is "
                             f"{value:g}; change it, or use multislice")
    return deviation


def offered(microscope: Microscope) -> tuple[Detector, ...]:
    """The detectors of a drawn microscope that passed the check."""
    convergence, passed = number(microscope.convergence), record()["offered"]
    return tuple(d for d in microscope.detectors if detector_class(d.angles(convergence), convergence) in passed)
