"""Counting electrons: noise of the beam, Poisson statistics, pulse heights, hits."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import noise, signal
from emsynth.distortion.stage import Detection, MaskBit, Readout, ScanClock, uniforms
from emsynth.distortion.symmetry import REVERSAL, SQUARE, Symmetry
from emsynth.draw import LogUniform, Quantity, Uniform, number, quantity

REFERENCE_AREA = 256**2  # px; rates of rare events are given per frame of this size
_SPACING = 4.0  # ratio of neighbouring relaxation times
_NO_SPREAD = 1e-6  # below, N/σ² is beyond what float32 can hold of a difference
_KNOTS = 4.0  # knots per relaxation time, between which a series is interpolated linearly


class BeamNoise(Detection):
    """Noise of the beam current: expected counts times 1 + σ·n(t), with S(f) ∝ 1/f.

    n(t) is a sum of relaxations with time constants a factor of 4 apart, from `fastest` up to the time of the frame:
    each has a Lorentzian spectrum and the same variance, and together they fall as 1/f between the inverse time
    constants, as flicker noise is explained since [1]_. Each is an exact AR(1) series at four knots per time constant
    (one per dwell at most), linear in between, in real time with all fly-backs. The mean over the window is 1, which
    takes the slowest part away: what is left varies by about 0.9 σ. Range ours.

    Not in the truth.

    References
    ----------
    .. [1] van der Ziel, Physica 16, 359 (1950).
    """

    stage: Literal["beam_noise"] = "beam_noise"
    symmetry: ClassVar[Symmetry] = REVERSAL  # a sum of AR(1) in time, which is the same backwards
    sigma: Quantity = quantity(
        LogUniform(low=0.002, high=0.05), unit="1", low=0, high=0.2, about="Deviation, as a share of the current"
    )
    fastest: Quantity = quantity(
        LogUniform(low=50e-6, high=1e-3), unit="s", low=1e-7, high=1, about="Shortest relaxation time"
    )

    def times(self, clock: ScanClock) -> NDArray[np.float64]:
        """Relaxation times of the parts, s, (K,)."""
        fastest = number(self.fastest)
        parts = 1 + max(0, math.floor(math.log(max(clock.frame / fastest, 1.0), _SPACING)))
        times: NDArray[np.float64] = fastest * _SPACING ** np.arange(parts, dtype=np.float64)
        return times

    def series(self, clock: ScanClock, key: int) -> tuple[NDArray[np.float32], float]:
        """The noise n at equally spaced knots, and the time between them, s.

        Its deviation is 1 at the knots of the slowest part and 0.95 on average, because linear interpolation takes some
        of the faster ones' variance.
        """
        # In plain numbers: there are a dozen of them at most.
        times = self.times(clock).tolist()
        # Four knots for each pixel are more than can be seen, however long the fly-backs are.
        finest = max(times[0] / _KNOTS, clock.dwell, clock.frame / (4 * math.prod(clock.frame_shape)))
        # Whole powers of the spacing, so that each series' knots are knots of the finer ones.
        powers = [max(math.floor(math.log(t / (_KNOTS * finest)) / math.log(_SPACING) + 1e-9), 0) for t in times]
        steps = [finest * _SPACING**power for power in powers]
        lengths = [math.ceil(clock.frame / step) + 3 for step in steps]
        ratios = [round(_SPACING ** (after - before)) for before, after in pairwise(powers)]
        keeps = [math.exp(-step / time) for step, time in zip(steps, times, strict=True)]
        series = np.empty(sum(lengths), np.float32)
        noise.fill_normal(np.uint64(key), np.uint64(0), series)
        signal.relaxations(series, np.array(lengths), np.array(keeps), np.array(ratios, np.int64))
        series = series[: lengths[0]]
        series *= np.float32(1 / math.sqrt(len(times)))
        return series, finest

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Multiply the expected counts `image (R, C)`."""
        clock = readout.clock
        series, step = self.series(clock, key)
        steps = clock.row_period / step, clock.dwell / step
        start = clock.row_times()[0, 0] / step + clock.col_times()[0, 0] / step
        signal.modulate(series, start, *steps, number(self.sigma), image)
        return image


class Poisson(Detection):
    """Counted electrons N ~ Poisson(λ) [1]_. The truth holds λ.

    References
    ----------
    .. [1] Reimer, Scanning Electron Microscopy, 2nd ed., Springer (1998), section 4.2.
    """

    stage: Literal["poisson"] = "poisson"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself

    def variance(self, counts: float) -> float:
        """The mean count, and one: a few electrons are often twice as many."""
        return counts + 1.0

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Replace the expected counts `image (R, C)` by drawn ones."""
        noise.poisson(np.uint64(key), np.uint64(0), image.reshape(-1))
        return image


class CompoundPoisson(Detection):
    """Secondary electrons: N ~ Poisson(D) primaries release Poisson(N·δ) secondaries; variance δD(1 + δ) [1]_.

    `secondary_yield` is the mean of δ over the window; the expected counts of the chain are the secondaries δD, so that
    D = expected counts / yield. Takes the place of `poisson`. The truth holds δD.

    References
    ----------
    .. [1] Reimer, Scanning Electron Microscopy, 2nd ed., Springer (1998), section 4.2.
    """

    stage: Literal["compound_poisson"] = "compound_poisson"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    secondary_yield: Quantity = quantity(
        LogUniform(low=0.1, high=2), unit="1", low=1e-3, high=20, about="Secondaries per primary, mean over the window"
    )

    def variance(self, counts: float) -> float:
        """The mean count times 1 + δ, and one."""
        return counts * (1 + number(self.secondary_yield)) + 1.0

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Replace the expected counts `image (R, C)` by drawn ones."""
        dose = readout.counts / number(self.secondary_yield)
        noise.compound_poisson(np.uint64(key), np.uint64(0), dose, image.reshape(-1))
        return image


class PulseSpread(Detection):
    """Pulse heights of scintillator and photomultiplier: N electrons give Gamma(N/σ_g², σ_g²).

    Mean N, variance σ_g² N: the sum of N independent pulses of mean 1 and variance σ_g² each [1]_; range ours. Not in
    the truth.

    References
    ----------
    .. [1] Reimer, Scanning Electron Microscopy, 2nd ed., Springer (1998), section 5.2.
    """

    stage: Literal["pulse_spread"] = "pulse_spread"
    symmetry: ClassVar[Symmetry] = SQUARE  # each pixel by itself
    sigma: Quantity = quantity(
        Uniform(low=0, high=0.7), unit="1", low=0, high=0.7, about="Deviation σ_g of a single electron's pulse"
    )

    def variance(self, counts: float) -> float:
        """σ_g² for each electron."""
        return number(self.sigma) ** 2 * counts

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Replace the counts `image (R, C)` by signals, in electrons."""
        if number(self.sigma) > _NO_SPREAD:
            noise.gamma(np.uint64(key), np.uint64(0), number(self.sigma), image.reshape(-1))
        return image


class Hits(Detection):
    """Cosmic rays and X-rays: single dwells gain an exponentially distributed signal (ours).

    Their number is Poisson with mean `rate` per 256² pixels; `amplitude` is the mean signal. They stand before the
    streak, which gives them tails. Not in the truth; the pixels are flagged DEFECT.
    """

    stage: Literal["hits"] = "hits"
    symmetry: ClassVar[Symmetry] = SQUARE  # anywhere alike; the tail is the streak's
    rate: Quantity = quantity(
        LogUniform(low=0.1, high=20), unit="1", low=0, high=6553, about="Mean number of hits per 256 × 256 pixels"
    )
    amplitude: Quantity = quantity(
        LogUniform(low=0.3, high=10), unit="1", low=0, high=1e4, about="Mean signal, as a multiple of the brightest"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the hits to `image (R, C)`."""
        count = occurrences(key, 0, number(self.rate) * image.size / REFERENCE_AREA)
        at = (uniforms(key, 1, (count,)) * image.size).astype(np.int64)
        size = -np.log(uniforms(key, 2, (count,))) * number(self.amplitude) * readout.brightest / readout.gain
        np.add.at(image.reshape(-1), at, size.astype(np.float32))
        readout.mask.reshape(-1)[at] |= np.uint8(MaskBit.DEFECT)
        return image


def occurrences(key: int, stream: int, mean: float) -> int:
    """How many rare events there are, Poisson with this mean, from sub-stream `stream` of `key`."""
    drawn = np.full(1, mean, dtype=np.float32)
    noise.few_counts(np.uint64(key), np.uint64(stream), drawn)
    return int(drawn[0])
