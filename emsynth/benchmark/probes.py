"""Single columns that are changed on purpose: beside their place, with a foreign atom, without one of their atoms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.plan import Probes
from emsynth.benchmark.suite import ProbeKind
from emsynth.draw import Streams
from emsynth.errors import SuiteError
from emsynth.specimen.base import Specimen

# What a dopant is chosen from, and the power of the atomic number by which HAADF goes about (PHYSICS: Z^1.7).
_DOPANTS = ("Ti", "Fe", "Zn", "Zr", "Mo", "Ag", "Sn", "La", "Gd", "Hf", "W", "Pt", "Au")
_POWER = 1.7
# Shift in Å and change of a column's intensity that are drawn; what a dopant comes to is read off the truth.
SHIFTS = (0.10, 0.30)
CHANGES = (0.07, 0.28)


@dataclass(frozen=True)
class Planted:
    """One change.

    Attributes
    ----------
    kind : {"shift", "dopant", "vacancy"}
    column : int
        Index of the specimen's column.
    shift : tuple of float
        (row, col) in Å; (0, 0) of the others.
    about : str
    """

    kind: ProbeKind
    column: int
    shift: tuple[float, float]
    about: str


def twins(specimen: Specimen, probes: Probes, streams: Streams) -> tuple[Specimen, Specimen, tuple[Planted, ...]]:
    """A specimen and its perturbed twin, whose atoms vibrate alike.

    Parameters
    ----------
    specimen : Specimen
        A perfect lattice in a box.
    probes : Probes
        How many of what.
    streams : Streams
        Random streams; the stream is ``"probes"``.

    Returns
    -------
    perfect, perturbed : Specimen
        Atoms in one order; those that the twin lacks come last, so that frozen phonons, which are drawn atom after
        atom, displace all others alike.
    planted : tuple of Planted

    Raises
    ------
    SuiteError
        Where the box has no room for so many.
    """
    rng = streams.generator("probes")
    member = _members(specimen)
    chosen = _apart(specimen, member, probes, rng)
    wanted: tuple[tuple[ProbeKind, int], ...] = (("shift", probes.shift), ("dopant", probes.dopant),
                                                 ("vacancy", probes.vacancy))
    kinds = [kind for kind, count in wanted for _ in range(count)]
    position, number = specimen.atoms.positions.copy(), specimen.atoms.numbers.copy()
    columns, gone, planted = specimen.columns.position.copy(), [], []
    for kind, column in zip(kinds, chosen, strict=True):
        own = np.flatnonzero(member == column)
        if kind == "shift":
            length, angle = rng.uniform(*SHIFTS), rng.uniform(0, 2 * math.pi)
            step = length * math.sin(angle), length * math.cos(angle)
            position[own, 1] += step[0]
            position[own, 0] += step[1]
            columns[column] += step
            planted.append(Planted(kind, int(column), step, f"{1e2 * length:.0f} pm"))
        elif kind == "dopant":
            number, about = _doped(number, own, rng)
            planted.append(Planted(kind, int(column), (0.0, 0.0), about))
        else:
            gone.append(int(rng.choice(own)))
            symbol = specimen.atoms.symbols[gone[-1]]
            planted.append(Planted(kind, int(column), (0.0, 0.0), f"1 of {len(own)} atoms missing, {symbol}"))
    order = np.concatenate([np.setdiff1d(np.arange(len(number)), gone), np.array(gone, np.int64)])
    perfect = _with_atoms(specimen, specimen.atoms.positions, specimen.atoms.numbers, order, columns=None)
    kept = order[:len(order) - len(gone)]
    return perfect, _with_atoms(specimen, position, number, kept, columns), tuple(planted)


def _members(specimen: Specimen) -> NDArray[np.int64]:
    """Column of each atom, by its place sideways in the periodic box."""
    from scipy.spatial import cKDTree

    side = np.asarray(specimen.atoms.cell.lengths())[[1, 0]]
    at = np.mod(specimen.atoms.positions[:, [1, 0]], side)
    tree = cKDTree(np.mod(specimen.columns.position, side), boxsize=side)
    return np.asarray(tree.query(at)[1], np.int64)


def _apart(specimen: Specimen, member: NDArray[np.int64], probes: Probes,
           rng: np.random.Generator) -> NDArray[np.int64]:
    """Columns in random order, of three atoms at least, that stand apart from all others and from one another."""
    from scipy.spatial import cKDTree

    side = np.asarray(specimen.atoms.cell.lengths())[[1, 0]]
    position, wanted = specimen.columns.position, probes.shift + probes.dopant + probes.vacancy
    apart = cKDTree(np.mod(position, side), boxsize=side).query(np.mod(position, side), k=2)[0][:, 1]
    chosen: list[int] = []
    for column in rng.permutation(np.flatnonzero(apart >= probes.neighbour)):
        gap = np.abs(position[chosen] - position[column])
        gap = np.minimum(gap, side - gap)
        if np.count_nonzero(member == column) >= 3 and np.all(np.hypot(*gap.T) >= probes.spacing):
            chosen.append(int(column))
        if len(chosen) == wanted:
            return np.array(chosen)
    raise SuiteError(f"{specimen.structure}: the box of {side[0]:.1f} × {side[1]:.1f} Å has room for {len(chosen)} "
                     f"probes {probes.spacing:g} Å apart, and {wanted} are asked for; take a larger box, or fewer")


def _doped(number: NDArray[np.int64], own: NDArray[np.int64],
           rng: np.random.Generator) -> tuple[NDArray[np.int64], str]:
    """One or two atoms of a column replaced so that its intensity rises by about what was drawn."""
    from ase.data import atomic_numbers, chemical_symbols

    wanted, weight = rng.uniform(*CHANGES), number[own].astype(float) ** _POWER
    sites = [rng.choice(own, size=size, replace=False) for size in (1, 2)]
    choices = [(abs(change - wanted), dopant, site)
               for site in sites for dopant in (atomic_numbers[name] for name in _DOPANTS)
               if (change := (len(site) * dopant**_POWER - (number[site].astype(float)**_POWER).sum())
                   / weight.sum()) > CHANGES[0] / 2]
    if not choices:
        raise SuiteError(f"a column of {len(own)} atoms has no dopant that brightens it by {wanted:.0%}")
    _, dopant, site = min(choices, key=lambda choice: choice[0])
    changed = number.copy()
    changed[site] = dopant
    return changed, f"{len(site)} of {len(own)} atoms are {chemical_symbols[dopant]}"


def _with_atoms(specimen: Specimen, position: NDArray[np.float64], number: NDArray[np.int64],
                order: NDArray[np.int64], columns: NDArray[np.float64] | None) -> Specimen:
    from emsynth.specimen.thermal import default_displacement

    atoms = specimen.atoms[order]
    atoms.positions[:] = position[order]
    atoms.numbers[:] = number[order]
    thermal = dict(specimen.thermal)
    for symbol in {str(symbol) for symbol in atoms.symbols} - set(thermal):
        thermal[symbol] = default_displacement(symbol)
    own = specimen.columns if columns is None else replace(specimen.columns, position=columns)
    grain = None if specimen.grain is None else specimen.grain[order]
    return replace(specimen, atoms=atoms, columns=own, thermal=thermal, grain=grain)
