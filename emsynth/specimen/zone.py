"""A crystal seen along a zone axis: the smallest rectangular tile of its projection, and the atoms that fill it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StructureError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Å: longest side of a tile, unless the crystal's own cell is longer.
LONGEST = 60.0
# Largest principal strain that may bend a tile to a rectangle, and what counts as none.
LARGEST_STRAIN = 0.01
EXACT = 2e-4
# Å: neighbouring tiles at the same height along the beam.
LEVEL = 0.05
# A tile that also repeats along the beam may be this many times larger than the projection's own.
WORTH = 12.0
# Å²: an exact tile of up to this area is never given up for a strained one, a larger one only where it is more than
# so many times larger.
SMALL = 400.0
UNSTRAINED_WORTH = 4.0


@dataclass(frozen=True)
class Lattice:
    """A crystal without a bound: lattice and the atoms of one cell.

    Attributes
    ----------
    cell : ndarray (3, 3), float64
        Lattice vectors in rows, Å.
    position : ndarray (n, 3), float64
        Atoms of one cell, Å.
    kind : ndarray (n,), int64
        Kind of each site.
    """

    cell: Floats
    position: Floats
    kind: Integers


class Tile(NamedTuple):
    """A rectangular tile of a crystal's projection.

    x, y, beam : lattice vectors in Å; `x`, `y`, `beam` are right-handed, `beam` along +z
    sides : length of x and y in projection, Å
    shift : component of x and y along the beam, Å, nearest to zero
    strain : principal strain that makes the tile a rectangle
    """

    x: Floats
    y: Floats
    beam: Floats
    sides: tuple[float, float]
    shift: tuple[float, float]
    strain: float


class Period(NamedTuple):
    """Atoms of a box that is one lattice repeat deep.

    position : (n, 3) Å, x and y within `box`, z within the repeat; kind : (n,)
    box : sides along x and y; depth : repeat along the beam; step : shift across the box's borders along the beam, Å
    """

    position: Floats
    kind: Integers
    box: tuple[float, float]
    depth: float
    step: tuple[float, float]


def find_tile(lattice: Floats, zone: tuple[int, int, int], cell: Floats, longest: float = LONGEST) -> Tile:
    """The smallest rectangular tile of a lattice projected along a zone axis.

    Parameters
    ----------
    lattice : ndarray (3, 3)
        Primitive lattice vectors in rows, Å.
    zone : tuple of int
        Direction [u, v, w] in the basis of `cell`; the beam travels along +[uvw].
    cell : ndarray (3, 3)
        The cell that the user's indices refer to; its vectors are lattice vectors.
    longest : float
        Longest side of the tile in Å.

    Returns
    -------
    Tile
        Preferred: a rectangle that also repeats along the beam; else one of the projection alone; else one that a
        strain of at most 1 % makes rectangular.

    Raises
    ------
    StructureError
        Where there is none, naming the smallest strain found.
    """
    p, q, beam = _basis_along(lattice, zone, cell)
    depth = float(np.linalg.norm(beam))
    axis = beam / depth
    flat = np.array([p - (p @ axis) * axis, q - (q @ axis) * axis])
    points = _points(flat, longest) @ np.array([p, q])
    heights = points @ axis
    plane = points - np.outer(heights, axis)
    heights -= depth * np.round(heights / depth)
    chosen = _best_pair(plane, heights, zone, longest)
    return _oriented(chosen, plane, heights, axis, beam, cell)


def _basis_along(lattice: Floats, zone: tuple[int, int, int], cell: Floats) -> tuple[Floats, Floats, Floats]:
    """Two lattice vectors and the shortest one along the zone axis, which together span the lattice."""
    exact = np.array(zone, float) @ cell @ np.linalg.inv(lattice)
    whole = np.round(exact).astype(int)
    a, b, c = (int(n) for n in whole // math.gcd(*(int(n) for n in whole)))
    g = math.gcd(a, b)
    if g == 0:
        rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, c]])
    else:
        # (a, b, c) is g d + c z with d = (a, b, 0) / g; (-y, x, 0) and d span the plane of the first two vectors.
        x, y = _bezout(a // g, b // g)
        s, r = _bezout(g, c)
        rows = np.array([[-y, x, 0], [-r * a // g, -r * b // g, s], [a, b, c]])
    p, q, beam = rows @ lattice
    return p, q, beam


def _bezout(a: int, b: int) -> tuple[int, int]:
    """x, y with a x + b y = 1 for coprime a, b."""
    x, next_x, y, next_y = 1, 0, 0, 1
    while b:
        quotient = a // b
        a, b = b, a - quotient * b
        x, next_x = next_x, x - quotient * next_x
        y, next_y = next_y, y - quotient * next_y
    return x * a, y * a


def _points(flat: Floats, longest: float) -> Floats:
    """Coefficients (n, 2) of all points of a planar lattice within `longest`, one of each ± pair, nearest first."""
    basis, change = flat.copy(), np.eye(2)
    while True:  # Gauss's reduction
        if basis[0] @ basis[0] > basis[1] @ basis[1] * (1 + 1e-9):
            basis, change = basis[::-1].copy(), change[::-1].copy()
        ratio = float(basis[0] @ basis[1] / (basis[0] @ basis[0]))
        if abs(ratio) <= 0.5 + 1e-6:
            break
        turns = round(ratio)
        basis[1] -= turns * basis[0]
        change[1] -= turns * change[0]
    reach = [int(longest / (np.linalg.norm(v) * math.sqrt(3) / 2)) + 1 for v in basis]
    grid = np.meshgrid(np.arange(-reach[0], reach[0] + 1), np.arange(0, reach[1] + 1), indexing="ij")
    coefficients = np.stack([part.ravel() for part in grid], axis=1).astype(float)
    coefficients = coefficients[(coefficients[:, 1] > 0) | (coefficients[:, 0] > 0)]
    length = np.linalg.norm(coefficients @ basis, axis=1)
    order = np.lexsort((coefficients[:, 0], coefficients[:, 1], np.round(length, 4)))
    kept: Floats = coefficients[order][length[order] <= longest] @ change
    return kept


def _best_pair(plane: Floats, heights: Floats, zone: tuple[int, int, int], longest: float) -> tuple[int, int, float]:
    """Indices of the two sides of the best tile, and its strain."""
    length = np.linalg.norm(plane, axis=1)
    best: dict[str, tuple[float, float, int, int, float]] = {}
    smallest = math.inf
    for n in range(min(len(plane), 800)):
        cosine = plane[n + 1:] @ plane[n] / (length[n] * length[n + 1:])
        strain = np.tan(np.abs(np.arcsin(np.clip(cosine, -1, 1))) / 2)
        if strain.size:
            smallest = min(smallest, float(strain.min()))
        for m in np.flatnonzero(strain <= LARGEST_STRAIN)[:200]:
            other = n + 1 + int(m)
            level = max(abs(heights[n]), abs(heights[other])) < LEVEL
            kind = "strained" if strain[m] > EXACT else "solid" if level else "flat"
            area = round(float(length[n] * length[other]), 3)
            entry = (area, float(round(length[n] + length[other], 3)), n, other, float(strain[m]))
            if kind not in best or entry < best[kind]:
                best[kind] = entry
    exact = [best[kind] for kind in ("flat", "solid") if kind in best]
    if "solid" in best and best["solid"][0] <= WORTH * min(exact)[0]:
        exact = [best["solid"]]
    if exact and ("strained" not in best or min(exact)[0] <= max(SMALL, UNSTRAINED_WORTH * best["strained"][0])):
        found = min(exact)
    elif "strained" in best:
        found = best["strained"]
    else:
        seen = f"the best needs a strain of {smallest:.1%}" if smallest < math.inf else "its repeats are longer"
        raise StructureError(f"zone axis {list(zone)}: no rectangular tile with sides up to {longest:g} Å within a "
                             f"strain of {LARGEST_STRAIN:.0%} ({seen}); choose a zone axis of lower indices")
    return found[2], found[3], found[4]


def _oriented(chosen: tuple[int, int, float], plane: Floats, heights: Floats, axis: Floats, beam: Floats,
              cell: Floats) -> Tile:
    """Lay x along the side nearest to the cell's a (b where a is the beam's), y so that x, y, beam is right-handed."""
    first, second, strain = chosen
    leads = [v for v in cell if np.linalg.norm(np.cross(v, axis)) > 1e-3 * np.linalg.norm(v)][:2]
    turns = []
    for along, across in ((first, second), (second, first)):
        for sign in (1.0, -1.0):
            x = sign * plane[along]
            direction = x / np.linalg.norm(x)
            score = tuple(round(float(lead @ direction / np.linalg.norm(lead)), 4) for lead in leads)
            turns.append((score, along, across, sign))
    _, along, across, sign = max(turns)
    flip = 1.0 if np.cross(sign * plane[along], plane[across]) @ axis > 0 else -1.0
    x, y = sign * plane[along], flip * plane[across]
    shift = (sign * float(heights[along]), flip * float(heights[across]))
    sides = (float(np.linalg.norm(x)), float(np.linalg.norm(y)))
    return Tile(x + shift[0] * axis, y + shift[1] * axis, beam, sides, shift, strain)


def repeats(tile: Tile, minimum: float) -> tuple[int, int]:
    """How many tiles reach `minimum` Å along x and y.

    Where tiles are shifted along the beam, up to half as many more are taken if the borders of the box then meet
    at nearly the same height.
    """
    depth = float(np.linalg.norm(tile.beam))
    counts = []
    for side, shift in zip(tile.sides, tile.shift, strict=True):
        least = max(1, math.ceil(minimum / side - 1e-6))
        options = range(least, least + least // 2 + 2) if abs(shift) >= LEVEL else range(least, least + 1)
        counts.append(min(options, key=lambda n: (round(abs(_wrapped(n * shift, depth)) / LEVEL), n)))
    return counts[0], counts[1]


def _wrapped(height: float, depth: float) -> float:
    return height - depth * round(height / depth)


def fill(lattice: Lattice, tile: Tile, counts: tuple[int, int]) -> Period:
    """All atoms of a box of `counts` tiles and one repeat along the beam; inside the box the crystal is unbroken."""
    depth = float(np.linalg.norm(tile.beam))
    box_x, box_y = tile.x * counts[0], tile.y * counts[1]
    axis = tile.beam / depth
    step = _wrapped(counts[0] * tile.shift[0], depth), _wrapped(counts[1] * tile.shift[1], depth)
    box_x = box_x + (step[0] - box_x @ axis) * axis
    box_y = box_y + (step[1] - box_y @ axis) * axis
    box = np.array([box_x, box_y, tile.beam])
    shape = np.round(box @ np.linalg.inv(lattice.cell)).astype(int)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ shape
    spans = [np.arange(low, high + 1) for low, high in zip(corners.min(axis=0), corners.max(axis=0), strict=True)]
    cells = np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, 3)
    inside = cells @ np.linalg.inv(shape)
    cells = cells[np.all((inside > -1e-6) & (inside < 1 - 1e-6), axis=1)]
    into = np.linalg.inv(shape @ lattice.cell)
    fraction = ((cells @ lattice.cell)[:, None] + lattice.position[None]).reshape(-1, 3) @ into
    fraction = np.maximum(fraction - np.floor(fraction + 1e-5), 0.0)
    sides = tile.sides[0] * counts[0], tile.sides[1] * counts[1]
    z = fraction @ np.array([step[0], step[1], depth])
    z -= depth * np.floor(z / depth + 1e-5)
    position = np.column_stack([fraction[:, 0] * sides[0], fraction[:, 1] * sides[1], z])
    return Period(position, np.tile(lattice.kind, len(cells)), sides, depth, step)


def cut_at_largest_gap(z: Floats, depth: float) -> tuple[Floats, float]:
    """Heights counted from the layer above the largest gap between layers, and the gap in Å."""
    levels = np.unique(np.round(np.mod(z, depth), 3))
    gaps = np.diff(np.append(levels, levels[0] + depth))
    widest = int(np.flatnonzero(gaps > gaps.max() - 0.01)[-1])
    start = levels[(widest + 1) % len(levels)]
    return np.mod(z - start + 2e-3, depth) - 2e-3, float(gaps[widest])
