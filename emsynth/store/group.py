"""The Zarr store of a data set: create it, write whole parts of it, read them back.

A store is one folder: a Zarr v3 group with the arrays of `emsynth.store.layout`, ``fields/<j>`` with the clean stacks,
``manifest/`` with a checksum of every file of every finished part, and ``claims/`` for those who build it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec

from emsynth.distortion import MaskBit
from emsynth.errors import EmsynthError, IntegrityError, StoreError
from emsynth.passes import Outline
from emsynth.provenance import fingerprint, versions
from emsynth.recipe import Recipe
from emsynth.sample import Sample, SampleColumns
from emsynth.simulation.field import Field, to_arrays
from emsynth.store import claims, description, manifest
from emsynth.store import draft as drafts
from emsynth.store.claims import claim, release
from emsynth.store.dataset import GENERATOR, Store, check_replaceable, exists, join, open_store, without_folders
from emsynth.store.layout import FIELD_DIMS, FORMAT_VERSION, LABELS, LAYOUT, ArrayLayout, sizes
from emsynth.store.manifest import part_name
from emsynth.store.reading import open_reading

if TYPE_CHECKING:
    import xarray

__all__ = ["Store", "checksums", "claim", "create", "describe", "exists", "join", "open_dataset", "open_store",
           "part_name", "read_field", "read_sample", "release", "verify", "write_field", "write_shard"]

_FIELD_UNITS = {"image": "1", "thickness": "Å", "column_position": "Å", "column_depth": "Å"}


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
    if os.path.lexists(target):
        if not overwrite:
            raise exists(path)
        target = target.resolve()
        check_replaceable(target)
    # Processes in containers may share their number.
    name = f".{target.name}.{uuid.uuid4().hex}"
    draft, old = (target.with_name(f"{name}.{end}") for end in ("new", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        _write_empty(draft, recipe, max((o.most_columns for o in outlines), default=0))
        if overwrite and target.exists():
            _exchange(target, draft, old)
        else:
            draft.rename(target)
    except OSError as reason:
        if os.path.lexists(target) and not overwrite:  # another process was faster
            raise exists(path) from None
        raise StoreError(f"{path}: cannot be created ({reason.strerror or reason}); give another --out") from reason
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_store(path)


def _exchange(target: Path, draft: Path, old: Path) -> None:
    """Put a new store in the place of one that is there, which stays where that fails."""
    target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):  # another process's store may have come
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_empty(draft: Path, recipe: Recipe, columns: int) -> None:
    group = zarr.create_group(draft, zarr_format=3, attributes=_about(recipe))
    length = sizes(recipe.samples, recipe.image.size, columns)
    for layout in LAYOUT:
        _create_array(group, layout, layout.shape(length), recipe)
    for name, labels in LABELS.items():
        labelled: zarr.Array[Any] = group.create_array(name, shape=(len(labels),), chunks=(len(labels),), dtype=str,
                                                       dimension_names=(name,), compressors=_codecs("lz4", text=True))
        labelled[:] = np.array(labels, dtype=object)
    # Groups, so that whoever lists the store finds nothing in it that is not Zarr.
    for folder in ("fields", manifest.FOLDER, claims.FOLDER):
        group.create_group(folder)
    manifest.write(draft, manifest.STORE, manifest.files_below(draft))


def _about(recipe: Recipe) -> dict[str, Any]:
    units = {layout.name: layout.units for layout in LAYOUT if layout.units}
    return {"generator": GENERATOR, "format_version": FORMAT_VERSION, "name": recipe.name,
            "recipe": without_folders(recipe.model_dump(mode="json")), "recipe_digest": recipe.digest,
            "versions": versions(), "platform": fingerprint(), "units": units, "licence": recipe.store.licence}


def _create_array(group: zarr.Group, layout: ArrayLayout, shape: tuple[int, ...], recipe: Recipe) -> None:
    rest, shard = shape[1:], recipe.store.shard
    about: dict[str, Any] = {"long_name": layout.about}
    if layout.units:
        about["units"] = layout.units
    if layout.name == "mask":  # attributes named as in the CF conventions
        about |= {"flag_masks": [int(bit) for bit in MaskBit],
                  "flag_meanings": " ".join(str(bit.name).lower() for bit in MaskBit)}
    group.create_array(
        layout.name, shape=shape, dtype=str if layout.text else layout.dtype, dimension_names=layout.dims,
        chunks=(1 if layout.sharded else shard, *rest), shards=(shard, *rest) if layout.sharded else None,
        compressors=_codecs(recipe.store.codec, layout.text), fill_value=layout.missing, attributes=about)


def _codecs(codec: str, text: bool = False) -> list[BytesBytesCodec]:
    """How a chunk is compressed, and the checksum behind it: who reads one chunk only can still trust it."""
    if text:
        return [BloscCodec(cname="zstd", shuffle="noshuffle"), Crc32cCodec()]
    return [*([BloscCodec(cname="lz4", shuffle="bitshuffle")] if codec == "lz4" else []), Crc32cCodec()]


def write_shard(path: str | os.PathLike[str], number: int, samples: Sequence[Sample]) -> None:
    """Write one whole shard of every array, and then its manifest; `claim` it first.

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
        raise StoreError(f"{path}: shard {number} needs samples {wanted.start} to {wanted.stop - 1}, in order")
    part, kept = part_name("shard", number), [_values(sample) for sample in samples]
    with _writing(store.path), drafts.draft(store.path, part) as folder:
        for layout in LAYOUT:
            (folder / layout.name).mkdir()
            shutil.copy(store.path / layout.name / "zarr.json", folder / layout.name)
            # A chunk of zeros is written too: what is not there was never made.
            array = zarr.open_array(folder / layout.name, mode="r+", zarr_format=3).with_config(
                {"write_empty_chunks": True})
            array[wanted.start:wanted.stop] = _stack(layout, kept, array.shape[1:], wanted.start)
        files = [layout.file(number) for layout in LAYOUT]
        drafts.put(folder, store.path, files)
        manifest.write(store.path, part, files, {"first": wanted.start, "last": wanted.stop - 1, **_of(store)})


def write_field(path: str | os.PathLike[str], number: int, field: Field) -> None:
    """Write one clean stack with its columns and provenance, and then its manifest; `claim` it first."""
    store = open_store(path)
    part, place = part_name("field", number), f"fields/{number}"
    with _writing(store.path), drafts.draft(store.path, part) as folder:
        arrays, codec = to_arrays(field), str(store.attributes["recipe"]["store"].get("codec", "lz4"))
        about = json.loads(arrays.pop("about").tobytes())
        group = zarr.create_group(folder / place, zarr_format=3, attributes=about)
        for name, values in arrays.items():
            whole = tuple(max(1, n) for n in values.shape)
            inner = (1, 1, *whole[2:]) if name == "image" else whole
            array: zarr.Array[Any] = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=inner, shards=whole if name == "image" else None,
                dimension_names=FIELD_DIMS[name], compressors=_codecs(codec), config={"write_empty_chunks": True},
                attributes={"units": _FIELD_UNITS[name]} if name in _FIELD_UNITS else {})
            array[...] = values
        files = [f"{place}/{name}" for name in manifest.files_below(folder / place)]
        drafts.put(folder, store.path, files)
        manifest.write(store.path, part, files, _of(store))


def _of(store: Store) -> dict[str, Any]:
    return {"recipe_digest": store.attributes["recipe_digest"]}


@contextlib.contextmanager
def _writing(store: Path) -> Iterator[None]:
    try:
        # With several threads Blosc puts its blocks in the order in which they happen to finish.
        numcodecs.blosc.set_nthreads(1)
        yield
    except EmsynthError:
        raise
    except OSError as reason:
        raise StoreError(f"{store}: cannot be written ({reason.strerror or reason})") from reason


def _values(sample: Sample) -> dict[str, Any]:
    """What is kept of a sample, by array; atom columns without padding."""
    columns = sample.columns
    kept = {"column_count": len(columns.number), "column_position": columns.position, "column_number": columns.number,
            "column_index": columns.index, "column_radius": columns.radius, "column_intensity": columns.intensity,
            "column_resolved": columns.resolved,
            "drawn": _drawn_text(sample.drawn)}
    return {a.name: kept[a.name] if a.name in kept else getattr(sample, a.name) for a in LAYOUT}


def _drawn_text(drawn: Recipe) -> str:
    """The drawn recipe as JSON; a file or folder by its bare name: replay takes the field, not the file."""
    for part, key in (("specimen", "file"), ("simulate", "folder")):
        whole = getattr(drawn, part)
        if getattr(whole, key, None) is not None:
            bare = whole.model_copy(update=without_folders({key: getattr(whole, key)}))
            drawn = drawn.model_copy(update={part: bare})
    return drawn.model_dump_json()


def as_kept(sample: Sample) -> dict[str, NDArray[Any]]:
    """What is kept of a sample, by array, in the types of the store; atom columns without padding."""
    values = _values(sample)
    return {a.name: np.asarray(values[a.name], dtype=object if a.text else a.dtype) for a in LAYOUT}


def _stack(layout: ArrayLayout, kept: Sequence[dict[str, Any]], shape: tuple[int, ...], first: int) -> NDArray[Any]:
    stacked = np.full((len(kept), *shape), layout.missing, object if layout.text else layout.dtype)
    for row, values in enumerate(kept):
        value = values[layout.name]
        if "column" not in layout.dims:
            fits = np.shape(value) == shape
            place: tuple[Any, ...] = (row,)
        else:
            fits = len(value) <= shape[0]
            place = (row, slice(0, len(value)))
        if not fits:
            raise StoreError(f"{layout.name} of sample {first + row} has shape {np.shape(value)}, and the store has "
                             f"room for {shape}; build it anew with --overwrite")
        stacked[place] = value
    return stacked


def read_field(path: str | os.PathLike[str], number: int) -> Field:
    """A field from the store.

    Raises
    ------
    StoreError
        Where it is not finished.
    IntegrityError
        Where it cannot be read.
    """
    return open_reading(path).field(number)


def read_kept(path: str | os.PathLike[str], index: int) -> dict[str, NDArray[Any]]:
    """What is kept of sample `index`, by array; atom columns without padding."""
    store = open_store(path)
    if not 0 <= index < store.samples:
        raise StoreError(f"{path}: sample {index} is outside 0 to {store.samples - 1}")
    part = part_name("shard", index // store.shard_size)
    manifest.check_complete(store.path, part)
    with _reading(store.path, part):
        group = zarr.open_group(store.path, mode="r", zarr_format=3)
        kept = {a.name: np.asarray(cast("zarr.Array[Any]", group[a.name])[index], object if a.text else a.dtype)
                for a in LAYOUT}
    count = int(kept["column_count"])
    return {a.name: kept[a.name][:count] if "column" in a.dims else kept[a.name] for a in LAYOUT}


def read_sample(path: str | os.PathLike[str], index: int) -> Sample:
    """Sample `index` from the store; the formulas of its columns are not kept and read as empty.

    Raises
    ------
    StoreError
        Where there is no such sample, or its shard is not finished.
    IntegrityError
        Where it cannot be read.
    """
    kept = read_kept(path, index)
    columns = SampleColumns(
        position=kept["column_position"].astype(np.float64), index=kept["column_index"], number=kept["column_number"],
        formula=("",) * int(kept["column_count"]), intensity=kept["column_intensity"],
        radius=float(kept["column_radius"]), resolved=kept["column_resolved"].astype(np.bool_))
    plain: dict[str, Any] = {a.name: kept[a.name].item() for a in LAYOUT
                             if a.dims == ("sample",) and a.name not in ("column_count", "column_radius")}
    drawn = Recipe.model_validate_json(plain.pop("drawn"))
    plain |= {name: kept[name] for name in ("truth", "distorted", "displacement", "affine", "mask",
                                                 "class_map")}
    return Sample(index=index, columns=columns, drawn=drawn, **plain)


@contextlib.contextmanager
def _reading(store: Path, part: str) -> Iterator[None]:
    try:
        yield
    # Each codec has its own exceptions for bytes that it cannot decode.
    except Exception as reason:
        raise IntegrityError(f"{store}: {manifest.spoken(part)} cannot be read ({reason}); emsynth verify names the "
                             f"damaged file") from reason


def open_dataset(path: str | os.PathLike[str]) -> xarray.Dataset:
    """Open a data set lazily; a context manager, or close it with ``.close()``.

    Parameters
    ----------
    path : path
        A store; what is not built yet reads as NaN, 0 or empty.

    Returns
    -------
    xarray.Dataset
        Dask arrays of one shard per chunk.
    """
    import xarray

    store = open_store(path)
    with warnings.catch_warnings():
        # Zarr lists the folder, and a card's files may be in it.
        warnings.filterwarnings("ignore", "Object at .* is not recognized as a component of a Zarr hierarchy")
        opened: xarray.Dataset = xarray.open_zarr(store.path, consolidated=False, chunks={"sample": store.shard_size})
    return opened


def describe(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What is in a store, from which recipe, by which physics, how complete: rows of name and value."""
    store = open_store(path)
    done = [i for n in sorted(store.finished("shard")) if n < store.shards for i in store.samples_of(n)]
    with _reading(store.path, manifest.STORE):
        group = zarr.open_group(store.path, mode="r", zarr_format=3)
        words = {name: np.asarray(cast("zarr.Array[Any]", group[name])[...], object)[done].tolist()
                 for name in ("split", "structure", "detector", "physics")}
    return description.rows(store, words)


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a store, such as ``"shard 3: truth: checksum differs"``; empty where all is well."""
    store = open_store(path)
    return manifest.verify(store.path, store.fields, store.shards)


def ways_out(problems: Sequence[str]) -> str:
    """What to do about what `verify` found."""
    return manifest.ways_out(problems)


def checksums(path: str | os.PathLike[str]) -> dict[str, str]:
    """Digest of every finished part and of all together; see `emsynth.store.manifest.checksums`."""
    return manifest.checksums(open_store(path).path)
