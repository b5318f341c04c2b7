"""Data sets from the user's own clean images: which is which field, what a sample may see, what is said of mistakes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import emsynth
from emsynth import builder, store, view
from emsynth.cli import app
from emsynth.cli.schema import recipe_schema
from emsynth.distortion import Grid
from emsynth.draw import Streams
from emsynth.errors import EmsynthError, FieldError, RecipeError, StoreError
from emsynth.oversampling import oversample
from emsynth.passes import outline
from emsynth.reach import reach_of
from emsynth.recipe import Recipe
from emsynth.sample import bytes_at_hand, render, simulate
from emsynth.simulation.images import content_of, split_of

PLACE = view.place
STILL = {"undistorted": 0.0, "expected_counts": 50.0}
SCAN = {"undistorted": 0.0, "scan": [{"stage": "row_jitter", "sigma": 1.0}, {"stage": "drift", "distance": 6.0},
                                     {"stage": "fly_back"}, {"stage": "scan_speed"}]}
TEXT = """\
name: mine
samples: 4
fields: 2
image: {size: 16}
simulate: {kind: images, folder: clean/, pixel_size: 0.2}
"""


def noise(shape=(64, 72), seed=0) -> np.ndarray:
    """Every spatial frequency up to Nyquist, but not so strong that it rings below 0."""
    return 10 + np.random.default_rng(seed).random(shape)


@pytest.fixture
def clean(tmp_path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    for n in range(3):
        np.save(folder / f"im{n}.npy", noise(seed=n))
    (folder / "notes.txt").write_text("not an image")
    (folder / ".im.png").write_text("nor is what the system hides")
    return folder


def recipe(folder: Path, distort=STILL, image=(), own=(), **top) -> Recipe:
    return Recipe.model_validate({
        "name": "mine", "samples": 6, "fields": 3, "image": {"size": 24, **dict(image)}, "distort": distort,
        "simulate": {"kind": "images", "folder": str(folder), "pixel_size": 0.2, **dict(own)}, **top})


def loaded(folder: Path, text: str = TEXT, *settings: str) -> Recipe:
    (folder / "my.yaml").write_text(text)
    return Recipe.load(folder / "my.yaml", settings)


def test_fields_are_the_images_in_the_order_of_their_names(clean):
    for n in range(3):
        field = simulate(recipe(clean), n)
        expected = np.load(clean / f"im{n}.npy")
        np.testing.assert_allclose(field.image[0, 0] * expected.max(), expected, rtol=1e-6)
        assert field.provenance["image"]["sha256"] == hashlib.sha256((clean / f"im{n}.npy").read_bytes()).hexdigest()


def test_a_window_without_displacement_shows_the_image_itself(clean):
    """As large as the image, at its own pixel: only the scale to electrons is between them."""
    np.save(clean / "im0.npy", noise((40, 40)))
    made = recipe(clean, image={"size": 40, "rotation": 0.0, "flip": 0.0})
    sample = render(made, 0)
    image = np.load(clean / "im0.npy")
    # Of float32 in the oversampled image.
    np.testing.assert_allclose(sample.truth, image * (50 / image.mean()), rtol=1e-5)
    assert sample.sampling == 0.2


def test_a_recipe_and_distort_see_the_same(clean):
    """One image, one chain, one index: whole image through a recipe, and through `emsynth.distort`."""
    image = noise((40, 40))
    np.save(clean / "im0.npy", image)
    chain = {**STILL, "detector": [{"stage": "read_noise", "sigma": 1.0}]}
    made = recipe(clean, chain, {"size": 40, "rotation": 0.0, "flip": 0.0}, fields=1)
    sample = render(made, 2)
    alone = emsynth.distort(image, made.distort, made.seed, 2, 0.2)
    np.testing.assert_allclose(sample.truth, alone.truth, rtol=1e-5)
    np.testing.assert_allclose(sample.distorted, alone.distorted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("periodic", [False, True])
def test_what_a_sample_shows_is_where_it_says(clean, periodic):
    """A wave, seen by truth and probe at the positions that the sample reports, up to where the window lies.

    A periodic image may be smaller than the window: the wave goes on. One that is not must hold all of it.
    """
    side = 40 if periodic else 100
    rows, cols = np.mgrid[:side, :side]
    row, col = 2 * np.pi * np.array([5, 9]) / 40
    np.save(clean / "im0.npy", 2 + np.cos(row * rows + col * cols))
    made = recipe(clean, {**SCAN, "scan": SCAN["scan"][:3]}, {"size": 48, "rotation": 0.0, "flip": 0.0},
                  {"periodic": periodic}, fields=1)
    sample = render(made, 0)
    r, c = np.mgrid[:48, :48]
    shared = np.einsum("ij,jrc->irc", sample.affine, np.stack([r, c, np.ones((48, 48))]))
    for seen, share in ((sample.truth, 0), (sample.distorted, 1)):
        moved = np.stack([r, c]) + shared + share * sample.displacement.astype(float)
        phase = row * moved[0] + col * moved[1]
        waves = np.stack([np.ones(phase.size), np.cos(phase).ravel(), np.sin(phase).ravel()], axis=1)
        rest = np.linalg.lstsq(waves, seen.ravel().astype(float), rcond=None)[1]
        # The spline of the oversampled image is off by 1e-3 of a wave at Nyquist, and much less here.
        assert rest / seen.size < (1e-3 * seen.mean())**2
        assert not periodic or all(simulate(made, 0).repeats)


@pytest.mark.parametrize("distort", [
    SCAN, {**SCAN, "truth_geometry": "smooth"}, {**SCAN, "detector": [{"stage": "streak", "decay": 2.0}]},
    {"undistorted": 0.0, "camera": [{"stage": "conversion"}]}, {**SCAN, "artefact": [{"stage": "resample"}]}])
@pytest.mark.parametrize("turn", [(0.0, False), (37.0, True)])
def test_the_reach_holds_all_that_a_chain_looks_at(clean, distort, turn):
    """Against every grid that the chain really asks for."""
    made = recipe(clean, distort)
    rotation, flip = turn
    angle = np.radians(rotation)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix[1] *= -1 if flip else 1
    for index in range(8):
        drawn, seen = made.draw(index), []

        def gather(grid, seen=seen):
            seen.append(matrix @ (grid.positions().reshape(2, -1) - 11.5))
            return np.ones(grid.shape, np.float32)

        drawn.distort.run(gather, (24, 24), made.seed, index, 0.2)
        low, high = reach_of(drawn.image, drawn.distort, made.seed, index).span(rotation, flip)
        everything = np.concatenate(seen, axis=1)
        assert np.all(everything.min(axis=1) >= low - 1e-4)
        assert np.all(everything.max(axis=1) <= high + 1e-4)


@pytest.mark.parametrize("image", [{}, {"rotation": {"dist": "uniform", "low": 0, "high": 360}},
                                   {"perfect": 0.0, "strain": 0.02}])
def test_no_sample_sees_beyond_its_image(clean, image):
    """An image hardly larger than the window: a sample that does not fit says so, and no gather leaves the image."""
    np.save(clean / "im0.npy", noise((34, 34)))
    made, said = recipe(clean, SCAN, {"size": 24, **image}, samples=40, fields=1), []
    for index in range(40):
        try:
            render(made, index)
        except FieldError as wrong:
            said.append(str(wrong))
    assert 0 < len(said) < 30
    assert [line for line in said if "im0.npy is 34 x 34 px, and sample" not in line] == []


def test_an_image_that_is_too_small_says_which_window_would_fit(clean):
    np.save(clean / "im0.npy", noise((40, 50)))
    for name, size in (("im1", 30), ("im2", 90)):
        np.save(clean / f"{name}.npy", noise((size, size)))
    made = recipe(clean, SCAN, {"size": 60}, samples=3)
    with pytest.raises(FieldError, match=r"im0.npy is 40 x 50 px, and sample 0, 60 px of 0.2 Å, looks at") as said:
        outline(made, 0)
    smaller = int(re.search(r"set image.size to (\d+) or less", str(said.value))[1])
    assert 16 <= smaller <= 40
    assert outline(made, 2).shape == (90, 90)


@pytest.mark.parametrize(("side", "asked", "distort", "named"), [
    (8, {"size": 128}, STILL, 0), (8, {"size": 16}, STILL, 1), (40, {"size": 39}, SCAN, 3),
    (70, {"size": 128}, SCAN, 2), (4, {"size": 4096, "pixel_size": 0.01}, STILL, 1)])
def test_every_way_out_of_too_small_an_image_leads_somewhere(clean, side, asked, distort, named):
    """Each of those that the message names, done alone, lets the sample fit; and no impossible one is named."""
    np.save(clean / "im0.npy", noise((side, side)))
    still = {"rotation": 0.0, "flip": 0.0, **asked}
    with pytest.raises(FieldError) as said:
        outline(recipe(clean, distort, still, samples=1, fields=1), 0)
    pixel = re.search(r"lower image.pixel_size to ([\d.]+) or less", str(said.value))
    size = re.search(r"set image.size to (\d+) or less", str(said.value))
    rows, cols = map(int, re.search(r"give an image of (\d+) x (\d+) px or more", str(said.value)).groups())
    ways = [(distort, {**still, "pixel_size": float(pixel[1])})] if pixel else []
    ways += [(distort, {**still, "size": int(size[1])})] if size else []
    ways += [(STILL, still)] if "lower the displacement" in str(said.value) else []
    for chain, window in ways:
        outline(recipe(clean, chain, window, samples=1, fields=1), 0)
    assert len(ways) == named
    np.save(clean / "im0.npy", noise((rows, cols)))
    outline(recipe(clean, distort, still, samples=1, fields=1), 0)


def test_a_larger_pixel_than_fits_becomes_one_that_does(clean):
    made = recipe(clean, STILL, {"size": 40, "pixel_size": {"dist": "uniform", "low": 0.1, "high": 1.0}}, samples=30)
    sizes = [render(made, i).sampling for i in range(30)]
    # 63 steps of 0.2 Å along the rows hold 39 of the window's.
    assert max(sizes) == pytest.approx(63 * 0.2 / 39)
    assert min(sizes) < 0.3


def test_a_sharp_image_does_not_ring_below_zero(clean):
    """Single bright pixels on black: the series between them is negative, an intensity is not."""
    image = np.zeros((64, 64))
    image[::7, ::5] = 1
    np.save(clean / "im0.npy", image)
    made = recipe(clean, SCAN, fields=1)
    assert min(render(made, i).truth.min() for i in range(4)) == 0


def disc(side: int, radius: float) -> np.ndarray:
    """A sharp disc on exactly nothing."""
    rows, cols = np.mgrid[:side, :side] - (side - 1) / 2
    return (rows**2 + cols**2 < radius**2).astype(float)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 31.0])
def test_no_sample_shows_the_ringing_of_an_empty_area(clean, monkeypatch, periodic, rotation):
    """The truth is the image's series, scaled by its own mean, and that is of the disc's order, not of its ringing."""
    image = disc(200, 30)
    np.save(clean / "im0.npy", image)
    made = recipe(clean, SCAN, {"rotation": rotation}, {"periodic": periodic}, samples=24, fields=1)
    field, whole, placed = simulate(made, 0), oversample(image.astype(np.float32), periodic), []
    monkeypatch.setattr(view, "place", lambda *args: placed.append(window := PLACE(*args)) or window)
    for index in range(24):
        sample = render(made, index, field)
        positions = made.draw(index).distort.positions((24, 24), made.seed, index)
        seen = whole.through(placed[-1], 0.2, positions.truth_grid())
        np.testing.assert_allclose(sample.truth, seen * (sample.expected_counts / seen.mean(dtype=float)), rtol=1e-5)
        at = placed[-1].to_specimen(positions.truth_positions().reshape(2, -1).T) / 0.2
        row, col = np.rint(at).astype(int).T % 200
        assert image[row, col].mean() >= 1e-3
    # Nine in ten places are empty, so that many were drawn again.
    assert len(placed) > 3 * 24


def test_another_place_is_drawn_the_same_each_time_and_only_where_one_is_empty(clean):
    """A sample whose first place shows something is as it would be on an image with a background."""
    image = disc(200, 60)
    np.save(clean / "im0.npy", image)
    np.save(clean / "im1.npy", image + 0.01)
    made = [recipe(clean, fields=1, samples=samples) for samples in (20, 40)]
    dark, lit = simulate(recipe(clean), 0), simulate(recipe(clean), 1)
    same = 0
    for index in range(20):
        drawn = made[0].draw(index)
        first, again = (view.window_of(made[n], drawn, dark, index)[1] for n in (0, 1))
        assert first.origin == again.origin
        beside = view.window_of(made[0], drawn, lit, index)[1]
        shows = view.brightness(beside, dark, Grid((24, 24), np.eye(2, 3))) >= 1e-3
        assert (first.origin == beside.origin) == shows
        same += shows
    assert 0 < same < 20


def test_an_image_where_every_window_is_empty_is_refused_before_the_build(clean, tmp_path):
    """By the first look of check and of build, and by a sample of its own."""
    image = np.zeros((400, 400))
    image[7, 7] = 1
    np.save(clean / "im1.npy", image)
    wanted = r"image.size: im1.npy is empty where sample 1 looks, 24 px of 0.2 Å around row \d+, column \d+ of it, "
    made = recipe(clean)
    with pytest.raises(FieldError, match=wanted):
        outline(made, 1)
    with pytest.raises(FieldError, match=wanted):
        builder.build(made, tmp_path / "o.zarr", workers=1)
    assert not (tmp_path / "o.zarr").exists()
    with pytest.raises(FieldError, match="sample 4"):
        render(made, 4)


def test_splits_are_80_10_10_by_what_the_image_shows(clean, tmp_path):
    """Within four standard deviations of a binomial; and the same picture in another kind of file is in the same."""
    names = [split_of(f"image {hashlib.sha256(bytes([n % 256, n // 256])).hexdigest()[:12]}") for n in range(4000)]
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert abs(names.count(split) - 4000 * share) < 4 * np.sqrt(4000 * share * (1 - share))
    assert split_of("fcc") is None
    grey = (np.arange(30 * 40).reshape(30, 40) % 251).astype(np.uint8)
    Image.fromarray(grey).save(clean / "a.png")
    np.save(clean / "b.npy", grey.astype(np.float64))
    made = recipe(clean, fields=2)
    assert simulate(made, 0).prototype == simulate(made, 1).prototype
    assert content_of(np.zeros((2, 3), np.float32)) != content_of(np.zeros((3, 2), np.float32))


def test_a_data_set_of_images_builds_verifies_and_replays_without_them(clean, tmp_path):
    path = builder.build(recipe(clean, SCAN, store={"shard": 4}), tmp_path / "o.zarr", workers=1)
    assert store.verify(path) == []
    shutil.rmtree(clean)
    assert builder.replay(path, 5).same
    shown = dict(store.describe(path))
    assert shown["images"] == "3 from clean"
    assert shown["physics"] == "user image 6"
    assert str(tmp_path) not in store.read_kept(path, 0)["drawn"].item() + (path / "zarr.json").read_text()
    with store.open_dataset(path) as held:
        for n in range(3):
            assert len(set(held["split"].values[held["field"].values == n])) == 1
        assert np.isnan(held["thickness"].values).all()
        assert not held["column_count"].values.any()


def test_a_changed_image_is_refused_and_a_moved_folder_is_not(clean, tmp_path):
    path = builder.build(recipe(clean), tmp_path / "o.zarr", workers=1, fields=range(1))
    moved = shutil.copytree(clean, tmp_path / "elsewhere" / "clean")
    builder.build(recipe(moved), path, workers=1, resume=True)
    assert store.open_store(path).complete
    np.save(moved / "im2.npy", noise(seed=9))
    with pytest.raises(StoreError, match=r"differs in im2.npy \(changed\); take that recipe"):
        builder.build(recipe(moved), path, workers=1, resume=True)
    (moved / "im2.npy").rename(moved / "im3.npy")
    with pytest.raises(StoreError, match=r"differs in field 2 \(im2.npy there, im3.npy here\); take that recipe"):
        builder.build(recipe(moved), path, workers=1, resume=True)


def test_a_changed_image_of_which_nothing_is_kept_yet_is_refused_too(clean, tmp_path):
    path = builder.build(recipe(clean), tmp_path / "o.zarr", workers=1, fields=range(1))
    np.save(clean / "im2.npy", noise(seed=9))
    with pytest.raises(StoreError, match="a structure file or an image; take that recipe"):
        builder.build(recipe(clean), path, workers=1, resume=True)


def test_only_the_images_that_are_used_count(clean):
    """Of two fields, the third image is no part; the second is."""
    before = recipe(clean, fields=2).digest
    np.save(clean / "im2.npy", noise(seed=9))
    assert recipe(clean, fields=2).digest == before
    np.save(clean / "im1.npy", noise(seed=9))
    assert recipe(clean, fields=2).digest != before


def test_a_recipe_of_images_survives_json_and_drawing(clean):
    made = recipe(clean, SCAN)
    drawn = made.draw(4)
    assert not list(drawn.distributions())
    assert Recipe.model_validate_json(drawn.model_dump_json()) == drawn == drawn.draw(4)
    assert (made.specimen, made.microscope, made.image.detector) == (None, None, "image")
    with pytest.raises(RecipeError, match="the fields of this recipe are images"):
        made.draw_field(0)


def test_a_simulating_recipe_writes_as_it_did():
    """Else all its data sets would be of another recipe."""
    plain = Recipe.load("quickstart")
    assert "kind" not in plain.model_dump()["simulate"]
    assert Recipe.load("quickstart", ["simulate.kind=multislice"]).digest == plain.digest


def test_the_memory_of_a_field_counts_its_oversampled_copy(clean):
    field = simulate(recipe(clean), 0)
    assert bytes_at_hand(field) == field.image.nbytes * 17


@pytest.mark.parametrize(("old", "new", "wanted"), [
    ("fields: 2", "fields: 4", "my.yaml:3: fields: 4 images are needed, and FOLDER/clean has 3; set fields to 3 or"),
    ("clean/", "cleen/", "my.yaml:5: simulate.folder: FOLDER/cleen: no such folder; a path is relative to the recipe"),
    ("clean/", "my.yaml", "my.yaml:5: simulate.folder: FOLDER/my.yaml: is a file; give the folder that it is in"),
    ("clean/", ".", "my.yaml:5: simulate.folder: FOLDER: there is no image in it; give a folder of .npy"),
    ("pixel_size: 0.2", "pixel_size: -1", "my.yaml:5: simulate.pixel_size: -1 Å is outside 0.01 to 100000 Å"),
    (", pixel_size: 0.2", "", "my.yaml:5: simulate.pixel_size: is missing, and has no default"),
    ("kind: images", "kind: imges", "my.yaml:5: simulate: kind 'imges' is unknown; did you mean 'images'?"),
    ("size: 16", "detector: HAADF", "my.yaml:4: image.detector: 'HAADF' is not a detector of your images"),
    ("size: 16", "plane: 0.5", "my.yaml:4: image.plane: is given, and your images have no thickness series"),
    ("size: 16", "thickness_variation: {dist: uniform, low: 0, high: 0.5}", "my.yaml:4: image.thickness_variation: is"),
    ("name", "specimen: {kind: crystal, structure: Au}\nname", "my.yaml:1: specimen: is given, and simulate.kind is"),
    ("name", "microscope: {convergence: 20}\nname", "my.yaml:1: microscope: is given, and simulate.kind is images"),
    ("simulate: {kind: images, folder: clean/, pixel_size: 0.2}", "specimen:", "my.yaml:5: specimen: is empty; give"),
    ("simulate: {kind: images, folder: clean/, pixel_size: 0.2}", "", "my.yaml:1: specimen: is missing, and has no")])
def test_a_mistake_is_one_line_with_its_place(clean, old, new, wanted):
    with pytest.raises(RecipeError) as said:
        loaded(clean.parent, TEXT.replace(old, new))
    [line] = str(said.value).splitlines()
    assert line.startswith(f"{clean.parent}/{wanted}".replace("FOLDER", str(clean.parent)))


@pytest.mark.parametrize(("name", "content", "wanted"), [
    ("a.png", np.zeros((32, 32, 3), np.uint8), "is a RGB picture"),
    ("a.npy", np.where(np.eye(32), np.nan, 1.0), "32 of 1024 pixels are NaN or infinite"),
    ("a.npy", -np.ones((32, 32)), "the lowest intensity is -1"),
    ("a.npy", np.ones((2, 32, 32)), "has 3 axes"),
    ("a.jpg", np.zeros((32, 32), np.uint8), "a JPEG is lossy"),
    ("a.dm4", b"", ".dm4 is not one of"),
    ("a.tif", b"II*", "cannot be read as .tif")])
def test_an_image_that_cannot_be_used_is_named(clean, name, content, wanted):
    """Never passed over: the user thinks that it is in."""
    if isinstance(content, bytes):
        (clean / name).write_bytes(content)
    elif name.endswith(".npy"):
        np.save(clean / name, content)
    else:
        Image.fromarray(content).save(clean / name)
    with pytest.raises(EmsynthError, match=re.escape(f"{clean / name}: ") + ".*" + re.escape(wanted)):
        outline(recipe(clean), 0)


@pytest.mark.parametrize("name", ["z.jpg", "z.dm4", "a.jpeg"])
def test_a_picture_of_another_kind_is_an_error_wherever_it_stands(clean, name):
    """Also behind the images that are used; and no number of fields is offered that would lead to it."""
    (clean / name).write_bytes(b"")
    for fields in ("fields: 2", "fields: 9"):
        with pytest.raises(RecipeError) as said:
            loaded(clean.parent, TEXT.replace("fields: 2", fields))
        assert f"my.yaml:5: simulate.folder: {clean / name}: " in str(said.value)
        assert "set fields" not in str(said.value)


def test_check_says_how_many_images_there_are_and_how_large(clean):
    loaded(clean.parent)
    said = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["check", str(clean.parent / "my.yaml")])
    assert said.exit_code == 0, said.stderr
    assert "3 in the folder, 2 used; 2 of 64 x 72 px" in said.stdout
    assert re.search(r"simulate +images", said.stdout)


def test_check_says_which_setting_or_line_makes_a_window_too_large(clean):
    loaded(clean.parent, TEXT.replace("size: 16", "size: 100"))
    file = str(clean.parent / "my.yaml")
    for extra, place in (([], f"{file}:4"), (["--set", "image.size=90"], "--set image.size=90")):
        said = CliRunner().invoke(app, ["check", file, *extra])
        assert said.exit_code == 1
        assert said.stderr.startswith(f"error: {place}: image.size: im0.npy is 64 x 72 px")


def test_a_preview_shows_images(clean):
    loaded(clean.parent)
    out = clean.parent / "p.png"
    said = CliRunner().invoke(app, ["preview", str(clean.parent / "my.yaml"), "-n", "2", "--out", str(out)])
    assert said.exit_code == 0, said.stderr
    assert out.stat().st_size > 10_000


def test_the_schema_asks_for_a_specimen_only_where_one_is_simulated():
    schema = json.loads(recipe_schema())
    assert "specimen" not in schema["required"]
    assert schema["else"] == {"required": ["specimen"]}
    assert "kind" not in schema["$defs"]["Simulation"].get("required", [])
    assert schema["$defs"]["OwnImages"]["required"] == ["kind", "folder", "pixel_size"]


def test_the_draws_of_a_sample_do_not_depend_on_the_images(clean):
    """The chain of sample i is what `emsynth.distort` draws for index i."""
    made = recipe(clean, {"scan": [{"stage": "row_jitter"}]})
    assert made.draw(5).distort == made.distort.draw(Streams(made.seed, 5), "distort")


def test_images_of_low_magnification_keep_their_pixel(clean):
    """Far above what a simulated field may have; and a wrong window is still said once."""
    made = recipe(clean, own={"pixel_size": 250.0}, image={"size": 20})
    assert render(made, 0).sampling == 250
    assert Recipe.model_validate(made.model_dump(mode="json")) == made
    with pytest.raises(RecipeError) as said:
        loaded(clean.parent, TEXT.replace("size: 16", "sise: 16"))
    assert len(str(said.value).splitlines()) == 1
