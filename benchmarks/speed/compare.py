"""All sides in one run, in turn: `python -m benchmarks.speed.compare` prints and writes RESULTS.md and results.json."""

from __future__ import annotations

import argparse
import cProfile
import importlib.metadata
import json
import os
import platform
import pstats
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Before NumPy and torch are loaded: a library counts its threads once.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

from threadpoolctl import threadpool_limits  # noqa: E402

from benchmarks.speed import cases  # noqa: E402
from benchmarks.speed.cases import Case  # noqa: E402

HERE = Path(__file__).parent
FRAME = 512  # px, of the kernels
CHAINS = {256: 40, 512: 20, 2048: 4}  # px: rounds
REQUIRED, AIM = {"numpy": 8.0, "torch": 3.0}, {"numpy": 25.0, "torch": 10.0}  # of the whole chain at 512²
PACKAGES = ("emsynth", "numpy", "scipy", "numba", "torch")
POOLED = 16  # samples in one measurement of the threads


@dataclass(frozen=True)
class Timing:
    """Times of one side of one case, ms."""

    median: float
    least: float


@dataclass(frozen=True)
class Row:
    """One line of the table; `floor` is the time of the random words of one frame, measured in the same rounds, ms."""

    name: str
    side: int
    rounds: int
    floor: Timing
    sides: dict[str, Timing]

    def ratio(self, other: str) -> float | None:
        """How many times faster than another side emsynth is, by the medians."""
        if other not in self.sides or "emsynth" not in self.sides:
            return None
        return self.sides[other].median / self.sides["emsynth"].median


def measure(case: Case, rounds: int) -> Row:
    """Time all sides of a case and the floor in turn, each round beginning with another one.

    Each is run twice and the second time counts, as in the loops that they are for: the first one finds the caches and
    the heap as another side has left them.
    """
    floor = next(cases.random_numbers(case.side)).calls["emsynth"]
    calls = [("floor", floor), *case.calls.items()]
    times: dict[str, list[float]] = {name: [] for name, _ in calls}
    for _, call in calls:
        call()
    for n in range(rounds):
        for k in range(len(calls)):
            name, call = calls[(n + k) % len(calls)]
            call()
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    timing = {name: Timing(statistics.median(t), min(t)) for name, t in times.items()}
    return Row(case.name, case.side, rounds, timing.pop("floor"), timing)


def pooled(case: Case, workers: int, rounds: int) -> dict[str, float]:
    """How many times as many samples per second `workers` threads make as one thread, by side."""
    gains = {}
    for name, call in case.calls.items():
        pools = {n: cases.threaded(call, n, POOLED) for n in (1, workers)}
        times: dict[int, list[float]] = {n: [] for n in pools}
        for _ in range(rounds):
            for n, together in pools.items():
                start = time.perf_counter()
                together()
                times[n].append(time.perf_counter() - start)
        gains[name] = statistics.median(times[1]) / statistics.median(times[workers])
    return gains


def _cell(timing: Timing | None) -> str:
    return "" if timing is None else f"{timing.median:.2f} ({timing.least:.2f})"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| computation | px | emsynth ms | NumPy ms | ratio | torch ms | ratio | ÷ random words |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours = row.sides.get("emsynth")
        over = None if ours is None else ours.median / row.floor.median
        cells = [row.name, f"{row.side}²", _cell(ours), _cell(row.sides.get("numpy")), _times(row.ratio("numpy"))]
        cells += [_cell(row.sides.get("torch")), _times(row.ratio("torch")), _times(over)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """Processor and versions."""
    found = {"processor": _processor(), "cores": str(cases.cores()), "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def verdict(row: Row) -> str:
    """How the whole chain stands against what is required of it."""
    found = {name: row.ratio(name) for name in REQUIRED}
    parts = [
        f"{ratio:.1f} times as fast as {name} ({row.sides[name].least / row.sides['emsynth'].least:.1f} by the "
        f"quickest rounds; required {REQUIRED[name]:g}, aim {AIM[name]:g})"
        for name, ratio in found.items()
        if ratio is not None
    ]
    return f"The whole chain at {row.side}² is {' and '.join(parts)}."


def profile(case: Case, runs: int) -> list[tuple[str, float]]:
    """Where emsynth's whole chain spends its time: (kernel or the rest, ms for each frame), longest first."""
    call = case.calls["emsynth"]
    call()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(runs):
        call()
    profiler.disable()
    spent: dict[str, float] = {}
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        kernel = "_kernels" in file
        part = f"{Path(file).stem}.{name}" if kernel else "NumPy and Python around the kernels"
        spent[part] = spent.get(part, 0.0) + own * 1e3 / runs
    return sorted(spent.items(), key=lambda item: -item[1])


def report(
    rows: Sequence[Row], gains: dict[int, dict[str, float]], spent: list[tuple[str, float]], note: str
) -> str:
    """The whole page."""
    drawn = next(row for row in rows if row.name == "whole chain with draw" and row.side == min(CHAINS))
    rate, best = 1e3 / drawn.sides["emsynth"].median, 1e3 / drawn.sides["emsynth"].least
    about = ", ".join(f"{name} {value}" for name, value in environment().items() if name != "processor")
    threads = "\n".join(
        f"- {side}²: " + ", ".join(f"{name} {gain:.2f}" for name, gain in by.items()) for side, by in gains.items()
    )
    whole = sum(time for _, time in spent)
    parts = "\n".join(f"| {name} | {time:.2f} | {100 * time / whole:.0f} % |" for name, time in spent if time > 0.02)
    return f"""# Speed

Written by `python -m benchmarks.speed.compare`: one run, one thread, all sides in turn, each twice in a row of which
the second counts. Median (least) of the rounds in ms; ratios are those of the medians. The last column is emsynth's
time over that of one pass of Philox random words over the same frame, one word per pixel. The draw of the chain's
numbers is emsynth's alone; the references run with fixed ones.

{_processor()}; {about}. {note}

{table(rows)}

{verdict(next(row for row in rows if row.name == "whole chain" and row.side == FRAME))}

With the draw of the chain included, one thread makes {rate:.0f} pairs of {drawn.side}² per second ({best:.0f} in the
quickest round): {drawn.sides["emsynth"].median / drawn.floor.median:.0f} passes of random words each.

Samples per second of {cases.cores()} threads over those of one thread, samples shared out to a thread pool:

{threads}

## Where the time goes

The whole chain at {FRAME}², profiled in the same run (a profiler adds a little to what is Python):

| kernel | ms | share |
|---|---:|---:|
{parts}

See "What bounds it" in [benchmarks/README.md](../README.md).
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each kernel; those of the chains scale along")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of RESULTS.md and results.json")
    parser.add_argument("--note", default="", help="a sentence for the page, e.g. what else the machine did")
    options = parser.parse_args()
    if cases.torch is None:
        print("torch is not installed: its columns stay empty")
    else:
        cases.torch.set_num_threads(1)
    with threadpool_limits(1):
        # The chains first: what a kernel leaves of the heap is no part of them.
        chains: list[Row] = []
        for side, rounds in CHAINS.items():
            rounds = max(1, rounds * options.rounds // 15)
            chains += [measure(cases.whole_chain(side), rounds), measure(cases.drawn_chain(side), rounds)]
        rows = [measure(case, options.rounds) for case in cases.kernels(FRAME)] + chains
        gains = {side: pooled(cases.whole_chain(side), cases.cores(), 5) for side in (256, 512)}
        spent = profile(cases.whole_chain(FRAME), 40)
    page = report(rows, gains, spent, options.note)
    print(page)
    (options.out / "RESULTS.md").write_text(page, encoding="utf-8")
    found = {"environment": environment(), "rows": [asdict(r) for r in rows], "threads": gains, "profile": spent}
    (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
