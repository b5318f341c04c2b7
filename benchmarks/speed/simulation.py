"""Multislice beside abTEM's own scripts, in one run: `python -m benchmarks.speed.simulation`.

Writes SIMULATION.md and simulation.json. What is compared is in abtem_scripts.py and in `CASES`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Before NumPy is loaded: a library counts its threads once.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from ase.data import chemical_symbols  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from benchmarks.speed import abtem_scripts  # noqa: E402
from benchmarks.speed.abtem_scripts import Estimate, Setting  # noqa: E402
from emsynth.draw import Streams, number  # noqa: E402
from emsynth.microscope import Microscope  # noqa: E402
from emsynth.simulation.backend import name_of  # noqa: E402
from emsynth.simulation.multislice import potential, simulate  # noqa: E402
from emsynth.simulation.plan import Plan, Simulation, plan_for, positions  # noqa: E402
from emsynth.simulation.scattering import reciprocal  # noqa: E402
from emsynth.specimen.base import Specimen  # noqa: E402
from emsynth.specimen.crystal import Crystal  # noqa: E402

HERE = Path(__file__).parent
REQUIRED = 1.3  # times the competent script
EQUAL = 1e-5  # of the maximum
PACKAGES = ("emsynth", "abtem", "numpy", "scipy", "pyfftw", "mkl_fft")
FIELD = 40.0  # Å, of a newcomer's scan
FEW, MORE = 4, 12  # positions of it that are run


# A point source: abTEM's probe has no other; emsynth's is a factor on the finished series.
MICROSCOPE = Microscope(energy=200e3, convergence=20.0, source_size=0.0)


@dataclass(frozen=True)
class Case:
    """One specimen under one microscope, with the phonon configurations that are averaged."""

    name: str
    crystal: Crystal
    configurations: int = 2
    thicknesses: int = 12
    max_angle: float = 110.0
    microscope: Microscope = MICROSCOPE

    @property
    def streams(self) -> Streams:
        """Random streams of the field."""
        return Streams(1, 0)

    @property
    def settings(self) -> Simulation:
        """The same number of configurations, whatever their spread."""
        return Simulation.model_validate({
            "max_angle": self.max_angle, "thicknesses": self.thicknesses,
            "phonons": {"minimum": self.configurations, "maximum": self.configurations}})

    def specimen(self) -> Specimen:
        """Atoms in their box."""
        return self.crystal.build(self.streams)


def _crystal(structure: str, thickness: float) -> Crystal:
    return Crystal(structure=structure, zone_axis=(0, 0, 1), thickness=thickness, minimum_box=14.5)


CASES = (
    Case("SrTiO3 [001], 100 Å", _crystal("SrTiO3", 100.0)),
    Case("Au [001], 60 Å", _crystal("Au", 60.0)),
    Case("GaN [001], 60 Å", _crystal("GaN", 60.0)),
)


def setting_of(case: Case) -> Setting:
    """What abTEM's scripts need to do the same: grid, slices, planes, atoms, seeds, detector weights, positions."""
    specimen, settings = case.specimen(), case.settings
    planned = plan_for(specimen, case.microscope, settings)
    points = reciprocal(planned, case.microscope)
    weights = np.zeros((len(points.weight), planned.grid[0] * planned.grid[1]), np.float32)
    weights[:, points.flat] = points.weight
    cols_first = weights.reshape(-1, *planned.grid).transpose(0, 2, 1)
    seeds = case.streams.generator("phonons").integers(2**31, size=case.configurations)
    rows, cols = positions(planned)
    elements = sorted({chemical_symbols[number] for number in specimen.atoms.numbers})
    sigmas = {symbol: specimen.thermal[symbol] for symbol in elements}
    atoms = specimen.atoms.copy()
    atoms.cell[2, 2] = planned.depth  # whole slices
    return Setting(
        atoms=atoms, sigmas=sigmas, seeds=tuple(int(seed) for seed in seeds), gpts=planned.grid[::-1],
        slices=planned.slices, exit_planes=tuple(after - 1 for after in planned.planes),
        energy=number(case.microscope.energy), convergence=number(case.microscope.convergence),
        defocus=number(case.microscope.defocus), spherical=number(case.microscope.spherical),
        rings=tuple(case.microscope.detector_angles().values()), weights=np.ascontiguousarray(cols_first),
        cell=specimen.tile[::-1], positions=(cols, rows), projected=partial(potential, planned=planned))


def emsynth_one_cell(case: Case) -> NDArray[np.float32]:
    """Pictures (plane, detector, H, W) of one cell in the case's configurations, through the public function.

    Raises
    ------
    ValueError
        Where `simulate` would take the mean over all cells of the box instead.
    """
    specimen, settings = case.specimen(), case.settings
    if not plan_for(specimen, case.microscope, settings).positions:
        raise ValueError(f"{case.name}: plane waves are cheaper here, and their mean is over all cells of the box")
    return simulate(specimen, case.microscope, settings, case.streams).image


def at_positions(image: NDArray[np.float32], counts: tuple[int, int]) -> NDArray[np.float64]:
    """A tile's pictures (..., H, W) at counts (row, col) even positions, from their Fourier series: (..., x, y)."""
    series = np.fft.fft2(image, norm="forward")
    waves = []
    for size, count in zip(image.shape[-2:], counts, strict=True):
        harmonic = np.rint(np.fft.fftfreq(size) * size)
        waves.append(np.exp(2j * np.pi * np.outer(np.arange(count) / count, harmonic)))
    values: NDArray[np.float64] = (waves[0] @ series @ waves[1].T).real
    return values.swapaxes(-1, -2)


def apart(ours: NDArray[np.float64], theirs: NDArray[np.float32]) -> float:
    """Largest difference on any detector at any thickness, as a part of that detector's maximum there."""
    largest = np.abs(theirs).max(axis=(-2, -1))
    return float((np.abs(ours - theirs).max(axis=(-2, -1)) / largest).max())


def variants() -> dict[str, Callable[[Setting], Any]]:
    """What a competent script may look like. The quickest of them is what emsynth is held against.

    With ``fft: mkl``, mended for mkl_fft 2 (`abtem_scripts`), abTEM takes two to four times as long as with FFTW,
    because it limits the threads anew at each transform; it is left out.

    Those called equal give emsynth's numbers; the others detect with hard rims and project linearly, and are a tenth
    away at high angles (on coarse grids a third).
    """
    run = abtem_scripts.competent
    return {
        "equal; batches of 16": partial(run, batch=16),
        "equal; batches of 32, FFTW_MEASURE": partial(run, batch=32, **_measured()),
        "equal; no batches": partial(run, batch=None),
        "abTEM's potential, FlexibleAnnularDetector, 16": partial(run, detection="flexible", slices="potential"),
        "the same, FFTW_MEASURE": partial(run, detection="flexible", slices="potential", **_measured()),
        "abTEM's potential, four AnnularDetectors, 16": partial(run, detection="annular", slices="potential"),
    }


def tried() -> dict[str, Callable[[Setting], Any] | None]:
    """Emsynth without MKL (None), and what no user would write: abTEM with its Fourier plans kept, at both efforts."""
    return {**({"emsynth with SciPy's transforms": None} if name_of("cpu") == "mkl" else {}),
            "equal; batches of 16, plans kept": partial(_kept, batch=16),
            "equal; batches of 16, plans kept, FFTW_MEASURE": partial(_kept, batch=16, **_measured())}


def _with_scipy(case: Case) -> NDArray[np.float32]:
    os.environ["EMSYNTH_FFT"] = "scipy"
    try:
        return emsynth_one_cell(case)
    finally:
        del os.environ["EMSYNTH_FFT"]


def _measured() -> dict[str, Any]:
    return {"fftw.planning_effort": "FFTW_MEASURE"}


def _kept(setting: Setting, **changes: Any) -> NDArray[np.float32]:
    with abtem_scripts.kept_plans():
        return abtem_scripts.competent(setting, **changes)


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one specimen: all configurations, potentials and all."""

    median: float
    least: float


@dataclass(frozen=True)
class Row:
    """One case: what was simulated, how far apart, and the time of each side."""

    case: str
    grid: tuple[int, int]
    slices: int
    planes: int
    detectors: int
    positions: int
    plane_waves: int
    configurations: int
    apart: float
    emsynth: Timing
    abtem: dict[str, Timing]
    tried: dict[str, Timing]

    def best(self, equal: bool) -> tuple[str, Timing]:
        """The quickest of abTEM's variants; with `equal`, of those that give the same numbers."""
        found = [(name, timing) for name, timing in self.abtem.items() if not equal or name.startswith("equal")]
        return min(found, key=lambda item: item[1].median)

    def ratio(self, equal: bool = True) -> float:
        """Specimens per CPU-minute of emsynth by those of abTEM, by the medians."""
        return self.best(equal)[1].median / self.emsynth.median


def measure(case: Case, rounds: int) -> Row:
    """Time all sides of a case in turn, each round beginning with another one; the potentials are part of each."""
    setting = setting_of(case)
    planned: Plan = plan_for(case.specimen(), case.microscope, case.settings)
    theirs = {name: partial(_with_scipy, case) if call is None else partial(call, setting)
              for name, call in (variants() | tried()).items()}
    calls: list[tuple[str, Callable[[], Any]]] = [("emsynth", partial(emsynth_one_cell, case)), *theirs.items()]
    times: dict[str, list[float]] = {name: [] for name, _ in calls}
    results: dict[str, Any] = {}
    for n in range(rounds):
        for k in range(len(calls)):
            name, call = calls[(n + k) % len(calls)]
            start = time.process_time()
            results[name] = call()
            times[name].append(time.process_time() - start)
    timing = {name: Timing(statistics.median(t), min(t)) for name, t in times.items()}
    ours = at_positions(results["emsynth"], setting.positions[::-1])
    return Row(case.name, planned.grid, planned.slices, len(planned.planes), len(setting.rings),
               setting.positions[0] * setting.positions[1], len(planned.beams), case.configurations,
               apart(ours, results["equal; batches of 16"]), timing.pop("emsynth"),
               {name: timing[name] for name in variants()}, {name: timing[name] for name in tried()})


@dataclass(frozen=True)
class Averaging:
    """What the cells of one box give: rms spread over configurations, by the mean, on each detector, and CPU time.

    `cells` is the mean over all cells from plane waves, `one` the scan of one cell.
    """

    detectors: tuple[str, ...]
    one: tuple[float, ...]
    cells: tuple[float, ...]
    seconds_one: float
    seconds_cells: float

    def gain(self, detector: int) -> float:
        """How many times as much CPU the scan of one cell needs for the same standard error."""
        return (self.one[detector] / self.cells[detector]) ** 2 * self.seconds_one / self.seconds_cells


def averaging(case: Case) -> Averaging:
    """Phonon averaging over the cells of one box: spread and time of one configuration, both ways.

    Plane waves are had from the same specimen by a focal spread of 0.01 Å, which nothing else can see.
    """
    spread: list[tuple[float, ...]] = []
    seconds: list[float] = []
    for blur in (0.0, 0.01):
        microscope = case.microscope.model_copy(update={"focal_spread": blur})
        start = time.process_time()
        field = simulate(case.specimen(), microscope, case.settings, case.streams)
        seconds.append((time.process_time() - start) / case.configurations)
        reached = field.provenance["standard_error"]
        spread.append(tuple(reached[name] * case.configurations**0.5 for name in field.detectors))
    return Averaging(field.detectors, spread[0], spread[1], seconds[0], seconds[1])


def newcomer(case: Case) -> Estimate:
    """CPU time of one image by a first script, from a strip of its scan."""
    wide = case.crystal.model_copy(update={"minimum_box": FIELD - 1.0})
    specimen = wide.build(case.streams)
    setting = setting_of(case)
    return abtem_scripts.newcomer(specimen.atoms, setting, setting.rings[0], FEW, MORE)


def environment() -> dict[str, str]:
    """Processor and versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if os.path.exists("/proc/cpuinfo") else []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    found = {"processor": processor, "transforms": name_of("cpu")}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| case | grid | slices | probes | apart | emsynth s | abTEM s, equal | ratio | abTEM s, any | ratio |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        equal, anything = row.best(True)[1], row.best(False)[1]
        yield (f"| {row.case} | {row.grid[0]} x {row.grid[1]} | {row.slices} | {row.positions} | {row.apart:.1e} | "
               f"{row.emsynth.median:.2f} ({row.emsynth.least:.2f}) | {equal.median:.2f} ({equal.least:.2f}) | "
               f"{row.ratio():.2f} | {anything.median:.2f} ({anything.least:.2f}) | {row.ratio(False):.2f} |")


def _variants(row: Row) -> Iterator[str]:
    yield "| script | CPU s | specimens per CPU-minute |"
    yield "|---|---:|---:|"
    for name, timing in {"emsynth": row.emsynth, **row.abtem, **row.tried}.items():
        yield f"| {name} | {timing.median:.2f} ({timing.least:.2f}) | {60 / timing.median:.2f} |"


def _averaging(found: Averaging) -> Iterator[str]:
    yield "| detector | spread, one cell | spread, mean over cells | CPU for equal standard errors, one cell : all |"
    yield "|---|---:|---:|---:|"
    for n, name in enumerate(found.detectors):
        yield f"| {name} | {100 * found.one[n]:.1f} % | {100 * found.cells[n]:.1f} % | {found.gain(n):.1f} |"


def report(rows: Sequence[Row], average: Averaging, first: Estimate, note: str) -> str:
    """The whole page."""
    row = rows[0]
    images = row.planes * row.detectors
    one, new = "\n".join(_variants(row)), first.seconds * images / row.emsynth.median
    about = ", ".join(f"{name} {value}" for name, value in environment().items() if name != "processor")
    worst = min(rows, key=Row.ratio)
    what = f"{row.configurations} frozen-phonon configurations, {row.planes} exit planes, {row.detectors} detectors"
    return f"""# Speed of simulation

Written by `python -m benchmarks.speed.simulation`: one run, one process, one thread, all scripts in turn. CPU seconds
of one specimen, median (least) of the rounds: {what}, potentials and all.
200 kV, 20 mrad, {CASES[0].max_angle:g} mrad.

{environment()["processor"]}; {about}. {note}

## A competent script

One cell, scanned once at Nyquist's distance, all detectors, all exit planes, potentials built once, batches. "Equal":
the same grid, slices, configurations, seeds and projected potentials; the script has its transmission functions made
once, and all detectors from one transform, with emsynth's weights: abTEM's own detectors have hard rims and can give
no equal number. (abTEM cannot scan through transmission functions; the script mends that. Both favour abTEM.) "Any":
the quickest of all scripts, among them such as use abTEM's own potential and detectors, whose numbers differ. "Apart":
largest difference to the first equal script on any detector at any thickness, by its maximum there; at most {EQUAL:g}
is required.

{chr(10).join(_table(rows))}

emsynth makes at least {worst.ratio():.2f} times as many specimens per CPU-minute ({worst.case}; required {REQUIRED:g}).

All scripts, {row.case}:

{one}

"Plans kept" is abTEM mended: its `CachedFFTWConvolution` never notes the shape that its plans are for, and plans anew
at each slice of each batch.

## Phonon averaging over the cells of a box

Plane waves give the mean over all cells of the box, which a scan of one cell does not, and more of them are needed
than probes ({row.plane_waves} against {row.positions}). {row.case}, one configuration: {average.seconds_one:.1f} s
for one cell, {average.seconds_cells:.1f} s for all.

{chr(10).join(_averaging(average))}

## What a newcomer writes

The whole field of {FIELD:g} Å scanned for each image, `sampling=0.05`, slices of 1 Å, one detector, one thickness:
{first.seconds:.0f} CPU s for one image, reckoned from {FEW} and {MORE} of its {first.positions} positions
({first.position:.2f} s each, {first.start:.1f} s before them). For the {images} images of one specimen that is
{new:.0f} times emsynth's time.
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each case")
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of the cases")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of SIMULATION.md and simulation.json")
    parser.add_argument("--note", default="", help="a sentence for the page, e.g. what else the machine did")
    options = parser.parse_args()
    with threadpool_limits(1):
        rows = []
        for case in CASES[: options.cases]:
            rows.append(measure(case, options.rounds))
            print("\n".join(_variants(rows[-1])), f"\napart {rows[-1].apart:.1e}\n", flush=True)
        average, first = averaging(CASES[0]), newcomer(CASES[0])
    page = report(rows, average, first, options.note)
    print(page)
    (options.out / "SIMULATION.md").write_text(page, encoding="utf-8")
    found = {"environment": environment(), "rows": [asdict(row) for row in rows], "averaging": asdict(average),
             "newcomer": asdict(first)}
    (options.out / "simulation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
