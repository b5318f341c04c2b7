"""Which structure prototype a crystal belongs to, whatever its origin, setting or cell."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.specimen.table import structures

if TYPE_CHECKING:
    from ase import Atoms

# Å; files carry three to five digits, and relaxed cells are off by as much.
SYMMETRY_TOLERANCE = 0.03

Key = tuple[int, tuple[tuple[int, tuple[int, ...]], ...]]


def symmetry(atoms: Atoms, species: NDArray[np.int64] | None = None, tolerance: float = SYMMETRY_TOLERANCE) -> Any:
    """Symmetry of a cell: spglib's data set or None where it finds none.

    Parameters
    ----------
    atoms : ase.Atoms
        The cell.
    species : ndarray (n,), int64, optional
        Kind of each site; atomic numbers where not given.
    tolerance : float
        How far atoms may be off their ideal places, in Å.
    """
    import spglib

    kinds = atoms.numbers if species is None else species
    described: Any = (atoms.cell[:], atoms.cell.scaled_positions(atoms.positions), kinds)
    try:
        return spglib.get_symmetry_dataset(described, symprec=tolerance)
    except Exception:  # what spglib raises on a cell that it cannot handle differs between versions
        return None


def prototype_key(atoms: Atoms, species: NDArray[np.int64] | None = None) -> Key | None:
    """Space group number, and for each kind of atom its share in the formula and its orbits' multiplicities.

    Multiplicities are counted in the primitive cell, so that the key does not depend on origin or setting; names
    of elements do not enter.
    """
    found = symmetry(atoms, species)
    if found is None:
        return None
    kinds = np.asarray(atoms.numbers if species is None else species)
    _, first = np.unique(found.mapping_to_primitive, return_index=True)
    orbits = np.asarray(found.crystallographic_orbits)[first]
    sizes: dict[int, list[int]] = {}
    for orbit, size in Counter(orbits.tolist()).items():
        sizes.setdefault(int(kinds[orbit]), []).append(size)
    divisor = math.gcd(*(sum(of) for of in sizes.values()))
    return int(found.number), tuple(sorted((sum(of) // divisor, tuple(sorted(of))) for of in sizes.values()))


@lru_cache(maxsize=1)
def _known() -> dict[Key, str]:
    table: dict[Key, str] = {}
    for entry in structures():
        key = prototype_key(entry.atoms())
        if key is not None:
            table.setdefault(key, entry.prototype)
    return table


def prototype_of(atoms: Atoms, species: NDArray[np.int64] | None = None, digest: str = "") -> str:
    """Name of a cell's prototype.

    Parameters
    ----------
    atoms : ase.Atoms
        The cell.
    species : ndarray (n,), int64, optional
        Kind of each site where sites are shared by several elements.
    digest : str
        Digest of the file's content: names a box without symmetry.

    Returns
    -------
    str
        A name of the table; else anonymous formula and space group, ``"A3B4 I4_1/amd"``; else ``"box <digest>"``.
    """
    key = prototype_key(atoms, species)
    if key is None or key[0] == 1:
        return f"box {digest[:12]}"
    if key in _known():
        return _known()[key]
    found = symmetry(atoms, species)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    formula = "".join(f"{letters[n % 26]}{share if share > 1 else ''}" for n, (share, _) in enumerate(key[1]))
    return f"{formula} {found.international}"
