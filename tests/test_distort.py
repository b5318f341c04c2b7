"""The distortion chain on a user's own image: which images, what is seen between and beyond their pixels, the files."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
from pathlib import Path

import fakes
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import fft
from typer.testing import CliRunner

import emsynth
from emsynth import Recipe, distort
from emsynth.cli import app
from emsynth.distortion import Chain, Drift, FlyBack, Gain, MaskBit, Poisson, RowJitter
from emsynth.distortion.camera import Conversion
from emsynth.distortion.geometry import Grid
from emsynth.distortion.resample import Resample
from emsynth.errors import FieldError, RecipeError, StoreError, StoreExistsError
from emsynth.imagery import check_image, read_image
from emsynth.oversampling import factor_of, oversample
from emsynth.retake import load_chain

SHAPE = (24, 30)


def chain(**changes: object) -> Chain:
    return Chain(**{"expected_counts": 20.0, "dwell": 1e-6, "fly_back": 1e-4, "undistorted": 0.0, **changes})


def noise(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def drifting(**changes: object) -> Chain:
    """Back and forth along both axes, so that the probe leaves the image at every side; the truth stays."""
    drift = Drift(distance=8.0, direction=225.0, bend=20.0, bend_direction=45.0)
    return chain(scan=(drift,), truth_geometry="ideal", **changes)


def cosine_series(image: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The series of the mirrored image, term by term."""
    terms = fft.dctn(image) / image.size
    terms[0] /= 2
    terms[:, 0] /= 2
    row, col = (np.cos(np.pi * np.arange(n) * (at[:, None] + 0.5) / n)
                for n, at in zip(image.shape, positions, strict=True))
    return np.einsum("pr,rc,pc->p", row, terms, col)


def fourier_series(image: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The series of the repeated image, term by term; an odd image has no wave at the Nyquist frequency."""
    row, col = (np.exp(2j * np.pi * np.fft.fftfreq(n) * at[:, None])
                for n, at in zip(image.shape, positions, strict=True))
    return np.einsum("pr,rc,pc->p", row, np.fft.fft2(image) / image.size, col).real


# Between and beyond the pixels.

@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(("factor", "content", "error"), [(4, 1.0, 1e-3), (2, 0.5, 1e-3), (1, 0.25, 1e-3)])
def test_interpolation_follows_the_series(periodic, factor, content, error):
    """Within 0.1 % of the range, up to the frequencies that the oversampling can hold, also beyond the edges."""
    shape = (33, 45)
    terms = fft.dctn(noise(shape))
    terms[int(content * shape[0]):] = 0
    terms[:, int(content * shape[1]):] = 0
    image = fft.idctn(terms)
    if periodic:
        spectrum = np.fft.fft2(noise(shape))
        spectrum[np.abs(np.fft.fftfreq(shape[0])) > content / 2] = 0
        spectrum[:, np.abs(np.fft.fftfreq(shape[1])) > content / 2] = 0
        image = np.fft.ifft2(spectrum).real
    image = image - image.min() + np.ptp(image)  # no ringing below 0
    positions = np.random.default_rng(1).uniform(-80, 130, (2, 1000)).astype(np.float32)
    grid = Grid((1, 1000), np.zeros((2, 3)), positions[:, None])
    seen = oversample(image.astype(np.float32), periodic, factor).at(grid)[0]
    expected = (fourier_series if periodic else cosine_series)(image, positions)
    assert np.abs(seen - expected).max() < error * np.ptp(image)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(4, 4), (24, 31), (97, 5)])
def test_the_pixels_themselves_are_kept(factor, periodic, shape):
    image = noise(shape).astype(np.float32)
    seen = oversample(image, periodic, factor).at(Grid(shape, np.eye(2, 3)))
    assert np.abs(seen - image).max() < 1e-6


def test_a_bright_background_costs_no_digits():
    """Only the rounding of single precision itself, 0.004 at 30000."""
    image = (30000 + noise()).astype(np.float32)
    seen = oversample(image, False).at(Grid(SHAPE, np.eye(2, 3)))
    assert np.abs(seen - image).max() < 0.008


def test_blocks_do_not_show(monkeypatch):
    image = noise().astype(np.float32)
    whole = oversample(image, False).coefficients
    monkeypatch.setattr("emsynth.oversampling._BLOCK", 300)
    assert np.allclose(oversample(image, False).coefficients, whole, rtol=0, atol=1e-6)


def test_large_frames_are_oversampled_less():
    """4 k² bytes per pixel must stay in memory."""
    assert [factor_of((n, n)) for n in (4096, 4097, 16384, 16385)] == [4, 2, 2, 1]


def test_between_sharp_pixels_nothing_is_negative():
    image = np.zeros(SHAPE)
    image[12, 15] = 1
    assert fourier_series(image[:23, :29], np.array([[12.0], [13.5]])).min() < -0.1
    result = distort(image, drifting())
    assert min(result.truth.min(), result.distorted.min()) >= 0


# The chain.

@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int64", "uint64", "float16", "float32", "float64",
                                   "longdouble"])
def test_without_stages_the_image_comes_back(dtype):
    """In units of the expected counts; the largest whole numbers included, whose sum overflows."""
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1e4
    image = (noise() * 0.99 * float(top)).astype(dtype)
    result = distort(image, chain())
    plain = image.astype(np.float64)
    assert result.truth.dtype == np.float32
    assert np.abs(result.truth / result.scale - plain).max() < 1e-5 * np.ptp(plain)
    assert result.truth.mean(dtype=np.float64) == pytest.approx(20, rel=1e-6)
    assert np.array_equal(result.truth, result.distorted)
    assert not result.mask.any()


@pytest.mark.parametrize("unit", [1e-300, 1e-30, 1e30, 1e300])
def test_the_unit_of_the_image_does_not_matter(unit):
    result = distort(noise() * unit, drifting(detector=(Poisson(),)))
    assert np.allclose(result.truth, distort(noise(), drifting()).truth, rtol=1e-5)
    assert result.scale * unit == pytest.approx(20 / noise().mean(), rel=1e-3)


def test_the_drawn_counts_scale_the_mean():
    """Within 5 standard errors of the counted mean."""
    image = noise((64, 64))
    result = distort(image, chain(detector=(Poisson(), Gain(gain=3.0)), expected_counts={
        "dist": "log_uniform", "low": 5, "high": 500}), seed=4)
    counts = result.drawn.expected_counts
    assert result.truth.mean() == pytest.approx(3 * counts, rel=1e-5)
    assert result.distorted.mean() == pytest.approx(3 * counts, abs=5 * 3 * np.sqrt(counts / image.size))
    units = image * result.scale * result.gain + result.black_level
    assert np.abs(result.truth - units).max() < 1e-5 * np.ptp(units)


@pytest.mark.parametrize("periodic", [False, True])
def test_drift_shifts_what_is_seen(periodic):
    """The image shows the series where the probe was, the truth where it should have been."""
    image = 1 + 0.1 * noise((25, 31))
    result = distort(image, drifting(), periodic=periodic)
    series = fourier_series if periodic else cosine_series
    expected = series(image, result.probe_positions().reshape(2, -1)).reshape(image.shape)
    assert np.abs(result.displacement).max() > 5
    assert np.abs(result.distorted / result.scale - expected).max() < 1e-3 * np.ptp(image)
    assert np.abs(result.truth / result.scale - image).max() < 1e-5


def test_what_lies_beyond_the_image_is_flagged():
    result = distort(noise(), drifting())
    last = np.array(SHAPE)[:, None, None] - 1
    beyond = np.zeros(SHAPE, np.bool_)
    for positions in (result.truth_positions(), result.probe_positions()):
        beyond |= ((positions < -1e-6) | (positions > last + 1e-6)).any(axis=0)
    assert 0.05 < beyond.mean() < 0.95
    assert np.array_equal(result.mask & MaskBit.MIRRORED > 0, beyond)


def test_an_enlarged_part_is_flagged_where_it_is_shown():
    """The user's program enlarges the flags with the part that was scanned, each pixel to its nearest ones."""
    far = Drift(distance=24.0, direction=225.0, bend=20.0, bend_direction=45.0)
    wanted = chain(scan=(far,), truth_geometry="ideal", artefact=(Resample(share=0.5, probability=1.0),))
    result = distort(noise((40, 40)), wanted, seed=3)
    where = wanted.positions((40, 40), 3, 0)
    beyond = np.zeros(where.shape, np.bool_)
    for positions in (where.truth_positions(), where.probe_positions()):
        beyond |= ((positions < -1e-6) | (positions > 39 + 1e-6)).any(axis=0)
    assert where.shape == (20, 20)
    assert 0.05 < beyond.mean() < 0.95
    assert np.array_equal(result.mask & MaskBit.MIRRORED > 0, np.repeat(np.repeat(beyond, 2, axis=0), 2, axis=1))


def test_a_camera_sees_the_mirror_around_the_image():
    """Its point spread collects from there; nothing is flagged, because no pixel of the image lies beyond it."""
    result = distort(np.ones(SHAPE), chain(camera=(Conversion(),), expected_counts=1e4), seed=1)
    assert not (result.mask & MaskBit.MIRRORED).any()
    # 5 standard errors of 2 rows at a quantum efficiency of 0.3, the least that is drawn.
    assert result.distorted[:2].mean() == pytest.approx(1e4, abs=5 * np.sqrt(1e4 / 0.3 / 60))


def test_nothing_lies_beyond_a_periodic_image():
    assert not distort(noise(), drifting(), periodic=True).mask.any()


@pytest.mark.parametrize("seed", range(5))
def test_cropping_scans_a_smaller_frame(seed):
    """Whose displacement it has, and two pixels more on each side would be too wide."""
    wanted = chain(scan=(RowJitter(sigma=2.0, ratio=0.8, correlation=0.5), FlyBack(
        amplitude=6.0, amplitude_frame=4.0, settling=1e-3)))
    image = noise((40, 48))
    result = distort(image, wanted, seed, edge="crop")
    rows, cols = result.corner
    assert max(result.corner) >= 2
    assert not (result.mask & MaskBit.MIRRORED).any()
    inner = distort(image[rows : 40 - rows, cols : 48 - cols], wanted, seed)
    assert result.truth.shape == inner.truth.shape
    assert np.array_equal(result.displacement, inner.displacement)
    for axis, corner in enumerate([(rows - 2, cols), (rows, cols - 2)]):
        if corner[axis] < 0:
            continue
        where = result.drawn.positions((40 - 2 * corner[0], 48 - 2 * corner[1]), seed, 0)
        seen = np.stack([where.truth_positions(), where.probe_positions()])[:, axis] + corner[axis]
        assert seen.min() < 0 or seen.max() > image.shape[axis] - 1


def test_cropping_changes_nothing_where_nothing_strays():
    result = distort(noise(), chain(), edge="crop")
    assert (result.truth.shape, result.corner) == (SHAPE, (0, 0))


def test_it_draws_as_the_recipe_does():
    recipe = fakes.recipe()
    recipe = recipe.model_copy(update={"distort": Chain(scan=(RowJitter(probability=0.5), Drift(probability=0.5)))})
    for index in range(4):
        assert distort(noise(), recipe.distort, recipe.seed, index).drawn == recipe.draw(index).distort


def test_index_3_is_index_3(tmp_path):
    """Alone, among others, and drawn before: the same bytes, also in the file."""
    wanted = Chain(scan=(RowJitter(),), detector=(Poisson(), Gain()), undistorted=0)
    among = [distort(noise(), wanted, 7, index) for index in range(5)][3]
    alone = distort(noise(), among.drawn, 7, 3)
    assert among.save(tmp_path / "a.npz").read_bytes() == alone.save(tmp_path / "b.npz").read_bytes()
    assert not np.array_equal(alone.distorted, distort(noise(), wanted, 7, 4).distorted)


# What is refused.

NOT_FINITE = noise()
NOT_FINITE[4, 7] = np.nan
INFINITE = noise()
INFINITE[0, 1] = np.inf
MASKED = np.ma.masked_less(noise(), 0.5)


@pytest.mark.parametrize(("image", "words"), [
    (NOT_FINITE, "1 of 720 pixels are NaN or infinite, the first at row 4, column 7"),
    (INFINITE, "1 of 720 pixels are NaN or infinite, the first at row 0, column 1"),
    (noise().astype("longdouble") * np.longdouble("1e400"), "are NaN or infinite"),
    (noise() - 0.5, r"the lowest intensity is -0.4\d+, .* subtract the black level"),
    (np.zeros(SHAPE), "every pixel is 0"),
    (np.zeros((0, 5)), "0 × 5 px is too small"),
    (noise((1, 30)), "1 × 30 px is too small to interpolate in; give at least 4 × 4 px"),
    (noise((30, 3)), "30 × 3 px is too small"),
    (3.0, r"has 0 axes \(no axes\), not 2"),
    (noise((30,)), r"has 1 axes \(30\), not 2: give a 2-D array"),
    (noise((64, 64, 1)), r"has 3 axes \(64 × 64 × 1\), not 2: one channel, .* give image\[\.\.\., 0\]"),
    (noise((8, 9, 3)), r"a colour image; make it grey first, e.g. image\[..., :3\].mean"),
    (noise((5, 8, 9)), r"has 3 axes \(5 × 8 × 9\), not 2: a stack; give one image of it, e.g. image\[0\]"),
    (noise() * 1j, "holds complex128 values.*abs"),
    (noise() > 0.5, "holds bool values.*mask"),
    (np.array([[1, None]] * 4), "holds object values"),
    ([[1, 2], [3]], "not an array of numbers"),
    ("picture.png", "'picture.png': that is a path; read it first"),
    (Path("clean.npy"), "'clean.npy': that is a path; read it first"),
    (MASKED, r"\d+ pixels are masked; fill them first")])
def test_images_that_no_detector_counts_are_refused(image, words):
    with pytest.raises(FieldError, match=f"^image: .*{words}") as said:
        distort(image, chain())
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"chain": {"scan": []}}, "chain: dict is not a Chain; .*Recipe.load"),
    ({"seed": -1}, "seed: -1 is not a whole number of at least 0"),
    ({"seed": 1.5}, "seed: 1.5 is not a whole"),
    ({"seed": 2**63}, r"seed: 9223372036854775808 is too large: below 2\*\*63"),
    ({"index": 10**23}, r"index: 1000\d+ is too large: below 2\*\*63"),
    ({"index": -2}, "index: -2 is not a whole"),
    ({"index": True}, "index: True is not a whole"),
    ({"index": "3"}, "index: '3' is not a whole"),
    ({"sampling": 0}, "sampling: 0 Å is not a finite size above 0"),
    ({"sampling": float("nan")}, "sampling: nan Å"),
    ({"sampling": "0.1 Å"}, "sampling: '0.1 Å' Å"),
    ({"edge": "clamp"}, "edge: 'clamp' is not one of 'mirror', 'crop'"),
    ({"chain": chain(scan=(Drift(distance=40.0, direction=0.0, bend=0.0),), truth_geometry="ideal"), "edge": "crop"},
     "edge: 'crop' leaves nothing of an image of 24 × 30 px")])
def test_arguments_out_of_range_are_refused(arguments, words):
    with pytest.raises(FieldError, match=f"^{words}"):
        distort(noise(), **{"chain": chain(), **arguments})


def test_whole_numbers_of_numpy_will_do():
    assert distort(noise(), chain(), seed=np.int64(3), index=np.uint8(2), sampling=np.float32(0.5)).index == 2


def test_the_largest_key_can_be_kept(tmp_path):
    largest = 2**63 - 1
    path = distort(noise(), chain(detector=(Poisson(),)), seed=largest, index=largest).save(tmp_path / "a.npz")
    with np.load(path) as held:
        assert (held["seed"], held["index"]) == (largest, largest)


def test_it_stays_callable_when_every_module_is_loaded():
    """No module may hide a public name."""
    for module in pkgutil.walk_packages(emsynth.__path__, "emsynth."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert all(callable(getattr(emsynth, name)) for name in emsynth.__all__ if name != "__version__")


# Files.

def saved(path, image):
    """The image as a file of the kind that the path's suffix says."""
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".npz":
        np.savez(path, image)
    elif path.suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        tifffile.imwrite(path, image, photometric="minisblack")
    return path


@pytest.mark.parametrize(("name", "dtype"), [
    ("a.npy", "float64"), ("a.npz", "int32"), ("a.png", "uint8"), ("a.png", "uint16"), ("a.tif", "uint8"),
    ("a.TIFF", "uint16"), ("a.tif", "int32"), ("a.tif", "float32"), ("a.tiff", "float64")])
def test_images_are_read_as_they_are(tmp_path, name, dtype):
    image = (noise() * 250).astype(dtype)
    read = read_image(saved(tmp_path / name, image))
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read, image)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.npy", None, "there is no such file"),
    ("a.npy", b"", "cannot be read as .npy"),
    ("a.png", b"\x89PNG\r\n\x1a\n", "cannot be read as .png"),
    ("a.tif", b"II*\0", "cannot be read as .tif"),
    ("a.npz", b"PK", "cannot be read as .npz"),
    ("a.jpg", b"", "a JPEG is lossy"),
    ("a.dm3", b"", r"\.dm3 is not one of \.npy.*rsciio"),
    ("a", b"", "no suffix is not one of"),
    (".", None, "is a folder; give one image in it"),
    ("a.npy", np.array([[{}] * 5] * 5), "cannot be read as .npy"),
    ("a.png", np.zeros((5, 5), np.bool_), "is a two-level picture, not 8 or 16 bit grey"),
    ("a.png", np.zeros((5, 5, 3), np.uint8), "is a RGB picture, not 8 or 16 bit grey")])
def test_files_that_hold_no_image_are_refused(tmp_path, name, content, words):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        saved(path, content)
    with pytest.raises(StoreError, match=f"^{re.escape(str(path))}: .*{words}"):
        read_image(path)


@pytest.mark.parametrize(("name", "image", "words"), [
    ("a.tif", noise((3, 20, 20)), "a stack; give one image"), ("a.npy", noise((9, 9, 3)), "a colour image"),
    ("a.npy", noise() - 1, "the lowest intensity")])
def test_a_file_is_named_where_its_image_is_wrong(tmp_path, name, image, words):
    path = saved(tmp_path / name, image)
    with pytest.raises(FieldError, match=f"^{re.escape(str(path))}: .*{words}"):
        read_image(path)


def test_an_archive_of_several_arrays_is_no_image(tmp_path):
    np.savez(tmp_path / "a.npz", one=noise(), two=noise())
    with pytest.raises(StoreError, match=r"holds 2 arrays \(one, two\)"):
        read_image(tmp_path / "a.npz")


def test_a_palette_is_no_intensity(tmp_path):
    Image.new("P", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(StoreError, match="is a palette picture, not 8 or 16 bit grey"):
        read_image(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8), photometric="palette",
                     colormap=np.zeros((3, 256), np.uint16))
    with pytest.raises(StoreError, match="not intensities \\(PALETTE\\)"):
        read_image(tmp_path / "a.tif")


@pytest.fixture
def result():
    return distort(noise(), drifting(detector=(Poisson(),)), seed=5, index=6, sampling=0.25)


def test_an_npz_holds_everything(tmp_path, result):
    with np.load(result.save(tmp_path / "a.npz"), allow_pickle=False) as held:
        for name in ("truth", "distorted", "displacement", "affine", "mask"):
            assert np.array_equal(held[name], getattr(result, name))
            assert held[name].dtype == getattr(result, name).dtype
        again = distort(noise(), Chain.model_validate(json.loads(str(held["drawn"]))), 5, 6)
        assert np.array_equal(again.distorted, held["distorted"])
        assert (held["seed"], held["index"], held["sampling"]) == (5, 6, 0.25)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert result.save(tmp_path / "B.NPZ").is_file()


def test_a_tiff_holds_pages(tmp_path, result):
    with tifffile.TiffFile(result.save(tmp_path / "a.tif")) as held:
        about, pages = json.loads(held.pages[0].description), held.asarray()
    assert pages.dtype == np.float32
    shown = dict(zip(about["pages"], pages, strict=True))
    assert np.array_equal(shown["distorted"], result.distorted)
    assert np.array_equal(shown["displacement_col"], result.displacement[1])
    assert np.array_equal(shown["mask"], result.mask)
    assert about["drawn"] == result.drawn.model_dump(mode="json")


def test_a_png_shows_the_distorted_image(tmp_path, result):
    """To half a grey of 65536; the rest is beside it."""
    grey = read_image(result.save(tmp_path / "a.png"))
    assert (grey.min(), grey.max()) == (0, 65535)
    with np.load(tmp_path / "a.npz") as held:
        back = held["png_offset"] + held["png_step"] * grey
        assert np.abs(back - result.distorted).max() <= 0.501 * held["png_step"]
        assert np.array_equal(held["truth"], result.truth)


@pytest.mark.parametrize(("name", "there"), [("a.npz", "a.npz"), ("a.tif", "a.tif"), ("a.png", "a.npz")])
def test_nothing_is_replaced_unasked(tmp_path, result, name, there):
    (tmp_path / there).write_text("precious")
    with pytest.raises(StoreExistsError, match=f"{there}: is already there"):
        result.save(tmp_path / name)
    assert (tmp_path / there).read_text() == "precious"
    assert result.save(tmp_path / name, overwrite=True).stat().st_size > 1000


@pytest.mark.parametrize(("name", "words"), [
    ("a.jpg", r"\.jpg is not one of \.npz"), ("none/a.npz", "there is no folder"), ("folder.npz", "is a folder")])
def test_outputs_that_cannot_be_are_refused(tmp_path, result, name, words):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(StoreError, match=words):
        result.save(tmp_path / name)


def test_a_failed_write_leaves_nothing(tmp_path, result, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.npz").write_text("precious")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="cannot be written \\(No space left on device\\)"):
        result.save(tmp_path / "a.npz", overwrite=True)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["precious"]


# The verb.

@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a recipe and an image, which the command runs in."""
    monkeypatch.chdir(tmp_path)
    content = {"name": "try", "seed": 9, "samples": 2, "fields": 1, "specimen": {"kind": "crystal", "structure": "Au"},
               "distort": {"scan": [{"stage": "row_jitter"}], "detector": [{"stage": "poisson"}], "undistorted": 0}}
    (tmp_path / "try.yaml").write_text(json.dumps(content))  # JSON is YAML
    saved(tmp_path / "clean.tif", noise().astype(np.float32))
    return tmp_path


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["distort", *map(str, arguments)])


def test_the_verb_does_what_the_function_does(workplace):
    said = run("clean.tif", "--recipe", "try.yaml", "--set", "distort.expected_counts=20", "--index", 3)
    assert (said.exit_code, said.stdout) == (0, "clean-distorted.npz\n")
    assert said.stderr == "seed 9, index 3: row_jitter, poisson\n"
    wanted = Recipe.load("try.yaml", ["distort.expected_counts=20"])
    expected = distort(noise().astype(np.float32), wanted.distort, 9, 3)
    with np.load("clean-distorted.npz") as held:
        assert held["expected_counts"] == 20
        assert np.array_equal(held["distorted"], expected.distorted)


@pytest.mark.parametrize(("setting", "words"), [
    ("distort.undistorted=1", "identity pair (undistorted), nothing was done"),
    ("distort.detector.poisson.probability=0", "row_jitter")])
def test_the_verb_says_what_was_drawn(workplace, setting, words):
    said = run("clean.tif", "--recipe", "try.yaml", "--seed", 5, "--index", 3, "--set", setting)
    assert (said.stdout, said.stderr) == ("clean-distorted.npz\n", f"seed 5, index 3: {words}\n")


BARE = "expected_counts: 40\nundistorted: 0\nscan:\n  - {stage: row_jitter}\n"
SECTION = "distort:\n  expected_counts: 40\n  undistorted: 0\n  scan:\n    - {stage: row_jitter}\n"


@pytest.mark.parametrize(("text", "setting", "seed"), [
    (BARE, "expected_counts=20", 0), (BARE, "distort.expected_counts=20", 0),
    (SECTION, "distort.expected_counts=20", 0), (SECTION + "seed: 4\n", "distort.scan.row_jitter.ratio=0", 4)])
def test_a_chain_alone_will_do(workplace, text, setting, seed):
    """It is the chain that a recipe with this section has."""
    (workplace / "chain.yaml").write_text(text)
    assert run("clean.tif", "--recipe", "chain.yaml", "--set", setting).exit_code == 0
    section = json.loads((workplace / "try.yaml").read_text()) | {"distort": {
        "expected_counts": 40, "undistorted": 0, "scan": [{"stage": "row_jitter"}]}}
    (workplace / "whole.yaml").write_text(json.dumps(section))
    wanted = Recipe.load("whole.yaml", ["distort." + setting.removeprefix("distort.")]).distort
    with np.load("clean-distorted.npz") as held:
        assert np.array_equal(held["distorted"], distort(noise().astype(np.float32), wanted, seed).distorted)


@pytest.mark.parametrize(("text", "settings", "line"), [
    ("dwell: 1e-6\nexpected_counts: -1\n", [], r"chain.yaml:2: expected_counts: -1.* 0\.001"),
    ("undistorted: 0\nscan:\n  - {stage: row_jitter}\n  - {stage: drift, distance: far}\n", [],
     r"chain.yaml:4: scan.1.distance: 'far' is not a number"),
    ("undistorted: 0\nscan:\n  - {stage: hum}\n  - {stage: hum}\n", [], r"chain.yaml:2: scan: 'hum' stands 2 times"),
    ("dwel: 1e-6\n", [], r"chain.yaml:1: dwel: unknown key; did you mean 'dwell'\?"),
    ("distort:\n  dwel: 1e-6\n", [], r"chain.yaml:2: distort.dwel: unknown key; did you mean 'dwell'\?"),
    ("undistorted: 0\n", ["distort.dwell=-1"], "--set dwell=-1: dwell: -1"),
    ("dwell: {dist: deal, values: [1e-6]}\n", [], "dist 'deal' hands out"),
    ("name: x\ndwell: 1e-6\n", [], "chain.yaml:2: dwell: unknown key")])
def test_mistakes_in_a_chain_have_their_place(workplace, text, settings, line):
    (workplace / "chain.yaml").write_text(text)
    with pytest.raises(RecipeError) as said:
        load_chain("chain.yaml", settings)
    assert re.search(f"^{line}" if ":" in line else line, str(said.value), re.MULTILINE), said.value


def test_the_verb_passes_its_options_on(workplace):
    said = run("clean.tif", "--recipe", "try.yaml", "--seed", 3, "--edge", "crop", "--sampling", 0.2, "--out", "a.tif",
               "--set", "distort.scan.row_jitter.sigma=2")
    assert said.stdout == "a.tif\n"
    about = json.loads(tifffile.TiffFile("a.tif").pages[0].description)
    assert (about["seed"], about["sampling"]) == (3, 0.2)
    assert about["corner"][1] > 0


def test_the_verb_replaces_only_when_told(workplace):
    assert run("clean.tif", "--recipe", "try.yaml").exit_code == 0
    said = run("clean.tif", "--recipe", "try.yaml")
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr.startswith("error: clean-distorted.npz: is already there")
    assert run("clean.tif", "--recipe", "try.yaml", "--overwrite").exit_code == 0


@pytest.mark.parametrize(("image", "out"), [("clean.tif", "clean.tif"), ("only.npz", "only.png")])
def test_the_clean_image_is_never_replaced(workplace, image, out):
    saved(workplace / "only.npz", noise())
    before = (workplace / image).read_bytes()
    said = run(image, "--recipe", "try.yaml", "--out", out, "--overwrite")
    assert said.exit_code == 1
    assert "is the clean image itself" in said.stderr
    assert (workplace / image).read_bytes() == before


@pytest.mark.parametrize(("arguments", "code"), [
    (["none.tif", "--recipe", "try.yaml"], 1), ([".", "--recipe", "try.yaml"], 1),
    (["clean.tif", "--recipe", "no_such_recipe"], 1), (["clean.tif", "--recipe", "try.yaml", "--out", "a.gif"], 1),
    (["clean.tif", "--recipe", "try.yaml", "--set", "distort.dwell=-1"], 1),
    (["clean.tif", "--recipe", "try.yaml", "--sampling", "-1"], 1),
    (["clean.tif"], 2), (["--recipe", "try.yaml"], 2), (["clean.tif", "--recipe", "try.yaml", "--seed", "-1"], 2),
    (["clean.tif", "--recipe", "try.yaml", "--seed", "9" * 23], 2),
    (["clean.tif", "--recipe", "try.yaml", "--index", str(2**63)], 2),
    (["clean.tif", "--recipe", "try.yaml", "--index", "-1"], 2),
    (["clean.tif", "--recipe", "try.yaml", "--edge", "clamp"], 2)])
def test_what_goes_wrong_has_a_code_and_one_line(workplace, arguments, code):
    said = run(*arguments)
    assert (said.exit_code, said.stdout) == (code, "")
    assert code == 2 or re.fullmatch(r"error: .+\n", said.stderr)
    assert not list(workplace.glob("*distorted*"))


def test_the_verb_explains_itself_within_80_columns():
    said = run("--help")
    assert "Example: emsynth distort" in said.stdout
    assert max(map(len, said.stdout.splitlines())) <= 80


def test_checks_do_not_copy():
    """A frame of gigabytes is not held twice for a look at it."""
    image = noise()
    assert check_image(image) is image
