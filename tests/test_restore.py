"""An array restored by a network: scale kept, any size and type, no seams, and clear words where it fails."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_suite import toy_suite

from emsynth.benchmark import bench
from emsynth.errors import RestorerError
from emsynth.restoration import find, finding, neural, shipped
from emsynth.restoration.level import levelled, steadied
from emsynth.restoration.neural import NeuralRestorer
from emsynth.restoration.restoring import restore
from emsynth.restoration.tiling import Tiles, windows
from emsynth.streams import generator

torch = pytest.importorskip("torch", reason="networks need torch: pip install 'emsynth[train]'")
pytest.importorskip("safetensors", reason="weights need safetensors: pip install 'emsynth[train]'")

from emsynth.networks.cgrdn import CGRDN, Size  # noqa: E402
from emsynth.networks.weights import save_weights  # noqa: E402

EXACT = Size(layers=2, growth=8, width=12, groups=2, blocks=2)
FOURIER = Size(layers=2, growth=8, width=12, groups=1, blocks=2, fourier=6)


def network(size=EXACT, gain=1.6):
    """One whose random weights change an image by about its own deviation."""
    rng = generator(0, 0, "test restore")
    made = CGRDN(size).eval()
    with torch.no_grad():
        for weights in made.parameters():
            reach = gain / np.sqrt(max(weights[0].numel(), 1))
            weights.copy_(torch.from_numpy(rng.uniform(-reach, reach, tuple(weights.shape))))
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "some.safetensors", network(), {"patch": 64})


@pytest.fixture(scope="module")
def restorer(weights):
    return NeuralRestorer(weights)


def dots(rows, cols, index=0):
    """Counted dots on a grid, about 20 electrons per pixel."""
    row, col = np.indices((rows, cols))
    wave = 20 * (1 + 0.8 * np.cos(2 * np.pi * row / 11) * np.cos(2 * np.pi * col / 13))
    return generator(0, index, "test dots").poisson(wave).astype(np.float32)


def apart(one, other):
    """The largest difference over the range."""
    return np.abs(one - other).max() / np.ptp(other)


def test_the_network_of_these_tests_does_something(restorer):
    """What leaves images alone would pass most of them."""
    image = dots(64, 64)
    assert 0.3 < np.std(restorer(image) - image) / image.std() < 5


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-4, 1e4), st.floats(-1e3, 1e3), st.integers(1, 70), st.integers(2, 70))
def test_scale_and_offset_pass_through(restorer, scale, offset, rows, cols):
    """a·x + b in gives a·y + b out, whatever the shape."""
    image = dots(rows, cols).astype(np.float64)
    wanted = scale * restorer(image) + offset
    assert apart(restorer(scale * image + offset), wanted) < 1e-4 + 1e-9 * abs(offset) / scale


def test_fractions_and_sixteen_bits_are_restored_alike(restorer):
    """An image of 0-1, and one of counts right below 65535, whose squares no float32 holds."""
    image = dots(60, 50)
    wanted = restorer(image)
    assert apart(restorer(image / 64) * 64, wanted) < 1e-4
    assert apart(restorer((image + 65400).astype(np.uint16)) - 65400, wanted) < 1e-3


@pytest.mark.parametrize("value", [0.0, 0.1, 65535.0, -3.3e7 / 7, 1e-20])
def test_a_constant_image_comes_back_as_it_is(restorer, value):
    """Also where the mean in floating point is not exactly the value."""
    image = np.full((41, 57), value)
    np.testing.assert_array_equal(restorer(image), image)
    np.testing.assert_array_equal(restorer(image.astype(np.float32)), image.astype(np.float32))


def test_the_mean_is_kept():
    """Also by a network that adds half of a deviation to it, and by one that does so in tiles."""
    image, made = dots(90, 101), network()
    with torch.no_grad():
        made.leave.bias += 0.5
    for tile in (None, 64):
        assert abs(NeuralRestorer(made, tile)(image).mean() - image.mean()) < 0.01 * image.std()


def test_hits_do_not_shift_the_level():
    """The mean that is given back is that of the noise; what was taken away at a hit is left away."""
    noise = generator(0, 0, "test level").standard_normal((50, 60))
    image, restored = noise + 3, np.zeros((50, 60))
    assert levelled(image, restored).mean() == pytest.approx(image.mean(), abs=1e-12)
    hit = image.copy()
    hit[10, 10:14] += 1e4
    clean = np.delete(image.ravel(), 10 * 60 + np.arange(10, 14)).mean()
    assert levelled(hit, restored) == pytest.approx(np.full((50, 60), clean), abs=1e-12)
    np.testing.assert_allclose(levelled(5 * hit + 7, 5 * restored + 7), 5 * levelled(hit, restored) + 7, rtol=1e-12)


def test_a_hot_pixel_ruins_nothing(restorer):
    """Of a million times the brightness, beside a dead one and a smaller one: the rest is as it was without them."""
    image = dots(80, 90).astype(np.float64)
    wanted, hot = restorer(image), image.copy()
    hot[40, 45], hot[0, 0], hot[70, 20] = 2e7, -3e4, 5e3
    assert steadied(hot)[1].sum() == 3
    far = np.ones(hot.shape, bool)
    for row, col in ((40, 45), (0, 0), (70, 20)):
        far[max(row - 4, 0):row + 5, max(col - 4, 0):col + 5] = False
    restored = restorer(hot)
    psnr = 10 * np.log10(np.ptp(wanted) ** 2 / np.mean((restored - wanted)[far] ** 2))
    assert psnr > 40
    assert np.ptp(restored) < 1.5 * np.ptp(wanted)
    assert apart(restorer(3 * hot - 50), 3 * restored - 50) < 1e-4


@pytest.mark.parametrize(("row", "col"), [(50, 50), (50.5, 50.5), (0, 0), (99, 37.5)])
def test_a_single_column_is_no_hot_pixel(row, col):
    """Of 3 px (full width at half maximum), on a support without noise, wherever it is."""
    rows, cols = np.indices((100, 100))
    column = np.exp(-4 * np.log(2) * ((rows - row) ** 2 + (cols - col) ** 2) / 9)
    assert column.max() - column.mean() > 20 * column.std()
    assert not steadied(column)[1].any()
    pixel = np.zeros((100, 100))
    pixel[round(row), round(col)] = 1
    assert steadied(pixel)[1].sum() == 1


@pytest.mark.parametrize("size", [EXACT, FOURIER])
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (2, 1), (33, 7), (64, 65), (5, 5)])
def test_any_size_is_restored(size, shape):
    image = dots(*shape)
    restored = NeuralRestorer(network(size))(image)
    assert restored.shape == shape
    assert np.isfinite(restored).all()
    assert restored.dtype == np.float32
    assert restored.size == 1 or not np.array_equal(restored, image)


def test_an_odd_side_changes_its_end_only(restorer):
    """What is mirrored for the last column is not seen from afar."""
    image = dots(48, 101)
    even = restorer(image[:, :100])
    assert apart(restorer(image)[:, :50], even[:, :50]) < 0.05  # the mean and the deviation are a little different


@pytest.mark.parametrize("tile", [None, 128])
def test_tiles_do_not_differ_from_the_whole(tile, monkeypatch):
    """By less than 0.1 % of the range, with tiles as the network needs them or smaller ones, far from ends or near."""
    monkeypatch.setattr(neural, "_WHOLE", 0)
    image, made = dots(301, 420), network()
    if tile is None:
        monkeypatch.setattr(neural, "_TILE", 64)
    tiled = NeuralRestorer(made, tile=tile)
    assert 4 <= tiled.margin <= 64
    assert tiled.tiles(image.shape).side < 300
    assert apart(tiled(image), NeuralRestorer(made, tile=1024)(image)) < 1e-3


def test_tiles_share_one_normalisation(restorer):
    """A bright half is not restored as if it were all that there is."""
    image = dots(64, 256)
    image[:, 128:] *= 50
    tiled, whole = NeuralRestorer(restorer.path, tile=64)(image), restorer(image)
    assert apart(tiled[:, :64], whole[:, :64]) < 0.05


def test_a_fourier_network_leaves_no_seams():
    """Where one tile passes into the next, neighbouring pixels differ by no more than elsewhere."""
    image = dots(128, 640)
    restorer = NeuralRestorer(network(FOURIER), tile=128)
    step = np.abs(np.diff(restorer(image) - image, axis=1)).mean(0)
    seams = np.arange(96, 600, 64)  # tiles of 128 that begin every 64: they pass into each other 32 px from their ends
    at = np.isin(np.arange(step.size), seams[:, None] + np.arange(-2, 2))
    assert step[at].mean() < 1.1 * step[~at].mean()


def test_a_fourier_network_has_tiles_of_what_it_was_trained_on(tmp_path):
    """What it sees is the tile; the exact network takes an image as a whole up to 1 Mpx."""
    path = save_weights(tmp_path / "f.safetensors", network(FOURIER), {"patch": 96})
    assert NeuralRestorer(path).tiles((1000, 90)).side == 96
    assert NeuralRestorer(path).tiles((95, 90)).side == 96
    assert NeuralRestorer(network(FOURIER)).tiles((1000, 1000)).side == 128
    assert NeuralRestorer(network()).tiles((1000, 1000)).side == 1000
    assert NeuralRestorer(network()).tiles((1000, 1100)).side < 768


@settings(deadline=None)
@given(st.integers(513, 9000), st.integers(8, 400))
def test_tiles_are_no_larger_than_their_number_asks(length, overlap):
    """As few as tiles of the largest side would be, and none above that."""
    length, overlap = 2 * length, 2 * overlap
    most = max(768, 2 * overlap)
    side = neural._fitting(length, overlap)
    assert side <= most
    assert len(windows(length, Tiles(side, overlap))[0]) <= len(windows(length, Tiles(most, overlap))[0])


def test_the_same_image_is_restored_to_the_same_bytes(weights, monkeypatch):
    """And the number of threads is as it was."""
    image, before = dots(200, 150), 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: before)
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    first = NeuralRestorer(weights, tile=64, threads=1)
    np.testing.assert_array_equal(first(image), first(image))
    np.testing.assert_array_equal(first(image), NeuralRestorer(weights, tile=64, threads=1)(image))
    assert threads[:2] == [1, before]
    assert threads[-1] == before


def test_a_restorer_travels(weights):
    """With its tiles, by the name of its file or with its network."""
    image = dots(100, 90)
    for made_from in (weights, str(weights), network()):
        sent = NeuralRestorer(made_from, tile=64, overlap=16)
        arrived = pickle.loads(pickle.dumps(sent))
        assert arrived.tiles(image.shape) == sent.tiles(image.shape)
        np.testing.assert_array_equal(arrived(image), sent(image))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4", np.uint8, np.int16, ">u2", np.uint32])
def test_types_are_as_stated(weights, kind):
    """Integers and float16 to float32, others stay; "same" gives back what was given, rounded."""
    image = dots(40, 50).astype(kind)
    restored, same = restore(image, weights), restore(image, weights, dtype="same")
    assert restored.dtype == (np.float64 if kind == np.float64 else np.float32)
    assert same.dtype == image.dtype
    limits = np.iinfo(kind) if image.dtype.kind in "iu" else np.finfo(kind)
    wanted = np.clip(np.rint(restored) if image.dtype.kind in "iu" else restored, limits.min, limits.max)
    np.testing.assert_allclose(same.astype(np.float64), wanted, rtol=1e-3)


def test_integers_do_not_wrap_around(weights):
    """A count below 0 or above the largest is the nearest that there is."""
    image = np.where(dots(40, 50) > 20, 255, 0).astype(np.uint8)
    plain = restore(image, weights)
    assert plain.min() < -1
    assert plain.max() > 256
    same = restore(image, weights, dtype="same")
    assert (same[plain < 0] == 0).all()
    assert (same[plain > 255] == 255).all()
    largest = np.full((3, 3), np.iinfo(np.int64).max)  # no float is this
    assert (restore(largest, lambda given: 2 * given, dtype="same") > 2**62).all()


def test_double_precision_keeps_what_is_far_from_zero(weights):
    """Details of 1 on 1e9 are lost in float32, and are not here."""
    image = dots(40, 50).astype(np.float64)
    np.testing.assert_allclose(restore(image + 1e9, weights) - 1e9, restore(image, weights), atol=1e-3)


def test_a_stack_is_its_frames(weights):
    stack = np.stack([dots(40, 51, index) * (1 + index) for index in range(3)])
    restored = restore(stack, weights)
    for frame, wanted in zip(stack, restored, strict=True):
        np.testing.assert_array_equal(restore(frame, weights), wanted)


def test_any_function_restores(weights):
    """It is given float32, and what it returns is checked."""
    stack = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)[:, :, :2]
    np.testing.assert_array_equal(restore(stack, lambda given: given + np.float32(0.5)), stack + np.float32(0.5))
    with pytest.raises(RestorerError, match="returned shape"):
        restore(stack, lambda given: given[:1])
    image = dots(30, 30)
    np.testing.assert_array_equal(restore(image, network()), restore(image, NeuralRestorer(network())))


def with_value(value, kind=np.float32):
    image = dots(20, 30).astype(kind)
    image[7, 11] = image[9, 2] = value
    return image


@pytest.mark.parametrize(("image", "said"), [
    (with_value(np.nan), "the image: 2 of 600 pixels are NaN or infinite, the first at row 7, column 11; replace them"),
    (with_value(-np.inf), "2 of 600 pixels are NaN or infinite"),
    (np.stack([dots(20, 30), with_value(np.nan)]), "frame 1: 2 of 600 pixels are NaN"),
    (np.ma.masked_greater(with_value(999), 900), "the image: 2 of 600 pixels are masked; fill them first, "),
    (np.ma.masked_greater(np.stack([dots(20, 30), with_value(999)]), 900), "frame 1: 2 of 600 pixels are masked"),
    (dots(20, 30).astype(np.float64) * 1e200, "the image: its deviation, inf, is not within"),
    (dots(20, 30).astype(np.float64) * 1e-200, "the image: its deviation, 0, is not within"),
    (dots(20, 30) * np.float32(5e36), "the image: reaches to .* beyond what float32 holds"),
    (with_value(1j, np.complex64), "holds complex64, not real numbers; restore its modulus"),
    (dots(20, 30) > 20, "holds bool, not real numbers; convert it to float32"),
    (dots(20, 30).astype(object), "holds object"),
    (np.zeros((20, 30), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "looks like colour: convert it to grey"),
    (np.zeros((20, 30, 3), np.uint8), r"shape \(20, 30, 3\) looks like 3 colour channels; convert it to grey"),
    (np.zeros((20, 30, 4), np.uint16), "looks like 4 colour channels"),
    (np.zeros((0, 30)), r"has shape \(0, 30\)"), (np.zeros(30), r"has shape \(30,\); give"),
    ([[1, 2]], "list is not an array")])
def test_an_image_that_cannot_be_restored_is_refused(image, said, weights):
    with pytest.raises(RestorerError, match=said):
        restore(image, weights)


def test_a_mask_that_masks_nothing_is_no_hindrance(weights):
    image = dots(20, 30)
    restored = restore(np.ma.masked_invalid(image), weights)
    assert not isinstance(restored, np.ma.MaskedArray)
    np.testing.assert_array_equal(restored, restore(image, weights))


@pytest.mark.parametrize(("asked", "said"), [
    ({"tile": 63}, "tile: 63 is not an even"), ({"overlap": 3}, "overlap: 3 is not an even"),
    ({"tile": 64, "overlap": 40}, "overlap: 40 px is outside 0-32"), ({"threads": 0}, "threads: 0 is not a whole"),
    ({"dtype": "uint8"}, "dtype: 'uint8' is neither 'same' nor None")])
def test_numbers_that_cannot_be_are_refused(asked, said, weights):
    with pytest.raises(RestorerError, match=said):
        restore(dots(200, 200), weights, **asked)


@pytest.mark.parametrize(("model", "said"), [
    ("gaussian", "gaussian: is a baseline, which has yet to be told the noise"), ("gausian", "did you mean 'gaussian'"),
    (7, "int is not a restorer"), ("absent.safetensors", r"absent\.safetensors: there is no such file"),
    ("old.pt", r"old\.pt: is a pickle, which can run anything .*; give the \.safetensors file")])
def test_a_model_that_cannot_be_had_is_refused(model, said):
    with pytest.raises(RestorerError, match=said):
        restore(dots(20, 20), model)


def test_tiles_are_for_networks():
    with pytest.raises(RestorerError, match="tile, overlap and threads: are for networks in files only"):
        restore(dots(20, 20), lambda image: image, tile=64)


def test_a_foreign_or_damaged_file_is_refused(weights, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    for name, said in (("foreign", "is a safetensors file of something else"), ("cut", "damaged"), ("junk", "damaged")):
        with pytest.raises(RestorerError, match=rf"{name}\.safetensors: .*{said}"):
            find(str(tmp_path / f"{name}.safetensors"))


def test_a_network_that_diverged_is_told_from_an_image_that_is_wrong():
    made = network()
    with torch.no_grad():
        made.leave.weight.fill_(float("inf"))
    with pytest.raises(RestorerError, match="cgrdn: the network returned numbers that are not finite"):
        restore(dots(20, 20), made)


@pytest.mark.parametrize("lacking", ["torch", "safetensors"])
def test_a_missing_extra_is_named(lacking, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, lacking, None)
    monkeypatch.delitem(sys.modules, "emsynth.networks.weights")
    with pytest.raises(RestorerError, match=rf"needs {lacking}, which is not installed; pip install 'emsynth\[train"):
        find(str(weights))


def test_a_shipped_network_is_found_by_its_name(weights, monkeypatch):
    """And guessed at; there may be none."""
    monkeypatch.setattr(shipped, "_WEIGHTS", Path("absent"))
    assert shipped.shipped() == {}
    monkeypatch.setattr(shipped, "_WEIGHTS", weights.parent)
    assert shipped.shipped() == {"some": weights}
    image = dots(30, 30)
    np.testing.assert_array_equal(restore(image, "some"), restore(image, weights))
    with pytest.raises(RestorerError, match=r"did you mean 'some'\? \(allowed: identity, .*some, module:function"):
        finding.find("somme")


def test_a_bench_takes_a_checkpoint(weights):
    """In a process of its own, under the memory that a restorer may have, and by a name of its own."""
    made = bench.run(toy_suite(severities=(1,), families=("poisson",)), f"mine={weights}", scenes=[2],
                     measure="bad_restorers:measure")
    assert made["restorer"].unique().tolist() == ["mine"]
    psnr = made[made["metric"] == "psnr"]["value"]
    assert len(psnr) == 1
    assert psnr.notna().all()


def onnx_file(path, sides, **about):
    """A network that doubles its input."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, *sides]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "double", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, {f"emsynth.{name}": value for name, value in about.items()})
    onnx.save(model, path)
    return path


def test_an_onnx_file_takes_odd_sides_double_precision_and_constants(tmp_path):
    """As a network of emsynth does: doubled about its mean, with even sides whatever the image's."""
    path = onnx_file(tmp_path / "n.onnx", ("h", "w"), multiple="2")
    image = dots(61, 75).astype(np.float64) + 1e9
    np.testing.assert_allclose(restore(image, path), 2 * image - image.mean(), atol=1e-3)
    constant = np.full((7, 7), 0.1, np.float32)
    np.testing.assert_array_equal(restore(constant, path), constant)
    with pytest.raises(RestorerError, match="NaN or infinite, the first at row 7, column 11"):
        restore(with_value(np.nan), path)


def test_an_onnx_file_says_which_tiles_it_wants(tmp_path):
    """One that was exported for 64 × 64 restores what is larger; without the word it does not."""
    image = dots(101, 64)
    path = onnx_file(tmp_path / "n.onnx", (64, 64), tile="64")
    find(str(path)).check_shape(image.shape)
    np.testing.assert_allclose(restore(image, path), 2 * image - image.mean(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("about", "said"), [
    ({"tile": "64 px"}, r"emsynth\.tile: '64 px' is not a whole number"),
    ({"tile": "33"}, r"emsynth\.tile: 33 is not an even"),
    ({"tile": "16"}, r"emsynth\.tile: 16 px is too little"), ({"least": "0"}, r"emsynth\.least: '0' is not a whole"),
    ({"level": "high"}, r"emsynth\.level: 'high' is neither returned nor kept"),
    ({"level": "kept", "normalise": "none"}, r"emsynth\.level: 'kept' needs emsynth\.normalise: standard")])
def test_metadata_that_cannot_be_are_named_with_their_file(about, said, tmp_path):
    with pytest.raises(RestorerError, match=rf"m\.onnx: metadata {said}"):
        find(str(onnx_file(tmp_path / "m.onnx", ("h", "w"), **about)))


def test_an_overlap_needs_a_tile(tmp_path):
    """One that nothing would come of is not passed over in silence."""
    path = onnx_file(tmp_path / "n.onnx", ("h", "w"))
    with pytest.raises(RestorerError, match=r"overlap: 16 px of which tiles\? .*n\.onnx names none"):
        restore(dots(80, 80), path, overlap=16)
    assert restore(dots(80, 80), path, tile=64, overlap=16).shape == (80, 80)


def test_a_foreign_file_is_given_images_as_they_are(tmp_path):
    """Its level and a hot pixel are its own business, unless it says otherwise."""
    image = dots(61, 75).astype(np.float64)
    image[30, 30] = 1e5
    plain, kept = (restore(image, onnx_file(tmp_path / f"{level}.onnx", ("h", "w"), level=level))
                   for level in ("returned", "kept"))
    np.testing.assert_allclose(plain, 2 * image - image.mean(), rtol=1e-4, atol=1e-2)
    assert kept.max() < 100
