"""Stages of the TEM camera: transfer, noise power, counting statistics, patterns, defects, photon transfer."""

import typing

import numba
import numpy as np
import pytest
from scipy import ndimage, stats

from emsynth.distortion import Detection, MaskBit, Readout, ScanClock
from emsynth.distortion._kernels import camera as kernels
from emsynth.distortion.camera import (
    BlackLevel,
    CameraStage,
    Conversion,
    Counting,
    DarkCurrent,
    Gain,
    GainMap,
    OffsetMap,
    Quantise,
    ReadNoise,
    RowColumnOffsets,
)
from emsynth.distortion.camera_defects import DeadPixels, HotPixels, Seams, XRay

COMPILED = not numba.config.DISABLE_JIT
SIDE = 320 if COMPILED else 64  # a fast length, so that a flat field is transformed without padding
KEYS = 400 if COMPILED else 60
FLAT = {"weight": 0.5, "narrow": 100.0, "wide": 100.0}  # no MTF but that of the pixel


def readout(shape: tuple[int, ...], counts: float = 20.0, brightest: float = 100.0, gain: float = 1.0) -> Readout:
    rows, cols = shape
    return Readout(ScanClock(rows, cols, 1e-5, 1e-3), counts, brightest, gain, np.zeros((rows, cols), np.uint8))


def run(image: np.ndarray, stage: Detection, key: int = 0, **state: float) -> np.ndarray:
    image = image.astype(np.float32)
    return stage.apply(image, readout(image.shape, **state), key)


def blank(level: float = 0.0, side: int = SIDE) -> np.ndarray:
    return np.full((side, side), level)


def conversion(**changes: float) -> Conversion:
    """A camera as scintillator cameras are: MTF 0.45 at half of Nyquist, 0.19 at Nyquist."""
    return Conversion(**({"weight": 0.4, "narrow": 0.3, "wide": 0.9, "efficiency": 0.7, "exponent": 0.6} | changes))


def frequencies(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of a real transform, in units of Nyquist."""
    return 2 * np.fft.fftfreq(side), 2 * np.fft.rfftfreq(side)


def test_mtf_is_one_at_zero_and_never_negative() -> None:
    """The mean passes, no power of the MTF is complex, and along an axis it is the stated product."""
    stage = conversion()
    g = np.linspace(-1, 1, 41)
    mtf = stage.mtf(g, g)
    assert mtf[20, 20] == pytest.approx(1, abs=1e-12)
    assert mtf.min() > 0
    expected = np.sinc(g / 2) * (0.4 * np.exp(-(g**2) / (2 * 0.3**2)) + 0.6 * np.exp(-(g**2) / (2 * 0.9**2)))
    np.testing.assert_allclose(mtf[20], expected, rtol=1e-12)


def test_conversion_keeps_the_mean() -> None:
    """Five standard errors, on a textured image whose filtered counts stay positive, shape not a fast length."""
    side = SIDE + 3
    r, c = np.mgrid[:side, :side]
    expected = 30 + 10 * np.cos(0.7 * r) + 10 * np.sin(0.5 * c + 0.2 * r)
    seen = run(expected, conversion())
    assert seen.shape == (side, side)
    assert seen.flags.c_contiguous
    inner = slice(16, -16)  # beyond it, the edges are mixed
    size = side - 32
    tolerance = 5 * np.sqrt(30 / 0.7) / size
    assert seen[inner, inner].mean() == pytest.approx(expected[inner, inner].mean(), abs=tolerance)


def edge_response(stage: Conversion, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Frequencies, measured MTF along the row of a straight edge, and its standard error."""
    low, high, margin = 2e8, 3e8, stage.margin()
    image = np.full((side, side + 2 * margin), low)
    image[:, side // 2 + margin :] = high
    profile = run(image, stage).mean(axis=0, dtype=np.float64)[margin:-margin]
    spread = np.diff(profile) / (high - low)
    noise = high / side / stage.efficiency
    return 2 * np.fft.rfftfreq(side - 1), np.abs(np.fft.rfft(spread)), np.sqrt(2 * side * noise) / (high - low)


@pytest.mark.parametrize("exponent", [0.3, 1.0])
def test_edge_shows_the_mtf(exponent: float) -> None:
    """Whichever share of it acts before the counting: the line spread's transform is the MTF, to 0.2 %."""
    stage = conversion(exponent=exponent)
    g, seen, error = edge_response(stage, SIDE)
    assert 5 * error < 0.002
    np.testing.assert_allclose(seen, stage.mtf(np.zeros(1), g)[0], atol=0.002)


def noise_power(stage: Conversion, level: float, side: int, images: int) -> np.ndarray:
    """Periodogram of flat fields, electrons² per pixel, on the half plane of a real transform."""
    total = np.zeros((side, side // 2 + 1))
    for key in range(images):
        total += np.abs(np.fft.rfft2(run(blank(level, side), stage, key) - level)) ** 2
    return total / images / side**2


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
def test_noise_power_of_a_flat_field(exponent: float) -> None:
    """λ MTF^(2κ)/D0 in rings, within five standard errors of a mean of exponential deviates."""
    stage, level = conversion(exponent=exponent), 40.0
    rows, cols = frequencies(SIDE)
    seen = noise_power(stage, level, SIDE, 1) / (level / 0.7 * stage.mtf(rows, cols) ** (2 * exponent))
    g = np.hypot.outer(rows, cols)
    inner = np.zeros(g.shape, bool)
    inner[:, 1:-1] = True  # each of these coefficients occurs once
    for start in np.arange(0.1, 1.3, 0.1):
        ring = seen[inner & (g >= start) & (g < start + 0.1)]
        assert ring.mean() == pytest.approx(1, abs=5 / np.sqrt(ring.size)), f"g = {start:.1f}"


def test_binning_is_that_of_a_finer_camera() -> None:
    """Signal and noise power of n × n pixels added up: a flat field four times as large, summed in squares of two."""
    fine, coarse, level = conversion(exponent=0.5), conversion(exponent=0.5, binning=2), 40.0
    rows, cols = frequencies(SIDE)
    summed = np.zeros((SIDE, SIDE // 2 + 1))
    images = 4
    for key in range(images):
        wide = run(blank(level / 4, 2 * SIDE), fine, key) - level / 4
        pixels = wide.reshape(SIDE, 2, SIDE, 2).sum(axis=(1, 3))
        summed += np.abs(np.fft.rfft2(pixels)) ** 2 / images / SIDE**2
    inner, g = np.s_[:, 1:-1], np.hypot.outer(rows, cols)[:, 1:-1]
    expected = level / 0.7 * coarse.ntf(rows, cols) ** 2
    for power in (summed, noise_power(coarse, level, SIDE, images)):
        for low, high in ((0.1, 0.5), (0.5, 0.9), (0.9, 1.3)):
            ring = (power / expected)[inner][(g >= low) & (g < high)]
            assert ring.mean() == pytest.approx(1, abs=5 / np.sqrt(ring.size * images)), (low, high)
    g, seen, error = edge_response(coarse, SIDE)
    np.testing.assert_allclose(seen, coarse.mtf(np.zeros(1), g)[0], atol=0.002 + 5 * error)


def test_detective_quantum_efficiency() -> None:
    """MTF² λ / noise power, both measured, falls as D0 MTF^(2(1-κ)); 1 % because it bends within a patch."""
    stage, level, images = conversion(narrow=0.6, exponent=0.5), 40.0, 8
    power = noise_power(stage, level, SIDE, images)
    g, mtf, _ = edge_response(stage, SIDE)
    band = np.abs(frequencies(SIDE)[0]) < 0.05
    for at in (0.15, 0.45, 0.75, 0.95):
        columns = np.abs(frequencies(SIDE)[1] - at) < 0.05
        patch = power[np.ix_(band, columns)]
        seen = np.interp(at, g, mtf) ** 2 * level / patch.mean()
        expected = 0.7 * stage.mtf(np.zeros(1), np.array([at]))[0, 0] ** (2 * 0.5)
        assert seen == pytest.approx(expected, rel=5 / np.sqrt(patch.size * images) + 0.01)


def test_margin_keeps_the_far_side_out() -> None:
    """What stands at the opposite edge comes round the transform, but not past the margin, with the widest spread."""
    stage = conversion(weight=1.0, narrow=0.05, exponent=1.0, efficiency=1.0)
    side, margin = 128, stage.margin()
    image = np.full((16, side), 1e8)
    plain = run(image, stage)
    image[:, :margin] *= 2
    lit = run(image, stage)
    change = np.abs(lit - plain).max(axis=0) / 1e8
    assert change[-1] > 0.3
    assert change[-margin - 1] < 1e-4


def test_variance_is_that_of_the_image() -> None:
    """`variance` tells the operator the deviation of a flat field, and one detected electron more."""
    stage, level = conversion(), 400.0
    seen = run(blank(level), stage).var(dtype=np.float64)
    effective = SIDE**2 * float(np.mean(stage.mtf(*frequencies(SIDE)) ** 1.2))  # coefficients that carry the noise
    assert stage.variance(level) == pytest.approx(seen, rel=5 * np.sqrt(2 / effective) + 1 / (0.7 * level))


@pytest.mark.parametrize(("rate", "frames"), [(0.004, 100), (0.05, 400), (0.7, 30), (5.0, 3), (0.3, 5000), (12.0, 900)])
def test_occupied_frames_are_binomial(rate: float, frames: int) -> None:
    """From both starts, each number owns as much of the unit interval as it is probable: to 1 in evenly spread ones."""
    count = 40000 if COMPILED else 2000
    u = (np.arange(count) + 0.5) / count
    image = np.full(count, rate * frames, np.float32)
    kernels.register(image, frames, 1.0, u)
    p = -np.expm1(-float(np.float32(rate * frames)) / frames)
    values, seen = np.unique(image, return_counts=True)
    assert values.min() >= 0
    assert values.max() <= frames
    expected = count * stats.binom.pmf(values, frames, p)
    assert np.abs(seen - expected).max() < 1.01


@pytest.mark.parametrize("dose_rate", [0.02, 0.5])
def test_counting_loses_coincident_electrons(dose_rate: float) -> None:
    """Mean F p/D0 and variance F p (1-p)/D0² with p = 1 - exp(-λ D0/F), within five standard errors."""
    level, stage = 30.0, Counting(efficiency=0.8, dose_rate=dose_rate)
    frames = stage.frames(level)
    assert frames == level / dose_rate
    p = -np.expm1(-level * 0.8 / frames)
    seen = run(blank(level), stage, key=3, counts=level).astype(np.float64)
    variance = frames * p * (1 - p) / 0.8**2
    assert seen.mean() == pytest.approx(frames * p / 0.8, abs=5 * np.sqrt(variance) / SIDE)
    assert seen.var() == pytest.approx(variance, rel=5 * np.sqrt(2) / SIDE)
    assert variance < stage.variance(level)


def test_dark_current_is_poisson() -> None:
    """Mean and variance are i_d·t; the truth holds the mean."""
    stage, mean = DarkCurrent(mean=3.0), 3.0
    seen = run(blank(10), stage).astype(np.float64) - 10
    assert seen.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean) / SIDE)
    assert seen.var() == pytest.approx(mean, rel=5 * np.sqrt(2 + 1 / mean) / SIDE)
    np.testing.assert_array_equal(stage.expect(np.zeros((2, 2), np.float32), readout((2, 2))), 3)
    assert stage.variance(99.0) == mean


def test_gain_map_scales_with_the_signal() -> None:
    """Deviation σ · signal at any signal, the same pattern for the same key, mean 1."""
    stage = GainMap(sigma=0.02)
    faint, bright = (run(blank(level), stage).astype(np.float64) for level in (10.0, 1000.0))
    np.testing.assert_allclose(bright, 100 * faint, rtol=1e-6)
    assert bright.mean() == pytest.approx(1000, rel=1e-6)
    assert bright.std() == pytest.approx(20, rel=5 / np.sqrt(2) / SIDE)


def test_offset_map_does_not() -> None:
    """An additive pattern of mean 0, whose deviation is a share of the brightest signal."""
    stage = OffsetMap(sigma=0.01)
    pattern = run(blank(), stage).astype(np.float64)
    np.testing.assert_allclose(run(blank(50.0), stage) - 50, pattern, atol=1e-5)
    assert pattern.mean() == pytest.approx(0, abs=1e-6)
    assert pattern.std() == pytest.approx(1, rel=5 / np.sqrt(2) / SIDE)


def test_row_and_column_offsets_have_mean_zero_and_their_own_deviation() -> None:
    """Rows plus columns and nothing else, independent of each other."""
    seen = run(blank(), RowColumnOffsets(row_sigma=0.1, column_sigma=0.02, correlation=0.0)).astype(np.float64)
    rows, cols = seen.mean(axis=1), seen.mean(axis=0)
    np.testing.assert_allclose(seen, rows[:, None] + cols, atol=1e-5)
    assert rows.std() == pytest.approx(0.1 * 20, rel=5 / np.sqrt(2 * SIDE))
    assert cols.std() == pytest.approx(0.02 * 20, rel=5 / np.sqrt(2 * SIDE))
    assert seen.mean() == pytest.approx(0, abs=1e-5)
    assert np.corrcoef(rows, cols)[0, 1] == pytest.approx(0, abs=5 / np.sqrt(SIDE))


def test_row_and_column_offsets_correlate() -> None:
    """Lag-1 φ, within five standard errors √((1-φ²)/n), along both axes of a long image."""
    length, phi = 4096, 0.9
    stage = RowColumnOffsets(row_sigma=0.1, column_sigma=0.1, correlation=phi)
    for shape in ((length, 2), (2, length)):
        line = run(np.zeros(shape), stage).sum(axis=int(shape[0] == length)).astype(np.float64)
        line -= line.mean()
        lag = (line[1:] * line[:-1]).mean() / line.var()
        assert lag == pytest.approx(phi, abs=5 * np.sqrt((1 - phi**2) / length))


def test_xray_tracks_are_connected_and_of_every_size() -> None:
    """Sizes 1 to 7 alike: χ² below its 1 - 1e-5 quantile; every track is one connected piece of distinct pixels."""
    stage = XRay(rate=700.0, amplitude=20.0, saturating=0.0)
    tracks = stage.tracks(5, (256, 256))
    sizes = np.array([len(track) for track in tracks])
    assert set(sizes) == set(range(1, 8))
    expected = len(tracks) / 7
    assert ((np.bincount(sizes)[1:] - expected) ** 2 / expected).sum() < stats.chi2(6).ppf(1 - 1e-5)
    for track in tracks:
        pixels = np.array(track)
        piece = np.zeros(np.ptp(pixels, axis=0) + 1, bool)
        piece[tuple((pixels - pixels.min(axis=0)).T)] = True
        assert piece.sum() == len(track)
        assert ndimage.label(piece)[1] == 1


def counted_by_key(counts: list[int], rate: float) -> None:
    """Mean and variance of Poisson numbers, within five standard errors."""
    n = len(counts)
    assert np.mean(counts) == pytest.approx(rate, abs=5 * np.sqrt(rate / n))
    assert np.var(counts) == pytest.approx(rate, rel=5 * np.sqrt((2 + 1 / rate) / n))


def test_number_of_xrays_is_poisson() -> None:
    """The mean is the rate times the area in units of 256 x 256 px."""
    stage = XRay(rate=8.0, amplitude=20.0, saturating=0.0)
    counted_by_key([len(stage.tracks(key, (128, 256))) for key in range(KEYS)], 4.0)


def test_xray_adds_electrons_to_its_tracks_only() -> None:
    """Between 1 and `amplitude` times the mean count, flagged; nothing elsewhere."""
    stage, state = XRay(rate=20.0, amplitude=6.0, saturating=0.0), readout((128, 128))
    seen = stage.apply(np.zeros((128, 128), np.float32), state, 2)
    hit = np.zeros(seen.shape, bool)
    crossings = np.zeros(seen.shape)
    for track in stage.tracks(2, seen.shape):
        for row, col in track:
            if 0 <= row < 128 and 0 <= col < 128:
                hit[row, col] = True
                crossings[row, col] += 1
    assert hit.any()
    np.testing.assert_array_equal(seen > 0, hit)
    np.testing.assert_array_equal(state.mask == MaskBit.DEFECT, hit)
    assert (seen[hit] >= 20 * crossings[hit] * (1 - 1e-6)).all()
    assert (seen[hit] <= 120 * crossings[hit] * (1 + 1e-6)).all()


def test_saturating_xray_exceeds_the_full_scale() -> None:
    """20 times the brightest signal, in electrons before the gain."""
    seen = run(blank(), XRay(rate=20.0, amplitude=2.0, saturating=1.0), gain=4.0)
    assert seen.max() >= 20 * 100 / 4
    assert seen[seen > 0].min() == pytest.approx(20 * 100 / 4)


@pytest.mark.parametrize("kind", [HotPixels, DeadPixels])
def test_number_of_defective_pixels_is_poisson(kind: type[HotPixels | DeadPixels]) -> None:
    """The mean is the rate times the area, less the few that coincide; all are flagged."""
    stage = kind.model_validate({"rate": 40.0} | ({"amplitude": 2.0} if kind is HotPixels else {"level": 0.0}))
    counts = []
    for key in range(KEYS):
        state = readout((64, 64))
        seen = stage.apply(np.full((64, 64), 7, np.float32), state, key)
        np.testing.assert_array_equal(state.mask == MaskBit.DEFECT, seen != 7)
        counts.append(int((seen != 7).sum()))
    counted_by_key(counts, 2.5)


def test_hot_pixels_gain_and_dead_pixels_are_constant() -> None:
    """Hot ones add a share of the brightest signal; dead ones forget what they had."""
    image = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    gained = run(image, HotPixels(rate=500.0, amplitude=2.0)) - image
    assert gained[gained > 0].min() >= 20 * (1 - 1e-3)
    assert np.median(gained[gained > 0]) < 200
    dead = run(image, DeadPixels(rate=500.0, level=0.02))
    assert set(dead[dead != image]) == {2.0}


def test_seams_shift_and_scale_quadrants() -> None:
    """Four flat quadrants; gains have mean 1 and offsets mean 0 over the window."""
    stage = Seams(row=0.25, col=0.75, gain=0.02, offset=0.01, width=1.0)
    state = readout((64, 64))
    dark, lit = (stage.apply(np.full((64, 64), level, np.float32), state, 1) for level in (0.0, 100.0))
    for image in (dark, lit):
        for rows in (slice(16), slice(16, None)):
            for cols in (slice(48), slice(48, None)):
                assert np.ptp(image[rows, cols]) == 0
        assert len(np.unique(image)) == 4
    assert dark.mean() == pytest.approx(0, abs=1e-6)
    assert (lit - dark).mean() == pytest.approx(100, rel=1e-6)
    assert not state.mask.any()


def test_seams_out_of_view_change_nothing() -> None:
    """One quadrant fills the window: its gain is 1 and its offset 0."""
    seen = run(blank(9, 32), Seams(row=-0.2, col=1.3, gain=0.03, offset=0.02, width=2.0))
    np.testing.assert_allclose(seen, 9, rtol=1e-6)


def test_large_pixels_at_the_seam_count_more_and_are_flagged() -> None:
    """Two rows and two columns, the crossing twice."""
    state = readout((32, 32))
    seen = Seams(row=0.5, col=0.25, gain=0.0, offset=0.0, width=2.0).apply(np.ones((32, 32), np.float32), state, 0)
    expected = np.ones((32, 32))
    expected[15:17] *= 2
    expected[:, 7:9] *= 2
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(state.mask == MaskBit.DEFECT, expected > 1)


def test_photon_transfer_of_the_camera() -> None:
    """Deviation² = K (mean - black) + K² σ_r² + q²/12 where the noise is not filtered, within five standard errors."""
    gain, sigma, counts, dark = 3.0, 2.0, 50.0, 4.0
    brightest = gain * counts
    seen = blank(counts)
    stages = (Conversion(**FLAT, efficiency=1.0, exponent=0.0), DarkCurrent(mean=dark), ReadNoise(sigma=sigma),
              Gain(gain=gain), BlackLevel(level=0.2), Quantise(levels=256, full_scale=5.0))  # fmt: skip
    for key, stage in enumerate(stages):
        seen = run(seen, stage, key, brightest=brightest, gain=gain)
    seen = seen.astype(np.float64)
    step, black = 5.0 * brightest / 255, 0.2 * brightest
    expected = gain * (gain * (counts + dark)) + gain**2 * sigma**2 + step**2 / 12
    assert seen.mean() == pytest.approx(gain * (counts + dark) + black, abs=5 * np.sqrt(expected) / SIDE)
    assert seen.var() == pytest.approx(expected, rel=5 * np.sqrt(2) / SIDE)


KINDS = (Conversion, Counting, XRay, GainMap, RowColumnOffsets, OffsetMap, Seams, HotPixels, DeadPixels)


@pytest.mark.parametrize("kind", KINDS)
def test_truth_does_not_hold_the_distortion(kind: type[Detection]) -> None:
    """Only the mean of the dark current, the gain and the black level are in the truth."""
    truth = np.ones((2, 3), np.float32)
    assert kind().expect(truth, readout((2, 3))) is truth


@pytest.mark.parametrize("stage", [
    conversion(), Counting(efficiency=0.8, dose_rate=0.1), XRay(rate=90.0, amplitude=9.0, saturating=0.1),
    DarkCurrent(mean=2.0), GainMap(sigma=0.02), RowColumnOffsets(row_sigma=0.1, column_sigma=0.1, correlation=0.5),
    OffsetMap(sigma=0.01), Seams(row=0.5, col=0.5, gain=0.01, offset=0.01, width=1.0),
    HotPixels(rate=90.0, amplitude=1.0), DeadPixels(rate=90.0, level=0.0),
], ids=lambda stage: stage.stage)  # fmt: skip
def test_stages_are_functions_of_image_and_key(stage: Detection) -> None:
    """The same key gives the same bytes, another key others."""
    first, again, other = (run(blank(20.0, 64), stage, key) for key in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_union_stands_in_physical_order() -> None:
    """What hits the sensor comes before its gain, what the digitiser does after; each tag once."""
    kinds = typing.get_args(typing.get_args(CameraStage)[0])
    tags = [kind.model_fields["stage"].default for kind in kinds]
    assert tags == [
        "conversion", "counting", "xray", "dark_current", "gain_map", "read_noise", "row_column_offsets", "gain",
        "offset_map", "seams", "hot_pixels", "dead_pixels", "black_level", "saturation", "quantise",
    ]  # fmt: skip
