"""The score: relative to a fixed baseline, family by family, with intervals over scenes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_suite import toy_suite

from emsynth.benchmark.leaderboard import COLUMNS, figure_estimate, markdown, plain
from emsynth.benchmark.reference import Reference, figures, reference, reference_of, write_reference
from emsynth.benchmark.score import Estimate, Score, error, groups, resamples, scores, slope_estimate
from emsynth.benchmark.standing import reference_or_none
from emsynth.benchmark.suite import Case, Suite
from emsynth.errors import SuiteError
from emsynth.streams import generator

Measure = Callable[[Case], dict[str, float]]

NO_SCORE = Score("any", Estimate(), Estimate(), {}, {}, math.nan, {}, (math.nan, math.nan), {}, 0, 0, "", "")


def table_of(suite: Suite, restorers: Mapping[str, Measure], failed: str = "") -> pd.DataFrame:
    """Tidy table of made-up figures; `failed` fails on every image of scene 0."""
    rows = []
    for name, measure in restorers.items():
        for case in suite.cases():
            where, scene = case.condition, case.scene
            end = ("exception", "no <memory>") if name == failed and not scene.index else ("ok", "")
            rows += [(suite.name, name, where.family, where.severity, scene.index, scene.content, metric, value, *end)
                     for metric, value in measure(case).items()]
    return pd.DataFrame(rows, columns=["suite", "restorer", "family", "severity", "scene", "content", "metric", "value",
                                       "status", "message"])


def figures_of(share: float, response: float = 1.0, spread: float = 0.3) -> Measure:
    """A restorer whose errors are `share` of the baseline's, and which returns `response` of a probe."""
    def measure(case: Case) -> dict[str, float]:
        name = f"{case.condition.name} {case.scene.index}"
        chance = float(np.exp(spread * generator(0, 0, name).standard_normal()))
        found = {"psnr": 30.0 - 2 * case.condition.severity - 20 * math.log10(share * chance), "ssim": 0.9, "time": 0.1}
        if len(case.scene.columns):
            found |= {"column_error": 5.0 * share * chance, "column_bound": 4.0, "column_precision": 0.9}
        if case.scene.probes:
            found |= {f"response_{kind}{end}": value for kind in ("shift", "dopant", "vacancy")
                      for end, value in (("_recovered", 0.04 * response), ("_true", 0.04), ("", response))}
        return found
    return measure


@pytest.fixture(scope="module")
def suite() -> Suite:
    return toy_suite(scenes=8)


@pytest.fixture(scope="module")
def against(suite: Suite) -> Reference:
    return reference_of(suite, table_of(suite, {"gaussian": figures_of(1.0)}))


def test_the_reference_scores_exactly_100(suite: Suite, against: Reference) -> None:
    """Its score, and both ends of its interval, are 100, whichever scenes are drawn."""
    found, = scores(suite, table_of(suite, {"gaussian": figures_of(1.0)}), against)
    assert (found.overall.value, found.overall.low, found.overall.high) == (100.0, 100.0, 100.0)
    assert (found.columns.value, found.verdict) == (100.0, "even")


def test_a_perfect_restorer_scores_nothing(suite: Suite, against: Reference) -> None:
    """At the ceiling of every metric the score is below 1."""
    found, = scores(suite, table_of(suite, {"truth": lambda case: {
        "psnr": 100.0, **({"column_error": 0.0} if len(case.scene.columns) else {})}}), against)
    assert found.overall.value < 1
    assert found.columns.value == 0


def test_half_the_error_is_half_the_score(suite: Suite, against: Reference) -> None:
    """The score is proportional to the errors, for the image and for the columns, and so in each family."""
    found, = scores(suite, table_of(suite, {"half": figures_of(0.5)}), against)
    values = [found.overall.value, found.columns.value, *(e.value for e in found.families.values())]
    assert values == pytest.approx([50.0] * 4)
    assert found.verdict == "better"


def test_families_weigh_alike(suite: Suite, against: Reference) -> None:
    """A ratio for each family, then the mean over families: large errors in one do not drown the other."""
    half, double = figures_of(0.5), figures_of(2.0)
    mixed, = scores(suite, table_of(suite, {
        "mixed": lambda case: (half if case.condition.family == "poisson" else double)(case)}), against)
    assert mixed.overall.value == pytest.approx(125.0)


def test_errors_are_summed_over_severities_before_they_are_divided(suite: Suite, against: Reference) -> None:
    """As ImageNet-C does: a severity counts by the error that the reference makes there."""
    half, same = figures_of(0.5), figures_of(1.0)
    found, = scores(suite, table_of(suite, {
        "mild": lambda case: (half if case.condition.severity == 1 else same)(case)}), against)
    fixed = error(against.figures["psnr"]).mean(axis=1)
    expected = [100 * (0.5 * fixed[n] + fixed[n + 1]) / (fixed[n] + fixed[n + 1]) for n in (0, 2)]
    assert found.overall.value == pytest.approx(np.mean(expected))


def test_error_is_the_root_mean_square_over_the_range() -> None:
    """20 dB is a tenth, and the ceiling of 100 dB is 1e-5."""
    assert error(np.array([20.0, 100.0])) == pytest.approx([0.1, 1e-5])


def test_twins_are_drawn_together(suite: Suite) -> None:
    """A lattice and its perturbed twin share their noise: one without the other would count it as two."""
    drawn = resamples(suite, 500)
    twins = [(s.index, s.partner) for s in suite.scenes if s.partner is not None]
    assert twins
    assert all((drawn[:, a] == drawn[:, b]).all() for a, b in twins)
    assert not (drawn[:, 0] == drawn[:, 2]).all()


def test_windows_of_one_field_are_drawn_together(suite: Suite) -> None:
    """A scene that shows another place of an earlier scene's specimen is no second specimen, nor are its twins."""
    first = suite.scenes[0].name
    shared = replace(suite, scenes=tuple(replace(s, about={"plan": {"field_of": first if n == 6 else None}})
                                         for n, s in enumerate(suite.scenes)))
    assert groups(suite).tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
    assert groups(shared).tolist() == [0, 0, 1, 2, 3, 3, 0, 4]
    drawn = resamples(shared, 200)
    assert (drawn[:, 0] == drawn[:, 6]).all()


def test_the_interval_of_a_response_covers_for_few_pairs() -> None:
    """Of four pairs about 95 % of the intervals hold the slope; a percentile bootstrap holds it in about 80 %."""
    member, hits, trials = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4]), 0, 2000
    for n in range(trials):
        rng = generator(n, 0, "response test")
        square = np.where(np.arange(9) % 2, rng.uniform(0.8, 1.2, 9), 0.0)
        found = slope_estimate(square * (0.9 + rng.normal(0.0, 0.1, 9)), square, member)
        hits += found.low <= 0.9 <= found.high
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_the_interval_of_a_response_is_that_of_student() -> None:
    """Of equal squares it is that of a mean: of 0 and 1, half a width of 12.706 standard errors of 1/2."""
    member, square = np.array([0, 1]), np.ones(2)
    found = slope_estimate(np.array([0.0, 1.0]), square, member)
    assert (found.value, found.high) == pytest.approx((0.5, 0.5 + 12.7062 * 0.5), rel=1e-5)
    alone = slope_estimate(np.array([0.3, 0.0]), np.array([1.0, 0.0]), member)
    assert alone.value == 0.3
    assert np.isnan(alone.high)
    assert not slope_estimate(np.zeros(2), np.zeros(2), member)


def test_psnr_is_that_of_the_mean_error(suite: Suite, against: Reference) -> None:
    """Nearly undamaged images, far up in decibels, do not make a restorer better that fails where it is hard."""
    found = {s.restorer: s for s in scores(suite, table_of(suite, {
        "idle": lambda case: {"psnr": 100.0 if case.condition.severity == 1 else 20.0},
        "at work": lambda case: {"psnr": 40.0 if case.condition.severity == 1 else 26.0}}), against)}
    assert found["idle"].psnr == pytest.approx(-20 * math.log10((1e-5 + 0.1) / 2))
    assert found["at work"].psnr > found["idle"].psnr


def test_a_failed_image_does_not_look_good(suite: Suite, against: Reference) -> None:
    """The mean that stands for it has no bias, structure or jitter: those means leave it out, PSNR and SSIM do not."""
    side = ("mean_bias", "false_structure", "empty_residual", "row_jitter")

    def measure(case: Case) -> dict[str, float]:
        failed = case.scene.index == 0
        found = {"psnr": 10.0 if failed else 30.0, "ssim": 0.1 if failed else 0.9}
        return found | dict.fromkeys(side, 0.0 if failed else 4.0)
    table = table_of(suite, {"some": measure}, failed="some")
    found, = scores(suite, table, against)
    assert [found.means[metric] for metric in side] == [4.0] * 4
    assert found.means["ssim"] == pytest.approx(0.8)
    assert found.psnr < 30
    nothing = scores(suite, pd.concat([table, table.assign(restorer="none", status="exception")]), against)
    head, some, none = ([cell.strip() for cell in line.split("|")] for line in
                        markdown(suite, nothing).splitlines() if line.startswith(("| rest", "| some", "| none")))
    at = [head.index(title) for title in ("invented periodicity [%]", "empty residual [%]", "bias [%]")]
    assert at[1] == at[0] + 1
    assert sorted([[row[n] for n in at] for row in (some, none)]) == [["-"] * 3, ["4.00"] * 3]


def test_the_interval_is_seeded_and_covers(suite: Suite) -> None:
    """The same table gives the same interval, and of 40 made-up suites about 95 % of the intervals hold the truth."""
    hits = 0
    large = toy_suite(scenes=32, families=("poisson",), severities=(1,), side=36)
    for n in range(40):
        noise = generator(n, 0, "score test").normal(0.0, 0.2, 32)
        fixed = Reference(large.name, large.digest, "gaussian", {
            "psnr": np.full((1, 32), 20.0), "column_error": np.full((1, 32), np.nan)})
        table = table_of(large, {"any": lambda case, noise=noise: {
            "psnr": -20 * math.log10(0.1 * (1 + noise[case.scene.index]))}})
        found = scores(large, table, fixed)[0].overall
        hits += found.low <= 100 <= found.high
    assert found == scores(large, table, fixed)[0].overall
    # 24 groups of scenes make a percentile interval a little narrow; 5 standard deviations below 90 % of 40.
    assert hits >= 0.9 * 40 - 5 * math.sqrt(40 * 0.1 * 0.9)
    assert hits < 40


def test_a_part_of_the_suite_has_no_score(suite: Suite, against: Reference) -> None:
    """A family that was not run, or one image that is missing, leaves a dash and says why."""
    table = table_of(suite, {"some": figures_of(0.5)})
    part = table[table["family"] == "poisson"]
    hole = table[~((table["family"] == "poisson") & (table["scene"] == 3) & (table["severity"] == 1))]
    for kept, family in ((part, "poisson"), (hole, "row_jitter")):
        found, = scores(suite, kept, against)
        assert not found.overall
        assert not found.columns
        assert found.families[family].value == pytest.approx(50.0)
        assert list(found.families) == [family]
        assert "1 of 2 families" in markdown(suite, [found])
        assert "| some | - | - |" in markdown(suite, [found])


def test_a_missing_column_figure_leaves_no_column_score(suite: Suite, against: Reference) -> None:
    """An image that is left out of the columns cannot make them look better."""
    table = table_of(suite, {"some": figures_of(0.5)})
    lacks = (table["metric"] == "column_error") & (table["scene"] == 0) & (table["severity"] == 3)
    found, = scores(suite, table[~lacks], against)
    assert found.overall
    assert not found.columns


def test_failures_are_counted_by_image(suite: Suite, against: Reference) -> None:
    """An image counts once, however many metrics it has."""
    found, = scores(suite, table_of(suite, {"bad": figures_of(2.0)}, failed="bad"), against)
    assert (found.failures, found.images) == (4, 32)
    assert "failed on 4 of 32 images" in plain(suite, [found])


def test_responses_are_pooled_and_a_prior_is_flagged(suite: Suite, against: Reference) -> None:
    """The slope is that of the sums; a good column score with little response is called what it is."""
    mixed = {0: figures_of(0.5, 1.0), 1: figures_of(0.5, 0.0)}
    table = table_of(suite, {"prior": figures_of(0.4, 0.3), "fair": figures_of(0.4, 0.9),
                             "blurred": figures_of(2.0, 0.3), "half": lambda case: mixed[case.scene.index // 4](case)})
    found = {s.restorer: s for s in scores(suite, table, against)}
    assert found["half"].responses["shift"].value == pytest.approx(0.5)
    assert "ignores the data" in " ".join(found["prior"].flags)
    assert not found["fair"].flags
    assert not found["blurred"].flags


def test_position_error_stands_beside_the_bound_of_the_same_images(suite: Suite, against: Reference) -> None:
    """Images without a bound are not in the comparison."""
    table = table_of(suite, {"some": figures_of(1.0, spread=0.0)})
    table.loc[(table["metric"] == "column_error") & (table["severity"] == 3), "value"] = 50.0
    found, = scores(suite, table[~((table["metric"] == "column_bound") & (table["severity"] == 3))], against)
    assert found.bounded == pytest.approx((5.0, 4.0))
    column = next(c for c in COLUMNS if c.short == "pos/bound")
    assert (column.text(found), column.value(found)) == ("5.0 / 4.0", pytest.approx(5.0))
    unbounded, = scores(suite, table[table["metric"] != "column_bound"], against)
    head = next(line for line in markdown(suite, [unbounded]).splitlines() if line.startswith("| restorer"))
    assert "position error [pm], of all images" in head
    assert "bound" not in head


def test_a_leaderboard_does_not_depend_on_the_order_of_rows(suite: Suite, against: Reference) -> None:
    """Two runs whose rows came otherwise give the same text."""
    table = table_of(suite, {"b": figures_of(0.7), "a": figures_of(0.5), "c (oracle)": figures_of(0.3)})
    shuffled = table.sample(frac=1, random_state=1)
    texts = [write(suite, scores(suite, t, against)) for write in (markdown, plain) for t in (table, shuffled)]
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]


def test_a_leaderboard_is_sorted_and_oracles_stand_apart(suite: Suite, against: Reference) -> None:
    """Best first; what was tuned on the truth is below, under its own heading."""
    restorers = {"worst": 0.9, "best": 0.5, "gaussian (oracle)": 0.1}
    text = markdown(suite, scores(suite, table_of(suite, {k: figures_of(v) for k, v in restorers.items()}), against))
    places = [text.index(word) for word in ("| best", "| worst", "a bound, not a competitor", "| gaussian (oracle)")]
    assert places == sorted(places)
    assert suite.digest[:12] in text
    assert "32 images" in text


def test_a_figure_without_an_interval_has_no_bracket() -> None:
    """As a response of a single pair."""
    assert figure_estimate(Estimate(0.3), 2) == "0.30"
    assert figure_estimate(Estimate(0.3, 0.1, 0.5), 2) == "0.30 (0.10–0.50)"


def test_markdown_leaves_out_what_is_minor(suite: Suite, against: Reference) -> None:
    """Its rows are one line each: precision and recall are left to the report."""
    text = markdown(suite, scores(suite, table_of(suite, {"a": figures_of(0.5)}), against))
    assert "| shift returned |" in text
    assert "precision" not in text


def test_a_name_cannot_break_the_table(suite: Suite, against: Reference) -> None:
    """A bar or a tag in a restorer's name stays text."""
    text = markdown(suite, scores(suite, table_of(suite, {"a|<b>": figures_of(0.5)}), against))
    assert r"| a\|\<b\> |" in text


def test_the_plain_leaderboard_fits_a_terminal(suite: Suite, against: Reference) -> None:
    """At most 100 characters in a line, whatever the names."""
    table = table_of(suite, {"a_package.of_somebody:a_restorer_of_theirs": figures_of(0.5, 0.3), "b": figures_of(9.0)},
                     failed="b")
    lines = plain(suite, scores(suite, table, against)).splitlines()
    assert max(map(len, lines)) <= 100
    assert next(line for line in lines if line.startswith("restorer")).endswith("fail")


def test_the_plain_leaderboard_says_what_it_leaves_out(suite: Suite, against: Reference) -> None:
    """In 80 characters SSIM goes before what unmasks a cheat; where there is room nothing is said."""
    table = table_of(suite, {"a_package.of_somebody:a_restorer_of_theirs": figures_of(0.5, 0.3), "b": figures_of(9.0)},
                     failed="b")
    found = scores(suite, table, against)
    lines = plain(suite, found, 80).splitlines()
    head = next(line for line in lines if line.startswith("restorer"))
    assert max(map(len, lines)) <= 80
    assert "sh./dop./vac." in head
    assert "fail" in head
    assert "SSIM" not in head
    gone = "\n".join(lines[-2:]).partition("left out for want of room: ")[2]
    assert "SSIM" in gone
    assert "PSNR" in head.split()
    assert "left out" not in plain(suite, found, 200)


def test_an_interval_is_printed_by_its_ends() -> None:
    """It need not be even; decimals are for narrow ones."""
    column = next(c for c in COLUMNS if c.title == "score")

    def brief(*values: float) -> str:
        return column.brief(replace(NO_SCORE, overall=Estimate(*values)))
    assert brief(59.2, 16.5, 152.7) == "59 (16–153)"
    assert brief(62.14, 61.0, 63.33) == "62.1 (61.0–63.3)"
    assert brief(100.0, 100.0, 100.0) == "100"
    assert brief() == "-"


def test_without_a_reference_all_but_the_score_is_there(suite: Suite) -> None:
    """A suite of one's own, or a part of a run, still has its other figures."""
    table = table_of(suite, {"some": figures_of(0.5), "cheat": figures_of(0.1, -0.01)})
    assert reference_or_none(suite, table) is None
    cheat, some = scores(suite, table, reference_or_none(suite, table))
    assert not any((some.overall, some.columns, some.families, some.reference))
    assert some.means["ssim"] == pytest.approx(0.9)
    assert some.responses["shift"].value == pytest.approx(1.0)
    for text in (markdown(suite, [some, cheat]), plain(suite, [some, cheat])):
        assert "no score: there is no reference" in text
        assert "0.900" in text
    assert cheat.ignores.endswith("better than the Cramér-Rao bound, but returns nothing of a shift, of a dopant, of a "
                                  "vacancy")
    assert not some.ignores
    assert reference_or_none(suite, table_of(suite, {"gaussian": figures_of(1.0)})) is not None


def test_what_ignores_the_data_is_marked_in_its_row(suite: Suite, against: Reference) -> None:
    """The mark is in the row and before the words, in Markdown and plain text, and in no other row."""
    found = scores(suite, table_of(suite, {"prior": figures_of(0.4, 0.3), "fair": figures_of(0.4, 0.9)}), against)
    assert "| prior † |" in markdown(suite, found)
    assert "- † **prior** ignores the data" in markdown(suite, found)
    for text in (markdown(suite, found), plain(suite, found)):
        assert text.count("†") == 2
        assert "fair †" not in text


def test_a_reference_is_kept_and_read_back(suite: Suite, against: Reference, tmp_path) -> None:
    """To the last bit, and NaN where a metric does not apply."""
    write_reference(suite, table_of(suite, {"gaussian": figures_of(1.0)}), tmp_path)
    found = reference(suite, tmp_path)
    assert found.restorer == "gaussian"
    for metric, values in against.figures.items():
        np.testing.assert_array_equal(found.figures[metric], values)
    assert np.isnan(found.figures["column_error"][:, 2]).all()  # amorphous


def test_a_reference_of_other_bytes_is_refused(suite: Suite, tmp_path) -> None:
    """It belongs to one digest, and a suite without one has no score."""
    path = write_reference(suite, table_of(suite, {"gaussian": figures_of(1.0)}), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "0" * 64}))
    with pytest.raises(SuiteError, match="make the reference again"):
        reference(suite, tmp_path)
    with pytest.raises(SuiteError, match="no reference is kept"):
        reference(replace(suite, name="another"), tmp_path)


def test_a_reference_needs_the_whole_suite(suite: Suite) -> None:
    """An image that the baseline was not run on would have no yardstick."""
    table = table_of(suite, {"gaussian": figures_of(1.0)})
    with pytest.raises(SuiteError, match="on 16 of 32 images"):
        reference_of(suite, table[table["family"] == "poisson"])


def test_a_table_of_another_suite_is_refused(suite: Suite) -> None:
    """An image that the suite has not, or one that is there twice, is not averaged over."""
    table = table_of(suite, {"gaussian": figures_of(1.0)})
    with pytest.raises(SuiteError, match="has no image"):
        figures(toy_suite(scenes=4), table, "gaussian", "psnr")
    with pytest.raises(SuiteError, match="twice"):
        figures(suite, pd.concat([table, table]), "gaussian", "psnr")
