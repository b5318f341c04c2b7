"""Records of how far approximations are from multislice, as the package ships them."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def record(name: str) -> dict[str, Any]:
    """The errors of an approximation on specimens that its settings were not chosen on; `name` is that of its file."""
    read: dict[str, Any] = json.loads((files("emsynth.simulation") / f"{name}.json").read_text("utf-8"))
    return read


def digest(name: str) -> str:
    """Digest of a record: what an approximation was checked with is part of what it gives."""
    return hashlib.sha256(json.dumps(record(name), sort_keys=True).encode()).hexdigest()


def detector_class(name: str, angles: tuple[float, float], convergence: float) -> str:
    """Which of the checked detectors one is like: HAADF, LAADF, ABF or BF.

    Parameters
    ----------
    name : str
        Of the record.
    angles : tuple of float
        Inner and outer angle in mrad.
    convergence : float
        Convergence semi-angle in mrad.
    """
    inner, outer = angles
    known = record(name)["checked"]
    if inner >= max(known["inner_least"], known.get("inner_least_convergences", 0.0) * convergence) - 1e-6:
        return "HAADF"
    if inner >= convergence:
        return "LAADF"
    return "ABF" if inner > 0 or outer > 0.5 * convergence else "BF"
