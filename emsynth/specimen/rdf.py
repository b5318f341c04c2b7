"""Radial distribution function, coordination and bond angles of the amorphous boxes, beside measurements.

``python -m emsynth.specimen.rdf`` prints the table of docs/amorphous.md, ``--picture FILE`` draws g(r).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Å: width of the bins in which pairs are counted.
BIN = 0.01
# r-space resolution of a measurement up to Q: full width at half maximum 3.79 / Q of the Fourier window sin(Qr)/r, as
# the standard deviation of a Gaussian.
WINDOW = 3.79 / 2.3548


@dataclass(frozen=True)
class Measurement:
    """What diffraction says of a material, and how broad it sees peaks.

    Attributes
    ----------
    first, second : float or None
        Positions of the first two peaks in Å.
    coordination : float or None
        Atoms within the first peak.
    reach : float
        Largest scattering vector Q in 1/Å.
    thermal : float
        Standard deviation of a bond's length by thermal motion in Å: ours, near what EXAFS finds in the crystals.
    gap, within : tuple of float
        Where the first minimum and the second peak are looked for, in Å.
    source : str
        Where it is from.
    """

    first: float | None
    second: float | None
    coordination: float | None
    reach: float
    thermal: float
    gap: tuple[float, float]
    within: tuple[float, float]
    source: str

    @property
    def broadening(self) -> float:
        """Standard deviation in Å of a peak that has no width of its own."""
        return math.hypot(WINDOW / self.reach, self.thermal)


# What of this was read in the papers and what is quoted from memory: docs/amorphous.md.
MEASUREMENTS = {
    # Q up to 16 1/Å is our assumption, usual with reactor neutrons.
    "C": Measurement(1.46, 2.49, 3.34, 16.0, 0.05, (1.7, 2.2), (2.2, 3.0),
                     "sputtered, 2.44 g/cm³: Li and Lannin, Phys. Rev. Lett. 65, 1905 (1990), neutrons"),
    "Si": Measurement(2.351, None, 3.88, 55.0, 0.06, (2.6, 3.3), (3.3, 4.4),
                      "implanted, annealed at 600 °C: Laaziri et al., Phys. Rev. Lett. 82, 3460 (1999), X-rays"),
    "Ge": Measurement(2.463, None, None, 15.0, 0.06, (2.7, 3.4), (3.4, 4.7),
                      "sputtered: Temkin, Paul and Connell, Adv. Phys. 22, 581 (1973), X-rays"),
}


@dataclass(frozen=True)
class Order:
    """Short-range order of a periodic box.

    Attributes
    ----------
    r, g : ndarray (n,)
        Distance in Å and radial distribution function, broadened as a measurement would.
    first, second, minimum : float
        Positions in Å of the first two peaks and of the minimum between them.
    depth : float
        g at the minimum; 1 would be no structure at all.
    bond, bond_deviation : float
        Mean of the pairs within the minimum and their standard deviation in Å, not broadened.
    coordination : float
        Mean number of atoms within the minimum.
    shares : ndarray
        Shares of the atoms that have 0, 1, 2, ... others within the minimum.
    angle, angle_deviation : float
        Mean angle between two bonds of an atom and its standard deviation, in degrees.
    """

    r: Floats
    g: Floats
    first: float
    second: float
    minimum: float
    depth: float
    bond: float
    bond_deviation: float
    coordination: float
    shares: Floats
    angle: float
    angle_deviation: float


def radial_distribution(position: Floats, side: float, reach: float, broadening: float = 0.0) -> tuple[Floats, Floats]:
    """Radial distribution function g(r) of a cubic periodic box.

    Parameters
    ----------
    position : ndarray (n, 3)
        In Å, within the box.
    side : float
        Side of the box in Å.
    reach : float
        Largest distance in Å, at most half the side.
    broadening : float
        Standard deviation in Å of the Gaussian that r·g(r) is convolved with: a measurement's resolution acts on the
        Fourier transform of r·g(r), and so does thermal motion where it is small against r.

    Returns
    -------
    r, g : ndarray
        Distances in Å in steps of 0.01 Å, and g.

    Raises
    ------
    ValueError
        Where `reach` is more than half the side: the box would meet its own image.
    """
    from scipy.spatial import cKDTree

    if reach > side / 2:
        raise ValueError(f"reach {reach:g} Å is more than half the side of the box, {side:g} Å")
    pairs = cKDTree(position, boxsize=side).query_pairs(reach, output_type="ndarray")
    apart = np.linalg.norm(_between(position, side, pairs), axis=1)
    counts = 2 * np.histogram(apart, np.arange(round(reach / BIN) + 1) * BIN)[0]
    r = np.arange(len(counts), dtype=np.float64) * BIN + BIN / 2
    along = counts / (len(position) * BIN * r)
    if broadening > 0:
        along = np.exp(-((r[:, None] - r) ** 2) / (2 * broadening**2)) @ along * (
            BIN / (broadening * math.sqrt(2 * math.pi)))
    g: Floats = along / (4 * np.pi * r * len(position) / side**3)
    return r, g


def order(position: Floats, side: float, measured: Measurement) -> Order:
    """Short-range order of a cubic periodic box, g(r) broadened as in the measurement; see `Order`.

    Parameters
    ----------
    position : ndarray (n, 3)
        In Å, within the box.
    side : float
        Side of the box in Å.
    measured : Measurement
        Its broadening, and where the first minimum and the second peak are looked for.
    """
    r, g = radial_distribution(position, side, 9.0, measured.broadening)
    between = (r > measured.gap[0]) & (r < measured.gap[1])
    hollow = int(np.argmin(np.where(between, g, np.inf)))
    second = _top(r, np.where((r > measured.within[0]) & (r < measured.within[1]), g, 0.0))
    pairs, apart = _near(position, side, float(r[hollow]))
    neighbours = np.bincount(pairs[:, 0], minlength=len(position))
    angles = _angles(position, side, pairs)
    return Order(r, g, _top(r, np.where(r < r[hollow], g, 0.0)), second, float(r[hollow]), float(g[hollow]),
                 float(apart.mean()), float(apart.std()), float(neighbours.mean()),
                 np.bincount(neighbours) / len(position), float(angles.mean()), float(angles.std()))


def _near(position: Floats, side: float, reach: float) -> tuple[Any, Floats]:
    """Pairs (m, 2), each both ways and sorted, and their distances."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(position, boxsize=side).query_pairs(reach, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs, np.linalg.norm(_between(position, side, pairs), axis=1)


def _between(position: Floats, side: float, pairs: Any) -> Floats:
    apart = position[pairs[:, 1]] - position[pairs[:, 0]]
    folded: Floats = apart - side * np.round(apart / side)
    return folded


def _angles(position: Floats, side: float, pairs: Any) -> Floats:
    """Angles in degrees between every two bonds of an atom."""
    unit = _between(position, side, pairs)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    found = []
    for ahead in range(1, int(np.bincount(pairs[:, 0]).max())):
        same = pairs[ahead:, 0] == pairs[:-ahead, 0]
        found.append(np.einsum("ij,ij->i", unit[ahead:][same], unit[:-ahead][same]))
    angles: Floats = np.degrees(np.arccos(np.clip(np.concatenate(found), -1, 1)))
    return angles


def _top(r: Floats, g: Floats) -> float:
    """Position of the highest point, by the parabola through it and its neighbours."""
    at = int(np.argmax(g))
    left, middle, right = g[at - 1:at + 2]
    return float(r[at] + BIN * 0.5 * (left - right) / (left - 2 * middle + right))


def table() -> str:
    """Measured and own values of the three materials, as Markdown."""
    from emsynth.specimen.amorphous import MATERIALS, density, quenched_box

    lines = ["| | first peak, Å | second peak, Å | first minimum, Å | g there | coordination | 2, 3, 4 bonds, % "
             "| bond angle, ° | g/cm³ |", "|---|---|---|---|---|---|---|---|---|"]
    for name in MATERIALS:
        measured, box = MEASUREMENTS[name], quenched_box(name)
        ours = order(box.position, box.side, measured)
        shares = ", ".join(f"{100 * share:.1f}" for share in np.append(ours.shares, np.zeros(5))[2:5])
        shown = [f"{value:g}" if value is not None else "" for value in (measured.first, measured.second)]
        lines.append(f"| a-{name}, {measured.source} | {shown[0]} | {shown[1]} | | | "
                     f"{measured.coordination or ''} | | | |")
        lines.append(f"| a-{name}, ours | {ours.first:.3f} | {ours.second:.3f} | {ours.minimum:.2f} | {ours.depth:.3f} "
                     f"| {ours.coordination:.2f} | {shares} | {ours.angle:.1f} ± {ours.angle_deviation:.1f} "
                     f"| {density(name):.3f} |")
    return "\n".join(lines)


def picture(place: str) -> None:
    """Draw g(r) of the three boxes, broadened as measured, with the measured peaks."""
    from matplotlib.figure import Figure

    from emsynth.specimen.amorphous import MATERIALS, quenched_box

    figure = Figure(figsize=(7, 6), layout="constrained")
    for axes, name in zip(figure.subplots(len(MATERIALS), 1, sharex=True), MATERIALS, strict=True):
        measured, box = MEASUREMENTS[name], quenched_box(name)
        r, raw = radial_distribution(box.position, box.side, 9.0, 0.02)
        axes.plot(r, raw, color="0.75", linewidth=0.8, label="atoms at rest")
        ours = order(box.position, box.side, measured)
        axes.plot(ours.r, ours.g, color="C0", label=f"broadened, Q up to {measured.reach:g} 1/Å")
        for peak in (measured.first, measured.second):
            if peak is not None:
                axes.axvline(peak, color="C3", linestyle="--", linewidth=0.9, label=f"measured {peak:g} Å")
        axes.set(ylabel="g(r)", xlim=(1, 8), ylim=(0, 1.25 * float(ours.g.max())), title=f"a-{name}")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("r, Å")
    figure.savefig(place, dpi=110)


def main() -> None:
    """Command line."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--picture", help="where to draw g(r)")
    given = ask.parse_args()
    print(table())
    if given.picture:
        picture(given.picture)


if __name__ == "__main__":
    main()
