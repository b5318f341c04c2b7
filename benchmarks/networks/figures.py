"""The figures of a network beside those of other restorers, all from the tables of a bench."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.networks.oracle import BM3D, GAUSSIAN
from emsynth.benchmark.measures import KINDS
from emsynth.benchmark.reference import figures
from emsynth.benchmark.score import RESPONSES, counted, error, groups, psnr_of, slope_estimate
from emsynth.benchmark.suite import Condition, Suite
from emsynth.specimen.classes import VACUUM

CONDITION = ["family", "severity"]
COUNTING = ("poisson", "counting", "compound_poisson")  # families of counting alone, the first that a suite has
IDENTITY = "identity"  # the restorer that leaves images as they are
MIDDLE = 3  # severity at which responses are judged
_VACUUM = 0.1  # of a scene: with as much vacuum in it, it is one of vacuum
DEVIATIONS = 3.0
_MEANS = ("psnr", "ssim", "mean_bias_signed", "mean_bias", "column_error", "column_bound", "column_recall",
          "column_precision", "false_structure", "empty_residual", "intensity_error", "row_jitter")

Cut = Mapping[str, Callable[[pd.DataFrame], "pd.Series[bool]"]]


def wide(suite: Suite, table: pd.DataFrame) -> pd.DataFrame:
    """One row for each restorer and image, a column for each metric, and what is known of the image.

    An image that a restorer failed on has no figures in which its constant stand-in would look good.
    """
    found = counted(table).pivot(index=["restorer", *CONDITION, "scene", "content"], columns="metric", values="value")
    found = found.reset_index()
    found["error"] = error(found["psnr"].to_numpy())
    known = {(c.family, c.severity): c for c in suite.conditions}
    conditions = [known[key] for key in zip(found["family"], found["severity"], strict=True)]
    found["counts"] = [c.expected_counts for c in conditions]
    found["deviation"] = [counting_deviation(c, math.prod(suite.shape)) for c in conditions]
    vacuum = {s.index for s in suite.scenes if np.mean(s.classes == VACUUM) >= _VACUUM and s.content != "surface"}
    found["vacuum"] = found["scene"].isin(vacuum)
    return found


def counting_deviation(condition: Condition, pixels: int) -> float:
    """Standard deviation of an image's mean by its counting, % of that mean.

    The variance of a pixel is n F + v with n electrons per pixel, F the excess of the variance over the mean of what is
    counted, and v the variance of what is added to it; N pixels are taken as independent.
    """
    variance = condition.expected_counts * condition.excess + condition.variance
    return 100.0 * math.sqrt(variance / pixels) / condition.expected_counts


def over_conditions(rows: pd.DataFrame, metric: str) -> float:
    """Mean over the images of each condition, then over conditions; NaN where no image has the metric."""
    if metric not in rows:
        return math.nan
    return float(rows.groupby(CONDITION)[metric].mean().mean())


def by_error(rows: pd.DataFrame) -> float:
    """PSNR of the mean error of each condition, then the mean over conditions, dB."""
    if not len(rows):
        return math.nan
    return float(np.mean(psnr_of(rows.groupby(CONDITION)["error"].mean().to_numpy())))


def cuts(suite: Suite) -> dict[str, Cut]:
    """The parts of a suite that are looked at by themselves."""
    decades = sorted({math.floor(math.log10(c.expected_counts)) for c in suite.conditions})
    contents = dict.fromkeys(scene.content for scene in suite.scenes)
    return {
        "family": {name: _is("family", name) for name in suite.families},
        "severity": {str(n): _is("severity", n) for n in sorted({c.severity for c in suite.conditions})},
        "content": {**{name: _is("content", name) for name in contents},
                    "with vacuum": lambda rows: rows["vacuum"]},
        "electrons per pixel": {f"{10.0**n:g} to {10.0 ** (n + 1):g}": _decade(n) for n in decades},
    }


def counting_family(suite: Suite) -> str | None:
    """The family of counting alone; None where a suite has none."""
    return next((name for name in COUNTING if name in suite.families), None)


def _is(column: str, value: Any) -> Callable[[pd.DataFrame], pd.Series[bool]]:
    return lambda rows: rows[column] == value


def _decade(power: int) -> Callable[[pd.DataFrame], pd.Series[bool]]:
    return lambda rows: np.floor(np.log10(rows["counts"])) == power


def overall(rows: pd.DataFrame) -> dict[str, float]:
    """Figures of one restorer over all conditions."""
    found = {name: over_conditions(rows, name) for name in _MEANS}
    return {"psnr": found.pop("psnr"), "psnr_of_mean_error": by_error(rows), **found,
            "missed": 1.0 - found["column_recall"], "invented": 1.0 - found["column_precision"]}


def responses(suite: Suite, table: pd.DataFrame, restorer: str, severity: int) -> dict[str, tuple[float, float, float]]:
    """Recovered over true change of single columns at one severity: slope and its 95 % interval, of each kind."""
    part, member, found = table[table["severity"] == severity], groups(suite), {}
    for kind in KINDS:
        top, bottom = (figures(suite, part, restorer, metric) for metric in RESPONSES[kind])
        have = np.isfinite(top) & np.isfinite(bottom)
        slope = slope_estimate(np.where(have, top, 0).sum(0), np.where(have, bottom, 0).sum(0), member)
        if slope:
            found[kind] = (slope.value, slope.low, slope.high)
    return found


def means_kept(rows: pd.DataFrame, untouched: pd.DataFrame, counting: str | None) -> dict[str, float]:
    """How well the mean intensity is kept: over images, and of each image against the deviation of its counting.

    Three times of those: the family of counting alone, images whose mean is within three deviations as they are, all.
    """
    key = [*CONDITION, "scene"]
    off, before = (_off(some.set_index(key)).dropna() for some in (rows, untouched))
    found = {"bias": float(rows["mean_bias_signed"].mean()), "size": float(rows["mean_bias"].mean())}
    parts = {"counting": off[off.index.get_level_values("family") == (counting or "")],
             "sound": off[off.index.isin(before[before <= DEVIATIONS].index)], "all": off}
    for name, part in parts.items():
        found[f"within_{name}"] = float((part <= DEVIATIONS).mean()) if len(part) else math.nan
        found[f"worst_{name}"] = float(part.max()) if len(part) else math.nan
    return found


def _off(rows: pd.DataFrame) -> pd.Series[float]:
    """Size of the bias of each image's mean in deviations of its counting."""
    return rows["mean_bias_signed"].abs() / rows["deviation"]


def hallucination(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Periodic part and all of what is left in amorphous regions and vacuum, % of the truth's range."""
    parts = {"amorphous": rows["content"] == "amorphous", "with vacuum": rows["vacuum"],
             "all that has either": rows.get("false_structure", pd.Series(np.nan, rows.index)).notna()}
    return {name: {metric: over_conditions(rows[part], metric) for metric in ("false_structure", "empty_residual")}
            for name, part in parts.items()}


def losses(rows: pd.DataFrame, network: str, other: str) -> dict[str, list[tuple[str, float]]]:
    """Where the network's mean PSNR is below another's, dB, worst first: conditions, contents, and both."""
    of_both = rows[rows["restorer"].isin([network, other])]
    named = of_both.assign(condition=of_both["family"] + "-" + of_both["severity"].astype(str))
    named["both"] = named["content"] + " in " + named["condition"]
    found = {}
    for title, column in (("conditions", "condition"), ("contents", "content"), ("contents in conditions", "both")):
        mean = named.groupby([column, "restorer"])["psnr"].mean().unstack()
        gain = (mean[network] - mean[other]).sort_values()
        found[title] = [(str(name), float(value)) for name, value in gain[gain < 0].items()]
    return found


def summary(suite: Suite, table: pd.DataFrame, network: str) -> dict[str, Any]:
    """All that is told of one network; JSON-compatible but for NaN.

    Parameters
    ----------
    suite : Suite
        What was restored.
    table : DataFrame
        Tidy tables of the network, the oracles and the baselines, one after the other.
    network : str
        Its name in the table.
    """
    images = wide(suite, table)
    names = [network, BM3D, GAUSSIAN, *(n for n in table["restorer"].unique() if n not in (network, BM3D, GAUSSIAN))]
    of = {name: images[images["restorer"] == name] for name in names}
    counting, untouched = counting_family(suite), images[images["restorer"] == IDENTITY]
    return {
        "network": network, "suite": suite.name, "digest": suite.digest, "images": len(suite),
        "failures": int((table[table["restorer"] == network].drop_duplicates([*CONDITION, "scene"])["status"]
                         != "ok").sum()),
        "overall": {name: overall(rows) for name, rows in of.items()},
        "counting_family": counting,
        "counting": {name: over_conditions(rows[rows["family"] == counting], "psnr") for name, rows in of.items()},
        "cuts": {title: {label: {name: over_conditions(rows[chosen(rows)], "psnr") for name, rows in of.items()}
                         for label, chosen in cut.items()} for title, cut in cuts(suite).items()},
        "cuts_of_mean_error": {title: {label: {name: by_error(rows[chosen(rows)]) for name, rows in of.items()}
                                       for label, chosen in cut.items()} for title, cut in cuts(suite).items()},
        "responses": {str(severity): {name: responses(suite, table, name, severity) for name in names}
                      for severity in (MIDDLE - 1, MIDDLE, MIDDLE + 1)},
        "mean": {name: means_kept(rows, untouched, counting) for name, rows in of.items()},
        "hallucination": {name: hallucination(rows) for name, rows in of.items()},
        "loses": {other: losses(images, network, other) for other in (BM3D, GAUSSIAN)},
        "gain": {f"{family}-{severity}": value for (family, severity), value in gains(images, network, BM3D).items()},
    }


def gains(images: pd.DataFrame, network: str, other: str) -> dict[tuple[str, int], float]:
    """Gain in mean PSNR over another restorer of each condition, dB."""
    mean = images.groupby([*CONDITION, "restorer"])["psnr"].mean().unstack()
    gain = (mean[network] - mean[other]).reset_index(name="gain")
    return {(str(family), int(severity)): float(value)
            for family, severity, value in zip(*(gain[name] for name in (*CONDITION, "gain")), strict=True)}


def acceptance(told: Mapping[str, Any], over: tuple[float, float]) -> list[tuple[str, str, str, bool]]:
    """What is asked of a shipped network: criterion, its figure, what is asked, and whether it is so.

    Parameters
    ----------
    told : mapping
        The `summary` of a network.
    over : (float, float)
        Least gains in mean PSNR over oracle BM3D and oracle Gaussian, dB.
    """
    net, all_of, cut = told["network"], told["overall"], told["cuts"]["content"]
    found = []

    def least(what: str, value: float, limit: float, unit: str = " dB") -> None:
        found.append((what, f"{value:+.2f}{unit}", f"at least {limit:+g}{unit}", bool(value >= limit)))

    for other, limit in zip((BM3D, GAUSSIAN), over, strict=True):
        least(f"mean PSNR over {other}", all_of[net]["psnr"] - all_of[other]["psnr"], limit)
        if told["counting_family"]:
            least(f"family {told['counting_family']} alone, over {other}",
                  told["counting"][net] - told["counting"][other], 1.0)
    for content in ("amorphous", "particle", "with vacuum"):
        if content in cut and math.isfinite(cut[content][net]):
            least(f"{content}, over {GAUSSIAN}", cut[content][net] - cut[content][GAUSSIAN], 0.0)
    for name, what, higher in (("ssim", "SSIM", True), ("column_error", "column position error, pm", False),
                               ("missed", "columns missed", False), ("invented", "columns invented", False)):
        own, bm3d = all_of[net][name], all_of[BM3D][name]
        if math.isfinite(own):
            found.append((what, f"{own:.3f}", f"{'above' if higher else 'below'} {bm3d:.3f} of {BM3D}",
                          own > bm3d if higher else own < bm3d))
    for kind, (value, low, high) in told["responses"][str(MIDDLE)][net].items():
        found.append((f"response to a {kind} at severity {MIDDLE}", f"{value:.2f} ({low:.2f} to {high:.2f})",
                      "0.9 to 1.1", 0.9 <= value <= 1.1))
    return found + _mean_and_empty(told)


def _mean_and_empty(told: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    net, kept, empty = told["network"], told["mean"][told["network"]], told["hallucination"]
    found = [("bias of the mean over images", f"{kept['bias']:+.3f} %", "within ±0.5 %", abs(kept["bias"]) <= 0.5)]
    for part, what in (("counting", f"family {told['counting_family']} alone"),
                       ("sound", "images whose mean is so as they are")):
        share = kept[f"within_{part}"]
        if math.isfinite(share):
            found.append((f"mean within three counting deviations, {what}",
                          f"{share:.1%}, worst {kept[f'worst_{part}']:.1f} deviations", "100 %", share == 1.0))
    for part in ("amorphous", "with vacuum"):
        own, bm3d = (empty[name][part]["false_structure"] for name in (net, BM3D))
        if math.isfinite(own):
            found.append((f"invented periodicity, {part}", f"{own:.3f} %", f"not above {bm3d:.3f} % of {BM3D}",
                          own <= bm3d))
    return found
