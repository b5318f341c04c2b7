"""Readers of the same pairs, each at its fair best: endless batches of truth and distorted in random order."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

import emsynth
from benchmarks.streaming import pairs
from benchmarks.streaming.pairs import Forms, Pictures

BATCH = 32  # pairs
_NPY_HEADER = 128  # bytes
_SHUFFLED = 1000  # pairs in WebDataset's buffer, its own default
_EPOCHS = 1000  # more than are read
_NAMES = ("truth", "distorted")


@dataclass(frozen=True, slots=True)
class Batch:
    """What every reader delivers; arrays that nobody writes to afterwards, unless the reader says so."""

    truth: Pictures  # (BATCH, y, x)
    distorted: Pictures
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """One side of the comparison.

    Attributes
    ----------
    name, threads : str
        What reads, and what else than the caller's thread works.
    library : str
        Whose; ratios take the best reader of each. "disk" delivers bytes, no samples.
    checked : bool
        Whether it checks checksums.
    kept : bool
        Whether the user may keep a batch when he asks for the next.
    files : list of Path
        Whose pages are warm or cold.
    batches : callable
        Starts the endless batches.
    ahead : int
        Batches that may have been read before they are asked for.
    release : callable
        Lets go of mapped pages, which cannot be dropped otherwise.
    """

    name: str
    library: str
    threads: str
    checked: bool
    files: list[Path]
    batches: Callable[[], Iterator[Batch]]
    ahead: int = 0
    kept: bool = True
    release: Callable[[], None] = lambda: None


def orders(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Endless random batches of indices, each sample once in an epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start:start + BATCH]


def _at_random(read: Callable[[NDArray[np.int64]], Sequence[Pictures]], count: int) -> Callable[[], Iterator[Batch]]:
    seeds = itertools.count()

    def batches() -> Iterator[Batch]:
        for index in orders(count, next(seeds)):
            truth, distorted = read(index)
            yield Batch(truth, distorted, index)

    return batches


def emsynth_readers(made: Forms) -> Iterator[Reader]:
    """Ours: without and with threads that read ahead."""
    files = [file for name in _NAMES for file in pairs.files_below(made.store / name)]
    for threads in (0, 1, 2):
        def batches(threads: int = threads) -> Iterator[Batch]:
            stream = emsynth.stream(made.store, batch_size=BATCH, split="train", fresh=False, threads=threads)
            while True:
                for batch in stream:
                    yield Batch(batch.truth, batch.distorted, batch.index)

        yield Reader(f"emsynth, threads={threads}", "emsynth", f"{threads} ahead" if threads else "the caller's", True,
                     files, batches, ahead=threads)


def memmap_readers(made: Forms) -> Iterator[Reader]:
    """NumPy's memory map: a new array for each batch, the same with rows announced, and rows taken into one array."""
    import mmap

    arrays: tuple[Any, Any] = made.mapped()
    scattered: tuple[Any, Any] = made.mapped()
    row = 4 * made.size**2
    for array in scattered:
        array._mmap.madvise(mmap.MADV_RANDOM)  # no read-ahead but for the rows that are announced

    def release() -> None:
        for array in (*arrays, *scattered):
            array._mmap.madvise(mmap.MADV_DONTNEED)

    def announced(index: NDArray[np.int64]) -> Sequence[Pictures]:
        for array in scattered:
            for first in (array.offset + row * index) // mmap.PAGESIZE * mmap.PAGESIZE:
                array._mmap.madvise(mmap.MADV_WILLNEED, int(first), row + mmap.PAGESIZE)
        return [array[index] for array in scattered]

    again = [np.zeros((BATCH, made.size, made.size), np.float32) for _ in arrays]

    def overwritten(index: NDArray[np.int64]) -> Sequence[Pictures]:
        return [np.take(array, index, axis=0, out=out, mode="clip") for array, out in zip(arrays, again, strict=True)]

    yield Reader("NumPy memmap, array[index]", "memmap", "the caller's", False, list(made.arrays),
                 _at_random(lambda index: [array[index] for array in arrays], made.samples), release=release)
    yield Reader("NumPy memmap, array[index] after madvise", "memmap", "the caller's", False, list(made.arrays),
                 _at_random(announced, made.samples), release=release)
    yield Reader("NumPy memmap, rows into one buffer, overwritten", "memmap", "the caller's", False, list(made.arrays),
                 _at_random(overwritten, made.samples), kept=False, release=release)


def tensorstore_readers(made: Forms) -> Iterator[Reader]:
    """Google's tensorstore on the very store: both arrays asked for at once; no cache, the pages are the system's."""
    import tensorstore

    files = [file for name in _NAMES for file in pairs.files_below(made.store / name)]
    for copying, reading, together in ((1, 1, False), (2, 2, False), (2, 4, True)):
        context = tensorstore.Context({
            "cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": copying},
            "file_io_concurrency": {"limit": reading}})
        arrays = [tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{made.store / name}/"}},
            context=context, read=True, open=True).result() for name in _NAMES]

        def read(index: NDArray[np.int64], arrays: Any = arrays, together: bool = together) -> Sequence[Pictures]:
            batch = tensorstore.Batch() if together else None
            asked = [array[index].read(batch=batch) for array in arrays]
            if batch is not None:
                batch.submit()
            return [one.result() for one in asked]

        yield Reader(f"tensorstore{', Batch' if together else ''}, {copying} copying, {reading} reading",
                     "tensorstore", f"{copying} + {reading}", True, files, _at_random(read, made.samples))


def _stacked(samples: Sequence[tuple[Any, Any, int]]) -> Batch:
    truth, distorted, index = zip(*samples, strict=True)
    return Batch(np.stack(truth), np.stack(distorted), np.array(index, np.int64))


def _decoder(made: Forms, skip: int) -> Callable[[bytes], Pictures]:
    """A picture from the bytes of a form: a view where nothing is compressed."""
    shape = (made.size, made.size)
    if made.codec == "none":
        return lambda content: np.frombuffer(content, np.float32, offset=skip).reshape(shape)
    numcodecs.blosc.set_nthreads(1)
    decompress = numcodecs.blosc.decompress
    return lambda content: np.frombuffer(decompress(content), np.float32).reshape(shape)


def webdataset_readers(made: Forms) -> Iterator[Reader]:
    """WebDataset: shards and a buffer shuffled; its own decoder of .npy is half as quick as this one."""
    import webdataset  # type: ignore[import-untyped]

    files = pairs.write_tar(made)
    decode, ending = _decoder(made, _NPY_HEADER), "npy" if made.codec == "none" else "blosc"

    def decoded(sample: dict[str, Any]) -> tuple[Pictures, Pictures, int]:
        return decode(sample[f"truth.{ending}"]), decode(sample[f"distorted.{ending}"]), int(sample["__key__"])

    def batches() -> Iterator[Batch]:
        rng = np.random.default_rng(0)
        # Many epochs as one: at the end of one its buffer empties without reading, and fills at the next.
        shards = [str(files[k]) for _ in range(_EPOCHS) for k in rng.permutation(len(files))]
        size = min(_SHUFFLED, made.samples // 2)
        data = webdataset.WebDataset(shards, shardshuffle=False).shuffle(size, initial=size)
        yield from data.map(decoded).batched(BATCH, collation_fn=_stacked)

    yield Reader("WebDataset", "WebDataset", "the caller's", False, files, batches)


def mosaicml_readers(made: Forms) -> Iterator[Reader]:
    """MosaicML's MDS, by index and as the shuffled stream."""
    with _unneeded("transformers", "torchvision"):
        from streaming import StreamingDataset
        from streaming.base.local import LocalDataset

    path = pairs.write_mds(made)
    files, decode = pairs.files_below(path), _decoder(made, 0)
    local = LocalDataset(str(path))

    def picture(value: Any) -> Pictures:
        return np.asarray(value) if made.codec == "none" else decode(value)

    def stacked(samples: Sequence[dict[str, Any]]) -> Batch:
        return _stacked([(picture(s["truth"]), picture(s["distorted"]), s["index"]) for s in samples])

    def read(index: NDArray[np.int64]) -> Sequence[Pictures]:
        found = stacked(local[index.tolist()])
        return found.truth, found.distorted

    def batches() -> Iterator[Batch]:
        data = StreamingDataset(local=str(path), shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
        while True:
            epoch = iter(data)
            while part := list(itertools.islice(epoch, BATCH)):
                yield stacked(part)

    yield Reader("MosaicML MDS, by index", "MDS", "the caller's", False, files, _at_random(read, made.samples))
    yield Reader("MosaicML StreamingDataset", "MDS", "its own 2", False, files, batches)


def zarr_readers(made: Forms) -> Iterator[Reader]:
    """zarr-python itself."""
    import zarr

    group = zarr.open_group(made.store, mode="r")
    arrays: list[Any] = [group[name] for name in _NAMES]
    files = [file for name in _NAMES for file in pairs.files_below(made.store / name)]
    yield Reader("zarr-python, oindex", "zarr-python", "its own", True, files,
                 _at_random(lambda index: [array.oindex[index] for array in arrays], made.samples))


def hdf5_readers(made: Forms) -> Iterator[Reader]:
    """h5py, contiguous data sets read straight into the batch."""
    if made.codec != "none":
        raise ImportError("HDF5 has no lz4 with bit shuffling of its own")
    import h5py  # type: ignore[import-untyped]

    path = pairs.write_hdf5(made)
    file = h5py.File(path, "r")

    def read(index: NDArray[np.int64]) -> Sequence[Pictures]:
        found = [np.empty((BATCH, made.size, made.size), np.float32) for _ in _NAMES]
        for name, out in zip(_NAMES, found, strict=True):
            for place, one in enumerate(index):
                file[name].read_direct(out, one, place)
        return found

    yield Reader("h5py, contiguous", "h5py", "the caller's", False, [path], _at_random(read, made.samples))


def plain_readers(made: Forms) -> Iterator[Reader]:
    """The files of the store from end to end, as they are: what disk and memory give, no samples."""
    files = [file for name in _NAMES for file in pairs.files_below(made.store / name / "c")]
    shape = (BATCH, made.size, made.size)
    found = Batch(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.arange(BATCH))

    def batches() -> Iterator[Batch]:
        views: list[Any] = [found.truth.reshape(-1).view(np.uint8), found.distorted.reshape(-1).view(np.uint8)]
        for path in itertools.cycle(files):
            with open(path, "rb", buffering=0) as file:
                while file.readinto(views[0]) and file.readinto(views[1]):
                    yield found

    yield Reader("(the store's files in sequence, not decoded)", "disk", "the caller's", False, files, batches,
                 kept=False)


SIDES = {"emsynth": emsynth_readers, "NumPy memmap": memmap_readers, "tensorstore": tensorstore_readers,
         "WebDataset": webdataset_readers, "MosaicML MDS": mosaicml_readers, "zarr-python": zarr_readers,
         "h5py": hdf5_readers, "plain": plain_readers}


def readers(made: Forms) -> tuple[list[Reader], dict[str, str]]:
    """All sides that are installed, and why others are not there."""
    found: list[Reader] = []
    missing: dict[str, str] = {}
    for name, side in SIDES.items():
        try:
            found += side(made)
        except ImportError as reason:
            missing[name] = str(reason)
    return found, missing


class _Empty(types.ModuleType):
    """A module whose every name is an empty class."""

    __path__: MutableSequence[str] = []  # noqa: RUF012 - as a package has

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Unneeded(MetaPathFinder, Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        wanted = name.split(".")[0] in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def _unneeded(*names: str) -> Iterator[None]:
    """Leave out heavy packages where they are missing: `streaming` has them for data sets of texts and photos only."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    finder = _Unneeded(absent)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in absent]:
            with suppress(KeyError):
                del sys.modules[name]
