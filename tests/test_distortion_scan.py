"""Scan stages: the statistics, phases and limits that their equations promise; and the affine split."""

import numba
import numpy as np
import pytest

from emsynth.distortion import Drift, FlyBack, Hum, RowJitter, ScanClock, affine_split
from emsynth.distortion.stage import purpose_key

COMPILED = not numba.config.DISABLE_JIT
CLOCK = ScanClock(rows=32, cols=24, dwell=10e-6, fly_back=200e-6)


def hum(**parts: object) -> Hum:
    fixed = {"amplitude": 1.0, "lines": 1, "mains": 50.0, "mechanical": 0, "line_start": "free"}
    return Hum.model_validate(fixed | parts)


def test_clock_visits_pixels_row_by_row() -> None:
    """t(r, c) = r·(C·τ + t_fb) + c·τ."""
    assert CLOCK.times()[3, 5] == pytest.approx(3 * (24 * 10e-6 + 200e-6) + 5 * 10e-6)
    assert CLOCK.frame == pytest.approx(32 * 440e-6)


def test_jitter_has_its_deviation_and_correlation() -> None:
    """σ in both axes and φ between rows, within five standard errors; one offset per row."""
    clock, jitter = ScanClock(16, 3, 1e-6, 1e-4), RowJitter(sigma=1.5, ratio=0.4, correlation=0.6)
    runs = 1500 if COMPILED else 150
    drawn = np.stack([jitter.move(clock, purpose_key(0, n, "row_jitter")).displacement() for n in range(runs)])
    assert (np.ptp(drawn, axis=3) == 0).all()
    rows = drawn[:, :, :, 0] / np.array([[0.6], [1.5]])
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=5 / np.sqrt(2 * runs))
    lag = (rows[:, :, 1:] * rows[:, :, :-1]).mean(axis=0)
    np.testing.assert_allclose(lag, 0.6, atol=5 * np.sqrt(1.36 / runs))


def test_jitter_of_a_wider_scan_is_the_same() -> None:
    """The offsets belong to the rows, not to the number of pixels."""
    jitter = RowJitter(sigma=1.0, ratio=0.2, correlation=0.5)
    wide = jitter.move(ScanClock(32, 40, 1e-5, 2e-4), 7).displacement()
    np.testing.assert_array_equal(jitter.move(CLOCK, 7).displacement(), wide[:, :, :24])


def test_hum_is_one_sine_in_time() -> None:
    """A single mains line is A sin(2πft + φ) of the clock's time, also within a row."""
    moved = hum(amplitude=0.7).move(CLOCK, 3).displacement()
    t = 2 * np.pi * 50 * CLOCK.times().ravel()
    basis = np.stack([np.sin(t), np.cos(t)], axis=1)
    size = 0.0
    for axis in moved:
        fit, *_ = np.linalg.lstsq(basis, axis.ravel(), rcond=None)
        np.testing.assert_allclose(basis @ fit, axis.ravel(), atol=1e-12)
        size += fit @ fit
    assert size == pytest.approx(0.7**2)


def test_synchronised_mains_has_the_same_phase_in_each_row() -> None:
    """Every row is the first row."""
    stage = hum(line_start="mains", lines=4)
    paced = stage.pace(CLOCK)
    assert paced.row_period >= CLOCK.row_period
    assert stage.pace(paced) == paced
    moved = stage.move(paced, 3).displacement()
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-9)
    assert np.ptp(moved) > 0


def test_more_lines_leave_the_first_alone() -> None:
    """Each line draws its own numbers."""
    added = hum(lines=2).move(CLOCK, 3).displacement() - hum(lines=1).move(CLOCK, 3).displacement()
    assert 0 < np.abs(added).max() <= 1


def test_slow_lines_only_are_slow() -> None:
    """50 Hz is slow where 32 rows take less than 20 ms, and fast where they take more."""
    quick, lazy = ScanClock(8, 8, 1e-6, 1e-4), ScanClock(8, 8, 1e-4, 1e-3)
    np.testing.assert_array_equal(hum().move_slowly(quick, 3).displacement(), hum().move(quick, 3).displacement())
    assert not hum().move_slowly(lazy, 3).displacement().any()


def test_drift_covers_its_path_in_its_direction() -> None:
    """v·T along one direction and ½a·T² along another, at the frame's end."""
    drift = Drift(distance=3.0, direction=90.0, bend=2.0, bend_direction=0.0)
    last = drift.move(CLOCK, 0).displacement()[:, -1, -1]
    share = CLOCK.times()[-1, -1] / CLOCK.frame
    np.testing.assert_allclose(last, [3 * share, 2 * share**2])


def test_fly_back_settles_in_each_line_and_once_in_the_frame() -> None:
    """-a·exp(-(t + t_fb)/b): col restarts with each row, row with the frame."""
    moved = FlyBack(amplitude=20.0, amplitude_frame=10.0, settling=300e-6).move(CLOCK, 0).displacement()
    np.testing.assert_allclose(moved[1], np.broadcast_to(moved[1, :1], moved[1].shape))
    assert moved[1, 4, 0] == pytest.approx(-20 * np.exp(-200 / 300))
    np.testing.assert_allclose(moved[0], -10 * np.exp(-(CLOCK.times() + 200e-6) / 300e-6))


def test_split_finds_an_affine_displacement() -> None:
    """What is affine leaves no rest; what does not move has no affine part."""
    affine = np.array([[0.01, -0.02, 3.0], [0.005, 0.03, -1.0]])
    moved = np.einsum("ij,jrc->irc", affine, np.stack([*np.indices((40, 50)), np.ones((40, 50))]))
    found, rest = affine_split(moved)
    np.testing.assert_allclose(found, affine, atol=1e-7)
    assert np.abs(rest).max() < 1e-5
    assert not any(part.any() for part in affine_split(np.zeros((2, 5, 6))))


def test_split_is_not_tilted_by_a_transient() -> None:
    """An outlying stretch of a tenth of the rows moves the affine part by next to nothing."""
    moved = np.zeros((2, 60, 40))
    moved[1] = 0.02 * np.arange(60)[:, None]
    moved[1, :6] -= 15
    found, rest = affine_split(moved)
    np.testing.assert_allclose(found[1], [0.02, 0, 0], atol=5e-3)
    assert rest[1, :6].max() < -14.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (2, 3)])
def test_split_of_small_windows_stays_finite(shape: tuple[int, int]) -> None:
    """A window without extent along an axis has no slope there."""
    affine, rest = affine_split(np.full((2, *shape), 0.7))
    assert np.isfinite(affine).all()
    np.testing.assert_allclose(rest, 0, atol=1e-6)


def test_split_leaves_the_sum_unchanged() -> None:
    """Affine part and rest are the displacement."""
    moved = np.random.default_rng(0).normal(size=(2, 20, 30))
    affine, rest = affine_split(moved)
    whole = rest + np.einsum("ij,jrc->irc", affine, np.stack([*np.indices((20, 30)), np.ones((20, 30))]))
    np.testing.assert_allclose(whole, moved, atol=1e-12)
