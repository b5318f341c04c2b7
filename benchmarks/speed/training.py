"""The trainer beside a bare torch loop, and how long it waits for data: `python -m benchmarks.speed.training`.

Both learn the same network from the same batches with the same losses, in turns, so that a busy machine slows both.
The wait is measured with a network whose step takes a given time and no processor, as one on a GPU does. Writes
TRAINING.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from emsynth.networks.cgrdn import CGRDN, Size
from emsynth.training.data import Feed, Pairs, field_library
from emsynth.training.losses import generator_loss
from emsynth.training.recipe import TrainingRecipe
from emsynth.training.train import Run, launched

HERE = Path(__file__).parent
STEP = 0.04  # s
Times = list[float]


class Recorded:
    """A feed of batches that are there already, so that both loops learn from the same without waiting."""

    waited = 0.0

    def __init__(self, pairs: list[Pairs]) -> None:
        self._pairs = pairs

    def position(self, step: int) -> tuple[int, int]:
        """No epochs."""
        return 0, step

    def batches(self, step: int) -> Iterator[Pairs]:
        """Again and again."""
        while True:
            yield self._pairs[step % len(self._pairs)]
            step += 1


def bare(recipe: TrainingRecipe, pairs: list[Pairs]) -> Iterator[float]:
    """Seconds of the next round through the batches, of a loop that does nothing but learn."""
    stage = recipe.stages[0]
    network = CGRDN(Size(**recipe.network.model_dump(exclude={"start"}))).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), stage.rate.peak)
    reduced = recipe.hardware.precision == "bf16-mixed"
    while True:
        began = time.perf_counter()
        for batch in pairs:
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                restored = network(batch.distorted.to(memory_format=torch.channels_last))
            loss, _ = generator_loss(stage.losses, restored.float(), batch.truth)
            adam.zero_grad()
            loss.backward()
            adam.step()
        yield time.perf_counter() - began


def trained(recipe: TrainingRecipe, library: Path, folder: Path, pairs: list[Pairs]) -> Iterator[float]:
    """Seconds of the next round, of the trainer with all that it does beside: average, log, limits, watching."""
    run = Run(launched(recipe), recipe, folder, library, False, lambda: False)
    feed, stage = Recorded(pairs), recipe.stages[0]
    while True:
        began = time.perf_counter()
        run.learn_until(stage, feed, run.progressed.step + len(pairs), 10**9)  # type: ignore[arg-type]
        yield time.perf_counter() - began


def overhead(recipe: TrainingRecipe, library: Path, steps: int, rounds: int) -> tuple[Times, Times]:
    """Seconds of each round of the bare loop and of the trainer, in turns after one round that does not count."""
    batches = Feed(recipe, library, 0).batches(0)
    pairs = [next(batches) for _ in range(steps)]
    with tempfile.TemporaryDirectory() as folder:
        sides = bare(recipe, pairs), trained(recipe, library, Path(folder), pairs)
        taken = [[next(side) for side in sides] for _ in range(rounds + 1)][1:]
    return [one for one, _ in taken], [other for _, other in taken]


def waiting(recipe: TrainingRecipe, library: Path, steps: int, seconds: float) -> float:
    """Share of the time for which a network waits whose step takes some seconds and no processor."""
    feed = Feed(recipe, library, 0)
    batches = feed.batches(0)
    # Kernels are loaded, threads begin, and nearly every field is read once, in each process.
    for _ in range(8 * recipe.data.building.fields // recipe.stages[0].batch * max(1, recipe.data.workers)):
        next(batches)
    before, began = feed.waited, time.perf_counter()
    for _ in range(steps):
        next(batches)
        time.sleep(seconds)
    return (feed.waited - before) / (time.perf_counter() - began)


def measure(recipe: TrainingRecipe, steps: int, rounds: int) -> dict[str, Any]:
    """All figures of a training recipe's first stage."""
    library = field_library(recipe)
    torch.set_num_threads(recipe.hardware.threads or torch.get_num_threads())
    alone, both = overhead(recipe, library, steps, rounds)
    stage = recipe.stages[0]
    found = {
        "recipe": recipe.name, "batch": stage.batch, "patch": stage.patch or recipe.data.building.image.size,
        "bare": statistics.median(alone) / steps, "trainer": statistics.median(both) / steps,
        "overhead": statistics.median(b / a for a, b in zip(alone, both, strict=True)) - 1, "waiting": {}}
    for threads, workers in ((1, 0), (2, 0), (0, 2)):
        data = recipe.data.model_copy(update={"threads": threads, "workers": workers})
        name = f"{workers} processes" if workers else f"{threads} thread{'s' if threads > 1 else ''}"
        found["waiting"][name] = waiting(recipe.model_copy(update={"data": data}), library, 100, STEP)
    return found


def page(found: list[dict[str, Any]]) -> str:
    """TRAINING.md."""
    lines = ["# The trainer beside a bare loop", "",
             "`python -m benchmarks.speed.training`. Milliseconds of one step on the CPU, medians of rounds in turns;",
             f"and the share of time in which a network whose step takes {1e3 * STEP:.0f} ms elsewhere waits for fresh",
             "pairs.", "",
             "| recipe | batch | bare loop | trainer | overhead | "
             + " | ".join(f"waiting, {name}" for name in found[0]["waiting"]) + " |",
             "|---|---|---|---|---|" + "---|" * len(found[0]["waiting"])]
    for row in found:
        lines.append(f"| {row['recipe']} | {row['batch']} of {row['patch']}² | {1e3 * row['bare']:.0f} | "
                     f"{1e3 * row['trainer']:.0f} | {row['overhead']:.1%} | "
                     + " | ".join(f"{share:.1%}" for share in row["waiting"].values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", action="append", help="training recipe; by default train_tem_hd and train_stem_hd")
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    found = [measure(TrainingRecipe.load(name), options.steps, options.rounds)
             for name in options.recipe or ["train_tem_hd", "train_stem_hd"]]
    (HERE / "TRAINING.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
