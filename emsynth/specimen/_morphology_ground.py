"""What carries the features of a morphology, and how many features of which size there are. Shapes and shares are
ours.
"""

from __future__ import annotations

import math

import numpy as np

from emsynth.specimen._morphology_canvas import BULK, Canvas, Map

# More bodies than this are not drawn: the coverage stays below what was asked.
MOST = 3500


def count_of(canvas: Canvas, area: float, most: int = MOST) -> int:
    """How many bodies of `area` Å² cover as much as asked, where they overlap at random: 1 - exp(-n·area/total)."""
    asked = -math.log(1 - min(canvas.coverage, 0.98))
    return int(np.clip(round(asked * canvas.area / area), 1, most))


def sizes_of(canvas: Canvas, rng: np.random.Generator, count: int, spread: float | None = None) -> Map:
    """Log-normal widths in Å, at most a quarter of the field."""
    wide = canvas.size * rng.lognormal(0.0, canvas.spread if spread is None else spread, count)
    clipped: Map = np.clip(wide, 2.5 * canvas.step, 0.25 * min(canvas.side))
    return clipped


def ground(canvas: Canvas, marks: bool = True) -> None:
    """What carries the features: a rough bulk (with `marks`, some have scratches or steps), a varying film, nothing."""
    if canvas.support == "none":
        return
    rng = canvas.generator("ground")
    wave = canvas.noise("ground.wave", 0.12 * min(canvas.side), 3.0)
    fine = canvas.noise("ground.fine", 0.3 * canvas.size, 2.2)
    rough = canvas.roughness * canvas.size
    if canvas.support == "film":
        thickness = canvas.film * np.exp(rng.uniform(0.02, 0.2) * wave + min(0.15, canvas.roughness) * 0.3 * fine)
        canvas.layer(canvas.ground)[:] = thickness
        canvas.height += thickness + 0.1 * rough * wave
        return
    canvas.layer(canvas.ground)[:] = BULK
    canvas.height += 0.5 * rough * wave + 0.25 * rough * fine
    kind = rng.random() if marks else 1.0
    if kind < 0.2:  # polishing scratches
        _scratches(canvas, int(rng.integers(5, 60)), 0.04 * canvas.size)
    elif kind < 0.27:  # steps of a cleaved crystal
        slope = canvas.noise("ground.steps", 0.3 * min(canvas.side), 3.0) * rng.uniform(2, 5)
        canvas.height += 0.06 * canvas.size * terraces(slope, 0.08)
    if canvas.crystalline[canvas.ground]:
        canvas.grain[:] = canvas.new_grain(canvas.ground)


def terraces(values: Map, width: float) -> Map:
    """A staircase of unit steps, each spread over `width` of the way to the next one."""
    whole = np.floor(values)
    part = np.clip((values - whole - 0.5) / width + 0.5, 0, 1)
    stepped: Map = whole + part * part * (3 - 2 * part)
    return stepped


def _scratches(canvas: Canvas, count: int, deep: float) -> None:
    """Fine grooves that run out at both ends, most of them along one direction."""
    rng = canvas.generator("scratches")
    main, scatter = rng.uniform(0, math.pi), float(rng.choice([0.05, 0.3, 2.0]))
    for _ in range(count):
        wide, half = canvas.step * rng.uniform(1.0, 3.0), rng.uniform(0.05, 0.24) * min(canvas.side)
        angle = main + rng.normal(0, scatter)
        index, row, col = canvas.patch(rng.uniform(0, 1, 2) * canvas.side, half)
        along, across = col * math.cos(angle) + row * math.sin(angle), row * math.cos(angle) - col * math.sin(angle)
        groove = np.exp(-((across / wide) ** 2)) * np.clip(1 - (along / half) ** 2, 0, 1) ** 2
        canvas.height[index] -= min(deep, wide) * rng.uniform(0.2, 1.0) * groove
