"""A data set on disk as a whole: its folder, its recipe, what is finished in it; no Zarr here."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emsynth.errors import StoreError, StoreExistsError
from emsynth.recipe import Recipe
from emsynth.simulation.images import OwnImages
from emsynth.store import claims, manifest
from emsynth.store.layout import FORMAT_VERSION, READABLE, field_count, shard_count, shard_range

GENERATOR = "emsynth"
_ABANDONED = 3600.0  # seconds after which an empty store is not being created any more


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
    def samples(self) -> int:
        """How many samples it has when complete."""
        return int(self.attributes["recipe"]["samples"])

    @property
    def fields(self) -> int:
        """How many fields it has when complete: those that some sample is cut from."""
        return field_count(self.samples, int(self.attributes["recipe"]["fields"]))

    @property
    def shard_size(self) -> int:
        """Samples in a shard; the last may have fewer."""
        return int(self.attributes["recipe"]["store"]["shard"])

    @property
    def shards(self) -> int:
        """How many shards it has when complete."""
        return shard_count(self.samples, self.shard_size)

    def finished(self, kind: str) -> frozenset[int]:
        """Numbers of the finished parts; `kind` is ``"field"`` or ``"shard"``."""
        return manifest.finished(self.path, kind)

    def intact(self, kind: str, wanted: Iterable[int] | None = None) -> frozenset[int]:
        """Numbers of those of the wanted parts (by default all) whose files are all there in full length."""
        digest, among = str(self.attributes["recipe_digest"]), self.finished(kind) if wanted is None else wanted
        return frozenset(n for n in among if manifest.intact(self.path, manifest.part_name(kind, n), digest))

    @property
    def complete(self) -> bool:
        """Whether every field and every shard is finished."""
        return len(self.finished("shard")) == self.shards and len(self.finished("field")) == self.fields

    def samples_of(self, shard: int) -> range:
        """Samples of one shard."""
        if not 0 <= shard < self.shards:
            raise StoreError(f"{self.path}: shard {shard} is outside 0 to {self.shards - 1}")
        return shard_range(shard, self.samples, self.shard_size)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store, finished or not.

    Raises
    ------
    StoreError
        Where `path` is not a store, or one of a format that this version does not know.
    """
    return known(Path(path), _attributes(Path(path)))


def known(path: Path, attributes: dict[str, Any]) -> Store:
    """The store of these group attributes.

    Raises
    ------
    StoreError
        Where they are not those of a store, or of a format that this version does not know.
    """
    if attributes.get("generator") != GENERATOR or "format_version" not in attributes:
        raise StoreError(f"{path}: a Zarr group, but not an emsynth data set")
    if attributes["format_version"] not in READABLE:
        raise StoreError(f"{path}: format_version {attributes['format_version']} is unknown, this emsynth reads "
                         f"{', '.join(map(str, READABLE))}; use the emsynth that wrote it: "
                         f"{attributes.get('versions', {}).get('emsynth', 'not recorded')}")
    return Store(path, attributes)


def _attributes(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((path / "zarr.json").read_text())["attributes"])
    except (FileNotFoundError, NotADirectoryError):
        what = "not an emsynth data set: no zarr.json in it" if os.path.lexists(path) else "there is no such data set"
        if path.suffix == ".zip" and path.is_file():
            what = "a zip archive, which emsynth.stream reads as it is; unpack it for everything else"
        if _mark(path).is_file():
            what = "it has lost its zarr.json; restore that from a copy of the data set, or remove all and build anew"
        raise StoreError(f"{path}: {what}") from None
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise StoreError(f"{path}: not an emsynth data set, or a damaged one: its zarr.json cannot be read "
                         f"({reason})") from None


def join(path: str | os.PathLike[str], recipe: Recipe) -> Store:
    """Open a store to go on with it.

    Raises
    ------
    StoreError
        Where it is made from another recipe; says what differs.
    """
    store = open_store(path)
    written = store.attributes["format_version"]
    if written != FORMAT_VERSION:
        raise StoreError(f"{path}: of format_version {written}, which this emsynth reads but does not go on with (it "
                         f"writes {FORMAT_VERSION}); give another --out, or --overwrite to build it anew")
    if store.attributes["recipe_digest"] == recipe.digest:
        return store
    there, here = store.attributes["recipe"], without_folders(recipe.model_dump(mode="json"))
    keys = [key for key in (*here, *(k for k in there if k not in here)) if there.get(key) != here.get(key)]
    shown = [key if isinstance(here.get(key), dict | list) else f"{key} ({there.get(key)} there, {here.get(key)} here)"
             for key in keys]
    what = ", ".join(shown or _changed_images(store, recipe)) or "a structure file or an image"
    raise StoreError(f"{path}: made from another recipe, which differs in {what}; take that "
                     f"recipe, --overwrite to replace it, or another --out")


def _changed_images(store: Store, recipe: Recipe) -> list[str]:
    """Images of the finished fields that are not the recipe's; empty where that is not known."""
    if not isinstance(recipe.simulate, OwnImages):
        return []
    kept = {}
    for number in store.finished("field"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # `verify` is who complains about damage
            content = json.loads((store.path / "fields" / str(number) / "zarr.json").read_text())
            image = content["attributes"]["provenance"]["image"]
            kept[number] = (str(image["file"]), str(image["sha256"]))
    return recipe.simulate.changed(recipe.fields, kept)


def without_folders(content: Any) -> Any:
    """Plain JSON values of a recipe in which each structure file, or folder of images, has its bare name.

    The bytes of a data set must not depend on the folder in which its recipe lay, nor tell others about it.
    """
    if isinstance(content, dict):
        return {key: _bare(value) if key in ("file", "folder") else without_folders(value)
                for key, value in content.items()}
    return [without_folders(value) for value in content] if isinstance(content, list) else content


def _bare(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\\", "/").rsplit("/", 1)[-1]
    if isinstance(value, dict) and "values" in value:
        return {**value, "values": [_bare(v) for v in value["values"]]}
    return value


def exists(path: str | os.PathLike[str]) -> StoreExistsError:
    """The error that says that the output is there already."""
    return StoreExistsError(f"{path}: already exists; --resume to go on, --overwrite to replace it, or another --out")


def check_replaceable(path: Path) -> None:
    """Raise StoreExistsError where `path` is not surely a store, or one that is being built just now."""
    try:
        attributes = _attributes(path)
    except StoreError:
        attributes = {}
    named = attributes.get("generator") == GENERATOR and "format_version" in attributes
    if not named or not _mark(path).is_file():
        what = f"{_mark(path).relative_to(path)} is missing" if named else (
            f"there is no zarr.json that says generator {GENERATOR!r} and format_version")
        raise StoreExistsError(f"{path}: is not an emsynth data set, so --overwrite leaves it alone ({what}); remove "
                               f"it yourself, or give another --out")
    for part, owner in claims.live(path).items():
        raise StoreExistsError(f"{path}: {owner} is writing {manifest.spoken(part)}; stop it before --overwrite, or "
                               f"delete {claims.file_of(path, part)} if that process is gone")


def _mark(path: Path) -> Path:
    return path / manifest.FOLDER / f"{manifest.STORE}.json"


def check_creatable(path: Path) -> None:
    """Raise StoreError where a store cannot be created, before hours go into what it would hold."""
    parent = path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        why = "may not be written" if parent.is_dir() else "is not a folder"
        raise StoreError(f"{path}: cannot be created: {parent} {why}; give another --out")


def sweep_beside(path: Path) -> None:
    """Remove what builds left that were killed in the moment of creating a store here, or of replacing one."""
    with contextlib.suppress(OSError):
        beside, name = path.absolute().parent, glob.escape(path.name)
        # What --overwrite replaced is kept as long as nothing is in its place.
        left_over = [*beside.glob(f".{name}.*.new"), *(beside.glob(f".{name}.*.old") if path.exists() else ())]
        for left in left_over:
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise StoreError where a store is only to be read, before any work goes into what it cannot take."""
    for folder in (path, path / manifest.FOLDER, path / claims.FOLDER):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"{path}: cannot be written: {folder} is read-only; make it writable, or a copy of the "
                             f"data set, and go on with that")
