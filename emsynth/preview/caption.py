"""What was drawn for a sample, in the words and units of a figure's caption."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from emsynth.draw import Drawable, number
from emsynth.sample import Sample

_WIDEST = 43  # characters that fit beside the pictures


def heading(sample: Sample) -> str:
    """``SrTiO₃ [0 0 1]``: the structure and, where it is seen along one, its zone axis."""
    axis = getattr(sample.drawn.specimen, "zone_axis", None)
    return sample.structure + (f" {_direction(axis)}" if isinstance(axis, tuple) else "")


def _direction(axis: tuple[int, ...]) -> str:
    # A bar over a digit is how crystallographers write a minus.
    digits = [f"{abs(n)}\u0305" if n < 0 else f"{n}" for n in axis]
    return "[" + ("" if all(abs(n) < 10 for n in axis) else " ").join(digits) + "]"


def caption(sample: Sample) -> list[tuple[str, str]]:
    """Rows of a caption: name and value, in the field's units.

    Parameters
    ----------
    sample : Sample
        A rendered or a stored one.

    Returns
    -------
    list of (str, str)
    """
    drawn = sample.drawn
    found = [("sample", f"{sample.index} of field {sample.field}, {sample.split}"), ("specimen", _specimen(sample))]
    found += _microscope(sample)
    side = sample.truth.shape[1]
    width = side * sample.sampling
    found.append(("pixel", f"{_length(sample.sampling)}, {side} px = {_length(width)}"))
    per_area = sample.expected_counts / sample.sampling**2
    found.append(("dose", f"{_short(sample.expected_counts)} e/px, {_short(per_area)} e/Å² on the detector"))
    found.append(("scan time", f"dwell {_time(drawn.distort.dwell)}, fly-back {_time(drawn.distort.fly_back)}"))
    if number(drawn.distort.undistorted) == 1:
        return [*found, ("distortion", "none: the image is the truth")]
    found += _stages("scan", drawn.distort.scan, _SCAN)
    return found + _stages("detection", drawn.distort.detector, _DETECTOR)


def _specimen(sample: Sample) -> str:
    words = [] if math.isnan(sample.thickness) else [f"{_length(sample.thickness)} thick"]
    tilt = getattr(sample.drawn.specimen, "mistilt", None)
    if isinstance(tilt, float) and tilt > 0:
        words.append(f"{tilt:.2g} mrad off axis")
    strain = number(sample.drawn.image.strain)
    if strain > 0:
        words.append(f"strain ≤ {strain:.1%}")
    return ", ".join(words) or "an image"


def _microscope(sample: Sample) -> list[tuple[str, str]]:
    from emsynth.microscope import Microscope

    used = sample.drawn.microscope
    if not isinstance(used, Microscope):
        return [("detector", sample.detector)]
    inner, outer = used.detector_angles()[sample.detector]
    probe = [f"{number(used.energy) / 1e3:.3g} kV", f"{number(used.convergence):.3g} mrad",
             f"defocus {number(used.defocus):.3g} Å".replace("-", "−")]
    if number(used.spherical):
        probe.append(f"C₃ {number(used.spherical) / 1e7:.2g} mm")
    return [("detector", f"{sample.detector}, {inner:.3g} to {outer:.3g} mrad"), ("probe", ", ".join(probe))]


_SCAN: dict[str, Callable[[Any], str]] = {
    "row_jitter": lambda s: f"row jitter σ {_short(s.sigma)} px",
    "hum": lambda s: f"hum {_short(s.amplitude)} px",
    "drift": lambda s: f"drift {_short(s.distance)} px",
    "fly_back": lambda s: f"settling {_short(s.amplitude)} px",
}
_DETECTOR: dict[str, Callable[[Any], str]] = {
    "poisson": lambda s: "counting",
    "streak": lambda s: f"streak {_short(s.decay)} px",
    "line_noise": lambda s: f"line noise {number(s.sigma):.2%}",
    "read_noise": lambda s: f"read noise {_short(s.sigma)} e",
    "gain": lambda s: f"{_short(s.gain)} ADU/e",
    "black_level": lambda s: f"black level {number(s.level):.0%}".replace("-", "−"),
    "saturation": lambda s: f"saturation at {_short(s.level)}×",
    "quantise": lambda s: f"{number(s.levels):.0f} levels",
}


def _stages(name: str, stages: tuple[Drawable, ...], words: dict[str, Callable[[Any], str]]) -> list[tuple[str, str]]:
    """One row, or several where the stages do not fit on one line; a stage without words of its own shows its name."""
    said = [words.get(tag, lambda _s, tag=tag: tag.replace("_", " "))(stage)
            for stage in stages for tag in [str(getattr(stage, "stage", ""))]]
    lines: list[str] = []
    for word in said or ["none"]:
        if lines and len(lines[-1]) + len(word) + 2 <= _WIDEST:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return [(name if n == 0 else "", line) for n, line in enumerate(lines)]


def _short(value: Any) -> str:
    """Two significant digits, all digits of whole numbers below a million."""
    plain = number(value)
    return f"{plain:,.0f}" if 10 <= abs(plain) < 1e6 else f"{plain:.2g}"


def _length(value: float) -> str:
    if value >= 1e4:
        return f"{value / 1e4:.3g} µm"
    return f"{value / 10:.3g} nm" if value >= 10 else f"{value:.3g} Å"


def _time(value: Any) -> str:
    plain = number(value)
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if plain >= size:
            return f"{plain / size:.3g} {unit}"
    return f"{plain / 1e-9:.3g} ns"
