"""The window and the spline: exactness, wrapping, orientation, inverse."""

import numba
import numpy as np
import pytest

from emsynth.distortion import Grid, Window, prefilter
from emsynth.errors import FieldError

COMPILED = not numba.config.DISABLE_JIT


def band_limited(shape: tuple[int, int], edge: float, rng: np.random.Generator) -> np.ndarray:
    """Spectrum of a random real periodic image whose frequencies reach `edge` rad/px."""
    spectrum = np.fft.fft2(rng.normal(size=shape))
    ky, kx = (2 * np.pi * np.fft.fftfreq(n) for n in shape)
    spectrum[np.hypot(ky[:, None], kx[None, :]) > edge] = 0
    return spectrum


def fourier_value(spectrum: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Exact value between pixels."""
    ky, kx = (2 * np.pi * np.fft.fftfreq(n) for n in spectrum.shape)
    rows, cols = np.exp(1j * np.outer(y, ky)), np.exp(1j * np.outer(x, kx))
    return np.einsum("ny,yx,nx->n", rows, spectrum, cols).real / spectrum.size


def strained(rng: np.random.Generator, shape: tuple[int, int] = (24, 30), pixel: float = 0.1) -> Window:
    """A window with about 2 % strain and a thickness map."""
    step = (shape[0] - 1 + 80) / 5 * pixel
    return Window(
        shape, pixel, rotation=0.4, origin=(3.0, 4.0), flip=True,
        warp=rng.uniform(-0.01, 0.01, (2, 8, 8)) * step, plane=rng.uniform(0, 2, (8, 8)),
    )  # fmt: skip


def test_spline_meets_the_fourier_value() -> None:
    """Error below 0.1 % of the range for a tile that is oversampled four times."""
    rng = np.random.default_rng(0)
    spectrum = band_limited((32, 40), np.pi / 4, rng)
    tile = np.fft.ifft2(spectrum).real
    y, x = rng.uniform(-50, 90, (2, 3000 if COMPILED else 200))
    window = Window((1, 1), 1.0)
    seen = window.gather(prefilter(tile, True), 1.0, True, np.stack([y, x]))
    assert np.abs(seen - fourier_value(spectrum, y, x)).max() < 1e-3 * np.ptp(tile)


@pytest.mark.parametrize("wave", [(0, 1), (1, 0), (1, 1)])
def test_spline_at_the_very_band_edge(wave: tuple[int, int]) -> None:
    """Even a single wave of π/4 per px stays within 0.1 % of its range."""
    angle = np.pi / 4 / np.hypot(*wave)
    count = 8 if wave != (1, 1) else 1
    y, x = np.indices((64, 64))
    if wave == (1, 1):  # the nearest periodic diagonal wave below the edge
        angle = 2 * np.pi * 5 / 64
    tile = np.cos(angle * (wave[0] * y + wave[1] * x))
    at = np.random.default_rng(1).uniform(0, 64, (2, 60 * count))
    seen = Window((1, 1), 1.0).gather(prefilter(tile, True), 1.0, True, at)
    assert np.abs(seen - np.cos(angle * (wave[0] * at[0] + wave[1] * at[1]))).max() < 2e-3


def test_pixels_are_met_exactly_on_both_kinds_of_field() -> None:
    """At its own pixels, edges included, the field is what it was."""
    tile = np.random.default_rng(0).normal(size=(12, 15)).astype(np.float32)
    for periodic in (True, False):
        window = Window(tile.shape, 0.2, origin=(5.5 * 0.2, 7 * 0.2))
        seen = window.gather(prefilter(tile, periodic), 0.2, periodic, window.positions())
        np.testing.assert_allclose(seen, tile, atol=2e-6)


def test_periodic_field_wraps_exactly() -> None:
    """One period further, also backwards and on a small tile, the same values stand."""
    tile = np.random.default_rng(0).normal(size=(20, 8))
    at = np.random.default_rng(1).integers(0, 8 * 64, (2, 40)) / 64
    window, coefficients = Window((1, 1), 1.0), prefilter(tile, True)
    here = window.gather(coefficients, 1.0, True, at)
    for periods in ((1, 0), (0, 1), (-3, 5)):
        shift = np.array([[20.0 * periods[0]], [8.0 * periods[1]]])
        np.testing.assert_array_equal(window.gather(coefficients, 1.0, True, at + shift), here)


def test_window_beyond_a_finite_field_is_refused() -> None:
    """Never clamp, never wrap a field that is not periodic."""
    window = Window((10, 10), 1.0, origin=(4.5, 4.5))
    coefficients = prefilter(np.ones((10, 10)), False)
    with pytest.raises(FieldError, match=r"2\.0 px beyond"):
        window.gather(coefficients, 1.0, False, window.positions() + 2.0)
    with pytest.raises(FieldError, match="finite"):
        window.gather(coefficients, 1.0, False, window.positions() * np.nan)


def spot_seen(**view: float) -> tuple[int, int]:
    """Where a window of 21 × 21 px shows a spot that lies 6 px to the right of its centre."""
    field = np.zeros((41, 41))
    field[20, 26] = 1
    window = Window((21, 21), 1.0, origin=(20.0, 20.0), **view)  # type: ignore[arg-type]
    seen = window.gather(prefilter(field, False), 1.0, False, window.positions())
    row, col = np.unravel_index(seen.argmax(), seen.shape)
    return int(row) - 10, int(col) - 10


def test_positive_rotation_turns_the_content_counter_clockwise() -> None:
    """Right goes up; row points down."""
    assert spot_seen() == (0, 6)
    assert spot_seen(rotation=np.pi / 2) == (-6, 0)
    assert spot_seen(rotation=np.pi) == (0, -6)


def test_flip_mirrors_left_and_right_before_the_rotation() -> None:
    """Right goes left, and then down for a quarter turn."""
    assert spot_seen(flip=True) == (0, -6)
    assert spot_seen(flip=True, rotation=np.pi / 2) == (6, 0)


def test_pixel_size_and_sampling_may_differ() -> None:
    """Å connect window and field, on each axis with its own sampling."""
    y, x = np.indices((30, 60))
    window = Window((5, 5), 0.5, origin=(3.0, 3.0))
    seen = window.gather(prefilter(y + 100.0 * x, False), (0.2, 0.1), False, window.positions())
    rows, cols = window.positions()
    np.testing.assert_allclose(seen, (2 + 0.5 * rows) / 0.2 + 100 * (2 + 0.5 * cols) / 0.1, rtol=1e-5)


def test_to_window_inverts_to_specimen() -> None:
    """With strain, rotation and flip; also outside the window."""
    rng = np.random.default_rng(0)
    window = strained(rng)
    points = rng.uniform(-60, 90, (50, 2))
    np.testing.assert_allclose(window.to_window(window.to_specimen(points)), points, atol=1e-8)


def test_gather_looks_where_to_specimen_says() -> None:
    """A field that is its own coordinate shows the specimen point, so columns land where they are seen."""
    rng = np.random.default_rng(0)
    window = strained(rng)
    window = Window(window.shape, 0.1, 0.4, (3.0, 4.0), True, window.warp)
    y, x = np.indices((90, 110)) * 0.1
    points = window.positions() + rng.uniform(-1, 1, (2, *window.shape))
    specimen = window.to_specimen(points.reshape(2, -1).T)
    for axis, coordinate in enumerate((y, x)):
        seen = window.gather(prefilter(coordinate, False), 0.1, False, points)
        np.testing.assert_allclose(seen.ravel(), specimen[:, axis], atol=2e-3)


def test_strain_stays_below_its_control_points() -> None:
    """The gradient of the warp is bounded by the differences of neighbouring coefficients."""
    window = strained(np.random.default_rng(3), (40, 40))
    flat = Window(window.shape, window.pixel, window.rotation, window.origin, window.flip)
    points = window.positions().reshape(2, -1).T
    warp = (window.to_specimen(points) - flat.to_specimen(points)).reshape(40, 40, 2)
    assert 0.001 < np.abs(np.diff(warp, axis=1)).max() / window.pixel < 0.02


def test_thickness_blends_between_planes() -> None:
    """A plane index of 1.25 takes three quarters of plane 1 and one of plane 2; the last plane is whole."""
    stack = np.stack([np.full((8, 8), value) for value in (10.0, 20.0, 40.0)])
    for plane, value in ((0.0, 10), (1.25, 25), (2.0, 40)):
        window = Window((3, 3), 1.0, plane=plane)
        seen = window.gather(prefilter(stack, True), 1.0, True, window.positions())
        np.testing.assert_allclose(seen, value, rtol=1e-6)
    with pytest.raises(FieldError, match="outside the field's 0 to 2"):
        Window((3, 3), 1.0, plane=2.5).gather(prefilter(stack, True), 1.0, True, window.positions())


def test_thickness_map_belongs_to_the_window_px() -> None:
    """A map of linear control points is linear in the window, at the distance that `control_points` states."""
    window = Window((20, 30), 1.0)
    cols = window.control_points(6)[1]
    plane = np.broadcast_to((cols + 90) / 250, (6, 6)).copy()
    stack = np.stack([np.zeros((8, 8)), np.ones((8, 8))])
    mapped = Window((20, 30), 1.0, plane=plane)
    seen = mapped.gather(prefilter(stack, True), 1.0, True, mapped.positions())
    np.testing.assert_allclose(seen, np.broadcast_to((np.arange(30) + 90) / 250, (20, 30)), rtol=1e-5)


def test_extent_holds_every_pixel() -> None:
    """The bounding box of the outline bounds the window, margin included."""
    window = strained(np.random.default_rng(0))
    low, high = window.extent(5)
    inside = window.to_specimen(np.random.default_rng(1).uniform((-5, -5), (28, 34), (300, 2)))
    assert (inside > low - 0.02).all()
    assert (inside < high + 0.02).all()


@pytest.mark.compiled
@pytest.mark.skipif(not COMPILED, reason="too many pixels for interpreted kernels; runs compiled")
def test_bytes_do_not_depend_on_how_positions_are_laid_out() -> None:
    """Row by row or all at once: the same bytes."""
    window = strained(np.random.default_rng(0), (64, 64))
    coefficients = prefilter(np.random.default_rng(1).random((3, 40, 50)), True)
    at = window.positions()
    whole = window.gather(coefficients, 0.1, True, at)
    rows = [window.gather(coefficients, 0.1, True, at[:, n : n + 1]) for n in range(64)]
    np.testing.assert_array_equal(np.concatenate(rows), whole)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": float("nan")}, {"origin": (float("nan"), 0.0)}, {"origin": (1e20, 0.0)}, {"pixel": 1e30},
        {"warp": np.full((2, 5, 5), np.nan)}, {"warp": np.full((2, 5, 5), 1e30)},
    ],
)  # fmt: skip
def test_a_window_that_is_no_place_is_refused(wrong: dict[str, object]) -> None:
    """Before the kernel reads memory that is not the field's."""
    window = Window(**({"shape": (8, 8), "pixel": 0.1, "origin": (1.0, 1.0)} | wrong))  # type: ignore[arg-type]
    coefficients = prefilter(np.ones((12, 12)), True)
    with pytest.raises(FieldError):
        window.gather(coefficients, 0.1, True, Grid((8, 8), np.eye(2, 3)))


def test_offsets_must_go_with_their_grid() -> None:
    """A smaller array would be read beyond its end."""
    window, coefficients = Window((8, 8), 0.1, origin=(1.0, 1.0)), prefilter(np.ones((12, 12)), True)
    with pytest.raises(FieldError, match="do not go with"):
        window.gather(coefficients, 0.1, True, Grid((8, 8), np.eye(2, 3), np.zeros((2, 4, 8), np.float32)))
    for sampling in (0.0, float("nan")):
        with pytest.raises((FieldError, ZeroDivisionError)), np.errstate(all="ignore"):
            window.gather(coefficients, sampling, True, Grid((8, 8), np.eye(2, 3)))


@pytest.mark.parametrize("displaced", [False, True])
def test_maps_of_rows_are_those_of_points(displaced: bool) -> None:
    """Row by row, as polynomials between knots, strain and thickness are what they are point by point."""
    rng = np.random.default_rng(3)
    window = strained(rng, (40, 90))
    field = rng.random((3, 40, 48))
    coefficients = prefilter(field, True)
    offsets = rng.normal(0, 4, (2, 40, 90)).astype(np.float32) if displaced else None
    grid = Grid((40, 90), np.array([[1.02, 0.01, -30.0], [-0.02, 0.99, 12.0]]), offsets)
    points = grid.positions().reshape(2, -1).T
    at, plane = window.to_specimen(points) / 0.11, window.plane_at(points)
    flat = Window((1, 1), 1.0)
    planes = np.stack([flat.gather(coefficients[k:k + 1], 1.0, True, at.T) for k in range(3)])
    below = np.clip(np.floor(plane).astype(int), 0, 1)
    here = np.arange(len(plane))
    wanted = planes[below, here] * (1 - (plane - below)) + planes[below + 1, here] * (plane - below)
    seen = window.gather(coefficients, 0.11, True, grid)
    np.testing.assert_allclose(seen.ravel(), wanted, atol=2e-5)


def test_a_path_is_the_sum_of_its_looks() -> None:
    """Before, at and behind each pixel along the displaced row, by central differences; never below what is lowest."""
    rng = np.random.default_rng(4)
    window, coefficients = strained(rng, (20, 30)), prefilter(rng.random((3, 40, 48)) - 0.2, True)
    offsets = rng.normal(0, 0.5, (2, 20, 30)).astype(np.float32)
    grid, path = Grid((20, 30), np.eye(2, 3), offsets), ((-0.4, 0.3), (0.0, 0.5), (0.4, 0.2))
    wanted = np.zeros((20, 30))
    for along, weight in path:
        affine = np.eye(2, 3)
        affine[:, 2] += along * affine[:, 1]
        there = Grid((20, 30), affine, offsets + np.float32(along) * np.gradient(offsets, axis=2).astype(np.float32))
        wanted += weight * np.maximum(window.gather(coefficients, 0.11, True, there), 0)
    seen = window.gather(coefficients, 0.11, True, grid, path, 0.0)
    np.testing.assert_allclose(seen, wanted, atol=3e-3)  # the maps' own curvature within a pixel
    flat = Window((20, 30), 0.1)
    shifted = [np.array([[1.0, 0.0, 0.0], [0.0, 1.0, along]]) for along, _ in path]
    alone = [np.maximum(flat.gather(coefficients, 0.11, True, Grid((20, 30), affine)), 0) for affine in shifted]
    both = flat.gather(coefficients, 0.11, True, Grid((20, 30), np.eye(2, 3)), path, 0.0)
    np.testing.assert_allclose(both, sum(w * one for (_, w), one in zip(path, alone, strict=True)), atol=1e-6)
