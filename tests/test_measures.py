"""What `measure` says of a perfect restorer, of none, and of restorers with one fault each."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import convolve1d, gaussian_filter, shift
from toy_suite import toy_suite

from emsynth.benchmark import shipped
from emsynth.benchmark.measures import BESIDE, METRICS, measure, target
from emsynth.benchmark.suite import Condition, Suite
from emsynth.metrics import columns, fidelity
from emsynth.streams import generator

pytest.importorskip("skimage", reason="needs scikit-image")
GAIN, BLACK = 2.0, 100.0
LATTICE, PERTURBED, AMORPHOUS, EDGE = range(4)  # scenes of the toy suite


@pytest.fixture(scope="module")
def suite() -> Suite:
    return toy_suite(side=96, gain=GAIN, black_level=BLACK)


def judged(case, restored, partner=None):
    return measure(case, np.asarray(restored, np.float32), partner)


def test_a_perfect_restorer_gets_every_ceiling(suite):
    """The truth itself: the ceiling of every metric, on every scene and condition; each metric applies somewhere."""
    seen = set()
    for case in suite.cases():
        twin = suite.case(suite.conditions.index(case.condition), LATTICE)
        found = judged(case, case.truth, (twin, twin.truth) if case.scene.partner is not None else None)
        assert set(found) <= set(METRICS) | set(BESIDE)
        for name in set(found) & set(METRICS):
            assert found[name] == pytest.approx(METRICS[name].ceiling, abs=1e-9), (case.scene.name, name)
        seen |= set(found)
    assert seen == set(METRICS) | set(BESIDE)


def test_the_identity_gets_the_inputs_figures(suite):
    """PSNR, SSIM and bias are those of the image itself, and the columns scatter about as the Cramér-Rao bound says."""
    for case in suite.cases():
        found, again = judged(case, case.image), judged(case, case.image.copy())
        assert found == again
        assert found["psnr"] == fidelity.psnr(case.truth, case.image, data_range=case.data_range)
        assert found["ssim"] == fidelity.ssim(case.truth, case.image, data_range=case.data_range)
        mean, true = case.image.mean(dtype=float), case.truth.mean(dtype=float)
        assert found["mean_bias_signed"] == pytest.approx(100 * (mean - true) / (true - BLACK))
        if case.condition.family == "poisson" and "column_error" in found:
            spread = 1 / np.sqrt(4 * found["columns"])
            assert found["column_error"] == pytest.approx(found["column_bound"], rel=4 * spread)


def test_gain_and_black_level_change_no_figure(suite):
    """The same electrons in other units: every figure is the same, for the law of the variance is in electrons."""
    plain = toy_suite(side=96)
    for index in range(len(plain.scenes)):
        here, there = suite.case(1, index), plain.case(1, index)
        assert judged(here, here.image) == pytest.approx(judged(there, there.image), rel=1e-3, abs=1e-3)


def test_metrics_apply_where_they_can(suite):
    """No columns in an amorphous scene, no vacuum in a lattice, responses only with the partner."""
    amorphous = suite.case(0, AMORPHOUS)
    assert not {"column_error", "column_recall", "intensity_error"} & set(judged(amorphous, amorphous.truth))
    assert "false_structure" not in judged(suite.case(0, LATTICE), suite.case(0, LATTICE).truth)
    assert not any(name.startswith("response") for name in judged(suite.case(0, PERTURBED), suite.case(0, 1).truth))


def test_ten_picometres_are_ten_picometres(suite):
    """All columns 10 pm off: position error, its median and the drift are 10 pm; nothing else moves much."""
    case = suite.case(0, LATTICE)
    pixels = 0.1 / case.scene.sampling  # Å over Å
    for along, across in ((pixels, 0.0), (0.6 * pixels, -0.8 * pixels)):
        found = judged(case, shift(case.truth.astype(float), (across, along), order=5, mode="nearest"))
        for name in ("column_error", "column_error_median", "column_drift"):
            assert found[name] == pytest.approx(10.0, rel=0.02), name
        assert found["column_recall"] == found["column_precision"] == 1.0
        assert found["intensity_error"] < 0.3
        assert found["row_jitter"] < 0.01


def test_scatter_is_no_drift(suite):
    """Columns of the truth moved at random: the error is their rms, the drift their mean."""
    case = suite.case(0, LATTICE)
    kept = (np.abs(case.scene.columns - 47.5) < 42).all(1)
    away = generator(7, 0, "away").normal(0, 0.1, case.scene.columns.shape)
    row, col = np.mgrid[:96, :96]
    columns = sum(np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * 2.1**2)) for r, c in case.scene.columns + away)
    found = judged(case, BLACK + 200.0 * (0.1 + columns))
    pm = 100 * case.scene.sampling
    assert found["columns"] == kept.sum()
    assert found["column_error"] == pytest.approx(pm * np.sqrt((away[kept] ** 2).sum(1).mean()), rel=0.02)
    assert found["column_drift"] == pytest.approx(pm * np.hypot(*away[kept].mean(0)), abs=0.05)


def test_two_per_cent_are_two_per_cent(suite):
    """Intensity above black scaled by 2 %: intensity error and bias and the mean's bias are 2 %, no column moves."""
    case = suite.case(0, LATTICE)
    found = judged(case, BLACK + 1.02 * (case.truth.astype(float) - BLACK))
    for name in ("intensity_error", "intensity_bias", "intensity_bias_signed", "mean_bias"):
        assert found[name] == pytest.approx(2.0, rel=1e-3), name
    assert found["column_error"] < 0.01


def column(case, row, col):
    """A column like those of the toy suite, ADU, at a place of an image."""
    r, c = np.indices(case.truth.shape)
    height = (case.truth.max() - case.truth[case.truth > BLACK].min()).astype(float)
    return height * np.exp(-((r - row) ** 2 + (c - col) ** 2) / (2 * 2.1**2))


def test_one_fake_column_is_one_over_all(suite):
    """A column put into the vacuum: precision n / (n + 1), recall 1, and a residual in the vacuum."""
    case = suite.case(0, EDGE)
    found = judged(case, case.truth + column(case, 47.0, 76.0))
    counted = 1 / (1 / found["column_precision"] - 1)
    assert counted == pytest.approx(round(counted))
    assert 0.5 * found["columns"] <= round(counted) <= found["columns"]
    assert found["column_recall"] == 1.0
    assert found["column_error"] < 0.01
    assert found["empty_residual"] > 1.0


def test_one_lost_column_is_one_over_all(suite):
    """A column that is taken away: recall (n - 1) / n, and its distance is half that to its neighbour."""
    case = suite.case(0, LATTICE)
    row, col = case.scene.columns[len(case.scene.columns) // 2 + 4]
    found = judged(case, case.truth - column(case, row, col))
    assert found["column_recall"] == pytest.approx(1 - 1 / found["columns"])
    assert found["column_precision"] == 1.0
    assert found["columns_found"] == found["columns"] - 1
    assert found["column_error"] == pytest.approx(120 / np.sqrt(found["columns"]), rel=0.01)  # half of 2.4 Å


def test_the_average_of_the_lattice_responds_to_nothing(suite):
    """A prior that shows the perfect lattice beats the Cramér-Rao bound, and its responses are 0."""
    case, twin = suite.case(1, PERTURBED), suite.case(1, LATTICE)
    found = judged(twin, twin.truth)
    assert found["column_error"] < 0.1 * found["column_bound"]
    prior = judged(case, twin.truth, (twin, twin.truth))
    for kind in ("shift", "dopant", "vacancy"):
        assert prior[f"response_{kind}"] == pytest.approx(0.0, abs=1e-3)
    shifted = 20.0 / np.sqrt(prior["columns"])  # one column of all by 20 pm
    assert prior["column_error"] == pytest.approx(shifted, rel=0.05)


def test_half_a_response_is_a_half(suite):
    """Half way between the lattice and its perturbed twin: slopes of a half; slopes are the sums' ratio."""
    case, twin = suite.case(0, PERTURBED), suite.case(0, LATTICE)
    half = judged(case, 0.5 * (case.truth + twin.truth), (twin, twin.truth))
    for kind, tolerance in (("shift", 0.03), ("dopant", 1e-4), ("vacancy", 1e-4)):
        assert half[f"response_{kind}"] == pytest.approx(0.5, abs=tolerance)
        ratio = half[f"response_{kind}_recovered"] / half[f"response_{kind}_true"]
        assert half[f"response_{kind}"] == pytest.approx(ratio)
    assert half["response_shift_true"] == pytest.approx(20.0**2, rel=0.02)  # pm²


def test_the_identity_responds_fully(suite):
    """The noise is the same in both twins, so that the noisy images themselves have slopes near 1."""
    case, twin = suite.case(0, PERTURBED), suite.case(0, LATTICE)
    found = judged(case, case.image, (twin, twin.image))
    for kind in ("shift", "dopant", "vacancy"):
        assert found[f"response_{kind}"] == pytest.approx(1.0, abs=0.1)


def test_smeared_rows_are_told(suite):
    """Rows displaced by 0.5 px: jitter of 0.5 px. A one-sided smear by 1 px on average: a drift of 20 pm."""
    case = suite.case(0, LATTICE)
    put = 0.5 * generator(8, 0, "jitter").standard_normal(96)
    truth = case.truth.astype(float)
    rows = np.stack([shift(row, by, order=5, mode="nearest") for row, by in zip(truth, put, strict=True)])
    found = judged(case, rows)
    assert found["row_jitter"] == pytest.approx(put.std(ddof=2), rel=0.05)
    assert found["psnr"] < 40
    smeared = judged(case, convolve1d(truth, [1 / 3, 1 / 3, 1 / 3], axis=1, origin=-1, mode="nearest"))
    assert smeared["column_drift"] == pytest.approx(20.0, rel=0.03)
    assert smeared["row_jitter"] < 0.02


def test_an_invented_lattice_in_the_amorphous(suite):
    """A faint fringe on an amorphous scene: its own rms, in % of the range, is what is told; noise is not it."""
    case = suite.case(0, AMORPHOUS)
    row, col = np.indices(case.truth.shape)
    fringe = 0.05 * case.data_range * np.sin(2 * np.pi * (0.13 * row + 0.09 * col))
    found = judged(case, case.truth + fringe)
    assert found["false_structure"] == pytest.approx(5 / np.sqrt(2), rel=0.03)
    assert found["false_structure_share"] > 0.98
    noisy = judged(case, case.truth + 0.05 * case.data_range * generator(9, 0, "noise").standard_normal(row.shape))
    assert noisy["empty_residual"] == pytest.approx(5.0, rel=0.05)
    assert noisy["false_structure"] < 0.3 * noisy["empty_residual"]
    both = judged(case, case.truth + fringe + 0.05 * case.data_range * generator(9, 0, "noise").normal(size=row.shape))
    assert both["false_structure"] == pytest.approx(5 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("scene", range(4))
def test_nothing_finite_breaks_it(suite, scene):
    """Flat, huge, tiny, negative, reversed and white images are measured, whatever the figures."""
    case, twin = suite.case(0, scene), suite.case(0, LATTICE)
    partner = (twin, twin.image) if case.scene.partner is not None else None
    white = generator(10, 0, "white").standard_normal(case.truth.shape)
    for restored in (0 * white, 0 * white + 1e30, 1e30 * white, 1e-30 * white, -case.truth, case.truth[::-1], white,
                     np.eye(96)):
        found = judged(case, restored, partner)
        assert all(np.isfinite(value) for value in found.values())
        assert found["psnr"] <= 100


def test_dark_columns_are_columns(suite):
    """The negative of a lattice, as bright-field shows it: the same errors, from columns that are dark."""
    case = suite.case(0, LATTICE)
    dark = replace(case, truth=900 - case.truth, counts=((800 - case.truth) / GAIN).astype(np.float32),
                   scene=replace(case.scene), condition=replace(case.condition, black_level=BLACK))
    moved = shift(dark.truth.astype(float), (0.0, 0.5), order=5, mode="nearest")
    found = judged(dark, moved)
    assert found["column_error"] == pytest.approx(10.0, rel=0.05)
    assert found["column_recall"] == found["column_precision"] == 1.0


def test_no_bound_where_nothing_was_counted(suite):
    """The Cramér-Rao bound is there for counted electrons, grows with what is added, and is absent otherwise."""
    case = suite.case(0, LATTICE)

    def bound(**changes):
        condition = replace(case.condition, **changes)
        assert isinstance(condition, Condition)
        return judged(replace(case, condition=condition), case.truth).get("column_bound")

    assert bound(counted=False) is None
    assert bound(excess=4.0) == pytest.approx(2 * bound(), rel=0.01)
    assert bound(variance=100.0) > 1.1 * bound()


@pytest.mark.compiled
@pytest.mark.parametrize(("name", "condition"), [("stem_hd_v1", "poisson-1"), ("stem_hd_v1", "read_noise-3"),
                                             ("tem_hd_v1", "counting-1"), ("tem_hd_v1", "xray-1")])
def test_released_scenes_judge_only_what_they_are_sure_of(name, condition):
    """On every scene a rigid shift of the truth by 10 pm reads 10 pm, and a blur of it by 1 px less than 3 pm."""
    released = shipped.load(name)
    which, judged_scenes = released.conditions.index(released.condition(condition)), 0
    for index in range(len(released.scenes)):
        case = released.case(which, index)
        known = target(case)
        if known is None:
            continue
        judged_scenes += 1
        truth, step = case.truth.astype(float), 0.1 / case.scene.sampling
        for image, aim, within in ((shift(truth, (step, 0.0), order=5, mode="mirror"), 10.0, 0.3),
                                   (shift(truth, (0.0, step), order=5, mode="mirror"), 10.0, 0.3),
                                   (gaussian_filter(truth, 1.0), 0.0, 3.0)):
            away = columns.distances(known.fit, known.refit(image), known.radius)[known.kept]
            read = 100 * case.scene.sampling * np.sqrt(np.mean(away**2))
            assert read == pytest.approx(aim, abs=within), case.scene.name
    assert judged_scenes >= 14


@pytest.mark.compiled
@pytest.mark.parametrize(("name", "condition"), [("stem_hd_v1", "poisson-3"), ("tem_hd_v1", "conversion-3")])
def test_untouched_released_images_respond_fully(name, condition):
    """Pooled over the pairs the slopes of the identity are 1, of every kind."""
    released = shipped.load(name)
    which = released.conditions.index(released.condition(condition))
    sums = {kind: np.zeros(2) for kind in ("shift", "dopant", "vacancy")}
    for index, scene in enumerate(released.scenes):
        if scene.partner is not None:
            case, twin = released.case(which, index), released.case(which, scene.partner)
            found = measure(case, case.image, (twin, twin.image))
            for kind, total in sums.items():
                total += [found.get(f"response_{kind}_{part}", 0.0) for part in ("recovered", "true")]
    for kind, (recovered, true) in sums.items():
        assert recovered / true == pytest.approx(1.0, abs=0.06), kind


@pytest.mark.compiled
@pytest.mark.parametrize("scene", ["ni3al_001", "ni3al_strained"])
def test_untouched_images_are_not_fitted_worse_than_smoothed_ones(scene):
    """At the lowest dose nearly all columns are found without smoothing, and the error stays near the bound."""
    released = shipped.load("stem_hd_v1")
    index = [each.name for each in released.scenes].index(scene)
    case = released.case(released.conditions.index(released.condition("poisson-5")), index)
    plain, soft = measure(case, case.image), measure(case, gaussian_filter(case.image, 1.0))
    assert plain["columns_found"] >= 0.97 * plain["columns"]
    assert plain["column_error"] < 1.2 * soft["column_error"]


def test_every_figure_is_explained():
    """Names, units and one sentence each; a name is either a metric or stands beside them."""
    assert not set(METRICS) & set(BESIDE)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.definition.endswith(".")
        assert metric.direction in ("higher", "lower", "one")
        assert (metric.ceiling == 1.0) or metric.direction != "one"
    assert all(meaning.endswith(".") for _, meaning in BESIDE.values())
