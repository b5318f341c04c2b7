"""The chain: from a clean field to a truth, its distorted image, and the displacement between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import map_coordinates

from emsynth.distortion.detector import DetectorStage
from emsynth.distortion.scan import ScanStage
from emsynth.distortion.split import evaluate, fit
from emsynth.distortion.stage import Readout, ScanClock, purpose_key
from emsynth.draw import Drawable, LogUniform, Quantity, Streams, number, quantity
from emsynth.errors import FieldError

# An operator leaves room for this many standard deviations above the brightest expected signal.
_DEVIATIONS = 4.0
# A mean fraction of the beam below this is rounding, not signal.
_DARK = 1e-9

Gather = Callable[[NDArray[np.float64]], NDArray[np.float32]]


def _tags(union: object) -> tuple[str, ...]:
    return tuple(kind.model_fields["stage"].default for kind in get_args(get_args(union)[0]))


SCAN_ORDER = _tags(ScanStage)
DETECTOR_ORDER = _tags(DetectorStage)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where truth and distorted image look at the specimen, in window px.

    Attributes
    ----------
    affine : (2, 3) float64
        Part of the scan displacement that the truth shares, less the streak's centroid along col, px:
        truth position = [r, c] + affine @ [r, c, 1] + slow.
    slow : (2, R, C) float32 or None
        Slow displacement that the truth shares as well, px; only with `truth_geometry: smooth`.
    displacement : (2, R, C) float16
        Probe position minus truth position, px; exact, because the image is gathered with these very values.
    """

    affine: NDArray[np.float64]
    slow: NDArray[np.float32] | None
    displacement: NDArray[np.float16]

    def truth_positions(self) -> NDArray[np.float64]:
        """Where the truth looks, window px, (2, R, C)."""
        shape = (self.displacement.shape[1], self.displacement.shape[2])
        shared = evaluate(self.affine + np.eye(2, 3), shape)
        return shared if self.slow is None else shared + self.slow

    def reach(self) -> float:
        """Farthest that the truth looks away from the ideal grid, px."""
        rows, cols = self.displacement.shape[1:]
        corners = np.array([[0, 0, 1], [rows, 0, 1], [0, cols, 1], [rows, cols, 1]])
        slow = 0.0 if self.slow is None else float(np.abs(self.slow).max())
        return float(np.abs(corners @ self.affine.T).max()) + slow

    def probe_positions(self) -> NDArray[np.float64]:
        """Where the probe was, window px, (2, R, C)."""
        return self.truth_positions() + self.displacement.astype(np.float32)

    def to_truth(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Truth px (n, 2) at which the window `points (n, 2)` px are seen, e.g. atom columns."""
        inverse = np.linalg.inv(np.eye(2) + self.affine[:, :2])
        start = (np.asarray(points, dtype=np.float64).reshape(-1, 2) - self.affine[:, 2]) @ inverse.T
        at = start
        if self.slow is None:
            return start
        for _ in range(20):
            slow = np.stack([map_coordinates(part, at.T, order=1, mode="nearest") for part in self.slow], axis=-1)
            at = start - slow @ inverse.T
        return at


@dataclass(frozen=True, eq=False, kw_only=True)
class Distorted(Positions):
    """One truth and its distorted image.

    Attributes
    ----------
    truth, distorted : (R, C) float32
        In the detector's output units, ADU (electrons where the chain has no gain).
    mask : (R, C) uint8
        Bits of `MaskBit`.
    expected_counts : float
        Mean of the truth in electrons per pixel.
    scale : float
        Electrons per unit of the field: truth = field · scale · gain + black level.
    gain : float
        ADU per electron.
    black_level : float
        What the truth shows where nothing is detected, ADU.
    step : float
        Quantisation step, ADU; 0 where nothing quantises.
    """

    truth: NDArray[np.float32]
    distorted: NDArray[np.float32]
    mask: NDArray[np.uint8]
    expected_counts: float
    scale: float
    gain: float
    black_level: float
    step: float


class Chain(Drawable):
    """The instrument's distortions of one recipe: counting statistics, scan stages and detector stages.

    Scan stages add up, in whichever order they are listed; detector stages stand in physical order. Each kind
    stands once at most.
    """

    expected_counts: Quantity = quantity(
        LogUniform(low=0.3, high=1000), unit="e", low=1e-3, high=1e6, about="Mean count per pixel of the truth"
    )
    dwell: Quantity = quantity(
        LogUniform(low=0.2e-6, high=50e-6), unit="s", low=1e-9, high=1, about="Dwell time τ"
    )
    fly_back: Quantity = quantity(
        LogUniform(low=50e-6, high=1e-3), unit="s", low=0, high=1, about="Time from the end of a row to the next"
    )
    truth_geometry: Annotated[
        Literal["affine", "smooth", "ideal"],
        Field(description="What the truth shares of the scan displacement: its affine part, all that is slow, nothing"),
    ] = "affine"
    undistorted: Quantity = quantity(
        0.03, unit="1", low=0, high=1, about="Share of the samples that are identity pairs"
    )
    scan: tuple[ScanStage, ...] = ()
    detector: tuple[DetectorStage, ...] = ()

    @model_validator(mode="after")
    def _each_once_in_order(self) -> Self:
        for part in ("scan", "detector"):
            listed = [stage.stage for stage in getattr(self, part)]
            for tag in listed:
                if listed.count(tag) > 1:
                    raise ValueError(f"{part}: '{tag}' stands {listed.count(tag)} times; keep one of them")
        places = [DETECTOR_ORDER.index(stage.stage) for stage in self.detector]
        for n in range(1, len(places)):
            if places[n] < places[n - 1]:
                late, early, order = self.detector[n - 1].stage, self.detector[n].stage, ", ".join(DETECTOR_ORDER)
                raise ValueError(f"detector: '{early}' acts before '{late}'; move it up, the physical order is {order}")
        return self

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Collapse every distribution and decide which stages are present.

        Stages that were not chosen are dropped, chosen ones have probability 1, and `undistorted` becomes 1 (an
        identity pair, without stages) or 0; so a drawn chain draws to itself. Each decision has a stream of its own.
        """
        drawn = super().draw(streams, path)
        start = f"{path}." if path else ""
        if _happens(streams, f"{start}undistorted", drawn.undistorted):
            return drawn.model_copy(update={"scan": (), "detector": (), "undistorted": 1.0})
        scan, detector = (
            tuple(
                stage.model_copy(update={"probability": 1.0})
                for stage in getattr(drawn, part)
                if _happens(streams, f"{start}{part}.{stage.stage}", stage.probability)
            )
            for part in ("scan", "detector")
        )
        return drawn.model_copy(update={"scan": scan, "detector": detector, "undistorted": 0.0})

    def clock(self, shape: tuple[int, int]) -> ScanClock:
        """Clock of a scan of `shape` (rows, cols), as the scan stages leave it."""
        clock = ScanClock(shape[0], shape[1], number(self.dwell), number(self.fly_back))
        for stage in self.scan:
            clock = stage.pace(clock)
        return clock

    def positions(self, shape: tuple[int, int], seed: int, index: int) -> Positions:
        """Where truth and image of sample `index` look, for a window of `shape`; costs no gather.

        The split follows `truth_geometry`. A streak moves content towards larger col by its centroid m; the truth
        looks m px to the left, so that its content moves along.
        """
        clock = self.clock(shape)
        delta = np.zeros((2, *shape))
        slow = np.zeros((2, *shape)) if self.truth_geometry == "smooth" else None
        for stage in sorted(self.scan, key=lambda s: SCAN_ORDER.index(s.stage)):
            key = purpose_key(seed, index, stage.stage)
            delta += stage.displace(clock, key)
            if slow is not None:
                slow += stage.displace_slowly(clock, key)
        affine = fit(delta) if self.truth_geometry == "affine" else np.zeros((2, 3))
        if self.truth_geometry != "ideal":
            affine[1, 2] -= sum(stage.centroid() for stage in self.detector)
        shared = None if slow is None else slow.astype(np.float32)
        delta -= evaluate(affine, shape)
        if shared is not None:
            delta -= shared
        return Positions(affine, shared, delta.astype(np.float16))

    def run(self, gather: Gather, shape: tuple[int, int], seed: int, index: int) -> Distorted:
        """Distort sample `index`.

        Parameters
        ----------
        gather : callable
            Takes positions (2, R, C) in window px and returns what the field shows there, (R, C) float32.
        shape : (int, int)
            Rows and columns of the window.
        seed, index : int
            Key of every random number, with the stage's name.

        Returns
        -------
        Distorted

        Raises
        ------
        FieldError
            The window shows nothing, so that it cannot be scaled to the expected counts.
        TypeError
            The chain has not been drawn.
        """
        for undrawn in self.distributions():
            raise TypeError(f"{undrawn!r} has not been drawn: call .draw(streams) on the chain first")
        where = self.positions(shape, seed, index)
        truth = gather(where.truth_positions())
        image = gather(where.probe_positions()) if where.displacement.any() else truth
        scale = _scale(truth, number(self.expected_counts))
        truth, image = truth * np.float32(scale), image * np.float32(scale)
        readout, dark = self._readout(truth, shape), np.zeros((1, 1), dtype=np.float32)
        for stage in self.detector:
            truth, dark = stage.expect(truth, readout), stage.expect(dark, readout)
            image = stage.apply(image, readout, purpose_key(seed, index, stage.stage))
        return Distorted(
            where.affine, where.slow, where.displacement, truth=truth, distorted=image, mask=readout.mask,
            expected_counts=number(self.expected_counts), scale=scale, gain=readout.gain,
            black_level=float(dark[0, 0]), step=max((stage.step(readout) for stage in self.detector), default=0.0),
        )  # fmt: skip

    def _readout(self, expected: NDArray[np.float32], shape: tuple[int, int]) -> Readout:
        gain, peak = 1.0, float(expected.max())
        for stage in self.detector:
            gain *= stage.amplification()
        return Readout(
            clock=self.clock(shape),
            counts=number(self.expected_counts),
            brightest=gain * (peak + _DEVIATIONS * math.sqrt(sum(stage.variance(peak) for stage in self.detector))),
            gain=gain,
            mask=np.zeros(shape, dtype=np.uint8),
        )


def _happens(streams: Streams, name: str, probability: Quantity) -> bool:
    return streams.generator(f"{name}.presence").random() < number(probability)


def _scale(truth: NDArray[np.float32], expected_counts: float) -> float:
    mean = float(truth.mean(dtype=np.float64))
    if not (np.isfinite(mean) and mean > _DARK):
        raise FieldError(
            f"the window shows a mean of {mean:g}, which no factor scales to {expected_counts:g} electrons per pixel: "
            "it looks at vacuum or at a dark image; move the window or give the field a background"
        )
    return expected_counts / mean
