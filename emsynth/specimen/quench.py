"""Make an amorphous periodic box by molecular dynamics: melt, quench, relax.

``python -m emsynth.specimen.quench C --atoms 2744 --out emsynth/specimen/boxes/C.npz``
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

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
        Density of the film in g/cm³.
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
    # Evaporated carbon films have 1.8-2.1 g/cm³: J. Robertson, Mater. Sci. Eng. R 37, 129 (2002).
    "C": Melt(12.011, 2.0, (1393.6, 346.74, 3.4879, 2.2119, 1.5724e-7, 0.72751, 38049.0, 4.3484, -0.57058, 1.8, 2.1),
              9000.0, 12_000, 120_000, 0.4),
    # Amorphous silicon is 1.8 % lighter than the crystal: Custer et al., Appl. Phys. Lett. 64, 437 (1994).
    "Si": Melt(28.085, 2.285, (1830.8, 471.18, 2.4799, 1.7322, 1.1e-6, 0.78734, 100390.0, 16.217, -0.59825, 2.7, 3.0),
               4000.0, 10_000, 150_000, 1.0),
    # Amorphous germanium, about 2 % lighter than the crystal: Temkin, Paul and Connell, Adv. Phys. 22, 581 (1973).
    "Ge": Melt(72.630, 5.21, (1769.0, 419.23, 2.4451, 1.7047, 9.0166e-7, 0.75627, 106430.0, 15.652, -0.43884, 2.8, 3.1),
               3500.0, 10_000, 150_000, 1.5),
}


def side_of(melt: Melt, atoms: int) -> float:
    """Side in Å of the cubic box that gives `atoms` atoms the density of `melt`."""
    return float((atoms * melt.mass * 1.66053907 / melt.density) ** (1 / 3))


def quench(element: str, atoms: int, seed: int = 0, speed: float = 1.0) -> tuple[NDArray[np.float64], float, float]:
    """Melt and quench a box.

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
        Potential energy per atom in eV.
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
    energy = anneal(position, velocity, side, mass, np.array(melt.constants), _schedule(melt, speed), melt.step, 50.0)
    return np.mod(position, side), side, energy / atoms


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
