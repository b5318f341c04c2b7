"""The protocol: all readers in turn, round by round, with warm or cold pages; pairs by wall and by CPU second."""

from __future__ import annotations

import bisect
import gc
import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.streaming.pairs import Pictures
from benchmarks.streaming.peers import BATCH, Batch, Reader

WARM_UP = 4  # batches at the beginning of each round, beside those that were read ahead
_PAGE = 4096  # bytes
_LEFT, _TRIES = 0.02, 5  # of pages that may stay when all are to be dropped


@dataclass
class Pace:
    """Rates by round: pairs per second, and per CPU second of all threads of the process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, running: Iterator[Any], batches: int, seconds: float) -> int:
        """Time one round, which ends with whichever comes first; the bytes that it delivered."""
        pairs, delivered = 0, 0
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(batches):
            batch = next(running)
            pairs += len(batch.index)
            delivered += batch.truth.nbytes + batch.distorted.nbytes
            if time.perf_counter() - start > seconds:
                break
        self.wall.append(pairs / (time.perf_counter() - start))
        self.cpu.append(pairs / (time.process_time() - cpu))
        return delivered


@dataclass
class Row:
    """What was measured of one reader; `read` is bytes from the disk for each byte delivered, NaN where not known."""

    name: str
    library: str
    threads: str
    checked: bool
    kept: bool
    pace: Pace = field(default_factory=Pace)
    read: list[float] = field(default_factory=list)


def measure(readers: Sequence[Reader], rounds: int, batches: int, seconds: float, cold: bool) -> list[Row]:
    """Rates of all readers, each round beginning with another one.

    Parameters
    ----------
    readers : sequence of Reader
        All sides.
    rounds : int
        How many times each.
    batches, seconds : int and float
        A round of one reader ends with whichever comes first.
    cold : bool
        Whether the pages of its files are dropped before each round of a reader; they are loaded otherwise.
    """
    rows = [Row(r.name, r.library, r.threads, r.checked, r.kept) for r in readers]
    running = [reader.batches() for reader in readers]
    for each in running:
        next(each)
    for n in range(rounds):
        for k in range(len(readers)):
            which = (n + k) % len(readers)
            _round(readers[which], running[which], rows[which], batches, seconds, cold)
    return rows


def _round(reader: Reader, running: Iterator[Batch], row: Row, batches: int, seconds: float, cold: bool) -> None:
    if cold:
        reader.release()
        drop(reader.files)
    else:
        load(reader.files)
    gc.collect()
    for _ in range(reader.ahead + (0 if cold else WARM_UP)):
        next(running)
    before = _bytes_read()
    delivered = row.pace.add(running, batches, seconds)
    row.read.append((_bytes_read() - before) / delivered)


def check(reader: Reader, truth: Pictures, distorted: Pictures) -> None:
    """Compare a batch of a reader with what is right.

    Raises
    ------
    ValueError
        Where it differs.
    """
    if reader.library == "disk":
        return
    batch = next(reader.batches())
    for name, found, right in (("truth", batch.truth, truth), ("distorted", batch.distorted, distorted)):
        wanted = (BATCH, *right.shape[1:])
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != wanted:
            raise ValueError(f"{reader.name}: {name} is {type(found).__name__} {found.dtype} {found.shape}")
        if not np.array_equal(found, right[batch.index]):
            raise ValueError(f"{reader.name}: {name} of samples {batch.index.tolist()} is not what was written")


def load(files: Sequence[Path]) -> None:
    """Bring files into the page cache, where they are not there already."""
    if resident(files) == 1.0:
        return
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def drop(files: Sequence[Path]) -> None:
    """Drop the pages of files from the page cache; pages that a process has mapped stay.

    Raises
    ------
    OSError
        Where more than a few stay: a figure of a cold cache would be wrong.
    """
    for _ in range(_TRIES):
        for path in files:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
        left = resident(files)
        if left <= _LEFT:
            return
        time.sleep(0.1)
    raise OSError(f"{100 * left:.0f} % of {files[-1]} and its like stayed in the page cache")


def resident(files: Sequence[Path], pages: int = 256) -> float:
    """Share of the pages of files that are in the page cache, from a few random ones; 0 where the system cannot say."""
    ends = list(itertools.accumulate(os.path.getsize(path) // _PAGE for path in files))
    looked = random.sample(range(ends[-1]), min(pages, ends[-1]))  # each once: a look brings a page in
    found, buffer = 0, [bytearray(_PAGE)]
    for page in looked:
        which = bisect.bisect(ends, page)
        handle = os.open(files[which], os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # but not its neighbours
            within = page - (ends[which - 1] if which else 0)
            found += os.preadv(handle, buffer, within * _PAGE, os.RWF_NOWAIT) > 0
        except OSError:
            pass
        finally:
            os.close(handle)
    return found / len(looked)


def _bytes_read() -> float:
    """What this process had the disk read, in bytes."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return float(next(line.split()[1] for line in lines if line.startswith("read_bytes")))
