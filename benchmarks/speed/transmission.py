"""How many distinct high-resolution TEM frames an hour of one core gives, and from how many specimens.

``python -m benchmarks.speed.transmission`` writes TRANSMISSION.md beside this file.
"""

from __future__ import annotations

import argparse
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import time  # noqa: E402
from collections import Counter  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from emsynth.distortion import Grid, Window, prefilter  # noqa: E402
from emsynth.passes import simulate  # noqa: E402
from emsynth.provenance import versions  # noqa: E402
from emsynth.recipe import Recipe  # noqa: E402
from emsynth.simulation.backend import name_of  # noqa: E402
from emsynth.simulation.field import Field  # noqa: E402

FRAME = 384
FOCI = 10
# What makes a throughput of it: ten foci from one exit wave, one pass through the mean potential.
SETTINGS = ("simulate.phonons={model: debye_waller}", "simulate.thicknesses=1", "simulate.film_thicknesses=1",
            *(f"microscope.{n}.foci={FOCI}" for n in range(3)))


@dataclass(frozen=True)
class Throughput:
    """What was made, and in how much processor time: `simulated` and `cut` in seconds."""

    specimens: int
    frames: int
    distinct: int
    simulated: float
    cut: float
    kinds: dict[str, int]

    @property
    def frames_per_hour(self) -> float:
        """Frames an hour of one core."""
        return 3600 * self.frames / (self.simulated + self.cut)

    @property
    def specimens_per_hour(self) -> float:
        """Specimens an hour of one core."""
        return 3600 * self.specimens / (self.simulated + self.cut)


def frames_of(field: Field) -> list[np.ndarray]:
    """One frame of 384 px of each image of the series, as large as the field allows, (rows, cols) float32."""
    pixel = min(0.15, min(field.extent) / FRAME)
    window = Window((FRAME, FRAME), pixel, origin=(field.extent[0] / 2, field.extent[1] / 2))
    grid = Grid((FRAME, FRAME), np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    return [window.gather(prefilter(image, True), field.sampling, True, grid) for image in field.image[0]]


def measure(specimens: int) -> Throughput:
    """Simulate that many different specimens of `tem_hd`, one after another, and cut their frames."""
    recipe = Recipe.load("tem_hd", [*SETTINGS, f"fields={specimens}"])
    simulate(recipe, 0, cache=False)  # libraries and compiled code are loaded once
    seen: set[bytes] = set()
    kinds: Counter[str] = Counter()
    simulated = cut = 0.0
    for field in range(specimens):
        start = time.process_time()
        made = simulate(recipe, field, cache=False)
        middle = time.process_time()
        frames = frames_of(made)
        simulated, cut = simulated + middle - start, cut + time.process_time() - middle
        kinds[str(made.provenance["specimen"]["kind"])] += 1
        seen.update(frame.tobytes() for frame in frames)
    return Throughput(specimens, specimens * FOCI, len(seen), simulated, cut, dict(kinds))


def report(found: Throughput) -> str:
    """A page of Markdown."""
    used = ", ".join(f"{name} {versions()[name]}" for name in ("emsynth", "numpy", "scipy"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items()))
    return f"""# Frames of high-resolution TEM

Written by `python -m benchmarks.speed.transmission`. One core, {used}, transforms by {name_of('cpu')};
processor time.

{found.specimens} different specimens of `tem_hd` ({kinds};
boxes of 50 to 60 Å, half of them contaminated), each with a through-focus series of {FOCI} images under a drawn
microscope: {found.frames} frames of {FRAME}² px, {found.distinct} of them different.
One pass through the mean potential (`phonons: {{model: debye_waller}}`, elastic scattering only); each frozen-phonon
configuration that `tem_hd` averages costs as much again.

| | an hour of one core |
|---|---:|
| specimens | {found.specimens_per_hour:,.0f} |
| frames of {FRAME}² px | {found.frames_per_hour:,.0f} |

A specimen takes {found.simulated / found.specimens:.2f} s: building its atoms, its potential in slices of 2 Å, the exit
wave, ten or more foci for the spread of each image. Cutting its {FOCI} frames takes {found.cut / found.specimens:.2f} s
more.
"""


def main() -> None:
    """Command line."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--specimens", type=int, default=96)
    given = ask.parse_args()
    page = report(measure(given.specimens))
    (Path(__file__).parent / "TRANSMISSION.md").write_text(page, "utf-8")
    print(page)


if __name__ == "__main__":
    main()
