"""The end of a detector's chain, a camera's too: read noise, gain, black level, saturation, digital numbers."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import noise, signal
from emsynth.distortion.stage import Detection, MaskBit, Readout
from emsynth.distortion.symmetry import SQUARE, Symmetry
from emsynth.draw import Choice, Count, LogUniform, Quantity, Uniform, number, quantity


class ReadNoise(Detection):
    """White noise of the amplifier, N(0, σ_r²), σ_r in electrons (range ours). Not in the truth."""

    stage: Literal["read_noise"] = "read_noise"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    sigma: Quantity = quantity(
        LogUniform(low=0.05, high=10), unit="e", low=0, high=1000, about="Deviation σ_r"
    )

    def variance(self, counts: float) -> float:
        """σ_r², whatever the count."""
        return number(self.sigma) ** 2

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the noise to `image (R, C)`."""
        noise.add_normal(np.uint64(key), np.uint64(0), number(self.sigma), image.reshape(-1))
        return image


class Gain(Detection):
    """Digital numbers (ADU) per electron, K (range ours). In the truth."""

    stage: Literal["gain"] = "gain"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    gain: Quantity = quantity(
        LogUniform(low=0.1, high=100), unit="ADU/e", low=1e-6, high=1e6, about="Digital numbers per electron"
    )

    def amplification(self) -> float:
        """ADU per electron."""
        return number(self.gain)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Scale `image (R, C)`."""
        image *= np.float32(number(self.gain))
        return image

    def expect(self, truth: NDArray[np.float32], readout: Readout) -> NDArray[np.float32]:
        """Scale the truth."""
        return truth * np.float32(number(self.gain))


class BlackLevel(Detection):
    """Offset of the digitiser; where it is negative, vacuum clips at 0 (range ours). In the truth."""

    stage: Literal["black_level"] = "black_level"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    level: Quantity = quantity(
        Uniform(low=-0.1, high=0.2), unit="1", low=-2, high=10, about="Offset, as a share of the brightest signal"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the offset to `image (R, C)`."""
        image += np.float32(number(self.level) * readout.brightest)
        return image

    def expect(self, truth: NDArray[np.float32], readout: Readout) -> NDArray[np.float32]:
        """Add the offset to the truth."""
        return truth + np.float32(number(self.level) * readout.brightest)


class TubeSaturation(Detection):
    """The photomultiplier gives less for more light: as `saturation`, but of the signal itself, before the amplifier.

    Noise of rows, pick-up and read noise come after it and are not compressed. Levels are multiples of the brightest
    signal, in electrons; range ours. Not in the truth; pixels whose signal was at least the level are flagged
    SATURATED.
    """

    stage: Literal["tube_saturation"] = "tube_saturation"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    level: Quantity = quantity(
        LogUniform(low=0.6, high=10), unit="1", low=0.01, high=1e4, about="Level, as a multiple of the brightest signal"
    )
    softness: Quantity = quantity(
        Uniform(low=0.2, high=1), unit="1", low=0, high=1, about="Share s of the range in which the signal bends"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Bend `image (R, C)`."""
        return _bend(image, readout, 0.0, number(self.level) * readout.brightest / readout.gain, number(self.softness))


class Saturation(Detection):
    """The amplifier saturates softly at L: y = L - (L - k) exp(-(x - k)/(L - k)) above the knee k = (1 - s)·L.

    Value and slope are continuous at the knee; s = 0 clips (ours). Not in the truth; pixels whose signal was at
    least L are flagged SATURATED.
    """

    stage: Literal["saturation"] = "saturation"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    level: Quantity = quantity(
        LogUniform(low=0.6, high=10), unit="1", low=0.01, high=1e4,
        about="L, as a multiple of the brightest signal",
    )
    softness: Quantity = quantity(
        Uniform(low=0, high=0.5), unit="1", low=0, high=1, about="Share s of the range in which the signal bends"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Bend `image (R, C)`."""
        return _bend(image, readout, readout.pedestal, number(self.level) * readout.brightest, number(self.softness))


def _bend(
    image: NDArray[np.float32], readout: Readout, foot: float, span: float, softness: float
) -> NDArray[np.float32]:  # fmt: skip
    # Towards foot + span, from the share `softness` of the span below it on.
    level = foot + span
    signal.saturate(image, level, level - softness * span, readout.mask, int(MaskBit.SATURATED))
    return image


class Quantise(Detection):
    """Analogue-to-digital conversion: multiples of q from 0 to full scale (ours; 64 levels occur in published data).

    q = (full_scale · brightest + pedestal) / (levels - 1). Not in the truth; pixels beyond either end are flagged
    CLIPPED.
    """

    stage: Literal["quantise"] = "quantise"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    levels: Count = quantity(
        Choice(values=(64, 256, 1024, 4096, 65536)), unit="1", low=2, high=65536, about="Number of levels"
    )
    full_scale: Quantity = quantity(
        LogUniform(low=1, high=10), unit="1", low=0.01, high=1e4,
        about="Highest level, as a multiple of the brightest signal",
    )

    def step(self, readout: Readout) -> float:
        """Quantisation step q, ADU."""
        return (number(self.full_scale) * readout.brightest + readout.pedestal) / (int(number(self.levels)) - 1)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Round and clip `image (R, C)`."""
        levels = int(number(self.levels))
        signal.quantise(image, self.step(readout), levels, readout.mask, int(MaskBit.CLIPPED))
        return image
