"""What was drawn for a sample, in the words and units of a figure's caption."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from emsynth.distortion import Chain
from emsynth.draw import Drawable, number
from emsynth.sample import Sample
from emsynth.specimen import Morphology

_WIDEST = 43  # characters that fit beside the pictures


def heading(sample: Sample) -> str:
    """``SrTiO₃ [0 0 1]``: the structure and, where it is seen along one, its zone axis."""
    shown = sample.drawn.shown
    turned = getattr(shown, "orientation", "zone") == "random"
    axis = None if turned else getattr(shown, "zone_axis", None)
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
    per_area = sample.expected_counts / _detector_pixel(sample)
    found.append(("dose", f"{_short(sample.expected_counts)} e/px, {_short(per_area)} e/Å² on the detector"))
    if number(drawn.distort.undistorted) == 1:
        return [*found, ("distortion", "none: the image is the truth")]
    return found + _distortion(drawn.distort)


def _detector_pixel(sample: Sample) -> float:
    """Area of a pixel of the detector, Å²: a program that enlarged a part of the image made the pixels smaller."""
    shape = (sample.truth.shape[0], sample.truth.shape[1])
    _, _, rows, cols = sample.drawn.distort.region(shape, sample.drawn.seed, sample.index)
    return float(sample.sampling**2 * (shape[0] / rows) * (shape[1] / cols))


def _distortion(chain: Chain) -> list[tuple[str, str]]:
    if chain.camera:
        found = _stages("camera", chain.camera, _CAMERA)
    else:
        found = [("scan time", f"dwell {_time(chain.dwell)}, fly-back {_time(chain.fly_back)}"),
                 *_stages("scan", chain.scan, _SCAN), *_stages("detection", chain.detector, _DETECTOR)]
    return found + (_stages("afterwards", chain.artefact, _ARTEFACT) if chain.artefact else [])


def _specimen(sample: Sample) -> str:
    words = [] if math.isnan(sample.thickness) else [f"{_length(sample.thickness)} thick"]
    tilt = getattr(sample.drawn.shown, "mistilt", None)
    if isinstance(tilt, float) and tilt > 0:
        words.append(f"{tilt:.2g} mrad off axis")
    if isinstance(sample.drawn.shown, Morphology):
        words.append(f"a part of {_length(number(sample.drawn.shown.extent))}, procedural")
    strain = number(sample.drawn.image.strain)
    if strain > 0:
        words.append(f"strain ≤ {strain:.1%}")
    return ", ".join(words) or "an image"


def _microscope(sample: Sample) -> list[tuple[str, str]]:
    from emsynth.microscope import Microscope, Survey, TransmissionMicroscope

    used = sample.drawn.microscope
    if isinstance(used, TransmissionMicroscope):
        defocus = dict(zip(used.channels, used.defoci(), strict=True))[sample.detector]
        lens = [f"{number(used.energy) / 1e3:.3g} kV", f"defocus {defocus:.3g} Å".replace("-", "−")]
        if number(used.spherical):
            lens.append(f"C₃ {number(used.spherical) / 1e7:.2g} mm".replace("-", "−"))
        return [("camera", f"image {sample.detector} of {used.foci}"), ("lens", ", ".join(lens))]
    if not isinstance(used, Microscope):
        energy = f", {number(used.energy) / 1e3:.3g} kV" if isinstance(used, Survey) else ""
        return [("detector", f"{sample.detector}{energy}"), ("physics", sample.physics)]
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
_CAMERA: dict[str, Callable[[Any], str]] = _DETECTOR | {
    "conversion": lambda s: f"MTF, DQE(0) {_short(s.efficiency)}",
    "counting": lambda s: f"electron counting, DQE(0) {_short(s.efficiency)}",
    "xray": lambda s: "X-rays",
    "dark_current": lambda s: f"dark current {_short(s.mean)} e",
    "gain_map": lambda s: f"gain map σ {number(s.sigma):.2%}",
    "row_column_offsets": lambda s: f"row σ {number(s.row_sigma):.2%}, column σ {number(s.column_sigma):.2%}",
    "offset_map": lambda s: f"offset map σ {number(s.sigma):.2%}",
}
_ARTEFACT: dict[str, Callable[[Any], str]] = {
    "resample": lambda s: f"cropped to {100 * number(s.share):.0f} %",
    "extra_noise": lambda s: f"noise {_short(s.sigma)}× σ of the truth",
    "smooth": lambda s: "median of 3 px" if s.filter == "median" else f"Gaussian σ {_short(s.sigma)} px",
    "contrast": lambda s: f"contrast {number(s.low):.1f} to {number(s.high):.1f} %",
    "gamma": lambda s: f"gamma {_short(s.gamma)}",
    "eight_bit": lambda s: "8 bit",
    "jpeg": lambda s: f"JPEG {number(s.quality):.0f}",
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
