"""What all distortion stages share: the scan's clock, random numbers keyed by purpose, and the two kinds of stage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import noise
from emsynth.draw import Drawable, Quantity, quantity, stream_key


class MaskBit(IntFlag):
    """Meaning of the bits in a sample's mask."""

    SATURATED = 1
    CLIPPED = 2
    DEFECT = 4
    BORDER = 8
    OVERLAY = 16


@dataclass(frozen=True)
class ScanClock:
    """When each pixel is visited: t(r, c) = r·(C·τ + t_fb) + c·τ.

    Attributes
    ----------
    rows, cols : int
        Shape of the scan; cols is the fast axis.
    dwell : float
        Dwell time τ, s.
    fly_back : float
        Time from the end of a row to the start of the next, t_fb, s.
    """

    rows: int
    cols: int
    dwell: float
    fly_back: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.cols

    @property
    def row_period(self) -> float:
        """Time from the start of a row to the start of the next, s."""
        return self.cols * self.dwell + self.fly_back

    @property
    def frame(self) -> float:
        """Time of the whole frame, fly-backs included, s."""
        return self.rows * self.row_period

    def row_times(self) -> NDArray[np.float64]:
        """Start of each row, s, (rows, 1)."""
        return np.arange(self.rows, dtype=np.float64)[:, None] * self.row_period

    def col_times(self) -> NDArray[np.float64]:
        """Time of each pixel since the start of its row, s, (1, cols)."""
        return np.arange(self.cols, dtype=np.float64)[None, :] * self.dwell

    def times(self) -> NDArray[np.float64]:
        """Time of each pixel, s, (rows, cols)."""
        return self.row_times() + self.col_times()


@dataclass(frozen=True, eq=False)
class Readout:
    """What a detector stage may know about the image that it reads out.

    Attributes
    ----------
    clock : ScanClock
        Times of the scan.
    counts : float
        Mean expected count of the truth, electrons per pixel.
    brightest : float
        What an operator sets the contrast by: the brightest truth pixel with four standard deviations of its counting
        and read noise, times the gain, above black, ADU.
    gain : float
        ADU per electron; 1 where the chain has no gain.
    mask : (R, C) uint8
        Bits of `MaskBit`; a stage sets its own in place.
    """

    clock: ScanClock
    counts: float
    brightest: float
    gain: float
    mask: NDArray[np.uint8]


def purpose_key(seed: int, index: int, stage: str) -> int:
    """Philox key (64 bits) of one stage of one sample."""
    return stream_key(seed, index, f"distort.{stage}") & 0xFFFFFFFFFFFFFFFF


def uniforms(key: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Uniforms strictly between 0 and 1 from sub-stream `stream` of `key`."""
    out = np.empty(shape)
    noise.fill_uniform(np.uint64(key), np.uint64(stream), out.reshape(-1))
    return out


def normals(key: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normals from sub-stream `stream` of `key`."""
    out = np.empty(shape)
    noise.fill_normal(np.uint64(key), np.uint64(stream), out.reshape(-1))
    return out


def autoregressive(key: int, stream: int, length: int, correlation: float) -> NDArray[np.float64]:
    """Stationary AR(1) series of deviation 1 whose neighbours correlate by `correlation`.

    Δ¹ = a¹/√(1-φ²), Δᵏ = φ Δᵏ⁻¹ + aᵏ, a ~ N(0, 1-φ²): Lobato, Friedrich and Van Aert, npj Comput. Mater.
    10:10 (2024).
    """
    series = normals(key, stream, (length,))
    noise.autoregress(series, correlation)
    return series


class Stage(Drawable):
    """A distortion that a chain may hold once. The tag `stage` of each kind names it in recipes and random streams."""

    stage: str
    probability: Quantity = quantity(1.0, unit="1", low=0, high=1, about="Share of the samples that have this stage")


class ProbeMotion(Stage):
    """A scan stage: where the probe was instead of where it was sent."""

    def pace(self, clock: ScanClock) -> ScanClock:
        """The clock that this stage leaves the scan with, for all stages; the same unless a stage says."""
        return clock

    def displace(self, clock: ScanClock, key: int) -> NDArray[np.float64]:
        """Displacement of the probe along rows and columns, px, (2, rows, cols)."""
        raise NotImplementedError

    def displace_slowly(self, clock: ScanClock, key: int) -> NDArray[np.float64]:
        """The part that `truth_geometry: smooth` leaves in the truth, px, (2, rows, cols); none unless a stage says."""
        return np.zeros((2, *clock.shape))


class Detection(Stage):
    """A detector or camera stage: what happens to the counted image, and which of it the truth holds."""

    def margin(self) -> int:
        """How many px around the window this stage must see; it gets and returns an image that is so much wider."""
        return 0

    def apply(self, image: NDArray[np.float32], readout: Readout, key: int) -> NDArray[np.float32]:
        """Distort `image (R, C)`, which may be overwritten, and return it."""
        raise NotImplementedError

    def expect(self, truth: NDArray[np.float32], readout: Readout) -> NDArray[np.float32]:
        """What this stage does to the truth: nothing, unless a stage says."""
        return truth

    def amplification(self) -> float:
        """ADU per electron that this stage brings; 1 unless a stage says."""
        return 1.0

    def variance(self, counts: float) -> float:
        """Variance that this stage adds to a pixel of `counts` expected electrons, e²; 0 unless a stage says."""
        return 0.0

    def centroid(self) -> float:
        """How far this stage moves content towards larger col, px; the truth moves along."""
        return 0.0

    def step(self, readout: Readout) -> float:
        """Quantisation step, ADU; 0 where this stage does not quantise."""
        return 0.0


@dataclass(eq=False)
class Pair:
    """Truth and image on their way through what is done to a micrograph after the detector.

    Attributes
    ----------
    truth, image : (R, C) float32
        Both in the same intensity units.
    mask : (R, C) uint8
        Bits of `MaskBit`.
    gain : float
        Intensity per electron; NaN once the intensity is no longer linear in it.
    black_level : float
        Intensity where nothing is detected.
    step : float
        Quantisation step; 0 where nothing quantises.
    sampling : float or None
        Size of a pixel, Å, where it is known.
    """

    truth: NDArray[np.float32]
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    gain: float
    black_level: float
    step: float
    sampling: float | None

    def rescale(self, slope: float, offset: float) -> None:
        """Change the intensity units of both images: new = slope · old + offset."""
        self.truth = self.truth * np.float32(slope) + np.float32(offset)
        self.image = self.image * np.float32(slope) + np.float32(offset)
        self.gain, self.step = self.gain * slope, self.step * slope
        self.black_level = self.black_level * slope + offset


class Artefact(Stage):
    """What is done to the micrograph after the detector, and which of it the truth shares."""

    def retouch(self, pair: Pair, key: int) -> None:
        """Change the pair, in place or by new arrays of the same shape."""
        raise NotImplementedError
