"""One zip archive of a data set, as it is published: not packed again, so that it can be read without unpacking."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from emsynth.store import Store, manifest
from emsynth.store.frozen import plain_entry
from emsynth.store.manifest import CARD, part_name, read


def files(store: Store) -> list[str]:
    """Every file of a data set, its card and its manifests, relative to it."""
    parts = [manifest.STORE, CARD, *(part_name("field", n) for n in range(store.fields)),
             *(part_name("shard", n) for n in range(store.shards))]
    found = {part: read(store.path, part) for part in parts}
    listed = {name for content in found.values() if content for name in content["files"]}
    return sorted(listed | {f"{manifest.FOLDER}/{part}.json" for part, content in found.items() if content})


def write_zip(store: Store, out: Path, done: Callable[[str], None]) -> None:
    """Write the archive; the same data set gives the same bytes.

    Parameters
    ----------
    store : Store
        The data set.
    out : Path
        The file.
    done : callable
        Told the name of each file that is in it.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for name in files(store):
            entry = plain_entry(name)
            entry.file_size = (store.path / name).stat().st_size
            with open(store.path / name, "rb") as source, packed.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            done(name)
