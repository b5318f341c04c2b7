"""What besides the recipe determines the numbers: versions and platform."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any, cast

import numpy as np

# Whatever has a hand in the numbers or in the bytes that hold them.
_PACKAGES = ("numpy", "scipy", "numba", "abtem", "ase", "pyfftw", "zarr", "numcodecs", "pydantic")


def versions() -> dict[str, str]:
    """Version of emsynth, of Python and of every package that determines the numbers."""
    found = {"emsynth": _version("emsynth"), "python": platform.python_version()}
    return found | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def fingerprint() -> dict[str, str]:
    """The platform on which bytes are promised: machine, system, C library and the CPU features that NumPy uses."""
    umath = cast(Any, np)._core._multiarray_umath  # the only place where NumPy says which kernels it chose
    features = sorted(name for name, present in umath.__cpu_features__.items() if present)
    return {"machine": platform.machine(), "system": platform.system(), "libc": " ".join(platform.libc_ver()),
            "cpu_features": " ".join(features)}


def changed_since(attributes: dict[str, Any]) -> tuple[str, ...]:
    """What is not as it was when a store was made.

    Parameters
    ----------
    attributes : dict
        Attributes of the store: its ``versions`` and its ``platform``.

    Returns
    -------
    tuple of str
        Such as ``"numpy 2.4.6 then, 2.5.0 now"``; empty where the same bytes are promised.
    """
    kept = {**attributes["versions"], **attributes["platform"]}
    now = {**versions(), **fingerprint()}
    return tuple("other CPU features" if name == "cpu_features" else f"{name} {value} then, {now.get(name)} now"
                 for name, value in kept.items() if now.get(name) != value)
