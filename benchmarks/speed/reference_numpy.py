"""The distortion chain in NumPy and SciPy, as fast as their vectorised routines allow.

An independent implementation of PHYSICS.md sections 2 and 3 for the stages of `stem_chain.yaml`. Nothing here imports
emsynth. Images are (row, col) float32; times in s, displacements in px, signal in electrons.

Everything that the scan adds up is a sum of products f(row)·g(col), so a whole displacement map is one matrix product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.signal import lfilter

from benchmarks.speed import stem_chain
from benchmarks.speed.stem_chain import Scan, Settings

CLIPPED, DEFECT = 2, 4  # mask bits
DEVIATIONS = 4.0  # an operator leaves room for so many above the brightest expected signal
MARGIN = 3  # px that the tile repeats beyond each side, so that no tap leaves it
FIT_ROWS, FIT_COLS, FIT_STEPS = 256, 5, 30

F4 = NDArray[np.float32]
F8 = NDArray[np.float64]


def autoregress(white: NDArray[Any], correlation: float) -> NDArray[Any]:
    """Stationary AR(1) series Δᵏ = φ Δᵏ⁻¹ + √(1-φ²) aᵏ, Δ¹ = a¹, from white noise along the last axis."""
    kind = white.dtype.type
    scaled = white * kind(math.sqrt(1 - correlation**2))
    scaled[..., 0] = white[..., 0]
    series: NDArray[Any] = lfilter(np.ones(1, kind), np.array([1, -correlation], kind), scaled)
    return series


def hum_lines(hum: Settings, chance: F8) -> tuple[F8, F8, F8]:
    """Frequency (L,) Hz, amplitude (2, L) px and phase (2, L) rad of the spectral lines, from uniforms (L, 8)."""
    harmonic = 1 + np.floor(6 * chance[:, 1])
    harmonic[0] = 1
    frequency = np.where(chance[:, 0] < hum["mechanical"], 10 * 50 ** chance[:, 2], hum["mains"] * harmonic)
    size = hum["amplitude"] * np.where(np.arange(len(chance)) == 0, 1.0, chance[:, 3])
    angle = 2 * np.pi * chance[:, 4]
    return frequency, size * np.stack([np.sin(angle), np.cos(angle)]), 2 * np.pi * chance[:, 5:7].T


def displacement_terms(scan: Scan, stages: dict[str, Settings], jitter: F8, chance: F8) -> tuple[F8, F8]:
    """Displacement of the probe as a sum of products: along rows (2, R, K) and along cols (K, C), px.

    `jitter (2, R)` are the offsets of the rows, `chance (L, 8)` the uniforms that choose the lines of the hum.
    """
    t, u = np.arange(scan.rows) * scan.period, np.arange(scan.cols) * scan.dwell
    drift, settle = stages["drift"], stages["fly_back"]
    frequency, amplitude, phase = hum_lines(stages["hum"], chance)

    straight, bent = math.radians(drift["direction"]), math.radians(drift["bend_direction"])
    v = drift["distance"] * np.array([math.sin(straight), math.cos(straight)])[:, None] / scan.frame
    a = drift["bend"] * np.array([math.sin(bent), math.cos(bent)])[:, None] / scan.frame**2
    cycles = frequency[:, None] * t
    turn = 2 * np.pi * (cycles - np.round(cycles)) + phase[..., None]
    tail = np.zeros((2, scan.rows))
    tail[0] = -settle["amplitude_frame"] * np.exp(-(t + scan.fly_back) / settle["settling"])
    line = np.array([[0.0], [-settle["amplitude"] * math.exp(-scan.fly_back / settle["settling"])]])

    one = np.ones(scan.rows)
    rows = [jitter + v * t + a * t**2, v + 2 * a * t, a * one, tail + line]
    rows += [*np.moveaxis(amplitude[..., None] * np.sin(turn), 1, 0)]
    rows += [*np.moveaxis(amplitude[..., None] * np.cos(turn), 1, 0)]
    along = 2 * np.pi * frequency[:, None] * u
    cols = [np.ones(scan.cols), u, u**2, np.exp(-u / settle["settling"]), *np.cos(along), *np.sin(along)]
    return np.stack(rows, axis=-1), np.stack(cols)


def fit_affine(rows: F8, cols: F8) -> F8:
    """Affine part (2, 3) of the displacement rows @ cols, by the least sum of absolute deviations.

    Iteratively reweighted least squares (Holland and Welsch, 1977) on 256 rows and 5 columns, both axes at once.
    """
    r = np.unique(np.linspace(0, rows.shape[1] - 1, min(rows.shape[1], FIT_ROWS)).round().astype(int))
    c = np.unique(np.linspace(0, cols.shape[1] - 1, min(cols.shape[1], FIT_COLS)).round().astype(int))
    values = (rows[:, r] @ cols[:, c]).reshape(2, -1)
    middle = np.array([rows.shape[1] - 1, cols.shape[1] - 1]) / 2
    basis = np.empty((r.size, c.size, 3))
    basis[..., 0], basis[..., 1], basis[..., 2] = (r - middle[0])[:, None], c - middle[1], 1
    basis = basis.reshape(-1, 3)
    products = (basis[:, :, None] * basis[:, None, :]).reshape(-1, 9)

    affine, total = np.zeros((2, 3)), np.full(2, np.inf)
    least = 1e-4 * np.abs(values).max(axis=1)
    ridge, active = np.diag([1e-9, 1e-9, 0]), least > 0
    for _ in range(FIT_STEPS):
        residual = np.abs(values - affine @ basis.T)
        before, total = total, residual.sum(axis=1)
        active = active & (before - total > 1e-6 * total) & (total > 1e-6 * least * values.shape[1])
        if not active.any():
            break
        weight = np.reciprocal(np.maximum(residual, least[:, None], out=residual), out=residual)
        normal, right = (weight @ products).reshape(2, 3, 3), (weight * values) @ basis
        normal += ridge * normal.max(axis=(1, 2), keepdims=True)
        affine[active] = np.linalg.solve(normal[active], right[active, :, None])[..., 0]
    affine[:, 2] -= affine[:, :2] @ middle
    return affine


def displacement(rows: F8, cols: F8, affine: F8) -> NDArray[np.float16]:
    """What the probe's displacement rows @ cols leaves beside its affine part, (2, R, C)."""
    r, c = np.arange(rows.shape[1]), np.arange(cols.shape[1])
    shared = np.stack([-(affine[:, :1] * r + affine[:, 2:]), np.repeat(-affine[:, 1:2], r.size, 1)], axis=-1)
    left = np.concatenate([rows, shared], axis=-1).astype(np.float32)
    right = np.concatenate([cols, np.ones((1, c.size)), c[None]]).astype(np.float32)
    return (left @ right).astype(np.float16)


def compose(to_field: F8, affine: F8) -> F8:
    """Truth px to field px, (2, 3): the window's map after [row, col] + affine @ [row, col, 1]."""
    shared = to_field[:, :2] @ (np.eye(2, 3) + affine)
    shared[:, 2] += to_field[:, 2]
    return shared


def padded(coefficients: F4) -> F4:
    """Periodic coefficients (H, W) with a margin that repeats them, found once, outside of every measurement."""
    return np.pad(coefficients, MARGIN, mode="wrap")


def positions(truth_map: F8, shape: tuple[int, int], to_field: F8 | None = None, moved: Any = None) -> F4:
    """Field px (2, R, C) of the truth, or, with the displacement `moved (2, R, C)`, of the probe."""
    rows = (truth_map[:, :1] * np.arange(shape[0]) + truth_map[:, 2:]).astype(np.float32)[:, :, None]
    cols = (truth_map[:, 1:2] * np.arange(shape[1])).astype(np.float32)[:, None, :]
    if moved is None or to_field is None:
        return rows + cols
    at = to_field[:, :2].astype(np.float32) @ moved.reshape(2, -1).astype(np.float32)
    at = at.reshape(moved.shape)
    at += rows
    at += cols
    return at


def gather(tile: F4, at: F4) -> F4:
    """The periodic field at field px `at (2, ...)`, which is overwritten, from its padded coefficients `tile`.

    Positions are wrapped here and the tile is padded, because SciPy's `grid-wrap` takes a fifth more time for the same.
    """
    for part, padded_length in zip(at, tile.shape, strict=True):
        length = np.float32(padded_length - 2 * MARGIN)
        turns = part * (1 / length)
        np.floor(turns, out=turns)
        turns *= length
        part -= turns
        part += np.float32(MARGIN)
    seen: F4 = map_coordinates(tile, at, np.float32, order=3, mode="nearest", prefilter=False)
    return seen


def surface(control: F8, side: int, margin: float) -> F4:
    """Cubic B-spline surface (side, side) of control points (M, M) that cover the window and `margin` px around it."""
    knots = control.shape[0]
    s = (np.arange(side) + margin) * ((knots - 3) / (side - 1 + 2 * margin))
    offset = np.abs(s[:, None] - np.arange(knots) + 1)
    basis = np.where(offset < 1, 2 / 3 - offset**2 * (1 - offset / 2), np.maximum(2 - offset, 0) ** 3 / 6)
    basis = basis.astype(np.float32)
    bent: F4 = basis @ control.astype(np.float32) @ basis.T
    return bent


def gather_mapped(tiles: F4, to_field: F8, warp: F8, plane: F8, side: int, margin: float) -> F4:
    """A stack of padded periodic fields (T, H, W) under smooth maps, (side, side).

    `warp (2, M, M)` displaces in field px, `plane (M, M)` is the fractional index of the thickness. Thicknesses are
    blended linearly; each is gathered only where it has a share.
    """
    at, depth = positions(to_field, (side, side)), surface(plane, side, margin)
    for axis in range(2):
        at[axis] += surface(warp[axis], side, margin)
    out = np.zeros((side, side), np.float32)
    for k, tile in enumerate(tiles):
        share = np.float32(1) - np.abs(depth - np.float32(k))
        there = share > 0
        out[there] += share[there] * gather(tile, at[:, there])
    return out


def relaxation_grids(scan: Scan, fastest: float) -> list[tuple[float, float, int]]:
    """Time constant τ_k, step and number of nodes of each relaxation: τ_k = 4ᵏ·fastest up to the frame's time."""
    grids, tau = [], fastest
    while tau <= scan.frame or not grids:
        step = max(tau / 4, scan.dwell)
        grids.append((tau, step, math.ceil(scan.frame / step) + 2))
        tau *= 4
    return grids


def beam_noise(scan: Scan, sigma: float, fastest: float, white: list[F4]) -> F4:
    """Relative beam current, (R, C), mean 1: 1/f noise as a sum of relaxations of equal variance.

    Each relaxation is an AR(1) series on its own grid, from `white` noise of the grid's length. Where one grid's step
    is four times the next finer one's, its nodes are nodes of that one: it is interpolated there, a quarter of the
    work each time, and only the finest grid is interpolated at the pixels. References: van der Ziel (1950).
    """
    grids = relaxation_grids(scan, fastest)
    current, carried, upper = np.zeros((scan.rows, scan.cols), np.float32), np.zeros(0, np.float32), 0.0
    for (tau, step, nodes), noise in zip(reversed(grids), reversed(white), strict=True):
        series = autoregress(noise, math.exp(-step / tau))
        if carried.size:
            if math.isclose(upper, 4 * step):
                series += _quartered(carried, nodes)
            elif math.isclose(upper, step):
                series += carried
            else:
                current += at_pixels(scan, carried, upper)
        carried, upper = series, step
    current += at_pixels(scan, carried, upper)
    current *= np.float32(sigma / math.sqrt(len(grids)))
    current += np.float32(1)
    current /= current.mean(dtype=np.float64).astype(np.float32)
    return current


def _quartered(series: F4, nodes: int) -> F4:
    steps = np.diff(series)[:, None] * np.float32([0, 0.25, 0.5, 0.75])
    steps += series[:-1, None]
    return np.concatenate([steps.ravel(), series[-1:]])[:nodes]


def at_pixels(scan: Scan, series: F4, step: float) -> F4:
    """Linear interpolation at the pixel times of a series with a node every `step` s."""
    if step == scan.dwell:  # then all pixels of a row lie at the same fraction between two nodes
        start, share = np.divmod(np.arange(scan.rows) * (scan.period / step), 1)
        rows = sliding_window_view(series, scan.cols + 1)[start.astype(int)]
        between = np.diff(rows)
        between *= share.astype(np.float32)[:, None]
        between += rows[:, :-1]
        return between
    times = (np.arange(scan.rows) * scan.period)[:, None] + np.arange(scan.cols) * scan.dwell
    times /= step
    below = times.astype(np.int32)
    share = (times - below).astype(np.float32)
    out = np.diff(series).take(below)
    out *= share
    out += series.take(below)
    return out


def poisson(rng: np.random.Generator, expected: F4) -> F4:
    """Poisson counts of `expected (R, C)` electrons."""
    return rng.poisson(expected).astype(np.float32)


def pulse_spread(rng: np.random.Generator, counts: F4, sigma: float) -> F4:
    """Gamma(N/σ², scale σ²) for N counts; 0 where N = 0."""
    pulses: F4 = rng.standard_gamma(counts * np.float32(1 / sigma**2), dtype=np.float32)
    pulses *= np.float32(sigma**2)
    return pulses


def hits(rng: np.random.Generator, image: F4, mask: NDArray[np.uint8], rate: float, mean: float) -> None:
    """Add Poisson(rate) hits per 256² pixels with exponential amplitudes of that mean to single pixels, in place."""
    where = rng.integers(image.size, size=rng.poisson(rate * image.size / 256**2))
    np.add.at(image.reshape(-1), where, rng.exponential(mean, where.size).astype(np.float32))
    mask.reshape(-1)[where] |= DEFECT


def streak(scan: Scan, image: F4, decay: float, fraction: float) -> F4:
    """Exponential low-pass in time that keeps its state through the fly-back, with the beam on.

    Each row is filtered from rest; then the state at its start is added, which fades within the row.
    """
    keep, through = math.exp(-1 / decay), math.exp(-scan.fly_back / scan.dwell / decay)
    filtered: F4 = lfilter(np.float32([1 - keep]), np.float32([1, -keep]), image)
    idle = image.mean(axis=1, dtype=np.float64)
    drive = (1 - through) * idle
    drive[1:] += through * filtered[:-1, -1]
    drive[0] = idle[0]
    state = lfilter([1.0], [1.0, -through * keep**scan.cols], drive)
    fade = keep ** np.arange(1, min(scan.cols, math.ceil(20 * decay)) + 1)
    filtered[:, : fade.size] += (state[:, None] * fade).astype(np.float32)
    filtered -= image
    filtered *= np.float32(fraction)
    filtered += image
    return filtered


def line_noise(image: F4, white: F8, sigma: float, correlation: float) -> None:
    """Add an AR(1) offset to each row, with mean 0 over the window, in place."""
    offset = autoregress(white, correlation)
    offset -= offset.mean()
    image += (sigma * offset).astype(np.float32)[:, None]


def row_dropout(
    rng: np.random.Generator, image: F4, mask: NDArray[np.uint8], rate: float, residue: float, mean: float
) -> None:
    """Flatten Poisson(rate) segments, 1-4 rows high and w/8 to w long, to 0-1.5 times the mean, in place."""
    rows, cols = image.shape
    for _ in range(rng.poisson(rate)):
        height, length = min(int(rng.integers(1, 5)), rows), int(rng.integers(max(cols // 8, 1), cols + 1))
        top, left = int(rng.integers(rows - height + 1)), int(rng.integers(cols - length + 1))
        segment = np.s_[top : top + height, left : left + length]
        image[segment] = 1.5 * rng.random() * mean + residue * (image[segment] - image[segment].mean())
        mask[segment] |= DEFECT


def read_noise(rng: np.random.Generator, image: F4, sigma: float) -> None:
    """Add N(0, σ²), in place."""
    noise: F4 = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(sigma)
    image += noise


def saturate(image: F4, level: float, knee: float) -> F4:
    """Soft saturation L - (L - k) exp(-(x - k)/(L - k)) above the knee k."""
    room = level - knee
    return np.where(image > knee, level - room * np.exp((knee - np.maximum(image, knee)) / room), image).astype("f4")


def quantise(image: F4, mask: NDArray[np.uint8], step: float, levels: int) -> None:
    """Round to multiples of `step` from 0 to levels - 1 of them, in place; flag what was clipped."""
    image *= np.float32(1 / step)
    image += np.float32(0.5)
    np.floor(image, out=image)
    beyond = image < 0
    beyond |= image > levels - 1
    mask |= beyond.view(np.uint8) * np.uint8(CLIPPED)
    np.clip(image, 0, levels - 1, out=image)
    image *= np.float32(step)


def brightest(peak: float, stages: dict[str, Settings]) -> float:
    """The brightest expected signal with room for its noise, e."""
    spread, read = stages["pulse_spread"]["sigma"], stages["read_noise"]["sigma"]
    return peak + DEVIATIONS * math.sqrt(peak + 1 + spread**2 * peak + read**2)


def distort(
    settings: Settings, side: int, tile: F4, rng: np.random.Generator
) -> tuple[F4, F4, NDArray[np.float16], NDArray[np.uint8]]:
    """The whole chain: truth, image, displacement (2, R, C) and mask; `tile` from `padded`."""
    stages, scan = stem_chain.stages(settings), stem_chain.scan(settings, side)
    jitter, streaking = stages["row_jitter"], stages["streak"]
    offset = jitter["sigma"] * autoregress(rng.standard_normal((2, side)), jitter["correlation"])
    offset[0] *= jitter["ratio"]
    rows, cols = displacement_terms(scan, stages, offset, rng.random((stages["hum"]["lines"], 8)))
    affine = fit_affine(rows, cols)
    affine[1, 2] -= streaking["fraction"] / math.expm1(1 / streaking["decay"])
    moved = displacement(rows, cols, affine)

    to_field = stem_chain.to_field(side)
    truth_map = compose(to_field, affine)
    truth = gather(tile, positions(truth_map, (side, side)))
    image = gather(tile, positions(truth_map, (side, side), to_field, moved))
    counts = settings["expected_counts"]
    scale = np.float32(counts / truth.mean(dtype=np.float64))
    truth *= scale
    image *= scale
    image, mask = _detect(rng, scan, stages, image, counts, brightest(float(truth.max()), stages))
    return truth, image, moved, mask


def _detect(
    rng: np.random.Generator, scan: Scan, stages: dict[str, Settings], image: F4, counts: float, bright: float
) -> tuple[F4, NDArray[np.uint8]]:
    mask = np.zeros(image.shape, np.uint8)
    beam, hit, lines = stages["beam_noise"], stages["hits"], stages["line_noise"]
    white = [rng.standard_normal(nodes, np.float32) for _, _, nodes in relaxation_grids(scan, beam["fastest"])]
    image *= beam_noise(scan, beam["sigma"], beam["fastest"], white)
    image = poisson(rng, image)
    image = pulse_spread(rng, image, stages["pulse_spread"]["sigma"])
    hits(rng, image, mask, hit["rate"], hit["amplitude"] * bright)
    image = streak(scan, image, stages["streak"]["decay"], stages["streak"]["fraction"])
    line_noise(image, rng.standard_normal(scan.rows), lines["sigma"] * counts, lines["correlation"])
    row_dropout(rng, image, mask, stages["row_dropout"]["rate"], stages["row_dropout"]["residue"], counts)
    read_noise(rng, image, stages["read_noise"]["sigma"])
    levels = stages["quantise"]["levels"]
    quantise(image, mask, stages["quantise"]["full_scale"] * bright / (levels - 1), levels)
    return image, mask
