"""How far the multislice settings are from convergence: `python -m benchmarks.physics.convergence`.

One setting at a time is made finer while the others stay as recipes have them, for one light and one heavy crystal;
writes docs/convergence.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from emsynth.draw import Streams, number  # noqa: E402
from emsynth.microscope import Microscope  # noqa: E402
from emsynth.simulation.multislice import simulate  # noqa: E402
from emsynth.simulation.plan import Simulation, plan_for  # noqa: E402
from emsynth.specimen.crystal import Crystal  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "convergence.md"

# 200 kV, 20 mrad, a source of 0.7 Å: the microscope's defaults.
MICROSCOPE = Microscope()
CRYSTALS = {
    "Si": Crystal(structure="Si", zone_axis=(0, 0, 1), thickness=60.0, minimum_box=11.0),
    "Au": Crystal(structure="Au", zone_axis=(0, 0, 1), thickness=60.0, minimum_box=11.0),
}
# The last of each is what the others are compared with.
SLICES = (4.0, 3.0, 2.0, 1.5, 1.0, 0.5, 0.25)  # Å
ANGLES = (110.0, 120.0, 150.0, 200.0, 300.0)  # mrad
CONFIGURATIONS = (2, 4, 8, 16, 32)
PAIR = 2  # configurations of one call: the fewest of which there is a standard error


@dataclass(frozen=True)
class Row:
    """One setting: deviations from the finest one on each detector, parts of the finest one's mean.

    `mean` is that of the cell mean, `rms` that of the picture; both at the full thickness.
    """

    setting: str
    mean: tuple[float, ...]
    rms: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """One sweep over one crystal; the last row is the reference, whose cell means `reference` holds."""

    crystal: str
    swept: str
    rows: tuple[Row, ...]
    reference: tuple[float, ...]


def picture(crystal: str, index: int = 0, **changes: object) -> NDArray[np.float64]:
    """Pictures (detector, H, W) at full thickness, mean over two phonon configurations that depend on `index` alone."""
    settings = Simulation.model_validate({"thicknesses": 1, "phonons": {"minimum": PAIR, "maximum": PAIR}} | changes)
    streams = Streams(1, index)
    field = simulate(CRYSTALS[crystal].build(streams), MICROSCOPE, settings, streams)
    image: NDArray[np.float64] = field.image[-1].astype(np.float64)
    return image


def deviations(setting: str, image: NDArray[np.float64], reference: NDArray[np.float64]) -> Row:
    """Deviation of pictures (detector, H, W) from a reference."""
    mean = reference.mean(axis=(1, 2))
    apart = image - reference
    return Row(setting, tuple(apart.mean(axis=(1, 2)) / mean), tuple(np.sqrt((apart**2).mean(axis=(1, 2))) / mean))


def sweep(crystal: str, swept: str, values: tuple[float, ...], name: Callable[[float], str],
          key: str, pairs: int = 1) -> Table:
    """One setting from coarse to fine, the same atoms each time."""
    images = [np.mean([picture(crystal, index, **{key: value}) for index in range(pairs)], axis=0) for value in values]
    rows = tuple(deviations(name(v), image, images[-1]) for v, image in zip(values, images, strict=True))
    return Table(crystal, swept, rows, tuple(images[-1].mean(axis=(1, 2))))


def phonons(crystal: str, counts: tuple[int, ...]) -> Table:
    """More and more configurations, deviations as they are expected of an independent set.

    All disjoint sets of n among the N configurations are compared with the mean of all; what a set shares with it is
    divided out, by √(1 - n/N).
    """
    pairs = np.array([picture(crystal, index) for index in range(counts[-1] // PAIR)])
    whole = pairs.mean(axis=0)
    mean = whole.mean(axis=(1, 2))
    rows = []
    for count in counts[:-1]:
        sets = pairs.reshape(-1, count // PAIR, *pairs.shape[1:]).mean(axis=1) - whole
        share = np.sqrt(1 - count / counts[-1])
        rows.append(Row(str(count), tuple(np.sqrt((sets.mean(axis=(2, 3)) ** 2).mean(axis=0)) / mean / share),
                        tuple(np.sqrt((sets**2).mean(axis=(0, 2, 3))) / mean / share)))
    return Table(crystal, "phonon configurations", tuple(rows), tuple(mean))


def tables(crystals: tuple[str, ...] = tuple(CRYSTALS)) -> Iterator[Table]:
    """All sweeps over all crystals."""
    for crystal in crystals:
        yield sweep(crystal, "slice thickness", SLICES, lambda v: f"{v:g} Å", "slice_thickness")
        yield sweep(crystal, "largest angle of the grid", ANGLES,
                    lambda v: f"{v:g} mrad ({MICROSCOPE.wavelength / (3e-3 * v):.3f} Å)", "max_angle")
        yield phonons(crystal, CONFIGURATIONS)


def markdown(table: Table) -> str:
    """A sweep as a Markdown table: cell mean / rms in per cent."""
    names = list(MICROSCOPE.detector_angles())
    signed = not table.swept.startswith("phonon")
    lines = [f"### {table.crystal}: {table.swept}", "", f"| {table.swept} | " + " | ".join(names) + " |",
             "|---|" + "---:|" * len(names)]
    for row in table.rows:
        cells = [f"{100 * m:{'+.1f' if signed else '.1f'}} / {100 * r:.1f}"
                 for m, r in zip(row.mean, row.rms, strict=True)]
        if signed and row is table.rows[-1]:
            cells = ["reference"] * len(names)
        lines.append(f"| {row.setting} | " + " | ".join(cells) + " |")
    lines.append("| cell mean, fraction of the beam | " + " | ".join(f"{m:.4f}" for m in table.reference) + " |")
    return "\n".join(lines)


def _cells(crystal: str) -> str:
    """What one configuration shows: probes scan one cell, plane waves give the mean over those of the box."""
    settings = Simulation.model_validate({"thicknesses": 1, "phonons": {"minimum": PAIR, "maximum": PAIR}})
    planned = plan_for(CRYSTALS[crystal].build(Streams(1, 0)), MICROSCOPE, settings)
    return "one tile" if planned.positions else f"the mean over {planned.repeats[0] * planned.repeats[1]} tiles"


def page(found: list[Table]) -> str:
    """The whole page."""
    rings = ", ".join(f"{name} {inner:g}-{outer:g} mrad" for name, (inner, outer)
                      in MICROSCOPE.detector_angles().items())
    base = Simulation()
    cells = " and ".join(f"each {_cells(crystal)} of {crystal}" for crystal in CRYSTALS)
    optics = f"{number(MICROSCOPE.energy) / 1e3:g} kV, {MICROSCOPE.convergence:g} mrad"
    return f"""# Convergence

Written by `python -m benchmarks.physics.convergence`. Si and Au, both along [001] and 60 Å thick, in a box of at least
11 Å, under {optics} and a source of {MICROSCOPE.source_size:g} Å: {rings}.

One setting is varied at a time; the others are the defaults, slices of {base.slice_thickness:g} Å and a grid for
{base.max_angle:g} mrad. Each entry is "cell mean / rms" in per cent of the reference's cell mean: the deviation of the
cell mean, and the rms difference of the two pictures. For slices and grids the same two phonon configurations are
used in each row, so that the rows differ by the setting alone. For phonons each entry is the standard error of a mean
over so many configurations, {cells}.

{chr(10).join(markdown(table) + chr(10) for table in found)}"""


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    found, start = [], time.process_time()
    for table in tables():
        print(markdown(table), f"\n[{time.process_time() - start:.0f} s]\n", flush=True)
        found.append(table)
    options.out.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
