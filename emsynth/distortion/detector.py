"""Detector stages in physical order: from expected electrons to digital numbers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emsynth.distortion._kernels import noise, signal
from emsynth.distortion.stage import Detection, MaskBit, Readout, autoregressive
from emsynth.draw import AnyChoice, Choice, Count, LogUniform, Quantity, Uniform, number, quantity

LORENTZIAN_REACH = 8.0  # decay lengths after which the half-Lorentzian is cut: its centroid would diverge


class Poisson(Detection):
    """Counted electrons N ~ Poisson(λ) [1]_. The truth holds λ.

    References
    ----------
    .. [1] Reimer, Scanning Electron Microscopy, 2nd ed., Springer (1998), section 4.2.
    """

    stage: Literal["poisson"] = "poisson"

    def variance(self, counts: float) -> float:
        """The mean count, and one: a few electrons are often twice as many."""
        return counts + 1.0

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Replace the expected counts `image (R, C)` by drawn ones."""
        noise.poisson(np.uint64(key), np.uint64(0), image.reshape(-1))
        return image


class Streak(Detection):
    """The detector is slower than the dwell time: each electron's signal trails along the row.

    A share `fraction` of the signal goes through a one-sided kernel of sum 1 in time, the rest is prompt.
    Exponential: exp(-kτ/τ_d) at k dwell times. Lorentzian: 1/(1 + (kτ/τ_d)²), cut off after 8 τ_d, where about 8 % of
    the uncut sum are missing; the cut defines its centroid. The detector keeps its state through the fly-back
    (rounded to whole dwell times for the Lorentzian). There, and before the frame, a blanked beam gives no signal, so
    that rows begin dark; a beam that stays on gives the mean of the coming row. The streak acts after the counting,
    so the noise becomes correlated along rows and not along columns [1]_; ranges are ours.

    Not in the truth; but the truth's positions move along with the kernel's centroid.

    References
    ----------
    .. [1] Mullarkey, Downing and Jones, Microsc. Microanal. 27, 99 (2021).
    """

    stage: Literal["streak"] = "streak"
    shape: Annotated[
        Literal["exponential", "lorentzian"] | AnyChoice, Field(description="Decay of the detector's signal")
    ] = Choice(values=("exponential", "lorentzian"))
    decay: Quantity = quantity(
        Uniform(low=0, high=8), unit="1", low=0, high=8, about="Decay time τ_d in dwell times"
    )
    fraction: Quantity = quantity(
        Uniform(low=0.3, high=1), unit="1", low=0, high=1, about="Share of the signal that trails"
    )
    beam: Annotated[
        Literal["on", "blanked"] | AnyChoice, Field(description="What the beam does during the fly-back")
    ] = Choice(values=("on", "blanked"), weights=(0.9, 0.1))

    def response(self) -> NDArray[np.float64]:
        """Response of the cut half-Lorentzian per dwell time, sum 1."""
        decay = number(self.decay)
        lag = np.arange(math.ceil(LORENTZIAN_REACH * decay) + 1)
        response = 1 / (1 + (lag / decay) ** 2)
        normalised: NDArray[np.float64] = response / response.sum()
        return normalised

    def centroid(self) -> float:
        """Mean delay, px towards larger col."""
        decay, fraction = number(self.decay), number(self.fraction)
        if decay == 0:
            return 0.0
        if self.shape == "exponential":
            return fraction / math.expm1(1 / decay)
        response = self.response()
        return fraction * float(np.arange(len(response)) @ response)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Let the signal of `image (R, C)` trail along the rows and over their ends."""
        decay, fraction, clock = number(self.decay), number(self.fraction), readout.clock
        if decay == 0 or fraction == 0:
            return image
        gap, idle = clock.fly_back / clock.dwell, np.zeros(len(image))
        if self.beam == "on":
            idle = image.mean(axis=1, dtype=np.float64)
        if self.shape == "exponential":
            signal.streak_exponential(image, idle, math.exp(-1 / decay), math.exp(-gap / decay), fraction)
            return image
        out = np.empty_like(image)
        signal.streak_response(image, idle, self.response(), round(gap), fraction, out)
        return out


class LineNoise(Detection):
    """Each row is read out with an offset of its own, AR(1) from row to row, with mean 0 over the window (ours).

    Not in the truth.
    """

    stage: Literal["line_noise"] = "line_noise"
    sigma: Quantity = quantity(
        LogUniform(low=0.002, high=0.1), unit="1", low=0, high=2, about="Deviation, as a share of the mean count"
    )
    correlation: Quantity = quantity(
        Uniform(low=0, high=0.95), unit="1", low=0, high=0.999, about="Correlation of neighbouring rows"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the offsets to the rows of `image (R, C)`."""
        offset = autoregressive(key, 0, image.shape[0], number(self.correlation))
        offset -= offset.mean()
        image += (number(self.sigma) * readout.counts * offset).astype(np.float32)[:, None]
        return image


class ReadNoise(Detection):
    """White noise of the amplifier, N(0, σ_r²), σ_r in electrons (range ours). Not in the truth."""

    stage: Literal["read_noise"] = "read_noise"
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
    gain: Quantity = quantity(
        LogUniform(low=0.1, high=100), unit="ADU/e", low=1e-6, high=1e6, about="Digital numbers per electron"
    )

    def amplification(self) -> float:
        """ADU per electron."""
        return number(self.gain)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Scale `image (R, C)`."""
        return self.expect(image, readout)

    def expect(self, truth: NDArray[np.float32], readout: Readout) -> NDArray[np.float32]:
        """Scale the truth."""
        return truth * np.float32(number(self.gain))


class BlackLevel(Detection):
    """Offset of the digitiser; where it is negative, vacuum clips at 0 (range ours). In the truth."""

    stage: Literal["black_level"] = "black_level"
    level: Quantity = quantity(
        Uniform(low=-0.1, high=0.2), unit="1", low=-2, high=10, about="Offset, as a share of the brightest signal"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the offset to `image (R, C)`."""
        return self.expect(image, readout)

    def expect(self, truth: NDArray[np.float32], readout: Readout) -> NDArray[np.float32]:
        """Add the offset to the truth."""
        return truth + np.float32(number(self.level) * readout.brightest)


class Saturation(Detection):
    """Amplifier or tube saturates softly at L: y = L - (L - k) exp(-(x - k)/(L - k)) above the knee k = (1 - s)·L.

    Value and slope are continuous at the knee; s = 0 clips (ours). Not in the truth; pixels whose signal was at
    least L are flagged SATURATED.
    """

    stage: Literal["saturation"] = "saturation"
    level: Quantity = quantity(
        LogUniform(low=0.6, high=10), unit="1", low=0.01, high=1e4,
        about="L, as a multiple of the brightest signal",
    )
    softness: Quantity = quantity(
        Uniform(low=0, high=0.5), unit="1", low=0, high=1, about="Share s of the range in which the signal bends"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Bend `image (R, C)`."""
        level = number(self.level) * readout.brightest
        knee = level * (1 - number(self.softness))
        signal.saturate(image, level, knee, readout.mask, int(MaskBit.SATURATED))
        return image


class Quantise(Detection):
    """Analogue-to-digital conversion: multiples of q from 0 to full scale (ours; 64 levels occur in published data).

    q = full_scale · brightest / (levels - 1). Not in the truth; pixels beyond either end are flagged CLIPPED.
    """

    stage: Literal["quantise"] = "quantise"
    levels: Count = quantity(
        Choice(values=(64, 256, 1024, 4096, 65536)), unit="1", low=2, high=65536, about="Number of levels"
    )
    full_scale: Quantity = quantity(
        LogUniform(low=1, high=10), unit="1", low=0.01, high=1e4,
        about="Highest level, as a multiple of the brightest signal",
    )

    def step(self, readout: Readout) -> float:
        """Quantisation step q, ADU."""
        return number(self.full_scale) * readout.brightest / (int(number(self.levels)) - 1)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Round and clip `image (R, C)`."""
        levels = int(number(self.levels))
        signal.quantise(image, self.step(readout), levels, readout.mask, int(MaskBit.CLIPPED))
        return image


# A new detector stage is one class above and one entry here, at its place in the physical order.
DetectorStage = Annotated[
    Poisson | Streak | LineNoise | ReadNoise | Gain | BlackLevel | Saturation | Quantise,
    Field(discriminator="stage"),
]
