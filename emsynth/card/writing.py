"""Write the card of a finished data set: README, Croissant metadata, table of samples and contact sheet."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from emsynth.card import croissant, datasheet, table
from emsynth.card.facts import Facts, complete, gather
from emsynth.card.publication import Publication, checked
from emsynth.errors import StoreError
from emsynth.preview import preview_dataset
from emsynth.store import manifest

README, METADATA, TABLE, SHEET = "README.md", "croissant.json", "samples.csv", "samples.png"
FILES = (README, METADATA, TABLE, SHEET)
_SHOWN = 4  # samples on the contact sheet
_COLOURS = 256


def write_card(path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None,
               publication: Publication | None = None) -> Path:
    """Write the card of a data set.

    Parameters
    ----------
    path : path
        A finished data set.
    out : path, optional
        Folder for the files; by default the data set itself, which then lists them in a manifest of their own.
    publication : Publication, optional
        What the store does not say: title, creators and the like. What is missing comes from the card before.

    Returns
    -------
    Path
        The README. Written again, all files have the same bytes.

    Raises
    ------
    StoreError
        Where the data set is not finished, or the folder cannot be written.
    IntegrityError
        Where parts of it are damaged.
    """
    given = publication or Publication()
    checked(given)
    store = complete(path)
    folder = Path(out) if out is not None else store.path
    given = given.completed(store.path, folder / METADATA)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the store's root, whoever lists the store would find it.
        beside = store.path / manifest.FOLDER if out is None else folder
        with tempfile.TemporaryDirectory(dir=beside, prefix=".card-") as held:
            facts = gather(path)
            _make(Path(held), facts, given)
            if out is None:
                (store.path / manifest.FOLDER / f"{manifest.CARD}.json").unlink(missing_ok=True)
            for name in FILES:
                os.replace(Path(held) / name, folder / name)
        if out is None:
            manifest.write(store.path, manifest.CARD, FILES, {
                "recipe_digest": store.attributes["recipe_digest"], "checksum": facts.total})
    except StoreError:
        raise
    except OSError as reason:
        raise StoreError(f"{folder}: cannot be written ({reason.strerror or reason}); give another --out") from reason
    return folder / README


def _make(folder: Path, facts: Facts, publication: Publication) -> None:
    citation = bibtex(facts, publication)
    table.write_csv(facts.columns, folder / TABLE)
    _write_sheet(facts.store.path, folder / SHEET)
    (folder / README).write_text(datasheet.readme(facts, publication, citation), encoding="utf-8")
    files = {name: folder / name for name in (TABLE, SHEET, README)}
    (folder / METADATA).write_text(croissant.metadata(facts, publication, files, citation), encoding="utf-8")


def _write_sheet(store: Path, out: Path) -> None:
    """The contact sheet with a palette, which the eye hardly tells from all colours, at half of the size."""
    from PIL import Image

    preview_dataset(store, out, _SHOWN)
    with Image.open(out) as drawn:
        few = drawn.convert("RGB").quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)


def bibtex(facts: Facts, publication: Publication) -> str:
    """How to cite the data set; without creators where they are not stated."""
    entries = {"title": publication.title or facts.name, "author": " and ".join(publication.creators),
               "year": publication.date[:4], "version": publication.version, "url": publication.url,
               "note": f"sha256:{facts.total}"}
    lines = [f"  {key} = {{{value}}}" for key, value in entries.items() if value]
    return f"@misc{{{facts.name},\n" + ",\n".join(lines) + "\n}"
