"""Borders and overlays: what covers the micrograph, bit-identical in truth and distorted image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emsynth.distortion.stage import Artefact, MaskBit, Pair, uniforms
from emsynth.distortion.symmetry import SQUARE, Symmetry
from emsynth.draw import AnyChoice, Choice, Count, Quantity, Uniform, number, quantity

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

SMALLEST_WINDOW = 32  # px along each side; nothing legible fits on less
SMALLEST_FONT = 8  # px
_DARK, _BRIGHT = 1, 2  # codes on the canvas; 0 is where nothing is drawn
# Nearly the darkest and the brightest pixel, %: a few spikes do not set the tone of an overlay.
_TONES = (0.1, 99.9)
_CAPTIONS = (
    "a", "b", "c", "d", "(a)", "(b)", "(c)", "(d)", "a)", "b)", "HAADF", "ABF", "BF", "ADF", "SE", "BSE", "TEM",
    "STEM", "HRTEM", "200 kV", "300 kV", "80 kV", "5.0 kV", "x50,000", "x1.2M", "HV 15.0 kV", "WD 4.1 mm",
    "12:34:56", "Frame 17", "t = 42 s", "300 K", "[100]", "[110]", "[001]", "Au", "SiO2", "#3",
)  # fmt: skip


class Border(Artefact):
    """Constant borders, as the alignment of a series of frames leaves them (ours).

    Everything outside a quadrilateral becomes one constant: each side is inset by a uniform share of `width`, and
    each corner by up to the share `slant` less, independently, so that the sides are slightly slanted. A
    pixel is outside where its centre is.

    Truth and image hold the same values there, flagged BORDER. `black` is the black level, which after a stretched
    contrast may lie below what the image shows, `darkest` the image's smallest value, `mean` the mean of the truth.
    """

    stage: Literal["border"] = "border"
    symmetry: ClassVar[Symmetry] = SQUARE  # four sides alike
    shared: ClassVar[bool] = True
    width: Quantity = quantity(
        Uniform(low=0.01, high=0.2), unit="1", low=0, high=0.4,
        about="Largest inset, as a share of the window's side",
    )
    slant: Quantity = quantity(
        Uniform(low=0, high=0.5), unit="1", low=0, high=0.5, about="How much less a corner may be inset, as a share"
    )
    fill: Annotated[
        Literal["black", "darkest", "mean"] | AnyChoice, Field(description="Constant outside the quadrilateral")
    ] = Choice(values=("black", "darkest", "mean"))

    def levels(self, pair: Pair) -> np.float32:
        """What fills the border."""
        if self.fill == "black":
            return np.float32(pair.black_level)
        return pair.image.min() if self.fill == "darkest" else np.float32(pair.truth.mean(dtype=np.float64))

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Fill the border of both images."""
        outside = ~self._quadrilateral(pair.whole, key)[pair.part]
        fill = self.levels(pair) if levels is None else levels
        pair.truth, pair.image = np.where(outside, fill, pair.truth), np.where(outside, fill, pair.image)
        pair.mask[outside] |= np.uint8(MaskBit.BORDER)

    def _quadrilateral(self, shape: tuple[int, ...], key: int) -> NDArray[np.bool_]:
        # Sides in the order top, bottom, left, right, each with its two ends. Insets of at most 0.4 and slants of at
        # most 0.5 keep the corners convex, so that four half-planes make the quadrilateral.
        (rows, cols), sides, ends = shape, uniforms(key, 0, (4, 1)), uniforms(key, 1, (4, 2))
        inset = number(self.width) * sides * (1 - number(self.slant) * ends)
        top, bottom = inset[0] * rows - 0.5, (1 - inset[1]) * rows - 0.5
        left, right = inset[2] * cols - 0.5, (1 - inset[3]) * cols - 0.5
        r, c = np.arange(rows)[:, None], np.arange(cols)[None, :]
        above = r >= top[0] + (top[1] - top[0]) * (c - left[0]) / (right[0] - left[0])
        below = r <= bottom[0] + (bottom[1] - bottom[0]) * (c - left[1]) / (right[1] - left[1])
        after = c >= left[0] + (left[1] - left[0]) * (r - top[0]) / (bottom[0] - top[0])
        before = c <= right[0] + (right[1] - right[0]) * (r - top[1]) / (bottom[1] - top[1])
        inside: NDArray[np.bool_] = above & below & after & before
        return inside


class Overlay(Artefact):
    """Scale bars with labels, captions, boxes and circles that were drawn into the micrograph (ours).

    Drawn without smooth edges, because blending would mix in content that differs between truth and image. Both
    hold the very same two values, near the image's smallest and largest, where anything is drawn, flagged
    OVERLAY: a restorer must leave overlays alone. Windows of fewer than 32 px along a side get none.
    """

    stage: Literal["overlay"] = "overlay"
    # The truth holds the very same, and turned text is to be left alone as well.
    symmetry: ClassVar[Symmetry] = SQUARE
    shared: ClassVar[bool] = True
    scale_bars: Count = quantity(Choice(values=(0, 1), weights=(0.2, 0.8)), unit="1", low=0, high=1,
                                 about="Number of scale bars")  # fmt: skip
    captions: Count = quantity(Choice(values=(0, 1, 2)), unit="1", low=0, high=10, about="Number of captions")
    boxes: Count = quantity(Choice(values=(0, 1, 2), weights=(0.7, 0.2, 0.1)), unit="1", low=0, high=10,
                            about="Number of boxes")  # fmt: skip
    circles: Count = quantity(Choice(values=(0, 1, 2), weights=(0.7, 0.2, 0.1)), unit="1", low=0, high=10,
                              about="Number of circles")  # fmt: skip
    size: Quantity = quantity(
        Uniform(low=0.03, high=0.09), unit="1", low=0.01, high=0.3,
        about="Height of the font, as a share of the window's shorter side; at least 8 px",
    )
    tone: Annotated[Literal["bright", "dark"] | AnyChoice, Field(description="Tone of what is drawn")] = Choice(
        values=("bright", "dark"), weights=(0.7, 0.3)
    )
    plate: Annotated[
        Literal["none", "opposite"] | AnyChoice, Field(description="What lies behind scale bars and captions")
    ] = Choice(values=("none", "opposite"), weights=(0.7, 0.3))

    def levels(self, pair: Pair) -> list[float]:
        """The dark and the bright tone."""
        return percentiles(pair.image, _TONES)

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Draw over both images."""
        if min(pair.whole) < SMALLEST_WINDOW:
            return
        codes = self._draw(pair.whole, pair.sampling, key)[pair.part]
        tones = np.zeros(3, np.float32)
        tones[[_DARK, _BRIGHT]] = self.levels(pair) if levels is None else levels
        drawn, values = codes > 0, tones[codes]
        pair.truth, pair.image = np.where(drawn, values, pair.truth), np.where(drawn, values, pair.image)
        pair.mask[drawn] |= np.uint8(MaskBit.OVERLAY)

    def _draw(self, shape: tuple[int, ...], sampling: float | None, key: int) -> NDArray[np.uint8]:
        from PIL import Image, ImageDraw

        canvas = Image.new("L", (shape[1], shape[0]))
        pen = Pen(ImageDraw.Draw(canvas), shape, number(self.size), self.tone == "bright", self.plate == "opposite")
        for u in uniforms(key, 0, (int(number(self.boxes)), 5)):
            pen.box(u)
        for u in uniforms(key, 1, (int(number(self.circles)), 4)):
            pen.circle(u)
        for u in uniforms(key, 2, (int(number(self.captions)), 3)):
            pen.caption(u)
        for u in uniforms(key, 3, (int(number(self.scale_bars)), 4)):
            pen.scale_bar(u, sampling)
        return np.asarray(canvas)


class Pen:
    """Draws parts of an overlay on a canvas, from uniforms `u (n,)` each.

    Parameters
    ----------
    draw : ImageDraw
        Of a canvas that is 0 where nothing is drawn.
    shape : (int, int)
        Rows and columns of the window.
    size : float
        Height of the font, as a share of the shorter side.
    bright : bool
        Draw in the bright tone, not in the dark one.
    plate : bool
        Lay a plate of the other tone behind scale bars and captions.
    """

    def __init__(self, draw: ImageDraw, shape: tuple[int, ...], size: float, bright: bool, plate: bool) -> None:
        self.draw, (self.rows, self.cols) = draw, shape
        self.draw.fontmode = "1"  # no smooth edges
        self.height = max(SMALLEST_FONT, round(size * min(shape)))
        self.font = _font(self.height)
        self.line, self.margin = max(1, round(self.height / 10)), max(2, self.height // 3)
        self.ink, other = (_BRIGHT, _DARK) if bright else (_DARK, _BRIGHT)
        self.back = other if plate else None

    def box(self, u: NDArray[np.float64]) -> None:
        """The outline of a rectangle whose sides are 0.1 to 0.5 of the window's, wholly inside."""
        width, height = round((0.1 + 0.4 * u[0]) * self.cols), round((0.1 + 0.4 * u[1]) * self.rows)
        x, y = int(u[2] * (self.cols - width + 1)), int(u[3] * (self.rows - height + 1))
        self.draw.rectangle(_corners(x, y, width, height), outline=self.ink, width=self._width(u[4]))

    def circle(self, u: NDArray[np.float64]) -> None:
        """An outlined circle of a diameter of 0.05 to 0.4 of the shorter side, its centre anywhere."""
        side = max(3, round((0.05 + 0.35 * u[0]) * min(self.rows, self.cols)))
        x, y = round(u[1] * self.cols - side / 2), round(u[2] * self.rows - side / 2)
        self.draw.ellipse(_corners(x, y, side, side), outline=self.ink, width=self._width(u[3]))

    def caption(self, u: NDArray[np.float64]) -> None:
        """One of the usual captions, often along an edge, above the strip of the scale bar."""
        text = _CAPTIONS[int(u[0] * len(_CAPTIONS))]
        width, height = self._extent(text)
        x = self.margin + round(_to_edges(u[1]) * (self.cols - width - 2 * self.margin))
        y = self.margin + round(_to_edges(u[2]) * max(0, self.rows - height - self.margin - 3 * self.height))
        self._lay_plate(x, y, width, height)
        self.draw.text((x, y), text, fill=self.ink, font=self.font, anchor="lt")

    def scale_bar(self, u: NDArray[np.float64], sampling: float | None) -> None:
        """A bar of a round length in one of the lower corners, its label centred above or below."""
        length, label = round_length(self.cols, sampling, u[0])
        bar, thickness = max(1, round(length)), max(1, round((0.1 + 0.4 * u[1]) * self.height))
        width, height = self._extent(label)
        gap = max(1, self.height // 4)
        block, tall = max(bar, width), thickness + gap + height
        x = self.margin if u[2] < 0.5 else self.cols - self.margin - block
        y = self.rows - self.margin - tall
        self._lay_plate(x, y, block, tall)
        above, below = (y, y + height + gap) if u[3] < 0.5 else (y + thickness + gap, y)
        self.draw.rectangle(_corners(x + (block - bar) // 2, below, bar, thickness), fill=self.ink)
        self.draw.text((x + (block - width) // 2, above), label, fill=self.ink, font=self.font, anchor="lt")

    def _width(self, u: float) -> int:
        return max(1, round((0.5 + u) * self.line))

    def _extent(self, text: str) -> tuple[int, int]:
        left, top, right, bottom = self.draw.textbbox((0, 0), text, font=self.font, anchor="lt")
        return math.ceil(right - left), math.ceil(bottom - top)

    def _lay_plate(self, x: int, y: int, width: int, height: int) -> None:
        if self.back is not None:
            out = self.margin
            self.draw.rectangle(_corners(x - out, y - out, width + 2 * out, height + 2 * out), fill=self.back)


def percentiles(image: NDArray[np.float32], percents: Sequence[float]) -> list[float]:
    """Values of the pixels of `image (R, C)` at percentiles, not interpolated, so that an 8-bit value is one."""
    places = [round(percent / 100 * (image.size - 1)) for percent in percents]
    # Of these places at once: faster than NumPy's percentile by a factor of six.
    sorted_there = np.partition(image, places, axis=None)
    return [float(sorted_there[place]) for place in places]


def round_length(cols: int, sampling: float | None, u: float) -> tuple[float, str]:
    """Length, px, and label of a scale bar: 1, 2 or 5·10ⁿ nm, and 0.1 to 0.3 of the width.

    Parameters
    ----------
    cols : int
        Width of the window, px.
    sampling : float or None
        Size of a pixel, Å; the bar counts px where it is not known.
    u : float
        Uniform that chooses where two lengths fit.

    Returns
    -------
    (float, str)
        The font has neither Å nor µ, so that these are written as nm and um.
    """
    pixel = 1.0 if sampling is None else sampling / 10  # px or nm
    low, high = 0.1 * cols * pixel, 0.3 * cols * pixel
    decade = math.floor(math.log10(low))
    fitting = [n * 10.0**power for power in (decade, decade + 1) for n in (1, 2, 5) if low <= n * 10.0**power <= high]
    length = fitting[int(u * len(fitting))]
    if sampling is None:
        return length, f"{length:g} px"
    return length / pixel, f"{length:g} nm" if length < 1000 else f"{length / 1000:g} um"


def _to_edges(u: float) -> float:
    """A quarter of the uniforms to 0, a quarter to 1, the others in between."""
    return min(max(2 * u - 0.5, 0.0), 1.0)


def _corners(x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    # Pillow's corners belong to what is drawn.
    return x, y, x + width - 1, y + height - 1


def _font(height: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(height)
