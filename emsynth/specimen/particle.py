"""A faceted metal nanoparticle, free or on an amorphous film."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emsynth.draw import Deal, Drawable, Quantity, Streams, Word, number, quantity
from emsynth.errors import StructureError
from emsynth.specimen.amorphous import MATERIALS, film, quenched_box
from emsynth.specimen.crystal import ZoneAxis, checked_axis, known_names
from emsynth.specimen.table import Axis, Purpose, refuse_reserved, structure

if TYPE_CHECKING:
    from emsynth.specimen.base import Specimen

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


class Nanoparticle(Drawable):
    """A Wulff-shaped particle in zone axis, turned at random about the beam.

    The beam meets the particle first and the film behind it.
    """

    kind: Literal["nanoparticle"] = "nanoparticle"
    structure: Word = Field("Au", description=f"metal of the table: {', '.join(SURFACES)}")
    diameter: Quantity = quantity(30.0, unit="Å", low=10, high=60, about="diameter of the sphere of the same volume")
    zone_axis: ZoneAxis = Field("listed", description="[u, v, w] along the beam, or 'listed'")
    support: Word = Field("C", description=f"element of the amorphous film: {', '.join(MATERIALS)}")
    support_thickness: Quantity = quantity(30.0, unit="Å", low=0, high=100, about="thickness of the film, 0 for none")
    box: Quantity = quantity(50.0, unit="Å", low=16, high=200, about="sides of the box; on a film, whole films; "
                                                                   "enlarged where the particle needs it")

    @field_validator("structure")
    @classmethod
    def _metal(cls, value: Word) -> Word:
        for name in known_names(value):
            if name not in SURFACES:
                raise StructureError(f"no surface energies of {name!r}; particles can be {', '.join(SURFACES)}")
        return value

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

    def build(self, streams: Streams, purpose: Purpose = "build") -> Specimen:
        """The particle, drawn from the stream ``specimen.particle``, and its film."""
        if self.zone_axis == "listed":
            raise TypeError("the zone axis has not been drawn: call .draw(streams) first")
        entry = structure(cast(str, self.structure))
        refuse_reserved(entry.name, entry.prototype, purpose)
        rng = streams.generator("specimen.particle")
        particle = wulff(entry.name, number(self.diameter), rng.uniform(0, 1, 3))
        particle = particle @ _frame(cast(Axis, self.zone_axis), rng.uniform(0, 2 * math.pi)).T
        particle -= (particle.max(axis=0) + particle.min(axis=0)) / 2
        return _placed(self, particle, streams)


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


def _frame(zone: Axis, turn: float) -> Floats:
    """Rows x, y, z of a right-handed frame with z along the zone axis of a cubic crystal, x turned by `turn` rad."""
    z = np.array(zone, float) / np.linalg.norm(zone)
    lead = np.eye(3)[int(np.argmin(np.abs(z)))]
    x = lead - (lead @ z) * z
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    return np.array([math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x, z])


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


def _rest(particle: Floats, below: Floats, side: float) -> float:
    """How far the film must move along the beam for the nearest atoms of both to touch."""
    from scipy.spatial import cKDTree

    period = [side, side]
    trees = [cKDTree(np.mod(points[:, :2], side), boxsize=period) for points in (particle, below)]
    near = trees[0].sparse_distance_matrix(trees[1], CONTACT, output_type="coo_matrix")
    if near.nnz == 0:
        return float(particle[:, 2].max() - below[:, 2].min()) + CONTACT
    drop = np.sqrt(np.maximum(CONTACT**2 - near.data**2, 0.0))
    return float(np.max(particle[near.row, 2] - below[near.col, 2] + drop))
