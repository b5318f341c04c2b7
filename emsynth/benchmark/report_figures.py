"""Curves of the report: each metric against severity, one small drawing for each family, one line for each restorer."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emsynth.benchmark.leaderboard import significant
from emsynth.benchmark.reference import Floats, Reference, figures
from emsynth.benchmark.score import (
    ORACLE,
    RESPONSES,
    Estimate,
    counted,
    error,
    groups,
    psnr_of,
    ratio_estimate,
    resamples,
    slope_estimate,
)
from emsynth.benchmark.suite import Suite

if TYPE_CHECKING:
    import pandas as pd
WIDTH, HEIGHT = 240, 172
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 8, 8, 36
_HUES = 10
_FAR = 4.5  # ranges of the middle third beyond it
_MOST_RELATIVE = 250.0  # percent
RELATIVE = "relative_error"

_Place = Callable[[float], float]


@dataclass(frozen=True)
class Curve:
    """One restorer's line of one metric in one family.

    Attributes
    ----------
    restorer : str
    severities : tuple of int
    points : tuple of Estimate
        One for each severity: mean over scenes and its interval; of ``psnr`` the PSNR of the mean error.
    """

    restorer: str
    severities: tuple[int, ...]
    points: tuple[Estimate, ...]


def series_class(restorer: str, order: Sequence[str], fixed: str) -> str:
    """CSS classes of a restorer's line: an oracle has its baseline's hue, and is dashed; `fixed` is the reference."""
    plain = [name for name in dict.fromkeys(name.removesuffix(ORACLE) for name in order) if name != fixed]
    if restorer.removesuffix(ORACLE) == fixed:
        return "fixed" + (" dashed" if restorer.endswith(ORACLE) else "")
    at = plain.index(restorer.removesuffix(ORACLE))
    return f"hue{at % _HUES}" + (" dashed" if restorer.endswith(ORACLE) or at >= _HUES else "")


def curves(suite: Suite, table: pd.DataFrame, restorers: Sequence[str], metric: str,
           against: Reference) -> dict[str, list[Curve]]:
    """Curves of one metric, family by family; `RELATIVE` is the error over the reference's, percent."""
    estimate = _estimating(suite, metric)
    found: dict[str, list[Curve]] = {family: [] for family in suite.families}
    for restorer in restorers:
        top, bottom = _parts(suite, table, restorer, metric, against)
        for family, drawn in found.items():
            rows = sorted((c.severity, n) for n, c in enumerate(suite.conditions) if c.family == family)
            points = tuple(estimate(top[n], bottom[n]) for _, n in rows)
            if any(points):
                drawn.append(Curve(restorer, tuple(severity for severity, _ in rows), points))
    return {family: drawn for family, drawn in found.items() if drawn}


def _estimating(suite: Suite, metric: str) -> Callable[[Floats, Floats], Estimate]:
    """How a point and its interval come of what `_parts` has of one condition."""
    if metric.removeprefix("response_") in RESPONSES:
        member = groups(suite)
        return lambda top, bottom: slope_estimate(top, bottom, member)
    weights = resamples(suite)
    if metric != "psnr":
        return lambda top, bottom: ratio_estimate(top, bottom, weights)

    def psnr(top: Floats, bottom: Floats) -> Estimate:
        mean = ratio_estimate(top, bottom, weights)
        # The larger the error, the lower the PSNR.
        return Estimate(*map(float, psnr_of(np.array([mean.value, mean.high, mean.low]))))
    return psnr


def _parts(suite: Suite, table: pd.DataFrame, restorer: str, metric: str, against: Reference) -> tuple[Floats, Floats]:
    """What is summed over scenes above and below the line of a fraction, (condition, scene); 0 where there is none."""
    if metric == RELATIVE:
        top, bottom = 100 * error(figures(suite, table, restorer, "psnr")), error(against.figures["psnr"])
    elif metric.removeprefix("response_") in RESPONSES:
        top, bottom = (figures(suite, table, restorer, m) for m in RESPONSES[metric.removeprefix("response_")])
    else:
        top = figures(suite, counted(table), restorer, metric)
        top = error(top) if metric == "psnr" else top
        bottom = np.ones(top.shape)
    have = np.isfinite(top) & np.isfinite(bottom)
    return np.where(have, top, 0.0), np.where(have, bottom, 0.0)


def draw(metric: str, unit: str, families: Mapping[str, Sequence[Curve]], classes: Mapping[str, str],
         target: float | None = None) -> str:
    """Small multiples of one metric as HTML with inline SVG, all on one scale."""
    points = [p for drawn in families.values() for c in drawn for p in c.points if p]
    if not points:
        return ""
    low, high = span(points, target, _MOST_RELATIVE if metric == RELATIVE else math.inf)
    return "".join(_panel(family, drawn, classes, (low, high), metric, unit, target)
                   for family, drawn in families.items())


def span(points: Sequence[Estimate], target: float | None, most: float = math.inf) -> tuple[float, float]:
    """Limits of the vertical axis that all panels of a metric share, with `target` where it is near."""
    values = np.array([p.value for p in points])
    # One restorer that is far off must not press all others into a line: its own leaves the drawing instead. It may be
    # a third of all points.
    first, third = np.percentile(values, (35, 65))
    # Where the most that is drawn is given, that is enough.
    far = math.inf if math.isfinite(most) else _FAR * (third - first) or math.inf
    bottom, top = float(values[values >= first - far].min()), float(values[values <= third + far].max())
    if target is not None and bottom - (top - bottom) <= target <= top + (top - bottom):
        bottom, top = min(bottom, target), max(top, target)
    top = max(min(top, most), bottom)
    room = 0.06 * (top - bottom) or max(abs(top) * 0.1, 0.1)
    return bottom - room, top + room


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers between two limits, about so many."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough)
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _panel(family: str, drawn: Sequence[Curve], classes: Mapping[str, str], limits: tuple[float, float], metric: str,
           unit: str, target: float | None) -> str:
    low, high = limits
    severities = sorted({s for c in drawn for s in c.severities})
    first, last = severities[0], max(severities[-1], severities[0] + 1)

    def x(severity: float) -> float:
        return _LEFT + 6 + (WIDTH - _LEFT - _RIGHT - 12) * (severity - first) / (last - first)

    def y(value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (high - min(max(value, low - 1e3), high + 1e3)) / (high - low)

    grid = "".join(f'<path class="{"target" if v == target else "grid"}" d="M{_LEFT} {y(v):.1f}H{WIDTH - _RIGHT}"/>'
                   f'<text x="{_LEFT - 5}" y="{y(v) + 3.5:.1f}" text-anchor="end">{v:g}</text>'
                   for v in sorted({*ticks(low, high), *([target] if target and low < target < high else [])}))
    axis = "".join(f'<text x="{x(s):.1f}" y="{HEIGHT - 21}" text-anchor="middle">{s}</text>' for s in severities)
    axis += f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:g}" y="{HEIGHT - 7}" text-anchor="middle">severity</text>'
    lines = "".join(_line(c, classes, x, y) for c in drawn)
    name = html.escape(family)
    clip = f"clip-{html.escape(metric)}-{name}"
    arrows = "".join(_beyond(c, classes, x, (low, high)) for c in drawn)
    off = ' <small>arrow: off the scale</small>' if arrows else ""
    return (f'<figure class="panel"><figcaption>{name.replace("_", " ")}{off}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(metric)} [{html.escape(unit)}] '
            f'against severity, {name}"><clipPath id="{clip}"><rect x="{_LEFT}" y="{_TOP}" '
            f'width="{WIDTH - _LEFT - _RIGHT}" height="{HEIGHT - _TOP - _BOTTOM}"/></clipPath>'
            f'{grid}{axis}<g clip-path="url(#{clip})">{lines}</g>{arrows}</svg></figure>')


def _beyond(curve: Curve, classes: Mapping[str, str], x: _Place, limits: tuple[float, float]) -> str:
    """Arrows at the edge where points of a curve are off the scale."""
    low, high = limits
    arrows = []
    for severity, point in zip(curve.severities, curve.points, strict=True):
        if point and not low <= point.value <= high:
            edge, sign = (_TOP, 1) if point.value > high else (HEIGHT - _BOTTOM, -1)
            arrows.append(f'<path class="arrow" d="M{x(severity):.1f} {edge}l-4 {7 * sign}h8z"><title>'
                          f'{html.escape(curve.restorer)}: {significant(point.value, 3)}, off the scale</title></path>')
    number = list(classes).index(curve.restorer)
    return (f'<g class="series {classes[curve.restorer]}" data-restorer="{number}">{"".join(arrows)}</g>'
            if arrows else "")


def _line(curve: Curve, classes: Mapping[str, str], x: _Place, y: _Place) -> str:
    at = [(x(s), p) for s, p in zip(curve.severities, curve.points, strict=True) if p]
    line = " ".join(f"{px:.1f},{y(p.value):.1f}" for px, p in at)
    band = " ".join([*(f"{px:.1f},{y(p.high):.1f}" for px, p in at), *(f"{px:.1f},{y(p.low):.1f}"
                                                                        for px, p in reversed(at))])
    dots = "".join(f'<circle cx="{px:.1f}" cy="{y(p.value):.1f}" r="2.4"/>' for px, p in at)
    words = ", ".join(significant(p.value, 3) for _, p in at)
    number = list(classes).index(curve.restorer)
    return (f'<g class="series {classes[curve.restorer]}" data-restorer="{number}">'
            f"<title>{html.escape(curve.restorer)}: {words}</title>"
            f'<polygon points="{band}"/><polyline points="{line}"/>{dots}</g>')
