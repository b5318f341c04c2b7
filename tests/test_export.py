"""Exports: every array and number of a data set comes back from the other format, and nothing half-written stays."""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
import zipfile

import fakes
import numpy as np
import pytest
from typer.testing import CliRunner

from emsynth import store
from emsynth.cli import app
from emsynth.errors import IntegrityError, StoreError, StoreExistsError
from emsynth.export import export, tar, writing
from emsynth.store.layout import LAYOUT


def build(folder, shards=3):
    recipe = fakes.recipe()
    path = store.create(folder / "fake.zarr", recipe, [fakes.outline(recipe, j) for j in range(3)]).path
    for j in range(recipe.fields):
        store.write_field(path, j, fakes.simulate(recipe, j))
    for n in range(shards):
        store.write_shard(path, n, [fakes.render(recipe, i) for i in store.open_store(path).samples_of(n)])
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return build(tmp_path_factory.mktemp("export"))


def same(one, two):
    one, two = np.asarray(one), np.asarray(two)
    return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


def entries(folder):
    """Contents of all tar files by name, split by split."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as held:
            found |= {(path.name.split("-")[1], m.name): held.extractfile(m).read() for m in held.getmembers()}
    return found


def test_every_array_comes_back_from_webdataset(dataset, tmp_path):
    """Pictures, columns and scalars, read with nothing but tarfile and NumPy."""
    found = entries(export(dataset, "webdataset", tmp_path / "tars"))
    for index in range(10):
        kept = store.read_kept(dataset, index)
        split = str(kept["split"])
        about = json.loads(found[split, f"{index:09d}.json"])
        assert about["index"] == index
        for layout in LAYOUT:
            if layout.sharded:
                content = np.load(io.BytesIO(found[split, f"{index:09d}.{layout.name}.npy"]))
                assert same(content, kept[layout.name]), layout.name
            elif layout.name == "drawn":
                assert about["drawn"] == json.loads(str(kept["drawn"]))
            else:
                assert about[layout.name] == kept[layout.name].item()


def test_the_webdataset_library_reads_the_tars(dataset, tmp_path):
    """As its users would: decoded arrays under their endings."""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed (extra dev)")
    path = next(export(dataset, "webdataset", tmp_path / "tars").glob("*-val-*.tar"))
    found = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == ["000000001", "000000004", "000000007"]
    for sample, index in zip(found, (1, 4, 7), strict=True):
        kept = store.read_kept(dataset, index)
        assert same(sample["truth.npy"], kept["truth"])
        assert same(sample["distorted.npy"], kept["distorted"])
        assert sample["json"]["sampling"] == 0.1


def test_a_tar_that_is_full_is_followed_by_the_next(dataset, tmp_path, monkeypatch):
    """Every pair is in exactly one file, in order."""
    monkeypatch.setattr(tar, "_SIZE", 20e3)
    folder = export(dataset, "webdataset", tmp_path / "tars", split="train")
    names = [path.name for path in sorted(folder.glob("*.tar"))]
    assert names == [f"fake-train-{n:06d}.tar" for n in range(len(names))]
    assert len(names) > 1
    assert [name for _, name in entries(folder) if name.endswith("json")] == [f"{n:09d}.json" for n in (0, 3, 6, 9)]


def test_a_number_that_is_not_known_is_null(tmp_path):
    """JSON has no NaN, and strict readers refuse one."""
    assert tar.plain(np.float64("nan")) is None
    assert tar.plain(np.float32(0.5)) == 0.5
    assert tar.plain("NaN") == "NaN"
    assert math.isinf(tar.plain(np.float64("inf")))


def test_every_array_comes_back_from_hdf5(dataset, tmp_path):
    """With its unit, its meaning, and the names of its dimensions."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra export)")
    with h5py.File(export(dataset, "hdf5", tmp_path / "fake.h5")) as file, store.open_dataset(dataset) as held:
        for layout in LAYOUT:
            found, kept = file[layout.name], held[layout.name].values
            if layout.text:
                assert found.asstr()[:].tolist() == kept.tolist()
            else:
                assert same(found[:], kept), layout.name
            assert [dim.label for dim in found.dims] == list(layout.dims)
            assert found.attrs["long_name"] == layout.about
            assert found.attrs.get("units", "") == layout.units
        assert file["truth"].chunks == (1, fakes.SIZE, fakes.SIZE)
        assert file["sample"][:].tolist() == list(range(10))
        assert file["displacement"].dims[1][0].asstr()[:].tolist() == ["row", "col"]
        assert json.loads(file.attrs["recipe"]) == store.open_store(dataset).attributes["recipe"]
        assert file.attrs["checksum"] == store.checksums(dataset)["total"]


def test_a_recipe_of_any_length_fits_into_hdf5(dataset, tmp_path, monkeypatch):
    """Attributes of old HDF5 end at 64 kB."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra export)")
    monkeypatch.setattr(writing, "_about", lambda *_: {"recipe": {"name": "x" * 200_000}})
    with h5py.File(export(dataset, "hdf5", tmp_path / "fake.h5")) as file:
        assert len(json.loads(file.attrs["recipe"])["name"]) == 200_000


def test_one_split_alone(dataset, tmp_path):
    """Its pairs, with their own indices, and no others."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra export)")
    with h5py.File(export(dataset, "hdf5", tmp_path / "test.h5", split="test")) as file:
        assert file["sample"][:].tolist() == [2, 5, 8]
        assert set(file["split"].asstr()[:]) == {"test"}
        assert same(file["truth"][1], store.read_kept(dataset, 5)["truth"])


def test_a_zip_archive_is_the_data_set(dataset, tmp_path):
    """Unpacked it verifies; packed it can be read."""
    path = export(dataset, "zip", tmp_path / "fake.zip")
    with zipfile.ZipFile(path) as held:
        held.extractall(tmp_path / "unpacked")
        assert {entry.compress_type for entry in held.infolist()} == {zipfile.ZIP_STORED}
    assert store.verify(tmp_path / "unpacked") == []
    assert store.checksums(tmp_path / "unpacked") == store.checksums(dataset)


@pytest.mark.parametrize("to", ["webdataset", "hdf5", "zip"])
def test_the_same_data_set_gives_the_same_bytes(dataset, tmp_path, to):
    """Neither time, user nor machine gets into an export."""
    if to == "hdf5":
        pytest.importorskip("h5py", reason="h5py is not installed (extra export)")
    copy = shutil.copytree(dataset, tmp_path / "other.zarr", copy_function=shutil.copyfile)
    one, two = export(dataset, to, tmp_path / "one"), export(copy, to, tmp_path / "two")
    files = [p.relative_to(one) for p in sorted(one.rglob("*"))] if one.is_dir() else ["."]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


@pytest.mark.parametrize("to", ["webdataset", "zip"])
def test_what_is_there_is_not_replaced_unasked(dataset, tmp_path, to):
    """--overwrite replaces an export, and nothing else."""
    path = export(dataset, to, tmp_path / "there")
    with pytest.raises(StoreExistsError, match="already exists; --overwrite"):
        export(dataset, to, path)
    assert export(dataset, to, path, overwrite=True) == path
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    with pytest.raises(StoreExistsError, match="leaves it alone"):
        export(dataset, to, other, overwrite=True)
    assert (other / "thesis.txt").read_text() == "years"


def test_an_export_that_fails_leaves_what_was_there(dataset, tmp_path, monkeypatch):
    """And nothing of its own: no draft, no half of a file."""
    path = export(dataset, "webdataset", tmp_path / "there")
    before = entries(path)

    def full(folder, name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tar, "_Tars", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)"):
        export(dataset, "webdataset", path, overwrite=True)
    assert entries(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_an_unfinished_data_set_is_refused(tmp_path):
    """With what is missing, and the way out."""
    with pytest.raises(StoreError, match=r"2 of 3 shards.*--resume"):
        export(build(tmp_path, shards=2), "zip", tmp_path / "fake.zip")


def test_an_export_into_the_data_set_is_refused(dataset):
    """It would be a foreign file there."""
    with pytest.raises(StoreError, match="within it"):
        export(dataset, "zip", dataset / "fake.zip")


def test_wrong_words_are_answered_with_the_right_ones(dataset, tmp_path):
    """Format and split."""
    with pytest.raises(StoreError, match="give webdataset, hdf5, zip"):
        export(dataset, "parquet", tmp_path / "x")
    with pytest.raises(StoreError, match="no pairs of split 'dev'; there is train, val, test"):
        export(dataset, "webdataset", tmp_path / "x", split="dev")
    with pytest.raises(StoreError, match="of the whole data set"):
        export(dataset, "zip", tmp_path / "x", split="train")


def test_the_verb_prints_where_it_is_and_tells_the_progress(dataset, tmp_path):
    """The result goes to stdout, how far it is to stderr."""
    said = CliRunner().invoke(app, ["export", str(dataset), "--to", "zip", "--out", str(tmp_path / "fake.zip")])
    assert said.exit_code == 0
    assert said.stdout.strip() == str(tmp_path / "fake.zip")
    assert "export: 100%" in said.stderr


@pytest.mark.parametrize("to", ["webdataset", "hdf5", "zip"])
def test_a_damaged_data_set_is_not_exported(dataset, tmp_path, to):
    """One flipped bit, which a copy of the files would carry on."""
    own = shutil.copytree(dataset, tmp_path / "own.zarr")
    victim = own / "truth/c/0/0/0"
    content = bytearray(victim.read_bytes())
    content[60] ^= 1
    victim.write_bytes(content)
    with pytest.raises(IntegrityError, match="shard 0: truth: checksum differs: truth/c/0/0/0; emsynth build"):
        export(own, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_of_another_kind_is_not_replaced(dataset, tmp_path):
    """Nor is a place that cannot be one told by a traceback."""
    made = export(dataset, "hdf5", tmp_path / "pairs.h5")
    with pytest.raises(StoreExistsError, match="is not an export to zip"):
        export(dataset, "zip", made, overwrite=True)
    with pytest.raises(StoreError, match="cannot be written"):
        export(dataset, "zip", made / "inside.zip")
