"""Nanoparticles, alone or several, free or on an amorphous film."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from emsynth.draw import Count, Deal, Drawable, Quantity, Streams, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen import shapes
from emsynth.specimen.amorphous import MATERIALS, film, film_in_box, quenched_box
from emsynth.specimen.crystal import ZoneAxis, checked_axis, known_names
from emsynth.specimen.table import Axis, Purpose, Structure, refuse_reserved, reserved, structure, structures

if TYPE_CHECKING:
    from emsynth.specimen.base import Columns, Specimen

Floats = NDArray[np.float64]

# Surface energies in J/m² of {100}, {110} and {111}, full-charge-density calculations: Vitos, Ruban, Skriver and
# Kollár, Surf. Sci. 411, 186 (1998), table 1 (tungsten's and iron's facets as there).
SURFACES: dict[str, dict[tuple[int, int, int], float]] = {
    "Ag": {(1, 0, 0): 1.200, (1, 1, 0): 1.238, (1, 1, 1): 1.172},
    "Al": {(1, 0, 0): 1.347, (1, 1, 0): 1.271, (1, 1, 1): 1.199},
    "Au": {(1, 0, 0): 1.627, (1, 1, 0): 1.700, (1, 1, 1): 1.283},
    "Cu": {(1, 0, 0): 2.166, (1, 1, 0): 2.237, (1, 1, 1): 1.952},
    "Fe": {(1, 0, 0): 2.222, (1, 1, 0): 2.430, (1, 1, 1): 2.733},
    "Mo": {(1, 0, 0): 3.837, (1, 1, 0): 3.454, (1, 1, 1): 3.740},
    "Ni": {(1, 0, 0): 2.426, (1, 1, 0): 2.368, (1, 1, 1): 2.011},
    "Pd": {(1, 0, 0): 2.326, (1, 1, 0): 2.225, (1, 1, 1): 1.920},
    "Pt": {(1, 0, 0): 2.734, (1, 1, 0): 2.819, (1, 1, 1): 2.299},
    "W": {(1, 0, 0): 4.635, (1, 1, 0): 4.005, (1, 1, 1): 4.452},
}
# Å: nearest approach of a particle's atoms and the film's, between a bond and van der Waals contact.
CONTACT = 2.3
# Atoms whose Wulff shapes differ by less, in Å per J/m², lie on one facet.
SAME_SIZE = 1e-6
# Atoms of the smallest particle: one and its neighbours.
FEWEST = 13
# Å: vacuum around the particle sideways (its images are twice as far), and before and behind the specimen.
CLEARANCE = 4.0
MARGIN = 2.0

SHAPES = ("wulff", "icosahedron", "decahedron", "truncated_octahedron", "cube", "rod", "sphere", "random")
ORIENTATIONS = ("zone", "random")
ARRANGEMENTS = ("beside", "overlapping")
FILMS = ("boxes", "seamless")
# Largest difference of two metals' lattice constants that a coherent core may have: beyond, it would be dislocated.
MISFIT = 0.05
# Å: nearest approach of two particles, wider than any bond.
APART = 3.5
# Å: particles beside each other leave a gap of up to this between the circles that hold them.
GAP = 6.0
# Overlapping particles: distance of their centres in projection, relative to the sum of their radii.
OVERLAP = (0.3, 0.8)
# Diameters of the second and further particles relative to the first one's.
SMALLER = (0.75, 1.0)
PLACINGS = 400
# A randomly turned crystal shows no columns; where this many atoms line up by chance, they are one.
LEAST_COLUMN = 3


class Nanoparticle(Drawable):
    """One to four particles, in zone axis or turned at random, alone or on an amorphous film.

    The beam meets the particles first and the film behind them; of overlapping ones every other lies behind the film.
    """

    kind: Literal["nanoparticle"] = "nanoparticle"
    structure: Word = Field("Au", description="structure of the table; with the shape wulff: "
                                              f"{', '.join(SURFACES)}")
    diameter: Quantity = quantity(30.0, unit="Å", low=10, high=60, about="diameter of the sphere of the same volume")
    zone_axis: ZoneAxis = Field("listed", description="[u, v, w] along the beam, or 'listed'")
    support: Word = Field("C", description=f"element of the amorphous film: {', '.join(MATERIALS)}")
    support_thickness: Quantity = quantity(30.0, unit="Å", low=0, high=100, about="thickness of the film, 0 for none")
    box: Quantity = quantity(50.0, unit="Å", low=16, high=200, about="sides of the box; on a film, whole films; "
                                                                   "enlarged where one Wulff particle needs it")
    shape: Word = Field("wulff", description=", ".join(SHAPES))
    aspect: Quantity = quantity(3.0, unit="1", low=1.2, high=5, about="length of a rod divided by its width")
    orientation: Word = Field("zone", description="zone: `zone_axis` of the (first) grain along the beam, turned at "
                                                  "random about it; random: any rotation alike")
    count: Count = quantity(1, unit="1", low=1, high=4, about="number of particles")
    arrangement: Word = Field("beside", description="of several particles: beside, or overlapping in projection")
    core: Word | None = Field(None, description="metal of the core, of the same lattice as the particle's")
    core_fraction: Quantity = quantity(0.6, unit="1", low=0.2, high=0.9, about="radius of the core in the particle's")
    core_share: Quantity = quantity(1.0, unit="1", low=0.1, high=1, about="share of the core's atoms that are of the "
                                                                          "core's metal; less than 1: an alloy")
    film: Word | None = Field(None, description="boxes: whole quenched boxes side by side; seamless: a film of the "
                                                "box's own size without repeats; where not given, boxes for one "
                                                "Wulff particle in zone axis and seamless for all else")

    @field_validator("structure")
    @classmethod
    def _known(cls, value: Word) -> Word:
        for name in known_names(value):
            structure(name)
        return value

    @field_validator("shape", "orientation", "arrangement", "film")
    @classmethod
    def _words(cls, value: Word | None, info: Any) -> Word | None:
        allowed = {"shape": SHAPES, "orientation": ORIENTATIONS, "arrangement": ARRANGEMENTS, "film": FILMS}
        for name in known_names(value):
            if name not in allowed[info.field_name]:
                raise StructureError(f"no {info.field_name} {name!r}; there are {', '.join(allowed[info.field_name])}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, shape in itertools.product(known_names(self.structure), known_names(self.shape)):
            _refuse_shape(structure(name), shape)
        for name, core in itertools.product(known_names(self.structure), known_names(self.core)):
            _refuse_core(structure(name), core)
        return self

    @field_validator("support")
    @classmethod
    def _film(cls, value: Word) -> Word:
        for name in known_names(value):
            if name not in MATERIALS:
                raise StructureError(f"no amorphous box of {name!r}; there are {', '.join(MATERIALS)}")
        return value

    @field_validator("zone_axis")
    @classmethod
    def _directions(cls, value: Any) -> Any:
        return checked_axis(value)

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Collapse every distribution; ``listed`` becomes one of the structure's zone axes, dealt in turn."""
        from emsynth.specimen.crystal import dealt_axis

        drawn = super().draw(streams, path)
        if drawn.zone_axis != "listed":
            return drawn
        rounds = len(self.structure.values) if isinstance(self.structure, Deal) else 1
        return drawn.model_copy(update={"zone_axis": dealt_axis(cast(str, drawn.structure), streams, path, rounds)})

    @property
    def simple(self) -> bool:
        """Whether it is the one Wulff particle in zone axis, on whole boxes of film."""
        return (self.shape, self.orientation, int(number(self.count)), self.core) == ("wulff", "zone", 1, None) and \
            self.film != "seamless"

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The particles and their film.

        Parameters
        ----------
        streams : Streams
            Random streams of the field: the first particle is drawn from ``specimen.particle``, the others from
            ``specimen.particle.1`` and so on, their places from ``specimen.particle.places``, the core's atoms from
            ``specimen.particle.core``; for the film's see `film` and `film_in_box`.
        purpose : str
            ``"suite"`` or ``"tune"`` may use the prototypes that are reserved for it.

        Raises
        ------
        StructureError
            Where the prototype is reserved, or the particles do not fit into the box.
        """
        if self.zone_axis == "listed":
            raise TypeError("the zone axis has not been drawn: call .draw(streams) first")
        entry = structure(cast(str, self.structure))
        refuse_reserved(entry.name, entry.prototype, purpose)
        if not self.simple:
            return _several(self, entry, streams)
        rng = streams.generator("specimen.particle")
        particle = wulff(entry.name, number(self.diameter), rng.uniform(0, 1, 3))
        particle = particle @ shapes.frame_along(cast(Any, self.zone_axis), rng.uniform(0, 2 * math.pi)).T
        particle -= (particle.max(axis=0) + particle.min(axis=0)) / 2
        return _placed(self, particle, streams)


def _refuse_shape(entry: Structure, shape: str) -> None:
    """StructureError where a structure has no such shape, with those that have it."""
    drawable = [other for other in structures() if reserved(other.prototype) is None]
    if entry.layer:
        names = ", ".join(other.name for other in drawable if not other.layer)
        raise StructureError(f"{entry.name} is a single layer; particles can be {names}")
    if shape == "wulff" and entry.name not in SURFACES:
        raise StructureError(f"no surface energies of {entry.name!r} for the shape wulff; such particles can be "
                             f"{', '.join(SURFACES)}; for another choose the shape random, sphere or rod")
    rule = {**dict.fromkeys(shapes.TWINS, (shapes.is_metal, "a face-centred cubic metal")),
            "truncated_octahedron": (shapes.is_cubic, "a cubic structure"),
            "cube": (shapes.is_right_angled, "a structure with right angles")}.get(shape)
    if rule is not None and not rule[0](entry):
        names = ", ".join(other.name for other in drawable if not other.layer and rule[0](other))
        raise StructureError(f"{entry.name} cannot be of the shape {shape}, which needs {rule[1]}: {names}; or choose "
                             f"the shape random, sphere or rod")


def _refuse_core(entry: Structure, core: str) -> None:
    """StructureError where a metal cannot be the coherent core of a particle, with those that can."""
    able = [other.name for other in structures()
            if other.name != entry.name and len(other.thermal) == len(entry.thermal) == 1
            and other.prototype == entry.prototype and not other.layer
            and max(abs(a / b - 1) for a, b in zip(other.cell[:3], entry.cell[:3], strict=True)) <= MISFIT]
    if core not in able:
        choice = ", ".join(able) if able else "none"
        raise StructureError(f"{core} cannot be the core of a particle of {entry.name}: both must be elements of one "
                             f"lattice, within {MISFIT:.0%} in size; possible are {choice}")


def wulff(name: str, diameter: float, centre: Floats) -> Floats:
    """The equilibrium shape whose volume is nearest to that of a sphere.

    Parameters
    ----------
    name : str
        Metal of the table.
    diameter : float
        Diameter of the sphere in Å.
    centre : ndarray (3,)
        Where in the conventional cell the centre of the shape lies, in fractions of the cell.

    Returns
    -------
    ndarray (n, 3)
        Atoms in Å from the centre, in the crystal's axes. All facets are whole, so the volume goes in steps.

    Notes
    -----
    Wulff's theorem: the distance of each facet from the centre is proportional to its surface energy (Herring, Phys.
    Rev. 82, 87 (1951)).
    """
    entry = structure(name)
    atoms = entry.atoms()
    normals, energies = _facets(SURFACES[name])
    count = round(math.pi / 6 * diameter**3 / atoms.cell.volume * len(atoms))
    reach = int(diameter / entry.cell[0]) + 2
    cells = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3))) @ atoms.cell[:]
    position = (cells[:, None] + atoms.positions[None]).reshape(-1, 3) - centre @ atoms.cell[:]
    # The smallest Wulff shape that reaches each atom. All atoms of a facet, and those of facets that a symmetry about
    # the centre makes equal, have the same: the particle ends where the next atom's differs.
    size = np.max(position @ normals.T / energies, axis=1)
    order = np.argsort(size, kind="stable")
    closed = np.flatnonzero(np.diff(size[order]) > SAME_SIZE) + 1
    chosen = closed[np.argmin(np.abs(closed - max(count, FEWEST)))]
    kept: Floats = position[order[:chosen]]
    return kept


def sphere_diameter(name: str, count: int) -> float:
    """Diameter in Å of the sphere that has the volume of `count` atoms."""
    atoms = structure(name).atoms()
    return float((6 / math.pi * count * atoms.cell.volume / len(atoms)) ** (1 / 3))


def _facets(surfaces: dict[tuple[int, int, int], float]) -> tuple[Floats, Floats]:
    normals, energies = [], []
    for plane, energy in surfaces.items():
        for order in set(itertools.permutations(plane)):
            for signs in itertools.product((1, -1), repeat=3):
                normals.append([s * n for s, n in zip(signs, order, strict=True)])
                energies.append(energy)
    directions = np.array(normals, float)
    return directions / np.linalg.norm(directions, axis=1)[:, None], np.array(energies)


def _placed(recipe: Nanoparticle, particle: Floats, streams: Streams) -> Specimen:
    from ase import Atoms

    from emsynth.specimen.base import Specimen
    from emsynth.specimen.columns import cluster, describe
    from emsynth.specimen.thermal import default_displacement

    entry = structure(cast(str, recipe.structure))
    material, thickness = cast(str, recipe.support), number(recipe.support_thickness)
    side = max(number(recipe.box), float(np.ptp(particle[:, :2], axis=0).max()) + 2 * CLEARANCE)
    below = np.zeros((0, 3))
    if thickness > 0:
        unit = quenched_box(material).side
        tiles = math.ceil(side / unit - 1e-6)
        side = tiles * unit
        below = film(material, thickness, tiles, streams)
    particle = particle + np.array([side / 2, side / 2, MARGIN - particle[:, 2].min()])
    if len(below):
        below[:, 2] += _rest(particle, below, side)
    position = np.concatenate([particle, below])
    height = float(position[:, 2].max()) + MARGIN
    symbols = [entry.formula] * len(particle) + [material] * len(below)
    atoms = Atoms(symbols, positions=position, cell=[side, side, math.ceil(height)], pbc=True)
    clusters = cluster(particle[:, :2], (side, side))
    columns = describe(clusters, np.arange(len(particle)), particle[:, 2],
                       atoms.numbers[:len(particle)].astype(np.int64), 1)
    thermal = dict(entry.thermal)
    if len(below):
        thermal.setdefault(material, default_displacement(material))
    name = f"{entry.name} on a-{material}" if len(below) else entry.name
    return Specimen(atoms=atoms, tile=(side, side), columns=columns, thermal=thermal, mistilt=(0.0, 0.0),
                    kind="nanoparticle", structure=name, prototype=entry.prototype, thickness=height - 2 * MARGIN,
                    about={"zone_axis": list(cast(Axis, recipe.zone_axis)), "particle_atoms": len(particle),
                           "diameter": round(sphere_diameter(entry.name, len(particle)), 3), "box": round(side, 4),
                           "thermal_source": entry.thermal_source},
                    entrance=MARGIN, slab=False,
                    grain=np.repeat(np.array([0, -1], np.int16), [len(particle), len(below)]))


def _rest(particle: Floats, below: Floats, side: float, contact: float = CONTACT) -> float:
    """How far the film must move along the beam for the nearest atoms of both to be `contact` Å apart."""
    from scipy.spatial import cKDTree

    period = [side, side]
    trees = [cKDTree(np.mod(points[:, :2], side), boxsize=period) for points in (particle, below)]
    near = trees[0].sparse_distance_matrix(trees[1], contact, output_type="coo_matrix")
    if near.nnz == 0:
        return float(particle[:, 2].max() - below[:, 2].min()) + contact
    drop = np.sqrt(np.maximum(contact**2 - near.data**2, 0.0))
    return float(np.max(particle[near.row, 2] - below[near.col, 2] + drop))


class _Piece(NamedTuple):
    """A turned particle about the middle of its box, before it is placed.

    `reach` is the radius in Å of the circle about the origin that holds its projection.
    """

    position: Floats
    number: NDArray[np.int64]
    grain: NDArray[np.int16]
    reach: float
    diameter: float
    about: dict[str, Any]


def _several(recipe: Nanoparticle, entry: Structure, streams: Streams) -> Specimen:
    from ase import Atoms

    from emsynth.specimen.base import Specimen
    from emsynth.specimen.thermal import default_displacement

    material, thickness, side = cast(str, recipe.support), number(recipe.support_thickness), number(recipe.box)
    if thickness > 0 and recipe.film == "boxes":
        side = math.ceil(side / quenched_box(material).side - 1e-6) * quenched_box(material).side
    _refuse_too_large(recipe, side)
    pieces = [_piece(recipe, entry, n, streams) for n in range(int(number(recipe.count)))]
    places = _places(recipe, pieces, side, streams)
    below = np.zeros((0, 3))
    if thickness > 0:
        below = film(material, thickness, round(side / quenched_box(material).side), streams) \
            if recipe.film == "boxes" else film_in_box(material, side, side, thickness, streams)
    bodies = _stacked(recipe, [piece.position + np.append(place, 0.0) for piece, place in
                               zip(pieces, places, strict=True)], below, side)
    first = min(float(part[:, 2].min()) for part in (*bodies, below) if len(part))
    position = np.concatenate([*bodies, below]) + np.array([0.0, 0.0, MARGIN - first])
    numbers = np.concatenate([piece.number for piece in pieces])
    total = len(numbers)
    height = float(position[:, 2].max()) + MARGIN
    counted = np.cumsum([0, *(int(piece.grain.max()) + 1 for piece in pieces)])
    grain = np.concatenate([*(piece.grain + start for piece, start in zip(pieces, counted[:-1], strict=True)),
                            np.full(len(below), -1)])
    atoms = Atoms(numbers=numbers, positions=position[:total], cell=[side, side, math.ceil(height)], pbc=True)
    owner = np.repeat(np.arange(len(pieces)), [len(piece.number) for piece in pieces])
    columns = _columns(position[:total], numbers, owner, side, 1 if recipe.orientation == "zone" else LEAST_COLUMN)
    if len(below):
        atoms += Atoms(f"{material}{len(below)}", positions=position[total:])
    thermal = {**(structure(cast(str, recipe.core)).thermal if recipe.core else {}), **entry.thermal}
    if len(below):
        thermal.setdefault(material, default_displacement(material))
    name = f"{recipe.core}@{entry.name}" if recipe.core else entry.name
    return Specimen(atoms=atoms, tile=(side, side), columns=columns, thermal=thermal, mistilt=(0.0, 0.0),
                    kind="nanoparticle", structure=f"{name} on a-{material}" if len(below) else name,
                    prototype=entry.prototype, thickness=height - 2 * MARGIN,
                    about={"shape": recipe.shape, "orientation": recipe.orientation,
                           **({"zone_axis": list(cast(Axis, recipe.zone_axis))} if recipe.orientation == "zone"
                              else {}),
                           "particle_atoms": total, "particles": [piece.about for piece in pieces],
                           "diameter": round(pieces[0].diameter, 3), "box": round(side, 4),
                           "thermal_source": entry.thermal_source},
                    entrance=MARGIN, slab=False, grain=grain.astype(np.int16))


def _refuse_too_large(recipe: Nanoparticle, side: float) -> None:
    """StructureError where even spheres of that volume could not lie in the box: before anything is built."""
    diameter, count = number(recipe.diameter), int(number(recipe.count))
    room = side - 2 * CLEARANCE
    if diameter > room:
        raise StructureError(f"a particle of {diameter:g} Å is larger than its box of {side:g} Å with {CLEARANCE:g} Å "
                             f"of clearance on each side; choose a diameter of at most {room:g} Å, or a box of at "
                             f"least {diameter + 2 * CLEARANCE:g} Å")
    discs = math.pi / 4 * (diameter + APART) ** 2 * (1 + (count - 1) * SMALLER[0] ** 2)
    if count > 1 and recipe.arrangement == "beside" and discs > 0.85 * side**2:
        raise StructureError(f"{count} particles of {diameter:g} Å beside each other overlap in a box of {side:g} Å; "
                             f"choose a box of at least {math.sqrt(discs / 0.5):.0f} Å, fewer or smaller particles")


def _piece(recipe: Nanoparticle, entry: Structure, n: int, streams: Streams) -> _Piece:
    """Particle number `n`: cut, turned and, where asked for, given its core."""
    from ase.data import atomic_numbers

    rng = streams.generator("specimen.particle" + (f".{n}" if n else ""))
    diameter = number(recipe.diameter) * (1.0 if n == 0 else rng.uniform(*SMALLER))
    if recipe.shape == "wulff":
        position = wulff(entry.name, diameter, rng.uniform(0, 1, 3))
        whole = shapes.Shaped(position, np.full(len(position), atomic_numbers[entry.formula], np.int64),
                              np.zeros(len(position), np.int16), np.eye(3), {})
    else:
        whole = shapes.shaped(entry, cast(str, recipe.shape), diameter, number(recipe.aspect), rng)
    if recipe.orientation == "random":
        turn = shapes.random_rotation(rng)
    else:
        direction = whole.along(np.array(cast(Axis, recipe.zone_axis), float) @ entry.atoms().cell[:])
        turn = shapes.frame_along(direction, rng.uniform(0, 2 * math.pi))
    numbers, about = whole.number, dict(whole.about)
    reached = shapes.sphere_of(len(numbers), entry)
    if recipe.core is not None:
        chance = streams.generator("specimen.particle.core" + (f".{n}" if n else "")).uniform(size=len(numbers))
        middle = whole.position - whole.position.mean(axis=0)
        inside = np.linalg.norm(middle, axis=1) <= number(recipe.core_fraction) * reached / 2
        inside &= chance < number(recipe.core_share)
        numbers = np.where(inside, atomic_numbers[structure(cast(str, recipe.core)).formula], numbers)
        about["core_atoms"] = int(inside.sum())
    position = whole.position @ turn.T
    position -= (position.max(axis=0) + position.min(axis=0)) / 2
    about |= {"atoms": len(numbers), "diameter": round(reached, 3)}
    return _Piece(position, numbers.astype(np.int64), whole.grain,
                  float(np.linalg.norm(position[:, :2], axis=1).max()), reached, about)


def _places(recipe: Nanoparticle, pieces: list[_Piece], side: float, streams: Streams) -> list[Floats]:
    """Centres (x, y) in Å of the particles in the box; none comes nearer than `CLEARANCE` to a border.

    Circles that hold two particles of one level are `APART` at least.
    """
    rng = streams.generator("specimen.particle.places")
    corners = [(piece.position[:, :2].min(axis=0), piece.position[:, :2].max(axis=0)) for piece in pieces]
    for _ in range(PLACINGS):
        places = [np.zeros(2)]
        for n, piece in enumerate(pieces[1:], 1):
            partner = n - 1 if recipe.arrangement == "overlapping" else int(rng.integers(n))
            both, angle = pieces[partner].reach + piece.reach, rng.uniform(0, 2 * math.pi)
            far = both * rng.uniform(*OVERLAP) if recipe.arrangement == "overlapping" else \
                both + APART + rng.uniform(0, GAP)
            places.append(places[partner] + far * np.array([math.cos(angle), math.sin(angle)]))
        level = [n % 2 if recipe.arrangement == "overlapping" else 0 for n in range(len(pieces))]
        clear = all(np.linalg.norm(places[i] - places[j]) >= pieces[i].reach + pieces[j].reach + APART
                    for i, j in itertools.combinations(range(len(pieces)), 2) if level[i] == level[j])
        low = np.min([place + corner[0] for place, corner in zip(places, corners, strict=True)], axis=0)
        high = np.max([place + corner[1] for place, corner in zip(places, corners, strict=True)], axis=0)
        if clear and np.all(high - low <= side - 2 * CLEARANCE):
            return [place + side / 2 - (low + high) / 2 for place in places]
    least = 2 * max(piece.reach for piece in pieces) + 2 * CLEARANCE
    if len(pieces) == 1:
        raise StructureError(f"a {recipe.shape} of {number(recipe.diameter):g} Å is {least - 2 * CLEARANCE:.0f} Å "
                             f"across in projection and larger than its box of {side:g} Å with {CLEARANCE:g} Å of "
                             f"clearance on each side; choose a smaller one, or a box of at least {least:.0f} Å")
    across = sum(2 * piece.reach for piece in pieces) / math.sqrt(len(pieces))
    raise StructureError(f"{len(pieces)} particles of up to {number(recipe.diameter):g} Å, {recipe.arrangement}, "
                         f"overlap in a box of {side:g} Å; choose fewer or smaller ones, or a box of about "
                         f"{across * 1.4 + 2 * CLEARANCE:.0f} Å")


def _stacked(recipe: Nanoparticle, bodies: list[Floats], below: Floats, side: float) -> list[Floats]:
    """The particles at their heights: on the film, every other overlapping one behind it; free ones in the beam's way.

    Free particles beside each other have their middles in one plane; overlapping ones lie one behind the other,
    `APART` where they come nearest.
    """
    behind = [recipe.arrangement == "overlapping" and n % 2 == 1 for n in range(len(bodies))]
    flip = np.array([1.0, 1.0, -1.0])
    placed: list[Floats] = []
    for body, back in zip(bodies, behind, strict=True):
        down = np.zeros(3)
        if len(below):
            down[2] = _rest(body * flip, below * flip, side) if back else -_rest(body, below, side)
        elif recipe.arrangement == "overlapping" and placed:
            down[2] = _rest(body * flip, np.concatenate(placed) * flip, side, APART)
        placed.append(body + down)
    return placed


def _columns(position: Floats, numbers: NDArray[np.int64], owner: NDArray[np.int64], side: float,
             least: int) -> Columns:
    """Columns of each particle for itself, those of `least` atoms and more, numbered by row and col."""
    from emsynth.specimen.columns import Clusters, cluster, describe

    label = np.full(len(position), -1, np.int64)
    centres: list[Floats] = []
    for one in range(int(owner.max()) + 1):
        mine = np.flatnonzero(owner == one)
        found = cluster(position[mine, :2], (side, side))
        label[mine] = np.where(found.label >= 0, found.label + sum(len(part) for part in centres), -1)
        centres.append(found.position)
    centre = np.concatenate(centres)
    kept = np.flatnonzero(np.bincount(label[label >= 0], minlength=len(centre)) >= least)
    order = kept[np.lexsort((np.round(centre[kept, 0], 3), np.round(centre[kept, 1], 3)))]
    rank = np.full(len(centre) + 1, -1, np.int64)
    rank[order] = np.arange(len(order))
    label = rank[label]
    return describe(Clusters(label, centre[order], int(np.sum(label < 0))), np.arange(len(position)), position[:, 2],
                    numbers, 1)
