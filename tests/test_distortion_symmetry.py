"""Which symmetries of the square a chain allows, and that its stages keep what they claim."""

from __future__ import annotations

from itertools import product

import numba
import numpy as np
import pytest

from emsynth.distortion import Chain, Detection, Readout, RowColumnOffsets, ScanClock, Seams
from emsynth.distortion.chain import CAMERA_ORDER, DETECTOR_ORDER
from emsynth.distortion.stage import Pair, ProbeMotion, purpose_key
from emsynth.distortion.symmetry import FLIPS, IDENTITY, LEFT_RIGHT, REVERSAL, SQUARE, Turn
from emsynth.draw import Streams
from emsynth.recipe import Recipe

SIDE = 24
COUNTS = 20.0
TURNS = sorted(SQUARE)
SAMPLES = 300

compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="hundreds of images, too slow in plain Python")


def turned(image: np.ndarray, turn: Turn) -> np.ndarray:
    """Transpose, then flip the rows, then the columns; the last two axes."""
    transpose, rows, cols = turn
    image = np.swapaxes(image, -1, -2) if transpose else image
    image = image[..., ::-1, :] if rows else image
    return image[..., ::-1] if cols else image


def moved_by(displacement: np.ndarray, turn: Turn) -> np.ndarray:
    """A displacement (2, R, C) of the image that is turned over: its vectors turn over with it."""
    transpose, rows, cols = turn
    out = turned(displacement, turn)
    out = out[::-1] if transpose else out
    return out * np.array([-1.0 if rows else 1.0, -1.0 if cols else 1.0])[:, None, None]


def chain(name: str, **parts: object) -> Chain:
    return Recipe.load(name).distort.model_copy(update=parts)


def test_the_allowed_operations_are_groups() -> None:
    """One after the other is a third one, whichever stages a chain has; the identity is the first."""
    marked = np.arange(9).reshape(3, 3)
    drawn = Seams().symmetries(), RowColumnOffsets().symmetries()
    for allowed in (IDENTITY, LEFT_RIGHT, REVERSAL, FLIPS, SQUARE, *drawn):
        looks = {turned(marked, turn).tobytes() for turn in allowed}
        assert {turned(turned(marked, one), two).tobytes() for one, two in product(allowed, allowed)} == looks
        assert (False, False, False) in allowed
    assert chain("stem_hd").symmetry[0] == (False, False, False)


def test_chains_of_the_shipped_recipes() -> None:
    """A scan with settling and streak has none; a camera has all, overlays included, which its truth shows as well."""
    assert chain("stem_hd").symmetry == ((False, False, False),)
    assert chain("tem_hd").symmetry == tuple(TURNS)
    assert chain("stem_hd", scan=(), detector=(), artefact=()).symmetry == tuple(TURNS)


def test_distributions_decide_where_a_stage_says_so() -> None:
    """Seams in one half of the frame, and rows that are noisier than columns, are not alike under all."""
    assert Seams().symmetries() == SQUARE
    assert Seams(row={"dist": "uniform", "low": 0.0, "high": 0.5}).symmetries() == LEFT_RIGHT
    assert Seams(row=0.5, col=0.5).symmetries() == SQUARE
    assert RowColumnOffsets().symmetries() == SQUARE
    assert RowColumnOffsets(row_sigma=0.1, column_sigma=0.2).symmetries() == FLIPS


def residuals(stage: Detection) -> np.ndarray:
    """What a stage does to flat images, drawn anew each time, (n, R, C)."""
    made = []
    for index in range(SAMPLES):
        present = stage.present(Streams(5, index), "stage")
        clock = ScanClock(SIDE, SIDE, 4e-6, 1e-4)
        readout = Readout(clock, COUNTS, 60.0, 1.0, np.zeros((SIDE, SIDE), np.uint8))
        image = np.full((SIDE, SIDE), COUNTS, np.float32)
        out = present.apply(image, readout, purpose_key(5, index, stage.stage))
        made.append(np.clip(out / COUNTS - 1, -3, 3))
    return np.array(made)


def statistics(images: np.ndarray) -> np.ndarray:
    """Of each image: means of its four edges, and products of neighbours, also three in a row; (n, k)."""
    edges = [images[:, 0].mean(-1), images[:, -1].mean(-1), images[:, :, 0].mean(-1), images[:, :, -1].mean(-1)]
    here = images[:, 2:-2, 2:-2]
    pairs = [(here * images[:, 2 + r:SIDE - 2 + r, 2 + c:SIDE - 2 + c]).mean((1, 2))
             for r, c in ((0, 1), (1, 0), (1, 1), (1, -1))]
    signed = [(here * (images[:, 2 + r:SIDE - 2 + r, 2 + c:SIDE - 2 + c] ** 2)).mean((1, 2))
              for r, c in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    return np.stack([*edges, *pairs, *signed], axis=-1)


def differs(images: np.ndarray, turn: Turn) -> float:
    """By how many standard errors a statistic changes at most where all images are turned over."""
    change = statistics(images) - statistics(np.ascontiguousarray(turned(images, turn)))
    scatter = change.std(axis=0) / np.sqrt(len(change))
    return float(np.max(np.abs(change.mean(axis=0)) / np.maximum(scatter, 1e-12)))


@compiled
@pytest.mark.parametrize("tag", sorted({*DETECTOR_ORDER, *CAMERA_ORDER} - {"conversion", "gain", "black_level"}))
def test_stages_look_the_same_turned_over(tag: str) -> None:
    """Edges, neighbours and the direction of tails: within five standard errors, where a stage says so."""
    stage = _kinds()[tag]
    images = residuals(stage)
    for turn in stage.symmetries():
        assert differs(images, turn) < 5, turn


@compiled
@pytest.mark.parametrize(("tag", "turn"), [
    ("streak", (False, False, True)), ("line_noise", (True, False, False)), ("row_gain", (True, False, False)),
    ("row_dropout", (True, False, False))])
def test_stages_that_do_not_say_so_do_not(tag: str, turn: Turn) -> None:
    """The same statistics tell a tail's direction, and rows from columns."""
    stage = _kinds()[tag]
    assert turn not in stage.symmetries()
    # Hits, so that a streak has something to trail.
    hits, images = _kinds()["hits"], None
    if tag == "streak":
        made = []
        for index in range(SAMPLES):
            clock = ScanClock(SIDE, SIDE, 4e-6, 1e-4)
            readout = Readout(clock, COUNTS, 60.0, 1.0, np.zeros((SIDE, SIDE), np.uint8))
            image = hits.model_copy(update={"rate": 2000.0, "amplitude": 1.0}).apply(
                np.full((SIDE, SIDE), COUNTS, np.float32), readout, purpose_key(5, index, "hits"))
            present = stage.model_copy(update={"shape": "exponential", "decay": 3.0, "fraction": 1.0, "beam": "on"})
            made.append(np.clip(present.apply(image, readout, 1) / COUNTS - 1, -3, 3))
        images = np.array(made)
    else:
        images = residuals(stage)
    assert differs(images, turn) > 5


@compiled
@pytest.mark.parametrize("tag", ["row_jitter", "hum"])
def test_scan_stages_look_the_same_turned_over(tag: str) -> None:
    """Products of the displacements of neighbouring pixels, along both axes and both diagonals."""
    stage = _kinds()[tag]
    clock, maps = ScanClock(SIDE, SIDE, 4e-5, 1e-4), []
    for index in range(SAMPLES):
        present = stage.present(Streams(5, index), "stage")
        maps.append(present.move(clock, purpose_key(5, index, tag)).displacement())

    def products(all_of: list[np.ndarray]) -> np.ndarray:
        d = np.array(all_of)
        return np.stack([(d[:, a, 6:-6, 6:-6] * d[:, b, 6 + r:SIDE - 6 + r, 6 + c:SIDE - 6 + c]).mean((1, 2))
                         for a, b in ((0, 0), (1, 1)) for r, c in ((0, 5), (1, 0), (1, 5), (1, -5))], axis=-1)

    for turn in TURNS:
        change = products(maps) - products([moved_by(d, turn) for d in maps])
        errors = np.abs(change.mean(axis=0)) / np.maximum(change.std(axis=0) / np.sqrt(SAMPLES), 1e-12)
        if turn in stage.symmetries():
            assert errors.max() < 5, turn
        elif turn[0]:
            assert errors.max() > 5, turn


def test_borders_are_alike_on_all_sides() -> None:
    """The share of the frame that is covered, side by side."""
    border, covered = _kinds()["border"], []
    for index in range(SAMPLES):
        pair = Pair(*(np.ones((SIDE, SIDE), np.float32) for _ in range(2)), np.zeros((SIDE, SIDE), np.uint8), 1.0, 0.0,
                    0.0, None)
        border.present(Streams(5, index), "stage").retouch(pair, purpose_key(5, index, "border"))
        covered.append(pair.mask > 0)
    bands = np.array(covered, float)
    shares = np.stack([bands[:, :4].mean((1, 2)), bands[:, -4:].mean((1, 2)), bands[:, :, :4].mean((1, 2)),
                       bands[:, :, -4:].mean((1, 2))])
    error = shares.std(axis=1) / np.sqrt(SAMPLES)
    assert np.ptp(shares.mean(axis=1)) < 5 * error.max()
    assert shares.mean() > 0.1


def _kinds() -> dict[str, Detection | ProbeMotion]:
    # Every stage with the distributions that it has by default, and present.
    import emsynth.distortion as all_of

    kinds = [getattr(all_of, name) for name in all_of.__all__]
    stages = [kind for kind in kinds if isinstance(kind, type) and "stage" in getattr(kind, "model_fields", {})]
    return {kind.model_fields["stage"].default: kind() for kind in stages
            if isinstance(kind.model_fields["stage"].default, str)}
