"""Read a user's structure file: any format of ASE, with occupancies, vacuum and contacts checked."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms

# Å: vacuum on each side of a molecule or particle that comes without a cell.
VACUUM = 5.0
# X-ray refinements put hydrogen up to 0.3 Å too near to its neighbour: its limit is this part of the others'.
HYDROGEN = 0.7


@dataclass(frozen=True)
class Occupants:
    """Who may sit on one kind of site: atomic numbers and their chances; what is missing to 1 is vacancy."""

    numbers: tuple[int, ...]
    chances: tuple[float, ...]

    @property
    def certain(self) -> bool:
        """Whether one element fills the site."""
        return len(self.numbers) == 1 and self.chances[0] > 0.999


@dataclass(frozen=True)
class Reading:
    """A file's structure.

    Attributes
    ----------
    atoms : ase.Atoms
        With a cell of three vectors; each site once.
    kind : ndarray (n,), int64
        Index of each site into `occupants`.
    occupants : tuple of Occupants
        Who sits on each kind of site.
    digest : str
        SHA-256 of the file's content.
    notes : tuple of str
        What was done to it.
    """

    atoms: Atoms
    kind: NDArray[np.int64]
    occupants: tuple[Occupants, ...]
    digest: str
    notes: tuple[str, ...]


def read_structure(path: str, closest: float) -> Reading:
    """Read a structure file.

    Parameters
    ----------
    path : str
        Any file that ASE reads; of several frames, the last.
    closest : float
        Atoms nearer than this are refused, in Å; 0.7 of it where one is hydrogen.

    Raises
    ------
    StructureError
        With the path and the reason.
    """
    raw = _bytes(path)
    atoms = _parsed(path)
    if len(atoms) == 0:
        raise StructureError(f"{path}: holds no atoms")
    if not np.all(np.isfinite(atoms.positions)) or not np.all(np.isfinite(atoms.cell[:])):
        raise StructureError(f"{path}: positions or cell are not finite numbers")
    if np.any(atoms.numbers == 0):
        raise StructureError(f"{path}: site {int(np.argmin(atoms.numbers)) + 1} has no chemical element; name one")
    notes = _complete_cell(path, atoms)
    occupants, kind = _occupancy(path, atoms)
    refuse_contacts(path, atoms, closest)
    return Reading(atoms, kind, occupants, hashlib.sha256(raw).hexdigest(), notes)


def _bytes(path: str) -> bytes:
    place = Path(path).expanduser()
    if not place.exists():
        raise StructureError(f"{path}: no such file (from {Path.cwd()}); give the path of a structure file")
    if not place.is_file():
        raise StructureError(f"{path}: not a file; give the path of a structure file, such as a .cif")
    raw = place.read_bytes()
    if not raw.strip():
        raise StructureError(f"{path}: the file is empty")
    return raw


def _parsed(path: str) -> Atoms:
    import ase.io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read: Any = _plain_cif(path)
            if read is None:
                read = ase.io.read(Path(path).expanduser())
    except Exception as failure:  # each of ASE's eighty readers fails in its own way
        reason = str(failure).strip().splitlines()[0] if str(failure).strip() else "no reason given"
        raise StructureError(f"{path}: ASE cannot read it as a structure ({type(failure).__name__}: "
                             f"{reason}); check that another program opens it, or give it as CIF") from None
    atoms: Atoms = read[-1] if isinstance(read, list) else read
    return atoms


def _plain_cif(path: str) -> Atoms | None:
    """A CIF that lists all its atoms, as written: ASE's search for equivalent sites takes minutes for big boxes."""
    from ase.io.cif import parse_cif

    if Path(path).suffix.lower() != ".cif":
        return None
    read: Any = parse_cif(str(Path(path).expanduser()))
    blocks = [block for block in read if block.has_structure()]
    if len(blocks) != 1 or blocks[0].get_spacegroup(True).no != 1 or blocks[0].get_cell().rank != 3:
        return None
    shares = blocks[0].get("_atom_site_occupancy")
    if shares is not None and any(float(share) != 1 for share in shares):
        return None
    atoms: Atoms = blocks[0].get_unsymmetrized_structure()
    return atoms


def _complete_cell(path: str, atoms: Atoms) -> tuple[str, ...]:
    """Give vacuum to the directions that have no cell vector."""
    missing = [axis for axis in range(3) if np.linalg.norm(atoms.cell[axis]) < 1e-6]
    if missing:
        centre: Any = atoms.center
        centre(vacuum=VACUUM, axis=missing)
        atoms.pbc = True
        return (f"no cell along {', '.join('xyz'[axis] for axis in missing)}: {VACUUM:g} Å of vacuum on each side",)
    if abs(atoms.cell.volume) < 1e-3 * float(np.prod(atoms.cell.lengths())):
        raise StructureError(f"{path}: the cell vectors lie in one plane; give a cell with a volume")
    if atoms.cell.volume < 0:
        raise StructureError(f"{path}: the cell vectors are left-handed; exchange two of them")
    atoms.pbc = True
    return ()


def _occupancy(path: str, atoms: Atoms) -> tuple[tuple[Occupants, ...], NDArray[np.int64]]:
    """Kinds of site by content."""
    from ase.data import atomic_numbers

    table: dict[str, dict[str, Any]] = atoms.info.get("occupancy", {})
    rows = atoms.arrays.get("spacegroup_kinds")
    kinds: dict[Occupants, int] = {}
    kind = np.zeros(len(atoms), np.int64)
    for n, number in enumerate(atoms.numbers):
        shares = {} if rows is None else table.get(str(int(rows[n])), {})
        pairs = sorted((atomic_numbers[symbol], float(share)) for symbol, share in shares.items() if float(share) > 0)
        content = Occupants(tuple(z for z, _ in pairs), tuple(c for _, c in pairs)) if pairs else \
            Occupants((int(number),), (1.0,))
        if sum(content.chances) > 1.01:
            raise StructureError(f"{path}: site {n + 1} ({atoms.symbols[n]}) is occupied {sum(content.chances):.3g} "
                                 f"times; occupancies of one site must sum to at most 1")
        kind[n] = kinds.setdefault(content, len(kinds))
    return tuple(kinds), kind


def refuse_contacts(name: str, atoms: Atoms, closest: float) -> None:
    """Raise StructureError where two atoms are nearer than `closest` Å, naming the nearest pair."""
    from ase.neighborlist import neighbor_list

    if closest <= 0:
        return
    listed: Any = neighbor_list
    first, second, distance = listed("ijd", atoms, closest)
    limit = np.where((atoms.numbers[first] == 1) | (atoms.numbers[second] == 1), HYDROGEN * closest, closest)
    close = np.flatnonzero((distance < limit) & (first <= second))
    if len(close):
        worst = close[np.argmin(distance[close])]
        i, j = int(first[worst]), int(second[worst])
        more = f", and {len(close) - 1} more pairs" if len(close) > 1 else ""
        raise StructureError(
            f"{name}: {atoms.symbols[i]} (site {i + 1}) and {atoms.symbols[j]} (site {j + 1}) are "
            f"{distance[worst]:.2f} Å apart{more}; no two atoms come nearer than {closest:g} Å: relax the structure, "
            f"remove split sites, or lower `closest` if it is meant so")


def occupy(kind: NDArray[np.int64], occupants: tuple[Occupants, ...],
           rng: np.random.Generator) -> NDArray[np.int64]:
    """Atomic number on each site, drawn by its occupancies; 0 where it is vacant."""
    numbers = np.zeros(len(kind), np.int64)
    uniform = rng.random(len(kind))
    for n, content in enumerate(occupants):
        here = kind == n
        if content.certain:
            numbers[here] = content.numbers[0]
            continue
        edges = np.cumsum(content.chances)
        if edges[-1] > 0.999:
            edges[-1] = 1.0
        numbers[here] = np.append(content.numbers, 0)[np.searchsorted(edges, uniform[here], side="right")]
    return numbers
