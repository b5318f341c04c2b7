"""The evaluation of networks: figures that are what they say, on tables whose answers are known."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.networks import evaluate, oracle, pictures
from benchmarks.networks.figures import IDENTITY, acceptance, counting_deviation, summary
from benchmarks.networks.oracle import BM3D, GAUSSIAN
from benchmarks.networks.page import page
from emsynth.benchmark import reference, shipped
from emsynth.benchmark.table import read_table
from emsynth.errors import SuiteError
from emsynth.streams import generator

NAME = "stem_hd_v1"
pytest.importorskip("pyarrow", reason="the committed tables are Parquet, which needs pyarrow")


@pytest.fixture(scope="module")
def suite():
    """Three conditions of a released suite, with all their scenes."""
    whole = shipped.load(NAME)
    rows = [n for n, c in enumerate(whole.conditions) if c.name in ("poisson-3", "poisson-5", "row_jitter-3")]
    return replace(whole, conditions=tuple(whole.conditions[n] for n in rows), codes=whole.codes[rows],
                   step=whole.step[rows], offset=whole.offset[rows], scale=whole.scale[rows])


@pytest.fixture(scope="module")
def baselines(suite):
    """The committed figures of the tuned baselines on them."""
    table = read_table(evaluate.RESULTS / f"{NAME}.parquet")
    names = {f"{c.family}-{c.severity}" for c in suite.conditions}
    return table[(table["family"] + "-" + table["severity"].astype(str)).isin(names)]


def renamed(table, name, other):
    """Rows of one restorer under another name."""
    return table[table["restorer"] == name].assign(restorer=other)


def with_network(baselines, network):
    """The tuned baselines stand for their oracles."""
    return pd.concat([network, renamed(baselines, "bm3d", BM3D), renamed(baselines, "gaussian", GAUSSIAN),
                      renamed(baselines, IDENTITY, IDENTITY)], ignore_index=True)


def better(baselines, gain, condition=None, change=0.0):
    """What oracle BM3D does and some dB more, and in one condition some dB more or less than that."""
    made = renamed(baselines, "bm3d", "net")
    raised = made["metric"] == "psnr"
    made.loc[raised, "value"] += gain
    if condition is not None:
        at = raised & (made["family"] == condition[0]) & (made["severity"] == condition[1])
        made.loc[at, "value"] += change
    return with_network(baselines, made)


def test_the_mean_is_over_images_then_conditions(suite, baselines):
    """As it is defined, from the table itself."""
    told = summary(suite, better(baselines, 3.0), "net")
    psnr = reference.figures(suite, baselines, "bm3d", "psnr")
    assert told["overall"][BM3D]["psnr"] == pytest.approx(psnr.mean(axis=1).mean())
    by_error = -20 * np.log10((10 ** (-psnr / 20)).mean(axis=1))
    assert told["overall"][BM3D]["psnr_of_mean_error"] == pytest.approx(by_error.mean())
    position = reference.figures(suite, baselines, "bm3d", "column_error")
    assert told["overall"][BM3D]["column_error"] == pytest.approx(np.nanmean(position, axis=1).mean())


def test_a_gain_everywhere_is_that_gain_everywhere(suite, baselines):
    """In every cut, with nothing lost."""
    told = summary(suite, better(baselines, 3.0), "net")
    for title, cut in told["cuts"].items():
        for label, of in cut.items():
            assert of["net"] - of[BM3D] == pytest.approx(3.0), (title, label)
    assert set(told["cuts"]["electrons per pixel"]) == {"1 to 10", "10 to 100", "1000 to 10000"}
    assert list(told["gain"].values()) == pytest.approx([3.0] * 3)
    assert not any(told["loses"][BM3D].values())


def test_a_loss_is_found(suite, baselines):
    """In the condition where it is, and nowhere else; the criterion that it breaks is not met."""
    told = summary(suite, better(baselines, 3.0, ("poisson", 5), -7.0), "net")
    assert told["loses"][BM3D]["conditions"] == [("poisson-5", pytest.approx(-4.0))]
    assert {name.split(" in ")[1] for name, _ in told["loses"][BM3D]["contents in conditions"]} == {"poisson-5"}
    met = {what: met for what, _, _, met in acceptance(told, (2.0, 4.0))}
    assert not met[f"family poisson alone, over {BM3D}"]
    whole = {what: met for what, _, _, met in acceptance(summary(suite, better(baselines, 3.0), "net"), (2.0, 4.0))}
    assert whole[f"family poisson alone, over {BM3D}"]
    assert whole[f"mean PSNR over {BM3D}"]


def test_the_counting_deviation_is_that_of_counted_images(suite):
    """Of the means of many images with the condition's noise; the spread of 400 is known to 3.5 %."""
    condition = replace(suite.conditions[0], expected_counts=5.0, excess=1.0, variance=4.0)
    noise = generator(0, 0, "test.evaluate.counting")
    images = noise.poisson(5.0, (400, 16, 16)) + noise.normal(0, 2.0, (400, 16, 16))
    spread = 100 * images.mean((1, 2)).std() / 5.0
    assert counting_deviation(condition, 256) == pytest.approx(spread, rel=4 * 0.035)


def test_what_leaves_images_alone_keeps_their_mean(suite, baselines):
    """Poisson noise moves no mean by more than three of its deviations; a bias of 2 % does."""
    made = renamed(baselines, IDENTITY, "net")
    kept = summary(suite, with_network(baselines, made), "net")["mean"]["net"]
    assert (kept["within_counting"], kept["within_sound"]) == (1.0, 1.0)
    made.loc[made["metric"] == "mean_bias_signed", "value"] += 2.0
    moved = summary(suite, with_network(baselines, made), "net")["mean"]["net"]
    assert moved["bias"] == pytest.approx(kept["bias"] + 2.0)
    assert moved["within_counting"] < 0.6


def test_responses_are_slopes_with_intervals(suite, baselines):
    """An untouched image under little noise returns what is there."""
    told = summary(suite, with_network(baselines, renamed(baselines, IDENTITY, "net")), "net")
    for kind, (value, low, high) in told["responses"]["3"]["net"].items():
        assert low < value < high, kind
        assert value == pytest.approx(1.0, abs=0.3), kind
    assert set(told["responses"]["3"]["net"]) == {"shift", "dopant", "vacancy"}


def test_a_table_of_another_suite_is_refused(suite, tmp_path):
    """And one that is missing, with the way to make it."""
    with pytest.raises(SuiteError, match=r"python -m benchmarks.networks.oracle stem_hd_v1"):
        oracle.kept(suite, tmp_path)
    for suffix in (".parquet", ".parquet.json"):
        shutil.copy(evaluate.RESULTS / f"{NAME}{suffix}", tmp_path / f"{NAME}{suffix}")
    with pytest.raises(SuiteError, match="belongs to a suite of digest"):
        oracle.kept(replace(suite, digest="0" * 64), tmp_path)


def test_from_a_restorer_to_its_page(suite, baselines, tmp_path, monkeypatch):
    """A baseline stands in for a network; figures agree with its own table, and nothing is left open in the page."""
    monkeypatch.setattr(pictures, "_BESIDE", "gaussian")
    kept = tmp_path / "kept"
    kept.mkdir()
    both = pd.concat([baselines, renamed(baselines, "bm3d", BM3D), renamed(baselines, "gaussian", GAUSSIAN)])
    both.to_parquet(kept / f"{NAME}.parquet", index=False)
    shutil.copy(evaluate.RESULTS / f"{NAME}.parquet.json", kept / f"{NAME}.parquet.json")
    told = evaluate.evaluate(suite, {"net": "gaussian"}, tmp_path / "out", results=kept, oracles=kept)["net"]
    assert told["overall"]["net"]["psnr"] == pytest.approx(told["overall"][GAUSSIAN]["psnr"], abs=1e-6)
    written = json.loads((tmp_path / "out" / f"{NAME}-net.json").read_text())
    assert written["overall"]["net"]["psnr"] == pytest.approx(told["overall"]["net"]["psnr"], rel=1e-5)
    text = (tmp_path / "out" / f"{NAME}-net.md").read_text()
    assert text == page(told, evaluate.TARGETS["cpu"], [f"{NAME}-net-gain.png", f"{NAME}-net-hardest.png"])
    assert "nan" not in text
    for part in ("gain", "hardest"):
        assert (tmp_path / "out" / f"{NAME}-net-{part}.png").read_bytes()[:4] == b"\x89PNG"
