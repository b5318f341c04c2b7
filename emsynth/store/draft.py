"""Drafts: a part is written beside the data and then put into its place, file by file.

Whoever is killed, or finds the disk full, leaves no half of a file in the store, and two writers of one part replace
each other's files by equal ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from emsynth.store import claims


@contextlib.contextmanager
def draft(store: Path, part: str) -> Iterator[Path]:
    """An empty folder for what will be one part; it is removed at the end, with whatever was not put into place.

    Parameters
    ----------
    store : Path
        Folder of the store.
    part : str
        Name of the part, e.g. ``"shard-00003"``.
    """
    folder = store / claims.FOLDER / f".{part}.{uuid.uuid4().hex}"
    signed = claims.owner_of_draft(folder)
    try:
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir()
        claims.sign(signed)
        yield folder
    finally:
        claims.sign_off(signed)
        _remove(folder, signed)


def _remove(folder: Path, signed: Path) -> None:
    """Remove a draft, last of all its signature: who is killed here leaves one of which it is known whose it was."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != signed:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, store: Path, names: Iterable[str]) -> None:
    """Move files of a draft to the places that they have in the store; each is there whole, or as it was before.

    Parameters
    ----------
    folder : Path
        Folder of the draft.
    store : Path
        Folder of the store.
    names : iterable of str
        Files, relative to either folder.
    """
    for name in names:
        target = store / name
        if (folder / name).exists():  # a draft that was swept away must not bring back what was removed
            target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, target)
