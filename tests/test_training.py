"""The trainer: what a recipe may say, and that a training goes on as if it had never stopped."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ruamel.yaml import YAML

from emsynth.errors import NetworkError, RecipeError, StoreExistsError, TrainingError

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (extra train)")

from emsynth.networks.weights import about_weights, load_weights  # noqa: E402
from emsynth.training import requirements, state  # noqa: E402
from emsynth.training import train as trainer  # noqa: E402
from emsynth.training.data import Feed, field_library, standardised  # noqa: E402
from emsynth.training.folder import alone_in  # noqa: E402
from emsynth.training.recipe import Stage, TrainingRecipe  # noqa: E402
from emsynth.training.train import train  # noqa: E402

PIXELS = {"l1": 1, "l2": 0, "whitening": 0, "fourier": 0, "mean": 0, "std": 0, "gradient_x": 0, "gradient_y": 0,
          "adversarial": 0}
STOP_AFTER = 7  # steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten images of gratings, a building recipe of them, and the training recipe of a network of 1,000 parameters."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "clean").mkdir()
    at = np.arange(96)
    for n in range(10):
        rows, cols = np.cos(at / (2 + n / 5)), np.cos(at / (3 + n / 7))
        np.save(folder / "clean" / f"{n}.npy", (1.5 + rows[:, None] * cols[None]).astype(np.float32))
    write(folder / "gratings.yaml", {
        "name": "gratings", "samples": 64, "fields": 10, "image": {"size": 48}, "store": {"shard": 16},
        "simulate": {"kind": "images", "folder": "clean", "pixel_size": 0.2},
        "distort": {"expected_counts": {"dist": "log_uniform", "low": 5, "high": 500},
                    "scan": [{"stage": "row_jitter", "sigma": 0.3}], "detector": [{"stage": "poisson"}]}})
    write(folder / "tiny.yaml", {
        "name": "tiny", "seed": 3, "data": {"recipe": "gratings.yaml", "library": str(folder / "library.zarr")},
        "network": {"layers": 1, "growth": 4, "width": 8, "groups": 1, "blocks": 1, "fourier": 2},
        "stages": [{"name": "pixels", "samples": 40, "batch": 4, "patch": 32, "losses": PIXELS,
                    "rate": {"warm_up": 3}},
                   {"name": "gan", "samples": 16, "batch": 4, "patch": 32}],
        "hardware": {"threads": 1, "accelerator": "cpu"}, "validation": {"every": 20, "images": 2, "log": 3}})
    field_library(load(folder))
    return folder


def write(path, content):
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def load(folder, *overrides):
    return TrainingRecipe.load(folder / "tiny.yaml", overrides)


@pytest.fixture(scope="module")
def whole(folder):
    """A training that nobody stopped."""
    train(load(folder), folder / "whole")
    return folder / "whole"


def rows(run):
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stop_after(monkeypatch, steps):
    """Stop a training as Ctrl-C would, after some steps."""
    learnt = trainer.Run.step

    def counted(run, *given):
        found = learnt(run, *given)
        if run.progressed.steps + 1 == steps:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(trainer.Run, "step", counted)


def test_a_run_leaves_what_a_user_needs(whole):
    """Weights that load, the recipe, the metrics, a picture of each validation, the checkpoint."""
    network, about = load_weights(whole / "weights.safetensors")
    assert network.size.fourier == 2
    assert about["samples"] == 56
    assert about["name"] == "tiny"
    assert np.isfinite(about["validation"]["psnr"])
    assert {p.name for p in whole.iterdir()} == {"weights.safetensors", "recipe.yaml", "metrics.csv",
                                                 "checkpoint.safetensors", "validation"}
    assert len(list((whole / "validation").glob("*.png"))) == 3
    assert TrainingRecipe.load(whole / "recipe.yaml").digest == about["digest"]


def test_the_table_has_every_loss_of_its_stage(whole):
    """Parts by name, the discriminator's too, and the validation's figures."""
    table = rows(whole)
    last = [row for row in table if row["stage"] == "gan" and row["loss"]][-1]
    assert all(float(last[name]) >= 0 for name in ("l1", "whitening", "fourier", "adversarial", "discriminator"))
    assert [int(row["step"]) for row in table if row["val_psnr"]] == [5, 10, 14]
    assert [int(row["step"]) for row in table if row["loss"]] == [3, 6, 9, 10, 12, 14]


@pytest.mark.parametrize("steps", [STOP_AFTER, 10, 12])
def test_a_stopped_training_goes_on_bit_by_bit(folder, whole, tmp_path, monkeypatch, steps):
    """Within a stage, between two, and within the one with a discriminator: same weights, same losses, same state."""
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {steps}; go on with --resume"):
            train(load(folder), tmp_path)
    train(load(folder), tmp_path, resume=True)
    assert same(tmp_path / "checkpoint.safetensors", whole / "checkpoint.safetensors")
    assert same(tmp_path / "weights.safetensors", whole / "weights.safetensors")
    told = [{name: value for name, value in row.items() if name not in ("samples_per_second", "waiting")}
            for row in rows(tmp_path) if not row["loss"]]
    assert told == [{name: value for name, value in row.items() if name not in ("samples_per_second", "waiting")}
                    for row in rows(whole) if not row["loss"]]


def same(one, other):
    """Whether two safetensors files hold the same numbers, bit by bit; what is written about them has times."""
    from safetensors.torch import load_file

    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_kill_9_loses_nothing_but_time(folder, tmp_path):
    """Of a process that is killed between checkpoints, the weights come out bit by bit as of one that is not."""
    recipe = load(folder).content() | {"checkpoint": 1e-5}
    recipe["data"]["recipe"] = str(folder / "gratings.yaml")
    write(tmp_path / "tiny.yaml", recipe)
    begin = [sys.executable, "-m", "emsynth", "train", str(tmp_path / "tiny.yaml"), "--out"]
    command = [*begin, str(tmp_path / "run")]
    # Another process too: what a test before this one has loaded may move the last bits of this one's transforms.
    subprocess.run([*begin, str(tmp_path / "whole")], capture_output=True, check=True)
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'run' / 'weights.safetensors'}\n"
    assert same(tmp_path / "run" / "weights.safetensors", tmp_path / "whole" / "weights.safetensors")


def test_a_loss_that_is_no_number_is_kept(folder, tmp_path, monkeypatch):
    """The step, the samples, and the very batch."""
    learnt, given = trainer.generator_loss, []

    def lost(basket, restored, truth, logits):
        given.append(truth)
        loss, parts = learnt(basket, restored, truth, logits)
        wrong = loss * float("nan")
        return (wrong, parts | {"l1": wrong.detach()}) if len(given) == 3 else (loss, parts)

    monkeypatch.setattr(trainer, "generator_loss", lost)
    with pytest.raises(TrainingError, match=r"step 3 .*: the loss is not a number \(l1, gradient\)") as caught:
        train(load(folder), tmp_path)
    with np.load(tmp_path / "lost_step_000003_rank_0.npz") as kept:
        assert np.array_equal(kept["truth"], given[-1].numpy())
        assert ", ".join(map(str, kept["index"])) in str(caught.value)


def test_what_has_not_begun_may_change(folder, tmp_path, monkeypatch):
    """A later stage is another one; an earlier one, or the network, is refused."""
    with monkeypatch.context() as patch:
        stop_after(patch, STOP_AFTER)
        with pytest.raises(KeyboardInterrupt):
            train(load(folder), tmp_path)
    for other, key in (("stages.pixels.batch=2", "stages.0.batch"), ("network.growth=5", "network.growth"),
                       ("seed=4", "seed"), ("data.set=[distort.expected_counts=9]", "data.building")):
        with pytest.raises(TrainingError, match=f"is of another training: {key} changed since"):
            train(load(folder, other), tmp_path, resume=True)
    train(load(folder, "stages.gan.samples=8", "stages.pixels.rate.peak=1e-4", "hardware.precision=bf16-mixed"),
          tmp_path, resume=True)
    assert about_weights(tmp_path / "weights.safetensors")[1]["samples"] == 48


def test_a_later_stage_may_bring_a_discriminator(folder, tmp_path, monkeypatch):
    """Of which a checkpoint of the earlier ones knows nothing."""
    with monkeypatch.context() as patch:
        stop_after(patch, STOP_AFTER)
        with pytest.raises(KeyboardInterrupt):
            train(load(folder, "stages.gan.losses.adversarial=0"), tmp_path)
    train(load(folder), tmp_path, resume=True)
    assert any(name.startswith("critic/") for name in state._read(tmp_path / "checkpoint.safetensors")[1])


def test_a_gradient_that_is_no_number_spares_the_checkpoint(folder, tmp_path, monkeypatch):
    """The step is named, and what was learnt before it is gone on with."""
    descended = trainer.Run.descend

    def broken(run, module, adam, rate, clip):
        if run.progressed.steps == 4:
            next(module.parameters()).grad.fill_(float("inf"))
        return descended(run, module, adam, rate, clip)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "descend", broken)
        with pytest.raises(TrainingError, match=r"step 5 \(stage pixels\): the loss is not a number \(gradient\)"):
            train(load(folder, "checkpoint=1e-9"), tmp_path)
    assert state._read(tmp_path / "checkpoint.safetensors")[0]["progressed"]["steps"] == 4
    train(load(folder), tmp_path, resume=True)


def test_one_training_at_a_time(folder, tmp_path):
    """A second one in the same folder is told so, and leaves everything alone."""
    with alone_in(tmp_path, False, True), pytest.raises(TrainingError, match="another training is at work in it"):
        train(load(folder), tmp_path)
    assert not (tmp_path / "metrics.csv").exists()


def test_little_memory_is_told(folder):
    """Rather than a training on the first fields alone."""
    with pytest.raises(TrainingError, match=r"data\.memory: 1e-06 GB do not hold the fields"):
        Feed(load(folder, "data.memory=1e-6"), folder / "library.zarr", 0)


@pytest.mark.parametrize(("wrong", "said"), [
    ("hardware.accelerator=cuda", r"hardware: cuda with 1 devices .* cannot be had here \(available: cpu"),
    ("hardware.precision=16-mixed", "hardware.precision: 16-mixed is for GPUs")])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_hardware_that_is_not_there_is_named(folder, wrong, said):
    """In a line, before anything is simulated."""
    with pytest.raises(TrainingError, match=said):
        trainer.check_hardware(load(folder, wrong))


def test_two_runs_in_one_folder_are_refused(folder, whole):
    """Nothing that was learnt is written over."""
    with pytest.raises(StoreExistsError, match="there is a run already; go on with --resume"):
        train(load(folder), whole)
    with pytest.raises(TrainingError, match="there is no checkpoint; leave --resume out"):
        train(load(folder), whole / "nothing", resume=True)


def test_a_damaged_checkpoint_is_named(folder, whole, tmp_path):
    """Not what safetensors says of it."""
    found = (whole / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(found[:len(found) // 2])
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors: is no checkpoint of a training, or a damaged"):
        train(load(folder), tmp_path, resume=True)


def test_the_average_follows_the_weights(folder, tmp_path):
    """Without an average the weights of the last step are kept; with one, weights that lag behind."""
    train(load(folder, "average=0", "stages=[{name: a, samples: 16, batch: 4, patch: 32, losses: {adversarial: 0}}]"),
          tmp_path / "none")
    train(load(folder, "stages=[{name: a, samples: 16, batch: 4, patch: 32, losses: {adversarial: 0}}]"),
          tmp_path / "some")
    header, kept = state._read(tmp_path / "some" / "checkpoint.safetensors")
    plain, averaged = load_weights(tmp_path / "none" / "weights.safetensors")[0].state_dict(), load_weights(
        tmp_path / "some" / "weights.safetensors")[0].state_dict()
    assert header["progressed"]["steps"] == 4
    for name, value in plain.items():
        assert torch.equal(value, kept[f"network/{name}"])
        assert torch.equal(averaged[name], kept[f"average/{name}"])
    assert any(not torch.equal(plain[name], averaged[name]) for name in plain)


def test_a_training_may_begin_with_other_weights(folder, whole, tmp_path):
    """Those of the file, as far as they are of the same network."""
    start = f"network.start={whole / 'weights.safetensors'}"
    tuned = load(folder, start, "stages=[{name: a, samples: 4, batch: 4, patch: 32, rate: {peak: 1e-12, warm_up: 0}}]",
                 "average=0")
    train(tuned, tmp_path / "run")
    before, after = (load_weights(run / "weights.safetensors")[0].state_dict() for run in (whole, tmp_path / "run"))
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    with pytest.raises(TrainingError, match=r"network\.start: .*is of Size"):
        train(load(folder, start, "network.growth=5"), tmp_path / "other")
    with pytest.raises(NetworkError, match="there is no such file"):
        train(load(folder, "network.start=nothing.safetensors"), tmp_path / "none")


def test_the_rate_rises_and_falls():
    """A linear warm-up; a cosine to its floor; an exponential by samples, over all ranks."""
    stage = Stage.model_validate({"name": "a", "samples": 8000, "batch": 8, "rate": {"peak": 1e-3, "warm_up": 10}})
    rates = [stage.rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3, rel=1e-2)
    assert stage.rate_at(1000, 1000) == pytest.approx(1e-5)
    assert stage.rate_at(505, 1000) < stage.rate_at(495, 1000)
    falling = Stage.model_validate({"name": "a", "samples": 8000, "batch": 8, "rate": {
        "peak": 1, "warm_up": 0, "decay": "exponential", "factor": 0.5, "per": 160}})
    assert [falling.rate_at(step, 1000, world) for step, world in ((0, 1), (20, 1), (10, 2))] == [1, 0.5, 0.5]


@pytest.mark.parametrize(("wrong", "said"), [
    ("stages.pixels.patch=300", r"stages\.0\.patch: 300 px is more than the 48 px of the windows"),
    ("stages.pixels.patch=31", r"stages\.0\.patch: 31 px is odd"),
    ("stages.gan.patch=20", r"stages\.1\.patch: 20 px is too small for the discriminator"),
    ("stages.gan.name=pixels", r"stages\.1\.name: 'pixels' is the name of an earlier stage"),
    ("hardware.devices=0", r"hardware\.devices"),
    ("network.layer=3", r"network\.layer: unknown key; did you mean 'layers'\?"),
    ("data.recipe=stem_hdd", r"stem_hdd: no such file, and no shipped recipe has that name; did you mean stem_hd\?"),
    ("data.set=[image.sise=3]", r"data\.set: image\.sise=3: image\.sise: unknown key; did you mean 'size'"),
    ("stages.pixels.losses.l1=-1", r"losses\.l1: -1 is too small: at least 0"),
    ("stages=[]", "at least 1 needed"),
])
def test_a_recipe_says_what_is_wrong_with_it(folder, wrong, said):
    """The place, the value, what is allowed."""
    with pytest.raises(RecipeError, match=said):
        load(folder, wrong)


def test_a_building_recipe_is_no_training_recipe(folder):
    """And says for which verb it is."""
    with pytest.raises(RecipeError, match=r"is no training recipe; it is a building recipe, for emsynth build$"):
        TrainingRecipe.load(folder / "gratings.yaml")
    with pytest.raises(RecipeError, match=r"for emsynth build; train_stem_hd trains on it$"):
        TrainingRecipe.load("stem_hd")


@pytest.mark.parametrize("name", ["train_stem_hd", "train_tem_hd"])
def test_shipped_training_recipes_are_valid(name):
    """And ask for networks that fit into 15 MB at half precision."""
    from emsynth.networks.cgrdn import CGRDN, Size

    recipe = TrainingRecipe.load(name)
    assert 2 * CGRDN(Size(**recipe.network.model_dump(exclude={"start"}))).parameters_in_all < 15e6


def test_a_library_of_another_recipe_is_refused(folder):
    """Its fields are not what the training recipe speaks of."""
    with pytest.raises(TrainingError, match=r"data\.library: .*has the fields of another recipe"):
        field_library(load(folder, "data.set=[image.size=64]"))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_any_step_on(folder, workers):
    """With threads or with processes, from the beginning or from the middle."""
    recipe = load(folder, "data.threads=2", f"data.workers={workers}")
    plain = Feed(load(folder, "data.threads=0"), folder / "library.zarr", 0).batches(0)
    expected = [next(plain) for _ in range(4)]
    feed = Feed(recipe, folder / "library.zarr", 0)
    for first in (0, 2):
        batches = feed.batches(first)
        for before in expected[first:]:
            batch = next(batches)
            assert batch.samples.tolist() == before.samples.tolist()
            assert torch.equal(batch.distorted, before.distorted)
            assert torch.equal(batch.truth, before.truth)
        batches.close()


def test_pairs_are_in_units_of_the_distorted_image():
    """Mean 0 and deviation 1, the truth alike; what is constant is not divided by nothing."""
    image = torch.tensor(np.random.default_rng(1).normal(60000, 3, (2, 1, 32, 32)), dtype=torch.float32)
    image[1] = 7.0
    pairs = standardised({"distorted": image, "truth": image + 3, "index": np.arange(2)})
    assert abs(float(pairs.distorted[0].mean())) < 1e-4
    assert float(pairs.distorted[0].std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert float((pairs.truth - pairs.distorted)[0].mean()) == pytest.approx(
        3 / float(image[0].std(correction=0)), 1e-3)
    assert pairs.distorted[1].abs().max() == 0
    assert torch.isfinite(pairs.truth).all()


def test_a_missing_package_is_named(monkeypatch):
    """With what to install."""
    monkeypatch.setattr(requirements, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(TrainingError, match=r"needs no_such_package, which is not installed; pip install"):
        requirements.check_installed()


def test_several_processes_share_samples_and_gradients(folder, tmp_path):
    """Two ranks of DDP learn what one loop learns from both their batches."""
    recipe = load(folder, "hardware.devices=2", "average=0", "stages.pixels.samples=32").content()
    recipe["data"]["recipe"] = str(folder / "gratings.yaml")
    recipe["stages"] = recipe["stages"][:1]
    write(tmp_path / "two.yaml", recipe)
    done = subprocess.run([sys.executable, "-m", "emsynth", "train", str(tmp_path / "two.yaml"), "--out",
                           str(tmp_path / "run")], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == str(tmp_path / "run" / "weights.safetensors")
    learnt, about = load_weights(tmp_path / "run" / "weights.safetensors")
    assert (about["steps"], about["samples"]) == (4, 32)
    expected = by_hand(TrainingRecipe.load(tmp_path / "two.yaml"), folder / "library.zarr", 4)
    for name, value in learnt.state_dict().items():
        assert torch.allclose(value, expected[name], atol=2e-6), name


def by_hand(recipe, library, steps):
    """What two ranks should learn, in one plain loop."""
    torch.manual_seed(trainer.stream_key(recipe.seed, 0, "training.weights") >> 65)
    network, stage = trainer.starting_network(recipe), recipe.stages[0]
    adam = torch.optim.Adam(network.parameters(), eps=recipe.optimiser.epsilon)
    feeds = [Feed(recipe, library, 0, rank, 2).batches(0) for rank in (0, 1)]
    for step in range(steps):
        adam.param_groups[0]["lr"] = stage.rate_at(step, steps, 2)
        losses = [trainer.generator_loss(stage.losses, network(pairs.distorted), pairs.truth)[0]
                  for pairs in map(next, feeds)]
        adam.zero_grad()
        (sum(losses) / 2).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), stage.clip)
        adam.step()
    return network.state_dict()
