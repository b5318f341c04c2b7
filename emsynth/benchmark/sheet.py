"""Sheets of a suite: all of its scenes, and families by severities, to be looked at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emsynth.benchmark.shipped import load
from emsynth.benchmark.suite import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL = 1.35  # inches


def _figure(rows: int, cols: int) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(cols * _PANEL + 1.0, rows * _PANEL + 0.4), layout="constrained", dpi=110)
    axes = figure.subplots(rows, cols, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _show(axis: Any, image: Any, low: float, high: float) -> None:
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def severities(suite: Suite, scene: int) -> Figure:
    """Families (rows) by severities (columns) of one scene, its truth on the left.

    All are shown from the truth's darkest to its brightest pixel, widened by a tenth: a restorer sees more than that.
    """
    levels = sorted({condition.severity for condition in suite.conditions})
    figure, axes = _figure(len(suite.families), len(levels) + 1)
    for row, family in enumerate(suite.families):
        for number, condition in enumerate(suite.conditions):
            if condition.family != family:
                continue
            case = suite.case(number, scene)
            low, high = float(case.truth.min()), float(case.truth.max())
            margin, col = 0.1 * (high - low), levels.index(condition.severity)
            if col == 0:
                _show(axes[row, 0], case.truth, low - margin, high + margin)
                axes[row, 0].set_title(f"{family}: truth", fontsize=7, loc="left")
            _show(axes[row, col + 1], case.image, low - margin, high + margin)
            error = float(np.mean(np.square(case.image.astype(np.float64) - case.truth)))
            quality = f"{10 * np.log10(case.data_range**2 / error):.1f} dB" if error > 0 else "identical"
            axes[row, col + 1].set_title(f"{condition.severity}: {quality}", fontsize=7, loc="left")
    return figure


def scenes(suite: Suite, columns: int = 5) -> Figure:
    """The truth of every scene, with its columns and its probes."""
    rows = -(-len(suite.scenes) // columns)
    figure, axes = _figure(rows, columns)
    colours = {"shift": "tab:orange", "dopant": "tab:red", "vacancy": "tab:cyan"}
    for axis, scene in zip(axes.flat, suite.scenes, strict=False):
        _show(axis, scene.truth, float(scene.truth.min()), float(scene.truth.max()))
        if len(scene.columns):
            axis.plot(scene.columns[:, 1], scene.columns[:, 0], ",", color="tab:green")
        for probe in scene.probes:
            row, col = scene.columns[probe.column]
            axis.plot(col, row, "o", markersize=5, markerfacecolor="none", markeredgewidth=0.6,
                      color=colours[probe.kind])
        axis.set_title(f"{scene.name}\n{scene.sampling:g} Å/px", fontsize=6, loc="left")
    return figure


def _save(figure: Figure, path: Path, mode: str) -> None:
    """Write a figure, in greys (L) or 256 colours (P): a quarter of the bytes."""
    import io

    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert(mode).save(path, optimize=True)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description="Draw a suite's scenes, and its families by severities.")
    asked.add_argument("suite")
    asked.add_argument("--scene", type=int, default=0)
    asked.add_argument("--out", type=Path, default=Path())
    given = asked.parse_args()
    found = load(given.suite)
    _save(severities(found, given.scene), given.out / f"{found.name}_severities.png", "L")
    _save(scenes(found), given.out / f"{found.name}_scenes.png", "P")
