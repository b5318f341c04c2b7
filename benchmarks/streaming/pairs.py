"""The same pairs as an emsynth store and in the forms that other readers know."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

import emsynth
from emsynth import store
from emsynth.passes import Outline
from emsynth.recipe import Recipe
from emsynth.sample import Sample, SampleColumns

SHARD = 512  # samples
DISTINCT = 256  # rendered pairs; the others are their mirror images, transposes and shifts
Pictures = NDArray[np.float32]
BLOSC = numcodecs.Blosc(cname="lz4", shuffle=numcodecs.Blosc.BITSHUFFLE)
_NO_COLUMNS = SampleColumns(np.empty((0, 2)), np.empty(0, np.int32), np.empty(0, np.uint8), (),
                            np.empty(0, np.float32), 1.0, np.empty(0, np.bool_))


@dataclass(frozen=True)
class Forms:
    """Where the pairs lie."""

    samples: int
    size: int  # px
    codec: str
    store: Path
    arrays: tuple[Path, Path]  # truth and distorted, .npy
    folder: Path

    def mapped(self) -> tuple[Pictures, Pictures]:
        """Memory maps of truth and distorted (sample, y, x), which also say what is right."""
        first, second = (np.load(file, mmap_mode="r") for file in self.arrays)
        return first, second


def rendered(count: int, size: int = 256, fields: int = 8) -> list[Sample]:
    """Pairs of `stem_ld`, which takes seconds."""
    recipe = Recipe.load("stem_ld", overrides=[f"samples={count}", f"fields={fields}", f"image.size={size}",
                                               f"simulate.size={max(640, 5 * size)}"])
    clean = {number: emsynth.simulate(recipe, number) for number in range(fields)}
    return [emsynth.render(recipe, index, clean[recipe.field_of(index)]) for index in range(count)]


def of_store(path: Path, count: int = DISTINCT) -> list[Sample]:
    """The first pairs of a store that is there."""
    return [store.read_sample(path, index) for index in range(min(count, store.open_store(path).samples))]


def _turned(picture: NDArray[Any], kind: int) -> NDArray[Any]:
    """One of sixteen pictures that are as compressible as the first."""
    turned = np.roll(picture, picture.shape[-1] // 2, axis=-1) if kind & 8 else picture
    turned = turned[..., ::-1] if kind & 4 else turned
    turned = turned[..., ::-1, :] if kind & 2 else turned
    return turned.swapaxes(-1, -2) if kind & 1 else turned


def samples_of(distinct: Sequence[Sample], wanted: range) -> list[Sample]:
    """Samples by index, all of them of the split train: distinct ones first, then these turned."""
    made = []
    for index in wanted:
        first, kind = distinct[index % len(distinct)], index // len(distinct)
        turned: dict[str, Any] = {name: np.ascontiguousarray(_turned(getattr(first, name), kind))
                                  for name in ("truth", "distorted", "displacement", "mask", "class_map")}
        made.append(replace(first, index=index, split="train", columns=_NO_COLUMNS, **turned))
    return made


def emsynth_store(path: Path, distinct: Sequence[Sample], count: int, codec: str, shard: int = SHARD) -> Path:
    """Write a store of `count` pairs and all that belongs to them, through emsynth's own functions."""
    recipe = distinct[0].drawn
    recipe = recipe.model_copy(update={"samples": count, "store": recipe.store.model_copy(
        update={"shard": shard, "codec": codec})})
    outlines = [Outline(field=number, digest="", kind="", structure="", prototype="", split="train", work=0.0,
                        memory=0.0, bytes=0, most_columns=0, cached=True) for number in range(recipe.fields)]
    made = store.create(path, recipe, outlines)
    for number in range(made.shards):
        store.write_shard(path, number, samples_of(distinct, made.samples_of(number)))
    return path


def forms(folder: Path, distinct: Sequence[Sample], count: int, codec: str, shard: int = SHARD) -> Forms:
    """Write the store, and its pictures as two .npy files."""
    path = emsynth_store(folder / f"{codec}.zarr", distinct, count, codec, shard)
    size = distinct[0].truth.shape[-1]
    made = Forms(count, size, codec, path, (folder / "truth.npy", folder / "distorted.npy"), folder)
    if not made.arrays[1].exists():
        truth, distorted = (np.lib.format.open_memmap(file, "w+", np.float32, (count, size, size))
                            for file in made.arrays)
        for sample in (s for k in range(0, count, shard)
                       for s in samples_of(distinct, range(k, min(k + shard, count)))):
            truth[sample.index], distorted[sample.index] = sample.truth, sample.distorted
        truth.flush()
        distorted.flush()
    return made


def encoded(made: Forms) -> Callable[[Pictures], Any]:
    """How a picture is kept where a form has no codecs of its own: as it is, or with the codec of the store."""
    return np.ascontiguousarray if made.codec == "none" else BLOSC.encode


def write_tar(made: Forms, shard: int = SHARD) -> list[Path]:
    """WebDataset's shards: a member for each picture, .npy or compressed."""
    import webdataset  # type: ignore[import-untyped]

    pattern, ending = f"{made.folder}/{made.codec}-%06d.tar", "npy" if made.codec == "none" else "blosc"
    writer = webdataset.ShardWriter(pattern, maxcount=shard, maxsize=1e12, verbose=0)
    with writer:
        for index, pictures in _pairs(made):
            members = {f"{name}.{ending}": picture for name, picture in pictures.items()}
            writer.write({"__key__": f"{index:08d}", **members})
    return sorted(made.folder.glob(f"{made.codec}-*.tar"))


def write_mds(made: Forms, shard: int = SHARD) -> Path:
    """MosaicML's shards, of about as many samples as the store's."""
    from streaming.base.format.mds import MDSWriter

    encoding = f"ndarray:float32:{made.size},{made.size}" if made.codec == "none" else "bytes"
    columns = {"truth": encoding, "distorted": encoding, "index": "int"}
    path = made.folder / f"{made.codec}-mds"
    with MDSWriter(columns=columns, out=str(path), size_limit=shard * (8 * made.size**2 + 64)) as writer:
        for index, pictures in _pairs(made):
            writer.write({**pictures, "index": index})
    return path


def write_hdf5(made: Forms) -> Path:
    """One HDF5 file with two contiguous data sets."""
    import h5py  # type: ignore[import-untyped]

    path = made.folder / f"{made.codec}.h5"
    with h5py.File(path, "w") as file:
        for name, pictures in zip(("truth", "distorted"), made.mapped(), strict=True):
            file.create_dataset(name, data=pictures)
    return path


def _pairs(made: Forms) -> Iterator[tuple[int, dict[str, Any]]]:
    encode = encoded(made)
    for index, (truth, distorted) in enumerate(zip(*made.mapped(), strict=True)):
        yield index, {"truth": encode(np.asarray(truth)), "distorted": encode(np.asarray(distorted))}


def files_below(path: Path) -> list[Path]:
    """The file itself, or every file of a folder."""
    if path.is_file():
        return [path]
    return [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
