"""The contact sheet: truth, distorted image and probe displacement of a few samples, as one figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.preview.caption import caption, heading
from emsynth.sample import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# All lengths of the page in inches; a panel has a whole number of dots per pixel wherever that is possible.
_DOTS = 200
_PANEL = 2.56
_GAP = 0.10
_LEFT, _RIGHT, _TOP, _TOP_BARE, _BOTTOM = 0.15, 0.10, 0.80, 0.28, 0.62
_TEXT = 3.35
_COLUMNS = ("Truth", "Distorted", "Displacement, fast axis", "Displacement, slow axis")
_INK, _SOFT, _MARK = "#1a1a1a", "#6b6b6b", "#ff9d2e"
_BAR_LENGTHS = tuple(step * 10.0**power for power in range(-1, 7) for step in (1, 2, 5))


@dataclass(frozen=True)
class _Page:
    """Places on the page, in inches from its top left corner, for matplotlib's fractions from the bottom left."""

    width: float
    height: float

    def box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        return (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)


def draw_sheet(samples: Sequence[Sample], title: str, about: str) -> bytes:
    """Contact sheet of some samples.

    Parameters
    ----------
    samples : sequence of Sample
        One row of the sheet each.
    title, about : str
        What stands above them; no title where the page around the figure has one.

    Returns
    -------
    bytes
        PNG, 200 dots per inch.
    """
    # Matplotlib takes a second to import; no pyplot, which would keep figures in a global state.
    from matplotlib.figure import Figure

    rows, start = len(samples), _TOP if title else _TOP_BARE
    page = _Page(_LEFT + 4 * _PANEL + 4 * _GAP + _TEXT + _RIGHT, start + rows * _PANEL + (rows - 1) * _GAP + _BOTTOM)
    figure = Figure(figsize=(page.width, page.height), dpi=_DOTS, facecolor="white")
    _write_title(figure, page, start, title, about)
    scale = _displacement_scale(samples)
    for row, sample in enumerate(samples):
        top = start + row * (_PANEL + _GAP)
        panels = [figure.add_axes(page.box(_LEFT + n * (_PANEL + _GAP), top, _PANEL, _PANEL)) for n in range(4)]
        _show_pair(panels[0], panels[1], sample)
        _show_displacement(panels[2], panels[3], sample, scale)
        _write_caption(figure, page, _LEFT + 4 * (_PANEL + _GAP) + 0.08, top, sample)
    _draw_colour_bar(figure, page, scale)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=_DOTS, metadata={"Software": "emsynth", "Title": title})
    return held.getvalue()


def _write_title(figure: Figure, page: _Page, start: float, title: str, about: str) -> None:
    if title:
        at = page.box(_LEFT, 0, 0, 0)[0]
        figure.text(at, 1 - 0.10 / page.height, title, size=13, weight="bold", color=_INK, va="top")
        figure.text(at, 1 - 0.345 / page.height, about, size=8.5, color=_SOFT, va="top")
    for n, name in enumerate(_COLUMNS):
        middle = (_LEFT + n * (_PANEL + _GAP) + _PANEL / 2) / page.width
        figure.text(middle, 1 - (start - 0.06) / page.height, name, size=9, color=_INK, ha="center", va="bottom")


def _show_pair(left: Axes, right: Axes, sample: Sample) -> None:
    low, high = grey_range(sample.truth, sample.distorted)
    for axes, image in ((left, sample.truth), (right, sample.distorted)):
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation=_interpolation(image.shape))
        _bare(axes)
    _draw_scale_bar(left, sample)
    _draw_inset(left, sample, (low, high))


def grey_range(truth: NDArray[np.float32], distorted: NDArray[np.float32]) -> tuple[float, float]:
    """Black and white of a pair: the truth's range, widened by the noise until the truth has half of the greys.

    Parameters
    ----------
    truth, distorted : (R, C)
        In the same unit.
    """
    low, high = (float(v) for v in np.percentile(truth, (0.2, 99.8)))
    span = high - low or max(abs(high), 1.0)
    noise = float(np.subtract(*np.percentile(distorted - truth, (84, 16)))) / 2
    margin = min(max(noise, 0.05 * span), 0.5 * span)
    return low - margin, high + margin


def _interpolation(shape: tuple[int, ...]) -> str:
    # Pixels stay pixels where each gets a whole number of dots; smoothing would hide the noise.
    return "nearest" if (_PANEL * _DOTS) % shape[1] < 0.5 else "auto"


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def bar_length(width: float) -> float:
    """Round length in Å for the scale bar of an image `width` Å wide: about a quarter of it."""
    return min(_BAR_LENGTHS, key=lambda length: abs(math.log(length / (0.24 * width))))


def length_text(length: float) -> str:
    """A length in Å as people write it: ``5 Å``, ``2 nm``, ``1 µm``."""
    if length >= 1e4:
        return f"{length / 1e4:g} µm"
    return f"{length / 10:g} nm" if length >= 10 else f"{length:g} Å"


def _draw_scale_bar(axes: Axes, sample: Sample) -> None:
    from matplotlib.patches import Rectangle

    size = sample.truth.shape[1]
    length = bar_length(size * sample.sampling)
    wide, tall, edge = length / sample.sampling, size * 0.016, size * 0.035
    top = sample.truth.shape[0] - edge - tall
    # On a dark plate, so that it reads on bright lattices as well as in vacuum.
    axes.add_patch(Rectangle((edge / 2, top - size * 0.085), wide + edge, size * 0.085 + tall + edge / 2,
                             facecolor="black", alpha=0.62, linewidth=0))
    axes.add_patch(Rectangle((edge, top), wide, tall, facecolor="white", linewidth=0))
    axes.text(edge + wide / 2, top - size * 0.012, length_text(length), color="white", size=7.5, ha="center",
              va="bottom")


def _draw_inset(axes: Axes, sample: Sample, grey: tuple[float, float]) -> None:
    """Enlarged middle of the truth with its columns, in the top right corner."""
    position = sample.columns.position
    side = _inset_side(sample)
    if side is None:
        return
    rows, cols = sample.truth.shape
    first_row, first_col = (rows - side) // 2, (cols - side) // 2
    inset = axes.inset_axes((0.60, 0.60, 0.40, 0.40))
    inset.imshow(sample.truth, cmap="gray", vmin=grey[0], vmax=grey[1], interpolation="nearest")
    seen = sample.columns.resolved
    inset.plot(position[seen, 1], position[seen, 0], linestyle="", marker="o", markersize=2.6,
               markerfacecolor=_MARK, markeredgecolor="black", markeredgewidth=0.35)
    inset.plot(position[~seen, 1], position[~seen, 0], linestyle="", marker="o", markersize=2.6,
               markerfacecolor="none", markeredgecolor=_MARK, markeredgewidth=0.5)
    inset.set_xlim(first_col - 0.5, first_col + side - 0.5)
    inset.set_ylim(first_row + side - 0.5, first_row - 0.5)
    _bare(inset)
    for spine in inset.spines.values():
        spine.set(visible=True, color=_MARK, linewidth=0.9)


def _inset_side(sample: Sample) -> int | None:
    """Side in px of the part that the inset shows, some five columns wide; None where it has nothing to show."""
    count, shortest = len(sample.columns.number), min(sample.truth.shape)
    if count < 3:
        return None
    spacing = math.sqrt(sample.truth.size / count)
    side = round(5 * spacing)
    return max(side, 12) if side <= 0.7 * shortest else None


def _displacement_scale(samples: Sequence[Sample]) -> float:
    """Displacement in px at the ends of the colour bar, the same in all rows."""
    largest = [float(np.percentile(np.abs(_without_mean(part)[0]), 99.5)) for s in samples for part in s.displacement]
    steps = (0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0)
    # Of the middle one: a single sample that settles over 20 px would wash out all the others.
    wanted = float(np.quantile([v for v in largest if v > 0] or [0.2], 0.75))
    return min((s for s in steps if s >= wanted), default=steps[-1])


def _without_mean(part: NDArray[np.float16]) -> tuple[NDArray[np.float64], float]:
    # A streak moves the truth along by a constant, which would hide the rest.
    plain = part.astype(np.float64)
    mean = float(plain.mean())
    return plain - mean, mean


def _show_displacement(fast: Axes, slow: Axes, sample: Sample, scale: float) -> None:
    for axes, part in ((fast, sample.displacement[1]), (slow, sample.displacement[0])):
        rest, mean = _without_mean(part)
        axes.imshow(rest, cmap="RdBu_r", vmin=-scale, vmax=scale, interpolation=_interpolation(part.shape))
        _bare(axes)
        said = f"rms {np.sqrt(np.mean(rest**2)):.2g} px" if np.any(rest) else "none"
        if abs(mean) >= 0.05:
            said += f", mean {mean:+.2g} px"
        axes.text(0.035, 0.035, said, transform=axes.transAxes, size=7.5, color=_INK,
                  bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.8})


def _draw_colour_bar(figure: Figure, page: _Page, scale: float) -> None:
    left, width = _LEFT + 2 * (_PANEL + _GAP), 2 * _PANEL + _GAP
    axes = figure.add_axes(page.box(left + width / 4, page.height - _BOTTOM + 0.10, width / 2, 0.10))
    axes.imshow(np.linspace(-scale, scale, 256)[None], cmap="RdBu_r", aspect="auto", extent=(-scale, scale, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([-scale, -scale / 2, 0, scale / 2, scale])
    axes.tick_params(labelsize=7.5, length=2.5, width=0.6, colors=_INK, pad=1.5)
    axes.set_xlabel("probe minus truth position, less its mean / px", size=8, color=_INK, labelpad=1.5)
    for side in axes.spines.values():
        side.set(linewidth=0.6, color=_SOFT)


def _write_caption(figure: Figure, page: _Page, left: float, top: float, sample: Sample) -> None:
    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / page.width, 1 - y / page.height, text, va="baseline", **style)

    write(left, top + 0.12, heading(sample), size=10, weight="bold", color=_INK)
    for n, (name, value) in enumerate(caption(sample)):
        line = top + 0.36 + n * 0.172
        write(left, line, name, size=8, color=_SOFT)
        write(left + 0.72, line, value, size=8, color=_INK)
