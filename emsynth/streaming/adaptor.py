"""Data sets for `torch.utils.data`, for trainers that bring their own loader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from emsynth.errors import StreamError
from emsynth.store.reading import portable
from emsynth.streaming.feed import MEMORY, Stream, stream


class _Opened:
    """A stream that each process opens for itself.

    A forked or spawned worker must share neither locks nor open files with its parent.
    """

    def __init__(self, path: Any, settings: dict[str, Any]) -> None:
        for name in ("threads", "tensors", "pin"):
            if name in settings:
                raise StreamError(f"{name}: is the loader's matter here; leave it out, or use emsynth.stream")
        self._path, self._settings = portable(path), settings
        self._stream: Stream | None = None
        self._process = -1
        # In shared memory: workers that live on from epoch to epoch see it change. Epoch, and first step of it.
        self._epoch = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def stream(self) -> Stream:
        if self._stream is None or self._process != os.getpid():
            self._stream = stream(self._path, threads=0, tensors=True, pin=False, **self._settings)
            self._process = os.getpid()
        return self._stream

    @property
    def epoch(self) -> int:
        return int(self._epoch[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if not isinstance(epoch, int) or epoch < 0:
            raise StreamError(f"epoch: {epoch!r} is not a whole number from 0 on")
        self._epoch[0] = epoch

    @property
    def first(self) -> int:
        """Step at which the epoch begins."""
        return int(self._epoch[1])

    @first.setter
    def first(self, step: int) -> None:
        self._epoch[1] = step

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_process": -1}


class PairDataset(Dataset[dict[str, Any]]):
    """Single pairs in the order of their indices, for a loader that shuffles and collates.

    Each item is a dict of tensors: ``truth`` (1, H, W) and ``distorted`` (views, H, W) float32, ``index``, and what
    `also` asks for. It works with any number of workers, forked or spawned.

    Parameters
    ----------
    path : path, str or zarr store
        As for `emsynth.stream`.
    split, seed, fresh, patch, views, also, symmetric, memory
        As for `emsynth.stream`.

    Raises
    ------
    StreamError, StoreError
        As `emsynth.stream`.
    """

    def __init__(self, path: Any, split: str | None = "train", seed: int = 0, fresh: bool = True,
                 patch: int | None = None, *, views: int = 1, also: Sequence[str] = (), symmetric: bool = False,
                 memory: int = MEMORY) -> None:
        settings = {"split": split, "seed": seed, "fresh": fresh, "patch": patch, "views": views, "also": tuple(also),
                    "symmetric": symmetric, "memory": memory}
        self._opened = _Opened(path, {**settings, "batch_size": 1, "shuffle": False})
        self._length = len(self._opened.stream)

    def __len__(self) -> int:
        """Samples in the split."""
        return self._length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The pair at a place of the split, 0 to ``len - 1``; a pure function of it and the epoch."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"{number} is outside 0 to {len(self) - 1}")
        batch = self._opened.stream.batch(self._opened.epoch, number % len(self))
        return {name: values[0] for name, values in batch.items()}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: other fresh distortions, windows and symmetries."""
        self._opened.epoch = epoch


class BatchDataset(IterableDataset[dict[str, Any]]):
    """The batches of `emsynth.stream` for ``DataLoader(..., batch_size=None)``, in order with any number of workers.

    Parameters
    ----------
    path : path, str or zarr store
        As for `emsynth.stream`.
    **settings
        As for `emsynth.stream`: ``batch_size``, ``seed``, ``split``, ``rank``, ``world`` ...; not ``threads``,
        ``tensors`` and ``pin``, which are the loader's.
    """

    def __init__(self, path: Any, **settings: Any) -> None:
        self._opened = _Opened(path, settings)
        self._length = len(self._opened.stream)

    def __len__(self) -> int:
        """Batches in an epoch, or in what is left of it."""
        return self._length - self._opened.first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of the epoch; of every n-th step in each of n workers, which the loader puts in order."""
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for number in range(self._opened.first + first, self._length, step):
            yield dict(self._opened.stream.batch(self._opened.epoch, number))

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch, as `torch.utils.data.DistributedSampler` wants it: before each of them.

        Parameters
        ----------
        epoch : int
            From 0 on.
        first : int
            Step at which it begins, for a training that goes on.
        """
        if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first <= self._length:
            raise StreamError(f"first: {first!r} is no step of an epoch of {self._length}")
        self._opened.epoch, self._opened.first = epoch, first
