"""A suite without physics: Gaussian columns, waves and a vacuum, made in milliseconds and always the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

from emsynth.benchmark.suite import Condition, Content, Probe, Scene, Suite
from emsynth.streams import generator

SAMPLING = 0.2  # Å per px
SPACING = 12  # px between columns: 2.4 Å
WIDTH = 2.1  # px, standard deviation of a column: 1 Å at half maximum
COUNTS = {1: 200.0, 2: 80.0, 3: 30.0, 4: 10.0, 5: 3.0}  # electrons per pixel
JITTER = 0.2  # px of row jitter per severity
SHIFT, DOPANT, VACANCY = 0.2, 1.2, 0.9  # Å along the columns, and intensity over that of the column undisturbed
KINDS: tuple[Content, ...] = ("lattice", "perturbed", "amorphous", "edge")

Floats = NDArray[np.float64]
Pattern = Callable[[Floats, Floats], Floats]


def toy_suite(scenes: int = 4, families: Sequence[str] = ("poisson", "row_jitter"), severities: Sequence[int] = (1, 3),
              side: int = 48, gain: float = 1.0, black_level: float = 0.0) -> Suite:
    """Scenes lattice, perturbed (its twin), amorphous, edge, and again; Poisson noise, or row jitter and that."""
    conditions = tuple(_condition(family, severity, gain, black_level)
                       for family in families for severity in severities)
    patterns = [_pattern(index, side) for index in range(scenes)]
    row, col = np.mgrid[:side, :side].astype(np.float64)
    means = [_pattern(_twin(index), side)(row, col).mean() for index in range(scenes)]
    codes = np.stack([[_expose(condition, index, lambda r, c, i=i: patterns[i](r, c) / means[i], row, col)
                       for i, index in enumerate(map(_twin, range(scenes)))] for condition in conditions])
    seen = tuple(_scene(index, side, patterns[index](row, col) / means[index]) for index in range(scenes))
    digest = hashlib.sha256(codes.tobytes())
    for part in (*(condition.name for condition in conditions), gain, black_level):
        digest.update(str(part).encode())
    shape = codes.shape[:2]
    scale = np.array([[condition.expected_counts] * scenes for condition in conditions])
    return Suite("toy_v1", "Gaussian columns, for tests", "score", digest.hexdigest(), conditions, seen, codes,
                 np.full(shape, gain), np.full(shape, black_level), scale, {"licence": "CC0-1.0"})


def _twin(index: int) -> int:
    """The scene whose random numbers this one uses."""
    return index - 1 if KINDS[index % 4] == "perturbed" else index


def _condition(family: str, severity: int, gain: float, black_level: float) -> Condition:
    counts = COUNTS[1] if family == "row_jitter" else COUNTS[severity]
    return Condition(family, severity, counts, gain, black_level, True, 0.0, 1.0, {"expected_counts": counts})


def _expose(condition: Condition, key: int, pattern: Pattern, row: Floats, col: Floats) -> NDArray[np.uint16]:
    # By inverse distribution, so that twins whose intensities differ still have the same noise everywhere else.
    rng = generator(0, key, f"toy {condition.name}")
    jitter = JITTER * condition.severity * rng.standard_normal((len(row), 1))
    expected = condition.expected_counts * pattern(row, col + (jitter if condition.family == "row_jitter" else 0.0))
    return poisson.ppf(rng.uniform(size=expected.shape), expected).astype(np.uint16)


def _grid(side: int, columns: int | None = None) -> Floats:
    at = np.arange(SPACING / 2, side, SPACING)
    return np.array([(r, c) for r in at for c in at[:columns]])


def _probes(count: int) -> tuple[Probe, ...]:
    row = math.isqrt(count)  # of a square grid; none of the three is at its rim
    return (Probe("shift", row + 1, "20 pm along the columns"), Probe("dopant", row + 2, "20 % brighter"),
            Probe("vacancy", (row - 2) * row + 1, "lacks one atom of ten"))


def _lattice(index: int, side: int) -> tuple[Floats, Floats]:
    """Positions (n, 2), px, and heights (n,) of the columns of a lattice or of its perturbed twin."""
    position = _grid(side)
    height = np.ones(len(position))
    if KINDS[index % 4] == "perturbed":
        shift, dopant, vacancy = (probe.column for probe in _probes(len(position)))
        position[shift, 1] += SHIFT / SAMPLING
        height[dopant], height[vacancy] = DOPANT, VACANCY
    return position, height


def _pattern(index: int, side: int) -> Pattern:
    match KINDS[index % 4]:
        case "amorphous":
            rng = generator(0, index, "toy amorphous")
            turn, phase = rng.uniform(0, 2 * np.pi, (2, 60))
            period = rng.uniform(4.0, 16.0, 60)
            return lambda r, c: np.maximum(0.05, 1 + 0.05 * sum(
                np.cos(2 * np.pi / period[i] * (np.cos(turn[i]) * r + np.sin(turn[i]) * c) + phase[i])
                for i in range(60)))
        case "edge":
            position = _grid(side, max(1, side // SPACING // 2))
            edge = position[:, 1].max() + SPACING / 2
            return lambda r, c: np.where(c < edge, 0.1, 0.0) + np.where(
                c < edge + SPACING / 2, _columns(r, c, position, np.ones(len(position))), 0.0)
        case _:
            position, height = _lattice(index, side)
            return lambda r, c: 0.1 + _columns(r, c, position, height)


def _columns(row: Floats, col: Floats, position: Floats, height: Floats) -> Floats:
    squared = (row[..., None] - position[:, 0]) ** 2 + (col[..., None] - position[:, 1]) ** 2
    return (height * np.exp(-squared / (2 * WIDTH**2))).sum(-1)


def _scene(index: int, side: int, truth: Floats) -> Scene:
    kind = KINDS[index % 4]
    classes = np.full((side, side), 1 if kind == "amorphous" else 2, np.uint8)
    position = np.zeros((0, 2)) if kind == "amorphous" else _lattice(index, side)[0]
    if kind == "edge":
        position = _grid(side, max(1, side // SPACING // 2))
        classes[:, int(position[:, 1].max()) + SPACING // 2:] = 0
    twin = kind == "perturbed"
    return Scene(
        index, f"{kind}-{index}", kind, "none" if kind == "amorphous" else "sc", "toy", "phenomenological", "HAADF",
        SAMPLING, truth.astype(np.float32), classes, position, np.full(len(position), 79, np.uint8),
        ("Au",) * len(position), index - 1 if twin else None, _probes(len(position)) if twin else ())
