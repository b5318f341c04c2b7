"""Physically simulated, physically distorted electron micrographs for those who train and judge restorers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emsynth.benchmark.bench import bench
    from emsynth.builder import build
    from emsynth.errors import EmsynthError
    from emsynth.recipe import Recipe
    from emsynth.registry import fetch
    from emsynth.restoration.restoring import restore
    from emsynth.retake import Retake, distort
    from emsynth.sample import Sample, render, simulate
    from emsynth.simulation.field import Field
    from emsynth.store import open_dataset
    from emsynth.streaming import Batch, Stream, stream

__version__ = "0.2.0"
__all__ = ["Batch", "EmsynthError", "Field", "Recipe", "Retake", "Sample", "Stream", "__version__", "bench", "build",
           "distort", "fetch", "open_dataset", "render", "restore", "simulate", "stream"]

# Loaded at first use: `import emsynth` must not wait for abTEM, Numba or zarr.
_HOMES = {
    "Batch": "emsynth.streaming", "EmsynthError": "emsynth.errors", "Field": "emsynth.simulation.field",
    "Recipe": "emsynth.recipe", "Retake": "emsynth.retake",
    "Sample": "emsynth.sample", "bench": "emsynth.benchmark.bench", "build": "emsynth.builder",
    "distort": "emsynth.retake", "fetch": "emsynth.registry",
    "open_dataset": "emsynth.store", "render": "emsynth.sample",
    "restore": "emsynth.restoration.restoring", "simulate": "emsynth.sample",
    "Stream": "emsynth.streaming", "stream": "emsynth.streaming",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emsynth' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
