"""What a stream costs before the first batch and after many: time to open, memory over tens of thousands of batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import emsynth
from benchmarks.streaming import pairs
from benchmarks.streaming.rounds import Pace
from emsynth.recipe import Recipe
from emsynth.sample import Sample
from emsynth.streaming import Batch

TINY = 16  # px
_OPEN = """
import json, sys, time
start = time.perf_counter()
import emsynth.streaming
found = {"import emsynth.streaming": time.perf_counter() - start}
path = sys.argv[1]
start = time.perf_counter()
stream = emsynth.stream(path, batch_size=32, split="train", fresh=False)
found["emsynth.stream"] = time.perf_counter() - start
next(iter(stream))
found["emsynth.stream to the first batch"] = time.perf_counter() - start
start = time.perf_counter()
emsynth.open_dataset(path)
found["emsynth.open_dataset"] = time.perf_counter() - start
print(json.dumps({"samples": len(stream.samples), **found}))
"""
_MEMORY = """
import json, sys
from benchmarks.streaming import growth
print(json.dumps(growth.memory(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
"""


def opening(path: Path, times: int = 5) -> dict[str, float]:
    """Seconds to open a store, each time in a new process: the medians; and how many samples it has."""
    found: list[dict[str, float]] = [json.loads(_in_new_process(_OPEN, str(path))) for _ in range(times)]
    return {name: sorted(one[name] for one in found)[times // 2] for name in found[0]}


def _in_new_process(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def small_store(path: Path, pairs_of: int = 64, size: int = 256, fields: int = 2) -> Path:
    """A built data set of `stem_ld` with its fields."""
    recipe = Recipe.load("stem_ld", overrides=[f"samples={pairs_of}", f"fields={fields}", f"image.size={size}",
                                               f"simulate.size={max(640, 5 * size)}"])
    return emsynth.build(recipe, path, workers=1)


def tiny_store(path: Path, samples: int, shard: int = pairs.SHARD) -> Path:
    """A store of many pairs of 16 x 16 px."""
    first = [_cut(sample) for sample in pairs.rendered(4, 64, 1)]
    return pairs.emsynth_store(path, first, samples, "none", shard)


def _cut(sample: Sample) -> Sample:
    drawn = sample.drawn.model_copy(update={"image": sample.drawn.image.model_copy(update={"size": TINY})})
    names = ("truth", "distorted", "displacement", "mask", "class_map")
    return replace(sample, drawn=drawn, **{name: getattr(sample, name)[..., :TINY, :TINY] for name in names})


def memory_series(folder: Path, fields: Path | None, batches: int, every: int = 5000) -> dict[str, Any]:
    """Resident memory of new processes, MB, over batches of stored and of fresh pairs."""
    stored = tiny_store(folder / "stored.zarr", 8 * pairs.SHARD)
    fields = fields or small_store(folder / "fresh.zarr")
    asked = {"stored pairs": {"path": str(stored), "batch_size": 32, "fresh": False},
             "fresh pairs": {"path": str(fields), "batch_size": 2, "patch": 2 * TINY}}
    return {name: json.loads(_in_new_process(_MEMORY, json.dumps(how), str(batches), str(every)))
            for name, how in asked.items()}


def memory(how: dict[str, Any], batches: int, every: int) -> list[tuple[int, float]]:
    """Resident memory of this process, MB, after so many batches of a stream with two threads."""
    stream = emsynth.stream(**how, split=None, threads=2)
    found: list[tuple[int, float]] = []
    done = 0
    while True:
        for _ in stream:
            done += 1
            if done % every == 0:
                found.append((done, resident_memory()))
            if done == batches:
                return found


def resident_memory() -> float:
    """Resident memory of this process, MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1e3


def fresh_rates(path: Path, rounds: int, batches: int, seconds: float, batch_size: int = 32) -> list[dict[str, Any]]:
    """Pairs distorted afresh by wall and by CPU second, with 0, 1 and 2 threads in turn."""

    def endless(threads: int) -> Iterator[Batch]:
        stream = emsynth.stream(path, batch_size=batch_size, split=None, fresh=True, threads=threads, drop_last=True)
        while True:
            yield from stream

    running = {threads: endless(threads) for threads in (0, 1, 2)}
    found = {threads: Pace() for threads in running}
    for each in running.values():
        next(each)
    for n in range(rounds):
        for k in range(len(running)):
            threads = (n + k) % len(running)
            for _ in range(threads + 2):
                next(running[threads])
            found[threads].add(running[threads], batches, seconds)
    return [{"threads": threads, "wall": pace.wall, "cpu": pace.cpu} for threads, pace in found.items()]
