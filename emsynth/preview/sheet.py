"""The contact sheet: truth, distorted image and probe displacement of a few samples, as one figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import MaskBit
from emsynth.preview.caption import caption, heading
from emsynth.sample import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# All lengths of the page in inches; a panel has a whole number of dots per pixel wherever that is possible.
_DOTS = 200
_PANEL = 2.56
_GAP = 0.10
_LEFT, _RIGHT, _TOP, _TOP_BARE, _BOTTOM, _BOTTOM_BARE = 0.15, 0.10, 0.80, 0.28, 0.62, 0.15
_TEXT, _LINE = 3.35, 0.172
_COLUMNS = ("Truth", "Distorted", "Displacement, fast axis", "Displacement, slow axis")
_INK, _SOFT, _MARK = "#1a1a1a", "#6b6b6b", "#ff9d2e"
_LEAST_LIMIT = 0.5  # px at the ends of the colours, so that hardly any displacement looks like hardly any
# Corners as (lower, right), in the order of preference.
_BAR_CORNERS = ((True, False), (True, True), (False, False), (False, True))
_INSET_CORNERS = ((False, True), (False, False), (True, True), (True, False))
_INSET = 0.40  # of the panel's side
_BAR_LENGTHS = tuple(step * 10.0**power for power in range(-1, 7) for step in (1, 2, 5))


Corner = tuple[bool, bool]


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

    rows, start, shown = len(samples), _TOP if title else _TOP_BARE, _COLUMNS[:columns_shown(samples)]
    moved, beside = len(shown) > 2, len(shown) * (_PANEL + _GAP)
    page = _Page(_LEFT + beside + _TEXT + _RIGHT,
                 start + rows * _PANEL + (rows - 1) * _GAP + (_BOTTOM if moved else _BOTTOM_BARE))
    figure = Figure(figsize=(page.width, page.height), dpi=_DOTS, facecolor="white")
    _write_title(figure, page, start, title, about, shown)
    for row, sample in enumerate(samples):
        top = start + row * (_PANEL + _GAP)
        panels = [figure.add_axes(page.box(_LEFT + n * (_PANEL + _GAP), top, _PANEL, _PANEL))
                  for n in range(len(shown))]
        _show_pair(panels[0], panels[1], sample)
        if moved:
            _show_displacement(panels[2], panels[3], sample)
        _write_caption(figure, page, _LEFT + beside + 0.08, top, sample)
    if moved:
        _draw_colour_bar(figure, page)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=_DOTS, metadata={"Software": "emsynth", "Title": title})
    return held.getvalue()


def columns_shown(samples: Sequence[Sample]) -> int:
    """How many pictures each row has: the displacement only where the probe of one of the samples strayed."""
    return 4 if any(np.any(sample.displacement) for sample in samples) else 2


def _write_title(figure: Figure, page: _Page, start: float, title: str, about: str, shown: Sequence[str]) -> None:
    if title:
        at = page.box(_LEFT, 0, 0, 0)[0]
        figure.text(at, 1 - 0.10 / page.height, title, size=13, weight="bold", color=_INK, va="top")
        figure.text(at, 1 - 0.345 / page.height, about, size=8.5, color=_SOFT, va="top")
    for n, name in enumerate(shown):
        middle = (_LEFT + n * (_PANEL + _GAP) + _PANEL / 2) / page.width
        figure.text(middle, 1 - (start - 0.06) / page.height, name, size=9, color=_INK, ha="center", va="bottom")


def _show_pair(left: Axes, right: Axes, sample: Sample) -> None:
    low, high = grey_range(sample.truth, sample.distorted)
    for axes, image in ((left, sample.truth), (right, sample.distorted)):
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation=_interpolation(image.shape))
        _bare(axes)
    _draw_inset(left, sample, (low, high), _draw_scale_bar(left, sample))


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


def free_corner(mask: NDArray[np.uint8], box: tuple[float, float], corners: Sequence[Corner]) -> Corner | None:
    """The first corner in which a box covers nothing of the recipe's own overlay; None where each of them does.

    Parameters
    ----------
    mask : (R, C)
        Bits of `MaskBit`.
    box : (float, float)
        Rows and columns of the box, px.
    corners : sequence of (bool, bool)
        Whether lower, and whether right, in the order of preference.
    """
    drawn = (mask & np.uint8(MaskBit.OVERLAY)) > 0
    tall, wide = (math.ceil(side) for side in box)
    for lower, right in corners:
        if not drawn[slice(-tall, None) if lower else slice(tall), slice(-wide, None) if right else slice(wide)].any():
            return lower, right
    return None


def _draw_scale_bar(axes: Axes, sample: Sample) -> Corner | None:
    """Draw it in a corner that the recipe left free, and say in which."""
    from matplotlib.patches import Rectangle

    rows, size = sample.truth.shape
    length = bar_length(size * sample.sampling)
    wide, tall, edge, text = length / sample.sampling, size * 0.016, size * 0.035, size * 0.085
    corner = free_corner(sample.mask, (text + tall + edge, wide + 1.5 * edge), _BAR_CORNERS)
    if corner is None:
        return None
    lower, right = corner
    top, left = rows - edge - tall if lower else edge / 2 + text, size - edge - wide if right else edge
    # On a dark plate, so that it reads on bright lattices as well as in vacuum.
    axes.add_patch(Rectangle((left - edge / 2, top - text), wide + edge, text + tall + edge / 2,
                             facecolor="black", alpha=0.62, linewidth=0))
    axes.add_patch(Rectangle((left, top), wide, tall, facecolor="white", linewidth=0))
    axes.text(left + wide / 2, top - size * 0.012, length_text(length), color="white", size=7.5, ha="center",
              va="bottom")
    return corner


def _draw_inset(axes: Axes, sample: Sample, grey: tuple[float, float], taken: Corner | None) -> None:
    """Enlarged middle of the truth with its columns, in a corner that neither the recipe nor the scale bar has."""
    position = sample.columns.position
    rows, cols = sample.truth.shape
    side = _inset_side(sample)
    corner = free_corner(sample.mask, (_INSET * rows, _INSET * cols), [c for c in _INSET_CORNERS if c != taken])
    if side is None or corner is None:
        return
    first_row, first_col = (rows - side) // 2, (cols - side) // 2
    lower, right = corner
    inset = axes.inset_axes((1 - _INSET if right else 0.0, 0.0 if lower else 1 - _INSET, _INSET, _INSET))
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


def displacement_limit(sample: Sample) -> float:
    """Displacement in px at the ends of the colours of a row: nothing of that row is beyond."""
    # Of each row by itself: one that settles over 20 px would wash out all the others.
    return max(_LEAST_LIMIT, *(float(np.abs(_without_mean(part)[0]).max()) for part in sample.displacement))


def _without_mean(part: NDArray[np.float16]) -> tuple[NDArray[np.float64], float]:
    # A streak moves the truth along by a constant, which would hide the rest.
    plain = part.astype(np.float64)
    mean = float(plain.mean())
    return plain - mean, mean


def _show_displacement(fast: Axes, slow: Axes, sample: Sample) -> None:
    limit = displacement_limit(sample)
    for axes, part in ((fast, sample.displacement[1]), (slow, sample.displacement[0])):
        rest, mean = _without_mean(part)
        axes.imshow(rest, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation=_interpolation(part.shape))
        _bare(axes)
        said = f"colours ±{limit:.2g} px, rms {np.sqrt(np.mean(rest**2)):.2g} px" if np.any(rest) else "none"
        if abs(mean) >= 0.05:
            said += f", mean {mean:+.2g} px"
        axes.text(0.035, 0.035, said, transform=axes.transAxes, size=7.5, color=_INK,
                  bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.8})


def _draw_colour_bar(figure: Figure, page: _Page) -> None:
    left, width = _LEFT + 2 * (_PANEL + _GAP), 2 * _PANEL + _GAP
    axes = figure.add_axes(page.box(left + width / 4, page.height - _BOTTOM + 0.10, width / 2, 0.10))
    axes.imshow(np.linspace(-1, 1, 256)[None], cmap="RdBu_r", aspect="auto", extent=(-1, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([-1, 0, 1], ["− its limit", "0", "+ its limit"])
    axes.tick_params(labelsize=7.5, length=2.5, width=0.6, colors=_INK, pad=1.5)
    axes.set_xlabel("probe minus truth position, less its mean; each row has its own limit", size=8, color=_INK,
                    labelpad=1.5)
    for side in axes.spines.values():
        side.set(linewidth=0.6, color=_SOFT)


def _write_caption(figure: Figure, page: _Page, left: float, top: float, sample: Sample) -> None:
    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / page.width, 1 - y / page.height, text, va="baseline", **style)

    write(left, top + 0.12, heading(sample), size=10, weight="bold", color=_INK)
    said = caption(sample)
    pitch = min(_LINE, (_PANEL - 0.36) / max(1, len(said) - 1))
    for n, (name, value) in enumerate(said):
        line = top + 0.36 + n * pitch
        write(left, line, name, size=8, color=_SOFT)
        write(left + 0.72, line, value, size=8, color=_INK)
