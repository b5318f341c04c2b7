"""A picture of a restoration: before, restored, and what was taken away, as a whole and in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.imagery import replacing
from emsynth.restoration.micrograph import PixelSize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ZOOM = 128  # px of the middle that is shown large
_WIDE = 4.2  # inches of one panel
_CLIPPED = 0.2  # percent of the restored pixels beyond each end of the grey scale
_BEYOND = 0.15  # of that range, added at both ends: noise reaches further
_STRIP = 4.0  # sides of a view, at most
_BAR = 0.25  # of a panel's width, at most
_SPOTS = 200  # frequencies of a lattice, at most
_SLOWEST = 2.0  # periods across the image: what is slower is no lattice
_GROUP = 128  # frequencies of like length that tell what noise there is
_CHANCE = 0.01  # that one frequency of an image of noise passes for a lattice


@dataclass(frozen=True)
class Residual:
    """What a restorer took away, in figures.

    Attributes
    ----------
    mean, deviation : float
        Of before less restored, in the image's unit.
    likeness : float
        Correlation of the residual with the restored image; far from 0, a part of the specimen was taken away, or
        contrast was added. Counting noise alone, whose variance follows the intensity, gives none. Near 0 is no
        proof: a part taken away and a part added cancel.
    share : float
        Variance of the residual, as a share of that of the image: near 1 where nearly all was taken away.
    lattice : float or None
        Mean power of the residual at the frequencies of the image's lattice, in units of the power that the image's
        noise has there: 1 where the noise was taken away and nothing else, less where some of it was left; far above 1
        a part of the lattice was taken away, added or moved. Of a stack, the largest of its frames. None where the
        image has no lattice, or nothing was taken away.

    Notes
    -----
    The lattice is those frequencies, the 200 strongest at most, whose power in the spectrum of the image (Hann window)
    noise would have once in 100 images, and which have two periods or more across it. The image's noise at a frequency
    is its median power at 128 of about its length, over ln 2, so that the colour of the noise does not matter.
    """

    mean: float
    deviation: float
    likeness: float
    share: float = 0.0
    lattice: float | None = None

    @classmethod
    def of(cls, before: NDArray[Any], restored: NDArray[Any]) -> Residual:
        """Of an image or a stack, both of one shape."""
        kept = restored.astype(np.float64)
        taken = before - kept
        mean, deviation, spread = float(taken.mean()), float(taken.std()), float(kept.std())
        kept -= kept.mean()
        covariance, variance = float(np.mean((taken - mean) * kept)), float(before.var(dtype=np.float64))
        frames = zip(before.reshape(-1, *before.shape[-2:]), taken.reshape(-1, *taken.shape[-2:]), strict=True)
        lattices = [found for image, residual in frames if (found := _at_lattice(image, residual)) is not None]
        return cls(mean, deviation, covariance / (deviation * spread) if deviation * spread else 0.0,
                   deviation**2 / variance if variance else 0.0, max(lattices, default=None))

    @property
    def shown_mean(self) -> float:
        """The mean, or 0 where it is nothing but rounding."""
        return self.mean if abs(self.mean) > 1e-5 * self.deviation else 0.0

    @property
    def shown_lattice(self) -> str:
        """``lattice 1.0 (1 is noise)``."""
        return "no lattice in the image" if self.lattice is None else f"lattice {self.lattice:.2g} (1 is noise)"

    def __str__(self) -> str:
        return (f"mean {self.shown_mean:.3g}, deviation {self.deviation:.3g} ({_percent(self.share)} of the image's "
                f"variance), correlation with the restored {self.likeness:+.2f}, {self.shown_lattice}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _at_lattice(image: NDArray[Any], residual: NDArray[Any]) -> float | None:
    """Power of a residual at the frequencies of the image's lattice, in units of its noise."""
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in image.shape))
    down, along = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])
    length = np.hypot(down, along)
    chosen = ((along > 0.0) | (down > 0.0)) & (length >= _SLOWEST / min(image.shape))
    order = np.argsort(length[chosen], kind="stable")
    if len(order) < _GROUP:
        return None
    powers = []
    for shown in (image, residual):
        level = np.average(shown, weights=window)
        powers.append((np.abs(np.fft.rfft2(window * (shown - level))) ** 2)[chosen][order])
    seen, taken = powers
    if not taken.any():
        return None
    noise = _noise(seen)
    standing = np.where(seen > math.log(len(seen) / _CHANCE) * noise, seen, 0.0)
    spots = np.argsort(standing, kind="stable")[-_SPOTS:]
    spots = spots[standing[spots] > 0.0]
    return float((taken / noise)[spots].mean()) if spots.size else None


def _noise(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """The noise at each of the frequencies, which are in the order of their length."""
    whole = len(power) // _GROUP * _GROUP
    noise = np.repeat(np.median(power[:whole].reshape(-1, _GROUP), axis=1) / math.log(2.0), _GROUP)
    # An image without any noise has that of its rounding.
    return np.asarray(np.maximum(np.pad(noise, (0, len(power) - whole), "edge"), 1e-30 * power.max()), np.float64)


def draw_restoration(path: Path, before: NDArray[Any], restored: NDArray[Any], pixel_size: PixelSize | None = None,
                     title: str = "") -> Path:
    """Draw before, restored and residual, whole above and the middle 128 px below.

    Parameters
    ----------
    path : Path
        Of the PNG file, which is replaced.
    before, restored : ndarray (H, W)
        Both are shown on one grey scale, that of the restored; the residual, before less restored, on one of its own
        that is symmetric about 0, up to three deviations.
    pixel_size : PixelSize, optional
        For a scale bar; px where it is not known.
    title : str
        Of the picture.

    Returns
    -------
    Path
    """
    from matplotlib.figure import Figure

    seen, kept = before.astype(np.float64), restored.astype(np.float64)
    found, taken = Residual.of(seen, kept), seen - kept
    middle = tuple(slice(max(0, (side - ZOOM) // 2), max(0, (side - ZOOM) // 2) + ZOOM) for side in seen.shape)
    views = [seen.shape] if max(seen.shape) <= ZOOM else [seen.shape, seen[middle].shape]
    aspect, heights = _proportions(views, pixel_size)
    figure = Figure(figsize=(3 * _WIDE, sum(heights) + 0.7 + 0.4 * len(views)), layout="constrained")
    axes = figure.subplots(len(views), 3, height_ratios=heights, squeeze=False)
    low, high = _greys(kept)
    reach = abs(found.mean) + 3 * found.deviation or 1.0
    panels = (("before", seen, low, high), ("restored", kept, low, high),
              (f"before less restored: {_percent(found.share)} of the variance,\n"
               f"mean {found.shown_mean:.3g}, deviation {found.deviation:.3g},\n"
               f"correlation with the restored {found.likeness:+.2f}, {found.shown_lattice}", taken, -reach, reach))
    for column, (name, image, dark, bright) in enumerate(panels):
        axes[0, column].set_title(name, fontsize=10)
        for row, shape in enumerate(views):
            shown = image if row == 0 else image[middle]
            axes[row, column].imshow(shown, cmap="gray", vmin=dark, vmax=bright, aspect=aspect,
                                     interpolation="antialiased" if row == 0 else "nearest")
            axes[row, column].set_axis_off()
            _scale_bar(axes[row, column], shape, pixel_size)
        if len(views) > 1:
            axes[1, column].set_title(f"the middle {views[1][0]} × {views[1][1]} px", fontsize=9)
    figure.suptitle(title, fontsize=10)
    with replacing(path) as file:
        figure.savefig(file, format="png")
    return path


def _proportions(views: list[tuple[int, ...]], pixel_size: PixelSize | None) -> tuple[float, list[float]]:
    """Height of a pixel in its widths, and of each view in inches; where that would be a strip, square pixels."""
    aspect = 1.0 if pixel_size is None else pixel_size.row / pixel_size.col
    if not 1 / _STRIP <= aspect * views[0][0] / views[0][1] <= _STRIP:
        aspect = 1.0
    return aspect, [_WIDE * min(max(aspect * rows / cols, 1 / _STRIP), _STRIP) for rows, cols in views]


def _greys(image: NDArray[np.float64]) -> tuple[float, float]:
    low, high = (float(end) for end in np.percentile(image, (_CLIPPED, 100 - _CLIPPED)))
    more = _BEYOND * (high - low) or 0.5
    return low - more, high + more


def bar_length(width: float) -> float:
    """The longest of 1, 2 or 5 times a power of ten that is at most a quarter of a width."""
    power = 10.0 ** math.floor(math.log10(width * _BAR))
    return max(step * power for step in (1, 2, 5) if step * power <= width * _BAR)


def _scale_bar(axes: Axes, shape: tuple[int, ...], pixel_size: PixelSize | None) -> None:
    from matplotlib.patheffects import withStroke

    step, unit = (1.0, "px") if pixel_size is None else (pixel_size.col, pixel_size.unit)
    length = bar_length(shape[1] * step)
    left, line = 0.04, 0.05
    share = length / (shape[1] * step)
    dark = [withStroke(linewidth=3, foreground="black")]
    bar = axes.plot([left, left + share], [line, line], transform=axes.transAxes, color="white", linewidth=3)[0]
    bar.set_path_effects([withStroke(linewidth=5, foreground="black")])
    axes.text(left, line + 0.025, f"{length:g} {unit}", transform=axes.transAxes, color="white", fontsize=9,
              va="bottom", path_effects=dark)
