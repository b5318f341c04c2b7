"""The references agree with emsynth: deterministic stages number by number, random ones in their distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import map_coordinates

from benchmarks.speed import cases, emsynth_chain, reference_numpy, stem_chain
from emsynth.distortion import Readout, Saturation, ScanClock, Streak
from emsynth.distortion._kernels import noise
from emsynth.distortion.stage import autoregressive, normals, purpose_key, uniforms
from emsynth.draw import Streams

try:
    import torch

    from benchmarks.speed import reference_torch
except ImportError:
    torch = None  # type: ignore[assignment]

SIDE = 64
SETTINGS = stem_chain.load()
STAGES = stem_chain.stages(SETTINGS)
TILE = reference_numpy.padded(stem_chain.coefficients())
SCAN = stem_chain.scan(SETTINGS, SIDE)
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


def stage(tag: str, image: np.ndarray, key: int = 0) -> np.ndarray:
    """One detector stage of the committed chain on a copy of an image."""
    made = emsynth_chain.stage(SETTINGS, tag)
    return made.apply(image.copy(), emsynth_chain.readout(SETTINGS, len(image)), key)


def counted(mean: float = 20.0, side: int = SIDE) -> np.ndarray:
    """Some counts."""
    return np.random.default_rng(3).poisson(mean, (side, side)).astype(np.float32)


def same_motion(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Terms of the displacement that emsynth draws for sample `index`."""
    keys = {tag: purpose_key(emsynth_chain.SEED, index, tag) for tag in ("row_jitter", "hum")}
    jitter = STAGES["row_jitter"]
    series = [autoregressive(keys["row_jitter"], stream, SIDE, jitter["correlation"]) for stream in (1, 0)]
    offsets = jitter["sigma"] * np.stack([jitter["ratio"] * series[0], series[1]])
    chance = uniforms(keys["hum"], 0, (STAGES["hum"]["lines"], 8))
    return reference_numpy.displacement_terms(SCAN, STAGES, offsets, chance)


def shared_part(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """What the truth shares: the affine part, less the centroid of the streak."""
    affine = reference_numpy.fit_affine(rows, cols)
    affine[1, 2] -= STAGES["streak"]["fraction"] / math.expm1(1 / STAGES["streak"]["decay"])
    return affine


def test_affine_part_is_as_robust() -> None:
    """Both fits leave the same sum of absolute deviations over the window, to 1 %; least squares leaves more."""
    made, (rows, cols) = emsynth_chain.distort(emsynth_chain.chain(SETTINGS), SIDE, 2), same_motion(2)
    ours, theirs = made.affine.copy(), reference_numpy.fit_affine(rows, cols)
    ours[1, 2] += STAGES["streak"]["fraction"] / math.expm1(1 / STAGES["streak"]["decay"])
    basis = np.stack([*np.indices((SIDE, SIDE), dtype=float), np.ones((SIDE, SIDE))])
    total = rows @ cols
    squares = np.linalg.lstsq(basis.reshape(3, -1).T, total.reshape(2, -1).T)[0].T
    left = [np.abs(total - np.tensordot(affine, basis, 1)).sum() for affine in (ours, theirs, squares)]
    assert left[0] == pytest.approx(left[1], rel=0.01)
    assert left[2] > left[1]


def test_positions_and_what_is_seen_there() -> None:
    """The same offsets, lines and affine part give the same displacement, truth and probe positions."""
    (rows, cols), made = same_motion(2), emsynth_chain.distort(emsynth_chain.chain(SETTINGS), SIDE, 2)
    moved = reference_numpy.displacement(rows, cols, made.affine)
    # float32 sums may round to the neighbouring half.
    np.testing.assert_allclose(made.displacement.astype(float), moved.astype(float), rtol=2**-10, atol=1e-5)
    truth_map = reference_numpy.compose(stem_chain.to_field(SIDE), made.affine)
    truth = reference_numpy.gather(TILE, reference_numpy.positions(truth_map, (SIDE, SIDE)))
    np.testing.assert_allclose(made.truth, truth * (20 / truth.mean()), rtol=1e-4)


def test_image_is_gathered_at_the_rounded_displacement() -> None:
    """Emsynth's gather, the spline of SciPy and the field itself at the same probe positions."""
    rows, cols = same_motion(1)
    moved, to_field = reference_numpy.displacement(rows, cols, shared_part(rows, cols)), stem_chain.to_field(SIDE)
    seen = reference_numpy.gather(TILE, reference_numpy.positions(to_field, (SIDE, SIDE), to_field, moved))
    at = np.indices((SIDE, SIDE)) + moved.astype(float)
    clean = emsynth_chain.coefficients()
    ours = emsynth_chain.window(SIDE).gather(clean, stem_chain.SAMPLING, True, at)
    # Positions in float32: 2⁻¹⁷ of a few hundred field px, on slopes of less than 0.2 per px.
    np.testing.assert_allclose(ours, seen, atol=2e-5)
    matrix, start = to_field[:, :2], to_field[:, 2, None, None]
    wrapped = np.tensordot(matrix, at, 1) + start
    plain = map_coordinates(stem_chain.coefficients(), wrapped, order=3, mode="grid-wrap", prefilter=False)
    np.testing.assert_allclose(ours, plain, atol=2e-6)


def test_maps_bend_alike() -> None:
    """Strain and thickness maps of the reference are emsynth's."""
    case = cases._mapped(SIDE)
    np.testing.assert_allclose(case.calls["emsynth"](), case.calls["numpy"](), atol=5e-5)


def test_the_drawn_chain_keeps_every_stage() -> None:
    """So that the time with the draw is that of the same chain."""
    drawn = emsynth_chain.undrawn(SETTINGS).draw(Streams(1, 0))
    assert [stage.stage for stage in (*drawn.scan, *drawn.detector)] == list(STAGES)
    assert len(list(emsynth_chain.undrawn(SETTINGS).distributions())) > 30


def test_streak() -> None:
    """The state that runs through the fly-back included."""
    image = counted()
    seen = reference_numpy.streak(SCAN, image, STAGES["streak"]["decay"], STAGES["streak"]["fraction"])
    np.testing.assert_allclose(stage("streak", image), seen, atol=1e-4)


def test_streak_state_over_a_short_fly_back() -> None:
    """Where the state survives a row and the fly-back, both carry it on alike."""
    image, scan = counted()[:, :6].copy(), stem_chain.Scan(SIDE, 6, 1e-5, 2e-5)
    state = Readout(ScanClock(SIDE, 6, 1e-5, 2e-5), 20.0, 100.0, 1.0, np.zeros(image.shape, np.uint8))
    ours = Streak(shape="exponential", decay=7.0, fraction=0.9, beam="on").apply(image.copy(), state, 0)
    np.testing.assert_allclose(ours, reference_numpy.streak(scan, image, 7.0, 0.9), atol=1e-4)
    if torch is not None:
        seen = reference_torch.streak(scan, torch.from_numpy(image), 7.0, 0.9)
        np.testing.assert_allclose(seen.numpy(), ours, atol=1e-4)


def test_autoregression() -> None:
    """The same white noise gives the same series."""
    series = reference_numpy.autoregress(normals(4, 0, (200,)), 0.7)
    np.testing.assert_allclose(autoregressive(4, 0, 200, 0.7), series, rtol=1e-12)


def test_beam_noise() -> None:
    """The same white noise on the same grids gives the same current."""
    beam = STAGES["beam_noise"]
    grids = reference_numpy.relaxation_grids(SCAN, beam["fastest"])
    # emsynth draws one knot more for each grid, all in one series.
    lengths = [nodes + 1 for _, _, nodes in grids]
    white = [part[:-1].astype(np.float32) for part in np.split(normals(6, 0, (sum(lengths),)), np.cumsum(lengths)[:-1])]
    seen = reference_numpy.beam_noise(SCAN, beam["sigma"], beam["fastest"], white)
    np.testing.assert_allclose(stage("beam_noise", np.ones((SIDE, SIDE), np.float32), 6), seen, atol=1e-5)


def test_beam_noise_spares_no_frequency_between_its_time_constants() -> None:
    """Deviation σ at a pixel, by many frames: each relaxation has its variance also where it is interpolated."""
    beam, rng = STAGES["beam_noise"], np.random.default_rng(1)
    grids, seen = reference_numpy.relaxation_grids(SCAN, beam["fastest"]), []
    for _ in range(200):
        white = [rng.standard_normal(nodes, np.float32) for _, _, nodes in grids]
        seen.append(reference_numpy.beam_noise(SCAN, 0.01, beam["fastest"], white)[::16, ::16] - 1)
    # The mean over the window takes the slowest relaxations away, linear interpolation 7 % of each variance.
    assert 0.4e-4 < np.var(seen) < 1.05e-4


def test_quantise_and_saturate() -> None:
    """The same codes and the same flags beyond both ends, and the same bend; no value is half-way between two codes."""
    rng, levels, state = np.random.default_rng(0), STAGES["quantise"]["levels"], emsynth_chain.readout(SETTINGS, SIDE)
    quantise = emsynth_chain.stage(SETTINGS, "quantise")
    step = quantise.step(state)
    codes = rng.integers(-levels // 4, levels + levels // 4, (SIDE, SIDE)) + rng.uniform(-0.4, 0.4, (SIDE, SIDE))
    image, mask = (codes * step).astype(np.float32), np.zeros((SIDE, SIDE), np.uint8)
    ours, theirs = quantise.apply(image.copy(), state, 0), image.copy()
    reference_numpy.quantise(theirs, mask, step, levels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_array_equal(state.mask, mask)
    assert 0.2 < (mask > 0).mean() < 0.5
    bent = Saturation(level=0.8, softness=0.375).apply(image.copy(), emsynth_chain.readout(SETTINGS, SIDE), 0)
    np.testing.assert_allclose(bent, reference_numpy.saturate(image, 80.0, 50.0), rtol=1e-5)


def chi_squared(counts: np.ndarray, mean: float) -> float:
    """Probability of a larger χ² if the counts are Poisson."""
    edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 12)[1:-1], mean))
    chance = np.diff(np.concatenate([[0], stats.poisson.cdf(edges, mean), [1]]))
    found = np.bincount(np.searchsorted(edges, counts.ravel()), minlength=chance.size)
    return float(stats.chisquare(found, chance * counts.size).pvalue)


def drawers() -> dict[str, Any]:
    """Each side's Poisson counts of an image of expected ones."""
    def ours(expected: np.ndarray) -> np.ndarray:
        image = expected.copy()
        noise.poisson(np.uint64(11), np.uint64(0), image.reshape(-1))
        return image

    sides = {"emsynth": ours, "numpy": lambda expected: reference_numpy.poisson(np.random.default_rng(1), expected)}
    if torch is not None:
        seeded = torch.Generator().manual_seed(1)
        sides["torch"] = lambda expected: torch.poisson(torch.from_numpy(expected), generator=seeded).numpy()
    return sides


@pytest.mark.parametrize("mean", [0.5, 2.5, 14.0, 120.0])
def test_counts_are_poisson_on_every_side(mean: float) -> None:
    """χ² of 16384 counts on each side; by chance one of ten thousand fails, and the keys are pinned."""
    for name, draw in drawers().items():
        counts = draw(np.full((128, 128), mean, np.float32))
        assert chi_squared(counts, mean) > 1e-4, name


def test_pulses_have_the_variance_of_their_counts() -> None:
    """Mean N and variance σ_g² N on each side, within five standard errors; no count, no pulse."""
    sigma, many = STAGES["pulse_spread"]["sigma"], np.full((128, 128), 9, np.float32)
    none, rng = np.zeros((4, 4), np.float32), np.random.default_rng(2)
    sides = {
        "emsynth": lambda counts: stage("pulse_spread", counts),
        "numpy": lambda counts: reference_numpy.pulse_spread(rng, counts, sigma),
    }
    if torch is not None:
        sides["torch"] = lambda counts: reference_torch.pulse_spread(torch.from_numpy(counts), sigma).numpy()
    for name, draw in sides.items():
        pulses = draw(many).astype(np.float64)
        assert pulses.mean() == pytest.approx(9, abs=5 * 3 * sigma / 128), name
        assert pulses.var() == pytest.approx(9 * sigma**2, rel=5 * 1.5 / 128), name
        assert not draw(none).any(), name


def test_chains_agree_in_mean_and_deviation() -> None:
    """Truth, image and mask of the whole chain have the same statistics on every side."""
    chain, rng = emsynth_chain.chain(SETTINGS), np.random.default_rng(5)
    ours = [emsynth_chain.distort(chain, SIDE, n) for n in range(12)]
    sides = {"emsynth": [(o.truth, o.distorted, o.mask) for o in ours]}
    theirs = [reference_numpy.distort(SETTINGS, SIDE, TILE, rng) for _ in range(12)]
    sides["numpy"] = [(truth, image, mask) for truth, image, _, mask in theirs]
    if torch is not None:
        with torch.inference_mode():
            tile = torch.from_numpy(TILE)
            made = [reference_torch.distort(SETTINGS, SIDE, tile, rng) for _ in range(12)]
        sides["torch"] = [(truth.numpy(), image.numpy(), mask.numpy()) for truth, image, _, mask in made]
    for name, samples in sides.items():
        truth = np.concatenate([t[m == 0] for t, _, m in samples])
        image = np.concatenate([i[m == 0] for _, i, m in samples])
        assert truth.mean() == pytest.approx(20, rel=0.02), name
        assert image.mean() == pytest.approx(20, rel=0.03), name
        assert image.std() == pytest.approx(sides_deviation(sides["numpy"]), rel=0.1), name
        assert 0 < np.mean([(m & 4 > 0).mean() for _, _, m in samples]) < 0.2, name


def sides_deviation(samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Of the images' pixels without a flag."""
    return float(np.concatenate([image[mask == 0] for _, image, mask in samples]).std())


@needs_torch
def test_torch_does_what_numpy_does() -> None:
    """Displacement, both gathers, beam noise, streaks, saturation and codes, from the same input."""
    rows, cols = same_motion(3)
    affine, to_field = shared_part(rows, cols), stem_chain.to_field(SIDE)
    moved = reference_numpy.displacement(rows, cols, affine)
    image, beam = counted(), STAGES["beam_noise"]
    grids = reference_numpy.relaxation_grids(SCAN, beam["fastest"])
    # emsynth draws one knot more for each grid, all in one series.
    lengths = [nodes + 1 for _, _, nodes in grids]
    white = [part[:-1].astype(np.float32) for part in np.split(normals(6, 0, (sum(lengths),)), np.cumsum(lengths)[:-1])]
    expected = reference_numpy.gather(TILE, reference_numpy.positions(to_field, (SIDE, SIDE), to_field, moved))
    with torch.inference_mode():
        tile, tensor = torch.from_numpy(TILE), torch.from_numpy(image)
        half = reference_torch.displacement(rows, cols, affine)
        np.testing.assert_allclose(half.float(), moved.astype(np.float32), rtol=2**-10, atol=1e-5)
        at = reference_torch.positions(to_field, (SIDE, SIDE), to_field, torch.from_numpy(moved))
        # grid_sample's own coordinates cost it another digit of the position.
        np.testing.assert_allclose(reference_torch.gather_by_taps(tile, at), expected, atol=2e-5)
        np.testing.assert_allclose(reference_torch.gather(tile, at), expected, atol=5e-5)
        current = reference_torch.beam_noise(SCAN, 0.02, beam["fastest"], [torch.from_numpy(w) for w in white])
        np.testing.assert_allclose(
            current, reference_numpy.beam_noise(SCAN, 0.02, beam["fastest"], white), atol=1e-5
        )
        trailing = reference_numpy.streak(SCAN, image, 2.0, 0.8)
        np.testing.assert_allclose(reference_torch.streak(SCAN, tensor, 2.0, 0.8), trailing, atol=1e-4)
        np.testing.assert_allclose(reference_torch.streak_by_fft(SCAN, tensor, 2.0, 0.8), trailing, atol=1e-4)
        bent = reference_numpy.saturate(image, 25.0, 15.0)
        np.testing.assert_allclose(reference_torch.saturate(tensor, 25.0, 15.0), bent, rtol=1e-5)
        codes, mask = tensor.clone(), torch.zeros(image.shape, dtype=torch.uint8)
        reference_torch.quantise(codes, mask, 0.7, 32)
    flags = np.zeros(image.shape, np.uint8)
    reference_numpy.quantise(image, flags, 0.7, 32)
    np.testing.assert_allclose(codes.numpy(), image, rtol=1e-6)
    np.testing.assert_array_equal(mask.numpy(), flags)
