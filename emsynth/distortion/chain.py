"""The chain: from a clean field to a truth, its distorted image, and the displacement between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from emsynth.distortion._kernels import motion as kernels
from emsynth.distortion.artefact import ArtefactStage
from emsynth.distortion.camera import CameraStage
from emsynth.distortion.detector import DetectorStage
from emsynth.distortion.exposure import Gather as Gather
from emsynth.distortion.exposure import exposed, return_room, seen, take_room
from emsynth.distortion.positions import Positions
from emsynth.distortion.resample import Resample, enlarged_map
from emsynth.distortion.scan import ScanStage
from emsynth.distortion.split import affine_part
from emsynth.distortion.stage import Detection, Motion, Pair, Readout, ScanClock, Stage, happens, purpose_key, row_means
from emsynth.distortion.symmetry import SQUARE, Turn
from emsynth.draw import Drawable, LogUniform, Quantity, Streams, number, quantity
from emsynth.errors import FieldError

# An operator leaves room for this many standard deviations above the brightest expected signal.
_DEVIATIONS = 4.0
# A mean fraction of the beam below this is rounding, not signal.
_DARK = 1e-9

Part = tuple[int, int, int, int]


def _tags(union: object) -> tuple[str, ...]:
    return tuple(kind.model_fields["stage"].default for kind in get_args(get_args(union)[0]))


SCAN_ORDER = _tags(ScanStage)
DETECTOR_ORDER = _tags(DetectorStage)
CAMERA_ORDER = _tags(CameraStage)
ARTEFACT_ORDER = _tags(ArtefactStage)
_PARTS = {"scan": SCAN_ORDER, "detector": DETECTOR_ORDER, "camera": CAMERA_ORDER, "artefact": ARTEFACT_ORDER}
# Of these a chain has one at most: each of them counts the electrons.
_COUNTING = ({"poisson", "compound_poisson"}, {"conversion", "counting"})


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
    sampling : float or None
        Size of a pixel, Å, where it is known.

    After a gamma the intensity is not linear any more: gain, black level and step are then NaN where nothing is meant.
    """

    truth: NDArray[np.float32]
    distorted: NDArray[np.float32]
    mask: NDArray[np.uint8]
    expected_counts: float
    scale: float
    gain: float
    black_level: float
    step: float
    sampling: float | None


class DarkWindowError(FieldError):
    """A window shows nothing that could be scaled to the expected counts."""


class Chain(Drawable):
    """The instrument's distortions of one recipe: counting statistics, scan and detector, or camera, and what follows.

    Scan stages add up, in whichever order they are listed; the others stand in the order in which they happen. Each
    kind stands once at most. A microscope scans and has a detector (STEM, SEM), or it has a camera (TEM).
    """

    validate_drawn = False  # so that a draw costs microseconds

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
        0.0, unit="1", low=0, high=1, about="Share of the samples that are identity pairs"
    )
    scan: tuple[ScanStage, ...] = ()
    detector: tuple[DetectorStage, ...] = ()
    camera: tuple[CameraStage, ...] = ()
    artefact: tuple[ArtefactStage, ...] = ()

    @model_validator(mode="after")
    def _each_once_in_order(self) -> Self:
        for part, order in _PARTS.items():
            listed = [stage.stage for stage in getattr(self, part)]
            for tag in listed:
                if listed.count(tag) > 1:
                    raise ValueError(f"{part}: '{tag}' stands {listed.count(tag)} times; keep one of them")
            for before, after in pairwise(listed) if part != "scan" else ():
                if order.index(after) < order.index(before):
                    raise ValueError(f"{part}: '{after}' acts before '{before}'; move it up, the order is "
                                     f"{', '.join(order)}")
            if "pulse_spread" in listed and not {"poisson", "compound_poisson"} & set(listed):
                raise ValueError(f"{part}: 'pulse_spread' spreads pulses of counted electrons; put 'poisson' before it")
            for both in _COUNTING:
                if both <= set(listed):
                    first, second = sorted(both)
                    raise ValueError(f"{part}: '{first}' and '{second}' both count the electrons; keep one of them")
        if self.camera and (self.scan or self.detector):
            other = "scan" if self.scan else "detector"
            raise ValueError(f"camera: a camera sees all pixels at once, so that a chain with a camera has no {other} "
                             "stages; take the one or the other out")
        return self

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Collapse every distribution and decide which stages are present.

        Stages that were not chosen are dropped, chosen ones have probability 1, and `undistorted` becomes 1 (an
        identity pair, without stages) or 0; so a drawn chain draws to itself. Each decision has a stream of its own.
        """
        start = f"{path}." if path else ""
        own = self.drawn_values(streams, path)
        undistorted = own.get("undistorted", self.undistorted)
        if happens(streams, f"{start}undistorted", undistorted):
            return self.plain(own | dict.fromkeys(_PARTS, ()) | {"undistorted": 1.0})
        present: dict[str, object] = {}
        for part in _PARTS:
            stages = ((stage, f"{start}{part}.{stage.stage}") for stage in getattr(self, part))
            present[part] = tuple(stage.present(streams, at) for stage, at in stages if stage.happens(streams, at))
        return self.plain(own | present | {"undistorted": 0.0})

    def drawn_values(self, streams: Streams, path: str) -> dict[str, Any]:
        """Plain values of the chain's own numbers; its stages are drawn where they are present."""
        start = f"{path}." if path else ""
        own = (name for name in self.varying if name not in _PARTS)
        return {name: getattr(self, name).sample(streams, start + name) for name in own}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in the order of the parts."""
        return (*self.scan, *self.detector, *self.camera, *self.artefact)

    @property
    def symmetry(self) -> tuple[Turn, ...]:
        """Operations (transpose, flip_rows, flip_cols) of the square that all stages of an undrawn chain allow.

        They form a group, its identity first. A drawn chain knows no distributions, and so may allow less.
        """
        return tuple(sorted(SQUARE.intersection(*(stage.symmetries() for stage in self.stages))))

    def clock(
        self, shape: tuple[int, int], corner: tuple[int, int] = (0, 0), whole: tuple[int, int] | None = None,
        patch: bool = False,
    ) -> ScanClock:  # fmt: skip
        """Clock of a scan of `shape` (rows, cols), as the scan stages leave it; or of a part of a larger one."""
        clock = ScanClock(*shape, number(self.dwell), number(self.fly_back), corner, whole, patch)
        for stage in self.scan:
            clock = stage.pace(clock)
        return clock

    def region(self, shape: tuple[int, int], seed: int, index: int, part: Part | None = None) -> Part:
        """Part of a window of `shape` that is rendered, because the user cuts the rest off: row, col, rows, cols.

        The microscope scanned all of it: the part keeps its place in the scan's time. Of a window of which only a
        `part` is wanted the user crops that part.
        """
        top, left, rows, cols = part or (0, 0, *shape)
        for stage in self.artefact:
            if isinstance(stage, Resample):
                down, right, rows, cols = stage.region((rows, cols), purpose_key(seed, index, stage.stage))
                return top + down, left + right, rows, cols
        return top, left, rows, cols

    def positions(
        self, shape: tuple[int, int], seed: int, index: int, part: Part | None = None, view: int = 0
    ) -> Positions:  # fmt: skip
        """Where truth and image of sample `index` look, for a window of `shape`; costs no gather.

        The split follows `truth_geometry`. A streak moves content towards larger col by its centroid m; the truth
        looks m px to the left, so that its content moves along. For `part` and `view` see `run` and `run_views`.
        """
        clock = self._part(shape, seed, index, part)
        first = self._positions(clock, seed, index)[0]
        return self._seen_again(first, clock, seed, index, view)[0] if view else first

    def _part(self, shape: tuple[int, int], seed: int, index: int, part: Part | None) -> ScanClock:
        top, left, rows, cols = self.region(shape, seed, index, part)
        return self.clock((rows, cols), (top, left), shape, part is not None and part != (0, 0, *shape))

    def _moved(self, clock: ScanClock, seed: int, index: int, view: int) -> tuple[Motion, Motion | None]:
        # Motion of the probe, and that part of it which the truth shares where its geometry is smooth.
        keyed = [(stage, purpose_key(seed, index, stage.stage, view)) for stage in self._ordered_scan()]
        if not keyed:
            return Motion.none(clock), None
        motion = Motion.total([stage.move(clock, key) for stage, key in keyed])
        if self.truth_geometry != "smooth":
            return motion, None
        return motion, Motion.total([stage.move_slowly(clock, key) for stage, key in keyed])

    def _positions(
        self, clock: ScanClock, seed: int, index: int, view: int = 0
    ) -> tuple[Positions, NDArray[np.float32] | None]:  # fmt: skip
        # Also the displacement once more, as float32, None where there is none.
        (rows, cols), (top, left) = clock.shape, clock.corner
        frame = np.array([[1.0, 0.0, top], [0.0, 1.0, left]])
        motion, shared = self._moved(clock, seed, index, view)
        affine, slow = np.zeros((2, 3)), None
        if self.truth_geometry == "affine" and self.scan:
            affine = affine_part(motion, clock.shape)
        if shared is not None:
            slow, motion = shared.values(), Motion.total([motion, shared.reversed()])
        if self.truth_geometry != "ideal":
            # The image's own positions stay as they are: its content moves by itself.
            affine[1, 2] -= sum(stage.centroid() for stage in self.detector)
        if not (motion.rows.any() or affine.any()):
            return Positions(affine, slow, np.zeros((2, rows, cols), np.float16), frame), None
        moved, half = take_room((2, rows, cols)), np.empty((2, rows, cols), np.uint16)
        kernels.evaluate_half(*motion.factors(affine), moved, half)
        return Positions(affine, slow, half.view(np.float16), frame), moved

    def _seen_again(self, first: Positions, clock: ScanClock, seed: int, index: int,
                    view: int) -> tuple[Positions, NDArray[np.float32] | None]:
        # The first view's truth, with the displacement that is left of this view's own motion.
        again, moved = self._positions(clock, seed, index, view)
        return Positions(first.affine, first.slow, again.displacement, first.frame), moved

    def _ordered_scan(self) -> list[ScanStage]:
        return sorted(self.scan, key=lambda stage: SCAN_ORDER.index(stage.stage))

    def run(
        self, gather: Gather, shape: tuple[int, int], seed: int, index: int, sampling: float | None = None,
        part: Part | None = None,
    ) -> Distorted:  # fmt: skip
        """Distort sample `index`.

        Parameters
        ----------
        gather : callable
            Takes a `Grid` in window px and returns what the field shows there, (R, C), not negative, in an array of
            its own; the grid's offsets are only good for the time of the call.
        shape : (int, int)
            Rows and columns of the window.
        seed, index : int
            Key of every random number, with the stage's name.
        sampling : float, optional
            Size of a window pixel, Å.
        part : (int, int, int, int), optional
            First row and column, rows and columns of the part of the window that is wanted. It keeps its place in the
            scan of the whole window; scaled to the expected counts, and split into what the truth shares and what not,
            is the part alone.

        Returns
        -------
        Distorted

        Raises
        ------
        DarkWindowError
            The window shows nothing, so that it cannot be scaled to the expected counts.
        TypeError
            The chain has not been drawn.
        """
        return self.run_views(gather, shape, seed, index, sampling, part)[0]

    def run_views(
        self, gather: Gather, shape: tuple[int, int], seed: int, index: int, sampling: float | None = None,
        part: Part | None = None, views: int = 1,
    ) -> tuple[Distorted, ...]:  # fmt: skip
        """Distort sample `index` several times, with one and the same truth: see `run`.

        The first view is what `run` gives. The others share the truth and the drawn numbers of the chain; motion and
        noise are their own. Their displacement is what their own motion leaves beside its own affine (or slow) part.
        What the truth shows too (a crop, borders, overlays, the map of intensities) is that of the first view.
        Motion that is no random number, such as drift and the settling after a fly-back, is alike in all of them.

        Returns
        -------
        tuple of Distorted
            As many as `views`.
        """
        for undrawn in self.distributions():
            raise TypeError(f"{undrawn!r} has not been drawn: call .draw(streams) on the chain first")
        clock = self._part(shape, seed, index, part)
        where, moved = self._positions(clock, seed, index)
        truth = seen(gather, where.truth_grid())
        scale = _scale(truth, number(self.expected_counts))
        truth *= np.float32(scale)
        seats, images = [where], [exposed(gather, self.scan, where, moved, truth, np.float32(scale))]
        for view in range(1, views):
            return_room(moved)
            where, moved = self._seen_again(seats[0], clock, seed, index, view)
            seats.append(where)
            images.append(exposed(gather, self.scan, where, moved, truth, np.float32(scale)))
        return_room(moved)
        made = self._detected(gather, clock, seats, truth, images, (seed, index), np.float32(scale))
        for pair in made:
            pair.sampling, pair.frame, pair.place = sampling, shape, part[:2] if part else (0, 0)
        seats = self._retouch(made, seats, part[2:] if part else shape, seed, index)
        return tuple(Distorted(
            where.affine, where.slow, where.displacement, where.frame, truth=pair.truth, distorted=pair.image,
            mask=pair.mask, expected_counts=number(self.expected_counts), scale=scale, gain=pair.gain,
            black_level=pair.black_level, step=pair.step, sampling=pair.sampling,
        ) for pair, where in zip(made, seats, strict=True))  # fmt: skip

    def _detected(
        self, gather: Gather, clock: ScanClock, seats: list[Positions], truth: NDArray[np.float32],
        images: list[NDArray[np.float32]], sample: tuple[int, int], scale: np.float32,
    ) -> list[Pair]:  # fmt: skip
        # Truth and images, electrons, as detector or camera read them out.
        stages: tuple[Detection, ...] = (*self.detector, *self.camera)
        first, dark = self._readout(truth, clock, stages), np.zeros((1, 1), dtype=np.float32)
        readouts = [first, *(replace(first, mask=first.mask.copy()) for _ in seats[1:])]
        for stage in stages:
            margin = stage.margin()
            truth, dark = stage.expect(truth, first), stage.expect(dark, first)
            if margin:
                wide = seen(gather, seats[0].probe_grid(margin)) * scale
                images = [wide.copy() for _ in seats[1:]] + [wide]
            for view, readout in enumerate(readouts):
                images[view] = stage.apply(images[view], readout, purpose_key(*sample, stage.stage, view))
                if margin:
                    images[view] = np.ascontiguousarray(images[view][margin:-margin, margin:-margin])
        step = max((stage.step(first) for stage in stages), default=0.0)
        return [Pair(truth, image, readout.mask, first.gain, float(dark[0, 0]), step, None)
                for image, readout in zip(images, readouts, strict=True)]

    def _retouch(
        self, pairs: list[Pair], seats: list[Positions], shape: tuple[int, int], seed: int, index: int
    ) -> list[Positions]:  # fmt: skip
        for stage in self.artefact:
            if isinstance(stage, Resample):
                seats = [_enlarged(stage, pair, where, shape) for pair, where in zip(pairs, seats, strict=True)]
                continue
            levels = stage.levels(pairs[0])
            for view, pair in enumerate(pairs):
                stage.retouch(pair, purpose_key(seed, index, stage.stage, 0 if stage.shared else view), levels)
        return seats

    def _readout(
        self, expected: NDArray[np.float32], clock: ScanClock, stages: tuple[Detection, ...]
    ) -> Readout:  # fmt: skip
        gain, peak, dark = 1.0, float(expected.max()), np.zeros((1, 1), dtype=np.float32)
        for stage in stages:
            gain *= stage.amplification()
        readout = Readout(
            clock=clock,
            counts=number(self.expected_counts),
            brightest=gain * (peak + _DEVIATIONS * math.sqrt(sum(stage.variance(peak) for stage in stages))),
            gain=gain,
            mask=np.zeros(clock.shape, dtype=np.uint8),
        )
        for stage in stages:
            dark = stage.expect(dark, readout)
        return replace(readout, pedestal=max(0.0, float(dark[0, 0])))


def _scale(truth: NDArray[np.float32], expected_counts: float) -> float:
    mean = float(row_means(truth).mean())
    if not (np.isfinite(mean) and mean > _DARK):
        raise DarkWindowError(
            f"the window shows a mean of {mean:g}, which no factor scales to {expected_counts:g} electrons per pixel: "
            "it looks at vacuum or at a dark image; move the window or give the field a background"
        )
    return expected_counts / mean


def _enlarged(stage: Resample, pair: Pair, where: Positions, shape: tuple[int, int]) -> Positions:
    displacement = stage.enlarge(pair, where.displacement, shape)
    if displacement.shape == where.displacement.shape:
        return where
    return where.enlarged(displacement, None if where.slow is None else enlarged_map(where.slow, shape))
