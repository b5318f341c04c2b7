"""The score: a restorer's error relative to that of a fixed baseline, family by family, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emsynth.benchmark.reference import KEPT, RESTORER, Reference, figures, reference
from emsynth.benchmark.suite import Suite
from emsynth.errors import SuiteError
from emsynth.streams import generator

if TYPE_CHECKING:
    import pandas as pd

# A restorer returns too little of what a single column shows where it returns less than this.
_RESPONSE_DUE = 0.8
_SOMETHING = 0.005  # what is less than half a percent is nothing, and so is the contrary of what is there
_RESAMPLES = 2000
# Kind of probe to the figures that hold its sums: recovered times true changes, and true changes squared.
RESPONSES = {kind: (f"response_{kind}_recovered", f"response_{kind}_true") for kind in ("shift", "dopant", "vacancy")}
_LIMITS = (2.5, 97.5)
# Figures in which the constant image that stands for a failed one looks good: no bias, no structure, no jitter.
_FLATTERING = ("mean_bias", "intensity_bias", "false_structure", "empty_residual", "row_jitter")
ORACLE = " (oracle)"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval over scenes; all NaN where there is none."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan

    def __bool__(self) -> bool:
        return bool(np.isfinite(self.value))


@dataclass(frozen=True)
class Score:
    """How one restorer did on one suite.

    Attributes
    ----------
    restorer : str
    overall, columns : Estimate
        Error of the image and of the column positions relative to the reference's, percent; none where the run is not
        of the whole suite, there is no reference, or nothing has columns.
    families, column_families : dict of str to Estimate
        The same for each family that was run whole.
    psnr : float
        PSNR of the mean error, dB; NaN of no image.
    means : dict of str to float
        Mean of each metric over the images that have it; see `counted` of those that the restorer failed on.
    bounded : tuple of float
        Mean position error, and mean Cramér-Rao bound, over the images that have both, pm.
    responses : dict of str to Estimate
        Recovered over true change of a single column, pooled over images; 1 is right. Not part of the score. The
        interval is NaN of a single pair of twins.
    failures, images : int
        Images that the restorer failed on, and images run.
    missing : str
        What keeps this from being a score, in words; "" of a whole run.
    reference : str
        Name of the baseline that 100 stands for; "" of none.
    """

    restorer: str
    overall: Estimate
    columns: Estimate
    families: dict[str, Estimate]
    column_families: dict[str, Estimate]
    psnr: float
    means: dict[str, float]
    bounded: tuple[float, float]
    responses: dict[str, Estimate]
    failures: int
    images: int
    missing: str
    reference: str

    @property
    def oracle(self) -> bool:
        """Whether it was tuned on the truth of each image: a bound, not a competitor."""
        return self.restorer.endswith(ORACLE)

    @property
    def verdict(self) -> str:
        """Better or worse than the reference on the same images where the interval leaves 100 out, else even."""
        if not self.overall or self.overall.low <= 100 <= self.overall.high:
            return "" if not self.overall else "even"
        return "better" if self.overall.high < 100 else "worse"

    @property
    def ignores(self) -> str:
        """What it leaves out of the data although it places columns well, in words; "" of nothing."""
        low = {kind: slope.value for kind, slope in self.responses.items()
               if slope.value < _RESPONSE_DUE and slope.high < 1}
        if self.columns:
            well = "places columns well" if self.columns.value < 100 else ""
        else:
            # Without a score only the bound tells how well columns can be placed by looking at them.
            well = "places columns better than the Cramér-Rao bound" if self.bounded[0] < self.bounded[1] else ""
        if not (low and well):
            return ""
        some = [f"{100 * value:.0f}\u00a0% of a {kind}" for kind, value in low.items() if value >= _SOMETHING]
        none = [f"of a {kind}" for kind, value in low.items() if value < _SOMETHING]
        shares = [f"only {', '.join(some)}"] * bool(some) + [f"nothing {', '.join(none)}"] * bool(none)
        return f"ignores the data: {well}, but returns {' and '.join(shares)}"

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of the score has to know, in words."""
        found = [self.ignores] if self.ignores else []
        if self.failures:
            found.append(f"failed on {self.failures} of {self.images} images")
        if self.missing:
            found.append(f"no score: {self.missing}")
        return tuple(found)


def error(psnr: Floats) -> Floats:
    """Root mean square error over data range, of a PSNR in dB: 1e-5 at the ceiling of 100 dB."""
    return np.asarray(10.0 ** (-np.asarray(psnr, np.float64) / 20))


def psnr_of(mean_error: Floats) -> Floats:
    """PSNR in dB of a root mean square error over data range, or of the mean of several: the inverse of `error`."""
    with np.errstate(divide="ignore"):
        return np.asarray(-20.0 * np.log10(mean_error))


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that are averaged: without those in which an image that a restorer failed on would look good."""
    return table[(table["status"] == "ok") | ~table["metric"].str.startswith(_FLATTERING)]


def resamples(suite: Suite, count: int = _RESAMPLES, seed: int = 0) -> Floats:
    """How often each scene is in each resample of a bootstrap; scenes of one group are drawn together.

    Parameters
    ----------
    suite : Suite
        Whose scenes are drawn.
    count, seed : int
        Resamples, and what they are drawn by: the same for every restorer, so that differences are paired.

    Returns
    -------
    ndarray (count, scene), float64
    """
    member = groups(suite)
    number = int(member.max()) + 1
    drawn = generator(seed, 0, f"benchmark.bootstrap {suite.name}").multinomial(
        number, np.full(number, 1 / number), size=count)
    return drawn[:, member].astype(np.float64)


def groups(suite: Suite) -> NDArray[np.intp]:
    """Group of each scene, (scene,): twins share their noise and windows of one field their specimen."""
    number = {scene.name: n for n, scene in enumerate(suite.scenes)}
    first = list(range(len(suite.scenes)))
    for n, scene in enumerate(suite.scenes):
        field = number.get(scene.about.get("plan", {}).get("field_of"))
        for relative in (scene.partner, field):
            if relative is not None:
                eldest, other = sorted((first[relative], first[n]))
                first = [eldest if one == other else one for one in first]
    return np.unique(first, return_inverse=True)[1]


def ratio_estimate(top: Floats, bottom: Floats, weights: Floats) -> Estimate:
    """Sum of `top` over that of `bottom`, both (scene,), and its interval."""
    if bottom.sum() == 0:
        return Estimate()
    with np.errstate(invalid="ignore", divide="ignore"):
        return _estimate(float(top.sum() / bottom.sum()), (weights @ top) / (weights @ bottom))


def slope_estimate(top: Floats, bottom: Floats, member: NDArray[np.intp]) -> Estimate:
    """Sum of `top` over that of `bottom`, both (scene,), and its interval from a jackknife over few groups of scenes.

    A t interval with one degree of freedom less than there are groups that have the figure: Tukey, Bias and confidence
    in not quite large samples, Annals of Mathematical Statistics 29 (1958) 614.
    """
    from scipy.special import stdtrit

    over, under = (np.bincount(member, weights=part) for part in (top, bottom))
    have = under > 0
    number = int(have.sum())
    if not number:
        return Estimate()
    slope = float(top.sum() / bottom.sum())
    if number == 1:
        return Estimate(slope)
    without = (top.sum() - over[have]) / (bottom.sum() - under[have])
    half = float(stdtrit(number - 1, _LIMITS[1] / 100) * np.sqrt((number - 1) * without.var()))
    return Estimate(slope, slope - half, slope + half)


def _estimate(value: float, drawn: Floats) -> Estimate:
    # A resample may hold none of the scenes that have the metric: then it says nothing.
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, _LIMITS) if len(drawn) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


def scores(suite: Suite, table: pd.DataFrame, against: Reference | None = None) -> list[Score]:
    """Score of every restorer in a table, best first, those without a score last.

    Parameters
    ----------
    suite : Suite
        What was restored.
    table : DataFrame
        Tidy table of a run.
    against : Reference, optional
        What 100 stands for; the one kept with the suite where not given. Where none is kept there is no score, and all
        other figures are there.

    Returns
    -------
    list of Score

    Raises
    ------
    SuiteError
        Where table and suite do not belong together.
    """
    against = _kept(suite) if against is None else against
    weights = resamples(suite)
    found = [score(suite, table[table["restorer"] == name], str(name), against, weights)
             for name in sorted(set(table["restorer"]))]
    return sorted(found, key=lambda s: (not s.overall, s.overall.value if s.overall else 0.0, s.restorer))


def _kept(suite: Suite) -> Reference | None:
    try:
        return reference(suite)
    except SuiteError:
        return None


def score(suite: Suite, table: pd.DataFrame, restorer: str, against: Reference | None, weights: Floats) -> Score:
    """Score of one restorer; see `scores`.

    For each family, the errors are averaged over scenes, summed over severities, and divided by the same of the
    reference; the score is the mean over families, in percent. Hendrycks and Dietterich, Benchmarking neural network
    robustness to common corruptions and perturbations, ICLR 2019, equation 1.
    """
    errors = error(figures(suite, table, restorer, "psnr"))
    position = figures(suite, table, restorer, "column_error")
    missing = _missing(suite, errors, against)
    # Images of which nothing is fixed do not count.
    fixed = {metric: np.full(errors.shape, np.nan) for metric in KEPT} if against is None else against.figures
    overall, families = _relative(suite, errors, error(fixed["psnr"]), weights)
    columns, column_families = _relative(suite, position, fixed["column_error"], weights)
    images = table[["family", "severity", "scene"]].drop_duplicates()
    failed = table[table["status"] != "ok"][["family", "severity", "scene"]].drop_duplicates()
    means = {str(k): float(v) for k, v in counted(table).groupby("metric")["value"].mean().items()}
    have = np.isfinite(errors)
    psnr = float(psnr_of(errors[have].mean())) if have.any() else np.nan
    return Score(restorer, overall, columns if overall else Estimate(), families, column_families, psnr, means,
                 _bounded(suite, table, restorer), _responses(suite, table, restorer), len(failed), len(images),
                 missing, "" if against is None else against.restorer)


def _missing(suite: Suite, errors: Floats, against: Reference | None) -> str:
    if against is None:
        return f"there is no reference; one comes of running {RESTORER} on the whole suite"
    whole = [family for family in suite.families if np.isfinite(errors[_of(suite, family)]).all()]
    if len(whole) == len(suite.families):
        return ""
    return f"{len(whole)} of {len(suite.families)} families run whole, so it cannot be compared"


def _of(suite: Suite, family: str) -> list[int]:
    return [n for n, condition in enumerate(suite.conditions) if condition.family == family]


def _relative(suite: Suite, errors: Floats, fixed: Floats, weights: Floats) -> tuple[Estimate, dict[str, Estimate]]:
    """Score over all families, and family by family; (condition, scene) arrays, `fixed` says which images count."""
    one = np.ones((1, weights.shape[1]))
    values, drawn, families, whole = [], [], {}, True
    for family in suite.families:
        rows = _of(suite, family)
        counted = np.isfinite(fixed[rows])
        if not counted.any():
            continue
        if not np.isfinite(errors[rows][counted]).all():
            whole = False
            continue
        value = _family(errors[rows], fixed[rows], counted, one)
        again = _family(errors[rows], fixed[rows], counted, weights)
        values.append(float(value[0]))
        drawn.append(again)
        families[family] = _estimate(float(value[0]), again)
    if not (values and whole):
        return Estimate(), families
    return _estimate(float(np.mean(values)), np.mean(drawn, axis=0)), families


def _family(errors: Floats, fixed: Floats, counted: NDArray[np.bool_], weights: Floats) -> Floats:
    """Percent, (resample,): sum over severities of the mean over scenes, over that of the reference."""
    some = counted.any(axis=1)
    number = counted[some].astype(np.float64) @ weights.T
    with np.errstate(invalid="ignore", divide="ignore"):
        top, bottom = ((np.where(counted, e, 0.0)[some] @ weights.T / number).sum(0) for e in (errors, fixed))
        return np.asarray(100 * top / bottom)


def _bounded(suite: Suite, table: pd.DataFrame, restorer: str) -> tuple[float, float]:
    position, bound = (figures(suite, table, restorer, metric) for metric in ("column_error", "column_bound"))
    both = np.isfinite(position) & np.isfinite(bound)
    return (float(position[both].mean()), float(bound[both].mean())) if both.any() else (np.nan, np.nan)


def _responses(suite: Suite, table: pd.DataFrame, restorer: str) -> dict[str, Estimate]:
    """Slope through the origin of recovered against true change, over all images: one image's is too uncertain."""
    found, member = {}, groups(suite)
    for kind, (product, square) in RESPONSES.items():
        top, bottom = (figures(suite, table, restorer, metric) for metric in (product, square))
        have = np.isfinite(top) & np.isfinite(bottom)
        slope = slope_estimate(np.where(have, top, 0).sum(0), np.where(have, bottom, 0).sum(0), member)
        if slope:
            found[kind] = slope
    return found
