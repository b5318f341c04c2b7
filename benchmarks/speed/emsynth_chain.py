"""The committed chain in emsynth: what is measured."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed import stem_chain
from benchmarks.speed.stem_chain import Settings
from emsynth.distortion import Chain, Detection, Grid, Readout, ScanClock, Window
from emsynth.distortion.chain import Distorted
from emsynth.distortion.geometry import STILL, Path, prefilter
from emsynth.draw import Streams

SEED = 5


def chain(settings: Settings) -> Chain:
    """The committed chain, every number fixed."""
    return Chain.model_validate(settings)


def stage(settings: Settings, tag: str) -> Detection:
    """One detector stage of the committed chain."""
    return next(stage for stage in chain(settings).detector if stage.stage == tag)


def undrawn(settings: Settings) -> Chain:
    """The committed chain with every number a distribution of one per cent around it, so that drawing has all to do."""
    parts = {part: [_vary(stage) for stage in settings[part]] for part in ("scan", "detector")}
    return Chain.model_validate({**_vary(settings), **parts})


def _vary(section: Settings) -> Settings:
    varied: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, float) and value != 0:
            varied[name] = {"dist": "uniform", "low": 0.99 * value, "high": 1.01 * value}
        elif isinstance(value, int | str) and name not in ("stage", "truth_geometry"):
            varied[name] = {"dist": "choice", "values": [value]}
        else:
            varied[name] = value
    return varied


@lru_cache(maxsize=1)
def coefficients() -> NDArray[np.float32]:
    """Spline coefficients of the field, as emsynth keeps them."""
    return prefilter(stem_chain.field(), periodic=True)


def window(side: int) -> Window:
    """The window of `stem_chain.to_field`."""
    return Window((side, side), stem_chain.PIXEL, rotation=stem_chain.ROTATION, origin=stem_chain.ORIGIN)


class _Look:
    """What a chain sees through the window, as `emsynth.view.Sight`, but of a field that has no ground truth."""

    def __init__(self, side: int) -> None:
        self.window = window(side)

    def __call__(self, grid: Grid) -> NDArray[np.float32]:
        return self.along(grid, STILL)

    def along(self, grid: Grid, path: Path) -> NDArray[np.float32]:
        """At shares of the way to the next pixel, each times its weight, added up."""
        return self.window.gather(coefficients(), stem_chain.SAMPLING, True, grid, path, 0.0)


def distort(made: Chain, side: int, index: int) -> Distorted:
    """Truth, image, displacement and mask of sample `index`."""
    return made.run(_Look(side), (side, side), SEED, index)


def draw_and_distort(varied: Chain, side: int, index: int) -> Distorted:
    """As `distort`, the chain being drawn for each sample."""
    return distort(varied.draw(Streams(SEED, index)), side, index)


def readout(settings: Settings, side: int, bright: float = 100.0) -> Readout:
    """What a detector stage is told about the image."""
    clock = ScanClock(side, side, settings["dwell"], settings["fly_back"])
    return Readout(clock, settings["expected_counts"], bright, 1.0, np.zeros((side, side), np.uint8))
