"""What users and programs do to a micrograph after the detector, in the order in which they do it."""

from __future__ import annotations

import io
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter

from emsynth.distortion._kernels import noise
from emsynth.distortion.overlay import Border, Overlay, percentiles
from emsynth.distortion.resample import Resample
from emsynth.distortion.stage import Artefact, MaskBit, Pair
from emsynth.distortion.symmetry import IDENTITY, SQUARE, Symmetry
from emsynth.draw import AnyChoice, Choice, Quantity, Uniform, number, quantity

_WHITE = 255.0  # of 8 bit
# An image whose values span less than this share of the largest, or less than this, is constant but for rounding.
_FLAT = 1e-6
_SMALLEST_SPAN = 1e-30


class Smooth(Artefact):
    """The user smooths the image: Gaussian of deviation σ, or median of 3 x 3 px (ranges ours).

    Edges are mirrored. Not in the truth, which stays sharp. The mask stays too: a masked pixel's value leaks into its
    neighbours. So does the step: it tells how coarsely the image was rounded before.
    """

    stage: Literal["smooth"] = "smooth"
    symmetry: ClassVar[Symmetry] = SQUARE  # alike along both axes
    filter: Annotated[Literal["gaussian", "median"] | AnyChoice, Field(description="Kind of smoothing")] = Choice(
        values=("gaussian", "median")
    )
    sigma: Quantity = quantity(
        Uniform(low=0.3, high=2), unit="px", low=0, high=20, about="Deviation σ of the Gaussian; the median has none"
    )

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Smooth the image."""
        if self.filter == "median":
            pair.image = _median(pair.image)
        else:
            pair.image = gaussian_filter(pair.image, number(self.sigma), mode="reflect")


class Contrast(Artefact):
    """Contrast stretched between two percentiles of the image, which become 0 and 1 (ranges ours).

    The truth gets the same linear map, but is not clipped: it may go below 0 and above 1. Pixels of the image beyond
    the percentiles are clipped and flagged CLIPPED. Where the percentiles coincide, as in an image of few counts,
    the whole range is taken; a constant image stays as it is.
    """

    stage: Literal["contrast"] = "contrast"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel alike
    low: Quantity = quantity(Uniform(low=0, high=2), unit="%", low=0, high=49, about="Percentile that becomes 0")
    high: Quantity = quantity(Uniform(low=98, high=100), unit="%", low=51, high=100, about="Percentile that becomes 1")

    def levels(self, pair: Pair) -> tuple[float, float]:
        """What becomes 0, and the span from there to what becomes 1."""
        low, high = percentiles(pair.image, (number(self.low), number(self.high)))
        span = _visible(low, high)
        return (low, span) if span else _range(pair.image)

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Rescale both images and clip the distorted one."""
        low, span = levels or self.levels(pair)
        if span == 0:
            return
        # Compared before rescaling, whose rounding could push the percentiles themselves beyond 0 and 1.
        pair.mask[(pair.image < low) | (pair.image > low + span)] |= np.uint8(MaskBit.CLIPPED)
        pair.rescale(1 / span, -low / span)
        pair.image = np.clip(pair.image, np.float32(0), np.float32(1))


class Gamma(Artefact):
    """Gamma correction y = sign(x)·|x|^γ, where x runs from 0 at the image's darkest value to 1 at its brightest.

    Both of these stay where they are: after `contrast` the values remain within 0 to 1, without it they keep the
    detector's range (range of γ ours). The truth gets the same map, continued beyond both ends; so it is no longer
    the expected value of the image, but what the restored image should show. The intensity is no longer linear in
    electrons: the gain becomes NaN, and so does a quantisation step. A constant image stays as it is.
    """

    stage: Literal["gamma"] = "gamma"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel alike
    gamma: Quantity = quantity(Uniform(low=0.4, high=2.5), unit="1", low=0.1, high=10, about="Exponent γ")

    def levels(self, pair: Pair) -> tuple[float, float]:
        """Darkest value of the image and the span to its brightest."""
        return _range(pair.image)

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Map both images and the black level."""
        (low, span), gamma = levels or self.levels(pair), number(self.gamma)
        if span == 0 or gamma == 1:
            return
        pair.truth = _bend(pair.truth, low, span, gamma)
        pair.image = _bend(pair.image, low, span, gamma)
        x = (pair.black_level - low) / span
        pair.black_level = low + span * float(np.sign(x) * np.abs(x) ** gamma)
        pair.gain, pair.step = np.nan, np.nan if pair.step else 0.0


class EightBit(Artefact):
    """The image is saved in 8 bit: its darkest value becomes 0, its brightest 255, and all are rounded (ours).

    After `contrast` these are 0 and 1. The truth gets the same linear map, neither rounded nor clipped. The
    quantisation step becomes 1, even where a coarser one came before. A constant image becomes 0.
    """

    stage: Literal["eight_bit"] = "eight_bit"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel alike

    def levels(self, pair: Pair) -> tuple[float, float]:
        """Darkest value of the image and the span to its brightest."""
        return _range(pair.image)

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Rescale both images and round the distorted one."""
        low, span = levels or self.levels(pair)
        slope = _WHITE / span if span else 1.0
        pair.rescale(slope, -slope * low)
        rounded = np.rint(pair.image)
        pair.mask[(rounded < 0) | (rounded > _WHITE)] |= np.uint8(MaskBit.CLIPPED)  # by the levels of another view
        pair.image = np.clip(rounded, np.float32(0), np.float32(_WHITE))
        pair.step = 1.0


class Jpeg(Artefact):
    """The image went through JPEG compression [1]_ at the given quality (range ours).

    It is scaled from its darkest to its brightest value to 8 bit for the coding, and back; after `eight_bit` these
    are the very same values. The quantisation step becomes that of these 8 bits. Not in the truth. A constant image
    stays as it is.

    References
    ----------
    .. [1] Wallace, Commun. ACM 34(4), 30 (1991).
    """

    stage: Literal["jpeg"] = "jpeg"
    symmetry: ClassVar[Symmetry] = IDENTITY  # blocks from the upper left; rows and columns weigh differently
    quality: Quantity = quantity(
        Uniform(low=30, high=95), unit="1", low=1, high=100, about="Quality on the scale of libjpeg, rounded"
    )

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Code and decode the image."""
        low, span = _range(pair.image)
        if span == 0:
            return
        coded = np.rint((pair.image - np.float32(low)) * np.float32(_WHITE / span)).astype(np.uint8)
        seen = _through_jpeg(coded, round(number(self.quality))).astype(np.float32)
        pair.image = seen * np.float32(span / _WHITE) + np.float32(low)
        pair.step = span / _WHITE


class ExtraNoise(Artefact):
    """White normal noise of a deviation that is a share of the truth's own, U(0.05, 2) as in the code of [1]_.

    Not in the truth. A constant truth gets none.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["extra_noise"] = "extra_noise"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    sigma: Quantity = quantity(
        Uniform(low=0.05, high=2), unit="1", low=0, high=100, about="Deviation, as a share of that of the truth"
    )

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Add the noise to the image."""
        deviation = number(self.sigma) * float(pair.truth.std(dtype=np.float64))
        pair.image = np.array(pair.image, order="C")
        noise.add_normal(np.uint64(key), np.uint64(0), deviation, pair.image.reshape(-1))


def _visible(low: float, high: float) -> float:
    """Span from `low` to `high`; 0 where it is nothing but rounding."""
    span = high - low
    return span if span > max(_FLAT * max(abs(low), abs(high)), _SMALLEST_SPAN) else 0.0


def _range(image: NDArray[np.float32]) -> tuple[float, float]:
    """Darkest value and span to the brightest, 0 for a constant image."""
    low, high = float(image.min()), float(image.max())
    return low, _visible(low, high)


def _bend(image: NDArray[np.float32], low: float, span: float, gamma: float) -> NDArray[np.float32]:
    """Gamma-correct `image`: `low` and `low + span` stay; odd about `low`, and along the tangent beyond the span."""
    x = (image - np.float32(low)) * np.float32(1 / span)
    size = np.abs(x)
    y: NDArray[np.float32] = np.minimum(size, 1) ** np.float32(gamma) + np.float32(gamma) * np.maximum(size - 1, 0)
    y = np.copysign(y, x)
    y *= np.float32(span)
    y += np.float32(low)
    return y


def _median(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of 3 x 3 px with mirrored edges.

    It is the median of the largest minimum, the median median and the smallest maximum of the three columns: a
    handful of exchanges of whole images, ten times as fast as a general rank filter.
    """
    wide = np.pad(image, 1, mode="symmetric")
    up, here, down = wide[:-2], wide[1:-1], wide[2:]
    low, high = np.minimum(up, here), np.maximum(up, here)
    lowest, highest = np.minimum(low, down), np.maximum(high, down)
    middle = np.maximum(low, np.minimum(high, down))
    a = np.maximum(np.maximum(lowest[:, :-2], lowest[:, 1:-1]), lowest[:, 2:])
    b = _middle(middle[:, :-2], middle[:, 1:-1], middle[:, 2:])
    c = np.minimum(np.minimum(highest[:, :-2], highest[:, 1:-1]), highest[:, 2:])
    return _middle(a, b, c)


def _middle(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    middle: NDArray[np.float32] = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return middle


def _through_jpeg(coded: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    # Pillow is loaded by those who draw or compress, so that importing the package stays quick.
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(coded).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            return np.asarray(image)


# A new artefact is one class and one entry here, at its place in the order of events.
ArtefactStage = Annotated[
    Resample | ExtraNoise | Smooth | Contrast | Gamma | EightBit | Jpeg | Border | Overlay,
    Field(discriminator="stage"),
]
