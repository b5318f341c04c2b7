"""Manifests: which parts of a store are finished, and the checksum of every file in them; no Zarr here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from emsynth.errors import IntegrityError, StoreError
from emsynth.store import claims

FOLDER = "manifest"
STORE = "store"
_FOREIGN = "not part of this store"


def part_name(kind: str, number: int) -> str:
    """Name of a part: ``"field-00000"`` or ``"shard-00003"``."""
    return f"{kind}-{number:05d}"


def spoken(part: str) -> str:
    """The part's name in a message: ``"shard 3"``."""
    kind, _, number = part.partition("-")
    return f"{kind} {int(number)}" if number else "metadata"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(store: Path, part: str, files: Iterable[str], about: dict[str, Any] | None = None) -> None:
    """Mark a part as finished; the last thing that is written of it.

    Parameters
    ----------
    store : Path
        Folder of the store.
    part : str
        Name of the part.
    files : iterable of str
        Every file of the part, relative to the store; they are made durable first.
    about : dict, optional
        What else the manifest should say, e.g. the range of samples.
    """
    listed = {}
    for name in sorted(files):
        path = store / name
        _sync(path)
        listed[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    text = json.dumps({"part": part, **(about or {}), "files": listed}, indent=1, sort_keys=True)
    target = store / FOLDER / f"{part}.json"
    draft = target.with_name(f".{part}.{os.getpid()}")
    draft.write_text(text + "\n")
    _sync(draft)
    os.replace(draft, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(store: Path, part: str) -> dict[str, Any] | None:
    """Manifest of a part; None where the part is not finished.

    Raises
    ------
    IntegrityError
        Where the manifest itself is damaged.
    """
    path = store / FOLDER / f"{part}.json"
    try:
        content = json.loads(path.read_text())
        content["files"].items()
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{path}: this manifest is damaged; delete it and build with --resume to write "
                             f"{spoken(part)} again") from None
    return dict(content)


def finished(store: Path, kind: str) -> frozenset[int]:
    """Numbers of the fields or of the shards that are finished."""
    names = (p.name for p in (store / FOLDER).glob(f"{kind}-*.json"))
    return frozenset(int(m[1]) for name in names if (m := re.fullmatch(rf"{kind}-(\d+)\.json", name)))


def intact(store: Path, part: str) -> bool:
    """Whether a part is finished and its files are all there in full length; a quick look, `verify` reads them."""
    try:
        content = read(store, part)
        files = {} if content is None else content["files"]
        return bool(files) and all(os.path.getsize(store / n) == entry["bytes"] for n, entry in files.items())
    except (OSError, IntegrityError):
        return False


def give_up_damaged(store: Path) -> list[str]:
    """Take the mark of being finished from every field and shard that is not what its manifest says.

    A part that another live process has claimed is left to that process.

    Returns
    -------
    list of str
        What was wrong, one line each, as in `verify`; these parts will be made again.
    """
    problems = []
    for part in [part_name(kind, n) for kind in ("field", "shard") for n in sorted(finished(store, kind))]:
        if not _problems(store, part) or not claims.claim(store, part):
            continue
        try:
            found = _problems(store, part)  # again: until the claim, another process may have been writing it
            if found:
                (store / FOLDER / f"{part}.json").unlink(missing_ok=True)
            problems += found
        finally:
            claims.release(store, part)
    return problems


def _problems(store: Path, part: str) -> list[str]:
    """What is wrong with a part that is marked as finished, one line each."""
    try:
        return list(_check(store, part, (read(store, part) or {"files": {}})["files"]))
    except IntegrityError as damaged:
        return [str(damaged).partition(";")[0]]


def check_sound(store: Path, part: str) -> None:
    """Read every file of a finished part.

    Raises
    ------
    IntegrityError
        Where one is not what the manifest says.
    """
    for problem in _problems(store, part):
        raise IntegrityError(f"{store}: {problem}; build with --resume to make {spoken(part)} again")


def check_metadata(store: Path) -> None:
    """Read the files that all parts share; no build makes these again.

    Raises
    ------
    IntegrityError
        Where one is not what the manifest says, or the manifest is lost.
    """
    if not (store / FOLDER / f"{STORE}.json").is_file():
        raise IntegrityError(f"{store}: {FOLDER}/{STORE}.json is missing, and --resume cannot make it again; restore "
                             f"it from a copy of the data set, or remove all and build anew")
    for problem in _problems(store, STORE):
        raise IntegrityError(f"{store}: {problem.removeprefix(f'{store}/')}, and --resume cannot make it again; "
                             f"restore it from a copy of the data set, or --overwrite to build anew")


def ways_out(problems: Sequence[str]) -> str:
    """What to do about what `verify` found, in the order in which to do it."""
    metadata = [p for p in problems if p.startswith(f"{spoken(STORE)}:")]
    foreign = [p for p in problems if p.endswith(f": {_FOREIGN}")]
    steps = {
        "restore the metadata from a copy of the data set, or build anew with --overwrite": bool(metadata),
        "remove what is not part of the store": bool(foreign),
        "emsynth build with the same recipe and --resume makes damaged and missing parts again":
            len(metadata) + len(foreign) < len(problems)}
    return "; ".join(step for step, needed in steps.items() if needed)


def checksums(store: Path) -> dict[str, str]:
    """Digest of every finished part, and of all together as ``"total"``.

    Returns
    -------
    dict
        Part to SHA-256 over the checksums of its files; the same recipe gives the same values on one platform, however
        the work was cut.
    """
    found = {}
    for part in [STORE, *(part_name(kind, n) for kind in ("field", "shard") for n in sorted(finished(store, kind)))]:
        files = (read(store, part) or {"files": {}})["files"]
        lines = [f"{entry['sha256']}  {name}" for name, entry in sorted(files.items())]
        found[part] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    total = hashlib.sha256("\n".join(f"{value}  {part}" for part, value in sorted(found.items())).encode())
    return {**found, "total": total.hexdigest()}


def verify(store: Path, fields: int, shards: int) -> list[str]:
    """Everything that is wrong with the files of a store, one line each.

    Parameters
    ----------
    store : Path
        Folder of the store.
    fields, shards : int
        How many there should be.

    Returns
    -------
    list of str
        Such as ``"shard 3: truth: checksum differs"``; empty where all is well.
    """
    parts = [STORE, *(part_name("field", n) for n in range(fields)), *(part_name("shard", n) for n in range(shards))]
    problems: list[str] = []
    known: set[str] = set()
    unfinished: set[int] = set()
    for part in parts:
        try:
            content = read(store, part)
        except IntegrityError:
            problems.append(f"{spoken(part)}: its manifest is damaged: {FOLDER}/{part}.json")
            content = {"files": {}}
        if content is None:
            why = f"{FOLDER}/{STORE}.json is missing" if part == STORE else (
                "missing; it was never finished, or its manifest was removed")
            problems.append(f"{spoken(part)}: {why}")
            unfinished |= {int(part.partition("-")[2] or -1)}
            continue
        known |= set(content["files"])
        problems += _check(store, part, content["files"])
    if not unfinished:
        problems += [f"{name}: {_FOREIGN}" for name in files_below(store) if name not in known]
    return problems


def _check(store: Path, part: str, files: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, entry in files.items():
        where = f"{spoken(part)}: {array_of(name)}"
        try:
            size = (store / name).stat().st_size
            if size != entry["bytes"]:
                kind = "truncated" if size < entry["bytes"] else "too long"
                yield f"{where}: {kind}, {size} of {entry['bytes']} bytes: {name}"
            elif sha256(store / name) != entry["sha256"]:
                yield f"{where}: checksum differs: {name}"
        except FileNotFoundError:
            yield f"{where}: file is missing: {name}"
        except OSError as reason:
            yield f"{where}: cannot be read ({reason.strerror}): {name}"


def array_of(name: str) -> str:
    """Array that a file of the store belongs to."""
    steps = name.split("/")
    if steps[0] == "fields" and len(steps) > 3:
        return steps[2]
    return steps[0] if len(steps) > 1 else "group"


def files_below(store: Path) -> list[str]:
    """Every file of the data, relative to the store: neither manifests nor claims nor hidden ones."""
    found = []
    for folder, subfolders, names in os.walk(store):
        inside = Path(folder).relative_to(store)
        subfolders.sort()
        skip = inside.parts[:1] == (claims.FOLDER,) or inside.parts[:1] == (FOLDER,)
        found += [(inside / n).as_posix() for n in sorted(names) if not n.startswith(".") and (
            not skip or n == "zarr.json")]
    return found


def check_complete(store: Path, part: str) -> dict[str, Any]:
    """Manifest of a part that has to be finished.

    Raises
    ------
    StoreError
        Where it is not.
    """
    content = read(store, part)
    if content is None:
        raise StoreError(f"{store}: {spoken(part)} is not finished; build with --resume to go on")
    return content
