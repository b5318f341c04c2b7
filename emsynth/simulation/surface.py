"""SEM images, secondary and backscattered electrons, from the surface of a relief. Phenomenological, not a simulation.

No electron is followed: yields are laws for a flat surface, applied to the local tilt, and then corrected for edges,
shadows, grains and the detector. Charging that follows the scan (bands and tails along the fast axis) is no property of
the field, which a window may see at any rotation: it belongs to the stages of the detector (`ac_coupling`, `streak`,
`line_noise`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emsynth.draw import Streams, number
from emsynth.simulation.phantom import blurred, frequencies
from emsynth.specimen._morphology_materials import Material

if TYPE_CHECKING:
    from emsynth.microscope import SurfaceSem
    from emsynth.specimen.morphology import Relief

Map = NDArray[np.float64]

_AZIMUTHS = 12
# Å: depth that secondaries come from, as a weight of the layers at the surface (Reimer 1998, section 4.2: 10-100 Å).
_SECONDARY_DEPTH = 30.0
# Of the range: depth that backscattered electrons come from, and their spread at the surface (ours).
_BACKSCATTER_DEPTH = 0.2
_BACKSCATTER_SPREAD = 0.15
# How many more secondaries an electron releases on its way out than on its way in (Reimer 1998, section 4.2: 2-3).
_BETA = 2.5
_ROUGH_MOST = 0.89


def secondary_yield(material: Material, energy: float) -> float:
    """Secondary electrons per incident electron of a flat surface seen from above, δ0. Phenomenological.

    δ0 = 1.28 δm (E/Em)^-0.67 [1 - exp(-1.614 (E/Em)^1.67)], the universal curve (Lin & Joy, Surf. Interface Anal. 37,
    2005, 895), E the beam energy in eV.
    """
    ratio = energy / material.energy_most
    return float(1.28 * material.yield_most * ratio**-0.67 * (1 - math.exp(-1.614 * ratio**1.67)))


def tilt_exponent(number_: float) -> float:
    """Exponent n of δ = δ0/cos(θ)^n: 1.3 at Z = 4 to 0.65 at Z = 92 (Reimer, Scanning Electron Microscopy, 1998,
    section 4.2), linear between (ours). Phenomenological.
    """
    return 1.3 - 0.65 * (min(max(number_, 4.0), 92.0) - 4.0) / 88.0


def backscatter_coefficient(number_: float) -> float:
    """Backscattered electrons per incident electron of a flat bulk, 10 to 40 keV. Phenomenological.

    η = -0.0254 + 0.016 Z - 1.86·10⁻⁴ Z² + 8.3·10⁻⁷ Z³ (Reimer, Scanning Electron Microscopy, 1998, section 4.1).
    """
    return max(-0.0254 + 0.016 * number_ - 1.86e-4 * number_**2 + 8.3e-7 * number_**3, 0.0)


def image(relief: Relief, microscope: SurfaceSem, streams: Streams) -> dict[str, NDArray[np.float32]]:
    """SE and BSE images of a relief, periodic as the relief is. Phenomenological.

    SE = Σ w δ0/cos(θ)^n · E · S · A · C, with w the share of each material at the surface (`shares`), E from `edges`, S
    from `visibility`, A = 1 + a n·u for a detector towards u and a surface normal n, C the local charge; of that, the
    part β η/(1 + β η) that backscattered electrons release is spread over their range (Reimer 1998, section 4.2). BSE =
    Σ w B (η/B)^cos(θ), B = 0.89 (Drescher, Reimer & Seidel, Z. angew. Phys. 29, 1970, 331), spread, and shadowed by 0.7
    S (they fly straight, but many arrive from deeper) and lit by half of A (ours). Both times the contrast of the
    grains, from their orientation.

    Parameters
    ----------
    relief : Relief
        Any specimen.
    microscope : SurfaceSem
        Drawn.
    streams : Streams
        Not used yet: all that is random is in the relief and in the microscope.

    Returns
    -------
    dict of str to ndarray (H, W)
        ``SE`` and ``BSE``, electrons per incident electron. No frequency above 0.45/sampling.
    """
    energy = number(microscope.energy)
    slope = slopes(relief.height, relief.sampling)
    steep = np.minimum(np.hypot(*slope), math.tan(math.radians(number(microscope.tilt_cap))))
    cosine = 1 / np.sqrt(1 + steep**2)
    ranges = [m.range(energy) for m in relief.material]
    azimuth, asymmetry = math.radians(number(microscope.azimuth)), number(microscope.asymmetry)
    facing = -(slope[1] * math.cos(azimuth) + slope[0] * math.sin(azimuth))
    toward = facing / np.sqrt(1 + slope[0] ** 2 + slope[1] ** 2)
    light = 1 + asymmetry * toward
    radius = number(microscope.shadow_radius) * max(n * s for n, s in zip(relief.shape, relief.sampling, strict=True))
    lost = number(microscope.shadow) * (1 - visibility(relief, slope, radius, azimuth, asymmetry))
    surface, within = shares(relief, _SECONDARY_DEPTH), shares(relief, _BACKSCATTER_DEPTH * np.array(ranges))

    direct, back, second = np.zeros(relief.shape), np.zeros(relief.shape), np.zeros(relief.shape)
    wide = 0.0
    for material, here, below, reach in zip(relief.material, surface, within, ranges, strict=True):
        released = secondary_yield(material, energy) * cosine ** -tilt_exponent(material.number)
        eta = backscatter_coefficient(material.number)
        share = number(microscope.second_kind) * _BETA * eta / (1 + _BETA * eta)
        direct += here * released * (1 - share)
        second += here * released * share
        back += below * _ROUGH_MOST * (eta / _ROUGH_MOST) ** cosine
        wide += float(below.mean()) * reach
    wide *= _BACKSCATTER_SPREAD / max(float(within.sum(0).mean()), 1e-9)
    # Wider than a quarter of the field it would be even anyway, and the same.
    wide = min(wide, 0.25 * max(n * s for n, s in zip(relief.shape, relief.sampling, strict=True)))
    edge = edges(relief, number(microscope.escape_length), number(microscope.edge))
    seen = (direct + _spread(second, relief.sampling, wide)) * edge * (1 - lost) * light * _charge(relief, microscope)
    # Most of a detector for backscattered electrons sits on the axis: it favours a side half as much.
    heavy = _spread(back, relief.sampling, 0.3 * wide) * (1 - 0.7 * lost) * (1 + 0.5 * asymmetry * toward)
    grain = _channelling(relief, number(microscope.channelling))
    seen, heavy = seen * grain, heavy * grain
    probe = number(microscope.probe_size)
    return {"SE": blurred(seen, relief.sampling, probe), "BSE": blurred(heavy, relief.sampling, probe)}


def slopes(height: Map, sampling: tuple[float, float]) -> tuple[Map, Map]:
    """(row, col) slope of a periodic height map, by central differences."""
    row = (np.roll(height, -1, 0) - np.roll(height, 1, 0)) / (2 * sampling[0])
    col = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) / (2 * sampling[1])
    return row, col


def shares(relief: Relief, depth: float | NDArray[np.float64]) -> Map:
    """Share of each material in a signal from the uppermost `depth` Å, (M, H, W); what is missing to 1 is vacuum.

    From the top, layer m has the share exp(-Σ t/d) above it minus the same below it (ours).
    """
    depths = np.broadcast_to(np.asarray(depth, np.float64), (len(relief.material),))
    made = np.empty_like(relief.thickness)
    left = np.ones(relief.shape)
    for n in range(len(depths) - 1, -1, -1):
        passed = left * np.exp(-relief.thickness[n] / depths[n])
        made[n] = left - passed
        left = passed
    return made


def edges(relief: Relief, length: float, strength: float) -> Map:
    """Factor by which edges and points are brighter, (H, W), 1 on any plane. Phenomenological, ours.

    1 + b c/(1 + c), c = max(h - mean of h, 0)/l over a Gaussian of deviation l, the escape length: what stands out of
    its surroundings by as much as l has half of the brightening (the edge effect, Reimer 1998, section 6.1).
    """
    length = max(length, 1.5 * max(relief.sampling))
    out = np.maximum(relief.height - _spread(relief.height, relief.sampling, length), 0.0) / length
    factor: Map = 1 + strength * out / (1 + out)
    return factor


def visibility(relief: Relief, slope: tuple[Map, Map], radius: float, azimuth: float, asymmetry: float) -> Map:
    """Part of the sky that a point sees, of what a plane of its tilt would see, (H, W), 0 to 1. Phenomenological, ours.

    Σ w cos²γ/Σ w cos²γ0 over 12 azimuths, γ the elevation of the horizon within `radius` Å, γ0 that of the local plane
    (the sky view factor of Dozier & Frew, IEEE Trans. Geosci. Remote Sens. 28, 1990, 963); w = 1 + a cos(φ - detector).
    Far away the surface is looked at through a Gaussian of a third of the distance, so that a step shades smoothly.
    """
    step = max(relief.sampling)
    distances, distance = [], 1.5 * step
    while distance <= radius:
        distances.append(distance)
        distance *= 1.6
    steepest = math.tan(math.radians(80.0))
    low = np.float32
    row_slope, col_slope = slope[0].astype(low), slope[1].astype(low)
    capped = np.minimum(1.0, steepest / np.maximum(np.hypot(row_slope, col_slope), 1e-9))
    row_slope, col_slope = row_slope * capped, col_slope * capped
    height = relief.height.astype(low)
    levels = [height if d < 4 * step else _spread(relief.height, relief.sampling, d / 6).astype(low) for d in distances]
    seen, whole = np.zeros(relief.shape, low), np.zeros(relief.shape, low)
    for n in range(_AZIMUTHS):
        # Turned off the axes, so that tracks along them do not throw shadows of one direction only.
        angle = 2 * math.pi * (n + 0.37) / _AZIMUTHS
        weight = low(1 + asymmetry * math.cos(angle - azimuth))
        along = col_slope * low(math.cos(angle)) + row_slope * low(math.sin(angle))
        own = np.maximum(along, 0)
        horizon = own.copy()
        for distance, level in zip(distances, levels, strict=True):
            shift = (round(distance * math.sin(angle) / relief.sampling[0]),
                     round(distance * math.cos(angle) / relief.sampling[1]))
            far = math.hypot(shift[0] * relief.sampling[0], shift[1] * relief.sampling[1])
            if far == 0:
                continue
            rise = (np.roll(level, (-shift[0], -shift[1]), (0, 1)) - height) / low(far)
            # Whole pixels lie a little off the azimuth: what the plane rises by there is not the horizon's.
            rise += along - (row_slope * low(shift[0] * relief.sampling[0] / far)
                             + col_slope * low(shift[1] * relief.sampling[1] / far))
            np.maximum(horizon, rise, out=horizon)
        seen += weight / (1 + horizon**2)
        whole += weight / (1 + own**2)
    made: Map = np.minimum(seen / whole, 1.0).astype(np.float64)
    return made


def _channelling(relief: Relief, strength: float) -> Map | float:
    """Factor by which grains are brighter, (H, W), mean 1 over the grains. Phenomenological, ours.

    1 + c (k - mean k), k = exp(-tilt²/2w²), w = 15 mrad: where a grain is near an axis depends on its orientation
    (electron channelling contrast, Reimer 1998, section 9.1).
    """
    if strength == 0 or len(relief.orientation) < 2:
        return 1.0
    near = np.exp(-(relief.orientation[:, :2] ** 2).sum(1) / (2 * 15.0**2))
    # The last entry is for what has no grain, which is numbered -1.
    each = np.append(near - near.mean(), 0.0)
    factor: Map = 1 + strength * _spread(each[relief.grain], relief.sampling, 0.8 * max(relief.sampling))
    return factor


def _charge(relief: Relief, microscope: SurfaceSem) -> Map | float:
    """Factor by which charged areas are brighter, (H, W). Phenomenological, ours.

    exp(c (Q - mean Q)), Q the insulating share of the surface under a Gaussian of the halo's width. A potential that
    follows the specimen, not the scan.
    """
    strength = number(microscope.charging)
    insulating = np.array([m.insulating for m in relief.material], np.float64)
    if strength == 0 or not insulating.any():
        return 1.0
    shown = np.tensordot(insulating, shares(relief, _SECONDARY_DEPTH), 1)
    width = number(microscope.charging_radius) * max(n * s for n, s in zip(relief.shape, relief.sampling, strict=True))
    potential = _spread(shown, relief.sampling, width)
    factor: Map = np.exp(strength * (potential - potential.mean()))
    return factor


def _spread(values: Map, sampling: tuple[float, float], deviation: float) -> Map:
    """`values` under a periodic Gaussian of `deviation` in Å."""
    if deviation <= 0:
        return values
    u, v = frequencies((values.shape[0], values.shape[1]), sampling)
    made: Map = fft.irfft2(fft.rfft2(values) * np.exp(-2 * (math.pi * deviation) ** 2 * (u**2 + v**2)), s=values.shape)
    return made
