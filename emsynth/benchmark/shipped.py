"""The released suites: their names and checksums, and how one is loaded."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from emsynth.benchmark.suite import Condition, Probe, Scene, Suite
from emsynth.draw import Strict
from emsynth.errors import IntegrityError, StoreError, SuiteError
from emsynth.registry import folders
from emsynth.store.frozen import read_frozen

FORMAT = 1
FILE = "suites.json"


class Entry(Strict):
    """One released suite.

    Attributes
    ----------
    name, title : str
    sha256 : str
        Of its file ``<name>.zip``.
    bytes, images : int
    licence : str
        SPDX identifier.
    citation : str
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+_v\d+(_tune)?$")]
    title: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0)]
    images: Annotated[int, Field(gt=0)]
    licence: str
    citation: str


class _Released(Strict):
    suites: tuple[Entry, ...]


def registered() -> tuple[Entry, ...]:
    """Every released suite, its tuning split beside it."""
    found: list[Entry] = []
    for folder in folders():
        if (folder / FILE).is_file():
            try:
                found.extend(_Released.model_validate(json.loads((folder / FILE).read_text("utf-8"))).suites)
            except (ValidationError, ValueError) as wrong:
                raise SuiteError(f"{folder / FILE}: is not a list of suites ({wrong}); install emsynth anew") from None
    return tuple(found)


def names() -> tuple[str, ...]:
    """Suites that judge; each has a tuning split, ``<name>_tune``."""
    return tuple(entry.name for entry in registered() if not entry.name.endswith("_tune"))


def place(name: str) -> tuple[Path, str]:
    """File and SHA-256 of a released suite.

    Raises
    ------
    SuiteError
        Where there is no such suite, or its file is missing.
    """
    known = {entry.name: entry for entry in registered()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise SuiteError(f"{name}: no such suite; {hint}there are {', '.join(known) or 'none'}, or give the path of a "
                         "suite's file")
    for folder in folders():
        if (folder / f"{name}.zip").is_file():
            return folder / f"{name}.zip", known[name].sha256
    raise SuiteError(f"{name}: its file {name}.zip is not in {' or '.join(map(str, folders()))}; suites come with a "
                     "checkout of emsynth's repository, not with its wheel: clone it, or give the path of the file")


def load(name_or_path: str | os.PathLike[str]) -> Suite:
    """A suite, its bytes compared with what was released.

    Parameters
    ----------
    name_or_path : str or path
        A released suite, or the file of your own.

    Returns
    -------
    Suite

    Raises
    ------
    SuiteError
        Where there is none.
    IntegrityError
        Where a released suite's bytes have changed.
    StoreError
        Where the file cannot be read.
    """
    given = Path(name_or_path)
    if given.suffix != ".zip" and os.sep not in os.fspath(name_or_path):
        path, digest = place(os.fspath(name_or_path))
        return parse(path, digest)
    if not given.is_file():
        raise SuiteError(f"{given}: no such file; give a suite's .zip, or one of {', '.join(names())}")
    # A released suite's file, wherever it lies, must have its bytes.
    return parse(given, next((entry.sha256 for entry in registered() if f"{entry.name}.zip" == given.name), None))


def parse(path: Path, digest: str | None = None, checked: bool = True) -> Suite:
    """The suite of a file, whose SHA-256 must be `digest` where that is given.

    Where it is `checked`, a file that bears the name of a released suite must be that.
    """
    arrays, about, found = read_frozen(path, digest)
    if about.get("emsynth_suite") != FORMAT:
        raise StoreError(f"{path}: is not a suite of this version (format {about.get('emsynth_suite')}, {FORMAT} is "
                         "read); install the emsynth that wrote it")
    released = next((entry.sha256 for entry in registered() if entry.name == about["name"]), found)
    if checked and released != found:
        raise IntegrityError(f"{path}: calls itself {about['name']}, and that was released with SHA-256 "
                             f"{released[:12]}..., not {found[:12]}...; give a suite of your own another name")
    return Suite(
        name=about["name"], title=about["title"], split=about["split"], digest=found,
        conditions=tuple(_known(Condition, entry) for entry in about["conditions"]),
        scenes=_scenes(about["scenes"], arrays), codes=arrays["image"], step=arrays["step"], offset=arrays["offset"],
        scale=arrays["scale"],
        about={key: about[key] for key in ("licence", "citation", "seed", "versions", "platform")})


def _known(kind: Any, entry: dict[str, Any]) -> Any:
    """A later version may say more of a condition; what this one does not know it need not."""
    return kind(**{field.name: entry[field.name] for field in fields(kind) if field.name in entry})


def _scenes(entries: Sequence[dict[str, Any]], arrays: dict[str, NDArray[Any]]) -> tuple[Scene, ...]:
    made = []
    for n, entry in enumerate(entries):
        there = np.isfinite(arrays["column_position"][n, :, 0])
        made.append(Scene(
            index=entry["index"], name=entry["name"], content=entry["content"], prototype=entry["prototype"],
            structure=entry["structure"], physics=entry["physics"], detector=entry["detector"],
            sampling=entry["sampling"], truth=arrays["truth"][n], classes=arrays["class_map"][n],
            columns=arrays["column_position"][n][there], number=arrays["column_number"][n][there],
            formula=tuple(entry["formula"]), partner=entry["partner"],
            probes=tuple(_known(Probe, probe) for probe in entry["probes"]), about=entry["about"]))
    return tuple(made)
