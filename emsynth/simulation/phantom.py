"""Images at low magnification, STEM and TEM, from the thickness maps of a relief. Phenomenological, not a simulation.

No wave is propagated: each pixel is a slab of its own. What the numbers are good for is contrast of the right sign,
size and dependence on material, thickness and energy; a comparison with experiment within a few tens of per cent is
luck.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emsynth.draw import Streams, number
from emsynth.errors import FieldError
from emsynth.microscope import wavelength
from emsynth.specimen._morphology_materials import Material, velocity

if TYPE_CHECKING:
    from emsynth.microscope import SurveyStem, SurveyTem
    from emsynth.specimen.morphology import Relief

Map = NDArray[np.float64]

# Highest spatial frequency of an image times the sampling, along any direction, and where the fall towards it begins.
BAND_LIMIT = 0.45
_BAND_START = 0.38
# px: narrowest blur, full width at half maximum. At the band limit it leaves 0.016 of the amplitude, so
# that the cut rings by less than 0.5 % of a point's height beyond 4 px.
NARROWEST_PROBE = 2.4
# Z at which σ ∝ Z^1.7 meets unscreened Rutherford scattering, σ ∝ Z² (ours).
_RUTHERFORD_AT = 14.0
# Reflections of a grain: spacing of their Bragg angles in mrad, and how extinction grows from one to the next (ours).
_REFLECTIONS = ((6.0, 1.0), (10.0, 1.6), (17.0, 2.8))
_BOHR = 0.529_177_21
_TO_FWHM = 2 * math.sqrt(2 * math.log(2))


def haadf_path(material: Material, energy: float, inner: float, outer: float) -> float:
    """Mean free path in Å of scattering onto a ring-shaped detector. Phenomenological.

    1/Λ = n σ, σ = 4π γ²/(a0² k⁴) (1/θ1² - 1/θ2²) Z0^0.3 Z^1.7, k = 2π/λ: Rutherford's law for small angles (Reimer &
    Kohl, Transmission Electron Microscopy, 2008, section 5.1), with the exponent 1.7 for screening (Krivanek et al.,
    Nature 464, 2010, 571: 1.64) and equal to Rutherford's at Z0 = 14 (ours).

    Parameters
    ----------
    material : Material
        Its atoms per volume and mean atomic number count.
    energy : float
        Beam energy in eV.
    inner, outer : float
        Angles in mrad.
    """
    k, gamma = 2 * math.pi / wavelength(energy), 1 / math.sqrt(1 - velocity(energy) ** 2)
    ring = 1e6 * (1 / inner**2 - 1 / outer**2)
    section = 4 * math.pi * gamma**2 / (_BOHR**2 * k**4) * ring * _RUTHERFORD_AT**0.3 * material.number**1.7
    return float(1 / (material.atoms * section))


def image(relief: Relief, microscope: SurveyStem | SurveyTem, streams: Streams) -> dict[str, NDArray[np.float32]]:
    """Images of a relief, one for each detector, periodic as the relief is. Phenomenological.

    Parameters
    ----------
    relief : Relief
        A specimen that a beam can pass.
    microscope : SurveyStem or SurveyTem
        Drawn.
    streams : Streams
        Random streams of the field: ``phantom.bend`` (how the specimen is bent), ``phantom.illumination``.

    Returns
    -------
    dict of str to ndarray (H, W)
        ``HAADF`` and ``BF`` in fractions of the beam, or ``camera`` relative to the incident beam. No frequency above
        0.45/sampling: see `blurred`.

    Raises
    ------
    FieldError
        Where the specimen is a bulk.
    """
    if relief.bulk:
        raise FieldError(f"specimen.support: no beam passes through the bulk below {relief.family!r}; use support: "
                         f"film or none, or a microscope of kind sem")
    if microscope.kind == "stem_survey":
        return _stem(relief, microscope, streams)
    return {"camera": _tem(relief, microscope, streams)}


def _stem(relief: Relief, microscope: SurveyStem, streams: Streams) -> dict[str, NDArray[np.float32]]:
    """HAADF and BF of a relief. Phenomenological.

    HAADF = (1 - exp(-Σ t/Λ)) (1 + channelling·A), Λ from `haadf_path`, A the strength of the excitation from 0 to 1 of
    the crystal's grain; BF = exp(-(1 - passed) Σ t/Λe) D, Λe the elastic mean free path, D from `diffraction`.
    """
    energy = number(microscope.energy)
    inner, outer = number(microscope.inner), number(microscope.outer)
    ring = depth(relief, [haadf_path(m, energy, inner, outer) for m in relief.material])
    all_ = depth(relief, [m.elastic_path(energy) for m in relief.material])
    excited = diffraction(relief, energy, number(microscope.bending), streams)
    dark = (1 - np.exp(-ring)) * (1 + number(microscope.channelling) * (1 - excited))
    bright = np.exp(-(1 - number(microscope.passed)) * all_) * (1 - number(microscope.diffraction) * (1 - excited))
    probe = number(microscope.probe_size)
    return {"HAADF": blurred(np.minimum(dark, 1.0), relief.sampling, probe),
            "BF": blurred(bright, relief.sampling, probe)}


def _tem(relief: Relief, microscope: SurveyTem, streams: Streams) -> NDArray[np.float32]:
    """TEM with an objective aperture. Phenomenological.

    I = exp(-Σ t/Λ) D F, 1/Λ = (1 - passed)/Λe + filtered/Λi, Λe and Λi the mean free paths of elastic and inelastic
    scattering, D from `diffraction`, F from `fringes`.
    """
    energy = number(microscope.energy)
    paths = [1 / max((1 - number(microscope.passed)) / m.elastic_path(energy)
                     + number(microscope.filtered) / m.inelastic_path(energy), 1e-12) for m in relief.material]
    signal = np.exp(-depth(relief, paths))
    strength = number(microscope.diffraction)
    if strength:
        signal *= 1 - strength * (1 - diffraction(relief, energy, number(microscope.bending), streams))
    signal *= fringes(relief, energy, number(microscope.defocus), number(microscope.fringe))
    fall = number(microscope.illumination)
    if fall:
        signal *= 1 + fall / 2 * _wave(relief, streams.generator("phantom.illumination"), 0.5)
    return blurred(signal, relief.sampling, number(microscope.probe_size))


def depth(relief: Relief, paths: list[float]) -> Map:
    """Optical depth (H, W): Σ t/Λ over the materials."""
    total = np.zeros(relief.shape)
    for thickness, path in zip(relief.thickness, paths, strict=True):
        total += thickness / path
    return total


def diffraction(relief: Relief, energy: float, bending: float, streams: Streams) -> Map:
    """Part of the electrons that no reflection takes out of the beam, (H, W), 0 to 1. Phenomenological.

    Π over three reflections g of 1 - (π t/ξ)² sin²(π t s')/(π t s')² with s' = √(s² + 1/ξ²): the two-beam equation
    (Hirsch et al., Electron Microscopy of Thin Crystals, 1977, section 8.3; Williams & Carter, Transmission Electron
    Microscopy, 2009, section 13.3), as though each were alone, oscillating less with depth for absorption. The
    deviation s = g·(tilt of the grain + local bend); fringes of equal thickness and bend contours follow. Extinction
    distances are proportional to the velocity. Which reflections, and how grains are tilted, is ours.

    Parameters
    ----------
    relief : Relief
        Grains, their orientation and the thickness of the crystalline materials count.
    energy : float
        Beam energy in eV.
    bending : float
        Deviation of the smooth random tilt in mrad.
    streams : Streams
        ``phantom.bend``.
    """
    left = np.ones(relief.shape)
    crystal = [n for n, m in enumerate(relief.material) if m.crystalline]
    inside = relief.grain >= 0
    if not crystal or not inside.any():
        return left
    thickness = relief.thickness[crystal].sum(0)
    longest = np.stack([relief.thickness[n] / relief.material[n].extinction for n in crystal]).sum(0)
    extinction = thickness / np.maximum(longest, 1e-12) * (velocity(energy) / velocity(100e3))
    tilts = [bending * _wave(relief, streams.generator(f"phantom.bend.{axis}"), 0.2) for axis in ("row", "col")]
    grain = relief.grain[inside]
    row, col, azimuth = relief.orientation[grain].T
    row, col = row + tilts[0][inside], col + tilts[1][inside]
    t, reach = thickness[inside], np.maximum(extinction[inside], 1.0)
    short = wavelength(energy)
    product = np.ones(len(t))
    for n, (bragg, growth) in enumerate(_REFLECTIONS):
        angle = azimuth + n * math.pi / 3
        lean = np.cos(angle) * col + np.sin(angle) * row
        # Both of a pair, g and -g, whose Bragg positions lie on either side.
        for sign in (-1.0, 1.0):
            deviation = 2e-3 * bragg / short * 1e-3 * (lean - sign * bragg)
            effective = np.sqrt(deviation**2 + 1 / (growth * reach) ** 2)
            damped = np.exp(-t / (3 * growth * reach))
            oscillating = (1 - np.cos(2 * math.pi * t * effective) * damped) / 2
            product *= 1 - 0.95 * np.minimum(oscillating / (growth * reach * effective) ** 2, 1)
    left[inside] = product
    return left


def fringes(relief: Relief, energy: float, defocus: float, bound: float) -> Map:
    """Fresnel fringes at edges, (H, W), mean about 1. Phenomenological.

    1 + b tanh(λ Δf ∇²φ/(2π b)), φ = σ Σ V t under a Gaussian of deviation max(√(λ|Δf|)/2, 1 px): the transport of
    intensity over the defocus (Teague, J. Opt. Soc. Am. 73, 1983, 1434; sign such that underfocus has the bright fringe
    outside), bounded by b (ours).
    """
    if defocus == 0 or bound == 0:
        return np.ones(relief.shape)
    short = wavelength(energy)
    # Interaction constant 2π m e λ/h² in rad/(V Å): Kirkland (2020), eq. 5.6.
    rest = 510_998.95
    sigma = 2 * math.pi / (short * energy) * (rest + energy) / (2 * rest + energy)
    phase = np.zeros(relief.shape)
    for thickness, material in zip(relief.thickness, relief.material, strict=True):
        phase += sigma * material.potential * thickness
    u, v = frequencies(relief.shape, relief.sampling)
    square = u**2 + v**2
    wide = max(math.sqrt(short * abs(defocus)) / 2, max(relief.sampling))
    curved = fft.irfft2(fft.rfft2(phase) * (-4 * math.pi**2 * square) * np.exp(-2 * (math.pi * wide) ** 2 * square),
                        s=relief.shape)
    fringed: Map = 1 + bound * np.tanh(short * defocus * curved / (2 * math.pi * bound))
    return fringed


def _wave(relief: Relief, rng: np.random.Generator, part: float) -> Map:
    """A smooth periodic random map of mean 0 and deviation 1, with waves of `part` of the field and longer."""
    # Few waves, drawn one by one, so that a map of more pixels is the same map.
    most = max(1, round(1 / part))
    a, b = np.arange(-most, most + 1)[:, None], np.arange(-most, most + 1)[None]
    size = (rng.standard_normal((len(a), len(a))) + 1j * rng.standard_normal((len(a), len(a)))) / (1.0 + a * a + b * b)
    size[most, most] = 0
    row = np.exp(2j * math.pi * np.outer(np.arange(relief.shape[0]) / relief.shape[0], a))
    col = np.exp(2j * math.pi * np.outer(b, np.arange(relief.shape[1]) / relief.shape[1]))
    made: Map = (row @ size @ col).real
    return made / float(made.std())


def frequencies(shape: tuple[int, int], sampling: tuple[float, float]) -> tuple[Map, Map]:
    """(row, col) frequencies in 1/Å of a real transform, (H, 1) and (1, W//2+1)."""
    return fft.fftfreq(shape[0], sampling[0])[:, None], fft.rfftfreq(shape[1], sampling[1])[None]


def blurred(signal: Map, sampling: tuple[float, float], width: float) -> NDArray[np.float32]:
    """A signal seen with a Gaussian probe, without what a field cannot hold.

    Parameters
    ----------
    signal : ndarray (H, W)
        Periodic.
    sampling : tuple of float
        (row, col) step in Å.
    width : float
        Full width at half maximum of the probe in Å; below 2.4 px it is 2.4 px, for the sake of the sampling.

    Returns
    -------
    ndarray (H, W), float32
        Not negative. Between 0.38 and 0.45 of 1/sampling a cosine takes what the probe has left to zero, so above
        0.45/sampling there is nothing but the trace of rounding and of values that were cut off at 0.
    """
    u, v = frequencies((signal.shape[0], signal.shape[1]), sampling)
    deviation = max(width, NARROWEST_PROBE * max(sampling)) / _TO_FWHM
    relative = np.hypot(u * sampling[0], v * sampling[1])
    fall = np.clip((relative - _BAND_START) / (BAND_LIMIT - _BAND_START), 0, 1)
    passed = np.exp(-2 * (math.pi * deviation) ** 2 * (u**2 + v**2)) * np.cos(fall * math.pi / 2) ** 2
    seen = fft.irfft2(fft.rfft2(signal) * passed, s=signal.shape)
    made: NDArray[np.float32] = np.maximum(seen, 0.0).astype(np.float32)
    return made
