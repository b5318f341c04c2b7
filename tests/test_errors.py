"""What a user reads after a mistake: one line for each, with the place, the value, what is allowed and the way out."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import fakes
import pytest
from typer.testing import CliRunner

from emsynth import errors, store
from emsynth.cli import app

RECIPE = """\
name: try
samples: 48
fields: 4
image:
  size: 128
  pixel_size: 0.1
specimen:
  kind: crystal
  structure: Au
microscope:
  convergence: 20
distort:
  scan:
    - stage: row_jitter
  detector:
    - stage: poisson
"""
DISTRIBUTION = "a distribution such as {dist: uniform, low: 1, high: 2}"
PIXEL = "pixel_size: 0.1"
IMAGE = "image:\n  size: 128\n  pixel_size: 0.1\n"
SPECIMEN = "specimen:\n  kind: crystal\n  structure: Au\n"
STAGES = "(allowed: row_jitter, hum, drift, fly_back, scan_speed)"

# What is replaced, by what, and what is said then.
MISTAKES = {
    "unknown key": ("samples:", "sampels:", [
        "1: samples: is missing, and has no default",
        "2: sampels: unknown key; did you mean 'samples'? (allowed: name, seed, samples, fields, image, specimen, "
        "microscope, simulate, distort, store)"]),
    "unknown key below": (PIXEL, "pixle_size: 0.1", [
        "6: image.pixle_size: unknown key; did you mean 'pixel_size'? (allowed: size, pixel_size, rotation, flip, "
        "detector, plane, perfect, strain, thickness_variation)"]),
    "out of range": ("convergence: 20", "convergence: 300", [
        "11: microscope.convergence: 300 mrad is outside 1 to 60 mrad"]),
    "distribution out of range": ("convergence: 20", "convergence: {dist: uniform, low: 20, high: 300}", [
        "11: microscope.convergence: 300 mrad is outside 1 to 60 mrad"]),
    "word for a number": (PIXEL, "pixel_size: abc", [
        f"6: image.pixel_size: 'abc' is not a number or {DISTRIBUTION}"]),
    "unit in a number": ("convergence: 20", "energy: 300 kV", [
        f"11: microscope.energy: '300 kV' is not a number or {DISTRIBUTION}"]),
    "truth value": (PIXEL, "pixel_size: true", [
        "6: image.pixel_size: true is not a number or a word; quote it if it is a name"]),
    "nothing": (PIXEL, "pixel_size:", [
        f"6: image.pixel_size: is empty; give a number or {DISTRIBUTION}, or remove the key"]),
    "not a number": (PIXEL, "pixel_size: .nan", ["6: image.pixel_size: nan Å is outside 0.01 to 100000 Å"]),
    "truth value in a distribution": (PIXEL, "pixel_size: {dist: choice, values: [0.1, true]}", [
        "6: image.pixel_size.values: true is not a number or a word; quote it if it is a name"]),
    "infinite": (IMAGE, IMAGE + "simulate: {memory: .inf, phonons: {tolerance: .nan}}\n", [
        "7: simulate.phonons.tolerance: nan is not a finite number",
        "7: simulate.memory: inf is not a finite number"]),
    "not a number in a list": ("  structure: Au", "  structure: Au\n  zone_axis: [0, 0, .nan]", [
        "10: specimen.zone_axis.2: nan is not a finite number"]),
    "not a number for a share": ("kind: crystal\n  structure: Au", "kind: mixture\n  members:\n    - share: .nan\n"
                                 "      specimen: {kind: amorphous}", [
        "10: specimen.members.0.share: nan is not a finite number"]),
    "infinite weight": ("convergence: 20", "weight: .inf", ["11: microscope.weight: inf is not a finite number"]),
    "ring that may be inside out": ("convergence: 20", "detectors: [{name: HAADF, inner: {dist: uniform, low: 60, "
                                    "high: 100}, outer: 80}]", [
        "11: microscope.detectors.0: detector HAADF: inner up to 100 must be below outer from 80"]),
    "mistake in a merged key": (IMAGE, "more: &d {sise: 1}\nimage:\n  <<: *d\n", [
        "4: more: unknown key;", "5: image.sise: unknown key;"]),
    "folder for a file": ("structure: Au", "file: .", [
        "9: specimen.file: FOLDER: is a folder; give a structure file in it"]),
    "no name for a file": ("structure: Au", "file: ''", [
        "9: specimen.file: is empty; give the path of a structure file, or remove the key"]),
    "nested too deep": ("size: 128", "size: " + 2000 * "[" + 2000 * "]", [
        "1: nested too deep; a recipe has at most 50 levels"]),
    "aliases of aliases": (RECIPE, "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]\n" for n in range(1, 12)), [
        "1: holds more than 100000 values; look for aliases (*name) of aliases"]),
    "not a date": ("name: try", "name: 2020-99-99", ["1: not valid YAML: month must be in 1..12"]),
    "distribution without an end": (PIXEL, "pixel_size: {dist: uniform, low: 1}", [
        "6: image.pixel_size.high: is missing, and has no default"]),
    "unknown distribution": (PIXEL, "pixel_size: {dist: unifrm, low: 1, high: 2}", [
        "6: image.pixel_size: dist 'unifrm' is unknown; did you mean 'uniform'? (allowed: uniform, log_uniform, "
        "normal, choice, deal)"]),
    "distribution without a name": (PIXEL, "pixel_size: {low: 1, high: 2}", [
        "6: image.pixel_size: needs a key 'dist', such as {dist: uniform, low: 1, high: 2}"]),
    "distribution upside down": (PIXEL, "pixel_size: {dist: uniform, low: 2, high: 1}", [
        "6: image.pixel_size: low 2 must be at most high 1, both finite"]),
    "distribution in a distribution": (PIXEL, "pixel_size: {dist: uniform, low: {dist: normal, mean: 1}, high: 2}", [
        "6: image.pixel_size.low: cannot be a distribution; give a number"]),
    "distribution of words": (PIXEL, "pixel_size: {dist: choice, values: [a, b]}", [
        "6: image.pixel_size: 'a' is not a number; all values of this distribution must be"]),
    "distribution of lists": (PIXEL, "pixel_size: {dist: choice, values: [[1, 2]]}", [
        "6: image.pixel_size: (1, 2) is not a number; all values of this distribution must be"]),
    "distribution of nothing": (PIXEL, "pixel_size: {dist: choice, values: []}", [
        "6: image.pixel_size.values: [] has 0 entries; at least 1 needed"]),
    "distribution where none can be": (IMAGE, IMAGE + "simulate: {max_angle: {dist: uniform, low: 1, high: 2}}\n", [
        "7: simulate.max_angle: cannot be a distribution; give a number"]),
    "number for a part": (IMAGE, "image: 3\n", ["4: image: 3 is not a mapping of keys"]),
    "list for a part": (IMAGE, "image: [1, 2]\n", ["4: image: [1, 2] is not a mapping of keys"]),
    "part for a list": ("    - stage: row_jitter", "    stage: row_jitter", [
        "13: distort.scan: is a mapping of keys, and a list is meant; begin each entry with '- '"]),
    "no specimen": (SPECIMEN, "", ["1: specimen: is missing, and has no default"]),
    "word for a specimen": (SPECIMEN, "specimen: Au\n", [
        "7: specimen: 'Au' is not a mapping of keys such as {kind: crystal, structure: Au}"]),
    "unknown kind": ("kind: crystal", "kind: cristal", [
        "7: specimen: kind 'cristal' is unknown; did you mean 'crystal'? (allowed: crystal, defects, "
        "boundary, edge, nanoparticle, layer, amorphous, morphology, mixture)"]),
    "unknown stage": ("stage: row_jitter", "stage: row_jiter", [
        f"14: distort.scan.0: stage 'row_jiter' is unknown; did you mean 'row_jitter'? {STAGES}"]),
    "stage of the other list": ("stage: row_jitter", "stage: poisson", [
        f"14: distort.scan.0: stage 'poisson' is unknown {STAGES}"]),
    "word for a stage": ("- stage: row_jitter", "- row_jitter", [
        "14: distort.scan.0: 'row_jitter' is not a mapping of keys such as {stage: row_jitter}"]),
    "stage without a name": ("- stage: row_jitter", "- sigma: 3", [
        "14: distort.scan.0: needs a key 'stage', such as {stage: row_jitter}"]),
    "stage twice": ("    - stage: row_jitter\n", 2 * "    - stage: row_jitter\n", [
        "13: distort.scan: 'row_jitter' stands 2 times; keep one of them"]),
    "fraction for a count": ("samples: 48", "samples: 2.5", ["2: samples: 2.5 is not a whole number"]),
    "word for a count": ("samples: 48", "samples: many", ["2: samples: 'many' is not a whole number"]),
    "too few": ("samples: 48", "samples: 0", ["2: samples: 0 is too small: at least 1"]),
    "too large": ("size: 128", "size: 100000", ["5: image.size: 100000 is too large: at most 4096"]),
    "bad name": ("name: try", "name: my recipe/1", [
        "1: name: 'my recipe/1' is not a name: letters, digits, . _ and - only, at most 64 of them"]),
    "number for a name": ("name: try", "name: 12", [
        '1: name: 12 is a number, and a name is meant; quote it: "12"']),
    "phonons": (IMAGE, IMAGE + "simulate: {phonons: {minimum: 1}}\n", [
        "7: simulate.phonons: minimum 1 and maximum 16: both 0 (static), or 2 at least (a standard error needs two) "
        "and minimum at most maximum"]),
    "unknown word": ("distort:\n", "distort:\n  truth_geometry: affin\n", [
        "13: distort.truth_geometry: 'affin' is unknown; did you mean 'affine'? (allowed: affine, smooth, ideal)"]),
    "unknown detector": ("  size: 128", "  detector: ADF", [
        "5: image.detector: 'ADF' is not a detector of the microscope; it has HAADF, LAADF, ABF, BF, and 'any' stands "
        "for all of them"]),
    "detector beyond the simulated angle": ("convergence: 20", "detectors: [{name: HAADF, inner: 99, outer: 250}]", [
        "11: microscope.detectors.0.outer: 250 mrad is beyond the simulated angle, simulate.max_angle 120 mrad; lower "
        "the detector's outer angle or raise simulate.max_angle (time grows with its square)"]),
    "missing file": ("structure: Au", "file: nothere.cif", [
        "9: specimen.file: FOLDER/nothere.cif: no such file; a path is relative to the recipe, with --set to the "
        "working directory"]),
    "broken YAML": ("size: 128", "size: [128", [
        "6: not valid YAML: expected ',' or ']', but got ':'; a bracket that is opened in line 5 is not closed"]),
    "tab": ("  size: 128", "\tsize: 128", [
        "5: not valid YAML: found character '\\t' that cannot start any token; YAML is indented with spaces, never "
        "with tabs"]),
    "colon": ("size: 128", "size 128", [
        "6: not valid YAML: mapping values are not allowed here; look for a missing colon in the line above, or a "
        "wrong indentation"]),
    "key twice": ("fields: 4", "samples: 4", [
        '3: not valid YAML: found duplicate key "samples" with value "4" (original value: "48")']),
    "two documents": ("distort:", "---\ndistort:", [
        "12: not valid YAML: but found another document; a recipe is one document; remove the line ---"]),
    "several": (RECIPE, RECIPE.replace("48", "x").replace(PIXEL, "pixle_size: true\n  sise: 1\n  strain: 9")
                .replace(": 20", ": 300"), [
        "2: samples: 'x' is not a whole number", "6: image.pixle_size: unknown key;", "7: image.sise: unknown key;",
        "8: image.strain: 9 is outside 0 to 0.05", "13: microscope.convergence: 300 mrad is outside"]),
    "nothing at all": (RECIPE, "# nothing yet\n", [
        "1: the file is empty; a recipe has at least name, samples, fields and specimen"]),
    "a list": (RECIPE, "- a\n", ["1: a recipe is a mapping of keys such as `name: stem_hd`, and this is a list"]),
}


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(a) for a in arguments])


def lines_of(result, code: int = 1) -> list[str]:
    """The lines on stderr of a command that failed as it should: no traceback, each line an error."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), result.stderr
    return [line.removeprefix("error: ") for line in lines]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def data_set(here) -> Path:
    recipe = fakes.recipe()
    store.create(here / "fake.zarr", recipe, [fakes.outline(recipe, j) for j in range(recipe.fields)])
    store.write_field("fake.zarr", 0, fakes.simulate(recipe, 0))
    store.write_shard("fake.zarr", 0, [fakes.render(recipe, i) for i in range(4)])
    return here / "fake.zarr"


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_line(here, mistake):
    old, new, wanted = MISTAKES[mistake]
    assert old in RECIPE
    Path("bad.yaml").write_text(RECIPE.replace(old, new, 1))
    said = lines_of(run("check", "bad.yaml"))
    assert len(said) == len(wanted), said
    for line, start in zip(said, wanted, strict=True):
        start = f"bad.yaml:{start}".replace("FOLDER", str(here))
        assert line == start or (start.endswith((";", "outside")) and line.startswith(start))


@pytest.mark.parametrize(("setting", "wanted"), [
    ("image.pixel_size", "not of the form KEY=VALUE, e.g. --set samples=64 or --set image.pixel_size=0.2"),
    ("pixel=3", "pixel: unknown key (allowed: name, seed,"),
    ("image.pixel_size=9", "image.pixel_size: 9 Å is outside 0.01 to 5 Å"),
    ("image.pixel_size={a", "'{a' is not YAML; quote it, e.g. --set \"image.pixel_size='{a'\""),
    ("distort.scan.row_jiter.sigma=2", "'row_jiter' is none of the entries there; give one of row_jitter, or a number"),
    ("specimen.structure=au", "specimen.structure: no structure 'au' in the table; did you mean 'Au'? known are Au,"),
    ("samples.x=2", "'x' stands below a plain value, which has no keys; leave it out"),
    ("specimen={kind: crystal, file: a.cif}", "specimen.file: FOLDER/a.cif: no such file")])
def test_a_bad_setting_names_itself(here, setting, wanted):
    [line] = lines_of(run("check", "bad.yaml", "--set", setting))
    assert line.startswith(f"--set {setting}: {wanted}".replace("FOLDER", str(here)))


@pytest.mark.parametrize(("setting", "wanted"), [
    ("specimen.structure=null", " (bad.yaml:7): specimen: give either `structure`"),
    ("microscope.detectors=[{name: ADF, inner: 20, outer: 60}]", " (bad.yaml:4): image.detector: 'HAADF' is not a"),
    ("simulate.max_angle=50", " (bad.yaml:10): microscope.detectors.HAADF.outer: 110 mrad is beyond")])
def test_a_setting_is_named_where_what_it_upsets_is_in_the_file(here, setting, wanted):
    [line] = lines_of(run("check", "bad.yaml", "--set", "seed=3", "--set", setting))
    assert line.startswith(f"--set {setting}{wanted}")


def test_a_structure_file_may_be_in_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    Path("bad.yaml").write_text(RECIPE.replace("structure: Au", "file: ~/mine.cif"))
    [line] = lines_of(run("check", "bad.yaml"))
    assert line.startswith(f"bad.yaml:9: specimen.file: {here}/mine.cif: no such file")


def test_an_unknown_recipe_names_the_shipped_ones(here):
    [line] = lines_of(run("build", "quikstart"))
    assert line.startswith("quikstart: no such file, and no shipped recipe has that name; did you mean quickstart? (")


@pytest.mark.parametrize("bad", ["cif", "window", "memory"])
def test_what_only_a_field_shows_is_said_by_check(here, bad):
    """Once for each mistake, not once for each field."""
    (here / "broken.cif").write_text("data_x\n_cell_length_a 4\nloop_\nnonsense\n")
    changes = {"cif": ("structure: Au", "file: broken.cif", f"bad.yaml:7: specimen: {here / 'broken.cif'}: "),
               "window": ("kind: crystal\n  structure: Au", "kind: amorphous\nsimulate:\n  memory: 50",
                          "bad.yaml:6: image.pixel_size: a window of 128 px of 0.9 Å is 115.2 Å wide and does not fit"),
               "memory": ("image:", "simulate: {memory: 0.001}\nimage:",
                          "bad.yaml:4: simulate.memory: the pass over Au needs about ")}
    old, new, wanted = changes[bad]
    Path("bad.yaml").write_text(RECIPE.replace(old, new).replace(PIXEL, "pixel_size: 0.9"))
    [line] = lines_of(run("check", "bad.yaml"))
    assert line.startswith(wanted)


@pytest.mark.parametrize(("option", "text"), [("--fields", "5:2"), ("--fields", "x"), ("--shards", "0:9")])
def test_a_bad_slice_says_which_there_are(here, option, text):
    [line] = lines_of(run("build", "bad.yaml", option, text))
    assert re.fullmatch(rf"{option} {text}: not a part of 0:\d+; give A:B .*", line)


def test_an_output_that_exists_is_left_alone(here, data_set):
    before = contents(data_set)
    [line] = lines_of(run("build", "bad.yaml", "--out", "fake.zarr"))
    assert line == "fake.zarr: already exists; --resume to go on, --overwrite to replace it, or another --out"
    [line] = lines_of(run("build", "bad.yaml", "--out", "fake.zarr", "--resume"))
    assert line.startswith("fake.zarr: made from another recipe, which differs in name (fake there, try here), ")
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    [line] = lines_of(run("build", "bad.yaml", "--out", "mine", "--overwrite"))
    assert "is not an emsynth data set, so --overwrite leaves it alone" in line
    assert contents(data_set) == before
    assert (here / "mine" / "thesis.txt").exists()


def test_an_output_that_cannot_be_written_is_said_before_any_work(here):
    (here / "file").touch()
    [line] = lines_of(run("build", "bad.yaml", "--out", "file/x.zarr"))
    assert line.startswith("file/x.zarr: ")
    assert line.endswith("another --out")


@pytest.mark.parametrize(("verb", "what"), [("show", "nope.zarr"), ("verify", "nope.zarr"), ("preview", "nope.zarr")])
def test_a_data_set_that_is_not_there(here, verb, what):
    assert lines_of(run(verb, what)) == ["nope.zarr: there is no such data set"]


def test_a_truncated_shard_is_named(data_set):
    chunk = data_set / "distorted" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    said = run("verify", "fake.zarr")
    assert said.exit_code == 1
    assert "fake.zarr: shard 0: distorted: truncated, 100 of " in said.stdout
    [line] = lines_of(run("replay", "fake.zarr", 1))
    assert line.startswith("fake.zarr: shard 0 cannot be read (")
    assert line.endswith("emsynth verify names the damaged file")


@pytest.mark.parametrize(("index", "words"), [(99, "sample 99 is outside 0 to 9"), (7, "shard 1 is not finished")])
def test_a_sample_that_is_not_there(data_set, index, words):
    [line] = lines_of(run("replay", "fake.zarr", index))
    assert words in line


@pytest.mark.parametrize(("out", "words"), [
    ("a/b.png", "there is no such folder"), ("a.jpg", "is a .png or a .html file")])
def test_a_preview_that_cannot_be_written(data_set, out, words):
    [line] = lines_of(run("preview", "fake.zarr", "--out", out))
    assert line.startswith(f"{out}: ")
    assert words in line


def test_every_error_is_the_domains_and_a_standard_one():
    """Who does not know emsynth can still catch ValueError or OSError."""
    family = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.EmsynthError)]
    for kind in family:
        assert kind is errors.EmsynthError or issubclass(kind, ValueError | OSError | RuntimeError)
