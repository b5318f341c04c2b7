"""What every specimen is: atoms in a periodic box, and the projected columns that are the ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """Projected atom columns, the ground truth of a field.

    Attributes
    ----------
    position : ndarray (n, 2), float64
        (row, col) in Å from the box's corner, the mean of the column's atoms; inside the specimen's tile.
    number : ndarray (n,), uint8
        Atomic number of the heaviest element in the column.
    formula : tuple of str
        Content of the column, heaviest element first, reduced: ``"Sr"``, ``"TiO"``.
    depth : ndarray (n, 2), float64
        Depth of the column's first and last atom in Å from the top of the box, as the atoms' z.
    count : ndarray (n,), int32
        Number of atoms in the column.
    """

    position: NDArray[np.float64]
    number: NDArray[np.uint8]
    formula: tuple[str, ...]
    depth: NDArray[np.float64]
    count: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.position)

    @staticmethod
    def none() -> Columns:
        """No columns: an amorphous specimen, or a crystal seen off axis."""
        return Columns(np.zeros((0, 2)), np.zeros(0, np.uint8), (), np.zeros((0, 2)), np.zeros(0, np.int32))


@dataclass(frozen=True)
class Specimen:
    """Atoms in a box that is periodic sideways, ready for multislice.

    Attributes
    ----------
    atoms : ase.Atoms
        Orthorhombic cell in Å; x is the column axis, y the row axis, the beam enters at z = 0 along +z.
    tile : tuple of float
        (row, col) period in Å of the projected structure: the cell divided by whole numbers.
    columns : Columns
        Columns within one tile.
    thermal : dict
        Root-mean-square displacement of each element along one axis, in Å.
    mistilt : tuple of float
        (row, col) tilt of the specimen against the beam in mrad.
    kind : str
        The recipe's word for it: ``"crystal"``, ``"nanoparticle"``, ``"amorphous"``, ...
    structure : str
        Name of the structure, for people: ``"Au"``, ``"Au on a-C"``, or the file's name.
    prototype : str
        Name of the structure prototype; the splits are by it.
    thickness : float
        Depth of the specimen in Å from its entrance surface (the box may be deeper).
    about : dict
        What else the provenance of a field should say (plain JSON values).
    entrance : float
        Depth of the entrance surface in the box in Å: the vacuum or padding above the plane of the first atoms. An
        exit plane at depth z of the box ends a specimen that is z - `entrance` thick, and never more than `thickness`.
    slab : bool
        Whether the top part of this specimen is a thinner specimen of the same kind, so that exit planes on the way
        down are a thickness series: true of a crystal repeated along the beam and of an amorphous film; false of a
        layer, of a finite slab or box taken as it is, and of a particle.
    grain : ndarray (atom,), int16, optional
        Grain that each atom belongs to, from 0; -1 of an atom that belongs to no lattice. All of grain 0 where not
        given.
    endless : tuple of bool
        Whether the repetition of the tile along (row, col) is what the specimen is: of a perfect crystal along both,
        of a grain boundary along the boundary. Across the others a window must not see it repeat.
    """

    atoms: Atoms
    tile: tuple[float, float]
    columns: Columns
    thermal: dict[str, float]
    mistilt: tuple[float, float]
    kind: str
    structure: str
    prototype: str
    thickness: float
    about: dict[str, Any] = field(default_factory=dict)
    entrance: float = 0.0
    slab: bool = False
    grain: NDArray[np.int16] | None = None
    endless: tuple[bool, bool] = (False, False)

    @property
    def repeats(self) -> tuple[int, int]:
        """How many tiles the box holds along (row, col)."""
        box = self.atoms.cell.lengths()
        return round(box[1] / self.tile[0]), round(box[0] / self.tile[1])
