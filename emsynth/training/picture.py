"""The picture of a validation: rows of distorted, restored, truth and residual."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float32]

# Lengths in inches; a panel has a whole number of dots per pixel of an image of 128 or 256 px.
_DOTS, _PANEL, _GAP, _EDGE, _TOP, _TEXT, _BOTTOM = 200, 2.56, 0.10, 0.12, 0.62, 0.50, 0.30
_INK, _SOFT = "#1a1a1a", "#6b6b6b"
_COLUMNS = ("Distorted", "Restored", "Truth", "Restored less truth")
_ENLARGED = 4  # times: the residual's colours end at so small a part of the truth's range


class Shown(Protocol):
    """A pair with the figures of its distorted image, and those of any restored one."""

    @property
    def truth(self) -> Floats: ...
    @property
    def distorted(self) -> Floats: ...
    @property
    def name(self) -> str: ...
    @property
    def before(self) -> dict[str, float]: ...
    def figures(self, image: Floats) -> dict[str, float]: ...


def draw(pairs: Sequence[Shown], restored: Sequence[Floats], title: str) -> bytes:
    """Draw some pairs.

    Parameters
    ----------
    pairs : sequence of Pair
        One row each.
    restored : sequence of ndarray (H, W)
        What a network made of each.
    title : str
        What stands above them.

    Returns
    -------
    bytes
        PNG, 200 dots per inch.
    """
    from matplotlib.figure import Figure  # no pyplot, which would keep figures in a global state

    pitch = _PANEL + _TEXT
    width, height = 2 * _EDGE + 4 * _PANEL + 3 * _GAP, _TOP + len(pairs) * pitch + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DOTS, facecolor="white")
    figure.text(_EDGE / width, 1 - 0.10 / height, title, size=12, weight="bold", color=_INK, va="top")
    about = ("Greys: the truth's range, the same in a row. Colours: red is too bright, blue too dark, full at "
             f"1/{_ENLARGED} of that range.")
    figure.text(_EDGE / width, 0.10 / height, about, size=7.5, color=_SOFT, va="bottom")
    for col, name in enumerate(_COLUMNS):
        figure.text((_EDGE + col * (_PANEL + _GAP) + _PANEL / 2) / width, 1 - (_TOP - 0.05) / height, name, size=9,
                    color=_INK, ha="center", va="bottom")
    for row, (pair, image) in enumerate(zip(pairs, restored, strict=True)):
        bottom = height - _TOP - row * pitch - _PANEL
        axes = [figure.add_axes(((_EDGE + col * (_PANEL + _GAP)) / width, bottom / height, _PANEL / width,
                                 _PANEL / height)) for col in range(4)]
        _row(axes, pair, image)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=_DOTS, metadata={"Software": "emsynth", "Title": title})
    return held.getvalue()


def _row(axes: Sequence[Axes], pair: Shown, restored: Floats) -> None:
    low, high = float(pair.truth.min()), float(pair.truth.max())
    span = high - low or max(abs(high), 1.0)
    for at, image in zip(axes, (pair.distorted, restored, pair.truth), strict=False):
        at.imshow(image, cmap="gray", vmin=low, vmax=low + span, interpolation="nearest")
    axes[3].imshow(restored - pair.truth, cmap="RdBu_r", vmin=-span / _ENLARGED, vmax=span / _ENLARGED,
                   interpolation="nearest")
    for at in axes:
        at.set(xticks=[], yticks=[])
        for side in at.spines.values():
            side.set_visible(False)
    said = (f"{pair.name}\n{_figures(pair.before)}", _figures(pair.figures(restored)), "", "")
    for at, text in zip(axes, said, strict=True):
        at.text(0, -0.015, text, transform=at.transAxes, size=7.5, color=_SOFT, va="top", ha="left", linespacing=1.25)


def _figures(found: dict[str, float]) -> str:
    """``28.1 dB, SSIM 0.93, columns off by 7 pm``."""
    said = [f"{found['psnr']:.1f} dB", f"SSIM {found['ssim']:.3f}"] if np.isfinite(found["psnr"]) else ["not a number"]
    if np.isfinite(found["column_error"]):
        said.append(f"columns off by {found['column_error']:.1f} pm")
    return ", ".join(said)
