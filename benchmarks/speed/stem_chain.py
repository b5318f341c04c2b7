"""The committed chain and the field under it: plain data that emsynth and both references read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from scipy.ndimage import spline_filter

SETTINGS = Path(__file__).with_name("stem_chain.yaml")
TILE = (288, 320)  # field px, periodic
SAMPLING = 0.05  # Å per field px
PIXEL = 0.12  # Å per window px
ROTATION = 0.3  # rad
ORIGIN = (5.0, 7.0)  # Å

Settings = dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """Times of the scan: pixel (r, c) is visited at r·period + c·dwell, s."""

    rows: int
    cols: int
    dwell: float
    fly_back: float

    @property
    def period(self) -> float:
        """From the start of a row to the start of the next, s."""
        return self.cols * self.dwell + self.fly_back

    @property
    def frame(self) -> float:
        """The whole frame with its fly-backs, s."""
        return self.rows * self.period


def load() -> Settings:
    """The chain as a nested dict, as a recipe's `distort` section holds it."""
    settings: Settings = YAML(typ="safe", pure=True).load(SETTINGS)
    return settings


def stages(settings: Settings) -> dict[str, Settings]:
    """Scan and detector stages by their tags."""
    return {stage["stage"]: stage for part in ("scan", "detector") for stage in settings[part]}


def scan(settings: Settings, side: int) -> Scan:
    """Clock of a square frame."""
    return Scan(side, side, settings["dwell"], settings["fly_back"])


@lru_cache(maxsize=1)
def field() -> NDArray[np.float32]:
    """Clean periodic field, (288, 320): two kinds of Gaussian columns on a centred lattice above a background."""
    rows, cols = np.indices(TILE, dtype=np.float64)
    image = np.full(TILE, 0.08)
    for shift, height, width in ((0.0, 1.0, 7.0), (0.5, 0.45, 6.0)):
        # Columns 32 px (1.6 Å) apart along both axes divide the tile evenly, so that it repeats without a seam.
        dr, dc = ((x / 32 - shift + 0.5) % 1 * 32 - 16 for x in (rows, cols))
        image += height * np.exp(-(dr**2 + dc**2) / (2 * width**2))
    return image.astype(np.float32)


@lru_cache(maxsize=1)
def coefficients() -> NDArray[np.float32]:
    """Cubic B-spline coefficients of the field, (288, 320), found once, outside of every measurement."""
    filtered: NDArray[np.float64] = spline_filter(field().astype(np.float64), order=3, mode="grid-wrap")
    return filtered.astype(np.float32)


def to_field(side: int) -> NDArray[np.float64]:
    """Window px to field px, (2, 3): field px = to_field @ [row, col, 1]."""
    cosine, sine = math.cos(ROTATION), math.sin(ROTATION)
    matrix = PIXEL * np.array([[cosine, sine], [-sine, cosine]])
    start = np.array(ORIGIN) - matrix @ np.full(2, (side - 1) / 2)
    return np.column_stack([matrix, start]) / SAMPLING
