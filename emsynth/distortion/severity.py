"""Severities: each distortion alone, and all of them together, in five calibrated degrees."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion.chain import Chain, Distorted, Gather
from emsynth.distortion.geometry import Grid, Window, prefilter
from emsynth.distortion.stage import MaskBit
from emsynth.errors import RecipeError

LEVELS = (1, 2, 3, 4, 5)
SEEDS = tuple(range(9))  # of the calibration
_CELL = 16  # px; of the calibration's lattice
_COVERED = MaskBit.BORDER | MaskBit.OVERLAY
_PERFECT = 99.0  # dB; said of an image that does not differ from its truth

Measure = Literal["psnr", "psnr_undamaged", "clear"]


@dataclass(frozen=True)
class Family:
    """One row of the table: one kind of distortion in five degrees.

    Attributes
    ----------
    name : str
        The stage's tag, or ``combined_`` and the microscope.
    measure : {"psnr", "psnr_undamaged", "clear"}
        What was calibrated, see `quality`.
    levels : tuple of dict
        Chain fragment of each severity, the base included.
    qualities : tuple of float
        The calibrated measure of each severity.
    shown : tuple of str
        What a figure writes under each severity: names of the chain's numbers, or of a stage's as ``stage.name``.
    note : str
        What one must know to read the row; empty where there is nothing.
    camera : bool
        Whether it belongs to a camera, which sees a bright field.
    """

    name: str
    measure: Measure
    levels: tuple[dict[str, Any], ...]
    qualities: tuple[float, ...]
    shown: tuple[str, ...]
    note: str
    camera: bool


@lru_cache(maxsize=1)
def table() -> dict[str, Family]:
    """Every family by name, in the order scan, detector, camera, after the detector, combined."""
    document = json.loads(resources.files("emsynth.distortion").joinpath("severities.json").read_text("utf-8"))
    base = document["base"]
    return {
        name: Family(
            name, entry["measure"], tuple(base | level for level in entry["levels"]), tuple(entry["qualities"]),
            tuple(entry["shown"]), entry.get("note", ""), "camera" in entry["levels"][0])
        for name, entry in document["families"].items()
    }  # fmt: skip


def families() -> tuple[str, ...]:
    """Names of all families: one for each stage, and ``combined_stem``, ``combined_sem`` and ``combined_tem``.

    ``combined`` is another name of ``combined_stem``. `gain` and `black_level` have none: truth and image share
    them, so that by themselves they leave nothing to restore. `read_noise`, `saturation` and `quantise`, which a camera
    has too, stand among the detectors.
    """
    return tuple(table())


def family(name: str) -> Family:
    """The family called `name`.

    Raises
    ------
    RecipeError
        Where there is none.
    """
    known, wanted = table(), "combined_stem" if name == "combined" else name
    if wanted in known:
        return known[wanted]
    if name in ("gain", "black_level"):
        raise RecipeError(f"severity: '{name}' has no severities, because truth and image share it; choose among "
                          f"{', '.join(known)}")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"severity: no family '{name}'; {hint}known are {', '.join(known)}, and combined")


def severity(name: str, level: int) -> Chain:
    """The chain of one family at one severity.

    Parameters
    ----------
    name : str
        One of `families`, or ``combined``.
    level : int
        1, a good day at the microscope, to 5, barely usable.

    Returns
    -------
    Chain
        Plain numbers, every stage with probability 1, never an identity pair: what it does depends on the seed and the
        index that it is run with, and on nothing else.

    Raises
    ------
    RecipeError
        Where there is no such family or level.

    Notes
    -----
    Numbers are ours. Levels 1 to 3 lie within what recipes draw by default, 4 and 5 may lie beyond, where
    the end of that range is not yet hard to use. A family shows its stage alone, without noise; stages that act on
    counts come with the counting that they need. The qualities that the table records are `quality` on the reference
    scene of 256² px, medians over nine seeds.
    """
    found = family(name)
    if isinstance(level, bool) or level not in LEVELS:
        raise RecipeError(f"severity: {name} has no level {level!r}; take 1 (a good day) to 5 (barely usable)")
    return Chain.model_validate(found.levels[int(level) - 1])


def quality(made: Distorted, measure: Measure) -> float:
    """How good a distorted image still is; the higher, the better.

    Parameters
    ----------
    made : Distorted
        Truth, image and mask.
    measure : {"psnr", "psnr_undamaged", "clear"}
        Peak signal-to-noise ratio in dB, 99 at most, the peak being the range of the truth: of all pixels, or of those
        without a defect; or the share of the micrograph's area, in %, that is neither cropped nor covered by border or
        overlay, for these are the same in truth and image.

    Returns
    -------
    float
    """
    if measure == "clear":
        cropped = abs(float(np.linalg.det(made.frame[:, :2])))
        return 100 * cropped * float(np.mean((made.mask & _COVERED) == 0))
    kept = np.ones(made.mask.shape, bool) if measure == "psnr" else (made.mask & MaskBit.DEFECT) == 0
    error = float(np.mean(np.square(made.distorted - made.truth, dtype=np.float64)[kept]))
    peak = float(np.ptp(made.truth))
    return min(_PERFECT, 10 * math.log10(peak**2 / error)) if error > 0 else _PERFECT


@lru_cache(maxsize=4)
def reference_scene(camera: bool = False, side: int = 256) -> tuple[Gather, Window]:
    """The scene that severities are calibrated on, analytic, without random numbers.

    A crystalline particle, a lattice of a heavy and a light column per cell of 16 px, on a flat support: atoms show
    what the scan does to them, the support shows noise. A detector sees it bright on dark, a camera as a bright field
    with a third of the contrast.

    Returns
    -------
    gather : callable
        As `Chain.run` takes it.
    window : Window
        Of `side` px, with room for displacements all around.
    """
    length = side + 4 * _CELL
    y, x = np.indices((length, length), dtype=np.float64)
    phase_y, phase_x = 2 * np.pi * y / _CELL, 2 * np.pi * x / _CELL
    heavy = np.exp(3 * (np.cos(phase_y) + np.cos(phase_x) - 2))
    light = np.exp(3 * (-np.cos(phase_y) - np.cos(phase_x) - 2))
    radius = np.hypot(y - 0.45 * length, x - 0.55 * length) / (0.4 * length)
    particle = 1 / (1 + np.exp(20 * (radius - 1)))
    scene = 0.15 + particle * (0.15 + 0.7 * heavy + 0.3 * light)
    scene = 1 - scene / 3 if camera else scene
    coefficients = prefilter(scene, periodic=True)
    window = Window((side, side), 1.0, origin=((length - 1) / 2, (length - 1) / 2))

    def gather(grid: Grid) -> NDArray[np.float32]:
        return window.gather(coefficients, 1.0, True, grid)

    return gather, window


def calibrate(name: str, seeds: Sequence[int] = SEEDS, side: int = 256) -> tuple[float, ...]:
    """Median quality of each severity of a family on the reference scene: what the table records."""
    found = family(name)
    gather, window = reference_scene(found.camera, side)
    return tuple(
        float(np.median([quality(severity(name, level).run(gather, window.shape, seed, 0), found.measure)
                         for seed in seeds]))
        for level in LEVELS
    )  # fmt: skip


if __name__ == "__main__":
    for each in families():
        print(f"{each:20s}", ", ".join(f"{value:.1f}" for value in calibrate(each)))
