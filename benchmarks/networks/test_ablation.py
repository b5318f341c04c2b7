"""Networks at equal time: clocks that are fair, batches that are shared, and a page that says what the figures say."""

from __future__ import annotations

import copy
import csv
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from emsynth.errors import TrainingError

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (extra train)")

from benchmarks.networks import turns  # noqa: E402
from benchmarks.networks.ablation import VARIANTS, Variant, ablation, recipe_of  # noqa: E402
from benchmarks.networks.ablation_page import page  # noqa: E402
from benchmarks.networks.empty import NOISE, WHITE, empty_images, in_one  # noqa: E402
from emsynth.training.data import field_library  # noqa: E402
from emsynth.training.recipe import TrainingRecipe  # noqa: E402
from emsynth.training.train import Run  # noqa: E402
from tests.toy_suite import toy_suite  # noqa: E402

# Binary fractions, so that sums of them are exact: 15 slow or 30 quick steps in each of two stages.
MINUTES = 2**-7
COST = {"exact": 2**-7, "fourier": 2**-6}  # s of a step, as the clocks of these tests see it
PIXELS = {"l1": 1, "l2": 0, "whitening": 0, "fourier": 0, "mean": 0, "std": 0, "gradient_x": 0, "gradient_y": 0,
          "adversarial": 0}
TWO = {"exact": Variant("none", {"fourier": 0}), "fourier": Variant("some", {"fourier": 2})}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A training recipe of two stages, a network of 1,000 parameters and ten images of gratings."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "clean").mkdir()
    at = np.arange(96)
    for n in range(10):
        rows, cols = np.cos(at / (2 + n / 5)), np.cos(at / (3 + n / 7))
        np.save(folder / "clean" / f"{n}.npy", (1.5 + rows[:, None] * cols[None]).astype(np.float32))
    write(folder / "gratings.yaml", {
        "name": "gratings", "samples": 64, "fields": 10, "image": {"size": 32}, "store": {"shard": 16},
        "simulate": {"kind": "images", "folder": "clean", "pixel_size": 0.2},
        "distort": {"expected_counts": 50, "detector": [{"stage": "poisson"}]}})
    write(folder / "tiny.yaml", {
        "name": "tiny", "seed": 3, "data": {"recipe": "gratings.yaml", "library": str(folder / "library.zarr")},
        "network": {"layers": 1, "growth": 4, "width": 8, "groups": 1, "blocks": 1, "fourier": 2},
        "stages": [{"name": "patches", "samples": 64, "batch": 4, "patch": 16, "losses": PIXELS,
                    "rate": {"warm_up": 0, "decay": "none"}},
                   {"name": "windows", "samples": 16, "batch": 2, "losses": PIXELS, "rate": {"warm_up": 0}}],
        "hardware": {"threads": 1, "accelerator": "cpu"}, "validation": {"images": 2, "log": 1}})
    recipe = TrainingRecipe.load(folder / "tiny.yaml")
    field_library(recipe)
    return recipe


def write(path, content):
    """A recipe's file."""
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def recipes(base, rate=None):
    """The two variants, with one learning rate where it is given."""
    found = {name: recipe_of(base, name, variant) for name, variant in TWO.items()}
    if rate is None:
        return found
    return {name: recipe.model_copy(update={"stages": tuple(
        stage.model_copy(update={"rate": stage.rate.model_copy(update={"decay": rate})})
        for stage in recipe.stages)}) for name, recipe in found.items()}


@pytest.fixture
def clock(monkeypatch):
    """Processor time that only steps and batches take; returns which samples each network has learnt from."""
    now, seen = [0.0], {name: [] for name in COST}
    learnt, made = Run.step, turns.Feed.batches

    def step(run, stage, pairs, rate):
        now[0] += COST[run.recipe.name]
        seen[run.recipe.name].append((stage.name, *pairs.samples.tolist()))
        return learnt(run, stage, pairs, rate)

    def batches(feed, first):
        for pairs in made(feed, first):
            now[0] += 0.5
            yield pairs

    monkeypatch.setattr(Run, "step", step)
    monkeypatch.setattr(turns.Feed, "batches", batches)
    monkeypatch.setattr(turns.time, "process_time", lambda: now[0])
    return seen


def test_all_have_the_same_time(base, clock, tmp_path):
    """Of the processor, for learning alone: at half the pace half the steps, in each stage."""
    found = turns.train_in_turns(recipes(base), tmp_path, MINUTES, turn=0.1)
    for name, of in found.items():
        assert of["seconds"] == 60 * MINUTES
        assert of["steps"] == len(clock[name])
    for stage in ("patches", "windows"):
        quick, slow = (sum(one[0] == stage for one in clock[name]) for name in ("exact", "fourier"))
        assert (quick, slow) == (30, 15)  # the recipe has as many pixels in one stage as in the other


def test_all_learn_from_the_same_batches(base, clock, tmp_path):
    """In the same order, however far they are, and those of a stage are not those of another."""
    turns.train_in_turns(recipes(base), tmp_path, MINUTES, turn=0.06)
    for stage in ("patches", "windows"):
        quick, slow = ([one for one in clock[name] if one[0] == stage] for name in ("exact", "fourier"))
        assert quick[:len(slow)] == slow
        assert len(set(quick)) == len(quick)


def test_what_was_cut_off_goes_on(base, clock, tmp_path, monkeypatch):
    """To the same weights, bit by bit; and what is finished is left as it is."""
    whole = turns.train_in_turns(recipes(base, "none"), tmp_path / "whole", MINUTES, turn=0.1)
    plain, count = Run.step, [0]

    def stopped(run, *given):
        count[0] += 1
        if count[0] == 23:
            signal.raise_signal(signal.SIGINT)
        return plain(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            turns.train_in_turns(recipes(base, "none"), tmp_path / "cut", MINUTES, turn=0.1)
    with pytest.raises(TrainingError, match=r"was begun with 0\.0078125 minutes"):
        turns.train_in_turns(recipes(base, "none"), tmp_path / "cut", 2 * MINUTES)
    cut = turns.train_in_turns(recipes(base, "none"), tmp_path / "cut", MINUTES, turn=0.1)
    for name in TWO:
        assert same(whole[name]["weights"], cut[name]["weights"])
        assert cut[name]["steps"] == whole[name]["steps"]
    before = len(clock["exact"])
    turns.train_in_turns(recipes(base, "none"), tmp_path / "cut", MINUTES)
    assert len(clock["exact"]) == before


def same(one, other):
    """Whether two files of weights hold the same numbers."""
    from safetensors.torch import load_file

    left, right = load_file(one), load_file(other)
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_rate_falls_to_its_end_in_time(base, clock, tmp_path):
    """A cosine, of networks that make a different number of steps."""
    turns.train_in_turns(recipes(base, "cosine"), tmp_path, MINUTES, turn=0.05)
    for name in TWO:
        with (tmp_path / name / "metrics.csv").open(encoding="utf-8") as file:
            rates = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"] and row["stage"] == "windows"]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > 0.9e-3
        assert rates[-1] < 0.15e-3


def test_a_variant_changes_what_it_says():
    """The Fourier units; the losses of all stages; the specimens, and nothing else about the data."""
    base = TrainingRecipe.load("train_tem_hd")
    exact, basket, lattices = (recipe_of(base, name, VARIANTS[name])
                               for name in ("exact", "fourier_basket", "fourier_lattices"))
    assert exact.network == base.network.model_copy(update={"fourier": 0})
    assert exact.stages == base.stages
    assert {(stage.losses.l1, stage.losses.log_mse, stage.losses.adversarial) for stage in basket.stages} == {(5, 0, 0)}
    members = lattices.data.building.specimen.members
    assert {(member.specimen.kind, member.contamination) for member in members} == {("crystal", None)}
    assert lattices.data.building.image.perfect == 1
    assert lattices.data.chains() == base.data.chains()
    assert lattices.library != base.library


def test_lattices_that_are_not_there_are_refused(base):
    """Of a recipe without a mixture."""
    with pytest.raises(TrainingError, match="gratings has no mixture with a crystal in it"):
        recipe_of(base, "lattices", VARIANTS["exact_lattices"])


def test_one_wave_is_told_from_noise():
    """It has half of its power in each of two coefficients; white noise about ln N in N."""
    row = np.arange(64)
    assert in_one(np.cos(2 * np.pi * row * 5 / 64)[:, None] * np.ones(64) + 7) == pytest.approx(0.5)
    assert in_one(np.full((8, 8), 3.0)) == 0
    shares = [in_one(image) for image in empty_images((128, 128))[WHITE]]
    # The largest of N/2 exponential variables, each of which a pair of coefficients shares.
    assert np.mean(shares) == pytest.approx((np.log(128**2 / 2) + 0.577) / 128**2, rel=0.3)


@pytest.fixture(scope="module")
def told(base, tmp_path_factory):
    """All of an ablation of two networks on a toy suite."""
    return ablation(base, toy_suite(families=("poisson",), severities=(3,)), TWO, 1.0 / 60,
                    tmp_path_factory.mktemp("told"), turn=0.5)


def test_from_a_recipe_to_the_page(told):
    """Every variant with its figures, and nothing left open."""
    text = page(told)
    assert "nan" not in text
    for name in TWO:
        assert f"| {name} | {TWO[name].about} | {told['trained'][name]['parameters']:,} |" in text
        assert np.isfinite(told["judged"][name]["overall"]["psnr"])
    assert told["empty"][NOISE][WHITE]["left"] == 1
    assert Path(told["trained"]["exact"]["weights"]).exists()


def test_findings_say_what_the_figures_say(told):
    """Two decibels more in one content and one less in another, and twice the false structure."""
    made = copy.deepcopy(told)
    of = made["judged"]["fourier"] = copy.deepcopy(made["judged"]["exact"])
    made["empty"]["fourier"] = copy.deepcopy(made["empty"]["exact"])
    of["overall"]["psnr"] += 0.5
    of["cuts"]["content"]["lattice"] += 2
    of["cuts"]["content"]["amorphous"] -= 1
    of["hallucination"]["amorphous"]["false_structure"] *= 2
    found = next(line for line in page(made).splitlines() if line.startswith("**Fourier units ("))
    assert "mean PSNR +0.50 dB" in found
    assert re.search(r"Better in 1 of \d contents; most in lattice \+2\.00 dB; worst in amorphous -1\.00 dB\.", found)
    assert "Invents more: false structure in amorphous scenes" in found
    assert "Invents less" not in found
