"""Export a finished data set, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from emsynth.card.facts import complete
from emsynth.errors import StoreError, StoreExistsError
from emsynth.export.archive import files, write_zip
from emsynth.export.hdf5 import write_hdf5
from emsynth.export.pairs import pairs
from emsynth.export.tar import write_tars
from emsynth.recipe import SPLITS
from emsynth.store import Store, checksums, open_store
from emsynth.store.reading import open_reading

FORMATS = ("webdataset", "hdf5", "zip")
GENERATOR = "emsynth export"
ABOUT = "dataset.json"
_PHASE = "export"
_BEGINNINGS = {"hdf5": b"\x89HDF\r\n\x1a\n", "zip": b"PK\x03\x04"}


class Progress(Protocol):
    """Who wants to know how far an export is."""

    def begin(self, phase: str, total: float) -> None:
        """A phase of `total` units of work begins."""

    def step(self, amount: float, what: str) -> None:
        """So much of the work was done, by finishing `what`."""


class _Silence:
    def begin(self, phase: str, total: float) -> None:
        """Nobody wants to know."""

    def step(self, amount: float, what: str) -> None:
        """Nobody wants to know."""


def export(path: str | os.PathLike[str], to: str, out: str | os.PathLike[str], split: str | None = None,
           overwrite: bool = False, progress: Progress | None = None) -> Path:
    """Write a data set in another format.

    Parameters
    ----------
    path : path
        A finished data set.
    to : str
        ``"webdataset"``: a folder of tar files; ``"hdf5"``: one file; ``"zip"``: one archive of the store as it is.
    out : path
        Folder or file to write.
    split : str, optional
        Only this split.
    overwrite : bool
        Replace an export that is there.
    progress : Progress, optional
        Told how far it is.

    Returns
    -------
    Path
        What was written. One pair is in memory at a time.

    Raises
    ------
    StoreExistsError
        Where something is there already, unless it is such an export and `overwrite` is given.
    StoreError
        Where the data set is not finished or has no such split, or the place cannot be written.
    IntegrityError
        Where what is read is not what was written.
    """
    target = Path(out)
    if to not in FORMATS:
        raise StoreError(f"--to {to}: is not a format; give {', '.join(FORMATS)}")
    _check_place(open_store(path), to, target, overwrite)
    store = complete(path)
    _check(store, to, split)
    # Beside the target, so that it takes one step to its place.
    draft, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[to](store, draft, split, progress or _Silence())
        _put(draft, target, old)
    except StoreError:
        raise
    except OSError as reason:
        raise StoreError(f"{target}: cannot be written ({reason.strerror or reason}); give another --out") from reason
    finally:
        _remove(draft)
    return target


def _put(draft: Path, target: Path, old: Path) -> None:
    """Put what was written in its place; an export that was there stays where that fails."""
    if not target.exists():
        draft.rename(target)
        return
    target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        old.rename(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # its folder may be none
            path.unlink(missing_ok=True)


def _check(store: Store, to: str, split: str | None) -> None:
    if split is None:
        return
    if to == "zip":
        raise StoreError("--split: a zip archive is of the whole data set; leave it out, or take another --to")
    there = set(open_reading(store.path).array("split").whole())
    if split not in there:
        raise StoreError(f"{store.path}: has no pairs of split {split!r}; there is "
                         f"{', '.join(s for s in SPLITS if s in there)}")


def _check_place(store: Store, to: str, target: Path, overwrite: bool) -> None:
    if target.absolute().resolve().is_relative_to(store.path.resolve()):
        raise StoreError(f"{target}: is the data set, or within it; give another --out")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise StoreExistsError(f"{target}: already exists; --overwrite to replace it, or another --out")
    ours = _is_tars(target) if to == "webdataset" else _begins_with(target, _BEGINNINGS[to])
    if not ours:
        raise StoreExistsError(f"{target}: is not an export to {to}, so --overwrite leaves it alone; remove it "
                               f"yourself, or give another --out")


def _begins_with(file: Path, beginning: bytes) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(len(beginning)) == beginning
    except OSError:
        return False


def _is_tars(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / ABOUT).read_text())["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _about(store: Store, split: str | None) -> dict[str, Any]:
    kept = ("name", "recipe", "recipe_digest", "versions", "platform", "units", "licence")
    return {"generator": GENERATOR, "checksum": checksums(store.path)["total"], "split": split or "all",
            **{key: store.attributes[key] for key in kept}}


def _indices(store: Store, split: str | None) -> list[int]:
    own = open_reading(store.path).array("split").whole()
    return [n for n, name in enumerate(own) if split in (None, name)]


def _to_tars(store: Store, draft: Path, split: str | None, progress: Progress) -> None:
    draft.mkdir()
    progress.begin(_PHASE, len(_indices(store, split)))
    write_tars(pairs(store.path, split), draft, str(store.attributes["name"]),
               lambda pair: progress.step(1, f"pair {pair.index}"))
    text = json.dumps(_about(store, split), indent=1, sort_keys=True, ensure_ascii=False)
    (draft / ABOUT).write_text(text + "\n", encoding="utf-8")


def _to_hdf5(store: Store, draft: Path, split: str | None, progress: Progress) -> None:
    indices = _indices(store, split)
    progress.begin(_PHASE, len(indices))
    write_hdf5(pairs(store.path, split), draft, store, _about(store, split), indices,
               lambda pair: progress.step(1, f"pair {pair.index}"))


def _to_zip(store: Store, draft: Path, split: str | None, progress: Progress) -> None:
    names: Sequence[str] = files(store)
    progress.begin(_PHASE, len(names))
    write_zip(store, draft, lambda name: progress.step(1, name))


_WRITERS: dict[str, Callable[[Store, Path, str | None, Progress], None]] = {
    "webdataset": _to_tars, "hdf5": _to_hdf5, "zip": _to_zip}
