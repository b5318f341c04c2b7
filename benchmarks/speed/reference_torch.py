"""The distortion chain in torch on the CPU: the mathematics of `reference_numpy`, in torch's fastest routines.

What happens once per row or once per frame (row offsets, the affine fit, the clock) is shared with `reference_numpy`;
all work on pixels is torch's. Call everything within `torch.inference_mode()`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from benchmarks.speed import reference_numpy, stem_chain
from benchmarks.speed.reference_numpy import CLIPPED, DEFECT, F8, MARGIN
from benchmarks.speed.stem_chain import Scan, Settings

NEGLIGIBLE = 1e-7  # of a float32
BAND = 65536  # px gathered at a time


def padded(coefficients: NDArray[np.float32]) -> Tensor:
    """Periodic coefficients (H, W) with a margin that repeats them, found once, outside of every measurement."""
    return torch.from_numpy(reference_numpy.padded(coefficients))


def decay_along(signal: Tensor, keep: float) -> Tensor:
    """Running sum y[n] = x[n] + keep · y[n-1] along the last axis, from rest.

    By doubling: (1 + kz)(1 + k²z²)(1 + k⁴z⁴)… is the whole geometric response, up to a factor that no longer matters
    in float32. Five to eight passes, where a convolution takes one for each tap.
    """
    shift = 1
    while keep > NEGLIGIBLE and shift < signal.shape[-1]:
        summed = torch.empty_like(signal)
        summed[..., :shift] = signal[..., :shift]
        torch.add(signal[..., shift:], signal[..., :-shift], alpha=keep, out=summed[..., shift:])
        signal, keep, shift = summed, keep * keep, 2 * shift
    return signal


def autoregress(white: Tensor, correlation: float) -> Tensor:
    """Stationary AR(1) series of deviation 1 from white noise, along the last axis."""
    scaled = white * math.sqrt(1 - correlation**2)
    scaled[..., 0] = white[..., 0]
    return decay_along(scaled, correlation)


def displacement(rows: F8, cols: F8, affine: F8) -> Tensor:
    """What the probe's displacement rows @ cols leaves beside its affine part, (2, R, C) float16."""
    r, c = np.arange(rows.shape[1]), np.arange(cols.shape[1])
    shared = np.stack([-(affine[:, :1] * r + affine[:, 2:]), np.repeat(-affine[:, 1:2], r.size, 1)], axis=-1)
    left = np.concatenate([rows, shared], axis=-1).astype(np.float32)
    right = np.concatenate([cols, np.ones((1, c.size)), c[None]]).astype(np.float32)
    return (torch.from_numpy(left) @ torch.from_numpy(right)).half()


def positions(truth_map: F8, shape: tuple[int, int], to_field: F8 | None = None, moved: Tensor | None = None) -> Tensor:
    """Field px (2, R, C) of the truth, or, with the displacement `moved`, of the probe."""
    along = torch.arange(max(shape), dtype=torch.float64)
    affine = torch.from_numpy(truth_map)
    rows = (affine[:, :1] * along[: shape[0]] + affine[:, 2:]).float()[:, :, None]
    cols = (affine[:, 1:2] * along[: shape[1]]).float()[:, None, :]
    if moved is None or to_field is None:
        return rows + cols
    at = torch.from_numpy(to_field[:, :2]).float() @ moved.reshape(2, -1).float()
    return at.view(moved.shape).add_(rows).add_(cols)


def gather(tile: Tensor, at: Tensor) -> Tensor:
    """The periodic field at field px `at (2, R, C)`, from its padded coefficients `tile`.

    A cubic B-spline as four bilinear fetches: Sigg and Hadwiger, GPU Gems 2, chapter 20 (2005). A band of rows at a
    time, so that what is in between stays in the cache.
    """
    rows, cols = at.shape[1:]
    out, band = torch.empty(rows, cols), max(1, BAND // cols)
    for start in range(0, rows, band):
        fetches, upper = _fetches(at[:, start : start + band], tile.shape)
        corner = [
            grid_sample(tile[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0, 0]
            for grid in _pairs(fetches)
        ]
        top, bottom = torch.lerp(corner[0], corner[1], upper[0]), torch.lerp(corner[2], corner[3], upper[0])
        torch.lerp(top, bottom, upper[1], out=out[start : start + band])
    return out


def _fetches(at: Tensor, padded_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    # Where two linear fetches stand for four taps, (x then y, fetch, R, C), in grid_sample's units from -1 to 1, and
    # the weight of the second fetch (x then y, R, C).
    width = torch.tensor([padded_shape[1], padded_shape[0]], dtype=torch.float32)[:, None, None]
    length = width - 2 * MARGIN
    f = at.flip(0).div_(length)
    below = f.sub_(torch.floor(f)).mul_(length).floor()
    f.sub_(below)
    squared = f * f
    w3 = (squared * f).mul_(1 / 6)
    w1 = f.mul(0.5).sub_(1).mul_(squared).add_(2 / 3)
    upper = f.mul(-1 / 3).add_(0.5).mul_(f).add_(0.5).mul_(f).add_(1 / 6)  # w2 + w3
    scale = 2 / (width - 1)
    below.add_(MARGIN - 1).mul_(scale).sub_(1)
    fetches = torch.empty(2, 2, *at.shape[1:])
    torch.addcmul(below, w1.div_(1 - upper), scale, out=fetches[:, 0])
    torch.addcmul(below.add_(2 * scale), w3.div_(upper), scale, out=fetches[:, 1])
    return fetches, upper


def _pairs(fetches: Tensor) -> list[Tensor]:
    # Views (1, R, C, 2) of planes x0, x1, y0, y1 as the grids (x0, y0), (x1, y0), (x0, y1), (x1, y1).
    rows, cols = fetches.shape[2:]
    size, plane = (1, rows, cols, 2), rows * cols
    return [
        fetches.as_strided(size, (0, cols, 1, (2 + y - x) * plane), x * plane) for y in (0, 1) for x in (0, 1)
    ]


def gather_by_taps(tile: Tensor, at: Tensor) -> Tensor:
    """As `gather`, by indexing all sixteen taps: four neighbours at once from each of four rows."""
    shape, height, width = at.shape[1:], tile.shape[0] - 2 * MARGIN, tile.shape[1] - 2 * MARGIN
    at = at.reshape(2, -1)
    weights, corner = [], []
    for axis, length in enumerate((height, width)):
        wrapped = at[axis] - torch.floor(at[axis] * (1 / length)) * length
        below = torch.floor(wrapped)
        f = wrapped - below
        g = 1 - f
        weights.append((g * g * g / 6, 2 / 3 - f * f * (1 - 0.5 * f), 2 / 3 - g * g * (1 - 0.5 * g), f * f * f / 6))
        corner.append(below.int() + MARGIN - 1)
    index = corner[0] * tile.shape[1] + corner[1]
    quadruples = tile.view(-1).unfold(0, 4, 1)
    out = torch.zeros_like(at[0])
    for row in range(4):
        taps = torch.index_select(quadruples, 0, index + row * tile.shape[1])
        line = taps[:, 0] * weights[1][0]
        for col in range(1, 4):
            line.addcmul_(taps[:, col], weights[1][col])
        out.addcmul_(line, weights[0][row])
    return out.view(shape)


def surface(control: F8, side: int, margin: float) -> Tensor:
    """Cubic B-spline surface (side, side) of control points (M, M) that cover the window and `margin` px around it."""
    return torch.from_numpy(reference_numpy.surface(control, side, margin))


def gather_mapped(tiles: Tensor, to_field: F8, warp: F8, plane: F8, side: int, margin: float) -> Tensor:
    """A stack of padded tiles (T, H, W) under smooth maps; see `reference_numpy.gather_mapped`."""
    at = positions(to_field, (side, side))
    at += torch.stack([surface(part, side, margin) for part in warp])
    depth, out = surface(plane, side, margin).view(-1), torch.zeros(side * side)
    flat = at.view(2, -1)
    for k, tile in enumerate(tiles):
        share = 1 - (depth - k).abs()
        there = torch.nonzero(share > 0)[:, 0]
        seen = gather(tile, flat[:, there][:, None])[0]
        out.index_add_(0, there, seen.mul_(share[there]))
    return out.view(side, side)


def beam_noise(scan: Scan, sigma: float, fastest: float, white: list[Tensor]) -> Tensor:
    """Relative beam current, (R, C), mean 1; see `reference_numpy.beam_noise`."""
    grids = reference_numpy.relaxation_grids(scan, fastest)
    current, carried, upper = torch.zeros(scan.rows, scan.cols), torch.zeros(0), 0.0
    for (tau, step, nodes), noise in zip(reversed(grids), reversed(white), strict=True):
        series = autoregress(noise, math.exp(-step / tau))
        if carried.numel():
            if math.isclose(upper, 4 * step):
                quarters = torch.lerp(carried[:-1, None], carried[1:, None], torch.tensor([0, 0.25, 0.5, 0.75]))
                series += torch.cat([quarters.view(-1), carried[-1:]])[:nodes]
            elif math.isclose(upper, step):
                series += carried
            else:
                current += at_pixels(scan, carried, upper)
        carried, upper = series, step
    current += at_pixels(scan, carried, upper)
    current.mul_(sigma / math.sqrt(len(grids))).add_(1)
    return current.div_(current.mean())


def at_pixels(scan: Scan, series: Tensor, step: float) -> Tensor:
    """Linear interpolation at the pixel times of a series with a node every `step` s."""
    row_times = torch.arange(scan.rows, dtype=torch.float64) * scan.period
    if step == scan.dwell:
        start = torch.floor(row_times / step)
        rows = series.unfold(0, scan.cols + 1, 1)[start.long()]
        return torch.lerp(rows[:, :-1], rows[:, 1:], (row_times / step - start).float()[:, None])
    times = (row_times[:, None] + torch.arange(scan.cols, dtype=torch.float64) * scan.dwell).mul_(1 / step)
    below = times.int()
    share = times.sub_(below).float().view(-1)
    index = below.view(-1)
    before, after = series.index_select(0, index), series.index_select(0, index + 1)
    return torch.lerp(before, after, share).view(scan.rows, scan.cols)


def pulse_spread(counts: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Gamma(N/σ², scale σ²) for N counts; torch gives 0 no value, so 0 is put back."""
    shape = counts * (1 / sigma**2)
    return torch._standard_gamma(shape, generator=generator).mul_(sigma**2).mul_(counts > 0)


def hits(image: Tensor, mask: Tensor, rate: float, mean: float, rng: np.random.Generator) -> None:
    """Add Poisson(rate) hits per 256² pixels with exponential amplitudes to single pixels, in place."""
    where = torch.randint(image.numel(), (int(rng.poisson(rate * image.numel() / 256**2)),))
    image.view(-1).index_add_(0, where, torch.empty(where.numel()).exponential_(1 / mean))
    mask.view(-1)[where] |= DEFECT


def streak(scan: Scan, image: Tensor, decay: float, fraction: float) -> Tensor:
    """Exponential low-pass in time that keeps its state through the fly-back, with the beam on."""
    keep, through = math.exp(-1 / decay), math.exp(-scan.fly_back / scan.dwell / decay)
    filtered = decay_along(image, keep).mul_(1 - keep)
    idle = image.mean(dim=1)
    drive = (1 - through) * idle
    drive[1:] += through * filtered[:-1, -1]
    drive[0] = idle[0]
    state = decay_along(drive, through * keep**scan.cols)
    fade = keep ** torch.arange(1, min(scan.cols, math.ceil(20 * decay)) + 1)
    filtered[:, : fade.numel()].addcmul_(state[:, None], fade)
    return torch.lerp(image, filtered, fraction)


def streak_by_fft(scan: Scan, image: Tensor, decay: float, fraction: float) -> Tensor:
    """As `streak`, where the response fades within a row and the fly-back: each row after its idle signal, by FFT."""
    reach = math.ceil(-math.log(NEGLIGIBLE) * decay)
    keep = math.exp(-1 / decay)
    length = scan.cols + 2 * reach
    length += -length % 32
    response = (1 - keep) * keep ** torch.arange(reach + 1)
    response[0] += (1 - fraction) / fraction
    idle = image.mean(dim=1, keepdim=True).expand(-1, reach)
    rows = pad(torch.cat([idle, image], dim=1), (0, length - scan.cols - reach))
    turned = torch.fft.irfft(torch.fft.rfft(rows).mul_(torch.fft.rfft(response, n=length)), n=length)
    return turned[:, reach : reach + scan.cols] * fraction


def row_dropout(
    image: Tensor, mask: Tensor, rate: float, residue: float, mean: float, rng: np.random.Generator
) -> None:
    """Flatten Poisson(rate) segments, 1-4 rows high and w/8 to w long, to 0-1.5 times the mean, in place."""
    rows, cols = image.shape
    for _ in range(rng.poisson(rate)):
        height, length = min(int(rng.integers(1, 5)), rows), int(rng.integers(max(cols // 8, 1), cols + 1))
        top, left = int(rng.integers(rows - height + 1)), int(rng.integers(cols - length + 1))
        part = image[top : top + height, left : left + length]
        part.sub_(part.mean()).mul_(residue).add_(1.5 * rng.random() * mean)
        mask[top : top + height, left : left + length] |= DEFECT


def saturate(image: Tensor, level: float, knee: float) -> Tensor:
    """Soft saturation L - (L - k) exp(-(x - k)/(L - k)) above the knee k."""
    room = level - knee
    bent = image.clamp(min=knee).sub_(knee).mul_(-1 / room).exp_().mul_(-room).add_(level)
    return torch.where(image > knee, bent, image)


def quantise(image: Tensor, mask: Tensor, step: float, levels: int) -> None:
    """Round to multiples of `step` from 0 to levels - 1 of them, in place; flag what was clipped."""
    image.mul_(1 / step).add_(0.5).floor_()
    code = image.clamp(0, levels - 1)
    mask |= (code != image).view(torch.uint8) * CLIPPED
    torch.mul(code, step, out=image)


def distort(
    settings: Settings, side: int, tile: Tensor, rng: np.random.Generator, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The whole chain: truth, image, displacement (2, R, C) and mask; `tile` from `padded`.

    `rng` draws what is drawn per row, `generator` what is drawn per pixel.
    """
    stages, scan = stem_chain.stages(settings), stem_chain.scan(settings, side)
    jitter, streaking = stages["row_jitter"], stages["streak"]
    offset = jitter["sigma"] * reference_numpy.autoregress(rng.standard_normal((2, side)), jitter["correlation"])
    offset[0] *= jitter["ratio"]
    chance = rng.random((stages["hum"]["lines"], 8))
    rows, cols = reference_numpy.displacement_terms(scan, stages, offset, chance)
    affine = reference_numpy.fit_affine(rows, cols)
    affine[1, 2] -= streaking["fraction"] / math.expm1(1 / streaking["decay"])
    moved = displacement(rows, cols, affine)

    to_field = stem_chain.to_field(side)
    truth_map = reference_numpy.compose(to_field, affine)
    truth = gather(tile, positions(truth_map, (side, side)))
    image = gather(tile, positions(truth_map, (side, side), to_field, moved))
    scale = settings["expected_counts"] / float(truth.mean())
    truth.mul_(scale)
    image.mul_(scale)
    bright = reference_numpy.brightest(float(truth.max()), stages)
    image, mask = _detect(settings["expected_counts"], scan, stages, image, bright, rng, generator)
    return truth, image, moved, mask


def _detect(
    counts: float, scan: Scan, stages: dict[str, Settings], image: Tensor, bright: float,
    rng: np.random.Generator, generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    mask = torch.zeros(image.shape, dtype=torch.uint8)
    beam, hit, lines, levels = stages["beam_noise"], stages["hits"], stages["line_noise"], stages["quantise"]["levels"]
    fastest = beam["fastest"]
    grids = reference_numpy.relaxation_grids(scan, fastest)
    white = [torch.randn(nodes, generator=generator) for _, _, nodes in grids]
    image.mul_(beam_noise(scan, beam["sigma"], fastest, white))
    image = torch.poisson(image, generator=generator)
    image = pulse_spread(image, stages["pulse_spread"]["sigma"], generator)
    hits(image, mask, hit["rate"], hit["amplitude"] * bright, rng)
    image = streak(scan, image, stages["streak"]["decay"], stages["streak"]["fraction"])
    offset = reference_numpy.autoregress(rng.standard_normal(scan.rows), lines["correlation"])
    offset *= lines["sigma"] * counts
    image += torch.from_numpy((offset - offset.mean()).astype(np.float32))[:, None]
    row_dropout(image, mask, stages["row_dropout"]["rate"], stages["row_dropout"]["residue"], counts, rng)
    image.add_(torch.randn(image.shape, generator=generator), alpha=stages["read_noise"]["sigma"])
    quantise(image, mask, stages["quantise"]["full_scale"] * bright / (levels - 1), levels)
    return image, mask
