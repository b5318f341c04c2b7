"""The registry of data sets: what is published or shipped with emsynth, and how it comes to this machine, checked."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from emsynth.draw import Strict
from emsynth.errors import IntegrityError, StoreError
from emsynth.simulation.field import cache_folder
from emsynth.store import checksums, open_store, verify

FILE = "registry.json"
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 16  # bytes; of a download that is interrupted, the last block is lost

Address = Annotated[str, Field(pattern=r"^(https?://|doi:)\S+$")]
Report = Callable[[str], None]


class Entry(Strict):
    """One data set that can be had.

    Attributes
    ----------
    name : str
        Name to fetch it by.
    title : str
        What it is, in a line.
    digest : str
        Checksum over all of its files, ``emsynth.store.checksums(path)["total"]``.
    bytes, pairs : int
        Size of its files, and how many pairs it has.
    licence : str
        SPDX identifier.
    format_version : int
        Of the store.
    where : "shipped" or tuple of str
        With emsynth itself, or addresses of one zip archive: http, https or ``doi:PREFIX/SUFFIX/FILE``.
    citation : str
        How to cite it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    title: Annotated[str, Field(min_length=1)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0)]
    pairs: Annotated[int, Field(gt=0)]
    licence: Annotated[str, Field(min_length=1)]
    format_version: Annotated[int, Field(ge=1)]
    where: Literal["shipped"] | Annotated[tuple[Address, ...], Field(min_length=1)]
    citation: Annotated[str, Field(min_length=1)]


class Registry(Strict):
    """All entries; each name stands once."""

    data_sets: tuple[Entry, ...]


def folders() -> list[Path]:
    """Where registry and shipped data sets are: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return [folder for folder in (here / "datasets", here.parent / "datasets") if (folder / FILE).is_file()]


def entries() -> tuple[Entry, ...]:
    """The data sets of the registry.

    Raises
    ------
    StoreError
        Where there is no registry, or it is not one.
    """
    for folder in folders():
        try:
            found = Registry.model_validate(json.loads((folder / FILE).read_text())).data_sets
        except (OSError, ValueError, ValidationError) as reason:
            raise StoreError(f"{folder / FILE}: is not a registry of data sets ({reason})") from None
        names = [entry.name for entry in found]
        if len(set(names)) < len(names):
            raise StoreError(f"{folder / FILE}: a name stands there twice: {', '.join(sorted(names))}")
        return found
    raise StoreError(f"no {FILE} is installed with emsynth; install emsynth again")


def entry(name: str) -> Entry:
    """One data set of the registry; StoreError with the nearest names where there is none of that name."""
    known = {found.name: found for found in entries()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 3) or sorted(known)
    raise StoreError(f"no data set {name!r} in the registry; " + (f"there is {', '.join(near)}" if near else
                                                                  "there is none in it yet"))


def entry_of(path: str | os.PathLike[str], title: str, where: str | tuple[str, ...], citation: str) -> Entry:
    """The entry to add to the registry for a finished data set; see docs/publishing.md.

    Raises
    ------
    StoreError
        Where it is not finished, or an address is none.
    """
    from emsynth.card.facts import gather

    if not title:
        raise StoreError("--title: is missing; say what the data set is, in a line")
    if not where or (where != "shipped" and not all(str(w).startswith(("https://", "http://", "doi:")) for w in where)):
        raise StoreError(f"--where {' '.join(where)}: is no place; give the address of the zip archive, https://... or "
                         f"doi:..., or 'shipped'")
    facts = gather(path)
    about = facts.store.attributes
    content = {"name": facts.name, "title": title, "digest": facts.total, "bytes": facts.bytes,
               "pairs": facts.store.samples, "licence": about["licence"], "format_version": about["format_version"],
               "where": where, "citation": citation}
    try:
        return Entry.model_validate(content)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise StoreError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})") from None


def place(wanted: Entry) -> Path | None:
    """Folder of a data set on this machine; None where it has to be fetched first."""
    shipped = [folder / f"{wanted.name}.zarr" for folder in folders()]
    return next((path for path in (shipped if wanted.where == "shipped" else [_cached(wanted)]) if path.is_dir()), None)


def _cached(wanted: Entry) -> Path:
    # The digest in the name: a new version of a data set is another folder.
    return _folder() / f"{wanted.name}-{wanted.digest[:12]}.zarr"


def _folder() -> Path:
    """``datasets`` in ``EMSYNTH_CACHE``, or beside the fields in the user's own cache."""
    fields = cache_folder()
    return (fields if os.environ.get("EMSYNTH_CACHE") else fields.parent) / "datasets"


def fetch(name: str, report: Report | None = None) -> Path:
    """A data set of the registry, on this machine: shipped, fetched before, or fetched now.

    Parameters
    ----------
    name : str
        Name in the registry; see ``emsynth datasets``.
    report : callable, optional
        Told what is going on, a line at a time.

    Returns
    -------
    Path
        Folder of the data set. A download that was interrupted goes on where it stopped; what was downloaded is there
        as a whole, every file of it compared with its checksum, or not at all.

    Raises
    ------
    StoreError
        Where there is no such data set, or it cannot be had.
    IntegrityError
        Where what is there is not what the registry says.
    """
    if not isinstance(name, str):
        raise StoreError(f"{name!r}: is not a name; give one of those that `emsynth datasets` lists")
    wanted = entry(name)
    found = place(wanted)
    if found is None and wanted.where == "shipped":
        raise StoreError(f"{name}: is shipped with emsynth, but {name}.zarr is not there; install emsynth again")
    if found is None:
        with _one_at_a_time(wanted):
            found = place(wanted) or _downloaded(wanted, report or (lambda line: None))
    _check_digest(wanted, found)
    return found


@contextlib.contextmanager
def _one_at_a_time(wanted: Entry) -> Iterator[None]:
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f".{wanted.name}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except StoreError:
        raise
    except OSError as reason:
        raise StoreError(f"{folder}: the cache cannot be written ({reason.strerror or reason}); set EMSYNTH_CACHE to a "
                         f"folder that can") from reason


def _downloaded(wanted: Entry, report: Report) -> Path:
    failures = []
    for address in wanted.where:
        part = _folder() / f".{wanted.name}-{wanted.digest[:12]}.zip.part"
        report(f"{wanted.name}: fetching {wanted.bytes / 1e6:,.1f} MB from {address}")
        try:
            archive = _retrieved(address, part)
        except Exception as reason:  # pooch, requests and urllib3 each have a family of their own
            failures.append(f"{address}: {_plain(reason)}")
            continue
        try:
            return _unpacked(wanted, archive)
        except (IntegrityError, zipfile.BadZipFile) as reason:
            failures.append(f"{address}: {_plain(reason)}")
        finally:
            archive.unlink(missing_ok=True)
    raise StoreError(f"{wanted.name}: cannot be fetched; {'; '.join(failures)}; try again later, or unpack an archive "
                     f"of it that you have to {_cached(wanted)}")


def _plain(reason: Exception) -> str:
    """An error of a network library in one short line."""
    text = " ".join(str(reason).split())
    return (text[:200] + " ...") if len(text) > 200 else text or type(reason).__name__


def _retrieved(address: str, part: Path) -> Path:
    import pooch  # type: ignore[import-untyped]

    pooch.get_logger().setLevel("WARNING")
    downloader: Any = None if address.startswith("doi:") else _Resumed(part)
    return Path(pooch.retrieve(address, known_hash=None, fname=part.name.removesuffix(".part"), path=part.parent,
                               downloader=downloader))


class _Resumed:
    """A downloader for pooch that goes on where the one before was interrupted."""

    def __init__(self, part: Path) -> None:
        self._part = part

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        there = self._part.stat().st_size if self._part.exists() else 0
        wanted = {"Range": f"bytes={there}-"} if there else {}
        with requests.get(url, headers=wanted, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                # As long as what the server has, or longer: then the checksum will tell.
                os.replace(self._part, output_file)
                return
            answer.raise_for_status()
            goes_on = answer.status_code == requests.codes.partial_content
            with open(self._part, "ab" if goes_on else "wb") as file:
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                size = file.tell()
        length = answer.headers.get("Content-Length")
        if length is not None and size < int(length) + (there if goes_on else 0):
            raise OSError(f"the connection ended after {size:,} bytes; what is there is kept")
        os.replace(self._part, output_file)


def _unpacked(wanted: Entry, archive: Path) -> Path:
    """The data set of a zip archive in its place, where it is the one that is wanted."""
    target = _cached(wanted)
    with tempfile.TemporaryDirectory(dir=_folder(), prefix=".unpacked-") as held:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(held) / "all")
        roots = sorted(Path(held).rglob("zarr.json"), key=lambda path: (len(path.parts), path))
        if not roots:
            raise IntegrityError("there is no zarr.json in the archive")
        found = roots[0].parent
        problems = verify(found)
        if problems:
            raise IntegrityError(f"what came is damaged: {problems[0]}")
        _check_digest(wanted, found)
        os.replace(found, target)
    return target


def _check_digest(wanted: Entry, found: Path) -> None:
    digest = checksums(open_store(found).path)["total"]
    if digest != wanted.digest:
        raise IntegrityError(f"{found}: its checksum is {digest[:12]}..., and the registry says "
                             f"{wanted.digest[:12]}...; remove it and fetch it again")
