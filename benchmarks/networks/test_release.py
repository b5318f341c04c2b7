"""Releasing a network: what is shipped is what was trained, and its card says what is so."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (extra train)")
pytest.importorskip("pyarrow", reason="the committed tables are Parquet, which needs pyarrow")

from benchmarks.networks import curves, evaluate, release  # noqa: E402
from benchmarks.networks.card import Facts, card, fragment  # noqa: E402
from benchmarks.networks.figures import acceptance, summary  # noqa: E402
from benchmarks.networks.test_evaluate import baselines, better, suite  # noqa: E402, F401
from emsynth.benchmark import record, shipped  # noqa: E402
from emsynth.errors import TrainingError  # noqa: E402
from emsynth.networks.cgrdn import CGRDN, Size  # noqa: E402
from emsynth.networks.weights import load_weights, save_weights  # noqa: E402
from emsynth.training.recipe import TrainingRecipe  # noqa: E402
from emsynth.training.train import train  # noqa: E402
from emsynth.training.validation import Pair  # noqa: E402

PAGE = "before\n<!-- {0}: made by benchmarks.networks.release -->\nold\n<!-- end of {0} -->\nafter\n"
TINY = Size(layers=1, growth=4, width=8, groups=1, blocks=1, fourier=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training of two stages on ten images of gratings."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "clean").mkdir()
    at = np.arange(96)
    for n in range(10):
        rows, cols = np.cos(at / (2 + n / 5)), np.cos(at / (3 + n / 7))
        np.save(folder / "clean" / f"{n}.npy", (1.5 + rows[:, None] * cols[None]).astype(np.float32))
    losses = {"log_mse": 1} | dict.fromkeys(("l1", "l2", "whitening", "fourier", "mean", "std", "gradient_x",
                                             "gradient_y", "adversarial"), 0)
    write(folder / "gratings.yaml", {
        "name": "gratings", "samples": 64, "fields": 10, "image": {"size": 48}, "store": {"shard": 16},
        "simulate": {"kind": "images", "folder": "clean", "pixel_size": 0.2},
        "distort": {"expected_counts": 50, "detector": [{"stage": "poisson"}]}})
    write(folder / "tiny.yaml", {
        "name": "tiny", "data": {"recipe": "gratings.yaml", "library": str(folder / "library.zarr")},
        "network": {"layers": 1, "growth": 4, "width": 8, "groups": 1, "blocks": 1, "fourier": 2},
        "stages": [{"name": name, "samples": 8, "batch": 4, "patch": 32, "losses": losses} for name in ("one", "two")],
        "hardware": {"threads": 1, "accelerator": "cpu"}, "validation": {"every": 8, "images": 1, "log": 1}})
    train(TrainingRecipe.load(folder / "tiny.yaml"), folder / "run")
    return folder / "run"


def write(path, content):
    """A recipe."""
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


@pytest.fixture(scope="module")
def tune():
    """Two images of a tuning split."""
    whole = shipped.load("tem_hd_v1_tune")
    return replace(whole, conditions=whole.conditions[:1], codes=whole.codes[:1, :2], scenes=whole.scenes[:2],
                   **{name: getattr(whole, name)[:1, :2] for name in ("step", "offset", "scale")})


@pytest.fixture
def places(tmp_path):
    """A folder of weights, one of pictures, and a page."""
    (tmp_path / "page.md").write_text(PAGE.format("tem_hd") + PAGE.format("stem_hd"))
    return release.Places(tmp_path / "weights", tmp_path / "images", tmp_path / "page.md")


def with_about(run, folder, **changed):
    """A copy of a run whose weights tell something else."""
    shutil.copytree(run, folder)
    network, about = load_weights(run / "weights.safetensors")
    save_weights(folder / "weights.safetensors", network, about | changed)
    return folder


def test_a_finished_training_is_released(run, tune, places):
    """Its weights in half precision, a card that knows them by their SHA-256, and its part of the page, no other's."""
    written = release.release("tem_hd", run, places, pairs=2, tune=tune)
    trained, made = (load_weights(path)[0].state_dict() for path in (run / "weights.safetensors",
                                                                     places.weights / "tem_hd.safetensors"))
    assert all(torch.equal(made[name], tensor.half().float()) for name, tensor in trained.items())
    text = written.read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\nlibrary_name: emsynth\n")
    assert hashlib.sha256((places.weights / "tem_hd.safetensors").read_bytes()).hexdigest() in text
    assert "Not evaluated on a suite yet." in text
    assert "Not finished" not in text
    assert "nan" not in text
    page = places.page.read_text()
    assert page.count("old") == 1
    assert page.endswith(PAGE.format("stem_hd"))
    assert "16 samples" in page
    assert (places.images / "training_tem_hd.png").read_bytes()[:4] == b"\x89PNG"


def test_an_unfinished_training_is_refused(run, tune, places, tmp_path):
    """Unless it is asked for, and then the card says so first."""
    short = with_about(run, tmp_path / "short", samples=8)
    with pytest.raises(TrainingError, match=r"8 of 16 samples; go on with it .*--unfinished"):
        release.release("tem_hd", short, places, tune=tune, pairs=1)
    assert not places.weights.exists()
    text = release.release("tem_hd", short, places, tune=tune, pairs=1, unfinished=True).read_text()
    assert "**Not finished: trained on 8 of 16 samples." in text


def test_weights_of_another_recipe_are_refused(run, tune, places, tmp_path):
    """The card would tell of another training."""
    _, about = load_weights(run / "weights.safetensors")
    other = with_about(run, tmp_path / "other", recipe=about["recipe"] | {"seed": 1234})
    with pytest.raises(TrainingError, match="is not the recipe of the weights beside it"):
        release.release("tem_hd", other, places, tune=tune, pairs=1)


def test_half_precision_must_not_cost(tune, monkeypatch):
    """Weights that half precision holds exactly cost nothing; what restores otherwise, or is too large, is refused."""
    torch.manual_seed(1)
    network = release.halved(CGRDN(TINY))
    found = release.half_cost(network, tune)
    assert (found["images"], found["worst"], found["single"] - found["half"]) == (2, 0.0, 0.0)
    with monkeypatch.context() as patch, torch.no_grad():
        worse = release.halved(network)
        next(worse.parameters()).mul_(30.0)
        patch.setattr(release, "halved", lambda _: worse)
        with pytest.raises(TrainingError, match=r"half precision costs .* dB, and at most 0.01 dB"):
            release.half_cost(network, tune)
    monkeypatch.setattr(release, "MOST", 1000)
    with pytest.raises(TrainingError, match="may be shipped; train a smaller network"):
        release.half_cost(network, tune)


def test_figures_by_detector_are_means_of_its_pairs():
    """What leaves images as they are has the figures of the distorted ones; names of structures may have commas."""
    draw = np.random.default_rng(0)
    pairs = [Pair(truth := draw.random((32, 32), np.float32), truth + noise * draw.random((32, 32), np.float32), None,
                  0.2, name) for noise, name in ((0.1, "Au, HAADF, 10 e/px"), (0.3, "Au, HAADF, 3 e/px"),
                                                 (0.2, "MgO, on a-C, ABF, 1,200 e/px"))]
    found = release.by_detector(lambda images: images, pairs)
    assert {name: of["pairs"] for name, of in found.items()} == {"ABF": 1, "HAADF": 2, "all": 3}
    mean = (pairs[0].before["psnr"] + pairs[1].before["psnr"]) / 2
    assert found["HAADF"]["psnr_distorted"] == pytest.approx(mean)
    assert found["HAADF"]["psnr"] == pytest.approx(mean, abs=1e-3)


@pytest.fixture
def facts(run, suite, baselines):  # noqa: F811
    """A network 3 dB above the oracles, and 4 dB below in one condition."""
    _, about = load_weights(run / "weights.safetensors")
    told = summary(suite, better(baselines, 3.0, ("poisson", 5), -7.0), "net")
    told["acceptance"] = [dict(zip(("criterion", "figure", "asked", "met"), one, strict=True))
                          for one in acceptance(told, (2.0, 4.0))]
    table = dict.fromkeys(("pairs", "psnr", "psnr_distorted", "ssim", "ssim_distorted", "column_error",
                           "column_error_distorted"), 1.0)
    learnt = release.learnt_from(run.parent / "library.zarr")
    return Facts("stem_hd", about, {"fourier": 2}, 1234, 2468, "0" * 64, learnt, {"HAADF": table},
                 {"suite": "s", "images": 1, "single": 30.0, "half": 29.999, "worst": 0.002},
                 told=json.loads(json.dumps(evaluate._plain(told))), shared=("amorphous",))


def test_the_card_tells_where_it_loses(facts):
    """Figures are those of the evaluation; what is not met is said twice, and what is lost by name."""
    text = card(facts)
    assert "Below bm3d (oracle) in 1 conditions: poisson-5 (-4.00 dB)." in text
    broken = "family poisson alone, over bm3d (oracle)"
    assert f"{broken} |" in text
    assert "**no**" in text
    assert f"{broken} (" in text.split("## Known failures")[1]
    assert f"| row_jitter | {facts.told['cuts']['family']['row_jitter']['net']:.2f} |" in text
    assert "by -0.0010 dB, and lowers none by more than 0.0020 dB" in text
    assert "has learnt from amorphous, in other specimens" in text
    assert "recipe was changed on the way" not in text
    assert "changed on the way: at 3,000 samples" in card(replace(facts, changed=[3000]))
    for none in ("nan", "None", "null"):
        assert none not in text


def test_the_page_has_figures_of_the_evaluation(facts):
    """Its PSNR beside those of the oracles, and how many criteria are met."""
    text = fragment(facts, [("curves", "images/x.png")])
    met = [one["met"] for one in facts.told["acceptance"]]
    assert f"{sum(met)} of {len(met)}" in text
    assert f"net {facts.told['overall']['net']['psnr']:.2f} dB" in text
    assert "![curves](images/x.png)" in text


def test_an_evaluation_of_other_weights_is_made_again(facts, tmp_path, monkeypatch):
    """And one of these is read."""
    called = []
    monkeypatch.setattr(evaluate, "evaluate", lambda *given: called.append(given[1]))
    (tmp_path / "stem_hd_v1-stem_hd.json").write_text('{"suite": "stem_hd_v1"}')
    for digest in (facts.sha256, "1" * 64):
        record.write_record(tmp_path / "stem_hd_v1.parquet", {
            "emsynth_bench": record.FORMAT, "restorers": [{"name": "stem_hd", "digest": digest}]})
        told, _ = release.evaluated("stem_hd", tmp_path / "stem_hd.safetensors", tmp_path, facts)
        assert told == {"suite": "stem_hd_v1"}
    assert called == [{"stem_hd": str(tmp_path / "stem_hd.safetensors")}]


def test_a_network_has_a_suite_and_a_part_of_the_page():
    """Another name is refused with what there is."""
    assert release.suite_of("tem_hd") == "tem_hd_v1"
    with pytest.raises(TrainingError, match="there are stem_hd_v1"):
        release.suite_of("hd")
    with pytest.raises(TrainingError, match="has no part for hd"):
        release.filled(PAGE.format("stem_hd"), "hd", "new")


def test_the_library_is_told_as_it_is(run):
    """Ten fields, each in one split."""
    learnt = release.learnt_from(run.parent / "library.zarr")
    assert sum(learnt["fields"].values()) == 10
    assert {name for names in learnt["structures"].values() for name in names} == {f"{n}.npy" for n in range(10)}


def test_a_line_ends_where_other_images_are_validated():
    """Figures of other images do not follow on those before."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    table = pd.DataFrame({"samples": [1, 2, 3], "val_psnr": [20.0, 21.0, 30.0],
                          "val_psnr_distorted": [10.0, 10.0, 15.0]})
    curves._validation(axes, table, "val_psnr", "PSNR", ".2f")
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 2, 1, 1]
    assert curves.changed(table) == [3]
    assert curves.changed(table[:2]) == []


def test_curves_need_metrics(run, tmp_path):
    """Each stage but the first begins at a line; without metrics there is nothing to draw."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    curves._stages(axes, curves.read(run / "metrics.csv"), named=True)
    assert [line.get_xdata()[0] for line in axes.lines] == [0.008]
    assert [text.get_text() for text in axes.texts] == ["one", "two"]
    with pytest.raises(TrainingError, match="there are no metrics"):
        curves.draw(tmp_path, tmp_path / "x.png", "x")
