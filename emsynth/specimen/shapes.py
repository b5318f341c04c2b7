"""Shapes of particles: which atoms of a crystal, or of a five-fold twin of one, a particle holds."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StructureError
from emsynth.specimen.table import Structure

if TYPE_CHECKING:
    from collections.abc import Iterable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Grains = NDArray[np.int16]

# Twinned shapes and the ones that ASE builds have the face-centred cubic metals' lattice.
TWINS = ("icosahedron", "decahedron")
# Uniform scale that gives an atom of a five-fold twin, which cannot be filled without strain, the bulk's volume. The
# rhombohedra between neighbouring five-fold axes are wider than the lattice's (63.43 against 60 degrees), the sectors
# about the decahedron's axis too (72 against 70.53 degrees).
TWIN_SCALE = {
    "icosahedron": (math.sqrt(0.5) / math.sqrt(1 - 3 / 5 + 2 / math.sqrt(125))) ** (1 / 3),
    "decahedron": (math.sqrt(8 / 9) / math.sin(math.radians(72))) ** (1 / 3),
}
# Degrees: the strained grains of an icosahedron are off their lattice by up to about 2.
SNAP = 4.0
# Particles of magic size within this of the diameter asked for are drawn from; else the nearest is taken.
NEAR_SIZE = 0.03
# Neighbours of a site are what lies within this many times its shortest distance: less than the second shell of bcc,
# and than the distance of oxygen atoms in fluorite.
BOND = 1.15
# An atom with less than this share of the bulk's neighbours is no part of a facet but a stray one.
LEAST_BOUND = 0.4
# A shape grows so many times to make up for its stray atoms.
GROWN = 4
# Sizes that differ by less, relative to the particle's, lie on one facet.
SAME_SIZE = 1e-6
# Random cuts: facets between these numbers, and their distances relative to the nearest possible.
FACETS = (8, 20)
DISTANCES = (0.8, 1.1)
# No corner of a random cut lies much farther out than this.
BOUND = 1.25


class Shaped(NamedTuple):
    """A particle before it is turned.

    position : (n, 3) Å, from about the centre; number : (n,) atomic numbers; grain : (n,) from 0
    frame : rows are the particle's directions of the first grain's Cartesian crystal axes
    about : what the shape came to, plain JSON values
    axes : (k, 3) symmetry axes of the whole particle, unit vectors
    """

    position: Floats
    number: Integers
    grain: Grains
    frame: Floats
    about: dict[str, Any]
    axes: Floats = np.zeros((0, 3))

    def along(self, direction: Floats) -> Floats:
        """The particle's direction of the first grain's Cartesian `direction`.

        Where that comes within `SNAP` of a symmetry axis of a twin, it is that axis: they differ only because the
        grains are strained to close the twin.
        """
        here: Floats = direction @ self.frame / np.linalg.norm(direction)
        if len(self.axes):
            nearest: Floats = self.axes[int(np.argmax(self.axes @ here))]
            if nearest @ here >= math.cos(math.radians(SNAP)):
                return nearest
        return here


class Facets(NamedTuple):
    """A convex polyhedron about the origin: outward unit normals (m, 3) and distances (m,)."""

    normal: Floats
    distance: Floats

    def measured(self) -> tuple[float, float]:
        """Volume, and distance of the farthest corner."""
        from scipy.spatial import ConvexHull, HalfspaceIntersection

        planes = np.column_stack([self.normal, -self.distance])
        corners = HalfspaceIntersection(planes, np.zeros(3)).intersections
        return float(ConvexHull(corners).volume), float(np.linalg.norm(corners, axis=1).max())

    def scaled(self, volume: float) -> Facets:
        """The similar polyhedron of that volume."""
        return Facets(self.normal, self.distance * (volume / self.measured()[0]) ** (1 / 3))


def sphere_volume(diameter: float) -> float:
    """Volume of a sphere."""
    return math.pi / 6 * diameter**3


def sphere_of(count: int, entry: Structure) -> float:
    """Diameter in Å of the sphere that has the volume of `count` atoms of a structure."""
    atoms = entry.atoms()
    return float((6 / math.pi * count * atoms.cell.volume / len(atoms)) ** (1 / 3))


def random_rotation(rng: np.random.Generator) -> Floats:
    """A rotation matrix, uniform over all rotations, from three uniform numbers (Shoemake, Graphics Gems III, 1992)."""
    share, first, second = rng.uniform(0, 1, 3)
    a, b = math.sqrt(1 - share), math.sqrt(share)
    x, y = a * math.sin(2 * math.pi * first), a * math.cos(2 * math.pi * first)
    z, w = b * math.sin(2 * math.pi * second), b * math.cos(2 * math.pi * second)
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def frame_along(direction: Floats, turn: float) -> Floats:
    """Rows x, y, z of a right-handed frame with z along `direction` and x turned about it by `turn` rad."""
    z = np.asarray(direction, float) / np.linalg.norm(direction)
    lead = np.eye(3)[int(np.argmin(np.abs(z)))]
    x = lead - (lead @ z) * z
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    return np.array([math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x, z])


def is_cubic(entry: Structure) -> bool:
    """Whether the conventional cell is a cube."""
    return len(set(entry.cell[:3])) == 1 and is_right_angled(entry)


def is_right_angled(entry: Structure) -> bool:
    """Whether all angles of the conventional cell are 90 degrees."""
    return set(entry.cell[3:]) == {90}


def is_metal(entry: Structure, lattice: str = "fcc") -> bool:
    """Whether it is an element with that lattice."""
    return entry.prototype == lattice and len(entry.thermal) == 1


def shaped(entry: Structure, shape: str, diameter: float, aspect: float, rng: np.random.Generator) -> Shaped:
    """A particle of any shape but Wulff's.

    Parameters
    ----------
    entry : Structure
        What it is made of.
    shape : str
        ``icosahedron``, ``decahedron``, ``truncated_octahedron``, ``cube``, ``rod``, ``sphere`` or ``random``.
    diameter : float
        Diameter in Å of the sphere of the same volume.
    aspect : float
        Length of a rod divided by its width.
    rng : numpy.random.Generator
        Where the centre lies in the cell, the facets of a random cut, and which of several magic sizes.

    Raises
    ------
    StructureError
        Where the structure has no such shape.
    """
    if shape == "icosahedron":
        return _icosahedron(entry, diameter)
    if shape == "decahedron":
        return _decahedron(entry, diameter, rng)
    if shape == "truncated_octahedron" and is_metal(entry):
        return _octahedron(entry, diameter, rng)
    centre = rng.uniform(0, 1, 3)
    if shape == "sphere":
        return cut(entry, None, diameter, centre)
    facets = {"cube": _cube, "truncated_octahedron": _fourteen_faces}.get(shape)
    if facets is not None:
        return cut(entry, facets(), diameter, centre)
    if shape == "rod":
        return cut(entry, rod_facets(entry, aspect), diameter, centre)
    if shape == "random":
        return cut(entry, random_facets(rng), diameter, centre)
    raise StructureError(f"no particle shape {shape!r}")


def cut(entry: Structure, facets: Facets | None, diameter: float, centre: Floats) -> Shaped:
    """What a polyhedron, or a sphere where there are no facets, holds of a crystal.

    Parameters
    ----------
    entry : Structure
        The crystal.
    facets : Facets or None
        Shape, whatever its size.
    diameter : float
        Diameter in Å of the sphere of the same volume.
    centre : ndarray (3,)
        Where in the conventional cell the centre of the shape lies, in fractions of the cell.

    Notes
    -----
    The polyhedron grows until it holds the number of atoms nearest to what the volume asks for; all atoms that it
    reaches at once come together. Atoms with less than `LEAST_BOUND` of the bulk's neighbours are left out, the shape
    growing to make up for them.
    """
    atoms = entry.atoms()
    volume = sphere_volume(diameter)
    wanted = max(round(volume / atoms.cell.volume * len(atoms)), 13)
    if facets is None:
        reach = diameter / 2
    else:
        facets = facets.scaled(volume)
        reach = facets.measured()[1]
    position, site = _lattice(atoms, 1.1 * reach + 4.0, centre)
    size = np.linalg.norm(position, axis=1) / reach if facets is None else \
        np.max(position @ facets.normal.T / facets.distance, axis=1)
    order = np.argsort(size, kind="stable")
    position, site = position[order], site[order]
    closed = np.flatnonzero(np.diff(size[order]) > SAME_SIZE) + 1
    bonds = _bonds(atoms)
    goal, kept = wanted, np.zeros(0, np.int64)
    for _ in range(GROWN):
        count = int(closed[np.argmin(np.abs(closed - goal))])
        bound = _bound(position[:count], site[:count], bonds)
        if abs(len(bound) - wanted) < abs(len(kept) - wanted):
            kept = bound
        goal += wanted - len(bound)
    if len(kept) < wanted / 2:
        raise StructureError(f"{entry.name}: a particle of {diameter:g} Å of this shape is too thin to hold together; "
                             f"make it larger, or a rod shorter")
    return Shaped(position[kept], atoms.numbers[site[kept]].astype(np.int64), np.zeros(len(kept), np.int16), np.eye(3),
                  {})


def _lattice(atoms: Any, radius: float, centre: Floats) -> tuple[Floats, Integers]:
    """All atoms (n, 3) of a crystal within `radius` of a point of its cell, and their sites."""
    cell = atoms.cell[:]
    inverse = np.linalg.inv(cell)
    reach = [math.ceil(radius * float(np.linalg.norm(inverse[:, a]))) + 1 for a in range(3)]
    cells = np.array(list(itertools.product(*[range(-n, n + 1) for n in reach]))) @ cell
    position = (cells[:, None] + atoms.positions[None]).reshape(-1, 3) - centre @ cell
    site = np.tile(np.arange(len(atoms)), len(cells))
    near = np.sum(position**2, axis=1) <= radius**2
    return position[near], site[near]


def _bonds(atoms: Any) -> tuple[Floats, Integers]:
    """Bond length limit in Å and number of neighbours of each site of a crystal."""
    from ase.neighborlist import neighbor_list

    first, distance = neighbor_list("id", atoms, 4.5)
    nearest = np.full(len(atoms), np.inf)
    np.minimum.at(nearest, first, distance)
    limit = BOND * nearest
    within = distance <= limit[first]
    return limit, np.bincount(first[within], minlength=len(atoms)).astype(np.int64)


def _bound(position: Floats, site: Integers, bonds: tuple[Floats, Integers]) -> Integers:
    """Indices of the atoms that keep enough neighbours when the stray ones are taken away, layer after layer."""
    from scipy.spatial import cKDTree

    limit, coordination = bonds
    pairs = cKDTree(position).query_pairs(float(limit.max()), output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    distance = np.linalg.norm(position[both[:, 0]] - position[both[:, 1]], axis=1)
    both = both[distance <= limit[site[both[:, 0]]]]
    least = np.ceil(LEAST_BOUND * coordination)[site]
    there = np.ones(len(position), bool)
    while True:
        linked = both[there[both[:, 0]] & there[both[:, 1]]]
        stray = there & (np.bincount(linked[:, 0], minlength=len(position)) < least)
        if not stray.any():
            return np.flatnonzero(there).astype(np.int64)
        there &= ~stray


def _facets(directions: Iterable[Iterable[float]], distances: Iterable[float]) -> Facets:
    normal = np.array([list(direction) for direction in directions], float)
    return Facets(normal / np.linalg.norm(normal, axis=1)[:, None], np.array(list(distances), float))


def _signs(*vectors: Iterable[float]) -> list[Floats]:
    return [sign * np.asarray(vector, float) for vector in vectors for sign in (1, -1)]


def _cube() -> Facets:
    directions = _signs(*np.eye(3))
    return _facets(directions, [1.0] * len(directions))


def _fourteen_faces() -> Facets:
    """{100} and {111} of a regular truncated octahedron."""
    octants = [np.array(signs, float) for signs in itertools.product((1, -1), repeat=3)]
    return _facets(_signs(*np.eye(3)) + octants, [2.0] * 6 + [math.sqrt(3)] * 8)


def rod_facets(entry: Structure, aspect: float) -> Facets:
    """A prism along c, closed by a basal plane and a ring of chamfers at each end.

    Parameters
    ----------
    entry : Structure
        Its cell gives the side planes: (100), (010), (110) and (1-10), but the three {10-10} planes where the cell
        is hexagonal.
    aspect : float
        Length divided by width.
    """
    reciprocal = np.linalg.inv(entry.atoms().cell[:]).T
    a, b = reciprocal[:2]
    axis = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
    sides = _signs(a, b, a - b) if entry.cell[5] == 120 else _signs(a, b, a + b, a - b)
    sides = [side / np.linalg.norm(side) for side in sides]
    ends = _signs(axis)
    chamfers = [side + end for side in sides for end in ends]
    return _facets(sides + ends + chamfers, [1.0] * len(sides) + [aspect] * 2 +
                   [(1 + aspect - 0.35) / math.sqrt(2)] * len(chamfers))


def random_facets(rng: np.random.Generator) -> Facets:
    """Half-spaces in random directions about a sphere, whatever the lattice: the shape of a broken grain (ours)."""
    count = int(rng.integers(FACETS[0], FACETS[1] + 1))
    directions = list(rng.normal(size=(count, 3)))
    bounds = list(_fourteen_faces().normal @ random_rotation(rng))
    return _facets(directions + bounds, [*rng.uniform(*DISTANCES, count), *[BOUND] * len(bounds)])


def _nearest_sizes(entry: Structure, diameter: float, counts: dict[Any, int]) -> list[Any]:
    """Keys whose number of atoms makes a particle within `NEAR_SIZE` of `diameter`; the nearest where none does."""
    alone = sphere_of(1, entry)
    off = {key: abs(alone * count ** (1 / 3) / diameter - 1) for key, count in counts.items()}
    near = [key for key, value in off.items() if value <= NEAR_SIZE]
    return near or [min(off, key=lambda key: off[key])]


def icosahedron_atoms(shells: int) -> int:
    """Atoms of Mackay's icosahedron with that many shells, the centre being the first."""
    return (10 * shells**3 - 15 * shells**2 + 11 * shells - 3) // 3


def _icosahedron(entry: Structure, diameter: float) -> Shaped:
    """Twenty tetrahedra about a point (Mackay, Acta Cryst. 15, 916 (1962)), built by ASE."""
    from ase.cluster import Icosahedron

    shells = _nearest_sizes(entry, diameter, {n: icosahedron_atoms(n) for n in range(2, 20)})[0]
    made = Icosahedron(entry.formula, shells, TWIN_SCALE["icosahedron"] * entry.cell[0])
    position = made.positions - made.positions.mean(axis=0)
    golden = (1 + math.sqrt(5)) / 2
    corners = np.array([[s * v for v, s in zip(turned, signs, strict=True)] for turned in
                        ((golden, 0, 1), (1, golden, 0), (0, 1, golden))
                        for signs in itertools.product((1, -1), repeat=3)], float)
    corners = np.unique(corners, axis=0)
    faces = [c for c in itertools.combinations(range(12), 3)
             if all(abs(np.linalg.norm(corners[i] - corners[j]) - 2) < 1e-6 for i, j in itertools.combinations(c, 2))]
    normal = np.array([corners[list(face)].sum(axis=0) for face in faces])
    # An atom of a twin plane goes to the first of its grains.
    grain = np.argmax(np.round(position @ normal.T, 6), axis=1)
    frame = _fitted(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], float), corners[list(faces[0])])
    edges = [corners[i] + corners[j] for i, j in itertools.combinations(range(12), 2)
             if abs(np.linalg.norm(corners[i] - corners[j]) - 2) < 1e-6]
    axes = np.concatenate([corners, normal, edges])
    return Shaped(position, made.numbers.astype(np.int64), grain.astype(np.int16), frame,
                  {"shells": int(shells), "grains": 20, "five_fold_axes": 6},
                  axes / np.linalg.norm(axes, axis=1)[:, None])


def decahedron_atoms(p: int, q: int, r: int) -> int:
    """Atoms of ASE's decahedron: `p`, `q` atoms along the edges, notches `r` deep."""
    height = p + q + 2 * r - 1
    rings = height - q + 1
    return height + sum(5 * sum(n - i < rings - r and i < rings - r for i in range(n)) * (height - n)
                        for n in range(1, min(height, rings)))


def _decahedron(entry: Structure, diameter: float, rng: np.random.Generator) -> Shaped:
    """Five tetrahedra about an axis, with re-entrant edges (Marks, J. Cryst. Growth 61, 556 (1983)), built by ASE."""
    from ase.cluster import Decahedron

    counts = {}
    for p, q, r in itertools.product(range(2, 16), range(2, 16), range(1, 4)):
        height, rings = p + q + 2 * r - 1, p + 2 * r
        # As high as wide, or nearly; and a notch is a small part of an edge.
        if 0.75 <= (height - 1) / (1.5 * (rings - 1)) <= 1.35 and 2 * r < p + 1:
            counts[p, q, r] = decahedron_atoms(p, q, r)
    near = _nearest_sizes(entry, diameter, counts)
    p, q, r = near[int(rng.integers(len(near)))]
    made = Decahedron(entry.formula, p, q, r, TWIN_SCALE["decahedron"] * entry.cell[0])
    position = made.positions - made.positions.mean(axis=0)
    # ASE's twin planes are those that hold the axis z and the directions 90 + 72 n degrees.
    angle = np.degrees(np.arctan2(position[:, 1], position[:, 0])) - 90.0
    off_axis = np.hypot(position[:, 0], position[:, 1]) > 0.1
    grain = np.where(off_axis, np.floor(np.mod(angle + 1e-4, 360.0) / 72.0), 0.0)
    middle = math.radians(90 + 36)
    frame = _fitted(np.array([[0, 1, -1], [math.sqrt(2), 0, 0]], float),
                    np.array([[0, 0, 1], [math.cos(middle), math.sin(middle), 0]]))
    return Shaped(position, made.numbers.astype(np.int64), grain.astype(np.int16), frame,
                  {"marks_p_q_r": [p, q, r], "grains": 5, "five_fold_axes": 1})


def octahedron_atoms(length: int, cutoff: int) -> int:
    """Atoms of an octahedron with `length` atoms along its edges and `cutoff` layers off each corner."""
    return (2 * length**3 + length) // 3 - cutoff * (cutoff + 1) * (2 * cutoff + 1)


def _octahedron(entry: Structure, diameter: float, rng: np.random.Generator) -> Shaped:
    """An octahedron of a face-centred cubic metal without its corners, built by ASE."""
    from ase.cluster import Octahedron

    counts = {(length, cutoff): octahedron_atoms(length, cutoff) for length in range(4, 30)
              for cutoff in range(1, length // 2) if 0.2 <= cutoff / (length - 1) <= 0.45}
    near = _nearest_sizes(entry, diameter, counts)
    length, cutoff = near[int(rng.integers(len(near)))]
    made = Octahedron(entry.formula, length, cutoff, entry.cell[0])
    position = made.positions - made.positions.mean(axis=0)
    return Shaped(position, made.numbers.astype(np.int64), np.zeros(len(made), np.int16), np.eye(3),
                  {"length_cutoff": [length, cutoff]})


def _fitted(crystal: Floats, particle: Floats) -> Floats:
    """The rotation F with crystal @ F nearest to `particle`, both as unit vectors (Kabsch, Acta Cryst. A32, 922)."""
    crystal = crystal / np.linalg.norm(crystal, axis=1)[:, None]
    particle = particle / np.linalg.norm(particle, axis=1)[:, None]
    left, _, right = np.linalg.svd(crystal.T @ particle)
    flip = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(left @ right)))])
    rotation: Floats = left @ flip @ right
    return rotation
