"""The detector's signal along time: streak, AC coupling, noise of whole rows, pick-up, drop-outs."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emsynth.distortion._kernels import signal
from emsynth.distortion.counting import REFERENCE_AREA, occurrences
from emsynth.distortion.scan import waves
from emsynth.distortion.stage import Detection, MaskBit, Motion, Readout, autoregressive, normals, row_means, uniforms
from emsynth.distortion.symmetry import FLIPS, IDENTITY, LEFT_RIGHT, REVERSAL, SQUARE, Symmetry
from emsynth.draw import AnyChoice, Choice, Count, LogUniform, Quantity, Uniform, number, quantity

LORENTZIAN_REACH = 8.0  # decay lengths after which the half-Lorentzian is cut: its centroid would diverge


class Streak(Detection):
    """The detector is slower than the dwell time: each electron's signal trails along the row.

    A share `fraction` of the signal goes through a one-sided kernel of sum 1 in time, the rest is prompt.
    Exponential: exp(-kτ/τ_d) at k dwell times. Lorentzian: 1/(1 + (kτ/τ_d)²), cut off after 8 τ_d, where about 8 % of
    the uncut sum are missing; the cut defines its centroid. The detector keeps its state through the fly-back
    (rounded to whole dwell times for the Lorentzian). There, and before the frame, a blanked beam gives no signal, so
    that rows begin dark; a beam that stays on gives the mean of the coming row. The streak acts after the counting,
    so the noise becomes correlated along rows and not along columns [1]_; ranges are ours.

    Not in the truth; but the truth's positions move along with the kernel's centroid. That is the delay of what is much
    larger than the kernel; a fine lattice lags less (after an exponential of three dwell times, whose centroid is
    2.5 px, one of 16 px period by 1.7 px).

    References
    ----------
    .. [1] Mullarkey, Downing and Jones, Microsc. Microanal. 27, 99 (2021).
    """

    stage: Literal["streak"] = "streak"
    symmetry: ClassVar[Symmetry] = IDENTITY  # the tail points along the fast axis
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
        response = 1 / (1 + (lag / max(decay, 1e-9)) ** 2)
        normalised: NDArray[np.float64] = response / response.sum()
        return normalised

    def centroid(self) -> float:
        """Mean delay, px towards larger col."""
        decay, fraction = number(self.decay), number(self.fraction)
        if decay == 0:
            return 0.0
        if self.shape == "exponential":
            keep = math.exp(-1 / decay)
            return fraction * keep / (1 - keep)
        response = self.response()
        return fraction * float(np.arange(len(response)) @ response)

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Let the signal of `image (R, C)` trail along the rows and over their ends."""
        decay, fraction, clock = number(self.decay), number(self.fraction), readout.clock
        if decay == 0 or fraction == 0:
            return image
        gap, idle = clock.gap / clock.dwell, np.zeros(len(image))
        if self.beam == "on" or clock.cropped:
            idle = row_means(image)
        if self.shape == "exponential":
            signal.relax(image, idle, math.exp(-1 / decay), math.exp(-gap / decay), 1 - fraction, fraction)
            return image
        out = np.empty_like(image)
        signal.streak_response(image, idle, self.response(), round(gap), fraction, out)
        return out


class AcCoupling(Detection):
    """The amplifier does not pass the mean: y = x - s·(LP(x) - mean x), so that bright features undershoot after them.

    LP is a first-order low pass of time constant `time`, along the rows and over their ends; the operator's black level
    restores the mean. s = 1 is a plain RC high pass [1]_; ranges ours. Not in the truth; what is not much shorter than
    the time constant loses contrast and seems to lead.

    References
    ----------
    .. [1] Horowitz and Hill, The Art of Electronics, 3rd ed., Cambridge (2015), section 1.7.
    """

    stage: Literal["ac_coupling"] = "ac_coupling"
    symmetry: ClassVar[Symmetry] = IDENTITY  # it undershoots after what is bright
    time: Quantity = quantity(
        LogUniform(low=0.3, high=30), unit="rows", low=0.005, high=1e4, about="Time constant, in periods of a row"
    )
    share: Quantity = quantity(
        Uniform(low=0.05, high=0.8), unit="1", low=0, high=1, about="Share s of the slow signal that is lost"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Take the slow signal out of `image (R, C)`."""
        clock, share = readout.clock, number(self.share)
        time = number(self.time) * clock.row_period
        mean = float(row_means(image).mean())
        idle = np.full(len(image), mean)
        signal.relax(image, idle, math.exp(-clock.dwell / time), math.exp(-clock.gap / time), 1.0, -share)
        image += np.float32(share * mean)
        return image


class LineNoise(Detection):
    """Each row is read out with an offset of its own, AR(1) or 1/f from row to row, with mean 0 over the window (ours).

    Not in the truth.
    """

    stage: Literal["line_noise"] = "line_noise"
    symmetry: ClassVar[Symmetry] = FLIPS  # AR(1) and 1/f of normal deviates are the same backwards
    sigma: Quantity = quantity(
        LogUniform(low=0.002, high=0.1), unit="1", low=0, high=2, about="Deviation, as a share of the mean count"
    )
    spectrum: Annotated[
        Literal["autoregressive", "flicker"] | AnyChoice, Field(description="How rows are related: AR(1), or 1/f")
    ] = "autoregressive"
    correlation: Quantity = quantity(
        Uniform(low=0, high=0.95), unit="1", low=0, high=0.999, about="Correlation of neighbouring rows where AR(1)"
    )

    def offsets(self, rows: int, key: int) -> NDArray[np.float64]:
        """One offset per row, (rows,), of deviation 1 (before the mean is taken off)."""
        if self.spectrum == "flicker":
            return flicker(normals(key, 0, (rows,)))
        return autoregressive(key, 0, rows, number(self.correlation))

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the offsets to the rows of `image (R, C)`."""
        offset = self.offsets(image.shape[0], key)
        offset -= offset.mean()
        image += (number(self.sigma) * readout.counts * offset).astype(np.float32)[:, None]
        return image


def flicker(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn white noise of deviation 1 into a periodic series of the same length, S(f) ∝ 1/f, deviation 1 and mean 0."""
    if len(white) < 2:
        return np.zeros_like(white)
    frequency = np.arange(len(white) // 2 + 1)
    shape = np.concatenate([[0.0], 1 / np.sqrt(frequency[1:])])
    # Each frequency but 0 and Nyquist stands for two of the full transform.
    double = np.where((frequency == 0) | (2 * frequency == len(white)), 1, 2)
    series: NDArray[np.float64] = np.fft.irfft(np.fft.rfft(white) * shape, len(white))
    return series * math.sqrt(len(white) / float(double @ shape**2))


class PickUp(Detection):
    """Mains hum picked up by the amplifier: an additive Σ A sin(2πft + φ), continuous in t (ours).

    Its mean over the window is 0. The first line is the mains itself, the others are its next harmonics with a uniform
    share of the amplitude. Not in the truth.
    """

    stage: Literal["pick_up"] = "pick_up"
    symmetry: ClassVar[Symmetry] = REVERSAL  # time runs on through the rows; phases are drawn from the whole circle
    amplitude: Quantity = quantity(
        LogUniform(low=0.002, high=0.1), unit="1", low=0, high=5, about="Amplitude A, as a share of the mean count"
    )
    mains: Quantity = quantity(Choice(values=(50, 60)), unit="Hz", low=16, high=400, about="Mains frequency")
    lines: Count = quantity(Choice(values=(1, 2, 3)), unit="1", low=1, high=6, about="Number of harmonics")

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Add the hum to `image (R, C)`."""
        chance = uniforms(key, 0, (int(number(self.lines)), 2))
        along_rows, cols = waves(readout.clock, number(self.mains) * np.arange(1, len(chance) + 1, dtype=np.float64))
        share = np.where(np.arange(len(chance)) == 0, 1.0, chance[:, 1])[:, None]
        rows = [share * np.sin(along_rows + 2 * np.pi * (chance[:, :1] + lead)) for lead in (0.0, 0.25)]
        added = Motion(np.concatenate(rows)[None], cols).values()[0]
        added -= np.float32(added.mean(dtype=np.float64))
        image += np.float32(number(self.amplitude) * readout.counts) * added
        return image


class RowGain(Detection):
    """Each row is amplified a little differently: gains 1 + σ·AR(1) with mean 1 over the window (range ours).

    Not in the truth.
    """

    stage: Literal["row_gain"] = "row_gain"
    symmetry: ClassVar[Symmetry] = FLIPS  # AR(1) is the same backwards
    sigma: Quantity = quantity(
        LogUniform(low=0.002, high=0.1), unit="1", low=0, high=0.3, about="Deviation of the gain"
    )
    correlation: Quantity = quantity(
        Uniform(low=0, high=0.95), unit="1", low=0, high=0.999, about="Correlation of neighbouring rows"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Multiply the rows of `image (R, C)`."""
        gain = 1 + number(self.sigma) * autoregressive(key, 0, image.shape[0], number(self.correlation))
        gain += 1 - gain.mean()
        image *= gain.astype(np.float32)[:, None]
        return image


class RowDropout(Detection):
    """A segment of a row turns nearly constant, 1 to 4 rows high and an eighth of the width to all of it long [1]_.

    The number of segments is Poisson with mean `rate` per frame; a segment keeps `residue` of its structure around a
    level between 0 and 1.5 times the mean count. The effect is the paper's, its details are ours. Not in the truth; the
    pixels are flagged DEFECT.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["row_dropout"] = "row_dropout"
    symmetry: ClassVar[Symmetry] = LEFT_RIGHT  # a segment of several rows is cut off at the bottom and never at the top
    rate: Quantity = quantity(
        LogUniform(low=0.3, high=5), unit="1", low=0, high=1000, about="Mean number of segments per frame"
    )
    residue: Quantity = quantity(
        Uniform(low=0, high=0.1), unit="1", low=0, high=1, about="Share of the structure that is left"
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Drop segments of `image (R, C)`."""
        (rows, cols), (row, col) = readout.clock.frame_shape, readout.clock.place
        residue = np.float32(number(self.residue))
        for chance in uniforms(key, 1, (occurrences(key, 0, number(self.rate)), 5)):
            length = max(1, round(cols * (1 + 7 * chance[1]) / 8))
            top, left = int(chance[2] * rows), int(chance[3] * (cols - length + 1))
            bottom, right = top + 1 + int(4 * chance[0]) - row, left + length - col
            part = np.s_[max(top - row, 0) : max(bottom, 0), max(left - col, 0) : max(right, 0)]
            segment = image[part]
            if not segment.size:
                continue  # elsewhere in the frame
            level = 1.5 * float(chance[4]) * readout.counts - float(residue) * float(segment.mean())
            segment *= residue
            segment += np.float32(level)
            readout.mask[part] |= np.uint8(MaskBit.DEFECT)
        return image


class PixelDefects(Detection):
    """Black and bright pixels, as the paper puts them on STEM and SEM images; for compatibility only [1]_.

    A scanning microscope's one detector has no pixels that could be dead: use `hits` for what physics does. Numbers are
    Poisson with the given means per 256² pixels; black pixels lie at the black level, bright ones at up to `amplitude`
    times the brightest signal above it. Not in the truth; flagged DEFECT.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, npj Comput. Mater. 10:10 (2024).
    """

    stage: Literal["pixel_defects"] = "pixel_defects"
    symmetry: ClassVar[Symmetry] = SQUARE  # anywhere alike
    black: Quantity = quantity(
        Uniform(low=0, high=8), unit="1", low=0, high=6553, about="Mean number of black pixels per 256 × 256"
    )
    bright: Quantity = quantity(
        Uniform(low=0, high=8), unit="1", low=0, high=6553, about="Mean number of bright pixels per 256 × 256"
    )
    amplitude: Quantity = quantity(
        LogUniform(low=0.5, high=3), unit="1", low=0, high=1e4,
        about="Signal of the brightest, as a multiple of the brightest of the truth",
    )

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Replace pixels of `image (R, C)`."""
        for stream, rate, size in ((0, self.black, 0.0), (2, self.bright, number(self.amplitude) * readout.brightest)):
            count = occurrences(key, stream, number(rate) * image.size / REFERENCE_AREA)
            chance = uniforms(key, stream + 1, (count, 2))
            at = (chance[:, 0] * image.size).astype(np.int64)
            image.reshape(-1)[at] = (size * chance[:, 1]).astype(np.float32)
            readout.mask.reshape(-1)[at] |= np.uint8(MaskBit.DEFECT)
        return image
