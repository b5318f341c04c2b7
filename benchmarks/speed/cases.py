"""What is timed: each kernel and the whole chain, on each side, ready to be called again and again.

A side that works in place gets a fresh copy of its input in every call; the copy is part of its time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from benchmarks.speed import emsynth_chain, reference_numpy, stem_chain
from emsynth.distortion._kernels import noise
from emsynth.distortion.geometry import MARGIN, Grid, Window, prefilter
from emsynth.distortion.stage import normals, uniforms

try:
    import torch

    from benchmarks.speed import reference_torch
except ImportError:  # the torch column stays empty
    torch = None  # type: ignore[assignment]

MEANS = (0.5, 2.5, 14.0, 120.0)  # electrons per pixel
BRIGHTEST = 100.0  # electrons
SIDES = ("emsynth", "numpy", "torch")
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One computation and how each side does it; a side that cannot do it is left out."""

    name: str
    side: int
    calls: dict[str, Call]


def _bit_generator() -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(1))


def _inferring(call: Call) -> Call:
    # Inference mode belongs to a thread, so that each call must enter it.
    def inferred() -> Any:
        with torch.inference_mode():
            return call()

    return inferred


def _case(name: str, side: int, emsynth: Call, numpy: Call, by_torch: Call | None) -> Case:
    calls = {"emsynth": emsynth, "numpy": numpy}
    if torch is not None and by_torch is not None:
        calls["torch"] = _inferring(by_torch)
    return Case(name, side, calls)


def _stage(tag: str, image: np.ndarray) -> Call:
    settings = stem_chain.load()
    stage, state = emsynth_chain.stage(settings, tag), emsynth_chain.readout(settings, len(image), BRIGHTEST)
    return lambda: stage.apply(image.copy(), state, 7)


def random_numbers(side: int) -> Iterator[Case]:
    """Random numbers: words, uniforms, normals, counts and pulses of a frame."""
    shape, rng = (side, side), _bit_generator()
    key, words = np.uint64(7), np.empty(side * side, np.uint32)

    def philox() -> Any:
        noise.fill_words(key, np.uint64(0), words)
        return words.reshape(shape)

    yield _case(
        "random words", side, philox, lambda: rng.integers(0, 2**32, shape, np.uint32),
        lambda: torch.empty(shape, dtype=torch.int32).random_(),
    )  # fmt: skip
    yield _case(
        "uniforms, float64", side, lambda: uniforms(7, 0, shape), lambda: rng.random(shape),
        lambda: torch.rand(shape, dtype=torch.float64),
    )  # fmt: skip
    yield _case(
        "normals, float64", side, lambda: normals(7, 0, shape), lambda: rng.standard_normal(shape),
        lambda: torch.randn(shape, dtype=torch.float64),
    )  # fmt: skip
    for mean in MEANS:
        yield _poisson(side, mean)
    counts = rng.poisson(14.0, shape).astype(np.float32)
    spread = stem_chain.stages(stem_chain.load())["pulse_spread"]["sigma"]
    yield _case(
        f"pulse spread, σ_g = {spread:g}, λ = 14", side, _stage("pulse_spread", counts),
        lambda: reference_numpy.pulse_spread(rng, counts, spread),
        lambda: reference_torch.pulse_spread(torch.from_numpy(counts), spread),
    )  # fmt: skip


def _poisson(side: int, mean: float) -> Case:
    expected, rng = np.full((side, side), mean, np.float32), _bit_generator()

    def counted() -> Any:
        image = expected.copy()
        noise.poisson(np.uint64(7), np.uint64(0), image.reshape(-1))
        return image

    return _case(
        f"Poisson, λ = {mean:g}", side, counted, lambda: reference_numpy.poisson(rng, expected),
        lambda: torch.poisson(torch.from_numpy(expected)),
    )  # fmt: skip


def positions(side: int) -> Iterator[Case]:
    """Displacement, and what is gathered at it."""
    settings, shape, rng = stem_chain.load(), (side, side), _bit_generator()
    scan, stages = stem_chain.scan(settings, side), stem_chain.stages(settings)
    chain, window = emsynth_chain.chain(settings), emsynth_chain.window(side)
    jitter, chance, to_field = rng.standard_normal((2, side)), rng.random((4, 8)), stem_chain.to_field(side)

    def by_numpy() -> Any:
        rows, cols = reference_numpy.displacement_terms(scan, stages, jitter, chance)
        return reference_numpy.displacement(rows, cols, reference_numpy.fit_affine(rows, cols))

    def by_torch() -> Any:
        rows, cols = reference_numpy.displacement_terms(scan, stages, jitter, chance)
        return reference_torch.displacement(rows, cols, reference_numpy.fit_affine(rows, cols))

    number = count()
    yield _case(
        "displacement", side, lambda: chain.positions(shape, 1, next(number)).displacement, by_numpy, by_torch
    )

    moved = by_numpy()
    padded, tile = emsynth_chain.coefficients(), reference_numpy.padded(stem_chain.coefficients())
    tensor = torch and torch.from_numpy(tile)
    straight, bent = Grid(shape, np.eye(2, 3)), Grid(shape, np.eye(2, 3), moved.astype(np.float32))
    yield _case(
        "gather, truth", side, lambda: window.gather(padded, stem_chain.SAMPLING, True, straight),
        lambda: reference_numpy.gather(tile, reference_numpy.positions(to_field, shape)),
        lambda: reference_torch.gather(tensor, reference_torch.positions(to_field, shape)),
    )  # fmt: skip
    yield _case(
        "gather, image", side, lambda: window.gather(padded, stem_chain.SAMPLING, True, bent),
        lambda: reference_numpy.gather(tile, reference_numpy.positions(to_field, shape, to_field, moved)),
        lambda: reference_torch.gather(
            tensor, reference_torch.positions(to_field, shape, to_field, torch.from_numpy(moved))
        ),
    )  # fmt: skip
    yield _mapped(side)


def _mapped(side: int) -> Case:
    # A window with 2 % strain and a map over three thicknesses.
    rng, grid = _bit_generator(), Grid((side, side), np.eye(2, 3))
    warp, plane = rng.uniform(-0.1, 0.1, (2, 9, 9)), rng.uniform(0.2, 1.8, (9, 9))
    plain = emsynth_chain.window(side)
    window = Window(plain.shape, plain.pixel, plain.rotation, plain.origin, warp=warp, plane=plane)
    stack = np.stack([stem_chain.field() * f for f in (0.5, 1.0, 1.5)])
    padded = prefilter(stack, periodic=True)
    tiles = np.stack([reference_numpy.padded(stem_chain.coefficients() * np.float32(f)) for f in (0.5, 1.0, 1.5)])
    tensor = torch and torch.from_numpy(tiles)
    to_field, shift = stem_chain.to_field(side), warp / stem_chain.SAMPLING
    return _case(
        "gather, truth, strain and thickness maps", side,
        lambda: window.gather(padded, stem_chain.SAMPLING, True, grid),
        lambda: reference_numpy.gather_mapped(tiles, to_field, shift, plane, side, MARGIN),
        lambda: reference_torch.gather_mapped(tensor, to_field, shift, plane, side, MARGIN),
    )  # fmt: skip


def detector(side: int) -> Iterator[Case]:
    """Detector stages other than the counting."""
    settings, rng = stem_chain.load(), _bit_generator()
    scan, stages = stem_chain.scan(settings, side), stem_chain.stages(settings)
    image = rng.poisson(20.0, (side, side)).astype(np.float32)
    tensor = torch and torch.from_numpy(image)
    decay, fraction = stages["streak"]["decay"], stages["streak"]["fraction"]
    sigma, levels = stages["read_noise"]["sigma"], stages["quantise"]["levels"]
    step = stages["quantise"]["full_scale"] * BRIGHTEST / (levels - 1)

    def read_by_numpy() -> Any:
        noisy = image.copy()
        reference_numpy.read_noise(rng, noisy, sigma)
        return noisy

    def quantise_by_numpy() -> Any:
        coded = image.copy()
        reference_numpy.quantise(coded, np.zeros(coded.shape, np.uint8), step, levels)
        return coded

    def quantise_by_torch() -> Any:
        coded = tensor.clone()
        reference_torch.quantise(coded, torch.zeros(coded.shape, dtype=torch.uint8), step, levels)
        return coded

    yield _beam_noise(side)
    yield _case(
        "streak, exponential", side, _stage("streak", image),
        lambda: reference_numpy.streak(scan, image, decay, fraction),
        lambda: reference_torch.streak(scan, tensor, decay, fraction),
    )  # fmt: skip
    yield _case(
        "read noise", side, _stage("read_noise", image), read_by_numpy,
        lambda: torch.add(tensor, torch.randn(tensor.shape), alpha=sigma),
    )  # fmt: skip
    yield _case("quantise", side, _stage("quantise", image), quantise_by_numpy, quantise_by_torch)


def _beam_noise(side: int) -> Case:
    settings, rng = stem_chain.load(), _bit_generator()
    scan, beam = stem_chain.scan(settings, side), stem_chain.stages(settings)["beam_noise"]
    image, fastest = np.full((side, side), 20, np.float32), beam["fastest"]
    nodes = [n for _, _, n in reference_numpy.relaxation_grids(scan, fastest)]

    def by_numpy() -> Any:
        white = [rng.standard_normal(n, np.float32) for n in nodes]
        return image * reference_numpy.beam_noise(scan, beam["sigma"], fastest, white)

    def by_torch() -> Any:
        white = [torch.randn(n) for n in nodes]
        return torch.from_numpy(image) * reference_torch.beam_noise(scan, beam["sigma"], fastest, white)

    return _case("beam noise", side, _stage("beam_noise", image), by_numpy, by_torch)


def whole_chain(side: int) -> Case:
    """Every stage: truth, image, displacement and mask."""
    settings, number = stem_chain.load(), count()
    made = emsynth_chain.chain(settings)

    def by_torch() -> Any:
        index = next(number)
        seeded = torch.Generator().manual_seed(index)
        return reference_torch.distort(settings, side, tensor, np.random.default_rng(index), seeded)

    def by_numpy() -> Any:
        return reference_numpy.distort(settings, side, tile, np.random.Generator(np.random.SFC64(next(number))))

    tile = reference_numpy.padded(stem_chain.coefficients())
    tensor = torch and torch.from_numpy(tile)
    return _case(
        "whole chain", side, lambda: emsynth_chain.distort(made, side, next(number)), by_numpy, by_torch,
    )  # fmt: skip


def drawn_chain(side: int) -> Case:
    """As the whole chain, with the draw of the chain's parameters in emsynth, which the references do not do."""
    varied, number, whole = emsynth_chain.undrawn(stem_chain.load()), count(), whole_chain(side)
    calls = {**whole.calls, "emsynth": lambda: emsynth_chain.draw_and_distort(varied, side, next(number))}
    return Case("whole chain with draw", side, calls)


def kernels(side: int) -> list[Case]:
    """Every kernel at one size, the floor (random words only) first."""
    return [*random_numbers(side), *positions(side), *detector(side)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def threaded(call: Call, workers: int, samples: int) -> Call:
    """`samples` independent calls over a pool of `workers` threads; the kernels release the interpreter's lock."""
    pool = ThreadPoolExecutor(workers)

    def together() -> Any:
        return list(pool.map(lambda _: call(), range(samples)))[-1]

    return together
