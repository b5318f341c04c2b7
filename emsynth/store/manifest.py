"""Manifests: which parts of a store are finished, and the checksum of every file in them; no Zarr here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from emsynth.errors import IntegrityError, StoreError
from emsynth.store import claims
from emsynth.store.draft import draft

FOLDER = "manifest"
STORE = "store"
CARD = "card"  # what describes the data set to others; may be there, and may be made again at any time
_FOREIGN = "not part of this store"
_THREADS = 8  # that read and hash files, at most
Found = TypeVar("Found")


def part_name(kind: str, number: int) -> str:
    """Name of a part: ``"field-00000"`` or ``"shard-00003"``."""
    return f"{kind}-{number:05d}"


def spoken(part: str) -> str:
    """The part's name in a message: ``"shard 3"``."""
    kind, _, number = part.partition("-")
    return f"{kind} {int(number)}" if number else "metadata" if part == STORE else part


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
    with draft(store, part) as folder:
        (folder / target.name).write_text(text + "\n")
        _sync(folder / target.name)
        os.replace(folder / target.name, target)
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


def is_finished(store: Path, part: str) -> bool:
    """Whether there is a manifest of a part."""
    return (store / FOLDER / f"{part}.json").is_file()


def finished(store: Path, kind: str) -> frozenset[int]:
    """Numbers of the fields or of the shards that are finished."""
    names = (p.name for p in (store / FOLDER).glob(f"{kind}-*.json"))
    return frozenset(int(m[1]) for name in names if (m := re.fullmatch(rf"{kind}-(\d+)\.json", name)))


def recipe_digest(store: Path) -> str | None:
    """Digest of the recipe that a store is made from; None where its metadata cannot be read."""
    try:
        return str(json.loads((store / "zarr.json").read_text())["attributes"]["recipe_digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_another_build(content: dict[str, Any], digest: str | None) -> str | None:
    """What to say of a manifest that came from a store of another recipe; None where it did not, or does not tell.

    Parameters
    ----------
    content : dict
        The manifest.
    digest : str, optional
        Digest of the store's own recipe.
    """
    found = content.get("recipe_digest")
    if None in (found, digest) or found == digest:
        return None
    part = content.get("part", "")
    return (f"manifest of another build (of recipe {str(found)[:16]}, and this store is of {str(digest)[:16]}): "
            f"{FOLDER}/{part}.json")


def intact(store: Path, part: str, digest: str | None = None) -> bool:
    """Whether a part is finished and its files are all there in full length; a quick look, `verify` reads them.

    Parameters
    ----------
    store : Path
        Folder of the store.
    part : str
        Name of the part.
    digest : str, optional
        Digest of the store's recipe, where it is known; read from the store where it is not.
    """
    try:
        content = read(store, part)
        if content is None or of_another_build(content, digest or recipe_digest(store)):
            return False
        files = content["files"]
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
    parts = [part_name(kind, n) for kind in ("field", "shard") for n in sorted(finished(store, kind))]
    looks = _in_threads(lambda part: _problems(store, part), parts)
    for part in (part for part, found in zip(parts, looks, strict=True) if found):
        if not claims.claim(store, part):
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
        return _check(store, part, read(store, part) or {"files": {}}, recipe_digest(store))
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


def check_data(store: Path, fields: int, shards: int) -> None:
    """Read every file of the data, but not what was put beside them, such as a card.

    Raises
    ------
    IntegrityError
        Where one is not what its manifest says; says what is wrong first.
    """
    wrong = [p for p in verify(store, fields, shards) if not p.startswith(f"{CARD}:") and not p.endswith(_FOREIGN)]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more, which emsynth verify lists)" if len(wrong) > 1 else ""
        raise IntegrityError(f"{store}: {wrong[0]}{more}; {ways_out(wrong)}")


def ways_out(problems: Sequence[str]) -> str:
    """What to do about what `verify` found, in the order in which to do it."""
    metadata = [p for p in problems if p.startswith(f"{spoken(STORE)}:")]
    foreign = [p for p in problems if p.endswith(f": {_FOREIGN}")]
    card = [p for p in problems if p.startswith(f"{spoken(CARD)}:")]
    steps = {
        "restore the metadata from a copy of the data set, or build anew with --overwrite": bool(metadata),
        "remove what is not part of the store": bool(foreign),
        "emsynth card writes the card again": bool(card),
        "emsynth build with the same recipe and --resume makes damaged and missing parts again":
            len(metadata) + len(foreign) + len(card) < len(problems)}
    return "; ".join(step for step, needed in steps.items() if needed)


def checksums(store: Path) -> dict[str, str]:
    """Digest of every finished part, and of all together as ``"total"``.

    Returns
    -------
    dict
        Part to SHA-256 over the checksums of its files; the same recipe gives the same values on one platform, however
        the work was cut. The card is not in it: what is said about the data does not change them.
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
    parts += [CARD] if (store / FOLDER / f"{CARD}.json").exists() else []
    digest = recipe_digest(store)
    looks = _in_threads(lambda part: _look(store, part, digest), parts)
    problems = [problem for found, _ in looks for problem in found]
    if all(listed is not None for _, listed in looks):
        known = {name for _, listed in looks for name in listed or ()}
        problems += [f"{name}: {_FOREIGN}" for name in files_below(store) if name not in known]
    return problems


def _look(store: Path, part: str, digest: str | None) -> tuple[list[str], list[str] | None]:
    """What is wrong with a part, one line each, and the files of its manifest; None where it has none."""
    try:
        content = read(store, part)
    except IntegrityError:
        return [f"{spoken(part)}: its manifest is damaged: {FOLDER}/{part}.json"], []
    if content is None:
        why = f"{FOLDER}/{STORE}.json is missing" if part == STORE else (
            "missing; it was never finished, or its manifest was removed")
        return [f"{spoken(part)}: {why}"], None
    return _check(store, part, content, digest), list(content["files"])


def _in_threads(look: Callable[[str], Found], parts: Sequence[str]) -> list[Found]:
    """What `look` finds for each part: a thread that hashes or waits for the disk does not hold up the others."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(look, parts))


def _check(store: Path, part: str, content: dict[str, Any], digest: str | None) -> list[str]:
    """What is wrong with a part, whose manifest this is, one line each."""
    another = of_another_build(content, digest)
    if another is not None:
        return [f"{spoken(part)}: {another}"]
    found = ((name, _damage(store / name, entry)) for name, entry in content["files"].items())
    where = {name: spoken(part) if part == CARD else f"{spoken(part)}: {array_of(name)}" for name in content["files"]}
    return [f"{where[name]}: {damage}: {name}" for name, damage in found if damage]


def _damage(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file; None where it is the one that the manifest lists."""
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{'truncated' if size < entry['bytes'] else 'too long'}, {size} of {entry['bytes']} bytes"
        return None if sha256(path) == entry["sha256"] else "checksum differs"
    except FileNotFoundError:
        return "file is missing"
    except OSError as reason:
        return f"cannot be read ({reason.strerror})"


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
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        skip = inside.parts[:1] == (claims.FOLDER,) or inside.parts[:1] == (FOLDER,)
        found += [(inside / n).as_posix() for n in sorted(names) if not n.startswith(".") and (
            not skip or n == "zarr.json")]
    return found


def check_complete(store: Path, part: str) -> dict[str, Any]:
    """Manifest of a part that has to be finished.

    Raises
    ------
    StoreError
        Where it is not; IntegrityError where its manifest is of another build.
    """
    content = read(store, part)
    if content is None:
        raise StoreError(f"{store}: {spoken(part)} is not finished; build with --resume to go on")
    another = of_another_build(content, recipe_digest(store))
    if another is not None:
        raise IntegrityError(f"{store}: {spoken(part)}: {another}; build with --resume to make it again")
    return content
