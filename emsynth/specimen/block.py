"""What specimens made of a crystal share: where it comes from, lattice planes seen edge-on, neighbours and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StructureError
from emsynth.specimen.table import Axis

if TYPE_CHECKING:
    from emsynth.specimen.base import Columns
    from emsynth.specimen.columns import Clusters
    from emsynth.specimen.zone import Lattice

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Atoms of the largest specimen: more than a potential is worth, and several seconds to build.
MOST_ATOMS = 400_000
# Å: a lattice vector that rises less along the beam repeats the crystal at the same height; as many are tried.
LEVEL = 0.05
MOST_REPEATS = 12
# Lattice planes above the least that are tried until the crystal repeats along the plane's normal.
MOST_STACKED = 24
# Å: positions that differ by less are the same site.
SAME_SITE = 0.05
# Å: longest repeat of a crystal along a lattice plane that is seen edge-on.
LONGEST_PERIOD = 120.0


def refuse_many(name: str, lattice: Lattice, volume: float) -> None:
    """Raise StructureError where a crystal of `volume` Å³ would hold too many atoms."""
    count = volume * len(lattice.position) / abs(float(np.linalg.det(lattice.cell)))
    if count > MOST_ATOMS:
        raise StructureError(f"{name}: the specimen would hold {count:,.0f} atoms, at most {MOST_ATOMS:,} are built; "
                             f"take a smaller box or a thinner specimen")


@dataclass(frozen=True)
class View:
    """A crystal without a bound, seen along the beam (+z), with a lattice plane edge-on along x.

    Attributes
    ----------
    along : ndarray (3,)
        Shortest lattice vector in the plane in projection: (length, 0, rise) in Å.
    across : ndarray (3,)
        Lattice vector to the next lattice plane: (shift, spacing, rise) in Å.
    depth : float
        Repeat along the beam in Å.
    position, kind : ndarray
        Atoms of one primitive cell, (n, 3) in Å, and their kinds.
    plane : tuple of int
        Indices (hkl) of the plane.
    unit : int
        After so many `along` the crystal repeats at the same height, as nearly as was found.
    """

    along: Floats
    across: Floats
    depth: float
    position: Floats
    kind: Integers
    plane: Axis
    unit: int

    @property
    def spacing(self) -> float:
        """Distance of the lattice planes in Å."""
        return float(self.across[1])

    @property
    def period(self) -> float:
        """Repeat along the plane in Å."""
        return float(self.unit * self.along[0])

    @property
    def rise(self) -> float:
        """How far the crystal is shifted along the beam after `period`, Å; 0 where it repeats truly."""
        rise = float(self.unit * self.along[2])
        return rise - self.depth * round(rise / self.depth)

    def levels(self) -> Floats:
        """Distances of the atoms from the lattice planes in Å, each once, from 0 to `spacing`."""
        y = np.mod(self.position[:, 1], self.spacing)
        y[y > self.spacing - SAME_SITE / 2] = 0.0
        found = np.unique(np.round(y, 3))
        distinct: Floats = found[np.append(True, np.diff(found) > SAME_SITE / 2)]
        return distinct

    def sheet(self, periods: int, low: float, high: float) -> tuple[Floats, Integers]:
        """Atoms with `low` <= y < `high` in so many periods along x and one repeat along the beam."""
        first = math.floor((low - self.position[:, 1].max()) / self.spacing) - 1
        last = math.ceil((high - self.position[:, 1].min()) / self.spacing) + 1
        rows = np.arange(first, last + 1)[:, None, None, None] * self.across
        cells = rows + np.arange(periods * self.unit)[None, :, None, None] * self.along
        position = (cells + self.position[None, None]).reshape(-1, 3)
        kind = np.tile(self.kind, position.shape[0] // len(self.kind))
        kept = (position[:, 1] >= low) & (position[:, 1] < high)
        position, kind = position[kept], kind[kept]
        # Beyond the border lies the next period, at its own height: inside the box the crystal is unbroken.
        turns = np.floor(position[:, 0] / (periods * self.period) + 1e-6)
        position[:, 0] = np.maximum(position[:, 0] - turns * periods * self.period, 0.0)
        position[:, 2] -= turns * periods * self.unit * self.along[2]
        position[:, 2] -= self.depth * np.floor(position[:, 2] / self.depth + 1e-5)
        return position, kind

    def symmetric(self, signs: tuple[int, int, int]) -> bool:
        """Whether the crystal comes back to itself, shifted at most, when x, y and z are multiplied by `signs`."""
        flip = np.array(signs, float)
        basis = np.array([self.along, self.across, [0, 0, self.depth]])
        into = np.linalg.inv(basis)
        flipped = (basis * flip) @ into
        if np.abs(flipped - np.round(flipped)).max() > 0.01:
            return False
        rarest = int(np.argmin(np.bincount(self.kind)[self.kind]))
        image = self.position * flip
        for target in np.flatnonzero(self.kind == self.kind[rarest]):
            moved = image + (self.position[target] - image[rarest])
            away = (moved[:, None] - self.position[None]) @ into
            distance = np.linalg.norm((away - np.round(away)) @ basis, axis=2)
            if np.all(np.any((distance < SAME_SITE) & (self.kind[:, None] == self.kind[None]), axis=1)):
                return True
        return False

    def stacking(self, least: int) -> int | None:
        """The fewest lattice planes, at least `least`, after which they lie above each other; None if too many."""
        for count in range(least, least + MOST_STACKED):
            x, z = count * self.across[0], count * self.across[2]
            turns = round(x / self.along[0])
            x, z = x - turns * self.along[0], z - turns * self.along[2]
            if abs(x) < LEVEL and abs(z - self.depth * round(z / self.depth)) < LEVEL:
                return count
        return None


def edge_on(lattice: Lattice, zone: Axis, cell: Floats, plane: Axis) -> View:
    """A crystal turned so that the beam travels along +[uvw] and the plane (hkl) is seen edge-on, y along its normal.

    Raises
    ------
    StructureError
        Where the plane does not contain the zone axis, or the crystal does not repeat along it within 120 Å.
    """
    from emsynth.specimen.zone import _bezout

    if sum(a * b for a, b in zip(plane, zone, strict=True)) != 0:
        raise StructureError(f"plane {list(plane)} does not contain the zone axis {list(zone)}, so it is not seen "
                             f"edge-on; choose h, k, l with h·u + k·v + l·w = 0")
    p, q, beam = _spanning(lattice.cell, zone, cell)
    depth = float(np.linalg.norm(beam))
    normal = np.linalg.inv(cell) @ np.array(plane, float)
    cells = max(1, round(abs(float(np.linalg.det(cell) / np.linalg.det(lattice.cell)))))
    # A lattice vector is a whole number of planes (hkl) / cells away: primitive vectors are such parts of the cell's.
    exact = np.array([p, q]) @ normal * cells
    a, b = (int(n) for n in np.round(exact))
    if np.abs(exact - np.round(exact)).max() > 1e-3:
        raise StructureError(f"plane {list(plane)} is no lattice plane of this cell")
    g = math.gcd(a, b)
    x, y = _bezout(a // g, b // g)
    frame = _frame(beam / depth, normal)
    along, across = (b // g * p - a // g * q) @ frame.T, (x * p + y * q) @ frame.T
    if along[0] < 0:
        along = -along
    if across[1] < 0:
        across = -across
    along[1] = 0.0
    across = across - round(across[0] / along[0]) * along
    for vector in (along, across):
        vector[2] -= depth * round(vector[2] / depth)
    unit = _level_repeat(float(along[2]), depth)
    if unit * along[0] > LONGEST_PERIOD:
        raise StructureError(f"plane {list(plane)}: the crystal repeats along it only after {unit * along[0]:.0f} Å, "
                             f"at most {LONGEST_PERIOD:g} Å are allowed; choose lower indices")
    return View(along, across, depth, lattice.position @ frame.T, lattice.kind, plane, unit)


def _spanning(lattice: Floats, zone: Axis, cell: Floats) -> tuple[Floats, Floats, Floats]:
    """Two lattice vectors and the shortest one along the zone axis, which together span the lattice."""
    from emsynth.specimen.zone import _bezout

    whole = np.round(np.array(zone, float) @ cell @ np.linalg.inv(lattice)).astype(int)
    a, b, c = (int(n) for n in whole // math.gcd(*(int(n) for n in whole)))
    g = math.gcd(a, b)
    rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, c]])
    if g:
        # (a, b, c) is g d + c z with d = (a, b, 0) / g; (-y, x, 0) and d span the plane of the first two vectors.
        x, y = _bezout(a // g, b // g)
        s, r = _bezout(g, c)
        rows = np.array([[-y, x, 0], [-r * a // g, -r * b // g, s], [a, b, c]])
    p, q, beam = rows @ lattice
    return p, q, beam


def _frame(beam: Floats, normal: Floats) -> Floats:
    """Rows x, y, z of a right-handed frame, z along the beam and y along the plane's normal."""
    y = normal / np.linalg.norm(normal)
    return np.array([np.cross(y, beam), y, beam])


def _level_repeat(rise: float, depth: float) -> int:
    """Repeats after which a rise comes nearest to whole depths, the first that is level."""
    for count in range(1, MOST_REPEATS + 1):
        if abs(count * rise - depth * round(count * rise / depth)) < LEVEL:
            return count
    return 1


def dense_planes(lattice: Lattice, zone: Axis, cell: Floats, count: int) -> list[Axis]:
    """The planes that contain the zone axis, those with the shortest repeat first."""
    from emsynth.specimen.zone import _points

    p, q, beam = _spanning(lattice.cell, zone, cell)
    axis = beam / np.linalg.norm(beam)
    flat = np.array([p - (p @ axis) * axis, q - (q @ axis) * axis])
    reach = 3 * float(np.linalg.norm(flat, axis=1).max())
    found: list[Axis] = []
    for steps in _points(flat, reach):
        normal = np.cross(steps @ np.array([p, q]), beam)
        part = cell @ normal
        part = part / np.abs(part[np.abs(part) > 1e-6 * np.abs(part).max()]).min()
        for factor in range(1, 13):
            whole = np.round(part * factor)
            if np.abs(whole - part * factor).max() < 1e-3:
                plane = _reduced(whole)
                if plane not in found:
                    found.append(plane)
                break
        if len(found) == count:
            break
    return found


def _reduced(indices: Floats) -> Axis:
    """Without a common divisor, the first that is not 0 positive."""
    h, k, l = (int(n) for n in indices)  # noqa: E741
    divisor = math.gcd(h, k, l)
    if next(n for n in (h, k, l) if n) < 0:
        divisor = -divisor
    return h // divisor, k // divisor, l // divisor


def neighbours(first: Floats, second: Floats, box: tuple[float, float, float], reach: float
               ) -> tuple[Integers, Integers, Floats]:
    """Pairs nearer than `reach`, periodic in all directions however small the box.

    Parameters
    ----------
    first, second : ndarray (n, 3), (m, 3)
        Positions in Å; those of `first` within the box. An infinite side of the box is not periodic.
    box : tuple of float
        Å.
    reach : float
        Å.

    Returns
    -------
    i, j : ndarray (pairs,)
        Indices into `first` and `second`.
    apart : ndarray (pairs, 3)
        From the atom of `first` to the image of the other, Å.
    """
    from scipy.spatial import cKDTree

    if len(first) == 0 or len(second) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    image, origin = second.copy(), np.arange(len(second))
    for axis, side in enumerate(box):
        if not math.isfinite(side):
            continue
        image[:, axis] = np.mod(image[:, axis], side)
        turns = math.ceil(reach / side)
        steps = np.arange(-turns, turns + 1)
        moved = np.repeat(image[None], len(steps), axis=0)
        moved[:, :, axis] += (steps * side)[:, None]
        image, origin = moved.reshape(-1, 3), np.tile(origin, len(steps))
        kept = (image[:, axis] > first[:, axis].min() - reach) & (image[:, axis] < first[:, axis].max() + reach)
        image, origin = image[kept], origin[kept]
    if len(image) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    near = cKDTree(first).sparse_distance_matrix(cKDTree(image), reach, output_type="coo_matrix")
    i, j = near.row.astype(np.int64), near.col.astype(np.int64)
    return i, origin[j].astype(np.int64), image[j] - first[i]


def bond_table(lattice: Lattice) -> Floats:
    """Shortest distance of each pair of kinds in the crystal, (kinds, kinds) in Å.

    Pairs that are farther than twice the nearest neighbours count as so far.
    """
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    kinds = int(lattice.kind.max()) + 1
    unit = Atoms(numbers=lattice.kind + 1, positions=lattice.position, cell=lattice.cell, pbc=True)
    nearest, reach = np.zeros(0), 2.0
    while len(nearest) == 0:
        reach *= 1.5
        nearest = neighbor_list("d", unit, reach)
    far = 2 * float(nearest.min())
    i, j, distance = neighbor_list("ijd", unit, far)
    table = np.full((kinds, kinds), far)
    np.minimum.at(table, (lattice.kind[i], lattice.kind[j]), distance)
    return table


def columns_there(clusters: Clusters, label: Integers, position: Floats, numbers: Integers, box: tuple[float, float]
                  ) -> Columns:
    """Columns of the atoms that are really there, each at the mean of its atoms.

    Parameters
    ----------
    clusters : Clusters
        Columns of the lattice before anything was done to it.
    label : ndarray (n,)
        Which of them each atom belongs to, -1 for none.
    position : ndarray (n, 3)
        Where the atoms are, Å.
    numbers : ndarray (n,)
        Atomic numbers.
    box : tuple of float
        Sides (x, y) in Å, the period.
    """
    from emsynth.specimen.columns import describe

    side = np.asarray(box)
    within = label >= 0
    offset = position[within, :2] - clusters.position[label[within]]
    offset -= side * np.round(offset / side)
    count = len(clusters.position)
    weight = np.maximum(np.bincount(label[within], minlength=count), 1)
    mean = np.stack([np.bincount(label[within], offset[:, a], count) for a in (0, 1)], axis=1) / weight[:, None]
    centre = clusters.position + mean
    centre -= side * np.floor(centre / side)
    # What rounding left on the far border is the near one.
    centre[centre >= side - 1e-9] = 0.0
    moved = clusters._replace(label=label, position=centre)
    return describe(moved, np.arange(len(label)), position[:, 2], numbers, 1)


def periodic_map(rng: np.random.Generator, place: Floats, highest: int = 3) -> Floats:
    """A smooth random function of one or two periodic coordinates, from 0 to 1.

    Parameters
    ----------
    rng : Generator
        Draws the phases and amplitudes of all waves, whatever `place` is.
    place : ndarray (n, d)
        Coordinates in periods.
    highest : int
        Waves per period, at most; amplitudes fall as one over the wave's number.
    """
    dimensions = place.shape[1]
    grids = [np.arange(-highest, highest + 1)] * (dimensions - 1) + [np.arange(0, highest + 1)]
    waves = np.stack([g.ravel() for g in np.meshgrid(*grids, indexing="ij")], axis=1)
    waves = waves[np.any(waves != 0, axis=1)]
    amplitude = rng.normal(size=len(waves)) / np.linalg.norm(waves, axis=1)
    phase = rng.uniform(0, 2 * np.pi, len(waves))

    def value(points: Floats) -> Floats:
        total = np.zeros(len(points))
        for wave, size, turn in zip(waves, amplitude, phase, strict=True):
            total += size * np.cos(2 * np.pi * (points @ wave) + turn)
        return total

    axis = np.linspace(0, 1, 48, endpoint=False)
    ends = value(np.stack([g.ravel() for g in np.meshgrid(*[axis] * dimensions, indexing="ij")], axis=1))
    scaled: Floats = np.clip((value(place) - ends.min()) / (ends.max() - ends.min()), 0.0, 1.0)
    return scaled


def terraces(rng: np.random.Generator, place: Floats, highest: int) -> Integers:
    """Heights of terraces, whole numbers from 0 to `highest`: a smooth random map cut into layers."""
    return np.minimum((periodic_map(rng, place) * (highest + 1)).astype(np.int64), highest)
