"""Networks as ONNX files: the same images as the network's, at sizes that were never seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from emsynth.errors import NetworkError
from emsynth.streams import generator

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")
onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra onnx)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")

from emsynth.networks import onnx as exporting  # noqa: E402
from emsynth.networks.cgrdn import CGRDN, Size  # noqa: E402
from emsynth.networks.onnx import export_onnx  # noqa: E402
from emsynth.networks.weights import save_weights  # noqa: E402
from emsynth.restoration.finding import find  # noqa: E402
from emsynth.restoration.neural import NeuralRestorer  # noqa: E402

KINDS = pytest.mark.parametrize("inside", [0, 2], ids=["exact", "fourier"])


def network(inside):
    """A tiny one that changes images a good deal."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        own = CGRDN(Size(layers=1, growth=3, width=4, groups=1, blocks=1, fourier=inside)).eval()
    with torch.no_grad():
        for weight in own.parameters():
            weight.mul_(2)
    return own


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Path and difference of each kind: an export takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    return {inside: (folder / f"{inside}.onnx", export_onnx(folder / f"{inside}.onnx", network(inside), {"steps": 5}))
            for inside in (0, 2)}


@KINDS
@pytest.mark.parametrize("sides", [(2, 2), (64, 48), (38, 90), (16, 258)])
def test_the_files_images_are_the_networks(files, inside, sides):
    """At any even sides, also with odd halves, to single precision."""
    import onnxruntime

    path, difference = files[inside]
    assert difference < 1e-6
    image = generator(0, 0, "test onnx export").standard_normal((1, 1, *sides)).astype(np.float32)
    found = onnxruntime.InferenceSession(str(path)).run(None, {"image": image})[0]
    own = network(inside)
    expected = own(torch.from_numpy(image)).detach().numpy()
    assert np.abs(expected - image).max() > 0.1  # it does something
    assert np.abs(found - expected).max() < 2e-6 * np.ptp(expected)


@KINDS
@pytest.mark.parametrize(("sides", "hot"), [((33, 47), 1e9), ((20, 20), 900), ((160, 160), 1e9)])
def test_the_restorer_of_the_file_is_the_checkpoints(files, tmp_path, inside, sides, hot):
    """Normalised, padded, cut and levelled alike, at odd, small and large sides, also with a hot pixel."""
    weights = save_weights(tmp_path / "a.safetensors", network(inside))
    image = generator(0, 1, "test onnx export").normal(900, 40, sides).astype(np.float32)
    image[7, 9] = hot
    found, expected = find(str(files[inside][0]))(image), NeuralRestorer(str(weights))(image)
    assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


@KINDS
def test_a_file_says_what_it_is_and_not_where_it_was_made(files, inside):
    """Its size, what is known about it, how it wants its images; none of the exporter's notes."""
    path, _ = files[inside]
    about = {pair.key: pair.value for pair in onnx.load(path).metadata_props}
    assert about.pop("emsynth.normalise") == "standard"
    assert about.pop("emsynth.level") == "kept"
    assert about.pop("emsynth.multiple") == "2"
    assert about.pop("emsynth.least") == "32"
    assert about.pop("emsynth.tile", None) == ("128" if inside else None)
    assert json.loads(about.pop("emsynth.about")) == {"steps": 5}
    assert json.loads(about.pop("emsynth.network"))["fourier"] == inside
    assert not about
    assert b".py" not in path.read_bytes()
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_a_file_that_differs_is_not_kept(files, tmp_path, monkeypatch):
    """Nor is the one before it touched."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")
    written = SimpleNamespace(model=SimpleNamespace(metadata_props={}),
                              save=lambda to, external_data: Path(to).write_bytes(files[0][0].read_bytes()))
    monkeypatch.setattr(exporting, "_traced", lambda own, target: written)
    other = network(0)
    with torch.no_grad():
        other.leave.bias += 0.1
    with pytest.raises(NetworkError, match=r"a\.onnx: .*differs from what the network makes of it by 0\.0"):
        export_onnx(path, other)
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_network_that_cannot_be_written(tmp_path, monkeypatch):
    """Is said to be so, with torch's version."""
    def fails(*args, **kwargs):
        raise RuntimeError("step 3/3") from TypeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(NetworkError, match=r"cannot write this network as ONNX \(TypeError: no such operator\)"):
        export_onnx(tmp_path / "a.onnx", network(0))


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    """With what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NetworkError, match=rf"needs {package}, .*pip install 'emsynth\[train,onnx\]'"):
        export_onnx(tmp_path / "a.onnx", network(0))


@pytest.mark.parametrize(("name", "message"), [("absent/a.onnx", "there is no folder"), ("a.pb", "ends in .onnx")])
def test_a_place_that_is_none(tmp_path, name, message):
    """Is said before seconds are spent."""
    with pytest.raises(NetworkError, match=message):
        export_onnx(tmp_path / name, network(0))
