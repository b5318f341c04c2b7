"""The Zarr store of a data set: create, write whole parts, read back, verify.

A store is one folder: a Zarr v3 group with the arrays of `emsynth.layout`, ``fields/<j>`` with the clean stacks,
``manifest/`` with a checksum of every file of every finished part, and ``claims/`` while it is being built.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from emsynth import claims, manifest
from emsynth.errors import EmsynthError, IntegrityError, StoreError, StoreExistsError
from emsynth.layout import FORMAT_VERSION, LABELS, LAYOUT, ArrayLayout, shard_count, shard_range, sizes
from emsynth.provenance import fingerprint, versions
from emsynth.recipe import Recipe
from emsynth.sample import Outline, Sample, SampleColumns
from emsynth.simulation.field import Field, from_arrays, to_arrays

if TYPE_CHECKING:
    import xarray

_FIELD_DIMS = {"image": ("thickness", "detector", "field_y", "field_x"), "thickness": ("thickness",),
               "column_position": ("column", "axis"), "column_number": ("column",), "column_depth": ("column", "end"),
               "column_atoms": ("column",)}
_FIELD_UNITS = {"image": "1", "thickness": "Å", "column_position": "Å", "column_depth": "Å"}
_GENERATOR = "emsynth"


@dataclass(frozen=True)
class Store:
    """A data set on disk.

    Attributes
    ----------
    path : Path
        Its folder.
    attributes : dict
        Attributes of the group: recipe, digest, versions, platform, units, licence.
    """

    path: Path
    attributes: dict[str, Any]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that it is made from."""
        return Recipe.model_validate(self.attributes["recipe"])

    @property
    def shards(self) -> int:
        """How many shards it has when complete."""
        return shard_count(self.recipe.samples, self.recipe.store.shard)

    @property
    def complete(self) -> bool:
        """Whether every field and every shard is finished."""
        return (len(manifest.finished(self.path, "shard")) == self.shards
                and len(manifest.finished(self.path, "field")) == self.recipe.fields)

    def samples_of(self, shard: int) -> range:
        """Samples of one shard."""
        if not 0 <= shard < self.shards:
            raise StoreError(f"{self.path}: shard {shard} is outside 0 to {self.shards - 1}")
        return shard_range(shard, self.recipe.samples, self.recipe.store.shard)


def create(path: str | os.PathLike[str], recipe: Recipe, outlines: Sequence[Outline], overwrite: bool = False) -> Store:
    """Create an empty store, whole or not at all.

    Parameters
    ----------
    path : path
        Folder to create.
    recipe : Recipe
        What it will hold.
    outlines : sequence of Outline
        Of every field: they bound the number of atom columns in a sample.
    overwrite : bool
        Replace a store that is there.

    Raises
    ------
    StoreExistsError
        Where something is there already, unless it is a store and `overwrite` is given.
    StoreError
        Where the place cannot be written.
    """
    target = Path(path)
    if overwrite and os.path.lexists(target):
        target = target.resolve()
        _check_replaceable(target)
    elif os.path.lexists(target):
        raise exists(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        _write_empty(draft, recipe, max((o.most_columns for o in outlines), default=0))
        if overwrite and target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            target.rename(old)
            draft.rename(target)
            shutil.rmtree(old)
        else:
            _move(draft, target)
    except StoreError:
        raise
    except OSError as reason:
        raise StoreError(f"{path}: cannot be created ({reason.strerror or reason}); give another --out") from reason
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_store(path)


def exists(path: str | os.PathLike[str]) -> StoreExistsError:
    """The error that says that the output is there already."""
    return StoreExistsError(f"{path}: already exists; --resume to go on, --overwrite to replace it, or another --out")


def _move(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        if os.path.lexists(target):  # another process was faster
            raise exists(target) from None
        raise


def _check_replaceable(target: Path) -> None:
    try:
        attributes = _attributes(target)
    except StoreError:
        attributes = {}
    if attributes.get("generator") != _GENERATOR or not (target / manifest.FOLDER / "store.json").is_file():
        raise StoreExistsError(f"{target}: is not an emsynth data set, so --overwrite leaves it alone; remove it "
                               f"yourself, or give another --out")
    for part, owner in claims.live(target).items():
        raise StoreExistsError(f"{target}: {owner} is writing {manifest.spoken(part)}; stop it before --overwrite")


def _write_empty(draft: Path, recipe: Recipe, columns: int) -> None:
    group = zarr.create_group(draft, zarr_format=3, attributes=_describe(recipe))
    length = sizes(recipe.samples, recipe.image.size, columns)
    for layout in LAYOUT:
        _create_array(group, layout, layout.shape(length), recipe.store.shard)
    for name, labels in LABELS.items():
        labelled = group.create_array(name, shape=(len(labels),), chunks=(len(labels),), dtype=str,
                                      dimension_names=(name,))
        labelled[:] = np.array(labels, dtype=object)
    # Groups, so that whoever lists the store finds nothing in it that is not Zarr.
    for folder in ("fields", manifest.FOLDER, claims.FOLDER):
        group.create_group(folder)
    manifest.write(draft, manifest.STORE, manifest.files_below(draft))


def _describe(recipe: Recipe) -> dict[str, Any]:
    units = {layout.name: layout.units for layout in LAYOUT if layout.units}
    return {"generator": _GENERATOR, "format_version": FORMAT_VERSION, "name": recipe.name,
            "recipe": recipe.model_dump(mode="json"), "recipe_digest": recipe.digest, "versions": versions(),
            "platform": fingerprint(), "units": units, "licence": recipe.store.licence}


def _create_array(group: zarr.Group, layout: ArrayLayout, shape: tuple[int, ...], shard: int) -> None:
    rest = shape[1:]
    text = layout.dtype == "str"
    group.create_array(
        layout.name, shape=shape, dtype=str if text else layout.dtype, dimension_names=layout.dims,
        chunks=(1 if layout.sharded else shard, *rest), shards=(shard, *rest) if layout.sharded else None,
        compressors=_codec(text), fill_value=layout.missing, config={"write_empty_chunks": True},
        attributes={"long_name": layout.about} | ({"units": layout.units} if layout.units else {}) | _flags(layout.name))


def _flags(name: str) -> dict[str, Any]:
    if name != "mask":
        return {}
    from emsynth.distortion import MaskBit

    # The names of attributes are those of the CF conventions for flags.
    return {"flag_masks": [int(bit) for bit in MaskBit],
            "flag_meanings": " ".join(str(bit.name).lower() for bit in MaskBit)}


def _codec(text: bool = False) -> BloscCodec:
    if text:
        return BloscCodec(cname="zstd", clevel=5, shuffle="noshuffle")
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")


def _attributes(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / "zarr.json").read_text())
        return dict(content["attributes"])
    except FileNotFoundError:
        missing = "there is nothing" if not os.path.lexists(path) else "not an emsynth data set: no zarr.json in it"
        raise StoreError(f"{path}: {missing}") from None
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise StoreError(f"{path}: not an emsynth data set, or a damaged one: zarr.json cannot be read "
                         f"({reason})") from None


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store, finished or not.

    Raises
    ------
    StoreError
        Where `path` is not a store, or one of a format that this version does not know.
    """
    attributes = _attributes(Path(path))
    if attributes.get("generator") != _GENERATOR or "format_version" not in attributes:
        raise StoreError(f"{path}: a Zarr group, but not an emsynth data set")
    if attributes["format_version"] != FORMAT_VERSION:
        raise StoreError(f"{path}: format_version {attributes['format_version']} is unknown; this emsynth reads "
                         f"{FORMAT_VERSION}; use the version of emsynth that wrote it: "
                         f"{attributes.get('versions', {}).get('emsynth', 'not recorded')}")
    return Store(Path(path), attributes)


def join(path: str | os.PathLike[str], recipe: Recipe) -> Store:
    """Open a store to go on with it.

    Raises
    ------
    StoreError
        Where it is made from another recipe.
    """
    store = open_store(path)
    if store.attributes["recipe_digest"] == recipe.digest:
        return store
    there, here = store.attributes["recipe"], recipe.model_dump(mode="json")
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    shown = [f"{key}: {there.get(key)} there, {here.get(key)} here" if not isinstance(here.get(key), dict | list)
             else key for key in keys]
    raise StoreError(f"{path}: made from another recipe ({'; '.join(shown) or 'a structure file differs'}); go on with "
                     f"that recipe, --overwrite to replace it, or another --out")


def write_shard(path: str | os.PathLike[str], number: int, samples: Sequence[Sample]) -> None:
    """Write one whole shard of every array, and then its manifest. Claim it first.

    Parameters
    ----------
    path : path
        The store.
    number : int
        Number of the shard.
    samples : sequence of Sample
        All samples of the shard, in order.

    Raises
    ------
    StoreError
        Where the samples are not those of the shard, or the store cannot be written.
    """
    store = open_store(path)
    wanted = store.samples_of(number)
    if [s.index for s in samples] != list(wanted):
        raise StoreError(f"{path}: shard {number} holds samples {wanted.start} to {wanted.stop - 1}, all of them in order")
    with _writing(store.path, f"shard {number}"):
        (store.path / manifest.FOLDER / f"{manifest.part_name('shard', number)}.json").unlink(missing_ok=True)
        group = zarr.open_group(store.path, mode="r+", zarr_format=3)
        for layout in LAYOUT:
            for leftover in (store.path / layout.name / "c").glob(f"{number}.*"):
                leftover.unlink()
            shutil.rmtree(store.path / layout.name / "c" / str(number), ignore_errors=True)
            array = cast("zarr.Array[Any]", group[layout.name]).with_config({"write_empty_chunks": True})
            array[wanted.start:wanted.stop] = _stack(layout, samples, array.shape, store.path)
        manifest.write(store.path, manifest.part_name("shard", number), [a.file(number) for a in LAYOUT],
                       {"first": wanted.start, "last": wanted.stop - 1})


@contextlib.contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    # The bytes of Blosc depend on the order in which its threads finish.
    numcodecs.blosc.set_nthreads(1)
    try:
        yield
    except EmsynthError:
        raise
    except OSError as reason:
        raise StoreError(f"{path}: {what} cannot be written ({reason.strerror or reason}); mend that and go on with "
                         f"--resume") from reason


def values_of(sample: Sample) -> dict[str, Any]:
    """What a store keeps of one sample, by array; atom columns without padding."""
    found = {layout.name: getattr(sample, layout.name) for layout in LAYOUT
             if not layout.name.startswith("column_") and layout.name != "drawn"}
    columns = sample.columns
    return found | {"column_count": len(columns.number), "column_position": columns.position.astype(np.float32),
                    "column_number": columns.number, "column_intensity": columns.intensity,
                    "column_resolved": columns.resolved.astype(np.uint8), "drawn": sample.drawn.model_dump_json()}


def _stack(layout: ArrayLayout, samples: Sequence[Sample], shape: tuple[int, ...], path: Path) -> NDArray[Any]:
    values = [values_of(sample)[layout.name] for sample in samples]
    if layout.dtype == "str":
        return np.array(values, dtype=object)
    stacked = np.full((len(values), *shape[1:]), layout.missing, layout.dtype)
    for sample, row, value in zip(samples, stacked, values, strict=True):
        if "column" not in layout.dims and np.shape(value) != row.shape or len(np.atleast_1d(value)) > len(
                np.atleast_1d(row)):
            raise StoreError(f"{path}: {layout.name} of sample {sample.index} has shape {np.shape(value)}, and the "
                             f"store was made for {row.shape}; build it anew with --overwrite")
    for n, value in enumerate(values):
        stacked[n][..., ] if False else None
        if "column" in layout.dims:
            stacked[n, :len(value)] = value
        else:
            stacked[n] = value
    return stacked
