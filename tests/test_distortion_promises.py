"""What the engine promises as a whole: the same bytes however it is run, true displacements, symmetries."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from emsynth.distortion import (
    AcCoupling,
    BeamNoise,
    Chain,
    Conversion,
    DarkCurrent,
    Distorted,
    Drift,
    FlyBack,
    Gain,
    Grid,
    Hits,
    Hum,
    LineNoise,
    PickUp,
    Poisson,
    PulseSpread,
    Quantise,
    ReadNoise,
    Readout,
    Resample,
    RowDropout,
    RowGain,
    RowJitter,
    ScanClock,
    ScanSpeed,
    Streak,
    Window,
    XRay,
    affine_split,
    prefilter,
)
from emsynth.distortion.resample import interpolate
from emsynth.distortion.stage import purpose_key
from emsynth.draw import Streams

COMPILED = not numba.config.DISABLE_JIT
SHAPE = (64, 72) if COMPILED else (20, 24)
RUNS = 300 if COMPILED else 24
BIG = (64, 72)
FIXED = {"expected_counts": 20.0, "dwell": 1e-5, "fly_back": 2e-4, "undistorted": 0.0}
TILE = prefilter(0.5 + np.random.default_rng(0).random((24, 30)), True)
WINDOW = Window(SHAPE, 0.1, rotation=0.2, origin=(3.0, 2.0))
EVERYTHING = Chain(
    scan=(RowJitter(), Hum(), Drift(), FlyBack(), ScanSpeed()),
    detector=(
        BeamNoise(), Poisson(), PulseSpread(), Hits(), Streak(), AcCoupling(), LineNoise(), PickUp(), RowGain(),
        RowDropout(), ReadNoise(), Gain(), Quantise(),
    ),
    artefact=(Resample(),), undistorted=0.0,
)  # fmt: skip
CAMERA = Chain(camera=(Conversion(), XRay(), DarkCurrent(), ReadNoise(), Gain(), Quantise()), undistorted=0.0)


def look(grid: Grid) -> np.ndarray:
    return WINDOW.gather(TILE, 0.3, True, grid)


def sample(chain: Chain, index: int) -> Distorted:
    return chain.draw(Streams(5, index), "distort").run(look, SHAPE, 5, index)


def content(made: Distorted) -> bytes:
    return b"".join(part.tobytes() for part in (made.truth, made.distorted, made.displacement, made.mask, made.affine))


@pytest.mark.parametrize("chain", [EVERYTHING, CAMERA], ids=["scan", "camera"])
def test_threads_and_order_change_no_byte(chain: Chain) -> None:
    """One after the other, backwards, or among eight threads: each sample is the same."""
    count = 24 if COMPILED else 4
    alone = [content(sample(chain, n)) for n in range(count)]
    assert [content(sample(chain, n)) for n in reversed(range(count))][::-1] == alone
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: content(sample(chain, n)), range(count))) == alone
    assert len(set(alone)) == count


def test_a_gather_may_run_a_chain_of_its_own() -> None:
    """Nothing that one run works in is another's, in the same thread either."""
    chain = EVERYTHING.draw(Streams(5, 3), "distort")

    def nested(grid: Grid) -> np.ndarray:
        chain.run(look, grid.shape, 9, 9)
        return look(grid)

    assert content(chain.run(nested, SHAPE, 5, 3)) == content(chain.run(look, SHAPE, 5, 3))


def test_a_stage_out_leaves_the_others_as_they_were() -> None:
    """Each remaining stage draws the same values, moves the probe alike and adds the same noise."""
    drawn = EVERYTHING.draw(Streams(5, 1), "distort")
    for left_out in ("hum", "hits", "row_jitter", "line_noise"):
        parts = {p: tuple(s for s in getattr(EVERYTHING, p) if s.stage != left_out) for p in ("scan", "detector")}
        fewer = EVERYTHING.model_copy(update=parts).draw(Streams(5, 1), "distort")
        for part in ("scan", "detector"):
            assert getattr(fewer, part) == tuple(s for s in getattr(drawn, part) if s.stage != left_out)
    clock = drawn.clock(SHAPE)
    for stage in drawn.scan:
        moved = stage.move(clock, purpose_key(5, 1, stage.stage)).displacement()
        np.testing.assert_array_equal(moved, stage.move(clock, purpose_key(5, 1, stage.stage)).displacement())


def blobs(grid: Grid) -> np.ndarray:
    """A scene without lattice and without edges, known everywhere."""
    row, col = grid.positions() / max(BIG)
    wave = np.sin(5 * row + 2 * col) + np.cos(4 * col - 3 * row) + np.sin(7 * row * col + 1)
    return (2 + 0.4 * wave).astype(np.float32)


@pytest.mark.parametrize("geometry", ["affine", "ideal"])
def test_inverse_warp_of_a_smooth_displacement_recovers_the_truth(geometry: str) -> None:
    """With gradients below 0.3, pulling each pixel back along the recorded displacement undoes it."""
    scan = (
        Drift(distance=0.09 * BIG[0], direction=30.0, bend=0.04 * BIG[0], bend_direction=100.0),
        Hum(amplitude=0.8, lines=1, mains=16.0, mechanical=0.0, line_start="free"),
    )
    chain = Chain.model_validate(FIXED | {"scan": scan, "truth_geometry": geometry})
    made = chain.run(blobs, BIG, 0, 0)
    moved = made.displacement.astype(np.float64)
    assert np.abs(np.stack(np.gradient(moved, axis=(1, 2)))).max() < 0.3
    assert np.abs(moved).max() > 0.3
    # The truth's pixel q was scanned at the pixel p with p + displacement(p) = q, up to the shared affine map.
    linear = np.linalg.inv(np.eye(2) + made.affine[:, :2])
    q = np.indices(BIG, dtype=np.float64)
    p = q.copy()
    for _ in range(60):
        at = np.stack([map_coordinates(part, p, order=3, mode="nearest") for part in moved])
        p = q - np.einsum("ij,jrc->irc", linear, at)
    inner = np.s_[8:-8, 8:-8] if geometry == "affine" else np.s_[12:-12, 12:-12]
    recovered = map_coordinates(made.distorted.astype(np.float64), p, order=3)[inner]
    error = np.abs(recovered - made.truth[inner]).max() / np.ptp(made.truth)
    assert error < 2e-3
    assert error < 0.1 * np.abs(made.distorted - made.truth)[inner].max() / np.ptp(made.truth)


def test_the_noise_free_image_is_the_field_at_the_recorded_positions() -> None:
    """To the last bit, for every truth geometry and with a streak's shift of the truth."""
    scan = EVERYTHING.draw(Streams(5, 2), "distort").scan[:4]
    for geometry in ("affine", "smooth", "ideal"):
        made = Chain.model_validate(FIXED | {"scan": scan, "truth_geometry": geometry}).run(look, SHAPE, 5, 2)
        seen = WINDOW.gather(TILE, 0.3, True, made.probe_positions()) * np.float32(made.scale)
        np.testing.assert_allclose(made.distorted, seen, rtol=1e-6)


def test_a_crop_keeps_its_place_in_the_scan() -> None:
    """What a user cuts out was scanned with all the rest: the same displacement, in px of the enlarged image."""
    scan = (Drift(distance=3.0, direction=40.0, bend=1.0, bend_direction=200.0),
            FlyBack(amplitude=9.0, amplitude_frame=5.0, settling=3e-4),
            Hum(amplitude=0.5, lines=2, mains=50.0, mechanical=0.0, line_start="mains"))  # fmt: skip
    fixed = FIXED | {"scan": scan, "truth_geometry": "ideal"}
    whole = Chain.model_validate(fixed).run(look, SHAPE, 5, 0)
    cut = Resample(share=0.5, interpolation="bilinear")
    chain = Chain.model_validate(fixed | {"artefact": (cut,)})
    top, left, rows, cols = chain.region(SHAPE, 5, 0)
    part = chain.positions(SHAPE, 5, 0).displacement
    np.testing.assert_allclose(part, whole.displacement[:, top : top + rows, left : left + cols], atol=2e-3)


def test_a_crop_shows_its_part_of_the_window() -> None:
    """The truth is that of the whole window, cut out and enlarged; so is where it says that it looks."""
    whole = Chain.model_validate(FIXED).run(look, SHAPE, 5, 0)
    chain = Chain.model_validate(FIXED | {"artefact": (Resample(share=0.5, interpolation="nearest"),)})
    top, left, rows, cols = chain.region(SHAPE, 5, 0)
    assert top + left > 0
    made = chain.run(look, SHAPE, 5, 0)
    part = whole.truth[top : top + rows, left : left + cols] / whole.scale
    enlarged = np.maximum(interpolate(part, SHAPE, "cubic"), part.min())
    np.testing.assert_allclose(made.truth / made.scale, enlarged, rtol=1e-4)
    corner = made.truth_positions()[:, 0, 0]
    np.testing.assert_allclose(corner, [top - 0.5 + rows / SHAPE[0] / 2, left - 0.5 + cols / SHAPE[1] / 2])


def test_no_stage_has_the_random_numbers_of_another() -> None:
    """What counting and reading out add to one sample is not related, nor are the rows that jitter and are offset."""
    flat = Chain.model_validate(FIXED)
    noises = []
    for stage in (Poisson(), ReadNoise(sigma=1.0)):
        made = flat.model_copy(update={"detector": (stage,)}).run(
            lambda grid: np.ones(grid.shape, np.float32), SHAPE, 5, 0)  # fmt: skip
        noises.append((made.distorted - made.truth).ravel())
    assert abs(np.corrcoef(*noises)[0, 1]) < 5 / np.sqrt(noises[0].size)
    tags = [stage.stage for part in ("scan", "detector") for stage in getattr(EVERYTHING, part)]
    assert len({purpose_key(5, 0, tag) for tag in tags}) == len(tags)


def test_beam_noise_of_a_crop_is_that_of_the_scan() -> None:
    """The current at a pixel does not depend on what is cut off."""
    beam, side = BeamNoise(sigma=0.05, fastest=2e-4), 24

    def factors(clock: ScanClock) -> np.ndarray:
        state = Readout(clock, 20.0, 100.0, 1.0, np.zeros(clock.shape, np.uint8))
        return beam.apply(np.ones(clock.shape, np.float32), state, 3)

    whole = factors(ScanClock(side, side, 1e-5, 2e-4))
    part = factors(ScanClock(8, 10, 1e-5, 2e-4, (5, 7), (side, side)))
    np.testing.assert_allclose(part / part.mean(), whole[5:13, 7:17] / whole[5:13, 7:17].mean(), rtol=1e-5)


def test_any_gather_will_do() -> None:
    """Fortran order and double precision give the same bytes; another shape is refused."""
    chain = EVERYTHING.draw(Streams(5, 4), "distort")
    other = chain.run(lambda grid: np.asfortranarray(look(grid).astype(np.float64)), SHAPE, 5, 4)
    assert content(other) == content(chain.run(look, SHAPE, 5, 4))
    with pytest.raises(ValueError, match="was asked for"):
        chain.run(lambda grid: look(grid)[1:], SHAPE, 5, 4)


def test_a_ramp_integrates_along_its_displaced_path() -> None:
    """Scan speed 1 shows the mean of the field from half a pixel before to half a pixel after, on the probe's way."""
    jitter = RowJitter(sigma=0.7, ratio=0.3, correlation=0.2)
    made = Chain.model_validate(FIXED | {"scan": (jitter, ScanSpeed(path=1.0))}).run(blobs, SHAPE, 0, 0)
    grid, points = made.probe_grid(), np.linspace(-0.5, 0.5, 21)
    step = np.array([[0.0, 0.0, grid.affine[0, 1]], [0.0, 0.0, grid.affine[1, 1]]])
    path = [blobs(Grid(SHAPE, grid.affine + s * step, grid.offsets)) for s in points]
    weights = np.where(np.abs(points) == 0.5, 0.5, 1.0) / 20
    # Jitter is constant within a row, so that the way to the next pixel is the grid's own.
    np.testing.assert_allclose(made.distorted, np.tensordot(weights, path, 1) * made.scale, rtol=2e-5)
    sharp = Chain.model_validate(FIXED | {"scan": (jitter, ScanSpeed(path=0.0))}).run(blobs, SHAPE, 0, 0)
    np.testing.assert_array_equal(sharp.truth, made.truth)
    np.testing.assert_array_equal(sharp.distorted, blobs(grid) * np.float32(sharp.scale))


def test_jitter_has_the_spectrum_of_an_ar1_series() -> None:
    """S(f) = σ²(1 - φ²)/(1 - 2φ cos 2πf + φ²), within five standard errors at each frequency."""
    rows, sigma, phi = 64, 1.3, 0.7
    clock, jitter = ScanClock(rows, 2, 1e-6, 1e-4), RowJitter(sigma=sigma, ratio=0.0, correlation=phi)
    drawn = np.stack([jitter.move(clock, purpose_key(0, n, "row_jitter")).rows[1, 0] for n in range(4 * RUNS)])
    power = (np.abs(np.fft.rfft(drawn, axis=1)) ** 2 / rows).mean(axis=0)
    f = np.arange(rows // 2 + 1) / rows
    spectrum = sigma**2 * (1 - phi**2) / (1 - 2 * phi * np.cos(2 * np.pi * f) + phi**2)
    # The periodogram is the spectrum seen through Fejér's kernel: the transform of the series' tapered correlation.
    lag = np.arange(rows)
    tapered = sigma**2 * phi**lag * (1 - lag / rows)
    expected = tapered[0] + 2 * (tapered[1:] @ np.cos(2 * np.pi * np.outer(lag[1:], f)))
    np.testing.assert_allclose(power / expected, 1, atol=5 * np.sqrt(2 / (4 * RUNS)))
    np.testing.assert_allclose(expected[4:], spectrum[4:], rtol=0.1)


def test_the_fly_back_curve_is_recovered_from_a_distorted_grid() -> None:
    """The local phase of two gratings a quarter period apart follows -a·exp(-(t + t_fb)/b), row after row."""
    fly_back = FlyBack(amplitude=9.0, amplitude_frame=6.0, settling=1.5e-4)
    chain = Chain.model_validate(FIXED | {"scan": (fly_back,), "truth_geometry": "ideal"})
    period, clock = 40.0, chain.clock(SHAPE)
    for axis in (0, 1):
        gratings = [
            lambda grid, lag=lag, axis=axis: (
                2 + np.cos(2 * np.pi * (grid.positions()[axis] / period - lag))
            ).astype(np.float32)
            for lag in (0.0, 0.25)
        ]
        made = [chain.run(grating, SHAPE, 0, 0) for grating in gratings]
        cosine, sine = (m.distorted / m.scale - 2 for m in made)
        phase = np.unwrap(np.unwrap(np.arctan2(sine, cosine), axis=1), axis=0)
        curve = phase * period / (2 * np.pi) - np.indices(SHAPE)[axis]
        curve -= period * np.round((curve[-1, -1]) / period)
        elapsed = clock.times() if axis == 0 else np.broadcast_to(clock.col_times(), SHAPE)
        size = 6.0 if axis == 0 else 9.0
        np.testing.assert_allclose(curve, -size * np.exp(-(elapsed + 2e-4) / 1.5e-4), atol=0.005)


def test_what_remains_of_a_split_has_no_affine_part() -> None:
    """Split again, the rest gives next to nothing, whatever moved; the slope left is below 1e-3 px over the window."""
    for index in range(12 if COMPILED else 3):
        drawn = EVERYTHING.draw(Streams(5, index), "distort")
        clock = drawn.clock(SHAPE)
        moved = sum(s.move(clock, purpose_key(5, index, s.stage)).displacement() for s in drawn.scan)
        _, rest = affine_split(moved)
        again, _ = affine_split(rest)
        corners = again @ np.array([[0, 0, 1], [SHAPE[0], 0, 1], [0, SHAPE[1], 1], [*SHAPE, 1]]).T
        assert np.abs(corners).max() < 0.02 * max(1.0, np.abs(moved).max())


def skewness(image: np.ndarray, axis: int) -> float:
    """Mean cube of the steps along an axis over their deviation: changes its sign when the image is flipped."""
    step = np.diff(image.astype(np.float64), axis=axis)
    return float((step**3).mean() / step.std() ** 3)


def test_flips_of_a_scanned_image() -> None:
    """Without settling along y, carry-over and row read-out, up-down is a symmetry; left-right is not."""
    scan = (
        RowJitter(sigma=0.6, ratio=0.4, correlation=0.3), Drift(distance=2.0, bend=0.0),
        FlyBack(amplitude=8.0, amplitude_frame=0.0, settling=1e-4),
    )  # fmt: skip
    # The fly-back is so long that nothing is carried over.
    streak = Streak(shape="exponential", decay=3.0, fraction=0.9, beam="blanked")
    chain = Chain(scan=scan, detector=(Poisson(), streak), expected_counts=8.0, dwell=1e-5, fly_back=1e-3,
                  undistorted=0.0)  # fmt: skip

    def lattice(grid: Grid) -> np.ndarray:
        # Symmetric about the middle of the window.
        row, col = grid.positions() - (np.array(SHAPE)[:, None, None] - 1) / 2
        return np.exp(2 * np.cos(2 * np.pi * row / 9) + 2 * np.cos(2 * np.pi * col / 9)).astype(np.float32)

    images = [chain.draw(Streams(1, n), "d").run(lattice, SHAPE, 1, n).distorted for n in range(RUNS)]
    down, across = (np.array([skewness(image, axis) for image in images]) for axis in (0, 1))
    assert abs(down.mean()) < 5 * down.std() / np.sqrt(RUNS)
    assert abs(across.mean()) > 10 * across.std() / np.sqrt(RUNS)
    flipped = np.array([skewness(image[::-1], 0) for image in images])
    np.testing.assert_allclose(flipped, -down)


def test_a_shifted_flip_is_no_symmetry_of_settling_along_y() -> None:
    """The frame's own settling bends its first rows only: the same figure shows what the symmetric chain lacks."""
    settle = FlyBack(amplitude=0.0, amplitude_frame=20.0, settling=1e-2)
    chain = Chain.model_validate(FIXED | {"scan": (settle,), "truth_geometry": "ideal"})
    moved = np.abs(chain.positions(SHAPE, 0, 0).displacement[0].astype(np.float64))
    assert moved[0].mean() > 1.2 * moved[-1].mean()
