"""Make an amorphous periodic box: melt and quench by molecular dynamics, then mend the network of bonds and relax it.

``python -m emsynth.specimen.quench C --atoms 3375 --out emsynth/specimen/boxes/C.npz``
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# 1 u in eV fs²/Å².
MASS_UNIT = 103.6427


@dataclass(frozen=True)
class Melt:
    """How one element is melted and quenched.

    Attributes
    ----------
    mass : float
        Atomic mass in u.
    density : float
        Density while melted and quenched, in g/cm³.
    constants : tuple of float
        Tersoff's A, B (eV), λ, μ (1/Å), β, n, c, d, h, R, S (Å): Phys. Rev. B 39, 5566 (1989), table I.
    melt : float
        Temperature of the melt in K, above the potential's own melting point.
    hold, cool : int
        Steps in the melt and while cooling (exponentially) to 300 K.
    step : float
        Time step in fs.
    """

    mass: float
    density: float
    constants: tuple[float, ...]
    melt: float
    hold: int
    cool: int
    step: float


MELTS = {
    # Below the film's density: the network is then compressed to it, which takes back that the potential's bonds are
    # too long. Picked among 1.7 to 2.7 by where the peaks of g(r) lie after the mending (docs/amorphous.md).
    "C": Melt(12.011, 1.85, (1393.6, 346.74, 3.4879, 2.2119, 1.5724e-7, 0.72751, 38049.0, 4.3484, -0.57058, 1.8, 2.1),
              9000.0, 12_000, 100_000, 0.4),
    # Amorphous silicon is 1.8 % lighter than the crystal: Custer et al., Appl. Phys. Lett. 64, 437 (1994).
    "Si": Melt(28.085, 2.285, (1830.8, 471.18, 2.4799, 1.7322, 1.1e-6, 0.78734, 100390.0, 16.217, -0.59825, 2.7, 3.0),
               4000.0, 10_000, 150_000, 1.0),
    # Amorphous germanium, about 2 % lighter than the crystal: Temkin, Paul and Connell, Adv. Phys. 22, 581 (1973).
    "Ge": Melt(72.630, 5.21, (1769.0, 419.23, 2.4451, 1.7047, 9.0166e-7, 0.75627, 106430.0, 15.652, -0.43884, 2.8, 3.1),
               3500.0, 10_000, 150_000, 1.5),
}


@dataclass(frozen=True)
class Network:
    """How the bonds of a quenched box are mended and relaxed.

    Attributes
    ----------
    density : float
        Density of the film in g/cm³.
    reach : float
        Nearer atoms are bonded, each to its four nearest at most, in Å.
    coordination : float or None
        Bonds are added between the nearest atoms that have fewer than four, until there are so many per atom.
    length : dict
        Length at rest in Å of a bond between atoms with the given numbers of bonds; ``(4, 4)`` where not listed.
    stretch, bend : float
        Stiffness against a bond's length (eV/Å²) and an angle's cosine (eV).
    repel, contact : float
        Atoms that are neither bonded nor bonded to the same one repel each other (eV/Å²) below `contact` Å.
    """

    density: float
    reach: float
    coordination: float | None
    length: dict[tuple[int, int], float]
    stretch: float
    bend: float
    repel: float
    contact: float


# Stiffness after Keating, Phys. Rev. 145, 637 (1966), his constants from memory: stretch 3 α, bend ¾ β r². Carbon's
# stretch lies between diamond's and graphite's (ours). Lengths: diamond, graphite, silicon, germanium; sp²-sp³ and
# those of sp after Allen et al., J. Chem. Soc. Perkin Trans. II, S1 (1987), sp-sp ours. Carbon's coordination is set
# near the measured 3.34. Repulsion, contact and the order of the mending are ours.
NETWORKS = {
    "C": Network(2.44, 2.0, 3.3, {(4, 4): 1.545, (3, 4): 1.51, (3, 3): 1.42, (2, 4): 1.466, (2, 3): 1.43, (2, 2): 1.30},
                 30.0, 9.5, 4.0, 2.6),
    "Si": Network(2.285, 2.95, None, {(4, 4): 2.352}, 9.1, 3.6, 1.5, 3.3),
    "Ge": Network(5.21, 3.05, None, {(4, 4): 2.45}, 7.2, 3.2, 1.5, 3.4),
}
# Cosine at rest of the angles of an atom, by its number of bonds: sp, sp², sp³. Silicon and germanium keep the last.
ANGLES = {0: -1.0, 1: -1.0, 2: -1.0, 3: -0.5, 4: -1 / 3}
# Å: no bond is added between atoms further apart than this.
LONGEST_NEW = 3.0
# Rounds in which bonds are added, and steps of relaxation after each and at the end.
ROUNDS, STEPS, LAST_STEPS = 12, 400, 3000


def side_of(melt: Melt, atoms: int, density: float | None = None) -> float:
    """Side in Å of the cubic box that gives `atoms` atoms a density in g/cm³, that of the melt where not given."""
    return float((atoms * melt.mass * 1.66053907 / (density or melt.density)) ** (1 / 3))


def quench(element: str, atoms: int, seed: int = 0, speed: float = 1.0) -> tuple[NDArray[np.float64], float, float]:
    """Melt and quench a box, mend its network and relax it.

    Parameters
    ----------
    element : str
        One of `MELTS`.
    atoms : int
        How many; the cube of a whole number, because the run starts from a simple cubic lattice.
    seed : int
        Seed of the first velocities.
    speed : float
        Number of steps is divided by this.

    Returns
    -------
    positions : ndarray (atoms, 3), float64
        In Å, within the box.
    side : float
        Side of the box in Å.
    energy : float
        Energy per atom in eV of the strained bonds and angles.
    """
    from emsynth.specimen._quench_kernels import anneal

    melt = MELTS[element]
    edge = round(atoms ** (1 / 3))
    if edge**3 != atoms:
        raise ValueError(f"{atoms} atoms: give the cube of a whole number, such as {edge**3}")
    side = side_of(melt, atoms)
    rng = np.random.Generator(np.random.Philox(key=seed))
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)
    position = (grid + 0.5) * side / edge + rng.normal(0.0, 0.1, (atoms, 3))
    mass = melt.mass * MASS_UNIT
    velocity = rng.normal(0.0, np.sqrt(8.617333e-5 * melt.melt / mass), (atoms, 3))
    velocity -= velocity.mean(axis=0)
    anneal(position, velocity, side, mass, np.array(melt.constants), _schedule(melt, speed), melt.step, 50.0)
    network = NETWORKS[element]
    pressed = side_of(melt, atoms, network.density)
    position, energy = mend(np.mod(position, side) * (pressed / side), pressed, network)
    return position, pressed, energy


def mend(position: NDArray[np.float64], side: float, network: Network) -> tuple[NDArray[np.float64], float]:
    """Bond a quenched box, add the bonds that it lacks, and bring it to rest.

    Parameters
    ----------
    position : ndarray (n, 3)
        In Å, within the box, which already has the film's density.
    side : float
        Side of the box in Å.
    network : Network
        What to make of it.

    Returns
    -------
    position : ndarray (n, 3)
        In Å, within the box.
    energy : float
        Energy per atom in eV of the strained bonds and angles.

    Notes
    -----
    Ours, in the spirit of the bond-switching networks of Wooten, Winer and Weaire, Phys. Rev. Lett. 54, 1392 (1985):
    which atoms are bonded comes from the quench, and bond lengths and angles come from what is known of them.
    """
    from emsynth.specimen._quench_kernels import relax

    bonded, bonds = _bonded(position, side, network.reach)
    stiffness = np.array([network.stretch, network.bend, network.repel, network.contact])
    position = position.copy()
    relax(position, side, bonded, bonds, *_at_rest(bonded, bonds, network), stiffness, STEPS)
    if network.coordination is not None:
        for left in range(ROUNDS, 0, -1):
            lacking = (network.coordination * len(position) - bonds.sum()) / 2
            _add_bonds(np.mod(position, side), side, bonded, bonds, math.ceil(lacking / left))
            relax(position, side, bonded, bonds, *_at_rest(bonded, bonds, network), stiffness, STEPS)
    energy = relax(position, side, bonded, bonds, *_at_rest(bonded, bonds, network), stiffness, LAST_STEPS)
    return np.mod(position, side), energy / len(position)


def _bonded(position: NDArray[np.float64], side: float, reach: float) -> tuple[Any, Any]:
    """(n, 4) bonded atoms and (n,) their number: all nearer than `reach`, four at most, the longest left out."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(position, boxsize=side).query_pairs(reach, output_type="ndarray")
    between = position[pairs[:, 1]] - position[pairs[:, 0]]
    apart = np.linalg.norm(between - side * np.round(between / side), axis=1)
    most = np.bincount(pairs.ravel(), minlength=len(position))
    bonded, bonds = np.zeros((len(position), 4), np.int64), np.zeros(len(position), np.int64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -apart))
    for i, j in pairs[order].tolist():
        if max(most[i], most[j]) > 4:
            most[[i, j]] -= 1
        else:
            _bond(i, j, bonded, bonds)
    return bonded, bonds


def _bond(i: int, j: int, bonded: Any, bonds: Any) -> None:
    bonded[i, bonds[i]], bonded[j, bonds[j]] = j, i
    bonds[[i, j]] += 1


def _at_rest(bonded: Any, bonds: Any, network: Network) -> tuple[Any, Any]:
    """(n, 4) lengths of the bonds at rest in Å, (n,) cosines of the angles at rest."""
    own = np.broadcast_to(bonds[:, None], bonded.shape)
    other = bonds[bonded]
    length = np.full(bonded.shape, network.length[4, 4])
    for (few, many), value in network.length.items():
        length[(np.minimum(own, other) == few) & (np.maximum(own, other) == many)] = value
    # Only carbon has bonds of other kinds than sp³.
    kinds = bonds if len(network.length) > 1 else np.full_like(bonds, 4)
    return length, np.array([ANGLES[int(n)] for n in kinds])


def _add_bonds(position: Any, side: float, bonded: Any, bonds: Any, number: int) -> None:
    """Bond up to `number` of the nearest pairs that have room; no rings of three or four, one bond an atom."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(position, boxsize=side).query_pairs(LONGEST_NEW, output_type="ndarray")
    pairs = pairs[np.all(bonds[pairs] < 4, axis=1)]
    between = position[pairs[:, 1]] - position[pairs[:, 0]]
    apart = np.linalg.norm(between - side * np.round(between / side), axis=1)
    # Half an Å for each atom with two bonds only: the first to be mended.
    apart -= 0.5 * np.sum(bonds[pairs] < 3, axis=1)
    used: set[int] = set()
    for i, j in pairs[np.lexsort((pairs[:, 1], pairs[:, 0], apart))].tolist():
        if len(used) >= 2 * number:
            return
        near_i, near_j = set(bonded[i, :bonds[i]].tolist()), set(bonded[j, :bonds[j]].tolist())
        rings = any(near_j & set(bonded[k, :bonds[k]].tolist()) for k in near_i)
        if i in used or j in used or j in near_i or near_i & near_j or rings:
            continue
        _bond(i, j, bonded, bonds)
        used |= {i, j}


def _schedule(melt: Melt, speed: float) -> NDArray[np.float64]:
    """Temperature in K at each step: melt, exponential cooling to 300 K, then to rest."""
    hold, cool = int(melt.hold / speed), int(melt.cool / speed)
    return np.concatenate([np.full(hold, melt.melt), np.geomspace(melt.melt, 300.0, cool),
                           np.geomspace(300.0, 0.01, max(hold // 2, 1))])


def main() -> None:
    """Command line."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("element", choices=sorted(MELTS))
    ask.add_argument("--atoms", type=int, default=1331)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--speed", type=float, default=1.0)
    ask.add_argument("--out", required=True)
    given = ask.parse_args()
    position, side, energy = quench(given.element, given.atoms, given.seed, given.speed)
    fraction = np.floor(position / side * 65536).astype(np.int64) % 65536
    np.savez_compressed(given.out, element=given.element, side=side, energy=energy,
                        fraction=fraction.astype(np.uint16))
    print(f"{given.element}: {given.atoms} atoms, side {side:.3f} Å, {energy:.3f} eV per atom")


if __name__ == "__main__":
    main()
