"""Restorers: baselines that do what they say, rows that are set straight, clear words where something is missing."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from toy_suite import toy_suite

from emsynth.benchmark import bench
from emsynth.errors import RestorerError
from emsynth.restoration import BASELINES, apply, find
from emsynth.restoration.rows import resample_rows, row_displacements, row_offsets
from emsynth.restoration.stabilise import anscombe, unbiased_inverse
from emsynth.streams import generator

SIDE = 48
DOCS = Path(__file__).resolve().parents[1] / "docs" / "restorers.md"


@dataclass(frozen=True)
class Dose:
    """The noise of a test: counted electrons, as they are."""

    expected_counts: float = 40.0
    gain: float = 1.0
    black_level: float = 0.0
    counted: bool = True
    variance: float = 0.0
    excess: float = 1.0


def lattice(row, col, angle=0.15, spacing=11.3):
    """Gaussian columns on a square lattice, mean about 1."""
    i, j = np.mgrid[-20:21, -20:21].reshape(2, -1, 1, 1) * spacing
    at_row, at_col = 64 + i * np.cos(angle) - j * np.sin(angle), 64 + i * np.sin(angle) + j * np.cos(angle)
    near = (np.abs(at_row - row.mean()) < row.shape[0]) & (np.abs(at_col - col.mean()) < row.shape[1])
    keep = near.ravel()
    squared = (row - at_row[keep]) ** 2 + (col - at_col[keep]) ** 2
    return 0.1 + 4.5 * np.exp(-squared / (2 * 2.1**2)).sum(0)


def jittered(counts, sigma, side=96):
    """Truth, image and displacement of each row."""
    row, col = np.mgrid[:side, :side].astype(float)
    rng = generator(0, 0, "test rows")
    moved = sigma * rng.standard_normal(side)
    return (counts * lattice(row, col),
            rng.poisson(counts * lattice(row, col + moved[:, None])).astype(np.float32), moved)


def start(name, **changed):
    """A baseline's values before tuning."""
    return {parameter.name: parameter.start for parameter in BASELINES[name].parameters} | changed


def identity_end(name):
    """Values at which a baseline removes nothing."""
    ends = {p.name: 0.0 if p.scale == "log" else p.values[0] for p in BASELINES[name].parameters if p.identity_end}
    return start(name, **ends)


def toy():
    truth = 40 * lattice(*np.mgrid[:SIDE, :SIDE].astype(float))
    return truth, generator(0, 0, "test toy").poisson(truth).astype(np.float32)


def needs(name):
    """Skip where the extra that a baseline needs is not installed."""
    if name in ("tv", "nlm", "wavelet"):
        pytest.importorskip("skimage")
    if "bm3d" in name:
        pytest.importorskip("bm3d")


def rms(image):
    return float(np.sqrt(np.mean(np.square(image))))


@pytest.mark.parametrize(("variance", "excess"), [(0.0, 1.0), (4.0, 1.0), (0.0, 3.0)])
def test_stabilising_and_back_has_no_bias(variance, excess):
    """The inverse of the mean stabilised count is the mean count, by summing over the distribution itself."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    added = np.sqrt(variance) * nodes
    for mean in (1.0, 2.0, 5.0, 20.0, 100.0, 1000.0):
        counts = np.arange(stats.poisson.ppf(1 - 1e-12, mean / excess) + 1)
        stabilised = anscombe(excess * counts[:, None] + added, variance, excess) @ weights / weights.sum()
        found = unbiased_inverse(stats.poisson.pmf(counts, mean / excess) @ stabilised, variance, excess)
        # The closed form is within 0.03 events of the exact inverse everywhere.
        assert abs(found - mean) < 0.03 * excess


def test_stabilised_noise_has_a_deviation_of_one():
    """Counts with pulse spread and read noise get a variance of 1: 4 sigma of the variance of n numbers, and 2 %."""
    rng, n = generator(0, 0, "test deviation"), 200_000
    for mean in (25.0, 250.0):
        electrons = 2.5 * rng.poisson(mean / 2.5, n) + 3 * rng.standard_normal(n)
        assert abs(anscombe(electrons, 9.0, 2.5).var() - 1) < 4 * np.sqrt(2 / n) + 0.02


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_at_its_identity_end_returns_the_image(name):
    needs(name)
    image = toy()[1]
    restored = apply(BASELINES[name].tuned(identity_end(name), Dose()), image)
    np.testing.assert_allclose(restored, image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "identity"])
def test_a_baseline_removes_noise(name):
    """At the values with which tuning begins, everybody is nearer to the truth than the image was."""
    needs(name)
    truth, image = toy()
    changed = {"gaussian": {"sigma": 0.6}, "tv": {"strength": 0.5},
               "wiener": {"window": 3}}.get(name, {})
    restored = apply(BASELINES[name].tuned(start(name, **changed), Dose()), image)
    assert rms(restored - truth) < 0.95 * rms(image - truth)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "identity"])
def test_gain_and_black_level_change_nothing_but_the_scale(name):
    needs(name)
    image = toy()[1]
    values = start(name)
    plain = apply(BASELINES[name].tuned(values, Dose()), image)
    scaled = apply(BASELINES[name].tuned(values, Dose(gain=7.0, black_level=300.0)), 7 * image + 300)
    np.testing.assert_allclose((scaled - 300) / 7, plain, rtol=0, atol=1e-3)


def digests():
    """SHA-256 of what each baseline that is installed makes of the toy."""
    image = toy()[1]
    return "\n".join(hashlib.sha256(apply(BASELINES[name].tuned(start(name, **(
        {"jitter": 0.5} if name == "rows_bm3d" else {})), Dose()), image).tobytes()).hexdigest() for name in BASELINES)


def test_the_same_bytes_in_any_process_with_any_number_of_threads():
    for name in BASELINES:
        needs(name)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "4")
    there = subprocess.run([sys.executable, "-c", "import test_restoration; print(test_restoration.digests())"],
                           cwd=Path(__file__).parent, env=os.environ | threads, capture_output=True, text=True)
    assert there.stdout.strip() == digests(), there.stderr


@pytest.mark.parametrize(("counts", "sigma", "left"), [(1000, 0.3, 0.4), (1000, 1.3, 0.4), (40, 0.6, 0.4)])
def test_jitter_of_rows_is_found(counts, sigma, left):
    """Of a known jitter less than 40 % is left, and the aligned image is nearer to the truth."""
    truth, image, moved = jittered(counts, sigma)
    stabilised = anscombe(image)
    found = row_displacements(stabilised, sigma)
    assert np.std(found - moved) < left * np.std(moved)
    assert rms(unbiased_inverse(resample_rows(stabilised, found)) - truth) < 0.6 * rms(image - truth)


def test_straight_rows_stay_where_they_are():
    """A lattice askew is no jitter: rows move by less than a tenth of a pixel, root mean square."""
    _, image, _ = jittered(1000, 0.0)
    assert np.abs(row_displacements(anscombe(image), 0.5)).max() < 0.3
    assert rms(row_displacements(anscombe(image), 0.5)) < 0.08


def test_slow_bends_are_left_alone():
    """Of 4 px of drift within the frame, which belong to the image, less than a tenth is taken for jitter."""
    row, col = np.mgrid[:96, :96].astype(float)
    bend = 4 * np.sin(2 * np.pi * np.arange(96) / 96)
    image = generator(0, 0, "test bend").poisson(1000 * lattice(row, col + bend[:, None]))
    assert rms(row_displacements(anscombe(image), 1.0)) < 0.1 * rms(bend)


def test_rows_are_read_where_they_were_displaced():
    """Whole pixels by copying, and a smooth wave by a fraction of one, to what cubic splines do at 16 px a period."""
    row = np.sin(2 * np.pi * np.arange(64) / 16)
    signal = np.stack([row, np.roll(row, 2), np.sin(2 * np.pi * (np.arange(64) - 0.4) / 16)])
    straight = resample_rows(signal, np.array([0.0, -2.0, -0.4]))
    np.testing.assert_allclose(straight[:, 8:-8], np.stack([row] * 3)[:, 8:-8], atol=1e-3)


def test_offsets_of_rows_are_found():
    """Of offsets that alternate within 4 rows nearly all is found, and where there are none, hardly any."""
    _, image, _ = jittered(40, 0.0)
    signal, offset = anscombe(image), np.tile([3.0, 0.0, -3.0, 0.0], 24)
    assert rms(row_offsets(signal + offset[:, None], 7) - offset) < 0.25 * rms(offset)
    assert rms(row_offsets(signal, 7)) < 0.4


def misshapen(image):
    return image[1:]


def endless(image):
    return image / 0 * 0


def complex_valued(image):
    return image + 1j


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
@pytest.mark.parametrize(("restorer", "said"), [
    (misshapen, r"misshapen: returned shape \(47, 48\) for an image of shape \(48, 48\)"),
    (endless, "endless: 2304 of 2304 pixels are NaN or infinite"),
    (complex_valued, "complex_valued: returned complex64"),
    (lambda image: None, "returned shape")])
def test_what_comes_back_is_checked(restorer, said):
    with pytest.raises(RestorerError, match=said):
        apply(restorer, np.ones((SIDE, SIDE), np.float32))


def test_a_restorer_cannot_write_into_the_image():
    image = np.ones((4, 4), np.float32)
    apply(lambda given: np.multiply(given, 0, out=given), image)
    assert image.all()


@pytest.mark.parametrize(("spec", "said"), [
    ("gausian", "'gausian' is not a restorer; did you mean 'gaussian'"),
    ("xyzzy", r"'xyzzy' is not a restorer; \(allowed: identity, gaussian"),
    ("no_such_module:restore", "there is no module 'no_such_module'"),
    ("emsynth.no_such:restore", "there is no module 'emsynth.no_such'"),
    ("emsynth.restoration:fnd", "has no 'fnd'; did you mean 'find'"),
    ("emsynth.restoration:__name__", "cannot be called"),
    ("network.safetensors", "there is no such file|needs torch"),
    ("absent.onnx", "there is no such file|onnxruntime, which is not installed")])
def test_what_cannot_be_found_is_said(spec, said):
    with pytest.raises(RestorerError, match=said):
        find(spec)


@pytest.mark.parametrize(("spec", "said"), [
    ("odd_restorer.py:good", "write odd_restorer:good$"), ("./odd_restorer.py:good", "write odd_restorer:good$"),
    ("some/odd_restorer.py:good", "write odd_restorer:good and run from some"),
    ("odd_restorer", "odd_restorer: is a module; name a function in it: odd_restorer:FUNCTION"),
    ("odd_restorer.py", "is a module; name a function in it: odd_restorer:FUNCTION"),
    (":good", "write module:function"), ("odd_restorer:", "write module:function"),
    ("odd_restorer:Kind", "is a class; name an instance or a function"),
    ("odd_restorer:f077", r"did you mean 'f07'\? \(callable there: Kind, f00, f01, f02, f03 and 6 more\)")])
def test_what_is_written_wrongly_is_put_right(spec, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_restorer", raising=False)
    many = "".join(f"def f{n:02}(image): return image\n" for n in range(10))
    Path("odd_restorer.py").write_text(f"class Kind: pass\n{many}")
    with pytest.raises(RestorerError, match=said):
        find(spec)


def test_a_module_that_fails_is_told_from_one_that_is_absent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken_restorer.py").write_text("1 / 0")
    Path("needy_restorer.py").write_text("import something_else")
    with pytest.raises(RestorerError, match="cannot be imported: ZeroDivisionError"):
        find("broken_restorer:restore")
    with pytest.raises(RestorerError, match="needs 'something_else', which is not installed"):
        find("needy_restorer:restore")


def test_a_function_of_the_current_directory_is_found_and_travels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_restorer.py").write_text("def restore(image):\n    return 2 * image\n")
    found = pickle.loads(pickle.dumps(find("own_restorer:restore")))
    assert apply(found, np.ones((4, 4), np.float32)).sum() == 32


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(RestorerError, match=r"needs bm3d, which is not installed; pip install 'emsynth\[baselines\]'"):
        BASELINES["bm3d"].tuned(start("bm3d"), Dose())(toy()[1])


def test_values_of_another_baseline_are_refused():
    with pytest.raises(RestorerError, match="gaussian: takes values for sigma; unknown or missing: radius, sigma"):
        BASELINES["gaussian"].tuned({"radius": 2.0}, Dose())


def onnx_file(path, metadata=(), channels=1, sides=("h", "w")):
    """A network that doubles its input."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, *sides]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "double", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return str(path)


def test_a_network_sees_the_normalised_image_and_its_output_is_scaled_back(tmp_path):
    """Doubling what has mean 0 keeps the mean and doubles the contrast; without normalising, all is doubled."""
    image = generator(0, 0, "test onnx").normal(50, 5, (13, 20)).astype(np.float32)
    normal = apply(find(onnx_file(tmp_path / "a.onnx")), image)
    np.testing.assert_allclose(normal, 2 * image - image.mean(), rtol=1e-4)
    plain = find(onnx_file(tmp_path / "b.onnx", {"emsynth.normalise": "none", "emsynth.multiple": "8"}))
    np.testing.assert_allclose(apply(pickle.loads(pickle.dumps(plain)), image), 2 * image, rtol=1e-6)


def test_a_network_of_another_kind_is_refused(tmp_path):
    with pytest.raises(RestorerError, match="needs one input, float32 of shape"):
        find(onnx_file(tmp_path / "rgb.onnx", channels=3))
    with pytest.raises(RestorerError, match=r"emsynth\.normalise: 'odd' is neither standard nor none"):
        find(onnx_file(tmp_path / "odd.onnx", {"emsynth.normalise": "odd"}))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(RestorerError, match=r"cannot be loaded as ONNX .*; export it again"):
        find(str(tmp_path / "junk.onnx"))


def test_a_network_for_images_of_another_shape_is_refused(tmp_path):
    """Before it fails on each; where images are widened to a multiple, that counts."""
    fixed = find(onnx_file(tmp_path / "fixed.onnx", {"emsynth.multiple": "8"}, sides=(48, 64)))
    fixed.check_shape((48, 64))
    fixed.check_shape((41, 57))
    find(onnx_file(tmp_path / "open.onnx")).check_shape((41, 57))
    with pytest.raises(RestorerError, match="takes images of 48 × 64 only, and these are 64 × 64; export it again"):
        fixed.check_shape((64, 64))


def test_a_bench_refuses_a_network_for_another_shape(tmp_path):
    path = onnx_file(tmp_path / "fixed.onnx", sides=(32, 32))
    with pytest.raises(RestorerError, match="takes images of 32 × 32 only, and these are 48 × 48"):
        bench.run(toy_suite(2), path)


def test_the_adapter_in_the_docs_works(tmp_path, monkeypatch):
    """As printed, for a network that was never trained: same shape, finite, the same twice."""
    pytest.importorskip("torch")
    code = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("documented_restorer.py").write_text(code.group(1))
    restorer = find("documented_restorer:restore")
    image = toy()[1][:37]
    np.testing.assert_array_equal(apply(restorer, image), apply(restorer, image))


def test_the_docs_name_every_baseline_and_parameter():
    table = DOCS.read_text("utf-8")
    for name, baseline in BASELINES.items():
        assert f"| `{name}` |" in table
        assert all(f"`{parameter.name}`" in table for parameter in baseline.parameters)
