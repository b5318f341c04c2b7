"""Tuning: the best values are inside what was searched, the same whoever computes, and never sought where it scores."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from toy_suite import toy_suite

from emsynth.benchmark import tuning
from emsynth.benchmark.tuning import TUNED, Tuning, chosen_scenes, oracle, psnr, tune, tuned_restorer, tuned_values
from emsynth.errors import RestorerError, SuiteError
from emsynth.restoration import BASELINES, Parameter, apply
from emsynth.restoration.protocol import strength
from emsynth.restoration.search import Search

LOG = strength("px", "of a test", 0.5, 8.0, 64.0, name="x")


def split(families=("poisson",), severities=(3,), **options):
    """A toy suite as its tune split."""
    suite = toy_suite(families=families, severities=severities, **options)
    return dataclasses.replace(suite, split="tune", name=f"{suite.name}_tune")


def hill(top):
    """A curve of one top, in dB, on a logarithmic scale; 0 is far down."""
    return lambda values: -9.0 if not values["x"] else -math.log(values["x"] / top) ** 2


@pytest.mark.parametrize(("thorough", "lost"), [(True, 0.003), (False, 0.02)])
@pytest.mark.parametrize("top", [0.02, 0.6, 2.9, 30.0])
def test_the_top_of_a_curve_is_found_wherever_it_is(top, thorough, lost):
    """Within the grid, and far beyond both of its ends; a quick search gives away what it does not think worth it."""
    found = Search([LOG], hill(top), thorough).run()
    assert found.score > -lost
    assert found.ends == {"x": "interior"}


def test_images_that_nothing_happened_to_do_not_decide():
    """Where a condition spares a scene, the mean error over all scenes is searched: that of PSNRs is the spared's."""
    suite = split()
    spared = suite.case(0, 2).truth
    codes, step, offset = suite.codes.copy(), suite.step.copy(), suite.offset.copy()
    step[0, 2], offset[0, 2] = float(np.ptp(spared)) / 65000, float(spared.min())
    codes[0, 2] = np.rint((spared - offset[0, 2]) / step[0, 2])
    found = tune(dataclasses.replace(suite, codes=codes, step=step, offset=offset), ["gaussian"]).found
    pooled, every = found["gaussian"]["poisson-3"], tune(suite, ["gaussian"]).found["gaussian"]["poisson-3"]
    assert (every["objective"], pooled["objective"]) == ("mean PSNR", "PSNR of the mean error")
    assert every["values"]["sigma"] > pooled["values"]["sigma"] > 0.3


def test_ends_are_called_what_they_are():
    """Nothing to remove; nothing smaller; and a range too narrow, which is a fault."""
    def fall(values):
        return -float(values["x"])

    sizes = Parameter("x", "px", "", "steps", values=(1, 3, 5), start=3)
    assert Search([LOG], fall).run().ends == {"x": "identity"}
    assert Search([LOG], lambda values: -fall(values)).run().ends == {"x": "end"}
    assert Search([sizes], fall).run().ends == {"x": "end"}
    assert Search([dataclasses.replace(sizes, smallest=True)], fall).run().ends == {"x": "smallest"}
    assert Search([dataclasses.replace(sizes, largest=True)], lambda values: -fall(values)).run().ends == {
        "x": "largest"}
    assert Search([dataclasses.replace(sizes, identity_end=True)], fall).run().ends == {"x": "identity"}
    assert Search([sizes], lambda values: -fall(values)).run().ends == {"x": "end"}


def test_of_equals_the_mildest_is_taken():
    assert Search([LOG], lambda values: 0.0).run().values == {"x": 0.0}


def test_what_is_not_finite_never_wins():
    assert Search([LOG], lambda values: math.nan if values["x"] > 1 else values["x"]).run().values["x"] <= 1


@pytest.mark.parametrize("thorough", [True, False])
def test_parameters_that_depend_on_each_other_are_tuned_together(thorough):
    """The best x is another for each choice and each y; the search ends within 0.05 dB of the top."""
    choice = Parameter("how", "", "", "choice", values=("a", "b"), start="a")
    y = dataclasses.replace(LOG, name="y")

    def score(values):
        x, other = (math.log(max(float(values[name]), 1e-3)) for name in "xy")
        return (1.0 if values["how"] == "b" else 0.5) - (x - 0.7 * other) ** 2 - (other - 0.5) ** 2

    found = Search([choice, LOG, y], score, thorough).run()
    assert found.values["how"] == "b"
    assert found.score > 0.95


def test_the_split_that_scores_is_not_tuned_on():
    with pytest.raises(SuiteError, match="toy_v1: is the split that scores; baselines are tuned on toy_v1_tune only"):
        tune(toy_suite(), ["gaussian"])


def test_only_baselines_are_tuned():
    with pytest.raises(RestorerError, match="'gauss' is not a baseline"):
        tune(split(), ["gauss"])


def test_tuned_bm3d_beats_tuned_gaussian_on_poisson_noise():
    pytest.importorskip("bm3d")
    found = tune(split(), ["gaussian", "bm3d"], images=2).found
    assert found["bm3d"]["poisson-3"]["psnr"] > found["gaussian"]["poisson-3"]["psnr"] + 1
    assert {end for one in found.values() for end in one["poisson-3"]["ends"].values()} <= {"interior", "choice"}


def test_setting_rows_straight_pays_where_they_jitter():
    pytest.importorskip("bm3d")
    suite = split(("row_jitter",))
    values = {"stabilise": True, "level_rows": 0, "strength": 2.0}
    scores = {jitter: np.mean([psnr(case, apply(
        BASELINES["rows_bm3d"].tuned({**values, "jitter": jitter}, case.condition), case.image))
        for case in map(suite.case, (0, 0), (0, 3))]) for jitter in (0.0, 0.6)}
    assert scores[0.6] > scores[0.0] + 3


def test_tuning_does_not_depend_on_the_workers_and_goes_on_where_it_ended(tmp_path, monkeypatch):
    suite, names = split(("poisson", "row_jitter"), (1, 3)), ["gaussian", "median"]
    alone = tune(suite, names, 1, out=tmp_path / "alone.json")
    tune(suite, names, 2, out=tmp_path / "two.json").save(tmp_path / "two.json")
    alone.save(tmp_path / "alone.json")
    assert (tmp_path / "alone.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert Tuning.load(tmp_path / "alone.json") == alone
    monkeypatch.setattr(tuning.TuneOne, "run", lambda task: pytest.fail(f"{task.name} was tuned before"))
    assert tune(suite, names, 1, out=tmp_path / "two.json") == alone


def test_another_suite_does_not_go_on_in_the_same_file(tmp_path):
    tune(split(), ["identity"], out=tmp_path / "one.json")
    with pytest.raises(SuiteError, match=r"one\.json: was tuned with digest"):
        tune(split(severities=(1,)), ["identity"], out=tmp_path / "one.json")


def test_twins_and_empty_scenes_are_not_tuned_on():
    """Scenes of toy suites are lattice, twin, amorphous, edge, and again; contents come in turn."""
    suite = split(scenes=8)
    assert chosen_scenes(suite, 4) == (0, 2, 3, 4)
    empty = tuple(dataclasses.replace(scene, truth=np.zeros_like(scene.truth)) for scene in suite.scenes)
    with pytest.raises(SuiteError, match="no scene to tune on"):
        chosen_scenes(dataclasses.replace(suite, scenes=empty), 4)


def test_a_tuned_restorer_has_the_values_of_its_condition(tmp_path):
    suite = split(severities=(1, 3))
    record = tune(suite, ["gaussian"], out=tmp_path / "toy.json")
    sigmas = [tuned_values(record, "gaussian", condition)["sigma"] for condition in suite.conditions]
    assert sigmas[0] < sigmas[1]  # more noise, more smoothing
    case = suite.case(1, 0)
    restored = apply(tuned_restorer(str(tmp_path / "toy.json"), "gaussian", case.condition), case.image)
    assert psnr(case, restored) > psnr(case, case.image)
    with pytest.raises(SuiteError, match=r"toy_v1: gaussian was not tuned for poisson-5; python -m"):
        tuned_restorer(record, "gaussian", split(severities=(5,)).conditions[0])


def test_a_suite_that_was_never_tuned_is_said_but_the_identity_needs_no_tuning():
    condition = split().conditions[0]
    with pytest.raises(SuiteError, match="no_such_v1: its baselines were not tuned"):
        tuned_restorer("no_such_v1", "gaussian", condition)
    assert tuned_restorer("no_such_v1", "identity", condition)(np.ones((2, 2), np.float32)).sum() == 4


def test_the_oracle_is_at_least_as_good_as_what_was_tuned():
    pytest.importorskip("skimage")
    suite = split()
    record = tune(suite, ["wavelet"], images=2)
    for scene in (0, 3):
        case = suite.case(0, scene)
        values = tuned_values(record, "wavelet", case.condition)
        tuned = apply(BASELINES["wavelet"].tuned(values, case.condition), case.image)
        for around in (values, None):
            assert psnr(case, oracle(BASELINES["wavelet"], case, around)[0]) >= psnr(case, tuned) - 0.01


def test_nothing_is_stabilised_that_was_not_counted():
    condition = dataclasses.replace(split().conditions[0], counted=False)
    (stabilise,) = (p for p in BASELINES["tv"].parameters_for(condition) if p.name == "stabilise")
    assert stabilise.values == (False,)


def test_the_command_writes_the_record_and_the_figure(tmp_path, monkeypatch, capsys):
    shipped = pytest.importorskip("emsynth.benchmark.shipped")
    monkeypatch.setattr(shipped, "load", lambda name: split())
    out, figure = tmp_path / "a" / "toy.json", tmp_path / "toy.png"
    assert tuning.main(["toy_v1_tune", "--restorer", "gaussian", "--restorer", "median", "--out", str(out),
                        "--figure", str(figure)]) == 0
    assert set(json.loads(out.read_text())["found"]) == {"gaussian", "median"}
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "2/2 median poisson-3" in capsys.readouterr().err
    assert tuning.main(["toy_v1_tune", "--restorer", "xyzzy", "--out", str(out)]) == 1
    assert "error: 'xyzzy' is not a baseline" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(TUNED.glob("*.json")) or [None], ids=lambda path: path.stem if path else "none")
def test_every_committed_optimum_is_inside_the_range_that_was_searched(path):
    """Each curve was searched on both sides of what was chosen, unless that is as small or as large as can be."""
    if path is None:
        pytest.skip("no suite has been tuned yet")
    record = Tuning.load(path)
    assert set(record.found) == set(BASELINES)
    for name, conditions in record.found.items():
        for condition, one in conditions.items():
            for parameter, end in one["ends"].items():
                place = f"{name} {condition} {parameter}"
                assert end in ("interior", "identity", "smallest", "largest", "choice"), place
                if end == "interior":
                    tried = [value for value, _ in one["curves"][parameter]]
                    assert min(tried) < one["values"][parameter] < max(tried), place
