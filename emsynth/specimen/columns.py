"""Group the atoms of a specimen into projected columns, the ground truth of a field."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen.base import Columns

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Å: atoms whose projections are nearer than this belong to one column.
TOLERANCE = 0.3
# Largest subscript in a column's formula; random mixtures are named by their elements alone.
LARGEST_SUBSCRIPT = 9


class Clusters(NamedTuple):
    """label : (n,) cluster of each atom, -1 where it stands in no column; position : (m, 2) mean (x, y) in Å;
    smeared : atoms that stand in no column
    """

    label: Integers
    position: Floats
    smeared: int


def cluster(xy: Floats, period: tuple[float, float], tolerance: float = TOLERANCE) -> Clusters:
    """Columns of atoms in projection, periodic in x and y.

    Parameters
    ----------
    xy : ndarray (n, 2)
        Positions in Å, any number of periods away.
    period : tuple of float
        Period along (x, y) in Å.
    tolerance : float
        Atoms nearer than this in projection are linked, in Å.

    Notes
    -----
    Linked atoms make a column if all of them lie within `tolerance` of their mean: two sublattices nearer than that
    merge into one mixed column. Longer chains (disordered or high-index projections) are smeared, no column at all.
    Columns are numbered by row (y), then col (x).
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if len(xy) == 0:
        return Clusters(np.zeros(0, np.int64), np.zeros((0, 2)), 0)
    side = np.asarray(period)
    folded = xy - side * np.floor(xy / side + 1e-6)
    spots, spot_of = np.unique(np.round(np.clip(folded, 0, side * (1 - 1e-9)), 4), axis=0, return_inverse=True)
    spots = np.minimum(spots, side * (1 - 1e-9))
    spot_of = spot_of.ravel()
    pairs = cKDTree(spots, boxsize=side).query_pairs(tolerance, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(spots), len(spots)))
    count, of_spot = connected_components(graph, directed=False)
    label = of_spot[spot_of].astype(np.int64)
    anchor = np.zeros((count, 2))
    anchor[label[::-1]] = folded[::-1]
    offset = folded - anchor[label]
    offset -= side * np.round(offset / side)
    weight = np.bincount(label, minlength=count)
    mean = np.stack([np.bincount(label, offset[:, a], count) for a in (0, 1)], axis=1) / weight[:, None]
    away = np.linalg.norm(offset - mean[label], axis=1)
    sharp = np.ones(count, bool)
    sharp[label[away > tolerance]] = False
    centre = anchor + mean
    centre -= side * np.floor(centre / side + 1e-6)
    return _numbered(label, centre, sharp)


def _numbered(label: Integers, centre: Floats, sharp: NDArray[np.bool_]) -> Clusters:
    order = np.lexsort((np.round(centre[:, 0], 3), np.round(centre[:, 1], 3)))
    order = order[sharp[order]]
    rank = np.full(len(centre), -1, np.int64)
    rank[order] = np.arange(len(order))
    return Clusters(rank[label], centre[order], int(np.sum(rank[label] < 0)))


def describe(clusters: Clusters, parent: Integers, z: Floats, numbers: Integers, copies: int,
             content: Integers | None = None) -> Columns:
    """The columns of a specimen whose atoms come from the clustered ones.

    Parameters
    ----------
    clusters : Clusters
        Columns of one repeat along the beam.
    parent : ndarray (n,)
        Clustered atom that each atom of the specimen repeats.
    z, numbers : ndarray (n,)
        Depth from the top of the box in Å and atomic number of the specimen's atoms.
    copies : int
        Tiles in the box: counts are per tile.
    content : ndarray, optional
        Atomic numbers of the clustered atoms; the formula then is that of one repeat, whatever the thickness.

    Returns
    -------
    Columns
        With position (row, col); columns that hold no atom are left out.
    """
    label = clusters.label[parent]
    within = label >= 0
    label, z, numbers = label[within], z[within], numbers[within]
    total = np.bincount(label, minlength=len(clusters.position))
    there = np.flatnonzero(total > 0)
    first, last = np.full(len(total), np.inf), np.full(len(total), -np.inf)
    np.minimum.at(first, label, z)
    np.maximum.at(last, label, z)
    heaviest = np.zeros(len(total), np.int64)
    np.maximum.at(heaviest, label, numbers)
    named = _formulas(label, numbers) if content is None else _formulas(clusters.label, content)
    return Columns(
        position=np.ascontiguousarray(clusters.position[there][:, ::-1]), number=heaviest[there].astype(np.uint8),
        formula=tuple(named[int(n)] for n in there), depth=np.stack([first[there], last[there]], axis=1),
        count=np.maximum(1, np.round(total[there] / copies)).astype(np.int32))


def _formulas(label: Integers, numbers: Integers) -> dict[int, str]:
    """Reduced formula of each column, heaviest element first."""
    from ase.data import chemical_symbols

    pairs, counts = np.unique(np.stack([label, -numbers]), axis=1, return_counts=True)
    content: dict[int, list[tuple[str, int]]] = {}
    for column, negative, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        content.setdefault(column, []).append((chemical_symbols[-negative], count))
    named = {}
    for column, parts in content.items():
        divisor = math.gcd(*(count for _, count in parts))
        shares = [(symbol, count // divisor) for symbol, count in parts]
        mixed = max(share for _, share in shares) > LARGEST_SUBSCRIPT
        named[column] = "".join(symbol if mixed or share == 1 else f"{symbol}{share}" for symbol, share in shares)
    return named
