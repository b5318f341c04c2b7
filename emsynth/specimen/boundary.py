"""Two grains of a crystal that meet in a twin or a symmetric tilt boundary, seen edge-on."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from emsynth.draw import AnyChoice, Choice, Deal, Quantity, Streams, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.block import (
    View,
    bond_table,
    columns_there,
    dense_planes,
    edge_on,
    neighbours,
    refuse_many,
)
from emsynth.specimen.crystal import OfCrystal
from emsynth.specimen.table import Axis, Purpose

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen
    from emsynth.specimen.crystal import _Source

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Signs of x, y, z (y the plane's normal): what grain 1 may be of grain 0, and the centre of symmetry that makes both
# the same.
MIRROR, HALF_TURN, INVERSION = (1, -1, 1), (-1, 1, -1), (-1, -1, -1)
# Among so many of the densest planes that the crystal is not symmetric about, a boundary is chosen at random.
PLANES = 6
# Atoms of two grains that are nearer than this part of the crystal's own distance are one.
TOO_NEAR = 0.75
# No distance of two kinds is taken for larger than this many times the nearest neighbours', when contacts are judged.
CONTACT = 1.45
# Shifts that are tried: parts of the repeat along the boundary and along the beam, and gaps in nearest neighbours.
SLIDES = (0.0, 0.25, 0.5, 0.75)
LIFTS = (0.0, 0.5)
GAPS = (0.0, 0.15)
# Å: along a longer repeat, that of a small-angle boundary, every slide finds the same places, and none is tried.
LONG = 12.0
# Places within one plane's spacing where a grain may end, at most.
MOST_ENDS = 6
# Misfits that differ by less are the same; the first then stands.
TIE = 1e-6
# Largest m and n of the coincidence rotations that are looked through.
LARGEST_INDEX = 40
# Å: a bond that is so much longer has 1/e of the valence: Brown and Altermatt, Acta Cryst. B41, 244 (1985).
SOFTNESS = 0.37
# Misfit in degrees between the tilt asked for and the one built that is worth a longer repeat.
SAME_ANGLE = 0.25


class Coincidence(NamedTuple):
    """A rotation that brings a cubic lattice into coincidence with itself.

    sigma : reciprocal density of the coincidence sites
    angle : rotation about the zone axis in degrees
    plane : (hkl) of the symmetric tilt boundary
    """

    sigma: int
    angle: float
    plane: Axis


def coincidences(zone: Axis, largest: int = LARGEST_INDEX) -> list[Coincidence]:
    """Symmetric tilt boundaries of cubic crystals about a zone axis, by Σ, then angle.

    Parameters
    ----------
    zone : tuple of int
        [uvw]; one of the crystal's mirror planes, {100} or {110}, must contain it.
    largest : int
        Largest m and n.

    Raises
    ------
    StructureError
        Where no mirror plane contains the zone axis.

    Notes
    -----
    Ranganathan, Acta Cryst. 21, 197 (1966): tan(θ/2) = √N n / m with N = u² + v² + w² and Σ = m² + N n², divided by
    2 until it is odd. The boundary lies at θ/2 from a mirror plane of the crystal, which the rotation sends to the
    mirror image: a symmetric tilt boundary is the mirror twin at its own plane.
    """
    axis = np.array(zone) // math.gcd(*zone)
    mirrors = [m for m in itertools.product((0, 1, -1), repeat=3)
               if sorted(map(abs, m)) in ([0, 0, 1], [0, 1, 1]) and int(np.dot(m, axis)) == 0]
    if not mirrors:
        raise StructureError(f"no mirror plane of a cubic crystal contains {list(zone)}, so it has no symmetric tilt "
                             f"boundaries; take an axis such as [0, 0, 1], [0, 1, 1], [1, 1, 1] or [1, 1, 2]")
    first = np.array(min(mirrors, key=lambda m: (sum(map(abs, m)), [-n for n in m])))
    second, square = np.cross(axis, first), int(axis @ axis)
    found: dict[Axis, Coincidence] = {}
    for m, n in itertools.product(range(1, largest + 1), repeat=2):
        if math.gcd(m, n) != 1:
            continue
        sigma = m * m + square * n * n
        while sigma % 2 == 0:
            sigma //= 2
        normal = m * first + n * second
        h, k, l = (int(index) for index in normal // math.gcd(*(int(i) for i in normal)))  # noqa: E741
        angle = math.degrees(2 * math.atan(math.sqrt(square) * n / m))
        if sigma > 1:
            found.setdefault((h, k, l), Coincidence(sigma, angle, (h, k, l)))
    return sorted(found.values(), key=lambda c: (c.sigma, c.angle))


class Boundary(OfCrystal):
    """Two grains with two flat boundaries in the periodic box, both along x (col); grain 0 lies at the lower rows.

    With `plane` the boundary is a twin at that plane; with `sigma` or `angle` a symmetric tilt boundary of a cubic
    crystal; with none of them one of the densest planes, at random.

    Grain 1 is the mirror image of grain 0 or, where a crystal without a centre of symmetry fits better so, grain 0
    after half a turn about the plane's normal. Where the grains end, how far they slide along the boundary and the
    beam and how far they stand apart is chosen from a small set: the atoms' bond valences come as near as they can to
    those in the crystal (the global instability index of Salinas-Sanchez et al., J. Solid State Chem. 100, 201 (1992),
    here with the crystal's own distances). Atoms that are too near each other are merged. Nothing is relaxed further.
    """

    kind: Literal["boundary"] = "boundary"
    plane: Axis | AnyChoice | None = Field(None, description="(h, k, l) of the boundary, containing the zone axis")
    sigma: int | AnyChoice | None = Field(None, description="Σ of a tilt boundary of a cubic crystal about the "
                                                                 "zone axis; of several planes the densest, or the "
                                                                 "one nearest to `angle`")
    angle: Quantity | None = Field(None, description="tilt about the zone axis of a cubic crystal [deg], 1 to 179; the "
                                                     "nearest coincidence is built",
                                   json_schema_extra={"unit": "deg", "low": 1.0, "high": 179.0})
    width: Quantity = quantity(20.0, unit="Å", low=8, high=120, about="width of each grain, at least")
    minimum_box: Quantity = quantity(14.5, unit="Å", low=8, high=120, about="side along the boundary, at least")
    longest_period: Quantity = quantity(45.0, unit="Å", low=5, high=120, about="longest repeat along the boundary")

    @field_validator("plane")
    @classmethod
    def _indices(cls, value: Any) -> Any:
        for plane in value.values if isinstance(value, Choice | Deal) else (value,):
            if plane is not None and not (len(plane) == 3 and all(type(n) is int for n in plane) and any(plane)):
                raise ValueError(f"{plane!r} is no plane; give three whole numbers h, k, l, not all 0")
        return value

    @field_validator("sigma")
    @classmethod
    def _odd(cls, value: Any) -> Any:
        for sigma in value.values if isinstance(value, Choice | Deal) else (value,):
            if sigma is not None and not (type(sigma) is int and sigma >= 3 and sigma % 2 == 1):
                raise ValueError(f"{sigma!r} is no Σ of a cubic crystal; these are odd, from 3")
        return value

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.plane is not None and (self.sigma is not None or self.angle is not None):
            raise ValueError("give either `plane` or `sigma` and `angle`, not both")
        return self

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The two grains; only the choice among dense planes (``specimen.boundary``) and occupants are random.

        Raises
        ------
        StructureError
            Where the plane does not contain the zone axis or is a mirror plane of the crystal, where there is no such
            coincidence, the repeat along the boundary is too long, or the specimen holds too many atoms.
        """
        source = self.source(purpose)
        if source.box:
            raise StructureError(f"{source.name}: is a whole box, not a crystal, and makes no grains")
        view, coincidence = self._view(source, streams)
        periods = max(1, math.ceil(number(self.minimum_box) / view.period - 1e-6))
        width = number(self.width)
        refuse_many(source.name, source.lattice,
                    periods * view.period * 2 * (width + 2 * view.spacing) * number(self.thickness))
        bonds = _bonds(source)
        met = _best_meeting(view, bonds, width)
        return _bicrystal(self, source, view, coincidence, met, bonds, periods, streams)

    def _view(self, source: _Source, streams: Streams) -> tuple[View, Coincidence | None]:
        """The lower grain with the boundary's plane edge-on."""
        if self.plane is not None:
            view = self._edge_on(source, cast(Axis, self.plane))
            if view.symmetric(MIRROR):
                raise StructureError(f"{source.name}: the crystal is its own mirror image at the plane "
                                     f"{list(view.plane)}, so no boundary is there; choose another plane")
            return view, None
        if self.sigma is not None or self.angle is not None:
            return self._tilted(source)
        planes = dense_planes(source.lattice, self.zone, source.cell, 6 * PLANES)
        views = []
        for plane in planes:
            try:
                view = self._edge_on(source, plane)
            except StructureError:
                continue
            if not view.symmetric(MIRROR):
                views.append(view)
            if len(views) == PLANES:
                break
        if not views:
            raise StructureError(f"{source.name}: no plane that contains {list(self.zone)} gives a boundary with a "
                                 f"repeat within {number(self.longest_period):g} Å; choose another zone axis")
        return views[int(streams.generator("specimen.boundary").integers(len(views)))], None

    def _edge_on(self, source: _Source, plane: Axis) -> View:
        view = edge_on(source.lattice, self.zone, source.cell, plane)
        longest = number(self.longest_period)
        if view.period > longest:
            raise StructureError(f"{source.name}: along the plane {list(plane)} the crystal repeats after "
                                 f"{view.period:.1f} Å, at most {longest:g} Å are allowed; choose lower indices, or "
                                 f"a larger `longest_period`")
        return view

    def _tilted(self, source: _Source) -> tuple[View, Coincidence]:
        """The symmetric tilt boundary that `sigma` and `angle` mean."""
        lengths = np.linalg.norm(source.cell, axis=1)
        square = source.cell @ source.cell.T - lengths[0] ** 2 * np.eye(3)
        if np.abs(square).max() > 1e-3 * lengths[0] ** 2:
            raise StructureError(f"{source.name}: `sigma` and `angle` are for cubic crystals; give the `plane` of a "
                                 f"twin instead")
        angle = None if self.angle is None else number(self.angle)
        fits = []
        for option in coincidences(self.zone):
            if self.sigma is not None and option.sigma != self.sigma:
                continue
            away = 0.0 if angle is None else abs(option.angle - angle)
            try:
                view = self._edge_on(source, option.plane)
            except StructureError:
                continue
            if not view.symmetric(MIRROR):
                fits.append((max(away, SAME_ANGLE) if self.sigma is None else away, view.period, option, view))
        if not fits:
            wanted = f"Σ{self.sigma}" if self.sigma is not None else f"a tilt near {angle:g}°"
            some = sorted({c.sigma for c in coincidences(self.zone, 4)})[:8]
            raise StructureError(f"{source.name}: no symmetric boundary of {wanted} about {list(self.zone)} repeats "
                                 f"within {number(self.longest_period):g} Å; Σ can be {', '.join(map(str, some))}, ...")
        best = min(fits, key=lambda fit: (round(fit[0], 6), round(fit[1], 3), fit[2].angle))
        return best[3], best[2]


@dataclass(frozen=True)
class _Meeting:
    """How two grains meet.

    operation : what grain 1 is of grain 0, `MIRROR` or `HALF_TURN`
    ends : heights of the boundaries above and below grain 0, in its own planes, Å
    second : height at which grain 1, turned, ends above in its own planes, Å; of the mirror image not used
    gaps, slide, lift : how far grain 1 stands off at both boundaries, along x and along the beam, Å
    misfit : of both boundaries, see `_misfit`
    """

    operation: tuple[int, int, int]
    ends: tuple[float, float]
    second: float
    gaps: tuple[float, float]
    slide: float
    lift: float
    misfit: tuple[float, float]


@dataclass(frozen=True)
class _Bonds:
    """What ranks the meetings: distance of each pair of kinds, what is too near, how far atoms see, all in Å, and the
    bond valence that each kind receives from each kind in the crystal.
    """

    distance: Floats
    limit: Floats
    reach: float
    bulk: Floats


def _bonds(source: _Source) -> _Bonds:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    distance = bond_table(source.lattice)
    nearest = float(distance.min())
    limit = TOO_NEAR * np.minimum(distance, CONTACT * nearest)
    reach = min(max(1.8 * nearest, 1.15 * float(distance.max())), 5.5)
    lattice = source.lattice
    unit = Atoms(numbers=lattice.kind + 1, positions=lattice.position, cell=lattice.cell, pbc=True)
    i, j, apart = neighbor_list("ijd", unit, reach)
    valences = _valences(lattice.kind[i], lattice.kind[j], i, apart, distance, len(lattice.kind))
    counts = np.bincount(lattice.kind, minlength=len(distance))
    bulk = np.zeros_like(distance)
    np.add.at(bulk, lattice.kind, valences)
    return _Bonds(distance, limit, reach, bulk / np.maximum(counts, 1)[:, None])


def _valences(kind: Integers, other: Integers, atom: Integers, apart: Floats, distance: Floats, count: int) -> Floats:
    """Bond valence that each atom receives from each kind, (atoms, kinds); 1 from a bond as long as the crystal's."""
    received = np.zeros((count, len(distance)))
    np.add.at(received, (atom, other), np.exp((distance[kind, other] - apart) / SOFTNESS))
    return received


def _best_meeting(view: View, bonds: _Bonds, width: float) -> _Meeting:
    """The meeting of least misfit; both boundaries share slide and lift, and each has its own end and gap."""
    levels = view.levels()
    middles = (levels + np.append(levels[1:], levels[0] + view.spacing)) / 2
    ends = np.sort(np.concatenate([levels, middles]))
    if len(ends) > MOST_ENDS:
        ends = ends[np.round(np.linspace(0, len(ends) - 1, MOST_ENDS)).astype(int)]
    gaps = [part * float(bonds.distance.min()) for part in GAPS]
    length, lifts = float(view.along[0]), [part * view.depth for part in LIFTS]
    slides = [part * length for part in SLIDES] if length < LONG else [0.0]
    operations = [MIRROR]
    if not view.symmetric(INVERSION) and not view.symmetric(HALF_TURN) and view.stacking(1) is not None:
        operations.append(HALF_TURN)
    best: tuple[float, _Meeting] | None = None
    for operation, slide, lift in itertools.product(operations, slides, lifts):
        sides = []
        for side in (1, -1):
            options = [(_misfit(view, float(end), side, operation, (slide, side * gap, lift), bonds), gap, float(end))
                       for end in ends for gap in gaps]
            sides.append(min(options, key=lambda option: (round(option[0] / TIE), option[1], option[2])))
        total = sides[0][0] + sides[1][0]
        if best is None or total < best[0] - TIE:
            upper, lower = sides[0][2], sides[1][2]
            # A mirror image meets alike at every lattice plane, a turned grain only where the planes lie above each
            # other.
            higher = math.ceil((lower + width - upper) / view.spacing - 1e-6)
            if operation == HALF_TURN:
                higher = view.stacking(higher) or higher
            upper += view.spacing * higher
            planes = view.stacking(math.ceil((upper - lower + width) / view.spacing - 1e-6)) or 0
            best = total, _Meeting(operation, (upper, lower), lower + planes * view.spacing,
                                   (sides[0][1], sides[1][1]), slide, lift, (sides[0][0], sides[1][0]))
    assert best is not None
    return best[1]


def _misfit(view: View, end: float, side: int, operation: tuple[int, int, int], shift: tuple[float, float, float],
            bonds: _Bonds) -> float:
    """Misfit of a boundary where grain 0 ends at y = `end`: below it with `side` 1, above it with -1.

    Squared relative deviation of the atoms' bond valences from the crystal's, summed over the atoms near the boundary,
    per Å².
    """
    thick = 2 * bonds.reach
    below, above = (end - thick, end), (end, end + thick)
    mine, other = (below, above) if side > 0 else (above, below)
    first, kind = _cut(view, *mine)
    if operation == MIRROR:
        second, kinds = _image(first, operation, end, shift), kind
    else:
        second, kinds = _cut(view, *other)
        second = _image(second, operation, end, shift)
    box = (view.period, math.inf, view.depth)
    position, kinds, _ = merged(np.concatenate([first, second]), np.concatenate([kind, kinds]),
                                np.repeat([0, 1], [len(first), len(second)]), box, bonds.limit)
    near = np.abs(position[:, 1] - end) < bonds.reach
    core = position[near]
    i, j, apart = neighbours(core, position, box, bonds.reach)
    distance = np.linalg.norm(apart, axis=1)
    i, j, distance = (part[distance > 1e-6] for part in (i, j, distance))
    found = _valences(kinds[near][i], kinds[j], i, distance, bonds.distance, len(core))
    wanted = bonds.bulk[kinds[near]]
    return float(np.sum(((found - wanted) / np.maximum(wanted, 1.0)) ** 2)) / (view.period * view.depth * len(wanted.T))


def _cut(view: View, low: float, high: float) -> tuple[Floats, Integers]:
    """One period of a grain; atoms at both ends are in it."""
    return view.sheet(1, low - 1e-3, high + 1e-3)


def _image(position: Floats, operation: tuple[int, int, int], end: float, shift: tuple[float, float, float]) -> Floats:
    """Atoms of grain 1: the mirror image at y = `end`, or turned about the plane's normal; shifted."""
    about = np.array([0.0, end if operation == MIRROR else 0.0, 0.0])
    image: Floats = (position - about) * np.array(operation) + about + np.array(shift)
    return image


def _wrapped(position: Floats, box: tuple[float, float, float]) -> Floats:
    folded = position.copy()
    for axis, side in enumerate(box):
        if math.isfinite(side):
            # What rounding leaves just below the far border stands at the near one.
            folded[:, axis] = np.maximum(folded[:, axis] - side * np.floor(folded[:, axis] / side + 1e-6), 0.0)
    return folded


def merged(position: Floats, kind: Integers, grain: Integers, box: tuple[float, float, float], limit: Floats
           ) -> tuple[Floats, Integers, Integers]:
    """Merge atoms that are too near each other, the nearest pairs first, until there are none.

    Parameters
    ----------
    position : ndarray (n, 3)
        Å; periodic in `box`, where its side is finite.
    kind, grain : ndarray (n,)
        Of each atom.
    box : tuple of float
        Sides in Å.
    limit : ndarray (kinds, kinds)
        Pairs of these kinds that are nearer than this merge, Å.

    Returns
    -------
    position, kind, grain : ndarray
        Two of a kind become one halfway between, of the first's grain; of two kinds the later atom is removed.
    """
    position = _wrapped(position, box)
    for _ in range(20):
        i, j, apart = neighbours(position, position, box, float(limit.max()))
        distance = np.linalg.norm(apart, axis=1)
        # An atom and its own image are one atom.
        near = np.flatnonzero((i < j) & (distance < limit[kind[i], kind[j]]))
        if len(near) == 0:
            break
        order = near[np.lexsort((j[near], i[near], np.round(distance[near], 4)))]
        used, gone = np.zeros(len(position), bool), np.zeros(len(position), bool)
        for pair in order:
            a, b = i[pair], j[pair]
            if used[a] or used[b]:
                continue
            used[a] = used[b] = gone[b] = True
            if kind[a] == kind[b]:
                position[a] += apart[pair] / 2
        position, kind, grain = _wrapped(position[~gone], box), kind[~gone], grain[~gone]
    return position, kind, grain


def _bicrystal(recipe: Boundary, source: _Source, view: View, coincidence: Coincidence | None, met: _Meeting,
               bonds: _Bonds, periods: int, streams: Streams) -> Specimen:
    from ase import Atoms

    from emsynth.specimen.base import Specimen
    from emsynth.specimen.columns import cluster
    from emsynth.specimen.crystal import _stack
    from emsynth.specimen.reading import occupy
    from emsynth.specimen.zone import Period

    upper, lower = met.ends
    first, kind = _cut(view, lower, upper)
    shift = (met.slide, met.gaps[0], met.lift)
    if met.operation == MIRROR:
        second, kinds, top = _image(first, MIRROR, upper, shift), kind, 2 * upper - lower
    else:
        second, kinds = _cut(view, upper, met.second)
        second, top = _image(second, met.operation, upper, shift), met.second
    height = top - lower + sum(met.gaps)
    together = np.concatenate([first, second]) - np.array([0.0, lower, 0.0])
    position, kind, grain = merged(together, np.concatenate([kind, kinds]),
                                   np.repeat([0, 1], [len(first), len(second)]), (view.period, height, view.depth),
                                   bonds.limit)
    removed = len(together) - len(position)
    steps = np.arange(periods)[:, None, None] * np.array([view.period, 0.0, view.rise])
    position = (position[None] + steps).reshape(-1, 3)
    position = _wrapped(position, (math.inf, math.inf, view.depth))
    kind, grain = np.tile(kind, periods), np.tile(grain, periods)
    box = (periods * view.period, height)
    period = Period(position, kind, box, view.depth, (0.0, 0.0))
    stack = _stack(source, period, number(recipe.thickness))
    numbers = occupy(kind[stack.parent], source.occupants, streams.generator("specimen.occupants"))
    there = numbers > 0
    parent, numbers = stack.parent[there], numbers[there]
    place = np.column_stack([position[parent, :2], stack.z[there]])
    clusters = cluster(position[:, :2], box)
    columns = columns_there(clusters, clusters.label[parent], place, numbers, box)
    about: dict[str, Any] = source.about | {
        "zone_axis": list(recipe.zone), "boundary_plane": list(view.plane), "boundary_period": round(view.period, 4),
        "beam_repeat": round(view.depth, 4),
        "grain_1": "mirror image" if met.operation == MIRROR else "half turn about the plane's normal",
        "slide": round(met.slide, 4), "lift": round(met.lift, 4), "gaps": [round(gap, 4) for gap in met.gaps],
        "merged_atoms_per_period": removed, "bond_valence_misfit": [round(misfit, 4) for misfit in met.misfit]}
    if coincidence is not None:
        about |= {"sigma": coincidence.sigma, "tilt_angle": round(coincidence.angle, 4)}
    if abs(view.rise) > 0.05:
        about["border_shift_along_beam"] = [0.0, round(periods * view.rise, 4)]
    if clusters.smeared:
        about["atoms_without_column"] = round(clusters.smeared / len(position), 4)
    if stack.note:
        about["thickness"] = stack.note
    return Specimen(
        atoms=Atoms(numbers=numbers, positions=place, cell=[*box, stack.height], pbc=True), tile=(box[1], box[0]),
        columns=columns, thermal=source.thermal, mistilt=recipe.tilt, kind="boundary", structure=source.name,
        prototype=source.prototype, thickness=stack.thickness, about=about, entrance=stack.entrance, slab=stack.slab,
        grain=grain[parent].astype(np.int16), endless=(False, True))
