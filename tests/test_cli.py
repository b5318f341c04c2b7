"""The command line: what each verb says, where, and with which exit code; the pictures of a preview."""

from __future__ import annotations

import base64
import dataclasses
import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import fakes
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from emsynth import __version__, budget, builder, store
from emsynth.builder.repetition import Replay
from emsynth.cli import app
from emsynth.cli.progress import Watch, spoken_size, spoken_time
from emsynth.cli.schema import recipe_schema, training_schema
from emsynth.distortion import Chain, MaskBit, Poisson
from emsynth.errors import StoreError
from emsynth.preview import report, sheet
from emsynth.preview.caption import caption
from emsynth.preview.resolved import rows
from emsynth.recipe import Recipe
from emsynth.training.recipe import TrainingRecipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
VERBS = ("build", "check", "preview", "show", "verify", "replay", "distort", "schema", "card", "export", "datasets",
         "train", "restore")
HEAVY = ("abtem", "ase", "dask", "matplotlib", "numba", "numpy", "pydantic", "ruamel", "scipy", "torch", "xarray",
         "zarr")
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(a) for a in arguments])


def text_of(**changes: object) -> str:
    plain = {"name": "small", "samples": 12, "fields": 2, "image": {"size": 32, "pixel_size": 0.2},
             "specimen": {"kind": "crystal", "structure": "Au", "thickness": 20}} | changes
    return json.dumps(plain)  # JSON is YAML


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(text_of())
    return path


def fake_sample(recipe: Recipe, index: int, field=None):
    return dataclasses.replace(fakes.render(recipe, index, field), drawn=recipe.draw(index),
                               expected_counts=float(10 ** (index % 4 - 1)))


@pytest.fixture
def data_set(tmp_path) -> Path:
    recipe = fakes.recipe()
    path = tmp_path / "data" / "fake.zarr"
    store.create(path, recipe, [fakes.outline(recipe, j) for j in range(recipe.fields)])
    for j in range(recipe.fields):
        store.write_field(path, j, fakes.simulate(recipe, j))
    for n in range(3):
        store.write_shard(path, n, [fake_sample(recipe, i) for i in store.open_store(path).samples_of(n)])
    return path


@pytest.mark.parametrize("code", ["import emsynth",
                                  "from emsynth.cli import app; app(['--help'], standalone_mode=False)"])
def test_the_help_loads_nothing_heavy(code):
    """Nobody waits seconds for a list of verbs."""
    look = f"{code}\nimport sys\nprint('LOADED', *set(sys.modules) & set({HEAVY!r}))"
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1].split() == ["LOADED"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_within_80_columns(verb):
    said = run(verb, "--help")
    assert said.exit_code == 0
    assert f"Example: emsynth {verb}" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80


def test_the_version():
    assert run("--version").stdout == f"emsynth {__version__}\n"


@pytest.mark.parametrize("arguments", [
    ["frobnicate"], ["check"], ["build", "x", "--workers", "0"], ["replay", "x", "y"],
    ["build", "x", "--resume", "--overwrite"]])
def test_wrong_usage_is_2(arguments):
    assert run(*arguments).exit_code == 2


def test_check_shows_values_with_units_and_ranges(recipe_file):
    said = run("check", recipe_file, "--set", "microscope.convergence={dist: uniform, low: 18, high: 25}")
    assert said.exit_code == 0
    assert re.search(r"convergence +uniform 18 to 25 mrad +1 to 60 *\n", said.stdout)
    assert re.search(r"max_angle +120 mrad +above 1 to 500 *\n", said.stdout)
    assert "2 of 2 fields: Au" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80


def test_rows_hold_every_key_of_a_recipe():
    recipe = Recipe.model_validate(json.loads(text_of(distort={"scan": [{"stage": "hum"}]})))
    keys = [row.key for row in rows(recipe)]
    for part in (recipe, recipe.image, recipe.microscope, recipe.simulate, recipe.distort, recipe.distort.scan[0]):
        assert set(type(part).model_fields) - {"stage", "kind"} <= set(keys)


def test_the_committed_schema_is_current():
    """Else: `make schema`."""
    assert (RECIPES / "recipe.schema.json").read_text() == recipe_schema()
    assert (RECIPES / "training.schema.json").read_text() == training_schema()


def test_the_schema_knows_units_ranges_and_names():
    schema = json.loads(run("schema").stdout)
    convergence = schema["$defs"]["Microscope"]["properties"]["convergence"]
    assert convergence["unit"] == "mrad"
    assert convergence["anyOf"][0] == {"type": "number", "minimum": 1, "maximum": 60}
    assert "SrTiO3" in schema["$defs"]["Crystal"]["properties"]["structure"]["anyOf"][0]["enum"]
    assert schema["$defs"]["RowJitter"]["required"] == ["stage"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_name_their_schema(path):
    kind = "training" if path.stem.startswith("train_") else "recipe"
    assert path.read_text().startswith(f"# yaml-language-server: $schema={kind}.schema.json\n")
    (TrainingRecipe if kind == "training" else Recipe).load(path)


def test_a_training_recipe_is_not_built(tmp_path):
    """It says which verb it is for."""
    said = run("build", "train_stem_hd", "--out", tmp_path / "x.zarr")
    assert said.exit_code == 1
    assert "train_stem_hd.yaml:1: is a training recipe, for emsynth train" in said.stderr


def test_build_passes_its_options_on(recipe_file, monkeypatch, tmp_path):
    seen = {}

    def build(recipe, out, workers, fields, shards, resume, overwrite, progress, scheduler=None):
        seen.update(samples=recipe.samples, out=out, workers=workers, fields=fields, shards=shards, resume=resume)
        progress.begin("fields", 2)
        progress.step(2, "field 1")
        return tmp_path / "x.zarr"

    monkeypatch.setattr(builder, "build", build)
    said = run("build", recipe_file, "--set", "samples=300", "--fields", "0:1", "--shards", "1:3", "--workers", 3,
               "--resume")
    assert seen == {"samples": 300, "out": None, "workers": 3, "fields": range(1), "shards": range(1, 3),
                    "resume": True}
    assert said.stdout == f"{tmp_path / 'x.zarr'}\n"
    assert said.stderr == "fields\nfields: 100%\n"
    assert run("build", recipe_file, "--quiet").stderr == ""


def test_a_dry_run_builds_nothing(recipe_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builder, "plan", lambda *_, **__: budget.Budget(
        12, 2, 1, 1, 1, {"train": 12}, 2, 75.0, 3_400_000, 0.8))
    said = run("build", recipe_file, "--dry-run")
    assert "75 s with 2 workers" in said.stdout
    assert "3.4 MB" in said.stdout
    assert not list(tmp_path.glob("datasets/*"))


def test_show_says_what_is_there(data_set):
    said = run("show", data_set)
    assert said.exit_code == 0
    assert "fake, seed 1" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80


def test_verify_names_what_is_wrong(data_set):
    assert run("verify", data_set).exit_code == 0
    chunk = data_set / "truth" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    said = run("verify", data_set)
    assert said.exit_code == 1
    assert "shard 1: truth: truncated" in said.stdout
    assert said.stderr.count("\n") == 1


@pytest.mark.parametrize(("same", "code", "words"), [
    (True, 0, "is the same, bit for bit"), (False, 1, "does not come out")])
def test_replay_exits_with_1_where_it_differs(monkeypatch, same, code, words):
    monkeypatch.setattr(builder, "replay", lambda path, index: Replay(index, same, True, (), ()))
    said = run("replay", "x.zarr", 3)
    assert said.exit_code == code
    assert words in said.output


@pytest.mark.parametrize(("error", "code", "line"), [
    (KeyboardInterrupt("x.zarr: stopped"), 130, "error: x.zarr: stopped\n"),
    (StoreError("a\nb"), 1, "error: a\nerror: b\n"),
    (MemoryError(), 1, "error: not enough memory; try fewer --workers, or a smaller image.size or box\n"),
    (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "error: x: no space left; make room and go on with "
                                                               "--resume\n")])
def test_what_goes_wrong_is_one_line(monkeypatch, error, code, line):
    def fail(path):
        raise error

    monkeypatch.setattr(store, "verify", fail)
    said = run("verify", "x.zarr")
    assert (said.exit_code, said.stderr) == (code, line)


def test_a_bug_is_seen(monkeypatch):
    """Only errors that are the user's to mend are put in one line."""
    monkeypatch.setattr(store, "verify", lambda path: 1 / 0)
    assert isinstance(run("verify", "x.zarr").exception, ZeroDivisionError)


@pytest.mark.parametrize(("seconds", "words"), [
    (0.1, "1 s"), (80, "80 s"), (600, "10 min"), (9000, "2.5 h"), (2e5, "2.3 days")])
def test_spoken_times(seconds, words):
    assert spoken_time(seconds) == words


def test_spoken_sizes():
    assert [spoken_size(n) for n in (12, 3.4e6, 2.5e9, 1e12)] == ["12 B", "3.4 MB", "2.5 GB", "1 TB"]


def test_progress_in_a_log_is_plain_lines(monkeypatch):
    """A log has no carriage returns, and few lines."""
    clock = iter(float(10 * n) for n in range(100))
    monkeypatch.setattr("emsynth.cli.progress.time.monotonic", lambda: next(clock))
    held = io.StringIO()
    with Watch(Console(file=held)) as watch:
        watch.begin("shards", 4)
        for n in range(4):
            watch.step(1, f"shard {n}")
        watch.note("all well")
    lines = held.getvalue().splitlines()
    assert lines[0] == "shards"
    assert any(re.fullmatch(r"shards: \d+%, about .* left", line) for line in lines)
    assert lines[-2:] == ["shards: 100%", "all well"]


# The pictures of a report.

def test_a_preview_shows_what_differs():
    """Structures and detectors before shades of dose; identity pairs only where nothing else is left."""
    candidates = [report.Traits(n, f"S{n % 2}", "HAADF" if n < 6 else "BF", 10.0 ** (n % 3), n == 0) for n in range(8)]
    chosen = report.choose(candidates, 4)
    picked = [candidates[n] for n in chosen]
    assert {t.structure for t in picked} == {"S0", "S1"}
    assert {t.detector for t in picked} == {"HAADF", "BF"}
    assert 0 not in chosen
    assert [t.counts for t in picked] == sorted((t.counts for t in picked), reverse=True)
    assert sorted(report.choose(candidates, 20)) == list(range(8))


def test_preview_of_a_data_set_is_a_picture(data_set, tmp_path):
    said = run("preview", data_set, "-n", 2, "--out", tmp_path / "sheet.png")
    assert said.exit_code == 0, said.output
    assert said.stdout == f"{tmp_path / 'sheet.png'}\n"
    assert (tmp_path / "sheet.png").read_bytes().startswith(PNG)


def test_the_report_needs_no_other_file(data_set, tmp_path):
    assert run("preview", data_set, "-n", 2, "--out", tmp_path / "sheet.html").exit_code == 0
    page = (tmp_path / "sheet.html").read_text()
    assert base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page)[1]).startswith(PNG)
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    for words in ("Data set", "Drawn values", "expected_counts", "convergence"):
        assert words in page


def test_preview_of_a_recipe_simulates_few_fields(recipe_file, tmp_path, monkeypatch):
    simulated = []
    monkeypatch.setattr(report, "outline", fakes.outline)
    monkeypatch.setattr(report, "render", fake_sample)
    monkeypatch.setattr(report, "simulate", lambda recipe, j: simulated.append(j) or fakes.simulate(recipe, j))
    said = run("preview", recipe_file, "-n", 4, "--set", "fields=9", "--set", "samples=90", "--out", tmp_path / "a.png")
    assert said.exit_code == 0, said.output
    assert 0 < len(simulated) <= 2
    assert "simulating, about" in said.stderr


def test_the_caption_speaks_the_fields_units():
    sample = fake_sample(fakes.recipe(), 5)
    said = dict(caption(sample))
    assert said["detector"] == "HAADF, 60 to 110 mrad"
    assert said["probe"].startswith("200 kV, 20 mrad")
    assert said["pixel"] == "0.1 Å, 16 px = 1.6 Å"
    assert said["specimen"].startswith("1.5 nm thick")


def with_chain(sample, **changes: object):
    chain = Chain.model_validate({"undistorted": 0.0, "dwell": 1e-6, "fly_back": 1e-4, **changes})
    return dataclasses.replace(sample, drawn=sample.drawn.model_copy(update={"distort": chain}))


def test_enlarging_leaves_the_dose_on_the_detector():
    """The counts are those of the detector's pixels, however small a program makes them."""
    plain = with_chain(fake_sample(fakes.recipe(), 5))
    cropped = with_chain(plain, artefact=[{"stage": "resample", "share": 0.5}])
    enlarged = dataclasses.replace(cropped, sampling=plain.sampling / 2)
    assert dict(caption(enlarged))["dose"] == dict(caption(plain))["dose"]
    assert dict(caption(dataclasses.replace(plain, sampling=0.05)))["dose"] != dict(caption(plain))["dose"]


def test_the_caption_of_a_camera_speaks_of_no_scan():
    sample = with_chain(fake_sample(fakes.recipe(), 5), camera=[
        {"stage": "conversion", "efficiency": 0.6}, {"stage": "gain", "gain": 12}])
    said = dict(caption(sample))
    assert said["camera"] == "MTF, DQE(0) 0.6, 12 ADU/e"
    assert not {"scan time", "scan", "detection", "afterwards"} & said.keys()


def test_the_caption_names_what_came_afterwards():
    sample = with_chain(fake_sample(fakes.recipe(), 5), detector=[Poisson()], artefact=[
        {"stage": "resample", "share": 0.51}, {"stage": "gamma", "gamma": 0.6}, {"stage": "eight_bit"},
        {"stage": "jpeg", "quality": 40}, {"stage": "border"}, {"stage": "overlay"}])
    said = caption(sample)
    assert dict(said)["detection"] == "counting"
    after = [line for _, line in said[[name for name, _ in said].index("afterwards"):]]
    assert ", ".join(after) == "cropped to 51 %, gamma 0.6, 8 bit, JPEG 40, border, overlay"


@pytest.mark.parametrize(("where", "corner"), [
    (np.s_[:0], (True, False)), (np.s_[90:, :10], (True, True)), (np.s_[90:], (False, False)),
    (np.s_[:, 0], (True, True)), (np.s_[:], None)])
def test_the_recipes_own_overlay_stays_free(where, corner):
    """The scale bar goes to a corner that has none of it; other flags do not matter."""
    mask = np.full((100, 100), MaskBit.BORDER, np.uint8)
    mask[where] |= np.uint8(MaskBit.OVERLAY)
    corners = [(True, False), (True, True), (False, False), (False, True)]
    assert sheet.free_corner(mask, (12.5, 30), corners) == corner


def test_a_sheet_draws_nothing_over_an_overlay(monkeypatch):
    """Of the four corners, bar and inset take free ones, and not the same."""
    from matplotlib.figure import Figure

    rng, size = np.random.default_rng(0), 64
    sample = fake_sample(fakes.recipe(), 3)
    columns = dataclasses.replace(sample.columns, position=rng.random((60, 2)) * size, number=np.full(60, 79, np.uint8),
                                  resolved=np.ones(60, np.bool_))
    image = np.ones((size, size), np.float32)
    one_corner = np.ones((size, size), np.bool_)
    one_corner[:30, 30:] = False
    for covered, bars, insets in ((np.s_[:0], 1, 1), (np.s_[:, :10], 1, 1), (np.s_[10:], 1, 0), (one_corner, 1, 0),
                                  (np.s_[:], 0, 0)):
        mask = np.zeros((size, size), np.uint8)
        mask[covered] = MaskBit.OVERLAY
        axes = Figure().add_axes((0, 0, 1, 1))
        shown = dataclasses.replace(sample, truth=image, distorted=image, mask=mask, columns=columns)
        taken = sheet._draw_scale_bar(axes, shown)
        sheet._draw_inset(axes, shown, (0.0, 1.0), taken)
        assert (len(axes.texts), len(axes.child_axes)) == (bars, insets)


def test_the_colours_of_a_row_reach_its_largest_displacement():
    """Whatever the other rows do; and 0.5 px where there is hardly any."""
    sample = fake_sample(fakes.recipe(), 5)
    moved = np.zeros((2, 16, 16), np.float16)
    moved[1, 0, 0], moved[1, 0, 1] = 24, -8
    mean = 16 / 256
    assert sheet.displacement_limit(dataclasses.replace(sample, displacement=moved)) == 24 - mean
    assert sheet.displacement_limit(dataclasses.replace(sample, displacement=moved / 1000)) == 0.5


def test_without_displacement_its_panels_are_left_out():
    still = dataclasses.replace(fake_sample(fakes.recipe(), 5), displacement=np.zeros((2, 16, 16), np.float16))
    moved = fake_sample(fakes.recipe(), 4)
    widths = [int.from_bytes(sheet.draw_sheet(shown, "", "")[16:20]) for shown in ([still], [still, moved])]
    assert widths[1] - widths[0] == pytest.approx(2 * 200 * (2.56 + 0.10), abs=1)


@pytest.mark.parametrize(("width", "words"), [(8, "2 Å"), (25, "5 Å"), (40, "1 nm"), (100, "2 nm"), (5e4, "1 µm")])
def test_scale_bars_are_round(width, words):
    assert sheet.length_text(sheet.bar_length(width)) == words


def test_truth_and_distorted_share_their_greys():
    """The truth keeps at least half of the greys, whatever the noise; without noise nearly all of them."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(10, 20, (64, 64)).astype(np.float32)
    low, high = sheet.grey_range(truth, truth)
    assert low <= truth.min() + 0.1
    assert high - low < 1.2 * 10
    low, high = sheet.grey_range(truth, truth + rng.normal(0, 100, truth.shape).astype(np.float32))
    assert np.ptp(truth) >= 0.49 * (high - low)
    flat = np.zeros((8, 8), np.float32)
    assert np.less(*sheet.grey_range(flat, flat))
