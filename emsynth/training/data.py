"""What a network learns from: the field library of a training recipe, and batches that never end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from emsynth.builder import Progress, build
from emsynth.errors import StoreExistsError, TrainingError
from emsynth.passes import split_of
from emsynth.store.reading import open_reading
from emsynth.streaming import BatchDataset, stream
from emsynth.streams import stream_key
from emsynth.training.recipe import TrainingRecipe

_GB = 1 << 30
# Samples: fresh ones cost nothing until they are asked for, and where an epoch ends threads begin anew.
_EPOCH = 1 << 20


class Pairs(NamedTuple):
    """A batch in units of each distorted image's own deviation about its own mean.

    Attributes
    ----------
    distorted, truth : Tensor (N, 1, H, W), float32
    samples : ndarray (N,)
        Which samples these are.
    """

    distorted: torch.Tensor
    truth: torch.Tensor
    samples: NDArray[np.int64]


def field_library(recipe: TrainingRecipe, progress: Progress | None = None) -> Path:
    """The fields that a training recipe names, simulated where they are missing or unfinished.

    Raises
    ------
    TrainingError
        There is another data set in that place, or it has no fields of the train split.
    EmsynthError
        It cannot be built, or read.
    """
    path, building = recipe.library, recipe.data.building
    wanted = building.model_copy(update={"samples": max(building.samples, building.fields, _EPOCH)})
    if not path.exists() or not _finished(path, wanted.fields):
        try:
            build(wanted, path, fields=range(wanted.fields), resume=path.exists(), progress=progress)
        except StoreExistsError as reason:
            raise TrainingError(f"data.library: {reason}") from None
    readable = open_reading(path)
    there = readable.store.recipe
    if _of_fields(there) != _of_fields(wanted):
        raise TrainingError(f"data.library: {path} has the fields of another recipe ({there.name}, {there.fields} "
                            f"fields, seed {there.seed}); name another place, or leave the key out")
    splits = {split_of(str(readable.field_about(number)["provenance"]["specimen"]["prototype"]))
              for number in range(there.fields)}
    if "train" not in splits:
        raise TrainingError(f"data.library: {path} has no field of the train split; build more fields (fields=N "
                            "in data.set)")
    return path


def _finished(path: Path, fields: int) -> bool:
    store = open_reading(path).store
    return bool(len(store.finished("field")) >= fields)


def _of_fields(recipe: Any) -> Any:
    """What decides the fields and the windows on them; a store keeps images of the user's own beside their fields."""
    found = recipe.model_dump(mode="json", include={"seed", "fields", "image", "specimen", "microscope", "simulate"})
    found["simulate"].pop("folder", None)
    return found


class Feed:
    """Batches of one stage from any step on, epoch after epoch; a pure function of recipe, stage, rank and step.

    Attributes
    ----------
    waited : float
        Seconds that the consumer has waited for them.
    """

    def __init__(self, recipe: TrainingRecipe, library: Path, number: int, rank: int = 0, world: int = 1) -> None:
        stage, data = recipe.stages[number], recipe.data
        size = data.building.image.size
        patch = None if stage.patch in (None, size) else stage.patch
        self._settings: dict[str, Any] = {
            "batch_size": stage.batch, "seed": stream_key(recipe.seed, number, "training") >> 66, "patch": patch,
            "rank": rank, "world": world, "drop_last": True, "memory": int(data.memory * _GB), "distort": data.chains()}
        self._library, self._workers, self._threads = library, data.workers, data.threads
        self.waited = 0.0
        whole = stream(library, threads=0, **self._settings)
        if whole.parts:
            raise TrainingError(f"data.memory: {data.memory:g} GB do not hold the fields of {library}, and a training "
                                "in parts would see the first ones only; give more (each process holds them), or take "
                                "fewer fields")
        self._length = len(whole)
        if not self._length:
            raise TrainingError(f"stages.{number}.batch: {stage.batch} pairs for each of {world} ranks are more than "
                                "an epoch has; take smaller batches")

    def position(self, step: int) -> tuple[int, int]:
        """Epoch of a step of the stage, and its place in that."""
        return divmod(step, self._length)

    def batches(self, step: int) -> Iterator[Pairs]:
        """Batches from a step on, without end."""
        following = self._from_workers(step) if self._workers else self._from_threads(step)
        while True:
            asked = time.perf_counter()
            batch = next(following)
            self.waited += time.perf_counter() - asked
            yield standardised(batch)

    def _from_threads(self, step: int) -> Iterator[Any]:
        source = stream(self._library, threads=self._threads, tensors=True, **self._settings)
        source.seek(*self.position(step))
        while True:
            yield from source

    def _from_workers(self, step: int) -> Iterator[Any]:
        batches = BatchDataset(self._library, **self._settings)
        # Forked workers would share the locks of a parent that has threads.
        loader: Any = torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=self._workers, persistent_workers=True, prefetch_factor=4,
            multiprocessing_context="forkserver", pin_memory=torch.cuda.is_available())
        epoch, first = self.position(step)
        while True:
            batches.set_epoch(epoch, first)
            yield from loader
            epoch, first = epoch + 1, 0


def standardised(batch: Any) -> Pairs:
    """A batch less the mean of each distorted image, divided by its deviation (1 where that is 0)."""
    distorted, truth = batch["distorted"], batch["truth"]
    if distorted.ndim == 3:
        distorted, truth = distorted.unsqueeze(1), truth.unsqueeze(1)
    # In double precision: the counts of a bright image differ in their last digits.
    double = distorted.double()
    mean, deviation = double.mean((1, 2, 3), keepdim=True), double.std((1, 2, 3), keepdim=True, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return Pairs(((double - mean) / deviation).float(), ((truth.double() - mean) / deviation).float(),
                 np.asarray(batch["index"]))
