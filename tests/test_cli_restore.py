"""What a user of `emsynth restore` sees: paths on stdout, all else on stderr, a line for each image that fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from emsynth.cli import app
from emsynth.restoration.micrograph import Micrograph, PixelSize
from emsynth.restoration.micrograph_reading import read_micrograph
from emsynth.restoration.micrograph_writing import write_micrograph

COUNTS = np.random.default_rng(0).poisson(50, (3, 20, 30)).astype(np.uint16)
HALF = "bad_restorers:good"  # gives half of the image


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["restore", *map(str, arguments)])


def tiny(folder: Path) -> Path:
    """A small network of random weights, for TEM images of 0.1-0.5 Å."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
    from emsynth.networks.cgrdn import CGRDN, Size
    from emsynth.networks.weights import save_weights

    torch.manual_seed(0)
    return save_weights(folder / "tiny.safetensors", CGRDN(Size(layers=1, growth=2, width=4)),
                        {"pixel_size": [0.1, 0.5], "data": "tem_hd"})


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A stack of three frames with a pixel size."""
    return write_micrograph(tmp_path / "a.tif", Micrograph(COUNTS, PixelSize(0.02, 0.03, "nm")), {})


def test_a_restored_image_lies_beside_the_original(image):
    """As float32, with the pixel size, what was in the original, and how it was made."""
    done = call(HALF, image)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{image.parent / 'a-restored.tif'}\n"
    assert "3 × 20 × 30 uint16, pixel 0.02 × 0.03 nm" in done.stderr
    read = read_micrograph(image.parent / "a-restored.tif")
    np.testing.assert_array_equal(read.image, COUNTS * np.float32(0.5))
    assert read.image.dtype == np.float32
    assert (read.pixel_size.row, read.pixel_size.col) == pytest.approx((0.02, 0.03))
    made = read.metadata["Info"]["emsynth"]
    assert (made["model"], made["source"], made["weights_sha256"]) == (HALF, "a.tif", None)
    assert read.metadata["Info"]["original"]["Info"]["pixel_size"]["unit"] == "nm"


def test_one_bad_image_does_not_lose_the_others(image, tmp_path):
    """Each that fails is named with its reason in a line of its own, and the exit code says that one did."""
    (tmp_path / "text.tif").write_text("no image")
    np.save(tmp_path / "nan.npy", np.full((20, 20), np.nan))
    np.save(tmp_path / "good.npy", COUNTS[0])
    bad = [tmp_path / name for name in ("text.tif", "absent.png", "nan.npy")]
    done = call(HALF, *bad, image, tmp_path / "good.npy")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [str(tmp_path / "a-restored.tif"), str(tmp_path / "good-restored.tif")]
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "nan.npy: 400 of 400 pixels are NaN" in said[2]
    assert all(name in line for name, line in zip(("text.tif", "absent.png", "nan.npy", "3 of 5"), said, strict=True))


@pytest.mark.parametrize(("frames", "expected"), [("1", COUNTS[1]), ("1:", COUNTS[1:]), (":2", COUNTS[:2]),
                                                  ("-1", COUNTS[-1])])
def test_frames_of_a_stack(image, frames, expected):
    """As Python counts them."""
    assert call(HALF, image, f"--frames={frames}", "--dtype", "same").exit_code == 0
    read = read_micrograph(image.parent / "a-restored.tif").image
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, np.rint(expected * np.float32(0.5)))


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("--frames", "7"), 1, "has frames 0 to 2"), (("--frames", "5:9"), 1, "has frames 0 to 2"),
    (("--frames", "x"), 2, "give A:B"), (("--dtype", "int"), 2, "float32 or same"), (("--tile", "7"), 1, "even"),
    (("--tile", "64"), 1, "for networks in files only"), (("--dataset", "3"), 1, "has no dataset 3"),
    (("--out", "a.jpg"), 1, "is not one of .tif")])
def test_mistakes_are_one_line(image, arguments, code, said):
    """With the way out, and nothing written."""
    done = call(HALF, image, *arguments)
    assert done.exit_code == code
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert [one.name for one in image.parent.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(("model", "said"), [
    ("gaussian", "has to be tuned"), ("no_such", "'no_such' is not a MODEL"), ("", "'' is not a MODEL"),
    (".", "is a folder"), ("absent.safetensors", "no such file"),
    ("bad_restorers:no_such", "has no 'no_such'"), ("weights.pt", "pickle")])
def test_a_model_that_cannot_restore_is_refused_before_anything_is_read(image, model, said):
    """Once, not for every image."""
    done = call(model, image, image.parent / "absent.tif")
    assert done.exit_code == 1
    assert said in done.stderr
    assert "absent.tif" not in done.stderr
    assert "bm3d" not in done.stderr


def test_a_function_that_fails_is_named(image):
    """With its own words, and without its traceback."""
    done = call("bad_restorers:wrong_shape", image)
    assert done.exit_code == 1
    assert "a.tif: bad_restorers:wrong_shape: returned shape" in done.stderr


def test_where_outputs_go(image, tmp_path):
    """A file as named; a folder is made; several images go into a folder; the name says which kind of file."""
    pytest.importorskip("rsciio", reason="RosettaSciIO is not installed (extra io)")
    np.save(tmp_path / "b.npy", COUNTS[0])
    for out, expected in (("x.npy", ["x.npy"]), ("new", ["new/a-restored.tif"]), ("y.emd", ["y.emd"])):
        assert call(HALF, image, "--out", tmp_path / out).stdout.split() == [str(tmp_path / one) for one in expected]
    done = call(HALF, image, tmp_path / "b.npy", "--out", tmp_path / "many")
    assert done.stdout.split() == [str(tmp_path / "many" / f"{name}-restored.tif") for name in "ab"]
    assert json.loads((tmp_path / "x.npy.json").read_text())["pixel_size"]["col"] == pytest.approx(0.03)
    refused = call(HALF, image, tmp_path / "b.npy", "--out", tmp_path / "one.tif")
    assert refused.exit_code == 1
    assert "several images" in refused.stderr
    assert not (tmp_path / "one.tif").exists()
    sizes = [read_micrograph(tmp_path / name).pixel_size for name in ("x.npy", "y.emd")]
    assert [(one.row, one.col, one.unit) for one in sizes] == [(pytest.approx(0.02), pytest.approx(0.03), "nm")] * 2


def test_two_images_of_one_name_do_not_replace_each_other(image, tmp_path):
    """Not even with --overwrite."""
    np.save(tmp_path / "a.npy", COUNTS[0])
    done = call(HALF, image, tmp_path / "a.npy", "--overwrite")
    assert done.exit_code == 1
    assert "a.npy: would be written to" in done.stderr
    assert read_micrograph(tmp_path / "a-restored.tif").image.ndim == 3


def test_nothing_is_replaced_unasked(image):
    """A second run says so before it reads; --overwrite replaces the output, and never the image."""
    assert call(HALF, image).exit_code == 0
    again = call(HALF, image)
    assert again.exit_code == 1
    assert "already there" in again.stderr
    assert call(HALF, image, "--overwrite").exit_code == 0
    assert "never replaced" in call(HALF, image, "--out", image, "--overwrite").stderr


def test_the_picture(image):
    """Beside the output, unless something else of that name is there."""
    done = call(HALF, image, "--picture", "--quiet")
    assert done.stdout.split() == [str(image.parent / f"a-restored.{end}") for end in ("tif", "png")]
    assert done.stderr == ""
    with Image.open(image.parent / "a-restored.png") as drawn:
        assert drawn.width > 1000
    (image.parent / "b.png").write_text("mine")
    refused = call(HALF, image, "--picture", "--out", image.parent / "b.tif")
    assert refused.exit_code == 1
    assert (image.parent / "b.png").read_text() == "mine"
    assert not (image.parent / "b.tif").exists()


def test_a_picture_that_fails_does_not_hide_the_image(image, monkeypatch):
    """What is written is told, and the exit code says that something is missing."""
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    done = call(HALF, image, "--picture")
    assert done.exit_code == 1
    assert done.stdout == f"{image.parent / 'a-restored.tif'}\n"
    assert "a-restored.png: cannot be written (No space left" in done.stderr


@pytest.mark.parametrize(("values", "kind"), [(1e6 + 0.01 * COUNTS[0], "float64"), (COUNTS[0] / 7, "float32"),
                                              (10**9 + COUNTS[0].astype(np.int32), "float64"),
                                              (COUNTS[0] * 1e100, "float64")])
def test_large_offsets_are_not_rounded_away(values, kind, tmp_path):
    """Where float32 would round by more than a thousandth of the deviation, the file has float64."""
    weights = tiny(tmp_path)
    np.save(tmp_path / "a.npy", values)
    assert call(weights, tmp_path / "a.npy").exit_code == 0
    read = read_micrograph(tmp_path / "a-restored.tif").image
    assert read.dtype == kind
    assert np.isfinite(read).all()
    assert len(np.unique(read)) > 500


def test_what_is_not_finite_is_never_written(image, monkeypatch):
    """Whatever the network returned."""
    monkeypatch.setattr("emsynth.restoration.restoring.restore", lambda given, *_, **__: np.full(given.shape, np.inf))
    done = call(HALF, image)
    assert done.exit_code == 1
    assert "1800 of 1800 pixels that are NaN or infinite" in done.stderr
    assert not (image.parent / "a-restored.tif").exists()


@pytest.mark.parametrize(("recorded", "said"), [("STEM", True), ("TEM", False), ("", False)])
def test_a_network_for_the_other_kind_of_microscopy_is_hinted_at(recorded, said, tmp_path):
    """Only where the metadata are clear."""
    weights = tiny(tmp_path)
    np.save(tmp_path / "a.npy", COUNTS[0])
    (tmp_path / "a.npy.json").write_text(json.dumps({"Microscope Info": {"Operation Mode": recorded}}))
    assert ("it is a STEM image" in call(weights, tmp_path / "a.npy").stderr) is said


@pytest.mark.parametrize(("size", "said"), [
    (PixelSize(0.02, 0.02, "nm"), None), (PixelSize(0.002, 0.002, "nm"), "outside 0.1-0.5 Å"),
    (PixelSize(2.0, 2.0, "Å"), "first record it with smaller pixels"),
    (PixelSize(0.02, 2.0, "Å"), "bin it down the columns, and record it with smaller pixels along the rows"),
    (PixelSize(0.2, 0.02, "Å"), "first bin it along the rows"), (None, "does not say how large its pixels are"),
    (PixelSize(0.1, 0.1, "1/nm"), "diffraction pattern")])
def test_a_network_says_where_it_was_not_trained(size, said, tmp_path):
    """The weights know the pixel sizes of their training; the image is restored all the same."""
    weights = tiny(tmp_path)
    write_micrograph(tmp_path / "a.tif", Micrograph(COUNTS[0], size), {})
    done = call(weights, tmp_path / "a.tif")
    assert done.exit_code == 0, done.output
    assert "trained on" not in done.stderr if said is None else said in done.stderr
    read = read_micrograph(tmp_path / "a-restored.tif")
    assert read.image.shape == COUNTS[0].shape
    assert len(read.metadata["Info"]["emsynth"]["weights_sha256"]) == 64
