"""What is measured of a restored image of a suite: names, units, directions, and the measuring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.suite import Case, Condition, Scene
from emsynth.metrics import bounds, columns, detection, fidelity, response, scan, spectrum, structure, targets
from emsynth.metrics.targets import Target
from emsynth.specimen.classes import AMORPHOUS, VACUUM

Floats = NDArray[np.float64]
Direction = Literal["higher", "lower", "one"]

HIGHEST_PSNR = 100.0  # dB
FIRST_WIDTH = 0.42  # Å: standard deviation of a column of 1 Å at half maximum
BESIDE_LIST = 0.12  # Å: how far a judged column may be fitted from where it is listed
BLURRED = 0.04  # Å: how far a blur by one pixel may move it
SHIFTS = (8.0, 35.0)  # pm: true shifts that a response is measured by
CHANGES = (0.05, 0.35)  # and true changes of a column's height, in size
PICOMETRES = 100.0  # per Å
TINY = 1e-9
KINDS = ("shift", "dopant", "vacancy")


@dataclass(frozen=True)
class Metric:
    """One figure of merit.

    Attributes
    ----------
    name, unit : str
        The unit is empty for a plain number.
    direction : {"higher", "lower", "one"}
        What is better; "one": the nearer to 1.
    ceiling : float
        What a perfect restorer gets.
    definition : str
        In one sentence.
    applies : str
        To which scenes.
    """

    name: str
    unit: str
    direction: Direction
    ceiling: float
    definition: str
    applies: str


_ALL, _COLUMNS, _PAIRS = "all", "with resolved columns", "perturbed, with their partner"
_EMPTY = "with vacuum or an amorphous region"

METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("psnr", "dB", "higher", HIGHEST_PSNR, "Peak signal-to-noise ratio, the peak being the truth's range; at "
           "most 100 dB.", _ALL),
    Metric("ssim", "", "higher", 1.0, "Mean structural similarity, Gaussian window of 1.5 px, relative to the truth's "
           "range.", _ALL),
    Metric("mean_bias", "%", "lower", 0.0, "Size of the difference of the means, relative to the truth's mean above "
           "the black level.", _ALL),
    Metric("column_error", "pm", "lower", 0.0, "Rms distance of the fitted columns from those fitted in the truth; a "
           "column that is not found is off by half the distance to its neighbour.", _COLUMNS),
    Metric("column_error_median", "pm", "lower", 0.0, "Median of the same distances.", _COLUMNS),
    Metric("column_drift", "pm", "lower", 0.0, "Length of the mean displacement of the columns found: what they are "
           "all shifted by.", _COLUMNS),
    Metric("intensity_error", "%", "lower", 0.0, "Rms error of the columns' integrated intensities (sums over the disc "
           "that is their own, above the black level), each relative to its true one.", _COLUMNS),
    Metric("intensity_bias", "%", "lower", 0.0, "Size of the mean of the same errors.", _COLUMNS),
    Metric("column_precision", "", "higher", 1.0, "Share of the spots of a blind search that are columns; 0 where "
           "there are no spots.", _COLUMNS),
    Metric("column_recall", "", "higher", 1.0, "Share of the columns that a blind search finds.", _COLUMNS),
    Metric("false_structure", "%", "lower", 0.0, "Rms of the periodic part of the residual in vacuum and amorphous "
           "regions (what stands out of its spectrum as peaks), relative to the truth's range.", _EMPTY),
    Metric("empty_residual", "%", "lower", 0.0, "Rms residual in vacuum and amorphous regions, relative to the truth's "
           "range.", _EMPTY),
    Metric("response_shift", "", "one", 1.0, "Slope of recovered against true shifts of single columns.", _PAIRS),
    Metric("response_dopant", "", "one", 1.0, "Slope of recovered against true relative changes of single "
           "columns' heights by foreign atoms.", _PAIRS),
    Metric("response_vacancy", "", "one", 1.0, "Slope of recovered against true relative changes of single "
           "columns' heights by missing atoms.", _PAIRS),
    Metric("frc_mean", "", "higher", 1.0, "Fourier ring correlation with the truth, mean over the rings that hold at "
           "least a thousandth of the truth's power.", _ALL),
    Metric("frc_band", "", "higher", 1.0, "Frequency at which that correlation falls below 0.5, over the truth's "
           "highest.", _ALL),
    Metric("row_jitter", "px", "lower", 0.0, "Rms displacement of rows along themselves against the truth, less a "
           "straight line and the noise's share.", "whose rows can be recognised"),
)}

# Figures that are measured beside the metrics: unit and meaning.
BESIDE: dict[str, tuple[str, str]] = {
    "mean_bias_signed": ("%", "The same with its sign."),
    "intensity_bias_signed": ("%", "The same with its sign."),
    "false_structure_share": ("", "Periodic share of the residual's power in vacuum and amorphous regions."),
    "column_bound": ("pm", "Rms of the columns' Cramér-Rao bounds, where electrons were counted."),
    "columns": ("", "Columns that are judged: resolved, and inside the image."),
    "columns_found": ("", "Those of them to which a Gaussian could be fitted."),
    "frc_resolution": ("Å", "Period at which the Fourier ring correlation falls below 0.5."),
    "frc_limit": ("Å", "Shortest period of the truth: the best possible resolution."),
    "row_jitter_floor": ("px", "Row jitter that noise alone would show."),
    **{f"response_{kind}_recovered": ("pm²" if kind == "shift" else "%²", "Sum of recovered times true changes.")
       for kind in KINDS},
    **{f"response_{kind}_true": ("pm²" if kind == "shift" else "%²", "Sum of true changes squared: over it the sum of "
                                 "the recovered is the slope over several images.") for kind in KINDS},
}


def measure(case: Case, restored: NDArray[np.floating], partner: tuple[Case, NDArray[np.floating]] | None = None
            ) -> dict[str, float]:
    """Measure one restored image.

    Parameters
    ----------
    case : Case
        The image's truth, and what is known of it.
    restored : ndarray (H, W)
        Finite, in ADU.
    partner : tuple of (Case, ndarray), optional
        For a perturbed scene its unperturbed twin under the same condition, restored by the same restorer.

    Returns
    -------
    dict
        Of METRICS and BESIDE those that apply.
    """
    image = np.ascontiguousarray(restored, np.float64)
    found = _pixels(case, image) | _empty(case, image) | _spectrum(case, image) | _rows(case, image)
    known = target(case)
    if known is not None:
        fit = known.refit(image)
        found |= _positions(case, known, fit) | _intensities(case, known, image) | _spots(known, image)
        if partner is not None and case.scene.probes:
            found |= _responses(case, image, partner)
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _pixels(case: Case, image: Floats) -> dict[str, float]:
    out = {}
    if case.data_range > 0.0:
        out["psnr"] = min(fidelity.psnr(case.truth, image, data_range=case.data_range), HIGHEST_PSNR)
        out["ssim"] = fidelity.ssim(case.truth, image, data_range=case.data_range)
    if float(case.counts.mean()) > 0.0:
        bias = fidelity.mean_bias(case.truth, image, case.condition.black_level)
        out |= {"mean_bias": abs(bias), "mean_bias_signed": bias}
    return out


def _empty(case: Case, image: Floats) -> dict[str, float]:
    if case.scene.content == "surface":  # its classes are phases, and full of structure
        return {}
    region = (case.scene.classes == VACUUM) | (case.scene.classes == AMORPHOUS)
    left = structure.residual(case.truth, image, region)
    if left is None or not case.data_range > 0.0:
        return {}
    rms = 100.0 * left.rms / case.data_range
    return {"false_structure": rms * float(np.sqrt(left.periodic)), "false_structure_share": left.periodic,
            "empty_residual": rms}


def _spectrum(case: Case, image: Floats) -> dict[str, float]:
    rings = spectrum.ring_correlation(case.truth, image)
    if rings is None:
        return {}
    out = {"frc_mean": rings.mean, "frc_band": rings.resolved / rings.edge,
           "frc_limit": case.scene.sampling / rings.edge}
    if rings.resolved > 0.0:
        out["frc_resolution"] = case.scene.sampling / rings.resolved
    return out


def _rows(case: Case, image: Floats) -> dict[str, float]:
    jitter = scan.row_jitter(case.truth, image)
    return {} if jitter is None else {"row_jitter": jitter.rms, "row_jitter_floor": jitter.floor}


# The columns of each scene under each condition: two fits that every restorer would ask for again.
_known: WeakKeyDictionary[Scene, dict[tuple[Condition, float], Target | None]] = WeakKeyDictionary()


def target(case: Case) -> Target | None:
    """The columns that a restored image of this case is judged by; None where there are none."""
    known = _known.setdefault(case.scene, {})
    key = case.condition, float(case.counts.mean(dtype=np.float64))
    if key not in known:
        seen = case.condition
        level = seen.black_level - seen.gain * seen.variance / max(seen.excess, TINY) if seen.counted else None
        pixel = case.scene.sampling
        known[key] = targets.aim(case.truth, case.scene.columns, FIRST_WIDTH / pixel, level, BESIDE_LIST / pixel,
                                 BLURRED / pixel)
    return known[key]


def _bound(case: Case, known: Target) -> float:
    """Rms of the Cramér-Rao bounds, px."""
    if not case.condition.counted:
        return float("nan")
    electrons = known.fit._replace(peak=known.fit.peak / case.condition.gain)
    found = bounds.position_bound(case.counts, electrons, case.condition.excess, case.condition.variance)[known.kept]
    return float(np.sqrt(np.mean(found**2)))


def _positions(case: Case, known: Target, fit: columns.Fit) -> dict[str, float]:
    away = columns.distances(known.fit, fit, known.radius)[known.kept]
    found = known.kept & fit.found
    out = {"column_error": np.sqrt(np.mean(away**2)), "column_error_median": np.median(away),
           "column_bound": _bound(case, known)}
    if found.any():
        out["column_drift"] = np.hypot(*(fit.position - known.fit.position)[found].mean(axis=0))
    pixel = PICOMETRES * case.scene.sampling
    return {name: pixel * float(value) for name, value in out.items()} | {
        "columns": float(known.kept.sum()), "columns_found": float(found.sum())}


def _sums(case: Case, known: Target, image: NDArray[np.floating]) -> Floats:
    return columns.integrated(image, known.fit.position, known.radius, case.condition.black_level)


def _intensities(case: Case, known: Target, image: Floats) -> dict[str, float]:
    true, found = (_sums(case, known, shown)[known.kept] for shown in (case.truth, image))
    bright = true > 0.0
    if not bright.any():
        return {}
    error = 100.0 * (found[bright] / true[bright] - 1.0)
    return {"intensity_error": float(np.sqrt(np.mean(error**2))), "intensity_bias": abs(float(error.mean())),
            "intensity_bias_signed": float(error.mean())}


def _spots(known: Target, image: Floats) -> dict[str, float]:
    counted = detection.tally(known.expected, image)
    return {"column_precision": counted.precision, "column_recall": counted.recall}


def _responses(case: Case, image: Floats, partner: tuple[Case, NDArray[np.floating]]) -> dict[str, float]:
    before, restored = partner[0], np.ascontiguousarray(partner[1], np.float64)
    was = target(before)
    if was is None or len(before.scene.columns) != len(case.scene.columns):
        return {}
    fits = (was.fit, was.refit(case.truth)), (was.refit(restored), was.refit(image))
    truth, returned = ((was.heights(first), was.heights(second))
                       for first, second in ((before.truth, case.truth), (restored, image)))
    contrast, pixel = response.contrast(truth[0][was.kept], returned[0][was.kept]), PICOMETRES * case.scene.sampling
    out: dict[str, float] = {}
    for kind in KINDS:
        which = np.array([probe.column for probe in case.scene.probes if probe.kind == kind], np.int64)
        which = which[was.kept[which]]
        if kind == "shift":
            found, unit = response.shift_response(*fits, which, (SHIFTS[0] / pixel, SHIFTS[1] / pixel)), pixel**2
        else:
            found, unit = response.height_response(truth, returned, which, contrast, CHANGES), 100.0**2
        if found.true > 0.0:
            out |= {f"response_{kind}": found.slope, f"response_{kind}_recovered": unit * found.recovered,
                    f"response_{kind}_true": unit * found.true}
    return out
