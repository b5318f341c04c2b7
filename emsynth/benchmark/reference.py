"""The fixed baseline that scores are relative to: its figures on every image, kept with the suite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.suite import Suite
from emsynth.errors import SuiteError

if TYPE_CHECKING:
    import pandas as pd

RESTORER = "gaussian"
KEPT = ("psnr", "column_error")
KEPT_IN = Path(__file__).parent / "reference"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """Figures of the fixed baseline.

    Attributes
    ----------
    suite, digest : str
        Name and SHA-256 of the suite that they belong to.
    restorer : str
        Name of the baseline.
    figures : mapping of str to ndarray (condition, scene)
        Metric to its values; NaN where the metric does not apply.
    """

    suite: str
    digest: str
    restorer: str
    figures: Mapping[str, Floats]


def figures(suite: Suite, table: pd.DataFrame, restorer: str, metric: str) -> Floats:
    """One metric of one restorer on every image.

    Parameters
    ----------
    suite : Suite
        What was restored.
    table : DataFrame
        Tidy table of a run: restorer, family, severity, scene, metric, value and more; rows in any order.
    restorer : str
        Name of the restorer.
    metric : str
        Name of the metric.

    Returns
    -------
    ndarray (condition, scene), float64
        NaN where the table says nothing.

    Raises
    ------
    SuiteError
        Where the table has an image that the suite has not, or one twice.
    """
    rows = table[(table["restorer"] == restorer) & (table["metric"] == metric)]
    number = {(c.family, c.severity): n for n, c in enumerate(suite.conditions)}
    found = np.full((len(suite.conditions), len(suite.scenes)), np.nan)
    seen = np.zeros(found.shape, bool)
    for family, severity, scene, value in zip(rows["family"], rows["severity"], rows["scene"], rows["value"],
                                              strict=True):
        at = number.get((str(family), int(severity))), int(scene)
        if at[0] is None or not 0 <= at[1] < len(suite.scenes):
            raise SuiteError(f"{suite.name}: has no image {family}-{severity}, scene {scene}, but the table has; "
                             "give the suite that the table was made of")
        if seen[at]:
            raise SuiteError(f"{restorer}: the table has {metric} of {family}-{severity}, scene {scene}, twice; "
                             "give the table of one run")
        seen[at], found[at] = True, float(value)
    return found


def reference_of(suite: Suite, table: pd.DataFrame, restorer: str = RESTORER) -> Reference:
    """Make a reference of a run.

    Raises
    ------
    SuiteError
        Where the run left out an image.
    """
    kept = {metric: figures(suite, table, restorer, metric) for metric in KEPT}
    missing = int(np.isnan(kept["psnr"]).sum())
    if missing:
        raise SuiteError(f"{suite.name}: {restorer} has no psnr on {missing} of {len(suite)} images; "
                         "run it on the whole suite to make a reference of it")
    return Reference(suite.name, suite.digest, restorer, kept)


def write_reference(suite: Suite, table: pd.DataFrame, folder: Path = KEPT_IN, restorer: str = RESTORER) -> Path:
    """Keep the figures of `restorer` in `table` as the reference of `suite`; returns the file, ``<suite>.json``."""
    made = reference_of(suite, table, restorer)
    names = [condition.name for condition in suite.conditions]
    content = {"suite": made.suite, "digest": made.digest, "restorer": made.restorer, "figures": {
        metric: {name: [None if np.isnan(v) else float(v) for v in row]
                 for name, row in zip(names, values, strict=True)} for metric, values in made.figures.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite.name}.json"
    # One line for each condition, so that a change of one condition is one line of a diff.
    path.write_text(json.dumps(content, indent=1).replace("\n    ", " ").replace("\n   ]", " ]") + "\n")
    return path


def reference(suite: Suite, folder: Path = KEPT_IN) -> Reference:
    """The reference kept with a suite.

    Raises
    ------
    SuiteError
        Where none is kept, or it belongs to other bytes.
    """
    path = folder / f"{suite.name}.json"
    if not path.is_file():
        kept = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise SuiteError(f"{suite.name}: no reference is kept for it, and a score is relative to one "
                         f"(kept: {kept}); run {RESTORER} on the whole suite and make one of its table")
    content = json.loads(path.read_text())
    if content["digest"] != suite.digest:
        raise SuiteError(f"{path}: belongs to a suite of digest {content['digest'][:12]}, {suite.name} has "
                         f"{suite.digest[:12]}; make the reference again")
    shape = len(suite.conditions), len(suite.scenes)
    kept_figures = {metric: np.array([rows[c.name] for c in suite.conditions], np.float64).reshape(shape)
                    for metric, rows in content["figures"].items()}
    return Reference(content["suite"], content["digest"], content["restorer"], kept_figures)
