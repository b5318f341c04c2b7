"""What all distortion stages share: the scan's clock, random numbers keyed by purpose, and the two kinds of stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion._kernels import motion, noise, signal
from emsynth.distortion.symmetry import IDENTITY, Symmetry
from emsynth.draw import Distribution, Drawable, Quantity, Streams, number, quantity, stream_key

_FEW = 4096  # numbers that are drawn before another thread could take over


class MaskBit(IntFlag):
    """Meaning of the bits in a sample's mask."""

    SATURATED = 1
    CLIPPED = 2
    DEFECT = 4
    BORDER = 8
    OVERLAY = 16
    MIRRORED = 32


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
    corner : (int, int)
        First row and column, where the image is a part of what was scanned.
    whole : (int, int) or None
        Rows and columns of all that was scanned, where the image is a part of it.
    patch : bool
        Whether what a stage counts by frame is meant of all that was scanned, because the image is a patch of it; and
        not of the image, which the user has cropped.
    """

    rows: int
    cols: int
    dwell: float
    fly_back: float
    corner: tuple[int, int] = (0, 0)
    whole: tuple[int, int] | None = None
    patch: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.cols

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of the frame that the image is, or of which it is a patch."""
        return self.whole if self.patch and self.whole else self.shape

    @property
    def place(self) -> tuple[int, int]:
        """First row and column of the image in that frame."""
        return self.corner if self.patch else (0, 0)

    @property
    def row_period(self) -> float:
        """Time from the start of a row to the start of the next, s."""
        return (self.whole or self.shape)[1] * self.dwell + self.fly_back

    @property
    def frame(self) -> float:
        """Time of the whole frame, fly-backs included, s."""
        return (self.whole or self.shape)[0] * self.row_period

    @property
    def cropped(self) -> bool:
        """Whether the image is a part of what was scanned."""
        return self.whole is not None and self.whole != self.shape

    @property
    def gap(self) -> float:
        """Time from the last pixel of a row of the image to the first of the next, less a dwell, s."""
        return self.row_period - self.cols * self.dwell

    def row_times(self) -> NDArray[np.float64]:
        """Start of each row, s, (rows, 1)."""
        return (self.corner[0] + np.arange(self.rows, dtype=np.float64)[:, None]) * self.row_period

    def col_times(self) -> NDArray[np.float64]:
        """Time of each pixel since the start of its row, s, (1, cols)."""
        return (self.corner[1] + np.arange(self.cols, dtype=np.float64)[None, :]) * self.dwell

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
    pedestal : float
        What is expected where nothing is detected (dark signal and black level, where above 0), ADU: levels of
        saturation and full scale count from there, or the pedestal would take its share of the range.
    """

    clock: ScanClock
    counts: float
    brightest: float
    gain: float
    mask: NDArray[np.uint8]
    pedestal: float = 0.0


@dataclass(frozen=True, eq=False)
class Motion:
    """A displacement of the probe as a sum of products: δ(axis, r, c) = Σ_k rows[axis, k, r] · cols[k, c], px.

    Drift, hum, settling and jitter all have this form, because the time of a pixel is the sum of its row's and its
    column's; so no stage needs a number per pixel.

    Attributes
    ----------
    rows : (2, K, R) float64
        Factors of each row, px, along rows and columns.
    cols : (K, C) float64
        Factors of each column.
    """

    rows: NDArray[np.float64]
    cols: NDArray[np.float64]

    @classmethod
    def none(cls, clock: ScanClock) -> Motion:
        """No displacement."""
        return cls(np.zeros((2, 0, clock.rows)), np.zeros((0, clock.cols)))

    @classmethod
    def affine(cls, affine: NDArray[np.float64], shape: tuple[int, int]) -> Motion:
        """The displacement affine @ [r, c, 1], px."""
        r, c = np.arange(shape[0], dtype=np.float64), np.arange(shape[1], dtype=np.float64)
        rows = np.stack([affine[:, :1] * r + affine[:, 2:], np.repeat(affine[:, 1:2], shape[0], axis=1)], axis=1)
        return cls(rows, np.stack([np.ones_like(c), c]))

    @classmethod
    def total(cls, parts: Sequence[Motion]) -> Motion:
        """The sum of one or more displacements."""
        return cls(np.concatenate([m.rows for m in parts], axis=1), np.concatenate([m.cols for m in parts]))

    def reversed(self) -> Motion:
        """The opposite displacement."""
        return Motion(-self.rows, self.cols)

    def at(self, r: NDArray[np.int64], c: NDArray[np.int64]) -> NDArray[np.float64]:
        """Displacement at some rows (n,) and columns (m,), px, (2, n, m)."""
        displacement: NDArray[np.float64] = np.swapaxes(self.rows[:, :, r], 1, 2) @ self.cols[:, c]
        return displacement

    def displacement(self) -> NDArray[np.float64]:
        """Displacement of every pixel, px, (2, R, C)."""
        return self.at(np.arange(self.rows.shape[2]), np.arange(self.cols.shape[1]))

    def values(self) -> NDArray[np.float32]:
        """The sum at every pixel in single precision, (axes, R, C)."""
        rows, cols = self.factors()
        out = np.empty((len(rows), rows.shape[2], cols.shape[1]), np.float32)
        motion.evaluate(rows, cols, out)
        return out

    def factors(self, affine: NDArray[np.float64] | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rows and columns for the kernels, less an affine displacement: float32, a whole number of terms."""
        own, (axes, _, height), width = len(self.cols), self.rows.shape, self.cols.shape[1]
        terms = -(-(own + 2) // motion.TERMS) * motion.TERMS
        rows, cols = np.zeros((axes, terms, height), np.float32), np.zeros((terms, width), np.float32)
        rows[:, :own], cols[:own] = self.rows, self.cols
        if affine is not None:
            rows[:, own] = -affine[:, :1] * np.arange(height) - affine[:, 2:]
            rows[:, own + 1], cols[own], cols[own + 1] = -affine[:, 1:2], 1, np.arange(width)
        return rows, cols


def purpose_key(seed: int, index: int, stage: str, view: int = 0) -> int:
    """Philox key (64 bits) of one stage of one sample, in one of several views of the same truth."""
    name = f"stage {stage} view {view}" if view else f"stage {stage}"
    return stream_key(seed, index, name) & 0xFFFFFFFFFFFFFFFF


def uniforms(key: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Uniforms strictly between 0 and 1 from sub-stream `stream` of `key`."""
    out = np.empty(shape)
    noise.fill_uniform(np.uint64(key), np.uint64(stream), out.reshape(-1))
    return out


def normals(key: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normals from sub-stream `stream` of `key`."""
    out = np.empty(shape)
    fill = noise.few_normals if out.size <= _FEW else noise.fill_normal
    fill(np.uint64(key), np.uint64(stream), out.reshape(-1))
    return out


def autoregressive(key: int, stream: int, length: int, correlation: float) -> NDArray[np.float64]:
    """Stationary AR(1) series of deviation 1 whose neighbours correlate by `correlation`.

    Δ¹ = a¹/√(1-φ²), Δᵏ = φ Δᵏ⁻¹ + aᵏ, a ~ N(0, 1-φ²): Lobato, Friedrich and Van Aert, npj Comput. Mater.
    10:10 (2024).
    """
    series = normals(key, stream, (length,))
    noise.autoregress(series, correlation)
    return series


def happens(streams: Streams, name: str, probability: Quantity) -> bool:
    """Whether something of this probability happens, by the stream `name`.presence."""
    share = number(probability)
    return share > 0 and (share >= 1 or streams.uniform(f"{name}.presence") < share)


def row_means(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of each row of `image (R, C)`, (R,)."""
    means = np.empty(len(image))
    signal.row_means(image, means)
    return means


class Stage(Drawable):
    """A distortion that a chain may hold once. The tag `stage` of each kind names it in recipes and random streams."""

    validate_drawn = False  # every distribution of a stage has only values that the stage allows

    # Operations of the square under which a pair stays a pair; none but the identity unless a stage says.
    symmetry: ClassVar[Symmetry] = IDENTITY

    stage: str
    probability: Quantity = quantity(1.0, unit="1", low=0, high=1, about="Share of the samples that have this stage")

    def symmetries(self) -> Symmetry:
        """The same of this very stage, whose distributions may allow more, or less."""
        return self.symmetry

    def happens(self, streams: Streams, path: str) -> bool:
        """Whether a sample has this stage."""
        chance = self.probability
        if chance == 1.0:
            return True
        if isinstance(chance, Distribution):
            chance = chance.sample(streams, f"{path}.probability")
        return happens(streams, path, chance)

    def present(self, streams: Streams, path: str) -> Self:
        """The stage with plain values, in a sample that has it."""
        values = self.drawn_values(streams, path) | {"probability": 1.0}
        return self if len(values) == 1 and self.probability == 1.0 else self.plain(values)


class ProbeMotion(Stage):
    """A scan stage: where the probe was instead of where it was sent."""

    def pace(self, clock: ScanClock) -> ScanClock:
        """The clock that this stage leaves the scan with, for all stages; the same unless a stage says."""
        return clock

    def move(self, clock: ScanClock, key: int) -> Motion:
        """Displacement of the probe along rows and columns, px; none unless a stage says."""
        return Motion.none(clock)

    def move_slowly(self, clock: ScanClock, key: int) -> Motion:
        """The part that `truth_geometry: smooth` leaves in the truth, px; none unless a stage says."""
        return Motion.none(clock)

    def exposure(self) -> tuple[tuple[float, float], ...]:
        """Where along the way to the next pixel the dwell is spent, and which share of it there; all of it at 0."""
        return ((0.0, 1.0),)


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
    frame : (int, int) or None
        Rows and columns of the frame that these images are a patch of; what covers it is drawn on all of it.
    place : (int, int)
        Their first row and column in that frame.
    """

    truth: NDArray[np.float32]
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    gain: float
    black_level: float
    step: float
    sampling: float | None
    frame: tuple[int, int] | None = None
    place: tuple[int, int] = (0, 0)

    @property
    def whole(self) -> tuple[int, int]:
        """Rows and columns of the frame."""
        return self.frame or (self.truth.shape[0], self.truth.shape[1])

    @property
    def part(self) -> tuple[slice, slice]:
        """Which rows and columns of the frame these images show."""
        (row, col), (rows, cols) = self.place, self.truth.shape
        return slice(row, row + rows), slice(col, col + cols)

    def rescale(self, slope: float, offset: float) -> None:
        """Change the intensity units of both images: new = slope · old + offset."""
        self.truth = self.truth * np.float32(slope) + np.float32(offset)
        self.image = self.image * np.float32(slope) + np.float32(offset)
        self.gain, self.step = self.gain * slope, self.step * slope
        self.black_level = self.black_level * slope + offset


class Artefact(Stage):
    """What is done to the micrograph after the detector, and which of it the truth shares.

    Views of one truth are retouched with the levels of the first, so that the truth stays one and the same.
    """

    # Whether the key draws what the truth shows too: one and the same in all views.
    shared: ClassVar[bool] = False

    def levels(self, pair: Pair) -> Any:
        """What the stage reads off the image, to choose what it does to both; nothing unless a stage says."""
        return None

    def retouch(self, pair: Pair, key: int, levels: Any = None) -> None:
        """Change the pair, in place or by new arrays of the same shape; `levels` of the image itself where None."""
        raise NotImplementedError
