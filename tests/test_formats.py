"""Stores that were written before are still read: one of each format, committed when it was the newest."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest

import emsynth
from emsynth import store
from emsynth.errors import StoreError

WRITTEN = {
    "format_2": "505e29fedc078b840c0289a31cfa5a52c95ec0717665ade54560d0b6cdaf9b98",
}
DATA = Path(__file__).with_name("data")


@pytest.fixture(params=sorted(WRITTEN))
def written(request, tmp_path):
    shutil.unpack_archive(DATA / f"{request.param}.zip", tmp_path / "kept.zarr")
    return request.param, tmp_path / "kept.zarr"


def test_it_is_whole(written):
    """Every checksum is right, and the digest of all of them is the one of then."""
    name, path = written
    assert store.verify(path) == []
    assert store.checksums(path)["total"] == WRITTEN[name]


def test_its_samples_and_fields_are_those_of_then(written):
    """They were made by formulas that depend on nothing but NumPy's generator."""
    _, path = written
    recipe = store.open_store(path).recipe
    for i in (0, 5, 9):
        kept, made = store.read_sample(path, i), fakes.render(recipe, i)
        for name in ("truth", "distorted", "displacement", "affine", "mask", "class_map"):
            assert np.array_equal(getattr(kept, name), getattr(made, name)), name
        assert np.array_equal(kept.columns.position, made.columns.position.astype(np.float32))
        assert (kept.split, kept.field, kept.prototype) == (made.split, made.field, made.prototype)
    assert np.array_equal(store.read_field(path, 2).image, fakes.simulate(recipe, 2).image)


def test_it_opens_and_streams(written):
    """Through xarray, as stored pairs, and distorted afresh."""
    _, path = written
    with emsynth.open_dataset(path) as data:
        batch = emsynth.stream(path, 4, split=None, fresh=False).batch(0, 0)
        assert np.array_equal(batch.truth, data.truth.values[batch.index])
    fresh = emsynth.stream(path, 4, split=None).batch(0, 0)
    assert fresh.truth.shape == (4, 16, 16)
    assert np.isfinite(fresh.distorted).all()


def test_an_older_one_is_not_gone_on_with(written):
    """What is written into it would be of another format."""
    name, path = written
    if name == f"format_{store.layout.FORMAT_VERSION}":
        pytest.skip("this is the newest format")
    with pytest.raises(StoreError, match="of format_version 2, which this emsynth reads but does not go on with"):
        emsynth.build(store.open_store(path).recipe, path, resume=True)


@pytest.mark.parametrize("version", [1, 99])
def test_an_unknown_one_is_refused(written, version):
    """With the version that wrote it."""
    _, path = written
    about = path / "zarr.json"
    about.write_text(about.read_text().replace('"format_version": ', f'"format_version": {version}0, "old": '))
    with pytest.raises(StoreError, match=rf"format_version {version}0 is unknown, this emsynth reads 2, 3; use the"):
        emsynth.stream(path)
