"""The whole chain on a real, tiny recipe: however the work is cut, the same bytes come out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray

from emsynth import builder, open_dataset, store
from emsynth.recipe import Recipe

TINY = {
    "name": "tiny", "seed": 3, "samples": 10, "fields": 2, "store": {"shard": 4},
    "image": {"size": 64, "pixel_size": {"dist": "uniform", "low": 0.1, "high": 0.2}},
    "specimen": {"kind": "crystal", "structure": {"dist": "deal", "values": ["SrTiO3", "GaN"]}, "zone_axis": [0, 0, 1],
                 "thickness": 24.0, "minimum_box": 8.0},
    "microscope": {"energy": 80e3, "convergence": 28.0, "detectors": [{"name": "HAADF", "inner": 50, "outer": 80}]},
    "simulate": {"max_angle": 80, "thicknesses": 2},
    "distort": {"scan": [{"stage": "row_jitter"}, {"stage": "hum"}, {"stage": "drift"}, {"stage": "fly_back"}],
                "detector": [{"stage": name} for name in ("poisson", "streak", "line_noise", "read_noise", "gain",
                                                          "black_level", "saturation", "quantise")]},
}


@pytest.fixture(scope="module")
def recipe():
    return Recipe.model_validate(TINY)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty field cache of its own, so that every build simulates."""
    monkeypatch.setenv("EMSYNTH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A complete data set, by one worker from an empty cache; not to be changed."""
    folder = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMSYNTH_CACHE", str(folder / "cache"))
        return builder.build(recipe, folder / "tiny.zarr", workers=1)


def test_two_workers_and_slices_make_the_same_bytes(recipe, whole, empty_cache):
    two = builder.build(recipe, empty_cache / "two.zarr", workers=2)
    assert store.checksums(two) == store.checksums(whole)
    sliced = empty_cache / "sliced.zarr"
    builder.build(recipe, sliced, workers=2, fields=range(1, 2))
    builder.build(recipe, sliced, workers=2, shards=range(1, 3))
    builder.build(recipe, sliced, workers=2, shards=range(0, 1))
    assert store.checksums(sliced) == store.checksums(whole)


def test_killed_while_it_simulates_and_resumed(recipe, whole, empty_cache):
    path = empty_cache / "killed.zarr"
    script = (f"from emsynth import builder; from emsynth.recipe import Recipe; "
              f"builder.build(Recipe.model_validate({TINY!r}), {str(path)!r}, workers=1)")
    running = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    for _ in range(1200):
        if (path / "manifest" / "field-00000.json").exists():
            break
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not store.open_store(path).complete
    builder.build(recipe, path, workers=2, resume=True)
    assert store.checksums(path) == store.checksums(whole)


def test_every_array_is_finite_and_xarray_reads_it(recipe, whole):
    """NaN is padding of the columns, and nothing else."""
    with xarray.open_zarr(whole, consolidated=False) as data:
        data = data.load()
    for name, array in data.data_vars.items():
        if array.dtype.kind != "f":
            continue
        values = array.values
        if "column" in array.dims:
            padding = np.arange(array.sizes["column"]) >= data.column_count.values[:, None]
            assert (np.isnan(values).reshape(*padding.shape, -1).all(axis=-1) == padding).all(), name
            values = values[~padding]
        assert np.isfinite(values).all(), name
    assert set(data.split.values.tolist()) == {"train", "val"}
    assert data.truth.shape == (10, 64, 64)


def test_no_prototype_is_in_two_splits(whole):
    with open_dataset(whole) as data:
        pairs = set(zip(data.prototype.values.tolist(), data.split.values.tolist(), strict=True))
    assert len(pairs) == len({prototype for prototype, _ in pairs}) == 2


def test_replay_gives_every_sample_again(recipe, whole):
    for index in range(recipe.samples):
        assert builder.replay(whole, index).same


def test_the_field_in_the_store_is_the_simulated_field(recipe, whole, monkeypatch):
    monkeypatch.setenv("EMSYNTH_CACHE", str(whole.parent / "cache"))
    from emsynth import simulate

    kept, made = store.read_field(whole, 1), simulate(recipe, 1, cache=False)
    assert kept.image.tobytes() == made.image.tobytes()
    assert kept.provenance == made.provenance
    assert kept.columns.formula == made.columns.formula


def test_columns_of_the_store_point_into_their_field(recipe, whole):
    sample = store.read_sample(whole, 0)
    field = store.read_field(whole, sample.field)
    assert (field.columns.number[sample.columns.index] == sample.columns.number).all()
